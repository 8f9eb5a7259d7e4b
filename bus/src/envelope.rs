//! Owns what a call looks like as bytes: one request, one reply, both in postcard.
//!
//! A request is refused, never guessed at: another [`VERSION`], bytes left over, a fingerprint that differs, an expiry
//! that has passed. The arguments and the result stay opaque here; whoever knows their types decodes them.

use crate::failure::CallError;
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The version of the envelope. A node refuses requests of another one.
pub const VERSION: u8 = 1;
/// Versions are below this byte, the first that a text may begin with.
const FIRST_OF_TEXT: u8 = b' ';

/// A call on its way to the callee.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request<'a> {
    /// [`VERSION`] of the sender.
    pub version: u8,
    /// The node that calls, for the log of the one that is called.
    pub caller: &'a str,
    /// The contract's track, `shop:catalog/products@0.1`: versions that are compatible have one.
    pub track: &'a str,
    /// The function's name in the contract.
    pub function: &'a str,
    /// The fingerprint of the function's type as the caller knows it.
    pub fingerprint: u64,
    /// The identity of this call, for the log of the node that is called; over the bus it is the last token of the subject
    /// that the answer goes to.
    pub call: u128,
    /// The trace the call belongs to.
    pub trace: u128,
    /// When the call is no longer wanted, in milliseconds since 1970, by the caller's clock.
    pub expires_unix_ms: u64,
    /// The time that was left when the call was sent, in milliseconds.
    pub remaining_ms: u64,
    /// The arguments, encoded by their types.
    #[serde(borrow, serialize_with = "as_bytes")]
    pub arguments: &'a [u8],
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply<'a> {
    /// [`VERSION`] of the sender.
    pub version: u8,
    /// How the call came out.
    #[serde(borrow)]
    pub outcome: Outcome<'a>,
}

/// How a call came out, as its callee's node tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome<'a> {
    /// The function returned; its result, encoded by its type.
    Returned(#[serde(borrow, serialize_with = "as_bytes")] &'a [u8]),
    /// The call did not run, and why; to try again would not help, or add to what is too much already.
    Refused(&'a str),
    /// The call did not run here, and why; another replica may take it.
    TurnedAway(&'a str),
    /// The call may have run, and what happened.
    Failed(&'a str),
}

/// Bytes that are no envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// They cannot be read.
    #[error("not an envelope: {0}")]
    Malformed(postcard::Error),
    /// They were written by another version of the protocol.
    #[error("the envelope has version {found}, this node speaks version {VERSION}")]
    Version {
        /// The version that was found.
        found: u8,
    },
    /// There is more after the end.
    #[error("{0} bytes follow the envelope")]
    Trailing(usize),
}

impl<'a> Request<'a> {
    /// The request as bytes.
    ///
    /// # Errors
    /// If the encoder refuses, which it has no reason to.
    pub fn encode(&self) -> Result<Vec<u8>, EnvelopeError> {
        postcard::to_stdvec(self).map_err(EnvelopeError::Malformed)
    }

    /// Reads a request.
    ///
    /// # Errors
    /// If the bytes are not exactly one request of this [`VERSION`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        of_this_version(bytes)
    }

    /// The time this call still has at the receiver: what was left at the sender, or less if its expiry is nearer.
    /// A clock that differs between the two can only shorten it.
    #[must_use]
    pub fn time_left(&self, now: SystemTime) -> Duration {
        let now_ms =
            now.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        Duration::from_millis(self.remaining_ms.min(self.expires_unix_ms.saturating_sub(now_ms)))
    }
}

impl<'a> Reply<'a> {
    /// The reply that tells this outcome.
    #[must_use]
    pub fn new(outcome: Outcome<'a>) -> Self {
        Self { version: VERSION, outcome }
    }

    /// The reply as bytes.
    ///
    /// # Errors
    /// If the encoder refuses, which it has no reason to.
    pub fn encode(&self) -> Result<Vec<u8>, EnvelopeError> {
        postcard::to_stdvec(self).map_err(EnvelopeError::Malformed)
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// If the bytes are not exactly one reply of this [`VERSION`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        of_this_version(bytes)
    }

    /// The result's bytes, or the error that the caller has.
    ///
    /// # Errors
    /// What the callee's node tells of a call that brought no result.
    pub fn result(self) -> Result<&'a [u8], CallError> {
        let owned = |reason: &str| reason.to_owned();
        match self.outcome {
            Outcome::Returned(result) => Ok(result),
            Outcome::Refused(reason) => Err(CallError::Refused { reason: owned(reason) }),
            Outcome::TurnedAway(reason) => Err(CallError::TurnedAway { reason: owned(reason) }),
            Outcome::Failed(reason) => Err(CallError::CalleeFailed { reason: owned(reason) }),
        }
    }
}

impl<'a> Outcome<'a> {
    /// How a call with this error came out; `text` is what the error says.
    #[must_use]
    pub fn of_error(error: &CallError, text: &'a str) -> Self {
        match error {
            CallError::TurnedAway { .. } => Self::TurnedAway(text),
            error if error.may_have_run() => Self::Failed(text),
            _ => Self::Refused(text),
        }
    }
}

/// Writes bytes at once; a slice by itself is a sequence to serde, which is written one by one.
fn as_bytes<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// Reads what begins with [`VERSION`], as every envelope does: so it can be told before anything else is read. No text begins
/// so: what does is no envelope of any version.
fn of_this_version<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, EnvelopeError> {
    match bytes.first() {
        Some(&VERSION) => whole(bytes),
        Some(&found) if found < FIRST_OF_TEXT => Err(EnvelopeError::Version { found }),
        Some(_) => Err(EnvelopeError::Malformed(postcard::Error::DeserializeBadEncoding)),
        None => Err(EnvelopeError::Malformed(postcard::Error::DeserializeUnexpectedEnd)),
    }
}

fn whole<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, EnvelopeError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(EnvelopeError::Trailing(rest.len())),
        Err(error) => Err(EnvelopeError::Malformed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(arguments: &[u8]) -> Request<'_> {
        Request {
            version: VERSION,
            caller: "front",
            track: "shop:catalog/products@0.1",
            function: "get",
            fingerprint: 7,
            call: 1,
            trace: 2,
            expires_unix_ms: 10_000,
            remaining_ms: 5_000,
            arguments,
        }
    }

    #[test]
    fn other_version_is_told_apart() {
        let mut bytes = request(&[]).encode().unwrap();
        bytes[0] = 2;
        assert_eq!(Request::decode(&bytes), Err(EnvelopeError::Version { found: 2 }));
        for text in ["{\"stream\":\"calls\"}", " ", "é"] {
            let decoded = Reply::decode(text.as_bytes());
            assert!(matches!(decoded, Err(EnvelopeError::Malformed(_))), "{text}: {decoded:?}");
        }
    }

    #[test]
    fn full_queue_is_no_reason_to_try_again_at_any_distance() {
        let error = CallError::QueueFull { module: "catalog".to_owned(), waiting: 3 };
        let text = error.to_string();
        let bytes = Reply::new(Outcome::of_error(&error, &text)).encode().unwrap();
        let told = Reply::decode(&bytes).unwrap().result().unwrap_err();
        assert!(!error.is_worth_another_try(true) && !told.is_worth_another_try(true), "{told:?}");
    }

    #[test]
    fn bytes_after_the_end_are_refused() {
        let mut bytes = request(b"abc").encode().unwrap();
        bytes.push(0);
        assert_eq!(Request::decode(&bytes), Err(EnvelopeError::Trailing(1)));
    }

    #[test]
    fn differing_clock_only_shortens_the_time() {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        assert_eq!(request(&[]).time_left(at(6_000)), Duration::from_secs(4));
        assert_eq!(request(&[]).time_left(at(1_000)), Duration::from_secs(5));
        assert_eq!(request(&[]).time_left(at(20_000)), Duration::ZERO);
    }

    #[test]
    fn caller_learns_whether_the_call_may_have_run() {
        let reason = || "why".to_owned();
        for error in [
            CallError::Refused { reason: reason() },
            CallError::TurnedAway { reason: reason() },
            CallError::QueueFull { module: "catalog".to_owned(), waiting: 3 },
            CallError::Expired { function: reason() },
            CallError::Trapped { function: reason(), reason: reason() },
            CallError::TimedOut { function: reason(), limit: Duration::ZERO },
            CallError::CalleeFailed { reason: reason() },
        ] {
            let text = error.to_string();
            let bytes = Reply::new(Outcome::of_error(&error, &text)).encode().unwrap();
            let told = Reply::decode(&bytes).unwrap().result().unwrap_err();
            assert_eq!(told.may_have_run(), error.may_have_run(), "{error:?} was told as {told:?}");
        }
    }

    proptest! {
        #[test]
        fn requests_survive_the_wire(arguments: Vec<u8>, fingerprint: u64, call: u128) {
            let sent = Request { fingerprint, call, ..request(&arguments) };
            let bytes = sent.encode().unwrap();
            prop_assert_eq!(Request::decode(&bytes).unwrap(), sent);
        }

        #[test]
        fn garbage_is_refused_or_read_but_never_panics(bytes: Vec<u8>) {
            let _ = Request::decode(&bytes);
            let _ = Reply::decode(&bytes);
        }
    }
}
