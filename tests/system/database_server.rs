//! The shop with its data in a PostgreSQL server of its own: what is seen of the server when it goes, when it is back, and
//! when it is put back from a backup.

use crate::crash::{come_to_rest, fill, print};
use crate::outage::{Over, order_until};
use crate::shop::{MUG, mugs, stock_mugs, until};
use cleave_tests::checker::{History, Operation, Outcome};
use cleave_tests::postgres::{self, PostgresServer};
use cleave_tests::{
    Application, Arrangement, Database, IN_POSTGRES, PATIENCE, Process, TWO_NODES, shop_config, stderr,
    stdout, with_shared_cache,
};
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How many order at once.
const CLIENTS: u64 = 8;
/// How many orders there are before the backup begins, and among those that come meanwhile.
const ORDERS: u64 = 100;

/// One process with its data in files, unless something else is said beside.
const IN_FILES: Arrangement = Arrangement { database: Database::Sqlite, ..IN_POSTGRES };

/// The shop in one process, with its data at this URL.
fn shop_at(url: &str) -> Application {
    Application::new(&with_shared_cache(&format!("{}\n[data]\nurl = \"{url}\"\n", shop_config(IN_FILES))))
}

/// The identity of an order.
fn order(number: usize) -> String {
    format!("0c2d2e9e-8f0e-4a9c-9a4e-{number:012x}")
}

/// Orders a mug until the shop says that it has taken the order.
fn place(shop: &Process, number: usize) {
    let body = mugs(&order(number), 1, "tok_ok");
    loop {
        match shop.post("/api/orders", &body).status {
            201 | 202 => return,
            status => assert!(matches!(status, 503 | 504), "{status}"),
        }
    }
}

#[test]
fn shop_stays_ready_without_its_server_and_goes_on_when_it_is_back() {
    let mut server = PostgresServer::start();
    let application = shop_at(&server.new_url());
    let shop = application.up();
    stock_mugs(&shop, 100);
    place(&shop, 0);
    server.kill();
    // A module cannot tell a statement that was lost on its way from one that was lost on its way back.
    shop.get("/api/products/mug").expect_problem(504, "may have been carried out");
    // Another process would have no other server.
    assert_eq!((shop.get("/livez").status, shop.get("/readyz").status), (200, 200));
    server.restart();
    shop.get("/api/products/mug").expect(200);
    place(&shop, 1);
    // Connections at rest that a restart has ended are noticed when they are used, and made anew.
    server.restart();
    shop.get("/api/products/mug").expect(200);
    shop.put("/api/products/mug", MUG).expect(200);
    place(&shop, 2);
    for number in 0..3 {
        until(&shop, &format!("/api/orders/{}", order(number)), |answer| {
            answer.json()["status"] == "confirmed"
        });
    }
    assert!(shop.stop().success());
}

#[test]
fn one_backup_has_all_modules_at_one_moment() {
    let server = postgres::shared();
    let database = server.new_database();
    let application = shop_at(&server.url(&database));
    let shop = application.up();
    let stock = fill(&shop);
    let backup = application.folder.path().join("shop.sql");
    // What was acknowledged before the backup began is in it. Of what came meanwhile some is, but nothing by halves.
    let mut operations = order_while(&shop, 0, await_orders);
    let meanwhile = order_while(&shop, CLIENTS, |placed| {
        await_orders(placed);
        let before = placed.load(Ordering::Relaxed);
        server.back_up(&database, &backup);
        assert!(placed.load(Ordering::Relaxed) > before, "nobody ordered while the backup was made");
    });
    let lost = |operation| Operation { outcome: Outcome::Lost, ..operation };
    operations.extend(meanwhile.into_iter().map(lost));
    assert!(shop.stop().success());
    server.put_back(&database, &backup);
    let shop = application.up();
    let history = History { stock, operations };
    let rested = come_to_rest(&application, &shop, &history, Instant::now());
    print(&rested.violations);
    assert!(rested.settled && rested.violations.is_empty(), "{}", shop.log());
    let kept = rested.world.orders.len() as u64;
    let sent = history.operations.iter().map(|operation| &operation.request.id).collect::<BTreeSet<_>>();
    assert!((ORDERS..sent.len() as u64).contains(&kept), "{kept} of {} orders were kept", sent.len());
    assert!(shop.stop().success());
}

fn await_orders(placed: &AtomicU64) {
    let began = Instant::now();
    while placed.load(Ordering::Relaxed) < ORDERS {
        assert!(began.elapsed() < PATIENCE, "hardly anybody orders");
        sleep(Duration::from_millis(5));
    }
}

/// A config in which these modules have databases of their own at the server of all tests.
fn moved(config: &str, databases: &[(&str, String)]) -> Application {
    let moved = databases.iter().fold(config.to_owned(), |config, (module, database)| {
        let table = format!("[modules.{module}]\n");
        config.replace(&table, &format!("{table}url = \"{}\"\n", postgres::shared().url(database)))
    });
    Application::new(&with_shared_cache(&moved))
}

/// A team may move the modules of one node to PostgreSQL before the others, each to a database of its own if need be.
#[test]
fn modules_may_be_in_different_databases() {
    let server = postgres::shared();
    let databases = ["orders", "inventory", "notifications"].map(|module| (module, server.new_database()));
    let application = moved(&shop_config(IN_FILES.on(&TWO_NODES)), &databases);
    let check: Json = serde_json::from_str(&stdout(&application.run("check", &["--json"]))).unwrap();
    for module in check["modules"].as_array().unwrap() {
        let found = databases.iter().find(|(name, _)| module["name"] == *name);
        let data = found.map(|(_, database)| server.url(database).replace("the%20tests%20own", "***"));
        assert_eq!(module["data"], data.unwrap_or_else(|| "sqlite".to_owned()));
    }
    let [sales, front] = ["sales", "front"].map(|node| application.up_node(node));
    until(&front, "/api/users/ada/orders", |answer| answer.status == 200);
    let stock = fill(&front);
    let operations = order_while(&front, 0, await_orders);
    let history = History { stock, operations };
    let rested = come_to_rest(&application, &front, &history, Instant::now());
    print(&rested.violations);
    assert!(rested.settled && rested.violations.is_empty(), "{}\n{}", front.log(), sales.log());
    assert!(front.stop().success() && sales.stop().success());
    for (module, database) in &databases {
        let schemas = server.say(database, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'cleave$%'");
        assert_eq!(schemas, format!("cleave${module}"));
    }
    let files = |node: &str| -> BTreeSet<String> {
        let files = std::fs::read_dir(application.folder.path().join("data").join(node)).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter_map(|name| Some(name.strip_suffix(".sqlite")?.to_owned())).collect()
    };
    assert_eq!(files("front"), ["catalog", "payments", "shipping", "users"].map(str::to_owned).into());
    assert_eq!(files("sales"), BTreeSet::new());
}

/// A second process would share what is in PostgreSQL, and have files of its own.
#[test]
fn one_process_keeps_no_data_in_both() {
    let orders = ("orders", postgres::shared().new_database());
    for (config, arguments) in
        [(shop_config(IN_FILES), &[][..]), (shop_config(IN_FILES.on(&TWO_NODES)), &["--node", "front"])]
    {
        let application = moved(&config, std::slice::from_ref(&orders));
        for (verb, arguments) in [("check", &[][..]), ("up", arguments)] {
            let refused = application.run(verb, arguments);
            let said = stderr(&refused).replace("\n  │ ", " ");
            assert!(
                !refused.status.success() && said.contains("`orders` keeps its data in PostgreSQL"),
                "{said}"
            );
            assert!(said.contains("place them on two nodes"), "{said}");
        }
    }
}

/// Lets clients order until something is done, that is told how many orders were placed.
fn order_while(shop: &Process, first: u64, work: impl FnOnce(&AtomicU64)) -> Vec<Operation> {
    let (is_over, placed) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // Why: if this thread panics, clients must not order for ever.
        let over = Over(&is_over);
        let (is_over, placed) = (&is_over, &placed);
        let clients: Vec<_> = (first..first + CLIENTS)
            .map(|number| scope.spawn(move || order_until(shop, Database::Postgres, number, is_over, placed)))
            .collect();
        work(placed);
        drop(over);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}
