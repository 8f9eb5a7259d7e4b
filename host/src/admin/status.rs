//! Owns what a node tells the command line of itself and of the others it has heard of.
//!
//! It tells what it knows and judges nothing: what should run where, whoever asks reads in the config.

use crate::application::Application;
use crate::bus::{held, node_name};
use crate::pool::Pool;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use cleave_bus::members::{self, Heartbeat, Member};
use cleave_bus::nats::{self, Bus, Link};
use cleave_config::Config;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What a node tells.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// The node that answers.
    pub node: String,
    /// Its replica that answers; empty without a bus, where there is no other.
    pub replica: String,
    /// Its tie to the others; none without `bus.nats`.
    pub bus: Option<BusStatus>,
    /// Itself, and every replica that it has heard of, by node and replica.
    pub members: Vec<Member>,
    /// The modules it holds.
    pub pools: Vec<PoolStatus>,
}

/// How a node is tied to the bus.
#[derive(Debug, Serialize, Deserialize)]
pub struct BusStatus {
    /// The servers, without passwords.
    pub servers: String,
    /// Whether calls go over it now.
    pub connected: bool,
    /// Why not, if they do not.
    pub why: Option<String>,
    pub counts: BusCounts,
}

/// What has happened on the bus since the start: [`nats::Counts`] at one moment.
#[derive(Debug, Serialize, Deserialize)]
pub struct BusCounts {
    pub sent: u64,
    pub served: u64,
    pub overloaded: u64,
    pub dropped: u64,
    pub slow: u64,
    pub broken: u64,
}

/// What a module does on one node now, and has done since the start.
#[derive(Debug, Serialize, Deserialize)]
pub struct PoolStatus {
    pub node: String,
    pub module: String,
    pub returned: u64,
    pub failed: u64,
    pub refused: u64,
    pub cold: u64,
    pub running: usize,
    pub waiting: usize,
}

/// Where a node finds what it tells.
pub struct Source {
    own: Own,
    pools: Vec<Arc<Pool>>,
}

enum Own {
    /// The bus knows, because it tells the others.
    OnBus(Arc<Bus>),
    Alone(Heartbeat),
}

impl Source {
    /// Of a node that has just started.
    pub fn new(
        config: &Config,
        application: &Application,
        http: Option<SocketAddr>,
        bus: Option<&Arc<Bus>>,
        pools: &[Arc<Pool>],
    ) -> Self {
        let own = bus
            .map_or_else(|| Own::Alone(alone(config, application, http)), |bus| Own::OnBus(Arc::clone(bus)));
        Self { own, pools: pools.to_vec() }
    }

    fn status(&self) -> Status {
        let (said, bus) = match &self.own {
            Own::OnBus(bus) => (bus.heartbeat(), Some(bus)),
            Own::Alone(said) => (said.clone(), None),
        };
        let (node, replica) = (said.node.clone(), said.replica.clone());
        let mut members = bus.map_or_else(Vec::new, |bus| bus.members.all(Instant::now()));
        // Why: while the bus is away, a node does not hear itself either.
        members.retain(|member| member.said.replica != replica);
        members.push(Member { said, silent_for_ms: 0, silent: false });
        members.sort_by(|a, b| (&a.said.node, &a.said.replica).cmp(&(&b.said.node, &b.said.replica)));
        let pools = self.pools.iter().map(|pool| pool_status(&node, pool)).collect();
        Status { node, replica, bus: bus.map(|bus| bus_status(bus)), members, pools }
    }
}

/// What a replica would say of itself if there were others.
fn alone(config: &Config, application: &Application, http: Option<SocketAddr>) -> Heartbeat {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Heartbeat {
        node: node_name(config),
        replica: String::new(),
        state: members::State::Up,
        cleave: env!("CARGO_PKG_VERSION").to_owned(),
        started_unix_ms: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
        http: http.map(|address| format!("http://{address}")),
        keeps_data: false,
        modules: held(config, application),
    }
}

fn bus_status(bus: &Bus) -> BusStatus {
    let why = match &*bus.link().borrow() {
        Link::Up => None,
        Link::Down(why) => Some(why.clone()),
        Link::TooSmall(max) => Some(bus.too_small(*max).to_string()),
    };
    let nats::Counts { sent, served, overloaded, dropped, slow, broken } = &bus.counts;
    let counts = BusCounts {
        sent: count(sent),
        served: count(served),
        overloaded: count(overloaded),
        dropped: count(dropped),
        slow: count(slow),
        broken: count(broken),
    };
    BusStatus { servers: bus.servers().to_owned(), connected: why.is_none(), why, counts }
}

fn pool_status(node: &str, pool: &Pool) -> PoolStatus {
    PoolStatus {
        node: node.to_owned(),
        module: pool.module().to_owned(),
        returned: count(&pool.counts.returned),
        failed: count(&pool.counts.failed),
        refused: count(&pool.counts.refused),
        cold: count(&pool.counts.cold),
        running: pool.running(),
        waiting: pool.waiting(),
    }
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

pub(super) fn router(source: Source) -> Router {
    Router::new().route("/status", post(status)).with_state(Arc::new(source))
}

async fn status(State(source): State<Arc<Source>>) -> Json<Status> {
    Json(source.status())
}
