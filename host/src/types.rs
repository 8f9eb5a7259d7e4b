//! Owns the types of contracts as the host knows them: plain values, read from decoded WIT.
//!
//! A node knows the types of modules it does not run, so these types come from the WIT inside a component, never from
//! the engine. They are trees, cheap to clone; names are kept as WIT writes them and as JSON writes them.

use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;

/// The deepest nesting of types in a contract, and so of values and of JSON.
pub const DEPTH_MAX: usize = 64;

/// The type of a plain value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    Bool,
    S8,
    U8,
    S16,
    U16,
    S32,
    U32,
    S64,
    U64,
    F32,
    F64,
    Char,
    String,
    List(Arc<Type>),
    Option(Arc<Type>),
    Result(Option<Arc<Type>>, Option<Arc<Type>>),
    Tuple(Arc<[Type]>),
    Record(Arc<[Field]>),
    Variant(Arc<[Case]>),
    Enum(Arc<[Name]>),
    Flags(Arc<[Name]>),
}

/// A name in kebab-case, as WIT and the engine write it, and in snake_case, as JSON does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub wit: String,
    pub json: String,
}

impl Name {
    pub fn new(wit: &str) -> Self {
        Self { wit: wit.to_owned(), json: wit.replace('-', "_") }
    }
}

/// A field of a record, or a parameter of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: Name,
    pub ty: Type,
}

/// A case of a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    pub name: Name,
    pub ty: Option<Type>,
}

/// Where a function's result has room for a failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailurePlace {
    /// The error type is `failure` itself.
    Whole,
    /// The error type is a variant with a case `failed(failure)`; its name.
    Case(String),
}

/// Where an event has its key, by which it keeps its order: a scalar parameter, or a scalar field of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPlace {
    pub parameter: usize,
    pub field: Option<usize>,
}

impl KeyPlace {
    /// The first scalar parameter, else the first scalar field of the first record.
    pub fn find(parameters: &[Field]) -> Option<Self> {
        if let Some(parameter) = parameters.iter().position(|p| p.ty.is_scalar()) {
            return Some(Self { parameter, field: None });
        }
        let (parameter, fields) = parameters.iter().enumerate().find_map(|(at, p)| match &p.ty {
            Type::Record(fields) => Some((at, fields)),
            _ => None,
        })?;
        let field = fields.iter().position(|field| field.ty.is_scalar())?;
        Some(Self { parameter, field: Some(field) })
    }
}

/// A function of a contract.
#[derive(Debug, Clone)]
pub struct Function {
    /// The name within its contract.
    pub name: String,
    /// `contract.function`, for logs and errors.
    pub address: String,
    /// The place of an exported function among all that its module exports.
    pub place: usize,
    pub parameters: Arc<[Field]>,
    pub result: Option<Type>,
    /// Where a failed call is told, if there is a place.
    pub failure: Option<FailurePlace>,
    /// Where an event has its key; none for a function that is called.
    pub key: Option<KeyPlace>,
    /// What bytes of this function's values are encoded by; equal types have equal fingerprints.
    pub fingerprint: u64,
    /// The most bytes that encoded arguments take, if their types bound it.
    pub arguments_max: Option<usize>,
    /// The most bytes that an encoded result takes, if its type bounds it.
    pub result_max: Option<usize>,
}

impl Function {
    pub fn new(
        contract: &str,
        name: &str,
        parameters: Vec<Field>,
        result: Option<Type>,
        failure: Option<FailurePlace>,
    ) -> Self {
        let mut function = Self {
            name: name.to_owned(),
            address: format!("{contract}.{name}"),
            place: 0,
            arguments_max: parameters.iter().try_fold(0usize, |sum, p| sum.checked_add(p.ty.encoded_max()?)),
            result_max: result.as_ref().map_or(Some(0), Type::encoded_max),
            parameters: parameters.into(),
            result,
            failure,
            key: None,
            fingerprint: 0,
        };
        let digest = Sha256::digest(function.signature().as_bytes());
        function.fingerprint = digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        function
    }

    /// The type in WIT's words, with every named type written out. Two functions have the same type if and only if
    /// their signatures are equal.
    pub fn signature(&self) -> String {
        let parameters = self
            .parameters
            .iter()
            .map(|p| format!("{}: {}", p.name.wit, p.ty))
            .collect::<Vec<_>>()
            .join(", ");
        // Why: where a failed call is told is part of the meaning, and only `failure`'s owner tells it apart.
        let failure = match &self.failure {
            None => String::new(),
            Some(FailurePlace::Whole) => " (a failed call is its error)".to_owned(),
            Some(FailurePlace::Case(case)) => format!(" (a failed call is its case {case})"),
        };
        match &self.result {
            Some(result) => format!("func({parameters}) -> {result}{failure}"),
            None => format!("func({parameters})"),
        }
    }
}

impl Type {
    /// Whether values are one JSON scalar, so that they fit into a path or a query.
    pub fn is_scalar(&self) -> bool {
        !matches!(
            self,
            Self::List(_)
                | Self::Option(_)
                | Self::Result(..)
                | Self::Tuple(_)
                | Self::Record(_)
                | Self::Variant(_)
                | Self::Flags(_)
        )
    }

    /// The most bytes a value takes in postcard, if the type bounds it.
    fn encoded_max(&self) -> Option<usize> {
        const INDEX: usize = 5;
        Some(match self {
            Self::Bool | Self::S8 | Self::U8 => 1,
            Self::S16 | Self::U16 => 3,
            Self::S32 | Self::U32 | Self::Char => 5,
            Self::S64 | Self::U64 => 10,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::String | Self::List(_) => return None,
            Self::Option(inner) => inner.encoded_max()?.checked_add(1)?,
            Self::Result(ok, error) => {
                let of = |t: &Option<Arc<Self>>| t.as_ref().map_or(Some(0), |t| t.encoded_max());
                of(ok)?.max(of(error)?).checked_add(INDEX)?
            }
            Self::Tuple(types) => {
                types.iter().try_fold(0usize, |sum, t| sum.checked_add(t.encoded_max()?))?
            }
            Self::Record(fields) => {
                fields.iter().try_fold(0usize, |sum, f| sum.checked_add(f.ty.encoded_max()?))?
            }
            Self::Variant(cases) => cases
                .iter()
                .try_fold(0usize, |max, c| Some(max.max(c.ty.as_ref().map_or(Some(0), Self::encoded_max)?)))?
                .checked_add(INDEX)?,
            Self::Enum(_) => INDEX,
            Self::Flags(names) => names.len(),
        })
    }
}

/// The type in WIT's words; named types are written out as they are made.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::S8 => f.write_str("s8"),
            Self::U8 => f.write_str("u8"),
            Self::S16 => f.write_str("s16"),
            Self::U16 => f.write_str("u16"),
            Self::S32 => f.write_str("s32"),
            Self::U32 => f.write_str("u32"),
            Self::S64 => f.write_str("s64"),
            Self::U64 => f.write_str("u64"),
            Self::F32 => f.write_str("f32"),
            Self::F64 => f.write_str("f64"),
            Self::Char => f.write_str("char"),
            Self::String => f.write_str("string"),
            Self::List(item) => write!(f, "list<{item}>"),
            Self::Option(inner) => write!(f, "option<{inner}>"),
            Self::Result(None, None) => f.write_str("result"),
            Self::Result(Some(ok), None) => write!(f, "result<{ok}>"),
            Self::Result(None, Some(error)) => write!(f, "result<_, {error}>"),
            Self::Result(Some(ok), Some(error)) => write!(f, "result<{ok}, {error}>"),
            Self::Tuple(types) => list(f, "tuple<", types.iter(), ">"),
            Self::Record(fields) => {
                list(f, "record { ", fields.iter().map(|x| format!("{}: {}", x.name.wit, x.ty)), " }")
            }
            Self::Variant(cases) => list(
                f,
                "variant { ",
                cases.iter().map(|c| match &c.ty {
                    Some(ty) => format!("{}({ty})", c.name.wit),
                    None => c.name.wit.clone(),
                }),
                " }",
            ),
            Self::Enum(names) => list(f, "enum { ", names.iter().map(|n| &n.wit), " }"),
            Self::Flags(names) => list(f, "flags { ", names.iter().map(|n| &n.wit), " }"),
        }
    }
}

fn list<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    open: &str,
    items: impl Iterator<Item = T>,
    close: &str,
) -> fmt::Result {
    f.write_str(open)?;
    for (index, item) in items.enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{item}")?;
    }
    f.write_str(close)
}
