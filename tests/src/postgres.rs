//! A real PostgreSQL server as a process of the tests, with a database of its own for each that asks.
//!
//! It ends with the test process, however that ends. PostgreSQL refuses to run as root, so it is started as another user
//! then. This file stands on the standard library alone: the host's own tests have it too.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the server may take to come up or to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The password of the user who may do everything, `postgres`.
const PASSWORD: &str = "the tests own";
/// What every server is told. Nothing here makes it less safe than it is by default.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
max_connections = 400
shared_buffers = 64MB
max_wal_size = 256MB
unix_socket_directories = ''
log_min_messages = warning
";

/// Runs the server in the folder `$2` by the program `$1`, in place of itself, as the user `$3` if there is one, beside a
/// guard that holds the other end of a pipe of the test process. A line means that the server has been ended; the end of
/// the pipe, that the test process has.
const GUARDED: &str = r#"
exec 3<&0 </dev/null
children=/proc/$$/task/$$/children
{ read -r _ <&3 || {
    kill -QUIT $$; kill -CONT $$ $(cat $children); sleep 1; kill -KILL $$; rm -rf "$2"
}; } >/dev/null 2>&1 &
if [ -n "$3" ]; then
    exec setpriv --reuid "$3" --regid "$3" --clear-groups "$1" -D "$2/data" 3<&-
fi
exec "$1" -D "$2/data" 3<&-
"#;

/// One server on 127.0.0.1.
pub struct PostgresServer {
    folder: PathBuf,
    programs: PathBuf,
    port: u16,
    /// The user that runs it, if that must not be this one.
    user: Option<String>,
    running: Option<Running>,
}

struct Running {
    child: Child,
    guard: ChildStdin,
}

/// What the server of all tests is told beside. Nobody ends it before they have ended, so nobody can tell whether what it
/// has committed is on the disk; and with hundreds of databases on one disk, they would wait for little else.
const SETTINGS_SHARED: &str = "fsync = off\n";

/// The server of all tests that only need one. It cannot be killed or paused, because others use it too.
pub fn shared() -> &'static PostgresServer {
    static SHARED: OnceLock<PostgresServer> = OnceLock::new();
    SHARED.get_or_init(|| PostgresServer::start_with(SETTINGS_SHARED))
}

/// The folder of the project.
fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// A command as the user that runs the server.
fn command(program: &Path, user: Option<&str>) -> Command {
    match user {
        None => Command::new(program),
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--regid", user, "--clear-groups"]).arg(program);
            command
        }
    }
}

/// Runs a command to its end, and gives what it wrote.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Sends a signal to processes, of which some may have ended meanwhile.
fn signal(name: &str, ids: &[u32]) {
    let ids = ids.iter().map(u32::to_string);
    Command::new("kill").arg(format!("-{name}")).args(ids).stderr(Stdio::null()).status().unwrap();
}

/// What the system says of a process, unless it is gone.
fn stat(id: u32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{id}/stat")).ok()
}

/// The letter by which the system tells whether a process is stopped, or has ended and is not waited for.
fn state(id: u32) -> Option<char> {
    stat(id)?.rsplit_once(") ")?.1.chars().next()
}

fn await_all(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "the server's processes do not {what}");
        std::thread::yield_now();
    }
}

impl PostgresServer {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a server that is told this beside.
    fn start_with(settings: &str) -> Self {
        let found = Command::new(project().join("scripts/postgres")).output().unwrap();
        let said = String::from_utf8_lossy(&found.stderr).into_owned();
        assert!(found.status.success(), "{said}");
        let programs = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
        static SERVERS: AtomicU64 = AtomicU64::new(0);
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("cleave-postgres-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        let is_root = folder.metadata().unwrap().uid() == 0;
        let user = is_root.then(|| "nobody".to_owned());
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut server = Self { folder, programs, port, user, running: None };
        server.make(settings);
        server.restart();
        server
    }

    /// Makes the folder of the server's data.
    fn make(&self, settings: &str) {
        let (data, password) = (self.folder.join("data"), self.folder.join("password"));
        std::fs::create_dir(&data).unwrap();
        std::fs::write(&password, PASSWORD).unwrap();
        if let Some(user) = &self.user {
            // The group by its number: it has another name elsewhere.
            let group = Command::new("id").args(["-g", user]).output().unwrap();
            let group = String::from_utf8(group.stdout).unwrap();
            run(Command::new("chown").arg(format!("{user}:{}", group.trim())).args([&data, &password]));
        }
        run(command(&self.programs.join("initdb"), self.identity().as_deref())
            .arg("-D")
            .arg(&data)
            .args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"])
            .arg(format!("--pwfile={}", password.display())));
        let settings = format!("{SETTINGS}{settings}port = {}\n", self.port);
        let mut file = std::fs::File::options().append(true).open(data.join("postgresql.conf")).unwrap();
        file.write_all(settings.as_bytes()).unwrap();
    }

    /// The number of the user that runs it, and of the group alike: `setpriv` knows groups by number everywhere.
    fn identity(&self) -> Option<String> {
        let user = self.user.as_ref()?;
        let id = Command::new("id").args(["-u", user]).output().unwrap();
        Some(String::from_utf8(id.stdout).unwrap().trim().to_owned())
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database, as the user who may do everything.
    pub fn url(&self, database: &str) -> String {
        self.url_at(self.port, database)
    }

    /// As [`url`](Self::url), at another port of this machine that leads here.
    pub fn url_at(&self, port: u16, database: &str) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{port}/{database}", PASSWORD.replace(' ', "%20"))
    }

    /// Makes a new database, and gives its name.
    pub fn new_database(&self) -> String {
        static DATABASES: AtomicU64 = AtomicU64::new(0);
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        self.say("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// The URL of a new database.
    pub fn new_url(&self) -> String {
        self.url(&self.new_database())
    }

    /// Says something as the user who may do everything, and gives the rows that come back, values between `|`.
    pub fn say(&self, database: &str, sql: &str) -> String {
        self.psql(database, &["--command", sql])
    }

    fn psql(&self, database: &str, arguments: &[&str]) -> String {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"])
            .arg(self.url(database))
            .args(arguments);
        run(&mut psql).trim().to_owned()
    }

    /// Writes what is in a database at one moment into a file, by the command of `docs/operating.md`.
    pub fn back_up(&self, database: &str, into: &Path) {
        run(Command::new(self.programs.join("pg_dump")).arg(self.url(database)).arg("--file").arg(into));
    }

    /// Makes a database anew out of a backup, by the commands of `docs/operating.md`. Nobody may be connected to it.
    pub fn put_back(&self, database: &str, backup: &Path) {
        self.say("postgres", &format!("DROP DATABASE {database}"));
        self.say("postgres", &format!("CREATE DATABASE {database}"));
        self.psql(database, &["--file", backup.to_str().unwrap()]);
    }

    /// What the server has written since its first start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Of the process that runs now.
    pub fn id(&self) -> u32 {
        self.running.as_ref().expect("the server was ended").child.id()
    }

    /// Ends the server at once, so that it must recover when it starts again.
    pub fn kill(&mut self) {
        // Immediate shutdown: the processes of its connections end with it.
        self.end("QUIT");
    }

    /// Ends the server in good order: what is open on its connections is taken back, and there is nothing to recover.
    pub fn stop(&mut self) {
        self.end("INT");
    }

    /// Ends each of its processes where it is, as no order of its own would.
    pub fn crash(&mut self) {
        self.pause();
        let children = self.children();
        signal("KILL", &children);
        self.end("KILL");
        // Why: a new server refuses to start beside one of them.
        await_all("end", || children.iter().all(|id| matches!(state(*id), None | Some('Z'))));
    }

    /// Stops each of its processes where it is: connections stay open, and new ones are taken by the kernel, but nobody
    /// answers.
    pub fn pause(&mut self) {
        let id = self.id();
        signal("STOP", &[id]);
        // Why first: the others come from this one.
        await_all("stop", || state(id) == Some('T'));
        let children = self.children();
        signal("STOP", &children);
        await_all("stop", || children.iter().all(|id| matches!(state(*id), None | Some('T' | 'Z'))));
    }

    /// Lets a paused server go on with what has arrived meanwhile.
    pub fn resume(&mut self) {
        signal("CONT", &self.children());
        signal("CONT", &[self.id()]);
    }

    /// The server's own processes that it has started, one for each connection and some more.
    fn children(&self) -> Vec<u32> {
        let id = self.id();
        let listed = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let ids = listed.split_whitespace().map(|id| id.parse().unwrap());
        // The guard is another.
        ids.filter(|id| stat(*id).is_some_and(|stat| stat.contains("(postgres)"))).collect()
    }

    fn end(&mut self, how: &str) {
        if self.running.is_some() {
            signal(how, &[self.id()]);
            // One that is paused ends no earlier.
            self.resume();
        }
        if let Some(Running { mut child, mut guard }) = self.running.take() {
            // Why before the wait: until then nobody else has the identity that the guard would kill.
            let _ = guard.write_all(b"\n");
            child.wait().unwrap();
        }
    }

    /// Starts the server at its port again, ending it first if it runs, and waits until it answers.
    pub fn restart(&mut self) {
        self.kill();
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", GUARDED, "postgres"])
            .args([self.programs.join("postgres"), self.folder.clone()])
            .arg(self.identity().unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let guard = child.stdin.take().unwrap();
        self.running = Some(Running { child, guard });
        self.await_answer();
    }

    fn await_answer(&mut self) {
        let began = Instant::now();
        loop {
            let asked = Command::new(self.programs.join("pg_isready"))
                .args(["--quiet", "--host=127.0.0.1", "--port", &self.port.to_string()])
                .status()
                .unwrap();
            if asked.success() {
                return;
            }
            let ended = self.running.as_mut().unwrap().child.try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < PATIENCE,
                "the server does not answer at {} ({ended:?}):\n{}",
                self.port,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
