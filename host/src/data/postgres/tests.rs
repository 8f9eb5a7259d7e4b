//! What holds of PostgreSQL alone: roles, types, conflicts, a server that is away.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, Executor, PgConnection};

use super::super::both::postgres::PostgresServer;
use super::super::both::{
    Kind, Place, SHOP, count, is_invalid, new_database, parsed, shop, shop_with, soon, text, within,
};
use super::super::tests::dressed;
use super::super::{
    DataError, Database, Durability, Kind as Events, Limits, SqlError, Value, lease, list, outbox,
};
use super::Server;

async fn try_open(place: &Place, files: &[(&str, &str)]) -> Result<Database, String> {
    let opened = place.open_module("shop", files, Limits::default()).await;
    opened.map_err(|error| format!("{error}; {}", error.fix()))
}

async fn opening(url: &str, connections: usize) -> String {
    match Server::open(&parsed(url), "cleave", connections).await {
        Ok(_) => panic!("{url} was let through"),
        Err(error) => format!("{error}; {}", error.fix()),
    }
}

// Opening.

#[tokio::test]
async fn server_that_cannot_be_used_is_named_with_the_fix() {
    let url = new_database().await;
    for (wrong, part) in [
        (url.replace("the%20tests", "not%20the%20tests"), "password"),
        (url.replace("postgres:the", "nobody:the"), "password"),
        (format!("{url}_not_there"), "does not exist"),
        ("postgres://a:s3cret@127.0.0.1:1/b".to_owned(), "refused"),
    ] {
        let said = opening(&wrong, 1).await;
        assert!(said.contains(part) && said.contains("start the server, or correct the URL"), "{said}");
        assert!(
            !said.contains("tests own") && !said.contains("s3cret") && !said.contains("%20own"),
            "{said}"
        );
    }
    let said = opening(&url, 1_000).await;
    assert!(said.contains("1000 connections") && said.contains("`max_connections`"), "{said}");
    assert!(said.contains("`data.readers`"), "{said}");
}

#[tokio::test]
async fn user_who_may_not_make_roles_is_told_what_to_run() {
    let url = new_database().await;
    let mut postgres = PgConnection::connect(&url).await.unwrap();
    let user = url.rsplit('/').next().unwrap().to_owned();
    let make = format!("CREATE ROLE {user} LOGIN PASSWORD 'weak'; GRANT CREATE ON DATABASE {user} TO {user}");
    postgres.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(make))).await.unwrap();
    let weak = url.replace("postgres:the%20tests%20own@", &format!("{user}:weak@"));
    let server = Server::open(&parsed(&weak), "cleave", 1).await.unwrap();
    let error = Database::open_on(&server, "shop", None, Limits::default()).await.err().unwrap();
    assert!(error.fix().contains(&format!("ALTER ROLE \"{user}\" CREATEROLE")), "{error}; {}", error.fix());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_start_together_migrate_once() {
    let place = Place::new(Kind::Postgres).await;
    let files = [
        ("001_a.postgres.sql", "CREATE TABLE a (n BIGINT); SELECT pg_sleep(0.2); INSERT INTO a VALUES (1)"),
        ("001_a.sqlite.sql", "CREATE TABLE a (n BIGINT)"),
        ("002_b.sql", "INSERT INTO a VALUES (2);\n-- the end"),
    ];
    // The files are written once before they are read at the same time.
    drop(place.open_module("other", &files, Limits::default()).await.unwrap());
    let server = Server::open(place.url(), "cleave", 1).await.unwrap();
    let folder = place.dir.path().join("migrations");
    let open = || Database::open_on(&server, "shop", Some(&folder), Limits::default());
    let (one, two, three) = tokio::join!(open(), open(), open());
    for database in [one.unwrap(), two.unwrap(), three.unwrap()] {
        let rows = database.query("SELECT n FROM a ORDER BY n", &[], soon()).await.unwrap();
        assert_eq!(rows.rows, [[Value::Integer(1)], [Value::Integer(2)]]);
    }
}

#[tokio::test]
async fn failing_migration_names_its_line_and_leaves_nothing() {
    let place = Place::new(Kind::Postgres).await;
    let sqlite = ("001_a.sqlite.sql", "SELECT 1");
    for (text, line, part) in [
        ("CREATE TABLE a (n BIGINT);\n\nINSERT INTO a\n VALUES ('x')", "line 4", "invalid input syntax"),
        ("CREATE TABLE a (n BIGINT);\nCOMMIT", "line 2", "COMMIT is not for migrations"),
        ("\nSET ROLE postgres", "line 2", "SET is not for migrations"),
        ("CREATE TABLE public.a (n BIGINT)", "line 1", "permission denied"),
        ("CREATE SCHEMA a", "line 1", "permission denied"),
        ("CREATE ROLE a", "line 1", "permission denied"),
        ("DROP TABLE cleave_outbox", "line 1", "must be owner"),
        ("SELECT set_config('role', 'postgres', false)", "line 1", "permission denied"),
        ("DO $$ BEGIN COMMIT; END $$", "line 1", "invalid transaction termination"),
    ] {
        let said = try_open(&place, &[("001_a.postgres.sql", text), sqlite]).await.err().unwrap();
        assert!(said.contains(line) && said.contains(part) && said.contains("001_a.postgres.sql"), "{said}");
    }
    let database =
        try_open(&place, &[("001_a.postgres.sql", "CREATE TABLE a (n BIGINT)"), sqlite]).await.unwrap();
    assert_eq!(database.query("SELECT n FROM a", &[], soon()).await.unwrap().rows.len(), 0);
    drop(database);
    let said =
        try_open(&place, &[("001_a.postgres.sql", "CREATE TABLE b (n BIGINT)"), sqlite]).await.err().unwrap();
    assert!(said.contains("changed after it ran"), "{said}");
    let said = try_open(&place, &[]).await.err().unwrap();
    assert!(said.contains("is missing"), "{said}");
}

// Who may do what.

#[tokio::test]
async fn roles_reach_their_own_schema_alone() {
    let (place, _database) = shop(Kind::Postgres).await;
    drop(place.open_module("users", &SHOP, Limits::default()).await.unwrap());
    let server = Server::open(place.url(), "cleave", 1).await.unwrap();
    let users = server.place("users").await.unwrap();
    for (options, may_make) in [(users.writer(), false), (users.as_owner(), true)] {
        let mut connection = PgConnection::connect_with(&options).await.unwrap();
        connection.execute("SELECT count(*) FROM items").await.unwrap();
        for sql in [
            "SELECT * FROM cleave$shop.items",
            "DELETE FROM cleave$shop.items",
            "CREATE TABLE public.x (y BIGINT)",
            "CREATE TABLE cleave$shop.x (y BIGINT)",
            "CREATE SCHEMA x",
            "CREATE ROLE x",
            "SET ROLE postgres",
            "DROP TABLE cleave_outbox",
            "ALTER TABLE cleave_outbox ADD COLUMN x BIGINT",
            "COPY items TO '/tmp/x'",
            "SELECT pg_read_file('/etc/passwd')",
        ] {
            assert!(connection.execute(sql).await.is_err(), "{sql} was let through");
        }
        let made = connection.execute("CREATE TABLE x (y BIGINT); DROP TABLE x").await;
        assert_eq!(made.is_ok(), may_make, "{made:?}");
    }
}

#[tokio::test]
async fn no_two_modules_share_a_schema_or_a_role() {
    let place = Place::new(Kind::Postgres).await;
    let table = [("001_a.sql", "CREATE TABLE a (n BIGINT PRIMARY KEY)")];
    let folder = place.dir.path().join("migrations");
    drop(place.open_module("x", &table, Limits::default()).await.unwrap());
    drop(place.open_module("x-owner", &table, Limits::default()).await.unwrap());
    for (prefix, module) in [("shop_eu", "orders"), ("shop", "eu-orders")] {
        let server = Server::open(place.url(), prefix, 1).await.unwrap();
        let database = Database::open_on(&server, module, Some(&folder), Limits::default()).await.unwrap();
        assert_eq!(database.query("SELECT n FROM a", &[], soon()).await.unwrap().rows.len(), 0, "{module}");
        database.execute("INSERT INTO a (n) VALUES (1)", &[], soon()).await.unwrap();
    }
    let url = cleave_config::Database::Postgres(place.url().clone()).to_string();
    let mut postgres = PgConnection::connect(&url).await.unwrap();
    let roles = "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, concat(current_database(), '_')) \
        OR starts_with(rolname, concat(current_database(), '$'))";
    // Two for each of the four modules.
    assert_eq!(sqlx::query_scalar::<_, i64>(roles).fetch_one(&mut postgres).await.unwrap(), 8);
}

#[tokio::test]
async fn databases_with_like_names_share_no_roles() {
    let url = new_database().await;
    let mut postgres = PgConnection::connect(&url).await.unwrap();
    let own = url.rsplit('/').next().unwrap().to_owned();
    for name in [format!("{own}-1"), format!("{own}_1"), format!("{own}_1").to_uppercase()] {
        let make = format!("CREATE DATABASE \"{name}\"");
        postgres.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(make))).await.unwrap();
        let server = Server::open(&parsed(&url.replace(&own, &name)), "cleave", 1).await.unwrap();
        drop(Database::open_on(&server, "shop", None, Limits::default()).await.unwrap());
    }
    let roles =
        "SELECT count(*) FROM pg_roles WHERE lower(rolname) ~ concat('^', current_database(), '[-_]1[$_]')";
    assert_eq!(sqlx::query_scalar::<_, i64>(roles).fetch_one(&mut postgres).await.unwrap(), 6);
}

#[tokio::test]
async fn schema_that_was_not_made_for_the_module_is_refused() {
    let (place, database) = shop(Kind::Postgres).await;
    drop(database);
    let server = Server::open(place.url(), "cleave", 1).await.unwrap();
    let schema = server.place("shop").await.unwrap().schema;
    let mut postgres = administrator(&place, "shop").await;
    for mark in ["NULL", "'of another'"] {
        let mark = format!("COMMENT ON SCHEMA \"{schema}\" IS {mark}");
        postgres.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(mark))).await.unwrap();
        let said = try_open(&place, &SHOP).await.err().unwrap();
        assert!(said.contains(&schema) && said.contains("`data.prefix`"), "{said}");
    }
}

#[tokio::test]
async fn migration_may_not_take_names_of_the_hosts() {
    let place = Place::new(Kind::Postgres).await;
    let sqlite = ("001_a.sqlite.sql", "SELECT 1");
    for name in ["cleave_secrets", "\"Cleave_x\"", "sqlite_a", "_sqlx_a", "pg_a"] {
        for make in [
            "CREATE TABLE {} (n BIGINT)",
            "CREATE TABLE a (n BIGINT); ALTER TABLE a RENAME TO {}",
            "DO $$ BEGIN CREATE VIEW {} AS SELECT 1; END $$",
        ] {
            let text = make.replace("{}", name);
            let said = try_open(&place, &[("001_a.postgres.sql", &text), sqlite]).await.err();
            assert!(said.as_ref().is_some_and(|said| said.contains("are reserved")), "{text}: {said:?}");
        }
    }
    drop(try_open(&place, &[("001_a.postgres.sql", "CREATE TABLE a (n BIGINT)"), sqlite]).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_takes_no_writes_any_more_is_unavailable_until_it_does() {
    let (place, database) = shop(Kind::Postgres).await;
    let mut postgres = administrator(&place, "shop").await;
    let write = "UPDATE items SET stock = 1";
    database.execute(write, &[], soon()).await.unwrap();
    let name = place.url().database().to_owned();
    for (now, expected) in
        [("SET default_transaction_read_only = on", false), ("RESET default_transaction_read_only", true)]
    {
        let become_so = format!(
            "ALTER DATABASE \"{name}\" {now}; SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND {}",
            // What has met a server that takes no writes is given up by itself.
            !expected
        );
        postgres.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(become_so))).await.unwrap();
        let written = database.execute(write, &[], soon()).await;
        let lease = lease::take(&database, "relay", "me", Duration::from_secs(5), soon()).await.map(drop);
        match expected {
            true => assert_eq!((written, lease), (Ok(2), Ok(()))),
            false => {
                assert!(matches!(written, Err(SqlError::Unavailable(_))), "{written:?}");
                assert!(matches!(lease, Err(SqlError::Unavailable(_))), "{lease:?}");
            }
        }
    }
}

#[tokio::test]
async fn new_password_in_the_url_is_a_new_password_of_the_roles() {
    let (place, database) = shop(Kind::Postgres).await;
    drop(database);
    let url = cleave_config::Database::Postgres(place.url().clone()).to_string();
    let other = url.replace("postgres:the%20tests%20own@", "admin_of_roles:second@");
    let mut postgres = PgConnection::connect(&url).await.unwrap();
    postgres
        .execute("DO $$ BEGIN CREATE ROLE admin_of_roles SUPERUSER LOGIN PASSWORD 'second'; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
        .await
        .unwrap();
    let server = Server::open(&parsed(&other), "cleave", 1).await.unwrap();
    let folder = place.dir.path().join("migrations");
    let database = Database::open_on(&server, "shop", Some(&folder), Limits::default()).await.unwrap();
    assert_eq!(database.query("SELECT id FROM items", &[], soon()).await.unwrap().rows.len(), 2);
}

#[test]
fn no_dress_gets_a_refused_statement_through_in_postgres() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (place, database) = runtime.block_on(shop(Kind::Postgres));
    let url = cleave_config::Database::Postgres(place.url().clone()).to_string();
    let fingerprint = || {
        runtime.block_on(async {
            let mut postgres = PgConnection::connect(&url).await.unwrap();
            let all = "SELECT concat((SELECT count(*) FROM pg_class), '|', \
                (SELECT string_agg(m::text, ';') FROM cleave_migrations m), '|', \
                (SELECT string_agg(i::text, ';' ORDER BY id) FROM items i))";
            let schema: String = sqlx::query_scalar(
                "SELECT nspname::text FROM pg_namespace WHERE nspname IN ('cleave_shop', 'cleave$shop')",
            )
            .fetch_one(&mut postgres)
            .await
            .unwrap();
            let path = format!("SET search_path = \"{schema}\"");
            postgres.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(path))).await.unwrap();
            sqlx::query_scalar::<_, String>(all).fetch_one(&mut postgres).await.unwrap()
        })
    };
    let before = fingerprint();
    let cases = proptest::test_runner::Config {
        cases: 400,
        failure_persistence: None,
        ..proptest::test_runner::Config::default()
    };
    let dressed_up = |sql: String| {
        let done = runtime.block_on(async {
            let queried = database.query(&sql, &[], soon()).await.map(drop);
            [queried, database.execute(&sql, &[], soon()).await.map(drop)]
        });
        for done in done {
            let barred = matches!(done, Err(SqlError::Refused(_) | SqlError::Invalid(_)));
            proptest::prop_assert!(barred, "{done:?}");
        }
        Ok(())
    };
    proptest::test_runner::TestRunner::new(cases).run(&dressed(), dressed_up).unwrap();
    assert_eq!(fingerprint(), before);
}

// Types.

#[tokio::test]
async fn values_fit_their_types_or_are_refused() {
    let place = Place::new(Kind::Postgres).await;
    let table = "CREATE TABLE t (k BIGINT PRIMARY KEY, two SMALLINT, four INTEGER, eight BIGINT, single REAL,
        real DOUBLE PRECISION, truth BOOLEAN, word TEXT, short VARCHAR(3), bytes BYTEA, many NUMERIC, day DATE)";
    let files = [("001_t.postgres.sql", table), ("001_t.sqlite.sql", "SELECT 1")];
    let database = place.open_module("shop", &files, Limits::default()).await.unwrap();
    let all = "INSERT INTO t (k, two, four, eight, single, real, truth, word, short, bytes, many, day)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, NULL, NULL)";
    let null = || vec![Value::Null; 9];
    database.execute(all, &[vec![Value::Integer(1)], null()].concat(), soon()).await.unwrap();
    let (word, bytes) = (Value::Text("abc".into()), Value::Blob(vec![0, 255]));
    let row = vec![
        Value::Integer(2),
        Value::Integer(-32_768),
        Value::Integer(2_147_483_647),
        Value::Integer(i64::MIN),
        Value::Real(0.5),
        Value::Integer(7),
        Value::Boolean(true),
        word.clone(),
        word.clone(),
        bytes.clone(),
    ];
    database.execute(all, &row, soon()).await.unwrap();
    let select = "SELECT k, two, four, eight, single, real, truth, word, short, bytes FROM t ORDER BY k";
    let rows = database.query(select, &[], soon()).await.unwrap().rows;
    assert_eq!(rows[0], [vec![Value::Integer(1)], null()].concat());
    let mut expected = row.clone();
    expected[5] = Value::Real(7.0);
    assert_eq!(rows[1], expected);
    for (place, value, part) in [
        (1, Value::Integer(32_768), "$2 does not fit SMALLINT"),
        (2, Value::Integer(1 << 31), "$3 does not fit INTEGER"),
        (4, Value::Real(0.1), "CAST($5 AS DOUBLE PRECISION)"),
        (3, Value::Text("1".into()), "$4 is a text, and the database expects BIGINT"),
        (3, Value::Real(1.0), "CAST($4 AS DOUBLE PRECISION)"),
        (6, Value::Integer(1), "$7 is an integer, and the database expects BOOLEAN"),
        (7, Value::Integer(1), "CAST($8 AS BIGINT)"),
        (5, Value::Integer(i64::MAX), "CAST($6 AS BIGINT)"),
        (8, Value::Text("long".into()), "too long"),
    ] {
        let mut values = row.clone();
        values[0] = Value::Integer(3);
        values[place] = value;
        let error = database.execute(all, &values, soon()).await.unwrap_err();
        assert!(is_invalid(&error, part), "{error:?}");
    }
    for (sql, part) in [
        ("SELECT sum(eight) FROM t", "CAST(… AS BIGINT)"),
        ("SELECT many FROM t", "CAST(… AS BIGINT)"),
        ("SELECT day FROM t", "`day` is of the type DATE"),
        ("SELECT 1 / 0", "division by zero"),
        ("SELECT eight + 1 FROM t WHERE k = 2 AND eight - 1 < 0", "out of range"),
    ] {
        let error = database.query(sql, &[], soon()).await.unwrap_err();
        assert!(is_invalid(&error, part), "{sql}: {error:?}");
    }
    let error = database.query("SELECT k FROM t WHERE day = $1", &[word], soon()).await.unwrap_err();
    assert!(is_invalid(&error, "expects the type DATE; write CAST($1 AS TEXT)"), "{error:?}");
}

// Transactions.

#[tokio::test]
async fn transactions_that_no_order_explains_conflict() {
    let (_place, database) = shop(Kind::Postgres).await;
    let mut one = database.begin(soon()).await.unwrap();
    let mut two = database.begin(soon()).await.unwrap();
    let sum = "SELECT CAST(sum(stock) AS BIGINT) FROM items";
    for (transaction, id) in [(&mut one, 1), (&mut two, 2)] {
        assert_eq!(transaction.query(sum, &[]).await.unwrap().rows, [[Value::Integer(15)]]);
        let take = "UPDATE items SET stock = stock - 1 WHERE id = $1";
        transaction.execute(take, &[Value::Integer(id)]).await.unwrap();
    }
    one.commit().await.unwrap();
    assert!(matches!(two.commit().await, Err(SqlError::Conflict(_))));
    assert_eq!(database.query(sum, &[], soon()).await.unwrap().rows, [[Value::Integer(14)]]);
}

#[tokio::test]
async fn conflict_in_a_nested_part_ends_the_transaction() {
    let (_place, database) = shop(Kind::Postgres).await;
    let take = "UPDATE items SET stock = stock - 1 WHERE id = 1";
    let mut late = database.begin(soon()).await.unwrap();
    late.query("SELECT stock FROM items", &[]).await.unwrap();
    database.execute(take, &[], soon()).await.unwrap();
    late.nest().await.unwrap();
    assert!(matches!(late.execute(take, &[]).await, Err(SqlError::Conflict(_))));
    assert_eq!(late.unnest(false).await, Err(SqlError::Aborted));
    assert_eq!(late.commit().await, Err(SqlError::Aborted));
}

#[tokio::test]
async fn too_large_a_result_in_a_nested_part_fails_that_part_alone() {
    let limits = Limits { rows_max: 5, ..Limits::default() };
    let (_place, database) = shop_with(Kind::Postgres, limits).await;
    let many =
        "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 50000) SELECT x FROM n";
    let mut transaction = database.begin(soon()).await.unwrap();
    transaction.execute("UPDATE items SET stock = 3", &[]).await.unwrap();
    transaction.nest().await.unwrap();
    assert!(matches!(transaction.query(many, &[]).await, Err(SqlError::TooLarge(_))));
    transaction.unnest(false).await.unwrap();
    transaction.commit().await.unwrap();
    assert!(matches!(database.query(many, &[], soon()).await, Err(SqlError::TooLarge(_))));
    let rows = database.query("SELECT stock FROM items", &[], soon()).await.unwrap().rows;
    assert_eq!(rows, [[Value::Integer(3)], [Value::Integer(3)]]);
}

#[tokio::test]
async fn endless_statement_ends_at_its_deadline_and_takes_no_connection_with_it() {
    let limits = Limits { readers: 1, writers: 1, ..Limits::default() };
    let (_place, database) = shop_with(Kind::Postgres, limits).await;
    let endless = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x > 0) ";
    let read = format!("{endless} SELECT count(*) FROM n");
    let write = format!("{endless} INSERT INTO items (name) SELECT 'x' FROM n WHERE x < 0");
    for _ in 0..2 {
        let begun = Instant::now();
        assert_eq!(database.query(&read, &[], within(150)).await, Err(SqlError::Deadline));
        assert_eq!(database.execute(&write, &[], within(150)).await, Err(SqlError::Deadline));
        let mut transaction = database.begin(within(150)).await.unwrap();
        assert_eq!(transaction.query(&read, &[]).await, Err(SqlError::Deadline));
        assert_eq!(transaction.commit().await, Err(SqlError::Aborted));
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        let answer = database.query("SELECT count(*) FROM items", &[], soon()).await.unwrap();
        assert_eq!(answer.rows, [[Value::Integer(2)]]);
    }
}

#[tokio::test]
async fn readers_and_writers_have_their_own_connections() {
    let limits = Limits { readers: 1, writers: 1, ..Limits::default() };
    let (_place, database) = shop_with(Kind::Postgres, limits).await;
    let mut transaction = database.begin(soon()).await.unwrap();
    transaction.execute("UPDATE items SET stock = 1", &[]).await.unwrap();
    assert_eq!(database.query("SELECT 1", &[], soon()).await.unwrap().rows, [[Value::Integer(1)]]);
    assert_eq!(database.execute("DELETE FROM parts", &[], within(50)).await, Err(SqlError::Deadline));
    assert!(matches!(database.begin(within(50)).await, Err(SqlError::Deadline)));
    // The host's own work does not wait for the module's.
    let lease = lease::take(&database, "relay:x", "me", Duration::from_secs(5), within(2_000)).await;
    assert_eq!(lease, Ok(Some(1)));
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn lease_has_one_holder_among_processes() {
    let (place, one) = shop(Kind::Postgres).await;
    let two = place.open_module("shop", &SHOP, Limits::default()).await.unwrap();
    let length = Duration::from_secs(10);
    assert_eq!(lease::take(&one, "relay", "one", length, soon()).await, Ok(Some(1)));
    assert_eq!(lease::take(&two, "relay", "two", length, soon()).await, Ok(None));
    assert_eq!(lease::take(&one, "relay", "one", length, soon()).await, Ok(Some(1)));
    // A third that starts ends nobody's lease.
    let third = place.open_module("shop", &SHOP, Limits::default()).await.unwrap();
    assert_eq!(lease::take(&third, "relay", "three", length, soon()).await, Ok(None));
    for round in 0..20 {
        for (database, holder) in [(&one, "one"), (&two, "two"), (&third, "three")] {
            lease::release(database, "relay", holder, soon()).await.unwrap();
        }
        let (a, b, c) = tokio::join!(
            lease::take(&one, "relay", "one", length, soon()),
            lease::take(&two, "relay", "two", length, soon()),
            lease::take(&third, "relay", "three", length, soon()),
        );
        let fences: Vec<_> = [a, b, c].into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(fences, [round + 2]);
    }
}

/// A connection of whoever may do everything.
async fn administrator_of(place: &Place) -> PgConnection {
    let url = cleave_config::Database::Postgres(place.url().clone()).to_string();
    PgConnection::connect(&url).await.unwrap()
}

/// As [`administrator_of`], in the module's schema.
async fn administrator(place: &Place, module: &str) -> PgConnection {
    let mut postgres = administrator_of(place).await;
    let server = Server::open(place.url(), "cleave", 1).await.unwrap();
    let schema = server.place(module).await.unwrap().schema;
    let path = format!("SET search_path = \"{schema}\"");
    postgres.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(path))).await.unwrap();
    postgres
}

/// Waits until somebody waits for a lock of the database, or what may have to wait has ended.
async fn await_waiting<T>(place: &Place, work: &tokio::task::JoinHandle<T>) {
    let mut postgres = administrator_of(place).await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let begun = Instant::now();
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut postgres).await.unwrap() == 0 {
        if work.is_finished() {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "nobody waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What is set for SQLite binds nothing here: a commit survives what the server is set to, a wait for a lock lasts until
/// the deadline, and there may be as much data as the server takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_sqlite_mean_nothing_to_the_server() {
    for durability in [Durability::Full, Durability::Process] {
        let place = Place::new(Kind::Postgres).await;
        let name = place.url().database();
        let set = format!("ALTER DATABASE {name} SET synchronous_commit = 'remote_write'");
        administrator_of(&place).await.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(set))).await.unwrap();
        let limits = || Limits {
            durability,
            lock_wait_max: Duration::from_millis(1),
            database_bytes_max: 64 << 10,
            ..Limits::default()
        };
        let database = place.open_module("shop", &SHOP, limits()).await.unwrap();
        let mut transaction = database.begin(soon()).await.unwrap();
        let large = [Value::Blob(vec![7; 1 << 20])];
        transaction.execute("UPDATE items SET body = $1 WHERE id = 1", &large).await.unwrap();
        let told = transaction.host_query("SELECT current_setting('synchronous_commit')", &[]).await.unwrap();
        assert_eq!(told.rows, [[text("remote_write")]], "{durability:?}");
        let other = database.clone();
        let waiting = tokio::spawn(async move {
            other.execute("UPDATE items SET stock = 7 WHERE id = 1", &[], soon()).await
        });
        await_waiting(&place, &waiting).await;
        transaction.commit().await.unwrap();
        assert_eq!(waiting.await.unwrap(), Ok(1));
        assert_eq!(
            count(&database, "SELECT count(*) FROM items WHERE stock = 7 AND body IS NOT NULL").await,
            1
        );
    }
}

/// Takes a lease for another holder while somebody waits for its row; by then that one's look at the clock is old.
const TAKE_FIRST: &str = "SELECT pg_sleep(0.02); UPDATE cleave_leases SET holder = 'first', fence = fence + 1, \
    expires_at = t.now + 10000, next_at = t.now + 60000 \
    FROM (SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS now) t; COMMIT";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lease_that_another_takes_meanwhile_is_not_taken_away() {
    let (place, database) = shop(Kind::Postgres).await;
    let mut other = administrator(&place, "shop").await;
    let length = Duration::from_secs(10);
    lease::take(&database, "relay", "nobody", length, soon()).await.unwrap();
    lease::release(&database, "relay", "nobody", soon()).await.unwrap();
    other.execute("BEGIN; SELECT 1 FROM cleave_leases FOR UPDATE").await.unwrap();
    let taking = database.clone();
    let taking = tokio::spawn(async move { lease::take(&taking, "relay", "late", length, soon()).await });
    await_waiting(&place, &taking).await;
    other.execute(TAKE_FIRST).await.unwrap();
    assert_eq!(taking.await.unwrap(), Ok(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tick_that_another_takes_meanwhile_is_not_taken_again() {
    let (place, database) = shop(Kind::Postgres).await;
    let mut other = administrator(&place, "shop").await;
    let (length, every) = (Duration::from_secs(10), Duration::from_secs(60));
    let tick = |database: Database, holder: &'static str| async move {
        lease::tick(&database, "task", holder, every, length, soon()).await.unwrap()
    };
    let lease::Tick::Due(fence) = tick(database.clone(), "nobody").await else { panic!("it is not due") };
    lease::put_back(&database, "task", fence, Duration::ZERO, soon()).await.unwrap();
    other.execute("BEGIN; SELECT 1 FROM cleave_leases FOR UPDATE").await.unwrap();
    let ticking = tokio::spawn(tick(database, "late"));
    await_waiting(&place, &ticking).await;
    other.execute(TAKE_FIRST).await.unwrap();
    let ticked = ticking.await.unwrap();
    assert!(matches!(ticked, lease::Tick::Wait(ms) if ms > 0), "{ticked:?}");
}

// The outbox.

fn event(id: &str) -> outbox::Event {
    outbox::Event {
        id: id.to_owned(),
        function: "test:letters/events@0.1.letter".to_owned(),
        key: "key".to_owned(),
        payload: "{}".to_owned(),
        published_at: 0,
        trace: String::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_leaves_the_outbox_with_the_last_of_relays_that_work_at_once() {
    let (place, database) = shop(Kind::Postgres).await;
    let mut publishing = database.begin_host(soon()).await.unwrap();
    outbox::put(&mut publishing, &event("a"), ["ada", "bob"].into_iter()).await.unwrap();
    publishing.commit().await.unwrap();
    let position = outbox::waiting(&database, "ada", 1, soon()).await.unwrap()[0].0;
    let mut ada = database.begin_host(soon()).await.unwrap();
    outbox::remove(&mut ada, "ada", [position].into_iter()).await.unwrap();
    let bob = database.clone();
    let removing = tokio::spawn(async move {
        let mut bob = bob.begin_host(soon()).await.unwrap();
        outbox::remove(&mut bob, "bob", [position].into_iter()).await.unwrap();
        bob.commit().await.unwrap();
    });
    await_waiting(&place, &removing).await;
    ada.commit().await.unwrap();
    removing.await.unwrap();
    for table in ["cleave_outbox", "cleave_outbox_to"] {
        let left = database.host_query(&format!("SELECT position FROM {table}"), &[], soon()).await.unwrap();
        assert_eq!(left.rows.len(), 0, "{table}");
    }
}

#[tokio::test]
async fn events_that_nobody_waits_for_hide_none_that_wait() {
    let (place, database) = shop(Kind::Postgres).await;
    let mut publishing = database.begin_host(soon()).await.unwrap();
    for n in 0..5 {
        let to: &[&str] = if n == 4 { &["ada"] } else { &[] };
        outbox::put(&mut publishing, &event(&format!("e{n}")), to.iter().copied()).await.unwrap();
    }
    publishing.commit().await.unwrap();
    let listed = list(&database, "shop", Events::Open, 2, soon()).await.unwrap();
    assert_eq!(listed.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["e4"]);
    drop(place);
}

// A server that is away.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connections_are_made_again() {
    let mut server = tokio::task::block_in_place(PostgresServer::start);
    let url = tokio::task::block_in_place(|| server.new_url());
    let opened = Server::open(&parsed(&url), "cleave", 10).await.unwrap();
    let place = Place::new(Kind::Sqlite).await;
    let folder = place.dir.path().join("migrations");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("001_a.sql"), "CREATE TABLE a (n BIGINT PRIMARY KEY)").unwrap();
    let database = Database::open_on(&opened, "shop", Some(&folder), Limits::default()).await.unwrap();
    let insert = "INSERT INTO a (n) VALUES ($1)";
    database.execute(insert, &[Value::Integer(1)], soon()).await.unwrap();
    assert_eq!(database.query("SELECT n FROM a", &[], soon()).await.unwrap().rows.len(), 1);
    let mut open = database.begin(soon()).await.unwrap();
    open.execute(insert, &[Value::Integer(2)]).await.unwrap();
    tokio::task::block_in_place(|| server.restart());
    // The host looks at the clock before it reads, after a while.
    let Database::Postgres(postgres) = &database else { panic!("it is in PostgreSQL") };
    postgres.sample(soon()).await.unwrap();
    // What was open is lost, and says so; what is new meets nothing of it.
    assert!(matches!(open.commit().await, Err(SqlError::Unavailable(_))));
    database.execute(insert, &[Value::Integer(3)], soon()).await.unwrap();
    assert_eq!(database.query("SELECT n FROM a", &[], soon()).await.unwrap().rows.len(), 2);
    tokio::task::block_in_place(|| server.kill());
    let error = database.query("SELECT n FROM a", &[], soon()).await.unwrap_err();
    assert!(matches!(error, SqlError::Unavailable(_)), "{error}");
    assert!(matches!(database.begin(soon()).await, Err(SqlError::Unavailable(_))));
    let error = Server::open(&parsed(&url), "cleave", 10).await.err().unwrap();
    assert!(matches!(&error, DataError::Server { .. }), "{error}");
    tokio::task::block_in_place(|| server.restart());
    database.execute(insert, &[Value::Integer(4)], soon()).await.unwrap();
    assert_eq!(database.query("SELECT n FROM a", &[], soon()).await.unwrap().rows.len(), 3);
}
