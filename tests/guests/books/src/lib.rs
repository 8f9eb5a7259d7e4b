//! Keeps the books of a desk that may be careless.

mod bindings;

use std::time::{SystemTime, UNIX_EPOCH};

use bindings::cleave::call::types::Failure;
use bindings::cleave::events::types::Error as EventError;
use bindings::cleave::sql::database::{self, Error, Value};
use bindings::exports::test::mistakes::books::Guest;
use bindings::exports::test::mistakes::events::Guest as Events;
use bindings::test::mistakes::due_events;

/// The component.
pub struct Books;

impl Guest for Books {
    fn add(id: String, cents: u64) -> Result<u64, Failure> {
        Self::receive(id, cents, true)
    }

    fn receive(id: String, cents: u64, careful: bool) -> Result<u64, Failure> {
        let cents = i64::try_from(cents).map_err(|e| Failure::Uncertain(e.to_string()))?;
        let insert = if careful {
            "INSERT INTO amounts (id, cents) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING"
        } else {
            "INSERT INTO amounts (id, cents) VALUES ($1, $2) \
             ON CONFLICT (id) DO UPDATE SET cents = amounts.cents + excluded.cents"
        };
        database::execute(insert, &[Value::Text(id), Value::Integer(cents)]).map_err(failure)?;
        Self::sum()
    }

    fn enter(cents: u64) -> Result<u64, Failure> {
        Self::receive("entered".to_owned(), cents, false)
    }

    fn bill(id: String, cents: u64, careful: bool) -> Result<(), Failure> {
        let said = due_events::due(&id, cents, careful);
        said.map_err(|(EventError::Retry(why) | EventError::Reject(why))| Failure::Uncertain(why))
    }

    fn sum() -> Result<u64, Failure> {
        number("SELECT CAST(coalesce(sum(cents), 0) AS BIGINT) FROM amounts")
    }

    fn is_before(time: u64) -> Result<bool, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(now.as_millis() < u128::from(time))
    }

    fn weigh(bytes: Vec<u8>) -> Result<u64, Failure> {
        Ok(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
    }

    fn latest() -> Result<u64, Failure> {
        number("SELECT number FROM latest")
    }
}

impl Events for Books {
    fn announced(_key: String, number: u32, careful: bool) -> Result<(), EventError> {
        let update = if careful {
            "UPDATE latest SET number = $1 WHERE number < $1"
        } else {
            "UPDATE latest SET number = $1 WHERE number = $1 - 1"
        };
        let written = database::execute(update, &[Value::Integer(i64::from(number))]);
        written.map(drop).map_err(|error| EventError::Retry(format!("{error:?}")))
    }
}

fn number(statement: &str) -> Result<u64, Failure> {
    let found = database::query(statement, &[]).map_err(failure)?;
    match found.rows.first().and_then(|row| row.first()) {
        Some(Value::Integer(number)) => Ok(number.unsigned_abs()),
        other => Err(Failure::Uncertain(format!("the table gives {other:?}"))),
    }
}

fn failure(error: Error) -> Failure {
    Failure::Uncertain(format!("{error:?}"))
}
