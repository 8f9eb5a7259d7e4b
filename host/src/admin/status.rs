//! Owns what a node tells the command line of itself and of the others it has heard of.
//!
//! It tells what it knows and judges nothing: what should run where, whoever asks reads in the config.

use crate::host::Calls;
use crate::pool::Pool;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use cleave_bus::members::{self, Heartbeat, Member};
use cleave_bus::nats::{self, Bus, Link};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

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
    /// The contracts that it reaches, here or elsewhere.
    pub traffic: Vec<Traffic>,
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

/// What has gone from one node to a contract since the start.
#[derive(Debug, Serialize, Deserialize)]
pub struct Traffic {
    /// The node that calls.
    pub node: String,
    pub contract: String,
    /// `local`, `loopback` or `remote`.
    pub route: String,
    pub calls: u64,
}

/// Where a node finds what it tells.
pub struct Source {
    own: Own,
    pools: Vec<Arc<Pool>>,
    calls: Arc<Calls>,
}

enum Own {
    /// The bus knows, because it tells the others.
    OnBus(Arc<Bus>),
    Alone(Heartbeat),
}

impl Source {
    /// Of a node that has just started; `alone` is what it says of itself if there is no bus.
    pub fn new(alone: Heartbeat, bus: Option<&Arc<Bus>>, pools: &[Arc<Pool>], calls: &Arc<Calls>) -> Self {
        let own = match bus {
            Some(bus) => Own::OnBus(Arc::clone(bus)),
            None => Own::Alone(Heartbeat { replica: String::new(), state: members::State::Up, ..alone }),
        };
        Self { own, pools: pools.to_vec(), calls: Arc::clone(calls) }
    }

    fn status(&self) -> Status {
        let (said, members, bus) = match &self.own {
            Own::OnBus(bus) => (bus.heartbeat(), bus.members.all(Instant::now()), Some(bus_status(bus))),
            Own::Alone(said) => {
                let member = Member { said: said.clone(), silent_for_ms: 0, silent: false };
                (said.clone(), vec![member], None)
            }
        };
        let pools = self.pools.iter().map(|pool| pool_status(&said.node, pool)).collect();
        let traffic = self.calls.traffic().into_iter();
        let traffic = traffic.map(|(contract, (route, calls))| Traffic {
            node: said.node.clone(),
            contract,
            route: route.to_string(),
            calls,
        });
        let traffic = traffic.collect();
        Status { node: said.node, replica: said.replica, bus, members, pools, traffic }
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
