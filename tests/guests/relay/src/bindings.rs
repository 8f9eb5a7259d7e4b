//! What `wit/world.wit` looks like in Rust: generated, and the exports tied to [`crate::Relay`].
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
        "../../../wit/cleave/call",
        "../../wit/hostile",
        "../../wit/relay",
        "wit",
    ],
    world: "test:relay-module/relay",
    generate_all,
    additional_derives: [Clone],
});

// Why: only the linker for components takes export names with a `/`.
#[cfg(target_arch = "wasm32")]
export!(Relay with_types_in crate::bindings);
#[cfg(target_arch = "wasm32")]
use crate::Relay;
