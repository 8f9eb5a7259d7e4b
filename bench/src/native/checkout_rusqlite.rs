//! The native shop over rusqlite with grouped syncs.

use super::checkout::*;
use super::events::{Event, Relay, deliver, now};
use super::grouped::{Database, execute};
use super::serve;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Notify;
use uuid::Uuid;

struct Shop {
    catalog: Arc<Database>,
    orders: Arc<Database>,
    inventory: Arc<Database>,
    payments: Arc<Database>,
    /// Tells the relays, one for each subscriber.
    placed: [Arc<Notify>; 3],
}

/// Where events arrive.
struct Inbox {
    subscriber: &'static str,
    database: Arc<Database>,
    arrived: Arc<Notify>,
}

/// Serves the shop whose files are in a folder.
#[tokio::main]
pub(crate) async fn run(folder: &str) {
    let open = |name| Database::open(Path::new(folder), name, true);
    let shop = Shop {
        catalog: open("catalog"),
        orders: open("orders"),
        inventory: open("inventory"),
        payments: open("payments"),
        placed: Default::default(),
    };
    let inbox = |subscriber, database| Inbox { subscriber, database, arrived: Arc::default() };
    let inventory = inbox("inventory", Arc::clone(&shop.inventory));
    let shipping = inbox("shipping", open("shipping"));
    let notifications = inbox("notifications", open("notifications"));
    for (inbox, placed) in [&inventory, &shipping, &notifications].into_iter().zip(&shop.placed) {
        tokio::spawn(relay("orders", &shop.orders, inbox, placed).run());
    }
    let created = Arc::new(Notify::new());
    tokio::spawn(relay("shipping", &shipping.database, &notifications, &created).run());
    tokio::spawn(deliver(inventory.database, inventory.arrived, None, sell));
    tokio::spawn(deliver(shipping.database, shipping.arrived, Some(created), ship));
    tokio::spawn(deliver(notifications.database, notifications.arrived, None, notify));
    serve(Router::new().route("/api/orders", post(place)).with_state(Arc::new(shop))).await;
}

fn relay(publisher: &'static str, from: &Arc<Database>, inbox: &Inbox, published: &Arc<Notify>) -> Relay {
    Relay {
        publisher,
        subscriber: inbox.subscriber.to_owned(),
        from: Arc::clone(from),
        to: Arc::clone(&inbox.database),
        published: Arc::clone(published),
        arrived: Arc::clone(&inbox.arrived),
    }
}

async fn place(State(shop): State<Arc<Shop>>, Json(request): Json<Request>) -> Answer {
    let products = shop.catalog.read(|catalog| {
        let mut select = catalog.prepare_cached(&select_products(request.lines.len())).unwrap();
        let skus = rusqlite::params_from_iter(request.lines.iter().map(|line| &line.sku));
        select.query_map(skus, product).unwrap().map(Result::unwrap).collect::<Vec<_>>()
    });
    let mut order = Order::priced(&request, &products);
    shop.orders.write(|orders| insert(orders, &order, &request.payment_token)).await;
    shop.inventory.write(|inventory| reserve(inventory, &order)).await;
    shop.orders.write(|orders| update(orders, &order, "pending", "charge")).await;
    charge(&shop.payments, &order).await;
    order.status = "confirmed";
    let event = order.placed();
    let confirmed = shop.orders.write(|orders| {
        update(orders, &order, "confirmed", "charge");
        event.put(orders, &SUBSCRIBERS);
    });
    confirmed.await;
    shop.placed.iter().for_each(|relay| relay.notify_one());
    answer(order)
}

fn product(row: &rusqlite::Row<'_>) -> rusqlite::Result<Product> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

fn insert(orders: &Connection, order: &Order, token: &str) {
    let now = now();
    let row = (&order.id, &order.user_id, order.total_cents, now, token, now + LEASE_MS);
    assert_eq!(execute(orders, INSERT_ORDER, row), 1);
    for (number, line) in order.lines.iter().enumerate() {
        let row = (&order.id, number as i64, &line.sku, line.quantity, line.unit_price_cents);
        execute(orders, INSERT_LINE, row);
    }
}

fn update(orders: &Connection, order: &Order, status: &str, step: &str) {
    assert_eq!(execute(orders, UPDATE_ORDER, (&order.id, status, step)), 1);
}

fn reserve(inventory: &Connection, order: &Order) {
    assert!(!inventory.prepare_cached(SELECT_RESERVATION).unwrap().exists([&order.id]).unwrap());
    execute(inventory, INSERT_RESERVATION, [&order.id]);
    for piece in order.pieces() {
        assert_eq!(execute(inventory, TAKE_STOCK, (&piece.sku, piece.quantity)), 1);
        execute(inventory, INSERT_RESERVATION_LINE, (&order.id, &piece.sku, piece.quantity));
    }
}

async fn charge(payments: &Database, order: &Order) {
    let standing = payments
        .read(|payments| payments.prepare_cached(SELECT_CHARGE).unwrap().exists([&order.id]).unwrap());
    assert!(!standing);
    let row = (&order.id, order.total_cents, now());
    assert_eq!(payments.write(|payments| execute(payments, INSERT_CHARGE, row)).await, 1);
}

fn sell(inventory: &Connection, event: &Event) {
    let order: PlacedOrder = told(event);
    assert_eq!(execute(inventory, SELL_RESERVATION, [&order.order_id]), 1);
    execute(inventory, SELL_STOCK, [&order.order_id]);
}

fn ship(shipping: &Connection, event: &Event) {
    let order: PlacedOrder = told(event);
    let shipment = CreatedShipment::of(&order);
    let row = (&shipment.order_id, &shipment.shipment_id, &shipment.user_id, now());
    execute(shipping, INSERT_SHIPMENT, row);
    for (number, line) in order.lines.iter().enumerate() {
        execute(shipping, INSERT_SHIPMENT_LINE, (&order.order_id, number as i64, &line.sku, line.quantity));
    }
    shipment.created().put(shipping, &SUBSCRIBERS_OF_SHIPPING);
}

fn notify(notifications: &Connection, event: &Event) {
    let Notification { order_id, kind, user_id, text } = Notification::of(event);
    let row = (order_id, kind, Uuid::new_v4().to_string(), user_id, text, now());
    assert_eq!(execute(notifications, INSERT_NOTIFICATION, row), 1);
}
