//! Owns what is remembered of the texts seen of late.

use std::collections::HashMap;
use std::sync::Arc;

/// The most bytes of texts that one half remembers, unless one text alone has more.
const BYTES_MAX: usize = 2 << 20;

/// What is known of each text, in two halves: when the younger is full the elder is forgotten.
#[derive(Debug)]
pub(super) struct Recent<T> {
    half: usize,
    /// Bytes of the texts in the younger half.
    bytes: usize,
    younger: HashMap<Box<str>, Arc<T>>,
    elder: HashMap<Box<str>, Arc<T>>,
}

impl<T> Recent<T> {
    /// Remembers so many texts, and up to twice as many; fewer if they are long.
    pub(super) fn new(half: usize) -> Self {
        Self { half, bytes: 0, younger: HashMap::new(), elder: HashMap::new() }
    }

    pub(super) fn get(&mut self, text: &str) -> Option<Arc<T>> {
        if let Some(known) = self.younger.get(text) {
            return Some(Arc::clone(known));
        }
        let known = self.elder.remove(text)?;
        self.insert(text, Arc::clone(&known));
        Some(known)
    }

    pub(super) fn insert(&mut self, text: &str, known: Arc<T>) {
        if self.younger.len() >= self.half || self.bytes.saturating_add(text.len()) > BYTES_MAX {
            self.elder = std::mem::take(&mut self.younger);
            self.bytes = 0;
        }
        if self.younger.insert(text.into(), known).is_none() {
            self.bytes = self.bytes.saturating_add(text.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_remembered_up_to_a_number_and_a_size() {
        for (length, most) in [(8, 200), (32 << 10, 2 * (BYTES_MAX >> 15))] {
            let mut recent = Recent::new(100);
            let text = |n: usize| format!("{n:0length$}");
            for n in 0..1_000 {
                recent.insert(&text(n), Arc::new(n));
                recent.insert(&text(n), Arc::new(n));
            }
            assert_eq!(recent.get(&text(999)).as_deref(), Some(&999));
            let known = recent.younger.len() + recent.elder.len();
            assert!(known <= most && known >= most / 2, "{known} of {length} bytes");
        }
        let mut recent = Recent::new(100);
        recent.insert(&"x".repeat(BYTES_MAX + 1), Arc::new(1));
        assert!(recent.get(&"x".repeat(BYTES_MAX + 1)).is_some());
    }
}
