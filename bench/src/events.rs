//! What an event costs, from publish to done: through the host's outbox, relay, inbox and handlers, beside a native
//! program that keeps the same rows in the same tables over SQLite with grouped syncs.
//!
//! The publisher's calls begin the clock. It ends, for many events, when the outbox is empty and every inbox row is done;
//! for the delay of one event, when its handler's row can be read. A watcher asks for that row again and again, the
//! same way on both sides.

use crate::native::events::{Event, Relay, deliver};
use crate::native::grouped::{self, execute};
use crate::native::road::Publisher;
use crate::shop::{Process, built, guest_migrations};
use crate::{disk, median, row, table};
use cleave_config::{FunctionName, Sources};
use cleave_host::data::{DataFolder, Database, Limits};
use cleave_host::host::Host;
use rusqlite::{Connection, OpenFlags};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use wasmtime::component::Val;

/// What is published in one round, and by how many calls at once.
pub(crate) const EVENTS: u32 = 1_600;
const PUBLISHERS: u32 = 16;
const SUBSCRIBERS: [usize; 3] = [1, 2, 4];
const ROUNDS: usize = 3;
/// Events of which the delay is measured in one round: one at a time, and at a rate well below what can be done.
const LONE: u64 = 200;
const STEADY: u64 = 600;
const STEADY_EVERY: Duration = Duration::from_millis(2);
/// The first or only subscriber.
pub(crate) const SUBSCRIBER: &str = "subscriber-1";
/// The pause between a lone event and the next, so that all is at rest.
const REST: Duration = Duration::from_millis(3);
/// The pause between two looks at what is still to be done, or at what the handler wrote.
const LOOK: Duration = Duration::from_millis(1);
const WATCH: Duration = Duration::from_micros(20);
const PATIENCE: Duration = Duration::from_secs(60);
/// What every event says: the publishing guest's text.
const TEXT: &str = "Two mugs with a handle, a third of a litre each, and a pot for the tea that stays warm in them \
                    for longer than one would think; to be sent to the usual address before the end of the week.";

pub(crate) fn run() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cache = tempfile::tempdir().unwrap();
        let mut delays = Vec::new();
        table(
            "Events from publish to done, each second",
            &["durability", "published", "subscribers", "Cleave", "native", "Cleave / native"],
        );
        for durability in ["full", "process"] {
            for subscribers in SUBSCRIBERS {
                let mut sides = Sides::start(cache.path(), durability, subscribers).await;
                sides.rates(Manner::Each).await;
                sides.rates(Manner::Together).await;
                if subscribers == 1 {
                    sides.rates(Manner::HeardTogether).await;
                    delays.push(sides.delays("one at a time", Sides::lone).await);
                    delays.push(sides.delays("500 each second", Sides::steady).await);
                }
                sides.check();
            }
        }
        table(
            "The delay of an event from publish to done, one subscriber, µs",
            &["durability", "load", "Cleave p50", "p99", "native p50", "p99", "Cleave / native, p50"],
        );
        delays.into_iter().for_each(row);
        let data = disk::described(disk::folder().path());
        println!("\nA handler writes a row, unless it is said not to. Native: rusqlite, the same tables, shared syncs. {data}");
    });
}

/// How events are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Each outside a transaction, by several calls at once.
    Each,
    /// All in one transaction.
    Together,
    /// Likewise, and their handler writes nothing.
    HeardTogether,
}

impl Manner {
    pub(crate) fn title(self) -> String {
        match self {
            Self::Each => format!("each by itself, {PUBLISHERS} at once"),
            Self::Together => "all in one transaction".to_owned(),
            Self::HeardTogether => "all in one transaction, handler writes nothing".to_owned(),
        }
    }

    /// The publishing guest's function.
    fn function(self) -> FunctionName {
        let name = match self {
            Self::Each => "each",
            Self::Together => "together",
            Self::HeardTogether => "heard-together",
        };
        format!("test:bench/publisher.{name}").parse().unwrap()
    }
}

/// Cleave and the native program with the same subscribers.
struct Sides {
    durability: &'static str,
    subscribers: usize,
    sides: [Side; 2],
}

/// A program, or two, that publishes and handles.
pub(crate) struct Side {
    program: Arc<Program>,
    /// The process of the subscriber, if it has one of its own. Ended with this value.
    _other: Option<Process>,
    files: Files,
    /// The number of the next event.
    next: u64,
    /// How many of those before were not to be written down.
    heard: u64,
}

pub(crate) enum Program {
    Cleave(Box<Host>),
    Native(Native),
    /// A native program whose subscriber is another one over NATS.
    Road(Publisher),
}

impl Sides {
    async fn start(cache: &Path, durability: &'static str, subscribers: usize) -> Self {
        let names: Vec<String> = (1..=subscribers).map(|number| format!("subscriber-{number}")).collect();
        let cleave = Side::of_one_node(cache, durability, &names).await;
        let files = Files::new(&names);
        let native = Native::start(&files, &names, durability == "full").await;
        let native = Side::new(Program::Native(native), None, files);
        Self { durability, subscribers, sides: [cleave, native] }
    }

    /// Measures events each second, in turn, and prints the medians.
    async fn rates(&mut self, manner: Manner) {
        let mut rates = [const { Vec::new() }; 2];
        for round in 0..=ROUNDS {
            for (rates, side) in rates.iter_mut().zip(&mut self.sides) {
                let rate = side.rate(manner).await;
                // The first is to warm up.
                if round > 0 {
                    rates.push(rate);
                }
            }
        }
        let [cleave, native] = rates.map(median);
        row([
            self.durability.to_owned(),
            manner.title(),
            self.subscribers.to_string(),
            format!("{cleave:.0}"),
            format!("{native:.0}"),
            format!("**{:.2}**", cleave / native),
        ]);
    }

    /// Measures delays, in turn; gives the row of their medians.
    async fn delays(&mut self, load: &str, measure: AsyncMeasure) -> Vec<String> {
        let mut p50 = [const { Vec::new() }; 2];
        let mut p99 = [const { Vec::new() }; 2];
        for _ in 0..ROUNDS {
            for (place, side) in self.sides.iter_mut().enumerate() {
                let mut delays = measure(side).await;
                delays.sort_unstable();
                p50[place].push(delays[delays.len() / 2].as_micros());
                p99[place].push(delays[delays.len() * 99 / 100].as_micros());
            }
        }
        let ([p50, native_p50], [p99, native_p99]) = (p50.map(median), p99.map(median));
        vec![
            self.durability.to_owned(),
            load.to_owned(),
            p50.to_string(),
            p99.to_string(),
            native_p50.to_string(),
            native_p99.to_string(),
            format!("**{:.2}**", p50 as f64 / native_p50 as f64),
        ]
    }

    fn lone(side: &mut Side) -> Delays<'_> {
        Box::pin(side.lone())
    }

    fn steady(side: &mut Side) -> Delays<'_> {
        Box::pin(side.steady(STEADY, STEADY_EVERY))
    }

    fn check(&self) {
        self.sides.iter().for_each(Side::check);
    }
}

type Delays<'a> = std::pin::Pin<Box<dyn Future<Output = Vec<Duration>> + 'a>>;
type AsyncMeasure = for<'a> fn(&'a mut Side) -> Delays<'a>;

impl Side {
    pub(crate) fn new(program: Program, other: Option<Process>, files: Files) -> Self {
        Self { program: Arc::new(program), _other: other, files, next: 0, heard: 0 }
    }

    /// The publisher and these subscribers on one node.
    pub(crate) async fn of_one_node(cache: &Path, durability: &str, subscribers: &[String]) -> Self {
        let files = Files::new(subscribers);
        let text = format!(
            "[data]\ndir = \"{}\"\ndurability = \"{durability}\"\n{}",
            files.folder.path().display(),
            config(cache, subscribers)
        );
        let config = cleave_config::parse(&text, &Sources::new("bench.toml", cache)).unwrap();
        let host = Host::start(config).await;
        let host = host.unwrap_or_else(|problems| panic!("the node did not start: {problems:?}"));
        Self::new(Program::Cleave(Box::new(host)), None, files)
    }

    /// Every event must have come to every subscriber, once.
    pub(crate) fn check(&self) {
        self.files.check(self.next, self.heard);
    }

    /// Numbers that no event had before.
    fn numbers(&mut self, count: u64) -> u64 {
        let first = self.next;
        self.next += count;
        first
    }

    /// Publishes a round's events; gives how many are done each second.
    pub(crate) async fn rate(&mut self, manner: Manner) -> f64 {
        let first = self.numbers(EVENTS.into());
        let calls = if manner == Manner::Each { PUBLISHERS } else { 1 };
        if manner == Manner::HeardTogether {
            self.heard += u64::from(EVENTS);
        }
        let began = Instant::now();
        let mut publishing = JoinSet::new();
        for call in 0..calls {
            let (program, count) = (Arc::clone(&self.program), EVENTS / calls);
            publishing
                .spawn(async move { program.publish(manner, first + u64::from(call * count), count).await });
        }
        publishing.join_all().await;
        self.files.done(began, self.next - self.heard).await;
        f64::from(EVENTS) / began.elapsed().as_secs_f64()
    }

    /// The delays of events that come one at a time, each when all is at rest.
    pub(crate) async fn lone(&mut self) -> Vec<Duration> {
        let first = self.numbers(LONE);
        let mut watched = self.files.watch(LONE);
        let mut delays = Vec::new();
        for number in first..first + LONE {
            let began = Instant::now();
            let program = Arc::clone(&self.program);
            // Why a task: this is where events are published, on a worker of the runtime.
            tokio::spawn(async move { program.publish(Manner::Each, number, 1).await }).await.unwrap();
            let (seen, at) = watched.recv().await.unwrap();
            assert_eq!(seen, number);
            delays.push(at - began);
            tokio::time::sleep(REST).await;
        }
        delays
    }

    /// The delays of so many events that come at a steady rate, whether or not those before are done.
    pub(crate) async fn steady(&mut self, count: u64, every: Duration) -> Vec<Duration> {
        let first = self.numbers(count);
        let mut watched = self.files.watch(count);
        let mut ticks = tokio::time::interval(every);
        let mut publishing = JoinSet::new();
        let mut began = Vec::new();
        for number in first..first + count {
            ticks.tick().await;
            began.push(Instant::now());
            let program = Arc::clone(&self.program);
            publishing.spawn(async move { program.publish(Manner::Each, number, 1).await });
        }
        publishing.join_all().await;
        let mut delays = Vec::new();
        for _ in 0..count {
            let (seen, at) = watched.recv().await.unwrap();
            delays.push(at - began[(seen - first) as usize]);
        }
        delays
    }
}

impl Program {
    /// Publishes events with these numbers; they are durable when this returns.
    async fn publish(&self, manner: Manner, first: u64, count: u32) {
        match self {
            Self::Cleave(host) => {
                let arguments = vec![Val::U64(first), Val::U32(count)];
                let published = host.call(&manner.function(), 1, arguments).await.unwrap();
                assert!(matches!(published[..], [Val::Result(Ok(_))]), "{published:?}");
            }
            Self::Native(native) => native.publish(manner, first, count).await,
            Self::Road(publisher) => {
                let numbers = first..first + u64::from(count);
                match manner {
                    Manner::Each => publisher.each(numbers).await,
                    Manner::Together | Manner::HeardTogether => publisher.together(numbers).await,
                }
            }
        }
    }
}

/// The publisher and these subscribers, as modules of an application.
pub(crate) fn config(cache: &Path, subscribers: &[String]) -> String {
    let mut text = format!(
        "[engine]\ncache = \"{}\"\n[calls]\ndeadline = \"1m\"\n\
         [modules.publisher]\ncomponent = \"{}\"\ndeadline = \"1m\"\ngrants = [\"sql\"]\n",
        cache.join("cache").display(),
        built("bench_publisher").display()
    );
    for subscriber in subscribers {
        write!(
            text,
            "[modules.{subscriber}]\ncomponent = \"{}\"\nmigrations = \"{}\"\ngrants = [\"sql\"]\n",
            built("bench_subscriber").display(),
            guest_migrations("bench-subscriber").display()
        )
        .unwrap();
    }
    text
}

/// The native program: the publisher's part, and tasks that carry and handle.
pub(crate) struct Native {
    database: Arc<grouped::Database>,
    subscribers: Vec<String>,
    published: Vec<Arc<Notify>>,
    /// Ended with this value.
    _tasks: JoinSet<()>,
}

impl Native {
    async fn start(files: &Files, subscribers: &[String], sync: bool) -> Self {
        create(files.folder.path(), subscribers).await;
        let database = grouped::Database::open(files.folder.path(), "publisher", sync);
        let mut native = Self {
            database,
            subscribers: subscribers.to_vec(),
            published: Vec::new(),
            _tasks: JoinSet::new(),
        };
        for subscriber in subscribers {
            let to = grouped::Database::open(files.folder.path(), subscriber, sync);
            let (published, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let relay = Relay {
                publisher: "publisher",
                subscriber: subscriber.clone(),
                from: Arc::clone(&native.database),
                to: Arc::clone(&to),
                published: Arc::clone(&published),
                arrived: Arc::clone(&arrived),
            };
            native.published.push(published);
            native._tasks.spawn(relay.run());
            native._tasks.spawn(deliver(to, arrived, None, handle));
        }
        native
    }

    async fn publish(&self, manner: Manner, first: u64, count: u32) {
        let name = if manner == Manner::HeardTogether { "heard" } else { "noted" };
        let put = |publisher: &Connection, number: u64| {
            named(name, number).put(publisher, &self.subscribers);
        };
        let mut numbers = first..first + u64::from(count);
        if manner == Manner::Each {
            for number in numbers {
                self.database.write(|publisher| put(publisher, number)).await;
                self.published.iter().for_each(|relay| relay.notify_one());
            }
        } else {
            self.database.write(|publisher| numbers.by_ref().for_each(|number| put(publisher, number))).await;
            self.published.iter().for_each(|relay| relay.notify_one());
        }
    }
}

/// An event that is to be written down.
pub(crate) fn event(number: u64) -> Event {
    named("noted", number)
}

fn named(name: &str, number: u64) -> Event {
    let payload = serde_json::to_string(&Payload { number, text: TEXT.into() }).unwrap();
    Event::new(&format!("test:bench/events@0.1.{name}"), number.to_string(), payload)
}

/// The parameters of an event.
#[derive(serde::Serialize, serde::Deserialize)]
struct Payload<'a> {
    number: u64,
    text: std::borrow::Cow<'a, str>,
}

/// What the native subscribers do with an event.
pub(crate) fn handle(subscriber: &Connection, event: &Event) {
    let payload: Payload<'_> = serde_json::from_str(&event.payload).unwrap();
    if event.function.ends_with("noted") {
        let row = (payload.number as i64, &payload.text);
        execute(subscriber, "INSERT INTO notes (number, text) VALUES (?1, ?2)", row);
    }
}

/// Makes files in a folder with the tables of the host and of the guests.
pub(crate) async fn create(folder: &Path, subscribers: &[String]) {
    let folder = DataFolder::open(folder).unwrap();
    Database::open(&folder, "publisher", None, Limits::default()).await.unwrap();
    let migrations = guest_migrations("bench-subscriber");
    for subscriber in subscribers {
        Database::open(&folder, subscriber, Some(&migrations), Limits::default()).await.unwrap();
    }
}

/// The files of one side: the publisher's and each subscriber's.
pub(crate) struct Files {
    pub(crate) folder: TempDir,
    pub(crate) publisher: PathBuf,
    pub(crate) subscribers: Vec<PathBuf>,
    /// Whether events pass an inbox.
    pub(crate) have_inbox: bool,
}

impl Files {
    /// All in one folder.
    pub(crate) fn new(subscribers: &[String]) -> Self {
        let folder = disk::folder();
        let file = |module: &str| folder.path().join(format!("{module}.sqlite"));
        let (publisher, subscribers) =
            (file("publisher"), subscribers.iter().map(|subscriber| file(subscriber)).collect());
        Self { folder, publisher, subscribers, have_inbox: true }
    }

    /// Waits until every event is done, by which each subscriber has written so many rows.
    async fn done(&self, began: Instant, written: u64) {
        let look = async |connection: &Connection, sql: &str| {
            while connection.prepare_cached(sql).unwrap().exists([]).unwrap() {
                assert!(began.elapsed() < PATIENCE, "events are left: {sql}");
                tokio::time::sleep(LOOK).await;
            }
        };
        look(&open(&self.publisher), "SELECT 1 FROM cleave_outbox_to").await;
        for subscriber in &self.subscribers {
            let subscriber = open(subscriber);
            // Why: what has left the outbox may be on its road.
            look(&subscriber, &format!("SELECT 1 WHERE {LAST} < {written}")).await;
            look(&subscriber, "SELECT 1 FROM cleave_inbox WHERE state <= 1").await;
        }
    }

    /// Tells when each of the next rows that the first subscriber's handler writes can be read, by its number.
    fn watch(&self, rows: u64) -> mpsc::Receiver<(u64, Instant)> {
        let (seen, watched) = mpsc::channel(rows as usize);
        let subscriber = open(&self.subscribers[0]);
        let mut last: i64 = subscriber.query_row(&format!("SELECT {LAST}"), [], |row| row.get(0)).unwrap();
        std::thread::spawn(move || {
            let mut select = subscriber
                .prepare("SELECT position, number FROM notes WHERE position > ?1 ORDER BY 1")
                .unwrap();
            let mut left = rows;
            while left > 0 {
                let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)?));
                let new: Vec<(i64, i64)> =
                    select.query_map([last], read).unwrap().map(Result::unwrap).collect();
                let now = Instant::now();
                for (position, number) in new {
                    (last, left) = (position, left - 1);
                    // Nobody listens if the benchmark has failed.
                    if seen.blocking_send((number as u64, now)).is_err() {
                        return;
                    }
                }
                std::thread::sleep(WATCH);
            }
        });
        watched
    }

    /// Every subscriber must have handled so many events, and written all but those that were only to be heard.
    fn check(&self, events: u64, heard: u64) {
        let left = "SELECT count(*) FROM cleave_outbox_to";
        assert_eq!(open(&self.publisher).query_row(left, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
        for subscriber in &self.subscribers {
            let subscriber = open(subscriber);
            let count = |sql| subscriber.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() as u64;
            let received = if self.have_inbox { events } else { 0 };
            assert_eq!(count("SELECT count(*) FROM cleave_inbox WHERE state = 2"), received);
            assert_eq!(count("SELECT count(*) FROM cleave_inbox"), received);
            assert_eq!(count("SELECT count(DISTINCT number) FROM notes"), events - heard);
            assert_eq!(count("SELECT count(*) FROM notes"), events - heard);
        }
    }
}

/// How many rows a subscriber has written.
const LAST: &str = "(SELECT coalesce(max(position), 0) FROM notes)";

fn open(file: &Path) -> Connection {
    Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}
