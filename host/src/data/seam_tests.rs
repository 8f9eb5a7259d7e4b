//! What the seam promises, tried on either database.

use super::both::{Kind, Place, count, is_invalid, is_refused, on_both, shop, shop_with, soon, text, within};
use super::*;

on_both! {
    text_the_host_has_said_is_screened_for_a_module,
    host_writes_in_the_modules_transaction,
    parameters_are_counted,
    values_no_database_takes_are_invalid,
    like_minds_case,
    boolean_columns_give_booleans,
    broken_constraints_name_their_kind,
    deferred_constraint_fails_the_commit,
    write_with_too_large_a_result_changes_nothing,
    past_deadline_runs_nothing,
    commit_past_its_deadline_changes_nothing,
    transaction_stands_whole_after_commit,
    dropped_transaction_is_rolled_back_and_frees_the_writer,
    any_error_dooms_the_transaction,
    readers_never_see_half_a_transaction,
    ordinary_sql_is_let_through,
    values_come_back_as_they_went,
    everything_else_is_refused_by_name,
    results_beyond_the_limits_are_too_large,
    hundred_parameters_fit,
    parameters_go_to_their_numbers,
    sixty_four_writers_all_succeed,
    nested_part_is_kept_or_rolled_back_alone,
    error_dooms_the_nested_part_alone,
    error_after_a_nested_part_dooms_all,
    nesting_twice_or_leaving_none_is_a_mistake_that_changes_nothing,
    transaction_that_ends_in_a_nested_part_is_rolled_back,
    deferred_constraint_of_a_part_rolled_back_does_not_fail_the_commit,
    many_rows_are_executed_as_one,
    host_reads_its_tables_and_writes_nothing_outside_transactions,
}

/// A shop with a pen alone.
async fn pen(kind: Kind) -> (Place, Database) {
    let (place, database) = shop(kind).await;
    database.execute("DELETE FROM items WHERE name = 'ink'", &[], soon()).await.unwrap();
    (place, database)
}

async fn add(transaction: &mut Transaction, name: &str) -> Result<u64, SqlError> {
    transaction.execute("INSERT INTO items (name) VALUES ($1)", &[Value::Text(name.to_owned())]).await
}

async fn names(database: &Database) -> String {
    let read = "SELECT coalesce(string_agg(name, ' ' ORDER BY id), '') FROM items";
    match &database.query(read, &[], soon()).await.unwrap().rows[0][0] {
        Value::Text(names) => names.clone(),
        other => panic!("{other:?}"),
    }
}

fn is_unique(result: &Result<u64, SqlError>) -> bool {
    matches!(result, Err(SqlError::Violates { .. }))
}

async fn text_the_host_has_said_is_screened_for_a_module(kind: Kind) {
    let (_place, database) = shop(kind).await;
    let sql = "SELECT count(*) FROM cleave_migrations";
    let mut transaction = database.begin(soon()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(transaction.host_query(sql, &[]).await.unwrap().rows, vec![vec![Value::Integer(1)]]);
    }
    let error = transaction.query(sql, &[]).await.unwrap_err();
    assert!(is_refused(&error, "cleave_"), "{error}");
    let mut transaction = database.begin(soon()).await.unwrap();
    assert!(transaction.query(sql, &[]).await.is_err());
}

async fn host_writes_in_the_modules_transaction(kind: Kind) {
    let (_place, database) = shop(kind).await;
    let set = "UPDATE cleave_migrations SET applied_at = $1";
    let get = "SELECT applied_at FROM cleave_migrations";
    let mut transaction = database.begin(soon()).await.unwrap();
    transaction.execute("UPDATE items SET stock = 7", &[]).await.unwrap();
    assert_eq!(transaction.host_execute(set, &[Value::Integer(-1)]).await.unwrap(), 1);
    drop(transaction);
    let mut transaction = database.begin(soon()).await.unwrap();
    assert_ne!(transaction.host_query(get, &[]).await.unwrap().rows, vec![vec![Value::Integer(-1)]]);
    transaction.host_execute(set, &[Value::Integer(-1)]).await.unwrap();
    transaction.commit().await.unwrap();
    let mut transaction = database.begin(soon()).await.unwrap();
    assert_eq!(transaction.host_query(get, &[]).await.unwrap().rows, vec![vec![Value::Integer(-1)]]);
}

async fn parameters_are_counted(kind: Kind) {
    let (_place, database) = shop(kind).await;
    let one = [Value::Integer(1)];
    for (sql, part) in [
        ("SELECT ?", "not `?`"),
        ("SELECT ?1", "not `?1`"),
        ("SELECT :a", "not `:a`"),
        ("SELECT @a", "not `@a`"),
        ("SELECT #a", "not `#a`"),
        ("SELECT $a", "not `$a`"),
        ("SELECT $0", "not `$0`"),
        ("SELECT $01", "not `$01`"),
        ("SELECT $1a", "not `$1a`"),
        ("SELECT $1(x)", "not `$1`"),
        ("SELECT $1::text", "CAST"),
        ("SELECT $", "not `$`"),
        ("SELECT $99999999999999999999999", "not `$9999"),
        ("SELECT $101", "at most 100"),
        ("SELECT $2", "$1 is not used"),
        ("SELECT $1, $3", "$2 is not used"),
        ("SELECT 1", "takes 0 parameters and 1 values"),
        ("SELECT $1, $2", "takes 2 parameters and 1 values"),
    ] {
        for _ in 0..2 {
            let error = database.query(sql, &one, soon()).await.unwrap_err();
            assert!(is_invalid(&error, part), "{sql}: {error:?}");
        }
    }
}

async fn values_no_database_takes_are_invalid(kind: Kind) {
    let (_place, database) = shop(kind).await;
    for value in
        [Value::Real(f64::NAN), Value::Real(f64::INFINITY), Value::Real(f64::NEG_INFINITY), text("a\0b")]
    {
        let error = database.query("SELECT $1", &[value], soon()).await.unwrap_err();
        assert!(is_invalid(&error, "$1"), "{error}");
    }
}

async fn like_minds_case(kind: Kind) {
    let (_place, database) = shop(kind).await;
    assert_eq!(count(&database, "SELECT count(*) FROM items WHERE name LIKE 'P%'").await, 0);
    assert_eq!(count(&database, "SELECT count(*) FROM items WHERE name LIKE 'p%'").await, 1);
}

async fn boolean_columns_give_booleans(kind: Kind) {
    let (_place, database) = shop(kind).await;
    let rows = database.query("SELECT done, id FROM items ORDER BY id", &[], soon()).await.unwrap().rows;
    assert_eq!(rows[0], [Value::Boolean(true), Value::Integer(1)]);
    assert_eq!(rows[1], [Value::Boolean(false), Value::Integer(2)]);
    let sql = "UPDATE items SET done = $1 WHERE done = $2 RETURNING done";
    let rows =
        database.query(sql, &[Value::Boolean(false), Value::Boolean(true)], soon()).await.unwrap().rows;
    assert_eq!(rows, [[Value::Boolean(false)]]);
}

async fn broken_constraints_name_their_kind(kind: Kind) {
    let (_place, database) = shop(kind).await;
    use ConstraintKind::*;
    database.execute("INSERT INTO notes (item) VALUES (1)", &[], soon()).await.unwrap();
    for (sql, expected) in [
        ("INSERT INTO items (name) VALUES ('pen')", Unique),
        ("INSERT INTO items (id, name) VALUES (1, 'x')", Unique),
        ("INSERT INTO items (name) VALUES (NULL)", NotNull),
        ("UPDATE items SET stock = -1", Check),
        ("INSERT INTO notes (item) VALUES (99)", ForeignKey),
        ("INSERT INTO parts (item) VALUES (99)", ForeignKey),
        ("DELETE FROM items WHERE id = 1", ForeignKey),
    ] {
        match database.execute(sql, &[], soon()).await.unwrap_err() {
            SqlError::Violates { kind, .. } => assert_eq!(kind, expected, "{sql}"),
            other => panic!("{sql}: {other:?}"),
        }
    }
    assert_eq!(count(&database, "SELECT count(*) FROM parts").await, 0);
}

async fn deferred_constraint_fails_the_commit(kind: Kind) {
    let (_place, database) = shop(kind).await;
    let mut transaction = database.begin(soon()).await.unwrap();
    transaction.execute("INSERT INTO parts (item) VALUES (99)", &[]).await.unwrap();
    let error = transaction.commit().await.unwrap_err();
    assert!(matches!(error, SqlError::Violates { kind: ConstraintKind::ForeignKey, .. }), "{error}");
    assert_eq!(count(&database, "SELECT count(*) FROM parts").await, 0);
}

async fn write_with_too_large_a_result_changes_nothing(kind: Kind) {
    let (_place, database) = shop_with(kind, Limits { rows_max: 5, ..Limits::default() }).await;
    let sql = "WITH RECURSIVE n (x) AS (SELECT 100 UNION ALL SELECT x + 1 FROM n WHERE x < 109)
        INSERT INTO items (id, name) SELECT x, CAST(x AS TEXT) FROM n RETURNING id";
    let error = database.query(sql, &[], soon()).await.unwrap_err();
    assert!(matches!(error, SqlError::TooLarge(_)), "{error}");
    assert_eq!(count(&database, "SELECT count(*) FROM items").await, 2);
}

async fn past_deadline_runs_nothing(kind: Kind) {
    let (_place, database) = shop(kind).await;
    let past = Instant::now();
    assert_eq!(database.execute("DELETE FROM items", &[], past).await, Err(SqlError::Deadline));
    assert_eq!(database.query("SELECT 1", &[], past).await, Err(SqlError::Deadline));
    assert!(matches!(database.begin(past).await, Err(SqlError::Deadline)));
}

async fn commit_past_its_deadline_changes_nothing(kind: Kind) {
    let (_place, database) = shop(kind).await;
    let deadline = within(50);
    let mut transaction = database.begin(deadline).await.unwrap();
    transaction.execute("DELETE FROM items", &[]).await.unwrap();
    tokio::time::sleep_until(deadline.into()).await;
    assert_eq!(transaction.commit().await, Err(SqlError::Deadline));
    assert_eq!(count(&database, "SELECT count(*) FROM items").await, 2);
}

async fn transaction_stands_whole_after_commit(kind: Kind) {
    let (_place, database) = shop(kind).await;
    let mut transaction = database.begin(soon()).await.unwrap();
    let insert = "INSERT INTO items (name) VALUES ($1)";
    assert_eq!(transaction.execute(insert, &[text("cap")]).await, Ok(1));
    let inside = transaction.query("SELECT count(*) FROM items", &[]).await.unwrap();
    assert_eq!(inside.rows, [[Value::Integer(3)]]);
    assert_eq!(count(&database, "SELECT count(*) FROM items").await, 2);
    transaction.commit().await.unwrap();
    assert_eq!(count(&database, "SELECT count(*) FROM items").await, 3);
}

async fn dropped_transaction_is_rolled_back_and_frees_the_writer(kind: Kind) {
    let (_place, database) = shop(kind).await;
    for _ in 0..3 {
        let mut transaction = database.begin(soon()).await.unwrap();
        transaction.execute("DELETE FROM items", &[]).await.unwrap();
        drop(transaction);
        assert_eq!(count(&database, "SELECT count(*) FROM items").await, 2);
    }
    assert_eq!(database.execute("UPDATE items SET stock = 1", &[], soon()).await, Ok(2));
}

async fn any_error_dooms_the_transaction(kind: Kind) {
    let (_place, database) = shop(kind).await;
    for (bad, given) in [
        ("SELECT nothing", vec![]),
        ("DROP TABLE items", vec![]),
        ("INSERT INTO items (name) VALUES ('pen')", vec![]),
        ("SELECT $1", vec![]),
        ("SELECT $1", vec![Value::Real(f64::NAN)]),
        ("SELECT 1", vec![]),
    ] {
        let mut transaction = database.begin(soon()).await.unwrap();
        transaction.execute("INSERT INTO items (name) VALUES ('cap')", &[]).await.unwrap();
        assert_ne!(transaction.execute(bad, &given).await.unwrap_err(), SqlError::Aborted);
        assert_eq!(count(&database, "SELECT count(*) FROM items").await, 2);
        // The writer is free already, while the doomed transaction is still held.
        assert_eq!(database.execute("UPDATE items SET stock = 1", &[], soon()).await, Ok(2));
        assert_eq!(transaction.query("SELECT 1", &[]).await, Err(SqlError::Aborted));
        assert_eq!(transaction.execute("DELETE FROM items", &[]).await, Err(SqlError::Aborted));
        assert_eq!(transaction.commit().await, Err(SqlError::Aborted));
    }
}

async fn readers_never_see_half_a_transaction(kind: Kind) {
    let (_place, database) = shop(kind).await;
    let writing = tokio::spawn({
        let database = database.clone();
        async move {
            for round in 0..60 {
                let mut transaction = database.begin(soon()).await.unwrap();
                for sql in [
                    "UPDATE items SET stock = stock + 1 WHERE id = 1",
                    "UPDATE items SET stock = stock + 1 WHERE id = 2",
                ] {
                    transaction.execute(sql, &[]).await.unwrap();
                    tokio::task::yield_now().await;
                }
                if round % 3 == 0 { drop(transaction) } else { transaction.commit().await.unwrap() }
            }
        }
    });
    while !writing.is_finished() {
        assert_eq!(count(&database, "SELECT max(stock) - min(stock) FROM items").await, 5);
    }
    writing.await.unwrap();
    assert_eq!(count(&database, "SELECT stock FROM items WHERE id = 1").await, 50);
}

async fn ordinary_sql_is_let_through(kind: Kind) {
    let (_place, database) = shop(kind).await;
    for sql in [
        "SELECT id, name FROM items WHERE id = 1",
        "select count(*) from ITEMS;",
        "  -- a comment\n SELECT 1 /* and */ ; -- another\n",
        "WITH c AS (SELECT 1 AS x) SELECT count(*) FROM c",
        "WITH \"c\" (x, y) AS NOT MATERIALIZED (SELECT 1, 2), d AS MATERIALIZED (SELECT 1) SELECT 1 FROM c, d",
        "SELECT (WITH c AS (SELECT 1) SELECT count(*) FROM c), 1 AS d FROM (SELECT 1 FROM items) AS e",
        "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 10) SELECT sum(x) FROM n",
        "SELECT name FROM names ORDER BY name LIMIT 1 OFFSET 1",
        "SELECT i.name, row_number() OVER (PARTITION BY done ORDER BY id), lag(id, 1) OVER (ORDER BY id) FROM items i",
        "SELECT upper(lower(trim(name))), substr(name, 1, 2), replace(name, 'p', 'q'), length(name) FROM items",
        "SELECT abs(-1), round(max(price)), coalesce(NULL, 1), nullif(1, 1), CAST(sum(stock) AS BIGINT), CAST(avg(stock) AS DOUBLE PRECISION), min(id), max(id) FROM items",
        "SELECT string_agg(name, ','), count(DISTINCT name) FILTER (WHERE id > 0) FROM items",
        "SELECT 1 WHERE 'abc' LIKE 'a%' ESCAPE '!' AND EXISTS (SELECT 1 FROM items) AND 1 IN (1, 2) AND 2 BETWEEN 1 AND 3",
        "SELECT CASE WHEN id IS DISTINCT FROM 1 THEN CAST(id AS TEXT) ELSE 'one' || name END FROM items",
        "SELECT a.id FROM items a LEFT JOIN parts p ON p.item = a.id CROSS JOIN items c",
        "SELECT id FROM items UNION SELECT id FROM parts EXCEPT SELECT 3",
        "SELECT x.n FROM (SELECT count(*) AS n FROM items) x",
        "INSERT INTO items (name) VALUES ('a'), ('b') RETURNING id, name, done",
        "INSERT INTO items (id, name, stock) VALUES (1, 'pen', 1) ON CONFLICT (id) DO UPDATE SET stock = items.stock + excluded.stock RETURNING stock",
        "INSERT INTO items (id, name) VALUES (1, 'pen') ON CONFLICT DO NOTHING RETURNING id",
        "UPDATE items SET stock = stock - 1 FROM (SELECT 1 AS k) AS s WHERE id = s.k RETURNING *",
        "WITH old AS (SELECT id FROM items WHERE id > 2) DELETE FROM items WHERE id IN (SELECT id FROM old) RETURNING id",
        "SELECT ';', '-- no comment', 'cleave_x', \"name\" FROM items",
    ] {
        if let Err(error) = database.query(sql, &[], soon()).await {
            panic!("{sql}: {error}");
        }
    }
    for sql in [
        "DELETE FROM parts",
        "UPDATE items SET stock = 1 WHERE id = (SELECT max(id) FROM items)",
        "WITH n AS (SELECT 'c' AS x) INSERT INTO items (name) SELECT x FROM n",
        "INSERT INTO notes DEFAULT VALUES",
    ] {
        if let Err(error) = database.execute(sql, &[], soon()).await {
            panic!("{sql}: {error}");
        }
    }
}

async fn values_come_back_as_they_went(kind: Kind) {
    let (_place, database) = shop(kind).await;
    let long = "x".repeat(100_000);
    for (id, name) in [
        "'; DROP TABLE items; --",
        "' OR '1'='1",
        "\"; DELETE FROM items; --",
        "Robert'); DROP TABLE students;--",
        "$1 ?1 :a @b %s %n {0} ${7*7} {{7*7}}",
        "\\'; --",
        "/* */ -- \r\n\t\u{b}",
        "\u{feff}\u{202e}\u{200b}\u{1f600}e\u{301}",
        "\u{10ffff}\u{1}\u{7f}",
        "NULL",
        "",
        &long,
    ]
    .into_iter()
    .enumerate()
    {
        let given = [Value::Integer(id as i64 + 100), text(name), Value::Blob(name.as_bytes().to_vec())];
        let insert = "INSERT INTO items (id, name, body) VALUES ($1, $2, $3)";
        database.execute(insert, &given, soon()).await.unwrap();
        let select = "SELECT id, name, body FROM items WHERE name = $1 AND body = $2";
        assert_eq!(database.query(select, &given[1..], soon()).await.unwrap().rows, [given.to_vec()]);
    }
    for bytes in [vec![], (0..=255).collect()] {
        let given = [Value::Blob(bytes)];
        let update = "UPDATE items SET body = $1 WHERE id = 1 RETURNING body";
        assert_eq!(database.query(update, &given, soon()).await.unwrap().rows, [given]);
    }
    for value in [
        Value::Integer(i64::MIN),
        Value::Integer(i64::MAX),
        Value::Real(-0.1),
        Value::Real(f64::MAX),
        Value::Real(5e-324),
        Value::Null,
    ] {
        // PostgreSQL takes a parameter of which nothing else is known for a text.
        let cast = match (kind, &value) {
            (Kind::Postgres, Value::Integer(_)) => "CAST($1 AS BIGINT)",
            (Kind::Postgres, Value::Real(_)) => "CAST($1 AS DOUBLE PRECISION)",
            _ => "$1",
        };
        let select = format!("SELECT {cast} AS v");
        let rows = database.query(&select, std::slice::from_ref(&value), soon()).await.unwrap();
        assert_eq!((rows.columns, rows.rows), (vec!["v".to_owned()], vec![vec![value]]));
    }
}

const REFUSED: &[(&str, &str)] = &[
    ("SELECT 1; SELECT 2", "second statement"),
    ("DELETE FROM parts; DROP TABLE items", "second statement"),
    ("SELECT 1;;", "second statement"),
    ("SELECT 1; -- x\n;", "second statement"),
    ("", "not nothing"),
    ("-- only a comment", "not nothing"),
    (";", "sign"),
    ("CREATE TABLE x (y INTEGER)", "CREATE"),
    ("CREATE TEMP TABLE x (y INTEGER)", "CREATE"),
    ("DROP TABLE items", "DROP"),
    ("ALTER TABLE items ADD COLUMN x", "ALTER"),
    ("CREATE INDEX i ON items (id)", "CREATE"),
    ("CREATE TRIGGER t AFTER INSERT ON items BEGIN SELECT 1; END", "CREATE"),
    ("PRAGMA table_info(items)", "PRAGMA"),
    ("PRAGMA query_only = OFF", "PRAGMA"),
    ("ATTACH ':memory:' AS m", "ATTACH"),
    ("DETACH main", "DETACH"),
    ("BEGIN", "BEGIN"),
    ("BEGIN IMMEDIATE", "BEGIN"),
    ("COMMIT", "COMMIT"),
    ("END", "END"),
    ("ROLLBACK", "ROLLBACK"),
    ("SAVEPOINT s", "SAVEPOINT"),
    ("RELEASE s", "RELEASE"),
    ("VACUUM", "VACUUM"),
    ("VACUUM INTO '/tmp/x'", "VACUUM"),
    ("ANALYZE", "ANALYZE"),
    ("REINDEX", "REINDEX"),
    ("EXPLAIN SELECT 1", "EXPLAIN"),
    ("EXPLAIN QUERY PLAN SELECT 1", "EXPLAIN"),
    ("VALUES (1)", "VALUES"),
    ("(SELECT 1)", "parenthesis"),
    ("REPLACE INTO items (id, name) VALUES (1, 'x')", "REPLACE"),
    ("WITH a AS (SELECT 1) REPLACE INTO items (id, name) VALUES (1, 'x')", "REPLACE"),
    ("INSERT OR REPLACE INTO items (id, name) VALUES (1, 'x')", "ON CONFLICT"),
    ("UPDATE OR FAIL items SET id = 1", "ON CONFLICT"),
    ("SELECT * FROM cleave_migrations", "cleave_"),
    ("SELECT * FROM \"CLEAVE_migrations\"", "cleave_"),
    ("SELECT * FROM [cleave_migrations]", "cleave_"),
    ("SELECT * FROM `cleave_migrations`", "cleave_"),
    ("SELECT * FROM 'cleave_migrations'", "cleave_"),
    ("SELECT * FROM --\rcleave_migrations", "carriage return"),
    ("SELECT 1 -- a\r, (SELECT 2)\n", "carriage return"),
    ("SELECT 1; --\r DELETE FROM items", "carriage return"),
    ("SELECT count(*) FROM 'cleave_migrations'", "cleave_"),
    ("SELECT * FROM main.cleave_migrations", "cleave_"),
    ("DELETE FROM cleave_migrations", "cleave_"),
    ("DELETE FROM 'cleave_migrations'", "cleave_"),
    ("UPDATE 'cleave_migrations' SET name = ''", "cleave_"),
    ("INSERT INTO 'cleave_migrations' VALUES (9, '', '', 0)", "cleave_"),
    ("INSERT INTO items (name) SELECT name FROM 'cleave_migrations'", "cleave_"),
    ("SELECT (SELECT max(version) FROM 'cleave_migrations')", "cleave_"),
    ("SELECT cleave_x FROM items", "cleave_"),
    ("SELECT pg_sleep(1)", "pg_"),
    ("SELECT * FROM pg_catalog.pg_tables", "pg_"),
    ("SELECT * FROM _sqlx_migrations", "_sqlx_"),
    ("SELECT * FROM sqlite_master", "sqlite_"),
    ("SELECT * FROM 'sqlite_master'", "sqlite_"),
    ("SELECT count(*) FROM 'sqlite_schema'", "sqlite_"),
    ("SELECT * FROM 'sqlite_temp_master'", "sqlite_"),
    ("SELECT * FROM pragma_table_info('items')", "pragma_table_info"),
    ("SELECT count(*) FROM pragma_database_list", "pragma_database_list"),
    ("SELECT 1 FROM pragma_query_only", "pragma_query_only"),
    ("SELECT * FROM json_each('[1]')", "json_each"),
    ("SELECT 1 FROM json_tree('[1]')", "json_tree"),
    ("SELECT count(*) FROM json_each", "json_each"),
    (
        "SELECT (SELECT max(1) FROM json_each), (WITH json_each AS (SELECT 1) SELECT 2 FROM json_each)",
        "json_each",
    ),
    ("SELECT * FROM dbstat", "dbstat"),
    ("SELECT count(*) FROM dbstat", "dbstat"),
    ("SELECT load_extension('x')", "load_extension"),
    ("SELECT randomblob(9)", "randomblob"),
    ("SELECT random()", "random"),
    ("SELECT zeroblob(9)", "zeroblob"),
    ("SELECT hex(name) FROM items", "hex"),
    ("SELECT ifnull(1, 2)", "coalesce"),
    ("SELECT iif(1, 2, 3)", "CASE"),
    ("SELECT group_concat(name) FROM items", "string_agg"),
    ("SELECT printf('%s', 1)", "printf"),
    ("SELECT datetime('now')", "datetime"),
    ("SELECT CURRENT_TIMESTAMP", "current_timestamp"),
    ("SELECT changes()", "changes"),
    ("SELECT last_insert_rowid()", "last_insert_rowid"),
    ("SELECT json('{}')", "json"),
    ("SELECT '{}' -> 'a'", "->"),
    ("SELECT 1 WHERE 'a' GLOB 'a'", "glob"),
    ("SELECT fts3_tokenizer('x')", "fts3_tokenizer"),
    ("INSERT INTO items (name) VALUES (char(65))", "char"),
    ("DELETE FROM items WHERE instr(name, 'p')", "instr"),
    ("INSERT INTO parts (item) VALUES (1) RETURNING random()", "random"),
];

async fn everything_else_is_refused_by_name(kind: Kind) {
    let (_place, database) = shop(kind).await;
    // A table that comes with SQLite is none in PostgreSQL, and so a mistake.
    let is_barred = |error: &SqlError, part: &str| {
        is_refused(error, part) || kind == Kind::Postgres && matches!(error, SqlError::Invalid(_))
    };
    for (sql, part) in REFUSED {
        for _ in 0..2 {
            let error = database.query(sql, &[], soon()).await.unwrap_err();
            assert!(is_barred(&error, part), "{sql}: {error:?}");
            let error = database.execute(sql, &[], soon()).await.unwrap_err();
            assert!(is_barred(&error, part), "{sql}: {error:?}");
            let mut transaction = database.begin(soon()).await.unwrap();
            let error = transaction.execute(sql, &[]).await.unwrap_err();
            assert!(is_barred(&error, part), "{sql}: {error:?}");
        }
    }
    assert_eq!(count(&database, "SELECT count(*) FROM items").await, 2);
}

async fn results_beyond_the_limits_are_too_large(kind: Kind) {
    let limits = Limits { rows_max: 10, result_bytes_max: 5_000, ..Limits::default() };
    let (_place, database) = shop_with(kind, limits).await;
    let numbers = |n: u32| {
        format!(
            "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < {n}) SELECT x FROM n"
        )
    };
    assert_eq!(database.query(&numbers(10), &[], soon()).await.unwrap().rows.len(), 10);
    let error = database.query(&numbers(11), &[], soon()).await.unwrap_err();
    assert!(matches!(&error, SqlError::TooLarge(why) if why.contains("10 rows")), "{error}");
    let error = database.query("SELECT $1", &[text(&"x".repeat(5_000))], soon()).await.unwrap_err();
    assert!(matches!(&error, SqlError::TooLarge(why) if why.contains("5000 bytes")), "{error}");
}

async fn hundred_parameters_fit(kind: Kind) {
    let (_place, database) = shop(kind).await;
    let sql = format!(
        "SELECT {}",
        (1..=100).map(|n| format!("CAST(${n} AS BIGINT)")).collect::<Vec<_>>().join(", ")
    );
    let given: Vec<_> = (0..100).map(Value::Integer).collect();
    assert_eq!(database.query(&sql, &given, soon()).await.unwrap().rows, [given]);
}

async fn parameters_go_to_their_numbers(kind: Kind) {
    let (_place, database) = shop(kind).await;
    let sql = "SELECT $2, CAST($1 AS BIGINT), $3, $2, '$4', \"name\" -- $5\n FROM items WHERE id = 1";
    for round in 0..3 {
        let given = [Value::Integer(round), text("two"), Value::Null];
        let rows = database.query(sql, &given, soon()).await.unwrap().rows;
        let expected =
            [text("two"), Value::Integer(round), Value::Null, text("two"), text("$4"), text("pen")];
        assert_eq!(rows, [expected.to_vec()]);
    }
}

async fn sixty_four_writers_all_succeed(kind: Kind) {
    let (_place, database) = shop(kind).await;
    let writers: Vec<_> = (0..64)
        .map(|n| {
            let database = database.clone();
            tokio::spawn(async move {
                let read = "SELECT stock FROM items WHERE id = 1";
                let write = "UPDATE items SET stock = $1 WHERE id = 1";
                if n % 2 == 0 {
                    return database
                        .execute("UPDATE items SET stock = stock + 1 WHERE id = 1", &[], soon())
                        .await;
                }
                loop {
                    let mut transaction = database.begin(soon()).await?;
                    let add = async {
                        let Value::Integer(stock) = transaction.query(read, &[]).await?.rows[0][0] else {
                            panic!("no stock");
                        };
                        tokio::task::yield_now().await;
                        transaction.execute(write, &[Value::Integer(stock + 1)]).await?;
                        transaction.commit().await
                    };
                    match add.await {
                        Err(SqlError::Conflict(_)) if kind == Kind::Postgres => {}
                        done => return done.map(|()| 1),
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        assert_eq!(writer.await.unwrap(), Ok(1));
    }
    assert_eq!(count(&database, "SELECT stock FROM items WHERE id = 1").await, 74);
}

async fn nested_part_is_kept_or_rolled_back_alone(kind: Kind) {
    let (_place, database) = pen(kind).await;
    let mut transaction = database.begin(soon()).await.unwrap();
    for (name, keep) in [("ink", true), ("cap", false), ("nib", true), ("ink", false)] {
        transaction.nest().await.unwrap();
        let _ = add(&mut transaction, name).await;
        transaction.unnest(keep).await.unwrap();
    }
    add(&mut transaction, "cup").await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(names(&database).await, "pen ink nib cup");
}

async fn error_dooms_the_nested_part_alone(kind: Kind) {
    let (_place, database) = pen(kind).await;
    for keep in [false, true] {
        let mut transaction = database.begin(soon()).await.unwrap();
        add(&mut transaction, if keep { "ink" } else { "cap" }).await.unwrap();
        transaction.nest().await.unwrap();
        add(&mut transaction, "lost").await.unwrap();
        assert!(is_unique(&add(&mut transaction, "pen").await));
        assert_eq!(add(&mut transaction, "late").await, Err(SqlError::Aborted));
        assert_eq!(transaction.query("SELECT 1", &[]).await, Err(SqlError::Aborted));
        assert_eq!(transaction.host_execute_many("DELETE FROM items", &[]).await, Err(SqlError::Aborted));
        assert_eq!(transaction.nest().await, Err(SqlError::TransactionOpen));
        assert_eq!(transaction.unnest(keep).await, if keep { Err(SqlError::Aborted) } else { Ok(()) });
        // Another part is possible, and the whole goes on.
        transaction.nest().await.unwrap();
        add(&mut transaction, if keep { "nib" } else { "cup" }).await.unwrap();
        transaction.unnest(true).await.unwrap();
        transaction.commit().await.unwrap();
    }
    assert_eq!(names(&database).await, "pen cap cup ink nib");
}

async fn error_after_a_nested_part_dooms_all(kind: Kind) {
    let (_place, database) = pen(kind).await;
    let mut transaction = database.begin(soon()).await.unwrap();
    transaction.nest().await.unwrap();
    add(&mut transaction, "ink").await.unwrap();
    transaction.unnest(true).await.unwrap();
    assert!(is_unique(&add(&mut transaction, "pen").await));
    assert_eq!(transaction.nest().await, Err(SqlError::Aborted));
    assert_eq!(transaction.unnest(false).await, Err(SqlError::Aborted));
    assert_eq!(transaction.commit().await, Err(SqlError::Aborted));
    assert_eq!(names(&database).await, "pen");
}

async fn nesting_twice_or_leaving_none_is_a_mistake_that_changes_nothing(kind: Kind) {
    let (_place, database) = pen(kind).await;
    let mut transaction = database.begin(soon()).await.unwrap();
    assert!(matches!(transaction.unnest(true).await, Err(SqlError::Invalid(_))));
    transaction.nest().await.unwrap();
    add(&mut transaction, "ink").await.unwrap();
    assert_eq!(transaction.nest().await, Err(SqlError::TransactionOpen));
    transaction.unnest(true).await.unwrap();
    assert!(matches!(transaction.unnest(false).await, Err(SqlError::Invalid(_))));
    transaction.commit().await.unwrap();
    assert_eq!(names(&database).await, "pen ink");
}

async fn transaction_that_ends_in_a_nested_part_is_rolled_back(kind: Kind) {
    let (_place, database) = pen(kind).await;
    for doomed in [false, true] {
        for commit in [false, true] {
            let mut transaction = database.begin(soon()).await.unwrap();
            add(&mut transaction, "ink").await.unwrap();
            transaction.nest().await.unwrap();
            add(&mut transaction, "cap").await.unwrap();
            assert!(!doomed || is_unique(&add(&mut transaction, "pen").await));
            if commit {
                assert_eq!(transaction.commit().await, Err(SqlError::TransactionOpen));
            } else {
                drop(transaction);
            }
            assert_eq!(names(&database).await, "pen");
        }
    }
}

async fn deferred_constraint_of_a_part_rolled_back_does_not_fail_the_commit(kind: Kind) {
    let (_place, database) = pen(kind).await;
    for keep in [false, true] {
        let mut transaction = database.begin(soon()).await.unwrap();
        add(&mut transaction, if keep { "cap" } else { "ink" }).await.unwrap();
        transaction.nest().await.unwrap();
        transaction.execute("INSERT INTO parts (item) VALUES (99)", &[]).await.unwrap();
        transaction.unnest(keep).await.unwrap();
        let done = transaction.commit().await;
        assert_eq!(matches!(done, Err(SqlError::Violates { .. })), keep, "{done:?}");
    }
    assert_eq!(names(&database).await, "pen ink");
}

async fn many_rows_are_executed_as_one(kind: Kind) {
    let (_place, database) = pen(kind).await;
    let insert = "INSERT INTO items (name, id) VALUES ($2, $1)";
    let row = |id: i64, name: &str| vec![Value::Integer(id), Value::Text(name.to_owned())];
    let mut transaction = database.begin(soon()).await.unwrap();
    assert_eq!(transaction.host_execute_many(insert, &[]).await, Ok(0));
    let rows = [row(5, "ink"), row(3, "cap"), row(4, "nib")];
    assert_eq!(transaction.host_execute_many(insert, &rows).await, Ok(3));
    let ids = [vec![Value::Integer(3)], vec![Value::Integer(77)], vec![Value::Integer(4)]];
    assert_eq!(transaction.host_execute_many("DELETE FROM items WHERE id = $1", &ids).await, Ok(2));
    transaction.nest().await.unwrap();
    assert!(is_unique(&transaction.host_execute_many(insert, &[row(8, "cup"), row(9, "pen")]).await));
    transaction.unnest(false).await.unwrap();
    for (sql, rows) in [
        (insert, vec![row(8, "cup"), vec![Value::Integer(9)]]),
        ("INSERT INTO items (id) VALUES ($1) RETURNING id", vec![vec![Value::Integer(9)]]),
        ("INSERT INTO items (price) VALUES ($1)", vec![vec![Value::Real(f64::NAN)]]),
    ] {
        transaction.nest().await.unwrap();
        let error = transaction.host_execute_many(sql, &rows).await.unwrap_err();
        assert!(matches!(error, SqlError::Invalid(_)), "{sql}: {error}");
        transaction.unnest(false).await.unwrap();
    }
    transaction.commit().await.unwrap();
    assert_eq!(names(&database).await, "pen ink");
}

async fn host_reads_its_tables_and_writes_nothing_outside_transactions(kind: Kind) {
    let (_place, database) = pen(kind).await;
    let mut transaction = database.begin(soon()).await.unwrap();
    transaction.execute("DELETE FROM items", &[]).await.unwrap();
    // Beside the writer: it sees what is committed.
    let read = "SELECT count(*) FROM cleave_migrations, items WHERE version = $1";
    let rows = database.host_query(read, &[Value::Integer(1)], soon()).await.unwrap();
    assert_eq!(rows.rows, [[Value::Integer(1)]]);
    drop(transaction);
    for sql in
        ["DELETE FROM items", "DELETE FROM items RETURNING id", "WITH n AS (SELECT 1) DELETE FROM items"]
    {
        let error = database.host_query(sql, &[], soon()).await.unwrap_err();
        assert!(matches!(error, SqlError::Refused(_)), "{error}");
    }
    assert!(database.query(read, &[Value::Integer(1)], soon()).await.is_err());
    let past = Instant::now();
    assert_eq!(database.host_query("SELECT 1", &[], past).await, Err(SqlError::Deadline));
    assert_eq!(names(&database).await, "pen");
}
