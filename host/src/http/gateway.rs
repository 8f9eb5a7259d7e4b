//! Owns the router: which request goes to which route, and the life of a request from its head to its response.
//!
//! A client that leaves does not cancel the call it started; only the call's deadline does. A request that panics in
//! host code is answered with 500 and the next one is served as ever. Every response names its request.

use super::answer;
use super::files::Files;
use super::plan::Plan;
use super::problem::Problem;
use super::request::{self, BodyLimits};
use super::trace::Trace;
use crate::capability::CallContext;
use crate::link::Edge;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, get};
use cleave_bus::deadline::Deadline;
use cleave_bus::failure::CallError;
use cleave_config::{FilesPath, Method};
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio_util::task::TaskTracker;
use wasmtime::component::Val;

/// What all routes have in common.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The largest body of a request, in bytes.
    pub body_max: usize,
    /// The most bytes that the arguments of a call may take, encoded.
    pub payload_max: usize,
    /// The longest a client may take to send the body of a request, once its head is there.
    pub body_timeout: Duration,
    /// The deadline of a call, from the moment its arguments are there.
    pub deadline: Duration,
    /// Whether `/readyz` answers 200: true from the end of the start to the beginning of the drain.
    pub ready: Arc<AtomicBool>,
    /// Where calls go on whose clients have left.
    pub tasks: TaskTracker,
    /// The OpenAPI document, as JSON text, if it is served.
    pub document: Option<Bytes>,
    /// The folders that are served as they are.
    pub files: BTreeMap<FilesPath, PathBuf>,
}

/// Makes the router of all routes, each with its plan and the edge to the contract of the plan's function.
///
/// # Errors
/// If two routes have one method and one path.
pub fn router(routes: Vec<(Plan, Edge)>, settings: &Settings) -> Result<Router, String> {
    let routes = routes.into_iter().map(|(plan, edge)| {
        let (edge, function) = (Arc::new(edge), Arc::clone(&plan.function));
        let call = move |context: CallContext, arguments: Vec<Val>| {
            let (edge, function) = (Arc::clone(&edge), Arc::clone(&function));
            async move { edge.call(&function, context, &arguments).await }
        };
        (plan, call)
    });
    build(routes, settings)
}

/// What came of a call.
type Outcome = Result<Vec<Val>, CallError>;

/// A route and the way to its function.
struct Route<C> {
    plan: Plan,
    call: C,
    settings: Settings,
}

/// The routes of one path.
#[derive(Default)]
struct Endpoint {
    methods: Vec<Method>,
    router: MethodRouter,
}

fn build<C, F>(routes: impl Iterator<Item = (Plan, C)>, settings: &Settings) -> Result<Router, String>
where
    C: Fn(CallContext, Vec<Val>) -> F + Send + Sync + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    let mut endpoints: BTreeMap<String, Endpoint> = BTreeMap::new();
    for (plan, call) in routes {
        let endpoint = endpoints.entry(plan.path.clone()).or_default();
        let method = plan.method;
        if endpoint.methods.contains(&method) {
            // Why: axum would panic. Config refuses this with both lines, so here it only must not go unseen.
            return Err(format!("there are two routes for `{method} {}`", plan.path));
        }
        endpoint.methods.push(method);
        let route = Arc::new(Route { plan, call, settings: settings.clone() });
        let handler = move |request: Request| {
            let route = Arc::clone(&route);
            async move { route.answer(request).await }
        };
        endpoint.router = std::mem::take(&mut endpoint.router).on(filter(method), handler);
    }
    let files = Files::new(&settings.files);
    let mut router = probes(&settings.ready).fallback(move |request: Request| {
        let files = files.clone();
        async move { files.answer(request).await }
    });
    if let Some(document) = &settings.document {
        router = router.route("/openapi.json", only_get(json(document.clone())));
    }
    Ok(endpoints.into_iter().fold(router, |router, (path, endpoint)| {
        let allow = allow(&endpoint.methods);
        let wrong =
            async move |request: Request| Problem::wrong_method(allow).response(Trace::of(request.headers()));
        router.route(&path, endpoint.router.fallback(wrong))
    }))
}

/// `/livez`, which answers while the process does, and `/readyz`, for whoever sends requests here.
fn probes(ready: &Arc<AtomicBool>) -> Router {
    let probe = |is_ready: fn(&AtomicBool) -> bool| {
        let ready = Arc::clone(ready);
        only_get(move || {
            let (status, text) = if is_ready(&ready) {
                (StatusCode::OK, "ok")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "not ready")
            };
            let mut response = Response::new(Body::from(text));
            *response.status_mut() = status;
            response
        })
    };
    Router::new()
        .route("/livez", probe(|_| true))
        .route("/readyz", probe(|ready| ready.load(Ordering::Acquire)))
}

/// A JSON text that the host has ready.
fn json(text: Bytes) -> impl Fn() -> Response + Clone + Send + Sync + 'static {
    move || {
        let mut response = Response::new(Body::from(text.clone()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// What the host answers itself, and to GET alone.
fn only_get(answer: impl Fn() -> Response + Clone + Send + Sync + 'static) -> MethodRouter {
    let wrong = async |request: Request| {
        Problem::wrong_method(allow(&[Method::Get])).response(Trace::of(request.headers()))
    };
    get(async move |request: Request| {
        let mut response = answer();
        Trace::of(request.headers()).write(response.headers_mut());
        response
    })
    .fallback(wrong)
}

fn filter(method: Method) -> MethodFilter {
    match method {
        // Why: the router takes HEAD for GET and leaves the body out.
        Method::Get => MethodFilter::GET,
        Method::Post => MethodFilter::POST,
        Method::Put => MethodFilter::PUT,
        Method::Patch => MethodFilter::PATCH,
        Method::Delete => MethodFilter::DELETE,
    }
}

pub(super) fn allow(methods: &[Method]) -> HeaderValue {
    let head = methods.contains(&Method::Get).then_some("HEAD");
    let names: Vec<_> = methods.iter().map(|m| m.as_str()).chain(head).collect();
    HeaderValue::try_from(names.join(", ")).unwrap_or_else(|_| HeaderValue::from_static(""))
}

impl<C, F> Route<C>
where
    C: Fn(CallContext, Vec<Val>) -> F,
    F: Future<Output = Outcome> + Send + 'static,
{
    async fn answer(&self, request: Request) -> Response {
        let trace = Trace::of(request.headers());
        match unwound(self.run(trace, request)).await {
            Ok(response) => response,
            Err(panic) => {
                tracing::error!(%trace, "the host panicked in `{}`: {panic}", self.plan.function.address);
                Problem::internal().response(trace)
            }
        }
    }

    async fn run(&self, trace: Trace, request: Request) -> Response {
        let (head, body) = request.into_parts();
        let Settings { body_max, payload_max, body_timeout, deadline, ref tasks, .. } = self.settings;
        let limits = BodyLimits { max: body_max, payload_max, timeout: body_timeout };
        let arguments = match request::arguments(&self.plan, &head, body, limits).await {
            Ok(arguments) => arguments,
            Err(problem) => return problem.response(trace),
        };
        let context = CallContext { deadline: Deadline::after(Instant::now(), deadline), trace: trace.0 };
        let call = Box::pin((self.call)(context, arguments));
        let outcome = Started { call: Some(call), tasks: tasks.clone() }.await;
        answer::response(&self.plan, head.uri.path(), trace, outcome)
    }
}

/// A call that has started. Who waits for it may leave: then it becomes a task and goes on to its end.
///
/// Why not a task from the start: hardly any client leaves, and a task costs each call two switches.
struct Started<F: Future<Output = Outcome> + Send + 'static> {
    /// Absent once it has ended, and if it panicked.
    call: Option<Pin<Box<F>>>,
    tasks: TaskTracker,
}

impl<F: Future<Output = Outcome> + Send + 'static> Future for Started<F> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let Some(mut call) = self.call.take() else { return Poll::Pending };
        let poll = call.as_mut().poll(context);
        if poll.is_pending() {
            self.call = Some(call);
        }
        poll
    }
}

impl<F: Future<Output = Outcome> + Send + 'static> Drop for Started<F> {
    fn drop(&mut self) {
        // Without a runtime the process is at its end, and nothing goes on.
        if let Some(call) = self.call.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            self.tasks.spawn_on(
                async move {
                    if let Err(panic) = unwound(call).await {
                        tracing::error!("the host panicked in a call whose client had left: {panic}");
                    }
                },
                &runtime,
            );
        }
    }
}

/// The output of a future, or what it panicked with.
async fn unwound<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        // Nothing of the future is used after it has panicked.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(text(&*panic))),
        }
    })
    .await
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a value that is no text").to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::problem::tests::read;
    use super::super::sample::{function, plan, route};
    use super::*;
    use crate::types::Type;
    use http_body_util::BodyExt;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;
    use serde_json::json;
    use tokio::sync::mpsc;

    fn settings() -> Settings {
        Settings {
            body_max: 1024,
            payload_max: 1 << 20,
            body_timeout: Duration::from_secs(60),
            deadline: Duration::from_secs(60),
            ready: Arc::new(AtomicBool::new(true)),
            tasks: TaskTracker::new(),
            document: None,
            files: BTreeMap::new(),
        }
    }

    async fn ask(router: &Router, method: &str, path: &str) -> Response {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        TowerToHyperService::new(router.clone()).call(request).await.unwrap()
    }

    /// A route that answers with its number.
    fn echo(key: &str) -> (Plan, impl Fn(CallContext, Vec<Val>) -> std::future::Ready<Outcome> + use<>) {
        let function = function(&[("n", Type::U32)], Some(Type::U32));
        (plan(key, &route(), &function), |_, arguments| std::future::ready(Ok(arguments)))
    }

    #[tokio::test]
    async fn request_goes_to_its_route() {
        let router = build([echo("GET /n/{n}"), echo("DELETE /n/{n}")].into_iter(), &settings()).unwrap();
        for method in ["GET", "DELETE"] {
            let response = ask(&router, method, "/n/7").await;
            assert_eq!(response.headers()["x-request-id"].len(), 32);
            assert_eq!(read(response).await, (200, json!(7)));
        }
    }

    #[tokio::test]
    async fn head_is_get_without_the_body() {
        let router = build([echo("GET /n/{n}")].into_iter(), &settings()).unwrap();
        let response = ask(&router, "HEAD", "/n/777").await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-length"]),
            (200, &HeaderValue::from(3))
        );
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 0);
    }

    #[tokio::test]
    async fn unknown_paths_and_methods_are_problems() {
        let router = build([echo("GET /n/{n}"), echo("PUT /n/{n}")].into_iter(), &settings()).unwrap();
        for path in ["/", "/n", "/n/", "/n/1/2", "//n/1"] {
            let response = ask(&router, "GET", path).await;
            assert_eq!(response.headers()["x-request-id"].len(), 32);
            assert_eq!(read(response).await.0, 404, "{path}");
        }
        let response = ask(&router, "POST", "/n/1").await;
        assert_eq!(response.headers()["allow"], "GET, PUT, HEAD");
        assert_eq!(read(response).await.1["status"], 405);
        let response = ask(&router, "POST", "/livez").await;
        assert_eq!(response.headers()["allow"], "GET, HEAD");
        assert_eq!(read(response).await.1["status"], 405);
    }

    #[tokio::test]
    async fn probes_tell_life_and_readiness() {
        let settings = settings();
        let router = build([echo("GET /{n}")].into_iter(), &settings).unwrap();
        assert_eq!(ask(&router, "GET", "/readyz").await.status(), 200);
        settings.ready.store(false, Ordering::Release);
        let response = ask(&router, "GET", "/readyz").await;
        assert_eq!((response.status().as_u16(), response.headers()["x-request-id"].len()), (503, 32));
        assert_eq!(ask(&router, "GET", "/livez").await.status(), 200);
    }

    #[tokio::test]
    async fn trace_of_the_client_is_the_calls() {
        let function = function(&[], Some(Type::U64));
        let call = |context: CallContext, _| {
            let trace = u64::try_from(context.trace).unwrap_or_default();
            std::future::ready(Ok(vec![Val::U64(trace)]))
        };
        let router = build([(plan("GET /", &route(), &function), call)].into_iter(), &settings()).unwrap();
        let traceparent = "00-00000000000000000000000000000009-00f067aa0ba902b7-01";
        let request =
            Request::builder().uri("/").header("traceparent", traceparent).body(Body::empty()).unwrap();
        let response = TowerToHyperService::new(router).call(request).await.unwrap();
        assert_eq!(response.headers()["x-request-id"], "00000000000000000000000000000009");
        assert_eq!(read(response).await.1, 9);
    }

    #[test]
    fn two_routes_for_one_request_are_refused() {
        let refused = |a, b| build([echo(a), echo(b)].into_iter(), &settings()).is_err();
        assert!(refused("GET /{n}", "GET /{n}"));
        assert!(!refused("GET /{n}", "PUT /{n}"));
        assert!(!refused("GET /a/{n}", "GET /{n}/a"));
    }

    #[tokio::test]
    async fn panic_is_answered_and_survived() {
        let function = function(&[], None);
        let call = |_, _| std::future::poll_fn(|_| -> Poll<Outcome> { panic!("broken") });
        let settings = settings();
        let router = build([(plan("POST /", &route(), &function), call)].into_iter(), &settings).unwrap();
        for _ in 0..2 {
            let (status, document) = read(ask(&router, "POST", "/").await).await;
            assert_eq!(status, 500);
            assert!(!document.to_string().contains("broken"));
        }
        assert!(settings.tasks.is_empty());
    }

    #[tokio::test]
    async fn call_goes_on_when_its_client_leaves() {
        let function = function(&[], None);
        let (ended, mut has_ended) = mpsc::channel(1);
        let (go, goes) = tokio::sync::watch::channel(false);
        let call = move |_, _| {
            let (ended, mut goes) = (ended.clone(), goes.clone());
            async move {
                let _ = goes.wait_for(|go| *go).await;
                let _ = ended.send(()).await;
                Ok(Vec::new())
            }
        };
        let settings = settings();
        let router = build([(plan("POST /", &route(), &function), call)].into_iter(), &settings).unwrap();
        let mut request = Box::pin(ask(&router, "POST", "/"));
        std::future::poll_fn(|context| {
            assert!(request.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        assert!(settings.tasks.is_empty());
        drop(request);
        assert_eq!(settings.tasks.len(), 1);
        go.send(true).unwrap();
        has_ended.recv().await.unwrap();
        settings.tasks.close();
        settings.tasks.wait().await;
    }
}
