//! Events in a native program, over SQLite with grouped syncs: an outbox in the publisher's file, an inbox in each
//! subscriber's, the handler's rows and the mark in one transaction for each event.
//!
//! The tables, their indexes and the statements are the host's, so that both sides do the same work. What the host does
//! beyond that, leases, attempts, deadlines, dead letters, is not here.

use super::grouped::{Database, execute};
use rusqlite::Connection;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// How many events are carried, or taken up, at a time: the host's default.
pub(crate) const BATCH: i64 = 256;

pub(crate) const PUT: &str = "INSERT INTO cleave_outbox (event, function, event_key, payload, published_at, trace) \
                              VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING position";
pub(crate) const PUT_TO: &str = "INSERT INTO cleave_outbox_to (position, subscriber) VALUES (?1, ?2)";
pub(crate) const WAITING: &str = "SELECT o.position, o.event, o.function, o.event_key, o.payload, o.published_at, o.trace \
                                  FROM cleave_outbox_to t JOIN cleave_outbox o ON o.position = t.position \
                                  WHERE t.subscriber = ?1 ORDER BY t.position LIMIT ?2";
pub(crate) const RECEIVE: &str = "INSERT INTO cleave_inbox (event, function, publisher, event_key, payload, published_at, trace, state) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, \
       (SELECT CASE WHEN EXISTS (SELECT 1 FROM cleave_inbox \
          WHERE publisher = ?3 AND event_key = ?4 AND state <= 1) THEN 0 ELSE 1 END)) \
     ON CONFLICT (event, function) DO NOTHING";
pub(crate) const REMOVE_TO: &str = "DELETE FROM cleave_outbox_to WHERE position = ?1 AND subscriber = ?2";
pub(crate) const REMOVE: &str = "DELETE FROM cleave_outbox WHERE position = ?1 \
                                 AND NOT EXISTS (SELECT 1 FROM cleave_outbox_to t WHERE t.position = ?1)";
pub(crate) const DUE: &str = "SELECT position, event, function, event_key, payload, published_at, trace, publisher \
                              FROM cleave_inbox WHERE state = 1 AND due_at <= ?1 ORDER BY due_at, position LIMIT ?2";
pub(crate) const DONE: &str = "UPDATE cleave_inbox SET state = 2, attempts = 0, failures = 0, error = NULL, ended_at = ?2, payload = '' \
     WHERE position = ?1 AND state = 1";
pub(crate) const NEXT: &str = "UPDATE cleave_inbox SET state = 1, due_at = 0 WHERE position = \
     (SELECT min(position) FROM cleave_inbox WHERE publisher = ?1 AND event_key = ?2 AND state <= 1)";

/// An event as it is kept.
pub(crate) struct Event {
    /// The row it stands in.
    pub(crate) position: i64,
    pub(crate) id: String,
    pub(crate) function: String,
    pub(crate) key: String,
    pub(crate) payload: String,
    pub(crate) published_at: i64,
    pub(crate) trace: String,
}

impl Event {
    /// A new event, without a row yet.
    pub(crate) fn new(function: &str, key: String, payload: String) -> Self {
        Self {
            position: 0,
            id: uuid::Uuid::now_v7().to_string(),
            function: function.to_owned(),
            key,
            payload,
            published_at: now(),
            trace: format!("{:032x}", uuid::Uuid::new_v4().as_u128()),
        }
    }

    pub(crate) fn of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            position: row.get(0)?,
            id: row.get(1)?,
            function: row.get(2)?,
            key: row.get(3)?,
            payload: row.get(4)?,
            published_at: row.get(5)?,
            trace: row.get(6)?,
        })
    }

    /// Puts the event into the outbox, for these subscribers.
    pub(crate) fn put(&self, connection: &Connection, subscribers: &[impl AsRef<str>]) {
        let values = (&self.id, &self.function, &self.key, &self.payload, self.published_at, &self.trace);
        let position: i64 =
            connection.prepare_cached(PUT).unwrap().query_row(values, |row| row.get(0)).unwrap();
        for subscriber in subscribers {
            execute(connection, PUT_TO, (position, subscriber.as_ref()));
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

/// The way from the publisher to one subscriber.
pub(crate) struct Relay {
    pub(crate) publisher: &'static str,
    pub(crate) subscriber: String,
    pub(crate) from: Arc<Database>,
    pub(crate) to: Arc<Database>,
    pub(crate) published: Arc<Notify>,
    pub(crate) arrived: Arc<Notify>,
}

impl Relay {
    /// Carries events for ever.
    pub(crate) async fn run(self) {
        loop {
            while self.carry().await {}
            self.published.notified().await;
        }
    }

    /// Carries the first events that wait, if any do.
    async fn carry(&self) -> bool {
        let events: Vec<Event> = self.from.read(|from| {
            let mut waiting = from.prepare_cached(WAITING).unwrap();
            let rows = waiting.query_map((&self.subscriber, BATCH), Event::of).unwrap();
            rows.map(Result::unwrap).collect()
        });
        if events.is_empty() {
            return false;
        }
        self.from.sync_all().await;
        let arriving = self.to.append(|to| {
            for event in &events {
                let Event { id, function, key, payload, published_at, trace, .. } = event;
                execute(to, RECEIVE, (id, function, self.publisher, key, payload, published_at, trace));
            }
        });
        let ((), arrived) = arriving.await;
        self.arrived.notify_one();
        self.to.sync(arrived).await;
        let leaving = self.from.append(|from| {
            for event in &events {
                execute(from, REMOVE_TO, (event.position, &self.subscriber));
            }
            for event in &events {
                execute(from, REMOVE, [event.position]);
            }
        });
        leaving.await;
        true
    }
}

/// Handles what has arrived, for ever: one transaction for each event, one sync for those that were found together. Tells
/// the relay, if there is one, of what the handler has published.
pub(crate) async fn deliver(
    database: Arc<Database>,
    arrived: Arc<Notify>,
    published: Option<Arc<Notify>>,
    handle: impl Fn(&Connection, &Event),
) {
    let event_and_publisher = |row: &rusqlite::Row<'_>| Ok((Event::of(row)?, row.get(7)?));
    loop {
        let due: Vec<(Event, String)> = database.read(|inbox| {
            let mut due = inbox.prepare_cached(DUE).unwrap();
            due.query_map((now(), BATCH), event_and_publisher).unwrap().map(Result::unwrap).collect()
        });
        let mut last = 0;
        for (event, publisher) in &due {
            let handled = database.append(|inbox| {
                handle(inbox, event);
                assert_eq!(execute(inbox, DONE, (event.position, now())), 1);
                execute(inbox, NEXT, (publisher, &event.key));
            });
            ((), last) = handled.await;
            published.iter().for_each(|relay| relay.notify_one());
        }
        if due.is_empty() {
            arrived.notified().await;
        } else {
            database.sync(last).await;
        }
    }
}
