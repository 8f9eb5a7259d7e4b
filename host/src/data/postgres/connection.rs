//! Owns connections to PostgreSQL: one by one, and the lanes of a module's connections.
//!
//! A connection is handed out by a lane that has a fixed number of places for them, and comes back only when it is known
//! to be at rest: whatever was cut off in the middle of an answer, by a deadline or because a call ended, is closed. The
//! server notices and takes back what was open. A connection that was lost is made anew by whoever needs it next.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use sqlx::postgres::{
    PgArguments, PgConnectOptions, PgConnection, PgDatabaseError, PgErrorPosition, PgRow, PgStatement,
};
use sqlx::{AssertSqlSafe, Connection as _, Executor, SqlSafeStr, SqlStr, Statement};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use super::super::{ConstraintKind, Limits, Rows, SqlError, Value};
use super::values::{Collected, bind, bind_own, check_columns, check_count};

/// The longest one attempt to connect takes; the deadline may come first.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(5);
/// What is said of a statement that `execute` was given and that gives rows.
pub(super) const GIVES_ROWS: &str = "the statement gives rows; use query";

/// Why something on a connection did not succeed.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: SqlError,
    /// Whether the connection is of no use any more.
    pub(super) is_lost: bool,
    /// Where in the statement the server found it, in characters from 0.
    pub(super) at: Option<usize>,
}

impl From<SqlError> for Fault {
    /// The host's own refusal, by which nothing was sent.
    fn from(error: SqlError) -> Self {
        Self { error, is_lost: false, at: None }
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>()) {
            Some(told) => {
                Self { error: told_by_server(told), is_lost: ends_session(told), at: position(told) }
            }
            None => Self { error: SqlError::Unavailable(error.to_string()), is_lost: true, at: None },
        }
    }
}

/// Where in the statement the server found it, in characters from 0.
fn position(told: &PgDatabaseError) -> Option<usize> {
    match told.position() {
        Some(PgErrorPosition::Original(at)) => at.checked_sub(1),
        _ => None,
    }
}

/// Whether the server ends a connection with this error, or it had better be closed.
fn ends_session(told: &PgDatabaseError) -> bool {
    let code = told.code();
    // 0A000 is the schema changed under a statement that was prepared before it: the statement must be prepared anew.
    code == "0A000"
        || code.starts_with("08")
        || code.starts_with("57P")
        || code == "25P03"
        // The server takes no writes any more, and another may by now.
        || code == "25006"
        || code.starts_with("XX")
}

/// An error of the server's by its SQLSTATE.
fn told_by_server(told: &PgDatabaseError) -> SqlError {
    let message = told.message().to_owned();
    let violates = |kind| SqlError::Violates { kind, message: message.clone() };
    match told.code() {
        "23505" | "23P01" => violates(ConstraintKind::Unique),
        "23503" | "23001" => violates(ConstraintKind::ForeignKey),
        "23502" => violates(ConstraintKind::NotNull),
        "23514" => violates(ConstraintKind::Check),
        "40001" | "40P01" => SqlError::Conflict(message),
        "0A000" if message.contains("cached plan") => SqlError::Conflict(message),
        "57014" | "25P03" | "55P03" => SqlError::Deadline,
        "25P02" => SqlError::Aborted,
        "42501" => SqlError::Refused(message),
        // A server that was made a standby. A module's own words that only read can come to neither.
        "25006" => SqlError::Unavailable(message),
        "0A000" if message.contains("hot standby") => SqlError::Unavailable(message),
        code => match code.get(..2).unwrap_or_default() {
            "54" => SqlError::TooLarge(message),
            "08" | "28" | "53" | "55" | "57" | "58" | "XX" => SqlError::Unavailable(message),
            _ => SqlError::Invalid(message),
        },
    }
}

/// Who says a statement: a module, whose words were screened, or the host itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    Module,
    Host,
}

/// A statement with its values, and who says it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) author: Author,
    pub(super) sql: &'a str,
    pub(super) given: &'a [Value],
}

/// One connection.
pub(super) struct Connection {
    postgres: PgConnection,
    /// What the server was told last to let a statement take, in milliseconds.
    patience: u64,
}

impl Connection {
    pub(super) async fn open(options: &PgConnectOptions) -> Result<Self, Fault> {
        let mut postgres = PgConnection::connect_with(options).await?;
        // Best effort, as not every system can: a statement whose client has gone is not worth its time.
        let _ = (&mut postgres).execute("SET client_connection_check_interval = 500").await;
        Ok(Self { postgres, patience: 0 })
    }

    /// Says something that has no values and gives no rows: one statement or several.
    pub(super) async fn say(&mut self, sql: impl Into<String>) -> Result<(), Fault> {
        (&mut self.postgres).execute(sqlx::raw_sql(safe(sql))).await?;
        Ok(())
    }

    /// Lets a statement outside a transaction take about as long as there is time. Said only when it changes much: the
    /// exact time is kept on this side.
    pub(super) async fn set_patience(&mut self, deadline: Instant) -> Result<(), Fault> {
        let patience = milliseconds_until(deadline).next_power_of_two();
        if patience != self.patience {
            self.say(format!("SET statement_timeout = {patience}")).await?;
            self.patience = patience;
        }
        Ok(())
    }

    /// Prepares a statement and its values: of a module's, as the types that the server infers; of the host's, as the
    /// types that they have.
    async fn prepare(&mut self, request: Request<'_>) -> Result<(PgStatement, PgArguments), Fault> {
        match request.author {
            Author::Module => {
                let statement = (&mut self.postgres).prepare(safe(request.sql)).await?;
                check_columns(&statement)?;
                let arguments = bind(&statement, request.given)?;
                Ok((statement, arguments))
            }
            Author::Host => {
                let (types, arguments) = bind_own(request.given)?;
                let statement = (&mut self.postgres).prepare_with(safe(request.sql), &types).await?;
                check_count(&statement, request.given)?;
                Ok((statement, arguments))
            }
        }
    }

    /// Runs a statement that gives rows.
    pub(super) async fn query(&mut self, request: Request<'_>, limits: &Limits) -> Result<Rows, Fault> {
        let (statement, arguments) = self.prepare(request).await?;
        if statement.columns().is_empty() {
            return Err(SqlError::Invalid("the statement gives no rows; use execute".into()).into());
        }
        // The host says in each statement how many rows it wants.
        let rows_max = if request.author == Author::Host { usize::MAX } else { limits.rows_max };
        let mut collected = Collected::of(&statement);
        let mut stream = statement.query_with(arguments).fetch(&mut self.postgres);
        while let Some(row) = stream.try_next().await? {
            // What is not taken of a result that is too large is read past before the next statement.
            collected.push(&row, rows_max, limits)?;
        }
        drop(stream);
        Ok(collected.rows())
    }

    /// Runs a statement for its effect, once for each row of values; gives how many rows were changed by all.
    pub(super) async fn execute_many(
        &mut self,
        author: Author,
        sql: &str,
        rows: &[&[Value]],
    ) -> Result<u64, Fault> {
        let mut changed = 0;
        for given in rows {
            let (statement, arguments) = self.prepare(Request { author, sql, given }).await?;
            if !statement.columns().is_empty() {
                return Err(SqlError::Invalid(GIVES_ROWS.into()).into());
            }
            changed += statement.query_with(arguments).execute(&mut self.postgres).await?.rows_affected();
        }
        Ok(changed)
    }

    /// Runs a statement of a migration, of which there must be one.
    pub(super) async fn execute_once(&mut self, sql: &str) -> Result<(), Fault> {
        sqlx::query(safe(sql)).persistent(false).execute(&mut self.postgres).await?;
        Ok(())
    }

    /// A whole number that a statement of the host's gives.
    pub(super) async fn number(&mut self, sql: &str) -> Result<i64, Fault> {
        Ok(sqlx::query_scalar(safe(sql)).fetch_one(&mut self.postgres).await?)
    }

    /// The rows of texts that a statement of the host's gives.
    pub(super) async fn texts(&mut self, sql: &str, given: &[&str]) -> Result<Vec<Option<String>>, Fault> {
        let mut query = sqlx::query_scalar(safe(sql)).persistent(false);
        for text in given {
            query = query.bind(*text);
        }
        Ok(query.fetch_all(&mut self.postgres).await?)
    }

    /// The rows that a statement of the host's gives.
    pub(super) async fn rows(&mut self, sql: &str) -> Result<Vec<PgRow>, Fault> {
        Ok(sqlx::query(safe(sql)).fetch_all(&mut self.postgres).await?)
    }

    /// Ends it in good order.
    pub(super) async fn close(self) {
        let _ = self.postgres.close().await;
    }
}

/// Text that was screened, or that the host wrote itself.
fn safe(sql: impl Into<String>) -> SqlStr {
    AssertSqlSafe(sql.into()).into_sql_str()
}

/// The time that is left, in milliseconds; never nothing, which would mean no limit to the server.
pub(super) fn milliseconds_until(deadline: Instant) -> u64 {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis();
    u64::try_from(left).unwrap_or(u64::MAX).clamp(1, 1 << 30)
}

/// Waits for something until the deadline. What it was doing on a connection is cut off then, and that is lost.
pub(super) async fn by<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    match timeout_at(deadline.into(), work).await {
        Ok(done) => done,
        Err(_) => Err(Fault { error: SqlError::Deadline, is_lost: true, at: None }),
    }
}

/// A fixed number of places for connections of one kind.
pub(super) struct Lane {
    options: PgConnectOptions,
    places: Arc<Semaphore>,
    /// Connections at rest, the one used last at the end.
    idle: Mutex<Vec<Connection>>,
}

/// A place of a lane, with the connection that is in it.
pub(super) struct Seat {
    lane: Arc<Lane>,
    /// None while it works, and for good if that was cut off.
    connection: Option<Connection>,
    /// Whether the connection had been at rest, so that it may have been lost meanwhile.
    pub(super) was_idle: bool,
    _place: OwnedSemaphorePermit,
}

impl Lane {
    pub(super) fn new(options: PgConnectOptions, places: usize) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(places));
        Arc::new(Self { options, places, idle: Mutex::default() })
    }

    /// A place with a connection, in turn; a new connection if none is at rest.
    pub(super) async fn seat(self: &Arc<Self>, deadline: Instant) -> Result<Seat, SqlError> {
        if Instant::now() >= deadline {
            return Err(SqlError::Deadline);
        }
        let places = Arc::clone(&self.places).acquire_owned();
        let place = match timeout_at(deadline.into(), places).await {
            Err(_) => return Err(SqlError::Deadline),
            Ok(Err(_)) => return Err(SqlError::Unavailable("the database is closed".into())),
            Ok(Ok(place)) => place,
        };
        let idle = self.idle().pop();
        let was_idle = idle.is_some();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect(deadline).await?,
        };
        Ok(Seat { lane: Arc::clone(self), connection: Some(connection), was_idle, _place: place })
    }

    async fn connect(&self, deadline: Instant) -> Result<Connection, SqlError> {
        let by_then = deadline.min(Instant::now() + CONNECT_MAX);
        match by(by_then, Connection::open(&self.options)).await {
            Ok(connection) => Ok(connection),
            // Why: the deadline that passed may have been the attempt's own.
            Err(_) if Instant::now() >= deadline => Err(SqlError::Deadline),
            Err(Fault { error: SqlError::Unavailable(problem), .. }) => Err(SqlError::Unavailable(problem)),
            Err(Fault { error: SqlError::Deadline, .. }) => {
                Err(SqlError::Unavailable("the server does not answer".into()))
            }
            Err(Fault { error, .. }) => Err(SqlError::Unavailable(error.to_string())),
        }
    }

    /// Closes the connections at rest: what one of them met, the others have met too.
    pub(super) fn forget_idle(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The connection, to work with. If whoever works is cut off before [`settle`](Self::settle), it is closed.
    pub(super) fn take(&mut self) -> Result<Connection, Fault> {
        self.connection.take().ok_or(Fault { error: SqlError::Aborted, is_lost: true, at: None })
    }

    /// Takes the connection back after some work, unless that has lost it.
    pub(super) fn settle<T>(&mut self, connection: Connection, done: Result<T, Fault>) -> Result<T, Fault> {
        if !matches!(&done, Err(fault) if fault.is_lost) {
            self.connection = Some(connection);
        }
        done
    }

    /// Closes the connection, and with it what is open on it.
    pub(super) fn close(&mut self) {
        self.connection = None;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lane.idle().extend(self.connection.take());
    }
}
