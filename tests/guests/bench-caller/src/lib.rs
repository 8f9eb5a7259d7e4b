//! The caller of the benchmarks: calls in a loop, so that the cost of being called itself does not count.

mod bindings;

use bindings::cleave::call::types::Failure;
use bindings::exports::test::bench::caller::Guest;
use bindings::test::bench::callee::{self, Product};

/// The component.
pub struct Caller;

impl Guest for Caller {
    fn add_loop(n: u32) -> Result<u64, Failure> {
        (0..n).try_fold(0u64, |sum, i| Ok(sum.wrapping_add(callee::add(i, 1)?.into())))
    }

    fn add_plain_loop(n: u32) -> Result<u64, Failure> {
        Ok((0..n).fold(0u64, |sum, i| sum.wrapping_add(callee::add_plain(i, 1).into())))
    }

    fn product_loop(n: u32) -> Result<u64, Failure> {
        let product = product(1);
        (0..n).try_fold(0u64, |sum, _| Ok(sum.wrapping_add(callee::echo_product(&product)?.price_cents)))
    }

    fn products_loop(n: u32) -> Result<u64, Failure> {
        let products: Vec<Product> = (1..=10).map(product).collect();
        (0..n).try_fold(0u64, |sum, _| {
            let prices: u64 =
                callee::echo_products(&products)?.iter().map(|product| product.price_cents).sum();
            Ok(sum.wrapping_add(prices))
        })
    }
}

fn product(price_cents: u64) -> Product {
    Product {
        sku: format!("MUG-{price_cents:04}"),
        name: "A mug with a handle".to_owned(),
        price_cents,
        description: "Holds a third of a litre, and tea stays warm in it for longer than one would think."
            .to_owned(),
    }
}
