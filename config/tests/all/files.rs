//! The file itself, the files it names, and problems found after loading.

use std::fs;

use cleave_config::{Config, Sources, load};

use crate::{good, render};

#[test]
fn file_is_read_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cleave.toml"), "[data]\ndir = \"d\"").unwrap();
    let config = load(&Sources::new("cleave.toml", folder.path())).unwrap();
    assert_eq!(config.data.dir, folder.path().join("d"));
}

#[test]
fn unreadable_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("latin.toml"), [b'#', 0xe9]).unwrap();
    let says = |file: &str| render(&load(&Sources::new(file, folder.path())).unwrap_err());

    let missing = says("absent.toml");
    assert!(missing.contains("absent.toml does not exist"), "{missing}");
    assert!(missing.contains("help: start in the folder of the application"), "{missing}");
    assert!(says("latin.toml").contains("latin.toml is not UTF-8 text"));
    assert!(says(".").contains("is a folder"));
    assert!(says("/dev/zero").contains("has more than 16777216 bytes"));
}

#[test]
fn missing_files_are_pointed_at() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[modules.a]\ncomponent = \"a.wasm\"\nmigrations = \"sql\"\n\n[modules.b]\ncomponent = \"b.wasm\"\nbuild = \"make\"\nmigrations = \"b.wasm\"\n";
    fs::write(folder.path().join("cleave.toml"), text).unwrap();
    let config = load(&Sources::new("cleave.toml", folder.path())).unwrap();

    let says = |config: &Config| config.missing_files().iter().map(|p| render(p)).collect::<String>();
    let said = says(&config);
    for part in [
        "a.wasm does not exist",
        "[cleave.toml:2:13]",
        "add build = \"…\" to `modules.a`",
        "sql does not exist",
        "[cleave.toml:3:14]",
        "remove the key if there are no migrations",
        "b.wasm does not exist",
        "[cleave.toml:6:13]",
        "run `cleave build`, or correct the path",
    ] {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }

    fs::write(folder.path().join("a.wasm"), "").unwrap();
    fs::write(folder.path().join("b.wasm"), "").unwrap();
    fs::create_dir(folder.path().join("sql")).unwrap();
    let said = says(&config);
    assert!(said.contains("b.wasm is not a folder") && !said.contains("does not exist"), "{said}");
}

#[test]
fn missing_files_of_the_bus_are_pointed_at() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[bus]\ncredentials = \"a.creds\"\nca = \".\"\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n";
    fs::write(folder.path().join("cleave.toml"), text).unwrap();
    fs::write(folder.path().join("k.pem"), "").unwrap();
    let config = load(&Sources::new("cleave.toml", folder.path())).unwrap();
    let said: Vec<_> = config.missing_files().iter().map(|p| render(p)).collect();
    let parts = [
        ("a.creds does not exist", "[cleave.toml:2:15]"),
        ("is not a file", "[cleave.toml:3:6]"),
        ("c.pem does not exist", "[cleave.toml:4:15]"),
    ];
    assert_eq!(said.len(), parts.len(), "{said:?}");
    for (said, (message, place)) in said.iter().zip(parts) {
        assert!(said.contains(message) && said.contains(place), "{said}");
        assert!(said.contains("help: make the file, correct the path, or remove the key"), "{said}");
    }
}

#[test]
fn origin_points_after_loading() {
    let config = good("[http.routes]\n\"GET /x\" = \"a:b/c.d\"\n\n[modules.a]\ncomponent = \"a.wasm\"\n");
    let origin = config.origin().clone();

    let value =
        render(&origin.problem(&["http", "routes", "GET /x"], "there is no such function", "write another"));
    assert!(value.contains("[/app/cleave.toml:2:12]") && value.contains("help: write another"), "{value}");
    let key = origin.problem_at_key(&["http", "routes", "GET /x"], "m", "f").label("here");
    assert!(render(&key).contains("[/app/cleave.toml:2:1]") && render(&key).contains("here"));
    let header = render(&origin.problem(&["modules", "a"], "m", "f"));
    assert!(header.contains("[/app/cleave.toml:4:1]"), "{header}");
    let unwritten = render(&origin.problem(&["modules", "a", "queue"], "m", "f"));
    assert!(unwritten.contains("[/app/cleave.toml:4:10]"), "{unwritten}");
    let nowhere = render(&origin.problem(&["data", "dir"], "m", "f"));
    assert!(nowhere.contains("m (in /app/cleave.toml)"), "{nowhere}");
    let both = origin.also(
        origin.problem(&["modules", "a"], "m", "f"),
        &["http", "routes", "GET /x"],
        "asked for here",
    );
    assert!(render(&both).contains("asked for here"));
}

#[test]
fn tree_without_file_has_problems_too() {
    let problem = Config::default().origin().problem(&["http"], "m", "f");
    assert_eq!((problem.to_string().as_str(), problem.fix()), ("m", "f"));
}
