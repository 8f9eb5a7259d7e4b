//! Runs whatever SQL a test gives, and keeps a transaction longer than it lives.

use std::cell::RefCell;

use crate::bindings::cleave::call::types::Failure;
use crate::bindings::cleave::sql::database::{self, Error, Transaction};
use crate::bindings::exports::test::hostile::acts::Value;

thread_local! {
    /// A transaction of an earlier call.
    static KEPT: RefCell<Option<Transaction>> = const { RefCell::new(None) };
}

/// Begins a transaction, writes in it and keeps the handle.
pub(crate) fn keep_transaction() -> Result<u32, Failure> {
    let refused = |error: Error| Failure::Uncertain(format!("{error:?}"));
    let transaction = database::begin().map_err(refused)?;
    transaction
        .execute("INSERT INTO notes (id, body) VALUES ('kept', 'uncommitted')", &[])
        .map_err(refused)?;
    KEPT.set(Some(transaction));
    Ok(1)
}

/// Uses the kept handle: 1 worked, 0 aborted, 2 refused otherwise, 3 none kept.
pub(crate) fn use_kept_transaction() -> u32 {
    let Some(transaction) = KEPT.take() else {
        return 3;
    };
    let written = transaction.execute("UPDATE notes SET body = 'used' WHERE id = 'kept'", &[]);
    match written.and_then(|_| Transaction::commit(transaction)) {
        Ok(()) => 1,
        Err(Error::Aborted) => 0,
        Err(_) => 2,
    }
}

/// The rows of a query, or its error, as text.
pub(crate) fn query(statement: &str, parameters: Vec<Value>) -> String {
    format!("{:?}", database::query(statement, &sql_values(parameters)))
}

/// The number of rows a statement changed, or its error, as text.
pub(crate) fn execute(statement: &str, parameters: Vec<Value>) -> String {
    format!("{:?}", database::execute(statement, &sql_values(parameters)))
}

/// What became of `begin`, of each statement and of `commit`, as text.
pub(crate) fn in_transaction(statements: &[String]) -> Vec<String> {
    let transaction = match database::begin() {
        Ok(transaction) => transaction,
        Err(error) => return vec![format!("Err({error:?})")],
    };
    let mut outcomes = vec!["Ok(())".to_owned()];
    outcomes.extend(statements.iter().map(|statement| format!("{:?}", transaction.execute(statement, &[]))));
    outcomes.push(format!("{:?}", Transaction::commit(transaction)));
    outcomes
}

fn sql_values(values: Vec<Value>) -> Vec<database::Value> {
    values.into_iter().map(sql_value).collect()
}

fn sql_value(value: Value) -> database::Value {
    match value {
        Value::Null => database::Value::Null,
        Value::Boolean(value) => database::Value::Boolean(value),
        Value::Integer(value) => database::Value::Integer(value),
        Value::Real(value) => database::Value::Real(value),
        Value::Text(value) => database::Value::Text(value),
        Value::Blob(value) => database::Value::Blob(value),
    }
}
