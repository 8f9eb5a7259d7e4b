//! What an event costs between two nodes: from the publisher's outbox over the stream of NATS into the subscriber's inbox,
//! until it is handled, beside the same two modules on one node and beside native programs.
//!
//! *Native* keeps the same rows and carries them the same way; *bare* publishes to JetStream, one message for each event or
//! batches as large as Cleave's, and writes what comes with one sync for all of it. Whatever is two nodes is two
//! processes; all use one NATS server, which syncs before it acknowledges. The clock is that of `events`.

use crate::events::{self, Files, Manner, Program, SUBSCRIBER, Side, create};
use crate::native::ROAD;
use crate::native::road::{Kind, Publisher};
use crate::nats::NatsServer;
use crate::shop::{self, Process};
use crate::{disk, median, row, table};
use cleave_config::Sources;
use cleave_host::host::Host;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const ROUNDS: usize = 5;
const ROUNDS_OF_DELAYS: usize = 3;
/// A low rate: events of one round, and how often one comes.
const LOW: (u64, Duration) = (300, Duration::from_millis(10));
/// The sides, in the order of the tables.
const SIDES: usize = 4;

pub(crate) fn run() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cache = tempfile::tempdir().unwrap();
        let server = NatsServer::start_durable();
        let mut sides = [
            Side::of_one_node(cache.path(), "full", &[SUBSCRIBER.to_owned()]).await,
            two_nodes(cache.path(), &server).await,
            native(Kind::Same, &server).await,
            native(Kind::Bare, &server).await,
        ];
        rates(&mut sides).await;
        delays(&mut sides).await;
        sides.iter().for_each(Side::check);
        println!(
            "\nOne publisher, one subscriber, whose handler writes a row; {} events in a round. Every event was handled \
             once. {}",
            events::EVENTS,
            disk::described(disk::folder().path())
        );
    });
}

/// The publisher on a node in this process, the subscriber on one of its own.
async fn two_nodes(cache: &Path, server: &NatsServer) -> Side {
    let mut files = Files::new(&[]);
    let folder = files.folder.path().to_owned();
    let text = format!(
        "[bus]\nnats = \"{}\"\nmonitoring = \"{}\"\n[data]\ndir = \"data\"\n\
         [nodes.front]\nmodules = [\"publisher\"]\n[nodes.back]\nmodules = [\"{SUBSCRIBER}\"]\n{}",
        server.url,
        server.monitoring,
        events::config(cache, &[SUBSCRIBER.to_owned()])
    );
    let config = folder.join("cleave.toml");
    std::fs::write(&config, &text).unwrap();
    let back = Process::start(shop::up(&config).args(["--node", "back"]));
    let sources = Sources { node: Some("front".to_owned()), ..Sources::new("cleave.toml", &folder) };
    let front = Host::start(cleave_config::parse(&text, &sources).unwrap()).await;
    let front = front.unwrap_or_else(|problems| panic!("the node did not start: {problems:?}"));
    front.ready().await.unwrap_or_else(|problem| panic!("the node is not ready: {problem:?}"));
    files.publisher = folder.join("data/front/publisher.sqlite");
    files.subscribers = vec![folder.join(format!("data/back/{SUBSCRIBER}.sqlite"))];
    Side::new(Program::Cleave(Box::new(front)), Some(back), files)
}

/// Two native programs, of which the one that publishes is this process.
async fn native(kind: Kind, server: &NatsServer) -> Side {
    let names = [SUBSCRIBER.to_owned()];
    let mut files = Files::new(&names);
    files.have_inbox = kind == Kind::Same;
    let folder = files.folder.path();
    create(folder, &names).await;
    let publisher = Publisher::start(kind, &server.url, folder).await;
    let mut command = Command::new(std::env::current_exe().unwrap());
    let back = Process::start(command.args([ROAD, kind.name(), &server.url]).arg(folder));
    Side::new(Program::Road(publisher), Some(back), files)
}

async fn rates(sides: &mut [Side; SIDES]) {
    table(
        "Events between two nodes, from publish to handled, each second",
        &[
            "published",
            "Cleave, one node",
            "Cleave, two nodes",
            "two / one",
            "native, two programs",
            "Cleave / native",
            "bare JetStream and SQLite",
            "Cleave / bare",
        ],
    );
    for manner in [Manner::Each, Manner::Together] {
        let mut rates = [const { Vec::new() }; SIDES];
        for round in 0..=ROUNDS {
            for (rates, side) in rates.iter_mut().zip(&mut *sides) {
                let rate = side.rate(manner).await;
                // The first is to warm up.
                if round > 0 {
                    rates.push(rate);
                }
            }
        }
        let [one, two, native, bare] = rates.map(median);
        row([
            manner.title(),
            format!("{one:.0}"),
            format!("{two:.0}"),
            format!("**{:.2}**", two / one),
            format!("{native:.0}"),
            format!("**{:.2}**", two / native),
            format!("{bare:.0}"),
            format!("**{:.2}**", two / bare),
        ]);
    }
}

async fn delays(sides: &mut [Side; SIDES]) {
    table(
        "The delay of an event between two nodes, from publish to handled, µs",
        &[
            "load",
            "Cleave, one node, p50",
            "p99",
            "Cleave, two nodes, p50",
            "p99",
            "native, two programs, p50",
            "p99",
            "bare, p50",
            "p99",
            "two / one, p50",
            "Cleave / native",
            "Cleave / bare",
        ],
    );
    for (title, is_lone) in [("one at a time", true), ("100 each second", false)] {
        let (mut p50, mut p99) = ([const { Vec::new() }; SIDES], [const { Vec::new() }; SIDES]);
        for _ in 0..ROUNDS_OF_DELAYS {
            for (place, side) in sides.iter_mut().enumerate() {
                let mut delays = if is_lone { side.lone().await } else { side.steady(LOW.0, LOW.1).await };
                delays.sort_unstable();
                p50[place].push(delays[delays.len() / 2].as_micros());
                p99[place].push(delays[delays.len() * 99 / 100].as_micros());
            }
        }
        let (p50, p99) = (p50.map(median), p99.map(median));
        let [one, two, native, bare] = p50.map(|micros| micros as f64);
        let mut cells = vec![title.to_owned()];
        cells.extend(p50.iter().zip(p99).flat_map(|(p50, p99)| [p50.to_string(), p99.to_string()]));
        cells.extend([two / one, two / native, two / bare].map(|ratio| format!("**{ratio:.2}**")));
        row(cells);
    }
}
