//! Owns the arithmetic of deadlines: one moment by which a call has its answer or has failed.

use std::time::{Duration, Instant};

/// The part of the remaining time a caller keeps for itself: at least this much.
const RESERVE_MIN: Duration = Duration::from_millis(50);
/// The part of the remaining time a caller keeps for itself: at least one part in this many.
const RESERVE_PART: u32 = 10;

/// The moment by which a call has its answer or has failed.
///
/// ```
/// use cleave_bus::deadline::Deadline;
/// use std::time::{Duration, Instant};
///
/// let now = Instant::now();
/// let caller = Deadline::after(now, Duration::from_secs(10));
/// let callee = caller.for_callee(now).min_after(now, Duration::from_secs(30));
/// assert_eq!(callee.remaining(now), Duration::from_secs(9));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline `limit` after `now`. A limit beyond what the clock can hold is taken as thirty years.
    #[must_use]
    pub fn after(now: Instant, limit: Duration) -> Self {
        const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
        Self(now.checked_add(limit).or_else(|| now.checked_add(FAR)).unwrap_or(now))
    }

    /// What a callee gets of this: what remains, less max(50 ms, 10 %).
    ///
    /// The reserve lets the caller still act on an answer that comes at the last moment. If less than the reserve
    /// remains, the callee's deadline has passed already. The callee's own limit comes on top, where it runs
    /// ([`Self::min_after`]).
    #[must_use]
    pub fn for_callee(self, now: Instant) -> Self {
        let remaining = self.remaining(now);
        let reserve = RESERVE_MIN.max(remaining / RESERVE_PART);
        Self::after(now, remaining.saturating_sub(reserve))
    }

    /// This deadline, or the one `limit` after `now` if that is earlier.
    #[must_use]
    pub fn min_after(self, now: Instant, limit: Duration) -> Self {
        self.min(Self::after(now, limit))
    }

    /// The time that is left at `now`; zero when it has passed.
    #[must_use]
    pub fn remaining(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// Whether it has passed at `now`.
    #[must_use]
    pub fn passed(self, now: Instant) -> bool {
        self.0 <= now
    }

    /// The moment itself, for timers.
    #[must_use]
    pub fn instant(self) -> Instant {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callee_gets(remaining: u64, limit: u64) -> u64 {
        let now = Instant::now();
        let caller = Deadline::after(now, Duration::from_millis(remaining));
        let callee = caller.for_callee(now).min_after(now, Duration::from_millis(limit));
        u64::try_from(callee.remaining(now).as_millis()).unwrap()
    }

    #[test]
    fn callee_gets_less_than_its_caller() {
        // (what the caller has, the callee's own limit, what the callee gets), in milliseconds
        for (remaining, limit, expected) in [
            (10_000, 5_000, 5_000),
            (10_000, 60_000, 9_000),
            (1_000, 5_000, 900),
            (200, 5_000, 150),
            (50, 5_000, 0),
            (0, 5_000, 0),
        ] {
            assert_eq!(
                callee_gets(remaining, limit),
                expected,
                "caller has {remaining} ms, callee may {limit} ms"
            );
        }
    }

    #[test]
    fn chain_of_calls_runs_out_of_time() {
        let now = Instant::now();
        let mut deadline = Deadline::after(now, Duration::from_secs(10));
        let hops = (0..1_000).take_while(|_| {
            deadline = deadline.for_callee(now);
            !deadline.passed(now)
        });
        assert!(hops.count() < 60);
    }

    #[test]
    fn endless_limit_is_a_far_deadline() {
        let now = Instant::now();
        assert!(Deadline::after(now, Duration::MAX).remaining(now) > Duration::from_secs(3600));
    }
}
