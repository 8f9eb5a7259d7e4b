//! Owns calls that come in, and questions about this node.

use super::{Bus, BusError, LEAVE_PATIENCE, SEND_PATIENCE};
use crate::envelope::{Outcome, Reply};
use crate::members::State;
use crate::service::{Description, Endpoint};
use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// How long a node that takes no more calls still answers those that come, because not everybody has heard of it.
const NOTICE: Duration = Duration::from_millis(200);
/// Refusals of calls beyond the limit that wait to be sent.
const REFUSALS_MAX: usize = 16_384;

/// A call that came in.
#[derive(Debug)]
pub struct Inbound {
    /// The contract and function that the subject names, as [`crate::subject::function`] writes them.
    pub called: String,
    /// What came.
    pub payload: Bytes,
    /// Whether it is JSON, because the header `Content-Type` says so.
    pub json: bool,
    /// The header `traceparent`.
    pub traceparent: Option<String>,
}

/// The answer to a call that came in.
#[derive(Debug)]
pub struct Outbound {
    /// What goes back.
    pub payload: Vec<u8>,
    /// What went wrong, with the status that HTTP has for it.
    pub error: Option<(u16, String)>,
    /// Whether headers tell it, as in the NATS services protocol: an envelope tells it by itself.
    pub in_headers: bool,
}

/// A future of an [`Answer`].
pub type Answering<'a> = Pin<Box<dyn Future<Output = Outbound> + Send + 'a>>;

/// Whoever answers calls that come in.
pub trait Answer: Send + Sync + 'static {
    /// Answers one call.
    fn answer<'a>(&'a self, request: &'a Inbound) -> Answering<'a>;
}

impl Bus {
    /// Takes calls of these functions, each answered in a task of its own, until [`stop_taking`](Self::stop_taking). At most
    /// `at_once` are looked at at a time; one more is refused.
    ///
    /// # Errors
    /// If a name cannot be a subject.
    pub async fn serve(
        self: &Arc<Self>,
        endpoints: Vec<Endpoint>,
        answer: Arc<dyn Answer>,
        at_once: usize,
        tasks: &TaskTracker,
    ) -> Result<(), BusError> {
        let unusable = |e: &dyn std::fmt::Display| BusError::Unusable {
            servers: self.settings.shown.clone(),
            reason: e.to_string(),
        };
        let mut subscribed = vec![
            self.client.subscribe(self.subjects.calls_at(self.replica())).await.map_err(|e| unusable(&e))?,
        ];
        let groups: std::collections::BTreeSet<_> =
            endpoints.iter().map(|e| (self.subjects.calls_of(&e.track), e.queue_group())).collect();
        for (subject, queue) in groups {
            subscribed.push(self.client.queue_subscribe(subject, queue).await.map_err(|e| unusable(&e))?);
        }
        let description = Arc::new(Description::new(&self.settings.own, endpoints, &self.subjects));
        let server = Arc::new(Serving {
            bus: Arc::clone(self),
            answer,
            places: Arc::new(Semaphore::new(at_once)),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            description: Arc::clone(&description),
            tasks: tasks.clone(),
        });
        for subscriber in subscribed {
            tasks.spawn(Arc::clone(&server).take_calls(subscriber));
        }
        if self.settings.own.keeps_data {
            let asked = self.client.subscribe(self.subjects.node(&self.settings.own.node)).await;
            let own_name = self.replica().as_bytes().to_vec();
            let tell = move |_: &str| Some(own_name.clone());
            self.tasks.spawn(Arc::clone(self).tell(asked.map_err(|e| unusable(&e))?, tell));
        }
        for subject in description.subjects() {
            let asked = self.client.subscribe(subject).await.map_err(|e| unusable(&e))?;
            let description = Arc::clone(&description);
            self.tasks.spawn(Arc::clone(self).tell(asked, move |subject| description.tell(subject)));
        }
        self.say(State::Up, &[State::Starting]);
        Ok(())
    }

    /// Sends an answer. While the connection is away it is kept for a while; the caller may have given up by then.
    async fn reply(&self, to: async_nats::Subject, answer: Outbound) {
        let payload = answer.payload.into();
        let client = &self.client;
        let sending = async {
            let Some((code, text)) = answer.error.filter(|_| answer.in_headers) else {
                return client.publish(to, payload).await;
            };
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Service-Error-Code", code.to_string());
            headers.insert("Nats-Service-Error", text.replace(['\r', '\n'], " "));
            client.publish_with_headers(to, headers, payload).await
        };
        match tokio::time::timeout(SEND_PATIENCE, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("an answer was not sent over the bus: {error}"),
            Err(_elapsed) => self.drop_one(),
        }
    }

    /// Answers questions about this node with what `tell` says to their subject.
    async fn tell(self: Arc<Self>, mut asked: Subscriber, tell: impl Fn(&str) -> Option<Vec<u8>> + Send) {
        while let Some(message) = self.next(&mut asked).await {
            let reply = message.reply.filter(|reply| self.subjects.takes_answers(reply));
            let (Some(to), Some(payload)) = (reply, tell(&message.subject)) else {
                self.drop_one();
                continue;
            };
            self.reply(to, Outbound { payload, error: None, in_headers: false }).await;
        }
    }
}

/// What takes calls from the bus.
struct Serving {
    bus: Arc<Bus>,
    answer: Arc<dyn Answer>,
    places: Arc<Semaphore>,
    /// Places for refusals that wait to be sent.
    refusals: Arc<Semaphore>,
    description: Arc<Description>,
    tasks: TaskTracker,
}

impl Serving {
    async fn take_calls(self: Arc<Self>, mut calls: Subscriber) {
        let told = async {
            self.bus.taking.cancelled().await;
            tokio::time::sleep(NOTICE).await;
        };
        tokio::pin!(told);
        loop {
            tokio::select! {
                message = calls.next() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                () = &mut told => break,
            }
        }
        // From here on the bus gives this node no more calls; those it has given are answered. A connection that is away
        // gives none.
        let rest = async {
            if self.bus.is_up() && calls.drain().await.is_ok() {
                while let Some(message) = calls.next().await {
                    self.take(message);
                }
            }
        };
        let _ = tokio::time::timeout(LEAVE_PATIENCE, rest).await;
    }

    fn take(self: &Arc<Self>, message: Message) {
        let bus = &self.bus;
        let (Some(to), Some(called)) = (
            message.reply.filter(|reply| bus.subjects.takes_answers(reply)),
            bus.subjects.called(bus.replica(), &message.subject),
        ) else {
            return bus.drop_one();
        };
        let header = |name: &str| Some(message.headers.as_ref()?.get(name)?.as_str().to_owned());
        let request = Inbound {
            called: called.to_owned(),
            json: header("Content-Type").is_some_and(|kind| kind.starts_with("application/json")),
            traceparent: header("traceparent"),
            payload: message.payload,
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return self.refuse(to, &request);
        };
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let began = Instant::now();
            let answer = this.answer.answer(&request).await;
            this.bus.counts.served.fetch_add(1, Ordering::Relaxed);
            this.description.count(&request.called, answer.error.as_ref(), began.elapsed());
            // What was asked is not kept while its answer waits.
            drop(request);
            this.bus.reply(to, answer).await;
            drop(place);
        });
    }

    /// Answers one call too many, unless too many such answers wait already.
    fn refuse(self: &Arc<Self>, to: async_nats::Subject, request: &Inbound) {
        let answer = overloaded(request.json);
        self.bus.counts.overloaded.fetch_add(1, Ordering::Relaxed);
        self.description.count(&request.called, answer.error.as_ref(), Duration::ZERO);
        let Ok(waits) = Arc::clone(&self.refusals).try_acquire_owned() else {
            return self.bus.drop_one();
        };
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            this.bus.reply(to, answer).await;
            drop(waits);
        });
    }
}

/// The answer to one call too many.
fn overloaded(json: bool) -> Outbound {
    let reason = "the node runs and queues as many calls as it may";
    let reply = || Reply::new(Outcome::Refused(reason)).encode().unwrap_or_default();
    let payload = if json { Vec::new() } else { reply() };
    Outbound { payload, error: Some((503, reason.to_owned())), in_headers: json }
}
