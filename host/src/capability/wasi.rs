//! Owns WASI 0.2 as modules have it: clocks and random numbers, output to the log, and nothing else.
//!
//! The interfaces for files, environment and sockets are there, because a language's standard library imports them
//! whether it uses them or not; there is nothing behind them: no variable, no argument, no folder, no address.

use super::{Shared, State};
use crate::capability::log::Stream;
use crate::clock::Clock;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::Linker;
use wasmtime_wasi::{HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

/// The most random bytes of one call.
const RANDOM_MAX: u64 = 64 * 1024;

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

pub(super) fn nothing_granted(shared: &Arc<Shared>) -> WasiCtx {
    WasiCtxBuilder::new()
        .wall_clock(shared.clock.clone())
        .stdout(Stream::out(Arc::clone(shared)))
        .stderr(Stream::err(Arc::clone(shared)))
        .max_random_size(RANDOM_MAX)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .build()
}

/// The time of day is the node's.
impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        self.since_1970()
    }
}

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)
}

/// Whether the host has a WASI interface, given with its version.
pub(super) fn has(interface: &str) -> bool {
    let Some((name, version)) = interface.split_once('@') else { return false };
    let Some(package) = name.strip_prefix("wasi:").and_then(|n| n.split('/').next()) else { return false };
    matches!(package, "io" | "clocks" | "random" | "cli" | "filesystem" | "sockets")
        && version.starts_with("0.2.")
}
