//! Two processes that hold the same modules, with their data in one PostgreSQL database: what happens once, happens once
//! for both.

use crate::calls::call;
use crate::events::{assert_once, letters, notes, of_key, send, until};
use cleave_host::host::Host;
use cleave_tests::{Application, IN_POSTGRES, Process, postgres, stderr};
use std::time::Instant;

/// Two configs that differ in their data folders alone.
fn twins(reader: &str) -> [Application; 2] {
    let one = letters(IN_POSTGRES, "", reader);
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
    let [one, other] = twins(tasks);
    let began = Instant::now();
    let hosts = [one.host().await, other.host().await];
    let runs = until(async || {
        let answer = call(&hosts[0], "test:letters/notes.runs", &[]).await.unwrap();
        let runs = answer["ok"].as_array().unwrap().clone();
        let quick = runs.iter().filter(|run| *run == "quick").count();
        if quick >= 15 { Ok(runs) } else { Err(format!("{runs:?}")) }
    })
    .await;
    let ticks = began.elapsed().as_millis() / 200 + 2;
    let times = |task: &str| runs.iter().filter(|run| *run == task).count();
    assert!(times("quick") as u128 <= ticks, "{} runs in {ticks} ticks", times("quick"));
    assert_eq!(times("hourly"), 1);
    end(hosts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn event_is_handled_once_by_either_process() {
    let [one, other] = twins("");
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
async fn work_goes_on_when_the_process_that_did_it_is_killed() {
    let [one, other] = twins("");
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
    let [application, _] = twins("");
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
