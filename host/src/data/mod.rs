//! Owns the modules' databases: one per module, which nobody else opens.
//!
//! This file is the seam. What stands above it, the capability `cleave:sql`, the outbox, the inbox, sees a
//! [`Database`], a [`Transaction`], six kinds of [`Value`] and one [`SqlError`], and cannot tell which database it is.
//! Below it is SQLite or PostgreSQL: an arm each of the two enums and of every match in this file.
//!
//! What the seam promises, on either database:
//!
//! - A module says one SELECT, INSERT, UPDATE or DELETE at a time, about its own tables; anything else is `Refused`
//!   before it runs. Tables are made by migrations, at [`Database::open`].
//! - Outside a transaction a statement stands whole and durable, or not at all. Inside one, the first error dooms the
//!   transaction: it is rolled back at once, and everything after it answers `Aborted`.
//! - What is not durable yet is told to nobody: a commit is acknowledged, and shown to who reads outside a transaction,
//!   once it is on the disk; many commits share one sync of it.
//! - Every statement and every wait ends at its deadline; rows, bytes and text have limits.
//! - Nothing here panics, whatever the SQL, the parameters or the files hold.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use postgres::Purpose;

#[cfg(test)]
pub(crate) mod both;
#[cfg(test)]
mod event_tests;
mod folder;
pub mod inbox;
pub mod lease;
mod listing;
mod migrate;
pub mod outbox;
mod portable;
mod postgres;
mod recent;
pub mod roads;
mod screen;
#[cfg(test)]
mod seam_tests;
mod sqlite;
mod tables;
#[cfg(test)]
mod tests;

pub use folder::DataFolder;
pub use inbox::State;
pub use listing::{EventRow, Filter, Kind, Place, list};
pub use postgres::Server;

/// A value as parameters take it and rows give it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    /// Of a parameter, or of a column declared BOOLEAN.
    Boolean(bool),
    Integer(i64),
    /// Never NaN or infinite, in either direction.
    Real(f64),
    /// Never holds U+0000, in either direction: PostgreSQL cannot store it.
    Text(String),
    Blob(Vec<u8>),
}

/// What a query gives: every row has as many values as there are columns.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rows {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
}

/// The rule of the schema that a statement would have broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConstraintKind {
    Unique,
    ForeignKey,
    NotNull,
    Check,
}

/// Why a statement did not succeed; one to one with the `error` of `cleave:sql/database`, where the cases are explained.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SqlError {
    #[error("the statement is not valid: {0}")]
    Invalid(String),
    #[error("the statement is refused: {0}")]
    Refused(String),
    #[error("the statement breaks a constraint: {message}")]
    Violates { kind: ConstraintKind, message: String },
    #[error("another transaction was in the way: {0}")]
    Conflict(String),
    #[error("a transaction of this call is open")]
    TransactionOpen,
    #[error("the transaction is over, or an earlier statement of it failed")]
    Aborted,
    #[error("larger than the limits allow: {0}")]
    TooLarge(String),
    #[error("the deadline passed first")]
    Deadline,
    #[error("the database cannot be used at the moment: {0}")]
    Unavailable(String),
}

/// Why a data folder or a database cannot be opened; [`fix`](Self::fix) says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("the data folder `{}` cannot be used: {source}", folder.display())]
    Folder { folder: PathBuf, source: std::io::Error },
    #[error("the data folder `{}` is in use by {holder}", folder.display())]
    InUse { folder: PathBuf, holder: String },
    #[error("the database `{}` of module `{module}` cannot be opened: {problem}", file.display())]
    Database { module: String, file: PathBuf, problem: String, fix: &'static str },
    #[error("the PostgreSQL server of {address} cannot be used: {problem}")]
    Server { address: String, problem: String, fix: String },
    #[error("migration `{}`{} of module `{module}`: {problem}", file.display(), at_line(*line))]
    Migration { module: String, file: PathBuf, line: Option<usize>, problem: String, fix: &'static str },
}

impl DataError {
    /// What to do about it.
    pub fn fix(&self) -> &str {
        match self {
            Self::Folder { .. } => "name a folder that this user can write, or correct its owner and mode",
            Self::InUse { .. } => "stop that process, or give this node a data folder of its own",
            Self::Database { fix, .. } | Self::Migration { fix, .. } => fix,
            Self::Server { fix, .. } => fix,
        }
    }
}

fn at_line(line: Option<usize>) -> String {
    line.map(|line| format!(", line {line},")).unwrap_or_default()
}

/// What a commit survives once it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The loss of power: it is on the disk.
    #[default]
    Full,
    /// The end of the process at any moment, but not the loss of power: nothing is synced at a commit.
    Process,
}

/// What one module's database may take. Every field has a name in config.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections that read, so statements that read at the same time.
    pub readers: usize,
    /// Connections for transactions and statements that write; a SQLite file has one.
    pub writers: usize,
    /// Rows of one result.
    pub rows_max: usize,
    /// Bytes of one result: text and blobs by their length, every value 16 bytes more.
    pub result_bytes_max: usize,
    /// Bytes of the text of one statement.
    pub statement_bytes_max: usize,
    /// Bytes of one text or blob, and of one stored row.
    pub value_bytes_max: usize,
    /// Bytes of the SQLite file, without its log.
    pub database_bytes_max: u64,
    /// How long a statement waits for another program that holds the database; the deadline may come first.
    pub lock_wait_max: Duration,
    /// Steps of SQLite's machine a read may take on the async worker before it is moved off it.
    pub inline_steps_max: u32,
    /// What an acknowledged commit survives, in SQLite.
    pub durability: Durability,
    /// The clock of a SQLite file, which has none of its own: it is the process's.
    pub clock: Clock,
}

impl Limits {
    /// How many connections a module's database in PostgreSQL has at most.
    pub fn connections(&self) -> usize {
        self.readers.saturating_add(self.writers).saturating_add(postgres::HOST_CONNECTIONS)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            readers: 4,
            writers: 4,
            rows_max: 10_000,
            result_bytes_max: 4 << 20,
            statement_bytes_max: 64 << 10,
            value_bytes_max: 4 << 20,
            database_bytes_max: 16 << 30,
            lock_wait_max: Duration::from_secs(1),
            inline_steps_max: 50_000,
            durability: Durability::Full,
            clock: Clock::system(),
        }
    }
}

/// Looks through a module's folder of migrations without running any: their names, numbers and encoding.
///
/// # Errors
///
/// [`DataError::Migration`] for the first file that could not be run.
pub fn check_migrations(module: &str, folder: &Path) -> Result<(), DataError> {
    migrate::check(module, folder)
}

/// Finds what migrations for both databases say that does not mean the same on both: the first mistakes, a few of them.
///
/// # Errors
///
/// As [`check_migrations`].
pub fn check_portable(module: &str, folder: &Path) -> Result<Vec<DataError>, DataError> {
    migrate::check_portable(module, folder)
}

/// Whether a statement of a module's can only read, told by its first word.
pub fn only_reads(sql: &str) -> bool {
    screen::only_reads(sql.trim())
}

/// A module's database. Cheap to clone; all clones are the same database.
#[derive(Clone)]
pub enum Database {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Postgres),
}

impl Database {
    /// Opens, or makes, the database of `module` in `folder` and runs the migrations that have not run.
    ///
    /// The lock on the folder is held until the folder and all its databases are dropped.
    ///
    /// # Errors
    ///
    /// [`DataError`], when the file is no database or cannot be written, or a migration is refused or fails. A
    /// migration that fails leaves the database as the migration before it left it.
    pub async fn open(
        folder: &DataFolder,
        module: &str,
        migrations: Option<&Path>,
        limits: Limits,
    ) -> Result<Self, DataError> {
        sqlite::Sqlite::open(folder, module, migrations, limits).map(Self::Sqlite)
    }

    /// Makes or finds the schema of `module` on a server and runs the migrations that have not run.
    ///
    /// # Errors
    ///
    /// [`DataError`], when the server cannot be used, or a migration is refused or fails. A migration that fails leaves
    /// the database as the migration before it left it.
    pub async fn open_on(
        server: &Server,
        module: &str,
        migrations: Option<&Path>,
        limits: Limits,
    ) -> Result<Self, DataError> {
        postgres::Postgres::open(server, module, migrations, limits).await.map(Self::Postgres)
    }

    /// Milliseconds since 1970 by the database's clock, which everybody who uses it shares. A server's clock is known to
    /// some milliseconds; see [`Transaction::now`].
    pub fn now(&self) -> i64 {
        match self {
            Self::Sqlite(sqlite) => sqlite.now(),
            Self::Postgres(postgres) => postgres.now(),
        }
    }

    /// Whether other processes may use it at the same time.
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Postgres(_) => true,
        }
    }

    /// Runs a statement of the module's that gives rows. A SELECT runs beside others and beside the writer.
    ///
    /// # Errors
    ///
    /// [`SqlError`]; on any error nothing was changed, but for `Unavailable` while an INSERT, UPDATE or DELETE was
    /// being committed.
    pub async fn query(&self, sql: &str, parameters: &[Value], deadline: Instant) -> Result<Rows, SqlError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.query(sql, parameters, deadline).await,
            Self::Postgres(postgres) => postgres.query(sql, parameters, deadline).await,
        }
    }

    /// Runs a statement of the module's for its effect; gives the number of rows it changed.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    pub async fn execute(&self, sql: &str, parameters: &[Value], deadline: Instant) -> Result<u64, SqlError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.execute(sql, parameters, deadline).await,
            Self::Postgres(postgres) => postgres.execute(sql, parameters, deadline).await,
        }
    }

    /// Runs a statement of the host's own that only reads, on host tables too, beside the writer. It sees everything
    /// committed, also what is not durable yet, and waits for no sync. Never hand it text of a module's.
    ///
    /// # Errors
    ///
    /// [`SqlError`]; `Refused` when the statement writes.
    pub async fn host_query(
        &self,
        sql: &str,
        parameters: &[Value],
        deadline: Instant,
    ) -> Result<Rows, SqlError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.host_query(sql, parameters, deadline).await,
            Self::Postgres(postgres) => postgres.host_query(sql, parameters, deadline).await,
        }
    }

    /// Returns once everything committed before the call is durable, which takes as long as the disk takes. With
    /// [`Durability::Process`] that is at once.
    ///
    /// # Errors
    ///
    /// `Unavailable` when the disk failed to sync: what stands of it is open.
    pub async fn sync(&self) -> Result<(), SqlError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.sync().await,
            // Every commit is durable when it is acknowledged.
            Self::Postgres(_) => Ok(()),
        }
    }

    /// Begins a transaction of the module's, which is serialisable. On SQLite it alone may write until it ends; writers
    /// wait in the order they came. On PostgreSQL it may meet a conflict at any statement.
    ///
    /// # Errors
    ///
    /// `Deadline` when its turn did not come in time; `Unavailable`.
    pub async fn begin(&self, deadline: Instant) -> Result<Transaction, SqlError> {
        self.begin_for(Purpose::Module, deadline).await
    }

    /// As [`begin`](Self::begin), for a handler of events: those of one module have theirs one after the other.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub async fn begin_handling(&self, deadline: Instant) -> Result<Transaction, SqlError> {
        self.begin_for(Purpose::Handler, deadline).await
    }

    /// Begins a transaction of the host's own, on host tables alone. It meets no conflict: each statement sees what is
    /// committed when it begins, and waits for whoever changes the same rows.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub async fn begin_host(&self, deadline: Instant) -> Result<Transaction, SqlError> {
        self.begin_for(Purpose::Host, deadline).await
    }

    async fn begin_for(&self, purpose: Purpose, deadline: Instant) -> Result<Transaction, SqlError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.begin(deadline).await.map(Transaction::Sqlite),
            Self::Postgres(postgres) => postgres.begin(purpose, deadline).await.map(Transaction::Postgres),
        }
    }
}

/// An open transaction; all of it ends at the deadline it was begun with. Dropped without `commit`, it is rolled back.
pub enum Transaction {
    Sqlite(sqlite::Transaction),
    Postgres(postgres::Transaction),
}

impl Transaction {
    /// Milliseconds since 1970 by the database's clock, asked of it now: what holds for some time, such as a lease, is
    /// timed by this, and so alike by all who use the database.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    pub async fn now(&mut self) -> Result<i64, SqlError> {
        match self {
            Self::Sqlite(transaction) => Ok(transaction.now()),
            Self::Postgres(transaction) => transaction.now().await,
        }
    }

    /// Whether nobody else writes while it is open, so that what it reads stays true until it ends.
    pub fn is_alone(&self) -> bool {
        match self {
            Self::Sqlite(_) => true,
            Self::Postgres(_) => false,
        }
    }

    /// Runs a statement of the module's that gives rows.
    ///
    /// # Errors
    ///
    /// [`SqlError`]; after any, the transaction is rolled back and answers `Aborted`.
    pub async fn query(&mut self, sql: &str, parameters: &[Value]) -> Result<Rows, SqlError> {
        match self {
            Self::Sqlite(transaction) => transaction.query(sqlite::Author::Module, sql, parameters),
            Self::Postgres(transaction) => transaction.query(sql, parameters).await,
        }
    }

    /// Runs a statement of the module's for its effect; gives the number of rows it changed.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    pub async fn execute(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, SqlError> {
        match self {
            Self::Sqlite(transaction) => transaction.execute(sqlite::Author::Module, sql, parameters),
            Self::Postgres(transaction) => transaction.execute(sql, parameters).await,
        }
    }

    /// Runs a statement of the host's own, on host tables too, that gives rows. Never hand it text of a module's.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    pub async fn host_query(&mut self, sql: &str, parameters: &[Value]) -> Result<Rows, SqlError> {
        match self {
            Self::Sqlite(transaction) => transaction.query(sqlite::Author::Host, sql, parameters),
            Self::Postgres(transaction) => transaction.host_query(sql, parameters).await,
        }
    }

    /// Runs a statement of the host's own, on host tables too, for its effect. Never hand it text of a module's.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    pub async fn host_execute(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, SqlError> {
        match self {
            Self::Sqlite(transaction) => transaction.execute(sqlite::Author::Host, sql, parameters),
            Self::Postgres(transaction) => transaction.host_execute(sql, parameters).await,
        }
    }

    /// Runs a statement of the host's own once for each row of parameters; gives the number of rows changed by all.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query), at the first row that fails.
    pub async fn host_execute_many(&mut self, sql: &str, rows: &[Vec<Value>]) -> Result<u64, SqlError> {
        match self {
            Self::Sqlite(transaction) => transaction.host_execute_many(sql, rows),
            Self::Postgres(transaction) => transaction.host_execute_many(sql, rows).await,
        }
    }

    /// Begins a part that may fail alone: until [`unnest`](Self::unnest) an error rolls back that part, and only what
    /// is left of the part answers `Aborted`. There is one such part at a time.
    ///
    /// # Errors
    ///
    /// `TransactionOpen` when one is there, which changes nothing; else as [`query`](Self::query).
    pub async fn nest(&mut self) -> Result<(), SqlError> {
        match self {
            Self::Sqlite(transaction) => transaction.nest(),
            Self::Postgres(transaction) => transaction.nest().await,
        }
    }

    /// Ends the nested part: keeps what it did, or rolls it back. What the transaction did before stands either way.
    ///
    /// # Errors
    ///
    /// `Aborted` when the part to be kept has failed and is rolled back already, or when the transaction as a whole is
    /// over: the database ends it by itself when it cannot go on, as with a full disk.
    pub async fn unnest(&mut self, keep: bool) -> Result<(), SqlError> {
        match self {
            Self::Sqlite(transaction) => transaction.unnest(keep),
            Self::Postgres(transaction) => transaction.unnest(keep).await,
        }
    }

    /// Takes all of it back. What it has read may have been another's commit that is not durable yet: that is waited for,
    /// until the transaction's deadline, so that nobody is told of it before.
    pub async fn roll_back(self) {
        match self {
            Self::Sqlite(transaction) => transaction.roll_back().await,
            Self::Postgres(transaction) => transaction.roll_back().await,
        }
    }

    /// Makes all of it durable, or none of it. Others write while it waits for the disk, which its deadline does not
    /// cut short.
    ///
    /// # Errors
    ///
    /// [`SqlError`]; nothing of the transaction stands, but after `Unavailable` that is open. `TransactionOpen` when a
    /// nested part was not ended.
    pub async fn commit(self) -> Result<(), SqlError> {
        match self {
            Self::Sqlite(transaction) => transaction.commit(sqlite::Ending::Durable).await,
            Self::Postgres(transaction) => transaction.commit().await,
        }
    }

    /// Commits without a sync, where that saves one: it becomes durable with the next [`commit`](Self::commit) or
    /// [`sync`](Database::sync), may be lost with the power until then, and is not waited for by those who read.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub async fn commit_unsynced(self) -> Result<(), SqlError> {
        match self {
            Self::Sqlite(transaction) => transaction.commit(sqlite::Ending::Unsynced).await,
            Self::Postgres(transaction) => transaction.commit().await,
        }
    }
}
