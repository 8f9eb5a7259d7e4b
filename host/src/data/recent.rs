//! Owns what is remembered of the texts seen of late.

use std::collections::HashMap;
use std::sync::Arc;

/// What is known of each text, in two halves: when the younger is full the elder is forgotten.
#[derive(Debug)]
pub(super) struct Recent<T> {
    half: usize,
    younger: HashMap<Box<str>, Arc<T>>,
    elder: HashMap<Box<str>, Arc<T>>,
}

impl<T> Recent<T> {
    /// Remembers so many texts, and up to twice as many.
    pub(super) fn new(half: usize) -> Self {
        Self { half, younger: HashMap::new(), elder: HashMap::new() }
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
        if self.younger.len() >= self.half {
            self.elder = std::mem::take(&mut self.younger);
        }
        self.younger.insert(text.into(), known);
    }
}
