//! Owns the JSON Schema of a WIT type: what `values.rs` reads and writes as JSON, said in the words of draft 2020-12.
//!
//! Records, variants, enums and flags that have a name are schemas of the document, under their WIT names with dots;
//! everything else stands where it is used. What a schema refuses, the gateway refuses; of what it takes, the gateway
//! refuses a whole number that is written as another (`1.0`, `1e2`, `-0`), which JSON Schema cannot tell.

use crate::module::kind;
use crate::types::Name;
use crate::wit::docs;
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use wit_parser::{Resolve, Type, TypeDef, TypeDefKind, TypeId, TypeOwner};

/// Base64 as RFC 4648 has it, padded, with nothing in the bits that are left over.
const BASE64: &str = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";

/// Where the schemas of a document are.
const SCHEMAS: &str = "#/components/schemas/";
/// Below this, in absolute value, a number is one of 32 bits: what is less than half a step beyond the largest rounds
/// to it.
const F32_LIMIT: f64 = 340_282_356_779_733_661_637_539_395_458_142_568_448.0;

/// The schemas that have names.
#[derive(Debug, Default)]
pub(super) struct Schemas {
    /// By the names of the types in WIT, which have versions. References are by these names until the end.
    named: BTreeMap<String, Json>,
}

impl Schemas {
    /// The schema of a type, or a reference to it.
    pub(super) fn of(&mut self, resolve: &Resolve, ty: &Type) -> Json {
        match ty {
            Type::Bool => json!({"type": "boolean"}),
            Type::S8 => integer(i8::MIN, i8::MAX),
            Type::U8 => integer(u8::MIN, u8::MAX),
            Type::S16 => integer(i16::MIN, i16::MAX),
            Type::U16 => integer(u16::MIN, u16::MAX),
            Type::S32 => integer(i32::MIN, i32::MAX),
            Type::U32 => integer(u32::MIN, u32::MAX),
            Type::S64 => integer(i64::MIN, i64::MAX),
            Type::U64 => integer(u64::MIN, u64::MAX),
            Type::F32 => json!({
                "type": "number", "format": "float",
                "exclusiveMinimum": -F32_LIMIT, "exclusiveMaximum": F32_LIMIT,
            }),
            Type::F64 => json!({"type": "number", "format": "double"}),
            Type::Char => json!({"type": "string", "minLength": 1, "maxLength": 1}),
            Type::String => json!({"type": "string"}),
            Type::Id(id) => self.of_id(resolve, *id),
            // No contract has one.
            Type::ErrorContext => json!(false),
        }
    }

    /// Puts the schemas into a document, with the one of every problem. Their names have no version unless two versions
    /// are there; then all of the two have theirs.
    pub(super) fn put_into(self, document: &mut Json) {
        let mut versions: BTreeMap<String, usize> = BTreeMap::new();
        for name in self.named.keys() {
            *versions.entry(plain_name(name).0).or_default() += 1;
        }
        let shown = |name: &str| {
            let (plain, version) = plain_name(name);
            if versions.get(&plain).is_some_and(|count| *count > 1) {
                format!("{plain}-{version}")
            } else {
                plain
            }
        };
        let named = self.named.into_iter().map(|(name, schema)| (shown(&name), schema));
        let named: Map<_, _> = named.chain([("problem".to_owned(), problem())]).collect();
        if let Some(document) = document.as_object_mut() {
            let components = document.entry("components").or_insert_with(|| json!({}));
            if let Some(components) = components.as_object_mut() {
                components.insert("schemas".to_owned(), named.into());
            }
        }
        rename(document, &shown);
    }

    fn of_id(&mut self, resolve: &Resolve, id: TypeId) -> Json {
        let Some(def) = resolve.types.get(id) else { return json!({}) };
        match &def.kind {
            TypeDefKind::Type(other) => self.of(resolve, other),
            TypeDefKind::Record(_)
            | TypeDefKind::Variant(_)
            | TypeDefKind::Enum(_)
            | TypeDefKind::Flags(_) => {
                let Some(name) = name(resolve, def) else { return self.written_out(resolve, def) };
                if !self.named.contains_key(&name) {
                    let mut schema = self.written_out(resolve, def);
                    describe(&mut schema, docs(&def.docs));
                    self.named.insert(name.clone(), schema);
                }
                json!({"$ref": format!("{SCHEMAS}{name}")})
            }
            _ => self.written_out(resolve, def),
        }
    }

    fn written_out(&mut self, resolve: &Resolve, def: &TypeDef) -> Json {
        match &def.kind {
            TypeDefKind::List(Type::U8) => {
                json!({"type": "string", "contentEncoding": "base64", "pattern": BASE64})
            }
            TypeDefKind::List(item) => json!({"type": "array", "items": self.of(resolve, item)}),
            TypeDefKind::Option(inner) => self.option(resolve, inner),
            TypeDefKind::Result(result) => json!({"oneOf": [
                self.case(resolve, "ok", result.ok.as_ref()),
                self.case(resolve, "error", result.err.as_ref()),
            ]}),
            TypeDefKind::Tuple(tuple) => {
                let items: Vec<_> = tuple.types.iter().map(|ty| self.of(resolve, ty)).collect();
                let length = items.len();
                json!({"type": "array", "prefixItems": items, "items": false, "minItems": length, "maxItems": length})
            }
            TypeDefKind::Record(record) => self.record(resolve, record),
            TypeDefKind::Variant(variant) => {
                let cases = variant.cases.iter().map(|case| {
                    let mut schema = self.case(resolve, &Name::new(&case.name).json, case.ty.as_ref());
                    describe(&mut schema, docs(&case.docs));
                    schema
                });
                json!({"oneOf": cases.collect::<Vec<_>>()})
            }
            TypeDefKind::Enum(names) => {
                one_of(names.cases.iter().map(|case| (case.name.as_str(), docs(&case.docs))))
            }
            TypeDefKind::Flags(flags) => {
                let names = flags.flags.iter().map(|flag| (flag.name.as_str(), docs(&flag.docs)));
                json!({"type": "array", "uniqueItems": true, "items": one_of(names)})
            }
            TypeDefKind::Type(other) => self.of(resolve, other),
            // No contract has one.
            _ => json!(false),
        }
    }

    fn option(&mut self, resolve: &Resolve, inner: &Type) -> Json {
        let some = self.of(resolve, inner);
        let some = match kind(resolve, inner) {
            Some(TypeDefKind::Option(_)) => json!({
                "type": "object",
                "properties": {"some": some},
                "required": ["some"],
                "additionalProperties": false,
            }),
            _ => some,
        };
        json!({"anyOf": [some, {"type": "null"}]})
    }

    fn record(&mut self, resolve: &Resolve, record: &wit_parser::Record) -> Json {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in &record.fields {
            let name = Name::new(&field.name).json;
            let mut schema = self.of(resolve, &field.ty);
            describe(&mut schema, docs(&field.docs));
            properties.insert(name.clone(), schema);
            if !matches!(kind(resolve, &field.ty), Some(TypeDefKind::Option(_))) {
                required.push(name);
            }
        }
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
    }

    /// A case: its name alone, or an object with what it carries under its name.
    fn case(&mut self, resolve: &Resolve, name: &str, ty: Option<&Type>) -> Json {
        match ty {
            None => json!({"const": name}),
            Some(ty) => json!({
                "type": "object",
                "properties": {name: self.of(resolve, ty)},
                "required": [name],
                "additionalProperties": false,
            }),
        }
    }
}

/// The name of a type in WIT, `shop:orders/checkout@0.1.0.order`.
fn name(resolve: &Resolve, def: &TypeDef) -> Option<String> {
    let TypeOwner::Interface(owner) = def.owner else { return None };
    Some(format!("{}.{}", resolve.id_of(owner)?, def.name.as_deref()?))
}

/// The name of a type without its version and with dots, and the version: `shop.orders.checkout.order` and `0.1.0`.
fn plain_name(name: &str) -> (String, &str) {
    let (interface, ty) = name.rsplit_once('.').unwrap_or(("", name));
    let (interface, version) = interface.split_once('@').unwrap_or((interface, ""));
    (format!("{}.{ty}", interface.replace([':', '/'], ".")), version)
}

/// Gives every reference to a type the name that it is shown by.
fn rename(json: &mut Json, shown: &impl Fn(&str) -> String) {
    match json {
        Json::Array(items) => items.iter_mut().for_each(|item| rename(item, shown)),
        Json::Object(members) => {
            for (key, member) in members {
                match member {
                    Json::String(reference) if key == "$ref" => {
                        // The name of a type in WIT has a slash, and no other has.
                        let name = reference.strip_prefix(SCHEMAS).filter(|name| name.contains('/'));
                        if let Some(name) = name.map(shown) {
                            *reference = format!("{SCHEMAS}{name}");
                        }
                    }
                    member => rename(member, shown),
                }
            }
        }
        _ => {}
    }
}

fn integer<T: Into<i128>>(minimum: T, maximum: T) -> Json {
    let number = |n: T| {
        let n = n.into();
        i64::try_from(n).map(Json::from).or_else(|_| u64::try_from(n).map(Json::from)).unwrap_or(Json::Null)
    };
    json!({"type": "integer", "minimum": number(minimum), "maximum": number(maximum)})
}

/// One of these names, with what is said about each.
fn one_of<'a>(names: impl Iterator<Item = (&'a str, &'a str)>) -> Json {
    let mut words = Vec::new();
    let mut cases = Vec::new();
    for (name, said) in names {
        let name = Name::new(name).json;
        if !said.is_empty() {
            words.push(format!("- `{name}`: {}", said.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
        cases.push(name);
    }
    let mut schema = json!({"type": "string", "enum": cases});
    describe(&mut schema, &words.join("\n"));
    schema
}

/// Adds what is said about a type, before what its cases say.
fn describe(schema: &mut Json, text: &str) {
    let Some(schema) = schema.as_object_mut().filter(|_| !text.is_empty()) else { return };
    let text = match schema.get("description").and_then(Json::as_str) {
        Some(cases) => format!("{text}\n\n{cases}"),
        None => text.to_owned(),
    };
    schema.insert("description".to_owned(), text.into());
}

/// A problem document, RFC 9457, as `problem.rs` writes it.
fn problem() -> Json {
    json!({
        "description": "A problem, as RFC 9457 describes it.",
        "type": "object",
        "properties": {
            "type": {"const": "about:blank"},
            "title": {"type": "string", "description": "The status in words."},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string", "description": "What is wrong."},
            "case": {"type": "string", "description": "Which error of the function it is."},
            "payload": {"description": "What the error carries, if that is no text."},
            "request_id": {"type": "string", "description": "The request's identity, by which the log names it."},
        },
        "required": ["type", "title", "status", "request_id"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types;
    use crate::values::{from_json, tests::typed_value, to_json};
    use proptest::prelude::*;
    use std::fmt::Write as _;

    /// Types in WIT, each record, variant, enum and flags with a name of its own.
    #[derive(Default)]
    struct Writer {
        declared: String,
        count: usize,
    }

    impl Writer {
        fn ty(&mut self, ty: &types::Type) -> String {
            use types::Type;
            let body = match ty {
                Type::List(item) => return format!("list<{}>", self.ty(item)),
                Type::Option(inner) => return format!("option<{}>", self.ty(inner)),
                Type::Tuple(items) => {
                    let items: Vec<_> = items.iter().map(|item| self.ty(item)).collect();
                    return format!("tuple<{}>", items.join(", "));
                }
                Type::Result(ok, error) => {
                    let mut side = |ty: &Option<_>| ty.as_deref().map(|ty| self.ty(ty));
                    return match (side(ok), side(error)) {
                        (None, None) => "result".to_owned(),
                        (Some(ok), None) => format!("result<{ok}>"),
                        (ok, Some(error)) => format!("result<{}, {error}>", ok.unwrap_or("_".to_owned())),
                    };
                }
                Type::Record(fields) => {
                    let fields = fields.iter().map(|f| format!("{}: {}", f.name.wit, self.ty(&f.ty)));
                    ("record", fields.collect::<Vec<_>>())
                }
                Type::Variant(cases) => {
                    let cases = cases.iter().map(|case| match &case.ty {
                        Some(ty) => format!("{}({})", case.name.wit, self.ty(ty)),
                        None => case.name.wit.clone(),
                    });
                    ("variant", cases.collect())
                }
                Type::Enum(names) => ("enum", names.iter().map(|name| name.wit.clone()).collect()),
                Type::Flags(names) => ("flags", names.iter().map(|name| name.wit.clone()).collect()),
                plain => return plain.to_string(),
            };
            self.count += 1;
            let name = format!("t{}", self.count);
            writeln!(self.declared, "{} {name} {{ {} }}", body.0, body.1.join(", ")).unwrap();
            name
        }
    }

    /// The whole schema of a type, by way of WIT.
    fn schema(ty: &types::Type) -> Json {
        let mut writer = Writer::default();
        let parameter = writer.ty(ty);
        let text = format!("package a:b;\ninterface c {{\n{}f: func(x: {parameter});\n}}", writer.declared);
        let mut resolve = Resolve::default();
        resolve.push_str("a.wit", &text).unwrap();
        let (_, interface) = resolve.interfaces.iter().next().unwrap();
        let mut schemas = Schemas::default();
        let mut schema = schemas.of(&resolve, &interface.functions["f"].params[0].ty);
        schemas.put_into(&mut schema);
        schema
    }

    /// Whether a schema takes a value.
    fn judge(schema: Json) -> impl Fn(&Json) -> bool {
        let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
        compiler.add_resource("schema.json", schema).unwrap();
        let index = compiler.compile("schema.json", &mut schemas).unwrap();
        move |json| schemas.validate(json, index).is_ok()
    }

    /// Another value of JSON near this one.
    fn change(json: &mut Json, way: usize) {
        let deeper = way / 8;
        match json {
            Json::Array(items) if !items.is_empty() && way % 8 < 5 => {
                let at = deeper % items.len();
                change(&mut items[at], deeper);
            }
            Json::Object(members) if !members.is_empty() && way % 8 < 5 => {
                let at = deeper % members.len();
                change(members.values_mut().nth(at).unwrap(), deeper);
            }
            Json::Array(items) if way.is_multiple_of(2) => items.push(Json::Null),
            Json::Array(items) => drop(items.pop()),
            Json::Object(members) if way.is_multiple_of(2) => {
                drop(members.insert("other".to_owned(), json!(1)))
            }
            Json::Object(members) => {
                let first = members.keys().next().cloned();
                first.map(|name| members.remove(&name));
            }
            other => {
                let others = [
                    json!(null),
                    json!(-1),
                    json!(1.5),
                    json!(300),
                    json!("x"),
                    json!("AA=="),
                    json!(true),
                    json!({}),
                ];
                *other = others[deeper % others.len()].clone();
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_fits_its_schema((ty, value) in typed_value()) {
            let takes = judge(schema(&ty));
            let json: Json = serde_json::from_slice(&to_json(&ty, &value).unwrap()).unwrap();
            prop_assert!(takes(&json), "{ty}: {json}");
        }

        #[test]
        fn what_fits_the_schema_is_read_and_nothing_else((ty, value) in typed_value(), ways in proptest::collection::vec(any::<usize>(), 1..3)) {
            let takes = judge(schema(&ty));
            let mut json: Json = serde_json::from_slice(&to_json(&ty, &value).unwrap()).unwrap();
            for way in ways {
                change(&mut json, way);
            }
            let is_read = from_json(&ty, json.to_string().as_bytes(), usize::MAX).is_ok();
            prop_assert_eq!(takes(&json), is_read, "{}: {}", ty, json);
        }
    }

    #[test]
    fn words_of_types_and_cases_are_told() {
        let text = "package a:b; interface c {
            /// How it stands.
            enum state { /// Not yet.
                to-do, done }
            /// A thing.
            record thing { /// Its state.
                the-state: state, note: option<string> }
            f: func(x: thing);
        }";
        let mut resolve = Resolve::default();
        resolve.push_str("a.wit", text).unwrap();
        let (_, interface) = resolve.interfaces.iter().next().unwrap();
        let mut schemas = Schemas::default();
        let mut schema = schemas.of(&resolve, &interface.functions["f"].params[0].ty);
        schemas.put_into(&mut schema);
        assert_eq!(schema["$ref"], "#/components/schemas/a.b.c.thing");
        let named = &schema["components"]["schemas"];
        assert_eq!(named["a.b.c.state"]["description"], "How it stands.\n\n- `to_do`: Not yet.");
        let thing = json!({
            "description": "A thing.",
            "type": "object",
            "properties": {
                "the_state": {"$ref": "#/components/schemas/a.b.c.state", "description": "Its state."},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
            "required": ["the_state"],
            "additionalProperties": false,
        });
        assert_eq!(named["a.b.c.thing"], thing);
    }

    #[test]
    fn numbers_of_32_bits_end_where_they_round_to_the_largest() {
        let takes = judge(schema(&types::Type::F32));
        for (text, fits) in [
            ("3.4028235e38", true),
            ("-3.4028235e38", true),
            ("3.4028235677973362e38", true),
            ("3.402823568e38", false),
            ("-1e39", false),
        ] {
            assert_eq!(takes(&serde_json::from_str(text).unwrap()), fits, "{text}");
            assert_eq!(from_json(&types::Type::F32, text.as_bytes(), usize::MAX).is_ok(), fits, "{text}");
        }
        let largest = to_json(&types::Type::F32, &wasmtime::component::Val::Float32(f32::MAX)).unwrap();
        assert!(takes(&serde_json::from_slice(&largest).unwrap()));
    }

    #[test]
    fn two_versions_of_a_type_have_names_of_their_own() {
        let mut resolve = Resolve::default();
        resolve.push_str("a.wit", "package a:b@0.1.0; interface c { record thing { x: u8 } }").unwrap();
        let text = "package a:b@0.2.0; interface c {
            use a:b/c@0.1.0.{thing as old};
            record thing { inner: old, y: u8 }
            record other { z: u8 }
            f: func(x: thing, y: other);
        }";
        let package = resolve.push_str("b.wit", text).unwrap();
        let interface = resolve.packages[package].interfaces["c"];
        let mut schemas = Schemas::default();
        let parameters = &resolve.interfaces[interface].functions["f"].params;
        let mut schema = json!({"x": schemas.of(&resolve, &parameters[0].ty), "y": schemas.of(&resolve, &parameters[1].ty)});
        schemas.put_into(&mut schema);
        assert_eq!(schema["x"]["$ref"], "#/components/schemas/a.b.c.thing-0.2.0");
        assert_eq!(schema["y"]["$ref"], "#/components/schemas/a.b.c.other");
        let named = &schema["components"]["schemas"];
        let inner = &named["a.b.c.thing-0.2.0"]["properties"]["inner"]["$ref"];
        assert_eq!(inner, "#/components/schemas/a.b.c.thing-0.1.0");
        assert!(named["a.b.c.thing-0.1.0"]["properties"]["x"].is_object());
    }
}
