//! Owns what a client is told of a call: the value of success, the error that the function answered, or that no
//! answer came.
//!
//! A failed call is told in fixed words and by the request's id; what the module or the host says of it goes to the
//! log. A call that did not run is 503, one that may have run is 504, at whatever distance it failed.

use super::plan::{Errors, Part, Plan, When, success_type};
use super::problem::Problem;
use super::trace::Trace;
use crate::types::{FailurePlace, Type};
use crate::values;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use cleave_bus::failure::CallError;
use cleave_config::Method;
use std::fmt::Write as _;
use wasmtime::component::Val;

/// The response to a request for `path`, from what its call brought.
pub(super) fn response(
    plan: &Plan,
    path: &str,
    trace: Trace,
    outcome: Result<Vec<Val>, CallError>,
) -> Response {
    let answer = match &outcome {
        Err(error) => Err(undelivered(plan, trace, error)),
        Ok(values) => match values.first() {
            Some(Val::Result(Err(error))) if is_result(plan) => Err(refused(plan, trace, error.as_deref())),
            Some(Val::Result(Ok(value))) if is_result(plan) => success(plan, path, trace, value.as_deref()),
            value => success(plan, path, trace, value),
        },
    };
    answer.unwrap_or_else(|problem| problem.response(trace))
}

fn is_result(plan: &Plan) -> bool {
    matches!(plan.function.result, Some(Type::Result(..)))
}

fn success(plan: &Plan, path: &str, trace: Trace, value: Option<&Val>) -> Result<Response, Problem> {
    let (status, body) = match (success_type(&plan.function), value) {
        (Some(Type::Option(_)), Some(Val::Option(None))) if plan.method == Method::Get => {
            return Err(Problem::new(StatusCode::NOT_FOUND, "it does not exist"));
        }
        (Some(Type::Option(_)), Some(Val::Option(None))) => (StatusCode::NO_CONTENT, None),
        // That there is a value is said by the status, so an option of an option is the inner one.
        (Some(Type::Option(ty)), Some(Val::Option(Some(value)))) => {
            (status(plan, value), Some(json(plan, trace, ty, value)?))
        }
        (Some(ty), Some(value)) => (status(plan, value), Some(json(plan, trace, ty, value)?)),
        _ => (plan.status, None),
    };
    let location = match (&plan.location, value) {
        (Some(_), Some(Val::Option(None))) | (None, _) => None,
        (Some(parts), value) => HeaderValue::try_from(location(parts, path, value)).ok(),
    };
    let has_body = body.is_some();
    let mut response = Response::new(body.map_or_else(Body::empty, Body::from));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if has_body {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Some(location) = location {
        headers.insert(LOCATION, location);
    }
    trace.write(headers);
    Ok(response)
}

/// The status of success with this value.
fn status(plan: &Plan, value: &Val) -> StatusCode {
    let fields = fields(Some(value));
    let fits = |when: &&When| match fields.get(when.field) {
        Some((_, Val::Enum(case) | Val::Variant(case, _))) => *case == when.case,
        _ => false,
    };
    plan.when.iter().find(fits).map_or(plan.status, |when| when.status)
}

/// The fields of the record that a value is, or is if there is one.
fn fields(value: Option<&Val>) -> &[(String, Val)] {
    match value {
        Some(Val::Record(fields)) => fields,
        Some(Val::Option(Some(inner))) => fields(Some(inner)),
        _ => &[],
    }
}

/// A value in JSON; a number that is none, such as NaN, has no form there.
fn json(plan: &Plan, trace: Trace, ty: &Type, value: &Val) -> Result<Vec<u8>, Problem> {
    values::to_json(ty, value).map_err(|error| {
        tracing::error!(%trace, "the answer of `{}` is not JSON: {error}", plan.function.address);
        Problem::internal()
    })
}

fn location(parts: &[Part], path: &str, value: Option<&Val>) -> String {
    let fields = fields(value);
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Literal(literal) => text.push_str(literal),
            // As the client wrote it, so encoded already.
            Part::Segment(index) => text.push_str(path.split('/').nth(*index).unwrap_or_default()),
            Part::Field(index, ty) => {
                if let Some((_, value)) = fields.get(*index) {
                    push_scalar(&mut text, ty, value);
                }
            }
        }
    }
    text
}

/// Writes a scalar into a segment of a path, percent-encoded.
fn push_scalar(path: &mut String, ty: &Type, value: &Val) {
    let json = match value {
        Val::String(text) => return push_encoded(path, text.as_bytes()),
        value => values::to_json(ty, value).unwrap_or_default(),
    };
    push_encoded(path, json.strip_prefix(b"\"").and_then(|j| j.strip_suffix(b"\"")).unwrap_or(&json));
}

fn push_encoded(path: &mut String, bytes: &[u8]) {
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            path.push(char::from(*byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
}

/// The error that a function answered.
fn refused(plan: &Plan, trace: Trace, error: Option<&Val>) -> Problem {
    let (status, case, ty, payload) = match (&plan.errors, error) {
        (Errors::Caseless(status, ty), payload) => (*status, None, ty.as_ref(), payload),
        (Errors::Cases(cases), Some(Val::Variant(name, _) | Val::Enum(name))) => {
            let Some(case) = cases.iter().find(|c| c.name.wit == *name) else { return Problem::internal() };
            let Some(status) = case.status else { return failed(plan, trace, error) };
            let payload = if let Some(Val::Variant(_, payload)) = error { payload.as_deref() } else { None };
            (status, Some(case.name.json.clone()), case.ty.as_ref(), payload)
        }
        _ => return failed(plan, trace, error),
    };
    let problem = match (ty, payload) {
        (_, Some(Val::String(text))) => Problem::new(status, text.clone()),
        (Some(ty), Some(payload)) => match json(plan, trace, ty, payload) {
            Ok(json) => Problem::new(status, "").with_payload(json),
            Err(problem) => return problem,
        },
        _ => Problem::new(status, ""),
    };
    match case {
        Some(case) => problem.with_case(case),
        None => problem,
    }
}

/// A failed call that the function answers with.
fn failed(plan: &Plan, trace: Trace, error: Option<&Val>) -> Problem {
    let failure = match (&plan.function.failure, error) {
        (Some(FailurePlace::Case(_)), Some(Val::Variant(_, failure))) => failure.as_deref(),
        (_, error) => error,
    };
    let Some(Val::Variant(case, text)) = failure else { return Problem::internal() };
    if let Some(Val::String(text)) = text.as_deref() {
        tracing::warn!(%trace, "`{}` failed: {text}", plan.function.address);
    }
    if case == "unavailable" { Problem::unavailable() } else { Problem::uncertain() }
}

/// A call that brought no answer.
fn undelivered(plan: &Plan, trace: Trace, error: &CallError) -> Problem {
    let function = &plan.function.address;
    match error {
        CallError::ArgumentsTooLarge { limit, .. } => {
            let detail = format!("the request holds more than the {limit} bytes that a call may take");
            return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail);
        }
        // The pool has logged what failed, at any distance, and counts what it refuses under load.
        _ => tracing::debug!(%trace, "`{function}` brought no answer: {error}"),
    }
    if error.may_have_run() { Problem::uncertain() } else { Problem::unavailable() }
}

#[cfg(test)]
mod tests {
    use super::super::problem::tests::read;
    use super::super::sample::{
        error, failure, function, list, one_of, option, order, order_route, order_value, place, plan, record,
        result, route,
    };
    use super::*;
    use cleave_config::HttpRoute;
    use serde_json::{Value, json};

    fn text(text: &str) -> Val {
        Val::String(text.to_owned())
    }

    fn case(name: &str, payload: Option<Val>) -> Val {
        Val::Variant(name.to_owned(), payload.map(Box::new))
    }

    fn refuse(error: Val) -> Outcome {
        Ok(vec![Val::Result(Err(Some(Box::new(error))))])
    }

    fn succeed(value: Option<Val>) -> Outcome {
        Ok(vec![Val::Result(Ok(value.map(Box::new)))])
    }

    type Outcome = Result<Vec<Val>, CallError>;

    async fn answer(plan: &Plan, outcome: Outcome) -> (u16, Value) {
        read(response(plan, "/", Trace(1), outcome)).await
    }

    #[tokio::test]
    async fn success_is_the_value() {
        let placed = plan("POST /", &order_route(), &place(&[]));
        let response = response(&placed, "/", Trace(1), succeed(Some(order_value("a"))));
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["x-request-id"], Trace(1).to_string());
        assert_eq!(read(response).await, (200, json!({"id": "a", "user_id": 7, "lines": []})));
        let plain = plan("GET /", &route(), &function(&[], Some(Type::U8)));
        assert_eq!(answer(&plain, Ok(vec![Val::U8(3)])).await, (200, json!(3)));
    }

    #[tokio::test]
    async fn success_without_a_value_is_empty() {
        let nothing = plan("POST /", &route(), &function(&[], None));
        assert_eq!(answer(&nothing, Ok(Vec::new())).await, (204, Value::Null));
        let accepted = HttpRoute { status: Some(202), ..route() };
        let nothing = plan("POST /", &accepted, &function(&[], result(None, Some(failure()))));
        assert_eq!(answer(&nothing, succeed(None)).await, (202, Value::Null));
    }

    #[tokio::test]
    async fn none_is_404_on_get_and_204_elsewhere() {
        let route = HttpRoute { status: Some(201), location: Some("/{id}".to_owned()), ..route() };
        let function = function(&[], result(Some(option(order())), Some(failure())));
        let none = || succeed(Some(Val::Option(None)));
        assert_eq!(answer(&plan("GET /", &route, &function), none()).await.0, 404);
        let gone = response(&plan("DELETE /", &route, &function), "/", Trace(1), none());
        assert!(gone.headers().get("location").is_none());
        assert_eq!(read(gone).await, (204, Value::Null));
        let some = succeed(Some(Val::Option(Some(Box::new(order_value("a"))))));
        let some = response(&plan("POST /", &route, &function), "/", Trace(1), some);
        assert_eq!(some.headers()["location"], "/a");
        assert_eq!(some.status(), 201);
    }

    #[tokio::test]
    async fn option_of_an_option_is_the_inner_one() {
        let plan = plan("GET /", &route(), &function(&[], Some(option(option(Type::U8)))));
        let some = |value| Val::Option(Some(Box::new(value)));
        assert_eq!(answer(&plan, Ok(vec![some(some(Val::U8(7)))])).await, (200, json!(7)));
        assert_eq!(answer(&plan, Ok(vec![some(Val::Option(None))])).await, (200, Value::Null));
        assert_eq!(answer(&plan, Ok(vec![Val::Option(None)])).await.0, 404);
    }

    #[test]
    fn location_is_encoded_once() {
        let route = HttpRoute { location: Some("/{shop}/{id}/{user-id}".to_owned()), ..order_route() };
        let plan = plan("POST /shops/{shop}", &route, &place(&[("shop", Type::String)]));
        let response = response(&plan, "/shops/a%20b", Trace(1), succeed(Some(order_value("ü/\r\n?"))));
        assert_eq!(response.headers()["location"], "/a%20b/%C3%BC%2F%0D%0A%3F/7");
    }

    #[tokio::test]
    async fn case_of_a_field_gives_success_its_status() {
        let state = one_of(&["pending", "all-done"]);
        let order = record(&[("id", Type::String), ("state", state)]);
        let when = [("state".to_owned(), [("pending".to_owned(), 202)].into())].into();
        let route = HttpRoute { status: Some(201), when, ..route() };
        let value = |case: &str| {
            let fields = vec![("id".to_owned(), text("a")), ("state".to_owned(), Val::Enum(case.to_owned()))];
            Val::Record(fields)
        };
        for (order, some) in [(order.clone(), false), (option(order), true)] {
            let plan = plan("POST /", &route, &function(&[], result(Some(order), Some(failure()))));
            for (case, status) in [("pending", 202), ("all-done", 201)] {
                let value = if some { Val::Option(Some(Box::new(value(case)))) } else { value(case) };
                assert_eq!(answer(&plan, succeed(Some(value))).await.0, status);
            }
        }
    }

    #[tokio::test]
    async fn error_cases_are_problems() {
        let plan = plan("POST /", &order_route(), &place(&[]));
        let (status, document) = answer(&plan, refuse(case("invalid", Some(text("too many"))))).await;
        assert_eq!(
            (status, &document["case"], &document["detail"]),
            (422, &json!("invalid"), &json!("too many"))
        );
        let unknown = case("unknown-products", Some(Val::List(vec![text("a")])));
        let (status, document) = answer(&plan, refuse(unknown)).await;
        assert_eq!((status, &document["case"]), (422, &json!("unknown_products")));
        assert_eq!(document["payload"], json!(["a"]));
        let (status, document) = answer(&plan, refuse(case("not-found", None))).await;
        assert_eq!((status, document.get("payload"), document.get("detail")), (404, None, None));
    }

    #[tokio::test]
    async fn error_without_cases_is_a_problem() {
        let route = HttpRoute { errors: [("error".to_owned(), 418)].into(), ..route() };
        let plan = |error| plan("POST /", &route, &function(&[], result(None, error)));
        assert_eq!(answer(&plan(Some(Type::String)), refuse(text("no"))).await.1["detail"], "no");
        let listed = answer(&plan(Some(list(Type::U32))), refuse(Val::List(vec![Val::U32(1)]))).await;
        assert_eq!((listed.0, &listed.1["payload"]), (418, &json!([1])));
        assert_eq!(answer(&plan(None), Ok(vec![Val::Result(Err(None))])).await.0, 418);
    }

    #[tokio::test]
    async fn failed_calls_keep_the_text_of_modules_back() {
        let by_case = plan("POST /", &order_route(), &place(&[]));
        let whole = plan("POST /", &route(), &function(&[], result(None, Some(failure()))));
        for (name, status) in [("unavailable", 503), ("uncertain", 504)] {
            let failure = || case(name, Some(text("secret")));
            for (plan, error) in [(&by_case, case("failed", Some(failure()))), (&whole, failure())] {
                let (found, document) = answer(plan, refuse(error)).await;
                assert_eq!(found, status);
                assert!(!document.to_string().contains("secret"), "{document}");
            }
        }
    }

    #[tokio::test]
    async fn calls_without_an_answer_have_fixed_statuses() {
        let plan = plan("POST /", &route(), &function(&[], None));
        let function = || "secret".to_owned();
        for (error, status) in [
            (CallError::Expired { function: function() }, 503),
            (CallError::Refused { reason: function() }, 503),
            (CallError::Trapped { function: function(), reason: String::new() }, 504),
            (CallError::ResultTooLarge { function: function(), size: 2, limit: 1 }, 504),
            (CallError::ArgumentsTooLarge { function: function(), size: 2, limit: 1 }, 413),
        ] {
            let (found, document) = answer(&plan, Err(error)).await;
            assert_eq!(found, status);
            assert!(!document.to_string().contains("secret"), "{document}");
        }
    }

    #[tokio::test]
    async fn answers_that_do_not_fit_are_the_hosts_failure() {
        let number = plan("GET /", &route(), &function(&[], Some(Type::F64)));
        assert_eq!(answer(&number, Ok(vec![Val::Float64(f64::NAN)])).await.0, 500);
        let order = plan("GET /", &order_route(), &function(&[], result(None, Some(error()))));
        assert_eq!(answer(&order, refuse(case("other", None))).await.0, 500);
        assert_eq!(answer(&order, refuse(Val::Bool(true))).await.0, 500);
    }
}
