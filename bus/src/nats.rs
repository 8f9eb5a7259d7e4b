//! Owns the connection to NATS. What goes over it has a file each: calls that go out, calls that come in, and the heartbeats
//! of the nodes. Beside these, only `service.rs` and `nats_stream.rs` know NATS.
//!
//! The bargain about a call that goes out: until it is handed to the connection it has not run, and the caller is told so;
//! from then on it may have run, unless the bus says that nobody listens or a callee's node says that it did not run it. The
//! client queues what it is given while it reconnects and sends it later, so a call is handed over only while the connection
//! stands, and when it breaks, or the node leaves, every call that waits is told at once that its answer is lost.
//!
//! What arrives is anybody's bytes: it is counted, and refused or dropped.

mod incoming;
mod outgoing;
mod presence;

use crate::certificates;
use crate::members::{HEARTBEAT_MAX, Heartbeat, Members, State};
use crate::subject::Subjects;
use async_nats::connection::State as Connection;
use async_nats::{Client, ConnectOptions, Event, Message, Subscriber};
use dashmap::DashMap;
use futures_util::StreamExt as _;
pub use incoming::{Answer, Answering, Inbound, Outbound};
use outgoing::Pending;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// What an envelope adds to a payload of a call, at most: names, identities, times, headers.
const ENVELOPE_MAX: usize = 4 * 1024;
/// The longest wait between two attempts to connect.
const RECONNECT_WAIT: Duration = Duration::from_millis(250);
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
    /// Root certificates that are trusted in place of the system's.
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
    /// The names of all modules of the application, wherever they are.
    pub application: Vec<String>,
    /// What this replica says of itself; its state is followed from here on.
    pub own: Heartbeat,
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
    /// A file that TLS needs cannot be used.
    #[error("`bus.{key}` is {}, which {reason}", path.display())]
    Certificate {
        /// `ca`, `certificate` or `key`.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it, as the rest of a sentence.
        reason: String,
    },
    /// What the node says of itself is more than the others read.
    #[error(
        "the names and contracts of the modules of this node take {bytes} bytes, and other nodes read {HEARTBEAT_MAX} at most"
    )]
    Heartbeat {
        /// What it takes.
        bytes: usize,
    },
    /// The servers' addresses cannot be used.
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

/// Why the last attempt to connect failed, as far as the client tells.
type Why = Arc<Mutex<Option<String>>>;

/// A node's tie to the bus.
pub struct Bus {
    client: Client,
    subjects: Subjects,
    settings: Settings,
    pending: Pending,
    places: Semaphore,
    /// Calls are handed over only while it is up.
    link: watch::Sender<Link>,
    why: Why,
    state: Mutex<State>,
    /// Another process that keeps the data of this node and was there first.
    twin: watch::Sender<Option<String>>,
    /// Cancelled when this node takes no more calls.
    taking: CancellationToken,
    /// Times the connection was made, of which it is known.
    made: AtomicU64,
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
        let bytes = serde_json::to_vec(&settings.own).map_or(0, |json| json.len());
        if bytes > HEARTBEAT_MAX {
            return Err(BusError::Heartbeat { bytes });
        }
        certificates::check(settings.ca.as_deref(), settings.certificate.as_ref())?;
        let (events, happened) = mpsc::channel(EVENTS_MAX);
        let why = Why::default();
        let unusable = |e: &dyn std::fmt::Display| BusError::Unusable {
            servers: settings.shown.clone(),
            reason: e.to_string(),
        };
        let client = options(&settings, events, &why)
            .await?
            .connect(&settings.servers)
            .await
            .map_err(|e| unusable(&e))?;
        let subjects = Subjects::new(&settings.prefix);
        let replies =
            client.subscribe(subjects.replies(&settings.own.replica)).await.map_err(|e| unusable(&e))?;
        let members = client.subscribe(subjects.members()).await.map_err(|e| unusable(&e))?;
        let bus = Arc::new(Self {
            client,
            subjects,
            pending: DashMap::new(),
            places: Semaphore::new(settings.pending_max),
            link: watch::Sender::new(Link::Down("no server has answered yet".to_owned())),
            why,
            state: Mutex::new(settings.own.state),
            twin: watch::Sender::new(None),
            taking: CancellationToken::new(),
            made: AtomicU64::new(0),
            beat: Notify::new(),
            change: Notify::new(),
            members: Members::new(&settings.own.replica, settings.application.clone(), settings.silent_after),
            counts: Counts::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            settings,
        });
        bus.members.note(bus.heartbeat(), Instant::now());
        bus.tasks.spawn(Arc::clone(&bus).watch_link(happened));
        bus.tasks.spawn(Arc::clone(&bus).take_replies(replies));
        bus.tasks.spawn(Arc::clone(&bus).take_heartbeats(members));
        bus.tasks.spawn(Arc::clone(&bus).say_alive());
        bus.tasks.spawn(Arc::clone(&bus).judge_members());
        Ok(bus)
    }

    /// Ends the tie without a goodbye when it is dropped: for a node whose start fails.
    #[must_use]
    pub fn abandon_on_drop(&self) -> DropGuard {
        self.closing.clone().drop_guard()
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

    /// This replica's own name.
    #[must_use]
    pub fn replica(&self) -> &str {
        &self.settings.own.replica
    }

    /// What this replica says of itself.
    #[must_use]
    pub fn heartbeat(&self) -> Heartbeat {
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Heartbeat { state, ..self.settings.own.clone() }
    }

    /// Whether this replica keeps data that no other process may keep.
    #[must_use]
    pub fn keeps_data(&self) -> bool {
        self.settings.own.keeps_data
    }

    /// The client, for what else goes over the connection.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The names of what is said where.
    pub(crate) fn subjects(&self) -> &Subjects {
        &self.subjects
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

    /// Whether calls are handed over now.
    fn is_up(&self) -> bool {
        *self.link.borrow() == Link::Up
    }

    /// Why nothing is handed over now.
    fn away(&self) -> String {
        let servers = &self.settings.shown;
        match &*self.link.borrow() {
            Link::TooSmall(max) => self.too_small(*max).to_string(),
            Link::Down(_) | Link::Up => format!("there is no connection to NATS at {servers}"),
        }
    }

    /// Says goodbye and closes the connection.
    pub async fn leave(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Left;
        if self.is_up() {
            let goodbye = async {
                self.publish_heartbeat().await;
                // What is still to be sent goes first: answers, and the goodbye. The client may be gone already.
                let _ = self.client.flush().await;
            };
            let _ = tokio::time::timeout(LEAVE_PATIENCE, goodbye).await;
        }
        self.link.send_replace(Link::Down("the node has left the bus".to_owned()));
        self.lose_pending("the node left the bus before the answer came");
        self.closing.cancel();
        let _ = tokio::time::timeout(LEAVE_PATIENCE, self.client.drain()).await;
        self.tasks.close();
        let _ = tokio::time::timeout(LEAVE_PATIENCE, self.tasks.wait()).await;
    }

    /// Follows the connection: whether calls are handed over, and what becomes of those that wait when it breaks.
    async fn watch_link(self: Arc<Self>, mut happened: mpsc::Receiver<Event>) {
        let mut ticks = tokio::time::interval(self.settings.heartbeat);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return,
                event = happened.recv() => match event {
                    None => return,
                    Some(event) => self.take_event(event).await,
                },
                _ = ticks.tick() => self.reconcile(self.is_there()).await,
            }
        }
    }

    async fn take_event(&self, event: Event) {
        let servers = &self.settings.shown;
        match event {
            Event::Connected => self.reconcile(true).await,
            // It is told late, of a connection before the one that is there.
            Event::Disconnected | Event::ClientError(_) if self.is_there() && !self.is_new() => {}
            Event::Disconnected => self.disconnected("the connection broke".to_owned()),
            Event::ClientError(error) => {
                let why = self.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
                self.disconnected(why.unwrap_or_else(|| error.to_string()));
            }
            Event::SlowConsumer(_) => {
                let before = self.counts.slow.fetch_add(1, Ordering::Relaxed);
                // Why: there may be very many; ever fewer of them are told.
                if before.saturating_add(1).is_power_of_two() {
                    tracing::warn!("messages came over the bus faster than they were taken; some are lost");
                }
            }
            Event::ServerError(error) => tracing::warn!("NATS at {servers} says: {error}"),
            event => tracing::info!("NATS at {servers}: {event}"),
        }
    }

    /// Takes the connection for what it is. Why: the client drops what it has to tell when that is too much at once.
    async fn reconcile(&self, is_there: bool) {
        let is_down = || matches!(*self.link.borrow(), Link::Down(_));
        if !is_down() && (!is_there || self.is_new()) {
            self.disconnected("the connection broke".to_owned());
        }
        if is_there && is_down() {
            self.connected().await;
        }
    }

    fn is_there(&self) -> bool {
        self.client.connection_state() == Connection::Connected
    }

    /// Whether the connection is another one than was known of.
    fn is_new(&self) -> bool {
        self.connections() != self.made.load(Ordering::Relaxed)
    }

    /// How often the connection has been made.
    fn connections(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    async fn connected(&self) {
        self.made.store(self.connections(), Ordering::Relaxed);
        // Why: the client says so before it has noted what the server takes; it flushes after that.
        let _ = tokio::time::timeout(SEND_PATIENCE, self.client.flush()).await;
        let servers = &self.settings.shown;
        let server_max = self.client.server_info().max_payload;
        if server_max < self.needed() {
            tracing::error!("{}", self.too_small(server_max));
            self.link.send_replace(Link::TooSmall(server_max));
            return;
        }
        self.members.forgive(Instant::now());
        self.link.send_replace(Link::Up);
        tracing::info!("connected to NATS at {servers}");
        self.beat.notify_one();
    }

    fn disconnected(&self, why: String) {
        let servers = &self.settings.shown;
        match self.link.send_replace(Link::Down(why.clone())) {
            Link::Up | Link::TooSmall(_) => {
                self.counts.broken.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("no connection to NATS at {servers} any more: {why}; it is made again");
                self.lose_pending("the connection to NATS broke before the answer came");
            }
            Link::Down(before) if before != why => {
                tracing::warn!("no connection to NATS at {servers}: {why}; trying again");
            }
            Link::Down(_) => {}
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
}

async fn options(
    settings: &Settings,
    events: mpsc::Sender<Event>,
    why: &Why,
) -> Result<ConnectOptions, BusError> {
    let mut options = ConnectOptions::new()
        .name(format!("cleave {} {}", settings.own.node, settings.own.replica))
        .retry_on_initial_connect()
        .max_reconnects(None)
        // Why: whether they may get the password, and calls without TLS, was found out of the servers in config alone.
        .ignore_discovered_servers()
        .connection_timeout(settings.connect_timeout)
        .ping_interval(settings.ping_interval)
        .subscription_capacity(settings.pending_max.max(SUBSCRIPTION_MAX))
        .require_tls(settings.tls)
        .reconnect_delay_callback(|attempts| match attempts {
            0 | 1 => Duration::ZERO,
            _ => RECONNECT_WAIT,
        })
        .reconnect_to_server_callback({
            let why = Arc::clone(why);
            // It chooses no server. Why at all: nothing else tells why the last attempt failed.
            move |servers, _| {
                let told = servers.into_iter().find_map(|server| server.last_error);
                *why.lock().unwrap_or_else(PoisonError::into_inner) = told;
                std::future::ready(None)
            }
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

#[cfg(test)]
mod tests {
    use super::outgoing::Waiting;
    use super::*;
    use crate::members::Held;
    use tokio::sync::oneshot;

    /// Of a node whose server is nowhere.
    fn settings() -> Settings {
        Settings {
            servers: vec!["nats://127.0.0.1:1".to_owned()],
            shown: String::new(),
            prefix: "cleave".to_owned(),
            user: None,
            credentials: None,
            ca: None,
            certificate: None,
            tls: false,
            connect_timeout: Duration::from_secs(1),
            ping_interval: Duration::from_secs(1),
            heartbeat: Duration::from_secs(1),
            silent_after: Duration::from_secs(4),
            pending_max: 1,
            payload_max: 1,
            application: Vec::new(),
            own: Heartbeat {
                node: "front".to_owned(),
                replica: "r".to_owned(),
                state: State::Starting,
                cleave: String::new(),
                started_unix_ms: 0,
                http: None,
                keeps_data: false,
                modules: Vec::new(),
            },
        }
    }

    #[tokio::test]
    async fn heartbeat_that_nobody_would_read_is_refused() {
        let mut settings = settings();
        let held = |contracts| Held { name: "catalog".to_owned(), digest: String::new(), contracts };
        settings.own.modules = vec![held(vec!["c".repeat(HEARTBEAT_MAX)])];
        let error = Bus::connect(settings.clone()).await.err();
        assert!(matches!(error, Some(BusError::Heartbeat { bytes }) if bytes > HEARTBEAT_MAX), "{error:?}");
        settings.own.modules = vec![held(vec!["c".repeat(HEARTBEAT_MAX / 2)])];
        assert!(Bus::connect(settings).await.is_ok());
    }

    #[tokio::test]
    async fn call_whose_node_leaves_is_told_so() {
        let bus = Bus::connect(settings()).await.ok().unwrap();
        let (answer, answered) = oneshot::channel();
        let _waiting = Waiting::enter(&bus.pending, 7, answer);
        bus.leave().await;
        let told = answered.await.unwrap().unwrap_err();
        assert!(told.may_have_run() && told.to_string().contains("the node left"), "{told}");
    }
}
