//! Shipping: a shipment for each confirmed order, in two tables.
//!
//! This file is the contract's exports and the handler of events; `rules` has what can be asked and sent, the
//! statements are in `store`.

mod bindings;
mod rules;
mod store;

use bindings::cleave::events::types::Error as EventError;
use bindings::exports::shop::orders::events::{Guest as Events, PlacedOrder};
use bindings::exports::shop::shipping::shipments::{Error, Guest, Shipment};
use bindings::shop::shipping::events::{self, CreatedShipment};
use uuid::Uuid;

/// The component.
pub struct Shipping;

impl Guest for Shipping {
    fn of_order(order_id: String) -> Result<Option<Shipment>, Error> {
        store::shipment(rules::check_order(&order_id)?)
    }
}

impl Events for Shipping {
    /// The shipment and the event about it are in the transaction that the host commits when this returns.
    fn order_placed(event: PlacedOrder) -> Result<(), EventError> {
        let shipment = rules::shipment(Uuid::new_v4().to_string(), event).map_err(EventError::Reject)?;
        store::insert(&shipment)?;
        events::shipment_created(&CreatedShipment {
            order_id: shipment.order_id,
            shipment_id: shipment.id,
            user_id: shipment.user_id,
        })
    }
}
