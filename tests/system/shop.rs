//! The shop over HTTP: the same requests have the same answers under every arrangement, and survive a restart.

use cleave_tests::{ARRANGEMENTS, Application, Process};
use serde_json::json;

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
fn order_takes_its_prices_from_the_catalog() {
    everywhere(|shop| {
        shop.put("/api/products/mug", MUG).expect(200);
        let placed = shop.post("/api/orders", r#"{"user_id":"ada","lines":[{"sku":"mug","quantity":3}]}"#);
        let order = placed.expect(201);
        assert_eq!(order["total_cents"], 3750);
        assert_eq!(order["lines"][0]["unit_price_cents"], 1250);
        let id = order["id"].as_str().unwrap();
        assert_eq!(placed.header("location"), format!("/api/orders/{id}"));
        assert_eq!(shop.get(&format!("/api/orders/{id}")).expect(200), order);
        assert_eq!(shop.get("/api/users/ada/orders").expect(200), json!([order]));
        // A later price does not change an order that stands.
        shop.put("/api/products/mug", &MUG.replace("1250", "9999")).expect(200);
        assert_eq!(shop.get(&format!("/api/orders/{id}")).expect(200), order);
    });
}

#[test]
fn same_order_again_is_the_same_order() {
    everywhere(|shop| {
        shop.put("/api/products/mug", MUG).expect(200);
        let id = "0c2d2e9e-8f0e-4a9c-9a4e-0f5d8a3b6c71";
        let order = |quantity: u32| {
            format!(r#"{{"id":"{id}","user_id":"ada","lines":[{{"sku":"mug","quantity":{quantity}}}]}}"#)
        };
        let first = shop.post("/api/orders", &order(1)).expect(201);
        assert_eq!(shop.post("/api/orders", &order(1)).expect(201), first);
        shop.post("/api/orders", &order(2)).expect_problem(409, "");
        assert_eq!(shop.get("/api/users/ada/orders").expect(200), json!([first]));
    });
}

#[test]
fn order_of_unknown_product_is_refused() {
    everywhere(|shop| {
        let answer =
            shop.post("/api/orders", r#"{"user_id":"ada","lines":[{"sku":"nothing","quantity":1}]}"#);
        let problem = answer.expect(422);
        assert_eq!(problem["case"], "unknown_products");
        assert_eq!(problem["payload"], json!(["nothing"]));
        assert_eq!(shop.get("/api/users/ada/orders").expect(200), json!([]));
    });
}

#[test]
fn clients_at_once_place_each_order_once() {
    everywhere(|shop| {
        shop.put("/api/products/mug", MUG).expect(200);
        std::thread::scope(|scope| {
            for client in 0..16 {
                scope.spawn(move || {
                    for n in 0..8 {
                        let id = format!("00000000-0000-4000-8000-{client:06}{n:06}");
                        let body = format!(
                            r#"{{"id":"{id}","user_id":"u{client}","lines":[{{"sku":"mug","quantity":1}}]}}"#
                        );
                        shop.post("/api/orders", &body).expect(201);
                        shop.post("/api/orders", &body).expect(201);
                    }
                    let orders = shop.get(&format!("/api/users/u{client}/orders")).expect(200);
                    assert_eq!(orders.as_array().unwrap().len(), 8);
                });
            }
        });
    });
}

#[test]
fn data_outlives_the_process() {
    let (application, shop) = Application::shop(ARRANGEMENTS[0]).up_and_kept();
    shop.put("/api/products/mug", MUG).expect(200);
    let order =
        shop.post("/api/orders", r#"{"user_id":"ada","lines":[{"sku":"mug","quantity":1}]}"#).expect(201);
    assert!(shop.stop().success());
    let shop = application.up();
    assert_eq!(shop.get("/api/users/ada/orders").expect(200), json!([order]));
    shop.kill();
    let shop = application.up();
    assert_eq!(shop.get("/api/users/ada/orders").expect(200), json!([order]));
}

#[test]
fn acknowledged_orders_survive_kill() {
    let (application, shop) = Application::shop(ARRANGEMENTS[0]).up_and_kept();
    shop.put("/api/products/mug", MUG).expect(200);
    let address = shop.address.clone();
    // Clients write what was acknowledged; the process is killed in the middle of their work.
    let acknowledged = std::sync::Mutex::new(Vec::new());
    let (enough, is_enough) = std::sync::mpsc::sync_channel(1_000_000);
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (address, acknowledged, enough) = (&address, &acknowledged, enough.clone());
            scope.spawn(move || {
                for n in 0..100_000 {
                    let id = format!("00000000-0000-4000-8000-{client:06}{n:06}");
                    let body =
                        format!(r#"{{"id":"{id}","user_id":"ada","lines":[{{"sku":"mug","quantity":1}}]}}"#);
                    let agent = ureq::Agent::new_with_defaults();
                    let sent = agent
                        .post(&format!("{address}/api/orders"))
                        .content_type("application/json")
                        .send(&body);
                    let Ok(answer) = sent else { return };
                    assert_eq!(answer.status().as_u16(), 201);
                    acknowledged.lock().unwrap().push(id);
                    let _ = enough.send(());
                }
            });
        }
        is_enough.iter().take(100).count();
        shop.kill();
    });
    let shop = application.up();
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(acknowledged.len() >= 100);
    for id in acknowledged {
        shop.get(&format!("/api/orders/{id}")).expect(200);
    }
}
