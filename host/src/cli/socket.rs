//! Asks the application that runs on this data folder.

use super::{Exit, complain};
use crate::admin::{Outcome, SOCKET};
use cleave_config::Config;
use http_body_util::{BodyExt, Full};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::path::Path;
use tokio::net::UnixStream;

/// What to do when the application does not do what it is asked.
pub(super) struct Help {
    /// It has done nothing.
    pub(super) unavailable: &'static str,
    /// It may have done something.
    pub(super) uncertain: &'static str,
    /// The request is wrong, and the application does not know a way out.
    pub(super) invalid: &'static str,
}

/// What to do when the application does not understand, or is not understood.
const OTHER_VERSION: &str = "it may be another version of cleave: start it again";

/// Asks, and gives what came back with [`Outcome::Returned`] or [`Outcome::Error`]. Everything else is complained of.
pub(super) fn ask(
    config: &Config,
    path: &str,
    request: &impl Serialize,
    help: &Help,
) -> Result<(Outcome, String), Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        complain(&format!("the async runtime cannot start: {error}"), "free some threads")
    })?;
    let socket = config.data_dir().join(SOCKET);
    let (status, body) = runtime.block_on(send(&socket, path, request)).map_err(|error| match error {
        SendError::NotRunning(error) => {
            let message = format!("no application answers at {}: {error}", socket.display());
            complain(&message, "start it with `cleave up`, with the same config");
            Exit::Unavailable
        }
        SendError::Lost(error) => {
            complain(&format!("the answer was lost: {error}"), help.uncertain);
            Exit::Uncertain
        }
    })?;
    if status == StatusCode::NOT_FOUND {
        return Err(complain(&format!("the application that runs knows no `{path}`"), OTHER_VERSION));
    }
    let text = String::from_utf8_lossy(&body).into_owned();
    match Outcome::of(status).unwrap_or(Outcome::Invalid) {
        outcome @ (Outcome::Returned | Outcome::Error) => Ok((outcome, text)),
        Outcome::Unavailable => {
            complain(&text, help.unavailable);
            Err(Exit::Unavailable)
        }
        Outcome::Uncertain => {
            complain(&text, help.uncertain);
            Err(Exit::Uncertain)
        }
        Outcome::Invalid => {
            let (message, fix) = text.split_once('\n').unwrap_or((&text, help.invalid));
            complain(message, fix);
            Err(Exit::Usage)
        }
    }
}

/// Asks for a value.
pub(super) fn ask_for<T: DeserializeOwned>(
    config: &Config,
    path: &str,
    request: &impl Serialize,
    help: &Help,
) -> Result<T, Exit> {
    let (_, text) = ask(config, path, request, help)?;
    serde_json::from_str(&text)
        .map_err(|error| complain(&format!("the answer cannot be read: {error}"), OTHER_VERSION))
}

/// A request that was not answered.
enum SendError {
    /// It was not sent.
    NotRunning(String),
    /// It was sent.
    Lost(String),
}

async fn send(socket: &Path, path: &str, request: &impl Serialize) -> Result<(StatusCode, Bytes), SendError> {
    let not_running = |e: &dyn Display| SendError::NotRunning(e.to_string());
    let lost = |e: &dyn Display| SendError::Lost(e.to_string());
    let stream = UnixStream::connect(socket).await.map_err(|e| not_running(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| not_running(&e))?;
    // Why: the connection does the reading and writing; it ends with the runtime.
    tokio::spawn(connection);
    let body = serde_json::to_vec(request).map_err(|e| not_running(&e))?;
    let request = hyper::Request::post(path)
        .header(hyper::header::HOST, "localhost")
        .header(hyper::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| not_running(&e))?;
    let answer = sender.send_request(request).await.map_err(|e| lost(&e))?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|e| lost(&e))?.to_bytes();
    Ok((status, body))
}
