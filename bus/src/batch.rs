//! Owns what events look like as bytes between nodes: some of one publisher's for one subscriber, in their order, in
//! postcard.
//!
//! What comes is anybody's bytes. Everything that a database will keep is measured here, so that a batch is stored whole
//! or known to be none.

use serde::{Deserialize, Serialize};

/// The version of a batch. A node leaves batches of another one to whoever knows it.
pub const VERSION: u8 = 1;

/// What a batch takes beside its events' texts, at most, for each event: lengths, times.
const EVENT_OVERHEAD: usize = 64;
/// The longest name, key or identity, in bytes.
const NAME_MAX: usize = 1024;

/// An event on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event<'a> {
    /// Its identity, a UUID.
    pub id: &'a str,
    /// Its name: the contract's track and the function, `shop:orders/events@0.1.order-placed`.
    pub function: &'a str,
    /// Its key, or the digest of a key that is long.
    pub key: &'a str,
    /// The parameters as a JSON object.
    pub payload: &'a str,
    /// Milliseconds since 1970.
    pub published_at: i64,
    /// The trace it belongs to, in hexadecimal.
    pub trace: &'a str,
}

impl Event<'_> {
    /// The bytes that it takes in a batch, at most.
    #[must_use]
    pub fn size(&self) -> usize {
        let texts = [self.id, self.function, self.key, self.payload, self.trace];
        texts.iter().fold(EVENT_OVERHEAD, |sum, text| sum.saturating_add(text.len()))
    }

    /// Whether a database can keep it: neither knows U+0000.
    fn can_be_kept(&self) -> bool {
        let names = [self.id, self.function, self.key, self.trace];
        names.iter().all(|name| name.len() <= NAME_MAX && !name.contains('\0'))
            && !self.id.is_empty()
            && !self.payload.contains('\0')
    }
}

/// Bytes that are no batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// They cannot be read, or hold what cannot be kept.
    #[error("not a batch of events: {0}")]
    Malformed(String),
    /// They were written by another version of Cleave.
    #[error("the batch has version {found}, this node speaks version {VERSION}")]
    Version {
        /// The version that was found.
        found: u8,
    },
}

/// Writes a batch.
///
/// # Errors
/// [`BatchError::Malformed`] if the encoder refuses.
pub fn encode(events: &[Event<'_>]) -> Result<Vec<u8>, BatchError> {
    postcard::to_stdvec(&(VERSION, events)).map_err(|e| BatchError::Malformed(e.to_string()))
}

/// Reads a batch.
///
/// # Errors
/// [`BatchError`].
pub fn decode(bytes: &[u8]) -> Result<Vec<Event<'_>>, BatchError> {
    let malformed = |reason: &str| BatchError::Malformed(reason.to_owned());
    match bytes.first() {
        Some(&VERSION) => {}
        Some(&found) => return Err(BatchError::Version { found }),
        None => return Err(malformed("it is empty")),
    }
    let read = postcard::take_from_bytes::<(u8, Vec<Event<'_>>)>(bytes);
    let ((_, events), rest) = read.map_err(|e| malformed(&e.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed("more follows it"));
    }
    match events.iter().all(Event::can_be_kept) {
        true => Ok(events),
        false => Err(malformed("an event of it cannot be kept")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event<'a>(id: &'a str, payload: &'a str) -> Event<'a> {
        Event { id, function: "a:b/c@1.d", key: "k", payload, published_at: -1, trace: "f00" }
    }

    #[test]
    fn batch_comes_back_as_it_was_and_nothing_else_does() {
        let events = [event("1", "{}"), event("2", r#"{"a":1}"#)];
        let bytes = encode(&events).unwrap();
        assert_eq!(decode(&bytes).unwrap(), events);
        assert!(bytes.len() <= events.iter().map(Event::size).sum());
        assert_eq!(decode(&[2]), Err(BatchError::Version { found: 2 }));
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "{end}");
        }
        assert!(decode(&[bytes.as_slice(), b"x"].concat()).is_err());
    }

    #[test]
    fn what_no_database_keeps_is_no_batch() {
        let long = "x".repeat(NAME_MAX + 1);
        for bad in [event("", "{}"), event("a\0", "{}"), event("1", "\0"), event(&long, "{}")] {
            assert!(decode(&encode(&[event("1", "{}"), bad]).unwrap()).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>) {
            let mut versioned = vec![VERSION];
            versioned.extend(&bytes);
            for bytes in [bytes, versioned] {
                if let Ok(events) = decode(&bytes) {
                    prop_assert!(events.iter().all(Event::can_be_kept));
                }
            }
        }
    }
}
