//! Each mistake is answered with its place, the wrong text under a caret, and the fix.

use cleave_config::{Sources, parse};
use proptest::prelude::*;

use crate::{bad, pairs, render, sources};

/// Asserts that `text` has exactly one problem, and that it shows as one that has `message`, stands at
/// `place` (`line:column`), underlines `caret` and is mended by `fix`.
pub(crate) fn check(text: &str, message: &str, place: &str, caret: &str, fix: &str) {
    let problems = bad(text);
    let shown = render(&problems);
    assert_eq!(problems.0.len(), 1, "{shown}");
    assert!(shown.contains(message), "no message {message:?} in:\n{shown}");
    assert!(shown.contains(&format!("[/app/cleave.toml:{place}]")), "not at {place}:\n{shown}");
    assert!(shown.contains(&format!("help: {fix}")), "no fix {fix:?} in:\n{shown}");
    assert_eq!(underlined(&problems.0[0], text), caret, "\n{shown}");
}

fn underlined<'a>(problem: &dyn miette::Diagnostic, text: &'a str) -> &'a str {
    let label = problem.labels().unwrap().next().unwrap();
    &text[label.offset()..label.offset() + label.len()]
}

#[test]
fn report_reads_well() {
    let text =
        "[http]\nlisen = \"127.0.0.1:80\"\n\n[modules.catalog]\ncomponent = \"c.wasm\"\nconcurrency = 0\n";
    let shown = render(&bad(text));
    let expected = r#"  x the configuration has 2 problems

Error: 
  x unknown key `lisen` in `http`
   ,-[/app/cleave.toml:2:1]
 1 | [http]
 2 | lisen = "127.0.0.1:80"
   : ^^|^^
   :   `-- did you mean `listen`?
 3 | 
   `----
  help: did you mean `listen`? allowed are: listen, header_timeout, body_max, connections_max, openapi, routes, files

Error: 
  x `modules.catalog.concurrency`: 0 is out of range
   ,-[/app/cleave.toml:6:15]
 5 | component = "c.wasm"
 6 | concurrency = 0
   :               ^
   `----
  help: write a whole number from 1 to 4096
"#;
    assert_eq!(shown.trim_end(), expected.trim_end(), "\n{shown}");
}

#[test]
fn unknown_key_suggests_nearest() {
    check(
        "[http]\nbody-max = 1\n",
        "unknown key `body-max` in `http`",
        "2:1",
        "body-max",
        "did you mean `body_max`? allowed are: listen, ",
    );
    check("[modul.a]\n", "unknown table `modul`", "1:2", "modul", "did you mean `modules`?");
    check(
        "[drain]\nwait = 1\n",
        "unknown key `wait` in `drain`",
        "2:1",
        "wait",
        "remove it, or write one of: timeout",
    );
    check(
        "[http.routes]\n\"GET /\" = { call = \"a:b/c.d\", stats = 201 }\n",
        "unknown key `stats` in `http.routes.\"GET /\"`",
        "2:31",
        "stats",
        "did you mean `status`?",
    );
}

#[test]
fn wrong_type_names_both() {
    let at = |text, message, place, caret, fix| check(text, message, place, caret, fix);
    at(
        "[http]\nconnections_max = \"many\"\n",
        "`http.connections_max` takes a whole number from 1 to 1000000, not text",
        "2:19",
        "\"many\"",
        "write a whole number",
    );
    at("http = 3\n", "`http` takes a table, not the number 3", "1:8", "3", "write a table");
    at("modules = []\n", "`modules` takes a table, not a list", "1:11", "[]", "write a table");
    at("http = []\n", "`http` takes a table, not a list", "1:8", "[]", "write a table");
    at("[modules]\na = [\"x\"]\n", "`modules.a` takes a table", "2:5", "[\"x\"]", "write a table");
    at("[data]\nrows_max = 1.5\n", "not the number 1.5", "2:12", "1.5", "write a whole number");
    at("[log]\nfilter = true\n", "takes text in quotes, not true", "2:10", "true", "write text in quotes");
    at("[log]\nformat = 0\n", "takes text in quotes, not the number 0", "2:10", "0", "write text in quotes");
    at("[data]\ndir = 1979-05-27\n", "`data.dir` is a date", "2:7", "1979-05-27", "write the value");
    let module = "[modules.a]\ncomponent = \"a\"\n";
    at(
        &format!("{module}grants = \"sql\""),
        "takes a list such as [\"sql\"]",
        "3:10",
        "\"sql\"",
        "write a list",
    );
}

#[test]
fn out_of_range_names_range() {
    let module = "[modules.a]\ncomponent = \"a\"\n";
    let at = |key: &str, value: &str, message, fix| {
        let place = format!("3:{}", key.len() + 4);
        check(&format!("{module}{key} = {value}\n"), message, &place, value, fix);
    };
    at("concurrency", "0", "0 is out of range", "write a whole number from 1 to 4096");
    at("concurrency", "-1", "-1 is out of range", "write a whole number from 1 to 4096");
    at("queue", "65537", "65537 is out of range", "write a whole number from 0 to 65536");
    at("deadline", "\"0s\"", "0s is out of range", "write a duration from 1ms to 1d");
    at("memory_max", "\"5GiB\"", "5GiB is out of range", "write a size from 64KiB to 4GiB");
    at("log_line_max", "0", "0B is out of range", "write a size from 1B to 1MiB");
    at("queue", "99999999999999999999", "a number beyond 64 bits", "write the value");
}

#[test]
fn malformed_values_show_examples() {
    check(
        "[calls]\ndeadline = \"5 s\"\n",
        "\"5 s\" is not a duration",
        "2:12",
        "\"5 s\"",
        "write a whole number with a unit, such as \"250ms\"",
    );
    check("[calls]\ndeadline = 5\n", "5 has no unit", "2:12", "5", "write \"5s\" for seconds");
    check(
        "[calls]\npayload_max = \"1MB\"\n",
        "\"1MB\" is not a size",
        "2:15",
        "\"1MB\"",
        "write a whole number with a unit, such as \"64MiB\"",
    );
    check(
        "[http]\nlisten = \"localhost:80\"\n",
        "is not an IP address with a port",
        "2:10",
        "\"localhost:80\"",
        "write an address such as \"127.0.0.1:8080\"",
    );
    check("[data]\ndir = \"\"\n", "\"\" is not a path", "2:7", "\"\"", "write the path");
}

#[test]
fn unaccepted_words_list_accepted() {
    check(
        "[data]\ndurability = \"half\"\n",
        "`data.durability` has a value that is not accepted",
        "2:14",
        "\"half\"",
        "accepted: \"full\"",
    );
    check(
        "[calls]\nroute = \"lokal\"\n",
        "`calls.route`",
        "2:9",
        "\"lokal\"",
        "did you mean \"local\"? accepted: \"local\" or \"loopback\" or \"remote\"",
    );
    check(
        "[modules.a]\ncomponent = \"a\"\ngrants = [\"sql\", \"net\"]\n",
        "`modules.a.grants.1`",
        "3:18",
        "\"net\"",
        "accepted: \"sql\"",
    );
}

#[test]
fn password_is_not_repeated() {
    for (key, value) in [("CLEAVE_DATA__URL", "postgres://u:secret@db"), ("CLEAVE_BUS__NATS", "u:secret@db")]
    {
        let mut sources = sources();
        sources.environment = pairs(&[(key, value)]);
        let shown = render(&parse("", &sources).unwrap_err());
        assert!(shown.contains(key) && !shown.contains("secret"), "{shown}");
    }
}

#[test]
fn bad_route_key_is_underlined() {
    let at = |key: &str, message, fix| {
        check(&format!("[http.routes]\n{key:?} = \"a:b/c.d\"\n"), message, "2:1", &format!("{key:?}"), fix);
    };
    at("get /x", "does not begin with a method", "write the method in capitals: GET");
    at("HEAD /x", "does not begin with a method", "remove the route: GET of the same path answers HEAD too");
    at("/x", "does not begin with a method", "write \"METHOD /path\"");
    at("GET x", "does not begin with `/`", "write one space and a path");
    at("GET /:id", "has the segment \":id\"", "write a parameter as {name}");
    at("GET /{a}/{a}", "has {a} twice", "give each parameter its own name");
}

#[test]
fn bad_route_value_is_underlined() {
    let text = "[http.routes]\n\"GET /\" = ";
    let fix = "write \"namespace:package/interface.function\"";
    check(
        &format!("{text}\"shop:orders/checkout\""),
        "is not a function of a contract",
        "2:11",
        "\"shop:orders/checkout\"",
        fix,
    );
    check(&format!("{text}{{ status = 201 }}"), "has no `call`", "2:11", "{ status = 201 }", "add call = ");
    let call = format!("{text}{{ call = \"a:b/c.d\", ");
    check(
        &format!("{call}status = 404 }}"),
        "404 is out of range",
        "2:40",
        "404",
        "write a whole number from 200 to 399",
    );
    check(
        &format!("{call}errors = {{ aB = 404 }} }}"),
        "\"aB\" is not a name in WIT",
        "2:42",
        "aB",
        "write the name as WIT does",
    );
    check(
        &format!("{call}errors = {{ gone = 200 }} }}"),
        "200 is out of range",
        "2:49",
        "200",
        "write a whole number from 400 to 599",
    );
    check(
        &format!("{call}when = {{ status = {{ pending = 404 }} }} }}"),
        "404 is out of range",
        "2:61",
        "404",
        "write a whole number from 200 to 399",
    );
    check(&format!("{call}location = \"/{{\" }}"), "is not a location", "2:42", "\"/{\"", "write a path");
}

#[test]
fn bad_path_for_files_is_underlined() {
    for path in ["a", "/a/", "/{a}", "/a//b", "/..", "/%2e", "/a b"] {
        let text = format!("[http.files]\n\"{path}\" = \"site\"");
        check(
            &text,
            "is not a path for files",
            "2:1",
            &format!("\"{path}\""),
            "write `/`, or a path without",
        );
    }
}

#[test]
fn passwords_are_not_in_the_lines_that_are_shown() {
    let shown = render(&bad("[data]\nurl = \"postgres://u:s3crét@h/db\""));
    assert!(shown.contains("postgres://u:*******@h/db") && !shown.contains("s3cr"), "{shown}");
}

#[test]
fn conflicting_routes_show_both() {
    let routes = "[http.routes]\n\"GET /a/{x}\" = \"a:b/c.d\"\n\"GET /a/{y}\" = \"a:b/c.d\"\n";
    check(routes, "answer the same requests", "3:1", "\"GET /a/{y}\"", "remove one");
    assert!(render(&bad(routes)).contains("conflicts with this one"));

    // Other methods may name the parameters as their functions do.
    let methods = "[http.routes]\n\"GET /a/{x}\" = \"a:b/c.d\"\n\"POST /a/{y}/b\" = \"a:b/c.d\"\n\"POST /a/{y}\" = \"a:b/c.d\"\n";
    assert_eq!(crate::good(methods).http.routes.len(), 3);
}

#[test]
fn missing_component_points_at_header() {
    check(
        "[modules.a]\nqueue = 1\n",
        "`modules.a` has no `component`",
        "1:1",
        "[modules.a]",
        "add component = ",
    );
}

#[test]
fn bad_module_name_is_underlined() {
    check(
        "[modules.Shop_1]\ncomponent = \"a\"\n",
        "\"Shop_1\" is not a module name",
        "1:10",
        "Shop_1",
        "write at most 63 lower-case letters",
    );
}

#[test]
fn syntax_error_has_caret() {
    check("[data]\ndir = \n", "not TOML: string values must be quoted", "2:7", "", "write text in quotes");
    check("[http\n", "not TOML: unclosed table", "1:6", "", "write `]` here");
    check("a = [", "not TOML: unclosed array", "1:5", "[", "write `]` here");
    check(
        "[data]\ndir = \"a\"\ndir = \"b\"\n",
        "not TOML: duplicate key",
        "3:1",
        "dir",
        "remove one of the two",
    );
}

#[test]
fn all_problems_come_in_order() {
    let text = "[http]\nlisen = 1\nbody_max = \"x\"\nlisten = \"y\"\n[modules.b]\n[modules.a]\ncomponent = 3\nqueue = -1\n";
    let problems = bad(text);
    let carets: Vec<_> = problems.0.iter().map(|problem| underlined(problem, text)).collect();
    assert_eq!(carets, ["lisen", "\"x\"", "\"y\"", "[modules.b]", "3", "-1"]);
    assert_eq!(problems.to_string(), "the configuration has 6 problems");
}

#[test]
fn problems_are_bounded() {
    let text = (0..500).map(|n| format!("key{n} = 1\n")).collect::<String>();
    assert_eq!(bad(&text).0.len(), 50);
}

#[test]
fn environment_and_flags_are_named() {
    let mut sources = sources();
    sources.environment = pairs(&[("CLEAVE_HTTP__LISTEN", "here"), ("CLEAVE_MODULES__A_B__QUEU", "1")]);
    sources.flags = pairs(&[("http.body_max", "big"), ("a b", "1"), ("modules.x.queue", "1")]);
    let problems = parse("[modules.a-b]\ncomponent = \"a\"\n[http]\nbody_max = 1\n", &sources).unwrap_err();
    let shown = render(&problems);
    assert!(!shown.contains("cleave.toml"), "{shown}");
    for part in [
        "\"here\" is not an IP address with a port (from the environment variable `CLEAVE_HTTP__LISTEN`)",
        "unknown key `queu` in `modules.a-b` (from the environment variable `CLEAVE_MODULES__A_B__QUEU`)",
        "\"big\" is not a size (from the flag `--set http.body_max`)",
        "\"a b\" is not a key (from the flag `--set a b`)",
        "`modules.x` has no `component` (from the flag `--set modules.x.queue`)",
    ] {
        assert!(shown.contains(part), "no {part:?} in:\n{shown}");
    }
    assert_eq!(problems.0.len(), 5, "{shown}");
}

proptest! {
    #[test]
    fn any_file_is_answered(text in any_toml()) {
        if let Err(problems) = parse(&text, &Sources::new("cleave.toml", "/")) {
            prop_assert!(!problems.0.is_empty());
            render(&problems);
        }
    }

    #[test]
    fn any_layer_is_answered(key in "[a-zA-Z_.\"= ]{0,20}", table in "(http|modules|nodes|bus|data|x)", value: String) {
        let sources = Sources {
            environment: vec![(format!("CLEAVE_{table}__{key}"), value.clone())],
            node: Some(value.clone()),
            flags: vec![(key.clone(), value.clone()), (format!("{table}.{key}"), value)],
            ..Sources::new("cleave.toml", "/")
        };
        if let Err(problems) = parse("", &sources) {
            render(&problems);
        }
    }
}

/// Arbitrary text, and text from the words of a configuration.
fn any_toml() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "[http]\n",
        "[http.routes]\n",
        "[modules.a]\n",
        "[data]\n",
        "[bus]\n",
        "nats",
        "\"nats://u:p@a\"",
        "[nodes.a]\n",
        "nodes",
        "modules",
        "\"a\"",
        "http",
        "listen",
        "body_max",
        "routes",
        "grants",
        "component",
        "\"GET /{x}\"",
        "\"POST /{y}\"",
        " = ",
        "\"a:b/c.d\"",
        "\"1MiB\"",
        "\"5s\"",
        "3",
        "-3",
        "[",
        "]",
        "{ ",
        " }",
        ", ",
        "\n",
        "\"",
        ".",
        "status",
        "errors",
        "call",
        "é",
        "1979-05-27",
        "\r\n",
        "#",
        "'''",
    ]);
    prop_oneof![any::<String>(), prop::collection::vec(word, 0..30).prop_map(|words| words.concat())]
}
