//! Lays the layers over each other and reads the tree from them: defaults, file, environment, flags.
//!
//! All problems are found in one go: a value that is wrong is reported and taken away, and reading starts
//! again.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::error::Kind;
use figment::value::{Dict, Value};

use crate::check::{check, choose};
use crate::document::{Document, SyntaxError, joined};
use crate::explain::{explain, show_path};
use crate::layers::{Layer, environment, flags, insert, remove};
use crate::origin::Origin;
use crate::problem::{Problem, Problems};
use crate::tree::Config;

/// More are not reported: whoever wrote fifty has the wrong file.
const PROBLEMS_MAX: usize = 50;

/// The largest file that is read, in bytes.
const FILE_MAX: u64 = 16 * 1024 * 1024;

/// What the tree is read from.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file, `cleave.toml`; relative to `current_dir`. Relative paths in it start at its folder.
    pub file: PathBuf,
    /// All environment variables; those that begin with `CLEAVE_` and have `__` after it are used.
    pub environment: Vec<(String, String)>,
    /// Flags: dotted key and value. A later one wins.
    pub flags: Vec<(String, String)>,
    /// Where relative paths in environment and flags start.
    pub current_dir: PathBuf,
    /// The node to load the config for, by its name; none to look at the whole.
    pub node: Option<String>,
}

impl Sources {
    /// A file alone, without environment and flags.
    pub fn new(file: impl Into<PathBuf>, current_dir: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), current_dir: current_dir.into(), ..Self::default() }
    }
}

/// Reads the file and the layers above it.
pub fn load(sources: &Sources) -> Result<Config, Problems> {
    let file = sources.current_dir.join(&sources.file);
    let text = read(&file).map_err(|error| unreadable(&sources.file, &error))?;
    parse(&text, sources)
}

/// The text of the file, which may be a pipe.
fn read(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_MAX { Err(ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

fn unreadable(file: &Path, error: &std::io::Error) -> Problem {
    let file = file.display();
    match error.kind() {
        ErrorKind::NotFound => Problem::new(
            format!("{file} does not exist"),
            "start in the folder of the application, or name the file with --config",
        ),
        ErrorKind::FileTooLarge => Problem::new(
            format!("{file} has more than {FILE_MAX} bytes"),
            "name the config file of the application with --config",
        ),
        ErrorKind::InvalidData => Problem::new(format!("{file} is not UTF-8 text"), "save the file as UTF-8"),
        ErrorKind::IsADirectory => {
            Problem::new(format!("{file} is a folder"), format!("name the file in it: {file}/cleave.toml"))
        }
        _ => Problem::new(format!("{file} cannot be read: {error}"), "make the file readable"),
    }
}

/// As [`load`], with the text of the file at hand; nothing is read from disk.
pub fn parse(text: &str, sources: &Sources) -> Result<Config, Problems> {
    let file = tidy(&sources.current_dir.join(&sources.file));
    let name = sources.file.display().to_string();
    let document = match Document::read(text) {
        Ok(document) => document,
        Err(errors) => {
            let origin = Origin::new(file, &name, text.to_owned(), Document::default().index, Vec::new());
            return Err(Problems(errors.into_iter().map(|error| syntax(&origin, error)).collect()));
        }
    };
    let above_file = environment(&sources.environment);
    let (flags, mut problems) = flags(&sources.flags);

    let figment = Figment::new()
        .merge(Layer { name: "file", values: document.values })
        .merge(Layer::of_settings("environment", &above_file))
        .merge(Layer::of_settings("flags", &flags));
    let settings = above_file.into_iter().chain(flags).collect();
    let origin = Origin::new(file, &name, text.to_owned(), document.index, settings);

    problems.extend(document.foreign.iter().map(|(path, what)| foreign(&origin, path, what)));
    let values = figment.extract().map_err(|error| Problem::new(error.to_string(), "correct the value"))?;
    let mut reading = Reading {
        origin,
        values,
        current_dir: &sources.current_dir,
        node: sources.node.as_deref(),
        problems,
        removed: document.foreign.into_iter().map(|(path, _)| path).collect(),
    };
    match (reading.tree(), reading.problems) {
        (Some(config), problems) if problems.is_empty() => Ok(config),
        (_, mut problems) => {
            problems.sort_by_key(Problem::offset);
            Err(Problems(problems))
        }
    }
}

fn syntax(origin: &Origin, error: SyntaxError) -> Problem {
    let fix = match error.message.as_str() {
        "duplicate key" => "remove one of the two, or rename it".to_owned(),
        message if message.starts_with("string values must be quoted") => "write text in quotes".to_owned(),
        message => match message.split_once(", expected ") {
            Some((_, expected)) => format!("write {expected} here"),
            None => "write it as https://toml.io describes".to_owned(),
        },
    };
    origin.at_span(error.span.into(), format!("not TOML: {}", error.message), fix)
}

fn foreign(origin: &Origin, path: &[String], what: &str) -> Problem {
    let path = strs(path);
    let message = format!("`{}` is {what}, and no key takes one", show_path(&path));
    origin.problem(&path, message, "write the value that the key takes, or put it in quotes")
}

/// The tree on its way from values to structs.
struct Reading<'a> {
    origin: Origin,
    values: Dict,
    current_dir: &'a Path,
    node: Option<&'a str>,
    problems: Vec<Problem>,
    /// Key paths reported and taken away.
    removed: BTreeSet<Vec<String>>,
}

impl Reading<'_> {
    /// The tree of the values that are right; `None` when too much is wrong.
    fn tree(&mut self) -> Option<Config> {
        loop {
            match Value::from(self.values.clone()).deserialize::<Config>() {
                Ok(mut config) => {
                    config.origin = self.origin.clone();
                    resolve_paths(&mut config, self.current_dir);
                    self.problems.extend(check(&config, &self.removed));
                    if let Some(node) = self.node {
                        match choose(&config, node, &self.removed) {
                            Ok(node) => config.node = node,
                            Err(problem) => self.problems.push(problem),
                        }
                    }
                    return Some(config);
                }
                Err(error) => {
                    if self.step_over(error.path, error.kind).is_break() {
                        return None;
                    }
                }
            }
        }
    }

    /// Reports an error and takes the wrong value away, so that the next one shows.
    fn step_over(&mut self, path: Vec<String>, kind: Kind) -> ControlFlow<()> {
        if self.read_as_text(&path, &kind) {
            return ControlFlow::Continue(());
        }
        let known = matches!(&kind, Kind::MissingField(key) if self.removed.contains(&joined(&path, key)));
        if !known {
            self.problems.push(explain(&self.origin, &strs(&path), kind));
        }
        let gone = remove(&mut self.values, &path).is_some();
        self.removed.insert(path);
        if gone && self.problems.len() < PROBLEMS_MAX {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }

    /// `--set modules.a.build=true` means the command: a key that takes text gets the text as it was given.
    fn read_as_text(&mut self, path: &[String], kind: &Kind) -> bool {
        let wants_text = matches!(kind, Kind::InvalidType(_, expected) if expected == "a string");
        let Some(setting) = self.origin.setting(&strs(path)).filter(|setting| setting.path == path) else {
            return false;
        };
        if wants_text {
            insert(&mut self.values, path, Value::from(setting.text.as_str()));
        }
        wants_text
    }
}

fn strs(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

/// Makes every path start where its layer says: at the folder of the file, or in the current folder.
fn resolve_paths(config: &mut Config, current_dir: &Path) {
    let origin = config.origin.clone();
    let resolve = |path: &mut PathBuf, key: &[&str]| {
        let base = if origin.setting(key).is_some() { current_dir } else { origin.folder() };
        // An empty one was not written: `check` tells.
        if !path.as_os_str().is_empty() {
            *path = tidy(&base.join(&path));
        }
    };
    resolve(&mut config.data.dir, &["data", "dir"]);
    let (bus, application, engine) = (&mut config.bus, &mut config.application, &mut config.engine);
    let optional = [
        (&mut application.wit, ["application", "wit"]),
        (&mut engine.cache, ["engine", "cache"]),
        (&mut bus.credentials, ["bus", "credentials"]),
        (&mut bus.ca, ["bus", "ca"]),
        (&mut bus.certificate, ["bus", "certificate"]),
        (&mut bus.key, ["bus", "key"]),
    ];
    for (path, key) in optional {
        path.iter_mut().for_each(|path| resolve(path, &key));
    }
    for (path, folder) in &mut config.http.files {
        resolve(folder, &["http", "files", path.as_str()]);
    }
    for (name, module) in &mut config.modules {
        resolve(&mut module.component, &["modules", name.as_str(), "component"]);
        if let Some(migrations) = &mut module.migrations {
            resolve(migrations, &["modules", name.as_str(), "migrations"]);
        }
    }
    for (name, node) in &mut config.nodes {
        if let Some(data) = &mut node.data {
            resolve(data, &["nodes", name.as_str(), "data"]);
        }
    }
}

/// Drops every `.` of a path; `..` stays, because it may follow a link.
fn tidy(path: &Path) -> PathBuf {
    path.components().collect()
}
