//! The layers above the file: environment variables and flags, as key paths with values.
//!
//! `CLEAVE_HTTP__LISTEN` is `http.listen`: `__` separates levels. A variable without `__` after `CLEAVE_` is
//! no setting, because no key stands at the top level, and is left alone: orchestrators set `CLEAVE_PORT` and
//! the like for a service named cleave.

use std::fmt;

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};

use crate::document::{dotted_key, loose_value};
use crate::problem::Problem;

const PREFIX: &str = "CLEAVE_";

/// One value from outside the file.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) path: Vec<String>,
    pub(crate) value: Value,
    /// The value as given, for a key that takes text where the value looks like a number.
    pub(crate) text: String,
    pub(crate) from: From,
}

/// Who gave a setting; shown as messages name it.
#[derive(Debug, Clone)]
pub(crate) enum From {
    /// An environment variable, by its name.
    Variable(String),
    /// A flag, by its key as written.
    Flag(String),
}

impl From {
    /// As a comment names it.
    pub(crate) fn short(&self) -> String {
        match self {
            Self::Variable(name) => format!("environment {name}"),
            Self::Flag(key) => format!("--set {key}=…"),
        }
    }
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "the environment variable `{name}`"),
            Self::Flag(key) => write!(f, "the flag `--set {key}`"),
        }
    }
}

impl Setting {
    /// Whether this sets `path`: its key leads there, and what remains is in its value.
    pub(crate) fn sets(&self, path: &[&str]) -> bool {
        let Some((own, rest)) = path.split_at_checked(self.path.len()) else { return false };
        let inner = rest.iter().try_fold(&self.value, |value, key| match value {
            Value::Dict(_, dict) => dict.get(*key),
            // A list comes from one layer as a whole.
            other => Some(other),
        });
        self.path == own && inner.is_some()
    }
}

pub(crate) fn environment(variables: &[(String, String)]) -> Vec<Setting> {
    variables.iter().filter_map(|(name, text)| variable(name, text)).collect()
}

fn variable(name: &str, text: &str) -> Option<Setting> {
    let levels = name.strip_prefix(PREFIX).filter(|levels| levels.contains("__"))?;
    let mut path: Vec<String> = levels.split("__").map(str::to_ascii_lowercase).collect();
    // Why: a variable cannot have the hyphens of a module's or a node's name, and these have no underscores.
    if let [first, name, ..] = path.as_mut_slice()
        && matches!(first.as_str(), "modules" | "nodes")
    {
        *name = name.replace('_', "-");
    }
    let from = From::Variable(name.to_owned());
    Some(Setting { path, value: loose_value(text), text: text.to_owned(), from })
}

pub(crate) fn flags(pairs: &[(String, String)]) -> (Vec<Setting>, Vec<Problem>) {
    let (mut settings, mut problems) = (Vec::new(), Vec::new());
    for (key, text) in pairs {
        let from = From::Flag(key.clone());
        match dotted_key(key) {
            Some(path) => {
                settings.push(Setting { path, value: loose_value(text), text: text.clone(), from });
            }
            None => problems.push(Problem::new(
                format!("{key:?} is not a key (from {from})"),
                "write keys with dots between, and in quotes what is not a plain word, such as \
                 http.listen or http.routes.\"GET /a\"",
            )),
        }
    }
    (settings, problems)
}

/// One layer of figment.
pub(crate) struct Layer {
    pub(crate) name: &'static str,
    pub(crate) values: Dict,
}

impl Layer {
    pub(crate) fn of_settings(name: &'static str, settings: &[Setting]) -> Self {
        let mut values = Dict::new();
        for setting in settings {
            insert(&mut values, &setting.path, setting.value.clone());
        }
        Self { name, values }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

/// Puts `value` at `path`, in place of anything in the way.
pub(crate) fn insert(dict: &mut Dict, path: &[String], value: Value) {
    let Some((key, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        dict.insert(key.clone(), value);
        return;
    }
    let mut inner = match dict.remove(key) {
        Some(Value::Dict(_, inner)) => inner,
        _ => Dict::new(),
    };
    insert(&mut inner, rest, value);
    dict.insert(key.clone(), Value::from(inner));
}

/// Takes the value at `path` away; `None` if there is none.
pub(crate) fn remove(dict: &mut Dict, path: &[String]) -> Option<Value> {
    let (key, rest) = path.split_first()?;
    match (rest, dict.get_mut(key)?) {
        ([], _) => dict.remove(key),
        (rest, Value::Dict(_, inner)) => remove(inner, rest),
        // Why the whole list: without one element the others would change their positions.
        (_, Value::Array(..)) => dict.remove(key),
        _ => None,
    }
}
