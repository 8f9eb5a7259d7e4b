//! Owns the clock of a connection: when the statement at hand must stop, and why it did.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

/// Steps of SQLite's machine between two looks at the clock: about 10 to 50 µs.
pub(super) const STEPS_PER_LOOK: u32 = 1_000;

/// The clock of one connection. SQLite looks at it every [`STEPS_PER_LOOK`] steps, on the thread that runs the
/// statement, and stops when told to.
pub(super) struct Watch {
    base: Instant,
    /// Nanoseconds after `base`; the greatest number is none at all.
    deadline: AtomicU64,
    /// Looks left before a read is too long for the worker.
    looks: AtomicI64,
    stopped: AtomicU8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    No,
    Deadline,
    Steps,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            base: Instant::now(),
            deadline: AtomicU64::new(u64::MAX),
            looks: AtomicI64::new(i64::MAX),
            stopped: AtomicU8::new(Stopped::No as u8),
        }
    }

    pub(super) fn start(&self, deadline: Instant, steps: Option<u32>) {
        let nanos = deadline.saturating_duration_since(self.base).as_nanos();
        self.deadline.store(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.looks
            .store(steps.map_or(i64::MAX, |steps| i64::from(steps / STEPS_PER_LOOK)), Ordering::Relaxed);
        self.stopped.store(Stopped::No as u8, Ordering::Relaxed);
    }

    /// Why the last statement was stopped stays known.
    pub(super) fn stop(&self) {
        self.deadline.store(u64::MAX, Ordering::Relaxed);
        self.looks.store(i64::MAX, Ordering::Relaxed);
    }

    /// Whether to stop the statement.
    pub(super) fn look(&self) -> bool {
        let reason = if self.base.elapsed().as_nanos() >= u128::from(self.deadline.load(Ordering::Relaxed)) {
            Stopped::Deadline
        } else if self.looks.fetch_sub(1, Ordering::Relaxed) <= 0 {
            Stopped::Steps
        } else {
            return false;
        };
        self.stopped.store(reason as u8, Ordering::Relaxed);
        true
    }

    pub(super) fn stopped(&self) -> Stopped {
        match self.stopped.load(Ordering::Relaxed) {
            stopped if stopped == Stopped::Steps as u8 => Stopped::Steps,
            stopped if stopped == Stopped::Deadline as u8 => Stopped::Deadline,
            _ => Stopped::No,
        }
    }
}
