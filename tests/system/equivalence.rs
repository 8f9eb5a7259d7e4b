//! One meaning, wherever the program is cut: the shop is asked the same under every placement, and everything that can be
//! told of it afterwards, every answer, row and event, is compared with what it is in one process.
//!
//! What is chosen by chance or by the clock (identities, times) is written as when it first appears. Everything else that
//! may differ stands in [`PERMITTED`], with the reason; any other difference fails.

use crate::events::settled_all;
use cleave_bus::route::Route;
use cleave_host::data::Value;
use cleave_host::host::Host;
use cleave_tests::{Application, Arrangement, EIGHT_NODES, HttpServer, Node, Nodes, PATIENCE};
use serde_json::{Value as Json, json};
use std::collections::HashMap;
use std::time::Instant;

/// The modules, in an order that a number chooses from: bit `n` is the node of the `n`th.
const MODULES: [&str; 7] =
    ["users", "catalog", "payments", "orders", "inventory", "shipping", "notifications"];
/// The ways to cut seven modules into two nodes, both of which have some: the first module stays where it is.
const CUTS: u32 = 63;
/// The seeds of placements by chance.
const SEEDS: std::ops::Range<u64> = 1..11;
/// How far the clocks of databases are apart from node to node, in milliseconds.
const CLOCKS_APART: i64 = 17_000;

/// What may differ from placement to placement: where it stands, and why.
const PERMITTED: [(&str, &str); 1] = [(
    "/api/users/ada/notifications",
    "the order of what a user is told: the order of events is promised for each publisher and key, and an order's two \
     notifications come from two publishers",
)];

/// The tables of a module, each with what its rows are ordered by.
const TABLES: [(&str, &str, &str); 10] = [
    ("users", "users", "id"),
    ("catalog", "products", "sku"),
    ("inventory", "stock", "sku"),
    ("inventory", "reservations", "order_id"),
    ("inventory", "reservation_lines", "order_id, sku"),
    ("payments", "charges", "order_id"),
    ("orders", "orders", "id"),
    ("orders", "order_lines", "order_id, number"),
    ("shipping", "shipments", "order_id"),
    ("notifications", "notifications", "order_id, kind"),
];

const ADA: &str = "3b1f0f0e-0000-4000-8000-00000000ada0";

fn order(number: u32, sku: &str, quantity: u32, token: &str) -> Json {
    let id = identity(number);
    json!({"id": id, "user_id": "ada", "lines": [{"sku": sku, "quantity": quantity}], "payment_token": token})
}

fn identity(number: u32) -> String {
    format!("0c2d2e9e-0000-4000-8000-{number:012}")
}

/// What is asked, in its order. A step without a method waits until everything that follows from those before is done.
fn script() -> Vec<(&'static str, String, Json)> {
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

/// Asks the shop everything, and tells what can be told of it then.
fn told(arrangement: Arrangement) -> String {
    let application = Application::shop(arrangement);
    let nodes = Nodes::start_apart(&application, arrangement, CLOCKS_APART);
    let mut told = Vec::new();
    for (method, path, body) in script() {
        if method.is_empty() {
            settle(&nodes);
            continue;
        }
        let answer = ask(&nodes, method, &path, &body);
        let mut json = serde_json::from_str(&answer.body).unwrap_or(Json::Null);
        if let (true, Json::Array(all)) = (PERMITTED.iter().any(|(at, _)| *at == path), &mut json) {
            all.sort_by_key(|one| (one["order_id"].to_string(), one["kind"].to_string()));
        }
        told.push(json!({"asked": format!("{method} {path}"), "status": answer.status, "body": json}));
    }
    settle(&nodes);
    for (module, table, order) in TABLES {
        let rows = rows(&nodes, module, &format!("SELECT * FROM {table} ORDER BY {order}"));
        told.push(json!({"table": format!("{module}.{table}"), "rows": rows}));
    }
    for module in MODULES {
        let log = "SELECT publisher, function, event, event_key, payload, state, attempts, failures, error \
                   FROM cleave_inbox ORDER BY publisher, event_key, function, position";
        told.push(json!({"handled by": module, "events": rows(&nodes, module, log)}));
    }
    nodes.end();
    as_first_seen(&serde_json::to_string_pretty(&told).unwrap())
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

/// The rows of a table of a module, wherever it is.
fn rows(nodes: &Nodes, module: &str, statement: &str) -> Json {
    let Some(database) = nodes.hosts().iter().find_map(|host| host.database(module)) else {
        return json!([]);
    };
    let rows = nodes.block_on(database.host_query(statement, &[], Instant::now() + PATIENCE)).unwrap();
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

/// A text in which identities that were chosen by chance, and times, are numbered as they first appear.
fn as_first_seen(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_hexdigit() || c == '-';
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut plain = String::new();
    let mut rest = text;
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
    told(Arrangement::pooled(Route::Local, Some(4)))
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
fn assert_same(expected: &str, arrangement: Arrangement) {
    if let Some(difference) = difference(expected, &told(arrangement)) {
        panic!("{arrangement:?}\n{difference}");
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

/// The seven modules on some of four nodes, as a seed says.
fn placed_by(seed: u64) -> &'static [Node] {
    let mut chance = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut placed: [Vec<&'static str>; 4] = Default::default();
    for module in MODULES {
        // A step of xorshift64*.
        chance ^= chance >> 12;
        chance ^= chance << 25;
        chance ^= chance >> 27;
        placed[(chance.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 62) as usize].push(module);
    }
    let names = ["front", "one", "two", "three"];
    let nodes = names.into_iter().zip(placed).map(|(name, modules)| (name, &*modules.leak()));
    nodes.filter(|(name, modules)| *name == "front" || !modules.is_empty()).collect::<Vec<_>>().leak()
}

#[test]
fn placements_by_chance_mean_the_same() {
    let expected = one_process();
    for seed in SEEDS {
        let route = [Route::Local, Route::Loopback, Route::Remote][seed as usize % 3];
        assert_same(&expected, Arrangement::pooled(route, Some(4)).on(placed_by(seed)));
    }
}

#[test]
fn what_differs_is_found() {
    let expected = one_process();
    assert_eq!(difference(&expected, &expected), None);
    for (what, instead) in
        [("\"status\": 402", "\"status\": 409"), ("\"charged\"", "\"voided\""), ("#1", "#2")]
    {
        let other = expected.replacen(what, instead, 1);
        assert!(difference(&expected, &other).is_some_and(|text| text.contains(instead)), "{what}");
    }
    let cuts: std::collections::BTreeSet<_> = (1..=CUTS).map(|number| format!("{:?}", cut(number))).collect();
    assert_eq!(cuts.len(), CUTS as usize);
    assert!(cuts.iter().all(|cut| !cut.contains("[]")), "{cuts:?}");
}
