//! Owns the handling of events: from a module's inbox to its handlers, once in effect.
//!
//! A handler runs as a call of its module, for at most half of the module's concurrency. What it writes is one
//! transaction, which is committed here together with the mark that the event is done. So the effect stands exactly when
//! the mark does: an attempt that the process did not survive has left nothing, and runs again.
//!
//! One process delivers from an inbox at a time, by a lease. Should two, because one was stopped for longer than the
//! lease lasts, the mark tells: who does not find the event ready does not commit.

use crate::capability::log::{REASON_MAX, printable};
use crate::capability::writes::Written;
use crate::capability::{CallContext, Delivery, Work};
use crate::clock::milliseconds;
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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wasmtime::component::Val;

/// The pause before an event is tried again whose attempt did not run, or could not be noted. It doubles each time.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often events are forgotten that were handled long ago, and the pause between two batches of them.
const FORGET_EVERY: Duration = Duration::from_secs(60);
const FORGET_PAUSE: Duration = Duration::from_millis(100);
/// By how much the clock and the time that has passed may differ before the clock is taken to have jumped, in
/// milliseconds.
const JUMP_MIN: i64 = 1_000;

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
    /// The positions that are being handled, or rest after an attempt that came to nothing.
    taken: Mutex<HashSet<i64>>,
    /// How often in a row an attempt at a position came to nothing.
    troubled: Mutex<HashMap<i64, u32>>,
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
        Self(Arc::new(Parts {
            pool,
            database,
            handlers,
            settings,
            arrived,
            taken: Mutex::default(),
            troubled: Mutex::default(),
        }))
    }

    /// Delivers events until the node stops. Each is handled in a task of its own.
    pub async fn run(self, tasks: TaskTracker, stopping: CancellationToken) {
        let parts = &self.0;
        let mut lease = Lease::new(parts.database.clone(), "delivery".to_owned(), parts.settings.lease);
        let mut trouble = Trouble::default();
        let mut clock = Steady::new(parts.database.now());
        while !stopping.is_cancelled() {
            let due = parts.due(&mut lease, &mut clock).await;
            let due = trouble.note(due, |error| {
                tracing::warn!(module = parts.pool.module(), "events are not delivered: {error}");
            });
            let found = due.unwrap_or_default();
            let look_again = !found.is_empty();
            for position in found {
                let place = tokio::select! {
                    place = parts.pool.background() => place,
                    () = stopping.cancelled() => None,
                };
                let Some(place) = place else { break };
                let (inbox, taken) = (self.clone(), Taken::new(Arc::clone(parts), position));
                let stopping = stopping.clone();
                tasks.spawn(async move {
                    let pause = inbox.0.deliver(position).await;
                    drop(place);
                    let Some(pause) = pause else { return };
                    if !pause.is_zero() {
                        tokio::select! {
                            () = tokio::time::sleep(pause) => {}
                            () = stopping.cancelled() => {}
                        }
                    }
                    drop(taken);
                    inbox.0.arrived.notify_one();
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

    /// Forgets events that were handled long ago, little by little, until the node stops.
    pub async fn forget(self, stopping: CancellationToken) {
        let mut trouble = Trouble::default();
        while !stopping.is_cancelled() {
            let forgotten = trouble.note(self.0.forget().await, |error| {
                tracing::warn!(module = self.0.pool.module(), "handled events are not forgotten: {error}");
            });
            let pause = if forgotten.is_some_and(|count| count > 0) { FORGET_PAUSE } else { FORGET_EVERY };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopping.cancelled() => {}
            }
        }
    }
}

/// Tells a jump of the clock from the time that has passed.
struct Steady {
    clock: i64,
    at: Instant,
}

impl Steady {
    fn new(clock: i64) -> Self {
        Self { clock, at: Instant::now() }
    }

    /// How far the clock has jumped since the last look, in milliseconds, if it has.
    fn jump(&mut self, clock: i64) -> Option<i64> {
        let passed = milliseconds(self.at.elapsed());
        let jump = clock.saturating_sub(self.clock).saturating_sub(passed);
        *self = Self::new(clock);
        (jump.saturating_abs() >= JUMP_MIN).then_some(jump)
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
    fn taken(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn troubled(&self) -> MutexGuard<'_, HashMap<i64, u32>> {
        self.troubled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn longest_wait(&self) -> i64 {
        milliseconds(self.settings.backoff.iter().max().copied().unwrap_or_default())
    }

    /// Where the events are that are to be handled now and are not being handled.
    async fn due(&self, lease: &mut Lease, clock: &mut Steady) -> Result<Vec<i64>, SqlError> {
        let deadline = Instant::now() + DATABASE_PATIENCE;
        let now = self.database.now();
        // Where others deliver too, one of them notes it: who holds the lease.
        if let Some(jump) = clock.jump(now)
            && (!self.database.is_shared() || lease.hold().await?)
        {
            tracing::info!(module = self.pool.module(), "the clock has jumped by {jump} ms");
            let mut transaction = self.database.begin_host(deadline).await?;
            inbox::jumped(&mut transaction, jump).await?;
            transaction.commit_unsynced().await?;
        }
        let taken = self.taken().len();
        let limit = self.settings.batch.saturating_add(taken);
        let mut due = inbox::due(&self.database, now, self.longest_wait(), limit, deadline).await?;
        if due.is_empty() && inbox::revive(&self.database, deadline).await? {
            let now = self.database.now();
            due = inbox::due(&self.database, now, self.longest_wait(), limit, deadline).await?;
        }
        // Whoever lets go of a position between the two looks is read again before it is handled.
        due.retain(|position| !self.taken().contains(position));
        if due.is_empty() || !lease.hold().await? {
            return Ok(Vec::new());
        }
        Ok(due)
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

    async fn forget(&self) -> Result<u64, SqlError> {
        let before = self.database.now().saturating_sub(milliseconds(self.settings.remember));
        let mut transaction = self.database.begin_host(Instant::now() + DATABASE_PATIENCE).await?;
        let forgotten = inbox::forget(&mut transaction, before).await?;
        transaction.commit_unsynced().await?;
        Ok(forgotten)
    }

    /// Handles the event at a position, if it is still to be handled, and notes what came of it. Gives the pause after
    /// which to look for more, if there may be more.
    async fn deliver(&self, position: i64) -> Option<Duration> {
        let deadline = Instant::now() + DATABASE_PATIENCE;
        // Why again: it may have been handled, or put off, since it was found.
        let ready =
            inbox::ready(&self.database, position, self.database.now(), self.longest_wait(), deadline).await;
        let noted = match ready {
            Ok(Some(received)) => self.handle(&received).await,
            Ok(None) => Ok(false),
            Err(error) => Err(error.to_string()),
        };
        match noted {
            Ok(look_again) => {
                self.troubled().remove(&position);
                look_again.then_some(Duration::ZERO)
            }
            Err(reason) => {
                let mut troubled = self.troubled();
                let times = troubled.entry(position).or_default();
                let pause = PAUSE.saturating_mul(1 << (*times).min(16)).min(PAUSE_MAX);
                *times = times.saturating_add(1);
                let module = self.pool.module();
                tracing::debug!(module, position, "an attempt came to nothing; again in {pause:?}: {reason}");
                Some(pause)
            }
        }
    }

    /// Handles an event. Gives whether there may be more to do, or why nothing came of it.
    async fn handle(&self, received: &Received) -> Result<bool, String> {
        failpoint::reach("delivery.taken");
        let noted = match self.attempt(received).await {
            Attempt::Handled(written) => match self.finish(received, written).await {
                Ok(next) => Ok(next),
                Err(SqlError::Deadline) => {
                    self.failed(received, "its deadline passed before its commit".to_owned()).await
                }
                // Another transaction was in the way. Nothing stands, and nobody is to blame.
                Err(SqlError::Conflict(reason)) => return Err(reason),
                // Nothing of the handler's stands, or it is open and the row will tell.
                Err(error) => {
                    self.retry(received, format!("its transaction was not committed: {error}")).await
                }
            },
            Attempt::Retry(reason) => self.retry(received, reason).await,
            Attempt::Failed(reason) => self.failed(received, reason).await,
            Attempt::Rejected(reason) => self.bury(received, received.failures, reason).await,
            Attempt::NotRun(reason) => return Err(reason),
        };
        noted.map_err(|error| {
            let module = self.pool.module();
            tracing::warn!(module, event = received.event.id, "an attempt could not be noted: {error}");
            error.to_string()
        })
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
            Ok((results, written)) => answer(results, written).await,
            Err(error) if !error.may_have_run() => Attempt::NotRun(error.to_string()),
            Err(error) => Attempt::Failed(error.to_string()),
        }
    }

    /// Commits what the handler has written, with the mark. Gives whether there may be more to do.
    async fn finish(&self, received: &Received, written: Written) -> Result<bool, SqlError> {
        failpoint::reach("delivery.handled");
        let mut transaction = match written.transaction {
            Some(transaction) => transaction,
            None => self.database.begin_host(Instant::now() + DATABASE_PATIENCE).await?,
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
        Ok(self.advance(received, next).await)
    }

    /// Notes that the handler is to try again, unless it has tried for long enough.
    async fn retry(&self, received: &Received, reason: String) -> Result<bool, SqlError> {
        let now = self.database.now();
        let tried_for = now.saturating_sub(received.first_attempt_at.unwrap_or(now));
        if tried_for >= milliseconds(self.settings.give_up_after) {
            return self.bury(received, received.failures, reason).await;
        }
        self.postpone(received, received.failures, &reason).await
    }

    /// Notes that the handler trapped or ran out of time, unless it has done so often enough.
    async fn failed(&self, received: &Received, reason: String) -> Result<bool, SqlError> {
        let failures = received.failures.saturating_add(1);
        if failures >= self.settings.attempts_max {
            return self.bury(received, failures, reason).await;
        }
        self.postpone(received, failures, &reason).await
    }

    async fn postpone(&self, received: &Received, failures: u32, reason: &str) -> Result<bool, SqlError> {
        let now = self.database.now();
        let steps = &self.settings.backoff;
        let step = usize::try_from(received.attempts).unwrap_or(usize::MAX);
        let wait = steps.get(step).or(steps.last()).copied().unwrap_or_default();
        let module = self.pool.module();
        let shown = printable(reason.as_bytes(), REASON_MAX);
        tracing::debug!(module, event = received.event.id, "the event is tried again in {wait:?}: {shown}");
        let mut transaction = self.database.begin_host(Instant::now() + DATABASE_PATIENCE).await?;
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

    /// Makes a dead letter of the event, after one more attempt.
    async fn bury(&self, received: &Received, failures: u32, reason: String) -> Result<bool, SqlError> {
        let shown = printable(reason.as_bytes(), REASON_MAX);
        let dead = End::Dead { attempts: received.attempts.saturating_add(1), failures, error: reason };
        let mut transaction = self.database.begin_host(Instant::now() + DATABASE_PATIENCE).await?;
        let Some(next) = inbox::end(&mut transaction, received, self.database.now(), &dead).await? else {
            return Ok(false);
        };
        transaction.commit().await?;
        let (module, event) = (self.pool.module(), &received.event);
        tracing::error!(module, event = event.id, function = event.function, "dead letter: {shown}");
        Ok(self.advance(received, next).await)
    }

    /// Lets the next event of the key be handled. What has ended stands whatever comes of this: `due` makes it good.
    async fn advance(&self, received: &Received, became_ready: bool) -> bool {
        let deadline = Instant::now() + DATABASE_PATIENCE;
        inbox::advance(&self.database, received, became_ready, deadline).await.unwrap_or_else(|error| {
            tracing::debug!(module = self.pool.module(), "the next event of a key waits: {error}");
            true
        })
    }
}

/// What a handler has said.
async fn answer(results: Vec<Val>, written: Written) -> Attempt {
    let result = results.into_iter().next();
    if let Some(Val::Result(Ok(_))) = result {
        return Attempt::Handled(written);
    }
    if let Some(transaction) = written.transaction {
        transaction.roll_back().await;
    }
    let Some(Val::Result(Err(Some(error)))) = result else {
        return Attempt::Failed("the handler gave no result".to_owned());
    };
    let Val::Variant(case, Some(text)) = *error else {
        return Attempt::Failed("the handler gave no result".to_owned());
    };
    let text = match *text {
        Val::String(text) => text,
        _ => String::new(),
    };
    if case == "reject" { Attempt::Rejected(text) } else { Attempt::Retry(text) }
}
