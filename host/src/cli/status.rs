//! `cleave status`: what of the application runs, as one of its nodes knows it, beside what should run by config.
//!
//! The node that answers tells what it has heard; what is missing is judged here, by the config as it is in the file now.

use super::socket::{Help, Place, answering, ask_each, ask_first, places, value};
use super::table::{moment, plain, span, table};
use super::{Application, Exit, print, print_json, report, say};
use crate::admin::status::{BusStatus, PoolStatus, Status as Told, Traffic};
use crate::clock::Clock;
use clap::Args;
use cleave_bus::members::{Member, State};
use cleave_config::Config;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const HELP: Help = Help {
    unavailable: "ask again",
    uncertain: "ask again, or another node with `--node`",
    invalid: "`cleave status --help` tells how to ask",
    patience: Some(Duration::from_secs(3)),
};

#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    application: Application,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn run(self) -> Exit {
        let config = match self.application.load() {
            Ok(config) => config,
            Err(problems) => return report(&problems),
        };
        let told = match places(&config, None).and_then(|places| ask(&config, places)) {
            Ok(told) => told,
            Err(exit) => return exit,
        };
        let report = Report::new(&config, told);
        for warning in &report.warnings {
            say(&format!("warning: {}", plain(warning)));
        }
        let all_held = report.modules.iter().all(|module| module.held || !module.configured);
        let exit = if all_held { Exit::Done } else { Exit::Problem };
        if self.json {
            return print_json(&report, exit);
        }
        print(&report.text(Clock::system().now()), exit)
    }
}

/// What the first node that answers tells of all. Without a bus a node knows of itself alone, so each is asked.
fn ask(config: &Config, places: Vec<Place<'_>>) -> Result<Vec<Told>, Exit> {
    if config.bus.nats.is_some() {
        let (_, text) = ask_first(places, "/status", &(), &HELP)?;
        return Ok(vec![value(&text)?]);
    }
    let places = answering(places)?;
    let told = ask_each::<Told>(&places, "/status", &(), &HELP)?;
    Ok(told.into_iter().map(|(_, told)| told).collect())
}

/// What `--json` prints. Fields are added, never renamed or removed, within one version.
#[derive(Debug, Serialize)]
struct Report {
    version: u32,
    answered_by: Vec<Answered>,
    /// Of the node that answers.
    bus: Option<BusStatus>,
    replicas: Vec<Replica>,
    modules: Vec<Module>,
    /// Of the modules on the nodes that answer.
    pools: Vec<PoolStatus>,
    /// From the nodes that answer.
    traffic: Vec<Traffic>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Answered {
    node: String,
    replica: String,
}

#[derive(Debug, Serialize)]
struct Replica {
    node: String,
    /// Empty if it has none.
    replica: String,
    state: &'static str,
    silent_for_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_unix_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cleave: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    modules: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Module {
    name: String,
    /// Whether it is in the config.
    configured: bool,
    /// Whether a live replica holds it.
    held: bool,
    /// As live replicas hold it: one, unless they differ.
    versions: Vec<Version>,
}

#[derive(Debug, Serialize)]
struct Version {
    digest: String,
    contracts: Vec<String>,
    nodes: BTreeSet<String>,
    replicas: Vec<String>,
}

impl Report {
    fn new(config: &Config, told: Vec<Told>) -> Self {
        let mut answered_by = Vec::new();
        let (mut bus, mut members) = (None, Vec::new());
        let (mut pools, mut traffic) = (Vec::new(), Vec::new());
        for told in told {
            answered_by.push(Answered { node: told.node, replica: told.replica });
            bus = bus.or(told.bus);
            members.extend(told.members);
            pools.extend(told.pools);
            traffic.extend(told.traffic);
        }
        let modules = modules(config, &members);
        let away = bus.as_ref().is_some_and(|bus: &BusStatus| !bus.connected);
        let mut warnings = missing(config, &modules, &members, away);
        warnings.extend(differing(&modules, &members));
        let replicas = replicas(config, &members);
        Self { version: 1, answered_by, bus, replicas, modules, pools, traffic, warnings }
    }

    fn text(&self, now: i64) -> String {
        let answered: Vec<_> = self.answered_by.iter().map(|by| name(&by.node, &by.replica)).collect();
        let bus = match &self.bus {
            None => "there is no bus".to_owned(),
            Some(BusStatus { servers, why: None, .. }) => format!("connected to NATS at {servers}"),
            Some(BusStatus { servers, why: Some(why), .. }) => {
                format!("not connected to NATS at {servers}: {}", plain(why))
            }
        };
        let verb = if answered.len() == 1 { "answers" } else { "answer" };
        let mut text = format!("{} {verb}; {bus}\n", answered.join(", "));
        let replicas: Vec<_> = self.replicas.iter().map(|replica| replica.row(now)).collect();
        text += &table("Nodes", ["NODE", "REPLICA", "STATE", "STARTED", "HTTP", "MODULES"], &replicas);
        let modules: Vec<_> = self.modules.iter().flat_map(Module::rows).collect();
        text + &table("Modules", ["MODULE", "NODES", "CONTRACTS", "DIGEST"], &modules)
    }
}

impl Replica {
    fn row(&self, now: i64) -> [String; 6] {
        let state = match self.state {
            "silent" => format!("silent for {}", span(i64::try_from(self.silent_for_ms).unwrap_or(i64::MAX))),
            state => state.to_owned(),
        };
        let started = self.started_unix_ms.and_then(|at| i64::try_from(at).ok());
        [
            plain(&self.node),
            or_none([&self.replica]),
            state,
            started.map_or_else(|| "-".to_owned(), |at| moment(at.min(now), now)),
            or_none(&self.http),
            or_none(&self.modules),
        ]
    }
}

impl Module {
    fn rows(&self) -> Vec<[String; 4]> {
        let row = |version: &Version| {
            [
                plain(&self.name),
                or_none(&version.nodes),
                or_none(&version.contracts),
                or_none([&version.digest]),
            ]
        };
        if self.versions.is_empty() {
            let none = || "-".to_owned();
            return vec![[plain(&self.name), none(), none(), none()]];
        }
        self.versions.iter().map(row).collect()
    }
}

fn or_none<'a>(texts: impl IntoIterator<Item = &'a String>) -> String {
    let texts: Vec<_> = texts.into_iter().map(|text| plain(text)).collect();
    if texts.iter().all(String::is_empty) { "-".to_owned() } else { texts.join(", ") }
}

fn name(node: &str, replica: &str) -> String {
    if replica.is_empty() { node.to_owned() } else { format!("{node} (replica {replica})") }
}

/// What a replica that can be heard of does.
fn doing(state: State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Up => "up",
        State::Draining => "draining",
        State::Leaving | State::Left => "leaving",
    }
}

/// Every replica, and every node of the config that none was heard of.
fn replicas(config: &Config, members: &[Member]) -> Vec<Replica> {
    let heard = members.iter().map(|Member { said, silent_for_ms, silent }| Replica {
        node: said.node.clone(),
        replica: said.replica.clone(),
        state: if *silent { "silent" } else { doing(said.state) },
        silent_for_ms: *silent_for_ms,
        started_unix_ms: Some(said.started_unix_ms),
        cleave: Some(said.cleave.clone()),
        http: said.http.clone(),
        modules: said.modules.iter().map(|module| module.name.clone()).collect(),
    });
    let absent = config.nodes.keys().filter(|node| members.iter().all(|m| m.said.node != node.as_str()));
    let mut replicas: Vec<_> = heard
        .chain(absent.map(|node| Replica {
            node: node.to_string(),
            replica: String::new(),
            state: "absent",
            silent_for_ms: 0,
            started_unix_ms: None,
            cleave: None,
            http: None,
            modules: Vec::new(),
        }))
        .collect();
    replicas.sort_by(|a, b| (&a.node, &a.replica).cmp(&(&b.node, &b.replica)));
    replicas
}

fn live(members: &[Member]) -> impl Iterator<Item = &Member> {
    members.iter().filter(|member| !member.silent && member.said.state == State::Up)
}

/// The modules of the config, and any other that a live replica holds.
fn modules(config: &Config, members: &[Member]) -> Vec<Module> {
    let mut versions: BTreeMap<(&str, &str), Version> = BTreeMap::new();
    for said in live(members).map(|member| &member.said) {
        for module in &said.modules {
            let version = versions.entry((&module.name, &module.digest)).or_insert_with(|| Version {
                digest: module.digest.clone(),
                contracts: module.contracts.clone(),
                nodes: BTreeSet::new(),
                replicas: Vec::new(),
            });
            version.nodes.insert(said.node.clone());
            version.replicas.push(said.replica.clone());
        }
    }
    let mut modules: BTreeMap<String, Vec<Version>> =
        config.modules.keys().map(|name| (name.to_string(), Vec::new())).collect();
    for ((name, _), version) in versions {
        modules.entry(name.to_owned()).or_default().push(version);
    }
    let module = |(name, versions): (String, Vec<Version>)| Module {
        configured: config.modules.contains_key(name.as_str()),
        held: !versions.is_empty(),
        name,
        versions,
    };
    modules.into_iter().map(module).collect()
}

/// The modules of the config that nobody holds, and what to do; `away` is whether nobody else can be heard of.
fn missing(config: &Config, modules: &[Module], members: &[Member], away: bool) -> Vec<String> {
    let missing = modules.iter().filter(|module| !module.held);
    missing
        .map(|Module { name, .. }| {
            let holder = members.iter().find(|m| m.said.modules.iter().any(|held| held.name == *name));
            let nodes: Vec<_> =
                config.nodes_of(name).iter().map(|node| format!("`cleave up --node {node}`")).collect();
            let what = match holder {
                _ if away => "whoever answers hears of no others, because the bus is away".to_owned(),
                Some(Member { said, silent: true, .. }) => format!("node `{}` is silent", said.node),
                Some(Member { said, .. }) => format!("node `{}` is {}", said.node, doing(said.state)),
                None if nodes.is_empty() => "`cleave up` starts it".to_owned(),
                None => format!("{} starts it", nodes.join(" or ")),
            };
            format!("`{name}` is on no live node: {what}")
        })
        .collect()
}

/// Where replicas run what is not the same.
fn differing(modules: &[Module], members: &[Member]) -> Vec<String> {
    let mut warnings = Vec::new();
    for Module { name, versions, .. } in modules.iter().filter(|module| module.versions.len() > 1) {
        let nodes = |nodes: &BTreeSet<String>| nodes.iter().cloned().collect::<Vec<_>>().join(", ");
        let each: Vec<_> = versions.iter().map(|v| format!("{} on {}", v.digest, nodes(&v.nodes))).collect();
        warnings.push(format!("the replicas of `{name}` run different components: {}", each.join("; ")));
    }
    let of_cleave: BTreeSet<_> = live(members).map(|member| member.said.cleave.as_str()).collect();
    if of_cleave.len() > 1 {
        let versions = of_cleave.into_iter().collect::<Vec<_>>().join(", ");
        warnings.push(format!("the nodes run different versions of cleave: {versions}"));
    }
    warnings
}
