//! Owns the functions that stand in for SQLite's own where those may hold a thread for long.
//!
//! SQLite looks at the clock only where its machine jumps, so neither inside a function nor between two calls of one
//! expression. Its `trim` and `replace` take time in proportion to the product of two lengths. Those here take it in
//! proportion to the sum, and look at the clock themselves before work on a long value. They give what SQLite's give,
//! but for text or blobs that are not UTF-8, which `trim` and `replace` refuse: indexes are built with either.

use std::borrow::Cow;
use std::sync::Arc;

use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Error, Result, ffi};

use super::watch::Watch;

/// Bytes from which a value is worth a look at the clock: work on fewer takes about as long as the look.
const LONG_BYTES: usize = 4_096;

/// Registers them all on one connection, where no value may have more than `bytes_max` bytes.
pub(super) fn register(sqlite: &Connection, watch: &Arc<Watch>, bytes_max: usize) -> Result<()> {
    let flags =
        FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    for (name, left, right) in [("trim", true, true), ("ltrim", true, false), ("rtrim", false, true)] {
        for count in [1, 2] {
            let watch = Arc::clone(watch);
            sqlite.create_scalar_function(name, count, flags, move |given| {
                trim(&Given { given, watch: &watch }, left, right)
            })?;
        }
    }
    sqlite.create_scalar_function("replace", 3, flags, {
        let watch = Arc::clone(watch);
        move |given| replace(&Given { given, watch: &watch }, bytes_max)
    })?;
    for (name, recase) in
        [("upper", <[u8]>::to_ascii_uppercase as fn(&[u8]) -> Vec<u8>), ("lower", <[u8]>::to_ascii_lowercase)]
    {
        let watch = Arc::clone(watch);
        sqlite.create_scalar_function(name, 1, flags, move |given| {
            let given = Given { given, watch: &watch };
            Ok(given.bytes(0)?.map(|bytes| Text(recase(&bytes))))
        })?;
    }
    Ok(())
}

/// A result; what came in as text that is not UTF-8 may go out so.
struct Text(Vec<u8>);

impl ToSql for Text {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(&self.0)))
    }
}

/// The arguments of one call.
struct Given<'a> {
    given: &'a Context<'a>,
    watch: &'a Watch,
}

impl Given<'_> {
    /// An argument as text, or nothing for NULL. A number becomes text and a blob is taken for text, as SQLite does.
    fn bytes(&self, index: usize) -> Result<Option<Cow<'_, [u8]>>> {
        let bytes: Cow<'_, [u8]> = match self.given.get_raw(index) {
            ValueRef::Null => return Ok(None),
            ValueRef::Integer(integer) => integer.to_string().into_bytes().into(),
            ValueRef::Real(real) => written(real)?.into_bytes().into(),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.into(),
        };
        if bytes.len() >= LONG_BYTES && self.watch.look_at_time() {
            return Err(failure(ffi::SQLITE_INTERRUPT));
        }
        Ok(Some(bytes))
    }

    fn text(&self, index: usize) -> Result<Option<Cow<'_, str>>> {
        Ok(match self.bytes(index)? {
            None => None,
            Some(Cow::Borrowed(bytes)) => {
                Some(std::str::from_utf8(bytes).map_err(|error| Error::Utf8Error(index, error))?.into())
            }
            Some(Cow::Owned(bytes)) => Some(String::from_utf8_lossy(&bytes).into_owned().into()),
        })
    }
}

fn trim(given: &Given<'_>, left: bool, right: bool) -> Result<Option<Text>> {
    let Some(text) = given.text(0)? else { return Ok(None) };
    let set = match given.given.len() {
        1 => Set::of(" "),
        _ => match given.text(1)? {
            Some(characters) => Set::of(&characters),
            None => return Ok(None),
        },
    };
    let mut rest = &*text;
    if left {
        rest = rest.trim_start_matches(|c| set.has(c));
    }
    if right {
        rest = rest.trim_end_matches(|c| set.has(c));
    }
    Ok(Some(Text(rest.into())))
}

/// A set of characters: a bit for each, up to the greatest it has.
struct Set(Vec<u64>);

impl Set {
    /// The characters before the first U+0000, which ends a text to SQLite here.
    fn of(characters: &str) -> Self {
        let characters = characters.split('\0').next().unwrap_or_default();
        let places = characters.chars().max().map_or(0, |greatest| place(greatest).0 + 1);
        let mut words = vec![0; places];
        for c in characters.chars() {
            let (word, bit) = place(c);
            if let Some(word) = words.get_mut(word) {
                *word |= bit;
            }
        }
        Self(words)
    }

    fn has(&self, c: char) -> bool {
        let (word, bit) = place(c);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }
}

fn place(c: char) -> (usize, u64) {
    let number = u32::from(c);
    ((number / 64) as usize, 1 << (number % 64))
}

fn replace(given: &Given<'_>, bytes_max: usize) -> Result<Option<Text>> {
    let Some(text) = given.text(0)? else { return Ok(None) };
    let Some(pattern) = given.text(1)? else { return Ok(None) };
    // Why before the third is looked at: so SQLite does, and gives the text even when the third is NULL.
    if pattern.is_empty() || pattern.starts_with('\0') {
        return Ok(Some(Text(text.into_owned().into())));
    }
    let Some(instead) = given.text(2)? else { return Ok(None) };
    let mut result = Vec::with_capacity(text.len());
    let mut parts = text.split(&*pattern).peekable();
    while let Some(part) = parts.next() {
        result.extend_from_slice(part.as_bytes());
        if parts.peek().is_some() {
            result.extend_from_slice(instead.as_bytes());
        }
        if result.len() > bytes_max {
            return Err(failure(ffi::SQLITE_TOOBIG));
        }
    }
    Ok(Some(Text(result)))
}

/// A number as SQLite writes it, which only SQLite knows to the last digit.
fn written(real: f64) -> Result<String> {
    thread_local! {
        static SCRATCH: Result<Connection> = Connection::open_in_memory();
    }
    SCRATCH.with(|scratch| match scratch {
        Ok(scratch) => scratch.prepare_cached("SELECT CAST($1 AS TEXT)")?.query_row([real], |row| row.get(0)),
        Err(_) => Err(failure(ffi::SQLITE_NOMEM)),
    })
}

/// Why without words: with them SQLite would forget the code.
fn failure(code: i32) -> Error {
    Error::SqliteFailure(ffi::Error::new(code), None)
}
