//! Owns what modules write: `cleave:log`, standard output and standard error, all into the host's log.
//!
//! A module cannot flood the log, forge a line or make one endless: lines beyond a rate are dropped and counted, long
//! ones are cut, control characters are escaped. The limits are `modules.NAME.log_*`.

use super::{Shared, State};
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use wasmtime::component::{HasSelf, Linker};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};

mod generated {
    wasmtime::component::bindgen!({
        path: "../wit/cleave/log",
        inline: "package cleave:host-log; world host { import cleave:log/logger@0.1.0; }",
    });
}

use generated::cleave::log::logger::{self, Level};

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    logger::add_to_linker::<_, HasSelf<State>>(linker, |state| state)
}

impl logger::Host for State {
    fn log(&mut self, level: Level, message: String) {
        self.shared.log.line(&self.shared.module, Some(self.call.trace), level, message.as_bytes());
    }
}

/// Lets a module's lines through, within its limits.
#[derive(Debug)]
pub struct Writer {
    line_max: usize,
    lines_per_second: u32,
    second: Mutex<Second>,
}

/// The lines of the second that runs.
#[derive(Debug)]
struct Second {
    began: Instant,
    lines: u32,
    dropped: u64,
}

impl Writer {
    pub fn new(line_max: usize, lines_per_second: u32) -> Self {
        let second = Second { began: Instant::now(), lines: 0, dropped: 0 };
        Self { line_max, lines_per_second, second: Mutex::new(second) }
    }

    /// A line that a module has logged, or with no trace one of its standard output and error, where empty lines only
    /// keep others apart.
    fn line(&self, module: &str, trace: Option<u128>, level: Level, line: &[u8]) {
        if trace.is_none() && line.trim_ascii().is_empty() {
            return;
        }
        let (admitted, dropped) = self.admit(Instant::now());
        if dropped > 0 {
            tracing::warn!(target: "cleave::module", module, dropped, "log lines dropped, over `log_lines_per_second`");
        }
        if !admitted {
            return;
        }
        let text = printable(line, self.line_max);
        let trace = trace.map(|trace| tracing::field::display(format!("{trace:032x}")));
        match level {
            Level::Debug => tracing::debug!(target: "cleave::module", module, trace, "{text}"),
            Level::Info => tracing::info!(target: "cleave::module", module, trace, "{text}"),
            Level::Warn => tracing::warn!(target: "cleave::module", module, trace, "{text}"),
            Level::Error => tracing::error!(target: "cleave::module", module, trace, "{text}"),
        }
    }

    /// Whether a line may pass, and how many were dropped in the second before this one.
    fn admit(&self, now: Instant) -> (bool, u64) {
        // A count is right whatever a panicking thread left it at.
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dropped = 0;
        if now.saturating_duration_since(second.began) >= Duration::from_secs(1) {
            dropped = second.dropped;
            *second = Second { began: now, lines: 0, dropped: 0 };
        }
        if second.lines < self.lines_per_second {
            second.lines += 1;
            (true, dropped)
        } else {
            second.dropped += 1;
            (false, dropped)
        }
    }
}

/// The most bytes of a module's own reason for a failure that the host's lines show.
pub(crate) const REASON_MAX: usize = 1024;

/// A line as it may stand in a log: UTF-8, control characters escaped, at most `max` bytes of it.
pub(crate) fn printable(line: &[u8], max: usize) -> String {
    let (line, cut) = match line.get(..max) {
        Some(start) if line.len() > max => (start, true),
        _ => (line, false),
    };
    let text = String::from_utf8_lossy(line);
    let mut out = String::with_capacity(text.len());
    for c in text.trim_end_matches(['\r', '\n']).chars() {
        // Why: besides the control characters, these change the direction or the place of what is printed.
        if (c.is_control() && c != '\t') || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    if cut {
        out.push_str("… (cut)");
    }
    out
}

/// Standard output or standard error of one instance.
#[derive(Clone)]
pub struct Stream {
    shared: Arc<Shared>,
    level: Level,
    /// The start of a line whose end has not come yet; all handles of one instance write the same line.
    partial: Arc<Mutex<Vec<u8>>>,
}

impl Stream {
    pub fn out(shared: Arc<Shared>) -> Self {
        Self { shared, level: Level::Info, partial: Arc::default() }
    }

    pub fn err(shared: Arc<Shared>) -> Self {
        Self { shared, level: Level::Warn, partial: Arc::default() }
    }
}

impl IsTerminal for Stream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stream {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        // Only WASI 0.3 asks for this, which this engine does not run.
        Box::new(tokio::io::sink())
    }
}

impl OutputStream for Stream {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            // Why: a line without an end must not grow; what is past the limit would be cut anyway.
            let room = self.shared.log.line_max.saturating_add(1).saturating_sub(partial.len());
            partial.extend(piece.iter().take(room));
            if piece.ends_with(b"\n") {
                self.shared.log.line(&self.shared.module, None, self.level, &partial);
                partial.clear();
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(64 * 1024)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_forge_a_line() {
        assert_eq!(
            printable(b"ok\n2026 ERROR forged\x1b[31m\n", 100),
            "ok\\u{a}2026 ERROR forged\\u{1b}[31m"
        );
    }

    #[test]
    fn long_line_is_cut() {
        assert_eq!(printable(b"abcdef", 3), "abc… (cut)");
    }

    #[test]
    fn lines_over_the_rate_are_dropped_and_counted() {
        let writer = Writer::new(100, 2);
        let start = Instant::now();
        let passed: Vec<_> = (0..5).map(|_| writer.admit(start).0).collect();
        assert_eq!(passed, [true, true, false, false, false]);
        assert_eq!(writer.admit(start + Duration::from_secs(1)), (true, 3));
    }
}
