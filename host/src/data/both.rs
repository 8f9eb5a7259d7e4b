//! What a test needs to run on either database.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use super::*;

#[allow(dead_code, unreachable_pub)]
#[path = "../../../tests/src/postgres.rs"]
pub(crate) mod postgres;

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

/// Makes two tests of each function: one a database.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Kind::Sqlite).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Kind::Postgres).await;
            })*
        }
    };
}
pub(crate) use on_both;

/// A place where a module keeps data, of a test's own.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    home: Home,
}

enum Home {
    Folder(DataFolder),
    /// The URL of a database of its own.
    Server(cleave_config::PostgresUrl),
}

/// The URL of a new database of the tests' server.
///
/// Why not by the server's own client, as elsewhere: a process that is started has the descriptors of this one for a
/// moment, and with them the locks of data folders that other tests here have just let go of.
pub(crate) async fn new_database() -> String {
    static DATABASES: AtomicU64 = AtomicU64::new(0);
    let server = postgres::shared();
    let name = format!("unit_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::raw_sql(create).execute(&mut connection).await.unwrap();
    server.url(&name)
}

pub(crate) fn parsed(url: &str) -> cleave_config::PostgresUrl {
    match url.parse() {
        Ok(cleave_config::Database::Postgres(url)) => url,
        other => panic!("{other:?}"),
    }
}

/// Opens a data folder that was let go of, once no process that is being started has its lock any more.
pub(crate) fn reopened(folder: &Path) -> DataFolder {
    let begun = Instant::now();
    loop {
        match DataFolder::open(folder) {
            Err(DataError::InUse { .. }) if begun.elapsed() < Duration::from_secs(60) => {
                std::thread::yield_now()
            }
            opened => return opened.unwrap(),
        }
    }
}

/// The folder of migrations in a test's own, which has these files and no others.
pub(crate) fn migrations(dir: &TempDir, files: &[(&str, &str)]) -> PathBuf {
    let path = dir.path().join("migrations");
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir(&path).unwrap();
    for (name, text) in files {
        std::fs::write(path.join(name), text).unwrap();
    }
    path
}

impl Place {
    pub(crate) async fn new(kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = match kind {
            Kind::Sqlite => Home::Folder(DataFolder::open(&dir.path().join("data")).unwrap()),
            Kind::Postgres => Home::Server(parsed(&new_database().await)),
        };
        Self { dir, home }
    }

    /// The same place for a process that starts again: a folder is locked anew.
    pub(crate) fn again(self) -> Self {
        let Self { dir, home } = self;
        let home = match home {
            Home::Folder(folder) => {
                let path = folder.path().to_owned();
                drop(folder);
                Home::Folder(reopened(&path))
            }
            server => server,
        };
        Self { dir, home }
    }

    /// The URL of its database.
    pub(crate) fn url(&self) -> &cleave_config::PostgresUrl {
        match &self.home {
            Home::Server(url) => url,
            Home::Folder(_) => panic!("it is not PostgreSQL"),
        }
    }

    /// Opens the database of a module, as another process might too if it is PostgreSQL.
    pub(crate) async fn open_module(
        &self,
        module: &str,
        files: &[(&str, &str)],
        limits: Limits,
    ) -> Result<Database, DataError> {
        let migrations = migrations(&self.dir, files);
        match &self.home {
            Home::Folder(folder) => Database::open(folder, module, Some(&migrations), limits).await,
            Home::Server(url) => {
                let server = Server::open(url, "cleave", limits.connections()).await?;
                Database::open_on(&server, module, Some(&migrations), limits).await
            }
        }
    }
}

const SQLITE_SCHEMA: &str = "
    CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, stock INTEGER CHECK (stock >= 0), done BOOLEAN, body BLOB, price REAL);
    CREATE TABLE parts (id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES items (id) DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE notes (id INTEGER PRIMARY KEY, item INTEGER REFERENCES items (id) ON DELETE RESTRICT);
    CREATE VIEW names AS SELECT name FROM items;
    INSERT INTO items (id, name, stock, done) VALUES (1, 'pen', 10, 1), (2, 'ink', 5, 0);
";
const POSTGRES_SCHEMA: &str = "
    CREATE TABLE items (id BIGINT GENERATED BY DEFAULT AS IDENTITY (START 1000) PRIMARY KEY, name TEXT UNIQUE NOT NULL, stock BIGINT CHECK (stock >= 0), done BOOLEAN, body BYTEA, price DOUBLE PRECISION);
    CREATE TABLE parts (id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, item BIGINT NOT NULL REFERENCES items (id) DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE notes (id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, item BIGINT REFERENCES items (id) ON DELETE RESTRICT);
    CREATE VIEW names AS SELECT name FROM items;
    INSERT INTO items (id, name, stock, done) VALUES (1, 'pen', 10, TRUE), (2, 'ink', 5, FALSE);
";
/// A shop's migrations: two items, pen and ink.
pub(crate) const SHOP: [(&str, &str); 2] =
    [("001_shop.sqlite.sql", SQLITE_SCHEMA), ("001_shop.postgres.sql", POSTGRES_SCHEMA)];

pub(crate) async fn shop_with(kind: Kind, limits: Limits) -> (Place, Database) {
    let place = Place::new(kind).await;
    let database = place.open_module("shop", &SHOP, limits).await.unwrap();
    (place, database)
}

pub(crate) async fn shop(kind: Kind) -> (Place, Database) {
    shop_with(kind, Limits::default()).await
}

/// Time enough for whatever a test waits for.
pub(crate) fn soon() -> Instant {
    within(60_000)
}

pub(crate) fn within(milliseconds: u64) -> Instant {
    Instant::now() + Duration::from_millis(milliseconds)
}

/// The number that a query gives.
pub(crate) async fn count(database: &Database, sql: &str) -> i64 {
    match database.query(sql, &[], soon()).await.unwrap().rows[0][0] {
        Value::Integer(count) => count,
        ref other => panic!("{other:?} is no count"),
    }
}

pub(crate) fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

pub(crate) fn is_refused(error: &SqlError, part: &str) -> bool {
    matches!(error, SqlError::Refused(why) if why.to_lowercase().contains(&part.to_lowercase()))
}

pub(crate) fn is_invalid(error: &SqlError, part: &str) -> bool {
    matches!(error, SqlError::Invalid(why) if why.contains(part))
}
