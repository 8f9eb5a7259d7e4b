//! Owns the instances of one module: who may run, on which instance, until when.
//!
//! The bargain: a call runs alone on its instance, which is its own store; it ends by its deadline; whatever goes wrong
//! in it fails this call alone. An instance that trapped, ran out of time or was left in the middle is dropped with its
//! store and never used again. One that returned is kept for the next call, so memory of a module may outlive a call and
//! may be lost at any time. At most `concurrency` calls run and `queue` calls wait; both are the module's own, so calls
//! between modules, which form no cycle, cannot wait for each other for ever.

use crate::capability::writes::{Writes, Written};
use crate::capability::{CallContext, Shared, State, Work};
use crate::types::{FailurePlace, Function};
use cleave_bus::failure::CallError;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, TryAcquireError};
use wasmtime::component::{ComponentExportIndex, Func, Instance as WasmInstance, InstancePre, Val};
use wasmtime::{Store, UpdateDeadline};

/// The most handles to resources that a component may hold in one instance.
const HANDLES_MAX: usize = 10_000;

/// How many calls a module takes and how many instances it keeps.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Calls that run at once.
    pub concurrency: usize,
    /// Calls that wait for one that runs.
    pub queue: usize,
    /// Instances kept for the next call; none means a fresh instance for each.
    pub idle_max: usize,
    /// The longest a call may run.
    pub deadline: std::time::Duration,
}

/// What has happened in a pool since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Calls that returned.
    pub returned: AtomicU64,
    /// Calls that trapped or ran out of time.
    pub failed: AtomicU64,
    /// Calls that were refused before they ran.
    pub refused: AtomicU64,
    /// Instances made, because none was ready.
    pub cold: AtomicU64,
}

/// The instances of one module.
pub struct Pool {
    shared: Arc<Shared>,
    instance_pre: InstancePre<State>,
    /// Where in the component each exported function is, by its place.
    exports: Vec<ComponentExportIndex>,
    limits: Limits,
    running: Semaphore,
    /// Places for events and tasks: half of `concurrency`, so that callers find the other half.
    background: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Instances ready for a call; the one used last is used next, because its memory is warm.
    idle: Mutex<Vec<Instance>>,
    pub counts: Counts,
}

/// One instance of a module in a store of its own.
struct Instance {
    store: Store<State>,
    instance: WasmInstance,
    /// The exported functions, looked up when they are first called.
    functions: Vec<Option<Func>>,
}

impl Pool {
    pub fn new(
        shared: Arc<Shared>,
        instance_pre: InstancePre<State>,
        exports: Vec<ComponentExportIndex>,
        limits: Limits,
    ) -> Self {
        Self {
            shared,
            instance_pre,
            exports,
            limits,
            running: Semaphore::new(limits.concurrency),
            background: Arc::new(Semaphore::new((limits.concurrency / 2).max(1))),
            waiting: AtomicUsize::new(0),
            idle: Mutex::new(Vec::with_capacity(limits.idle_max)),
            counts: Counts::default(),
        }
    }

    pub fn module(&self) -> &str {
        &self.shared.module
    }

    /// Waits for a place among the events and tasks that run at once. `None` never comes while the pool is there.
    pub async fn background(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.background).acquire_owned().await.ok()
    }

    /// The longest a call may run.
    pub fn deadline(&self) -> std::time::Duration {
        self.limits.deadline
    }

    /// How many calls run now.
    pub fn running(&self) -> usize {
        self.limits.concurrency.saturating_sub(self.running.available_permits())
    }

    /// How many calls wait now for one that runs.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Calls a function of the module with values of its types.
    pub async fn call(
        &self,
        function: &Function,
        context: CallContext,
        arguments: &[Val],
    ) -> Result<Vec<Val>, CallError> {
        self.run(function, context, Work::Call, arguments).await.map(|(results, _)| results)
    }

    /// Runs a function of the module for some work. What a handler has written comes back with its results, to be
    /// committed; dropped, it is rolled back.
    pub async fn run(
        &self,
        function: &Function,
        context: CallContext,
        work: Work,
        arguments: &[Val],
    ) -> Result<(Vec<Val>, Written), CallError> {
        let began = Instant::now();
        let context =
            CallContext { deadline: context.deadline.min_after(began, self.limits.deadline), ..context };
        let admitted = self.admit(function, context, began).await;
        let _running = admitted.inspect_err(|_| {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
        })?;
        let mut instance = match self.take_idle() {
            Some(instance) => instance,
            None => self.instantiate(context).await?,
        };
        // Why: an instance is in the pool or in this call. If the call is left in the middle, it is dropped with it.
        match instance.call(self, function, context, work, began, arguments).await {
            Ok(outcome) => {
                self.counts.returned.fetch_add(1, Ordering::Relaxed);
                self.keep(instance);
                Ok(outcome)
            }
            Err(error) => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(module = self.module(), trace = format!("{:032x}", context.trace), "{error}");
                Err(error)
            }
        }
    }

    /// Waits for one of the places to run.
    async fn admit(
        &self,
        function: &Function,
        context: CallContext,
        now: Instant,
    ) -> Result<SemaphorePermit<'_>, CallError> {
        // The semaphore is never closed; were it, nothing has run.
        let closed = || CallError::Refused { reason: format!("module `{}` takes no calls", self.module()) };
        let expired = || CallError::Expired { function: function.address.clone() };
        if context.deadline.passed(now) {
            return Err(expired());
        }
        match self.running.try_acquire() {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::Closed) => return Err(closed()),
            Err(TryAcquireError::NoPermits) => {}
        }
        let _place = Waiting::enter(&self.waiting, self.limits.queue).ok_or_else(|| {
            CallError::QueueFull { module: self.module().to_owned(), waiting: self.limits.queue }
        })?;
        match tokio::time::timeout_at(context.deadline.instant().into(), self.running.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_closed)) => Err(closed()),
            Err(_elapsed) => Err(expired()),
        }
    }

    fn take_idle(&self) -> Option<Instance> {
        // The list is whole at every moment, so a thread that panicked left nothing half done.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn keep(&self, instance: Instance) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.limits.idle_max {
            idle.push(instance);
        }
    }

    async fn instantiate(&self, context: CallContext) -> Result<Instance, CallError> {
        self.counts.cold.fetch_add(1, Ordering::Relaxed);
        let mut store = Store::new(self.instance_pre.engine(), State::new(Arc::clone(&self.shared), context));
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(self.shared.hostcall_fuel);
        store.set_max_component_handles(HANDLES_MAX);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|store| {
            if store.data().call.deadline.passed(Instant::now()) {
                return Ok(UpdateDeadline::Interrupt);
            }
            // Why: wasmtime's own yield puts the task into a slot that is polled next, before every timer.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        let started = tokio::time::timeout_at(
            context.deadline.instant().into(),
            self.instance_pre.instantiate_async(&mut store),
        );
        let failed = |reason: String| {
            let error = CallError::NoInstance { module: self.module().to_owned(), reason };
            tracing::warn!(trace = format!("{:032x}", context.trace), "{error}");
            error
        };
        match started.await {
            Ok(Ok(instance)) => Ok(Instance { store, instance, functions: vec![None; self.exports.len()] }),
            Ok(Err(error)) => Err(failed(reason(&error))),
            Err(_elapsed) => Err(failed("the deadline passed".to_owned())),
        }
    }
}

impl Instance {
    async fn call(
        &mut self,
        pool: &Pool,
        function: &Function,
        context: CallContext,
        work: Work,
        began: Instant,
        arguments: &[Val],
    ) -> Result<(Vec<Val>, Written), CallError> {
        let func = self.function(pool, function)?;
        let state = self.store.data_mut();
        state.call = context;
        state.writes = Writes::new(work);
        self.store.set_epoch_deadline(1);
        let timed_out = || CallError::TimedOut {
            function: function.address.clone(),
            limit: context.deadline.remaining(began),
        };
        let mut results = vec![Val::Bool(false); usize::from(function.result.is_some())];
        let run = func.call_async(&mut self.store, arguments, &mut results);
        let outcome = tokio::time::timeout_at(context.deadline.instant().into(), run).await;
        // A transaction ends with its call; dropped, it is rolled back.
        let writes = std::mem::replace(&mut self.store.data_mut().writes, Writes::new(Work::Call));
        match outcome {
            Ok(Ok(())) => {
                uncertain_if_failed(function, &mut results);
                Ok((results, writes.end().await))
            }
            Ok(Err(_)) | Err(_) if context.deadline.passed(Instant::now()) => Err(timed_out()),
            Ok(Err(trap)) => {
                Err(CallError::Trapped { function: function.address.clone(), reason: reason(&trap) })
            }
            Err(_elapsed) => Err(timed_out()),
        }
    }

    fn function(&mut self, pool: &Pool, function: &Function) -> Result<Func, CallError> {
        let found = match (self.functions.get_mut(function.place), pool.exports.get(function.place)) {
            (Some(Some(func)), _) => Some(*func),
            (Some(slot), Some(index)) => {
                *slot = self.instance.get_func(&mut self.store, index);
                *slot
            }
            _ => None,
        };
        found.ok_or_else(|| CallError::NoInstance {
            module: pool.module().to_owned(),
            reason: format!("it does not export `{}`", function.address),
        })
    }
}

/// A module that answers `unavailable` has run: to its caller this call is `uncertain`.
fn uncertain_if_failed(function: &Function, results: &mut [Val]) {
    let Some(place) = &function.failure else { return };
    let [Val::Result(Err(Some(error)))] = results else { return };
    let failure = match (place, &mut **error) {
        (FailurePlace::Whole, failure) => failure,
        (FailurePlace::Case(case), Val::Variant(name, Some(failure))) if name == case => failure,
        _ => return,
    };
    if let Val::Variant(case, _) = failure
        && case == "unavailable"
    {
        *case = "uncertain".to_owned();
    }
}

/// What the engine says of an error, in one line: the cause, not the way there.
fn reason(error: &wasmtime::Error) -> String {
    let text = match error.downcast_ref::<wasmtime::Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    // Why: the engine knows this limit by its own name, its user by the config's.
    if text.contains("fuel allocated for hostcalls") {
        return "the values of a call are far larger than `calls.payload_max`".to_owned();
    }
    text
}

/// A call's place among those that wait.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(waiting: &'a AtomicUsize, max: usize) -> Option<Self> {
        waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < max).then_some(n + 1)).ok()?;
        Some(Self(waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
