//! Owns the tie from an import to whoever serves it: the [`Edge`], and the one path that every call takes.
//!
//! How a call travels, wherever it comes from and wherever it goes:
//!
//! 1. A caller holds an edge: a module through the closure that [`link`] put behind its import, the HTTP gateway and the
//!    command line through the edges of the host. It passes values and its own deadline.
//! 2. [`Edge::call`] applies the policy, the same at every distance: the deadline shrinks, the payload is measured, a call
//!    that nobody took is tried again within its budget.
//! 3. The route decides, once, when the node starts. *Local* hands the values to the callee's pool. *Loopback* and *remote*
//!    encode them and hand the bytes to the callee's server, through a channel or over the bus; it decodes them and then
//!    does the same.
//! 4. The pool runs the call on an instance of the callee and gives values back, or a [`CallError`].
//! 5. Back at a module's import, a `CallError` becomes the `failure` that the function's type has a place for. A function
//!    without a place traps its caller.
//!
//! Nothing else in the host branches on distance.

use crate::capability::{CallContext, State};
use crate::drill::Drill;
use crate::module::Contract;
use crate::pool::Pool;
use crate::server::Connection;
use crate::types::{FailurePlace, Function};
use crate::values;
use cleave_bus::deadline::Deadline;
use cleave_bus::failure::CallError;
use cleave_bus::retry::{self, Budget};
use cleave_bus::route::Route;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use wasmtime::component::{Linker, Val};

/// The way from one caller to one contract.
#[derive(Clone)]
pub struct Edge {
    /// The contract as its exporter has it.
    pub contract: Arc<Contract>,
    way: Way,
    policy: Arc<Policy>,
}

/// How the calls go.
#[derive(Clone)]
pub enum Way {
    /// The callee's pool is here and gets the values.
    Local(Arc<Pool>),
    /// Whoever is at the other end gets bytes.
    Encoded(Connection),
}

/// What holds for every call of an edge, whatever its way.
pub struct Policy {
    /// The most bytes that arguments or a result may take.
    pub payload_max: usize,
    /// The functions that may run twice for one call.
    pub idempotent: BTreeSet<String>,
    /// How often calls are tried again.
    pub budget: Budget,
    /// Calls since the start.
    pub calls: AtomicU64,
    /// When a failed call was last told in the log, in seconds since 1970.
    pub told: AtomicU64,
    /// What happens to calls on purpose.
    pub drill: Drill,
}

impl Policy {
    /// One that tries nothing again.
    pub fn of_one_try(payload_max: usize) -> Self {
        let limits = retry::Limits { retries: 0, percent: 0, per_second: 0 };
        Self {
            payload_max,
            idempotent: BTreeSet::new(),
            budget: Budget::new(limits, Instant::now()),
            calls: AtomicU64::new(0),
            told: AtomicU64::new(0),
            drill: Drill::default(),
        }
    }
}

impl Edge {
    pub fn new(contract: Arc<Contract>, way: Way, policy: Policy) -> Self {
        Self { contract, way, policy: Arc::new(policy) }
    }

    /// Where the calls go.
    pub fn route(&self) -> Route {
        match &self.way {
            Way::Local(_) => Route::Local,
            Way::Encoded(connection) if connection.is_remote() => Route::Remote,
            Way::Encoded(_) => Route::Loopback,
        }
    }

    /// How many calls have gone there since the start.
    pub fn calls(&self) -> u64 {
        self.policy.calls.load(Ordering::Relaxed)
    }

    /// Calls a function of the contract. The deadline in `context` is the caller's; the callee gets less.
    pub async fn call(
        &self,
        function: &Function,
        context: CallContext,
        arguments: &[Val],
    ) -> Result<Vec<Val>, CallError> {
        let context = CallContext { deadline: context.deadline.for_callee(Instant::now()), ..context };
        self.check_arguments(function, arguments)?;
        let number = self.policy.calls.fetch_add(1, Ordering::Relaxed);
        let (mut retried, mut lost) = (0, None);
        let results = loop {
            // Local calls are never turned away, so that they need not be counted.
            if retried == 0 && matches!(self.way, Way::Encoded(_)) {
                self.policy.budget.count_call();
            }
            let outcome = self.go(function, context, arguments, number).await;
            let error = match outcome {
                Ok(results) => break results,
                Err(error) => error,
            };
            let again = self.wait_for_another_try(function, &error, retried, context.deadline).await;
            // Why: a try that did not run does not undo one before it that may have.
            let told = if error.may_have_run() { error } else { lost.take().unwrap_or(error) };
            if again.is_none() {
                self.tell(&told, context.trace);
                return Err(told);
            }
            lost = Some(told).filter(CallError::may_have_run);
            retried += 1;
        };
        self.check_results(function, &results)?;
        Ok(results)
    }

    /// Goes the way there and back once, or as a drill has it.
    async fn go(
        &self,
        function: &Function,
        context: CallContext,
        arguments: &[Val],
        number: u64,
    ) -> Result<Vec<Val>, CallError> {
        let drill = &self.policy.drill;
        // Asked in this order, as a call that nobody drills need not be looked up.
        let mut left = if drill.twice && self.may_run_twice(function) { drill.times() } else { 1 };
        loop {
            let outcome = match &self.way {
                Way::Local(pool) => pool.call(function, context, arguments).await,
                Way::Encoded(connection) => {
                    connection.call(&self.contract.track, function, context, arguments).await
                }
            };
            left -= 1;
            if left > 0 {
                continue;
            }
            if drill.loses_answers_of == Some(&*function.name) && number % 2 == 1 && outcome.is_ok() {
                return Err(CallError::AnswerLost { reason: "a drill has lost the answer".to_owned() });
            }
            return outcome;
        }
    }

    fn may_run_twice(&self, function: &Function) -> bool {
        self.policy.idempotent.contains(&function.name)
    }

    /// Writes into the log why calls to others fail, once a second at most: they may be very many. A callee that is here
    /// tells its own.
    fn tell(&self, error: &CallError, trace: u128) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.route() == Route::Remote && self.policy.told.swap(now, Ordering::Relaxed) != now {
            let contract = self.contract.name.as_str();
            tracing::warn!(contract, trace = format!("{trace:032x}"), "a call over the bus failed: {error}");
        }
    }

    /// Waits before a call is tried again; `None` if it is not.
    async fn wait_for_another_try(
        &self,
        function: &Function,
        error: &CallError,
        retried: u32,
        deadline: Deadline,
    ) -> Option<()> {
        let now = Instant::now();
        if !error.is_worth_another_try(self.may_run_twice(function)) || deadline.passed(now) {
            return None;
        }
        let jitter = u64::try_from(uuid::Uuid::new_v4().as_u128() % 1_000).unwrap_or_default();
        let wait = self.policy.budget.take(retried, now, jitter)?;
        if wait >= deadline.remaining(now) {
            return None;
        }
        tokio::time::sleep(wait).await;
        // Why: an answer is lost when the connection breaks. Who may be called twice may also wait for it.
        if let (Way::Encoded(connection), true) = (&self.way, error.may_have_run()) {
            connection.wait_for_carrier(deadline.instant()).await;
        }
        Some(())
    }

    fn check_arguments(&self, function: &Function, arguments: &[Val]) -> Result<(), CallError> {
        if function.arguments_max.is_some_and(|max| max <= self.policy.payload_max) {
            return Ok(());
        }
        let typed = || function.parameters.iter().map(|p| &p.ty).zip(arguments);
        match values::encoded_size(typed(), self.policy.payload_max) {
            Some(_) => Ok(()),
            None => Err(CallError::ArgumentsTooLarge {
                function: function.address.clone(),
                size: values::encoded_size(typed(), usize::MAX).unwrap_or(usize::MAX),
                limit: self.policy.payload_max,
            }),
        }
    }

    fn check_results(&self, function: &Function, results: &[Val]) -> Result<(), CallError> {
        if function.result_max.is_some_and(|max| max <= self.policy.payload_max) {
            return Ok(());
        }
        let typed = || function.result.iter().zip(results);
        match values::encoded_size(typed(), self.policy.payload_max) {
            Some(_) => Ok(()),
            None => Err(CallError::ResultTooLarge {
                function: function.address.clone(),
                size: values::encoded_size(typed(), usize::MAX).unwrap_or(usize::MAX),
                limit: self.policy.payload_max,
            }),
        }
    }
}

/// Ties the functions that a module imports under one name to an edge.
pub fn link(linker: &mut Linker<State>, import: &Contract, edge: &Edge) -> wasmtime::Result<()> {
    let mut instance = linker.instance(&import.name)?;
    for function in import.functions.values() {
        // The exporter's function: `application.rs` has made sure that it is there and that the types are equal.
        let function = edge
            .contract
            .functions
            .get(&function.name)
            .ok_or_else(|| wasmtime::format_err!("`{}` has no exporter", function.address))?;
        let target = Arc::new((edge.clone(), Arc::clone(function)));
        instance.func_new_async(&function.name, move |store, _, arguments, results| {
            let target = Arc::clone(&target);
            Box::new(async move {
                let (edge, function) = &*target;
                let outcome = edge.call(function, store.data().call, arguments).await;
                let values = match outcome {
                    Ok(values) => values,
                    Err(error) => vec![failed(function, &error)?],
                };
                for (slot, value) in results.iter_mut().zip(values) {
                    *slot = value;
                }
                Ok(())
            })
        })?;
    }
    Ok(())
}

/// The result that tells a caller of a failed call, or the trap if its type has no place for one.
fn failed(function: &Function, error: &CallError) -> wasmtime::Result<Val> {
    let case = if error.may_have_run() { "uncertain" } else { "unavailable" };
    let failure = Val::Variant(case.to_owned(), Some(Box::new(Val::String(error.to_string()))));
    let error = match &function.failure {
        Some(FailurePlace::Whole) => failure,
        Some(FailurePlace::Case(name)) => Val::Variant(name.clone(), Some(Box::new(failure))),
        None => wasmtime::bail!("a call failed, and `{}` has no place to say so: {error}", function.address),
    };
    Ok(Val::Result(Err(Some(Box::new(error)))))
}
