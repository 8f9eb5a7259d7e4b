//! Stock in the table `stock`, reservations in `reservations` and `reservation_lines`.
//!
//! A reservation and the pieces it moves are one transaction. A conflict changed nothing: what met it is run again, a
//! bounded number of times; in the handler of an event the host does that.

use crate::bindings::cleave::call::types::Failure;
use crate::bindings::cleave::events::types::Error as EventError;
use crate::bindings::cleave::sql::database::{self, Error as SqlError, Transaction, Value};
use crate::bindings::exports::shop::inventory::stock::{Error, Line, ReservationError, Stock};
use crate::rules::{self, Release, Reservation, State};

/// How often a statement or transaction runs when others are in its way.
const ATTEMPTS_MAX: u32 = 5;

/// The stock of a product.
pub(crate) fn stock(sku: String) -> Result<Option<Stock>, Error> {
    let statement = "SELECT sku, available, reserved, sold FROM stock WHERE sku = $1";
    let parameters = [Value::Text(sku)];
    let rows = repeat::<_, Error>(|| Ok(database::query(statement, &parameters)?))?;
    rows.rows.into_iter().next().map(|row| stock_of(row).ok_or_else(|| unreadable("a stock"))).transpose()
}

/// Sets how many pieces of a product are available.
pub(crate) fn put(sku: String, available: u32) -> Result<Stock, Error> {
    let statement = "INSERT INTO stock (sku, available, reserved, sold) VALUES ($1, $2, 0, 0) \
                     ON CONFLICT (sku) DO UPDATE SET available = excluded.available \
                     RETURNING sku, available, reserved, sold";
    let parameters = [Value::Text(sku), Value::Integer(available.into())];
    let rows = repeat::<_, Error>(|| Ok(database::query(statement, &parameters)?))?;
    rows.rows.into_iter().next().and_then(stock_of).ok_or_else(|| unreadable("the stock just written"))
}

/// Moves pieces from available to reserved, all of them or none.
pub(crate) fn reserve(order_id: &str, lines: &[Line]) -> Result<(), ReservationError> {
    repeat(|| {
        let transaction = database::begin()?;
        if let Some(standing) = reservation(&transaction, order_id)? {
            return Ok(rules::reserve_again(order_id, &standing, lines)?);
        }
        write_reservation(&transaction, order_id, State::Reserved)?;
        let mut short = Vec::new();
        for line in lines {
            let parameters = [Value::Text(line.sku.clone()), Value::Integer(line.quantity.into())];
            let taken = transaction.execute(
                "UPDATE stock SET available = available - $2, reserved = reserved + $2 \
                 WHERE sku = $1 AND available >= $2",
                &parameters,
            )?;
            if taken == 0 {
                short.push(line.sku.clone());
                continue;
            }
            let [sku, quantity] = parameters;
            transaction.execute(
                "INSERT INTO reservation_lines (order_id, sku, quantity) VALUES ($1, $2, $3)",
                &[Value::Text(order_id.to_owned()), sku, quantity],
            )?;
        }
        if !short.is_empty() {
            // The transaction is dropped, which rolls it back.
            return Err(Halt::Answer(ReservationError::OutOfStock(short)));
        }
        Ok(Transaction::commit(transaction)?)
    })
}

/// Moves the pieces of an order from reserved to available, and sees that it never gets any again.
pub(crate) fn release(order_id: &str) -> Result<(), ReservationError> {
    repeat(|| {
        let transaction = database::begin()?;
        let standing = reservation(&transaction, order_id)?;
        match rules::release(order_id, standing.as_ref())? {
            Release::Done => return Ok(()),
            Release::Refuse => write_reservation(&transaction, order_id, State::Released)?,
            Release::GiveBack => {
                transaction.execute(
                    "UPDATE stock SET available = stock.available + l.quantity, \
                                      reserved = stock.reserved - l.quantity \
                     FROM reservation_lines AS l WHERE l.order_id = $1 AND l.sku = stock.sku",
                    &[Value::Text(order_id.to_owned())],
                )?;
                transaction.execute(
                    "UPDATE reservations SET state = $2 WHERE order_id = $1",
                    &[Value::Text(order_id.to_owned()), text(State::Released)],
                )?;
            }
        }
        Ok(Transaction::commit(transaction)?)
    })
}

/// Moves the pieces of an order from reserved to sold, as part of handling an event: the host commits.
///
/// An order without reserved pieces can only be a mistake, of the publisher's or of a second delivery.
pub(crate) fn sell(order_id: &str) -> Result<(), EventError> {
    let id = Value::Text(order_id.to_owned());
    let parameters = [id.clone(), text(State::Sold), text(State::Reserved)];
    let statement = "UPDATE reservations SET state = $2 WHERE order_id = $1 AND state = $3";
    if database::execute(statement, &parameters).map_err(event_error)? == 0 {
        return Err(EventError::Reject(format!("nothing is reserved for order {order_id}")));
    }
    database::execute(
        "UPDATE stock SET reserved = stock.reserved - l.quantity, sold = stock.sold + l.quantity \
         FROM reservation_lines AS l WHERE l.order_id = $1 AND l.sku = stock.sku",
        &[id],
    )
    .map_err(event_error)?;
    Ok(())
}

fn reservation(
    transaction: &Transaction,
    order_id: &str,
) -> Result<Option<Reservation>, Halt<ReservationError>> {
    let rows = transaction.query(
        "SELECT r.state, l.sku, l.quantity FROM reservations r \
         LEFT JOIN reservation_lines l ON l.order_id = r.order_id \
         WHERE r.order_id = $1",
        &[Value::Text(order_id.to_owned())],
    )?;
    reservation_of(rows.rows).ok_or_else(|| Halt::Answer(unreadable("a reservation").into()))
}

fn write_reservation(transaction: &Transaction, order_id: &str, state: State) -> Result<(), SqlError> {
    let statement = "INSERT INTO reservations (order_id, state) VALUES ($1, $2)";
    transaction.execute(statement, &[Value::Text(order_id.to_owned()), text(state)])?;
    Ok(())
}

fn stock_of(row: Vec<Value>) -> Option<Stock> {
    let [Value::Text(sku), Value::Integer(available), Value::Integer(reserved), Value::Integer(sold)] =
        <[Value; 4]>::try_from(row).ok()?
    else {
        return None;
    };
    Some(Stock {
        sku,
        available: available.try_into().ok()?,
        reserved: reserved.try_into().ok()?,
        sold: sold.try_into().ok()?,
    })
}

/// Reads the rows of one reservation; none if there are no rows. A reservation without lines is one row with nulls.
fn reservation_of(rows: Vec<Vec<Value>>) -> Option<Option<Reservation>> {
    let mut reservation: Option<Reservation> = None;
    for row in rows {
        let [Value::Text(state), sku, quantity] = <[Value; 3]>::try_from(row).ok()? else {
            return None;
        };
        let state = state_of(&state)?;
        let lines = &mut reservation.get_or_insert(Reservation { state, lines: Vec::new() }).lines;
        match (sku, quantity) {
            (Value::Null, Value::Null) => {}
            (Value::Text(sku), Value::Integer(quantity)) => {
                lines.push(Line { sku, quantity: quantity.try_into().ok()? });
            }
            _ => return None,
        }
        // Why: the database may have an order of its own for texts.
        lines.sort_by(|a, b| a.sku.cmp(&b.sku));
    }
    Some(reservation)
}

fn text(state: State) -> Value {
    Value::Text(
        match state {
            State::Reserved => "reserved",
            State::Sold => "sold",
            State::Released => "released",
        }
        .to_owned(),
    )
}

fn state_of(text: &str) -> Option<State> {
    match text {
        "reserved" => Some(State::Reserved),
        "sold" => Some(State::Sold),
        "released" => Some(State::Released),
        _ => None,
    }
}

/// Why a transaction was not committed.
enum Halt<E> {
    /// The database said so.
    Sql(SqlError),
    /// This is what the caller is told.
    Answer(E),
}

impl<E> From<SqlError> for Halt<E> {
    fn from(error: SqlError) -> Self {
        Self::Sql(error)
    }
}

impl From<ReservationError> for Halt<ReservationError> {
    fn from(error: ReservationError) -> Self {
        Self::Answer(error)
    }
}

/// Runs a statement or transaction, again if it meets a conflict.
fn repeat<T, E: From<Error>>(run: impl Fn() -> Result<T, Halt<E>>) -> Result<T, E> {
    let mut attempt = 1;
    loop {
        match run() {
            Ok(value) => return Ok(value),
            Err(Halt::Sql(SqlError::Conflict(_))) if attempt < ATTEMPTS_MAX => attempt += 1,
            Err(Halt::Sql(error)) => return Err(failed(error).into()),
            Err(Halt::Answer(error)) => return Err(error),
        }
    }
}

/// What a failed statement means to the caller. Only an unusable database leaves open whether a write stands.
fn failed(error: SqlError) -> Error {
    Error::Failed(match error {
        SqlError::Unavailable(message) => Failure::Uncertain(format!("inventory database: {message}")),
        error => Failure::Unavailable(format!("inventory database: {error:?}")),
    })
}

/// What a failed statement means for the event: later, if it may go better then.
fn event_error(error: SqlError) -> EventError {
    let message = format!("inventory database: {error:?}");
    match error {
        SqlError::Conflict(_) | SqlError::Aborted | SqlError::Deadline | SqlError::Unavailable(_) => {
            EventError::Retry(message)
        }
        _ => EventError::Reject(message),
    }
}

fn unreadable(what: &str) -> Error {
    Error::Failed(Failure::Uncertain(format!("inventory database: {what} cannot be read")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(state: &str, sku: Value, quantity: Value) -> Vec<Value> {
        vec![Value::Text(state.into()), sku, quantity]
    }

    #[test]
    fn every_state_is_read_as_it_was_written() {
        for state in [State::Reserved, State::Sold, State::Released] {
            let Value::Text(text) = text(state) else { panic!("{state:?} is no text") };
            assert_eq!(state_of(&text), Some(state));
        }
        assert_eq!(state_of("lost"), None);
    }

    #[test]
    fn reservations_may_be_absent_empty_or_full() {
        assert_eq!(reservation_of(Vec::new()), Some(None));
        let empty = reservation_of(vec![row("released", Value::Null, Value::Null)]);
        assert_eq!(empty, Some(Some(Reservation { state: State::Released, lines: Vec::new() })));
        let full = reservation_of(vec![
            row("reserved", Value::Text("b".into()), Value::Integer(1)),
            row("reserved", Value::Text("a".into()), Value::Integer(2)),
        ]);
        let lines = vec![Line { sku: "a".into(), quantity: 2 }, Line { sku: "b".into(), quantity: 1 }];
        assert_eq!(full, Some(Some(Reservation { state: State::Reserved, lines })));
    }

    #[test]
    fn rows_of_another_shape_are_not_read() {
        assert_eq!(reservation_of(vec![row("reserved", Value::Null, Value::Integer(1))]), None);
        assert_eq!(reservation_of(vec![row("reserved", Value::Text("a".into()), Value::Integer(-1))]), None);
        assert_eq!(reservation_of(vec![row("lost", Value::Null, Value::Null)]), None);
        let stock =
            |sold| vec![Value::Text("a".into()), Value::Integer(1), Value::Integer(2), Value::Integer(sold)];
        assert_eq!(stock_of(stock(3)), Some(Stock { sku: "a".into(), available: 1, reserved: 2, sold: 3 }));
        assert_eq!(stock_of(stock(-3)), None);
        assert_eq!(stock_of(vec![Value::Null]), None);
    }

    #[test]
    fn events_wait_only_for_what_may_pass() {
        for passing in [
            SqlError::Conflict(String::new()),
            SqlError::Aborted,
            SqlError::Deadline,
            SqlError::Unavailable(String::new()),
        ] {
            assert!(matches!(event_error(passing), EventError::Retry(_)));
        }
        for lasting in [SqlError::Invalid(String::new()), SqlError::TooLarge(String::new())] {
            assert!(matches!(event_error(lasting), EventError::Reject(_)));
        }
    }
}
