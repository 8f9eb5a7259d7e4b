//! Owns the OpenAPI document: the routes of an application as OpenAPI 3.1 describes them, for whoever writes a client.
//!
//! It says what the gateway does and is made of what the gateway goes by: the plans of the routes. The types and what is
//! said about them come from WIT. Every answer that a route can have is in it, so an answer that is not is a fault of the
//! host. <https://spec.openapis.org/oas/v3.1.1>

mod schema;

use super::plan::{Body, ErrorCase, Errors, Part, Plan, Source, Times, success_fields, success_type};
use crate::module::kind;
use crate::types::{Name, Type};
use crate::wit::{Written, docs};
use axum::http::StatusCode;
use cleave_config::{Method, RouteKey};
use schema::Schemas;
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use wit_parser::TypeDefKind;

/// A route, and the contract of its function as it is written down.
#[derive(Debug)]
pub struct Described<'a> {
    pub key: &'a RouteKey,
    pub plan: &'a Plan,
    pub written: Written<'a>,
}

/// The document of an application with this title and version.
pub fn document(title: &str, version: &str, routes: &[Described<'_>]) -> Json {
    let mut schemas = Schemas::default();
    let mut paths: Map<String, Json> = Map::new();
    let mut names = BTreeSet::new();
    let mut tags = BTreeMap::new();
    for path in by_path(routes).into_values() {
        let mut item = Map::new();
        for route in &path.operations {
            let mut operation = Operation { route, template: path.template, schemas: &mut schemas };
            let mut described = operation.describe();
            described.insert("operationId".to_owned(), unique(&mut names, route).into());
            item.insert(route.key.method().as_str().to_ascii_lowercase(), described.into());
            tags.insert(tag(route.plan), route.written.docs());
        }
        paths.insert(path.template.to_owned(), item.into());
    }
    let tags: Vec<_> =
        tags.into_iter()
            .map(|(name, docs)| {
                if docs.is_empty() {
                    json!({"name": name})
                } else {
                    json!({"name": name, "description": docs})
                }
            })
            .collect();
    let mut document = json!({
        "openapi": "3.1.1",
        "info": {"title": title, "version": version},
        "paths": paths,
        "tags": tags,
        "components": {
            "responses": shared_responses(),
            "headers": {"request_id": {
                "description": "The request's identity, by which the log names it.",
                "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
            }},
        },
    });
    schemas.put_into(&mut document);
    document
}

/// The routes of one path, under the names that the first of them gives its variables.
struct PathItem<'a> {
    template: &'a str,
    operations: Vec<&'a Described<'a>>,
}

/// Why: paths that differ in the names of variables alone are one path to OpenAPI, as they are to the router.
fn by_path<'a>(routes: &'a [Described<'a>]) -> BTreeMap<&'a str, PathItem<'a>> {
    let mut items: BTreeMap<&str, PathItem<'_>> = BTreeMap::new();
    for route in routes {
        let item = items.entry(&route.plan.path);
        let new = || PathItem { template: route.key.path(), operations: Vec::new() };
        item.or_insert_with(new).operations.push(route);
    }
    items
}

/// The contract of a function without its version.
fn tag(plan: &Plan) -> String {
    plan.function.address.split('@').next().unwrap_or_default().to_owned()
}

/// A name for code that is generated: `shop_orders_checkout_place`.
fn unique(names: &mut BTreeSet<String>, route: &Described<'_>) -> String {
    let base = format!("{}_{}", tag(route.plan), route.plan.function.name);
    let base: String = base.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let mut name = base.clone();
    // Why: a function may have several routes.
    for count in 2.. {
        if names.insert(name.clone()) {
            break;
        }
        name = format!("{base}_{count}");
    }
    name
}

/// One route on its way into the document.
struct Operation<'a> {
    route: &'a Described<'a>,
    template: &'a str,
    schemas: &'a mut Schemas,
}

impl Operation<'_> {
    fn describe(&mut self) -> Map<String, Json> {
        let Described { plan, written, .. } = self.route;
        let mut operation = Map::new();
        operation.insert("tags".to_owned(), json!([tag(plan)]));
        operation.insert("x-cleave-function".to_owned(), plan.function.address.clone().into());
        if let Some(function) = written.function(&plan.function) {
            let text = docs(&function.docs);
            if !text.is_empty() {
                operation.insert("summary".to_owned(), first_sentence(text).into());
                operation.insert("description".to_owned(), text.into());
            }
        }
        let parameters = self.parameters();
        if !parameters.is_empty() {
            operation.insert("parameters".to_owned(), parameters.into());
        }
        if let Some(body) = self.body() {
            operation.insert("requestBody".to_owned(), body);
        }
        operation.insert("responses".to_owned(), self.responses().into());
        operation
    }

    /// The schema of a parameter of the function, by its position.
    fn parameter(&mut self, position: usize) -> Json {
        let function = self.route.written.function(&self.route.plan.function);
        let ty = function.and_then(|function| function.params.get(position)).map(|parameter| parameter.ty);
        self.schema(ty)
    }

    fn parameters(&mut self) -> Vec<Json> {
        let plan = self.route.plan;
        let mut parameters = Vec::new();
        for (position, (source, parameter)) in
            plan.sources.iter().zip(plan.function.parameters.iter()).enumerate()
        {
            let name = parameter.name.json.as_str();
            match source {
                Source::Path(segment) => {
                    let variable = self.template.split('/').nth(*segment).unwrap_or_default();
                    let variable = variable.trim_matches(['{', '}']);
                    let mut schema = self.parameter(position);
                    // A segment that is empty is no segment.
                    if let (Type::String, Some(schema)) = (&parameter.ty, schema.as_object_mut()) {
                        schema.insert("minLength".to_owned(), 1.into());
                    }
                    parameters
                        .push(json!({"name": variable, "in": "path", "required": true, "schema": schema}));
                }
                Source::Query(times) => {
                    let schema = match self.parameter(position) {
                        // What is left out is none; there is no word for null.
                        Json::Object(mut option) if *times == Times::AtMostOnce => option
                            .remove("anyOf")
                            .and_then(|any| any.get(0).cloned())
                            .unwrap_or(Json::Object(option)),
                        schema => schema,
                    };
                    let required = *times == Times::Once;
                    parameters
                        .push(json!({"name": name, "in": "query", "required": required, "schema": schema}));
                }
                Source::Body => {}
            }
        }
        parameters
    }

    fn body(&mut self) -> Option<Json> {
        let plan = self.route.plan;
        let of_body = |(_, source): &(usize, &Source)| **source == Source::Body;
        let positions: Vec<_> = plan.sources.iter().enumerate().filter(of_body).map(|(at, _)| at).collect();
        let (schema, required) = match (&plan.body, positions.as_slice()) {
            (Body::Value(ty), [position]) => (self.parameter(*position), !matches!(ty, Type::Option(_))),
            (Body::Object(fields), positions) => {
                let types: Vec<_> = positions.iter().map(|position| self.parameter(*position)).collect();
                let properties = fields.iter().map(|field| &field.name).zip(types);
                let required = fields.iter().filter(|f| !matches!(f.ty, Type::Option(_))).map(|f| &f.name);
                (object(properties, required), true)
            }
            _ => return None,
        };
        Some(json!({"required": required, "content": {"application/json": {"schema": schema}}}))
    }

    fn responses(&mut self) -> Map<String, Json> {
        let plan = self.route.plan;
        let mut responses = Map::new();
        self.success(&mut responses);
        for (status, cases) in self.errors() {
            responses.insert(status.to_string(), problem_response(status, &cases));
        }
        let mut shared = vec![400, 408, 500, 503, 504];
        if !plan.function.parameters.is_empty() {
            shared.push(413);
        }
        if plan.body != Body::Empty {
            shared.push(415);
        }
        if self.is_absent_not_found() {
            shared.push(404);
        }
        for status in shared {
            let entry = responses.entry(status.to_string());
            match entry {
                serde_json::map::Entry::Vacant(entry) => {
                    entry.insert(json!({"$ref": format!("#/components/responses/{}", shared_name(status))}));
                }
                // A case of the function has the status too: either of them.
                serde_json::map::Entry::Occupied(mut entry) => {
                    let schema = entry.get_mut().pointer_mut("/content/application~1problem+json/schema");
                    if let Some(schema) = schema {
                        let cases = schema.take();
                        *schema = json!({"anyOf": [cases, {"$ref": "#/components/schemas/problem"}]});
                    }
                }
            }
        }
        responses
    }

    /// Whether a value that is none is answered with 404.
    fn is_absent_not_found(&self) -> bool {
        let plan = self.route.plan;
        plan.method == Method::Get && matches!(success_type(&plan.function), Some(Type::Option(_)))
    }

    fn success(&mut self, responses: &mut Map<String, Json>) {
        let plan = self.route.plan;
        let mut headers = json!({"x-request-id": {"$ref": "#/components/headers/request_id"}});
        let Some(ty) = success_type(&plan.function) else {
            let response = json!({"description": "It is done.", "headers": headers});
            responses.insert(plan.status.as_str().to_owned(), response);
            return;
        };
        if matches!(ty, Type::Option(_)) && plan.method != Method::Get {
            let response =
                json!({"description": "It is done, and there is no value.", "headers": headers.clone()});
            responses.insert("204".to_owned(), response);
        }
        if let (Some(location), Some(headers)) = (&plan.location, headers.as_object_mut()) {
            let path: String = location.iter().map(|part| self.location_part(part)).collect();
            let header = json!({
                "description": format!("`{path}`, with the values of this answer."),
                "required": true,
                "schema": {"type": "string", "format": "uri-reference"},
            });
            headers.insert("location".to_owned(), header);
        }
        let schema = self.success_schema();
        let statuses: BTreeSet<_> = plan.when.iter().map(|when| when.status).chain([plan.status]).collect();
        for status in statuses {
            let response = json!({
                "description": self.success_words(status),
                "headers": headers,
                "content": {"application/json": {"schema": schema}},
            });
            responses.insert(status.as_str().to_owned(), response);
        }
    }

    /// The schema of a value of success; that of an option is the one of what it holds, since none has another answer.
    fn success_schema(&mut self) -> Json {
        let Written { resolve, .. } = self.route.written;
        let function = self.route.written.function(&self.route.plan.function);
        let Some(result) = function.and_then(|function| function.result) else { return json!({}) };
        let ok = match kind(resolve, &result) {
            Some(TypeDefKind::Result(result)) => result.ok,
            _ => Some(result),
        };
        let Some(ok) = ok else { return json!({}) };
        match kind(resolve, &ok) {
            Some(TypeDefKind::Option(inner)) => self.schemas.of(resolve, inner),
            _ => self.schemas.of(resolve, &ok),
        }
    }

    fn location_part(&self, part: &Part) -> String {
        let fields = success_fields(success_type(&self.route.plan.function));
        match part {
            Part::Literal(text) => text.clone(),
            Part::Field(index, _) => {
                fields.get(*index).map_or(String::new(), |field| format!("{{{}}}", field.name.json))
            }
            Part::Segment(index) => self.template.split('/').nth(*index).unwrap_or_default().to_owned(),
        }
    }

    fn success_words(&self, status: StatusCode) -> String {
        let plan = self.route.plan;
        let fields = success_fields(success_type(&plan.function));
        let cases = plan.when.iter().filter(|when| when.status == status).filter_map(|when| {
            let field = fields.get(when.field)?;
            Some(format!("`{}` is `{}`", field.name.json, Name::new(&when.case).json))
        });
        let cases: Vec<_> = cases.collect();
        if cases.is_empty() {
            "It is done.".to_owned()
        } else {
            format!("It is done, and {}.", cases.join(" or "))
        }
    }

    /// The cases of the function's error by their statuses.
    fn errors(&mut self) -> BTreeMap<u16, Vec<Case>> {
        let plan = self.route.plan;
        let mut found: BTreeMap<u16, Vec<Case>> = BTreeMap::new();
        match &plan.errors {
            Errors::None | Errors::Failure => {}
            Errors::Caseless(status, ty) => {
                let error = self.error_type();
                let payload = ty.as_ref().map(|ty| (ty.clone(), self.schema(error)));
                found.entry(status.as_u16()).or_default().push(Case {
                    name: None,
                    docs: String::new(),
                    payload,
                });
            }
            Errors::Cases(cases) => {
                for case in cases.iter() {
                    let ErrorCase { name, ty, status: Some(status) } = case else { continue };
                    let (docs, carried) = self.error_case(name).unwrap_or_default();
                    let payload = ty.as_ref().map(|ty| (ty.clone(), self.schema(carried)));
                    found.entry(status.as_u16()).or_default().push(Case {
                        name: Some(name.json.clone()),
                        docs,
                        payload,
                    });
                }
            }
        }
        found
    }

    /// The type that WIT gives the function's error.
    fn error_type(&self) -> Option<wit_parser::Type> {
        let Written { resolve, .. } = self.route.written;
        let function = self.route.written.function(&self.route.plan.function)?;
        match kind(resolve, &function.result?)? {
            TypeDefKind::Result(result) => result.err,
            _ => None,
        }
    }

    /// What WIT says of a case of the function's error, and the type of what it carries.
    fn error_case(&self, name: &Name) -> Option<(String, Option<wit_parser::Type>)> {
        match kind(self.route.written.resolve, &self.error_type()?)? {
            TypeDefKind::Variant(variant) => {
                let case = variant.cases.iter().find(|case| case.name == name.wit)?;
                Some((docs(&case.docs).to_owned(), case.ty))
            }
            TypeDefKind::Enum(names) => {
                let case = names.cases.iter().find(|case| case.name == name.wit)?;
                Some((docs(&case.docs).to_owned(), None))
            }
            _ => None,
        }
    }

    /// The schema of a type of the contract; any value, if there is none.
    fn schema(&mut self, ty: Option<wit_parser::Type>) -> Json {
        ty.map_or_else(|| json!({}), |ty| self.schemas.of(self.route.written.resolve, &ty))
    }
}

/// A case of an error, as a problem document tells it.
struct Case {
    name: Option<String>,
    docs: String,
    /// The type of what it carries, and its schema.
    payload: Option<(Type, Json)>,
}

impl Case {
    fn schema(&self) -> Json {
        let mut properties = Map::new();
        let mut required = Vec::new();
        if let Some(name) = &self.name {
            properties.insert("case".to_owned(), json!({"const": name}));
            required.push("case");
        }
        match &self.payload {
            // A text is the problem's detail.
            None | Some((Type::String, _)) => {}
            Some((_, schema)) => {
                properties.insert("payload".to_owned(), schema.clone());
                required.push("payload");
            }
        }
        json!({
            "allOf": [{"$ref": "#/components/schemas/problem"}],
            "properties": properties,
            "required": required,
        })
    }

    fn words(&self, status: u16) -> String {
        match (&self.name, self.docs.as_str()) {
            (Some(name), "") => format!("`{name}`"),
            (Some(name), docs) => format!("`{name}`: {docs}"),
            (None, _) => reason(status).to_owned(),
        }
    }
}

fn problem_response(status: u16, cases: &[Case]) -> Json {
    let words: Vec<_> = cases.iter().map(|case| case.words(status)).collect();
    let schema = match cases {
        [only] => only.schema(),
        cases => json!({"oneOf": cases.iter().map(Case::schema).collect::<Vec<_>>()}),
    };
    problem(&words.join("\n\n"), &schema, None)
}

/// The answer that is a problem document of this schema.
fn problem(description: &str, schema: &Json, header: Option<(&str, Json)>) -> Json {
    let mut headers = Map::new();
    headers.insert("x-request-id".to_owned(), json!({"$ref": "#/components/headers/request_id"}));
    headers.extend(header.map(|(name, header)| (name.to_owned(), header)));
    json!({
        "description": description,
        "headers": headers,
        "content": {"application/problem+json": {"schema": schema}},
    })
}

fn reason(status: u16) -> &'static str {
    StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("a problem")
}

fn shared_name(status: u16) -> String {
    reason(status).to_ascii_lowercase().replace(' ', "_")
}

/// The answers that the host gives itself, on every route alike.
fn shared_responses() -> Map<String, Json> {
    let any = json!({"$ref": "#/components/schemas/problem"});
    let seconds = json!({
        "description": "The seconds after which to send the request again.",
        "required": true,
        "schema": {"type": "integer", "minimum": 1},
    });
    [
        (400, "The request does not fit the route; nothing was done.", None),
        (404, "It does not exist.", None),
        (408, "The body did not arrive in time; nothing was done.", None),
        (413, "The request is larger than it may be; nothing was done.", None),
        (415, "The body is not JSON by its content type; nothing was done.", None),
        (500, "The host failed.", None),
        (503, "The request was not carried out; send it again.", Some(("retry-after", seconds))),
        (504, "There was no answer, and the request may have been carried out.", None),
    ]
    .into_iter()
    .map(|(status, description, header)| (shared_name(status), problem(description, &any, header)))
    .collect()
}

/// An object of these members, and no others.
fn object<'a>(
    properties: impl Iterator<Item = (&'a Name, Json)>,
    required: impl Iterator<Item = &'a Name>,
) -> Json {
    let properties: Map<_, _> = properties.map(|(name, schema)| (name.json.clone(), schema)).collect();
    let required: Vec<_> = required.map(|name| name.json.as_str()).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// The first sentence of a text, on one line.
fn first_sentence(text: &str) -> String {
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    // Why: a sentence begins with a capital or with code; `e.g. this` does not end one.
    let begins = |rest: &str| rest.starts_with(|c: char| c.is_uppercase() || c == '`');
    let end = line.match_indices(". ").find(|(at, _)| line.get(at + 2..).is_some_and(begins));
    let sentence = end.and_then(|(at, _)| line.get(..at)).unwrap_or(&line);
    sentence.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module;
    use cleave_config::HttpRoute;
    use wit_parser::{Resolve, WorldKey};

    /// The document of routes to the functions of one interface, each a key, a function and what config says more.
    fn described(functions: &str, routes: &[(&str, &str, &str)]) -> Json {
        let text = format!(
            "package a:b@1.0.0;
            interface c {{
                variant error {{ /// Not so.
                    invalid(string), gone(u8) }}
                enum state {{ open, done }}
                record thing {{ id: string, state: state }}
                {functions}
            }}"
        );
        let mut resolve = Resolve::default();
        resolve.push_str("a.wit", &text).unwrap();
        let (interface, _) = resolve.interfaces.iter().next().unwrap();
        let contract = module::contract(&resolve, &WorldKey::Interface(interface), interface).unwrap();
        let plans: Vec<(RouteKey, Plan)> = routes
            .iter()
            .map(|(key, function, more)| {
                let route = format!("[http.routes]\n\"{key}\" = {{ call = \"a:b/c.{function}\", {more} }}");
                let sources = cleave_config::Sources::new("cleave.toml", "/");
                let config = cleave_config::parse(&route, &sources).unwrap();
                let (key, route): (&RouteKey, &HttpRoute) = config.http.routes.iter().next().unwrap();
                let plan = Plan::new(key, route, &contract.functions[*function]).unwrap();
                (key.clone(), plan)
            })
            .collect();
        let written = Written { resolve: &resolve, interface };
        let routes: Vec<_> = plans.iter().map(|(key, plan)| Described { key, plan, written }).collect();
        document("Things", "1", &routes)
    }

    fn statuses(operation: &Json) -> Vec<&str> {
        operation["responses"].as_object().unwrap().keys().map(String::as_str).collect()
    }

    #[test]
    fn every_answer_of_a_route_is_there() {
        let get =
            "get: func(id: string, part: option<u8>, tags: list<string>) -> result<option<thing>, error>;";
        let document = described(get, &[("GET /things/{id}", "get", "errors = { gone = 410 }")]);
        let operation = &document["paths"]["/things/{id}"]["get"];
        let expected = ["200", "400", "404", "408", "410", "413", "422", "500", "503", "504"];
        assert_eq!(statuses(operation), expected);
        let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        assert_eq!(schema["$ref"], "#/components/schemas/a.b.c.thing");
        let gone = &operation["responses"]["410"]["content"]["application/problem+json"]["schema"];
        assert_eq!(gone["properties"]["payload"]["maximum"], 255);
        assert_eq!(operation["responses"]["422"]["description"], "`invalid`: Not so.");
        let parameters = operation["parameters"].as_array().unwrap();
        let told: Vec<_> = parameters.iter().map(|p| json!([p["name"], p["in"], p["required"]])).collect();
        let expected =
            [json!(["id", "path", true]), json!(["part", "query", false]), json!(["tags", "query", false])];
        assert_eq!(told, expected);
        assert_eq!(parameters[1]["schema"]["maximum"], 255);
    }

    #[test]
    fn none_has_no_content_where_nothing_is_asked_for() {
        let drop = "drop: func(id: string) -> option<thing>;";
        let document = described(drop, &[("DELETE /things/{id}", "drop", "")]);
        let operation = &document["paths"]["/things/{id}"]["delete"];
        assert_eq!(statuses(operation), ["200", "204", "400", "408", "413", "500", "503", "504"]);
        assert!(operation["responses"]["204"]["content"].is_null());
    }

    #[test]
    fn status_of_a_case_and_location_are_told() {
        let put = "put: func(id: string, thing: thing, twice: bool) -> result<thing, error>;";
        let more = "status = 201, when = { state = { open = 202 } }, location = \"/things/{id}\", errors = { gone = 400 }";
        let document = described(put, &[("PUT /things/{id}", "put", more)]);
        let responses = &document["paths"]["/things/{id}"]["put"]["responses"];
        assert_eq!(responses["202"]["description"], "It is done, and `state` is `open`.");
        assert_eq!(
            responses["201"]["headers"]["location"]["description"],
            "`/things/{id}`, with the values of this answer."
        );
        // A case that has the status of the host's own answer: either of them.
        let schema = &responses["400"]["content"]["application/problem+json"]["schema"]["anyOf"];
        assert_eq!(schema[1]["$ref"], "#/components/schemas/problem");
        let body = &document["paths"]["/things/{id}"]["put"]["requestBody"];
        assert_eq!(body["content"]["application/json"]["schema"]["required"], json!(["thing", "twice"]));
        assert!(!responses["415"].is_null());
    }

    #[test]
    fn routes_of_one_path_are_one_item_with_names_of_their_own() {
        let functions = "get: func(id: string) -> u8; drop: func(name: string);";
        let routes = [
            ("GET /things/{id}", "get", ""),
            ("DELETE /things/{name}", "drop", ""),
            ("GET /other/{id}", "get", ""),
        ];
        let document = described(functions, &routes);
        let item = &document["paths"]["/things/{id}"];
        assert_eq!(item["delete"]["parameters"][0]["name"], "id");
        assert_eq!(statuses(&item["delete"])[0], "204");
        let names = [&item["get"], &item["delete"], &document["paths"]["/other/{id}"]["get"]]
            .map(|o| o["operationId"].as_str().unwrap());
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 3);
        assert!(names.contains(&"a_b_c_get") && names.contains(&"a_b_c_get_2"));
    }

    #[test]
    fn first_sentence_ends_where_another_begins() {
        for (text, sentence) in [
            ("Sees e.g. this. And that.", "Sees e.g. this"),
            ("One\nline.\n\nAnother.", "One line"),
            ("Takes `a.b`. `c` too.", "Takes `a.b`"),
            ("", ""),
        ] {
            assert_eq!(first_sentence(text), sentence);
        }
    }
}
