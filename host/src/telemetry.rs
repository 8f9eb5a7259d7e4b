//! Owns the log of the process: one subscriber, set once from config, lines on standard error.

use cleave_config::{Log, LogFormat};
use std::io::IsTerminal;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// The most lines that wait to be written.
const LINES_MAX: usize = 10_000;

/// Why the log cannot be written as the config says.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("`{0}` is not a log filter: {1}")]
    Filter(String, String),
    #[error("the log is being written already: {0}")]
    Twice(String),
}

/// What to do about a filter that is none.
pub const FILTER_FIX: &str = "write levels and targets, as in `filter = \"info,cleave=debug\"`";

/// Reads the filter of the config.
pub fn filter(log: &Log) -> Result<EnvFilter, TelemetryError> {
    // Why: what the NATS client says of its connection the host says too, in its own words. A filter that names it wins.
    EnvFilter::try_new(format!("async_nats=warn,{}", log.filter))
        .map_err(|e| TelemetryError::Filter(log.filter.clone(), e.to_string()))
}

/// The log's writer; dropped, it writes what is left, and gives up soon if nobody reads.
#[must_use = "the log is written while this lives"]
pub struct Writing(#[allow(dead_code, reason = "its drop is what it is for")] WorkerGuard);

/// Starts writing the log. Once for a process: a second call is an error.
///
/// A thread of its own does the writing. When whoever reads standard error stalls, lines are dropped and nobody waits.
pub fn init(log: &Log) -> Result<Writing, TelemetryError> {
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX).finish(std::io::stderr());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(log)?)
        .with_writer(writer)
        // Why: a line that cannot be written would be told on standard error, which is what cannot be written to.
        .log_internal_errors(false)
        .with_ansi(ansi);
    let started = match log.format {
        LogFormat::Text => subscriber.with_target(false).finish().try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).finish().try_init(),
    };
    started.map_err(|e| TelemetryError::Twice(e.to_string()))?;
    Ok(Writing(guard))
}
