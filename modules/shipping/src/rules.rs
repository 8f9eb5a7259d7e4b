//! What can be asked of shipping, and what can be sent.

use crate::bindings::exports::shop::orders::events::PlacedOrder;
use crate::bindings::exports::shop::shipping::shipments::{Error, Line, Shipment, Status};

/// The longest identity of an order, in characters.
const ORDER_MAX: usize = 64;

/// Whether this can be the identity of an order. Gives it in lower case.
pub(crate) fn check_order(order_id: &str) -> Result<String, Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if order_id.is_empty() || order_id.len() > ORDER_MAX || !order_id.bytes().all(allowed) {
        return Err(Error::Invalid(format!("order-id must be 1 to {ORDER_MAX} letters, digits or '-'")));
    }
    Ok(order_id.to_ascii_lowercase())
}

/// The shipment that an order asks for, or why there is nothing to send.
pub(crate) fn shipment(id: String, order: PlacedOrder) -> Result<Shipment, String> {
    let order_id = check_order(&order.order_id).map_err(|_| "the event is about no order".to_owned())?;
    if order.lines.is_empty() || order.lines.iter().any(|line| line.quantity == 0) {
        return Err(format!("order {order_id} has a line without pieces, or no line"));
    }
    let lines = order.lines.into_iter().map(|line| Line { sku: line.sku, quantity: line.quantity }).collect();
    Ok(Shipment { id, order_id, user_id: order.user_id, status: Status::Created, lines })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::exports::shop::orders::events::Line as OrderLine;

    fn order(order_id: &str, lines: &[(&str, u32)]) -> PlacedOrder {
        let lines = lines.iter().map(|&(sku, quantity)| OrderLine { sku: sku.into(), quantity }).collect();
        PlacedOrder { order_id: order_id.into(), user_id: "ada".into(), total_cents: 250, lines }
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
    fn shipment_has_the_pieces_of_the_order() {
        let shipment = shipment("s-1".into(), order("o-1", &[("b", 1), ("a", 2)])).unwrap();
        let lines = vec![Line { sku: "b".into(), quantity: 1 }, Line { sku: "a".into(), quantity: 2 }];
        let expected = Shipment {
            id: "s-1".into(),
            order_id: "o-1".into(),
            user_id: "ada".into(),
            status: Status::Created,
            lines,
        };
        assert_eq!(shipment, expected);
    }

    #[test]
    fn order_with_nothing_to_send_is_refused() {
        for wrong in [order("", &[("a", 1)]), order("o-1", &[]), order("o-1", &[("a", 1), ("b", 0)])] {
            assert!(shipment("s-1".into(), wrong.clone()).is_err(), "{wrong:?}");
        }
    }
}
