//! Faults between two nodes: NATS killed, stopped and started again; connections cut, delayed and half-open; the callee's
//! node killed, stopped and drained. Whatever happens, nobody is told `unavailable` of a call that runs, nothing runs
//! twice, and two seconds after a fault is over calls succeed.
//!
//! The node `front` calls the ledger on the node `back`, which writes down what runs; each node has a proxy of its own
//! before the server. In the end what callers were told is held against what ran ([`cleave_tests::delivery`]).
//!
//! Every choice comes from one seed, which is printed: `CLEAVE_SEED` sets it, `CLEAVE_FAULTS` how often each fault happens.
//! What a fault meets depends on the machine.

use crate::calls::call;
use cleave_bus::failure::CallError;
use cleave_bus::nats::Link;
use cleave_host::host::Host;
use cleave_tests::checker::Random;
use cleave_tests::delivery::{Call, Told, check};
use cleave_tests::nats::NatsServer;
use cleave_tests::proxy::{Direction, Proxy};
use cleave_tests::{Application, PATIENCE, Process, built, root, with_shared_cache};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::task::{JoinHandle, block_in_place};

const CALLERS: u64 = 32;
/// How many call a module of their own node beside them.
const LOCAL_CALLERS: u64 = 2;
/// How long a caller waits between two calls.
const PAUSE: Duration = Duration::from_millis(15);
/// A call that starts so long after a fault is over succeeds.
const RECOVERY: Duration = Duration::from_secs(2);
/// Nothing is under way any more so long after the last answer.
const QUIET: Duration = Duration::from_millis(2_500);
/// A call that cannot be sent fails within this.
const FAST: Duration = Duration::from_millis(500);
/// How long calls go on before and after a fault.
const CALM: Duration = Duration::from_millis(300);
/// The most violations that are printed.
const PRINTED_MAX: usize = 20;

/// The ledger on the node `back` and the victim on the node `front`. `bus` is added to `[bus]`, `more` to the end.
pub(crate) fn nodes(nats: &str, bus: &str, more: &str) -> Application {
    let migrations = root().join("tests/guests/ledger/migrations");
    Application::new(&with_shared_cache(&format!(
        r#"
[bus]
nats = "{nats}"
{bus}
[calls]
deadline = "2s"
idempotent = ["test:ledger/ledger.note-again"]
[data]
durability = "process"
[modules.ledger]
component = "{ledger}"
migrations = "{migrations}"
grants = ["sql"]
concurrency = 16
queue = 256
[modules.victim]
component = "{victim}"
[nodes.front]
modules = ["victim"]
[nodes.back]
modules = ["ledger"]
{more}
"#,
        ledger = built("ledger").display(),
        victim = built("victim").display(),
        migrations = migrations.display(),
    )))
}

/// Waits until the connection of a node to NATS is so.
pub(crate) async fn linked(host: &Host, is: impl FnMut(&Link) -> bool) {
    let mut link = host.bus().unwrap().link();
    tokio::time::timeout(PATIENCE, link.wait_for(is)).await.expect("the link does not change").unwrap();
}

/// Calls the ledger so that the call is written down.
pub(crate) async fn note(host: &Host, function: &str, id: &str, ms: u64) -> Result<(), CallError> {
    let answer = call(host, &format!("test:ledger/ledger.{function}"), &[json!(id), json!(ms)]).await?;
    match answer["error"]["uncertain"].as_str() {
        None => Ok(()),
        Some(reason) => Err(CallError::AnswerLost { reason: format!("the ledger says: {reason}") }),
    }
}

/// Waits until the ledger answers.
pub(crate) async fn reachable(host: &Host) {
    let began = Instant::now();
    while call(host, "test:ledger/ledger.runs", &[json!(u32::MAX)]).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "the ledger cannot be reached");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The identities of all calls that ran, in their order.
pub(crate) async fn runs(host: &Host) -> Vec<String> {
    let mut ids = Vec::new();
    let mut last = 0;
    loop {
        let answer = call(host, "test:ledger/ledger.runs", &[json!(last)]).await.unwrap();
        let page = answer["ok"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let Some(run) = page.last() else { return ids };
        last = whole(&run["number"]);
        ids.extend(page.iter().map(|run| run["id"].as_str().unwrap().to_owned()));
    }
}

/// JSON has numbers of 64 bits as text.
fn whole(json: &Json) -> u64 {
    json.as_u64().or_else(|| json.as_str()?.parse().ok()).unwrap_or_else(|| panic!("no number: {json}"))
}

pub(crate) fn told<T>(outcome: &Result<T, CallError>) -> Told {
    match outcome {
        Ok(_) => Told::Returned,
        Err(error) if error.may_have_run() => Told::Uncertain,
        Err(_) => Told::Unavailable,
    }
}

pub(crate) fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// A random number sequence whose seed is printed.
pub(crate) fn seeded() -> Random {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = from_environment("CLEAVE_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    eprintln!("CLEAVE_SEED={seed}");
    Random::new(seed)
}

/// How often each fault happens.
fn rounds() -> u64 {
    from_environment("CLEAVE_FAULTS").unwrap_or(1)
}

async fn pause(random: &mut Random, ms: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(random.within(ms))).await;
}

/// The calls of one test, and those who make them.
struct Calls {
    front: Arc<Host>,
    made: Mutex<Vec<Call>>,
    /// The fault that there is now; calls bear its name.
    fault: Mutex<&'static str>,
    numbers: AtomicU64,
    local: AtomicU64,
    stop: AtomicBool,
}

impl Calls {
    /// Makes one call, and keeps what was told.
    async fn one(&self, function: &str, ms: u64) -> (String, Result<(), CallError>) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", self.fault.lock().unwrap());
        let outcome = note(&self.front, function, &id, ms).await;
        let repeatable = function == "note-again";
        self.made.lock().unwrap().push(Call { id: id.clone(), told: told(&outcome), repeatable });
        (id, outcome)
    }

    /// Calls the ledger until it is told to stop.
    async fn caller(self: Arc<Self>, mut random: Random) {
        while !self.stop.load(Ordering::Relaxed) {
            let ms = if random.chance(10) { random.within(20..60) } else { random.within(0..4) };
            let function = if random.chance(25) { "note-again" } else { "note" };
            let _ = self.one(function, ms).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Calls a module of its own node until it is told to stop, and meets no error.
    async fn local_caller(self: Arc<Self>) {
        while !self.stop.load(Ordering::Relaxed) {
            let n = self.local.fetch_add(1, Ordering::Relaxed) % 1_000;
            let answer = call(&self.front, "test:victim/ping.ping", &[json!(n)]).await;
            assert_eq!(answer, Ok(json!({"ok": n + 1})), "a local call failed");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What is told while a callee cannot be reached: at once, that the call did not run. Local calls go on.
    async fn fail_fast(&self) {
        let local = self.local.load(Ordering::Relaxed);
        for _ in 0..20 {
            let began = Instant::now();
            let (id, outcome) = self.one("note", 0).await;
            assert_eq!(told(&outcome), Told::Unavailable, "{id}: {outcome:?}");
            assert!(began.elapsed() < FAST, "{id} failed after {:?}: {outcome:?}", began.elapsed());
        }
        let began = Instant::now();
        while self.local.load(Ordering::Relaxed) < local + 2 * LOCAL_CALLERS {
            assert!(began.elapsed() < PATIENCE, "local calls do not go on");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Calls until one is told that it did not run.
    async fn until_unavailable(&self) {
        let began = Instant::now();
        while told(&self.one("note", 0).await.1) != Told::Unavailable {
            assert!(began.elapsed() < PATIENCE, "the callee is still reached");
        }
    }

    /// Makes calls whose time passes before they can reach the callee. Gives their identities.
    async fn late(self: &Arc<Self>) -> Vec<String> {
        let calls = (0..4).map(|_| Arc::clone(self)).map(|calls| {
            tokio::spawn(async move {
                let (id, outcome) = calls.one("note", 0).await;
                assert_eq!(told(&outcome), Told::Uncertain, "{id}: {outcome:?}");
                id
            })
        });
        let mut late = Vec::new();
        for call in calls.collect::<Vec<_>>() {
            late.push(call.await.unwrap());
        }
        late
    }
}

/// Everything that a fault may be done to, and the calls beside it.
struct Ground {
    random: Random,
    server: NatsServer,
    to_front: Proxy,
    to_back: Proxy,
    calls: Arc<Calls>,
    callers: Vec<JoinHandle<()>>,
    /// What must never run.
    late: Vec<String>,
    application: Application,
}

impl Ground {
    /// Starts the server, the proxies and the node `front`. `back` is started by `start_back`, with its application.
    async fn new<B>(bus: &str, start_back: impl AsyncFnOnce(&Application) -> B) -> (Self, B) {
        let mut random = seeded();
        let server = block_in_place(NatsServer::start);
        let (to_front, to_back) = (Proxy::to(server.address()), Proxy::to(server.address()));
        let through = |proxy: &Proxy| nodes(&format!("nats://{}", proxy.address()), bus, "");
        let (application, front) = (through(&to_back), through(&to_front));
        let back = start_back(&application).await;
        let front = Arc::new(front.node("front").await);
        reachable(&front).await;
        let calls = Arc::new(Calls {
            front,
            made: Mutex::default(),
            fault: Mutex::new("calm"),
            numbers: AtomicU64::new(0),
            local: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let mut callers: Vec<_> =
            (0..CALLERS).map(|_| tokio::spawn(Arc::clone(&calls).caller(random.fork()))).collect();
        callers.extend((0..LOCAL_CALLERS).map(|_| tokio::spawn(Arc::clone(&calls).local_caller())));
        tokio::time::sleep(CALM).await;
        let ground =
            Self { random, server, to_front, to_back, calls, callers, late: Vec::new(), application };
        (ground, back)
    }

    /// Lets a fault happen, which is over when it comes back, and asserts that calls succeed again.
    async fn fault<T>(&mut self, name: &'static str, happen: impl AsyncFnOnce(&mut Self) -> T) -> T {
        *self.calls.fault.lock().unwrap() = name;
        let began = Instant::now();
        let outcome = happen(self).await;
        let healed = Instant::now();
        tokio::time::sleep_until((healed + RECOVERY).into()).await;
        for _ in 0..8 {
            let (id, outcome) = self.calls.one("note", 0).await;
            assert!(outcome.is_ok(), "{id} failed {RECOVERY:?} after the fault was over: {outcome:?}");
        }
        eprintln!("{name}: over after {:.1?}", healed - began);
        outcome
    }

    /// Ends the calls, waits until nothing is under way, and checks what callers were told against what ran.
    async fn end(self) {
        tokio::time::sleep(CALM).await;
        self.calls.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.unwrap();
        }
        tokio::time::sleep(QUIET).await;
        let ran = runs(&self.calls.front).await;
        let made = self.calls.made.lock().unwrap();
        eprintln!(
            "{}; {} ran, {} local calls",
            figures(&made),
            ran.len(),
            self.calls.local.load(Ordering::Relaxed)
        );
        let violations = check(&made, &ran);
        violations.iter().take(PRINTED_MAX).for_each(|violation| eprintln!("  {violation}"));
        assert!(violations.is_empty(), "{} calls were told what is not so", violations.len());
        let ran_late: Vec<_> = self.late.iter().filter(|id| ran.contains(id)).collect();
        assert!(ran_late.is_empty(), "ran after their time was over: {ran_late:?}");
    }
}

/// How many calls were told what, by fault.
fn figures(made: &[Call]) -> String {
    let mut by_fault: BTreeMap<&str, BTreeMap<Told, usize>> = BTreeMap::new();
    for call in made {
        let (fault, _) = call.id.rsplit_once('-').unwrap();
        *by_fault.entry(fault).or_default().entry(call.told).or_default() += 1;
    }
    let lines: Vec<_> = by_fault.iter().map(|(fault, told)| format!("{fault} {told:?}")).collect();
    format!("{} calls: {}", made.len(), lines.join(", "))
}

async fn kill_server(ground: &mut Ground) {
    block_in_place(|| ground.server.kill());
    linked(&ground.calls.front, |link| matches!(link, Link::Down(_))).await;
    ground.calls.fail_fast().await;
    pause(&mut ground.random, 100..600).await;
    block_in_place(|| ground.server.restart());
}

/// The server is stopped for less time than a call has: what it holds back comes late, but in time.
async fn pause_server(ground: &mut Ground) {
    block_in_place(|| ground.server.pause());
    pause(&mut ground.random, 100..800).await;
    block_in_place(|| ground.server.resume());
}

/// The server is stopped for longer than a call has: what it holds back comes too late.
async fn pause_server_for_long(ground: &mut Ground) {
    block_in_place(|| ground.server.pause());
    let late = ground.calls.late().await;
    ground.late.extend(late);
    block_in_place(|| ground.server.resume());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_is_so_when_the_server_fails() {
    let (mut ground, back) = Ground::new("", async |back: &Application| back.node("back").await).await;
    for _ in 0..rounds() {
        ground.fault("server killed", kill_server).await;
        ground.fault("server paused", pause_server).await;
        ground.fault("server paused for long", pause_server_for_long).await;
    }
    ground.end().await;
    assert!(back.drain().await);
}

async fn cut_front(ground: &mut Ground) {
    ground.to_front.cut();
    linked(&ground.calls.front, |link| matches!(link, Link::Down(_))).await;
    ground.calls.fail_fast().await;
    ground.to_front.restore();
}

async fn cut_back(ground: &mut Ground) {
    ground.to_back.cut();
    ground.calls.until_unavailable().await;
    ground.calls.fail_fast().await;
    ground.to_back.restore();
}

/// A connection of which one direction is silent: first for so short that nobody notices, then for so long that it is
/// made anew.
async fn half_open(ground: &mut Ground, is_front: bool, towards: Direction) {
    for ms in [200..600, 1_500..1_900] {
        let proxy = if is_front { &ground.to_front } else { &ground.to_back };
        proxy.hang_towards(towards);
        pause(&mut ground.random, ms).await;
        let proxy = if is_front { &ground.to_front } else { &ground.to_back };
        proxy.restore();
    }
}

/// Slow in both directions of both connections: a call takes four times as long, and still has its time.
async fn delay(ground: &mut Ground) {
    let ms = [ground.random.within(50..300), ground.random.within(50..100)];
    ground.to_front.delay(Duration::from_millis(ms[0]));
    ground.to_back.delay(Duration::from_millis(ms[1]));
    for _ in 0..2 {
        let (id, outcome) = ground.calls.one("note", 0).await;
        assert!(outcome.is_ok(), "{id} failed over a connection that is slow by {ms:?} ms: {outcome:?}");
    }
    ground.to_front.restore();
    ground.to_back.restore();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_is_so_when_connections_fail() {
    // A silent connection is made anew after 1.2 seconds.
    let (mut ground, back) =
        Ground::new("ping_interval = \"400ms\"", async |back: &Application| back.node("back").await).await;
    for _ in 0..rounds() {
        ground.fault("caller cut", cut_front).await;
        ground.fault("callee cut", cut_back).await;
        ground.fault("delayed", delay).await;
        for (name, is_front, towards) in [
            ("caller hears nothing", true, Direction::Client),
            ("caller is not heard", true, Direction::Server),
            ("callee hears nothing", false, Direction::Client),
            ("callee is not heard", false, Direction::Server),
        ] {
            ground.fault(name, async |ground: &mut Ground| half_open(ground, is_front, towards).await).await;
        }
    }
    ground.end().await;
    assert!(back.drain().await);
}

/// Starts the node `back` as a process.
fn start_back(application: &Application) -> Process {
    block_in_place(|| application.up_node("back"))
}

async fn kill_back(ground: &mut Ground, back: Process) -> Process {
    block_in_place(|| back.kill());
    ground.calls.until_unavailable().await;
    ground.calls.fail_fast().await;
    start_back(&ground.application)
}

/// A node that is stopped falls silent; what came for it meanwhile and is too late does not run.
async fn stop_back(ground: &mut Ground, back: &Process) {
    back.signal("STOP");
    let began = Instant::now();
    while !is_stopped(back) {
        assert!(began.elapsed() < PATIENCE, "the process does not stop");
        tokio::task::yield_now().await;
    }
    let late = ground.calls.late().await;
    ground.late.extend(late);
    ground.calls.until_unavailable().await;
    ground.calls.fail_fast().await;
    back.signal("CONT");
}

fn is_stopped(process: &Process) -> bool {
    std::fs::read_dir(format!("/proc/{}/task", process.id())).unwrap().all(|task| {
        // A thread that ended since the folder was read does nothing either.
        let status = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
        status.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
    })
}

async fn drain_back(ground: &mut Ground, back: Process) -> Process {
    let ended = block_in_place(|| back.stop());
    assert!(ended.success(), "{ended}");
    ground.calls.fail_fast().await;
    start_back(&ground.application)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_is_so_when_the_callee_fails() {
    let bus = "heartbeat = \"250ms\"\nsilent_after = \"1s\"";
    let (mut ground, mut back) = Ground::new(bus, async |back: &Application| start_back(back)).await;
    for _ in 0..rounds() {
        back = ground.fault("callee killed", async |ground: &mut Ground| kill_back(ground, back).await).await;
        ground.fault("callee stopped", async |ground: &mut Ground| stop_back(ground, &back).await).await;
        back =
            ground.fault("callee drained", async |ground: &mut Ground| drain_back(ground, back).await).await;
    }
    ground.end().await;
    let log = back.log();
    assert!(!log.lines().any(|line| line.starts_with("thread '")), "{log}");
    assert!(block_in_place(|| back.stop()).success());
}

/// Who cannot hear of others does not say that they are silent.
#[tokio::test(flavor = "multi_thread")]
async fn call_without_the_bus_blames_no_node() {
    let server = block_in_place(NatsServer::start);
    let proxy = Proxy::to(server.address());
    let bus = "heartbeat = \"100ms\"\nsilent_after = \"500ms\"";
    let back = nodes(&server.url(), bus, "").node("back").await;
    let front = nodes(&format!("nats://{}", proxy.address()), bus, "").node("front").await;
    reachable(&front).await;
    let members = || front.bus().unwrap().members.all(Instant::now());
    let began = Instant::now();
    while members().len() < 2 {
        assert!(began.elapsed() < PATIENCE, "`back` is not heard of");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    proxy.cut();
    linked(&front, |link| matches!(link, Link::Down(_))).await;
    let began = Instant::now();
    // `back` has been silent for long enough when somebody has found out.
    while !members().iter().any(|member| member.silent) {
        assert!(began.elapsed() < PATIENCE, "nobody is silent");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let error = note(&front, "note", "no", 0).await.unwrap_err();
    assert!(error.to_string().contains("no connection to NATS"), "{error}");
    assert!(front.drain().await && back.drain().await);
}

/// The first try may have run; that the second could not be sent does not change that.
#[tokio::test(flavor = "multi_thread")]
async fn call_whose_second_try_is_not_sent_stays_uncertain() {
    let server = block_in_place(NatsServer::start);
    let proxy = Proxy::to(server.address());
    let back = nodes(&server.url(), "", "").node("back").await;
    let front = nodes(&format!("nats://{}", proxy.address()), "", "").node("front").await;
    reachable(&front).await;
    let under_way = note(&front, "note-again", "once", 300);
    let cut = async {
        while back.pool("ledger").unwrap().running() == 0 {
            tokio::task::yield_now().await;
        }
        proxy.cut();
    };
    let (outcome, ()) = tokio::join!(under_way, cut);
    assert_eq!(runs(&back).await, ["once"]);
    assert_eq!(told(&outcome), Told::Uncertain, "it ran, and its caller was told: {outcome:?}");
    assert!(front.drain().await && back.drain().await);
}
