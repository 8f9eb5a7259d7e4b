//! What `wit/world.wit` looks like in Rust: generated, and the exports tied to [`crate::Hostile`].
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
        "../../../wit/cleave/log",
        "../../../wit/cleave/sql",
        "../../wit/hostile",
        "wit",
    ],
    world: "test:hostile-module/hostile",
    generate_all,
    additional_derives: [Clone],
});

// Why: only the linker for components takes export names with a `/`.
#[cfg(target_arch = "wasm32")]
export!(Hostile with_types_in crate::bindings);
#[cfg(target_arch = "wasm32")]
use crate::Hostile;
