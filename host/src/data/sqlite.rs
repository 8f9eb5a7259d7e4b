//! Owns the SQLite databases: a file per module, one connection that writes and a few that read.
//!
//! SQLite runs in the process, on the thread that calls: no statement is handed to another thread. A short read runs
//! where it stands; a read that turns out to be long is stopped and run again off the async worker; whatever writes
//! runs off the worker from the start, because it may wait for the disk.
//!
//! The writer is handed out in the order it is asked for, so SQLite's own lock is contended only by other programs. Every
//! write stands in an explicit transaction, also a single statement: a result that grows too large in the middle of an
//! INSERT … RETURNING can so be taken back whole.

use std::collections::HashMap;
use std::fs::{OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{OpenFlags, ToSql, ffi};
use tokio::sync::{OwnedMutexGuard, Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout_at};

use super::screen::{self, Known, Screen, Verb};
use super::{ConstraintKind, DataError, DataFolder, Limits, Rows, SqlError, Value, migrate};

/// Prepared statements a connection keeps.
const STATEMENTS_KEPT: usize = 64;
/// Screened texts a connection remembers, twice over: see [`Plans`].
const PLANS_KEPT: usize = 128;
/// Steps of SQLite's machine between two looks at the clock: about 10 to 50 µs.
const STEPS_PER_LOOK: u32 = 1_000;
/// Pause between two tries at a database that another program holds.
const LOCK_RETRY: Duration = Duration::from_millis(2);
/// What a value adds to the size of a result beyond its text or bytes.
const VALUE_BYTES: usize = 16;

/// Who says a statement: a module, whose words are screened, or the host itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    Module,
    Host,
}

/// A module's database in SQLite.
#[derive(Clone)]
pub struct Sqlite(Arc<Shared>);

struct Shared {
    file: PathBuf,
    limits: Arc<Limits>,
    known: Arc<Known>,
    /// Empty after a rollback that failed; whoever takes the writer next opens it again.
    writer: Arc<tokio::sync::Mutex<Option<Connection>>>,
    /// A permit for each connection in `idle`.
    readers: Semaphore,
    idle: Mutex<Vec<Connection>>,
    /// The folder's lock, dropped after the connections above.
    _folder: Arc<std::fs::File>,
}

impl Sqlite {
    /// Opens the file, migrates it and opens the connections.
    pub(super) fn open(
        folder: &DataFolder,
        module: &str,
        migrations: Option<&Path>,
        limits: Limits,
    ) -> Result<Self, DataError> {
        off_worker(|| Self::open_here(folder, module, migrations, limits))
    }

    fn open_here(
        folder: &DataFolder,
        module: &str,
        migrations: Option<&Path>,
        limits: Limits,
    ) -> Result<Self, DataError> {
        let file = folder.path().join(format!("{module}.sqlite"));
        let unusable = |problem: String, fix| DataError::Database {
            module: module.to_owned(),
            file: file.clone(),
            problem,
            fix,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if module.is_empty() || !module.chars().all(plain) {
            return Err(unusable(
                "the name is not a file name everywhere".into(),
                "name the module with letters, digits and hyphens",
            ));
        }
        make_private(&file)
            .map_err(|error| unusable(error.to_string(), "correct the owner and the mode of the file"))?;
        let at_open = |error: rusqlite::Error| {
            let fix = match code_of(&error) {
                ffi::SQLITE_NOTADB => {
                    "it is not a SQLite database: move it away, or put a backup in its place"
                }
                ffi::SQLITE_CORRUPT => "it is damaged: move it away and put a backup in its place",
                ffi::SQLITE_BUSY => "end the program that holds it",
                ffi::SQLITE_FULL => "free some space on its disk",
                _ => "see that it is a file that this user can read and write",
            };
            unusable(error.to_string(), fix)
        };
        let limits = Arc::new(limits);
        let mut migrating = open_raw(&file, Role::Writer, &limits).map_err(at_open)?;
        migrate::run(&mut migrating, module, migrations)?;
        let known = Arc::new(known(&migrating).map_err(at_open)?);
        drop(migrating);
        let open = |role| Connection::open(&file, role, &known, &limits).map_err(at_open);
        let writer = open(Role::Writer)?;
        let idle = (0..limits.readers.max(1)).map(|_| open(Role::Reader)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self(Arc::new(Shared {
            readers: Semaphore::new(idle.len()),
            idle: Mutex::new(idle),
            writer: Arc::new(tokio::sync::Mutex::new(Some(writer))),
            file,
            limits,
            known,
            _folder: folder.lock(),
        })))
    }

    pub(super) async fn query(
        &self,
        sql: &str,
        given: &[Value],
        deadline: Instant,
    ) -> Result<Rows, SqlError> {
        let request = Request::new(Author::Module, sql, given);
        if screen::only_reads(sql) {
            self.read(deadline, |reader| read_near(reader, request, deadline, &self.0.limits)).await
        } else {
            self.write(deadline, |writer| writer.query(request, deadline, None)).await
        }
    }

    pub(super) async fn execute(
        &self,
        sql: &str,
        given: &[Value],
        deadline: Instant,
    ) -> Result<u64, SqlError> {
        let request = Request::new(Author::Module, sql, given);
        if screen::only_reads(sql) {
            // Why: a SELECT is wrong here, and to say what is wrong needs no writer.
            self.read(deadline, |reader| reader.execute(request, deadline)).await
        } else {
            self.write(deadline, |writer| writer.execute(request, deadline)).await
        }
    }

    pub(super) async fn begin(&self, deadline: Instant) -> Result<Transaction, SqlError> {
        let mut slot = self.writer(deadline).await?;
        let mut patience = Patience::new(&self.0.limits, deadline);
        loop {
            let Some(writer) = slot.as_mut() else { return Err(reopen_failed()) };
            match off_worker(|| writer.begin()) {
                Ok(()) => {
                    let limits = Arc::clone(&self.0.limits);
                    return Ok(Transaction { limits, slot: Some(slot), deadline });
                }
                Err(Fault::Busy) => patience.wait().await?,
                Err(fault) => return Err(fault.settle()),
            }
        }
    }

    async fn read<T>(
        &self,
        deadline: Instant,
        run: impl Fn(&mut Connection) -> Result<T, Fault>,
    ) -> Result<T, SqlError> {
        let mut reader = self.reader(deadline).await?;
        let mut patience = Patience::new(&self.0.limits, deadline);
        loop {
            let Some(connection) = reader.connection.as_mut() else { return Err(reopen_failed()) };
            match run(connection) {
                Ok(value) => return Ok(value),
                Err(Fault::Busy) => patience.wait().await?,
                Err(fault) => return Err(fault.settle()),
            }
        }
    }

    async fn write<T>(
        &self,
        deadline: Instant,
        run: impl Fn(&mut Connection) -> Result<T, Fault>,
    ) -> Result<T, SqlError> {
        let mut slot = self.writer(deadline).await?;
        let mut patience = Patience::new(&self.0.limits, deadline);
        loop {
            let Some(writer) = slot.as_mut() else { return Err(reopen_failed()) };
            let done = off_worker(|| {
                writer.begin()?;
                let done = run(writer).and_then(|value| writer.commit(deadline).map(|()| value));
                Ok(done.map_err(Fault::settle))
            });
            match done {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => {
                    roll_back(&mut slot);
                    return Err(error);
                }
                Err(Fault::Busy) => patience.wait().await?,
                Err(fault) => return Err(fault.settle()),
            }
        }
    }

    /// Closes the writer, as after a rollback that failed.
    #[cfg(test)]
    pub(super) async fn lose_writer(&self) {
        *self.0.writer.lock().await = None;
    }

    /// The writer, in turn. It is never given out inside a transaction.
    async fn writer(&self, deadline: Instant) -> Result<OwnedMutexGuard<Option<Connection>>, SqlError> {
        let shared = &self.0;
        in_time(deadline)?;
        let mut slot = match Arc::clone(&shared.writer).try_lock_owned() {
            Ok(slot) => slot,
            Err(_) => timeout_at(deadline.into(), Arc::clone(&shared.writer).lock_owned())
                .await
                .map_err(|_| SqlError::Deadline)?,
        };
        if slot.is_none() {
            let opened =
                off_worker(|| Connection::open(&shared.file, Role::Writer, &shared.known, &shared.limits));
            *slot = Some(opened.map_err(|error| SqlError::Unavailable(error.to_string()))?);
        }
        Ok(slot)
    }

    async fn reader(&self, deadline: Instant) -> Result<Reader<'_>, SqlError> {
        let shared = &self.0;
        in_time(deadline)?;
        let permit = match shared.readers.try_acquire() {
            Ok(permit) => permit,
            Err(_) => timeout_at(deadline.into(), shared.readers.acquire())
                .await
                .map_err(|_| SqlError::Deadline)?
                .map_err(|_| reopen_failed())?,
        };
        let connection = shared.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Ok(Reader { connection, idle: &shared.idle, _permit: permit })
    }
}

/// A reader that is out, and goes back when this is dropped.
struct Reader<'a> {
    connection: Option<Connection>,
    idle: &'a Mutex<Vec<Connection>>,
    /// Dropped after the connection is back.
    _permit: SemaphorePermit<'a>,
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(self.connection.take());
    }
}

/// An open transaction: it holds the writer until it ends.
pub struct Transaction {
    limits: Arc<Limits>,
    /// Empty once the transaction is over, for better or worse.
    slot: Option<OwnedMutexGuard<Option<Connection>>>,
    deadline: Instant,
}

impl Transaction {
    pub(super) fn query(&mut self, author: Author, sql: &str, given: &[Value]) -> Result<Rows, SqlError> {
        let request = Request::new(author, sql, given);
        let (deadline, limits) = (self.deadline, Arc::clone(&self.limits));
        if screen::only_reads(sql) {
            self.step(|writer| read_near(writer, request, deadline, &limits))
        } else {
            self.step(|writer| off_worker(|| writer.query(request, deadline, None)))
        }
    }

    pub(super) fn execute(&mut self, author: Author, sql: &str, given: &[Value]) -> Result<u64, SqlError> {
        let request = Request::new(author, sql, given);
        let deadline = self.deadline;
        self.step(|writer| off_worker(|| writer.execute(request, deadline)))
    }

    pub(super) fn commit(mut self) -> Result<(), SqlError> {
        let deadline = self.deadline;
        self.step(|writer| off_worker(|| writer.commit(deadline)))?;
        self.slot = None;
        Ok(())
    }

    /// Does one thing in the transaction; if it fails, the transaction is over and the writer free.
    fn step<T>(&mut self, act: impl FnOnce(&mut Connection) -> Result<T, Fault>) -> Result<T, SqlError> {
        let writer = self.slot.as_mut().and_then(|slot| slot.as_mut()).ok_or(SqlError::Aborted)?;
        act(writer).map_err(|fault| {
            self.end();
            fault.settle()
        })
    }

    fn end(&mut self) {
        if let Some(mut slot) = self.slot.take() {
            roll_back(&mut slot);
        }
    }
}

impl Drop for Transaction {
    // Why here and not elsewhere: taking back what is not committed touches memory and no disk that must be waited for.
    fn drop(&mut self) {
        self.end();
    }
}

/// Ends whatever the writer has open. A connection that cannot do it is closed, which does it too.
fn roll_back(slot: &mut Option<Connection>) {
    if let Some(Err(fault)) = slot.as_mut().map(Connection::roll_back) {
        tracing::warn!(error = %fault.settle(), "a rollback failed; the connection is opened again");
        *slot = None;
    }
}

/// Runs a read where it stands; if it turns out long, runs it again from the start, off the worker.
fn read_near(
    connection: &mut Connection,
    request: Request<'_>,
    deadline: Instant,
    limits: &Limits,
) -> Result<Rows, Fault> {
    match connection.query(request, deadline, Some(limits.inline_steps_max)) {
        Err(Fault::Long) => off_worker(|| connection.query(request, deadline, None)),
        done => done,
    }
}

/// Runs what may take long so that the async worker's other tasks move on.
fn off_worker<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        // Why: a runtime of one thread has nobody to hand its tasks to, and says so by a panic.
        _ => work(),
    }
}

/// How long to try again at a database that another program holds.
struct Patience {
    deadline: Instant,
    wait_max: Duration,
    since: Option<Instant>,
}

impl Patience {
    fn new(limits: &Limits, deadline: Instant) -> Self {
        Self { deadline, wait_max: limits.lock_wait_max, since: None }
    }

    async fn wait(&mut self) -> Result<(), SqlError> {
        in_time(self.deadline)?;
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.wait_max {
            return Err(Fault::Busy.settle());
        }
        sleep(LOCK_RETRY).await;
        Ok(())
    }
}

fn in_time(deadline: Instant) -> Result<(), SqlError> {
    if Instant::now() < deadline { Ok(()) } else { Err(SqlError::Deadline) }
}

fn reopen_failed() -> SqlError {
    SqlError::Unavailable("no connection to the database is left".into())
}

/// What is asked of a connection.
#[derive(Clone, Copy)]
struct Request<'a> {
    author: Author,
    sql: &'a str,
    given: &'a [Value],
}

impl<'a> Request<'a> {
    fn new(author: Author, sql: &'a str, given: &'a [Value]) -> Self {
        // Why: the cache of prepared statements trims too, and a text must mean the same from it and beside it.
        Self { author, sql: sql.trim(), given }
    }
}

/// Why a connection did not do what was asked.
enum Fault {
    Sql(SqlError),
    /// Another program holds the database.
    Busy,
    /// A read took more steps than it may on the worker.
    Long,
}

impl Fault {
    /// The error, when there is nothing left to try.
    fn settle(self) -> SqlError {
        match self {
            Self::Sql(error) => error,
            Self::Busy => SqlError::Unavailable("the database is locked by another program".into()),
            Self::Long => SqlError::Deadline,
        }
    }
}

impl From<SqlError> for Fault {
    fn from(error: SqlError) -> Self {
        Self::Sql(error)
    }
}

/// An error on its way out of a connection, before SQLite's codes are read.
enum Raw {
    Sqlite(rusqlite::Error),
    Sql(SqlError),
}

impl From<rusqlite::Error> for Raw {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<SqlError> for Raw {
    fn from(error: SqlError) -> Self {
        Self::Sql(error)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Reader,
    Writer,
}

/// One connection with its screen, its clock and what it remembers of screened statements.
struct Connection {
    sqlite: rusqlite::Connection,
    screen: Arc<Screen>,
    watch: Arc<Watch>,
    plans: Plans,
    limits: Arc<Limits>,
}

impl Connection {
    fn open(file: &Path, role: Role, known: &Arc<Known>, limits: &Arc<Limits>) -> rusqlite::Result<Self> {
        let sqlite = open_raw(file, role, limits)?;
        let screen = Arc::new(Screen::new(Arc::clone(known)));
        let watch = Arc::new(Watch::new());
        sqlite.authorizer(Some({
            let screen = Arc::clone(&screen);
            move |asked: rusqlite::hooks::AuthContext<'_>| screen.authorize(asked)
        }))?;
        sqlite.progress_handler(
            i32::try_from(STEPS_PER_LOOK).unwrap_or(i32::MAX),
            Some({
                let watch = Arc::clone(&watch);
                move || watch.look()
            }),
        )?;
        Ok(Self { sqlite, screen, watch, plans: Plans::default(), limits: Arc::clone(limits) })
    }

    fn query(&mut self, request: Request<'_>, deadline: Instant, steps: Option<u32>) -> Result<Rows, Fault> {
        let limits = Arc::clone(&self.limits);
        self.run(request, deadline, steps, |statement| {
            if statement.column_count() == 0 {
                return Err(SqlError::Invalid("the statement gives no rows; use execute".into()).into());
            }
            collect(statement, &limits)
        })
    }

    fn execute(&mut self, request: Request<'_>, deadline: Instant) -> Result<u64, Fault> {
        self.run(request, deadline, None, |statement| {
            if statement.column_count() > 0 {
                return Err(SqlError::Invalid(GIVES_ROWS.into()).into());
            }
            Ok(statement.raw_execute()? as u64)
        })
    }

    fn begin(&mut self) -> Result<(), Fault> {
        self.control("BEGIN IMMEDIATE")
    }

    fn commit(&mut self, deadline: Instant) -> Result<(), Fault> {
        in_time(deadline)?;
        self.control("COMMIT")
    }

    fn roll_back(&mut self) -> Result<(), Fault> {
        // Why: some errors make SQLite roll back by itself, and then there is nothing to end.
        if self.sqlite.is_autocommit() { Ok(()) } else { self.control("ROLLBACK") }
    }

    /// Begins or ends a transaction; the clock is off, so it cannot be stopped half-way.
    fn control(&mut self, sql: &'static str) -> Result<(), Fault> {
        let done = {
            let _open = self.screen.open();
            self.sqlite.prepare_cached(sql).and_then(|mut statement| statement.raw_execute())
        };
        done.map(|_| ()).map_err(|error| self.fault(error.into()))
    }

    fn run<T>(
        &mut self,
        request: Request<'_>,
        deadline: Instant,
        steps: Option<u32>,
        act: impl FnOnce(&mut rusqlite::Statement<'_>) -> Result<T, Raw>,
    ) -> Result<T, Fault> {
        in_time(deadline)?;
        check_sizes(request, &self.limits)?;
        self.screen.take_denied();
        self.watch.start(deadline, steps);
        let done = match request.author {
            Author::Module => self.run_screened(request, act),
            Author::Host => self.run_open(request, act),
        };
        self.watch.stop();
        done.map_err(|error| self.fault(error))
    }

    /// Runs a module's statement. A text seen for the first time is prepared anew, never taken from the cache, where
    /// the same text may lie unscreened because the host said it; only what has passed is remembered as a plan.
    fn run_screened<T>(
        &mut self,
        request: Request<'_>,
        act: impl FnOnce(&mut rusqlite::Statement<'_>) -> Result<T, Raw>,
    ) -> Result<T, Raw> {
        if let Some(plan) = self.plans.get(request.sql) {
            plan.check_count(request.given)?;
            let mut statement = self.sqlite.prepare_cached(request.sql)?;
            plan.bind(&mut statement, request.given)?;
            return act(&mut statement);
        }
        let reading = screen::read(request.sql)?;
        let mut statement = self.sqlite.prepare(request.sql)?;
        if statement.is_explain() != 0 || (reading.verb == Verb::Select && !statement.readonly()) {
            return Err(SqlError::Refused("the statement is not of the kind it seems to be".into()).into());
        }
        let plan = Arc::new(Plan::of(&statement)?);
        if plan.count() != reading.parameters {
            return Err(SqlError::Invalid("the parameters cannot be told apart".into()).into());
        }
        self.plans.insert(request.sql, Arc::clone(&plan));
        plan.check_count(request.given)?;
        plan.bind(&mut statement, request.given)?;
        act(&mut statement)
    }

    fn run_open<T>(
        &mut self,
        request: Request<'_>,
        act: impl FnOnce(&mut rusqlite::Statement<'_>) -> Result<T, Raw>,
    ) -> Result<T, Raw> {
        let _open = self.screen.open();
        let mut statement = self.sqlite.prepare_cached(request.sql)?;
        let plan = Plan::of(&statement)?;
        plan.check_count(request.given)?;
        plan.bind(&mut statement, request.given)?;
        act(&mut statement)
    }

    fn fault(&self, error: Raw) -> Fault {
        let error = match error {
            Raw::Sql(error) => return Fault::Sql(error),
            Raw::Sqlite(error) => error,
        };
        if let Some(reason) = self.screen.take_denied() {
            return Fault::Sql(SqlError::Refused(reason));
        }
        let extended = extended_code_of(&error);
        let message = message_of(error);
        Fault::Sql(match extended & 0xff {
            ffi::SQLITE_INTERRUPT => match self.watch.stopped() {
                Stopped::Steps => return Fault::Long,
                Stopped::No | Stopped::Deadline => SqlError::Deadline,
            },
            ffi::SQLITE_BUSY if extended == ffi::SQLITE_BUSY_SNAPSHOT => SqlError::Conflict(message),
            ffi::SQLITE_BUSY => return Fault::Busy,
            ffi::SQLITE_SCHEMA => SqlError::Conflict(message),
            ffi::SQLITE_CONSTRAINT => violation(extended, message),
            ffi::SQLITE_NOMEM | ffi::SQLITE_TOOBIG => SqlError::TooLarge(message),
            ffi::SQLITE_AUTH => SqlError::Refused(message),
            ffi::SQLITE_FULL
            | ffi::SQLITE_IOERR
            | ffi::SQLITE_CANTOPEN
            | ffi::SQLITE_READONLY
            | ffi::SQLITE_CORRUPT
            | ffi::SQLITE_NOTADB
            | ffi::SQLITE_PROTOCOL
            | ffi::SQLITE_LOCKED
            | ffi::SQLITE_NOLFS
            | ffi::SQLITE_PERM => SqlError::Unavailable(message),
            _ => SqlError::Invalid(message),
        })
    }
}

const GIVES_ROWS: &str = "the statement gives rows; use query";

fn violation(extended: i32, message: String) -> SqlError {
    let kind = match extended {
        ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => {
            ConstraintKind::Unique
        }
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => ConstraintKind::ForeignKey,
        // Why: ON DELETE RESTRICT is a trigger inside SQLite, and only the words tell it from one of the module's.
        ffi::SQLITE_CONSTRAINT_TRIGGER if message.starts_with("FOREIGN KEY") => ConstraintKind::ForeignKey,
        ffi::SQLITE_CONSTRAINT_NOTNULL => ConstraintKind::NotNull,
        ffi::SQLITE_CONSTRAINT_DATATYPE => return SqlError::Invalid(message),
        _ => ConstraintKind::Check,
    };
    SqlError::Violates { kind, message }
}

fn extended_code_of(error: &rusqlite::Error) -> i32 {
    match error {
        rusqlite::Error::SqliteFailure(error, _) | rusqlite::Error::SqlInputError { error, .. } => {
            error.extended_code
        }
        _ => ffi::SQLITE_ERROR,
    }
}

fn code_of(error: &rusqlite::Error) -> i32 {
    extended_code_of(error) & 0xff
}

/// SQLite's own words, without the text of the statement, which the caller has.
pub(super) fn message_of(error: rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message,
        rusqlite::Error::SqlInputError { msg, .. } => msg,
        other => other.to_string(),
    }
}

fn check_sizes(request: Request<'_>, limits: &Limits) -> Result<(), SqlError> {
    if request.sql.len() > limits.statement_bytes_max {
        return Err(SqlError::TooLarge(format!(
            "the statement has {} bytes, the limit is {}",
            request.sql.len(),
            limits.statement_bytes_max
        )));
    }
    for (index, value) in request.given.iter().enumerate() {
        let number = index + 1;
        let bytes = match value {
            Value::Real(real) if !real.is_finite() => {
                return Err(SqlError::Invalid(format!("${number} is {real}; a number must be finite")));
            }
            Value::Text(text) if text.as_bytes().contains(&0) => {
                return Err(SqlError::Invalid(format!(
                    "${number} contains U+0000, which not every database stores"
                )));
            }
            Value::Text(text) => text.len(),
            Value::Blob(bytes) => bytes.len(),
            _ => 0,
        };
        if bytes > limits.value_bytes_max {
            return Err(SqlError::TooLarge(format!(
                "${number} has {bytes} bytes, the limit is {}",
                limits.value_bytes_max
            )));
        }
    }
    Ok(())
}

/// How the parameters of a statement lie: SQLite numbers `$2` and `$1` in the order it meets them.
#[derive(Debug)]
struct Plan {
    /// At each of SQLite's places, the index of the value that goes there.
    order: Vec<usize>,
}

impl Plan {
    fn of(statement: &rusqlite::Statement<'_>) -> Result<Self, SqlError> {
        let order = (1..=statement.parameter_count())
            .map(|place| {
                let name = statement.parameter_name(place)?.strip_prefix('$')?;
                name.parse::<usize>().ok()?.checked_sub(1)
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| SqlError::Invalid("parameters are written $1, $2 and so on".into()))?;
        Ok(Self { order })
    }

    fn count(&self) -> usize {
        self.order.len()
    }

    fn check_count(&self, given: &[Value]) -> Result<(), SqlError> {
        if self.count() == given.len() {
            return Ok(());
        }
        Err(SqlError::Invalid(format!(
            "the statement takes {} parameters and {} values are given",
            self.count(),
            given.len()
        )))
    }

    fn bind(&self, statement: &mut rusqlite::Statement<'_>, given: &[Value]) -> Result<(), Raw> {
        for (place, index) in self.order.iter().enumerate() {
            let value = given.get(*index).ok_or_else(|| {
                SqlError::Invalid(format!("${} has no value: a number is left out", index + 1))
            })?;
            statement.raw_bind_parameter(place + 1, value)?;
        }
        Ok(())
    }
}

/// The plans of the texts seen of late, in two halves: when the younger is full the elder is forgotten.
#[derive(Debug, Default)]
struct Plans {
    younger: HashMap<Box<str>, Arc<Plan>>,
    elder: HashMap<Box<str>, Arc<Plan>>,
}

impl Plans {
    fn get(&mut self, sql: &str) -> Option<Arc<Plan>> {
        if let Some(plan) = self.younger.get(sql) {
            return Some(Arc::clone(plan));
        }
        let plan = self.elder.remove(sql)?;
        self.insert(sql, Arc::clone(&plan));
        Some(plan)
    }

    fn insert(&mut self, sql: &str, plan: Arc<Plan>) {
        if self.younger.len() >= PLANS_KEPT {
            self.elder = std::mem::take(&mut self.younger);
        }
        self.younger.insert(sql.into(), plan);
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Boolean(boolean) => ValueRef::Integer(i64::from(*boolean)),
            Self::Integer(integer) => ValueRef::Integer(*integer),
            Self::Real(real) => ValueRef::Real(*real),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Steps through a result, within the limits.
fn collect(statement: &mut rusqlite::Statement<'_>, limits: &Limits) -> Result<Rows, Raw> {
    let mut columns = Vec::with_capacity(statement.column_count());
    let mut booleans = Vec::with_capacity(statement.column_count());
    for column in statement.columns() {
        columns.push(column.name().to_owned());
        booleans.push(column.decl_type().is_some_and(is_boolean));
    }
    let mut bytes = 0;
    let mut rows = Vec::new();
    let mut stepping = statement.raw_query();
    while let Some(row) = stepping.next()? {
        if row.as_ref().column_count() != columns.len() {
            return Err(SqlError::Conflict("the schema was changed by another program".into()).into());
        }
        if rows.len() >= limits.rows_max {
            return Err(
                SqlError::TooLarge(format!("the result has more than {} rows", limits.rows_max)).into()
            );
        }
        let mut values = Vec::with_capacity(columns.len());
        for (index, (column, boolean)) in columns.iter().zip(&booleans).enumerate() {
            let value = row.get_ref(index)?;
            bytes += VALUE_BYTES + value.as_bytes().map_or(0, <[u8]>::len);
            if bytes > limits.result_bytes_max {
                let limit = limits.result_bytes_max;
                return Err(SqlError::TooLarge(format!("the result has more than {limit} bytes")).into());
            }
            values.push(take(value, column, *boolean)?);
        }
        rows.push(values);
    }
    drop(stepping);
    Ok(Rows { columns, rows })
}

fn is_boolean(declared: &str) -> bool {
    declared.eq_ignore_ascii_case("BOOLEAN") || declared.eq_ignore_ascii_case("BOOL")
}

fn take(value: ValueRef<'_>, column: &str, boolean: bool) -> Result<Value, SqlError> {
    let unfit = |what: &str| SqlError::Invalid(format!("the column `{column}` gives {what}"));
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer @ (0 | 1)) if boolean => Value::Boolean(integer == 1),
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(real) if real.is_finite() => Value::Real(real),
        ValueRef::Real(real) => return Err(unfit(&format!("{real}, which is not a finite number"))),
        ValueRef::Text(bytes) if bytes.contains(&0) => return Err(unfit("text with U+0000 in it")),
        ValueRef::Text(bytes) => {
            Value::Text(std::str::from_utf8(bytes).map_err(|_| unfit("text that is not UTF-8"))?.to_owned())
        }
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    })
}

/// The clock of one connection. SQLite looks at it every [`STEPS_PER_LOOK`] steps, on the thread that runs the
/// statement, and stops when told to.
struct Watch {
    base: Instant,
    /// Nanoseconds after `base`; the greatest number is none at all.
    deadline: AtomicU64,
    /// Looks left before a read is too long for the worker.
    looks: AtomicI64,
    stopped: AtomicU8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    No,
    Deadline,
    Steps,
}

impl Watch {
    fn new() -> Self {
        Self {
            base: Instant::now(),
            deadline: AtomicU64::new(u64::MAX),
            looks: AtomicI64::new(i64::MAX),
            stopped: AtomicU8::new(Stopped::No as u8),
        }
    }

    fn start(&self, deadline: Instant, steps: Option<u32>) {
        let nanos = deadline.saturating_duration_since(self.base).as_nanos();
        self.deadline.store(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.looks
            .store(steps.map_or(i64::MAX, |steps| i64::from(steps / STEPS_PER_LOOK)), Ordering::Relaxed);
        self.stopped.store(Stopped::No as u8, Ordering::Relaxed);
    }

    /// Why the last statement was stopped stays known.
    fn stop(&self) {
        self.deadline.store(u64::MAX, Ordering::Relaxed);
        self.looks.store(i64::MAX, Ordering::Relaxed);
    }

    /// Whether to stop the statement.
    fn look(&self) -> bool {
        let reason = if self.base.elapsed().as_nanos() >= u128::from(self.deadline.load(Ordering::Relaxed)) {
            Stopped::Deadline
        } else if self.looks.fetch_sub(1, Ordering::Relaxed) <= 0 {
            Stopped::Steps
        } else {
            return false;
        };
        self.stopped.store(reason as u8, Ordering::Relaxed);
        true
    }

    fn stopped(&self) -> Stopped {
        match self.stopped.load(Ordering::Relaxed) {
            stopped if stopped == Stopped::Steps as u8 => Stopped::Steps,
            stopped if stopped == Stopped::Deadline as u8 => Stopped::Deadline,
            _ => Stopped::No,
        }
    }
}

/// Makes the file if it is missing; in either case its owner alone may open it. SQLite gives its other files the
/// same mode.
fn make_private(file: &Path) -> std::io::Result<()> {
    // Why never opened when it is there: closing it would drop the locks of any connection this process has to it.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            std::fs::set_permissions(file, Permissions::from_mode(0o600))
        }
        Err(error) => Err(error),
    }
}

/// A connection set up as all of them are, with nothing screened yet.
fn open_raw(file: &Path, role: Role, limits: &Limits) -> rusqlite::Result<rusqlite::Connection> {
    let access = match role {
        Role::Reader => OpenFlags::SQLITE_OPEN_READ_ONLY,
        Role::Writer => OpenFlags::SQLITE_OPEN_READ_WRITE,
    };
    let sqlite = rusqlite::Connection::open_with_flags(file, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // Why none: who waits, and for how long, is decided above, where waiting does not hold a thread.
    sqlite.busy_timeout(Duration::ZERO)?;
    sqlite.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    sqlite.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // Why: without this a misspelt column in double quotes is a text, and in PostgreSQL an error.
    sqlite.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    sqlite.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    set_limits(&sqlite, limits)?;
    sqlite.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    if role == Role::Writer {
        let _: String = sqlite.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        let page: u32 = sqlite.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        let pages = (limits.database_bytes_max / u64::from(page.max(1))).clamp(1, 0xffff_fffe);
        let _: i64 = sqlite.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| row.get(0))?;
        // Keeps a log that once grew long from holding its space for ever.
        let _: i64 = sqlite.query_row("PRAGMA journal_size_limit = 67108864", [], |row| row.get(0))?;
    }
    sqlite.execute_batch(match role {
        Role::Writer => {
            "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA case_sensitive_like = ON"
        }
        Role::Reader => "PRAGMA query_only = ON; PRAGMA case_sensitive_like = ON",
    })?;
    // Reads the file, so that what is no database is found here.
    let _: i64 = sqlite.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(sqlite)
}

fn set_limits(sqlite: &rusqlite::Connection, limits: &Limits) -> rusqlite::Result<()> {
    let bytes = |limit: usize| i32::try_from(limit).unwrap_or(i32::MAX);
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, bytes(limits.value_bytes_max)),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, bytes(limits.statement_bytes_max.max(migrate::STATEMENT_BYTES_MAX))),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, bytes(screen::PARAMETERS_MAX)),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 50),
        (Limit::SQLITE_LIMIT_COLUMN, 500),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 100),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1_000),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 20),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
    ] {
        sqlite.set_limit(limit, value)?;
    }
    Ok(())
}

fn known(sqlite: &rusqlite::Connection) -> rusqlite::Result<Known> {
    let names = |sql| -> rusqlite::Result<Vec<String>> {
        sqlite.prepare(sql)?.query_map([], |row| row.get::<_, String>(0))?.collect()
    };
    let own = names(
        "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') \
         AND upper(coalesce(sql, '')) NOT LIKE 'CREATE VIRTUAL%'",
    )?;
    Ok(Known {
        own: own
            .iter()
            .filter(|name| !screen::is_reserved(name))
            .map(|name| name.to_ascii_lowercase())
            .collect(),
        built_in: names("PRAGMA module_list")?.iter().map(|name| name.to_ascii_lowercase()).collect(),
    })
}
