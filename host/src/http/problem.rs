//! Owns problem documents: how every answer that is no success looks, as RFC 9457 describes it.
//!
//! Their `type` is always `about:blank`, so `title` is the status in words. What tells the errors of a function apart
//! is `case`, its name in snake_case; a case that carries a text has it as `detail`, any other payload is `payload`.
//! `request_id` finds the request in the log, where what is not for clients stands.

use super::trace::Trace;
use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;
use std::borrow::Cow;

/// The most bytes of a detail that quotes what the client sent.
const QUOTE_MAX: usize = 500;

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
    case: Option<String>,
    /// As JSON text.
    payload: Option<Vec<u8>>,
    extra: Extra,
}

/// A header beside those that every problem has.
#[derive(Debug)]
enum Extra {
    None,
    RetryAfter,
    Allow(HeaderValue),
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    case: Option<&'a str>,
    request_id: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into(), case: None, payload: None, extra: Extra::None }
    }

    /// A request that does not fit its route. What it quotes may be as long as the client likes, so it is cut.
    pub(super) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, clip(detail.into()))
    }

    /// The host itself failed.
    pub(super) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the host failed; its log says how")
    }

    /// A call that did not run.
    pub(super) fn unavailable() -> Self {
        let detail = "the request was not carried out; send it again";
        Self { extra: Extra::RetryAfter, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    /// A call that may have run.
    pub(super) fn uncertain() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "there was no answer, and the request may have been carried out",
        )
    }

    pub(super) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is no route to this path")
    }

    /// `allow` lists the methods that the path has.
    pub(super) fn wrong_method(allow: HeaderValue) -> Self {
        let detail = "the path has other methods";
        Self { extra: Extra::Allow(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, detail) }
    }

    /// The error case of a function.
    pub(super) fn with_case(self, case: String) -> Self {
        Self { case: Some(case), ..self }
    }

    pub(super) fn with_payload(self, json: Vec<u8>) -> Self {
        Self { payload: Some(json), ..self }
    }

    pub(super) fn response(self, trace: Trace) -> Response {
        let document = Document {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Unknown"),
            status: self.status.as_u16(),
            detail: &self.detail,
            case: self.case.as_deref(),
            request_id: trace.to_string(),
        };
        // Strings and numbers always have a form in JSON.
        let mut json = serde_json::to_vec(&document).unwrap_or_default();
        if let Some(payload) = self.payload
            && json.pop().is_some()
        {
            json.extend_from_slice(b",\"payload\":");
            json.extend_from_slice(&payload);
            json.push(b'}');
        }
        let mut response = Response::new(Body::from(json));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self.extra {
            Extra::None => None,
            Extra::RetryAfter => headers.insert(RETRY_AFTER, HeaderValue::from_static("1")),
            Extra::Allow(methods) => headers.insert(ALLOW, methods),
        };
        trace.write(headers);
        response
    }

    #[cfg(test)]
    pub(super) fn parts(&self) -> (u16, &str) {
        (self.status.as_u16(), &self.detail)
    }
}

fn clip(text: Cow<'static, str>) -> Cow<'static, str> {
    if text.len() <= QUOTE_MAX {
        return text;
    }
    let start: String =
        text.char_indices().take_while(|(at, c)| at + c.len_utf8() <= QUOTE_MAX).map(|(_, c)| c).collect();
    Cow::Owned(start + "…")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use http_body_util::BodyExt;

    /// A response as its status and its body, a document in JSON.
    pub(in super::super) async fn read(response: Response) -> (u16, serde_json::Value) {
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (
            status,
            if bytes.is_empty() { serde_json::Value::Null } else { serde_json::from_slice(&bytes).unwrap() },
        )
    }

    #[tokio::test]
    async fn document_is_as_the_standard_says() {
        let problem =
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "").with_case("unknown_products".to_owned());
        let response = problem.with_payload(br#"["a","b"]"#.to_vec()).response(Trace(7));
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["x-request-id"], "00000000000000000000000000000007");
        let expected = serde_json::json!({
            "type": "about:blank",
            "title": "Unprocessable Entity",
            "status": 422,
            "case": "unknown_products",
            "payload": ["a", "b"],
            "request_id": "00000000000000000000000000000007",
        });
        assert_eq!(read(response).await, (422, expected));
    }

    #[tokio::test]
    async fn failed_calls_are_answered_in_fixed_words() {
        let response = Problem::unavailable().response(Trace(1));
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(read(response).await.0, 503);
        assert_eq!(read(Problem::uncertain().response(Trace(1))).await.0, 504);
    }

    #[tokio::test]
    async fn status_without_a_name_has_a_title() {
        let (_, document) =
            read(Problem::new(StatusCode::from_u16(499).unwrap(), "x").response(Trace(1))).await;
        assert_eq!(document["title"], "Unknown");
    }

    #[test]
    fn quotes_are_cut_between_characters() {
        let problem = Problem::bad_request("é".repeat(1_000));
        assert!(problem.detail.len() <= QUOTE_MAX + "…".len());
        assert!(problem.detail.ends_with("é…"));
    }
}
