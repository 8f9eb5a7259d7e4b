//! Owns the outbox: events of a module that were published and are not yet with every subscriber.
//!
//! An event enters in the transaction that publishes it. Each subscriber takes its events in the order they were
//! published, whatever the others do; the event leaves with the last of them.

use super::{Database, SqlError, Transaction, Value};
use std::time::Instant;

/// Events that one statement takes out.
const PART: usize = 500;

/// An event as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its identity, a UUID.
    pub id: String,
    /// Its name: the contract's track and the function, `shop:orders/events@0.1.order-placed`.
    pub function: String,
    /// Its key, or the digest of a key that is long.
    pub key: String,
    /// The parameters as a JSON object.
    pub payload: String,
    /// Milliseconds since 1970.
    pub published_at: i64,
    /// The trace it belongs to, in hexadecimal.
    pub trace: String,
}

/// Puts an event in, for these subscribers.
///
/// # Errors
/// [`SqlError`], as any statement of the transaction.
pub async fn put(
    transaction: &mut Transaction,
    event: &Event,
    subscribers: impl Iterator<Item = &str>,
) -> Result<(), SqlError> {
    let rows = transaction
        .host_query(
            "INSERT INTO cleave_outbox (event, function, event_key, payload, published_at, trace) \
             VALUES ($1, $2, $3, $4, $5, $6) RETURNING position",
            &[
                Value::Text(event.id.clone()),
                Value::Text(event.function.clone()),
                Value::Text(event.key.clone()),
                Value::Text(event.payload.clone()),
                Value::Integer(event.published_at),
                Value::Text(event.trace.clone()),
            ],
        )
        .await?;
    let position = rows.rows.into_iter().flatten().next().unwrap_or(Value::Null);
    let to: Vec<_> = subscribers.map(|name| vec![position.clone(), Value::Text(name.to_owned())]).collect();
    let statement = "INSERT INTO cleave_outbox_to (position, subscriber) VALUES ($1, $2)";
    transaction.host_execute_many(statement, &to).await.map(drop)
}

/// The first events that a subscriber has not got, with their positions; at most `limit`.
///
/// # Errors
/// [`SqlError`]; `TooLarge` if there are more bytes than one result may hold.
pub async fn waiting(
    database: &Database,
    subscriber: &str,
    limit: usize,
    deadline: Instant,
) -> Result<Vec<(i64, Event)>, SqlError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = database
        .host_query(
            "SELECT o.position, o.event, o.function, o.event_key, o.payload, o.published_at, o.trace \
             FROM cleave_outbox_to t JOIN cleave_outbox o ON o.position = t.position \
             WHERE t.subscriber = $1 ORDER BY t.position LIMIT $2",
            &[Value::Text(subscriber.to_owned()), Value::Integer(limit)],
            deadline,
        )
        .await?;
    rows.rows.into_iter().map(|row| event(row).ok_or_else(broken)).collect()
}

/// Takes out what a subscriber has got. An event that no other waits for is gone.
///
/// # Errors
/// [`SqlError`], as any statement of the transaction.
pub async fn remove(
    transaction: &mut Transaction,
    subscriber: &str,
    positions: impl Iterator<Item = i64>,
) -> Result<(), SqlError> {
    if !transaction.is_alone() {
        let positions: Vec<_> = positions.collect();
        for part in positions.chunks(PART) {
            remove_together(transaction, subscriber, part).await?;
        }
        return Ok(());
    }
    let rows: Vec<_> =
        positions.map(|at| vec![Value::Integer(at), Value::Text(subscriber.to_owned())]).collect();
    transaction
        .host_execute_many("DELETE FROM cleave_outbox_to WHERE position = $1 AND subscriber = $2", &rows)
        .await?;
    let events: Vec<_> = rows.into_iter().map(|mut row| row.drain(..1).collect()).collect();
    transaction
        .host_execute_many(
            "DELETE FROM cleave_outbox WHERE position = $1 \
             AND NOT EXISTS (SELECT 1 FROM cleave_outbox_to t WHERE t.position = $1)",
            &events,
        )
        .await
        .map(drop)
}

/// Takes out what a subscriber has got, all at once, where others take out the same events for theirs.
///
/// Why locked first: each would still see the other's row, uncommitted, and leave the event to the other.
async fn remove_together(
    transaction: &mut Transaction,
    subscriber: &str,
    positions: &[i64],
) -> Result<(), SqlError> {
    let these = "(SELECT CAST(n AS BIGINT) FROM unnest(string_to_array($1, ',')) n)";
    let list: Vec<_> = positions.iter().map(ToString::to_string).collect();
    let (list, subscriber) = (Value::Text(list.join(",")), Value::Text(subscriber.to_owned()));
    let lock =
        format!("SELECT position FROM cleave_outbox WHERE position IN {these} ORDER BY position FOR UPDATE");
    transaction.host_query(&lock, std::slice::from_ref(&list)).await?;
    let got = format!("DELETE FROM cleave_outbox_to WHERE position IN {these} AND subscriber = $2");
    transaction.host_execute(&got, &[list.clone(), subscriber]).await?;
    let gone = format!(
        "DELETE FROM cleave_outbox WHERE position IN {these} \
         AND NOT EXISTS (SELECT 1 FROM cleave_outbox_to t WHERE t.position = cleave_outbox.position)"
    );
    transaction.host_execute(&gone, &[list]).await.map(drop)
}

/// Takes out some of what waits for a subscriber, who never will take it; gives how many, at most `limit`.
///
/// # Errors
/// [`SqlError`], as any statement of the transaction.
pub async fn drop_for(
    transaction: &mut Transaction,
    subscriber: &str,
    limit: i64,
) -> Result<usize, SqlError> {
    let statement = "SELECT position FROM cleave_outbox_to WHERE subscriber = $1 ORDER BY position LIMIT $2";
    let parameters = [Value::Text(subscriber.to_owned()), Value::Integer(limit)];
    let rows = transaction.host_query(statement, &parameters).await?.rows;
    let position = |value| if let Value::Integer(position) = value { Ok(position) } else { Err(broken()) };
    let positions: Vec<_> = rows.into_iter().flatten().map(position).collect::<Result<_, _>>()?;
    remove(transaction, subscriber, positions.iter().copied()).await?;
    Ok(positions.len())
}

/// Those for whom events wait.
///
/// # Errors
/// [`SqlError`].
pub async fn subscribers(database: &Database, deadline: Instant) -> Result<Vec<String>, SqlError> {
    let statement = "SELECT DISTINCT subscriber FROM cleave_outbox_to ORDER BY subscriber";
    let rows = database.host_query(statement, &[], deadline).await?;
    let name = |value| if let Value::Text(name) = value { Ok(name) } else { Err(broken()) };
    rows.rows.into_iter().flatten().map(name).collect()
}

pub(super) fn event(row: Vec<Value>) -> Option<(i64, Event)> {
    let [
        Value::Integer(position),
        Value::Text(id),
        Value::Text(function),
        Value::Text(key),
        Value::Text(payload),
        Value::Integer(published_at),
        Value::Text(trace),
    ] = <[Value; 7]>::try_from(row).ok()?
    else {
        return None;
    };
    Some((position, Event { id, function, key, payload, published_at, trace }))
}

/// A row that the host did not write.
pub(super) fn broken() -> SqlError {
    SqlError::Unavailable("a row of the host's own tables is not of the kind it should be".to_owned())
}
