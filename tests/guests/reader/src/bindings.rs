//! What `wit/world.wit` looks like in Rust: generated, and the exports tied to [`crate::Reader`].
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
        "../../../wit/cleave/context",
        "../../../wit/cleave/events",
        "../../../wit/cleave/schedule",
        "../../../wit/cleave/sql",
        "../../wit/letters",
        "wit",
    ],
    world: "test:reader-module/reader",
    generate_all,
    additional_derives: [Clone],
});

// Why: only the linker for components takes export names with a `/`.
#[cfg(target_arch = "wasm32")]
export!(Reader with_types_in crate::bindings);
#[cfg(target_arch = "wasm32")]
use crate::Reader;
