//! What `wit/world.wit` looks like in Rust: generated, and the exports tied to [`crate::Victim`].
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
        "../../wit/victim",
        "wit",
    ],
    world: "test:victim-module/victim",
    generate_all,
    additional_derives: [Clone],
});

// Why: only the linker for components takes export names with a `/`.
#[cfg(target_arch = "wasm32")]
export!(Victim with_types_in crate::bindings);
#[cfg(target_arch = "wasm32")]
use crate::Victim;
