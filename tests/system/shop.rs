//! The shop over HTTP: the same requests have the same answers under every arrangement, and survive a restart.

use cleave_tests::{ARRANGEMENTS, Answer, Application, PATIENCE, Process};
use serde_json::{Value as Json, json};
use std::time::Instant;

const MUG: &str = r#"{"name":"Mug","price_cents":1250,"description":"Stoneware"}"#;

/// Runs a scenario on the real binary under each arrangement.
fn everywhere(scenario: impl Fn(&Process)) {
    for arrangement in ARRANGEMENTS {
        eprintln!("{arrangement:?}");
        let shop = Application::shop(arrangement).up_and_kept();
        scenario(&shop.1);
    }
}

trait UpAndKept {
    fn up_and_kept(self) -> (Application, Process);
}

impl UpAndKept for Application {
    /// Starts the application; its folder lives as long as the process.
    fn up_and_kept(self) -> (Application, Process) {
        let process = self.up();
        (self, process)
    }
}

/// Puts mugs into the catalog and this many onto the shelf.
fn stock_mugs(shop: &Process, available: u32) {
    shop.put("/api/products/mug", MUG).expect(200);
    shop.put("/api/stock/mug", &format!(r#"{{"available":{available}}}"#)).expect(200);
}

/// A request for some mugs.
fn mugs(id: &str, quantity: u32, token: &str) -> String {
    json!({"id": id, "user_id": "ada", "lines": [{"sku": "mug", "quantity": quantity}], "payment_token": token})
        .to_string()
}

/// Asks until the answer is the one that is waited for.
#[track_caller]
fn until(shop: &Process, path: &str, is_it: impl Fn(&Answer) -> bool) -> Json {
    let began = Instant::now();
    loop {
        let answer = shop.get(path);
        if is_it(&answer) {
            return answer.expect(200);
        }
        assert!(began.elapsed() < PATIENCE, "{path} stays {answer:?}");
        std::thread::yield_now();
    }
}

fn stock(available: u32, reserved: u32, sold: u32) -> Json {
    json!({"sku": "mug", "available": available, "reserved": reserved, "sold": sold})
}

const ID: &str = "0c2d2e9e-8f0e-4a9c-9a4e-0f5d8a3b6c71";

#[test]
fn product_is_put_and_read() {
    everywhere(|shop| {
        let product = json!({"sku": "mug", "name": "Mug", "price_cents": 1250, "description": "Stoneware"});
        assert_eq!(shop.put("/api/products/mug", MUG).expect(200), product);
        assert_eq!(shop.get("/api/products/mug").expect(200), product);
        assert_eq!(shop.get("/api/products").expect(200), json!([product]));
        shop.get("/api/products/nothing").expect_problem(404, "");
    });
}

#[test]
fn order_is_charged_and_shipped_once() {
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
        let charge = json!([{"order_id": ID, "amount_cents": 3750, "status": "charged"}]);
        assert_eq!(shop.get(&format!("/api/orders/{ID}/payments")).expect(200), charge);
        // The event reaches both of its subscribers.
        let shipment = until(shop, &format!("/api/orders/{ID}/shipment"), |answer| answer.status == 200);
        assert_eq!(shipment["order_id"], ID);
        assert_eq!(shipment["lines"], json!([{"sku": "mug", "quantity": 3}]));
        until(shop, "/api/stock/mug", |answer| answer.json() == stock(7, 0, 3));
        // A later price does not change an order that stands.
        shop.put("/api/products/mug", &MUG.replace("1250", "9999")).expect(200);
        assert_eq!(shop.get(&format!("/api/orders/{ID}")).expect(200), order);
    });
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
        shop.post("/api/orders", &mugs(ID, 2, "tok_ok")).expect_problem(409, "");
        shop.post("/api/orders", &mugs(ID, 1, "tok_other")).expect_problem(409, "");
        assert_eq!(shop.get("/api/users/ada/orders").expect(200), json!([first]));
        let charges = shop.get(&format!("/api/orders/{ID}/payments")).expect(200);
        assert_eq!(charges.as_array().unwrap().len(), 1);
        until(shop, "/api/stock/mug", |answer| answer.json() == stock(9, 0, 1));
    });
}

#[test]
fn declined_card_gives_the_stock_back() {
    everywhere(|shop| {
        stock_mugs(shop, 10);
        shop.post("/api/orders", &mugs(ID, 4, "tok_declined_gold")).expect_problem(402, "declined");
        until(shop, &format!("/api/orders/{ID}"), |answer| answer.json()["status"] == "rejected");
        assert_eq!(shop.get("/api/stock/mug").expect(200), stock(10, 0, 0));
        assert_eq!(shop.get(&format!("/api/orders/{ID}/payments")).expect(200)[0]["status"], "declined");
        shop.get(&format!("/api/orders/{ID}/shipment")).expect_problem(404, "");
    });
}

#[test]
fn order_beyond_the_stock_reserves_nothing() {
    everywhere(|shop| {
        stock_mugs(shop, 2);
        let problem = shop.post("/api/orders", &mugs(ID, 3, "tok_ok")).expect(409);
        assert_eq!((&problem["case"], &problem["payload"]), (&json!("out_of_stock"), &json!(["mug"])));
        until(shop, &format!("/api/orders/{ID}"), |answer| answer.json()["status"] == "rejected");
        assert_eq!(shop.get("/api/stock/mug").expect(200), stock(2, 0, 0));
        assert_eq!(shop.get(&format!("/api/orders/{ID}/payments")).expect(200), json!([]));
    });
}

#[test]
fn uncertain_charge_is_resumed_and_not_repeated() {
    let (_application, shop) = Application::shop(ARRANGEMENTS[0]).up_and_kept();
    stock_mugs(&shop, 10);
    let placed = shop.post("/api/orders", &mugs(ID, 1, "tok_uncertain")).expect(201);
    assert_eq!(placed["status"], "pending");
    until(&shop, &format!("/api/orders/{ID}"), |answer| answer.json()["status"] == "confirmed");
    let charges = shop.get(&format!("/api/orders/{ID}/payments")).expect(200);
    assert_eq!(charges, json!([{"order_id": ID, "amount_cents": 1250, "status": "charged"}]));
    until(&shop, "/api/stock/mug", |answer| answer.json() == stock(9, 0, 1));
}

#[test]
fn slow_card_delays_its_own_order_alone() {
    let (_application, shop) = Application::shop(ARRANGEMENTS[0]).up_and_kept();
    stock_mugs(&shop, 10);
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let answer = shop.post("/api/orders", &mugs(ID, 1, "tok_slow"));
            (answer.expect(201)["status"].clone(), Instant::now())
        });
        let charges = format!("/api/orders/{ID}/payments");
        // The slow order stands before its card is charged.
        until(&shop, &format!("/api/orders/{ID}"), |answer| answer.status == 200);
        shop.post("/api/orders", &mugs(&ID.replace("71", "72"), 1, "tok_ok")).expect(201);
        let other_was_done = Instant::now();
        let (status, slow_was_done) = slow.join().unwrap();
        assert_eq!(status, "confirmed");
        assert!(other_was_done < slow_was_done);
        assert_eq!(shop.get(&charges).expect(200).as_array().unwrap().len(), 1);
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
fn clients_at_once_place_each_order_once() {
    everywhere(|shop| {
        stock_mugs(shop, 1_000);
        std::thread::scope(|scope| {
            for client in 0..16 {
                scope.spawn(move || {
                    for n in 0..8 {
                        let id = format!("00000000-0000-4000-8000-{client:06}{n:06}");
                        let body = mugs(&id, 1, "tok_ok").replace("ada", &format!("u{client}"));
                        shop.post("/api/orders", &body).expect(201);
                        shop.post("/api/orders", &body).expect(201);
                    }
                    let orders = shop.get(&format!("/api/users/u{client}/orders")).expect(200);
                    assert_eq!(orders.as_array().unwrap().len(), 8);
                });
            }
        });
        until(shop, "/api/stock/mug", |answer| answer.json() == stock(1_000 - 128, 0, 128));
    });
}

#[test]
fn data_outlives_the_process() {
    let (application, shop) = Application::shop(ARRANGEMENTS[0]).up_and_kept();
    stock_mugs(&shop, 10);
    let order = shop.post("/api/orders", &mugs(ID, 1, "tok_ok")).expect(201);
    assert!(shop.stop().success());
    let shop = application.up();
    assert_eq!(shop.get("/api/users/ada/orders").expect(200), json!([order]));
    shop.kill();
    let shop = application.up();
    assert_eq!(shop.get("/api/users/ada/orders").expect(200), json!([order]));
}
