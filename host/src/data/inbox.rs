//! Owns the inbox: events that a module has got and is to handle, and the memory of those it has handled.
//!
//! The inbox decides what is handled when: attempts, order, waits and dead letters are here, whatever road brought the
//! event. Of the events of one publisher and key that are still to be handled, only the first is ready; when it is done
//! or dead, the next becomes ready. A pair of event and function is stored once, however often it arrives, and is
//! remembered after it was handled (`events.remember`).

use super::outbox::{Event, broken};
use super::{Database, Filter, Kind, SqlError, Transaction, Value};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// What is to become of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// An earlier event of its key is to be handled first.
    Waiting,
    /// It is to be handled, at once or when it is due.
    Ready,
    /// It was handled.
    Done,
    /// It is kept for the operator and not tried again.
    Dead,
}

impl State {
    const ALL: [Self; 4] = [Self::Waiting, Self::Ready, Self::Done, Self::Dead];

    fn number(self) -> Value {
        Value::Integer(match self {
            Self::Waiting => 0,
            Self::Ready => 1,
            Self::Done => 2,
            Self::Dead => 3,
        })
    }

    fn of(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.number() == Value::Integer(number))
    }
}

/// An event in the inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The row.
    pub position: i64,
    pub event: Event,
    pub publisher: String,
    pub state: State,
    /// When it is to be tried next, in milliseconds since 1970.
    pub due_at: i64,
    /// Attempts that ran and failed.
    pub attempts: u32,
    /// Those of them that trapped or ran out of time.
    pub failures: u32,
    /// When the first of them was, in milliseconds since 1970.
    pub first_attempt_at: Option<i64>,
    /// When it was done or dead, in milliseconds since 1970.
    pub ended_at: Option<i64>,
    /// Why the last of them failed.
    pub error: Option<String>,
}

/// Stores what has arrived from a publisher and is not here yet.
///
/// # Errors
/// [`SqlError`], as any statement of the transaction.
pub async fn receive(
    transaction: &mut Transaction,
    publisher: &str,
    events: impl Iterator<Item = &Event>,
    now: i64,
) -> Result<u64, SqlError> {
    hold(transaction).await?;
    let rows: Vec<_> = events
        .map(|event| {
            vec![
                Value::Text(event.id.clone()),
                Value::Text(event.function.clone()),
                Value::Text(publisher.to_owned()),
                Value::Text(event.key.clone()),
                Value::Text(event.payload.clone()),
                Value::Integer(event.published_at),
                Value::Text(event.trace.clone()),
                Value::Integer(now),
            ]
        })
        .collect();
    transaction
        .host_execute_many(
            "INSERT INTO cleave_inbox \
               (event, function, publisher, event_key, payload, published_at, trace, due_at, state) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, \
               (SELECT CASE WHEN EXISTS (SELECT 1 FROM cleave_inbox \
                  WHERE publisher = $3 AND event_key = $4 AND state <= 1) THEN 0 ELSE 1 END)) \
             ON CONFLICT (event, function) DO NOTHING",
            &rows,
        )
        .await
}

/// The number of this inbox among the advisory locks of PostgreSQL.
const LOCK: &str = "CAST(CAST('cleave_inbox' AS regclass) AS oid)::bigint";

/// Lets nobody else store events here, or find the next of a key, until the transaction ends: what is found then stays
/// true. On SQLite nobody else writes anyway.
async fn hold(transaction: &mut Transaction) -> Result<(), SqlError> {
    if !transaction.is_alone() {
        let lock = format!("SELECT CAST(pg_advisory_xact_lock({LOCK}) AS TEXT)");
        transaction.host_query(&lock, &[]).await?;
    }
    Ok(())
}

const COLUMNS: &str = "position, event, function, event_key, payload, published_at, trace, publisher, state, due_at, \
                       attempts, failures, first_attempt_at, ended_at, error";

/// How far the clock may go between two looks at it without it being taken for one that was put back.
const CLOCK_MARGIN: i64 = 60_000;

/// What a look finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Where the events are that are to be handled now, those due first at the front.
    pub positions: Vec<i64>,
    /// When the next one is due, in milliseconds since 1970: at once, if there may be more now. None if nothing waits.
    pub next_at: Option<i64>,
}

/// The events that are to be handled now; at most `limit`.
///
/// An event that is due later than the longest wait from now on was given its time by a clock that has since been put
/// back; it is due at once.
///
/// # Errors
/// [`SqlError`].
pub async fn due(
    database: &Database,
    now: i64,
    longest_wait: i64,
    limit: usize,
    deadline: Instant,
) -> Result<Due, SqlError> {
    let far = now.saturating_add(longest_wait).saturating_add(CLOCK_MARGIN);
    let first = |condition| {
        format!(
            "SELECT position, due_at FROM (SELECT position, due_at FROM cleave_inbox \
             WHERE state = 1{condition} ORDER BY due_at, position LIMIT $2) e"
        )
    };
    let statement = format!("{} UNION {} ORDER BY due_at, position", first(""), first(" AND due_at > $1"));
    let most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let rows =
        database.host_query(&statement, &[Value::Integer(far), Value::Integer(most)], deadline).await?.rows;
    let mut due = Due { positions: Vec::new(), next_at: None };
    for row in rows {
        let Ok([Value::Integer(position), Value::Integer(due_at)]) = <[Value; 2]>::try_from(row) else {
            return Err(broken());
        };
        if due_at > now && due_at <= far {
            due.next_at.get_or_insert(due_at);
        } else if due.positions.len() < limit {
            due.positions.push(position);
        } else {
            due.next_at = Some(now);
        }
    }
    Ok(due)
}

/// The event at a position, if it is still to be handled now.
///
/// # Errors
/// [`SqlError`].
pub async fn ready(
    database: &Database,
    position: i64,
    now: i64,
    longest_wait: i64,
    deadline: Instant,
) -> Result<Option<Received>, SqlError> {
    let statement = format!("SELECT {COLUMNS} FROM cleave_inbox WHERE position = $1 AND state = 1");
    let rows = database.host_query(&statement, &[Value::Integer(position)], deadline).await?;
    let far = now.saturating_add(longest_wait).saturating_add(CLOCK_MARGIN);
    Ok(read(rows.rows)?.pop().filter(|received| received.due_at <= now || received.due_at > far))
}

/// Moves the times of what is to be handled, after the clock has jumped by this much: what an event has waited for or
/// been tried for counts by time that has passed. A jump forward ends waits early, one back makes none longer.
///
/// # Errors
/// [`SqlError`], as any statement of the transaction.
pub async fn jumped(transaction: &mut Transaction, jump: i64) -> Result<(), SqlError> {
    transaction
        .host_execute(
            "UPDATE cleave_inbox SET first_attempt_at = first_attempt_at + $1, \
               due_at = CASE WHEN $1 < 0 THEN due_at + $1 ELSE due_at END \
             WHERE state = 1",
            &[Value::Integer(jump)],
        )
        .await
        .map(drop)
}

/// How an event came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Done,
    /// It is a dead letter, after so many attempts and failures, for this reason.
    Dead {
        attempts: u32,
        failures: u32,
        error: String,
    },
}

/// Marks an event as ended. What else the transaction holds, the handler's own statements, stands or falls with it.
/// [`advance`] follows the commit.
///
/// Gives `None` if the event was not ready any more: someone else has handled it, and this transaction must not be
/// committed. Else whether another event of the key became ready with it.
///
/// # Errors
/// [`SqlError`], as any statement of the transaction.
pub async fn end(
    transaction: &mut Transaction,
    received: &Received,
    now: i64,
    end: &End,
) -> Result<Option<bool>, SqlError> {
    let (state, attempts, failures, error) = match end {
        End::Done => (State::Done, received.attempts, received.failures, Value::Null),
        End::Dead { attempts, failures, error } => (State::Dead, *attempts, *failures, text(error)),
    };
    let ended = transaction
        .host_execute(
            "UPDATE cleave_inbox SET state = $2, attempts = $3, failures = $4, error = $5, ended_at = $6, \
             payload = CASE WHEN $2 = 2 THEN '' ELSE payload END, trace = CASE WHEN $2 = 2 THEN '' ELSE trace END \
             WHERE position = $1 AND state = 1",
            &[
                Value::Integer(received.position),
                state.number(),
                Value::Integer(attempts.into()),
                Value::Integer(failures.into()),
                error,
                Value::Integer(now),
            ],
        )
        .await?;
    if ended != 1 {
        return Ok(None);
    }
    if !transaction.is_alone() {
        return Ok(Some(false));
    }
    next(transaction, received, now).await.map(Some)
}

/// Lets the next event of the key be handled, once an event has ended for good. Gives whether there is one.
///
/// Where others write at the same time this is not part of the transaction that ended the event: that one sees what was
/// there when it began, and an event of the key may have come since. Should the process end in between, or an event come
/// at the very moment of this look, [`revive`] does it.
///
/// # Errors
/// [`SqlError`].
pub async fn advance(
    database: &Database,
    received: &Received,
    became_ready: bool,
    deadline: Instant,
) -> Result<bool, SqlError> {
    if !database.is_shared() {
        return Ok(became_ready);
    }
    // Mostly there is none, and a look costs less than a transaction. Who is storing events now may store one of the key.
    let look = format!(
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM cleave_inbox WHERE publisher = $1 AND event_key = $2 AND state = 0) \
         OR NOT pg_try_advisory_xact_lock({LOCK})"
    );
    let key = [Value::Text(received.publisher.clone()), Value::Text(received.event.key.clone())];
    if database.host_query(&look, &key, deadline).await?.rows.is_empty() {
        return Ok(false);
    }
    let mut transaction = database.begin_host(deadline).await?;
    hold(&mut transaction).await?;
    let is_next = next(&mut transaction, received, database.now()).await?;
    transaction.commit_unsynced().await?;
    Ok(is_next)
}

async fn next(transaction: &mut Transaction, received: &Received, now: i64) -> Result<bool, SqlError> {
    let next = transaction
        .host_execute(
            "UPDATE cleave_inbox SET state = 1, due_at = $3 WHERE state = 0 AND position = \
             (SELECT min(position) FROM cleave_inbox WHERE publisher = $1 AND event_key = $2 AND state <= 1)",
            &[
                Value::Text(received.publisher.clone()),
                Value::Text(received.event.key.clone()),
                Value::Integer(now),
            ],
        )
        .await?;
    Ok(next > 0)
}

/// Which events wait although they are the first of their key and none of it is ready.
const FORGOTTEN: &str = "state = 0 AND NOT EXISTS (SELECT 1 FROM cleave_inbox e WHERE e.publisher = cleave_inbox.publisher \
     AND e.event_key = cleave_inbox.event_key \
     AND (e.state = 1 OR e.state = 0 AND e.position < cleave_inbox.position))";

/// Lets those events be handled that wait for one that has ended: whoever ended it did not come to [`advance`]. Gives
/// whether there were any.
///
/// # Errors
/// [`SqlError`].
pub async fn revive(database: &Database, deadline: Instant) -> Result<bool, SqlError> {
    if !database.is_shared() {
        return Ok(false);
    }
    let look = format!("SELECT 1 FROM cleave_inbox WHERE {FORGOTTEN} LIMIT 1");
    if database.host_query(&look, &[], deadline).await?.rows.is_empty() {
        return Ok(false);
    }
    let mut transaction = database.begin_host(deadline).await?;
    hold(&mut transaction).await?;
    let revive = format!("UPDATE cleave_inbox SET state = 1, due_at = $1 WHERE {FORGOTTEN}");
    let revived = transaction.host_execute(&revive, &[Value::Integer(database.now())]).await?;
    transaction.commit_unsynced().await?;
    Ok(revived > 0)
}

/// Notes an attempt that failed, and when the next one is due.
///
/// # Errors
/// [`SqlError`], as any statement of the transaction.
pub async fn postpone(
    transaction: &mut Transaction,
    received: &Received,
    attempts: u32,
    failures: u32,
    first_attempt_at: i64,
    due_at: i64,
    error: &str,
) -> Result<(), SqlError> {
    transaction
        .host_execute(
            "UPDATE cleave_inbox SET attempts = $2, failures = $3, first_attempt_at = $4, due_at = $5, error = $6 \
             WHERE position = $1 AND state = 1",
            &[
                Value::Integer(received.position),
                Value::Integer(attempts.into()),
                Value::Integer(failures.into()),
                Value::Integer(first_attempt_at),
                Value::Integer(due_at),
                text(error),
            ],
        )
        .await
        .map(drop)
}

/// Forgets events that were handled before this time; at most a thousand, and gives how many.
///
/// # Errors
/// [`SqlError`], as any statement of the transaction.
pub async fn forget(transaction: &mut Transaction, before: i64) -> Result<u64, SqlError> {
    transaction
        .host_execute(
            "DELETE FROM cleave_inbox WHERE position IN (SELECT position FROM cleave_inbox \
             WHERE state = 2 AND ended_at < $1 ORDER BY ended_at LIMIT 1000)",
            &[Value::Integer(before)],
        )
        .await
}

/// Takes a dead letter up again, as if it had just arrived. Gives whether there was one.
///
/// # Errors
/// [`SqlError`], as any statement of the transaction.
pub async fn replay(
    transaction: &mut Transaction,
    event: &str,
    function: &str,
    now: i64,
) -> Result<bool, SqlError> {
    hold(transaction).await?;
    let replayed = transaction
        .host_execute(
            "UPDATE cleave_inbox SET attempts = 0, failures = 0, first_attempt_at = NULL, ended_at = NULL, \
               error = NULL, due_at = $3, state = CASE WHEN EXISTS (SELECT 1 FROM cleave_inbox o \
                 WHERE o.publisher = cleave_inbox.publisher AND o.event_key = cleave_inbox.event_key \
                   AND o.state <= 1) THEN 0 ELSE 1 END \
             WHERE event = $1 AND function = $2 AND state = 3",
            &[Value::Text(event.to_owned()), Value::Text(function.to_owned()), Value::Integer(now)],
        )
        .await?;
    Ok(replayed > 0)
}

/// Drops a dead letter. It stays remembered as handled, so that it does not come back. Gives whether there was one.
///
/// # Errors
/// [`SqlError`], as any statement of the transaction.
pub async fn drop_dead(
    transaction: &mut Transaction,
    event: &str,
    function: &str,
    now: i64,
) -> Result<bool, SqlError> {
    let dropped = transaction
        .host_execute(
            "UPDATE cleave_inbox SET state = 2, payload = '', ended_at = $3 \
             WHERE event = $1 AND function = $2 AND state = 3",
            &[Value::Text(event.to_owned()), Value::Text(function.to_owned()), Value::Integer(now)],
        )
        .await?;
    Ok(dropped > 0)
}

/// The events that are asked for, in the order they came; at most `limit`.
///
/// # Errors
/// [`SqlError`]; `TooLarge` if there are more bytes or rows than one result may hold.
pub async fn list(
    database: &Database,
    filter: Filter<'_>,
    limit: usize,
    deadline: Instant,
) -> Result<Vec<Received>, SqlError> {
    // Why `+position`: in the order of the rows, a database would look through all that were handled.
    let (state, position) = match filter.kind {
        Kind::Open => ("state <= 1", "+position"),
        Kind::Dead => ("state = 3", "position"),
        Kind::Any => ("state <= 3", "+position"),
    };
    let columns = if filter.payloads { COLUMNS.to_owned() } else { COLUMNS.replace("payload", "''") };
    let mut statement = format!("SELECT {columns} FROM cleave_inbox WHERE {state} AND {position} > $1");
    let mut values =
        vec![Value::Integer(filter.after), Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX))];
    if let Some([first, end]) = filter.identities() {
        statement += " AND event >= $3 AND event < $4";
        values.extend([first, end].map(Value::Text));
    }
    statement += &format!(" ORDER BY {position} LIMIT $2");
    read(database.host_query(&statement, &values, deadline).await?.rows)
}

/// Whether anything is to be handled.
///
/// # Errors
/// [`SqlError`].
pub async fn is_open(database: &Database, deadline: Instant) -> Result<bool, SqlError> {
    let statement = "SELECT 1 FROM cleave_inbox WHERE state <= 1 LIMIT 1";
    Ok(!database.host_query(statement, &[], deadline).await?.rows.is_empty())
}

fn read(rows: Vec<Vec<Value>>) -> Result<Vec<Received>, SqlError> {
    rows.into_iter().map(|row| received(row).ok_or_else(broken)).collect()
}

fn received(row: Vec<Value>) -> Option<Received> {
    let [
        Value::Integer(position),
        Value::Text(id),
        Value::Text(function),
        Value::Text(key),
        Value::Text(payload),
        Value::Integer(published_at),
        Value::Text(trace),
        Value::Text(publisher),
        Value::Integer(state),
        Value::Integer(due_at),
        Value::Integer(attempts),
        Value::Integer(failures),
        first_attempt_at,
        ended_at,
        error,
    ] = <[Value; 15]>::try_from(row).ok()?
    else {
        return None;
    };
    Some(Received {
        position,
        event: Event { id, function, key, payload, published_at, trace },
        publisher,
        state: State::of(state)?,
        due_at,
        attempts: u32::try_from(attempts).ok()?,
        failures: u32::try_from(failures).ok()?,
        first_attempt_at: time(&first_attempt_at),
        ended_at: time(&ended_at),
        error: match error {
            Value::Text(error) => Some(error),
            _ => None,
        },
    })
}

/// A time, if there is one.
fn time(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(at) => Some(*at),
        _ => None,
    }
}

/// A text of whoever failed, as a database can keep it.
fn text(text: &str) -> Value {
    const BYTES_MAX: usize = 4096;
    let mut end = text.len().min(BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Value::Text(text.get(..end).unwrap_or_default().replace('\0', "\u{fffd}"))
}
