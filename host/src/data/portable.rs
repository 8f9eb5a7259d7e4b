//! Owns what SQL both databases have: a statement that passes here means the same on either.
//!
//! The text is parsed as PostgreSQL's, and everything that is found must be on a list: kinds of statement, of table, of
//! expression, operators, functions and types to cast to. What the parser knows and the lists do not is refused, so a
//! word of PostgreSQL's that nobody thought of here is refused too. `text` refuses what the databases would cut into
//! other words, and what only SQLite takes. `migrations` has the same lists for what makes tables.
//!
//! What depends on the tables is not looked at: a name that is not there, values of types that do not go together.

use std::ops::ControlFlow::{self, Break, Continue};

use sqlparser::ast::{
    BinaryOperator, CastKind, ConflictTarget, DataType, Delete, Distinct, DuplicateTreatment, Expr,
    FromTable, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArgumentList,
    FunctionArguments, GroupByExpr, Ident, Insert, JoinConstraint, JoinOperator, LimitClause, ObjectName,
    ObjectNamePart, OffsetRows, OnConflictAction, OnInsert, OrderBy, OrderByExpr, OrderByKind, OrderBySort,
    Query, Select, SelectFlavor, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, SetOperator,
    SetQuantifier, Statement, TableAlias, TableFactor, TableObject, TableWithJoins, UnaryOperator, Update,
    UpdateTableFromKind, Value, Visit, Visitor, With, visit_relations,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::SqlError;
use super::screen::{self, Reading, allowed_function, is_reserved};

pub(super) mod migrations;
#[cfg(test)]
mod tests;
mod text;

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
/// Reads a module's statement: one that may be said, and that both databases have.
pub(super) fn read(sql: &str) -> Result<Reading, SqlError> {
    let reading = screen::read(sql)?;
    check_statement(sql)?;
    Ok(reading)
}

/// Refuses a statement of a module's that not both databases have, or that may not be said.
pub(super) fn check_statement(sql: &str) -> Result<(), SqlError> {
    let statement = parse(sql, false)?;
    check_parsed(&statement).map_err(SqlError::Refused)
}

/// The one statement in a text.
fn parse(sql: &str, is_migration: bool) -> Result<Statement, SqlError> {
    text::check(sql, is_migration)?;
    let parser = Parser::new(&PostgreSqlDialect {}).with_recursion_limit(DEPTH_MAX * 2);
    let parsed = parser.try_with_sql(sql).and_then(|mut parser| parser.parse_statements());
    let statements = parsed.map_err(|error| match text::foreign_operator(sql) {
        Some(reason) => SqlError::Refused(reason),
        None => SqlError::Invalid(error.to_string().replace("sql parser error", "syntax error")),
    })?;
    match <[Statement; 1]>::try_from(statements) {
        Ok([statement]) => Ok(statement),
        Err(_) => Err(SqlError::Refused("send one statement at a time".into())),
    }
}

fn check_parsed(statement: &Statement) -> Result<(), String> {
    // The parser takes what follows WITH for a part of a query.
    let is_with =
        |query: &Query| matches!(&*query.body, SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_));
    let expected = if matches!(statement, Statement::Query(query) if is_with(query)) { 2 } else { 1 };
    check_part(statement, expected)
}

/// Looks at a part of a statement, in which so many statements may stand.
fn check_part(part: &impl Visit, statements: usize) -> Result<(), String> {
    match part.visit(&mut Portable { left: statements }) {
        Continue(()) => Ok(()),
        Break(reason) => Err(reason),
    }
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
            Statement::Insert(insert) => inserted(insert),
            Statement::Update(update) => updated(update),
            Statement::Delete(delete) => deleted(delete),
            _ => refuse("a statement is a SELECT, INSERT, UPDATE or DELETE"),
        }
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<String> {
        unless(!query.locks.is_empty(), "FOR UPDATE and the like; a transaction is serialisable without")?;
        unless(query.fetch.is_some(), "FETCH; write LIMIT")?;
        unless(query.for_clause.is_some() || query.settings.is_some(), "this form of SELECT")?;
        unless(query.format_clause.is_some() || !query.pipe_operators.is_empty(), "this form of SELECT")?;
        let is_plain = match &query.limit_clause {
            Some(LimitClause::LimitOffset { limit_by, limit: Some(limit), offset }) => {
                let offset = offset.as_ref().filter(|o| o.rows != OffsetRows::None || is_negative(&o.value));
                limit_by.is_empty() && offset.is_none() && !is_negative(limit) && !is_null(limit)
            }
            Some(_) => false,
            None => true,
        };
        unless(!is_plain, "this form of LIMIT; write LIMIT … OFFSET …")?;
        query.with.as_ref().map_or(Continue(()), defined)?;
        let mut body = &*query.body;
        while let SetExpr::SetOperation { left, op, set_quantifier, right } = body {
            unless(
                matches!(&**right, SetExpr::SetOperation { .. } | SetExpr::Query(_)),
                "parentheses in a set operation, or INTERSECT after another one; write SELECT … FROM (…) AS name",
            )?;
            unless(!is_simple(right), "this kind of query")?;
            let is_all = *set_quantifier == SetQuantifier::All && *op == SetOperator::Union;
            unless(
                !is_all && *set_quantifier != SetQuantifier::None,
                "this set operation; write UNION, UNION ALL, INTERSECT or EXCEPT",
            )?;
            body = left;
        }
        unless(!is_simple(body), "this kind of query")
    }

    fn pre_visit_order_by(&mut self, order_by: &OrderBy) -> ControlFlow<String> {
        unless(!matches!(order_by.kind, OrderByKind::Expressions(_)), "this form of ORDER BY")
    }

    fn pre_visit_order_by_expr(&mut self, by: &OrderByExpr) -> ControlFlow<String> {
        let is_foreign = matches!(by.options.sort, Some(OrderBySort::Using(_))) || by.with_fill.is_some();
        unless(is_foreign, "this form of ORDER BY; write ASC or DESC")
    }

    fn pre_visit_ident(&mut self, name: &Ident) -> ControlFlow<String> {
        unless(
            name.quote_style.is_some_and(|quote| quote != '"'),
            &format!("the name {name}; write it in \"…\""),
        )
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<String> {
        unless(select.into.is_some(), "SELECT … INTO")?;
        unless(matches!(select.distinct, Some(Distinct::On(_))), "DISTINCT ON")?;
        unless(
            select.top.is_some() || select.qualify.is_some() || select.prewhere.is_some(),
            "this form of SELECT",
        )?;
        unless(!matches!(select.flavor, SelectFlavor::Standard), "a query without SELECT at its head")?;
        unless(!select.lateral_views.is_empty() || !select.connect_by.is_empty(), "this form of SELECT")?;
        unless(select.projection.is_empty(), "SELECT of no columns")?;
        select.projection.iter().try_for_each(|item| match item {
            SelectItem::ExprWithAliases { .. }
            | SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::Expr(_), _) => {
                refuse("this form of a column of the result")
            }
            _ => Continue(()),
        })?;
        select.from.iter().try_for_each(joined)
    }

    fn pre_visit_group_by(&mut self, group_by: &GroupByExpr) -> ControlFlow<String> {
        match group_by {
            GroupByExpr::Expressions(by, modifiers) => {
                let is_plain = modifiers.is_empty() && !by.iter().any(|by| matches!(by, Expr::Tuple(_)));
                unless(!is_plain, "this form of GROUP BY")
            }
            GroupByExpr::All(_) => refuse("this form of GROUP BY"),
        }
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<String> {
        match name.0.as_slice() {
            [ObjectNamePart::Identifier(table)] => {
                let is_only = table.quote_style.is_none() && table.value.eq_ignore_ascii_case("ONLY");
                unless(is_only, "ONLY; leave it out")?;
                let refused = format!("`{table}`: a name of the host's or the database's");
                unless(is_reserved(&table.value), &refused)
            }
            _ => refuse(format!("`{name}`: name a table without its schema")),
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<String> {
        match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                refuse(format!("`{name}` is a function in the place of a table"))
            }
            TableFactor::Table {
                alias,
                with_ordinality,
                sample,
                version,
                json_path,
                with_hints,
                partitions,
                index_hints,
                ..
            } => {
                let foreign =
                    *with_ordinality || sample.is_some() || version.is_some() || json_path.is_some();
                let hinted = !with_hints.is_empty() || !partitions.is_empty() || !index_hints.is_empty();
                unless(foreign || hinted, "this form of a table")?;
                alias.as_ref().map_or(Continue(()), named)
            }
            TableFactor::Derived { lateral, sample, alias, .. } => {
                unless(*lateral || sample.is_some(), "LATERAL and TABLESAMPLE")?;
                match alias {
                    Some(alias) => named(alias),
                    None => refuse("a query in FROM without a name; write (…) AS name"),
                }
            }
            TableFactor::NestedJoin { table_with_joins, .. } => joined(table_with_joins),
            _ => refuse("a function in the place of a table"),
        }
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<String> {
        bound(expression)?;
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
                use UnaryOperator::{Minus, Not, Plus};
                // Why not `~`: PostgreSQL takes `~ a + b` for `~ (a + b)`.
                unless(!matches!(op, Plus | Minus | Not), &format!("the operator `{op}` before a value"))
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
                unless(!special && substring_from.is_some(), "SUBSTRING(… FROM …); write substr(…, …)")?;
                let begins_before = substring_from.as_ref().is_some_and(|from| is_negative(from));
                unless(begins_before, "substr from before the text; begin at 1 or later")
            }
            Expr::Trim { trim_where, trim_what, .. } => unless(
                trim_where.is_some() || trim_what.is_some(),
                "TRIM(… FROM …); write trim(…, …), ltrim or rtrim",
            ),
            Expr::Like { any, pattern, escape_char, .. } => {
                unless(*any, "LIKE ANY")?;
                like(pattern, escape_char.as_deref())
            }
            Expr::InList { list, .. } => {
                unless(list.is_empty(), "IN ()")?;
                unless(
                    list.iter().any(|value| matches!(value, Expr::Tuple(_))),
                    "IN with a list of rows; compare their columns one by one",
                )?;
                unless(matches!(list.as_slice(), [Expr::Subquery(_)]), "IN ((SELECT …)); write IN (SELECT …)")
            }
            Expr::IsFalse(_)
            | Expr::IsNotFalse(_)
            | Expr::IsTrue(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsDistinctFrom(..)
            | Expr::IsNotDistinctFrom(..)
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
            Expr::Collate { .. } => refuse("COLLATE: collations differ between databases"),
            _ => refuse(match function_of_words(expression) {
                Some(name) => format!("the function `{name}` is not on the list of allowed functions"),
                None => "an expression that not every database has".to_owned(),
            }),
        }
    }
}

/// The function that an expression calls by words of its own.
fn function_of_words(expression: &Expr) -> Option<&'static str> {
    match expression {
        Expr::Extract { .. } => Some("extract"),
        Expr::Ceil { .. } => Some("ceil"),
        Expr::Floor { .. } => Some("floor"),
        Expr::Position { .. } => Some("position"),
        Expr::Overlay { .. } => Some("overlay"),
        _ => None,
    }
}

fn inserted(insert: &Insert) -> ControlFlow<String> {
    unless(!matches!(insert.table, TableObject::TableName(_)), "INSERT into something other than a table")?;
    unless(!insert.into, "INSERT without INTO")?;
    unless(insert.or.is_some(), "INSERT OR; write ON CONFLICT instead")?;
    let foreign = insert.overwrite || insert.replace_into || insert.ignore || insert.has_table_keyword;
    unless(foreign || insert.partitioned.is_some() || insert.insert_alias.is_some(), "this form of INSERT")?;
    unless(!insert.assignments.is_empty(), "INSERT … SET; write VALUES")?;
    let conflict = match &insert.on {
        None => return Continue(()),
        Some(OnInsert::OnConflict(conflict)) => conflict,
        Some(_) => return refuse("this form of INSERT"),
    };
    unless(
        matches!(conflict.conflict_target, Some(ConflictTarget::OnConstraint(_))),
        "ON CONFLICT ON CONSTRAINT; name the columns",
    )?;
    unless(
        conflict.conflict_target.is_none() && matches!(conflict.action, OnConflictAction::DoUpdate(_)),
        "ON CONFLICT DO UPDATE without columns; write ON CONFLICT (…) DO UPDATE",
    )?;
    // Why: SQLite takes the ON for that of a join.
    let may_join = |query: &Query| {
        let Some(select) = query.body.as_select() else { return false };
        !select.from.is_empty() && select.selection.is_none()
    };
    let is_unclear = insert.source.as_ref().is_some_and(|source| may_join(source));
    unless(is_unclear, "ON CONFLICT after a SELECT without WHERE; write WHERE TRUE before it")
}

fn updated(update: &Update) -> ControlFlow<String> {
    unless(update.limit.is_some() || !update.order_by.is_empty(), "UPDATE with ORDER BY or LIMIT")?;
    unless(update.or.is_some(), "UPDATE OR; leave it out")?;
    unless(!update.table.joins.is_empty(), "UPDATE of a join; write UPDATE … SET … FROM")?;
    match &update.from {
        None => Continue(()),
        Some(UpdateTableFromKind::AfterSet(tables)) => tables.iter().try_for_each(joined),
        Some(UpdateTableFromKind::BeforeSet(_)) => refuse("FROM before SET"),
    }
}

fn deleted(delete: &Delete) -> ControlFlow<String> {
    unless(delete.using.is_some(), "DELETE … USING; write WHERE … IN (SELECT …)")?;
    unless(delete.limit.is_some() || !delete.order_by.is_empty(), "DELETE with ORDER BY or LIMIT")?;
    let is_one = match &delete.from {
        FromTable::WithFromKeyword(tables) => matches!(tables.as_slice(), [one] if one.joins.is_empty()),
        FromTable::WithoutKeyword(_) => return refuse("DELETE without FROM"),
    };
    unless(!is_one || !delete.tables.is_empty(), "DELETE from several tables")
}

/// What WITH defines: without RECURSIVE, PostgreSQL takes a name inside its own query for another table.
fn defined(with: &With) -> ControlFlow<String> {
    with.cte_tables.iter().try_for_each(|cte| {
        let name = &cte.alias.name.value;
        let is_itself = |table: &ObjectName| match table.0.as_slice() {
            [ObjectNamePart::Identifier(table)] => table.value.eq_ignore_ascii_case(name),
            _ => false,
        };
        let found =
            visit_relations(&cte.query, |table| if is_itself(table) { Break(()) } else { Continue(()) });
        unless(!with.recursive && found.is_break(), &format!("`{name}` within itself; write WITH RECURSIVE"))
    })
}

/// A table and those joined to it.
fn joined(tables: &TableWithJoins) -> ControlFlow<String> {
    use JoinOperator as Op;
    tables.joins.iter().try_for_each(|join| match &join.join_operator {
        Op::Join(on)
        | Op::Inner(on)
        | Op::Left(on)
        | Op::LeftOuter(on)
        | Op::Right(on)
        | Op::RightOuter(on)
        | Op::FullOuter(on) => {
            unless(matches!(on, JoinConstraint::None), "JOIN without ON; write CROSS JOIN, or a comma")
        }
        Op::CrossJoin(JoinConstraint::None) => Continue(()),
        Op::CrossJoin(_) => refuse("CROSS JOIN with ON; write JOIN"),
        _ => refuse("this kind of join"),
    })
}

fn named(alias: &TableAlias) -> ControlFlow<String> {
    unless(
        !alias.columns.is_empty() || alias.at.is_some(),
        "names of columns after a table's; name them in a SELECT, or with WITH",
    )
}

/// Whether this is one query, or one statement after WITH.
fn is_simple(body: &SetExpr) -> bool {
    use SetExpr as Set;
    matches!(body, Set::Select(_) | Set::Values(_) | Set::Insert(_) | Set::Update(_) | Set::Delete(_))
}

/// Refuses what binds otherwise on the other database, where there are no parentheses to say it.
fn bound(expression: &Expr) -> ControlFlow<String> {
    let is_negation = |e: &Expr| matches!(e, Expr::UnaryOp { op: UnaryOperator::Not, .. });
    let within = |e: &Expr| is_comparison(e) || is_negation(e);
    if is_comparison(expression) && operands(expression).into_iter().flatten().any(within) {
        return refuse("a comparison within a comparison; put the inner one in parentheses");
    }
    let Expr::BinaryOp { left, op, right } = expression else { return Continue(()) };
    let other = |operand: &Expr| match operand {
        Expr::BinaryOp { op: inner, .. } if *op == BinaryOperator::StringConcat => is_arithmetic(inner),
        Expr::BinaryOp { op: inner, .. } => is_arithmetic(op) && *inner == BinaryOperator::StringConcat,
        _ => false,
    };
    unless(other(left) || other(right), "`||` beside another operator; put one of them in parentheses")
}

fn is_arithmetic(operator: &BinaryOperator) -> bool {
    use BinaryOperator as Op;
    matches!(
        operator,
        Op::Plus
            | Op::Minus
            | Op::Multiply
            | Op::Divide
            | Op::Modulo
            | Op::BitwiseOr
            | Op::BitwiseAnd
            | Op::PGBitwiseShiftLeft
            | Op::PGBitwiseShiftRight
    )
}

fn is_comparison(expression: &Expr) -> bool {
    operands(expression).iter().any(Option::is_some)
}

/// What a comparison compares; nothing of any other expression.
fn operands(expression: &Expr) -> [Option<&Expr>; 3] {
    use BinaryOperator as Op;
    match expression {
        Expr::BinaryOp { left, op: Op::Eq | Op::NotEq | Op::Lt | Op::LtEq | Op::Gt | Op::GtEq, right }
        | Expr::IsDistinctFrom(left, right)
        | Expr::IsNotDistinctFrom(left, right)
        | Expr::Like { expr: left, pattern: right, .. } => [Some(left), Some(right), None],
        Expr::Between { expr, low, high, .. } => [Some(expr), Some(low), Some(high)],
        Expr::InList { expr, .. }
        | Expr::InSubquery { expr, .. }
        | Expr::IsNull(expr)
        | Expr::IsNotNull(expr)
        | Expr::IsTrue(expr)
        | Expr::IsNotTrue(expr)
        | Expr::IsFalse(expr)
        | Expr::IsNotFalse(expr) => [Some(expr), None, None],
        _ => [None; 3],
    }
}

fn is_null(expression: &Expr) -> bool {
    matches!(expression, Expr::Value(value) if value.value == Value::Null)
}

fn is_negative(expression: &Expr) -> bool {
    matches!(expression, Expr::UnaryOp { op: UnaryOperator::Minus, .. })
}

/// A pattern: PostgreSQL takes a backslash for an escape where none is named, SQLite for itself.
fn like(pattern: &Expr, escape: Option<&Expr>) -> ControlFlow<String> {
    match escape {
        None => unless(
            matches!(pattern, Expr::Value(value) if value.to_string().contains('\\')),
            "a backslash in a pattern of LIKE; say ESCAPE '…' after it",
        ),
        Some(escape) => {
            let is_one =
                |value: &Value| matches!(value, Value::SingleQuotedString(text) if text.chars().count() == 1);
            unless(
                !matches!(escape, Expr::Value(value) if is_one(&value.value)),
                "this ESCAPE; write one character in '…'",
            )
        }
    }
}

fn column(name: &Ident) -> ControlFlow<String> {
    let is = |word: &&str| name.value.eq_ignore_ascii_case(word);
    unless(is_reserved(&name.value), &format!("`{name}`: a name of the host's or the database's"))?;
    if name.quote_style.is_some() {
        return Continue(());
    }
    unless(is(&"default"), "DEFAULT in the place of a value; leave the column out")?;
    unless(
        SESSION.iter().any(is),
        &format!("`{name}` is not a column; take it in the module and pass it as a parameter"),
    )
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
    let compares = matches!(operator, Op::Gt | Op::Lt | Op::GtEq | Op::LtEq | Op::Eq | Op::NotEq);
    compares || is_arithmetic(operator) || matches!(operator, Op::StringConcat | Op::And | Op::Or)
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
            | DataType::Boolean
    );
    unless(
        !is_plain,
        &format!(
            "the cast to {data_type}; write one to TEXT, BIGINT, INTEGER, SMALLINT, DOUBLE PRECISION or BOOLEAN"
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
        FunctionArguments::List(list) => arguments(name, list),
        _ => refuse(format!("`{name}` without arguments in parentheses")),
    }
}

fn arguments(name: &Ident, list: &FunctionArgumentList) -> ControlFlow<String> {
    let function = name.value.to_ascii_lowercase();
    for argument in &list.args {
        match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(_)) => {}
            FunctionArg::Unnamed(FunctionArgExpr::Wildcard) if function == "count" => {}
            _ => return refuse(format!("this form of an argument of `{name}`")),
        }
    }
    let is_plain = |clause: &FunctionArgumentClause| matches!(clause, FunctionArgumentClause::OrderBy(_));
    unless(!list.clauses.iter().all(is_plain), &format!("this form of a call of `{name}`"))?;
    let is_distinct = matches!(list.duplicate_treatment, Some(DuplicateTreatment::Distinct));
    let count = list.args.len();
    unless(
        is_distinct && count > 1,
        "DISTINCT before several arguments; take the DISTINCT in a query of its own",
    )?;
    match function.as_str() {
        "like" => refuse("the function `like`; write … LIKE …"),
        "min" | "max" if count != 1 => refuse(format!("`{name}` of several values; write CASE WHEN")),
        "count" if count == 0 => refuse("count(); write count(*)"),
        "coalesce" if count < 2 => refuse("coalesce of one value"),
        _ => Continue(()),
    }
}
