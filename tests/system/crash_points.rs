//! The process ends at every step between a publish and the end of its handling; each order still has one effect.

use crate::events::letters;
use cleave_host::failpoint::ALL;
use cleave_tests::{ARRANGEMENTS, Application, PATIENCE, Process, request, stderr, stdout};
use serde_json::{Value as Json, json};
use std::time::Instant;

const ID: &str = "0c2d2e9e-8f0e-4a9c-9a4e-0f5d8a3b6c71";

/// The places that the shop does not come by: its events are part of a commit that writes more, and its handlers hold no
/// transaction of their own.
const NOT_IN_THE_SHOP: [&str; 2] = ["publish.committed", "handler.closed"];

#[test]
fn order_has_one_effect_wherever_the_process_ends() {
    for place in ALL.into_iter().filter(|place| !NOT_IN_THE_SHOP.contains(place)) {
        // Two modules handle the event, so the process comes by most places twice.
        for count in [1, 2] {
            eprintln!("{place}:{count}");
            ends_at(place, count);
        }
    }
}

#[test]
fn letter_is_noted_once_wherever_the_process_ends() {
    for place in ALL {
        eprintln!("{place}");
        let application = letters(ARRANGEMENTS[0], "", "");
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
}

fn ends_at(place: &str, count: u32) {
    let application = Application::shop(ARRANGEMENTS[0]);
    let mut first = application.up_to(place, count);
    first.put("/api/products/mug", r#"{"name":"Mug","price_cents":1250,"description":""}"#).expect(200);
    first.put("/api/stock/mug", r#"{"available":10}"#).expect(200);
    let order = json!({"id": ID, "user_id": "ada", "lines": [{"sku": "mug", "quantity": 2}], "payment_token": "tok_ok"});
    let answered = post(&first, &order);
    if count == 2 && !reached_twice(place) {
        // A place that one order comes by once: a second order does.
        let other = json!({"id": ID.replace("71", "72"), "user_id": "ada",
                           "lines": [{"sku": "mug", "quantity": 2}], "payment_token": "tok_ok"});
        post(&first, &other);
    }
    let ended = first.ended();
    assert!(!ended.success(), "{place}:{count} was not reached");

    let second = application.up();
    let stands = second.get(&format!("/api/orders/{ID}"));
    if let Some(answer) = answered {
        assert_eq!(answer["status"], "confirmed");
        assert_eq!(stands.expect(200), answer, "{place}:{count}: an acknowledged order was lost");
    } else {
        // The client asks again, as it would.
        until(&second, |shop| {
            let again =
                request(&format!("{}/api/orders", shop.address), "POST", Some(order.to_string().as_bytes()));
            again.status == 201 && again.json()["status"] == "confirmed"
        });
    }
    let orders = second.get("/api/users/ada/orders").expect(200).as_array().unwrap().len() as u64;
    let sold = json!({"sku": "mug", "available": 10 - 2 * orders, "reserved": 0, "sold": 2 * orders});
    until(&second, |shop| shop.get("/api/stock/mug").expect(200) == sold);
    until(&second, |shop| shop.get(&format!("/api/orders/{ID}/shipment")).status == 200);
    let charges = second.get(&format!("/api/orders/{ID}/payments")).expect(200);
    assert_eq!(
        charges,
        json!([{"order_id": ID, "amount_cents": 2500, "status": "charged"}]),
        "{place}:{count}"
    );
    assert!(second.stop().success());
    nothing_is_left(&application, &["orders", "inventory", "shipping"], place);
}

/// The places that one order comes by twice, because it has two subscribers or writes more than one statement.
fn reached_twice(place: &str) -> bool {
    !matches!(place, "publish.enlisted" | "handler.wrote")
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
        std::thread::yield_now();
    }
}

/// Looks into the databases of the stopped application: nothing waits, nothing is dead, each event is done once.
fn nothing_is_left(application: &Application, modules: &[&str], place: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let host = application.host().await;
        for module in modules {
            assert_eq!(host.events(module).await.unwrap(), [], "{place}: {module}");
        }
        assert!(host.drain().await);
    });
}
