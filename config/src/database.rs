//! The database of modules: `sqlite`, or `postgres://user:password@host:5432/database`.
//!
//! What parsed shows as it was written. A URL has a password: [`Display`] is for the file and has it;
//! [`PostgresUrl::shown`], `Debug` and every message are for people and have not.
//!
//! [`Display`]: fmt::Display

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use crate::form::written_as_displayed;
use crate::problem::{Half, Invalid};
use crate::show::without_passwords;
use crate::url::{Fault, HOST, SECRET, decoded, host_and_port, is_loopback};

/// Where a server listens unless it is told otherwise.
const PORT: u16 = 5432;

/// What is taken as [`Database`], as a pattern. It cannot say that a port ends at 65535, and what an IPv6 address is.
fn database_pattern() -> String {
    let modes = SslMode::ALL.map(SslMode::name).join("|");
    let url = format!(r"postgres(ql)?://{SECRET}:{SECRET}@{HOST}(:[0-9]+)?/{SECRET}(\?sslmode=({modes}))?");
    format!("^(sqlite|{url})$")
}

written_as_displayed!(Database, database_pattern());

/// The database that modules keep their data in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// A SQLite file for each module.
    Sqlite,
    /// A schema of one PostgreSQL database for each module.
    Postgres(PostgresUrl),
}

/// The URL of a PostgreSQL database, and its parts.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    text: String,
    user: String,
    password: String,
    host: String,
    port: u16,
    database: String,
    ssl_mode: SslMode,
}

/// How a connection is encrypted, as PostgreSQL's `sslmode` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Not at all.
    Disable,
    /// If the server can. The default for a server on this machine.
    Prefer,
    /// Always, whoever the server is. The default for a server elsewhere.
    Require,
    /// Always, with a certificate of a trusted authority.
    VerifyCa,
    /// Always, with a certificate of a trusted authority for this host.
    VerifyFull,
}

impl SslMode {
    const ALL: [Self; 5] = [Self::Disable, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// As it is written.
    const fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl PostgresUrl {
    /// The user, decoded.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password, decoded: not for logs.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The host, without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name of the database, decoded.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// How connections are encrypted.
    pub fn ssl_mode(&self) -> SslMode {
        self.ssl_mode
    }

    /// The URL as written, without its password: for logs and messages.
    pub fn shown(&self) -> String {
        without_passwords(&self.text, |_| "***".to_owned())
    }
}

impl FromStr for Database {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "sqlite" {
            return Ok(Self::Sqlite);
        }
        let scheme =
            text.split_once("://").filter(|(scheme, _)| matches!(*scheme, "postgres" | "postgresql"));
        let Some((_, rest)) = scheme else {
            return Err(Invalid::new(
                "it is neither \"sqlite\" nor a URL that begins with `postgres://`",
                "write \"sqlite\", or a URL such as \"postgres://user:password@127.0.0.1:5432/database\"",
            ));
        };
        url(text, rest)
            .map(Self::Postgres)
            .map_err(|(fault, fix)| Invalid::new(format!("the URL {fault}"), fix))
    }
}

/// The URL `text`, which has `rest` after its scheme.
fn url(text: &str, rest: &str) -> Result<PostgresUrl, Fault> {
    let (who, place) = rest.rsplit_once('@').ok_or((
        "has no user and password",
        "write user:password@ before the host; modules get passwords of their own that are derived from it",
    ))?;
    let (user, password) = who.split_once(':').ok_or((
        "has a user without a password",
        "write user:password@ before the host; modules get passwords of their own that are derived from it",
    ))?;
    let (user, password) = decoded(user).zip(decoded(password)).ok_or((
        "has a user or a password that is empty, or a character there that URLs do not have",
        "write user:password@host, with `@` as %40, `:` as %3A, `/` as %2F, `'` as %27 and `%` as %25",
    ))?;
    let (server, rest) = place.split_once('/').ok_or((
        "has no database",
        "write its name at the end, as in postgres://user:password@127.0.0.1:5432/database",
    ))?;
    let (database, query) = rest.split_once('?').map_or((rest, None), |(name, query)| (name, Some(query)));
    let database = decoded(database).ok_or((
        "has no database, or a character in its name that URLs do not have",
        "write its name at the end, as in postgres://user:password@127.0.0.1:5432/database",
    ))?;
    let (host, port) = host_and_port(server)?;
    let (host, port) = (host.to_owned(), port.unwrap_or(PORT));
    let ssl_mode = match query {
        Some(query) => ssl_mode(query)?,
        None if is_loopback(&host) => SslMode::Prefer,
        None => SslMode::Require,
    };
    Ok(PostgresUrl { text: text.to_owned(), user, password, host, port, database, ssl_mode })
}

fn ssl_mode(query: &str) -> Result<SslMode, Fault> {
    let named = |name| SslMode::ALL.into_iter().find(|mode| mode.name() == name);
    query.strip_prefix("sslmode=").and_then(named).ok_or((
        "has something else after `?` than an `sslmode` that is known",
        "write ?sslmode= with disable, prefer, require, verify-ca or verify-full, or leave it out",
    ))
}

impl<'de> Deserialize<'de> for Database {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|invalid: Invalid| invalid.into_serde(Half::Value))
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "sqlite",
            Self::Postgres(url) => &url.text,
        })
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresUrl").field(&self.shown()).finish()
    }
}

/// What [`SchemaPrefix::from_str`] takes, as a pattern: everything but `pg` and what begins with `pg_`.
const PREFIX: &str = "^([a-oq-z][a-z0-9_]{0,15}|p([a-fh-z0-9_][a-z0-9_]{0,14})?|pg[a-z0-9][a-z0-9_]{0,13})$";

written_as_displayed!(SchemaPrefix, PREFIX);

/// How the names of an application's schemas and roles begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaPrefix(String);

impl SchemaPrefix {
    /// As written, without the `_` that follows.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for SchemaPrefix {
    fn default() -> Self {
        Self("cleave".to_owned())
    }
}

impl FromStr for SchemaPrefix {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_');
        let is_named = text.starts_with(|c: char| c.is_ascii_lowercase()) && text.bytes().all(plain);
        if is_named && text.len() <= 16 && text != "pg" && !text.starts_with("pg_") {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new(
            format!("{text:?} is not how the name of a schema begins"),
            "write 1 to 16 of a-z, 0-9 and `_` with a letter first, and not `pg_`, such as \"shop\"",
        ))
    }
}

impl<'de> Deserialize<'de> for SchemaPrefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|invalid: Invalid| invalid.into_serde(Half::Value))
    }
}

impl fmt::Display for SchemaPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn postgres(text: &str) -> PostgresUrl {
        match text.parse() {
            Ok(Database::Postgres(url)) => url,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn url_has_parts() {
        let url = postgres("postgres://me:p%40ss@db.example/shop%20one");
        assert_eq!((url.user(), url.password(), url.database()), ("me", "p@ss", "shop one"));
        assert_eq!((url.host(), url.port(), url.ssl_mode()), ("db.example", 5432, SslMode::Require));
        let url = postgres("postgresql://a:b@[::1]:6000/c");
        assert_eq!((url.host(), url.port(), url.ssl_mode()), ("::1", 6000, SslMode::Prefer));
        assert_eq!(postgres("postgres://a:b@h/c?sslmode=verify-full").ssl_mode(), SslMode::VerifyFull);
        assert_eq!("sqlite".parse::<Database>(), Ok(Database::Sqlite));
    }

    #[test]
    fn mistakes_name_their_fix_and_no_password() {
        for (text, part) in [
            ("", "sqlite"),
            ("mysql://me:s3cret@h/d", "begins with `postgres://`"),
            ("postgres://h/d", "no user"),
            ("postgres://me@h/d", "without a password"),
            ("postgres://:s3cret@h/d", "empty"),
            ("postgres://me:s3c ret@h/d", "URLs do not have"),
            ("postgres://me:s3c'ret@h/d", "%27"),
            ("postgres://me:s3cret@h", "no database"),
            ("postgres://me:s3cret@h/", "no database"),
            ("postgres://me:s3cret@/d", "host"),
            ("postgres://me:s3cret@h:0/d", "port"),
            ("postgres://me:s3cret@h:x/d", "port"),
            ("postgres://me:s3cret@h/d?sslmode=on", "sslmode"),
            ("postgres://me:s3cret@h/d?password=s3cret", "sslmode"),
        ] {
            let invalid = text.parse::<Database>().unwrap_err();
            let said = format!("{invalid}; {}", invalid.fix());
            assert!(said.contains(part) && !said.contains("s3c"), "{text}: {said}");
        }
    }

    #[test]
    fn password_is_not_told() {
        let url = postgres("postgres://me:s3cret@h/d?sslmode=require");
        assert_eq!(url.shown(), "postgres://me:***@h/d?sslmode=require");
        assert!(!format!("{:?}", Database::Postgres(url)).contains("s3cret"));
    }

    #[test]
    fn prefixes_are_names() {
        for good in ["shop", "a", "p", "pg9", "pgx_1", "a_b"] {
            assert_eq!(good.parse::<SchemaPrefix>().unwrap().as_str(), good);
        }
        for bad in ["", "pg", "pg_x", "1a", "A", "a-b", "é", "abcdefghijklmnopq"] {
            assert!(bad.parse::<SchemaPrefix>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn urls_show_as_written(text in "postgres://[a-z%:@]{0,3}:[a-z0-9%*]{1,4}@[a-z0-9.:\\[\\]-]{1,8}/[a-z]{0,2}(\\?sslmode=require)?") {
            if let Ok(database) = text.parse::<Database>() {
                prop_assert_eq!(database.to_string(), text);
            }
        }

        #[test]
        fn any_text_is_answered(text: String) {
            if let Ok(database) = text.parse::<Database>() {
                prop_assert_eq!(database.to_string(), text);
            }
        }
    }
}
