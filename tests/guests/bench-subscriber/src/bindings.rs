//! What `wit/world.wit` looks like in Rust: generated, and the exports tied to [`crate::Subscriber`].
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
        "../../wit/bench",
        "wit",
    ],
    world: "test:bench-subscriber-module/subscriber",
    generate_all,
    additional_derives: [Clone],
});

// Why: only the linker for components takes export names with a `/`.
#[cfg(target_arch = "wasm32")]
export!(Subscriber with_types_in crate::bindings);
#[cfg(target_arch = "wasm32")]
use crate::Subscriber;
