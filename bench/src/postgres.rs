//! What a database costs: the shop with its modules' data in SQLite beside PostgreSQL, in one process and on three nodes,
//! and a native server over sqlx that makes the same transactions in PostgreSQL.
//!
//! Both sides of PostgreSQL have the same tables, statements and commits, as many connections, and the same isolation: what
//! a module or its counterpart does is SERIALIZABLE and done again after a conflict, what carries events is READ
//! COMMITTED. Durability is the server's default, `fsync` and `synchronous_commit` on.

use crate::books::{LINES, Place, STOCK, schema};
use crate::checkout::{Comparison, MODULES, Server, cleave_on_sqlite, stock_up, told};
use crate::http::{Load, PRODUCTS, a_product, body, details, load};
use crate::native::CHECKOUT_POSTGRES;
use crate::nats::NatsServer;
use crate::shop::{self, Process};
use crate::split::three;
use crate::{disk, row, table};
use cleave_host::data;
use cleave_tests::postgres::PostgresServer;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const READ_CONNECTIONS: [usize; 2] = [1, 64];
const WARM_UP: Duration = Duration::from_millis(500);
const READS: Duration = Duration::from_secs(1);
const ROUNDS: usize = 3;
/// Where they stand in the tables.
const SQLITE: usize = 0;
const NATIVE: usize = 2;

pub(crate) fn run() {
    let folder = disk::folder();
    let temporary = std::env::temp_dir();
    assert!(disk::is_disk(&temporary), "PostgreSQL would lie in memory: set TMPDIR to a folder on a disk");
    let postgres = PostgresServer::start();
    let nats = NatsServer::start_durable();
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut servers = client.block_on(servers(folder.path(), &postgres, &nats));
    client.block_on(reads(&servers, &postgres));
    let comparison = Comparison {
        title: "Taking orders over HTTP: SQLite beside PostgreSQL",
        beside: Some("CPU of PostgreSQL and NATS, µs/order"),
        ratios: &["orders/s of Cleave with SQLite", "of the native server"],
        ratio: |rates, at, _| {
            let of = |other: usize| match at == other || (at == SQLITE && other == NATIVE) {
                true => String::new(),
                false => format!("**{:.0} %**", 100.0 * rates[at] / rates[other]),
            };
            vec![of(SQLITE), of(NATIVE)]
        },
    };
    client.block_on(comparison.run(&mut servers));
    let said =
        |setting: &str| format!("`{setting}` {}", postgres.say("postgres", &format!("SHOW {setting}")));
    println!(
        "\nEach order has {LINES} lines and is 9 commits of modules and handlers, and those that carry its events. PostgreSQL \
         {}: {}, {}. {}",
        postgres.say("postgres", "SHOW server_version"),
        said("fsync"),
        said("synchronous_commit"),
        disk::described(&temporary)
    );
    println!("{}", told(&servers));
    println!("{}", conflicts(&servers, &postgres));
}

/// The shop in one process with SQLite, in one and in three with PostgreSQL, and the native server, each with its
/// products and its stock.
async fn servers(folder: &Path, postgres: &PostgresServer, nats: &NatsServer) -> Vec<Server> {
    let mut sqlite = cleave_on_sqlite(folder).await;
    sqlite.books.name = "Cleave, SQLite".to_owned();

    let (home, url) = (folder.join("postgres"), postgres.new_url());
    std::fs::create_dir(&home).unwrap();
    let keys = |url: &str| format!("url = \"{url}\"\n");
    let config = shop::config(&home, 0, &format!("\n[data]\n{}", keys(&url)));
    let process = Process::start(&mut shop::up(&config));
    stock_up(&process.address).await;
    let in_one = Server::new("Cleave, PostgreSQL", Place::Schemas { url }, vec![process]);

    let url = postgres.new_url();
    fill(&url).await;
    let mut command = Command::new(std::env::current_exe().unwrap());
    let process = Process::start(command.args([CHECKOUT_POSTGRES, &url]));
    let native = Server::new("axum, sqlx, PostgreSQL", Place::Schemas { url }, vec![process]);

    let (home, url) = (folder.join("nodes"), postgres.new_url());
    let place = |_: &Path| Place::Schemas { url: url.clone() };
    let on_nodes = three("Cleave, PostgreSQL, three nodes", &home, nats, &keys(&url), place).await;
    let mut servers = vec![sqlite, in_one, native, on_nodes];
    for server in &mut servers[1..] {
        server.beside.push(postgres.id());
        server.may_wait = true;
    }
    servers
}

/// Makes the native's schemas, with the tables of the modules and of the host, the same products and the same stock.
async fn fill(url: &str) {
    let Ok(cleave_config::Database::Postgres(parsed)) = url.parse() else { panic!("{url}") };
    let server = data::Server::open(&parsed, "cleave", 0).await.unwrap();
    for module in MODULES {
        let migrations = shop::migrations(module);
        data::Database::open_on(&server, module, Some(&migrations), data::Limits::default()).await.unwrap();
    }
    let (catalog, inventory) = (schema(url, "catalog", 1), schema(url, "inventory", 1));
    for number in 0..PRODUCTS {
        let (name, price, description) = details(number);
        let sku = format!("MUG-{number:04}");
        let product = sqlx::query("INSERT INTO products VALUES ($1, $2, $3, $4)").bind(&sku).bind(name);
        product.bind(price as i64).bind(description).execute(&catalog).await.unwrap();
        let stock = sqlx::query("INSERT INTO stock VALUES ($1, $2, 0, 0)").bind(&sku).bind(STOCK);
        stock.execute(&inventory).await.unwrap();
    }
}

/// The first products after one.
fn a_list(number: usize) -> String {
    format!("/api/products?after=MUG-{:04}&limit=20", number % (PRODUCTS - 20))
}

/// Reads of one process each, in turn.
async fn reads(servers: &[Server], postgres: &PostgresServer) {
    let servers = &servers[..=NATIVE];
    table(
        "Reading products over HTTP: SQLite beside PostgreSQL",
        &[
            "read",
            "server",
            "connections",
            "requests/s",
            "p50 µs",
            "p99 µs",
            "CPU of the server, µs/request",
            "CPU of PostgreSQL",
            "requests/s of Cleave with SQLite",
            "of the native server",
        ],
    );
    for (read, path) in [("a product", a_product as fn(usize) -> String), ("20 products", a_list)] {
        let mut answers = Vec::new();
        for server in servers {
            answers.push(body(&server.processes[0].address, &path(7)).await);
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "they answer differently: {answers:#?}");
        for connections in READ_CONNECTIONS {
            let mut rounds = [const { Vec::new() }; NATIVE + 1];
            for round in 0..=ROUNDS {
                for (rounds, server) in rounds.iter_mut().zip(servers) {
                    let duration = if round == 0 { WARM_UP } else { READS };
                    let before = shop::ticks_of_all(postgres.id());
                    let load = load(&server.processes[0], connections, duration, path).await;
                    let ticks = (shop::ticks_of_all(postgres.id()) - before) as f64;
                    // The first is to warm up.
                    if round > 0 {
                        let requests = load.rate * duration.as_secs_f64();
                        rounds.push((load, ticks * 10_000.0 / requests));
                    }
                }
            }
            let loads = rounds.map(|rounds| {
                let (loads, beside): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
                (Load::median(&loads), crate::median(beside))
            });
            for (at, (server, (load, beside))) in servers.iter().zip(&loads).enumerate() {
                let of = |other: usize| match at == other || (at == SQLITE && other == NATIVE) {
                    true => String::new(),
                    false => format!("**{:.0} %**", 100.0 * load.rate / loads[other].0.rate),
                };
                row([
                    read.to_owned(),
                    server.books.name.clone(),
                    connections.to_string(),
                    format!("{:.0}", load.rate),
                    load.p50.as_micros().to_string(),
                    load.p99.as_micros().to_string(),
                    format!("{:.0}", load.cpu),
                    if at == SQLITE { String::new() } else { format!("{beside:.0}") },
                    of(SQLITE),
                    of(NATIVE),
                ]);
            }
        }
    }
}

/// How many transactions of each server PostgreSQL has taken back: nearly all of them for a conflict.
fn conflicts(servers: &[Server], postgres: &PostgresServer) -> String {
    let told = servers.iter().filter_map(|server| {
        let Place::Schemas { url } = &server.books.place else { return None };
        let (_, database) = url.rsplit_once('/').unwrap();
        let sql = format!(
            "SELECT xact_commit || ' and ' || xact_rollback FROM pg_stat_database WHERE datname = '{database}'"
        );
        Some(format!("{} {}", server.books.name, postgres.say("postgres", &sql)))
    });
    format!("Transactions committed and taken back: {}.", told.collect::<Vec<_>>().join("; "))
}
