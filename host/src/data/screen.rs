//! Owns what a module may say to its database.
//!
//! Two screens, either of which is enough alone for what matters. The first reads the text: one statement of four
//! kinds, parameters `$1` to `$n`, no reserved name. It is strict where databases differ, so that a statement means
//! the same on both. The second is SQLite's authorizer, asked about every table, column and function while a statement
//! is prepared, with views and triggers already opened up: what the first screen misreads cannot pass the second.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use super::{Limits, SqlError, Value};

/// Parameters of one statement.
pub(super) const PARAMETERS_MAX: usize = 100;

/// How names begin that are the host's or the database's own.
const RESERVED: [&str; 4] = ["cleave_", "_sqlx_", "sqlite_", "pg_"];

/// Functions that SQLite and PostgreSQL both have and that mean the same for ordinary arguments. `like` is what the
/// operator LIKE is called inside SQLite.
const FUNCTIONS: [&str; 35] = [
    "abs",
    "avg",
    "coalesce",
    "concat",
    "concat_ws",
    "count",
    "cume_dist",
    "dense_rank",
    "first_value",
    "lag",
    "last_value",
    "lead",
    "length",
    "like",
    "lower",
    "ltrim",
    "max",
    "min",
    "nth_value",
    "ntile",
    "nullif",
    "octet_length",
    "percent_rank",
    "rank",
    "replace",
    "round",
    "row_number",
    "rtrim",
    "sign",
    "string_agg",
    "substr",
    "substring",
    "sum",
    "trim",
    "upper",
];

/// Whether a name begins as only the host's or the database's own may.
pub(super) fn is_reserved(name: &str) -> bool {
    RESERVED
        .iter()
        .any(|prefix| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
}

/// The four kinds of statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Select,
    Insert,
    Update,
    Delete,
}

impl Verb {
    fn of(word: &str) -> Option<Self> {
        [
            ("SELECT", Self::Select),
            ("INSERT", Self::Insert),
            ("UPDATE", Self::Update),
            ("DELETE", Self::Delete),
        ]
        .into_iter()
        .find_map(|(name, verb)| word.eq_ignore_ascii_case(name).then_some(verb))
    }
}

/// A statement that has passed the first screen.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) verb: Verb,
    pub(super) parameters: usize,
    /// The names it defines by WITH, in lower case.
    pub(super) defined: Vec<String>,
}

impl Reading {
    pub(super) fn check_count(&self, given: &[Value]) -> Result<(), SqlError> {
        if self.parameters == given.len() {
            return Ok(());
        }
        Err(SqlError::Invalid(format!(
            "the statement takes {} parameters and {} values are given",
            self.parameters,
            given.len()
        )))
    }
}

/// Refuses a text or a value that is larger than the limits allow, or that not every database takes.
pub(super) fn check_sizes(sql: &str, given: &[Value], limits: &Limits) -> Result<(), SqlError> {
    if sql.len() > limits.statement_bytes_max {
        return Err(SqlError::TooLarge(format!(
            "the statement has {} bytes, the limit is {}",
            sql.len(),
            limits.statement_bytes_max
        )));
    }
    for (index, value) in given.iter().enumerate() {
        let number = index + 1;
        let bytes = match value {
            Value::Real(real) if !real.is_finite() => {
                return Err(SqlError::Invalid(format!("${number} is {real}; a number must be finite")));
            }
            Value::Text(text) if text.as_bytes().contains(&0) => {
                return Err(SqlError::Invalid(format!(
                    "${number} contains U+0000, which not every database stores"
                )));
            }
            Value::Text(text) => text.len(),
            Value::Blob(bytes) => bytes.len(),
            _ => 0,
        };
        if bytes > limits.value_bytes_max {
            return Err(SqlError::TooLarge(format!(
                "${number} has {bytes} bytes, the limit is {}",
                limits.value_bytes_max
            )));
        }
    }
    Ok(())
}

/// Whether a statement only reads, by a look that costs little. Says yes when in doubt: readers cannot write.
pub(super) fn only_reads(sql: &str) -> bool {
    let mut head = Head::default();
    for token in Tokens::new(sql) {
        let Ok((_, token)) = token else { return true };
        match head.take(token) {
            Ok(Some(verb)) => return verb == Verb::Select,
            Ok(None) => {}
            Err(_) => return true,
        }
    }
    true
}

/// The first screen.
pub(super) fn read(sql: &str) -> Result<Reading, SqlError> {
    let mut head = Head::default();
    let mut verb = None;
    let mut seen = [false; PARAMETERS_MAX];
    let mut highest = 0;
    let mut ended = false;
    let mut last_word = "";
    let mut definitions = Definitions::default();
    for token in Tokens::new(sql) {
        let (_, token) = token?;
        if ended {
            return Err(SqlError::Refused("a second statement follows the first; send one at a time".into()));
        }
        if verb.is_none() {
            verb = head.take(token)?;
        }
        definitions.take(token);
        let before = std::mem::take(&mut last_word);
        match token {
            Token::Word(word) | Token::Quoted(word) if is_reserved(word) => return Err(reserved_name(word)),
            Token::Word(word) => {
                if word.eq_ignore_ascii_case("OR")
                    && matches!(Verb::of(before), Some(Verb::Insert | Verb::Update))
                {
                    return Err(SqlError::Refused(format!("{before} OR; write ON CONFLICT instead")));
                }
                last_word = word;
            }
            Token::Parameter(number) => match seen.get_mut(number.wrapping_sub(1)) {
                Some(place) => {
                    *place = true;
                    highest = highest.max(number);
                }
                None => {
                    return Err(SqlError::Invalid(format!("${number}: at most {PARAMETERS_MAX} parameters")));
                }
            },
            Token::Semicolon => ended = true,
            _ => {}
        }
    }
    let Some(verb) = verb else { return Err(kind_refused("nothing at all")) };
    if let Some(missing) = seen.iter().take(highest).position(|used| !used) {
        let missing = missing + 1;
        return Err(SqlError::Invalid(format!("parameters go up to ${highest} but ${missing} is not used")));
    }
    Ok(Reading { verb, parameters: highest, defined: definitions.found })
}

fn reserved_name(name: &str) -> SqlError {
    SqlError::Refused(format!("`{name}`: {}", reserved()))
}

/// What is said of a reserved name.
pub(super) fn reserved() -> String {
    format!("names that begin with {} are reserved", RESERVED.join(", "))
}

fn kind_refused(found: &str) -> SqlError {
    SqlError::Refused(format!(
        "a statement is a SELECT, INSERT, UPDATE or DELETE, or one of them after WITH; not {found}"
    ))
}

/// Finds the verb of a statement at its head: the first word, or the first verb outside parentheses after WITH.
#[derive(Default)]
struct Head {
    with: bool,
    depth: usize,
}

impl Head {
    fn take(&mut self, token: Token<'_>) -> Result<Option<Verb>, SqlError> {
        match token {
            Token::Word(word) if self.depth == 0 => {
                let verb = Verb::of(word);
                if verb.is_some() {
                    return Ok(verb);
                }
                // Why: these two also stand for a kind of statement, which may follow WITH.
                let other = ["REPLACE", "VALUES"].iter().any(|kind| word.eq_ignore_ascii_case(kind));
                if other || !(self.with || word.eq_ignore_ascii_case("WITH")) {
                    return Err(kind_refused(&word.chars().take(40).collect::<String>()));
                }
                self.with = true;
            }
            Token::Open => {
                if !self.with {
                    return Err(kind_refused("a parenthesis"));
                }
                self.depth += 1;
            }
            Token::Close => self.depth = self.depth.saturating_sub(1),
            _ if !self.with => return Err(kind_refused("a sign")),
            _ => {}
        }
        Ok(None)
    }
}

/// Finds the names that WITH defines: `name AS (` or `name (columns) AS (`.
#[derive(Default)]
struct Definitions<'a> {
    found: Vec<String>,
    /// The name before each parenthesis that is open.
    open: Vec<Option<&'a str>>,
    /// The name that AS would be about.
    named: Option<&'a str>,
    /// The name that AS was about, right after it.
    after_as: Option<&'a str>,
}

impl<'a> Definitions<'a> {
    fn take(&mut self, token: Token<'a>) {
        let is = |word: &str| matches!(token, Token::Word(found) if found.eq_ignore_ascii_case(word));
        if let Some(name) = self.after_as.take()
            && (token == Token::Open || is("MATERIALIZED") || is("NOT"))
        {
            self.found.push(name.to_ascii_lowercase());
        }
        let named = self.named.take();
        match token {
            Token::Open => self.open.push(named),
            Token::Close => self.named = self.open.pop().flatten(),
            Token::Word(_) if is("AS") => self.after_as = named,
            Token::Word(name) | Token::Quoted(name) => self.named = Some(name),
            _ => {}
        }
    }
}

/// One token of SQL, as far as screening needs to tell them apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token<'a> {
    /// A keyword or a plain name.
    Word(&'a str),
    /// A quoted name, without its quotes; doubled quotes inside stay doubled.
    Quoted(&'a str),
    /// A text or blob literal, a number.
    Literal,
    /// `$1` and so on.
    Parameter(usize),
    Semicolon,
    Open,
    Close,
    Symbol,
}

/// The tokens of a text, each with the place where it begins; comments and white space are left out.
pub(super) struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_space(&mut self) -> Result<(), SqlError> {
        loop {
            let rest = self.rest();
            let length = if rest.starts_with("--") {
                let length = rest.find('\n').map_or(rest.len(), |end| end + 1);
                let line = rest.get(..length).unwrap_or_default();
                // Why: PostgreSQL ends the comment there, and takes what follows for a part of the statement.
                if line.strip_suffix("\r\n").unwrap_or(line).contains('\r') {
                    return Err(SqlError::Refused(
                        "a carriage return in a comment; end it with a newline".into(),
                    ));
                }
                length
            } else if let Some(comment) = rest.strip_prefix("/*") {
                comment.find("*/").map_or(rest.len(), |end| end + 4)
            } else {
                rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']).len()
            };
            if length == 0 {
                return Ok(());
            }
            self.at += length;
        }
    }

    /// Takes what is quoted, up to the closing quote; a doubled quote is part of it.
    fn quoted(&mut self, close: char, doubles: bool) -> Result<&'a str, SqlError> {
        let rest = self.rest();
        let mut marks =
            rest.char_indices().skip(1).filter(|(_, c)| *c == close).map(|(place, _)| place).peekable();
        while let Some(end) = marks.next() {
            if doubles && marks.next_if_eq(&(end + 1)).is_some() {
                continue;
            }
            self.at += end + 1;
            return Ok(rest.get(1..end).unwrap_or_default());
        }
        Err(SqlError::Invalid(format!("a quote {close} is opened and not closed")))
    }

    /// Takes one of `$1`, `$2`, …; every other form a database knows is an error.
    fn parameter(&mut self) -> Result<Token<'a>, SqlError> {
        let rest = self.rest();
        let length =
            rest.char_indices().skip(1).find(|(_, c)| !in_word(*c)).map_or(rest.len(), |(place, _)| place);
        let (form, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        let number = form
            .strip_prefix('$')
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0'))
            .and_then(|digits| digits.parse().ok());
        // Why: SQLite would take `$1::x` and `$1(x)` for one long parameter name.
        if after.starts_with("::") || rest.starts_with("::") {
            return Err(SqlError::Invalid("`::` is not known to every database; write CAST(… AS …)".into()));
        }
        match number {
            Some(number) if !after.starts_with('(') => {
                self.at += length;
                Ok(Token::Parameter(number))
            }
            _ => Err(SqlError::Invalid(format!(
                "parameters are written $1, $2 and so on; not `{}`",
                form.chars().take(40).collect::<String>()
            ))),
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Result<(usize, Token<'a>), SqlError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.skip_space() {
            self.at = self.text.len();
            return Some(Err(error));
        }
        let rest = self.rest();
        let start = self.at;
        let first = rest.chars().next()?;
        let token = match first {
            '\'' => self.quoted('\'', true).map(|_| Token::Literal),
            '"' | '`' => self.quoted(first, true).map(Token::Quoted),
            '[' => self.quoted(']', false).map(Token::Quoted),
            '$' | '?' | ':' | '@' | '#' => self.parameter(),
            '\0' => Err(SqlError::Invalid("the text of the statement contains U+0000".into())),
            _ if in_word(first) => {
                let length = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
                self.at += length;
                let word = rest.get(..length).unwrap_or_default();
                Ok(if first.is_ascii_digit() { Token::Literal } else { Token::Word(word) })
            }
            _ => {
                self.at += first.len_utf8();
                Ok(match first {
                    ';' => Token::Semicolon,
                    '(' => Token::Open,
                    ')' => Token::Close,
                    _ => Token::Symbol,
                })
            }
        };
        if token.is_err() {
            self.at = self.text.len();
        }
        Some(token.map(|token| (start, token)))
    }
}

/// As SQLite has it: every character beyond ASCII may be part of a name.
fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// What a database holds that statements may or may not name; fixed once the migrations have run.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The module's own tables and views, in lower case.
    pub(super) own: HashSet<String>,
    /// Tables that come with SQLite itself, such as `json_each`, in lower case.
    pub(super) built_in: HashSet<String>,
}

/// The second screen, of one connection; asked by SQLite whenever it prepares a statement.
#[derive(Debug)]
pub(super) struct Screen {
    known: Arc<Known>,
    /// Set while the host speaks for itself on this connection.
    open: AtomicBool,
    current: Mutex<Current>,
}

/// What belongs to the statement at hand.
#[derive(Debug, Default)]
struct Current {
    /// The names it defines by WITH.
    defined: Arc<[String]>,
    /// Why it was denied; SQLite's own message would not say.
    denied: Option<String>,
}

impl Screen {
    pub(super) fn new(known: Arc<Known>) -> Self {
        Self { known, open: AtomicBool::new(false), current: Mutex::default() }
    }

    /// Lets everything pass until the guard is dropped.
    pub(super) fn open(&self) -> OpenScreen<'_> {
        self.open.store(true, Ordering::Relaxed);
        OpenScreen(self)
    }

    /// Turns to another statement. SQLite may ask about it whenever it runs, not only the first time.
    pub(super) fn turn_to(&self, defined: Arc<[String]>) {
        *self.current() = Current { defined, denied: None };
    }

    /// Why the statement at hand was denied.
    pub(super) fn take_denied(&self) -> Option<String> {
        self.current().denied.take()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn authorize(&self, asked: AuthContext<'_>) -> Authorization {
        if self.open.load(Ordering::Relaxed) {
            return Authorization::Allow;
        }
        match self.verdict(asked) {
            Ok(()) => Authorization::Allow,
            Err(reason) => {
                self.current().denied.get_or_insert(reason);
                Authorization::Deny
            }
        }
    }

    fn verdict(&self, asked: AuthContext<'_>) -> Result<(), String> {
        match asked.action {
            AuthAction::Select | AuthAction::Recursive => Ok(()),
            // Why: SQLite asks with an empty column about a table from which no value is taken, and does not say
            // whether the name is a table's or one that WITH defines.
            AuthAction::Read { table_name, column_name: "" } => {
                let name = table_name.to_ascii_lowercase();
                let foreign =
                    self.known.built_in.contains(&name) || name.starts_with("pragma_") || is_reserved(&name);
                let defined = !foreign && self.current().defined.contains(&name);
                if defined || self.known.own.contains(&name) { Ok(()) } else { Err(not_own(table_name)) }
            }
            AuthAction::Read { table_name, .. }
            | AuthAction::Insert { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::Delete { table_name } => {
                let here = asked.database_name.is_none_or(|name| name == "main");
                if here && self.known.own.contains(&table_name.to_ascii_lowercase()) {
                    Ok(())
                } else {
                    Err(not_own(table_name))
                }
            }
            AuthAction::Function { function_name } => allowed_function(function_name),
            other => Err(format!("{} is not for modules", name_of(other))),
        }
    }
}

/// While it lives, its screen lets the host through.
pub(super) struct OpenScreen<'a>(&'a Screen);

impl Drop for OpenScreen<'_> {
    fn drop(&mut self) {
        self.0.open.store(false, Ordering::Relaxed);
    }
}

fn not_own(table: &str) -> String {
    format!("`{table}` is not one of the module's own tables")
}

pub(super) fn allowed_function(name: &str) -> Result<(), String> {
    if FUNCTIONS.iter().any(|allowed| name.eq_ignore_ascii_case(allowed)) {
        return Ok(());
    }
    let instead = match name.to_ascii_lowercase().as_str() {
        "ifnull" => "; write coalesce",
        "iif" | "if" => "; write CASE WHEN",
        "group_concat" => "; write string_agg",
        "total" => "; write coalesce(sum(…), 0)",
        "glob" | "regexp" | "match" => "; write LIKE",
        "random" | "randomblob" => "; take randomness in the module and pass it as a parameter",
        "current_timestamp" | "current_date" | "current_time" | "datetime" | "date" | "strftime"
        | "unixepoch" => "; take the time in the module and pass it as a parameter",
        _ => "",
    };
    Err(format!("the function `{name}` is not on the list of allowed functions{instead}"))
}

/// What an action is called in SQL, for messages.
pub(super) fn name_of(action: AuthAction<'_>) -> &'static str {
    match action {
        AuthAction::Pragma { .. } => "PRAGMA",
        AuthAction::Attach { .. } | AuthAction::Detach { .. } => "ATTACH or DETACH",
        AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } => "control of transactions",
        AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTrigger { .. }
        | AuthAction::CreateTempView { .. }
        | AuthAction::DropTempTable { .. }
        | AuthAction::DropTempIndex { .. }
        | AuthAction::DropTempTrigger { .. }
        | AuthAction::DropTempView { .. } => "a temporary table, view, index or trigger",
        AuthAction::CreateVtable { .. } | AuthAction::DropVtable { .. } => "a virtual table",
        AuthAction::Analyze { .. } => "ANALYZE",
        AuthAction::Reindex { .. } => "REINDEX",
        _ => "a change of the schema",
    }
}
