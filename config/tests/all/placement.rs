//! Nodes and the bus: what a config says about each node, and what is said about placements that cannot be.

use std::path::Path;

use cleave_config::{Config, Problem, Sources, parse};

use crate::problems::check;
use crate::{good, pairs, render, sources};

const MODULES: &str = "[modules.catalog]\ncomponent = \"c\"\n[modules.orders]\ncomponent = \"o\"\n";

fn at_node(text: &str, node: &str) -> Config {
    parse(text, &Sources { node: Some(node.to_owned()), ..sources() }).unwrap()
}

fn names(config: &Config, module: &str) -> Vec<String> {
    config.nodes_of(module).iter().map(|node| node.to_string()).collect()
}

#[test]
fn without_nodes_everything_is_here() {
    let config = good(&format!("[http]\nlisten = \"127.0.0.1:80\"\n{MODULES}"));
    assert!(config.node().is_none() && config.is_here("catalog") && names(&config, "catalog").is_empty());
    assert_eq!(config.listen(), config.http.listen);
    assert_eq!(config.data_dir(), Path::new("/app/data"));
}

#[test]
fn module_has_its_own_database_or_that_of_all() {
    let of = |text: &str, module: &str| {
        let config = good(text);
        let (database, key) = config.database_of(module);
        (database.to_string(), key.join("."))
    };
    let found = |database: &str, key: &str| (database.to_owned(), key.to_owned());
    let text =
        "[modules.catalog]\ncomponent = \"c\"\n[modules.orders]\ncomponent = \"o\"\nurl = \"sqlite\"\n";
    assert_eq!(of(text, "catalog"), found("sqlite", "data.url"));
    let text = format!("{text}[data]\nurl = \"postgres://u:p@h/d\"");
    assert_eq!(of(&text, "catalog"), found("postgres://u:p@h/d", "data.url"));
    assert_eq!(of(&text, "orders"), found("sqlite", "modules.orders.url"));
}

#[test]
fn node_has_its_modules_address_and_folder() {
    let text = format!(
        "{MODULES}[nodes.back]\nmodules = [\"catalog\", \"orders\"]\ndata = \"b\"\n\
         [nodes.front]\nmodules = [\"catalog\"]\nlisten = \"127.0.0.1:81\""
    );
    let back = at_node(&text, "back");
    assert_eq!(back.node().unwrap().as_str(), "back");
    assert_eq!(
        (names(&back, "catalog"), names(&back, "orders")),
        (vec!["back".into(), "front".into()], vec!["back".into()])
    );
    assert!(back.is_here("catalog") && back.is_here("orders"));
    assert_eq!((back.listen(), back.data_dir().as_path()), (None, Path::new("/app/b")));

    let front = at_node(&text, "front");
    assert!(front.is_here("catalog") && !front.is_here("orders"));
    assert_eq!(front.listen().unwrap().port(), 81);
    assert_eq!(front.data_dir(), Path::new("/app/data/front"));
    assert_eq!(front.cache_dir(), Path::new("/app/data/front/cache"));
    assert_eq!(front.data_dir_of(back.node().unwrap()), Path::new("/app/b"));

    let whole = good(&text);
    assert!(whole.node().is_none() && whole.is_here("orders"));
    assert_eq!(whole.data_dir(), Path::new("/app/data"));
}

#[test]
fn unknown_node_names_the_others() {
    let says = |text: &str, node: &str| {
        let problems = parse(text, &Sources { node: Some(node.to_owned()), ..sources() }).unwrap_err();
        assert_eq!(problems.0.len(), 1, "{}", render(&problems));
        render(&problems)
    };
    let near = says("[nodes.front]\n[nodes.back]", "frnt");
    assert!(near.contains("there is no node \"frnt\""), "{near}");
    assert!(near.contains("help: did you mean `front`? the nodes are: back, front"), "{near}");
    let far = says("[nodes.front]\n[nodes.back]", "x");
    assert!(far.contains("help: the nodes are: back, front"), "{far}");
    let none = says("", "front");
    assert!(none.contains("there are no nodes, and so no node \"front\""), "{none}");
    assert!(none.contains("help: leave `--node` out, or add `[nodes.front]`"), "{none}");
    // What is wrong with the node itself is said, and no more.
    assert!(says("nodes.front = 1", "front").contains("`nodes.front` takes a table"));
    assert!(says("nodes = []", "front").contains("`nodes` takes a table"));
}

#[test]
fn module_of_a_node_exists() {
    let at = |written: &str, fix| {
        let text = format!("{MODULES}[nodes.a]\nmodules = [\"orders\", {written}, \"catalog\"]\n");
        check(&text, "there is no module `", "6:22", written, fix);
    };
    at("\"catlog\"", "did you mean \"catalog\"?");
    at("'payments'", "add `[modules.payments]`, or remove it here");
    let mut sources = sources();
    sources.flags = pairs(&[("nodes.a.modules", "[\"x\"]")]);
    let shown = render(&parse("[nodes.a]\nmodules = [\"x\"]\n", &sources).unwrap_err());
    assert!(shown.contains("there is no module `x` (from the flag `--set nodes.a.modules`)"), "{shown}");
    check(
        "[nodes.a]\nmodules = [\"Shop_1\"]\n",
        "\"Shop_1\" is not a module name",
        "2:12",
        "\"Shop_1\"",
        "write at most 63 lower-case letters",
    );
}

#[test]
fn module_without_a_node_is_told() {
    check(
        &format!("{MODULES}[nodes.a]\nmodules = [\"catalog\"]\n[nodes.b]\n"),
        "`orders` is on no node",
        "3:10",
        "orders",
        "add it to the `modules` of one of the nodes: a, b",
    );
    // One mistake is told once: a list that is wrong places nothing.
    check(
        &format!("{MODULES}[nodes.a]\nmodules = \"catalog\"\n"),
        "takes a list",
        "6:11",
        "\"catalog\"",
        "write a list",
    );
    check(
        "modules.a = 1\nnodes.b.modules = [\"a\"]\n",
        "`modules.a` takes a table",
        "1:13",
        "1",
        "write a table",
    );
}

#[test]
fn bad_node_name_is_underlined() {
    check(
        "[nodes.\"A b\"]\n",
        "\"A b\" is not the name of a node",
        "1:8",
        "\"A b\"",
        "write at most 63 lower-case letters",
    );
}

#[test]
fn folder_of_data_belongs_to_one_node() {
    check(
        "[nodes.a]\n[nodes.b]\ndata = \"./data/a\"\n",
        "nodes `a` and `b` both keep their data in /app/data/a",
        "3:8",
        "\"./data/a\"",
        "give each node a folder of its own, or leave `data` out",
    );
    check(
        "[nodes.a]\ndata = \"data/b\"\n[nodes.b]\n",
        "nodes `a` and `b` both keep their data in /app/data/b",
        "2:8",
        "\"data/b\"",
        "give each node a folder",
    );
}

#[test]
fn nodes_listen_for_themselves() {
    check(
        "[http]\nlisten = \"127.0.0.1:80\"\n[nodes.a]\n[nodes.b]\n",
        "`http.listen` is set, and there are nodes",
        "2:10",
        "\"127.0.0.1:80\"",
        "give it to a node, as `nodes.NAME.listen`; the nodes are: a, b",
    );
}

#[test]
fn malformed_servers_are_told_what_is_wrong() {
    let at = |value: &str, message, fix| {
        check(&format!("[bus]\nnats = \"{value}\"\n"), message, "2:8", &format!("\"{value}\""), fix);
    };
    at("http://a", "`bus.nats`: the URL does not begin with `nats://` or `tls://`", "write a URL such as");
    at("a:4222", "the URL does not begin with `nats://` or `tls://`", "write a URL such as");
    at("", "the URL is empty", "write a URL such as");
    at("nats://a,", "URL 2 of 2 is empty", "write a URL such as \"nats://127.0.0.1:4222\", and a comma only");
    at("nats://a, nats://b", "there is whitespace in it", "write the URLs without spaces");
    at("nats://", "the URL has no host", "write the name or the address");
    at("nats://:4222", "the URL has no host", "write the name or the address");
    at("nats://a_b!", "neither a name nor an address", "write one such as host.example.com");
    at("nats://[::g]", "neither a name nor an address", "write one such as host.example.com");
    for port in ["0", "65536", "+1", "", "a"] {
        at(
            &format!("nats://a:{port}"),
            "a port that is not a number from 1 to 65535",
            "write one behind the `:`",
        );
    }
    at("tls://a/b", "has more than a host and a port", "remove the path and the query");
    at("tls://a?b", "has more than a host and a port", "remove the path and the query");
    at("nats://token@a", "a user without a password", "write user:password@host");
    at("nats://u:@a", "a user or a password that is empty", "write user:password@host, with `@` as %40");
    at("nats://u:%4@a", "a character there that URLs do not have", "write user:password@host, with `@`");
    at(
        "nats://u:p@a,nats://b",
        "differ in their user or password",
        "write the same `user:password@` in each",
    );
}

#[test]
fn malformed_prefix_is_underlined() {
    check(
        "[bus]\nprefix = \"shop.*\"\n",
        "`bus.prefix`: \"shop.*\" is not the first part of a subject",
        "2:10",
        "\"shop.*\"",
        "write 1 to 8 words of a-z",
    );
}

#[test]
fn keys_of_the_bus_that_need_each_other_are_told() {
    check(
        "[bus]\ncertificate = \"c.pem\"\n",
        "`bus.certificate` needs `bus.key`",
        "2:15",
        "\"c.pem\"",
        "add key = \"path/to/key.pem\", or remove `certificate`",
    );
    check(
        "[bus]\nkey = \"k.pem\"\n",
        "`bus.key` needs `bus.certificate`",
        "2:7",
        "\"k.pem\"",
        "add certificate = \"path/to/certificate.pem\", or remove `key`",
    );
    check("[bus]\nkey = \"k.pem\"\ncertificate = 1\n", "takes text", "3:15", "1", "write text in quotes");
    check(
        "[calls]\nroute = \"remote\"\n",
        "`calls.route` is \"remote\", and there is no `bus.nats`",
        "2:9",
        "\"remote\"",
        "add nats = \"nats://127.0.0.1:4222\" to `[bus]`, or write route = \"loopback\"",
    );
    check(
        "[bus]\nsilent_after = \"1999ms\"\n",
        "`bus.silent_after` is 1s999ms, less than twice the 1s of `bus.heartbeat`",
        "2:16",
        "\"1999ms\"",
        "write silent_after = \"2s\" or more, or heartbeat = \"999ms\" or less",
    );
    check(
        "[bus]\nheartbeat = \"3s\"\n",
        "`bus.silent_after` is 4s, less than twice the 3s of `bus.heartbeat`",
        "2:13",
        "\"3s\"",
        "write silent_after = \"6s\" or more, or heartbeat = \"2s\" or less",
    );
    check("[bus]\nheartbeat = 3\nsilent_after = \"1s\"\n", "3 has no unit", "2:13", "3", "write \"3s\"");
    good("[bus]\nheartbeat = \"2s\"");
}

#[test]
fn bus_that_others_may_reach_is_told() {
    let exposed = |keys: &str| good(&format!("[bus]\n{keys}\n")).exposed_bus();
    for safe in [
        "",
        "nats = \"nats://127.0.0.1,nats://[::1]:1,nats://localhost\"",
        "nats = \"tls://me:secret@nats.example.com\"",
        "nats = \"tls://nats.example.com\"\ncredentials = \"a.creds\"",
        "nats = \"tls://nats.example.com\"\ncertificate = \"a.pem\"\nkey = \"a.key\"",
    ] {
        assert!(exposed(safe).is_none(), "{safe}");
    }
    let says = |keys: &str| -> Problem { exposed(keys).unwrap_or_else(|| panic!("{keys}")) };
    for (keys, lacks) in [
        ("nats = \"nats://localhost,nats://nats.example.com:1\"", "TLS and credentials"),
        ("nats = \"nats://me:secret@nats.example.com\"", "TLS"),
        ("nats = \"nats://nats.example.com,tls://b\"\ncredentials = \"a\"", "TLS"),
        ("nats = \"tls://nats.example.com\"", "credentials"),
    ] {
        let problem = says(keys);
        let message = format!("`bus.nats` leaves this machine for \"nats.example.com\" without {lacks}");
        assert_eq!(problem.to_string(), message);
        assert!(problem.fix().starts_with("use `tls://` and `bus.credentials`, or start with `--insecure`"));
        let shown = render(&problem);
        assert!(shown.contains("[/app/cleave.toml:2:8]") && !shown.contains("secret"), "{shown}");
    }
}
