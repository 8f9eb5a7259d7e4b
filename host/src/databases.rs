//! Owns where the databases of modules are, by config: a file of the data folder, or a schema of a PostgreSQL server.

use crate::application::{Application, Module};
use crate::clock::Clock;
use crate::data::{self, DataError, DataFolder};
use crate::placement;
use cleave_config::{Config, Database, Durability, ModuleName, PostgresUrl, Problem};
use std::collections::BTreeMap;

/// The databases of the modules that have one.
pub type Databases = BTreeMap<ModuleName, data::Database>;

/// Where the databases of the modules that are here can be opened.
pub(crate) struct Homes<'a> {
    config: &'a Config,
    folder: &'a DataFolder,
    servers: Vec<(&'a PostgresUrl, data::Server)>,
}

impl<'a> Homes<'a> {
    /// Sees that each server that config names for a module here can be used.
    pub(crate) async fn open(
        config: &'a Config,
        application: &'a Application,
        folder: &'a DataFolder,
    ) -> Result<Self, Problem> {
        // Each with the key that names it first, and the number of its modules.
        let mut named: Vec<(&PostgresUrl, Vec<&str>, usize)> = Vec::new();
        for module in application.here(config).filter(|module| placement::needs_database(config, module)) {
            let (Database::Postgres(url), key) = config.database_of(module.name.as_str()) else { continue };
            match named.iter_mut().find(|(known, ..)| *known == url) {
                Some((.., modules)) => *modules = modules.saturating_add(1),
                None => named.push((url, key, 1)),
            }
        }
        let mut servers = Vec::new();
        for (url, key, modules) in named {
            let connections = limits(config, &Clock::system()).connections().saturating_mul(modules);
            let server = data::Server::open(url, config.data.prefix.as_str(), connections).await;
            servers.push((url, server.map_err(|e| problem(config, &key, &e))?));
        }
        Ok(Self { config, folder, servers })
    }

    /// Opens the database of a module, and runs the migrations that it has not seen.
    pub(crate) async fn open_module(
        &self,
        module: &Module,
        clock: &Clock,
    ) -> Result<data::Database, Problem> {
        let (name, limits) = (module.name.as_str(), limits(self.config, clock));
        let migrations = self.config.modules.get(name).and_then(|module| module.migrations.as_deref());
        let (named, _) = self.config.database_of(name);
        let server = self.servers.iter().find(|(url, _)| *named == Database::Postgres((*url).clone()));
        let opened = match server {
            Some((_, server)) => data::Database::open_on(server, name, migrations, limits).await,
            None => data::Database::open(self.folder, name, migrations, limits).await,
        };
        opened.map_err(|e| problem(self.config, &["modules", name], &e))
    }
}

fn problem(config: &Config, key: &[&str], error: &DataError) -> Problem {
    config.origin().problem(key, error.to_string(), error.fix())
}

fn limits(config: &Config, clock: &Clock) -> data::Limits {
    data::Limits {
        readers: config.data.readers,
        writers: config.data.writers,
        rows_max: config.data.rows_max,
        result_bytes_max: config.data.result_max,
        statement_bytes_max: config.data.statement_max,
        value_bytes_max: config.data.value_max,
        database_bytes_max: config.data.database_max as u64,
        lock_wait_max: config.data.lock_wait,
        durability: match config.data.durability {
            Durability::Full => data::Durability::Full,
            Durability::Process => data::Durability::Process,
        },
        clock: clock.clone(),
        ..data::Limits::default()
    }
}
