//! Owns what a call writes: which transaction a statement or an event belongs to, by what the call is done for.
//!
//! - A caller's call: a statement outside a transaction stands by itself; `begin` begins a transaction.
//! - An event's: everything is one transaction, begun at the first write and committed by the host with the mark that
//!   the event is done (`delivery.rs`). A statement outside `begin`, an event, and what stands between `begin` and
//!   `commit` are parts of it: a part that fails undoes itself alone. After `commit` there are no further parts.
//! - A task's: as a caller's, and every transaction checks that the task has not been given to another.
//!
//! All of it ends with the call. What is not committed by then is rolled back.

use crate::data::{self, Database, Rows, SqlError, Transaction, Value, lease};
use crate::failpoint;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::sync::Notify;

/// How often a task's statement that stands alone is run at most, while another is in its way.
const CONFLICTS_MAX: u32 = 20;

/// What a call is done for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// A caller.
    Call,
    /// An event.
    Event(Delivery),
    /// A tick of a task.
    Task(Fence),
}

/// The event that a call handles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its identity, a UUID.
    pub event: String,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// Milliseconds since 1970.
    pub published_at: u64,
    /// Set once another transaction was in the way of the handler's: nothing of it can stand then, whatever it answers.
    pub conflict: Arc<OnceLock<String>>,
}

/// The lease that a call works under, and the number by which it is known whether it still does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    pub lease: Arc<str>,
    pub number: i64,
}

/// Whether a statement is to give rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Query,
    Execute,
}

/// What a statement gave: rows if it was a query, else the number of rows it changed.
#[derive(Debug, Default)]
pub struct Outcome {
    pub rows: Rows,
    pub changed: u64,
}

/// What one call writes.
pub struct Writes {
    pub work: Work,
    transaction: Option<Transaction>,
    /// Whether the module holds the transaction's handle.
    handle_open: bool,
    /// Whether a handler has committed.
    closed: bool,
    /// The relays to wake when the transaction is committed, because it holds events for them.
    published: Vec<Arc<Notify>>,
}

/// What a handler has written, for the host to commit.
pub struct Written {
    /// None if it has written nothing.
    pub transaction: Option<Transaction>,
    /// The relays to wake after the commit.
    pub published: Vec<Arc<Notify>>,
}

impl Writes {
    pub fn new(work: Work) -> Self {
        Self { work, transaction: None, handle_open: false, closed: false, published: Vec::new() }
    }

    /// Runs a statement that stands outside `begin`.
    pub async fn statement(
        &mut self,
        database: &Database,
        verb: Verb,
        sql: &str,
        parameters: &[Value],
        deadline: Instant,
    ) -> Result<Outcome, SqlError> {
        let done = self.outside(database, verb, sql, parameters, deadline).await;
        self.noted(done)
    }

    /// Takes note of a conflict that a handler's transaction has met.
    fn noted<T>(&self, done: Result<T, SqlError>) -> Result<T, SqlError> {
        if let (Work::Event(delivery), Err(SqlError::Conflict(reason))) = (&self.work, &done) {
            // The first says it all: what comes after it is told that the transaction is over.
            delivery.conflict.get_or_init(|| reason.clone());
        }
        done
    }

    async fn outside(
        &mut self,
        database: &Database,
        verb: Verb,
        sql: &str,
        parameters: &[Value],
        deadline: Instant,
    ) -> Result<Outcome, SqlError> {
        if self.handle_open {
            return Err(SqlError::TransactionOpen);
        }
        // Why asked last: a caller's statement, the most common, need not be read here.
        match self.work {
            Work::Event(_) if self.transaction.is_some() || self.closed || !data::only_reads(sql) => {
                let transaction = self.begin_part(database, deadline).await?;
                let done = run(transaction, verb, sql, parameters).await;
                let ended = self.end_part(done.is_ok()).await;
                failpoint::reach("handler.wrote");
                done.and_then(|outcome| ended.map(|()| outcome))
            }
            Work::Task(_) if !data::only_reads(sql) => {
                let mut attempt = 1;
                loop {
                    // A statement that stands alone is known whole, so it is run again after a conflict.
                    match self.run_alone(database, verb, sql, parameters, deadline).await {
                        Err(SqlError::Conflict(_)) if attempt < CONFLICTS_MAX => attempt += 1,
                        done => return done,
                    }
                }
            }
            _ => match verb {
                Verb::Query => database.query(sql, parameters, deadline).await.map(Outcome::rows),
                Verb::Execute => database.execute(sql, parameters, deadline).await.map(Outcome::changed),
            },
        }
    }

    /// Runs a statement as a transaction of its own.
    async fn run_alone(
        &mut self,
        database: &Database,
        verb: Verb,
        sql: &str,
        parameters: &[Value],
        deadline: Instant,
    ) -> Result<Outcome, SqlError> {
        let mut transaction = self.begin_alone(database, deadline).await?;
        let outcome = run(&mut transaction, verb, sql, parameters).await?;
        transaction.commit().await?;
        Ok(outcome)
    }

    /// Begins the transaction that the module asks for.
    pub async fn begin(&mut self, database: &Database, deadline: Instant) -> Result<(), SqlError> {
        if self.handle_open {
            return Err(SqlError::TransactionOpen);
        }
        if let Work::Event(_) = self.work {
            let begun = self.begin_part(database, deadline).await.map(drop);
            self.noted(begun)?;
        } else {
            self.transaction = Some(self.begin_alone(database, deadline).await?);
        }
        self.handle_open = true;
        Ok(())
    }

    /// Runs a statement inside the transaction whose handle the module holds.
    pub async fn inside(&mut self, verb: Verb, sql: &str, parameters: &[Value]) -> Result<Outcome, SqlError> {
        let Some(transaction) = self.transaction.as_mut().filter(|_| self.handle_open) else {
            return Err(SqlError::Aborted);
        };
        let done = run(transaction, verb, sql, parameters).await;
        if let Work::Event(_) = self.work {
            failpoint::reach("handler.wrote");
        }
        self.noted(done)
    }

    /// Commits the transaction whose handle the module held. A handler's is only closed: the host commits it.
    pub async fn commit(&mut self) -> Result<(), SqlError> {
        if !std::mem::take(&mut self.handle_open) {
            return Err(SqlError::Aborted);
        }
        if let Work::Event(_) = self.work {
            let ended = self.end_part(true).await;
            self.noted(ended)?;
            self.closed = true;
            failpoint::reach("handler.closed");
            return Ok(());
        }
        let published = std::mem::take(&mut self.published);
        match self.transaction.take() {
            Some(transaction) => transaction.commit().await?,
            None => return Err(SqlError::Aborted),
        }
        published.iter().for_each(|relay| relay.notify_one());
        Ok(())
    }

    /// Takes back the transaction whose handle the module dropped.
    pub async fn roll_back(&mut self) {
        if !std::mem::take(&mut self.handle_open) {
            return;
        }
        if let Work::Event(_) = self.work {
            // A transaction that cannot take back its part is over, and says so from now on.
            let _ = self.end_part(false).await;
            return;
        }
        self.published.clear();
        if let Some(transaction) = self.transaction.take() {
            transaction.roll_back().await;
        }
    }

    /// Puts an event into the transaction that it belongs to, if there is one. Gives whether there was.
    pub async fn enlist(
        &mut self,
        database: &Database,
        event: &data::outbox::Event,
        subscribers: &[(String, Arc<Notify>)],
        deadline: Instant,
    ) -> Result<bool, SqlError> {
        let names = subscribers.iter().map(|(name, _)| name.as_str());
        if self.handle_open {
            let transaction = self.transaction.as_mut().ok_or(SqlError::Aborted)?;
            let put = data::outbox::put(transaction, event, names).await;
            self.noted(put)?;
        } else if let Work::Event(_) = self.work {
            let put = match self.begin_part(database, deadline).await {
                Ok(transaction) => {
                    let put = data::outbox::put(transaction, event, names).await;
                    let ended = self.end_part(put.is_ok()).await;
                    put.and(ended)
                }
                Err(error) => Err(error),
            };
            self.noted(put)?;
        } else {
            return Ok(false);
        }
        self.published.extend(subscribers.iter().map(|(_, relay)| Arc::clone(relay)));
        Ok(true)
    }

    /// Begins a transaction that stands by itself.
    pub async fn begin_alone(
        &mut self,
        database: &Database,
        deadline: Instant,
    ) -> Result<Transaction, SqlError> {
        let mut transaction = database.begin(deadline).await?;
        // Why here and not at the commit: nobody can take the lease while this transaction is open.
        if let Work::Task(fence) = &self.work
            && !lease::is_held(&mut transaction, &fence.lease, fence.number).await?
        {
            return Err(SqlError::Aborted);
        }
        Ok(transaction)
    }

    /// Ends what the call writes, with the call. A handler's transaction is the host's to commit.
    pub async fn end(mut self) -> Written {
        let handler = matches!(self.work, Work::Event(_));
        // A handle that is still open is as good as dropped.
        self.roll_back().await;
        let transaction = self.transaction.take().filter(|_| handler);
        Written { transaction, published: self.published }
    }

    /// Begins a part of the handler's transaction, and the transaction with the first.
    async fn begin_part(
        &mut self,
        database: &Database,
        deadline: Instant,
    ) -> Result<&mut Transaction, SqlError> {
        if self.closed {
            return Err(SqlError::Aborted);
        }
        let transaction = match self.transaction.take() {
            Some(transaction) => transaction,
            None => {
                let transaction = database.begin_handling(deadline).await?;
                failpoint::reach("handler.began");
                transaction
            }
        };
        let transaction = self.transaction.insert(transaction);
        transaction.nest().await?;
        Ok(transaction)
    }

    /// Ends a part of the handler's transaction: keeps it, or takes it alone back.
    async fn end_part(&mut self, keep: bool) -> Result<(), SqlError> {
        match self.transaction.as_mut() {
            Some(transaction) => transaction.unnest(keep).await,
            None => Err(SqlError::Aborted),
        }
    }
}

impl Outcome {
    fn rows(rows: Rows) -> Self {
        Self { rows, changed: 0 }
    }

    fn changed(changed: u64) -> Self {
        Self { rows: Rows::default(), changed }
    }
}

async fn run(
    transaction: &mut Transaction,
    verb: Verb,
    sql: &str,
    parameters: &[Value],
) -> Result<Outcome, SqlError> {
    match verb {
        Verb::Query => transaction.query(sql, parameters).await.map(Outcome::rows),
        Verb::Execute => transaction.execute(sql, parameters).await.map(Outcome::changed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::data::Limits;
    use crate::data::both::{Kind, Place, on_both, soon, within};
    use std::time::Duration;

    on_both! {
        run_that_lost_its_task_writes_nothing_more,
        task_cannot_be_taken_while_its_run_writes,
    }

    const LENGTH: Duration = Duration::from_secs(10);
    const INSERT: &str = "INSERT INTO notes (body) VALUES ($1)";

    /// A database with a table, as two processes have it open.
    struct Notes {
        place: Place,
        clock: Clock,
        one: Database,
        two: Database,
    }

    impl Notes {
        async fn new(kind: Kind) -> Self {
            let (place, clock) = (Place::new(kind).await, Clock::system());
            let files = [("001_notes.sql", "CREATE TABLE notes (body TEXT PRIMARY KEY)")];
            let limits = || Limits { clock: clock.clone(), ..Limits::default() };
            let one = place.open_module("reader", &files, limits()).await.unwrap();
            let two = match kind {
                // Why: a file belongs to one process.
                Kind::Sqlite => one.clone(),
                Kind::Postgres => place.open_module("reader", &files, limits()).await.unwrap(),
            };
            Self { place, clock, one, two }
        }

        /// Moves the clock that leases are timed by.
        fn jump(&self, milliseconds: i64) {
            self.clock.jump(milliseconds);
            for database in [&self.one, &self.two] {
                lease::move_servers_clock(database, milliseconds);
            }
        }
    }

    async fn tick(database: &Database, holder: &str, deadline: Instant) -> Result<lease::Tick, SqlError> {
        lease::tick(database, "task:tidy", holder, Duration::from_millis(1), LENGTH, deadline).await
    }

    async fn task(database: &Database, holder: &str) -> Writes {
        let ticked = tick(database, holder, soon()).await;
        let Ok(lease::Tick::Due(number)) = ticked else { panic!("{ticked:?}") };
        Writes::new(Work::Task(Fence { lease: "task:tidy".into(), number }))
    }

    async fn note(writes: &mut Writes, database: &Database, text: &str) -> Result<u64, SqlError> {
        let values = [Value::Text(text.to_owned())];
        writes.statement(database, Verb::Execute, INSERT, &values, soon()).await.map(|done| done.changed)
    }

    async fn texts(database: &Database) -> Vec<Vec<Value>> {
        database.query("SELECT body FROM notes ORDER BY body", &[], soon()).await.unwrap().rows
    }

    async fn run_that_lost_its_task_writes_nothing_more(kind: Kind) {
        let notes = Notes::new(kind).await;
        let mut stopped = task(&notes.one, "one").await;
        assert_eq!(note(&mut stopped, &notes.one, "before").await, Ok(1));
        // The run is stopped for longer than it may hold the task, and another process takes it.
        notes.jump(60_000);
        let mut other = task(&notes.two, "two").await;
        assert_eq!(note(&mut stopped, &notes.one, "after").await, Err(SqlError::Aborted));
        assert_eq!(stopped.begin(&notes.one, soon()).await, Err(SqlError::Aborted));
        assert_eq!(note(&mut other, &notes.two, "other").await, Ok(1));
        assert_eq!(texts(&notes.two).await, ["before", "other"].map(|text| vec![Value::Text(text.into())]));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn conflict_of_a_handlers_transaction_is_remembered_until_its_end() {
        let notes = Notes::new(Kind::Sqlite).await;
        let database = &notes.one;
        let conflict: Arc<OnceLock<String>> = Arc::default();
        let delivery = Delivery {
            event: "an event".to_owned(),
            attempt: 1,
            published_at: 0,
            conflict: Arc::clone(&conflict),
        };
        let mut handler = Writes::new(Work::Event(delivery));
        assert_eq!(note(&mut handler, database, "one").await, Ok(1));
        assert!(note(&mut handler, database, "one").await.is_err());
        assert_eq!(conflict.get(), None);
        drop(handler);
        // On SQLite, a schema that another program has changed is what is in the way.
        database.execute("INSERT INTO notes (body) VALUES ('one')", &[], soon()).await.unwrap();
        let mut handler = Writes::new(Work::Event(Delivery {
            event: "another".to_owned(),
            attempt: 1,
            published_at: 0,
            conflict: Arc::clone(&conflict),
        }));
        let select = "SELECT * FROM notes";
        handler.statement(database, Verb::Query, select, &[], soon()).await.unwrap();
        let other = rusqlite::Connection::open(notes.place.dir.path().join("data/reader.sqlite")).unwrap();
        other.execute_batch("ALTER TABLE notes ADD COLUMN more TEXT").unwrap();
        let met = handler.statement(database, Verb::Query, select, &[], soon()).await;
        assert!(matches!(met, Err(SqlError::Conflict(_))));
        assert!(conflict.get().is_some());
    }

    async fn task_cannot_be_taken_while_its_run_writes(kind: Kind) {
        let notes = Notes::new(kind).await;
        let mut run = task(&notes.one, "one").await;
        run.begin(&notes.one, soon()).await.unwrap();
        notes.jump(60_000);
        assert_eq!(tick(&notes.two, "two", within(300)).await, Err(SqlError::Deadline));
        run.inside(Verb::Execute, INSERT, &[Value::Text("late".into())]).await.unwrap();
        run.commit().await.unwrap();
        assert_eq!(tick(&notes.two, "two", soon()).await, Ok(lease::Tick::Due(2)));
        assert_eq!(texts(&notes.two).await, [[Value::Text("late".into())]]);
    }
}
