//! Owns the SQLite databases: a file per module, one connection that writes and a few that read.
//!
//! SQLite runs in the process, on the thread that calls: no statement is handed to another thread. A short read runs
//! where it stands; a read that turns out to be long is stopped and run again off the async worker; whatever writes
//! runs off the worker from the start, because it may wait for the disk.
//!
//! The writer is handed out in the order it is asked for, so SQLite's own lock is contended only by other programs. Every
//! write stands in an explicit transaction, also a single statement: a result that grows too large in the middle of an
//! INSERT … RETURNING can so be taken back whole.

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
use super::screen::{self, Known};
use super::{DataError, DataFolder, Limits, Rows, SqlError, Value, migrate};

mod connection;
mod functions;
mod statement;
mod watch;

pub(super) use self::connection::message_of;

/// Pause between two tries at a database that another program holds.
const LOCK_RETRY: Duration = Duration::from_millis(2);

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
    /// A permit for each connection in `idle`.
    readers: Semaphore,
    idle: Mutex<Vec<Connection>>,
    /// Empty after a rollback that failed; whoever takes the writer next opens it again. Dropped after the readers: the
    /// last connection to close writes the log back into the file, which a reader may not.
    writer: Arc<tokio::sync::Mutex<Option<Connection>>>,
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
        if screen::only_reads(request.sql) {
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
        if screen::only_reads(request.sql) {
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
        if slot.as_ref().is_some_and(Connection::in_transaction) {
            // Why: only a panic in the middle of a write can leave one, and it must not cost the writer.
            roll_back(&mut slot);
        }
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
        if screen::only_reads(request.sql) {
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
