//! What the data layer promises, tried against real files.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tempfile::TempDir;

use super::both::{count, is_invalid, is_refused, migrations, soon, text, within};
use super::*;

const SCHEMA: &str = "
    CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, stock INTEGER CHECK (stock >= 0), done BOOLEAN, body BLOB, price REAL);
    CREATE TABLE parts (id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES items (id) DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE notes (id INTEGER PRIMARY KEY, item INTEGER REFERENCES items (id) ON DELETE RESTRICT);
    CREATE VIEW names AS SELECT name FROM items;
    INSERT INTO items (id, name, stock, done) VALUES (1, 'pen', 10, 1), (2, 'ink', 5, 0);
";

struct Place {
    dir: TempDir,
    folder: DataFolder,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(&dir.path().join("data")).unwrap();
        Self { dir, folder }
    }

    fn migrations(&self, files: &[(&str, &str)]) -> PathBuf {
        migrations(&self.dir, files)
    }

    async fn open(&self, files: &[(&str, &str)], limits: Limits) -> Result<Database, DataError> {
        Database::open(&self.folder, "shop", Some(&self.migrations(files)), limits).await
    }

    async fn refusal(&self, files: &[(&str, &str)]) -> String {
        match self.open(files, Limits::default()).await {
            Ok(_) => panic!("{files:?} was let through"),
            Err(error) => format!("{error}; {}", error.fix()),
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("shop.sqlite")
    }
}

async fn shop_with(limits: Limits) -> (Place, Database) {
    let place = Place::new();
    let database = place.open(&[("001_shop.sql", SCHEMA)], limits).await.unwrap();
    (place, database)
}

async fn shop() -> (Place, Database) {
    shop_with(Limits::default()).await
}

// The folder.

#[test]
fn folder_is_made_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(&dir.path().join("a/b")).unwrap();
    assert_eq!(folder.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn locked_folder_names_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(dir.path()).unwrap();
    let error = DataFolder::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    assert!(error.fix().contains("stop that process"), "{error}");
    drop(folder);
    both::reopened(dir.path());
}

#[tokio::test]
async fn open_database_keeps_the_folder_locked() {
    let (place, database) = shop().await;
    let path = place.folder.path().to_owned();
    let Place { dir: _dir, folder } = place;
    drop(folder);
    assert!(matches!(DataFolder::open(&path), Err(DataError::InUse { .. })));
    drop(database);
    both::reopened(&path);
}

#[test]
fn unwritable_folder_is_named_with_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("plain"), "").unwrap();
    for folder in [dir.path().join("plain/below"), dir.path().join("plain"), PathBuf::from("/proc/cleave")] {
        let error = DataFolder::open(&folder).unwrap_err();
        assert!(error.to_string().contains(&folder.display().to_string()), "{error}");
        assert!(error.fix().contains("can write"), "{error}");
    }
}

// Opening.

#[tokio::test]
async fn database_file_is_its_owners_alone() {
    let (place, database) = shop().await;
    database.execute("DELETE FROM parts", &[], soon()).await.unwrap();
    for entry in std::fs::read_dir(place.folder.path()).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o077, 0);
    }
}

#[tokio::test]
async fn file_that_is_no_database_is_refused() {
    let place = Place::new();
    std::fs::write(place.file(), "this is not a database, and it is longer than a header".repeat(99))
        .unwrap();
    let error = place.refusal(&[]).await;
    assert!(error.contains("shop.sqlite") && error.contains("it is not a SQLite database"), "{error}");
}

#[tokio::test]
async fn module_name_cannot_leave_the_folder() {
    let place = Place::new();
    for name in ["", "../x", "a/b", "a.b", "é"] {
        let opened = Database::open(&place.folder, name, None, Limits::default()).await;
        assert!(matches!(opened, Err(DataError::Database { .. })), "{name}");
    }
}

#[tokio::test]
async fn data_survives_closing() {
    let (place, database) = shop().await;
    database.execute("INSERT INTO items (name) VALUES ('cap')", &[], soon()).await.unwrap();
    drop(database);
    let database = place.open(&[("001_shop.sql", SCHEMA)], Limits::default()).await.unwrap();
    assert_eq!(count(&database, "SELECT count(*) FROM items").await, 3);
}

// Migrations.

#[tokio::test]
async fn migrations_run_once_in_order() {
    let place = Place::new();
    let first = ("001_a.sql", "CREATE TABLE a (x INTEGER); INSERT INTO a VALUES (1)");
    let second = ("002_b.sqlite.sql", "INSERT INTO a VALUES (2);\n-- the end");
    let other = ("002_b.postgres.sql", "SELECT now()");
    drop(place.open(&[first], Limits::default()).await.unwrap());
    for _ in 0..2 {
        let database = place.open(&[first, second, other], Limits::default()).await.unwrap();
        assert_eq!(count(&database, "SELECT sum(x) FROM a").await, 3);
    }
}

#[tokio::test]
async fn changed_migration_is_refused() {
    let place = Place::new();
    drop(place.open(&[("001_a.sql", "CREATE TABLE a (x INTEGER)")], Limits::default()).await.unwrap());
    let error = place.refusal(&[("001_a.sql", "CREATE TABLE a (x TEXT)")]).await;
    assert!(error.contains("001_a.sql") && error.contains("changed after it ran"), "{error}");
}

#[tokio::test]
async fn missing_migration_is_refused() {
    let place = Place::new();
    drop(place.open(&[("001_a.sql", "CREATE TABLE a (x INTEGER)")], Limits::default()).await.unwrap());
    let error = place.refusal(&[]).await;
    assert!(error.contains("001_a.sql") && error.contains("is missing"), "{error}");
    let opened = Database::open(&place.folder, "shop", None, Limits::default()).await;
    assert!(matches!(opened, Err(DataError::Migration { .. })));
}

#[tokio::test]
async fn badly_named_migrations_are_refused() {
    let ok = "CREATE TABLE a (x INTEGER)";
    let place = Place::new();
    for name in [
        "a.sql",
        "1_a.sql",
        "000_a.sql",
        "001.sql",
        "001_.sql",
        "001_a.txt",
        "001_a.mysql.sql",
        "001_a b.sql",
    ] {
        let error = place.refusal(&[(name, ok)]).await;
        assert!(error.contains(name), "{error}");
    }
    let error = place.refusal(&[("001_a.sql", ok), ("003_c.sql", ok)]).await;
    assert!(error.contains("003_c.sql") && error.contains("002 is missing"), "{error}");
    let error = place.refusal(&[("001_a.sql", ok), ("001_b.sql", ok)]).await;
    assert!(error.contains("001_b.sql") && error.contains("another file"), "{error}");
    let error = place.refusal(&[("001_a.sql", ok), ("001_a.sqlite.sql", ok)]).await;
    assert!(error.contains("another file"), "{error}");
    let error = place.refusal(&[("001_a.postgres.sql", ok)]).await;
    assert!(error.contains("PostgreSQL alone"), "{error}");
}

#[tokio::test]
async fn migration_that_is_not_utf8_is_refused() {
    let place = Place::new();
    let folder = place.migrations(&[]);
    std::fs::write(folder.join("001_a.sql"), [0x53, 0xff]).unwrap();
    let error = Database::open(&place.folder, "shop", Some(&folder), Limits::default()).await.err().unwrap();
    assert!(error.to_string().contains("001_a.sql") && error.to_string().contains("UTF-8"), "{error}");
}

#[tokio::test]
async fn failing_migration_names_its_line_and_leaves_nothing() {
    let place = Place::new();
    let good = ("001_a.sql", "CREATE TABLE a (x INTEGER);");
    let bad =
        "CREATE TABLE b (x INTEGER);\n\nINSERT INTO b VALUES (1);\nINSERT INTO b\n  VALUES (nothing);\n";
    let error = place.refusal(&[good, ("002_b.sql", bad)]).await;
    assert!(error.contains("002_b.sql") && error.contains("line 5") && error.contains("nothing"), "{error}");
    let duplicate =
        "CREATE TABLE b (x INTEGER PRIMARY KEY);\nINSERT INTO b VALUES (1);\nINSERT INTO b VALUES (1);";
    let error = place.refusal(&[good, ("002_b.sql", duplicate)]).await;
    assert!(error.contains("line 3") && error.contains("UNIQUE"), "{error}");
    let database =
        place.open(&[good, ("002_b.sql", "CREATE TABLE b (y INTEGER)")], Limits::default()).await.unwrap();
    assert_eq!(count(&database, "SELECT count(y) FROM b").await, 0);
}

#[tokio::test]
async fn migration_may_change_its_tables() {
    let place = Place::new();
    let steps = "
        CREATE TABLE a (x INTEGER PRIMARY KEY AUTOINCREMENT, y TEXT DEFAULT 'none', at TEXT DEFAULT CURRENT_TIMESTAMP);
        INSERT INTO a (y) VALUES ('; not an end'), (\"y\"), ('b');
        CREATE INDEX a_y ON a (y);
        CREATE UNIQUE INDEX a_low ON a (lower(y), x) WHERE y IS NOT NULL;
        ALTER TABLE a ADD COLUMN z INTEGER NOT NULL DEFAULT 3 CHECK (z > 2);
        ALTER TABLE a RENAME COLUMN y TO w;
        ALTER TABLE a RENAME TO c;
        CREATE TABLE log (what TEXT);
        CREATE TRIGGER c_log AFTER INSERT ON c BEGIN
            INSERT INTO log SELECT CASE WHEN new.z > 3 THEN 'big' ELSE 'small' END;
            UPDATE log SET what = upper(what);
        END;
        CREATE VIEW big AS SELECT * FROM c WHERE z > 3;
        WITH five AS (SELECT 5 AS n) INSERT INTO c (z) SELECT n FROM five;
        DROP INDEX a_y;
        ALTER TABLE c DROP COLUMN at;
        CREATE TABLE gone (x INTEGER); DROP TABLE gone;;
        CREATE TABLE typed (x INTEGER PRIMARY KEY) STRICT;
        CREATE TABLE bare (x TEXT PRIMARY KEY) WITHOUT ROWID /* the end */";
    let steps = steps.replace("(\"y\"),", "");
    let database = place.open(&[("001_a.sql", &steps)], Limits::default()).await.unwrap();
    assert_eq!(count(&database, "SELECT count(*) FROM big").await, 1);
    database.execute("INSERT INTO c (z) VALUES (9)", &[], soon()).await.unwrap();
    assert_eq!(count(&database, "SELECT count(*) FROM log WHERE what = 'BIG'").await, 2);
}

#[tokio::test]
async fn migration_cannot_leave_its_bounds() {
    let place = Place::new();
    for refused in [
        "ATTACH 'other.sqlite' AS other",
        "DETACH main",
        "PRAGMA writable_schema = ON",
        "VACUUM",
        "VACUUM INTO '/tmp/x'",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT a",
        "RELEASE a",
        "ANALYZE",
        "REINDEX",
        "EXPLAIN SELECT 1",
        "REPLACE INTO a VALUES (1)",
        "SELECT load_extension('x')",
        "SELECT sqlite_version()",
        "SELECT * FROM pragma_table_info('a')",
        "CREATE TEMP TABLE t (x INTEGER)",
        "CREATE TEMP VIEW v AS SELECT 1",
        "CREATE TABLE temp.t (x INTEGER)",
        "CREATE VIRTUAL TABLE v USING fts5 (x)",
        "CREATE TABLE cleave_outbox (x INTEGER)",
        "CREATE TABLE \"Cleave_outbox\" (x INTEGER)",
        "CREATE TABLE 'cleave_outbox' (x INTEGER)",
        "CREATE TABLE pg_t (x INTEGER)",
        "CREATE TABLE _sqlx_t (x INTEGER)",
        "CREATE TABLE b ('cleave_x' INTEGER)",
        "CREATE TABLE b (x INTEGER REFERENCES 'cleave_outbox' (id) ON DELETE CASCADE)",
        "CREATE TABLE b (x INTEGER); ALTER TABLE b RENAME TO 'cleave_b'",
        "CREATE TABLE b (x INTEGER); ALTER TABLE b RENAME COLUMN x TO 'pg_b'",
        "CREATE INDEX 'pg_i' ON a (x)",
        "CREATE VIEW 'pg_v' AS SELECT 1 AS x",
        "CREATE TRIGGER 'cleave_t' AFTER INSERT ON a BEGIN SELECT 1; END",
        "DROP TABLE cleave_migrations",
        "DROP TABLE 'cleave_migrations'",
        "DELETE FROM 'cleave_migrations'",
        "INSERT INTO a SELECT version FROM 'cleave_migrations'",
        "UPDATE 'sqlite_master' SET sql = ''",
        "CREATE TRIGGER t AFTER INSERT ON 'cleave_migrations' BEGIN SELECT 1; END",
        "CREATE INDEX i ON 'cleave_migrations' (name)",
        "INSERT INTO a VALUES ($1)",
        "SELECT 'open",
        "CREATE TABLE p (x INTEGER PRIMARY KEY); CREATE TABLE q (x REFERENCES p (x) ON DELETE CASCADE); DROP TABLE p",
    ] {
        let text = format!("CREATE TABLE a (x INTEGER);\n{refused};");
        let error = place.refusal(&[("001_a.sql", &text)]).await;
        assert!(error.contains("001_a.sql"), "{refused}: {error}");
    }
    let database =
        place.open(&[("001_a.sql", "CREATE TABLE a (x INTEGER)")], Limits::default()).await.unwrap();
    assert_eq!(count(&database, "SELECT count(*) FROM a").await, 0);
}

#[tokio::test]
async fn view_and_trigger_do_not_reach_host_tables() {
    let place = Place::new();
    let text = "CREATE TABLE a (x INTEGER);
        CREATE VIEW v AS SELECT name FROM 'cleave_migrations';
        CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM 'cleave_migrations'; END;
        CREATE VIEW w AS SELECT random() AS r;";
    let database = place.open(&[("001_a.sql", text)], Limits::default()).await.unwrap();
    let error = database.query("SELECT * FROM v", &[], soon()).await.unwrap_err();
    assert!(is_refused(&error, "cleave_migrations"), "{error}");
    let error = database.execute("INSERT INTO a VALUES (1)", &[], soon()).await.unwrap_err();
    assert!(is_refused(&error, "cleave_migrations"), "{error}");
    let error = database.query("SELECT r FROM w", &[], soon()).await.unwrap_err();
    assert!(is_refused(&error, "random"), "{error}");
}

// What a module may say.

#[tokio::test]
async fn mistakes_are_invalid_not_refused() {
    let (_place, database) = shop().await;
    for (sql, part) in [
        ("SELECT nothing FROM items", "nothing"),
        ("SELECT * FROM nowhere", "nowhere"),
        ("SELECT \"no column\" FROM items", "no column"),
        ("SELECT * WHERE FROM items", "syntax"),
        ("SELECT 'open", "not closed"),
        ("SELECT \"open", "not closed"),
        ("SELECT 1 \0 , 2", "U+0000"),
        ("SELECT abs(1, 2)", "abs"),
        ("SELECT 9e999", "finite"),
        ("UPDATE items SET stock = 1", "gives no rows; use execute"),
    ] {
        let error = database.query(sql, &[], soon()).await.unwrap_err();
        assert!(is_invalid(&error, part), "{sql}: {error:?}");
    }
    for (bytes, part) in [(vec![0xff], "`t` gives text that is not UTF-8"), (vec![b'a', 0], "U+0000")] {
        let sql = "SELECT CAST($1 AS TEXT) AS t";
        let error = database.query(sql, &[Value::Blob(bytes)], soon()).await.unwrap_err();
        assert!(is_invalid(&error, part), "{error:?}");
    }
    for sql in ["SELECT 1", "DELETE FROM items RETURNING id"] {
        let error = database.execute(sql, &[], soon()).await.unwrap_err();
        assert!(is_invalid(&error, "gives rows; use query"), "{sql}: {error:?}");
    }
    assert_eq!(count(&database, "SELECT count(*) FROM items").await, 2);
}

// Parameters and values.

// Errors.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_locked_by_another_program_is_unavailable() {
    let limits = Limits { lock_wait_max: Duration::from_millis(60), ..Limits::default() };
    let (place, database) = shop_with(limits).await;
    let other = rusqlite::Connection::open(place.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let update = "UPDATE items SET stock = 1";
    let error = database.execute(update, &[], soon()).await.unwrap_err();
    assert!(matches!(&error, SqlError::Unavailable(why) if why.contains("another program")), "{error}");
    let error = database.begin(soon()).await.err().unwrap();
    assert!(matches!(error, SqlError::Unavailable(_)), "{error}");
    assert_eq!(database.execute(update, &[], within(10)).await.unwrap_err(), SqlError::Deadline);
    assert_eq!(count(&database, "SELECT stock FROM items WHERE id = 1").await, 10);
    let waiting = tokio::spawn(async move { database.execute(update, &[], soon()).await });
    tokio::task::yield_now().await;
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_waits_for_another_program_that_holds_the_database_for_a_moment() {
    let (place, database) = shop().await;
    drop(database);
    let file = place.file();
    let limits = Limits { lock_wait_max: Duration::from_secs(20), ..Limits::default() };
    let (held, holding) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        let other = rusqlite::Connection::open(file).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        held.send(()).unwrap();
        // As long as a start without patience would need to fail.
        std::thread::sleep(Duration::from_millis(300));
        other.execute_batch("COMMIT").unwrap();
    });
    holding.recv().unwrap();
    let files = [("001_shop.sql", SCHEMA), ("002_more.sql", "CREATE TABLE more (x TEXT)")];
    place.open(&files, limits).await.unwrap();
    other.join().unwrap();
}

#[tokio::test]
async fn schema_changed_by_another_program_is_a_conflict_once() {
    let (place, database) = shop().await;
    let sql = "SELECT * FROM parts";
    for _ in 0..2 {
        database.execute("INSERT INTO parts (item) VALUES (1)", &[], soon()).await.unwrap();
        assert_eq!(database.query(sql, &[], soon()).await.unwrap().columns.len(), 2);
    }
    let other = rusqlite::Connection::open(place.file()).unwrap();
    other.execute_batch("ALTER TABLE parts ADD COLUMN more TEXT").unwrap();
    let error = database.query(sql, &[], soon()).await.unwrap_err();
    assert!(matches!(error, SqlError::Conflict(_)), "{error}");
    assert_eq!(database.query(sql, &[], soon()).await.unwrap().columns.len(), 3);
}

#[tokio::test]
async fn full_database_is_unavailable_and_stays_usable() {
    let limits = Limits { database_bytes_max: 200_000, ..Limits::default() };
    let (_place, database) = shop_with(limits).await;
    let insert = "INSERT INTO items (name, body) VALUES ($1, $2)";
    let big = |n: i32| [text(&n.to_string()), Value::Blob(vec![7; 60_000])];
    let mut transaction = database.begin(soon()).await.unwrap();
    let mut filled = 0;
    let error = loop {
        match transaction.execute(insert, &big(filled)).await {
            Ok(_) => filled += 1,
            Err(error) => break error,
        }
    };
    assert!((1..4).contains(&filled), "{filled}");
    assert!(matches!(&error, SqlError::Unavailable(why) if why.contains("full")), "{error}");
    assert_eq!(transaction.commit().await, Err(SqlError::Aborted));
    assert_eq!(count(&database, "SELECT count(*) FROM items").await, 2);
    database.execute(insert, &big(0), soon()).await.unwrap();
}

// Limits.

#[tokio::test]
async fn statement_or_value_beyond_the_limits_is_too_large() {
    let limits = Limits { statement_bytes_max: 1_000, value_bytes_max: 50_000, ..Limits::default() };
    let (_place, database) = shop_with(limits).await;
    let long = format!("SELECT 1 -- {}", "x".repeat(1_000));
    assert!(matches!(database.query(&long, &[], soon()).await, Err(SqlError::TooLarge(_))));
    let big = [Value::Blob(vec![0; 50_001])];
    assert!(matches!(database.query("SELECT length($1)", &big, soon()).await, Err(SqlError::TooLarge(_))));
    let grown =
        "WITH RECURSIVE n (x) AS (SELECT 'abcdefgh' UNION ALL SELECT x || x FROM n) SELECT max(x) FROM n";
    assert!(matches!(database.query(grown, &[], soon()).await, Err(SqlError::TooLarge(_))));
    let deep = format!("SELECT {}1", "1 + ".repeat(240));
    assert!(matches!(database.query(&deep, &[], soon()).await, Err(SqlError::Invalid(_))));
    let nested = format!("SELECT {}1{}", "(".repeat(450), ")".repeat(450));
    let _ = database.query(&nested, &[], soon()).await;
}

const ENDLESS: &str = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n";

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn endless_statement_ends_at_its_deadline_while_timers_fire() {
    let (_place, database) = shop().await;
    let ticks = Arc::new(AtomicUsize::new(0));
    let ticking = tokio::spawn({
        let ticks = Arc::clone(&ticks);
        async move {
            let mut interval = tokio::time::interval(Duration::from_millis(5));
            loop {
                interval.tick().await;
                ticks.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let write = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)
        INSERT INTO parts (item) SELECT max(x) FROM n";
    tokio::spawn(async move {
        let begun = Instant::now();
        assert_eq!(database.query(ENDLESS, &[], within(300)).await, Err(SqlError::Deadline));
        assert_eq!(database.execute(write, &[], within(300)).await, Err(SqlError::Deadline));
        let mut transaction = database.begin(within(300)).await.unwrap();
        assert_eq!(transaction.query(ENDLESS, &[]).await, Err(SqlError::Deadline));
        assert_eq!(transaction.commit().await, Err(SqlError::Aborted));
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!(count(&database, "SELECT count(*) FROM parts").await, 0);
    })
    .await
    .unwrap();
    ticking.abort();
    assert!(ticks.load(Ordering::Relaxed) > 30, "{ticks:?}");
}

#[tokio::test]
async fn endless_statement_ends_on_a_runtime_of_one_thread() {
    let (_place, database) = shop().await;
    assert_eq!(database.query(ENDLESS, &[], within(100)).await, Err(SqlError::Deadline));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_read_is_moved_off_the_worker_and_finishes() {
    let (_place, database) = shop_with(Limits { inline_steps_max: 2_000, ..Limits::default() }).await;
    let sql = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 50000) SELECT max(x) FROM n";
    let mut transaction = database.begin(soon()).await.unwrap();
    transaction.execute("UPDATE items SET stock = 3", &[]).await.unwrap();
    for _ in 0..3 {
        assert_eq!(count(&database, sql).await, 50_000);
        assert_eq!(transaction.query(sql, &[]).await.unwrap().rows, [[Value::Integer(50_000)]]);
    }
    transaction.commit().await.unwrap();
    assert_eq!(count(&database, "SELECT sum(stock) FROM items").await, 6);
}

/// Counts how often a timer of 5 ms has fired; one that was held up does not catch up.
fn ticking() -> Arc<AtomicUsize> {
    let ticks = Arc::new(AtomicUsize::new(0));
    let ticked = Arc::downgrade(&ticks);
    tokio::spawn(async move {
        while let Some(ticks) = ticked.upgrade() {
            ticks.fetch_add(1, Ordering::Relaxed);
            drop(ticks);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    ticks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trim_and_replace_of_long_texts_end_soon() {
    let (_place, database) = shop().await;
    let set = (0..80_000).map(|n| char::from_u32(0x10000 + n).unwrap()).collect::<String>();
    let all_in_set = "\u{2387f}".repeat(150_000);
    let a = "a".repeat(600_000);
    let almost = "a".repeat(300_000) + "b";
    for (sql, given, expected) in [
        ("SELECT length(trim($1, $2))", vec![text(&all_in_set), text(&set)], 0),
        ("SELECT length(ltrim($1, $2))", vec![text(&all_in_set), text(&set)], 0),
        ("SELECT length(rtrim($1, $2))", vec![text(&all_in_set), text(&set)], 0),
        ("SELECT length(replace($1, $2, $3))", vec![text(&a), text(&almost), text("")], 600_000),
    ] {
        let both = [(); 2].map(|()| {
            let (database, given) = (database.clone(), given.clone());
            tokio::spawn(async move { database.query(sql, &given, within(5_000)).await })
        });
        for one in both {
            assert_eq!(one.await.unwrap().unwrap().rows, [[Value::Integer(expected)]], "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nested_functions_on_long_values_end_at_their_deadline_while_timers_fire() {
    let (_place, database) = shop().await;
    let given = [text(&"a".repeat(2_000_000))];
    let nested = |function: &str| {
        let column =
            |n: u32| format!("length({}$1 || '{n}'{})", format!("{function}(").repeat(36), ")".repeat(36));
        format!("SELECT {}", (0..100).map(column).collect::<Vec<_>>().join(", "))
    };
    for function in ["upper", "lower", "trim"] {
        let sql = nested(function);
        let ticks = ticking();
        let begun = Instant::now();
        let both = [(); 2].map(|()| {
            let (database, given, sql, ticks) =
                (database.clone(), given.clone(), sql.clone(), Arc::clone(&ticks));
            tokio::spawn(async move {
                let before = ticks.load(Ordering::Relaxed);
                assert_eq!(database.query(&sql, &given, within(300)).await, Err(SqlError::Deadline));
                ticks.load(Ordering::Relaxed) - before
            })
        });
        for one in both {
            let ticked = one.await.unwrap();
            assert!(ticked >= 5, "{function}: {ticked}");
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{function}");
    }
}

#[tokio::test]
async fn replace_that_grows_beyond_the_limit_is_too_large() {
    let (_place, database) = shop().await;
    let given = |length: usize| [text(&"a".repeat(2_048)), text("a"), text(&"b".repeat(length))];
    let sql = "SELECT length(replace($1, $2, $3))";
    let exact = database.query(sql, &given(2_048), soon()).await.unwrap();
    assert_eq!(exact.rows, [[Value::Integer(4 << 20)]]);
    for length in [2_049, 4_000_000] {
        let error = database.query(sql, &given(length), soon()).await.unwrap_err();
        assert!(matches!(error, SqlError::TooLarge(_)), "{error}");
    }
}

#[tokio::test]
async fn text_functions_give_what_sqlite_gives() {
    let (_place, database) = shop().await;
    let plain = rusqlite::Connection::open_in_memory().unwrap();
    let values = [
        "NULL",
        "''",
        "' '",
        "'  a b  '",
        "'\t\n x \n'",
        "'xxaxx'",
        "'aaaa'",
        "'aXaxéÉ'",
        "'é'",
        "'éèéaéè'",
        "'日本日'",
        "'🦀x🦀'",
        "'e\u{301}'",
        "0",
        "-1200",
        "9223372036854775807",
        "1.5",
        "0.1",
        "-0.0",
        "100.0",
        "1e20",
        "1e-7",
        "123456789012345678.0",
        "12345678901234.25",
        "0.30000000000000004",
        "x''",
        "x'2061620020'",
        "CAST(x'610062' AS TEXT)",
        "CAST(x'0061' AS TEXT)",
    ];
    let mut calls = Vec::new();
    for one in values {
        for function in ["trim", "ltrim", "rtrim", "upper", "lower"] {
            calls.push(format!("{function}({one})"));
        }
        for two in values {
            for function in ["trim", "ltrim", "rtrim"] {
                calls.push(format!("{function}({one}, {two})"));
            }
            for three in ["NULL", "''", "'a'", "'日本'", "1.0", "x'62'"] {
                calls.push(format!("replace({one}, {two}, {three})"));
            }
        }
    }
    // What is compared goes out as bytes, for some of it has U+0000 in it.
    let some = calls.chunks(50).map(|calls| {
        let columns = calls.iter().map(|call| format!("CAST({call} AS BLOB), {call} = CAST({call} AS TEXT)"));
        format!("SELECT {}", columns.collect::<Vec<_>>().join(", "))
    });
    for sql in some {
        // As the host, who may write blobs where modules pass them.
        let given = database.host_query(&sql, &[], soon()).await.unwrap().rows.remove(0);
        let mut statement = plain.prepare(&sql).unwrap();
        let expected = statement
            .query_row([], |row| {
                (0..given.len())
                    .map(|index| {
                        Ok(match row.get_ref(index)? {
                            rusqlite::types::ValueRef::Null => Value::Null,
                            rusqlite::types::ValueRef::Integer(integer) => Value::Integer(integer),
                            rusqlite::types::ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
                            other => panic!("{other:?}"),
                        })
                    })
                    .collect::<rusqlite::Result<Vec<_>>>()
            })
            .unwrap();
        assert_eq!(given, expected, "{sql}");
    }
}

#[tokio::test]
async fn text_that_is_not_utf8_is_not_trimmed() {
    let (_place, database) = shop().await;
    for sql in ["SELECT trim(x'ff')", "SELECT rtrim('a', x'c3')", "SELECT replace('a', x'ff', 'b')"] {
        let error = database.host_query(sql, &[], soon()).await.unwrap_err();
        assert!(is_invalid(&error, "utf-8"), "{sql}: {error}");
    }
}

#[tokio::test]
async fn schema_may_use_text_functions() {
    let place = Place::new();
    let schema = "
        CREATE TABLE a (x TEXT CHECK (trim(x) <> ''), y TEXT GENERATED ALWAYS AS (replace(x, ' ', '_')) STORED);
        INSERT INTO a (x) VALUES (' Old ');
        CREATE UNIQUE INDEX a_x ON a (lower(trim(x)));
        CREATE VIEW b AS SELECT upper(ltrim(x)) AS z FROM a;";
    let database = place.open(&[("001_a.sql", schema)], Limits::default()).await.unwrap();
    let insert = "INSERT INTO a (x) VALUES ($1)";
    let mut broken = Vec::new();
    for value in ["  ", "old", "New "] {
        broken.push(match database.execute(insert, &[text(value)], soon()).await {
            Ok(count) => format!("{count}"),
            Err(SqlError::Violates { kind, .. }) => format!("{kind:?}"),
            Err(error) => panic!("{error}"),
        });
    }
    assert_eq!(broken, ["Check", "Unique", "1"]);
    let rows =
        database.query("SELECT y FROM a WHERE lower(trim(x)) = 'old'", &[], soon()).await.unwrap().rows;
    assert_eq!(rows, [[text("_Old_")]]);
    let rows = database.query("SELECT z FROM b ORDER BY z", &[], soon()).await.unwrap().rows;
    assert_eq!(rows, [[text("NEW ")], [text("OLD ")]]);
}

#[tokio::test]
async fn too_long_pattern_of_like_is_refused() {
    let (_place, database) = shop().await;
    let sql = "SELECT count(*) FROM items WHERE name LIKE $1";
    let rows = database.query(sql, &[text(&"%".repeat(256))], soon()).await.unwrap().rows;
    assert_eq!(rows, [[Value::Integer(2)]]);
    let error = database.query(sql, &[text(&"%".repeat(257))], soon()).await.unwrap_err();
    assert!(is_invalid(&error, "LIKE or GLOB pattern too complex"), "{error}");
}

// Transactions.

#[tokio::test]
async fn waiting_for_the_writer_ends_at_the_deadline() {
    let (_place, database) = shop().await;
    let transaction = database.begin(soon()).await.unwrap();
    assert!(matches!(database.begin(within(30)).await, Err(SqlError::Deadline)));
    assert_eq!(database.execute("DELETE FROM items", &[], within(30)).await, Err(SqlError::Deadline));
    assert_eq!(count(&database, "SELECT count(*) FROM items").await, 2);
    drop(transaction);
    drop(database.begin(soon()).await.unwrap());
}

#[tokio::test]
async fn lost_writer_is_opened_again() {
    let (_place, database) = shop().await;
    let Database::Sqlite(sqlite) = &database else { panic!() };
    sqlite.lose_writer().await;
    assert_eq!(database.execute("UPDATE items SET stock = 1", &[], soon()).await, Ok(2));
    let error = database.execute("DELETE FROM cleave_migrations", &[], soon()).await.unwrap_err();
    assert!(is_refused(&error, "cleave_"), "{error}");
}

#[test]
fn futures_and_transactions_may_move_between_threads() {
    fn is_send<T: Send + 'static>(_: &T) {}
    fn check(database: &'static Database) {
        is_send(&database.query("SELECT 1", &[], soon()));
        is_send(&database.begin(soon()));
    }
    let _ = check;
    fn transaction<T: Send + 'static>() {}
    transaction::<Transaction>();
    transaction::<Database>();
}

// Nothing refused gets through, however it is dressed.

/// A statement that must not run, in pieces between which anything blank may stand.
fn forbidden() -> impl Strategy<Value = Vec<String>> {
    let table = prop::sample::select(vec![
        "cleave_migrations",
        "\"cleave_migrations\"",
        "'cleave_migrations'",
        "[cleave_migrations]",
        "`cleave_migrations`",
        "sqlite_master",
        "'sqlite_schema'",
        "'sqlite_temp_schema'",
        "pragma_table_info",
        "\"pragma_module_list\"",
        "'pragma_compile_options'",
        "json_each",
        "dbstat",
        "cleave_outbox",
        "pg_class",
        "_sqlx_migrations",
    ]);
    let call = prop::sample::select(vec![
        "load_extension('x')",
        "randomblob(9)",
        "sqlite_version()",
        "zeroblob(1)",
        "hex('a')",
        "printf('%d', 1)",
        "json('1')",
        "unixepoch()",
        "total_changes()",
        "ifnull(1, 2)",
        "quote('a')",
        "\"random\"()",
        "current_time",
    ]);
    let command = prop::sample::select(vec![
        "CREATE TABLE x ( y )",
        "CREATE TEMP TABLE x AS SELECT 1",
        "DROP TABLE items",
        "ALTER TABLE items RENAME TO x",
        "PRAGMA user_version = 7",
        "PRAGMA foreign_keys = OFF",
        "ATTACH ':memory:' AS m",
        "VACUUM",
        "VACUUM INTO '/tmp/cleave-x'",
        "BEGIN",
        "BEGIN EXCLUSIVE",
        "COMMIT",
        "ROLLBACK",
        "END",
        "SAVEPOINT x",
        "RELEASE x",
        "REINDEX",
        "ANALYZE",
        "DETACH main",
        "CREATE VIRTUAL TABLE x USING fts5 ( y )",
        "CREATE TRIGGER x AFTER INSERT ON items BEGIN SELECT 1 ; END",
        "EXPLAIN SELECT 1",
        "DROP INDEX x",
        "CREATE VIEW x AS SELECT 1",
        "REPLACE INTO items ( id, name ) VALUES ( 1, 'x' )",
        "INSERT OR ROLLBACK INTO items ( id, name ) VALUES ( 1, 'x' )",
    ]);
    let split = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    prop_oneof![
        command.prop_map(str::to_owned),
        (table.clone(), 0..9_usize).prop_map(|(table, form)| match form {
            0 => format!("SELECT * FROM {table}"),
            1 => format!("SELECT count(*) FROM {table}"),
            2 => format!("SELECT 1 FROM items , {table}"),
            3 => format!("DELETE FROM {table}"),
            4 => format!("INSERT INTO {table} VALUES ( 1 )"),
            5 => format!("UPDATE items SET name = ( SELECT max( 1 ) FROM {table} )"),
            6 => format!("INSERT INTO items ( name ) SELECT 'a' FROM {table}"),
            7 => format!("SELECT id FROM items WHERE EXISTS ( SELECT * FROM {table} )"),
            _ => format!("SELECT 1 UNION ALL SELECT 2 FROM {table}"),
        }),
        (call, 0..5_usize).prop_map(|(call, form)| match form {
            0 => format!("SELECT {call}"),
            1 => format!("UPDATE items SET name = {call}"),
            2 => format!("DELETE FROM items WHERE name = {call}"),
            3 => format!("INSERT INTO items ( name ) VALUES ( {call} )"),
            _ => format!("SELECT id FROM items ORDER BY {call}"),
        }),
    ]
    .prop_map(split)
}

fn blank() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        " ",
        "\n",
        "\t ",
        " /* ; */ ",
        " -- ; '\n",
        "--\r",
        "/**/",
        "\r\n",
        " /* SELECT \" */ ",
        "\x0c",
    ])
}

/// Changes the case of letters outside quotes.
fn recase(text: &str, upper: &[bool]) -> String {
    let mut quoted = false;
    text.chars()
        .zip(upper.iter().cycle())
        .map(|(c, upper)| {
            quoted ^= c == '\'';
            if quoted {
                c
            } else if *upper {
                c.to_ascii_uppercase()
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect()
}

pub(super) fn dressed() -> impl Strategy<Value = String> {
    (forbidden(), prop::collection::vec(blank(), 24), prop::collection::vec(any::<bool>(), 7), 0..8_usize)
        .prop_map(|(pieces, blanks, upper, dress)| {
            let mut blanks = blanks.into_iter().cycle();
            let mut body = String::new();
            for piece in pieces {
                body.push_str(blanks.next().unwrap());
                body.push_str(&recase(&piece, &upper));
            }
            match dress {
                0 => format!("SELECT 1;{body}"),
                1 => format!("WITH c AS (SELECT 1) {body}"),
                2 => format!("WITH c AS ({body}) SELECT count(*) FROM c"),
                3 => format!("{body};"),
                4 => format!("{body}; SELECT 1"),
                5 => format!("SELECT ({body})"),
                6 => format!("SELECT 'a;' /* {body} */ ;{body}"),
                _ => body,
            }
        })
}

/// Everything that must not change, read past the screens.
fn fingerprint(file: &Path) -> String {
    let sqlite = rusqlite::Connection::open(file).unwrap();
    let all = |sql: &str| -> Vec<String> {
        sqlite.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let mut found = all("SELECT type || name || coalesce(sql, '') FROM sqlite_schema ORDER BY 1");
    found.extend(all("SELECT version || name || sha256 || applied_at FROM cleave_migrations"));
    found.extend(all("SELECT id || name || stock || done FROM items ORDER BY id"));
    found.extend(all("SELECT 'version' || user_version FROM pragma_user_version"));
    found.join("\n")
}

#[test]
fn no_dress_gets_a_refused_statement_through() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (place, database) = runtime.block_on(shop());
    let before = fingerprint(&place.file());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 1_500,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&dressed(), |sql| {
            runtime.block_on(async {
                let queried = database.query(&sql, &[], soon()).await.map(|_| ());
                let executed = database.execute(&sql, &[], soon()).await.map(|_| ());
                let mut transaction = database.begin(soon()).await.unwrap();
                let inside = transaction.query(&sql, &[]).await.map(|_| ());
                let results = [queried, executed, inside];
                for result in results {
                    prop_assert!(
                        matches!(result, Err(SqlError::Refused(_) | SqlError::Invalid(_))),
                        "{result:?}"
                    );
                }
                Ok(())
            })
        })
        .unwrap();
    assert_eq!(fingerprint(&place.file()), before);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reading_any_text_ends_without_panic(sql in "\\PC*|[-$?:@#'\"\\[\\]`;()/* a-zA-Z0-9_\u{0}\u{e9}\u{feff}]{0,40}") {
        let _ = screen::read(&sql);
        let _ = screen::only_reads(&sql);
        let mut last = 0;
        for (at, _) in screen::Tokens::new(&sql).flatten() {
            prop_assert!(sql.is_char_boundary(at) && at >= last);
            last = at;
        }
    }
}
