//! Owns where the databases of modules are, by config: a file of the data folder, or a schema of a PostgreSQL server.

use crate::application::{Application, Module};
use crate::clock::Clock;
use crate::data::{self, DataError, DataFolder};
use crate::placement;
use cleave_config::{Config, Database, Durability, ModuleName, PostgresUrl, Problem};
use std::collections::BTreeMap;

/// The databases of the modules that have one.
pub type Databases = BTreeMap<ModuleName, data::Database>;

/// Where the databases of the modules that are here are opened.
pub(crate) struct Homes<'a> {
    config: &'a Config,
    folder: &'a DataFolder,
    /// The URL of each module that keeps its data in PostgreSQL.
    urls: Vec<&'a PostgresUrl>,
    /// The servers that were looked at.
    servers: Vec<(&'a PostgresUrl, data::Server)>,
}

impl<'a> Homes<'a> {
    pub(crate) fn new(config: &'a Config, application: &'a Application, folder: &'a DataFolder) -> Self {
        let with_data = application.here(config).filter(|module| placement::needs_database(config, module));
        let urls = with_data.filter_map(|module| match config.database_of(module.name.as_str()).0 {
            Database::Postgres(url) => Some(url),
            Database::Sqlite => None,
        });
        Self { config, folder, urls: urls.collect(), servers: Vec::new() }
    }

    /// Opens the database of a module, and runs the migrations that it has not seen.
    pub(crate) async fn open(
        &mut self,
        module: &'a Module,
        clock: &Clock,
    ) -> Result<data::Database, Problem> {
        let (name, limits) = (module.name.as_str(), limits(self.config, clock));
        let migrations = self.config.modules.get(name).and_then(|module| module.migrations.as_deref());
        let opened = match self.config.database_of(name) {
            (Database::Sqlite, _) => data::Database::open(self.folder, name, migrations, limits).await,
            (Database::Postgres(url), key) => {
                let server = self.server(url).await.map_err(|e| problem(self.config, &key, &e))?;
                data::Database::open_on(&server, name, migrations, limits).await
            }
        };
        opened.map_err(|e| problem(self.config, &["modules", name], &e))
    }

    /// The server of a URL, which takes the connections of all modules here that are on it.
    async fn server(&mut self, url: &'a PostgresUrl) -> Result<data::Server, DataError> {
        if let Some((_, server)) = self.servers.iter().find(|(known, _)| *known == url) {
            return Ok(server.clone());
        }
        // Whichever of its databases they are in.
        let modules =
            self.urls.iter().filter(|other| (other.host(), other.port()) == (url.host(), url.port()));
        let connections = limits(self.config, &Clock::system()).connections().saturating_mul(modules.count());
        let server = data::Server::open(url, self.config.data.prefix.as_str(), connections).await?;
        self.servers.push((url, server.clone()));
        Ok(server)
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
