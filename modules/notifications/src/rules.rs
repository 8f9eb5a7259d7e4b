//! Who can be told something, and what is said.

use uuid::Uuid;

use crate::bindings::exports::shop::notifications::messages::{Error, Kind, Notification};
use crate::bindings::exports::shop::orders::events::PlacedOrder;
use crate::bindings::exports::shop::shipping::events::CreatedShipment;

/// The length of a UUID as it is written with hyphens.
const ID_LENGTH: usize = 36;
/// The longest name of a user, in characters.
const USER_MAX: usize = 64;
/// The longest identity of an order or a shipment, in characters.
const ID_MAX: usize = 64;

/// Whether this can be the name of a user. Gives it, if it is a UUID, in lower case.
pub(crate) fn check_user(user_id: &str) -> Result<String, Error> {
    if user_id.is_empty() || user_id.chars().count() > USER_MAX || user_id.chars().any(char::is_control) {
        return Err(Error::Invalid(format!(
            "user-id must be 1 to {USER_MAX} characters without control characters"
        )));
    }
    // Why: a user with an account is known by a UUID, which may be spelt in two ways. Other names are as they are.
    Ok(match Uuid::try_parse(user_id) {
        Ok(uuid) if user_id.len() == ID_LENGTH => uuid.to_string(),
        _ => user_id.to_owned(),
    })
}

/// What the user is told about an order that is in stock and paid, or why it cannot be told.
pub(crate) fn order_placed(id: String, order: PlacedOrder) -> Result<Notification, String> {
    let user_id = check_event(&order.order_id, &order.user_id)?;
    let pieces: u64 = order.lines.iter().map(|line| u64::from(line.quantity)).sum();
    let noun = if pieces == 1 { "piece" } else { "pieces" };
    let (whole, cents) = (order.total_cents / 100, order.total_cents % 100);
    let text = format!("Order {} is confirmed: {pieces} {noun} for {whole}.{cents:02}.", order.order_id);
    Ok(Notification { id, user_id, order_id: order.order_id, kind: Kind::OrderPlaced, text })
}

/// What the user is told about a shipment, or why it cannot be told.
pub(crate) fn shipment_created(id: String, shipment: CreatedShipment) -> Result<Notification, String> {
    let CreatedShipment { order_id, shipment_id, user_id } = shipment;
    let user_id = check_event(&order_id, &user_id)?;
    if !is_id(&shipment_id) {
        return Err(format!("the event about order {order_id} is about no shipment"));
    }
    let text = format!("Order {order_id} is being packed as shipment {shipment_id}.");
    Ok(Notification { id, user_id, order_id, kind: Kind::ShipmentCreated, text })
}

/// Whether an event is about an order and a user. Gives the user.
fn check_event(order_id: &str, user_id: &str) -> Result<String, String> {
    if !is_id(order_id) {
        return Err("the event is about no order".to_owned());
    }
    check_user(user_id).map_err(|_| format!("the event about order {order_id} is about no user"))
}

fn is_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !id.is_empty() && id.len() <= ID_MAX && id.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::exports::shop::orders::events::Line;

    fn order(total_cents: u64, quantities: &[u32]) -> PlacedOrder {
        let lines = quantities.iter().map(|&quantity| Line { sku: "a".into(), quantity }).collect();
        PlacedOrder { order_id: "o-1".into(), user_id: "ada".into(), total_cents, lines }
    }

    fn shipment() -> CreatedShipment {
        CreatedShipment { order_id: "o-1".into(), shipment_id: "s-1".into(), user_id: "ada".into() }
    }

    #[test]
    fn users_have_short_names() {
        for user in ["a", "Åda, guest", &"ä".repeat(64)] {
            assert_eq!(check_user(user), Ok(user.to_owned()), "{user}");
        }
        for user in ["", "a\nb", "a\0", &"a".repeat(65)] {
            assert!(check_user(user).is_err(), "{user:?}");
        }
    }

    #[test]
    fn user_that_is_a_uuid_is_taken_in_lower_case() {
        let uuid = "0b9c7a52-6f0e-4c37-9d0a-3a1f6f2f7f10";
        assert_eq!(check_user(&uuid.to_uppercase()), Ok(uuid.to_owned()));
        for other in ["Ada", &uuid.to_uppercase().replace('-', ""), &uuid.to_uppercase().replace('0', "G")] {
            assert_eq!(check_user(other), Ok(other.to_owned()));
        }
        let placed = PlacedOrder { user_id: uuid.to_uppercase(), ..order(1, &[1]) };
        assert_eq!(order_placed("n-1".into(), placed).unwrap().user_id, uuid);
    }

    #[test]
    fn placed_order_is_told_with_pieces_and_price() {
        let told = order_placed("n-1".into(), order(3_705, &[2, 1])).unwrap();
        let expected = Notification {
            id: "n-1".into(),
            user_id: "ada".into(),
            order_id: "o-1".into(),
            kind: Kind::OrderPlaced,
            text: "Order o-1 is confirmed: 3 pieces for 37.05.".into(),
        };
        assert_eq!(told, expected);
        let one = order_placed("n-1".into(), order(7, &[1])).unwrap();
        assert_eq!(one.text, "Order o-1 is confirmed: 1 piece for 0.07.");
    }

    #[test]
    fn largest_order_can_be_told() {
        let told = order_placed("n-1".into(), order(u64::MAX, &[u32::MAX; 50])).unwrap();
        assert!(told.text.ends_with("214748364750 pieces for 184467440737095516.15."), "{}", told.text);
    }

    #[test]
    fn shipment_is_told_with_its_order() {
        let told = shipment_created("n-1".into(), shipment()).unwrap();
        let expected = Notification {
            id: "n-1".into(),
            user_id: "ada".into(),
            order_id: "o-1".into(),
            kind: Kind::ShipmentCreated,
            text: "Order o-1 is being packed as shipment s-1.".into(),
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn events_about_nobody_are_refused() {
        for wrong in ["", "a b", "ä", &"a".repeat(65)] {
            let order = PlacedOrder { order_id: wrong.into(), ..order(1, &[1]) };
            assert!(order_placed("n-1".into(), order).is_err(), "{wrong:?}");
            let no_order = CreatedShipment { order_id: wrong.into(), ..shipment() };
            assert!(shipment_created("n-1".into(), no_order).is_err(), "{wrong:?}");
            let no_shipment = CreatedShipment { shipment_id: wrong.into(), ..shipment() };
            assert!(shipment_created("n-1".into(), no_shipment).is_err(), "{wrong:?}");
        }
        let order = PlacedOrder { user_id: String::new(), ..order(1, &[1]) };
        assert!(order_placed("n-1".into(), order).is_err());
        assert!(
            shipment_created("n-1".into(), CreatedShipment { user_id: "\n".into(), ..shipment() }).is_err()
        );
    }
}
