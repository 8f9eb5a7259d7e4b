//! Nodes as processes of their own, with a nats-server between them: how they start, share work, stop, die and come back,
//! and what whoever else speaks NATS sees of them.

use crate::faults;
use crate::shop::{ID, MUG, expect_told, mugs, payment, payments, stock, stock_mugs, until, until_stock};
use cleave_bus::route::Route;
use cleave_host::host::Host;
use cleave_tests::nats::{self, Message, NatsServer, Raw, Settings};
use cleave_tests::{
    Application, Arrangement, HttpServer, Node, PATIENCE, Process, Running, SHOP_ARRANGEMENTS, TWO_NODES,
    built, bus_at, request, shop_config, stderr, stdout, with_shared_cache,
};
use miette::Diagnostic as _;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Long enough to see that no more answers come.
const A_WHILE: Duration = Duration::from_millis(200);
/// How soon nobody is sent to a node that was killed.
const LEFT_OUT_WITHIN: Duration = Duration::from_secs(5);
/// Where nobody is.
const NOWHERE: &str = "nats://nats.invalid:4222";
/// The same on this machine.
const NOWHERE_NEAR: &str = "nats://127.0.0.1:1";

const USER: &str = r#"{"name":"Ada","email":"ada@example.org"}"#;

const THREE_NODES: [Node; 3] = [
    ("front", &[]),
    ("goods", &["users", "catalog", "payments"]),
    ("sales", &["orders", "inventory", "shipping", "notifications"]),
];

const fn on(nodes: &'static [Node]) -> Arrangement {
    Arrangement {
        route: Route::Local,
        instances: "pooled",
        pool: None,
        nodes,
        database: cleave_tests::Database::Sqlite,
    }
}

/// The shop on nodes at a server. `calls` is added to `[calls]`.
fn shop(server: &NatsServer, nodes: &'static [Node], calls: &str) -> Application {
    let config = shop_config(on(nodes)).replace(&nats::shared().url(), &server.url());
    let config = config.replace(&nats::shared().monitoring(), &server.monitoring());
    Application::new(&with_shared_cache(&format!("{config}{calls}\n")))
}

/// The shop on three nodes, each a process.
struct Shop {
    front: Process,
    goods: Process,
    sales: Process,
    application: Application,
    server: NatsServer,
}

impl Shop {
    fn up(calls: &str) -> Self {
        let server = NatsServer::start();
        let application = shop(&server, &THREE_NODES, calls);
        let [goods, sales, front] = ["goods", "sales", "front"].map(|node| application.up_node(node));
        await_nodes(&server, 3);
        Self { front, goods, sales, application, server }
    }

    /// Asks for a slow charge over NATS, and gives who waits for the answer. The call is at the payments' node by then.
    fn charge_slowly(&self) -> Raw {
        let mut raw = Raw::connect(&self.server.url()).unwrap();
        let arguments = json!([ID, 1250, "tok_slow"]).to_string();
        call_in_json(&mut raw, &self.application, "shop.payments.charges.v0_1.charge", &arguments);
        assert!(raw.flush(PATIENCE));
        raw
    }
}

/// Asks everybody at a server, until so many have answered.
fn ask(server: &NatsServer, verb: &str, count: usize) -> Vec<Json> {
    let began = Instant::now();
    loop {
        let mut raw = Raw::connect(&server.url()).unwrap();
        raw.subscribe("inbox.ask");
        raw.publish(&format!("$SRV.{verb}"), Some("inbox.ask"), None, b"");
        let answers: Vec<_> = std::iter::from_fn(|| raw.next(A_WHILE))
            // That nobody listens is told in headers.
            .filter(|answer| answer.headers.is_none())
            .map(|answer| serde_json::from_slice(&answer.payload).unwrap())
            .take(count)
            .collect();
        if answers.len() == count {
            return answers;
        }
        assert!(began.elapsed() < PATIENCE, "{count} nodes are to answer: {answers:?}");
    }
}

/// Waits until so many nodes take calls.
fn await_nodes(server: &NatsServer, count: usize) {
    ask(server, "PING", count);
}

/// How many calls each endpoint of a service has answered, by the second token of its contract: in the shop, the module.
fn requests(service: &Json) -> impl Iterator<Item = (&str, u64)> {
    service["endpoints"].as_array().unwrap().iter().map(|endpoint| {
        let group = endpoint["queue_group"].as_str().unwrap();
        (group.split('.').nth(1).unwrap(), endpoint["num_requests"].as_u64().unwrap())
    })
}

/// The modules that were called over the bus, by node.
fn called(server: &NatsServer, nodes: usize) -> BTreeMap<String, BTreeSet<String>> {
    let services = ask(server, "STATS", nodes);
    let of = |service: &Json| {
        let modules = requests(service).filter(|(_, count)| *count > 0);
        (service["name"].as_str().unwrap().to_owned(), modules.map(|(module, _)| module.to_owned()).collect())
    };
    services.iter().map(of).collect()
}

/// Calls a function at the subject of an application as somebody who knows no more than JSON.
fn call_in_json(raw: &mut Raw, application: &Application, function: &str, arguments: &str) {
    raw.subscribe("inbox.json");
    let subject = format!("{}.call.{function}", application.load().bus.prefix);
    raw.publish(&subject, Some("inbox.json"), Some(nats::JSON), arguments.as_bytes());
}

fn payload(message: &Message) -> Json {
    serde_json::from_slice(&message.payload).unwrap_or_else(|e| panic!("{e}: {message:?}"))
}

/// Says that something is over when it is dropped, so that nobody waits for it if a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a process that refuses to start says, in one line.
#[track_caller]
fn refused(application: &Application, verb: &str, arguments: &[&str]) -> String {
    let output = application.run(verb, arguments);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "it was let through: {said}{}", stdout(&output));
    assert!(said.contains("help:"), "{said}");
    said.split_whitespace().collect::<Vec<_>>().join(" ").replace(" │ ", " ")
}

#[test]
fn order_is_placed_across_three_processes() {
    let shop = Shop::up("");
    let front = &shop.front;
    stock_mugs(front, 10);
    let order = front.post("/api/orders", &mugs(ID, 3, "tok_ok")).expect(201);
    assert_eq!((&order["status"], &order["total_cents"]), (&json!("confirmed"), &json!(3750)));
    assert_eq!(payments(front, ID), payment(ID, 3750, "charged"));
    let shipment = until(front, &format!("/api/orders/{ID}/shipment"), |answer| answer.status == 200);
    until_stock(front, &stock(7, 0, 3));
    expect_told(front, shipment["id"].as_str().unwrap());

    // Each node has answered for its own modules, and has their data.
    let set = |modules: &[&str]| modules.iter().map(|module| (*module).to_owned()).collect::<BTreeSet<_>>();
    let expected = [
        ("front".to_owned(), set(&[])),
        ("goods".to_owned(), set(&["catalog", "payments"])),
        ("sales".to_owned(), set(&["inventory", "notifications", "orders", "shipping"])),
    ];
    assert_eq!(called(&shop.server, 3), BTreeMap::from(expected));
    let calls =
        THREE_NODES.map(|(node, _)| on(&THREE_NODES).assert_routes_of_process(&shop.application, Some(node)));
    assert!(calls.iter().sum::<u64>() > 0, "there was no call");
    for (node, modules) in THREE_NODES {
        for (_, all) in THREE_NODES {
            for module in all {
                let file = shop.application.folder.path().join(format!("data/{node}/{module}.sqlite"));
                assert_eq!(file.exists(), modules.contains(module), "{}", file.display());
            }
        }
    }
    for process in [shop.front, shop.sales, shop.goods] {
        assert!(process.stop().success());
    }
}

/// Each process logs for itself, and what it says of a request bears the request's identity.
#[test]
fn request_is_told_of_in_the_log_of_each_process_it_came_to() {
    let server = NatsServer::start();
    let application = shop(&server, &THREE_NODES, "");
    // Less than the slow card takes: the payments run out of time, and the orders get no clear answer.
    let hasty = "[modules.payments]\ndeadline = \"200ms\"";
    let config = std::fs::read_to_string(application.config()).unwrap();
    application.write(&config.replace("[modules.payments]", hasty));
    let [mut goods, mut sales, front] = ["goods", "sales", "front"].map(|node| application.up_node(node));
    await_nodes(&server, 3);
    stock_mugs(&front, 10);
    let answer = front.post("/api/orders", &mugs(ID, 1, "tok_slow"));
    let trace = answer.header("x-request-id");
    answer.expect(202);
    for (process, module) in [(&mut goods, "payments"), (&mut sales, "shop:payments/charges")] {
        process.await_log(trace);
        let log = process.log();
        assert!(log.lines().any(|line| line.contains(trace) && line.contains(module)), "{log}");
    }
    assert!(!sales.log().contains("module=payments"), "{}", sales.log());
    assert!(!front.log().contains("payments"), "{}", front.log());
}

#[test]
fn node_that_is_asked_to_stop_answers_every_call_it_took() {
    let mut shop = Shop::up("");
    stock_mugs(&shop.front, 10);
    let mut charge = shop.charge_slowly();
    let (front, goods) = (&shop.front, &mut shop.goods);
    let began = Instant::now();
    let answers: Vec<Vec<u16>> = std::thread::scope(|scope| {
        let client = |number: usize| {
            let mut answers = Vec::new();
            // Until the node has gone.
            while answers.last() != Some(&503) {
                assert!(began.elapsed() < PATIENCE, "the node does not go: {answers:?}");
                answers.push(match number % 3 {
                    0 => front.get("/api/products/mug").status,
                    1 => front.put("/api/products/mug", MUG).status,
                    _ => front.post("/api/users", USER).status,
                });
            }
            answers
        };
        let clients: Vec<_> = (0..6).map(|number| scope.spawn(move || client(number))).collect();
        // The node is under load, and the slow charge is still at work.
        let before = ask(&shop.server, "STATS", 3);
        let served =
            |services: &[Json]| services.iter().flat_map(requests).map(|(_, count)| count).sum::<u64>();
        while served(&ask(&shop.server, "STATS", 3)) < served(&before) + 20 {}
        goods.signal("TERM");
        assert!(goods.ended().success(), "{}", goods.log());
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    for answers in &answers {
        assert!(answers.iter().all(|status| matches!(status, 200 | 201 | 503)), "{answers:?}");
    }
    let charged = charge.next(PATIENCE).expect("the charge is not answered");
    assert_eq!(payload(&charged)["status"], "charged", "{charged:?}");
}

/// The catalog is where orders come in.
const CATALOG_IN_FRONT: [Node; 3] = [
    ("front", &["catalog"]),
    ("goods", &["users", "payments"]),
    ("sales", &["orders", "inventory", "shipping", "notifications"]),
];

#[test]
fn order_under_way_ends_although_its_node_is_asked_to_stop() {
    let server = NatsServer::start();
    let application = shop(&server, &CATALOG_IN_FRONT, "");
    let [goods, sales, mut front] = ["goods", "sales", "front"].map(|node| application.up_node(node));
    await_nodes(&server, 3);
    stock_mugs(&front, 10);
    let mut raw = Raw::connect(&server.url()).unwrap();
    let prefix = application.load().bus.prefix.to_string();
    let orders = raw.subscribe(&format!("{prefix}.call.shop.orders.>"));
    let members = raw.subscribe(&format!("{prefix}.members"));
    assert!(raw.flush(PATIENCE));
    let mut next = |sid: u64, text: &str| {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < PATIENCE, "nobody says {text}");
            let Some(said) = raw.next(PATIENCE) else { continue };
            if said.sid == sid && String::from_utf8_lossy(&said.payload).contains(text) {
                return;
            }
        }
    };
    // The order is on its way, and asks for the price when its node is about to stop.
    sales.signal("STOP");
    let url = format!("{}/api/orders", front.address);
    let order = std::thread::spawn(move || request(&url, "POST", Some(mugs(ID, 3, "tok_ok").as_bytes())));
    next(orders, "");
    front.signal("TERM");
    next(members, "\"state\":\"draining\"");
    // Longer than one that leaves goes on listening.
    std::thread::sleep(2 * A_WHILE);
    sales.signal("CONT");
    let order = order.join().unwrap().expect(201);
    assert_eq!(order["total_cents"], json!(3750));
    assert!(front.ended().success(), "{}", front.log());
    assert!(sales.stop().success() && goods.stop().success());
}

/// Whoever answers calls as bytes keeps no one else from ending.
#[test]
fn node_whose_modules_call_each_other_in_bytes_can_be_stopped() {
    let server = NatsServer::start();
    let arrangement = Arrangement { route: Route::Loopback, ..on(&THREE_NODES) };
    let config = shop_config(arrangement).replace(&nats::shared().url(), &server.url());
    let application = Application::new(&with_shared_cache(&config));
    let sales = application.up_node("sales");
    await_nodes(&server, 1);
    assert!(sales.stop().success());
}

/// A contract that one module exported yesterday and another exports today: while both run, a call runs once.
#[tokio::test(flavor = "multi_thread")]
async fn contract_that_moves_to_another_module_runs_once() {
    let server = tokio::task::block_in_place(NatsServer::start);
    let [before, after, caller] = [(); 3].map(|()| faults::nodes(&server.url(), "", ""));
    let config = std::fs::read_to_string(after.config()).unwrap();
    let renamed =
        [("modules.ledger", "modules.book"), ("[\"ledger\"]", "[\"book\"]"), ("nodes.back", "nodes.next")];
    after.write(&renamed.iter().fold(config, |config, (from, to)| config.replace(from, to)));
    let hosts = [(before.node("back").await, "ledger"), (after.node("next").await, "book")];
    let front = caller.node("front").await;
    faults::reachable(&front).await;
    let ran = || -> u64 {
        let pools = hosts.iter().map(|(host, module)| host.pool(module).unwrap());
        pools.map(|pool| pool.counts.returned.load(Ordering::Relaxed)).sum()
    };
    let ran_before = ran();
    for number in 0..20 {
        assert_eq!(faults::note(&front, "note", &format!("call-{number}"), 0).await, Ok(()));
    }
    assert_eq!(ran() - ran_before, 20);
    assert!(front.drain().await);
    for (host, _) in hosts {
        assert!(host.drain().await);
    }
}

#[test]
fn certificates_that_cannot_be_used_are_refused_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let [own, other] = [(); 2].map(|()| rcgen::KeyPair::generate().unwrap());
    let certificate = rcgen::CertificateParams::default().self_signed(&own).unwrap().pem();
    let certificate = file("certificate.pem", &certificate);
    let (own, other) = (file("own.key", &own.serialize_pem()), file("other.key", &other.serialize_pem()));
    let text = file("text.pem", "no PEM");
    for (bus, message, fix) in [
        (format!("ca = {text:?}"), "`bus.ca`", "holds no certificate as PEM"),
        (
            format!("certificate = {text:?}\nkey = {own:?}"),
            "`bus.certificate`",
            "holds no certificate as PEM",
        ),
        (
            format!("certificate = {certificate:?}\nkey = {certificate:?}"),
            "`bus.key`",
            "holds no private key",
        ),
        (format!("certificate = {certificate:?}\nkey = {other:?}"), "`bus.key`", "does not go with"),
    ] {
        let said = refused(&faults::nodes(NOWHERE_NEAR, &bus, ""), "up", &["--node", "front"]);
        assert!(said.contains(message) && said.contains(fix), "{bus}: {said}");
    }
    let bus = format!("ca = {certificate:?}\ncertificate = {certificate:?}\nkey = {own:?}");
    let application = faults::nodes(NOWHERE_NEAR, &bus, "");
    let front = Process::start_until(&mut application.node_command("front"), "ready; ");
    assert!(front.stop().success());
}

#[test]
fn second_signal_ends_a_node_at_once() {
    let mut shop = Shop::up("");
    let mut charge = shop.charge_slowly();
    shop.goods.signal("TERM");
    shop.goods.await_log("stopping: ");
    shop.goods.signal("TERM");
    assert_eq!(shop.goods.ended().code(), Some(1), "{}", shop.goods.log());
    shop.goods.await_log("ended before all calls had finished");
    assert_eq!(charge.next(A_WHILE), None);
}

#[test]
fn killed_node_is_left_out_until_it_is_back() {
    let Shop { front, goods, sales: _sales, application, server: _server } = Shop::up("deadline = \"2s\"");
    stock_mugs(&front, 10);
    goods.kill();
    let killed = Instant::now();
    while front.get("/api/products/mug").status != 503 {
        assert!(killed.elapsed() < LEFT_OUT_WITHIN, "{:?}", front.get("/api/products/mug"));
    }
    let out = Instant::now();
    for _ in 0..20 {
        front.get("/api/products/mug").expect_problem(503, "not carried out");
    }
    assert!(out.elapsed() < 20 * Duration::from_secs(1), "what cannot be reached is waited for");
    // Everybody else is there.
    assert_eq!(front.get("/api/stock/mug").expect(200), stock(10, 0, 0));
    assert_eq!(front.get("/readyz").status, 200);
    let _goods = application.up_node("goods");
    let mug = until(&front, "/api/products/mug", |answer| answer.status == 200);
    assert_eq!(mug["sku"], "mug");
    front.post("/api/orders", &mugs(ID, 1, "tok_ok")).expect(201);
}

#[test]
fn node_that_calls_no_other_needs_no_nats() {
    let mut server = NatsServer::start();
    let application = shop(&server, &THREE_NODES, "");
    server.kill();
    let goods = application.up_node("goods");
    let call = |arguments: &[&str]| {
        let output = application.run("call", &[&["--node", "goods"], arguments].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_str::<Json>(&stdout(&output)).unwrap()
    };
    let mug = call(&["shop:catalog/products.put", "\"mug\"", MUG]);
    assert_eq!(call(&["shop:catalog/products.get", "\"mug\""]), mug);
    // Others reach it once they can.
    server.restart();
    let front = application.up_node("front");
    let found = until(&front, "/api/products/mug", |answer| answer.status == 200);
    assert_eq!(found["sku"], "mug");
    assert!(goods.stop().success());
}

#[test]
fn node_that_calls_others_is_not_ready_without_nats() {
    let mut server = NatsServer::start();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let config = shop_config(on(&THREE_NODES)).replace(&nats::shared().url(), &server.url());
    let application = Application::new(&with_shared_cache(&config.replace("127.0.0.1:0", &free)));
    server.kill();
    let _goods = application.up_node("goods");
    let waiting = format!("not ready before NATS at {} answers", server.url());
    let mut front = Process::start_until(&mut application.node_command("front"), &waiting);
    let http = HttpServer { address: format!("http://{free}") };
    assert_eq!((http.get("/livez").status, http.get("/readyz").status), (200, 503));
    http.get("/api/products/mug").expect_problem(503, "not carried out");
    server.restart();
    front.await_log(&format!("ready at http://{free}"));
    assert_eq!(http.get("/readyz").status, 200);
    until(&http, "/api/products", |answer| answer.status == 200);
}

#[test]
fn node_that_calls_others_can_be_stopped_without_nats() {
    let mut server = NatsServer::start();
    let application = shop(&server, &THREE_NODES, "");
    server.kill();
    let sales = Process::start_until(&mut application.node_command("sales"), "not ready before NATS");
    assert!(sales.stop().success());
}

#[test]
fn calls_within_a_node_know_nothing_of_nats() {
    let mut server = NatsServer::start();
    let application = shop(&server, &TWO_NODES, "");
    let _sales = application.up_node("sales");
    let front = application.up_node("front");
    await_nodes(&server, 2);
    stock_mugs(&front, 10);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (front, over) = (&front, &over);
        let clients: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(move || {
                    let mut calls = 0;
                    while !over.load(Ordering::Relaxed) {
                        front.put("/api/products/mug", MUG).expect(200);
                        front.get("/api/products/mug").expect(200);
                        calls += 2;
                    }
                    calls
                })
            })
            .collect();
        let _over = Over(over);
        server.kill();
        // What was on its way is uncertain.
        until_status(front, "/api/stock/mug", 503);
        let away = Instant::now();
        for _ in 0..20 {
            front.get("/api/stock/mug").expect_problem(503, "not carried out");
        }
        assert!(away.elapsed() < Duration::from_secs(20), "what cannot be reached is waited for");
        assert_eq!(front.get("/readyz").status, 200);
        server.restart();
        until_status(front, "/api/stock/mug", 200);
        over.store(true, Ordering::Relaxed);
        assert!(clients.into_iter().map(|client| client.join().unwrap()).sum::<u32>() > 0);
    });
    // The other nodes may still be on their way back.
    let began = Instant::now();
    while front.post("/api/orders", &mugs(ID, 1, "tok_ok")).status != 201 {
        assert!(began.elapsed() < PATIENCE, "orders do not come back");
    }
    until_stock(&front, &stock(9, 0, 1));
}

/// Asks until the answer has this status.
#[track_caller]
fn until_status(server: &HttpServer, path: &str, status: u16) {
    let began = Instant::now();
    while server.get(path).status != status {
        assert!(began.elapsed() < PATIENCE, "{path} stays {:?}", server.get(path));
    }
}

#[test]
fn replicas_share_the_load_and_one_that_hangs_gets_none() {
    let server = NatsServer::start();
    let application = Application::new(&format!(
        r#"
{bus}heartbeat = "250ms"
silent_after = "2s"
[calls]
deadline = "1s"
[http.routes]
"GET /ping/{{n}}" = "test:victim/ping.ping"
[modules.victim]
component = "{victim}"
[nodes.front]
listen = "127.0.0.1:0"
[nodes.work]
modules = ["victim"]
"#,
        bus = bus_at(&server.url()),
        victim = built("victim").display(),
    ));
    let first = application.up_node("work");
    let mut command = application.node_command("work");
    let data = application.folder.path().join("data/second");
    command.args(["--set", &format!("nodes.work.data={}", data.display())]);
    let second = Process::start_until(&mut command, "ready; ");
    let front = application.up_node("front");
    await_nodes(&server, 3);
    let ping = || front.get("/ping/1").status;
    let taken = || -> BTreeMap<String, u64> {
        let services = ask(&server, "STATS", 3).into_iter().filter(|service| service["name"] == "work");
        services
            .map(|service| {
                (service["id"].to_string(), requests(&service).map(|(_, count)| count).sum::<u64>())
            })
            .collect()
    };
    for _ in 0..100 {
        assert_eq!(ping(), 200);
    }
    let shares = taken();
    assert!(shares.len() == 2 && shares.values().all(|share| *share > 0), "{shares:?}");
    assert_eq!(shares.values().sum::<u64>(), 100);

    second.signal("STOP");
    // What goes to it before it is missed is uncertain. If both still took calls, thirty would not all be answered.
    let (stopped, mut answered) = (Instant::now(), 0);
    while answered < 30 {
        answered = if ping() == 200 { answered + 1 } else { 0 };
        assert!(stopped.elapsed() < PATIENCE, "calls still go to the one that hangs");
    }
    for _ in 0..100 {
        assert_eq!(ping(), 200);
    }
    second.signal("CONT");
    // It takes its part again, more than what it was given while it hung.
    let before = taken();
    let continued = Instant::now();
    while taken().iter().any(|(replica, count)| *count < before[replica] + 30) {
        assert!(continued.elapsed() < PATIENCE, "{before:?} {:?}", taken());
        (0..20).for_each(|_| assert_eq!(ping(), 200));
    }
    assert!(first.stop().success() && second.stop().success());
}

/// The shop as one node that calls itself over the bus, and a client that knows NATS.
fn over_nats() -> (Application, Running, Raw) {
    let arrangement = SHOP_ARRANGEMENTS[7];
    assert_eq!(arrangement.route, Route::Remote);
    let application = Application::shop(arrangement);
    let shop = application.start(arrangement);
    (application, shop, Raw::connect(&nats::shared().url()).unwrap())
}

#[test]
fn contract_is_called_in_json_over_nats() {
    let (application, shop, mut raw) = over_nats();
    let mug = shop.put("/api/products/mug", MUG).expect(200);
    let call = |function: &str, arguments: &str| {
        let mut raw = Raw::connect(&nats::shared().url()).unwrap();
        call_in_json(&mut raw, &application, &format!("shop.catalog.products.v0_1.{function}"), arguments);
        raw.next(PATIENCE).expect("no answer")
    };
    let answer = call("get", "[\"mug\"]");
    assert_eq!((payload(&answer), answer.header("Nats-Service-Error-Code")), (mug.clone(), None));
    assert_eq!(payload(&call("get", "[\"nothing\"]")), Json::Null);
    assert_eq!(payload(&call("browse", "[null, 10]")), json!([mug]));
    let put = call("put", &format!("[\"cup\", {MUG}]"));
    assert_eq!(payload(&put), shop.get("/api/products/cup").expect(200));
    for (function, arguments, code, text) in [
        ("get", "[\"\"]", "422", "answered with its error"),
        ("browse", "[null, 1000]", "422", "answered with its error"),
        ("get", "\"mug\"", "400", "an array of the arguments"),
        ("get", "[1]", "400", "an array of the arguments"),
        ("get", "{", "400", "an array of the arguments"),
        ("steal", "[]", "404", "does not serve"),
    ] {
        let answer = call(function, arguments);
        assert_eq!(answer.header("Nats-Service-Error-Code"), Some(code), "{answer:?}");
        let said = answer.header("Nats-Service-Error").unwrap_or_default();
        assert!(said.contains(text), "{function}{arguments}: {said}");
    }
    // Without the header the payload is an envelope, and this is none.
    raw.subscribe("inbox.none");
    let subject = format!("{}.call.shop.catalog.products.v0_1.get", application.load().bus.prefix);
    raw.publish(&subject, Some("inbox.none"), None, b"[\"mug\"]");
    let answer = raw.next(PATIENCE).expect("no answer");
    assert!(serde_json::from_slice::<Json>(&answer.payload).is_err(), "{answer:?}");
    shop.end(&application);
}

#[test]
fn tools_of_nats_find_the_nodes() {
    let server = NatsServer::start();
    let application = shop(&server, &THREE_NODES, "");
    let _goods = application.up_node("goods");
    let _sales = application.up_node("sales");
    await_nodes(&server, 2);
    for (verb, kind) in [("PING", "ping"), ("INFO", "info"), ("STATS", "stats")] {
        let all = ask(&server, verb, 2);
        let names: BTreeSet<_> = all.iter().map(|service| service["name"].as_str().unwrap()).collect();
        assert_eq!(names, BTreeSet::from(["goods", "sales"]));
        for service in &all {
            assert_eq!(service["type"], format!("io.nats.micro.v1.{kind}_response"));
            assert!(
                service["metadata"].is_object() && !service["id"].as_str().unwrap().is_empty(),
                "{service}"
            );
            let version = service["version"].as_str().unwrap();
            assert!(
                version.split('.').count() == 3 && version.starts_with(|c: char| c.is_ascii_digit()),
                "{version}"
            );
        }
        assert_ne!(all[0]["id"], all[1]["id"]);
        let goods = all.iter().find(|service| service["name"] == "goods").unwrap();
        // One node alone, and one replica alone, are asked by their names.
        let id = goods["id"].as_str().unwrap();
        for subject in [format!("{verb}.goods"), format!("{verb}.goods.{id}")] {
            assert_eq!(ask(&server, &subject, 1)[0]["id"], id);
        }
    }
    let prefix = application.load().bus.prefix.to_string();
    for (verb, fields) in [
        ("INFO.goods", &["metadata"][..]),
        (
            "STATS.goods",
            &["num_requests", "num_errors", "last_error", "processing_time", "average_processing_time"],
        ),
    ] {
        let service = ask(&server, verb, 1).remove(0);
        let endpoints = service["endpoints"].as_array().unwrap();
        let get = endpoints.iter().find(|e| e["name"] == "shop-catalog-products-v0_1-get").unwrap();
        assert_eq!(get["subject"], format!("{prefix}.call.shop.catalog.products.v0_1.get"));
        // Of the contract and not of the module, which may change while calls go on.
        assert_eq!(get["queue_group"], "shop.catalog.products.v0_1");
        assert!(verb.starts_with("STATS") || get["metadata"]["module"] == "catalog", "{get}");
        assert!(fields.iter().all(|field| !get[field].is_null()), "{get}");
        // A name of the protocol has letters, digits, `-` and `_`.
        let plain = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        assert!(endpoints.iter().all(|endpoint| plain(endpoint["name"].as_str().unwrap())), "{service}");
    }
    let info = &ask(&server, "INFO.goods", 1)[0];
    assert!(info["description"].is_string(), "{info}");
    let started = ask(&server, "STATS.goods", 1)[0]["started"].as_str().unwrap().to_owned();
    assert!(started.contains('T') && started.ends_with('Z'), "{started}");
}

#[test]
fn server_that_takes_less_than_a_call_is_refused() {
    let server = NatsServer::start_with(Settings { max_payload: Some(512 * 1024), ..Settings::default() });
    let application = shop(&server, &THREE_NODES, "");
    let said = refused(&application, "up", &["--node", "front"]);
    for text in [
        "takes messages of 524288 bytes at most",
        "`calls.payload_max`",
        "raise `max_payload`",
        "cleave.toml:",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
    // With calls as large as the server takes, it starts.
    let application = shop(&server, &THREE_NODES, "payload_max = \"508KiB\"");
    assert!(application.up_node("front").stop().success());
}

#[test]
fn placement_that_cannot_be_is_refused() {
    let config = shop_config(on(&THREE_NODES));
    let bus = config.split_once("[bus]\n").unwrap().1.split_once("[calls]").unwrap().0.to_owned();
    for (from, to, message, fix) in [
        ("\"catalog\", ", "", "`catalog` is on no node", "add it to the `modules` of one of the nodes"),
        ("\"catalog\", ", "\"catalogue\", ", "there is no module `catalogue`", "did you mean \"catalog\"?"),
        (
            bus.as_str(),
            "",
            "`orders` on node `sales` calls `shop:catalog/products@0.1.0` of `catalog`, which is on `goods`",
            "set `bus.nats`",
        ),
        (bus.as_str(), "", "node `front` serves routes over HTTP to", "or place both on one node"),
        (
            "[\"orders\", ",
            "[\"orders\", \"users\", ",
            "`users` keeps data in SQLite and is on `goods`, `sales`",
            "place the module on one node",
        ),
        ("[http]\n", "[http]\nlisten = \"127.0.0.1:0\"\n", "`http.listen` is set", "`nodes.NAME.listen`"),
        (
            "[nodes.sales]\n",
            "[nodes.sales]\ndata = \"data/goods\"\n",
            "both keep their data in",
            "a folder of its own",
        ),
    ] {
        assert!(config.contains(from), "{from} is not in {config}");
        let application = Application::new(&config.replacen(from, to, 1));
        for (verb, arguments) in [("check", &[][..]), ("up", &["--node", "front"])] {
            let said = refused(&application, verb, arguments);
            assert!(said.contains(message) && said.contains(fix), "{verb}: {message}: {said}");
            assert!(said.contains("cleave.toml:"), "{said}");
        }
    }
}

#[test]
fn node_is_chosen_by_its_name() {
    let application = Application::new(&shop_config(on(&THREE_NODES)));
    for verb in ["check", "up"] {
        let said = refused(&application, verb, &["--node", "good"]);
        assert!(said.contains("there is no node \"good\""), "{said}");
        assert!(said.contains("did you mean `goods`?") && said.contains("front, goods, sales"), "{said}");
    }
    let said = refused(&application, "up", &[]);
    assert!(said.contains("a process is one of them"), "{said}");
    assert!(said.contains("--node front, --node goods, --node sales"), "{said}");
    let whole = Application::shop(SHOP_ARRANGEMENTS[0]);
    let said = refused(&whole, "up", &["--node", "front"]);
    assert!(said.contains("there are no nodes") && said.contains("leave `--node` out"), "{said}");
}

#[test]
fn data_of_another_placement_is_not_left_behind() {
    let application = Application::shop(SHOP_ARRANGEMENTS[1]);
    let shop = application.up();
    let mug = shop.put("/api/products/mug", MUG).expect(200);
    assert!(shop.stop().success());
    let server = NatsServer::start();
    let config = shop_config(on(&THREE_NODES)).replace(&nats::shared().url(), &server.url());
    application.write(&with_shared_cache(&config));
    // Each module is told with what to do, and it is done as told.
    for (node, modules) in THREE_NODES {
        for _ in modules {
            let said = refused(&application, "up", &["--node", node]);
            assert!(said.contains("the data of `"), "{said}");
            assert!(said.contains("from when the module was placed otherwise"), "{said}");
            do_as_told(&application, node);
        }
    }
    let [goods, sales, front] = ["goods", "sales", "front"].map(|node| application.up_node(node));
    await_nodes(&server, 3);
    assert_eq!(front.get("/api/products/mug").expect(200), mug);
    for process in [front, sales, goods] {
        assert!(process.stop().success());
    }
    // A module that goes on to another node is missed where it was, and where it is.
    let moved =
        config.replacen("\"catalog\", ", "", 1).replacen("modules = []", "modules = [\"catalog\"]", 1);
    application.write(&with_shared_cache(&moved));
    let said = refused(&application, "up", &["--node", "goods"]);
    assert!(said.contains("the data of `catalog` is here") && said.contains("on node `front`"), "{said}");
    let said = refused(&application, "up", &["--node", "front"]);
    assert!(said.contains("the data of `catalog` is in"), "{said}");
    // A folder that is not there yet is made.
    std::fs::remove_dir_all(application.folder.path().join("data/front")).unwrap();
    do_as_told(&application, "goods");
    let _goods = application.up_node("goods");
    let front = application.up_node("front");
    assert_eq!(front.get("/api/products/mug").expect(200), mug);
}

/// Does what a node that does not start says is to be done.
#[track_caller]
fn do_as_told(application: &Application, node: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    let Err(problems) = runtime.block_on(Host::start(application.load_for(Some(node)))) else {
        panic!("`{node}` was let through");
    };
    let fix = problems.0[0].help().unwrap().to_string();
    let (_, command) = fix.split_once(": ").unwrap_or_else(|| panic!("{fix}"));
    assert!(command.contains("mv "), "{fix}");
    let done = std::process::Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(done.status.success(), "{command}: {}", stderr(&done));
}

#[test]
fn bus_beyond_this_machine_is_encrypted_and_has_credentials() {
    let config = shop_config(on(&THREE_NODES)).replace(&nats::shared().url(), NOWHERE);
    let application = Application::new(&with_shared_cache(&config));
    for node in ["front", "goods"] {
        let said = refused(&application, "up", &["--node", node]);
        assert!(
            said.contains("leaves this machine for \"nats.invalid\" without TLS and credentials"),
            "{said}"
        );
        assert!(
            said.contains("use `tls://` and `bus.credentials`") && said.contains("`--insecure`"),
            "{said}"
        );
    }
    let mut command = application.node_command("front");
    let front = Process::start_until(command.arg("--insecure"), "not ready before NATS");
    assert!(front.stop().success());
}
