//! Owns the road of events between nodes: a stream of NATS JetStream, one for the application.
//!
//! The road carries and keeps nothing of its own. A batch enters at a publisher, on the subject of the pair, and is
//! acknowledged when NATS has stored it; it leaves when the subscriber's node says that it has. Until then NATS gives it
//! out again and again.
//!
//! The stream is a work queue: a batch stays until its one reader has acknowledged it, whether or not that reader has
//! been there yet. Each subscriber has one consumer, which gives out one batch at a time, to whichever process asks. So
//! order holds although several ask, and nobody need know of the others: the next batch is not given out before the one
//! before it is stored. A process that is stopped with a batch in its hands delays the rest by [`ACK_WAIT`], and what it
//! stores when it goes on is known already.

use crate::nats::{Bus, Link};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::{CreateStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::stream::{
    Config, ConsumerError, ConsumerErrorKind, DiscardPolicy, Info, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{self, AckKind, Context, ErrorCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, watch};

/// How long a batch may be in the hands of a process before it is given out again.
pub const ACK_WAIT: Duration = Duration::from_secs(5);
/// How long NATS has to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// How long one question for a batch waits for one to come. A server may forget a question, as one that hands the stream to
/// another of its cluster; then this and 5 s more is how long nothing comes.
const TAKE_PATIENCE: Duration = Duration::from_secs(5);
/// The first version of nats-server that keeps what it has acknowledged through `kill -9` and is tested with Cleave.
const SERVER_MIN: (u64, u64) = (2, 12);
const MADE_ANEW: &str = "the stream of events was made anew";
/// The most bytes of what the server tells of itself that are read.
const VARZ_MAX: u64 = 1024 * 1024;

/// How the stream is kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The most bytes it keeps.
    pub bytes_max: usize,
    /// The most batches of one publisher and subscriber it keeps.
    pub messages_max: usize,
    /// How many servers of a cluster each keep it.
    pub replicas: usize,
    /// Whether NATS must write to the disk before it acknowledges.
    pub durable: bool,
    /// `host:port` where the server tells how it is set.
    pub monitoring: String,
}

/// Why the road cannot be used as config asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The servers have no JetStream.
    #[error("NATS at {0} has no JetStream, which carries events between nodes")]
    NoJetStream(String),
    /// The server is older than 2.12.
    #[error("NATS at {servers} is version {found}, and events between nodes are safe from 2.12 on")]
    Old {
        /// The servers, as they may be shown.
        servers: String,
        /// Its version.
        found: String,
    },
    /// The server acknowledges what is not on its disk.
    #[error("NATS at {0} acknowledges events before they are on its disk")]
    Lazy(String),
    /// It cannot be seen whether it does.
    #[error(
        "whether NATS writes events to its disk before it acknowledges them cannot be seen at http://{monitoring}: {reason}"
    )]
    Unseen {
        /// Where it was asked.
        monitoring: String,
        /// What came instead of an answer.
        reason: String,
    },
    /// The stream cannot be made as config says.
    #[error("the stream `{stream}` cannot be made on NATS at {servers}: {reason}")]
    Stream {
        /// Its name.
        stream: String,
        /// The servers, as they may be shown.
        servers: String,
        /// What the server says.
        reason: String,
    },
}

/// Why a batch did not come or go. It may have; whoever tries again does no harm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Away(String);

/// A batch that came.
#[derive(Debug)]
pub struct Taken {
    /// Who published it, as its subject says, which anyone may have made up.
    pub publisher: String,
    /// The batch.
    pub payload: Bytes,
    /// Its place in the stream.
    pub place: Place,
    message: jetstream::Message,
}

/// A place in a stream. Those of two streams cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which stream: when it was made, in milliseconds since 1970. One that is made anew counts from 1 again.
    pub stream: i64,
    /// The sequence number in it.
    pub sequence: i64,
}

/// The road of one application's events, seen from a node.
pub struct Road {
    bus: Arc<Bus>,
    context: Context,
    settings: Settings,
    /// The stream as it was found last, and how often the connection had broken by then: a server that is another one
    /// afterwards may have another stream. None before that, and after it was not found.
    stream: Mutex<Option<(u64, Stream)>>,
    /// The highest sequence number that anything put here was given.
    highest: AtomicI64,
}

impl Road {
    /// The road over this bus. Nothing is asked of it yet.
    #[must_use]
    pub fn new(bus: &Arc<Bus>, settings: Settings) -> Self {
        let mut context = jetstream::new(bus.client().clone());
        context.set_timeout(ANSWER_PATIENCE);
        Self { bus: Arc::clone(bus), context, settings, stream: Mutex::new(None), highest: AtomicI64::new(0) }
    }

    /// Waits until the connection is there.
    pub async fn wait_for_connection(&self) {
        // It ends with the node, which then waits for nothing.
        let _ = self.bus.link().wait_for(|link| *link == Link::Up).await;
    }

    /// Sees whether the server keeps events as config asks, and makes the stream. The connection must be there.
    ///
    /// # Errors
    /// `Ok(Err(_))` if it does not, and will not without a change; `Err(_)` if it may be tried again.
    pub async fn prepare(&self) -> Result<Result<(), Unfit>, Away> {
        match self.stream().await {
            Ok(_) => Ok(Ok(())),
            Err(StreamError::Away(away)) => Err(away),
            Err(StreamError::Unfit(unfit)) => Ok(Err(unfit)),
        }
    }

    /// Sees whether the server that is connected keeps what it acknowledges.
    async fn check(&self) -> Result<(), StreamError> {
        let info = self.bus.client().server_info();
        let servers = || self.bus.servers().to_owned();
        if !info.jetstream {
            return Err(StreamError::Unfit(Unfit::NoJetStream(servers())));
        }
        if !self.settings.durable {
            return Ok(());
        }
        if version(&info.version).is_none_or(|version| version < SERVER_MIN) {
            return Err(StreamError::Unfit(Unfit::Old { servers: servers(), found: info.version }));
        }
        self.check_sync(&info.server_id).await
    }

    /// Asks the server whether it writes to its disk before it acknowledges: it tells so only where it is monitored.
    async fn check_sync(&self, server: &str) -> Result<(), StreamError> {
        let monitoring = &self.settings.monitoring;
        let unseen =
            |reason: String| StreamError::Unfit(Unfit::Unseen { monitoring: monitoring.clone(), reason });
        let silent = |_| {
            StreamError::Away(Away(format!(
                "NATS does not tell at http://{monitoring} whether it syncs events"
            )))
        };
        let told = tokio::time::timeout(ANSWER_PATIENCE, varz(monitoring)).await.map_err(silent)?;
        let told = told.map_err(|e| unseen(e.to_string()))?;
        let told: Varz =
            serde_json::from_slice(&told).map_err(|e| unseen(format!("no JSON of NATS: {e}")))?;
        // Why a cluster's other server is taken for it: they are set alike, and a client moves between them.
        if told.server_id != server && told.cluster.and_then(|cluster| cluster.name).is_none() {
            return Err(unseen("another server answers there".to_owned()));
        }
        match told.jetstream.config.is_some_and(|config| config.sync_always) {
            true => Ok(()),
            false => Err(StreamError::Unfit(Unfit::Lazy(self.bus.servers().to_owned()))),
        }
    }

    /// Puts a batch on the road; it is there when this returns. Gives its place.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn put(&self, publisher: &str, subscriber: &str, batch: Vec<u8>) -> Result<Place, Away> {
        let made = self.made().await?;
        let subject = self.bus.subjects().event(publisher, subscriber);
        let publishing = async { self.context.publish(subject, batch.into()).await?.await };
        match self.while_up(publishing).await? {
            Ok(stored) => {
                let sequence = signed(stored.sequence);
                // Why: a stream that was made anew meanwhile begins again.
                let is_later = self.highest.swap(sequence, Ordering::Relaxed) < sequence;
                let stream = if is_later { made } else { self.made_by_now().await? };
                Ok(Place { stream, sequence })
            }
            Err(error) => {
                if error.kind() == PublishErrorKind::StreamNotFound {
                    self.forget().await;
                }
                Err(Away(format!(
                    "NATS did not take events of `{publisher}` for `{subscriber}`: {}",
                    told(&error)
                )))
            }
        }
    }

    /// The reader of a subscriber's batches.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn reader(&self, subscriber: &str) -> Result<Reader<'_>, Away> {
        let stream = self.stream().await.map_err(StreamError::into_away)?;
        let config = pull::Config {
            durable_name: Some(subscriber.to_owned()),
            filter_subject: self.bus.subjects().event("*", subscriber),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            // Order holds because of this.
            max_ack_pending: 1,
            ..Default::default()
        };
        let failed =
            |e: &dyn std::fmt::Display| Away(format!("NATS gives no events for `{subscriber}`: {e}"));
        let consumer = match self.while_up(stream.create_consumer(config)).await? {
            Ok(consumer) => consumer,
            Err(error) => {
                self.forget_unless_there(&error).await;
                return Err(failed(&told(&error)));
            }
        };
        let floor = consumer.cached_info().ack_floor;
        // Why: of a consumer that has given nothing yet, it is the end of what others have put there.
        let acknowledged = if floor.consumer_sequence == 0 { 0 } else { signed(floor.stream_sequence) };
        // Why asked after that: the consumer is of this stream, or gone with the one before, and of no use then.
        Ok(Reader { road: self, consumer, made: self.made_by_now().await?, acknowledged })
    }

    /// Takes a subscriber and everything that waits for it off the road; gives how many batches.
    ///
    /// # Errors
    /// [`Away`]; so is a name that stands for several.
    pub async fn remove(&self, subscriber: &str) -> Result<u64, Away> {
        if subscriber.is_empty() || subscriber.contains(|c: char| "*>.".contains(c) || c.is_whitespace()) {
            return Err(Away(format!("`{subscriber}` is not the name of one subscriber")));
        }
        let stream = self.stream().await.map_err(StreamError::into_away)?;
        let failed =
            |e: &dyn std::error::Error| Away(format!("NATS does not forget `{subscriber}`: {}", told(e)));
        match self.while_up(stream.delete_consumer(subscriber)).await? {
            Ok(_) => {}
            Err(error) => match error.kind() {
                ConsumerErrorKind::JetStream(e) if e.error_code() == ErrorCode::CONSUMER_NOT_FOUND => {}
                _ => {
                    self.forget_unless_there(&error).await;
                    return Err(failed(&error));
                }
            },
        }
        let subject = self.bus.subjects().event("*", subscriber);
        let purged = self.while_up(stream.purge().filter(subject).into_future()).await?;
        purged.map(|purged| purged.purged).map_err(|e| failed(&e))
    }

    /// Which stream it is.
    async fn made(&self) -> Result<i64, Away> {
        self.stream().await.map(|stream| made_at(stream.cached_info())).map_err(StreamError::into_away)
    }

    /// The stream, made if it is not there. It is looked at once for each connection.
    async fn stream(&self) -> Result<Stream, StreamError> {
        let mut known = self.stream.lock().await;
        let broken = self.bus.counts.broken.load(Ordering::Relaxed);
        if let Some((_, stream)) = known.as_ref().filter(|(then, _)| *then == broken) {
            return Ok(stream.clone());
        }
        self.while_up(self.check()).await.map_err(StreamError::Away)??;
        let name = self.bus.subjects().stream();
        let config = Config {
            name: name.clone(),
            description: Some("Events between the nodes of an application of Cleave".to_owned()),
            subjects: vec![self.bus.subjects().event("*", "*")],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            // What it does not take stays in the publisher's outbox.
            discard: DiscardPolicy::New,
            discard_new_per_subject: true,
            max_bytes: signed(self.settings.bytes_max as u64),
            max_messages_per_subject: signed(self.settings.messages_max as u64),
            num_replicas: self.settings.replicas,
            ..Default::default()
        };
        let making = async {
            self.context.create_or_update_stream(config).await?;
            Ok::<_, jetstream::context::CreateStreamError>(())
        };
        let unfit = |reason: String| {
            let servers = self.bus.servers().to_owned();
            StreamError::Unfit(Unfit::Stream { stream: name.clone(), servers, reason })
        };
        match self.while_up(making).await.map_err(StreamError::Away)? {
            Ok(()) => {}
            Err(error) => match error.kind() {
                CreateStreamErrorKind::JetStream(e) if is_refusal(e.error_code()) => {
                    return Err(unfit(e.to_string()));
                }
                CreateStreamErrorKind::JetStreamUnavailable => {
                    return Err(StreamError::Away(Away("JetStream does not answer".to_owned())));
                }
                _ => return Err(StreamError::Away(Away(format!("the stream `{name}`: {}", told(&error))))),
            },
        }
        let found = self.while_up(self.context.get_stream(&name)).await.map_err(StreamError::Away)?;
        let stream =
            found.map_err(|e| StreamError::Away(Away(format!("the stream `{name}`: {}", told(&e)))))?;
        *known = Some((broken, stream.clone()));
        Ok(stream)
    }

    async fn forget(&self) {
        *self.stream.lock().await = None;
    }

    /// Forgets the stream if this says that it is gone.
    async fn forget_unless_there(&self, error: &ConsumerError) {
        if let ConsumerErrorKind::JetStream(e) = error.kind()
            && e.error_code() == ErrorCode::STREAM_NOT_FOUND
        {
            self.forget().await;
        }
    }

    /// Which stream it is now, also if it was made anew since it was looked at.
    async fn made_by_now(&self) -> Result<i64, Away> {
        self.now().await.map(|(made, _)| made)
    }

    /// Which stream it is now, and its last sequence number.
    async fn now(&self) -> Result<(i64, i64), Away> {
        let known = self.stream().await.map_err(StreamError::into_away)?;
        match self.while_up(known.get_info()).await? {
            Ok(info) => {
                let made = made_at(&info);
                if made != made_at(known.cached_info()) {
                    self.forget().await;
                }
                Ok((made, signed(info.state.last_sequence)))
            }
            Err(error) => {
                self.forget().await;
                Err(Away(format!("NATS does not tell of the stream of events: {}", told(&error))))
            }
        }
    }

    /// Does something as long as the connection is there.
    async fn while_up<T>(&self, doing: impl Future<Output = T>) -> Result<T, Away> {
        let servers = self.bus.servers();
        tokio::select! {
            biased;
            () = lost(self.bus.link()) => Err(Away(format!("the connection to NATS at {servers} is lost"))),
            done = doing => Ok(done),
        }
    }
}

/// Waits until the connection that is there now is gone.
///
/// Why any change tells: when this is looked at, there may be another one already, and what was asked for over the one
/// before never comes.
async fn lost(mut link: watch::Receiver<Link>) {
    if *link.borrow_and_update() == Link::Up {
        let _ = link.changed().await;
    }
}

/// The one reader of a subscriber's batches, or one of several of which one has the batch.
pub struct Reader<'a> {
    road: &'a Road,
    consumer: jetstream::consumer::Consumer<pull::Config>,
    made: i64,
    /// Everything up to here had been acknowledged when the reader was made.
    pub acknowledged: i64,
}

impl Reader<'_> {
    /// Which stream it reads.
    #[must_use]
    pub fn stream(&self) -> i64 {
        self.made
    }

    /// The next batch; none if none has come for a while.
    ///
    /// # Errors
    /// [`Away`]; the reader is of no more use then.
    pub async fn take(&self) -> Result<Option<Taken>, Away> {
        let failed = |e: &dyn std::fmt::Display| Away(format!("NATS gives no events: {e}"));
        let taking = async {
            let asked = self.consumer.batch().max_messages(1).expires(TAKE_PATIENCE).messages();
            asked.await.map_err(|e| failed(&e))?.next().await.transpose().map_err(|e| failed(&e))
        };
        let Some(message) = self.road.while_up(taking).await?? else { return Ok(None) };
        let sequence = message.info().map_err(|e| failed(&e))?.stream_sequence;
        let place = Place { stream: self.made, sequence: signed(sequence) };
        let between = self.road.bus.subjects().between(&message.subject);
        let publisher = between.map(|(publisher, _)| publisher.to_owned()).unwrap_or_default();
        Ok(Some(Taken { publisher, payload: message.payload.clone(), place, message }))
    }

    /// The last place of the stream that anything was put at, as NATS tells now.
    ///
    /// # Errors
    /// [`Away`], as if the stream were not there if it was made anew: the reader is of no more use then.
    pub async fn end(&self) -> Result<i64, Away> {
        let (made, last) = self.road.now().await?;
        if made == self.made { Ok(last) } else { Err(Away(MADE_ANEW.to_owned())) }
    }

    /// Whether nothing waits for the subscriber, not even in somebody's hands.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn is_empty(&self) -> Result<bool, Away> {
        let info = self.road.while_up(self.consumer.get_info()).await?;
        let info = info.map_err(|e| Away(format!("NATS does not tell what waits: {}", told(&e))))?;
        Ok(info.num_pending == 0 && info.num_ack_pending == 0)
    }
}

impl Taken {
    /// Says that the batch is stored; the next one is given out. If that is lost, this one comes again.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn acknowledge(&self) -> Result<(), Away> {
        self.answer(AckKind::Ack).await
    }

    /// Says that the batch never will be stored; it is gone.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn discard(&self) -> Result<(), Away> {
        self.answer(AckKind::Term).await
    }

    /// Leaves the batch to whoever asks next, after a pause.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn leave(&self) -> Result<(), Away> {
        self.answer(AckKind::Nak(Some(ACK_WAIT))).await
    }

    async fn answer(&self, kind: AckKind) -> Result<(), Away> {
        self.message.ack_with(kind).await.map_err(|e| Away(format!("NATS was not told of a batch: {e}")))
    }
}

/// Why there is no stream.
enum StreamError {
    Away(Away),
    Unfit(Unfit),
}

impl StreamError {
    fn into_away(self) -> Away {
        match self {
            Self::Away(away) => away,
            Self::Unfit(unfit) => Away(unfit.to_string()),
        }
    }
}

/// What a server tells of itself, as far as it matters here: `/varz` of its monitoring.
#[derive(serde::Deserialize)]
struct Varz {
    server_id: String,
    #[serde(default)]
    cluster: Option<Cluster>,
    #[serde(default)]
    jetstream: VarzJetStream,
}

#[derive(serde::Deserialize)]
struct Cluster {
    #[serde(default)]
    name: Option<String>,
}

#[derive(Default, serde::Deserialize)]
struct VarzJetStream {
    #[serde(default)]
    config: Option<VarzConfig>,
}

#[derive(serde::Deserialize)]
struct VarzConfig {
    #[serde(default)]
    sync_always: bool,
}

/// Reads `/varz`. One request of HTTP 1.0, whose answer ends with the connection, needs no client.
async fn varz(monitoring: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(monitoring).await?;
    stream.write_all(format!("GET /varz HTTP/1.0\r\nHost: {monitoring}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(VARZ_MAX).read_to_end(&mut answer).await?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let body = end.and_then(|end| answer.get(end.saturating_add(4)..)).unwrap_or_default();
    Ok(body.to_vec())
}

/// Whether the server will say the same of every further try.
fn is_refusal(code: ErrorCode) -> bool {
    // What a cluster says whose servers have not all found each other, among others.
    ![
        ErrorCode::CLUSTER_INCOMPLETE,
        ErrorCode::CLUSTER_NO_PEERS,
        ErrorCode::CLUSTER_NOT_ACTIVE,
        ErrorCode::CLUSTER_NOT_ASSIGNED,
        ErrorCode::CLUSTER_NOT_AVAILABLE,
        ErrorCode::CLUSTER_NOT_LEADER,
        ErrorCode::INSUFFICIENT_RESOURCES,
    ]
    .contains(&code)
}

/// An error with what it comes from, which many of the client's keep to themselves.
fn told(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) if !error.to_string().contains(&source.to_string()) => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

/// Major and minor of a version.
fn version(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn made_at(stream: &Info) -> i64 {
    i64::try_from(stream.created.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// A number of NATS as databases keep it.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connection_that_was_made_anew_at_once_was_lost_all_the_same() {
        let link = watch::Sender::new(Link::Up);
        let mut lost = std::pin::pin!(lost(link.subscribe()));
        tokio::select! {
            biased;
            () = &mut lost => panic!("it is there"),
            () = std::future::ready(()) => {}
        }
        link.send_replace(Link::Down("the connection broke".to_owned()));
        link.send_replace(Link::Up);
        tokio::select! {
            biased;
            () = lost => {}
            () = std::future::ready(()) => panic!("nobody is told"),
        }
    }

    #[test]
    fn cluster_that_is_not_formed_yet_is_waited_for() {
        for code in [10_004, 10_005, 10_006, 10_007, 10_008, 10_009, 10_023] {
            assert!(!is_refusal(ErrorCode(code)), "{code}");
        }
        for code in [10_052, 10_058, 10_074] {
            assert!(is_refusal(ErrorCode(code)), "{code}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        for taken in ["2.12.0", "2.12.0-RC.1", "2.12", "2.12.11", "2.100.0", "3.0.0", "10.0.0"] {
            assert!(version(taken) >= Some(SERVER_MIN), "{taken}");
        }
        for old in ["2.11.9", "2.11.12", "2.9", "2.9.25", "2.1.2", "1.99.0", "0.0.0"] {
            assert!(version(old).is_some_and(|version| version < SERVER_MIN), "{old}");
        }
        // What cannot be read is as good as old.
        for garbage in
            ["", "2", "2.", ".12", "two.twelve", "v2.12.0", "2.12-RC.1", "-2.12", "2.99999999999999999999"]
        {
            assert_eq!(version(garbage), None, "{garbage}");
        }
    }
}
