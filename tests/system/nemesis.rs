//! The shop on three nodes, which somebody means ill: processes and the NATS server are killed, stopped and started again,
//! and one node's connection is cut, slowed and left hanging, while clients order. In the end nothing that was answered is
//! lost, nobody has paid twice, and every order is whole.
//!
//! `CLEAVE_NEMESIS_SECONDS` says for how long, `CLEAVE_SEED` what happens.

use crate::crash::{Place, Sign, assert_no_panic, from_environment, survive};
use cleave_bus::route::Route;
use cleave_tests::checker::Random;
use cleave_tests::nats::NatsServer;
use cleave_tests::proxy::Proxy;
use cleave_tests::{Application, Arrangement, Node, PATIENCE, Process, shop_config, with_shared_cache};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long it goes on, unless the environment says otherwise.
const SECONDS: u64 = 60;
/// How long a client rests between two orders.
const PACE: Duration = Duration::from_millis(200);
/// How long something is as it should not be, in milliseconds.
const TROUBLE_MS: std::ops::Range<u64> = 100..3_000;
/// How long nothing is done then, in milliseconds.
const REST_MS: std::ops::Range<u64> = 100..1_500;
/// By how much the slow connection is late, in milliseconds.
const DELAY_MS: std::ops::Range<u64> = 20..400;

/// Events go from `sales` to `front`, calls from each to each.
const THREE_NODES: [Node; 3] = [
    ("front", &["users", "catalog", "notifications"]),
    ("money", &["payments"]),
    ("sales", &["orders", "inventory", "shipping"]),
];
/// The node whose connection goes through the proxy.
const BEHIND: &str = "sales";

#[test]
fn nothing_answered_is_lost_to_a_nemesis() {
    let server = NatsServer::start();
    let proxy = Proxy::to(server.address());
    let arrangement = Arrangement::pooled(Route::Local, None).on(&THREE_NODES);
    let config = shop_config(arrangement);
    // The bus of this test's own server in place of the one of all tests.
    let (before, rest) = config.split_once("[bus]").unwrap();
    let (_, calls) = rest.split_once("[calls]").unwrap();
    let application =
        Application::new(&with_shared_cache(&format!("{before}{}[calls]{calls}", server.bus())));
    let mut nodes =
        Nemesis { application: &application, server, proxy, others: BTreeMap::new(), done: Vec::new() };
    for (name, _) in &THREE_NODES[1..] {
        nodes.others.insert(name, nodes.start(name));
    }
    let front = nodes.start("front");
    nodes.await_all(&front);
    survive(&application, front, PACE, |front, sign, random| nodes.torment(front, sign, random));
    for process in nodes.others.into_values() {
        assert_no_panic(&process);
        assert!(process.stop().success());
    }
}

struct Nemesis<'a> {
    application: &'a Application,
    server: NatsServer,
    proxy: Proxy,
    /// The nodes but the one that serves HTTP.
    others: BTreeMap<&'static str, Process>,
    /// What was done, for the text of a failure.
    done: Vec<String>,
}

impl Nemesis<'_> {
    fn start(&self, node: &str) -> Process {
        let mut command = self.application.node_command(node);
        if node == BEHIND {
            command.env("CLEAVE_BUS__NATS", format!("nats://{}", self.proxy.address()));
        }
        Process::start_until(&mut command, if node == "front" { "ready at " } else { "ready; " })
    }

    /// Waits until every module answers through the node that serves HTTP.
    fn await_all(&self, front: &Process) {
        let began = Instant::now();
        let id = "0c2d2e9e-0000-4000-8000-000000000001";
        for path in
            [format!("/api/orders/{id}/payments"), "/api/stock/none".to_owned(), format!("/api/orders/{id}")]
        {
            while !matches!(front.get(&path).status, 200 | 404) {
                assert!(began.elapsed() < PATIENCE, "{path} stays {:?}", front.get(&path));
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Does ill until the time is over, and leaves everything as it should be.
    fn torment(&mut self, mut front: Process, sign: &Sign, random: &mut Random) -> Process {
        let time = Duration::from_secs(from_environment("CLEAVE_NEMESIS_SECONDS").unwrap_or(SECONDS));
        let began = Instant::now();
        let mut life = 0;
        sign.show(Place::Open { life, address: front.address.clone() });
        while began.elapsed() < time {
            std::thread::sleep(Duration::from_millis(random.within(REST_MS)));
            let trouble = Duration::from_millis(random.within(TROUBLE_MS));
            let node = *random.pick(&["money", BEHIND]);
            match random.within(0..9) {
                0 => {
                    self.note("front is killed", trouble);
                    front.kill();
                    sign.show(Place::Shut);
                    std::thread::sleep(trouble);
                    front = self.start("front");
                    life += 1;
                    sign.show(Place::Open { life, address: front.address.clone() });
                }
                1 => self.kill(node, trouble),
                2 => {
                    self.note(&format!("{node} is stopped"), trouble);
                    self.others[node].signal("STOP");
                    std::thread::sleep(trouble);
                    self.others[node].signal("CONT");
                }
                3 => {
                    self.note("front is stopped", trouble);
                    front.signal("STOP");
                    std::thread::sleep(trouble);
                    front.signal("CONT");
                }
                4 => {
                    self.note("nats-server is killed", trouble);
                    self.server.kill();
                    std::thread::sleep(trouble);
                    self.server.restart();
                }
                5 => {
                    self.note("nats-server is stopped", trouble);
                    self.server.pause();
                    std::thread::sleep(trouble);
                    self.server.resume();
                }
                6 => {
                    self.note("nats-server is killed, and a node", trouble);
                    self.server.kill();
                    self.others.remove(node).unwrap().kill();
                    std::thread::sleep(trouble);
                    self.server.restart();
                    self.others.insert(node, self.start(node));
                }
                7 => {
                    let delay = Duration::from_millis(random.within(DELAY_MS));
                    self.note(&format!("a connection is late by {delay:?}"), trouble);
                    self.proxy.delay(delay);
                    std::thread::sleep(trouble);
                    self.proxy.delay(Duration::ZERO);
                }
                _ => {
                    let cut = random.chance(50);
                    self.note(if cut { "a connection is cut" } else { "a connection hangs" }, trouble);
                    if cut {
                        self.proxy.cut()
                    } else {
                        self.proxy.hang()
                    }
                    std::thread::sleep(trouble);
                    self.proxy.restore();
                }
            }
        }
        eprintln!("{}", self.done.join("\n"));
        self.await_all(&front);
        front
    }

    fn kill(&mut self, node: &'static str, trouble: Duration) {
        self.note(&format!("{node} is killed"), trouble);
        let process = self.others.remove(node).unwrap();
        assert_no_panic(&process);
        process.kill();
        std::thread::sleep(trouble);
        self.others.insert(node, self.start(node));
    }

    fn note(&mut self, what: &str, trouble: Duration) {
        self.done.push(format!("{what} for {trouble:?}"));
    }
}
