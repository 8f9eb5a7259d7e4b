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

#[test]
fn tests_that_are_named_exist() {
    let mut functions = BTreeSet::new();
    for file in files(&root(), "rs") {
        let text = std::fs::read_to_string(file).unwrap();
        for (_, rest) in text.match_indices("fn ").map(|(at, _)| text.split_at(at + 3)) {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            functions.insert(rest[..end].to_owned());
        }
    }
    let mut named = 0;
    for (file, text) in documents() {
        for quoted in text.split('`').skip(1).step_by(2) {
            let Some((area, test)) = quoted.split_once("::") else { continue };
            let plain =
                |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            // Names of code have fewer words than names of tests.
            if plain(area) && plain(test) && test.matches('_').count() >= 3 {
                named += 1;
                assert!(functions.contains(test), "{}: there is no test `{quoted}`", file.display());
            }
        }
    }
    assert!(named > 200, "{named}");
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
