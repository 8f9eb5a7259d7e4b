//! What `wit/world.wit` looks like in Rust: generated, and the exports tied to [`crate::Ledger`].
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
        "../../../wit/cleave/sql",
        "../../wit/ledger",
        "wit",
    ],
    world: "test:ledger-module/ledger",
    generate_all,
    additional_derives: [Clone],
});

// Why: only the linker for components takes export names with a `/`.
#[cfg(target_arch = "wasm32")]
export!(Ledger with_types_in crate::bindings);
#[cfg(target_arch = "wasm32")]
use crate::Ledger;
