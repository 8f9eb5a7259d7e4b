//! Events: what is published arrives at every subscriber and has its effect once, whatever happens on the way.
//!
//! The reader's handlers do what the letters tell them: their language is described in `tests/wit/letters`.

use crate::calls::call;
use cleave_bus::route::Route;
use cleave_host::clock::Clock;
use cleave_host::data::roads;
use cleave_host::data::{DataFolder, Database, EventRow, Limits, Place, State, Transaction};
use cleave_host::host::Host;
use cleave_tests::{ARRANGEMENTS, Application, Arrangement, Database as Store, PATIENCE, built, root};
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve, WorldId};

/// How long an awaited condition rests between two looks at it.
const REST: Duration = Duration::from_millis(5);

/// How long a call or a handler may take whose deadline is no concern of the test's: the machine may be busy.
const DEADLINE: &str = "30s";

/// Waits until a look finds what it looks for. Until then the look says what it sees, for the failure's text.
pub(crate) async fn until<T>(mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(began.elapsed() < PATIENCE, "it does not come; last seen: {seen}"),
        }
        tokio::time::sleep(REST).await;
    }
}

/// The arrangements with data in SQLite files, for what is done to a file or to the clock it goes by.
pub(crate) fn in_files() -> impl Iterator<Item = Arrangement> {
    ARRANGEMENTS.into_iter().filter(|arrangement| arrangement.database == Store::Sqlite)
}

/// The post office and one reader. `events` is added to `[events]`, `reader` to the reader's table.
pub(crate) fn letters(arrangement: Arrangement, events: &str, reader: &str) -> Application {
    let text = config(arrangement, events) + &module("reader", &built("reader"), arrangement, reader);
    Application::new(&text)
}

/// The post office with no reader. What fails is tried again at once, unless `events` says otherwise.
pub(crate) fn config(arrangement: Arrangement, events: &str) -> String {
    let calls = arrangement.calls();
    let backoff = if events.contains("backoff") { "" } else { "backoff = [\"20ms\"]" };
    format!(
        "{calls}deadline = \"{DEADLINE}\"\n[events]\nlease = \"1s\"\n{backoff}\n{events}\n{}",
        module("postoffice", &built("postoffice"), arrangement, "")
    )
}

/// A module's table. Its migrations are those of the guest that its name begins with.
pub(crate) fn module(name: &str, component: &Path, arrangement: Arrangement, more: &str) -> String {
    let guest = name.split('-').next().unwrap();
    let deadline = if more.contains("deadline") { "" } else { &format!("deadline = \"{DEADLINE}\"") };
    format!(
        "[modules.{name}]\ncomponent = \"{}\"\nmigrations = \"{}\"\ngrants = [\"sql\"]\ninstances = \"{}\"\n{deadline}\n{more}\n",
        component.display(),
        root().join("tests/guests").join(guest).join("migrations").display(),
        arrangement.instances,
    )
}

/// The post office and two readers, `reader-a` and `reader-b`, of which the second exports its notes as
/// `test:letters/other`, since a contract has one exporter.
pub(crate) fn two_readers(arrangement: Arrangement, events: &str) -> Application {
    let application = Application::new("");
    let other = application.folder.path().join("other.wasm");
    let mut bytes = std::fs::read(built("reader")).unwrap();
    rename(&mut bytes, b"test:letters/notes", b"test:letters/other");
    rename(&mut bytes, b"test:letters/replies-events", b"test:letters/remarks-events");
    std::fs::write(&other, bytes).unwrap();
    application.write(
        &(config(arrangement, events)
            + &module("reader-a", &built("reader"), arrangement, "")
            + &module("reader-b", &other, arrangement, "")),
    );
    application
}

/// Writes a name of the same length over another, wherever it is.
fn rename(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    for start in 0..=bytes.len() - from.len() {
        if bytes[start..].starts_with(from) {
            bytes[start..start + from.len()].copy_from_slice(to);
        }
    }
}

pub(crate) async fn office(host: &Host, function: &str, arguments: &[Json]) -> Json {
    let answer = call(host, &format!("test:letters/office.{function}"), arguments).await.unwrap();
    answer.get("ok").unwrap_or_else(|| panic!("{function}: {answer}")).clone()
}

/// Publishes letters in their order.
pub(crate) async fn send<K: AsRef<str>, B: AsRef<str>>(host: &Host, letters: &[(K, B)]) {
    let letters: Vec<_> = letters.iter().map(|(key, body)| json!([key.as_ref(), body.as_ref()])).collect();
    assert_eq!(office(host, "send-many", &[json!(letters)]).await, "ok");
}

/// What a reader wrote, in order.
async fn notes_of(host: &Host, contract: &str) -> Vec<Json> {
    let answer = call(host, &format!("test:letters/{contract}.all"), &[]).await.unwrap();
    answer["ok"].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
}

pub(crate) async fn notes(host: &Host) -> Vec<Json> {
    notes_of(host, "notes").await
}

/// The texts of a field of the notes with this key, in order.
pub(crate) fn of_key<'a>(notes: &'a [Json], key: &str, field: &str) -> Vec<&'a str> {
    notes.iter().filter(|note| note["key"] == key).map(|note| note[field].as_str().unwrap()).collect()
}

/// The texts of the answers to the letters with this key, in order.
pub(crate) async fn answers(host: &Host, key: &str) -> Vec<String> {
    let answers = office(host, "answers", &[]).await;
    of_key(answers.as_array().unwrap(), key, "text").into_iter().map(str::to_owned).collect()
}

/// The events of every module that are on their way or dead, and whether any is on the road between two of them or left in
/// an outbox although nobody waits for it.
async fn events(hosts: &[&Host]) -> (Vec<EventRow>, bool) {
    let (mut events, mut databases) = (Vec::new(), Vec::new());
    for host in hosts {
        for module in &host.application.modules {
            events.extend(host.events(module.name.as_str()).await.unwrap());
            databases.extend(host.database(module.name.as_str()).map(|database| (&module.name, database)));
        }
    }
    let mut on_the_road = false;
    for (_, from) in &databases {
        let left = "SELECT position FROM cleave_outbox LIMIT 1";
        let left = from.host_query(left, &[], Instant::now() + PATIENCE).await.unwrap();
        on_the_road |= !left.rows.is_empty();
        for (subscriber, to) in &databases {
            let deadline = Instant::now() + PATIENCE;
            let place = roads::under_way(from, subscriber.as_str(), to, deadline).await.unwrap();
            on_the_road |= place.is_some();
        }
    }
    (events, on_the_road)
}

/// Waits until no event is on its way, and gives the dead letters.
async fn settled(host: &Host) -> Vec<EventRow> {
    settled_all(&[host]).await
}

/// As [`settled`], of events between several hosts.
pub(crate) async fn settled_all(hosts: &[&Host]) -> Vec<EventRow> {
    let mut looks = 0;
    until(async || {
        let (events, on_the_road) = events(hosts).await;
        let is_settled = !on_the_road && events.iter().all(|event| event.state == State::Dead);
        // Why: an event may hop from a module not yet looked at to one that was. It is not that quick twice.
        looks = if is_settled { looks + 1 } else { 0 };
        if looks == 2 { Ok(events) } else { Err(format!("{events:?}, on the road or left: {on_the_road}")) }
    })
    .await
}

/// Waits until no event is on its way, of which none has become a dead letter.
async fn all_done(host: &Host) {
    let dead = settled(host).await;
    assert!(dead.is_empty(), "{dead:?}");
}

/// The dead letter with this key.
fn dead_letter<'a>(dead: &'a [EventRow], key: &str) -> &'a EventRow {
    let found: Vec<_> = dead.iter().filter(|event| event.key.contains(key)).collect();
    assert_eq!(found.len(), 1, "{key}: {dead:?}");
    assert_eq!(found[0].place, Place::Inbox, "{found:?}");
    found[0]
}

/// Every event has had its effect once.
pub(crate) fn assert_once(notes: &[Json]) {
    let mut identities: Vec<_> = notes.iter().map(|note| note["event"].as_str().unwrap()).collect();
    identities.sort_unstable();
    let count = identities.len();
    identities.dedup();
    assert_eq!(identities.len(), count, "an event had its effect twice: {notes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn event_reaches_its_handler_with_its_context() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "", "");
        let host = application.host().await;
        let since = Clock::system().now();
        assert_eq!(office(&host, "send", &[json!("a"), json!("note")]).await, "ok");
        assert_eq!(office(&host, "send-parcel", &[json!(7), json!("a book")]).await, "ok");
        assert_eq!(office(&host, "send-weight", &[json!("c"), json!(1.5)]).await, "ok");
        all_done(&host).await;
        let notes = notes(&host).await;
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert_once(&notes);
        for (key, body) in [("a", "note"), ("7", "a book"), ("c", "1.5")] {
            assert_eq!(of_key(&notes, key, "body"), [body], "{notes:?}");
        }
        for note in &notes {
            assert_eq!(note["attempt"], 1);
            let published = note["published_at"].as_i64().unwrap();
            assert!((since..=Clock::system().now()).contains(&published), "{note}");
            let event = note["event"].as_str().unwrap();
            let groups: Vec<_> = event.split('-').map(str::len).collect();
            assert_eq!(groups, [8, 4, 4, 4, 12], "{event}");
            assert!(event.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f' | '-')), "{event}");
        }
        let ordinary = call(&host, "test:letters/notes.handles-event", &[]).await;
        assert_eq!(ordinary, Ok(json!({"ok": false})));
        arrangement.end(host).await;
    }
}

/// What a handler does, what the notes it leaves have seen, and the text of its dead letter if it ends as one.
type Handled = (&'static str, &'static [&'static str], Option<&'static str>);

/// One transaction, whatever the handler does with it.
const HANDLED: [Handled; 18] = [
    ("", &[], None),
    ("note note", &["", "note=ok"], None),
    ("begin note commit", &["begin=ok"], None),
    // It is the handler's only one.
    ("begin begin note commit", &["begin=ok begin=transaction-open"], None),
    ("begin outside note commit", &["begin=ok outside=transaction-open"], None),
    // After `commit` it is closed; what was written before stands.
    ("begin note commit note begin clash outside", &["begin=ok"], None),
    (
        "begin note commit begin note outside clash read answer:late reject",
        &[],
        Some(
            "begin=ok note=ok commit=ok begin=aborted note=aborted outside=aborted clash=aborted \
             read=aborted answer=retry",
        ),
    ),
    ("note begin note commit outside", &["", "note=ok begin=ok"], None),
    // A statement of its own that fails undoes itself.
    ("note clash note", &["", "note=ok clash=violates"], None),
    ("clash clash note", &["clash=violates clash=violates"], None),
    // A statement that fails after `begin` dooms what was done since.
    (
        "begin note clash note commit reject",
        &[],
        Some("begin=ok note=ok clash=violates note=aborted commit=aborted"),
    ),
    (
        "note begin note clash drop begin note commit",
        &["", "note=ok begin=ok note=ok clash=violates begin=ok"],
        None,
    ),
    // A handle that is dropped undoes what was done since `begin`.
    ("note begin note drop", &[""], None),
    ("note begin note drop note", &["", "note=ok begin=ok note=ok"], None),
    ("begin note answer:dropped drop note", &["begin=ok note=ok answer=ok"], None),
    // As does one that is still open when the handler returns.
    ("note begin note", &[""], None),
    // A handler sees what it wrote.
    (
        "note read begin read note read drop read note",
        &["", "note=ok read=1 begin=ok read=1 note=ok read=2 read=1"],
        None,
    ),
    // All of it goes when the handler refuses.
    (
        "note begin note commit answer:refused reject",
        &[],
        Some("note=ok begin=ok note=ok commit=ok answer=retry"),
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn handler_is_one_transaction() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "", "");
        let host = application.host().await;
        let handled: Vec<_> = (100..).map(|n| n.to_string()).zip(HANDLED).collect();
        let sent: Vec<_> = handled.iter().map(|(key, (body, ..))| (key, body)).collect();
        send(&host, &sent).await;
        let dead = settled(&host).await;
        let notes = notes(&host).await;
        for (key, (body, seen, refused)) in &handled {
            assert_eq!(of_key(&notes, key, "seen"), *seen, "`{body}`");
            match refused {
                None => assert!(!dead.iter().any(|event| event.key.contains(key)), "`{body}`: {dead:?}"),
                Some(text) => {
                    let error = dead_letter(&dead, key).error.as_deref().unwrap();
                    assert!(error.contains(text), "`{body}`: {error}");
                }
            }
            assert_eq!(answers(&host, key).await, [""; 0], "`{body}`");
        }
        assert!(notes.iter().all(|note| note["attempt"] == 1), "{notes:?}");
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_attempts_leave_nothing_behind() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "", "");
        let host = application.host().await;
        let bodies = [
            "note until:3 trap",
            "note until:3 retry",
            "begin note commit until:3 trap",
            "begin note commit until:3 retry",
            "note answer:x until:3 trap",
            "note answer:x until:3 retry",
            "begin note answer:x commit until:3 trap",
            "note clash until:3 retry",
        ];
        let sent: Vec<_> = bodies.iter().map(|body| (body, body)).collect();
        send(&host, &sent).await;
        all_done(&host).await;
        let notes = notes(&host).await;
        assert_eq!(notes.len(), bodies.len(), "{notes:?}");
        assert_once(&notes);
        assert!(notes.iter().all(|note| note["attempt"] == 3), "{notes:?}");
        for body in bodies {
            let expected = if body.contains("answer") { &["x"][..] } else { &[] };
            assert_eq!(answers(&host, body).await, expected, "`{body}`");
        }
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn traps_make_a_dead_letter_after_six() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "", "");
        let host = application.host().await;
        send(&host, &[("trapping", "note answer:x trap")]).await;
        let dead = settled(&host).await;
        let letter = dead_letter(&dead, "trapping");
        assert_eq!(letter.attempts, 6);
        assert!(letter.error.as_deref().unwrap().contains("unreachable"), "{letter:?}");
        assert!(letter.contract_function.contains("test:letters/events"), "{letter:?}");
        assert!(letter.contract_function.ends_with("letter"), "{letter:?}");
        assert!(letter.payload.contains("note answer:x trap"), "{letter:?}");
        assert_eq!(notes(&host).await, [Json::Null; 0]);
        assert_eq!(answers(&host, "trapping").await, [""; 0]);
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_makes_a_dead_letter_at_once() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "", "");
        let host = application.host().await;
        send(&host, &[("refused", "note answer:x reject")]).await;
        let dead = settled(&host).await;
        let letter = dead_letter(&dead, "refused");
        assert_eq!(letter.attempts, 1);
        assert!(letter.error.as_deref().unwrap().contains("note=ok answer=ok"), "{letter:?}");
        assert_eq!(notes(&host).await, [Json::Null; 0]);
        assert_eq!(answers(&host, "refused").await, [""; 0]);
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_is_given_up_after_its_time() {
    for arrangement in ARRANGEMENTS {
        // More than the six attempts that a trap has.
        let application = letters(arrangement, "give_up_after = \"1s\"", "");
        let host = application.host().await;
        send(&host, &[("later", "note retry")]).await;
        let dead = settled(&host).await;
        let letter = dead_letter(&dead, "later");
        assert!(letter.attempts > 6, "{letter:?}");
        assert!(letter.error.as_deref().unwrap().contains("note=ok"), "{letter:?}");
        assert_eq!(notes(&host).await, [Json::Null; 0]);
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempt_past_the_deadline_counts() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "attempts_max = 2", "deadline = \"1s\"");
        let host = application.host().await;
        // One by one: a handler that has written holds up the other writers of its module.
        send(&host, &[("slow", "note until:2 spin")]).await;
        all_done(&host).await;
        send(&host, &[("endless", "note spin"), ("asleep", "sleep:60000 note")]).await;
        let dead = settled(&host).await;
        assert_eq!(dead.len(), 2, "{dead:?}");
        for key in ["endless", "asleep"] {
            let letter = dead_letter(&dead, key);
            assert_eq!(letter.attempts, 2);
            assert!(letter.error.as_deref().unwrap().contains("did not answer within"), "{letter:?}");
        }
        let notes = notes(&host).await;
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert_eq!((&notes[0]["key"], &notes[0]["attempt"]), (&json!("slow"), &json!(2)));
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_transaction_is_over_at_the_next_event() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "", "concurrency = 1");
        let host = application.host().await;
        send(&host, &[("k", "begin note keep"), ("k", "begin kept note commit")]).await;
        all_done(&host).await;
        let notes = notes(&host).await;
        let seen: Vec<_> = notes
            .iter()
            .filter(|note| note["body"] == "begin kept note commit")
            .map(|note| note["seen"].as_str().unwrap())
            .collect();
        // A fresh instance has kept nothing; a pooled one finds its handle dead, beside a transaction of its own.
        let kept = if arrangement.instances == "fresh" { "none" } else { "aborted" };
        assert_eq!(seen, [format!("begin=ok kept={kept}")], "{arrangement:?}");
        arrangement.end(host).await;
    }
}

/// Every second letter, from this one on.
fn every_second(letters: &[(String, String)], first: usize) -> Vec<(String, String)> {
    letters.iter().skip(first).step_by(2).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_event_waits_out_its_backoff() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "backoff = [\"1h\"]", "");
        let host = application.host().await;
        let letters: Vec<_> = (0..100).map(|n| (format!("key-{n}"), "note until:2 retry")).collect();
        send(&host, &letters).await;
        until(async || {
            let (events, on_the_road) = events(&[&host]).await;
            let waits = |event: &&EventRow| event.place == Place::Outbox || event.attempts == 0;
            match events.iter().filter(waits).count() {
                0 if !on_the_road => Ok(()),
                count => Err(format!("{count} events not tried yet")),
            }
        })
        .await;
        let tried = events(&[&host]).await.0;
        assert!(tried.iter().all(|event| event.attempts == 1), "{tried:?}");
        assert_eq!(tried.len(), letters.len(), "some did not wait: {:?}", notes(&host).await);
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_key_keep_their_order() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "attempts_max = 1000", "");
        let host = application.host().await;
        let letters: Vec<_> = (0..200)
            .map(|n| {
                let failure = match n % 17 {
                    3 => "until:3 retry",
                    11 => "until:2 trap",
                    _ => "",
                };
                (format!("key-{}", n % 10), format!("note #{n:03} {failure}"))
            })
            .collect();
        // Two publish at once, each for its own keys.
        let (even, odd) = (every_second(&letters, 0), every_second(&letters, 1));
        tokio::join!(send(&host, &even), send(&host, &odd));
        all_done(&host).await;
        // No handler has run more often than it had to.
        let sum = |wanted: usize| (0..200).filter(|n| n % 17 == wanted).count() as u64;
        let counts = &host.pool("reader").unwrap().counts;
        assert_eq!(counts.returned.load(Ordering::Relaxed), 200 + 2 * sum(3), "{arrangement:?}");
        assert_eq!(counts.failed.load(Ordering::Relaxed), sum(11), "{arrangement:?}");
        let notes = notes(&host).await;
        assert_eq!(notes.len(), 200);
        assert_once(&notes);
        for key in (0..10).map(|k| format!("key-{k}")) {
            let sent: Vec<_> = letters.iter().filter(|(k, _)| *k == key).map(|(_, body)| body).collect();
            assert_eq!(of_key(&notes, &key, "body"), sent);
        }
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_key_wait_for_each_other_whatever_they_are() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "", "");
        let host = application.host().await;
        send(&host, &[("7", "note until:3 retry")]).await;
        assert_eq!(office(&host, "send-weight", &[json!("7"), json!(1.5)]).await, "ok");
        assert_eq!(office(&host, "send-parcel", &[json!(7), json!("a book")]).await, "ok");
        send(&host, &[("7", "note #last")]).await;
        all_done(&host).await;
        let bodies = ["note until:3 retry", "1.5", "a book", "note #last"];
        assert_eq!(of_key(&notes(&host).await, "7", "body"), bodies);
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn poisoned_event_holds_up_only_its_key() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "backoff = [\"1s\"]\nattempts_max = 4", "");
        let host = application.host().await;
        let others: Vec<_> = (0..40).map(|n| (format!("other-{}", n % 4), format!("note #{n}"))).collect();
        send(&host, &[("poisoned", "note trap"), ("poisoned", "note #after")]).await;
        send(&host, &others).await;
        until(async || {
            let notes = notes(&host).await;
            if notes.len() >= others.len() { Ok(()) } else { Err(format!("{} notes", notes.len())) }
        })
        .await;
        // The others have all passed the poisoned event, and what follows it has not.
        assert_eq!(of_key(&notes(&host).await, "poisoned", "body"), [""; 0]);
        let waiting = events(&[&host]).await.0;
        assert_eq!(waiting.iter().filter(|event| event.key.contains("poisoned")).count(), 2, "{waiting:?}");
        assert!(waiting.iter().all(|event| event.state != State::Dead), "{waiting:?}");
        let dead = settled(&host).await;
        assert_eq!(dead_letter(&dead, "poisoned").attempts, 4);
        let notes = notes(&host).await;
        assert_eq!(notes.len(), others.len() + 1);
        assert_once(&notes);
        assert_eq!(of_key(&notes, "poisoned", "body"), ["note #after"]);
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handler_that_holds_the_database_fails_alone() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "", "deadline = \"500ms\"");
        let host = application.host().await;
        let others: Vec<_> = (0..8).map(|n| (format!("other-{n}"), "note")).collect();
        send(&host, &[("endless", "note spin")]).await;
        let pool = host.pool("reader").unwrap();
        until(async || if pool.running() > 0 { Ok(()) } else { Err("it does not run".to_owned()) }).await;
        // Why: whose deadline is that of the one that holds the database, ends with it.
        pass(Duration::from_millis(250)).await;
        send(&host, &others).await;
        let dead = settled(&host).await;
        assert_eq!(dead_letter(&dead, "endless").attempts, 6);
        assert_eq!(dead.len(), 1, "{dead:?}");
        let notes = notes(&host).await;
        assert_eq!(notes.len(), others.len());
        assert_once(&notes);
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_subscriber_gets_every_event_once() {
    for arrangement in ARRANGEMENTS {
        let application = two_readers(arrangement, "attempts_max = 1000");
        let host = application.host().await;
        // The second reader traps until it has room.
        assert_eq!(call(&host, "test:letters/other.fill", &[json!(1)]).await, Ok(json!({"ok": 1})));
        let letters: Vec<_> =
            (0..30).map(|n| (format!("key-{}", n % 3), format!("room note #{n:02}"))).collect();
        send(&host, &letters).await;
        until(async || {
            let notes = notes(&host).await;
            if notes.len() == 30 { Ok(()) } else { Err(format!("{} notes", notes.len())) }
        })
        .await;
        assert_eq!(notes_of(&host, "other").await, [Json::Null; 0]);
        assert_eq!(call(&host, "test:letters/other.make-room", &[]).await, Ok(json!({"ok": 1})));
        all_done(&host).await;
        let (first, second) = (notes(&host).await, notes_of(&host, "other").await);
        assert_once(&first);
        assert_once(&second);
        for key in ["key-0", "key-1", "key-2"] {
            let sent: Vec<_> = letters.iter().filter(|(k, _)| k == key).map(|(_, body)| body).collect();
            assert_eq!(of_key(&first, key, "body"), sent);
            assert_eq!(of_key(&second, key, "body"), sent);
            // The same event has the same identity for both.
            assert_eq!(of_key(&first, key, "event"), of_key(&second, key, "event"));
        }
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_round_in_a_cycle() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "", "");
        let host = application.host().await;
        send(&host, &[("round", "note answer:forward:note")]).await;
        // Reader, post office, and the reader again.
        until(async || {
            let notes = notes(&host).await;
            if notes.len() == 2 { Ok(()) } else { Err(format!("{notes:?}")) }
        })
        .await;
        all_done(&host).await;
        let notes = notes(&host).await;
        assert_eq!(of_key(&notes, "round", "body"), ["note answer:forward:note", "note"]);
        assert_eq!(answers(&host, "round").await, ["forward:note"]);
        assert_once(&notes);
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_take_half_of_the_module() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "", "concurrency = 4");
        let host = application.host().await;
        let letters: Vec<_> = (0..6).map(|n| (format!("key-{n}"), "sleep:400 note")).collect();
        send(&host, &letters).await;
        // Nobody else calls the reader until they are done.
        let (pool, mut most) = (host.pool("reader").unwrap(), 0);
        until(async || {
            most = most.max(pool.running());
            if most > 1 && pool.running() == 0 { Ok(()) } else { Err(format!("{most} at once so far")) }
        })
        .await;
        drop(pool);
        assert_eq!(most, 2, "{arrangement:?}");
        all_done(&host).await;
        let notes = notes(&host).await;
        assert_eq!(notes.len(), 6);
        assert_once(&notes);
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn module_of_one_call_at_a_time_still_handles_events() {
    let application = letters(ARRANGEMENTS[0], "", "concurrency = 1");
    let host = application.host().await;
    let letters: Vec<_> = (0..5).map(|n| (format!("key-{n}"), "note")).collect();
    send(&host, &letters).await;
    all_done(&host).await;
    assert_eq!(notes(&host).await.len(), 5);
    assert!(host.drain().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn event_outside_a_transaction_stands_by_itself() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "", "");
        let host = application.host().await;
        let arguments = [json!("trapped"), json!("note")];
        call(&host, "test:letters/office.send-and-trap", &arguments).await.unwrap_err();
        all_done(&host).await;
        assert_eq!(of_key(&notes(&host).await, "trapped", "body"), ["note"]);
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_in_a_transaction_stands_or_falls_with_it() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "", "");
        let host = application.host().await;
        for ending in ["roll_back", "commit", "leave_open", "trap"] {
            let arguments = [json!(ending), json!("note"), json!(ending)];
            let answer = call(&host, "test:letters/office.send-in-transaction", &arguments).await;
            if ending == "trap" {
                assert!(answer.unwrap_err().may_have_run());
            } else {
                assert_eq!(answer.unwrap(), json!({"ok": "ok"}), "{ending}");
            }
        }
        let doomed = office(&host, "send-in-doomed", &[json!("doomed"), json!("note")]).await;
        assert!(doomed.as_str().unwrap().starts_with("retry: "), "{doomed}");
        // What went wrong has spoilt nothing for the next.
        send(&host, &[("last", "note")]).await;
        all_done(&host).await;
        let notes = notes(&host).await;
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert_eq!(of_key(&notes, "commit", "body"), ["note"]);
        assert_eq!(of_key(&notes, "last", "body"), ["note"]);
        assert_eq!(office(&host, "sent", &[]).await, json!(["note"]));
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_that_cannot_be_carried_is_rejected() {
    for arrangement in ARRANGEMENTS {
        let events = "[calls]\npayload_max = \"64KiB\"";
        let application = letters(arrangement, "", "");
        let config = std::fs::read_to_string(application.config()).unwrap();
        application.write(&config.replace("[calls]", events));
        let host = application.host().await;
        for (function, arguments, reason) in [
            ("send-big", vec![json!("big"), json!(65_536)], "calls.payload_max"),
            ("send-no-weight", vec![json!("none")], ""),
        ] {
            let said = office(&host, function, &arguments).await;
            let said = said.as_str().unwrap();
            assert!(said.starts_with("reject: ") && said.contains(reason), "{function}: {said}");
        }
        assert_eq!(events_of(&host, "postoffice").await, []);
        // What just fits arrives.
        assert_eq!(office(&host, "send-big", &[json!("fits"), json!(65_000)]).await, "ok");
        assert_eq!(office(&host, "send", &[json!("last"), json!("note")]).await, "ok");
        all_done(&host).await;
        assert_eq!(notes(&host).await.len(), 1);
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_without_a_subscriber_is_taken_and_dropped() {
    for arrangement in ARRANGEMENTS {
        let application = Application::new(&config(arrangement, ""));
        let host = application.host().await;
        send(&host, &[("nobody", "note"), ("nobody", "note")]).await;
        let arguments = [json!("nobody"), json!("note"), json!("commit")];
        assert_eq!(office(&host, "send-in-transaction", &arguments).await, "ok");
        assert_eq!(settled(&host).await, []);
        assert_eq!(host.dropped_events(), 3);
        arrangement.end(host).await;
    }
}

/// What publishes letters and imports nothing else: `put` publishes one with the key `k` and the body `note`, and gives
/// 0 if it was taken. The bytes are a core module, which becomes a component with the types of `tests/wit/letters`.
fn postbox() -> Vec<u8> {
    const IMPORT: &[u8] = b"test:letters/events@0.1.0";
    const EXPORT: &[u8] = b"test:box/box#put";
    let named = |name: &[u8]| [&[u8::try_from(name.len()).unwrap()], name].concat();
    let section = |id: u8, content: &[u8]| [&[id, u8::try_from(content.len()).unwrap()], content].concat();
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        // Types: of `letter`, which writes its result to memory; of `cabi_realloc`; of `put`.
        section(
            1,
            b"\x03\x60\x05\x7f\x7f\x7f\x7f\x7f\0\x60\x04\x7f\x7f\x7f\x7f\x01\x7f\x60\0\x01\x7f",
        ),
        section(2, &[&[1], &*named(IMPORT), &*named(b"letter"), &[0, 0]].concat()),
        section(3, &[2, 1, 2]),
        // One page of memory.
        section(5, &[1, 0, 1]),
        section(
            7,
            &[
                &[3],
                &*named(b"memory"),
                &[2, 0],
                &*named(b"cabi_realloc"),
                &[0, 1],
                &*named(EXPORT),
                &[0, 2],
            ]
            .concat(),
        ),
        // `cabi_realloc` gives 1024: there is at most one text, that of an error. `put` calls `letter` with the key at
        // 0, the body at 1 and the result at 16, and gives the result's case.
        section(
            10,
            b"\x02\x05\0\x41\x80\x08\x0b\x13\0\x41\0\x41\x01\x41\x01\x41\x04\x41\x10\x10\0\x41\x10\x2d\0\0\x0b",
        ),
        section(11, &[&[1, 0, 0x41, 0, 0x0b], &*named(b"knote")].concat()),
    ]
    .concat();
    let text = "package test:box; interface box { put: func() -> u32; } \
                world w { import test:letters/events@0.1.0; export box; }";
    component(&[root().join("tests/wit/letters")], text, |_, _| module)
}

/// A component of the world `w` in a WIT text with this core module. The text may use the packages in these folders, and
/// those that events are made with.
fn component(folders: &[PathBuf], text: &str, core: impl FnOnce(&Resolve, WorldId) -> Vec<u8>) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let own = ["call", "events"].map(|package| root().join("wit/cleave").join(package));
    for folder in own.iter().chain(folders) {
        resolve.push_dir(folder).unwrap();
    }
    let package = resolve.push_str(Path::new("test.wit"), text).unwrap();
    let world = resolve.select_world(&[package], Some("w")).unwrap();
    let mut module = core(&resolve, world);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

/// A component whose functions trap.
fn trapping(text: &str) -> Vec<u8> {
    let mangling = ManglingAndAbi::Legacy(LiftLowerAbi::Sync);
    component(&[], text, |resolve, world| wit_component::dummy_module(resolve, world, mangling))
}

#[tokio::test(flavor = "multi_thread")]
async fn module_without_a_grant_may_publish() {
    for arrangement in ARRANGEMENTS {
        let application = Application::new("");
        let component = application.folder.path().join("postbox.wasm");
        std::fs::write(&component, postbox()).unwrap();
        application.write(&format!(
            "{}[modules.postbox]\ncomponent = \"{}\"\n{}",
            arrangement.calls(),
            component.display(),
            module("reader", &built("reader"), arrangement, ""),
        ));
        let host = application.host().await;
        for _ in 0..3 {
            assert_eq!(call(&host, "test:box/box.put", &[]).await, Ok(json!(0)));
        }
        all_done(&host).await;
        assert_eq!(of_key(&notes(&host).await, "k", "body"), ["note"; 3]);
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn module_without_a_grant_may_handle() {
    let application = Application::new("");
    let bytes = trapping(
        "package test:letters@0.1.0; \
         interface events { use cleave:events/types@0.1.0.{error}; \
         letter: func(key: string, body: string) -> result<_, error>; } \
         world w { export events; }",
    );
    let component = application.folder.path().join("trapping.wasm");
    std::fs::write(&component, bytes).unwrap();
    application.write(&format!(
        "{}\n[modules.trapping]\ncomponent = \"{}\"\n",
        config(ARRANGEMENTS[0], ""),
        component.display()
    ));
    let host = application.host().await;
    send(&host, &[("k", "note")]).await;
    assert_eq!(dead_letter(&settled(&host).await, "k").attempts, 6);
    assert!(host.drain().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_and_start_lose_no_event() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "backoff = [\"300ms\"]", "concurrency = 4");
        let host = application.host().await;
        let letters: Vec<_> = (0..24)
            .map(|n| (format!("key-{}", n % 8), format!("sleep:20 note #{n:02} until:{} retry", n % 3)))
            .collect();
        send(&host, &letters).await;
        // Some are done, some run and some wait for another attempt.
        until(async || {
            let notes = notes(&host).await;
            if notes.len() > 2 { Ok(()) } else { Err(format!("{} notes", notes.len())) }
        })
        .await;
        arrangement.end(host).await;
        let host = application.host().await;
        all_done(&host).await;
        let notes = notes(&host).await;
        assert_eq!(notes.len(), letters.len());
        assert_once(&notes);
        for note in &notes {
            // An attempt before the stop counts after it.
            let attempt = if note["body"].as_str().unwrap().contains("until:2") { 2 } else { 1 };
            assert_eq!(note["attempt"], attempt, "{note}");
        }
        for key in (0..8).map(|k| format!("key-{k}")) {
            let sent: Vec<_> = letters.iter().filter(|(k, _)| *k == key).map(|(_, body)| body).collect();
            assert_eq!(of_key(&notes, &key, "body"), sent);
        }
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_waits_for_a_subscriber_that_left_the_config() {
    for arrangement in in_files() {
        let application = letters(arrangement, "[data]\nlock_wait = \"20ms\"", "");
        let with_reader = std::fs::read_to_string(application.config()).unwrap();
        let (without, _) = with_reader.split_once("[modules.reader]").unwrap();
        let host = application.host().await;
        let (locked, _elsewhere) = lock(&application, "reader").await;
        send(&host, &[("k", "note #1"), ("k", "note #2")]).await;
        arrangement.end(host).await;
        drop(locked);
        application.write(without);
        let host = application.host().await;
        assert_eq!(office(&host, "send", &[json!("k"), json!("note #nobody")]).await, "ok");
        let waiting = events(&[&host]).await.0;
        // One that has left by the road is in neither of the two.
        assert!(waiting.len() == 2 || arrangement.route == Route::Remote, "{waiting:?}");
        arrangement.end(host).await;
        application.write(&with_reader);
        let host = application.host().await;
        all_done(&host).await;
        assert_eq!(of_key(&notes(&host).await, "k", "body"), ["note #1", "note #2"]);
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_that_the_handler_cannot_take_any_more_is_a_dead_letter() {
    for (handler, reason) in [
        ("weight: func(key: string, grams: f64)", "does not handle"),
        ("letter: func(key: string, body: u32)", "does not fit"),
    ] {
        let application = letters(ARRANGEMENTS[0], "", "");
        let host = application.host().await;
        send(&host, &[("k", "note retry")]).await;
        failed_once(&host).await;
        assert!(host.drain().await);
        let component = application.folder.path().join("changed.wasm");
        let bytes = trapping(&format!(
            "package test:letters@0.1.0; interface events {{ use cleave:events/types@0.1.0.{{error}}; \
             {handler} -> result<_, error>; }} world w {{ export events; }}"
        ));
        std::fs::write(&component, bytes).unwrap();
        application.write(&module("reader", &component, ARRANGEMENTS[0], ""));
        let host = application.host().await;
        let dead = settled(&host).await;
        let error = dead_letter(&dead, "k").error.as_deref().unwrap();
        assert!(error.contains(reason), "{error}");
        assert!(host.drain().await);
    }
}

/// Calls a function of the process that runs the application.
fn call_process(application: &Application, function: &str, arguments: &[&str]) -> Json {
    let output = application.run("call", &[&[function], arguments].concat());
    assert!(output.status.success(), "{function}: {}", cleave_tests::stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The number of notes in what a call of `all` gave, with or without the `ok` around it.
fn count(answer: &Json) -> usize {
    answer.get("ok").unwrap_or(answer).as_array().unwrap_or_else(|| panic!("{answer}")).len()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_process_loses_no_event_and_repeats_none() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "", "concurrency = 4");
        let mut sent = 0;
        for _ in 0..3 {
            let process = application.up_without_http();
            let more: Vec<_> = (sent..sent + 30)
                .map(|n| json!([format!("key-{}", n % 5), format!("note sleep:20 answer:{n} #{n:02}")]))
                .collect();
            sent += more.len();
            call_process(&application, "test:letters/office.send-many", &[&json!(more).to_string()]);
            // Handlers run: some of these letters have been handled, not all.
            let before = sent - more.len();
            until(async || {
                let notes = count(&call_process(&application, "test:letters/notes.all", &[]));
                if notes > before + 3 { Ok(()) } else { Err(format!("{notes} notes of {sent}")) }
            })
            .await;
            process.kill();
        }
        let host = application.host().await;
        all_done(&host).await;
        let notes = notes(&host).await;
        assert_eq!(notes.len(), sent, "{arrangement:?}");
        assert_once(&notes);
        // An attempt that the kill cut off does not count.
        assert!(notes.iter().all(|note| note["attempt"] == 1), "{notes:?}");
        for key in (0..5).map(|k| format!("key-{k}")) {
            let numbers: Vec<_> = (0..sent).filter(|n| key == format!("key-{}", n % 5)).collect();
            let bodies: Vec<_> =
                numbers.iter().map(|n| format!("note sleep:20 answer:{n} #{n:02}")).collect();
            assert_eq!(of_key(&notes, &key, "body"), bodies);
            let texts: Vec<_> = numbers.iter().map(ToString::to_string).collect();
            assert_eq!(answers(&host, &key).await, texts);
        }
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_put_forward_lets_the_next_attempt_begin() {
    for arrangement in in_files() {
        let application = letters(arrangement, "backoff = [\"1h\"]", "");
        let clock = Clock::system();
        let host = application.host_at(clock.clone()).await;
        send(&host, &[("k", "note until:2 retry"), ("k", "note #after")]).await;
        failed_once(&host).await;
        clock.jump(HOUR_MS);
        all_done(&host).await;
        let notes = notes(&host).await;
        assert_eq!(of_key(&notes, "k", "body"), ["note until:2 retry", "note #after"]);
        assert_eq!(notes[0]["attempt"], 2);
        send(&host, &[("k", "note #later")]).await;
        all_done(&host).await;
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_put_back_stops_no_event() {
    for arrangement in ARRANGEMENTS {
        let application = letters(arrangement, "backoff = [\"500ms\"]", "");
        let clock = Clock::system();
        let host = application.host_at(clock.clone()).await;
        send(&host, &[("k", "note until:2 retry"), ("k", "note #after")]).await;
        failed_once(&host).await;
        clock.jump(-HOUR_MS);
        send(&host, &[("k", "note #later"), ("other", "note")]).await;
        all_done(&host).await;
        let notes = notes(&host).await;
        assert_once(&notes);
        assert_eq!(of_key(&notes, "k", "body"), ["note until:2 retry", "note #after", "note #later"]);
        assert_eq!(of_key(&notes, "other", "body"), ["note"]);
        arrangement.end(host).await;
    }
}

/// An hour, in milliseconds.
pub(crate) const HOUR_MS: i64 = 60 * 60 * 1000;

/// Waits until an event of the reader has failed an attempt.
async fn failed_once(host: &Host) {
    until(async || {
        let events = events_of(host, "reader").await;
        if events.iter().any(|event| event.attempts > 0) { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
}

async fn events_of(host: &Host, module: &str) -> Vec<EventRow> {
    host.events(module).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn full_subscriber_holds_up_only_itself() {
    for arrangement in in_files() {
        let application = two_readers(arrangement, "[data]\ndatabase_max = \"1MiB\"");
        let host = application.host().await;
        let filled = call(&host, "test:letters/notes.fill", &[json!(1000)]).await.unwrap();
        assert!((10..64).contains(&filled["ok"].as_u64().unwrap()), "{filled}");
        // What room is left below a whole blob is less than these take.
        let letters: Vec<_> = (0..10)
            .map(|n| (format!("key-{}", n % 2), format!("note #{n}{}", "x".repeat(8 * 1024))))
            .collect();
        send(&host, &letters).await;
        until(async || {
            let notes = notes_of(&host, "other").await;
            if notes.len() == letters.len() { Ok(()) } else { Err(format!("{} notes", notes.len())) }
        })
        .await;
        let waiting = events_of(&host, "postoffice").await;
        let on_the_road = events(&[&host]).await.1;
        assert!(!waiting.is_empty() || on_the_road, "a full database has taken every event");
        assert!(waiting.iter().all(|event| event.place == Place::Outbox), "{waiting:?}");
        // The publisher works on.
        send(&host, &[("key-0", "note #last")]).await;
        let room = call(&host, "test:letters/notes.make-room", &[]).await.unwrap();
        assert_eq!(room, filled);
        all_done(&host).await;
        for contract in ["notes", "other"] {
            let notes = notes_of(&host, contract).await;
            assert_eq!(notes.len(), letters.len() + 1, "{contract}");
            assert_once(&notes);
            let first: Vec<_> =
                letters.iter().filter(|(key, _)| key == "key-1").map(|(_, body)| body).collect();
            assert_eq!(of_key(&notes, "key-1", "body"), first);
        }
        arrangement.end(host).await;
    }
}

/// Locks a module's database for writing, as another program would: by the same file under another name.
async fn lock(application: &Application, module: &str) -> (Transaction, TempDir) {
    let elsewhere = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(elsewhere.path()).unwrap();
    for file in [format!("{module}.sqlite"), format!("{module}.sqlite-wal")] {
        let original = application.folder.path().join("data").join(&file);
        std::os::unix::fs::symlink(original, elsewhere.path().join(file)).unwrap();
    }
    let migrations = root().join("tests/guests").join(module).join("migrations");
    let limits = Limits { lock_wait_max: PATIENCE, ..Limits::default() };
    // Whoever has the database may be writing, which the migrations do not wait for.
    let database = until(async || {
        let opened = Database::open(&folder, module, Some(&migrations), limits.clone()).await;
        opened.map_err(|e| e.to_string())
    })
    .await;
    (database.begin(Instant::now() + PATIENCE).await.unwrap(), elsewhere)
}

/// Waits for a time in which others act.
async fn pass(time: Duration) {
    let began = Instant::now();
    until(async || if began.elapsed() >= time { Ok(()) } else { Err("the time passes".to_owned()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_subscriber_gets_its_events_afterwards() {
    for arrangement in in_files() {
        let application = letters(arrangement, "[data]\nlock_wait = \"20ms\"", "");
        let host = application.host().await;
        send(&host, &[("k", "note #before")]).await;
        all_done(&host).await;
        let letters: Vec<_> = (0..10).map(|n| (format!("key-{}", n % 3), format!("note #{n}"))).collect();
        let (locked, _elsewhere) = lock(&application, "reader").await;
        send(&host, &letters).await;
        // Many times the wait for the lock.
        pass(Duration::from_millis(400)).await;
        let waiting = events_of(&host, "postoffice").await;
        assert!(waiting.len() == letters.len() || arrangement.route == Route::Remote, "{waiting:?}");
        assert_eq!(notes(&host).await.len(), 1);
        drop(locked);
        all_done(&host).await;
        let notes = notes(&host).await;
        assert_eq!(notes.len(), letters.len() + 1);
        assert_once(&notes);
        arrangement.end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_survive_a_locked_database() {
    for arrangement in in_files() {
        let application = letters(arrangement, "[data]\nlock_wait = \"20ms\"", "");
        let host = application.host().await;
        let letters: Vec<_> = (0..10).map(|n| (format!("key-{n}"), "sleep:300 note answer:x")).collect();
        send(&host, &letters).await;
        let pool = host.pool("reader").unwrap();
        until(async || if pool.running() > 0 { Ok(()) } else { Err("no handler runs".to_owned()) }).await;
        drop(pool);
        // The handlers that run now come to write while the database is locked.
        let (locked, _elsewhere) = lock(&application, "reader").await;
        pass(Duration::from_millis(600)).await;
        assert_eq!(notes(&host).await, [Json::Null; 0]);
        drop(locked);
        all_done(&host).await;
        let notes = notes(&host).await;
        assert_eq!(notes.len(), letters.len());
        assert_once(&notes);
        for (key, _) in &letters {
            assert_eq!(answers(&host, key).await, ["x"]);
        }
        arrangement.end(host).await;
    }
}

/// What `cleave check` says of modules made from WIT text, `a` to `z` in order, and whether it lets them through.
fn check(texts: &[&str], more: &str) -> (bool, String) {
    let application = Application::new("");
    let mut config = String::new();
    for (name, text) in ('a'..='z').zip(texts) {
        let bytes = trapping(text);
        std::fs::write(application.folder.path().join(format!("{name}.wasm")), bytes).unwrap();
        config += &format!("[modules.{name}]\ncomponent = \"{name}.wasm\"\n");
    }
    application.write(&(config + more));
    let output = application.run("check", &[]);
    let said = cleave_tests::stderr(&output);
    (output.status.success(), said.split_whitespace().collect::<Vec<_>>().join(" ").replace(" │ ", " "))
}

/// A refusal, which has a fix.
#[track_caller]
fn refused(texts: &[&str], more: &str) -> String {
    let (passed, said) = check(texts, more);
    assert!(!passed && said.contains("help:"), "{said}");
    said
}

/// A module that publishes or handles one event.
fn event(declared: &str, how: &str) -> String {
    format!(
        "package t:t; interface order-events {{ use cleave:events/types@0.1.0.{{error}}; \
         record key-less {{ lines: list<u32> }} {declared} }} world w {{ {how} order-events; }}"
    )
}

#[test]
fn event_without_a_key_is_refused() {
    for parameters in ["", "lines: list<u32>", "order: key-less", "id: option<u32>, lines: list<string>"] {
        for how in ["import", "export"] {
            let said =
                refused(&[&event(&format!("placed: func({parameters}) -> result<_, error>;"), how)], "");
            assert!(said.contains("event `t:t/order-events.placed` has no key"), "{parameters}: {said}");
        }
    }
}

#[test]
fn event_with_another_result_is_refused() {
    let own = "variant mine { retry(string), reject(string) }";
    for (types, result) in [
        ("", ""),
        ("", "-> u32"),
        ("", "-> result"),
        ("", "-> result<u32, error>"),
        ("", "-> result<_, string>"),
        ("", "-> error"),
        (own, "-> result<_, mine>"),
    ] {
        for how in ["import", "export"] {
            let said = refused(&[&event(&format!("{types} placed: func(id: u32) {result};"), how)], "");
            assert!(said.contains("event `t:t/order-events.placed` returns"), "{result}: {said}");
            assert!(said.contains("cleave:events/types"), "{result}: {said}");
        }
    }
}

#[test]
fn two_publishers_of_an_event_are_refused_unless_shared() {
    let publisher = event("placed: func(id: u32) -> result<_, error>;", "import");
    let said = refused(&[&publisher, &publisher], "");
    assert!(said.contains("`a` and `b` both publish the event contract `t:t/order-events`"), "{said}");
    assert!(said.contains("`events.shared`"), "{said}");
    let shared = "[events]\nshared = [\"t:t/order-events\"]\n";
    let (passed, said) = check(&[&publisher, &publisher], shared);
    assert!(passed, "{said}");
}

#[test]
fn publisher_and_handler_of_different_types_are_refused() {
    let publisher = event("placed: func(id: u32) -> result<_, error>;", "import");
    let handler = event("placed: func(id: u64) -> result<_, error>;", "export");
    for texts in [[&*publisher, &*handler], [&*handler, &*publisher]] {
        let said = refused(&texts, "");
        assert!(
            said.contains("`a`") && said.contains("`b`") && said.contains("t:t/order-events.placed"),
            "{said}"
        );
        assert!(said.contains("func(id: u32)") && said.contains("func(id: u64)"), "{said}");
    }
}

#[test]
fn events_are_matched_by_function() {
    let publisher = event(
        "placed: func(id: u32) -> result<_, error>; paid: func(id: u32) -> result<_, error>;",
        "import",
    );
    let handler = event("paid: func(id: u32) -> result<_, error>;", "export");
    let (passed, said) = check(&[&publisher, &handler, &handler], "");
    assert!(passed, "{said}");
}

#[test]
fn event_is_not_called() {
    let publisher = event("placed: func(id: u32) -> result<_, error>;", "import");
    let handler = event("placed: func(id: u32) -> result<_, error>;", "export");
    let route = "[http.routes]\n\"POST /placed\" = \"t:t/order-events.placed\"\n";
    let said = refused(&[&publisher, &handler], route);
    assert!(said.contains("`t:t/order-events.placed` is an event"), "{said}");
}

#[test]
fn modules_may_tell_each_other_events() {
    let world = |imports: &str, exports: &str| {
        format!(
            "package t:t; \
             interface x-events {{ use cleave:events/types@0.1.0.{{error}}; f: func(id: u32) -> result<_, error>; }} \
             interface y-events {{ use cleave:events/types@0.1.0.{{error}}; f: func(id: u32) -> result<_, error>; }} \
             world w {{ import {imports}; export {exports}; }}"
        )
    };
    for texts in [
        &[world("x-events", "y-events"), world("y-events", "x-events")][..],
        // A module may handle what it publishes.
        &[world("x-events", "x-events")],
    ] {
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        let (passed, said) = check(&texts, "");
        assert!(passed, "{said}");
    }
}
