//! Owns what a node does on the bus: how it is tied to it, what it serves there, and whether it is of use without.

use crate::application::Application;
use crate::pool::Pool;
use crate::server::Server;
use cleave_bus::members::Held;
use cleave_bus::nats::{Bus, BusError, Link, Settings};
use cleave_bus::service::Endpoint;
use cleave_config::{Config, Problem};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::sync::Arc;
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

/// Serves the contracts of the node's modules to whoever calls over the bus, until `stopping`.
pub async fn serve(
    bus: &Arc<Bus>,
    config: &Config,
    application: &Application,
    pools: &[Arc<Pool>],
    tasks: &TaskTracker,
    stopping: &CancellationToken,
) -> Result<(), BusError> {
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
    bus.serve(endpoints, Arc::new(server), at_once, tasks, stopping).await
}

/// Waits until the bus is there, or cannot be used.
///
/// # Errors
/// If the server takes smaller messages than calls may be.
pub async fn wait_until_up(bus: &Bus, config: &Config) -> Result<(), Problem> {
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
