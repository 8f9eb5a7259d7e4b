//! What is wrong, where, and how to mend it.
//!
//! A [`Problem`] always has a fix. It has a caret when the file is to blame, and names the variable or flag
//! when they are. [`Invalid`] is a problem that does not know its place yet.

use std::fmt;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode, SourceSpan};

/// One thing wrong with the configuration.
///
/// `Display` is the message alone; the place and the fix come from [`miette::Diagnostic`].
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    message: String,
    fix: String,
    source_code: Option<Arc<NamedSource<String>>>,
    labels: Vec<LabeledSpan>,
}

impl Problem {
    /// A problem without a place in a file: a missing file, say.
    pub fn new(message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { message: message.into(), fix: fix.into(), source_code: None, labels: Vec::new() }
    }

    /// What to write instead.
    pub fn fix(&self) -> &str {
        &self.fix
    }

    /// Adds a caret; the first one is the place of the problem.
    pub(crate) fn caret(mut self, source: &Arc<NamedSource<String>>, span: SourceSpan) -> Self {
        self.source_code = Some(Arc::clone(source));
        let caret = if self.labels.is_empty() {
            LabeledSpan::new_primary_with_span(None, span)
        } else {
            LabeledSpan::new_with_span(None, span)
        };
        self.labels.push(caret);
        self
    }

    /// Writes `text` at the caret added last; without a caret there is nothing to label.
    #[must_use]
    pub fn label(mut self, text: impl Into<String>) -> Self {
        if let Some(last) = self.labels.last_mut() {
            last.set_label(Some(text.into()));
        }
        self
    }

    /// Where in the file the problem begins; problems without a place sort last.
    pub(crate) fn offset(&self) -> usize {
        self.labels.first().map_or(usize::MAX, LabeledSpan::offset)
    }
}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.fix))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source_code.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().cloned()))
    }
}

/// Everything found wrong, in the order of the file; never empty when it is an error.
#[derive(Debug, Clone)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// These problems in the order of the file, those without a place last.
    pub fn in_order(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(Problem::offset);
        Self(problems)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the configuration has a problem"),
            count => write!(f, "the configuration has {count} problems"),
        }
    }
}

impl std::error::Error for Problems {}

impl Diagnostic for Problems {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.0.iter().map(|problem| problem as &dyn Diagnostic)))
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// A text that does not say what it should, before anyone knows where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    message: String,
    fix: String,
}

/// Which half of `key = value` is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    Key,
    Value,
}

/// Separates the parts of an [`Invalid`] inside a serde message. `{:?}` escapes it, so no quoted input
/// contains it.
const SEPARATOR: char = '\u{1f}';

impl Invalid {
    pub(crate) fn new(message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { message: message.into(), fix: fix.into() }
    }

    /// What to write instead.
    pub fn fix(&self) -> &str {
        &self.fix
    }

    /// Carries message and fix through serde, whose custom errors are one string.
    pub(crate) fn into_serde<E: serde::de::Error>(self, half: Half) -> E {
        let key = if half == Half::Key { "key" } else { "value" };
        E::custom(format_args!("{}{SEPARATOR}{}{SEPARATOR}{key}", self.message, self.fix))
    }

    /// The reverse of [`Invalid::into_serde`]; `None` for a message of another's making.
    pub(crate) fn from_serde(message: &str) -> Option<(Self, Half)> {
        let mut parts = message.split(SEPARATOR);
        let (message, fix, half) = (parts.next()?, parts.next()?, parts.next()?);
        let half = if half == "key" { Half::Key } else { Half::Value };
        Some((Self::new(message, fix), half))
    }
}
