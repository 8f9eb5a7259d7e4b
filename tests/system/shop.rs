//! The shop over HTTP: every line of its API and of the checkout. The same requests have the same answers under every
//! arrangement, with fresh instances and with pools of one and of four, and survive a restart.

use cleave_tests::{
    ARRANGEMENTS, Answer, Application, Arrangement, Database, HttpServer, PATIENCE, Process,
    SHOP_ARRANGEMENTS, root, shop_config, stderr, stdout, with_shared_cache,
};
use serde_json::{Value as Json, json};
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) const MUG: &str = r#"{"name":"Mug","price_cents":1250,"description":"Stoneware"}"#;
pub(crate) const ID: &str = "0c2d2e9e-8f0e-4a9c-9a4e-0f5d8a3b6c71";
const OTHER_ID: &str = "0c2d2e9e-8f0e-4a9c-9a4e-0f5d8a3b6c72";
/// How the shop answers to an order that is not at its end.
const PENDING: u16 = 202;
/// How long to rest between two looks.
const REST: Duration = Duration::from_millis(10);
/// How often the shop resumes orders.
const EVERY: &str = "every = \"1s\"";
/// The migration after those that orders have.
const ALTER: &str = "003_alter.sql";
/// How many shops run at once: with many more, the slowest of them would miss deadlines.
const AT_ONCE: usize = 6;
/// How long the slow card takes.
const SLOW: Duration = Duration::from_secs(2);

/// Runs a scenario under each arrangement: as the real binary, or as nodes in this process.
fn everywhere(scenario: impl Fn(&HttpServer) + Sync) {
    under(&SHOP_ARRANGEMENTS, scenario);
}

/// Runs a scenario under each of these arrangements, some at once: much of a scenario is waiting.
fn under(arrangements: &[Arrangement], scenario: impl Fn(&HttpServer) + Sync) {
    for some in arrangements.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            for arrangement in some {
                // Why: the name of the thread is what says under which arrangement a scenario failed.
                let thread = std::thread::Builder::new().name(format!("{arrangement:?}"));
                let scenario = &scenario;
                thread
                    .spawn_scoped(scope, move || {
                        let application = Application::shop(*arrangement);
                        let shop = application.start(*arrangement);
                        scenario(&shop);
                        shop.end(&application);
                    })
                    .unwrap();
            }
        });
    }
}

/// Starts the shop; its folder lives as long as the application.
fn up(arrangement: Arrangement) -> (Application, Process) {
    let application = Application::shop(arrangement);
    let process = application.up();
    (application, process)
}

/// Puts mugs into the catalog and this many onto the shelf.
pub(crate) fn stock_mugs(shop: &HttpServer, available: u32) {
    shop.put("/api/products/mug", MUG).expect(200);
    shop.put("/api/stock/mug", &format!(r#"{{"available":{available}}}"#)).expect(200);
}

/// A request for some mugs.
pub(crate) fn mugs(id: &str, quantity: u32, token: &str) -> String {
    json!({"id": id, "user_id": "ada", "lines": [{"sku": "mug", "quantity": quantity}], "payment_token": token})
        .to_string()
}

/// Asks until the answer is the one that is waited for.
#[track_caller]
pub(crate) fn until(shop: &HttpServer, path: &str, is_it: impl Fn(&Answer) -> bool) -> Json {
    let began = Instant::now();
    loop {
        let answer = shop.get(path);
        if is_it(&answer) {
            return answer.expect(200);
        }
        assert!(began.elapsed() < PATIENCE, "{path} stays {answer:?}");
        std::thread::sleep(REST);
    }
}

/// Waits until an order has this status.
#[track_caller]
fn until_order(shop: &HttpServer, id: &str, status: &str) -> Json {
    until(shop, &format!("/api/orders/{id}"), |answer| answer.json()["status"] == status)
}

pub(crate) fn stock(available: u32, reserved: u32, sold: u32) -> Json {
    json!({"sku": "mug", "available": available, "reserved": reserved, "sold": sold})
}

/// Waits until the stock of mugs is this.
#[track_caller]
pub(crate) fn until_stock(shop: &HttpServer, stock: &Json) {
    until(shop, "/api/stock/mug", |answer| answer.json() == *stock);
}

pub(crate) fn payments(shop: &HttpServer, id: &str) -> Json {
    shop.get(&format!("/api/orders/{id}/payments")).expect(200)
}

pub(crate) fn payment(id: &str, amount_cents: u32, status: &str) -> Json {
    json!([{"order_id": id, "amount_cents": amount_cents, "status": status}])
}

/// What an order that is not confirmed has: no shipment, and nobody is told.
#[track_caller]
fn expect_nothing_of(shop: &HttpServer, id: &str) {
    shop.get(&format!("/api/orders/{id}/shipment")).expect_problem(404, "");
    assert_eq!(shop.get("/api/users/ada/notifications").expect(200), json!([]));
}

#[test]
fn product_is_put_and_read() {
    everywhere(|shop| {
        assert_eq!(shop.get("/api/products").expect(200), json!([]));
        let product = json!({"sku": "mug", "name": "Mug", "price_cents": 1250, "description": "Stoneware"});
        assert_eq!(shop.put("/api/products/mug", MUG).expect(200), product);
        assert_eq!(shop.get("/api/products/mug").expect(200), product);
        assert_eq!(shop.get("/api/products").expect(200), json!([product]));
        assert_eq!(shop.get("/api/products?after=mug&limit=1").expect(200), json!([]));
        shop.get("/api/products/nothing").expect_problem(404, "");
        shop.put("/api/products/mug", &MUG.replace("1250", "0")).expect_problem(422, "price");
        shop.get("/api/products?limit=101").expect_problem(422, "limit");
        assert_eq!(shop.get("/api/products/mug").expect(200), product);
    });
}

#[test]
fn stock_is_put_and_read() {
    everywhere(|shop| {
        shop.get("/api/stock/mug").expect_problem(404, "");
        assert_eq!(shop.put("/api/stock/mug", r#"{"available":10}"#).expect(200), stock(10, 0, 0));
        assert_eq!(shop.put("/api/stock/mug", r#"{"available":7}"#).expect(200), stock(7, 0, 0));
        assert_eq!(shop.get("/api/stock/mug").expect(200), stock(7, 0, 0));
        shop.put("/api/stock/a%20b", r#"{"available":7}"#).expect_problem(422, "sku");
    });
}

#[test]
fn user_is_written_once_and_read() {
    everywhere(|shop| {
        let ada = json!({"id": ID, "name": "Ada", "email": "ada@example.org"});
        let created = shop.post("/api/users", &ada.to_string());
        assert_eq!(created.expect(201), ada);
        assert_eq!(created.header("location"), format!("/api/users/{ID}"));
        assert_eq!(shop.get(&format!("/api/users/{ID}")).expect(200), ada);
        // The same again, in another spelling of the identity, is the same user; another is none.
        assert_eq!(shop.post("/api/users", &ada.to_string()).expect(201), ada);
        assert_eq!(
            shop.post("/api/users", &ada.to_string().replace(ID, &ID.to_uppercase())).expect(201),
            ada
        );
        shop.post("/api/users", &ada.to_string().replace("Ada", "Bob")).expect_problem(409, ID);
        assert_eq!(shop.get(&format!("/api/users/{ID}")).expect(200), ada);
        // Without an identity each is a new one, who may read mail at the same place.
        let body = r#"{"name":"Ada","email":"ada@example.org"}"#;
        let [first, second] = [0, 1].map(|_| shop.post("/api/users", body).expect(201));
        assert_ne!(first["id"], second["id"]);
        let path = format!("/api/users/{}", first["id"].as_str().unwrap());
        assert_eq!(shop.get(&path).expect(200), first);
        shop.get(&format!("/api/users/{OTHER_ID}")).expect_problem(404, "");
        shop.get("/api/users/ada").expect_problem(422, "id must be a UUID");
        shop.post("/api/users", r#"{"name":"","email":"a@b"}"#).expect_problem(422, "name");
        shop.post("/api/users", r#"{"name":"Ada","email":"a@b@c"}"#).expect_problem(422, "email");
        shop.post("/api/users", r#"{"id":"1","name":"Ada","email":"a@b"}"#).expect_problem(422, "id");
    });
}

#[test]
fn order_is_charged_shipped_and_told_once() {
    everywhere(|shop| {
        stock_mugs(shop, 10);
        let placed = shop.post("/api/orders", &mugs(ID, 3, "tok_ok"));
        let order = placed.expect(201);
        assert_eq!(
            order,
            json!({"id": ID, "user_id": "ada", "status": "confirmed", "total_cents": 3750,
                   "lines": [{"sku": "mug", "quantity": 3, "unit_price_cents": 1250}]})
        );
        assert_eq!(placed.header("location"), format!("/api/orders/{ID}"));
        assert_eq!(shop.get(&format!("/api/orders/{ID}")).expect(200), order);
        assert_eq!(shop.get("/api/users/ada/orders").expect(200), json!([order]));
        assert_eq!(payments(shop, ID), payment(ID, 3750, "charged"));
        // The events reach all of their subscribers.
        let shipment = until(shop, &format!("/api/orders/{ID}/shipment"), |answer| answer.status == 200);
        let lines = json!([{"sku": "mug", "quantity": 3}]);
        let id = &shipment["id"];
        assert_eq!(
            shipment,
            json!({"id": id, "order_id": ID, "user_id": "ada", "status": "created", "lines": lines})
        );
        until_stock(shop, &stock(7, 0, 3));
        expect_told(shop, id.as_str().unwrap());
        // A later price does not change an order that stands.
        shop.put("/api/products/mug", &MUG.replace("1250", "9999")).expect(200);
        assert_eq!(shop.get(&format!("/api/orders/{ID}")).expect(200), order);
    });
}

/// Expects that the user is told once that the order is confirmed, and once that it has this shipment.
pub(crate) fn expect_told(shop: &HttpServer, shipment: &str) {
    let both = |answer: &Answer| answer.json().as_array().unwrap().len() == 2;
    let mut told = until(shop, "/api/users/ada/notifications", both);
    let told = told.as_array_mut().unwrap();
    // Why: they come from two modules, so either may be the newer.
    told.sort_by_key(|told| told["kind"].to_string());
    let expected = [
        ("order_placed", format!("Order {ID} is confirmed: 3 pieces for 37.50.")),
        ("shipment_created", format!("Order {ID} is being packed as shipment {shipment}.")),
    ];
    for (told, (kind, text)) in told.iter().zip(expected) {
        let id = &told["id"];
        let expected = json!({"id": id, "user_id": "ada", "order_id": ID, "kind": kind, "text": text});
        assert_eq!(*told, expected);
        assert_eq!(id.as_str().unwrap().len(), ID.len());
    }
    assert_eq!(shop.get("/api/users/bob/notifications").expect(200), json!([]));
}

#[test]
fn order_gets_an_identity_if_it_has_none() {
    everywhere(|shop| {
        stock_mugs(shop, 10);
        let body = r#"{"user_id":"ada","lines":[{"sku":"mug","quantity":1}],"payment_token":"tok_ok"}"#;
        let first = shop.post("/api/orders", body).expect(201);
        let second = shop.post("/api/orders", body).expect(201);
        assert_ne!(first["id"], second["id"]);
        shop.get(&format!("/api/orders/{}", first["id"].as_str().unwrap())).expect(200);
    });
}

#[test]
fn same_order_again_is_the_same_order() {
    everywhere(|shop| {
        stock_mugs(shop, 10);
        let first = shop.post("/api/orders", &mugs(ID, 1, "tok_ok")).expect(201);
        assert_eq!(shop.post("/api/orders", &mugs(ID, 1, "tok_ok")).expect(201), first);
        shop.post("/api/orders", &mugs(ID, 2, "tok_ok")).expect_problem(409, ID);
        shop.post("/api/orders", &mugs(ID, 1, "tok_other")).expect_problem(409, ID);
        assert_eq!(shop.get("/api/users/ada/orders").expect(200), json!([first]));
        assert_eq!(payments(shop, ID), payment(ID, 1250, "charged"));
        until_stock(shop, &stock(9, 0, 1));
    });
}

#[test]
fn declined_card_gives_the_stock_back() {
    everywhere(|shop| {
        stock_mugs(shop, 10);
        let order = mugs(ID, 4, "tok_declined_gold");
        shop.post("/api/orders", &order).expect_problem(402, "declined");
        until_order(shop, ID, "rejected");
        assert_eq!(shop.get("/api/stock/mug").expect(200), stock(10, 0, 0));
        assert_eq!(payments(shop, ID), payment(ID, 5000, "declined"));
        shop.post("/api/orders", &order).expect_problem(402, "declined");
        expect_nothing_of(shop, ID);
    });
}

#[test]
fn order_beyond_the_stock_reserves_nothing() {
    everywhere(|shop| {
        stock_mugs(shop, 2);
        shop.put("/api/products/cup", MUG).expect(200);
        shop.put("/api/stock/cup", r#"{"available":9}"#).expect(200);
        let mut order: Json = serde_json::from_str(&mugs(ID, 3, "tok_ok")).unwrap();
        order["lines"].as_array_mut().unwrap().push(json!({"sku": "cup", "quantity": 1}));
        let problem = shop.post("/api/orders", &order.to_string()).expect(409);
        assert_eq!((&problem["case"], &problem["payload"]), (&json!("out_of_stock"), &json!(["mug"])));
        until_order(shop, ID, "rejected");
        assert_eq!(shop.get("/api/stock/mug").expect(200), stock(2, 0, 0));
        assert_eq!(shop.get("/api/stock/cup").expect(200)["available"], 9);
        assert_eq!(payments(shop, ID), json!([]));
        expect_nothing_of(shop, ID);
    });
}

#[test]
fn order_of_unknown_product_is_refused() {
    everywhere(|shop| {
        let body = mugs(ID, 1, "tok_ok").replace("mug", "nothing");
        let problem = shop.post("/api/orders", &body).expect(422);
        assert_eq!(problem["case"], "unknown_products");
        assert_eq!(problem["payload"], json!(["nothing"]));
        assert_eq!(shop.get("/api/users/ada/orders").expect(200), json!([]));
    });
}

#[test]
fn order_outside_its_limits_is_refused() {
    everywhere(|shop| {
        stock_mugs(shop, 10);
        for (body, detail) in [
            (mugs("1", 1, "tok_ok"), "id must be a UUID"),
            (mugs(ID, 0, "tok_ok"), "quantity"),
            (mugs(ID, 1, "visa"), "payment-token"),
            (mugs(ID, 1, "tok_ok").replace("ada", ""), "user-id"),
        ] {
            shop.post("/api/orders", &body).expect_problem(422, detail);
        }
        shop.get(&format!("/api/orders/{ID}")).expect_problem(404, "");
        shop.get("/api/orders/1").expect_problem(422, "id");
        shop.get("/api/orders/a%20b/payments").expect_problem(422, "order-id");
        shop.get("/api/orders/a%20b/shipment").expect_problem(422, "order-id");
        let user = "u".repeat(65);
        shop.get(&format!("/api/users/{user}/orders")).expect_problem(422, "user-id");
        shop.get(&format!("/api/users/{user}/notifications")).expect_problem(422, "user-id");
        expect_nothing_of(shop, ID);
        assert_eq!(shop.get("/api/stock/mug").expect(200), stock(10, 0, 0));
    });
}

#[test]
fn uncertain_charge_is_resumed_and_not_repeated() {
    everywhere(|shop| {
        stock_mugs(shop, 10);
        let placed = shop.post("/api/orders", &mugs(ID, 1, "tok_uncertain")).expect(PENDING);
        assert_eq!(placed["status"], "pending");
        until_order(shop, ID, "confirmed");
        assert_eq!(payments(shop, ID), payment(ID, 1250, "charged"));
        until_stock(shop, &stock(9, 0, 1));
    });
}

#[test]
fn slow_card_takes_its_time_and_is_charged() {
    everywhere(|shop| {
        stock_mugs(shop, 10);
        let began = Instant::now();
        let order = shop.post("/api/orders", &mugs(ID, 1, "tok_slow")).expect(201);
        assert!(began.elapsed() >= SLOW);
        assert_eq!(order["status"], "confirmed");
        assert_eq!(payments(shop, ID), payment(ID, 1250, "charged"));
    });
}

#[test]
fn slow_card_delays_its_own_order_alone() {
    let several: Vec<_> = SHOP_ARRANGEMENTS.into_iter().filter(|it| it.pool != Some(1)).collect();
    under(&several, |shop| {
        stock_mugs(shop, 10);
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| {
                let answer = shop.post("/api/orders", &mugs(ID, 1, "tok_slow"));
                (answer.expect(201)["status"].clone(), Instant::now())
            });
            // The slow order stands, and keeps its pieces, before its card is charged.
            until(shop, &format!("/api/orders/{ID}"), |answer| answer.status == 200);
            until_stock(shop, &stock(9, 1, 0));
            shop.post("/api/orders", &mugs(OTHER_ID, 1, "tok_ok")).expect(201);
            let other_was_done = Instant::now();
            let (status, slow_was_done) = slow.join().unwrap();
            assert_eq!(status, "confirmed");
            assert!(other_was_done < slow_was_done);
            assert_eq!(payments(shop, ID), payment(ID, 1250, "charged"));
        });
        until_stock(shop, &stock(8, 0, 2));
    });
}

/// A shop whose orders are resumed this often, and the folder of the migrations of orders: [`ALTER`] may be written there
/// before a start.
fn orders_may_be_altered(every: &str) -> (Application, PathBuf) {
    let application = Application::new("");
    let folder = application.folder.path().join("migrations");
    std::fs::create_dir(&folder).unwrap();
    let own = root().join("modules/orders/migrations");
    for migration in std::fs::read_dir(&own).unwrap() {
        let migration = migration.unwrap();
        std::fs::copy(migration.path(), folder.join(migration.file_name())).unwrap();
    }
    let config = shop_config(ARRANGEMENTS[0]);
    assert!(config.contains(EVERY), "{config}");
    let config = config
        .replace(&own.display().to_string(), &folder.display().to_string())
        .replace(EVERY, &format!("every = \"{every}\""));
    application.write(&with_shared_cache(&config));
    (application, folder)
}

#[test]
fn charge_without_an_answer_is_voided_in_the_end() {
    // Why: orders are taken up again only once they have waited long enough.
    let (application, migrations) = orders_may_be_altered("1h");
    let shop = application.up();
    stock_mugs(&shop, 10);
    for (id, token) in [(ID, "tok_silent"), (OTHER_ID, "tok_uncertain")] {
        assert_eq!(shop.post("/api/orders", &mugs(id, 2, token)).expect(PENDING)["status"], "pending");
    }
    assert_eq!(payments(&shop, ID), json!([]));
    assert_eq!(shop.get("/api/stock/mug").expect(200), stock(6, 4, 0));
    assert!(shop.stop().success());

    // A quarter of an hour goes by, in which each charge is put off as often as it may be.
    let waited =
        "UPDATE orders SET tries = 181, lease_until = 0 WHERE status = 'pending' AND step = 'charge';";
    std::fs::write(migrations.join(ALTER), waited).unwrap();
    let shop = application.up();
    // What was never charged is refused, and what was charged without a word is confirmed.
    shop.post("/api/orders", &mugs(ID, 2, "tok_silent")).expect_problem(402, "could not be completed");
    assert_eq!(shop.get(&format!("/api/orders/{ID}")).expect(200)["status"], "rejected");
    assert_eq!(payments(&shop, ID), payment(ID, 2500, "voided"));
    let confirmed = shop.post("/api/orders", &mugs(OTHER_ID, 2, "tok_uncertain")).expect(201);
    assert_eq!(confirmed["status"], "confirmed");
    assert_eq!(payments(&shop, OTHER_ID), payment(OTHER_ID, 2500, "charged"));
    until_stock(&shop, &stock(8, 0, 2));
    // The charge that comes too late is refused.
    let id = format!("\"{ID}\"");
    let late = application.run("call", &["shop:payments/charges.charge", &id, "2500", "\"tok_ok\""]);
    assert!(stdout(&late).contains("declined"), "{}{}", stdout(&late), stderr(&late));
    assert_eq!(payments(&shop, ID), payment(ID, 2500, "voided"));
}

#[test]
fn order_under_way_is_left_to_whoever_is_at_work_on_it() {
    let (application, migrations) = orders_may_be_altered("100ms");
    let shop = application.up();
    stock_mugs(&shop, 10);
    // Why: had the schedule taken it up meanwhile, the customer would not be told how it ends.
    let order = shop.post("/api/orders", &mugs(ID, 1, "tok_slow")).expect(201);
    assert_eq!(order["status"], "confirmed");
    assert!(shop.stop().success());
    // The start fails unless every order was taken up once.
    let taken_up_once = "CREATE TABLE leases (lease BIGINT NOT NULL CHECK (lease = 1));
                         INSERT INTO leases SELECT lease FROM orders;";
    std::fs::write(migrations.join(ALTER), taken_up_once).unwrap();
    let shop = application.up();
    assert_eq!(shop.get(&format!("/api/orders/{ID}")).expect(200), order);
}

/// What is quick ends first, though it has waited less than the slow charges, and though there are many of those.
#[test]
fn slow_charges_keep_no_other_order_from_its_end() {
    let (application, migrations) = orders_may_be_altered("1s");
    let shop = application.up();
    stock_mugs(&shop, 100);
    let slow: Vec<String> = (0..8).map(|n| format!("00000000-0000-4000-8000-{n:012}")).collect();
    let [to_release, to_reserve, .., last] = slow.as_slice() else { panic!("{slow:?}") };
    std::thread::scope(|scope| {
        let address = shop.address.clone();
        for id in &slow {
            let url = format!("{address}/api/orders");
            let order = ureq::post(url).content_type("application/json");
            scope.spawn(move || order.send(mugs(id, 1, "tok_slow")).err());
        }
        until_stock(&shop, &stock(100 - 8, 8, 0));
        shop.kill();
    });

    // The leases run out, last those of what is quick.
    let alter = format!(
        "UPDATE orders SET lease_until = 1, step = 'charge';
         UPDATE orders SET lease_until = 2, step = 'release', refusal = 'declined no' WHERE id = '{to_release}';
         UPDATE orders SET lease_until = 2, step = 'reserve', payment_token = 'tok_ok' WHERE id = '{to_reserve}';"
    );
    std::fs::write(migrations.join(ALTER), alter).unwrap();
    let shop = application.up();
    let pending = || {
        let status = |id: &&String| shop.get(&format!("/api/orders/{id}")).expect(200)["status"].clone();
        slow.iter().filter(|id| status(id) == "pending").count()
    };
    until_order(&shop, to_release, "rejected");
    assert!(pending() >= 5, "the release has waited for charges");
    // An order placed now, whose charge was made without a word, is not behind the others.
    shop.post("/api/orders", &mugs(ID, 1, "tok_uncertain")).expect(PENDING);
    until_order(&shop, ID, "confirmed");
    assert!(pending() >= 1, "the charge that was made has waited for those to be made");
    until(&shop, "/api/stock/mug", |answer| answer.json() == stock(100 - 8, 0, 8));
    for id in &slow[1..] {
        assert_eq!(payments(&shop, id), payment(id, 1250, "charged"));
    }
    until_order(&shop, last, "confirmed");
}

#[test]
fn lists_of_a_user_have_the_newest_first() {
    everywhere(|shop| {
        stock_mugs(shop, 10);
        let first = shop.post("/api/orders", &mugs(ID, 1, "tok_ok")).expect(201);
        let both = |answer: &Answer| answer.json().as_array().unwrap().len() == 2;
        until(shop, "/api/users/ada/notifications", both);
        let second = shop.post("/api/orders", &mugs(OTHER_ID, 2, "tok_ok")).expect(201);
        assert_eq!(shop.get("/api/users/ada/orders").expect(200), json!([second, first]));
        let all = |answer: &Answer| answer.json().as_array().unwrap().len() == 4;
        let told = until(shop, "/api/users/ada/notifications", all);
        let orders: Vec<&Json> = told.as_array().unwrap().iter().map(|told| &told["order_id"]).collect();
        assert_eq!(orders, [OTHER_ID, OTHER_ID, ID, ID]);
    });
}

#[test]
fn clients_at_once_place_each_order_once() {
    for (database, placed) in [(Database::Sqlite, &[201][..]), (Database::Postgres, &[201, PENDING])] {
        // In PostgreSQL clients who want the same mugs meet in conflicts, and an order may wait to be resumed.
        let arrangements: Vec<_> = SHOP_ARRANGEMENTS.into_iter().filter(|a| a.database == database).collect();
        clients_at_once(&arrangements, placed);
    }
}

fn clients_at_once(arrangements: &[Arrangement], placed: &[u16]) {
    under(arrangements, |shop| {
        stock_mugs(shop, 1_000);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| add_up(shop, 1_000, &done));
            // Why: if a client fails, nobody must add up for ever.
            let _done = Done(&done);
            std::thread::scope(|clients| {
                for client in 0..16 {
                    clients.spawn(move || order_twice(shop, client, placed));
                }
            });
        });
        until_stock(shop, &stock(1_000 - 128, 0, 128));
        for client in 0..16 {
            let all = |answer: &Answer| answer.json().as_array().unwrap().len() == 16;
            until(shop, &format!("/api/users/u{client}/notifications"), all);
        }
    });
}

#[test]
fn clients_at_once_under_one_identity_place_one_order() {
    everywhere(|shop| {
        const CLIENTS: usize = 12;
        stock_mugs(shop, 100);
        let start = Barrier::new(CLIENTS);
        let answers: Vec<(u32, Answer)> = std::thread::scope(|scope| {
            let start = &start;
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let quantity = if client % 2 == 0 { 1 } else { 2 };
                    scope.spawn(move || {
                        start.wait();
                        (quantity, shop.post("/api/orders", &mugs(ID, quantity, "tok_ok")))
                    })
                })
                .collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        let order = until_order(shop, ID, "confirmed");
        let ordered = order["lines"][0]["quantity"].as_u64().unwrap();
        for (quantity, answer) in answers {
            if u64::from(quantity) != ordered {
                answer.expect_problem(409, ID);
                continue;
            }
            // Who came second may have been told of it while it was under way.
            let mut told = answer.json();
            assert!(answer.status == 201 || told["status"] == "pending", "{answer:?}");
            told["status"] = json!("confirmed");
            assert_eq!(told, order);
        }
        assert_eq!(shop.get("/api/users/ada/orders").expect(200), json!([order]));
        let pieces = u32::try_from(ordered).unwrap();
        assert_eq!(payments(shop, ID), payment(ID, 1250 * pieces, "charged"));
        until_stock(shop, &stock(100 - pieces, 0, pieces));
    });
}

#[test]
fn identities_are_taken_in_lower_case_on_every_route() {
    everywhere(|shop| {
        stock_mugs(shop, 10);
        let (upper, user) = (ID.to_uppercase(), OTHER_ID.to_uppercase());
        let body = mugs(&upper, 1, "tok_ok").replace("ada", &user);
        let order = shop.post("/api/orders", &body).expect(201);
        assert_eq!((&order["id"], &order["user_id"]), (&json!(ID), &json!(OTHER_ID)));
        for (id, user) in [(ID, OTHER_ID), (&upper, &user)] {
            assert_eq!(shop.get(&format!("/api/orders/{id}")).expect(200), order);
            assert_eq!(payments(shop, id), payment(ID, 1250, "charged"));
            let shipment = until(shop, &format!("/api/orders/{id}/shipment"), |answer| answer.status == 200);
            assert_eq!((&shipment["order_id"], &shipment["user_id"]), (&json!(ID), &json!(OTHER_ID)));
            assert_eq!(shop.get(&format!("/api/users/{user}/orders")).expect(200), json!([order]));
            let both = |answer: &Answer| answer.json().as_array().unwrap().len() == 2;
            let told = until(shop, &format!("/api/users/{user}/notifications"), both);
            assert_eq!(told[0]["user_id"], OTHER_ID);
        }
        let account = json!({"id": user, "name": "Ada", "email": "a@b"});
        let account = shop.post("/api/users", &account.to_string()).expect(201);
        assert_eq!(shop.get(&format!("/api/users/{user}")).expect(200), account);
        // Any other name is taken as it is.
        assert_eq!(shop.get("/api/users/ADA/orders").expect(200), json!([]));
        let order = shop.post("/api/orders", &mugs(OTHER_ID, 1, "tok_ok").replace("ada", "Ada")).expect(201);
        assert_eq!(shop.get("/api/users/Ada/orders").expect(200), json!([order]));
        assert_eq!(shop.get("/api/users/ada/orders").expect(200), json!([]));
    });
}

#[test]
fn reservations_are_one_in_either_case() {
    let (application, shop) = up(ARRANGEMENTS[0]);
    stock_mugs(&shop, 10);
    let call = |function: &str, arguments: &[&str]| {
        let function = format!("shop:inventory/stock.{function}");
        let answer = application.run("call", &[&[function.as_str()], arguments].concat());
        assert!(answer.status.success(), "{}{}", stdout(&answer), stderr(&answer));
    };
    let (lower, upper) = (format!("\"{ID}\""), format!("\"{}\"", ID.to_uppercase()));
    let lines = r#"[{"sku":"mug","quantity":3}]"#;
    call("reserve", &[&upper, lines]);
    call("reserve", &[&lower, lines]);
    assert_eq!(shop.get("/api/stock/mug").expect(200), stock(7, 3, 0));
    call("release", &[&upper]);
    assert_eq!(shop.get("/api/stock/mug").expect(200), stock(10, 0, 0));
}

/// Says that something is done when it is dropped.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Places eight orders, each twice; each is answered by one of these.
fn order_twice(shop: &HttpServer, client: u32, placed: &[u16]) {
    for n in 0..8 {
        let id = format!("00000000-0000-4000-8000-{client:06}{n:06}");
        let body = mugs(&id, 1, "tok_ok").replace("ada", &format!("u{client}"));
        for _ in 0..2 {
            let answer = shop.post("/api/orders", &body);
            assert!(placed.contains(&answer.status), "{answer:?}");
        }
    }
    let orders = shop.get(&format!("/api/users/u{client}/orders")).expect(200);
    assert_eq!(orders.as_array().unwrap().len(), 8);
}

/// Asserts until it is done that available, reserved and sold pieces are those put in, whatever is under way.
fn add_up(shop: &HttpServer, put: u64, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let stock = shop.get("/api/stock/mug").expect(200);
        let pieces = ["available", "reserved", "sold"].map(|state| stock[state].as_u64().unwrap());
        assert_eq!(pieces.iter().sum::<u64>(), put, "{stock}");
    }
}

#[test]
fn data_outlives_the_process() {
    let (application, shop) = up(ARRANGEMENTS[0]);
    stock_mugs(&shop, 10);
    let user = shop.post("/api/users", r#"{"name":"Ada","email":"a@b"}"#).expect(201);
    let order = shop.post("/api/orders", &mugs(ID, 1, "tok_ok")).expect(201);
    let there = |shop: &HttpServer| {
        assert_eq!(shop.get("/api/users/ada/orders").expect(200), json!([order]));
        assert_eq!(shop.get(&format!("/api/users/{}", user["id"].as_str().unwrap())).expect(200), user);
    };
    assert!(shop.stop().success());
    let shop = application.up();
    there(&shop);
    shop.kill();
    there(&application.up());
}
