//! What it costs to cut the shop: orders to one process beside orders to three, placed as the example's `split.toml` says,
//! each a process of its own with SQLite, over NATS.
//!
//! The same modules, contracts and commits; what is added are calls and events that cross. All share one machine, so
//! three processes have no more cores than one: what stands here is the price, and nothing of what is bought with it.

use crate::books::{LINES, Place};
use crate::checkout::{Comparison, Server, cleave_on_sqlite, request, stock_up, told};
use crate::disk;
use crate::http::Client;
use crate::nats::NatsServer;
use crate::shop::{self, NODES, Process};
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

pub(crate) fn run() {
    let folder = disk::folder();
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let nats = NatsServer::start_durable();
    let mut servers = client.block_on(async {
        let mut one = cleave_on_sqlite(folder.path()).await;
        one.books.name = "one process".to_owned();
        let home = folder.path().join("nodes");
        let place = |home: &Path| Place::Nodes { data: home.join("data") };
        [one, three("three processes", &home, &nats, "", place).await]
    });
    let comparison = Comparison {
        title: "Taking orders over HTTP: the shop on three nodes over NATS beside one process, SQLite",
        beside: Some("CPU of NATS, µs/order"),
        ratios: &["orders/s of one process"],
        ratio: |rates, at, _| {
            vec![if at == 0 { String::new() } else { format!("**{:.0} %**", 100.0 * rates[at] / rates[0]) }]
        },
    };
    client.block_on(comparison.run(&mut servers));
    println!(
        "\nThe nodes are those of `split.toml`: users, catalog and notifications; payments; orders, inventory and shipping. An \
         order of {LINES} lines is three calls from node to node, and four deliveries of events, of which two cross by way of \
         the stream. CPU of the server is that of its processes together. {}",
        disk::described(folder.path())
    );
    println!("{}", told(&servers));
}

/// The shop on three nodes in a folder that is made, with more keys in `[data]`, when it takes orders.
pub(crate) async fn three(
    name: &str,
    home: &Path,
    nats: &NatsServer,
    data: &str,
    place: impl Fn(&Path) -> Place,
) -> Server {
    std::fs::create_dir(home).unwrap();
    let config = shop::split_config(home, nats, data);
    let processes = NODES.map(|(node, _)| start(&config, node)).into();
    let mut server = Server::new(name, place(home), processes);
    server.beside.push(nats.id());
    let began = Instant::now();
    for path in ["/api/stock/MUG-0000", "/api/orders/00000000-0000-4000-8000-000000000000/payments"] {
        while ask(&server, "GET", path, "").await == 503 {
            assert!(began.elapsed() < PATIENCE, "the nodes do not find each other");
            tokio::time::sleep(LOOK).await;
        }
    }
    stock_up(&server.processes[0].address).await;
    // Who calls back has to have heard of the others too: the first order that is confirmed at once shows it.
    loop {
        let status = ask(&server, "POST", "/api/orders", &request(0, server.placed)).await;
        server.placed += usize::from(status == 201 || status == 202);
        server.waited += usize::from(status == 202);
        if status == 201 {
            return server;
        }
        assert!(began.elapsed() < PATIENCE, "{name}: no order is confirmed: {status}");
        tokio::time::sleep(LOOK).await;
    }
}

fn start(config: &Path, node: &str) -> Process {
    Process::start(shop::up(config).args(["--node", node]))
}

/// The status of an answer.
async fn ask(server: &Server, method: &str, path: &str, body: &str) -> u16 {
    Client::connect(&server.processes[0].address).await.ask_json(method, path, body).await.0
}
