//! The nats-server, the raw client, the proxy and the proof of routes that tests stand on: each does what tests take it to
//! do.
//!
//! That nothing comes is shown by what else does come meanwhile, and not by how long it is waited for.

use cleave_tests::nats::{self, Message, NatsServer, Raw, Settings};
use cleave_tests::proxy::{Direction, HELD_MAX, Proxy};
use cleave_tests::{Application, PATIENCE, SHOP_ARRANGEMENTS};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Long enough to see that nobody answers. A slow machine makes it no failure: then too nobody answers.
const A_WHILE: Duration = Duration::from_millis(50);

/// Waits until something holds.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not so after {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

fn connect(address: SocketAddr) -> Raw {
    Raw::connect(&format!("nats://{address}")).unwrap()
}

/// A client whose subscription is in effect.
fn subscriber(address: SocketAddr, subject: &str) -> Raw {
    let mut raw = connect(address);
    raw.subscribe(subject);
    assert!(raw.flush(PATIENCE));
    raw
}

/// The payload of the next message.
#[track_caller]
fn text(raw: &mut Raw) -> String {
    String::from_utf8(raw.next(PATIENCE).expect("no message came").payload).unwrap()
}

fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[test]
fn message_comes_as_it_was_sent() {
    let server = nats::shared();
    let mut raw = Raw::connect(&server.url()).unwrap();
    let sid = raw.subscribe("kit.whole.*");
    let headers: &[u8] = b"NATS/1.0\r\nA: 1\r\n\r\n";
    raw.publish("kit.whole.one", Some("back"), Some(headers), b"\r\nMSG\r\n");
    raw.publish("kit.whole.two", None, None, b"");
    let one = Message {
        sid,
        subject: "kit.whole.one".into(),
        reply: Some("back".into()),
        headers: Some(headers.into()),
        payload: b"\r\nMSG\r\n".into(),
    };
    assert_eq!(raw.next(PATIENCE), Some(one));
    let two = Message { sid, subject: "kit.whole.two".into(), reply: None, headers: None, payload: vec![] };
    assert_eq!(raw.next(PATIENCE), Some(two));
}

#[test]
fn large_message_comes_in_pieces() {
    let mut raw = Raw::connect(&nats::shared().url()).unwrap();
    raw.subscribe("kit.large");
    let payload: Vec<u8> = (0..1_000_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    raw.publish("kit.large", None, None, &payload);
    assert_eq!(raw.next(PATIENCE).unwrap().payload, payload);
}

#[test]
fn nobody_listening_is_told_to_who_asks() {
    let mut raw = Raw::connect(&nats::shared().url()).unwrap();
    raw.subscribe("kit.inbox");
    raw.publish("kit.nobody", Some("kit.inbox"), None, b"");
    let headers = raw.next(PATIENCE).unwrap().headers.unwrap();
    assert!(headers.starts_with(b"NATS/1.0 503"), "{headers:?}");
}

#[test]
fn malformed_headers_reach_the_subscriber() {
    let mut raw = Raw::connect(&nats::shared().url()).unwrap();
    raw.subscribe("kit.malformed");
    let headers: &[u8] = b"NATS/9.9\r\n\0: \xff\r\nno colon";
    raw.publish("kit.malformed", None, Some(headers), b"payload");
    let message = raw.next(PATIENCE).unwrap();
    assert_eq!((message.headers.as_deref(), message.payload.as_slice()), (Some(headers), &b"payload"[..]));
}

#[test]
fn nonsense_ends_the_connection() {
    let mut raw = Raw::connect(&nats::shared().url()).unwrap();
    raw.send(b"NONSENSE\r\n");
    assert_eq!(raw.await_end(), "-ERR 'Unknown Protocol Operation'");
    assert_eq!(raw.next(PATIENCE), None);
}

#[test]
fn server_keeps_to_its_largest_payload() {
    let server = NatsServer::start_with(Settings { max_payload: Some(1024), ..Settings::default() });
    let mut raw = Raw::connect(&server.url()).unwrap();
    assert_eq!(raw.info["max_payload"], 1024);
    raw.publish("kit.payload", None, None, &[0; 1024]);
    assert!(raw.flush(PATIENCE));
    raw.publish("kit.payload", None, None, &[0; 1025]);
    assert_eq!(raw.await_end(), "-ERR 'Maximum Payload Violation'");
}

#[test]
fn server_lets_only_its_user_in() {
    let server = NatsServer::start_with(Settings { login: Some(("ada", "secret")), ..Settings::default() });
    for login in ["", "ada:wrong@"] {
        let refused = Raw::connect(&format!("nats://{login}{}", server.address())).err().unwrap();
        assert_eq!(refused.to_string(), "-ERR 'Authorization Violation'");
    }
    assert!(Raw::connect(&format!("nats://ada:secret@{}", server.address())).is_ok());
}

#[test]
fn client_answers_pings() {
    let lines = "ping_interval: \"20ms\"\nping_max: 1\n";
    let server = NatsServer::start_with(Settings { lines, ..Settings::default() });
    let mut raw = Raw::connect(&server.url()).unwrap();
    until("five PINGs", || raw.next(A_WHILE).is_some() || raw.pings >= 5);
    assert!(raw.flush(PATIENCE));
}

#[test]
fn killed_server_comes_back_at_its_port() {
    let mut server = NatsServer::start();
    let (address, id) = (server.address(), server.id());
    let mut before = subscriber(address, "kit.kill");
    server.kill();
    before.await_end();
    assert!(is_refused(address));
    server.restart();
    assert_eq!(server.address(), address);
    assert_ne!(server.id(), id);
    let mut after = subscriber(address, "kit.kill");
    connect(address).publish("kit.kill", None, None, b"again");
    assert_eq!(text(&mut after), "again");
}

#[test]
fn port_of_a_killed_server_is_given_to_nobody() {
    let mut server = NatsServer::start();
    server.kill();
    // So often that somebody would be given it.
    for _ in 0..70_000 {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_ne!(other.local_addr().unwrap(), server.address());
    }
    server.restart();
}

#[test]
fn restart_ends_the_server_that_runs() {
    let mut server = NatsServer::start();
    let mut raw = connect(server.address());
    server.restart();
    raw.await_end();
    connect(server.address());
}

#[test]
fn paused_server_goes_on_where_it_was() {
    let mut server = NatsServer::start();
    let mut raw = subscriber(server.address(), "kit.pause");
    server.pause();
    raw.publish("kit.pause", None, None, b"late");
    assert!(!raw.flush(A_WHILE));
    server.resume();
    assert_eq!(text(&mut raw), "late");
    assert!(raw.flush(PATIENCE));
}

#[test]
fn paused_server_can_be_killed() {
    let mut server = NatsServer::start();
    server.pause();
    server.kill();
    assert!(is_refused(server.address()));
}

#[test]
fn dropped_server_is_gone() {
    let server = NatsServer::start();
    let (address, folder) = (server.address(), folder_of(server.id()));
    assert!(Path::new(&folder).exists());
    drop(server);
    assert!(is_refused(address));
    assert!(!Path::new(&folder).exists());
}

/// Where the config of a running server is.
fn folder_of(id: u32) -> String {
    let line = std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap();
    let config = line.split('\0').find(|argument| argument.ends_with("nats.conf")).unwrap();
    Path::new(config).parent().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn shared_server_ends_with_a_test_process_that_is_killed() {
    const SHARER: &str = "KIT_SHARER";
    if std::env::var_os(SHARER).is_some() {
        return share_until_killed();
    }
    let mut sharer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kit::shared_server_ends_with_a_test_process_that_is_killed", "--nocapture"])
        .env(SHARER, "")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(sharer.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find_map(|line| Some(line.split_once("shared at ")?.1.to_owned())).unwrap();
    let (address, id) = line.split_once(' ').unwrap();
    let (address, folder) = (address.parse().unwrap(), folder_of(id.parse().unwrap()));
    connect(address);
    sharer.kill().unwrap();
    sharer.wait().unwrap();
    until("the server is gone", || is_refused(address));
    until("its folder is gone", || !Path::new(&folder).exists());
}

/// The other process of the test above.
fn share_until_killed() {
    let server = nats::shared();
    assert_eq!(server.id(), nats::shared().id());
    let mut stdout = std::io::stdout();
    writeln!(stdout, "shared at {} {}", server.address(), server.id()).unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn proxy_passes_and_counts_both_directions() {
    let proxy = Proxy::to(nats::shared().address());
    let mut raw = subscriber(proxy.address(), "kit.passes");
    for (whom, frame) in [
        (Direction::Server, "PUB kit.passes 4\r\nfour\r\n"),
        (Direction::Client, "MSG kit.passes 1 4\r\nfour\r\n"),
    ] {
        until("what came before is counted", || proxy.passed(whom) == proxy.arrived(whom));
        let before = proxy.passed(whom);
        raw.publish("kit.passes", None, None, b"four");
        assert_eq!(text(&mut raw), "four");
        until("the message is counted", || proxy.passed(whom) - before >= frame.len() as u64);
    }
    assert_eq!(proxy.accepted(), 1);
}

#[test]
fn proxy_passes_the_end_of_a_connection_on() {
    let mut server = NatsServer::start();
    let proxy = Proxy::to(server.address());
    let mut raw = connect(proxy.address());
    server.kill();
    raw.await_end();
    assert!(Raw::connect(&format!("nats://{}", proxy.address())).is_err());
    server.restart();
    connect(proxy.address());
}

#[test]
fn cut_closes_and_refuses_until_restored() {
    let proxy = Proxy::to(nats::shared().address());
    let mut raw = connect(proxy.address());
    for _ in 0..3 {
        proxy.cut();
        assert!(is_refused(proxy.address()));
        raw.await_end();
        proxy.restore();
        raw = connect(proxy.address());
    }
}

#[test]
fn dropped_proxy_closes_and_refuses() {
    let proxy = Proxy::to(nats::shared().address());
    let (address, mut raw) = (proxy.address(), connect(proxy.address()));
    drop(proxy);
    raw.await_end();
    assert!(is_refused(address));
}

#[test]
fn hang_passes_nothing_until_restored() {
    let server = nats::shared().address();
    let proxy = Proxy::to(server);
    let mut behind = subscriber(proxy.address(), "kit.hang");
    let mut direct = subscriber(server, "kit.hang");
    proxy.hang();
    let arrived = [Direction::Server, Direction::Client].map(|whom| proxy.arrived(whom));
    let passed = [Direction::Server, Direction::Client].map(|whom| proxy.passed(whom));
    behind.publish("kit.hang", None, None, b"from behind");
    until("the proxy has it", || proxy.arrived(Direction::Server) > arrived[0]);
    direct.publish("kit.hang", None, None, b"from outside");
    assert_eq!(text(&mut direct), "from outside");
    until("the proxy has it", || proxy.arrived(Direction::Client) > arrived[1]);
    assert!(!behind.flush(A_WHILE));
    assert_eq!([Direction::Server, Direction::Client].map(|whom| proxy.passed(whom)), passed);
    proxy.restore();
    assert_eq!([text(&mut behind), text(&mut behind)], ["from outside", "from behind"]);
    assert_eq!(text(&mut direct), "from behind");
}

/// Whether a connection is open and nothing more comes.
fn is_silent(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(A_WHILE)).unwrap();
    stream.read_to_end(&mut Vec::new()).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn hang_accepts_new_connections_and_greets_nobody() {
    let proxy = Proxy::to(nats::shared().address());
    proxy.hang();
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    until("the greeting has come as far as the proxy", || proxy.arrived(Direction::Client) > 0);
    assert!(is_silent(&mut stream));
    assert_eq!(proxy.passed(Direction::Client), 0);
    proxy.restore();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"INFO ");
}

#[test]
fn hang_holds_the_end_of_a_connection_back() {
    let mut server = NatsServer::start();
    let proxy = Proxy::to(server.address());
    let mut early = TcpStream::connect(proxy.address()).unwrap();
    until("the greeting has come", || proxy.passed(Direction::Client) > 0);
    proxy.hang();
    server.kill();
    let mut late = TcpStream::connect(proxy.address()).unwrap();
    until("the late one is accepted", || proxy.accepted() == 2);
    assert!(is_silent(&mut early) && is_silent(&mut late));
    proxy.restore();
    for mut stream in [early, late] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
}

#[test]
fn hang_in_one_direction_leaves_the_other() {
    let server = nats::shared().address();
    let proxy = Proxy::to(server);
    let mut behind = subscriber(proxy.address(), "kit.oneway.in");
    let mut direct = subscriber(server, "kit.oneway.out");
    proxy.hang_towards(Direction::Client);
    behind.publish("kit.oneway.out", None, None, b"leaves");
    assert_eq!(text(&mut direct), "leaves");
    direct.publish("kit.oneway.in", None, None, b"held");
    assert!(direct.flush(PATIENCE));
    assert_eq!(behind.next(A_WHILE), None);
    proxy.restore();
    assert_eq!(text(&mut behind), "held");

    proxy.hang_towards(Direction::Server);
    behind.publish("kit.oneway.out", None, None, b"held");
    direct.publish("kit.oneway.in", None, None, b"enters");
    assert_eq!(text(&mut behind), "enters");
    assert_eq!(direct.next(A_WHILE), None);
    proxy.restore();
    assert_eq!(text(&mut direct), "held");
}

#[test]
fn cut_loses_what_was_held_back() {
    let server = nats::shared().address();
    let proxy = Proxy::to(server);
    let mut behind = connect(proxy.address());
    let mut direct = subscriber(server, "kit.lost");
    proxy.hang();
    let arrived = proxy.arrived(Direction::Server);
    behind.publish("kit.lost", None, None, b"lost");
    until("the proxy has it", || proxy.arrived(Direction::Server) > arrived);
    proxy.cut();
    proxy.restore();
    behind.await_end();
    connect(proxy.address()).publish("kit.lost", None, None, b"later");
    assert_eq!(text(&mut direct), "later");
}

#[test]
fn delay_holds_for_each_direction() {
    const DELAY: Duration = Duration::from_millis(60);
    let proxy = Proxy::to(nats::shared().address());
    let mut raw = connect(proxy.address());
    proxy.delay(DELAY);
    let began = Instant::now();
    assert!(raw.flush(PATIENCE));
    assert!(began.elapsed() >= 2 * DELAY);
    let began = Instant::now();
    connect(proxy.address());
    assert!(began.elapsed() >= 2 * DELAY);
}

#[test]
fn restore_ends_a_delay_that_has_begun() {
    let proxy = Proxy::to(nats::shared().address());
    let mut raw = subscriber(proxy.address(), "kit.delay");
    proxy.delay(Duration::from_secs(1_000_000));
    let arrived = proxy.arrived(Direction::Server);
    raw.publish("kit.delay", None, None, b"early");
    until("the proxy has it", || proxy.arrived(Direction::Server) > arrived);
    assert_eq!(raw.next(A_WHILE), None);
    proxy.restore();
    assert_eq!(text(&mut raw), "early");
}

#[test]
fn proxy_holds_back_no_more_than_its_limit() {
    const SENT: usize = 64 * HELD_MAX;
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::to(server.local_addr().unwrap());
    let mut client = TcpStream::connect(proxy.address()).unwrap();
    let mut taken = server.accept().unwrap().0;
    proxy.hang_towards(Direction::Server);
    let sender = std::thread::spawn(move || {
        client.write_all(&vec![7; SENT]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        client
    });
    until("the limit is reached", || proxy.arrived(Direction::Server) == HELD_MAX as u64);
    // Bytes the other way go through the proxy's only thread, which has then seen what else the client sends.
    for byte in 0..100_u64 {
        taken.write_all(b"x").unwrap();
        until("the other way is open", || proxy.passed(Direction::Client) == byte + 1);
    }
    assert_eq!(proxy.arrived(Direction::Server), HELD_MAX as u64);
    proxy.restore();
    let mut received = Vec::new();
    taken.read_to_end(&mut received).unwrap();
    assert!(received.len() == SENT && received.iter().all(|byte| *byte == 7));
    // Open until here: a close with bytes unread would have thrown away what was under way.
    drop(sender.join().unwrap());
}

#[test]
#[should_panic(expected = "under Arrangement { route: Loopback")]
fn process_that_reaches_contracts_by_another_route_is_found_out() {
    let [local, .., loopback] = &SHOP_ARRANGEMENTS[..4] else { unreachable!() };
    let application = Application::shop(*local);
    let _shop = application.up();
    loopback.assert_routes_of_process(&application, None);
}
