//! Owns what a node does beside calls: which relays, readers of the road, deliveries and tasks run here, by what the
//! modules publish, handle and are scheduled for, and by what a former placement has left.

use crate::application::{Application, Module, event_name};
use crate::bus::Joined;
use crate::data::{self, Database, roads};
use crate::databases::Databases;
use crate::delivery::Inbox;
use crate::drill::Drill;
use crate::ingest::Ingest;
use crate::placement;
use crate::pool::Pool;
use crate::publish::Wakes;
use crate::relay::{DATABASE_PATIENCE, Relay, Target};
use crate::schedule::Task;
use cleave_bus::nats_stream::{Place, Road};
use cleave_config::{Config, ModuleName};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What wakes the delivery of each module that handles events.
pub type Arrivals = BTreeMap<ModuleName, Arc<Notify>>;

/// What wakes the relay of each pair of a publisher and a subscriber.
pub(crate) fn wakes(application: &Application) -> Wakes {
    let mut wakes = Wakes::new();
    for module in &application.modules {
        for (contract, function) in
            module.interface.publishes.iter().flat_map(|c| c.functions.values().map(move |f| (c, f)))
        {
            for subscriber in
                application.subscribers.get(&event_name(contract, function)).into_iter().flatten()
            {
                wakes.entry((module.name.clone(), subscriber.clone())).or_default();
            }
        }
    }
    wakes
}

/// The modules that handle events, each with what will wake its delivery.
pub(crate) fn arrivals(application: &Application) -> Arrivals {
    application.subscribers.values().flatten().map(|module| (module.clone(), Arc::default())).collect()
}

/// Adds the ways and inboxes that a former arrangement of the modules has left events in: one whose publisher does not
/// publish them any more, or whose subscriber does not handle them any more.
pub(crate) async fn left_over(
    application: &Application,
    databases: &Databases,
    wakes: &mut Wakes,
    arrivals: &mut Arrivals,
) -> Result<(), (ModuleName, data::SqlError)> {
    let deadline = Instant::now() + DATABASE_PATIENCE;
    for (publisher, database) in databases {
        let failed = |e| (publisher.clone(), e);
        for subscriber in data::outbox::subscribers(database, deadline).await.map_err(failed)? {
            match application.modules.iter().find(|module| module.name.as_str() == subscriber) {
                Some(Module { name, .. }) => {
                    wakes.entry((publisher.clone(), name.clone())).or_default();
                    arrivals.entry(name.clone()).or_default();
                }
                None => tracing::warn!(
                    publisher = publisher.as_str(),
                    subscriber,
                    "events wait in the outbox for a module that is not there; they are kept until it is back"
                ),
            }
        }
        let is_open = data::inbox::is_open(database, deadline).await.map_err(failed)?;
        if is_open || roads::is_used(database, deadline).await.map_err(failed)? {
            arrivals.entry(publisher.clone()).or_default();
        }
    }
    Ok(())
}

/// The subscribers here to whom events come from the road, or have come before; each with the places up to which those are
/// still there that this process would now carry itself.
pub(crate) async fn arriving(
    config: &Config,
    databases: &Databases,
    wakes: &Wakes,
) -> Result<BTreeMap<ModuleName, Vec<Place>>, (ModuleName, data::SqlError)> {
    let deadline = Instant::now() + DATABASE_PATIENCE;
    let mut arriving = BTreeMap::new();
    for (subscriber, database) in databases {
        let failed = |e| (subscriber.clone(), e);
        let mut comes = roads::is_used(database, deadline).await.map_err(failed)?;
        let mut awaited = Vec::new();
        for (publisher, _) in wakes.keys().filter(|(_, to)| to == subscriber) {
            if placement::is_apart(config, publisher.as_str(), subscriber.as_str()) {
                comes = true;
            } else if let Some(from) = databases.get(publisher) {
                let under_way = roads::under_way(from, subscriber.as_str(), database, deadline).await;
                awaited.extend(under_way.map_err(failed)?);
            }
        }
        if comes || !awaited.is_empty() {
            arriving.insert(subscriber.clone(), awaited);
        }
    }
    Ok(arriving)
}

/// What runs beside the calls: relays, what takes events in, their delivery, and tasks.
pub(crate) struct Background<'a> {
    pub(crate) config: &'a Config,
    pub(crate) application: &'a Application,
    pub(crate) databases: &'a Databases,
    pub(crate) wakes: &'a Wakes,
    pub(crate) arrivals: &'a Arrivals,
    pub(crate) road: Option<&'a Arc<Road>>,
    /// How far the node has come on the bus, if there is one.
    pub(crate) joined: Option<&'a watch::Receiver<Joined>>,
    pub(crate) arriving: &'a BTreeMap<ModuleName, Vec<Place>>,
    pub(crate) drill: &'a Drill,
}

impl Background<'_> {
    /// Starts what a module has of it.
    pub(crate) fn start(&self, pool: &Arc<Pool>, tasks: &TaskTracker, stopping: &CancellationToken) {
        let Some(module) = self.application.modules.iter().find(|m| m.name.as_str() == pool.module()) else {
            return;
        };
        let Some(database) = self.databases.get(&module.name) else { return };
        for ((_, subscriber), published) in self.wakes.iter().filter(|((from, _), _)| *from == module.name) {
            let Some(to) = self.target(&module.name, subscriber) else { continue };
            let relay = Relay {
                publisher: module.name.to_string(),
                subscriber: subscriber.to_string(),
                from: database.clone(),
                to,
                published: Arc::clone(published),
                settings: self.config.events.clone(),
                drill: self.drill.clone(),
            };
            tasks.spawn(relay.run(stopping.clone()));
        }
        if let Some(arrived) = self.arrivals.get(&module.name) {
            self.receive(module, pool, database, arrived, tasks, stopping);
        }
        let schedule = self.config.modules.get(module.name.as_str()).map(|m| &m.schedule);
        for (name, schedule) in schedule.into_iter().flatten() {
            let Some(function) = module.interface.task() else { continue };
            let task = Task {
                name: name.clone(),
                every: schedule.every,
                function: Arc::clone(function),
                pool: Arc::clone(pool),
                database: database.clone(),
            };
            tasks.spawn(task.run(stopping.clone()));
        }
    }

    /// Where the events of a publisher here go for a subscriber.
    fn target(&self, publisher: &ModuleName, subscriber: &ModuleName) -> Option<Target> {
        if placement::is_apart(self.config, publisher.as_str(), subscriber.as_str()) {
            return self.road.cloned().map(Target::Road);
        }
        let database = self.databases.get(subscriber)?.clone();
        Some(Target::Inbox { database, arrived: Arc::clone(self.arrivals.get(subscriber)?) })
    }

    /// Starts what brings a module its events.
    fn receive(
        &self,
        module: &Module,
        pool: &Arc<Pool>,
        database: &Database,
        arrived: &Arc<Notify>,
        tasks: &TaskTracker,
        stopping: &CancellationToken,
    ) {
        if let Some(((awaited, road), joined)) =
            self.arriving.get(&module.name).zip(self.road).zip(self.joined)
        {
            let ingest = Ingest {
                subscriber: module.name.to_string(),
                road: Arc::clone(road),
                joined: joined.clone(),
                to: database.clone(),
                arrived: Arc::clone(arrived),
                awaited: awaited.clone(),
                remember: self.config.events.remember,
            };
            tasks.spawn(ingest.run(stopping.clone()));
        }
        let contracts = module.interface.handles.iter();
        let handlers: HashMap<_, _> = contracts
            .flat_map(|c| c.functions.values().map(move |f| (event_name(c, f), Arc::clone(f))))
            .collect();
        let (settings, arrived, drill) =
            (self.config.events.clone(), Arc::clone(arrived), self.drill.clone());
        let inbox = Inbox::new(Arc::clone(pool), database.clone(), handlers, settings, arrived, drill);
        tasks.spawn(inbox.clone().forget(stopping.clone()));
        tasks.spawn(inbox.run(tasks.clone(), stopping.clone()));
    }
}
