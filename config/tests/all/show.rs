//! What `cleave config show` prints: a file that means the same, and where each value comes from.

use cleave_config::{Config, Sources, parse};
use proptest::prelude::*;

use crate::schema::{Both, toml};
use crate::{good, pairs, sources};

/// Everything but where the values come from.
fn meaning(config: &Config) -> String {
    format!("{config:?}")
}

fn shows_itself(text: &str) -> String {
    let config = good(text);
    let shown = config.show(false).unwrap();
    let again = parse(&shown, &sources()).unwrap_or_else(|problems| panic!("{problems:?}\n{shown}"));
    assert_eq!(meaning(&again), meaning(&config));
    assert_eq!(again.show(false).unwrap(), shown);
    let with_origins = config.show(true).unwrap();
    assert_eq!(parse(&with_origins, &sources()).unwrap().show(false).unwrap(), shown, "{with_origins}");
    shown
}

#[test]
fn shown_config_means_the_same() {
    shows_itself("");
    shows_itself(include_str!("everything.toml"));
    shows_itself(include_str!("../../../examples/ecommerce/cleave.toml"));
    let both = Both::new();
    for key in both.keys() {
        let ends =
            ["minimum", "maximum", "x-minimum", "x-maximum"].iter().filter_map(|end| key.schema.get(*end));
        let choices = key.schema["oneOf"].as_array().into_iter().flatten().map(|choice| &choice["const"]);
        for value in ends.chain(choices) {
            shows_itself(&toml(&both.document(&key.path, value)));
        }
    }
}

#[test]
fn every_key_is_shown() {
    let shown = shows_itself(
        "[http.routes]\n\"GET /a\" = { call = \"a:b/c.d\", when = { a = { a = 202 } }, errors = { a = 400 } }\n\
         [http.files]\n\"/a\" = \"a\"\n[modules.a]\ncomponent = \"a\"\n[modules.a.schedule.a]\nevery = \"1s\"\n\
         [nodes.a]\nmodules = [\"a\"]",
    );
    let mut seen = 0;
    for key in Both::new().keys().iter().filter(|key| key.schema["type"] != "object") {
        let name = key.path.last().unwrap();
        // What is no plain word has quotes.
        let name = if name.starts_with('/') { format!("{name:?}") } else { name.clone() };
        if key.schema["anyOf"].is_null() {
            seen += 1;
            let (value, comment) = (format!("\n{name} = "), format!("\n# {name} is not set"));
            assert!(shown.contains(&value) || shown.contains(&comment), "{:?}\n{shown}", key.path);
        }
    }
    assert!(seen > 40);
}

#[test]
fn keys_are_shown_in_tables() {
    let shown = shows_itself(
        "[http.routes]\n\"GET /a.b\" = \"a:b/c.d\"\n[data]\ndir = \"d\"\n[modules.a]\ncomponent = \"a\"",
    );
    for part in
        ["[http.routes]\n\"GET /a.b\" = \"a:b/c.d\"\n", "\ndir = \"/app/d\"\n", "\n# cache is not set\n"]
    {
        assert!(shown.contains(part), "no {part:?} in:\n{shown}");
    }
    assert!(!shown.contains("[modules]\n"));
}

#[test]
fn origins_name_line_variable_and_flag() {
    let file = "[http]\nlisten = \"127.0.0.1:1\"\nbody_max = 1\n\n[modules.a]\ncomponent = \"\"\"\na\"\"\"\n\
                grants = [\n  \"sql\",\n]\n[modules.a.schedule]\nt.every = \"1s\"\n";
    let mut sources = Sources::new("some/cleave.toml", "/cwd");
    sources.environment = pairs(&[("CLEAVE_CALLS__DEADLINE", "1s"), ("CLEAVE_HTTP__LISTEN", "127.0.0.1:2")]);
    sources.flags = pairs(&[("http", "{ header_timeout = \"2s\" }"), ("modules.a.queue", "1")]);
    let shown = parse(file, &sources).unwrap().show(true).unwrap();
    for line in [
        "deadline = \"1s\"  # environment CLEAVE_CALLS__DEADLINE",
        "listen = \"127.0.0.1:2\"  # environment CLEAVE_HTTP__LISTEN",
        "body_max = \"1B\"  # some/cleave.toml:3",
        "header_timeout = \"2s\"  # --set http=…",
        "connections_max = 1024  # default",
        "component = \"/cwd/some/a\"  # some/cleave.toml:6",
        "grants = [\"sql\"]  # some/cleave.toml:8",
        "queue = 1  # --set modules.a.queue=…",
        "every = \"1s\"  # some/cleave.toml:12",
        "# idle_max is not set",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "no {line:?} in:\n{shown}");
    }
}

#[test]
fn path_starts_where_its_own_layer_says() {
    let mut sources = sources();
    sources.flags = pairs(&[("data", "{ readers = 2 }")]);
    let config = parse("[data]\ndir = \"d\"", &sources).unwrap();
    assert_eq!((config.data.readers, config.data.dir.to_str()), (2, Some("/app/d")));
}

#[test]
fn passwords_are_not_shown() {
    let mut sources = sources();
    sources.flags = pairs(&[("modules.a.build", "curl https://me:secret@host/x")]);
    let shown = parse("[modules.a]\ncomponent = \"a\"", &sources).unwrap().show(true).unwrap();
    assert!(shown.contains("build = \"curl https://me:***@host/x\"  # --set modules.a.build=…"), "{shown}");
    assert!(!shown.contains("secret"));
    let shown = shows_itself("[bus]\nnats = \"nats://me:***@a,nats://me:***@b\"");
    let config = good("[bus]\nnats = \"nats://me:secret@a,nats://me:secret@b\"");
    assert_eq!(config.show(false).unwrap(), shown);
    assert!(shown.contains("\nnats = \"nats://me:***@a,nats://me:***@b\"\n"), "{shown}");
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn passwords_of_databases_are_not_shown() {
    let url = "url = \"postgres://u:secret@h/d\"";
    let config = good(&format!("[data]\n{url}\n[modules.a]\ncomponent = \"a\"\n{url}"));
    let shown = config.show(true).unwrap();
    assert_eq!(shown.matches("postgres://u:***@h/d").count(), 2, "{shown}");
    assert!(!shown.contains("secret") && !format!("{config:?}").contains("secret"), "{shown}");
}

#[test]
fn name_with_a_line_break_stays_in_its_comment() {
    let sources = Sources::new("a\n[b", "/cwd");
    let shown = parse("[log]\nfilter = \"a\"", &sources).unwrap().show(true).unwrap();
    assert!(shown.contains("filter = \"a\"  # a\u{fffd}[b:2\n"), "{shown}");
}

proptest! {
    #[test]
    fn any_text_is_shown_as_it_is(text in "[^:]*") {
        let mut sources = sources();
        sources.flags = pairs(&[("log.filter", &text)]);
        let Ok(config) = parse("", &sources) else { return Ok(()) };
        let again = parse(&config.show(true).unwrap(), &crate::sources()).unwrap();
        prop_assert_eq!(again.log.filter, config.log.filter);
    }
}

#[cfg(unix)]
#[test]
fn path_that_is_not_text_is_told() {
    use std::os::unix::ffi::OsStrExt;
    let folder = std::path::Path::new(std::ffi::OsStr::from_bytes(b"/caf\xe9"));
    let config = parse("", &Sources::new("cleave.toml", folder)).unwrap();
    let problem = config.show(false).unwrap_err();
    assert!(problem.to_string().contains("is not text"), "{problem}");
    assert_eq!(problem.fix(), "rename what is not UTF-8 text");
}
