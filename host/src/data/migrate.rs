//! Owns a module's migrations: which have run, and running those that have not.
//!
//! A migration is a file `NNN_name.sql`, or `NNN_name.sqlite.sql` and `NNN_name.postgres.sql` where databases must differ;
//! numbers begin at 001 and leave none out. Each runs once, whole or not at all, in the order of the numbers, and its text is fixed from then
//! on. It may make tables and fill them. It may not touch the host's tables or the settings of the database, and no
//! name in it begins as only the host's may.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use sha2::{Digest, Sha256};

use super::screen::{Token, Tokens, is_reserved, name_of};
use super::sqlite::message_of;
use super::{DataError, portable, tables};

/// Bytes of one statement of a migration.
pub(super) const STATEMENT_BYTES_MAX: usize = 256 << 10;
/// Bytes of one file.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What is told of a module's files at once.
const PROBLEMS_MAX: usize = 20;

/// What stands for the folder of a module that has none.
pub(super) const NO_FOLDER: &str = "(no migrations)";

const FIX_NAME: &str = "name it NNN_name.sql, as in 001_create_orders.sql, or move it out of the folder";
const FIX_NUMBER: &str = "number the files 001, 002 and so on, each number once";
pub(super) const FIX_FILE: &str = "correct the file";
const FIX_SHARED: &str = "write it so that it means the same on both databases, or make two files of this one: \
     NNN_name.sqlite.sql and NNN_name.postgres.sql";
const FIX_CHANGED: &str = "put its old text back and make the change in a new migration";
const FIX_MISSING: &str = "put the file back, or start the version of the module that has it";
pub(super) const FIX_DATABASE: &str =
    "see that no other program holds the database, and that its disk can be written";

/// Looks through a folder of migrations as either database would.
pub(super) fn check(module: &str, folder: &Path) -> Result<(), DataError> {
    for dialect in [Dialect::Sqlite, Dialect::Postgres] {
        files(module, folder, dialect)?;
    }
    Ok(())
}

/// Finds what does not mean the same on both databases, in the files that are for both.
pub(super) fn check_portable(module: &str, folder: &Path) -> Result<Vec<DataError>, DataError> {
    let mut found = Vec::new();
    for file in files(module, folder, Dialect::Sqlite)?.iter().filter(|file| file.is_shared) {
        let mut told = |failure: Failure| found.push(broken(module, &file.path, failure));
        let statements = match statements(&file.text) {
            Ok(statements) => statements,
            Err(failure) => {
                told(failure);
                continue;
            }
        };
        for statement in statements {
            if let Err(reason) = portable::migrations::check(statement.text) {
                let before = newlines(file.text.get(..statement.start).unwrap_or_default());
                told(Failure {
                    line: Some(1 + before + reason.line),
                    problem: reason.problem,
                    fix: FIX_SHARED,
                });
            }
        }
    }
    found.truncate(PROBLEMS_MAX);
    Ok(found)
}

/// Runs what has not run. The connection is open to the host; it must not serve a module afterwards.
pub(super) fn run(sqlite: &mut Connection, module: &str, folder: Option<&Path>) -> Result<(), DataError> {
    let files = match folder {
        Some(folder) => files(module, folder, Dialect::Sqlite)?,
        None => Vec::new(),
    };
    let at = folder.unwrap_or(Path::new(NO_FOLDER));
    let unprepared =
        |error| broken(module, at, Failure { line: None, problem: message_of(error), fix: FIX_DATABASE });
    tables::prepare(sqlite).map_err(unprepared)?;
    let ran = recorded(sqlite).map_err(unprepared)?;
    let pending = pending(module, at, &files, &ran)?;
    if pending.is_empty() {
        return Ok(());
    }
    let warden = Arc::new(Warden::default());
    let watching = Arc::clone(&warden);
    sqlite.authorizer(Some(move |asked: AuthContext<'_>| watching.authorize(asked))).map_err(unprepared)?;
    for file in pending {
        apply(sqlite, &warden, file).map_err(|failure| broken(module, &file.path, failure))?;
        tracing::info!(module, migration = file.name, "migration applied");
    }
    Ok(())
}

pub(super) struct File {
    pub(super) version: u32,
    /// The file's name without `.sql`.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) sha256: String,
    /// Whether it is for either database.
    is_shared: bool,
}

/// What a database remembers of a migration that ran.
pub(super) struct Record {
    pub(super) name: String,
    pub(super) sha256: String,
}

/// Why a migration did not run.
pub(super) struct Failure {
    pub(super) line: Option<usize>,
    pub(super) problem: String,
    pub(super) fix: &'static str,
}

/// The error about a file of a module.
pub(super) fn broken(module: &str, file: &Path, failure: Failure) -> DataError {
    let Failure { line, problem, fix } = failure;
    DataError::Migration { module: module.to_owned(), file: file.to_owned(), line, problem, fix }
}

/// The files that have not run, if those that have are as they were.
pub(super) fn pending<'a>(
    module: &str,
    folder: &Path,
    files: &'a [File],
    ran: &BTreeMap<u32, Record>,
) -> Result<Vec<&'a File>, DataError> {
    for (version, record) in ran {
        let Some(file) = files.iter().find(|file| file.version == *version) else {
            let gone = folder.join(format!("{}.sql", record.name));
            let problem = "it ran on this database and is missing".into();
            return Err(broken(module, &gone, Failure { line: None, problem, fix: FIX_MISSING }));
        };
        if file.sha256 != record.sha256 {
            let problem = "it was changed after it ran".into();
            return Err(broken(module, &file.path, Failure { line: None, problem, fix: FIX_CHANGED }));
        }
    }
    Ok(files.iter().filter(|file| !ran.contains_key(&file.version)).collect())
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        let fix = match error.sqlite_error_code() {
            Some(
                ErrorCode::DatabaseBusy
                | ErrorCode::DiskFull
                | ErrorCode::ReadOnly
                | ErrorCode::SystemIoFailure,
            ) => FIX_DATABASE,
            _ => FIX_FILE,
        };
        Self { line: None, problem: message_of(error), fix }
    }
}

/// The database that a migration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// The end of the names of files that are for it alone, and what it is called.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Sqlite => (".sqlite", "SQLite"),
            Self::Postgres => (".postgres", "PostgreSQL"),
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Sqlite => Self::Postgres,
            Self::Postgres => Self::Sqlite,
        }
    }
}

/// The migrations in the folder that are for this database, by number.
pub(super) fn files(module: &str, folder: &Path, dialect: Dialect) -> Result<Vec<File>, DataError> {
    let broken = |file: &Path, problem: String, fix| DataError::Migration {
        module: module.to_owned(),
        file: file.to_owned(),
        line: None,
        problem,
        fix,
    };
    let unreadable = |file: &Path, error: std::io::Error| {
        broken(file, format!("it cannot be read: {error}"), "see that this user can read it")
    };
    let mut found: BTreeMap<u32, Vec<(PathBuf, bool)>> = BTreeMap::new();
    let mut other: BTreeMap<u32, PathBuf> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with('.')) {
            continue;
        }
        match name.and_then(version_of) {
            Some((version, only)) if only.is_none_or(|only| only == dialect) => {
                found.entry(version).or_default().push((path, only.is_none()));
            }
            Some((version, _)) => drop(other.insert(version, path)),
            None => return Err(broken(&path, "its name is not that of a migration".into(), FIX_NAME)),
        }
    }
    if let Some((version, path)) = other.iter().find(|(version, _)| !found.contains_key(version)) {
        return Err(broken(
            path,
            format!("{version:03} is there for {} alone", dialect.other().names().1),
            match dialect {
                Dialect::Sqlite => "add its .sqlite.sql",
                Dialect::Postgres => "add its .postgres.sql",
            },
        ));
    }
    let mut files = Vec::with_capacity(found.len());
    for (expected, (version, mut paths)) in (1..).zip(found) {
        paths.sort();
        if let [_, (second, _), ..] = paths.as_slice() {
            return Err(broken(second, format!("another file has the number {version:03} too"), FIX_NUMBER));
        }
        for (path, is_shared) in paths {
            if version != expected {
                return Err(broken(&path, format!("{expected:03} is missing before it"), FIX_NUMBER));
            }
            let size = path.metadata().map_err(|error| unreadable(&path, error))?.len();
            if size > FILE_BYTES_MAX {
                return Err(broken(&path, format!("it has {size} bytes"), "keep it below 16 MiB"));
            }
            let bytes = std::fs::read(&path).map_err(|error| unreadable(&path, error))?;
            let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            let text = String::from_utf8(bytes)
                .map_err(|_| broken(&path, "it is not UTF-8 text".into(), "save it as UTF-8"))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            files.push(File { version, name, path, text, sha256, is_shared });
        }
    }
    Ok(files)
}

/// The number in a file's name, and the database that it is for if that is one alone.
fn version_of(name: &str) -> Option<(u32, Option<Dialect>)> {
    let stem = name.strip_suffix(".sql")?;
    let only = [Dialect::Sqlite, Dialect::Postgres].into_iter().find(|d| stem.ends_with(d.names().0));
    let stem = only.and_then(|dialect| stem.strip_suffix(dialect.names().0)).unwrap_or(stem);
    let (number, title) = stem.split_once('_')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let named = !title.is_empty() && title.chars().all(plain);
    let numbered = number.len() >= 3 && number.bytes().all(|byte| byte.is_ascii_digit());
    let version = number.parse().ok().filter(|version| *version > 0)?;
    (named && numbered).then_some((version, only))
}

/// What has run, by number.
fn recorded(sqlite: &Connection) -> rusqlite::Result<BTreeMap<u32, Record>> {
    sqlite
        .prepare("SELECT version, name, sha256 FROM cleave_migrations")?
        .query_map([], |row| Ok((row.get(0)?, Record { name: row.get(1)?, sha256: row.get(2)? })))?
        .collect()
}

/// Runs one migration in a transaction of its own.
fn apply(sqlite: &mut Connection, warden: &Warden, file: &File) -> Result<(), Failure> {
    let statements = statements(&file.text)?;
    let transaction = sqlite.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for statement in &statements {
        run_statement(&transaction, warden, statement).map_err(|failure| {
            let begun = file.text.get(..statement.start).unwrap_or_default();
            let line = 1 + newlines(begun) + failure.line.unwrap_or(0);
            Failure { line: Some(line), ..failure }
        })?;
    }
    check_names(&transaction)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    transaction.execute(
        "INSERT INTO cleave_migrations (version, name, sha256, applied_at) VALUES (?1, ?2, ?3, ?4)",
        (file.version, &file.name, &file.sha256, i64::try_from(now).unwrap_or(i64::MAX)),
    )?;
    transaction.commit()?;
    Ok(())
}

/// A failure's line counts from the statement's first.
fn run_statement(sqlite: &Connection, warden: &Warden, statement: &Statement<'_>) -> Result<(), Failure> {
    let refused = |problem: String| Failure { line: None, problem, fix: FIX_FILE };
    let failed = |error: rusqlite::Error| {
        if let Some(reason) = warden.take().denied {
            return refused(reason);
        }
        let line = match &error {
            rusqlite::Error::SqlInputError { offset, .. } => {
                usize::try_from(*offset).ok().and_then(|offset| statement.text.get(..offset)).map(newlines)
            }
            _ => None,
        };
        Failure { line, ..error.into() }
    };
    let watched = warden.watch(statement.verb == "ALTER");
    let mut prepared = sqlite.prepare(statement.text).map_err(failed)?;
    drop(watched);
    for table in warden.take().dropped {
        if let Some(other) = referring(sqlite, &table)? {
            // Why: SQLite would first delete the rows of `table`, and so those of the other that follow them.
            return Err(refused(format!(
                "it drops `{table}`, to which `{other}` refers; drop `{other}` first"
            )));
        }
    }
    let _watched = warden.watch(statement.verb == "ALTER");
    let mut rows = prepared.raw_query();
    while rows.next().map_err(failed)?.is_some() {}
    Ok(())
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

struct Statement<'a> {
    start: usize,
    text: &'a str,
    /// Its first word, in upper case.
    verb: String,
}

/// Cuts a file into statements, and reads each for what is refused in all of them.
fn statements(text: &str) -> Result<Vec<Statement<'_>>, Failure> {
    let mut statements = Vec::new();
    let mut cut = Cut::default();
    for token in Tokens::new(text) {
        let (at, token) = token.map_err(|error| Failure {
            line: cut.start.map(|start| 1 + newlines(text.get(..start).unwrap_or_default())),
            problem: error.to_string(),
            fix: FIX_FILE,
        })?;
        let refused = |problem: String| Failure {
            line: Some(1 + newlines(text.get(..at).unwrap_or_default())),
            problem,
            fix: FIX_FILE,
        };
        match token {
            Token::Word(name) | Token::Quoted(name) if is_reserved(name) => {
                return Err(refused(format!(
                    "`{name}` begins as only names of the host's or the database's may"
                )));
            }
            Token::Parameter(_) => return Err(refused("a migration has no parameters".into())),
            _ => {}
        }
        if cut.take(at, token).map_err(refused)? {
            statements.extend(cut.end(text, at));
        }
    }
    statements.extend(cut.end(text, text.len()));
    Ok(statements)
}

/// Finds where a statement ends: at a semicolon, but in CREATE TRIGGER only at one that follows `; END`.
#[derive(Default)]
struct Cut {
    start: Option<usize>,
    verb: String,
    /// Words since the start, as far as they may say CREATE TEMP TRIGGER.
    words: usize,
    trigger: bool,
    after_semicolon: bool,
    after_end: bool,
}

impl Cut {
    const VERBS: [&'static str; 8] =
        ["CREATE", "ALTER", "DROP", "INSERT", "UPDATE", "DELETE", "SELECT", "WITH"];

    /// Whether the statement ends here.
    fn take(&mut self, at: usize, token: Token<'_>) -> Result<bool, String> {
        let word = if let Token::Word(word) = token { word.to_ascii_uppercase() } else { String::new() };
        if token == Token::Semicolon {
            let ends = self.start.is_some() && (!self.trigger || self.after_end);
            (self.after_semicolon, self.after_end) = (true, false);
            return Ok(ends);
        }
        if self.start.is_none() {
            if !Self::VERBS.contains(&word.as_str()) {
                let said = if word.is_empty() { "this" } else { &word };
                return Err(format!(
                    "{said} is not for migrations: they CREATE, ALTER, DROP, INSERT, UPDATE, DELETE"
                ));
            }
            self.start = Some(at);
            self.verb.clone_from(&word);
        }
        self.words += 1;
        self.trigger |= self.verb == "CREATE" && self.words <= 3 && word == "TRIGGER";
        self.after_end = self.after_semicolon && word == "END";
        self.after_semicolon = false;
        Ok(false)
    }

    fn end<'a>(&mut self, text: &'a str, at: usize) -> Option<Statement<'a>> {
        let cut = std::mem::take(self);
        let start = cut.start?;
        Some(Statement { start, text: text.get(start..at)?, verb: cut.verb })
    }
}

/// Watches over the statements of migrations, as the authorizer of their connection.
#[derive(Debug, Default)]
struct Warden {
    watching: AtomicBool,
    /// Set for ALTER, which works by statements of SQLite's own.
    altering: AtomicBool,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    denied: Option<String>,
    dropped: Vec<String>,
}

struct Watched<'a>(&'a Warden);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.watching.store(false, Ordering::Relaxed);
    }
}

impl Warden {
    fn watch(&self, altering: bool) -> Watched<'_> {
        self.altering.store(altering, Ordering::Relaxed);
        self.watching.store(true, Ordering::Relaxed);
        Watched(self)
    }

    fn take(&self) -> Noted {
        std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn authorize(&self, asked: AuthContext<'_>) -> Authorization {
        if !self.watching.load(Ordering::Relaxed) {
            return Authorization::Allow;
        }
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if let AuthAction::DropTable { table_name } = asked.action {
            noted.dropped.push(table_name.to_owned());
        }
        match self.verdict(asked) {
            Ok(()) => Authorization::Allow,
            Err(reason) => {
                noted.denied.get_or_insert(reason);
                Authorization::Deny
            }
        }
    }

    /// SQLite's own tables and indexes pass: it reports its work on them too, and guards them itself. What a file says
    /// about them in its own words is refused when the file is read.
    fn verdict(&self, asked: AuthContext<'_>) -> Result<(), String> {
        let altering = self.altering.load(Ordering::Relaxed);
        if asked.database_name.is_some_and(|name| name != "main") && !altering {
            return Err("a temporary table is not for migrations".into());
        }
        match asked.action {
            AuthAction::Select | AuthAction::Recursive | AuthAction::Reindex { .. } => Ok(()),
            AuthAction::CreateTable { table_name: name }
            | AuthAction::DropTable { table_name: name }
            | AuthAction::CreateView { view_name: name }
            | AuthAction::DropView { view_name: name }
            | AuthAction::AlterTable { table_name: name, .. } => not_the_hosts(name),
            AuthAction::CreateIndex { index_name: name, table_name: table }
            | AuthAction::DropIndex { index_name: name, table_name: table }
            | AuthAction::CreateTrigger { trigger_name: name, table_name: table }
            | AuthAction::DropTrigger { trigger_name: name, table_name: table } => {
                not_the_hosts(name).and_then(|()| not_the_hosts(table))
            }
            AuthAction::Read { table_name, .. }
            | AuthAction::Insert { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::Delete { table_name } => {
                if table_name.starts_with("pragma_") && !altering {
                    return Err(format!("`{table_name}` is not for migrations"));
                }
                not_the_hosts(table_name)
            }
            AuthAction::Function { function_name } => {
                let name = function_name.to_ascii_lowercase();
                if name == "load_extension" || name == "fts3_tokenizer" || (is_reserved(&name) && !altering) {
                    return Err(format!("the function `{name}` is not for migrations"));
                }
                Ok(())
            }
            AuthAction::Pragma { .. } if altering => Ok(()),
            other => Err(format!("{} is not for migrations", name_of(other))),
        }
    }
}

fn not_the_hosts(name: &str) -> Result<(), String> {
    if !is_reserved(name) || name.starts_with("sqlite_") {
        return Ok(());
    }
    Err(format!("`{name}` begins as only names of the host's or the database's may"))
}

/// Finds names that got past the reading of the file: SQLite takes a text for a name where it needs one.
fn check_names(sqlite: &Connection) -> Result<(), Failure> {
    let named = "SELECT x FROM (
             SELECT name AS x FROM sqlite_schema WHERE tbl_name NOT IN (SELECT value FROM json_each(?1))
             UNION ALL SELECT c.name FROM sqlite_schema s JOIN pragma_table_xinfo(s.name) c WHERE s.type IN ('table', 'view')
             UNION ALL SELECT f.\"table\" FROM sqlite_schema s JOIN pragma_foreign_key_list(s.name) f WHERE s.type = 'table'
         )";
    let ours = serde_json::Value::from(tables::ALL.as_slice()).to_string();
    let names: Vec<String> =
        sqlite.prepare(named)?.query_map([ours], |row| row.get(0))?.collect::<Result<_, _>>()?;
    match names.iter().try_for_each(|name| not_the_hosts(name)) {
        Ok(()) => Ok(()),
        Err(problem) => Err(Failure { line: None, problem, fix: FIX_FILE }),
    }
}

/// Another table that refers to this one.
fn referring(sqlite: &Connection, table: &str) -> rusqlite::Result<Option<String>> {
    let mut tables = sqlite.prepare(
        "SELECT s.name FROM sqlite_schema s JOIN pragma_foreign_key_list(s.name) f \
         WHERE s.type = 'table' AND f.\"table\" = ?1 COLLATE NOCASE AND s.name <> ?1 COLLATE NOCASE",
    )?;
    let mut found = tables.query_map([table], |row| row.get(0))?;
    found.next().transpose()
}
