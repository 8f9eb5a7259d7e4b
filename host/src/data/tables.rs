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

/// The same, as JSON.
pub(super) const NAMES: &str = r#"["cleave_migrations", "cleave_outbox", "cleave_outbox_to", "cleave_inbox", "cleave_leases", "cleave_roads"]"#;

/// Makes the tables that are not there, and ends every lease: the file belongs to this process alone, so whoever holds
/// one is gone.
pub(super) fn prepare(sqlite: &mut Connection) -> rusqlite::Result<()> {
    let transaction = sqlite.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    transaction.execute_batch(CREATE)?;
    // A task that was held was running: its run was cut off, and is due again.
    transaction.execute("UPDATE cleave_leases SET expires_at = 0, next_at = 0 WHERE expires_at <> 0", [])?;
    transaction.commit()
}

/// The tables. Their names begin as only the host's may, so no module can name them.
///
/// An event stands in `cleave_outbox` until every subscriber in `cleave_outbox_to` has it. In the subscriber's
/// `cleave_inbox` its state is one of those in `inbox.rs`; of the events of one publisher and key that are to be handled,
/// the first alone is ready.
const CREATE: &str = "
CREATE TABLE IF NOT EXISTS cleave_migrations (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    applied_at INTEGER NOT NULL -- milliseconds since 1970, as every time here
);
CREATE TABLE IF NOT EXISTS cleave_outbox (
    -- Never used twice, so that a relay which was stopped for long removes nothing that came later.
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    event TEXT NOT NULL,
    function TEXT NOT NULL,
    event_key TEXT NOT NULL,
    payload TEXT NOT NULL,
    published_at INTEGER NOT NULL,
    trace TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS cleave_outbox_to (
    position INTEGER NOT NULL,
    subscriber TEXT NOT NULL,
    PRIMARY KEY (position, subscriber)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS cleave_outbox_of ON cleave_outbox_to (subscriber, position);
CREATE TABLE IF NOT EXISTS cleave_inbox (
    position INTEGER PRIMARY KEY,
    event TEXT NOT NULL,
    function TEXT NOT NULL,
    publisher TEXT NOT NULL,
    event_key TEXT NOT NULL,
    payload TEXT NOT NULL,
    published_at INTEGER NOT NULL,
    trace TEXT NOT NULL,
    state INTEGER NOT NULL,
    due_at INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    first_attempt_at INTEGER,
    ended_at INTEGER,
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
    fence INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    next_at INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS cleave_roads (
    road TEXT PRIMARY KEY,
    stream INTEGER NOT NULL,
    sequence INTEGER NOT NULL
);
";

/// The same tables in PostgreSQL. Leases are not ended when a process opens the database: others may hold them. The
/// numbers of an identity are given out in the order in which rows are written, not committed: nobody may take the last
/// one he has seen for the end.
pub(super) const CREATE_IN_POSTGRES: &str = "
CREATE TABLE IF NOT EXISTS cleave_migrations (
    version BIGINT PRIMARY KEY,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    applied_at BIGINT NOT NULL -- milliseconds since 1970, as every time here
);
CREATE TABLE IF NOT EXISTS cleave_outbox (
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event TEXT NOT NULL,
    function TEXT NOT NULL,
    event_key TEXT NOT NULL,
    payload TEXT NOT NULL,
    published_at BIGINT NOT NULL,
    trace TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS cleave_outbox_to (
    position BIGINT NOT NULL,
    subscriber TEXT NOT NULL,
    PRIMARY KEY (position, subscriber)
);
CREATE INDEX IF NOT EXISTS cleave_outbox_of ON cleave_outbox_to (subscriber, position);
CREATE TABLE IF NOT EXISTS cleave_inbox (
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event TEXT NOT NULL,
    function TEXT NOT NULL,
    publisher TEXT NOT NULL,
    event_key TEXT NOT NULL,
    payload TEXT NOT NULL,
    published_at BIGINT NOT NULL,
    trace TEXT NOT NULL,
    state BIGINT NOT NULL,
    due_at BIGINT NOT NULL DEFAULT 0,
    attempts BIGINT NOT NULL DEFAULT 0,
    failures BIGINT NOT NULL DEFAULT 0,
    first_attempt_at BIGINT,
    ended_at BIGINT,
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
    fence BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    next_at BIGINT NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS cleave_roads (
    road TEXT PRIMARY KEY,
    stream BIGINT NOT NULL,
    sequence BIGINT NOT NULL
);
";
