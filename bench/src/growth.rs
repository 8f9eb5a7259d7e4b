//! What more modules cost: the application of the example with its seven modules, and with copies of all seven in it.
//!
//! A contract has one exporter, so the modules of a copy have contracts of their own: `sh01:orders` where the first has
//! `shop:orders`. Both names are as long, so one stands for the other in the bytes of the component, and in the WIT. To
//! the host the result is another component: it compiles it, and two copies share nothing. Each module has a file of its
//! own, each copy its own routes, relays and schedule.
//!
//! Requests come one at a time, so that figures tell how long a request's way is and not how long a queue. All
//! applications run beside each other while they take turns.

use crate::books::{Books, Place, Watch};
use crate::checkout::{fill_stock, place, request};
use crate::http::{Client, PRODUCTS, fill_products};
use crate::shop::{self, Process};
use crate::start::{first_answer, stop};
use crate::{disk, median, row, table};
use std::fs::{create_dir_all, read, read_dir, read_to_string, write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Shops in each application.
const SHOPS: [usize; 4] = [1, 3, 6, 10];
/// The modules of a shop.
const MODULES: [&str; 7] =
    ["catalog", "inventory", "notifications", "orders", "payments", "shipping", "users"];
/// What the names of a shop's contracts begin with.
const NAMESPACE: &str = "shop:";
const STARTS: usize = 5;
const WARM_UP: Duration = Duration::from_millis(500);
const READS: Duration = Duration::from_millis(500);
const ORDERS: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;

pub(crate) fn run() {
    let folder = disk::folder();
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut applications = SHOPS.map(|shops| Application::new(folder.path(), shops));
    for _ in 0..STARTS {
        applications.iter_mut().for_each(Application::start);
    }
    let processes = applications.each_ref().map(|application| application.up());
    let mut rounds = [const { Vec::new() }; SHOPS.len()];
    for round in 0..=ROUNDS {
        for ((application, process), rounds) in applications.iter_mut().zip(&processes).zip(&mut rounds) {
            if round == 0 {
                client.block_on(application.round(process, WARM_UP, WARM_UP));
            } else {
                rounds.push(client.block_on(application.round(process, READS, ORDERS)));
            }
        }
    }
    table(
        "What more modules cost, at 1 connection",
        &[
            "modules",
            "from spawn to the first 200, warm cache, ms",
            "resident then, MiB",
            "resident after the rounds, MiB",
            "product read, first shop, p50 µs",
            "all shops in turn",
            "order, first shop, p50 ms",
            "all shops in turn",
            "orders/s until all is done, first shop",
            "all shops in turn",
        ],
    );
    for ((application, process), rounds) in applications.iter().zip(&processes).zip(&rounds) {
        application.print(process, rounds);
        for shop in &application.shops {
            client.block_on(shop.books.check(shop.placed));
        }
    }
    println!(
        "\nMedian of {STARTS} starts and of {ROUNDS} rounds. Settings are the defaults. {}",
        disk::described(folder.path())
    );
}

/// An application of some shops.
struct Application {
    config: PathBuf,
    port: u16,
    shops: Vec<Shop>,
    /// How long each start took to the first 200, and the KiB that were resident then.
    starts: Vec<(Duration, u64)>,
}

/// The seven modules once.
struct Shop {
    /// The namespace of its contracts.
    namespace: String,
    /// What its paths begin with.
    path: String,
    /// What the names of its modules begin with.
    prefix: String,
    books: Books,
    placed: usize,
}

/// What one round was like.
struct Round {
    /// The median read of a product: of the first shop, and of all in turn.
    read: [Duration; 2],
    /// Likewise the median order, and the orders each second.
    order: [Duration; 2],
    rate: [f64; 2],
}

impl Application {
    /// Writes its files, and starts it once, which fills the cache and makes the databases.
    fn new(folder: &Path, shops: usize) -> Self {
        let home = folder.join(shops.to_string());
        let shops: Vec<Shop> = (0..shops).map(|number| Shop::new(&home, number)).collect();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = shop::config(&home, port, "");
        write(&config, with_copies(&read_to_string(&config).unwrap(), &home, &shops[1..])).unwrap();
        let application = Self { config, port, shops, starts: Vec::new() };
        stop(application.up());
        for shop in &application.shops {
            let open = |module| rusqlite::Connection::open(shop.books.file(module)).unwrap();
            fill_products(&mut open("catalog"));
            fill_stock(&mut open("inventory"));
        }
        application
    }

    fn up(&self) -> Process {
        Process::start(&mut shop::up(&self.config))
    }

    /// Starts it until it has answered once.
    fn start(&mut self) {
        let (began, port) = (Instant::now(), self.port);
        let waiting = std::thread::spawn(move || first_answer(port));
        let process = self.up();
        let first = waiting.join().unwrap() - began;
        self.starts.push((first, process.resident()));
        stop(process);
    }

    async fn round(&mut self, process: &Process, reads: Duration, orders: Duration) -> Round {
        let mut client = Client::connect(&process.address).await;
        let read = [
            read_products(&mut client, &self.shops[..1], reads).await,
            read_products(&mut client, &self.shops, reads).await,
        ];
        let (of_first, rate_of_first) = order(&mut client, &mut self.shops[..1], orders).await;
        let (of_all, rate_of_all) = order(&mut client, &mut self.shops, orders).await;
        Round { read, order: [of_first, of_all], rate: [rate_of_first, rate_of_all] }
    }

    fn print(&self, process: &Process, rounds: &[Round]) {
        let micros = |of: fn(&Round) -> Duration| median(rounds.iter().map(of).collect()).as_micros();
        let rate = |of: fn(&Round) -> f64| format!("{:.0}", median(rounds.iter().map(of).collect()));
        let (first, resident) = self.starts.iter().copied().unzip::<_, _, Vec<_>, Vec<_>>();
        row([
            (self.shops.len() * MODULES.len()).to_string(),
            format!("**{}**", median(first).as_millis()),
            format!("{:.1}", median(resident) as f64 / 1024.0),
            format!("{:.1}", process.resident() as f64 / 1024.0),
            micros(|round| round.read[0]).to_string(),
            micros(|round| round.read[1]).to_string(),
            format!("{:.2}", micros(|round| round.order[0]) as f64 / 1_000.0),
            format!("{:.2}", micros(|round| round.order[1]) as f64 / 1_000.0),
            rate(|round| round.rate[0]),
            rate(|round| round.rate[1]),
        ]);
    }
}

impl Shop {
    /// Writes what a shop has of its own into the application's folder: its WIT, and its components if it is a copy.
    fn new(home: &Path, number: usize) -> Self {
        let (namespace, prefix, path) = match number {
            0 => ("shop".to_owned(), String::new(), String::new()),
            // Why: as long as the other.
            _ => (format!("sh{number:02}"), format!("sh{number:02}-"), format!("/sh{number:02}")),
        };
        let renamed = format!("{namespace}:");
        for package in read_dir(shop::wit()).unwrap().map(|entry| entry.unwrap()) {
            let folder = home.join("wit").join(format!("{prefix}{}", package.file_name().display()));
            create_dir_all(&folder).unwrap();
            for file in read_dir(package.path()).unwrap().map(|entry| entry.unwrap()) {
                let text = read_to_string(file.path()).unwrap().replace(NAMESPACE, &renamed);
                write(folder.join(file.file_name()), text).unwrap();
            }
        }
        for module in MODULES.into_iter().filter(|_| number > 0) {
            let mut component = read(shop::built(module)).unwrap();
            rename(&mut component, NAMESPACE, &renamed);
            write(home.join(format!("{prefix}{module}.wasm")), component).unwrap();
        }
        let name = format!("{namespace} in {}", home.display());
        let place = Place::Files { data: home.join("data"), prefix: prefix.clone() };
        Self { namespace, path, prefix, books: Books { name, place }, placed: 0 }
    }
}

/// Renames the contracts of a namespace in a component. Every name keeps its length, so all that counts bytes still counts
/// right.
pub(crate) fn rename(component: &mut [u8], namespace: &str, renamed: &str) {
    assert_eq!(renamed.len(), namespace.len());
    let mut found = false;
    for at in 0..component.len() - namespace.len() {
        let name = &mut component[at..at + namespace.len()];
        if name == namespace.as_bytes() {
            name.copy_from_slice(renamed.as_bytes());
            found = true;
        }
    }
    assert!(found, "the component has no contract of `{namespace}`");
}

/// The shop's config with the routes and the modules of the copies too.
fn with_copies(config: &str, home: &Path, copies: &[Shop]) -> String {
    let config = config.replace(&shop::wit().display().to_string(), &home.join("wit").display().to_string());
    let (head, rest) = config.split_once("[http.routes]\n").unwrap();
    let (routes, rest) = rest.split_once("[http.files]\n").unwrap();
    let (files, modules) = rest.split_at(rest.find("[modules.").unwrap());
    let components = format!("{}/", shop::built("catalog").parent().unwrap().display());
    let mut all = [routes.to_owned(), modules.to_owned()];
    for Shop { namespace, path, prefix, .. } in copies {
        all[0] +=
            &routes.replace("/api/", &format!("{path}/api/")).replace(NAMESPACE, &format!("{namespace}:"));
        all[1] += &modules
            .replace("[modules.", &format!("[modules.{prefix}"))
            .replace(&components, &format!("{}/{prefix}", home.display()));
    }
    let [routes, modules] = all;
    format!("{head}[http.routes]\n{routes}[http.files]\n{files}{modules}")
}

/// Reads products of these shops in turn for a while; the median.
async fn read_products(client: &mut Client, shops: &[Shop], duration: Duration) -> Duration {
    let (began, mut took) = (Instant::now(), Vec::new());
    for number in 0.. {
        let path = format!("{}/api/products/MUG-{:04}", shops[number % shops.len()].path, number % PRODUCTS);
        let sent = Instant::now();
        if sent - began >= duration {
            break;
        }
        client.get(&path).await;
        took.push(sent.elapsed());
    }
    median(took)
}

/// Places orders in these shops in turn for a while; the median, and the orders each second until all is done.
async fn order(client: &mut Client, shops: &mut [Shop], duration: Duration) -> (Duration, f64) {
    let watches: Vec<Watch> = shops.iter().map(|shop| shop.books.watch()).collect();
    let (began, mut took) = (Instant::now(), Vec::new());
    for number in 0.. {
        let at = number % shops.len();
        let shop = &mut shops[at];
        let (path, body) = (format!("{}/api/orders", shop.path), request(0, shop.placed));
        let sent = Instant::now();
        if sent - began >= duration {
            break;
        }
        place(client, &path, &body).await;
        took.push(sent.elapsed());
        shop.placed += 1;
    }
    for (watch, shop) in watches.iter().zip(shops) {
        watch.done(shop.placed).await;
    }
    let rate = took.len() as f64 / began.elapsed().as_secs_f64();
    (median(took), rate)
}
