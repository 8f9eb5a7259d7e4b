//! Owns the tie from an import to whoever serves it: the [`Edge`], and the one path that every call takes.
//!
//! How a call travels, wherever it comes from and wherever it goes:
//!
//! 1. A caller holds an edge: a module through the closure that [`link`] put behind its import, the HTTP gateway and the
//!    command line through the edges of the host. It passes values and its own deadline.
//! 2. [`Edge::call`] applies the policy, the same at every distance: the deadline shrinks, the payload is measured.
//! 3. The route decides, once, when the node starts. *Local* hands the values to the callee's pool. *Loopback* encodes
//!    them and hands the bytes to the callee's server, which decodes them and then does the same.
//! 4. The pool runs the call on an instance of the callee and gives values back, or a [`CallError`].
//! 5. Back at a module's import, a `CallError` becomes the `failure` that the function's type has a place for. A function
//!    without a place traps its caller.
//!
//! Nothing else in the host branches on distance.

use crate::capability::{CallContext, State};
use crate::module::Contract;
use crate::pool::Pool;
use crate::server::Connection;
use crate::types::{FailurePlace, Function};
use crate::values;
use cleave_bus::failure::CallError;
use std::sync::Arc;
use std::time::Instant;
use wasmtime::component::{Linker, Val};

/// The way from one caller to one contract.
#[derive(Clone)]
pub struct Edge {
    /// The contract as its exporter has it.
    pub contract: Arc<Contract>,
    route: Route,
    /// The most bytes that arguments or a result may take.
    payload_max: usize,
}

/// Where the calls go.
#[derive(Clone)]
enum Route {
    Local(Arc<Pool>),
    Loopback(Connection),
}

impl Edge {
    pub fn local(contract: Arc<Contract>, pool: Arc<Pool>, payload_max: usize) -> Self {
        Self { contract, route: Route::Local(pool), payload_max }
    }

    pub fn loopback(contract: Arc<Contract>, connection: Connection, payload_max: usize) -> Self {
        Self { contract, route: Route::Loopback(connection), payload_max }
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
        let results = match &self.route {
            Route::Local(pool) => pool.call(function, context, arguments).await?,
            Route::Loopback(connection) => {
                connection.call(&self.contract.name, function, context, arguments).await?
            }
        };
        self.check_results(function, &results)?;
        Ok(results)
    }

    fn check_arguments(&self, function: &Function, arguments: &[Val]) -> Result<(), CallError> {
        if function.arguments_max.is_some_and(|max| max <= self.payload_max) {
            return Ok(());
        }
        let typed = || function.parameters.iter().map(|p| &p.ty).zip(arguments);
        match values::encoded_size(typed(), self.payload_max) {
            Some(_) => Ok(()),
            None => Err(CallError::ArgumentsTooLarge {
                function: function.address.clone(),
                size: values::encoded_size(typed(), usize::MAX).unwrap_or(usize::MAX),
                limit: self.payload_max,
            }),
        }
    }

    fn check_results(&self, function: &Function, results: &[Val]) -> Result<(), CallError> {
        if function.result_max.is_some_and(|max| max <= self.payload_max) {
            return Ok(());
        }
        let typed = || function.result.iter().zip(results);
        match values::encoded_size(typed(), self.payload_max) {
            Some(_) => Ok(()),
            None => Err(CallError::ResultTooLarge {
                function: function.address.clone(),
                size: values::encoded_size(typed(), usize::MAX).unwrap_or(usize::MAX),
                limit: self.payload_max,
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
