//! Owns schedules: what a module does by the clock, once per tick whoever runs it.
//!
//! A run holds the task by a lease in the module's database. If it is stopped for longer than the lease lasts and the
//! task goes to another, the fence keeps its transactions from being committed (`capability/writes.rs`).

use crate::capability::log::{REASON_MAX, printable};
use crate::capability::{CallContext, Fence, Work};
use crate::data::lease::{self, Tick};
use crate::data::{Database, SqlError};
use crate::pool::Pool;
use crate::relay::{DATABASE_PATIENCE, Trouble};
use crate::types::Function;
use cleave_bus::deadline::Deadline;
use cleave_config::TaskName;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use wasmtime::component::Val;

/// How much longer than it may wait for a place, and then run, a run holds its task.
const MARGIN: Duration = Duration::from_secs(5);
/// The longest wait between two looks at the clock, which may jump.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// The pause after a tick for which the module had no place.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// A task of a module.
pub struct Task {
    pub name: TaskName,
    pub every: Duration,
    pub function: Arc<Function>,
    pub pool: Arc<Pool>,
    pub database: Database,
}

impl Task {
    /// Runs the task whenever it is due, until the node stops.
    pub async fn run(self, stopping: CancellationToken) {
        let lease: Arc<str> = format!("task:{}", self.name).into();
        let holder = uuid::Uuid::new_v4().to_string();
        let mut trouble = Trouble::default();
        while !stopping.is_cancelled() {
            let ticked = self.tick(&lease, &holder, &stopping).await;
            let wait = trouble.note(ticked, |error| {
                tracing::warn!(module = self.pool.module(), task = %self.name, "the task is not run: {error}");
            });
            tokio::select! {
                () = tokio::time::sleep(wait.unwrap_or(LOOK_MAX).min(LOOK_MAX)) => {}
                () = stopping.cancelled() => {}
            }
        }
    }

    /// Runs the task if it is due; gives how long to wait then.
    async fn tick(
        &self,
        lease: &Arc<str>,
        holder: &str,
        stopping: &CancellationToken,
    ) -> Result<Duration, SqlError> {
        let length = self.pool.deadline().saturating_mul(2).saturating_add(MARGIN);
        let patience = || Instant::now() + DATABASE_PATIENCE;
        let number = match lease::tick(&self.database, lease, holder, self.every, length, patience()).await? {
            Tick::Due(fence) => fence,
            Tick::Wait(ms) => return Ok(Duration::from_millis(u64::try_from(ms).unwrap_or(0).max(1))),
        };
        let fence = Fence { lease: Arc::clone(lease), number };
        let place = tokio::select! {
            place = tokio::time::timeout(self.pool.deadline(), self.pool.background()) => place.ok().flatten(),
            () = stopping.cancelled() => None,
        };
        let ran = match place {
            Some(_place) => self.work(fence).await,
            None => false,
        };
        if ran {
            let held_until = Instant::now() + length;
            // Why again: a task that stays held is taken for one that was cut off.
            while let Err(error) = lease::ran(&self.database, lease, number, self.every, patience()).await {
                if stopping.is_cancelled() || Instant::now() > held_until {
                    return Err(error);
                }
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            return Ok(Duration::ZERO);
        }
        tracing::debug!(module = self.pool.module(), task = %self.name, "the module is busy; the task waits");
        lease::put_back(&self.database, lease, number, BUSY_PAUSE, patience()).await?;
        Ok(BUSY_PAUSE)
    }

    /// Runs the task once. Gives whether it ran, however it ended.
    async fn work(&self, fence: Fence) -> bool {
        let context = CallContext {
            deadline: Deadline::after(Instant::now(), self.pool.deadline()),
            trace: uuid::Uuid::new_v4().as_u128(),
        };
        let arguments = [Val::String(self.name.as_str().to_owned())];
        let (module, trace) = (self.pool.module(), format!("{:032x}", context.trace));
        match self.pool.run(&self.function, context, Work::Task(fence), &arguments).await {
            Ok((results, _)) => {
                if let [Val::Result(Err(Some(error)))] = results.as_slice()
                    && let Val::String(error) = &**error
                {
                    let error = printable(error.as_bytes(), REASON_MAX);
                    tracing::warn!(module, task = %self.name, trace, "the task failed: {error}");
                }
                true
            }
            // What went wrong while it ran the pool has logged.
            Err(error) => error.may_have_run(),
        }
    }
}
