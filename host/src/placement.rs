//! Owns what follows from where config puts modules: what needs the bus, how events go, what must stay together, and data
//! that was left where a module is no more.

use crate::application::{Application, Export, Module, event_name};
use cleave_config::{CallRoute, Config, Database, Grant, ModuleName, NodeName, Problem};
use std::path::{Path, PathBuf};

/// The most entries of the data folder that are looked at for folders of nodes.
const ENTRIES_MAX: usize = 10_000;

/// A contract that a node reaches on another one.
struct Remote<'a> {
    /// The module that calls it; none if it is HTTP.
    caller: Option<&'a ModuleName>,
    contract: &'a str,
    exporter: &'a ModuleName,
}

/// Everything that cannot be placed so.
pub fn check(config: &Config, application: &Application) -> Vec<Problem> {
    let mut problems = Vec::new();
    if config.bus.nats.is_none() {
        problems.extend(config.nodes.keys().filter_map(|node| {
            let remote = remotes(config, application, node).into_iter().next()?;
            Some(without_bus(config, node, &remote))
        }));
        problems.extend(events_without_bus(config, application));
    }
    for module in &application.modules {
        problems.extend(replicated_data(config, module));
    }
    problems.extend(mixed_data(config, application));
    problems
}

/// Whether the node of the config calls over the bus, so that it is of no use without.
pub fn needs_bus(config: &Config, application: &Application) -> bool {
    let forced = config.calls.route == CallRoute::Remote;
    forced || config.node().is_some_and(|node| !remotes(config, application, node).is_empty())
}

/// Whether a module has a database.
pub fn needs_database(config: &Config, module: &Module) -> bool {
    let settings = config.modules.get(module.name.as_str());
    let granted = settings.is_some_and(|m| m.grants.contains(&Grant::Sql) || !m.schedule.is_empty());
    granted || module.interface.has_events()
}

/// The contracts that a node calls, wherever they are, each with the module that does; none if it is the node's HTTP.
pub fn used<'a>(
    config: &'a Config,
    application: &'a Application,
    node: &NodeName,
) -> Vec<(Option<&'a ModuleName>, &'a Export)> {
    let Some(placed) = config.nodes.get(node) else { return Vec::new() };
    let here = application.modules.iter().filter(|module| placed.modules.contains(&module.name));
    let of_modules = here.flat_map(|module| {
        module.interface.imports.iter().map(move |import| (Some(&module.name), import.track.as_str()))
    });
    let of_http = application.routes.iter().map(|route| (None, route.track.as_str()));
    of_modules
        .chain(of_http.filter(|_| placed.listen.is_some()))
        .filter_map(|(caller, track)| Some((caller, application.exports.get(track)?)))
        .collect()
}

/// The contracts that a node reaches elsewhere.
fn remotes<'a>(config: &'a Config, application: &'a Application, node: &NodeName) -> Vec<Remote<'a>> {
    let Some(placed) = config.nodes.get(node) else { return Vec::new() };
    let used = used(config, application, node).into_iter();
    used.filter(|(_, export)| !placed.modules.contains(&export.module))
        .map(|(caller, export)| Remote { caller, contract: &export.contract.name, exporter: &export.module })
        .collect()
}

fn without_bus(config: &Config, node: &NodeName, remote: &Remote<'_>) -> Problem {
    let nodes = quoted(config.nodes_of(remote.exporter.as_str()));
    let caller = match remote.caller {
        Some(caller) => format!("`{caller}` on node `{node}` calls"),
        None => format!("node `{node}` serves routes over HTTP to"),
    };
    let (contract, exporter) = (remote.contract, remote.exporter);
    config.origin().problem(
        &["nodes", node.as_str()],
        format!("{caller} `{contract}` of `{exporter}`, which is on {nodes}, and there is no bus between nodes"),
        "set `bus.nats` to the address of a NATS server, as in `nats = \"nats://127.0.0.1:4222\"`, or place both on one node",
    )
}

/// Whether a module keeps data in a file of this process, which no other may use.
pub fn keeps_file(config: &Config, module: &Module) -> bool {
    *config.database_of(module.name.as_str()).0 == Database::Sqlite && needs_database(config, module)
}

/// A SQLite file has one process.
fn replicated_data(config: &Config, module: &Module) -> Option<Problem> {
    let nodes = config.nodes_of(module.name.as_str());
    if nodes.len() < 2 || !keeps_file(config, module) {
        return None;
    }
    let message = format!("`{}` keeps data in SQLite and is on {}", module.name, quoted(nodes));
    Some(config.origin().problem(
        &["modules", module.name.as_str()],
        message,
        "a SQLite file belongs to one process: place the module on one node, or keep its data in PostgreSQL by `data.url`, or by its own `url`",
    ))
}

/// The data of one process is all in files or all in PostgreSQL: a second process of it would share the one and not the
/// other, and what a module there has told another would be twice in effect or lost.
fn mixed_data(config: &Config, application: &Application) -> Option<Problem> {
    let processes: Vec<Vec<&Module>> = match config.nodes.is_empty() {
        true => vec![application.modules.iter().collect()],
        false => {
            let of = |name| {
                application.modules.iter().filter(move |m| config.nodes_of(m.name.as_str()).contains(&name))
            };
            config.nodes.keys().map(|name| of(name).collect()).collect()
        }
    };
    processes.into_iter().find_map(|modules| {
        let with_data = modules.into_iter().filter(|module| needs_database(config, module));
        let (files, server): (Vec<_>, Vec<_>) = with_data.partition(|module| keeps_file(config, module));
        let (in_file, in_server) = (&files.first()?.name, &server.first()?.name);
        Some(config.origin().problem(
            &["modules", in_server.as_str()],
            format!(
                "`{in_server}` keeps its data in PostgreSQL and `{in_file}` in SQLite, and both are in one process"
            ),
            "place them on two nodes, or name a PostgreSQL database for both, by `data.url` or their own `url`",
        ))
    })
}

/// Whether the events of one module for another go over the bus: unless both are on the same one node, or there are no
/// nodes. Whoever has them on several would else overtake itself.
pub fn is_apart(config: &Config, publisher: &str, subscriber: &str) -> bool {
    let (from, to) = (config.nodes_of(publisher), config.nodes_of(subscriber));
    config.calls.route == CallRoute::Remote || from != to || from.len() > 1
}

/// The events that go over the bus: publisher, subscriber, and the name of one.
fn apart<'a>(config: &Config, application: &'a Application) -> Vec<(&'a ModuleName, &'a ModuleName, String)> {
    let mut apart: Vec<(&ModuleName, &ModuleName, String)> = Vec::new();
    for publisher in &application.modules {
        let contracts = publisher.interface.publishes.iter();
        for event in contracts.flat_map(|c| c.functions.values().map(move |f| event_name(c, f))) {
            for subscriber in application.subscribers.get(&event).into_iter().flatten() {
                let known = apart.iter().any(|(from, to, _)| (*from, *to) == (&publisher.name, subscriber));
                if !known && is_apart(config, publisher.name.as_str(), subscriber.as_str()) {
                    apart.push((&publisher.name, subscriber, event.clone()));
                }
            }
        }
    }
    apart
}

/// Whether this process puts events on the bus, or takes some from it.
pub fn needs_road(config: &Config, application: &Application) -> bool {
    let here = |module: &ModuleName| config.is_here(module.as_str());
    apart(config, application).iter().any(|(from, to, _)| here(from) || here(to))
}

/// Events between nodes without a bus.
fn events_without_bus(config: &Config, application: &Application) -> Option<Problem> {
    let (publisher, subscriber, event) = apart(config, application).into_iter().next()?;
    let nodes = |module: &ModuleName| quoted(config.nodes_of(module.as_str()));
    Some(config.origin().problem(
        &["modules", subscriber.as_str()],
        format!(
            "`{subscriber}` on {} handles `{event}` of `{publisher}` on {}, and there is no bus between nodes",
            nodes(subscriber),
            nodes(publisher)
        ),
        "set `bus.nats` to the address of a NATS server with JetStream, or place both modules on one node",
    ))
}

/// Data of a module that is not where this process would look for it: it was placed elsewhere before. To go on with new
/// data beside the old would lose it without a word.
pub fn strayed_data(config: &Config, application: &Application) -> Option<Problem> {
    let own = config.data_dir();
    let file = |folder: &Path, module: &str| folder.join(format!("{module}.sqlite"));
    for module in &application.modules {
        let name = module.name.as_str();
        let key = ["modules", name];
        if let (Database::Postgres(url), key) = config.database_of(name) {
            let elsewhere = if config.is_here(name) { other_folders(config, &own) } else { Vec::new() };
            let mut old = std::iter::once(&own).chain(&elsewhere).map(|folder| file(folder, name));
            let Some(old) = old.find(|old| old.exists()) else { continue };
            return Some(config.origin().problem(
                &key,
                format!(
                    "the data of `{name}` is in {}, from when it was kept in SQLite, and its database is {}",
                    old.display(),
                    url.shown()
                ),
                &*format!(
                    "write url = \"sqlite\" to go on with it; or move it away to begin without: mv {0} {0}.old",
                    old.display()
                ),
            ));
        }
        if !config.is_here(name) && file(&own, name).exists() {
            let node = config.nodes_of(name).into_iter().next()?;
            let (from, to) = (file(&own, name), config.data_dir_of(node));
            return Some(config.origin().problem(
                &key,
                format!(
                    "the data of `{name}` is here, in {}, and the module is on node `{node}`",
                    from.display()
                ),
                &*format!("when neither node runs: {}", moving(&from, &to)),
            ));
        }
        if config.is_here(name) && needs_database(config, module) && !file(&own, name).exists() {
            let Some(folder) = other_folders(config, &own).into_iter().find(|f| file(f, name).exists())
            else {
                continue;
            };
            let from = file(&folder, name);
            return Some(config.origin().problem(
                &key,
                format!(
                    "the data of `{name}` is in {}, from when the module was placed otherwise",
                    from.display()
                ),
                &*format!("when nothing runs there: {}", moving(&from, &own)),
            ));
        }
    }
    None
}

/// The command that moves a database, with the files beside it, to a folder that may not be there yet.
fn moving(from: &Path, to: &Path) -> String {
    let (from, to) = (in_shell(from), in_shell(to));
    format!("mkdir -p -m 700 {to} && mv {from}* {to}/")
}

/// A path as a shell reads it.
fn in_shell(path: &Path) -> String {
    let text = path.display().to_string();
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+,:@%".contains(&b)) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Where other placements of this config keep their data.
fn other_folders(config: &Config, own: &Path) -> Vec<PathBuf> {
    let nodes = config.nodes.keys().map(|node| config.data_dir_of(node));
    let entries = std::fs::read_dir(&config.data.dir).into_iter().flatten().take(ENTRIES_MAX);
    let within = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir());
    let mut folders = vec![config.data.dir.clone()];
    folders.extend(nodes.chain(within));
    folders.retain(|folder| folder != own);
    folders
}

fn quoted<'a>(nodes: impl IntoIterator<Item = &'a NodeName>) -> String {
    nodes.into_iter().map(|node| format!("`{node}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_quoted_where_a_shell_would_take_it_apart() {
        let command = moving(Path::new("data/catalog.sqlite"), Path::new("/var/my data/it's"));
        assert_eq!(
            command,
            r"mkdir -p -m 700 '/var/my data/it'\''s' && mv data/catalog.sqlite* '/var/my data/it'\''s'/"
        );
    }
}
