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

/// An event in one place: on its way, to be handled, handled, or a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    /// The row it is, which means something to its database alone.
    #[serde(skip)]
    pub position: i64,
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
    /// Attempts to handle it that ran and failed.
    pub attempts: u32,
    /// Those of them that trapped or ran out of time.
    pub failures: u32,
    /// Why the last of them failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was published, in milliseconds since 1970, as every time here.
    pub published_at: i64,
    /// When the first attempt was that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_attempt_at: Option<i64>,
    /// When it is to be tried next; at once if that has passed.
    pub due_at: i64,
    /// When it was handled, dropped or a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<i64>,
    /// The trace it belongs to, in hexadecimal.
    pub trace: String,
    /// The parameters as a JSON object; empty if they were not asked for, or are not kept any more.
    #[serde(default, skip_serializing_if = "String::is_empty", with = "json_text")]
    pub payload: String,
}

/// Which events are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Those that are on their way or to be handled.
    Open,
    Dead,
    /// All that are remembered.
    Any,
}

/// Which events are asked for, and how much of them.
#[derive(Debug, Clone, Copy)]
pub struct Filter<'a> {
    pub kind: Kind,
    /// What their identities begin with.
    pub begins: &'a str,
    /// The position that they come after, in outbox and inbox each.
    pub after: i64,
    /// Whether their payloads are wanted.
    pub payloads: bool,
}

impl From<Kind> for Filter<'_> {
    /// All of this kind, with their payloads.
    fn from(kind: Kind) -> Self {
        Self { kind, begins: "", after: 0, payloads: true }
    }
}

impl Filter<'_> {
    /// The first identity that is asked for, and the first one after them all; none if any is.
    pub(super) fn identities(&self) -> Option<[String; 2]> {
        // Why: `~` comes after everything that a UUID is written with.
        (!self.begins.is_empty()).then(|| [self.begins.to_owned(), format!("{}~", self.begins)])
    }
}

/// The events of a module's database, the outbox first, each in its order; at most `limit` of each. What is more than
/// one result may hold is read in parts.
///
/// # Errors
/// [`SqlError`]; `TooLarge` if one event is more than a result may hold.
pub async fn list(
    database: &Database,
    module: &str,
    filter: impl Into<Filter<'_>>,
    limit: usize,
    deadline: Instant,
) -> Result<Vec<EventRow>, SqlError> {
    let filter = filter.into();
    let mut rows = Vec::new();
    if filter.kind != Kind::Dead {
        rows = in_parts(database, module, Place::Outbox, filter, limit, deadline).await?;
    }
    rows.extend(in_parts(database, module, Place::Inbox, filter, limit, deadline).await?);
    Ok(rows)
}

/// Reads up to `limit` events of one place, in parts small enough for one result.
async fn in_parts(
    database: &Database,
    module: &str,
    place: Place,
    mut filter: Filter<'_>,
    limit: usize,
    deadline: Instant,
) -> Result<Vec<EventRow>, SqlError> {
    let mut rows: Vec<EventRow> = Vec::new();
    let mut size_max = limit;
    while rows.len() < limit {
        let size = size_max.min(limit - rows.len());
        let part = match place {
            Place::Outbox => leaving(database, module, filter, size, deadline).await,
            Place::Inbox => received(database, module, filter, size, deadline).await,
        };
        let part = match part {
            Err(SqlError::TooLarge(_)) if size > 1 => {
                size_max = size / 2;
                continue;
            }
            part => part?,
        };
        let was_last = part.len() < size;
        rows.extend(part);
        filter.after = rows.last().map_or(filter.after, |row| row.position);
        if was_last {
            break;
        }
    }
    Ok(rows)
}

async fn received(
    database: &Database,
    module: &str,
    filter: Filter<'_>,
    limit: usize,
    deadline: Instant,
) -> Result<Vec<EventRow>, SqlError> {
    let received = inbox::list(database, filter, limit, deadline).await?;
    Ok(received.into_iter().map(|row| of(module, row)).collect())
}

fn of(module: &str, row: Received) -> EventRow {
    EventRow {
        position: row.position,
        id: row.event.id,
        module: module.to_owned(),
        place: Place::Inbox,
        contract_function: row.event.function,
        key: row.event.key,
        state: row.state,
        publisher: row.publisher,
        waiting_for: Vec::new(),
        attempts: row.attempts,
        failures: row.failures,
        error: row.error,
        published_at: row.event.published_at,
        first_attempt_at: row.first_attempt_at,
        due_at: row.due_at,
        ended_at: row.ended_at,
        trace: row.event.trace,
        payload: row.event.payload,
    }
}

async fn leaving(
    database: &Database,
    module: &str,
    filter: Filter<'_>,
    limit: usize,
    deadline: Instant,
) -> Result<Vec<EventRow>, SqlError> {
    let payload = if filter.payloads { "o.payload" } else { "''" };
    let mut values =
        vec![Value::Integer(filter.after), Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX))];
    let mut identities = "";
    if let Some([first, end]) = filter.identities() {
        identities = "AND event >= $3 AND event < $4";
        values.extend([first, end].map(Value::Text));
    }
    let rows = database
        .host_query(
            &format!(
                "SELECT o.position, o.event, o.function, o.event_key, {payload}, o.published_at, o.trace, \
                 t.subscriber FROM (SELECT * FROM cleave_outbox WHERE position > $1 {identities} \
                 AND EXISTS (SELECT 1 FROM cleave_outbox_to w WHERE w.position = cleave_outbox.position) \
                 ORDER BY position LIMIT $2) o \
                 JOIN cleave_outbox_to t ON t.position = o.position ORDER BY o.position, t.subscriber"
            ),
            &values,
            deadline,
        )
        .await?;
    let mut listed: Vec<EventRow> = Vec::new();
    for mut row in rows.rows {
        let Some(Value::Text(subscriber)) = row.pop() else { return Err(broken()) };
        let (position, event) = outbox::event(row).ok_or_else(broken)?;
        match listed.last_mut() {
            Some(last) if last.position == position => last.waiting_for.push(subscriber),
            _ => listed.push(EventRow {
                position,
                id: event.id,
                module: module.to_owned(),
                place: Place::Outbox,
                contract_function: event.function,
                key: event.key,
                state: State::Waiting,
                publisher: module.to_owned(),
                waiting_for: vec![subscriber],
                attempts: 0,
                failures: 0,
                error: None,
                published_at: event.published_at,
                first_attempt_at: None,
                due_at: 0,
                ended_at: None,
                trace: event.trace,
                payload: event.payload,
            }),
        }
    }
    Ok(listed)
}

/// A text that holds JSON, written as what it holds.
mod json_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    pub(super) fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<Value>(text)
            .unwrap_or_else(|_| Value::String(text.to_owned()))
            .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        Value::deserialize(deserializer).map(|value| value.to_string())
    }
}
