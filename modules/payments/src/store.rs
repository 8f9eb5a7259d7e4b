//! Answers to charges in the table `charges`, one for an order, written once and never changed.
//!
//! A conflict changed nothing: the statement that met it is run again, a bounded number of times.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::bindings::cleave::call::types::Failure;
use crate::bindings::cleave::sql::database::{self, Error as SqlError, Value};
use crate::bindings::exports::shop::payments::charges::{Error, Payment, Status};
use crate::rules::Answer;

/// How often a statement runs when other transactions are in its way.
const ATTEMPTS_MAX: u32 = 5;

/// What stands for an order, if anything does.
pub(crate) fn answer(order_id: &str) -> Result<Option<Answer>, Error> {
    let statement = "SELECT order_id, amount_cents, status, reason FROM charges WHERE order_id = $1";
    let parameters = [Value::Text(order_id.to_owned())];
    let rows = repeat(|| database::query(statement, &parameters))?;
    let Some(row) = rows.rows.into_iter().next() else {
        return Ok(None);
    };
    read(row).map(Some).ok_or_else(|| unreadable("a charge"))
}

/// Writes an answer. Gives false, and writes nothing, if one stands for the order.
pub(crate) fn insert(answer: &Answer) -> Result<bool, Error> {
    let statement = "INSERT INTO charges (order_id, amount_cents, status, reason, answered_at) \
                     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (order_id) DO NOTHING";
    let parameters = parameters(answer).ok_or_else(|| unreadable("an amount"))?;
    Ok(repeat(|| database::execute(statement, &parameters))? == 1)
}

fn parameters(answer: &Answer) -> Option<[Value; 5]> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Some([
        Value::Text(answer.payment.order_id.clone()),
        Value::Integer(answer.payment.amount_cents.try_into().ok()?),
        Value::Text(status_text(answer.payment.status).to_owned()),
        Value::Text(answer.reason.clone()),
        Value::Integer(now.as_millis().try_into().ok()?),
    ])
}

fn read(row: Vec<Value>) -> Option<Answer> {
    let [Value::Text(order_id), Value::Integer(amount_cents), Value::Text(status), Value::Text(reason)] =
        <[Value; 4]>::try_from(row).ok()?
    else {
        return None;
    };
    let amount_cents = amount_cents.try_into().ok()?;
    Some(Answer { payment: Payment { order_id, amount_cents, status: status_of(&status)? }, reason })
}

fn status_text(status: Status) -> &'static str {
    match status {
        Status::Charged => "charged",
        Status::Declined => "declined",
        Status::Voided => "voided",
    }
}

fn status_of(text: &str) -> Option<Status> {
    match text {
        "charged" => Some(Status::Charged),
        "declined" => Some(Status::Declined),
        "voided" => Some(Status::Voided),
        _ => None,
    }
}

/// Runs a statement, again if it meets a conflict.
fn repeat<T>(run: impl Fn() -> Result<T, SqlError>) -> Result<T, Error> {
    let mut attempt = 1;
    loop {
        match run() {
            Err(SqlError::Conflict(_)) if attempt < ATTEMPTS_MAX => attempt += 1,
            outcome => return outcome.map_err(failed),
        }
    }
}

/// What a failed statement means to the caller. Only an unusable database leaves open whether a write stands.
fn failed(error: SqlError) -> Error {
    Error::Failed(match error {
        SqlError::Unavailable(message) => Failure::Uncertain(format!("payments database: {message}")),
        error => Failure::Unavailable(format!("payments database: {error:?}")),
    })
}

pub(crate) fn unreadable(what: &str) -> Error {
    Error::Failed(Failure::Uncertain(format!("payments database: {what} cannot be read")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_read_as_it_was_written() {
        for (status, reason) in
            [(Status::Charged, ""), (Status::Declined, "no"), (Status::Voided, "given up")]
        {
            let payment = Payment { order_id: "o-1".into(), amount_cents: 250, status };
            let answer = Answer { payment, reason: reason.into() };
            let row = parameters(&answer).unwrap()[..4].to_vec();
            assert_eq!(read(row), Some(answer));
        }
    }

    #[test]
    fn rows_of_another_shape_are_no_answers() {
        let row = |amount, status: &str| {
            vec![
                Value::Text("o-1".into()),
                Value::Integer(amount),
                Value::Text(status.into()),
                Value::Text(String::new()),
            ]
        };
        assert!(read(row(1, "charged")).is_some());
        assert_eq!(read(row(-1, "charged")), None);
        assert_eq!(read(row(1, "lost")), None);
        assert_eq!(read(vec![Value::Null]), None);
    }
}
