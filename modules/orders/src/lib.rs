//! Orders: what a customer asked for, at the prices of that moment, in two tables.
//!
//! This file is the contract's exports; what is allowed and what it costs is in `rules`, the statements are in `store`.

mod bindings;
mod rules;
mod store;

use bindings::cleave::call::types::Failure;
use bindings::exports::shop::orders::checkout::{Error, Guest, Order, OrderRequest};
use bindings::shop::catalog::products::{self as catalog, Product};
use uuid::Uuid;

/// The component.
pub struct Orders;

impl Guest for Orders {
    /// Asks the catalog before it writes: a transaction held across a call would stop the other orders.
    fn place(request: OrderRequest) -> Result<Order, Error> {
        let request = rules::check(request)?;
        if let Some(id) = &request.id
            && let Some(standing) = store::order(id)?
        {
            return rules::standing(standing, &request);
        }
        let products = products(&request)?;
        let id = request.id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let order = rules::price(id, &request, &products)?;
        if store::insert(&order)? {
            return Ok(order);
        }
        // The same identity was written since we looked.
        match store::order(&order.id)? {
            Some(standing) => rules::standing(standing, &request),
            None => Err(Error::Failed(Failure::Unavailable(format!("order {} is gone again", order.id)))),
        }
    }

    fn get(id: String) -> Result<Option<Order>, Error> {
        store::order(&rules::check_id(&id)?)
    }

    fn of_user(user_id: String) -> Result<Vec<Order>, Error> {
        rules::check_user(&user_id)?;
        store::orders_of(user_id)
    }
}

/// What the catalog knows about the products of a request. Which SKUs are possible is the catalog's to say.
fn products(request: &OrderRequest) -> Result<Vec<Product>, Error> {
    let skus: Vec<String> = request.lines.iter().map(|line| line.sku.clone()).collect();
    catalog::get_many(&skus).map_err(|error| match error {
        catalog::Error::Invalid(message) => Error::Invalid(message),
        // Nothing has been written, whatever became of the question.
        catalog::Error::Failed(Failure::Unavailable(message) | Failure::Uncertain(message)) => {
            Error::Failed(Failure::Unavailable(format!("catalog: {message}")))
        }
    })
}
