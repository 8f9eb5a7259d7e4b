//! What an operator sees of events and does to dead letters, through the real binary.
//!
//! The reader's handlers do what the letters tell them: their language is described in `tests/wit/letters`.

use crate::events::letters;
use cleave_tests::{ARRANGEMENTS, Application, ON_BOTH, PATIENCE, Process, built, root, stderr, stdout};
use serde_json::{Value as Json, json};
use std::time::Instant;

const LETTER: &str = "test:letters/events@0.1.letter";
/// The first failure is the last, and nothing is looked at that nobody calls for.
const ONE_ATTEMPT: &str = "attempts_max = 1\npoll = \"1m\"";

/// The post office and a reader, running. `events` is added to `[events]`.
/// Each in its turn: with data in SQLite, and in PostgreSQL.
fn started(events: &str) -> impl Iterator<Item = (Application, Process)> {
    ON_BOTH.into_iter().map(move |arrangement| {
        let application = letters(arrangement, events, "");
        let process = application.up_without_http();
        (application, process)
    })
}

/// Runs a verb to its end: its exit code and what it wrote.
fn run(application: &Application, verb: &str, arguments: &[&str]) -> (i32, String, String) {
    let output = application.run(verb, arguments);
    (output.status.code().unwrap(), stdout(&output), stderr(&output))
}

/// What a verb that succeeds prints as JSON: an array.
#[track_caller]
fn rows(application: &Application, verb: &str, arguments: &[&str]) -> Vec<Json> {
    let (code, out, err) = run(application, verb, &[arguments, &["--json"]].concat());
    assert_eq!(code, 0, "{verb} {arguments:?}: {err}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{verb} {arguments:?}: {e}: {out}"))
}

/// Waits until a verb prints what is looked for.
#[track_caller]
fn await_rows(
    application: &Application,
    verb: &str,
    arguments: &[&str],
    found: impl Fn(&[Json]) -> bool,
) -> Vec<Json> {
    let began = Instant::now();
    loop {
        let rows = rows(application, verb, arguments);
        if found(&rows) {
            return rows;
        }
        assert!(began.elapsed() < PATIENCE, "it does not come; last seen: {rows:?}");
    }
}

fn call(application: &Application, function: &str, arguments: &[&str]) -> Json {
    let (code, out, err) = run(application, "call", &[&[function], arguments].concat());
    assert_eq!(code, 0, "{function}: {err}");
    serde_json::from_str(&out).unwrap()
}

fn send(application: &Application, letters: &[(&str, &str)]) {
    let sent = call(application, "test:letters/office.send-many", &[&json!(letters).to_string()]);
    assert_eq!(sent, "ok");
}

/// Waits until there are so many dead letters, and gives them.
#[track_caller]
fn dead(application: &Application, count: usize) -> Vec<Json> {
    await_rows(application, "dead-letters", &["ls", "--limit", "10000"], |rows| rows.len() == count)
}

fn text<'a>(row: &'a Json, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_else(|| panic!("{field} of {row}"))
}

#[test]
fn refused_event_is_a_dead_letter_with_its_reason() {
    for (application, _process) in started("") {
        assert_eq!(rows(&application, "events", &["ls"]), [Json::Null; 0]);
        assert_eq!(rows(&application, "dead-letters", &["ls"]), [Json::Null; 0]);
        send(&application, &[("ada", "note reject")]);
        let letter = dead(&application, 1).remove(0);
        for (field, value) in [
            ("module", json!("reader")),
            ("place", json!("inbox")),
            ("contract_function", json!(LETTER)),
            ("key", json!("ada")),
            ("state", json!("dead")),
            ("publisher", json!("postoffice")),
            ("attempts", json!(1)),
            ("failures", json!(0)),
            ("error", json!("note=ok")),
            ("payload", Json::Null),
        ] {
            assert_eq!(letter[field], value, "{field}: {letter}");
        }
        assert!(letter["ended_at"].as_i64() >= letter["published_at"].as_i64(), "{letter}");
        let id = text(&letter, "id");
        let (_, table, err) = run(&application, "dead-letters", &["ls"]);
        assert_eq!(err, "");
        assert!(table.starts_with("Dead letters\n  ID "), "{table}");
        for cell in [id, LETTER, "reader", "ada", " ago", "note=ok"] {
            assert!(table.contains(cell), "{cell}: {table}");
        }
        for verb in ["dead-letters", "events"] {
            let shown = rows(&application, verb, &["show", id]);
            assert_eq!(shown.len(), 1);
            assert_eq!(shown[0]["payload"], json!({"key": "ada", "body": "note reject"}));
            let (_, shown, _) = run(&application, verb, &["show", id]);
            assert!(shown.starts_with("reader, inbox: dead\n"), "{shown}");
            assert!(shown.contains("\"body\":\"note reject\""), "{shown}");
        }
        let (code, out, err) = run(&application, "events", &["ls"]);
        assert_eq!((code, out.as_str()), (0, ""));
        assert!(err.contains("no event is on its way"), "{err}");
    }
}

#[test]
fn replayed_letter_is_handled_when_its_cause_is_gone() {
    for (application, _process) in started(ONE_ATTEMPT) {
        assert_eq!(call(&application, "test:letters/notes.fill", &["1"]), 1);
        send(&application, &[("ada", "room note")]);
        let id = text(&dead(&application, 1)[0], "id").to_owned();
        assert_eq!(call(&application, "test:letters/notes.all", &[]), json!([]));
        // It dies again while the cause is there.
        let replayed = rows(&application, "dead-letters", &["replay", &id]);
        assert_eq!(
            replayed,
            [json!({"id": id, "module": "reader", "contract_function": LETTER, "change": "replayed"})]
        );
        let letter = dead(&application, 1).remove(0);
        assert_eq!((&letter["attempts"], &letter["failures"]), (&json!(1), &json!(1)), "{letter}");
        assert_eq!(call(&application, "test:letters/notes.make-room", &[]), 1);
        let (code, out, err) = run(&application, "dead-letters", &["replay", &id]);
        assert_eq!((code, out), (0, format!("replayed {id}  reader  {LETTER}\n")));
        assert_eq!(err, "1 dead letter was replayed\n");
        let shown = await_rows(&application, "events", &["show", &id], |rows| rows[0]["state"] == "done");
        assert_eq!(shown[0]["payload"], Json::Null, "what is handled is not kept");
        assert!(shown[0]["ended_at"].is_i64(), "{shown:?}");
        let (_, shown, _) = run(&application, "events", &["show", &id]);
        assert!(shown.starts_with("reader, inbox: done\n") && shown.contains("\n  done  "), "{shown}");
        let notes = call(&application, "test:letters/notes.all", &[]);
        assert_eq!(notes[0]["event"], json!(id), "{notes}");
        assert_eq!(notes[0]["attempt"], 1, "{notes}");
        dead(&application, 0);
    }
}

#[test]
fn dropped_letter_counts_as_handled() {
    for (application, _process) in started("") {
        send(&application, &[("ada", "reject"), ("bob", "note reject"), ("cy", "note")]);
        let letters = dead(&application, 2);
        let (ada, bob) = (text(&letters[0], "id"), text(&letters[1], "id"));
        let (code, out, err) = run(&application, "dead-letters", &["drop", ada, bob, ada]);
        assert_eq!(code, 0, "{err}");
        assert_eq!(out, format!("dropped {ada}  reader  {LETTER}\ndropped {bob}  reader  {LETTER}\n"));
        assert_eq!(err, "2 dead letters were dropped\n");
        dead(&application, 0);
        let shown = rows(&application, "events", &["show", bob]);
        assert_eq!((&shown[0]["state"], &shown[0]["payload"]), (&json!("done"), &Json::Null));
        assert_eq!(shown[0]["error"], "note=ok");
        let (_, shown, _) = run(&application, "events", &["show", bob]);
        assert!(shown.contains("\n  dropped  "), "{shown}");
        let (code, _, err) = run(&application, "dead-letters", &["replay", bob]);
        assert_eq!(code, 2);
        assert!(err.contains(&format!("`{bob}` is no dead letter\n")), "{err}");
        let (_, _, err) = run(&application, "dead-letters", &["drop", "--all"]);
        assert_eq!(err, "0 dead letters were dropped\n");
        let keys: Vec<_> = call(&application, "test:letters/notes.all", &[])
            .as_array()
            .unwrap()
            .iter()
            .map(|note| note["key"].clone())
            .collect();
        assert_eq!(keys, ["cy"]);
    }
}

#[test]
fn event_that_waits_tells_until_when_and_why() {
    for (application, _process) in started("backoff = [\"1h\"]") {
        send(&application, &[("ada", "note retry"), ("ada", "note"), ("bob", "trap")]);
        let open = await_rows(&application, "events", &["ls"], |rows| {
            rows.len() == 3 && rows.iter().filter(|row| row["attempts"] == 1).count() == 2
        });
        let of = |key: &str| open.iter().filter(|row| row["key"] == key).collect::<Vec<_>>();
        let [retried, later] = of("ada")[..] else { panic!("{open:?}") };
        assert_eq!((text(retried, "state"), text(retried, "error")), ("ready", "note=ok"));
        let waits = retried["due_at"].as_i64().unwrap() - retried["first_attempt_at"].as_i64().unwrap();
        assert!((3_600_000..3_660_000).contains(&waits), "{retried}");
        assert_eq!((text(later, "state"), &later["attempts"]), ("waiting", &json!(0)));
        let trapped = of("bob")[0];
        assert_eq!(trapped["failures"], 1);
        assert!(text(trapped, "error").contains("unreachable"), "{trapped}");
        assert!(open.iter().all(|row| row.get("payload").is_none()), "{open:?}");
        let (code, table, _) = run(&application, "events", &["ls", "--module", "reader"]);
        assert_eq!(code, 0);
        let line = |id: &str| table.lines().find(|line| line.contains(id)).unwrap().to_owned();
        let first = line(text(retried, "id"));
        assert!(first.contains("  in 60m  note=ok") || first.contains("  in 59m  note=ok"), "{table}");
        assert!(
            line(text(later, "id")).ends_with("-       an earlier event of its key is to be handled first")
        );
        assert_eq!(rows(&application, "events", &["ls", "--module", "postoffice"]), [Json::Null; 0]);
        assert_eq!(rows(&application, "dead-letters", &["ls"]), [Json::Null; 0]);
    }
}

#[test]
fn id_may_be_shortened_while_it_is_one() {
    for (application, _process) in started("") {
        send(&application, &[("ada", "reject"), ("bob", "reject"), ("cy", "reject")]);
        let letters = dead(&application, 3);
        let ids: Vec<_> = letters.iter().map(|letter| text(letter, "id")).collect();
        let common = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
        // An ID begins with the time: of three that came together, two have the same beginning.
        let pairs = [(0, 1), (1, 2)].map(|(a, b)| (common(ids[a], ids[b]), ids[a], ids[b]));
        let (length, a, b) = pairs.into_iter().max().unwrap();
        let shared = &a[..length];
        for (verb, what) in [("events", "show"), ("dead-letters", "show"), ("dead-letters", "drop")] {
            let (code, out, err) = run(&application, verb, &[what, shared]);
            assert_eq!((code, out.as_str()), (2, ""), "{verb} {what}");
            assert!(err.contains("several events have an ID that begins"), "{err}");
            assert!(err.contains(a) && err.contains(b), "{err}");
        }
        // Nothing of a request is done if a part of it cannot be.
        assert_eq!(run(&application, "dead-letters", &["drop", a, shared]).0, 2);
        dead(&application, 3);
        let one = a[..=length].to_uppercase();
        assert_eq!(rows(&application, "events", &["show", &one])[0]["id"], a);
        assert_eq!(rows(&application, "dead-letters", &["drop", &one])[0]["id"], a);
        dead(&application, 2);
    }
}

#[test]
fn what_is_not_there_is_told_with_a_way_out() {
    let application = letters(ARRANGEMENTS[0], "", "");
    let config = std::fs::read_to_string(application.config()).unwrap();
    let catalog = format!(
        "[modules.catalog]\ncomponent = \"{}\"\nmigrations = \"{}\"\ngrants = [\"sql\"]\n",
        built("catalog").display(),
        root().join("modules/catalog/migrations").display()
    );
    application.write(&(config + &catalog));
    let process = application.up_without_http();
    send(&application, &[("ada", "reject")]);
    let letters = dead(&application, 1);
    let id = text(&letters[0], "id");
    let unknown = "ffffffff-ffff-7fff-bfff-ffffffffffff";
    let modules = "the modules with events are postoffice, reader";
    for (arguments, message, fix) in [
        (&["events", "show", unknown][..], "is no event that is known here", "events.remember"),
        (&["events", "show", "no uuid!"], "`no uuid!` is no event that is known here", "events ls"),
        (&["events", "show", "0123456"], "`0123456` is too short for an ID", "at least 8 characters"),
        (&["events", "ls", "--module", "raeder"], "there is no module `raeder`", modules),
        (&["events", "ls", "--module", "catalog"], "`catalog` neither publishes nor handles events", modules),
        (&["events", "show", id, "--module", "catalog"], "`catalog` neither", modules),
        (&["events", "show", id, "--module", "postoffice"], "known here in `postoffice`", "events ls"),
        (&["events", "ls", "--limit", "0"], "--limit", "--help"),
        (&["events", "ls", "--limit", "10001"], "--limit", "--help"),
        (&["dead-letters", "show", unknown], "is no dead letter", "`cleave dead-letters ls` lists them"),
        (&["dead-letters", "ls", "--module", "raeder"], "there is no module `raeder`", modules),
        (&["dead-letters", "replay", unknown], "is no dead letter", "`cleave dead-letters ls` lists them"),
        (&["dead-letters", "drop", unknown], "is no dead letter", "`cleave dead-letters ls` lists them"),
        (&["dead-letters", "drop", id, unknown], "is no dead letter", "`cleave dead-letters ls` lists them"),
        (&["dead-letters", "drop", "--all", "--module", "raeder"], "there is no module `raeder`", modules),
        (&["dead-letters", "drop", id, "--module", "postoffice"], "is no dead letter in `postoffice`", "ls"),
        (&["dead-letters", "drop", id, "--function", "a:b/events.c"], "is not of the function", "tells its"),
        (&["dead-letters", "drop"], "required", "--help"),
        (&["dead-letters", "replay", id, "--all"], "cannot be used with", "--help"),
    ] {
        let (code, out, err) = run(&application, arguments[0], &arguments[1..]);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(err.contains(message) && err.contains(fix), "{arguments:?}: {err}");
    }
    assert_eq!(dead(&application, 1), letters);
    process.stop();
    for arguments in [
        &["events", "ls"][..],
        &["events", "show", id, "--json"],
        &["dead-letters", "ls"],
        &["dead-letters", "replay", id],
        &["dead-letters", "drop", "--all", "--json"],
    ] {
        let (code, out, err) = run(&application, arguments[0], &arguments[1..]);
        assert_eq!((code, out.as_str()), (4, ""), "{arguments:?}");
        assert!(err.contains("no application answers at") && err.contains("`cleave up`"), "{err}");
    }
}

/// The post office and two readers, of which the second exports its notes by another name, since a contract has one
/// exporter, and answers by another, since an event contract has one publisher.
fn two_readers(events: &str) -> Application {
    let application = letters(ARRANGEMENTS[0], events, "");
    let mut bytes = std::fs::read(built("reader")).unwrap();
    for (from, to) in [
        (&b"test:letters/notes"[..], &b"test:letters/other"[..]),
        (b"test:letters/replies-events", b"test:letters/remarks-events"),
    ] {
        for start in 0..=bytes.len() - from.len() {
            if bytes[start..].starts_with(from) {
                bytes[start..start + to.len()].copy_from_slice(to);
            }
        }
    }
    std::fs::write(application.folder.path().join("other.wasm"), bytes).unwrap();
    let config = std::fs::read_to_string(application.config()).unwrap();
    let migrations = root().join("tests/guests/reader/migrations");
    let other = format!(
        "[modules.other]\ncomponent = \"other.wasm\"\nmigrations = \"{}\"\ngrants = [\"sql\"]\n",
        migrations.display()
    );
    application.write(&(config + &other));
    application
}

#[test]
fn letter_of_several_modules_is_one_for_each() {
    let application = two_readers(ONE_ATTEMPT);
    let _process = application.up_without_http();
    send(&application, &[("ada", "reject")]);
    let letters = dead(&application, 2);
    let id = text(&letters[0], "id");
    assert_eq!(letters[1]["id"], id);
    let shown = rows(&application, "dead-letters", &["show", id]);
    assert_eq!(shown.iter().map(|row| text(row, "module")).collect::<Vec<_>>(), ["other", "reader"]);
    assert_eq!(rows(&application, "events", &["show", id, "--module", "other"]).len(), 1);
    let (code, out, err) = run(&application, "dead-letters", &["replay", id]);
    assert_eq!((code, err.as_str()), (0, "2 dead letters were replayed\n"));
    assert_eq!(out.lines().count(), 2, "{out}");
    dead(&application, 2);
    let function = ["--function", "test:letters/events.letter"];
    let dropped =
        rows(&application, "dead-letters", &[&["drop", id, "--module", "other"][..], &function].concat());
    assert_eq!(dropped.iter().map(|row| text(row, "module")).collect::<Vec<_>>(), ["other"]);
    assert_eq!(text(&dead(&application, 1)[0], "module"), "reader");
    let other = ["drop", "--all", "--function", "test:letters/events.parcel"];
    assert_eq!(rows(&application, "dead-letters", &other), [Json::Null; 0]);
    assert_eq!(rows(&application, "dead-letters", &[&["drop", "--all"][..], &function].concat()).len(), 1);
}

#[test]
fn more_letters_than_one_result_holds_are_all_reached() {
    // A result holds fewer bytes than a list, and a request fewer letters than there are.
    let small = format!("{ONE_ATTEMPT}\n[data]\nresult_max = \"64KiB\"\ndurability = \"process\"");
    // In SQLite: the table that says so says also where PostgreSQL is.
    let (application, _process) = started(&small).next().unwrap();
    let letters: Vec<_> = (0..600).map(|n| (n.to_string(), "note reject")).collect();
    let sent: Vec<_> = letters.iter().map(|(key, body)| (key.as_str(), *body)).collect();
    sent.chunks(200).for_each(|letters| send(&application, letters));
    let letters = dead(&application, 600);
    let keys: Vec<u32> = letters.iter().map(|letter| text(letter, "key").parse().unwrap()).collect();
    assert_eq!(keys, (0..600).collect::<Vec<_>>());
    let (_, out, err) = run(&application, "dead-letters", &["ls", "--json"]);
    let listed: Vec<Json> = serde_json::from_str(&out).unwrap();
    assert_eq!(listed[..], letters[..100]);
    assert_eq!(err, "there are more than 100; `--limit` lists up to 10000\n");
    let (code, out, err) = run(&application, "dead-letters", &["replay", "--all"]);
    assert_eq!((code, err.as_str()), (0, "600 dead letters were replayed\n"));
    assert_eq!(out.lines().count(), 600);
    dead(&application, 600);
    let dropped = rows(&application, "dead-letters", &["drop", "--all", "--module", "reader"]);
    assert_eq!(dropped.len(), 600);
    dead(&application, 0);
}

#[test]
fn options_may_stand_before_and_behind_the_verb() {
    for (application, _process) in started("") {
        let config = application.config();
        for arguments in [["events", "ls"], ["dead-letters", "ls"]] {
            let output =
                cleave_tests::cleave().args(arguments).arg("--json").arg("-c").arg(&config).output().unwrap();
            assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "[]\n"));
        }
    }
}

#[test]
fn check_prints_events_and_schedules() {
    let schedule = "[modules.reader.schedule.tidy]\nevery = \"90s\"";
    let application = letters(ARRANGEMENTS[0], "", schedule);
    let (code, out, err) = run(&application, "check", &[]);
    assert_eq!((code, err.as_str()), (0, ""));
    for line in [
        "EVENT                                     PUBLISHER   SUBSCRIBERS  KEY\n",
        "test:letters/events@0.1.letter            postoffice  reader       key\n",
        "test:letters/events@0.1.parcel            postoffice  reader       item.id\n",
        "test:letters/replies-events@0.1.answered  reader      postoffice   key\n",
        "MODULE  TASK  EVERY\n  reader  tidy  1m30s\n",
    ] {
        assert!(out.contains(line), "{line}\n{out}");
    }
    let (_, out, _) = run(&application, "check", &["--json"]);
    let report: Json = serde_json::from_str(&out).unwrap();
    assert_eq!(report["schedules"], json!([{"module": "reader", "task": "tidy", "every": "1m30s"}]));
    let letter = report["events"].as_array().unwrap().iter().find(|event| event["name"] == LETTER).unwrap();
    assert_eq!(letter["publishers"], json!(["postoffice"]));
    assert_eq!(letter["subscribers"], json!(["reader"]));
    assert_eq!(letter["key"], "key");
    let reader = report["modules"].as_array().unwrap().iter().find(|m| m["name"] == "reader").unwrap();
    assert_eq!(reader["handles"], json!(["test:letters/events@0.1.0"]));
    assert_eq!(reader["publishes"], json!(["test:letters/replies-events@0.1.0"]));
}

#[test]
fn check_warns_of_events_and_tasks_that_lead_nowhere() {
    let application = letters(ARRANGEMENTS[0], "", "");
    let (code, _, err) = run(&application, "check", &[]);
    assert_eq!(code, 0);
    assert!(err.contains("`reader` exports `cleave:schedule/task@0.1.0` and has no schedule"), "{err}");
    let config = std::fs::read_to_string(application.config()).unwrap();
    let (office, reader) = config.split_once("[modules.reader]").unwrap();
    application.write(office);
    let (code, _, err) = run(&application, "check", &[]);
    assert_eq!(code, 0, "{err}");
    assert!(
        err.contains(&format!(
            "no module handles `{LETTER}`, which is published by `postoffice`: it is dropped"
        )),
        "{err}"
    );
    assert!(
        err.contains(
            "no module publishes `test:letters/replies-events@0.1.answered`, which is handled by `postoffice`"
        ),
        "{err}"
    );
    application.write(&format!("[modules.reader]{reader}"));
    let (_, _, err) = run(&application, "check", &[]);
    assert!(err.contains(&format!("no module publishes `{LETTER}`, which is handled by `reader`")), "{err}");
}
