//! The callee of the benchmarks: gives back what it gets.

mod bindings;

use bindings::cleave::call::types::Failure;
use bindings::exports::test::bench::callee::{Guest, Product};

/// The component.
pub struct Callee;

impl Guest for Callee {
    fn add(a: u32, b: u32) -> Result<u32, Failure> {
        Ok(a.wrapping_add(b))
    }

    fn add_plain(a: u32, b: u32) -> u32 {
        a.wrapping_add(b)
    }

    fn echo_product(product: Product) -> Result<Product, Failure> {
        Ok(product)
    }

    fn echo_products(products: Vec<Product>) -> Result<Vec<Product>, Failure> {
        Ok(products)
    }
}
