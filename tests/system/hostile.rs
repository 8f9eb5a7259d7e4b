//! Hostile guests: whatever a module does, it is its own call that fails. Beside each act a victim's calls all succeed
//! and the process's timers fire.

use crate::calls::{call, hostile, zoo};
use cleave_host::host::Host;
use cleave_tests::ARRANGEMENTS;
use serde_json::{Value as Json, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Runs an act many times at once, and the victim and a timer beside it until all acts have ended. Every call of the
/// victim succeeds and the timer fires, or this fails.
async fn beside_a_victim(
    host: &Host,
    acts: usize,
    act: &str,
    arguments: &[Json],
) -> Vec<Result<Json, String>> {
    let (ended, ticks) = (AtomicBool::new(false), AtomicU64::new(0));
    let acting = async {
        let acts: Vec<_> = (0..acts).map(|_| hostile(host, act, arguments)).collect();
        let mut outcomes = Vec::new();
        for outcome in join_all(acts).await {
            outcomes.push(outcome.map_err(|e| e.to_string()));
        }
        ended.store(true, Ordering::Relaxed);
        outcomes
    };
    let victim = async {
        let mut pings = 0u32;
        while !ended.load(Ordering::Relaxed) || pings < 10 {
            let answer = call(host, "test:victim/ping.ping", &[json!(pings)]).await;
            assert_eq!(answer, Ok(json!({"ok": pings + 1})), "the victim's call failed beside `{act}`");
            pings += 1;
            tokio::task::yield_now().await;
        }
    };
    let timer = async {
        let mut interval = tokio::time::interval(Duration::from_millis(1));
        while !ended.load(Ordering::Relaxed) || ticks.load(Ordering::Relaxed) < 3 {
            interval.tick().await;
            ticks.fetch_add(1, Ordering::Relaxed);
        }
    };
    let (outcomes, (), ()) = tokio::join!(acting, victim, timer);
    outcomes
}

/// Polls futures together on one task.
async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(move |context| {
        let mut pending = false;
        for (future, output) in &mut futures {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(futures.iter_mut().filter_map(|(_, output)| output.take()).collect())
    })
    .await
}

/// Each act ends in an error that says why, under every arrangement, and the module serves the next call.
async fn act_fails_alone(act: &str, arguments: &[Json], more: &str, reason: &str) {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "", more);
        let host = application.host().await;
        for outcome in beside_a_victim(&host, 4, act, arguments).await {
            let error = outcome.expect_err(act);
            assert!(error.contains(reason), "{act}: {error}");
        }
        assert_eq!(hostile(&host, "count", &[]).await.unwrap(), json!({"ok": 1}), "{arrangement:?}");
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_loop_ends_at_the_deadline() {
    act_fails_alone("spin", &[], "deadline = \"200ms\"", "did not answer within").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_recursion_traps() {
    act_fails_alone("recurse", &[], "", "call stack exhausted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn allocation_bomb_stops_at_its_limit() {
    let before = resident_kib();
    act_fails_alone("allocate", &[], "memory_max = \"16MiB\"", "trapped").await;
    // Four at once had 64 MiB between them.
    assert!(resident_kib().saturating_sub(before) < 512 * 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_fails_its_call_alone() {
    act_fails_alone("trap", &[], "", "unreachable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn panic_fails_its_call_alone() {
    act_fails_alone("panic", &[], "", "unreachable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hundred_thousand_handles_are_refused() {
    act_fails_alone("handles", &[json!(100_000)], "deadline = \"20s\"", "trapped").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_flood_harms_nobody() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "", "log_lines_per_second = 10");
        let host = application.host().await;
        for outcome in beside_a_victim(&host, 2, "log-flood", &[json!(10_000)]).await {
            assert_eq!(outcome.unwrap(), json!({"ok": 30_000}));
        }
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hundred_spinning_guests_leave_the_timers_alone() {
    let application = zoo(ARRANGEMENTS[0], "deadline = \"3s\"", "concurrency = 100\ndeadline = \"1s\"");
    let host = application.host().await;
    for outcome in beside_a_victim(&host, 100, "spin", &[]).await {
        assert!(outcome.unwrap_err().contains("did not answer within"));
    }
    assert!(host.drain().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_traps_leave_nothing_behind() {
    let application = zoo(ARRANGEMENTS[0], "", "");
    let host = application.host().await;
    for _ in 0..100 {
        hostile(&host, "trap", &[]).await.unwrap_err();
    }
    let before = resident_kib();
    for _ in 0..2_000 {
        hostile(&host, "trap", &[]).await.unwrap_err();
    }
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more after 2,000 traps");
    assert!(host.drain().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn module_sees_nothing_outside_itself() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "", "");
        let host = application.host().await;
        assert_eq!(hostile(&host, "environment", &[]).await.unwrap(), json!({"ok": []}));
        arrangement.end(host).await;
    }
}

/// Memory of this process that is in RAM.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
