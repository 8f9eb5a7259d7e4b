//! Owns databases in PostgreSQL: a schema per module, and a few connections of each kind for it.
//!
//! What a module does is SERIALIZABLE, inside `begin` and outside: transactions that would not have come out so one after
//! the other fail with a conflict. A statement that stands alone is a transaction that is known whole, so it is run again
//! here; a transaction is run again by the module, who knows what it has read. So that it comes through, transactions
//! begun in this process soon after a conflict follow one another, as they always do on SQLite.
//!
//! What the host does in transactions of its own, with outbox, inbox and leases, is READ COMMITTED: each statement sees
//! what is committed when it begins, waits for whoever changes the same row, and then looks again. So it needs no second
//! try, and does not stand in the way of modules: PostgreSQL looks for conflicts among SERIALIZABLE transactions alone.
//! The host's part of a handler's transaction is as the transaction is. Handlers of one module have their transactions
//! one after the other (`turn`), because they meet in the same pages of the inbox, which PostgreSQL takes for conflicts.
//!
//! Every commit is durable when it is acknowledged, and what is not durable nobody sees: so there is nothing to sync.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OwnedMutexGuard;
use tokio::time::{sleep, timeout_at};

use self::connection::{Author, Connection, Fault, Lane, Request, Seat, by, milliseconds_until};
use super::recent::Recent;
use super::screen::{self, Reading, check_sizes};
use super::{DataError, Limits, Rows, SqlError, Value, portable};
use crate::clock::milliseconds;

mod connection;
mod migrate;
mod server;
#[cfg(test)]
mod tests;
mod values;

pub use self::server::Server;

/// Connections for what the host does by itself, for each module: one more than a relay and the delivery of events need
/// at a time.
pub(super) const HOST_CONNECTIONS: usize = 2;
/// How often a statement that stands alone is run again after a conflict.
const CONFLICTS_MAX: u32 = 20;
/// The first pause after a conflict; each is twice as long as the one before.
const CONFLICT_PAUSE: Duration = Duration::from_millis(1);
/// How long transactions of one process follow one another after a conflict: who was in the way once is so again, and a
/// module tries a few times only.
const CONTENDED: Duration = Duration::from_secs(10);
/// How much longer than its deadline the answer to a commit is waited for.
const COMMIT_PATIENCE: Duration = Duration::from_secs(5);
/// How long the server waits for the next statement beyond the deadline before it ends the transaction of one who is gone.
const GONE_MARGIN: u64 = 1_000;
/// How old the sample of the server's clock may be.
const SAMPLE_MAX: Duration = Duration::from_secs(10);
/// How long the answer may take that is taken for a new one: by half of it the clock may be wrong.
const SAMPLE_TIME_MAX: Duration = Duration::from_millis(500);
/// The server's clock, in milliseconds since 1970.
const CLOCK: &str = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";
/// Statements whose screening is remembered, twice over.
const READINGS_KEPT: usize = 512;

/// A module's database in PostgreSQL.
#[derive(Clone)]
pub struct Postgres(Arc<Shared>);

struct Shared {
    limits: Limits,
    /// For statements of the module's that read.
    readers: Arc<Lane>,
    /// For its transactions, and statements that write.
    writers: Arc<Lane>,
    /// For the host's own reads and transactions.
    host: Arc<Lane>,
    /// In the hands of the handler that writes, or of the one who writes while there are conflicts.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// When the last conflict was.
    conflict_at: Mutex<Option<Instant>>,
    clock: ServerClock,
    readings: Mutex<Recent<Reading>>,
}

impl Shared {
    /// Takes note of a conflict.
    fn note(&self, error: &SqlError) {
        if let SqlError::Conflict(_) = error {
            *self.conflict_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    async fn turn(&self, deadline: Instant) -> Result<OwnedMutexGuard<()>, SqlError> {
        let turn = Arc::clone(&self.turn).lock_owned();
        timeout_at(deadline.into(), turn).await.map_err(|_| SqlError::Deadline)
    }

    fn is_contended(&self) -> bool {
        let last = *self.conflict_at.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|at| at.elapsed() < CONTENDED)
    }
}

/// The server's clock, told from a sample of it and the time since.
///
/// That is exact to half the time an answer takes, and as good as the server's own where a look is about when to look again.
/// Leases take the clock from the server in their transaction (`Transaction::now`).
struct ServerClock {
    sample: Mutex<Option<(i64, Instant)>>,
    /// By how much tests have moved it.
    moved: AtomicI64,
}

impl ServerClock {
    /// Takes a sample that was asked for at a time. One that took long is worse than the last one and what has passed since.
    fn take(&self, sample: i64, asked: Instant) {
        let mut known = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        let took = asked.elapsed();
        if known.is_none() || took < SAMPLE_TIME_MAX {
            *known = Some((sample, asked + took / 2));
        }
    }

    fn moved(&self, time: i64) -> i64 {
        time.saturating_add(self.moved.load(Ordering::Relaxed))
    }

    fn now(&self) -> i64 {
        let known = *self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        let now = known.map_or(0, |(sample, at)| sample.saturating_add(milliseconds(at.elapsed())));
        self.moved(now)
    }

    fn is_old(&self) -> bool {
        let known = *self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        known.is_none_or(|(_, at)| at.elapsed() > SAMPLE_MAX)
    }
}

/// What kind of transaction is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A module asks for it.
    Module,
    /// A module's handler writes.
    Handler,
    /// The host does something by itself.
    Host,
}

impl Postgres {
    /// Makes or finds the module's schema, migrates it and opens a first connection.
    pub(super) async fn open(
        server: &Server,
        module: &str,
        migrations: Option<&Path>,
        limits: Limits,
    ) -> Result<Self, DataError> {
        let place = server.place(module).await?;
        migrate::run(server, &place, module, migrations).await?;
        let (readers, writers) = (limits.readers.max(1), limits.writers.max(1));
        let clock = ServerClock { sample: Mutex::default(), moved: AtomicI64::new(0) };
        let opened = Self(Arc::new(Shared {
            limits,
            readers: Lane::new(place.reader(), readers),
            writers: Lane::new(place.writer(), writers),
            host: Lane::new(place.host(), HOST_CONNECTIONS),
            turn: Arc::default(),
            conflict_at: Mutex::default(),
            clock,
            readings: Mutex::new(Recent::new(READINGS_KEPT)),
        }));
        let deadline = Instant::now() + connection::CONNECT_MAX;
        opened.sample(deadline).await.map_err(|error| server.unusable(module, &error))?;
        Ok(opened)
    }

    pub(super) fn now(&self) -> i64 {
        self.0.clock.now()
    }

    /// Moves the clock, for tests.
    #[cfg(test)]
    pub(super) fn jump(&self, milliseconds: i64) {
        self.0.clock.moved.fetch_add(milliseconds, Ordering::Relaxed);
    }

    async fn sample(&self, deadline: Instant) -> Result<(), SqlError> {
        loop {
            let mut seat = self.0.host.seat(deadline).await?;
            let mut connection = seat.take().map_err(|fault| fault.error)?;
            let asked = Instant::now();
            let sampled = by(deadline, connection.number(CLOCK)).await;
            let sampled = seat.settle(connection, sampled);
            if seat.was_idle && is_stale(&sampled) {
                self.0.host.forget_idle();
                continue;
            }
            self.0.clock.take(sampled.map_err(|fault| fault.error)?, asked);
            return Ok(());
        }
    }

    /// What a text of a module's says, if it may be said.
    fn read(&self, sql: &str, given: &[Value]) -> Result<Arc<Reading>, SqlError> {
        check_sizes(sql, given, &self.0.limits)?;
        let readings = || self.0.readings.lock().unwrap_or_else(PoisonError::into_inner);
        let known = readings().get(sql);
        let reading = match known {
            Some(reading) => reading,
            None => {
                let reading = Arc::new(portable::read(sql)?);
                readings().insert(sql, Arc::clone(&reading));
                reading
            }
        };
        reading.check_count(given)?;
        Ok(reading)
    }

    pub(super) async fn query(
        &self,
        sql: &str,
        given: &[Value],
        deadline: Instant,
    ) -> Result<Rows, SqlError> {
        let sql = sql.trim();
        let reading = self.read(sql, given)?;
        let request = Request { author: Author::Module, sql, given };
        if reading.verb == screen::Verb::Select {
            return self.read_rows(&self.0.readers, request, deadline).await;
        }
        let mut tries = Tries::default();
        loop {
            let mut transaction = self.begin(Purpose::Module, deadline).await?;
            let done = match transaction.run_query(request).await {
                Ok(rows) => transaction.commit().await.map(|()| rows),
                Err(error) => Err(error),
            };
            if let Some(done) = tries.settle(done, deadline).await {
                return done;
            }
        }
    }

    pub(super) async fn execute(
        &self,
        sql: &str,
        given: &[Value],
        deadline: Instant,
    ) -> Result<u64, SqlError> {
        let sql = sql.trim();
        if self.read(sql, given)?.verb == screen::Verb::Select {
            return Err(SqlError::Invalid(connection::GIVES_ROWS.into()));
        }
        let mut tries = Tries::default();
        loop {
            let mut transaction = self.begin(Purpose::Module, deadline).await?;
            let done = match transaction.run_execute(Author::Module, sql, &[given]).await {
                Ok(changed) => transaction.commit().await.map(|()| changed),
                Err(error) => Err(error),
            };
            if let Some(done) = tries.settle(done, deadline).await {
                return done;
            }
        }
    }

    /// Reads for the host.
    pub(super) async fn host_query(
        &self,
        sql: &str,
        given: &[Value],
        deadline: Instant,
    ) -> Result<Rows, SqlError> {
        if !screen::only_reads(sql) {
            return Err(SqlError::Refused("outside a transaction the host only reads".into()));
        }
        check_sizes(sql, given, &self.0.limits)?;
        if self.0.clock.is_old() {
            self.sample(deadline).await?;
        }
        let request = Request { author: Author::Host, sql, given };
        self.read_rows(&self.0.host, request, deadline).await
    }

    async fn read_rows(
        &self,
        lane: &Arc<Lane>,
        request: Request<'_>,
        deadline: Instant,
    ) -> Result<Rows, SqlError> {
        let mut tries = Tries::default();
        loop {
            let mut seat = lane.seat(deadline).await?;
            let mut connection = seat.take().map_err(|fault| fault.error)?;
            let done = by(deadline, async {
                connection.set_patience(deadline).await?;
                connection.query(request, &self.0.limits).await
            });
            let mut done = done.await;
            if let Err(Fault { error: SqlError::TooLarge(_), is_lost, .. }) = &mut done {
                // Why: the rest of the result is still on its way.
                *is_lost = true;
            }
            let done = seat.settle(connection, done);
            if seat.was_idle && is_stale(&done) {
                // Nothing was changed by a read, and the connection may have been lost while it was at rest.
                lane.forget_idle();
                continue;
            }
            drop(seat);
            if let Some(done) = tries.settle(done.map_err(|fault| fault.error), deadline).await {
                return done;
            }
        }
    }

    pub(super) async fn begin(&self, purpose: Purpose, deadline: Instant) -> Result<Transaction, SqlError> {
        let mut turn = None;
        if purpose == Purpose::Handler {
            turn = Some(self.0.turn(deadline).await?);
        }
        let (lane, level) = match purpose {
            Purpose::Module | Purpose::Handler => (&self.0.writers, "SERIALIZABLE"),
            Purpose::Host => (&self.0.host, "READ COMMITTED"),
        };
        loop {
            let mut seat = lane.seat(deadline).await?;
            if purpose == Purpose::Module && turn.is_none() && self.0.is_contended() {
                drop(seat);
                turn = Some(self.0.turn(deadline).await?);
                continue;
            }
            let left = milliseconds_until(deadline);
            let begin = format!(
                "BEGIN ISOLATION LEVEL {level}; SET LOCAL statement_timeout = {left}; \
                 SET LOCAL idle_in_transaction_session_timeout = {}",
                left.saturating_add(GONE_MARGIN)
            );
            let mut connection = seat.take().map_err(|fault| fault.error)?;
            let begun = by(deadline, connection.say(begin)).await;
            let begun = seat.settle(connection, begun);
            match begun {
                Ok(()) => {
                    let postgres = self.clone();
                    let nested = Nested::No;
                    let turn = turn.take();
                    return Ok(Transaction { postgres, seat: Some(seat), nested, deadline, _turn: turn });
                }
                Err(_) if seat.was_idle && is_stale(&begun) => lane.forget_idle(),
                Err(fault) => {
                    seat.close();
                    return Err(fault.error);
                }
            }
        }
    }
}

/// Whether this may be because the connection was lost before, which says nothing about the server now.
fn is_stale<T>(done: &Result<T, Fault>) -> bool {
    matches!(done, Err(Fault { error: SqlError::Unavailable(_) | SqlError::Conflict(_), is_lost: true, .. }))
}

/// The tries of a statement that stands alone.
#[derive(Default)]
struct Tries(u32);

impl Tries {
    /// What came of it, or none if it is to be tried again.
    async fn settle<T>(
        &mut self,
        done: Result<T, SqlError>,
        deadline: Instant,
    ) -> Option<Result<T, SqlError>> {
        if !matches!(done, Err(SqlError::Conflict(_))) || self.0 >= CONFLICTS_MAX {
            return Some(done);
        }
        let pause = CONFLICT_PAUSE.saturating_mul(1 << self.0.min(6));
        if Instant::now() + pause >= deadline {
            return Some(done);
        }
        self.0 += 1;
        sleep(pause).await;
        None
    }
}

/// The part of a transaction that may fail alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nested {
    No,
    Open,
    /// It has failed and is rolled back; it has not been left yet.
    Doomed,
}

/// An open transaction: it holds a connection until it ends.
pub struct Transaction {
    postgres: Postgres,
    /// Empty once the transaction is over, for better or worse.
    seat: Option<Seat>,
    nested: Nested,
    deadline: Instant,
    /// A handler's turn, which ends after the transaction.
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Transaction {
    pub(super) async fn query(&mut self, sql: &str, given: &[Value]) -> Result<Rows, SqlError> {
        let sql = sql.trim();
        self.screened(sql, given).await?;
        self.run_query(Request { author: Author::Module, sql, given }).await
    }

    pub(super) async fn execute(&mut self, sql: &str, given: &[Value]) -> Result<u64, SqlError> {
        let sql = sql.trim();
        self.screened(sql, given).await?;
        self.run_execute(Author::Module, sql, &[given]).await
    }

    pub(super) async fn host_query(&mut self, sql: &str, given: &[Value]) -> Result<Rows, SqlError> {
        self.sized(sql, &[given]).await?;
        self.run_query(Request { author: Author::Host, sql, given }).await
    }

    pub(super) async fn host_execute_many(
        &mut self,
        sql: &str,
        rows: &[Vec<Value>],
    ) -> Result<u64, SqlError> {
        let rows: Vec<_> = rows.iter().map(Vec::as_slice).collect();
        self.sized(sql, &rows).await?;
        self.run_execute(Author::Host, sql, &rows).await
    }

    pub(super) async fn host_execute(&mut self, sql: &str, given: &[Value]) -> Result<u64, SqlError> {
        self.sized(sql, &[given]).await?;
        self.run_execute(Author::Host, sql, &[given]).await
    }

    /// The server's clock, now.
    pub(super) async fn now(&mut self) -> Result<i64, SqlError> {
        let mut connection = self.take()?;
        let asked = Instant::now();
        let told = by(self.deadline, connection.number(CLOCK)).await;
        let told = self.settle(connection, told).await?;
        self.postgres.0.clock.take(told, asked);
        Ok(self.postgres.0.clock.moved(told))
    }

    /// Refuses a module's statement that may not be said; that dooms the transaction as any error does.
    async fn screened(&mut self, sql: &str, given: &[Value]) -> Result<(), SqlError> {
        let read = self.postgres.read(sql, given).map(drop);
        self.unless_refused(read).await
    }

    /// Refuses a statement of the host's own that is larger than the limits allow.
    async fn sized(&mut self, sql: &str, rows: &[&[Value]]) -> Result<(), SqlError> {
        let sized = rows.iter().try_for_each(|given| check_sizes(sql, given, &self.postgres.0.limits));
        self.unless_refused(sized).await
    }

    async fn unless_refused(&mut self, checked: Result<(), SqlError>) -> Result<(), SqlError> {
        let Err(error) = checked else { return Ok(()) };
        let connection = self.take()?;
        self.settle(connection, Err(error.into())).await
    }

    async fn run_query(&mut self, request: Request<'_>) -> Result<Rows, SqlError> {
        let mut connection = self.take()?;
        let done = by(self.deadline, connection.query(request, &self.postgres.0.limits)).await;
        self.settle(connection, done).await
    }

    async fn run_execute(&mut self, author: Author, sql: &str, rows: &[&[Value]]) -> Result<u64, SqlError> {
        let mut connection = self.take()?;
        let done = by(self.deadline, connection.execute_many(author, sql, rows)).await;
        self.settle(connection, done).await
    }

    async fn say(&mut self, sql: &str) -> Result<(), SqlError> {
        let mut connection = self.take()?;
        let done = by(self.deadline, connection.say(sql)).await;
        self.settle(connection, done).await
    }

    /// The connection, if the transaction can go on.
    fn take(&mut self) -> Result<Connection, SqlError> {
        if self.nested == Nested::Doomed {
            return Err(SqlError::Aborted);
        }
        let seat = self.seat.as_mut().ok_or(SqlError::Aborted)?;
        seat.take().map_err(|fault| fault.error)
    }

    /// Takes the connection back. If what was done has failed, the nested part is rolled back, or else the transaction is
    /// over and the connection free.
    async fn settle<T>(&mut self, connection: Connection, done: Result<T, Fault>) -> Result<T, SqlError> {
        let Some(mut seat) = self.seat.take() else { return Err(SqlError::Aborted) };
        let fault = match seat.settle(connection, done) {
            Ok(done) => {
                self.seat = Some(seat);
                return Ok(done);
            }
            Err(fault) => fault,
        };
        self.postgres.0.note(&fault.error);
        // Why not after a conflict: the transaction as a whole is in somebody's way, and its commit would fail.
        let part_alone = self.nested == Nested::Open && !matches!(fault.error, SqlError::Conflict(_));
        if part_alone && undo(&mut seat, UNDO_PART, self.deadline).await {
            self.seat = Some(seat);
            self.nested = Nested::Doomed;
        } else {
            undo(&mut seat, "ROLLBACK", self.deadline).await;
        }
        Err(fault.error)
    }

    pub(super) async fn nest(&mut self) -> Result<(), SqlError> {
        if self.seat.is_some() && self.nested != Nested::No {
            return Err(SqlError::TransactionOpen);
        }
        self.say("SAVEPOINT part").await?;
        self.nested = Nested::Open;
        Ok(())
    }

    pub(super) async fn unnest(&mut self, keep: bool) -> Result<(), SqlError> {
        match std::mem::replace(&mut self.nested, Nested::No) {
            _ if self.seat.is_none() => Err(SqlError::Aborted),
            Nested::No => Err(SqlError::Invalid("no part of the transaction is nested".into())),
            Nested::Open => self.say(if keep { "RELEASE SAVEPOINT part" } else { UNDO_PART }).await,
            Nested::Doomed if keep => Err(SqlError::Aborted),
            Nested::Doomed => Ok(()),
        }
    }

    pub(super) async fn roll_back(mut self) {
        if let Some(mut seat) = self.seat.take() {
            undo(&mut seat, "ROLLBACK", self.deadline).await;
        }
    }

    pub(super) async fn commit(mut self) -> Result<(), SqlError> {
        if self.seat.is_none() {
            return Err(SqlError::Aborted);
        }
        if self.nested != Nested::No {
            return Err(SqlError::TransactionOpen);
        }
        if Instant::now() >= self.deadline {
            self.roll_back().await;
            return Err(SqlError::Deadline);
        }
        let mut connection = self.take()?;
        let committed = by(self.deadline + COMMIT_PATIENCE, connection.say("COMMIT")).await;
        let Some(mut seat) = self.seat.take() else { return Err(SqlError::Aborted) };
        match seat.settle(connection, committed) {
            Ok(()) => Ok(()),
            // The server said so, and the transaction is over.
            Err(fault) if !fault.is_lost => {
                self.postgres.0.note(&fault.error);
                Err(fault.error)
            }
            Err(fault) => Err(SqlError::Unavailable(format!(
                "the answer to a commit was lost, so it may stand or not: {}",
                fault.error
            ))),
        }
    }
}

impl Drop for Transaction {
    // Why closed: a rollback here would have to be waited for, and until then rows would stay locked.
    fn drop(&mut self) {
        if let Some(seat) = self.seat.as_mut() {
            seat.close();
        }
    }
}

/// Takes back the nested part, and leaves it.
const UNDO_PART: &str = "ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part";

/// Takes back what is open; if that fails, the connection is closed, which does it too. Gives whether it is still there.
async fn undo(seat: &mut Seat, how: &str, deadline: Instant) -> bool {
    let Ok(mut connection) = seat.take() else { return false };
    let undone = by(deadline, connection.say(how)).await;
    let undone = seat.settle(connection, undone);
    if undone.is_err() {
        seat.close();
    }
    undone.is_ok()
}
