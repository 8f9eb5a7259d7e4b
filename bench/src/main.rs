//! What Cleave costs: every figure beside a bare baseline that does the same work, measured in the same run.
//!
//! [`calls`] is calls between modules beside bare wasmtime, [`remote`] calls between nodes beside bare requests over NATS;
//! [`events`] is events beside a native program, [`road`] events between nodes beside bare JetStream; [`http`] and
//! [`checkout`] are the shop beside native servers of [`native`], reading a product and taking an order; [`split`] is the
//! shop on three nodes beside one, [`postgres`] PostgreSQL beside SQLite; [`start`] is how soon the shop answers and the
//! memory it takes, [`growth`] how all this grows with the number of modules. Rounds of the sides alternate, so that a busy
//! machine slows all, and the median round counts. Nothing here passes or fails: read the ratios.
// Why: its output is what it is for.
#![allow(clippy::print_stdout, clippy::print_stderr)]
// Why: a step that fails ends the run, and there is nothing to save.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod books;
mod calls;
mod checkout;
mod disk;
mod events;
mod growth;
mod http;
mod native;
mod nats;
mod postgres;
mod remote;
mod road;
mod shop;
mod split;
mod start;

use std::fs::read_to_string;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [native::RUSQLITE, database] => return native::rusqlite(database),
        [native::SQLX, database] => return native::sqlx(database),
        [native::CHECKOUT_RUSQLITE, folder] => return native::checkout_rusqlite::run(folder),
        [native::CHECKOUT_SQLX, folder] => return native::checkout_sqlx::run(folder),
        [native::CHECKOUT_POSTGRES, url] => return native::checkout_postgres::run(url),
        [native::ROAD, kind, url, folder] => return native::road::run(kind, url, folder),
        [remote::RESPONDER, url] => return remote::responder(url),
        _ => {}
    }
    // Some of the benchmarks below; all without a name.
    let is_wanted = |name: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == name);
    println!("{}", machine());
    println!("Command: `{}`", ["make bench", &arguments.join(" ")].join(" ").trim());
    if is_wanted("calls") {
        calls::run();
    }
    if is_wanted("remote") {
        remote::run();
    }
    if is_wanted("events") {
        events::run();
    }
    if is_wanted("road") {
        road::run();
    }
    if is_wanted("http") {
        http::run();
    }
    if is_wanted("checkout") {
        checkout::run();
    }
    if is_wanted("split") {
        split::run();
    }
    if is_wanted("postgres") {
        postgres::run();
    }
    if is_wanted("start") {
        start::run();
    }
    if is_wanted("growth") {
        growth::run();
    }
}

/// The machine in one line, so that figures are not taken for another's.
fn machine() -> String {
    let field = |file: &str, name: &str| {
        let text = read_to_string(file).unwrap_or_default();
        let line =
            text.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned)).unwrap_or_default();
        line.trim_start_matches([':', ' ', '\t']).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = field("/proc/meminfo", "MemTotal");
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "Machine: {cores} cores {}, memory {memory}, Linux {}",
        field("/proc/cpuinfo", "model name"),
        kernel.trim()
    )
}

/// Starts a table.
fn table(title: &str, columns: &[&str]) {
    println!("\n### {title}\n");
    row(columns.iter().map(|column| (*column).to_owned()));
    row(columns.iter().map(|_| "---".to_owned()));
}

fn row(cells: impl IntoIterator<Item = String>) {
    println!("| {} |", cells.into_iter().collect::<Vec<_>>().join(" | "));
}

/// The middle one.
fn median<T: Copy + PartialOrd>(mut of: Vec<T>) -> T {
    of.sort_by(|a, b| a.partial_cmp(b).expect("figures are numbers"));
    of[of.len() / 2]
}
