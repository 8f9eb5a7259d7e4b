//! The way of an order to its end, whatever fails on it.
//!
//! ```text
//!               reserved             charged
//!    reserve ──────────────▶ charge ────────▶ confirmed, and the event in the same commit
//!       │ too little in stock   │ declined
//!       └──────────▶ release ◀──┘
//!                       └─────────────────▶ rejected
//! ```
//!
//! Each step is one call, idempotent by the order's identity, and only a definite answer ends it: after any other the
//! order stays where it is, and the step is repeated later. So nothing is given back while a charge may still stand.
//! Whoever goes on with an order holds its lease, and writes what it learned only if it still does: one that was stopped
//! on the way and the one that took over never write over each other. Every refusal passes through the release, even of
//! nothing, because a reservation asked for earlier may still arrive.

use std::time::{Duration, Instant};

use crate::bindings::cleave::call::types::Failure;
use crate::bindings::exports::shop::orders::checkout::{Error, Order, Status};
use crate::bindings::shop::inventory::stock::{self as inventory, Error as InventoryError};
use crate::bindings::shop::payments::charges::{self as payments, Error as PaymentsError, Payment};
use crate::store;

/// The most orders that one run of the schedule takes up.
const RESUMED_MAX: u32 = 500;
/// How long a run takes up orders: what remains of its five seconds is for the last of them.
const RESUME_FOR: Duration = Duration::from_secs(2);
/// How long an order waits after the first failure, in milliseconds; twice as long after each other.
const DELAY_FIRST_MS: i64 = 2_000;
/// The longest an order waits, in milliseconds.
const DELAY_MAX_MS: i64 = 60_000;

/// An order, and how far it is on its way.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Placed {
    pub(crate) order: Order,
    pub(crate) payment_token: String,
    /// What is to be done next; without meaning once the order is not pending any more.
    pub(crate) step: Step,
    /// Why the order is refused. Once it is here it stays, and the order can only become rejected.
    pub(crate) refusal: Option<Refusal>,
    /// The number under which the order was last taken up.
    pub(crate) lease: i64,
    /// How often going on was put off.
    pub(crate) tries: i64,
}

/// What is to be done for an order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Step {
    /// Have its pieces reserved.
    Reserve,
    /// Have its price charged.
    Charge,
    /// Have what was reserved given back.
    Release,
}

/// Why an order is refused.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Refusal {
    /// There is too little of these products in stock.
    OutOfStock(Vec<String>),
    /// The payment was declined.
    Declined(String),
    /// The inventory or the payments do not take orders like this.
    Invalid(String),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::OutOfStock(skus) => Self::OutOfStock(skus),
            Refusal::Declined(reason) => Self::Declined(reason),
            Refusal::Invalid(message) => Self::Invalid(message),
        }
    }
}

impl Placed {
    /// An order at the beginning of its way, taken up by whoever writes it.
    pub(crate) fn new(order: Order, payment_token: String) -> Self {
        Self { order, payment_token, step: Step::Reserve, refusal: None, lease: 1, tries: 0 }
    }

    /// What the customer is told.
    pub(crate) fn answer(self) -> Result<Order, Error> {
        match self.refusal {
            Some(refusal) => Err(refusal.into()),
            None => Ok(self.order),
        }
    }

    fn refused(self, refusal: Refusal) -> Self {
        Self { step: Step::Release, refusal: Some(refusal), ..self }
    }

    fn ended(mut self, status: Status) -> Self {
        self.order.status = status;
        self
    }
}

/// Goes on with the pending orders that nobody goes on with. Gives what still keeps them, if anything does.
pub(crate) fn resume() -> Result<(), String> {
    let begun = Instant::now();
    let mut kept = Vec::new();
    for id in store::due(RESUMED_MAX).map_err(text)? {
        if begun.elapsed() > RESUME_FOR {
            break;
        }
        let outcome = match store::take(&id) {
            Ok(Some(mut placed)) => drive(&mut placed),
            Ok(None) => Ok(()),
            Err(failure) => Err(text(failure)),
        };
        kept.extend(outcome.err().map(|why| format!("order {id}: {why}")));
    }
    if kept.is_empty() { Ok(()) } else { Err(kept.join("; ")) }
}

/// Takes an order whose lease is held to its end, or as far as it goes: then gives what keeps it.
pub(crate) fn drive(placed: &mut Placed) -> Result<(), String> {
    while placed.order.status == Status::Pending {
        match step(placed) {
            Ok(next) => *placed = next,
            Err(why) => {
                // Why: if this fails too, the lease runs out by itself.
                store::put_off(placed, delay_ms(placed.tries)).ok();
                return Err(why);
            }
        }
    }
    Ok(())
}

/// Does the next step of an order and writes what came of it.
fn step(placed: &Placed) -> Result<Placed, String> {
    let order = &placed.order;
    let next = match placed.step {
        Step::Reserve => after_reserve(placed.clone(), inventory::reserve(&order.id, &pieces(order))),
        Step::Charge => after_charge(
            placed.clone(),
            payments::charge(&order.id, order.total_cents, &placed.payment_token),
        ),
        Step::Release => after_release(placed.clone(), inventory::release(&order.id)),
    }?;
    if store::update(&next).map_err(text)? {
        Ok(next)
    } else {
        Err("somebody else has taken it up".to_owned())
    }
}

fn pieces(order: &Order) -> Vec<inventory::Line> {
    order.lines.iter().map(|l| inventory::Line { sku: l.sku.clone(), quantity: l.quantity }).collect()
}

fn after_reserve(placed: Placed, answer: Result<(), InventoryError>) -> Result<Placed, String> {
    match answer {
        Ok(()) => Ok(Placed { step: Step::Charge, ..placed }),
        Err(InventoryError::OutOfStock(skus)) => Ok(placed.refused(Refusal::OutOfStock(skus))),
        Err(InventoryError::Invalid(message)) => Ok(placed.refused(Refusal::Invalid(message))),
        Err(InventoryError::Conflict(message)) => Err(format!("inventory: {message}")),
        Err(InventoryError::Failed(failure)) => Err(format!("inventory: {}", text(failure))),
    }
}

/// A conflict is no refusal: a charge of another amount stands, and only a person can tell why.
fn after_charge(placed: Placed, answer: Result<Payment, PaymentsError>) -> Result<Placed, String> {
    match answer {
        Ok(_) => Ok(placed.ended(Status::Confirmed)),
        Err(PaymentsError::Declined(reason)) => Ok(placed.refused(Refusal::Declined(reason))),
        Err(PaymentsError::Invalid(message)) => Ok(placed.refused(Refusal::Invalid(message))),
        Err(PaymentsError::Conflict(message)) => Err(format!("payments: {message}")),
        Err(PaymentsError::Failed(failure)) => Err(format!("payments: {}", text(failure))),
    }
}

fn after_release(placed: Placed, answer: Result<(), InventoryError>) -> Result<Placed, String> {
    match answer {
        Ok(()) => Ok(placed.ended(Status::Rejected)),
        Err(InventoryError::Failed(failure)) => Err(format!("inventory: {}", text(failure))),
        Err(error) => Err(format!("inventory: {error:?}")),
    }
}

/// How long an order waits that was put off this often before.
fn delay_ms(tries: i64) -> i64 {
    let doublings = u32::try_from(tries).unwrap_or(u32::MAX);
    2i64.checked_pow(doublings)
        .map_or(DELAY_MAX_MS, |factor| DELAY_FIRST_MS.saturating_mul(factor).min(DELAY_MAX_MS))
}

fn text(failure: Failure) -> String {
    match failure {
        Failure::Unavailable(message) | Failure::Uncertain(message) => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::exports::shop::orders::checkout::Line;
    use crate::bindings::shop::payments::charges::Status as PaymentStatus;

    fn placed(step: Step) -> Placed {
        let order = Order {
            id: "o-1".into(),
            user_id: "ada".into(),
            status: Status::Pending,
            total_cents: 500,
            lines: vec![Line { sku: "a".into(), quantity: 2, unit_price_cents: 250 }],
        };
        Placed { step, ..Placed::new(order, "tok_visa".into()) }
    }

    fn refused() -> Placed {
        placed(Step::Charge).refused(Refusal::Declined("no".into()))
    }

    fn failures() -> [Failure; 2] {
        [Failure::Unavailable("no answer".into()), Failure::Uncertain("no answer".into())]
    }

    fn charged() -> Payment {
        Payment { order_id: "o-1".into(), amount_cents: 500, status: PaymentStatus::Charged }
    }

    #[test]
    fn reserved_and_charged_order_is_confirmed() {
        let reserved = after_reserve(placed(Step::Reserve), Ok(())).unwrap();
        assert_eq!(reserved, placed(Step::Charge));
        let confirmed = after_charge(reserved, Ok(charged())).unwrap();
        assert_eq!(confirmed.order.status, Status::Confirmed);
        let order = confirmed.order.clone();
        assert_eq!(confirmed.answer(), Ok(order));
    }

    #[test]
    fn order_out_of_stock_is_released_before_it_is_rejected() {
        let short = vec!["a".to_owned()];
        let answer = Err(InventoryError::OutOfStock(short.clone()));
        let refused = after_reserve(placed(Step::Reserve), answer).unwrap();
        assert_eq!((refused.step, refused.order.status), (Step::Release, Status::Pending));
        let rejected = after_release(refused, Ok(())).unwrap();
        assert_eq!(rejected.order.status, Status::Rejected);
        assert_eq!(rejected.answer(), Err(Error::OutOfStock(short)));
    }

    #[test]
    fn declined_order_is_released_before_it_is_rejected() {
        let answer = Err(PaymentsError::Declined("no".into()));
        let refused = after_charge(placed(Step::Charge), answer).unwrap();
        assert_eq!((refused.step, refused.order.status), (Step::Release, Status::Pending));
        let rejected = after_release(refused, Ok(())).unwrap();
        assert_eq!(rejected.order.status, Status::Rejected);
        assert_eq!(rejected.answer(), Err(Error::Declined("no".into())));
    }

    #[test]
    fn order_that_others_do_not_take_is_refused() {
        let message = || "too much".to_owned();
        let by_inventory = after_reserve(placed(Step::Reserve), Err(InventoryError::Invalid(message())));
        let by_payments = after_charge(placed(Step::Charge), Err(PaymentsError::Invalid(message())));
        for refused in [by_inventory.unwrap(), by_payments.unwrap()] {
            assert_eq!(refused.step, Step::Release);
            assert_eq!(refused.answer(), Err(Error::Invalid(message())));
        }
    }

    #[test]
    fn no_answer_ends_no_step() {
        for failure in failures() {
            let inventory = || Err(InventoryError::Failed(failure.clone()));
            assert!(after_reserve(placed(Step::Reserve), inventory()).is_err());
            assert!(after_release(refused(), inventory()).is_err());
            assert!(after_charge(placed(Step::Charge), Err(PaymentsError::Failed(failure.clone()))).is_err());
        }
    }

    #[test]
    fn contradictions_end_no_step() {
        let conflict = || Err(InventoryError::Conflict("sold".into()));
        assert!(after_reserve(placed(Step::Reserve), conflict()).is_err());
        assert!(after_release(refused(), conflict()).is_err());
        assert!(after_charge(placed(Step::Charge), Err(PaymentsError::Conflict("other".into()))).is_err());
    }

    #[test]
    fn pending_order_is_an_answer_until_it_is_refused() {
        assert_eq!(placed(Step::Charge).answer(), Ok(placed(Step::Charge).order));
        assert_eq!(refused().answer(), Err(Error::Declined("no".into())));
    }

    #[test]
    fn waits_double_up_to_a_minute() {
        let delays: Vec<i64> = (0..7).map(delay_ms).collect();
        assert_eq!(delays, [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(delay_ms(62), 60_000);
        assert_eq!(delay_ms(i64::MAX), 60_000);
    }
}
