//! Owns what a node does on the bus: how it is tied to it, what it serves there, and whether it is of use without.

use crate::application::{Application, Module};
use crate::placement;
use crate::pool::Pool;
use crate::server::Server;
use cleave_bus::members::{Heartbeat, Held, State};
use cleave_bus::nats::{Bus, BusError, Link, Settings};
use cleave_bus::nats_stream::{self, Road, Unfit};
use cleave_bus::service::Endpoint;
use cleave_config::{Config, Problem, StreamDurability};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The pause between two looks at the road of events.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(250);
/// The digits of a component's digest that are told.
const DIGEST_DIGITS: usize = 12;

/// Ties the node to the bus that the config names; none if it names none.
pub async fn connect(config: &Config, own: Heartbeat) -> Result<Option<Arc<Bus>>, BusError> {
    let bus = &config.bus;
    let Some(servers) = &bus.nats else { return Ok(None) };
    let settings = Settings {
        servers: servers.addresses().collect(),
        shown: servers.shown(),
        user: servers.user_and_password().map(|(user, password)| (user.to_owned(), password.to_owned())),
        prefix: bus.prefix.to_string(),
        credentials: bus.credentials.clone(),
        ca: bus.ca.clone(),
        certificate: bus.certificate.clone().zip(bus.key.clone()),
        tls: servers.is_tls(),
        connect_timeout: bus.connect_timeout,
        ping_interval: bus.ping_interval,
        heartbeat: bus.heartbeat,
        silent_after: bus.silent_after,
        pending_max: bus.pending_max,
        payload_max: config.calls.payload_max,
        application: config.modules.keys().map(ToString::to_string).collect(),
        own,
    };
    Bus::connect(settings).await.map(Some)
}

/// The road of events over the bus.
pub fn road(config: &Config, bus: &Arc<Bus>) -> Option<Arc<Road>> {
    let settings = nats_stream::Settings {
        bytes_max: config.events.stream_max,
        messages_max: config.events.stream_messages_max,
        replicas: config.events.stream_replicas,
        durable: config.events.durability == StreamDurability::Full,
        monitoring: config.monitoring()?.authority(),
    };
    Some(Arc::new(Road::new(bus, settings)))
}

/// The node's name among others; without placement, what it holds is the whole application.
pub fn node_name(config: &Config) -> String {
    config.node().map_or_else(|| "application".to_owned(), ToString::to_string)
}

/// What this process says of itself when it starts.
pub fn heartbeat(config: &Config, application: &Application, http: Option<SocketAddr>) -> Heartbeat {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Heartbeat {
        node: node_name(config),
        replica: replica(),
        state: State::Starting,
        cleave: env!("CARGO_PKG_VERSION").to_owned(),
        started_unix_ms: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
        http: http.map(|address| format!("http://{address}")),
        keeps_data: application.here(config).any(|module| placement::keeps_file(config, module)),
        modules: application.here(config).map(held).collect(),
    }
}

/// A name that no other replica has.
fn replica() -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    id.chars().take(16).collect()
}

fn held(module: &Module) -> Held {
    Held {
        name: module.name.to_string(),
        digest: digest(&module.bytes),
        contracts: module.interface.exports.iter().map(|c| c.name.clone()).collect(),
    }
}

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>().chars().take(DIGEST_DIGITS).collect()
}

/// What the node serves to whoever calls over the bus.
struct Offer {
    server: Server,
    endpoints: Vec<Endpoint>,
    /// The most calls that are looked at at once.
    at_once: usize,
}

impl Offer {
    fn new(config: &Config, application: &Application, pools: &[Arc<Pool>]) -> Self {
        let mut server = Server::new(node_name(config), config.calls.payload_max, config.calls.deadline);
        let (mut endpoints, mut at_once) = (Vec::new(), 0_usize);
        for pool in pools {
            let limits = config.modules.get(pool.module());
            let takes = limits.map_or(0, |m| m.concurrency.saturating_add(m.queue));
            at_once = at_once.saturating_add(takes);
            for export in application.exports.values().filter(|e| e.module.as_str() == pool.module()) {
                server.add(&export.contract, pool);
                endpoints.extend(export.contract.functions.values().map(|function| Endpoint {
                    module: pool.module().to_owned(),
                    track: export.contract.track.clone(),
                    contract: export.contract.name.clone(),
                    function: function.name.clone(),
                    signature: function.signature(),
                }));
            }
        }
        Self { server, endpoints, at_once }
    }
}

/// How far a node has come on the bus.
#[derive(Debug, Clone)]
pub enum Joined {
    /// It is not connected yet.
    NotYet,
    /// It calls and serves.
    Yes,
    /// It cannot be part of it.
    Never(Problem),
}

/// Makes the node part of the bus when that is there: sees that no other process keeps its data, and that the road it needs
/// for events, if it does, is as config asks; then serves its modules until the bus is told to take no more calls. `calls` are those that it answers.
pub fn join(
    bus: &Arc<Bus>,
    config: &Config,
    application: &Application,
    pools: &[Arc<Pool>],
    road: Option<Arc<Road>>,
    (tasks, calls): (&TaskTracker, &TaskTracker),
    stopping: &CancellationToken,
) -> watch::Receiver<Joined> {
    let (joined, progress) = watch::channel(Joined::NotYet);
    let offer = Offer::new(config, application, pools);
    let (bus, config) = (Arc::clone(bus), config.clone());
    let (calls, stopping) = (calls.clone(), stopping.clone());
    tasks.spawn(async move {
        let joining = async {
            if let Err(problem) = enter(&bus, &config, offer, road.as_deref(), &calls).await {
                joined.send_replace(Joined::Never(problem));
                return;
            }
            joined.send_replace(Joined::Yes);
            let mut twin = bus.twin();
            if let Ok(Some(replica)) = twin.wait_for(Option::is_some).await.map(|r| r.clone()) {
                joined.send_replace(Joined::Never(taken(&config, &replica)));
            }
        };
        tokio::select! {
            () = joining => stopping.cancelled().await,
            () = stopping.cancelled() => {}
        }
    });
    progress
}

async fn enter(
    bus: &Arc<Bus>,
    config: &Config,
    offer: Offer,
    road: Option<&Road>,
    calls: &TaskTracker,
) -> Result<(), Problem> {
    wait_until_up(bus, config).await?;
    if bus.keeps_data()
        && let Some(replica) = bus.find_twin().await
    {
        return Err(taken(config, &replica));
    }
    if let Some(road) = road {
        prepare(road, bus, config).await?;
    }
    let served = bus.serve(offer.endpoints, Arc::new(offer.server), offer.at_once, calls).await;
    served.map_err(|e| problem(config, &e))
}

/// Waits until the bus is there, or cannot be used; for ever if the node leaves before.
async fn wait_until_up(bus: &Bus, config: &Config) -> Result<(), Problem> {
    let mut link = bus.link();
    let link = link.wait_for(|link| !matches!(link, Link::Down(_))).await.map(|link| link.clone());
    match link {
        Ok(Link::TooSmall(max)) => Err(problem(config, &bus.too_small(max))),
        Ok(_) => Ok(()),
        Err(_left) => std::future::pending().await,
    }
}

/// Waits until the road is there, or cannot be as config asks.
async fn prepare(road: &Road, bus: &Bus, config: &Config) -> Result<(), Problem> {
    let mut said = None;
    loop {
        match road.prepare().await {
            Ok(prepared) => return prepared.map_err(|unfit| unfit_problem(config, &unfit)),
            Err(away) => {
                if said.as_ref() != Some(&away) {
                    tracing::warn!("the road of events between nodes is not there yet: {away}");
                }
                said = Some(away);
            }
        }
        tokio::time::sleep(PAUSE).await;
        wait_until_up(bus, config).await?;
    }
}

fn unfit_problem(config: &Config, unfit: &Unfit) -> Problem {
    let relaxed = "or set `events.durability = \"relaxed\"` and lose what NATS loses with its power";
    let (key, fix): (&[&str], _) = match unfit {
        Unfit::NoJetStream(_) => {
            let fix = "add `jetstream { store_dir: \"FOLDER\", sync_interval: always }` to the server's config, or place publishers and subscribers on one node";
            (&["bus", "nats"], fix.to_owned())
        }
        Unfit::Old { .. } => (&["bus", "nats"], format!("upgrade nats-server, {relaxed}")),
        Unfit::Lazy(_) => (
            &["bus", "nats"],
            format!("set `sync_interval: always` in `jetstream` of the server's config, {relaxed}"),
        ),
        Unfit::Unseen { .. } => (
            &["bus", "monitoring"],
            format!(
                "set `http: \"127.0.0.1:8222\"` in the server's config and `bus.monitoring` to that address, {relaxed}"
            ),
        ),
        Unfit::Stream { .. } => (
            &["events"],
            "correct `events.stream_max` and `events.stream_replicas`, or what is said there of the server"
                .to_owned(),
        ),
    };
    config.origin().problem_at_key(key, unfit.to_string(), &*fix)
}

fn taken(config: &Config, replica: &str) -> Problem {
    let node = node_name(config);
    config.origin().problem_at_key(
        &["nodes", node.as_str()],
        format!("another process, {replica}, runs as node `{node}`, whose modules keep data in SQLite files of one process"),
        "stop one of the two; or give this one a `bus.prefix` of its own, if it is another application; or keep the data of these modules in PostgreSQL",
    )
}

/// What is wrong, at the key that leads to it, with the fix.
pub fn problem(config: &Config, error: &BusError) -> Problem {
    let (key, fix): (&[&str], _) = match error {
        BusError::Credentials { .. } => (&["bus", "credentials"], "name a credentials file that can be read"),
        BusError::Certificate { key: key @ "key", .. } => {
            (&["bus", *key], "name a PEM file with the private key of `bus.certificate` that can be read")
        }
        BusError::Certificate { key, .. } => {
            (&["bus", *key], "name a PEM file with certificates that can be read")
        }
        BusError::Heartbeat { .. } => (&["nodes"], "place some of its modules on another node"),
        BusError::Unusable { .. } => (&["bus", "nats"], "correct the address"),
        BusError::PayloadMax { .. } => {
            (&["bus", "nats"], "raise `max_payload` of nats-server, or lower `calls.payload_max`")
        }
    };
    config.origin().problem(key, error.to_string(), fix)
}
