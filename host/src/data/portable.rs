//! Owns what SQL both databases have: a statement that passes here means the same on either.
//!
//! The text is parsed as PostgreSQL's, and everything that is found must be on a list: kinds of statement, of table, of
//! expression, operators, functions and types to cast to. What the parser knows and the lists do not is refused, so a
//! word of PostgreSQL's that nobody thought of here is refused too.

use std::ops::ControlFlow::{self, Break, Continue};

use sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Distinct, ExactNumberInfo, Expr, Function, FunctionArguments,
    GroupByExpr, Ident, LimitClause, ObjectName, ObjectNamePart, OnInsert, Query, Select, SelectFlavor,
    SetExpr, Statement, TableFactor, TableObject, UnaryOperator, Value, Visit, Visitor,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::SqlError;
use super::screen::{Token, Tokens, allowed_function};

/// Operators of one statement. Each may be inside the one before, and what is so deep is looked at by recursion.
const OPERATORS_MAX: usize = 300;
/// Words that stand for operators.
const OPERATORS: [&str; 11] =
    ["AND", "OR", "IS", "IN", "LIKE", "BETWEEN", "ISNULL", "NOTNULL", "UNION", "EXCEPT", "INTERSECT"];
/// How deep parentheses may be.
const DEPTH_MAX: usize = 40;

/// Words that PostgreSQL takes for functions without parentheses: about who and where, and the time.
const SESSION: [&str; 12] = [
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "localtime",
    "localtimestamp",
    "session_user",
    "system_user",
    "user",
];
/// Columns that every table of PostgreSQL's has.
const SYSTEM_COLUMNS: [&str; 6] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];

/// Refuses a statement of a module's that not both databases have, or that may not be said.
pub(super) fn check_statement(sql: &str) -> Result<(), SqlError> {
    check_size(sql)?;
    let parser = Parser::new(&PostgreSqlDialect {}).with_recursion_limit(DEPTH_MAX * 2);
    let parsed = parser.try_with_sql(sql).and_then(|mut parser| parser.parse_statements());
    let statements = parsed
        .map_err(|error| SqlError::Invalid(error.to_string().replace("sql parser error", "syntax error")))?;
    let [statement] = statements.as_slice() else {
        return Err(SqlError::Refused("send one statement at a time".into()));
    };
    // The parser takes what follows WITH for a part of a query.
    let is_with =
        |query: &Query| matches!(&*query.body, SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_));
    let expected = if matches!(statement, Statement::Query(query) if is_with(query)) { 2 } else { 1 };
    match statement.visit(&mut Portable { left: expected }) {
        Continue(()) => Ok(()),
        Break(reason) => Err(SqlError::Refused(reason)),
    }
}

/// Refuses a text whose parts are too many or too deep to be looked at, or that the databases do not cut alike.
fn check_size(sql: &str) -> Result<(), SqlError> {
    let (mut operators, mut depth) = (0_usize, 0_usize);
    let mut word_end = None;
    for token in Tokens::new(sql) {
        let (at, token) = token?;
        let text = sql.get(at..).unwrap_or_default();
        let first = text.chars().next().unwrap_or_default();
        match token {
            Token::Word(word) => {
                operators += usize::from(OPERATORS.iter().any(|name| name.eq_ignore_ascii_case(word)));
            }
            Token::Symbol => operators += usize::from(!matches!(first, ',' | '.')),
            Token::Open => depth += 1,
            Token::Close => depth = depth.saturating_sub(1),
            Token::Literal if first == '\'' && word_end == Some(at) => {
                // Why: X'…', E'…' and U&'…' are other things on the other database, and end elsewhere.
                return Err(SqlError::Refused(
                    "a literal with letters before its quote; write '…', and pass bytes as a parameter"
                        .into(),
                ));
            }
            Token::Quoted(_) if first != '"' => {
                return Err(SqlError::Refused(format!("a name in {first}; write it in \"…\"")));
            }
            _ => {}
        }
        word_end = match token {
            Token::Word(word) => Some(at + word.len()),
            Token::Symbol if first == '&' => Some(at + 1),
            _ => None,
        };
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

/// Looks at every part of a statement; the first that is not portable ends it, with the reason.
struct Portable {
    /// Statements that may still come: those inside another are PostgreSQL's alone.
    left: usize,
}

fn refuse(what: impl Into<String>) -> ControlFlow<String> {
    Break(what.into())
}

/// Goes on if all is well.
fn unless(is_wrong: bool, what: &str) -> ControlFlow<String> {
    if is_wrong { refuse(what) } else { Continue(()) }
}

impl Visitor for Portable {
    type Break = String;

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<String> {
        unless(self.left == 0, "a statement inside another; only SELECT may stand there")?;
        self.left = self.left.saturating_sub(1);
        match statement {
            Statement::Query(_) => Continue(()),
            Statement::Insert(insert) => {
                unless(
                    !matches!(insert.table, TableObject::TableName(_)),
                    "INSERT into something other than a table",
                )?;
                unless(!insert.into, "INSERT without INTO")?;
                let on_conflict = matches!(insert.on, None | Some(OnInsert::OnConflict(_)));
                unless(
                    !on_conflict || insert.overwrite || insert.replace_into || insert.ignore,
                    "this form of INSERT",
                )?;
                unless(insert.has_table_keyword || insert.partitioned.is_some(), "this form of INSERT")
            }
            Statement::Update(update) => {
                unless(update.limit.is_some() || !update.order_by.is_empty(), "UPDATE with ORDER BY or LIMIT")
            }
            Statement::Delete(delete) => {
                unless(delete.using.is_some(), "DELETE … USING; write WHERE … IN (SELECT …)")?;
                unless(
                    delete.limit.is_some() || !delete.order_by.is_empty(),
                    "DELETE with ORDER BY or LIMIT",
                )?;
                unless(!delete.tables.is_empty(), "DELETE from several tables")
            }
            _ => refuse("a statement is a SELECT, INSERT, UPDATE or DELETE"),
        }
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<String> {
        unless(!query.locks.is_empty(), "FOR UPDATE and the like; a transaction is serialisable without")?;
        unless(query.fetch.is_some(), "FETCH; write LIMIT")?;
        unless(query.for_clause.is_some() || query.settings.is_some(), "this form of SELECT")?;
        unless(query.format_clause.is_some() || !query.pipe_operators.is_empty(), "this form of SELECT")?;
        let is_plain = match &query.limit_clause {
            Some(LimitClause::LimitOffset { limit_by, limit, .. }) => limit_by.is_empty() && limit.is_some(),
            Some(_) => false,
            None => true,
        };
        unless(!is_plain, "this form of LIMIT; write LIMIT … OFFSET …")?;
        let mut body = &*query.body;
        // The right side of a set operation that has one of its own is in parentheses, and so a query.
        while let SetExpr::SetOperation { left, right, .. } = body {
            unless(!is_plain_set(right), "this kind of query")?;
            body = left;
        }
        unless(!is_plain_set(body), "this kind of query")
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<String> {
        unless(select.into.is_some(), "SELECT … INTO")?;
        unless(matches!(select.distinct, Some(Distinct::On(_))), "DISTINCT ON")?;
        unless(
            select.top.is_some() || select.qualify.is_some() || select.prewhere.is_some(),
            "this form of SELECT",
        )?;
        unless(!matches!(select.flavor, SelectFlavor::Standard), "a query without SELECT at its head")?;
        unless(!select.lateral_views.is_empty() || !select.connect_by.is_empty(), "this form of SELECT")
    }

    fn pre_visit_group_by(&mut self, group_by: &GroupByExpr) -> ControlFlow<String> {
        match group_by {
            GroupByExpr::Expressions(_, modifiers) if modifiers.is_empty() => Continue(()),
            _ => refuse("this form of GROUP BY"),
        }
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<String> {
        match name.0.as_slice() {
            [ObjectNamePart::Identifier(_)] => Continue(()),
            _ => refuse(format!("`{name}`: name a table without its schema")),
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<String> {
        match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                refuse(format!("`{name}` is a function in the place of a table"))
            }
            TableFactor::Table { with_ordinality, sample, version, json_path, .. } => {
                let foreign =
                    *with_ordinality || sample.is_some() || version.is_some() || json_path.is_some();
                unless(foreign, "this form of a table")
            }
            TableFactor::Derived { lateral, sample, .. } => {
                unless(*lateral || sample.is_some(), "LATERAL and TABLESAMPLE")
            }
            TableFactor::NestedJoin { .. } => Continue(()),
            _ => refuse("a function in the place of a table"),
        }
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<String> {
        match expression {
            Expr::Identifier(name) => column(name),
            Expr::CompoundIdentifier(names) => {
                unless(names.len() > 2, "a column is named as column or table.column")?;
                names.last().map_or(Continue(()), column)
            }
            Expr::Value(value) => literal(&value.value),
            Expr::BinaryOp { op, .. } => {
                unless(!is_operator(op), &format!("the operator `{op}`, which not every database has"))
            }
            Expr::UnaryOp { op, .. } => {
                use UnaryOperator::{BitwiseNot, Minus, Not, Plus};
                unless(!matches!(op, Plus | Minus | Not | BitwiseNot), &format!("the operator `{op}`"))
            }
            Expr::Cast { kind, data_type, format, .. } => {
                unless(
                    !matches!(kind, CastKind::Cast) || format.is_some(),
                    "this form of a cast; write CAST(… AS …)",
                )?;
                cast_to(data_type)
            }
            Expr::Function(call) => function(call),
            Expr::Substring { special, substring_from, .. } => {
                unless(!special && substring_from.is_some(), "SUBSTRING(… FROM …); write substr(…, …)")
            }
            Expr::Trim { trim_where, trim_what, .. } => unless(
                trim_where.is_some() || trim_what.is_some(),
                "TRIM(… FROM …); write trim(…, …), ltrim or rtrim",
            ),
            Expr::Like { any, .. } => unless(*any, "LIKE ANY"),
            Expr::IsFalse(_)
            | Expr::IsNotFalse(_)
            | Expr::IsTrue(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsDistinctFrom(..)
            | Expr::IsNotDistinctFrom(..)
            | Expr::InList { .. }
            | Expr::InSubquery { .. }
            | Expr::Between { .. }
            | Expr::Nested(_)
            | Expr::Case { .. }
            | Expr::Exists { .. }
            | Expr::Subquery(_)
            | Expr::Tuple(_) => Continue(()),
            Expr::ILike { .. } | Expr::SimilarTo { .. } | Expr::RLike { .. } => {
                refuse("another kind of pattern than LIKE's")
            }
            Expr::Extract { .. } => refuse("the function `extract` is not on the list of allowed functions"),
            Expr::Ceil { .. } => refuse("the function `ceil` is not on the list of allowed functions"),
            Expr::Floor { .. } => refuse("the function `floor` is not on the list of allowed functions"),
            Expr::Position { .. } => {
                refuse("the function `position` is not on the list of allowed functions")
            }
            Expr::Overlay { .. } => refuse("the function `overlay` is not on the list of allowed functions"),
            Expr::Collate { .. } => refuse("COLLATE: collations differ between databases"),
            _ => refuse("an expression that not every database has"),
        }
    }
}

/// Whether this is a SELECT, VALUES or a query in parentheses.
fn is_plain_set(body: &SetExpr) -> bool {
    matches!(
        body,
        SetExpr::Select(_)
            | SetExpr::Query(_)
            | SetExpr::Values(_)
            | SetExpr::SetOperation { .. }
            | SetExpr::Insert(_)
            | SetExpr::Update(_)
            | SetExpr::Delete(_)
    )
}

fn column(name: &Ident) -> ControlFlow<String> {
    let is = |word: &&str| name.value.eq_ignore_ascii_case(word);
    if name.quote_style.is_none() && SESSION.iter().any(&is) {
        return refuse(format!("`{name}` is not a column; take it in the module and pass it as a parameter"));
    }
    unless(SYSTEM_COLUMNS.iter().any(is), &format!("`{name}`: the database's own columns"))
}

fn literal(value: &Value) -> ControlFlow<String> {
    let is_plain = matches!(
        value,
        Value::Number(..)
            | Value::SingleQuotedString(_)
            | Value::Boolean(_)
            | Value::Null
            | Value::Placeholder(_)
    );
    unless(!is_plain, &format!("the literal {value}, which not every database has; pass it as a parameter"))
}

fn is_operator(operator: &BinaryOperator) -> bool {
    use BinaryOperator as Op;
    matches!(
        operator,
        Op::Plus
            | Op::Minus
            | Op::Multiply
            | Op::Divide
            | Op::Modulo
            | Op::StringConcat
            | Op::Gt
            | Op::Lt
            | Op::GtEq
            | Op::LtEq
            | Op::Eq
            | Op::NotEq
            | Op::And
            | Op::Or
            | Op::BitwiseOr
            | Op::BitwiseAnd
            | Op::PGBitwiseShiftLeft
            | Op::PGBitwiseShiftRight
    )
}

fn cast_to(data_type: &DataType) -> ControlFlow<String> {
    let is_plain = matches!(
        data_type,
        DataType::Text
            | DataType::BigInt(None)
            | DataType::Integer(None)
            | DataType::Int(None)
            | DataType::SmallInt(None)
            | DataType::DoublePrecision
            | DataType::Double(ExactNumberInfo::None)
            | DataType::Boolean
            | DataType::Bytea
    );
    unless(
        !is_plain,
        &format!(
            "the cast to {data_type}; write one to TEXT, BIGINT, INTEGER, SMALLINT, DOUBLE PRECISION, BOOLEAN or BYTEA"
        ),
    )
}

fn function(call: &Function) -> ControlFlow<String> {
    let [ObjectNamePart::Identifier(name)] = call.name.0.as_slice() else {
        return refuse(format!("`{}`: name a function without its schema", call.name));
    };
    if let Err(reason) = allowed_function(&name.value) {
        return refuse(reason);
    }
    let foreign = call.uses_odbc_syntax || !call.within_group.is_empty() || call.null_treatment.is_some();
    unless(foreign || !matches!(call.parameters, FunctionArguments::None), "this form of a call")?;
    match &call.args {
        FunctionArguments::List(_) => Continue(()),
        _ => refuse(format!("`{name}` without arguments in parentheses")),
    }
}
