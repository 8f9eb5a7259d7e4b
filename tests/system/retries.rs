//! Calls that are tried again: which are, and what a caller is told of several tries.

use cleave_bus::failure::CallError;
use cleave_host::host::Host;
use cleave_tests::nats::NatsServer;
use cleave_tests::proxy::Proxy;
use cleave_tests::{Application, PATIENCE, built};
use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::time::Instant;

/// A node that calls, through a proxy, and one that holds the hostile module.
struct Pair {
    _nats: NatsServer,
    proxy: Proxy,
    front: Arc<Host>,
    back: Host,
    _folders: [Application; 2],
}

impl Pair {
    async fn start(calls: &str) -> Self {
        let nats = NatsServer::start();
        let proxy = Proxy::to(nats.address());
        let config = |nats: String| {
            Application::new(&format!(
                r#"
[calls]
{calls}
[bus]
nats = "{nats}"
[nodes.front]
[nodes.back]
modules = ["hostile"]
[modules.hostile]
component = "{}"
migrations = "{}"
grants = ["sql"]
"#,
                built("hostile").display(),
                cleave_tests::root().join("tests/guests/hostile/migrations").display(),
            ))
        };
        let folders = [config(format!("nats://{}", proxy.address())), config(nats.url())];
        let (front, back) = (folders[0].node("front").await, folders[1].node("back").await);
        let pair = Self { _nats: nats, proxy, front: Arc::new(front), back, _folders: folders };
        while pair.call("count", &[]).await.is_err() {}
        pair
    }

    async fn call(&self, function: &str, arguments: &[Json]) -> Result<Json, CallError> {
        crate::calls::hostile(&self.front, function, arguments).await
    }

    /// Begins a call that takes half a second, and waits until it runs.
    async fn slow_call(&self) -> tokio::task::JoinHandle<Result<Json, CallError>> {
        let front = Arc::clone(&self.front);
        let call = tokio::spawn(async move { crate::calls::hostile(&front, "sleep", &[json!(500)]).await });
        self.until("the call runs", || self.running() == 1).await;
        call
    }

    fn running(&self) -> usize {
        self.back.pool("hostile").unwrap().running()
    }

    fn returned(&self) -> u64 {
        self.back.pool("hostile").unwrap().counts.returned.load(std::sync::atomic::Ordering::Relaxed)
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < PATIENCE, "not so: {what}");
            tokio::task::yield_now().await;
        }
    }
}

const IDEMPOTENT: &str = "idempotent = [\"test:hostile/acts.sleep\"]";

#[tokio::test(flavor = "multi_thread")]
async fn idempotent_function_is_called_again_when_its_answer_was_lost() {
    let pair = Pair::start(IDEMPOTENT).await;
    let before = pair.returned();
    let call = pair.slow_call().await;
    pair.proxy.cut();
    pair.proxy.restore();
    call.await.unwrap().unwrap();
    pair.until("it ran twice", || pair.returned() == before + 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_function_is_not_called_again_when_its_answer_was_lost() {
    let pair = Pair::start("").await;
    let before = pair.returned();
    let call = pair.slow_call().await;
    pair.proxy.cut();
    pair.proxy.restore();
    let error = call.await.unwrap().unwrap_err();
    assert!(error.may_have_run() && error.to_string().contains("broke"), "{error}");
    pair.until("it ran to its end", || pair.returned() == before + 1).await;
    while pair.call("count", &[]).await.is_err() {}
    assert_eq!(pair.returned(), before + 2, "the slow call once, and the one to see that the bus is back");
}
