//! The process ends at every step between a publish and the end of its handling; each order still has one effect.

use crate::events::{self, letters};
use cleave_host::failpoint::ALL;
use cleave_tests::{
    Application, Arrangement, ON_BOTH, PATIENCE, Process, request, shop_config, stderr, stdout,
    with_shared_cache,
};
use serde_json::{Value as Json, json};
use std::time::{Duration, Instant};

/// How long to rest between two looks.
const REST: Duration = Duration::from_millis(20);
/// The places that the shop does not come by: its events are part of a commit that writes more, and its handlers hold no
/// transaction of their own.
const NOT_IN_THE_SHOP: [&str; 2] = ["publish.committed", "handler.closed"];

#[test]
fn order_has_one_effect_wherever_the_process_ends() {
    // Three modules handle the event of an order and one that of its shipment, so the fourth time is often the last.
    for arrangement in ON_BOTH {
        for count in [1, 2, 4] {
            // Why at once: most of it is waiting for an order that its process left halfway.
            std::thread::scope(|scope| {
                for place in ALL.into_iter().filter(|place| !NOT_IN_THE_SHOP.contains(place)) {
                    let thread = std::thread::Builder::new().name(format!("{place}:{count}"));
                    thread.spawn_scoped(scope, move || ends_at(arrangement, place, count)).unwrap();
                }
            });
        }
    }
}

#[test]
fn letter_is_noted_once_wherever_the_process_ends() {
    for arrangement in ON_BOTH {
        ALL.into_iter().for_each(|place| letter_is_noted(arrangement, place));
    }
}

fn letter_is_noted(arrangement: Arrangement, place: &str) {
    eprintln!("{place}");
    let application = letters(arrangement, "", "");
    let mut first = application.up_without_http_to(place, 1);
    let arguments = ["test:letters/office.send", "\"ada\"", "\"begin note commit\""];
    let sent = application.run("call", &arguments);
    let (taken, ended) = (sent.status.success() && stdout(&sent).contains("ok"), first.ended());
    assert!(!ended.success(), "{place} was not reached");
    let second = application.up_without_http();
    let noted = || {
        let notes = application.run("call", &["test:letters/notes.all"]);
        assert!(notes.status.success(), "{}", stderr(&notes));
        serde_json::from_str::<Json>(&stdout(&notes)).unwrap().as_array().unwrap().len()
    };
    // Only what the publisher was not told of may never have been.
    if taken || place != "publish.enlisted" {
        until(&second, |_| noted() == 1);
    }
    assert!(second.stop().success());
    nothing_is_left(&application, &["postoffice", "reader"], place);
    let third = application.up_without_http();
    assert!(noted() <= 1, "{place}: noted twice");
    assert!(third.stop().success());
}

fn ends_at(arrangement: Arrangement, place: &str, count: u32) {
    // Why: an event that a process held when it ended waits until the lease runs out.
    let config = shop_config(arrangement) + "\n[events]\nlease = \"1s\"\n";
    let application = Application::new(&with_shared_cache(&config));
    let mut first = application.up_to(place, count);
    first.put("/api/products/mug", r#"{"name":"Mug","price_cents":1250,"description":""}"#).expect(200);
    first.put("/api/stock/mug", r#"{"available":10}"#).expect(200);
    // As many orders as would do for a place that each comes by once.
    let orders: Vec<Json> = (0..count).map(order).collect();
    let answers: Vec<Option<Json>> = orders.iter().map(|order| post(&first, order)).collect();
    let ended = first.ended();
    assert!(!ended.success(), "{place}:{count} was not reached");

    let second = application.up();
    for (order, answer) in orders.iter().zip(answers) {
        let id = order["id"].as_str().unwrap();
        if let Some(answer) = answer {
            assert_eq!(answer["status"], "confirmed");
            let stands = second.get(&format!("/api/orders/{id}"));
            assert_eq!(stands.expect(200), answer, "{place}:{count}: an acknowledged order was lost");
        } else {
            // The client asks again, as it would.
            until(&second, |shop| {
                let again = request(
                    &format!("{}/api/orders", shop.address),
                    "POST",
                    Some(order.to_string().as_bytes()),
                );
                again.status == 201 && again.json()["status"] == "confirmed"
            });
        }
        until(&second, |shop| shop.get(&format!("/api/orders/{id}/shipment")).status == 200);
        let charges = second.get(&format!("/api/orders/{id}/payments")).expect(200);
        let charged = json!([{"order_id": id, "amount_cents": 2500, "status": "charged"}]);
        assert_eq!(charges, charged, "{place}:{count}");
    }
    let sold = json!({"sku": "mug", "available": 10 - 2 * count, "reserved": 0, "sold": 2 * count});
    until(&second, |shop| shop.get("/api/stock/mug").expect(200) == sold);
    until(&second, |shop| told(shop).len() == 2 * orders.len());
    for order in &orders {
        let id = order["id"].as_str().unwrap().to_owned();
        for kind in ["order_placed", "shipment_created"] {
            assert!(
                told(&second).contains(&(id.clone(), kind.to_owned())),
                "{place}:{count}: {kind} of {id}"
            );
        }
    }
    assert!(second.stop().success());
    nothing_is_left(&application, &["orders", "inventory", "shipping", "notifications"], place);
}

/// An order for two mugs, with an identity of its own.
fn order(number: u32) -> Json {
    json!({"id": format!("0c2d2e9e-8f0e-4a9c-9a4e-{number:012}"), "user_id": "ada",
           "lines": [{"sku": "mug", "quantity": 2}], "payment_token": "tok_ok"})
}

/// Of which order, and what, the user was told.
fn told(shop: &Process) -> Vec<(String, String)> {
    let text = |json: &Json| json.as_str().unwrap().to_owned();
    let told = shop.get("/api/users/ada/notifications").expect(200);
    told.as_array().unwrap().iter().map(|told| (text(&told["order_id"]), text(&told["kind"]))).collect()
}

/// Places the order; no answer if the process ended first.
fn post(shop: &Process, order: &Json) -> Option<Json> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into();
    let sent = agent
        .post(format!("{}/api/orders", shop.address))
        .content_type("application/json")
        .send(order.to_string());
    let mut answer = sent.ok()?;
    let body = answer.body_mut().read_to_string().ok()?;
    (answer.status().as_u16() == 201).then(|| serde_json::from_str(&body).unwrap())
}

fn until(shop: &Process, is_so: impl Fn(&Process) -> bool) {
    let began = Instant::now();
    while !is_so(shop) {
        assert!(began.elapsed() < PATIENCE, "it does not become so:\n{}", shop.log());
        std::thread::sleep(REST);
    }
}

/// Looks into the databases of the application when it runs once more: nothing waits for long, and nothing is dead.
fn nothing_is_left(application: &Application, modules: &[&str], place: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let host = application.host().await;
        for module in modules {
            // What a killed process held in PostgreSQL it holds until its lease has run out.
            events::until(async || {
                let left = host.events(module).await.unwrap();
                if left.is_empty() { Ok(()) } else { Err(format!("{place}: {module}: {left:?}")) }
            })
            .await;
        }
        assert!(host.drain().await);
    });
}
