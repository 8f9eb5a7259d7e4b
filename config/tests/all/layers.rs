//! Defaults, file, environment, flags: each wins over the one before.

use std::path::Path;
use std::time::Duration;

use cleave_config::{CallRoute, Grant, Instances, LogFormat, Sources, parse};

use crate::{good, pairs, sources};

#[test]
fn empty_file_means_defaults() {
    let config = good("");
    assert_eq!(config.http.listen, None);
    assert_eq!(config.http.header_timeout, Duration::from_secs(10));
    assert_eq!(config.http.connections_max, 1024);
    assert_eq!(config.calls.payload_max, 1000 * 1024);
    assert_eq!(config.calls.route, CallRoute::Local);
    assert_eq!(config.data.dir, Path::new("/app/data"));
    assert_eq!(config.cache_dir(), Path::new("/app/data/cache"));
    assert_eq!(config.log.format, LogFormat::Text);
    assert!(config.bus.nats.is_none() && config.nodes.is_empty() && config.calls.idempotent.is_empty());
    assert_eq!((config.bus.prefix.as_str(), config.bus.silent_after), ("cleave", Duration::from_secs(4)));
    assert_eq!(config.drain.timeout, Duration::from_secs(30));
    assert!(config.modules.is_empty());
}

#[test]
fn module_keys_have_defaults() {
    let config = good("[modules.a]\ncomponent = \"a.wasm\"");
    let module = &config.modules["a"];
    assert_eq!((module.concurrency, module.queue, module.idle_max()), (32, 256, 32));
    assert_eq!(module.deadline, Duration::from_secs(5));
    assert_eq!(module.memory_max, 64 * 1024 * 1024);
    assert_eq!(module.instances, Instances::Pooled);
    assert!(module.grants.is_empty() && module.build.is_none() && module.migrations.is_none());
}

#[test]
fn every_key_can_be_written() {
    let config = good(include_str!("everything.toml"));
    assert_eq!(config.http.routes.len(), 2);
    assert_eq!((config.bus.nats.as_ref().unwrap().urls().count(), config.calls.idempotent.len()), (2, 2));
    assert_eq!(config.nodes["front"].listen.unwrap().port(), 8080);
    let module = &config.modules["order-history"];
    assert!(module.grants.contains(&Grant::Sql));
    assert_eq!(module.idle_max(), 2);
    assert_eq!(config.cache_dir(), Path::new("/var/cache/cleave"));
}

#[test]
fn higher_layer_wins() {
    let file = "[http]\nconnections_max = 2";
    let mut sources = sources();
    let connections = |sources: &Sources, text| parse(text, sources).unwrap().http.connections_max;

    assert_eq!(connections(&sources, ""), 1024);
    assert_eq!(connections(&sources, file), 2);
    sources.environment = pairs(&[("CLEAVE_HTTP__CONNECTIONS_MAX", "3")]);
    assert_eq!(connections(&sources, file), 3);
    sources.flags = pairs(&[("http.connections_max", "4"), ("http.connections_max", "5")]);
    assert_eq!(connections(&sources, file), 5);
}

#[test]
fn layers_add_their_keys() {
    let mut sources = sources();
    sources.environment = pairs(&[
        ("CLEAVE_MODULES__ORDER_HISTORY__QUEUE", "7"),
        ("CLEAVE_NODES__BACK_OFFICE__LISTEN", "127.0.0.1:80"),
        ("CLEAVE_MODULES__ORDER_HISTORY__GRANTS", "[\"sql\"]"),
        ("CLEAVE_NODES__BACK_OFFICE__MODULES", "[\"order-history\"]"),
    ]);
    sources.flags = pairs(&[
        ("modules.order-history.deadline", "1m"),
        ("http.routes.\"GET /a.b\"", "shop:orders/history.list"),
    ]);
    let config = parse("[modules.order-history]\ncomponent = \"a.wasm\"\nconcurrency = 4", &sources).unwrap();
    let module = &config.modules["order-history"];
    assert_eq!((module.concurrency, module.queue), (4, 7));
    assert_eq!(module.deadline, Duration::from_secs(60));
    assert!(module.grants.contains(&Grant::Sql));
    assert_eq!(config.nodes["back-office"].listen.unwrap().port(), 80);
    assert_eq!(config.nodes_of("order-history").len(), 1);
    assert_eq!(config.http.routes.keys().next().unwrap().to_string(), "GET /a.b");
}

#[test]
fn other_variables_are_left_alone() {
    let mut sources = sources();
    sources.environment =
        pairs(&[("CLEAVE_PORT", "tcp://10.0.0.1:80"), ("CLEAVE_HOME", "/"), ("HTTP__LISTEN", "x")]);
    assert_eq!(parse("", &sources).unwrap().http.listen, None);
}

#[test]
fn text_that_looks_otherwise_stays_text() {
    let mut sources = sources();
    sources.flags = pairs(&[
        ("modules.a.build", "true"),
        ("modules.a.component", "12"),
        ("modules.a.migrations", "0x10"),
        ("log.filter", "\"warn\""),
    ]);
    let config = parse("", &sources).unwrap();
    let module = &config.modules["a"];
    assert_eq!(module.build.as_deref(), Some("true"));
    assert_eq!(module.component, Path::new("/cwd/12"));
    assert_eq!(module.migrations.as_deref(), Some(Path::new("/cwd/0x10")));
    assert_eq!(config.log.filter, "warn");
}

#[test]
fn paths_start_where_written() {
    let mut sources = Sources::new("shop/cleave.toml", "/cwd");
    sources.environment = pairs(&[("CLEAVE_MODULES__B__COMPONENT", "./b.wasm")]);
    sources.flags = pairs(&[("data.dir", "run/data"), ("engine.cache", "/abs")]);
    sources.flags.extend(pairs(&[("bus.key", "my.key"), ("nodes.n.data", "n")]));
    let file = "[modules.a]\ncomponent = \"./a.wasm\"\nmigrations = \"../sql\"\n\
                [bus]\ncredentials = \"c\"\nca = \"ca\"\ncertificate = \"pem\"\n\
                [nodes.m]\ndata = \"m\"\nmodules = [\"a\", \"b\"]";
    let config = parse(file, &sources).unwrap();
    let of_the_bus = [&config.bus.credentials, &config.bus.ca, &config.bus.certificate, &config.bus.key]
        .map(Option::as_deref);
    assert_eq!(
        of_the_bus,
        ["shop/c", "shop/ca", "shop/pem", "my.key"]
            .map(|path| Path::new("/cwd").join(path))
            .each_ref()
            .map(|path| Some(path.as_path()))
    );
    assert_eq!(config.nodes["m"].data.as_deref(), Some(Path::new("/cwd/shop/m")));
    assert_eq!(config.nodes["n"].data.as_deref(), Some(Path::new("/cwd/n")));
    assert_eq!(config.modules["a"].component, Path::new("/cwd/shop/a.wasm"));
    assert_eq!(config.modules["a"].migrations.as_deref(), Some(Path::new("/cwd/shop/../sql")));
    assert_eq!(config.modules["b"].component, Path::new("/cwd/b.wasm"));
    assert_eq!(config.data.dir, Path::new("/cwd/run/data"));
    assert_eq!(config.cache_dir(), Path::new("/abs"));
    assert_eq!(config.origin().file(), Path::new("/cwd/shop/cleave.toml"));
    assert_eq!(config.origin().folder(), Path::new("/cwd/shop"));
}

#[test]
fn sizes_may_be_plain_bytes() {
    assert_eq!(good("[http]\nbody_max = 4096").http.body_max, 4096);
    assert_eq!(good("[http]\nbody_max = \"4KiB\"").http.body_max, 4096);
}

#[test]
fn route_is_text_or_table() {
    let config = good(
        "[http.routes]\n\"GET /a\" = \"shop:orders/history.list\"\n\
         \"POST /a\" = { call = \"shop:orders/checkout@1.0.0.place\", status = 201, \
         location = \"/a/{id}\", errors = { unknown-products = 422 } }",
    );
    let [get, post] = config.http.routes.values().collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!((get.call.to_string().as_str(), get.status), ("shop:orders/history.list", None));
    assert_eq!(post.call.to_string(), "shop:orders/checkout@1.0.0.place");
    assert_eq!((post.status, post.location.as_deref()), (Some(201), Some("/a/{id}")));
    assert_eq!(post.errors["unknown-products"], 422);
}
