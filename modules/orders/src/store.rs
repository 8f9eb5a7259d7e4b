//! Orders in the tables `orders` and `order_lines`.
//!
//! An order and its lines are written in one transaction and read by one statement, so nobody sees half an order.
//! A conflict changed nothing: what met it is run again, a bounded number of times.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::bindings::cleave::call::types::Failure;
use crate::bindings::cleave::sql::database::{self, ConstraintKind, Error as SqlError, Value};
use crate::bindings::exports::shop::orders::checkout::{Error, Line, Order, Status};

/// How often a statement or transaction runs when others are in its way.
const ATTEMPTS_MAX: u32 = 5;

/// The order with this identity.
pub(crate) fn order(id: &str) -> Result<Option<Order>, Error> {
    let statement = "SELECT o.id, o.user_id, o.status, o.total_cents, l.sku, l.quantity, l.unit_price_cents \
                     FROM orders o JOIN order_lines l ON l.order_id = o.id \
                     WHERE o.id = $1 ORDER BY l.number";
    Ok(query(statement, &[Value::Text(id.to_owned())])?.pop())
}

/// The newest orders of a user, newest first.
pub(crate) fn orders_of(user_id: String) -> Result<Vec<Order>, Error> {
    let statement = "SELECT o.id, o.user_id, o.status, o.total_cents, l.sku, l.quantity, l.unit_price_cents \
                     FROM (SELECT id, user_id, status, total_cents, placed_at FROM orders \
                           WHERE user_id = $1 ORDER BY placed_at DESC, id DESC LIMIT 100) o \
                     JOIN order_lines l ON l.order_id = o.id \
                     ORDER BY o.placed_at DESC, o.id DESC, l.number";
    query(statement, &[Value::Text(user_id)])
}

/// Writes a new order. Gives false, and writes nothing, if its identity is taken.
pub(crate) fn insert(order: &Order) -> Result<bool, Error> {
    let mut attempt = 1;
    loop {
        match try_insert(order) {
            Ok(()) => return Ok(true),
            Err(Halt::Taken) => return Ok(false),
            Err(Halt::Conflict) if attempt < ATTEMPTS_MAX => attempt += 1,
            Err(Halt::Conflict) => {
                return Err(Error::Failed(Failure::Unavailable(
                    "orders database: too many writers".to_owned(),
                )));
            }
            Err(Halt::Failed(failure)) => return Err(Error::Failed(failure)),
        }
    }
}

/// Why an order was not written.
enum Halt {
    /// Its identity is taken.
    Taken,
    /// Another transaction was in the way.
    Conflict,
    /// The database failed.
    Failed(Failure),
}

/// Until `commit` nothing stands: an error before it drops the transaction, which rolls it back.
fn try_insert(order: &Order) -> Result<(), Halt> {
    let transaction = database::begin().map_err(halt)?;
    let parameters = order_parameters(order).ok_or_else(|| Halt::Failed(unreadable("a total")))?;
    transaction
        .execute(
            "INSERT INTO orders (id, user_id, status, total_cents, placed_at) VALUES ($1, $2, $3, $4, $5)",
            &parameters,
        )
        .map_err(halt)?;
    for (number, line) in (0i64..).zip(&order.lines) {
        let parameters =
            line_parameters(&order.id, number, line).ok_or_else(|| Halt::Failed(unreadable("a price")))?;
        transaction
            .execute(
                "INSERT INTO order_lines (order_id, number, sku, quantity, unit_price_cents) \
                 VALUES ($1, $2, $3, $4, $5)",
                &parameters,
            )
            .map_err(halt)?;
    }
    database::Transaction::commit(transaction).map_err(|error| match error {
        SqlError::Unavailable(message) => {
            Halt::Failed(Failure::Uncertain(format!("orders database: {message}")))
        }
        error => halt(error),
    })
}

fn order_parameters(order: &Order) -> Option<[Value; 5]> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Some([
        Value::Text(order.id.clone()),
        Value::Text(order.user_id.clone()),
        Value::Text(status_text(order.status).to_owned()),
        Value::Integer(i64::try_from(order.total_cents).ok()?),
        Value::Integer(i64::try_from(now.as_millis()).ok()?),
    ])
}

fn line_parameters(order_id: &str, number: i64, line: &Line) -> Option<[Value; 5]> {
    Some([
        Value::Text(order_id.to_owned()),
        Value::Integer(number),
        Value::Text(line.sku.clone()),
        Value::Integer(line.quantity.into()),
        Value::Integer(i64::try_from(line.unit_price_cents).ok()?),
    ])
}

/// Runs a statement that gives the lines of orders, those of one order together.
fn query(statement: &str, parameters: &[Value]) -> Result<Vec<Order>, Error> {
    let mut attempt = 1;
    let rows = loop {
        match database::query(statement, parameters) {
            Ok(rows) => break rows.rows,
            Err(SqlError::Conflict(_)) if attempt < ATTEMPTS_MAX => attempt += 1,
            Err(error) => return Err(Error::Failed(nothing_changed(error))),
        }
    };
    let mut orders: Vec<Order> = Vec::new();
    for row in rows {
        let (order, line) = order_and_line(row).ok_or_else(|| Error::Failed(unreadable("an order")))?;
        match orders.last_mut() {
            Some(last) if last.id == order.id => last.lines.push(line),
            _ => orders.push(Order { lines: vec![line], ..order }),
        }
    }
    Ok(orders)
}

/// Reads a row: an order, still without lines, and one of its lines.
fn order_and_line(row: Vec<Value>) -> Option<(Order, Line)> {
    let [
        Value::Text(id),
        Value::Text(user_id),
        Value::Text(status),
        Value::Integer(total_cents),
        Value::Text(sku),
        Value::Integer(quantity),
        Value::Integer(unit_price_cents),
    ] = <[Value; 7]>::try_from(row).ok()?
    else {
        return None;
    };
    let order = Order {
        id,
        user_id,
        status: status_of(&status)?,
        total_cents: total_cents.try_into().ok()?,
        lines: Vec::new(),
    };
    let line = Line {
        sku,
        quantity: quantity.try_into().ok()?,
        unit_price_cents: unit_price_cents.try_into().ok()?,
    };
    Some((order, line))
}

fn status_text(status: Status) -> &'static str {
    match status {
        Status::Pending => "pending",
    }
}

fn status_of(text: &str) -> Option<Status> {
    match text {
        "pending" => Some(Status::Pending),
        _ => None,
    }
}

fn halt(error: SqlError) -> Halt {
    match error {
        SqlError::Violates(violation) if violation.kind == ConstraintKind::Unique => Halt::Taken,
        SqlError::Conflict(_) => Halt::Conflict,
        error => Halt::Failed(nothing_changed(error)),
    }
}

fn nothing_changed(error: SqlError) -> Failure {
    Failure::Unavailable(format!("orders database: {error:?}"))
}

fn unreadable(what: &str) -> Failure {
    Failure::Unavailable(format!("orders database: {what} is not of the kind it should be"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_read_as_it_was_written() {
        assert_eq!(status_of(status_text(Status::Pending)), Some(Status::Pending));
        assert_eq!(status_of("lost"), None);
    }

    #[test]
    fn rows_of_another_shape_are_no_orders() {
        assert_eq!(order_and_line(vec![Value::Null]), None);
        let row = |quantity| {
            vec![
                Value::Text("id".into()),
                Value::Text("ada".into()),
                Value::Text("pending".into()),
                Value::Integer(1),
                Value::Text("a".into()),
                Value::Integer(quantity),
                Value::Integer(1),
            ]
        };
        assert!(order_and_line(row(1)).is_some());
        assert_eq!(order_and_line(row(-1)), None);
    }
}
