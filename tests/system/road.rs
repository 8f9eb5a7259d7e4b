//! The road of events between nodes: what is published on one node is handled on another, once in effect and in order,
//! whatever happens to NATS, to the nodes, and to where config has put them.

use crate::calls::call;
use crate::events::{answers, assert_once, config, module, notes, of_key, send, settled_all, until};
use cleave_host::data::State;
use cleave_host::host::Host;
use cleave_tests::nats::{NatsServer, Raw, Settings};
use cleave_tests::{Application, Arrangement, PATIENCE, Process, built, stderr};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

const ONE: Arrangement = Arrangement::pooled(cleave_bus::route::Route::Local, None);

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

/// The modules, in one process at this server, or in none's if there is no server.
fn joined(bus: &str) -> String {
    let reader = module("reader", &built("reader"), ONE, "");
    format!("{bus}{}{reader}", config(ONE, ""))
}

/// The modules on two nodes, `office` and `desk`.
fn cut(bus: &str) -> String {
    let nodes = "[nodes.office]\nmodules = [\"postoffice\"]\n[nodes.desk]\nmodules = [\"reader\"]\n";
    format!("{}{nodes}", joined(bus))
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
    let application = Application::new(&cut(&cleave_tests::bus()));
    let cut = Cut::start(&application).await;
    let letters = letters(7, 400);
    send(&cut.office, &letters).await;
    cut.all_done().await;
    assert_handled(&cut.office, &cut.desk, &letters).await;
    cut.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_go_on_while_nats_is_away_and_everything_arrives_afterwards() {
    let mut server = NatsServer::start();
    let application = Application::new(&cut(&server.bus()));
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

/// Wherever the subscriber's process ends with a batch in its hands, the batch comes again and is handled once.
#[tokio::test(flavor = "multi_thread")]
async fn batch_in_the_hands_of_a_process_that_ends_comes_again() {
    let server = NatsServer::start();
    for place in cleave_host::failpoint::OF_THE_ROAD {
        let application = Application::new(&cut(&server.bus()));
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
    let bus = server.bus();
    let application = Application::new(&cut(&bus));
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

    move_data(&application, "postoffice", "office", "");
    move_data(&application, "reader", "desk", "");
    application.write(&joined(""));
    let refused = application.run("up", &[]);
    let said = stderr(&refused);
    assert!(!refused.status.success() && said.contains("still on the road over NATS"), "{said}");
    assert!(said.contains("set `bus.nats` as it was"), "{said}");

    application.write(&joined(&bus));
    let host = application.host().await;
    let more: Vec<_> = (50..60).map(|n| ("k0".to_owned(), format!("note answer:{n} #{n}"))).collect();
    send(&host, &more).await;
    letters.extend(more);
    let dead = settled_all(&[&host]).await;
    assert!(dead.is_empty(), "{dead:?}");
    assert_handled(&host, &host, &letters).await;
    assert!(host.drain().await);
    // Nothing is on the road any more, so no bus is needed.
    application.write(&joined(""));
    let host = application.host().await;
    assert_eq!(notes(&host).await.len(), 60);
    assert!(host.drain().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn process_that_is_cut_sends_on_what_it_has_not_delivered() {
    let server = NatsServer::start();
    let application = Application::new(&joined(""));
    // It ends with letters in the outbox.
    let mut process = application.up_without_http_to("relay.read", 2);
    let letters = letters(2, 20);
    for (key, body) in &letters {
        // Those after its end are sent to nobody.
        application
            .run("call", &["test:letters/office.send", &json!(key).to_string(), &json!(body).to_string()]);
    }
    assert!(!process.ended().success());
    move_data(&application, "postoffice", "", "office");
    move_data(&application, "reader", "", "desk");
    application.write(&cut(&server.bus()));
    let cut = Cut::start(&application).await;
    cut.all_done().await;
    // The post office ended with the letter that it was sending; those before it were sent.
    let sent = notes(&cut.desk).await.len();
    assert!(sent > 0);
    assert_handled(&cut.office, &cut.desk, &letters[..sent]).await;
    cut.end().await;
}

/// Starts the desk, which is refused; gives what it says.
fn refused(application: &Application) -> String {
    let mut command = application.node_command("desk");
    let output = command.output().unwrap();
    assert!(!output.status.success());
    stderr(&output)
}

#[test]
fn nats_that_may_lose_events_is_refused_unless_config_allows_it() {
    let none = NatsServer::start_with(Settings { jetstream: None, ..Settings::default() });
    let said = refused(&Application::new(&cut(&none.bus())));
    assert!(said.contains("has no JetStream") && said.contains("jetstream {"), "{said}");

    let lazy = NatsServer::start_with(Settings { jetstream: Some(""), ..Settings::default() });
    let said = refused(&Application::new(&cut(&lazy.bus())));
    assert!(said.contains("acknowledges events before they are on its disk"), "{said}");
    assert!(said.contains("sync_interval: always") && said.contains("events.durability"), "{said}");

    let blind = lazy.bus().replace("monitoring", "# monitoring");
    let said = refused(&Application::new(&cut(&blind)));
    assert!(said.contains("cannot be seen at http://127.0.0.1:8222"), "{said}");
    assert!(said.contains("bus.monitoring"), "{said}");

    let other = NatsServer::start();
    let strange = lazy.bus().replace(&lazy.monitoring(), &other.monitoring());
    let said = refused(&Application::new(&cut(&strange)));
    assert!(said.contains("another server answers there"), "{said}");

    let relaxed = cut(&lazy.bus()).replace("[events]\n", "[events]\ndurability = \"relaxed\"\n");
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
    let application = Application::new(&cut(""));
    let said = stderr(&application.run("check", &[]));
    assert!(said.contains("`reader` on `desk` handles `test:letters/events"), "{said}");
    assert!(said.contains("there is no bus between nodes") && said.contains("set `bus.nats`"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_batch_is_dropped_and_holds_up_nothing() {
    let server = NatsServer::start();
    let bus = server.bus();
    let cut = Cut::start(&Application::new(&cut(&bus))).await;
    let prefix = bus.split_once("prefix = \"").unwrap().1.split_once('"').unwrap().0;
    let mut raw = Raw::connect(&server.url()).unwrap();
    let forged = cleave_bus::batch::encode(&[cleave_bus::batch::Event {
        id: "not-an-id",
        function: "test:letters/events@0.1.nothing",
        key: "forged",
        payload: "no json",
        published_at: i64::MIN,
        trace: "",
    }])
    .unwrap();
    for bytes in [b"".as_slice(), b"\x01", b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\x7f", &[1; 300], &forged] {
        raw.publish(&format!("{prefix}.event.postoffice.reader"), None, None, bytes);
    }
    assert!(raw.flush(PATIENCE));
    send(&cut.office, &letters(1, 3)).await;
    let dead = settled_all(&[&cut.office, &cut.desk]).await;
    assert!(dead.iter().all(|event| event.key == "forged" && event.state == State::Dead), "{dead:?}");
    assert_handled(&cut.office, &cut.desk, &letters(1, 3)).await;
    cut.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_module_that_is_gone_is_kept_until_it_is_forgotten() {
    let server = NatsServer::start();
    let bus = server.bus();
    let application = Application::new(&cut(&bus));
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
    application.write(&format!("{bus}{}[nodes.office]\nmodules = [\"postoffice\"]\n", config(ONE, "")));
    let office = application.up_node("office");
    let forgotten = forget();
    let told = cleave_tests::stdout(&forgotten);
    assert!(forgotten.status.success() && told.contains("dropped"), "{told}{}", stderr(&forgotten));
    let again = stderr(&forget());
    assert!(again.contains("nothing waits for `reader`"), "{again}");
    assert!(office.stop().success());
}

/// A database that is older than what it has acknowledged is told of: its events are nowhere else.
#[tokio::test(flavor = "multi_thread")]
async fn database_that_was_put_back_is_told_of() {
    let server = NatsServer::start();
    let application = Application::new(&cut(&server.bus()));
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
    let application = Application::new(&cut(&server.bus()));
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
