//! Owns the bridge between component values and bytes: a [`Val`] with its [`Type`] on one side, any serde format on
//! the other.
//!
//! One implementation serves both formats. JSON, for people and at rest, is as `docs/semantics.md` says: names in
//! snake_case, absent options left out, `list<u8>` in base64, 64-bit integers exact. Postcard, between nodes, is
//! positional: records are tuples, cases are indices. A value that does not fit its type is an error that names the
//! place, never a panic: JSON and postcard come from outside.

use crate::types::{Field, Function, Name, Type};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::ser::{Error as _, SerializeMap, SerializeSeq, SerializeTuple};
use serde::{Deserializer, Serialize, Serializer};
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use wasmtime::component::Val;

/// The most items a list reserves room for before they have been seen.
const RESERVE_MAX: usize = 1_024;

/// Values that could not be encoded or decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// They do not fit their types, or the format.
    #[error("{0}")]
    Unfit(String),
    /// They would take more bytes, encoded, than they may.
    #[error("the value is larger than a call may carry")]
    TooLarge,
}

/// The encoded bytes that a value may still take while it is read. Why: a few bytes of JSON can stand for many values
/// that were left out, and the encoded size is known only when all of them have been made.
type Left = Cell<usize>;

/// Encodes values compactly, one after the other.
///
/// # Errors
/// If a value does not fit its type.
pub fn encode<'a>(values: impl Iterator<Item = (&'a Type, &'a Val)>) -> Result<Vec<u8>, ValueError> {
    let mut bytes = Vec::new();
    for (ty, value) in values {
        bytes =
            postcard::to_extend(&Typed(ty, value), bytes).map_err(|e| ValueError::Unfit(e.to_string()))?;
    }
    Ok(bytes)
}

/// Decodes values that were encoded one after the other; there must be nothing left.
pub fn decode<'a>(types: impl Iterator<Item = &'a Type>, bytes: &[u8]) -> Result<Vec<Val>, ValueError> {
    let mut deserializer = postcard::Deserializer::from_bytes(bytes);
    // Every value takes its bytes from a length that is known.
    let left = Cell::new(usize::MAX);
    let values = types
        .map(|ty| {
            Seed(ty, &left)
                .deserialize(&mut deserializer)
                .map_err(|e| ValueError::Unfit(format!("the bytes do not fit the type: {e}")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    match deserializer.finalize() {
        Ok([]) => Ok(values),
        _ => Err(ValueError::Unfit("bytes are left over".to_owned())),
    }
}

/// Reads one value from JSON text, of at most `max` encoded bytes or little more.
pub fn from_json(ty: &Type, json: &[u8], max: usize) -> Result<Val, ValueError> {
    let left = Cell::new(max);
    read_json(json, Seed(ty, &left), &left)
}

/// Reads the parameters of a function from one JSON object, by their names, of at most `max` encoded bytes or little
/// more.
pub fn parameters_from_json(parameters: &[Field], json: &[u8], max: usize) -> Result<Vec<Val>, ValueError> {
    let left = Cell::new(max);
    let seed = RecordSeed { fields: parameters, absent: true, left: &left };
    Ok(read_json(json, seed, &left)?.into_iter().map(|(_, value)| value).collect())
}

fn read_json<'de, S: DeserializeSeed<'de>>(
    json: &'de [u8],
    seed: S,
    left: &Left,
) -> Result<S::Value, ValueError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let mut track = serde_path_to_error::Track::new();
    let read = seed.deserialize(serde_path_to_error::Deserializer::new(&mut deserializer, &mut track));
    let value = read.map_err(|error| {
        if left.get() == 0 {
            return ValueError::TooLarge;
        }
        let place = track.path().to_string();
        ValueError::Unfit(if place == "." { error.to_string() } else { format!("{place}: {error}") })
    })?;
    deserializer.end().map_err(|e| ValueError::Unfit(e.to_string()))?;
    Ok(value)
}

/// Takes the bytes that a value takes at least.
fn take<E: de::Error>(left: &Left, bytes: usize) -> Result<(), E> {
    match left.get().checked_sub(bytes) {
        Some(rest) => {
            left.set(rest);
            Ok(())
        }
        None => {
            left.set(0);
            Err(E::custom("too large"))
        }
    }
}

/// Writes one value as JSON text.
pub fn to_json(ty: &Type, value: &Val) -> Result<Vec<u8>, ValueError> {
    serde_json::to_vec(&Typed(ty, value)).map_err(|e| ValueError::Unfit(e.to_string()))
}

/// Writes what a function gave back as JSON text: its value, or the value of its own error. `null` stands for none.
pub fn result_to_json(function: &Function, results: &[Val]) -> Result<Result<Vec<u8>, Vec<u8>>, ValueError> {
    let json = |ty: Option<&Type>, value: Option<&Val>| match (ty, value) {
        (Some(ty), Some(value)) => to_json(ty, value),
        _ => Ok(b"null".to_vec()),
    };
    match (&function.result, results) {
        (Some(Type::Result(ok, _)), [Val::Result(Ok(value))]) => {
            json(ok.as_deref(), value.as_deref()).map(Ok)
        }
        (Some(Type::Result(_, error)), [Val::Result(Err(value))]) => {
            json(error.as_deref(), value.as_deref()).map(Err)
        }
        (ty, results) => json(ty.as_ref(), results.first()).map(Ok),
    }
}

/// Writes the parameters of a function as one JSON object, by their names.
///
/// # Errors
/// If a value does not fit its type, or is a number that JSON cannot write.
pub fn parameters_to_json(parameters: &[Field], values: &[Val]) -> Result<String, ValueError> {
    struct Parameters<'a>(&'a [Field], &'a [Val]);
    impl Serialize for Parameters<'_> {
        fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            s.collect_map(
                self.0.iter().zip(self.1).map(|(field, value)| (&field.name.json, Typed(&field.ty, value))),
            )
        }
    }
    serde_json::to_string(&Parameters(parameters, values)).map_err(|e| ValueError::Unfit(e.to_string()))
}

/// A value that stands in for one that a path or a query spells: the text of a scalar.
pub fn from_text(ty: &Type, text: &str) -> Result<Val, ValueError> {
    let wrong = || ValueError::Unfit(format!("`{text}` is not {}", Expected(ty)));
    Ok(match ty {
        Type::String => Val::String(text.to_owned()),
        Type::Char => {
            let mut chars = text.chars();
            match (chars.next(), chars.next()) {
                (Some(c), None) => Val::Char(c),
                _ => return Err(wrong()),
            }
        }
        Type::Enum(names) => Val::Enum(find_name(names, text, true).ok_or_else(wrong)?.wit.clone()),
        // Why: what is a number or a truth value in text is so in JSON, and its rules are written once. JSON would let
        // white space stand around it.
        _ if ty.is_scalar() && !text.contains(char::is_whitespace) => {
            from_json(ty, text.as_bytes(), usize::MAX).map_err(|_| wrong())?
        }
        _ => return Err(wrong()),
    })
}

/// The number of bytes [`encode`] would give, or `None` as soon as that is more than `max` bytes.
pub fn encoded_size<'a>(values: impl Iterator<Item = (&'a Type, &'a Val)>, max: usize) -> Option<usize> {
    let mut left = max;
    for (ty, value) in values {
        size(ty, value, &mut left)?;
    }
    Some(max - left)
}

/// Takes the bytes of a value from what is left. Mirrors `Typed` in postcard; a property test holds the two together.
fn size(ty: &Type, value: &Val, left: &mut usize) -> Option<()> {
    let mut take = |n: usize| {
        *left = left.checked_sub(n)?;
        Some(())
    };
    match (ty, value) {
        (Type::Bool | Type::U8 | Type::S8, _) => take(1),
        (Type::U16, Val::U16(n)) => take(varint(u64::from(*n))),
        (Type::U32, Val::U32(n)) => take(varint(u64::from(*n))),
        (Type::U64, Val::U64(n)) => take(varint(*n)),
        (Type::S16, Val::S16(n)) => take(zigzag(i64::from(*n))),
        (Type::S32, Val::S32(n)) => take(zigzag(i64::from(*n))),
        (Type::S64, Val::S64(n)) => take(zigzag(*n)),
        (Type::F32, _) => take(4),
        (Type::F64, _) => take(8),
        (Type::Char, Val::Char(c)) => take(1 + c.len_utf8()),
        (Type::String, Val::String(s)) => take(varint(s.len() as u64).checked_add(s.len())?),
        (Type::List(item), Val::List(values)) => {
            take(varint(values.len() as u64))?;
            if matches!(**item, Type::U8) {
                return take(values.len());
            }
            values.iter().try_for_each(|v| size(item, v, left))
        }
        (Type::Option(inner), Val::Option(value)) => {
            take(1)?;
            value.as_ref().map_or(Some(()), |v| size(inner, v, left))
        }
        (Type::Result(ok, error), Val::Result(result)) => {
            take(1)?;
            match (ok, error, result) {
                (Some(ty), _, Ok(Some(v))) | (_, Some(ty), Err(Some(v))) => size(ty, v, left),
                _ => Some(()),
            }
        }
        (Type::Tuple(types), Val::Tuple(values)) => {
            types.iter().zip(values).try_for_each(|(ty, v)| size(ty, v, left))
        }
        (Type::Record(fields), Val::Record(values)) => {
            fields.iter().zip(values).try_for_each(|(f, (_, v))| size(&f.ty, v, left))
        }
        (Type::Variant(cases), Val::Variant(name, value)) => {
            let index = cases.iter().position(|c| c.name.wit == *name)?;
            take(varint(index as u64))?;
            match (cases.get(index)?.ty.as_ref(), value) {
                (Some(ty), Some(v)) => size(ty, v, left),
                _ => Some(()),
            }
        }
        (Type::Enum(names), Val::Enum(name)) => {
            take(varint(names.iter().position(|n| n.wit == *name)? as u64))
        }
        (Type::Flags(names), Val::Flags(_)) => take(names.len()),
        _ => None,
    }
}

fn varint(n: u64) -> usize {
    (64 - (n | 1).leading_zeros() as usize).div_ceil(7)
}

fn zigzag(n: i64) -> usize {
    varint(((n << 1) ^ (n >> 63)).cast_unsigned())
}

/// A value with its type, to be serialised.
struct Typed<'a>(&'a Type, &'a Val);

impl Serialize for Typed<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let json = s.is_human_readable();
        match (self.0, self.1) {
            (Type::Bool, Val::Bool(v)) => s.serialize_bool(*v),
            (Type::S8, Val::S8(v)) => s.serialize_i8(*v),
            (Type::U8, Val::U8(v)) => s.serialize_u8(*v),
            (Type::S16, Val::S16(v)) => s.serialize_i16(*v),
            (Type::U16, Val::U16(v)) => s.serialize_u16(*v),
            (Type::S32, Val::S32(v)) => s.serialize_i32(*v),
            (Type::U32, Val::U32(v)) => s.serialize_u32(*v),
            (Type::S64, Val::S64(v)) => s.serialize_i64(*v),
            (Type::U64, Val::U64(v)) => s.serialize_u64(*v),
            (Type::F32, Val::Float32(v)) if json && !v.is_finite() => Err(not_json(f64::from(*v))),
            (Type::F64, Val::Float64(v)) if json && !v.is_finite() => Err(not_json(*v)),
            (Type::F32, Val::Float32(v)) => s.serialize_f32(*v),
            (Type::F64, Val::Float64(v)) => s.serialize_f64(*v),
            (Type::Char, Val::Char(v)) => s.serialize_char(*v),
            (Type::String, Val::String(v)) => s.serialize_str(v),
            (Type::List(item), Val::List(values)) if matches!(**item, Type::U8) => {
                let bytes = values
                    .iter()
                    .map(|v| match v {
                        Val::U8(byte) => Ok(*byte),
                        _ => Err(mismatch(item, v)),
                    })
                    .collect::<Result<Vec<_>, S::Error>>()?;
                if json { s.serialize_str(&BASE64.encode(bytes)) } else { s.serialize_bytes(&bytes) }
            }
            (Type::List(item), Val::List(values)) => s.collect_seq(values.iter().map(|v| Typed(item, v))),
            (Type::Option(inner), Val::Option(value)) => self.option(inner, value.as_deref(), s),
            (Type::Result(ok, error), Val::Result(result)) => {
                let (index, name, ty, value) = match result {
                    Ok(value) => (0, "ok", ok, value),
                    Err(value) => (1, "error", error, value),
                };
                case(s, index, name, ty.as_deref(), value.as_deref())
            }
            (Type::Tuple(types), Val::Tuple(values)) if types.len() == values.len() => {
                let mut tuple = s.serialize_tuple(types.len())?;
                for (ty, value) in types.iter().zip(values) {
                    tuple.serialize_element(&Typed(ty, value))?;
                }
                tuple.end()
            }
            (Type::Record(fields), Val::Record(values)) if fields.len() == values.len() => {
                if json {
                    let mut map = s.serialize_map(None)?;
                    for (field, (_, value)) in fields.iter().zip(values) {
                        if !matches!((&field.ty, value), (Type::Option(_), Val::Option(None))) {
                            map.serialize_entry(&field.name.json, &Typed(&field.ty, value))?;
                        }
                    }
                    return map.end();
                }
                let mut tuple = s.serialize_tuple(fields.len())?;
                for (field, (_, value)) in fields.iter().zip(values) {
                    tuple.serialize_element(&Typed(&field.ty, value))?;
                }
                tuple.end()
            }
            (Type::Variant(cases), Val::Variant(name, value)) => {
                let (index, found) = cases
                    .iter()
                    .enumerate()
                    .find(|(_, c)| c.name.wit == *name)
                    .ok_or_else(|| mismatch(self.0, self.1))?;
                case(s, index, &found.name.json, found.ty.as_ref(), value.as_deref())
            }
            (Type::Enum(names), Val::Enum(name)) => {
                let (index, found) = names
                    .iter()
                    .enumerate()
                    .find(|(_, n)| n.wit == *name)
                    .ok_or_else(|| mismatch(self.0, self.1))?;
                if json { s.serialize_str(&found.json) } else { s.serialize_u32(to_u32(index)?) }
            }
            (Type::Flags(names), Val::Flags(set)) if json => {
                let mut seq = s.serialize_seq(None)?;
                for name in names.iter().filter(|n| set.contains(&n.wit)) {
                    seq.serialize_element(&name.json)?;
                }
                seq.end()
            }
            (Type::Flags(names), Val::Flags(set)) => {
                let mut tuple = s.serialize_tuple(names.len())?;
                for name in names.iter() {
                    tuple.serialize_element(&set.contains(&name.wit))?;
                }
                tuple.end()
            }
            (ty, value) => Err(mismatch(ty, value)),
        }
    }
}

impl Typed<'_> {
    /// In JSON an option is its value or null, so an option of an option marks the outer one: `{"some": …}`.
    fn option<S: Serializer>(&self, inner: &Type, value: Option<&Val>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            None => s.serialize_none(),
            Some(value) if s.is_human_readable() && matches!(inner, Type::Option(_)) => {
                let mut map = s.serialize_map(Some(1))?;
                map.serialize_entry("some", &Typed(inner, value))?;
                map.end()
            }
            Some(value) => s.serialize_some(&Typed(inner, value)),
        }
    }
}

/// A case: in JSON its name, or an object of its name and payload; in bytes its index and payload.
fn case<S: Serializer>(
    s: S,
    index: usize,
    name: &str,
    ty: Option<&Type>,
    value: Option<&Val>,
) -> Result<S::Ok, S::Error> {
    match (ty, value) {
        (Some(ty), Some(value)) if s.is_human_readable() => {
            let mut map = s.serialize_map(Some(1))?;
            map.serialize_entry(name, &Typed(ty, value))?;
            map.end()
        }
        (Some(ty), Some(value)) => {
            let mut tuple = s.serialize_tuple(2)?;
            tuple.serialize_element(&to_u32::<S::Error>(index)?)?;
            tuple.serialize_element(&Typed(ty, value))?;
            tuple.end()
        }
        (None, None) if s.is_human_readable() => s.serialize_str(name),
        (None, None) => s.serialize_u32(to_u32(index)?),
        _ => Err(S::Error::custom(format!("case `{name}` and its payload do not fit together"))),
    }
}

fn to_u32<E: serde::ser::Error>(index: usize) -> Result<u32, E> {
    u32::try_from(index).map_err(E::custom)
}

fn not_json<E: serde::ser::Error>(value: f64) -> E {
    E::custom(format!("{value} has no place in JSON"))
}

fn mismatch<E: serde::ser::Error>(ty: &Type, value: &Val) -> E {
    // Why: the value may be large and is somebody's data; its kind says enough.
    let kind = format!("{value:?}");
    let kind = kind.split(['(', ' ']).next().unwrap_or_default();
    E::custom(format!("a value of kind {kind} is not {}", Expected(ty)))
}

/// What a reader of an error wants to know of a type.
struct Expected<'a>(&'a Type);

impl fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |f: &mut fmt::Formatter<'_>, names: &mut dyn Iterator<Item = &str>| {
            let mut names = names.take(12).peekable();
            while let Some(name) = names.next() {
                write!(f, "`{name}`{}", if names.peek().is_some() { ", " } else { "" })?;
            }
            Ok(())
        };
        match self.0 {
            Type::Bool => f.write_str("true or false"),
            Type::S8 => f.write_str("an integer from -128 to 127"),
            Type::U8 => f.write_str("an integer from 0 to 255"),
            Type::S16 => f.write_str("an integer from -32768 to 32767"),
            Type::U16 => f.write_str("an integer from 0 to 65535"),
            Type::S32 => f.write_str("an integer of 32 bits"),
            Type::U32 => f.write_str("an integer from 0 to 4294967295"),
            Type::S64 => f.write_str("an integer of 64 bits"),
            Type::U64 => f.write_str("an integer from 0 to 18446744073709551615"),
            Type::F32 | Type::F64 => f.write_str("a number"),
            Type::Char => f.write_str("a single character"),
            Type::String => f.write_str("a string"),
            Type::List(item) if matches!(**item, Type::U8) => f.write_str("bytes in base64"),
            Type::List(_) => f.write_str("an array"),
            Type::Option(inner) if matches!(**inner, Type::Option(_)) => {
                f.write_str("null or an object with `some`")
            }
            Type::Option(inner) => write!(f, "null or {}", Expected(inner)),
            Type::Result(..) => f.write_str("a result, `ok` or `error`"),
            Type::Tuple(types) => write!(f, "an array of {} values", types.len()),
            Type::Record(fields) => {
                f.write_str("an object with ")?;
                names(f, &mut fields.iter().map(|x| x.name.json.as_str()))
            }
            Type::Variant(cases) => {
                f.write_str("one of the cases ")?;
                names(f, &mut cases.iter().map(|c| c.name.json.as_str()))
            }
            Type::Enum(all) => {
                f.write_str("one of ")?;
                names(f, &mut all.iter().map(|n| n.json.as_str()))
            }
            Type::Flags(all) => {
                f.write_str("an array of ")?;
                names(f, &mut all.iter().map(|n| n.json.as_str()))
            }
        }
    }
}

/// Reads a value of a type.
#[derive(Clone, Copy)]
struct Seed<'a>(&'a Type, &'a Left);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Val;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Val, D::Error> {
        let Self(ty, left) = self;
        let json = d.is_human_readable();
        let visitor = ValueVisitor(ty, left);
        if !matches!(ty, Type::Record(_) | Type::Tuple(_)) {
            take(left, 1)?;
        }
        match ty {
            Type::Bool => d.deserialize_bool(visitor),
            Type::S8 => d.deserialize_i8(visitor),
            Type::U8 => d.deserialize_u8(visitor),
            Type::S16 => d.deserialize_i16(visitor),
            Type::U16 => d.deserialize_u16(visitor),
            Type::S32 => d.deserialize_i32(visitor),
            Type::U32 => d.deserialize_u32(visitor),
            Type::S64 => d.deserialize_i64(visitor),
            Type::U64 => d.deserialize_u64(visitor),
            Type::F32 => d.deserialize_f32(visitor),
            Type::F64 => d.deserialize_f64(visitor),
            Type::Char => d.deserialize_char(visitor),
            Type::String => d.deserialize_str(visitor),
            Type::List(item) if matches!(**item, Type::U8) && json => d.deserialize_str(visitor),
            Type::List(item) if matches!(**item, Type::U8) => d.deserialize_bytes(visitor),
            Type::List(_) => d.deserialize_seq(visitor),
            Type::Option(_) => d.deserialize_option(visitor),
            Type::Tuple(types) => d.deserialize_tuple(types.len(), visitor),
            Type::Record(fields) if json => {
                Ok(Val::Record(RecordSeed { fields, absent: true, left }.deserialize(d)?))
            }
            Type::Record(fields) => d.deserialize_tuple(fields.len(), visitor),
            Type::Enum(_) if json => d.deserialize_str(visitor),
            Type::Enum(_) => d.deserialize_u32(visitor),
            Type::Flags(_) if json => d.deserialize_seq(visitor),
            Type::Flags(names) => d.deserialize_tuple(names.len(), visitor),
            Type::Variant(_) | Type::Result(..) if json => d.deserialize_any(CaseVisitor(visitor)),
            Type::Variant(_) | Type::Result(..) => d.deserialize_tuple(2, visitor),
        }
    }
}

struct ValueVisitor<'a>(&'a Type, &'a Left);

impl ValueVisitor<'_> {
    fn integer<E: de::Error>(self, n: i128, found: Unexpected<'_>) -> Result<Val, E> {
        let value = match self.0 {
            Type::S8 => n.try_into().ok().map(Val::S8),
            Type::U8 => n.try_into().ok().map(Val::U8),
            Type::S16 => n.try_into().ok().map(Val::S16),
            Type::U16 => n.try_into().ok().map(Val::U16),
            Type::S32 => n.try_into().ok().map(Val::S32),
            Type::U32 => n.try_into().ok().map(Val::U32),
            Type::S64 => n.try_into().ok().map(Val::S64),
            Type::U64 => n.try_into().ok().map(Val::U64),
            // Why: in JSON `1` is a number like `1.0`; between them floats are rounded, as JSON readers do.
            Type::F32 => Some(Val::Float32(n as f32)),
            Type::F64 => Some(Val::Float64(n as f64)),
            Type::Enum(names) => {
                usize::try_from(n).ok().and_then(|i| names.get(i)).map(|n| Val::Enum(n.wit.clone()))
            }
            _ => None,
        };
        value.ok_or_else(|| E::invalid_value(found, &self))
    }

    /// A case from its name or its index, with the type of its payload.
    fn case(&self, name: Option<&str>, index: usize) -> Option<(String, Option<&Type>)> {
        match self.0 {
            Type::Variant(cases) => {
                let case = match name {
                    Some(name) => cases.iter().find(|c| c.name.json == name)?,
                    None => cases.get(index)?,
                };
                Some((case.name.wit.clone(), case.ty.as_ref()))
            }
            Type::Result(ok, error) => match name.or_else(|| ["ok", "error"].get(index).copied())? {
                "ok" => Some(("ok".to_owned(), ok.as_deref())),
                "error" => Some(("error".to_owned(), error.as_deref())),
                _ => None,
            },
            _ => None,
        }
    }

    fn make_case(&self, name: String, value: Option<Val>) -> Val {
        let value = value.map(Box::new);
        match self.0 {
            Type::Result(..) if name == "ok" => Val::Result(Ok(value)),
            Type::Result(..) => Val::Result(Err(value)),
            _ => Val::Variant(name, value),
        }
    }
}

impl<'de> Visitor<'de> for ValueVisitor<'_> {
    type Value = Val;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Expected(self.0))
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Val, E> {
        match self.0 {
            Type::Bool => Ok(Val::Bool(v)),
            _ => Err(E::invalid_type(Unexpected::Bool(v), &self)),
        }
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Val, E> {
        self.integer(i128::from(v), Unexpected::Unsigned(v))
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Val, E> {
        self.integer(i128::from(v), Unexpected::Signed(v))
    }

    fn visit_f32<E: de::Error>(self, v: f32) -> Result<Val, E> {
        match self.0 {
            Type::F32 => Ok(Val::Float32(v)),
            _ => self.visit_f64(f64::from(v)),
        }
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Val, E> {
        match self.0 {
            Type::F64 => Ok(Val::Float64(v)),
            // Why: a number beyond the range would become infinite.
            Type::F32 if (v as f32).is_finite() => Ok(Val::Float32(v as f32)),
            Type::F32 => Err(E::invalid_value(Unexpected::Float(v), &"a number that fits 32 bits")),
            _ => Err(E::invalid_type(Unexpected::Float(v), &self)),
        }
    }

    fn visit_char<E: de::Error>(self, v: char) -> Result<Val, E> {
        match self.0 {
            Type::Char => Ok(Val::Char(v)),
            _ => Err(E::invalid_type(Unexpected::Char(v), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Val, E> {
        match self.0 {
            Type::String => Ok(Val::String(v.to_owned())),
            Type::Char => from_text(self.0, v).map_err(|_| E::invalid_value(Unexpected::Str(v), &self)),
            Type::List(item) if matches!(**item, Type::U8) => match BASE64.decode(v) {
                Ok(bytes) => Ok(bytes_value(&bytes)),
                Err(error) => Err(E::custom(format!("invalid base64: {error}"))),
            },
            Type::Enum(names) => match find_name(names, v, true) {
                Some(name) => Ok(Val::Enum(name.wit.clone())),
                None => Err(E::invalid_value(Unexpected::Str(v), &self)),
            },
            Type::Variant(_) | Type::Result(..) => match self.case(Some(v), 0) {
                Some((name, None)) => Ok(self.make_case(name, None)),
                Some((_, Some(_))) => {
                    Err(E::custom(format!("case `{v}` has a payload: write {{\"{v}\": …}}")))
                }
                None => Err(E::invalid_value(Unexpected::Str(v), &self)),
            },
            _ => Err(E::invalid_type(Unexpected::Str(v), &self)),
        }
    }

    fn visit_bytes<E: de::Error>(self, v: &[u8]) -> Result<Val, E> {
        match self.0 {
            Type::List(item) if matches!(**item, Type::U8) => Ok(bytes_value(v)),
            _ => Err(E::invalid_type(Unexpected::Bytes(v), &self)),
        }
    }

    fn visit_none<E: de::Error>(self) -> Result<Val, E> {
        self.visit_unit()
    }

    fn visit_unit<E: de::Error>(self) -> Result<Val, E> {
        match self.0 {
            Type::Option(_) => Ok(Val::Option(None)),
            _ => Err(E::invalid_type(Unexpected::Option, &self)),
        }
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Val, D::Error> {
        let Type::Option(inner) = self.0 else {
            return Err(de::Error::invalid_type(Unexpected::Option, &self));
        };
        let value = if d.is_human_readable() && matches!(**inner, Type::Option(_)) {
            let some = [Field { name: Name::new("some"), ty: Type::clone(inner) }];
            RecordSeed { fields: &some, absent: false, left: self.1 }
                .deserialize(d)?
                .pop()
                .map(|(_, value)| value)
        } else {
            Some(Seed(inner, self.1).deserialize(d)?)
        };
        Ok(Val::Option(value.map(Box::new)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Val, A::Error> {
        let short = |n: usize| de::Error::invalid_length(n, &self);
        Ok(match self.0 {
            Type::List(item) => {
                let mut values = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(RESERVE_MAX));
                while let Some(value) = seq.next_element_seed(Seed(item, self.1))? {
                    values.push(value);
                }
                Val::List(values)
            }
            Type::Tuple(types) => {
                let mut values = Vec::with_capacity(types.len());
                for ty in types.iter() {
                    values.push(seq.next_element_seed(Seed(ty, self.1))?.ok_or_else(|| short(values.len()))?);
                }
                if seq.size_hint() != Some(0) && seq.next_element::<de::IgnoredAny>()?.is_some() {
                    return Err(short(types.len() + 1));
                }
                Val::Tuple(values)
            }
            Type::Record(fields) => {
                let mut values = Vec::with_capacity(fields.len());
                for field in fields.iter() {
                    let value =
                        seq.next_element_seed(Seed(&field.ty, self.1))?.ok_or_else(|| short(values.len()))?;
                    values.push((field.name.wit.clone(), value));
                }
                Val::Record(values)
            }
            // Why: the names of flags are in JSON, their bits in bytes; only a format that names things has no length.
            Type::Flags(names) if seq.size_hint() == Some(names.len()) => {
                let mut set = Vec::new();
                for (index, name) in names.iter().enumerate() {
                    if seq.next_element::<bool>()?.ok_or_else(|| short(index))? {
                        set.push(name.wit.clone());
                    }
                }
                Val::Flags(set)
            }
            Type::Flags(names) => {
                let mut set: Vec<String> = Vec::new();
                while let Some(name) = seq.next_element::<String>()? {
                    let Some(found) = find_name(names, &name, true) else {
                        return Err(de::Error::invalid_value(Unexpected::Str(&name), &self));
                    };
                    if set.contains(&found.wit) {
                        return Err(de::Error::custom(format!("`{name}` is given twice")));
                    }
                    set.push(found.wit.clone());
                }
                // Why: one set has one form, so that equal values are equal.
                set.sort_by_key(|name| names.iter().position(|n| n.wit == *name));
                Val::Flags(set)
            }
            Type::Variant(_) | Type::Result(..) => {
                let index = seq.next_element::<u32>()?.ok_or_else(|| short(0))? as usize;
                let Some((name, ty)) = self.case(None, index) else {
                    return Err(de::Error::custom(format!("there is no case {index}")));
                };
                let value = ty
                    .map(|ty| seq.next_element_seed(Seed(ty, self.1))?.ok_or_else(|| short(1)))
                    .transpose()?;
                self.make_case(name, value)
            }
            _ => return Err(de::Error::invalid_type(Unexpected::Seq, &self)),
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Val, A::Error> {
        if !matches!(self.0, Type::Variant(_) | Type::Result(..)) {
            return Err(de::Error::invalid_type(Unexpected::Map, &self));
        }
        let Some(key) = map.next_key::<String>()? else { return Err(de::Error::invalid_length(0, &self)) };
        let value = match self.case(Some(&key), 0) {
            Some((name, Some(ty))) => self.make_case(name, Some(map.next_value_seed(Seed(ty, self.1))?)),
            Some((_, None)) => {
                return Err(de::Error::custom(format!("case `{key}` has no payload: write \"{key}\"")));
            }
            None => return Err(de::Error::invalid_value(Unexpected::Str(&key), &self)),
        };
        match map.next_key::<String>()? {
            Some(second) => Err(de::Error::custom(format!("`{second}` beside `{key}`: a case stands alone"))),
            None => Ok(value),
        }
    }
}

/// Reads a case as JSON writes it: its name, or an object of its name and payload. Its index, which is how bytes write it,
/// is no JSON.
struct CaseVisitor<'a>(ValueVisitor<'a>);

impl<'de> Visitor<'de> for CaseVisitor<'_> {
    type Value = Val;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Val, E> {
        self.0.visit_str(v)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Val, A::Error> {
        self.0.visit_map(map)
    }
}

/// Reads an object into the fields of a record, in the record's order.
struct RecordSeed<'a> {
    fields: &'a [Field],
    /// Whether an option may be left out.
    absent: bool,
    left: &'a Left,
}

impl<'de> DeserializeSeed<'de> for RecordSeed<'_> {
    type Value = Vec<(String, Val)>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RecordSeed<'_> {
    type Value = Vec<(String, Val)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Expected(&Type::Record(Arc::from(self.fields))))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values: Vec<Option<Val>> = vec![None; self.fields.len()];
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            let Some((field, slot)) = self.fields.iter().zip(&mut values).find(|(f, _)| f.name.json == key)
            else {
                return Err(de::Error::custom(format!(
                    "unknown field `{key}`, expected {}",
                    Names(self.fields)
                )));
            };
            if slot.is_some() {
                return Err(de::Error::custom(format!("`{key}` is given twice")));
            }
            *slot = Some(map.next_value_seed(Seed(&field.ty, self.left))?);
        }
        self.fields
            .iter()
            .zip(values)
            .map(|(field, value)| match (value, &field.ty) {
                (Some(value), _) => Ok((field.name.wit.clone(), value)),
                (None, Type::Option(_)) if self.absent => {
                    take(self.left, 1)?;
                    Ok((field.name.wit.clone(), Val::Option(None)))
                }
                (None, _) => Err(de::Error::custom(format!("field `{}` is missing", field.name.json))),
            })
            .collect()
    }
}

/// The names of fields, for an error.
struct Names<'a>(&'a [Field]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().take(12).map(|x| format!("`{}`", x.name.json)).collect();
        if names.is_empty() { f.write_str("none") } else { f.write_str(&names.join(", ")) }
    }
}

fn find_name<'a>(names: &'a [Name], text: &str, json: bool) -> Option<&'a Name> {
    names.iter().find(|n| if json { n.json == text } else { n.wit == text })
}

fn bytes_value(bytes: &[u8]) -> Val {
    Val::List(bytes.iter().copied().map(Val::U8).collect())
}

#[cfg(test)]
pub(crate) mod tests;
