//! The native shop over sqlx as one would ordinarily write it: a pool for each file, a transaction for each step, tasks
//! that carry and handle the events.

use super::checkout::*;
use super::events::{BATCH, DONE, DUE, Event, NEXT, PUT, PUT_TO, RECEIVE, REMOVE, REMOVE_TO, WAITING, now};
use super::serve;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Sqlite, Transaction};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use uuid::Uuid;

/// As many as the others have for reading. With 1, 2 or sqlx's own 10 it places about as many orders.
const CONNECTIONS: u32 = 4;
/// How long a connection waits for another's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(20);

struct Shop {
    catalog: SqlitePool,
    orders: SqlitePool,
    inventory: SqlitePool,
    payments: SqlitePool,
    /// Tells the relays, one for each subscriber.
    placed: [Arc<Notify>; 3],
}

/// Where events arrive.
#[derive(Clone)]
struct Inbox {
    subscriber: &'static str,
    database: SqlitePool,
    arrived: Arc<Notify>,
}

/// Serves the shop whose files are in a folder.
#[tokio::main]
pub(crate) async fn run(folder: &str) {
    let open = |name| open(Path::new(folder), name);
    let shop = Shop {
        catalog: open("catalog").await,
        orders: open("orders").await,
        inventory: open("inventory").await,
        payments: open("payments").await,
        placed: Default::default(),
    };
    let inbox = |subscriber, database| Inbox { subscriber, database, arrived: Arc::default() };
    let inventory = inbox("inventory", shop.inventory.clone());
    let shipping = inbox("shipping", open("shipping").await);
    let notifications = inbox("notifications", open("notifications").await);
    for (inbox, placed) in [&inventory, &shipping, &notifications].into_iter().zip(&shop.placed) {
        tokio::spawn(carry_all("orders", shop.orders.clone(), inbox.clone(), Arc::clone(placed)));
    }
    let created = Arc::new(Notify::new());
    let (of_shipping, to) = (shipping.database.clone(), notifications.clone());
    tokio::spawn(carry_all("shipping", of_shipping, to, Arc::clone(&created)));
    tokio::spawn(deliver(inventory, None));
    tokio::spawn(deliver(shipping, Some(created)));
    tokio::spawn(deliver(notifications, None));
    serve(Router::new().route("/api/orders", post(place)).with_state(Arc::new(shop))).await;
}

async fn open(folder: &Path, name: &str) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(folder.join(format!("{name}.sqlite")))
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT);
    SqlitePoolOptions::new().max_connections(CONNECTIONS).connect_with(options).await.unwrap()
}

async fn begin(pool: &SqlitePool) -> Transaction<'static, Sqlite> {
    pool.begin_with("BEGIN IMMEDIATE").await.unwrap()
}

async fn place(State(shop): State<Arc<Shop>>, Json(request): Json<Request>) -> Answer {
    let select = sqlx::AssertSqlSafe(select_products(request.lines.len()));
    let select = request.lines.iter().fold(sqlx::query_as(select), |query, line| query.bind(&line.sku));
    let products: Vec<Product> = select.fetch_all(&shop.catalog).await.unwrap();
    let mut order = Order::priced(&request, &products);
    insert(&shop.orders, &order, &request.payment_token).await;
    reserve(&shop.inventory, &order).await;
    let mut transaction = begin(&shop.orders).await;
    update(&mut transaction, &order, "pending", "charge").await;
    transaction.commit().await.unwrap();
    charge(&shop.payments, &order).await;
    order.status = "confirmed";
    let mut transaction = begin(&shop.orders).await;
    update(&mut transaction, &order, "confirmed", "charge").await;
    put(&mut transaction, &order.placed(), &SUBSCRIBERS).await;
    transaction.commit().await.unwrap();
    shop.placed.iter().for_each(|relay| relay.notify_one());
    answer(order)
}

async fn insert(orders: &SqlitePool, order: &Order, token: &str) {
    let now = now();
    let mut transaction = begin(orders).await;
    let inserted = sqlx::query(INSERT_ORDER)
        .bind(&order.id)
        .bind(&order.user_id)
        .bind(order.total_cents)
        .bind(now)
        .bind(token)
        .bind(now + LEASE_MS)
        .execute(&mut *transaction);
    assert_eq!(inserted.await.unwrap().rows_affected(), 1);
    for (number, line) in order.lines.iter().enumerate() {
        let inserted = sqlx::query(INSERT_LINE)
            .bind(&order.id)
            .bind(number as i64)
            .bind(&line.sku)
            .bind(line.quantity)
            .bind(line.unit_price_cents)
            .execute(&mut *transaction);
        inserted.await.unwrap();
    }
    transaction.commit().await.unwrap();
}

async fn update(orders: &mut Transaction<'_, Sqlite>, order: &Order, status: &str, step: &str) {
    let updated = sqlx::query(UPDATE_ORDER).bind(&order.id).bind(status).bind(step).execute(&mut **orders);
    assert_eq!(updated.await.unwrap().rows_affected(), 1);
}

async fn put(publisher: &mut Transaction<'_, Sqlite>, event: &Event, subscribers: &[&str]) {
    let position: i64 = sqlx::query_scalar(PUT)
        .bind(&event.id)
        .bind(&event.function)
        .bind(&event.key)
        .bind(&event.payload)
        .bind(event.published_at)
        .bind(&event.trace)
        .fetch_one(&mut **publisher)
        .await
        .unwrap();
    for subscriber in subscribers {
        sqlx::query(PUT_TO).bind(position).bind(*subscriber).execute(&mut **publisher).await.unwrap();
    }
}

async fn reserve(inventory: &SqlitePool, order: &Order) {
    let mut transaction = begin(inventory).await;
    let standing =
        sqlx::query(SELECT_RESERVATION).bind(&order.id).fetch_all(&mut *transaction).await.unwrap();
    assert!(standing.is_empty());
    sqlx::query(INSERT_RESERVATION).bind(&order.id).execute(&mut *transaction).await.unwrap();
    for piece in order.pieces() {
        let taken = sqlx::query(TAKE_STOCK).bind(&piece.sku).bind(piece.quantity).execute(&mut *transaction);
        assert_eq!(taken.await.unwrap().rows_affected(), 1);
        let line = sqlx::query(INSERT_RESERVATION_LINE).bind(&order.id).bind(&piece.sku).bind(piece.quantity);
        line.execute(&mut *transaction).await.unwrap();
    }
    transaction.commit().await.unwrap();
}

async fn charge(payments: &SqlitePool, order: &Order) {
    let standing = sqlx::query(SELECT_CHARGE).bind(&order.id).fetch_optional(payments).await.unwrap();
    assert!(standing.is_none());
    let charge = sqlx::query(INSERT_CHARGE).bind(&order.id).bind(order.total_cents).bind(now());
    assert_eq!(charge.execute(payments).await.unwrap().rows_affected(), 1);
}

type Row = (i64, String, String, String, String, i64, String);

fn event((position, id, function, key, payload, published_at, trace): Row) -> Event {
    Event { position, id, function, key, payload, published_at, trace }
}

/// Carries events to one subscriber, for ever.
async fn carry_all(publisher: &'static str, from: SqlitePool, to: Inbox, published: Arc<Notify>) {
    loop {
        let waiting = sqlx::query_as(WAITING).bind(to.subscriber).bind(BATCH);
        let events: Vec<Event> = waiting.fetch_all(&from).await.unwrap().into_iter().map(event).collect();
        if events.is_empty() {
            published.notified().await;
        } else {
            carry(publisher, &from, &to, &events).await;
            to.arrived.notify_one();
        }
    }
}

async fn carry(publisher: &str, from: &SqlitePool, to: &Inbox, events: &[Event]) {
    let mut arriving = begin(&to.database).await;
    for event in events {
        let received = sqlx::query(RECEIVE)
            .bind(&event.id)
            .bind(&event.function)
            .bind(publisher)
            .bind(&event.key)
            .bind(&event.payload)
            .bind(event.published_at)
            .bind(&event.trace)
            .execute(&mut *arriving);
        received.await.unwrap();
    }
    arriving.commit().await.unwrap();
    let mut leaving = begin(from).await;
    for event in events {
        let left = sqlx::query(REMOVE_TO).bind(event.position).bind(to.subscriber);
        left.execute(&mut *leaving).await.unwrap();
        sqlx::query(REMOVE).bind(event.position).execute(&mut *leaving).await.unwrap();
    }
    leaving.commit().await.unwrap();
}

/// Handles what has arrived, for ever, a transaction for each event. Tells the relay, if there is one, of what the
/// handler has published.
async fn deliver(inbox: Inbox, published: Option<Arc<Notify>>) {
    type Due = (i64, String, String, String, String, i64, String, String);
    loop {
        let due: Vec<Due> =
            sqlx::query_as(DUE).bind(now()).bind(BATCH).fetch_all(&inbox.database).await.unwrap();
        if due.is_empty() {
            inbox.arrived.notified().await;
        }
        for (position, id, function, key, payload, published_at, trace, publisher) in due {
            let event = event((position, id, function, key, payload, published_at, trace));
            let mut transaction = begin(&inbox.database).await;
            match inbox.subscriber {
                "inventory" => sell(&mut transaction, &event).await,
                "shipping" => ship(&mut transaction, &event).await,
                _ => notify(&mut transaction, &event).await,
            }
            let done = sqlx::query(DONE).bind(event.position).bind(now()).execute(&mut *transaction);
            assert_eq!(done.await.unwrap().rows_affected(), 1);
            sqlx::query(NEXT).bind(publisher).bind(&event.key).execute(&mut *transaction).await.unwrap();
            transaction.commit().await.unwrap();
            published.iter().for_each(|relay| relay.notify_one());
        }
    }
}

async fn sell(inventory: &mut Transaction<'_, Sqlite>, event: &Event) {
    let order: PlacedOrder = told(event);
    let sold = sqlx::query(SELL_RESERVATION).bind(&order.order_id).execute(&mut **inventory);
    assert_eq!(sold.await.unwrap().rows_affected(), 1);
    sqlx::query(SELL_STOCK).bind(&order.order_id).execute(&mut **inventory).await.unwrap();
}

async fn ship(shipping: &mut Transaction<'_, Sqlite>, event: &Event) {
    let order: PlacedOrder = told(event);
    let shipment = CreatedShipment::of(&order);
    let inserted = sqlx::query(INSERT_SHIPMENT)
        .bind(&shipment.order_id)
        .bind(&shipment.shipment_id)
        .bind(&shipment.user_id)
        .bind(now())
        .execute(&mut **shipping);
    inserted.await.unwrap();
    for (number, line) in order.lines.iter().enumerate() {
        let shipped = sqlx::query(INSERT_SHIPMENT_LINE)
            .bind(&order.order_id)
            .bind(number as i64)
            .bind(&line.sku)
            .bind(line.quantity);
        shipped.execute(&mut **shipping).await.unwrap();
    }
    put(shipping, &shipment.created(), &SUBSCRIBERS_OF_SHIPPING).await;
}

async fn notify(notifications: &mut Transaction<'_, Sqlite>, event: &Event) {
    let Notification { order_id, kind, user_id, text } = Notification::of(event);
    let inserted = sqlx::query(INSERT_NOTIFICATION)
        .bind(order_id)
        .bind(kind)
        .bind(Uuid::new_v4().to_string())
        .bind(user_id)
        .bind(text)
        .bind(now())
        .execute(&mut **notifications);
    assert_eq!(inserted.await.unwrap().rows_affected(), 1);
}
