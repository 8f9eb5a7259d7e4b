//! The road of events between nodes: what is published on one node is handled on another, once in effect and in order,
//! whatever happens to NATS, to the nodes, and to where config has put them.

use crate::calls::call;
use crate::events::{
    answers, assert_once, config, module, notes, of_key, send, settled_all, two_readers, until,
};
use cleave_bus::batch::{self, Event};
use cleave_bus::nats_stream::Place as Reached;
use cleave_host::clock::Clock;
use cleave_host::data::roads::{self, End};
use cleave_host::data::{DataFolder, Database, Limits, State, Value};
use cleave_host::drill::Drill;
use cleave_host::host::Host;
use cleave_tests::nats::{NatsServer, Raw, Settings};
use cleave_tests::proxy::Proxy;
use cleave_tests::{Application, Arrangement, Database as Store, ON_BOTH, PATIENCE, Process};
use cleave_tests::{built, nodes, postgres, root, stderr};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

/// The two nodes that the modules are cut into.
const NODES: &str = "[nodes.office]\nmodules = [\"postoffice\"]\n[nodes.desk]\nmodules = [\"reader\"]\n";

/// The post office on one node and the reader on another, in this process.
struct Cut {
    office: Host,
    desk: Host,
}

impl Cut {
    async fn start(application: &Application) -> Self {
        Self { office: application.node("office").await, desk: application.node("desk").await }
    }

    /// Waits until nothing is on its way; nothing of it is dead.
    async fn all_done(&self) {
        let dead = settled_all(&[&self.office, &self.desk]).await;
        assert!(dead.is_empty(), "{dead:?}");
    }

    async fn end(self) {
        assert!(self.office.drain().await && self.desk.drain().await);
    }
}

/// The modules in one process that has no bus.
fn joined(arrangement: Arrangement) -> String {
    config(arrangement, "") + &module("reader", &built("reader"), arrangement, "")
}

/// The modules on two nodes, `office` and `desk`, at this server.
fn cut(bus: &str, arrangement: Arrangement) -> String {
    format!("{bus}{}{NODES}", joined(arrangement))
}

/// The prefix of the subjects that a config's `[bus]` names.
fn prefix_of(bus: &str) -> &str {
    bus.split_once("prefix = \"").unwrap().1.split_once('"').unwrap().0
}

/// Letters with one key each of `keys`, `count` of them, each of which is noted and answered.
fn letters(keys: usize, count: usize) -> Vec<(String, String)> {
    let letter = |number: usize| (format!("k{}", number % keys), format!("note answer:{number} #{number}"));
    (0..count).map(letter).collect()
}

/// Every letter was noted and answered once, and in its order among those of its key.
async fn assert_handled(office: &Host, desk: &Host, letters: &[(String, String)]) {
    let notes = notes(desk).await;
    assert_eq!(notes.len(), letters.len());
    assert_once(&notes);
    for (key, _) in letters {
        let sent: Vec<_> = letters.iter().filter(|(k, _)| k == key).map(|(_, body)| body.as_str()).collect();
        assert_eq!(of_key(&notes, key, "body"), sent, "{key}");
        assert_eq!(answers(office, key).await.len(), sent.len(), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_cross_nodes_once_and_in_order() {
    for arrangement in ON_BOTH {
        let application = Application::new(&cut(&cleave_tests::bus(), arrangement));
        let cut = Cut::start(&application).await;
        let letters = letters(7, 400);
        send(&cut.office, &letters).await;
        cut.all_done().await;
        assert_handled(&cut.office, &cut.desk, &letters).await;
        cut.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_go_on_while_nats_is_away_and_everything_arrives_afterwards() {
    for arrangement in ON_BOTH {
        let mut server = NatsServer::start();
        let application = Application::new(&cut(&server.bus(), arrangement));
        let cut = Cut::start(&application).await;
        let letters = letters(5, 120);
        for (place, part) in letters.chunks(30).enumerate() {
            match place {
                1 => server.kill(),
                2 => server.restart(),
                3 => {
                    server.pause();
                    send(&cut.office, part).await;
                    server.resume();
                    continue;
                }
                _ => {}
            }
            send(&cut.office, part).await;
        }
        cut.all_done().await;
        assert_handled(&cut.office, &cut.desk, &letters).await;
        cut.end().await;
    }
}

/// By how much the publisher's clock is behind the subscriber's.
const BEHIND_MS: i64 = 17_000;

#[tokio::test(flavor = "multi_thread")]
async fn event_has_the_time_of_its_publisher() {
    for arrangement in ON_BOTH {
        let application = Application::new(&cut(&cleave_tests::bus(), arrangement));
        let clock = Clock::system();
        clock.jump(-BEHIND_MS);
        let drill = Drill { clock: clock.clone(), ..Drill::default() };
        let office = nodes::start(application.load_for(Some("office")), drill).await;
        let cut = Cut { office, desk: application.node("desk").await };
        let before = clock.now();
        send(&cut.office, &[("k", "note")]).await;
        let after = clock.now();
        cut.all_done().await;
        let notes = notes(&cut.desk).await;
        let at = notes[0]["published_at"].as_i64().unwrap();
        assert!((before..=after).contains(&at), "{arrangement:?}: {at} is not in {before}..={after}");
        cut.end().await;
    }
}

/// Wherever the subscriber's process ends with a batch in its hands, the batch comes again and is handled once.
#[tokio::test(flavor = "multi_thread")]
async fn batch_in_the_hands_of_a_process_that_ends_comes_again() {
    let server = NatsServer::start();
    for arrangement in ON_BOTH {
        for place in cleave_host::failpoint::OF_THE_ROAD {
            let application = Application::new(&cut(&server.bus(), arrangement));
            let office = application.node("office").await;
            let mut command = application.node_command("desk");
            let mut desk = Process::start_until(command.env("FAILPOINT", format!("{place}:2")), "ready; ");
            let letters = letters(3, 20);
            for letter in &letters {
                send(&office, std::slice::from_ref(letter)).await;
            }
            assert!(!desk.ended().success(), "{place} was not reached");
            let cut = Cut { office, desk: application.node("desk").await };
            cut.all_done().await;
            assert_handled(&cut.office, &cut.desk, &letters).await;
            cut.end().await;
        }
    }
}

/// Moves the data of a module to another node's folder, or to that of the whole.
fn move_data(application: &Application, module: &str, from: &str, to: &str) {
    let data = application.folder.path().join("data");
    std::fs::create_dir_all(data.join(to)).unwrap();
    for entry in std::fs::read_dir(data.join(from)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with(module) {
            std::fs::rename(&path, data.join(to).join(name)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_joined_take_in_first_what_was_on_the_road() {
    let server = NatsServer::start();
    for arrangement in ON_BOTH {
        let (bus, modules) = (server.bus(), joined(arrangement));
        let application = Application::new(&format!("{bus}{modules}{NODES}"));
        // The desk has been there, and is away when the letters are sent.
        assert!(application.node("desk").await.drain().await);
        let office = application.node("office").await;
        let mut letters = letters(1, 50);
        send(&office, &letters).await;
        let waiting = async || match office.events("postoffice").await.unwrap().len() {
            0 => Ok(()),
            left => Err(format!("{left} in the outbox")),
        };
        until(waiting).await;
        assert!(office.drain().await);

        if arrangement.database == Store::Sqlite {
            move_data(&application, "postoffice", "office", "");
            move_data(&application, "reader", "desk", "");
        }
        application.write(&modules);
        let refused = application.run("up", &[]);
        let said = stderr(&refused);
        assert!(!refused.status.success() && said.contains("still on the road over NATS"), "{said}");
        assert!(said.contains("set `bus.nats` as it was"), "{said}");

        application.write(&format!("{bus}{modules}"));
        let host = application.host().await;
        let more: Vec<_> = (50..60).map(|n| ("k0".to_owned(), format!("note answer:{n} #{n}"))).collect();
        send(&host, &more).await;
        letters.extend(more);
        let dead = settled_all(&[&host]).await;
        assert!(dead.is_empty(), "{dead:?}");
        assert_handled(&host, &host, &letters).await;
        assert!(host.drain().await);
        // Nothing is on the road any more, so no bus is needed.
        application.write(&modules);
        let host = application.host().await;
        assert_eq!(notes(&host).await.len(), 60);
        assert!(host.drain().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn process_that_is_cut_sends_on_what_it_has_not_delivered() {
    let server = NatsServer::start();
    for arrangement in ON_BOTH {
        let modules = joined(arrangement);
        let application = Application::new(&modules);
        // It ends with letters in the outbox.
        let mut process = application.up_without_http_to("relay.read", 2);
        let letters = letters(2, 20);
        for (key, body) in &letters {
            // Those after its end are sent to nobody.
            application.run(
                "call",
                &["test:letters/office.send", &json!(key).to_string(), &json!(body).to_string()],
            );
        }
        assert!(!process.ended().success());
        if arrangement.database == Store::Sqlite {
            move_data(&application, "postoffice", "", "office");
            move_data(&application, "reader", "", "desk");
        }
        application.write(&format!("{}{modules}{NODES}", server.bus()));
        let cut = Cut::start(&application).await;
        cut.all_done().await;
        // The post office ended with the letter that it was sending; those before it were sent.
        let sent = notes(&cut.desk).await.len();
        assert!(sent > 0);
        assert_handled(&cut.office, &cut.desk, &letters[..sent]).await;
        cut.end().await;
    }
}

/// Nodes and their modules; one process has all where there are none.
type Placement = &'static [(&'static str, &'static [&'static str])];

/// One placement after the other. A module is on two nodes at once only in PostgreSQL.
const WALK: [Placement; 7] = [
    &[],
    &[("here", &["postoffice"]), ("there", &["reader"])],
    &[("there", &["postoffice"]), ("here", &["reader"])],
    &[("here", &["postoffice", "reader"]), ("there", &["reader"])],
    &[("away", &["postoffice", "reader"])],
    &[("here", &["postoffice"]), ("away", &["reader"])],
    &[],
];

/// How many letters are sent under each.
const LETTERS: usize = 40;

/// The folder of a module's data under a placement.
fn folder_of(placement: Placement, module: &str) -> &'static str {
    placement.iter().find(|(_, modules)| modules.contains(&module)).map_or("", |(node, _)| node)
}

/// Whatever is on its way when the nodes stop, in an outbox, on the road or in an inbox, arrives where the module is then.
#[tokio::test(flavor = "multi_thread")]
async fn placement_changes_again_and_again_with_events_under_way() {
    let server = NatsServer::start();
    for arrangement in ON_BOTH {
        let in_files = arrangement.database == Store::Sqlite;
        let (bus, modules) = (server.bus(), joined(arrangement));
        let application = Application::new("");
        let places = |placement: Placement| placement.iter().map(|(_, modules)| modules.len()).sum::<usize>();
        let walk: Vec<_> = WALK.into_iter().filter(|placement| !in_files || places(placement) <= 2).collect();
        let letters = letters(4, LETTERS * walk.len());
        let mut before: Placement = &[];
        for (placement, some) in walk.into_iter().zip(letters.chunks(LETTERS)) {
            let nodes = placement.iter().map(|(node, of)| format!("[nodes.{node}]\nmodules = {of:?}\n"));
            application.write(&format!("{bus}{modules}{}", nodes.collect::<String>()));
            for module in ["postoffice", "reader"] {
                let (from, to) = (folder_of(before, module), folder_of(placement, module));
                if in_files && from != to {
                    move_data(&application, module, from, to);
                }
            }
            before = placement;
            let hosts = start_all(&application, placement).await;
            let office = hosts.iter().find(|host| host.pool("postoffice").is_some()).unwrap();
            send(office, some).await;
            for host in hosts {
                assert!(host.drain().await);
            }
        }
        let host = application.host().await;
        let dead = settled_all(&[&host]).await;
        assert!(dead.is_empty(), "{dead:?}");
        assert_handled(&host, &host, &letters).await;
        assert!(host.drain().await);
    }
}

async fn start_all(application: &Application, placement: Placement) -> Vec<Host> {
    let mut hosts = Vec::new();
    for (node, _) in placement {
        hosts.push(application.node(node).await);
    }
    if placement.is_empty() {
        hosts.push(application.host().await);
    }
    hosts
}

/// Starts the desk, which is refused; gives what it says.
fn refused(application: &Application) -> String {
    let mut command = application.node_command("desk");
    let output = command.output().unwrap();
    assert!(!output.status.success());
    // As one line, whatever the width it was broken to.
    stderr(&output).replace("\n  │ ", " ")
}

#[test]
fn nats_that_may_lose_events_is_refused_unless_config_allows_it() {
    let none = NatsServer::start_with(Settings { jetstream: None, ..Settings::default() });
    let said = refused(&Application::new(&cut(&none.bus(), ON_BOTH[0])));
    assert!(said.contains("has no JetStream") && said.contains("jetstream {"), "{said}");

    let lazy = NatsServer::start_with(Settings { jetstream: Some(""), ..Settings::default() });
    let said = refused(&Application::new(&cut(&lazy.bus(), ON_BOTH[0])));
    assert!(said.contains("acknowledges events before they are on its disk"), "{said}");
    assert!(said.contains("sync_interval: always") && said.contains("events.durability"), "{said}");

    let blind = lazy.bus().replace("monitoring", "# monitoring");
    let said = refused(&Application::new(&cut(&blind, ON_BOTH[0])));
    assert!(said.contains("cannot be seen at http://127.0.0.1:8222"), "{said}");
    assert!(said.contains("bus.monitoring"), "{said}");

    let other = NatsServer::start();
    let strange = lazy.bus().replace(&lazy.monitoring(), &other.monitoring());
    let said = refused(&Application::new(&cut(&strange, ON_BOTH[0])));
    assert!(said.contains("another server answers there"), "{said}");

    let relaxed = cut(&lazy.bus(), ON_BOTH[0]).replace("[events]\n", "[events]\ndurability = \"relaxed\"\n");
    let application = Application::new(&relaxed);
    let (office, desk) = (application.up_node("office"), application.up_node("desk"));
    let sent = application.run("call", &["test:letters/office.send", "\"k\"", "\"note\""]);
    assert!(sent.status.success(), "{}", stderr(&sent));
    let began = Instant::now();
    while !cleave_tests::stdout(&application.run("call", &["test:letters/notes.all"])).contains("\"note\"") {
        assert!(began.elapsed() < PATIENCE);
    }
    assert!(office.stop().success() && desk.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_need_the_road_and_have_no_bus_are_refused() {
    let application = Application::new(&cut("", ON_BOTH[0]));
    let said = stderr(&application.run("check", &[]));
    assert!(said.contains("`reader` on `desk` handles `test:letters/events"), "{said}");
    assert!(said.contains("there is no bus between nodes") && said.contains("set `bus.nats`"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_batch_is_dropped_and_holds_up_nothing() {
    let server = NatsServer::start();
    for arrangement in ON_BOTH {
        let bus = server.bus();
        let cut = Cut::start(&Application::new(&cut(&bus, arrangement))).await;
        let prefix = prefix_of(&bus);
        let mut raw = Raw::connect(&server.url()).unwrap();
        let forged = batch::encode(&[Event {
            id: "not-an-id",
            function: "test:letters/events@0.1.nothing",
            key: "forged",
            payload: "no json",
            published_at: i64::MIN,
            trace: "",
        }])
        .unwrap();
        for bytes in
            [b"".as_slice(), b"\x01", b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\x7f", &[1; 300], &forged]
        {
            raw.publish(&format!("{prefix}.event.postoffice.reader"), None, None, bytes);
        }
        // What nobody publishes as, of which no database would keep the first.
        for publisher in ["no\0body", "Nobody", "no-body\u{e9}"] {
            raw.publish(&format!("{prefix}.event.{publisher}.reader"), None, None, &forged);
        }
        assert!(raw.flush(PATIENCE));
        send(&cut.office, &letters(1, 3)).await;
        let dead = settled_all(&[&cut.office, &cut.desk]).await;
        assert!(dead.iter().all(|event| event.key == "forged" && event.state == State::Dead), "{dead:?}");
        assert!(dead.iter().all(|event| event.publisher == "postoffice"), "{dead:?}");
        assert_handled(&cut.office, &cut.desk, &letters(1, 3)).await;
        cut.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_module_that_is_gone_is_kept_until_it_is_forgotten() {
    let server = NatsServer::start();
    for arrangement in ON_BOTH {
        let bus = server.bus();
        let application = Application::new(&cut(&bus, arrangement));
        let office = application.up_node("office");
        let forget = || application.run("events", &["forget", "reader"]);
        for _ in 0..3 {
            let sent = application.run("call", &["test:letters/office.send", "\"k\"", "\"note\""]);
            assert!(sent.status.success(), "{}", stderr(&sent));
        }
        let said = stderr(&forget());
        assert!(said.contains("`reader` handles events, so nothing that waits for it is dropped"), "{said}");
        assert!(office.stop().success());
        // The reader leaves the application; what was sent to it stays.
        let text = std::fs::read_to_string(application.config()).unwrap();
        let (without, _) = text.split_once("[modules.reader]").unwrap();
        application.write(&format!("{without}[nodes.office]\nmodules = [\"postoffice\"]\n"));
        let office = application.up_node("office");
        for several in ["*", ">", "re*", "", "a.b"] {
            let refused = application.run("events", &["forget", several]);
            assert_eq!(refused.status.code(), Some(2), "{several}: {}", stderr(&refused));
        }
        let forgotten = forget();
        let told = cleave_tests::stdout(&forgotten);
        assert!(forgotten.status.success() && told.contains("dropped"), "{told}{}", stderr(&forgotten));
        let again = stderr(&forget());
        assert!(again.contains("nothing waits for `reader`"), "{again}");
        assert!(office.stop().success());
    }
}

/// A stop before the acknowledgement may take longer than the inbox remembers what was handled.
#[tokio::test(flavor = "multi_thread")]
async fn batch_that_was_stored_comes_again_in_vain_even_when_it_is_forgotten() {
    let server = NatsServer::start();
    for arrangement in ON_BOTH {
        let bus = server.bus();
        let application = Application::new(&cut(&bus, arrangement));
        let office = application.node("office").await;
        let mut command = application.node_command("desk");
        let mut desk = Process::start_until(command.env("FAILPOINT", "ingest.durable"), "ready; ");
        let old = Event {
            id: "0c2d2e9e-0000-4000-8000-000000000001",
            function: "test:letters/events@0.1.letter",
            key: "k",
            // The process ends while its handler sleeps.
            payload: r#"{"key":"k","body":"sleep:3000 note #old"}"#,
            // No inbox remembers as long as that.
            published_at: 0,
            trace: "",
        };
        let mut raw = Raw::connect(&server.url()).unwrap();
        let subject = format!("{}.event.postoffice.reader", prefix_of(&bus));
        raw.publish(&subject, None, None, &batch::encode(&[old]).unwrap());
        assert!(raw.flush(PATIENCE));
        assert!(!desk.ended().success());
        forget_handled(&application, arrangement).await;
        let cut = Cut { office, desk: application.node("desk").await };
        send(&cut.office, &[("k", "note #new")]).await;
        cut.all_done().await;
        assert_eq!(of_key(&notes(&cut.desk).await, "k", "body"), ["note #new"]);
        cut.end().await;
    }
}

/// Has the desk's reader, which does not run, forget the one event that it has taken in.
async fn forget_handled(application: &Application, arrangement: Arrangement) {
    if arrangement.database == Store::Postgres {
        let text = std::fs::read_to_string(application.config()).unwrap();
        let url = text.split_once("url = \"").unwrap().1.split_once('"').unwrap().0;
        let forget = "DELETE FROM cleave$reader.cleave_inbox RETURNING 'forgotten'";
        assert_eq!(postgres::shared().say(url.rsplit_once('/').unwrap().1, forget), "forgotten");
        return;
    }
    let folder = DataFolder::open(&application.folder.path().join("data/desk")).unwrap();
    let migrations = root().join("tests/guests/reader/migrations");
    let opened = Database::open(&folder, "reader", Some(&migrations), Limits::default()).await;
    let database = opened.unwrap_or_else(|error| panic!("{error}"));
    let mut forgetting = database.begin_host(Instant::now() + PATIENCE).await.unwrap();
    assert_eq!(forgetting.host_execute("DELETE FROM cleave_inbox", &[]).await, Ok(1));
    forgetting.commit().await.unwrap();
}

/// How far a module is on the road.
async fn reached(host: &Host, module: &str, end: End<'_>) -> Option<Reached> {
    roads::reached(&host.database(module).unwrap(), end, Instant::now() + PATIENCE).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_that_is_made_anew_under_running_nodes_is_taken_for_another() {
    let server = NatsServer::start();
    for arrangement in ON_BOTH {
        let bus = server.bus();
        let cut = Cut::start(&Application::new(&cut(&bus, arrangement))).await;
        let mut letters = letters(2, 6);
        for letter in &letters {
            send(&cut.office, std::slice::from_ref(letter)).await;
            cut.all_done().await;
        }
        let before = reached(&cut.office, "postoffice", End::To("reader")).await.unwrap();
        let prefix = prefix_of(&bus).replace('.', "+");
        let mut raw = Raw::connect(&server.url()).unwrap();
        raw.publish(&format!("$JS.API.STREAM.DELETE.{prefix}-events"), None, None, b"");
        assert!(raw.flush(PATIENCE));
        for n in 6..9 {
            let letter = (format!("k{}", n % 2), format!("note answer:{n} #{n}"));
            send(&cut.office, std::slice::from_ref(&letter)).await;
            cut.all_done().await;
            letters.push(letter);
        }
        assert_handled(&cut.office, &cut.desk, &letters).await;
        let put = reached(&cut.office, "postoffice", End::To("reader")).await.unwrap();
        let taken = reached(&cut.desk, "reader", End::In(put.stream)).await;
        assert!(taken == Some(put) && put.stream > before.stream, "{before:?} {put:?} {taken:?}");
        cut.end().await;
    }
}

/// NATS was put back, or lost power before it had written: the stream gives numbers again that were taken before.
#[tokio::test(flavor = "multi_thread")]
async fn stream_that_has_gone_back_loses_nothing_that_comes_after() {
    let server = NatsServer::start();
    for arrangement in ON_BOTH {
        let application = Application::new(&cut(&server.bus(), arrangement));
        let letters = letters(2, 12);
        let Cut { office, desk } = Cut::start(&application).await;
        send(&office, &letters[..4]).await;
        let noted = async |desk: &Host, count| {
            until(async || match notes(desk).await.len() {
                all if all == count => Ok(()),
                some => Err(format!("{some} notes")),
            })
            .await;
        };
        noted(&desk, 4).await;
        let mut going_back =
            desk.database("reader").unwrap().begin_host(Instant::now() + PATIENCE).await.unwrap();
        let ahead = "UPDATE cleave_roads SET sequence = sequence + 100 WHERE road LIKE 'in:%'";
        assert_eq!(going_back.host_execute(ahead, &[]).await, Ok(1));
        going_back.commit().await.unwrap();
        // A node that has not noticed.
        send(&office, &letters[4..8]).await;
        noted(&desk, 8).await;
        assert!(desk.drain().await);
        // One that sees it when it connects.
        let mut desk = application.up_node("desk");
        let line = desk.await_log("NATS has lost events that it had acknowledged");
        assert!(line.contains("reader"), "{line}");
        assert!(desk.stop().success());
        let cut = Cut { office, desk: application.node("desk").await };
        send(&cut.office, &letters[8..]).await;
        cut.all_done().await;
        assert_handled(&cut.office, &cut.desk, &letters).await;
        cut.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_go_back_to_a_former_nats_lose_nothing() {
    let (former, other) = (NatsServer::start(), NatsServer::start());
    for arrangement in ON_BOTH {
        let (bus, other) = (former.bus(), other.bus());
        let other = other.replace(prefix_of(&other), prefix_of(&bus));
        let modules = joined(arrangement);
        let application = Application::new("");
        let letters = letters(2, 12);
        for (count, bus) in [(4, &bus), (8, &other), (12, &bus)] {
            application.write(&format!("{bus}{modules}{NODES}"));
            let cut = Cut::start(&application).await;
            send(&cut.office, &letters[count - 4..count]).await;
            cut.all_done().await;
            assert_handled(&cut.office, &cut.desk, &letters[..count]).await;
            cut.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriber_that_is_away_costs_the_others_nothing() {
    let server = NatsServer::start();
    for arrangement in ON_BOTH {
        let events = "stream_max = \"1MiB\"";
        let application = two_readers(arrangement, events);
        let text = std::fs::read_to_string(application.config()).unwrap();
        let nodes = "[nodes.office]\nmodules = [\"postoffice\"]\n[nodes.desk]\nmodules = [\"reader-a\"]\n\
                 [nodes.away]\nmodules = [\"reader-b\"]\n";
        application.write(&format!("{}{text}{nodes}", server.bus()));
        let (office, desk) = (application.node("office").await, application.node("desk").await);
        let page = "x".repeat(10 << 10);
        let letters: Vec<_> =
            (0..200).map(|n| (format!("k{}", n % 5), format!("note #{n} #{page}"))).collect();
        for some in letters.chunks(20) {
            send(&office, some).await;
        }
        // They are more than one answer may be.
        let noted = desk.database("reader-a").unwrap();
        until(async || {
            let deadline = Instant::now() + PATIENCE;
            let count =
                noted.host_query("SELECT count(*) FROM notes", &[], deadline).await.unwrap().rows.remove(0);
            if count == [Value::Integer(200)] { Ok(()) } else { Err(format!("{count:?} notes")) }
        })
        .await;
        drop(noted);
        assert!(office.drain().await && desk.drain().await);
    }
}

/// A database that is put back while its process runs is told of too.
#[tokio::test(flavor = "multi_thread")]
async fn database_that_goes_back_under_a_running_process_is_told_of() {
    let server = NatsServer::start();
    let database = postgres::shared().new_database();
    let url = postgres::shared().url(&database);
    let application =
        Application::new(&format!("[data]\nurl = \"{url}\"\n{}", cut(&server.bus(), ON_BOTH[0])));
    let mut desk = application.up_node("desk");
    let office = application.node("office").await;
    let schema = "SELECT nspname FROM pg_namespace WHERE nspname LIKE '%reader'";
    let schema = postgres::shared().say(&database, schema);
    let mut go_back = String::new();
    for n in 0..2 {
        send(&office, &[("k", format!("note #{n}"))]).await;
        until(async || {
            let taken = postgres::shared()
                .say(&database, &format!("SELECT count(*) FROM \"{schema}\".cleave_inbox WHERE state = 2"));
            if taken == (n + 1).to_string() { Ok(()) } else { Err(taken) }
        })
        .await;
        if n == 0 {
            let road = format!("SELECT sequence FROM \"{schema}\".cleave_roads");
            let at = postgres::shared().say(&database, &road);
            go_back = format!("UPDATE \"{schema}\".cleave_roads SET sequence = {at}");
        }
    }
    postgres::shared().say(&database, &go_back);
    send(&office, &[("k", "note #3")]).await;
    let line = desk.await_log("the database is older than what it has acknowledged");
    assert!(line.contains("reader"), "{line}");
    assert!(office.drain().await);
}

/// A database that is older than what it has acknowledged is told of: its events are nowhere else.
#[tokio::test(flavor = "multi_thread")]
async fn database_that_was_put_back_is_told_of() {
    let server = NatsServer::start();
    let application = Application::new(&cut(&server.bus(), ON_BOTH[0]));
    assert!(application.node("desk").await.drain().await);
    let folder = application.folder.path();
    let backup = folder.join("backup");
    copy(&folder.join("data/desk"), &backup);
    let cut = Cut::start(&application).await;
    send(&cut.office, &letters(1, 3)).await;
    cut.all_done().await;
    cut.end().await;
    copy(&backup, &folder.join("data/desk"));
    let mut desk = application.up_node("desk");
    let line = desk.await_log("the database is older than what it has acknowledged");
    assert!(line.contains("reader"), "{line}");
}

/// What others put on the road, and took off it, is no loss of a module that comes to it later or was away.
#[tokio::test(flavor = "multi_thread")]
async fn module_that_comes_to_a_used_road_has_lost_nothing() {
    let server = NatsServer::start();
    for arrangement in ON_BOTH {
        let bus = server.bus();
        let application = Application::new(&cut(&bus, arrangement));
        let prefix = prefix_of(&bus);
        let first = Cut::start(&application).await;
        send(&first.office, &letters(2, 6)).await;
        // Of these, nothing comes back to the post office.
        for _ in 0..5 {
            send(&first.office, &[("quiet", "note")]).await;
        }
        first.all_done().await;
        let Cut { office, desk } = first;
        assert!(office.drain().await);
        for is_new in [false, true] {
            if is_new {
                let stream = format!("{}-events", prefix.replace('.', "+"));
                let mut raw = Raw::connect(&server.url()).unwrap();
                raw.subscribe("inbox.deleted");
                let delete = format!("$JS.API.CONSUMER.DELETE.{stream}.postoffice");
                raw.publish(&delete, Some("inbox.deleted"), None, b"");
                let answer = raw.next(PATIENCE).unwrap();
                assert!(String::from_utf8_lossy(&answer.payload).contains("true"), "{answer:?}");
            }
            let office = application.up_node("office");
            let before = answers_of(&application);
            let sent =
                application.run("call", &["test:letters/office.send", "\"k0\"", "\"note answer:later\""]);
            assert!(sent.status.success(), "{}", stderr(&sent));
            let began = Instant::now();
            while answers_of(&application) == before {
                assert!(began.elapsed() < PATIENCE, "no answer came: {}", office.log());
            }
            assert!(!office.log().contains("is older than"), "{}", office.log());
            assert!(office.stop().success());
        }
        assert!(desk.drain().await);
    }
}

fn answers_of(application: &Application) -> usize {
    let answers = application.run("call", &["test:letters/office.answers"]);
    assert!(answers.status.success(), "{}", stderr(&answers));
    cleave_tests::stdout(&answers).matches("\"text\"").count()
}

/// Makes a folder have the files of another, and no other databases.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let databases = |folder: &Path| {
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.to_str().unwrap().contains(".sqlite")).collect::<Vec<_>>()
    };
    databases(to).iter().for_each(|file| std::fs::remove_file(file).unwrap());
    for file in databases(from) {
        std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

/// Letters that a subscriber's process was given while it was stopped are handled by it or by the next one.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_subscriber_goes_on_where_it_was() {
    let server = NatsServer::start();
    for arrangement in ON_BOTH {
        let application = Application::new(&cut(&server.bus(), arrangement));
        let office = application.node("office").await;
        let desk = application.up_node("desk");
        let letters = letters(2, 40);
        for (place, letter) in letters.iter().enumerate() {
            if place == 10 {
                desk.signal("STOP");
            }
            send(&office, std::slice::from_ref(letter)).await;
        }
        desk.signal("CONT");
        assert!(desk.stop().success());
        let cut = Cut { office, desk: application.node("desk").await };
        cut.all_done().await;
        assert_handled(&cut.office, &cut.desk, &letters).await;
        let ordinary = call(&cut.desk, "test:letters/notes.handles-event", &[]).await;
        assert_eq!(ordinary, Ok(json!({"ok": false})));
        cut.end().await;
    }
}

#[test]
fn nats_that_is_too_old_is_refused_unless_config_allows_it() {
    let server = NatsServer::start();
    let new = Raw::connect(&server.url()).unwrap().info["version"].as_str().unwrap().to_owned();
    let old = format!("2.11.{}", "9".repeat(new.len() - "2.11.".len()));
    let [said, retold] = [&new, &old].map(|version| format!("\"version\":\"{version}\""));
    let proxy = Proxy::retelling(server.address(), &said, &retold);
    let bus = server.bus().replace(&server.url(), &format!("nats://{}", proxy.address()));

    let said = refused(&Application::new(&cut(&bus, ON_BOTH[0])));
    assert!(
        said.contains(&format!("is version {old}, and events between nodes are safe from 2.12 on")),
        "{said}"
    );
    assert!(said.contains("upgrade nats-server") && said.contains("events.durability"), "{said}");

    let relaxed = cut(&bus, ON_BOTH[0]).replace("[events]\n", "[events]\ndurability = \"relaxed\"\n");
    let application = Application::new(&relaxed);
    assert!(application.up_node("desk").stop().success());
}
