//! Schedules: a task runs once per tick, whatever becomes of its runs and of the clock.

use crate::calls::call;
use crate::events::{HOUR_MS, in_files, letters, until};
use cleave_host::clock::Clock;
use cleave_host::host::Host;
use cleave_tests::{ARRANGEMENTS, Application, Arrangement, ON_BOTH, component, stderr};
use serde_json::Value as Json;

/// The reader with tasks, each as its name and how often it is due.
fn scheduled(arrangement: Arrangement, reader: &str, tasks: &[(&str, &str)]) -> Application {
    let tasks: String = tasks
        .iter()
        .map(|(task, every)| format!("[modules.reader.schedule.{task}]\nevery = \"{every}\"\n"))
        .collect();
    letters(arrangement, "", &format!("{reader}\n{tasks}"))
}

/// What the runs have written, in order.
async fn runs(host: &Host) -> Vec<String> {
    let answer = call(host, "test:letters/notes.runs", &[]).await.unwrap();
    let runs = answer["ok"].as_array().unwrap_or_else(|| panic!("{answer}"));
    runs.iter().map(|run| run.as_str().unwrap().to_owned()).collect()
}

/// How often this has been written.
fn times(runs: &[String], said: &str) -> usize {
    runs.iter().filter(|run| *run == said).count()
}

/// Waits until this has been written so often, and gives all that was written.
async fn await_times(host: &Host, said: &str, count: usize) -> Vec<String> {
    until(async || {
        let runs = runs(host).await;
        if times(&runs, said) >= count { Ok(runs) } else { Err(format!("{runs:?}")) }
    })
    .await
}

/// Waits until a task that is due all the time has run a few times more.
async fn some_ticks_later(host: &Host) -> Vec<String> {
    let so_far = times(&runs(host).await, "quick");
    await_times(host, "quick", so_far + 5).await
}

#[tokio::test(flavor = "multi_thread")]
async fn task_runs_at_the_first_start_and_then_by_the_clock() {
    for arrangement in ARRANGEMENTS {
        let tasks = [("quick", "50ms"), ("hourly", "1h")];
        let application = scheduled(arrangement, "", &tasks);
        let host = application.host().await;
        await_times(&host, "hourly", 1).await;
        assert_eq!(times(&some_ticks_later(&host).await, "hourly"), 1);
        arrangement.end(host).await;
        // A start is no tick.
        let host = application.host().await;
        assert_eq!(times(&some_ticks_later(&host).await, "hourly"), 1);
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn run_that_fails_stops_no_tick() {
    for arrangement in ARRANGEMENTS {
        let tasks = [("failing", "50ms"), ("trapping", "50ms")];
        let application = scheduled(arrangement, "", &tasks);
        let host = application.host().await;
        // What a run wrote before it failed stands: each statement was a transaction of its own.
        await_times(&host, "failing", 3).await;
        await_times(&host, "trapping", 3).await;
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn run_past_the_deadline_stops_no_tick() {
    for arrangement in ARRANGEMENTS {
        let application = scheduled(arrangement, "deadline = \"150ms\"", &[("slow", "50ms")]);
        let host = application.host().await;
        let runs = await_times(&host, "slow", 3).await;
        assert_eq!(times(&runs, "slow ended"), 0, "{runs:?}");
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tick_during_a_run_is_skipped() {
    for arrangement in ARRANGEMENTS {
        let application = scheduled(arrangement, "", &[("slow", "20ms")]);
        let host = application.host().await;
        let runs = await_times(&host, "slow ended", 3).await;
        for (n, said) in runs.iter().enumerate() {
            assert_eq!(said, if n % 2 == 0 { "slow" } else { "slow ended" }, "{runs:?}");
        }
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_take_half_of_the_module() {
    for arrangement in ARRANGEMENTS {
        let tasks = [("slow-a", "20ms"), ("slow-b", "20ms"), ("slow-c", "20ms"), ("slow-d", "20ms")];
        let application = scheduled(arrangement, "concurrency = 4", &tasks);
        let host = application.host().await;
        for (task, _) in tasks {
            await_times(&host, &format!("{task} ended"), 2).await;
        }
        let runs = runs(&host).await;
        let (mut running, mut peak) = (0, 0);
        for said in &runs {
            running = if said.ends_with("ended") { running - 1 } else { running + 1 };
            peak = peak.max(running);
        }
        assert_eq!(peak, 2, "{runs:?}");
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_put_forward_is_one_tick() {
    for arrangement in in_files() {
        let application =
            scheduled(arrangement, "", &[("quick", "50ms"), ("yearly", "365d"), ("often", "10m")]);
        let clock = Clock::system();
        let host = application.host_at(clock.clone()).await;
        await_times(&host, "often", 1).await;
        await_times(&host, "yearly", 1).await;
        // Their runs are over: a tick that comes during a run is skipped.
        some_ticks_later(&host).await;
        clock.jump(HOUR_MS);
        await_times(&host, "often", 2).await;
        let runs = some_ticks_later(&host).await;
        assert_eq!((times(&runs, "often"), times(&runs, "yearly")), (2, 1), "{runs:?}");
        arrangement.end(host).await;
        // As many ticks are missed while nothing runs.
        clock.jump(HOUR_MS);
        let host = application.host_at(clock).await;
        await_times(&host, "often", 3).await;
        let runs = some_ticks_later(&host).await;
        assert_eq!((times(&runs, "often"), times(&runs, "yearly")), (3, 1), "{runs:?}");
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_put_back_stops_no_task() {
    for arrangement in in_files() {
        let application = scheduled(arrangement, "", &[("quick", "50ms")]);
        let clock = Clock::system();
        let host = application.host_at(clock.clone()).await;
        await_times(&host, "quick", 2).await;
        clock.jump(-HOUR_MS);
        some_ticks_later(&host).await;
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_lets_a_run_finish() {
    for arrangement in ARRANGEMENTS {
        let application = scheduled(arrangement, "", &[("slow", "1h")]);
        let host = application.host().await;
        await_times(&host, "slow", 1).await;
        arrangement.end(host).await;
        let host = application.host().await;
        assert_eq!(runs(&host).await, ["slow", "slow ended"]);
        arrangement.end(host).await;
    }
}

/// Starts the application and kills it when its runs have written this.
async fn kill_when(application: &Application, said: &str) {
    let process = application.up_without_http();
    until(async || {
        let output = application.run("call", &["test:letters/notes.runs"]);
        let runs: Json = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if runs.to_string().contains(said) { Ok(()) } else { Err(runs.to_string()) }
    })
    .await;
    process.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_run_comes_again_at_its_tick() {
    for arrangement in ON_BOTH {
        let application = scheduled(arrangement, "deadline = \"1s\"", &[("slow", "50ms")]);
        kill_when(&application, "slow ended").await;
        let host = application.host().await;
        let ended = times(&runs(&host).await, "slow ended");
        await_times(&host, "slow ended", ended + 2).await;
        assert!(host.drain().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn run_that_was_cut_off_does_not_wait_for_the_next_tick() {
    for arrangement in ON_BOTH {
        let application = scheduled(arrangement, "deadline = \"1s\"", &[("slow", "1d")]);
        kill_when(&application, "slow").await;
        let host = application.host().await;
        await_times(&host, "slow ended", 1).await;
        assert!(host.drain().await);
    }
}

/// What `cleave check` says of a config that it refuses.
#[track_caller]
fn refused(application: &Application) -> String {
    let output = application.run("check", &[]);
    let said = stderr(&output).split_whitespace().collect::<Vec<_>>().join(" ").replace(" │ ", " ");
    assert_eq!(output.status.code(), Some(1), "it was let through: {said}");
    assert!(said.contains("help:") && said.contains("cleave.toml:"), "{said}");
    said
}

#[test]
fn schedule_of_a_module_without_tasks_is_refused() {
    let application =
        Application::new("[modules.m]\ncomponent = \"m.wasm\"\n[modules.m.schedule.tidy]\nevery = \"1h\"\n");
    let bytes = component::from_wit("package t:t; interface i { f: func(); } world w { export i; }");
    std::fs::write(application.folder.path().join("m.wasm"), bytes).unwrap();
    let said = refused(&application);
    assert!(said.contains("`m` has a schedule") && said.contains("cleave:schedule/task"), "{said}");
}

#[test]
fn schedule_that_cannot_be_kept_is_refused() {
    for (every, expected) in
        [("", "every"), ("every = \"0s\"", "every"), ("every = 5", "every"), ("at = \"1h\"", "at")]
    {
        let table = format!("[modules.reader.schedule.tidy]\n{every}");
        let said = refused(&letters(ARRANGEMENTS[0], "", &table));
        assert!(said.contains(expected), "{every}: {said}");
    }
}
