//! Owns what a test may ask of a node that no config asks: what the guarantees allow, and what a good day never shows.
//!
//! Calls that may run twice do, events come twice, answers are lost, and what has no promised order comes in another. A
//! program that relies on the guarantees alone does the same under all of it. What is tested is what is shipped, so this
//! is in every build; a node that nobody drills pays for looks at values that do not change.

use crate::clock::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What happens to a node on purpose: by default, nothing.
#[derive(Debug, Clone, Default)]
pub struct Drill {
    /// What time it is there, to modules and to databases that have no clock of their own.
    pub clock: Clock,
    /// A call of a function that `calls.idempotent` lists runs twice, every event is carried twice, and every handler runs
    /// twice: the first time in vain.
    pub twice: bool,
    /// The name of the function of which every second call that has run is said to have brought no answer.
    pub loses_answers_of: Option<&'static str>,
    /// In which order events are handled, as far as no order is promised.
    pub disorder: Option<Disorder>,
}

impl Drill {
    /// How often what may happen more than once happens.
    pub(crate) fn times(&self) -> u32 {
        if self.twice { 2 } else { 1 }
    }

    /// Whether an event that is due is left for a later look.
    pub(crate) fn passes_over(&self) -> bool {
        self.disorder.as_ref().is_some_and(Disorder::passes_over)
    }
}

/// An order that a seed chooses: at each look, events are passed over by chance. Clones share their chances.
#[derive(Debug, Clone)]
pub struct Disorder(Arc<AtomicU64>);

impl Disorder {
    /// The order that a seed chooses, as far as looks come in the same order.
    pub fn of(seed: u64) -> Self {
        // Why: a step of xorshift stays at 0 for ever.
        Self(Arc::new(AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)))
    }

    /// Three times of four.
    fn passes_over(&self) -> bool {
        let step = |mut chance: u64| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^ (chance << 17)
        };
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |chance| Some(step(chance)));
        !before.unwrap_or_default().is_multiple_of(4)
    }
}

#[cfg(test)]
mod tests {
    use super::Disorder;

    #[test]
    fn disorder_passes_over_and_lets_through() {
        for seed in 0..20 {
            let disorder = Disorder::of(seed);
            let passed = (0..1_000).filter(|_| disorder.passes_over()).count();
            assert!((600..900).contains(&passed), "{seed}: {passed} of 1000");
        }
    }
}
