//! `cleave call`: calls a function of the application that runs on this data folder.

use super::{Application, Exit, complain, print, report};
use crate::admin::{CallRequest, Outcome, SOCKET};
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use std::path::Path;
use tokio::net::UnixStream;

#[derive(Debug, Args)]
pub(super) struct Call {
    #[command(flatten)]
    application: Application,
    /// The function, as in `shop:catalog/products.get`; a version may follow the contract.
    #[arg(value_name = "CONTRACT.FUNCTION")]
    function: String,
    /// The arguments in order, each as JSON.
    #[arg(value_name = "JSON", allow_negative_numbers = true)]
    arguments: Vec<String>,
}

impl Call {
    pub(super) fn run(self) -> Exit {
        let config = match self.application.load() {
            Ok(config) => config,
            Err(problems) => return report(&problems),
        };
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                return complain(&format!("the async runtime cannot start: {error}"), "free some threads");
            }
        };
        let request = CallRequest { function: self.function, arguments: self.arguments };
        let socket = config.data.dir.join(SOCKET);
        let (outcome, body) = match runtime.block_on(send(&socket, &request)) {
            Ok(answer) => answer,
            Err(SendError::NotRunning(error)) => {
                let message = format!("no application answers at {}: {error}", socket.display());
                complain(&message, "start it with `cleave up`, with the same config");
                return Exit::Unavailable;
            }
            Err(SendError::Lost(error)) => {
                complain(
                    &format!("the answer was lost: {error}"),
                    "the call may have run; look before you repeat it",
                );
                return Exit::Uncertain;
            }
        };
        let text = String::from_utf8_lossy(&body);
        match outcome {
            Outcome::Returned => print(&format!("{text}\n"), Exit::Done),
            Outcome::Error => print(&format!("{text}\n"), Exit::CallError),
            Outcome::Unavailable => {
                complain(&text, "the call did not run; it may be repeated");
                Exit::Unavailable
            }
            Outcome::Uncertain => {
                complain(&text, "the call may have run; look before you repeat it");
                Exit::Uncertain
            }
            Outcome::Invalid => {
                let (message, fix) =
                    text.split_once('\n').unwrap_or((&text, "`cleave check --json` lists the functions"));
                complain(message, fix);
                Exit::Usage
            }
        }
    }
}

/// A request that was not answered.
enum SendError {
    /// It was not sent.
    NotRunning(String),
    /// It was sent.
    Lost(String),
}

async fn send(socket: &Path, request: &CallRequest) -> Result<(Outcome, Bytes), SendError> {
    let not_running = |e: &dyn std::fmt::Display| SendError::NotRunning(e.to_string());
    let lost = |e: &dyn std::fmt::Display| SendError::Lost(e.to_string());
    let stream = UnixStream::connect(socket).await.map_err(|e| not_running(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| not_running(&e))?;
    // Why: the connection does the reading and writing; it ends with the process.
    tokio::spawn(connection);
    let body = serde_json::to_vec(request).map_err(|e| not_running(&e))?;
    let request = hyper::Request::post("/call")
        .header(hyper::header::HOST, "localhost")
        .header(hyper::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| not_running(&e))?;
    let answer = sender.send_request(request).await.map_err(|e| lost(&e))?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|e| lost(&e))?.to_bytes();
    match Outcome::of(status) {
        Some(outcome) => Ok((outcome, body)),
        None => Ok((Outcome::Invalid, body)),
    }
}
