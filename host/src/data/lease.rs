//! Owns leases: one holder at a time for what must not be done twice at once, timed by the database's clock.
//!
//! A lease has a fence, a number that grows whenever the lease changes hands. Who holds a lease may be stopped for
//! longer than it lasts, so holding one is never proof: what must not happen twice checks the fence in the transaction
//! that does it. A lease that lasts longer than anyone may take it for was given by a clock that has been put back; it
//! can be taken.

use super::outbox::broken;
use super::{Database, Rows, SqlError, Transaction, Value};
use crate::clock::milliseconds;
use std::time::{Duration, Instant};

/// Takes a lease, or keeps one that is held, for `length` from now on. Gives its fence, or `None` if another holds it.
///
/// # Errors
/// [`SqlError`].
pub async fn take(
    database: &Database,
    name: &str,
    holder: &str,
    length: Duration,
    deadline: Instant,
) -> Result<Option<i64>, SqlError> {
    let mut transaction = database.begin_host(deadline).await?;
    lock(&mut transaction, name).await?;
    let now = transaction.now().await?;
    let rows = transaction
        .host_query(
            "UPDATE cleave_leases SET \
               fence = CASE WHEN holder = $2 AND expires_at > $3 THEN fence ELSE fence + 1 END, \
               holder = $2, expires_at = $4 \
             WHERE name = $1 AND (holder = $2 OR expires_at <= $3 OR expires_at > $4) \
             RETURNING fence",
            &[
                Value::Text(name.to_owned()),
                Value::Text(holder.to_owned()),
                Value::Integer(now),
                Value::Integer(now.saturating_add(milliseconds(length))),
            ],
        )
        .await?;
    transaction.commit_unsynced().await?;
    first(rows)
}

/// Makes a lease that is not there, held by nobody, and lets no other process take it until the transaction ends.
///
/// Why before the clock is asked: a lease that another took in between lasts longer by that clock than anyone may take
/// it for, and would be taken from him.
async fn lock(transaction: &mut Transaction, name: &str) -> Result<(), SqlError> {
    let name = [Value::Text(name.to_owned())];
    let make = "INSERT INTO cleave_leases (name, holder, fence, expires_at) VALUES ($1, '', 0, 0) \
                ON CONFLICT (name) DO NOTHING";
    transaction.host_execute(make, &name).await?;
    if !transaction.is_alone() {
        let lock = "SELECT fence FROM cleave_leases WHERE name = $1 FOR UPDATE";
        transaction.host_query(lock, &name).await?;
    }
    Ok(())
}

/// Gives a lease back, if it is still held.
///
/// # Errors
/// [`SqlError`].
pub async fn release(
    database: &Database,
    name: &str,
    holder: &str,
    deadline: Instant,
) -> Result<(), SqlError> {
    let mut transaction = database.begin_host(deadline).await?;
    let parameters = [Value::Text(name.to_owned()), Value::Text(holder.to_owned())];
    let statement = "UPDATE cleave_leases SET expires_at = 0 WHERE name = $1 AND holder = $2";
    transaction.host_execute(statement, &parameters).await?;
    transaction.commit_unsynced().await
}

/// What a clock says of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tick {
    /// It is to run now, with this fence.
    Due(i64),
    /// It runs elsewhere, or is due this many milliseconds from now.
    Wait(i64),
}

/// Takes the tick of a task, if one is due and the task does not run: the task is held for `length`, and the next tick
/// is `every` from now. A run that was cut off, and has left the task held, is due again when that has run out.
///
/// # Errors
/// [`SqlError`].
pub async fn tick(
    database: &Database,
    name: &str,
    holder: &str,
    every: Duration,
    length: Duration,
    deadline: Instant,
) -> Result<Tick, SqlError> {
    let (now, every, length) = (database.now(), milliseconds(every), milliseconds(length));
    if let Some(wait) = not_due(database, name, now, every, length, deadline).await? {
        return Ok(Tick::Wait(wait));
    }
    let mut transaction = database.begin_host(deadline).await?;
    lock(&mut transaction, name).await?;
    let now = transaction.now().await?;
    let name = || Value::Text(name.to_owned());
    let taken = transaction
        .host_query(
            "UPDATE cleave_leases SET holder = $2, fence = fence + 1, expires_at = $4, next_at = $5 \
             WHERE name = $1 AND (next_at <= $3 OR next_at > $5 OR expires_at <> 0) \
               AND (expires_at <= $3 OR expires_at > $4) \
             RETURNING fence",
            &[
                name(),
                Value::Text(holder.to_owned()),
                Value::Integer(now),
                Value::Integer(now.saturating_add(length)),
                Value::Integer(now.saturating_add(every)),
            ],
        )
        .await?;
    if let Some(fence) = first(taken)? {
        transaction.commit_unsynced().await?;
        return Ok(Tick::Due(fence));
    }
    let next = transaction
        .host_query(
            "SELECT CASE WHEN expires_at <> 0 THEN expires_at ELSE next_at END FROM cleave_leases WHERE name = $1",
            &[name()],
        )
        .await?;
    Ok(Tick::Wait(first(next)?.unwrap_or(now).saturating_sub(now)))
}

/// How long a task is not due, as far as can be seen without writing; none if it may be due.
async fn not_due(
    database: &Database,
    name: &str,
    now: i64,
    every: i64,
    length: i64,
    deadline: Instant,
) -> Result<Option<i64>, SqlError> {
    let statement = "SELECT next_at, expires_at FROM cleave_leases WHERE name = $1";
    let rows = database.host_query(statement, &[Value::Text(name.to_owned())], deadline).await?;
    let Some(row) = rows.rows.into_iter().next() else { return Ok(None) };
    let Ok([Value::Integer(next_at), Value::Integer(expires_at)]) = <[Value; 2]>::try_from(row) else {
        return Err(broken());
    };
    let ahead = |at: i64, most: i64| (at > now && at <= now.saturating_add(most)).then_some(at);
    // A run that was cut off leaves the task held, and is due again when that has run out, whatever the next tick.
    let at = if expires_at == 0 { ahead(next_at, every) } else { ahead(expires_at, length) };
    Ok(at.map(|at| at.saturating_sub(now)))
}

/// Gives back the tick of a task whose run did not begin; it is due again after a pause.
///
/// # Errors
/// [`SqlError`].
pub async fn put_back(
    database: &Database,
    name: &str,
    fence: i64,
    pause: Duration,
    deadline: Instant,
) -> Result<(), SqlError> {
    let mut transaction = database.begin_host(deadline).await?;
    let now = transaction.now().await?;
    transaction
        .host_execute(
            "UPDATE cleave_leases SET expires_at = 0, next_at = $3 WHERE name = $1 AND fence = $2",
            &[
                Value::Text(name.to_owned()),
                Value::Integer(fence),
                Value::Integer(now.saturating_add(milliseconds(pause))),
            ],
        )
        .await?;
    transaction.commit_unsynced().await
}

/// Ends the run of a task that began with this fence. Ticks that came during the run are skipped.
///
/// # Errors
/// [`SqlError`].
pub async fn ran(
    database: &Database,
    name: &str,
    fence: i64,
    every: Duration,
    deadline: Instant,
) -> Result<(), SqlError> {
    let mut transaction = database.begin_host(deadline).await?;
    let now = transaction.now().await?;
    transaction
        .host_execute(
            "UPDATE cleave_leases SET expires_at = 0, \
               next_at = CASE WHEN next_at <= $3 THEN next_at + (($3 - next_at) / $4 + 1) * $4 ELSE next_at END \
             WHERE name = $1 AND fence = $2",
            &[
                Value::Text(name.to_owned()),
                Value::Integer(fence),
                Value::Integer(now),
                Value::Integer(milliseconds(every).max(1)),
            ],
        )
        .await?;
    transaction.commit_unsynced().await
}

/// Whether a lease has not changed hands since it was taken with this fence; it does not before the transaction ends.
///
/// # Errors
/// [`SqlError`], as any statement of the transaction.
pub async fn is_held(transaction: &mut Transaction, name: &str, fence: i64) -> Result<bool, SqlError> {
    let parameters = [Value::Text(name.to_owned()), Value::Integer(fence)];
    // Why locked where others may write: until this transaction ends, nobody takes the lease.
    let lock = if transaction.is_alone() { "" } else { " FOR SHARE" };
    let statement = &format!("SELECT fence FROM cleave_leases WHERE name = $1 AND fence = $2{lock}");
    Ok(first(transaction.host_query(statement, &parameters).await?)?.is_some())
}

/// The one number of a result, if it has a row.
fn first(rows: Rows) -> Result<Option<i64>, SqlError> {
    match rows.rows.into_iter().flatten().next() {
        None => Ok(None),
        Some(Value::Integer(number)) => Ok(Some(number)),
        Some(_) => Err(broken()),
    }
}

/// Moves the clock of the server, as far as this process knows it, for tests. A SQLite file has no clock of its own.
#[cfg(test)]
pub(crate) fn move_servers_clock(database: &Database, milliseconds: i64) {
    if let Database::Postgres(postgres) = database {
        postgres.jump(milliseconds);
    }
}
