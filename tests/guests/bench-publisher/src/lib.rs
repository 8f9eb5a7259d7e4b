//! The publisher of the benchmarks: publishes in a loop, so that the cost of being called itself does not count.

mod bindings;

use bindings::cleave::call::types::Failure;
use bindings::cleave::events::types::Error as EventError;
use bindings::cleave::sql::database::{self, Error as SqlError, Transaction};
use bindings::exports::test::bench::publisher::Guest;
use bindings::test::bench::events;

/// The component.
pub struct Publisher;

/// What every event says, of about the length of an order with a few lines.
const TEXT: &str = "Two mugs with a handle, a third of a litre each, and a pot for the tea that stays warm in them \
                    for longer than one would think; to be sent to the usual address before the end of the week.";

impl Guest for Publisher {
    fn each(first: u64, count: u32) -> Result<(), Failure> {
        publish(first, count, |number| events::noted(number, TEXT))
    }

    fn together(first: u64, count: u32) -> Result<(), Failure> {
        in_transaction(|| publish(first, count, |number| events::noted(number, TEXT)))
    }

    fn heard_together(first: u64, count: u32) -> Result<(), Failure> {
        in_transaction(|| publish(first, count, |number| events::heard(number, TEXT)))
    }
}

fn publish(first: u64, count: u32, event: impl Fn(u64) -> Result<(), EventError>) -> Result<(), Failure> {
    (first..).take(count as usize).try_for_each(event).map_err(|error| failed(&error))
}

fn in_transaction(run: impl Fn() -> Result<(), Failure>) -> Result<(), Failure> {
    let sql = |error: SqlError| failed(&error);
    let transaction = database::begin().map_err(sql)?;
    run()?;
    Transaction::commit(transaction).map_err(sql)
}

fn failed(error: &dyn std::fmt::Debug) -> Failure {
    Failure::Uncertain(format!("{error:?}"))
}
