//! Owns the SQLite databases: a file per module, one connection that writes and a few that read.
//!
//! SQLite runs in the process, on the thread that calls: no statement is handed to another thread. A short read runs
//! where it stands; a read that turns out to be long is stopped and run again off the async worker. A write inside a
//! transaction touches memory: it runs where it stands too, and lends the worker to others if it turns out long
//! (`watch.rs`). What waits for the disk, a commit and a write that stands alone, runs off the worker from the start.
//!
//! The writer is handed out in the order it is asked for, so SQLite's own lock is contended only by other programs. Every
//! write stands in an explicit transaction, also a single statement: a result that grows too large in the middle of an
//! INSERT … RETURNING can so be taken back whole. After COMMIT the next one has the writer, and the commit waits for its
//! sync beside it; `log` says how commits share one.

use std::fs::{OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::ffi;
use tokio::sync::{OwnedMutexGuard, Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout_at};

use self::connection::{Connection, Fault, Request, Role, code_of, known, open_raw};
use self::log::Log;
use self::watch::Pace;
use super::screen::{self, Known};
use super::{DataError, DataFolder, Limits, Rows, SqlError, Value, migrate};

mod connection;
#[cfg(test)]
mod durability_tests;
mod functions;
mod log;
#[cfg(test)]
mod power_loss_tests;
#[cfg(test)]
mod recording;
mod statement;
#[cfg(test)]
mod transaction_tests;
mod watch;

pub(super) use self::connection::message_of;
pub(super) use self::log::Ending;

/// Pause between two tries at a database that another program holds.
const LOCK_RETRY: Duration = Duration::from_millis(2);

/// Who says a statement: a module, whose words are screened, or the host itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    Module,
    Host,
}

/// The writer in the hands of one who writes.
type Slot = OwnedMutexGuard<Option<Connection>>;

/// A module's database in SQLite.
#[derive(Clone)]
pub struct Sqlite(Arc<Shared>);

struct Shared {
    file: PathBuf,
    limits: Arc<Limits>,
    known: Arc<Known>,
    /// A permit for each connection in `idle`.
    readers: Semaphore,
    idle: Mutex<Vec<Connection>>,
    /// Empty after a rollback that failed; whoever takes the writer next opens it again. Dropped after the readers: the
    /// last connection to close writes the log back into the file, which a reader may not.
    writer: Arc<tokio::sync::Mutex<Option<Connection>>>,
    log: Log,
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
        migrating.busy_timeout(limits.lock_wait_max).map_err(at_open)?;
        migrate::run(&mut migrating, module, migrations)?;
        let known = Arc::new(known(&migrating).map_err(at_open)?);
        drop(migrating);
        let open = |role| Connection::open(&file, role, &known, &limits).map_err(at_open);
        let writer = open(Role::Writer)?;
        let idle = (0..limits.readers.max(1)).map(|_| open(Role::Reader)).collect::<Result<Vec<_>, _>>()?;
        let log = Log::open(&file, limits.durability)
            .map_err(|error| unusable(format!("its log: {error}"), "see that its disk can be written"))?;
        Ok(Self(Arc::new(Shared {
            readers: Semaphore::new(idle.len()),
            idle: Mutex::new(idle),
            writer: Arc::new(tokio::sync::Mutex::new(Some(writer))),
            log,
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
        if screen::only_reads(request.sql) {
            let rows =
                self.read(deadline, |reader| read_near(reader, request, deadline, &self.0.limits)).await?;
            self.0.until_told(deadline).await?;
            Ok(rows)
        } else {
            self.write(deadline, |writer| writer.query(request, deadline, Pace::Free)).await
        }
    }

    pub(super) async fn execute(
        &self,
        sql: &str,
        given: &[Value],
        deadline: Instant,
    ) -> Result<u64, SqlError> {
        let request = Request::new(Author::Module, sql, given);
        if screen::only_reads(request.sql) {
            // Why: a SELECT is wrong here, and to say what is wrong needs no writer.
            self.read(deadline, |reader| reader.execute(request, deadline, Pace::Free)).await
        } else {
            self.write(deadline, |writer| writer.execute(request, deadline, Pace::Free)).await
        }
    }

    /// Reads for the host, also what is not durable yet.
    pub(super) async fn host_query(
        &self,
        sql: &str,
        given: &[Value],
        deadline: Instant,
    ) -> Result<Rows, SqlError> {
        let request = Request::new(Author::Host, sql, given);
        if !screen::only_reads(request.sql) {
            return Err(SqlError::Refused("outside a transaction the host only reads".into()));
        }
        self.read(deadline, |reader| read_near(reader, request, deadline, &self.0.limits)).await
    }

    pub(super) fn now(&self) -> i64 {
        self.0.limits.clock.now()
    }

    pub(super) async fn begin(&self, deadline: Instant) -> Result<Transaction, SqlError> {
        let mut slot = self.writer(deadline).await?;
        let mut patience = Patience::new(&self.0.limits, deadline);
        loop {
            let Some(writer) = slot.as_mut() else { return Err(reopen_failed()) };
            match writer.begin() {
                Ok(()) => {
                    let shared = Arc::clone(&self.0);
                    return Ok(Transaction { shared, slot: Some(slot), nested: Nested::No, deadline });
                }
                Err(Fault::Busy) => patience.wait().await?,
                Err(fault) => return Err(fault.settle()),
            }
        }
    }

    pub(super) async fn sync(&self) -> Result<(), SqlError> {
        self.0.log.synced(self.0.log.announced()).await
    }

    /// Returns when whatever a statement may have seen of others is durable: only then may anyone be told of it.
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
        let shared = &self.0;
        let mut slot = Some(self.writer(deadline).await?);
        let mut patience = Patience::new(&shared.limits, deadline);
        loop {
            let done = off_worker(|| {
                let writer = slot.as_deref_mut().and_then(Option::as_mut).ok_or_else(reopen_failed)?;
                writer.begin()?;
                let done = run(writer)
                    .and_then(|value| Ok((value, shared.commit(&mut slot, deadline, Ending::Durable)?)));
                Ok(done.map_err(Fault::settle))
            });
            match done {
                Ok(Ok((value, None))) => return Ok(value),
                Ok(Ok((value, Some(commit)))) => {
                    shared.log.synced(commit).await?;
                    return Ok(value);
                }
                Ok(Err(error)) => {
                    give_back(&mut slot);
                    if let SqlError::Violates { .. } = error {
                        self.0.until_told(deadline).await?;
                    }
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

    /// Does something else in place of the sync of the log.
    #[cfg(test)]
    pub(super) fn hook_sync(&self, hook: Option<log::Hook>) {
        self.0.log.set_hook(hook);
    }

    /// The writer, in turn. It is never given out inside a transaction.
    async fn writer(&self, deadline: Instant) -> Result<Slot, SqlError> {
        let shared = &self.0;
        in_time(deadline)?;
        shared.log.check()?;
        let mut slot = match Arc::clone(&shared.writer).try_lock_owned() {
            Ok(slot) => slot,
            Err(_) => timeout_at(deadline.into(), Arc::clone(&shared.writer).lock_owned())
                .await
                .map_err(|_| SqlError::Deadline)?,
        };
        if slot.as_ref().is_some_and(Connection::in_transaction) {
            // Why: only a panic in the middle of a write can leave one, and it must not cost the writer.
            roll_back(&mut slot);
        }
        if slot.is_none() {
            let opened =
                off_worker(|| Connection::open(&shared.file, Role::Writer, &shared.known, &shared.limits));
            let opened = opened.map_err(|error| SqlError::Unavailable(error.to_string()))?;
            shared.log.check_file().map_err(|error| SqlError::Unavailable(error.to_string()))?;
            *slot = Some(opened);
        }
        Ok(slot)
    }

    async fn reader(&self, deadline: Instant) -> Result<Reader<'_>, SqlError> {
        let shared = &self.0;
        in_time(deadline)?;
        shared.log.check()?;
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

impl Shared {
    /// Waits until what a reader may have seen can be told.
    async fn until_told(&self, deadline: Instant) -> Result<(), SqlError> {
        match self.log.unsynced() {
            None => Ok(()),
            Some(commit) => {
                timeout_at(deadline.into(), self.log.synced(commit)).await.map_err(|_| SqlError::Deadline)?
            }
        }
    }

    /// Commits what the writer has open and gives the writer free; then syncs, unless somebody does already: in that
    /// case the commit to wait for is given. What fails leaves the writer where it is.
    fn commit(
        &self,
        slot: &mut Option<Slot>,
        deadline: Instant,
        ending: Ending,
    ) -> Result<Option<u64>, Fault> {
        let writer = slot.as_deref_mut().and_then(Option::as_mut).ok_or(SqlError::Aborted)?;
        let commit = if writer.has_written() {
            let commit = self.log.announce(ending)?;
            match writer.commit(deadline) {
                Ok(()) => self.log.appended(commit, ending),
                Err(fault) => {
                    self.log.abandoned(commit);
                    return Err(fault);
                }
            }
            commit
        } else {
            writer.commit(deadline)?;
            // Why: what it has read may be what others have written and not synced.
            self.log.unsynced().unwrap_or_default()
        };
        // Why before the sync: others write meanwhile.
        *slot = None;
        if ending == Ending::Unsynced {
            return Ok(None);
        }
        match self.log.sync_now(commit) {
            Some(done) => Ok(done.map(|()| None)?),
            None => Ok(Some(commit)),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.log.has_failed() {
            return;
        }
        // Why: the last connection to close copies the log into the database, and what is read of the log now may not
        // be what was written. Left as it is, it is read anew with its checksums.
        if let Ok(mut slot) = self.writer.try_lock()
            && let Some(Err(error)) = slot.as_mut().map(Connection::leave_log)
        {
            tracing::warn!(%error, "the log cannot be left as it is");
        }
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
    shared: Arc<Shared>,
    /// Empty once the transaction is over, for better or worse.
    slot: Option<Slot>,
    nested: Nested,
    deadline: Instant,
}

/// The part of a transaction that may fail alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nested {
    No,
    Open,
    /// It has failed and is rolled back; it has not been left yet.
    Doomed,
}

impl Transaction {
    pub(super) fn now(&self) -> i64 {
        self.shared.limits.clock.now()
    }

    /// Gives the writer back with nothing done, then waits for what was read and is not durable.
    pub(super) async fn roll_back(mut self) {
        give_back(&mut self.slot);
        // What does not come in time, or cannot be told, the call that read it learns from its own deadline.
        let _ = self.shared.until_told(self.deadline).await;
    }

    pub(super) fn query(&mut self, author: Author, sql: &str, given: &[Value]) -> Result<Rows, SqlError> {
        let request = Request::new(author, sql, given);
        let (deadline, shared) = (self.deadline, Arc::clone(&self.shared));
        if screen::only_reads(request.sql) {
            self.step(|writer| read_near(writer, request, deadline, &shared.limits))
        } else {
            self.step(|writer| writer.query(request, deadline, Pace::Lending))
        }
    }

    pub(super) fn execute(&mut self, author: Author, sql: &str, given: &[Value]) -> Result<u64, SqlError> {
        let request = Request::new(author, sql, given);
        let deadline = self.deadline;
        self.step(|writer| writer.execute(request, deadline, Pace::Lending))
    }

    pub(super) fn host_execute_many(&mut self, sql: &str, rows: &[Vec<Value>]) -> Result<u64, SqlError> {
        let deadline = self.deadline;
        self.step(|writer| writer.host_execute_many(sql, rows, deadline))
    }

    pub(super) fn nest(&mut self) -> Result<(), SqlError> {
        if self.slot.is_some() && self.nested != Nested::No {
            return Err(SqlError::TransactionOpen);
        }
        self.step(Connection::nest)?;
        self.nested = Nested::Open;
        Ok(())
    }

    pub(super) fn unnest(&mut self, keep: bool) -> Result<(), SqlError> {
        match std::mem::replace(&mut self.nested, Nested::No) {
            _ if self.slot.is_none() => Err(SqlError::Aborted),
            Nested::No => Err(SqlError::Invalid("no part of the transaction is nested".into())),
            Nested::Open => self.step(|writer| writer.unnest(keep)),
            Nested::Doomed if keep => Err(SqlError::Aborted),
            Nested::Doomed => Ok(()),
        }
    }

    pub(super) async fn commit(mut self, ending: Ending) -> Result<(), SqlError> {
        if self.slot.is_some() && self.nested != Nested::No {
            return Err(SqlError::TransactionOpen);
        }
        let deadline = self.deadline;
        match off_worker(|| self.shared.commit(&mut self.slot, deadline, ending)) {
            Ok(None) => Ok(()),
            // Why without the deadline: the transaction stands, and its sync ends when the disk is done.
            Ok(Some(commit)) => self.shared.log.synced(commit).await,
            Err(fault) => {
                give_back(&mut self.slot);
                Err(fault.settle())
            }
        }
    }

    /// Does one thing in the transaction; if it fails, the nested part is rolled back, or else the transaction is over
    /// and the writer free.
    fn step<T>(&mut self, act: impl FnOnce(&mut Connection) -> Result<T, Fault>) -> Result<T, SqlError> {
        let writer = self.slot.as_deref_mut().and_then(Option::as_mut).ok_or(SqlError::Aborted)?;
        if let Err(error) = self.shared.log.check() {
            give_back(&mut self.slot);
            return Err(error);
        }
        if self.nested == Nested::Doomed {
            return Err(SqlError::Aborted);
        }
        let fault = match act(writer) {
            Ok(done) => return Ok(done),
            Err(fault) => fault,
        };
        // Why asked: some errors make SQLite roll back everything by itself.
        if self.nested == Nested::Open && writer.in_transaction() && writer.unnest(false).is_ok() {
            self.nested = Nested::Doomed;
        } else {
            give_back(&mut self.slot);
        }
        Err(fault.settle())
    }
}

impl Drop for Transaction {
    // Why here and not elsewhere: taking back what is not committed touches memory and no disk that must be waited for.
    fn drop(&mut self) {
        give_back(&mut self.slot);
    }
}

/// Gives the writer free, with nothing open.
fn give_back(slot: &mut Option<Slot>) {
    if let Some(mut slot) = slot.take() {
        roll_back(&mut slot);
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
    match connection.query(request, deadline, Pace::Brief(limits.inline_steps_max)) {
        Err(Fault::Long) => off_worker(|| connection.query(request, deadline, Pace::Free)),
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
