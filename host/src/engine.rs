//! Owns the WebAssembly engine of a node: its limits, its compile cache and its clock.
//!
//! The engine compiles components and allots every instance its memory from one pool sized at start, so that nothing a
//! module does later can take more. A thread of the operating system moves the engine's epoch on, because a guest that
//! never yields may hold every thread of the async runtime.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wasmtime::component::Component;
use wasmtime::{Cache, CacheConfig, Config, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How often a running guest is looked at; a deadline is enforced to within this.
const EPOCH_TICK: Duration = Duration::from_millis(5);
/// The stack a guest may use; recursion beyond it traps.
const WASM_STACK_MAX: usize = 512 * 1024;
/// The stack of the fiber a guest runs on: its own and what the host's functions need above it.
const ASYNC_STACK: usize = 2 * 1024 * 1024;
/// The most elements of a table, which hold function pointers of the guest's code.
const TABLE_ELEMENTS_MAX: usize = 20_000;

/// The most linear memory a slot of the pool has room for: all that 32 bits can address. A slot takes address space, not
/// memory; what an instance may take is limited where its store is made.
const MEMORY_SLOT: usize = 4 << 30;
/// A page of linear memory, in bytes.
const PAGE: u64 = 64 * 1024;

/// The linear memories and the tables of one instance, at most. A component that a compiler makes has one or two of each
/// kind; one composed of several has more.
const MEMORIES_MAX: u32 = 4;
const TABLES_MAX: u32 = 12;

/// The part of the pool that one module may take.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// Instances alive at once.
    pub instances: u32,
    /// Bytes of linear memory of one instance.
    pub memory_max: usize,
}

/// The engine of a node. Dropping it stops its clock.
#[derive(Debug)]
pub struct Engine {
    engine: wasmtime::Engine,
    _clock: Clock,
}

/// A component that could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the engine cannot be configured: {0:#}")]
    Configure(wasmtime::Error),
    #[error("the compile cache in `{0}` cannot be used: {1}")]
    Cache(String, String),
    #[error("component `{0}` cannot be compiled: {1:#}")]
    Compile(String, wasmtime::Error),
    #[error(
        "module `{module}` starts with {starts_with} bytes of memory, more than its `memory_max` of {memory_max}"
    )]
    Memory { module: String, starts_with: u64, memory_max: usize },
    #[error("the thread of the engine's clock cannot be started: {0}")]
    Clock(std::io::Error),
}

impl Engine {
    /// Makes an engine whose pool holds these shares, and compiles the components for it, in order.
    pub fn compile(
        modules: &[(&str, &[u8], Share)],
        cache: &Path,
    ) -> Result<(Self, Vec<Component>), EngineError> {
        let cache = open_cache(cache)?;
        let instances = modules.iter().fold(0u32, |sum, (_, _, share)| sum.saturating_add(share.instances));
        let engine = new_engine(instances, cache)?;
        let components = modules
            .iter()
            .map(|(name, bytes, _)| {
                Component::from_binary(&engine, bytes)
                    .map_err(|e| EngineError::Compile((*name).to_owned(), e))
            })
            .collect::<Result<Vec<_>, _>>()?;
        fits_memory(modules, &components)?;
        let clock = Clock::start(engine.clone()).map_err(EngineError::Clock)?;
        Ok((Self { engine, _clock: clock }, components))
    }

    pub fn wasmtime(&self) -> &wasmtime::Engine {
        &self.engine
    }
}

/// Whether every module may have the memory that its component starts with.
fn fits_memory(modules: &[(&str, &[u8], Share)], components: &[Component]) -> Result<(), EngineError> {
    for ((module, _, share), component) in modules.iter().zip(components) {
        let pages = component.resources_required().and_then(|r| r.max_initial_memory_size).unwrap_or(0);
        let starts_with = pages.saturating_mul(PAGE);
        if starts_with > share.memory_max as u64 {
            return Err(EngineError::Memory {
                module: (*module).to_owned(),
                starts_with,
                memory_max: share.memory_max,
            });
        }
    }
    Ok(())
}

fn new_engine(instances: u32, cache: Option<Cache>) -> Result<wasmtime::Engine, EngineError> {
    let instances = instances.max(1);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_stacks(instances)
        .total_memories(instances.saturating_mul(MEMORIES_MAX))
        .total_tables(instances.saturating_mul(TABLES_MAX))
        // Core instances and their host-side data take memory only while they live; their number follows from the rest.
        .total_core_instances(u32::MAX)
        .max_memories_per_module(MEMORIES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_module(TABLES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memory_size(MEMORY_SLOT);
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        // Why: a contract has plain functions only, and a call costs twice as much with it on.
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK_MAX)
        .async_stack_size(ASYNC_STACK)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .cache(cache);
    wasmtime::Engine::new(&config).map_err(EngineError::Configure)
}

/// Opens wasmtime's compile cache in a folder that only its owner may enter: who writes there runs code here.
fn open_cache(folder: &Path) -> Result<Option<Cache>, EngineError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let fail = |text: String| EngineError::Cache(folder.display().to_string(), text);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| fail(e.to_string()))?;
    let mode = std::fs::metadata(folder).map_err(|e| fail(e.to_string()))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(fail("others may enter it; give it to its owner alone: chmod 700".to_owned()));
    }
    let folder = folder.canonicalize().map_err(|e| fail(e.to_string()))?;
    let mut config = CacheConfig::new();
    config.with_directory(folder);
    Cache::new(config).map(Some).map_err(|e| fail(format!("{e:#}")))
}

/// The thread that moves the epoch on.
#[derive(Debug)]
struct Clock {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Clock {
    fn start(engine: wasmtime::Engine) -> Result<Self, std::io::Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("cleave-epoch".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(EPOCH_TICK);
                engine.increment_epoch();
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread only sleeps and counts; it has nothing to say about how it ended.
            let _ = thread.join();
        }
    }
}
