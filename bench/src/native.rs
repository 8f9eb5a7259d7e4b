//! The native servers beside which the shop is measured: axum, the same statements on the same tables, nothing else.
//!
//! Those that read products are here; those that take orders are in [`checkout_rusqlite`], [`checkout_sqlx`] and
//! [`checkout_postgres`], and those at the other end of a road of events in [`road`].

mod checkout;
pub(crate) mod checkout_postgres;
pub(crate) mod checkout_rusqlite;
pub(crate) mod checkout_sqlx;
pub(crate) mod events;
pub(crate) mod grouped;
pub(crate) mod road;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use rusqlite::{OpenFlags, OptionalExtension};
use serde::Serialize;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use std::sync::{Arc, Mutex};

/// The hidden verbs of this binary, each followed by the path of the database.
pub(crate) const RUSQLITE: &str = "native-rusqlite";
pub(crate) const SQLX: &str = "native-sqlx";
/// Likewise, each followed by the folder of the databases.
pub(crate) const CHECKOUT_RUSQLITE: &str = "native-checkout-rusqlite";
pub(crate) const CHECKOUT_SQLX: &str = "native-checkout-sqlx";
/// Likewise, followed by the URL of the database.
pub(crate) const CHECKOUT_POSTGRES: &str = "native-checkout-postgres";
/// Likewise, followed by the kind of road, the URL of the NATS server and the folder of the database.
pub(crate) const ROAD: &str = "native-road";

/// What the catalog says to read one product.
const SELECT: &str =
    "SELECT sku, name, price_cents, description FROM products WHERE sku IN ($1) ORDER BY sku";
/// As many as the shop has by default.
const READERS: u32 = 4;

#[derive(Serialize)]
struct Product {
    sku: String,
    name: String,
    price_cents: i64,
    description: String,
}

type Answer = Result<Json<Product>, StatusCode>;

fn answer(found: Option<(String, String, i64, String)>) -> Answer {
    let (sku, name, price_cents, description) = found.ok_or(StatusCode::NOT_FOUND)?;
    Ok(Json(Product { sku, name, price_cents, description }))
}

/// Serves products through rusqlite, on the worker that has the request, with a few connections and cached statements.
#[tokio::main]
pub(crate) async fn rusqlite(database: &str) {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = |_| rusqlite::Connection::open_with_flags(database, flags).unwrap();
    let idle: Arc<Mutex<Vec<_>>> = Arc::new(Mutex::new((0..READERS).map(open).collect()));
    // There are no more workers than connections, and none gives way while it reads.
    let read = async |State(idle): State<Arc<Mutex<Vec<rusqlite::Connection>>>>, Path(sku): Path<String>| {
        let connection = idle.lock().unwrap().pop().unwrap();
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
        let found = connection.prepare_cached(SELECT).unwrap().query_row([sku], row).optional().unwrap();
        idle.lock().unwrap().push(connection);
        answer(found)
    };
    serve(Router::new().route("/api/products/{sku}", get(read)).with_state(idle)).await;
}

/// Serves products through sqlx, as it comes.
#[tokio::main]
pub(crate) async fn sqlx(database: &str) {
    let options = SqliteConnectOptions::new().filename(database).read_only(true);
    let pool = SqlitePoolOptions::new().max_connections(READERS).connect_with(options).await.unwrap();
    let read = async |State(pool): State<SqlitePool>, Path(sku): Path<String>| {
        answer(sqlx::query_as(SELECT).bind(sku).fetch_optional(&pool).await.unwrap())
    };
    serve(Router::new().route("/api/products/{sku}", get(read)).with_state(pool)).await;
}

async fn serve(router: Router) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    eprintln!("ready at http://{}", listener.local_addr().unwrap());
    axum::serve(listener, router).await.unwrap();
}
