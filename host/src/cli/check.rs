//! `cleave check`: finds everything that can be wrong without starting, and prints the application as it is understood.

use super::table::table;
use super::{Application as Options, Exit, complain, print, report, say};
use crate::application::{Application, Module, event_name, unused_grants};
use crate::host::colocated;
use crate::types::{Function, Type};
use clap::Args;
use cleave_bus::route;
use cleave_config::{Config, Problem, Problems, show_duration};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    application: Options,
    /// Print JSON.
    #[arg(long)]
    json: bool,
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
        let invalid = invalid_code(&application, &config);
        if !invalid.is_empty() {
            return report(&Problems::in_order(invalid));
        }
        for warning in warnings(&application, &config) {
            say(&format!("warning: {warning}"));
        }
        if !self.json {
            return print(&describe(&application, &config), Exit::Done);
        }
        match serde_json::to_string_pretty(&Report::new(&application, &config)) {
            Ok(json) => print(&format!("{json}\n"), Exit::Done),
            Err(error) => complain(&error.to_string(), "report this as a bug"),
        }
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

/// The application as tables: modules, contracts, routes, events and schedules if there are any.
pub(super) fn describe(application: &Application, config: &Config) -> String {
    let report = Report::new(application, config);
    let modules: Vec<_> = report
        .modules
        .iter()
        .map(|m| [m.name.clone(), or_none(&m.exports), or_none(&m.imports), or_none(&m.grants)])
        .collect();
    let contracts: Vec<_> = report
        .contracts
        .iter()
        .map(|c| {
            [c.name.clone(), c.module.clone(), c.route.clone(), c.why.clone(), c.functions.len().to_string()]
        })
        .collect();
    let routes: Vec<_> =
        report.routes.iter().map(|r| [r.route.clone(), r.function.clone(), r.module.clone()]).collect();
    let mut text = table("Modules", ["NAME", "EXPORTS", "CALLS", "GRANTS"], &modules);
    text += &table("Contracts", ["CONTRACT", "MODULE", "ROUTE", "WHY", "FUNCTIONS"], &contracts);
    if !routes.is_empty() {
        text += &table("Routes", ["REQUEST", "FUNCTION", "MODULE"], &routes);
    }
    let files: Vec<_> = report.files.iter().map(|f| [f.path.clone(), f.folder.clone()]).collect();
    if !files.is_empty() {
        text += &table("Files", ["PATH", "FOLDER"], &files);
    }
    let events: Vec<_> = report
        .events
        .iter()
        .map(|e| [e.name.clone(), or_none(&e.publishers), or_none(&e.subscribers), e.key.clone()])
        .collect();
    if !events.is_empty() {
        text += &table("Events", ["EVENT", "PUBLISHER", "SUBSCRIBERS", "KEY"], &events);
    }
    let schedules: Vec<_> =
        report.schedules.iter().map(|s| [s.module.clone(), s.task.clone(), s.every.clone()]).collect();
    if !schedules.is_empty() {
        text += &table("Schedules", ["MODULE", "TASK", "EVERY"], &schedules);
    }
    text
}

fn nodes_of<'a>(config: &'a Config, module: &str) -> Vec<&'a str> {
    config.nodes_of(module).into_iter().map(|node| node.as_str()).collect()
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

/// What is no error and yet worth knowing.
fn warnings(application: &Application, config: &Config) -> Vec<String> {
    let mut warnings: Vec<String> = application
        .without_failure()
        .map(|f| {
            format!(
                "`{}` has no place for a failed call in its type: its callers trap when it fails",
                f.address
            )
        })
        .collect();
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
    for event in events(application) {
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
fn events(application: &Application) -> Vec<EventReport> {
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
                    key: key(function),
                    signature: function.signature(),
                });
                let modules = if publishes { &mut event.publishers } else { &mut event.subscribers };
                modules.push(module.name.to_string());
            }
        }
    }
    events.into_values().collect()
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

impl Report {
    fn new(application: &Application, config: &Config) -> Self {
        let colocated = colocated(config);
        let route = |module: &str| route::resolve(config.is_here(module), colocated);
        let module_of =
            |track: &str| application.exports.get(track).map_or(String::new(), |e| e.module.to_string());
        Self {
            version: 1,
            modules: application
                .modules
                .iter()
                .map(|m| {
                    let settings = config.modules.get(m.name.as_str()).cloned().unwrap_or_default();
                    ModuleReport {
                        name: m.name.to_string(),
                        component: settings.component.display().to_string(),
                        exports: m.interface.exports.iter().map(|c| c.name.clone()).collect(),
                        imports: m.interface.imports.iter().map(|c| c.name.clone()).collect(),
                        publishes: m.interface.publishes.iter().map(|c| c.name.clone()).collect(),
                        handles: m.interface.handles.iter().map(|c| c.name.clone()).collect(),
                        grants: settings.grants.iter().map(ToString::to_string).collect(),
                    }
                })
                .collect(),
            contracts: application
                .exports
                .values()
                .map(|e| ContractReport {
                    name: e.contract.name.clone(),
                    module: e.module.to_string(),
                    route: format!("{:?}", route(e.module.as_str())).to_lowercase(),
                    why: route::reason(
                        config.is_here(e.module.as_str()),
                        colocated,
                        &nodes_of(config, e.module.as_str()),
                    ),
                    functions: e
                        .contract
                        .functions
                        .values()
                        .map(|f| FunctionReport {
                            name: f.name.clone(),
                            signature: f.signature(),
                            tells_failure: f.failure.is_some(),
                        })
                        .collect(),
                })
                .collect(),
            routes: application
                .routes
                .iter()
                .map(|r| RouteReport {
                    route: r.key.to_string(),
                    function: r.function.address.clone(),
                    module: module_of(&r.track),
                })
                .collect(),
            files: config
                .http
                .files
                .iter()
                .map(|(path, folder)| FilesReport {
                    path: path.to_string(),
                    folder: folder.display().to_string(),
                })
                .collect(),
            events: events(application),
            schedules: config
                .modules
                .iter()
                .flat_map(|(name, module)| module.schedule.iter().map(move |(task, s)| (name, task, s)))
                .map(|(name, task, schedule)| ScheduleReport {
                    module: name.to_string(),
                    task: task.to_string(),
                    every: show_duration(schedule.every),
                })
                .collect(),
        }
    }
}
