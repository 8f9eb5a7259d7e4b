//! Owns what is refused in the text of a statement, before it is parsed.
//!
//! That is what the databases would cut into other words or read in another way, and parts too many or too deep
//! to be looked at.

use super::super::SqlError;
use super::super::screen::{Token, Tokens, allowed_function};
use super::DEPTH_MAX;

/// Operators of one statement. Each may be inside the one before, and what is so deep is looked at by recursion.
const OPERATORS_MAX: usize = 300;
/// Words that stand for operators.
const OPERATORS: [&str; 11] =
    ["AND", "OR", "IS", "IN", "LIKE", "BETWEEN", "ISNULL", "NOTNULL", "UNION", "EXCEPT", "INTERSECT"];
/// Columns that every table of a database's has, asked for or not.
const OWN_COLUMNS: [&str; 9] =
    ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid", "rowid", "_rowid_", "oid"];

/// Refuses a text whose parts are too many or too deep to be looked at, or that the databases do not read alike.
pub(super) fn check(sql: &str, is_migration: bool) -> Result<(), SqlError> {
    let (mut operators, mut depth) = (0_usize, 0_usize);
    let mut last = Last::default();
    for token in Tokens::new(sql) {
        let (at, token) = token?;
        let first = sql.get(at..).and_then(|text| text.chars().next()).unwrap_or_default();
        match token {
            Token::Word(word) => {
                operators += usize::from(OPERATORS.iter().any(|name| name.eq_ignore_ascii_case(word)));
            }
            Token::Symbol => operators += usize::from(!matches!(first, ',' | '.')),
            Token::Open => depth += 1,
            Token::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
        last.refuse(at, token, first, sql, is_migration).map_err(SqlError::Refused)?;
        last = last.next(at, token, first);
        if operators > OPERATORS_MAX {
            return Err(SqlError::TooLarge(format!("the statement has more than {OPERATORS_MAX} operators")));
        }
        if depth > DEPTH_MAX {
            return Err(SqlError::TooLarge(format!("parentheses are deeper than {DEPTH_MAX}")));
        }
    }
    if nests_comments(sql) {
        return Err(SqlError::Refused("a comment in a comment, which not every database has".into()));
    }
    Ok(())
}

/// What stands before a token.
#[derive(Default)]
struct Last<'a> {
    /// It and the token before it, as far as they are words.
    words: [&'a str; 2],
    /// Where it ended, if it is a word or a sign that may belong to what follows it at once.
    end: Option<usize>,
    /// Whether a value or a name has ended, or AS was said, so that no text can follow.
    is_complete: bool,
    is_equals: bool,
}

impl<'a> Last<'a> {
    fn next(self, at: usize, token: Token<'a>, first: char) -> Self {
        let word = if let Token::Word(word) = token { word } else { "" };
        let [_, last] = self.words;
        let words = [last, word];
        let end = match token {
            Token::Word(word) => Some(at + word.len()),
            Token::Symbol if matches!(first, '&' | '=') => Some(at + 1),
            _ => None,
        };
        let is_complete = match token {
            Token::Literal | Token::Quoted(_) | Token::Parameter(_) | Token::Close => true,
            Token::Word(word) => word.eq_ignore_ascii_case("AS"),
            _ => false,
        };
        Self { words, end, is_complete, is_equals: first == '=' }
    }

    /// Refuses a token, that begins with `first`, for what it is or for what it follows.
    fn refuse(
        &self,
        at: usize,
        token: Token<'_>,
        first: char,
        sql: &str,
        may_be_rule: bool,
    ) -> Result<(), String> {
        let touches = self.end == Some(at);
        let [before, last] = self.words;
        let is = |word: &str, name: &str| word.eq_ignore_ascii_case(name);
        match token {
            Token::Word(word) if is(last, "WITHOUT") && is(word, "ROWID") => Ok(()),
            Token::Word(word) if is(word, "AUTOINCREMENT") => {
                Err("AUTOINCREMENT; make the value in the module, as an identity or a count".into())
            }
            Token::Word(word) if is(last, "LIMIT") && is(word, "ALL") => {
                Err("LIMIT ALL; leave it out".into())
            }
            // Why: of both databases, SQLite alone has it for IS NOT NULL. In a migration it is a rule of a column.
            Token::Word(word) if is(last, "NOT") && is(word, "NULL") && !is(before, "IS") && !may_be_rule => {
                Err("NOT NULL; write IS NOT NULL".into())
            }
            // Why: U&"…" is a name with escapes in it on the other database.
            Token::Quoted(_) if touches && sql.get(..at).is_some_and(|before| before.ends_with('&')) => {
                Err("a quote right after &; put a space between them".into())
            }
            Token::Word(name) | Token::Quoted(name)
                if OWN_COLUMNS.iter().any(|own| name.eq_ignore_ascii_case(own)) =>
            {
                Err(format!("`{name}`: the database's own columns"))
            }
            Token::Quoted(_) if first != '"' => Err(format!("a name in {first}; write it in \"…\"")),
            Token::Symbol if first == '=' && touches && self.is_equals => Err("`==`; write `=`".into()),
            // Why: X'…', E'…' and U&'…' are other things on the other database, and end elsewhere.
            Token::Literal if first == '\'' && touches && !self.is_equals => {
                Err("a literal with letters before its quote; write '…', and pass bytes as a parameter"
                    .into())
            }
            // Why: one database takes the second for a name of the first, the other for a part of it.
            Token::Literal if first == '\'' && self.is_complete => {
                Err("a text right after a value or AS; write names in \"…\", and || between texts".into())
            }
            Token::Literal if first != '\'' => {
                let digits = sql.get(at..).unwrap_or_default();
                let digits =
                    digits.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                let is_plain = digits.chars().all(|c| c.is_ascii_digit() || matches!(c, 'e' | 'E'));
                if is_plain {
                    Ok(())
                } else {
                    Err(format!("the number {digits}; write it in decimal digits"))
                }
            }
            _ => Ok(()),
        }
    }
}

/// Whether a comment begins within another, as far as a rough look tells: one too many is refused, never one too few.
fn nests_comments(sql: &str) -> bool {
    let mut rest = sql;
    while let Some((_, after)) = rest.split_once("/*") {
        let Some((comment, after)) = after.split_once("*/") else { return after.contains("/*") };
        if comment.contains("/*") {
            return true;
        }
        rest = after;
    }
    false
}

/// The operator that only SQLite has, if a text has one.
pub(super) fn foreign_operator(sql: &str) -> Option<String> {
    Tokens::new(sql).find_map(|token| match token {
        Ok((_, Token::Word(word)))
            if ["glob", "regexp", "match"].iter().any(|name| word.eq_ignore_ascii_case(name)) =>
        {
            allowed_function(word).err()
        }
        _ => None,
    })
}
