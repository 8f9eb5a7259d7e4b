//! The shop under `kill -9`: clients order while the process is ended at random moments and started again on the same
//! folder. In the end nothing that was answered is lost, and every order is whole.
//!
//! Every choice comes from one seed, which is printed: `CLEAVE_SEED` sets it, `CLEAVE_KILLS` the number of kills. A seed
//! repeats what clients ask for and how long each process lives; what a kill meets depends on the machine.

use cleave_tests::checker::{Charge, Kind, Notification, Shipment, Stock, World, check};
use cleave_tests::checker::{History, Line, Operation, Order, Outcome, Pieces, Request, Status};
use cleave_tests::checker::{Random, Rule, Violation};
use cleave_tests::{ARRANGEMENTS, Application, Process, cleave, shop_config};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::process::Stdio;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

const CLIENTS: u64 = 32;
/// How long a process serves before it is killed, in milliseconds.
const LIFE_MS: Range<u64> = 150..900;
/// How long a process that is killed before it is ready lives at most, in milliseconds.
const BIRTH_MS_MAX: u64 = 200;
/// How often a killed process is followed by one that is killed before it is ready, in percent.
const STILLBORN_PERCENT: u64 = 25;
/// How long a client waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How many orders a client has at most; with so many, it only repeats them.
const WISHES_MAX: usize = 400;
/// How often a client that got no clear answer asks again at once, in percent.
const REPEAT_PERCENT: u64 = 50;
/// How often a client opens an account before it orders, in percent.
const ACCOUNT_PERCENT: u64 = 5;
/// How many read at once when the shop is read back.
const READERS: usize = 4;
/// A user's lists show the newest 100 orders and the newest 100 notifications, of which an order has two; with fewer than
/// that, they show all.
pub(crate) const ORDERS_PER_USER: usize = 40;
/// How many clients have an order that is paid with the slow card, which outlives most processes. They are few, because
/// the shop makes up for such charges one after the other.
const SLOW_CLIENTS: u64 = 6;
/// How many orders such a client has before the next of them pays slowly.
const SLOW_APART: usize = 3;
/// How long an order may be pending once nothing disturbs the shop any more, in seconds, unless the environment says
/// otherwise: twice what is promised, for the machine does other things beside. `make test-all` asks for the promise.
const TERMINAL_SECONDS: u64 = 60;
/// How long what follows from orders may take: an event that failed waits before it is tried again.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// How often it is told meanwhile how many orders are pending.
const TELL: Duration = Duration::from_secs(5);
/// How long a client that waits for what must come rests before it looks again.
const LOOK: Duration = Duration::from_millis(100);
/// Products there is enough of.
pub(crate) const PLENTY: [&str; 5] = ["anvil", "brush", "candle", "drum", "easel"];
const PLENTY_PIECES: u64 = 100_000;
/// A product that runs out.
const SCARCE: &str = "falcon";
const SCARCE_PIECES: u64 = 50;
/// The most violations of one rule that are printed.
const PRINTED_MAX: usize = 5;

#[test]
fn nothing_answered_is_lost_to_kills() {
    survive_kills(&shop_config(ARRANGEMENTS[0]), 20);
}

#[test]
fn process_durability_survives_kills() {
    let config = shop_config(ARRANGEMENTS[0]) + "\n[data]\ndurability = \"process\"\n";
    survive_kills(&config, 7);
}

/// Kills the shop this often, unless the environment says otherwise.
fn survive_kills(config: &str, kills: u64) {
    let kills = from_environment("CLEAVE_KILLS").unwrap_or(kills);
    eprintln!("CLEAVE_KILLS={kills}");
    let application = Application::new(config);
    let shop = application.up();
    survive(&application, shop, Duration::ZERO, |shop, sign, random| {
        kill_and_start(&application, shop, kills, sign, random)
    });
}

pub(crate) fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// Lets clients order from a shop that is disturbed, and checks what is left, and that the shop has served meanwhile.
/// `shop` is the process that serves HTTP; the disturbance shows clients where it is, and gives the last one, which nothing
/// disturbs any more. Between two orders a client rests. Gives what clients did.
pub(crate) fn survive(
    application: &Application,
    shop: Process,
    rest: Duration,
    disturb: impl FnOnce(Process, &Sign, &mut Random) -> Process,
) -> History {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = from_environment("CLEAVE_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    eprintln!("CLEAVE_SEED={seed}");
    let began = Instant::now();
    let mut random = Random::new(seed);
    let stock = fill(&shop);
    let sign = Sign::default();
    let clients: Vec<Client> = (0..CLIENTS).map(|number| Client::new(number, random.fork())).collect();
    let (clients, shop, disturbed) = std::thread::scope(|scope| {
        // Why: clients wait for the shop; if this thread panics, they must not wait for ever.
        let _closing = Closing(&sign);
        let clients: Vec<_> =
            clients.into_iter().map(|client| scope.spawn(|| client.run(&sign, rest))).collect();
        let first = Instant::now();
        let shop = disturb(shop, &sign, &mut random);
        let healed = Instant::now();
        sign.show(Place::Gone);
        let clients: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        (clients, shop, first..healed)
    });
    let mut history = History { stock, operations: Vec::new() };
    let (mut accounts, mut served) = (Vec::new(), Vec::new());
    for client in clients {
        history.operations.extend(client.operations);
        accounts.extend(client.accounts);
        served.extend(client.served);
    }
    let ordered = began.elapsed();
    let rested = come_to_rest(application, &shop, &history, disturbed.end);
    eprintln!(
        "{}; disturbed for {ordered:.1?}, read after {:.1?}",
        figures(&history, &rested.world),
        began.elapsed() - ordered
    );
    assert_no_panic(&shop);
    assert_accounts(&shop, &accounts);
    if !rested.settled {
        eprintln!("not settled in time: what was read may have moved meanwhile");
    }
    print(&rested.violations);
    assert!(
        rested.settled && rested.violations.is_empty(),
        "CLEAVE_SEED={seed}; the last process said:\n{}",
        shop.log()
    );
    assert_served(&served, &disturbed);
    assert!(shop.stop().success());
    history
}

/// Asserts that the shop has served: a history in which little was answered promises little. In all there are as many
/// answers of 201 as clients, and some came in the second half of the disturbance.
fn assert_served(served: &[Instant], disturbed: &Range<Instant>) {
    let middle = disturbed.start + (disturbed.end - disturbed.start) / 2;
    let later = served.iter().filter(|at| (middle..disturbed.end).contains(*at)).count();
    eprintln!("{} answers of 201, {later} of them in the second half", served.len());
    assert!(served.len() as u64 >= CLIENTS && later > 0, "the shop has hardly served");
}

/// Asserts that each client was answered 201 at least once.
pub(crate) fn assert_each_served(history: &History) {
    let answered = history.operations.iter().filter(|operation| is_served(&operation.outcome));
    // The names of a client's users begin with its own.
    let clients: BTreeSet<&str> = answered
        .filter_map(|operation| operation.request.user_id.rsplit_once('-'))
        .map(|(of, _)| of)
        .collect();
    assert_eq!(clients.len() as u64, CLIENTS, "these alone were served: {clients:?}");
}

/// Whether this is a 201: the order stands and is at its end. One that is pending is answered 202.
fn is_served(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Placed(order) if order.status != Status::Pending)
}

/// What is left when nothing moves any more.
pub(crate) struct Rested {
    /// Whether everything came to its end in time.
    pub(crate) settled: bool,
    /// As the shop tells it.
    pub(crate) world: World,
    pub(crate) violations: Vec<Violation>,
}

/// Waits until everything has come to its end, and reads it. What is on the road between nodes is in no list, so rules
/// that do not hold are looked at again until the time is over.
pub(crate) fn come_to_rest(
    application: &Application,
    shop: &Process,
    history: &History,
    healed: Instant,
) -> Rested {
    let late = await_terminal(shop, history, healed);
    let began = Instant::now();
    loop {
        let settled = settle(application, shop, &ids(history));
        let mut world = read_back(application, shop, history);
        world.late.clone_from(&late);
        let violations = check(history, &world);
        if !settled || violations.is_empty() || began.elapsed() > SETTLED_WITHIN {
            return Rested { settled, world, violations };
        }
    }
}

/// Waits until no order is pending, and gives those that are when their time is over. A user who had none is looked at
/// again: a request that a client gave up may still have been writing.
fn await_terminal(shop: &Process, history: &History, healed: Instant) -> Vec<String> {
    let within = Duration::from_secs(from_environment("CLEAVE_TERMINAL_SECONDS").unwrap_or(TERMINAL_SECONDS));
    let agent = agent();
    let users = users(history);
    let mut open: Vec<&str> = users.iter().copied().collect();
    let mut told = Duration::ZERO;
    loop {
        let are_all = open.len() == users.len();
        let mut late = Vec::new();
        open.retain(|user| {
            let pending = pending(&agent, shop, user);
            late.extend(pending.clone());
            !pending.is_empty()
        });
        let passed = healed.elapsed();
        let is_over = if open.is_empty() { are_all } else { passed > within };
        if is_over || passed >= told {
            eprintln!("{} orders are pending {passed:.1?} after the last disturbance", late.len());
            told = passed + TELL;
        }
        if is_over {
            return late;
        }
        if open.is_empty() {
            open.extend(&users);
        } else {
            std::thread::sleep(LOOK);
        }
    }
}

/// A user's orders that are pending, or why they cannot be told.
fn pending(agent: &ureq::Agent, shop: &Process, user: &str) -> Vec<String> {
    let url = format!("{}/api/users/{user}/orders", shop.address);
    match try_get(agent, &url) {
        Ok(list) => {
            let orders = list.unwrap_or_default();
            let orders = orders.as_array().into_iter().flatten().map(order);
            orders.filter(|order| order.status == Status::Pending).map(|order| order.id).collect()
        }
        Err(problem) => vec![problem],
    }
}

fn users(history: &History) -> BTreeSet<&str> {
    history.operations.iter().map(|operation| operation.request.user_id.as_str()).collect()
}

/// Asserts that every account that was acknowledged stands as it was.
fn assert_accounts(shop: &Process, accounts: &[Json]) {
    let agent = agent();
    eprintln!("{} accounts", accounts.len());
    for account in accounts {
        let url = format!("{}/api/users/{}", shop.address, text(&account["id"]));
        assert_eq!(get(&agent, &url).as_ref(), Some(account), "an account was lost");
    }
}

/// Prints how often each rule did not hold, and where first.
pub(crate) fn print(violations: &[Violation]) {
    let mut of_rules: BTreeMap<Rule, Vec<&Violation>> = BTreeMap::new();
    for violation in violations {
        of_rules.entry(violation.rule).or_default().push(violation);
    }
    for (rule, violations) in of_rules {
        eprintln!("{rule:?} does not hold, {} times:", violations.len());
        violations.iter().take(PRINTED_MAX).for_each(|violation| eprintln!("  {violation}"));
    }
}

/// Puts products and stock into a new shop. Gives the pieces put in.
pub(crate) fn fill(shop: &Process) -> BTreeMap<String, u64> {
    let plenty = PLENTY.iter().map(|sku| (*sku, PLENTY_PIECES));
    let stock: BTreeMap<String, u64> =
        plenty.chain([(SCARCE, SCARCE_PIECES)]).map(|(sku, pieces)| (sku.to_owned(), pieces)).collect();
    for (price, (sku, pieces)) in (101u64..).zip(&stock) {
        let product = json!({"name": sku, "price_cents": price, "description": ""});
        shop.put(&format!("/api/products/{sku}"), &product.to_string()).expect(200);
        shop.put(&format!("/api/stock/{sku}"), &json!({"available": pieces}).to_string()).expect(200);
    }
    stock
}

/// Ends the shop at random moments and starts it again, this often. Gives the last process, which has served too.
fn kill_and_start(
    application: &Application,
    mut shop: Process,
    kills: u64,
    sign: &Sign,
    random: &mut Random,
) -> Process {
    for life in 0..=kills {
        sign.show(Place::Open { life, address: shop.address.clone() });
        // Why: a kill belongs to no condition; the moment is the point.
        std::thread::sleep(Duration::from_millis(random.within(LIFE_MS)));
        assert_no_panic(&shop);
        if life < kills {
            shop.kill();
            sign.show(Place::Shut);
            if random.chance(STILLBORN_PERCENT) {
                kill_before_ready(application, random);
            }
            shop = application.up();
        }
    }
    shop
}

/// Asserts that no code of the host has panicked. What a module says when it does comes through the log, dated.
pub(crate) fn assert_no_panic(shop: &Process) {
    let log = shop.log();
    assert!(!log.lines().any(|line| line.starts_with("thread '")), "{log}");
}

/// Starts a process and kills it while it opens its data.
fn kill_before_ready(application: &Application, random: &mut Random) {
    let mut command = cleave();
    command.arg("up").arg("--config").arg(application.config());
    let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(random.within(0..BIRTH_MS_MAX)));
    process.kill().unwrap();
    process.wait().unwrap();
}

/// Tells clients where the shop is, process after process.
#[derive(Default)]
pub(crate) struct Sign {
    place: Mutex<Place>,
    changed: Condvar,
}

#[derive(Debug, Clone, Default)]
pub(crate) enum Place {
    /// Here, in this life.
    Open { life: u64, address: String },
    /// It will be back.
    #[default]
    Shut,
    /// It needs no client any more.
    Gone,
}

impl Sign {
    pub(crate) fn show(&self, place: Place) {
        *self.place.lock().unwrap() = place;
        self.changed.notify_all();
    }

    /// Waits for the shop in a life that has not failed this client yet. None when no client is needed any more.
    fn read(&self, failed: Option<u64>) -> Option<(u64, String)> {
        let mut place = self.place.lock().unwrap();
        loop {
            match &*place {
                Place::Gone => return None,
                Place::Open { life, address } if Some(*life) != failed => {
                    return Some((*life, address.clone()));
                }
                _ => place = self.changed.wait(place).unwrap(),
            }
        }
    }
}

/// Sends the clients home when it is dropped.
struct Closing<'a>(&'a Sign);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.show(Place::Gone);
    }
}

/// A customer, who asks again when an answer was unclear.
struct Client {
    number: u64,
    random: Random,
    agent: ureq::Agent,
    /// Every wish, with its identity.
    wishes: Vec<Wish>,
    operations: Vec<Operation>,
    /// Every account that was acknowledged.
    accounts: Vec<Json>,
    /// When it was answered 201.
    served: Vec<Instant>,
}

/// A request and what it is paid with.
#[derive(Clone)]
struct Wish {
    request: Request,
    payment_token: &'static str,
}

impl Client {
    fn new(number: u64, random: Random) -> Self {
        Self {
            number,
            random,
            agent: agent(),
            wishes: Vec::new(),
            operations: Vec::new(),
            accounts: Vec::new(),
            served: Vec::new(),
        }
    }

    /// Orders until the shop needs no client any more. Gives itself, with everything it did.
    fn run(mut self, sign: &Sign, rest: Duration) -> Self {
        let mut failed = None;
        let mut unclear = None;
        while let Some((life, address)) = sign.read(failed) {
            if self.random.chance(ACCOUNT_PERCENT) {
                self.open_account(&address);
            }
            let wish = match unclear.take() {
                Some(wish) if self.random.chance(REPEAT_PERCENT) => wish,
                _ => self.wish(),
            };
            let outcome = self.place(&address, &wish);
            if matches!(outcome, Outcome::Lost) {
                failed = Some(life);
            }
            if matches!(outcome, Outcome::Lost | Outcome::Unclear(_)) {
                unclear = Some(wish.clone());
            }
            if is_served(&outcome) {
                self.served.push(Instant::now());
            }
            self.operations.push(Operation { request: wish.request, outcome });
            std::thread::sleep(rest);
        }
        self
    }

    /// Opens an account, and keeps it in mind if it was acknowledged.
    fn open_account(&mut self, address: &str) {
        let account = json!({"id": self.random.uuid(), "name": "Ada", "email": "ada@example.org"});
        if let Ok((201, _)) = self.post(&format!("{address}/api/users"), &account) {
            self.accounts.push(account);
        }
    }

    /// Mostly something new; sometimes what it has asked for before, or something else under that identity.
    fn wish(&mut self) -> Wish {
        let new = self.wishes.len() < WISHES_MAX && self.random.chance(85);
        if new || self.wishes.is_empty() {
            let wish = self.new_wish();
            self.wishes.push(wish.clone());
            return wish;
        }
        let mut wish = self.random.pick(&self.wishes).clone();
        if self.random.chance(20) {
            wish.request.lines[0].quantity += 1;
        }
        wish
    }

    fn new_wish(&mut self) -> Wish {
        let slow = self.number < SLOW_CLIENTS
            && self.number == (self.wishes.len() / SLOW_APART) as u64
            && self.wishes.len().is_multiple_of(SLOW_APART);
        let random = &mut self.random;
        let mut skus: BTreeSet<&str> = (0..random.within(1..4)).map(|_| *random.pick(&PLENTY)).collect();
        if random.chance(5) {
            skus.insert(SCARCE);
        }
        let lines = skus
            .into_iter()
            .map(|sku| Pieces { sku: sku.to_owned(), quantity: random.within(1..5) })
            .collect();
        let user_id = format!("client-{}-{}", self.number, self.wishes.len() / ORDERS_PER_USER);
        let payment_token = match random.within(0..100) {
            _ if slow => "tok_slow",
            0..10 => "tok_declined_x",
            10..20 => "tok_uncertain_x",
            _ => "tok_ok",
        };
        Wish { request: Request { id: random.uuid(), user_id, lines }, payment_token }
    }

    fn place(&self, address: &str, wish: &Wish) -> Outcome {
        let Request { id, user_id, lines } = &wish.request;
        let lines: Vec<Json> =
            lines.iter().map(|line| json!({"sku": line.sku, "quantity": line.quantity})).collect();
        let body = json!({"id": id, "user_id": user_id, "lines": lines, "payment_token": wish.payment_token});
        match self.post(&format!("{address}/api/orders"), &body) {
            Ok((status, body)) => outcome(status, body),
            Err(_) => Outcome::Lost,
        }
    }

    /// Sends something. Gives the status and the body of the answer.
    fn post(&self, url: &str, body: &Json) -> Result<(u16, String), ureq::Error> {
        let sent = self.agent.post(url).content_type("application/json").send(body.to_string());
        sent.and_then(|mut response| Ok((response.status().as_u16(), response.body_mut().read_to_string()?)))
    }
}

pub(crate) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(ANSWER_MAX)).build().into()
}

/// What an answer to an order means.
pub(crate) fn outcome(status: u16, body: String) -> Outcome {
    let json: Json = serde_json::from_str(&body).unwrap_or_default();
    match (status, json["case"].as_str()) {
        (201 | 202, _) => Outcome::Placed(order(&json)),
        (402, _) => Outcome::Declined,
        (409, Some("out_of_stock")) => Outcome::OutOfStock,
        (409, Some("conflict")) => Outcome::Conflict,
        (500.., _) => Outcome::Unclear(status),
        _ => Outcome::Other { status, body },
    }
}

fn ids(history: &History) -> BTreeSet<String> {
    history.operations.iter().map(|operation| operation.request.id.clone()).collect()
}

/// Waits until every order is settled, those confirmed are shipped and every event is handled. Gives false when that
/// does not happen in time: what is missing is then found by the checker.
fn settle(application: &Application, shop: &Process, ids: &BTreeSet<String>) -> bool {
    let mut open: Vec<String> = ids.iter().cloned().collect();
    let began = Instant::now();
    while began.elapsed() < SETTLED_WITHIN {
        open = read_in_parts(&open, |part| {
            let agent = agent();
            part.iter().filter(|id| !is_settled(&agent, &shop.address, id)).cloned().collect()
        });
        if open.is_empty() && list(application, "events").is_ok_and(|listed| listed.is_empty()) {
            return true;
        }
    }
    false
}

/// Reads about these orders with several readers at once.
fn read_in_parts<T: Send>(ids: &[String], read: impl Fn(&[String]) -> Vec<T> + Sync) -> Vec<T> {
    let part = ids.len().div_ceil(READERS).max(1);
    std::thread::scope(|scope| {
        let read = &read;
        let readers: Vec<_> = ids.chunks(part).map(|part| scope.spawn(move || read(part))).collect();
        readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect()
    })
}

/// Whether it is known that an order is at its end and, if it is confirmed, shipped.
fn is_settled(agent: &ureq::Agent, address: &str, id: &str) -> bool {
    let url = format!("{address}/api/orders/{id}");
    match try_get(agent, &url).map(|found| found.map(|json| order(&json).status)) {
        Err(_) | Ok(Some(Status::Pending)) => false,
        Ok(None | Some(Status::Rejected)) => true,
        Ok(Some(Status::Confirmed)) => try_get(agent, &format!("{url}/shipment")).is_ok_and(|s| s.is_some()),
    }
}

/// Reads everything that the shop says about the orders of a history, and what the host has left to do.
fn read_back(application: &Application, shop: &Process, history: &History) -> World {
    let ids: Vec<String> = ids(history).into_iter().collect();
    let mut world = World::default();
    for read in read_in_parts(&ids, |part| vec![read_orders(&shop.address, part)]) {
        world.orders.extend(read.orders);
        world.charges.extend(read.charges);
        world.shipments.extend(read.shipments);
    }
    let agent = agent();
    for user in users(history) {
        let of_user = |what: &str| get(&agent, &format!("{}/api/users/{user}/{what}", shop.address)).unwrap();
        let orders = of_user("orders");
        let orders = orders.as_array().unwrap().iter().map(order);
        world.orders.extend(orders.filter(|order| ids.binary_search(&order.id).is_err()));
        world.notifications.extend(of_user("notifications").as_array().unwrap().iter().map(notification));
    }
    for sku in history.stock.keys() {
        world.stock.extend(get(&agent, &format!("{}/api/stock/{sku}", shop.address)).as_ref().map(stock));
    }
    world.events = list(application, "events").unwrap();
    world.dead_letters = list(application, "dead-letters").unwrap();
    world
}

/// Reads what the shop says about these orders.
fn read_orders(address: &str, ids: &[String]) -> World {
    let agent = agent();
    let mut world = World::default();
    for id in ids {
        let of_order = |what: &str| get(&agent, &format!("{address}/api/orders/{id}{what}"));
        world.orders.extend(of_order("").as_ref().map(order));
        let payments = of_order("/payments").unwrap();
        world.charges.extend(payments.as_array().unwrap().iter().map(charge));
        world.shipments.extend(of_order("/shipment").as_ref().map(shipment));
    }
    world
}

/// Reads from a shop that nobody kills. None if it says 404.
fn get(agent: &ureq::Agent, url: &str) -> Option<Json> {
    try_get(agent, url).unwrap_or_else(|problem| panic!("{problem}"))
}

fn try_get(agent: &ureq::Agent, url: &str) -> Result<Option<Json>, String> {
    let answer = agent
        .get(url)
        .call()
        .and_then(|mut response| Ok((response.status().as_u16(), response.body_mut().read_to_string()?)));
    match answer {
        Ok((404, _)) => Ok(None),
        Ok((200, body)) => Ok(Some(serde_json::from_str(&body).unwrap())),
        Ok((status, body)) => Err(format!("GET {url}: {status} {body}")),
        Err(e) => Err(format!("GET {url}: {e}")),
    }
}

/// What a verb of the command line lists, or why it cannot.
pub(crate) fn list(application: &Application, verb: &str) -> Result<Vec<String>, String> {
    let output = application.run(verb, &["ls", "--json"]);
    if !output.status.success() {
        return Err(format!("{verb} ls: {}", cleave_tests::stderr(&output)));
    }
    let listed: Json = serde_json::from_slice(&output.stdout).unwrap();
    Ok(listed.as_array().unwrap().iter().map(Json::to_string).collect())
}

pub(crate) fn order(json: &Json) -> Order {
    Order {
        id: text(&json["id"]),
        user_id: text(&json["user_id"]),
        status: match json["status"].as_str() {
            Some("pending") => Status::Pending,
            Some("confirmed") => Status::Confirmed,
            Some("rejected") => Status::Rejected,
            _ => panic!("no status of an order: {json}"),
        },
        total_cents: number(&json["total_cents"]),
        lines: lines(json, |line| Line {
            sku: text(&line["sku"]),
            quantity: number(&line["quantity"]),
            unit_price_cents: number(&line["unit_price_cents"]),
        }),
    }
}

pub(crate) fn charge(json: &Json) -> Charge {
    Charge {
        order_id: text(&json["order_id"]),
        amount_cents: number(&json["amount_cents"]),
        charged: match json["status"].as_str() {
            Some("charged") => true,
            Some("declined" | "voided") => false,
            _ => panic!("no status of a payment: {json}"),
        },
    }
}

pub(crate) fn shipment(json: &Json) -> Shipment {
    Shipment {
        order_id: text(&json["order_id"]),
        user_id: text(&json["user_id"]),
        lines: lines(json, |line| Pieces { sku: text(&line["sku"]), quantity: number(&line["quantity"]) }),
    }
}

pub(crate) fn notification(json: &Json) -> Notification {
    Notification {
        order_id: text(&json["order_id"]),
        user_id: text(&json["user_id"]),
        kind: match json["kind"].as_str() {
            Some("order_placed") => Kind::OrderPlaced,
            Some("shipment_created") => Kind::ShipmentCreated,
            _ => panic!("no kind of a notification: {json}"),
        },
    }
}

pub(crate) fn stock(json: &Json) -> Stock {
    Stock {
        sku: text(&json["sku"]),
        available: number(&json["available"]),
        reserved: number(&json["reserved"]),
        sold: number(&json["sold"]),
    }
}

fn lines<T>(json: &Json, line: impl Fn(&Json) -> T) -> Vec<T> {
    json["lines"].as_array().unwrap_or_else(|| panic!("no lines: {json}")).iter().map(line).collect()
}

fn text(json: &Json) -> String {
    json.as_str().unwrap_or_else(|| panic!("no text: {json}")).to_owned()
}

fn number(json: &Json) -> u64 {
    json.as_u64().unwrap_or_else(|| panic!("no number: {json}"))
}

/// What clients were answered and what became of their orders.
fn figures(history: &History, world: &World) -> String {
    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    for operation in &history.operations {
        let answer = match &operation.outcome {
            Outcome::Placed(order) => format!("201 {:?}", order.status),
            Outcome::Other { status, .. } => status.to_string(),
            outcome => format!("{outcome:?}"),
        };
        *answers.entry(answer).or_default() += 1;
    }
    let with = |status| world.orders.iter().filter(|order| order.status == status).count();
    format!(
        "{} requests for {} orders, answered {answers:?}; {} confirmed, {} rejected, {} pending, {} notifications",
        history.operations.len(),
        ids(history).len(),
        with(Status::Confirmed),
        with(Status::Rejected),
        with(Status::Pending),
        world.notifications.len()
    )
}
