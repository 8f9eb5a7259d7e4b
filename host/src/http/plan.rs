//! Owns the meaning of a route: where each parameter of its function comes from, and which status every outcome has.
//!
//! [`Plan::new`] is pure, so `cleave check` and a starting node say the same; everything that can be wrong about a route is
//! found here and nothing is left to be found by a request. The rules:
//!
//! - A variable `{name}` of the path fills the parameter of that name, in snake_case or kebab-case. It must be a scalar.
//! - With GET and DELETE (and HEAD, which GET answers) every other parameter comes from the query: a scalar once, an
//!   option of a scalar at most once, a list of scalars by repetition. Enums are scalars; `list<u8>` is not a list here.
//! - With POST, PUT and PATCH every other parameter comes from the body, and the query must be empty: one parameter is
//!   the body itself, several are an object by their names, none is an empty body.
//! - Success is 200, or 204 without a value. An error is a case with a status of its own.

use crate::types::{Case, FailurePlace, Field, Function, Name, Type};
use axum::http::StatusCode;
use cleave_config::{HttpRoute, Method, RouteKey};
use std::sync::Arc;

/// Paths that the host answers itself.
pub(crate) const RESERVED: [&str; 3] = ["/livez", "/readyz", "/openapi.json"];

/// The key under which a route gives the status of an error that has no cases.
const CASELESS: &str = "error";

/// What a route does, checked.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) method: Method,
    /// The path for the router, with variables named by their position.
    pub(super) path: String,
    pub(super) function: Arc<Function>,
    /// Where each parameter comes from, in the function's order.
    pub(super) sources: Box<[Source]>,
    pub(super) body: Body,
    /// The status of success with a value, or of success if there is none.
    pub(super) status: StatusCode,
    /// What gives success another status; the first that fits decides.
    pub(super) when: Box<[When]>,
    pub(super) location: Option<Box<[Part]>>,
    pub(super) errors: Errors,
}

/// A case of a field of the result that gives success a status of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct When {
    /// The index of the field.
    pub(super) field: usize,
    /// The case, as WIT names it.
    pub(super) case: String,
    pub(super) status: StatusCode,
}

/// Where a parameter comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The segment of the path with this index; the first slash ends the first segment.
    Path(usize),
    Query(Times),
    Body,
}

/// How often a name is in a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    Once,
    AtMostOnce,
    Any,
}

/// What the body of a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    Empty,
    /// The value of the only parameter that is left.
    Value(Type),
    /// An object of these parameters.
    Object(Box<[Field]>),
}

/// A part of a `Location`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Literal(String),
    /// The field of the result with this index.
    Field(usize, Type),
    /// The segment of the request's path with this index.
    Segment(usize),
}

/// The errors of a function, with their statuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Errors {
    /// It has none.
    None,
    /// Its error is a failed call, whose answer is fixed.
    Failure,
    /// Its error is a value of this type, if it has one, that has no cases.
    Caseless(StatusCode, Option<Type>),
    Cases(Box<[ErrorCase]>),
}

/// A case of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ErrorCase {
    pub(super) name: Name,
    pub(super) ty: Option<Type>,
    /// Absent for the case that holds a failed call, whose answer is fixed.
    pub(super) status: Option<StatusCode>,
}

/// What is wrong with a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key in the route's table that is to blame; empty for the route itself.
    pub at: Vec<String>,
    pub message: String,
    pub fix: String,
}

impl Plan {
    /// Makes the plan of a configured route to a function.
    ///
    /// # Errors
    /// Everything that is wrong with the route: each time what, and the fix.
    pub fn new(key: &RouteKey, route: &HttpRoute, function: &Arc<Function>) -> Result<Self, Vec<Fault>> {
        let mut planner = Planner { variables: variables(key.path()), function, wrong: Vec::new() };
        planner.check_path(key.path());
        let sources = planner.sources(key.method());
        let success = success_type(function);
        let plan = Self {
            method: key.method(),
            path: router_path(key.path()),
            function: Arc::clone(function),
            body: body(&sources, &function.parameters),
            sources,
            status: planner.status(route, success),
            when: planner.when(route, success),
            location: route.location.as_deref().map(|text| planner.location(text, success)),
            errors: planner.errors(route),
        };
        if planner.wrong.is_empty() { Ok(plan) } else { Err(planner.wrong) }
    }
}

/// The type of the value of success, if there is one.
pub(super) fn success_type(function: &Function) -> Option<&Type> {
    match &function.result {
        Some(Type::Result(ok, _)) => ok.as_deref(),
        result => result.as_ref(),
    }
}

/// The fields of the record that success is, or is if there is one.
pub(super) fn success_fields(success: Option<&Type>) -> &[Field] {
    match success {
        Some(Type::Record(fields)) => fields,
        Some(Type::Option(inner)) => success_fields(Some(inner)),
        _ => &[],
    }
}

/// The variables of a path with the indices of their segments.
fn variables(path: &str) -> Vec<(usize, &str)> {
    let segments = path.split('/').enumerate();
    segments.filter_map(|(index, text)| Some((index, text.strip_prefix('{')?.strip_suffix('}')?))).collect()
}

/// Why: the router refuses two paths that differ in the names of variables alone. Named by position they are one.
fn router_path(path: &str) -> String {
    let segments = path.split('/').enumerate();
    let named = segments.map(|(i, s)| if s.starts_with('{') { format!("{{{i}}}") } else { s.to_owned() });
    named.collect::<Vec<_>>().join("/")
}

fn body(sources: &[Source], parameters: &[Field]) -> Body {
    let mut left =
        sources.iter().zip(parameters).filter(|(s, _)| **s == Source::Body).map(|(_, p)| p.clone());
    match (left.next(), left.next()) {
        (None, _) => Body::Empty,
        (Some(only), None) => Body::Value(only.ty),
        (Some(first), Some(second)) => Body::Object([first, second].into_iter().chain(left).collect()),
    }
}

/// Whether `text`, in either spelling, is this name.
fn is_name(name: &Name, text: &str) -> bool {
    name.json == text || name.wit == text
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.map(|n| format!("`{n}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The names of the cases of a type that has some.
fn cases_of(ty: &Type) -> Vec<&Name> {
    match ty {
        Type::Enum(names) => names.iter().collect(),
        Type::Variant(cases) => cases.iter().map(|case| &case.name).collect(),
        _ => Vec::new(),
    }
}

/// The status of a case that config says nothing of.
fn default_status(case: &str) -> Option<StatusCode> {
    match case {
        "not-found" => Some(StatusCode::NOT_FOUND),
        "conflict" => Some(StatusCode::CONFLICT),
        "denied" => Some(StatusCode::FORBIDDEN),
        _ if case.starts_with("invalid") => Some(StatusCode::UNPROCESSABLE_ENTITY),
        _ => None,
    }
}

/// Collects what is wrong with one route.
struct Planner<'a> {
    variables: Vec<(usize, &'a str)>,
    function: &'a Function,
    wrong: Vec<Fault>,
}

impl Planner<'_> {
    /// Notes a fault, under the key of the route's table that is to blame if there is one.
    fn wrong(&mut self, at: &[&str], message: impl Into<String>, fix: impl Into<String>) {
        let at = at.iter().map(|key| (*key).to_owned()).collect();
        self.wrong.push(Fault { at, message: message.into(), fix: fix.into() });
    }

    fn check_path(&mut self, path: &str) {
        if RESERVED.contains(&path) {
            self.wrong(&[], format!("the host answers `{path}` itself"), "give the route another path");
        }
        let address = &self.function.address;
        for (position, (_, variable)) in self.variables.clone().into_iter().enumerate() {
            let Some(parameter) = self.function.parameters.iter().find(|p| is_name(&p.name, variable)) else {
                let names = list(self.function.parameters.iter().map(|p| p.name.json.as_str()));
                let message = format!("`{address}` has no parameter `{variable}`");
                self.wrong(&[], message, format!("name one of its parameters in braces: {names}"));
                continue;
            };
            let mut before = self.variables.iter().take(position);
            if before.any(|(_, other)| is_name(&parameter.name, other)) {
                let message = format!("the path gives parameter `{}` twice", parameter.name.json);
                self.wrong(&[], message, "leave one of the two out");
            } else if !parameter.ty.is_scalar() {
                let message = format!("parameter `{variable}` of `{address}` is {}, no scalar", parameter.ty);
                self.wrong(&[], message, "take it out of the path, or give the function a scalar parameter");
            }
        }
    }

    fn sources(&mut self, method: Method) -> Box<[Source]> {
        let function = self.function;
        function.parameters.iter().map(|p| self.source(method, p)).collect()
    }

    fn source(&mut self, method: Method, parameter: &Field) -> Source {
        if let Some((index, _)) = self.variables.iter().find(|(_, name)| is_name(&parameter.name, name)) {
            return Source::Path(*index);
        }
        if matches!(method, Method::Post | Method::Put | Method::Patch) {
            return Source::Body;
        }
        let times = match &parameter.ty {
            ty if ty.is_scalar() => Times::Once,
            Type::Option(inner) if inner.is_scalar() => Times::AtMostOnce,
            Type::List(item) if item.is_scalar() && **item != Type::U8 => Times::Any,
            ty => {
                let message = format!(
                    "parameter `{}` of `{}` is {ty}, which a query cannot hold",
                    parameter.name.json, self.function.address
                );
                let fix = "use POST, PUT or PATCH, whose body can; a query holds scalars, options and lists of them";
                self.wrong(&[], message, fix);
                Times::Once
            }
        };
        Source::Query(times)
    }

    fn status(&mut self, route: &HttpRoute, success: Option<&Type>) -> StatusCode {
        let default = if success.is_some() { StatusCode::OK } else { StatusCode::NO_CONTENT };
        let Some(number) = route.status else { return default };
        let Ok(status) = StatusCode::from_u16(number) else {
            self.wrong(&["status"], format!("{number} is not a status"), "write a number from 200 to 399");
            return default;
        };
        if success.is_some() {
            self.check_has_body(&["status"], number);
        }
        status
    }

    /// A status for a value: one whose answers have a body.
    fn check_has_body(&mut self, at: &[&str], number: u16) {
        if matches!(number, 204 | 205 | 304) {
            let message =
                format!("`{}` returns a value, and status {number} has no body", self.function.address);
            self.wrong(at, message, "write another status, such as 200, or leave it out");
        }
    }

    /// The statuses that cases of fields give success, in the order of the fields.
    fn when(&mut self, route: &HttpRoute, success: Option<&Type>) -> Box<[When]> {
        let fields = success_fields(success);
        let with_cases = fields.iter().enumerate().filter(|(_, f)| !cases_of(&f.ty).is_empty());
        for text in route.when.keys().filter(|text| !with_cases.clone().any(|(_, f)| is_name(&f.name, text)))
        {
            let message =
                format!("the result of `{}` has no field `{text}` with cases", self.function.address);
            let known = list(with_cases.clone().map(|(_, f)| f.name.wit.as_str()));
            self.wrong(&["when", text], message, format!("name one of these: {known}"));
        }
        let given = |name| route.when.iter().find(move |(text, _)| is_name(name, text));
        let mut found = Vec::new();
        for (index, field, (text, statuses)) in with_cases.filter_map(|(i, f)| Some((i, f, given(&f.name)?)))
        {
            let cases = cases_of(&field.ty);
            for (case, number) in statuses {
                self.check_has_body(&["when", text, case], *number);
                let Some(name) = cases.iter().find(|name| is_name(name, case)) else {
                    let message = format!("field `{text}` has no case `{case}`");
                    let known = list(cases.iter().map(|name| name.wit.as_str()));
                    self.wrong(&["when", text, case], message, format!("name one of these: {known}"));
                    continue;
                };
                if let Ok(status) = StatusCode::from_u16(*number) {
                    found.push(When { field: index, case: name.wit.clone(), status });
                }
            }
        }
        found.into()
    }

    /// Reads a template such as `/api/orders/{id}`. A name is a field of the result first, then a variable.
    fn location(&mut self, text: &str, success: Option<&Type>) -> Box<[Part]> {
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            let fix = "write the characters that URLs do not contain percent-encoded";
            self.wrong(&["location"], format!("{text:?} has characters that a URL cannot contain"), fix);
        }
        let fields = success_fields(success);
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, tail)) = rest.split_once('{') {
            let Some((name, tail)) = tail.split_once('}') else { break };
            parts.push(Part::Literal(literal.to_owned()));
            parts.extend(self.location_part(name, fields));
            rest = tail;
        }
        parts.push(Part::Literal(rest.to_owned()));
        parts.retain(|part| !matches!(part, Part::Literal(text) if text.is_empty()));
        parts.into()
    }

    fn location_part(&mut self, name: &str, fields: &[Field]) -> Option<Part> {
        let field = fields.iter().enumerate().find(|(_, f)| is_name(&f.name, name));
        if let Some((index, field)) = field
            && field.ty.is_scalar()
        {
            return Some(Part::Field(index, field.ty.clone()));
        }
        if let Some((index, _)) =
            self.variables.iter().find(|(_, v)| v.replace('-', "_") == name.replace('-', "_"))
        {
            return Some(Part::Segment(*index));
        }
        let scalars = fields.iter().filter(|f| f.ty.is_scalar()).map(|f| f.name.json.as_str());
        let known = list(scalars.chain(self.variables.iter().map(|(_, name)| *name)));
        let message = match field {
            Some((_, field)) => format!("field `{name}` of the result is {}, no scalar", field.ty),
            None => format!("neither the result of `{}` nor the path has `{name}`", self.function.address),
        };
        self.wrong(&["location"], message, format!("name one of these: {known}"));
        None
    }

    fn errors(&mut self, route: &HttpRoute) -> Errors {
        let function = self.function;
        let Some(Type::Result(_, error)) = &function.result else {
            self.unknown_cases(route, |_| false, "none: the function has no error");
            return Errors::None;
        };
        match error.as_deref() {
            _ if function.failure == Some(FailurePlace::Whole) => {
                self.unknown_cases(
                    route,
                    |_| false,
                    "none: the statuses of failed calls are fixed, 503 and 504",
                );
                Errors::Failure
            }
            Some(Type::Variant(cases)) => self.cases(route, cases),
            Some(Type::Enum(names)) => {
                let cases: Vec<_> = names.iter().map(|n| Case { name: n.clone(), ty: None }).collect();
                self.cases(route, &cases)
            }
            caseless => {
                self.unknown_cases(route, |case| case == CASELESS, &format!("`{CASELESS}`"));
                let status = route.errors.get(CASELESS).and_then(|n| StatusCode::from_u16(*n).ok());
                if status.is_none() {
                    let message = format!("the error of `{}` has no cases and no status", function.address);
                    self.wrong(
                        &["errors"],
                        message,
                        format!("add errors = {{ {CASELESS} = 422 }} to the route"),
                    );
                }
                Errors::Caseless(status.unwrap_or(StatusCode::UNPROCESSABLE_ENTITY), caseless.cloned())
            }
        }
    }

    fn cases(&mut self, route: &HttpRoute, cases: &[Case]) -> Errors {
        let held = |case: &Case| matches!(&self.function.failure, Some(FailurePlace::Case(name)) if *name == case.name.wit);
        let (failed, open): (Vec<_>, Vec<_>) = cases.iter().partition(|c| held(c));
        let known = list(open.iter().map(|c| c.name.wit.as_str()));
        self.unknown_cases(route, |text| open.iter().any(|c| is_name(&c.name, text)), &known);
        let open = open.into_iter().map(|c| (c, Some(self.case_status(route, c)))).collect::<Vec<_>>();
        let all = open.into_iter().chain(failed.into_iter().map(|c| (c, None)));
        Errors::Cases(
            all.map(|(c, status)| ErrorCase { name: c.name.clone(), ty: c.ty.clone(), status }).collect(),
        )
    }

    fn case_status(&mut self, route: &HttpRoute, case: &Case) -> StatusCode {
        let given = route.errors.iter().find(|(text, _)| is_name(&case.name, text));
        let given = given.and_then(|(_, number)| StatusCode::from_u16(*number).ok());
        given.or_else(|| default_status(&case.name.wit)).unwrap_or_else(|| {
            let message =
                format!("error case `{}` of `{}` has no status", case.name.wit, self.function.address);
            self.wrong(
                &["errors"],
                message,
                format!("add errors = {{ {} = 422 }} to the route", case.name.wit),
            );
            StatusCode::UNPROCESSABLE_ENTITY
        })
    }

    fn unknown_cases(&mut self, route: &HttpRoute, is_known: impl Fn(&str) -> bool, known: &str) {
        for text in route.errors.keys().filter(|text| !is_known(text)) {
            let message =
                format!("`{}` has no error case `{text}` that could have a status", self.function.address);
            self.wrong(&["errors", text], message, format!("name one of these: {known}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{
        error, failure, function, list, one_of, option, order, order_route, place, plan, record, result,
        route, variant,
    };
    use super::*;

    /// The messages about a route.
    fn wrong(key: &str, route: &HttpRoute, function: &Arc<Function>) -> Vec<String> {
        let wrong = Plan::new(&key.parse().unwrap(), route, function).err().unwrap_or_default();
        assert!(wrong.iter().all(|fault| !fault.fix.is_empty()));
        wrong.into_iter().map(|fault| fault.message).collect()
    }

    #[track_caller]
    fn is_wrong(key: &str, route: &HttpRoute, function: &Arc<Function>, part: &str) {
        let messages = wrong(key, route, function);
        assert!(messages.len() == 1 && messages[0].contains(part), "{key}: {messages:?}");
    }

    fn status(errors: &Errors, case: &str) -> Option<u16> {
        let Errors::Cases(cases) = errors else { panic!("{errors:?}") };
        cases.iter().find(|c| c.name.wit == case).unwrap().status.map(|s| s.as_u16())
    }

    #[test]
    fn parameters_come_from_path_then_query_or_body() {
        let parameters =
            [("user-id", Type::U64), ("after", option(Type::String)), ("tag", list(one_of(&["a"])))];
        let function = function(&parameters, None);
        let sources = |key| plan(key, &route(), &function).sources.into_vec();
        let query = |times| Source::Query(times);
        for key in ["GET /users/{user_id}/orders", "DELETE /users/{user-id}/orders"] {
            assert_eq!(sources(key), [Source::Path(2), query(Times::AtMostOnce), query(Times::Any)], "{key}");
        }
        for key in ["POST /users/{user_id}", "PUT /users/{user_id}", "PATCH /users/{user_id}"] {
            assert_eq!(sources(key), [Source::Path(2), Source::Body, Source::Body], "{key}");
        }
        assert_eq!(sources("GET /orders")[0], query(Times::Once));
    }

    #[test]
    fn body_is_what_the_path_leaves_over() {
        let parameters = [("id", Type::String), ("a", Type::U8), ("b", order())];
        let body = |key, count: usize| plan(key, &route(), &function(&parameters[..count], None)).body;
        assert_eq!(body("POST /{id}", 1), Body::Empty);
        assert_eq!(body("POST /{id}", 2), Body::Value(Type::U8));
        let Body::Object(fields) = body("POST /{id}", 3) else { panic!() };
        assert_eq!(fields.iter().map(|f| f.name.json.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn router_knows_variables_by_position() {
        let function = function(&[("a", Type::U8), ("b", Type::U8)], None);
        assert_eq!(plan("GET /x/{a}/y/{b}", &route(), &function).path, "/x/{2}/y/{4}");
    }

    #[test]
    fn paths_that_do_not_fit_are_refused() {
        let function = function(&[("user-id", Type::U64), ("order", option(Type::U8))], None);
        is_wrong("GET /{id}", &route(), &function, "no parameter `id`");
        is_wrong("GET /{user-id}/{user_id}", &route(), &function, "gives parameter `user_id` twice");
        is_wrong("GET /{order}", &route(), &function, "option<u8>, no scalar");
        is_wrong("GET /livez", &route(), &function, "answers `/livez` itself");
        is_wrong("POST /readyz", &route(), &function, "answers `/readyz` itself");
    }

    #[test]
    fn queries_hold_scalars_options_and_lists() {
        let fits = |ty: Type| wrong("GET /", &route(), &function(&[("x", ty)], None)).is_empty();
        for ty in
            [Type::Bool, Type::F64, Type::Char, one_of(&["a"]), option(one_of(&["a"])), list(Type::String)]
        {
            assert!(fits(ty.clone()), "{ty}");
        }
        let flags = Type::Flags([Name::new("a")].into());
        let pair = Type::Tuple([Type::U8, Type::U8].into());
        for ty in [
            order(),
            list(order()),
            list(Type::U8),
            option(option(Type::U8)),
            option(list(Type::U32)),
            flags,
            pair,
        ] {
            assert!(!fits(ty.clone()), "{ty}");
        }
    }

    #[test]
    fn success_is_200_or_204() {
        let status = |result| plan("POST /", &route(), &function(&[], result)).status.as_u16();
        assert_eq!(status(result(Some(Type::U8), Some(failure()))), 200);
        assert_eq!(status(result(None, Some(failure()))), 204);
        assert_eq!(status(Some(Type::U8)), 200);
        assert_eq!(status(None), 204);
    }

    #[test]
    fn statuses_of_fields_name_what_there_is() {
        let state = variant(&[("pending", None), ("all-done", Some(Type::U8))]);
        let of = function(&[], Some(record(&[("id", Type::String), ("the-state", state)])));
        let when = |field: &str, case: &str, status| {
            let when = [(field.to_owned(), [(case.to_owned(), status)].into())].into();
            HttpRoute { when, ..route() }
        };
        let good = plan("GET /", &when("the-state", "all-done", 202), &of);
        let found = When { field: 1, case: "all-done".to_owned(), status: StatusCode::ACCEPTED };
        assert_eq!(&*good.when, [found]);
        is_wrong("GET /", &when("id", "a", 202), &of, "has no field `id` with cases");
        is_wrong("GET /", &when("the-state", "done", 202), &of, "has no case `done`");
        is_wrong("GET /", &when("the-state", "pending", 204), &of, "has no body");
        is_wrong("GET /", &when("state", "a", 202), &function(&[], Some(Type::U8)), "has no field `state`");
    }

    #[test]
    fn status_without_a_body_needs_no_value() {
        let without = HttpRoute { status: Some(204), ..order_route() };
        is_wrong("POST /", &without, &place(&[]), "status 204 has no body");
        let created = HttpRoute { status: Some(201), ..order_route() };
        assert_eq!(plan("POST /", &created, &place(&[])).status.as_u16(), 201);
    }

    #[test]
    fn location_takes_fields_and_variables() {
        let at = |text: &str| HttpRoute { location: Some(text.to_owned()), ..order_route() };
        let function = place(&[("shop", Type::String)]);
        let made =
            plan("POST /shops/{shop}", &at("/shops/{shop}/orders/{user-id}"), &function).location.unwrap();
        let literal = |text: &str| Part::Literal(text.to_owned());
        let parts = [literal("/shops/"), Part::Segment(2), literal("/orders/"), Part::Field(1, Type::U64)];
        assert_eq!(made.into_vec(), parts);
        is_wrong("POST /{shop}", &at("/{name}"), &function, "has `name`");
        is_wrong("POST /{shop}", &at("/{lines}"), &function, "list<string>, no scalar");
        is_wrong("POST /{shop}", &at("/a b"), &function, "characters that a URL cannot contain");
    }

    #[test]
    fn location_looks_into_an_option() {
        let route = HttpRoute { location: Some("/{id}".to_owned()), ..route() };
        let function = function(&[], Some(option(order())));
        assert!(plan("POST /", &route, &function).location.is_some());
    }

    #[test]
    fn error_cases_have_statuses_by_name() {
        let cases = ["not-found", "conflict", "denied", "invalid", "invalid-sku"];
        let error = variant(&cases.map(|name| (name, None)));
        let errors = plan("GET /", &route(), &function(&[], result(None, Some(error)))).errors;
        assert_eq!(cases.map(|case| status(&errors, case).unwrap()), [404, 409, 403, 422, 422]);
    }

    #[test]
    fn config_gives_statuses_in_either_spelling() {
        for spelling in ["unknown-products", "unknown_products"] {
            let errors = [(spelling.to_owned(), 424), ("not-found".to_owned(), 410)].into();
            let errors = plan("GET /", &HttpRoute { errors, ..route() }, &place(&[])).errors;
            assert_eq!(status(&errors, "unknown-products"), Some(424));
            assert_eq!(status(&errors, "not-found"), Some(410));
            assert_eq!(status(&errors, "failed"), None);
        }
    }

    #[test]
    fn errors_without_or_beyond_the_function_are_refused() {
        let given = |case: &str| HttpRoute { errors: [(case.to_owned(), 400)].into(), ..order_route() };
        is_wrong(
            "GET /",
            &route(),
            &place(&[]),
            "`unknown-products` of `shop:orders/checkout@0.1.0.place` has no status",
        );
        let both = wrong("GET /", &given("nope"), &place(&[]));
        assert!(both.len() == 2 && both[0].contains("no error case `nope`"), "{both:?}");
        is_wrong(
            "GET /",
            &given("failed"),
            &function(&[], result(None, Some(variant(&[("failed", Some(failure()))])))),
            "`failed`",
        );
        is_wrong("GET /", &given("uncertain"), &function(&[], result(None, Some(failure()))), "`uncertain`");
        is_wrong("GET /", &given("error"), &function(&[], None), "`error`");
    }

    #[test]
    fn error_without_cases_needs_one_status() {
        let given = HttpRoute { errors: [("error".to_owned(), 418)].into(), ..route() };
        for error in [Some(Type::String), Some(record(&[("x", Type::U8)])), None] {
            let function = function(&[], result(None, error));
            is_wrong("GET /", &route(), &function, "no cases and no status");
            assert!(
                matches!(plan("GET /", &given, &function).errors, Errors::Caseless(status, _) if status == 418)
            );
        }
    }

    #[test]
    fn every_problem_is_found_at_once() {
        let route = HttpRoute { status: Some(204), location: Some("/{x}".to_owned()), ..route() };
        let function = function(&[("a", order())], result(Some(order()), Some(error())));
        assert_eq!(wrong("GET /livez", &route, &function).len(), 5);
    }
}
