//! What a product may look like, and what may be asked about products.
//!
//! The limits keep every answer of the contract under the payload limit: 100 products are less than 1 MiB.

use crate::bindings::exports::shop::catalog::products::{Details, Error};

/// The most products one answer holds.
const PAGE_MAX: u32 = 100;
/// The longest SKU, in characters.
const SKU_MAX: usize = 64;
/// The longest name, in characters.
const NAME_MAX: usize = 200;
/// The longest description, in characters.
const DESCRIPTION_MAX: usize = 2_000;
/// The highest price of one piece, in cents.
const PRICE_MAX: u64 = 100_000_000;

/// Whether this can be a SKU.
pub(crate) fn check_sku(sku: &str) -> Result<(), Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if sku.is_empty() || sku.len() > SKU_MAX || !sku.bytes().all(allowed) {
        return invalid(format!("sku must be 1 to {SKU_MAX} letters, digits, '-', '_' or '.'"));
    }
    Ok(())
}

/// Whether these can be SKUs, and are no more than one answer can hold.
pub(crate) fn check_skus(skus: &[String]) -> Result<(), Error> {
    if skus.len() > PAGE_MAX as usize {
        return invalid(format!("skus must be at most {PAGE_MAX}"));
    }
    skus.iter().try_for_each(|sku| check_sku(sku))
}

/// Whether the shop may say this about a product.
pub(crate) fn check_details(details: &Details) -> Result<(), Error> {
    let name = &details.name;
    if name.is_empty() || name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
        return invalid(format!("name must be 1 to {NAME_MAX} characters without control characters"));
    }
    if !(1..=PRICE_MAX).contains(&details.price_cents) {
        return invalid(format!("price-cents must be 1 to {PRICE_MAX}"));
    }
    let description = &details.description;
    if description.chars().count() > DESCRIPTION_MAX || description.contains('\0') {
        return invalid(format!("description must be at most {DESCRIPTION_MAX} characters without U+0000"));
    }
    Ok(())
}

/// How many products a page holds.
pub(crate) fn page_size(limit: Option<u32>) -> Result<u32, Error> {
    match limit.unwrap_or(PAGE_MAX) {
        limit @ 1..=PAGE_MAX => Ok(limit),
        _ => invalid(format!("limit must be 1 to {PAGE_MAX}")),
    }
}

fn invalid<T>(message: String) -> Result<T, Error> {
    Err(Error::Invalid(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(name: &str, price_cents: u64, description: &str) -> Details {
        Details { name: name.into(), price_cents, description: description.into() }
    }

    #[test]
    fn skus_are_short_and_plain() {
        for sku in ["a", "MUG-01", "x_1.y", &"a".repeat(64)] {
            assert_eq!(check_sku(sku), Ok(()), "{sku}");
        }
        for sku in ["", " ", "a b", "a/b", "ä", "a\0", &"a".repeat(65)] {
            assert!(check_sku(sku).is_err(), "{sku:?}");
        }
    }

    #[test]
    fn a_hundred_skus_are_enough() {
        assert_eq!(check_skus(&vec!["a".into(); 100]), Ok(()));
        assert!(check_skus(&vec!["a".into(); 101]).is_err());
        assert!(check_skus(&["a".into(), String::new()]).is_err());
    }

    #[test]
    fn details_keep_their_limits() {
        assert_eq!(check_details(&details("ü", 1, "")), Ok(()));
        assert_eq!(check_details(&details(&"ü".repeat(200), 100_000_000, &"ü".repeat(2_000))), Ok(()));
        for wrong in [
            details("", 1, ""),
            details(&"n".repeat(201), 1, ""),
            details("two\nlines", 1, ""),
            details("n", 0, ""),
            details("n", 100_000_001, ""),
            details("n", u64::MAX, ""),
            details("n", 1, &"d".repeat(2_001)),
            details("n", 1, "\0"),
        ] {
            assert!(check_details(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_page_has_a_size() {
        assert_eq!(page_size(None), Ok(100));
        assert_eq!(page_size(Some(1)), Ok(1));
        assert_eq!(page_size(Some(100)), Ok(100));
        assert!(page_size(Some(0)).is_err());
        assert!(page_size(Some(101)).is_err());
    }
}
