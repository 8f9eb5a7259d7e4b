//! Notifications in the table `notifications`, written once for each order and kind and never changed.
//!
//! They are written while an event is handled, so in the transaction of that event, and read by one statement. A
//! conflict of the read is run again, a bounded number of times; one of the writes is the host's to repeat.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::bindings::cleave::call::types::Failure;
use crate::bindings::cleave::events::types::Error as EventError;
use crate::bindings::cleave::sql::database::{self, Error as SqlError, Value};
use crate::bindings::exports::shop::notifications::messages::{Error, Kind, Notification};

/// How often a statement runs when other transactions are in its way.
const ATTEMPTS_MAX: u32 = 5;
/// The most notifications that are told at once.
const TOLD_MAX: i64 = 100;

/// The newest notifications of a user, newest first.
pub(crate) fn newest(user_id: String) -> Result<Vec<Notification>, Error> {
    let statement = "SELECT id, user_id, order_id, kind, text FROM notifications WHERE user_id = $1 \
                     ORDER BY created_at DESC, id DESC LIMIT $2";
    let parameters = [Value::Text(user_id), Value::Integer(TOLD_MAX)];
    let mut attempt = 1;
    let rows = loop {
        match database::query(statement, &parameters) {
            Ok(rows) => break rows.rows,
            Err(SqlError::Conflict(_)) if attempt < ATTEMPTS_MAX => attempt += 1,
            Err(error) => return Err(Error::Failed(Failure::Unavailable(told(&error)))),
        }
    };
    rows.into_iter().map(read).collect::<Option<Vec<_>>>().ok_or_else(|| {
        Error::Failed(Failure::Unavailable("notifications database: one cannot be read".to_owned()))
    })
}

/// Writes a notification as part of handling an event: the host commits. One of the kind that stands for the order
/// stays, so that an event that is handled again tells nothing twice.
pub(crate) fn insert(notification: &Notification) -> Result<(), EventError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    database::execute(
        "INSERT INTO notifications (order_id, kind, id, user_id, text, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (order_id, kind) DO NOTHING",
        &[
            Value::Text(notification.order_id.clone()),
            Value::Text(kind_text(notification.kind).to_owned()),
            Value::Text(notification.id.clone()),
            Value::Text(notification.user_id.clone()),
            Value::Text(notification.text.clone()),
            Value::Integer(i64::try_from(now.as_millis()).unwrap_or(i64::MAX)),
        ],
    )
    .map_err(event_error)?;
    Ok(())
}

fn read(row: Vec<Value>) -> Option<Notification> {
    let [Value::Text(id), Value::Text(user_id), Value::Text(order_id), Value::Text(kind), Value::Text(text)] =
        <[Value; 5]>::try_from(row).ok()?
    else {
        return None;
    };
    Some(Notification { id, user_id, order_id, kind: kind_of(&kind)?, text })
}

fn kind_text(kind: Kind) -> &'static str {
    match kind {
        Kind::OrderPlaced => "order-placed",
        Kind::ShipmentCreated => "shipment-created",
    }
}

fn kind_of(text: &str) -> Option<Kind> {
    match text {
        "order-placed" => Some(Kind::OrderPlaced),
        "shipment-created" => Some(Kind::ShipmentCreated),
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
    format!("notifications database: {error:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: &str) -> Vec<Value> {
        ["n-1", "ada", "o-1", kind, "Done."].map(|text| Value::Text(text.into())).to_vec()
    }

    #[test]
    fn every_kind_is_read_as_it_was_written() {
        for kind in [Kind::OrderPlaced, Kind::ShipmentCreated] {
            let expected = Notification {
                id: "n-1".into(),
                user_id: "ada".into(),
                order_id: "o-1".into(),
                kind,
                text: "Done.".into(),
            };
            assert_eq!(read(row(kind_text(kind))), Some(expected));
        }
    }

    #[test]
    fn rows_of_another_shape_are_no_notifications() {
        for wrong in [row("lost"), row("order-placed")[1..].to_vec(), vec![Value::Null; 5]] {
            assert_eq!(read(wrong.clone()), None, "{wrong:?}");
        }
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
