//! Owns what a module can reach: the state behind one instance, and the host interfaces it may import.
//!
//! One file for each interface; [`add_to_linker`] is the list of them all. An interface that reaches data needs a
//! grant in config and is linked only with it; a module's world is checked against its grants before anything is
//! compiled (`application.rs`), so a missing grant never shows as a linker error.

mod context;
pub mod log;
pub mod sql;
mod wasi;
pub mod writes;

use writes::Writes;
pub use writes::{Delivery, Fence, Work};

use crate::clock::Clock;
use cleave_bus::deadline::Deadline;
use cleave_config::Grant;
use std::sync::Arc;
use wasmtime::StoreLimits;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::WasiCtx;

/// The most resources of the host one instance may hold: transactions, streams, pollables.
const RESOURCES_MAX: usize = 10_000;

/// What belongs to one call, from its start to its end.
#[derive(Debug, Clone, Copy)]
pub struct CallContext {
    /// By when the call has ended.
    pub deadline: Deadline,
    /// The trace it belongs to, which all calls have that come from one request.
    pub trace: u128,
}

/// What the instances of one module have in common.
pub struct Shared {
    /// The module's name.
    pub module: String,
    /// Its database, if it was granted one or has events.
    pub database: Option<crate::data::Database>,
    /// What time it is.
    pub clock: Clock,
    /// Its lines in the log.
    pub log: log::Writer,
    /// The largest linear memory of an instance, in bytes.
    pub memory_max: usize,
    /// The most bytes of values that one call into the host may carry.
    pub hostcall_fuel: usize,
}

/// The state behind one instance.
pub struct State {
    pub shared: Arc<Shared>,
    pub limits: StoreLimits,
    pub call: CallContext,
    /// What the call that runs writes.
    pub writes: Writes,
    /// How many transactions this instance has begun; the newest bears this number.
    pub transactions: u64,
    table: ResourceTable,
    wasi: WasiCtx,
}

impl State {
    pub fn new(shared: Arc<Shared>, call: CallContext) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        let limits = wasmtime::StoreLimitsBuilder::new().memory_size(shared.memory_max).build();
        let wasi = wasi::nothing_granted(&shared);
        Self { shared, limits, call, writes: Writes::new(Work::Call), transactions: 0, table, wasi }
    }
}

/// What a host interface needs, given with its version: `None` if this host has no such interface, else the grant, if
/// it needs one.
pub fn needs(interface: &str) -> Option<Option<Grant>> {
    let (name, version) = interface.split_once('@')?;
    match name {
        "cleave:call/types" | "cleave:events/types" | "cleave:log/logger" | "cleave:context/delivery"
            if version.starts_with("0.1.") =>
        {
            Some(None)
        }
        "cleave:sql/database" if version.starts_with("0.1.") => Some(Some(Grant::Sql)),
        _ => wasi::has(interface).then_some(None),
    }
}

/// Links the interfaces of the host. `cleave:call/types` and `cleave:events/types` hold types alone and need no
/// definition.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasi::add_to_linker(linker)?;
    log::add_to_linker(linker)?;
    context::add_to_linker(linker)?;
    sql::add_to_linker(linker)
}
