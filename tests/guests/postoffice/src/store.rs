//! The post office's tables `sent` and `answers`.

use crate::bindings::cleave::call::types::Failure;
use crate::bindings::cleave::sql::database::{self, Error, Transaction, Value};
use crate::bindings::exports::test::letters::office::Answer;

pub(crate) fn write_sent(transaction: &Transaction, body: &str) -> Result<u64, Error> {
    let insert =
        "INSERT INTO sent (number, body) VALUES ((SELECT coalesce(max(number), 0) + 1 FROM sent), $1)";
    transaction.execute(insert, &[Value::Text(body.to_owned())])
}

/// Fails: a row needs a body.
pub(crate) fn write_nothing(transaction: &Transaction) -> Result<u64, Error> {
    transaction.execute("INSERT INTO sent (number, body) VALUES (0, NULL)", &[])
}

pub(crate) fn sent() -> Result<Vec<String>, Failure> {
    let rows = query("SELECT body FROM sent ORDER BY number")?;
    Ok(rows.into_iter().flatten().map(text).collect())
}

/// Writes an answer; in a handler this joins the handler's transaction.
pub(crate) fn write_answer(answer: &Answer) -> Result<u64, Error> {
    let insert = "INSERT INTO answers (number, key, text, event) \
                  VALUES ((SELECT coalesce(max(number), 0) + 1 FROM answers), $1, $2, $3)";
    let values = [&answer.key, &answer.text, &answer.event].map(|text| Value::Text(text.clone()));
    database::execute(insert, &values)
}

pub(crate) fn answers() -> Result<Vec<Answer>, Failure> {
    let rows = query("SELECT key, text, event FROM answers ORDER BY number")?;
    let answer = |row: Vec<Value>| {
        let mut row = row.into_iter().map(text);
        Some(Answer { key: row.next()?, text: row.next()?, event: row.next()? })
    };
    Ok(rows.into_iter().filter_map(answer).collect())
}

pub(crate) fn failure(error: Error) -> Failure {
    Failure::Uncertain(format!("{error:?}"))
}

fn query(statement: &str) -> Result<Vec<Vec<Value>>, Failure> {
    database::query(statement, &[]).map(|found| found.rows).map_err(failure)
}

fn text(value: Value) -> String {
    match value {
        Value::Text(text) => text,
        other => format!("{other:?}"),
    }
}
