//! Owns the time of day: what databases keep leases and waits by.
//!
//! The clock of a machine jumps: it is set by hand, corrected, restored with a snapshot. What depends on it must go on
//! whatever it does, so it is passed by value and a test can make it jump. Deadlines of calls use [`std::time::Instant`],
//! which does not jump.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A clock. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct Clock {
    /// How far it is from the system's, in milliseconds.
    offset: Arc<AtomicI64>,
}

impl Clock {
    /// The clock of this machine.
    pub fn system() -> Self {
        Self { offset: Arc::new(AtomicI64::new(0)) }
    }

    /// Milliseconds since 1970.
    pub fn now(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        milliseconds(since).saturating_add(self.offset.load(Ordering::Relaxed))
    }

    /// Moves this clock, and no other, forward or back by some milliseconds.
    pub fn jump(&self, milliseconds: i64) {
        self.offset.fetch_add(milliseconds, Ordering::Relaxed);
    }
}

/// A duration in the unit of the clock.
pub(crate) fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
