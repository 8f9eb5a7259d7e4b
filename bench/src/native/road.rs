//! Events on a road of NATS between two native programs, over JetStream whose stream is synced before it acknowledges.
//!
//! [`Kind::Same`] keeps the same rows in the same tables as the host and carries them as it does: an outbox, batches of up to
//! as many events, one in hand at a time, an inbox, and the handler's rows with the mark in a transaction for each event.
//! [`Kind::Bare`] is the least that moves events into a database: no outbox and no inbox, as many messages in hand as
//! JetStream gives, everything that has come in one commit with one sync.

use super::events::{BATCH, Event, RECEIVE, REMOVE, REMOVE_TO, WAITING, deliver};
use super::grouped::{self, execute};
use crate::events::{SUBSCRIBER, event, handle};
use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context, Message};
use cleave_bus::batch;
use futures_util::{FutureExt as _, StreamExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;

const PUBLISHER: &str = "publisher";
/// How long one question for a batch waits for one to come.
const TAKE_PATIENCE: Duration = Duration::from_secs(30);

/// How events are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Same,
    Bare,
}

impl Kind {
    /// Its name, and that of its stream.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Same => "native-same",
            Self::Bare => "native-bare",
        }
    }

    fn of(name: &str) -> Self {
        [Self::Same, Self::Bare].into_iter().find(|kind| kind.name() == name).unwrap()
    }
}

/// The program that publishes.
pub(crate) struct Publisher {
    kind: Kind,
    context: Context,
    outbox: Arc<grouped::Database>,
    published: Arc<Notify>,
    /// Ended with this value.
    _relay: JoinSet<()>,
}

impl Publisher {
    /// Makes the stream. The outbox's file must be in the folder.
    pub(crate) async fn start(kind: Kind, url: &str, folder: &Path) -> Self {
        let context = jetstream::new(async_nats::connect(url).await.unwrap());
        let stream = Config {
            name: kind.name().to_owned(),
            subjects: vec![kind.name().to_owned()],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            ..Default::default()
        };
        context.create_stream(stream).await.unwrap();
        let outbox = grouped::Database::open(folder, PUBLISHER, true);
        let published = Arc::new(Notify::new());
        let mut relay = JoinSet::new();
        if kind == Kind::Same {
            relay.spawn(carry_all(context.clone(), Arc::clone(&outbox), Arc::clone(&published)));
        }
        Self { kind, context, outbox, published, _relay: relay }
    }

    /// Publishes each event by itself; it is durable when this returns.
    pub(crate) async fn each(&self, numbers: impl Iterator<Item = u64> + Send) {
        for event in numbers.map(event) {
            match self.kind {
                Kind::Same => {
                    self.outbox.write(|outbox| event.put(outbox, &[SUBSCRIBER])).await;
                    self.published.notify_one();
                }
                Kind::Bare => send(&self.context, self.kind, &[event]).await,
            }
        }
    }

    /// Publishes events together, in one transaction or in full batches.
    pub(crate) async fn together(&self, numbers: impl Iterator<Item = u64> + Send) {
        let events: Vec<Event> = numbers.map(event).collect();
        match self.kind {
            Kind::Same => {
                self.outbox
                    .write(|outbox| events.iter().for_each(|event| event.put(outbox, &[SUBSCRIBER])))
                    .await;
                self.published.notify_one();
            }
            Kind::Bare => {
                for events in events.chunks(BATCH as usize) {
                    send(&self.context, self.kind, events).await;
                }
            }
        }
    }
}

/// Puts a batch on the stream; it is on the disk when this returns.
async fn send(context: &Context, kind: Kind, events: &[Event]) {
    let packed: Vec<_> = events.iter().map(packed).collect();
    let batch = batch::encode(&packed).unwrap();
    context.publish(kind.name(), batch.into()).await.unwrap().await.unwrap();
}

fn packed(event: &Event) -> batch::Event<'_> {
    let Event { id, function, key, payload, published_at, trace, .. } = event;
    batch::Event { id, function, key, payload, published_at: *published_at, trace }
}

/// Carries events from the outbox to the stream, for ever.
async fn carry_all(context: Context, outbox: Arc<grouped::Database>, published: Arc<Notify>) {
    loop {
        let events: Vec<Event> = outbox.read(|outbox| {
            let mut waiting = outbox.prepare_cached(WAITING).unwrap();
            let rows = waiting.query_map((SUBSCRIBER, BATCH), Event::of).unwrap();
            rows.map(Result::unwrap).collect()
        });
        if events.is_empty() {
            published.notified().await;
            continue;
        }
        outbox.sync_all().await;
        send(&context, Kind::Same, &events).await;
        let leaving = outbox.append(|outbox| {
            for event in &events {
                execute(outbox, REMOVE_TO, (event.position, SUBSCRIBER));
            }
            for event in &events {
                execute(outbox, REMOVE, [event.position]);
            }
        });
        leaving.await;
    }
}

/// The program that subscribes, whose file is in the folder: handles events for ever.
#[tokio::main]
pub(crate) async fn run(kind: &str, url: &str, folder: &str) {
    let kind = Kind::of(kind);
    let context = jetstream::new(async_nats::connect(url).await.unwrap());
    let stream = context.get_stream(kind.name()).await.unwrap();
    let config = pull::Config {
        durable_name: Some(SUBSCRIBER.to_owned()),
        max_ack_pending: if kind == Kind::Same { 1 } else { 0 },
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    let database = grouped::Database::open(Path::new(folder), SUBSCRIBER, true);
    eprintln!("ready at {url}");
    let taking = match kind {
        Kind::Same => {
            let arrived = Arc::new(Notify::new());
            tokio::spawn(deliver(Arc::clone(&database), Arc::clone(&arrived), None, handle));
            tokio::spawn(take_in(consumer, database, arrived))
        }
        Kind::Bare => tokio::spawn(take_all(consumer, database)),
    };
    taking.await.unwrap();
}

/// Stores batches in the inbox, one after the other.
async fn take_in(consumer: Consumer<pull::Config>, inbox: Arc<grouped::Database>, arrived: Arc<Notify>) {
    loop {
        let mut asked = consumer.batch().max_messages(1).expires(TAKE_PATIENCE).messages().await.unwrap();
        let Some(message) = asked.next().await.transpose().unwrap() else { continue };
        let events = batch::decode(&message.payload).unwrap();
        let stored = inbox.append(|inbox| {
            for event in &events {
                let batch::Event { id, function, key, payload, published_at, trace } = event;
                execute(inbox, RECEIVE, (id, function, PUBLISHER, key, payload, published_at, trace));
            }
        });
        let ((), commit) = stored.await;
        arrived.notify_one();
        inbox.sync(commit).await;
        message.ack().await.unwrap();
    }
}

/// Handles whatever has come in one commit.
async fn take_all(consumer: Consumer<pull::Config>, database: Arc<grouped::Database>) {
    let mut messages = consumer.messages().await.unwrap();
    loop {
        let mut taken: Vec<Message> = vec![messages.next().await.unwrap().unwrap()];
        while taken.len() < BATCH as usize {
            let Some(Some(message)) = messages.next().now_or_never() else { break };
            taken.push(message.unwrap());
        }
        let handled = database.write(|database| {
            for message in &taken {
                for event in batch::decode(&message.payload).unwrap() {
                    handle(database, &kept(&event));
                }
            }
        });
        handled.await;
        for message in &taken {
            message.ack().await.unwrap();
        }
    }
}

fn kept(event: &batch::Event<'_>) -> Event {
    Event {
        position: 0,
        id: event.id.to_owned(),
        function: event.function.to_owned(),
        key: event.key.to_owned(),
        payload: event.payload.to_owned(),
        published_at: event.published_at,
        trace: event.trace.to_owned(),
    }
}
