//! Products in the table `products`.
//!
//! Reads change nothing and `put` is a single statement, so a conflict is run again, a bounded number of times.

use crate::bindings::cleave::call::types::Failure;
use crate::bindings::cleave::sql::database::{self, Error as SqlError, Value};
use crate::bindings::exports::shop::catalog::products::{Error, Product};

/// How often a statement runs when other transactions are in its way.
const ATTEMPTS_MAX: u32 = 5;

const COLUMNS: &str = "sku, name, price_cents, description";

/// The products with these SKUs, ordered by SKU.
pub(crate) fn products(skus: &[String]) -> Result<Vec<Product>, Error> {
    if skus.is_empty() {
        return Ok(Vec::new());
    }
    let places: Vec<String> = (1..=skus.len()).map(|place| format!("${place}")).collect();
    let statement =
        format!("SELECT {COLUMNS} FROM products WHERE sku IN ({}) ORDER BY sku", places.join(", "));
    let parameters: Vec<Value> = skus.iter().cloned().map(Value::Text).collect();
    query(&statement, &parameters)
}

/// At most `limit` products after a SKU, ordered by SKU.
pub(crate) fn page(after: Option<String>, limit: u32) -> Result<Vec<Product>, Error> {
    // Every SKU comes after the empty text.
    let after = Value::Text(after.unwrap_or_default());
    let statement = format!("SELECT {COLUMNS} FROM products WHERE sku > $1 ORDER BY sku LIMIT $2");
    query(&statement, &[after, Value::Integer(limit.into())])
}

/// Writes the product over what was known about its SKU.
pub(crate) fn put(product: Product) -> Result<Product, Error> {
    let statement = format!(
        "INSERT INTO products ({COLUMNS}) VALUES ($1, $2, $3, $4) ON CONFLICT (sku) DO UPDATE \
         SET name = excluded.name, price_cents = excluded.price_cents, description = excluded.description \
         RETURNING {COLUMNS}"
    );
    let price_cents = i64::try_from(product.price_cents).map_err(|_| unreadable("price-cents"))?;
    let parameters = [
        Value::Text(product.sku),
        Value::Text(product.name),
        Value::Integer(price_cents),
        Value::Text(product.description),
    ];
    query(&statement, &parameters)?.pop().ok_or_else(|| unreadable("the product just written"))
}

/// Runs one statement that gives products.
fn query(statement: &str, parameters: &[Value]) -> Result<Vec<Product>, Error> {
    let mut attempt = 1;
    loop {
        match database::query(statement, parameters) {
            Ok(rows) => return rows.rows.into_iter().map(product).collect(),
            Err(SqlError::Conflict(_)) if attempt < ATTEMPTS_MAX => attempt += 1,
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Reads a row of [`COLUMNS`].
fn product(row: Vec<Value>) -> Result<Product, Error> {
    let Ok([Value::Text(sku), Value::Text(name), Value::Integer(price), Value::Text(description)]) =
        <[Value; 4]>::try_from(row)
    else {
        return Err(unreadable("a product"));
    };
    let price_cents = u64::try_from(price).map_err(|_| unreadable("a price"))?;
    Ok(Product { sku, name, price_cents, description })
}

/// What a failed statement means to the caller. Only an unusable database leaves open whether a write stands.
fn failed(error: SqlError) -> Error {
    Error::Failed(match error {
        SqlError::Unavailable(message) => Failure::Uncertain(format!("catalog database: {message}")),
        error => Failure::Unavailable(format!("catalog database: {error:?}")),
    })
}

fn unreadable(what: &str) -> Error {
    Error::Failed(Failure::Uncertain(format!("catalog database: {what} cannot be read")))
}
