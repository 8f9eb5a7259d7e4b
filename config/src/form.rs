//! Forms: how a value is written in the file. Each is stated once, and is read, shown and described by that.
//!
//! A field names its form and range, as in `with = "Size::<1, GIB>"`. A value that was read is in its range; one that
//! could not be read is not shown, so that a `Default` which is only a gap to fill is no default of the schema.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, json_schema};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::problem::{Half, Invalid};
use crate::read::{Amount, Unit};
use crate::units::{DURATION, SIZE};

/// A way to write a `T`. Its schema is the one of the implementing type.
pub(crate) trait Form<T>: JsonSchema {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error>;
    fn serialize<S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error>;
}

/// Gives a type the schema that the expression makes.
macro_rules! described {
    ([$($generics:tt)*] $type:ty, $generator:ident => $schema:expr) => {
        impl $($generics)* schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema($generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $schema
            }
        }
    };
}
pub(crate) use described;

/// For a type that is written as it is displayed, in a text that fits the pattern, at most so long.
macro_rules! written_as_displayed {
    ($type:ty, $pattern:expr) => {
        crate::form::written_as_displayed!($type, $pattern, at_most usize::MAX);
    };
    ($type:ty, $pattern:expr, at_most $max:expr) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        crate::form::described!([] $type, _generator => crate::form::text_at_most($pattern, $max));
    };
}
pub(crate) use written_as_displayed;

/// The schema of a text that fits a pattern.
pub(crate) fn text(pattern: impl Into<String>) -> Schema {
    text_at_most(pattern, usize::MAX)
}

/// The schema of a text that fits a pattern and has at most so many characters.
pub(crate) fn text_at_most(pattern: impl Into<String>, max: usize) -> Schema {
    let mut schema = json_schema!({ "type": "string", "pattern": pattern.into() });
    if max < usize::MAX {
        schema.insert("maxLength".to_owned(), max.into());
    }
    schema
}

/// A whole number from `MIN` to `MAX`.
pub(crate) struct Whole<const MIN: u64, const MAX: u64>;

impl<const MIN: u64, const MAX: u64> Whole<MIN, MAX> {
    const AMOUNT: Amount = Amount { unit: Unit::Whole, min: MIN, max: MAX };
}

impl<T: TryFrom<u64> + TryInto<u64> + Copy, const MIN: u64, const MAX: u64> Form<T> for Whole<MIN, MAX> {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        Self::AMOUNT.read(deserializer)
    }

    fn serialize<S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(Self::AMOUNT.checked(*value)?)
    }
}

described!([<const MIN: u64, const MAX: u64>] Whole<MIN, MAX>, _generator => json_schema!({
    "type": "integer", "minimum": MIN, "maximum": MAX,
}));

/// A size from `MIN` to `MAX` bytes.
pub(crate) struct Size<const MIN: u64, const MAX: u64>;

impl<const MIN: u64, const MAX: u64> Size<MIN, MAX> {
    const AMOUNT: Amount = Amount { unit: Unit::Size, min: MIN, max: MAX };
}

impl<T: TryFrom<u64> + TryInto<u64> + Copy, const MIN: u64, const MAX: u64> Form<T> for Size<MIN, MAX> {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        Self::AMOUNT.read(deserializer)
    }

    fn serialize<S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Self::AMOUNT.show(Self::AMOUNT.checked(*value)?))
    }
}

described!([<const MIN: u64, const MAX: u64>] Size<MIN, MAX>, _generator => json_schema!({
    "type": ["integer", "string"], "minimum": MIN, "maximum": MAX, "pattern": SIZE,
}));

/// A duration from `MIN` to `MAX` milliseconds.
pub(crate) struct Period<const MIN: u64, const MAX: u64>;

impl<const MIN: u64, const MAX: u64> Period<MIN, MAX> {
    const AMOUNT: Amount = Amount { unit: Unit::Duration, min: MIN, max: MAX };
}

impl<const MIN: u64, const MAX: u64> Form<Duration> for Period<MIN, MAX> {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Self::AMOUNT.read(deserializer).map(Duration::from_millis)
    }

    fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Self::AMOUNT.show(Self::AMOUNT.checked(value.as_millis())?))
    }
}

// Why words of our own: JSON Schema has no range for a text. They tell people, and the tests.
described!([<const MIN: u64, const MAX: u64>] Period<MIN, MAX>, _generator => json_schema!({
    "type": "string", "pattern": DURATION,
    "x-minimum": Self::AMOUNT.show(MIN), "x-maximum": Self::AMOUNT.show(MAX),
}));

/// An address to listen at.
pub(crate) struct Address;

impl Form<SocketAddr> for Address {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
        let text = String::deserialize(deserializer)?;
        let invalid = |_| {
            Invalid::new(
                format!("{text:?} is not an IP address with a port"),
                "write an address such as \"127.0.0.1:8080\", \"0.0.0.0:8080\" for every interface, or \"[::1]:8080\"",
            )
            .into_serde(Half::Value)
        };
        text.parse().map_err(invalid)
    }

    fn serialize<S: Serializer>(value: &SocketAddr, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }
}

described!([] Address, _generator => text(
    r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9A-Fa-f:.]+(%[0-9]+)?\]):[0-9]+$",
));

/// A line of text for people: not empty, and without control characters.
pub(crate) struct Line;

impl Form<String> for Line {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() || text.contains(char::is_control) {
            let invalid =
                Invalid::new(format!("{text:?} is not a line of text"), "write some words on one line");
            return Err(invalid.into_serde(Half::Value));
        }
        Ok(text)
    }

    fn serialize<S: Serializer>(text: &String, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }
}

described!([] Line, _generator => text(r"^[^\x00-\x1f\x7f-\x9f]+$"));

/// A path; an empty one would mean the folder of the file.
pub(crate) struct FilePath;

impl FilePath {
    fn fits(text: &str) -> bool {
        !text.is_empty() && !text.contains('\0')
    }
}

impl Form<PathBuf> for FilePath {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        let text = String::deserialize(deserializer)?;
        if Self::fits(&text) {
            return Ok(PathBuf::from(text));
        }
        let invalid = Invalid::new(format!("{text:?} is not a path"), "write the path of a file or folder");
        Err(invalid.into_serde(Half::Value))
    }

    fn serialize<S: Serializer>(value: &PathBuf, serializer: S) -> Result<S::Ok, S::Error> {
        match value.to_str() {
            Some(text) if Self::fits(text) => serializer.serialize_str(text),
            _ => Err(S::Error::custom(format_args!("the path {value:?} is not text"))),
        }
    }
}

described!([] FilePath, _generator => text(r"^[^\x00]+$"));

/// A key that may be absent.
pub(crate) struct Maybe<F>(PhantomData<F>);

impl<T, F: Form<T>> Form<Option<T>> for Maybe<F> {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
        F::deserialize(deserializer).map(Some)
    }

    fn serialize<S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => F::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }
}

described!([<F: JsonSchema>] Maybe<F>, generator => F::json_schema(generator));

/// A list of 1 to `COUNT` items.
pub(crate) struct List<F, const COUNT: usize>(PhantomData<F>);

impl<T, F: Form<T>, const COUNT: usize> Form<Vec<T>> for List<F, COUNT> {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
        let list = Vec::<In<T, F>>::deserialize(deserializer)?;
        if list.is_empty() || list.len() > COUNT {
            let invalid = Invalid::new(
                format!("a list of {} is out of range", list.len()),
                format!("write a list of 1 to {COUNT}"),
            );
            return Err(invalid.into_serde(Half::Value));
        }
        Ok(list.into_iter().map(|item| item.0).collect())
    }

    fn serialize<S: Serializer>(value: &Vec<T>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(value.iter().map(Out::<T, F>::new))
    }
}

described!([<F: JsonSchema, const COUNT: usize>] List<F, COUNT>, generator => json_schema!({
    "type": "array", "minItems": 1, "maxItems": COUNT, "items": F::json_schema(generator),
}));

/// A table with keys that are read as a `K`, and values of a form.
pub(crate) struct Map<K, F>(PhantomData<(K, F)>);

impl<N, T, K, F> Form<BTreeMap<N, T>> for Map<K, F>
where
    N: Ord + Serialize,
    K: for<'de> Deserialize<'de> + Ord + Into<N> + JsonSchema,
    F: Form<T>,
{
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<N, T>, D::Error> {
        let map = BTreeMap::<K, In<T, F>>::deserialize(deserializer)?;
        Ok(map.into_iter().map(|(key, value)| (key.into(), value.0)).collect())
    }

    fn serialize<S: Serializer>(value: &BTreeMap<N, T>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(value.iter().map(|(key, value)| (key, Out::<T, F>::new(value))))
    }
}

described!([<K: JsonSchema, F: JsonSchema>] Map<K, F>, generator => BTreeMap::<K, F>::json_schema(generator));

/// A value on its way in, inside a list or a table.
struct In<T, F>(T, PhantomData<F>);

impl<'de, T, F: Form<T>> Deserialize<'de> for In<T, F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        F::deserialize(deserializer).map(|value| Self(value, PhantomData))
    }
}

/// A value on its way out, inside a list or a table.
struct Out<'a, T, F>(&'a T, PhantomData<F>);

impl<'a, T, F> Out<'a, T, F> {
    fn new(value: &'a T) -> Self {
        Self(value, PhantomData)
    }
}

impl<T, F: Form<T>> Serialize for Out<'_, T, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        F::serialize(self.0, serializer)
    }
}
