//! The real nats-server as a process of one test, and a client that says to it whatever a test wants to have said.
//!
//! A server keeps its port through any number of kills and restarts, and ends with the test process, however that ends.
//! Signals go only to the process that was started here and has not been waited for. The client speaks the protocol's
//! text itself, so that it can send what no library would.

use crate::{PATIENCE, root};
use serde_json::{Value as Json, json};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpSocket;

/// Runs the server `$1` with the config in the folder `$2`, in place of itself, beside a guard that holds the other end of
/// a pipe of the test process. A line means that the server has been ended; the end of the pipe, that the test process has.
const GUARDED: &str = r#"
exec 3<&0 </dev/null
{ read -r _ <&3 || { kill -KILL $$; rm -rf "$2"; }; } >/dev/null 2>&1 &
exec "$1" --config "$2/nats.conf" 3<&-
"#;

/// What a server has that is not the default.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// The largest payload with its headers, in bytes.
    pub max_payload: Option<usize>,
    /// The one user who may connect, and the password.
    pub login: Option<(&'a str, &'a str)>,
    /// What stands in `jetstream` beside its folder; none for a server without.
    pub jetstream: Option<&'a str>,
    /// More lines of the server's config, as they are.
    pub lines: &'a str,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Self {
            max_payload: None,
            login: None,
            jetstream: Some("sync_interval: always\n max_file_store: 1TB"),
            lines: "",
        }
    }
}

/// One nats-server on 127.0.0.1.
pub struct NatsServer {
    folder: TempDir,
    address: SocketAddr,
    monitoring: SocketAddr,
    /// Bound and never listening: nobody else is given the ports while the server is down.
    _ports: [TcpSocket; 2],
    running: Option<Running>,
}

struct Running {
    child: Child,
    guard: ChildStdin,
}

/// The server of all tests that only need one. It cannot be killed or paused, because others use it too.
pub fn shared() -> &'static NatsServer {
    static SHARED: OnceLock<NatsServer> = OnceLock::new();
    SHARED.get_or_init(NatsServer::start)
}

/// A port of 127.0.0.1 that stays this socket's own as long as it lives, whoever listens there meanwhile.
pub(crate) fn reserve() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

impl NatsServer {
    pub fn start() -> Self {
        Self::start_with(Settings::default())
    }

    pub fn start_with(settings: Settings<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ((port, address), (other, monitoring)) = (reserve(), reserve());
        let mut config = format!("listen: \"{address}\"\nhttp: \"{monitoring}\"\n");
        if let Some(keys) = settings.jetstream {
            let store = folder.path().join("jetstream");
            config += &format!("jetstream {{\n store_dir: {store:?}\n {keys}\n}}\n");
        }
        if let Some(bytes) = settings.max_payload {
            config += &format!("max_payload: {bytes}\n");
        }
        if let Some((user, password)) = settings.login {
            config += &format!("authorization {{ user: \"{user}\", password: \"{password}\" }}\n");
        }
        std::fs::write(folder.path().join("nats.conf"), config + settings.lines).unwrap();
        let mut server = Self { folder, address, monitoring, _ports: [port, other], running: None };
        server.restart();
        server
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Without the login; with one it is `nats://USER:PASSWORD@ADDRESS`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Where it tells of itself.
    pub fn monitoring(&self) -> String {
        format!("http://{}", self.monitoring)
    }

    /// `[bus]` of an application that has subjects of its own at this server.
    pub fn bus(&self) -> String {
        format!("{}monitoring = \"{}\"\n", crate::bus_at(&self.url()), self.monitoring())
    }

    /// What the server has written since its first start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Of the process that runs now.
    pub fn id(&self) -> u32 {
        self.running.as_ref().expect("the server was killed").child.id()
    }

    /// Ends the server as a power cut would end its memory. Its port refuses connections then.
    pub fn kill(&mut self) {
        self.end("KILL");
    }

    /// Ends the server in good order, which must not be paused.
    pub fn stop(&mut self) {
        self.end("TERM");
    }

    fn end(&mut self, how: &str) {
        if self.running.is_some() {
            self.signal(how);
        }
        if let Some(Running { mut child, mut guard }) = self.running.take() {
            // Why before the wait: until then nobody else has the identity that the guard would kill.
            let _ = guard.write_all(b"\n");
            child.wait().unwrap();
        }
    }

    /// Starts the server at its port again, killing it first if it runs, and waits until it answers.
    pub fn restart(&mut self) {
        self.kill();
        let server = root().join("target/tools/bin/nats-server");
        assert!(server.exists(), "{} is missing: run `make setup`, which installs it", server.display());
        let log =
            std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", GUARDED, "nats-server"])
            .args([server.as_path(), self.folder.path()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let guard = child.stdin.take().unwrap();
        self.running = Some(Running { child, guard });
        self.await_answer();
    }

    fn await_answer(&mut self) {
        let began = Instant::now();
        while !self.answers() {
            let ended = self.running.as_mut().unwrap().child.try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < PATIENCE,
                "nats-server does not answer at {} ({ended:?}):\n{}",
                self.address,
                self.log()
            );
            std::thread::yield_now();
        }
    }

    /// Whether the port is served by one that greets as NATS does.
    fn answers(&self) -> bool {
        let Ok(stream) = TcpStream::connect(self.address) else { return false };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = [0; 5];
        (&stream).read_exact(&mut greeting).is_ok() && greeting == *b"INFO "
    }

    /// Stops the server where it is: connections stay open, and new ones are taken by the kernel, but nobody answers.
    pub fn pause(&mut self) {
        self.signal("STOP");
        let began = Instant::now();
        while !self.is_stopped() {
            assert!(began.elapsed() < PATIENCE, "nats-server does not stop");
            std::thread::yield_now();
        }
    }

    /// Lets a paused server go on with what has arrived meanwhile.
    pub fn resume(&mut self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Whether each thread of the server has come to a stop.
    fn is_stopped(&self) -> bool {
        std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap().all(|task| {
            // A thread that ended since the folder was read does nothing either.
            let status = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
            status.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        })
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The most bytes the client keeps of a frame that is not there as a whole.
const PARTIAL_MAX: usize = 64 << 20;
/// The most messages it keeps while it waits for something else.
const WAITING_MAX: usize = 100_000;

/// The headers of a call in JSON.
pub const JSON: &[u8] = b"NATS/1.0\r\nContent-Type: application/json\r\n\r\n";

/// What a subscriber got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Of the subscription, as [`Raw::subscribe`] gave it.
    pub sid: u64,
    pub subject: String,
    pub reply: Option<String>,
    /// With the line `NATS/1.0` and the empty line at the end.
    pub headers: Option<Vec<u8>>,
    pub payload: Vec<u8>,
}

impl Message {
    /// A header, by the name as it was sent.
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = std::str::from_utf8(self.headers.as_deref()?).unwrap();
        let (_, value) =
            headers.lines().filter_map(|line| line.split_once(':')).find(|(found, _)| *found == name)?;
        Some(value.trim())
    }
}

/// A blocking client that sends what it is told, checks nothing, and answers every PING it reads.
pub struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
    waiting: VecDeque<Message>,
    sids: u64,
    pings_sent: u64,
    pongs: u64,
    /// How many of the server's PINGs were answered.
    pub pings: u64,
    /// What the server said of itself last.
    pub info: Json,
    /// The server's last `-ERR`. Not every error ends the connection.
    pub error: Option<String>,
    ended: Option<String>,
}

/// One line of the server, with the bytes that belong to it.
enum Frame {
    Message(Message),
    Ping,
    Pong,
    Info(Json),
    Error(String),
    Ok,
}

impl Raw {
    /// Connects to `nats://ADDRESS` or `nats://USER:PASSWORD@ADDRESS`. The error is the server's `-ERR`, or how the
    /// connection broke.
    pub fn connect(url: &str) -> io::Result<Self> {
        let rest = url.strip_prefix("nats://").unwrap_or(url);
        let (login, address) = rest.rsplit_once('@').map_or((None, rest), |(login, at)| (Some(login), at));
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut raw = Self {
            stream,
            received: Vec::new(),
            waiting: VecDeque::new(),
            sids: 0,
            pings_sent: 0,
            pongs: 0,
            pings: 0,
            info: Json::Null,
            error: None,
            ended: None,
        };
        let mut hello = json!({
            "verbose": false, "pedantic": false, "headers": true, "no_responders": true, "protocol": 1,
            "lang": "raw", "version": "0",
        });
        if let Some((user, password)) = login.and_then(|login| login.split_once(':')) {
            hello["user"] = user.into();
            hello["pass"] = password.into();
        }
        raw.send(format!("CONNECT {hello}\r\n").as_bytes());
        if raw.flush(PATIENCE) {
            return Ok(raw);
        }
        Err(io::Error::other(raw.ended.unwrap_or_else(|| format!("{address} does not answer"))))
    }

    /// Sends bytes as they are. If the connection is broken, reading tells.
    pub fn send(&mut self, bytes: &[u8]) {
        if let Err(e) = self.stream.write_all(bytes) {
            assert!(!is_late(&e), "the server takes no bytes");
        }
    }

    /// Headers are sent as they are: right ones begin with the line `NATS/1.0` and end with an empty line.
    pub fn publish(&mut self, subject: &str, reply: Option<&str>, headers: Option<&[u8]>, payload: &[u8]) {
        let reply = reply.map(|reply| format!(" {reply}")).unwrap_or_default();
        let size = payload.len();
        let head = match headers {
            None => format!("PUB {subject}{reply} {size}\r\n"),
            Some(headers) => {
                format!("HPUB {subject}{reply} {} {}\r\n", headers.len(), headers.len() + size)
            }
        };
        self.send(&[head.as_bytes(), headers.unwrap_or_default(), payload, b"\r\n"].concat());
    }

    /// Gives the subscription's `sid`. It holds for what this client publishes from now on; for what others publish,
    /// [`flush`](Self::flush) first.
    pub fn subscribe(&mut self, subject: &str) -> u64 {
        self.sids += 1;
        self.send(format!("SUB {subject} {}\r\n", self.sids).as_bytes());
        self.sids
    }

    /// The next message of any subscription; `None` if none comes within the time, or the connection ends.
    pub fn next(&mut self, timeout: Duration) -> Option<Message> {
        let until = Instant::now() + timeout;
        while self.waiting.is_empty() && self.ended.is_none() && self.step(until) {}
        self.waiting.pop_front()
    }

    /// Whether the server answers within the time. It has then taken in everything that was sent before.
    pub fn flush(&mut self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        self.send(b"PING\r\n");
        self.pings_sent += 1;
        while self.pongs < self.pings_sent && self.ended.is_none() && self.step(until) {}
        self.pongs == self.pings_sent
    }

    /// Waits until the connection has ended, and gives the server's `-ERR`, or else how it ended.
    pub fn await_end(&mut self) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(ended) = &self.ended {
                return ended.clone();
            }
            assert!(self.step(until), "the connection does not end");
        }
    }

    /// Takes the next frame in, or reads once; false if nothing came in time.
    fn step(&mut self, until: Instant) -> bool {
        if let Some((frame, length)) = frame(&self.received) {
            self.received.drain(..length);
            self.take(frame);
            return true;
        }
        assert!(self.received.len() < PARTIAL_MAX, "the server sends a frame without an end");
        // Why at least a millisecond: zero would mean no limit.
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).unwrap();
        let mut buffer = [0; 1 << 16];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.end("the server closed the connection"),
            Ok(length) => self.received.extend(&buffer[..length]),
            Err(e) if is_late(&e) => return false,
            Err(e) => self.end(&e.to_string()),
        }
        true
    }

    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Message(message) => {
                assert!(self.waiting.len() < WAITING_MAX, "nobody takes the messages");
                self.waiting.push_back(message);
            }
            Frame::Ping => {
                self.send(b"PONG\r\n");
                self.pings += 1;
            }
            Frame::Pong => self.pongs += 1,
            Frame::Info(info) => self.info = info,
            Frame::Error(error) => self.error = Some(error),
            Frame::Ok => {}
        }
    }

    fn end(&mut self, how: &str) {
        self.ended = Some(self.error.clone().unwrap_or_else(|| how.to_owned()));
    }
}

/// Whether nothing happened within the socket's time.
fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The frame that the bytes begin with, and its length, once it is there as a whole.
fn frame(bytes: &[u8]) -> Option<(Frame, usize)> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = std::str::from_utf8(&bytes[..end]).unwrap();
    let rest = &bytes[end + 2..];
    let (verb, said) = line.split_once(' ').unwrap_or((line, ""));
    let frame = match verb {
        "MSG" | "HMSG" => {
            let (message, length) = message(said, verb == "HMSG", rest)?;
            return Some((Frame::Message(message), end + 2 + length));
        }
        "PING" => Frame::Ping,
        "PONG" => Frame::Pong,
        "INFO" => Frame::Info(serde_json::from_str(said).unwrap()),
        "-ERR" => Frame::Error(line.to_owned()),
        "+OK" => Frame::Ok,
        _ => panic!("the server says what NATS does not know: {line}"),
    };
    Some((frame, end + 2))
}

/// The message that a line announces, and how many of the bytes after the line are its own.
fn message(line: &str, has_headers: bool, rest: &[u8]) -> Option<(Message, usize)> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    let size: usize = words.pop().unwrap().parse().unwrap();
    let headers: Option<usize> = has_headers.then(|| words.pop().unwrap().parse().unwrap());
    let (headers, payload) = rest.get(..size + 2)?[..size].split_at(headers.unwrap_or(0));
    let message = Message {
        sid: words[1].parse().unwrap(),
        subject: words[0].to_owned(),
        reply: words.get(2).map(|reply| (*reply).to_owned()),
        headers: has_headers.then(|| headers.to_vec()),
        payload: payload.to_vec(),
    };
    Some((message, size + 2))
}
