//! The schema that editors show: it knows what the reader knows, and never refuses what the reader takes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cleave_config::{parse, parse_duration, schema, show_duration};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::sources;

/// A key of the schema, with a sample in place of each name.
pub(crate) struct Key {
    pub(crate) path: Vec<String>,
    pub(crate) schema: Json,
    /// Whether its name is such a sample.
    is_sample: bool,
}

impl Key {
    fn has(&self, keyword: &str) -> bool {
        self.schema.get(keyword).is_some()
    }

    /// Whether texts of a good pattern may be refused by the reader: JSON Schema cannot say why.
    fn is_loose(&self) -> bool {
        let is_size = self.schema["type"].is_array() && self.has("pattern");
        let is_address = |path: &[&str]| self.path == path;
        is_size
            || self.has("x-minimum")
            || is_address(&["http", "listen"])
            || is_address(&["nodes", "a", "listen"])
            || is_address(&["bus", "nats"])
    }
}

/// What the schema says of every key, and the reader beside it.
pub(crate) struct Both {
    root: Json,
    judge: Judge,
}

/// Judges values by one schema.
struct Judge(boon::Schemas, boon::SchemaIndex);

impl Judge {
    fn of(schema: &Json) -> Self {
        let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
        compiler.add_resource("schema.json", schema.clone()).unwrap();
        let index = compiler.compile("schema.json", &mut schemas).unwrap();
        Self(schemas, index)
    }

    fn takes(&self, value: &Json) -> bool {
        self.0.validate(value, self.1).is_ok()
    }
}

impl Both {
    pub(crate) fn new() -> Self {
        let root = serde_json::from_str(&schema()).unwrap();
        Self { judge: Judge::of(&root), root }
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        let mut keys = Vec::new();
        walk(&self.root, &mut Vec::new(), &mut keys);
        keys
    }

    /// A document with `value` at `path`, and around it what is required, also of the keys that go with this one.
    pub(crate) fn document(&self, path: &[String], value: &Json) -> Json {
        let mut document = beside(path);
        merge(&mut document, document_of(&self.root, path, value));
        document
    }

    fn schema_takes(&self, document: &Json) -> bool {
        self.judge.takes(document)
    }

    fn reader_takes(document: &Json) -> bool {
        parse(&toml(document), &sources()).is_ok()
    }

    fn both_take(&self, key: &Key, value: &Json) {
        let document = self.document(&key.path, value);
        assert!(self.schema_takes(&document), "the schema refuses {document}");
        assert!(Self::reader_takes(&document), "the reader refuses {document}");
    }

    fn both_refuse(&self, key: &Key, value: &Json) {
        let document = self.document(&key.path, value);
        assert!(!self.schema_takes(&document), "the schema takes {document}");
        assert!(!Self::reader_takes(&document), "the reader takes {document}");
    }
}

/// The branch of a schema that is a table, if it has one.
fn table(schema: &Json) -> Option<&Json> {
    let is_table = |schema: &&Json| schema["type"] == "object";
    Some(schema).filter(is_table).or_else(|| schema["anyOf"].as_array()?.iter().find(is_table))
}

/// A key of a table; `None` stands for the names of a pattern.
fn members(table: &Json) -> impl Iterator<Item = (Option<&str>, String, &Json)> {
    let object = |keyword: &str| table.get(keyword).and_then(Json::as_object).into_iter().flatten();
    let own = object("properties").map(|(key, schema)| (Some(key.as_str()), key.clone(), schema));
    let named = object("patternProperties").map(|(pattern, schema)| {
        let name = sample(&json!({ "type": "string", "pattern": pattern }));
        (None, name.as_str().unwrap().to_owned(), schema)
    });
    own.chain(named)
}

fn walk(schema: &Json, path: &mut Vec<String>, keys: &mut Vec<Key>) {
    for (own, name, schema) in table(schema).into_iter().flat_map(members) {
        path.push(name);
        keys.push(Key { path: path.clone(), schema: schema.clone(), is_sample: own.is_none() });
        walk(schema, path, keys);
        path.pop();
    }
}

fn required(table: &Json) -> impl Iterator<Item = &str> {
    table["required"].as_array().into_iter().flatten().map(|key| key.as_str().unwrap())
}

/// What the reader wants beside a key, which a schema cannot say.
fn beside(path: &[String]) -> Json {
    match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["calls", "route"] => json!({ "bus": { "nats": "nats://a" } }),
        ["bus", "heartbeat"] => json!({ "bus": { "silent_after": "10m" } }),
        ["bus", "silent_after"] => json!({ "bus": { "heartbeat": "100ms" } }),
        ["bus", "certificate"] => json!({ "bus": { "key": "a" } }),
        ["bus", "key"] => json!({ "bus": { "certificate": "a" } }),
        ["nodes", _, "modules"] => json!({
            "modules": { "a": { "component": "a" }, "sql": { "component": "a" } },
            "nodes": { "other": { "modules": ["a", "sql"] } },
        }),
        _ => json!({}),
    }
}

/// Lays one document over another, table by table.
fn merge(below: &mut Json, above: Json) {
    match (below, above) {
        (Json::Object(below), Json::Object(above)) => {
            above.into_iter().for_each(|(key, value)| merge(below.entry(key).or_insert(Json::Null), value));
        }
        (below, above) => *below = above,
    }
}

fn document_of(schema: &Json, path: &[String], value: &Json) -> Json {
    let Some((key, rest)) = path.split_first() else { return value.clone() };
    let table = table(schema).unwrap();
    let mut document = sample(table);
    let inner = members(table).find(|(_, name, _)| name == key).map_or(&Json::Null, |(_, _, schema)| schema);
    document[key] = document_of(inner, rest, value);
    document
}

/// A value that fits a schema. A new form of text needs a sample here.
fn sample(schema: &Json) -> Json {
    const TEXTS: [&str; 8] = ["a", "GET /a", "/a", "a:b/c", "a:b/c.d", "127.0.0.1:80", "1s", "nats://a"];
    let given = ["default", "minimum", "x-minimum"].iter().find_map(|keyword| schema.get(*keyword));
    let first = || schema.pointer("/oneOf/0/const");
    if let Some(value) = given.or_else(first) {
        return value.clone();
    }
    if schema["type"] == "object" {
        let samples = required(schema).map(|key| (key.to_owned(), sample(&schema["properties"][key])));
        return samples.collect();
    }
    let judge = Judge::of(schema);
    let fits = TEXTS.map(Json::from).into_iter().find(|text| judge.takes(text));
    fits.unwrap_or_else(|| panic!("no sample fits {schema}"))
}

/// A document as TOML, each table of the top on a line.
pub(crate) fn toml(document: &Json) -> String {
    let lines =
        document.as_object().unwrap().iter().map(|(key, value)| format!("{key} = {}\n", inline(value)));
    lines.collect()
}

/// JSON's texts are also TOML's.
fn inline(value: &Json) -> String {
    match value {
        Json::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Json::Object(object) => {
            let pairs =
                object.iter().map(|(key, value)| format!("{} = {}", Json::from(key.as_str()), inline(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Values of every type, right for some keys and wrong for most.
fn assorted() -> Vec<Json> {
    let texts =
        ["", "a", "A", "a b", "é", "a\0b", "/a/{b}", "5s", "64MiB", "127.0.0.1:80", "a:b/c", "a:b/c.d"];
    let others = [
        json!(true),
        json!(-1),
        json!(0),
        json!(7),
        json!(1.5),
        json!([]),
        json!([7]),
        json!(["a"]),
        json!(["sql", "sql"]),
        json!([[]]),
        json!({}),
        json!({ "x": 1 }),
        json!({ "": "" }),
    ];
    texts.map(Json::from).into_iter().chain(others).collect()
}

#[test]
fn published_schema_is_the_one_of_the_code() {
    let file = root().join("docs/cleave.schema.json");
    let published = fs::read_to_string(file).unwrap_or_default();
    assert!(published == schema(), "write it again: cleave config schema > docs/cleave.schema.json");
}

#[test]
fn every_key_has_a_description() {
    // A name is described by the table it stands in.
    for key in Both::new().keys().iter().filter(|key| !key.is_sample) {
        assert!(key.schema["description"].as_str().is_some_and(|text| text.len() > 10), "{:?}", key.path);
    }
}

#[test]
fn schema_takes_every_value_that_the_reader_takes() {
    let both = Both::new();
    let keys = both.keys();
    assert!(keys.len() > 50);
    for (key, value) in keys.iter().flat_map(|key| assorted().into_iter().map(move |value| (key, value))) {
        let document = both.document(&key.path, &value);
        let (schema, reader) = (both.schema_takes(&document), Both::reader_takes(&document));
        let loose = key.is_loose() && value.is_string();
        assert!(schema == reader || (loose && schema), "schema {schema}, reader {reader}: {document}");
    }
}

#[test]
fn ranges_are_those_of_the_reader() {
    let both = Both::new();
    let mut seen = 0;
    for key in both.keys() {
        if let (Some(min), Some(max)) = (key.schema["minimum"].as_i64(), key.schema["maximum"].as_i64()) {
            seen += 1;
            for within in [min, max] {
                both.both_take(&key, &json!(within));
            }
            for outside in [min - 1, max + 1] {
                both.both_refuse(&key, &json!(outside));
            }
        }
        let bound = |keyword: &str| key.schema[keyword].as_str().map(|text| parse_duration(text).unwrap());
        if let (Some(min), Some(max)) = (bound("x-minimum"), bound("x-maximum")) {
            seen += 1;
            let step = std::time::Duration::from_millis(1);
            for within in [min, max] {
                both.both_take(&key, &json!(show_duration(within)));
            }
            for outside in [min.checked_sub(step), max.checked_add(step)].into_iter().flatten() {
                let document = both.document(&key.path, &json!(show_duration(outside)));
                assert!(!Both::reader_takes(&document), "the reader takes {document}");
            }
        }
    }
    assert!(seen > 25, "{seen}");
}

#[test]
fn choices_lists_and_defaults_are_those_of_the_reader() {
    let both = Both::new();
    for key in both.keys() {
        for choice in key.schema["oneOf"].as_array().into_iter().flatten() {
            both.both_take(&key, &choice["const"]);
        }
        if let Some(default) = key.schema.get("default") {
            both.both_take(&key, default);
        }
        if let (Some(min), Some(max)) = (key.schema["minItems"].as_u64(), key.schema["maxItems"].as_u64()) {
            let list = |count: u64| Json::from(vec![sample(&key.schema["items"]); count as usize]);
            both.both_take(&key, &list(min));
            both.both_take(&key, &list(max));
            both.both_refuse(&key, &list(min - 1));
            both.both_refuse(&key, &list(max + 1));
        }
    }
}

#[test]
fn schema_has_the_keys_that_the_reader_knows() {
    let both = Both::new();
    let top = Key { path: Vec::new(), schema: both.root.clone(), is_sample: false };
    let mut tables = 0;
    for key in both.keys().into_iter().chain([top]) {
        let Some(properties) = table(&key.schema).and_then(|table| table["properties"].as_object()) else {
            continue;
        };
        tables += 1;
        let unknown: Vec<_> = key.path.iter().cloned().chain(["not-a-key-of-anything".to_owned()]).collect();
        let document = both.document(&unknown, &json!(1));
        assert!(!both.schema_takes(&document), "the schema takes {document}");

        let problems = parse(&toml(&document), &sources()).expect_err("the key is unknown");
        let fix = problems.0[0].fix();
        let known =
            fix.strip_prefix("remove it, or write one of: ").unwrap_or_else(|| panic!("{fix}: {document}"));
        assert_eq!(
            known.split(", ").collect::<BTreeSet<_>>(),
            properties.keys().map(String::as_str).collect()
        );
    }
    assert!(tables >= 10);
}

#[test]
fn required_keys_are_missed_by_both() {
    let both = Both::new();
    let mut seen = 0;
    for key in both.keys() {
        let Some(table) = table(&key.schema) else { continue };
        both.both_take(&key, &sample(table));
        for required in required(table) {
            seen += 1;
            let mut without = sample(table);
            without.as_object_mut().unwrap().remove(required);
            both.both_refuse(&key, &without);
        }
    }
    assert!(seen >= 3, "{seen}");
}

#[test]
fn files_of_the_project_fit_the_schema() {
    let both = Both::new();
    let mut texts: Vec<_> = files_under(&root().join("examples"))
        .into_iter()
        .filter(|file| file.file_name().is_some_and(|name| name == "cleave.toml"))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    assert!(!texts.is_empty());
    texts.push(include_str!("everything.toml").to_owned());
    let pages = files_under(&root().join("docs")).into_iter().chain([root().join("README.md")]);
    for page in pages.filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let page = fs::read_to_string(page).unwrap();
        for (at, opening) in page.match_indices("```toml\n") {
            // The line before says what file it is, if it is another's.
            let is_cargos = page[..at].trim_end().ends_with("Cargo.toml`:");
            let block = page[at + opening.len()..].split("```").next().unwrap();
            texts.extend((!is_cargos).then(|| block.to_owned()));
        }
    }
    for text in texts {
        let document: Json = toml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert!(both.schema_takes(&document), "{text}");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn files_under(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_under(&path) } else { vec![path] }).collect()
}

/// Texts that are nearly right for one key or another.
fn near_misses() -> impl Strategy<Value = String> {
    prop_oneof![
        "(GET|POST|get|HEAD) {1,2}/[a-zA-Z{}*:/.%_ -]{0,8}",
        "[aA]1?-?[bB]?:[a-c]{0,2}-?/[a-zA-Z-]{0,4}(@[01]{0,2}\\.[01a-]\\.0(-rc\\.0?[1a])?(\\+b)?)?(\\.[a-zA-Z-]{0,3})?",
        "/[a-zA-Z{}/-]{0,8}",
        "[0-9]{0,2}(ms|s|m|h|d|x)?[0-9]?(s|h)?",
        "[0-9]{0,3} ?(B|KiB|MiB|GiB|MB)?",
        "[0-9a-f:\\[\\].]{1,12}:[0-9]{0,5}",
        "[a-zA-Z0-9-]{0,5}",
        "[a-z]{60,66}",
        "[a-z_.-]{0,5}(\\.[a-z]{1,60}){0,9}",
        "(nats|tls|http)://([a-z%]{0,2}:[a-z%40/]{0,4}@)?[a-zA-Z0-9._:-]{0,8}(:[0-9]{0,6})?/?",
        "nats://a:b@[a-f:\\[\\]]{1,8}(,|, )(nats|tls)://(a:b@)?c",
        any::<String>(),
    ]
}

proptest! {
    #[test]
    fn patterns_are_those_of_the_reader(text in near_misses()) {
        thread_local!(static BOTH: (Both, Vec<Key>) = { let both = Both::new(); let keys = both.keys(); (both, keys) });
        BOTH.with(|(both, keys)| {
            for key in keys {
                let as_value = both.document(&key.path, &json!(text));
                let (_, around) = key.path.split_last().unwrap();
                let renamed = || both.document(around, &json!({ text.as_str(): sample(&key.schema) }));
                let as_name = key.is_sample.then(renamed);
                for document in [Some(as_value), as_name].into_iter().flatten() {
                    let (schema, reader) = (both.schema_takes(&document), Both::reader_takes(&document));
                    // A pattern cannot say that no parameter comes twice.
                    let loose = key.is_loose() || text.matches('{').count() > 1;
                    prop_assert!(schema == reader || (loose && schema), "{}: {} {}", document, schema, reader);
                }
            }
            Ok(())
        })?;
    }
}
