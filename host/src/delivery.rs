//! Owns the handling of events: from a module's inbox to its handlers, once in effect.
//!
//! A handler runs as a call of its module, for at most half of the module's concurrency. What it writes is one
//! transaction, which is committed here together with the mark that the event is done. So the effect stands exactly when
//! the mark does: an attempt that the process did not survive has left nothing, and runs again.
//!
//! One process delivers from an inbox at a time, by a lease, which it keeps while handlers run. Should two, because one was
//! stopped for longer than the lease lasts, the mark tells: who does not find the event ready does not commit.

use crate::capability::log::{REASON_MAX, printable};
use crate::capability::writes::Written;
use crate::capability::{CallContext, Delivery, Work};
use crate::clock::milliseconds;
use crate::data::inbox::{self, End, Received};
use crate::data::{Database, SqlError};
use crate::drill::Drill;
use crate::failpoint;
use crate::pool::Pool;
use crate::relay::{DATABASE_PATIENCE, Lease, Trouble};
use crate::types::Function;
use crate::values;
use cleave_bus::deadline::Deadline;
use cleave_config::Events;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wasmtime::component::Val;

/// The pause before a drill looks again for what it has passed over.
const DISORDER_PAUSE: Duration = Duration::from_millis(5);
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
    /// What happens to events on purpose.
    drill: Drill,
    /// Told when there may be something to do: an event has arrived, or another of its key is done.
    arrived: Arc<Notify>,
    /// The positions that are being handled, or rest after an attempt that came to nothing.
    taken: Mutex<HashSet<i64>>,
    /// How many are being handled.
    handling: AtomicUsize,
    /// Told when one of these has ended.
    ended: Notify,
    /// How often in a row an attempt at a position came to nothing.
    troubled: Mutex<HashMap<i64, u32>>,
}

/// What a look has found: where the events are that are to be handled now, and when to look again at the latest.
struct Look {
    due: Vec<i64>,
    again_at: Instant,
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
    /// It did not run; or another transaction was in its way, so that nothing of it stands and nobody is to blame.
    NotRun(String),
}

impl Inbox {
    pub fn new(
        pool: Arc<Pool>,
        database: Database,
        handlers: HashMap<String, Arc<Function>>,
        settings: Events,
        arrived: Arc<Notify>,
        drill: Drill,
    ) -> Self {
        Self(Arc::new(Parts {
            pool,
            database,
            handlers,
            settings,
            drill,
            arrived,
            taken: Mutex::default(),
            handling: AtomicUsize::new(0),
            ended: Notify::new(),
            troubled: Mutex::default(),
        }))
    }

    /// Delivers events until the node stops. Each is handled in a task of its own.
    pub async fn run(self, tasks: TaskTracker, stopping: CancellationToken) {
        let parts = &self.0;
        let mut lease = Lease::new(parts.database.clone(), "delivery".to_owned(), parts.settings.lease);
        let mut trouble = Trouble::default();
        let mut clock = Steady::new(parts.database.now());
        let mut revived = Instant::now();
        while !stopping.is_cancelled() {
            let looked = parts.look(&mut lease, &mut clock, &mut revived).await;
            let looked = trouble.note(looked, |error| {
                tracing::warn!(module = parts.pool.module(), "events are not delivered: {error}");
            });
            let nothing = || Look { due: Vec::new(), again_at: parts.again_at(None) };
            let Look { due, again_at } = looked.unwrap_or_else(nothing);
            for position in due {
                let place = lease.held_while(async {
                    tokio::select! {
                        place = parts.pool.background() => place,
                        () = stopping.cancelled() => None,
                    }
                });
                let Some(place) = place.await else { break };
                if !lease.hold().await.unwrap_or(false) {
                    break;
                }
                let (inbox, taken) = (self.clone(), Taken::new(Arc::clone(parts), position));
                let handling = Handling::new(Arc::clone(parts));
                let stopping = stopping.clone();
                tasks.spawn(async move {
                    let pause = inbox.0.deliver(position).await;
                    drop((place, handling));
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
            let waiting = async {
                tokio::select! {
                    () = parts.arrived.notified() => {}
                    () = tokio::time::sleep_until(again_at.into()) => {}
                    () = stopping.cancelled() => {}
                }
            };
            if parts.is_handling() {
                lease.held_while(waiting).await;
            } else {
                waiting.await;
            }
        }
        // Why not before: whoever takes the lease would handle them a second time.
        while parts.is_handling() {
            lease.held_while(parts.ended.notified()).await;
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

/// An event that is being handled, until this is dropped.
struct Handling(Arc<Parts>);

impl Handling {
    fn new(parts: Arc<Parts>) -> Self {
        parts.handling.fetch_add(1, Ordering::Relaxed);
        Self(parts)
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        self.0.handling.fetch_sub(1, Ordering::Relaxed);
        self.0.ended.notify_one();
    }
}

impl Parts {
    fn taken(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anything is being handled, for as long as which the lease is kept.
    fn is_handling(&self) -> bool {
        self.handling.load(Ordering::Relaxed) > 0
    }

    fn troubled(&self) -> MutexGuard<'_, HashMap<i64, u32>> {
        self.troubled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn longest_wait(&self) -> i64 {
        milliseconds(self.settings.backoff.iter().max().copied().unwrap_or_default())
    }

    /// Looks for events that are to be handled now and are not being handled.
    /// `revived` is when it was last seen to that none waits for one that has ended.
    async fn look(
        &self,
        lease: &mut Lease,
        clock: &mut Steady,
        revived: &mut Instant,
    ) -> Result<Look, SqlError> {
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
        let mut found = inbox::due(&self.database, now, self.longest_wait(), limit, deadline).await?;
        // Why also now and then: where there is always something to do, what a killed process left would wait for ever.
        let revives = found.positions.is_empty() || revived.elapsed() >= self.settings.poll;
        if revives {
            *revived = Instant::now();
        }
        if revives && inbox::revive(&self.database, deadline).await? {
            let now = self.database.now();
            found = inbox::due(&self.database, now, self.longest_wait(), limit, deadline).await?;
        }
        let mut look = Look { due: found.positions, again_at: self.again_at(found.next_at) };
        // Whoever lets go of a position after this has it looked at again.
        look.due.retain(|position| !self.taken().contains(position));
        if !look.due.is_empty() && !lease.hold().await? {
            return Ok(Look { due: Vec::new(), again_at: self.again_at(None) });
        }
        if self.database.is_shared() && !look.due.is_empty() {
            // Why: what another process stores meanwhile is told of there.
            look.again_at = Instant::now();
        }
        let count = look.due.len();
        look.due.retain(|_| !self.drill.passes_over());
        if look.due.len() < count {
            look.again_at = Instant::now() + DISORDER_PAUSE;
        }
        Ok(look)
    }

    /// When to look again if there is nothing to do now: when the next event is due, and now and then.
    fn again_at(&self, next_at: Option<i64>) -> Instant {
        let now = self.database.now();
        let wait = next_at.map_or(self.settings.poll, |at| {
            Duration::from_millis(u64::try_from(at.saturating_sub(now)).unwrap_or(0))
        });
        Instant::now() + wait.min(self.settings.poll)
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
            Ok(None) => Ok(true),
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
        let conflict: Arc<OnceLock<String>> = Arc::default();
        let work = Work::Event(Delivery {
            conflict: Arc::clone(&conflict),
            event: event.id.clone(),
            attempt: received.attempts.saturating_add(1),
            published_at: u64::try_from(event.published_at).unwrap_or(0),
        });
        let context = CallContext {
            deadline: Deadline::after(Instant::now(), self.pool.deadline()),
            trace: u128::from_str_radix(&event.trace, 16).unwrap_or(0),
        };
        for _ in 1..self.drill.times() {
            let in_vain = self.pool.run(function, context, work.clone(), &arguments).await;
            if let Ok((_, Written { transaction: Some(transaction), .. })) = in_vain {
                transaction.roll_back().await;
            }
        }
        let attempt = match self.pool.run(function, context, work, &arguments).await {
            Ok((results, written)) => answer(results, written).await,
            Err(error) if !error.may_have_run() => Attempt::NotRun(error.to_string()),
            Err(error) => Attempt::Failed(error.to_string()),
        };
        unless_in_the_way(attempt, conflict.get())
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

/// What an attempt came to. One that another transaction was in the way of has not failed: what it tried could not be
/// done, and may be soon.
fn unless_in_the_way(attempt: Attempt, conflict: Option<&String>) -> Attempt {
    match (attempt, conflict) {
        (Attempt::Retry(_) | Attempt::Failed(_), Some(reason)) => Attempt::NotRun(reason.clone()),
        (attempt, _) => attempt,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempt_that_another_transaction_was_in_the_way_of_has_not_failed() {
        let conflict = Some("a conflict".to_owned());
        for attempt in [Attempt::Retry("later".into()), Attempt::Failed("a trap".into())] {
            let settled = unless_in_the_way(attempt, conflict.as_ref());
            assert!(matches!(settled, Attempt::NotRun(reason) if reason == "a conflict"));
        }
        let rejected = unless_in_the_way(Attempt::Rejected("never".into()), conflict.as_ref());
        assert!(matches!(rejected, Attempt::Rejected(_)));
        assert!(matches!(unless_in_the_way(Attempt::Retry("later".into()), None), Attempt::Retry(_)));
    }
}
