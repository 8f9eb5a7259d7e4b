//! What may be charged, what the processor says to it, and what is said when an answer stands.

use std::time::Duration;

use crate::bindings::exports::shop::payments::charges::{ChargeError, Error, Payment, Status};

/// The longest identity of an order, in characters.
const ORDER_MAX: usize = 64;
/// How every token begins.
const TOKEN_START: &str = "tok_";
/// The longest token, in characters.
const TOKEN_MAX: usize = 64;
/// How long the slow processor takes.
const SLOW: Duration = Duration::from_secs(2);

/// A payment, and why nothing was charged if nothing was.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) payment: Payment,
    /// Empty if it was charged.
    pub(crate) reason: String,
}

/// What the processor does with a token it has not seen under this order.
#[derive(Debug, PartialEq)]
pub(crate) struct Processor {
    /// Why it declines, if it does.
    declines: Option<&'static str>,
    /// How long it takes.
    pub(crate) delay: Duration,
    /// When it stops talking, if it does.
    pub(crate) silence: Option<Silence>,
}

/// When a processor stops talking.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Silence {
    /// Before it has charged anything.
    Uncharged,
    /// After it has charged.
    Charged,
}

/// Whether this can be the identity of an order. Gives it in lower case.
pub(crate) fn check_order(order_id: &str) -> Result<String, Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if order_id.is_empty() || order_id.len() > ORDER_MAX || !order_id.bytes().all(allowed) {
        return invalid(format!("order-id must be 1 to {ORDER_MAX} letters, digits or '-'"));
    }
    Ok(order_id.to_ascii_lowercase())
}

/// Whether this much can be charged: the database's whole numbers have a sign.
pub(crate) fn check_amount(amount_cents: u64) -> Result<(), Error> {
    if amount_cents == 0 || i64::try_from(amount_cents).is_err() {
        return invalid(format!("amount-cents must be 1 to {}", i64::MAX));
    }
    Ok(())
}

/// Whether this can be a token.
pub(crate) fn check_token(token: &str) -> Result<(), Error> {
    let printable = |byte: u8| matches!(byte, b' '..=b'~');
    if token.len() > TOKEN_MAX || !token.starts_with(TOKEN_START) || !token.bytes().all(printable) {
        return invalid(format!(
            "token must be at most {TOKEN_MAX} printable ASCII characters, the first of them {TOKEN_START}"
        ));
    }
    Ok(())
}

/// What the processor does with a token.
pub(crate) fn processor(token: &str) -> Processor {
    Processor {
        declines: token.starts_with("tok_declined").then_some("the card was declined"),
        delay: if token.starts_with("tok_slow") { SLOW } else { Duration::ZERO },
        silence: match token {
            _ if token.starts_with("tok_silent") => Some(Silence::Uncharged),
            _ if token.starts_with("tok_uncertain") => Some(Silence::Charged),
            _ => None,
        },
    }
}

/// What the processor says to a charge.
pub(crate) fn answer(order_id: String, amount_cents: u64, processor: &Processor) -> Answer {
    let (status, reason) = match processor.declines {
        Some(reason) => (Status::Declined, reason),
        None => (Status::Charged, ""),
    };
    Answer { payment: Payment { order_id, amount_cents, status }, reason: reason.to_owned() }
}

/// What stands for an order whose charge is given up.
pub(crate) fn voided(order_id: String, amount_cents: u64) -> Answer {
    let payment = Payment { order_id, amount_cents, status: Status::Voided };
    Answer { payment, reason: "the charge was voided".to_owned() }
}

/// What a charge of this amount is told when this answer stands.
pub(crate) fn charge_again(standing: Answer, amount_cents: u64) -> Result<Payment, ChargeError> {
    let Answer { payment, reason } = same_amount(standing, amount_cents)?;
    match payment.status {
        Status::Charged => Ok(payment),
        Status::Declined | Status::Voided => Err(ChargeError::Declined(reason)),
    }
}

/// What a void of this amount is told when this answer stands.
pub(crate) fn void_again(standing: Answer, amount_cents: u64) -> Result<Payment, ChargeError> {
    Ok(same_amount(standing, amount_cents)?.payment)
}

fn same_amount(standing: Answer, amount_cents: u64) -> Result<Answer, ChargeError> {
    let payment = &standing.payment;
    if payment.amount_cents != amount_cents {
        return Err(ChargeError::Conflict(format!(
            "an answer to {} cents stands for order {}",
            payment.amount_cents, payment.order_id
        )));
    }
    Ok(standing)
}

fn invalid<T>(message: String) -> Result<T, Error> {
    Err(Error::Invalid(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(token: &str) -> Answer {
        answer("o-1".into(), 250, &processor(token))
    }

    #[test]
    fn orders_have_short_plain_identities() {
        for id in ["1", "0b9c7a52-6f0e-4c37-9d0a-3a1f6f2f7f10", &"a".repeat(64)] {
            assert_eq!(check_order(id), Ok(id.to_owned()), "{id}");
            assert_eq!(check_order(&id.to_uppercase()), Ok(id.to_owned()), "{id}");
        }
        for id in ["", "a b", "a/b", "ä", "a\0", &"a".repeat(65)] {
            assert!(check_order(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn amounts_are_what_the_database_can_hold() {
        for amount in [1, i64::MAX as u64] {
            assert_eq!(check_amount(amount), Ok(()), "{amount}");
        }
        for amount in [0, i64::MAX as u64 + 1, u64::MAX] {
            assert!(check_amount(amount).is_err(), "{amount}");
        }
    }

    #[test]
    fn tokens_are_printable_and_marked() {
        for token in ["tok_", "tok_visa", "tok_ ~", &format!("tok_{}", "x".repeat(60))] {
            assert_eq!(check_token(token), Ok(()), "{token}");
        }
        for token in [
            "",
            "tok",
            "visa",
            " tok_visa",
            "TOK_visa",
            "tok_\n",
            "tok_ä",
            &format!("tok_{}", "x".repeat(61)),
        ] {
            assert!(check_token(token).is_err(), "{token:?}");
        }
    }

    #[test]
    fn token_says_what_the_processor_does() {
        assert!(processor("tok_declined_funds").declines.is_some());
        assert_eq!(processor("tok_slow1").delay, Duration::from_secs(2));
        assert_eq!(processor("tok_uncertain").silence, Some(Silence::Charged));
        assert_eq!(processor("tok_silent").silence, Some(Silence::Uncharged));
        let plain = Processor { declines: None, delay: Duration::ZERO, silence: None };
        for token in ["tok_", "tok_visa", "tok_not_declined", "tok_Slow"] {
            assert_eq!(processor(token), plain, "{token}");
        }
    }

    #[test]
    fn slow_and_silent_processors_charge() {
        for token in ["tok_visa", "tok_slow", "tok_uncertain"] {
            assert_eq!(asked(token).payment.status, Status::Charged, "{token}");
        }
    }

    fn payment(status: Status) -> Payment {
        Payment { order_id: "o-1".into(), amount_cents: 250, status }
    }

    #[test]
    fn charge_is_answered_alike_again() {
        assert_eq!(charge_again(asked("tok_visa"), 250), Ok(payment(Status::Charged)));
    }

    #[test]
    fn decline_is_answered_alike_again() {
        let answer = charge_again(asked("tok_declined"), 250);
        assert_eq!(answer, Err(ChargeError::Declined("the card was declined".into())));
    }

    #[test]
    fn charge_after_a_void_is_declined() {
        let answer = charge_again(voided("o-1".into(), 250), 250);
        assert_eq!(answer, Err(ChargeError::Declined("the charge was voided".into())));
    }

    #[test]
    fn void_changes_no_answer_that_stands() {
        for (standing, status) in [
            (asked("tok_visa"), Status::Charged),
            (asked("tok_declined"), Status::Declined),
            (voided("o-1".into(), 250), Status::Voided),
        ] {
            assert_eq!(void_again(standing, 250), Ok(payment(status)));
        }
    }

    #[test]
    fn another_amount_is_a_conflict() {
        for standing in [asked("tok_visa"), asked("tok_declined"), voided("o-1".into(), 250)] {
            for answer in [charge_again(standing.clone(), 251), void_again(standing.clone(), 251)] {
                assert!(matches!(answer, Err(ChargeError::Conflict(_))), "{standing:?}: {answer:?}");
            }
        }
    }
}
