//! What can only be seen with the whole tree in hand: conflicting routes, modules without a component or without a
//! node, files that are not there.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::explain::{missing_key, nearest, show_path};
use crate::http::{Method, RouteKey};
use crate::names::NodeName;
use crate::origin::Giver;
use crate::problem::Problem;
use crate::tree::{CallRoute, Config, Module};
use crate::units::show_duration;

impl Config {
    /// A problem for every component, every folder and every file of the bus that does not exist. Apart from loading, so
    /// that components can be built after it.
    pub fn missing_files(&self) -> Vec<Problem> {
        let folder = |path: &Path, key: &[&str]| {
            let message = absent(path, "folder", Path::is_dir)?;
            Some(self.origin.problem(key, message, "make the folder, correct the path, or remove the key"))
        };
        let wit = self.application.wit.iter().filter_map(|wit| folder(wit, &["application", "wit"]));
        let files = self.http.files.iter();
        let files = files.filter_map(|(path, files)| folder(files, &["http", "files", path.as_str()]));
        wit.chain(files).chain(self.missing_in_bus()).chain(self.missing_in_modules()).collect()
    }

    fn missing_in_bus(&self) -> impl Iterator<Item = Problem> {
        let bus = &self.bus;
        let files = [
            ("credentials", &bus.credentials),
            ("ca", &bus.ca),
            ("certificate", &bus.certificate),
            ("key", &bus.key),
        ];
        files.into_iter().filter_map(|(key, path)| {
            let message = absent(path.as_ref()?, "file", Path::is_file)?;
            let fix = "make the file, correct the path, or remove the key";
            Some(self.origin.problem(&["bus", key], message, fix))
        })
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

/// Key paths that were reported and taken away: what depends on them is not judged.
type Removed = BTreeSet<Vec<String>>;

/// Whether a value at, in or around `path` was taken away.
fn is_removed(removed: &Removed, path: &[&str]) -> bool {
    removed.iter().any(|gone| gone.iter().zip(path).all(|(gone, key)| gone == key))
}

/// Problems between values that are each right. A key path in `removed` has been reported already.
pub(crate) fn check(config: &Config, removed: &Removed) -> Vec<Problem> {
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
    problems.extend(bus(config, removed));
    if !config.nodes.is_empty() {
        problems.extend(placement(config, removed));
        problems.extend(shared_folders(config));
    }
    problems
}

/// Keys of the bus that need each other.
fn bus(config: &Config, removed: &Removed) -> Vec<Problem> {
    let (bus, origin) = (&config.bus, &config.origin);
    let mut problems = Vec::new();
    let is_remote = config.calls.route == CallRoute::Remote;
    if is_remote && bus.nats.is_none() && !is_removed(removed, &["bus", "nats"]) {
        let message = "`calls.route` is \"remote\", and there is no `bus.nats`";
        let fix = "add nats = \"nats://127.0.0.1:4222\" to `[bus]`, or write route = \"loopback\"";
        problems.push(origin.problem(&["calls", "route"], message, fix));
    }
    let pair = [(&bus.certificate, "certificate"), (&bus.key, "key")];
    for ((own, name), (other, other_name)) in [(pair[0], pair[1]), (pair[1], pair[0])] {
        if own.is_some() && other.is_none() && !is_removed(removed, &["bus", other_name]) {
            let message = format!("`bus.{name}` needs `bus.{other_name}`");
            let fix = format!("add {other_name} = \"path/to/{other_name}.pem\", or remove `{name}`");
            problems.push(origin.problem(&["bus", name], message, fix));
        }
    }
    let (heartbeat, silent_after) = (["bus", "heartbeat"], ["bus", "silent_after"]);
    let is_read = ![heartbeat, silent_after].iter().any(|path| is_removed(removed, path));
    if is_read && bus.silent_after < 2 * bus.heartbeat {
        let is_default = matches!(origin.giver(&silent_after), Giver::Default);
        let (least, most) = (show_duration(2 * bus.heartbeat), show_duration(bus.silent_after / 2));
        let message = format!(
            "`bus.silent_after` is {}, less than twice the {} of `bus.heartbeat`",
            show_duration(bus.silent_after),
            show_duration(bus.heartbeat),
        );
        let fix = format!("write silent_after = \"{least}\" or more, or heartbeat = \"{most}\" or less");
        problems.push(origin.problem(if is_default { &heartbeat } else { &silent_after }, message, fix));
    }
    problems
}

/// Modules that are nowhere, places for modules that are not, and an address that no node has.
fn placement(config: &Config, removed: &Removed) -> Vec<Problem> {
    let origin = &config.origin;
    let mut problems = Vec::new();
    if config.http.listen.is_some() {
        let message = "`http.listen` is set, and there are nodes";
        let fix = format!("give it to a node, as `nodes.NAME.listen`; the nodes are: {}", nodes(config));
        problems.push(origin.problem(&["http", "listen"], message, fix));
    }
    let modules: Vec<&str> = config.modules.keys().map(|name| name.as_str()).collect();
    for (name, node) in &config.nodes {
        for module in node.modules.iter().map(|module| module.as_str()) {
            if modules.contains(&module) || is_removed(removed, &["modules", module]) {
                continue;
            }
            let message = format!("there is no module `{module}`");
            let fix = match nearest(module, &modules) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("add `[modules.{module}]`, or remove it here"),
            };
            problems.push(origin.problem_at_item(&["nodes", name.as_str(), "modules"], module, message, fix));
        }
    }
    for module in modules {
        if config.nodes_of(module).is_empty() && !is_removed(removed, &["nodes"]) {
            let fix = format!("add it to the `modules` of one of the nodes: {}", nodes(config));
            let message = format!("`{module}` is on no node");
            problems.push(origin.problem_at_key(&["modules", module], message, fix));
        }
    }
    problems
}

/// Nodes that keep their data in one folder.
fn shared_folders(config: &Config) -> Vec<Problem> {
    let mut taken: BTreeMap<_, &NodeName> = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, node) in &config.nodes {
        match taken.entry(config.data_dir_of(name)) {
            Entry::Vacant(place) => drop(place.insert(name)),
            Entry::Occupied(other) => {
                let (folder, other) = (other.key().display(), other.get());
                let message = format!("nodes `{other}` and `{name}` both keep their data in {folder}");
                let fix = "give each node a folder of its own, or leave `data` out";
                // One of the two was written, if not both.
                let written = if node.data.is_some() { name } else { other };
                problems.push(config.origin.problem(&["nodes", written.as_str(), "data"], message, fix));
            }
        }
    }
    problems
}

/// The node of a name, or none if a problem in the nodes was reported already.
pub(crate) fn choose(config: &Config, name: &str, removed: &Removed) -> Result<Option<NodeName>, Problem> {
    if let Some((node, _)) = config.nodes.get_key_value(name) {
        return Ok(Some(node.clone()));
    }
    if is_removed(removed, &["nodes", name]) {
        return Ok(None);
    }
    if config.nodes.is_empty() {
        let fix = format!(
            "leave `--node` out, or add `[{}]` with the modules that run on it",
            show_path(&["nodes", name])
        );
        return Err(Problem::new(format!("there are no nodes, and so no node {name:?}"), fix));
    }
    let names: Vec<&str> = config.nodes.keys().map(|name| name.as_str()).collect();
    let mean = nearest(name, &names).map_or(String::new(), |near| format!("did you mean `{near}`? "));
    let fix = format!("{mean}the nodes are: {}", nodes(config));
    Err(Problem::new(format!("there is no node {name:?}"), fix))
}

/// The names of all nodes.
fn nodes(config: &Config) -> String {
    config.nodes.keys().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
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
