//! Owns what migrations may say that are for both databases.
//!
//! A table is one on either when its columns hold the same values by their types, and its rules let the same rows in.
//! What is not on the lists here is for a file of each database's own. Each reason says how else to write it.

use sqlparser::ast::helpers::stmt_create_table::CreateTableBuilder;
use sqlparser::ast::{
    AlterTable, AlterTableOperation, CheckConstraint, ColumnDef, ColumnOption, ConstraintCharacteristics,
    CreateIndex, CreateTable, DataType, Expr, ForeignKeyConstraint, Ident, IndexColumn, NullsDistinctOption,
    ObjectName, ObjectNamePart, ObjectType, OrderByOptions, PrimaryKeyConstraint, RenameTableNameKind,
    Statement, TableConstraint, UnaryOperator, UniqueConstraint, Value,
};

use super::super::SqlError;
use super::{check_parsed, check_part, parse};

/// Words that cannot be names without quotes: PostgreSQL's that it keeps to itself, and SQLite's.
const WORDS: &str = " add all alter analyse analyze and any array as asc asymmetric authorization autoincrement \
    between binary both case cast check collate collation column commit concurrently constraint create cross \
    current_catalog current_date current_role current_schema current_time current_timestamp current_user default \
    deferrable delete desc distinct do drop else end escape except exists false fetch for foreign freeze from full \
    grant group having ilike in index initially inner insert intersect into is isnull join lateral leading left like \
    limit localtime localtimestamp natural not notnull null offset on only or order outer overlaps placing primary \
    references returning right select session_user set similar some symmetric system_user table tablesample then to \
    trailing transaction true union unique update user using values variadic verbose when where window with ";

/// Why a statement is not for both databases, and the line that it counts from, if that is not its first.
pub(in super::super) struct Reason {
    pub(in super::super) line: usize,
    pub(in super::super) problem: String,
}

/// Refuses a statement of a migration that does not mean the same on both databases.
pub(in super::super) fn check(sql: &str) -> Result<(), Reason> {
    let found = match parse(sql, true) {
        Ok(statement) => check_statement(&statement),
        Err(SqlError::Invalid(problem)) => return Err(unparsed(&problem)),
        Err(SqlError::Refused(problem) | SqlError::TooLarge(problem)) => Err(problem),
        Err(other) => Err(other.to_string()),
    };
    found.map_err(|problem| Reason { line: 0, problem })
}

/// What the parser says, with the place in it taken out.
fn unparsed(problem: &str) -> Reason {
    let (said, place) = problem.rsplit_once(" at Line: ").unwrap_or((problem, ""));
    let line = place.split(',').next().and_then(|line| line.parse::<usize>().ok()).unwrap_or(1);
    Reason { line: line.saturating_sub(1), problem: said.to_owned() }
}

fn check_statement(statement: &Statement) -> Result<(), String> {
    match statement {
        Statement::CreateTable(table) => create_table(table),
        Statement::CreateIndex(index) => create_index(index),
        Statement::AlterTable(change) => alter_table(change),
        Statement::Drop { object_type: kind @ (ObjectType::Table | ObjectType::Index), .. } => {
            drop_one(statement, *kind)
        }
        Statement::Query(_) | Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) => {
            check_parsed(statement)
        }
        other => {
            let words: Vec<_> = other.to_string().split_whitespace().take(2).map(str::to_owned).collect();
            Err(format!("{} is not of both databases alike", words.join(" ")))
        }
    }
}

fn unless(is_wrong: bool, what: &str) -> Result<(), String> {
    if is_wrong { Err(what.to_owned()) } else { Ok(()) }
}

fn create_table(table: &CreateTable) -> Result<(), String> {
    unless(table.without_rowid, "WITHOUT ROWID; leave it out")?;
    unless(table.strict, "STRICT; leave it out")?;
    unless(table.query.is_some(), "CREATE TABLE … AS; name the columns, then INSERT … SELECT")?;
    unless(table.temporary, "a temporary table")?;
    let plain = CreateTableBuilder::new(table.name.clone())
        .if_not_exists(table.if_not_exists)
        .columns(table.columns.clone())
        .constraints(table.constraints.clone())
        .build();
    unless(plain != *table, "this form of CREATE TABLE; write CREATE TABLE name (…) alone")?;
    name(&table.name)?;
    unless(table.columns.is_empty(), "a table without columns")?;
    table.columns.iter().try_for_each(column)?;
    table.constraints.iter().try_for_each(|rule| constraint(rule, &table.columns))
}

fn column(column: &ColumnDef) -> Result<(), String> {
    let about = |problem: String| format!("column `{}`: {problem}", column.name.value);
    word(&column.name)?;
    column_type(&column.data_type).map_err(about)?;
    let mut is_key = false;
    for option in &column.options {
        let looked = match &option.option {
            ColumnOption::NotNull | ColumnOption::Null => Ok(()),
            ColumnOption::Default(value) => default(value, &column.data_type),
            ColumnOption::PrimaryKey(key) => {
                is_key = true;
                primary_key(key)
            }
            ColumnOption::Unique(rule) => unique(rule),
            ColumnOption::Check(rule) => check_rule(rule),
            ColumnOption::ForeignKey(rule) => foreign_key(rule),
            ColumnOption::Generated { .. } | ColumnOption::Identity(_) => {
                Err("a generated column; make the value in the module, as an identity or a count".into())
            }
            ColumnOption::Collation(_) => Err("COLLATE: collations differ between databases".into()),
            other => Err(format!("`{other}` is not of both databases alike")),
        };
        looked.map_err(about)?;
    }
    unless(is_key && !is_not_null(column), "").map_err(|_| about(KEY_NULL.into()))
}

const KEY_NULL: &str = "a PRIMARY KEY takes NULL in SQLite; say NOT NULL too";

fn is_not_null(column: &ColumnDef) -> bool {
    column.options.iter().any(|option| option.option == ColumnOption::NotNull)
}

/// The types that hold the same values on both databases, by the same name.
fn column_type(data_type: &DataType) -> Result<(), String> {
    let instead = match data_type {
        DataType::BigInt(None)
        | DataType::Text
        | DataType::DoublePrecision
        | DataType::Boolean
        | DataType::Bytea => return Ok(()),
        DataType::Unspecified => return Err("it has no type; say one".into()),
        DataType::Integer(_) | DataType::Int(_) | DataType::SmallInt(_) | DataType::TinyInt(_) => {
            "BIGINT: it has fewer bits in PostgreSQL"
        }
        DataType::Real | DataType::Float(_) | DataType::Double(_) => "DOUBLE PRECISION",
        DataType::Blob(_) | DataType::Varbinary(_) | DataType::Binary(_) => "BYTEA, which SQLite takes too",
        DataType::Bool => "BOOLEAN",
        DataType::Varchar(_) | DataType::CharacterVarying(_) | DataType::Char(_) | DataType::Character(_) => {
            "TEXT, with CHECK (length(…) <= …): SQLite does not look at the length"
        }
        DataType::Numeric(_) | DataType::Decimal(_) | DataType::Dec(_) => {
            "BIGINT, and count in the smallest unit: SQLite keeps a REAL"
        }
        DataType::Timestamp(..) | DataType::Date | DataType::Time(..) | DataType::Datetime(_) => {
            "BIGINT, as milliseconds since 1970: SQLite has no such type"
        }
        DataType::Uuid | DataType::JSON | DataType::JSONB => "TEXT",
        DataType::Custom(name, _) if name.to_string().to_ascii_uppercase().ends_with("SERIAL") => {
            "BIGINT, and make the value in the module"
        }
        _ => "one of BIGINT, TEXT, DOUBLE PRECISION, BOOLEAN and BYTEA",
    };
    Err(format!("the type {data_type}; write {instead}"))
}

/// A literal of the column's type, as PostgreSQL wants it and SQLite would not mind.
fn default(value: &Expr, data_type: &DataType) -> Result<(), String> {
    let literal = match value {
        Expr::UnaryOp { op: UnaryOperator::Minus | UnaryOperator::Plus, expr } => expr,
        other => other,
    };
    let fits = match literal {
        Expr::Value(value) => match &value.value {
            Value::Null => true,
            Value::Number(number, _) => match data_type {
                DataType::BigInt(_) => number.chars().all(|c| c.is_ascii_digit()),
                other => *other == DataType::DoublePrecision,
            },
            Value::SingleQuotedString(_) => *data_type == DataType::Text,
            Value::Boolean(_) => *data_type == DataType::Boolean,
            _ => false,
        },
        _ => false,
    };
    unless(!fits, &format!("DEFAULT {value}; write a literal of the column's type, or set it in the module"))
}

fn constraint(constraint: &TableConstraint, columns: &[ColumnDef]) -> Result<(), String> {
    match constraint {
        TableConstraint::PrimaryKey(key) => {
            primary_key(key)?;
            let nullable = key.columns.iter().find_map(|part| {
                let Expr::Identifier(name) = &part.column.expr else { return None };
                let is_it = |column: &&ColumnDef| column.name.value.eq_ignore_ascii_case(&name.value);
                columns.iter().find(is_it).filter(|column| !is_not_null(column))
            });
            nullable.map_or(Ok(()), |column| Err(format!("column `{}`: {KEY_NULL}", column.name.value)))
        }
        TableConstraint::Unique(rule) => unique(rule),
        TableConstraint::Check(rule) => check_rule(rule),
        TableConstraint::ForeignKey(rule) => foreign_key(rule),
        other => Err(format!("`{other}` is not of both databases alike")),
    }
}

fn primary_key(key: &PrimaryKeyConstraint) -> Result<(), String> {
    let plain = key.index_name.is_none() && key.index_type.is_none() && key.include.is_empty();
    unless(!plain || !key.index_options.is_empty(), "this form of PRIMARY KEY")?;
    unless(is_deferrable(key.characteristics.as_ref()), "a PRIMARY KEY that is deferrable")?;
    key.columns.iter().try_for_each(plain_column)
}

fn unique(rule: &UniqueConstraint) -> Result<(), String> {
    let plain = rule.index_name.is_none() && rule.index_type.is_none() && rule.include.is_empty();
    unless(!plain || !rule.index_options.is_empty(), "this form of UNIQUE")?;
    unless(rule.nulls_distinct != NullsDistinctOption::None, "NULLS DISTINCT; leave it out")?;
    unless(is_deferrable(rule.characteristics.as_ref()), "UNIQUE that is deferrable")?;
    rule.columns.iter().try_for_each(plain_column)
}

fn is_deferrable(characteristics: Option<&ConstraintCharacteristics>) -> bool {
    characteristics.is_some_and(|said| said.deferrable == Some(true) || said.enforced.is_some())
}

fn check_rule(rule: &CheckConstraint) -> Result<(), String> {
    unless(rule.no_inherit || rule.enforced.is_some(), "this form of CHECK")?;
    check_part(&rule.expr, 0)
}

fn foreign_key(rule: &ForeignKeyConstraint) -> Result<(), String> {
    unless(rule.match_kind.is_some() || rule.index_name.is_some(), "this form of REFERENCES")?;
    let is_enforced = rule.characteristics.as_ref().is_none_or(|said| said.enforced.is_none());
    unless(!is_enforced, "this form of REFERENCES")?;
    name(&rule.foreign_table)
}

/// A column in an index, by its name alone.
fn plain_column(part: &IndexColumn) -> Result<(), String> {
    let is_plain = matches!(part.column.expr, Expr::Identifier(_))
        && part.column.options == OrderByOptions::default()
        && part.column.with_fill.is_none()
        && part.operator_class.is_none();
    unless(!is_plain, &format!("`{part}`; write the name of a column"))
}

fn create_index(index: &CreateIndex) -> Result<(), String> {
    unless(index.concurrently, "CONCURRENTLY; leave it out")?;
    let plain = CreateIndex {
        name: index.name.clone(),
        table_name: index.table_name.clone(),
        using: None,
        columns: index.columns.clone(),
        unique: index.unique,
        concurrently: false,
        r#async: false,
        if_not_exists: index.if_not_exists,
        include: Vec::new(),
        nulls_distinct: None,
        with: Vec::new(),
        predicate: index.predicate.clone(),
        index_options: Vec::new(),
        alter_options: Vec::new(),
    };
    unless(plain != *index, "this form of CREATE INDEX; write CREATE INDEX name ON table (…) WHERE …")?;
    match &index.name {
        Some(index) => name(index)?,
        None => return Err("an index without a name".into()),
    }
    name(&index.table_name)?;
    for part in &index.columns {
        let mut unsorted = part.clone();
        unsorted.column.options.sort = None;
        plain_column(&unsorted)?;
    }
    check_part(&index.columns, 0)?;
    index.predicate.as_ref().map_or(Ok(()), |predicate| check_part(predicate, 0))
}

fn alter_table(change: &AlterTable) -> Result<(), String> {
    let foreign = change.location.is_some() || change.on_cluster.is_some() || change.table_type.is_some();
    unless(change.if_exists || change.only || foreign, "this form of ALTER TABLE")?;
    name(&change.name)?;
    let [operation] = change.operations.as_slice() else {
        return Err("several changes in one ALTER TABLE; write one for each".into());
    };
    match operation {
        AlterTableOperation::AddColumn {
            if_not_exists: false, column_def, column_position: None, ..
        } => add_column(column_def),
        AlterTableOperation::RenameColumn { new_column_name, .. } => word(new_column_name),
        AlterTableOperation::RenameTable { table_name: RenameTableNameKind::To(to) } => name(to),
        _ => {
            Err("this ALTER TABLE; it may ADD COLUMN, RENAME COLUMN or RENAME TO, or make the table anew"
                .into())
        }
    }
}

/// A column for the rows that are there: SQLite adds fewer kinds than it makes.
fn add_column(added: &ColumnDef) -> Result<(), String> {
    column(added)?;
    let about = |problem: &str| Err(format!("column `{}`: {problem}", added.name.value));
    let given = added.options.iter().find_map(|option| match &option.option {
        ColumnOption::Default(value) if !matches!(value, Expr::Value(v) if v.value == Value::Null) => {
            Some(value)
        }
        _ => None,
    });
    for option in &added.options {
        match &option.option {
            ColumnOption::PrimaryKey(_) | ColumnOption::Unique(_) => {
                return about("a key cannot be added; make a UNIQUE INDEX");
            }
            ColumnOption::NotNull if given.is_none() => {
                return about("NOT NULL without a DEFAULT for the rows that are there");
            }
            ColumnOption::ForeignKey(_) if given.is_some() => {
                return about("REFERENCES with a DEFAULT, which SQLite does not add");
            }
            _ => {}
        }
    }
    Ok(())
}

fn drop_one(statement: &Statement, kind: ObjectType) -> Result<(), String> {
    let Statement::Drop { names, cascade, restrict, purge, temporary, table, .. } = statement else {
        return Ok(());
    };
    unless(*cascade || *restrict, "CASCADE and RESTRICT; drop what refers to it first")?;
    unless(*purge || *temporary || table.is_some(), &format!("this form of DROP {kind}"))?;
    match names.as_slice() {
        [one] => name(one),
        _ => Err(format!("several names in one DROP {kind}; write one for each")),
    }
}

fn name(name: &ObjectName) -> Result<(), String> {
    match name.0.as_slice() {
        [ObjectNamePart::Identifier(name)] => word(name),
        _ => Err(format!("`{name}`: name it without a schema")),
    }
}

fn word(name: &Ident) -> Result<(), String> {
    let is_kept =
        name.quote_style.is_none() && WORDS.contains(&format!(" {} ", name.value.to_ascii_lowercase()));
    unless(is_kept, &format!("`{name}` is a word of one of the databases; choose another name"))
}
