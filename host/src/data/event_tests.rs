//! Outbox, inbox and leases against a small model: two relays and two deliverers take single steps in any order, forget
//! what they were doing at any moment, the process ends between any two steps, and the clock jumps. Whatever happens,
//! each event has one effect at each subscriber, in the order of its key.

use super::both::{Kind as Which, Place, soon};
use super::inbox::{End, Received};
use super::outbox::Event;
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;

const SUBSCRIBERS: [&str; 2] = ["ada", "bob"];
const RIVALS: usize = 2;
const LEASE: Duration = Duration::from_secs(10);
const BACKOFF: i64 = 1_000;
const EFFECTS: [(&str, &str); 2] = [
    ("001_effects.sqlite.sql", "CREATE TABLE effects (id INTEGER PRIMARY KEY, event TEXT NOT NULL)"),
    (
        "001_effects.postgres.sql",
        "CREATE TABLE effects (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event TEXT NOT NULL)",
    ),
];

/// One step. Relays and deliverers are told apart by `who`, subscribers by `to`.
#[derive(Debug, Clone)]
enum Step {
    Publish { key: u8, events: u8, commits: bool },
    RelayReads { who: usize, to: usize, limit: usize },
    RelayStores { who: usize, to: usize, commits: bool },
    RelayRemoves { who: usize, to: usize, commits: bool },
    DelivererReads { who: usize, to: usize },
    DelivererEnds { who: usize, to: usize, how: How },
    Forget { who: usize },
    TakeLease { who: usize },
    ReleaseLease { who: usize },
    Replay { to: usize },
    Jump { ms: i64 },
    Restart,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Done,
    /// The handler has written and marked, and the process ends before the commit.
    LostBeforeCommit,
    Retry,
    Dead,
}

fn step() -> impl Strategy<Value = Step> {
    let (who, to) = (0..RIVALS, 0..SUBSCRIBERS.len());
    let how = prop_oneof![
        6 => Just(How::Done), 1 => Just(How::LostBeforeCommit), 2 => Just(How::Retry), 1 => Just(How::Dead)
    ];
    prop_oneof![
        4 => (0..3u8, 1..4u8, prop::bool::weighted(0.9))
            .prop_map(|(key, events, commits)| Step::Publish { key, events, commits }),
        6 => (who.clone(), to.clone(), 1..4usize)
            .prop_map(|(who, to, limit)| Step::RelayReads { who, to, limit }),
        6 => (who.clone(), to.clone(), prop::bool::weighted(0.9))
            .prop_map(|(who, to, commits)| Step::RelayStores { who, to, commits }),
        6 => (who.clone(), to.clone(), prop::bool::weighted(0.9))
            .prop_map(|(who, to, commits)| Step::RelayRemoves { who, to, commits }),
        6 => (who.clone(), to.clone()).prop_map(|(who, to)| Step::DelivererReads { who, to }),
        8 => (who.clone(), to.clone(), how).prop_map(|(who, to, how)| Step::DelivererEnds { who, to, how }),
        1 => who.clone().prop_map(|who| Step::Forget { who }),
        2 => who.clone().prop_map(|who| Step::TakeLease { who }),
        1 => who.prop_map(|who| Step::ReleaseLease { who }),
        1 => to.prop_map(|to| Step::Replay { to }),
        2 => prop_oneof![Just(-3_600_000), Just(3_600_000), -20_000..20_000i64].prop_map(|ms| Step::Jump { ms }),
        1 => Just(Step::Restart),
    ]
}

/// What the steps must have led to.
#[derive(Default)]
struct Model {
    published: u32,
    /// The events of each key in the order they were published.
    keys: BTreeMap<String, Vec<String>>,
    /// The effects at each subscriber, in order.
    effects: [Vec<String>; SUBSCRIBERS.len()],
    /// The events that were a dead letter once, at each subscriber: they are out of order.
    dead: [BTreeSet<String>; SUBSCRIBERS.len()],
    /// Who holds the lease, until some moment of these, and the fence it was last given.
    lease: Option<(usize, RangeInclusive<i64>)>,
    fence: i64,
}

/// What a relay or a deliverer remembers between its steps.
#[derive(Default)]
struct Memory {
    read: HashMap<usize, Vec<(i64, Event)>>,
    stored: HashMap<usize, Vec<(i64, Event)>>,
    due: HashMap<usize, Received>,
}

struct Rig {
    kind: Which,
    /// Empty while the process is down.
    place: Option<Place>,
    /// The process's clock, by which SQLite goes.
    clock: Clock,
    /// By how much the server's clock has jumped.
    jumped: i64,
    publisher: Option<Database>,
    subscribers: Vec<Database>,
    memories: [Memory; RIVALS],
    model: Model,
}

impl Rig {
    async fn new(kind: Which) -> Self {
        let mut rig = Self {
            kind,
            place: Some(Place::new(kind).await),
            clock: Clock::system(),
            jumped: 0,
            publisher: None,
            subscribers: Vec::new(),
            memories: Default::default(),
            model: Model::default(),
        };
        rig.start().await;
        rig
    }

    async fn start(&mut self) {
        self.memories = Default::default();
        (self.publisher, self.subscribers) = (None, Vec::new());
        let place = self.place.take().unwrap().again();
        let limits = || Limits {
            durability: Durability::Process,
            readers: 1,
            writers: 1,
            clock: self.clock.clone(),
            ..Limits::default()
        };
        let publisher = place.open_module("publisher", &EFFECTS, limits()).await.unwrap();
        let mut subscribers = Vec::new();
        for name in SUBSCRIBERS {
            subscribers.push(place.open_module(name, &EFFECTS, limits()).await.unwrap());
        }
        (self.publisher, self.subscribers, self.place) = (Some(publisher), subscribers, Some(place));
        self.move_servers_clock(self.jumped);
        if self.kind == Which::Sqlite {
            // A start ends all leases: whoever held one is gone.
            self.model.lease = None;
        }
    }

    /// Milliseconds since 1970 by the databases' clock.
    fn now(&self) -> i64 {
        match self.kind {
            Which::Sqlite => self.clock.now(),
            Which::Postgres => self.publisher().now(),
        }
    }

    fn leap(&mut self, ms: i64) {
        self.clock.jump(ms);
        self.jumped += ms;
        self.move_servers_clock(ms);
    }

    fn move_servers_clock(&self, ms: i64) {
        for database in self.subscribers.iter().chain(&self.publisher) {
            if let Database::Postgres(postgres) = database {
                postgres.jump(ms);
            }
        }
    }

    fn publisher(&self) -> Database {
        self.publisher.clone().unwrap()
    }

    async fn take(&mut self, step: &Step) {
        match *step {
            Step::Publish { key, events, commits } => self.publish(key, events, commits).await,
            Step::RelayReads { who, to, limit } => {
                let read = outbox::waiting(&self.publisher(), SUBSCRIBERS[to], limit, soon()).await.unwrap();
                self.memories[who].read.insert(to, read);
            }
            Step::RelayStores { who, to, commits } => self.store(who, to, commits).await,
            Step::RelayRemoves { who, to, commits } => self.remove(who, to, commits).await,
            Step::DelivererReads { who, to } => {
                let mut due = self.due(to).await;
                if !due.is_empty() {
                    // Each takes another one where there is a choice.
                    let row = due.remove(who % due.len());
                    self.memories[who].due.insert(to, row);
                }
            }
            Step::DelivererEnds { who, to, how } => {
                if let Some(row) = self.memories[who].due.remove(&to) {
                    self.end(to, &row, how).await;
                }
            }
            Step::Forget { who } => self.memories[who] = Memory::default(),
            Step::TakeLease { who } => self.take_lease(who).await,
            Step::ReleaseLease { who } => {
                lease::release(&self.publisher(), "relay", &who.to_string(), soon()).await.unwrap();
                if self.model.lease.as_ref().is_some_and(|(holder, _)| *holder == who) {
                    self.model.lease = None;
                }
            }
            Step::Replay { to } => self.replay(to).await,
            Step::Jump { ms } => self.jump(ms).await,
            Step::Restart => self.start().await,
        }
    }

    async fn publish(&mut self, key: u8, events: u8, commits: bool) {
        let mut transaction = self.publisher().begin(soon()).await.unwrap();
        let mut put = Vec::new();
        for _ in 0..events {
            self.model.published += 1;
            let event = Event {
                id: format!("event-{}", self.model.published),
                function: "test:letters/events@0.1.letter".into(),
                key: key.to_string(),
                payload: "{}".into(),
                published_at: self.now(),
                trace: String::new(),
            };
            outbox::put(&mut transaction, &event, SUBSCRIBERS.into_iter()).await.unwrap();
            put.push(event.id);
        }
        if commits {
            transaction.commit().await.unwrap();
            self.model.keys.entry(key.to_string()).or_default().extend(put);
        }
    }

    async fn store(&mut self, who: usize, to: usize, commits: bool) {
        let Some(read) = self.memories[who].read.remove(&to) else { return };
        let mut transaction = self.subscribers[to].begin_host(soon()).await.unwrap();
        let now = self.now();
        inbox::receive(&mut transaction, "publisher", read.iter().map(|(_, event)| event), now)
            .await
            .unwrap();
        if commits {
            transaction.commit().await.unwrap();
            self.memories[who].stored.insert(to, read);
        }
    }

    async fn remove(&mut self, who: usize, to: usize, commits: bool) {
        let Some(stored) = self.memories[who].stored.remove(&to) else { return };
        let mut transaction = self.publisher().begin_host(soon()).await.unwrap();
        let positions = stored.iter().map(|(position, _)| *position);
        outbox::remove(&mut transaction, SUBSCRIBERS[to], positions).await.unwrap();
        if commits {
            transaction.commit().await.unwrap();
        }
    }

    /// What is due; of one key there is never more than one.
    async fn due(&self, to: usize) -> Vec<Received> {
        // Why its own clock: what it revives is due by that one, and the publisher's may be a little behind.
        let database = &self.subscribers[to];
        let mut now = database.now();
        let mut due = Vec::new();
        let mut found = inbox::due(database, now, BACKOFF, 100, soon()).await.unwrap().positions;
        if found.is_empty() && inbox::revive(database, soon()).await.unwrap() {
            now = database.now();
            found = inbox::due(database, now, BACKOFF, 100, soon()).await.unwrap().positions;
        }
        for position in found {
            due.extend(inbox::ready(database, position, now, BACKOFF, soon()).await.unwrap());
        }
        let keys: BTreeSet<_> = due.iter().map(|row| &row.event.key).collect();
        assert_eq!(keys.len(), due.len(), "two events of a key are ready at once: {due:?}");
        due
    }

    /// The clock jumps, and deliverers take note of it.
    async fn jump(&mut self, ms: i64) {
        self.leap(ms);
        for database in &self.subscribers {
            let mut transaction = database.begin_host(soon()).await.unwrap();
            inbox::jumped(&mut transaction, ms).await.unwrap();
            transaction.commit().await.unwrap();
        }
    }

    async fn end(&mut self, to: usize, row: &Received, how: How) {
        let database = self.subscribers[to].clone();
        let mut transaction = database.begin_handling(soon()).await.unwrap();
        let now = self.now();
        match how {
            How::Done | How::LostBeforeCommit => {
                let effect = [Value::Text(row.event.id.clone())];
                transaction.execute("INSERT INTO effects (event) VALUES ($1)", &effect).await.unwrap();
                let ended = inbox::end(&mut transaction, row, now, &End::Done).await.unwrap();
                if let Some(next) = ended
                    && matches!(how, How::Done)
                {
                    transaction.commit().await.unwrap();
                    self.model.effects[to].push(row.event.id.clone());
                    self.advance(&database, row, next).await;
                }
            }
            How::Retry => {
                let due_at = now + BACKOFF;
                inbox::postpone(&mut transaction, row, row.attempts + 1, 0, now, due_at, "later")
                    .await
                    .unwrap();
                transaction.commit().await.unwrap();
            }
            How::Dead => {
                let dead = End::Dead { attempts: row.attempts + 1, failures: 0, error: "never".into() };
                if let Some(next) = inbox::end(&mut transaction, row, now, &dead).await.unwrap() {
                    transaction.commit().await.unwrap();
                    self.model.dead[to].insert(row.event.id.clone());
                    self.advance(&database, row, next).await;
                }
            }
        }
    }

    /// Now and then the process ends before it comes to this.
    async fn advance(&self, database: &Database, row: &Received, next: bool) {
        if row.position % 3 != 0 {
            inbox::advance(database, row, next, soon()).await.unwrap();
        }
    }

    async fn replay(&mut self, to: usize) {
        let database = &self.subscribers[to];
        let dead = list(database, SUBSCRIBERS[to], Kind::Dead, 1, soon()).await.unwrap();
        if let Some(row) = dead.first() {
            let mut transaction = database.begin_host(soon()).await.unwrap();
            assert!(
                inbox::replay(&mut transaction, &row.id, &row.contract_function, self.now()).await.unwrap()
            );
            transaction.commit().await.unwrap();
        }
    }

    async fn take_lease(&mut self, who: usize) {
        let length = i64::try_from(LEASE.as_millis()).unwrap();
        // The server's clock is known here to half the time that an answer takes.
        let margin = if self.kind == Which::Postgres { 1_000 } else { 0 };
        let first = self.now() - margin;
        let fence = lease::take(&self.publisher(), "relay", &who.to_string(), LEASE, soon()).await.unwrap();
        let last = self.now() + margin;
        let lease = self.model.lease.clone();
        let Some(fence) = fence else {
            let perhaps = |(holder, until): &(usize, RangeInclusive<i64>)| {
                *holder != who && *until.end() > first && *until.start() <= last + length
            };
            assert!(lease.as_ref().is_some_and(perhaps), "nobody holds the lease, and it cannot be taken");
            return;
        };
        let is_held = |(_, until): &(usize, RangeInclusive<i64>)| {
            *until.start() > last && *until.end() <= first + length
        };
        if let Some((holder, _)) = lease.as_ref().filter(|lease| is_held(lease)) {
            assert_eq!(*holder, who, "two hold the lease");
        }
        assert!(fence >= self.model.fence, "the fence went back");
        if lease.as_ref().is_none_or(|(holder, until)| *holder != who || *until.end() <= first) {
            assert!(fence > self.model.fence, "the lease changed hands and the fence did not grow");
        }
        self.model.fence = fence;
        self.model.lease = Some((who, first + length..=last + length));
    }

    /// Lets one relay and one deliverer work until nothing is left.
    async fn finish(&mut self) {
        self.start().await;
        for to in 0..SUBSCRIBERS.len() {
            for _ in 0..1_000 {
                self.take(&Step::RelayReads { who: 0, to, limit: 3 }).await;
                if self.memories[0].read[&to].is_empty() {
                    break;
                }
                self.take(&Step::RelayStores { who: 0, to, commits: true }).await;
                self.take(&Step::RelayRemoves { who: 0, to, commits: true }).await;
            }
            for _ in 0..1_000 {
                // What waits for its next attempt is due then, also if the clock was told a little late before.
                self.leap(10 * BACKOFF);
                let Some(row) = self.due(to).await.into_iter().next() else { break };
                self.end(to, &row, How::Done).await;
            }
        }
    }

    async fn check(&self) {
        let leaving = list(&self.publisher(), "publisher", Kind::Open, 1_000, soon()).await.unwrap();
        assert_eq!(leaving, [], "the outbox is not empty");
        for (to, database) in self.subscribers.iter().enumerate() {
            let open = list(database, SUBSCRIBERS[to], Kind::Open, 1_000, soon()).await.unwrap();
            assert_eq!(open, [], "the inbox is not empty");
            let rows = database.query("SELECT event FROM effects ORDER BY id", &[], soon()).await.unwrap();
            let effects: Vec<String> = rows
                .rows
                .into_iter()
                .flatten()
                .map(|value| if let Value::Text(event) = value { event } else { panic!("{value:?}") })
                .collect();
            assert_eq!(effects, self.model.effects[to], "an effect was lost or taken twice");
            let still_dead = list(database, SUBSCRIBERS[to], Kind::Dead, 1_000, soon()).await.unwrap();
            let still_dead: BTreeSet<_> = still_dead.into_iter().map(|row| row.id).collect();
            for events in self.model.keys.values() {
                let once: Vec<_> = events.iter().filter(|event| !still_dead.contains(*event)).collect();
                for event in &once {
                    let count = effects.iter().filter(|effect| effect == event).count();
                    assert_eq!(count, 1, "{event} has {count} effects at {}", SUBSCRIBERS[to]);
                }
                let in_order = |event: &&String| !self.model.dead[to].contains(*event);
                let published: Vec<_> = events.iter().filter(in_order).collect();
                let handled: Vec<_> = effects.iter().filter(|e| published.contains(e)).collect();
                assert_eq!(handled, published, "the order of a key at {}", SUBSCRIBERS[to]);
            }
            let known: usize = self.model.keys.values().map(Vec::len).sum();
            assert_eq!(
                effects.len() + still_dead.len(),
                known,
                "an event that was never committed has an effect"
            );
        }
    }
}

async fn live_through(kind: Which, steps: &[Step]) {
    let mut rig = Rig::new(kind).await;
    for step in steps {
        rig.take(step).await;
    }
    rig.finish().await;
    rig.check().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_event_has_one_effect_in_order_whatever_happens(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(live_through(Which::Sqlite, &steps));
    }
}

proptest! {
    // Fewer, because each has a database made for it and says every statement to a server.
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_event_has_one_effect_in_order_in_postgres(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(live_through(Which::Postgres, &steps));
    }
}
