//! Owns the way from a request to arguments, as its route's plan says.
//!
//! Strict on purpose: a name that nobody asked for, a name given twice, a value of another type is refused with its
//! place, never dropped or guessed. The body is read last, within a size and a time; nothing has run until then.

use super::plan::{Body as Shape, Plan, Source, Times};
use super::problem::Problem;
use crate::types::{Field, Type};
use crate::values::{self, ValueError};
use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
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
    /// The most bytes that the arguments may take, encoded.
    pub(super) payload_max: usize,
    pub(super) timeout: Duration,
}

/// Reads the arguments of the route's function out of a request.
pub(super) async fn arguments(
    plan: &Plan,
    head: &Parts,
    body: Body,
    limits: BodyLimits,
) -> Result<Vec<Val>, Problem> {
    let mut slots = from_uri(plan, &head.uri)?;
    if plan.body == Shape::Empty {
        refuse_body(body, limits.timeout).await?;
    } else {
        let bytes = read_body(body, limits).await?;
        let mut values = from_body(&plan.body, &head.headers, &bytes, limits.payload_max)?.into_iter();
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
            let whose = || format!("the path's `{}`", parameter.name.json);
            let text = decode(segment, false).map_err(|what| not(whose(), segment, what))?;
            *slot = Some(scalar("the path's", parameter, &parameter.ty, &text)?);
        }
    }
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = decode(name, true).map_err(|what| not("a name of the query".to_owned(), name, what))?;
        let value = decode(text, true).map_err(|what| not(format!("the query's `{decoded}`"), text, what))?;
        add_query(plan, &mut slots, &decoded, &value)?;
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
    values::from_text(ty, text).map_err(|error| wrong(&error))
}

fn not(whose: String, text: &str, what: &str) -> Problem {
    Problem::bad_request(format!("{whose}: `{text}` is not {what}"))
}

/// Takes the percent-encoding off a part of a path or, with `+` for a space, of a query; or says what it is not.
fn decode(text: &str, in_query: bool) -> Result<Cow<'_, str>, &'static str> {
    let is_encoded = |byte: u8| byte == b'%' || (in_query && byte == b'+');
    if !text.bytes().any(is_encoded) {
        return Ok(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|d| u8::try_from(d).ok());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => match (digit(bytes.next()), digit(bytes.next())) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err("percent-encoded: `%` is followed by two hexadecimal digits"),
            },
            b'+' if in_query => b' ',
            byte => byte,
        });
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| "UTF-8 when decoded")
}

/// The values that a body gives, in the order of the parameters it fills.
fn from_body(
    shape: &Shape,
    headers: &HeaderMap,
    body: &[u8],
    payload_max: usize,
) -> Result<Vec<Val>, Problem> {
    if body.is_empty() {
        return match shape {
            Shape::Value(Type::Option(_)) => Ok(vec![Val::Option(None)]),
            _ => Err(Problem::bad_request("the body is empty, and the route takes JSON")),
        };
    }
    if headers
        .get(CONTENT_ENCODING)
        .is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        let detail = "the body must be as it is, without content-encoding";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let is_json = types.next().is_some_and(|value| is_json(value.as_bytes()));
    if !is_json || types.next().is_some() {
        let detail = "the body must be JSON, with content-type application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let values = match shape {
        Shape::Empty => Ok(Vec::new()),
        Shape::Value(ty) => values::from_json(ty, body, payload_max).map(|value| vec![value]),
        Shape::Object(parameters) => values::parameters_from_json(parameters, body, payload_max),
    };
    values.map_err(|error| match error {
        ValueError::TooLarge => {
            let detail = format!("the request holds more than the {payload_max} bytes that a call may take");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        }
        ValueError::Unfit(_) => Problem::bad_request(format!("the body: {error}")),
    })
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
    match collect(body, BodyLimits { max: 0, payload_max: 0, timeout }).await {
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

#[cfg(test)]
mod tests {
    use super::super::sample::{function, list, one_of, option, order, plan, record, route};
    use super::*;
    use axum::http::Request;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    const LIMITS: BodyLimits = BodyLimits { max: 64, payload_max: 1 << 20, timeout: Duration::from_secs(60) };

    /// What a request to a route becomes: its arguments, or status and detail.
    async fn read(
        route_key: &str,
        parameters: &[(&str, Type)],
        uri: &str,
        body: Body,
    ) -> Result<Vec<Val>, (u16, String)> {
        read_as(route_key, parameters, uri, body, Some("application/json")).await
    }

    async fn read_as(
        route_key: &str,
        parameters: &[(&str, Type)],
        uri: &str,
        body: Body,
        content_type: Option<&str>,
    ) -> Result<Vec<Val>, (u16, String)> {
        let plan = plan(route_key, &route(), &function(parameters, None));
        let mut request = Request::builder().uri(uri);
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        arguments(&plan, &head, body, LIMITS).await.map_err(|problem| {
            let (status, detail) = problem.parts();
            (status, detail.to_owned())
        })
    }

    async fn get(parameters: &[(&str, Type)], uri: &str) -> Result<Vec<Val>, (u16, String)> {
        read("GET /x", parameters, uri, Body::empty()).await
    }

    async fn post(parameters: &[(&str, Type)], body: &str) -> Result<Vec<Val>, (u16, String)> {
        read("POST /x", parameters, "/x", Body::from(body.to_owned())).await
    }

    #[track_caller]
    fn refused(outcome: Result<Vec<Val>, (u16, String)>, status: u16, part: &str) {
        let (found, detail) = outcome.expect_err("it was taken");
        assert!(found == status && detail.contains(part), "{found} {detail}");
    }

    fn text(text: &str) -> Val {
        Val::String(text.to_owned())
    }

    /// A body in pieces of unknown length.
    struct Pieces(Vec<&'static [u8]>);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
            let next = (!self.0.is_empty()).then(|| self.0.remove(0));
            Poll::Ready(next.map(|piece| Ok(hyper::body::Frame::data(Bytes::from_static(piece)))))
        }
    }

    /// A body that does not come.
    struct Silent;

    impl HttpBody for Silent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn path_fills_parameters_by_name() {
        let parameters = [("size", Type::U8), ("sku", Type::String)];
        let path = |path| read("GET /p/{sku}/{size}", &parameters, path, Body::empty());
        assert_eq!(path("/p/a%2Fb+%C3%BC/255").await, Ok(vec![Val::U8(255), text("a/b+ü")]));
        refused(path("/p/a/256").await, 400, "the path's `size`");
        refused(path("/p/a/1.0").await, 400, "the path's `size`");
        refused(path("/p/a/%201").await, 400, "is not an integer");
        refused(path("/p/%zz/1").await, 400, "hexadecimal");
        refused(path("/p/%4/1").await, 400, "hexadecimal");
        refused(path("/p/%FF/1").await, 400, "UTF-8");
        refused(path("/p/a/1?x=1").await, 400, "`x`, which the route does not take");
    }

    #[tokio::test]
    async fn query_fills_what_is_left() {
        let parameters = [
            ("user-id", Type::U64),
            ("after", option(Type::String)),
            ("status", list(one_of(&["in-work", "done"]))),
        ];
        let done = |name: &str| Val::Enum(name.to_owned());
        let some = |value| Val::Option(Some(Box::new(value)));
        assert_eq!(
            get(&parameters, "/x?status=done&user_id=7&after=a%26b+c&&status=in_work").await,
            Ok(vec![Val::U64(7), some(text("a&b c")), Val::List(vec![done("done"), done("in-work")])])
        );
        assert_eq!(
            get(&parameters, "/x?user%5Fid=7").await,
            Ok(vec![Val::U64(7), Val::Option(None), Val::List(Vec::new())])
        );
        assert_eq!(get(&parameters, "/x?user_id=7&after").await.unwrap()[1], some(text("")));
        refused(get(&parameters, "/x").await, 400, "lacks `user_id`");
        refused(get(&parameters, "/x?user-id=7").await, 400, "`user-id`, which the route does not take");
        refused(get(&parameters, "/x?user_id=7&user_id=7").await, 400, "`user_id` twice");
        refused(get(&parameters, "/x?user_id=7&after=a&after=b").await, 400, "`after` twice");
        refused(get(&parameters, "/x?user_id=-1").await, 400, "the query's `user_id`");
        refused(get(&parameters, "/x?user_id=").await, 400, "the query's `user_id`");
        refused(get(&parameters, "/x?user_id=7&status=lost").await, 400, "the query's `status`");
        refused(get(&parameters, "/x?user_id=%F0%28").await, 400, "UTF-8");
        refused(get(&parameters, "/x?user_id=7&other=1").await, 400, "`other`");
    }

    #[tokio::test]
    async fn body_is_the_only_parameter() {
        let parameters = [("order", record(&[("user-id", Type::U64), ("note", option(Type::String))]))];
        let value = post(&parameters, r#"{"user_id": 18446744073709551615}"#).await.unwrap();
        let Val::Record(fields) = &value[0] else { panic!("{value:?}") };
        assert_eq!(fields[0].1, Val::U64(u64::MAX));
        refused(post(&parameters, "").await, 400, "empty");
        refused(post(&parameters, "{").await, 400, "the body: ");
        refused(post(&parameters, r#"{"user_id": 1} x"#).await, 400, "trailing");
        refused(post(&parameters, r#"{"user_id": "1"}"#).await, 400, "the body: user_id: ");
        refused(post(&parameters, r#"{"user_id": 1.0}"#).await, 400, "the body: user_id: ");
        refused(post(&parameters, r#"{"user_id": -1}"#).await, 400, "the body: user_id: ");
        refused(post(&parameters, r#"{"user_id": 18446744073709551616}"#).await, 400, "the body: user_id: ");
        refused(post(&parameters, r#"{"user_id": 1, "x": 1}"#).await, 400, "unknown field `x`");
        refused(post(&parameters, r#"{"user_id": 1, "user_id": 1}"#).await, 400, "`user_id` is given twice");
        refused(post(&parameters, "{}").await, 400, "`user_id` is missing");
        refused(
            read("POST /x", &parameters, "/x", Body::from(&b"{\"note\": \"\xff\"}"[..])).await,
            400,
            "the body: ",
        );
        refused(
            read("POST /x", &parameters, "/x?user_id=1", Body::from("{}")).await,
            400,
            "`user_id`, which",
        );
    }

    #[tokio::test]
    async fn deep_json_is_refused() {
        let deep = "[".repeat(64);
        refused(post(&[("x", list(Type::Bool))], &deep).await, 400, "the body: ");
        refused(post(&[("x", Type::Bool)], &deep).await, 400, "the body: ");
    }

    #[tokio::test]
    async fn several_parameters_are_an_object() {
        let parameters = [("a", Type::U8), ("id", Type::String), ("b-c", option(Type::U8))];
        let body = |body: &str| read("PUT /{id}", &parameters, "/x", Body::from(body.to_owned()));
        let some = Val::Option(Some(Box::new(Val::U8(2))));
        assert_eq!(body(r#"{"b_c": 2, "a": 1}"#).await, Ok(vec![Val::U8(1), text("x"), some]));
        assert_eq!(body(r#"{"a": 1}"#).await, Ok(vec![Val::U8(1), text("x"), Val::Option(None)]));
        refused(body(r#"{"a": 1, "id": "y"}"#).await, 400, "unknown field `id`");
        refused(body("").await, 400, "empty");
    }

    #[tokio::test]
    async fn option_may_have_no_body() {
        assert_eq!(post(&[("x", option(order()))], "").await, Ok(vec![Val::Option(None)]));
        assert_eq!(post(&[("x", option(order()))], "null").await, Ok(vec![Val::Option(None)]));
    }

    #[tokio::test]
    async fn body_that_nobody_takes_is_refused() {
        assert_eq!(post(&[], "").await, Ok(Vec::new()));
        refused(post(&[], "{}").await, 400, "takes no body");
        refused(read("GET /x", &[], "/x", Body::from("{}")).await, 400, "takes no body");
        refused(read("DELETE /x", &[], "/x", Body::new(Pieces(vec![b"", b"x"]))).await, 400, "takes no body");
    }

    #[tokio::test]
    async fn body_is_json_by_its_content_type() {
        for good in
            ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\""]
        {
            assert!(
                read_as("POST /x", &[("x", Type::U8)], "/x", Body::from("1"), Some(good)).await.is_ok(),
                "{good}"
            );
        }
        for bad in
            [None, Some("text/plain"), Some("application/json; charset=latin1"), Some("application/jsonx")]
        {
            refused(
                read_as("POST /x", &[("x", Type::U8)], "/x", Body::from("1"), bad).await,
                415,
                "application/json",
            );
        }
    }

    #[tokio::test]
    async fn body_has_a_size() {
        let large = "1".repeat(LIMITS.max + 1);
        refused(post(&[("x", Type::String)], &large).await, 413, "64 bytes");
        let chunked = Body::new(Pieces(vec![&[b'1'; 40], &[b'1'; 25]]));
        refused(read("POST /x", &[("x", Type::String)], "/x", chunked).await, 413, "64 bytes");
        let fits = Body::new(Pieces(vec![b"\"", b"", b"ab", b"c\""]));
        assert_eq!(read("POST /x", &[("x", Type::String)], "/x", fits).await, Ok(vec![text("abc")]));
    }

    #[tokio::test]
    async fn body_has_a_time() {
        let limits = BodyLimits { max: 64, payload_max: 1 << 20, timeout: Duration::ZERO };
        let problem = read_body(Body::new(Silent), limits).await.unwrap_err();
        assert_eq!(problem.parts().0, 408);
    }
}
