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

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl Clock {
    /// The clock of this machine.
    pub fn system() -> Self {
        Self { offset: Arc::new(AtomicI64::new(0)) }
    }

    /// Milliseconds since 1970.
    pub fn now(&self) -> i64 {
        milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
            .saturating_add(self.offset.load(Ordering::Relaxed))
    }

    /// The time since 1970, as exact as the machine has it.
    pub fn since_1970(&self) -> Duration {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let offset = self.offset.load(Ordering::Relaxed);
        let jumped = Duration::from_millis(offset.unsigned_abs());
        if offset < 0 { since.saturating_sub(jumped) } else { since.saturating_add(jumped) }
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
