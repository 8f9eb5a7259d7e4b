//! What an order costs: `POST /api/orders` to the shop and to native servers that make the same commits in the same
//! files, until every order is shipped.
//!
//! A round is a while of ordering and the wait until the last order has a shipment, its pieces are sold, its customer is
//! told of both and no event is left; orders each second are counted over all of it. At the end the books of each server
//! must show exactly the orders that its customers were told of.

use crate::http::{Client, PRODUCTS, fill_products, seed};
use crate::native::{CHECKOUT_RUSQLITE, CHECKOUT_SQLX};
use crate::shop::{self, Process};
use crate::{disk, median, row, table};
use cleave_host::data::{DataFolder, Database, Limits};
use rusqlite::OpenFlags;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const CONNECTIONS: [usize; 2] = [1, 64];
const WARM_UP: Duration = Duration::from_millis(500);
const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 3;
/// The pause between two looks at what is still to be shipped.
const LOOK: Duration = Duration::from_millis(5);
/// How long the last order of a round may take to be shipped.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of an order.
const LINES: usize = 3;
/// Pieces of each product at the start: more than are ever ordered.
const STOCK: i64 = 1_000_000;
/// Notifications of an order: that it is placed, and that it is shipped.
const NOTIFICATIONS: i64 = 2;
/// The modules that an order goes through, each with a file of its own.
const MODULES: [&str; 6] = ["catalog", "orders", "inventory", "payments", "shipping", "notifications"];

pub(crate) fn run() {
    let folder = disk::folder();
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let servers = client.block_on(servers(folder.path()));
    table(
        "Taking orders over HTTP, `POST /api/orders`, until they are shipped and their customers told",
        &[
            "server",
            "connections",
            "orders/s",
            "p50 ms",
            "p99 ms",
            "last done after ms",
            "CPU of the server, µs/order (user + system)",
            "Cleave's orders/s over it",
        ],
    );
    let mut placed = [0; 3];
    for connections in CONNECTIONS {
        for (placed, server) in placed.iter_mut().zip(&servers) {
            *placed += client.block_on(server.load(connections, WARM_UP, *placed)).orders;
        }
        let mut rounds = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            for ((rounds, placed), server) in rounds.iter_mut().zip(&mut placed).zip(&servers) {
                let load = client.block_on(server.load(connections, ROUND, *placed));
                *placed += load.orders;
                rounds.push(load);
            }
        }
        let cleave = median(rounds[0].iter().map(Load::rate).collect());
        for (server, rounds) in servers.iter().zip(rounds) {
            server.print(connections, &rounds, cleave);
        }
    }
    for (placed, server) in placed.into_iter().zip(&servers) {
        server.books.check(placed);
    }
    println!(
        "\nEach order has {LINES} lines and is 9 commits in 5 files: 5 in 3 of them are on the disk before it is \
         answered, 4 handle its events. Besides, two commits carry an event to each of its subscribers, or all that \
         were found together. {}",
        disk::described(folder.path())
    );
    let told = servers.iter().zip(placed).map(|(server, placed)| format!("{} {placed}", server.books.name));
    println!(
        "Placed, charged, taken from the stock, shipped and told of twice, as counted in the files at the end: {}.",
        told.collect::<Vec<_>>().join(", ")
    );
}

/// A server under measurement.
struct Server {
    /// Cleave is to be so many times as fast, with 64 connections.
    aim: &'static str,
    process: Process,
    books: Books,
}

/// Starts the three of them, each with its products and its stock.
async fn servers(folder: &Path) -> [Server; 3] {
    let [of_cleave, of_rusqlite, of_sqlx] = ["cleave", "rusqlite", "sqlx"].map(|name| folder.join(name));
    std::fs::create_dir(&of_cleave).unwrap();
    let cleave = Process::start(&mut shop::up(&shop::config(&of_cleave, 0, "")));
    seed(&cleave.address).await;
    let mut client = Client::connect(&cleave.address).await;
    for number in 0..PRODUCTS {
        let body = format!(r#"{{"available":{STOCK}}}"#);
        client.send_json("PUT", &format!("/api/stock/MUG-{number:04}"), &body).await;
    }
    for data in [&of_rusqlite, &of_sqlx] {
        fill(data).await;
    }
    let native = |verb, data: &Path| {
        Process::start(Command::new(std::env::current_exe().unwrap()).arg(verb).arg(data))
    };
    let rusqlite = native(CHECKOUT_RUSQLITE, &of_rusqlite);
    let sqlx = native(CHECKOUT_SQLX, &of_sqlx);
    let server = |name: &str, data, aim, process| {
        let books = Books { name: name.to_owned(), data, prefix: String::new() };
        Server { aim, process, books }
    };
    [
        server("Cleave", of_cleave.join("data"), "", cleave),
        server("axum, rusqlite, shared syncs", of_rusqlite, "≥ 0.5", rusqlite),
        server("axum, sqlx", of_sqlx, "≥ 2", sqlx),
    ]
}

/// Makes a native's files, with the tables of the modules and of the host, the same products and the same stock.
async fn fill(data: &Path) {
    let folder = DataFolder::open(data).unwrap();
    for module in MODULES {
        let migrations = shop::migrations(module);
        Database::open(&folder, module, Some(&migrations), Limits::default()).await.unwrap();
    }
    let open = |module| rusqlite::Connection::open(data.join(format!("{module}.sqlite"))).unwrap();
    fill_products(&mut open("catalog"));
    fill_stock(&mut open("inventory"));
}

/// Writes the stock of every product into a table that is there.
pub(crate) fn fill_stock(connection: &mut rusqlite::Connection) {
    let transaction = connection.transaction().unwrap();
    for number in 0..PRODUCTS {
        let row = (format!("MUG-{number:04}"), STOCK);
        transaction.execute("INSERT INTO stock VALUES (?1, ?2, 0, 0)", row).unwrap();
    }
    transaction.commit().unwrap();
}

/// What a server did in one round.
struct Load {
    orders: usize,
    /// From the first order until nothing is left to be done.
    took: Duration,
    /// The part of it after the last answer.
    lag: Duration,
    p50: Duration,
    p99: Duration,
    /// Microseconds of processor time for each order, the server's own and the system's for it.
    cpu: [f64; 2],
}

impl Load {
    fn rate(&self) -> f64 {
        self.orders as f64 / self.took.as_secs_f64()
    }
}

impl Server {
    /// Orders over this many connections for a while, each connection one order at a time; then waits until all that
    /// was ever ordered is done with.
    async fn load(&self, connections: usize, duration: Duration, before: usize) -> Load {
        let watch = self.books.watch();
        let (began, ticks) = (Instant::now(), self.process.user_and_system_ticks());
        let customers: Vec<_> = (0..connections)
            .map(|customer| {
                tokio::spawn(order(self.process.address.clone(), customer, before, began, duration))
            })
            .collect();
        let mut answers = Vec::new();
        for customer in customers {
            answers.append(&mut customer.await.unwrap());
        }
        let answered = Instant::now();
        watch.done(before + answers.len()).await;
        let orders = answers.len();
        let after = self.process.user_and_system_ticks();
        answers.sort_unstable();
        Load {
            orders,
            took: began.elapsed(),
            lag: answered.elapsed(),
            p50: answers[orders / 2],
            p99: answers[orders * 99 / 100],
            cpu: [0, 1].map(|kind| (after[kind] - ticks[kind]) as f64 * 10_000.0 / orders as f64),
        }
    }

    fn print(&self, connections: usize, rounds: &[Load], cleave: f64) {
        let of = |value: fn(&Load) -> f64| median(rounds.iter().map(value).collect());
        let rate = of(Load::rate);
        row([
            self.books.name.clone(),
            connections.to_string(),
            format!("{rate:.0}"),
            format!("{:.2}", of(|load| load.p50.as_secs_f64() * 1_000.0)),
            format!("{:.2}", of(|load| load.p99.as_secs_f64() * 1_000.0)),
            format!("{:.0}", of(|load| load.lag.as_secs_f64() * 1_000.0)),
            format!("{:.0} + {:.0}", of(|load| load.cpu[0]), of(|load| load.cpu[1])),
            match self.aim {
                "" => String::new(),
                aim if connections > 1 => format!("**{:.2}** (aim {aim})", cleave / rate),
                _ => format!("**{:.2}**", cleave / rate),
            },
        ]);
    }
}

/// The files of a shop, read beside it.
pub(crate) struct Books {
    /// Whose they are.
    pub(crate) name: String,
    /// Their folder.
    pub(crate) data: PathBuf,
    /// What stands in their names before the name of the shop's module.
    pub(crate) prefix: String,
}

impl Books {
    /// The database of a module.
    pub(crate) fn file(&self, module: &str) -> PathBuf {
        self.data.join(format!("{}{module}.sqlite", self.prefix))
    }

    fn open(&self, module: &str) -> rusqlite::Connection {
        let connection =
            rusqlite::Connection::open_with_flags(self.file(module), OpenFlags::SQLITE_OPEN_READ_ONLY)
                .unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        connection
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch {
            name: self.name.clone(),
            orders: self.open("orders"),
            inventory: self.open("inventory"),
            shipping: self.open("shipping"),
            notifications: self.open("notifications"),
        }
    }

    /// They must show these orders: each confirmed, charged its price, taken from the stock, shipped as ordered and told of.
    pub(crate) fn check(&self, placed: usize) {
        let placed = placed as i64;
        let books = [
            ("orders", "SELECT count(*) FROM orders WHERE status = 'confirmed'", placed),
            ("orders", "SELECT count(*) FROM orders", placed),
            ("orders", "SELECT count(*) FROM order_lines", placed * LINES as i64),
            ("orders", "SELECT count(*) FROM cleave_outbox_to", 0),
            ("payments", "SELECT count(*) FROM charges WHERE status = 'charged'", placed),
            ("inventory", "SELECT count(*) FROM reservations WHERE state = 'sold'", placed),
            ("inventory", "SELECT sum(reserved) FROM stock", 0),
            ("inventory", "SELECT sum(available + sold) FROM stock", PRODUCTS as i64 * STOCK),
            ("inventory", "SELECT count(*) FROM cleave_inbox WHERE state = 2", placed),
            ("shipping", "SELECT count(*) FROM shipments", placed),
            ("shipping", "SELECT count(*) FROM shipment_lines", placed * LINES as i64),
            ("shipping", "SELECT count(*) FROM cleave_inbox WHERE state = 2", placed),
            ("shipping", "SELECT count(*) FROM cleave_outbox_to", 0),
            ("notifications", "SELECT count(*) FROM notifications WHERE kind = 'order-placed'", placed),
            ("notifications", "SELECT count(*) FROM notifications", placed * NOTIFICATIONS),
            ("notifications", "SELECT count(*) FROM cleave_inbox WHERE state = 2", placed * NOTIFICATIONS),
        ];
        for (module, sql, expected) in books {
            assert_eq!(count(&self.open(module), sql), expected, "{}: {sql}", self.name);
        }
        let same = [
            [
                ("orders", "SELECT sum(total_cents) FROM orders"),
                ("payments", "SELECT sum(amount_cents) FROM charges"),
            ],
            [
                ("orders", "SELECT sum(quantity) FROM order_lines"),
                ("inventory", "SELECT sum(sold) FROM stock"),
            ],
            [
                ("orders", "SELECT sum(quantity * (number + 1)) FROM order_lines"),
                ("shipping", "SELECT sum(quantity * (number + 1)) FROM shipment_lines"),
            ],
        ];
        for pair in same {
            let [one, other] = pair.map(|(module, sql)| count(&self.open(module), sql));
            assert_eq!(one, other, "{}: {pair:?}", self.name);
        }
    }
}

/// Connections to the books that tell when everything ordered is done with.
pub(crate) struct Watch {
    name: String,
    orders: rusqlite::Connection,
    inventory: rusqlite::Connection,
    shipping: rusqlite::Connection,
    notifications: rusqlite::Connection,
}

impl Watch {
    /// Waits until so many orders are sold, shipped and told of, and no event of theirs is left.
    pub(crate) async fn done(&self, orders: usize) {
        let began = Instant::now();
        while !self.is_done(orders as i64) {
            assert!(began.elapsed() < PATIENCE, "{}: not every order is done with", self.name);
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is_done(&self, orders: i64) -> bool {
        let none =
            |of: &[&rusqlite::Connection], sql| of.iter().all(|connection| count(connection, sql) == 0);
        // Why the last first: it is the last to come true, and the rest need not be counted until then.
        count(&self.notifications, "SELECT max(rowid) FROM notifications") >= orders * NOTIFICATIONS
            && count(&self.shipping, "SELECT max(rowid) FROM shipments") >= orders
            && none(&[&self.orders, &self.shipping], "SELECT count(*) FROM cleave_outbox")
            && none(
                &[&self.inventory, &self.shipping, &self.notifications],
                "SELECT count(*) FROM cleave_inbox WHERE state <= 1",
            )
    }
}

/// What a statement counts; nothing is 0.
fn count(connection: &rusqlite::Connection, sql: &str) -> i64 {
    let counted: Option<i64> =
        connection.prepare_cached(sql).unwrap().query_row([], |row| row.get(0)).unwrap();
    counted.unwrap_or_default()
}

/// Places orders for a while; gives how long each answer took. Every order must be confirmed at once.
async fn order(
    address: String,
    customer: usize,
    before: usize,
    began: Instant,
    duration: Duration,
) -> Vec<Duration> {
    let mut client = Client::connect(&address).await;
    let mut took = Vec::new();
    for number in 0.. {
        let body = request(customer, before + number);
        let sent = Instant::now();
        if sent - began >= duration {
            break;
        }
        place(&mut client, "/api/orders", &body).await;
        took.push(sent.elapsed());
    }
    took
}

/// Places an order, which must be confirmed at once.
pub(crate) async fn place(client: &mut Client, path: &str, body: &str) {
    let answer = client.send_json("POST", path, body).await;
    let confirmed = br#""status":"confirmed""#;
    assert!(answer.windows(confirmed.len()).any(|w| w == confirmed), "{}", String::from_utf8_lossy(answer));
}

/// A customer's order: a few products out of all.
pub(crate) fn request(customer: usize, number: usize) -> String {
    let line = |line: usize| {
        let product = (customer * 389 + number * 7 + line * 331) % PRODUCTS;
        format!(r#"{{"sku":"MUG-{product:04}","quantity":{}}}"#, 1 + (number + line) % 3)
    };
    let lines = (0..LINES).map(line).collect::<Vec<_>>().join(",");
    format!(r#"{{"user_id":"customer-{customer}","lines":[{lines}],"payment_token":"tok_ok"}}"#)
}
