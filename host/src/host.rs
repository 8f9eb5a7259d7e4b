//! Owns a running node: builds the parts in order, and drains them in the reverse order.
//!
//! A [`Host`] is a value; several run in one process. What fails while it starts is told with the place in the config
//! that leads to it, and leaves nothing behind.

use crate::admin;
use crate::application::{Application, Module, is_named};
use crate::background::{self, Background};
use crate::bus::{self, Joined};
use crate::capability::{self, CallContext, Shared, State, log};
use crate::clock::Clock;
use crate::data::{self, DataFolder, Database};
use crate::databases::{Databases, Homes};
use crate::drill::Drill;
use crate::engine::{Engine, EngineError, Share};
use crate::http;
use crate::link::{self, Edge, Policy, Way};
use crate::module::Contract;
use crate::placement;
use crate::pool::{self, Pool};
use crate::publish::Publishing;
use crate::relay::DATABASE_PATIENCE;
use crate::server::{Connection, Server};
use crate::types::Function;
use cleave_bus::deadline::Deadline;
use cleave_bus::failure::CallError;
use cleave_bus::nats::Bus;
use cleave_bus::retry::{self, Budget};
use cleave_bus::route::{self, Colocated, Route};
use cleave_config::{CallRoute, Config, FunctionName, Instances, ModuleName, Problem, Problems};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use wasmtime::component::{Component, Linker, Val};

/// Bytes that a value takes in the host for each encoded byte, at most: a `list<u8>` is a list of whole values.
const VALUE_BYTES: usize = size_of::<Val>();
/// What calls into the host may carry beside a payload: the statement and the log line around it.
const HOSTCALL_SLACK: usize = 1024 * 1024;

/// What to do about an outbox or inbox that cannot be read.
const LEFT_OVER_FIX: &str = "see that no other program holds the database, and that its disk can be read";
/// What an event's row takes beside its parameters, at most: identity, names, key, the last error.
const EVENT_SLACK: usize = 16 * 1024;
/// The most events of one kind that [`Host::events`] gives.
const EVENTS_MAX: usize = 10_000;

/// What to do about a component that cannot be compiled.
const COMPILE_FIX: &str =
    "build the component again with `cleave build`; it may hold 4 memories and 12 tables at most";

/// A running node.
pub struct Host {
    config: Config,
    /// The modules and contracts, without the components' bytes.
    pub application: Application,
    calls: Arc<Calls>,
    pools: Vec<Arc<Pool>>,
    databases: Databases,
    /// Events that were published and that nobody handles.
    dropped: Arc<AtomicU64>,
    http_address: Option<SocketAddr>,
    /// The tie to other nodes; none without `bus.nats`.
    bus: Option<Arc<Bus>>,
    /// How far it has come there.
    joined: Option<watch::Receiver<Joined>>,
    /// Whether it is of no use before it is connected.
    needs_bus: bool,
    ready: Arc<AtomicBool>,
    /// Cancelled when nothing new is to be taken on.
    stopping: CancellationToken,
    /// The tasks of this node's own work: what came in from outside, events, schedules.
    tasks: TaskTracker,
    /// The tasks that answer calls as bytes: of modules here, and of other nodes.
    answering: TaskTracker,
    // Dropped last: the engine's clock runs and the data folder is locked until every task has ended.
    _engine: Engine,
    _folder: DataFolder,
}

/// The way into the application from outside: HTTP, the command line.
#[derive(Clone)]
pub struct Calls {
    edges: HashMap<String, Edge>,
    deadline: std::time::Duration,
    tasks: TaskTracker,
}

impl Calls {
    /// The edge to a contract, by its track.
    pub fn edge(&self, track: &str) -> Option<&Edge> {
        self.edges.get(track)
    }

    /// How many calls have gone to each contract since the start, and by which route.
    pub fn traffic(&self) -> BTreeMap<String, (Route, u64)> {
        self.edges.iter().map(|(track, edge)| (track.clone(), (edge.route(), edge.calls()))).collect()
    }

    /// Calls a function in a task of its own, so that a caller who leaves does not end it.
    pub async fn call(
        &self,
        track: &str,
        function: Arc<Function>,
        trace: u128,
        arguments: Vec<Val>,
    ) -> Result<Vec<Val>, CallError> {
        let Some(edge) = self.edges.get(track).cloned() else {
            return Err(CallError::Refused { reason: format!("`{track}` is not served here") });
        };
        let context = CallContext { deadline: Deadline::after(Instant::now(), self.deadline), trace };
        let run = self.tasks.spawn(async move { edge.call(&function, context, &arguments).await });
        run.await
            .unwrap_or_else(|e| Err(CallError::AnswerLost { reason: format!("the call's task ended: {e}") }))
    }
}

impl Host {
    /// Starts the node that the config describes.
    pub async fn start(config: Config) -> Result<Self, Problems> {
        Self::start_drilled(config, Drill::default()).await
    }

    /// Starts the node, and makes happen to it what a drill asks.
    pub async fn start_drilled(config: Config, drill: Drill) -> Result<Self, Problems> {
        let application = Application::read(&config)?;
        let one = |problem: Problem| Problems(vec![problem]);
        let at = |key: &[&str], message: String, fix: &str| one(config.origin().problem(key, message, fix));

        let folder =
            DataFolder::open(&config.data_dir()).map_err(|e| at(&["data", "dir"], e.to_string(), e.fix()))?;
        if let Some(problem) = placement::strayed_data(&config, &application) {
            return Err(one(problem));
        }
        let listener = match config.listen() {
            None => None,
            Some(address) => Some(listen(address).await.map_err(|e| {
                at(
                    &listen_key(&config),
                    format!("cannot listen at {address}: {e}"),
                    "choose an address of this machine with a free port, or stop the program that has it",
                )
            })?),
        };
        let (engine, components) = compile(&config, &application).map_err(|e| match &e {
            EngineError::Compile(module, _) => {
                at(&["modules", module, "component"], e.to_string(), COMPILE_FIX)
            }
            EngineError::Memory { module, .. } => {
                at(&["modules", module, "memory_max"], e.to_string(), "raise `memory_max` of the module")
            }
            EngineError::Cache(..) => {
                at(&["engine", "cache"], e.to_string(), "choose another folder in `engine.cache`")
            }
            _ => at(
                &["engine"],
                e.to_string(),
                "lower `modules.NAME.concurrency` or `modules.NAME.memory_max`",
            ),
        })?;

        let (tasks, answering) = (TaskTracker::new(), TaskTracker::new());
        let http_address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let own = bus::heartbeat(&config, &application, http_address);
        let bus = bus::connect(&config, own.clone()).await.map_err(|e| one(bus::problem(&config, &e)))?;
        let stopping = CancellationToken::new();
        let given_up = (stopping.clone().drop_guard(), bus.as_ref().map(|bus| bus.abandon_on_drop()));
        let mut edges = remote_edges(&config, &application, bus.as_ref(), &drill);
        let mut pools = Vec::new();
        let mut databases = Databases::new();
        let mut wakes = background::wakes(&application);
        let mut arrivals = background::arrivals(&application);
        let publishing = Publishing {
            application: &application,
            wakes: &wakes,
            payload_max: config.calls.payload_max,
            stored_max: config.data.value_max.min(config.data.result_max).saturating_sub(EVENT_SLACK),
            dropped: Arc::default(),
        };
        let mut homes = Homes::new(&config, &application, &folder);
        for (module, component) in application.here(&config).zip(components) {
            if placement::needs_database(&config, module) {
                let database = homes.open(module, &drill.clock).await.map_err(one)?;
                databases.insert(module.name.clone(), database);
            }
            let own = Own { database: databases.get(&module.name).cloned(), clock: drill.clock.clone() };
            let pool =
                new_pool(&config, module, &engine, &component, own, &edges, &publishing).map_err(|e| {
                    let message = format!("`{}` cannot be linked: {e:#}", module.name);
                    at(
                        &["modules", module.name.as_str()],
                        message,
                        "build the module again with `cleave build`",
                    )
                })?;
            serve(&config, &application, module, &pool, &answering, &drill, &mut edges);
            pools.push(pool);
        }

        let dropped = publishing.dropped;
        let unreadable = |(module, e): (ModuleName, data::SqlError)| {
            at(&["modules", module.as_str()], e.to_string(), LEFT_OVER_FIX)
        };
        background::left_over(&application, &databases, &mut wakes, &mut arrivals)
            .await
            .map_err(unreadable)?;
        let arriving = background::arriving(&config, &databases, &wakes).await.map_err(unreadable)?;
        let road = bus.as_ref().and_then(|bus| bus::road(&config, bus));
        let cut_off = arriving.iter().find(|(_, awaited)| !awaited.is_empty() && road.is_none());
        if let Some((subscriber, _)) = cut_off {
            return Err(at(
                &["modules", subscriber.as_str()],
                format!(
                    "events for `{subscriber}` are still on the road over NATS: its publisher was on another node"
                ),
                "set `bus.nats` as it was, start once more, and take it out when `cleave events` shows them as arrived",
            ));
        }
        let needed = road.clone().filter(|_| placement::needs_road(&config, &application));
        let ready = Arc::new(AtomicBool::new(false));
        let calls = Arc::new(Calls { edges, deadline: config.calls.deadline, tasks: tasks.clone() });
        let admin = admin::bind(&folder)
            .map_err(|e| at(&["data", "dir"], e.to_string(), "choose another `data.dir`"))?;
        let status = admin::status::Source::new(own, bus.as_ref(), &pools, &calls);
        let router =
            admin::router(&application, Arc::clone(&calls), &databases, &arrivals, road.as_ref(), status);
        tasks.spawn(admin::serve(admin, router, stopping.clone()));
        if let Some(listener) = listener {
            let settings = http::gateway::Settings {
                body_max: config.http.body_max,
                payload_max: config.calls.payload_max,
                body_timeout: config.http.header_timeout,
                deadline: config.calls.deadline,
                ready: Arc::clone(&ready),
                tasks: tasks.clone(),
                document: config.http.openapi.then(|| application.document.to_string().into()),
                files: config.http.files.clone(),
            };
            let routes = application
                .routes
                .iter()
                .filter_map(|route| Some((route.plan.clone(), calls.edges.get(&route.track)?.clone())))
                .collect();
            let router = http::gateway::router(routes, &settings).map_err(|message| {
                at(&["http", "routes"], message, "give each method of a path one function")
            })?;
            let limits = http::serve::Limits::of(&config);
            tasks.spawn(http::serve::serve(listener, router, limits, tasks.clone(), stopping.clone()));
        }
        // Last: what could fail has not, so what works by itself now has a host that ends it.
        given_up.0.disarm();
        given_up.1.map(DropGuard::disarm);
        let joined = bus
            .as_ref()
            .map(|b| bus::join(b, &config, &application, &pools, needed, (&tasks, &answering), &stopping));
        let work = Background {
            config: &config,
            application: &application,
            databases: &databases,
            wakes: &wakes,
            arrivals: &arrivals,
            road: road.as_ref(),
            joined: joined.as_ref(),
            arriving: &arriving,
            drill: &drill,
        };
        for pool in &pools {
            work.start(pool, &tasks, &stopping);
        }
        let needs_bus = placement::needs_bus(&config, &application);
        ready.store(!needs_bus, Ordering::Release);
        let mut application = application;
        application.document = serde_json::Value::Null;
        for module in &mut application.modules {
            module.bytes = Vec::new();
            module.interface.wit = Arc::default();
        }
        Ok(Self {
            config,
            application,
            calls,
            pools,
            databases,
            dropped,
            http_address,
            bus,
            joined,
            needs_bus,
            ready,
            stopping,
            tasks,
            answering,
            _engine: engine,
            _folder: folder,
        })
    }

    /// Waits until the node is ready: at once, unless it calls others over the bus and is no part of it yet. Once
    /// ready it stays so: when the bus is away, what is here is served as before.
    ///
    /// # Errors
    /// If it cannot be part of the bus.
    pub async fn ready(&self) -> Result<(), Problem> {
        if let Some(joined) = self.joined.clone().filter(|_| self.needs_bus) {
            after(joined, |joined| !matches!(joined, Joined::NotYet)).await?;
        }
        self.ready.store(true, Ordering::Release);
        Ok(())
    }

    /// Waits until it turns out that the node cannot go on, and says why; for ever if that never happens.
    pub async fn failed(&self) -> Problem {
        if let Some(joined) = self.joined.clone()
            && let Err(problem) = after(joined, |joined| matches!(joined, Joined::Never(_))).await
        {
            return problem;
        }
        std::future::pending().await
    }

    /// How many calls have gone to each contract since the start, and by which route.
    pub fn traffic(&self) -> BTreeMap<String, (Route, u64)> {
        self.calls.traffic()
    }

    /// The tie to other nodes, if there is one.
    pub fn bus(&self) -> Option<&Arc<Bus>> {
        self.bus.as_ref()
    }

    /// Whether it is of no use before the bus is there.
    pub fn needs_bus(&self) -> bool {
        self.needs_bus
    }

    /// The address that HTTP is served at: the one in config, with the port that was free if it says 0.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Calls a function by its name, as a caller from outside.
    pub async fn call(
        &self,
        name: &FunctionName,
        trace: u128,
        arguments: Vec<Val>,
    ) -> Result<Vec<Val>, CallError> {
        let (track, function) =
            self.application.function(name).map_err(|(reason, _)| CallError::Refused { reason })?;
        self.calls.call(track, function, trace, arguments).await
    }

    /// The pool of a module: what it does now, and what it has done since the start.
    pub fn pool(&self, module: &str) -> Option<Arc<Pool>> {
        self.pools.iter().find(|pool| pool.module() == module).cloned()
    }

    /// The database of a module, if it has one.
    pub fn database(&self, module: &str) -> Option<Database> {
        self.databases.get(module).cloned()
    }

    /// What is on its way or dead in the outbox and the inbox of a module; at most 10,000 events of each kind.
    ///
    /// # Errors
    /// [`data::SqlError`] if its database cannot tell.
    pub async fn events(&self, module: &str) -> Result<Vec<data::EventRow>, data::SqlError> {
        let Some(database) = self.databases.get(module) else { return Ok(Vec::new()) };
        let deadline = Instant::now() + DATABASE_PATIENCE;
        let mut rows = data::list(database, module, data::Kind::Open, EVENTS_MAX, deadline).await?;
        rows.extend(data::list(database, module, data::Kind::Dead, EVENTS_MAX, deadline).await?);
        Ok(rows)
    }

    /// How many events were published since the start that no module handles.
    pub fn dropped_events(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Stops taking requests, lets what runs finish, and ends. After `drain.timeout` it ends all the same; then the
    /// answer is `false`, and what still ran is lost.
    ///
    /// Why in two steps: what runs here may call others, who call modules that only this node holds.
    pub async fn drain(self) -> bool {
        self.ready.store(false, Ordering::Release);
        if let Some(bus) = &self.bus {
            bus.drain();
        }
        self.stopping.cancel();
        // A server inside the process ends when nobody can reach it any more: the way in, and the modules' imports.
        // Calls that run hold their own edges and come to their end.
        drop(self.calls);
        drop(self.pools);
        drop(self.databases);
        self.tasks.close();
        self.answering.close();
        let ended = async {
            self.tasks.wait().await;
            if let Some(bus) = &self.bus {
                bus.stop_taking();
            }
            self.answering.wait().await;
        };
        let finished = tokio::time::timeout(self.config.drain.timeout, ended).await.is_ok();
        // What ran could call others until here, and its answers are on their way.
        if let Some(bus) = self.bus {
            bus.leave().await;
        }
        finished
    }
}

/// Waits until the node has come so far on the bus.
async fn after(mut joined: watch::Receiver<Joined>, far: fn(&Joined) -> bool) -> Result<(), Problem> {
    let joined = joined.wait_for(|now| matches!(now, Joined::Never(_)) || far(now)).await;
    match joined.map(|now| now.clone()) {
        Ok(Joined::Never(problem)) => Err(problem),
        Ok(_) => Ok(()),
        // It ends when the node stops.
        Err(_ended) => std::future::pending().await,
    }
}

/// The key that says where to listen.
fn listen_key(config: &Config) -> Vec<&str> {
    match config.node() {
        Some(node) => vec!["nodes", node.as_str(), "listen"],
        None => vec!["http", "listen"],
    }
}

async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

fn compile(config: &Config, application: &Application) -> Result<(Engine, Vec<Component>), EngineError> {
    let modules: Vec<_> = application
        .here(config)
        .map(|module| {
            let limits = config.modules.get(module.name.as_str());
            let share = Share {
                instances: limits.map_or(1, |m| u32::try_from(m.concurrency).unwrap_or(u32::MAX)),
                memory_max: limits.map_or(0, |m| m.memory_max),
            };
            (module.name.as_str(), module.bytes.as_slice(), share)
        })
        .collect();
    tokio::task::block_in_place(|| Engine::compile(&modules, &config.cache_dir()))
}

/// What a module has to itself.
struct Own {
    database: Option<Database>,
    clock: Clock,
}

/// Makes the pool of a module whose callees have their edges already.
fn new_pool(
    config: &Config,
    module: &Module,
    engine: &Engine,
    component: &Component,
    own: Own,
    edges: &HashMap<String, Edge>,
    publishing: &Publishing<'_>,
) -> wasmtime::Result<Arc<Pool>> {
    let settings = config.modules.get(module.name.as_str()).cloned().unwrap_or_default();
    let mut linker: Linker<State> = Linker::new(engine.wasmtime());
    capability::add_to_linker(&mut linker)?;
    for import in &module.interface.imports {
        let edge = edges.get(&import.track).ok_or_else(|| {
            wasmtime::format_err!("`{}` has no exporter that started before it", import.name)
        })?;
        link::link(&mut linker, import, edge)?;
    }
    for import in &module.interface.publishes {
        publishing.link(&mut linker, &module.name, import)?;
    }
    let mut exports = Vec::new();
    for contract in module.interface.exported() {
        let (_, instance) = component
            .get_export(None, &contract.name)
            .ok_or_else(|| wasmtime::format_err!("`{}` is not exported", contract.name))?;
        // In the order of their places.
        for function in contract.functions.values() {
            let (_, index) = component
                .get_export(Some(&instance), &function.name)
                .ok_or_else(|| wasmtime::format_err!("`{}` is not exported", function.address))?;
            exports.push(index);
        }
    }
    let shared = Arc::new(Shared {
        module: module.name.to_string(),
        database: own.database,
        clock: own.clock,
        log: log::Writer::new(settings.log_line_max, settings.log_lines_per_second),
        memory_max: settings.memory_max,
        hostcall_fuel: hostcall_fuel(config),
    });
    let limits = pool::Limits {
        concurrency: settings.concurrency,
        queue: settings.queue,
        idle_max: match settings.instances {
            Instances::Pooled => settings.idle_max(),
            Instances::Fresh => 0,
        },
        deadline: settings.deadline,
    };
    Ok(Arc::new(Pool::new(shared, linker.instantiate_pre(component)?, exports, limits)))
}

/// What one call into the host may carry: a payload as values, or a statement with a parameter of the largest size.
fn hostcall_fuel(config: &Config) -> usize {
    let payload = config.calls.payload_max.saturating_mul(VALUE_BYTES);
    let statement = config.data.value_max.saturating_add(config.data.statement_max);
    payload.max(statement).saturating_add(HOSTCALL_SLACK)
}

/// Gives the contracts of a module that is here their edges, if they do not go over the bus.
fn serve(
    config: &Config,
    application: &Application,
    module: &Module,
    pool: &Arc<Pool>,
    tasks: &TaskTracker,
    drill: &Drill,
    edges: &mut HashMap<String, Edge>,
) {
    let exports: Vec<_> =
        application.exports.iter().filter(|(_, export)| export.module == module.name).collect();
    let way = match route::resolve(true, colocated(config)) {
        Route::Remote => return,
        Route::Local => Way::Local(Arc::clone(pool)),
        Route::Loopback => {
            let calls = &config.calls;
            let mut server = Server::new(bus::node_name(config), calls.payload_max, calls.deadline);
            exports.iter().for_each(|(_, export)| server.add(&export.contract, pool));
            let settings = config.modules.get(module.name.as_str()).cloned().unwrap_or_default();
            Way::Encoded(Connection::open(server, settings.concurrency.saturating_add(settings.queue), tasks))
        }
    };
    edges.extend(exports.into_iter().map(|(track, export)| {
        let contract = Arc::clone(&export.contract);
        (track.clone(), Edge::new(contract, way.clone(), policy(config, &export.contract, drill)))
    }));
}

/// The edges to contracts that are reached over the bus.
fn remote_edges(
    config: &Config,
    application: &Application,
    bus: Option<&Arc<Bus>>,
    drill: &Drill,
) -> HashMap<String, Edge> {
    let Some(bus) = bus else { return HashMap::new() };
    let is_remote = |module: &ModuleName| {
        route::resolve(config.is_here(module.as_str()), colocated(config)) == Route::Remote
    };
    let exports = application.exports.iter().filter(|(_, export)| is_remote(&export.module));
    exports
        .map(|(track, export)| {
            let way = Connection::over(Arc::clone(bus), export.module.to_string(), bus::node_name(config));
            let contract = Arc::clone(&export.contract);
            (track.clone(), Edge::new(contract, Way::Encoded(way), policy(config, &export.contract, drill)))
        })
        .collect()
}

/// What holds for calls of a contract.
fn policy(config: &Config, contract: &Contract, drill: &Drill) -> Policy {
    let calls = &config.calls;
    let of_contract = calls.idempotent.iter().filter(|name| is_named(contract, &name.contract));
    let limits = retry::Limits {
        retries: calls.retries,
        percent: calls.retry_percent,
        per_second: calls.retry_per_second,
    };
    Policy {
        payload_max: calls.payload_max,
        idempotent: of_contract.map(|name| name.function.clone()).collect(),
        budget: Budget::new(limits, Instant::now()),
        calls: AtomicU64::new(0),
        told: AtomicU64::new(0),
        drill: drill.clone(),
    }
}

/// How modules of one node reach each other, by config.
pub fn colocated(config: &Config) -> Colocated {
    match config.calls.route {
        CallRoute::Local => Colocated::Direct,
        CallRoute::Loopback => Colocated::Encoded,
        CallRoute::Remote => Colocated::ByBus,
    }
}
