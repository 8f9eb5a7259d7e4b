//! `cleave check`: finds everything that can be wrong without starting, and prints the application as it is understood.

use super::table::table;
use super::{Application as Options, Exit, print, print_json, report, say};
use crate::application::{Application, Export, Module, event_name, unused_grants};
use crate::data;
use crate::host::colocated;
use crate::placement;
use crate::types::{Function, Type};
use clap::Args;
use cleave_bus::route;
use cleave_config::{Config, Database, Grant, Node, NodeName, Problem, Problems, show_duration};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    application: Options,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Let the bus leave this machine without TLS or credentials, as `up` does with it.
    #[arg(long)]
    insecure: bool,
}

impl Check {
    pub(super) fn run(self) -> Exit {
        let config = match self.application.load() {
            Ok(config) => config,
            Err(problems) => return report(&problems),
        };
        let application = match Application::read(&config) {
            Ok(application) => application,
            Err(problems) => return report(&problems),
        };
        let mut invalid = invalid_code(&application, &config);
        invalid.extend(unportable(&config));
        invalid.extend(config.exposed_bus().filter(|_| !self.insecure));
        if !invalid.is_empty() {
            return report(&Problems::in_order(invalid));
        }
        for warning in warnings(&application, &config) {
            say(&format!("warning: {warning}"));
        }
        if self.json {
            return print_json(&Report::new(&application, &config), Exit::Done);
        }
        print(&describe(&application, &config), Exit::Done)
    }
}

/// Components whose code is not valid. `up` finds them by compiling, which takes longer.
fn invalid_code(application: &Application, config: &Config) -> Vec<Problem> {
    let invalid = |module: &Module| {
        let error = wasmparser::Validator::new().validate_all(&module.bytes).err()?;
        let message = format!("the component of `{}` is not valid: {error}", module.name);
        let key = ["modules", module.name.as_str(), "component"];
        Some(config.origin().problem(&key, message, "build the component again with `cleave build`"))
    };
    application.modules.iter().filter_map(invalid).collect()
}

/// Migrations for both databases that do not mean the same on both. `up` runs them all the same: on the database that
/// they were written for they may be right.
fn unportable(config: &Config) -> Vec<Problem> {
    let with_data = config.modules.iter().filter(|(_, module)| module.grants.contains(&Grant::Sql));
    let folders = with_data.filter_map(|(name, module)| Some((name, module.migrations.as_ref()?)));
    let problems = folders.flat_map(|(name, folder)| {
        let found = data::check_portable(name.as_str(), folder).unwrap_or_else(|error| vec![error]);
        found.into_iter().map(move |error| {
            let key = ["modules", name.as_str(), "migrations"];
            config.origin().problem(&key, error.to_string(), error.fix())
        })
    });
    problems.collect()
}

/// The application as tables: nodes if there are any, modules, contracts, and of routes, files, events and schedules
/// those that there are. For one node, what it has and uses of them.
pub(super) fn describe(application: &Application, config: &Config) -> String {
    let report = Report::new(application, config);
    let mut text = report.nodes_text();
    let modules: Vec<_> = report
        .modules
        .iter()
        .map(|m| {
            let data = m.data.clone().unwrap_or_else(|| "-".to_owned());
            [m.name.clone(), or_none(&m.exports), or_none(&m.imports), or_none(&m.grants), data]
        })
        .collect();
    text += &table("Modules", ["NAME", "EXPORTS", "CALLS", "GRANTS", "DATA"], &modules);
    text += &report.contracts_text(config.nodes.is_empty() || config.node().is_some());
    let routes: Vec<_> =
        report.routes.iter().map(|r| [r.route.clone(), r.function.clone(), r.module.clone()]).collect();
    if !routes.is_empty() {
        text += &table("Routes", ["REQUEST", "FUNCTION", "MODULE"], &routes);
    }
    let files: Vec<_> = report.files.iter().map(|f| [f.path.clone(), f.folder.clone()]).collect();
    if !files.is_empty() {
        text += &table("Files", ["PATH", "FOLDER"], &files);
    }
    text += &report.events_text();
    let schedules: Vec<_> =
        report.schedules.iter().map(|s| [s.module.clone(), s.task.clone(), s.every.clone()]).collect();
    if !schedules.is_empty() {
        text += &table("Schedules", ["MODULE", "TASK", "EVERY"], &schedules);
    }
    text
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

/// Routes and files that nobody can ask for, because no node listens.
fn unserved(config: &Config) -> Option<String> {
    let http = &config.http;
    let nobody = !config.nodes.is_empty() && config.nodes.values().all(|node| node.listen.is_none());
    let what = match (http.routes.is_empty(), http.files.is_empty()) {
        (true, true) => return None,
        (false, true) => "routes",
        (true, false) => "files",
        (false, false) => "routes and files",
    };
    nobody.then(|| format!("no node listens, so nobody can reach the {what}: set `listen` of a node"))
}

/// What is no error and yet worth knowing.
fn warnings(application: &Application, config: &Config) -> Vec<String> {
    let mut warnings: Vec<String> = unserved(config).into_iter().collect();
    warnings.extend(application.without_failure().map(|f| {
        format!("`{}` has no place for a failed call in its type: its callers trap when it fails", f.address)
    }));
    for module in &application.modules {
        warnings.extend(
            unused_grants(config, module)
                .map(|grant| format!("`{}` is granted `{grant}` and does not import it", module.name)),
        );
        let scheduled = config.modules.get(module.name.as_str()).is_some_and(|m| !m.schedule.is_empty());
        if let Some(task) = &module.interface.task
            && !scheduled
        {
            let (name, task) = (&module.name, &task.name);
            warnings.push(format!(
                "`{name}` exports `{task}` and has no schedule, so it does nothing by the clock"
            ));
        }
    }
    for event in events(application, config) {
        let (name, publishers) = (&event.name, event.publishers.join("`, `"));
        if event.subscribers.is_empty() {
            warnings.push(format!(
                "no module handles `{name}`, which is published by `{publishers}`: it is dropped when published"
            ));
        }
        if event.publishers.is_empty() {
            let subscribers = event.subscribers.join("`, `");
            warnings.push(format!("no module publishes `{name}`, which is handled by `{subscribers}`"));
        }
    }
    warnings
}

/// Every event that a module publishes or handles, by its name.
fn events(application: &Application, config: &Config) -> Vec<EventReport> {
    let mut events: BTreeMap<String, EventReport> = BTreeMap::new();
    for module in &application.modules {
        let interface = &module.interface;
        let published = interface.publishes.iter().map(|contract| (contract, true));
        for (contract, publishes) in published.chain(interface.handles.iter().map(|c| (c, false))) {
            for function in contract.functions.values() {
                let name = event_name(contract, function);
                let event = events.entry(name.clone()).or_insert_with(|| EventReport {
                    name,
                    publishers: Vec::new(),
                    subscribers: Vec::new(),
                    over_the_bus: Vec::new(),
                    key: key(function),
                    signature: function.signature(),
                });
                let modules = if publishes { &mut event.publishers } else { &mut event.subscribers };
                modules.push(module.name.to_string());
            }
        }
    }
    let mut events: Vec<_> = events.into_values().collect();
    for EventReport { publishers, subscribers, over_the_bus, .. } in &mut events {
        let is_apart = |to: &&String| publishers.iter().any(|from| placement::is_apart(config, from, to));
        *over_the_bus = subscribers.iter().filter(is_apart).cloned().collect();
    }
    events
}

/// The parameter, or the field of one, that an event keeps its order by.
fn key(function: &Function) -> String {
    let Some(place) = function.key else { return String::new() };
    let Some(parameter) = function.parameters.get(place.parameter) else { return String::new() };
    let field = place.field.and_then(|field| match &parameter.ty {
        Type::Record(fields) => fields.get(field),
        _ => None,
    });
    match field {
        Some(field) => format!("{}.{}", parameter.name.wit, field.name.wit),
        None => parameter.name.wit.clone(),
    }
}

/// The application as `--json` prints it. Fields are added, never renamed or removed, within one version.
#[derive(Debug, Serialize)]
struct Report {
    version: u32,
    modules: Vec<ModuleReport>,
    contracts: Vec<ContractReport>,
    routes: Vec<RouteReport>,
    files: Vec<FilesReport>,
    events: Vec<EventReport>,
    schedules: Vec<ScheduleReport>,
    /// None without placement; with a chosen node that one alone.
    nodes: Vec<NodeReport>,
}

#[derive(Debug, Serialize)]
struct NodeReport {
    name: String,
    modules: Vec<String>,
    listen: Option<String>,
    data: String,
    /// Those that it holds and those that it calls.
    contracts: Vec<NodeContractReport>,
}

/// A contract as a node reaches it.
#[derive(Debug, Serialize)]
struct NodeContractReport {
    name: String,
    module: String,
    route: String,
    why: String,
}

#[derive(Debug, Serialize)]
struct ModuleReport {
    name: String,
    component: String,
    exports: Vec<String>,
    imports: Vec<String>,
    publishes: Vec<String>,
    handles: Vec<String>,
    grants: Vec<String>,
    /// Its database, without the password; none if it keeps no data.
    data: Option<String>,
}

#[derive(Debug, Serialize)]
struct ContractReport {
    name: String,
    module: String,
    route: String,
    why: String,
    functions: Vec<FunctionReport>,
}

#[derive(Debug, Serialize)]
struct FunctionReport {
    name: String,
    signature: String,
    tells_failure: bool,
}

#[derive(Debug, Serialize)]
struct RouteReport {
    route: String,
    function: String,
    module: String,
}

#[derive(Debug, Serialize)]
struct FilesReport {
    path: String,
    folder: String,
}

#[derive(Debug, Serialize)]
struct EventReport {
    name: String,
    publishers: Vec<String>,
    subscribers: Vec<String>,
    /// Those of the subscribers that it goes to over the bus; to the others it goes in process.
    over_the_bus: Vec<String>,
    key: String,
    signature: String,
}

#[derive(Debug, Serialize)]
struct ScheduleReport {
    module: String,
    task: String,
    /// As config writes it.
    every: String,
}

/// Where a module is reached from a node; without one, from a process that holds every module.
fn reached(config: &Config, node: Option<&Node>, module: &str) -> (String, String) {
    let here = node.is_none_or(|node| node.modules.contains(module));
    let colocated = colocated(config);
    let nodes: Vec<_> = config.nodes_of(module).into_iter().map(|node| node.as_str()).collect();
    (route::resolve(here, colocated).to_string(), route::reason(here, colocated, &nodes))
}

impl NodeReport {
    fn new(application: &Application, config: &Config, name: &NodeName, node: &Node) -> Self {
        let used = placement::used(config, application, name).into_iter().map(|(_, export)| export);
        let held = application.exports.values().filter(|export| node.modules.contains(&export.module));
        let exports: BTreeMap<&str, &Export> =
            used.chain(held).map(|export| (export.contract.name.as_str(), export)).collect();
        let contract = |export: &Export| {
            let (route, why) = reached(config, Some(node), export.module.as_str());
            NodeContractReport {
                name: export.contract.name.clone(),
                module: export.module.to_string(),
                route,
                why,
            }
        };
        Self {
            name: name.to_string(),
            modules: node.modules.iter().map(ToString::to_string).collect(),
            listen: node.listen.map(|address| address.to_string()),
            data: config.data_dir_of(name).display().to_string(),
            contracts: exports.into_values().map(contract).collect(),
        }
    }
}

impl ModuleReport {
    fn new(config: &Config, module: &Module) -> Self {
        let settings = config.modules.get(module.name.as_str()).cloned().unwrap_or_default();
        let interface = &module.interface;
        let data = || match config.database_of(module.name.as_str()).0 {
            Database::Sqlite => Database::Sqlite.to_string(),
            Database::Postgres(url) => url.shown(),
        };
        Self {
            name: module.name.to_string(),
            component: settings.component.display().to_string(),
            exports: interface.exports.iter().map(|c| c.name.clone()).collect(),
            imports: interface.imports.iter().map(|c| c.name.clone()).collect(),
            publishes: interface.publishes.iter().map(|c| c.name.clone()).collect(),
            handles: interface.handles.iter().map(|c| c.name.clone()).collect(),
            grants: settings.grants.iter().map(ToString::to_string).collect(),
            data: placement::needs_database(config, module).then(data),
        }
    }
}

impl ContractReport {
    fn new(config: &Config, export: &Export) -> Self {
        let node = config.node().and_then(|node| config.nodes.get(node));
        let (route, why) = if config.nodes.is_empty() || node.is_some() {
            reached(config, node, export.module.as_str())
        } else {
            ("by-node".to_owned(), "each node has its own route: see `nodes`".to_owned())
        };
        let functions = export.contract.functions.values();
        Self {
            name: export.contract.name.clone(),
            module: export.module.to_string(),
            route,
            why,
            functions: functions
                .map(|f| FunctionReport {
                    name: f.name.clone(),
                    signature: f.signature(),
                    tells_failure: f.failure.is_some(),
                })
                .collect(),
        }
    }
}

impl Report {
    fn new(application: &Application, config: &Config) -> Self {
        let meant = |name: &&NodeName| config.node().is_none_or(|node| node == *name);
        let nodes = config.nodes.iter().filter(|(name, _)| meant(name));
        let nodes: Vec<_> =
            nodes.map(|(name, node)| NodeReport::new(application, config, name, node)).collect();
        // Of one node, what is of no use to it is left out.
        let one = nodes.first().filter(|_| config.node().is_some());
        let is_known = |contract: &str| one.is_none_or(|n| n.contracts.iter().any(|c| c.name == contract));
        let serves = one.is_none_or(|node| node.listen.is_some());
        let here = |module: &str| config.is_here(module);
        let mut events = events(application, config);
        events.retain(|event| event.publishers.iter().chain(&event.subscribers).any(|module| here(module)));
        let schedules = config.modules.iter().filter(|(name, _)| here(name.as_str()));
        let schedules =
            schedules.flat_map(|(name, module)| module.schedule.iter().map(move |(task, s)| (name, task, s)));
        Self {
            version: 1,
            modules: application
                .modules
                .iter()
                .filter(|m| here(m.name.as_str()))
                .map(|m| ModuleReport::new(config, m))
                .collect(),
            contracts: application
                .exports
                .values()
                .filter(|export| is_known(&export.contract.name))
                .map(|export| ContractReport::new(config, export))
                .collect(),
            routes: if serves { routes(application) } else { Vec::new() },
            files: if serves { files(config) } else { Vec::new() },
            events,
            schedules: schedules
                .map(|(name, task, schedule)| ScheduleReport {
                    module: name.to_string(),
                    task: task.to_string(),
                    every: show_duration(schedule.every),
                })
                .collect(),
            nodes,
        }
    }

    fn events_text(&self) -> String {
        let columns = |e: &EventReport| [e.name.clone(), or_none(&e.publishers), or_none(&e.subscribers)];
        let rows = self.events.iter();
        if self.events.iter().all(|event| event.over_the_bus.is_empty()) {
            let rows: Vec<_> = rows
                .map(|e| {
                    let [name, from, to] = columns(e);
                    [name, from, to, e.key.clone()]
                })
                .collect();
            let heading = ["EVENT", "PUBLISHER", "SUBSCRIBERS", "KEY"];
            return if rows.is_empty() { String::new() } else { table("Events", heading, &rows) };
        }
        let rows: Vec<_> = rows
            .map(|e| {
                let [name, from, to] = columns(e);
                [name, from, to, or_none(&e.over_the_bus), e.key.clone()]
            })
            .collect();
        table("Events", ["EVENT", "PUBLISHER", "SUBSCRIBERS", "OVER NATS TO", "KEY"], &rows)
    }

    fn nodes_text(&self) -> String {
        let listen = |node: &NodeReport| node.listen.clone().unwrap_or_else(|| "-".to_owned());
        let row = |n: &NodeReport| [n.name.clone(), or_none(&n.modules), listen(n), n.data.clone()];
        let nodes: Vec<_> = self.nodes.iter().map(row).collect();
        if nodes.is_empty() {
            return String::new();
        }
        table("Nodes", ["NODE", "MODULES", "LISTEN", "DATA"], &nodes)
    }

    /// The contracts with their routes: of the one process, or by node.
    fn contracts_text(&self, one_process: bool) -> String {
        let count = |contract: &ContractReport| contract.functions.len().to_string();
        if one_process {
            let row = |c: &ContractReport| {
                [c.name.clone(), c.module.clone(), c.route.clone(), c.why.clone(), count(c)]
            };
            let rows: Vec<_> = self.contracts.iter().map(row).collect();
            return table("Contracts", ["CONTRACT", "MODULE", "ROUTE", "WHY", "FUNCTIONS"], &rows);
        }
        let row = |c: &ContractReport| [c.name.clone(), c.module.clone(), count(c)];
        let rows: Vec<_> = self.contracts.iter().map(row).collect();
        let text = table("Contracts", ["CONTRACT", "MODULE", "FUNCTIONS"], &rows);
        let of_nodes = self.nodes.iter().flat_map(|node| node.contracts.iter().map(move |c| (node, c)));
        let rows: Vec<_> = of_nodes
            .map(|(n, c)| [n.name.clone(), c.name.clone(), c.module.clone(), c.route.clone(), c.why.clone()])
            .collect();
        text + &table("Contracts by node", ["NODE", "CONTRACT", "MODULE", "ROUTE", "WHY"], &rows)
    }
}

fn routes(application: &Application) -> Vec<RouteReport> {
    let module_of =
        |track: &str| application.exports.get(track).map_or(String::new(), |e| e.module.to_string());
    let routes = application.routes.iter();
    routes
        .map(|r| RouteReport {
            route: r.key.to_string(),
            function: r.function.address.clone(),
            module: module_of(&r.track),
        })
        .collect()
}

fn files(config: &Config) -> Vec<FilesReport> {
    let files = config.http.files.iter();
    files
        .map(|(path, folder)| FilesReport { path: path.to_string(), folder: folder.display().to_string() })
        .collect()
}
