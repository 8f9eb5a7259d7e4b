//! What whole-system tests stand on: the real binary as a process, a node as a value, and the arrangements that every
//! scenario runs under.
//!
//! Tests end only processes they started, by the handle they hold; each has a data folder of its own and a port that was
//! free.
// Why: everything here runs in tests, where a failed step is the test's failure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::Value as Json;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub mod checker;
pub mod component;
pub mod nats;
pub mod proxy;
pub mod walkthrough;

/// How long a test waits for something that always comes, before it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One way to run the same modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrangement {
    /// `calls.route`.
    pub route: &'static str,
    /// `modules.NAME.instances`.
    pub instances: &'static str,
    /// `modules.NAME.concurrency`, and so how many instances a pool keeps; the default if none.
    pub pool: Option<u32>,
}

impl Arrangement {
    const fn pooled(route: &'static str, pool: Option<u32>) -> Self {
        Self { route, instances: "pooled", pool }
    }

    const fn fresh(route: &'static str) -> Self {
        Self { route, instances: "fresh", pool: None }
    }
}

/// Every scenario runs under each of these and means the same.
pub const ARRANGEMENTS: [Arrangement; 4] = [
    Arrangement::pooled("local", None),
    Arrangement::fresh("local"),
    Arrangement::pooled("loopback", None),
    Arrangement::fresh("loopback"),
];

/// Every scenario of the shop runs under each of these and means the same.
pub const SHOP_ARRANGEMENTS: [Arrangement; 6] = [
    Arrangement::pooled("local", Some(1)),
    Arrangement::pooled("local", Some(4)),
    Arrangement::fresh("local"),
    Arrangement::pooled("loopback", Some(1)),
    Arrangement::pooled("loopback", Some(4)),
    Arrangement::fresh("loopback"),
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

    /// Reads the config as the binary does.
    pub fn load(&self) -> cleave_config::Config {
        let sources = cleave_config::Sources::new(self.config(), self.folder.path());
        cleave_config::load(&sources).unwrap()
    }

    /// Runs the application as a value in this process.
    pub async fn host(&self) -> cleave_host::host::Host {
        match cleave_host::host::Host::start(self.load()).await {
            Ok(host) => host,
            Err(problems) => panic!("the node did not start: {:?}", miette::Report::new(problems)),
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
    let Arrangement { route, instances, pool } = arrangement;
    let pool = pool.map(|pool| format!("\nconcurrency = {pool}")).unwrap_or_default();
    text.replace("\"../../", &format!("\"{}/", root().display()))
        .replace("\"storefront\"", &format!("\"{}\"", shop.join("storefront").display()))
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("grants = [\"sql\"]", &format!("grants = [\"sql\"]\ninstances = \"{instances}\"{pool}"))
        + &format!("\n[calls]\nroute = \"{route}\"\n")
}

/// A config of the shop whose compiled modules are kept where other tests find them.
pub fn with_shared_cache(config: &str) -> String {
    format!("{config}\n[engine]\ncache = \"{}\"\n", root().join("target/shop-cache").display())
}

/// The application as a process of its own.
pub struct Process {
    child: Child,
    pub address: String,
    log: Arc<Mutex<String>>,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        Self::start_until(command, "ready at ")
    }

    fn start_until(command: &mut Command, ready: &str) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let mut stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let written = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                *written.lock().unwrap() += &(line + "\n");
            }
        });
        let mut process = Self { child, address: String::new(), log };
        let ready = process.await_log(ready);
        process.address = ready.split_whitespace().next().unwrap().to_owned();
        process
    }

    /// Waits until the log holds a text, and gives what follows it.
    pub fn await_log(&mut self, text: &str) -> String {
        let began = Instant::now();
        loop {
            if let Some((_, rest)) = self.log().split_once(text) {
                return rest.to_owned();
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < PATIENCE,
                "no `{text}` in the log ({ended:?}):\n{}",
                self.log()
            );
            std::thread::yield_now();
        }
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
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
            std::thread::yield_now();
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

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
