//! The way of an order to its end, whatever fails on it.
//!
//! ```text
//!             reserved              charged
//!    reserve ──────────▶ charge ───────────────▶ confirmed, and the event in the same commit
//!       │                 │  │ no answer for long      ▲
//!       │ too little      │  └─────────▶ void ─────────┘ charged after all
//!       │ in stock        │ declined      │
//!       └───▶ release ◀───┴───────────────┘ voided or declined
//!                └─────────────────────────────▶ rejected
//! ```
//!
//! Each step is one call, idempotent by the order's identity, and only a definite answer ends it: after any other the
//! order stays where it is, and the step is repeated later. So nothing is given back while a charge may still stand. A
//! charge that gets no answer for long is voided, which is a step like the others: payments tell whether it was charged
//! after all, or that it never will be.
//!
//! Whoever goes on with an order holds its lease, and writes what it learned only if it still does: one that was stopped
//! on the way and the one that took over never write over each other. Every refusal passes through the release, even of
//! nothing, because a reservation asked for earlier may still arrive.

use std::time::{Duration, Instant};

use crate::bindings::cleave::call::types::Failure;
use crate::bindings::exports::shop::orders::checkout::{Order, PlaceError, Status};
use crate::bindings::shop::inventory::stock::{self as inventory, ReservationError};
use crate::bindings::shop::payments::charges::{
    self as payments, ChargeError, Payment, Status as PaymentStatus,
};
use crate::store;

/// The most orders that one run of the schedule takes up.
const RESUMED_MAX: u32 = 500;
/// How long a run looks at orders before it has charges made, or it might never come to any: many wait after a failure.
const LOOK_FOR: Duration = Duration::from_millis(300);
/// How long a run takes up orders: what remains of its five seconds is for the last of them.
const RESUME_FOR: Duration = Duration::from_millis(2_500);
/// How long an order waits after the first failure, in milliseconds; twice as long after each other.
const DELAY_FIRST_MS: i64 = 2_000;
/// The longest an order waits, in milliseconds.
const DELAY_MAX_MS: i64 = 5_000;
/// How often an order is taken up again for a charge before that is voided: with these delays after 15 minutes.
const CHARGE_TRIES_MAX: i64 = 181;
/// Why an order is refused whose charge was voided.
const NOT_COMPLETED: &str = "the payment could not be completed";

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
    /// How often the order was taken up again for this step.
    pub(crate) tries: i64,
}

/// What is to be done for an order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Step {
    /// Have its pieces reserved.
    Reserve,
    /// Have its price charged.
    Charge,
    /// Have the charge given up, unless there was one.
    Void,
    /// Have what was reserved given back.
    Release,
}

/// Why an order is refused.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Refusal {
    /// There is too little of these products in stock.
    OutOfStock(Vec<String>),
    /// The payment was declined or could not be completed.
    Declined(String),
    /// The inventory or the payments do not take orders like this.
    Invalid(String),
}

impl From<Refusal> for PlaceError {
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
    pub(crate) fn answer(self) -> Result<Order, PlaceError> {
        match self.refusal {
            Some(refusal) => Err(refusal.into()),
            None => Ok(self.order),
        }
    }

    fn at(self, step: Step) -> Self {
        Self { step, tries: 0, ..self }
    }

    fn charge_is_given_up(&self) -> bool {
        self.step == Step::Charge && self.tries >= CHARGE_TRIES_MAX
    }

    fn refused(self, refusal: Refusal) -> Self {
        Self { refusal: Some(refusal), ..self.at(Step::Release) }
    }

    fn ended(mut self, status: Status) -> Self {
        self.order.status = status;
        self
    }
}

/// Goes on with the pending orders that nobody goes on with. Gives what still keeps them, if anything does.
///
/// A charge may take long, so none is asked for while anything else can be done: each run first takes orders to their
/// end, or to a charge that no answer stands for, and only then has charges made. Each part has its time.
pub(crate) fn resume() -> Result<(), String> {
    let begun = Instant::now();
    let mut kept = Vec::new();
    let mut charges = Vec::new();
    for (id, step) in store::due(RESUMED_MAX).map_err(text)? {
        if begun.elapsed() > LOOK_FOR {
            charges.extend((step == Step::Charge).then_some(id));
            continue;
        }
        if step == Step::Charge && !is_answered(&id) {
            charges.push(id);
            continue;
        }
        let goal = if step == Step::Charge { Goal::End } else { Goal::Charge };
        match take_to(goal, &id) {
            Ok(Some(Status::Pending)) => charges.push(id),
            Ok(_) => {}
            Err(why) => kept.push(format!("order {id}: {why}")),
        }
    }
    for id in charges {
        if begun.elapsed() > RESUME_FOR {
            break;
        }
        if let Err(why) = take_to(Goal::End, &id) {
            kept.push(format!("order {id}: {why}"));
        }
    }
    if kept.is_empty() { Ok(()) } else { Err(kept.join("; ")) }
}

/// Whether the payments have answered the charge for an order, though the order does not know it yet.
fn is_answered(id: &str) -> bool {
    payments::of_order(id).is_ok_and(|payments| !payments.is_empty())
}

/// How far an order is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    /// As far as it goes.
    End,
    /// Until the next thing to do is a charge.
    Charge,
}

/// Takes an order up, if nobody else goes on with it, and to this goal. Gives where it stands then.
fn take_to(goal: Goal, id: &str) -> Result<Option<Status>, String> {
    let Some(mut placed) = store::take(id).map_err(text)? else { return Ok(None) };
    drive(goal, &mut placed)?;
    if placed.order.status == Status::Pending {
        store::leave(&placed, 0).map_err(text)?;
    }
    Ok(Some(placed.order.status))
}

/// Takes an order whose lease is held to this goal, or as far as it goes: then gives what keeps it.
pub(crate) fn drive(goal: Goal, placed: &mut Placed) -> Result<(), String> {
    while placed.order.status == Status::Pending && !(goal == Goal::Charge && placed.step == Step::Charge) {
        match step(placed) {
            Ok(next) => *placed = next,
            Err(why) => {
                // Why: if this fails too, the lease runs out by itself.
                store::leave(placed, delay_ms(placed.tries)).ok();
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
        // Why: written before it is asked for, so whoever takes the order up next asks for the void too.
        Step::Charge if placed.charge_is_given_up() => Ok(placed.clone().at(Step::Void)),
        Step::Charge => after_payment(
            placed.clone(),
            payments::charge(&order.id, order.total_cents, &placed.payment_token),
        ),
        Step::Void => after_payment(placed.clone(), payments::void_charge(&order.id, order.total_cents)),
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

fn after_reserve(placed: Placed, answer: Result<(), ReservationError>) -> Result<Placed, String> {
    match answer {
        Ok(()) => Ok(placed.at(Step::Charge)),
        Err(ReservationError::OutOfStock(skus)) => Ok(placed.refused(Refusal::OutOfStock(skus))),
        Err(ReservationError::Invalid(message)) => Ok(placed.refused(Refusal::Invalid(message))),
        Err(ReservationError::Conflict(message)) => Err(format!("inventory: {message}")),
        Err(ReservationError::Failed(failure)) => Err(format!("inventory: {}", text(failure))),
    }
}

/// What a charge or a void means. A conflict is no refusal: a charge of another amount stands, and only a person can tell
/// why.
fn after_payment(placed: Placed, answer: Result<Payment, ChargeError>) -> Result<Placed, String> {
    match answer {
        Ok(Payment { status: PaymentStatus::Charged, .. }) => Ok(placed.ended(Status::Confirmed)),
        Ok(Payment { status: PaymentStatus::Declined | PaymentStatus::Voided, .. }) => {
            Ok(placed.refused(Refusal::Declined(NOT_COMPLETED.to_owned())))
        }
        Err(ChargeError::Declined(reason)) => Ok(placed.refused(Refusal::Declined(reason))),
        Err(ChargeError::Invalid(message)) => Ok(placed.refused(Refusal::Invalid(message))),
        Err(ChargeError::Conflict(message)) => Err(format!("payments: {message}")),
        Err(ChargeError::Failed(failure)) => Err(format!("payments: {}", text(failure))),
    }
}

fn after_release(placed: Placed, answer: Result<(), ReservationError>) -> Result<Placed, String> {
    match answer {
        Ok(()) => Ok(placed.ended(Status::Rejected)),
        Err(ReservationError::Failed(failure)) => Err(format!("inventory: {}", text(failure))),
        Err(error) => Err(format!("inventory: {error:?}")),
    }
}

/// How long an order waits that was taken up this often before.
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

    /// Where an order is after an answer, and what its customer is told then; none if it stays where it was.
    type Next = Option<(Status, Step, Option<Refusal>)>;

    /// Asserts what an answer makes of an order at a step, and that everything else of it stays.
    #[track_caller]
    fn expect(before: &Placed, after: Result<Placed, String>, next: Next) {
        let after = after.ok();
        assert_eq!(after.clone().map(|p| (p.order.status, p.step, p.refusal)), next, "{before:?}");
        let Some(after) = after else { return };
        let moved = after.step != before.step;
        assert_eq!(after.tries, if moved { 0 } else { before.tries }, "{before:?}");
        let order = Order { status: before.order.status, ..after.order.clone() };
        let Placed { step, refusal, tries, .. } = before.clone();
        assert_eq!(Placed { order, step, refusal, tries, ..after }, *before);
    }

    fn inventory_answers() -> Vec<Result<(), ReservationError>> {
        let mut answers = vec![
            Ok(()),
            Err(ReservationError::OutOfStock(vec!["a".into()])),
            Err(ReservationError::Invalid("too much".into())),
            Err(ReservationError::Conflict("released".into())),
        ];
        answers.extend(failures().map(|failure| Err(ReservationError::Failed(failure))));
        answers
    }

    fn payments_answers() -> Vec<Result<Payment, ChargeError>> {
        let mut answers: Vec<_> = [PaymentStatus::Charged, PaymentStatus::Declined, PaymentStatus::Voided]
            .map(|status| Ok(Payment { order_id: "o-1".into(), amount_cents: 500, status }))
            .into();
        answers.extend([
            Err(ChargeError::Declined("no".into())),
            Err(ChargeError::Invalid("too much".into())),
            Err(ChargeError::Conflict("another amount".into())),
        ]);
        answers.extend(failures().map(|failure| Err(ChargeError::Failed(failure))));
        answers
    }

    #[test]
    fn every_answer_to_a_reservation_has_one_next_step() {
        let before = Placed { tries: 7, ..placed(Step::Reserve) };
        let refused = |refusal| Some((Status::Pending, Step::Release, Some(refusal)));
        let expected = [
            Some((Status::Pending, Step::Charge, None)),
            refused(Refusal::OutOfStock(vec!["a".into()])),
            refused(Refusal::Invalid("too much".into())),
            None,
            None,
            None,
        ];
        for (answer, next) in inventory_answers().into_iter().zip(expected) {
            expect(&before, after_reserve(before.clone(), answer), next);
        }
    }

    #[test]
    fn every_answer_to_a_charge_or_a_void_has_one_next_step() {
        for step in [Step::Charge, Step::Void] {
            let before = Placed { tries: 7, ..placed(step) };
            let refused = |refusal| Some((Status::Pending, Step::Release, Some(refusal)));
            let expected = [
                Some((Status::Confirmed, step, None)),
                refused(Refusal::Declined(NOT_COMPLETED.into())),
                refused(Refusal::Declined(NOT_COMPLETED.into())),
                refused(Refusal::Declined("no".into())),
                refused(Refusal::Invalid("too much".into())),
                None,
                None,
                None,
            ];
            for (answer, next) in payments_answers().into_iter().zip(expected) {
                expect(&before, after_payment(before.clone(), answer), next);
            }
        }
    }

    #[test]
    fn only_a_release_rejects_an_order() {
        let before = Placed { tries: 7, ..refused() };
        let rejected = Some((Status::Rejected, Step::Release, before.refusal.clone()));
        let expected = [rejected, None, None, None, None, None];
        for (answer, next) in inventory_answers().into_iter().zip(expected) {
            expect(&before, after_release(before.clone(), answer), next);
        }
    }

    #[test]
    fn nothing_is_released_while_a_charge_may_stand() {
        for step in [Step::Charge, Step::Void] {
            for failure in failures() {
                let answer = Err(ChargeError::Failed(failure));
                assert!(after_payment(placed(step), answer).is_err(), "{step:?}");
            }
        }
        let given_up = Placed { tries: CHARGE_TRIES_MAX, ..placed(Step::Charge) }.at(Step::Void);
        assert_eq!(given_up, placed(Step::Void));
    }

    #[test]
    fn only_a_charge_is_given_up_and_only_after_all_its_tries() {
        for step in [Step::Reserve, Step::Charge, Step::Void, Step::Release] {
            for (tries, after_all) in [(0, false), (180, false), (181, true), (i64::MAX, true)] {
                let placed = Placed { tries, ..placed(step) };
                assert_eq!(placed.charge_is_given_up(), after_all && step == Step::Charge, "{placed:?}");
            }
        }
    }

    #[test]
    fn charge_is_given_up_after_a_quarter_of_an_hour() {
        let waited_ms: i64 = (0..CHARGE_TRIES_MAX).map(delay_ms).sum();
        assert_eq!(waited_ms / 60_000, 15);
    }

    #[test]
    fn customer_is_told_the_order_until_it_is_refused() {
        for step in [Step::Reserve, Step::Charge, Step::Void] {
            assert_eq!(placed(step).answer(), Ok(placed(step).order));
        }
        for (refusal, told) in [
            (Refusal::OutOfStock(vec!["a".into()]), PlaceError::OutOfStock(vec!["a".into()])),
            (Refusal::Declined("no".into()), PlaceError::Declined("no".into())),
            (Refusal::Invalid("too much".into()), PlaceError::Invalid("too much".into())),
        ] {
            let refused = placed(Step::Charge).refused(refusal);
            assert_eq!(refused.clone().answer(), Err(told.clone()));
            assert_eq!(refused.ended(Status::Rejected).answer(), Err(told));
        }
    }

    #[test]
    fn waits_double_up_to_five_seconds() {
        let delays: Vec<i64> = (0..5).map(delay_ms).collect();
        assert_eq!(delays, [2_000, 4_000, 5_000, 5_000, 5_000]);
        assert_eq!(delay_ms(62), 5_000);
        assert_eq!(delay_ms(i64::MAX), 5_000);
    }
}
