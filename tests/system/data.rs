//! A module's database, through the module: what is refused, what a transaction promises, what survives.

use crate::calls::{hostile, zoo};
use cleave_host::host::Host;
use cleave_tests::{ARRANGEMENTS, Application, Arrangement, ON_BOTH};
use serde_json::{Value as Json, json};

/// Runs a query of the hostile module and gives what it saw, as text.
async fn sql(host: &Host, statement: &str) -> String {
    text(hostile(host, "sql", &[json!(statement)]).await.unwrap())
}

async fn execute(host: &Host, statement: &str, parameters: Json) -> String {
    text(hostile(host, "sql-execute", &[json!(statement), parameters]).await.unwrap())
}

fn text(answer: Json) -> String {
    answer["ok"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_statements_say_why() {
    for arrangement in ON_BOTH {
        let application = zoo(arrangement, "", "");
        let host = application.host().await;
        for (statement, expected) in [
            ("SELECT 1; SELECT 2", "Refused"),
            ("SELECT 1; DROP TABLE notes", "Refused"),
            ("DROP TABLE notes", "Refused"),
            ("CREATE TABLE x (y TEXT)", "Refused"),
            ("PRAGMA writable_schema = 1", "Refused"),
            ("ATTACH DATABASE '/etc/passwd' AS x", "Refused"),
            ("VACUUM INTO '/tmp/x'", "Refused"),
            ("BEGIN", "Refused"),
            ("COMMIT", "Refused"),
            ("EXPLAIN SELECT 1", "Refused"),
            ("SELECT * FROM sqlite_master", "Refused"),
            ("SELECT * FROM cleave_migrations", "Refused"),
            ("SELECT * FROM (SELECT * FROM \"CLEAVE_migrations\")", "Refused"),
            ("WITH x AS (SELECT * FROM cleave_migrations) SELECT * FROM x", "Refused"),
            ("SELECT load_extension('x')", "Refused"),
            ("SELECT readfile('/etc/passwd')", "Refused"),
            ("SELECT * FROM products", "Invalid"),
            ("SELEC 1", "Refused"),
            ("SELECT * WHERE FROM", "Invalid"),
            ("SELECT $1", "Invalid"),
            ("", "Refused"),
        ] {
            let found = sql(&host, statement).await;
            assert!(found.contains(&format!("Error::{expected}")), "{statement}: {found}");
        }
        assert!(sql(&host, "SELECT count(*) FROM notes").await.contains("Integer(0)"));
        assert!(host.drain().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_counted() {
    for arrangement in ON_BOTH {
        let application = zoo(arrangement, "", "");
        let host = application.host().await;
        let insert = "INSERT INTO notes (id, body) VALUES ($1, $2)";
        for parameters in
            [json!([]), json!([{"text": "a"}]), json!([{"text": "a"}, {"text": "b"}, {"text": "c"}])]
        {
            let found = execute(&host, insert, parameters.clone()).await;
            assert!(found.contains("Error::Invalid"), "{parameters}: {found}");
        }
        assert!(execute(&host, insert, json!([{"text": "a"}, {"text": "b"}])).await.contains("Ok(1)"));
        assert!(host.drain().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_is_stored_as_it_is() {
    for arrangement in ON_BOTH {
        let application = zoo(arrangement, "", "");
        let host = application.host().await;
        for (n, body) in
            ["'; DROP TABLE notes; --", "\u{1F600}\u{202e}\\", "\" OR 1=1", "%00\n\r\t"].iter().enumerate()
        {
            let insert = "INSERT INTO notes (id, body) VALUES ($1, $2)";
            let stored = execute(&host, insert, json!([{"text": n.to_string()}, {"text": body}])).await;
            assert!(stored.contains("Ok(1)"), "{stored}");
            let same = "UPDATE notes SET body = body WHERE id = $1 AND body = $2";
            assert!(
                execute(&host, same, json!([{"text": n.to_string()}, {"text": body}]))
                    .await
                    .contains("Ok(1)")
            );
        }
        assert!(host.drain().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_statement_ends_at_the_deadline() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "", "deadline = \"300ms\"");
        let host = application.host().await;
        let endless = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n";
        let ended = hostile(&host, "sql", &[json!(endless)]).await;
        // The statement ends at the call's deadline: the module may still say so, or its own time is up as well.
        match ended {
            Ok(answer) => assert!(text(answer).contains("Error::Deadline")),
            Err(error) => assert!(error.may_have_run(), "{error}"),
        }
        assert!(sql(&host, "SELECT count(*) FROM notes").await.contains("Integer(0)"));
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_result_is_refused() {
    for arrangement in ON_BOTH {
        let application = zoo(arrangement, "", "");
        let host = application.host().await;
        let many = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 20000) SELECT x FROM n";
        assert!(sql(&host, many).await.contains("Error::TooLarge"));
        assert!(host.drain().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn error_dooms_the_transaction() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "", "");
        let host = application.host().await;
        let statements = json!([
            "INSERT INTO notes (id, body) VALUES ('a', 'x')",
            "INSERT INTO notes (id, body) VALUES ('a', 'again')",
            "INSERT INTO notes (id, body) VALUES ('b', 'x')",
        ]);
        let said = hostile(&host, "in-transaction", &[statements]).await.unwrap();
        let said: Vec<_> = said["ok"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
        assert!(said[1].contains("Ok(1)"), "{said:?}");
        assert!(said[2].contains("Unique"), "{said:?}");
        assert!(said[3].contains("Aborted") && said[4].contains("Aborted"), "{said:?}");
        assert!(sql(&host, "SELECT count(*) FROM notes").await.contains("Integer(0)"));
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_ends_with_its_call() {
    for arrangement in ARRANGEMENTS {
        let application = zoo(arrangement, "", "concurrency = 1");
        let host = application.host().await;
        assert_eq!(hostile(&host, "keep-transaction", &[]).await.unwrap(), json!({"ok": 1}));
        let used = hostile(&host, "use-kept-transaction", &[]).await.unwrap();
        // A fresh instance has kept none; a pooled one finds its handle dead.
        let expected = if arrangement.instances == "fresh" { 3 } else { 0 };
        assert_eq!(used, json!({"ok": expected}), "{arrangement:?}");
        assert!(sql(&host, "SELECT count(*) FROM notes").await.contains("Integer(0)"));
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn module_without_a_grant_has_no_database() {
    let application = zoo(ARRANGEMENTS[0], "", "");
    let config = std::fs::read_to_string(application.config()).unwrap();
    application.write(&config.replace("grants = [\"sql\"]", ""));
    let output = application.run("check", &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = cleave_tests::stderr(&output);
    assert!(
        said.contains("`hostile` imports `cleave:sql/database@0.1.0`, which it was not granted"),
        "{said}"
    );
    assert!(said.contains("add `grants = [\"sql\"]` to `[modules.hostile]`"), "{said}");
}

/// A copy of the hostile module's migrations in the application's own folder.
fn with_own_migrations(arrangement: Arrangement) -> Application {
    let application = zoo(arrangement, "", "");
    let folder = application.folder.path().join("migrations");
    std::fs::create_dir(&folder).unwrap();
    let original = cleave_tests::root().join("tests/guests/hostile/migrations");
    std::fs::copy(original.join("001_notes.sql"), folder.join("001_notes.sql")).unwrap();
    let config = std::fs::read_to_string(application.config()).unwrap();
    application.write(&config.replace(&original.display().to_string(), "migrations"));
    application
}

/// Starts the application, which refuses to, and gives what it says.
fn refusal(application: &Application) -> String {
    let output = application.run("up", &[]);
    assert_eq!(output.status.code(), Some(1), "it started");
    cleave_tests::stderr(&output)
}

#[test]
fn migration_changed_after_it_ran_is_refused() {
    for arrangement in ON_BOTH {
        let application = with_own_migrations(arrangement);
        assert!(application.up_without_http().stop().success());
        let file = application.folder.path().join("migrations/001_notes.sql");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{text}\n-- changed\n")).unwrap();
        let said = refusal(&application);
        assert!(said.contains("001_notes.sql") && said.contains("changed"), "{said}");
        assert!(said.contains("help:"), "{said}");
        std::fs::write(&file, text).unwrap();
        assert!(application.up_without_http().stop().success());
    }
}

#[test]
fn migration_that_fails_names_its_line() {
    for arrangement in ON_BOTH {
        let application = with_own_migrations(arrangement);
        std::fs::write(
            application.folder.path().join("migrations/002_broken.sql"),
            "CREATE TABLE a (x TEXT);\n\nCREATE TABEL b;\n",
        )
        .unwrap();
        let said = refusal(&application);
        assert!(said.contains("002_broken.sql") && said.contains("line 3"), "{said}");
    }
}

#[test]
fn check_tells_a_migration_that_does_not_mean_the_same_on_both_databases() {
    let application = with_own_migrations(ON_BOTH[0]);
    let folder = application.folder.path().join("migrations");
    let (of_sqlite, of_postgresql) =
        ("CREATE TABLE a (id INTEGER PRIMARY KEY);\n", "CREATE TABLE a (id BIGSERIAL PRIMARY KEY);\n");
    let text = format!("-- numbers\n{of_sqlite}CREATE VIEW b AS SELECT id FROM a;\n");
    std::fs::write(folder.join("002_numbers.sql"), &text).unwrap();
    let output = application.run("check", &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = cleave_tests::stderr(&output);
    for part in
        ["002_numbers.sql", "line 2", "write BIGINT", "line 3", "CREATE VIEW", "NNN_name.postgres.sql"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    // On SQLite alone it works, and goes on to.
    assert!(application.up_without_http().stop().success());
    std::fs::rename(folder.join("002_numbers.sql"), folder.join("002_numbers.sqlite.sql")).unwrap();
    std::fs::write(folder.join("002_numbers.postgres.sql"), of_postgresql).unwrap();
    let output = application.run("check", &[]);
    assert!(output.status.success(), "{}", cleave_tests::stderr(&output));
    assert!(application.up_without_http().stop().success());
}

#[test]
fn data_folder_belongs_to_one_process() {
    let application = zoo(ARRANGEMENTS[0], "", "");
    let process = application.up_without_http();
    let said = refusal(&application);
    assert!(said.contains("is in use by") && said.contains(&process.id().to_string()), "{said}");
}

#[test]
fn data_folder_that_cannot_be_made_is_named() {
    let application = zoo(ARRANGEMENTS[0], "", "");
    std::fs::write(application.folder.path().join("plain"), "").unwrap();
    let config = std::fs::read_to_string(application.config()).unwrap();
    application.write(&format!("{config}\n[data]\ndir = \"plain/below\"\n"));
    let said = refusal(&application);
    assert!(said.contains("plain/below") && said.contains("cleave.toml:"), "{said}");
}

#[test]
fn clean_stop_leaves_one_whole_file() {
    let application = zoo(ARRANGEMENTS[0], "", "");
    let process = application.up_without_http();
    let insert = "INSERT INTO notes (id, body) VALUES ('a', 'b')";
    let output = application.run("call", &["test:hostile/acts.sql-execute", &format!("{insert:?}"), "[]"]);
    assert!(cleave_tests::stdout(&output).contains("Ok(1)"), "{output:?}");
    assert!(process.stop().success());
    // A copy of the file alone is the database: its log has been written back.
    let data = application.folder.path().join("data");
    assert!(!data.join("hostile.sqlite-wal").exists());
    assert!(data.join("hostile.sqlite").exists());
}
