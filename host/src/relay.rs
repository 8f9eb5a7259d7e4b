//! Owns how events leave a publisher: from its outbox to the inbox of a subscriber, or onto the road to the subscriber's
//! node.
//!
//! There is a relay for each pair. It takes the first events in the outbox that the subscriber has not got, puts them where
//! they go, and only when they are durable there takes them out of the outbox. If it ends anywhere between, the next one
//! carries the same events again, and the inbox knows them. Nothing is carried that is not durable at the publisher: an
//! event of a commit that a loss of power took back must never have been.
//!
//! One relay of each pair works at a time, by a lease in the publisher's database. That saves work and keeps order; it
//! is not what keeps an event from being handled twice.
//!
//! Where a pair is, config says, and may say otherwise after a stop. Events that were on the road by then arrive first.

use crate::data::roads::{self, End};
use crate::data::{Database, SqlError, inbox, lease, outbox};
use crate::drill::Drill;
use crate::failpoint;
use cleave_bus::batch::{self, BatchError};
use cleave_bus::nats_stream::{Away, Place, Road};
use cleave_config::Events;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The longest a look into a database, or a transaction of the host's own, may take.
pub(crate) const DATABASE_PATIENCE: Duration = Duration::from_secs(10);
/// The bytes of events that go over the road together, unless one alone has more: at most so many, and such a part of
/// what the stream holds. So `events.stream_messages_max`, 64, are a sixteenth of the stream.
const BATCH_BYTES_MAX: usize = 256 * 1024;
const BATCH_PART: usize = 1024;

/// The way from one publisher to one subscriber.
pub struct Relay {
    pub publisher: String,
    pub subscriber: String,
    /// The publisher's database.
    pub from: Database,
    pub to: Target,
    /// Told when something was published.
    pub published: Arc<Notify>,
    pub settings: Events,
    /// What happens to events on purpose.
    pub drill: Drill,
}

/// Where events go.
pub enum Target {
    /// Into the subscriber's inbox, which is here.
    Inbox {
        /// The subscriber's database.
        database: Database,
        /// Tells the subscriber's delivery that something has arrived.
        arrived: Arc<Notify>,
    },
    /// To the subscriber's node.
    Road(Arc<Road>),
}

/// Why events wait.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Away(#[from] Away),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("earlier ones are still on the road over NATS")]
    Behind,
}

impl Relay {
    /// Carries events until the node stops.
    pub async fn run(self, stopping: CancellationToken) {
        let mut lease =
            Lease::new(self.from.clone(), format!("relay:{}", self.subscriber), self.settings.lease);
        let mut trouble = Trouble::default();
        let mut clear = false;
        let mut limit = self.settings.batch;
        loop {
            let carried = self.carry_all(&mut lease, &mut clear, limit, &stopping).await;
            limit = match &carried {
                Ok(()) => self.settings.batch,
                // What takes too long for so many may not for fewer.
                Err(Obstacle::Sql(SqlError::Deadline)) => (limit / 2).max(1),
                Err(_) => limit,
            };
            let carried = trouble.note(carried, |obstacle| {
                tracing::warn!(
                    publisher = self.publisher,
                    subscriber = self.subscriber,
                    "events wait: {obstacle}"
                );
            });
            tokio::select! {
                // What is published is no reason to try again what is in the way.
                () = self.published.notified(), if carried.is_some() => {}
                () = tokio::time::sleep(self.settings.poll) => {}
                () = stopping.cancelled() => break,
            }
        }
        lease.release().await;
    }

    /// Carries what waits, until nothing does. `clear` is whether nothing is left on another way that was taken before.
    async fn carry_all(
        &self,
        lease: &mut Lease,
        clear: &mut bool,
        mut limit: usize,
        stopping: &CancellationToken,
    ) -> Result<(), Obstacle> {
        while !stopping.is_cancelled() {
            let deadline = Instant::now() + DATABASE_PATIENCE;
            let events = match outbox::waiting(&self.from, &self.subscriber, limit, deadline).await {
                Err(SqlError::TooLarge(_)) if limit > 1 => {
                    limit /= 2;
                    continue;
                }
                events => events?,
            };
            if events.is_empty() || !lease.hold().await? {
                return Ok(());
            }
            *clear = *clear || self.is_clear(deadline).await?;
            if !*clear {
                return Err(Obstacle::Behind);
            }
            failpoint::reach("relay.read");
            self.from.sync().await?;
            for _ in 1..self.drill.times() {
                self.carry(&events, deadline).await?;
            }
            let (count, place) = self.carry(&events, deadline).await?;
            failpoint::reach("relay.durable");
            self.take_out(events.get(..count).unwrap_or(&events), place).await?;
            failpoint::reach("relay.removed");
            // What is published from now on is told of, unless another process publishes it.
            if count == events.len() && count < limit && !self.from.is_shared() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Carries the first events; gives how many, and their place if they are on the road now.
    async fn carry(
        &self,
        events: &[(i64, outbox::Event)],
        deadline: Instant,
    ) -> Result<(usize, Option<Place>), Obstacle> {
        match &self.to {
            Target::Inbox { database, arrived } => {
                self.store(database, arrived, events, deadline).await?;
                Ok((events.len(), None))
            }
            Target::Road(road) => {
                let most = BATCH_BYTES_MAX.min(self.settings.stream_max / BATCH_PART);
                let (count, batch) = pack(events, most)?;
                Ok((count, Some(road.put(&self.publisher, &self.subscriber, batch).await?)))
            }
        }
    }

    /// Whether what went over the road before has arrived.
    async fn is_clear(&self, deadline: Instant) -> Result<bool, SqlError> {
        match &self.to {
            Target::Inbox { database, .. } => {
                Ok(roads::under_way(&self.from, &self.subscriber, database, deadline).await?.is_none())
            }
            Target::Road(_) => Ok(true),
        }
    }

    /// Stores events in the subscriber's inbox.
    async fn store(
        &self,
        to: &Database,
        arrived: &Notify,
        events: &[(i64, outbox::Event)],
        deadline: Instant,
    ) -> Result<(), SqlError> {
        let mut arriving = to.begin_host(deadline).await?;
        let arrivals = events.iter().map(|(_, event)| event);
        inbox::receive(&mut arriving, &self.publisher, arrivals, to.now()).await?;
        arriving.commit_unsynced().await?;
        failpoint::reach("relay.received");
        // Why before the sync: the handler's own commit stands in the same log behind this one.
        arrived.notify_one();
        to.sync().await
    }

    /// Takes what has been carried out of the outbox, and notes how far it is on the road.
    async fn take_out(&self, carried: &[(i64, outbox::Event)], place: Option<Place>) -> Result<(), SqlError> {
        let mut leaving = self.from.begin_host(Instant::now() + DATABASE_PATIENCE).await?;
        outbox::remove(&mut leaving, &self.subscriber, carried.iter().map(|(position, _)| *position)).await?;
        if let Some(place) = place {
            roads::reach(&mut leaving, End::To(&self.subscriber), place).await?;
        }
        leaving.commit_unsynced().await
    }
}

/// The first events as a batch, and how many they are: at least one.
fn pack(events: &[(i64, outbox::Event)], bytes_max: usize) -> Result<(usize, Vec<u8>), BatchError> {
    let mut bytes = 0_usize;
    let mut packed = Vec::new();
    for (_, event) in events {
        let outbox::Event { id, function, key, payload, published_at, trace } = event;
        let event = batch::Event { id, function, key, payload, published_at: *published_at, trace };
        bytes = bytes.saturating_add(event.size());
        if bytes > bytes_max && !packed.is_empty() {
            break;
        }
        packed.push(event);
    }
    Ok((packed.len(), batch::encode(&packed)?))
}

/// A lease that is taken when there is work, and kept while there is.
pub(crate) struct Lease {
    database: Database,
    name: String,
    holder: String,
    length: Duration,
    /// When it was last taken, unless it was lost since.
    taken_at: Option<Instant>,
}

impl Lease {
    pub(crate) fn new(database: Database, name: String, length: Duration) -> Self {
        let holder = uuid::Uuid::new_v4().to_string();
        Self { database, name, holder, length, taken_at: None }
    }

    /// Takes or keeps the lease; whether it is held now.
    pub(crate) async fn hold(&mut self) -> Result<bool, SqlError> {
        let now = Instant::now();
        if self.renew_at().is_some_and(|at| now < at) {
            return Ok(true);
        }
        let deadline = now + DATABASE_PATIENCE;
        let fence = lease::take(&self.database, &self.name, &self.holder, self.length, deadline).await?;
        self.taken_at = fence.map(|_| now);
        Ok(fence.is_some())
    }

    /// When a lease that is held is to be renewed.
    fn renew_at(&self) -> Option<Instant> {
        self.taken_at.map(|at| at + self.length / 2)
    }

    /// Waits for something, and keeps the lease meanwhile if it is held. Should that fail, [`hold`](Self::hold) tells.
    pub(crate) async fn held_while<T>(&mut self, doing: impl Future<Output = T>) -> T {
        let mut doing = std::pin::pin!(doing);
        let mut renew_at = self.renew_at();
        loop {
            let Some(at) = renew_at else { return doing.await };
            tokio::select! {
                done = &mut doing => return done,
                () = tokio::time::sleep_until(at.into()) => {}
            }
            renew_at = match self.hold().await {
                Ok(_) => self.renew_at(),
                // It is still held for a while.
                Err(_) => Some(Instant::now() + self.length / 8),
            };
        }
    }

    /// Gives the lease back. If that fails, it ends by its time.
    pub(crate) async fn release(self) {
        if self.taken_at.is_some() {
            let deadline = Instant::now() + DATABASE_PATIENCE;
            let _ = lease::release(&self.database, &self.name, &self.holder, deadline).await;
        }
    }
}

/// What keeps a loop from its work, said when it begins and then once a minute.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    said: Option<Instant>,
}

impl Trouble {
    const SILENCE: Duration = Duration::from_secs(60);

    pub(crate) fn note<T, E: Display>(&mut self, outcome: Result<T, E>, say: impl FnOnce(E)) -> Option<T> {
        match outcome {
            Ok(value) => {
                self.said = None;
                Some(value)
            }
            Err(error) => {
                if self.said.is_none_or(|said| said.elapsed() > Self::SILENCE) {
                    self.said = Some(Instant::now());
                    say(error);
                }
                None
            }
        }
    }
}
