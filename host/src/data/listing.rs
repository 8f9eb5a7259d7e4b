//! Owns what an operator sees of a module's outbox and inbox.

use super::inbox::{self, Received, State};
use super::outbox::{self, broken};
use super::{Database, SqlError, Value};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Where an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// With its publisher, on its way to the subscribers that have not got it.
    Outbox,
    /// With a subscriber.
    Inbox,
}

/// An event that is on its way or to be handled, or a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    /// Its identity, a UUID.
    pub id: String,
    /// The module in whose database it is.
    pub module: String,
    pub place: Place,
    /// The contract and the function, `shop:orders/events@0.1.order-placed`.
    pub contract_function: String,
    /// What it keeps its order by.
    pub key: String,
    pub state: State,
    /// The module that published it.
    pub publisher: String,
    /// In the outbox: the modules that have not got it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
    /// Attempts to handle it that ran.
    pub attempts: u32,
    /// Why the last of them failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was published, in milliseconds since 1970.
    pub published_at: i64,
    /// When it is tried next, in milliseconds since 1970; 0 if at once.
    pub due_at: i64,
    /// The trace it belongs to, in hexadecimal.
    pub trace: String,
    /// The parameters as a JSON object.
    pub payload: String,
}

/// Which events are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Those that are on their way or to be handled.
    Open,
    Dead,
}

/// The events of a module's database, the outbox first, each in its order; at most `limit` of each.
///
/// # Errors
/// [`SqlError`]; `TooLarge` if there are more bytes than one result may hold.
pub async fn list(
    database: &Database,
    module: &str,
    kind: Kind,
    limit: usize,
    deadline: Instant,
) -> Result<Vec<EventRow>, SqlError> {
    let received = |states| inbox::list(database, states, limit, deadline);
    let (mut rows, received) = match kind {
        Kind::Open => (
            leaving(database, module, limit, deadline).await?,
            received(State::Waiting..=State::Ready).await?,
        ),
        Kind::Dead => (Vec::new(), received(State::Dead..=State::Dead).await?),
    };
    rows.extend(received.into_iter().map(|row| of(module, row)));
    Ok(rows)
}

fn of(module: &str, row: Received) -> EventRow {
    EventRow {
        id: row.event.id,
        module: module.to_owned(),
        place: Place::Inbox,
        contract_function: row.event.function,
        key: row.event.key,
        state: row.state,
        publisher: row.publisher,
        waiting_for: Vec::new(),
        attempts: row.attempts,
        error: row.error,
        published_at: row.event.published_at,
        due_at: row.due_at,
        trace: row.event.trace,
        payload: row.event.payload,
    }
}

async fn leaving(
    database: &Database,
    module: &str,
    limit: usize,
    deadline: Instant,
) -> Result<Vec<EventRow>, SqlError> {
    let rows = database
        .host_query(
            "SELECT o.position, o.event, o.function, o.event_key, o.payload, o.published_at, o.trace, t.subscriber \
             FROM (SELECT * FROM cleave_outbox ORDER BY position LIMIT $1) o \
             JOIN cleave_outbox_to t ON t.position = o.position ORDER BY o.position, t.subscriber",
            &[Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX))],
            deadline,
        )
        .await?;
    let mut listed: Vec<EventRow> = Vec::new();
    for mut row in rows.rows {
        let Some(Value::Text(subscriber)) = row.pop() else { return Err(broken()) };
        let (_, event) = outbox::event(row).ok_or_else(broken)?;
        match listed.last_mut() {
            Some(last) if last.id == event.id => last.waiting_for.push(subscriber),
            _ => listed.push(EventRow {
                id: event.id,
                module: module.to_owned(),
                place: Place::Outbox,
                contract_function: event.function,
                key: event.key,
                state: State::Waiting,
                publisher: module.to_owned(),
                waiting_for: vec![subscriber],
                attempts: 0,
                error: None,
                published_at: event.published_at,
                due_at: 0,
                trace: event.trace,
                payload: event.payload,
            }),
        }
    }
    Ok(listed)
}
