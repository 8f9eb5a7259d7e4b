//! SQLite as one who knows it well would use it in a native program: one writer for each file, cached statements, and
//! syncs that commits share.
//!
//! A commit appends to the write-ahead log (`synchronous = NORMAL`) and is told of when an `fdatasync` of the log that
//! began after it has returned. Whoever finds no sync under way syncs for all who wait.

use rusqlite::Connection;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// As many as the host has by default.
const READERS: usize = 4;
/// More than there are different statements.
const STATEMENTS_KEPT: usize = 64;

/// One file.
pub(crate) struct Database {
    writer: tokio::sync::Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
    /// The log; none if commits need only survive the process.
    log: Option<File>,
    /// How many commits are in the log.
    appended: AtomicU64,
    /// How many of them are on the disk.
    synced: watch::Sender<u64>,
    /// Held by who syncs.
    turn: Mutex<()>,
}

impl Database {
    /// Opens a file whose tables are there.
    pub(crate) fn open(folder: &Path, name: &str, sync: bool) -> Arc<Self> {
        let file = folder.join(format!("{name}.sqlite"));
        let open = || {
            let connection = Connection::open(&file).unwrap();
            let mode: String =
                connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).unwrap();
            assert_eq!(mode, "wal");
            connection.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON").unwrap();
            connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
            // Makes the log, if it is the first.
            let _: i64 =
                connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
            connection
        };
        let readers = (0..READERS).map(|_| open()).collect();
        let writer = open();
        let log = sync.then(|| File::open(folder.join(format!("{name}.sqlite-wal"))).unwrap());
        Arc::new(Self {
            writer: tokio::sync::Mutex::new(writer),
            readers: Mutex::new(readers),
            log,
            appended: AtomicU64::new(0),
            synced: watch::Sender::new(0),
            turn: Mutex::new(()),
        })
    }

    /// Runs a transaction; it is on the disk when this returns.
    pub(crate) async fn write<T>(&self, run: impl FnOnce(&Connection) -> T) -> T {
        let (value, commit) = self.append(run).await;
        self.sync(commit).await;
        value
    }

    /// Runs a transaction that the next sync takes to the disk. Gives the number of its commit, too.
    pub(crate) async fn append<T>(&self, run: impl FnOnce(&Connection) -> T) -> (T, u64) {
        // Why on the worker: a transaction takes less than handing the worker's other tasks to another thread.
        let writer = self.writer.lock().await;
        execute(&writer, "BEGIN IMMEDIATE", []);
        let value = run(&writer);
        execute(&writer, "COMMIT", []);
        (value, self.appended.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Returns when the commits up to this one are on the disk.
    pub(crate) async fn sync(&self, commit: u64) {
        let Some(log) = &self.log else { return };
        let mut synced = self.synced.subscribe();
        while *synced.borrow_and_update() < commit {
            if let Ok(turn) = self.turn.try_lock() {
                let last = self.appended.load(Ordering::Acquire);
                tokio::task::block_in_place(|| log.sync_data().unwrap());
                drop(turn);
                self.synced.send_if_modified(|synced| std::mem::replace(synced, last.max(*synced)) < last);
            } else {
                synced.changed().await.unwrap();
            }
        }
    }

    /// Returns when everything committed so far is on the disk.
    pub(crate) async fn sync_all(&self) {
        self.sync(self.appended.load(Ordering::Acquire)).await;
    }

    /// Reads beside the writer, on the thread that asks.
    pub(crate) fn read<T>(&self, run: impl FnOnce(&Connection) -> T) -> T {
        let connection = loop {
            let idle = self.readers.lock().unwrap().pop();
            match idle {
                Some(connection) => break connection,
                // Why no more: no reader waits for anything, so one comes back at once.
                None => std::thread::yield_now(),
            }
        };
        let value = run(&connection);
        self.readers.lock().unwrap().push(connection);
        value
    }
}

/// Runs a statement that gives no rows; gives how many it changed.
pub(crate) fn execute(connection: &Connection, sql: &str, parameters: impl rusqlite::Params) -> usize {
    connection.prepare_cached(sql).unwrap().execute(parameters).unwrap()
}
