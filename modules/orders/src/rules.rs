//! What may be ordered, what it costs, and when two requests are the same.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::bindings::exports::shop::orders::checkout::{
    Error, Line, Order, OrderRequest, PlaceError, Status,
};
use crate::bindings::shop::catalog::products::Product;
use crate::saga::Placed;

/// The length of a UUID as it is written with hyphens.
const ID_LENGTH: usize = 36;
/// The longest name of a user, in characters.
const USER_MAX: usize = 64;
/// The most lines of an order.
const LINES_MAX: usize = 50;
/// The most pieces of one product.
const QUANTITY_MAX: u32 = 1_000;
/// How every payment token begins.
const TOKEN_START: &str = "tok_";
/// The longest payment token, in characters.
const TOKEN_MAX: usize = 64;

/// Whether the shop may be asked this. Gives the request with its UUIDs in lower case.
pub(crate) fn check(mut request: OrderRequest) -> Result<OrderRequest, PlaceError> {
    request.id = request.id.as_deref().map(check_id).transpose()?;
    request.user_id = check_user(&request.user_id)?;
    if request.lines.is_empty() || request.lines.len() > LINES_MAX {
        return invalid(format!("lines must be 1 to {LINES_MAX}"));
    }
    let mut seen = BTreeSet::new();
    for line in &request.lines {
        if !(1..=QUANTITY_MAX).contains(&line.quantity) {
            return invalid(format!("quantity must be 1 to {QUANTITY_MAX}"));
        }
        if !seen.insert(&line.sku) {
            return invalid("sku must be on one line only".to_owned());
        }
    }
    check_token(&request.payment_token)?;
    Ok(request)
}

/// Whether this can be an order's identity. Gives it in lower case.
pub(crate) fn check_id(id: &str) -> Result<String, Error> {
    match uuid(id) {
        Some(id) => Ok(id),
        None => invalid("id must be a UUID, written with hyphens".to_owned()),
    }
}

/// A text that is a UUID, in lower case.
fn uuid(text: &str) -> Option<String> {
    // Why: a UUID has shorter and longer spellings; the contract knows one.
    let uuid = Uuid::try_parse(text).ok().filter(|_| text.len() == ID_LENGTH)?;
    Some(uuid.to_string())
}

/// Whether this can be the name of a user. Gives it, if it is a UUID, in lower case.
pub(crate) fn check_user(user_id: &str) -> Result<String, Error> {
    if user_id.is_empty() || user_id.chars().count() > USER_MAX || user_id.chars().any(char::is_control) {
        return invalid(format!("user-id must be 1 to {USER_MAX} characters without control characters"));
    }
    Ok(uuid(user_id).unwrap_or_else(|| user_id.to_owned()))
}

/// Whether the payments can take this. Asked here too, so that no order is written down that cannot be paid.
fn check_token(token: &str) -> Result<(), Error> {
    let printable = |byte: u8| matches!(byte, b' '..=b'~');
    if token.len() > TOKEN_MAX || !token.starts_with(TOKEN_START) || !token.bytes().all(printable) {
        return invalid(format!(
            "payment-token must be at most {TOKEN_MAX} printable ASCII characters, the first of them {TOKEN_START}"
        ));
    }
    Ok(())
}

/// The order that fulfils a request at the catalog's prices.
pub(crate) fn price(id: String, request: &OrderRequest, products: &[Product]) -> Result<Order, PlaceError> {
    let prices: BTreeMap<&str, u64> =
        products.iter().map(|product| (product.sku.as_str(), product.price_cents)).collect();
    let mut lines = Vec::with_capacity(request.lines.len());
    let mut unknown = Vec::new();
    for wanted in &request.lines {
        match prices.get(wanted.sku.as_str()) {
            Some(&unit_price_cents) => {
                lines.push(Line { sku: wanted.sku.clone(), quantity: wanted.quantity, unit_price_cents });
            }
            None => unknown.push(wanted.sku.clone()),
        }
    }
    if !unknown.is_empty() {
        return Err(PlaceError::UnknownProducts(unknown));
    }
    let Some(total_cents) = total(&lines) else {
        return invalid("the order is too large to be added up".to_owned());
    };
    Ok(Order { id, user_id: request.user_id.clone(), status: Status::Pending, total_cents, lines })
}

/// What the lines cost together, if it can be written down: the database's whole numbers have a sign.
fn total(lines: &[Line]) -> Option<u64> {
    let total = lines.iter().try_fold(0u64, |total, line| {
        total.checked_add(line.unit_price_cents.checked_mul(line.quantity.into())?)
    })?;
    i64::try_from(total).is_ok().then_some(total)
}

/// The order that stands under the identity of a request, if it answers that request.
pub(crate) fn standing(placed: Placed, request: &OrderRequest) -> Result<Placed, PlaceError> {
    let order = &placed.order;
    let same_lines = order.lines.len() == request.lines.len()
        && order
            .lines
            .iter()
            .zip(&request.lines)
            .all(|(line, wanted)| line.sku == wanted.sku && line.quantity == wanted.quantity);
    if order.user_id == request.user_id && placed.payment_token == request.payment_token && same_lines {
        return Ok(placed);
    }
    Err(PlaceError::Conflict(format!("another order has the identity {}", order.id)))
}

fn invalid<T, E: From<Error>>(message: String) -> Result<T, E> {
    Err(Error::Invalid(message).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::exports::shop::orders::checkout::LineRequest;

    const ID: &str = "0b9c7a52-6f0e-4c37-9d0a-3a1f6f2f7f10";

    fn request(lines: &[(&str, u32)]) -> OrderRequest {
        let lines = lines.iter().map(|&(sku, quantity)| LineRequest { sku: sku.into(), quantity }).collect();
        OrderRequest { id: Some(ID.into()), user_id: "ada".into(), lines, payment_token: "tok_visa".into() }
    }

    fn product(sku: &str, price_cents: u64) -> Product {
        Product { sku: sku.into(), name: sku.into(), price_cents, description: String::new() }
    }

    fn placed(lines: &[(&str, u32)]) -> Placed {
        let products: Vec<Product> = lines.iter().map(|(sku, _)| product(sku, 250)).collect();
        Placed::new(price(ID.into(), &request(lines), &products).unwrap(), "tok_visa".into())
    }

    #[test]
    fn identity_is_a_uuid_in_lower_case() {
        assert_eq!(check_id(&ID.to_uppercase()), Ok(ID.to_owned()));
        for wrong in
            ["", "1", &ID.replace('-', ""), &format!("{{{ID}}}"), &ID.replace('0', "g"), &format!("{ID} ")]
        {
            assert!(check_id(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn user_that_is_a_uuid_is_taken_in_lower_case() {
        assert_eq!(check_user(&ID.to_uppercase()), Ok(ID.to_owned()));
        for other in ["Ada", &ID.to_uppercase().replace('-', ""), &ID.to_uppercase().replace('0', "G")] {
            assert_eq!(check_user(other), Ok(other.to_owned()));
        }
        let asked = OrderRequest { user_id: ID.to_uppercase(), ..request(&[("a", 1)]) };
        assert_eq!(check(asked).unwrap().user_id, ID);
    }

    #[test]
    fn requests_keep_their_limits() {
        assert!(check(request(&[("a", 1), ("b", 1_000)])).is_ok());
        assert!(check(OrderRequest { id: None, ..request(&[("a", 1)]) }).is_ok());
        let skus: Vec<String> = (0..51).map(|n| n.to_string()).collect();
        let lines: Vec<(&str, u32)> = skus.iter().map(|sku| (sku.as_str(), 1)).collect();
        assert!(check(request(&lines[..50])).is_ok());
        for wrong in [
            request(&lines),
            request(&[]),
            request(&[("a", 0)]),
            request(&[("a", 1_001)]),
            request(&[("a", 1), ("a", 1)]),
            OrderRequest { user_id: String::new(), ..request(&[("a", 1)]) },
            OrderRequest { user_id: "u".repeat(65), ..request(&[("a", 1)]) },
            OrderRequest { user_id: "a\nb".into(), ..request(&[("a", 1)]) },
            OrderRequest { id: Some("x".into()), ..request(&[("a", 1)]) },
        ] {
            assert!(matches!(check(wrong.clone()), Err(PlaceError::Invalid(_))), "{wrong:?}");
        }
    }

    #[test]
    fn tokens_are_printable_and_marked() {
        for token in ["tok_", "tok_visa", "tok_ ~", &format!("tok_{}", "x".repeat(60))] {
            let request = OrderRequest { payment_token: token.into(), ..request(&[("a", 1)]) };
            assert!(check(request).is_ok(), "{token}");
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
            let request = OrderRequest { payment_token: token.into(), ..request(&[("a", 1)]) };
            assert!(matches!(check(request), Err(PlaceError::Invalid(_))), "{token:?}");
        }
    }

    #[test]
    fn total_is_the_sum_of_the_lines() {
        let products = [product("b", 3), product("a", 250)];
        let order = price(ID.into(), &request(&[("a", 2), ("b", 5)]), &products).unwrap();
        assert_eq!(order.total_cents, 515);
        assert_eq!(order.lines.len(), 2);
        assert_eq!(order.lines[0], Line { sku: "a".into(), quantity: 2, unit_price_cents: 250 });
    }

    #[test]
    fn unknown_products_are_all_named() {
        let answer = price(ID.into(), &request(&[("x", 1), ("a", 1), ("y", 1)]), &[product("a", 1)]);
        assert_eq!(answer, Err(PlaceError::UnknownProducts(vec!["x".into(), "y".into()])));
    }

    #[test]
    fn total_beyond_the_numbers_is_refused() {
        for price_cents in [u64::MAX, i64::MAX as u64] {
            let answer = price(ID.into(), &request(&[("a", 2)]), &[product("a", price_cents)]);
            assert!(matches!(answer, Err(PlaceError::Invalid(_))), "{answer:?}");
        }
        let products = [product("a", u64::MAX), product("b", 1)];
        assert!(price(ID.into(), &request(&[("a", 1), ("b", 1)]), &products).is_err());
        assert!(price(ID.into(), &request(&[("a", 1)]), &[product("a", i64::MAX as u64)]).is_ok());
    }

    #[test]
    fn same_request_gets_the_order_that_stands() {
        let lines = [("a", 2), ("b", 1)];
        let mut dearer = placed(&lines);
        dearer.order.lines[0].unit_price_cents = 1;
        assert_eq!(standing(dearer.clone(), &request(&lines)), Ok(dearer));
    }

    #[test]
    fn another_request_with_the_identity_is_a_conflict() {
        for other in [
            request(&[("a", 2)]),
            request(&[("a", 2), ("b", 2)]),
            request(&[("b", 1), ("a", 2)]),
            request(&[("a", 2), ("b", 1), ("c", 1)]),
            OrderRequest { user_id: "bob".into(), ..request(&[("a", 2), ("b", 1)]) },
            OrderRequest { payment_token: "tok_other".into(), ..request(&[("a", 2), ("b", 1)]) },
        ] {
            let answer = standing(placed(&[("a", 2), ("b", 1)]), &other);
            assert!(matches!(answer, Err(PlaceError::Conflict(_))), "{other:?}");
        }
    }
}
