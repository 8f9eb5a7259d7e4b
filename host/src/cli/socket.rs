//! Asks the application that runs on the data folder, or on those of its nodes.
//!
//! A node that cannot be asked has done nothing, and another may be asked instead. Once a request was sent it may have
//! been done, and nobody else is asked unless the verb says that asking twice is safe.

use super::{Exit, complain, say};
use crate::admin::{Outcome, SOCKET};
use cleave_config::{Config, NodeName};
use http_body_util::{BodyExt, Full};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// What to do when the application does not do what it is asked.
pub(super) struct Help {
    /// It has done nothing.
    pub(super) unavailable: &'static str,
    /// It may have done something.
    pub(super) uncertain: &'static str,
    /// The request is wrong, and the application does not know a way out.
    pub(super) invalid: &'static str,
    /// How long one node is waited for before the next is asked; none where asking twice is not safe.
    pub(super) patience: Option<Duration>,
}

/// What to do when the application does not understand, or is not understood.
const OTHER_VERSION: &str = "it may be another version of cleave: start it again";

/// Where the application may answer: the whole of it, or one of its nodes.
pub(super) struct Place<'a> {
    node: Option<&'a NodeName>,
    socket: PathBuf,
}

/// A request that brought no outcome.
enum SendError {
    /// It was not sent.
    NotRunning(String),
    /// It was sent.
    Lost(String),
    /// Whoever answers does not know it.
    Unknown(String),
}

/// The places that are meant: the node that was chosen, or all, in the order of their names. Of these, the ones where a
/// module is placed, if one is named.
pub(super) fn places<'a>(config: &'a Config, module: Option<&str>) -> Result<Vec<Place<'a>>, Exit> {
    let module = module.filter(|module| config.modules.contains_key(*module));
    if let (Some(node), Some(module)) = (config.node(), module)
        && !config.is_here(module)
    {
        let nodes: Vec<_> = config.nodes_of(module).iter().map(|n| format!("`--node {n}`")).collect();
        let fix = format!("ask with {}, or leave `--node` out", nodes.join(" or "));
        complain(&format!("`{module}` is not on node `{node}`"), &fix);
        return Err(Exit::Usage);
    }
    if config.node().is_some() || config.nodes.is_empty() {
        return Ok(vec![Place { node: config.node(), socket: config.data_dir().join(SOCKET) }]);
    }
    let nodes = module.map_or_else(|| config.nodes.keys().collect(), |module| config.nodes_of(module));
    let place = |node| Place { node: Some(node), socket: config.data_dir_of(node).join(SOCKET) };
    Ok(nodes.into_iter().map(place).collect())
}

/// Those of the places where somebody answers, at least one; says which the others are.
pub(super) fn answering(places: Vec<Place<'_>>) -> Result<Vec<Place<'_>>, Exit> {
    let (mut answering, mut others) = (Vec::new(), Vec::new());
    for place in places {
        match std::os::unix::net::UnixStream::connect(&place.socket) {
            Ok(_connection) => answering.push(place),
            Err(error) => others.push((place, error.to_string())),
        }
    }
    if answering.is_empty() {
        return Err(nobody(&others));
    }
    for (place, _) in &others {
        say(&format!("{} is not asked: nobody answers at {}", place.name(), place.socket.display()));
    }
    Ok(answering)
}

/// Asks the first node that answers and has what is asked for, and gives what came back with [`Outcome::Returned`] or
/// [`Outcome::Error`]. Everything else is complained of.
pub(super) fn ask_first(
    places: Vec<Place<'_>>,
    path: &str,
    request: &impl Serialize,
    help: &Help,
) -> Result<(Outcome, String), Exit> {
    let (mut absent, mut others) = (None, Vec::new());
    for place in places {
        match place.send(path, request, help.patience)? {
            Ok((Outcome::Absent, text)) => absent = Some(text),
            Ok((outcome, text)) => return settle(outcome, text, help),
            Err(SendError::NotRunning(error)) => others.push((place, error)),
            Err(SendError::Lost(error)) if help.patience.is_some() => others.push((place, error)),
            Err(error) => return Err(place.unanswered(error, help)),
        }
    }
    match absent {
        Some(text) => settle(Outcome::Absent, text, help),
        None => Err(nobody(&others)),
    }
}

/// Asks every one of the places for a value. One that has not what is asked for is left out, unless none has it.
pub(super) fn ask_each<'a, 'p, T: DeserializeOwned>(
    places: &'a [Place<'p>],
    path: &str,
    request: &impl Serialize,
    help: &Help,
) -> Result<Vec<(&'a Place<'p>, T)>, Exit> {
    let (mut absent, mut answers) = (None, Vec::new());
    for place in places {
        match place.send(path, request, help.patience)? {
            Ok((Outcome::Absent, text)) => absent = Some(text),
            Ok((outcome, text)) => answers.push((place, value(&settle(outcome, text, help)?.1)?)),
            Err(error) => return Err(place.unanswered(error, help)),
        }
    }
    match absent {
        Some(text) if answers.is_empty() => {
            Err(settle(Outcome::Absent, text, help).err().unwrap_or(Exit::Usage))
        }
        _ => Ok(answers),
    }
}

impl Place<'_> {
    /// The node's name, in a sentence.
    pub(super) fn name(&self) -> String {
        self.node.map_or_else(|| "the application".to_owned(), |node| format!("node `{node}`"))
    }

    /// Asks for a value here.
    pub(super) fn ask_for<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
        help: &Help,
    ) -> Result<T, Exit> {
        match self.send(path, request, help.patience)? {
            Ok((outcome, text)) => value(&settle(outcome, text, help)?.1),
            Err(error) => Err(self.unanswered(error, help)),
        }
    }

    /// Sends a request and waits for its outcome.
    fn send(
        &self,
        path: &str,
        request: &impl Serialize,
        patience: Option<Duration>,
    ) -> Result<Result<(Outcome, String), SendError>, Exit> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
                complain(&format!("the async runtime cannot start: {error}"), "free some threads")
            })?;
        let sent = runtime.block_on(async {
            let sending = send(&self.socket, path, request);
            match patience {
                None => sending.await,
                Some(patience) => tokio::time::timeout(patience, sending)
                    .await
                    .unwrap_or_else(|_| Err(SendError::Lost(format!("nothing came within {patience:?}")))),
            }
        });
        Ok(sent.and_then(|(status, body)| match status {
            StatusCode::NOT_FOUND => Err(SendError::Unknown(path.to_owned())),
            _ => {
                let outcome = Outcome::of(status).unwrap_or(Outcome::Invalid);
                Ok((outcome, String::from_utf8_lossy(&body).into_owned()))
            }
        }))
    }

    /// Complains that no outcome came.
    fn unanswered(&self, error: SendError, help: &Help) -> Exit {
        let name = self.name();
        match error {
            SendError::NotRunning(error) => nobody(&[(self, error)]),
            SendError::Lost(error) => {
                complain(&format!("the answer of {name} was lost: {error}"), help.uncertain);
                Exit::Uncertain
            }
            SendError::Unknown(path) => {
                complain(&format!("{name}, which runs, knows no `{path}`"), OTHER_VERSION)
            }
        }
    }
}

/// Complains that nobody answers at any of these places.
fn nobody<'a, P: std::borrow::Borrow<Place<'a>>>(places: &[(P, String)]) -> Exit {
    let at = |(place, error): &(P, String)| format!("{}: {error}", place.borrow().socket.display());
    let node = places.first().and_then(|(place, _)| place.borrow().node);
    match (places, node) {
        ([one], Some(node)) => complain(
            &format!("node `{node}` does not answer at {}", at(one)),
            &format!("start it with `cleave up --node {node}`, with the same config"),
        ),
        (several, Some(node)) => {
            let all: Vec<_> = several.iter().map(at).collect();
            complain(
                &format!("no node of the application answers at\n  {}", all.join("\n  ")),
                &format!("start one with `cleave up --node {node}`, with the same config"),
            )
        }
        (places, None) => complain(
            &format!("no application answers at {}", places.first().map(at).unwrap_or_default()),
            "start it with `cleave up`, with the same config",
        ),
    };
    Exit::Unavailable
}

/// Gives what came back with [`Outcome::Returned`] or [`Outcome::Error`], and complains of everything else.
fn settle(outcome: Outcome, text: String, help: &Help) -> Result<(Outcome, String), Exit> {
    match outcome {
        Outcome::Returned | Outcome::Error => Ok((outcome, text)),
        Outcome::Unavailable => {
            complain(&text, help.unavailable);
            Err(Exit::Unavailable)
        }
        Outcome::Uncertain => {
            complain(&text, help.uncertain);
            Err(Exit::Uncertain)
        }
        Outcome::Invalid | Outcome::Absent => {
            let (message, fix) = text.split_once('\n').unwrap_or((&text, help.invalid));
            complain(message, fix);
            Err(Exit::Usage)
        }
    }
}

/// Reads the value that came back.
pub(super) fn value<T: DeserializeOwned>(text: &str) -> Result<T, Exit> {
    serde_json::from_str(text)
        .map_err(|error| complain(&format!("the answer cannot be read: {error}"), OTHER_VERSION))
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
