//! When a commit is durable, who waits for that, and what happens when the disk fails.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::super::both::{soon, within};
use super::super::{DataFolder, Database, Durability, Limits, SqlError, Value};

const SCHEMA: &str = "
    CREATE TABLE items (id INTEGER PRIMARY KEY, stock INTEGER NOT NULL);
    CREATE TABLE parts (id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES items (id) DEFERRABLE INITIALLY DEFERRED);
";
const INSERT: &str = "INSERT INTO items (stock) VALUES (1)";
const COUNT: &str = "SELECT count(*) FROM items";

/// A disk whose syncs can be counted, held back and made to fail.
#[derive(Default)]
struct Disk {
    begun: AtomicUsize,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    held: bool,
    failing: bool,
}

impl Disk {
    fn sync(&self, log: &std::fs::File) -> io::Result<()> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let mut state = self.state.lock().unwrap();
        while state.held {
            state = self.moved.wait(state).unwrap();
        }
        if state.failing { Err(io::Error::other("the disk is gone")) } else { log.sync_data() }
    }

    fn hold(&self, held: bool) {
        self.state.lock().unwrap().held = held;
        self.moved.notify_all();
    }

    fn fail(&self, failing: bool) {
        self.state.lock().unwrap().failing = failing;
    }

    /// The syncs that have begun.
    fn syncs(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    async fn syncs_reach(&self, count: usize) {
        while self.syncs() < count {
            tokio::task::yield_now().await;
        }
    }
}

async fn open(folder: &DataFolder, place: &TempDir, durability: Durability) -> Database {
    let migrations = place.path().join("migrations");
    let _ = std::fs::create_dir(&migrations);
    std::fs::write(migrations.join("001_items.sql"), SCHEMA).unwrap();
    let limits = Limits { durability, ..Limits::default() };
    Database::open(folder, "shop", Some(&migrations), limits).await.unwrap()
}

async fn shop_with(durability: Durability) -> (TempDir, DataFolder, Database, Arc<Disk>) {
    let place = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(&place.path().join("data")).unwrap();
    let database = open(&folder, &place, durability).await;
    let disk = Arc::new(Disk::default());
    let Database::Sqlite(sqlite) = &database else { panic!("not SQLite") };
    sqlite.hook_sync(Some(Arc::new({
        let disk = Arc::clone(&disk);
        move |log| disk.sync(log)
    })));
    (place, folder, database, disk)
}

async fn shop() -> (TempDir, DataFolder, Database, Arc<Disk>) {
    shop_with(Durability::Full).await
}

fn insert(database: &Database) -> JoinHandle<Result<u64, SqlError>> {
    let database = database.clone();
    tokio::spawn(async move { database.execute(INSERT, &[], soon()).await })
}

fn is_number(rows: &super::super::Rows, number: i64) -> bool {
    rows.rows == [[Value::Integer(number)]]
}

/// Waits until so many items are committed, durable or not.
async fn committed(database: &Database, count: i64) {
    while !is_number(&database.host_query(COUNT, &[], soon()).await.unwrap(), count) {
        tokio::task::yield_now().await;
    }
}

fn is_unavailable<T>(result: &Result<T, SqlError>) -> bool {
    matches!(result, Err(SqlError::Unavailable(why)) if why.contains("sync") && why.contains("started again"))
}

#[tokio::test]
async fn lone_commit_is_synced_before_it_returns() {
    let (_place, _folder, database, disk) = shop().await;
    database.execute(INSERT, &[], soon()).await.unwrap();
    assert_eq!(disk.syncs(), 1);
    database.query("INSERT INTO items (stock) VALUES (2) RETURNING id", &[], soon()).await.unwrap();
    assert_eq!(disk.syncs(), 2);
    let mut transaction = database.begin(soon()).await.unwrap();
    transaction.execute(INSERT, &[]).await.unwrap();
    assert_eq!(disk.syncs(), 2);
    transaction.commit().await.unwrap();
    assert_eq!(disk.syncs(), 3);
    assert!(is_number(&database.query(COUNT, &[], soon()).await.unwrap(), 3));
    assert_eq!(disk.syncs(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_that_come_during_a_sync_share_the_next() {
    let (_place, _folder, database, disk) = shop().await;
    disk.hold(true);
    let first = insert(&database);
    disk.syncs_reach(1).await;
    // The writer is free while the first waits for the disk, so that all the others come to their commits.
    let others: Vec<_> = (0..40).map(|_| insert(&database)).collect();
    committed(&database, 41).await;
    assert!(!first.is_finished() && others.iter().all(|other| !other.is_finished()));
    disk.hold(false);
    for writing in others.into_iter().chain([first]) {
        assert_eq!(writing.await.unwrap(), Ok(1));
    }
    assert_eq!(disk.syncs(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_make_fewer_syncs_than_commits() {
    let (_place, _folder, database, disk) = shop().await;
    let writers: Vec<_> = (0..64)
        .map(|_| {
            let database = database.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    let mut transaction = database.begin(soon()).await.unwrap();
                    transaction.execute(INSERT, &[]).await.unwrap();
                    transaction.commit().await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(is_number(&database.query(COUNT, &[], soon()).await.unwrap(), 64 * 20));
    assert!(disk.syncs() < 64 * 20 * 3 / 4, "{} syncs", disk.syncs());
}

#[tokio::test]
async fn process_durability_never_syncs() {
    let (_place, _folder, database, disk) = shop_with(Durability::Process).await;
    database.execute(INSERT, &[], soon()).await.unwrap();
    let mut transaction = database.begin(soon()).await.unwrap();
    transaction.execute(INSERT, &[]).await.unwrap();
    transaction.commit().await.unwrap();
    assert!(is_number(&database.query(COUNT, &[], soon()).await.unwrap(), 2));
    database.sync().await.unwrap();
    assert_eq!(disk.syncs(), 0);
}

#[tokio::test]
async fn transaction_that_wrote_nothing_is_not_synced() {
    let (_place, _folder, database, disk) = shop().await;
    let mut transaction = database.begin(soon()).await.unwrap();
    transaction.query(COUNT, &[]).await.unwrap();
    transaction.commit().await.unwrap();
    let mut transaction = database.begin(soon()).await.unwrap();
    transaction.execute(INSERT, &[]).await.unwrap();
    drop(transaction);
    assert_eq!(disk.syncs(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_shown_what_is_not_durable() {
    let (_place, _folder, database, disk) = shop().await;
    disk.hold(true);
    let writing = insert(&database);
    committed(&database, 1).await;
    // A read waits, and so does a transaction that only reads; a write that was in the way waits with its error.
    assert_eq!(database.query(COUNT, &[], within(30)).await, Err(SqlError::Deadline));
    let again = "INSERT INTO items (id, stock) VALUES (1, 1)";
    assert_eq!(database.execute(again, &[], within(30)).await, Err(SqlError::Deadline));
    let mut transaction = database.begin(soon()).await.unwrap();
    assert!(is_number(&transaction.query(COUNT, &[]).await.unwrap(), 1));
    let only_reading = tokio::spawn(transaction.commit());
    let reading = tokio::spawn({
        let database = database.clone();
        async move { database.query(COUNT, &[], soon()).await }
    });
    // The writer is free and passes through hands; nothing of that lets the others go on.
    drop(database.begin(soon()).await.unwrap());
    assert!(!only_reading.is_finished() && !reading.is_finished() && !writing.is_finished());
    disk.hold(false);
    assert!(is_number(&reading.await.unwrap().unwrap(), 1));
    assert_eq!(only_reading.await.unwrap(), Ok(()));
    assert_eq!(writing.await.unwrap(), Ok(1));
    assert_eq!(disk.syncs(), 1);
    let error = database.execute(again, &[], soon()).await.unwrap_err();
    assert!(matches!(error, SqlError::Violates { .. }), "{error}");
}

#[tokio::test]
async fn unsynced_commit_makes_no_sync_and_no_wait() {
    let (_place, _folder, database, disk) = shop().await;
    for _ in 0..2 {
        let mut transaction = database.begin(soon()).await.unwrap();
        transaction.host_execute(INSERT, &[]).await.unwrap();
        transaction.commit_unsynced().await.unwrap();
    }
    assert!(is_number(&database.query(COUNT, &[], soon()).await.unwrap(), 2));
    assert_eq!(disk.syncs(), 0);
    database.sync().await.unwrap();
    assert_eq!(disk.syncs(), 1);
    database.sync().await.unwrap();
    assert_eq!(disk.syncs(), 1);
    // A durable commit after an unsynced one makes both durable.
    let mut transaction = database.begin(soon()).await.unwrap();
    transaction.host_execute(INSERT, &[]).await.unwrap();
    transaction.commit_unsynced().await.unwrap();
    database.execute(INSERT, &[], soon()).await.unwrap();
    database.sync().await.unwrap();
    assert_eq!(disk.syncs(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sync_waits_for_what_was_committed_before_it() {
    let (_place, _folder, database, disk) = shop().await;
    disk.hold(true);
    let writing = insert(&database);
    disk.syncs_reach(1).await;
    let mut transaction = database.begin(soon()).await.unwrap();
    transaction.host_execute(INSERT, &[]).await.unwrap();
    transaction.commit_unsynced().await.unwrap();
    // The sync under way began before that commit, so another is needed.
    let syncing = tokio::spawn({
        let database = database.clone();
        async move { database.sync().await }
    });
    disk.hold(false);
    assert_eq!(writing.await.unwrap(), Ok(1));
    assert_eq!(syncing.await.unwrap(), Ok(()));
    assert_eq!(disk.syncs(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commit_that_stands_is_no_deadline() {
    let (_place, _folder, database, disk) = shop().await;
    disk.hold(true);
    let deadline = within(40);
    let leading = tokio::spawn({
        let database = database.clone();
        async move { database.execute(INSERT, &[], deadline).await }
    });
    disk.syncs_reach(1).await;
    let mut transaction = database.begin(deadline).await.unwrap();
    transaction.execute(INSERT, &[]).await.unwrap();
    let waiting = tokio::spawn(transaction.commit());
    committed(&database, 2).await;
    tokio::time::sleep_until(deadline.into()).await;
    // It is past the deadline of both.
    assert_eq!(database.query(COUNT, &[], within(10)).await, Err(SqlError::Deadline));
    assert!(!leading.is_finished() && !waiting.is_finished());
    disk.hold(false);
    assert_eq!(leading.await.unwrap(), Ok(1));
    assert_eq!(waiting.await.unwrap(), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_is_cancelled_holds_nobody_up() {
    let (_place, _folder, database, disk) = shop().await;
    disk.hold(true);
    let leading = insert(&database);
    disk.syncs_reach(1).await;
    let waiting: Vec<_> = (0..5).map(|_| insert(&database)).collect();
    committed(&database, 6).await;
    // All but the last go away, the one who syncs too.
    leading.abort();
    for gone in &waiting[..4] {
        gone.abort();
    }
    disk.hold(false);
    for (at, waiting) in waiting.into_iter().enumerate() {
        assert_eq!(waiting.await.is_ok_and(|done| done == Ok(1)), at == 4);
    }
    assert_eq!(disk.syncs(), 2);
    assert_eq!(database.execute(INSERT, &[], soon()).await, Ok(1));
    assert_eq!(disk.syncs(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reader_syncs_what_a_cancelled_writer_left() {
    let (_place, _folder, database, disk) = shop().await;
    disk.hold(true);
    let leading = insert(&database);
    disk.syncs_reach(1).await;
    let waiting = insert(&database);
    committed(&database, 2).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    disk.hold(false);
    assert_eq!(leading.await.unwrap(), Ok(1));
    assert_eq!(disk.syncs(), 1);
    assert!(is_number(&database.query(COUNT, &[], soon()).await.unwrap(), 2));
    assert_eq!(disk.syncs(), 2);
}

#[tokio::test]
async fn failed_commit_leaves_nothing_to_wait_for() {
    let (_place, _folder, database, disk) = shop().await;
    for _ in 0..2 {
        let mut transaction = database.begin(soon()).await.unwrap();
        transaction.execute("INSERT INTO parts (item) VALUES (99)", &[]).await.unwrap();
        assert!(matches!(transaction.commit().await, Err(SqlError::Violates { .. })));
    }
    let late = database.begin(within(1)).await.map(|mut transaction| async move {
        while transaction.execute(INSERT, &[]).await.is_ok() {}
        transaction.commit().await
    });
    assert_eq!(late.unwrap().await, Err(SqlError::Aborted));
    assert!(is_number(&database.query(COUNT, &[], soon()).await.unwrap(), 0));
    database.sync().await.unwrap();
    assert_eq!(disk.syncs(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn disk_that_failed_to_sync_is_not_trusted_again() {
    let (place, folder, database, disk) = shop().await;
    database.execute(INSERT, &[], soon()).await.unwrap();
    disk.hold(true);
    disk.fail(true);
    let leading = insert(&database);
    disk.syncs_reach(2).await;
    let waiting: Vec<_> = (0..5).map(|_| insert(&database)).collect();
    committed(&database, 7).await;
    let reading = tokio::spawn({
        let database = database.clone();
        async move { database.query(COUNT, &[], soon()).await }
    });
    let mut open_still = database.begin(soon()).await.unwrap();
    open_still.execute(INSERT, &[]).await.unwrap();
    disk.hold(false);
    assert!(is_unavailable(&leading.await.unwrap()));
    for waiting in waiting {
        assert!(is_unavailable(&waiting.await.unwrap()));
    }
    assert!(is_unavailable(&reading.await.unwrap()));
    // The disk is well again, which proves nothing about what it was given before.
    disk.fail(false);
    assert!(is_unavailable(&open_still.execute(INSERT, &[]).await));
    assert_eq!(open_still.execute(INSERT, &[]).await, Err(SqlError::Aborted));
    assert_eq!(open_still.commit().await, Err(SqlError::Aborted));
    for _ in 0..2 {
        assert!(is_unavailable(&database.execute(INSERT, &[], soon()).await));
        assert!(is_unavailable(&database.query(COUNT, &[], soon()).await));
        assert!(is_unavailable(&database.host_query(COUNT, &[], soon()).await));
        assert!(is_unavailable(&database.begin(soon()).await.map(drop)));
        assert!(is_unavailable(&database.sync().await));
    }
    assert_eq!(disk.syncs(), 2);
    // Opened again it is read anew; the log was not copied into the database meanwhile.
    let log = folder.path().join("shop.sqlite-wal");
    drop(database);
    assert!(log.metadata().unwrap().len() > 0);
    let database = open(&folder, &place, Durability::Full).await;
    assert!(is_number(&database.query(COUNT, &[], soon()).await.unwrap(), 7));
    assert_eq!(database.execute(INSERT, &[], soon()).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commit_after_a_failed_sync_is_refused() {
    let (_place, _folder, database, disk) = shop().await;
    disk.hold(true);
    disk.fail(true);
    let leading = insert(&database);
    disk.syncs_reach(1).await;
    let mut transaction = database.begin(soon()).await.unwrap();
    transaction.execute(INSERT, &[]).await.unwrap();
    disk.hold(false);
    assert!(is_unavailable(&leading.await.unwrap()));
    assert!(is_unavailable(&transaction.commit().await));
}

#[tokio::test]
async fn log_that_was_replaced_is_refused() {
    let (_place, folder, database, _disk) = shop().await;
    database.execute(INSERT, &[], soon()).await.unwrap();
    let Database::Sqlite(sqlite) = &database else { panic!("not SQLite") };
    sqlite.lose_writer().await;
    let log = folder.path().join("shop.sqlite-wal");
    std::fs::copy(&log, folder.path().join("copy")).unwrap();
    std::fs::rename(folder.path().join("copy"), &log).unwrap();
    let error = database.execute(INSERT, &[], soon()).await.unwrap_err();
    assert!(matches!(&error, SqlError::Unavailable(why) if why.contains("replaced")), "{error}");
    assert!(is_unavailable(&database.query(COUNT, &[], soon()).await));
}

#[tokio::test]
async fn database_behind_a_link_has_its_log_there() {
    let place = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(&place.path().join("data")).unwrap();
    let far = place.path().join("far.sqlite");
    std::fs::write(&far, "").unwrap();
    std::os::unix::fs::symlink(&far, folder.path().join("shop.sqlite")).unwrap();
    for count in 1..3 {
        let database = open(&folder, &place, Durability::Full).await;
        database.execute(INSERT, &[], soon()).await.unwrap();
        assert!(place.path().join("far.sqlite-wal").exists());
        assert!(is_number(&database.query(COUNT, &[], soon()).await.unwrap(), count));
    }
}

#[tokio::test]
async fn writer_that_is_opened_again_shares_the_log() {
    let (_place, _folder, database, disk) = shop().await;
    let Database::Sqlite(sqlite) = &database else { panic!("not SQLite") };
    for count in 1..4 {
        sqlite.lose_writer().await;
        database.execute(INSERT, &[], soon()).await.unwrap();
        assert_eq!(disk.syncs(), count);
    }
}
