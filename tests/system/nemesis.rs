//! The shop on three nodes, which somebody means ill: processes and the NATS server are killed, stopped and started again,
//! and one node's connection is cut, slowed and left hanging, while clients order. In the end nothing that was answered is
//! lost, nobody has paid twice, and every order is whole.
//!
//! The same once more with data in PostgreSQL, where two nodes are two processes each, and the database server is meant
//! ill too. There the rows themselves are looked at as well, and each effect of an event is counted.
//!
//! `CLEAVE_NEMESIS_SECONDS` says for how long, `CLEAVE_SEED` what happens.

use crate::crash::{Place, Sign, assert_each_served, assert_no_panic, from_environment, print, survive};
use crate::crash::{charge, notification, order, shipment, stock};
use cleave_bus::route::Route;
use cleave_tests::checker::{Random, World, check};
use cleave_tests::nats::NatsServer;
use cleave_tests::postgres::{self, PostgresServer};
use cleave_tests::proxy::{Direction, Proxy};
use cleave_tests::{Application, Arrangement, Node, PATIENCE, Process, root, shop_config, with_shared_cache};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long it goes on, unless the environment says otherwise. In so long a time each kind of trouble comes, and each
/// client is served.
const SECONDS: u64 = 60;
/// How long a client rests between two orders.
const PACE: Duration = Duration::from_millis(200);
/// How long something is as it should not be, in milliseconds.
const TROUBLE_MS: Range<u64> = 100..3_000;
/// How long nothing is done before, in milliseconds.
const REST_MS: Range<u64> = 100..1_500;
/// The same until each kind of trouble has come: shorter, so that 19 kinds, of which one is long, take some 45 s.
const FIRST_TROUBLE_MS: Range<u64> = 100..1_500;
const FIRST_REST_MS: Range<u64> = 100..900;
/// How long a long trouble lasts, in milliseconds: longer than most of what guards against it. It takes 4 s until a replica
/// or a connection counts as silent, 5 s until a call has run out of time or NATS gives a batch out again, and 15 s until
/// another process may take a task over.
const LONG_TROUBLE_MS: Range<u64> = 6_000..20_000;
/// How many of the troubles that may be long are, in percent.
const LONG_PERCENT: u64 = 10;
/// The part of the time that long troubles take at most: a third.
const LONG_PART: u32 = 3;
/// How many more chances than any other trouble the kill of a process has, and the stop of one, once each kind has come.
const PROCESSES_MORE: usize = 3;
/// By how much the slow connection is late, in milliseconds.
const DELAY_MS: Range<u64> = 20..400;
/// How many lines of each process are printed when something fails.
const PRINTED_MAX: usize = 60;

/// Events go from `sales` to `front`, calls from each to each.
const THREE_NODES: [Node; 3] = [
    ("front", &["users", "catalog", "notifications"]),
    ("money", &["payments"]),
    ("sales", &["orders", "inventory", "shipping"]),
];
const MODULES: [&str; 7] =
    ["users", "catalog", "notifications", "payments", "orders", "inventory", "shipping"];
const FRONT: &str = "front";
/// The process whose connection to NATS goes through a proxy.
const BEHIND: &str = "sales";
/// The second processes of nodes, where data is in PostgreSQL. So each event may be sent by two and taken in by two.
const TWINS: [(&str, &str); 2] = [("the other sales", "sales"), ("the other front", FRONT)];
/// The processes whose connections to PostgreSQL go through a proxy.
const BEHIND_ANOTHER: [&str; 2] = ["money", "sales"];

/// What the nemesis does for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    ProcessKilled,
    ProcessStopped,
    Server(Server, Harm),
    /// To the connections that go through a proxy.
    Connections(Server, Fault),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Server {
    Nats,
    Postgres,
}

/// What is done to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    Killed,
    /// And a process with it.
    KilledWithProcess,
    /// In good order.
    Ended,
    /// By its own order, and yet so that it has to recover.
    EndedAtOnce,
    Stopped,
}

/// What is done to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Late,
    Cut,
    Hanging,
    /// What comes back is lost.
    OneWay,
}

const HARMS_OF_NATS: [Harm; 4] = [Harm::Killed, Harm::KilledWithProcess, Harm::Ended, Harm::Stopped];
const HARMS_OF_POSTGRES: [Harm; 5] =
    [Harm::Killed, Harm::KilledWithProcess, Harm::Ended, Harm::EndedAtOnce, Harm::Stopped];
const FAULTS: [Fault; 4] = [Fault::Late, Fault::Cut, Fault::Hanging, Fault::OneWay];

impl Trouble {
    /// Each kind there is; some only where data is in PostgreSQL.
    fn all(postgres: bool) -> Vec<Self> {
        let mut all = vec![Self::ProcessKilled, Self::ProcessStopped];
        all.extend(HARMS_OF_NATS.map(|harm| Self::Server(Server::Nats, harm)));
        all.extend(FAULTS.map(|fault| Self::Connections(Server::Nats, fault)));
        if postgres {
            all.extend(HARMS_OF_POSTGRES.map(|harm| Self::Server(Server::Postgres, harm)));
            all.extend(FAULTS.map(|fault| Self::Connections(Server::Postgres, fault)));
        }
        all
    }

    fn may_be_long(self) -> bool {
        matches!(self, Self::ProcessStopped | Self::Connections(..))
    }
}

impl Server {
    fn name(self) -> &'static str {
        match self {
            Self::Nats => "NATS",
            Self::Postgres => "PostgreSQL",
        }
    }
}

/// Which trouble comes next: first each kind once, in any order, then whatever comes by chance.
struct Draw {
    /// The kinds that have not come yet.
    first: Vec<Trouble>,
    /// The one of them that is long.
    long: Trouble,
    /// For how long there may still be long ones.
    long_left: Duration,
    /// What comes by chance; what is there more than once comes more often.
    then: Vec<Trouble>,
}

/// One trouble, with the rest before it.
struct Drawn {
    rest: Duration,
    trouble: Trouble,
    lasts: Duration,
}

impl Draw {
    /// Of these kinds, for so long in all.
    fn new(kinds: Vec<Trouble>, time: Duration, random: &mut Random) -> Self {
        let mut left = kinds.clone();
        let mut first = Vec::new();
        while !left.is_empty() {
            let place = random.within(0..left.len() as u64);
            first.push(left.remove(usize::try_from(place).unwrap()));
        }
        let may_be_long: Vec<Trouble> = kinds.iter().copied().filter(|kind| kind.may_be_long()).collect();
        let long = *random.pick(&may_be_long);
        let mut then = kinds;
        then.extend([Trouble::ProcessKilled, Trouble::ProcessStopped].repeat(PROCESSES_MORE));
        Self { first, long, long_left: time / LONG_PART, then }
    }

    fn next(&mut self, random: &mut Random) -> Drawn {
        let (trouble, rest, lasts, is_long) = match self.first.pop() {
            Some(trouble) => (trouble, FIRST_REST_MS, FIRST_TROUBLE_MS, trouble == self.long),
            None => {
                let trouble = *random.pick(&self.then);
                (trouble, REST_MS, TROUBLE_MS, trouble.may_be_long() && random.chance(LONG_PERCENT))
            }
        };
        let rest = Duration::from_millis(random.within(rest));
        let lasts = Duration::from_millis(random.within(lasts));
        let long = Duration::from_millis(random.within(LONG_TROUBLE_MS));
        if !is_long || long > self.long_left {
            return Drawn { rest, trouble, lasts };
        }
        self.long_left -= long;
        Drawn { rest, trouble, lasts: long }
    }
}

#[test]
fn nothing_answered_is_lost_to_a_nemesis() {
    survive_nemesis(None);
}

#[test]
fn nothing_answered_is_lost_to_a_nemesis_of_postgresql() {
    survive_nemesis(Some(Base::start()));
}

fn survive_nemesis(base: Option<Base>) {
    let nats = NatsServer::start();
    let proxy = Proxy::to(nats.address());
    let config = shop_config(Arrangement::pooled(Route::Local, None).on(&THREE_NODES));
    // The bus of this test's own server in place of the one of all tests.
    let (before, rest) = config.split_once("[bus]").unwrap();
    let (_, calls) = rest.split_once("[calls]").unwrap();
    // Why the lease: two processes have the same modules there, and one that is stopped for longer is to be replaced.
    let shared = |base: &Base| format!("[data]\nurl = \"{}\"\n[events]\nlease = \"1s\"\n", base.url());
    let data = base.as_ref().map(shared).unwrap_or_default();
    let config = format!("{before}{}[calls]{calls}{data}", nats.bus());
    let application = Application::new(&with_shared_cache(&config));
    let mut nemesis = Nemesis {
        application: &application,
        nats,
        proxy,
        base,
        processes: BTreeMap::new(),
        life: 0,
        done: Vec::new(),
        came: BTreeSet::new(),
    };
    for name in nemesis.names().into_iter().rev() {
        nemesis.processes.insert(name, nemesis.start(name));
    }
    let front = nemesis.processes.remove(FRONT).unwrap();
    await_all(&front);
    if let Some(base) = &nemesis.base {
        count_notifications(&base.server, &base.database);
    }
    let history =
        survive(&application, front, PACE, |front, sign, random| nemesis.torment(front, sign, random));
    if let Some(base) = &nemesis.base {
        let violations = check(&history, &base.world());
        print(&violations);
        assert!(violations.is_empty(), "the rows of PostgreSQL tell something else than the shop");
    }
    for (_, process) in std::mem::take(&mut nemesis.processes) {
        assert_no_panic(&process);
        assert!(process.stop().success());
    }
    if time() >= Duration::from_secs(SECONDS) {
        assert_each_served(&history);
        let kinds: BTreeSet<Trouble> = nemesis.kinds().into_iter().collect();
        assert_eq!(nemesis.came, kinds, "not every kind of trouble came");
    }
}

/// How long it goes on.
fn time() -> Duration {
    Duration::from_secs(from_environment("CLEAVE_NEMESIS_SECONDS").unwrap_or(SECONDS))
}

/// Waits until every module answers through the node that serves HTTP.
fn await_all(front: &Process) {
    let began = Instant::now();
    let id = "0c2d2e9e-0000-4000-8000-000000000001";
    for path in
        [format!("/api/orders/{id}/payments"), "/api/stock/none".to_owned(), format!("/api/orders/{id}")]
    {
        while !matches!(front.get(&path).status, 200 | 404) {
            assert!(began.elapsed() < PATIENCE, "{path} stays {:?}", front.get(&path));
            sleep(Duration::from_millis(20));
        }
    }
}

struct Nemesis<'a> {
    application: &'a Application,
    nats: NatsServer,
    proxy: Proxy,
    base: Option<Base>,
    processes: BTreeMap<&'static str, Process>,
    /// How often clients were shown the node that serves HTTP.
    life: u64,
    /// What was done, for the text of a failure.
    done: Vec<String>,
    /// The kinds of trouble there have been.
    came: BTreeSet<Trouble>,
}

impl Nemesis<'_> {
    /// Of all processes, the one that clients order from first.
    fn names(&self) -> Vec<&'static str> {
        let twins = self.base.is_some().then_some(TWINS).into_iter().flatten().map(|(twin, _)| twin);
        THREE_NODES.iter().map(|(name, _)| *name).chain(twins).collect()
    }

    fn kinds(&self) -> Vec<Trouble> {
        Trouble::all(self.base.is_some())
    }

    fn start(&self, name: &str) -> Process {
        let twin = TWINS.into_iter().find(|(twin, _)| *twin == name);
        let node = twin.map_or(name, |(_, node)| node);
        let mut command = self.application.node_command(node);
        if twin.is_some() {
            command.env("CLEAVE_DATA__DIR", self.application.folder.path().join("twins"));
        }
        if name == BEHIND {
            command.env("CLEAVE_BUS__NATS", format!("nats://{}", self.proxy.address()));
        }
        if let (Some(base), true) = (&self.base, BEHIND_ANOTHER.contains(&name)) {
            command.env("CLEAVE_DATA__URL", base.url_behind());
        }
        // The twin of the one that clients order from serves HTTP too, at another free port, and nobody asks it.
        Process::start_until(&mut command, if node == FRONT { "ready at " } else { "ready; " })
    }

    /// Does ill until the time is over, and leaves everything as it should be.
    fn torment(&mut self, front: Process, sign: &Sign, random: &mut Random) -> Process {
        let time = time();
        let all_come = time >= Duration::from_secs(SECONDS);
        let mut draw = Draw::new(self.kinds(), time, random);
        let began = Instant::now();
        self.insert(FRONT, front, sign);
        // Why longer than the time, if need be: a slow machine must not leave a kind out.
        while began.elapsed() < time || (all_come && !draw.first.is_empty()) {
            let Drawn { rest, trouble, lasts } = draw.next(random);
            sleep(rest);
            let name = *random.pick(&self.names());
            match trouble {
                Trouble::ProcessKilled => self.kill_for(name, lasts, sign),
                Trouble::ProcessStopped => self.stop_for(name, lasts, sign),
                Trouble::Server(server, harm) => self.harm(server, harm, name, lasts, sign),
                Trouble::Connections(server, fault) => self.disturb(server, fault, lasts, random),
            }
            self.came.insert(trouble);
        }
        eprintln!("{}", self.done.join("\n"));
        self.processes.remove(FRONT).unwrap()
    }

    fn kill_for(&mut self, name: &'static str, lasts: Duration, sign: &Sign) {
        self.note(&format!("{name} is killed"), lasts);
        self.kill(name, sign);
        sleep(lasts);
        self.insert(name, self.start(name), sign);
    }

    fn kill(&mut self, name: &'static str, sign: &Sign) {
        let process = self.processes.remove(name).unwrap();
        assert_no_panic(&process);
        process.kill();
        if name == FRONT {
            sign.show(Place::Shut);
        }
    }

    fn insert(&mut self, name: &'static str, process: Process, sign: &Sign) {
        self.processes.insert(name, process);
        if name == FRONT {
            self.open(sign);
        }
    }

    /// Shows clients the node that serves HTTP, as in a new life.
    fn open(&mut self, sign: &Sign) {
        let address = self.processes[FRONT].address.clone();
        sign.show(Place::Open { life: self.life, address });
        self.life += 1;
    }

    fn stop_for(&mut self, name: &'static str, lasts: Duration, sign: &Sign) {
        self.note(&format!("{name} is stopped"), lasts);
        let stopped = Stopped::new(&self.processes[name]);
        sleep(lasts);
        drop(stopped);
        if name == FRONT {
            // Why: a client that waited in vain for an answer asks no more in the same life.
            self.open(sign);
        }
    }

    /// Does ill to the connections that go through a proxy.
    fn disturb(&mut self, server: Server, fault: Fault, lasts: Duration, random: &mut Random) {
        let delay = Duration::from_millis(random.within(DELAY_MS));
        let how = match fault {
            Fault::Late => format!("is late by {delay:?}"),
            Fault::Cut => "is cut".to_owned(),
            Fault::Hanging => "hangs".to_owned(),
            Fault::OneWay => "loses what comes back".to_owned(),
        };
        self.note(&format!("a connection to {} {how}", server.name()), lasts);
        let proxy = match server {
            Server::Nats => &self.proxy,
            Server::Postgres => &self.base.as_ref().unwrap().proxy,
        };
        match fault {
            Fault::Late => proxy.delay(delay),
            Fault::Cut => proxy.cut(),
            Fault::Hanging => proxy.hang(),
            Fault::OneWay => proxy.hang_towards(Direction::Client),
        }
        sleep(lasts);
        if fault == Fault::OneWay {
            proxy.cut();
        }
        proxy.restore();
    }

    /// Does ill to a server, and to a process if it is meant too.
    fn harm(&mut self, server: Server, harm: Harm, name: &'static str, lasts: Duration, sign: &Sign) {
        let how = match harm {
            Harm::Killed => "killed".to_owned(),
            Harm::KilledWithProcess => format!("killed, and {name}"),
            Harm::Ended => "ended".to_owned(),
            Harm::EndedAtOnce => "ended at once".to_owned(),
            Harm::Stopped => "stopped".to_owned(),
        };
        self.note(&format!("{} is {how}", server.name()), lasts);
        match (server, harm) {
            (Server::Nats, Harm::Killed | Harm::KilledWithProcess | Harm::EndedAtOnce) => self.nats.kill(),
            (Server::Nats, Harm::Ended) => self.nats.stop(),
            (Server::Nats, Harm::Stopped) => self.nats.pause(),
            (Server::Postgres, Harm::Killed | Harm::KilledWithProcess) => self.postgres().crash(),
            (Server::Postgres, Harm::Ended) => self.postgres().stop(),
            (Server::Postgres, Harm::EndedAtOnce) => self.postgres().kill(),
            (Server::Postgres, Harm::Stopped) => self.postgres().pause(),
        }
        if harm == Harm::KilledWithProcess {
            self.kill(name, sign);
        }
        sleep(lasts);
        match (server, harm) {
            (Server::Nats, Harm::Stopped) => self.nats.resume(),
            (Server::Nats, _) => self.nats.restart(),
            (Server::Postgres, Harm::Stopped) => self.postgres().resume(),
            (Server::Postgres, _) => self.postgres().restart(),
        }
        if harm == Harm::KilledWithProcess {
            self.insert(name, self.start(name), sign);
        }
    }

    fn postgres(&mut self) -> &mut PostgresServer {
        &mut self.base.as_mut().unwrap().server
    }

    fn note(&mut self, what: &str, lasts: Duration) {
        self.done.push(format!("{what} for {lasts:?}"));
    }
}

impl Drop for Nemesis<'_> {
    /// Tells what the processes said last if the test fails.
    fn drop(&mut self) {
        for (name, process) in self.processes.iter().filter(|_| std::thread::panicking()) {
            let log = process.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(PRINTED_MAX)..];
            eprintln!("{name} said last:\n{}", last.join("\n"));
        }
    }
}

/// A process that is stopped as long as this lives.
struct Stopped<'a>(&'a Process);

impl<'a> Stopped<'a> {
    fn new(process: &'a Process) -> Self {
        process.signal("STOP");
        Self(process)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.signal("CONT");
    }
}

/// A PostgreSQL server of a test's own, and the shop's database there.
struct Base {
    server: PostgresServer,
    proxy: Proxy,
    database: String,
}

impl Base {
    fn start() -> Self {
        let server = PostgresServer::start();
        let proxy = Proxy::to(([127, 0, 0, 1], server.port()).into());
        let database = server.new_database();
        Self { server, proxy, database }
    }

    fn url(&self) -> String {
        self.server.url(&self.database)
    }

    fn url_behind(&self) -> String {
        self.server.url_at(self.proxy.address().port(), &self.database)
    }

    /// What became of all orders, as the rows of the modules and of the host tell it.
    fn world(&self) -> World {
        let rows = |sql: &str| rows(&self.server, &self.database, sql);
        let mut world = World {
            orders: rows(ORDERS).iter().map(order).collect(),
            charges: rows("SELECT * FROM cleave$payments.charges").iter().map(charge).collect(),
            shipments: rows(SHIPMENTS).iter().map(shipment).collect(),
            notifications: rows(NOTIFICATIONS).iter().map(notification).collect(),
            stock: rows("SELECT * FROM cleave$inventory.stock").iter().map(stock).collect(),
            ..World::default()
        };
        for module in MODULES {
            let of_host = |what: &str| {
                let listed = rows(&format!("SELECT * FROM cleave${module}.cleave_{what}"));
                listed.iter().map(Json::to_string).collect::<Vec<_>>()
            };
            world.events.extend(of_host("outbox"));
            world.events.extend(of_host("inbox WHERE state < 2"));
            world.dead_letters.extend(of_host("inbox WHERE state = 3"));
        }
        world
    }
}

const ORDERS: &str = "SELECT *, (SELECT json_agg(l ORDER BY number) FROM cleave$orders.order_lines l \
                      WHERE order_id = o.id) AS lines FROM cleave$orders.orders o";
const SHIPMENTS: &str = "SELECT *, (SELECT json_agg(l ORDER BY number) FROM cleave$shipping.shipment_lines l \
                         WHERE order_id = s.order_id) AS lines FROM cleave$shipping.shipments s";
const NOTIFICATIONS: &str = "SELECT order_id, user_id, replace(kind, '-', '_') AS kind FROM witness.told";
/// Has each notification that is written noted in the same transaction, also one that is there already, which the
/// module does not write twice: so an event that were handled twice would be seen.
const WITNESS: &str = "
    CREATE SCHEMA witness;
    CREATE TABLE witness.told (order_id TEXT, user_id TEXT, kind TEXT);
    CREATE FUNCTION witness.note() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO witness.told VALUES (NEW.order_id, NEW.user_id, NEW.kind);
        RETURN NEW;
    END $$;
    CREATE TRIGGER witness BEFORE INSERT ON cleave$notifications.notifications
        FOR EACH ROW EXECUTE FUNCTION witness.note();
";

fn count_notifications(server: &PostgresServer, database: &str) {
    server.say(database, WITNESS);
}

/// The rows of a statement, as objects.
fn rows(server: &PostgresServer, database: &str, sql: &str) -> Vec<Json> {
    let text = server.say(database, &format!("SELECT coalesce(json_agg(r), '[]') FROM ({sql}) r"));
    serde_json::from_str(&text).unwrap()
}

#[test]
fn each_kind_of_trouble_comes_once_before_any_comes_again() {
    let time = Duration::from_secs(SECONDS);
    for seed in 0..1_000 {
        let (kinds, mut random) = (Trouble::all(true), Random::new(seed));
        let mut draw = Draw::new(kinds.clone(), time, &mut random);
        let first: Vec<Drawn> = kinds.iter().map(|_| draw.next(&mut random)).collect();
        let came: BTreeSet<Trouble> = first.iter().map(|drawn| drawn.trouble).collect();
        assert_eq!(came.len(), kinds.len(), "seed {seed}");
        let takes: Duration = first.iter().map(|drawn| drawn.rest + drawn.lasts).sum();
        assert!(takes < time, "seed {seed}: {takes:?}");
        // One of the first is long, and of those that come by chance no more than there is time for.
        let is_long = |drawn: &&Drawn| drawn.lasts >= Duration::from_millis(LONG_TROUBLE_MS.start);
        assert_eq!(first.iter().filter(is_long).count(), 1, "seed {seed}");
        let then: Vec<Drawn> = (0..1_000).map(|_| draw.next(&mut random)).collect();
        let long: Duration = first.iter().chain(&then).filter(is_long).map(|drawn| drawn.lasts).sum();
        assert!(long <= time / LONG_PART, "seed {seed}: {long:?}");
    }
}

#[test]
fn notification_that_is_written_twice_is_counted_twice() {
    let server = postgres::shared();
    let database = server.new_database();
    let folder = root().join("modules/notifications/migrations");
    let table = std::fs::read_to_string(folder.join("001_notifications.sql")).unwrap();
    let schema = "CREATE SCHEMA cleave$notifications; SET search_path = cleave$notifications";
    server.say(&database, &format!("{schema}; {table}"));
    count_notifications(server, &database);
    let insert = "INSERT INTO cleave$notifications.notifications VALUES \
                  ('o-1', 'order-placed', 'n-1', 'ada', '', 0) ON CONFLICT (order_id, kind) DO NOTHING";
    let told = || rows(server, &database, NOTIFICATIONS).iter().map(notification).count();
    server.say(&database, insert);
    assert_eq!(told(), 1);
    server.say(&database, insert);
    assert_eq!(told(), 2);
    // One that is taken back is no effect.
    server.say(&database, &format!("BEGIN; {insert}; ROLLBACK"));
    assert_eq!(told(), 2);
}
