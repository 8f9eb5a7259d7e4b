//! What the host may do in a transaction beyond a module: nest, execute many, read beside it.

use std::time::{Duration, Instant};

use tempfile::TempDir;

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

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
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

fn is_unique(result: &Result<u64, SqlError>) -> bool {
    matches!(result, Err(SqlError::Violates { .. }))
}

#[tokio::test]
async fn nested_part_is_kept_or_rolled_back_alone() {
    let (_place, database) = shop().await;
    let mut transaction = database.begin(soon()).await.unwrap();
    for (name, keep) in [("ink", true), ("cap", false), ("nib", true), ("ink", false)] {
        transaction.nest().await.unwrap();
        let _ = add(&mut transaction, name).await;
        transaction.unnest(keep).await.unwrap();
    }
    add(&mut transaction, "cup").await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(names(&database).await, "pen ink nib cup");
}

#[tokio::test]
async fn error_dooms_the_nested_part_alone() {
    let (_place, database) = shop().await;
    for keep in [false, true] {
        let mut transaction = database.begin(soon()).await.unwrap();
        add(&mut transaction, if keep { "ink" } else { "cap" }).await.unwrap();
        transaction.nest().await.unwrap();
        add(&mut transaction, "lost").await.unwrap();
        assert!(is_unique(&add(&mut transaction, "pen").await));
        assert_eq!(add(&mut transaction, "late").await, Err(SqlError::Aborted));
        assert_eq!(transaction.query("SELECT 1", &[]).await, Err(SqlError::Aborted));
        assert_eq!(transaction.host_execute_many("DELETE FROM items", &[]).await, Err(SqlError::Aborted));
        assert_eq!(transaction.nest().await, Err(SqlError::TransactionOpen));
        assert_eq!(transaction.unnest(keep).await, if keep { Err(SqlError::Aborted) } else { Ok(()) });
        // Another part is possible, and the whole goes on.
        transaction.nest().await.unwrap();
        add(&mut transaction, if keep { "nib" } else { "cup" }).await.unwrap();
        transaction.unnest(true).await.unwrap();
        transaction.commit().await.unwrap();
    }
    assert_eq!(names(&database).await, "pen cap cup ink nib");
}

#[tokio::test]
async fn error_after_a_nested_part_dooms_all() {
    let (_place, database) = shop().await;
    let mut transaction = database.begin(soon()).await.unwrap();
    transaction.nest().await.unwrap();
    add(&mut transaction, "ink").await.unwrap();
    transaction.unnest(true).await.unwrap();
    assert!(is_unique(&add(&mut transaction, "pen").await));
    assert_eq!(transaction.nest().await, Err(SqlError::Aborted));
    assert_eq!(transaction.unnest(false).await, Err(SqlError::Aborted));
    assert_eq!(transaction.commit().await, Err(SqlError::Aborted));
    assert_eq!(names(&database).await, "pen");
}

#[tokio::test]
async fn nesting_twice_or_leaving_none_is_a_mistake_that_changes_nothing() {
    let (_place, database) = shop().await;
    let mut transaction = database.begin(soon()).await.unwrap();
    assert!(matches!(transaction.unnest(true).await, Err(SqlError::Invalid(_))));
    transaction.nest().await.unwrap();
    add(&mut transaction, "ink").await.unwrap();
    assert_eq!(transaction.nest().await, Err(SqlError::TransactionOpen));
    transaction.unnest(true).await.unwrap();
    assert!(matches!(transaction.unnest(false).await, Err(SqlError::Invalid(_))));
    transaction.commit().await.unwrap();
    assert_eq!(names(&database).await, "pen ink");
}

#[tokio::test]
async fn transaction_that_ends_in_a_nested_part_is_rolled_back() {
    let (_place, database) = shop().await;
    for doomed in [false, true] {
        for commit in [false, true] {
            let mut transaction = database.begin(soon()).await.unwrap();
            add(&mut transaction, "ink").await.unwrap();
            transaction.nest().await.unwrap();
            add(&mut transaction, "cap").await.unwrap();
            assert!(!doomed || is_unique(&add(&mut transaction, "pen").await));
            if commit {
                assert_eq!(transaction.commit().await, Err(SqlError::TransactionOpen));
            } else {
                drop(transaction);
            }
            assert_eq!(names(&database).await, "pen");
        }
    }
}

#[tokio::test]
async fn deferred_constraint_of_a_part_rolled_back_does_not_fail_the_commit() {
    let (_place, database) = shop().await;
    for keep in [false, true] {
        let mut transaction = database.begin(soon()).await.unwrap();
        add(&mut transaction, if keep { "cap" } else { "ink" }).await.unwrap();
        transaction.nest().await.unwrap();
        transaction.execute("INSERT INTO parts (item) VALUES (99)", &[]).await.unwrap();
        transaction.unnest(keep).await.unwrap();
        let done = transaction.commit().await;
        assert_eq!(matches!(done, Err(SqlError::Violates { .. })), keep, "{done:?}");
    }
    assert_eq!(names(&database).await, "pen ink");
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

#[tokio::test]
async fn many_rows_are_executed_as_one() {
    let (_place, database) = shop().await;
    let insert = "INSERT INTO items (name, id) VALUES ($2, $1)";
    let row = |id: i64, name: &str| vec![Value::Integer(id), Value::Text(name.to_owned())];
    let mut transaction = database.begin(soon()).await.unwrap();
    assert_eq!(transaction.host_execute_many(insert, &[]).await, Ok(0));
    let rows = [row(5, "ink"), row(3, "cap"), row(4, "nib")];
    assert_eq!(transaction.host_execute_many(insert, &rows).await, Ok(3));
    let ids = [vec![Value::Integer(3)], vec![Value::Integer(77)], vec![Value::Integer(4)]];
    assert_eq!(transaction.host_execute_many("DELETE FROM items WHERE id = $1", &ids).await, Ok(2));
    transaction.nest().await.unwrap();
    assert!(is_unique(&transaction.host_execute_many(insert, &[row(8, "cup"), row(9, "pen")]).await));
    transaction.unnest(false).await.unwrap();
    for (sql, rows) in [
        (insert, vec![row(8, "cup"), vec![Value::Integer(9)]]),
        ("INSERT INTO items (id) VALUES ($1) RETURNING id", vec![vec![Value::Integer(9)]]),
        ("INSERT INTO items (id) VALUES ($1)", vec![vec![Value::Real(f64::NAN)]]),
    ] {
        transaction.nest().await.unwrap();
        let error = transaction.host_execute_many(sql, &rows).await.unwrap_err();
        assert!(matches!(error, SqlError::Invalid(_)), "{sql}: {error}");
        transaction.unnest(false).await.unwrap();
    }
    transaction.commit().await.unwrap();
    assert_eq!(names(&database).await, "pen ink");
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

#[tokio::test]
async fn host_reads_its_tables_and_writes_nothing_outside_transactions() {
    let (_place, database) = shop().await;
    let mut transaction = database.begin(soon()).await.unwrap();
    transaction.execute("DELETE FROM items", &[]).await.unwrap();
    // Beside the writer: it sees what is committed.
    let read = "SELECT count(*) FROM cleave_migrations, items WHERE version = $1";
    let rows = database.host_query(read, &[Value::Integer(1)], soon()).await.unwrap();
    assert_eq!(rows.rows, [[Value::Integer(1)]]);
    drop(transaction);
    for sql in
        ["DELETE FROM items", "DELETE FROM items RETURNING id", "WITH n AS (SELECT 1) DELETE FROM items"]
    {
        let error = database.host_query(sql, &[], soon()).await.unwrap_err();
        assert!(matches!(error, SqlError::Refused(_)), "{error}");
    }
    assert!(database.query(read, &[Value::Integer(1)], soon()).await.is_err());
    let past = Instant::now();
    assert_eq!(database.host_query("SELECT 1", &[], past).await, Err(SqlError::Deadline));
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
