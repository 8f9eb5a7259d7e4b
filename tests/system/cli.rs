//! The command line: what each verb prints, and how it exits.

use cleave_tests::{ARRANGEMENTS, Application, cleave, root, stderr, stdout};
use serde_json::Value as Json;

const MUG: &str = r#"{"name":"Mug","price_cents":1250,"description":""}"#;

#[test]
fn check_prints_modules_contracts_and_routes() {
    let shop = Application::shop(ARRANGEMENTS[0]);
    let output = shop.run("check", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    for line in [
        "catalog  shop:catalog/products@0.1.0  -                            sql",
        "orders   shop:orders/checkout@0.1.0   shop:catalog/products@0.1.0  sql",
        "shop:catalog/products@0.1.0  catalog  local  the exporter is on this node  4",
        "POST /api/orders                 shop:orders/checkout@0.1.0.place    orders",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert_eq!(stderr(&output), "");
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
    let shop = Application::shop(ARRANGEMENTS[0]);
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
    let zoo = crate::calls::zoo(ARRANGEMENTS[0], "deadline = \"1m\"", "deadline = \"1m\"");
    let mut process = zoo.up_without_http();
    let mut call = cleave()
        .args(["call", "test:hostile/acts.sleep", "60000", "--config"])
        .arg(zoo.config())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // The sleeper is running once a second call to the one place that there is would have to wait; its log says so.
    let probe = || zoo.run("call", &["test:victim/ping.ping", "1"]);
    assert!(probe().status.success());
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
