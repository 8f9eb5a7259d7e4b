//! Payments: what the processor of cards said to each order, in one table.
//!
//! This file is the contract's exports; `rules` has what may be charged and plays the processor, the statements are in
//! `store`.

mod bindings;
mod rules;
mod store;

use bindings::exports::shop::payments::charges::{Error, Guest, Payment};

/// The component.
pub struct Payments;

impl Guest for Payments {
    /// The processor's answer is written down before anybody learns of it, so that a call that is asked again gets the
    /// same one.
    fn charge(order_id: String, amount_cents: u64, token: String) -> Result<Payment, Error> {
        rules::check_order(&order_id)?;
        rules::check_amount(amount_cents)?;
        rules::check_token(&token)?;
        if let Some(standing) = store::answer(&order_id)? {
            return rules::repeat(standing, amount_cents);
        }
        let processor = rules::processor(&token);
        std::thread::sleep(processor.delay);
        let answer = rules::answer(order_id, amount_cents, &processor);
        if !store::insert(&answer)? {
            // Another call has asked the processor since we looked.
            return match store::answer(&answer.payment.order_id)? {
                Some(standing) => rules::repeat(standing, amount_cents),
                None => Err(store::unreadable("the standing charge")),
            };
        }
        if processor.falls_silent {
            fall_silent();
        }
        rules::repeat(answer, amount_cents)
    }

    fn of_order(order_id: String) -> Result<Vec<Payment>, Error> {
        rules::check_order(&order_id)?;
        Ok(store::answer(&order_id)?.map(|answer| answer.payment).into_iter().collect())
    }
}

/// Ends the call as a crash would: its caller cannot know whether the charge was made.
#[expect(clippy::panic, reason = "this is how a module fails to answer")]
fn fall_silent() -> ! {
    panic!("the processor charged and then fell silent");
}
