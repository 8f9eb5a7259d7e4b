//! Every plain type round-trips through both formats, and what does not fit is told with its place.

use super::*;
use crate::types::Case;
use proptest::collection::vec;
use proptest::prelude::*;

fn name(index: usize) -> Name {
    Name::new(&format!("n-{index}"))
}

/// Any plain type, a few levels deep.
fn any_type() -> impl Strategy<Value = Type> {
    let leaf = prop_oneof![
        Just(Type::Bool),
        Just(Type::S8),
        Just(Type::U8),
        Just(Type::S16),
        Just(Type::U16),
        Just(Type::S32),
        Just(Type::U32),
        Just(Type::S64),
        Just(Type::U64),
        Just(Type::F32),
        Just(Type::F64),
        Just(Type::Char),
        Just(Type::String),
        (1..5usize).prop_map(|n| Type::Enum((0..n).map(name).collect())),
        (1..33usize).prop_map(|n| Type::Flags((0..n).map(name).collect())),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let optional = || proptest::option::of(inner.clone().prop_map(Arc::new));
        prop_oneof![
            inner.clone().prop_map(|t| Type::List(Arc::new(t))),
            inner.clone().prop_map(|t| Type::Option(Arc::new(t))),
            (optional(), optional()).prop_map(|(ok, error)| Type::Result(ok, error)),
            vec(inner.clone(), 1..4).prop_map(|types| Type::Tuple(types.into())),
            vec(inner.clone(), 1..4).prop_map(|types| {
                Type::Record(
                    types.into_iter().enumerate().map(|(n, ty)| Field { name: name(n), ty }).collect(),
                )
            }),
            vec(proptest::option::of(inner), 1..4).prop_map(|types| {
                Type::Variant(
                    types.into_iter().enumerate().map(|(n, ty)| Case { name: name(n), ty }).collect(),
                )
            }),
        ]
    })
}

/// Any value of a type; floats are finite, because JSON has no others.
fn any_value(ty: &Type) -> BoxedStrategy<Val> {
    let optional = |ty: &Option<Arc<Type>>| match ty {
        Some(ty) => any_value(ty).prop_map(|v| Some(Box::new(v))).boxed(),
        None => Just(None).boxed(),
    };
    match ty {
        Type::Bool => any::<bool>().prop_map(Val::Bool).boxed(),
        Type::S8 => any::<i8>().prop_map(Val::S8).boxed(),
        Type::U8 => any::<u8>().prop_map(Val::U8).boxed(),
        Type::S16 => any::<i16>().prop_map(Val::S16).boxed(),
        Type::U16 => any::<u16>().prop_map(Val::U16).boxed(),
        Type::S32 => any::<i32>().prop_map(Val::S32).boxed(),
        Type::U32 => any::<u32>().prop_map(Val::U32).boxed(),
        Type::S64 => any::<i64>().prop_map(Val::S64).boxed(),
        Type::U64 => any::<u64>().prop_map(Val::U64).boxed(),
        Type::F32 => any::<f32>().prop_map(Val::Float32).boxed(),
        Type::F64 => any::<f64>().prop_map(Val::Float64).boxed(),
        Type::Char => any::<char>().prop_map(Val::Char).boxed(),
        Type::String => any::<String>().prop_map(Val::String).boxed(),
        Type::List(item) => vec(any_value(item), 0..4).prop_map(Val::List).boxed(),
        Type::Option(inner) => {
            proptest::option::of(any_value(inner)).prop_map(|v| Val::Option(v.map(Box::new))).boxed()
        }
        Type::Result(ok, error) => prop_oneof![
            optional(ok).prop_map(|v| Val::Result(Ok(v))),
            optional(error).prop_map(|v| Val::Result(Err(v)))
        ]
        .boxed(),
        Type::Tuple(types) => types.iter().map(any_value).collect::<Vec<_>>().prop_map(Val::Tuple).boxed(),
        Type::Record(fields) => {
            let names: Vec<_> = fields.iter().map(|f| f.name.wit.clone()).collect();
            let values: Vec<_> = fields.iter().map(|f| any_value(&f.ty)).collect();
            values.prop_map(move |v| Val::Record(names.iter().cloned().zip(v).collect())).boxed()
        }
        Type::Variant(cases) => proptest::strategy::Union::new(cases.iter().map(|c| {
            let name = c.name.wit.clone();
            optional(&c.ty.clone().map(Arc::new)).prop_map(move |v| Val::Variant(name.clone(), v)).boxed()
        }))
        .boxed(),
        Type::Enum(names) => proptest::sample::select(names.to_vec()).prop_map(|n| Val::Enum(n.wit)).boxed(),
        Type::Flags(names) => proptest::sample::subsequence(names.to_vec(), 0..=names.len())
            .prop_map(|set| Val::Flags(set.into_iter().map(|n| n.wit).collect()))
            .boxed(),
    }
}

pub(crate) fn typed_value() -> impl Strategy<Value = (Type, Val)> {
    any_type().prop_flat_map(|ty| (Just(ty.clone()), any_value(&ty)))
}

proptest! {
    #[test]
    fn every_value_survives_json((ty, value) in typed_value()) {
        let json = to_json(&ty, &value).unwrap();
        prop_assert_eq!(from_json(&ty, &json, usize::MAX).unwrap(), value, "{}", String::from_utf8_lossy(&json));
    }

    #[test]
    fn every_value_survives_postcard((ty, value) in typed_value()) {
        let bytes = encode([(&ty, &value)].into_iter()).unwrap();
        prop_assert_eq!(decode([&ty].into_iter(), &bytes).unwrap(), vec![value]);
    }

    #[test]
    fn size_is_measured_as_it_is_encoded((ty, value) in typed_value()) {
        let size = encode([(&ty, &value)].into_iter()).unwrap().len();
        let typed = || [(&ty, &value)].into_iter();
        prop_assert_eq!(encoded_size(typed(), usize::MAX), Some(size));
        prop_assert_eq!(encoded_size(typed(), size), Some(size));
        prop_assert!(size == 0 || encoded_size(typed(), size - 1).is_none());
    }

    #[test]
    fn bounded_types_stay_within_their_bound((ty, value) in typed_value()) {
        let function = Function::new("t:t/t", "f", vec![Field { name: name(0), ty: ty.clone() }], None, None);
        let size = encode([(&ty, &value)].into_iter()).unwrap().len();
        prop_assert!(function.arguments_max.is_none_or(|max| size <= max), "{size} {:?}", function.arguments_max);
    }

    #[test]
    fn value_that_may_be_carried_may_be_read((ty, value) in typed_value()) {
        let json = to_json(&ty, &value).unwrap();
        let size = encoded_size([(&ty, &value)].into_iter(), usize::MAX).unwrap();
        prop_assert_eq!(from_json(&ty, &json, size).unwrap(), value);
    }

    #[test]
    fn garbage_is_read_or_refused_but_never_panics(ty in any_type(), bytes: Vec<u8>) {
        let _ = decode([&ty].into_iter(), &bytes);
        let _ = from_json(&ty, &bytes, usize::MAX);
    }

    #[test]
    fn equal_signatures_have_equal_types((a, b) in (any_type(), any_type())) {
        prop_assert_eq!(a == b, a.to_string() == b.to_string());
    }
}

fn product() -> Type {
    let field = |name: &str, ty| Field { name: Name::new(name), ty };
    Type::Record(
        [
            field("sku", Type::String),
            field("price-cents", Type::U64),
            field("note", Type::Option(Arc::new(Type::String))),
            field("tags", Type::List(Arc::new(Type::Enum([Name::new("new-one"), Name::new("old")].into())))),
        ]
        .into(),
    )
}

fn wrong(ty: &Type, json: &str) -> String {
    from_json(ty, json.as_bytes(), usize::MAX).unwrap_err().to_string()
}

#[test]
fn json_reads_as_documented() {
    let json = r#"{"sku":"mug","price_cents":18446744073709551615,"tags":["new_one"]}"#;
    let value = from_json(&product(), json.as_bytes(), usize::MAX).unwrap();
    assert_eq!(String::from_utf8(to_json(&product(), &value).unwrap()).unwrap(), json);
    let nulled = json.replace("\"tags\"", "\"note\":null,\"tags\"");
    assert_eq!(from_json(&product(), nulled.as_bytes(), usize::MAX).unwrap(), value);
}

#[test]
fn json_that_does_not_fit_names_its_place() {
    let with = |field: &str, value: &str| {
        let mut fields = vec![("sku", "\"a\""), ("price_cents", "1"), ("tags", "[]")];
        fields.retain(|(name, _)| *name != field);
        fields.push((field, value));
        format!("{{{}}}", fields.iter().map(|(n, v)| format!("\"{n}\":{v}")).collect::<Vec<_>>().join(","))
    };
    let bytes = Type::List(Arc::new(Type::U8));
    let variant =
        Type::Variant([Case { name: name(0), ty: None }, Case { name: name(1), ty: Some(Type::U8) }].into());
    let nested = Type::Option(Arc::new(Type::Option(Arc::new(Type::U8))));
    for (ty, json, expected) in [
        (&product(), with("price_cents", "1.0"), "price_cents: invalid type: floating point `1.0`"),
        (&product(), with("price_cents", "-1"), "price_cents: invalid value: integer `-1`"),
        (&product(), with("price_cents", "18446744073709551616"), "price_cents: invalid"),
        (&product(), with("price_cents", "\"1\""), "price_cents: invalid type: string"),
        (
            &product(),
            with("tags", "[\"old\",\"older\"]"),
            "tags[1]: invalid value: string \"older\", expected one of `new_one`, `old`",
        ),
        (&product(), with("price-cents", "1"), "unknown field `price-cents`, expected `sku`, `price_cents`"),
        (&product(), with("sku", "\"a\",\"sku\":\"b\""), "`sku` is given twice"),
        (&product(), "{\"sku\":\"a\"}".to_owned(), "field `price_cents` is missing"),
        (&product(), "[]".to_owned(), "invalid type: sequence, expected an object with `sku`"),
        (&product(), with("sku", "\"a\"") + "x", "trailing characters"),
        (&product(), "{".to_owned(), "EOF"),
        (&bytes, "\"a*b=\"".to_owned(), "invalid base64"),
        (&Type::F32, "1e300".to_owned(), "number out of range"),
        (&Type::F64, "1e999".to_owned(), "number out of range"),
        (&Type::F64, "NaN".to_owned(), "expected value"),
        (&variant, "\"n_1\"".to_owned(), "has a payload"),
        (&variant, "{\"n_0\":1}".to_owned(), "has no payload"),
        (&variant, "{\"n_1\":1,\"n_0\":null}".to_owned(), "a case stands alone"),
        (&variant, "[0]".to_owned(), "invalid type: sequence"),
        (&variant, "[1,5]".to_owned(), "invalid type: sequence"),
        (&Type::Result(None, None), "[0]".to_owned(), "invalid type: sequence"),
        (&variant, "1".to_owned(), "invalid type: integer"),
        (&variant, "{}".to_owned(), "one of the cases `n_0`, `n_1`"),
        (&nested, "{}".to_owned(), "field `some` is missing"),
        (&Type::Flags([name(0)].into()), "[\"n_0\",\"n_0\"]".to_owned(), "given twice"),
        (&Type::Tuple([Type::U8].into()), "[1,2]".to_owned(), "an array of 1 values"),
        (&Type::Char, "\"ab\"".to_owned(), "a single character"),
        (&Type::String, "[".repeat(100_000), "expected a string"),
    ] {
        let found = wrong(ty, &json);
        assert!(found.contains(expected), "{}: {found}", json.get(..80).unwrap_or(&json));
    }
}

#[test]
fn values_left_out_count_towards_the_size() {
    let fields = (0..20).map(|n| Field { name: name(n), ty: Type::Option(Arc::new(Type::U32)) });
    let ty = Type::List(Arc::new(Type::Record(fields.collect())));
    let json = |records: usize| format!("[{}]", vec!["{}"; records].join(","));
    // Each record is three bytes of JSON and twenty encoded.
    assert!(from_json(&ty, json(100).as_bytes(), 2_010).is_ok());
    assert_eq!(from_json(&ty, json(101).as_bytes(), 2_010), Err(ValueError::TooLarge));
}

#[test]
fn infinite_numbers_have_no_json() {
    for value in [f64::NAN, f64::INFINITY] {
        assert!(
            to_json(&Type::F64, &Val::Float64(value)).unwrap_err().to_string().contains("no place in JSON")
        );
    }
}

#[test]
fn option_of_option_tells_its_nones_apart() {
    let ty = Type::Option(Arc::new(Type::Option(Arc::new(Type::U8))));
    for (json, value) in [
        ("null", Val::Option(None)),
        ("{\"some\":null}", Val::Option(Some(Box::new(Val::Option(None))))),
        ("{\"some\":1}", Val::Option(Some(Box::new(Val::Option(Some(Box::new(Val::U8(1)))))))),
    ] {
        assert_eq!(from_json(&ty, json.as_bytes(), usize::MAX).unwrap(), value);
        assert_eq!(to_json(&ty, &value).unwrap(), json.as_bytes());
    }
}

#[test]
fn text_of_a_path_is_read_by_its_type() {
    assert_eq!(from_text(&Type::U8, "7").unwrap(), Val::U8(7));
    assert_eq!(from_text(&Type::String, "7").unwrap(), Val::String("7".to_owned()));
    assert_eq!(from_text(&Type::Bool, "true").unwrap(), Val::Bool(true));
    for (ty, text) in
        [(Type::U8, "256"), (Type::U8, " 7"), (Type::U8, "\"7\""), (Type::Bool, "yes"), (Type::Char, "")]
    {
        assert!(from_text(&ty, text).is_err(), "{text}");
    }
}
