//! Owns the connection to NATS: calls that go out, calls that come in, and the heartbeats of the nodes. Nothing else in
//! Cleave knows NATS.
//!
//! The bargain about a call that goes out: until it is handed to the connection it has not run, and the caller is told so;
//! from then on it may have run, unless the bus says that nobody listens or a callee's node says that it did not run it. The
//! client queues what it is given while it reconnects and sends it later, so a call is handed over only while the connection
//! stands, and when it breaks every call that waits is told at once that its answer is lost.
//!
//! What arrives is anybody's bytes: it is counted, and refused or dropped.

use crate::failure::CallError;
use crate::members::{Heartbeat, Held, Members, News, State, Way};
use crate::service::{Description, Endpoint};
use crate::subject::Subjects;
use async_nats::{Client, ConnectOptions, Event, HeaderMap, Message, StatusCode, Subscriber};
use bytes::Bytes;
use dashmap::DashMap;
use futures_util::StreamExt as _;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What an envelope adds to a payload of a call, at most: names, identities, times, headers.
const ENVELOPE_MAX: usize = 4 * 1024;
/// The longest wait between two attempts to connect.
const RECONNECT_WAIT: Duration = Duration::from_millis(250);
/// How long a node that takes no more calls still answers those that come, because not everybody has heard of it.
const NOTICE: Duration = Duration::from_millis(200);
/// How long another process of this node has to say that it is there.
const TWIN_PATIENCE: Duration = Duration::from_secs(1);
/// The shortest time between two heartbeats.
const BEAT_MIN: Duration = Duration::from_millis(20);
/// How long an answer, or a heartbeat, waits for a connection that is away.
const SEND_PATIENCE: Duration = Duration::from_secs(2);
/// How long leaving may take at each of its steps.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);
/// Messages of one subscription that wait to be taken, and more if more answers are awaited.
const SUBSCRIPTION_MAX: usize = 65_536;
/// Events of the connection that wait to be looked at.
const EVENTS_MAX: usize = 256;

/// How a node is tied to the bus.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The servers' URLs, `nats://` or `tls://`, without user and password.
    pub servers: Vec<String>,
    /// The servers as they may be shown: without passwords.
    pub shown: String,
    /// The first part of every subject.
    pub prefix: String,
    /// User and password.
    pub user: Option<(String, String)>,
    /// A NATS credentials file.
    pub credentials: Option<PathBuf>,
    /// Root certificates that are trusted beside the system's.
    pub ca: Option<PathBuf>,
    /// The client's certificate and key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Whether the connection must be encrypted.
    pub tls: bool,
    /// The longest one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How often a silent connection is asked whether it lives.
    pub ping_interval: Duration,
    /// How often this node says that it lives.
    pub heartbeat: Duration,
    /// A node not heard of for so long gets no calls.
    pub silent_after: Duration,
    /// The most calls of this node that wait for answers.
    pub pending_max: usize,
    /// The largest payload of a call, in bytes.
    pub payload_max: usize,
    /// The node's name.
    pub node: String,
    /// This replica's own name: letters, digits and dashes.
    pub replica: String,
    /// The version of Cleave.
    pub cleave: String,
    /// Where this replica serves HTTP.
    pub http: Option<String>,
    /// The names of all modules of the application, wherever they are.
    pub application: Vec<String>,
    /// Whether it keeps data that no other process may keep.
    pub keeps_data: bool,
    /// The modules it holds.
    pub modules: Vec<Held>,
}

/// Why a node cannot be tied to the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The credentials file cannot be used.
    #[error("the credentials {} cannot be read: {source}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The servers' addresses or the certificates cannot be used.
    #[error("NATS at {servers} cannot be used: {reason}")]
    Unusable {
        /// The servers, as they may be shown.
        servers: String,
        /// What the client says.
        reason: String,
    },
    /// A server takes smaller messages than calls may be.
    #[error(
        "NATS at {servers} takes messages of {server_max} bytes at most, and a call may take {needed}: `calls.payload_max` \
         and {ENVELOPE_MAX} bytes for its envelope"
    )]
    PayloadMax {
        /// The servers, as they may be shown.
        servers: String,
        /// What the server takes.
        server_max: usize,
        /// What a call may take.
        needed: usize,
    },
}

/// How the connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Not there; it is tried again and again. What the client says of the last attempt.
    Down(String),
    /// There.
    Up,
    /// There, and of no use: the server takes smaller messages than calls may be. The bytes it takes.
    TooSmall(usize),
}

/// What has happened on the bus since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Calls handed over.
    pub sent: AtomicU64,
    /// Calls that came in and were answered.
    pub served: AtomicU64,
    /// Calls that came in and were refused, because as many run and wait as may.
    pub overloaded: AtomicU64,
    /// Messages that nobody could be answered to, or that are no call, no answer and no heartbeat.
    pub dropped: AtomicU64,
    /// Times that messages came faster than they were taken, so that some were lost.
    pub slow: AtomicU64,
    /// Times the connection broke.
    pub broken: AtomicU64,
}

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
    /// For a caller who speaks JSON: what went wrong, as the NATS services protocol tells it.
    pub error: Option<(u16, String)>,
}

/// A future of an [`Answer`].
pub type Answering<'a> = Pin<Box<dyn Future<Output = Outbound> + Send + 'a>>;

/// Whoever answers calls that come in.
pub trait Answer: Send + Sync + 'static {
    /// Answers one call.
    fn answer(&self, request: Inbound) -> Answering<'_>;
}

/// A node's tie to the bus.
pub struct Bus {
    client: Client,
    subjects: Subjects,
    settings: Settings,
    pending: DashMap<u128, oneshot::Sender<Result<Bytes, CallError>>>,
    places: Semaphore,
    /// Whether calls are handed over; what `link` tells to those who wait for a change.
    up: AtomicBool,
    link: watch::Sender<Link>,
    state: Mutex<State>,
    /// Another process that keeps the data of this node and was there first.
    twin: watch::Sender<Option<String>>,
    started: SystemTime,
    /// Wakes who says that this node lives, and who finds out what follows from what others say.
    beat: Notify,
    change: Notify,
    /// Who is there.
    pub members: Members,
    /// What has happened.
    pub counts: Counts,
    /// The tasks that keep the tie, and their end.
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl Bus {
    /// Ties a node to the bus. Returns before a server has answered: connecting goes on by itself, for ever.
    ///
    /// # Errors
    /// If the settings cannot be used, whatever the servers do.
    pub async fn connect(settings: Settings) -> Result<Arc<Self>, BusError> {
        let (events, happened) = mpsc::channel(EVENTS_MAX);
        let unusable = |e: &dyn std::fmt::Display| BusError::Unusable {
            servers: settings.shown.clone(),
            reason: e.to_string(),
        };
        let client =
            options(&settings, events).await?.connect(&settings.servers).await.map_err(|e| unusable(&e))?;
        let subjects = Subjects::new(&settings.prefix);
        let replies =
            client.subscribe(subjects.replies(&settings.replica)).await.map_err(|e| unusable(&e))?;
        let members = client.subscribe(subjects.members()).await.map_err(|e| unusable(&e))?;
        let bus = Arc::new(Self {
            client,
            subjects,
            pending: DashMap::new(),
            places: Semaphore::new(settings.pending_max),
            up: AtomicBool::new(false),
            link: watch::Sender::new(Link::Down("no server has answered yet".to_owned())),
            state: Mutex::new(State::Starting),
            twin: watch::Sender::new(None),
            started: SystemTime::now(),
            beat: Notify::new(),
            change: Notify::new(),
            members: Members::new(&settings.replica, settings.application.clone(), settings.silent_after),
            counts: Counts::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            settings,
        });
        bus.tasks.spawn(Arc::clone(&bus).watch_link(happened));
        bus.tasks.spawn(Arc::clone(&bus).take_replies(replies));
        bus.tasks.spawn(Arc::clone(&bus).take_heartbeats(members));
        bus.tasks.spawn(Arc::clone(&bus).say_alive());
        bus.tasks.spawn(Arc::clone(&bus).judge_members());
        Ok(bus)
    }

    /// How the connection is, now and whenever it changes.
    #[must_use]
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// Waits until the connection is there, until `until` at most.
    pub async fn wait_for_connection(&self, until: Instant) {
        let mut link = self.link();
        // It ends with this value.
        let _ = tokio::time::timeout_at(until.into(), link.wait_for(|link| *link == Link::Up)).await;
    }

    /// Another process that keeps the data of this node and was there first, once it is heard of.
    #[must_use]
    pub fn twin(&self) -> watch::Receiver<Option<String>> {
        self.twin.subscribe()
    }

    /// Asks for a process that keeps the data of this node: its name. One that does not answer in time is taken to be none.
    pub async fn find_twin(&self) -> Option<String> {
        let asked = self.client.request(self.subjects.node(&self.settings.node), Bytes::new());
        let answer = tokio::time::timeout(TWIN_PATIENCE, asked).await.ok()?.ok()?;
        Some(String::from_utf8_lossy(&answer.payload).chars().take(64).collect())
    }

    /// This replica's own name.
    #[must_use]
    pub fn replica(&self) -> &str {
        &self.settings.replica
    }

    /// What this replica says of itself.
    #[must_use]
    pub fn heartbeat(&self) -> Heartbeat {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        Heartbeat {
            node: self.settings.node.clone(),
            replica: self.settings.replica.clone(),
            state: *self.state.lock().unwrap_or_else(PoisonError::into_inner),
            cleave: self.settings.cleave.clone(),
            started_unix_ms: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
            http: self.settings.http.clone(),
            keeps_data: self.settings.keeps_data,
            modules: self.settings.modules.clone(),
        }
    }

    /// Whether this replica keeps data that no other process may keep.
    #[must_use]
    pub fn keeps_data(&self) -> bool {
        self.settings.keeps_data
    }

    /// The servers, as they may be shown.
    #[must_use]
    pub fn servers(&self) -> &str {
        &self.settings.shown
    }

    /// The error of a server that takes smaller messages than calls may be.
    #[must_use]
    pub fn too_small(&self, server_max: usize) -> BusError {
        BusError::PayloadMax { servers: self.settings.shown.clone(), server_max, needed: self.needed() }
    }

    fn needed(&self) -> usize {
        self.settings.payload_max.saturating_add(ENVELOPE_MAX)
    }

    /// Sends a call to a replica that holds the module, and waits for the answer until `until`.
    ///
    /// # Errors
    /// [`CallError::Refused`] and [`CallError::TurnedAway`] if it did not run, [`CallError::AnswerLost`] if it may have.
    pub async fn call(
        &self,
        module: &str,
        (track, function): (&str, &str),
        call: u128,
        request: Vec<u8>,
        until: Instant,
    ) -> Result<Bytes, CallError> {
        let way = self.members.way(module);
        let subject = match &way {
            Way::Any => self.subjects.call(track, function),
            Way::At(replica) => self.subjects.at(replica, track, function),
            Way::Nobody { node, silent } => {
                let silent_after = self.settings.silent_after;
                let why = match silent {
                    true => format!("has not been heard of for {silent_after:?} (`bus.silent_after`)"),
                    false => "is stopping".to_owned(),
                };
                let reason = format!("node `{node}`, which holds `{module}`, {why}");
                return Err(CallError::Refused { reason });
            }
        };
        let answer = self.exchange(function, subject, call, request, until).await;
        if let (Way::At(replica), Err(CallError::TurnedAway { .. })) = (&way, &answer) {
            self.members.forget(replica, Instant::now());
        }
        answer
    }

    async fn exchange(
        &self,
        function: &str,
        subject: String,
        call: u128,
        request: Vec<u8>,
        until: Instant,
    ) -> Result<Bytes, CallError> {
        let began = Instant::now();
        let refused = |reason: String| CallError::Refused { reason };
        let Ok(_place) = self.places.try_acquire() else {
            let max = self.settings.pending_max;
            return Err(refused(format!(
                "{max} calls wait for answers over the bus, as many as `bus.pending_max` allows"
            )));
        };
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting::enter(&self.pending, call, answer);
        if !self.up.load(Ordering::Acquire) {
            return Err(refused(self.away()));
        }
        let reply = self.subjects.reply(&self.settings.replica, call);
        let handing = self.client.publish_with_reply(subject, reply, request.into());
        // Given up, it is not handed over: the client's queue takes a message whole or not at all.
        match tokio::time::timeout_at(until.into(), handing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(refused(format!("the call cannot be sent over the bus: {error}"))),
            Err(_elapsed) => {
                return Err(refused("the bus took nothing until the deadline passed".to_owned()));
            }
        }
        self.counts.sent.fetch_add(1, Ordering::Relaxed);
        let outcome = tokio::time::timeout_at(until.into(), answered).await;
        drop(waiting);
        match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_dropped)) => Err(CallError::AnswerLost { reason: "the node left the bus".to_owned() }),
            Err(_elapsed) => Err(CallError::TimedOut {
                function: function.to_owned(),
                limit: until.saturating_duration_since(began),
            }),
        }
    }

    /// Why nothing is handed over now.
    fn away(&self) -> String {
        let servers = &self.settings.shown;
        match &*self.link.borrow() {
            Link::TooSmall(max) => self.too_small(*max).to_string(),
            Link::Down(_) | Link::Up => format!("there is no connection to NATS at {servers}"),
        }
    }

    /// Takes calls of these functions, each answered in a task of its own, until `stopping`. At most `at_once` are looked
    /// at at a time; one more is refused.
    ///
    /// # Errors
    /// If a name cannot be a subject.
    pub async fn serve(
        self: &Arc<Self>,
        endpoints: Vec<Endpoint>,
        answer: Arc<dyn Answer>,
        at_once: usize,
        tasks: &TaskTracker,
        stopping: &CancellationToken,
    ) -> Result<(), BusError> {
        let unusable = |e: &dyn std::fmt::Display| BusError::Unusable {
            servers: self.settings.shown.clone(),
            reason: e.to_string(),
        };
        let mut subscribed = vec![
            self.client
                .subscribe(self.subjects.calls_at(&self.settings.replica))
                .await
                .map_err(|e| unusable(&e))?,
        ];
        let groups: std::collections::BTreeSet<_> =
            endpoints.iter().map(|e| (self.subjects.calls_of(&e.track), e.module.clone())).collect();
        for (subject, queue) in groups {
            subscribed.push(self.client.queue_subscribe(subject, queue).await.map_err(|e| unusable(&e))?);
        }
        let server = Arc::new(Serving {
            bus: Arc::clone(self),
            answer,
            places: Arc::new(Semaphore::new(at_once)),
            description: Description::new(&self.settings, self.started, endpoints, &self.subjects),
            tasks: tasks.clone(),
        });
        for subscriber in subscribed {
            tasks.spawn(Arc::clone(&server).take_calls(subscriber, stopping.clone()));
        }
        if self.settings.keeps_data {
            let asked = self.client.subscribe(self.subjects.node(&self.settings.node)).await;
            self.tasks.spawn(Arc::clone(&server).say_that_it_is_taken(asked.map_err(|e| unusable(&e))?));
        }
        for subject in server.description.subjects() {
            let asked = self.client.subscribe(subject).await.map_err(|e| unusable(&e))?;
            self.tasks.spawn(Arc::clone(&server).describe(asked));
        }
        self.say(State::Up, State::Starting);
        Ok(())
    }

    /// Says that this node takes no more calls. It goes on answering those it has, and calling others.
    pub fn stop_taking(&self) {
        self.say(State::Draining, State::Starting);
        self.say(State::Draining, State::Up);
    }

    /// Tells everybody of a new state, if the one before is this.
    fn say(&self, state: State, before: State) {
        let mut now = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *now == before {
            *now = state;
            drop(now);
            self.members.note(self.heartbeat(), Instant::now());
            self.beat.notify_one();
        }
    }

    /// Says goodbye and closes the connection.
    pub async fn leave(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Left;
        if self.up.load(Ordering::Acquire) {
            let goodbye = async {
                self.publish_heartbeat().await;
                // What is still to be sent goes first: answers, and the goodbye. The client may be gone already.
                let _ = self.client.flush().await;
            };
            let _ = tokio::time::timeout(LEAVE_PATIENCE, goodbye).await;
        }
        self.up.store(false, Ordering::Release);
        self.closing.cancel();
        let _ = tokio::time::timeout(LEAVE_PATIENCE, self.client.drain()).await;
        self.tasks.close();
        let _ = tokio::time::timeout(LEAVE_PATIENCE, self.tasks.wait()).await;
    }

    /// Follows the connection: whether calls are handed over, and what becomes of those that wait when it breaks.
    async fn watch_link(self: Arc<Self>, mut happened: mpsc::Receiver<Event>) {
        loop {
            let event = tokio::select! {
                event = happened.recv() => event,
                () = self.closing.cancelled() => return,
            };
            let servers = &self.settings.shown;
            match event {
                None => return,
                Some(Event::Connected) => {
                    // Why: the client says so before it has noted what the server takes; it flushes after that.
                    let _ = tokio::time::timeout(SEND_PATIENCE, self.client.flush()).await;
                    self.connected();
                }
                Some(Event::Disconnected) => {
                    self.up.store(false, Ordering::Release);
                    self.counts.broken.fetch_add(1, Ordering::Relaxed);
                    self.link.send_replace(Link::Down("the connection broke".to_owned()));
                    tracing::warn!("the connection to NATS at {servers} broke; it is made again");
                    self.lose_pending();
                }
                Some(Event::SlowConsumer(_)) => {
                    let before = self.counts.slow.fetch_add(1, Ordering::Relaxed);
                    // Why: there may be very many; ever fewer of them are told.
                    if before.saturating_add(1).is_power_of_two() {
                        tracing::warn!(
                            "messages came over the bus faster than they were taken; some are lost"
                        );
                    }
                }
                Some(Event::ClientError(error)) => {
                    let was = self.link.send_replace(Link::Down(error.to_string()));
                    if was != Link::Down(error.to_string()) {
                        tracing::warn!("no connection to NATS at {servers}: {error}; trying again");
                    }
                }
                Some(Event::ServerError(error)) => tracing::warn!("NATS at {servers} says: {error}"),
                Some(event) => tracing::info!("NATS at {servers}: {event}"),
            }
        }
    }

    fn connected(&self) {
        let servers = &self.settings.shown;
        let server_max = self.client.server_info().max_payload;
        if server_max < self.needed() {
            tracing::error!("{}", self.too_small(server_max));
            self.link.send_replace(Link::TooSmall(server_max));
            return;
        }
        self.members.forgive(Instant::now());
        self.up.store(true, Ordering::Release);
        self.link.send_replace(Link::Up);
        tracing::info!("connected to NATS at {servers}");
        self.beat.notify_one();
    }

    fn lose_pending(&self) {
        let calls: Vec<u128> = self.pending.iter().map(|entry| *entry.key()).collect();
        for call in calls {
            if let Some((_, answer)) = self.pending.remove(&call) {
                let reason = "the connection to NATS broke before the answer came".to_owned();
                // A caller that has given up wants no answer.
                let _ = answer.send(Err(CallError::AnswerLost { reason }));
            }
        }
    }

    async fn take_replies(self: Arc<Self>, mut replies: Subscriber) {
        while let Some(message) = self.next(&mut replies).await {
            let call = self.subjects.replied(&self.settings.replica, &message.subject);
            let outcome = match message.status {
                Some(StatusCode::NO_RESPONDERS) => Err(CallError::TurnedAway {
                    reason: "nobody on the bus serves it now: the node that holds it is not there".to_owned(),
                }),
                Some(_) => {
                    self.drop_one();
                    continue;
                }
                None => Ok(message.payload),
            };
            // Why: what cannot be an answer leaves the call waiting for the one that can.
            let readable = outcome.as_ref().map_or(true, |b| crate::envelope::Reply::decode(b).is_ok());
            match call.filter(|_| readable).and_then(|call| self.pending.remove(&call)) {
                Some((_, answer)) => drop(answer.send(outcome)),
                None => self.drop_one(),
            }
        }
    }

    async fn take_heartbeats(self: Arc<Self>, mut heartbeats: Subscriber) {
        while let Some(message) = self.next(&mut heartbeats).await {
            let Some((said, news)) = self.members.hear(&message.payload, Instant::now()) else {
                self.drop_one();
                continue;
            };
            match news {
                News::None => {}
                // Whoever is new does not know us yet.
                News::Newcomer => self.beat.notify_one(),
                News::Change => self.change.notify_one(),
            }
            if self.heartbeat().is_shut_out_by(&said) {
                self.twin.send_replace(Some(said.replica));
            }
        }
    }

    /// The next message, until the node leaves.
    async fn next(&self, subscriber: &mut Subscriber) -> Option<Message> {
        tokio::select! {
            message = subscriber.next() => message,
            () = self.closing.cancelled() => None,
        }
    }

    fn drop_one(&self) {
        self.counts.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Finds out what follows from what others say, at most every [`BEAT_MIN`]: they may be many.
    async fn judge_members(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.change.notified() => self.members.judge(Instant::now()),
                () = self.closing.cancelled() => return,
            }
            tokio::time::sleep(BEAT_MIN).await;
        }
    }

    async fn say_alive(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.settings.heartbeat);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.members.note(self.heartbeat(), Instant::now()),
                () = self.beat.notified() => self.members.note(self.heartbeat(), Instant::now()),
                () = self.closing.cancelled() => return,
            }
            if self.up.load(Ordering::Acquire) {
                let _ = tokio::time::timeout(SEND_PATIENCE, self.publish_heartbeat()).await;
                tokio::time::sleep(BEAT_MIN).await;
            }
        }
    }

    async fn publish_heartbeat(&self) {
        // Plain data, which has no reason not to be JSON; a beat that fails is followed by another.
        let Ok(json) = serde_json::to_vec(&self.heartbeat()) else { return };
        if let Err(error) = self.client.publish(self.subjects.members(), json.into()).await {
            tracing::warn!("the heartbeat was not sent: {error}");
        }
    }
}

/// A call's place among those that wait for answers.
struct Waiting<'a> {
    pending: &'a DashMap<u128, oneshot::Sender<Result<Bytes, CallError>>>,
    call: u128,
}

impl<'a> Waiting<'a> {
    fn enter(
        pending: &'a DashMap<u128, oneshot::Sender<Result<Bytes, CallError>>>,
        call: u128,
        answer: oneshot::Sender<Result<Bytes, CallError>>,
    ) -> Self {
        pending.insert(call, answer);
        Self { pending, call }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pending.remove(&self.call);
    }
}

/// What takes calls from the bus.
struct Serving {
    bus: Arc<Bus>,
    answer: Arc<dyn Answer>,
    places: Arc<Semaphore>,
    description: Description,
    tasks: TaskTracker,
}

impl Serving {
    async fn take_calls(self: Arc<Self>, mut calls: Subscriber, stopping: CancellationToken) {
        let told = async {
            stopping.cancelled().await;
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
            if self.bus.up.load(Ordering::Acquire) && calls.drain().await.is_ok() {
                while let Some(message) = calls.next().await {
                    self.take(message);
                }
            }
        };
        let _ = tokio::time::timeout(LEAVE_PATIENCE, rest).await;
    }

    fn take(self: &Arc<Self>, message: Message) {
        let bus = &self.bus;
        let (Some(reply), Some(called)) = (
            message.reply.filter(|reply| bus.subjects.takes_answers(reply)),
            bus.subjects.called(&bus.settings.replica, &message.subject),
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
        let this = Arc::clone(self);
        let place = Arc::clone(&self.places).try_acquire_owned();
        self.tasks.spawn(async move {
            let Ok(_place) = place else {
                this.bus.counts.overloaded.fetch_add(1, Ordering::Relaxed);
                return this.reply(reply, overloaded(request.json)).await;
            };
            let (called, began) = (request.called.clone(), Instant::now());
            let answer = this.answer.answer(request).await;
            this.bus.counts.served.fetch_add(1, Ordering::Relaxed);
            this.description.count(&called, answer.error.as_ref(), began.elapsed());
            this.reply(reply, answer).await;
        });
    }

    /// Sends an answer. While the connection is away it is kept for a while; the caller may have given up by then.
    async fn reply(&self, to: async_nats::Subject, answer: Outbound) {
        let payload = answer.payload.into();
        let client = &self.bus.client;
        let sending = async {
            let Some((code, text)) = answer.error else { return client.publish(to, payload).await };
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Service-Error-Code", code.to_string());
            headers.insert("Nats-Service-Error", text.replace(['\r', '\n'], " "));
            client.publish_with_headers(to, headers, payload).await
        };
        match tokio::time::timeout(SEND_PATIENCE, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("an answer was not sent over the bus: {error}"),
            Err(_elapsed) => self.bus.drop_one(),
        }
    }

    /// Answers another process that would keep the data of this node.
    async fn say_that_it_is_taken(self: Arc<Self>, mut asked: Subscriber) {
        while let Some(message) = self.bus.next(&mut asked).await {
            match message.reply.filter(|reply| self.bus.subjects.takes_answers(reply)) {
                Some(to) => {
                    let payload = self.bus.settings.replica.clone().into_bytes();
                    self.reply(to, Outbound { payload, error: None }).await;
                }
                None => self.bus.drop_one(),
            }
        }
    }

    /// Answers whoever asks what is there.
    async fn describe(self: Arc<Self>, mut asked: Subscriber) {
        while let Some(message) = self.bus.next(&mut asked).await {
            let reply = message.reply.filter(|reply| self.bus.subjects.takes_answers(reply));
            let (Some(to), Some(payload)) = (reply, self.description.tell(&message.subject)) else {
                self.bus.drop_one();
                continue;
            };
            self.reply(to, Outbound { payload, error: None }).await;
        }
    }
}

/// The answer to one call too many.
fn overloaded(json: bool) -> Outbound {
    let reason = "the node runs and queues as many calls as it may";
    if json {
        return Outbound { payload: Vec::new(), error: Some((503, reason.to_owned())) };
    }
    let reply = crate::envelope::Reply::new(crate::envelope::Outcome::TurnedAway(reason));
    Outbound { payload: reply.encode().unwrap_or_default(), error: None }
}

async fn options(settings: &Settings, events: mpsc::Sender<Event>) -> Result<ConnectOptions, BusError> {
    let mut options = ConnectOptions::new()
        .name(format!("cleave {} {}", settings.node, settings.replica))
        .retry_on_initial_connect()
        .max_reconnects(None)
        .connection_timeout(settings.connect_timeout)
        .ping_interval(settings.ping_interval)
        .subscription_capacity(settings.pending_max.max(SUBSCRIPTION_MAX))
        .require_tls(settings.tls)
        .reconnect_delay_callback(|attempts| match attempts {
            0 | 1 => Duration::ZERO,
            _ => RECONNECT_WAIT,
        })
        .event_callback(move |event| {
            let events = events.clone();
            async move {
                // Nobody listens any more when the node has left.
                let _ = events.send(event).await;
            }
        });
    if let Some((user, password)) = &settings.user {
        options = options.user_and_password(user.clone(), password.clone());
    }
    if let Some(ca) = &settings.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some((certificate, key)) = &settings.certificate {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    match &settings.credentials {
        None => Ok(options),
        Some(path) => options
            .credentials_file(path)
            .await
            .map_err(|source| BusError::Credentials { path: path.clone(), source }),
    }
}
