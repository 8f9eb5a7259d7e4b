//! Owns the log of the process: one subscriber, set once from config, lines on standard error.

use cleave_config::{Log, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

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
    EnvFilter::try_new(&log.filter).map_err(|e| TelemetryError::Filter(log.filter.clone(), e.to_string()))
}

/// Starts writing the log. Once for a process: a second call is an error.
pub fn init(log: &Log) -> Result<(), TelemetryError> {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(log)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let started = match log.format {
        LogFormat::Text => subscriber.with_target(false).finish().try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).finish().try_init(),
    };
    started.map_err(|e| TelemetryError::Twice(e.to_string()))
}
