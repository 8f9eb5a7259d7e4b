//! Owns how often calls are tried again: a [`Budget`], one for each contract that a node calls, which keeps retries a small
//! part of the calls, so that they cannot make an outage worse.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Calls and retries are counted over this time.
const WINDOW: Duration = Duration::from_secs(10);
/// The wait before the first retry; each further one waits four times as long.
const WAIT: Duration = Duration::from_millis(10);
/// The longest wait before a retry.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// How much may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most times one call is tried again.
    pub retries: u32,
    /// Retries as a part of the calls that the budget counts, in percent.
    pub percent: u32,
    /// Retries that are allowed each second whatever the number of calls.
    pub per_second: u32,
}

/// Counts calls and retries, and says whether one more retry is within the limits. Of every ten seconds.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    calls: AtomicU64,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    /// The calls that were counted before it began.
    calls_before: u64,
    retries: u64,
}

impl Budget {
    /// A budget that begins now.
    #[must_use]
    pub fn new(limits: Limits, now: Instant) -> Self {
        let window = Mutex::new(Window { began: now, calls_before: 0, retries: 0 });
        Self { limits, calls: AtomicU64::new(0), window }
    }

    /// Counts a call, which is what retries are measured by.
    pub fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one retry for a call that has been tried again `retried` times, and says how long to wait before it; `None`
    /// if there is none left. `jitter` is any number, so that callers who failed together do not come back together.
    #[must_use]
    pub fn take(&self, retried: u32, now: Instant, jitter: u64) -> Option<Duration> {
        if retried >= self.limits.retries {
            return None;
        }
        // Two numbers and a time, whole at every moment.
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = self.calls.load(Ordering::Relaxed);
        if now.saturating_duration_since(window.began) >= WINDOW {
            *window = Window { began: now, calls_before: calls, retries: 0 };
        }
        let seconds = now.saturating_duration_since(window.began).as_secs().saturating_add(1);
        let by_calls =
            calls.saturating_sub(window.calls_before).saturating_mul(self.limits.percent.into()) / 100;
        let allowed = by_calls.saturating_add(seconds.saturating_mul(self.limits.per_second.into()));
        if window.retries >= allowed {
            return None;
        }
        window.retries = window.retries.saturating_add(1);
        let wait = WAIT.saturating_mul(4_u32.saturating_pow(retried)).min(WAIT_MAX);
        // From half of it to all of it.
        let part = u32::try_from(jitter % 50).unwrap_or_default().saturating_add(50);
        Some(wait.saturating_mul(part) / 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { retries: 2, percent: 20, per_second: 10 };

    fn taken(budget: &Budget, now: Instant) -> usize {
        (0..100_000).take_while(|_| budget.take(0, now, 0).is_some()).count()
    }

    #[test]
    fn retries_stay_a_part_of_the_calls() {
        let now = Instant::now();
        let budget = Budget::new(LIMITS, now);
        (0..1_000).for_each(|_| budget.count_call());
        assert_eq!(taken(&budget, now), 200 + 10);
        assert_eq!(taken(&budget, now), 0);
        assert_eq!(taken(&budget, now + Duration::from_secs(3)), 30);
    }

    #[test]
    fn few_calls_may_be_tried_again_each_second() {
        let now = Instant::now();
        let budget = Budget::new(LIMITS, now);
        assert_eq!(taken(&budget, now), 10);
        let later = now + WINDOW;
        assert_eq!(taken(&budget, later), 10, "a new window begins");
    }

    #[test]
    fn calls_of_the_past_do_not_pay_for_retries_of_now() {
        let now = Instant::now();
        let budget = Budget::new(LIMITS, now);
        (0..1_000_000).for_each(|_| budget.count_call());
        assert_eq!(taken(&budget, now + WINDOW), 10);
    }

    #[test]
    fn one_call_is_tried_again_only_so_often_and_later_each_time() {
        let now = Instant::now();
        let budget = Budget::new(LIMITS, now);
        assert_eq!(budget.take(0, now, 49), Some(Duration::from_micros(9_900)));
        assert_eq!(budget.take(1, now, 0), Some(Duration::from_millis(20)));
        assert_eq!(budget.take(2, now, 0), None);
    }
}
