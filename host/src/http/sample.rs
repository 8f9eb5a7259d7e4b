//! Owns the functions and routes that the tests of HTTP share.

use super::plan::Plan;
use crate::types::{Case, FailurePlace, Field, Function, Name, Type};
use cleave_config::HttpRoute;
use std::sync::Arc;
use wasmtime::component::Val;

pub(super) fn list(item: Type) -> Type {
    Type::List(Arc::new(item))
}

pub(super) fn option(inner: Type) -> Type {
    Type::Option(Arc::new(inner))
}

pub(super) fn record(fields: &[(&str, Type)]) -> Type {
    Type::Record(fields.iter().map(|(name, ty)| field(name, ty)).collect())
}

pub(super) fn variant(cases: &[(&str, Option<Type>)]) -> Type {
    Type::Variant(cases.iter().map(|(name, ty)| Case { name: Name::new(name), ty: ty.clone() }).collect())
}

pub(super) fn one_of(names: &[&str]) -> Type {
    Type::Enum(names.iter().map(|name| Name::new(name)).collect())
}

pub(super) fn result(ok: Option<Type>, error: Option<Type>) -> Option<Type> {
    Some(Type::Result(ok.map(Arc::new), error.map(Arc::new)))
}

pub(super) fn failure() -> Type {
    variant(&[("unavailable", Some(Type::String)), ("uncertain", Some(Type::String))])
}

/// An order: its id, whose it is, and its lines.
pub(super) fn order() -> Type {
    record(&[("id", Type::String), ("user-id", Type::U64), ("lines", list(Type::String))])
}

pub(super) fn order_value(id: &str) -> Val {
    Val::Record(vec![
        ("id".to_owned(), Val::String(id.to_owned())),
        ("user-id".to_owned(), Val::U64(7)),
        ("lines".to_owned(), Val::List(Vec::new())),
    ])
}

pub(super) fn error() -> Type {
    variant(&[
        ("invalid", Some(Type::String)),
        ("not-found", None),
        ("unknown-products", Some(list(Type::String))),
        ("failed", Some(failure())),
    ])
}

/// A function that answers with an order or with [`error`].
pub(super) fn place(parameters: &[(&str, Type)]) -> Arc<Function> {
    function(parameters, result(Some(order()), Some(error())))
}

/// A function; a case `failed` of its error holds failed calls.
pub(super) fn function(parameters: &[(&str, Type)], result: Option<Type>) -> Arc<Function> {
    let failure = match &result {
        Some(Type::Result(_, Some(error))) => match &**error {
            Type::Variant(cases) if cases.iter().any(|c| c.name.wit == "failed") => {
                Some(FailurePlace::Case("failed".to_owned()))
            }
            error if *error == failure() => Some(FailurePlace::Whole),
            _ => None,
        },
        _ => None,
    };
    let parameters = parameters.iter().map(|(name, ty)| field(name, ty)).collect();
    Arc::new(Function::new("shop:orders/checkout@0.1.0", "place", parameters, result, failure))
}

/// A route with everything left to its default.
pub(super) fn route() -> HttpRoute {
    HttpRoute::new("shop:orders/checkout.place".parse().unwrap())
}

/// A route whose error case `unknown-products` is 422.
pub(super) fn order_route() -> HttpRoute {
    HttpRoute { errors: [("unknown-products".to_owned(), 422)].into(), ..route() }
}

pub(super) fn plan(key: &str, route: &HttpRoute, function: &Arc<Function>) -> Plan {
    Plan::new(&key.parse().unwrap(), route, function).unwrap()
}

fn field(name: &str, ty: &Type) -> Field {
    Field { name: Name::new(name), ty: ty.clone() }
}
