//! What a call to another node costs over NATS, beside a bare request of the same client through the same server.
//!
//! Both sides are arranged alike: who asks is a task of this process, who answers is a process of its own with as many
//! threads, and the server is one more. *Bare* sends as many bytes as the call's arguments take and gets them back; it looks at
//! none of them. *The same work* is bare with what no call of a module can leave out: values become bytes and values again
//! on both sides, and a task of its own calls the module in bare wasmtime. What is left between that and Cleave is what
//! the call path promises: envelope, deadlines, limits, admission, failures as values.

use crate::calls::{Bare, CALLEE, exported, product};
use crate::growth::rename;
use crate::nats::NatsServer;
use crate::shop::{self, Process};
use crate::{median, row, table};
use async_nats::Client;
use cleave_bus::deadline::Deadline;
use cleave_config::Sources;
use cleave_host::capability::CallContext;
use cleave_host::engine::{Engine, Share};
use cleave_host::host::Host;
use cleave_host::link::{Edge, Policy, Way};
use cleave_host::module::{self, Contract};
use cleave_host::server::Connection;
use cleave_host::types::Function;
use cleave_host::values;
use futures_util::StreamExt as _;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use wasmtime::component::Val;

/// The hidden verb of this binary that answers bare requests, followed by the server's URL.
pub(crate) const RESPONDER: &str = "native-responder";
/// Where it answers with what it gets, and below what it calls the module's function of that name.
const ECHO: &str = "bare.echo";
const WORK: &str = "bare.work";
/// The instances that it keeps: as many as a module has by default.
const INSTANCES: usize = 32;

const ROUND: Duration = Duration::from_millis(200);
const ROUNDS: usize = 9;
const IN_FLIGHT: usize = 64;
/// How long nobody calls while it is measured what the nodes do by themselves.
const REST: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);
/// What a call may take; none comes near.
const DEADLINE: Duration = Duration::from_secs(10);
const PAYLOAD_MAX: usize = 1000 * 1024;
/// Text of a product or bytes of a list of products, about.
const PAYLOADS: [usize; 4] = [1 << 10, 10 << 10, 100 << 10, 900 << 10];
const MODULES: [usize; 3] = [7, 21, 70];
const NODES: [usize; 3] = [2, 4, 8];

/// Makes one call.
type Call = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

pub(crate) fn run() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = NatsServer::start();
        let responder = std::env::current_exe().unwrap();
        let responder = Process::start(Command::new(responder).args([RESPONDER, &server.url]));
        let client = async_nats::connect(&server.url).await.unwrap();
        beside_bare(&server, &responder, &client).await;
        growth(&server, &client, &MODULES.map(|modules| (modules, 2)), "modules").await;
        growth(&server, &client, &NODES.map(|nodes| (1, nodes)), "nodes").await;
    });
}

/// The calls of the other benchmarks, and calls that carry more and more.
async fn beside_bare(server: &NatsServer, responder: &Process, client: &Client) {
    let nodes = Nodes::start(&server.url, "beside", 1, 2).await;
    let bench = Bench { server, responder, client, nodes };
    let products = |count: u64| Val::List((0..count).map(product).collect());
    let mut cases = vec![
        ("`(u32, u32) -> u32`".to_owned(), "add-plain", vec![Val::U32(1), Val::U32(2)]),
        ("a product".to_owned(), "echo-product", vec![product(1)]),
        ("10 products".to_owned(), "echo-products", vec![products(10)]),
    ];
    for bytes in PAYLOADS {
        cases.push((
            format!("a product with a text of {} KiB", bytes >> 10),
            "echo-product",
            vec![text(bytes)],
        ));
    }
    let each = bench.nodes.encoded("echo-products", &[products(1_000)]).len() / 1_000;
    for bytes in PAYLOADS.into_iter().filter(|bytes| *bytes >= 10 * each) {
        let count = (bytes / each) as u64;
        cases.push((format!("{count} products"), "echo-products", vec![products(count)]));
    }
    let mut rows = Vec::new();
    for (title, function, arguments) in cases {
        rows.push(bench.compare(title, function, arguments).await);
    }
    let (latencies, rates): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    table(
        "A call to another node, one at a time, p50 µs",
        &[
            "call",
            "bytes there",
            "bare request",
            "and the same work",
            "Cleave",
            "Cleave / bare (aim ≤ 1.15)",
            "Cleave / the same work",
        ],
    );
    latencies.into_iter().for_each(row);
    table(
        &format!("Calls to another node each second, {IN_FLIGHT} in flight"),
        &[
            "call",
            "bare request",
            "and the same work",
            "Cleave",
            "Cleave / bare (aim ≥ 80 %)",
            "Cleave / the same work",
            "CPU of a bare request, µs: who asks + server + who answers",
            "of the same work",
            "of Cleave",
        ],
    );
    rates.into_iter().for_each(row);
}

/// The bare way and Cleave's through one server.
struct Bench<'a> {
    server: &'a NatsServer,
    responder: &'a Process,
    client: &'a Client,
    nodes: Nodes,
}

impl Bench<'_> {
    /// Measures the sides in turn; gives the rows of latencies and of rates.
    async fn compare(
        &self,
        title: String,
        function: &str,
        arguments: Vec<Val>,
    ) -> (Vec<String>, Vec<String>) {
        let arguments = Arc::new(arguments);
        let there = self.nodes.encoded(function, &arguments);
        let bytes = there.len();
        let sides = [
            bare(self.client, there),
            same_work(self.client, &self.nodes.edges[0].contract, function, &arguments),
            self.nodes.call(1, function, &arguments),
        ];
        let (mut latencies, mut rates) = ([const { Vec::new() }; 3], [const { Vec::new() }; 3]);
        let (mut ticks, mut calls) = ([[0; 3]; 3], [0; 3]);
        for round in 0..=ROUNDS {
            for (at, call) in sides.iter().enumerate() {
                let latency = latency(call).await;
                let before = self.ticks();
                let (count, rate) = rate(call).await;
                // The first is to warm up.
                if round > 0 {
                    latencies[at].push(latency.as_nanos() as f64 / 1_000.0);
                    rates[at].push(rate);
                    calls[at] += count;
                    let spent = self.ticks().into_iter().zip(before).map(|(after, before)| after - before);
                    ticks[at].iter_mut().zip(spent).for_each(|(sum, ticks)| *sum += ticks);
                }
            }
        }
        let [bare, same, cleave] = latencies.map(median);
        let mut of_latency = vec![title.clone(), bytes.to_string()];
        of_latency.extend([bare, same, cleave].map(|micros| format!("{micros:.0}")));
        of_latency.extend([format!("**{:.2}**", cleave / bare), format!("{:.2}", cleave / same)]);
        let [bare, same, cleave] = rates.map(median);
        let mut of_rate = vec![title];
        of_rate.extend([bare, same, cleave].map(|rate| format!("{rate:.0}")));
        of_rate.extend([
            format!("**{:.0} %**", 100.0 * cleave / bare),
            format!("{:.0} %", 100.0 * cleave / same),
        ]);
        of_rate.extend(ticks.iter().zip(calls).map(|(ticks, calls)| {
            // A tick is the 100th part of a second.
            let [asks, server, answers] =
                ticks.map(|ticks| format!("{:.0}", ticks as f64 * 10_000.0 / calls as f64));
            format!("{asks} + {server} + {answers}")
        }));
        (of_latency, of_rate)
    }

    /// What has been run so far by who asks, by the server, and by both who answer.
    fn ticks(&self) -> [u64; 3] {
        let answers = self.responder.ticks() + self.nodes.backs[0].ticks();
        let of = |process| shop::user_and_system_ticks_of(process).iter().sum();
        [of(std::process::id()), of(self.server.id()), answers]
    }
}

/// Measures arrangements of so many modules and nodes in turn, and what they do when nobody calls.
async fn growth(server: &NatsServer, client: &Client, arrangements: &[(usize, usize)], of: &str) {
    let mut all = Vec::new();
    for (modules, nodes) in arrangements {
        all.push(Nodes::start(&server.url, &format!("{of}-{modules}-{nodes}"), *modules, *nodes).await);
    }
    let resting: Vec<_> = all.iter().map(Nodes::run_nanos).collect();
    tokio::time::sleep(REST).await;
    let resting: Vec<_> = all.iter().zip(resting).map(|(nodes, before)| run_since(nodes, &before)).collect();
    let arguments = Arc::new(vec![product(1)]);
    let mut ways = vec![bare(client, all[0].encoded("echo-product", &arguments))];
    for nodes in &all {
        ways.extend([1, nodes.edges.len()].map(|among| nodes.call(among, "echo-product", &arguments)));
    }
    let mut measured = vec![(Vec::new(), Vec::new()); ways.len()];
    for round in 0..=ROUNDS {
        for (way, (latencies, rates)) in ways.iter().zip(&mut measured) {
            let (latency, (_, rate)) = (latency(way).await, rate(way).await);
            if round > 0 {
                latencies.push(latency.as_micros());
                rates.push(rate);
            }
        }
    }
    let measured: Vec<_> = measured
        .into_iter()
        .map(|(latencies, rates)| [median(latencies).to_string(), format!("{:.0}", median(rates))])
        .collect();
    table(
        &format!("What more {of} cost: a product there and back"),
        &[
            "modules",
            "nodes",
            "one module, p50 µs",
            "all in turn",
            "one module, calls/s, 64 in flight",
            "all in turn",
            "resident of a node that answers, MiB",
            "CPU of it at rest, µs each second",
        ],
    );
    let [latency, rate] = measured[0].clone();
    row(["bare request".to_owned(), String::new(), latency, String::new(), rate]
        .into_iter()
        .chain([const { String::new() }; 3]));
    for (at, ((modules, count), nodes)) in arrangements.iter().zip(&all).enumerate() {
        let [[latency, rate], [latency_of_all, rate_of_all]] =
            [1, 2].map(|way| measured[2 * at + way].clone());
        let answering = nodes.backs.len() as f64;
        let resident: u64 = nodes.backs.iter().map(Process::resident).sum();
        row([
            modules.to_string(),
            count.to_string(),
            latency,
            latency_of_all,
            rate,
            rate_of_all,
            format!("{:.1}", resident as f64 / 1024.0 / answering),
            format!("{:.0}", resting[at] as f64 / 1_000.0 / REST.as_secs_f64() / answering),
        ]);
    }
}

/// How long the nodes that answer have run since, in nanoseconds, without threads that have ended.
fn run_since(nodes: &Nodes, before: &BTreeMap<PathBuf, u64>) -> u64 {
    nodes.run_nanos().iter().map(|(thread, nanos)| nanos - before.get(thread).unwrap_or(&0)).sum()
}

/// The median of calls that are made one at a time.
async fn latency(call: &Call) -> Duration {
    let call = Arc::clone(call);
    // Why a task: this is where calls are made in the host, on a worker of the runtime.
    let calls = tokio::spawn(async move {
        let (began, mut took) = (Instant::now(), Vec::new());
        while began.elapsed() < ROUND {
            let sent = Instant::now();
            call().await;
            took.push(sent.elapsed());
        }
        median(took)
    });
    calls.await.unwrap()
}

/// How many calls are made while as many as may are in flight, in all and each second.
async fn rate(call: &Call) -> (u64, f64) {
    let (began, mut callers) = (Instant::now(), JoinSet::new());
    for _ in 0..IN_FLIGHT {
        let call = Arc::clone(call);
        callers.spawn(async move {
            let mut calls = 0;
            while began.elapsed() < ROUND {
                call().await;
                calls += 1;
            }
            calls
        });
    }
    let calls = callers.join_all().await.into_iter().sum();
    (calls, calls as f64 / began.elapsed().as_secs_f64())
}

/// A request of these bytes, which come back.
fn bare(client: &Client, payload: Vec<u8>) -> Call {
    let (client, payload) = (client.clone(), bytes::Bytes::from(payload));
    Arc::new(move || {
        let (client, payload) = (client.clone(), payload.clone());
        Box::pin(async move {
            let length = payload.len();
            let answer = client.request(ECHO, payload).await.unwrap();
            assert_eq!(answer.payload.len(), length);
        })
    })
}

/// A request of these arguments to one who calls the module.
fn same_work(client: &Client, contract: &Arc<Contract>, function: &str, arguments: &Arc<Vec<Val>>) -> Call {
    let function = Arc::clone(&contract.functions[function]);
    let (client, arguments, subject) =
        (client.clone(), Arc::clone(arguments), format!("{WORK}.{}", function.name));
    Arc::new(move || {
        let (client, subject) = (client.clone(), subject.clone());
        let (function, arguments) = (Arc::clone(&function), Arc::clone(&arguments));
        Box::pin(async move {
            let answer = client.request(subject, encoded(&function, &arguments).into()).await.unwrap();
            values::decode(function.result.iter(), &answer.payload).unwrap();
        })
    })
}

fn encoded(function: &Function, arguments: &[Val]) -> Vec<u8> {
    values::encode(function.parameters.iter().map(|p| &p.ty).zip(arguments)).unwrap()
}

/// Answers bare requests for ever.
#[tokio::main]
pub(crate) async fn responder(url: &str) {
    let component = std::fs::read(shop::built("bench_guest")).unwrap();
    let contract = exported(&module::read(&component).unwrap());
    let cache = tempfile::tempdir().unwrap();
    let share = Share { instances: INSTANCES as u32, memory_max: 64 << 20 };
    let modules = [("callee", component.as_slice(), share)];
    let (engine, components) = Engine::compile(&modules, &cache.path().join("cache")).unwrap();
    let functions = ["add-plain", "echo-product", "echo-products"];
    let mut instances = Vec::new();
    for _ in 0..INSTANCES {
        instances.push(Bare::start(&engine, &components[0], CALLEE, &functions, None).await);
    }
    let client = async_nats::connect(url).await.unwrap();
    let mut work = client.subscribe(format!("{WORK}.*")).await.unwrap();
    let mut echo = client.subscribe(ECHO).await.unwrap();
    client.flush().await.unwrap();
    eprintln!("ready at {url}");
    let working = client.clone();
    tokio::spawn(async move {
        for number in 0.. {
            let request = work.next().await.unwrap();
            let name = request.subject.rsplit_once('.').unwrap().1;
            let (function, client) = (Arc::clone(&contract.functions[name]), working.clone());
            let instance = Arc::clone(&instances[number % INSTANCES]);
            tokio::spawn(async move {
                let result = worked(&function, &instance, &request.payload).await;
                client.publish(request.reply.unwrap(), result.into()).await.unwrap();
            });
        }
    });
    // Why a task: the main one is not on a worker of the runtime, and every message would wake another thread.
    let echoing = tokio::spawn(async move {
        while let Some(request) = echo.next().await {
            client.publish(request.reply.unwrap(), request.payload).await.unwrap();
        }
    });
    echoing.await.unwrap();
}

/// Calls the module with arguments that are bytes, and makes its result bytes.
async fn worked(function: &Function, instance: &Mutex<Bare>, arguments: &[u8]) -> Vec<u8> {
    let arguments = values::decode(function.parameters.iter().map(|p| &p.ty), arguments).unwrap();
    let mut results = [Val::Bool(false)];
    instance.lock().await.call(&function.name, &arguments, &mut results).await.unwrap();
    values::encode(function.result.iter().zip(&results)).unwrap()
}

/// One node that calls, in this process, and those that hold the modules that it calls, each in its own.
struct Nodes {
    backs: Vec<Process>,
    /// To each of the modules.
    edges: Vec<Edge>,
    _front: Host,
    _folder: TempDir,
}

impl Nodes {
    /// Starts nodes that hear nobody but each other.
    async fn start(url: &str, prefix: &str, modules: usize, nodes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut text = format!(
            "[bus]\nnats = \"{url}\"\nprefix = \"{prefix}\"\n[data]\ndir = \"data\"\n[engine]\ncache = \"cache\"\n[nodes.front]\n"
        );
        for module in 0..modules {
            let component = copy(folder.path(), module);
            write!(text, "[modules.{}]\ncomponent = \"{component}\"\n", name(module)).unwrap();
        }
        let held: Vec<_> = (0..modules).map(|module| format!("\"{}\"", name(module))).collect();
        for node in 1..nodes {
            let held = held.join(", ");
            write!(text, "[nodes.back-{node}]\nlisten = \"127.0.0.1:0\"\nmodules = [{held}]\n").unwrap();
        }
        let config = folder.path().join("cleave.toml");
        std::fs::write(&config, &text).unwrap();
        let up = |node| Process::start(shop::up(&config).args(["--node", &format!("back-{node}")]));
        let backs: Vec<_> = (1..nodes).map(up).collect();
        let sources =
            Sources { node: Some("front".to_owned()), ..Sources::new("cleave.toml", folder.path()) };
        let front = Host::start(cleave_config::parse(&text, &sources).unwrap()).await;
        let front = front.unwrap_or_else(|problems| panic!("the node did not start: {problems:?}"));
        let bus = front.bus().unwrap();
        let edges = front.application.exports.values().map(|export| {
            let way = Connection::over(Arc::clone(bus), export.module.to_string(), "front".to_owned());
            Edge::new(Arc::clone(&export.contract), Way::Encoded(way), Policy::of_one_try(PAYLOAD_MAX))
        });
        let nodes = Self { backs, edges: edges.collect(), _front: front, _folder: folder };
        nodes.await_all().await;
        nodes
    }

    /// Waits until everybody knows everybody, and every module answers.
    async fn await_all(&self) {
        let (began, members) = (Instant::now(), &self._front.bus().unwrap().members);
        let add = [Val::U32(1), Val::U32(2)];
        for edge in &self.edges {
            while members.all(Instant::now()).len() <= self.backs.len()
                || call(edge, "add-plain", &add).await.is_err()
            {
                assert!(began.elapsed() < PATIENCE, "the nodes do not find each other");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Calls a function of the first of the modules, `among` of them in turn.
    fn call(&self, among: usize, function: &str, arguments: &Arc<Vec<Val>>) -> Call {
        let edges: Arc<[(Edge, Arc<Function>)]> = self.edges[..among]
            .iter()
            .map(|edge| (edge.clone(), Arc::clone(&edge.contract.functions[function])))
            .collect();
        let (turn, arguments) = (Arc::new(AtomicUsize::new(0)), Arc::clone(arguments));
        Arc::new(move || {
            let (edges, arguments) = (Arc::clone(&edges), Arc::clone(&arguments));
            let turn = turn.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                let (edge, function) = &edges[turn % edges.len()];
                edge.call(function, context(), &arguments).await.unwrap();
            })
        })
    }

    fn encoded(&self, function: &str, arguments: &[Val]) -> Vec<u8> {
        encoded(&self.edges[0].contract.functions[function], arguments)
    }

    /// How long each thread of the nodes that answer has run.
    fn run_nanos(&self) -> BTreeMap<PathBuf, u64> {
        self.backs.iter().flat_map(Process::run_nanos).collect()
    }
}

async fn call(
    edge: &Edge,
    function: &str,
    arguments: &[Val],
) -> Result<Vec<Val>, cleave_bus::failure::CallError> {
    edge.call(&edge.contract.functions[function], context(), arguments).await
}

fn context() -> CallContext {
    CallContext { deadline: Deadline::after(Instant::now(), DEADLINE), trace: 1 }
}

fn name(module: usize) -> String {
    format!("callee-{module:02}")
}

/// Writes the callee with a contract that no other copy has; where it is.
fn copy(folder: &Path, module: usize) -> String {
    let mut component = std::fs::read(shop::built("bench_guest")).unwrap();
    rename(&mut component, "test:", &format!("te{module:02}:"));
    let path = folder.join(format!("{}.wasm", name(module)));
    std::fs::write(&path, component).unwrap();
    path.display().to_string()
}

/// A product whose description is so long.
fn text(bytes: usize) -> Val {
    let Val::Record(mut fields) = product(1) else { unreachable!("a product is a record") };
    fields.last_mut().unwrap().1 = Val::String("t".repeat(bytes));
    Val::Record(fields)
}
