//! What an order costs: `POST /api/orders` to the shop and to native servers that make the same commits in the same
//! files, until every order is shipped.
//!
//! A round is a while of ordering and the wait until the last order has a shipment, its pieces are sold, its customer is
//! told of both and no event is left; orders each second are counted over all of it. At the end the books of each server
//! must show exactly the orders that its customers were told of. [`Comparison`] is also how other arrangements of the shop
//! are measured.

use crate::books::{Books, LINES, Place, STOCK};
use crate::http::{Client, PRODUCTS, fill_products, seed};
use crate::native::{CHECKOUT_RUSQLITE, CHECKOUT_SQLX};
use crate::shop::{self, Process};
use crate::{disk, median, row, table};
use cleave_host::data::{DataFolder, Database, Limits};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const CONNECTIONS: [usize; 2] = [1, 64];
const WARM_UP: Duration = Duration::from_millis(500);
const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 3;
/// The modules that an order goes through, each with a database of its own.
pub(crate) const MODULES: [&str; 6] =
    ["catalog", "orders", "inventory", "payments", "shipping", "notifications"];

pub(crate) fn run() {
    let folder = disk::folder();
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut servers = client.block_on(servers(folder.path()));
    let comparison = Comparison {
        title: "Taking orders over HTTP, `POST /api/orders`, until they are shipped and their customers told",
        beside: None,
        ratios: &["Cleave's orders/s over it"],
        ratio: |rates, at, connections| {
            let aim = ["", " (aim ≥ 0.5)", " (aim ≥ 2)"][at];
            let aim = if connections > 1 { aim } else { "" };
            vec![if at == 0 { String::new() } else { format!("**{:.2}**{aim}", rates[0] / rates[at]) }]
        },
    };
    client.block_on(comparison.run(&mut servers));
    println!(
        "\nEach order has {LINES} lines and is 9 commits in 5 files: 5 in 3 of them are on the disk before it is \
         answered, 4 handle its events. Besides, two commits carry an event to each of its subscribers, or all that \
         were found together. {}",
        disk::described(folder.path())
    );
    println!("{}", told(&servers));
}

/// What was counted at the end.
pub(crate) fn told(servers: &[Server]) -> String {
    let told = servers.iter().map(|server| {
        let Server { books, placed, waited, refused, .. } = server;
        match (waited, refused) {
            (0, 0) => format!("{} {placed}", books.name),
            _ => format!(
                "{} {placed}, of which {waited} were pending when answered, and {refused} refused besides",
                books.name
            ),
        }
    });
    format!(
        "Placed, charged, taken from the stock, shipped and told of twice, as counted in the databases at the end: {}.",
        told.collect::<Vec<_>>().join("; ")
    )
}

/// Servers that take orders in turn, and the table of what they did.
pub(crate) struct Comparison<'a> {
    pub(crate) title: &'a str,
    /// What else has run, whose processor time has a column of its own.
    pub(crate) beside: Option<&'a str>,
    /// The titles of the last columns.
    pub(crate) ratios: &'a [&'a str],
    /// Their cells, for the orders each second of all servers, the place of one among them and the connections.
    pub(crate) ratio: fn(&[f64], usize, usize) -> Vec<String>,
}

impl Comparison<'_> {
    pub(crate) async fn run(&self, servers: &mut [Server]) {
        let mut columns = vec!["server", "connections", "orders/s", "p50 ms", "p99 ms", "last done after ms"];
        columns.push("CPU of the server, µs/order (user + system)");
        columns.extend(self.beside);
        columns.extend(self.ratios);
        table(self.title, &columns);
        for connections in CONNECTIONS {
            for server in &mut *servers {
                server.load(connections, WARM_UP).await;
            }
            let mut rounds: Vec<Vec<Load>> = servers.iter().map(|_| Vec::new()).collect();
            for _ in 0..ROUNDS {
                for (rounds, server) in rounds.iter_mut().zip(&mut *servers) {
                    rounds.push(server.load(connections, ROUND).await);
                }
            }
            let rate = |rounds: &Vec<Load>| median(rounds.iter().map(Load::rate).collect());
            let rates: Vec<f64> = rounds.iter().map(rate).collect();
            for (at, (server, rounds)) in servers.iter().zip(&rounds).enumerate() {
                let of = |value: fn(&Load) -> f64| median(rounds.iter().map(value).collect());
                let mut cells = vec![
                    server.books.name.clone(),
                    connections.to_string(),
                    format!("{:.0}", rates[at]),
                    format!("{:.2}", of(|load| load.p50.as_secs_f64() * 1_000.0)),
                    format!("{:.2}", of(|load| load.p99.as_secs_f64() * 1_000.0)),
                    format!("{:.0}", of(|load| load.lag.as_secs_f64() * 1_000.0)),
                    format!("{:.0} + {:.0}", of(|load| load.cpu[0]), of(|load| load.cpu[1])),
                ];
                cells.extend(self.beside.map(|_| match server.beside[..] {
                    [] => String::new(),
                    _ => format!("{:.0}", of(|load| load.cpu_beside)),
                }));
                cells.extend((self.ratio)(&rates, at, connections));
                row(cells);
            }
        }
        for server in servers {
            server.books.check(server.placed).await;
        }
    }
}

/// A server under measurement.
pub(crate) struct Server {
    /// Its processes; the first takes orders.
    pub(crate) processes: Vec<Process>,
    /// Programs that it shares with others, each with those it has started: a database, a bus.
    pub(crate) beside: Vec<u32>,
    pub(crate) books: Books,
    /// Whether an order may be pending when it is answered, or refused, because others are in its way.
    pub(crate) may_wait: bool,
    /// Orders so far.
    pub(crate) placed: usize,
    /// Those of them that were pending when they were answered.
    pub(crate) waited: usize,
    /// Orders that were refused, besides.
    pub(crate) refused: usize,
}

impl Server {
    pub(crate) fn new(name: &str, place: Place, processes: Vec<Process>) -> Self {
        let books = Books { name: name.to_owned(), place };
        Self { processes, beside: Vec::new(), books, may_wait: false, placed: 0, waited: 0, refused: 0 }
    }
}

/// Starts the three of them, each with its products and its stock.
async fn servers(folder: &Path) -> [Server; 3] {
    let [of_rusqlite, of_sqlx] = ["rusqlite", "sqlx"].map(|name| folder.join(name));
    let cleave = cleave_on_sqlite(folder).await;
    for data in [&of_rusqlite, &of_sqlx] {
        fill(data).await;
    }
    let native = |name, verb, data: &Path| {
        let process = Process::start(Command::new(std::env::current_exe().unwrap()).arg(verb).arg(data));
        let place = Place::Files { data: data.to_owned(), prefix: String::new() };
        Server::new(name, place, vec![process])
    };
    let rusqlite = native("axum, rusqlite, shared syncs", CHECKOUT_RUSQLITE, &of_rusqlite);
    [cleave, rusqlite, native("axum, sqlx", CHECKOUT_SQLX, &of_sqlx)]
}

/// The shop in one process, with a file for each module in a folder of its own in this one.
pub(crate) async fn cleave_on_sqlite(folder: &Path) -> Server {
    let home = folder.join("cleave");
    std::fs::create_dir(&home).unwrap();
    let process = Process::start(&mut shop::up(&shop::config(&home, 0, "")));
    stock_up(&process.address).await;
    let place = Place::Files { data: home.join("data"), prefix: String::new() };
    Server::new("Cleave", place, vec![process])
}

/// Fills a shop with products and pieces of them, over HTTP.
pub(crate) async fn stock_up(address: &str) {
    seed(address).await;
    let mut client = Client::connect(address).await;
    for number in 0..PRODUCTS {
        let body = format!(r#"{{"available":{STOCK}}}"#);
        client.send_json("PUT", &format!("/api/stock/MUG-{number:04}"), &body).await;
    }
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
    /// Likewise of what it shares with others.
    cpu_beside: f64,
}

impl Load {
    fn rate(&self) -> f64 {
        self.orders as f64 / self.took.as_secs_f64()
    }
}

impl Server {
    /// Orders over this many connections for a while, each connection one order at a time; then waits until all that
    /// was ever ordered is done with.
    async fn load(&mut self, connections: usize, duration: Duration) -> Load {
        let watch = self.books.watch();
        let (began, before) = (Instant::now(), self.ticks());
        let customers: Vec<_> = (0..connections)
            .map(|customer| {
                let address = self.processes[0].address.clone();
                tokio::spawn(order(address, customer, self.placed, began, duration))
            })
            .collect();
        let mut answers = Answers::default();
        for customer in customers {
            let Answers { mut took, waited, refused } = customer.await.unwrap();
            answers.took.append(&mut took);
            answers.waited += waited;
            answers.refused += refused;
        }
        let answered = Instant::now();
        let Answers { mut took, waited, refused } = answers;
        assert!(self.may_wait || waited + refused == 0, "{}: {waited}, {refused}", self.books.name);
        let orders = took.len();
        self.placed += orders;
        self.waited += waited;
        self.refused += refused;
        watch.done(self.placed).await;
        let ticks: Vec<u64> = self.ticks().iter().zip(before).map(|(after, before)| after - before).collect();
        let micros = |ticks: u64| ticks as f64 * 10_000.0 / orders as f64;
        took.sort_unstable();
        Load {
            orders,
            took: began.elapsed(),
            lag: answered.elapsed(),
            p50: took[orders / 2],
            p99: took[orders * 99 / 100],
            cpu: [micros(ticks[0]), micros(ticks[1])],
            cpu_beside: micros(ticks[2]),
        }
    }

    /// What its processes have run, user and system apart, and what the programs beside it have.
    fn ticks(&self) -> [u64; 3] {
        let of_all = self.processes.iter().map(Process::user_and_system_ticks);
        let [user, system] = of_all.fold([0; 2], |sum, [user, system]| [sum[0] + user, sum[1] + system]);
        [user, system, self.beside.iter().map(|id| shop::ticks_of_all(*id)).sum()]
    }
}

/// What customers were told.
#[derive(Default)]
struct Answers {
    /// How long each answer took of an order that stands.
    took: Vec<Duration>,
    /// How many of them were pending.
    waited: usize,
    /// How many orders were refused, besides.
    refused: usize,
}

/// Places orders for a while.
async fn order(
    address: String,
    customer: usize,
    before: usize,
    began: Instant,
    duration: Duration,
) -> Answers {
    let mut client = Client::connect(&address).await;
    let mut answers = Answers::default();
    for number in 0.. {
        let body = request(customer, before + number);
        let sent = Instant::now();
        if sent - began >= duration {
            break;
        }
        let (status, answer) = client.ask_json("POST", "/api/orders", &body).await;
        match status {
            201 => assert!(is_confirmed(answer), "{}", String::from_utf8_lossy(answer)),
            202 => answers.waited += 1,
            503 => {
                answers.refused += 1;
                continue;
            }
            _ => panic!("{status} {}", String::from_utf8_lossy(answer)),
        }
        answers.took.push(sent.elapsed());
    }
    answers
}

/// Places an order, which must be confirmed at once.
pub(crate) async fn place(client: &mut Client, path: &str, body: &str) {
    let answer = client.send_json("POST", path, body).await;
    assert!(is_confirmed(answer), "{}", String::from_utf8_lossy(answer));
}

fn is_confirmed(answer: &[u8]) -> bool {
    let confirmed = br#""status":"confirmed""#;
    answer.windows(confirmed.len()).any(|w| w == confirmed)
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
