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
use std::sync::Arc;
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
            self.begin_part(database, deadline).await?;
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
        done
    }

    /// Commits the transaction whose handle the module held. A handler's is only closed: the host commits it.
    pub async fn commit(&mut self) -> Result<(), SqlError> {
        if !std::mem::take(&mut self.handle_open) {
            return Err(SqlError::Aborted);
        }
        if let Work::Event(_) = self.work {
            self.end_part(true).await?;
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
            data::outbox::put(transaction, event, names).await?;
        } else if let Work::Event(_) = self.work {
            let transaction = self.begin_part(database, deadline).await?;
            let put = data::outbox::put(transaction, event, names).await;
            let ended = self.end_part(put.is_ok()).await;
            put.and(ended)?;
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
    use crate::data::{DataFolder, Limits};
    use std::time::Duration;

    const LENGTH: Duration = Duration::from_secs(10);

    /// A database with a table, its clock, and what keeps both.
    async fn notes() -> (tempfile::TempDir, DataFolder, Database, Clock) {
        let dir = tempfile::tempdir().unwrap();
        let migrations = dir.path().join("migrations");
        std::fs::create_dir(&migrations).unwrap();
        let table = "CREATE TABLE notes (text TEXT PRIMARY KEY)";
        std::fs::write(migrations.join("001_notes.sql"), table).unwrap();
        let folder = DataFolder::open(&dir.path().join("data")).unwrap();
        let clock = Clock::system();
        let limits = Limits { clock: clock.clone(), ..Limits::default() };
        let database = Database::open(&folder, "reader", Some(&migrations), limits).await.unwrap();
        (dir, folder, database, clock)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    async fn task(database: &Database, holder: &str) -> Writes {
        let ticked =
            lease::tick(database, "task:tidy", holder, Duration::from_millis(1), LENGTH, soon()).await;
        let Ok(lease::Tick::Due(number)) = ticked else { panic!("{ticked:?}") };
        Writes::new(Work::Task(Fence { lease: "task:tidy".into(), number }))
    }

    async fn note(writes: &mut Writes, database: &Database, text: &str) -> Result<u64, SqlError> {
        let statement = "INSERT INTO notes (text) VALUES ($1)";
        let values = [Value::Text(text.to_owned())];
        writes.statement(database, Verb::Execute, statement, &values, soon()).await.map(|done| done.changed)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn run_that_lost_its_task_writes_nothing_more() {
        let (_dir, _folder, database, clock) = notes().await;
        let mut stopped = task(&database, "one").await;
        assert_eq!(note(&mut stopped, &database, "before").await, Ok(1));
        // The run is stopped for longer than it may hold the task, and another process takes it.
        clock.jump(60_000);
        let mut other = task(&database, "two").await;
        assert_eq!(note(&mut stopped, &database, "after").await, Err(SqlError::Aborted));
        assert_eq!(stopped.begin(&database, soon()).await, Err(SqlError::Aborted));
        assert_eq!(note(&mut other, &database, "other").await, Ok(1));
        let rows = database.query("SELECT text FROM notes ORDER BY text", &[], soon()).await.unwrap();
        let texts = ["before", "other"].map(|text| vec![Value::Text(text.into())]);
        assert_eq!(rows.rows, texts);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn task_cannot_be_taken_while_its_run_writes() {
        let (_dir, _folder, database, clock) = notes().await;
        let mut run = task(&database, "one").await;
        run.begin(&database, soon()).await.unwrap();
        clock.jump(60_000);
        let at_once = Instant::now() + Duration::from_millis(20);
        let other =
            lease::tick(&database, "task:tidy", "two", Duration::from_millis(1), LENGTH, at_once).await;
        assert_eq!(other, Err(SqlError::Deadline));
        run.commit().await.unwrap();
    }
}
