//! What `wit/world.wit` looks like in Rust: generated, and the exports tied to [`crate::Orders`].
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
        "../../wit/cleave/schedule",
        "../../wit/cleave/sql",
        "../../wit/shop/catalog",
        "../../wit/shop/inventory",
        "../../wit/shop/payments",
        "../../wit/shop/orders",
        "wit",
    ],
    world: "shop:orders-module/orders",
    generate_all,
    additional_derives: [PartialEq, Clone],
});

// Why: only the linker for components takes export names such as `shop:orders/checkout@0.1.0#get`.
#[cfg(target_arch = "wasm32")]
export!(Orders with_types_in crate::bindings);
#[cfg(target_arch = "wasm32")]
use crate::Orders;
