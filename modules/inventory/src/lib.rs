//! The inventory: how many pieces of each product there are, and for which orders they are kept.
//!
//! This file is the contract's exports and the handler of events; `rules` has what may be asked and what a standing
//! reservation says to it, the statements are in `store`.

mod bindings;
mod rules;
mod store;

use bindings::cleave::events::types::Error as EventError;
use bindings::exports::shop::inventory::stock::{Count, Error, Guest, Line, ReservationError, Stock};
use bindings::exports::shop::orders::events::{Guest as Events, PlacedOrder};

/// The component.
pub struct Inventory;

impl Guest for Inventory {
    fn get(sku: String) -> Result<Option<Stock>, Error> {
        rules::check_sku(&sku)?;
        store::stock(sku)
    }

    fn put(sku: String, count: Count) -> Result<Stock, Error> {
        rules::check_sku(&sku)?;
        store::put(sku, count.available)
    }

    fn reserve(order_id: String, lines: Vec<Line>) -> Result<(), ReservationError> {
        store::reserve(&rules::check_order(&order_id)?, &rules::check_lines(lines)?)
    }

    fn release(order_id: String) -> Result<(), ReservationError> {
        store::release(&rules::check_order(&order_id)?)
    }
}

impl From<Error> for ReservationError {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(message) => Self::Invalid(message),
            Error::Failed(failure) => Self::Failed(failure),
        }
    }
}

impl Events for Inventory {
    /// The reservation, not the event, says which pieces are sold: they are the ones that are kept.
    fn order_placed(event: PlacedOrder) -> Result<(), EventError> {
        store::sell(&event.order_id)
    }
}
