//! Owns what a module's database knows of the road between nodes: how far it has put its events on it for each
//! subscriber, and how far it has taken what came for itself.
//!
//! Both are written in the commits that they speak of: the one that takes events out of the outbox, and the one that
//! stores them in the inbox. So whoever sees both databases knows whether events are still on the road.

use super::outbox::broken;
use super::{Database, SqlError, Transaction, Value};
use cleave_bus::nats_stream::Place;
use std::time::Instant;

/// One end of the road, as a database keeps it.
#[derive(Debug, Clone, Copy)]
pub enum End<'a> {
    /// What was put on it for a subscriber: the last place, in whichever stream there was then.
    To(&'a str),
    /// What was taken from a stream. Each is kept by itself, because an application may come back to a former one.
    In(i64),
}

impl End<'_> {
    fn name(self) -> Value {
        Value::Text(match self {
            Self::To(subscriber) => format!("to:{subscriber}"),
            Self::In(stream) => format!("in:{stream}"),
        })
    }
}

/// Notes that a place is reached. One that was reached before in the same stream stays. Gives whether it was not reached
/// before; until the transaction ends, nobody else can reach it.
///
/// # Errors
/// [`SqlError`], as any statement of the transaction.
pub async fn reach(transaction: &mut Transaction, end: End<'_>, place: Place) -> Result<bool, SqlError> {
    let statement = "INSERT INTO cleave_roads (road, stream, sequence) VALUES ($1, $2, $3) \
                     ON CONFLICT (road) DO UPDATE SET stream = $2, sequence = $3 \
                     WHERE cleave_roads.stream <> $2 OR cleave_roads.sequence < $3";
    let parameters = [end.name(), Value::Integer(place.stream), Value::Integer(place.sequence)];
    Ok(transaction.host_execute(statement, &parameters).await? > 0)
}

/// Notes that a stream has gone back to an end before the place that was taken from it. Does nothing if another place is
/// noted by now.
///
/// # Errors
/// [`SqlError`], as any statement of the transaction.
pub async fn go_back(transaction: &mut Transaction, taken: Place, end: i64) -> Result<(), SqlError> {
    let statement = "UPDATE cleave_roads SET sequence = $3 WHERE road = $1 AND sequence = $2";
    let parameters = [End::In(taken.stream).name(), Value::Integer(taken.sequence), Value::Integer(end)];
    transaction.host_execute(statement, &parameters).await.map(drop)
}

/// The place that is reached; none if that end was never used.
///
/// # Errors
/// [`SqlError`].
pub async fn reached(
    database: &Database,
    end: End<'_>,
    deadline: Instant,
) -> Result<Option<Place>, SqlError> {
    let statement = "SELECT stream, sequence FROM cleave_roads WHERE road = $1";
    let rows = database.host_query(statement, &[end.name()], deadline).await?.rows;
    let Some(row) = rows.into_iter().next() else { return Ok(None) };
    match <[Value; 2]>::try_from(row) {
        Ok([Value::Integer(stream), Value::Integer(sequence)]) => Ok(Some(Place { stream, sequence })),
        _ => Err(broken()),
    }
}

/// Whether anything was ever taken from the road.
///
/// # Errors
/// [`SqlError`].
pub async fn is_used(database: &Database, deadline: Instant) -> Result<bool, SqlError> {
    let statement = "SELECT 1 FROM cleave_roads WHERE road LIKE 'in:%' LIMIT 1";
    Ok(!database.host_query(statement, &[], deadline).await?.rows.is_empty())
}

/// Whether what was put at a place has arrived, and all before it in its stream.
///
/// # Errors
/// [`SqlError`].
pub async fn has_arrived(to: &Database, put: Place, deadline: Instant) -> Result<bool, SqlError> {
    let taken = reached(to, End::In(put.stream), deadline).await?;
    Ok(taken.is_some_and(|taken| taken.sequence >= put.sequence))
}

/// The place up to which the events of a publisher for a subscriber are still on the road; none if they have arrived.
///
/// # Errors
/// [`SqlError`].
pub async fn under_way(
    from: &Database,
    subscriber: &str,
    to: &Database,
    deadline: Instant,
) -> Result<Option<Place>, SqlError> {
    let Some(put) = reached(from, End::To(subscriber), deadline).await? else { return Ok(None) };
    Ok(if has_arrived(to, put, deadline).await? { None } else { Some(put) })
}
