//! The documents name tests that exist, and link to files that exist.

use cleave_tests::root;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Every file with this extension in a folder of the project, but for what was built.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

fn documents() -> Vec<(PathBuf, String)> {
    let documents: Vec<_> = files(&root(), "md")
        .into_iter()
        .map(|file| (file.clone(), std::fs::read_to_string(file).unwrap()))
        .collect();
    assert!(documents.len() > 8);
    documents
}

/// How the paths of files begin whose tests the documents know by another area than the file's name.
const AREAS: [(&str, &str); 6] = [
    ("config/tests/all/", "config"),
    ("host/src/data/tests.rs", "sql"),
    ("host/src/data/seam_tests.rs", "sql"),
    ("host/src/data/event_tests.rs", "model"),
    ("host/src/data/sqlite/durability_tests.rs", "durability"),
    ("host/src/data/sqlite/power_loss_tests.rs", "power"),
];
/// The folder of whole-system tests.
const SYSTEM: &str = "tests/system/";

/// The area that the documents know a file's tests by, and whether no code is known by it: its name, or that of the
/// folder whose `tests.rs` it is.
fn area(file: &Path) -> (String, bool) {
    let path = file.strip_prefix(root()).unwrap().to_str().unwrap();
    if let Some((_, area)) = AREAS.iter().find(|(start, _)| path.starts_with(start)) {
        return ((*area).to_owned(), true);
    }
    let is_of_folder = ["tests.rs", "mod.rs"].iter().any(|name| file.ends_with(name));
    let named = if is_of_folder { file.parent().unwrap() } else { file };
    (named.file_stem().unwrap().to_str().unwrap().to_owned(), path.starts_with(SYSTEM))
}

/// The functions of a file that are run as tests: those behind an attribute that says so, and those in `on_both!`.
fn tests_of(text: &str) -> Vec<String> {
    let name = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        text[..end].to_owned()
    };
    let (mut tests, mut is_test) = (Vec::new(), false);
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if !line.is_empty() && !line.starts_with("#[") && !line.starts_with("//") {
            let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
            tests.extend(function.filter(|_| is_test).map(name));
            is_test = false;
        }
    }
    for listed in text.split("on_both! {").skip(1) {
        let listed = listed.split('}').next().unwrap();
        tests.extend(listed.split(',').map(|one| name(one.trim())).filter(|name| !name.is_empty()));
    }
    tests
}

#[test]
fn tests_that_are_named_exist() {
    let (mut tests, mut areas_of_tests) = (BTreeSet::new(), BTreeSet::new());
    for file in files(&root(), "rs") {
        let (area, has_no_code) = area(&file);
        let text = std::fs::read_to_string(file).unwrap();
        tests.extend(tests_of(&text).into_iter().map(|test| format!("{area}::{test}")));
        if has_no_code {
            areas_of_tests.insert(area);
        }
    }
    let mut named = 0;
    for (file, text) in documents() {
        for quoted in text.split('`').skip(1).step_by(2) {
            let Some((area, test)) = quoted.split_once("::") else { continue };
            let plain =
                |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if !plain(area) || !plain(test) || test.is_empty() {
                continue;
            }
            // Elsewhere names of code have fewer words than names of tests.
            if areas_of_tests.contains(area) || test.matches('_').count() >= 3 {
                named += 1;
                assert!(tests.contains(quoted), "{}: there is no test `{quoted}`", file.display());
            }
        }
    }
    assert!(named > 200, "{named}");
}

#[test]
fn only_what_runs_is_taken_for_a_test() {
    let text = "
        #[test]
        fn plain() {}
        #[tokio::test(flavor = \"multi_thread\")]
        // Why: so.
        #[cfg(unix)]
        async fn awaited() {}
        fn helper() {}
        // #[test]
        fn left_out() {}
        #[test]
        const NONE: u32 = 0;
        fn after_it() {}
        on_both! {
            here,
            there
        }
        async fn here() {}
    ";
    assert_eq!(tests_of(text), ["plain", "awaited", "here", "there"]);
    let of = |path: &str| area(&root().join(path));
    assert_eq!(of("tests/system/road.rs"), ("road".to_owned(), true));
    assert_eq!(of("host/src/values/tests.rs"), ("values".to_owned(), false));
    assert_eq!(of("host/src/data/tests.rs"), ("sql".to_owned(), true));
    assert_eq!(of("config/tests/all/show.rs"), ("config".to_owned(), true));
}

#[test]
fn links_lead_to_files() {
    for (file, text) in documents() {
        for (at, _) in text.match_indices("](") {
            let link = text[at + 2..].split(')').next().unwrap();
            let path = link.split('#').next().unwrap();
            if !path.is_empty() && !path.contains("://") {
                let target = file.parent().unwrap().join(path);
                assert!(target.exists(), "{} links to {link}, which does not exist", file.display());
            }
        }
    }
}
