//! The configuration that is in effect, as a file that means the same.
//!
//! Every key is in it, in the order of the alphabet: a path from its root, a key without a value as a comment.
//! A password in a URL is not shown.

use figment::value::{Dict, Value};
use toml_writer::ToTomlValue;

use crate::explain::show_path;
use crate::origin::Giver;
use crate::problem::Problem;
use crate::tree::Config;

impl Config {
    /// This configuration as TOML; with `origins`, each key with a comment that says where its value comes from.
    ///
    /// A path that is not UTF-8 cannot be written in TOML.
    pub fn show(&self, origins: bool) -> Result<String, Problem> {
        let shown = Value::serialize(self).map_err(|error| {
            Problem::new(
                format!("the configuration cannot be shown: {error}"),
                "rename what is not UTF-8 text",
            )
        })?;
        let mut page = Page { config: self, origins, text: String::new() };
        if let Some(dict) = shown.as_dict() {
            page.table(&[], dict);
        }
        Ok(page.text)
    }
}

struct Page<'a> {
    config: &'a Config,
    origins: bool,
    text: String,
}

impl Page<'_> {
    fn table(&mut self, path: &[&str], dict: &Dict) {
        // TOML has a table's own keys before the tables in it.
        let (tables, keys): (Vec<_>, Vec<_>) = dict.iter().partition(|(_, value)| value.as_dict().is_some());
        // The header of a table that has only tables in it says nothing.
        if !path.is_empty() && (!keys.is_empty() || tables.is_empty()) {
            let gap = if self.text.is_empty() { "" } else { "\n" };
            self.text += &format!("{gap}[{}]\n", show_path(path));
        }
        for (key, value) in keys {
            self.key(&[path, &[key]].concat(), key, value);
        }
        for (key, value) in tables {
            if let Value::Dict(_, inner) = value {
                self.table(&[path, &[key.as_str()]].concat(), inner);
            }
        }
    }

    fn key(&mut self, path: &[&str], key: &str, value: &Value) {
        let key = show_path(&[key]);
        self.text += &match value {
            Value::Empty(..) => format!("# {key} is not set\n"),
            value if self.origins => format!("{key} = {}  # {}\n", toml(value), self.origin(path)),
            value => format!("{key} = {}\n", toml(value)),
        };
    }

    fn origin(&self, path: &[&str]) -> String {
        let origin = match self.config.origin().giver(path) {
            Giver::Setting(from) => from.short(),
            Giver::Line(file, line) => format!("{file}:{line}"),
            Giver::Default => "default".to_owned(),
        };
        // Why: the name of a file may have a line break, which would end the comment.
        origin.replace(char::is_control, "\u{fffd}")
    }
}

/// A value on one line; a text with line breaks on several.
fn toml(value: &Value) -> String {
    match value {
        Value::String(_, text) => without_passwords(text, |_| "***".to_owned()).to_toml_value(),
        Value::Array(_, items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Dict(_, dict) => {
            let pairs = dict.iter().map(|(key, value)| format!("{} = {}", show_path(&[key]), toml(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
        Value::Num(..) => number(value),
        Value::Char(_, one) => one.to_string().to_toml_value(),
        Value::Bool(_, truth) => truth.to_string(),
        Value::Empty(..) => "\"\"".to_owned(),
    }
}

fn number(value: &Value) -> String {
    let whole = value.to_u128().map(|n| n.to_string()).or_else(|| value.to_i128().map(|n| n.to_string()));
    whole.or_else(|| value.to_f64().map(|n| format!("{n:?}"))).unwrap_or_default()
}

/// The text with something else for the password of every URL that has one, as in `user:***@`, and for a user alone, who
/// may be a token.
pub(crate) fn without_passwords(text: &str, instead: impl Fn(&str) -> String) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        let ends = |c: char| "/?#\"'`".contains(c) || c.is_whitespace();
        let end = after.find(ends).unwrap_or(after.len()).min(after.find("://").unwrap_or(after.len()));
        let (authority, tail) = after.split_at(end);
        shown += before;
        shown += "://";
        shown += &match authority.rsplit_once('@') {
            Some((who, host)) => match who.split_once(':') {
                Some((user, password)) => format!("{user}:{}@{host}", instead(password)),
                None => format!("{}@{host}", instead(who)),
            },
            None => authority.to_owned(),
        };
        rest = tail;
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (text, shown) in [
            ("postgres://u:p@h:5432/db", "postgres://u:***@h:5432/db"),
            ("nats://token@h", "nats://***@h"),
            ("nats://u:p@a, nats://u:p:q@b@c", "nats://u:***@a, nats://u:***@c"),
            ("nats://u:p@a,nats://u:q@b", "nats://u:***@a,nats://u:***@b"),
            ("curl 'https://u:p@h/a@b'", "curl 'https://u:***@h/a@b'"),
            ("https://h:80/@scope/x", "https://h:80/@scope/x"),
            ("a:b@c", "a:b@c"),
            ("x://", "x://"),
        ] {
            assert_eq!(without_passwords(text, |_| "***".to_owned()), shown);
        }
    }
}
