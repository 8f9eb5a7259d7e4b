//! A module that does nothing wrong: whatever becomes of others must not touch it.

mod bindings;

use bindings::cleave::call::types::Failure;
use bindings::exports::test::victim::ping::Guest;

/// The component.
pub struct Victim;

impl Guest for Victim {
    fn ping(n: u32) -> Result<u32, Failure> {
        Ok(n.wrapping_add(1))
    }
}
