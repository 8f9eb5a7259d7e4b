//! Reads single values: what serde derives too leniently or explains too vaguely.
//!
//! The permitted range stands at the field, as in `deserialize_with = "size::<_, _, 1, GIB>"`. A value that
//! was read is in its range.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IntoDeserializer, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use crate::problem::{Half, Invalid};
use crate::units::{parse_duration, parse_size, show_duration, show_size};

/// A whole number from `MIN` to `MAX`.
pub(crate) fn whole<'de, D, T, const MIN: u64, const MAX: u64>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    Amount { unit: Unit::Whole, min: MIN, max: MAX }.read(deserializer)
}

/// As [`whole`], for a key that may be absent.
pub(crate) fn some_whole<'de, D, T, const MIN: u64, const MAX: u64>(
    deserializer: D,
) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    whole::<D, T, MIN, MAX>(deserializer).map(Some)
}

/// A size from `MIN` to `MAX` bytes.
pub(crate) fn size<'de, D, T, const MIN: u64, const MAX: u64>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    Amount { unit: Unit::Size, min: MIN, max: MAX }.read(deserializer)
}

/// A duration from `MIN` to `MAX` milliseconds.
pub(crate) fn duration<'de, D, const MIN: u64, const MAX: u64>(deserializer: D) -> Result<Duration, D::Error>
where
    D: Deserializer<'de>,
{
    let amount = Amount { unit: Unit::Duration, min: MIN, max: MAX };
    amount.read(deserializer).map(Duration::from_millis)
}

/// A list of 1 to `COUNT` durations, each from `MIN` to `MAX` milliseconds.
pub(crate) fn durations<'de, D, const MIN: u64, const MAX: u64, const COUNT: usize>(
    deserializer: D,
) -> Result<Vec<Duration>, D::Error>
where
    D: Deserializer<'de>,
{
    let list = Vec::<InRange<MIN, MAX>>::deserialize(deserializer)?;
    if list.is_empty() || list.len() > COUNT {
        let message = format!("{} durations", list.len());
        let invalid = Invalid::new(message, format!("write a list of 1 to {COUNT}, as in [\"1s\", \"5s\"]"));
        return Err(invalid.into_serde(Half::Value));
    }
    Ok(list.into_iter().map(|duration| duration.0).collect())
}

/// [`duration`] inside a list.
struct InRange<const MIN: u64, const MAX: u64>(Duration);

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for InRange<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        duration::<D, MIN, MAX>(deserializer).map(Self)
    }
}

/// An address to listen at.
pub(crate) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let invalid = |_| {
        Invalid::new(
            format!("{text:?} is not an IP address with a port"),
            "write an address such as \"127.0.0.1:8080\", \"0.0.0.0:8080\" for every interface, or \"[::1]:8080\"",
        )
        .into_serde(Half::Value)
    };
    text.parse().map(Some).map_err(invalid)
}

/// A path; an empty one would mean the folder of the file.
pub(crate) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() || text.contains('\0') {
        let invalid = Invalid::new(format!("{text:?} is not a path"), "write the path of a file or folder");
        return Err(invalid.into_serde(Half::Value));
    }
    Ok(PathBuf::from(text))
}

/// As [`path`], for a key that may be absent.
pub(crate) fn some_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    path(deserializer).map(Some)
}

/// Paths by what they are for.
pub(crate) fn paths<'de, D, K>(deserializer: D) -> Result<BTreeMap<K, PathBuf>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord,
{
    let paths = BTreeMap::<K, OnePath>::deserialize(deserializer)?;
    Ok(paths.into_iter().map(|(key, path)| (key, path.0)).collect())
}

/// [`path`] inside a map.
struct OnePath(PathBuf);

impl<'de> Deserialize<'de> for OnePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        path(deserializer).map(Self)
    }
}

/// A line of text for people: not empty, and no control characters.
pub(crate) fn line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.trim().is_empty() || text.contains(char::is_control) {
        let invalid = Invalid::new(format!("{text:?} is not a line of text"), "write some words on one line");
        return Err(invalid.into_serde(Half::Value));
    }
    Ok(text)
}

/// One of a few words. Why not plain derive: it would take a number for the position of the word.
pub(crate) fn choice<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(String::deserialize(deserializer)?.into_deserializer())
}

/// A list of a few words, each once.
pub(crate) fn choices<'de, D, C, T>(deserializer: D) -> Result<C, D::Error>
where
    D: Deserializer<'de>,
    C: FromIterator<T>,
    T: Deserialize<'de>,
{
    let words = Vec::<Choice<T>>::deserialize(deserializer)?;
    Ok(words.into_iter().map(|word| word.0).collect())
}

/// A table. Why not plain derive: it would take a list for the fields in their order.
pub(crate) fn table<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Table::deserialize(deserializer).map(|table| table.0)
}

/// A table of tables by name.
pub(crate) fn tables<'de, D, N, T>(deserializer: D) -> Result<BTreeMap<N, T>, D::Error>
where
    D: Deserializer<'de>,
    N: Deserialize<'de> + Ord,
    T: Deserialize<'de>,
{
    let tables = BTreeMap::<N, Table<T>>::deserialize(deserializer)?;
    Ok(tables.into_iter().map(|(name, table)| (name, table.0)).collect())
}

/// [`whole`] inside a list or a map.
pub(crate) struct Whole<T, const MIN: u64, const MAX: u64>(pub(crate) T);

impl<'de, T: TryFrom<u64>, const MIN: u64, const MAX: u64> Deserialize<'de> for Whole<T, MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        whole::<D, T, MIN, MAX>(deserializer).map(Self)
    }
}

struct Choice<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Choice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        choice(deserializer).map(Self)
    }
}

struct Table<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TableVisitor(PhantomData)).map(Self)
    }
}

struct TableVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for TableVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

#[derive(Clone, Copy)]
enum Unit {
    Whole,
    Size,
    Duration,
}

/// A number with a unit and a range; `min` and `max` are bytes for a size and milliseconds for a duration.
#[derive(Clone, Copy)]
struct Amount {
    unit: Unit,
    min: u64,
    max: u64,
}

impl Amount {
    fn read<'de, D: Deserializer<'de>, T: TryFrom<u64>>(self, deserializer: D) -> Result<T, D::Error> {
        let amount = deserializer.deserialize_any(self)?;
        T::try_from(amount).map_err(|_| self.outside(&self.show(amount)))
    }

    fn show(self, amount: u64) -> String {
        match self.unit {
            Unit::Whole => amount.to_string(),
            Unit::Size => show_size(amount),
            Unit::Duration => show_duration(Duration::from_millis(amount)),
        }
    }

    fn within<E: Error>(self, amount: u64) -> Result<u64, E> {
        if (self.min..=self.max).contains(&amount) {
            return Ok(amount);
        }
        Err(self.outside(&self.show(amount)))
    }

    fn outside<E: Error>(self, shown: &str) -> E {
        let (min, max) = (self.show(self.min), self.show(self.max));
        Invalid::new(format!("{shown} is out of range"), format!("write {self} from {min} to {max}"))
            .into_serde(Half::Value)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.unit {
            Unit::Whole => "a whole number",
            Unit::Size => "a size",
            Unit::Duration => "a duration",
        })
    }
}

impl Visitor<'_> for Amount {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            Unit::Whole => write!(f, "a whole number from {} to {}", self.min, self.max),
            Unit::Size => f.write_str("a size such as \"64MiB\""),
            Unit::Duration => f.write_str("a duration such as \"5s\""),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        let amount = match self.unit {
            Unit::Whole => return Err(E::invalid_type(Unexpected::Str(text), &self)),
            Unit::Size => parse_size(text),
            Unit::Duration => {
                parse_duration(text).map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
            }
        };
        amount.map_err(|invalid| invalid.into_serde(Half::Value)).and_then(|amount| self.within(amount))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        match self.unit {
            Unit::Whole | Unit::Size => self.within(number),
            Unit::Duration => Err(Invalid::new(
                format!("{number} has no unit"),
                format!("write \"{number}s\" for seconds or \"{number}ms\" for milliseconds"),
            )
            .into_serde(Half::Value)),
        }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(self.outside(&number.to_string())),
        }
    }
}
