//! The tree of everything that can be configured: meaning, unit, range and default of every key.
//!
//! Plain data. A default stands in `Default`, a form with its range at its field; nothing here reads, checks or
//! resolves. The doc comment of a field is also its description in the schema that editors show.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bus::{Monitoring, NatsServers};
use crate::database::{Database, SchemaPrefix};
use crate::form::{Address, FilePath, Form, Line, List, Map, Maybe, Period, Size, Whole};
use crate::http::{FilesPath, HttpRoute, RouteKey, ShortOrLong};
use crate::names::{ContractName, FunctionName, ModuleName, NodeName, SubjectPrefix, TaskName};
use crate::origin::Origin;
use crate::read::{choice, choices, table, tables};
use crate::units::{DAY, GIB, HOUR, KIB, MIB, MINUTE};

/// One application: what is in `cleave.toml`, with environment and flags laid over it.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "cleave.toml")]
pub struct Config {
    /// `[application]`: what the application is called, and where its contracts are written down.
    #[serde(deserialize_with = "table")]
    pub application: Application,
    /// `[http]`: what the application answers over HTTP.
    #[serde(deserialize_with = "table")]
    pub http: Http,
    /// `[calls]`: the rules of every call.
    #[serde(deserialize_with = "table")]
    pub calls: Calls,
    /// `[bus]`: how nodes reach each other.
    #[serde(deserialize_with = "table")]
    pub bus: Bus,
    /// `[data]`: where modules keep their data.
    #[serde(deserialize_with = "table")]
    pub data: Data,
    /// `[events]`: how events are carried and handled.
    #[serde(deserialize_with = "table")]
    pub events: Events,
    /// `[engine]`: how components are compiled.
    #[serde(deserialize_with = "table")]
    pub engine: Engine,
    /// `[log]`: what the host writes about itself.
    #[serde(deserialize_with = "table")]
    pub log: Log,
    /// `[drain]`: how the process ends.
    #[serde(deserialize_with = "table")]
    pub drain: Drain,
    /// `[modules.NAME]`: the modules of the application.
    #[serde(deserialize_with = "tables")]
    pub modules: BTreeMap<ModuleName, Module>,
    /// `[nodes.NAME]`: the processes that the application is spread over. None by default: one process has it all.
    #[serde(deserialize_with = "tables")]
    pub nodes: BTreeMap<NodeName, Node>,
    /// The node this was loaded for, one of `nodes`.
    #[serde(skip)]
    pub(crate) node: Option<NodeName>,
    #[serde(skip)]
    pub(crate) origin: Origin,
}

impl Config {
    /// Where the values come from, to point at one that turns out to be wrong later.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// `[application]`: what the application is called, and where its contracts are written down.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Application {
    /// The title of the application's OpenAPI document. Default `"application"`.
    #[serde(with = "Line")]
    pub name: String,
    /// The version of the application's HTTP API, as its OpenAPI document tells it. Default `"0.1.0"`.
    #[serde(with = "Line")]
    pub version: String,
    /// The folder of the application's WIT, a folder in it for each package, at any depth: what is written there about
    /// contracts goes into the OpenAPI document, and a contract that a module exports otherwise is an error. Absent by
    /// default: the document has the types alone.
    #[serde(with = "Maybe::<FilePath>")]
    pub wit: Option<PathBuf>,
}

impl Default for Application {
    fn default() -> Self {
        Self { name: "application".to_owned(), version: "0.1.0".to_owned(), wit: None }
    }
}

/// `[http]`: what the application answers over HTTP.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// The address to listen at. Absent by default: no HTTP. With nodes, each has its own instead.
    // Read it by `Config::listen`.
    #[serde(with = "Maybe::<Address>")]
    pub listen: Option<SocketAddr>,
    /// The longest a client may take to send the head of a request, to send its body after that, and to take some of
    /// what is written to it. Default 10s, at most 1h.
    #[serde(with = "Period::<1, HOUR>")]
    pub header_timeout: Duration,
    /// The largest body of a request, in bytes. Default 1MiB, at most 1GiB.
    #[serde(with = "Size::<1, GIB>")]
    pub body_max: usize,
    /// The most connections open at once. Default 1024, at most 1000000.
    #[serde(with = "Whole::<1, 1_000_000>")]
    pub connections_max: usize,
    /// Whether `GET /openapi.json` describes the routes. Default true.
    pub openapi: bool,
    /// `"METHOD /path" = "namespace:package/interface.function"`. None by default.
    #[serde(with = "Map::<RouteKey, ShortOrLong>")]
    pub routes: BTreeMap<RouteKey, HttpRoute>,
    /// `"/path" = "folder"`: files that are served as they are, below the path; `index.html` stands for its folder. A
    /// route goes before a file, and the longest path first. None by default.
    #[serde(with = "Map::<FilesPath, FilePath>")]
    pub files: BTreeMap<FilesPath, PathBuf>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: None,
            header_timeout: Duration::from_secs(10),
            body_max: mib(1),
            connections_max: 1024,
            openapi: true,
            routes: BTreeMap::new(),
            files: BTreeMap::new(),
        }
    }
}

/// `[calls]`: the rules of every call.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Calls {
    /// The largest encoded size of the arguments, and of the result, of one call, in bytes; the same whether
    /// the call is encoded or not. A NATS server takes messages of 1MiB unless it is told otherwise (`max_payload`), and a
    /// call has an envelope of 4KiB at most. Default 1000KiB, at most 1GiB.
    #[serde(with = "Size::<1, GIB>")]
    pub payload_max: usize,
    /// The deadline of a call that enters from outside. Default 10s, from 100ms (of which the callee has half) to 1d.
    #[serde(with = "Period::<100, DAY>")]
    pub deadline: Duration,
    /// The road that calls between modules of this process take. Default `"local"`.
    #[serde(deserialize_with = "choice")]
    pub route: CallRoute,
    /// Functions that may be called again although the call may have run, as `"shop:catalog/products.get"`; without a
    /// version, those of every version. None by default.
    pub idempotent: BTreeSet<FunctionName>,
    /// The most times one call is tried again. Default 2, at most 10.
    #[serde(with = "Whole::<0, 10>")]
    pub retries: u32,
    /// The most calls of one contract that are tried again, in percent of the calls of that contract; `retry_per_second`
    /// comes on top. Default 20, at most 100.
    #[serde(with = "Whole::<0, 100>")]
    pub retry_percent: u32,
    /// The most calls of one contract that are tried again each second beyond `retry_percent`. Default 10, at most 10000.
    #[serde(with = "Whole::<0, 10_000>")]
    pub retry_per_second: u32,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            payload_max: kib(1000),
            deadline: Duration::from_secs(10),
            route: CallRoute::Local,
            idempotent: BTreeSet::new(),
            retries: 2,
            retry_percent: 20,
            retry_per_second: 10,
        }
    }
}

/// The road that calls between modules of one process take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CallRoute {
    /// Values are handed over as they are.
    Local,
    /// Values are encoded and decoded as if they crossed a network: for tests.
    Loopback,
    /// By way of NATS, even to a module of the same node: for tests.
    Remote,
}

/// `[bus]`: how nodes reach each other.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bus {
    /// The NATS servers: `"nats://host:4222"`, or `tls://` for a connection that must be encrypted, with
    /// `user:password@` before the host where they ask for it; several of one cluster with commas between. Without a
    /// port, 4222. Absent by default: no bus.
    pub nats: Option<NatsServers>,
    /// The first part of every subject: 1 to 8 words of a-z, 0-9, `_` and `-` with dots between, at most 64 characters.
    /// Applications that share NATS servers have different ones. Default `"cleave"`.
    pub prefix: SubjectPrefix,
    /// Where the NATS server that a node is connected to tells how it is set: `"http://host:port"`, as the server's own
    /// setting `http` says. Absent by default: the first host of `nats`, at port 8222.
    pub monitoring: Option<Monitoring>,
    /// The NATS credentials file (`.creds`) of this application. Absent by default.
    #[serde(with = "Maybe::<FilePath>")]
    pub credentials: Option<PathBuf>,
    /// A PEM file of root certificates that are trusted in place of the system's. Absent by default.
    #[serde(with = "Maybe::<FilePath>")]
    pub ca: Option<PathBuf>,
    /// The PEM file of the certificate that this application shows to the servers; it goes with `key`. Absent by
    /// default.
    #[serde(with = "Maybe::<FilePath>")]
    pub certificate: Option<PathBuf>,
    /// The PEM file of the private key of `certificate`. Absent by default.
    #[serde(with = "Maybe::<FilePath>")]
    pub key: Option<PathBuf>,
    /// The longest one attempt to connect may take. Default 1s, from 100ms to 1m.
    #[serde(with = "Period::<100, MINUTE>")]
    pub connect_timeout: Duration,
    /// How often a silent connection is asked whether it lives; after three questions without an answer it is made
    /// anew. Default 2s, from 100ms to 10m.
    #[serde(with = "Period::<100, { 10 * MINUTE }>")]
    pub ping_interval: Duration,
    /// How often a node says that it lives. Default 1s, from 100ms to 1m.
    #[serde(with = "Period::<100, MINUTE>")]
    pub heartbeat: Duration,
    /// A node that was not heard of for so long gets no calls; at least twice `heartbeat`. Default 4s, from 500ms to
    /// 10m.
    #[serde(with = "Period::<500, { 10 * MINUTE }>")]
    pub silent_after: Duration,
    /// The most calls of this node that wait for answers over the bus at once. Default 65536, at most 1000000.
    #[serde(with = "Whole::<1, 1_000_000>")]
    pub pending_max: usize,
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            nats: None,
            prefix: SubjectPrefix::default(),
            monitoring: None,
            credentials: None,
            ca: None,
            certificate: None,
            key: None,
            connect_timeout: Duration::from_secs(1),
            ping_interval: Duration::from_secs(2),
            heartbeat: Duration::from_secs(1),
            silent_after: Duration::from_secs(4),
            pending_max: 65_536,
        }
    }
}

/// `[data]`: where modules keep their data.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// The folder of everything this process keeps; with nodes, the folder that each has its own in. Default `data`.
    // Read it by `Config::data_dir`.
    #[serde(with = "FilePath")]
    pub dir: PathBuf,
    /// The database of every module that names no other: `"sqlite"`, a file for each module in `dir`; or
    /// `"postgres://user:password@host:5432/database"`, with `?sslmode=` at the end if need be, where each module has a
    /// schema and a login role of its own, which the user makes. Default `"sqlite"`.
    pub url: Database,
    /// In PostgreSQL, how the names of schemas and roles begin: 1 to 16 of a-z, 0-9 and `_`, a letter first, and not
    /// `pg_`. Applications that share a database have different ones. Default `"cleave"`.
    pub prefix: SchemaPrefix,
    /// Connections that read, for each module. Default 4, at most 64.
    #[serde(with = "Whole::<1, 64>")]
    pub readers: usize,
    /// In PostgreSQL, connections for transactions and statements that write, for each module; two more are the host's.
    /// A SQLite file has one. Default 4, at most 64.
    #[serde(with = "Whole::<1, 64>")]
    pub writers: usize,
    /// The most rows one statement may return. Default 10000, at most 1000000.
    #[serde(with = "Whole::<1, 1_000_000>")]
    pub rows_max: usize,
    /// The most bytes one statement may return. Default 8MiB, at most 1GiB.
    #[serde(with = "Size::<1, GIB>")]
    pub result_max: usize,
    /// The longest statement, in bytes. Default 64KiB, at most 1MiB.
    #[serde(with = "Size::<1, MIB>")]
    pub statement_max: usize,
    /// The largest text or blob, and the largest row that is stored, in bytes. Default 4MiB, at most 1GiB.
    #[serde(with = "Size::<1, GIB>")]
    pub value_max: usize,
    /// The most bytes of one module's SQLite file, without its log. Default 16GiB, from 1MiB to 1024GiB.
    #[serde(with = "Size::<{ MIB }, { 1024 * GIB }>")]
    pub database_max: usize,
    /// The longest a statement waits for another program that has the SQLite file locked. Default 1s, at most 1h.
    #[serde(with = "Period::<0, HOUR>")]
    pub lock_wait: Duration,
    /// What an acknowledged commit survives, in SQLite; what it survives in PostgreSQL is the server's to say, by its
    /// `fsync` and `synchronous_commit`. Default `"full"`.
    #[serde(deserialize_with = "choice")]
    pub durability: Durability,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("data"),
            url: Database::Sqlite,
            prefix: SchemaPrefix::default(),
            readers: 4,
            writers: 4,
            rows_max: 10_000,
            result_max: mib(8),
            statement_max: kib(64),
            value_max: mib(4),
            database_max: mib(16 * 1024),
            lock_wait: Duration::from_secs(1),
            durability: Durability::Full,
        }
    }
}

/// What a commit survives once it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// The loss of power: it is acknowledged only when it is on the disk.
    Full,
    /// `kill -9` of the process, not the loss of power: nothing is synced at a commit.
    Process,
}

/// `[events]`: how events are carried and handled.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Events {
    /// How long an event waits after each attempt that failed; the last one repeats. Default 1s, 5s, 30s, 2m, 10m; 1
    /// to 20 durations, each from 1ms to 1d.
    #[serde(with = "List::<Period<1, DAY>, 20>")]
    pub backoff: Vec<Duration>,
    /// The trap or missed deadline that makes an event a dead letter. Default 6, at most 1000.
    #[serde(with = "Whole::<1, 1000>")]
    pub attempts_max: u32,
    /// How long after its first attempt an event may still be answered with `retry`; then it is a dead letter. Default
    /// 24h, from 0s to 365d.
    #[serde(with = "Period::<0, { 365 * DAY }>")]
    pub give_up_after: Duration,
    /// How long a subscriber remembers that it has handled an event, so as not to handle it again; about 250 bytes an
    /// event. Default 1d, from 1m to 365d.
    #[serde(with = "Period::<MINUTE, { 365 * DAY }>")]
    pub remember: Duration,
    /// How long the lease of a relay or of a deliverer lasts without being renewed. Default 10s, from 1s to 1h.
    #[serde(with = "Period::<1_000, HOUR>")]
    pub lease: Duration,
    /// How often each module's outbox and inbox are looked at when nothing has called for it. Default 1s, from 10ms to
    /// 1m.
    #[serde(with = "Period::<10, MINUTE>")]
    pub poll: Duration,
    /// The most events that are carried, or taken up for handling, at a time. Default 256, at most 10000.
    #[serde(with = "Whole::<1, 10_000>")]
    pub batch: usize,
    /// Event contracts that more than one module may publish. None by default.
    pub shared: BTreeSet<ContractName>,
    /// What an event survives that is between two nodes, in the stream of NATS. Default `"full"`.
    #[serde(deserialize_with = "choice")]
    pub durability: StreamDurability,
    /// The most bytes of events that NATS keeps between nodes; more wait at their publishers. Default 256MiB, from 1MiB to
    /// 1024GiB.
    #[serde(with = "Size::<{ MIB }, { 1024 * GIB }>")]
    pub stream_max: usize,
    /// The most messages from one publisher to one subscriber that NATS keeps, each of up to `batch` events. Default
    /// 64, at most 1000000.
    #[serde(with = "Whole::<1, 1_000_000>")]
    pub stream_messages_max: usize,
    /// The servers of a NATS cluster that each keep the stream: 1, 3 or 5. Default 1.
    #[serde(with = "Whole::<1, 5>")]
    pub stream_replicas: usize,
}

/// What an event survives that is in the stream of NATS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StreamDurability {
    /// The loss of power: a node starts only if NATS writes to the disk before it acknowledges.
    Full,
    /// What the NATS servers are set to: by default, events that they have acknowledged in the last two minutes may be
    /// lost with their power.
    Relaxed,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            backoff: [1, 5, 30, 120, 600].map(Duration::from_secs).to_vec(),
            attempts_max: 6,
            give_up_after: Duration::from_secs(24 * 60 * 60),
            remember: Duration::from_secs(24 * 60 * 60),
            lease: Duration::from_secs(10),
            poll: Duration::from_secs(1),
            batch: 256,
            shared: BTreeSet::new(),
            durability: StreamDurability::Full,
            stream_max: mib(256),
            stream_messages_max: 64,
            stream_replicas: 1,
        }
    }
}

/// `[engine]`: how components are compiled.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// The largest component file that is compiled, in bytes. Default 64MiB, at most 1GiB.
    #[serde(with = "Size::<1, GIB>")]
    pub component_max: usize,
    /// The folder of compiled components. Absent by default: `cache` in the folder that the process keeps
    /// everything in.
    // Read it by `Config::cache_dir`.
    #[serde(with = "Maybe::<FilePath>")]
    pub cache: Option<PathBuf>,
}

impl Default for Engine {
    fn default() -> Self {
        Self { component_max: mib(64), cache: None }
    }
}

/// `[log]`: what the host writes about itself.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What is written, as a filter of the `tracing` crates such as `"info,cleave=debug"`. Default `"info"`.
    pub filter: String,
    /// How it is written. Default `"text"`.
    #[serde(deserialize_with = "choice")]
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[drain]`: how the process ends.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// The longest to wait for calls that run when the process is asked to end; 0s waits for none. Default
    /// 30s, at most 1h.
    #[serde(with = "Period::<0, HOUR>")]
    pub timeout: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30) }
    }
}

/// `[modules.NAME]`: one module.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["component"]))]
pub struct Module {
    /// The component file. Required.
    // Empty only in `Module::default()`.
    #[serde(with = "FilePath")]
    pub component: PathBuf,
    /// The shell command that makes the component, run in the folder of the file. None by default.
    pub build: Option<String>,
    /// The folder of migrations. None by default.
    #[serde(with = "Maybe::<FilePath>")]
    pub migrations: Option<PathBuf>,
    /// The database of this module alone, written as `data.url`. None by default: `data.url`.
    // Read it by `Config::database_of`.
    pub url: Option<Database>,
    /// The host interfaces the module may import. None by default.
    #[serde(deserialize_with = "choices")]
    pub grants: BTreeSet<Grant>,
    /// The most calls that run at once. Default 32, at most 4096.
    #[serde(with = "Whole::<1, 4096>")]
    pub concurrency: usize,
    /// The most calls that wait; one more is refused. Default 256, at most 65536.
    #[serde(with = "Whole::<0, 65_536>")]
    pub queue: usize,
    /// The longest a call of this module may run. Default 5s, at most 1d.
    #[serde(with = "Period::<1, DAY>")]
    pub deadline: Duration,
    /// The most linear memory of one instance, in bytes. Default 64MiB, from 64KiB (a page) to 4GiB.
    #[serde(with = "Size::<{ 64 * KIB }, { 4 * GIB }>")]
    pub memory_max: usize,
    /// Whether an instance serves more than one call. Default `"pooled"`.
    #[serde(deserialize_with = "choice")]
    pub instances: Instances,
    /// The most instances kept ready between calls. Absent by default: as many as `concurrency`, and never more. At most
    /// 4096.
    // Read it by `Module::idle_max`.
    #[serde(with = "Maybe::<Whole<0, 4096>>")]
    pub idle_max: Option<usize>,
    /// The longest line the module may log, in bytes; the rest is cut. Default 8KiB, at most 1MiB.
    #[serde(with = "Size::<1, MIB>")]
    pub log_line_max: usize,
    /// The most lines the module may log each second; the rest is dropped and counted. Default 100, at most
    /// 1000000.
    #[serde(with = "Whole::<1, 1_000_000>")]
    pub log_lines_per_second: u32,
    /// `[modules.NAME.schedule.TASK]`: what the module does by the clock. Nothing by default.
    #[serde(deserialize_with = "tables")]
    pub schedule: BTreeMap<TaskName, Schedule>,
}

impl Default for Module {
    fn default() -> Self {
        Self {
            component: PathBuf::new(),
            build: None,
            migrations: None,
            url: None,
            grants: BTreeSet::new(),
            concurrency: 32,
            queue: 256,
            deadline: Duration::from_secs(5),
            memory_max: mib(64),
            instances: Instances::Pooled,
            idle_max: None,
            log_line_max: kib(8),
            log_lines_per_second: 100,
            schedule: BTreeMap::new(),
        }
    }
}

/// `[modules.NAME.schedule.TASK]`: a task of a module that exports `cleave:schedule/task`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["every"]))]
pub struct Schedule {
    /// From one tick to the next. Required, from 10ms to 365d.
    // Zero only in `Schedule::default()`.
    #[serde(with = "Period::<10, { 365 * DAY }>")]
    pub every: Duration,
}

impl Module {
    /// The most instances kept ready between calls: `idle_max`, and never more than run at once.
    pub fn idle_max(&self) -> usize {
        self.idle_max.map_or(self.concurrency, |idle| idle.min(self.concurrency))
    }
}

/// A host interface that a module may import only if it is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Grant {
    /// `cleave:sql`: a database of its own.
    Sql,
}

impl std::fmt::Display for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sql => "sql",
        })
    }
}

/// Whether an instance serves more than one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Instances {
    /// An instance is used again, for one call at a time.
    Pooled,
    /// A new instance for each call.
    Fresh,
}

/// `[nodes.NAME]`: a process that runs some of the modules, started by `cleave up --node NAME`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// The modules that run on this node; each module runs on one node at least. None by default: a node may serve HTTP
    /// alone.
    pub modules: BTreeSet<ModuleName>,
    /// The address to listen at. Absent by default: this node serves no HTTP.
    // Read it by `Config::listen`.
    #[serde(with = "Maybe::<Address>")]
    pub listen: Option<SocketAddr>,
    /// The folder of everything this node keeps, its own alone. Absent by default: the folder NAME in `data.dir`.
    // Read it by `Config::data_dir`.
    #[serde(with = "Maybe::<FilePath>")]
    pub data: Option<PathBuf>,
}

const fn mib(count: usize) -> usize {
    count * 1024 * 1024
}

const fn kib(count: usize) -> usize {
    count * 1024
}
