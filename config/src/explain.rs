//! Turns what serde reports about a value into a problem that a person can act on.

use figment::error::{Actual, Kind};
use toml_writer::ToTomlKey;

use crate::origin::Origin;
use crate::problem::{Half, Invalid, Problem};

/// A problem for an error of `kind` at `path`.
pub(crate) fn explain(origin: &Origin, path: &[&str], kind: Kind) -> Problem {
    let shown = show_path(path);
    match kind {
        Kind::UnknownField(name, allowed) => unknown_key(origin, path, &name, allowed),
        Kind::UnknownVariant(name, allowed) => unknown_word(origin, path, &name, allowed),
        Kind::MissingField(field) => missing_key(origin, path, &field),
        Kind::InvalidType(actual, expected) => {
            let (actual, expected) = (show_actual(&actual), show_expected(&expected));
            let message = format!("`{shown}` takes {expected}, not {actual}");
            origin.problem(path, message, format!("write {expected}")).label(format!("this is {actual}"))
        }
        Kind::Message(text) => match Invalid::from_serde(&text) {
            Some((invalid, Half::Key)) => origin.problem_at_key(path, invalid.to_string(), invalid.fix()),
            Some((invalid, Half::Value)) => {
                origin.problem(path, format!("`{shown}`: {invalid}"), invalid.fix())
            }
            None => other(origin, path, &text),
        },
        kind => other(origin, path, &kind.to_string()),
    }
}

/// A required key that is not there, pointing at the table that lacks it.
pub(crate) fn missing_key(origin: &Origin, table: &[&str], key: &str) -> Problem {
    let example = match key {
        "component" => "component = \"path/to/module.wasm\"".to_owned(),
        "every" => "every = \"5s\"".to_owned(),
        "call" => "call = \"namespace:package/interface.function\"".to_owned(),
        key => format!("{key} = …"),
    };
    origin
        .problem(table, format!("`{}` has no `{key}`", show_path(table)), format!("add {example}"))
        .label(format!("needs `{key}`"))
}

fn unknown_key(origin: &Origin, path: &[&str], name: &str, allowed: &[&str]) -> Problem {
    let table = path.split_last().map_or(&[][..], |(_, table)| table);
    let (what, place) = match table {
        [] => ("table", String::new()),
        table => ("key", format!(" in `{}`", show_path(table))),
    };
    let list = allowed.join(", ");
    let message = format!("unknown {what} {}{place}", quoted(name));
    match nearest(name, allowed) {
        Some(near) => origin
            .problem_at_key(path, message, format!("did you mean `{near}`? allowed are: {list}"))
            .label(format!("did you mean `{near}`?")),
        None => origin
            .problem_at_key(path, message, format!("remove it, or write one of: {list}"))
            .label(format!("unknown {what}")),
    }
}

/// Why the word is not repeated: it may be an address with a password, and a message may go to a log.
fn unknown_word(origin: &Origin, path: &[&str], name: &str, allowed: &[&str]) -> Problem {
    let list = allowed.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
    let mean = nearest(name, allowed).map_or(String::new(), |near| format!("did you mean \"{near}\"? "));
    origin
        .problem(
            path,
            format!("`{}` has a value that is not accepted", show_path(path)),
            format!("{mean}accepted: {list}"),
        )
        .label("not accepted")
}

/// What no type of the tree reports today; worded by serde.
fn other(origin: &Origin, path: &[&str], text: &str) -> Problem {
    origin.problem(path, format!("`{}`: {text}", show_path(path)), "correct the value, or remove the key")
}

/// A key path as TOML writes it.
pub(crate) fn show_path(path: &[&str]) -> String {
    path.iter().map(|key| key.to_toml_key()).collect::<Vec<_>>().join(".")
}

fn quoted(name: &str) -> String {
    format!("`{}`", show_path(&[name]))
}

/// The allowed word nearest to `name`, if a slip of the fingers could lie between.
pub(crate) fn nearest<'a>(name: &str, allowed: &[&'a str]) -> Option<&'a str> {
    // Why the limit: distance costs length times length, and the file is not ours.
    if name.len() > 64 {
        return None;
    }
    let name = name.to_ascii_lowercase();
    let distances = allowed.iter().map(|word| (strsim::damerau_levenshtein(&name, word), *word));
    let (distance, word) = distances.min()?;
    (distance <= 1.max(word.len() / 3)).then_some(word)
}

fn show_actual(actual: &Actual) -> String {
    match actual {
        Actual::Bool(truth) => truth.to_string(),
        Actual::Unsigned(number) => format!("the number {number}"),
        Actual::Signed(number) => format!("the number {number}"),
        Actual::Float(number) => format!("the number {number}"),
        Actual::Str(_) | Actual::Char(_) => "text".to_owned(),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// Serde's names of types; our own visitors say already what a person writes.
fn show_expected(expected: &str) -> &str {
    match expected {
        "a string" => "text in quotes",
        "a sequence" => "a list such as [\"sql\"]",
        "a map" => "a table",
        expected => expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised() {
        let keys = ["listen", "header_timeout", "body_max", "routes"];
        assert_eq!(nearest("lisen", &keys), Some("listen"));
        assert_eq!(nearest("header-timeout", &keys), Some("header_timeout"));
        assert_eq!(nearest("Routes", &keys), Some("routes"));
        assert_eq!(nearest("port", &keys), None);
        assert_eq!(nearest("x", &keys), None);
    }

    #[test]
    fn paths_show_as_toml() {
        assert_eq!(show_path(&["http", "routes", "GET /a.b"]), "http.routes.\"GET /a.b\"");
    }
}
