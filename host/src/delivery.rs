//! Owns the handling of events: from a module's inbox to its handlers, once in effect.
//!
//! A handler runs as a call of its module, for at most half of the module's concurrency. What it writes is one
//! transaction, which is committed here together with the mark that the event is done. So the effect stands exactly when
//! the mark does: an attempt that the process did not survive has left nothing, and runs again.
//!
//! One process delivers from an inbox at a time, by a lease. Should two, because one was stopped for longer than the
//! lease lasts, the mark tells: who does not find the event ready does not commit.

use crate::capability::writes::Written;
use crate::capability::{CallContext, Delivery, Work};
use crate::data::inbox::{self, End, Received};
use crate::data::{Database, SqlError};
use crate::failpoint;
use crate::pool::Pool;
use crate::relay::{DATABASE_PATIENCE, Lease, Trouble};
use crate::types::Function;
use crate::values;
use cleave_bus::deadline::Deadline;
use cleave_config::Events;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wasmtime::component::Val;

/// The pause before an event is tried again whose attempt did not run, or could not be noted.
const PAUSE: Duration = Duration::from_millis(200);
/// How often events are forgotten that were handled long ago.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// The delivery of one module's events. Clones deliver the same.
#[derive(Clone)]
pub struct Inbox(Arc<Parts>);

struct Parts {
    pool: Arc<Pool>,
    database: Database,
    /// The handlers by the names of their events.
    handlers: HashMap<String, Arc<Function>>,
    settings: Events,
    /// Told when there may be something to do: an event has arrived, or another of its key is done.
    arrived: Arc<Notify>,
    /// The rows that are being handled.
    taken: Mutex<HashSet<i64>>,
}

/// How an attempt came out.
enum Attempt {
    /// The handler said ok.
    Handled(Written),
    /// It is to be tried again; the handler said so, or its transaction could not be committed.
    Retry(String),
    /// It trapped or ran out of time.
    Failed(String),
    /// It never will be handled.
    Rejected(String),
    /// It did not run.
    NotRun(String),
}

impl Inbox {
    pub fn new(
        pool: Arc<Pool>,
        database: Database,
        handlers: HashMap<String, Arc<Function>>,
        settings: Events,
        arrived: Arc<Notify>,
    ) -> Self {
        Self(Arc::new(Parts { pool, database, handlers, settings, arrived, taken: Mutex::default() }))
    }

    /// Delivers events until the node stops. Each is handled in a task of its own.
    pub async fn run(self, tasks: TaskTracker, stopping: CancellationToken) {
        let parts = &self.0;
        let mut lease = Lease::new(parts.database.clone(), "delivery".to_owned(), parts.settings.lease);
        let mut trouble = Trouble::default();
        let mut forgotten = Instant::now();
        while !stopping.is_cancelled() {
            let due = parts.due(&mut lease).await;
            let due = trouble.note(due, |error| {
                tracing::warn!(module = parts.pool.module(), "events are not delivered: {error}");
            });
            let found = due.unwrap_or_default();
            let look_again = !found.is_empty();
            for received in found {
                let place = tokio::select! {
                    place = parts.pool.background() => place,
                    () = stopping.cancelled() => None,
                };
                let Some(place) = place else { break };
                let (inbox, taken) = (self.clone(), Taken::new(Arc::clone(parts), received.position));
                tasks.spawn(async move {
                    inbox.0.deliver(&received, taken).await;
                    drop(place);
                });
            }
            if forgotten.elapsed() > FORGET_EVERY {
                forgotten = Instant::now();
                let done = parts.forget().await;
                trouble.note(done, |error| {
                    tracing::warn!(module = parts.pool.module(), "handled events are not forgotten: {error}");
                });
            }
            if look_again {
                continue;
            }
            let wait = parts.wait().await;
            tokio::select! {
                () = parts.arrived.notified() => {}
                () = tokio::time::sleep(wait) => {}
                () = stopping.cancelled() => {}
            }
        }
        lease.release().await;
    }
}

/// A row that is being handled, until this is dropped.
struct Taken {
    parts: Arc<Parts>,
    position: i64,
}

impl Taken {
    fn new(parts: Arc<Parts>, position: i64) -> Self {
        parts.taken().insert(position);
        Self { parts, position }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.parts.taken().remove(&self.position);
    }
}

impl Parts {
    fn taken(&self) -> std::sync::MutexGuard<'_, HashSet<i64>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The events to handle now that are not being handled.
    async fn due(&self, lease: &mut Lease) -> Result<Vec<Received>, SqlError> {
        let taken = self.taken().len();
        let mut limit = self.settings.batch.saturating_add(taken);
        let longest_wait = self.settings.backoff.iter().max().copied().unwrap_or_default();
        loop {
            let deadline = Instant::now() + DATABASE_PATIENCE;
            let now = self.database.now();
            match inbox::due(&self.database, now, milliseconds(longest_wait), limit, deadline).await {
                Err(SqlError::TooLarge(_)) if limit > 1 => limit /= 2,
                due => {
                    let mut due = due?;
                    let taken = self.taken().clone();
                    due.retain(|received| !taken.contains(&received.position));
                    if due.is_empty() || !lease.hold().await? {
                        return Ok(Vec::new());
                    }
                    return Ok(due);
                }
            }
        }
    }

    /// How long nothing is due, as far as it is known, and never longer than the next look.
    async fn wait(&self) -> Duration {
        let now = self.database.now();
        let next = inbox::next_due(&self.database, now, Instant::now() + DATABASE_PATIENCE).await;
        let until = next.ok().flatten().map_or(self.settings.poll, |due_at| {
            Duration::from_millis(u64::try_from(due_at.saturating_sub(now)).unwrap_or(0))
        });
        until.min(self.settings.poll)
    }

    async fn forget(&self) -> Result<(), SqlError> {
        let before = self.database.now().saturating_sub(milliseconds(self.settings.remember));
        loop {
            let mut transaction = self.database.begin(Instant::now() + DATABASE_PATIENCE).await?;
            let forgotten = inbox::forget(&mut transaction, before).await?;
            transaction.commit_unsynced().await?;
            if forgotten == 0 {
                return Ok(());
            }
        }
    }

    /// Handles one event, and notes what came of it.
    async fn deliver(&self, received: &Received, taken: Taken) {
        failpoint::reach("delivery.taken");
        let noted = match self.attempt(received).await {
            Attempt::Handled(written) => match self.finish(received, written).await {
                Ok(next) => Ok(next),
                // Nothing of the handler's stands, or it is open and the row will tell.
                Err(error) => {
                    self.retry(received, format!("its transaction was not committed: {error}")).await
                }
            },
            Attempt::Retry(reason) => self.retry(received, reason).await,
            Attempt::Failed(reason) => self.failed(received, reason).await,
            Attempt::Rejected(error) => {
                let (attempts, failures) = (received.attempts.saturating_add(1), received.failures);
                self.bury(received, End::Dead { attempts, failures, error }).await
            }
            Attempt::NotRun(reason) => {
                tracing::debug!(
                    module = self.pool.module(),
                    event = received.event.id,
                    "not handled yet: {reason}"
                );
                tokio::time::sleep(PAUSE).await;
                Ok(true)
            }
        };
        let look_again = match noted {
            Ok(look_again) => look_again,
            Err(error) => {
                let module = self.pool.module();
                tracing::warn!(module, event = received.event.id, "an attempt could not be noted: {error}");
                tokio::time::sleep(PAUSE).await;
                true
            }
        };
        drop(taken);
        if look_again {
            self.arrived.notify_one();
        }
    }

    async fn attempt(&self, received: &Received) -> Attempt {
        let event = &received.event;
        let Some(function) = self.handlers.get(&event.function) else {
            return Attempt::Rejected(format!("the module does not handle `{}` any more", event.function));
        };
        let arguments =
            match values::parameters_from_json(&function.parameters, event.payload.as_bytes(), usize::MAX) {
                Ok(arguments) => arguments,
                Err(error) => {
                    return Attempt::Rejected(format!("the event does not fit the handler's type: {error}"));
                }
            };
        let work = Work::Event(Delivery {
            event: event.id.clone(),
            attempt: received.attempts.saturating_add(1),
            published_at: u64::try_from(event.published_at).unwrap_or(0),
        });
        let context = CallContext {
            deadline: Deadline::after(Instant::now(), self.pool.deadline()),
            trace: u128::from_str_radix(&event.trace, 16).unwrap_or(0),
        };
        match self.pool.run(function, context, work, &arguments).await {
            Ok((results, written)) => answer(results, written),
            Err(error) if !error.may_have_run() => Attempt::NotRun(error.to_string()),
            Err(error) => Attempt::Failed(error.to_string()),
        }
    }

    /// Commits what the handler has written, with the mark. Gives whether there may be more to do.
    async fn finish(&self, received: &Received, written: Written) -> Result<bool, SqlError> {
        failpoint::reach("delivery.handled");
        let mut transaction = match written.transaction {
            Some(transaction) => transaction,
            None => self.database.begin(Instant::now() + DATABASE_PATIENCE).await?,
        };
        let next = inbox::end(&mut transaction, received, self.database.now(), &End::Done).await?;
        let Some(next) = next else {
            tracing::info!(
                module = self.pool.module(),
                event = received.event.id,
                "handled by another process"
            );
            return Ok(false);
        };
        failpoint::reach("delivery.marked");
        transaction.commit().await?;
        failpoint::reach("delivery.committed");
        written.published.iter().for_each(|relay| relay.notify_one());
        Ok(next)
    }

    /// Notes that the handler is to try again, unless it has tried for long enough.
    async fn retry(&self, received: &Received, reason: String) -> Result<bool, SqlError> {
        let now = self.database.now();
        let tried_for = now.saturating_sub(received.first_attempt_at.unwrap_or(now));
        if tried_for >= milliseconds(self.settings.give_up_after) {
            let (attempts, failures) = (received.attempts.saturating_add(1), received.failures);
            return self.bury(received, End::Dead { attempts, failures, error: reason }).await;
        }
        self.postpone(received, received.failures, &reason).await
    }

    /// Notes that the handler trapped or ran out of time, unless it has done so often enough.
    async fn failed(&self, received: &Received, reason: String) -> Result<bool, SqlError> {
        let failures = received.failures.saturating_add(1);
        if failures >= self.settings.attempts_max {
            let attempts = received.attempts.saturating_add(1);
            return self.bury(received, End::Dead { attempts, failures, error: reason }).await;
        }
        self.postpone(received, failures, &reason).await
    }

    async fn postpone(&self, received: &Received, failures: u32, reason: &str) -> Result<bool, SqlError> {
        let now = self.database.now();
        let steps = &self.settings.backoff;
        let step = usize::try_from(received.attempts).unwrap_or(usize::MAX);
        let wait = steps.get(step).or(steps.last()).copied().unwrap_or_default();
        let module = self.pool.module();
        tracing::info!(module, event = received.event.id, "the event is tried again in {wait:?}: {reason}");
        let mut transaction = self.database.begin(Instant::now() + DATABASE_PATIENCE).await?;
        inbox::postpone(
            &mut transaction,
            received,
            received.attempts.saturating_add(1),
            failures,
            received.first_attempt_at.unwrap_or(now),
            now.saturating_add(milliseconds(wait)),
            reason,
        )
        .await?;
        transaction.commit_unsynced().await?;
        Ok(true)
    }

    /// Makes a dead letter of the event.
    async fn bury(&self, received: &Received, end: End) -> Result<bool, SqlError> {
        let mut transaction = self.database.begin(Instant::now() + DATABASE_PATIENCE).await?;
        let next = inbox::end(&mut transaction, received, self.database.now(), &end).await?;
        if next.is_some() {
            transaction.commit().await?;
            if let End::Dead { error, .. } = &end {
                let (module, event) = (self.pool.module(), &received.event);
                tracing::error!(module, event = event.id, function = event.function, "dead letter: {error}");
            }
        }
        Ok(next.unwrap_or(false))
    }
}

/// What a handler has said.
fn answer(results: Vec<Val>, written: Written) -> Attempt {
    let error = match results.into_iter().next() {
        Some(Val::Result(Ok(_))) => return Attempt::Handled(written),
        Some(Val::Result(Err(Some(error)))) => *error,
        _ => return Attempt::Failed("the handler gave no result".to_owned()),
    };
    let Val::Variant(case, Some(text)) = error else {
        return Attempt::Failed("the handler gave no result".to_owned());
    };
    let text = match *text {
        Val::String(text) => text,
        _ => String::new(),
    };
    if case == "reject" { Attempt::Rejected(text) } else { Attempt::Retry(text) }
}

pub(crate) fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
