//! Owns the application as a whole: every module's contracts, who exports what to whom, and whether it fits together.
//!
//! Everything here is known without compiling or starting anything, so `cleave check` and `cleave up` find the same
//! problems. Each is told with the place in the config that leads to it, and a fix.

use crate::capability;
use crate::data;
use crate::http::openapi::{self, Described};
use crate::http::plan::{Plan, RESERVED};
use crate::module::{self, Contract, Interface};
use crate::placement;
use crate::telemetry;
use crate::types::Function;
use crate::wit::{Wit, WitError, Written};
use cleave_config::{
    Config, ContractName, FunctionName, Grant, HttpRoute, ModuleName, Problem, Problems, RouteKey,
};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An application that fits together.
#[derive(Debug)]
pub struct Application {
    /// The modules, callees before their callers.
    pub modules: Vec<Module>,
    /// Who exports each contract, by the contract's track.
    pub exports: BTreeMap<String, Export>,
    /// Who handles each event, by the event's name ([`event_name`]).
    pub subscribers: BTreeMap<String, Vec<ModuleName>>,
    /// What HTTP serves.
    pub routes: Vec<Route>,
    /// The OpenAPI document of the routes.
    pub document: Json,
}

/// The name of an event, equal at its publisher and its subscribers: the contract's track and the function.
pub fn event_name(contract: &Contract, function: &Function) -> String {
    format!("{}.{}", contract.track, function.name)
}

/// A module as its component describes it.
#[derive(Debug)]
pub struct Module {
    pub name: ModuleName,
    pub bytes: Vec<u8>,
    pub interface: Interface,
}

/// A contract and its exporter.
#[derive(Debug, Clone)]
pub struct Export {
    pub module: ModuleName,
    pub contract: Arc<Contract>,
}

/// A function served over HTTP.
#[derive(Debug)]
pub struct Route {
    pub key: RouteKey,
    pub track: String,
    pub function: Arc<Function>,
    pub plan: Plan,
}

impl Application {
    /// The modules that are placed here, callees before their callers.
    pub fn here<'a>(&'a self, config: &'a Config) -> impl Iterator<Item = &'a Module> {
        self.modules.iter().filter(|module| config.is_here(module.name.as_str()))
    }

    /// Reads the components that the config names and fits them together, or says everything that does not fit.
    pub fn read(config: &Config) -> Result<Self, Problems> {
        let mut problems = config.missing_files();
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        let modules: Vec<Module> = config
            .modules
            .iter()
            .filter_map(|(name, module)| {
                read_module(config, name, &module.component).map_err(|problem| problems.push(problem)).ok()
            })
            .collect();
        // Why: what a module that cannot be read would have exported is missing everywhere; saying so would hide why.
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        let exports = exports(config, &modules, &mut problems);
        for module in &modules {
            check_imports(config, module, &exports, &mut problems);
        }
        let subscribers = subscribers(config, &modules, &mut problems);
        let modules = in_order(config, modules, &exports, &mut problems);
        let mut application =
            Self { modules, exports, subscribers, routes: Vec::new(), document: Json::Null };
        for (key, route) in &config.http.routes {
            application.add_route(config, key, route, &mut problems);
        }
        check_settings(config, &application.modules, &mut problems);
        for name in &config.calls.idempotent {
            if let Err((message, fix)) = application.function(name) {
                problems.push(config.origin().problem_at_item(
                    &["calls", "idempotent"],
                    &name.to_string(),
                    message,
                    fix,
                ));
            }
        }
        problems.extend(placement::check(config, &application));
        application.describe(config, &mut problems);
        if problems.is_empty() { Ok(application) } else { Err(Problems::in_order(problems)) }
    }

    /// Finds a function by its name, as [`function`] does.
    ///
    /// # Errors
    /// What is wrong with the name, and the fix.
    pub fn function(&self, name: &FunctionName) -> Result<(&str, Arc<Function>), (String, String)> {
        function(&self.exports, name)
    }

    /// Functions that can only trap their caller when a call fails, because their type has no place to say so.
    pub fn without_failure(&self) -> impl Iterator<Item = &Arc<Function>> {
        self.exports.values().flat_map(|e| e.contract.functions.values()).filter(|f| f.failure.is_none())
    }

    /// Makes the OpenAPI document, with the words of the application's WIT if it has a folder.
    fn describe(&mut self, config: &Config, problems: &mut Vec<Problem>) {
        let mut wrong = |error: &WitError| {
            problems.push(config.origin().problem(&["application", "wit"], error.to_string(), error.fix()));
        };
        let wit = match config.application.wit.as_deref().map(Wit::read).transpose() {
            Ok(wit) => wit,
            Err(error) => return wrong(&error),
        };
        let mut written = BTreeMap::new();
        // An event contract is known to all who publish or handle it.
        let mut told = BTreeSet::new();
        for module in &self.modules {
            for contract in module.interface.contracts() {
                let found = match &wit {
                    Some(wit) => wit.find(contract),
                    None => Ok(Written { resolve: &module.interface.wit, interface: contract.id }),
                };
                match found {
                    Ok(found) => drop(written.insert(contract.track.as_str(), found)),
                    Err(error) if told.insert(error.to_string()) => wrong(&error),
                    Err(_) => {}
                }
            }
        }
        let routes: Vec<_> = self
            .routes
            .iter()
            .filter_map(|route| {
                let written = *written.get(route.track.as_str())?;
                Some(Described { key: &route.key, plan: &route.plan, written })
            })
            .collect();
        self.document = openapi::document(&config.application.name, &config.application.version, &routes);
    }

    fn add_route(&mut self, config: &Config, key: &RouteKey, route: &HttpRoute, problems: &mut Vec<Problem>) {
        let text = key.to_string();
        let path = ["http", "routes", text.as_str()];
        match self.function(&route.call) {
            Err((message, fix)) => problems.push(config.origin().problem(&path, message, fix)),
            Ok((track, function)) => match Plan::new(key, route, &function) {
                Ok(plan) => {
                    let track = track.to_owned();
                    self.routes.push(Route { key: key.clone(), track, function, plan });
                }
                Err(faults) => problems.extend(faults.into_iter().map(|fault| {
                    let path: Vec<_> = path.into_iter().chain(fault.at.iter().map(String::as_str)).collect();
                    config.origin().problem(&path, format!("route {text:?}: {}", fault.message), fault.fix)
                })),
            },
        }
    }
}

/// Finds a function by its name; the version may be left out.
///
/// # Errors
/// What is wrong with the name, and the fix.
pub fn function<'a>(
    exports: &'a BTreeMap<String, Export>,
    name: &FunctionName,
) -> Result<(&'a str, Arc<Function>), (String, String)> {
    let wanted = name.contract.to_string();
    let mut found = exports.iter().filter(|(_, export)| is_named(&export.contract, &name.contract));
    let Some((track, export)) = found.next() else {
        if module::is_event_contract(&wanted) {
            return Err((
                format!("`{name}` is an event, which is published and not called"),
                "name a function of a contract; a module publishes the event by importing it".to_owned(),
            ));
        }
        let names: Vec<_> = exports.values().map(|e| e.contract.name.as_str()).collect();
        return Err((
            format!("no module exports the contract `{wanted}`"),
            format!("the contracts are {}", listed(&names)),
        ));
    };
    if found.next().is_some() {
        return Err((
            format!("`{wanted}` is exported in several versions"),
            "add the version: `…/interface@1.0.0`".to_owned(),
        ));
    }
    match export.contract.functions.get(&name.function) {
        Some(function) => Ok((track, Arc::clone(function))),
        None => {
            let names: Vec<_> = export.contract.functions.keys().map(String::as_str).collect();
            Err((
                format!("contract `{}` has no function `{}`", export.contract.name, name.function),
                format!("its functions are {}", listed(&names)),
            ))
        }
    }
}

fn listed(names: &[&str]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", "),
    }
}

fn read_module(config: &Config, name: &ModuleName, component: &Path) -> Result<Module, Problem> {
    let key = ["modules", name.as_str(), "component"];
    let problem = |message: String, fix: &str| config.origin().problem(&key, message, fix);
    let shown = component.display();
    let unreadable = |e: std::io::Error| {
        let message = format!("the component of `{name}` cannot be read: {shown}: {e}");
        problem(message, "build it with `cleave build`, or correct the path")
    };
    let limit = config.engine.component_max;
    // Why: a pipe or a device would be waited for, or be read for ever.
    if !std::fs::metadata(component).map_err(unreadable)?.is_file() {
        return Err(problem(format!("the component of `{name}` is not a file: {shown}"), "correct the path"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(component).map_err(unreadable)?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > limit {
        let message =
            format!("the component of `{name}` takes more than the {limit} bytes of `engine.component_max`");
        return Err(problem(
            message,
            "build it with optimisation for size and without debug information, or raise the limit",
        ));
    }
    let interface = module::read(&bytes)
        .map_err(|e| problem(format!("the component of `{name}` cannot be used: {shown}: {e}"), e.fix()))?;
    Ok(Module { name: name.clone(), bytes, interface })
}

/// What the settings say that only the parts they are for can judge.
fn check_settings(config: &Config, modules: &[Module], problems: &mut Vec<Problem>) {
    if let Err(error) = telemetry::filter(&config.log) {
        problems.push(config.origin().problem(&["log", "filter"], error.to_string(), telemetry::FILTER_FIX));
    }
    check_files(config, problems);
    for module in modules {
        let name = module.name.as_str();
        let schedules = config.modules.get(name).is_some_and(|settings| !settings.schedule.is_empty());
        if schedules && module.interface.task.is_none() {
            let message =
                format!("`{name}` has a schedule, and its component exports no `cleave:schedule/task`");
            let fix = "export the interface, or leave the schedule out";
            problems.push(config.origin().problem(&["modules", name, "schedule"], message, fix));
        }
    }
    for (name, module) in &config.modules {
        let Some(folder) = &module.migrations else { continue };
        let key = ["modules", name.as_str(), "migrations"];
        if !module.grants.contains(&Grant::Sql) {
            let message = format!("`{name}` has migrations and no database to run them on");
            problems.push(config.origin().problem(
                &key,
                message,
                "add the grant \"sql\", or leave the migrations out",
            ));
        } else if let Err(error) = data::check_migrations(name.as_str(), folder) {
            problems.push(config.origin().problem(&key, error.to_string(), error.fix()));
        }
    }
}

/// Folders that everybody may read: they must have nothing in them that is not for everybody.
fn check_files(config: &Config, problems: &mut Vec<Problem>) {
    let nodes = config.nodes.keys().map(|node| ("the data folder of a node", config.data_dir_of(node)));
    let cache = config.engine.cache.clone().map(|cache| ("the folder of compiled modules", cache));
    let kept: Vec<_> = [("the data folder", config.data.dir.clone())]
        .into_iter()
        .chain(nodes)
        .chain(cache)
        .chain([("the config file", config.origin().file().to_path_buf())])
        .collect();
    for (path, folder) in &config.http.files {
        let key = ["http", "files", path.as_str()];
        if RESERVED.contains(&path.as_str()) {
            let message = format!("the host answers `{path}` itself");
            problems.push(config.origin().problem(&key, message, "serve the files below another path"));
        }
        let served = real(folder);
        for (what, private) in kept.iter().map(|(what, private)| (what, real(private))) {
            if private.starts_with(&served) || served.starts_with(&private) {
                let message = format!("`{path}` would give {what} to everybody: {}", private.display());
                problems.push(config.origin().problem(
                    &key,
                    message,
                    "serve a folder that has nothing else in it",
                ));
            }
        }
    }
}

/// A path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !parent.as_os_str().is_empty() => real(parent).join(name),
        _ => path.to_path_buf(),
    })
}

fn exports(config: &Config, modules: &[Module], problems: &mut Vec<Problem>) -> BTreeMap<String, Export> {
    let mut exports: BTreeMap<String, Export> = BTreeMap::new();
    for module in modules {
        for contract in &module.interface.exports {
            if let Some(first) = exports.get(&contract.track) {
                let message = format!(
                    "`{}` and `{}` both export the contract `{}`",
                    first.module, module.name, contract.name
                );
                let key = ["modules", module.name.as_str()];
                problems.push(config.origin().problem(
                    &key,
                    message,
                    "a contract has one exporter: leave one of the modules out",
                ));
                continue;
            }
            let export = Export { module: module.name.clone(), contract: Arc::new(contract.clone()) };
            exports.insert(contract.track.clone(), export);
        }
    }
    exports
}

/// Who handles which event, when publishers and handlers fit together.
fn subscribers(
    config: &Config,
    modules: &[Module],
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Vec<ModuleName>> {
    let mut problem = |module: &ModuleName, message: String, fix: String| {
        problems.push(config.origin().problem(&["modules", module.as_str()], message, fix));
    };
    let mut subscribers: BTreeMap<String, Vec<ModuleName>> = BTreeMap::new();
    // The first to know each event, and how it knows it.
    let mut known: BTreeMap<String, (&ModuleName, &Function)> = BTreeMap::new();
    let mut publishers: BTreeMap<&str, &ModuleName> = BTreeMap::new();
    for module in modules {
        for contract in &module.interface.publishes {
            let first = *publishers.entry(&contract.track).or_insert(&module.name);
            if *first != module.name && !is_shared(config, contract) {
                let message = format!(
                    "`{first}` and `{}` both publish the event contract `{}`",
                    module.name, contract.name
                );
                let fix = format!(
                    "leave one of them out; if both are meant, add \"{}\" to `events.shared`",
                    contract.name
                );
                problem(&module.name, message, fix);
            }
        }
        let events = module.interface.handles.iter().chain(&module.interface.publishes);
        for (contract, function) in events.flat_map(|c| c.functions.values().map(move |f| (c, f))) {
            let (other, type_there) =
                *known.entry(event_name(contract, function)).or_insert_with(|| (&module.name, &**function));
            if type_there.fingerprint != function.fingerprint {
                let message = format!(
                    "`{}` and `{other}` know the event `{}` by different types: {} and {}",
                    module.name,
                    function.address,
                    function.signature(),
                    type_there.signature()
                );
                problem(&module.name, message, "build both modules against the same WIT".to_owned());
            }
        }
        for contract in &module.interface.handles {
            for function in contract.functions.values() {
                let names = subscribers.entry(event_name(contract, function)).or_default();
                // Why: a component may export two versions of a contract that are one track.
                if !names.contains(&module.name) {
                    names.push(module.name.clone());
                }
            }
        }
    }
    subscribers
}

/// Whether the config lets several modules publish this contract.
fn is_shared(config: &Config, contract: &Contract) -> bool {
    config.events.shared.iter().any(|shared| is_named(contract, shared))
}

/// Whether config means this contract by a name, whose version may be left out.
pub fn is_named(contract: &Contract, name: &ContractName) -> bool {
    let name = name.to_string();
    contract.name == name || contract.name.split_once('@').is_some_and(|(unversioned, _)| unversioned == name)
}

fn check_imports(
    config: &Config,
    module: &Module,
    exports: &BTreeMap<String, Export>,
    problems: &mut Vec<Problem>,
) {
    let name = &module.name;
    let key = ["modules", name.as_str()];
    let mut problem =
        |message: String, fix: String| problems.push(config.origin().problem(&key, message, fix));
    let grants = config.modules.get(name.as_str()).map(|m| m.grants.clone()).unwrap_or_default();
    for import in &module.interface.host_imports {
        match capability::needs(import) {
            Some(None) => {}
            Some(Some(grant)) if grants.contains(&grant) => {}
            Some(Some(grant)) => problem(
                format!("`{name}` imports `{import}`, which it was not granted"),
                format!("add `grants = [\"{grant}\"]` to `[modules.{name}]` if the module may have it"),
            ),
            None => problem(
                format!("`{name}` imports `{import}`, which this host does not have"),
                "build the module without it, or for a version of the interface that `docs/semantics.md` names".to_owned(),
            ),
        }
    }
    for import in &module.interface.imports {
        let Some(export) = exports.get(&import.track) else {
            problem(
                format!("`{name}` imports the contract `{}`, which no module exports", import.name),
                format!("add the module that exports it to the config; exported are {}", {
                    listed(&exports.values().map(|e| e.contract.name.as_str()).collect::<Vec<_>>())
                }),
            );
            continue;
        };
        for function in import.functions.values() {
            match export.contract.functions.get(&function.name) {
                None => problem(
                    format!(
                        "`{name}` imports `{}`, which `{}` does not export",
                        function.address, export.module
                    ),
                    "build both modules against the same WIT".to_owned(),
                ),
                Some(other) if other.fingerprint != function.fingerprint => problem(
                    format!(
                        "`{name}` and `{}` know `{}` by different types: {} and {}",
                        export.module,
                        function.address,
                        function.signature(),
                        other.signature()
                    ),
                    "build both modules against the same WIT".to_owned(),
                ),
                Some(_) => {}
            }
        }
    }
}

/// The modules with callees before callers; says a way round if there is one.
fn in_order(
    config: &Config,
    modules: Vec<Module>,
    exports: &BTreeMap<String, Export>,
    problems: &mut Vec<Problem>,
) -> Vec<Module> {
    let callees: BTreeMap<ModuleName, BTreeSet<ModuleName>> = modules
        .iter()
        .map(|m| {
            let of =
                m.interface.imports.iter().filter_map(|i| exports.get(&i.track)).map(|e| e.module.clone());
            (m.name.clone(), of.collect())
        })
        .collect();
    let mut rank: BTreeMap<ModuleName, usize> = BTreeMap::new();
    let mut way: Vec<ModuleName> = Vec::new();
    for module in &modules {
        if let Err(cycle) = visit(&module.name, &callees, &mut rank, &mut way) {
            let shown = cycle.iter().map(|m| format!("`{m}`")).collect::<Vec<_>>().join(" → ");
            let first = cycle.first().map_or("", ModuleName::as_str);
            problems.push(config.origin().problem(
                &["modules", first],
                format!("modules call each other in a cycle: {shown}"),
                "move what two of them need of each other into one, or into a module that both may call",
            ));
            return modules;
        }
    }
    let mut modules = modules;
    modules.sort_by_key(|m| rank.get(&m.name).copied());
    modules
}

/// Gives every module below this one its rank, callees first. Modules are at most as deep as there are modules, and
/// their number is a config file's.
fn visit(
    module: &ModuleName,
    callees: &BTreeMap<ModuleName, BTreeSet<ModuleName>>,
    rank: &mut BTreeMap<ModuleName, usize>,
    way: &mut Vec<ModuleName>,
) -> Result<(), Vec<ModuleName>> {
    if rank.contains_key(module) {
        return Ok(());
    }
    if let Some(start) = way.iter().position(|m| m == module) {
        let mut cycle: Vec<_> = way.iter().skip(start).cloned().collect();
        cycle.push(module.clone());
        return Err(cycle);
    }
    way.push(module.clone());
    for callee in callees.get(module).into_iter().flatten() {
        visit(callee, callees, rank, way)?;
    }
    way.pop();
    rank.insert(module.clone(), rank.len());
    Ok(())
}

/// The grants of a module that its component does not use.
pub fn unused_grants<'a>(config: &'a Config, module: &'a Module) -> impl Iterator<Item = Grant> + 'a {
    let granted = config.modules.get(module.name.as_str()).map(|m| m.grants.clone()).unwrap_or_default();
    granted.into_iter().filter(|grant| {
        !module.interface.host_imports.iter().any(|import| capability::needs(import) == Some(Some(*grant)))
    })
}
