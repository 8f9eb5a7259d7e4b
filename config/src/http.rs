//! Routes: `"METHOD /path" = "namespace:package/interface.function"`, or a table with that call and more.
//!
//! A path here is a strict part of what axum's router takes: each segment is literal or exactly `{name}`. So
//! a path that parsed cannot make the router panic, unless it conflicts with another (see `check.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::form::{Form, Map, Maybe, Whole, described, text, written_as_displayed};
use crate::names::{FunctionName, KEBAB, is_kebab};
use crate::problem::{Half, Invalid};

/// The methods a route may have. HEAD is absent because GET answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    const ALL: [Self; 5] = [Self::Get, Self::Post, Self::Put, Self::Patch, Self::Delete];

    /// As HTTP writes it: `GET`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a route answers to: a method and a path such as `/api/products/{sku}`. Shows as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey {
    method: Method,
    path: String,
}

impl RouteKey {
    /// The method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The path, in the syntax of axum's router.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path with its parameters unnamed: routes of one method and one shape answer the same requests.
    pub(crate) fn shape(&self) -> String {
        let segments =
            self.path.split('/').map(|segment| if parameter(segment).is_some() { "{}" } else { segment });
        segments.collect::<Vec<_>>().join("/")
    }

    /// The names in braces, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.path.split('/').filter_map(parameter)
    }
}

impl FromStr for RouteKey {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (word, path) = text.split_once(' ').unwrap_or((text, ""));
        let method = Method::ALL.into_iter().find(|method| method.as_str() == word);
        let Some(method) = method else { return Err(no_method(text, word)) };
        match path_fault(path) {
            None => Ok(Self { method, path: path.to_owned() }),
            Some((fault, fix)) => Err(Invalid::new(format!("the path of {text:?} {fault}"), fix)),
        }
    }
}

impl<'de> Deserialize<'de> for RouteKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|invalid: Invalid| invalid.into_serde(Half::Key))
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// The path below which files are served: `/`, or literal segments such as `/assets`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilesPath(String);

impl FilesPath {
    /// The path as written; it ends in a slash only if it is `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What of a request's path is below this one, beginning with a slash; none if it is not below it.
    pub fn below<'a>(&self, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix(self.0.trim_end_matches('/'))?;
        rest.starts_with('/').then_some(rest)
    }
}

impl fmt::Display for FilesPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for FilesPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let plain = |segment: &str| {
            !segment.starts_with('.') && !segment.contains('%') && parameter(segment).is_none()
        };
        let literal = text.split('/').all(plain);
        if literal && path_fault(&text).is_none() && (text == "/" || !text.ends_with('/')) {
            return Ok(Self(text));
        }
        let fix = "write `/`, or a path without parameters and without a slash at its end or a segment that begins with a dot, such as \"/assets\"";
        Err(Invalid::new(format!("{text:?} is not a path for files"), fix).into_serde(Half::Key))
    }
}

written_as_displayed!(FilesPath, files_pattern());

/// What [`RouteKey::from_str`] takes, as a pattern; that it takes no parameter twice, a pattern cannot say.
fn route_pattern() -> String {
    let methods = Method::ALL.map(Method::as_str).join("|");
    let segment = format!(r"(\{{{PARAMETER}\}}|[{PATH}][:{PATH}]*)");
    format!("^({methods}) /({segment}(/{segment})*/?)?$")
}

/// What is taken as a [`FilesPath`], as a pattern.
fn files_pattern() -> String {
    let path = PATH.replace('%', "");
    let segment = format!("[{}][:{path}]*", path.replace('.', ""));
    format!("^/({segment}(/{segment})*)?$")
}

written_as_displayed!(RouteKey, route_pattern());

fn no_method(text: &str, word: &str) -> Invalid {
    let fix = match word.to_ascii_uppercase() {
        upper if Method::ALL.iter().any(|method| method.as_str() == upper) => {
            format!("write the method in capitals: {upper}")
        }
        upper if upper == "HEAD" => "remove the route: GET of the same path answers HEAD too".to_owned(),
        _ => {
            "write \"METHOD /path\" with GET, POST, PUT, PATCH or DELETE, such as \"GET /api/products/{sku}\""
                .to_owned()
        }
    };
    Invalid::new(format!("{text:?} does not begin with a method of a route"), fix)
}

fn path_fault(path: &str) -> Option<(String, String)> {
    let Some(inner) = path.strip_prefix('/') else {
        return Some((
            "does not begin with `/`".into(),
            "write one space and a path that begins with `/`".into(),
        ));
    };
    let mut names = BTreeSet::new();
    let mut segments = inner.split('/').peekable();
    while let Some(segment) = segments.next() {
        if let Some(name) = parameter(segment) {
            if !is_parameter_name(name) {
                return Some((
                    format!("has the parameter name {name:?}"),
                    "write lower-case letters, digits, `-` and `_` with a letter first, such as {order-id}"
                        .into(),
                ));
            }
            if !names.insert(name) {
                return Some((format!("has {{{name}}} twice"), "give each parameter its own name".into()));
            }
        } else if segment.is_empty() && segments.peek().is_some() {
            return Some(("has an empty segment".into(), "write one `/` between segments".into()));
        } else if segment.contains(['{', '}', '*']) || segment.starts_with(':') {
            return Some((
                format!("has the segment {segment:?}"),
                "write a parameter as {name}, filling its segment: /orders/{id}/lines".into(),
            ));
        } else if !segment.bytes().all(is_path_byte) {
            return Some((
                format!("has the segment {segment:?}, which no request can contain"),
                "write the characters that URLs do not contain percent-encoded, and leave the query out"
                    .into(),
            ));
        }
    }
    None
}

fn parameter(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

/// What [`is_parameter_name`] takes, as a pattern without its ends.
const PARAMETER: &str = "[a-z][a-z0-9_-]*";

fn is_parameter_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}

/// What [`is_path_byte`] takes, as the inside of a class; `:` is for those that do not begin a segment.
const PATH: &str = r"A-Za-z0-9._~!$&'()+,;=@%-";

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()+,;=:@%".contains(&byte)
}

/// Where a route leads, and what its answers look like.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpRoute {
    /// The function that answers.
    pub call: FunctionName,
    /// The status of success, from 200 to 399. Absent by default: 200, or 204 without a value.
    #[serde(default, with = "Maybe::<Whole<200, 399>>")]
    pub status: Option<u16>,
    /// The `Location` of success; `{field}` stands for a field of the result. Absent by default.
    #[serde(default, with = "Maybe::<Location>")]
    pub location: Option<String>,
    /// The status, from 200 to 399, of success when a field of the result is a certain case, by the names of field and
    /// case in WIT; the first such field of the record decides. Empty by default: always `status`.
    #[serde(default, with = "Map::<CaseName, Map<CaseName, Whole<200, 399>>>")]
    pub when: BTreeMap<String, BTreeMap<String, u16>>,
    /// The status, from 400 to 599, of an error case, by the name of the case in WIT. Empty by default.
    #[serde(default, with = "Map::<CaseName, Whole<400, 599>>")]
    pub errors: BTreeMap<String, u16>,
}

impl HttpRoute {
    /// A route with everything but the call left to its default.
    pub fn new(call: FunctionName) -> Self {
        Self { call, status: None, location: None, when: BTreeMap::new(), errors: BTreeMap::new() }
    }
}

/// A route as it is written: the function alone, or a table with `call`.
pub(crate) struct ShortOrLong;

impl Form<HttpRoute> for ShortOrLong {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HttpRoute, D::Error> {
        deserializer.deserialize_any(Self)
    }

    fn serialize<S: Serializer>(route: &HttpRoute, serializer: S) -> Result<S::Ok, S::Error> {
        if *route == HttpRoute::new(route.call.clone()) {
            return route.call.serialize(serializer);
        }
        route.serialize(serializer)
    }
}

described!([] ShortOrLong, generator => json_schema!({
    "anyOf": [generator.subschema_for::<FunctionName>(), generator.subschema_for::<HttpRoute>()],
}));

impl<'de> Visitor<'de> for ShortOrLong {
    type Value = HttpRoute;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a function such as \"shop:orders/checkout.place\", or a table with `call`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<HttpRoute, E> {
        FunctionName::deserialize(text.into_deserializer()).map(HttpRoute::new)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HttpRoute, A::Error> {
        HttpRoute::deserialize(MapAccessDeserializer::new(map))
    }
}

struct Location;

impl Form<String> for Location {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.starts_with('/') && braces_enclose_names(&text) && !text.contains(char::is_control) {
            return Ok(text);
        }
        let fix = "write a path that begins with `/`, with fields of the result in braces, such as \"/api/orders/{id}\"";
        Err(Invalid::new(format!("{text:?} is not a location"), fix).into_serde(Half::Value))
    }

    fn serialize<S: Serializer>(text: &String, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }
}

described!([] Location, _generator => text(
    format!(r"^/([^{{}}\x00-\x1f\x7f-\x9f]|\{{{PARAMETER}\}})*$"),
));

fn braces_enclose_names(text: &str) -> bool {
    let mut rest = text;
    while let Some((literal, tail)) = rest.split_once('{') {
        match tail.split_once('}') {
            Some((name, tail)) if !literal.contains('}') && is_parameter_name(name) => rest = tail,
            _ => return false,
        }
    }
    !rest.contains('}')
}

/// The name of a case, or of a field.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct CaseName(String);

impl<'de> Deserialize<'de> for CaseName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if is_kebab(&text) {
            return Ok(Self(text));
        }
        let fix = "write the name as WIT does, in kebab-case, such as unknown-products";
        Err(Invalid::new(format!("{text:?} is not a name in WIT"), fix).into_serde(Half::Key))
    }
}

impl From<CaseName> for String {
    fn from(case: CaseName) -> Self {
        case.0
    }
}

described!([] CaseName, _generator => text(format!("^{KEBAB}$")));

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn route_key_has_parameters() {
        let key: RouteKey = "GET /api/{kind}/items/{item-id}".parse().unwrap();
        assert_eq!((key.method(), key.path()), (Method::Get, "/api/{kind}/items/{item-id}"));
        assert_eq!(key.parameters().collect::<Vec<_>>(), ["kind", "item-id"]);
    }

    #[test]
    fn plain_paths_are_taken() {
        for path in ["/", "/a", "/a/", "/a/b.json", "/{x}", "/%20"] {
            assert!(format!("GET {path}").parse::<RouteKey>().is_ok(), "{path}");
        }
    }

    #[test]
    fn odd_route_keys_are_refused() {
        let bad = [
            "",
            "GET",
            "GET ",
            "GET  /a",
            "get /a",
            "HEAD /a",
            "OPTIONS /a",
            "/a",
            "GET a",
            "GET /a//b",
            "GET /{",
            "GET /{}",
            "GET /{a",
            "GET /a}",
            "GET /{a}b",
            "GET /b{a}",
            "GET /{*rest}",
            "GET /*",
            "GET /:id",
            "GET /{a}/{a}",
            "GET /{A}",
            "GET /{{a}}",
            "GET /a b",
            "GET /a?b=c",
            "GET /é",
            "GET\t/a",
        ];
        for text in bad {
            assert!(text.parse::<RouteKey>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn location_braces_enclose_names() {
        for good in ["/a", "/a/{id}", "/{a}{b}"] {
            assert!(braces_enclose_names(good), "{good}");
        }
        for bad in ["/{", "/}", "/{}", "/{a", "/a}{b}", "/{a{b}}", "/{A}"] {
            assert!(!braces_enclose_names(bad), "{bad}");
        }
    }

    #[test]
    fn files_are_below_their_path() {
        let below = |prefix: &str, path: &'static str| FilesPath(prefix.to_owned()).below(path);
        assert_eq!(below("/", "/"), Some("/"));
        assert_eq!(below("/", "/a/b"), Some("/a/b"));
        assert_eq!(below("/a", "/a/b"), Some("/b"));
        assert_eq!(below("/a", "/a/"), Some("/"));
        assert_eq!((below("/a", "/a"), below("/a", "/ab/c"), below("/a", "/b")), (None, None, None));
    }

    proptest! {
        #[test]
        fn parsed_paths_fit_the_router(text in "GET /[a-z{}*:/.%-]{0,12}") {
            if let Ok(key) = text.parse::<RouteKey>() {
                prop_assert!(matchit::Router::new().insert(key.path(), ()).is_ok());
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }
}
