//! Owns what a node does on the bus: how it is tied to it, what it serves there, and whether it is of use without.

use crate::application::Application;
use crate::placement;
use crate::pool::Pool;
use crate::server::Server;
use cleave_bus::members::Held;
use cleave_bus::nats::{Bus, BusError, Link, Settings};
use cleave_bus::service::Endpoint;
use cleave_config::{Config, Problem};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The digits of a component's digest that are told.
const DIGEST_DIGITS: usize = 12;

/// Ties the node to the bus that the config names; none if it names none.
pub async fn connect(
    config: &Config,
    application: &Application,
    http: Option<SocketAddr>,
) -> Result<Option<Arc<Bus>>, BusError> {
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
        node: node_name(config),
        replica: replica(),
        cleave: env!("CARGO_PKG_VERSION").to_owned(),
        http: http.map(|address| format!("http://{address}")),
        application: config.modules.keys().map(ToString::to_string).collect(),
        keeps_data: keeps_data(config, application),
        modules: held(config, application),
    };
    Bus::connect(settings).await.map(Some)
}

/// The node's name among others; without placement, what it holds is the whole application.
pub fn node_name(config: &Config) -> String {
    config.node().map_or_else(|| "application".to_owned(), ToString::to_string)
}

/// A name that no other replica has.
fn replica() -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    id.chars().take(16).collect()
}

/// The modules of the node, as it tells others of them.
pub fn keeps_data(config: &Config, application: &Application) -> bool {
    let here = application.modules.iter().filter(|m| config.is_here(m.name.as_str()));
    here.into_iter().any(|module| placement::needs_database(config, module))
}

/// The modules that this process holds.
pub fn held(config: &Config, application: &Application) -> Vec<Held> {
    let here = application.modules.iter().filter(|m| config.is_here(m.name.as_str()));
    here.map(|module| Held {
        name: module.name.to_string(),
        digest: digest(&module.bytes),
        contracts: module.interface.exports.iter().map(|c| c.name.clone()).collect(),
    })
    .collect()
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

/// Makes the node part of the bus when that is there: sees that no other process keeps its data, and serves its modules
/// until `stopping`.
pub fn join(
    bus: &Arc<Bus>,
    config: &Config,
    application: &Application,
    pools: &[Arc<Pool>],
    tasks: &TaskTracker,
    stopping: &CancellationToken,
) -> watch::Receiver<Joined> {
    let (joined, progress) = watch::channel(Joined::NotYet);
    let offer = Offer::new(config, application, pools);
    let (bus, config) = (Arc::clone(bus), config.clone());
    let (calls, stopping) = (tasks.clone(), stopping.clone());
    tasks.spawn(async move {
        let joining = async {
            if let Err(problem) = enter(&bus, &config, offer, &calls, &stopping).await {
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
    tasks: &TaskTracker,
    stopping: &CancellationToken,
) -> Result<(), Problem> {
    wait_until_up(bus, config).await?;
    if bus.keeps_data()
        && let Some(replica) = bus.find_twin().await
    {
        return Err(taken(config, &replica));
    }
    let served = bus.serve(offer.endpoints, Arc::new(offer.server), offer.at_once, tasks, stopping).await;
    served.map_err(|e| problem(config, &e))
}

/// Waits until the bus is there, or cannot be used.
async fn wait_until_up(bus: &Bus, config: &Config) -> Result<(), Problem> {
    let mut link = bus.link();
    loop {
        match &*link.borrow_and_update() {
            Link::Up => return Ok(()),
            Link::TooSmall(max) => return Err(problem(config, &bus.too_small(*max))),
            Link::Down(_) => {}
        }
        if link.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn taken(config: &Config, replica: &str) -> Problem {
    let node = node_name(config);
    config.origin().problem_at_key(
        &["nodes", node.as_str()],
        format!("another process, {replica}, runs as node `{node}`, whose modules keep data in SQLite files of one process"),
        "stop one of the two; or give this one a `bus.prefix` of its own, if it is another application",
    )
}

/// What is wrong, at the key that leads to it, with the fix.
pub fn problem(config: &Config, error: &BusError) -> Problem {
    let (key, fix): (&[&str], _) = match error {
        BusError::Credentials { .. } => (&["bus", "credentials"], "name a credentials file that can be read"),
        BusError::Unusable { .. } => {
            (&["bus", "nats"], "correct the address, or the files that `[bus]` names")
        }
        BusError::PayloadMax { .. } => {
            (&["bus", "nats"], "raise `max_payload` of nats-server, or lower `calls.payload_max`")
        }
    };
    config.origin().problem(key, error.to_string(), fix)
}
