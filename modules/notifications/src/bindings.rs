//! What `wit/world.wit` looks like in Rust: generated, and the exports tied to [`crate::Notifications`].
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
        "../../wit/shop/notifications",
        "../../wit/shop/orders",
        "../../wit/shop/shipping",
        "wit",
    ],
    world: "shop:notifications-module/notifications",
    generate_all,
    additional_derives: [PartialEq, Clone],
});

// Why: only the linker for components takes export names such as `shop:notifications/messages@0.1.0#of-user`.
#[cfg(target_arch = "wasm32")]
export!(Notifications with_types_in crate::bindings);
#[cfg(target_arch = "wasm32")]
use crate::Notifications;
