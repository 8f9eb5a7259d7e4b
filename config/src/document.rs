//! The text of the file, as values for figment and as an index from key path to place.
//!
//! TOML's own errors come from here, each with its place. Why the index: figment knows the path of a wrong
//! value but not where in the text it stands.

use std::collections::BTreeMap;
use std::ops::Range;

use figment::value::{Dict, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a key and its value stand in the text, in bytes.
#[derive(Debug, Clone)]
pub(crate) struct Spans {
    pub(crate) key: Range<usize>,
    pub(crate) value: Range<usize>,
}

/// From key path to place; an element of a list has its position as the last key.
pub(crate) type Index = BTreeMap<Vec<String>, Spans>;

/// A file that is TOML.
#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) values: Dict,
    pub(crate) index: Index,
    /// Values that TOML has and configuration has not: path and description.
    pub(crate) foreign: Vec<(Vec<String>, &'static str)>,
}

/// An error of TOML itself.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) message: String,
    pub(crate) span: Range<usize>,
}

impl Document {
    pub(crate) fn read(text: &str) -> Result<Self, Vec<SyntaxError>> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            return Err(errors.iter().map(|error| syntax_error(error, text)).collect());
        }
        let mut document = Self::default();
        document.values = document.dict(&[], table.get_ref());
        Ok(document)
    }

    fn dict(&mut self, path: &[String], table: &DeTable<'_>) -> Dict {
        let mut dict = Dict::new();
        for (key, value) in table {
            let path = joined(path, key.get_ref());
            let spans = Spans { key: key.span(), value: value.span() };
            self.index.insert(path.clone(), spans);
            if let Some(value) = self.value(&path, value.get_ref()) {
                dict.insert(key.get_ref().to_string(), value);
            }
        }
        dict
    }

    fn list(&mut self, path: &[String], items: &[Spanned<DeValue<'_>>]) -> Vec<Value> {
        let mut list = Vec::new();
        for (position, item) in items.iter().enumerate() {
            let path = joined(path, &position.to_string());
            self.index.insert(path.clone(), Spans { key: item.span(), value: item.span() });
            list.extend(self.value(&path, item.get_ref()));
        }
        list
    }

    fn value(&mut self, path: &[String], value: &DeValue<'_>) -> Option<Value> {
        let foreign = match value {
            DeValue::String(text) => return Some(Value::from(text.as_ref())),
            DeValue::Boolean(truth) => return Some(Value::from(*truth)),
            DeValue::Table(table) => return Some(Value::from(self.dict(path, table))),
            DeValue::Array(items) => return Some(Value::from(self.list(path, items))),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => return Some(Value::from(number)),
                Err(_) => "a number beyond 64 bits",
            },
            DeValue::Float(number) => match number.as_str().parse::<f64>() {
                Ok(number) => return Some(Value::from(number)),
                Err(_) => "a number beyond 64 bits",
            },
            DeValue::Datetime(_) => "a date",
        };
        self.foreign.push((path.to_vec(), foreign));
        None
    }
}

/// Reads the value of an environment variable or flag: TOML where it is TOML, otherwise the text itself.
pub(crate) fn loose_value(text: &str) -> Value {
    let mut scratch = Document::default();
    match DeValue::parse(text) {
        Ok(value) => match scratch.value(&[], value.get_ref()) {
            Some(value) if scratch.foreign.is_empty() => value,
            _ => Value::from(text),
        },
        Err(_) => Value::from(text),
    }
}

/// Reads `a."b.c".d` as TOML reads it in front of `=`.
pub(crate) fn dotted_key(text: &str) -> Option<Vec<String>> {
    if text.contains(['\n', '\r']) {
        return None;
    }
    let line = format!("{text} = 0");
    let document = Document::read(&line).ok()?;
    // One path leads to the one value: every entry of the index begins the longest.
    let path = document.index.keys().max_by_key(|path| path.len())?;
    (document.index.len() == path.len()).then(|| path.clone())
}

pub(crate) fn joined(path: &[String], key: &str) -> Vec<String> {
    path.iter().cloned().chain([key.to_owned()]).collect()
}

fn syntax_error(error: &toml::de::Error, text: &str) -> SyntaxError {
    let span = error.span().unwrap_or(0..0);
    let end = span.end.min(text.len());
    let mut start = span.start.min(end);
    // Why: a caret has no place behind the last character, so it goes under that one.
    if start == text.len() {
        start = text.char_indices().next_back().map_or(0, |(last, _)| last);
    }
    SyntaxError { message: error.message().to_owned(), span: start..end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loose_values_fall_back_to_text() {
        assert_eq!(loose_value("8"), Value::from(8_i64));
        assert_eq!(loose_value("true"), Value::from(true));
        assert_eq!(loose_value("[\"sql\"]"), Value::from(vec!["sql"]));
        for text in
            ["10s", "127.0.0.1:80", "cargo build", "1979-05-27", "[1979-05-27]", "a = 1", "", "[", "1\n2"]
        {
            assert_eq!(loose_value(text), Value::from(text));
        }
        let deep = "[".repeat(100_000);
        assert_eq!(loose_value(&deep), Value::from(deep.as_str()));
    }

    #[test]
    fn dotted_keys_may_be_quoted() {
        let path = |text| dotted_key(text).unwrap_or_default();
        assert_eq!(path("http.listen"), ["http", "listen"]);
        assert_eq!(path("http.routes.\"GET /a.b\".status"), ["http", "routes", "GET /a.b", "status"]);
        for bad in ["", ".", "a..b", "a = 1\nb", "GET /a", "a = 1, b", "[a]\nb"] {
            assert_eq!(dotted_key(bad), None, "{bad:?}");
        }
    }
}
