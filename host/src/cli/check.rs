//! `cleave check`: finds everything that can be wrong without starting, and prints the application as it is understood.

use super::table::table;
use super::{Application as Options, Exit, complain, print, report, say};
use crate::application::{Application, Module, unused_grants};
use crate::host::colocated;
use clap::Args;
use cleave_bus::route;
use cleave_config::{Config, Problem, Problems};
use serde::Serialize;

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
        let missing = config.missing_files();
        if !missing.is_empty() {
            return report(&Problems(missing));
        }
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

/// The application as tables: modules, contracts, routes.
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
    text
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
    }
    warnings
}

/// The application as `--json` prints it. Fields are added, never renamed or removed, within one version.
#[derive(Debug, Serialize)]
struct Report {
    version: u32,
    modules: Vec<ModuleReport>,
    contracts: Vec<ContractReport>,
    routes: Vec<RouteReport>,
}

#[derive(Debug, Serialize)]
struct ModuleReport {
    name: String,
    component: String,
    exports: Vec<String>,
    imports: Vec<String>,
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

impl Report {
    fn new(application: &Application, config: &Config) -> Self {
        let route = route::resolve(colocated(config));
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
                    route: format!("{route:?}").to_lowercase(),
                    why: route.reason().to_owned(),
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
        }
    }
}
