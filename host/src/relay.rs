//! Owns the road of events inside a process: from a publisher's outbox to a subscriber's inbox.
//!
//! There is a relay for each pair. It takes the first events in the outbox that the subscriber has not got, stores them
//! in the inbox, and only when they are durable there takes them out of the outbox. If it ends anywhere between, the
//! next one carries the same events again, and the inbox knows them. Nothing is carried that is not durable at the
//! publisher: an event of a commit that a loss of power took back must never have been.
//!
//! One relay of each pair works at a time, by a lease in the publisher's database. That saves work and keeps order; it
//! is not what keeps an event from being handled twice.

use crate::data::{Database, SqlError, inbox, lease, outbox};
use crate::failpoint;
use cleave_config::Events;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The longest a look into a database, or a transaction of the host's own, may take.
pub(crate) const DATABASE_PATIENCE: Duration = Duration::from_secs(10);

/// The way from one publisher to one subscriber.
pub struct Relay {
    pub publisher: String,
    pub subscriber: String,
    /// The publisher's database.
    pub from: Database,
    /// The subscriber's database.
    pub to: Database,
    /// Told when something was published.
    pub published: Arc<Notify>,
    /// Tells the subscriber's delivery that something has arrived.
    pub arrived: Arc<Notify>,
    pub settings: Events,
}

impl Relay {
    /// Carries events until the node stops.
    pub async fn run(self, stopping: CancellationToken) {
        let mut lease =
            Lease::new(self.from.clone(), format!("relay:{}", self.subscriber), self.settings.lease);
        let mut trouble = Trouble::default();
        loop {
            let carried = self.carry_all(&mut lease, &stopping).await;
            trouble.note(carried, |error| {
                tracing::warn!(
                    publisher = self.publisher,
                    subscriber = self.subscriber,
                    "events wait: {error}"
                );
            });
            tokio::select! {
                () = self.published.notified() => {}
                () = tokio::time::sleep(self.settings.poll) => {}
                () = stopping.cancelled() => break,
            }
        }
        lease.release().await;
    }

    /// Carries what waits, until nothing does.
    async fn carry_all(&self, lease: &mut Lease, stopping: &CancellationToken) -> Result<(), SqlError> {
        let mut limit = self.settings.batch;
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
            failpoint::reach("relay.read");
            self.carry(&events, deadline).await?;
        }
        Ok(())
    }

    async fn carry(&self, events: &[(i64, outbox::Event)], deadline: Instant) -> Result<(), SqlError> {
        self.from.sync().await?;
        let mut arriving = self.to.begin(deadline).await?;
        let arrivals = events.iter().map(|(_, event)| event);
        inbox::receive(&mut arriving, &self.publisher, arrivals, self.to.now()).await?;
        arriving.commit_unsynced().await?;
        failpoint::reach("relay.received");
        // Why before the sync: the handler's own commit stands in the same log behind this one.
        self.arrived.notify_one();
        self.to.sync().await?;
        failpoint::reach("relay.durable");
        let mut leaving = self.from.begin(deadline).await?;
        outbox::remove(&mut leaving, &self.subscriber, events.iter().map(|(position, _)| *position)).await?;
        leaving.commit_unsynced().await?;
        failpoint::reach("relay.removed");
        Ok(())
    }
}

/// A lease that is taken when there is work, and kept while there is.
pub(crate) struct Lease {
    database: Database,
    name: String,
    holder: String,
    length: Duration,
    /// Until when it needs no renewing.
    fresh_until: Option<Instant>,
}

impl Lease {
    pub(crate) fn new(database: Database, name: String, length: Duration) -> Self {
        let holder = uuid::Uuid::new_v4().to_string();
        Self { database, name, holder, length, fresh_until: None }
    }

    /// Takes or keeps the lease; whether it is held now.
    pub(crate) async fn hold(&mut self) -> Result<bool, SqlError> {
        let now = Instant::now();
        if self.fresh_until.is_some_and(|until| now < until) {
            return Ok(true);
        }
        self.fresh_until = None;
        let deadline = now + DATABASE_PATIENCE;
        let fence = lease::take(&self.database, &self.name, &self.holder, self.length, deadline).await?;
        self.fresh_until = fence.map(|_| now + self.length / 2);
        Ok(fence.is_some())
    }

    /// Gives the lease back. If that fails, it ends by its time.
    pub(crate) async fn release(self) {
        if self.fresh_until.is_some() {
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

    pub(crate) fn note<T>(&mut self, outcome: Result<T, SqlError>, say: impl FnOnce(SqlError)) -> Option<T> {
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
