//! What whole-system tests stand on: the real binary as a process, nodes as values, and the arrangements that every
//! scenario runs under.
//!
//! Tests end only processes they started, by the handle they hold; each has a data folder of its own and a port that was
//! free.
// Why: everything here runs in tests, where a failed step is the test's failure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use cleave_bus::route::Route;
use cleave_host::clock::Clock;
use cleave_host::drill::Drill;
use cleave_host::host::Host;
use serde_json::Value as Json;
use std::io::{BufRead, BufReader, Read};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub use nodes::Nodes;

pub mod checker;
pub mod component;
pub mod delivery;
pub mod nats;
pub mod nodes;
pub mod postgres;
pub mod proxy;
mod routes;
pub mod walkthrough;

/// How long a test waits for something that always comes, before it fails: long, because a machine may be busy with
/// other things, and nobody waits for it where it comes.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// One way to run the same modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrangement {
    /// `calls.route`: how calls within a process go.
    pub route: Route,
    /// `modules.NAME.instances`.
    pub instances: &'static str,
    /// `modules.NAME.concurrency`, and so how many instances a pool keeps; the default if none.
    pub pool: Option<u32>,
    /// The nodes that the shop is cut into, of which the first serves HTTP; one process has it all if there are none.
    pub nodes: &'static [Node],
    /// `data.url`: what modules keep their data in.
    pub database: Database,
}

/// A database of modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    Sqlite,
    Postgres,
}

/// A node's name and the modules on it.
pub type Node = (&'static str, &'static [&'static str]);

/// A node for each module, and one that serves HTTP.
pub const EIGHT_NODES: [Node; 8] = [
    ("front", &[]),
    ("accounts", &["users"]),
    ("goods", &["catalog"]),
    ("money", &["payments"]),
    ("sales", &["orders"]),
    ("store", &["inventory"]),
    ("parcels", &["shipping"]),
    ("news", &["notifications"]),
];

/// Two nodes that both call each other's modules and their own, and send each other events.
pub const TWO_NODES: [Node; 2] = [
    ("front", &["users", "catalog", "payments", "shipping"]),
    ("sales", &["orders", "inventory", "notifications"]),
];

impl Arrangement {
    pub const fn pooled(route: Route, pool: Option<u32>) -> Self {
        Self { route, instances: "pooled", pool, nodes: &[], database: Database::Sqlite }
    }

    pub const fn fresh(route: Route) -> Self {
        Self { route, instances: "fresh", pool: None, nodes: &[], database: Database::Sqlite }
    }

    pub const fn on(self, nodes: &'static [Node]) -> Self {
        Self { nodes, ..self }
    }

    pub const fn in_postgres(self) -> Self {
        Self { database: Database::Postgres, ..self }
    }

    /// The config's table `[calls]`, to which keys may be added, below the bus if calls need it, and the address of a new
    /// database if there is one.
    pub fn calls(self) -> String {
        let data = match self.database {
            Database::Sqlite => String::new(),
            Database::Postgres => format!("[data]\nurl = \"{}\"\n", postgres::shared().new_url()),
        };
        let bus = if self.needs_bus() { data + &bus() } else { data };
        format!("{bus}[calls]\nroute = \"{}\"\n", routes::text(self.route))
    }

    /// The names of the nodes, or none for the one process that has it all.
    pub fn names(self) -> Vec<Option<&'static str>> {
        match self.nodes {
            [] => vec![None],
            nodes => nodes.iter().map(|(name, _)| Some(*name)).collect(),
        }
    }

    fn needs_bus(self) -> bool {
        self.route == Route::Remote || !self.nodes.is_empty()
    }
}

/// `[bus]` of an application that has subjects of its own at the server of all tests.
pub fn bus() -> String {
    nats::shared().bus()
}

/// `[bus]` of an application that has subjects of its own at a server.
pub fn bus_at(url: &str) -> String {
    static APPLICATIONS: AtomicU64 = AtomicU64::new(0);
    let number = APPLICATIONS.fetch_add(1, Ordering::Relaxed);
    format!("[bus]\nnats = \"{url}\"\nprefix = \"test.{number}\"\n")
}

/// One process, with data in PostgreSQL.
pub const IN_POSTGRES: Arrangement = Arrangement::pooled(Route::Local, None).in_postgres();

/// One process on each database, for what is nothing to routes and instances.
pub const ON_BOTH: [Arrangement; 2] = [Arrangement::pooled(Route::Local, None), IN_POSTGRES];

/// Every scenario runs under each of these and means the same.
pub const ARRANGEMENTS: [Arrangement; 8] = [
    Arrangement::pooled(Route::Local, None),
    Arrangement::fresh(Route::Local),
    Arrangement::pooled(Route::Loopback, None),
    Arrangement::fresh(Route::Loopback),
    Arrangement::pooled(Route::Remote, None),
    Arrangement::fresh(Route::Remote),
    IN_POSTGRES,
    Arrangement::fresh(Route::Remote).in_postgres(),
];

/// Every scenario of the shop runs under each of these and means the same.
pub const SHOP_ARRANGEMENTS: [Arrangement; 13] = [
    Arrangement::pooled(Route::Local, Some(1)),
    Arrangement::pooled(Route::Local, Some(4)),
    Arrangement::fresh(Route::Local),
    Arrangement::pooled(Route::Loopback, Some(1)),
    Arrangement::pooled(Route::Loopback, Some(4)),
    Arrangement::fresh(Route::Loopback),
    Arrangement::pooled(Route::Remote, Some(1)),
    Arrangement::pooled(Route::Remote, Some(4)),
    Arrangement::fresh(Route::Remote),
    Arrangement::pooled(Route::Local, Some(4)).on(&EIGHT_NODES),
    Arrangement::fresh(Route::Local).on(&TWO_NODES),
    Arrangement::pooled(Route::Local, Some(4)).in_postgres(),
    Arrangement::fresh(Route::Local).on(&TWO_NODES).in_postgres(),
];

/// The project's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// A module or guest that `make test` has built.
pub fn built(name: &str) -> PathBuf {
    let path = root().join("target/guest/wasm32-wasip2/module").join(format!("{name}.wasm"));
    assert!(path.exists(), "{} is missing: run `make test`, which builds it", path.display());
    path
}

/// The binary under test.
pub fn cleave() -> Command {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("cleave");
    assert!(path.exists(), "{} is missing: run `make test`, which builds it", path.display());
    let mut command = Command::new(path);
    command.env("NO_COLOR", "1");
    command
}

/// A config file in a folder of its own, removed with it.
pub struct Application {
    pub folder: tempfile::TempDir,
}

impl Application {
    pub fn new(config: &str) -> Self {
        let application = Self { folder: tempfile::tempdir().unwrap() };
        application.write(config);
        application
    }

    /// The shop under an arrangement, at a free port. Its modules are compiled once for all tests.
    pub fn shop(arrangement: Arrangement) -> Self {
        Self::new(&with_shared_cache(&shop_config(arrangement)))
    }

    pub fn write(&self, config: &str) {
        std::fs::write(self.config(), config).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("cleave.toml")
    }

    /// Runs a verb of the command line to its end.
    pub fn run(&self, verb: &str, arguments: &[&str]) -> Output {
        cleave().arg(verb).arg("--config").arg(self.config()).args(arguments).output().unwrap()
    }

    /// Starts the application as a process, and waits until it is ready.
    pub fn up(&self) -> Process {
        Process::start(cleave().arg("up").arg("--config").arg(self.config()))
    }

    /// Starts the application so that it ends by itself, as if it were killed, when it comes by a place of
    /// [`cleave_host::failpoint`] for the time that is counted.
    pub fn up_to(&self, place: &str, count: u32) -> Process {
        Process::start(&mut self.up_command(place, count))
    }

    /// As [`up_to`](Self::up_to), for an application that serves no HTTP.
    pub fn up_without_http_to(&self, place: &str, count: u32) -> Process {
        Process::start_until(&mut self.up_command(place, count), "ready; ")
    }

    fn up_command(&self, place: &str, count: u32) -> Command {
        let mut command = cleave();
        command.arg("up").arg("--config").arg(self.config()).env("FAILPOINT", format!("{place}:{count}"));
        command
    }

    /// Starts an application that serves no HTTP, and waits until it is ready.
    pub fn up_without_http(&self) -> Process {
        Process::start_until(cleave().arg("up").arg("--config").arg(self.config()), "ready; ")
    }

    /// The binary, told to start one of the application's nodes.
    pub fn node_command(&self, node: &str) -> Command {
        let mut command = cleave();
        command.args(["up", "--node", node, "--config"]).arg(self.config());
        command
    }

    /// Starts one of the application's nodes as a process, and waits until it is ready.
    pub fn up_node(&self, node: &str) -> Process {
        let serves_http = self.load_for(Some(node)).listen().is_some();
        let ready = if serves_http { "ready at " } else { "ready; " };
        Process::start_until(&mut self.node_command(node), ready)
    }

    /// Reads the config as the binary does.
    pub fn load(&self) -> cleave_config::Config {
        self.load_for(None)
    }

    /// Reads the config as the binary does for one of the nodes, or for the whole.
    pub fn load_for(&self, node: Option<&str>) -> cleave_config::Config {
        let mut sources = cleave_config::Sources::new(self.config(), self.folder.path());
        sources.node = node.map(str::to_owned);
        cleave_config::load(&sources).unwrap()
    }

    /// Runs the application as a value in this process, and waits until it is ready.
    pub async fn host(&self) -> Host {
        self.host_at(Clock::system()).await
    }

    /// As [`host`](Self::host), with a clock of its own.
    pub async fn host_at(&self, clock: Clock) -> Host {
        nodes::start(self.load(), Drill { clock, ..Drill::default() }).await
    }

    /// Runs one of the application's nodes as a value in this process, and waits until it takes calls.
    pub async fn node(&self, name: &str) -> Host {
        nodes::start(self.load_for(Some(name)), Drill::default()).await
    }

    /// Starts the application in the way of an arrangement that its config was made for: as values in this process if
    /// calls go over the bus, else as a process of its own.
    pub fn start(&self, arrangement: Arrangement) -> Running {
        if arrangement.needs_bus() {
            Running::Nodes(Nodes::start(self, arrangement))
        } else {
            Running::Process(self.up(), arrangement)
        }
    }
}

/// An application that answers over HTTP, wherever its modules run.
pub enum Running {
    Process(Process, Arrangement),
    Nodes(Nodes),
}

impl Running {
    /// Ends the application. Its calls went by the arrangement's routes and by no other, and there were some.
    pub fn end(self, application: &Application) {
        match self {
            Self::Process(_process, arrangement) => {
                let calls = arrangement.assert_routes_of_process(application, None);
                assert!(calls > 0, "there was no call under {arrangement:?}");
            }
            Self::Nodes(nodes) => nodes.end(),
        }
    }
}

impl Deref for Running {
    type Target = HttpServer;

    fn deref(&self) -> &HttpServer {
        match self {
            Self::Process(process, _) => process,
            Self::Nodes(nodes) => nodes,
        }
    }
}

/// What a process wrote, as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The shop's own config with this arrangement, data beside the file and a free port.
pub fn shop_config(arrangement: Arrangement) -> String {
    let shop = root().join("examples/ecommerce");
    let text = std::fs::read_to_string(shop.join("cleave.toml")).unwrap();
    let Arrangement { instances, pool, nodes, .. } = arrangement;
    let pool = pool.map(|pool| format!("\nconcurrency = {pool}")).unwrap_or_default();
    let listen = "listen = \"127.0.0.1:0\"";
    let mut text = text
        .replace("\"../../", &format!("\"{}/", root().display()))
        .replace("\"storefront\"", &format!("\"{}\"", shop.join("storefront").display()))
        .replace("listen = \"127.0.0.1:8080\"", if nodes.is_empty() { listen } else { "" })
        .replace("grants = [\"sql\"]", &format!("grants = [\"sql\"]\ninstances = \"{instances}\"{pool}"));
    for (place, (name, modules)) in nodes.iter().enumerate() {
        let listen = if place == 0 { listen } else { "" };
        text += &format!("\n[nodes.{name}]\nmodules = {modules:?}\n{listen}\n");
    }
    text + "\n" + &arrangement.calls()
}

/// A config of the shop whose compiled modules are kept where other tests find them.
pub fn with_shared_cache(config: &str) -> String {
    format!("{config}\n[engine]\ncache = \"{}\"\n", root().join("target/shop-cache").display())
}

/// The application as a process of its own.
pub struct Process {
    child: Child,
    server: HttpServer,
    log: Arc<(Mutex<Written>, Condvar)>,
}

/// What a process has written into its log.
#[derive(Default)]
struct Written {
    text: String,
    /// Nothing more comes.
    is_over: bool,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        Self::start_until(command, "ready at ")
    }

    /// As [`start`](Self::start), until the log holds a text.
    pub fn start_until(command: &mut Command, ready: &str) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::<(Mutex<Written>, Condvar)>::default();
        let mut stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let written = Arc::clone(&log);
        std::thread::spawn(move || {
            let (written, grown) = &*written;
            for line in stderr.lines().map_while(Result::ok) {
                written.lock().unwrap().text += &(line + "\n");
                grown.notify_all();
            }
            written.lock().unwrap().is_over = true;
            grown.notify_all();
        });
        let mut process = Self { child, server: HttpServer::default(), log };
        let ready = process.await_log(ready);
        process.server.address = ready.split_whitespace().next().unwrap_or_default().to_owned();
        process
    }

    /// Waits until the log holds a text, and gives what follows it.
    pub fn await_log(&mut self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        let (written, grown) = &*self.log;
        let mut now = written.lock().unwrap();
        loop {
            if let Some((_, rest)) = now.text.split_once(text) {
                return rest.to_owned();
            }
            let left = until.saturating_duration_since(Instant::now());
            let ended = self.child.try_wait().unwrap();
            assert!(!now.is_over && !left.is_zero(), "no `{text}` in the log ({ended:?}):\n{}", now.text);
            now = grown.wait_timeout(now, left).unwrap().0;
        }
    }

    pub fn log(&self) -> String {
        self.log.0.lock().unwrap().text.clone()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until the process has ended by itself.
    pub fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "the process does not end:\n{}", self.log());
            // Why: nothing tells of it, and who looks all the time takes the processor from it.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Asks the process to stop and waits for it.
    pub fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended()
    }

    /// Ends the process as a power cut would end its memory.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Deref for Process {
    type Target = HttpServer;

    fn deref(&self) -> &HttpServer {
        &self.server
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Something that answers over HTTP.
#[derive(Debug, Default)]
pub struct HttpServer {
    /// `http://127.0.0.1:PORT`.
    pub address: String,
}

impl HttpServer {
    pub fn get(&self, path: &str) -> Answer {
        request(&format!("{}{path}", self.address), "GET", None)
    }

    pub fn put(&self, path: &str, body: &str) -> Answer {
        request(&format!("{}{path}", self.address), "PUT", Some(body.as_bytes()))
    }

    pub fn post(&self, path: &str, body: &str) -> Answer {
        request(&format!("{}{path}", self.address), "POST", Some(body.as_bytes()))
    }
}

/// What came back over HTTP.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    /// Asserts the status, and gives the JSON if there is any.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Json {
        assert_eq!(self.status, status, "{self:?}");
        if self.body.is_empty() { Json::Null } else { self.json() }
    }

    /// Asserts that this is a problem document with this status, and that its detail holds the text.
    #[track_caller]
    pub fn expect_problem(&self, status: u16, detail: &str) {
        let problem = self.expect(status);
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        assert_eq!(problem["status"], status);
        assert!(
            problem["detail"].as_str().unwrap_or_default().contains(detail),
            "{detail:?} is not in {self:?}"
        );
        assert_eq!(problem["request_id"].as_str(), Some(self.header("x-request-id")));
    }
}

/// Sends one request with a JSON body.
pub fn request(url: &str, method: &str, body: Option<&[u8]>) -> Answer {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into();
    let builder = ureq::http::Request::builder().method(method).uri(url);
    let mut response = match body {
        Some(body) => agent.run(builder.header("content-type", "application/json").body(body).unwrap()),
        None => agent.run(builder.body(()).unwrap()),
    }
    .unwrap_or_else(|e| panic!("{method} {url}: {e}"));
    Answer {
        status: response.status().as_u16(),
        headers: response
            .headers()
            .iter()
            .map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
            .collect(),
        body: response.body_mut().read_to_string().unwrap(),
    }
}
