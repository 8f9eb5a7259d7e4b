//! The catalog: products by their SKU, in one table.
//!
//! This file is the contract's exports; what is allowed is in `rules`, the statements are in `store`.

mod bindings;
mod rules;
mod store;

use bindings::exports::shop::catalog::products::{Details, Error, Guest, Product};

/// The component.
pub struct Catalog;

impl Guest for Catalog {
    fn get(sku: String) -> Result<Option<Product>, Error> {
        rules::check_sku(&sku)?;
        Ok(store::products(&[sku])?.pop())
    }

    fn get_many(skus: Vec<String>) -> Result<Vec<Product>, Error> {
        rules::check_skus(&skus)?;
        store::products(&skus)
    }

    fn browse(after: Option<String>, limit: Option<u32>) -> Result<Vec<Product>, Error> {
        if let Some(sku) = &after {
            rules::check_sku(sku)?;
        }
        store::page(after, rules::page_size(limit)?)
    }

    fn put(sku: String, details: Details) -> Result<Product, Error> {
        rules::check_sku(&sku)?;
        rules::check_details(&details)?;
        store::put(Product {
            sku,
            name: details.name,
            price_cents: details.price_cents,
            description: details.description,
        })
    }
}
