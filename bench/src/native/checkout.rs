//! What the two native shops have in common: the requests, the statements, and which stand in one commit.
//!
//! Tables, statements and commits are those of the shop's modules and of the host, file by file: an order that is placed
//! is five commits in three files, and its two events are handled in four more. Requests are not checked, and nothing is
//! ever short, declined or repeated: there is no code here for what the measured requests do not do.

use super::events::Event;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The event that a confirmed order is.
pub(crate) const ORDER_PLACED: &str = "shop:orders/events@0.1.order-placed";
/// Who hears of it.
pub(crate) const SUBSCRIBERS: [&str; 3] = ["inventory", "shipping", "notifications"];
/// The event that its shipment is.
pub(crate) const SHIPMENT_CREATED: &str = "shop:shipping/events@0.1.shipment-created";
/// Who hears of that.
pub(crate) const SUBSCRIBERS_OF_SHIPPING: [&str; 1] = ["notifications"];
/// How long an order is left to whoever took it up, in milliseconds.
pub(crate) const LEASE_MS: i64 = 15_000;

pub(crate) const INSERT_ORDER: &str = "INSERT INTO orders (id, user_id, status, total_cents, placed_at, payment_token, step, lease, lease_until) \
     VALUES (?1, ?2, 'pending', ?3, ?4, ?5, 'reserve', 1, ?6) ON CONFLICT (id) DO NOTHING";
pub(crate) const INSERT_LINE: &str =
    "INSERT INTO order_lines (order_id, number, sku, quantity, unit_price_cents) VALUES (?1, ?2, ?3, ?4, ?5)";
pub(crate) const UPDATE_ORDER: &str = "UPDATE orders SET status = ?2, step = ?3, refusal = NULL, tries = 0 \
                                       WHERE id = ?1 AND lease = 1 AND status = 'pending'";

pub(crate) const SELECT_RESERVATION: &str = "SELECT r.state, l.sku, l.quantity FROM reservations r \
                                             LEFT JOIN reservation_lines l ON l.order_id = r.order_id \
                                             WHERE r.order_id = ?1";
pub(crate) const INSERT_RESERVATION: &str =
    "INSERT INTO reservations (order_id, state) VALUES (?1, 'reserved')";
pub(crate) const TAKE_STOCK: &str = "UPDATE stock SET available = available - ?2, reserved = reserved + ?2 \
                                     WHERE sku = ?1 AND available >= ?2";
pub(crate) const INSERT_RESERVATION_LINE: &str =
    "INSERT INTO reservation_lines (order_id, sku, quantity) VALUES (?1, ?2, ?3)";

pub(crate) const SELECT_CHARGE: &str =
    "SELECT order_id, amount_cents, status, reason FROM charges WHERE order_id = ?1";
pub(crate) const INSERT_CHARGE: &str = "INSERT INTO charges (order_id, amount_cents, status, reason, answered_at) \
     VALUES (?1, ?2, 'charged', '', ?3) ON CONFLICT (order_id) DO NOTHING";

pub(crate) const SELL_RESERVATION: &str =
    "UPDATE reservations SET state = 'sold' WHERE order_id = ?1 AND state = 'reserved'";
pub(crate) const SELL_STOCK: &str = "UPDATE stock SET reserved = stock.reserved - l.quantity, sold = stock.sold + l.quantity \
     FROM reservation_lines AS l WHERE l.order_id = ?1 AND l.sku = stock.sku";

pub(crate) const INSERT_SHIPMENT: &str =
    "INSERT INTO shipments (order_id, id, user_id, status, created_at) VALUES (?1, ?2, ?3, 'created', ?4)";
pub(crate) const INSERT_SHIPMENT_LINE: &str =
    "INSERT INTO shipment_lines (order_id, number, sku, quantity) VALUES (?1, ?2, ?3, ?4)";

pub(crate) const INSERT_NOTIFICATION: &str = "INSERT INTO notifications (order_id, kind, id, user_id, text, created_at) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (order_id, kind) DO NOTHING";

/// What the catalog says to read the products of an order.
pub(crate) fn select_products(count: usize) -> String {
    let places: Vec<String> = (1..=count).map(|place| format!("?{place}")).collect();
    format!(
        "SELECT sku, name, price_cents, description FROM products WHERE sku IN ({}) ORDER BY sku",
        places.join(", ")
    )
}

#[derive(Deserialize)]
pub(crate) struct Request {
    pub(crate) user_id: String,
    pub(crate) lines: Vec<Wanted>,
    pub(crate) payment_token: String,
}

/// Some pieces of one product.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) sku: String,
    pub(crate) quantity: u32,
}

/// A product as it is read: SKU, name, price in cents, description.
pub(crate) type Product = (String, String, i64, String);

#[derive(Clone, Serialize)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) user_id: String,
    pub(crate) status: &'static str,
    pub(crate) total_cents: i64,
    pub(crate) lines: Vec<Line>,
}

#[derive(Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) sku: String,
    pub(crate) quantity: u32,
    pub(crate) unit_price_cents: i64,
}

impl Order {
    /// A new order at the catalog's prices.
    pub(crate) fn priced(request: &Request, products: &[Product]) -> Self {
        let price = |sku: &str| products.iter().find(|product| product.0 == sku).unwrap().2;
        let line = |wanted: &Wanted| Line {
            sku: wanted.sku.clone(),
            quantity: wanted.quantity,
            unit_price_cents: price(&wanted.sku),
        };
        let lines: Vec<Line> = request.lines.iter().map(line).collect();
        let total_cents = lines.iter().map(|line| line.unit_price_cents * i64::from(line.quantity)).sum();
        let id = Uuid::new_v4().to_string();
        Self { id, user_id: request.user_id.clone(), status: "pending", total_cents, lines }
    }

    /// Its pieces in the order in which every transaction takes them.
    pub(crate) fn pieces(&self) -> Vec<Wanted> {
        let piece = |line: &Line| Wanted { sku: line.sku.clone(), quantity: line.quantity };
        let mut pieces: Vec<Wanted> = self.lines.iter().map(piece).collect();
        pieces.sort_by(|a, b| a.sku.cmp(&b.sku));
        pieces
    }

    /// What its subscribers are told.
    pub(crate) fn placed(&self) -> Event {
        let lines =
            self.lines.iter().map(|line| Wanted { sku: line.sku.clone(), quantity: line.quantity }).collect();
        let event = PlacedOrder {
            order_id: self.id.clone(),
            user_id: self.user_id.clone(),
            total_cents: self.total_cents,
            lines,
        };
        Event::new(ORDER_PLACED, self.id.clone(), serde_json::to_string(&Payload { event }).unwrap())
    }
}

/// The parameters of an event.
#[derive(Serialize, Deserialize)]
struct Payload<T> {
    event: T,
}

/// What an event tells.
pub(crate) fn told<T: DeserializeOwned>(event: &Event) -> T {
    serde_json::from_str::<Payload<T>>(&event.payload).unwrap().event
}

#[derive(Serialize, Deserialize)]
pub(crate) struct PlacedOrder {
    pub(crate) order_id: String,
    pub(crate) user_id: String,
    pub(crate) total_cents: i64,
    pub(crate) lines: Vec<Wanted>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct CreatedShipment {
    pub(crate) order_id: String,
    pub(crate) shipment_id: String,
    pub(crate) user_id: String,
}

impl CreatedShipment {
    /// The shipment of an order.
    pub(crate) fn of(order: &PlacedOrder) -> Self {
        let shipment_id = Uuid::new_v4().to_string();
        Self { order_id: order.order_id.clone(), shipment_id, user_id: order.user_id.clone() }
    }

    /// What its subscribers are told.
    pub(crate) fn created(self) -> Event {
        let order_id = self.order_id.clone();
        Event::new(SHIPMENT_CREATED, order_id, serde_json::to_string(&Payload { event: self }).unwrap())
    }
}

/// What a user is told about an order.
pub(crate) struct Notification {
    pub(crate) order_id: String,
    pub(crate) kind: &'static str,
    pub(crate) user_id: String,
    pub(crate) text: String,
}

impl Notification {
    /// What the user is told who an event is about.
    pub(crate) fn of(event: &Event) -> Self {
        if event.function == ORDER_PLACED {
            let PlacedOrder { order_id, user_id, total_cents, lines } = told(event);
            let pieces: u64 = lines.iter().map(|line| u64::from(line.quantity)).sum();
            let noun = if pieces == 1 { "piece" } else { "pieces" };
            let (whole, cents) = (total_cents / 100, total_cents % 100);
            let text = format!("Order {order_id} is confirmed: {pieces} {noun} for {whole}.{cents:02}.");
            Self { order_id, kind: "order-placed", user_id, text }
        } else {
            let CreatedShipment { order_id, shipment_id, user_id } = told(event);
            let text = format!("Order {order_id} is being packed as shipment {shipment_id}.");
            Self { order_id, kind: "shipment-created", user_id, text }
        }
    }
}

/// What the customer is told.
pub(crate) type Answer = (axum::http::StatusCode, [(axum::http::HeaderName, String); 1], axum::Json<Order>);

pub(crate) fn answer(order: Order) -> Answer {
    let location = format!("/api/orders/{}", order.id);
    (axum::http::StatusCode::CREATED, [(axum::http::header::LOCATION, location)], axum::Json(order))
}
