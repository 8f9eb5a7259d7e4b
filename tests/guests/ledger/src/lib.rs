//! A module that remembers what ran: a row for each call.

mod bindings;

use bindings::cleave::call::types::Failure;
use bindings::cleave::sql::database::{self, Error, Value};
use bindings::exports::test::ledger::ledger::{Guest, Run};
use std::time::Duration;

/// The component.
pub struct Ledger;

impl Guest for Ledger {
    fn note(id: String, ms: u64) -> Result<u64, Failure> {
        let insert = "INSERT INTO runs (number, id) \
                      VALUES ((SELECT coalesce(max(number), 0) + 1 FROM runs), $1) RETURNING number";
        let rows = query(insert, &[Value::Text(id)])?;
        std::thread::sleep(Duration::from_millis(ms));
        rows.into_iter().flatten().map(number).next().unwrap_or_else(|| Err(unexpected("no number")))
    }

    fn note_again(id: String, ms: u64) -> Result<u64, Failure> {
        Self::note(id, ms)
    }

    fn runs(after: u64) -> Result<Vec<Run>, Failure> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let select = "SELECT number, id FROM runs WHERE number > $1 ORDER BY number LIMIT 5000";
        let run = |row: Vec<Value>| match <[Value; 2]>::try_from(row) {
            Ok([found, Value::Text(id)]) => Ok(Run { number: number(found)?, id }),
            other => Err(unexpected(&format!("{other:?}"))),
        };
        query(select, &[Value::Integer(after)])?.into_iter().map(run).collect()
    }
}

fn query(statement: &str, parameters: &[Value]) -> Result<Vec<Vec<Value>>, Failure> {
    let failure = |error: Error| Failure::Uncertain(format!("{error:?}"));
    database::query(statement, parameters).map(|found| found.rows).map_err(failure)
}

fn number(value: Value) -> Result<u64, Failure> {
    match value {
        Value::Integer(number) => u64::try_from(number).map_err(|e| unexpected(&e.to_string())),
        other => Err(unexpected(&format!("{other:?}"))),
    }
}

fn unexpected(what: &str) -> Failure {
    Failure::Uncertain(format!("the table gives {what}"))
}
