//! `cleave config`: the config in effect and the schema, as the binary prints them.

use cleave_tests::{ARRANGEMENTS, Application, cleave, root, stderr, stdout};

#[test]
fn shown_config_runs_as_the_same_application() {
    let shop = Application::shop(ARRANGEMENTS[0]);
    let described = stdout(&shop.run("check", &["--json"]));
    let output = shop.run("config", &["show"]);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    let shown = stdout(&output);
    shop.write(&shown);
    assert_eq!(stdout(&shop.run("config", &["show"])), shown);
    assert_eq!(stdout(&shop.run("check", &["--json"])), described);
}

#[test]
fn origins_are_line_variable_flag_and_default() {
    let application = Application::new("[http]\nlisten = \"127.0.0.1:1\"\n");
    let file = application.config();
    let output = cleave()
        .args(["config", "show", "--origin", "--set", "calls.route=loopback", "--config"])
        .arg(&file)
        .env("CLEAVE_DATA__READERS", "2")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = stdout(&output);
    for line in [
        &format!("listen = \"127.0.0.1:1\"  # {}:2", file.display()),
        "readers = 2  # environment CLEAVE_DATA__READERS",
        "route = \"loopback\"  # --set calls.route=…",
        "rows_max = 10000  # default",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "no {line:?} in:\n{shown}");
    }
}

#[test]
fn wrong_config_is_told_as_by_check() {
    let application = Application::new("[http]\nlisen = \"127.0.0.1:1\"\n[data]\nreaders = 0\n");
    let (check, show) = (application.run("check", &[]), application.run("config", &["show"]));
    assert_eq!((show.status.code(), stdout(&show).as_str()), (Some(1), ""));
    assert_eq!(stderr(&show), stderr(&check));
    assert!(stderr(&show).contains("did you mean `listen`?"), "{}", stderr(&show));
}

#[test]
fn printed_schema_is_the_published_one() {
    // Without an application: the schema is of any.
    let output = cleave().args(["config", "schema"]).current_dir(std::env::temp_dir()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let published = std::fs::read_to_string(root().join("docs/cleave.schema.json")).unwrap();
    assert!(stdout(&output) == published, "write it again: cleave config schema > docs/cleave.schema.json");
}
