//! What the host may do in a transaction beyond a module: nest, execute many, read beside it.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::super::both::soon;
use super::super::{DataFolder, Database, Limits, SqlError, Transaction, Value};

const SCHEMA: &str = "
    CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT UNIQUE, body BLOB);
    CREATE TABLE parts (id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES items (id) DEFERRABLE INITIALLY DEFERRED);
    INSERT INTO items (name) VALUES ('pen');
";

async fn shop_with(limits: Limits) -> (TempDir, Database) {
    let place = tempfile::tempdir().unwrap();
    let migrations = place.path().join("migrations");
    std::fs::create_dir(&migrations).unwrap();
    std::fs::write(migrations.join("001_items.sql"), SCHEMA).unwrap();
    let folder = DataFolder::open(&place.path().join("data")).unwrap();
    let database = Database::open(&folder, "shop", Some(&migrations), limits).await.unwrap();
    (place, database)
}

async fn shop() -> (TempDir, Database) {
    shop_with(Limits::default()).await
}

async fn add(transaction: &mut Transaction, name: &str) -> Result<u64, SqlError> {
    transaction.execute("INSERT INTO items (name) VALUES ($1)", &[Value::Text(name.to_owned())]).await
}

async fn names(database: &Database) -> String {
    let read = "SELECT coalesce(string_agg(name, ' ' ORDER BY id), '') FROM items";
    match &database.query(read, &[], soon()).await.unwrap().rows[0][0] {
        Value::Text(names) => names.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadline_in_a_nested_part_ends_it_and_the_commit() {
    let (_place, database) = shop().await;
    let deadline = Instant::now() + Duration::from_millis(60);
    for writing in [false, true] {
        let mut transaction =
            database.begin(deadline.max(Instant::now() + Duration::from_millis(60))).await.unwrap();
        add(&mut transaction, "ink").await.unwrap();
        transaction.nest().await.unwrap();
        let endless = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) ";
        if writing {
            let sql = format!("{endless} INSERT INTO items (name) SELECT x FROM n WHERE x < 0");
            assert_eq!(transaction.execute(&sql, &[]).await, Err(SqlError::Deadline));
            // SQLite rolls back everything when a write is stopped.
            assert_eq!(transaction.unnest(false).await, Err(SqlError::Aborted));
            assert_eq!(transaction.commit().await, Err(SqlError::Aborted));
        } else {
            let sql = format!("{endless} SELECT count(*) FROM n");
            assert_eq!(transaction.query(&sql, &[]).await, Err(SqlError::Deadline));
            assert_eq!(transaction.unnest(false).await, Ok(()));
            assert_eq!(transaction.commit().await, Err(SqlError::Deadline));
        }
    }
    assert_eq!(names(&database).await, "pen");
}

#[tokio::test]
async fn full_database_in_a_nested_part_leaves_a_whole_or_nothing() {
    let limits = Limits { database_bytes_max: 200_000, ..Limits::default() };
    let (_place, database) = shop_with(limits).await;
    let mut transaction = database.begin(soon()).await.unwrap();
    add(&mut transaction, "ink").await.unwrap();
    transaction.nest().await.unwrap();
    let big = [Value::Blob(vec![7; 60_000])];
    let error = loop {
        if let Err(error) = transaction.execute("INSERT INTO items (body) VALUES ($1)", &big).await {
            break error;
        }
    };
    assert!(matches!(&error, SqlError::Unavailable(why) if why.contains("full")), "{error}");
    match transaction.unnest(false).await {
        Ok(()) => {
            transaction.commit().await.unwrap();
            assert_eq!(names(&database).await, "pen ink");
        }
        Err(error) => {
            assert_eq!(error, SqlError::Aborted);
            assert_eq!(transaction.commit().await, Err(SqlError::Aborted));
            assert_eq!(names(&database).await, "pen");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_rows_end_at_the_deadline() {
    let (_place, database) = shop().await;
    let rows = vec![Vec::new(); 3_000_000];
    let mut transaction = database.begin(Instant::now() + Duration::from_millis(30)).await.unwrap();
    let done = transaction.host_execute_many("INSERT INTO items DEFAULT VALUES", &rows).await;
    assert_eq!(done, Err(SqlError::Deadline));
    assert_eq!(names(&database).await, "pen");
}

#[test]
fn long_write_in_a_transaction_leaves_the_worker_to_others() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    // One worker: if the statement held it, nothing else would run.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let others = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&others);
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            counting.fetch_add(1, Ordering::Relaxed);
        }
    });
    let written = runtime.spawn(async move {
        let (_place, database) = shop().await;
        let mut transaction = database.begin(Instant::now() + Duration::from_millis(500)).await.unwrap();
        let before = others.load(Ordering::Relaxed);
        let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                       INSERT INTO items (name) SELECT 'x' || i FROM n WHERE i < 0";
        let ended = transaction.execute(endless, &[]).await;
        (ended, others.load(Ordering::Relaxed) - before)
    });
    let (ended, meanwhile) = runtime.block_on(written).unwrap();
    assert_eq!(ended, Err(SqlError::Deadline));
    assert!(meanwhile > 1, "nothing else ran during the statement");
}
