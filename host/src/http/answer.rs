//! Owns what a client is told of a call: the value of success, the error that the function answered, or that no
//! answer came.
//!
//! A failed call is told in fixed words and by the request's id; what the module or the host says of it goes to the
//! log. A call that did not run is 503, one that may have run is 504, at whatever distance it failed.

use super::plan::{Errors, Part, Plan, success_type};
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
pub(super) fn response(plan: &Plan, path: &str, trace: Trace, outcome: Result<Vec<Val>, CallError>) -> Response {
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
        (Some(ty), Some(value)) => (plan.status, Some(json(plan, trace, ty, value)?)),
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

/// A value in JSON; a number that is none, such as NaN, has no form there.
fn json(plan: &Plan, trace: Trace, ty: &Type, value: &Val) -> Result<Vec<u8>, Problem> {
    values::to_json(ty, value).map_err(|error| {
        tracing::error!(%trace, "the answer of `{}` is not JSON: {error}", plan.function.address);
        Problem::internal()
    })
}

fn location(parts: &[Part], path: &str, value: Option<&Val>) -> String {
    let record = match value {
        Some(Val::Option(Some(inner))) => Some(&**inner),
        value => value,
    };
    let fields: &[(String, Val)] = if let Some(Val::Record(fields)) = record { fields } else { &[] };
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
        CallError::NoInstance { .. } | CallError::Refused { .. } | CallError::AnswerLost { .. } => {
            tracing::warn!(%trace, "`{function}` brought no answer: {error}");
        }
        // The pool has logged what failed, and counts what it refuses under load.
        _ => tracing::debug!(%trace, "`{function}` brought no answer: {error}"),
    }
    if error.may_have_run() { Problem::uncertain() } else { Problem::unavailable() }
}
