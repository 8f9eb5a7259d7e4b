//! Owns how events arrive from other nodes: from the road into the inbox of a subscriber.
//!
//! A batch is stored together with its place on the road, in one commit, and only when that is durable is the road told.
//! If the process ends between, the batch comes again, and the inbox knows its events.

use crate::data::Database;
use crate::data::inbox;
use crate::data::outbox::Event;
use crate::data::roads::{self, End};
use crate::failpoint;
use crate::relay::{DATABASE_PATIENCE, Obstacle, Trouble};
use cleave_bus::batch::{self, BatchError};
use cleave_bus::nats_stream::{Place, Reader, Road, Taken};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The pause after something was in the way.
const PAUSE: Duration = Duration::from_millis(250);

/// The way from the road to one subscriber.
pub struct Ingest {
    pub subscriber: String,
    pub road: Arc<Road>,
    /// The subscriber's database.
    pub to: Database,
    /// Tells the subscriber's delivery that something has arrived.
    pub arrived: Arc<Notify>,
    /// The place up to which events were put on the road that this process would now carry itself, and does not before
    /// these have arrived.
    pub awaited: Option<Place>,
}

impl Ingest {
    /// Takes events in until the node stops.
    pub async fn run(mut self, stopping: CancellationToken) {
        let mut trouble = Trouble::default();
        loop {
            tokio::select! {
                () = self.road.wait_for_connection() => {}
                () = stopping.cancelled() => return,
            }
            let taken = self.take_all(&stopping).await;
            trouble.note(taken, |obstacle| {
                tracing::warn!(subscriber = self.subscriber, "events from other nodes wait: {obstacle}");
            });
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    async fn take_all(&mut self, stopping: &CancellationToken) -> Result<(), Obstacle> {
        let road = Arc::clone(&self.road);
        let reader = tokio::select! {
            reader = road.reader(&self.subscriber) => reader?,
            () = stopping.cancelled() => return Ok(()),
        };
        self.compare(&reader).await?;
        loop {
            self.conclude(&reader).await?;
            let taken = tokio::select! {
                taken = reader.take() => taken?,
                () = stopping.cancelled() => return Ok(()),
            };
            if let Some(taken) = taken {
                self.store(&taken).await?;
            }
        }
    }

    /// Says so if more was taken off the road than this database knows of.
    async fn compare(&self, reader: &Reader<'_>) -> Result<(), Obstacle> {
        let known = roads::reached(&self.to, End::In, Instant::now() + DATABASE_PATIENCE).await?;
        let known = known.filter(|known| known.stream == reader.stream()).map_or(0, |known| known.sequence);
        if known < reader.acknowledged {
            tracing::error!(
                subscriber = self.subscriber,
                "the database is older than what it has acknowledged: events {} to {} of the stream were stored in it, and \
                 it knows them no more; it may have been put back from a backup",
                known.saturating_add(1),
                reader.acknowledged
            );
        }
        Ok(())
    }

    /// If nothing is left on the road, what was awaited has come, or was lost with the road.
    async fn conclude(&mut self, reader: &Reader<'_>) -> Result<(), Obstacle> {
        let Some(awaited) = self.awaited else { return Ok(()) };
        if reader.is_empty().await? {
            let mut concluding = self.to.begin_host(Instant::now() + DATABASE_PATIENCE).await?;
            roads::reach(&mut concluding, End::In, awaited).await?;
            concluding.commit().await?;
            self.awaited = None;
        }
        Ok(())
    }

    async fn store(&self, taken: &Taken) -> Result<(), Obstacle> {
        let (publisher, subscriber) = (taken.publisher.as_str(), self.subscriber.as_str());
        let events = match batch::decode(&taken.payload) {
            Ok(events) => events,
            Err(error @ BatchError::Version { .. }) => {
                taken.leave().await?;
                return Err(error.into());
            }
            Err(error) => {
                let bytes = taken.payload.len();
                tracing::error!(publisher, subscriber, bytes, "a message on the road is dropped: {error}");
                return Ok(taken.discard().await?);
            }
        };
        let events: Vec<_> = events.iter().map(kept).collect();
        let mut arriving = self.to.begin_host(Instant::now() + DATABASE_PATIENCE).await?;
        inbox::receive(&mut arriving, publisher, events.iter(), self.to.now()).await?;
        roads::reach(&mut arriving, End::In, taken.place).await?;
        arriving.commit_unsynced().await?;
        failpoint::reach("ingest.received");
        // Why before the sync: the handler's own commit stands in the same log behind this one.
        self.arrived.notify_one();
        self.to.sync().await?;
        failpoint::reach("ingest.durable");
        Ok(taken.acknowledge().await?)
    }
}

fn kept(event: &batch::Event<'_>) -> Event {
    Event {
        id: event.id.to_owned(),
        function: event.function.to_owned(),
        key: event.key.to_owned(),
        payload: event.payload.to_owned(),
        published_at: event.published_at,
        trace: event.trace.to_owned(),
    }
}
