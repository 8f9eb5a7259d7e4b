//! Hostile bytes on the bus: whatever anybody sends to the subjects that nodes listen on is counted, and refused or
//! dropped. Nothing runs that should not, no node ends, and good calls go on.
//!
//! The node `front` calls the ledger on `back`, which writes down what runs, and a raw client says to both what no node
//! would.

use crate::faults::{linked, nodes, note, reachable, runs, seeded, told};
use cleave_bus::envelope::{Outcome, Reply, Request, VERSION};
use cleave_bus::members::{Heartbeat, Held, Members, Pick, State};
use cleave_bus::nats::Link;
use cleave_bus::subject::Subjects;
use cleave_host::host::Host;
use cleave_host::values;
use cleave_tests::checker::Random;
use cleave_tests::delivery::{Call, Told, check};
use cleave_tests::nats::{JSON, Message, NatsServer, Raw};
use cleave_tests::{Application, PATIENCE};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use wasmtime::component::Val;

const TRACK: &str = "test:ledger/ledger@0.1";
const NOTE: &str = "test:ledger/ledger.note";
/// The first part of every subject, as it is by default.
const PREFIX: &str = "cleave";
/// Messages of each kind that are made by chance.
const MANY: usize = 300;
/// Requests that wait for answers at once.
const AT_ONCE: usize = 64;
/// The most replicas that a node remembers.
const MEMBERS_MAX: usize = 1_000;

/// Two nodes, and a client that wishes them ill.
struct Ground {
    server: NatsServer,
    front: Host,
    back: Host,
    raw: Raw,
    random: Random,
    subjects: Subjects,
    /// Everything that should have run.
    ran: Vec<String>,
    asked: u64,
    _applications: [Application; 2],
}

impl Ground {
    async fn new() -> Self {
        let random = seeded();
        let server = NatsServer::start();
        let applications = [(); 2].map(|()| nodes(&server.url(), "", ""));
        let back = applications[0].node("back").await;
        let front = applications[1].node("front").await;
        reachable(&front).await;
        let mut raw = Raw::connect(&server.url()).unwrap();
        raw.subscribe("_INBOX.raw.*");
        let subjects = Subjects::new(PREFIX);
        let _applications = applications;
        let mut ground =
            Self { server, front, back, raw, random, subjects, ran: Vec::new(), asked: 0, _applications };
        ground.sound().await;
        ground
    }

    fn replica(host: &Host) -> String {
        host.bus().unwrap().replica().to_owned()
    }

    /// The subject of the ledger's function.
    fn subject(&self) -> String {
        self.subjects.call(TRACK, "note")
    }

    /// A reply subject of the raw client's own.
    fn inbox(&mut self) -> String {
        self.asked += 1;
        format!("_INBOX.raw.{}", self.asked)
    }

    /// Asks, and gives what is answered.
    fn ask(&mut self, subject: &str, headers: Option<&[u8]>, payload: &[u8]) -> Message {
        let inbox = self.inbox();
        self.raw.publish(subject, Some(&inbox), headers, payload);
        let answer = self.raw.next(PATIENCE).unwrap_or_else(|| panic!("{subject}: no answer"));
        assert_eq!(answer.subject, inbox);
        answer
    }

    /// Calls the ledger in JSON. Gives the status of a refusal, which is empty if it is none; `None` without an answer.
    fn status_of(&mut self, body: &[u8]) -> Option<String> {
        let (subject, inbox) = (self.subject(), self.inbox());
        self.raw.publish(&subject, Some(&inbox), Some(JSON), body);
        let answer = self.raw.next(Duration::from_secs(3))?;
        assert_eq!(answer.subject, inbox);
        Some(answer.header("Nats-Service-Error-Code").unwrap_or_default().to_owned())
    }

    /// Asks with an envelope that is refused. Gives the reason.
    fn refused(&mut self, subject: &str, payload: &[u8]) -> String {
        let answer = self.ask(subject, None, payload);
        match Reply::decode(&answer.payload).unwrap().outcome {
            Outcome::Refused(reason) | Outcome::TurnedAway(reason) => reason.to_owned(),
            outcome => panic!("{subject}: {outcome:?}"),
        }
    }

    /// The bytes of a call that would write this identity down.
    fn request(&self, id: &str, change: impl FnOnce(&mut Request<'_>)) -> Vec<u8> {
        let (_, function) = self.back.application.function(&NOTE.parse().unwrap()).unwrap();
        let arguments = [Val::String(id.to_owned()), Val::U64(0)];
        let arguments = values::encode(function.parameters.iter().map(|p| &p.ty).zip(&arguments)).unwrap();
        let mut request = Request {
            version: VERSION,
            caller: "x",
            track: TRACK,
            function: "note",
            fingerprint: function.fingerprint,
            call: 1,
            trace: 1,
            expires_unix_ms: unix_ms() + 60_000,
            remaining_ms: 60_000,
            arguments: &arguments,
        };
        change(&mut request);
        request.encode().unwrap()
    }

    /// Asserts that both nodes answer good calls, and that nothing has run but what should have.
    async fn sound(&mut self) {
        let id = format!("good-{}", self.ran.len());
        assert_eq!(note(&self.front, "note", &id, 0).await, Ok(()));
        self.ran.push(id);
        let ping = self.subjects.call("test:victim/ping@0.1", "ping");
        assert_eq!(self.ask(&ping, Some(JSON), b"[1]").payload, b"2");
        assert_eq!(runs(&self.front).await, self.ran);
    }

    /// Waits until the nodes have dropped so many messages more, front and back, since what `before` says.
    async fn dropped(&self, before: [u64; 2], more: [u64; 2]) {
        let until = [before[0] + more[0], before[1] + more[1]];
        let began = Instant::now();
        while self.drops() != until && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(self.drops(), until, "the messages that were dropped, and should have been");
    }

    fn drops(&self) -> [u64; 2] {
        [&self.front, &self.back].map(|host| count(&host.bus().unwrap().counts.dropped))
    }

    async fn end(self) {
        assert!(self.front.drain().await && self.back.drain().await);
        drop(self.server);
    }
}

fn count(of: &AtomicU64) -> u64 {
    of.load(Ordering::Relaxed)
}

fn unix_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn garbage(random: &mut Random, bytes_max: u64) -> Vec<u8> {
    (0..random.within(0..bytes_max)).map(|_| random.bits().to_le_bytes()[0]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_every_subject_is_refused_or_dropped() {
    let mut ground = Ground::new().await;
    let (front, back) = (Ground::replica(&ground.front), Ground::replica(&ground.back));
    let at = |replica: &str, rest: &str| format!("{PREFIX}.at.{replica}.{rest}");
    // With what front and back drop of each message, without a reply subject and with one.
    let subjects = [
        (ground.subject(), [[0, 1], [0, 0]]),
        (ground.subjects.call(TRACK, "no-function"), [[0, 1], [0, 0]]),
        (ground.subjects.at(&back, TRACK, "note"), [[0, 1], [0, 0]]),
        (at(&front, "x"), [[1, 0], [0, 0]]),
        (at(&front, "a.b.c.d.e.f.g"), [[1, 0], [0, 0]]),
        (ground.subjects.reply(&front, 7), [[1, 0], [1, 0]]),
        (ground.subjects.reply(&back, u128::MAX), [[0, 1], [0, 1]]),
        (format!("{PREFIX}.reply.{front}.x"), [[1, 0], [1, 0]]),
        (ground.subjects.members(), [[1, 1], [1, 1]]),
        ("$SRV.PING".to_owned(), [[1, 1], [0, 0]]),
        ("$SRV.NONSENSE".to_owned(), [[1, 1], [1, 1]]),
        ("$SRV.INFO.front".to_owned(), [[1, 0], [0, 0]]),
        (format!("$SRV.STATS.back.{back}"), [[0, 1], [0, 0]]),
    ];
    for (subject, drops) in subjects {
        let before = ground.drops();
        let mut more = [0; 2];
        let mut answers = 0;
        for number in 0..MANY {
            let payload = if number < 2 { Vec::new() } else { garbage(&mut ground.random, 600) };
            let reply = (number % 2 == 1).then(|| ground.inbox());
            ground.raw.publish(&subject, reply.as_deref(), None, &payload);
            let [of_front, of_back] = drops[number % 2];
            more = [more[0] + of_front, more[1] + of_back];
            let is_asked = number % 2 == 1 && drops[1] == [0, 0];
            answers += if is_asked { drops[0].iter().sum::<u64>() } else { 0 };
        }
        for _ in 0..answers {
            let answer =
                ground.raw.next(PATIENCE).unwrap_or_else(|| panic!("{subject}: an answer is missing"));
            if !subject.starts_with('$') {
                let outcome = Reply::decode(&answer.payload).unwrap().outcome;
                assert!(matches!(outcome, Outcome::Refused(_)), "{subject}: {outcome:?}");
            }
        }
        ground.dropped(before, more).await;
        ground.sound().await;
    }
    ground.end().await;
}

/// What must come of a request, whatever has been done to its bytes.
#[derive(Debug, PartialEq)]
enum Due {
    /// It runs, and writes this identity down.
    Run(String),
    /// It runs, or its time is over before.
    MayRun(String),
    Refused,
}

fn due(ground: &Ground, bytes: &[u8]) -> Due {
    let (_, function) = ground.back.application.function(&NOTE.parse().unwrap()).unwrap();
    let Ok(request) = Request::decode(bytes) else { return Due::Refused };
    let named = (request.track, request.function, request.fingerprint);
    let types = function.parameters.iter().map(|p| &p.ty);
    match values::decode(types, request.arguments).as_deref() {
        Ok([Val::String(id), _]) if named == (TRACK, "note", function.fingerprint) => {
            match request.time_left(SystemTime::now()) {
                Duration::ZERO => Due::Refused,
                left if left < Duration::from_secs(30) => Due::MayRun(id.clone()),
                _ => Due::Run(id.clone()),
            }
        }
        _ => Due::Refused,
    }
}

/// Sends altered requests, and holds what is answered and what ran against what is due.
async fn altered(ground: &mut Ground, requests: Vec<Vec<u8>>) {
    let (subject, mut due_at) = (ground.subject(), HashMap::new());
    // How often each identity ran for certain, and perhaps.
    let mut expected: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    let mut requests = requests.into_iter();
    loop {
        for bytes in requests.by_ref().take(AT_ONCE - due_at.len()) {
            let inbox = ground.inbox();
            ground.raw.publish(&subject, Some(&inbox), None, &bytes);
            due_at.insert(inbox, (due(ground, &bytes), bytes));
        }
        if due_at.is_empty() {
            break;
        }
        let answer = ground.raw.next(PATIENCE).expect("an altered request is not answered");
        let (due, bytes) = due_at.remove(&answer.subject).unwrap();
        match (due, Reply::decode(&answer.payload).unwrap().outcome) {
            // The database takes no such text, and the ledger says so.
            (Due::Run(id) | Due::MayRun(id), Outcome::Returned(_)) if id.contains('\0') => {}
            (Due::Run(id) | Due::MayRun(id), Outcome::Returned(_)) => expected.entry(id).or_default()[0] += 1,
            (Due::MayRun(id), Outcome::Failed(_)) => expected.entry(id).or_default()[1] += 1,
            (Due::MayRun(_) | Due::Refused, Outcome::Refused(_) | Outcome::TurnedAway(_)) => {}
            (due, outcome) => panic!("{bytes:?}: {outcome:?}, and due is {due:?}"),
        }
    }
    let ran = runs(&ground.front).await;
    let ran = ran.strip_prefix(ground.ran.as_slice()).expect("what ran before is there first");
    for (id, [certain, perhaps]) in &expected {
        let runs = ran.iter().filter(|ran| *ran == id).count();
        assert!((*certain..=certain + perhaps).contains(&runs), "`{id}` ran {runs} times, and not {certain}");
    }
    assert!(ran.iter().all(|id| expected.contains_key(id)), "something ran that nobody was told of");
    ground.ran.extend_from_slice(ran);
}

#[tokio::test(flavor = "multi_thread")]
async fn request_cut_short_or_altered_runs_only_if_it_is_whole() {
    let mut ground = Ground::new().await;
    let whole = ground.request("i", |_| {});
    let truncated = (0..whole.len()).map(|length| whole[..length].to_vec()).collect();
    altered(&mut ground, truncated).await;
    ground.sound().await;
    let longer =
        (0..MANY).map(|_| [whole.clone(), vec![0], garbage(&mut ground.random, 50)].concat()).collect();
    altered(&mut ground, longer).await;
    ground.sound().await;
    let changed = (0..whole.len()).flat_map(|place| {
        let whole = &whole;
        (1..=u8::MAX).map(move |bits| {
            let mut bytes = whole.clone();
            bytes[place] ^= bits;
            bytes
        })
    });
    let changed = changed.collect();
    altered(&mut ground, changed).await;
    ground.sound().await;
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn request_that_is_not_meant_is_refused_and_says_why() {
    let mut ground = Ground::new().await;
    let subject = ground.subject();
    let wrong_type = ground.request("no", |r| {
        r.fingerprint ^= 1;
        r.caller = "front";
    });
    let reason = ground.refused(&subject, &wrong_type);
    assert!(
        reason.contains("`back`") && reason.contains("`front`") && reason.contains("fingerprints"),
        "{reason}"
    );

    let mut other_version = ground.request("no", |_| {});
    other_version[0] = VERSION + 1;
    assert!(ground.refused(&subject, &other_version).contains("version"));

    let good = ground.request("no", |_| {});
    for other in ["note-again", "runs", "no-function"] {
        let reason = ground.refused(&ground.subjects.call(TRACK, other), &good);
        assert!(reason.contains("at the subject of another"), "{reason}");
    }
    let nowhere = ground.request("no", |r| r.function = "no-function");
    let reason = ground.refused(&ground.subjects.call(TRACK, "no-function"), &nowhere);
    assert!(reason.contains("does not serve"), "{reason}");

    for late in [
        ground.request("no", |r| r.expires_unix_ms = unix_ms() - 1),
        ground.request("no", |r| r.expires_unix_ms = 0),
        ground.request("no", |r| r.remaining_ms = 0),
    ] {
        assert!(ground.refused(&subject, &late).contains("its time was over"));
    }
    let too_large = ground.request(&"#".repeat(1_030_000), |_| {});
    assert!(ground.refused(&subject, &too_large).contains("`calls.payload_max`"));
    ground.sound().await;
    ground.end().await;
}

/// An answer that would repeat such a request is larger than the server takes.
#[tokio::test(flavor = "multi_thread")]
async fn request_as_large_as_the_server_takes_is_answered() {
    let mut ground = Ground::new().await;
    let subject = ground.subject();
    let max = usize::try_from(ground.raw.info["max_payload"].as_u64().unwrap()).unwrap();
    let short = ground.request("no", |_| {}).len();
    let long = "#".repeat(max - short - 8);
    let long: &'static str = long.leak();
    let requests = [
        ("its arguments", ground.request(long, |_| {})),
        ("its caller's name", ground.request("no", |r| r.caller = long)),
        (
            "its caller's name, and another type",
            ground.request("no", |r| {
                r.caller = long;
                r.fingerprint ^= 1;
            }),
        ),
        ("its function's name", ground.request("no", |r| r.function = long)),
        ("its contract's name", ground.request("no", |r| r.track = long)),
    ];
    let mut unanswered = Vec::new();
    for (what, request) in requests {
        assert!(request.len() <= max);
        let inbox = ground.inbox();
        ground.raw.publish(&subject, Some(&inbox), None, &request);
        let Some(answer) = ground.raw.next(Duration::from_secs(3)) else {
            unanswered.push(what);
            continue;
        };
        match Reply::decode(&answer.payload).unwrap().outcome {
            Outcome::Returned(_) => ground.ran.push("no".to_owned()),
            Outcome::Refused(_) | Outcome::TurnedAway(_) => {}
            Outcome::Failed(reason) => panic!("{what}: {reason}"),
        }
    }
    assert!(unanswered.is_empty(), "a request is as large as may be by {unanswered:?}, and is not answered");
    ground.sound().await;
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn request_whose_answer_would_do_harm_does_not_run() {
    let mut ground = Ground::new().await;
    let (front, back) = (Ground::replica(&ground.front), Ground::replica(&ground.back));
    let good = ground.request("no", |_| {});
    let (subject, members) = (ground.subject(), ground.subjects.members());
    let of_one = ground.subjects.at(&back, TRACK, "note");
    for reply in [
        None,
        Some(subject.as_str()),
        Some(of_one.as_str()),
        Some(members.as_str()),
        Some("$SRV.PING"),
        Some("$JS.API.STREAM.DELETE.all"),
        Some("$SYS.REQ.SERVER.PING"),
    ] {
        let before = ground.drops();
        ground.raw.publish(&subject, reply, None, &good);
        ground.raw.publish(&of_one, reply, None, &good);
        ground.raw.publish(&subject, reply, Some(JSON), b"[\"no\", 0]");
        ground.dropped(before, [0, 3]).await;
        ground.raw.publish("$SRV.PING", reply, None, b"");
        ground.dropped(before, [1, 4]).await;
        ground.sound().await;
    }
    // It is a place for answers, and whoever listens there drops one that nobody waits for.
    let before = ground.drops();
    let reply = ground.subjects.reply(&front, 9);
    ground.raw.publish(&subject, Some(&reply), None, &ground.request("nobody waits", |_| {}));
    ground.dropped(before, [1, 0]).await;
    ground.ran.push("nobody waits".to_owned());
    ground.sound().await;
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_reply_leaves_the_call_to_the_real_one() {
    let mut ground = Ground::new().await;
    let front = Ground::replica(&ground.front);
    let forged = |outcome| Reply::new(outcome).encode().unwrap();
    let whole = forged(Outcome::Returned(&[1]));
    let mut wrong: Vec<(Option<&[u8]>, Vec<u8>)> = vec![
        (None, [whole.as_slice(), b"more"].concat()),
        (None, whole[..whole.len() - 1].to_vec()),
        (None, vec![VERSION, 4]),
        (None, vec![VERSION, 1, 2, 0xFF, 0xFE]),
        (None, vec![VERSION; 1_000_000]),
        (Some(b"NATS/1.0 404\r\n\r\n"), whole.clone()),
        (Some(b"NATS/1.0 100 Idle Heartbeat\r\n\r\n"), Vec::new()),
        (Some(b"NATS/1.0 500 Forged\r\nA: b\r\n\r\n"), whole.clone()),
        (Some(JSON), b"{}".to_vec()),
    ];
    for _ in 0..MANY {
        wrong.push((None, [vec![VERSION, 4], garbage(&mut ground.random, 100)].concat()));
    }
    // What would be an answer, to a call that nobody made.
    let unknown: Vec<(Option<&[u8]>, Vec<u8>)> = vec![
        (None, whole),
        (None, forged(Outcome::Refused("no"))),
        (None, forged(Outcome::Failed("no"))),
        (Some(b"NATS/1.0 503\r\n\r\n"), Vec::new()),
    ];
    let before = ground.drops();
    for (headers, payload) in wrong.iter().chain(&unknown) {
        ground.raw.publish(&ground.subjects.reply(&front, 3), None, *headers, payload);
    }
    ground.dropped(before, [(wrong.len() + unknown.len()) as u64, 0]).await;

    let listening = ground.raw.subscribe(&ground.subject());
    ground.raw.flush(PATIENCE);
    let before = ground.drops();
    let Ground { front, raw, .. } = &mut ground;
    let under_way = note(front, "note", "real", 500);
    let forging = async {
        let request = loop {
            match raw.next(Duration::from_millis(1)) {
                Some(message) if message.sid == listening => break message,
                _ => tokio::task::yield_now().await,
            }
        };
        for (headers, payload) in &wrong {
            raw.publish(request.reply.as_deref().unwrap(), None, *headers, payload);
        }
    };
    let (outcome, ()) = tokio::join!(under_way, forging);
    assert_eq!(outcome, Ok(()));
    ground.raw.send(format!("UNSUB {listening}\r\n").as_bytes());
    assert!(ground.raw.flush(PATIENCE));
    ground.dropped(before, [wrong.len() as u64, 0]).await;
    ground.ran.push("real".to_owned());
    ground.sound().await;
    ground.end().await;
}

/// It can never be read, and no other will come.
#[tokio::test(flavor = "multi_thread")]
async fn answer_of_another_version_ends_the_call_at_once() {
    let mut ground = Ground::new().await;
    let mut other_version = Reply::new(Outcome::Returned(&[1])).encode().unwrap();
    other_version[0] = VERSION + 1;
    let listening = ground.raw.subscribe(&ground.subject());
    ground.raw.flush(PATIENCE);
    let before = ground.drops();
    let Ground { front, back, raw, .. } = &mut ground;
    let under_way = note(front, "note", "real", 1_000);
    let answering = async {
        let request = loop {
            match raw.next(Duration::from_millis(1)) {
                Some(message) if message.sid == listening => break message,
                _ => tokio::task::yield_now().await,
            }
        };
        while back.pool("ledger").unwrap().running() == 0 {
            tokio::task::yield_now().await;
        }
        raw.publish(request.reply.as_deref().unwrap(), None, None, &other_version);
    };
    let (outcome, ()) = tokio::join!(under_way, answering);
    assert_eq!(ground.back.pool("ledger").unwrap().running(), 1, "the real answer was waited for");
    let error = outcome.unwrap_err();
    assert!(error.may_have_run() && error.to_string().contains("version 2"), "{error}");
    ground.raw.send(format!("UNSUB {listening}\r\n").as_bytes());
    assert!(ground.raw.flush(PATIENCE));
    ground.dropped(before, [1, 0]).await;
    ground.ran.push("real".to_owned());
    ground.sound().await;
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_calls_are_counted_and_told_briefly() {
    let mut ground = Ground::new().await;
    let subject = ground.subject();
    let wrong_type = ground.request("no", |r| r.fingerprint ^= 1);
    ground.refused(&subject, &wrong_type);
    // What is said repeats the name of the function.
    let long = ground.subjects.call(TRACK, &"é".repeat(1_000));
    let answer = ground.ask(&long, Some(JSON), b"[]");
    let said = answer.header("Nats-Service-Error").unwrap();
    assert!(said.contains("does not serve") && (510..=512).contains(&said.len()), "{}: {said}", said.len());
    let stats = ground.ask("$SRV.STATS.back", None, b"");
    let stats: serde_json::Value = serde_json::from_slice(&stats.payload).unwrap();
    let endpoints = stats["endpoints"].as_array().unwrap();
    let note = endpoints.iter().find(|e| e["name"] == "test-ledger-ledger-v0_1-note").unwrap();
    assert_eq!(note["num_errors"], 1, "{note}");
    let last = note["last_error"].as_str().unwrap();
    assert!(last.starts_with("503:") && last.contains("fingerprints") && last.len() <= 4 + 512, "{last}");
    ground.sound().await;
    ground.end().await;
}

/// A server tells where others of its cluster are, and nobody has said that they may have the password.
#[tokio::test(flavor = "multi_thread")]
async fn server_that_is_only_told_of_is_not_connected_to() {
    let [named, told_of] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let address = named.local_addr().unwrap();
    let urls = json!([told_of.local_addr().unwrap().to_string()]);
    told_of.set_nonblocking(true).unwrap();
    let info = json!({
        "server_id": "S", "server_name": "s", "version": "2.14.0", "proto": 1, "go": "", "host": "127.0.0.1",
        "port": address.port(), "headers": true, "max_payload": 1_048_576, "connect_urls": urls,
    });
    let application = nodes(&format!("nats://{address}"), "", "");
    let host = match Host::start(application.load_for(Some("front"))).await {
        Ok(host) => host,
        Err(problems) => panic!("the node did not start: {:?}", miette::Report::new(problems)),
    };
    // It greets, tells of the other, and ends the connection.
    for _ in 0..6 {
        let (mut stream, _) = tokio::task::block_in_place(|| named.accept()).unwrap();
        stream.write_all(format!("INFO {info}\r\n").as_bytes()).unwrap();
        let mut said = [0; 4_096];
        assert!(tokio::task::block_in_place(|| stream.read(&mut said)).unwrap() > 0);
        stream.write_all(b"PONG\r\n").unwrap();
    }
    let connected = told_of.accept();
    assert!(connected.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock));
    assert!(host.drain().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_json_is_refused_with_a_status() {
    let mut ground = Ground::new().await;
    let subject = ground.subject();
    let deep = ["[".repeat(100_000), "]".repeat(100_000)].concat();
    let deep_argument = format!("[{deep}, 0]");
    let bodies: [&[u8]; 14] = [
        b"",
        b"{\"id\": \"no\", \"ms\": 0}",
        b"\"no\"",
        b"1",
        b"null",
        b"[",
        b"[\"no\"]",
        b"[\"no\", 0, 0]",
        b"[0, \"no\"]",
        b"[\"no\", -1]",
        b"[\"no\", 0] x",
        b"[\"\xff\xfe\", 0]",
        deep.as_bytes(),
        deep_argument.as_bytes(),
    ];
    for body in bodies {
        assert_eq!(ground.status_of(body), Some("400".to_owned()), "{}", String::from_utf8_lossy(body));
    }
    let answer = ground.ask(&ground.subjects.call(TRACK, "no-function"), Some(JSON), b"[]");
    assert_eq!(answer.header("Nats-Service-Error-Code"), Some("404"));
    for kind in ["text/plain", "application/xml", "", "application\u{a0}/json"] {
        let headers = format!("NATS/1.0\r\nContent-Type: {kind}\r\n\r\n");
        let answer = ground.ask(&subject, Some(headers.as_bytes()), b"[\"no\", 0]");
        assert!(matches!(Reply::decode(&answer.payload).unwrap().outcome, Outcome::Refused(_)), "{kind}");
    }
    ground.sound().await;
    ground.end().await;
}

/// What is wrong is as large as a message may be; what is said of it is not.
#[tokio::test(flavor = "multi_thread")]
async fn large_json_is_refused_with_a_status() {
    let mut ground = Ground::new().await;
    let bodies = [
        ("a text over `calls.payload_max`", format!("[\"{}\", 0]", "#".repeat(1_030_000))),
        ("no number", format!("[\"no\", \"{}\"]", "7".repeat(1_040_000))),
        ("no number but a field", format!("[\"no\", {{\"{}\": 0}}]", "x".repeat(1_040_000))),
        ("more after the end", format!("[\"no\", 0] \"{}\"", "x".repeat(1_040_000))),
    ];
    let wrong: Vec<_> = bodies
        .iter()
        .map(|(what, body)| (*what, ground.status_of(body.as_bytes())))
        .filter(|(_, status)| status.as_deref() != Some("400"))
        .collect();
    assert_eq!(wrong, [], "not refused, or not answered");
    ground.sound().await;
    ground.end().await;
}

/// The client ends the connection when it reads such a message. The node makes it anew by itself, and of a call that was
/// under way nobody says that it did not run.
#[tokio::test(flavor = "multi_thread")]
async fn message_that_breaks_the_connection_makes_calls_uncertain_and_nothing_worse() {
    let mut ground = Ground::new().await;
    let (front, back) = (Ground::replica(&ground.front), Ground::replica(&ground.back));
    let mut made: Vec<Call> = ground.ran.iter().map(|id| returned(id)).collect();
    let headers: [&[u8]; 7] = [
        b"NATS/2.0\r\n\r\n",
        b"no version\r\n\r\n",
        b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n",
        b"NATS/1.0 12345\r\n\r\n",
        b"NATS/1.0 abc\r\n\r\n",
        b"NATS/1.0\r\na b: c\r\n\r\n",
    ];
    let subjects = [
        ground.subjects.members(),
        ground.subject(),
        ground.subjects.at(&back, TRACK, "note"),
        ground.subjects.reply(&front, 5),
        "$SRV.PING".to_owned(),
    ];
    let message = |subject: &str, headers: &[u8]| {
        let head = format!("HPUB {subject} {0} {0}\r\n", headers.len());
        [head.as_bytes(), headers, b"\r\n"].concat()
    };
    let mut messages: Vec<_> = headers.iter().map(|headers| message(&subjects[0], headers)).collect();
    messages.extend(subjects[1..].iter().map(|subject| message(subject, headers[0])));
    messages.push([b"PUB cleave.at.".as_slice(), back.as_bytes(), b".\xff\xfe 0\r\n\r\n"].concat());
    let broken = |ground: &Ground| {
        [&ground.front, &ground.back].iter().map(|h| count(&h.bus().unwrap().counts.broken)).sum::<u64>()
    };
    for (number, message) in messages.iter().enumerate() {
        // Calls whose callers have been told may still run.
        while ground.back.pool("ledger").unwrap().running() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let before = broken(&ground);
        let ids = ["note", "note-again"].map(|function| (function, format!("{function}-{number}")));
        let Ground { front, raw, back, .. } = &mut ground;
        let breaking = async {
            while back.pool("ledger").unwrap().running() < 2 {
                tokio::task::yield_now().await;
            }
            raw.send(message);
        };
        let [first, second] = ids.each_ref().map(|(function, id)| note(front, function, id, 300));
        let (first, second, ()) = tokio::join!(first, second, breaking);
        for ((function, id), outcome) in ids.iter().zip([first, second]) {
            let repeatable = *function == "note-again";
            made.push(Call { id: id.clone(), told: told(&outcome), repeatable });
        }
        let shown = String::from_utf8_lossy(message).into_owned();
        eprintln!("{shown:?}: {:?}, {} broken", &made[made.len() - 2..], broken(&ground) - before);
        let began = Instant::now();
        for host in [&ground.front, &ground.back] {
            linked(host, |link| *link == Link::Up).await;
        }
        reachable(&ground.front).await;
        assert!(began.elapsed() < Duration::from_secs(2), "{shown:?}: back after {:?}", began.elapsed());
        let id = format!("after-{number}");
        assert_eq!(note(&ground.front, "note", &id, 0).await, Ok(()), "{shown:?}");
        made.push(returned(&id));
    }
    assert!(made.iter().any(|call| call.told == Told::Uncertain), "no connection broke");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(check(&made, &runs(&ground.front).await), []);
    ground.end().await;
}

fn returned(id: &str) -> Call {
    Call { id: id.to_owned(), told: Told::Returned, repeatable: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_headers_are_read_or_ignored() {
    let mut ground = Ground::new().await;
    let subject = ground.subject();
    let thousands: String = (0..5_000).map(|n| format!("Header-{n}: {n}\r\n")).collect();
    let twice = "Content-Type: application/json\r\n".repeat(3_000);
    let long = format!("traceparent: {}\r\n", "0".repeat(100_000));
    for headers in [&thousands, &twice, &long, "traceparent: \r\nX:\r\nY: a\r\n  folded\r\n", ""] {
        let id = format!("strange-{}", ground.ran.len());
        let headers = format!("NATS/1.0\r\nContent-Type: application/json\r\n{headers}\r\n");
        let answer = ground.ask(&subject, Some(headers.as_bytes()), json!([id, 0]).to_string().as_bytes());
        assert_eq!(answer.header("Nats-Service-Error"), None);
        ground.ran.push(id);
        ground.sound().await;
    }
    ground.end().await;
}

/// A heartbeat of nobody's.
fn heartbeat(node: &str, replica: &str, state: State, modules: &[&str]) -> Heartbeat {
    let held = |name: &&str| Held { name: (*name).to_owned(), digest: String::new(), contracts: Vec::new() };
    Heartbeat {
        node: node.to_owned(),
        replica: replica.to_owned(),
        state,
        cleave: "0".to_owned(),
        started_unix_ms: 0,
        keeps_data: false,
        http: None,
        modules: modules.iter().map(held).collect(),
    }
}

fn members(host: &Host) -> usize {
    host.bus().unwrap().members.all(Instant::now()).len()
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_heartbeat_keeps_a_node_from_calls_until_its_own_comes() {
    let mut ground = Ground::new().await;
    let replicas = [&ground.front, &ground.back].map(Ground::replica);
    let subject = ground.subjects.members();
    for replica in &replicas {
        for state in [State::Left, State::Draining, State::Up] {
            for modules in [&["ledger"][..], &["victim"], &[]] {
                let forged = heartbeat("back", replica, state, modules);
                ground.raw.publish(&subject, None, None, &serde_json::to_vec(&forged).unwrap());
            }
        }
    }
    // One more that says otherwise of `back`: until its own comes it gets no calls, and its callers are told so.
    let forged = heartbeat("back", &replicas[1], State::Draining, &["ledger"]);
    ground.raw.publish(&subject, None, None, &serde_json::to_vec(&forged).unwrap());
    // What comes behind them is dropped when they have been taken in.
    let before = ground.drops();
    ground.raw.publish(&subject, None, None, b"");
    ground.dropped(before, [1, 1]).await;
    let began = Instant::now();
    reachable(&ground.front).await;
    assert!(began.elapsed() < Duration::from_secs(2), "back after {:?}", began.elapsed());
    ground.sound().await;

    let huge = json!({"node": "x", "replica": "y", "state": "up", "cleave": "#".repeat(70_000)});
    let strange = [
        json!(null),
        json!([]),
        json!({"node": "x"}),
        huge,
        json!(heartbeat("a.b", "x", State::Up, &[])),
        json!(heartbeat("x", "a.*.>", State::Up, &[])),
        json!(heartbeat("x", "", State::Up, &[])),
        json!(heartbeat("x", "a b\r\nPING", State::Up, &[])),
        json!(heartbeat("x", &"r".repeat(65), State::Up, &[])),
    ];
    let before = ground.drops();
    for json in &strange {
        ground.raw.publish(&subject, None, None, json.to_string().as_bytes());
    }
    ground.dropped(before, [strange.len() as u64; 2]).await;
    ground.sound().await;
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_forged_replicas_stay_within_the_limit() {
    let mut ground = Ground::new().await;
    let subject = ground.subjects.members();
    let before = ground.drops();
    let known = 2;
    for host in [&ground.front, &ground.back] {
        let began = Instant::now();
        while members(host) < known {
            assert!(began.elapsed() < PATIENCE, "the nodes do not hear of each other");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    for number in 0..3_000 {
        let state = if number % 2 == 0 { State::Up } else { State::Draining };
        let forged = heartbeat("forged", &format!("forged-{number}"), state, &["ledger"]);
        ground.raw.publish(&subject, None, None, &serde_json::to_vec(&forged).unwrap());
    }
    ground.dropped(before, [3_000 - (MEMBERS_MAX - known) as u64; 2]).await;
    assert_eq!([members(&ground.front), members(&ground.back)], [MEMBERS_MAX; 2]);
    // Calls go to the forged ones too, where nobody listens, and each such is forgotten.
    let began = Instant::now();
    while note(&ground.front, "note-again", "found", 0).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "the ledger is not found among the forged replicas");
    }
    eprintln!("found after {:.1?}", began.elapsed());
    ground.ran.push("found".to_owned());
    assert!(members(&ground.front) <= MEMBERS_MAX);
    ground.end().await;
}

/// How many heartbeats are as large as they may be.
const LARGE: usize = 200;

/// Heartbeats as large as they may be keep no node from its calls.
#[tokio::test(flavor = "multi_thread")]
async fn flood_of_large_heartbeats_is_taken_in_time() {
    let mut ground = Ground::new().await;
    let subject = ground.subjects.members();
    let names: Vec<String> = (0..1_000).map(|n| format!("m{n}")).collect();
    let began = Instant::now();
    for number in 0..LARGE {
        let own: Vec<_> = names.iter().map(|name| format!("{name}-{number}")).collect();
        let own: Vec<_> = own.iter().map(String::as_str).collect();
        let forged = heartbeat("forged", &format!("forged-{number}"), State::Draining, &own);
        let json = serde_json::to_vec(&forged).unwrap();
        assert!(json.len() < 64 * 1024);
        ground.raw.publish(&subject, None, None, &json);
    }
    assert!(ground.raw.flush(PATIENCE));
    let sent = began.elapsed();
    // Two more are the nodes' own.
    while members(&ground.front) < LARGE + 2 || members(&ground.back) < LARGE + 2 {
        assert!(began.elapsed() < PATIENCE / 3, "{} taken in {:?}", members(&ground.front), began.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("sent in {sent:.1?}, taken in {:.1?}", began.elapsed());
    ground.sound().await;
    ground.end().await;
}

/// Replicas that are silent make room for one that lives.
#[test]
fn node_that_comes_back_is_called_although_the_list_is_full() {
    let silent_after = Duration::from_secs(4);
    let (members, now) = (Members::new("own", vec!["ledger".to_owned()], silent_after), Instant::now());
    let hears = |replica: &str, modules: &[&str], at: Instant| {
        members.hear(heartbeat("back", replica, State::Up, modules), at)
    };
    hears("back-1", &["ledger"], now);
    for number in 0..MEMBERS_MAX {
        hears(&format!("forged-{number}"), &[], now);
    }
    let later = now + 2 * silent_after;
    hears("back-2", &["ledger"], later);
    members.judge(later);
    assert!(matches!(members.pick("ledger"), Pick::Any | Pick::At(_)), "{:?}", members.pick("ledger"));
}
