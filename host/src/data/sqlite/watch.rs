//! Owns the clock of a connection: when the statement at hand must stop, and why it did.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::off_worker;

/// Steps of SQLite's machine between two looks at the clock: 1 to 5 µs, unless they work on long values. A read by key
/// takes fewer.
pub(super) const STEPS_PER_LOOK: u32 = 100;

/// How long a statement may take on the async worker, however few its steps: those that work on long values take long.
const INLINE_MAX: Duration = Duration::from_millis(1);

/// How long a long write rests for another thread to take the worker's other tasks over.
const LEND: Duration = Duration::from_micros(100);

/// Where a statement runs, and so what happens when it takes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// Off the async worker: only its deadline stops it.
    Free,
    /// On the worker, for so many steps and [`INLINE_MAX`] at most; then it is stopped, to be run again off it.
    Brief(u32),
    /// On the worker, and it cannot be run again: SQLite takes the whole transaction back with a write that is stopped.
    /// Each [`INLINE_MAX`] it rests for a moment off the worker, so that another thread takes the other tasks over.
    Lending,
}

/// The clock of one connection. SQLite looks at it every [`STEPS_PER_LOOK`] steps or soon after, on the thread that
/// runs the statement, and stops when told to.
pub(super) struct Watch {
    base: Instant,
    /// Nanoseconds after `base`; the greatest number is none at all.
    deadline: AtomicU64,
    /// When the statement has been too long on the worker, likewise.
    inline_end: AtomicU64,
    /// Whether it then lends the worker, instead of being stopped.
    lending: AtomicBool,
    /// Looks left before a read is too long for the worker.
    looks: AtomicI64,
    stopped: AtomicU8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    No,
    Deadline,
    /// Too many steps or too much time for the worker.
    Long,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            base: Instant::now(),
            deadline: AtomicU64::new(u64::MAX),
            inline_end: AtomicU64::new(u64::MAX),
            lending: AtomicBool::new(false),
            looks: AtomicI64::new(i64::MAX),
            stopped: AtomicU8::new(Stopped::No as u8),
        }
    }

    pub(super) fn start(&self, deadline: Instant, pace: Pace) {
        let inline_end = || nanos(self.base.elapsed().saturating_add(INLINE_MAX));
        let (looks, inline_end) = match pace {
            Pace::Free => (i64::MAX, u64::MAX),
            Pace::Brief(steps) => (i64::from(steps / STEPS_PER_LOOK), inline_end()),
            Pace::Lending => (i64::MAX, inline_end()),
        };
        self.lending.store(pace == Pace::Lending, Ordering::Relaxed);
        self.deadline.store(nanos(deadline.saturating_duration_since(self.base)), Ordering::Relaxed);
        self.inline_end.store(inline_end, Ordering::Relaxed);
        self.looks.store(looks, Ordering::Relaxed);
        self.stopped.store(Stopped::No as u8, Ordering::Relaxed);
    }

    /// Why the last statement was stopped stays known.
    pub(super) fn stop(&self) {
        self.deadline.store(u64::MAX, Ordering::Relaxed);
        self.inline_end.store(u64::MAX, Ordering::Relaxed);
        self.looks.store(i64::MAX, Ordering::Relaxed);
    }

    /// Whether to stop the statement, as [`STEPS_PER_LOOK`] steps have gone by.
    pub(super) fn look(&self) -> bool {
        self.look_at_time() || (self.looks.fetch_sub(1, Ordering::Relaxed) <= 0 && self.tell(Stopped::Long))
    }

    /// Whether to stop the statement by its time alone.
    pub(super) fn look_at_time(&self) -> bool {
        let now = nanos(self.base.elapsed());
        if now >= self.deadline.load(Ordering::Relaxed) {
            return self.tell(Stopped::Deadline);
        }
        if now < self.inline_end.load(Ordering::Relaxed) {
            return false;
        }
        if !self.lending.load(Ordering::Relaxed) {
            return self.tell(Stopped::Long);
        }
        // Why a rest: what leaves the worker and is back at once takes it back before another thread is awake.
        off_worker(|| std::thread::sleep(LEND));
        self.inline_end.store(nanos(self.base.elapsed().saturating_add(INLINE_MAX)), Ordering::Relaxed);
        false
    }

    fn tell(&self, reason: Stopped) -> bool {
        self.stopped.store(reason as u8, Ordering::Relaxed);
        true
    }

    pub(super) fn stopped(&self) -> Stopped {
        match self.stopped.load(Ordering::Relaxed) {
            stopped if stopped == Stopped::Long as u8 => Stopped::Long,
            stopped if stopped == Stopped::Deadline as u8 => Stopped::Deadline,
            _ => Stopped::No,
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
