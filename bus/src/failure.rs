//! Owns what can go wrong between a caller and its callee, apart from what the callee answers.
//!
//! The one question that matters to a caller is whether the call may have run. Each case of [`CallError`] has one
//! answer to it, and [`CallError::may_have_run`] gives it.

use std::time::Duration;

/// A call that brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// As many calls wait for the module as may.
    #[error(
        "module `{module}` runs as many calls as it may, and {waiting} wait, as many as `modules.{module}.queue` allows"
    )]
    QueueFull {
        /// The callee's module.
        module: String,
        /// The limit that was reached.
        waiting: usize,
    },
    /// The deadline passed before the call was started.
    #[error("the deadline passed before `{function}` could start")]
    Expired {
        /// The function that was not called.
        function: String,
    },
    /// The arguments are larger than the limit.
    #[error("the arguments of `{function}` take {size} bytes, more than the {limit} of `calls.payload_max`")]
    ArgumentsTooLarge {
        /// The function that was not called.
        function: String,
        /// Their encoded size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The callee could not be given an instance.
    #[error("module `{module}` could not be instantiated: {reason}")]
    NoInstance {
        /// The callee's module.
        module: String,
        /// What the engine says.
        reason: String,
    },
    /// The callee's node refused the call before it ran.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// Nobody took the call: no replica is there, or the one that was asked does not serve it now.
    #[error("{reason}")]
    TurnedAway {
        /// Why.
        reason: String,
    },
    /// The callee trapped: its code failed, or it broke a limit.
    #[error("`{function}` trapped: {reason}")]
    Trapped {
        /// The function that trapped.
        function: String,
        /// What the engine says.
        reason: String,
    },
    /// The deadline passed while the callee ran.
    #[error("`{function}` did not answer within {} ms", limit.as_micros().div_ceil(1000))]
    TimedOut {
        /// The function that ran.
        function: String,
        /// The time it had.
        limit: Duration,
    },
    /// The callee ran and its result is larger than the limit.
    #[error("the result of `{function}` takes {size} bytes, more than the {limit} of `calls.payload_max`")]
    ResultTooLarge {
        /// The function that ran.
        function: String,
        /// Its encoded size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The callee's node tells that the call failed and may have run: it trapped, or ran out of time.
    #[error("{reason}")]
    CalleeFailed {
        /// What it says.
        reason: String,
    },
    /// The call was handed over and the answer never came or cannot be read.
    #[error("{reason}")]
    AnswerLost {
        /// How.
        reason: String,
    },
}

impl CallError {
    /// Whether the call may have run, in part or whole. If not, repeating it is safe.
    #[must_use]
    pub fn may_have_run(&self) -> bool {
        match self {
            Self::QueueFull { .. }
            | Self::Expired { .. }
            | Self::ArgumentsTooLarge { .. }
            | Self::NoInstance { .. }
            | Self::Refused { .. }
            | Self::TurnedAway { .. } => false,
            Self::Trapped { .. }
            | Self::TimedOut { .. }
            | Self::ResultTooLarge { .. }
            | Self::CalleeFailed { .. }
            | Self::AnswerLost { .. } => true,
        }
    }

    /// Whether to call again may help and does no harm. A callee that failed by itself would fail again; one whose answer
    /// was lost on the way is called again only if its function is `idempotent`.
    #[must_use]
    pub fn is_worth_another_try(&self, idempotent: bool) -> bool {
        match self {
            Self::TurnedAway { .. } => true,
            Self::AnswerLost { .. } => idempotent,
            _ => false,
        }
    }
}
