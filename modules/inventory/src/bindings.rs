//! What `wit/world.wit` looks like in Rust: generated, and the exports tied to [`crate::Inventory`].
#![allow(
    unsafe_code,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::mem_forget,
    reason = "generated code"
)]

wit_bindgen::generate!({
    path: [
        "../../wit/cleave/call",
        "../../wit/cleave/events",
        "../../wit/cleave/sql",
        "../../wit/shop/inventory",
        "../../wit/shop/orders",
        "wit",
    ],
    world: "shop:inventory-module/inventory",
    generate_all,
    additional_derives: [PartialEq, Clone],
});

// Why: only the linker for components takes export names such as `shop:inventory/stock@0.1.0#get`.
#[cfg(target_arch = "wasm32")]
export!(Inventory with_types_in crate::bindings);
#[cfg(target_arch = "wasm32")]
use crate::Inventory;
