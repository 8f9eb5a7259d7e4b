//! The servers under measurement, each a process of its own: the shop of the example, and the native ones.

use crate::nats::NatsServer;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The project's folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A module or guest that `make bench` has built.
pub(crate) fn built(name: &str) -> PathBuf {
    root().join("target/guest/wasm32-wasip2/module").join(format!("{name}.wasm"))
}

/// The migration that makes the table of products.
pub(crate) fn migration() -> String {
    std::fs::read_to_string(migrations("catalog").join("001_products.sql")).unwrap()
}

/// The folder of a module's migrations.
pub(crate) fn migrations(module: &str) -> PathBuf {
    root().join("modules").join(module).join("migrations")
}

/// The folder of the migrations of a guest that only benchmarks use.
pub(crate) fn guest_migrations(guest: &str) -> PathBuf {
    root().join("tests/guests").join(guest).join("migrations")
}

/// The folder of the packages of the shop's modules.
pub(crate) fn wit() -> PathBuf {
    root().join("wit/shop")
}

/// The nodes of the example's `split.toml` and their modules. The first serves HTTP.
pub(crate) const NODES: [(&str, &[&str]); 3] = [
    ("front", &["users", "catalog", "notifications"]),
    ("payments", &["payments"]),
    ("orders", &["orders", "inventory", "shipping"]),
];

/// Writes the shop's config into a folder, where its data will be: the example's with another address, and more.
pub(crate) fn config(folder: &Path, port: u16, more: &str) -> PathBuf {
    let text = example("cleave.toml", port) + more;
    let config = folder.join("cleave.toml");
    std::fs::write(&config, text).unwrap();
    config
}

/// Writes the config of the shop on three nodes: the example's, at this server, with more keys in `[data]`.
pub(crate) fn split_config(folder: &Path, nats: &NatsServer, data: &str) -> PathBuf {
    let address = |url: &str| url.split_once("://").unwrap().1.to_owned();
    let text = example("split.toml", 0);
    // Its database is this benchmark's to choose.
    let text: String =
        text.lines().filter(|line| !line.starts_with("url = ")).map(|line| line.to_owned() + "\n").collect();
    let modules_of = |(name, modules): &(&str, &[&str])| format!("[nodes.{name}]\nmodules = {modules:?}\n");
    assert!(NODES.iter().all(|node| text.contains(&modules_of(node))), "the example is split otherwise");
    let text = text
        .replace("127.0.0.1:4222", &address(&nats.url))
        .replace("127.0.0.1:8222", &address(&nats.monitoring))
        .replace("dir = \"data/split\"\n", &format!("dir = \"data\"\n{data}"));
    let config = folder.join("cleave.toml");
    std::fs::write(&config, text).unwrap();
    config
}

/// A config of the example, as it stands elsewhere.
fn example(name: &str, port: u16) -> String {
    let text = std::fs::read_to_string(root().join("examples/ecommerce").join(name)).unwrap();
    text.replace("\"../../", &format!("\"{}/", root().display()))
        .replace("\"storefront\"", &format!("\"{}/examples/ecommerce/storefront\"", root().display()))
        .replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"))
}

/// `cleave up`, the binary that users run, which lies beside this one.
pub(crate) fn up(config: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap().with_file_name("cleave"));
    command.args(["up", "--quiet", "--config"]).arg(config).env("NO_COLOR", "1");
    command
}

/// A server as a child, ended with this value.
pub(crate) struct Process {
    child: Child,
    /// Host and port; empty if it serves no HTTP.
    pub(crate) address: String,
}

impl Process {
    /// Starts a server and waits until it says on standard error where it is ready.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = String::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("{command:?} ended:\n{said}"));
            let ready = line.split_once("ready at ").and_then(|(_, url)| url.split_once("://"));
            if let Some((_, rest)) = ready {
                break rest.split_whitespace().next().unwrap().to_owned();
            }
            if line.contains("ready; nothing is served") {
                break String::new();
            }
            said += &(line + "\n");
        };
        // What it says later must not fill the pipe.
        std::thread::spawn(move || {
            lines.filter(|line| !line.contains(" INFO ")).for_each(|line| eprintln!("{line}"))
        });
        Self { child, address }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end that it was asked for; whether it ended well.
    pub(crate) fn ended(&mut self) -> bool {
        self.child.wait().unwrap().success()
    }

    /// The time that all its threads have run, in the 100th parts of a second that Linux counts.
    pub(crate) fn ticks(&self) -> u64 {
        self.user_and_system_ticks().iter().sum()
    }

    /// The same, apart: what they ran themselves, and what the system ran for them.
    pub(crate) fn user_and_system_ticks(&self) -> [u64; 2] {
        user_and_system_ticks_of(self.id())
    }

    /// The time that each of its threads has run, in nanoseconds.
    pub(crate) fn run_nanos(&self) -> BTreeMap<PathBuf, u64> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        let of_thread = |path: PathBuf| {
            // It may have ended.
            let stat = std::fs::read_to_string(path.join("schedstat")).ok()?;
            Some((path, stat.split(' ').next()?.parse().ok()?))
        };
        threads.filter_map(|thread| of_thread(thread.unwrap().path())).collect()
    }

    /// Resident memory in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

/// What a process and those it has started have run, as far as [`Process::ticks`] tells it: those that run, and
/// those that it has waited for.
pub(crate) fn ticks_of_all(process: u32) -> u64 {
    let children = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let id: u32 = entry.unwrap().file_name().to_str()?.parse().ok()?;
        // It may have ended.
        (fields_of(id)?[1].parse() == Ok(process)).then_some(id)
    });
    let of_children: u64 = children.map(|child| fields_of(child).map_or(0, |fields| ticks_in(&fields))).sum();
    fields_of(process).map_or(0, |fields| ticks_in(&fields)) + of_children
}

/// Of a process itself and of those it has waited for: the 14th to the 17th field.
fn ticks_in(fields: &[String]) -> u64 {
    fields[11..15].iter().map(|field| field.parse::<u64>().unwrap()).sum()
}

/// What Linux tells of a process, from the third field on, after the name in parentheses; none if it has ended.
fn fields_of(process: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

/// The time that all threads of a process have run, as [`Process::user_and_system_ticks`] tells it.
pub(crate) fn user_and_system_ticks_of(process: u32) -> [u64; 2] {
    // User and system time are the 14th and the 15th field.
    let fields = fields_of(process).unwrap();
    [11, 12].map(|field| fields[field].parse().unwrap())
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
