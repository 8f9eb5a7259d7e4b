//! What `wit/world.wit` looks like in Rust: generated, and the exports tied to [`crate::Catalog`].
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
        "../../wit/shop/catalog",
        "wit",
    ],
    world: "shop:catalog-module/catalog",
    generate_all,
    additional_derives: [PartialEq],
});

// Why: only the linker for components takes export names such as `shop:catalog/products@0.1.0#get`.
#[cfg(target_arch = "wasm32")]
export!(Catalog with_types_in crate::bindings);
#[cfg(target_arch = "wasm32")]
use crate::Catalog;
