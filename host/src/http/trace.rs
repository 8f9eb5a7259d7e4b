//! Owns the identity of a request: the trace that its calls belong to, told to the client as `x-request-id`.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The trace that a request belongs to; shows as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trace(pub(super) u128);

impl Trace {
    /// The trace that the client names in a valid `traceparent`, or a new one.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(TRACEPARENT).and_then(|value| traceparent(value.as_bytes()));
        Self(given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u128()))
    }

    /// Tells the client.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.to_string()) {
            headers.insert(REQUEST_ID, value);
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The trace id of a `traceparent` as W3C Trace Context defines it: `00-<32 digits>-<16 digits>-<2 digits>`. A later
/// version may be followed by more.
pub fn traceparent(value: &[u8]) -> Option<u128> {
    let mut parts = value.split(|b| *b == b'-');
    let version = hex(parts.next()?, 2)?;
    let trace = hex(parts.next()?, 32)?;
    let parent = hex(parts.next()?, 16)?;
    hex(parts.next()?, 2)?;
    let complete = parts.next().is_none() || version > 0;
    (version != 0xff && trace != 0 && parent != 0 && complete).then_some(trace)
}

fn hex(digits: &[u8], length: usize) -> Option<u128> {
    let lower = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    let valid = digits.len() == length && digits.iter().all(lower);
    u128::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| valid)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_of_the_client_is_kept() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let headers = HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_static(valid))]);
        assert_eq!(Trace::of(&headers).to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(traceparent(b"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more").is_some());
    }

    #[test]
    fn invalid_traceparents_are_ignored() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert_eq!(traceparent(text.as_bytes()), None, "{text}");
        }
    }
}
