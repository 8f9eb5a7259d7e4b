//! Who may be written down, and when two requests are the same.

use uuid::Uuid;

use crate::bindings::exports::shop::users::accounts::{AccountRequest, CreateError, Error, User};

/// The length of a UUID as it is written with hyphens.
const ID_LENGTH: usize = 36;
/// The longest name, in characters.
const NAME_MAX: usize = 200;
/// The shortest address of mail, in characters: something on both sides of the `@`.
const EMAIL_MIN: usize = 3;
/// The longest address of mail, in characters.
const EMAIL_MAX: usize = 254;

/// Whether this can be a user. Gives the request with its identity in lower case.
pub(crate) fn check(mut request: AccountRequest) -> Result<AccountRequest, Error> {
    request.id = request.id.as_deref().map(check_id).transpose()?;
    check_name(&request.name)?;
    check_email(&request.email)?;
    Ok(request)
}

/// Whether this can be a user's identity. Gives it in lower case.
pub(crate) fn check_id(id: &str) -> Result<String, Error> {
    // Why: a UUID has shorter and longer spellings; the contract knows one.
    match Uuid::try_parse(id) {
        Ok(uuid) if id.len() == ID_LENGTH => Ok(uuid.to_string()),
        _ => invalid("id must be a UUID, written with hyphens".to_owned()),
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
        return invalid(format!("name must be 1 to {NAME_MAX} characters without control characters"));
    }
    Ok(())
}

/// Only mail itself can tell whether somebody reads it there; this refuses what cannot be an address.
fn check_email(email: &str) -> Result<(), Error> {
    let printable = !email.chars().any(|c| c.is_control() || c.is_whitespace());
    let mut sides = email.split('@');
    let both = matches!((sides.next(), sides.next(), sides.next()), (Some(user), Some(host), None)
        if !user.is_empty() && !host.is_empty());
    if !(EMAIL_MIN..=EMAIL_MAX).contains(&email.chars().count()) || !printable || !both {
        return invalid(format!(
            "email must be {EMAIL_MIN} to {EMAIL_MAX} characters without spaces or control characters, exactly one of \
             them an '@', with something on both sides"
        ));
    }
    Ok(())
}

/// The user that stands under an identity, if it is the one that is asked for.
pub(crate) fn standing(standing: User, wanted: &User) -> Result<User, CreateError> {
    if standing == *wanted {
        return Ok(standing);
    }
    Err(CreateError::Conflict(format!("another user has the identity {}", standing.id)))
}

fn invalid<T>(message: String) -> Result<T, Error> {
    Err(Error::Invalid(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0b9c7a52-6f0e-4c37-9d0a-3a1f6f2f7f10";

    fn request(name: &str, email: &str) -> AccountRequest {
        AccountRequest { id: Some(ID.into()), name: name.into(), email: email.into() }
    }

    fn user() -> User {
        User { id: ID.into(), name: "Ada".into(), email: "ada@example.org".into() }
    }

    #[test]
    fn identity_is_a_uuid_in_lower_case() {
        let asked = AccountRequest { id: Some(ID.to_uppercase()), ..request("Ada", "a@b") };
        assert_eq!(check(asked), Ok(request("Ada", "a@b")));
        for wrong in ["", "1", &ID.replace('-', ""), &ID.replace('0', "g"), &format!("{ID} ")] {
            let asked = AccountRequest { id: Some(wrong.into()), ..request("Ada", "a@b") };
            assert!(matches!(check(asked), Err(Error::Invalid(_))), "{wrong}");
        }
    }

    #[test]
    fn identity_may_be_left_out() {
        let asked = AccountRequest { id: None, ..request("Ada", "a@b") };
        assert_eq!(check(asked.clone()), Ok(asked));
    }

    #[test]
    fn names_keep_their_limits() {
        for name in ["a", "Åda Łovelace", " ", &"ä".repeat(200)] {
            assert!(check(request(name, "a@b")).is_ok(), "{name}");
        }
        for name in ["", "a\nb", "a\0", "a\u{7f}", &"a".repeat(201)] {
            assert!(matches!(check(request(name, "a@b")), Err(Error::Invalid(_))), "{name:?}");
        }
    }

    #[test]
    fn addresses_have_one_at_with_something_on_both_sides() {
        for email in ["a@b", "ada+shop@example.org", "åda@exämple.org", &format!("ä@{}", "b".repeat(252))]
        {
            assert!(check(request("Ada", email)).is_ok(), "{email}");
        }
        for email in [
            "",
            "ab",
            "ada",
            "@b.org",
            "ada@",
            "a@@b",
            "a@b@c",
            "a b@c",
            "a@b\n",
            "a\u{a0}@b",
            "a@b\u{7f}",
            &format!("a@{}", "b".repeat(253)),
        ] {
            assert!(matches!(check(request("Ada", email)), Err(Error::Invalid(_))), "{email:?}");
        }
    }

    #[test]
    fn same_request_gets_the_user_that_stands() {
        assert_eq!(standing(user(), &user()), Ok(user()));
    }

    #[test]
    fn another_request_with_the_identity_is_a_conflict() {
        for other in
            [User { name: "Bob".into(), ..user() }, User { email: "bob@example.org".into(), ..user() }]
        {
            assert!(matches!(standing(user(), &other), Err(CreateError::Conflict(_))), "{other:?}");
        }
    }
}
