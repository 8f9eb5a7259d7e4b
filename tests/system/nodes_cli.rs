//! The command line of an application of several nodes: what is told of all of them, and who is asked.

use cleave_tests::{
    ARRANGEMENTS, Application, PATIENCE, Process, built, cleave, nats, root, shop_config, stderr, stdout,
    with_shared_cache,
};
use serde_json::{Value as Json, json};
use std::time::Instant;

const FRONT: &str = "[nodes.front]\nmodules = [\"users\", \"catalog\"]\nlisten = \"127.0.0.1:0\"\n";
const OTHERS: &str = "[nodes.payments]\nmodules = [\"payments\"]\nlisten = \"127.0.0.1:0\"\n\
                      [nodes.orders]\nmodules = [\"orders\", \"inventory\", \"shipping\", \"notifications\"]\n";

/// The shop on these nodes.
fn shop(bus: &str, nodes: &str) -> Application {
    let config = shop_config(ARRANGEMENTS[0]).replace("listen = \"127.0.0.1:0\"\n", "");
    Application::new(&with_shared_cache(&format!("{config}[bus]\n{bus}\n{nodes}")))
}

/// The shop on three nodes that all listen, on the server of all tests.
fn running_shop(prefix: &str) -> (Application, [Process; 3]) {
    let bus = format!(
        "nats = \"{}\"\nprefix = \"{prefix}\"\nheartbeat = \"100ms\"\nsilent_after = \"1s\"",
        nats::shared().url()
    );
    let shop = shop(&bus, &format!("{FRONT}{OTHERS}listen = \"127.0.0.1:0\"\n"));
    let processes = ["front", "orders", "payments"].map(|node| up(&shop, node));
    (shop, processes)
}

fn up(application: &Application, node: &str) -> Process {
    Process::start(cleave().args(["up", "--node", node, "--config"]).arg(application.config()))
}

/// Runs a verb to its end: its exit code and what it wrote.
fn run(application: &Application, verb: &str, arguments: &[&str]) -> (i32, String, String) {
    let output = application.run(verb, arguments);
    (output.status.code().unwrap(), stdout(&output), stderr(&output))
}

/// The exit code and what a verb prints as JSON.
#[track_caller]
fn told(application: &Application, verb: &str, arguments: &[&str]) -> (i32, Json) {
    let (code, out, err) = run(application, verb, &[arguments, &["--json"]].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{verb} {arguments:?}: {e}: {out}{err}")))
}

/// Waits until a verb tells what is looked for.
#[track_caller]
fn await_told(
    application: &Application,
    verb: &str,
    arguments: &[&str],
    found: impl Fn(i32, &Json) -> bool,
) -> Json {
    let began = Instant::now();
    loop {
        let (code, json) = told(application, verb, arguments);
        if found(code, &json) {
            return json;
        }
        assert!(began.elapsed() < PATIENCE, "it does not come; last seen: {code} {json}");
    }
}

/// A field of each row.
fn column<'a>(rows: &'a Json, field: &str) -> Vec<&'a str> {
    rows.as_array().unwrap().iter().map(|row| row[field].as_str().unwrap()).collect()
}

/// The words of each line: columns are as wide as they need be.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn check_prints_each_route_of_every_node_and_why() {
    let shop = shop("nats = \"nats://127.0.0.1:1\"", &format!("{FRONT}{OTHERS}"));
    let (code, text, err) = run(&shop, "check", &[]);
    assert_eq!((code, err.as_str()), (0, ""));
    let data = shop.folder.path().join("data");
    for line in [
        &format!("front catalog, users 127.0.0.1:0 {}/front", data.display()),
        &format!("payments payments 127.0.0.1:0 {}/payments", data.display()),
        "front shop:catalog/products@0.1.0 catalog local the exporter is on this node",
        "front shop:orders/checkout@0.1.0 orders remote the exporter is on `orders`",
        "orders shop:payments/charges@0.1.0 payments remote the exporter is on `payments`",
    ] {
        assert!(lines(&text).iter().any(|l| l == line), "{line}\n{text}");
    }
    // It neither listens, nor holds or calls this.
    assert!(!lines(&text).iter().any(|line| line.starts_with("orders shop:users/accounts")), "{text}");
    let (_, report) = told(&shop, "check", &[]);
    assert_eq!(column(&report["nodes"], "name"), ["front", "orders", "payments"]);
    let front = &report["nodes"][0];
    assert_eq!((&front["listen"], &front["modules"]), (&json!("127.0.0.1:0"), &json!(["catalog", "users"])));
    let (_, report) = told(&shop, "check", &["--set", "calls.route=loopback"]);
    let routes = column(&report["nodes"][0]["contracts"], "route");
    assert_eq!(routes.iter().filter(|route| **route == "loopback").count(), 2, "{routes:?}");
}

#[test]
fn check_of_one_node_prints_what_it_has_and_calls() {
    let shop = shop("nats = \"nats://127.0.0.1:1\"", &format!("{FRONT}{OTHERS}"));
    let (code, text, _) = run(&shop, "check", &["--node", "orders"]);
    assert_eq!(code, 0);
    let orders = "shop:orders/checkout@0.1.0 orders local the exporter is on this node 3";
    let catalog = "shop:catalog/products@0.1.0 catalog remote the exporter is on `front` 4";
    for line in [orders, catalog, "orders resume 1s"] {
        assert!(lines(&text).iter().any(|l| l == line), "{line}\n{text}");
    }
    for other in ["shop:users", "POST /api/orders", "payments payments"] {
        assert!(!text.contains(other), "{other}\n{text}");
    }
    let (_, report) = told(&shop, "check", &["--node", "front"]);
    assert_eq!(column(&report["nodes"], "name"), ["front"]);
    assert_eq!(column(&report["modules"], "name"), ["catalog", "users"]);
    assert!(column(&report["routes"], "route").contains(&"POST /api/orders"), "{report}");
}

#[test]
fn check_warns_of_routes_that_no_node_serves() {
    let quiet = format!("{FRONT}{OTHERS}").replace("listen = \"127.0.0.1:0\"\n", "");
    let shop = shop("nats = \"nats://127.0.0.1:1\"", &quiet);
    let (code, _, err) = run(&shop, "check", &[]);
    assert_eq!(code, 0);
    assert!(err.contains("warning: no node listens, so nobody can reach the routes and files"), "{err}");
}

#[test]
fn check_tells_of_a_bus_that_leaves_this_machine_bare() {
    let shop = shop("nats = \"nats://192.0.2.1\"", &format!("{FRONT}{OTHERS}"));
    let (code, out, err) = run(&shop, "check", &[]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("`bus.nats` leaves this machine") && err.contains("--insecure"), "{err}");
    assert_eq!(run(&shop, "check", &["--insecure"]).0, 0);
}

#[test]
fn status_lists_nodes_and_modules_and_tells_what_is_missing() {
    let (shop, [mut front, orders, payments]) = running_shop("status-lists");
    let status = await_told(&shop, "status", &[], |code, _| code == 0);
    assert_eq!(status["answered_by"][0]["node"], "front");
    assert_eq!(status["bus"]["connected"], true);
    assert_eq!(column(&status["replicas"], "node"), ["front", "orders", "payments"]);
    assert_eq!(column(&status["replicas"], "state"), ["up"; 3]);
    assert_eq!(status["replicas"][2]["http"], payments.address);
    assert_eq!(column(&status["pools"], "module"), ["catalog", "users"]);
    let shipping = status["modules"].as_array().unwrap().iter().find(|m| m["name"] == "shipping").unwrap();
    assert_eq!(shipping["versions"][0]["nodes"], json!(["orders"]));
    assert_eq!(shipping["versions"][0]["digest"].as_str().unwrap().len(), 12);
    let (_, of_orders) = told(&shop, "status", &["--node", "orders"]);
    assert_eq!(of_orders["answered_by"][0]["node"], "orders");

    payments.stop();
    let status = await_told(&shop, "status", &[], |code, _| code == 1);
    assert_eq!(column(&status["replicas"], "state"), ["up", "up", "absent"]);
    let missing = "`payments` is on no live node: `cleave up --node payments` starts it";
    assert_eq!(status["warnings"], json!([missing]));
    orders.kill();
    let silent = |_, status: &Json| status["replicas"][1]["state"] == "silent";
    await_told(&shop, "status", &[], silent);
    let (code, text, err) = run(&shop, "status", &[]);
    assert_eq!(code, 1);
    let row = lines(&text).into_iter().find(|line| line.starts_with("orders ")).unwrap();
    assert!(
        row.contains(" silent for ") && row.ends_with("inventory, notifications, orders, shipping"),
        "{row}"
    );
    assert!(err.contains("`shipping` is on no live node: node `orders` is silent"), "{err}");

    front.signal("TERM");
    assert!(front.ended().success());
    let (code, out, err) = run(&shop, "status", &[]);
    assert_eq!((code, out.as_str()), (4, ""));
    assert!(
        err.contains("no node of the application answers at") && err.contains("`cleave up --node front`"),
        "{err}"
    );
    let (code, _, err) = run(&shop, "status", &["--node", "orders"]);
    assert_eq!(code, 4);
    assert!(err.contains("node `orders` does not answer at"), "{err}");
}

#[test]
fn replicas_of_one_module_that_differ_are_told() {
    let bus = format!("nats = \"{}\"\nprefix = \"differing-replicas\"", nats::shared().url());
    let mut bytes = std::fs::read(built("victim")).unwrap();
    let nodes = "[nodes.a]\nmodules = [\"victim\"]\nlisten = \"127.0.0.1:0\"\n\
                 [nodes.b]\nmodules = [\"victim\"]\nlisten = \"127.0.0.1:0\"\n";
    let victim =
        Application::new(&format!("[bus]\n{bus}\n[modules.victim]\ncomponent = \"victim.wasm\"\n{nodes}"));
    let component = victim.folder.path().join("victim.wasm");
    std::fs::write(&component, &bytes).unwrap();
    let _a = up(&victim, "a");
    // An empty custom section, which means nothing.
    bytes.extend(b"\x00\x02\x01x");
    std::fs::write(&component, &bytes).unwrap();
    let _b = up(&victim, "b");
    let two = |_, status: &Json| status["modules"][0]["versions"].as_array().unwrap().len() == 2;
    let status = await_told(&victim, "status", &[], two);
    let warning = status["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("the replicas of `victim` run different components: "), "{warning}");
    assert_eq!(run(&victim, "status", &[]).0, 0, "it is held all the same");
}

#[test]
fn first_node_that_answers_is_asked() {
    let (shop, [mut front, orders, payments]) = running_shop("first-that-answers");
    await_told(&shop, "status", &[], |code, _| code == 0);
    let stock = ["shop:inventory/stock.get", "\"mug\""];
    assert_eq!(run(&shop, "call", &stock), (0, "null\n".to_owned(), String::new()));
    assert_eq!(run(&shop, "call", &[&stock[..], &["--node", "payments"]].concat()).0, 0);
    // One that is stopped takes connections and answers none.
    front.signal("STOP");
    let (_, status) = told(&shop, "status", &[]);
    assert_eq!(status["answered_by"][0]["node"], "orders");
    front.signal("CONT");
    front.signal("TERM");
    assert!(front.ended().success());
    assert_eq!(run(&shop, "call", &stock), (0, "null\n".to_owned(), String::new()));
    drop((orders, payments));
    let (code, out, err) = run(&shop, "call", &stock);
    assert_eq!((code, out.as_str()), (4, ""));
    assert!(err.contains("no node of the application answers at"), "{err}");
}

/// Two post offices with a reader each, `west` with everything by another name, on two nodes that do not call each other.
fn two_offices() -> Application {
    let application = Application::new("");
    let mut config = "[events]\nattempts_max = 1\npoll = \"1m\"\n\
                      [nodes.east]\nmodules = [\"postoffice\", \"reader\"]\nlisten = \"127.0.0.1:0\"\n\
                      [nodes.west]\nmodules = [\"registry\", \"clerk\"]\nlisten = \"127.0.0.1:0\"\n"
        .to_owned();
    for (module, guest) in
        [("postoffice", "postoffice"), ("reader", "reader"), ("registry", "postoffice"), ("clerk", "reader")]
    {
        let mut bytes = std::fs::read(built(guest)).unwrap();
        if module != guest {
            let (from, to) = (b"test:letters/", b"test:ledgers/");
            for start in 0..=bytes.len() - from.len() {
                if bytes[start..].starts_with(from) {
                    bytes[start..start + to.len()].copy_from_slice(to);
                }
            }
        }
        std::fs::write(application.folder.path().join(format!("{module}.wasm")), bytes).unwrap();
        let migrations = root().join("tests/guests").join(guest).join("migrations");
        config += &format!(
            "[modules.{module}]\ncomponent = \"{module}.wasm\"\nmigrations = \"{}\"\ngrants = [\"sql\"]\n",
            migrations.display()
        );
    }
    application.write(&config);
    application
}

/// Sends a letter that its reader refuses, and waits until so many are dead.
fn refuse(application: &Application, package: &str, dead: usize) -> Json {
    let function = format!("test:{package}/office.send-many");
    let (code, _, err) = run(application, "call", &[&function, r#"[["ada", "reject"]]"#]);
    assert_eq!(code, 0, "{err}");
    await_told(application, "dead-letters", &["ls"], |_, rows| rows.as_array().unwrap().len() == dead)
}

#[test]
fn letters_of_all_nodes_are_one_list() {
    let application = two_offices();
    let (east, west) = (up(&application, "east"), up(&application, "west"));
    refuse(&application, "letters", 1);
    refuse(&application, "ledgers", 2);
    let letters = refuse(&application, "letters", 3);
    assert_eq!(column(&letters, "module"), ["reader", "clerk", "reader"], "in the order of their times");
    let ids = column(&letters, "id");
    for arguments in [&["ls", "--node", "west"][..], &["ls", "--module", "clerk"]] {
        assert_eq!(column(&told(&application, "dead-letters", arguments).1, "id"), [ids[1]], "{arguments:?}");
    }
    let (code, out, err) = run(&application, "dead-letters", &["ls", "--limit", "1"]);
    assert_eq!((code, out.lines().count()), (0, 3));
    assert!(err.contains("there are more than 1"), "{err}");
    assert_eq!(column(&told(&application, "events", &["show", ids[1]]).1, "id"), [ids[1]; 1]);
    let (code, _, err) = run(&application, "events", &["ls", "--node", "west", "--module", "reader"]);
    assert_eq!(code, 2);
    assert!(err.contains("`reader` is not on node `west`") && err.contains("`--node east`"), "{err}");

    drop(west);
    let (code, out, err) = run(&application, "dead-letters", &["ls"]);
    assert_eq!((code, out.matches("reader").count(), out.matches("clerk").count()), (0, 2, 0), "{out}");
    assert!(err.contains("node `west` is not asked: nobody answers at"), "{err}");
    drop(east);
    let (code, out, err) = run(&application, "events", &["ls"]);
    assert_eq!((code, out.as_str()), (4, ""));
    assert!(err.contains("no node of the application answers at"), "{err}");
}

#[test]
fn letters_are_changed_on_the_nodes_where_they_are() {
    let application = two_offices();
    let (_east, west) = (up(&application, "east"), up(&application, "west"));
    refuse(&application, "letters", 1);
    let letters = refuse(&application, "ledgers", 2);
    let ids = column(&letters, "id");
    let unknown = "ffffffffffff";
    let (code, out, err) = run(&application, "dead-letters", &["drop", ids[0], unknown]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("`ffffffffffff` is no dead letter"), "{err}");
    let (code, replayed) = told(&application, "dead-letters", &["replay", ids[1], ids[0]]);
    assert_eq!((code, column(&replayed, "module")), (0, vec!["reader", "clerk"]));
    await_told(&application, "dead-letters", &["ls"], |_, rows| rows.as_array().unwrap().len() == 2);
    assert_eq!(column(&told(&application, "dead-letters", &["drop", ids[1]]).1, "module"), ["clerk"]);
    refuse(&application, "ledgers", 2);
    let (code, out, err) = run(&application, "dead-letters", &["drop", "--all"]);
    assert_eq!((code, out.lines().count(), err.as_str()), (0, 2, "2 dead letters were dropped\n"));
    refuse(&application, "letters", 1);
    west.stop();
    let (code, out, err) = run(&application, "dead-letters", &["drop", "--all"]);
    assert_eq!((code, out.lines().count()), (0, 1));
    assert!(err.contains("node `west` is not asked"), "{err}");
}

#[test]
fn without_a_bus_each_node_tells_of_itself() {
    let application = two_offices();
    let (_east, west) = (up(&application, "east"), up(&application, "west"));
    let (code, status) = told(&application, "status", &[]);
    assert_eq!((code, column(&status["answered_by"], "node")), (0, vec!["east", "west"]));
    assert_eq!(column(&status["pools"], "node"), ["east", "east", "west", "west"]);
    let (code, _, err) = run(&application, "call", &["test:ledgers/office.sent", "--node", "east"]);
    assert_eq!(code, 2);
    assert!(err.contains("is on another node, and no bus leads there") && err.contains("`--node`"), "{err}");
    assert_eq!(
        run(&application, "call", &["test:ledgers/office.sent"]),
        (0, "[]\n".to_owned(), String::new())
    );
    west.stop();
    let (code, status) = told(&application, "status", &[]);
    assert_eq!((code, column(&status["replicas"], "state")), (1, vec!["up", "absent"]));
}
