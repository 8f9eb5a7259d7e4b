//! What `wit/world.wit` looks like in Rust: generated, and the exports tied to [`crate::Users`].
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
        "../../wit/cleave/sql",
        "../../wit/shop/users",
        "wit",
    ],
    world: "shop:users-module/users",
    generate_all,
    additional_derives: [PartialEq, Clone],
});

// Why: only the linker for components takes export names such as `shop:users/accounts@0.1.0#get`.
#[cfg(target_arch = "wasm32")]
export!(Users with_types_in crate::bindings);
#[cfg(target_arch = "wasm32")]
use crate::Users;
