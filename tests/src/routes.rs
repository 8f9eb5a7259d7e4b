//! The proof of where calls went: what a node tells of the contracts it reached, held against what an arrangement means.
//!
//! A node that is a value in this process tells it itself, and one that is a process tells it to `cleave status`.

use crate::{Application, Arrangement, PATIENCE, stderr};
use cleave_bus::route::Route;
use cleave_host::host::Host;
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::time::Instant;

/// What a node tells.
struct Told {
    node: Option<String>,
    /// The modules it has.
    modules: BTreeSet<String>,
    reached: Vec<Reached>,
}

/// A contract that a node can call, and how it has.
struct Reached {
    contract: String,
    /// The module that exports it.
    module: String,
    route: String,
    calls: u64,
}

/// The route as the config and `cleave status` write it.
pub(crate) fn text(route: Route) -> &'static str {
    match route {
        Route::Local => "local",
        Route::Loopback => "loopback",
        Route::Remote => "remote",
    }
}

impl Told {
    fn by_value(host: &Host) -> Self {
        let exports = &host.application.exports;
        let reached: Vec<_> = host
            .traffic()
            .into_iter()
            .map(|(contract, (route, calls))| Reached {
                module: exports[&contract].module.to_string(),
                contract,
                route: text(route).to_owned(),
                calls,
            })
            .collect();
        let modules = exports.values().map(|export| export.module.to_string());
        let modules = modules.filter(|module| host.pool(module).is_some()).collect();
        Self { node: host.config().node().map(ToString::to_string), modules, reached }
    }

    fn by_process(application: &Application, node: Option<&str>) -> Self {
        let status = status(application, node);
        let rows = |field: &str| status[field].as_array().unwrap().clone();
        let text = |row: &Json, field: &str| row[field].as_str().unwrap().to_owned();
        let answered = rows("answered_by").iter().map(|by| text(by, "node")).collect::<Vec<_>>();
        assert_eq!(answered, [node.unwrap_or("application")], "{status}");
        let reached = |row: &Json| Reached {
            contract: text(row, "contract"),
            module: exporter(&status, &text(row, "contract")),
            route: text(row, "route"),
            calls: row["calls"].as_u64().unwrap(),
        };
        let modules = rows("pools").iter().map(|pool| text(pool, "module")).collect();
        let reached = rows("traffic").iter().map(reached).collect();
        Self { node: node.map(str::to_owned), modules, reached }
    }
}

/// What `cleave status` tells of a node, once it knows of every module.
fn status(application: &Application, node: Option<&str>) -> Json {
    let node = node.map(|node| ["--node", node]);
    let arguments = [node.as_ref().map_or(&[][..], |node| node), &["--json"]].concat();
    let began = Instant::now();
    loop {
        let output = application.run("status", &arguments);
        if output.status.success() {
            return serde_json::from_slice(&output.stdout).unwrap();
        }
        assert!(began.elapsed() < PATIENCE, "a module stays missing: {}", stderr(&output));
        std::thread::yield_now();
    }
}

/// The module that exports a contract: `traffic` has its version without what does not matter to callers.
fn exporter(status: &Json, contract: &str) -> String {
    let exports = |module: &&Json| {
        let contracts = module["versions"][0]["contracts"].as_array().unwrap();
        contracts.iter().filter_map(Json::as_str).any(|full| full.starts_with(&format!("{contract}.")))
    };
    let module = status["modules"].as_array().unwrap().iter().find(exports);
    module.unwrap_or_else(|| panic!("nobody exports {contract}: {status}"))["name"]
        .as_str()
        .unwrap()
        .to_owned()
}

impl Arrangement {
    /// Asserts that a node has the modules that the arrangement puts there and reaches every contract by the route that
    /// it means, and gives how many calls the node has made.
    pub fn assert_routes(self, host: &Host) -> u64 {
        self.assert_told(Told::by_value(host))
    }

    /// As [`assert_routes`](Self::assert_routes), of a process that runs a node of the application, or the whole.
    pub fn assert_routes_of_process(self, application: &Application, node: Option<&str>) -> u64 {
        self.assert_told(Told::by_process(application, node))
    }

    fn assert_told(self, told: Told) -> u64 {
        let name = told.node.as_deref();
        let node = self.nodes.iter().find(|(node, _)| name == Some(node));
        assert_eq!(node.is_some(), !self.nodes.is_empty(), "{name:?} is no node of {self:?}");
        let of_contract = |Reached { contract, module, route, calls }| {
            let is_here = node.is_none_or(|(_, modules)| modules.contains(&String::as_str(&module)));
            assert_eq!(told.modules.contains(&module), is_here, "`{module}` at {name:?} under {self:?}");
            let meant = if is_here { self.route } else { Route::Remote };
            assert_eq!(route, text(meant), "{contract} at {name:?} under {self:?}");
            calls
        };
        told.reached.into_iter().map(of_contract).sum()
    }

    /// Ends a node that a scenario ran on. Its calls went by the arrangement's route and by no other, and there were some.
    pub async fn end(self, host: Host) {
        assert!(self.assert_routes(&host) > 0, "there was no call under {self:?}");
        assert!(host.drain().await, "calls still ran under {self:?}");
    }
}
