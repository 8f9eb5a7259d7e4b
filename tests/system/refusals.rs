//! What is refused before anything starts: config and components that cannot work, each with its place and its fix.

use cleave_tests::{ARRANGEMENTS, Application, built, component, stderr};

/// Checks an application whose module `m` has these bytes as its component, and gives what is said.
fn refused(component: &[u8]) -> String {
    let application = Application::new("[modules.m]\ncomponent = \"m.wasm\"\n");
    std::fs::write(application.folder.path().join("m.wasm"), component).unwrap();
    said_by_check(&application)
}

fn said_by_check(application: &Application) -> String {
    let output = application.run("check", &[]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "it was let through: {said}");
    // Nothing is refused without a fix.
    assert!(said.contains("help:"), "{said}");
    said.split_whitespace().collect::<Vec<_>>().join(" ").replace(" │ ", " ")
}

/// Several modules made from WIT text, `a` to `z` in order.
fn modules(texts: &[&str]) -> Application {
    let mut config = String::new();
    let application = Application::new("");
    for (name, text) in ('a'..='z').zip(texts) {
        std::fs::write(application.folder.path().join(format!("{name}.wasm")), component::from_wit(text))
            .unwrap();
        config += &format!("[modules.{name}]\ncomponent = \"{name}.wasm\"\n");
    }
    application.write(&config);
    application
}

#[test]
fn bytes_that_are_no_component_are_refused() {
    let whole = std::fs::read(built("victim")).unwrap();
    for (bytes, expected) in [
        (&b""[..], "is not WebAssembly"),
        (b"#!/bin/sh\necho no\n", "is not WebAssembly"),
        (b"\0asm\x01\0\0\0", "is a core module, not a component"),
        (&whole[..whole.len() / 2], "cannot be read"),
        (&whole[..9], "cannot be"),
    ] {
        let said = refused(bytes);
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(said.contains("cleave.toml:2"), "{said}");
    }
}

#[test]
fn damaged_components_are_refused_or_read() {
    let whole = std::fs::read(built("victim")).unwrap();
    for position in (8..whole.len()).step_by(whole.len() / 40) {
        let mut bytes = whole.clone();
        bytes[position] ^= 0x55;
        let application = Application::new("[modules.m]\ncomponent = \"m.wasm\"\n");
        std::fs::write(application.folder.path().join("m.wasm"), bytes).unwrap();
        // A flipped bit in code or a name may pass here; nothing may end the process otherwise than by its own word.
        let code = application.run("check", &[]).status.code();
        assert!(matches!(code, Some(0 | 1)), "byte {position}: {code:?}");
    }
}

#[test]
fn component_over_the_size_limit_is_refused() {
    let application = Application::new(&format!(
        "[engine]\ncomponent_max = \"1KiB\"\n[modules.m]\ncomponent = \"{}\"\n",
        built("victim").display()
    ));
    assert!(said_by_check(&application).contains("more than the 1024 bytes of `engine.component_max`"));
}

#[test]
fn code_that_is_not_valid_is_found_by_check() {
    // A function that gives 64 bits where 32 are promised.
    let wit = "package t:t; interface i { f: func() -> u32; } world w { export i; }";
    let mut bytes = component::from_wit(wit);
    let body = bytes.windows(3).position(|w| w == [0x00, 0x00, 0x0b]).expect("a body that is `unreachable`");
    bytes[body + 1] = 0x01;
    assert!(refused(&bytes).contains("is not valid"));
}

#[test]
fn component_that_is_no_file_is_refused() {
    for path in ["/dev/zero", "/"] {
        let application = Application::new(&format!("[modules.m]\ncomponent = \"{path}\"\n"));
        for verb in ["check", "up"] {
            let output = application.run(verb, &[]);
            assert_eq!(output.status.code(), Some(1), "{verb} {path}");
            assert!(stderr(&output).contains("not a file"), "{verb} {path}: {}", stderr(&output));
        }
    }
}

#[test]
fn contracts_carry_plain_values_only() {
    for (item, expected) in [
        ("resource r; f: func(x: borrow<r>);", "`t:t/i.f` has resource `r` in its type"),
        ("resource r; f: func() -> own<r>;", "`t:t/i.f` has resource `r` in its type"),
        ("resource r;", "has resource `r` in its type"),
    ] {
        let wit = format!("package t:t; interface i {{ {item} }} world w {{ export i; }}");
        let said = refused(&component::from_wit(&wit));
        assert!(said.contains(expected), "{item}: {said}");
    }
}

#[test]
fn type_nested_too_deeply_is_refused() {
    let deep = format!("{}u8{}", "list<".repeat(70), ">".repeat(70));
    let wit = format!("package t:t; interface i {{ f: func(x: {deep}); }} world w {{ export i; }}");
    assert!(refused(&component::from_wit(&wit)).contains("nested more than 64 deep"));
}

#[test]
fn type_that_doubles_with_every_link_is_refused() {
    let mut types = "record r0 { a: u8, b: u8 }".to_owned();
    for n in 1..15 {
        types += &format!(" record r{n} {{ a: r{p}, b: r{p} }}", p = n - 1);
    }
    let wit =
        format!("package t:t; interface i {{ {types} f: func(x: list<r14>); }} world w {{ export i; }}");
    assert!(refused(&component::from_wit(&wit)).contains("more than 10000 parts"));
}

#[test]
fn failure_has_one_place_called_failed() {
    let wit = |cases: &str| {
        format!(
            "package t:t; interface i {{ use cleave:call/types@0.1.0.{{failure}}; variant e {{ {cases} }} \
             f: func() -> result<u8, e>; }} world w {{ export i; }}"
        )
    };
    let said = refused(&component::from_wit(&wit("broken(failure)")));
    assert!(said.contains("calls the case for a failed call `broken`; it must be `failed`"), "{said}");
    let said = refused(&component::from_wit(&wit("failed(failure), again(failure)")));
    assert!(said.contains("two cases for a failed call"), "{said}");
}

#[test]
fn failure_of_another_owner_is_no_place() {
    let wit = "package t:t; interface i { variant failure { unavailable(string), uncertain(string) } \
               f: func() -> result<u8, failure>; } world w { export i; }";
    let application = modules(&[wit]);
    let output = application.run("check", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("`t:t/i.f` has no place for a failed call"), "{}", stderr(&output));
}

#[test]
fn import_that_nobody_provides_is_refused() {
    let said = said_by_check(&modules(&["package t:t; interface i { f: func(); } world w { import i; }"]));
    assert!(said.contains("`a` imports the contract `t:t/i`, which no module exports"), "{said}");
    let said = said_by_check(&modules(&[
        "package t:t; package wasi:http@0.2.6 { interface outgoing-handler { f: func(); } } \
         world w { import wasi:http/outgoing-handler@0.2.6; }",
    ]));
    assert!(
        said.contains("`a` imports `wasi:http/outgoing-handler@0.2.6`, which this host does not have"),
        "{said}"
    );
}

#[test]
fn import_that_was_not_granted_is_refused() {
    let said = said_by_check(&modules(&["package t:t; world w { import cleave:sql/database@0.1.0; }"]));
    assert!(said.contains("`a` imports `cleave:sql/database@0.1.0`, which it was not granted"), "{said}");
    assert!(said.contains("add `grants = [\"sql\"]` to `[modules.a]`"), "{said}");
}

#[test]
fn two_exporters_of_one_contract_are_refused() {
    let wit = "package t:t; interface i { f: func(); } world w { export i; }";
    let said = said_by_check(&modules(&[wit, wit]));
    assert!(said.contains("`a` and `b` both export the contract `t:t/i`"), "{said}");
}

#[test]
fn cycle_of_imports_is_refused_with_the_way_round() {
    let world = |imports: &str, exports: &str| {
        format!(
            "package t:t; interface x {{ f: func(); }} interface y {{ f: func(); }} interface z {{ f: func(); }} \
             world w {{ import {imports}; export {exports}; }}"
        )
    };
    let said = said_by_check(&modules(&[&world("y", "x"), &world("z", "y"), &world("x", "z")]));
    assert!(said.contains("modules call each other in a cycle: `a` → `b` → `c` → `a`"), "{said}");
    let said = said_by_check(&modules(&[&world("x", "x")]));
    assert!(said.contains("`a` → `a`"), "{said}");
}

#[test]
fn types_that_differ_are_refused_with_both() {
    let wit = |ty: &str, how: &str| {
        format!("package t:t; interface i {{ f: func(x: {ty}); }} world w {{ {how} i; }}")
    };
    let said = said_by_check(&modules(&[&wit("u32", "export"), &wit("u64", "import")]));
    assert!(said.contains("func(x: u64)") && said.contains("func(x: u32)"), "{said}");
}

#[test]
fn function_that_the_exporter_lacks_is_refused() {
    let said = said_by_check(&modules(&[
        "package t:t; interface i { f: func(); } world w { export i; }",
        "package t:t; interface i { g: func(); } world w { import i; }",
    ]));
    assert!(said.contains("`b` imports `t:t/i.g`, which `a` does not export"), "{said}");
}

#[test]
fn wrong_keys_point_at_their_place() {
    let shop = cleave_tests::shop_config(ARRANGEMENTS[0]);
    for (from, to, expected) in [
        ("listen =", "lisen =", "listen"),
        ("\"shop:catalog/products.get\"", "\"shop:catalog/products.gte\"", "no function `gte`"),
        ("\"shop:catalog/products.get\"", "\"shop:catalogue/products.get\"", "no module exports"),
        ("/api/products/{sku}", "/api/products/{code}", "`code`"),
        ("errors = { unknown-products = 422", "errors = { nothing = 422", "nothing"),
        ("GET /api/products\"", "GET /livez\"", "/livez"),
        ("catalog.wasm", "catalogue.wasm", "catalogue.wasm"),
        ("route = \"local\"", "route = \"nowhere\"", "loopback"),
        ("instances = \"pooled\"", "instances = \"pooled\"\nconcurrency = 0", "concurrency"),
    ] {
        let application = Application::new(&shop.replace(from, to));
        let said = said_by_check(&application);
        assert!(said.contains(expected) && said.contains("cleave.toml:"), "{to}: {said}");
    }
}

#[test]
fn settings_that_cannot_work_are_told_by_check() {
    let shop = cleave_tests::shop_config(ARRANGEMENTS[0]);
    for (from, to, expected) in [
        ("[calls]", "[log]\nfilter = \"a=b=c\"\n[calls]", "`a=b=c` is not a log filter"),
        ("grants = [\"sql\"]", "", "has migrations and no database to run them on"),
        ("[calls]", "[calls]\ndeadline = \"50ms\"", "deadline"),
        ("status = 201", "status = 204", "status 204 has no body"),
        ("/api/orders/{id}\", errors", "/api/orders/{idd}\", errors", "idd"),
    ] {
        let said = said_by_check(&Application::new(&shop.replace(from, to)));
        assert!(said.contains(expected) && said.contains("cleave.toml:"), "{to}: {said}");
    }
}

#[test]
fn memory_below_what_a_module_starts_with_is_told() {
    let application = crate::calls::zoo(ARRANGEMENTS[0], "", "memory_max = \"64KiB\"");
    let output = application.run("up", &[]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("module `hostile` starts with") && said.contains("raise `memory_max`"), "{said}");
}

#[test]
fn port_in_use_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let application =
        Application::new(&cleave_tests::shop_config(ARRANGEMENTS[0]).replace("127.0.0.1:0", &address));
    let output = application.run("up", &[]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&format!("cannot listen at {address}")) && said.contains("listen ="), "{said}");
    assert!(said.contains("a free port"), "{said}");
}

#[test]
fn missing_config_is_told() {
    let application = Application::new("");
    std::fs::remove_file(application.config()).unwrap();
    let said = said_by_check(&application);
    assert!(said.contains("cleave.toml"), "{said}");
}
