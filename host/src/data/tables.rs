//! Owns the host's own tables in a module's database.

use rusqlite::Connection;

/// The names of all tables below.
pub(super) const ALL: [&str; 6] = [
    "cleave_migrations",
    "cleave_outbox",
    "cleave_outbox_to",
    "cleave_inbox",
    "cleave_leases",
    "cleave_roads",
];

/// Makes the tables that are not there in a SQLite file, and ends every lease: the file belongs to this process alone, so
/// whoever holds one is gone. In PostgreSQL others may hold them.
pub(super) fn prepare(sqlite: &mut Connection) -> rusqlite::Result<()> {
    let transaction = sqlite.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    transaction.execute_batch(&in_sqlite())?;
    // A task that was held was running: its run was cut off, and is due again.
    transaction.execute("UPDATE cleave_leases SET expires_at = 0, next_at = 0 WHERE expires_at <> 0", [])?;
    transaction.commit()
}

fn in_sqlite() -> String {
    tables("INTEGER", "INTEGER PRIMARY KEY AUTOINCREMENT", "INTEGER PRIMARY KEY", " WITHOUT ROWID")
}

/// The tables in PostgreSQL. The numbers of an identity are given out in the order in which rows are written, not
/// committed: nobody may take the last one he has seen for the end.
pub(super) fn in_postgres() -> String {
    let identity = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY";
    tables("BIGINT", identity, identity, "")
}

/// The tables, where whole numbers are `number`. Their names begin as only the host's may, so no module can name them.
///
/// An event stands in `cleave_outbox` until every subscriber in `cleave_outbox_to` has it. Its position is never used
/// twice (`once`), so that a relay which was stopped for long removes nothing that came later. In the subscriber's
/// `cleave_inbox` its state is one of those in `inbox.rs`; of the events of one publisher and key that are to be handled,
/// the first alone is ready.
fn tables(number: &str, once: &str, row: &str, bare: &str) -> String {
    format!(
        "
CREATE TABLE IF NOT EXISTS cleave_migrations (
    version {number} PRIMARY KEY,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    applied_at {number} NOT NULL -- milliseconds since 1970, as every time here
);
CREATE TABLE IF NOT EXISTS cleave_outbox (
    position {once},
    event TEXT NOT NULL,
    function TEXT NOT NULL,
    event_key TEXT NOT NULL,
    payload TEXT NOT NULL,
    published_at {number} NOT NULL,
    trace TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS cleave_outbox_to (
    position {number} NOT NULL,
    subscriber TEXT NOT NULL,
    PRIMARY KEY (position, subscriber)
){bare};
CREATE INDEX IF NOT EXISTS cleave_outbox_of ON cleave_outbox_to (subscriber, position);
CREATE TABLE IF NOT EXISTS cleave_inbox (
    position {row},
    event TEXT NOT NULL,
    function TEXT NOT NULL,
    publisher TEXT NOT NULL,
    event_key TEXT NOT NULL,
    payload TEXT NOT NULL,
    published_at {number} NOT NULL,
    trace TEXT NOT NULL,
    state {number} NOT NULL,
    due_at {number} NOT NULL DEFAULT 0,
    attempts {number} NOT NULL DEFAULT 0,
    failures {number} NOT NULL DEFAULT 0,
    first_attempt_at {number},
    ended_at {number},
    error TEXT,
    UNIQUE (event, function)
);
CREATE INDEX IF NOT EXISTS cleave_inbox_ready ON cleave_inbox (due_at, position) WHERE state = 1;
CREATE INDEX IF NOT EXISTS cleave_inbox_key ON cleave_inbox (publisher, event_key, position) WHERE state <= 1;
CREATE INDEX IF NOT EXISTS cleave_inbox_done ON cleave_inbox (ended_at) WHERE state = 2;
CREATE INDEX IF NOT EXISTS cleave_inbox_dead ON cleave_inbox (position) WHERE state = 3;
CREATE TABLE IF NOT EXISTS cleave_leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    fence {number} NOT NULL,
    expires_at {number} NOT NULL,
    next_at {number} NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS cleave_roads (
    road TEXT PRIMARY KEY,
    stream {number} NOT NULL,
    sequence {number} NOT NULL
);
"
    )
}
