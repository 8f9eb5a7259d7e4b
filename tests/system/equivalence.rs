//! One meaning, wherever the program is cut: the shop is asked the same under every placement, and everything that can be
//! told of it afterwards, every answer, row and event, is compared with what it is in one process.
//!
//! What is chosen by chance or by the clock (identities, times) is written as when it first appears. Everything else that
//! may differ stands in [`PERMITTED`], with the reason; any other difference fails.

use crate::events::settled_all;
use cleave_bus::route::Route;
use cleave_host::clock::Clock;
use cleave_host::data::{Database, Value};
use cleave_host::drill::{Disorder, Drill};
use cleave_host::host::Host;
use cleave_tests::{
    Application, Arrangement, Database as Store, EIGHT_NODES, HttpServer, Node, Nodes, PATIENCE, TWO_NODES,
    postgres, shop_config, with_shared_cache,
};
use serde_json::{Value as Json, json};
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// The modules, in an order that a number chooses from: bit `n` is the node of the `n`th.
const MODULES: [&str; 7] =
    ["users", "catalog", "payments", "orders", "inventory", "shipping", "notifications"];
/// The ways to cut seven modules into two nodes, both of which have some: the first module stays where it is.
const CUTS: u32 = 63;
/// The seeds of placements by chance.
const SEEDS: std::ops::Range<u64> = 1..21;
/// The seeds of orders of events.
const DISORDERS: std::ops::Range<u64> = 1..5;
/// How far the clocks of modules and databases are apart from node to node, in milliseconds.
const CLOCKS_APART: i64 = 17_000;

/// What may differ from way to way: where it stands, which ways, and why.
const PERMITTED: [(&str, Permitted, &str); 2] = [
    (
        "/api/users/ada/notifications",
        Permitted::Everywhere,
        "the order of what a user is told: the order of events is promised for each publisher and key, and an order's two \
         notifications come from two publishers",
    ),
    (
        "/api/users/ada/orders",
        Permitted::AmongRivals,
        "which order is the newest: its time is by the clock of the process that took it, and here these are 17 s apart",
    ),
];

/// The ways in which something may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permitted {
    Everywhere,
    /// Where several processes have the same module.
    AmongRivals,
}

/// The functions of the shop, each of which may be called again with the same.
const FUNCTIONS: [&str; 18] = [
    "catalog/products.get",
    "catalog/products.get-many",
    "catalog/products.browse",
    "catalog/products.put",
    "inventory/stock.get",
    "inventory/stock.put",
    "inventory/stock.reserve",
    "inventory/stock.release",
    "notifications/messages.of-user",
    "orders/checkout.place",
    "orders/checkout.get",
    "orders/checkout.of-user",
    "payments/charges.charge",
    "payments/charges.void-charge",
    "payments/charges.of-order",
    "shipping/shipments.of-order",
    "users/accounts.create",
    "users/accounts.get",
];

/// Every table of every module, each with what its rows are ordered by.
const TABLES: [(&str, &str, &str); 11] = [
    ("users", "users", "id"),
    ("catalog", "products", "sku"),
    ("inventory", "stock", "sku"),
    ("inventory", "reservations", "order_id"),
    ("inventory", "reservation_lines", "order_id, sku"),
    ("payments", "charges", "order_id"),
    ("orders", "orders", "id"),
    ("orders", "order_lines", "order_id, number"),
    ("shipping", "shipments", "order_id"),
    ("shipping", "shipment_lines", "order_id, number"),
    ("notifications", "notifications", "order_id, kind"),
];

/// Has an inbox in SQLite keep what an event carried: by itself it clears that once the event is done.
const KEEP_IN_SQLITE: &str = "CREATE TRIGGER kept AFTER UPDATE OF payload ON cleave_inbox WHEN new.payload = '' \
    BEGIN UPDATE cleave_inbox SET payload = old.payload WHERE position = new.position; END";
/// What a trigger does that has an inbox in PostgreSQL keep it.
const KEEP_IN_POSTGRES: &str = "CREATE FUNCTION kept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
    IF NEW.payload = '' THEN NEW.payload = OLD.payload; END IF; RETURN NEW; END $$;";

const ADA: &str = "3b1f0f0e-0000-4000-8000-00000000ada0";

fn order(number: u32, sku: &str, quantity: u32, token: &str) -> Json {
    let id = identity(number);
    json!({"id": id, "user_id": "ada", "lines": [{"sku": sku, "quantity": quantity}], "payment_token": token})
}

fn identity(number: u32) -> String {
    format!("0c2d2e9e-0000-4000-8000-{number:012}")
}

/// The method, the path and the body of what is asked.
type Step = (&'static str, String, Json);

/// What is asked, in its order. A step without a method waits until everything that follows from those before is done.
fn script() -> Vec<Step> {
    let mut steps = Vec::new();
    let mut ask = |method, path: &str, body| steps.push((method, path.to_owned(), body));
    ask("GET", "/api/products", Json::Null);
    for (sku, price, stock) in [("mug", 1250, 40), ("kettle", 3900, 3), ("spoon", 1, 1_000)] {
        let product = json!({"name": sku, "price_cents": price, "description": "Plain"});
        ask("PUT", &format!("/api/products/{sku}"), product);
        ask("PUT", &format!("/api/stock/{sku}"), json!({"available": stock}));
    }
    ask("PUT", "/api/products/mug", json!({"name": "Mug", "price_cents": 0, "description": ""}));
    ask("PUT", "/api/stock/nothing", json!({"available": 1}));
    ask("GET", "/api/products?limit=2", Json::Null);
    ask("GET", "/api/products?after=kettle&limit=1", Json::Null);
    ask("GET", "/api/products/nothing", Json::Null);
    ask("GET", "/api/stock/nothing", Json::Null);
    let user = |name: &str| json!({"id": ADA, "name": name, "email": "ada@example.com"});
    for body in [
        user("Ada"),
        user("Ada"),
        user("Eve"),
        json!({"id": ADA}),
        json!({"id": "x", "name": "", "email": "@"}),
    ] {
        ask("POST", "/api/users", body);
    }
    ask("GET", &format!("/api/users/{ADA}"), Json::Null);
    for (number, sku, quantity, token) in [
        (1, "mug", 2, "tok_visa"),
        (1, "mug", 2, "tok_visa"),
        (1, "mug", 3, "tok_visa"),
        (2, "mug", 1, "tok_declined"),
        (2, "mug", 1, "tok_declined"),
        (3, "kettle", 4, "tok_visa"),
        (4, "teapot", 1, "tok_visa"),
        (5, "kettle", 3, "tok_visa"),
        (6, "kettle", 1, "tok_visa"),
        (7, "spoon", 0, "tok_visa"),
        (8, "spoon", 1000, "tok_visa"),
        (9, "spoon", 5, "no token"),
    ] {
        ask("POST", "/api/orders", order(number, sku, quantity, token));
    }
    ask("POST", "/api/orders", json!({"id": "x"}));
    ask("", "", Json::Null);
    for number in 1..=9 {
        for path in ["", "/payments", "/shipment"] {
            ask("GET", &format!("/api/orders/{}{path}", identity(number)), Json::Null);
        }
    }
    for sku in ["mug", "kettle", "spoon"] {
        ask("GET", &format!("/api/stock/{sku}"), Json::Null);
    }
    ask("GET", "/api/users/ada/orders", Json::Null);
    ask("GET", "/api/users/ada/notifications", Json::Null);
    steps
}

/// A way to run the shop, and what happens to it on purpose.
#[derive(Debug, Clone, Copy)]
struct Way {
    arrangement: Arrangement,
    /// Whether every call and every event happens twice.
    twice: bool,
    /// The seed of the order of events, as far as none is promised.
    disorder: Option<u64>,
    /// The nodes that are started twice.
    replicas: &'static [&'static str],
    /// Whether several processes have the same module, or it is to be compared with such a way.
    has_rivals: bool,
}

impl From<Arrangement> for Way {
    fn from(arrangement: Arrangement) -> Self {
        Self { arrangement, twice: false, disorder: None, replicas: &[], has_rivals: false }
    }
}

impl Way {
    /// The shop's config. All its contracts promise that calls may be repeated.
    fn config(self) -> String {
        let functions: Vec<_> = FUNCTIONS.iter().map(|function| format!("shop:{function}")).collect();
        with_shared_cache(&format!("{}\nidempotent = {functions:?}\n", shop_config(self.arrangement)))
    }

    /// What happens to the node at a place: their clocks are apart.
    fn drill(self, place: usize) -> Drill {
        let clock = Clock::system();
        clock.jump(place as i64 * CLOCKS_APART);
        Drill { clock, twice: self.twice, disorder: self.disorder.map(Disorder::of), ..Drill::default() }
    }

    /// Whether the order of what is answered at a path may differ.
    fn permits(self, path: &str) -> bool {
        let is_meant = |permitted| permitted == Permitted::Everywhere || self.has_rivals;
        PERMITTED.iter().any(|(at, permitted, _)| *at == path && is_meant(*permitted))
    }

    /// Starts the nodes; a second replica has a folder of its own.
    fn start(self, application: &Application, second: &Application) -> Nodes {
        let names = self.arrangement.names();
        let replicas = names.iter().filter(|name| name.is_some_and(|name| self.replicas.contains(&name)));
        let configs = names.iter().map(|name| application.load_for(*name));
        let configs = configs.chain(replicas.map(|name| second.load_for(*name)));
        Nodes::start_each(
            self.arrangement,
            configs.enumerate().map(|(place, config)| (config, self.drill(place))),
        )
    }

    /// Has every inbox keep what its events carry from now on.
    fn keep_contents(self, application: &Application, nodes: &Nodes) {
        if self.arrangement.database == Store::Postgres {
            let text = std::fs::read_to_string(application.config()).unwrap();
            let url = text.split_once("url = \"").unwrap().1.split_once('"').unwrap().0;
            let keep = MODULES.map(|module| {
                format!(
                    "CREATE TRIGGER kept BEFORE UPDATE ON cleave${module}.cleave_inbox \
                     FOR EACH ROW EXECUTE FUNCTION kept();"
                )
            });
            let keep = format!("{KEEP_IN_POSTGRES}{}", keep.concat());
            postgres::shared().say(url.rsplit_once('/').unwrap().1, &keep);
            return;
        }
        for module in MODULES {
            nodes.block_on(async {
                let deadline = Instant::now() + PATIENCE;
                let mut keeping = database(nodes, module).begin_host(deadline).await.unwrap();
                keeping.host_execute(KEEP_IN_SQLITE, &[]).await.unwrap();
                keeping.commit().await.unwrap();
            });
        }
    }
}

/// Asks the shop everything, and tells what can be told of it then.
fn told(way: Way) -> String {
    let (application, second) = (Application::new(&way.config()), Application::new(""));
    second.write(&std::fs::read_to_string(application.config()).unwrap());
    let nodes = way.start(&application, &second);
    way.keep_contents(&application, &nodes);
    let mut told = Vec::new();
    for steps in script().split(waits) {
        told.extend(answers(way, &nodes, steps));
        settle(&nodes);
    }
    told.extend(data(&nodes));
    nodes.end();
    as_first_seen(&told)
}

fn waits((method, ..): &Step) -> bool {
    method.is_empty()
}

/// What the shop answers to steps. What comes in an order that may differ is put in one.
fn answers(way: Way, shop: &HttpServer, steps: &[Step]) -> Vec<Json> {
    let answer = |(method, path, body): &Step| {
        let answer = ask(shop, method, path, body);
        let mut json = serde_json::from_str(&answer.body).unwrap_or(Json::Null);
        if let (true, Json::Array(all)) = (way.permits(path), &mut json) {
            all.sort_by_key(|one| ["order_id", "kind", "id"].map(|field| one[field].to_string()));
        }
        json!({"asked": format!("{method} {path}"), "status": answer.status, "body": json})
    };
    steps.iter().map(answer).collect()
}

/// What the modules keep, and the log of their events with what they carried.
fn data(nodes: &Nodes) -> Vec<Json> {
    assert_nothing_is_left_out(nodes);
    let table = |(module, table, order): (&str, &str, &str)| {
        let rows = rows(nodes, module, &format!("SELECT * FROM {table} ORDER BY {order}"));
        json!({"table": format!("{module}.{table}"), "rows": rows})
    };
    let log = |module: &str| {
        let log = "SELECT publisher, function, event, event_key, payload, state, attempts, failures, error \
                   FROM cleave_inbox ORDER BY publisher, event_key, function, position";
        json!({"handled by": module, "events": rows(nodes, module, log)})
    };
    TABLES.into_iter().map(table).chain(MODULES.into_iter().map(log)).collect()
}

/// Every module is compared, and every table that its database has but for the host's own.
#[track_caller]
fn assert_nothing_is_left_out(nodes: &Nodes) {
    let modules = &nodes.hosts()[0].application.modules;
    let modules: BTreeSet<_> = modules.iter().map(|module| module.name.as_str()).collect();
    assert_eq!(modules, BTreeSet::from(MODULES));
    for module in MODULES {
        let tables = match database(nodes, module).is_shared() {
            true => "SELECT CAST(tablename AS TEXT) FROM pg_tables WHERE schemaname = current_schema()",
            false => "SELECT name FROM sqlite_schema WHERE type = 'table'",
        };
        let tables = rows(nodes, module, tables);
        let tables = tables.as_array().unwrap().iter().map(|row| row[0].as_str().unwrap());
        let tables = tables.filter(|name| !name.starts_with("cleave_") && !name.starts_with("sqlite_"));
        let compared = TABLES.iter().filter(|(of, ..)| *of == module).map(|(_, table, _)| *table);
        let (tables, compared): (BTreeSet<_>, BTreeSet<_>) = (tables.collect(), compared.collect());
        assert_eq!(tables, compared, "the tables of `{module}`");
    }
}

fn ask(shop: &HttpServer, method: &str, path: &str, body: &Json) -> cleave_tests::Answer {
    match method {
        "GET" => shop.get(path),
        "PUT" => shop.put(path, &body.to_string()),
        _ => shop.post(path, &body.to_string()),
    }
}

/// Waits until no event is on its way, and none of them is dead.
fn settle(nodes: &Nodes) {
    let hosts: Vec<&Host> = nodes.hosts().iter().collect();
    let dead = nodes.block_on(settled_all(&hosts));
    assert!(dead.is_empty(), "{dead:?}");
}

/// The database of a module, wherever it is.
fn database(nodes: &Nodes, module: &str) -> Database {
    let found = nodes.hosts().iter().find_map(|host| host.database(module));
    found.unwrap_or_else(|| panic!("no node has the data of `{module}`"))
}

/// The rows that a module's database gives.
fn rows(nodes: &Nodes, module: &str, statement: &str) -> Json {
    let deadline = Instant::now() + PATIENCE;
    let rows = nodes.block_on(database(nodes, module).host_query(statement, &[], deadline)).unwrap();
    let value = |value: Value| match value {
        Value::Null => Json::Null,
        Value::Boolean(boolean) => json!(boolean),
        Value::Integer(number) => json!(number),
        Value::Real(number) => json!(number),
        Value::Text(text) => json!(text),
        Value::Blob(bytes) => json!(bytes),
    };
    rows.rows.into_iter().map(|row| row.into_iter().map(value).collect::<Json>()).collect()
}

/// What was told, as a text in which identities that were chosen by chance, and times, are numbered as they first appear.
fn as_first_seen(told: &[Json]) -> String {
    let text = serde_json::to_string_pretty(told).unwrap();
    let is_part = |c: char| c.is_ascii_hexdigit() || c == '-';
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find(is_part) {
        let word = &rest[start..];
        let word = &word[..word.find(|c| !is_part(c)).unwrap_or(word.len())];
        plain += &rest[..start];
        let is_time = word.len() == 13 && word.bytes().all(|b| b.is_ascii_digit());
        let is_chance = (word.len() == 36 && word.split('-').count() == 5) || word.len() == 32;
        if is_time {
            plain += "TIME";
        } else if is_chance && !word.starts_with("0c2d2e9e-0000") && word != ADA {
            let next = seen.len();
            plain += &format!("#{}", seen.entry(word.to_owned()).or_insert(next));
        } else {
            plain += word;
        }
        rest = &rest[start + word.len()..];
    }
    plain + rest
}

/// The first lines in which two texts differ, in their surroundings.
fn difference(one: &str, other: &str) -> Option<String> {
    let place = one.lines().zip(other.lines()).position(|(a, b)| a != b);
    let place = place
        .or_else(|| (one.len() != other.len()).then(|| one.lines().count().min(other.lines().count())))?;
    let around = |text: &str| {
        let lines: Vec<_> = text.lines().skip(place.saturating_sub(12)).take(18).collect();
        lines.join("\n")
    };
    Some(format!("--- in one process\n{}\n--- here\n{}", around(one), around(other)))
}

fn one_process() -> String {
    told(Arrangement::pooled(Route::Local, Some(4)).into())
}

/// The seven modules on two nodes, as the bits of a number say.
fn cut(number: u32) -> &'static [Node] {
    let on = |bit: u32| {
        let modules = MODULES.iter().enumerate();
        let modules =
            modules.filter(move |(place, _)| (number << 1 >> place) & 1 == bit).map(|(_, name)| *name);
        &*modules.collect::<Vec<_>>().leak()
    };
    vec![("front", on(0)), ("back", on(1))].leak()
}

#[track_caller]
fn assert_same(expected: &str, way: impl Into<Way>) {
    let way = way.into();
    if let Some(difference) = difference(expected, &told(way)) {
        panic!("{way:?}\n{difference}");
    }
}

#[test]
fn every_route_and_a_node_for_each_module_mean_the_same() {
    let expected = one_process();
    for route in [Route::Local, Route::Loopback, Route::Remote] {
        assert_same(&expected, Arrangement::pooled(route, Some(1)));
        assert_same(&expected, Arrangement::fresh(route));
    }
    assert_same(&expected, Arrangement::pooled(Route::Local, Some(1)).on(&EIGHT_NODES));
    assert_same(&expected, Arrangement::pooled(Route::Remote, Some(4)).on(&EIGHT_NODES));
}

#[test]
fn every_cut_into_two_nodes_means_the_same() {
    let expected = one_process();
    for number in 1..=CUTS {
        let pool = if number % 2 == 0 { 1 } else { 4 };
        assert_same(&expected, Arrangement::pooled(Route::Local, Some(pool)).on(cut(number)));
    }
}

/// Numbers that a seed chooses, by xorshift64*.
struct Chance(u64);

impl Chance {
    fn of(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}

/// The seven modules in PostgreSQL on some of four nodes, each on one or two, and nodes that are started twice. On some of
/// them everything happens twice, or in another order.
fn placed_by(seed: u64) -> Way {
    let mut chance = Chance::of(seed);
    let mut placed: [Vec<&'static str>; 4] = Default::default();
    for module in MODULES {
        for _ in 0..=chance.below(2) {
            let node = &mut placed[chance.below(4)];
            if !node.contains(&module) {
                node.push(module);
            }
        }
    }
    let names = ["front", "one", "two", "three"];
    let nodes = names.into_iter().zip(placed).map(|(name, modules)| (name, &*modules.leak()));
    let nodes = nodes.filter(|(name, modules)| *name == "front" || !modules.is_empty()).collect::<Vec<_>>();
    let replicas: Vec<_> = nodes.iter().map(|(name, _)| *name).filter(|_| chance.below(3) == 0).collect();
    let route = [Route::Local, Route::Loopback, Route::Remote][chance.below(3)];
    let pool = [1, 4][chance.below(2)];
    let arrangement = Arrangement::pooled(route, Some(pool)).in_postgres().on(nodes.leak());
    let (twice, is_disordered) = (chance.below(2) == 0, chance.below(2) == 0);
    let disorder = is_disordered.then_some(seed);
    Way { replicas: replicas.leak(), twice, disorder, has_rivals: true, ..arrangement.into() }
}

#[test]
fn placements_by_chance_with_replicas_mean_the_same() {
    let in_postgres = Way::from(Arrangement::pooled(Route::Local, Some(4)).in_postgres());
    assert_same(&one_process(), in_postgres);
    let expected = told(Way { has_rivals: true, ..Arrangement::pooled(Route::Local, Some(4)).into() });
    for seed in SEEDS {
        assert_same(&expected, placed_by(seed));
    }
    let is_all = |way: &Way| !way.replicas.is_empty() && way.twice && way.disorder.is_some();
    assert!({ SEEDS }.any(|seed| is_all(&placed_by(seed))));
}

#[test]
fn what_happens_twice_or_in_another_order_means_the_same() {
    let expected = one_process();
    let ways = [
        Arrangement::pooled(Route::Local, Some(4)),
        Arrangement::fresh(Route::Loopback).on(&TWO_NODES),
        Arrangement::pooled(Route::Local, Some(1)).on(&EIGHT_NODES),
        Arrangement::pooled(Route::Local, Some(4)).on(&TWO_NODES).in_postgres(),
    ];
    for (arrangement, seed) in ways.into_iter().zip(DISORDERS) {
        let way = Way::from(arrangement);
        assert_same(&expected, Way { twice: true, ..way });
        assert_same(&expected, Way { disorder: Some(seed), ..way });
        assert_same(&expected, Way { twice: true, disorder: Some(seed), ..way });
    }
}

#[test]
fn processes_mean_the_same() {
    let way = Way::from(Arrangement::pooled(Route::Local, Some(4)).on(&EIGHT_NODES));
    let application = Application::new(&way.config());
    let names = EIGHT_NODES.map(|(name, _)| name);
    let (mut told, mut calls, mut kept) = (Vec::new(), 0, Vec::new());
    let nodes = way.start(&application, &application);
    way.keep_contents(&application, &nodes);
    nodes.drain();
    for steps in script().split(waits) {
        // The first serves HTTP, and so comes last and goes first.
        let mut processes: Vec<_> = names.iter().rev().map(|name| application.up_node(name)).collect();
        let front = processes.pop().unwrap();
        way.arrangement.assert_routes_of_process(&application, Some(names[0]));
        told.extend(answers(way, &front, steps));
        calls += way.arrangement.assert_routes_of_process(&application, Some(names[0]));
        assert!(front.stop().success());
        processes.into_iter().for_each(|process| assert!(process.stop().success()));
        // What is still on its way comes to its end where it can be looked at.
        let nodes = way.start(&application, &application);
        settle(&nodes);
        kept = data(&nodes);
        nodes.drain();
    }
    assert!(calls > 0);
    told.extend(kept);
    assert_eq!(difference(&one_process(), &as_first_seen(&told)), None);
}

#[test]
fn what_differs_is_found() {
    let expected = one_process();
    assert_eq!(difference(&expected, &expected), None);
    for (what, instead) in [
        ("\"status\": 402", "\"status\": 409"),
        ("\"charged\"", "\"voided\""),
        ("#1", "#2"),
        // What an event carried, which is a text of JSON.
        ("\\\"total_cents\\\":2500", "\\\"total_cents\\\":2501"),
    ] {
        let other = expected.replacen(what, instead, 1);
        assert!(difference(&expected, &other).is_some_and(|text| text.contains(instead)), "{what}");
    }
    let cuts: BTreeSet<_> = (1..=CUTS).map(|number| format!("{:?}", cut(number))).collect();
    assert_eq!(cuts.len(), CUTS as usize);
    assert!(cuts.iter().all(|cut| !cut.contains("[]")), "{cuts:?}");
}
