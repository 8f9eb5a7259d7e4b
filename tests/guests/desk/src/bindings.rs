//! What `wit/world.wit` looks like in Rust: generated, and the exports tied to [`crate::Desk`].
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
        "../../../wit/cleave/events",
        "../../../wit/cleave/sql",
        "../../wit/mistakes",
        "wit",
    ],
    world: "test:desk-module/desk",
    generate_all,
    additional_derives: [Clone],
});

// Why: only the linker for components takes export names with a `/`.
#[cfg(target_arch = "wasm32")]
export!(Desk with_types_in crate::bindings);
#[cfg(target_arch = "wasm32")]
use crate::Desk;
