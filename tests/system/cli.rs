//! The command line: what each verb prints, and how it exits.

use cleave_tests::{ARRANGEMENTS, Application, cleave, root, shop_config, stderr, stdout};
use serde_json::Value as Json;

const MUG: &str = r#"{"name":"Mug","price_cents":1250,"description":""}"#;

#[test]
fn check_prints_modules_contracts_and_routes() {
    let shop = Application::shop(ARRANGEMENTS[0]);
    let output = shop.run("check", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    // Columns are as wide as they need be; the words of a line are what counts.
    let lines: Vec<_> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "catalog shop:catalog/products@0.1.0 - sql sqlite",
        "orders shop:orders/checkout@0.1.0 shop:catalog/products@0.1.0, shop:inventory/stock@0.1.0, \
         shop:payments/charges@0.1.0 sql sqlite",
        "shop:catalog/products@0.1.0 catalog local the exporter is on this node 4",
        "POST /api/orders shop:orders/checkout@0.1.0.place orders",
        "shop:orders/events@0.1.order-placed orders inventory, notifications, shipping event.order-id",
        "shop:shipping/events@0.1.shipment-created shipping notifications event.order-id",
        "orders resume 1s",
    ] {
        assert!(lines.iter().any(|l| l == line), "{line}\n{text}");
    }
    assert!(!stderr(&output).contains("warning"), "{}", stderr(&output));
}

#[test]
fn check_warns_of_an_event_that_no_module_handles() {
    let config = shop_config(ARRANGEMENTS[0]);
    let (before, rest) = config.split_once("[modules.notifications]").unwrap();
    let (_, after) = rest.split_once("\n[").unwrap();
    let routes: Vec<&str> = before.lines().filter(|line| !line.contains("shop:notifications")).collect();
    let shop = Application::new(&format!("{}\n[{after}", routes.join("\n")));
    let output = shop.run("check", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let warned = stderr(&output);
    assert!(warned.contains("no module handles `shop:shipping/events@0.1.shipment-created`"), "{warned}");
    assert_eq!(warned.matches("warning").count(), 1, "{warned}");
}

#[test]
fn check_prints_json_with_types() {
    let shop = Application::shop(ARRANGEMENTS[2]);
    let report: Json = serde_json::from_str(&stdout(&shop.run("check", &["--json"]))).unwrap();
    assert_eq!(report["version"], 1);
    let catalog = &report["contracts"][0];
    assert_eq!(catalog["name"], "shop:catalog/products@0.1.0");
    assert_eq!(catalog["route"], "loopback");
    let get = catalog["functions"].as_array().unwrap().iter().find(|f| f["name"] == "get").unwrap();
    assert!(
        get["signature"]
            .as_str()
            .unwrap()
            .starts_with("func(sku: string) -> result<option<record { sku: string")
    );
    assert_eq!(get["tells_failure"], true);
}

#[test]
fn check_warns_of_functions_that_cannot_tell_a_failure() {
    let zoo = crate::calls::zoo(ARRANGEMENTS[0], "", "");
    let output = zoo.run("check", &[]);
    assert_eq!(output.status.code(), Some(0));
    let warned = stderr(&output);
    assert!(
        warned.contains("`test:hostile/acts@0.1.0.plain-trap` has no place for a failed call"),
        "{warned}"
    );
}

#[test]
fn check_starts_nothing_and_leaves_nothing() {
    let shop = Application::shop(ARRANGEMENTS[0]);
    shop.run("check", &[]);
    let files: Vec<_> =
        std::fs::read_dir(shop.folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(files, ["cleave.toml"]);
}

#[test]
fn status_of_one_process_tells_its_modules() {
    let shop = Application::shop(ARRANGEMENTS[0]);
    let process = shop.up();
    assert!(shop.run("call", &["shop:catalog/products.get", "\"mug\""]).status.success());
    let output = shop.run("status", &[]);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    let text = stdout(&output);
    assert!(text.starts_with("application answers; there is no bus\n"), "{text}");
    assert!(text.contains(&process.address), "{text}");
    let status: Json = serde_json::from_str(&stdout(&shop.run("status", &["--json"]))).unwrap();
    assert_eq!((&status["version"], &status["bus"]), (&1.into(), &Json::Null));
    assert_eq!(status["replicas"].as_array().unwrap().len(), 1);
    assert_eq!(status["replicas"][0]["state"], "up");
    let catalog = status["modules"].as_array().unwrap().iter().find(|m| m["name"] == "catalog").unwrap();
    assert_eq!(catalog["versions"][0]["contracts"], serde_json::json!(["shop:catalog/products@0.1.0"]));
    let pool = status["pools"].as_array().unwrap().iter().find(|p| p["module"] == "catalog").unwrap();
    assert_eq!((&pool["returned"], &pool["running"]), (&1.into(), &0.into()));
    process.stop();
    let output = shop.run("status", &[]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(4), ""));
}

#[test]
fn status_tells_of_a_module_that_the_config_has_and_the_process_has_not() {
    let shop = Application::shop(ARRANGEMENTS[0]);
    let _process = shop.up();
    let config = std::fs::read_to_string(shop.config()).unwrap();
    shop.write(&(config + "[modules.loyalty]\ncomponent = \"loyalty.wasm\"\n"));
    let output = shop.run("status", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("loyalty"), "{}", stdout(&output));
    assert_eq!(stderr(&output), "warning: `loyalty` is on no live node: `cleave up` starts it\n");
}

#[test]
fn call_gives_json_and_an_exit_code() {
    let shop = Application::shop(ARRANGEMENTS[0]);
    let process = shop.up();
    let call = |arguments: &[&str]| {
        let output = shop.run("call", arguments);
        (output.status.code().unwrap(), stdout(&output), stderr(&output))
    };
    let (code, out, _) = call(&["shop:catalog/products.put", "\"mug\"", MUG]);
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<Json>(&out).unwrap()["sku"], "mug");
    let (code, out, _) = call(&["shop:catalog/products@0.1.0.get", "\"nothing\""]);
    assert_eq!((code, out.as_str()), (0, "null\n"));
    let (code, out, _) = call(&["shop:catalog/products.get", "\"\""]);
    assert_eq!(code, 3);
    assert!(serde_json::from_str::<Json>(&out).unwrap()["invalid"].is_string(), "{out}");
    for (arguments, message) in [
        (&["shop:catalog/products.gte", "\"mug\""][..], "has no function `gte`"),
        (&["products.get", "\"mug\""], "is not a function of a contract"),
        (&["shop:catalog/products.get"], "takes 1 argument, and 0 came"),
        (&["shop:catalog/products.get", "7"], "argument `sku`"),
        (&["shop:catalog/products.get", "mug"], "argument `sku`"),
    ] {
        let (code, out, err) = call(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(err.contains(message), "{arguments:?}: {err}");
    }
    process.stop();
    let (code, out, err) = call(&["shop:catalog/products.get", "\"mug\""]);
    assert_eq!((code, out.as_str()), (4, ""));
    assert!(err.contains("no application answers at"), "{err}");
}

#[test]
fn call_tells_what_may_have_run() {
    let zoo = crate::calls::zoo(ARRANGEMENTS[0], "", "deadline = \"100ms\"");
    let _process = zoo.up_without_http();
    let output = zoo.run("call", &["test:hostile/acts.spin"]);
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    assert!(stderr(&output).contains("did not answer within 100 ms"), "{}", stderr(&output));
    let output = zoo.run("call", &["test:hostile/acts.echo", &format!("\"{}\"", "AAAA".repeat(30_000))]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn socket_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let shop = Application::new(&shop_config(ARRANGEMENTS[0]));
    let process = shop.up();
    let data = shop.folder.path().join("data");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data.join("cleave.sock")), 0o600);
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join("cache")), 0o700);
    assert!(process.stop().success());
    assert!(!data.join("cleave.sock").exists());
}

/// The sockets that a process has open, by their numbers.
fn sockets(process: u32) -> Vec<String> {
    let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let targets = descriptors.filter_map(|d| std::fs::read_link(d.unwrap().path()).ok());
    targets
        .filter_map(|t| Some(t.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect()
}

#[test]
fn node_without_http_opens_no_network_socket() {
    let zoo = crate::calls::zoo(ARRANGEMENTS[2], "", "");
    let process = zoo.up_without_http();
    assert!(zoo.run("call", &["test:relay/relay.pass-count"]).status.success());
    let open = sockets(process.id());
    assert!(!open.is_empty(), "the command line's socket is one");
    for table in ["tcp", "tcp6", "udp", "udp6", "raw"] {
        let listed = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        let numbers: Vec<_> = listed.lines().filter_map(|line| line.split_whitespace().nth(9)).collect();
        assert!(open.iter().all(|socket| !numbers.contains(&socket.as_str())), "{table}: {open:?}");
    }
}

#[test]
fn up_stops_at_either_signal() {
    for signal in ["INT", "TERM"] {
        let shop = Application::shop(ARRANGEMENTS[2]);
        let mut process = shop.up();
        process.signal(signal);
        assert!(process.ended().success());
        assert!(process.log().contains("stopped"));
    }
}

#[test]
fn second_signal_ends_the_process_now() {
    let zoo = crate::calls::zoo(
        ARRANGEMENTS[0],
        "deadline = \"1m\"",
        "deadline = \"1m\"\nconcurrency = 1\nqueue = 0",
    );
    let mut process = zoo.up_without_http();
    let sleeper = || {
        let mut command = cleave();
        command.args(["call", "test:hostile/acts.sleep", "60000", "--config"]).arg(zoo.config());
        command.stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let mut call = sleeper();
    // There is one place: whoever finds it taken finds it taken by the sleeper, or has kept the sleeper out of it.
    while zoo.run("call", &["test:hostile/acts.count"]).status.code() != Some(4) {
        if call.try_wait().unwrap().is_some() {
            call = sleeper();
        }
    }
    process.signal("TERM");
    process.await_log("stopping");
    process.signal("TERM");
    assert_eq!(process.ended().code(), Some(1));
    call.wait().unwrap();
}

#[test]
fn set_and_environment_go_over_the_file() {
    let shop = Application::shop(ARRANGEMENTS[0]);
    let output = cleave()
        .args(["check", "--json", "--config"])
        .arg(shop.config())
        .env("CLEAVE_CALLS__ROUTE", "loopback")
        .output()
        .unwrap();
    assert!(stdout(&output).contains("\"route\": \"loopback\""));
    let output = cleave()
        .args(["check", "--json", "--set", "calls.route=local", "--config"])
        .arg(shop.config())
        .env("CLEAVE_CALLS__ROUTE", "loopback")
        .output()
        .unwrap();
    assert!(stdout(&output).contains("\"route\": \"local\""));
}

#[test]
fn build_runs_each_modules_command() {
    let application = Application::new(
        "[modules.a]\ncomponent = \"a.wasm\"\nbuild = \"echo made > a.wasm\"\n[modules.b]\ncomponent = \"b.wasm\"\nbuild = \"exit 3\"\n",
    );
    let output = application.run("build", &["a"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(application.folder.path().join("a.wasm")).unwrap(), "made\n");
    let output = application.run("build", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the build of `b` failed: exit status: 3"), "{}", stderr(&output));
    let output = application.run("build", &["c"]);
    assert!(stderr(&output).contains("there is no module `c`"), "{}", stderr(&output));
}

#[test]
fn wrong_usage_exits_with_two() {
    for arguments in [&[][..], &["fly"], &["check", "--colour"], &["up", "--set", "http"]] {
        let output = cleave().args(arguments).current_dir(root()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_no_crash() {
    let shop = Application::shop(ARRANGEMENTS[0]);
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let check = |shop: &Application| {
        let mut command = cleave();
        command.args(["check", "--config"]).arg(shop.config());
        command
    };
    assert_eq!(check(&shop).stdout(full()).status().unwrap().code(), Some(1));
    shop.write("nonsense");
    assert_eq!(check(&shop).stderr(full()).status().unwrap().code(), Some(1));
}

#[test]
fn log_that_nobody_reads_holds_up_nobody() {
    use std::io::Read;
    let application = crate::calls::zoo(ARRANGEMENTS[0], "", "log_lines_per_second = 100000");
    // The far end of the pipe is open and never read.
    let (reader, writer) = std::io::pipe().unwrap();
    let mut child = cleave()
        .args(["up", "--quiet", "--config"])
        .arg(application.config())
        .stderr(writer)
        .spawn()
        .unwrap();
    let call = |function: &str, argument: &str| application.run("call", &[function, argument]).status.code();
    while call("test:victim/ping.ping", "1") != Some(0) {
        assert!(child.try_wait().unwrap().is_none());
    }
    for _ in 0..10 {
        assert_eq!(call("test:hostile/acts.log-flood", "2000"), Some(0));
        assert_eq!(call("test:victim/ping.ping", "1"), Some(0));
    }
    let stopped = std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(stopped.success());
    assert!(child.wait().unwrap().success());
    let mut start = [0; 10];
    let mut reader = reader;
    reader.read_exact(&mut start).unwrap();
}

#[test]
fn log_that_cannot_be_written_is_no_crash() {
    let application = crate::calls::zoo(ARRANGEMENTS[0], "", "");
    let (reader, writer) = std::io::pipe().unwrap();
    let mut child = cleave()
        .args(["up", "--quiet", "--config"])
        .arg(application.config())
        .stderr(writer)
        .spawn()
        .unwrap();
    drop(reader);
    let call = |function: &str, argument: &str| application.run("call", &[function, argument]).status.code();
    while call("test:victim/ping.ping", "1") != Some(0) {
        assert!(child.try_wait().unwrap().is_none());
    }
    assert_eq!(call("test:hostile/acts.log-flood", "100"), Some(0));
    assert_eq!(application.run("call", &["test:hostile/acts.trap"]).status.code(), Some(5));
    assert_eq!(call("test:victim/ping.ping", "1"), Some(0));
    let stopped = std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(stopped.success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn signal_ends_a_start_that_takes_long() {
    let application = crate::calls::zoo(ARRANGEMENTS[0], "", "");
    let folder = application.folder.path().join("migrations");
    std::fs::create_dir(&folder).unwrap();
    let endless = "CREATE TABLE n (x INTEGER);\nINSERT INTO n WITH RECURSIVE r (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) \
                   SELECT count(*) FROM r;\n";
    std::fs::write(folder.join("001_endless.sql"), endless).unwrap();
    let config = std::fs::read_to_string(application.config()).unwrap();
    let original = root().join("tests/guests/hostile/migrations");
    application.write(&config.replace(&original.display().to_string(), "migrations"));
    let mut child = cleave().args(["up", "--quiet", "--config"]).arg(application.config()).spawn().unwrap();
    // The database is there when the migration runs.
    while !application.folder.path().join("data/hostile.sqlite").exists() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
    let stopped = std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(stopped.success());
    assert!(child.wait().unwrap().success());
}
