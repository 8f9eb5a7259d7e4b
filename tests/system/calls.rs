//! Calls between modules: what a caller is told, under every arrangement, on a node as a value in this process.

use cleave_bus::failure::CallError;
use cleave_host::host::Host;
use cleave_host::values;
use cleave_tests::{ARRANGEMENTS, Application, Arrangement, built};
use serde_json::{Value as Json, json};

/// The hostile module, one that calls it, and one that is to notice nothing. `more` is added to the hostile module's
/// table, `calls` to `[calls]`.
pub(crate) fn zoo(arrangement: Arrangement, calls: &str, more: &str) -> Application {
    let instances = arrangement.instances;
    let migrations = cleave_tests::root().join("tests/guests/hostile/migrations");
    Application::new(&format!(
        r#"
{calls_table}
{calls}
[modules.hostile]
component = "{hostile}"
migrations = "{migrations}"
grants = ["sql"]
instances = "{instances}"
{more}
[modules.relay]
component = "{relay}"
instances = "{instances}"
[modules.victim]
component = "{victim}"
instances = "{instances}"
"#,
        calls_table = arrangement.calls(),
        hostile = built("hostile").display(),
        relay = built("relay").display(),
        victim = built("victim").display(),
        migrations = migrations.display(),
    ))
}

/// Calls a function with JSON arguments and gives its result as JSON.
pub(crate) async fn call(host: &Host, function: &str, arguments: &[Json]) -> Result<Json, CallError> {
    let name = function.parse().unwrap();
    let (_, declared) = host.application.function(&name).unwrap();
    let values = declared
        .parameters
        .iter()
        .zip(arguments)
        .map(|(p, json)| values::from_json(&p.ty, json.to_string().as_bytes(), usize::MAX).unwrap())
        .collect();
    let results = host.call(&name, 0, values).await?;
    let json = values::to_json(declared.result.as_ref().unwrap(), &results[0]).unwrap();
    Ok(serde_json::from_slice(&json).unwrap())
}

pub(crate) async fn hostile(host: &Host, function: &str, arguments: &[Json]) -> Result<Json, CallError> {
    call(host, &format!("test:hostile/acts.{function}"), arguments).await
}

async fn relay(host: &Host, function: &str, arguments: &[Json]) -> Result<Json, CallError> {
    call(host, &format!("test:relay/relay.{function}"), arguments).await
}

/// Waits until a call of the hostile module runs.
async fn runs(host: &Host) {
    while host.pool("hostile").unwrap().running() == 0 {
        tokio::task::yield_now().await;
    }
}

/// The text that the relay reports.
fn report(answer: &Json) -> &str {
    answer["ok"].as_str().unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn callee_that_traps_is_uncertain() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "", "");
        let host = application.host().await;
        let answer = relay(&host, "call-trap", &[]).await.unwrap();
        assert!(report(&answer).starts_with("uncertain: "), "{answer}");
        assert!(report(&answer).contains("unreachable"), "{answer}");
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_crosses_two_boundaries_as_uncertain() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "", "");
        let host = application.host().await;
        let answer = relay(&host, "pass-trap", &[]).await.unwrap();
        assert!(answer["error"]["uncertain"].is_string(), "{answer}");
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn module_that_says_unavailable_has_run() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "", "");
        let host = application.host().await;
        let answer = relay(&host, "call-unavailable", &[]).await.unwrap();
        assert_eq!(report(&answer), "uncertain: module said so");
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn call_past_its_deadline_is_uncertain() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "", "deadline = \"100ms\"");
        let host = application.host().await;
        for answer in
            [relay(&host, "call-spin", &[]).await, relay(&host, "call-sleep", &[json!(60_000)]).await]
        {
            let answer = answer.unwrap();
            assert!(report(&answer).starts_with("uncertain: "), "{answer}");
            assert!(report(&answer).contains("did not answer within"), "{answer}");
        }
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn caller_can_act_after_its_callee_ran_out_of_time() {
    for arrangement in ARRANGEMENTS {
        // The callee may take longer than its caller has: the caller's own deadline, less a reserve, ends it.
        let application = zoo(arrangement, "deadline = \"400ms\"", "deadline = \"1h\"");
        let host = application.host().await;
        let answer = relay(&host, "call-spin", &[]).await.unwrap();
        assert!(report(&answer).starts_with("uncertain: "), "{answer}");
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_queue_is_unavailable_and_did_not_run() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "", "concurrency = 1\nqueue = 0");
        let host = application.host().await;
        let second = [json!(1_000)];
        let sleeping = hostile(&host, "sleep", &second);
        let meanwhile = async {
            runs(&host).await;
            hostile(&host, "count", &[]).await.unwrap_err()
        };
        let (slept, refused) = tokio::join!(sleeping, meanwhile);
        assert_eq!(slept.unwrap(), json!({"ok": 1000}));
        assert!(!refused.may_have_run(), "{refused}");
        assert!(refused.to_string().contains("modules.hostile.queue"), "{refused}");
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn call_that_waited_past_its_deadline_did_not_run() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "deadline = \"600ms\"", "concurrency = 1\ndeadline = \"1m\"");
        let host = application.host().await;
        let long = [json!(10_000)];
        let first = hostile(&host, "sleep", &long);
        let second = async {
            runs(&host).await;
            // One hop more, so less time: its turn does not come before the first call's time is up.
            relay(&host, "call-sleep", &long).await
        };
        let (first, second) = tokio::join!(first, second);
        assert!(first.unwrap_err().may_have_run());
        let second = second.unwrap();
        assert!(report(&second).starts_with("unavailable: the deadline passed before"), "{second}");
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn payload_limit_is_the_same_at_both_distances() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "payload_max = \"64KiB\"", "");
        let host = application.host().await;
        // Three bytes of the limit are the length of the list.
        let fits = json!("A".repeat((64 * 1024 - 3) / 3 * 4));
        assert_eq!(
            relay(&host, "call-echo", std::slice::from_ref(&fits)).await.unwrap(),
            json!({"ok": fits})
        );
        let error = relay(&host, "call-echo", &[json!("AAAA".repeat(22_000))]).await.unwrap_err();
        assert!(!error.may_have_run(), "{error}");
        assert!(error.to_string().contains("calls.payload_max"), "{error}");
        let answer = relay(&host, "call-big-answer", &[json!(65_537)]).await.unwrap();
        assert!(report(&answer).starts_with("uncertain: "), "{answer}");
        assert!(report(&answer).contains("calls.payload_max"), "{answer}");
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn payload_as_large_as_it_may_be_passes() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "", "");
        let host = application.host().await;
        let bytes = json!("A".repeat((1000 * 1024 - 4) / 3 * 4));
        assert_eq!(
            relay(&host, "call-echo", std::slice::from_ref(&bytes)).await.unwrap(),
            json!({"ok": bytes})
        );
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn function_without_place_for_failure_traps_its_caller() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "", "");
        let host = application.host().await;
        let error = relay(&host, "call-plain-trap", &[]).await.unwrap_err();
        assert!(error.may_have_run(), "{error}");
        assert!(error.to_string().contains("has no place to say so"), "{error}");
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_outlives_a_call_only_in_a_pool() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "", "concurrency = 1");
        let host = application.host().await;
        let mut counts = Vec::new();
        for _ in 0..3 {
            counts.push(relay(&host, "pass-count", &[]).await.unwrap()["ok"].as_u64().unwrap());
        }
        let expected = if arrangement.instances == "fresh" { [1, 1, 1] } else { [1, 2, 3] };
        assert_eq!(counts, expected, "{arrangement:?}");
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_that_trapped_is_never_used_again() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "", "concurrency = 1");
        let host = application.host().await;
        assert_eq!(hostile(&host, "count", &[]).await.unwrap(), json!({"ok": 1}));
        hostile(&host, "trap", &[]).await.unwrap_err();
        assert_eq!(hostile(&host, "count", &[]).await.unwrap(), json!({"ok": 1}));
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn started_call_outlives_its_caller() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "", "concurrency = 1");
        let host = application.host().await;
        {
            // The caller leaves as soon as the call has started: polled once, then dropped.
            let insert = [json!(["INSERT INTO notes (id, body) VALUES ('left', 'x')"])];
            let call = std::pin::pin!(hostile(&host, "in-transaction", &insert));
            tokio::select! {
                biased;
                _ = call => {}
                () = runs(&host) => {}
            }
        }
        // One call at a time: the answer to this one comes after the other has ended.
        let found =
            hostile(&host, "sql", &[json!("SELECT count(*) FROM notes WHERE id = 'left'")]).await.unwrap();
        assert!(found["ok"].as_str().unwrap().contains("Integer(1)"), "{found}");
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_lets_running_calls_finish() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "", "");
        let host = application.host().await;
        let name = "test:hostile/acts.sleep".parse().unwrap();
        {
            let call = std::pin::pin!(host.call(&name, 0, vec![wasmtime::component::Val::U64(300)]));
            tokio::select! {
                biased;
                _ = call => panic!("the call was not to end yet"),
                () = runs(&host) => {}
            }
        }
        let pool = host.pool("hostile").unwrap();
        arrangement.end(host).await;
        assert_eq!(pool.counts.returned.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn payload_far_over_the_limit_traps_by_the_limits_name() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "payload_max = \"64KiB\"", "");
        let host = application.host().await;
        let error = hostile(&host, "big-answer", &[json!(8_000_000)]).await.unwrap_err();
        assert!(error.may_have_run() && error.to_string().contains("calls.payload_max"), "{error}");
        arrangement.end(host).await;
    }
}
