//! Owns what a node tells of itself to the tools of NATS: the services protocol, by which `nats micro ls` finds it.
//!
//! Each replica of a node is an instance of a service of the node's name; each function it serves is an endpoint. The
//! messages are those of NATS ADR-32, version 1.

use crate::members::Heartbeat;
use crate::subject::{self, Subjects};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A function that a node serves.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The module that exports it.
    pub module: String,
    /// The contract's track.
    pub track: String,
    /// The contract with its version.
    pub contract: String,
    /// The function's name.
    pub function: String,
    /// Its type, for people.
    pub signature: String,
}

impl Endpoint {
    /// The queue group that shares its calls. Why the contract and not the module: a server gives a call to each queue group
    /// of a subject once, and a contract that moves to another module would run twice.
    #[must_use]
    pub fn queue_group(&self) -> String {
        subject::contract(&self.track)
    }
}

/// What a replica says of itself, and the counts of its endpoints.
#[derive(Debug)]
pub struct Description {
    node: String,
    replica: String,
    version: String,
    started: String,
    endpoints: Vec<Served>,
    /// The endpoints by what the subject of a call names.
    by_name: HashMap<String, usize>,
}

#[derive(Debug)]
struct Served {
    name: String,
    subject: String,
    queue_group: String,
    endpoint: Endpoint,
    requests: AtomicU64,
    errors: AtomicU64,
    nanoseconds: AtomicU64,
    last_error: Mutex<String>,
}

#[derive(Serialize)]
struct Head<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    id: &'a str,
    version: &'a str,
    metadata: Map<String, Json>,
}

impl Description {
    /// The description of a replica that serves these functions.
    #[must_use]
    pub fn new(own: &Heartbeat, endpoints: Vec<Endpoint>, subjects: &Subjects) -> Self {
        let by_name = endpoints
            .iter()
            .enumerate()
            .map(|(place, e)| (subject::function(&e.track, &e.function), place))
            .collect();
        let served = |endpoint: Endpoint| Served {
            // The letters that a name may have are those of a subject's token.
            name: subject::function(&endpoint.track, &endpoint.function).replace('.', "-"),
            subject: subjects.call(&endpoint.track, &endpoint.function),
            queue_group: endpoint.queue_group(),
            endpoint,
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            nanoseconds: AtomicU64::new(0),
            last_error: Mutex::default(),
        };
        Self {
            node: own.node.clone(),
            replica: own.replica.clone(),
            version: own.cleave.clone(),
            started: rfc3339(UNIX_EPOCH.checked_add(Duration::from_millis(own.started_unix_ms))),
            endpoints: endpoints.into_iter().map(served).collect(),
            by_name,
        }
    }

    /// The subjects that it is asked at.
    pub(crate) fn subjects(&self) -> [String; 3] {
        let (node, replica) = (&self.node, &self.replica);
        ["$SRV.*".to_owned(), format!("$SRV.*.{node}"), format!("$SRV.*.{node}.{replica}")]
    }

    /// Counts a call of an endpoint, and what went wrong with it.
    pub(crate) fn count(&self, called: &str, error: Option<&(u16, String)>, took: Duration) {
        let Some(served) = self.by_name.get(called).and_then(|place| self.endpoints.get(*place)) else {
            return;
        };
        served.requests.fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        served.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        if let Some((code, text)) = error {
            served.errors.fetch_add(1, Ordering::Relaxed);
            *served.last_error.lock().unwrap_or_else(PoisonError::into_inner) = format!("{code}:{text}");
        }
    }

    /// The answer to a question, whose verb the subject tells; none if there is no such verb.
    pub(crate) fn tell(&self, subject: &str) -> Option<Vec<u8>> {
        let answer = match subject.split('.').nth(1)? {
            "PING" => json!(self.head("io.nats.micro.v1.ping_response")),
            "INFO" => with(json!(self.head("io.nats.micro.v1.info_response")), self.info()),
            "STATS" => with(json!(self.head("io.nats.micro.v1.stats_response")), self.stats()),
            _ => return None,
        };
        serde_json::to_vec(&answer).ok()
    }

    fn head(&self, kind: &'static str) -> Head<'_> {
        Head { kind, name: &self.node, id: &self.replica, version: &self.version, metadata: Map::new() }
    }

    fn info(&self) -> Json {
        let endpoints: Vec<_> = self
            .endpoints
            .iter()
            .map(|served| {
                json!({
                    "name": served.name,
                    "subject": served.subject,
                    "queue_group": served.queue_group,
                    "metadata": {
                        "module": served.endpoint.module,
                        "contract": served.endpoint.contract,
                        "type": served.endpoint.signature,
                    },
                })
            })
            .collect();
        json!({ "description": format!("node `{}` of Cleave", self.node), "endpoints": endpoints })
    }

    fn stats(&self) -> Json {
        let endpoints: Vec<_> = self
            .endpoints
            .iter()
            .map(|served| {
                let requests = served.requests.load(Ordering::Relaxed);
                let nanoseconds = served.nanoseconds.load(Ordering::Relaxed);
                json!({
                    "name": served.name,
                    "subject": served.subject,
                    "queue_group": served.queue_group,
                    "num_requests": requests,
                    "num_errors": served.errors.load(Ordering::Relaxed),
                    "last_error": *served.last_error.lock().unwrap_or_else(PoisonError::into_inner),
                    "processing_time": nanoseconds,
                    "average_processing_time": nanoseconds.checked_div(requests).unwrap_or(0),
                })
            })
            .collect();
        json!({ "started": self.started, "endpoints": endpoints })
    }
}

/// A time as the protocol writes it.
fn rfc3339(at: Option<SystemTime>) -> String {
    at.and_then(|at| OffsetDateTime::from(at).format(&Rfc3339).ok()).unwrap_or_default()
}

/// One object of two.
fn with(mut head: Json, more: Json) -> Json {
    if let (Json::Object(head), Json::Object(more)) = (&mut head, more) {
        head.extend(more);
    }
    head
}
