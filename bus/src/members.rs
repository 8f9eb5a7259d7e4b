//! Owns who is there: the replicas that this node has heard of, and which of them may be given calls.
//!
//! Every replica says that it lives, once in a while, and says goodbye when it leaves. One that has not been heard of for
//! `silent_after` gets no calls, although the bus may still hold its subscriptions: a process that is stopped, or whose
//! machine is gone, would take its share of them and answer none. One that drains gets only those that nobody else can
//! take, because its own work may need them; one that leaves gets none.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

/// The largest heartbeat that is read, in bytes.
pub const HEARTBEAT_MAX: usize = 64 * 1024;
/// The most replicas that are remembered.
const MEMBERS_MAX: usize = 1_000;
/// How long a replica that has fallen silent is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);

/// What a replica says of itself, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The node that it is a replica of.
    pub node: String,
    /// The replica's own name, which no other has.
    pub replica: String,
    /// Whether it takes calls.
    pub state: State,
    /// The version of Cleave it runs.
    pub cleave: String,
    /// When it started, in milliseconds since 1970, by its clock.
    pub started_unix_ms: u64,
    /// Where it serves HTTP, if it does.
    #[serde(default)]
    pub http: Option<String>,
    /// Whether it keeps data that no other process may keep.
    #[serde(default)]
    pub keeps_data: bool,
    /// The modules it holds.
    pub modules: Vec<Held>,
}

impl Heartbeat {
    /// Reads what a replica says; `None` if it is no heartbeat.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > HEARTBEAT_MAX {
            return None;
        }
        // They become tokens of subjects.
        let plain = |name: &str| {
            !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        serde_json::from_slice(bytes).ok().filter(|said: &Self| plain(&said.replica) && plain(&said.node))
    }

    /// Whether `other` is a second process of the same node that keeps the node's data, and was there first.
    #[must_use]
    pub fn is_shut_out_by(&self, other: &Self) -> bool {
        let twin = self.node == other.node && self.replica != other.replica;
        twin && self.keeps_data && other.keeps_data && other.state == State::Up && other.age() < self.age()
    }

    fn age(&self) -> (u64, &str) {
        (self.started_unix_ms, &self.replica)
    }
}

/// A module that a replica holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The module's name.
    pub name: String,
    /// The first digits of its component's SHA-256.
    pub digest: String,
    /// The contracts it exports, with their versions.
    pub contracts: Vec<String>,
}

/// What a replica does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It does not take calls yet.
    Starting,
    /// It takes calls.
    Up,
    /// It finishes its own work, and takes the calls that nobody else can take.
    Draining,
    /// It finishes the calls it has and takes no more.
    Leaving,
    /// It is gone.
    Left,
}

/// A replica as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What it said last.
    pub said: Heartbeat,
    /// How long ago that was, in milliseconds.
    pub silent_for_ms: u64,
    /// Whether it has been silent for too long to get calls.
    pub silent: bool,
}

/// Who is to get a call of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// Whichever replica the bus chooses.
    Any,
    /// This replica, because another one is not to be called.
    At(String),
    /// Nobody: no one who holds the module is to be called.
    Nobody {
        /// One of their nodes.
        node: String,
        /// Whether it is silent; else it is leaving.
        silent: bool,
    },
}

/// The replicas that a node has heard of.
#[derive(Debug)]
pub struct Members {
    /// This node's own replica, which knows its state better than the bus does.
    own: String,
    /// The modules of the application: those of others are told to people and matter to no call.
    known: Vec<String>,
    silent_after: Duration,
    heard: RwLock<BTreeMap<String, Heard>>,
    /// What follows from `heard` for calls, by module; only modules of which a replica is not to be called.
    detours: RwLock<HashMap<String, Detour>>,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Heard {
    said: Heartbeat,
    at: Instant,
    /// The places in `known` of the modules it holds.
    held: Vec<usize>,
}

/// What a heartbeat tells that was not so before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    None,
    /// The replica was not known.
    Newcomer,
    /// It takes calls and did not, or the other way round, or holds other modules.
    Change,
}

/// The replicas of a module of which one at least is not to be called.
#[derive(Debug, Default)]
struct Detour {
    /// Those that are to be called.
    live: Vec<String>,
    /// Those that are to be called if there are no such.
    draining: Vec<String>,
    /// The node of one that is not to be called, and whether it is silent.
    away: Option<(String, bool)>,
}

impl Members {
    /// Nobody yet. `own` is this node's replica, `known` are the modules of its application.
    #[must_use]
    pub fn new(own: &str, known: Vec<String>, silent_after: Duration) -> Self {
        Self {
            own: own.to_owned(),
            known,
            silent_after,
            heard: RwLock::default(),
            detours: RwLock::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Takes in what a replica says; `None` if there are too many who live. What follows for calls, follows when it is
    /// [judged](Self::judge).
    pub fn hear(&self, said: Heartbeat, now: Instant) -> Option<News> {
        // What comes back over the bus may be older than what is so.
        if said.replica == self.own {
            return Some(News::None);
        }
        let mut heard = self.heard.write().unwrap_or_else(PoisonError::into_inner);
        if said.state == State::Left {
            let news = if heard.remove(&said.replica).is_some() { News::Change } else { News::None };
            return Some(news);
        }
        let latest = self.heard(said, now);
        let said = &latest.said;
        let news = match heard.get(&said.replica) {
            None => News::Newcomer,
            Some(h) if self.is_silent(h, now) || h.said.state != said.state || h.held != latest.held => {
                News::Change
            }
            Some(_) => News::None,
        };
        if news == News::Newcomer && heard.len() >= MEMBERS_MAX && !self.make_room(&mut heard, now) {
            return None;
        }
        heard.insert(said.replica.clone(), latest);
        Some(news)
    }

    /// Forgets who has been silent longest; answers whether anybody was.
    fn make_room(&self, heard: &mut BTreeMap<String, Heard>, now: Instant) -> bool {
        let silent = heard.iter().filter(|(_, h)| self.is_silent(h, now));
        let oldest = silent.min_by_key(|(_, h)| h.at).map(|(replica, _)| replica.clone());
        oldest.and_then(|replica| heard.remove(&replica)).is_some()
    }

    fn heard(&self, said: Heartbeat, at: Instant) -> Heard {
        let names: BTreeSet<&str> = said.modules.iter().map(|m| m.name.as_str()).collect();
        let places = self.known.iter().enumerate();
        let held = places.filter(|(_, name)| names.contains(name.as_str())).map(|(place, _)| place).collect();
        Heard { said, at, held }
    }

    /// Notes what this node's own replica says.
    pub fn note(&self, said: Heartbeat, now: Instant) {
        let noted = self.heard(said, now);
        self.heard.write().unwrap_or_else(PoisonError::into_inner).insert(self.own.clone(), noted);
        self.judge(now);
    }

    /// Forgets a replica: the bus says that nobody listens at it.
    pub fn forget(&self, replica: &str, now: Instant) {
        self.heard.write().unwrap_or_else(PoisonError::into_inner).remove(replica);
        self.judge(now);
    }

    /// Takes everybody as heard of now: this node itself could not hear for a while.
    pub fn forgive(&self, now: Instant) {
        self.heard.write().unwrap_or_else(PoisonError::into_inner).values_mut().for_each(|h| h.at = now);
        self.judge(now);
    }

    /// Finds out who is not to be called, and forgets who has been for long.
    pub fn judge(&self, now: Instant) {
        let mut heard = self.heard.write().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, h| now.saturating_duration_since(h.at) < self.silent_after + REMEMBERED);
        let mut detours: HashMap<usize, Detour> = HashMap::new();
        for h in heard.values() {
            let (silent, replica) = (self.is_silent(h, now), &h.said.replica);
            for place in &h.held {
                let detour = detours.entry(*place).or_default();
                match h.said.state {
                    State::Up if !silent => detour.live.push(replica.clone()),
                    State::Draining if !silent => detour.draining.push(replica.clone()),
                    // Why: one that starts may serve before its word of it is here; if it does not, the bus says so.
                    State::Starting if !silent => {}
                    _ => detour.away = Some((h.said.node.clone(), silent)),
                }
            }
        }
        let detours = detours
            .into_iter()
            .filter(|(_, detour)| detour.away.is_some() || !detour.draining.is_empty())
            .filter_map(|(place, detour)| Some((self.known.get(place)?.clone(), detour)))
            .collect();
        // Why before `heard` is let go: of two who judge, the one who knows more writes last.
        *self.detours.write().unwrap_or_else(PoisonError::into_inner) = detours;
    }

    /// Who is to get a call of a module now.
    #[must_use]
    pub fn pick(&self, module: &str) -> Pick {
        let detours = self.detours.read().unwrap_or_else(PoisonError::into_inner);
        let Some(detour) = detours.get(module) else { return Pick::Any };
        let replicas = if detour.live.is_empty() { &detour.draining } else { &detour.live };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let replica = turn.checked_rem(replicas.len()).and_then(|place| replicas.get(place));
        match (replica, &detour.away) {
            (Some(replica), _) => Pick::At(replica.clone()),
            (None, Some((node, silent))) => Pick::Nobody { node: node.clone(), silent: *silent },
            (None, None) => Pick::Any,
        }
    }

    /// Everybody, by node and replica.
    #[must_use]
    pub fn all(&self, now: Instant) -> Vec<Member> {
        let heard = self.heard.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = heard
            .values()
            .map(|h| Member {
                said: h.said.clone(),
                silent_for_ms: u64::try_from(now.saturating_duration_since(h.at).as_millis())
                    .unwrap_or(u64::MAX),
                silent: self.is_silent(h, now),
            })
            .collect();
        all.sort_by(|a, b| (&a.said.node, &a.said.replica).cmp(&(&b.said.node, &b.said.replica)));
        all
    }

    fn is_silent(&self, heard: &Heard, now: Instant) -> bool {
        now.saturating_duration_since(heard.at) >= self.silent_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT_AFTER: Duration = Duration::from_secs(4);

    fn members() -> Members {
        Members::new("own", vec!["catalog".to_owned(), "orders".to_owned()], SILENT_AFTER)
    }

    fn says(members: &Members, replica: &str, modules: &[&str], state: State, now: Instant) -> Option<News> {
        let held =
            |name: &&str| Held { name: (*name).to_owned(), digest: String::new(), contracts: Vec::new() };
        let heartbeat = Heartbeat {
            node: format!("node-of-{replica}"),
            replica: replica.to_owned(),
            state,
            cleave: String::new(),
            started_unix_ms: 0,
            http: None,
            keeps_data: false,
            modules: modules.iter().map(held).collect(),
        };
        let said = Heartbeat::read(&serde_json::to_vec(&heartbeat).unwrap())?;
        let news = members.hear(said, now);
        members.judge(now);
        news
    }

    #[test]
    fn second_process_of_a_node_with_data_is_shut_out_and_the_first_is_not() {
        let process = |replica: &str, started_unix_ms, keeps_data| Heartbeat {
            node: "back".to_owned(),
            replica: replica.to_owned(),
            state: State::Up,
            cleave: String::new(),
            started_unix_ms,
            http: None,
            keeps_data,
            modules: Vec::new(),
        };
        let (first, second) = (process("b", 1, true), process("a", 2, true));
        assert!(second.is_shut_out_by(&first) && !first.is_shut_out_by(&second));
        assert!(!first.is_shut_out_by(&first));
        assert!(
            process("b", 1, true).is_shut_out_by(&process("a", 1, true)),
            "one of two that started together"
        );
        assert!(
            !second.is_shut_out_by(&process("c", 1, false)) && !process("c", 3, false).is_shut_out_by(&first)
        );
        assert!(!second.is_shut_out_by(&Heartbeat { node: "front".to_owned(), ..first.clone() }));
        assert!(!second.is_shut_out_by(&Heartbeat { state: State::Draining, ..first }));
    }

    /// The modules that a live replica holds.
    fn live(members: &Members, now: Instant) -> BTreeSet<String> {
        let all = members.all(now).into_iter().filter(|m| !m.silent && m.said.state == State::Up);
        all.flat_map(|m| m.said.modules.into_iter().map(|held| held.name)).collect()
    }

    #[test]
    fn bus_chooses_while_everybody_lives() {
        let (members, now) = (members(), Instant::now());
        assert_eq!(members.pick("catalog"), Pick::Any, "nobody was heard of");
        assert_eq!(says(&members, "a", &["catalog"], State::Up, now), Some(News::Newcomer));
        assert_eq!(says(&members, "a", &["catalog"], State::Up, now), Some(News::None));
        says(&members, "b", &["catalog"], State::Up, now);
        assert_eq!(members.pick("catalog"), Pick::Any);
    }

    #[test]
    fn silent_replicas_make_room_for_one_that_lives() {
        let (members, now) = (members(), Instant::now());
        says(&members, "old", &["catalog"], State::Up, now);
        for number in 1..MEMBERS_MAX {
            says(&members, &format!("r{number}"), &[], State::Up, now + Duration::from_millis(1));
        }
        assert_eq!(says(&members, "new", &["catalog"], State::Up, now + Duration::from_millis(2)), None);
        let later = now + SILENT_AFTER * 2;
        assert_eq!(says(&members, "new", &["catalog"], State::Up, later), Some(News::Newcomer));
        assert_eq!(members.pick("catalog"), Pick::Any, "the old replica of it was forgotten first");
        assert_eq!(members.all(later).len(), MEMBERS_MAX);
    }

    #[test]
    fn bus_decides_about_a_replica_that_starts() {
        let (members, now) = (members(), Instant::now());
        says(&members, "a", &["catalog"], State::Starting, now);
        assert_eq!(members.pick("catalog"), Pick::Any);
        assert!(live(&members, now).is_empty());
    }

    #[test]
    fn replica_that_is_leaving_gets_no_calls() {
        let (members, now) = (members(), Instant::now());
        says(&members, "a", &["catalog"], State::Leaving, now);
        assert_eq!(members.pick("catalog"), Pick::Nobody { node: "node-of-a".to_owned(), silent: false });
        says(&members, "b", &["catalog"], State::Up, now);
        assert_eq!(members.pick("catalog"), Pick::At("b".to_owned()));
        says(&members, "a", &[], State::Left, now);
        assert_eq!(members.pick("catalog"), Pick::Any);
    }

    #[test]
    fn replica_that_drains_gets_the_calls_that_nobody_else_can_take() {
        let (members, now) = (members(), Instant::now());
        let of_a = Pick::At("a".to_owned());
        says(&members, "a", &["catalog"], State::Draining, now);
        assert_eq!(members.pick("catalog"), of_a);
        says(&members, "b", &["catalog"], State::Up, now);
        assert!((0..4).all(|_| members.pick("catalog") == Pick::At("b".to_owned())));
        says(&members, "b", &["catalog"], State::Leaving, now);
        assert!((0..4).all(|_| members.pick("catalog") == of_a));
        let later = now + SILENT_AFTER;
        members.judge(later);
        assert!(matches!(members.pick("catalog"), Pick::Nobody { silent: true, .. }));
    }

    #[test]
    fn silent_replica_gets_no_calls() {
        let (members, now) = (members(), Instant::now());
        for replica in ["a", "b", "c", "d"] {
            says(&members, replica, &["catalog"], State::Up, now);
        }
        let later = now + SILENT_AFTER;
        says(&members, "a", &["catalog"], State::Up, later);
        says(&members, "b", &["catalog"], State::Up, later);
        says(&members, "d", &["catalog"], State::Draining, later);
        let ways: BTreeSet<_> = (0..4).map(|_| format!("{:?}", members.pick("catalog"))).collect();
        assert_eq!(ways, BTreeSet::from(["At(\"a\")".to_owned(), "At(\"b\")".to_owned()]));
        assert_eq!(live(&members, later), BTreeSet::from(["catalog".to_owned()]));
    }

    #[test]
    fn module_whose_replicas_are_all_silent_is_nowhere_until_one_is_heard_of() {
        let (members, now) = (members(), Instant::now());
        says(&members, "a", &["catalog"], State::Up, now);
        says(&members, "b", &["orders"], State::Up, now + SILENT_AFTER);
        assert_eq!(members.pick("catalog"), Pick::Nobody { node: "node-of-a".to_owned(), silent: true });
        assert_eq!(members.pick("orders"), Pick::Any);
        let all = members.all(now + SILENT_AFTER);
        assert_eq!(all.iter().map(|m| m.silent).collect::<Vec<_>>(), [true, false]);
        members.forgive(now + SILENT_AFTER);
        assert_eq!(members.pick("catalog"), Pick::Any, "it was this node that could not hear");
    }

    #[test]
    fn one_that_left_is_gone_and_one_long_silent_is_forgotten() {
        let (members, now) = (members(), Instant::now());
        says(&members, "a", &["catalog"], State::Up, now);
        says(&members, "b", &["catalog"], State::Up, now);
        says(&members, "a", &[], State::Left, now);
        assert_eq!(members.all(now).len(), 1);
        members.judge(now + SILENT_AFTER + REMEMBERED);
        assert_eq!(members.all(now).len(), 0);
        assert_eq!(members.pick("catalog"), Pick::Any);
    }

    #[test]
    fn what_is_no_heartbeat_is_not_taken_in() {
        let (members, now) = (members(), Instant::now());
        for garbage in [&b""[..], b"{}", b"\xff\xfe", b"[1,2,3]", &vec![b' '; HEARTBEAT_MAX + 1]] {
            assert_eq!(Heartbeat::read(garbage), None);
        }
        assert_eq!(says(&members, "a.b", &[], State::Up, now), None, "it would be two tokens of a subject");
        assert_eq!(says(&members, "", &[], State::Up, now), None);
        assert!(members.all(now).is_empty());
        says(&members, "own", &["catalog"], State::Draining, now);
        assert_eq!(members.pick("catalog"), Pick::Any, "what this node does it need not be told");
    }
}
