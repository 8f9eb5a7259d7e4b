//! The native shop over sqlx with PostgreSQL, as one would ordinarily write it: a pool for each module's schema, a
//! transaction for each step, tasks that carry and handle the events.
//!
//! What the shop's modules do is SERIALIZABLE, and is done again after a conflict as long as that takes; what carries events
//! is READ COMMITTED, as the host does it.

use super::checkout::*;
use super::events::{BATCH, DONE, DUE, Event, NEXT, PUT, PUT_TO, RECEIVE, REMOVE, REMOVE_TO, WAITING, now};
use super::{Product as Details, SELECT, serve};
use crate::books::schema;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::routing::{get, post};
use axum::{Json, Router};
use sqlx::postgres::{PgPool, Postgres};
use sqlx::{AssertSqlSafe, Transaction};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use uuid::Uuid;

/// As many as a module has to read with; the catalog is only read.
const READERS: u32 = 4;
/// As many as a module has to write with, and the host for it.
const CONNECTIONS: u32 = 6;
/// The first pause after a conflict; each is twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(1);
/// What the catalog says to read some products.
const SELECT_PAGE: &str =
    "SELECT sku, name, price_cents, description FROM products WHERE sku > $1 ORDER BY sku LIMIT $2";

type Done<T> = Result<T, sqlx::Error>;
type Open = Transaction<'static, Postgres>;

struct Shop {
    catalog: PgPool,
    orders: PgPool,
    inventory: PgPool,
    payments: PgPool,
    /// Tells the relays, one for each subscriber.
    placed: [Arc<Notify>; 3],
}

/// Where events arrive.
#[derive(Clone)]
struct Inbox {
    subscriber: &'static str,
    database: PgPool,
    arrived: Arc<Notify>,
}

/// Serves the shop whose schemas are in a database.
#[tokio::main]
pub(crate) async fn run(url: &str) {
    let open = |module| schema(url, module, CONNECTIONS);
    let shop = Shop {
        catalog: schema(url, "catalog", READERS),
        orders: open("orders"),
        inventory: open("inventory"),
        payments: open("payments"),
        placed: Default::default(),
    };
    let inbox = |subscriber, database| Inbox { subscriber, database, arrived: Arc::default() };
    let inventory = inbox("inventory", shop.inventory.clone());
    let shipping = inbox("shipping", open("shipping"));
    let notifications = inbox("notifications", open("notifications"));
    for (inbox, placed) in [&inventory, &shipping, &notifications].into_iter().zip(&shop.placed) {
        tokio::spawn(carry_all("orders", shop.orders.clone(), inbox.clone(), Arc::clone(placed)));
    }
    let created = Arc::new(Notify::new());
    let (of_shipping, to) = (shipping.database.clone(), notifications.clone());
    tokio::spawn(carry_all("shipping", of_shipping, to, Arc::clone(&created)));
    tokio::spawn(deliver(inventory, None));
    tokio::spawn(deliver(shipping, Some(created)));
    tokio::spawn(deliver(notifications, None));
    let routes = Router::new()
        .route("/api/orders", post(place))
        .route("/api/products/{sku}", get(product))
        .route("/api/products", get(products));
    serve(routes.with_state(Arc::new(shop))).await;
}

type Row = (String, String, i64, String);

fn details((sku, name, price_cents, description): Row) -> Details {
    Details { sku, name, price_cents, description }
}

type Found<T> = Result<Json<T>, StatusCode>;

async fn product(
    State(shop): State<Arc<Shop>>,
    axum::extract::Path(sku): axum::extract::Path<String>,
) -> Found<Details> {
    let found: Option<Row> = sqlx::query_as(SELECT).bind(sku).fetch_optional(&shop.catalog).await.unwrap();
    found.map(|row| Json(details(row))).ok_or(StatusCode::NOT_FOUND)
}

async fn products(State(shop): State<Arc<Shop>>, uri: Uri) -> Found<Vec<Details>> {
    let value = |name: &str| {
        let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()
    };
    let (after, limit) = (value("after").unwrap_or_default(), value("limit").unwrap_or("100"));
    let limit: i64 = limit.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
    let rows: Vec<Row> =
        sqlx::query_as(SELECT_PAGE).bind(after).bind(limit).fetch_all(&shop.catalog).await.unwrap();
    Ok(Json(rows.into_iter().map(details).collect()))
}

/// A statement with its parameters as PostgreSQL numbers them.
fn say(sql: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(sql.replace('?', "$"))
}

/// Does something until no conflict is in its way.
async fn repeated<T, F: Future<Output = Done<T>>>(run: impl Fn() -> F) -> T {
    let mut pause = PAUSE;
    loop {
        match run().await {
            Ok(done) => return done,
            Err(sqlx::Error::Database(error))
                if matches!(error.code().as_deref(), Some("40001" | "40P01")) =>
            {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn place(State(shop): State<Arc<Shop>>, Json(request): Json<Request>) -> Answer {
    let select = say(&select_products(request.lines.len()));
    let select = request.lines.iter().fold(sqlx::query_as(select), |query, line| query.bind(&line.sku));
    let products: Vec<Product> = select.fetch_all(&shop.catalog).await.unwrap();
    let mut order = Order::priced(&request, &products);
    repeated(|| insert(&shop.orders, &order, &request.payment_token)).await;
    repeated(|| reserve(&shop.inventory, &order)).await;
    repeated(|| advance(&shop.orders, &order)).await;
    repeated(|| charge(&shop.payments, &order)).await;
    order.status = "confirmed";
    let event = order.placed();
    repeated(|| confirm(&shop.orders, &order, &event)).await;
    shop.placed.iter().for_each(|relay| relay.notify_one());
    answer(order)
}

async fn insert(orders: &PgPool, order: &Order, token: &str) -> Done<()> {
    let now = now();
    let mut transaction = orders.begin().await?;
    let inserted = sqlx::query(say(INSERT_ORDER))
        .bind(&order.id)
        .bind(&order.user_id)
        .bind(order.total_cents)
        .bind(now)
        .bind(token)
        .bind(now + LEASE_MS)
        .execute(&mut *transaction);
    assert_eq!(inserted.await?.rows_affected(), 1);
    for (number, line) in order.lines.iter().enumerate() {
        let inserted = sqlx::query(say(INSERT_LINE))
            .bind(&order.id)
            .bind(number as i64)
            .bind(&line.sku)
            .bind(i64::from(line.quantity))
            .bind(line.unit_price_cents)
            .execute(&mut *transaction);
        inserted.await?;
    }
    transaction.commit().await
}

async fn advance(orders: &PgPool, order: &Order) -> Done<()> {
    let mut transaction = orders.begin().await?;
    update(&mut transaction, order, "pending").await?;
    transaction.commit().await
}

async fn confirm(orders: &PgPool, order: &Order, event: &Event) -> Done<()> {
    let mut transaction = orders.begin().await?;
    update(&mut transaction, order, "confirmed").await?;
    put(&mut transaction, event, &SUBSCRIBERS).await?;
    transaction.commit().await
}

async fn update(orders: &mut Open, order: &Order, status: &str) -> Done<()> {
    let updated = sqlx::query(say(UPDATE_ORDER)).bind(&order.id).bind(status).bind("charge");
    assert_eq!(updated.execute(&mut **orders).await?.rows_affected(), 1);
    Ok(())
}

async fn put(publisher: &mut Open, event: &Event, subscribers: &[&str]) -> Done<()> {
    let position: i64 = sqlx::query_scalar(say(PUT))
        .bind(&event.id)
        .bind(&event.function)
        .bind(&event.key)
        .bind(&event.payload)
        .bind(event.published_at)
        .bind(&event.trace)
        .fetch_one(&mut **publisher)
        .await?;
    for subscriber in subscribers {
        sqlx::query(say(PUT_TO)).bind(position).bind(*subscriber).execute(&mut **publisher).await?;
    }
    Ok(())
}

async fn reserve(inventory: &PgPool, order: &Order) -> Done<()> {
    let mut transaction = inventory.begin().await?;
    let standing = sqlx::query(say(SELECT_RESERVATION)).bind(&order.id).fetch_all(&mut *transaction).await?;
    assert!(standing.is_empty());
    sqlx::query(say(INSERT_RESERVATION)).bind(&order.id).execute(&mut *transaction).await?;
    for piece in order.pieces() {
        let quantity = i64::from(piece.quantity);
        let taken = sqlx::query(say(TAKE_STOCK)).bind(&piece.sku).bind(quantity).execute(&mut *transaction);
        assert_eq!(taken.await?.rows_affected(), 1);
        let line = sqlx::query(say(INSERT_RESERVATION_LINE)).bind(&order.id).bind(&piece.sku).bind(quantity);
        line.execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

async fn charge(payments: &PgPool, order: &Order) -> Done<()> {
    let standing = sqlx::query(say(SELECT_CHARGE)).bind(&order.id).fetch_optional(payments).await?;
    assert!(standing.is_none());
    let charge = sqlx::query(say(INSERT_CHARGE)).bind(&order.id).bind(order.total_cents).bind(now());
    assert_eq!(charge.execute(payments).await?.rows_affected(), 1);
    Ok(())
}

type Waiting = (i64, String, String, String, String, i64, String);

fn event((position, id, function, key, payload, published_at, trace): Waiting) -> Event {
    Event { position, id, function, key, payload, published_at, trace }
}

/// Carries events to one subscriber, for ever.
async fn carry_all(publisher: &'static str, from: PgPool, to: Inbox, published: Arc<Notify>) {
    loop {
        let waiting =
            async || sqlx::query_as(say(WAITING)).bind(to.subscriber).bind(BATCH).fetch_all(&from).await;
        let waiting: Vec<Waiting> = repeated(waiting).await;
        let events: Vec<Event> = waiting.into_iter().map(event).collect();
        if events.is_empty() {
            published.notified().await;
        } else {
            repeated(|| carry(publisher, &from, &to, &events)).await;
            to.arrived.notify_one();
        }
    }
}

/// Carries events. Whatever is carried again is known already.
async fn carry(publisher: &str, from: &PgPool, to: &Inbox, events: &[Event]) -> Done<()> {
    let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
    let mut arriving = to.database.begin_with(begin).await?;
    for event in events {
        let received = sqlx::query(say(RECEIVE))
            .bind(&event.id)
            .bind(&event.function)
            .bind(publisher)
            .bind(&event.key)
            .bind(&event.payload)
            .bind(event.published_at)
            .bind(&event.trace)
            .execute(&mut *arriving);
        received.await?;
    }
    arriving.commit().await?;
    let mut leaving = from.begin_with(begin).await?;
    // Why: relays that leave at the same time would each take the other for one that still waits, and the event would stay.
    let positions: Vec<i64> = events.iter().map(|event| event.position).collect();
    let hold = "SELECT position FROM cleave_outbox WHERE position = ANY($1) ORDER BY position FOR UPDATE";
    sqlx::query(hold).bind(positions).execute(&mut *leaving).await?;
    for event in events {
        let left = sqlx::query(say(REMOVE_TO)).bind(event.position).bind(to.subscriber);
        left.execute(&mut *leaving).await?;
        sqlx::query(say(REMOVE)).bind(event.position).execute(&mut *leaving).await?;
    }
    leaving.commit().await
}

/// Handles what has arrived, for ever, a transaction for each event. Tells the relay, if there is one, of what the
/// handler has published.
async fn deliver(inbox: Inbox, published: Option<Arc<Notify>>) {
    type Due = (i64, String, String, String, String, i64, String, String);
    loop {
        let due: Vec<Due> = repeated(async || {
            sqlx::query_as(say(DUE)).bind(now()).bind(BATCH).fetch_all(&inbox.database).await
        })
        .await;
        if due.is_empty() {
            inbox.arrived.notified().await;
        }
        for (position, id, function, key, payload, published_at, trace, publisher) in due {
            let event = event((position, id, function, key, payload, published_at, trace));
            repeated(|| handle(&inbox, &event, &publisher)).await;
            published.iter().for_each(|relay| relay.notify_one());
        }
    }
}

async fn handle(inbox: &Inbox, event: &Event, publisher: &str) -> Done<()> {
    let mut transaction = inbox.database.begin().await?;
    match inbox.subscriber {
        "inventory" => sell(&mut transaction, event).await?,
        "shipping" => ship(&mut transaction, event).await?,
        _ => notify(&mut transaction, event).await?,
    }
    let done = sqlx::query(say(DONE)).bind(event.position).bind(now()).execute(&mut *transaction);
    assert_eq!(done.await?.rows_affected(), 1);
    sqlx::query(say(NEXT)).bind(publisher).bind(&event.key).execute(&mut *transaction).await?;
    transaction.commit().await
}

async fn sell(inventory: &mut Open, event: &Event) -> Done<()> {
    let order: PlacedOrder = told(event);
    let sold = sqlx::query(say(SELL_RESERVATION)).bind(&order.order_id).execute(&mut **inventory);
    assert_eq!(sold.await?.rows_affected(), 1);
    sqlx::query(say(SELL_STOCK)).bind(&order.order_id).execute(&mut **inventory).await?;
    Ok(())
}

async fn ship(shipping: &mut Open, event: &Event) -> Done<()> {
    let order: PlacedOrder = told(event);
    let shipment = CreatedShipment::of(&order);
    let inserted = sqlx::query(say(INSERT_SHIPMENT))
        .bind(&shipment.order_id)
        .bind(&shipment.shipment_id)
        .bind(&shipment.user_id)
        .bind(now())
        .execute(&mut **shipping);
    inserted.await?;
    for (number, line) in order.lines.iter().enumerate() {
        let shipped = sqlx::query(say(INSERT_SHIPMENT_LINE))
            .bind(&order.order_id)
            .bind(number as i64)
            .bind(&line.sku)
            .bind(i64::from(line.quantity));
        shipped.execute(&mut **shipping).await?;
    }
    put(shipping, &shipment.created(), &SUBSCRIBERS_OF_SHIPPING).await
}

async fn notify(notifications: &mut Open, event: &Event) -> Done<()> {
    let Notification { order_id, kind, user_id, text } = Notification::of(event);
    let inserted = sqlx::query(say(INSERT_NOTIFICATION))
        .bind(order_id)
        .bind(kind)
        .bind(Uuid::new_v4().to_string())
        .bind(user_id)
        .bind(text)
        .bind(now())
        .execute(&mut **notifications);
    assert_eq!(inserted.await?.rows_affected(), 1);
    Ok(())
}
