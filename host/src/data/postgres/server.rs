//! Owns the server: what must hold of it, and the schema and the roles of each module.
//!
//! The user of the URL makes, for each module, a schema and two roles. The module's own role may read and write the
//! tables in that schema and nothing else; what a module says is said as that role. The migrations' role may make tables
//! there, and nothing elsewhere, so that a migration reaches no other module's data whatever it says. Their passwords are
//! derived from the URL's, so that every process knows them and none keeps them.

use ring::{digest, hmac, pbkdf2};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cleave_config::{PostgresUrl, SslMode};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::super::{DataError, SqlError, tables};
use super::connection::{CONNECT_MAX, Connection, Fault, by};

/// The first version that holds what is asked here: a client that has gone is noticed since 14.
const VERSION_MIN: i64 = 140_000;
/// The longest name of PostgreSQL's, in bytes.
const NAME_MAX: usize = 63;
/// Rounds of the derivation that PostgreSQL stores of a password; its own default.
const ROUNDS: NonZeroU32 = NonZeroU32::new(4096).unwrap();
/// How long to wait for another process that sets up the same modules.
const SETUP_MAX: Duration = Duration::from_secs(60);
/// What is locked while roles and schemas are made: ours alone, of this database.
const SETUP_LOCK: &str = "SELECT pg_advisory_lock(hashtext('cleave'), 0)";

/// A server that can be used.
#[derive(Debug, Clone)]
pub struct Server {
    url: PostgresUrl,
    prefix: String,
}

/// Where a module keeps its data: names in the database.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) schema: String,
    /// The role that the module's statements are said by.
    role: Login,
    /// The role that migrations are run by.
    owner: Login,
    /// What stands at the schema, so that no other's is taken for it.
    mark: String,
    server: Server,
}

#[derive(Debug)]
struct Login {
    name: String,
    password: String,
}

impl Server {
    /// Looks whether the server is there, new enough, and takes so many connections.
    ///
    /// # Errors
    ///
    /// [`DataError::Server`].
    pub async fn open(url: &PostgresUrl, prefix: &str, connections: usize) -> Result<Self, DataError> {
        let server = Self { url: url.clone(), prefix: prefix.to_owned() };
        let deadline = Instant::now() + CONNECT_MAX;
        let mut connection = server.connect(server.options(), deadline).await?;
        let asked = by(deadline, async {
            let version = connection.number("SELECT current_setting('server_version_num')::bigint").await?;
            let places = connection
                .number(
                    "SELECT current_setting('max_connections')::bigint \
                     - current_setting('superuser_reserved_connections')::bigint \
                     - coalesce(current_setting('reserved_connections', true)::bigint, 0)",
                )
                .await?;
            Ok((version, places))
        });
        let (version, places) = asked.await.map_err(|fault| server.failed(&fault))?;
        connection.close().await;
        if version < VERSION_MIN {
            return Err(server.error(
                format!("it is PostgreSQL {}, and 14 is the oldest that can be used", version / 10_000),
                "upgrade the server, or name another one",
            ));
        }
        if usize::try_from(places).unwrap_or(0) < connections {
            return Err(server.error(
                format!("the modules here need {connections} connections, and it takes {places}"),
                "raise `max_connections` of the server, or lower `data.readers` and `data.writers`",
            ));
        }
        Ok(server)
    }

    /// The schema and the roles of a module; they are made where they are not there yet.
    pub(super) async fn place(&self, module: &str) -> Result<Place, DataError> {
        // No module's name has an underscore, and no part of one is empty, so no two of these are alike.
        let word = module.replace('-', "_");
        let place = Place {
            schema: name(&[&self.prefix, &word]),
            role: self.login(&[self.url.database(), &self.prefix, &word]),
            owner: self.login(&[self.url.database(), &self.prefix, &word, "", "owner"]),
            mark: format!("Cleave: module {module}, prefix {}", self.prefix),
            server: self.clone(),
        };
        let deadline = Instant::now() + SETUP_MAX;
        let mut connection = self.connect(self.options(), deadline).await?;
        let made = by(deadline, self.set_up(&mut connection, &place)).await;
        if !made.map_err(|fault| self.failed(&fault))? {
            return Err(self.error(
                format!("its schema `{}` is there and was not made for module `{module}`", place.schema),
                "set `data.prefix` to one whose schemas are not there, or rename that schema",
            ));
        }
        self.check_set_up(&mut connection, &place, deadline).await?;
        connection.close().await;
        Ok(place)
    }

    /// Makes what is missing, unless the schema is not the module's; gives whether it is. Processes that start
    /// together do it one after the other.
    async fn set_up(&self, connection: &mut Connection, place: &Place) -> Result<bool, Fault> {
        connection.say(SETUP_LOCK).await?;
        let marks = "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = $1";
        let marks = connection.texts(marks, &[&place.schema]).await?;
        if marks.first().is_some_and(|mark| mark.as_ref() != Some(&place.mark)) {
            return Ok(false);
        }
        connection.say("BEGIN").await?;
        let (schema, role, owner) =
            (quoted(&place.schema), quoted(&place.role.name), quoted(&place.owner.name));
        for login in [&place.role, &place.owner] {
            let known = "SELECT rolname::text FROM pg_roles WHERE rolname = $1";
            let known = connection.texts(known, &[&login.name]).await?;
            let verb = if known.is_empty() { "CREATE" } else { "ALTER" };
            // Why also when it is there: the password in the URL may be another now.
            let (name, verifier) = (quoted(&login.name), verifier(&login.password, &login.name));
            connection.say(format!("{verb} ROLE {name} LOGIN PASSWORD '{verifier}'")).await?;
            if verb == "CREATE" {
                connection.say(format!("ALTER ROLE {name} SET search_path = {schema}")).await?;
            }
        }
        if marks.is_empty() {
            let mark = place.mark.replace('\'', "''");
            connection.say(format!("CREATE SCHEMA {schema}; COMMENT ON SCHEMA {schema} IS '{mark}'")).await?;
        }
        connection
            .say(format!(
                "GRANT USAGE ON SCHEMA {schema} TO {role};
                 GRANT USAGE, CREATE ON SCHEMA {schema} TO {owner};
                 GRANT CONNECT ON DATABASE {} TO {role}, {owner};
                 REVOKE CREATE ON SCHEMA public FROM PUBLIC;
                 SET LOCAL search_path = {schema}",
                quoted(self.url.database())
            ))
            .await?;
        connection.say(tables::in_postgres()).await?;
        connection
            .say(format!(
                "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {role};
                 GRANT SELECT, INSERT ON cleave_migrations TO {owner};
                 COMMIT",
                tables::ALL.join(", ")
            ))
            .await?;
        connection.say("SELECT pg_advisory_unlock_all()").await?;
        Ok(true)
    }

    /// Sees that the roles can do no more than they should.
    async fn check_set_up(
        &self,
        connection: &mut Connection,
        place: &Place,
        deadline: Instant,
    ) -> Result<(), DataError> {
        let may = "SELECT r FROM unnest(ARRAY[$1, $2]) r JOIN pg_roles p ON p.rolname = r \
                   WHERE p.rolsuper OR p.rolcreaterole OR p.rolcreatedb OR p.rolbypassrls";
        let may_public =
            "SELECT r FROM unnest(ARRAY[$1, $2]) r WHERE has_schema_privilege(r, 'public', 'CREATE')";
        let names = [place.role.name.as_str(), place.owner.name.as_str()];
        let asked = by(deadline, async {
            let strong = connection.texts(may, &names).await?;
            let public = "SELECT nspname::text FROM pg_namespace WHERE nspname = 'public'";
            let in_public = match connection.texts(public, &[]).await?.is_empty() {
                true => Vec::new(),
                false => connection.texts(may_public, &names).await?,
            };
            Ok((strong, in_public))
        });
        let (strong, in_public) = asked.await.map_err(|fault| self.failed(&fault))?;
        if let Some(Some(name)) = strong.first() {
            return Err(self.error(
                format!("the role `{name}` of a module may do more than a module should"),
                format!("run: ALTER ROLE {} NOSUPERUSER NOCREATEROLE NOCREATEDB NOBYPASSRLS", quoted(name)),
            ));
        }
        if let Some(Some(name)) = in_public.first() {
            return Err(self.error(
                format!("the role `{name}` of a module may make tables in the schema `public`"),
                "let an administrator run: REVOKE CREATE ON SCHEMA public FROM PUBLIC",
            ));
        }
        Ok(())
    }

    async fn connect(&self, options: PgConnectOptions, deadline: Instant) -> Result<Connection, DataError> {
        let deadline = deadline.min(Instant::now() + CONNECT_MAX);
        by(deadline, Connection::open(&options)).await.map_err(|fault| self.failed(&fault))
    }

    /// A connection as the role that owns a module's tables.
    pub(super) async fn connect_owner(&self, place: &Place) -> Result<Connection, DataError> {
        self.connect(place.as_owner(), Instant::now() + CONNECT_MAX).await
    }

    /// As the URL's user.
    fn options(&self) -> PgConnectOptions {
        let mode = match self.url.ssl_mode() {
            SslMode::Disable => PgSslMode::Disable,
            SslMode::Prefer => PgSslMode::Prefer,
            SslMode::Require => PgSslMode::Require,
            SslMode::VerifyCa => PgSslMode::VerifyCa,
            SslMode::VerifyFull => PgSslMode::VerifyFull,
        };
        PgConnectOptions::new_without_pgpass()
            .host(self.url.host())
            .port(self.url.port())
            .username(self.url.user())
            .password(self.url.password())
            .database(self.url.database())
            .ssl_mode(mode)
            .application_name("cleave")
            // Why: at each start it would be told of all that is there already.
            .options([("client_min_messages", "warning")])
            // Why: statements are a module's own affair, and may hold what nobody is to read.
            .disable_statement_logging()
    }

    fn login(&self, parts: &[&str]) -> Login {
        let name = name(parts);
        let password = BASE64.encode(keyed(self.url.password().as_bytes(), &["role", &name]));
        Login { name, password }
    }

    /// What went wrong with a server that is not to be used.
    pub(super) fn failed(&self, fault: &Fault) -> DataError {
        let (problem, fix) = match &fault.error {
            SqlError::Deadline => ("it does not answer".to_owned(), FIX_ADDRESS.to_owned()),
            SqlError::Refused(problem) => {
                let (user, database) = (quoted(self.url.user()), quoted(self.url.database()));
                let fix = format!(
                    "let an administrator run: ALTER ROLE {user} CREATEROLE; GRANT CREATE ON DATABASE {database} TO {user}"
                );
                (format!("its user may not make schemas and roles: {problem}"), fix)
            }
            other => (other.to_string(), FIX_ADDRESS.to_owned()),
        };
        self.error(problem, fix)
    }

    /// A module's database cannot be used.
    pub(super) fn unusable(&self, module: &str, error: &SqlError) -> DataError {
        self.error(format!("the database of module `{module}`: {error}"), FIX_ADDRESS)
    }

    fn error(&self, problem: String, fix: impl Into<String>) -> DataError {
        DataError::Server { address: self.url.shown(), problem, fix: fix.into() }
    }
}

const FIX_ADDRESS: &str = "start the server, or correct the URL: postgres://user:password@host:5432/database";

impl Place {
    /// Connections for statements of the module's that read.
    pub(super) fn reader(&self) -> PgConnectOptions {
        self.writer().options([("default_transaction_read_only", "on")])
    }

    /// Connections for a module's transactions. What stands alone is serialisable too.
    pub(super) fn writer(&self) -> PgConnectOptions {
        self.as_role().options([("default_transaction_isolation", "serializable")])
    }

    /// Connections for what the host does by itself.
    pub(super) fn host(&self) -> PgConnectOptions {
        self.as_role().options([("default_transaction_isolation", "read committed")])
    }

    /// What lets the module's role use what its migrations make.
    pub(super) fn privileges(&self) -> String {
        let (schema, role) = (quoted(&self.schema), quoted(&self.role.name));
        format!(
            "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};
             ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT USAGE ON SEQUENCES TO {role}"
        )
    }

    /// A connection for migrations.
    pub(super) fn as_owner(&self) -> PgConnectOptions {
        as_login(self.server.options(), &self.owner, &self.schema)
    }

    fn as_role(&self) -> PgConnectOptions {
        as_login(self.server.options(), &self.role, &self.schema)
    }
}

fn as_login(options: PgConnectOptions, login: &Login, schema: &str) -> PgConnectOptions {
    options
        .username(&login.name)
        .password(&login.password)
        .options([("search_path", quoted(schema).as_str()), ("standard_conforming_strings", "on")])
}

/// A name out of parts, of which those after the first have no `$`; what is too long ends in a digest of all of it.
fn name(parts: &[&str]) -> String {
    let name = parts.join("$");
    if name.len() <= NAME_MAX {
        return name;
    }
    let digest = digest::digest(&digest::SHA256, name.as_bytes());
    let digits: String = digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let mut end = NAME_MAX - digits.len() - 2;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}$${digits}", name.get(..end).unwrap_or_default())
}

/// A name as SQL takes it whatever is in it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\"").replace('\0', ""))
}

/// A code of these parts that only who has the key can make.
fn keyed(key: &[u8], parts: &[&str]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, format!("cleave\0{}", parts.join("\0")).as_bytes()).as_ref().to_vec()
}

/// What PostgreSQL keeps of a password (RFC 5803), so that the password itself is in no statement and no log. The salt is
/// the same each time, so that setting it again changes nothing.
fn verifier(password: &str, role: &str) -> String {
    let salt = keyed(password.as_bytes(), &["salt", role]);
    let salt = salt.get(..16).unwrap_or(&salt);
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, password.as_bytes(), &mut salted);
    let salted = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client = hmac::sign(&salted, b"Client Key");
    let stored = digest::digest(&digest::SHA256, client.as_ref());
    let server = hmac::sign(&salted, b"Server Key");
    let [salt, stored, server] = [salt, stored.as_ref(), server.as_ref()].map(|bytes| BASE64.encode(bytes));
    format!("SCRAM-SHA-256${ROUNDS}:{salt}${stored}:{server}")
}
