//! What is portable and what is not, tried on either database.

use super::super::both::{Kind, on_both, shop, soon};
use super::super::{Rows, SqlError, Value, check_portable};
use super::{check_statement, migrations, read};
use std::path::Path;

on_both! {
    what_not_both_have_is_refused_by_both_with_the_same_words,
    what_both_have_means_the_same_on_both,
}

/// What only SQLite has, or takes for something else.
const OF_SQLITE: &[&str] = &[
    "SELECT name FROM items ORDER BY name COLLATE NOCASE",
    "SELECT X'00ff'",
    "SELECT [name] FROM items",
    "SELECT `name` FROM items",
    "SELECT \"x\" 'y' FROM items",
    "SELECT name AS 'n' FROM items",
    "SELECT name 'n' FROM items",
    "SELECT count(*) 'n' FROM items",
    "SELECT 'a' 'b'",
    "SELECT 'a'\n'b'",
    "SELECT id FROM 'items'",
    "SELECT 'items'.id FROM items",
    "SELECT id FROM items WHERE id == 1",
    "SELECT id FROM items WHERE name GLOB 'p*'",
    "SELECT id FROM items WHERE name REGEXP 'p'",
    "SELECT id FROM items WHERE name MATCH 'p'",
    "SELECT id FROM items WHERE id IS 1",
    "SELECT id FROM items WHERE id IS NOT 1",
    "SELECT id FROM items WHERE id NOT NULL",
    "INSERT OR REPLACE INTO items (id, name) VALUES (1, 'x')",
    "INSERT OR IGNORE INTO items (id, name) VALUES (1, 'x')",
    "UPDATE OR IGNORE items SET name = 'x'",
    "REPLACE INTO items (id, name) VALUES (1, 'x')",
    "INSERT INTO items (id, name) VALUES (1, 'pen') ON CONFLICT DO UPDATE SET stock = 1",
    "SELECT rowid FROM items",
    "SELECT items._rowid_ FROM items",
    "SELECT \"rowid\" FROM items",
    "SELECT oid FROM items",
    "UPDATE items SET rowid = 7 WHERE id = 1",
    "INSERT INTO items (rowid, name) VALUES (7, 'x')",
    "SELECT id FROM items LIMIT 1, 2",
    "SELECT id FROM items LIMIT -1",
    "SELECT id FROM items LIMIT NULL",
    "SELECT id FROM items LIMIT 1 OFFSET -1",
    "SELECT id FROM items LIMIT -1 OFFSET 1",
    "DELETE FROM items ORDER BY id LIMIT 1",
    "UPDATE items SET stock = 1 ORDER BY id LIMIT 1",
    "SELECT id FROM items INDEXED BY i",
    "SELECT id FROM items NOT INDEXED",
    "SELECT name LIKE 'a\\_b' FROM items",
    "SELECT like('p%', name) FROM items",
    "SELECT max(1, 2)",
    "SELECT min(stock, 2, 3) FROM items",
    "SELECT count() FROM items",
    "SELECT substr(name, -2) FROM items",
    "SELECT total(stock) FROM items",
    "SELECT id IN () FROM items",
    "SELECT id FROM items WHERE id IN items",
    "SELECT 1 = 1 = 1",
    "SELECT 3 > 2 > 1",
    "SELECT 'a' || 1 + 2",
    "SELECT 2 * 3 || 'a'",
    "SELECT 1 = 1 LIKE '1'",
    "SELECT ~1 + 1",
    "SELECT 0x1F",
    "SELECT 1_000",
    "SELECT CAST('1' AS BLOB)",
    "SELECT CAST('1' AS BYTEA)",
    "SELECT CAST('1' AS NUMERIC)",
    "SELECT CAST('1' AS REAL)",
    "SELECT CAST('1' AS DOUBLE)",
    "SELECT CAST('1' AS )",
    "SELECT a.id FROM items a JOIN items b",
    "SELECT a.id FROM items a CROSS JOIN items b ON a.id = b.id",
    "SELECT id FROM items UNION SELECT 3 INTERSECT SELECT 3",
    "SELECT x FROM (SELECT 1 AS x)",
    "WITH n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3) SELECT x FROM n",
    "WITH gone AS MATERIALIZED (SELECT 1) VALUES (1)",
    "SELECT (1, 2) IN ((1, 2))",
    "SELECT name -> 'a' FROM items",
    "SELECT name ->> 'a' FROM items",
    "SELECT * FROM json_each('[1]')",
    "SELECT unixepoch()",
    "SELECT id FROM main.items",
    "SELECT RAISE(IGNORE)",
];

/// What only PostgreSQL has.
const OF_POSTGRESQL: &[&str] = &[
    "SELECT current_user",
    "SELECT CURRENT_SCHEMA",
    "SELECT user FROM items",
    "SELECT current_setting('port')",
    "SELECT set_config('role', 'postgres', false)",
    "SELECT version()",
    "SELECT inet_server_port()",
    "SELECT * FROM cleave_users.items",
    "SELECT public.lower('a')",
    "SELECT * FROM information_schema.tables",
    "SELECT ctid FROM items",
    "SELECT items.xmin FROM items",
    "SELECT * FROM items FOR UPDATE",
    "SELECT DISTINCT ON (name) name FROM items",
    "SELECT * INTO x FROM items",
    "WITH gone AS (DELETE FROM items RETURNING id) SELECT * FROM gone",
    "WITH a AS (SELECT 1) SELECT * FROM (WITH gone AS (DELETE FROM items RETURNING id) SELECT * FROM gone) b",
    "SELECT generate_series(1, 10)",
    "SELECT * FROM generate_series(1, 10)",
    "SELECT * FROM unnest(ARRAY[1])",
    "SELECT ARRAY[1, 2]",
    "SELECT E'a\\'b'",
    "SELECT U&'a'",
    "SELECT U&\"\\0063tid\" FROM items",
    "DELETE FROM --\rcleave_inbox",
    "SELECT id --\r, (SELECT count(*) FROM pg_class)\nFROM items",
    "SELECT x'ff'",
    "SELECT $$a$$",
    "SELECT $a$ ' $a$",
    "SELECT 1 /* a /* b */ FROM pg_class -- */",
    "SELECT DATE '2020-01-01'",
    "SELECT INTERVAL '1 day'",
    "SELECT now()",
    "SELECT CAST('items' AS regclass)",
    "SELECT CAST(1 AS NUMERIC(3, 1))",
    "SELECT 'a' ~ 'b'",
    "SELECT 'a' ILIKE 'b'",
    "SELECT 'a' SIMILAR TO 'b'",
    "SELECT 1 = ANY (ARRAY[1])",
    "SELECT 'a' COLLATE \"C\"",
    "SELECT 1 OPERATOR(pg_catalog.+) 2",
    "SELECT extract(epoch FROM name) FROM items",
    "SELECT name::bigint FROM items",
    "TABLE items",
    "SELECT * FROM ONLY items TABLESAMPLE SYSTEM (1)",
    "DELETE FROM items USING parts",
    "COPY items TO STDOUT",
    "LISTEN x",
    "SET search_path = public",
    "DO $x$ BEGIN END $x$",
    "CALL x()",
    "MERGE INTO items USING parts ON true WHEN MATCHED THEN DELETE",
    "SELECT CAST(1 AS INTEGER)::text",
    "SELECT name::text FROM items",
    "SELECT id FROM items FOR UPDATE",
    "SELECT id FROM items FOR SHARE SKIP LOCKED",
    "SELECT id FROM items FETCH FIRST 1 ROW ONLY",
    "SELECT id FROM items LIMIT ALL",
    "SELECT id FROM items OFFSET 1",
    "SELECT id FROM items LIMIT 1 OFFSET 1 ROWS",
    "SELECT id FROM items EXCEPT ALL SELECT 1",
    "SELECT id FROM items INTERSECT ALL SELECT 1",
    "SELECT id FROM items UNION DISTINCT SELECT 1",
    "SELECT 1 UNION (SELECT 2)",
    "SELECT * FROM ((SELECT 1) UNION SELECT 2) AS u",
    "SELECT FROM items",
    "SELECT i.a FROM items AS i (a)",
    "SELECT v.x FROM (VALUES (1)) AS v (x)",
    "SELECT id FROM ONLY items",
    "SELECT count(items.*) FROM items",
    "SELECT string_agg(DISTINCT name, ',') FROM items",
    "SELECT coalesce(1)",
    "SELECT count(*) FROM items GROUP BY ROLLUP (name)",
    "SELECT count(*) FROM items GROUP BY GROUPING SETS ((name), ())",
    "SELECT count(*) FROM items GROUP BY (id, name)",
    "SELECT id FROM items ORDER BY id USING <",
    "SELECT id FROM items WHERE id IN ((SELECT 1))",
    "SELECT (id = 1) IS UNKNOWN FROM items",
    "SELECT id BETWEEN SYMMETRIC 2 AND 1 FROM items",
    "SELECT 2 ^ 3",
    "SELECT substring(name FROM 1 FOR 2) FROM items",
    "SELECT trim(BOTH 'p' FROM name) FROM items",
    "SELECT position('p' IN name) FROM items",
    "SELECT concat(VARIADIC ARRAY[name]) FROM items",
    "INSERT INTO items (name, stock) VALUES ('x', DEFAULT)",
    "UPDATE items SET stock = DEFAULT",
    "INSERT INTO items (name) OVERRIDING SYSTEM VALUE VALUES ('x')",
    "INSERT INTO items (name) SELECT name FROM items ON CONFLICT DO NOTHING",
    "INSERT INTO items (name) VALUES ('pen') ON CONFLICT ON CONSTRAINT items_name_key DO NOTHING",
    "UPDATE items SET stock = 1 WHERE CURRENT OF c",
    "SELECT name LIKE 'p%' ESCAPE '' FROM items",
    "SELECT 1 ISNULL = FALSE",
];

async fn what_not_both_have_is_refused_by_both_with_the_same_words(kind: Kind) {
    let (_place, database) = shop(kind).await;
    let all = || OF_SQLITE.iter().chain(OF_POSTGRESQL);
    let let_through: Vec<_> = all().filter(|sql| read(sql).is_ok()).collect();
    assert!(let_through.is_empty(), "{let_through:#?}");
    for sql in all() {
        let refused = read(sql).unwrap_err();
        for _ in 0..2 {
            assert_eq!(database.query(sql, &[], soon()).await.unwrap_err(), refused, "{sql}");
            assert_eq!(database.execute(sql, &[], soon()).await.unwrap_err(), refused, "{sql}");
            let mut transaction = database.begin(soon()).await.unwrap();
            assert_eq!(transaction.execute(sql, &[]).await.unwrap_err(), refused, "{sql}");
            assert_eq!(transaction.query("SELECT 1", &[]).await, Err(SqlError::Aborted));
        }
    }
    let Rows { rows, .. } = database.query("SELECT stock FROM items ORDER BY id", &[], soon()).await.unwrap();
    assert_eq!(rows, [[Value::Integer(10)], [Value::Integer(5)]]);
}

async fn what_both_have_means_the_same_on_both(kind: Kind) {
    let (_place, database) = shop(kind).await;
    for (sql, expected) in [
        ("SELECT CAST(('a' || 1) AS TEXT) || 'b' AS v", "a1b"),
        ("SELECT 'a' || (1 + 2) AS v", "a3"),
        ("SELECT CASE WHEN (1 = 1) = (2 = 2) THEN 'same' END AS v", "same"),
        ("SELECT CASE WHEN NOT 1 = 2 AND 3 NOT IN (1, 2) THEN 'yes' END AS v", "yes"),
        (
            "SELECT CASE WHEN 'a_b' LIKE 'a!_b' ESCAPE '!' AND NOT 'axb' LIKE 'a!_b' ESCAPE '!' THEN 'one' END AS v",
            "one",
        ),
        ("SELECT CAST(7 / 2 AS TEXT) || CAST(-7 % 3 AS TEXT) AS v", "3-1"),
        ("SELECT CAST(1 + 2 << 1 AS TEXT) || CAST((6 & 3 | 8) AS TEXT) AS v", "610"),
        ("SELECT substr('abc', 2) || substr('abcdef', 2, 3) AS v", "bcbcd"),
        ("SELECT concat('a', NULL, 'b') || concat_ws('-', 'c', NULL, 'd') AS v", "abc-d"),
        ("SELECT string_agg(name, ',' ORDER BY name DESC) AS v FROM items", "pen,ink"),
        (
            "SELECT name AS v FROM items WHERE done IS TRUE AND stock IS NOT NULL AND name IS DISTINCT FROM 'x'",
            "pen",
        ),
        ("SELECT b.name AS v FROM items a JOIN items b ON b.id = a.id + 1", "ink"),
        ("SELECT b.name AS v FROM items a FULL JOIN items b ON b.id = a.id WHERE b.id = 2", "ink"),
        ("SELECT name AS v FROM items JOIN (VALUES (2)) AS wanted ON id = column1", "ink"),
        ("SELECT v FROM (SELECT 'a' AS v UNION ALL SELECT 'b' EXCEPT SELECT 'a') AS u", "b"),
        (
            "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 4) SELECT CAST(max(x) AS TEXT) AS v FROM n",
            "4",
        ),
        ("SELECT name AS v FROM items ORDER BY stock NULLS LAST, id LIMIT 1 OFFSET 1", "pen"),
        ("SELECT CASE WHEN id IN (VALUES (1), (3)) THEN name END AS v FROM items ORDER BY id LIMIT 1", "pen"),
        (
            "INSERT INTO items (name) SELECT 'cap' FROM items WHERE id = 1 ON CONFLICT (name) DO UPDATE SET stock = 3 RETURNING name AS v",
            "cap",
        ),
        (
            "UPDATE items SET (name, stock) = ('nib', 4) WHERE name = 'cap' RETURNING name || CAST(stock AS TEXT) AS v",
            "nib4",
        ),
        ("DELETE FROM items AS gone WHERE gone.name = 'nib' RETURNING name AS v", "nib"),
    ] {
        match database.query(sql, &[], soon()).await {
            Ok(Rows { columns, rows }) => {
                assert_eq!(columns, ["v"], "{sql}");
                assert!(!rows.is_empty(), "{sql}");
                assert_eq!(rows[0], [Value::Text(expected.into())], "{sql}");
            }
            Err(error) => panic!("{sql}: {error}"),
        }
    }
}

#[test]
fn statement_of_any_depth_is_looked_at_or_refused() {
    let chain = |n: usize| format!("SELECT 1{}", " + 1".repeat(n));
    let parentheses = |n: usize| format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n));
    let unions = |n: usize| format!("SELECT 1{}", " UNION SELECT 1".repeat(n));
    let nots = |n: usize| format!("SELECT {} TRUE", "NOT ".repeat(n));
    let cases = |n: usize| format!("SELECT {}1{}", "CASE WHEN TRUE THEN ".repeat(n), " END".repeat(n));
    // As little room as a thread of the host's ever has.
    let looking = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
        for n in [1, 30, 250] {
            check_statement(&chain(n)).unwrap();
            check_statement(&unions(n)).unwrap();
        }
        check_statement(&parentheses(30)).unwrap();
        for make in [&chain as &dyn Fn(usize) -> String, &parentheses, &unions, &nots, &cases] {
            assert!(check_statement(&make(4_000)).is_err());
        }
    });
    looking.unwrap().join().unwrap();
}

/// What a migration says that may be for both databases.
const SHARED: &[&str] = &[
    "CREATE TABLE a (id BIGINT PRIMARY KEY NOT NULL, b TEXT NOT NULL DEFAULT '', c DOUBLE PRECISION, d BOOLEAN DEFAULT TRUE, e BYTEA)",
    "CREATE TABLE IF NOT EXISTS a (b BIGINT NOT NULL DEFAULT -1, c TEXT UNIQUE NULL, PRIMARY KEY (b), UNIQUE (b, c))",
    "CREATE TABLE a (b BIGINT CHECK (b > 0) REFERENCES c (d) ON DELETE CASCADE, CONSTRAINT one CHECK (length(c) < 9), c TEXT)",
    "CREATE TABLE a (b TEXT, FOREIGN KEY (b) REFERENCES c (d) ON UPDATE SET NULL DEFERRABLE INITIALLY DEFERRED)",
    "CREATE UNIQUE INDEX i ON a (b DESC, c)",
    "CREATE INDEX IF NOT EXISTS i ON a (b) WHERE c = 'open' AND d IS NOT NULL",
    "ALTER TABLE a ADD COLUMN b TEXT",
    "ALTER TABLE a ADD b BIGINT NOT NULL DEFAULT 0 CHECK (b >= 0)",
    "ALTER TABLE a ADD COLUMN b BIGINT REFERENCES c (d)",
    "ALTER TABLE a RENAME COLUMN b TO c",
    "ALTER TABLE a RENAME TO b",
    "DROP TABLE IF EXISTS a",
    "DROP INDEX i",
    "INSERT INTO a (b) VALUES (1), (2)",
    "INSERT INTO a (b) SELECT b FROM c WHERE b > 1",
    "UPDATE a SET b = 'x' WHERE c IS NULL",
    "DELETE FROM a",
    "WITH old AS (SELECT b FROM c) DELETE FROM a WHERE b IN (SELECT b FROM old)",
];

/// What is not for both, with a part of the reason.
const SPLIT: &[(&str, &str)] = &[
    ("CREATE TABLE a (b INTEGER PRIMARY KEY)", "write BIGINT"),
    ("CREATE TABLE a (b BIGINT PRIMARY KEY)", "say NOT NULL"),
    ("CREATE TABLE a (b TEXT, c TEXT NOT NULL, PRIMARY KEY (b, c))", "column `b`: a PRIMARY KEY"),
    ("CREATE TABLE a (b BIGINT NOT NULL PRIMARY KEY AUTOINCREMENT)", "AUTOINCREMENT"),
    ("CREATE TABLE a (b BIGSERIAL)", "make the value in the module"),
    ("CREATE TABLE a (b SERIAL PRIMARY KEY)", "make the value in the module"),
    ("CREATE TABLE a (b BIGINT GENERATED ALWAYS AS IDENTITY)", "generated"),
    ("CREATE TABLE a (b BIGINT, c BIGINT GENERATED ALWAYS AS (b + 1) STORED)", "generated"),
    ("CREATE TABLE a (b BIGINT) WITHOUT ROWID", "WITHOUT ROWID"),
    ("CREATE TABLE a (b BIGINT) STRICT", "STRICT"),
    ("CREATE TABLE a (b)", "type"),
    ("CREATE TABLE a (b VARCHAR(3))", "CHECK (length("),
    ("CREATE TABLE a (b CHAR)", "write TEXT"),
    ("CREATE TABLE a (b INT)", "write BIGINT"),
    ("CREATE TABLE a (b SMALLINT)", "write BIGINT"),
    ("CREATE TABLE a (b REAL)", "DOUBLE PRECISION"),
    ("CREATE TABLE a (b FLOAT)", "DOUBLE PRECISION"),
    ("CREATE TABLE a (b BLOB)", "BYTEA"),
    ("CREATE TABLE a (b NUMERIC(10, 2))", "smallest unit"),
    ("CREATE TABLE a (b TIMESTAMP)", "milliseconds"),
    ("CREATE TABLE a (b TIMESTAMPTZ)", "milliseconds"),
    ("CREATE TABLE a (b DATE)", "milliseconds"),
    ("CREATE TABLE a (b UUID)", "write TEXT"),
    ("CREATE TABLE a (b JSONB)", "write TEXT"),
    ("CREATE TABLE a (b TEXT[])", ""),
    ("CREATE TABLE a (b MOOD)", "one of BIGINT"),
    ("CREATE TABLE a (b TEXT COLLATE \"C\")", "COLLATE"),
    ("CREATE TABLE a (b BOOLEAN DEFAULT 0)", "DEFAULT 0"),
    ("CREATE TABLE a (b BIGINT DEFAULT '0')", "DEFAULT '0'"),
    ("CREATE TABLE a (b BIGINT DEFAULT 1.5)", "DEFAULT 1.5"),
    ("CREATE TABLE a (b TEXT DEFAULT \"x\")", "DEFAULT \"x\""),
    ("CREATE TABLE a (b BIGINT DEFAULT CURRENT_TIMESTAMP)", "DEFAULT CURRENT_TIMESTAMP"),
    ("CREATE TABLE a (b BIGINT DEFAULT (1 + 1))", "DEFAULT"),
    ("CREATE TABLE a (b TEXT CHECK (b GLOB 'x*'))", ""),
    ("CREATE TABLE a (b TEXT CHECK (hex(b) = ''))", "`hex`"),
    ("CREATE TABLE a (b TEXT UNIQUE DEFERRABLE)", "deferrable"),
    ("CREATE TABLE a (b TEXT, UNIQUE NULLS NOT DISTINCT (b))", "NULLS"),
    ("CREATE TABLE a (b TEXT, EXCLUDE USING gist (b WITH =))", ""),
    ("CREATE TABLE a AS SELECT 1 AS b", "INSERT"),
    ("CREATE TABLE a (LIKE b)", "CREATE TABLE"),
    ("CREATE TABLE a (b BIGINT) INHERITS (c)", "CREATE TABLE"),
    ("CREATE TABLE a (b BIGINT) PARTITION BY RANGE (b)", "CREATE TABLE"),
    ("CREATE UNLOGGED TABLE a (b BIGINT)", "CREATE TABLE"),
    ("CREATE TEMP TABLE a (b BIGINT)", "temporary"),
    ("CREATE TABLE main.a (b BIGINT)", "schema"),
    ("CREATE TABLE a (user TEXT)", "another name"),
    ("CREATE TABLE a (index BIGINT)", "another name"),
    ("CREATE TABLE [a] (b BIGINT)", "write it in"),
    ("CREATE TABLE a (rowid BIGINT)", "own columns"),
    ("CREATE VIRTUAL TABLE a USING fts5(b)", "CREATE VIRTUAL"),
    ("CREATE VIEW a AS SELECT 1 AS b", "CREATE VIEW"),
    ("CREATE TRIGGER a AFTER INSERT ON b BEGIN SELECT 1; END", ""),
    ("CREATE INDEX i ON a (b COLLATE NOCASE)", "COLLATE"),
    ("CREATE INDEX i ON a (lower(b))", "the name of a column"),
    ("CREATE INDEX i ON a (b NULLS FIRST)", "the name of a column"),
    ("CREATE INDEX i ON a (b text_pattern_ops)", "the name of a column"),
    ("CREATE INDEX i ON a USING hash (b)", "CREATE INDEX"),
    ("CREATE INDEX i ON a (b) INCLUDE (c)", "CREATE INDEX"),
    ("CREATE INDEX CONCURRENTLY i ON a (b)", "CONCURRENTLY"),
    ("CREATE INDEX ON a (b)", "without a name"),
    ("CREATE INDEX i ON a (b) WHERE c GLOB 'x'", ""),
    ("ALTER TABLE a ADD COLUMN b TEXT NOT NULL", "without a DEFAULT"),
    ("ALTER TABLE a ADD COLUMN b TEXT UNIQUE", "UNIQUE INDEX"),
    ("ALTER TABLE a ADD COLUMN b BIGINT DEFAULT 1 REFERENCES c (d)", "REFERENCES with a DEFAULT"),
    ("ALTER TABLE a ADD COLUMN b TEXT, ADD COLUMN c TEXT", "one for each"),
    ("ALTER TABLE a ADD COLUMN IF NOT EXISTS b TEXT", "this ALTER TABLE"),
    ("ALTER TABLE a ALTER COLUMN b SET NOT NULL", "this ALTER TABLE"),
    ("ALTER TABLE a ADD CONSTRAINT x CHECK (b > 0)", "this ALTER TABLE"),
    ("ALTER TABLE a DROP COLUMN b", "this ALTER TABLE"),
    ("DROP TABLE a CASCADE", "CASCADE"),
    ("DROP TABLE a, b", "one for each"),
    ("DROP VIEW a", "DROP VIEW"),
    ("INSERT OR IGNORE INTO a (b) VALUES (1)", "ON CONFLICT"),
    ("INSERT INTO a (b) VALUES (datetime('now'))", "`datetime`"),
    ("INSERT INTO a (b) VALUES (X'00')", "before its quote"),
    ("UPDATE a SET b = b::text", "CAST"),
    ("CREATE TABEL a (b BIGINT)", "syntax error"),
];

#[test]
fn migrations_for_both_databases_say_what_both_have() {
    let said = |sql: &&str| migrations::check(sql).err().map(|reason| reason.problem);
    let refused: Vec<_> = SHARED.iter().filter_map(|sql| Some((sql, said(sql)?))).collect();
    assert!(refused.is_empty(), "{refused:#?}");
    let is_told = |(sql, part): &&(&str, &str)| said(sql).is_some_and(|why| why.contains(part));
    let untold: Vec<_> =
        SPLIT.iter().filter(|split| !is_told(split)).map(|split| (split, said(&split.0))).collect();
    assert!(untold.is_empty(), "{untold:#?}");
}

#[test]
fn reason_counts_its_line_from_the_statement() {
    for (sql, line) in
        [("CREATE TABLE a (\n  b BIGINT,\n  c BIGINT(\n)", 3), ("CREATE TABLE a (\n b REAL)", 0)]
    {
        let Err(reason) = migrations::check(sql) else { panic!("{sql} is let through") };
        assert_eq!(reason.line, line, "{}", reason.problem);
    }
}

#[test]
fn every_migration_of_the_project_is_portable() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut looked_at = 0;
    for modules in [project.join("modules"), project.join("tests/guests")] {
        for module in std::fs::read_dir(modules).unwrap() {
            let folder = module.unwrap().path().join("migrations");
            if folder.is_dir() {
                let found = check_portable("shop", &folder).unwrap();
                assert!(found.is_empty(), "{found:#?}");
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 10, "{looked_at}");
}
