//! Owns who is there: the replicas that this node has heard of, and which of them may be given calls.
//!
//! Every replica says that it lives, once in a while, and says goodbye when it leaves. One that has not been heard of for
//! `silent_after` gets no calls, although the bus may still hold its subscriptions: a process that is stopped, or whose
//! machine is gone, would take its share of them and answer none. One that finishes what it has gets no more either.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

/// The largest heartbeat that is read, in bytes.
const HEARTBEAT_MAX: usize = 64 * 1024;
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
    /// Whether `other` is a second process of the same node that keeps the node's data, and was there first.
    #[must_use]
    pub fn is_shut_out_by(&self, other: &Self) -> bool {
        let age = |h: &Self| (h.started_unix_ms, h.replica.clone());
        let twin = self.node == other.node && self.replica != other.replica;
        twin && self.keeps_data && other.keeps_data && other.state == State::Up && age(other) < age(self)
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
    /// It takes calls.
    Up,
    /// It finishes what it has and takes no more.
    Draining,
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

/// Where a call of a module goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// To whichever replica the bus chooses.
    Any,
    /// To this replica, because another one is silent or leaving.
    At(String),
    /// Nowhere: everybody who holds the module is silent or leaving.
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
}

#[derive(Debug)]
struct Detour {
    /// The replicas that are to be called.
    live: Vec<String>,
    /// The node of one that is not, and whether it is silent.
    away: String,
    silent: bool,
}

impl Members {
    /// Nobody yet.
    #[must_use]
    pub fn new(silent_after: Duration) -> Self {
        Self { silent_after, heard: RwLock::default(), detours: RwLock::default(), turn: AtomicUsize::new(0) }
    }

    /// Takes in what a replica says. Answers that, and whether it was not known before; `None` if it is no heartbeat.
    pub fn hear(&self, bytes: &[u8], now: Instant) -> Option<(Heartbeat, bool)> {
        if bytes.len() > HEARTBEAT_MAX {
            return None;
        }
        let said: Heartbeat = serde_json::from_slice(bytes).ok()?;
        // It becomes a token of a subject.
        let plain = |name: &str| {
            !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !plain(&said.replica) || !plain(&said.node) {
            return None;
        }
        let mut heard = self.heard.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = if said.state == State::Left {
            heard.remove(&said.replica);
            false
        } else if heard.len() < MEMBERS_MAX || heard.contains_key(&said.replica) {
            heard.insert(said.replica.clone(), Heard { said: said.clone(), at: now }).is_none()
        } else {
            return None;
        };
        drop(heard);
        self.judge(now);
        Some((said, is_new))
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
        let mut detours: HashMap<String, Detour> = HashMap::new();
        let takes_calls = |h: &&Heard| !self.is_silent(h, now) && h.said.state == State::Up;
        for away in heard.values().filter(|h| !takes_calls(h)) {
            let silent = self.is_silent(away, now);
            for module in &away.said.modules {
                let detour = Detour { live: Vec::new(), away: away.said.node.clone(), silent };
                detours.entry(module.name.clone()).or_insert(detour);
            }
        }
        for live in heard.values().filter(takes_calls) {
            for module in &live.said.modules {
                if let Some(detour) = detours.get_mut(&module.name) {
                    detour.live.push(live.said.replica.clone());
                }
            }
        }
        *self.detours.write().unwrap_or_else(PoisonError::into_inner) = detours;
    }

    /// Where a call of a module goes now.
    #[must_use]
    pub fn way(&self, module: &str) -> Way {
        let detours = self.detours.read().unwrap_or_else(PoisonError::into_inner);
        let Some(detour) = detours.get(module) else { return Way::Any };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match turn.checked_rem(detour.live.len()).and_then(|place| detour.live.get(place)) {
            Some(replica) => Way::At(replica.clone()),
            None => Way::Nobody { node: detour.away.clone(), silent: detour.silent },
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

    /// The modules that a live replica holds.
    #[must_use]
    pub fn modules(&self, now: Instant) -> BTreeSet<String> {
        let heard = self.heard.read().unwrap_or_else(PoisonError::into_inner);
        let live = heard.values().filter(|h| !self.is_silent(h, now) && h.said.state == State::Up);
        live.flat_map(|h| h.said.modules.iter().map(|m| m.name.clone())).collect()
    }

    fn is_silent(&self, heard: &Heard, now: Instant) -> bool {
        now.saturating_duration_since(heard.at) >= self.silent_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT_AFTER: Duration = Duration::from_secs(4);

    fn says(members: &Members, replica: &str, modules: &[&str], state: State, now: Instant) -> Option<bool> {
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
        Some(members.hear(&serde_json::to_vec(&heartbeat).unwrap(), now)?.1)
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

    #[test]
    fn bus_chooses_while_everybody_lives() {
        let (members, now) = (Members::new(SILENT_AFTER), Instant::now());
        assert_eq!(members.way("catalog"), Way::Any, "nobody was heard of");
        assert_eq!(says(&members, "a", &["catalog"], State::Up, now), Some(true));
        assert_eq!(says(&members, "a", &["catalog"], State::Up, now), Some(false));
        says(&members, "b", &["catalog"], State::Up, now);
        assert_eq!(members.way("catalog"), Way::Any);
    }

    #[test]
    fn replica_that_is_leaving_gets_no_calls() {
        let (members, now) = (Members::new(SILENT_AFTER), Instant::now());
        says(&members, "a", &["catalog"], State::Draining, now);
        assert_eq!(members.way("catalog"), Way::Nobody { node: "node-of-a".to_owned(), silent: false });
        says(&members, "b", &["catalog"], State::Up, now);
        assert_eq!(members.way("catalog"), Way::At("b".to_owned()));
        says(&members, "a", &[], State::Left, now);
        assert_eq!(members.way("catalog"), Way::Any);
    }

    #[test]
    fn silent_replica_gets_no_calls() {
        let (members, now) = (Members::new(SILENT_AFTER), Instant::now());
        for replica in ["a", "b", "c", "d"] {
            says(&members, replica, &["catalog"], State::Up, now);
        }
        let later = now + SILENT_AFTER;
        says(&members, "a", &["catalog"], State::Up, later);
        says(&members, "b", &["catalog"], State::Up, later);
        says(&members, "d", &["catalog"], State::Draining, later);
        let ways: BTreeSet<_> = (0..4).map(|_| format!("{:?}", members.way("catalog"))).collect();
        assert_eq!(ways, BTreeSet::from(["At(\"a\")".to_owned(), "At(\"b\")".to_owned()]));
        assert_eq!(members.modules(later), BTreeSet::from(["catalog".to_owned()]));
    }

    #[test]
    fn module_whose_replicas_are_all_silent_is_nowhere_until_one_is_heard_of() {
        let (members, now) = (Members::new(SILENT_AFTER), Instant::now());
        says(&members, "a", &["catalog"], State::Up, now);
        says(&members, "b", &["orders"], State::Up, now + SILENT_AFTER);
        assert_eq!(members.way("catalog"), Way::Nobody { node: "node-of-a".to_owned(), silent: true });
        assert_eq!(members.way("orders"), Way::Any);
        let all = members.all(now + SILENT_AFTER);
        assert_eq!(all.iter().map(|m| m.silent).collect::<Vec<_>>(), [true, false]);
        members.forgive(now + SILENT_AFTER);
        assert_eq!(members.way("catalog"), Way::Any, "it was this node that could not hear");
    }

    #[test]
    fn one_that_left_is_gone_and_one_long_silent_is_forgotten() {
        let (members, now) = (Members::new(SILENT_AFTER), Instant::now());
        says(&members, "a", &["catalog"], State::Up, now);
        says(&members, "b", &["catalog"], State::Up, now);
        says(&members, "a", &[], State::Left, now);
        assert_eq!(members.all(now).len(), 1);
        members.judge(now + SILENT_AFTER + REMEMBERED);
        assert_eq!(members.all(now).len(), 0);
        assert_eq!(members.way("catalog"), Way::Any);
    }

    #[test]
    fn what_is_no_heartbeat_is_not_taken_in() {
        let (members, now) = (Members::new(SILENT_AFTER), Instant::now());
        for garbage in [&b""[..], b"{}", b"\xff\xfe", b"[1,2,3]", &vec![b' '; HEARTBEAT_MAX + 1]] {
            assert_eq!(members.hear(garbage, now), None);
        }
        assert_eq!(says(&members, "a.b", &[], State::Up, now), None, "it would be two tokens of a subject");
        assert_eq!(says(&members, "", &[], State::Up, now), None);
        assert!(members.all(now).is_empty());
    }
}
