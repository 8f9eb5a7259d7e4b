//! What may be asked of the inventory, and what a standing reservation says to it.

use crate::bindings::exports::shop::inventory::stock::{Error, Line, ReservationError};

/// The longest SKU, in characters.
const SKU_MAX: usize = 64;
/// The longest identity of an order, in characters.
const ORDER_MAX: usize = 64;
/// The most lines of a reservation.
const LINES_MAX: usize = 50;
/// The most pieces of one product in a reservation.
const QUANTITY_MAX: u32 = 1_000_000;

/// Where a reservation stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum State {
    /// Its pieces are kept for the order.
    Reserved,
    /// Its pieces are sold.
    Sold,
    /// Its pieces, if it ever had any, are available again, and the order gets none.
    Released,
}

/// A reservation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reservation {
    pub(crate) state: State,
    /// In the order of their SKUs.
    pub(crate) lines: Vec<Line>,
}

/// What a release has to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Release {
    /// To write down that the order gets nothing.
    Refuse,
    /// To give the reserved pieces back.
    GiveBack,
    /// Nothing.
    Done,
}

/// Whether this can be a SKU.
pub(crate) fn check_sku(sku: &str) -> Result<(), Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if sku.is_empty() || sku.len() > SKU_MAX || !sku.bytes().all(allowed) {
        return invalid(format!("sku must be 1 to {SKU_MAX} letters, digits, '-', '_' or '.'"));
    }
    Ok(())
}

/// Whether this can be the identity of an order. Gives it in lower case.
pub(crate) fn check_order(order_id: &str) -> Result<String, Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if order_id.is_empty() || order_id.len() > ORDER_MAX || !order_id.bytes().all(allowed) {
        return invalid(format!("order-id must be 1 to {ORDER_MAX} letters, digits or '-'"));
    }
    Ok(order_id.to_ascii_lowercase())
}

/// Whether these pieces can be asked for. Gives them in the order of their SKUs, in which every transaction takes them:
/// so no two wait for each other.
pub(crate) fn check_lines(mut lines: Vec<Line>) -> Result<Vec<Line>, Error> {
    if lines.is_empty() || lines.len() > LINES_MAX {
        return invalid(format!("lines must be 1 to {LINES_MAX}"));
    }
    for line in &lines {
        check_sku(&line.sku)?;
        if !(1..=QUANTITY_MAX).contains(&line.quantity) {
            return invalid(format!("quantity must be 1 to {QUANTITY_MAX}"));
        }
    }
    lines.sort_by(|a, b| a.sku.cmp(&b.sku));
    if lines.windows(2).any(|pair| matches!(pair, [a, b] if a.sku == b.sku)) {
        return invalid("sku must be on one line only".to_owned());
    }
    Ok(lines)
}

/// What a call for these lines is told when this reservation stands.
pub(crate) fn reserve_again(
    order_id: &str,
    standing: &Reservation,
    lines: &[Line],
) -> Result<(), ReservationError> {
    match standing.state {
        State::Released => {
            Err(ReservationError::Conflict(format!("the reservation of order {order_id} was released")))
        }
        State::Reserved | State::Sold if standing.lines == lines => Ok(()),
        State::Reserved | State::Sold => {
            Err(ReservationError::Conflict(format!("other pieces are reserved for order {order_id}")))
        }
    }
}

/// What a release has to do when this reservation stands, or none.
pub(crate) fn release(order_id: &str, standing: Option<&Reservation>) -> Result<Release, ReservationError> {
    match standing.map(|reservation| reservation.state) {
        None => Ok(Release::Refuse),
        Some(State::Reserved) => Ok(Release::GiveBack),
        Some(State::Released) => Ok(Release::Done),
        Some(State::Sold) => {
            Err(ReservationError::Conflict(format!("the pieces of order {order_id} are sold")))
        }
    }
}

fn invalid<T>(message: String) -> Result<T, Error> {
    Err(Error::Invalid(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[(&str, u32)]) -> Vec<Line> {
        lines.iter().map(|&(sku, quantity)| Line { sku: sku.into(), quantity }).collect()
    }

    fn reservation(state: State) -> Reservation {
        Reservation { state, lines: lines(&[("a", 2), ("b", 1)]) }
    }

    #[test]
    fn skus_and_orders_have_short_plain_identities() {
        let long = "a".repeat(64);
        for sku in ["a", "MUG-01", "x_1.y", &long] {
            assert_eq!(check_sku(sku), Ok(()), "{sku}");
        }
        for id in ["1", "0b9c7a52-6f0e-4c37-9d0a-3a1f6f2f7f10", &long] {
            assert_eq!(check_order(id), Ok(id.to_owned()), "{id}");
            assert_eq!(check_order(&id.to_uppercase()), Ok(id.to_owned()), "{id}");
        }
        for wrong in ["", "a b", "a/b", "ä", "a\0", &"a".repeat(65)] {
            assert!(check_sku(wrong).is_err(), "{wrong:?}");
            assert!(check_order(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn lines_keep_their_limits() {
        let skus: Vec<String> = (0..51).map(|n| n.to_string()).collect();
        let many: Vec<(&str, u32)> = skus.iter().map(|sku| (sku.as_str(), 1)).collect();
        assert!(check_lines(lines(&many[..50])).is_ok());
        assert!(check_lines(lines(&[("a", 1_000_000)])).is_ok());
        for wrong in [
            lines(&many),
            lines(&[]),
            lines(&[("a", 0)]),
            lines(&[("a", 1_000_001)]),
            lines(&[("a b", 1)]),
            lines(&[("a", 1), ("b", 1), ("a", 1)]),
        ] {
            assert!(matches!(check_lines(wrong.clone()), Err(Error::Invalid(_))), "{wrong:?}");
        }
    }

    #[test]
    fn lines_are_taken_in_the_order_of_skus() {
        let sorted = check_lines(lines(&[("b", 1), ("a", 2)])).unwrap();
        assert_eq!(sorted, lines(&[("a", 2), ("b", 1)]));
    }

    #[test]
    fn same_reservation_again_changes_nothing() {
        for state in [State::Reserved, State::Sold] {
            let standing = reservation(state);
            assert_eq!(reserve_again("o", &standing, &standing.lines), Ok(()), "{state:?}");
        }
    }

    #[test]
    fn other_pieces_for_the_order_are_a_conflict() {
        for state in [State::Reserved, State::Sold] {
            for other in [lines(&[("a", 2)]), lines(&[("a", 2), ("b", 2)]), lines(&[("a", 2), ("c", 1)])] {
                let answer = reserve_again("o", &reservation(state), &other);
                assert!(matches!(answer, Err(ReservationError::Conflict(_))), "{state:?} {other:?}");
            }
        }
    }

    #[test]
    fn nothing_is_reserved_after_a_release() {
        let standing = reservation(State::Released);
        let answer = reserve_again("o", &standing, &standing.lines);
        assert!(matches!(answer, Err(ReservationError::Conflict(_))), "{answer:?}");
    }

    #[test]
    fn release_gives_back_what_is_reserved_once() {
        assert_eq!(release("o", Some(&reservation(State::Reserved))), Ok(Release::GiveBack));
        assert_eq!(release("o", Some(&reservation(State::Released))), Ok(Release::Done));
    }

    #[test]
    fn release_before_the_reservation_is_remembered() {
        assert_eq!(release("o", None), Ok(Release::Refuse));
    }

    #[test]
    fn sold_pieces_are_not_released() {
        let answer = release("o", Some(&reservation(State::Sold)));
        assert!(matches!(answer, Err(ReservationError::Conflict(_))), "{answer:?}");
    }
}
