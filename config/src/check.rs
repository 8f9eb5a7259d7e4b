//! What can only be seen with the whole tree in hand: conflicting routes, modules without a component, files
//! that are not there.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::explain::missing_key;
use crate::http::{Method, RouteKey};
use crate::problem::Problem;
use crate::tree::{Config, Module};

impl Config {
    /// A problem for every component and every folder that does not exist. Apart from loading, so that components can
    /// be built after it.
    pub fn missing_files(&self) -> Vec<Problem> {
        let folder = |path: &Path, key: &[&str]| {
            let message = absent(path, "folder", Path::is_dir)?;
            Some(self.origin.problem(key, message, "make the folder, correct the path, or remove the key"))
        };
        let wit = self.application.wit.iter().filter_map(|wit| folder(wit, &["application", "wit"]));
        let files = self.http.files.iter();
        let files = files.filter_map(|(path, files)| folder(files, &["http", "files", path.as_str()]));
        wit.chain(files).chain(self.missing_in_modules()).collect()
    }

    fn missing_in_modules(&self) -> impl Iterator<Item = Problem> {
        self.modules
            .iter()
            .flat_map(|(name, module)| {
                [
                    self.missing_component(name.as_str(), module),
                    self.missing_migrations(name.as_str(), module),
                ]
            })
            .flatten()
    }

    fn missing_component(&self, name: &str, module: &Module) -> Option<Problem> {
        let message = absent(&module.component, "file", Path::is_file)?;
        let fix = match &module.build {
            Some(_) => "run `cleave build`, or correct the path".to_owned(),
            None => {
                format!("correct the path, or add build = \"…\" to `modules.{name}` and run `cleave build`")
            }
        };
        Some(self.origin.problem(&["modules", name, "component"], message, fix))
    }

    fn missing_migrations(&self, name: &str, module: &Module) -> Option<Problem> {
        let message = absent(module.migrations.as_ref()?, "folder", Path::is_dir)?;
        let fix = "make the folder, correct the path, or remove the key if there are no migrations";
        Some(self.origin.problem(&["modules", name, "migrations"], message, fix))
    }
}

fn absent(path: &Path, what: &str, is_there: impl Fn(&Path) -> bool) -> Option<String> {
    match (is_there(path), path.exists()) {
        (true, _) => None,
        (false, true) => Some(format!("{} is not a {what}", path.display())),
        (false, false) => Some(format!("{} does not exist", path.display())),
    }
}

/// Problems between values that are each right. A key path in `removed` has been reported already.
pub(crate) fn check(config: &Config, removed: &BTreeSet<Vec<String>>) -> Vec<Problem> {
    let mut problems = conflicts(config);
    for (name, module) in &config.modules {
        let path = ["modules", name.as_str(), "component"];
        if module.component.as_os_str().is_empty() && !removed.contains(&path.map(str::to_owned)[..]) {
            problems.push(missing_key(&config.origin, &["modules", name.as_str()], "component"));
        }
        for (task, schedule) in &module.schedule {
            let table = ["modules", name.as_str(), "schedule", task.as_str()];
            let every: Vec<_> = table.iter().chain(&["every"]).map(|key| (*key).to_owned()).collect();
            if schedule.every.is_zero() && !removed.contains(&every) {
                problems.push(missing_key(&config.origin, &table, "every"));
            }
        }
    }
    problems
}

/// Routes that answer the same requests: one method, and paths that differ in the names of parameters alone.
///
/// The gateway names parameters by their position, so routes of several methods may name them as their functions do.
fn conflicts(config: &Config) -> Vec<Problem> {
    let mut taken: BTreeMap<(Method, String), &RouteKey> = BTreeMap::new();
    let mut problems = Vec::new();
    for key in config.http.routes.keys() {
        match taken.entry((key.method(), key.shape())) {
            Entry::Vacant(place) => drop(place.insert(key)),
            Entry::Occupied(other) => problems.push(conflict(config, key, other.get())),
        }
    }
    problems
}

fn conflict(config: &Config, key: &RouteKey, other: &RouteKey) -> Problem {
    let origin = &config.origin;
    let (text, other_text) = (key.to_string(), other.to_string());
    let message = format!("routes {text:?} and {other_text:?} answer the same requests");
    let fix = "remove one, or tell them apart by a literal segment";
    let problem = origin.problem_at_key(&["http", "routes", &text], message, fix).label("this route");
    origin.also(problem, &["http", "routes", &other_text], "conflicts with this one")
}
