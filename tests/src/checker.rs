//! What a run of the shop must have left behind: the history of what clients sent and were answered, the world as it was
//! read back at the end, and each way in which the two do not fit.
//!
//! Plain data in, a list out. It knows neither HTTP nor processes, so that planted faults can prove that it sees them.
//! An answer that was lost or unclear promises nothing: the order may stand or not, but what stands must be whole.
//! Every other answer is a promise.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What went in: the stock before the first client, and what every client did.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The pieces put into stock, by SKU.
    pub stock: BTreeMap<String, u64>,
    /// In no particular order.
    pub operations: Vec<Operation>,
}

/// One request and what became of it.
#[derive(Debug, Clone)]
pub struct Operation {
    pub request: Request,
    pub outcome: Outcome,
}

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Chosen by the client.
    pub id: String,
    pub user_id: String,
    pub lines: Vec<Pieces>,
}

/// Some pieces of one product.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pieces {
    pub sku: String,
    pub quantity: u64,
}

/// What a client learnt.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Nothing: the connection broke first.
    Lost,
    /// Nothing: the answer was this status, 5xx.
    Unclear(u16),
    /// 201: this order stands.
    Placed(Order),
    /// 402: the payment was declined.
    Declined,
    /// 409: the stock does not hold that much.
    OutOfStock,
    /// 409: another order has this identity.
    Conflict,
    /// An answer that no request of the run deserves.
    Other { status: u16, body: String },
}

/// What was read back.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub orders: Vec<Order>,
    pub charges: Vec<Charge>,
    pub shipments: Vec<Shipment>,
    pub notifications: Vec<Notification>,
    pub stock: Vec<Stock>,
    /// What was still pending when every order had to be settled.
    pub late: Vec<String>,
    /// Events that nobody has handled, as the host lists them.
    pub events: Vec<String>,
    /// Events that were given up, as the host lists them.
    pub dead_letters: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub id: String,
    pub user_id: String,
    pub status: Status,
    pub total_cents: u64,
    pub lines: Vec<Line>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Pending,
    Confirmed,
    Rejected,
}

/// Some pieces of one product at their price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub sku: String,
    pub quantity: u64,
    pub unit_price_cents: u64,
}

#[derive(Debug, Clone)]
pub struct Charge {
    pub order_id: String,
    pub amount_cents: u64,
    /// Whether money was taken; if not, it was declined or voided.
    pub charged: bool,
}

#[derive(Debug, Clone)]
pub struct Shipment {
    pub order_id: String,
    pub user_id: String,
    pub lines: Vec<Pieces>,
}

#[derive(Debug, Clone)]
pub struct Notification {
    pub order_id: String,
    pub user_id: String,
    pub kind: Kind,
}

/// What a notification is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    OrderPlaced,
    ShipmentCreated,
}

#[derive(Debug, Clone)]
pub struct Stock {
    pub sku: String,
    pub available: u64,
    pub reserved: u64,
    pub sold: u64,
}

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Every request deserves its answer.
    AnswerFits,
    /// One identity is one order, whoever asks how often.
    OneOrderPerId,
    /// What was answered stands: the order exists.
    NotLost,
    /// What was answered stands: user, lines, prices and total are the same.
    NotAltered,
    /// What was answered stands: confirmed stays confirmed, rejected stays rejected.
    NotTurned,
    /// An order exists once.
    ExistsOnce,
    /// An order is what one of the requests with its identity asked for.
    WasSent,
    /// A total is the sum of the lines.
    TotalFits,
    /// Every order is confirmed or rejected in the end.
    Settled,
    /// It is so in the time that an order may take.
    SettledInTime,
    /// A confirmed order is paid.
    Charged,
    /// Money is taken at most once.
    ChargedOnce,
    /// Money is taken in the amount of the total.
    ChargedTotal,
    /// Money is taken for no rejected order and for none that does not stand.
    ChargedForNothing,
    /// A confirmed order is shipped.
    Shipped,
    /// An order is shipped at most once.
    ShippedOnce,
    /// What is shipped is what was ordered, to who ordered it.
    ShippedAsOrdered,
    /// Only confirmed orders are shipped.
    ShippedForNothing,
    /// A user is told that an order is confirmed and that it is shipped.
    Told,
    /// A user is told each at most once.
    ToldOnce,
    /// Who ordered is told, and nobody else.
    ToldWhoOrdered,
    /// Users are told of confirmed orders only.
    ToldForNothing,
    /// Stock that was put in is there.
    StockKnown,
    /// Available, reserved and sold pieces are those put in.
    StockAddsUp,
    /// Nothing is reserved in the end.
    NothingReserved,
    /// Sold are the pieces of confirmed orders.
    SoldIsOrdered,
    /// Every event was handled.
    NoEventLeft,
    /// No event was given up.
    NoDeadLetter,
}

/// A rule that did not hold, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    /// An order's identity, an SKU or an event.
    pub subject: String,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.rule, self.subject, self.detail)
    }
}

/// Every way in which the world does not fit the history.
pub fn check(history: &History, world: &World) -> Vec<Violation> {
    let mut violations = Violations::default();
    for case in cases(history, world).values() {
        check_answers(case, &mut violations);
        check_order(case, &mut violations);
        check_money(case, &mut violations);
        check_goods(case, &mut violations);
        check_told(case, &mut violations);
    }
    check_stock(history, world, &mut violations);
    for late in &world.late {
        violations.add(Rule::SettledInTime, late, "pending when its time was over".to_owned());
    }
    for event in &world.events {
        violations.add(Rule::NoEventLeft, event, "nobody has handled it".to_owned());
    }
    for letter in &world.dead_letters {
        violations.add(Rule::NoDeadLetter, letter, "it was given up".to_owned());
    }
    violations.0
}

#[derive(Default)]
struct Violations(Vec<Violation>);

impl Violations {
    fn add(&mut self, rule: Rule, subject: &str, detail: String) {
        self.0.push(Violation { rule, subject: subject.to_owned(), detail });
    }
}

/// All that history and world say about one identity.
#[derive(Default)]
struct Case<'a> {
    id: &'a str,
    operations: Vec<&'a Operation>,
    orders: Vec<&'a Order>,
    charges: Vec<&'a Charge>,
    shipments: Vec<&'a Shipment>,
    notifications: Vec<&'a Notification>,
}

impl<'a> Case<'a> {
    /// The order that stands.
    fn order(&self) -> Option<&'a Order> {
        self.orders.first().copied()
    }

    /// How the order stands, in words.
    fn standing(&self) -> String {
        self.order().map_or("no order stands".to_owned(), |order| format!("the order is {:?}", order.status))
    }
}

fn cases<'a>(history: &'a History, world: &'a World) -> BTreeMap<&'a str, Case<'a>> {
    let mut cases: BTreeMap<&str, Case> = BTreeMap::new();
    fn case<'a, 'b>(cases: &'b mut BTreeMap<&'a str, Case<'a>>, id: &'a str) -> &'b mut Case<'a> {
        cases.entry(id).or_insert_with(|| Case { id, ..Case::default() })
    }
    for operation in &history.operations {
        case(&mut cases, &operation.request.id).operations.push(operation);
    }
    for order in &world.orders {
        case(&mut cases, &order.id).orders.push(order);
    }
    for charge in &world.charges {
        case(&mut cases, &charge.order_id).charges.push(charge);
    }
    for shipment in &world.shipments {
        case(&mut cases, &shipment.order_id).shipments.push(shipment);
    }
    for notification in &world.notifications {
        case(&mut cases, &notification.order_id).notifications.push(notification);
    }
    cases
}

/// Whether each answer was deserved, and still holds.
fn check_answers(case: &Case, violations: &mut Violations) {
    let mut first: Option<&Order> = None;
    for operation in &case.operations {
        let request = &operation.request;
        match &operation.outcome {
            Outcome::Lost | Outcome::Unclear(_) => {}
            Outcome::Placed(order) => {
                if !fulfils(order, request) {
                    let detail = format!("asked for {request:?}, answered 201 with {order:?}");
                    violations.add(Rule::AnswerFits, case.id, detail);
                }
                let earlier = *first.get_or_insert(order);
                if !agree(earlier, order) {
                    let detail = format!("answered 201 with {earlier:?} and with {order:?}");
                    violations.add(Rule::OneOrderPerId, case.id, detail);
                }
                check_placed(case, order, violations);
            }
            Outcome::Declined => check_rejected(case, "402", violations),
            Outcome::OutOfStock => check_rejected(case, "409, out of stock", violations),
            Outcome::Conflict => {
                if case.order().is_none_or(|order| fulfils(order, request)) {
                    let detail = format!("answered 409, conflict, to {request:?}, but {}", case.standing());
                    violations.add(Rule::AnswerFits, case.id, detail);
                }
            }
            Outcome::Other { status, body } => {
                let detail = format!("answered {status} to {request:?}: {body}");
                violations.add(Rule::AnswerFits, case.id, detail);
            }
        }
    }
}

/// Whether an order that was acknowledged still stands as it was.
fn check_placed(case: &Case, acknowledged: &Order, violations: &mut Violations) {
    match case.order() {
        None => violations.add(Rule::NotLost, case.id, format!("answered 201 with {acknowledged:?}")),
        Some(order) if !same(order, acknowledged) => {
            let detail = format!("answered 201 with {acknowledged:?}, now it is {order:?}");
            violations.add(Rule::NotAltered, case.id, detail);
        }
        Some(order) if !agree(order, acknowledged) => {
            let detail = format!("answered 201, {:?}; now {}", acknowledged.status, case.standing());
            violations.add(Rule::NotTurned, case.id, detail);
        }
        Some(_) => {}
    }
}

fn check_rejected(case: &Case, answer: &str, violations: &mut Violations) {
    match case.order() {
        None => violations.add(Rule::NotLost, case.id, format!("answered {answer}, but no order stands")),
        Some(order) if order.status == Status::Confirmed => {
            violations.add(Rule::NotTurned, case.id, format!("answered {answer}, but {}", case.standing()));
        }
        Some(_) => {}
    }
}

/// Whether what stands is an order that somebody sent, whole, once and settled.
fn check_order(case: &Case, violations: &mut Violations) {
    let Some(order) = case.order() else { return };
    if case.orders.len() > 1 {
        violations.add(Rule::ExistsOnce, case.id, format!("there are {}", case.orders.len()));
    }
    if !case.operations.iter().any(|operation| fulfils(order, &operation.request)) {
        violations.add(Rule::WasSent, case.id, format!("nobody asked for {order:?}"));
    }
    let sum: u64 = order.lines.iter().map(|line| line.quantity * line.unit_price_cents).sum();
    if order.total_cents != sum {
        violations.add(Rule::TotalFits, case.id, format!("the lines make {sum}: {order:?}"));
    }
    if order.status == Status::Pending {
        violations.add(Rule::Settled, case.id, format!("still pending; answers: {}", answers(case)));
    }
}

/// Whether money was taken once for what is confirmed, and for nothing else.
fn check_money(case: &Case, violations: &mut Violations) {
    let charged: Vec<&&Charge> = case.charges.iter().filter(|charge| charge.charged).collect();
    if charged.len() > 1 {
        violations.add(Rule::ChargedOnce, case.id, format!("charged {} times", charged.len()));
    }
    match case.order() {
        Some(order) if order.status == Status::Confirmed => {
            if charged.is_empty() {
                violations.add(Rule::Charged, case.id, "confirmed, but not charged".to_owned());
            }
            for charge in charged.iter().filter(|charge| charge.amount_cents != order.total_cents) {
                let detail = format!("charged {} of {}", charge.amount_cents, order.total_cents);
                violations.add(Rule::ChargedTotal, case.id, detail);
            }
        }
        // Why: a pending order may be paid already. That it is pending is a violation of its own.
        Some(order) if order.status == Status::Pending => {}
        order => {
            // Why: a charge that was declined is the trace of a rejected order, but of no missing one.
            let wrong = if order.is_none() { case.charges.len() } else { charged.len() };
            if wrong > 0 {
                violations.add(Rule::ChargedForNothing, case.id, case.standing());
            }
        }
    }
}

/// Whether what is confirmed was shipped once, and nothing else.
fn check_goods(case: &Case, violations: &mut Violations) {
    if case.shipments.len() > 1 {
        violations.add(Rule::ShippedOnce, case.id, format!("shipped {} times", case.shipments.len()));
    }
    match case.order() {
        Some(order) if order.status == Status::Confirmed => {
            if case.shipments.is_empty() {
                violations.add(Rule::Shipped, case.id, "confirmed, but not shipped".to_owned());
            }
            let ordered = sorted(pieces(order));
            for shipment in &case.shipments {
                if shipment.user_id != order.user_id || sorted(shipment.lines.clone()) != ordered {
                    let detail = format!("ordered {order:?}, shipped {shipment:?}");
                    violations.add(Rule::ShippedAsOrdered, case.id, detail);
                }
            }
        }
        _ if !case.shipments.is_empty() => {
            violations.add(Rule::ShippedForNothing, case.id, case.standing());
        }
        _ => {}
    }
}

/// Whether who ordered what is confirmed was told everything once, and nobody anything else.
fn check_told(case: &Case, violations: &mut Violations) {
    let Some(order) = case.order().filter(|order| order.status == Status::Confirmed) else {
        if !case.notifications.is_empty() {
            violations.add(Rule::ToldForNothing, case.id, case.standing());
        }
        return;
    };
    for kind in [Kind::OrderPlaced, Kind::ShipmentCreated] {
        match case.notifications.iter().filter(|told| told.kind == kind).count() {
            0 => violations.add(Rule::Told, case.id, format!("confirmed, but nobody is told {kind:?}")),
            1 => {}
            times => violations.add(Rule::ToldOnce, case.id, format!("told {kind:?} {times} times")),
        }
    }
    for told in case.notifications.iter().filter(|told| told.user_id != order.user_id) {
        let detail = format!("{} ordered, {} is told {:?}", order.user_id, told.user_id, told.kind);
        violations.add(Rule::ToldWhoOrdered, case.id, detail);
    }
}

fn check_stock(history: &History, world: &World, violations: &mut Violations) {
    let known: BTreeSet<&str> = world.stock.iter().map(|stock| stock.sku.as_str()).collect();
    for sku in history.stock.keys().filter(|sku| !known.contains(sku.as_str())) {
        violations.add(Rule::StockKnown, sku, "it was put in, but is not there".to_owned());
    }
    let mut ordered: BTreeMap<&str, u64> = BTreeMap::new();
    let confirmed = world.orders.iter().filter(|order| order.status == Status::Confirmed);
    for line in confirmed.flat_map(|order| &order.lines) {
        *ordered.entry(&line.sku).or_default() += line.quantity;
    }
    for stock in &world.stock {
        let Stock { sku, available, reserved, sold } = stock;
        let put = history.stock.get(sku).copied().unwrap_or_default();
        if available + reserved + sold != put {
            violations.add(Rule::StockAddsUp, sku, format!("{put} were put in: {stock:?}"));
        }
        if *reserved > 0 {
            violations.add(Rule::NothingReserved, sku, format!("{reserved} are"));
        }
        let ordered = ordered.get(sku.as_str()).copied().unwrap_or_default();
        if *sold != ordered {
            let detail = format!("{sold} are sold, confirmed orders hold {ordered}");
            violations.add(Rule::SoldIsOrdered, sku, detail);
        }
    }
}

/// Whether an order is what a request asks for.
fn fulfils(order: &Order, request: &Request) -> bool {
    order.id == request.id && order.user_id == request.user_id && pieces(order) == request.lines
}

/// Whether two accounts of an order tell the same, apart from where it stands.
fn same(one: &Order, other: &Order) -> bool {
    Order { status: other.status, ..one.clone() } == *other
}

/// Whether two accounts of an order can both be true: what is settled stays settled.
fn agree(one: &Order, other: &Order) -> bool {
    let settled = |order: &Order| order.status != Status::Pending;
    same(one, other) && (one.status == other.status || !(settled(one) && settled(other)))
}

fn pieces(order: &Order) -> Vec<Pieces> {
    order.lines.iter().map(|line| Pieces { sku: line.sku.clone(), quantity: line.quantity }).collect()
}

fn sorted(mut lines: Vec<Pieces>) -> Vec<Pieces> {
    lines.sort();
    lines
}

/// What clients were answered about an identity, in short.
fn answers(case: &Case) -> String {
    let short = |operation: &&Operation| match &operation.outcome {
        Outcome::Placed(order) => format!("201 {:?}", order.status),
        outcome => format!("{outcome:?}"),
    };
    case.operations.iter().map(short).collect::<Vec<_>>().join(", ")
}

/// Seeded choices (splitmix64): the same seed makes the same choices on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A sequence of choices of its own, for one of many who choose at once.
    pub fn fork(&mut self) -> Self {
        Self(self.bits())
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from a range that is not empty.
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.bits() % (range.end - range.start)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.within(0..100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let index = self.within(0..from.len() as u64);
        &from[usize::try_from(index).unwrap()]
    }

    /// A UUID of the random kind.
    pub fn uuid(&mut self) -> String {
        let (high, low) = (self.bits(), self.bits());
        format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            high >> 32,
            high >> 16 & 0xFFFF,
            high & 0xFFF,
            low >> 48 & 0xFFF,
            low & 0xFFFF_FFFF_FFFF
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of the shop.
    #[derive(Debug, Clone, Default)]
    struct Run {
        history: History,
        world: World,
    }

    /// What becomes of an order.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fate {
        Confirmed,
        Declined,
        OutOfStock,
        NeverStood,
    }

    const SKUS: [&str; 3] = ["ink", "mug", "pen"];

    impl Run {
        /// A correct run. It holds at least one order of each fate, and one of each that was answered clearly.
        fn correct(random: &mut Random) -> Self {
            let mut run = Self::default();
            for sku in SKUS {
                run.history.stock.insert(sku.to_owned(), 10_000);
                run.world.stock.push(Stock { sku: sku.to_owned(), available: 10_000, reserved: 0, sold: 0 });
            }
            let fates = [Fate::Confirmed, Fate::Declined, Fate::OutOfStock, Fate::NeverStood];
            for fate in fates {
                run.order(fate, true, random);
            }
            for _ in 0..random.within(0..30) {
                run.order(*random.pick(&fates), false, random);
            }
            run
        }

        /// An order, what clients learnt about it, and what it left behind. The first answer may be made clear.
        fn order(&mut self, fate: Fate, clear: bool, random: &mut Random) {
            let mut order = order(random);
            let asked = request(&order);
            order.status = if fate == Fate::Confirmed { Status::Confirmed } else { Status::Rejected };
            for n in 0..random.within(1..4) {
                let clear = (n == 0 && clear) || random.chance(50);
                let outcome = match fate {
                    _ if !clear && random.chance(50) => Outcome::Lost,
                    _ if !clear => Outcome::Unclear(503),
                    Fate::Confirmed => Outcome::Placed(order.clone()),
                    Fate::Declined => Outcome::Declined,
                    Fate::OutOfStock => Outcome::OutOfStock,
                    Fate::NeverStood => Outcome::Lost,
                };
                self.history.operations.push(Operation { request: asked.clone(), outcome });
            }
            if fate == Fate::NeverStood {
                return;
            }
            if random.chance(20) {
                let outcome = Outcome::Placed(Order { status: Status::Pending, ..order.clone() });
                self.history.operations.push(Operation { request: asked.clone(), outcome });
            }
            if random.chance(20) {
                let mut request = asked;
                request.lines[0].quantity += 1;
                self.history.operations.push(Operation { request, outcome: Outcome::Conflict });
            }
            if fate != Fate::OutOfStock {
                let charged = fate == Fate::Confirmed;
                let (order_id, amount_cents) = (order.id.clone(), order.total_cents);
                self.world.charges.push(Charge { order_id, amount_cents, charged });
            }
            if fate == Fate::Confirmed {
                self.world.shipments.push(shipment(&order));
                self.world.notifications.extend(notifications(&order));
                for line in &order.lines {
                    let stock = self.world.stock.iter_mut().find(|stock| stock.sku == line.sku).unwrap();
                    stock.available -= line.quantity;
                    stock.sold += line.quantity;
                }
            }
            self.world.orders.push(order);
        }

        fn rules(&self) -> BTreeSet<Rule> {
            check(&self.history, &self.world).iter().map(|violation| violation.rule).collect()
        }

        /// The order that stands and was acknowledged as confirmed.
        fn confirmed(&mut self, random: &mut Random) -> &mut Order {
            let acknowledged: BTreeSet<String> = self.operations(
                |outcome| matches!(outcome, Outcome::Placed(order) if order.status == Status::Confirmed),
            );
            let mut orders: Vec<&mut Order> =
                self.world.orders.iter_mut().filter(|order| acknowledged.contains(&order.id)).collect();
            let index = random.within(0..orders.len() as u64);
            orders.remove(usize::try_from(index).unwrap())
        }

        /// The rejected order of which a client knows.
        fn declined(&mut self) -> &mut Order {
            let declined = self.operations(|outcome| matches!(outcome, Outcome::Declined));
            self.world.orders.iter_mut().find(|order| declined.contains(&order.id)).unwrap()
        }

        fn operations(&self, of: impl Fn(&Outcome) -> bool) -> BTreeSet<String> {
            let operations = self.history.operations.iter().filter(|operation| of(&operation.outcome));
            operations.map(|operation| operation.request.id.clone()).collect()
        }

        fn charge(&mut self, of: &str) -> &mut Charge {
            self.world.charges.iter_mut().find(|charge| charge.order_id == of).unwrap()
        }

        fn shipment(&mut self, of: &str) -> &mut Shipment {
            self.world.shipments.iter_mut().find(|shipment| shipment.order_id == of).unwrap()
        }

        /// One of the two notifications.
        fn notification(&mut self, of: &str, random: &mut Random) -> &mut Notification {
            let kind = *random.pick(&[Kind::OrderPlaced, Kind::ShipmentCreated]);
            let mut told = self.world.notifications.iter_mut();
            told.find(|told| told.order_id == of && told.kind == kind).unwrap()
        }

        fn forget(&mut self, of: &str, kind: Kind) {
            self.world.notifications.retain(|told| told.order_id != of || told.kind != kind);
        }
    }

    /// An order of one or two products.
    fn order(random: &mut Random) -> Order {
        let mut skus = SKUS.to_vec();
        skus.rotate_left(usize::try_from(random.within(0..3)).unwrap());
        skus.truncate(usize::try_from(random.within(1..3)).unwrap());
        let lines: Vec<Line> = skus
            .into_iter()
            .map(|sku| Line {
                sku: sku.to_owned(),
                quantity: random.within(1..10),
                unit_price_cents: random.within(1..5_000),
            })
            .collect();
        let total_cents = lines.iter().map(|line| line.quantity * line.unit_price_cents).sum();
        Order { id: random.uuid(), user_id: "ada".to_owned(), status: Status::Pending, total_cents, lines }
    }

    fn request(order: &Order) -> Request {
        Request { id: order.id.clone(), user_id: order.user_id.clone(), lines: pieces(order) }
    }

    fn shipment(order: &Order) -> Shipment {
        Shipment { order_id: order.id.clone(), user_id: order.user_id.clone(), lines: pieces(order) }
    }

    fn notifications(order: &Order) -> [Notification; 2] {
        [Kind::OrderPlaced, Kind::ShipmentCreated].map(|kind| Notification {
            order_id: order.id.clone(),
            user_id: order.user_id.clone(),
            kind,
        })
    }

    /// Damages a run.
    type Fault = fn(&mut Run, &mut Random);

    /// One fault for each way in which a crash could show, and the rule that must see it.
    const FAULTS: [(&str, Rule, Fault); 39] = [
        ("acknowledged order lost", Rule::NotLost, |run, random| {
            let id = run.confirmed(random).id.clone();
            run.world.orders.retain(|order| order.id != id);
        }),
        ("declined order lost", Rule::NotLost, |run, _| {
            let id = run.declined().id.clone();
            run.world.orders.retain(|order| order.id != id);
        }),
        ("quantity changed", Rule::NotAltered, |run, random| {
            run.confirmed(random).lines[0].quantity += 1;
        }),
        ("line gone", Rule::NotAltered, |run, random| {
            run.confirmed(random).lines.pop();
        }),
        ("line twice", Rule::NotAltered, |run, random| {
            let order = run.confirmed(random);
            order.lines.push(order.lines[0].clone());
        }),
        ("price changed", Rule::NotAltered, |run, random| {
            let order = run.confirmed(random);
            order.lines[0].unit_price_cents += 1;
            order.total_cents += order.lines[0].quantity;
        }),
        ("user changed", Rule::NotAltered, |run, random| {
            run.confirmed(random).user_id = "bob".to_owned();
        }),
        ("total wrong", Rule::NotAltered, |run, random| run.confirmed(random).total_cents += 1),
        ("total wrong from the start", Rule::TotalFits, |run, random| {
            let order = run.confirmed(random);
            order.total_cents += 1;
            let wrong = order.clone();
            for operation in &mut run.history.operations {
                if let Outcome::Placed(order) = &mut operation.outcome
                    && order.id == wrong.id
                {
                    *order = wrong.clone();
                }
            }
            run.charge(&wrong.id).amount_cents += 1;
        }),
        ("confirmed order rejected", Rule::NotTurned, |run, random| {
            let order = run.confirmed(random);
            order.status = Status::Rejected;
        }),
        ("declined order confirmed", Rule::NotTurned, |run, _| {
            run.declined().status = Status::Confirmed;
        }),
        ("order twice", Rule::ExistsOnce, |run, random| {
            let order = run.confirmed(random).clone();
            run.world.orders.push(order);
        }),
        ("order that nobody sent", Rule::WasSent, |run, random| {
            let order = Order { status: Status::Rejected, ..order(random) };
            run.world.orders.push(order);
        }),
        ("pending for ever", Rule::Settled, |run, _| run.declined().status = Status::Pending),
        ("settled late", Rule::SettledInTime, |run, random| {
            let id = run.confirmed(random).id.clone();
            run.world.late.push(id);
        }),
        ("charge missing", Rule::Charged, |run, random| {
            let id = run.confirmed(random).id.clone();
            run.world.charges.retain(|charge| charge.order_id != id);
        }),
        ("charged twice", Rule::ChargedOnce, |run, random| {
            let id = run.confirmed(random).id.clone();
            let charge = run.charge(&id).clone();
            run.world.charges.push(charge);
        }),
        ("charged wrong amount", Rule::ChargedTotal, |run, random| {
            let id = run.confirmed(random).id.clone();
            run.charge(&id).amount_cents += 1;
        }),
        ("rejected but charged", Rule::ChargedForNothing, |run, _| {
            let id = run.declined().id.clone();
            run.charge(&id).charged = true;
        }),
        ("charged without an order", Rule::ChargedForNothing, |run, random| {
            run.world.charges.push(Charge { order_id: random.uuid(), amount_cents: 1, charged: true });
        }),
        ("shipment missing", Rule::Shipped, |run, random| {
            let id = run.confirmed(random).id.clone();
            run.world.shipments.retain(|shipment| shipment.order_id != id);
        }),
        ("shipped twice", Rule::ShippedOnce, |run, random| {
            let id = run.confirmed(random).id.clone();
            let shipment = run.shipment(&id).clone();
            run.world.shipments.push(shipment);
        }),
        ("shipped to another", Rule::ShippedAsOrdered, |run, random| {
            let id = run.confirmed(random).id.clone();
            run.shipment(&id).user_id = "bob".to_owned();
        }),
        ("other lines shipped", Rule::ShippedAsOrdered, |run, random| {
            let id = run.confirmed(random).id.clone();
            run.shipment(&id).lines[0].quantity += 1;
        }),
        ("rejected but shipped", Rule::ShippedForNothing, |run, _| {
            let order = run.declined();
            let shipment = shipment(order);
            run.world.shipments.push(shipment);
        }),
        ("placed order not told", Rule::Told, |run, random| {
            let id = run.confirmed(random).id.clone();
            run.forget(&id, Kind::OrderPlaced);
        }),
        ("shipment not told", Rule::Told, |run, random| {
            let id = run.confirmed(random).id.clone();
            run.forget(&id, Kind::ShipmentCreated);
        }),
        ("told twice", Rule::ToldOnce, |run, random| {
            let id = run.confirmed(random).id.clone();
            let notification = run.notification(&id, random).clone();
            run.world.notifications.push(notification);
        }),
        ("one kind told twice, the other not", Rule::ToldOnce, |run, random| {
            let id = run.confirmed(random).id.clone();
            let other = run.notification(&id, random).kind;
            for notification in run.world.notifications.iter_mut().filter(|told| told.order_id == id) {
                notification.kind = other;
            }
        }),
        ("another told", Rule::ToldWhoOrdered, |run, random| {
            let id = run.confirmed(random).id.clone();
            run.notification(&id, random).user_id = "bob".to_owned();
        }),
        ("rejected but told", Rule::ToldForNothing, |run, random| {
            let told = notifications(run.declined());
            run.world.notifications.push(random.pick(&told).clone());
        }),
        ("told of no order", Rule::ToldForNothing, |run, random| {
            let told = notifications(&order(random));
            run.world.notifications.push(random.pick(&told).clone());
        }),
        ("stock of nobody", Rule::StockAddsUp, |run, _| run.world.stock[0].available += 1),
        ("stock gone", Rule::StockKnown, |run, _| {
            run.world.stock.pop();
        }),
        ("reserved for ever", Rule::NothingReserved, |run, _| {
            run.world.stock[0].available -= 1;
            run.world.stock[0].reserved += 1;
        }),
        ("sold too many", Rule::SoldIsOrdered, |run, _| {
            run.world.stock[0].available -= 1;
            run.world.stock[0].sold += 1;
        }),
        ("event left over", Rule::NoEventLeft, |run, _| run.world.events.push("placed".to_owned())),
        ("dead letter left over", Rule::NoDeadLetter, |run, _| {
            run.world.dead_letters.push("placed".to_owned());
        }),
        ("two answers for one identity", Rule::OneOrderPerId, |run, random| {
            let mut order = run.confirmed(random).clone();
            order.lines[0].quantity += 1;
            order.total_cents += order.lines[0].unit_price_cents;
            let request = request(&order);
            run.history.operations.push(Operation { request, outcome: Outcome::Placed(order) });
        }),
    ];

    /// Says what the checker thinks of a run and of what a fault makes of it.
    fn plant(seed: u64, (name, rule, fault): (&str, Rule, Fault)) {
        let mut random = Random::new(seed);
        let mut run = Run::correct(&mut random);
        assert_eq!(check(&run.history, &run.world), [], "seed {seed}");
        fault(&mut run, &mut random);
        assert!(run.rules().contains(&rule), "seed {seed}: {name}: {:?}", run.rules());
    }

    #[test]
    fn every_fault_is_seen() {
        for fault in FAULTS {
            plant(1, fault);
        }
    }

    #[test]
    fn one_fault_is_seen_in_any_run() {
        for seed in 0..2_000 {
            plant(seed, *Random::new(seed).pick(&FAULTS));
        }
    }

    #[test]
    fn empty_run_is_correct() {
        assert_eq!(check(&History::default(), &World::default()), []);
    }

    #[test]
    fn answers_must_be_deserved() {
        let mut random = Random::new(7);
        let correct = Run::correct(&mut random);
        let order = correct.clone().confirmed(&mut random).clone();
        let other = Order { lines: vec![order.lines[0].clone(); 2], ..order.clone() };
        let undeserved =
            [Outcome::Conflict, Outcome::Placed(other), Outcome::Other { status: 422, body: String::new() }];
        for outcome in undeserved {
            let mut run = correct.clone();
            run.history.operations.push(Operation { request: request(&order), outcome });
            assert!(run.rules().contains(&Rule::AnswerFits), "{:?}", run.history.operations.last());
        }
    }

    #[test]
    fn unclear_answers_promise_nothing_but_a_whole_order() {
        let mut random = Random::new(7);
        let mut run = Run::default();
        let order = Order { status: Status::Rejected, ..order(&mut random) };
        run.history.operations.push(Operation { request: request(&order), outcome: Outcome::Lost });
        assert_eq!(check(&run.history, &run.world), []);
        run.world.orders.push(order);
        assert_eq!(check(&run.history, &run.world), []);
        run.world.orders[0].lines.pop();
        assert!(run.rules().contains(&Rule::WasSent));
    }

    #[test]
    fn violation_names_rule_subject_and_detail() {
        let violation =
            Violation { rule: Rule::NotLost, subject: "o-1".to_owned(), detail: "gone".to_owned() };
        assert_eq!(violation.to_string(), "NotLost: o-1: gone");
    }

    #[test]
    fn same_seed_makes_the_same_choices() {
        // The first numbers of splitmix64 from 0, as its author published them.
        let mut random = Random::new(0);
        assert_eq!([random.bits(), random.bits()], [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]);
        assert_eq!(Random::new(5).uuid(), Random::new(5).uuid());
        assert_eq!(Random::new(5).uuid().len(), 36);
    }
}
