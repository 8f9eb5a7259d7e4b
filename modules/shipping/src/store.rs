//! Shipments in the tables `shipments` and `shipment_lines`.
//!
//! They are written while an event is handled, so in the transaction of that event, and read by one statement. A
//! conflict of the read is run again, a bounded number of times; one of the writes is the host's to repeat.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::bindings::cleave::call::types::Failure;
use crate::bindings::cleave::events::types::Error as EventError;
use crate::bindings::cleave::sql::database::{self, Error as SqlError, Value};
use crate::bindings::exports::shop::shipping::shipments::{Error, Line, Shipment, Status};

/// How often a statement runs when other transactions are in its way.
const ATTEMPTS_MAX: u32 = 5;

/// The shipment of an order.
pub(crate) fn shipment(order_id: String) -> Result<Option<Shipment>, Error> {
    let statement = "SELECT s.id, s.order_id, s.user_id, s.status, l.sku, l.quantity \
                     FROM shipments s JOIN shipment_lines l ON l.order_id = s.order_id \
                     WHERE s.order_id = $1 ORDER BY l.number";
    let parameters = [Value::Text(order_id)];
    let mut attempt = 1;
    let rows = loop {
        match database::query(statement, &parameters) {
            Ok(rows) => break rows.rows,
            Err(SqlError::Conflict(_)) if attempt < ATTEMPTS_MAX => attempt += 1,
            Err(error) => return Err(Error::Failed(Failure::Unavailable(told(&error)))),
        }
    };
    shipment_of(rows).ok_or_else(|| {
        Error::Failed(Failure::Unavailable("shipping database: a shipment cannot be read".to_owned()))
    })
}

/// Writes a new shipment as part of handling an event: the host commits.
///
/// A second shipment for an order is an error, not a repetition: the host delivers each event once.
pub(crate) fn insert(shipment: &Shipment) -> Result<(), EventError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let created_at = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    let order_id = Value::Text(shipment.order_id.clone());
    database::execute(
        "INSERT INTO shipments (order_id, id, user_id, status, created_at) VALUES ($1, $2, $3, $4, $5)",
        &[
            order_id.clone(),
            Value::Text(shipment.id.clone()),
            Value::Text(shipment.user_id.clone()),
            Value::Text(status_text(shipment.status).to_owned()),
            Value::Integer(created_at),
        ],
    )
    .map_err(event_error)?;
    for (number, line) in (0i64..).zip(&shipment.lines) {
        database::execute(
            "INSERT INTO shipment_lines (order_id, number, sku, quantity) VALUES ($1, $2, $3, $4)",
            &[
                order_id.clone(),
                Value::Integer(number),
                Value::Text(line.sku.clone()),
                Value::Integer(line.quantity.into()),
            ],
        )
        .map_err(event_error)?;
    }
    Ok(())
}

/// Reads the rows of one shipment; none if there are no rows.
fn shipment_of(rows: Vec<Vec<Value>>) -> Option<Option<Shipment>> {
    let mut shipment: Option<Shipment> = None;
    for row in rows {
        let [
            Value::Text(id),
            Value::Text(order_id),
            Value::Text(user_id),
            Value::Text(status),
            Value::Text(sku),
            Value::Integer(quantity),
        ] = <[Value; 6]>::try_from(row).ok()?
        else {
            return None;
        };
        let status = status_of(&status)?;
        let empty = Shipment { id, order_id, user_id, status, lines: Vec::new() };
        let line = Line { sku, quantity: quantity.try_into().ok()? };
        shipment.get_or_insert(empty).lines.push(line);
    }
    Some(shipment)
}

fn status_text(status: Status) -> &'static str {
    match status {
        Status::Created => "created",
    }
}

fn status_of(text: &str) -> Option<Status> {
    match text {
        "created" => Some(Status::Created),
        _ => None,
    }
}

/// What a failed statement means for the event: later, if it may go better then.
fn event_error(error: SqlError) -> EventError {
    let message = told(&error);
    match error {
        SqlError::Conflict(_) | SqlError::Aborted | SqlError::Deadline | SqlError::Unavailable(_) => {
            EventError::Retry(message)
        }
        _ => EventError::Reject(message),
    }
}

fn told(error: &SqlError) -> String {
    format!("shipping database: {error:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::cleave::sql::database::{ConstraintKind, Violation};

    fn row(status: &str, sku: &str, quantity: i64) -> Vec<Value> {
        let text = |text: &str| Value::Text(text.into());
        vec![text("s-1"), text("o-1"), text("ada"), text(status), text(sku), Value::Integer(quantity)]
    }

    #[test]
    fn rows_are_lines_of_one_shipment() {
        assert_eq!(shipment_of(Vec::new()), Some(None));
        let lines = vec![Line { sku: "b".into(), quantity: 2 }, Line { sku: "a".into(), quantity: 1 }];
        let expected = Shipment {
            id: "s-1".into(),
            order_id: "o-1".into(),
            user_id: "ada".into(),
            status: Status::Created,
            lines,
        };
        let written = status_text(expected.status);
        assert_eq!(shipment_of(vec![row(written, "b", 2), row(written, "a", 1)]), Some(Some(expected)));
    }

    #[test]
    fn rows_of_another_shape_are_no_shipment() {
        assert_eq!(shipment_of(vec![row("lost", "a", 1)]), None);
        assert_eq!(shipment_of(vec![row("created", "a", -1)]), None);
        assert_eq!(shipment_of(vec![vec![Value::Null]]), None);
    }

    #[test]
    fn second_shipment_is_a_dead_letter() {
        let violation = Violation { kind: ConstraintKind::Unique, message: String::new() };
        assert!(matches!(event_error(SqlError::Violates(violation)), EventError::Reject(_)));
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
        assert!(matches!(event_error(SqlError::Invalid(String::new())), EventError::Reject(_)));
    }
}
