//! Places at which a test may end the process, to see that nothing is lost or done twice wherever it ends.
//!
//! With the feature `failpoints`, which only tests turn on, the environment variable `FAILPOINT=NAME` or
//! `FAILPOINT=NAME:COUNT` ends the process, as `kill -9` does, when it comes to that place for the first time or the one
//! that is counted. Without the feature there is nothing here.

/// Every place, in the order in which an event comes by them.
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

/// Comes by a place.
#[cfg(feature = "failpoints")]
pub fn reach(place: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    // Why a global: this ends the process, and is compiled for tests alone.
    static WANTED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
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

/// Comes by a place.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_place: &str) {}
