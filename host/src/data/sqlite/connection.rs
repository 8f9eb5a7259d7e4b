//! Owns one connection to a SQLite file: how it is set up, its screen, its clock, and what SQLite's codes mean.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{OpenFlags, ffi};

use super::super::recent::Recent;
use super::super::screen::{self, Known, Screen, Verb, check_sizes};
use super::super::{ConstraintKind, Limits, Rows, SqlError, Value, migrate, portable};
use super::statement::{PLANS_KEPT, Plan, collect};
use super::watch::{Pace, STEPS_PER_LOOK, Stopped, Watch};
use super::{Author, functions, in_time};

/// Prepared statements a connection keeps.
const STATEMENTS_KEPT: usize = 64;

/// Bytes of a pattern of LIKE. It may be tried at every place of a text, and the clock is not looked at meanwhile.
const LIKE_PATTERN_BYTES_MAX: i32 = 256;

/// What is asked of a connection.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) author: Author,
    pub(super) sql: &'a str,
    pub(super) given: &'a [Value],
}

impl<'a> Request<'a> {
    pub(super) fn new(author: Author, sql: &'a str, given: &'a [Value]) -> Self {
        // Why: the cache of prepared statements trims too, and a text must mean the same from it and beside it.
        Self { author, sql: sql.trim(), given }
    }
}

/// Why a connection did not do what was asked.
pub(super) enum Fault {
    Sql(SqlError),
    /// Another program holds the database.
    Busy,
    /// A read took more steps or more time than it may on the worker.
    Long,
}

impl Fault {
    /// The error, when there is nothing left to try.
    pub(super) fn settle(self) -> SqlError {
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
pub(super) enum Raw {
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
pub(super) enum Role {
    Reader,
    Writer,
}

/// One connection with its screen, its clock and what it remembers of screened statements.
pub(super) struct Connection {
    sqlite: rusqlite::Connection,
    screen: Arc<Screen>,
    watch: Arc<Watch>,
    plans: Recent<Plan>,
    /// Whether a statement since `begin` could have written.
    written: bool,
    limits: Arc<Limits>,
}

impl Connection {
    pub(super) fn open(
        file: &Path,
        role: Role,
        known: &Arc<Known>,
        limits: &Arc<Limits>,
    ) -> rusqlite::Result<Self> {
        let sqlite = open_raw(file, role, limits)?;
        if role == Role::Writer {
            // COMMIT only appends to the log; `Log` syncs it.
            sqlite.execute_batch("PRAGMA synchronous = NORMAL")?;
        }
        let screen = Arc::new(Screen::new(Arc::clone(known)));
        let watch = Arc::new(Watch::new());
        functions::register(&sqlite, &watch, limits.value_bytes_max)?;
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
        Ok(Self {
            sqlite,
            screen,
            watch,
            plans: Recent::new(PLANS_KEPT),
            written: false,
            limits: Arc::clone(limits),
        })
    }

    pub(super) fn query(
        &mut self,
        request: Request<'_>,
        deadline: Instant,
        pace: Pace,
    ) -> Result<Rows, Fault> {
        let limits = Arc::clone(&self.limits);
        self.run(request, deadline, pace, |statement, plan| {
            if plan.columns.is_empty() {
                return Err(SqlError::Invalid("the statement gives no rows; use execute".into()).into());
            }
            collect(statement, plan, request.author, &limits)
        })
    }

    pub(super) fn execute(
        &mut self,
        request: Request<'_>,
        deadline: Instant,
        pace: Pace,
    ) -> Result<u64, Fault> {
        self.run(request, deadline, pace, |statement, plan| {
            if !plan.columns.is_empty() {
                return Err(SqlError::Invalid(GIVES_ROWS.into()).into());
            }
            Ok(statement.raw_execute()? as u64)
        })
    }

    /// Runs one statement of the host's once for each row of parameters.
    pub(super) fn host_execute_many(
        &mut self,
        sql: &str,
        rows: &[Vec<Value>],
        deadline: Instant,
    ) -> Result<u64, Fault> {
        let first = Request::new(Author::Host, sql, &[]);
        for given in rows {
            check_sizes(first.sql, given, &self.limits)?;
        }
        self.watched(deadline, Pace::Lending, |connection| {
            connection.run_open(first.sql, |statement, plan| {
                if !plan.columns.is_empty() {
                    return Err(SqlError::Invalid(GIVES_ROWS.into()).into());
                }
                let mut changed = 0;
                for given in rows {
                    // Why: a statement of few steps never looks at the clock.
                    in_time(deadline)?;
                    plan.check_count(given)?;
                    plan.bind(statement, given)?;
                    changed += statement.raw_execute()? as u64;
                }
                Ok(changed)
            })
        })
    }

    pub(super) fn begin(&mut self) -> Result<(), Fault> {
        self.control("BEGIN IMMEDIATE")?;
        self.written = false;
        Ok(())
    }

    /// Begins a part of the open transaction that can be rolled back alone.
    pub(super) fn nest(&mut self) -> Result<(), Fault> {
        self.control("SAVEPOINT nested")
    }

    /// Ends that part: it becomes the transaction's, or is rolled back.
    pub(super) fn unnest(&mut self, keep: bool) -> Result<(), Fault> {
        if !keep {
            self.control("ROLLBACK TO nested")?;
        }
        self.control("RELEASE nested")
    }

    /// Whether the open transaction may have written.
    pub(super) fn has_written(&self) -> bool {
        self.written
    }

    /// Lets the log stay as it is when this connection closes.
    pub(super) fn leave_log(&mut self) -> rusqlite::Result<bool> {
        self.sqlite.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
    }

    pub(super) fn commit(&mut self, deadline: Instant) -> Result<(), Fault> {
        in_time(deadline)?;
        self.control("COMMIT")
    }

    pub(super) fn roll_back(&mut self) -> Result<(), Fault> {
        // Why: some errors make SQLite roll back by itself, and then there is nothing to end.
        if self.in_transaction() { self.control("ROLLBACK") } else { Ok(()) }
    }

    pub(super) fn in_transaction(&self) -> bool {
        !self.sqlite.is_autocommit()
    }

    /// Begins or ends a transaction; the clock is off, so it cannot be stopped half-way.
    fn control(&mut self, sql: &'static str) -> Result<(), Fault> {
        self.watch.stop();
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
        pace: Pace,
        act: impl FnOnce(&mut rusqlite::Statement<'_>, &Plan) -> Result<T, Raw>,
    ) -> Result<T, Fault> {
        check_sizes(request.sql, request.given, &self.limits)?;
        self.watched(deadline, pace, |connection| match request.author {
            Author::Module => connection.run_screened(request, act),
            Author::Host => connection.run_open(request.sql, |statement, plan| {
                plan.check_count(request.given)?;
                plan.bind(statement, request.given)?;
                act(statement, plan)
            }),
        })
    }

    /// Runs statements under the clock.
    fn watched<T>(
        &mut self,
        deadline: Instant,
        pace: Pace,
        run: impl FnOnce(&mut Self) -> Result<T, Raw>,
    ) -> Result<T, Fault> {
        in_time(deadline)?;
        self.watch.start(deadline, pace);
        let done = run(self);
        self.watch.stop();
        done.map_err(|error| {
            let fault = self.fault(error);
            if matches!(fault, Fault::Sql(SqlError::Conflict(_))) {
                // Why: the schema may be another now, and the plans speak of the old one.
                self.plans = Recent::new(PLANS_KEPT);
            }
            fault
        })
    }

    /// Runs a module's statement. A text seen for the first time is prepared anew, never taken from the cache, where
    /// the same text may lie unscreened because the host said it; only what has passed is remembered as a plan.
    fn run_screened<T>(
        &mut self,
        request: Request<'_>,
        act: impl FnOnce(&mut rusqlite::Statement<'_>, &Plan) -> Result<T, Raw>,
    ) -> Result<T, Raw> {
        if let Some(plan) = self.plans.get(request.sql) {
            plan.check_count(request.given)?;
            self.screen.turn_to(Arc::clone(&plan.defined));
            let mut statement = self.sqlite.prepare_cached(request.sql)?;
            plan.bind(&mut statement, request.given)?;
            self.written |= !statement.readonly();
            return act(&mut statement, &plan);
        }
        let reading = portable::read(request.sql)?;
        let defined: Arc<[String]> = reading.defined.into();
        self.screen.turn_to(Arc::clone(&defined));
        let mut statement = self.sqlite.prepare(request.sql)?;
        if statement.is_explain() != 0 || (reading.verb == Verb::Select && !statement.readonly()) {
            return Err(SqlError::Refused("the statement is not of the kind it seems to be".into()).into());
        }
        let plan = Arc::new(Plan::of(&statement, defined)?);
        if plan.count() != reading.parameters {
            return Err(SqlError::Invalid("the parameters cannot be told apart".into()).into());
        }
        self.plans.insert(request.sql, Arc::clone(&plan));
        plan.check_count(request.given)?;
        plan.bind(&mut statement, request.given)?;
        self.written |= !statement.readonly();
        act(&mut statement, &plan)
    }

    /// Runs a statement of the host's.
    fn run_open<T>(
        &mut self,
        sql: &str,
        act: impl FnOnce(&mut rusqlite::Statement<'_>, &Plan) -> Result<T, Raw>,
    ) -> Result<T, Raw> {
        self.screen.turn_to(Arc::default());
        let _open = self.screen.open();
        let mut statement = self.sqlite.prepare_cached(sql)?;
        let plan = Plan::of(&statement, Arc::default())?;
        self.written |= !statement.readonly();
        act(&mut statement, &plan)
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
                Stopped::Long => return Fault::Long,
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

pub(super) fn code_of(error: &rusqlite::Error) -> i32 {
    extended_code_of(error) & 0xff
}

/// SQLite's own words, without the text of the statement, which the caller has.
pub(in super::super) fn message_of(error: rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message,
        rusqlite::Error::SqlInputError { msg, .. } => msg,
        other => other.to_string(),
    }
}

/// A connection set up as all of them are, with nothing screened yet.
pub(super) fn open_raw(file: &Path, role: Role, limits: &Limits) -> rusqlite::Result<rusqlite::Connection> {
    let access = match role {
        Role::Reader => OpenFlags::SQLITE_OPEN_READ_ONLY,
        Role::Writer => OpenFlags::SQLITE_OPEN_READ_WRITE,
    };
    let sqlite = rusqlite::Connection::open_with_flags(file, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // What follows here waits for another program that holds the file: it runs off the worker.
    sqlite.busy_timeout(limits.lock_wait_max)?;
    sqlite.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    sqlite.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // Why: without this a kept statement is planned anew when the values of its parameters change much.
    sqlite.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // Why: without this a misspelt column in double quotes is a text, and in PostgreSQL an error.
    sqlite.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    sqlite.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    set_limits(&sqlite, limits)?;
    sqlite.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    if role == Role::Writer {
        let mode: String = sqlite.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            let problem = "its file system cannot keep a write-ahead log".to_owned();
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CANTOPEN), Some(problem)));
        }
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
    // Why none: who waits, and for how long, is decided above, where waiting does not hold a thread.
    sqlite.busy_timeout(Duration::ZERO)?;
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
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, LIKE_PATTERN_BYTES_MAX),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 20),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
    ] {
        sqlite.set_limit(limit, value)?;
    }
    Ok(())
}

pub(super) fn known(sqlite: &rusqlite::Connection) -> rusqlite::Result<Known> {
    let names = |sql| -> rusqlite::Result<Vec<String>> {
        sqlite.prepare(sql)?.query_map([], |row| row.get::<_, String>(0))?.collect()
    };
    let own = names(
        "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') \
         AND upper(coalesce(sql, '')) NOT LIKE 'CREATE VIRTUAL%'",
    )?;
    // Why by name: SQLite adds these to its list only when they are first used.
    let late = ["json_each", "json_tree", "jsonb_each", "jsonb_tree"].map(str::to_owned);
    let built_in = names("PRAGMA module_list")?.into_iter().chain(late);
    Ok(Known {
        own: own
            .iter()
            .filter(|name| !screen::is_reserved(name))
            .map(|name| name.to_ascii_lowercase())
            .collect(),
        built_in: built_in.map(|name| name.to_ascii_lowercase()).collect(),
    })
}
