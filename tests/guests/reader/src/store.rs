//! The reader's tables: `notes` of its handlers, `runs` of its tasks, and what fills the database up.
//!
//! What takes a transaction or none runs in it, or as a statement of its own.

use crate::bindings::cleave::call::types::Failure;
use crate::bindings::cleave::sql::database::{self, Error, Transaction, Value};
use crate::bindings::exports::test::letters::notes::Note;
use crate::steps::Handling;

/// The size of what `fill` writes at a time.
const BLOB_BYTES: usize = 16 * 1024;

pub(crate) fn write_note(transaction: Option<&Transaction>, handling: &Handling) -> Result<u64, Error> {
    let insert = "INSERT INTO notes (number, key, body, event, attempt, published_at, seen) \
                  VALUES ((SELECT coalesce(max(number), 0) + 1 FROM notes), $1, $2, $3, $4, $5, $6)";
    let values = [
        Value::Text(handling.key.clone()),
        Value::Text(handling.body.clone()),
        Value::Text(handling.delivery.event_id.clone()),
        Value::Integer(i64::from(handling.delivery.attempt)),
        Value::Integer(i64::try_from(handling.delivery.published_at).unwrap_or(i64::MAX)),
        Value::Text(handling.seen()),
    ];
    execute(transaction, insert, &values)
}

/// Breaks a unique constraint.
pub(crate) fn clash(transaction: Option<&Transaction>) -> Result<u64, Error> {
    execute(transaction, "INSERT INTO taken (id) VALUES ('taken')", &[])
}

/// The number of notes with this key.
pub(crate) fn count_notes(transaction: Option<&Transaction>, key: &str) -> Result<i64, Error> {
    let statement = "SELECT count(*) FROM notes WHERE key = $1";
    let values = [Value::Text(key.to_owned())];
    let found = match transaction {
        Some(transaction) => transaction.query(statement, &values),
        None => database::query(statement, &values),
    }?;
    Ok(found.rows.into_iter().flatten().next().map_or(0, integer))
}

pub(crate) fn notes() -> Result<Vec<Note>, Failure> {
    let statement = "SELECT key, body, event, attempt, published_at, seen FROM notes ORDER BY number";
    let note = |row: Vec<Value>| {
        let mut row = row.into_iter();
        Some(Note {
            key: text(row.next()?),
            body: text(row.next()?),
            event: text(row.next()?),
            attempt: u32::try_from(integer(row.next()?)).ok()?,
            published_at: u64::try_from(integer(row.next()?)).ok()?,
            seen: text(row.next()?),
        })
    };
    Ok(query(statement)?.into_iter().filter_map(note).collect())
}

pub(crate) fn write_run(said: &str) -> Result<(), Error> {
    let insert =
        "INSERT INTO runs (number, said) VALUES ((SELECT coalesce(max(number), 0) + 1 FROM runs), $1)";
    database::execute(insert, &[Value::Text(said.to_owned())]).map(|_| ())
}

pub(crate) fn runs() -> Result<Vec<String>, Failure> {
    Ok(query("SELECT said FROM runs ORDER BY number")?.into_iter().flatten().map(text).collect())
}

/// Writes one blob.
pub(crate) fn fill(number: u32) -> Result<u64, Error> {
    let values = [Value::Integer(i64::from(number)), Value::Blob(vec![1; BLOB_BYTES])];
    database::execute("INSERT INTO filling (number, bytes) VALUES ($1, $2)", &values)
}

/// Whether there is a blob.
pub(crate) fn is_filled() -> bool {
    query("SELECT 1 FROM filling LIMIT 1").is_ok_and(|rows| !rows.is_empty())
}

/// Removes every blob, and gives how many there were.
pub(crate) fn make_room() -> Result<u32, Failure> {
    let removed = database::execute("DELETE FROM filling", &[]).map_err(failure)?;
    Ok(u32::try_from(removed).unwrap_or(u32::MAX))
}

fn execute(transaction: Option<&Transaction>, statement: &str, values: &[Value]) -> Result<u64, Error> {
    match transaction {
        Some(transaction) => transaction.execute(statement, values),
        None => database::execute(statement, values),
    }
}

fn query(statement: &str) -> Result<Vec<Vec<Value>>, Failure> {
    database::query(statement, &[]).map(|found| found.rows).map_err(failure)
}

fn failure(error: Error) -> Failure {
    Failure::Uncertain(format!("{error:?}"))
}

fn text(value: Value) -> String {
    match value {
        Value::Text(text) => text,
        other => format!("{other:?}"),
    }
}

fn integer(value: Value) -> i64 {
    match value {
        Value::Integer(value) => value,
        _ => 0,
    }
}
