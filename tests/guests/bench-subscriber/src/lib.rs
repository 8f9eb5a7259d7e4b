//! A subscriber of the benchmarks: one row for each event, or nothing.

mod bindings;

use bindings::cleave::events::types::Error;
use bindings::cleave::sql::database::{self, Value};
use bindings::exports::test::bench::events::Guest;

/// The component.
pub struct Subscriber;

impl Guest for Subscriber {
    fn noted(number: u64, text: String) -> Result<(), Error> {
        let number = i64::try_from(number).map_err(|error| Error::Reject(error.to_string()))?;
        let row = [Value::Integer(number), Value::Text(text)];
        match database::execute("INSERT INTO notes (number, text) VALUES ($1, $2)", &row) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::Reject(format!("{error:?}"))),
        }
    }

    fn heard(_: u64, _: String) -> Result<(), Error> {
        Ok(())
    }
}
