//! What a read over HTTP costs: the shop beside native servers, each a process of its own, under the same client.
//!
//! The client is one thread that speaks just enough HTTP/1.1. It shares the machine with the server it loads, the same
//! for each of them.

use crate::native::{RUSQLITE, SQLX};
use crate::shop::{self, Process};
use crate::{median, row, table};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const PRODUCTS: usize = 1_000;
const CONNECTIONS: [usize; 2] = [1, 64];
const WARM_UP: Duration = Duration::from_millis(500);
const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 3;

pub(crate) fn run() {
    let folder = tempfile::tempdir().unwrap();
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let database = folder.path().join("native.sqlite");
    fill(&database);
    let native =
        |verb| Process::start(Command::new(std::env::current_exe().unwrap()).arg(verb).arg(&database));
    let shop = Process::start(&mut shop::up(&shop::config(folder.path(), 0, "")));
    client.block_on(seed(&shop.address));
    let servers = [("Cleave", shop), ("axum, rusqlite", native(RUSQLITE)), ("axum, sqlx", native(SQLX))];

    let bodies = servers
        .each_ref()
        .map(|(_, server)| client.block_on(body(&server.address, "/api/products/MUG-0007")));
    assert!(bodies.iter().all(|body| *body == bodies[0]), "the servers answer differently: {bodies:#?}");

    table(
        "Reading a product over HTTP, `GET /api/products/{sku}`",
        &[
            "server",
            "connections",
            "requests/s",
            "p50 µs",
            "p99 µs",
            "CPU of the server, µs/request",
            "of the faster native (aim ≥ 60 %)",
        ],
    );
    for connections in CONNECTIONS {
        for (_, server) in &servers {
            client.block_on(load(server, connections, WARM_UP, a_product));
        }
        let mut rounds = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            for (rounds, (_, server)) in rounds.iter_mut().zip(&servers) {
                rounds.push(client.block_on(load(server, connections, ROUND, a_product)));
            }
        }
        let loads = rounds.map(|rounds| Load::median(&rounds));
        let fastest = loads[1].rate.max(loads[2].rate);
        for ((name, _), load) in servers.iter().zip(loads) {
            row([
                (*name).to_owned(),
                connections.to_string(),
                format!("{:.0}", load.rate),
                load.p50.as_micros().to_string(),
                load.p99.as_micros().to_string(),
                format!("{:.1}", load.cpu),
                format!("**{:.0} %**", 100.0 * load.rate / fastest),
            ]);
        }
    }
    let resident = servers
        .each_ref()
        .map(|(name, server)| format!("{name} {} MiB", server.resident() / 1024))
        .join(", ");
    println!("\nThe client, one thread, shares the cores with the server. Resident after it: {resident}.");
}

/// What a server did in one round.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// Answers each second.
    pub(crate) rate: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// Microseconds of processor time that the server took for each.
    pub(crate) cpu: f64,
}

impl Load {
    /// Each figure's median.
    pub(crate) fn median(rounds: &[Self]) -> Self {
        Self {
            rate: median(rounds.iter().map(|l| l.rate).collect()),
            p50: median(rounds.iter().map(|l| l.p50).collect()),
            p99: median(rounds.iter().map(|l| l.p99).collect()),
            cpu: median(rounds.iter().map(|l| l.cpu).collect()),
        }
    }
}

/// The path of one of the products.
pub(crate) fn a_product(number: usize) -> String {
    format!("/api/products/MUG-{number:04}")
}

/// Reads over this many connections for a while, each connection one request at a time; of each product by its path.
pub(crate) async fn load(
    server: &Process,
    connections: usize,
    duration: Duration,
    path: fn(usize) -> String,
) -> Load {
    let (began, ticks) = (Instant::now(), server.ticks());
    let clients: Vec<_> = (0..connections)
        .map(|connection| {
            let address = server.address.clone();
            tokio::spawn(async move {
                let mut client = Client::connect(&address).await;
                let mut took = Vec::with_capacity(1 << 16);
                for number in connection * PRODUCTS / connections.. {
                    let sent = Instant::now();
                    if sent - began >= duration {
                        break;
                    }
                    client.get(&path(number % PRODUCTS)).await;
                    took.push(sent.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for client in clients {
        took.append(&mut client.await.unwrap());
    }
    let rate = took.len() as f64 / began.elapsed().as_secs_f64();
    let cpu = (server.ticks() - ticks) as f64 * 10_000.0 / took.len() as f64;
    took.sort_unstable();
    Load { rate, cpu, p50: took[took.len() / 2], p99: took[took.len() * 99 / 100] }
}

/// One connection that is kept.
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::with_capacity(4096) }
    }

    pub(crate) async fn get(&mut self, path: &str) -> &[u8] {
        succeeded(self.ask(format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n").as_bytes()).await)
    }

    /// Sends a body of JSON.
    pub(crate) async fn send_json(&mut self, method: &str, path: &str, body: &str) -> &[u8] {
        succeeded(self.ask_json(method, path, body).await)
    }

    /// Likewise, and gives the status of the answer too.
    pub(crate) async fn ask_json(&mut self, method: &str, path: &str, body: &str) -> (u16, &[u8]) {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json");
        self.ask(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await
    }

    /// Sends a request and gives the status and the body of its answer, which must be of known length.
    async fn ask(&mut self, request: &[u8]) -> (u16, &[u8]) {
        self.stream.write_all(request).await.unwrap();
        self.buffer.clear();
        loop {
            assert_ne!(
                self.stream.read_buf(&mut self.buffer).await.unwrap(),
                0,
                "the server closed the connection"
            );
            let Some(head) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            let text = std::str::from_utf8(&self.buffer[..head]).unwrap();
            let status = text.split(' ').nth(1).unwrap().parse().unwrap();
            let length: usize = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if self.buffer.len() == head + 4 + length {
                return (status, &self.buffer[head + 4..]);
            }
        }
    }
}

/// The body of an answer that must be a success.
fn succeeded((status, body): (u16, &[u8])) -> &[u8] {
    assert!((200..300).contains(&status), "{status} {}", String::from_utf8_lossy(body));
    body
}

pub(crate) async fn body(address: &str, path: &str) -> String {
    String::from_utf8_lossy(Client::connect(address).await.get(path).await).into_owned()
}

/// A product's name, price and description.
pub(crate) fn details(number: usize) -> (String, usize, &'static str) {
    let description = "Holds a third of a litre, and tea stays warm in it for longer than one would think.";
    (format!("A mug with a handle, {number}"), 1_000 + number, description)
}

/// Fills the shop with products, over HTTP.
pub(crate) async fn seed(address: &str) {
    let mut client = Client::connect(address).await;
    for number in 0..PRODUCTS {
        let (name, price, description) = details(number);
        let body = format!(r#"{{"name":"{name}","price_cents":{price},"description":"{description}"}}"#);
        client.send_json("PUT", &format!("/api/products/MUG-{number:04}"), &body).await;
    }
}

/// Makes the natives' database: the catalog's table with the same products.
fn fill(database: &Path) {
    let mut connection = rusqlite::Connection::open(database).unwrap();
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    connection.execute_batch(&shop::migration()).unwrap();
    fill_products(&mut connection);
}

/// Writes the same products into a table that is there.
pub(crate) fn fill_products(connection: &mut rusqlite::Connection) {
    let transaction = connection.transaction().unwrap();
    for number in 0..PRODUCTS {
        let (name, price, description) = details(number);
        let row = (format!("MUG-{number:04}"), name, price as i64, description);
        transaction.execute("INSERT INTO products VALUES ($1, $2, $3, $4)", row).unwrap();
    }
    transaction.commit().unwrap();
}
