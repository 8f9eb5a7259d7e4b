//! What is left after a loss of power: what was acknowledged, whole, and nothing in halves.
//!
//! A workload of several writers is recorded, then the power is lost at many moments of it, by chance. `POWER_TRIALS`
//! and `POWER_SEED` say how many and which. The order of the writers is not the same twice, so a failure prints its trial
//! and leaves its files, as the power left them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::super::{DataFolder, SqlError};
use super::super::{Database, Durability, Limits, Transaction, Value};
use super::recording::{Event, Random, Recording, Which, after_power_loss};

const SCHEMA: &str = "
    CREATE TABLE entries (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, parts INTEGER NOT NULL);
    CREATE TABLE parts (number INTEGER, part INTEGER, body BLOB NOT NULL, PRIMARY KEY (number, part));
    CREATE TABLE totals (id INTEGER PRIMARY KEY, entries INTEGER NOT NULL, parts INTEGER NOT NULL);
    INSERT INTO totals VALUES (1, 0, 0);
";

/// Writes the next entry: its number is its place in the order of commits.
const ENTRY: &str = "INSERT INTO entries (number, kind, parts) SELECT coalesce(max(number), 0) + 1, $1, $2 FROM entries RETURNING number";

/// Entries with parts behind the last whose parts are kept.
const KEPT: i64 = 25;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// The body of a part, from a few bytes to several pages.
fn body(number: i64, part: i64) -> Vec<u8> {
    let mut random = Random((number * 64 + part).unsigned_abs());
    let length = [20, 300, 3_000, 14_000][random.below(4)] + random.below(900);
    let byte = random.next() as u8;
    (0..length).map(|at| byte.wrapping_add(at as u8)).collect()
}

fn number_of(rows: &super::super::Rows) -> i64 {
    match rows.rows[0][0] {
        Value::Integer(number) => number,
        Value::Null => 0,
        ref other => panic!("{other:?} is no number"),
    }
}

async fn open(folder: &DataFolder, migrations: &Path, durability: Durability) -> Database {
    let limits = Limits { durability, result_bytes_max: 64 << 20, ..Limits::default() };
    Database::open(folder, "shop", Some(migrations), limits).await.unwrap()
}

fn migrations() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("001_shop.sql"), SCHEMA).unwrap();
    folder
}

/// Lets checkpoints, restarts and cuts of the log come often.
async fn hurry(database: &Database) {
    let mut transaction = database.begin(soon()).await.unwrap();
    for pragma in ["PRAGMA wal_autocheckpoint = 40", "PRAGMA journal_size_limit = 180000"] {
        transaction.host_query(pragma, &[]).await.unwrap();
    }
}

async fn write_parts(transaction: &mut Transaction, number: i64, parts: i64) {
    let rows: Vec<_> = (0..parts)
        .map(|part| vec![Value::Integer(number), Value::Integer(part), Value::Blob(body(number, part))])
        .collect();
    let insert = "INSERT INTO parts (number, part, body) VALUES ($1, $2, $3)";
    if number % 2 == 0 {
        transaction.host_execute_many(insert, &rows).await.unwrap();
    } else {
        for row in &rows {
            transaction.execute(insert, row).await.unwrap();
        }
    }
    let count = "UPDATE totals SET entries = entries + 1, parts = parts + $1";
    transaction.execute(count, &[Value::Integer(parts)]).await.unwrap();
    let delete = "DELETE FROM parts WHERE number < $1";
    transaction.execute(delete, &[Value::Integer(number - KEPT)]).await.unwrap();
}

async fn one_transaction(database: &Database, recording: &Recording, random: &mut Random) {
    let parts = random.below(6) as i64;
    let kind = |kind: &str| [Value::Text(kind.to_owned()), Value::Integer(parts)];
    match random.below(10) {
        0..3 => {
            let given = [Value::Text("single".to_owned()), Value::Integer(0)];
            let number = number_of(&database.query(ENTRY, &given, soon()).await.unwrap());
            recording.note(Event::Acknowledged(number));
        }
        3..7 => {
            let mut transaction = database.begin(soon()).await.unwrap();
            let number = number_of(&transaction.query(ENTRY, &kind("many")).await.unwrap());
            if random.below(4) == 0 {
                transaction.nest().await.unwrap();
                write_parts(&mut transaction, number, 9).await;
                transaction.unnest(false).await.unwrap();
            }
            tokio::task::yield_now().await;
            write_parts(&mut transaction, number, parts).await;
            transaction.commit().await.unwrap();
            recording.note(Event::Acknowledged(number));
        }
        7 => {
            let mut transaction = database.begin(soon()).await.unwrap();
            let number = number_of(&transaction.query(ENTRY, &kind("many")).await.unwrap());
            write_parts(&mut transaction, number, parts).await;
            transaction.commit_unsynced().await.unwrap();
            if random.below(2) == 0 {
                database.sync().await.unwrap();
                recording.note(Event::Acknowledged(number));
            }
        }
        8 => {
            let mut transaction = database.begin(soon()).await.unwrap();
            let number = number_of(&transaction.query(ENTRY, &kind("many")).await.unwrap());
            write_parts(&mut transaction, number, 9).await;
            drop(transaction);
        }
        _ => {
            let read = "SELECT max(number) FROM entries WHERE kind <> 'many'";
            let number = number_of(&database.query(read, &[], soon()).await.unwrap());
            recording.note(Event::Seen(number));
        }
    }
}

/// Runs a workload of several writers and gives what it did to the files. With `honest` the log is really synced;
/// else every sync is acknowledged and none is made.
async fn record(seed: u64, durability: Durability, honest: bool) -> Vec<Event> {
    let place = tempfile::tempdir().unwrap();
    let migrations = migrations();
    let folder = DataFolder::open(&place.path().join("data")).unwrap();
    let recording = Recording::of(folder.path());
    let database = open(&folder, migrations.path(), durability).await;
    let Database::Sqlite(sqlite) = &database else { panic!("not SQLite") };
    sqlite.hook_sync(Some(Arc::new({
        let recording = Arc::clone(&recording);
        move |log| if honest { recording.sync(Which::Log, || log.sync_data()) } else { Ok(()) }
    })));
    hurry(&database).await;
    recording.note(Event::Start);
    let writers: Vec<_> = (0..6)
        .map(|writer| {
            let (database, recording) = (database.clone(), Arc::clone(&recording));
            tokio::spawn(async move {
                let mut random = Random(seed * 100 + writer);
                for turn in 0..40 {
                    one_transaction(&database, &recording, &mut random).await;
                    if (writer, turn) == (0, 20) {
                        let Database::Sqlite(sqlite) = &database else { panic!("not SQLite") };
                        sqlite.lose_writer().await;
                        hurry(&database).await;
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let events = recording.events();
    assert_eq!(database.sync().await, Ok::<_, SqlError>(()));
    events
}

/// What is wrong with a database after a loss of power.
#[derive(Debug, PartialEq)]
enum Wrong {
    /// Whole, but without what was acknowledged or shown.
    Lost(String),
    Broken(String),
}

/// Opens what the power left as the host does, and looks whether it is all there.
async fn look(folder: &Path, migrations: &Path, promised: i64) -> Result<(), Wrong> {
    let broken = |what: String| Err(Wrong::Broken(what));
    let folder = DataFolder::open(folder).unwrap();
    let limits = Limits { readers: 1, result_bytes_max: 64 << 20, ..Limits::default() };
    let database = match Database::open(&folder, "shop", Some(migrations), limits).await {
        Ok(database) => database,
        Err(error) => return broken(error.to_string()),
    };
    let read = async |sql: &str| match database.host_query(sql, &[], soon()).await {
        Ok(rows) => Ok(rows.rows),
        Err(error) => Err(Wrong::Broken(error.to_string())),
    };
    let check = read("PRAGMA integrity_check").await?;
    if check != [[Value::Text("ok".to_owned())]] {
        return broken(format!("{check:?}"));
    }
    let mut expected = (0, 0);
    let mut with_parts = Vec::new();
    let entries = read("SELECT number, kind, parts FROM entries ORDER BY number").await?;
    for (at, entry) in (1..).zip(&entries) {
        let [Value::Integer(number), Value::Text(kind), Value::Integer(parts)] = entry.as_slice() else {
            return broken(format!("{entry:?}"));
        };
        if *number != at {
            return broken(format!("{at} is missing before {number}"));
        }
        if kind == "many" {
            expected = (expected.0 + 1, expected.1 + parts);
            with_parts.push((*number, *parts));
        }
    }
    let totals = read("SELECT entries, parts FROM totals").await?;
    if totals != [[Value::Integer(expected.0), Value::Integer(expected.1)]] {
        return broken(format!("{totals:?} instead of {expected:?}"));
    }
    let last = with_parts.last().map_or(0, |(number, _)| *number);
    let expected: Vec<_> = with_parts
        .iter()
        .filter(|(number, _)| *number >= last - KEPT)
        .flat_map(|(number, parts)| (0..*parts).map(|part| (*number, part)))
        .map(|(number, part)| {
            vec![Value::Integer(number), Value::Integer(part), Value::Blob(body(number, part))]
        })
        .collect();
    if read("SELECT number, part, body FROM parts ORDER BY number, part").await? != expected {
        return broken(format!("the parts are not those of {} entries", entries.len()));
    }
    // It works on, too.
    let given = [Value::Text("single".to_owned()), Value::Integer(0)];
    if let Err(error) = database.query(ENTRY, &given, soon()).await {
        return broken(error.to_string());
    }
    if (entries.len() as i64) < promised {
        return Err(Wrong::Lost(format!("{} entries are left of {promised}", entries.len())));
    }
    Ok(())
}

/// Loses the power once, by chance. Gives what is wrong and the files that the power left.
async fn lose_power(events: &[Event], seed: u64, migrations: &Path) -> Result<(), (Wrong, TempDir)> {
    let mut random = Random(seed);
    let start = events.iter().position(|event| matches!(event, Event::Start)).unwrap();
    let mut cut = start + 1 + random.below(events.len() - start);
    if random.below(2) == 0 {
        // Just after an acknowledgement there is most to lose.
        let told = |event: &Event| matches!(event, Event::Acknowledged(_) | Event::Seen(_));
        cut = (cut..events.len()).find(|at| told(&events[at - 1])).unwrap_or(cut);
    }
    let promised = events[..cut]
        .iter()
        .filter_map(|event| match event {
            Event::Acknowledged(number) | Event::Seen(number) => Some(*number),
            _ => None,
        })
        .max()
        .unwrap_or(0);
    let disk = after_power_loss(events, cut, &mut random);
    // In memory where that can be: nothing here needs a disk.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let folder = place.path().join("data");
    drop(DataFolder::open(&folder).unwrap());
    std::fs::write(folder.join("shop.sqlite"), &disk.database).unwrap();
    std::fs::write(folder.join("shop.sqlite-wal"), &disk.log).unwrap();
    let found = look(&folder, migrations, promised).await;
    let Err(wrong) = found else { return Ok(()) };
    // What the look has changed is put back.
    std::fs::write(folder.join("shop.sqlite"), &disk.database).unwrap();
    std::fs::write(folder.join("shop.sqlite-wal"), &disk.log).unwrap();
    Err((wrong, place))
}

fn number_from(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn count(events: &[Event], what: impl Fn(&Event) -> bool) -> usize {
    let start = events.iter().position(|event| matches!(event, Event::Start)).unwrap();
    events[start..].iter().filter(|event| what(event)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn acknowledged_commits_survive_power_loss() {
    const WORKLOADS: u64 = 5;
    let trials = number_from("POWER_TRIALS", 1000);
    let seed = number_from("POWER_SEED", 1);
    let migrations = migrations();
    for workload in 0..WORKLOADS {
        let events = record(seed + workload, Durability::Full, true).await;
        // What is to be survived did happen.
        let restarts =
            count(&events, |event| matches!(event, Event::Write { which: Which::Log, offset: 0, .. }));
        let copied = count(&events, |event| matches!(event, Event::Write { which: Which::Database, .. }));
        let cuts = count(&events, |event| matches!(event, Event::Truncate { which: Which::Log, .. }));
        let acknowledged = count(&events, |event| matches!(event, Event::Acknowledged(_)));
        assert!(restarts > 2 && copied > 20 && cuts > 2 && acknowledged > 100);
        for trial in 0..trials / WORKLOADS {
            let seed = (seed + workload) * 1_000_000 + trial;
            if let Err((wrong, place)) = lose_power(&events, seed, migrations.path()).await {
                let events = events.len();
                panic!("trial {seed} of {events} events: {wrong:?}; see {}", place.keep().display());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn power_loss_shows_what_was_acknowledged_too_soon() {
    let migrations = migrations();
    for (durability, honest) in [(Durability::Process, true), (Durability::Full, false)] {
        let events = record(77, durability, honest).await;
        let mut lost = 0;
        for seed in 0..60 {
            match lose_power(&events, seed, migrations.path()).await {
                Ok(()) => {}
                Err((Wrong::Lost(_), _)) => lost += 1,
                Err((broken, _)) => panic!("{durability:?} {seed}: {broken:?}"),
            }
        }
        assert!(lost > 5, "{durability:?}: {lost}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn power_loss_shows_a_disk_that_does_not_sync() {
    let migrations = migrations();
    let mut events = record(78, Durability::Full, true).await;
    events.retain(|event| !matches!(event, Event::Synced { .. }));
    let mut broken = 0;
    for seed in 0..60 {
        if let Err((Wrong::Broken(_), _)) = lose_power(&events, seed, migrations.path()).await {
            broken += 1;
        }
    }
    assert!(broken > 5, "{broken}");
}
