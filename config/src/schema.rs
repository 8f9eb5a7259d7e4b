//! The JSON Schema of `cleave.toml`, for editors: every key with its meaning, form, range and default.
//!
//! It is derived from the tree. It never refuses what the reader takes; the reader refuses more, such as a duration
//! out of range, because JSON Schema has ranges for numbers alone.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use serde_json::Value;

use crate::tree::Config;

/// The schema, as the text of a file.
pub fn schema() -> String {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Config>();
    RecursiveTransform(as_toml).transform(&mut schema);
    let mut schema = schema.to_value();
    // Why: what order maps keep is up to the features that the rest of a build asks for.
    schema.sort_all_objects();
    format!("{schema:#}\n")
}

/// Says what serde's types mean in this file.
fn as_toml(schema: &mut Schema) {
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    // TOML has no null: a key that may be absent is absent.
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    // The keys of a table tell their defaults themselves.
    if matches!(schema.get("default"), Some(Value::Null | Value::Object(_))) {
        schema.remove("default");
    }
    // What is in a set may be written twice.
    schema.remove("uniqueItems");
}
