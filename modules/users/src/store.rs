//! Users in the table `users`, written once each and never changed.
//!
//! A conflict changed nothing: the statement that met it is run again, a bounded number of times.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::bindings::cleave::call::types::Failure;
use crate::bindings::cleave::sql::database::{self, Error as SqlError, Value};
use crate::bindings::exports::shop::users::accounts::{Error, User};

/// How often a statement runs when other transactions are in its way.
const ATTEMPTS_MAX: u32 = 5;

/// The user with this identity.
pub(crate) fn user(id: &str) -> Result<Option<User>, Error> {
    let statement = "SELECT id, name, email FROM users WHERE id = $1";
    let parameters = [Value::Text(id.to_owned())];
    let rows = repeat(|| database::query(statement, &parameters))?;
    rows.rows.into_iter().next().map(|row| read(row).ok_or_else(|| unreadable("a user"))).transpose()
}

/// Writes a new user. Gives false, and writes nothing, if the identity is taken.
pub(crate) fn insert(user: &User) -> Result<bool, Error> {
    let statement = "INSERT INTO users (id, name, email, created_at) VALUES ($1, $2, $3, $4) \
                     ON CONFLICT (id) DO NOTHING";
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let parameters = [
        Value::Text(user.id.clone()),
        Value::Text(user.name.clone()),
        Value::Text(user.email.clone()),
        Value::Integer(i64::try_from(now.as_millis()).unwrap_or(i64::MAX)),
    ];
    Ok(repeat(|| database::execute(statement, &parameters))? == 1)
}

fn read(row: Vec<Value>) -> Option<User> {
    let [Value::Text(id), Value::Text(name), Value::Text(email)] = <[Value; 3]>::try_from(row).ok()? else {
        return None;
    };
    Some(User { id, name, email })
}

/// Runs a statement, again if it meets a conflict.
fn repeat<T>(run: impl Fn() -> Result<T, SqlError>) -> Result<T, Error> {
    let mut attempt = 1;
    loop {
        match run() {
            Err(SqlError::Conflict(_)) if attempt < ATTEMPTS_MAX => attempt += 1,
            outcome => return outcome.map_err(failed),
        }
    }
}

/// What a failed statement means to the caller. Only an unusable database leaves open whether a write stands.
fn failed(error: SqlError) -> Error {
    Error::Failed(match error {
        SqlError::Unavailable(message) => Failure::Uncertain(format!("users database: {message}")),
        error => Failure::Unavailable(format!("users database: {error:?}")),
    })
}

pub(crate) fn unreadable(what: &str) -> Error {
    Error::Failed(Failure::Uncertain(format!("users database: {what} cannot be read")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_users() {
        let row = ["u-1", "Ada", "a@b"].map(|text| Value::Text(text.into())).to_vec();
        let user = User { id: "u-1".into(), name: "Ada".into(), email: "a@b".into() };
        assert_eq!(read(row), Some(user));
    }

    #[test]
    fn rows_of_another_shape_are_no_users() {
        let text = || Value::Text(String::new());
        for wrong in [vec![], vec![text(), text()], vec![text(), text(), Value::Null]] {
            assert_eq!(read(wrong.clone()), None, "{wrong:?}");
        }
    }

    #[test]
    fn only_an_unusable_database_leaves_a_write_open() {
        let open = failed(SqlError::Unavailable(String::new()));
        assert!(matches!(open, Error::Failed(Failure::Uncertain(_))));
        for error in [SqlError::Conflict(String::new()), SqlError::Aborted, SqlError::Invalid(String::new())]
        {
            assert!(matches!(failed(error), Error::Failed(Failure::Unavailable(_))));
        }
    }
}
