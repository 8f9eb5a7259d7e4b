//! Reads single values: what serde derives too leniently or explains too vaguely.
//!
//! What is also shown and described in a way of its own is in `form.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IntoDeserializer, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use crate::problem::{Half, Invalid};
use crate::units::{parse_duration, parse_size, show_duration, show_size};

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

/// What a number counts.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Whole,
    Size,
    Duration,
}

/// A number with a unit and a range; `min` and `max` are bytes for a size and milliseconds for a duration.
#[derive(Clone, Copy)]
pub(crate) struct Amount {
    pub(crate) unit: Unit,
    pub(crate) min: u64,
    pub(crate) max: u64,
}

impl Amount {
    pub(crate) fn read<'de, D: Deserializer<'de>, T: TryFrom<u64>>(
        self,
        deserializer: D,
    ) -> Result<T, D::Error> {
        let amount = deserializer.deserialize_any(self)?;
        T::try_from(amount).map_err(|_| self.outside(&self.show(amount)))
    }

    /// The amount of a value to be shown, if it could have been read.
    pub(crate) fn checked<E: serde::ser::Error>(self, value: impl TryInto<u64>) -> Result<u64, E> {
        let amount = value.try_into().ok().filter(|amount| (self.min..=self.max).contains(amount));
        amount.ok_or_else(|| E::custom(format_args!("{self} is out of range")))
    }

    pub(crate) fn show(self, amount: u64) -> String {
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
