//! Orders: what a customer asked for, at the prices of that moment, in two tables, and the way of each to its end.
//!
//! This file is the contract's exports and the task of the schedule; what is allowed and what it costs is in `rules`,
//! the steps from the request to the end in `saga`, the statements in `store`.

mod bindings;
mod rules;
mod saga;
mod store;

use bindings::cleave::call::types::Failure;
use bindings::exports::cleave::schedule::task::Guest as Task;
use bindings::exports::shop::orders::checkout::{Error, Guest, Order, OrderRequest, PlaceError, Status};
use bindings::shop::catalog::products::{self as catalog, Product};
use saga::{Goal, Placed};
use uuid::Uuid;

/// The component.
pub struct Orders;

impl Guest for Orders {
    /// The order stands before anything is done for it, so that it is never forgotten halfway.
    fn place(request: OrderRequest) -> Result<Order, PlaceError> {
        let request = rules::check(request)?;
        if let Some(id) = &request.id
            && let Some(standing) = store::placed(id)?
        {
            return go_on(rules::standing(standing, &request)?);
        }
        let products = products(&request)?;
        let id = request.id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let order = rules::price(id, &request, &products)?;
        let placed = Placed::new(order, request.payment_token.clone());
        if store::insert(&placed)? {
            return finish(placed);
        }
        // The same identity was written since we looked.
        let id = placed.order.id;
        match store::placed(&id)? {
            Some(standing) => go_on(rules::standing(standing, &request)?),
            None => Err(Failure::Unavailable(format!("order {id} is gone again")).into()),
        }
    }

    fn get(id: String) -> Result<Option<Order>, Error> {
        Ok(store::placed(&rules::check_id(&id)?)?.map(|placed| placed.order))
    }

    fn of_user(user_id: String) -> Result<Vec<Order>, Error> {
        let user_id = rules::check_user(&user_id)?;
        Ok(store::placed_by(user_id)?.into_iter().map(|placed| placed.order).collect())
    }
}

impl Task for Orders {
    fn run(task: String) -> Result<(), String> {
        match task.as_str() {
            "resume" => saga::resume(),
            _ => Err(format!("orders have no task {task}; name it resume")),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Failure> for PlaceError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Error> for PlaceError {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(message) => Self::Invalid(message),
            Error::Failed(failure) => Self::Failed(failure),
        }
    }
}

/// Goes on with an order that stands, unless it is at its end or somebody else goes on with it.
fn go_on(standing: Placed) -> Result<Order, PlaceError> {
    if standing.order.status != Status::Pending {
        return standing.answer();
    }
    match store::take(&standing.order.id)? {
        Some(taken) => finish(taken),
        None => standing.answer(),
    }
}

/// Takes an order as far as it goes now. What keeps it is no error: the schedule takes it up again.
fn finish(mut placed: Placed) -> Result<Order, PlaceError> {
    saga::drive(Goal::End, &mut placed).ok();
    placed.answer()
}

/// What the catalog knows about the products of a request. Which SKUs are possible is the catalog's to say.
fn products(request: &OrderRequest) -> Result<Vec<Product>, PlaceError> {
    let skus: Vec<String> = request.lines.iter().map(|line| line.sku.clone()).collect();
    catalog::get_many(&skus).map_err(|error| match error {
        catalog::Error::Invalid(message) => PlaceError::Invalid(message),
        // Nothing has been written, whatever became of the question.
        catalog::Error::Failed(Failure::Unavailable(message) | Failure::Uncertain(message)) => {
            PlaceError::Failed(Failure::Unavailable(format!("catalog: {message}")))
        }
    })
}
