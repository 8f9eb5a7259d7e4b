//! The shop on two nodes while NATS is away for long: orders, which need no other node, go on being acknowledged, their
//! events wait in the database, whichever it is, and not in memory, and once NATS is back each of them takes effect once.
//!
//! `CLEAVE_OUTAGE_SECONDS` says for how long NATS is away.

use crate::crash::{
    ORDERS_PER_USER, PLENTY, agent, come_to_rest, fill, from_environment, list, outcome, print,
};
use cleave_bus::route::Route;
use cleave_tests::checker::{History, Operation, Outcome, Pieces, Random, Request};
use cleave_tests::nats::NatsServer;
use cleave_tests::{
    Application, Arrangement, Database, Node, PATIENCE, Process, shop_config, with_shared_cache,
};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long NATS is away, unless the environment says otherwise.
const SECONDS: u64 = 20;
/// The part of that time for which clients order before, half of it: caches and pools have filled then, or most of them.
const WARM_UP_PART: u32 = 2;
const CLIENTS: u64 = 32;
/// How long a client rests between two orders.
const PACE: Duration = Duration::from_millis(100);
/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_millis(250);
/// By how much memory may grow for each order that is placed while NATS is away, in bytes, from the median of the first
/// quarter to that of the last. An order that was kept in memory would take 1 KiB at least: so that is found when NATS is
/// away for [`LONG`], however many orders there are.
const GROWTH_MAX_BYTES: u64 = 768;
/// How long NATS must be away for memory to be bounded by the orders alone: the caches of the databases have filled before.
const LONG: Duration = Duration::from_secs(120);
/// What memory may grow by beside in a shorter time, because those caches still fill: with SQLite by 6 to 10 MiB in 20 s.
/// Of the 2,500 orders that are between two quarters then, each would have to leave 6 KiB to be found in any case. So a
/// short run finds that requests or instances are kept, and not a few fields of each order.
const CACHES_KIB: u64 = 12 << 10;
/// How long it may take until nothing waits any more, beside as long as NATS was away.
const DELIVERED_WITHIN: Duration = Duration::from_secs(60);

/// Orders need what is on `front` alone; what follows from them is on the other.
const TWO_NODES: [Node; 2] = [
    ("front", &["users", "catalog", "orders", "inventory", "payments"]),
    ("back", &["shipping", "notifications"]),
];

const IN_SQLITE: Arrangement = Arrangement::pooled(Route::Local, None).on(&TWO_NODES);
const IN_POSTGRES: Arrangement = IN_SQLITE.in_postgres();

#[test]
fn orders_go_on_while_nats_is_down() {
    survive_outage(IN_SQLITE, NatsServer::kill, NatsServer::restart);
}

#[test]
fn orders_go_on_while_nats_is_stopped() {
    survive_outage(IN_SQLITE, NatsServer::pause, NatsServer::resume);
}

#[test]
fn orders_in_postgresql_go_on_while_nats_is_down() {
    survive_outage(IN_POSTGRES, NatsServer::kill, NatsServer::restart);
}

#[test]
fn orders_in_postgresql_go_on_while_nats_is_stopped() {
    survive_outage(IN_POSTGRES, NatsServer::pause, NatsServer::resume);
}

fn survive_outage(arrangement: Arrangement, leave: fn(&mut NatsServer), come_back: fn(&mut NatsServer)) {
    let away = Duration::from_secs(from_environment("CLEAVE_OUTAGE_SECONDS").unwrap_or(SECONDS));
    let mut nats = NatsServer::start();
    let config = shop_config(arrangement);
    let (before, rest) = config.split_once("[bus]").unwrap();
    let (_, calls) = rest.split_once("[calls]").unwrap();
    let config = format!("{before}{}[calls]{calls}", nats.bus());
    let application = Application::new(&with_shared_cache(&config));
    let back = application.up_node("back");
    let front = application.up_node("front");
    let stock = fill(&front);
    let (is_over, placed) = (AtomicBool::new(false), AtomicU64::new(0));
    let (operations, memory) = std::thread::scope(|scope| {
        // Why: if this thread panics, clients must not order for ever.
        let over = Over(&is_over);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn({
                    let (front, is_over, placed) = (&front, &is_over, &placed);
                    move || order_until(front, arrangement.database, number, is_over, placed)
                })
            })
            .collect();
        sleep(away / WARM_UP_PART);
        leave(&mut nats);
        let memory = watch(&front, away, &placed);
        drop(over);
        let operations: Vec<Operation> =
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        come_back(&mut nats);
        (operations, memory)
    });
    assert_flat(&memory, away);
    await_delivered(&application, away + DELIVERED_WITHIN);
    let history = History { stock, operations };
    let rested = come_to_rest(&application, &front, &history, Instant::now());
    print(&rested.violations);
    assert!(rested.settled && rested.violations.is_empty(), "front:\n{}\nback:\n{}", front.log(), back.log());
    for process in [front, back] {
        assert!(process.stop().success());
    }
}

/// Says that it is over when it is dropped.
pub(crate) struct Over<'a>(pub(crate) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Orders until it is over.
pub(crate) fn order_until(
    front: &Process,
    database: Database,
    number: u64,
    is_over: &AtomicBool,
    placed: &AtomicU64,
) -> Vec<Operation> {
    let agent = agent();
    let mut random = Random::new(number);
    let mut operations: Vec<Operation> = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let request = Request {
            id: random.uuid(),
            user_id: format!("client-{number}-{}", operations.len() / ORDERS_PER_USER),
            lines: vec![Pieces { sku: (*random.pick(&PLENTY)).to_owned(), quantity: 1 }],
        };
        operations.extend(place(front, database, &agent, &request));
        placed.fetch_add(1, Ordering::Relaxed);
        sleep(PACE);
    }
    operations
}

/// Places an order, which is acknowledged at once. In PostgreSQL the orders of others may be in its way: then it may still
/// be pending when it is acknowledged, or have to be asked for again.
fn place(front: &Process, database: Database, agent: &ureq::Agent, request: &Request) -> Vec<Operation> {
    let lines = [json!({"sku": request.lines[0].sku, "quantity": 1})];
    let body = json!({
        "id": request.id, "user_id": request.user_id, "lines": lines, "payment_token": "tok_ok",
    });
    let began = Instant::now();
    let mut operations = Vec::new();
    loop {
        let sent = agent
            .post(format!("{}/api/orders", front.address))
            .content_type("application/json")
            .send(body.to_string());
        let mut answer = sent.unwrap_or_else(|e| panic!("{e}; front said:\n{}", front.log()));
        let (status, body) = (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap());
        let is_right = match database {
            Database::Sqlite => status == 201,
            Database::Postgres => matches!(status, 201 | 202 | 503 | 504) && began.elapsed() < PATIENCE,
        };
        assert!(is_right, "{status} {body}; front said:\n{}", front.log());
        let outcome = outcome(status, body);
        let is_placed = matches!(outcome, Outcome::Placed(_));
        operations.push(Operation { request: request.clone(), outcome });
        if is_placed {
            return operations;
        }
        sleep(PACE);
    }
}

/// What there was at a moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// The orders placed so far.
    placed: u64,
    /// The resident memory of the process.
    kib: u64,
}

/// Looks at a process for some time. Clients order all the time.
fn watch(process: &Process, time: Duration, placed: &AtomicU64) -> Vec<Sample> {
    let began = Instant::now();
    let mut samples = Vec::new();
    let mut before = placed.load(Ordering::Relaxed);
    while began.elapsed() < time {
        // Why in quarters: a client may wait for one answer, but not for longer than it would.
        let quarter = began.elapsed() + time / 4;
        while began.elapsed() < quarter.min(time) {
            samples.push(Sample { placed: placed.load(Ordering::Relaxed), kib: resident(process) });
            sleep(SAMPLE);
        }
        let now = placed.load(Ordering::Relaxed);
        assert!(now - before >= CLIENTS, "{} orders in a quarter of the time", now - before);
        eprintln!("{} orders in a quarter of the time, {} KiB", now - before, resident(process));
        before = now;
    }
    samples
}

/// What a process has in memory, in KiB.
fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Asserts that memory does not grow with the orders that are placed while NATS is away.
fn assert_flat(samples: &[Sample], away: Duration) {
    let quarters: Vec<Sample> = samples.chunks(samples.len().div_ceil(4)).map(median).collect();
    let (first, last) = (quarters[0], quarters[quarters.len() - 1]);
    let orders = last.placed - first.placed;
    let caches = if away < LONG { CACHES_KIB } else { 0 };
    let most = first.kib + caches + orders * GROWTH_MAX_BYTES / 1024;
    eprintln!("the median of each quarter: {quarters:?}; with {orders} orders between at most {most} KiB");
    assert!(last.kib <= most, "memory grows while NATS is away: {samples:?}");
}

/// The median of each number, by itself.
fn median(samples: &[Sample]) -> Sample {
    let middle = |number: fn(&Sample) -> u64| {
        let mut sorted: Vec<u64> = samples.iter().map(number).collect();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    };
    Sample { placed: middle(|sample| sample.placed), kib: middle(|sample| sample.kib) }
}

/// Waits until no event waits at its publisher or to be handled.
fn await_delivered(application: &Application, within: Duration) {
    let began = Instant::now();
    loop {
        let left = list(application, "events");
        if left.as_ref().is_ok_and(Vec::is_empty) {
            eprintln!("everything delivered {:.1?} after NATS was back", began.elapsed());
            return;
        }
        assert!(began.elapsed() < within, "events are left: {left:?}");
        sleep(SAMPLE);
    }
}
