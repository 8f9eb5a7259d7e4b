//! Places at which a test may end the process, to see that nothing is lost or done twice wherever it ends.
//!
//! The environment variable `FAILPOINT=NAME` or `FAILPOINT=NAME:COUNT` ends the process, as `kill -9` does, when it comes
//! to that place for the first time or the one that is counted. What is tested is what is shipped, so the places are in
//! every build; without the variable each costs a look at a value that does not change.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every place within a node, in the order in which an event comes by them.
pub const ALL: [&str; 13] = [
    "publish.enlisted",
    "publish.committed",
    "relay.read",
    "relay.received",
    "relay.durable",
    "relay.removed",
    "delivery.taken",
    "handler.began",
    "handler.wrote",
    "handler.closed",
    "delivery.handled",
    "delivery.marked",
    "delivery.committed",
];

/// The places that only an event on the road between nodes comes by, after it was put there.
pub const OF_THE_ROAD: [&str; 2] = ["ingest.received", "ingest.durable"];

/// The place to end at, and how often the process comes by it before.
// Why a global: it is of the process, like the variable, and ends it.
static WANTED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();

/// Comes by a place.
pub fn reach(place: &str) {
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("FAILPOINT").ok()?;
        let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), AtomicU64::new(count.parse().unwrap_or(1))))
    });
    if let Some((name, left)) = wanted
        && name == place
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}
