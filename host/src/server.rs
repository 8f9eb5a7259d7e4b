//! Owns calls as bytes: a [`Server`] takes requests for the contracts of modules and answers them, a [`Connection`] puts
//! calls to one, in this process or over the bus.
//!
//! A request is decoded only if its fingerprint is the function's own. Whatever arrives is answered: garbage, unknown
//! names and late requests with `unavailable`, because nothing ran.

use crate::capability::CallContext;
use crate::http;
use crate::module::Contract;
use crate::pool::Pool;
use crate::types::{Function, Type};
use crate::values;
use bytes::Bytes;
use cleave_bus::deadline::Deadline;
use cleave_bus::envelope::{Outcome, Reply, Request, VERSION};
use cleave_bus::failure::CallError;
use cleave_bus::nats::{Answer, Answering, Bus, Inbound, Outbound};
use cleave_bus::subject;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;
use wasmtime::component::Val;

/// How long after its deadline an answer is still waited for: the callee's side says more exactly what happened. Less than
/// the reserve that the caller keeps for itself.
const ANSWER_GRACE: Duration = Duration::from_millis(25);

/// The longest name in a request, in bytes: it is repeated where something is wrong with it.
const NAME_MAX: usize = 256;

/// The most that is said of an error outside of an envelope, in bytes.
const ERROR_MAX: usize = 512;

/// A request on its way through the process, and where its answer goes.
type Message = (Vec<u8>, oneshot::Sender<Vec<u8>>);

/// Answers requests for the contracts of some modules.
pub struct Server {
    /// The node, for callers who know a function by another type.
    node: String,
    payload_max: usize,
    /// The deadline of a call that does not bring its own.
    deadline: Duration,
    /// What is served, by the contract's track.
    served: HashMap<String, (Arc<Pool>, Arc<Contract>)>,
    /// Track and function by what the subject of a call names.
    by_subject: HashMap<String, (String, String)>,
    /// When a failed call was last told in the log, in seconds since 1970.
    told: AtomicU64,
}

impl Server {
    pub fn new(node: String, payload_max: usize, deadline: Duration) -> Self {
        let (served, by_subject) = (HashMap::new(), HashMap::new());
        Self { node, payload_max, deadline, served, by_subject, told: AtomicU64::new(0) }
    }

    /// Serves a contract from a pool.
    pub fn add(&mut self, contract: &Arc<Contract>, pool: &Arc<Pool>) {
        for name in contract.functions.keys() {
            let names = (contract.track.clone(), name.clone());
            self.by_subject.insert(subject::function(&contract.track, name), names);
        }
        self.served.insert(contract.track.clone(), (Arc::clone(pool), Arc::clone(contract)));
    }

    /// Answers one request, and says what went wrong, with the status that HTTP has for it.
    async fn reply(&self, bytes: &[u8], called: Option<&str>) -> (Vec<u8>, Option<(u16, String)>) {
        let request = Request::decode(bytes);
        let outcome = match &request {
            Ok(request) => self.run(request, called).await,
            Err(e) => Err(CallError::Refused { reason: e.to_string() }),
        };
        let text = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
        if let (Some(_), Ok(request), Err(_)) = (called, &request, &outcome) {
            self.tell(request, &text);
        }
        let status = outcome.as_ref().err().map(status);
        let outcome = match &outcome {
            Ok(result) => Outcome::Returned(result),
            Err(error) => Outcome::of_error(error, &text),
        };
        // The encoder writes to memory and has no reason to refuse; an empty reply reads as a lost answer.
        let reply = Reply::new(outcome).encode().unwrap_or_default();
        (reply, status.map(|status| (status, text)))
    }

    /// Writes into the log why a call from another node failed, once a second at most: they may be very many.
    fn tell(&self, request: &Request<'_>, text: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.told.swap(now, Ordering::Relaxed) != now {
            let caller: String = request.caller.chars().take(NAME_MAX).collect();
            let (call, trace) = (format!("{:032x}", request.call), format!("{:032x}", request.trace));
            tracing::warn!(caller, call, trace, "a call over the bus failed here: {}", cut(text.to_owned()));
        }
    }

    /// Runs a request whose subject, if it has one, names what is called: what a sender may call is decided by subjects.
    async fn run(&self, request: &Request<'_>, called: Option<&str>) -> Result<Vec<u8>, CallError> {
        let refused = |reason: String| CallError::Refused { reason };
        let names = [request.caller, request.track, request.function];
        if names.iter().any(|name| name.len() > NAME_MAX) {
            return Err(refused(format!("a name in the request has more than {NAME_MAX} bytes")));
        }
        let (pool, function) = self.find(request.track, request.function)?;
        let names = |track: &str, function: &str| track == request.track && function == request.function;
        if called.is_some_and(|called| !self.by_subject.get(called).is_some_and(|(t, f)| names(t, f))) {
            let reason =
                format!("`{}.{}` was called at the subject of another", request.track, request.function);
            return Err(refused(reason));
        }
        if request.fingerprint != function.fingerprint {
            let reason = format!(
                "node `{}` knows `{}` by another type than node `{}`, which called it (fingerprints {:016x} and {:016x}): \
                 here it is {}",
                self.node,
                function.address,
                request.caller,
                function.fingerprint,
                request.fingerprint,
                function.signature()
            );
            // Why: while modules are exchanged, another replica may have the caller's type.
            return Err(CallError::TurnedAway { reason });
        }
        let time_left = request.time_left(SystemTime::now());
        if time_left.is_zero() {
            let reason = format!(
                "the call of `{}` came to node `{}` when its time was over: it was late, or the clocks of the nodes differ",
                function.address, self.node
            );
            return Err(refused(reason));
        }
        let deadline = Deadline::after(Instant::now(), time_left);
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
        let results = pool.call(function, context, &arguments).await?;
        let result = values::encode(function.result.iter().zip(&results)).map_err(|e| {
            CallError::AnswerLost { reason: format!("the result of `{}`: {e}", function.address) }
        })?;
        if result.len() > self.payload_max {
            return Err(CallError::ResultTooLarge {
                function: function.address.clone(),
                size: result.len(),
                limit: self.payload_max,
            });
        }
        Ok(result)
    }

    fn find(&self, track: &str, function: &str) -> Result<(&Arc<Pool>, &Arc<Function>), CallError> {
        let found = self.served.get(track);
        found.and_then(|(pool, contract)| Some((pool, contract.functions.get(function)?))).ok_or_else(|| {
            CallError::TurnedAway {
                reason: format!("node `{}` does not serve `{track}.{function}`", self.node),
            }
        })
    }

    /// Answers a caller who speaks JSON: an array of the arguments in their order. What comes back is the value, or what
    /// went wrong, with the status that HTTP has for it.
    async fn reply_in_json(&self, request: &Inbound) -> Result<Vec<u8>, (u16, String, Vec<u8>)> {
        let wrong = |status: u16, text: String| (status, text, Vec::new());
        let (pool, function) = self
            .by_subject
            .get(&request.called)
            .ok_or_else(|| CallError::TurnedAway {
                reason: format!("node `{}` does not serve `{}`", self.node, request.called),
            })
            .and_then(|(track, function)| self.find(track, function))
            .map_err(|e| wrong(404, e.to_string()))?;
        let types: Arc<[Type]> = function.parameters.iter().map(|p| p.ty.clone()).collect();
        let body: &[u8] = if request.payload.is_empty() { b"[]" } else { &request.payload };
        let arguments = match values::from_json(&Type::Tuple(types), body, self.payload_max) {
            Ok(Val::Tuple(arguments)) => arguments,
            Ok(_) => return Err(wrong(400, "the body is no array of arguments".to_owned())),
            Err(e) => {
                let signature = function.signature();
                return Err(wrong(
                    400,
                    format!("the body: {e}; an array of the arguments is expected of {signature}"),
                ));
            }
        };
        let typed = || function.parameters.iter().map(|p| &p.ty).zip(&arguments);
        if values::encoded_size(typed(), self.payload_max).is_none() {
            let limit = self.payload_max;
            return Err(wrong(
                400,
                format!("the arguments take more than the {limit} bytes of `calls.payload_max`"),
            ));
        }
        let trace = request.traceparent.as_deref().and_then(|t| http::traceparent(t.as_bytes()));
        let context = CallContext {
            deadline: Deadline::after(Instant::now(), self.deadline),
            trace: trace.unwrap_or_else(|| uuid::Uuid::new_v4().as_u128()),
        };
        let results =
            pool.call(function, context, &arguments).await.map_err(|e| wrong(status(&e), e.to_string()))?;
        let answered = values::result_to_json(function, &results).map_err(|e| wrong(504, e.to_string()))?;
        let (Ok(json) | Err(json)) = &answered;
        if json.len() > self.payload_max {
            let (function, limit) = (function.address.clone(), self.payload_max);
            let error = CallError::ResultTooLarge { function, size: json.len(), limit };
            return Err(wrong(504, error.to_string()));
        }
        answered.map_err(|json| (422, format!("`{}` answered with its error", function.address), json))
    }
}

impl Answer for Server {
    fn answer<'a>(&'a self, request: &'a Inbound) -> Answering<'a> {
        Box::pin(async move {
            let in_headers = request.json;
            let (payload, error) = if in_headers {
                match self.reply_in_json(request).await {
                    Ok(payload) => (payload, None),
                    Err((code, text, payload)) => (payload, Some((code, text))),
                }
            } else {
                self.reply(&request.payload, Some(&request.called)).await
            };
            Outbound { payload, error: error.map(|(code, text)| (code, cut(text))), in_headers }
        })
    }
}

/// The status that HTTP has for a call that brought no answer.
fn status(error: &CallError) -> u16 {
    if error.may_have_run() { 504 } else { 503 }
}

/// Cuts a text, which may repeat what came from outside, to what a header and the statistics take.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(ERROR_MAX));
    text
}

/// A way to a server: bytes that go to it and come back.
#[derive(Clone)]
pub struct Connection {
    carrier: Carrier,
    /// The node that calls.
    caller: String,
}

/// What carries the bytes.
#[derive(Clone)]
enum Carrier {
    /// A channel, to a server in this process.
    Channel(mpsc::Sender<Message>),
    /// The bus, to a server that holds this module.
    Bus(Arc<Bus>, String),
}

impl Connection {
    /// Starts answering requests, each in a task of its own, until every connection is dropped. At most `capacity`
    /// requests wait to be looked at; how many run and wait after that is the pool's to limit.
    pub fn open(server: Server, capacity: usize, tasks: &TaskTracker) -> Self {
        let (requests, mut incoming) = mpsc::channel::<Message>(capacity.max(1));
        let caller = server.node.clone();
        let server = Arc::new(server);
        let calls = tasks.clone();
        tasks.spawn(async move {
            while let Some((request, answer)) = incoming.recv().await {
                let server = Arc::clone(&server);
                calls.spawn(async move {
                    // A caller that has left does not want its answer; the call has run all the same.
                    let _ = answer.send(server.reply(&request, None).await.0);
                });
            }
        });
        Self { carrier: Carrier::Channel(requests), caller }
    }

    /// Whether the bytes go over the bus.
    pub fn is_remote(&self) -> bool {
        matches!(self.carrier, Carrier::Bus(..))
    }

    /// The way over the bus to whoever holds a module.
    pub fn over(bus: Arc<Bus>, module: String, caller: String) -> Self {
        Self { carrier: Carrier::Bus(bus, module), caller }
    }

    /// Waits until bytes can be sent again, until `until` at most.
    pub async fn wait_for_carrier(&self, until: Instant) {
        if let Carrier::Bus(bus, _) = &self.carrier {
            bus.wait_for_connection(until).await;
        }
    }

    pub async fn call(
        &self,
        track: &str,
        function: &Function,
        context: CallContext,
        arguments: &[Val],
    ) -> Result<Vec<Val>, CallError> {
        let remaining = context.deadline.remaining(Instant::now());
        if remaining.is_zero() {
            return Err(CallError::Expired { function: function.address.clone() });
        }
        let refused = |e: &dyn std::fmt::Display| CallError::Refused { reason: e.to_string() };
        let lost = |e: &dyn std::fmt::Display| CallError::AnswerLost { reason: e.to_string() };
        let arguments = values::encode(function.parameters.iter().map(|p| &p.ty).zip(arguments))
            .map_err(|e| refused(&e))?;
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let expires =
            SystemTime::now().checked_add(remaining).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let call = uuid::Uuid::new_v4().as_u128();
        let request = Request {
            version: VERSION,
            caller: &self.caller,
            track,
            function: &function.name,
            fingerprint: function.fingerprint,
            call,
            trace: context.trace,
            expires_unix_ms: expires.map_or(u64::MAX, millis),
            remaining_ms: millis(remaining),
            arguments: &arguments,
        };
        let request = request.encode().map_err(|e| refused(&e))?;
        let bytes = match &self.carrier {
            Carrier::Channel(requests) => exchange(requests, request, function, context).await?,
            Carrier::Bus(bus, module) => {
                let until = context.deadline.instant().checked_add(ANSWER_GRACE);
                let until = until.unwrap_or_else(|| context.deadline.instant());
                bus.call(module, (track, &function.name), call, request, until).await?
            }
        };
        let result = Reply::decode(&bytes).map_err(|e| lost(&e))?.result()?;
        values::decode(function.result.iter(), result).map_err(|e| lost(&e))
    }
}

/// Sends a request through the process and waits for its answer.
async fn exchange(
    requests: &mpsc::Sender<Message>,
    request: Vec<u8>,
    function: &Function,
    context: CallContext,
) -> Result<Bytes, CallError> {
    let remaining = context.deadline.remaining(Instant::now());
    let (answer, answered) = oneshot::channel();
    let sending = requests.send((request, answer));
    match tokio::time::timeout_at(context.deadline.instant().into(), sending).await {
        Ok(Ok(())) => {}
        Ok(Err(_closed)) => {
            return Err(CallError::Refused { reason: "the module's server has ended".to_owned() });
        }
        Err(_elapsed) => return Err(CallError::Expired { function: function.address.clone() }),
    }
    match tokio::time::timeout(remaining.saturating_add(ANSWER_GRACE), answered).await {
        Ok(Ok(bytes)) => Ok(bytes.into()),
        Ok(Err(_dropped)) => Err(CallError::AnswerLost { reason: "the server dropped the call".to_owned() }),
        Err(_elapsed) => Err(CallError::TimedOut { function: function.address.clone(), limit: remaining }),
    }
}
