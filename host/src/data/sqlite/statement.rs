//! Owns what happens to one prepared statement: values go in, rows come out, each within its limits.

use std::sync::Arc;

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::super::{Limits, Rows, SqlError, Value};
use super::Author;
use super::connection::Raw;

/// Screened texts a connection remembers, twice over.
pub(super) const PLANS_KEPT: usize = 128;
/// What a value adds to the size of a result beyond its text or bytes.
const VALUE_BYTES: usize = 16;

/// What is kept of a statement that has been screened.
#[derive(Debug)]
pub(super) struct Plan {
    /// At each of SQLite's places for parameters, the index of the value that goes there: SQLite numbers `$2` and `$1`
    /// in the order it meets them.
    order: Vec<usize>,
    /// The names it defines by WITH.
    pub(super) defined: Arc<[String]>,
    /// The columns of its result, if it gives one.
    pub(super) columns: Vec<String>,
    /// Of each column, whether it is declared to hold truth values.
    booleans: Vec<bool>,
}

impl Plan {
    pub(super) fn of(statement: &rusqlite::Statement<'_>, defined: Arc<[String]>) -> Result<Self, SqlError> {
        let order = (1..=statement.parameter_count())
            .map(|place| {
                let name = statement.parameter_name(place)?.strip_prefix('$')?;
                name.parse::<usize>().ok()?.checked_sub(1)
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| SqlError::Invalid("parameters are written $1, $2 and so on".into()))?;
        let mut plan = Self { order, defined, columns: Vec::new(), booleans: Vec::new() };
        for column in statement.columns() {
            plan.columns.push(column.name().to_owned());
            plan.booleans.push(column.decl_type().is_some_and(is_boolean));
        }
        Ok(plan)
    }

    pub(super) fn count(&self) -> usize {
        self.order.len()
    }

    pub(super) fn check_count(&self, given: &[Value]) -> Result<(), SqlError> {
        if self.count() == given.len() {
            return Ok(());
        }
        Err(SqlError::Invalid(format!(
            "the statement takes {} parameters and {} values are given",
            self.count(),
            given.len()
        )))
    }

    pub(super) fn bind(&self, statement: &mut rusqlite::Statement<'_>, given: &[Value]) -> Result<(), Raw> {
        for (place, index) in self.order.iter().enumerate() {
            let value = given.get(*index).ok_or_else(|| {
                SqlError::Invalid(format!("${} has no value: a number is left out", index + 1))
            })?;
            statement.raw_bind_parameter(place + 1, value)?;
        }
        Ok(())
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Boolean(boolean) => ValueRef::Integer(i64::from(*boolean)),
            Self::Integer(integer) => ValueRef::Integer(*integer),
            Self::Real(real) => ValueRef::Real(*real),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Steps through a result, within the limits.
pub(super) fn collect(
    statement: &mut rusqlite::Statement<'_>,
    plan: &Plan,
    author: Author,
    limits: &Limits,
) -> Result<Rows, Raw> {
    // The host says in each statement how many rows it wants.
    let rows_max = if author == Author::Host { usize::MAX } else { limits.rows_max };
    let mut bytes = 0;
    let mut rows = Vec::new();
    let mut stepping = statement.raw_query();
    while let Some(row) = stepping.next()? {
        if row.as_ref().column_count() != plan.columns.len() {
            return Err(SqlError::Conflict("the schema was changed by another program".into()).into());
        }
        if rows.len() >= rows_max {
            return Err(SqlError::TooLarge(format!("the result has more than {rows_max} rows")).into());
        }
        let mut values = Vec::with_capacity(plan.columns.len());
        for (index, (column, boolean)) in plan.columns.iter().zip(&plan.booleans).enumerate() {
            let value = row.get_ref(index)?;
            bytes += VALUE_BYTES + value.as_bytes().map_or(0, <[u8]>::len);
            if bytes > limits.result_bytes_max {
                let limit = limits.result_bytes_max;
                return Err(SqlError::TooLarge(format!("the result has more than {limit} bytes")).into());
            }
            values.push(take(value, column, *boolean)?);
        }
        rows.push(values);
    }
    drop(stepping);
    Ok(Rows { columns: plan.columns.clone(), rows })
}

fn is_boolean(declared: &str) -> bool {
    declared.eq_ignore_ascii_case("BOOLEAN") || declared.eq_ignore_ascii_case("BOOL")
}

fn take(value: ValueRef<'_>, column: &str, boolean: bool) -> Result<Value, SqlError> {
    let unfit = |what: &str| SqlError::Invalid(format!("the column `{column}` gives {what}"));
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer @ (0 | 1)) if boolean => Value::Boolean(integer == 1),
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(real) if real.is_finite() => Value::Real(real),
        ValueRef::Real(real) => return Err(unfit(&format!("{real}, which is not a finite number"))),
        ValueRef::Text(bytes) if bytes.contains(&0) => return Err(unfit("text with U+0000 in it")),
        ValueRef::Text(bytes) => {
            Value::Text(std::str::from_utf8(bytes).map_err(|_| unfit("text that is not UTF-8"))?.to_owned())
        }
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    })
}
