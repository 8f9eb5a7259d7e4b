//! Notifications: what users are told about their orders, in one table.
//!
//! This file is the contract's exports and the handlers of events; `rules` has what can be asked and what is said, the
//! statements are in `store`.

mod bindings;
mod rules;
mod store;

use bindings::cleave::events::types::Error as EventError;
use bindings::exports::shop::notifications::messages::{Error, Guest, Notification};
use bindings::exports::shop::orders::events::{Guest as OrderEvents, PlacedOrder};
use bindings::exports::shop::shipping::events::{CreatedShipment, Guest as ShippingEvents};
use uuid::Uuid;

/// The component.
pub struct Notifications;

impl Guest for Notifications {
    fn of_user(user_id: String) -> Result<Vec<Notification>, Error> {
        store::newest(rules::check_user(&user_id)?)
    }
}

impl OrderEvents for Notifications {
    fn order_placed(event: PlacedOrder) -> Result<(), EventError> {
        store::insert(&rules::order_placed(Uuid::new_v4().to_string(), event).map_err(EventError::Reject)?)
    }
}

impl ShippingEvents for Notifications {
    fn shipment_created(event: CreatedShipment) -> Result<(), EventError> {
        store::insert(
            &rules::shipment_created(Uuid::new_v4().to_string(), event).map_err(EventError::Reject)?,
        )
    }
}
