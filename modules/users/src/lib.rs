//! Users: the accounts that were opened, in one table.
//!
//! This file is the contract's exports; `rules` has what is allowed and when two requests are the same, the statements
//! are in `store`.

mod bindings;
mod rules;
mod store;

use bindings::exports::shop::users::accounts::{AccountRequest, CreateError, Error, Guest, User};
use uuid::Uuid;

/// The component.
pub struct Users;

impl Guest for Users {
    fn create(request: AccountRequest) -> Result<User, CreateError> {
        let AccountRequest { id, name, email } = rules::check(request)?;
        let user = User { id: id.unwrap_or_else(|| Uuid::new_v4().to_string()), name, email };
        if store::insert(&user)? {
            return Ok(user);
        }
        match store::user(&user.id)? {
            Some(standing) => rules::standing(standing, &user),
            None => Err(store::unreadable("the user that stands").into()),
        }
    }

    fn get(id: String) -> Result<Option<User>, Error> {
        store::user(&rules::check_id(&id)?)
    }
}

impl From<Error> for CreateError {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(message) => Self::Invalid(message),
            Error::Failed(failure) => Self::Failed(failure),
        }
    }
}
