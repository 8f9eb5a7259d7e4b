//! Owns how values go to PostgreSQL and come back: six kinds here, the types that the server says there.
//!
//! A statement is prepared before its values are bound, so the server has told the type of each parameter and column by
//! then. A value that does not fit the type exactly is an error that says so, never another value.

use sqlx::postgres::{PgArguments, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Arguments, Column, Row, Statement, TypeInfo};

use super::super::{Limits, Rows, SqlError, Value};

/// What a value adds to the size of a result beyond its text or bytes, as on SQLite.
const VALUE_BYTES: usize = 16;

/// The types whose values one of the six kinds can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Boolean,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Text,
    Blob,
}

impl Type {
    fn of(info: &PgTypeInfo) -> Option<Self> {
        Some(match info.name() {
            "BOOL" => Self::Boolean,
            "INT2" => Self::Int2,
            "INT4" => Self::Int4,
            "INT8" => Self::Int8,
            "FLOAT4" => Self::Float4,
            "FLOAT8" => Self::Float8,
            "TEXT" | "VARCHAR" | "CHAR" | "NAME" | "UNKNOWN" => Self::Text,
            "BYTEA" => Self::Blob,
            _ => return None,
        })
    }

    /// As SQL names it.
    fn name(self) -> &'static str {
        match self {
            Self::Boolean => "BOOLEAN",
            Self::Int2 => "SMALLINT",
            Self::Int4 => "INTEGER",
            Self::Int8 => "BIGINT",
            Self::Float4 => "REAL",
            Self::Float8 => "DOUBLE PRECISION",
            Self::Text => "TEXT",
            Self::Blob => "BYTEA",
        }
    }
}

/// What a value is called, and the type to cast a parameter to that is to take it.
fn kind(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", "TEXT"),
        Value::Boolean(_) => ("a boolean", "BOOLEAN"),
        Value::Integer(_) => ("an integer", "BIGINT"),
        Value::Real(_) => ("a real", "DOUBLE PRECISION"),
        Value::Text(_) => ("a text", "TEXT"),
        Value::Blob(_) => ("a blob", "BYTEA"),
    }
}

/// Checks that every column of a result is of a type that one of the six kinds can have.
pub(super) fn check_columns(statement: &PgStatement) -> Result<(), SqlError> {
    let foreign = |column: &&sqlx::postgres::PgColumn| Type::of(column.type_info()).is_none();
    let Some(column) = statement.columns().iter().find(foreign) else { return Ok(()) };
    let (name, type_name) = (column.name(), column.type_info().name());
    let cast = match type_name {
        "NUMERIC" => "CAST(… AS BIGINT) or CAST(… AS DOUBLE PRECISION)",
        _ => "CAST(… AS TEXT)",
    };
    Err(SqlError::Invalid(format!(
        "the column `{name}` is of the type {type_name}, which a module cannot take; write {cast}"
    )))
}

/// Checks that there are as many values as the statement takes.
pub(super) fn check_count(statement: &PgStatement, given: &[Value]) -> Result<(), SqlError> {
    let takes = types(statement).len();
    if takes == given.len() {
        return Ok(());
    }
    let given = given.len();
    Err(SqlError::Invalid(format!("the statement takes {takes} parameters and {given} values are given")))
}

fn types(statement: &PgStatement) -> &[PgTypeInfo] {
    match statement.parameters() {
        Some(sqlx::Either::Left(types)) => types,
        _ => &[],
    }
}

/// The values of a module's statement, each as the type that the server expects.
pub(super) fn bind(statement: &PgStatement, given: &[Value]) -> Result<PgArguments, SqlError> {
    check_count(statement, given)?;
    let mut arguments = PgArguments::default();
    for (index, (value, info)) in given.iter().zip(types(statement)).enumerate() {
        let number = index + 1;
        let expected = Type::of(info).ok_or_else(|| {
            let cast = kind(value).1;
            SqlError::Invalid(format!(
                "${number} stands where the database expects the type {}; write CAST(${number} AS {cast})",
                info.name()
            ))
        })?;
        bind_one(&mut arguments, number, value, expected)?;
    }
    Ok(arguments)
}

fn bind_one(
    arguments: &mut PgArguments,
    number: usize,
    value: &Value,
    expected: Type,
) -> Result<(), SqlError> {
    let too_large = || {
        let name = expected.name();
        SqlError::Invalid(format!(
            "the value of ${number} does not fit {name}; write CAST(${number} AS BIGINT), or make the column a BIGINT"
        ))
    };
    let added = match (value, expected) {
        // Why text whatever is expected: null has no bytes, and the server has the type already.
        (Value::Null, _) => arguments.add(None::<&str>),
        (Value::Boolean(v), Type::Boolean) => arguments.add(*v),
        (Value::Integer(v), Type::Int8) => arguments.add(*v),
        (Value::Integer(v), Type::Int4) => arguments.add(i32::try_from(*v).map_err(|_| too_large())?),
        (Value::Integer(v), Type::Int2) => arguments.add(i16::try_from(*v).map_err(|_| too_large())?),
        (Value::Integer(v), Type::Float8) if exact(*v) => arguments.add(*v as f64),
        (Value::Real(v), Type::Float8) => arguments.add(*v),
        (Value::Real(v), Type::Float4) if f64::from(*v as f32) == *v => arguments.add(*v as f32),
        (Value::Text(v), Type::Text) => arguments.add(v.as_str()),
        (Value::Blob(v), Type::Blob) => arguments.add(v.as_slice()),
        _ => {
            let ((given, cast), name) = (kind(value), expected.name());
            return Err(SqlError::Invalid(format!(
                "${number} is {given}, and the database expects {name} there; write CAST(${number} AS {cast})"
            )));
        }
    };
    added.map_err(|error| SqlError::Invalid(format!("${number} cannot be bound: {error}")))
}

/// Whether a whole number is the same as a double.
fn exact(integer: i64) -> bool {
    integer.unsigned_abs() <= 1 << f64::MANTISSA_DIGITS
}

/// The values of a statement of the host's own, which are of the types that it wrote the statement for; null is a text.
pub(super) fn bind_own(given: &[Value]) -> Result<(Vec<PgTypeInfo>, PgArguments), SqlError> {
    let mut arguments = PgArguments::default();
    let types = given.iter().map(|value| match value {
        Value::Null | Value::Text(_) => type_of::<str>(),
        Value::Boolean(_) => type_of::<bool>(),
        Value::Integer(_) => type_of::<i64>(),
        Value::Real(_) => type_of::<f64>(),
        Value::Blob(_) => type_of::<[u8]>(),
    });
    for (index, value) in given.iter().enumerate() {
        let added = match value {
            Value::Null => arguments.add(None::<&str>),
            Value::Boolean(v) => arguments.add(*v),
            Value::Integer(v) => arguments.add(*v),
            Value::Real(v) => arguments.add(*v),
            Value::Text(v) => arguments.add(v.as_str()),
            Value::Blob(v) => arguments.add(v.as_slice()),
        };
        added.map_err(|error| SqlError::Invalid(format!("${} cannot be bound: {error}", index + 1)))?;
    }
    Ok((types.collect(), arguments))
}

fn type_of<T: sqlx::Type<sqlx::Postgres> + ?Sized>() -> PgTypeInfo {
    T::type_info()
}

/// A result as far as it has come, within its limits.
#[derive(Debug, Default)]
pub(super) struct Collected {
    rows: Rows,
    bytes: usize,
}

impl Collected {
    /// A result with the columns of a statement.
    pub(super) fn of(statement: &PgStatement) -> Self {
        let columns = statement.columns().iter().map(|column| column.name().to_owned()).collect();
        Self { rows: Rows { columns, rows: Vec::new() }, bytes: 0 }
    }

    /// Takes one more row.
    pub(super) fn push(&mut self, row: &PgRow, rows_max: usize, limits: &Limits) -> Result<(), SqlError> {
        if self.rows.rows.len() >= rows_max {
            return Err(SqlError::TooLarge(format!("the result has more than {rows_max} rows")));
        }
        let mut values = Vec::with_capacity(row.columns().len());
        for (index, column) in row.columns().iter().enumerate() {
            let value = value(row, index, column.name(), column.type_info())?;
            self.bytes += VALUE_BYTES
                + match &value {
                    Value::Text(text) => text.len(),
                    Value::Blob(bytes) => bytes.len(),
                    _ => 0,
                };
            if self.bytes > limits.result_bytes_max {
                let limit = limits.result_bytes_max;
                return Err(SqlError::TooLarge(format!("the result has more than {limit} bytes")));
            }
            values.push(value);
        }
        self.rows.rows.push(values);
        Ok(())
    }

    pub(super) fn rows(self) -> Rows {
        self.rows
    }
}

fn value(row: &PgRow, index: usize, column: &str, info: &PgTypeInfo) -> Result<Value, SqlError> {
    let unfit = |what: String| SqlError::Invalid(format!("the column `{column}` gives {what}"));
    let failed = |error: sqlx::Error| unfit(format!("what cannot be read: {error}"));
    let real = |real: f64| match real.is_finite() {
        true => Ok(Value::Real(real)),
        false => Err(unfit(format!("{real}, which is not a finite number"))),
    };
    let Some(given) = Type::of(info) else { return Err(unfit(format!("the type {}", info.name()))) };
    let value = match given {
        Type::Boolean => row.try_get::<Option<bool>, _>(index).map_err(failed)?.map(Value::Boolean),
        Type::Int2 => row.try_get::<Option<i16>, _>(index).map_err(failed)?.map(|v| Value::Integer(v.into())),
        Type::Int4 => row.try_get::<Option<i32>, _>(index).map_err(failed)?.map(|v| Value::Integer(v.into())),
        Type::Int8 => row.try_get::<Option<i64>, _>(index).map_err(failed)?.map(Value::Integer),
        Type::Float4 => {
            row.try_get::<Option<f32>, _>(index).map_err(failed)?.map(|v| real(v.into())).transpose()?
        }
        Type::Float8 => row.try_get::<Option<f64>, _>(index).map_err(failed)?.map(real).transpose()?,
        Type::Text => row.try_get_unchecked::<Option<String>, _>(index).map_err(failed)?.map(Value::Text),
        Type::Blob => row.try_get::<Option<Vec<u8>>, _>(index).map_err(failed)?.map(Value::Blob),
    };
    Ok(value.unwrap_or(Value::Null))
}
