//! Owns `cleave:sql`: a module's statements on its own database, one transaction a call at most.
//!
//! The open transaction lives in the instance's [`State`], not behind the handle that the module holds: a handle is only
//! the number of its transaction. So a transaction ends with its call wherever the handle was put, and a handle kept for
//! later is dead.

use super::State;
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
    /// The module's database, when no transaction is open.
    fn database(&self) -> Result<&Database, Error> {
        if self.transaction.is_some() {
            return Err(Error::TransactionOpen);
        }
        self.shared
            .database
            .as_ref()
            .ok_or_else(|| Error::Refused("the module was not granted `sql`".to_owned()))
    }

    /// The open transaction, if this is its handle.
    fn transaction(
        &mut self,
        handle: &Resource<TransactionHandle>,
    ) -> wasmtime::Result<Result<&mut data::Transaction, Error>> {
        let number = self.table.get(handle)?.0;
        let newest = number == self.transactions;
        Ok(self.transaction.as_mut().filter(|_| newest).ok_or(Error::Aborted))
    }
}

impl wit::Host for State {
    async fn query(
        &mut self,
        statement: String,
        parameters: Vec<Value>,
    ) -> wasmtime::Result<Result<Rows, Error>> {
        let database = match self.database() {
            Ok(database) => database,
            Err(error) => return Ok(Err(error)),
        };
        let rows = database.query(&statement, &values(parameters), self.call.deadline.instant()).await;
        Ok(rows.map(Rows::from).map_err(Error::from))
    }

    async fn execute(
        &mut self,
        statement: String,
        parameters: Vec<Value>,
    ) -> wasmtime::Result<Result<u64, Error>> {
        let database = match self.database() {
            Ok(database) => database,
            Err(error) => return Ok(Err(error)),
        };
        let changed = database.execute(&statement, &values(parameters), self.call.deadline.instant()).await;
        Ok(changed.map_err(Error::from))
    }

    async fn begin(&mut self) -> wasmtime::Result<Result<Resource<TransactionHandle>, Error>> {
        let database = match self.database() {
            Ok(database) => database,
            Err(error) => return Ok(Err(error)),
        };
        let transaction = match database.begin(self.call.deadline.instant()).await {
            Ok(transaction) => transaction,
            Err(error) => return Ok(Err(error.into())),
        };
        self.transactions += 1;
        let handle = self.table.push(TransactionHandle(self.transactions))?;
        self.transaction = Some(transaction);
        Ok(Ok(handle))
    }
}

impl wit::HostTransaction for State {
    async fn query(
        &mut self,
        this: Resource<TransactionHandle>,
        statement: String,
        parameters: Vec<Value>,
    ) -> wasmtime::Result<Result<Rows, Error>> {
        let transaction = match self.transaction(&this)? {
            Ok(transaction) => transaction,
            Err(error) => return Ok(Err(error)),
        };
        let rows = transaction.query(&statement, &values(parameters)).await;
        Ok(rows.map(Rows::from).map_err(Error::from))
    }

    async fn execute(
        &mut self,
        this: Resource<TransactionHandle>,
        statement: String,
        parameters: Vec<Value>,
    ) -> wasmtime::Result<Result<u64, Error>> {
        let transaction = match self.transaction(&this)? {
            Ok(transaction) => transaction,
            Err(error) => return Ok(Err(error)),
        };
        Ok(transaction.execute(&statement, &values(parameters)).await.map_err(Error::from))
    }

    async fn commit(&mut self, this: Resource<TransactionHandle>) -> wasmtime::Result<Result<(), Error>> {
        let number = self.table.delete(this)?.0;
        if number != self.transactions {
            return Ok(Err(Error::Aborted));
        }
        let Some(transaction) = self.transaction.take() else { return Ok(Err(Error::Aborted)) };
        Ok(transaction.commit().await.map_err(Error::from))
    }

    async fn drop(&mut self, this: Resource<TransactionHandle>) -> wasmtime::Result<()> {
        let number = self.table.delete(this)?.0;
        if number == self.transactions {
            self.transaction = None;
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
