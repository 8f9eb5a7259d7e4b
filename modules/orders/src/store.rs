//! Orders in the tables `orders` and `order_lines`.
//!
//! An order and its lines are written in one transaction and read by one statement, so nobody sees half an order. From
//! then on it is changed only while it is pending, and only under the lease it was last taken up by; the change that
//! confirms it publishes the event in the same transaction. A conflict changed nothing: what met it is run again, a
//! bounded number of times.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::bindings::cleave::call::types::Failure;
use crate::bindings::cleave::events::types::Error as EventError;
use crate::bindings::cleave::sql::database::{self, Error as SqlError, Transaction, Value};
use crate::bindings::exports::shop::orders::checkout::{Line, Order, Status};
use crate::bindings::shop::orders::events::{self, PlacedOrder};
use crate::saga::{Placed, Refusal, Step};

/// How often a statement or transaction runs when others are in its way.
const ATTEMPTS_MAX: u32 = 5;
/// How long an order is left to whoever took it up, in milliseconds: twice as long as a call of this module may take, unless
/// config says otherwise.
const LEASE_MS: i64 = 10_000;

/// An order and one of its lines.
const COLUMNS: &str = "o.id, o.user_id, o.status, o.total_cents, o.payment_token, o.step, o.refusal, o.lease, o.tries, \
                       l.sku, l.quantity, l.unit_price_cents";

/// The order with this identity.
pub(crate) fn placed(id: &str) -> Result<Option<Placed>, Failure> {
    let statement = format!(
        "SELECT {COLUMNS} FROM orders o JOIN order_lines l ON l.order_id = o.id \
         WHERE o.id = $1 ORDER BY l.number"
    );
    Ok(query(&statement, &[Value::Text(id.to_owned())])?.pop())
}

/// The newest orders of a user, newest first.
pub(crate) fn placed_by(user_id: String) -> Result<Vec<Placed>, Failure> {
    let statement = format!(
        "SELECT {COLUMNS} FROM orders o JOIN order_lines l ON l.order_id = o.id \
         WHERE o.id IN (SELECT id FROM orders WHERE user_id = $1 ORDER BY placed_at DESC, id DESC LIMIT 100) \
         ORDER BY o.placed_at DESC, o.id DESC, l.number"
    );
    query(&statement, &[Value::Text(user_id)])
}

/// Pending orders that nobody goes on with, and what is to be done for each: charges last, then those that were tried
/// least, then those that wait longest.
pub(crate) fn due(limit: u32) -> Result<Vec<(String, Step)>, Failure> {
    let statement = "SELECT id, step FROM orders WHERE status = 'pending' AND lease_until <= $1 \
                     ORDER BY step = 'charge', tries, lease_until, id LIMIT $2";
    let parameters = [Value::Integer(now_ms()), Value::Integer(limit.into())];
    let rows = repeat(|| Ok(database::query(statement, &parameters)?))?.rows;
    rows.into_iter().map(|row| due_of(row).ok_or_else(|| unreadable("an order that is due"))).collect()
}

fn due_of(row: Vec<Value>) -> Option<(String, Step)> {
    match <[Value; 2]>::try_from(row).ok()? {
        [Value::Text(id), Value::Text(step)] => Some((id, step_of(&step)?)),
        _ => None,
    }
}

/// Writes a new order, taken up by its writer. Gives false, and writes nothing, if its identity is taken.
pub(crate) fn insert(placed: &Placed) -> Result<bool, Failure> {
    let order = order_parameters(placed).ok_or_else(|| unreadable("a total"))?;
    let lines: Option<Vec<_>> = (0i64..)
        .zip(&placed.order.lines)
        .map(|(number, line)| line_parameters(&placed.order.id, number, line))
        .collect();
    let lines = lines.ok_or_else(|| unreadable("a price"))?;
    repeat(|| {
        let transaction = database::begin()?;
        let written = transaction.execute(
            "INSERT INTO orders (id, user_id, status, total_cents, placed_at, payment_token, step, lease, lease_until) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (id) DO NOTHING",
            &order,
        )?;
        if written == 0 {
            return Ok(false);
        }
        for line in &lines {
            transaction.execute(
                "INSERT INTO order_lines (order_id, number, sku, quantity, unit_price_cents) \
                 VALUES ($1, $2, $3, $4, $5)",
                line,
            )?;
        }
        Transaction::commit(transaction)?;
        Ok(true)
    })
}

/// Takes up a pending order that nobody goes on with.
pub(crate) fn take(id: &str) -> Result<Option<Placed>, Failure> {
    let now = now_ms();
    let statement = "UPDATE orders SET lease = lease + 1, lease_until = $2, tries = tries + 1 \
                     WHERE id = $1 AND status = 'pending' AND lease_until <= $3 RETURNING lease";
    let parameters =
        [Value::Text(id.to_owned()), Value::Integer(now.saturating_add(LEASE_MS)), Value::Integer(now)];
    let rows = repeat(|| Ok(database::query(statement, &parameters)?))?.rows;
    let Some(&[Value::Integer(lease)]) = rows.first().map(Vec::as_slice) else {
        return Ok(None);
    };
    // Why: whatever is read now, it is changed only under the number that was taken.
    Ok(placed(id)?.map(|placed| Placed { lease, ..placed }))
}

/// Writes how far an order has come; if it is confirmed, publishes that in the same commit. Gives false, and does
/// neither, if the order is not pending any more or somebody else has taken it up.
pub(crate) fn update(placed: &Placed) -> Result<bool, Failure> {
    let parameters = [
        Value::Text(placed.order.id.clone()),
        Value::Integer(placed.lease),
        Value::Text(status_text(placed.order.status).to_owned()),
        Value::Text(step_text(placed.step).to_owned()),
        placed.refusal.as_ref().map_or(Value::Null, |refusal| Value::Text(refusal_text(refusal))),
        Value::Integer(placed.tries),
    ];
    repeat(|| {
        let transaction = database::begin()?;
        let changed = transaction.execute(
            "UPDATE orders SET status = $3, step = $4, refusal = $5, tries = $6 \
             WHERE id = $1 AND lease = $2 AND status = 'pending'",
            &parameters,
        )?;
        if changed == 0 {
            return Ok(false);
        }
        if placed.order.status == Status::Confirmed {
            events::order_placed(&event(&placed.order))?;
        }
        Transaction::commit(transaction)?;
        Ok(true)
    })
}

/// Leaves an order, if its lease is still held, to whoever takes it up after this time.
pub(crate) fn leave(placed: &Placed, delay_ms: i64) -> Result<(), Failure> {
    let statement = "UPDATE orders SET lease_until = $3 \
                     WHERE id = $1 AND lease = $2 AND status = 'pending'";
    let parameters = [
        Value::Text(placed.order.id.clone()),
        Value::Integer(placed.lease),
        Value::Integer(now_ms().saturating_add(delay_ms)),
    ];
    repeat(|| Ok(database::execute(statement, &parameters)?))?;
    Ok(())
}

fn event(order: &Order) -> PlacedOrder {
    PlacedOrder {
        order_id: order.id.clone(),
        user_id: order.user_id.clone(),
        total_cents: order.total_cents,
        lines: order
            .lines
            .iter()
            .map(|line| events::Line { sku: line.sku.clone(), quantity: line.quantity })
            .collect(),
    }
}

fn order_parameters(placed: &Placed) -> Option<[Value; 9]> {
    let order = &placed.order;
    let now = now_ms();
    Some([
        Value::Text(order.id.clone()),
        Value::Text(order.user_id.clone()),
        Value::Text(status_text(order.status).to_owned()),
        Value::Integer(i64::try_from(order.total_cents).ok()?),
        Value::Integer(now),
        Value::Text(placed.payment_token.clone()),
        Value::Text(step_text(placed.step).to_owned()),
        Value::Integer(placed.lease),
        Value::Integer(now.saturating_add(LEASE_MS)),
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

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Runs a statement that gives the lines of orders, those of one order together.
fn query(statement: &str, parameters: &[Value]) -> Result<Vec<Placed>, Failure> {
    let mut all: Vec<Placed> = Vec::new();
    for row in repeat(|| Ok(database::query(statement, parameters)?))?.rows {
        let (placed, line) = placed_and_line(row).ok_or_else(|| unreadable("an order"))?;
        if all.last().is_none_or(|last| last.order.id != placed.order.id) {
            all.push(placed);
        }
        if let Some(last) = all.last_mut() {
            last.order.lines.push(line);
        }
    }
    Ok(all)
}

/// Reads a row of [`COLUMNS`]: an order, still without lines, and one of its lines.
fn placed_and_line(row: Vec<Value>) -> Option<(Placed, Line)> {
    let [
        Value::Text(id),
        Value::Text(user_id),
        Value::Text(status),
        Value::Integer(total_cents),
        Value::Text(payment_token),
        Value::Text(step),
        refusal,
        Value::Integer(lease),
        Value::Integer(tries),
        Value::Text(sku),
        Value::Integer(quantity),
        Value::Integer(unit_price_cents),
    ] = <[Value; 12]>::try_from(row).ok()?
    else {
        return None;
    };
    let refusal = match refusal {
        Value::Null => None,
        Value::Text(text) => Some(refusal_of(&text)?),
        _ => return None,
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
    Some((Placed { order, payment_token, step: step_of(&step)?, refusal, lease, tries }, line))
}

fn status_text(status: Status) -> &'static str {
    match status {
        Status::Pending => "pending",
        Status::Confirmed => "confirmed",
        Status::Rejected => "rejected",
    }
}

fn status_of(text: &str) -> Option<Status> {
    match text {
        "pending" => Some(Status::Pending),
        "confirmed" => Some(Status::Confirmed),
        "rejected" => Some(Status::Rejected),
        _ => None,
    }
}

fn step_text(step: Step) -> &'static str {
    match step {
        Step::Reserve => "reserve",
        Step::Charge => "charge",
        Step::Void => "void",
        Step::Release => "release",
    }
}

fn step_of(text: &str) -> Option<Step> {
    match text {
        "reserve" => Some(Step::Reserve),
        "charge" => Some(Step::Charge),
        "void" => Some(Step::Void),
        "release" => Some(Step::Release),
        _ => None,
    }
}

/// No SKU has a space in it.
fn refusal_text(refusal: &Refusal) -> String {
    match refusal {
        Refusal::OutOfStock(skus) => format!("out-of-stock {}", skus.join(" ")),
        Refusal::Declined(reason) => format!("declined {reason}"),
        Refusal::Invalid(message) => format!("invalid {message}"),
    }
}

fn refusal_of(text: &str) -> Option<Refusal> {
    match text.split_once(' ')? {
        ("out-of-stock", skus) => {
            Some(Refusal::OutOfStock(skus.split_terminator(' ').map(str::to_owned).collect()))
        }
        ("declined", reason) => Some(Refusal::Declined(reason.to_owned())),
        ("invalid", message) => Some(Refusal::Invalid(message.to_owned())),
        _ => None,
    }
}

/// Why a statement or transaction did not come to its end.
enum Halt {
    /// The database said so.
    Sql(SqlError),
    /// The event was not taken.
    Event(EventError),
}

impl From<SqlError> for Halt {
    fn from(error: SqlError) -> Self {
        Self::Sql(error)
    }
}

impl From<EventError> for Halt {
    fn from(error: EventError) -> Self {
        Self::Event(error)
    }
}

/// Runs a statement or transaction, again if it meets a conflict.
fn repeat<T>(run: impl Fn() -> Result<T, Halt>) -> Result<T, Failure> {
    let mut attempt = 1;
    loop {
        match run() {
            Ok(value) => return Ok(value),
            Err(Halt::Sql(SqlError::Conflict(_))) if attempt < ATTEMPTS_MAX => attempt += 1,
            Err(halt) => return Err(failure(halt)),
        }
    }
}

/// What a halt means to the caller. Only an unusable database leaves open whether a write stands.
fn failure(halt: Halt) -> Failure {
    match halt {
        Halt::Sql(SqlError::Unavailable(message)) => {
            Failure::Uncertain(format!("orders database: {message}"))
        }
        Halt::Sql(error) => Failure::Unavailable(format!("orders database: {error:?}")),
        Halt::Event(EventError::Retry(message) | EventError::Reject(message)) => {
            Failure::Unavailable(format!("order-placed: {message}"))
        }
    }
}

fn unreadable(what: &str) -> Failure {
    Failure::Unavailable(format!("orders database: {what} is not of the kind it should be"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(status: &str, step: &str, refusal: Value, quantity: i64) -> Vec<Value> {
        let text = |text: &str| Value::Text(text.into());
        let number = Value::Integer;
        let mut row = vec![text("o-1"), text("ada"), text(status), number(250), text("tok_visa"), text(step)];
        row.extend([refusal, number(7), number(3), text("a"), number(quantity), number(250)]);
        row
    }

    #[test]
    fn every_state_is_read_as_it_was_written() {
        for status in [Status::Pending, Status::Confirmed, Status::Rejected] {
            assert_eq!(status_of(status_text(status)), Some(status));
        }
        for step in [Step::Reserve, Step::Charge, Step::Void, Step::Release] {
            assert_eq!(step_of(step_text(step)), Some(step));
        }
        assert_eq!((status_of("lost"), step_of("lost")), (None, None));
    }

    #[test]
    fn every_refusal_is_read_as_it_was_written() {
        for refusal in [
            Refusal::OutOfStock(vec!["a".into(), "b.1".into()]),
            Refusal::OutOfStock(Vec::new()),
            Refusal::Declined("no funds left".into()),
            Refusal::Declined(String::new()),
            Refusal::Invalid("the order has no payment-token".into()),
        ] {
            assert_eq!(refusal_of(&refusal_text(&refusal)), Some(refusal));
        }
        assert_eq!((refusal_of("lost cause"), refusal_of("declined")), (None, None));
    }

    #[test]
    fn rows_are_orders_on_their_way() {
        let (placed, line) =
            placed_and_line(row("pending", "release", Value::Text("declined no".into()), 1)).unwrap();
        assert_eq!(placed.order.status, Status::Pending);
        assert_eq!((placed.step, placed.lease, placed.tries), (Step::Release, 7, 3));
        assert_eq!(placed.refusal, Some(Refusal::Declined("no".into())));
        assert_eq!(placed.payment_token, "tok_visa");
        assert_eq!(line, Line { sku: "a".into(), quantity: 1, unit_price_cents: 250 });
    }

    #[test]
    fn rows_of_what_is_due_have_an_order_and_a_step() {
        let row = |step: &str| vec![Value::Text("o-1".into()), Value::Text(step.into())];
        assert_eq!(due_of(row("void")), Some(("o-1".into(), Step::Void)));
        assert_eq!((due_of(row("lost")), due_of(vec![Value::Null])), (None, None));
    }

    #[test]
    fn rows_of_another_shape_are_no_orders() {
        assert!(placed_and_line(row("pending", "charge", Value::Null, 1)).is_some());
        for wrong in [
            vec![Value::Null],
            row("lost", "charge", Value::Null, 1),
            row("pending", "lost", Value::Null, 1),
            row("pending", "charge", Value::Integer(1), 1),
            row("pending", "charge", Value::Text("lost".into()), 1),
            row("pending", "charge", Value::Null, -1),
        ] {
            assert_eq!(placed_and_line(wrong.clone()), None, "{wrong:?}");
        }
    }
}
