//! A validator of JSON Schema 2020-12, as far as our schema goes: a keyword that it does not know fails the test.

use std::cell::RefCell;
use std::collections::HashMap;

use regex_lite::Regex;
use serde_json::{Map, Value as Json};

/// Whether a value fits a schema.
pub(crate) fn takes(schema: &Json, value: &Json) -> bool {
    match schema {
        Json::Bool(all) => *all,
        Json::Object(keywords) => {
            keywords.iter().all(|(keyword, rule)| follows(keywords, keyword, rule, value))
        }
        other => panic!("not a schema: {other}"),
    }
}

/// Whether a value follows one rule. A rule for another type than the value's says nothing.
fn follows(schema: &Map<String, Json>, keyword: &str, rule: &Json, value: &Json) -> bool {
    let (text, number) = (value.as_str(), value.as_i64());
    let (list, table) = (value.as_array(), value.as_object());
    let schemas = || rule.as_array().unwrap().iter().filter(|schema| takes(schema, value)).count();
    match keyword {
        "$schema" | "title" | "description" | "default" | "x-minimum" | "x-maximum" => true,
        "type" => match rule {
            Json::Array(types) => types.iter().any(|name| is_of(name, value)),
            name => is_of(name, value),
        },
        "const" => rule == value,
        "oneOf" => schemas() == 1,
        "anyOf" => schemas() > 0,
        "minimum" => number.is_none_or(|number| number >= rule.as_i64().unwrap()),
        "maximum" => number.is_none_or(|number| number <= rule.as_i64().unwrap()),
        "pattern" => text.is_none_or(|text| fits(rule.as_str().unwrap(), text)),
        "minItems" => list.is_none_or(|list| list.len() as u64 >= rule.as_u64().unwrap()),
        "maxItems" => list.is_none_or(|list| list.len() as u64 <= rule.as_u64().unwrap()),
        "items" => list.is_none_or(|list| list.iter().all(|item| takes(rule, item))),
        "required" => table.is_none_or(|table| {
            rule.as_array().unwrap().iter().all(|key| table.contains_key(key.as_str().unwrap()))
        }),
        "properties" => table.is_none_or(|table| {
            table.iter().all(|(key, value)| rule.get(key).is_none_or(|schema| takes(schema, value)))
        }),
        "patternProperties" => table.is_none_or(|table| {
            table.iter().all(|(key, value)| named(rule, key).all(|schema| takes(schema, value)))
        }),
        "additionalProperties" => table.is_none_or(|table| {
            table.iter().filter(|(key, _)| !is_known(schema, key)).all(|(_, value)| takes(rule, value))
        }),
        other => panic!("`{other}` is not known: {rule}"),
    }
}

fn is_of(name: &Json, value: &Json) -> bool {
    match name.as_str().unwrap() {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("`{other}` is not a type that TOML has"),
    }
}

/// The schemas for a key by the pattern that it fits.
fn named<'a>(rules: &'a Json, key: &str) -> impl Iterator<Item = &'a Json> {
    rules.as_object().unwrap().iter().filter(move |(pattern, _)| fits(pattern, key)).map(|(_, schema)| schema)
}

fn is_known(schema: &Map<String, Json>, key: &str) -> bool {
    let property = schema.get("properties").is_some_and(|properties| properties.get(key).is_some());
    property || schema.get("patternProperties").is_some_and(|rules| named(rules, key).next().is_some())
}

fn fits(pattern: &str, text: &str) -> bool {
    thread_local!(static READY: RefCell<HashMap<String, Regex>> = RefCell::default());
    READY.with_borrow_mut(|ready| {
        let regex = ready.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).unwrap());
        regex.is_match(text)
    })
}
