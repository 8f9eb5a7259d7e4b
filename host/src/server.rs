//! Owns calls as bytes: a [`Server`] takes requests for the contracts of one module and answers them, a [`Connection`]
//! puts calls to it.
//!
//! A request is decoded only if its fingerprint is the function's own. Whatever arrives is answered: garbage, unknown
//! names and late requests with `unavailable`, because nothing ran.

use crate::capability::CallContext;
use crate::module::Contract;
use crate::pool::Pool;
use crate::types::Function;
use crate::values;
use cleave_bus::deadline::Deadline;
use cleave_bus::envelope::{Reply, Request, VERSION};
use cleave_bus::failure::CallError;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;
use wasmtime::component::Val;

/// How long after its deadline an answer is still waited for: the callee's side says more exactly what happened. Less than
/// the reserve that the caller keeps for itself.
const ANSWER_GRACE: Duration = Duration::from_millis(25);

/// A request on its way through the process, and where its answer goes.
type Message = (Vec<u8>, oneshot::Sender<Vec<u8>>);

/// Answers requests for the contracts of one module.
pub struct Server {
    pool: Arc<Pool>,
    contracts: Vec<Arc<Contract>>,
    payload_max: usize,
}

impl Server {
    pub fn new(pool: Arc<Pool>, contracts: Vec<Arc<Contract>>, payload_max: usize) -> Self {
        Self { pool, contracts, payload_max }
    }

    /// Answers one request.
    pub async fn answer(&self, request: &[u8]) -> Vec<u8> {
        let outcome = self.run(request).await;
        let text = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let reply = match &outcome {
            Ok(result) => Reply::Returned(result),
            Err(error) => Reply::of_error(error, &text),
        };
        // The encoder writes to memory and has no reason to refuse; an empty reply reads as a lost answer.
        reply.encode().unwrap_or_default()
    }

    async fn run(&self, bytes: &[u8]) -> Result<Vec<u8>, CallError> {
        let refused = |reason: String| CallError::Refused { reason };
        let request = Request::decode(bytes).map_err(|e| refused(e.to_string()))?;
        let function = self
            .contracts
            .iter()
            .find(|c| c.name == request.contract)
            .and_then(|c| c.functions.get(request.function))
            .ok_or_else(|| {
                refused(format!("`{}.{}` is not served here", request.contract, request.function))
            })?;
        if request.fingerprint != function.fingerprint {
            return Err(refused(format!(
                "the caller knows `{}` by another type: fingerprint {:016x}, here {:016x}",
                function.address, request.fingerprint, function.fingerprint
            )));
        }
        let now = Instant::now();
        let deadline = Deadline::after(now, request.time_left(SystemTime::now()));
        if request.arguments.len() > self.payload_max {
            return Err(CallError::ArgumentsTooLarge {
                function: function.address.clone(),
                size: request.arguments.len(),
                limit: self.payload_max,
            });
        }
        let arguments = values::decode(function.parameters.iter().map(|p| &p.ty), request.arguments)
            .map_err(|e| refused(format!("the arguments of `{}`: {e}", function.address)))?;
        let context = CallContext { deadline, trace: request.trace };
        let results = self.pool.call(function, context, &arguments).await?;
        values::encode(function.result.iter().zip(&results)).map_err(|e| CallError::AnswerLost {
            reason: format!("the result of `{}`: {e}", function.address),
        })
    }
}

/// A way to a server in the same process: bytes through a channel.
#[derive(Clone)]
pub struct Connection {
    requests: mpsc::Sender<Message>,
}

impl Connection {
    /// Starts answering requests, each in a task of its own, until every connection is dropped. At most `capacity`
    /// requests wait to be looked at; how many run and wait after that is the pool's to limit.
    pub fn open(server: Server, capacity: usize, tasks: &TaskTracker) -> Self {
        let (requests, mut incoming) = mpsc::channel::<Message>(capacity.max(1));
        let server = Arc::new(server);
        let calls = tasks.clone();
        tasks.spawn(async move {
            while let Some((request, answer)) = incoming.recv().await {
                let server = Arc::clone(&server);
                calls.spawn(async move {
                    // A caller that has left does not want its answer; the call has run all the same.
                    let _ = answer.send(server.answer(&request).await);
                });
            }
        });
        Self { requests }
    }

    pub async fn call(
        &self,
        contract: &str,
        function: &Function,
        context: CallContext,
        arguments: &[Val],
    ) -> Result<Vec<Val>, CallError> {
        let remaining = context.deadline.remaining(Instant::now());
        let refused = |e: &dyn std::fmt::Display| CallError::Refused { reason: e.to_string() };
        let lost = |e: &dyn std::fmt::Display| CallError::AnswerLost { reason: e.to_string() };
        let arguments = values::encode(function.parameters.iter().map(|p| &p.ty).zip(arguments))
            .map_err(|e| refused(&e))?;
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let expires =
            SystemTime::now().checked_add(remaining).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let request = Request {
            version: VERSION,
            contract,
            function: &function.name,
            fingerprint: function.fingerprint,
            call: uuid::Uuid::new_v4().as_u128(),
            trace: context.trace,
            expires_unix_ms: expires.map_or(u64::MAX, millis),
            remaining_ms: millis(remaining),
            arguments: &arguments,
        };
        let request = request.encode().map_err(|e| refused(&e))?;
        let (answer, answered) = oneshot::channel();
        let expired = CallError::Expired { function: function.address.clone() };
        match tokio::time::timeout_at(
            context.deadline.instant().into(),
            self.requests.send((request, answer)),
        )
        .await
        {
            Ok(Ok(())) => {}
            Ok(Err(_closed)) => return Err(refused(&"the module's server has ended")),
            Err(_elapsed) => return Err(expired),
        }
        let answered = tokio::time::timeout(remaining.saturating_add(ANSWER_GRACE), answered);
        let bytes = match answered.await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(_dropped)) => return Err(lost(&"the server dropped the call")),
            Err(_elapsed) => {
                return Err(CallError::TimedOut { function: function.address.clone(), limit: remaining });
            }
        };
        match Reply::decode(&bytes).map_err(|e| lost(&e))? {
            Reply::Returned(result) => values::decode(function.result.iter(), result).map_err(|e| lost(&e)),
            Reply::Unavailable(reason) => Err(CallError::Refused { reason: reason.to_owned() }),
            Reply::Uncertain(reason) => Err(CallError::AnswerLost { reason: reason.to_owned() }),
        }
    }
}
