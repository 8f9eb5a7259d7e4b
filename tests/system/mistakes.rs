//! Mistakes that a program may carry for years while it is one process, and the ways of running it that find them: state
//! in memory, order where none is promised, `uncertain` taken for "did not run", the clock of another node, a call or a
//! handler taken to run once, a payload that does not pass.
//!
//! What a careful module does is the same in all of them; what a careless one does is not.

use crate::calls::call;
use crate::events::{module, settled_all};
use cleave_bus::route::Route;
use cleave_host::drill::{Disorder, Drill};
use cleave_host::host::Host;
use cleave_tests::{Application, Arrangement, Node, Nodes, built, stderr};
use serde_json::{Value as Json, json};

/// The caller, who publishes, and the callee, who handles.
const CUT: [Node; 2] = [("front", &["desk"]), ("back", &["books"])];
/// How far the clocks of the two nodes are apart, in milliseconds.
const CLOCKS_APART: i64 = 17_000;
/// A function that is called, and what it is given before whether it is careful.
type Done = (&'static str, &'static [u64]);

/// What is done, by the names of the mistakes.
const DONE: [(&str, &[Done]); 6] = [
    ("memory", &[("desk.count", &[]), ("desk.count", &[]), ("desk.count", &[])]),
    ("order", &[("desk.announce", &[12])]),
    ("uncertain", &[("desk.pay", &[100]), ("desk.pay", &[200]), ("desk.pay", &[300])]),
    ("clock", &[("desk.offer", &[])]),
    ("call", &[("desk.deposit", &[100]), ("desk.deposit", &[200])]),
    ("handler", &[("desk.bill", &[100]), ("desk.bill", &[200])]),
];
/// The functions that are given an identity first.
const NAMED: [&str; 3] = ["desk.pay", "desk.deposit", "desk.bill"];

/// A way to run both modules.
struct Way {
    name: &'static str,
    arrangement: Arrangement,
    drill: fn() -> Drill,
    /// How far the clock of the second node is before that of the first.
    apart: i64,
}

fn ways() -> [Way; 6] {
    let pooled = Arrangement::pooled(Route::Local, Some(1));
    let way = |name, arrangement, drill| Way { name, arrangement, drill, apart: 0 };
    [
        way("fresh instances", Arrangement::fresh(Route::Local), Drill::default),
        way("bytes", Arrangement::pooled(Route::Loopback, Some(1)), Drill::default),
        Way { apart: CLOCKS_APART, ..way("two nodes", pooled.on(&CUT), Drill::default) },
        way("everything twice", pooled, || Drill { twice: true, ..Drill::default() }),
        way("another order", pooled, || Drill { disorder: Some(Disorder::of(7)), ..Drill::default() }),
        way("lost answers", pooled, || Drill { loses_answers_of: Some("add"), ..Drill::default() }),
    ]
}

/// The desk and the books. `more` is added to `[calls]`.
fn application(arrangement: Arrangement, more: &str) -> Application {
    let mut text = format!("{}{more}\n", arrangement.calls());
    for name in ["desk", "books"] {
        let pool = arrangement.pool.map_or(String::new(), |pool| format!("concurrency = {pool}"));
        text += &module(name, &built(name), arrangement, &pool);
    }
    for (node, modules) in arrangement.nodes {
        text += &format!("[nodes.{node}]\nmodules = {modules:?}\n");
    }
    Application::new(&text)
}

/// Does the same things in a way, and tells what was answered and what the books say in the end.
fn told(way: &Way, done: &[Done], is_careful: bool) -> Vec<Json> {
    let idempotent = ["add", "receive", "sum", "is-before", "weigh", "latest"];
    let idempotent = idempotent.map(|function| format!("test:mistakes/books.{function}"));
    let application = application(way.arrangement, &format!("retries = 0\nidempotent = {idempotent:?}"));
    let names = way.arrangement.names().into_iter().enumerate();
    let nodes = names.map(|(place, name)| {
        let drill = (way.drill)();
        drill.clock.jump(way.apart * place as i64);
        (application.load_for(name), drill)
    });
    let nodes = Nodes::start_each(way.arrangement, nodes);
    let hosts: Vec<&Host> = nodes.hosts().iter().collect();
    let ask = |function: &str, arguments: &[Json]| {
        let function = format!("test:mistakes/{function}");
        nodes.block_on(call(hosts[0], &function, arguments)).unwrap_or_else(|e| json!(e.to_string()))
    };
    let mut told = Vec::new();
    for (number, (function, arguments)) in done.iter().enumerate() {
        let mut arguments: Vec<_> = arguments.iter().map(|number| json!(number)).collect();
        if NAMED.contains(function) {
            arguments.insert(0, json!(format!("payment {number}")));
        }
        arguments.push(json!(is_careful));
        told.push(ask(function, &arguments));
    }
    let dead = nodes.block_on(settled_all(&hosts));
    assert!(dead.is_empty(), "{dead:?}");
    told.extend(["books.sum", "books.latest"].map(|function| ask(function, &[])));
    nodes.end();
    told
}

#[test]
fn careless_module_is_found_out_and_careful_one_is_the_same_everywhere() {
    let in_one_process = Way {
        name: "one process",
        arrangement: Arrangement::pooled(Route::Local, Some(1)),
        drill: Drill::default,
        apart: 0,
    };
    let found_by: [(&str, &str); DONE.len()] = [
        ("memory", "fresh instances"),
        ("order", "another order"),
        ("uncertain", "lost answers"),
        ("clock", "two nodes"),
        ("call", "everything twice"),
        ("handler", "everything twice"),
    ];
    for ((mistake, done), (name, by)) in DONE.into_iter().zip(found_by) {
        assert_eq!(mistake, name);
        let [careful, careless] = [true, false].map(|is_careful| told(&in_one_process, done, is_careful));
        // Nobody sees it in one process.
        assert_eq!(careful, careless, "{mistake}");
        let mut found = Vec::new();
        for way in ways() {
            assert_eq!(told(&way, done, true), careful, "{mistake}, with care: {}", way.name);
            if told(&way, done, false) != careless {
                found.push(way.name);
            }
        }
        assert!(found.contains(&by), "{mistake} is found by {found:?}");
    }
}

#[test]
fn payload_that_does_not_pass_between_nodes_passes_nowhere() {
    let two_mib = Ok(json!({"ok": 2 << 20}));
    let send = |arrangement: Arrangement, more: &str, is_careful: bool| {
        let application = application(arrangement, more);
        let nodes = Nodes::start(&application, arrangement);
        let sent = nodes.block_on(call(&nodes.hosts()[0], "test:mistakes/desk.send", &[json!(is_careful)]));
        nodes.end();
        sent.map_err(|error| error.to_string())
    };
    let pooled = |route| Arrangement::pooled(route, Some(1));
    for arrangement in [pooled(Route::Local), pooled(Route::Loopback), pooled(Route::Local).on(&CUT)] {
        assert_eq!(send(arrangement, "", true), two_mib, "{arrangement:?}");
        let said = send(arrangement, "", false).unwrap_err();
        assert!(said.contains("far larger than `calls.payload_max`"), "{arrangement:?}: {said}");
    }
    // Who raises the limit is told by the first node that is to call another, not by the first call.
    let raised = "payload_max = \"3MiB\"";
    assert_eq!(send(pooled(Route::Local), raised, false), two_mib);
    let refused = application(pooled(Route::Local).on(&CUT), raised).run("up", &["--node", "front"]);
    let said = stderr(&refused);
    assert!(!refused.status.success() && said.contains("`calls.payload_max`"), "{said}");
}
