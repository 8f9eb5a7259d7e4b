//! Owns how events arrive from other nodes: from the road into the inbox of a subscriber.
//!
//! A batch is stored together with its place on the road, in one commit, and only when that is durable is the road told.
//! If the process ends between, the batch comes again, and the inbox knows its events.

use crate::bus::Joined;
use crate::clock::milliseconds;
use crate::data::inbox;
use crate::data::outbox::Event;
use crate::data::roads::{self, End};
use crate::data::{Database, SqlError};
use crate::failpoint;
use crate::relay::{DATABASE_PATIENCE, Obstacle, Trouble};
use cleave_bus::batch::{self, BatchError};
use cleave_bus::nats_stream::{Place, Reader, Road, Taken};
use cleave_config::ModuleName;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// The pause after something was in the way.
const PAUSE: Duration = Duration::from_millis(250);

/// The way from the road to one subscriber.
pub struct Ingest {
    pub subscriber: String,
    pub road: Arc<Road>,
    /// How far the node has come on the bus.
    pub joined: watch::Receiver<Joined>,
    /// The subscriber's database.
    pub to: Database,
    /// Tells the subscriber's delivery that something has arrived.
    pub arrived: Arc<Notify>,
    /// The places up to which events were put on the road that this process would now carry itself, and does not before
    /// these have arrived.
    pub awaited: Vec<Place>,
    /// How long the inbox remembers what was handled.
    pub remember: Duration,
}

impl Ingest {
    /// Takes events in until the node stops.
    pub async fn run(mut self, stopping: CancellationToken) {
        // Why: a second process of a node that keeps files is shut out, and must have taken nothing into its own by then.
        tokio::select! {
            joined = self.joined.wait_for(|joined| matches!(joined, Joined::Yes)) => {
                if joined.is_err() {
                    return;
                }
            }
            () = stopping.cancelled() => return,
        }
        let mut trouble = Trouble::default();
        let mut acknowledged = None;
        loop {
            tokio::select! {
                () = self.road.wait_for_connection() => {}
                () = stopping.cancelled() => return,
            }
            let taken = self.take_all(&mut acknowledged, &stopping).await;
            trouble.note(taken, |obstacle| {
                tracing::warn!(subscriber = self.subscriber, "events from other nodes wait: {obstacle}");
            });
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    /// Takes in what comes. `acknowledged` is the last place that was stored here and acknowledged.
    async fn take_all(
        &mut self,
        acknowledged: &mut Option<Place>,
        stopping: &CancellationToken,
    ) -> Result<(), Obstacle> {
        let road = Arc::clone(&self.road);
        let reader = tokio::select! {
            reader = road.reader(&self.subscriber) => reader?,
            () = stopping.cancelled() => return Ok(()),
        };
        self.compare(&reader, acknowledged).await?;
        let mut in_vain = false;
        loop {
            self.conclude(&reader, in_vain).await?;
            let taken = tokio::select! {
                taken = reader.take() => taken?,
                () = stopping.cancelled() => return Ok(()),
            };
            in_vain = taken.is_none();
            if let Some(taken) = taken {
                self.store(&reader, &taken, acknowledged).await?;
            }
        }
    }

    /// Says so if more was taken off the road than this database knows of, or less was put there.
    async fn compare(&self, reader: &Reader<'_>, acknowledged: &mut Option<Place>) -> Result<(), Obstacle> {
        let stream = reader.stream();
        let known = self.reached(stream).await?;
        self.tell_of_missing(known, reader.acknowledged);
        // Why asked after that: another process may take in what is put there meanwhile.
        let end = reader.end().await?;
        if known > end {
            tracing::error!(
                subscriber = self.subscriber,
                "NATS has lost events that it had acknowledged: the stream ends at {end}, and {known} was taken from it; it \
                 may have been put back from a backup, or have lost power without `sync_interval: always`",
            );
            let mut going_back = self.to.begin_host(Instant::now() + DATABASE_PATIENCE).await?;
            roads::go_back(&mut going_back, Place { stream, sequence: known }, end).await?;
            going_back.commit().await?;
            *acknowledged = None;
        }
        Ok(())
    }

    /// The last place of a stream that was taken in.
    async fn reached(&self, stream: i64) -> Result<i64, SqlError> {
        let reached = roads::reached(&self.to, End::In(stream), Instant::now() + DATABASE_PATIENCE).await?;
        Ok(reached.map_or(0, |reached| reached.sequence))
    }

    /// Says so if more was acknowledged than is known.
    fn tell_of_missing(&self, known: i64, acknowledged: i64) {
        if known < acknowledged {
            tracing::error!(
                subscriber = self.subscriber,
                "the database is older than what it has acknowledged: events {} to {acknowledged} of the stream were stored \
                 in it, and it knows them no more; it may have been put back from a backup",
                known.saturating_add(1),
            );
        }
    }

    /// If what was awaited has come, there is nothing to wait for any more. Nor is there if nothing has come for a while
    /// and nothing is left on the road: it was lost with the road.
    async fn conclude(&mut self, reader: &Reader<'_>, in_vain: bool) -> Result<(), Obstacle> {
        let deadline = Instant::now() + DATABASE_PATIENCE;
        while let Some(awaited) = self.awaited.last().copied() {
            if !roads::has_arrived(&self.to, awaited, deadline).await? {
                let may_come = !in_vain && awaited.stream == reader.stream();
                // Why again at the end: another process may have stored the last of it between the two looks.
                if may_come
                    || !reader.is_empty().await?
                    || roads::has_arrived(&self.to, awaited, deadline).await?
                {
                    break;
                }
                tracing::error!(
                    subscriber = self.subscriber,
                    "nothing is left on the road, and what was put there up to {} of the stream made at {} has not all \
                     arrived: the rest is lost",
                    awaited.sequence,
                    awaited.stream,
                );
                let mut concluding = self.to.begin_host(deadline).await?;
                roads::reach(&mut concluding, End::In(awaited.stream), awaited).await?;
                concluding.commit().await?;
            }
            self.awaited.pop();
        }
        Ok(())
    }

    async fn store(
        &self,
        reader: &Reader<'_>,
        taken: &Taken,
        acknowledged: &mut Option<Place>,
    ) -> Result<(), Obstacle> {
        let (publisher, subscriber) = (taken.publisher.as_str(), self.subscriber.as_str());
        if let Some(last) = acknowledged.take() {
            self.tell_of_missing(self.reached(last.stream).await?, last.sequence);
        }
        if publisher.parse::<ModuleName>().is_err() {
            tracing::error!(
                publisher,
                subscriber,
                "a message on the road is dropped: nobody publishes as that"
            );
            return Ok(taken.discard().await?);
        }
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
        let mut events: Vec<_> = events.iter().map(kept).collect();
        let mut arriving = self.to.begin_host(Instant::now() + DATABASE_PATIENCE).await?;
        if !roads::reach(&mut arriving, End::In(taken.place.stream), taken.place).await? {
            arriving.roll_back().await;
            // Why the look: a stream that was made anew counts from the first again.
            reader.end().await?;
            arriving = self.to.begin_host(Instant::now() + DATABASE_PATIENCE).await?;
            // It was stored, and what came of it may be forgotten by now, unless the inbox is sure to know.
            let forgotten = self.to.now().saturating_sub(milliseconds(self.remember) / 10 * 9);
            events.retain(|event| event.published_at > forgotten);
        }
        inbox::receive(&mut arriving, publisher, events.iter(), self.to.now()).await?;
        arriving.commit_unsynced().await?;
        failpoint::reach("ingest.received");
        // Why before the sync: the handler's own commit stands in the same log behind this one.
        self.arrived.notify_one();
        self.to.sync().await?;
        failpoint::reach("ingest.durable");
        *acknowledged = Some(taken.place);
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
