//! Owns running a module's migrations in PostgreSQL.
//!
//! They run as a role that can make tables in the module's schema and can do nothing elsewhere. Each is one transaction,
//! which records it; processes that start together take turns, and who comes second finds nothing to do.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::Row;

use super::super::DataError;
use super::super::migrate::{
    Dialect, FIX_DATABASE, FIX_FILE, Failure, File, NO_FOLDER, Record, broken, files, pending,
};
use super::super::screen::{is_reserved, reserved};
use super::connection::{Connection, Fault, by};
use super::server::{Place, Server};

/// The longest all migrations of a module may take, with the wait for another process that runs them.
const MIGRATING_MAX: Duration = Duration::from_secs(600);
/// Verbs that a migration may say. What it may do is for its role to allow; these leave the transaction whole.
const VERBS: [&str; 11] =
    ["CREATE", "ALTER", "DROP", "INSERT", "UPDATE", "DELETE", "SELECT", "WITH", "COMMENT", "DO", "TRUNCATE"];

/// Runs what has not run.
pub(super) async fn run(
    server: &Server,
    place: &Place,
    module: &str,
    folder: Option<&Path>,
) -> Result<(), DataError> {
    let at = folder.unwrap_or(Path::new(NO_FOLDER));
    let files = match folder {
        Some(folder) => files(module, folder, Dialect::Postgres)?,
        None => Vec::new(),
    };
    let deadline = Instant::now() + MIGRATING_MAX;
    let mut connection = server.connect_owner(place).await?;
    let unprepared = |fault: Fault| {
        broken(module, at, Failure { line: None, problem: fault.error.to_string(), fix: FIX_DATABASE })
    };
    let ran = by(deadline, prepare(&mut connection, place)).await.map_err(unprepared)?;
    for file in pending(module, at, &files, &ran)? {
        let applied = tokio::time::timeout_at(deadline.into(), apply(&mut connection, file)).await;
        let applied = applied.unwrap_or_else(|_| {
            let problem = format!("it takes longer than {MIGRATING_MAX:?}");
            Err(Failure { line: None, problem, fix: FIX_FILE })
        });
        applied.map_err(|failure| broken(module, &file.path, failure))?;
        tracing::info!(module, migration = file.name, "migration applied");
    }
    connection.close().await;
    Ok(())
}

/// Takes the turn, lets the module use what is made from now on, and gives what has run.
async fn prepare(connection: &mut Connection, place: &Place) -> Result<BTreeMap<u32, Record>, Fault> {
    // Of the schema, so that modules need not wait for each other.
    connection
        .say("SELECT pg_advisory_lock(hashtext('cleave migrations'), hashtext(current_schema()))")
        .await?;
    connection.say(place.privileges()).await?;
    let rows = connection.rows("SELECT version, name, sha256 FROM cleave_migrations").await?;
    let record = |row: &sqlx::postgres::PgRow| {
        let version = u32::try_from(row.try_get::<i64, _>(0)?).unwrap_or_default();
        Ok((version, Record { name: row.try_get(1)?, sha256: row.try_get(2)? }))
    };
    rows.iter().map(|row| record(row).map_err(|error: sqlx::Error| Fault::from(error))).collect()
}

/// Runs one migration in a transaction of its own.
async fn apply(connection: &mut Connection, file: &File) -> Result<(), Failure> {
    let failed = |fault: Fault, line| Failure { line, problem: fault.error.to_string(), fix: FIX_FILE };
    connection.say("BEGIN").await.map_err(|fault| failed(fault, None))?;
    for (start, text) in statements(&file.text) {
        let line = |at: usize| 1 + newlines(file.text.get(..at).unwrap_or_default());
        let verb: String = text.chars().take_while(char::is_ascii_alphabetic).collect();
        let done = if VERBS.iter().any(|known| known.eq_ignore_ascii_case(&verb)) {
            connection.execute_once(text).await.map_err(|fault| {
                let before = text.char_indices().nth(fault.at.unwrap_or(0)).map_or(0, |(at, _)| at);
                failed(fault, Some(line(start + before)))
            })
        } else {
            let problem = format!(
                "{} is not for migrations: they CREATE, ALTER, DROP, INSERT, UPDATE, DELETE",
                verb.to_uppercase()
            );
            Err(Failure { line: Some(line(start)), problem, fix: FIX_FILE })
        };
        if let Err(failure) = done {
            let _ = connection.say("ROLLBACK").await;
            return Err(failure);
        }
    }
    if let Err(failure) = check_names(connection).await {
        let _ = connection.say("ROLLBACK").await;
        return Err(failure);
    }
    // The name and the digest are the host's own words: letters, digits, `_`, `-` and `.`.
    let record = format!(
        "INSERT INTO cleave_migrations (version, name, sha256, applied_at) VALUES ({}, '{}', '{}', \
         CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)); COMMIT",
        file.version, file.name, file.sha256
    );
    connection.say(record).await.map_err(|fault| failed(fault, None))
}

/// Refuses names that only the host's and the database's may have, however the migration came to them.
async fn check_names(connection: &mut Connection) -> Result<(), Failure> {
    let own = "SELECT relname::text FROM pg_class WHERE relnamespace = to_regnamespace(current_schema()) \
               AND relowner = (SELECT oid FROM pg_roles WHERE rolname = current_user) ORDER BY relname";
    let failed = |problem| Failure { line: None, problem, fix: FIX_FILE };
    let names = connection.texts(own, &[]).await.map_err(|fault| failed(fault.error.to_string()))?;
    match names.into_iter().flatten().find(|name| is_reserved(name)) {
        Some(name) => Err(failed(format!("`{name}`: {}", reserved()))),
        None => Ok(()),
    }
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

/// Cuts a file at its semicolons, with where each statement begins. What it cuts wrongly the server does not take: it is
/// given one statement at a time, and refuses two.
fn statements(text: &str) -> Vec<(usize, &str)> {
    let mut statements = Vec::new();
    let (mut start, mut at) = (None, 0);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let is_blank =
            rest.starts_with(char::is_whitespace) || rest.starts_with("--") || rest.starts_with("/*");
        if rest.starts_with(';') {
            statements.extend(start.take().and_then(|from| Some((from, text.get(from..at)?))));
        } else if !is_blank {
            start.get_or_insert(at);
        }
        at += piece(rest);
    }
    statements.extend(start.and_then(|from| Some((from, text.get(from..)?.trim_end()))));
    statements
}

/// How long the first piece of the text is: a comment, what is quoted, a word, or one character.
fn piece(rest: &str) -> usize {
    let until = |from: usize, end: &str| {
        let inner = rest.get(from..).unwrap_or_default();
        inner.find(end).map_or(rest.len(), |at| from + at + end.len())
    };
    let first = rest.chars().next().unwrap_or_default();
    match first {
        '-' if rest.starts_with("--") => until(0, "\n"),
        '/' if rest.starts_with("/*") => comment(rest),
        '\'' => until(1, "'"),
        '"' => until(1, "\""),
        'e' | 'E' if rest.get(1..2) == Some("'") => escaped(rest),
        '$' => {
            let tag = rest.get(1..).and_then(|after| after.find('$')).and_then(|end| rest.get(..end + 2));
            let is_tag = |tag: &&str| tag.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '$');
            tag.filter(is_tag).map_or(1, |tag| until(tag.len(), tag))
        }
        c if c.is_alphanumeric() || c == '_' => {
            rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len())
        }
        c => c.len_utf8(),
    }
}

/// The length of a comment with those in it.
fn comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(here) = rest.get(at..).filter(|here| !here.is_empty()) {
        if here.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of a text in which a backslash takes the next character with it.
fn escaped(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(2);
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => drop(characters.next()),
            '\'' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(text: &str) -> Vec<&str> {
        statements(text).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn files_are_cut_at_semicolons() {
        assert_eq!(texts("a; b ;\n-- c;\n d;;"), ["a", "b ", "d"]);
        assert_eq!(texts("a ';' \";\" /* ; /* ; */ ; */ b; c"), ["a ';' \";\" /* ; /* ; */ ; */ b", "c"]);
        assert_eq!(
            texts("x E'\\';' y; $$ ; $$; $a$ ; $b$ ; $a$ z"),
            ["x E'\\';' y", "$$ ; $$", "$a$ ; $b$ ; $a$ z"]
        );
        assert_eq!(texts("'it''s;'; a$1;b"), ["'it''s;'", "a$1", "b"]);
        assert_eq!(texts(" -- only"), Vec::<&str>::new());
    }

    proptest! {
        #[test]
        fn cutting_any_text_ends(text in "\\PC*|[-$;'\"/*\\\\eE a\n]{0,40}") {
            statements(&text);
        }
    }
}
