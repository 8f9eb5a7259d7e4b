//! Owns `cleave:sql`: a module's statements on its own database, one transaction a call at most.
//!
//! The open transaction lives in the instance's [`State`], not behind the handle that the module holds: a handle is only
//! the number of its transaction. So a transaction ends with its call wherever the handle was put, and a handle kept for
//! later is dead.

use super::writes::{Outcome, Verb};
use super::{Shared, State};
use crate::data::{self, ConstraintKind, Database, SqlError};
use wasmtime::component::{HasSelf, Linker, Resource};

mod generated {
    wasmtime::component::bindgen!({
        path: "../wit/cleave/sql",
        inline: "package cleave:host-sql; world host { import cleave:sql/database@0.1.0; }",
        imports: { default: async | trappable },
        with: { "cleave:sql/database.transaction": super::TransactionHandle },
    });
}

use generated::cleave::sql::database::{self as wit, Error, Rows, Value};

/// What a module holds of a transaction: its number.
#[derive(Debug)]
pub struct TransactionHandle(u64);

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wit::add_to_linker::<_, HasSelf<State>>(linker, |state| state)
}

impl State {
    /// Whether this is the handle of the newest transaction; only that one can be open.
    fn is_newest(&self, handle: &Resource<TransactionHandle>) -> wasmtime::Result<bool> {
        Ok(self.table.get(handle)?.0 == self.transactions)
    }

    async fn statement(&mut self, verb: Verb, sql: &str, parameters: Vec<Value>) -> Result<Outcome, Error> {
        let deadline = self.call.deadline.instant();
        let database = self.shared.database()?;
        Ok(self.writes.statement(database, verb, sql, &values(parameters), deadline).await?)
    }

    async fn inside(
        &mut self,
        handle: &Resource<TransactionHandle>,
        verb: Verb,
        sql: &str,
        parameters: Vec<Value>,
    ) -> wasmtime::Result<Result<Outcome, Error>> {
        if !self.is_newest(handle)? {
            return Ok(Err(Error::Aborted));
        }
        Ok(self.writes.inside(verb, sql, &values(parameters)).await.map_err(Error::from))
    }
}

impl Shared {
    fn database(&self) -> Result<&Database, Error> {
        self.database.as_ref().ok_or_else(|| Error::Refused("the module was not granted `sql`".to_owned()))
    }
}

impl wit::Host for State {
    async fn query(
        &mut self,
        statement: String,
        parameters: Vec<Value>,
    ) -> wasmtime::Result<Result<Rows, Error>> {
        Ok(self.statement(Verb::Query, &statement, parameters).await.map(|outcome| outcome.rows.into()))
    }

    async fn execute(
        &mut self,
        statement: String,
        parameters: Vec<Value>,
    ) -> wasmtime::Result<Result<u64, Error>> {
        Ok(self.statement(Verb::Execute, &statement, parameters).await.map(|outcome| outcome.changed))
    }

    async fn begin(&mut self) -> wasmtime::Result<Result<Resource<TransactionHandle>, Error>> {
        let begun = match self.shared.database() {
            Ok(database) => self.writes.begin(database, self.call.deadline.instant()).await,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = begun {
            return Ok(Err(error.into()));
        }
        self.transactions += 1;
        Ok(Ok(self.table.push(TransactionHandle(self.transactions))?))
    }
}

impl wit::HostTransaction for State {
    async fn query(
        &mut self,
        this: Resource<TransactionHandle>,
        statement: String,
        parameters: Vec<Value>,
    ) -> wasmtime::Result<Result<Rows, Error>> {
        let outcome = self.inside(&this, Verb::Query, &statement, parameters).await?;
        Ok(outcome.map(|outcome| outcome.rows.into()))
    }

    async fn execute(
        &mut self,
        this: Resource<TransactionHandle>,
        statement: String,
        parameters: Vec<Value>,
    ) -> wasmtime::Result<Result<u64, Error>> {
        let outcome = self.inside(&this, Verb::Execute, &statement, parameters).await?;
        Ok(outcome.map(|outcome| outcome.changed))
    }

    async fn commit(&mut self, this: Resource<TransactionHandle>) -> wasmtime::Result<Result<(), Error>> {
        let newest = self.is_newest(&this)?;
        self.table.delete(this)?;
        if !newest {
            return Ok(Err(Error::Aborted));
        }
        Ok(self.writes.commit().await.map_err(Error::from))
    }

    async fn drop(&mut self, this: Resource<TransactionHandle>) -> wasmtime::Result<()> {
        let newest = self.is_newest(&this)?;
        self.table.delete(this)?;
        if newest {
            self.writes.roll_back().await;
        }
        Ok(())
    }
}

fn values(parameters: Vec<Value>) -> Vec<data::Value> {
    parameters
        .into_iter()
        .map(|value| match value {
            Value::Null => data::Value::Null,
            Value::Boolean(v) => data::Value::Boolean(v),
            Value::Integer(v) => data::Value::Integer(v),
            Value::Real(v) => data::Value::Real(v),
            Value::Text(v) => data::Value::Text(v),
            Value::Blob(v) => data::Value::Blob(v),
        })
        .collect()
}

impl From<data::Rows> for Rows {
    fn from(rows: data::Rows) -> Self {
        let value = |value| match value {
            data::Value::Null => Value::Null,
            data::Value::Boolean(v) => Value::Boolean(v),
            data::Value::Integer(v) => Value::Integer(v),
            data::Value::Real(v) => Value::Real(v),
            data::Value::Text(v) => Value::Text(v),
            data::Value::Blob(v) => Value::Blob(v),
        };
        let row = |row: Vec<data::Value>| row.into_iter().map(value).collect();
        Self { columns: rows.columns, rows: rows.rows.into_iter().map(row).collect() }
    }
}

impl From<SqlError> for Error {
    fn from(error: SqlError) -> Self {
        match error {
            SqlError::Invalid(text) => Self::Invalid(text),
            SqlError::Refused(text) => Self::Refused(text),
            SqlError::Violates { kind, message } => {
                let kind = match kind {
                    ConstraintKind::Unique => wit::ConstraintKind::Unique,
                    ConstraintKind::ForeignKey => wit::ConstraintKind::ForeignKey,
                    ConstraintKind::NotNull => wit::ConstraintKind::NotNull,
                    ConstraintKind::Check => wit::ConstraintKind::Check,
                };
                Self::Violates(wit::Violation { kind, message })
            }
            SqlError::Conflict(text) => Self::Conflict(text),
            SqlError::TransactionOpen => Self::TransactionOpen,
            SqlError::Aborted => Self::Aborted,
            SqlError::TooLarge(text) => Self::TooLarge(text),
            SqlError::Deadline => Self::Deadline,
            SqlError::Unavailable(text) => Self::Unavailable(text),
        }
    }
}
