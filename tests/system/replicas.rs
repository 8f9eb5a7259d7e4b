//! Two processes that hold the same modules, with their data in one PostgreSQL database: what happens once, happens once
//! for both.

use crate::calls::{call, hostile, zoo};
use crate::events::{assert_once, letters, notes, of_key, send, until};
use cleave_host::data::Value;
use cleave_host::host::Host;
use cleave_tests::{Application, IN_POSTGRES, PATIENCE, Process, postgres, stderr};
use serde_json::json;
use std::time::Instant;

/// Two configs that differ in their data folders alone.
fn twins(events: &str, reader: &str) -> [Application; 2] {
    let one = letters(IN_POSTGRES, events, reader);
    let other = Application::new(&std::fs::read_to_string(one.config()).unwrap());
    [one, other]
}

async fn end(hosts: [Host; 2]) {
    for host in hosts {
        assert!(host.drain().await);
    }
}

/// Waits until so many notes are written, and gives them.
async fn await_notes(host: &Host, count: usize) -> Vec<serde_json::Value> {
    until(async || {
        let notes = notes(host).await;
        if notes.len() >= count { Ok(notes) } else { Err(format!("{} notes", notes.len())) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn task_runs_once_per_tick_whoever_runs_it() {
    let tasks = "[modules.reader.schedule.quick]\nevery = \"200ms\"\n[modules.reader.schedule.hourly]\nevery = \"1h\"\n";
    let [one, other] = twins("", tasks);
    // At once, so that both come to the first tick of each task.
    let (one, other) = tokio::join!(one.host(), other.host());
    let hosts = [one, other];
    let (first_fence, first_next) = quick(&hosts[0]).await;
    let runs = until(async || {
        let answer = call(&hosts[0], "test:letters/notes.runs", &[]).await.unwrap();
        let runs = answer["ok"].as_array().unwrap().clone();
        let quick = runs.iter().filter(|run| *run == "quick").count();
        if quick >= 15 { Ok(runs) } else { Err(format!("{runs:?}")) }
    })
    .await;
    // Each tick puts the next one off by 200 ms of the database's clock, and has one run.
    let (fence, next) = quick(&hosts[1]).await;
    let times = |task: &str| runs.iter().filter(|run| *run == task).count();
    assert!(next - first_next >= (fence - first_fence) * 200, "{first_fence} {first_next} {fence} {next}");
    assert!(times("quick") as i64 <= fence, "{} runs in {fence} ticks", times("quick"));
    assert_eq!(times("hourly"), 1);
    end(hosts).await;
}

/// How often the quick task was due so far, and when it is due next.
async fn quick(host: &Host) -> (i64, i64) {
    let row = "SELECT fence, next_at FROM cleave_leases WHERE name = 'task:quick' AND fence > 0";
    until(async || {
        let database = host.database("reader").unwrap();
        let rows = database.host_query(row, &[], Instant::now() + PATIENCE).await.unwrap().rows;
        match rows.first().map(Vec::as_slice) {
            Some([Value::Integer(fence), Value::Integer(next)]) => Ok((*fence, *next)),
            _ => Err(format!("{rows:?}")),
        }
    })
    .await
}

/// An event that waits for one that has ended, because the process that ended it was killed before it came to the next,
/// is handled although there is always something else to do.
#[tokio::test(flavor = "multi_thread")]
async fn key_that_a_killed_process_left_goes_on_while_the_module_is_busy() {
    let application = letters(IN_POSTGRES, "", "deadline = \"120s\"");
    application.write(&format!(
        "{}\n[drain]\ntimeout = \"1s\"\n",
        std::fs::read_to_string(application.config()).unwrap()
    ));
    let host = application.host().await;
    send(&host, &[("busy", "sleep:90000 note")]).await;
    let database = host.database("reader").unwrap();
    let left = "INSERT INTO cleave_inbox (event, function, publisher, event_key, payload, published_at, trace, state) \
        SELECT CAST(gen_random_uuid() AS TEXT), function, publisher, 'left', replace(payload, 'sleep:90000 ', ''), \
        published_at, trace, 0 FROM cleave_inbox WHERE state = 1";
    until(async || {
        let mut leaving = database.begin_host(Instant::now() + PATIENCE).await.unwrap();
        let written = leaving.host_execute(left, &[]).await.unwrap();
        leaving.commit().await.unwrap();
        if written == 1 { Ok(()) } else { Err("it has not come".to_owned()) }
    })
    .await;
    let notes = await_notes(&host, 1).await;
    assert_eq!(of_key(&notes, "busy", "body"), ["note"]);
    // The other one sleeps on.
    host.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn event_is_handled_once_by_either_process() {
    let [one, other] = twins("", "");
    let hosts = [one.host().await, other.host().await];
    let sent: Vec<_> = (0..60).map(|n| (format!("key-{}", n % 4), format!("note #{n:02}"))).collect();
    for (n, some) in sent.chunks(6).enumerate() {
        send(&hosts[n % 2], some).await;
    }
    await_notes(&hosts[0], sent.len()).await;
    // Nothing more comes of what is handled.
    send(&hosts[1], &[("last", "note")]).await;
    let notes = await_notes(&hosts[1], sent.len() + 1).await;
    assert_eq!(notes.len(), sent.len() + 1);
    assert_once(&notes);
    for key in ["key-0", "key-1", "key-2", "key-3"] {
        let expected: Vec<_> = sent.iter().filter(|(k, _)| k == key).map(|(_, body)| body).collect();
        assert_eq!(of_key(&notes, key, "body"), expected);
    }
    end(hosts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_and_queue_are_of_each_process() {
    let one = zoo(IN_POSTGRES, "", "concurrency = 1\nqueue = 0");
    let other = Application::new(&std::fs::read_to_string(one.config()).unwrap());
    let hosts = [one.host().await, other.host().await];
    let is_busy = |host: &Host| host.pool("hostile").unwrap().running() == 1;
    let long = [json!(2_000)];
    let meanwhile = async {
        until(async || if hosts.iter().all(is_busy) { Ok(()) } else { Err("not both run".to_owned()) }).await;
        for host in &hosts {
            let refused = hostile(host, "count", &[]).await.unwrap_err();
            assert!(refused.to_string().contains("modules.hostile.queue"), "{refused}");
        }
    };
    let (one, other, ()) =
        tokio::join!(hostile(&hosts[0], "sleep", &long), hostile(&hosts[1], "sleep", &long), meanwhile);
    assert_eq!([one.unwrap(), other.unwrap()], [json!({"ok": 2_000}), json!({"ok": 2_000})]);
    end(hosts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handler_that_takes_longer_than_the_lease_runs_in_one_process() {
    // Nodes look much more often than a lease is renewed, or more seldom.
    for poll in ["100ms", "2s"] {
        let [one, other] = twins(&format!("poll = \"{poll}\""), "deadline = \"10s\"");
        let hosts = [one.host().await, other.host().await];
        // Three times the lease.
        send(&hosts[0], &[("k", "sleep:3000 note")]).await;
        let running = || hosts.iter().map(|host| host.pool("reader").unwrap().running()).sum::<usize>();
        until(async || if running() == 1 { Ok(()) } else { Err("no handler runs".to_owned()) }).await;
        until(async || match running() {
            0 => Ok(()),
            running => {
                assert_eq!(running, 1, "it runs in both");
                Err("it runs".to_owned())
            }
        })
        .await;
        assert_eq!(await_notes(&hosts[0], 1).await.len(), 1);
        end(hosts).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_when_the_process_that_did_it_is_killed() {
    let [one, other] = twins("", "");
    // Alone, it takes the leases of relay and delivery.
    let first: Process = tokio::task::block_in_place(|| one.up_without_http());
    let send_from_outside = |n: usize| {
        let answer = one.run("call", &["test:letters/office.send", "\"k\"", &format!("\"note #{n:02}\"")]);
        assert!(answer.status.success(), "{}", stderr(&answer));
    };
    tokio::task::block_in_place(|| (0..4).for_each(send_from_outside));
    let host = other.host().await;
    await_notes(&host, 4).await;
    tokio::task::block_in_place(|| {
        (4..8).for_each(send_from_outside);
        first.kill();
    });
    send(&host, &[("k", "note #08")]).await;
    let notes = await_notes(&host, 9).await;
    assert_once(&notes);
    let expected: Vec<_> = (0..9).map(|n| format!("note #{n:02}")).collect();
    assert_eq!(of_key(&notes, "k", "body"), expected);
    assert!(host.drain().await);
}

#[test]
fn old_file_beside_postgresql_is_refused() {
    let application = letters(cleave_tests::ARRANGEMENTS[0], "", "");
    drop(application.up_without_http());
    let text = std::fs::read_to_string(application.config()).unwrap();
    let url = postgres::shared().new_url();
    application.write(&format!("[data]\nurl = \"{url}\"\n{text}"));
    let answer = application.run("up", &[]);
    // As one line, whatever the width it was broken to.
    let said = stderr(&answer).replace("\n  │ ", " ");
    assert!(!answer.status.success() && said.contains("when it was kept in SQLite"), "{said}");
    assert!(said.contains("url = \"sqlite\""), "{said}");
    assert!(!said.contains("tests own") && !said.contains("%20own"), "{said}");
}

#[test]
fn password_is_not_shown() {
    let [application, _] = twins("", "");
    for (verb, arguments) in [("config", &["show"][..]), ("config", &["show", "--origins"]), ("check", &[])] {
        let command = [verb].iter().chain(arguments).copied().collect::<Vec<_>>();
        let (verb, arguments) = command.split_first().unwrap();
        let answer = application.run(verb, arguments);
        let said = stderr(&answer) + &cleave_tests::stdout(&answer);
        assert!(!said.contains("%20own") && !said.contains("tests own"), "{said}");
    }
    let text = std::fs::read_to_string(application.config()).unwrap();
    application.write(&text.replace("127.0.0.1", "127.0.0.2"));
    let said = stderr(&application.run("up", &[]));
    assert!(said.contains("postgres:***@127.0.0.2") && said.contains("start the"), "{said}");
}
