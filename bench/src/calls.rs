//! What a call costs: through the host's edge and pool, beside bare wasmtime with the same engine and components.
//!
//! Bare is the least that isolates callee from caller: a store of its own, made before, behind a lock; dynamic values;
//! a timer for each call. What Cleave adds is what the call path promises: the deadline, admission, the payload's
//! limit, an instance from the pool, failures as values.

use crate::{median, row, shop, table};
use cleave_bus::deadline::Deadline;
use cleave_host::capability::{self, CallContext, Shared, State, log};
use cleave_host::engine::{Engine, Share};
use cleave_host::link::{self, Edge, Policy, Way};
use cleave_host::module::{self, Contract, Interface};
use cleave_host::pool::{self, Pool};
use cleave_host::server::{Connection, Server};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;
use wasmtime::Store;
use wasmtime::component::{Component, Func, Instance, Linker, Val};

pub(crate) const CALLEE: &str = "test:bench/callee@0.1.0";
const CALLER: &str = "test:bench/caller@0.1.0";
/// How long a round takes, about, and how many count for each way.
const ROUND: Duration = Duration::from_millis(60);
const ROUNDS: usize = 15;
/// What a call may take, on either side; none comes near.
const DEADLINE: Duration = Duration::from_secs(30);
const PAYLOAD_MAX: usize = 1024 * 1024;

/// Makes a number of calls, in a task of its own.
type Repeat = Box<dyn Fn(u32) -> Pin<Box<dyn Future<Output = ()> + Send>>>;

pub(crate) fn run() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bench = Bench::new().await;
        table(
            "Calls between modules, ns each",
            &["call", "Cleave", "bare wasmtime", "Cleave / bare (aim ≤ 1.2)", "Loopback"],
        );
        let add = vec![Val::U32(1), Val::U32(2)];
        let list = vec![Val::List((0..1_000).map(product).collect())];
        bench.calls_of_host("host → module, `(u32, u32) -> u32`", "add-plain", &add).await;
        bench.calls_of_host("host → module, a product", "echo-product", &[product(1)]).await;
        bench.calls_of_host("host → module, 1,000 products", "echo-products", &list).await;
        bench.calls_of_module("module → module, `(u32, u32) -> u32`", "add-plain-loop").await;
        bench.calls_of_module("module → module, a product", "product-loop").await;
        bench.calls_of_module("module → module, 10 products", "products-loop").await;
        println!("\nBare: one callee store made before, behind a lock, `Func::call_async` in `tokio::time::timeout`.");
    });
}

/// A product like those that the calling guest makes.
pub(crate) fn product(number: u64) -> Val {
    let text = |text: &str| Val::String(text.to_owned());
    Val::Record(vec![
        ("sku".to_owned(), Val::String(format!("MUG-{number:04}"))),
        ("name".to_owned(), text("A mug with a handle")),
        ("price-cents".to_owned(), Val::U64(number)),
        (
            "description".to_owned(),
            text("Holds a third of a litre, and tea stays warm in it for longer than one would think."),
        ),
    ])
}

/// Callee and caller, three times: tied by a local edge, by a loopback edge, and by bare wasmtime.
struct Bench {
    local: Ends<Edge>,
    loopback: Ends<Edge>,
    bare: Ends<Arc<Mutex<Bare>>>,
    _engine: Engine,
    /// What answers the loopback.
    _tasks: TaskTracker,
}

struct Ends<T> {
    callee: T,
    caller: T,
}

impl Bench {
    async fn new() -> Self {
        let bytes = ["bench_guest", "bench_caller"].map(|name| std::fs::read(shop::built(name)).unwrap());
        let share = Share { instances: 64, memory_max: 64 << 20 };
        let cache = tempfile::tempdir().unwrap();
        let modules = [("callee", bytes[0].as_slice(), share), ("caller", bytes[1].as_slice(), share)];
        let (engine, components) = Engine::compile(&modules, &cache.path().join("cache")).unwrap();
        let [callee, caller] = components.try_into().ok().unwrap();
        let [of_callee, of_caller] = bytes.map(|bytes| module::read(&bytes).unwrap());

        let tasks = TaskTracker::new();
        let cleave = |route: fn(Arc<Contract>, Arc<Pool>, &TaskTracker) -> Edge| {
            let callee = route(exported(&of_callee), pool(&engine, &callee, &of_callee, None), &tasks);
            let pool = pool(&engine, &caller, &of_caller, Some(&callee));
            Ends {
                caller: Edge::new(exported(&of_caller), Way::Local(pool), Policy::of_one_try(PAYLOAD_MAX)),
                callee,
            }
        };
        let local = cleave(|contract, pool, _| {
            Edge::new(contract, Way::Local(pool), Policy::of_one_try(PAYLOAD_MAX))
        });
        let loopback = cleave(|contract, pool, tasks| {
            let mut server = Server::new("bench".to_owned(), PAYLOAD_MAX, Duration::from_secs(10));
            server.add(&contract, &pool);
            Edge::new(
                contract,
                Way::Encoded(Connection::open(server, 64, tasks)),
                Policy::of_one_try(PAYLOAD_MAX),
            )
        });
        let callee =
            Bare::start(&engine, &callee, CALLEE, &["add-plain", "echo-product", "echo-products"], None)
                .await;
        let loops = ["add-plain-loop", "product-loop", "products-loop"];
        let bare =
            Ends { caller: Bare::start(&engine, &caller, CALLER, &loops, Some(&callee)).await, callee };
        Self { local, loopback, bare, _engine: engine, _tasks: tasks }
    }

    /// Calls the callee from outside, a call at a time.
    async fn calls_of_host(&self, title: &str, function: &'static str, arguments: &[Val]) {
        let cleave = |edge: &Edge| repeat(edge.clone(), function, arguments.to_vec());
        let (bare, arguments) = (Arc::clone(&self.bare.callee), arguments.to_vec());
        let bare: Repeat = Box::new(move |calls| {
            let (bare, arguments) = (Arc::clone(&bare), arguments.clone());
            Box::pin(async move {
                let mut bare = bare.lock().await;
                for _ in 0..calls {
                    let mut results = [Val::Bool(false)];
                    bare.call(function, &arguments, &mut results).await.unwrap();
                }
            })
        });
        compare(title, [cleave(&self.local.callee), bare, cleave(&self.loopback.callee)]).await;
    }

    /// Calls the caller, which calls the callee in a loop.
    async fn calls_of_module(&self, title: &str, function: &'static str) {
        let cleave = |edge: &Edge| -> Repeat {
            let edge = edge.clone();
            Box::new(move |calls| repeat(edge.clone(), function, vec![Val::U32(calls)])(1))
        };
        let bare = Arc::clone(&self.bare.caller);
        let bare: Repeat = Box::new(move |calls| {
            let bare = Arc::clone(&bare);
            Box::pin(async move {
                bare.lock().await.call(function, &[Val::U32(calls)], &mut [Val::Bool(false)]).await.unwrap();
            })
        });
        compare(title, [cleave(&self.local.caller), bare, cleave(&self.loopback.caller)]).await;
    }
}

/// Calls a function through an edge, again and again.
fn repeat(edge: Edge, function: &'static str, arguments: Vec<Val>) -> Repeat {
    Box::new(move |calls| {
        let (edge, arguments) = (edge.clone(), arguments.clone());
        Box::pin(async move {
            let function = Arc::clone(&edge.contract.functions[function]);
            let context = CallContext { deadline: Deadline::after(Instant::now(), DEADLINE), trace: 1 };
            for _ in 0..calls {
                edge.call(&function, context, &arguments).await.unwrap();
            }
        })
    })
}

/// Measures Cleave, bare and loopback in turn, and prints their medians.
async fn compare(title: &str, ways: [Repeat; 3]) {
    let round = async |way: &Repeat, calls: u32| {
        let began = Instant::now();
        // Why a task: this is where calls are made in the host, on a worker of the runtime.
        tokio::spawn(way(calls)).await.unwrap();
        began.elapsed()
    };
    let mut calls = [0; 3];
    for (calls, way) in calls.iter_mut().zip(&ways) {
        // Once to warm up, and once to see how many calls make a round.
        round(way, 100).await;
        let hundred = round(way, 100).await;
        *calls = (100 * ROUND.as_nanos() / hundred.as_nanos()).clamp(10, 1_000_000) as u32;
    }
    let mut nanos = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for ((nanos, calls), way) in nanos.iter_mut().zip(calls).zip(&ways) {
            nanos.push(round(way, calls).await.as_nanos() as f64 / f64::from(calls));
        }
    }
    let [cleave, bare, loopback] = nanos.map(median);
    let cells = [cleave, bare].map(|nanos| format!("{nanos:.0}"));
    let cells = cells.into_iter().chain([format!("**{:.2}**", cleave / bare), format!("{loopback:.0}")]);
    row(std::iter::once(title.to_owned()).chain(cells));
}

/// The one contract that a component exports.
pub(crate) fn exported(interface: &Interface) -> Arc<Contract> {
    Arc::new(interface.exports[0].clone())
}

/// A pool as the host makes it, its module's one import tied to an edge.
fn pool(engine: &Engine, component: &Component, interface: &Interface, callee: Option<&Edge>) -> Arc<Pool> {
    let mut linker: Linker<State> = Linker::new(engine.wasmtime());
    capability::add_to_linker(&mut linker).unwrap();
    if let Some(callee) = callee {
        link::link(&mut linker, &interface.imports[0], callee).unwrap();
    }
    let contract = exported(interface);
    let (_, instance) = component.get_export(None, &contract.name).unwrap();
    let exports = contract
        .functions
        .values()
        .map(|f| component.get_export(Some(&instance), &f.name).unwrap().1)
        .collect();
    let shared = Shared {
        module: contract.name.clone(),
        database: None,
        clock: cleave_host::clock::Clock::system(),
        log: log::Writer::new(8 << 10, 100),
        memory_max: 64 << 20,
        hostcall_fuel: PAYLOAD_MAX * size_of::<Val>(),
    };
    let limits = pool::Limits { concurrency: 32, queue: 256, idle_max: 32, deadline: DEADLINE };
    Arc::new(Pool::new(Arc::new(shared), linker.instantiate_pre(component).unwrap(), exports, limits))
}

/// One instance in a store of its own, without a host around it.
pub(crate) struct Bare {
    store: Store<()>,
    functions: HashMap<&'static str, Func>,
}

impl Bare {
    pub(crate) async fn start(
        engine: &Engine,
        component: &Component,
        contract: &str,
        functions: &[&'static str],
        callee: Option<&Arc<Mutex<Self>>>,
    ) -> Arc<Mutex<Self>> {
        let mut linker: Linker<()> = Linker::new(engine.wasmtime());
        if let Some(callee) = callee {
            let mut import = linker.instance(CALLEE).unwrap();
            for function in callee.lock().await.functions.keys().copied() {
                let callee = Arc::clone(callee);
                import
                    .func_new_async(function, move |_, _, arguments, results| {
                        let callee = Arc::clone(&callee);
                        Box::new(async move { callee.lock().await.call(function, arguments, results).await })
                    })
                    .unwrap();
            }
        }
        // What the guests' libraries import of WASI and never call here.
        linker.define_unknown_imports_as_traps(component).unwrap();
        let mut store = Store::new(engine.wasmtime(), ());
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let instance: Instance = linker.instantiate_async(&mut store, component).await.unwrap();
        let (_, exported) = component.get_export(None, contract).unwrap();
        let functions = functions
            .iter()
            .map(|name| {
                let (_, index) = component.get_export(Some(&exported), name).unwrap();
                (*name, instance.get_func(&mut store, index).unwrap())
            })
            .collect();
        Arc::new(Mutex::new(Self { store, functions }))
    }

    pub(crate) async fn call(
        &mut self,
        function: &str,
        arguments: &[Val],
        results: &mut [Val],
    ) -> wasmtime::Result<()> {
        let function = self.functions[function];
        self.store.set_epoch_deadline(1);
        tokio::time::timeout(DEADLINE, function.call_async(&mut self.store, arguments, results)).await?
    }
}
