//! Payments: what became of the charge for each order, in one table.
//!
//! This file is the contract's exports; `rules` has what may be charged and plays the processor, the statements are in
//! `store`.

mod bindings;
mod rules;
mod store;

use bindings::exports::shop::payments::charges::{ChargeError, Error, Guest, Payment};
use rules::{Answer, Silence};

/// The component.
pub struct Payments;

impl Guest for Payments {
    /// The processor's answer is written down before anybody learns of it, so that a call that is asked again gets the
    /// same one.
    fn charge(order_id: String, amount_cents: u64, token: String) -> Result<Payment, ChargeError> {
        let order_id = rules::check_order(&order_id)?;
        rules::check_amount(amount_cents)?;
        rules::check_token(&token)?;
        if let Some(standing) = store::answer(&order_id)? {
            return rules::charge_again(standing, amount_cents);
        }
        let processor = rules::processor(&token);
        std::thread::sleep(processor.delay);
        if processor.silence == Some(Silence::Uncharged) {
            fall_silent();
        }
        let standing = stand(rules::answer(order_id, amount_cents, &processor))?;
        if processor.silence == Some(Silence::Charged) {
            fall_silent();
        }
        rules::charge_again(standing, amount_cents)
    }

    /// Takes the only place where an answer to the order could stand, unless one stands there.
    fn void_charge(order_id: String, amount_cents: u64) -> Result<Payment, ChargeError> {
        let order_id = rules::check_order(&order_id)?;
        rules::check_amount(amount_cents)?;
        rules::void_again(stand(rules::voided(order_id, amount_cents))?, amount_cents)
    }

    fn of_order(order_id: String) -> Result<Vec<Payment>, Error> {
        let order_id = rules::check_order(&order_id)?;
        Ok(store::answer(&order_id)?.map(|answer| answer.payment).into_iter().collect())
    }
}

impl From<Error> for ChargeError {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(message) => Self::Invalid(message),
            Error::Failed(failure) => Self::Failed(failure),
        }
    }
}

/// Writes an answer down unless one stands for the order. Gives the one that stands.
fn stand(answer: Answer) -> Result<Answer, Error> {
    if store::insert(&answer)? {
        return Ok(answer);
    }
    store::answer(&answer.payment.order_id)?.ok_or_else(|| store::unreadable("the standing charge"))
}

/// Ends the call as a crash would: its caller cannot know whether the charge was made.
#[expect(clippy::panic, reason = "this is how a module fails to answer")]
fn fall_silent() -> ! {
    panic!("the processor fell silent");
}
