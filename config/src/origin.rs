//! Where every value comes from, so that a problem found at any time can point at it.
//!
//! The highest layer that set a key is to blame: a flag, then the environment, then the file. A key that
//! nobody wrote is pointed at by the nearest table around it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::{NamedSource, SourceSpan};

use crate::document::{Index, Spans};
use crate::layers::{From, Setting};
use crate::problem::{Half, Problem};
use crate::show::without_passwords;

/// The file, its text, and the settings laid over it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Origin(Option<Arc<Inner>>);

struct Inner {
    file: PathBuf,
    source: Arc<NamedSource<String>>,
    index: Index,
    /// Environment, then flags: later ones win.
    settings: Vec<Setting>,
}

/// Who gives the value of a key.
#[derive(Debug)]
pub(crate) enum Giver<'a> {
    /// A setting from outside the file.
    Setting(&'a From),
    /// The file, by the name that messages give it, and the line in it.
    Line(&'a str, usize),
    /// Nobody wrote it.
    Default,
}

/// Whom a problem points at.
enum Blame<'a> {
    Setting(&'a Setting),
    File(SourceSpan),
    Nobody,
}

impl Origin {
    /// `file` is absolute; `name` is what messages call it.
    pub(crate) fn new(file: PathBuf, name: &str, text: String, index: Index, settings: Vec<Setting>) -> Self {
        // Why: the lines around a problem are shown, and may go into a log. As many bytes, so that the carets stay right.
        let text = without_passwords(&text, |password| "*".repeat(password.len()));
        let source = Arc::new(NamedSource::new(name, text));
        Self(Some(Arc::new(Inner { file, source, index, settings })))
    }

    /// The file; empty for a tree that was not read from one.
    pub fn file(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), |inner| &inner.file)
    }

    /// The folder of the file, where relative paths in it start and build commands run.
    pub fn folder(&self) -> &Path {
        self.file().parent().unwrap_or(Path::new(""))
    }

    /// A problem with the value at a key path, such as `&["modules", "catalog", "component"]`. The message is
    /// lower case without a full stop; the fix says what to write.
    pub fn problem(&self, path: &[&str], message: impl Into<String>, fix: impl Into<String>) -> Problem {
        self.at(path, Half::Value, message.into(), fix.into())
    }

    /// As [`Origin::problem`], pointing at the key: for names, routes and missing things.
    pub fn problem_at_key(
        &self,
        path: &[&str],
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Problem {
        self.at(path, Half::Key, message.into(), fix.into())
    }

    /// As [`Origin::problem`], pointing at the item of a list that is this text.
    pub fn problem_at_item(
        &self,
        list: &[&str],
        item: &str,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Problem {
        let position = self.0.as_ref().and_then(|inner| inner.position(list, item));
        let place: Vec<&str> = list.iter().copied().chain(position.as_deref()).collect();
        self.at(&place, Half::Value, message.into(), fix.into())
    }

    /// Adds a second caret at a key, labelled: the other half of a conflict. Nothing is added where the file
    /// is not to blame for the key.
    #[must_use]
    pub fn also(&self, problem: Problem, path: &[&str], label: &str) -> Problem {
        match (self.blame(path, Half::Key), &self.0) {
            (Blame::File(span), Some(inner)) => problem.caret(&inner.source, span).label(label),
            _ => problem,
        }
    }

    /// A problem at a place in the text.
    pub(crate) fn at_span(&self, span: SourceSpan, message: String, fix: String) -> Problem {
        match &self.0 {
            Some(inner) => Problem::new(message, fix).caret(&inner.source, span),
            None => Problem::new(message, fix),
        }
    }

    pub(crate) fn at(&self, path: &[&str], half: Half, message: String, fix: String) -> Problem {
        match self.blame(path, half) {
            Blame::Setting(setting) => Problem::new(format!("{message} (from {})", setting.from), fix),
            Blame::File(span) => self.at_span(span, message, fix),
            Blame::Nobody => match &self.0 {
                Some(inner) => Problem::new(format!("{message} (in {})", inner.source.name()), fix),
                None => Problem::new(message, fix),
            },
        }
    }

    /// The setting from outside the file that gives the value at `path`, if one does.
    pub(crate) fn setting(&self, path: &[&str]) -> Option<&Setting> {
        let settings = &self.0.as_ref()?.settings;
        settings.iter().rev().find(|setting| setting.sets(path))
    }

    /// Who gives the value at `path`.
    pub(crate) fn giver(&self, path: &[&str]) -> Giver<'_> {
        let Some(inner) = &self.0 else { return Giver::Default };
        match (self.setting(path), inner.spans(path)) {
            (Some(setting), _) => Giver::Setting(&setting.from),
            (None, Some(spans)) => {
                let before = inner.source.inner().bytes().take(spans.key.start);
                Giver::Line(inner.source.name(), 1 + before.filter(|byte| *byte == b'\n').count())
            }
            (None, None) => Giver::Default,
        }
    }

    fn blame(&self, path: &[&str], half: Half) -> Blame<'_> {
        let Some(inner) = &self.0 else { return Blame::Nobody };
        if let Some(setting) = self.setting(path) {
            return Blame::Setting(setting);
        }
        if let Some(spans) = inner.spans(path) {
            return Blame::File(spans.half(half));
        }
        let near = |setting: &&Setting| starts_alike(&setting.path, path);
        if let Some(setting) = inner.settings.iter().rev().find(near) {
            return Blame::Setting(setting);
        }
        let around = (1..path.len()).rev().filter_map(|length| path.get(..length));
        match around.filter_map(|path| inner.spans(path)).next() {
            Some(spans) => Blame::File(spans.half(Half::Key)),
            None => Blame::Nobody,
        }
    }
}

impl Inner {
    fn spans(&self, path: &[&str]) -> Option<&Spans> {
        self.index.get(&path.iter().map(|&key| key.to_owned()).collect::<Vec<_>>())
    }

    /// Where in a list of the file a text stands, as the last key of the index.
    fn position(&self, list: &[&str], item: &str) -> Option<String> {
        let is_item = |spans: &Spans| {
            let written = self.source.inner().get(spans.value.clone());
            written.is_some_and(|written| written.trim_matches(['"', '\'']) == item)
        };
        let items = (0_usize..).map(|position| position.to_string());
        let mut items = items.map_while(|key| Some((self.spans(&[list, &[key.as_str()]].concat())?, key)));
        items.find(|(spans, _)| is_item(spans)).map(|(_, key)| key)
    }
}

impl Spans {
    fn half(&self, half: Half) -> SourceSpan {
        match half {
            Half::Key => self.key.clone().into(),
            Half::Value => self.value.clone().into(),
        }
    }
}

/// Whether one path leads to the other.
fn starts_alike(path: &[String], other: &[&str]) -> bool {
    path.iter().zip(other).all(|(a, b)| a == b)
}

impl fmt::Debug for Origin {
    /// The file only: settings may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Origin").field(&self.file()).finish()
    }
}
