//! Owns the way from a request to arguments, as its route's plan says.
//!
//! Strict on purpose: a name that nobody asked for, a name given twice, a value of another type is refused with its
//! place, never dropped or guessed. The body is read last, within a size and a time; nothing has run until then.

use super::plan::{Body as Shape, Plan, Source, Times};
use super::problem::Problem;
use crate::types::{Field, Type};
use crate::values;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri};
use http_body_util::BodyExt;
use std::borrow::Cow;
use std::time::Duration;
use wasmtime::component::Val;

/// How large a body may be, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    pub(super) max: usize,
    pub(super) timeout: Duration,
}

/// Reads the arguments of the route's function out of a request.
pub(super) async fn arguments(plan: &Plan, head: &Parts, body: Body, limits: BodyLimits) -> Result<Vec<Val>, Problem> {
    let mut slots = from_uri(plan, &head.uri)?;
    if plan.body == Shape::Empty {
        refuse_body(body, limits.timeout).await?;
    } else {
        let bytes = read_body(body, limits).await?;
        let mut values = from_body(&plan.body, &head.headers, &bytes)?.into_iter();
        for slot in slots.iter_mut().filter(|slot| slot.is_none()) {
            *slot = values.next();
        }
    }
    // Every source has filled its slots, or the request has been refused.
    slots.into_iter().collect::<Option<_>>().ok_or_else(Problem::internal)
}

/// The arguments that path and query give; those of the body stay open.
fn from_uri(plan: &Plan, uri: &Uri) -> Result<Vec<Option<Val>>, Problem> {
    let parameters = &plan.function.parameters;
    let mut slots = vec![None; parameters.len()];
    for (slot, (source, parameter)) in slots.iter_mut().zip(plan.sources.iter().zip(parameters.iter())) {
        if let Source::Path(index) = source {
            let segment = uri.path().split('/').nth(*index).unwrap_or_default();
            *slot = Some(scalar("the path's", parameter, &parameter.ty, &decode(segment, false)?)?);
        }
    }
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
        add_query(plan, &mut slots, &decode(name, true)?, &decode(text, true)?)?;
    }
    for (slot, (source, parameter)) in slots.iter_mut().zip(plan.sources.iter().zip(parameters.iter())) {
        match source {
            Source::Query(Times::Once) if slot.is_none() => {
                return Err(Problem::bad_request(format!("the query lacks `{}`", parameter.name.json)));
            }
            Source::Query(Times::AtMostOnce) if slot.is_none() => *slot = Some(Val::Option(None)),
            Source::Query(Times::Any) if slot.is_none() => *slot = Some(Val::List(Vec::new())),
            _ => {}
        }
    }
    Ok(slots)
}

fn add_query(plan: &Plan, slots: &mut [Option<Val>], name: &str, text: &str) -> Result<(), Problem> {
    let sources = plan.sources.iter().zip(plan.function.parameters.iter());
    let mut wanted = sources.zip(slots).filter_map(|((source, parameter), slot)| match source {
        Source::Query(times) => Some((*times, parameter, slot)),
        _ => None,
    });
    let Some((times, parameter, slot)) = wanted.find(|(_, parameter, _)| parameter.name.json == name) else {
        return Err(Problem::bad_request(format!("the query has `{name}`, which the route does not take")));
    };
    let read = |ty: &Type| scalar("the query's", parameter, ty, text);
    match (times, &parameter.ty, &mut *slot) {
        (Times::Any, Type::List(item), Some(Val::List(values))) => values.push(read(item)?),
        (_, _, Some(_)) => return Err(Problem::bad_request(format!("the query has `{name}` twice"))),
        (Times::Any, Type::List(item), None) => *slot = Some(Val::List(vec![read(item)?])),
        (_, Type::Option(inner), None) => *slot = Some(Val::Option(Some(Box::new(read(inner)?)))),
        (_, ty, None) => *slot = Some(read(ty)?),
    }
    Ok(())
}

fn scalar(whose: &str, parameter: &Field, ty: &Type, text: &str) -> Result<Val, Problem> {
    let wrong = |reason: &dyn std::fmt::Display| {
        Problem::bad_request(format!("{whose} `{}`: {reason}", parameter.name.json))
    };
    // Why: numbers are read as JSON is, and JSON would skip white space around them.
    if !matches!(ty, Type::String | Type::Char) && text.contains(char::is_whitespace) {
        return Err(wrong(&"it has white space"));
    }
    values::from_text(ty, text).map_err(|error| wrong(&error))
}

/// Takes the percent-encoding off a part of a path or, with `+` for a space, of a query.
fn decode(text: &str, in_query: bool) -> Result<Cow<'_, str>, Problem> {
    let is_encoded = |byte: u8| byte == b'%' || (in_query && byte == b'+');
    if !text.bytes().any(is_encoded) {
        return Ok(Cow::Borrowed(text));
    }
    let wrong = |what| Problem::bad_request(format!("`{text}` is not {what}"));
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|d| u8::try_from(d).ok());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => match (digit(bytes.next()), digit(bytes.next())) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(wrong("percent-encoded: `%` is followed by two hexadecimal digits")),
            },
            b'+' if in_query => b' ',
            byte => byte,
        });
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| wrong("UTF-8 when decoded"))
}

/// The values that a body gives, in the order of the parameters it fills.
fn from_body(shape: &Shape, headers: &HeaderMap, body: &[u8]) -> Result<Vec<Val>, Problem> {
    if body.is_empty() {
        return match shape {
            Shape::Value(Type::Option(_)) => Ok(vec![Val::Option(None)]),
            _ => Err(Problem::bad_request("the body is empty, and the route takes JSON")),
        };
    }
    if !headers.get(CONTENT_TYPE).is_some_and(|value| is_json(value.as_bytes())) {
        let detail = "the body must be JSON, with content-type application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let values = match shape {
        Shape::Empty => Ok(Vec::new()),
        Shape::Value(ty) => values::from_json(ty, body).map(|value| vec![value]),
        Shape::Object(parameters) => values::parameters_from_json(parameters, body),
    };
    values.map_err(|error| Problem::bad_request(format!("the body: {error}")))
}

/// Whether a content type is `application/json`, in UTF-8 if it says a charset.
fn is_json(content_type: &[u8]) -> bool {
    let mut parts = content_type.split(|b| *b == b';').map(<[u8]>::trim_ascii);
    let is_json = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/json"));
    is_json
        && parts.all(|parameter| match parameter.split_at_checked(b"charset=".len()) {
            Some((name, charset)) if name.eq_ignore_ascii_case(b"charset=") => {
                charset.eq_ignore_ascii_case(b"utf-8") || charset.eq_ignore_ascii_case(b"\"utf-8\"")
            }
            _ => true,
        })
}

/// Why a body could not be read.
enum BodyError {
    TooLarge,
    TooSlow,
    Broken,
}

async fn read_body(body: Body, limits: BodyLimits) -> Result<Bytes, Problem> {
    collect(body, limits).await.map_err(|error| match error {
        BodyError::TooLarge => {
            let detail = format!("the body is larger than {} bytes", limits.max);
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        }
        error => broken(error),
    })
}

async fn refuse_body(body: Body, timeout: Duration) -> Result<(), Problem> {
    match collect(body, BodyLimits { max: 0, timeout }).await {
        Ok(_) => Ok(()),
        Err(BodyError::TooLarge) => Err(Problem::bad_request("the route takes no body")),
        Err(error) => Err(broken(error)),
    }
}

fn broken(error: BodyError) -> Problem {
    match error {
        BodyError::TooSlow => Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
        _ => Problem::bad_request("the body broke off"),
    }
}

async fn collect(body: Body, limits: BodyLimits) -> Result<Bytes, BodyError> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    // What `content-length` says; a client that waits to be asked for the body is not asked.
    if body.size_hint().lower() > limits.max as u64 {
        return Err(BodyError::TooLarge);
    }
    let whole = collect_frames(body, limits.max);
    tokio::time::timeout(limits.timeout, whole).await.unwrap_or(Err(BodyError::TooSlow))
}

async fn collect_frames(mut body: Body, max: usize) -> Result<Bytes, BodyError> {
    let mut first = Bytes::new();
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        // Trailers say nothing that is asked for.
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        if data.len() > max.saturating_sub(first.len() + rest.len()) {
            return Err(BodyError::TooLarge);
        }
        // Why: most bodies come in one piece, and that piece is not copied.
        if first.is_empty() { first = data } else { rest.extend_from_slice(&data) }
    }
    if rest.is_empty() { Ok(first) } else { Ok([&first, rest.as_slice()].concat().into()) }
}
