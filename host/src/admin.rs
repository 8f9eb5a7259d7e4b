//! Owns the way in for the command line: HTTP over a Unix socket in the data folder, for the folder's owner alone.
//!
//! It is no part of the application's HTTP: it needs no config, no address, and nobody but the owner of the data folder
//! can open it.

use crate::application::{self, Application, Export};
use crate::background::Arrivals;
use crate::data::DataFolder;
use crate::databases::Databases;
use crate::host::Calls;
use crate::types::Function;
use crate::values;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use cleave_bus::failure::CallError;
use cleave_bus::nats_stream::Road;
use cleave_config::FunctionName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use wasmtime::component::Val;

pub mod events;
pub mod status;

/// The socket's name in the data folder.
pub const SOCKET: &str = "cleave.sock";

/// A call, as the command line asks for it.
#[derive(Debug, Serialize, Deserialize)]
pub struct CallRequest {
    /// `contract.function`; the version may be left out.
    pub function: String,
    /// The arguments in order, each as JSON text.
    pub arguments: Vec<String>,
}

/// How a call or another request came out: the status that tells it on the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It returned, with a value that is not an error; the request was done.
    Returned,
    /// The function answered with its error.
    Error,
    /// The call did not run; nothing was done.
    Unavailable,
    /// The call may have run; something may have been done.
    Uncertain,
    /// The request names what is not there, or its arguments do not fit. The body says the fix on a second line.
    Invalid,
    /// What the request names is not on this node; it may be on another. The body is that of [`Outcome::Invalid`].
    Absent,
}

impl Outcome {
    const ALL: [(Self, StatusCode); 6] = [
        (Self::Returned, StatusCode::OK),
        (Self::Error, StatusCode::CONFLICT),
        (Self::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
        (Self::Uncertain, StatusCode::GATEWAY_TIMEOUT),
        (Self::Invalid, StatusCode::BAD_REQUEST),
        (Self::Absent, StatusCode::GONE),
    ];

    /// The outcome that a status tells.
    pub fn of(status: StatusCode) -> Option<Self> {
        Self::ALL.iter().find(|(_, s)| *s == status).map(|(outcome, _)| *outcome)
    }

    fn status(self) -> StatusCode {
        Self::ALL.iter().find(|(o, _)| *o == self).map_or(StatusCode::BAD_REQUEST, |(_, status)| *status)
    }
}

/// Opens the socket. The data folder is locked, so a socket that is there already belongs to a process that is gone.
pub fn bind(folder: &DataFolder) -> std::io::Result<UnixListener> {
    let path = folder.path().join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(|e| {
        std::io::Error::new(e.kind(), format!("the socket {} cannot be opened: {e}", path.display()))
    })?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the socket until the node stops.
pub async fn serve(listener: UnixListener, router: Router, stopping: CancellationToken) {
    let path = listener.local_addr().ok().and_then(|a| a.as_pathname().map(Path::to_path_buf));
    let served = axum::serve(listener, router).with_graceful_shutdown(stopping.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!("the command line's socket failed: {error}");
    }
    if let Some(path) = path {
        // The next start removes it if this could not.
        let _ = std::fs::remove_file(path);
    }
}

struct Served {
    calls: Arc<Calls>,
    exports: BTreeMap<String, Export>,
}

/// What the socket answers.
pub fn router(
    application: &Application,
    calls: Arc<Calls>,
    databases: &Databases,
    arrivals: &Arrivals,
    road: Option<&Arc<Road>>,
    status: status::Source,
) -> Router {
    Router::new()
        .route("/call", post(call))
        .with_state(Arc::new(Served { calls, exports: application.exports.clone() }))
        .merge(events::router(events::Mailboxes::new(application, databases, arrivals, road)))
        .merge(status::router(status))
}

async fn call(State(served): State<Arc<Served>>, Json(request): Json<CallRequest>) -> Response {
    // What is wrong, and on a second line the fix.
    let invalid = |text: String| answer(Outcome::Invalid, text.into_bytes());
    let found = match request.function.parse::<FunctionName>() {
        Ok(name) => application::function(&served.exports, &name),
        Err(error) => Err((error.to_string(), error.fix().to_owned())),
    };
    let (track, function) = match found {
        Ok(found) => found,
        Err((message, fix)) => return invalid(format!("{message}\n{fix}")),
    };
    if served.calls.edge(track).is_none() {
        let message =
            format!("the module of `{}` is on another node, and no bus leads there", function.address);
        let fix = "ask that node with `--node`, or set `bus.nats` to the address of a NATS server";
        return answer(Outcome::Absent, format!("{message}\n{fix}").into_bytes());
    }
    let arguments = match arguments(&function, &request.arguments) {
        Ok(arguments) => arguments,
        Err(text) => return invalid(text),
    };
    let trace = uuid::Uuid::new_v4().as_u128();
    match served.calls.call(track, Arc::clone(&function), trace, arguments).await {
        Ok(results) => returned(&function, &results),
        Err(error) => failed(&error),
    }
}

fn arguments(function: &Function, texts: &[String]) -> Result<Vec<Val>, String> {
    if texts.len() != function.parameters.len() {
        let (wanted, given) = (function.parameters.len(), texts.len());
        return Err(format!(
            "`{}` takes {wanted} argument{}, and {given} came\nits type is {}",
            function.address,
            if wanted == 1 { "" } else { "s" },
            function.signature()
        ));
    }
    function
        .parameters
        .iter()
        .zip(texts)
        .map(|(parameter, text)| {
            values::from_json(&parameter.ty, text.as_bytes(), usize::MAX)
                .map_err(|e| {
                    let place = format!("argument `{}` of `{}`: {e}", parameter.name.wit, function.address);
                    format!("{place}\neach argument is JSON: text stands in double quotes, which a shell takes off unless single ones stand around them")
                })
        })
        .collect()
}

fn returned(function: &Function, results: &[Val]) -> Response {
    match values::result_to_json(function, results) {
        Ok(Ok(json)) => answer(Outcome::Returned, json),
        Ok(Err(json)) => answer(Outcome::Error, json),
        Err(e) => {
            failed(&CallError::AnswerLost { reason: format!("the result of `{}`: {e}", function.address) })
        }
    }
}

fn failed(error: &CallError) -> Response {
    let outcome = if error.may_have_run() { Outcome::Uncertain } else { Outcome::Unavailable };
    answer(outcome, error.to_string().into_bytes())
}

fn answer(outcome: Outcome, body: Vec<u8>) -> Response {
    let json = matches!(outcome, Outcome::Returned | Outcome::Error);
    let kind = if json { "application/json" } else { "text/plain; charset=utf-8" };
    (outcome.status(), [(header::CONTENT_TYPE, kind)], body).into_response()
}
