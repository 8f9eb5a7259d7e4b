//! A TCP proxy between a client and a server, with the faults of a network as switches.
//!
//! A switch holds for open connections and for new ones once its function has returned: what is sent after that does not
//! slip through. Of each connection and direction at most [`HELD_MAX`] bytes are held back; then its sender has to wait.
//! The end of a stream is held back like its bytes.

use crate::nats::reserve;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// How many bytes of a connection and direction are held back at most.
pub const HELD_MAX: usize = 1 << 20;
/// How many connections are open at most; more have to wait.
const CONNECTIONS_MAX: usize = 1024;
/// How many bytes are read at once.
const READ_MAX: usize = 1 << 14;

/// Whom bytes are on their way to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Client,
    Server,
}

/// A port of 127.0.0.1 behind which is the server.
pub struct Proxy {
    address: SocketAddr,
    counts: Arc<Counts>,
    /// `None` only while it is dropped, which ends the thread.
    switches: Option<watch::Sender<Switches>>,
    /// Answers each change of the switches. Held from the change to the answer, so that each gets its own.
    applied: Mutex<mpsc::Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the switches say.
#[derive(Debug, Clone, Copy, Default)]
struct Switches {
    cut: bool,
    /// By direction.
    silent: [bool; 2],
    delay: Duration,
}

/// Bytes by direction, of all connections.
#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    arrived: [AtomicU64; 2],
    passed: [AtomicU64; 2],
}

impl Proxy {
    /// Passes everything until it is told otherwise.
    pub fn to(server: SocketAddr) -> Self {
        Self::start(server, None)
    }

    /// As [`to`](Self::to), with one text of the server's made another of the same length. The server must write it in
    /// one piece, as it does a line.
    pub fn retelling(server: SocketAddr, said: &str, retold: &str) -> Self {
        assert_eq!(said.len(), retold.len());
        Self::start(server, Some(Arc::new([said, retold].map(|text| text.as_bytes().to_vec()))))
    }

    fn start(server: SocketAddr, retold: Option<Retold>) -> Self {
        // Why: nobody else may get the port while it is cut.
        let (port, address) = reserve();
        let (switches, seen) = watch::channel(Switches::default());
        let (apply, applied) = mpsc::channel();
        let counts = Arc::new(Counts::default());
        let relay = Relay { address, server, retold, switches: seen, counts: Arc::clone(&counts) };
        // Why a thread and a runtime of its own: a test may be blocking or not, and may be busy.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(relay.serve(port, apply));
        });
        applied.recv().unwrap();
        Self { address, counts, switches: Some(switches), applied: Mutex::new(applied), thread: Some(thread) }
    }

    /// Where clients connect to. It stays the same.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections, with what is held back of them, and refuses new ones.
    pub fn cut(&self) {
        self.switch(|switches| switches.cut = true);
    }

    /// Undoes every other switch. What was held back is passed on; to have it lost, [`cut`](Self::cut) first.
    pub fn restore(&self) {
        self.switch(|switches| *switches = Switches::default());
    }

    /// Passes bytes on so much later, in each direction; a round trip takes twice as long.
    pub fn delay(&self, delay: Duration) {
        self.switch(|switches| switches.delay = delay);
    }

    /// Keeps connections open and accepts new ones, but passes nothing.
    pub fn hang(&self) {
        self.switch(|switches| switches.silent = [true; 2]);
    }

    /// As [`hang`](Self::hang), for what is on its way to one of the two only.
    pub fn hang_towards(&self, whom: Direction) {
        self.switch(|switches| switches.silent[whom as usize] = true);
    }

    /// How many connections were accepted.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// How many bytes came in for one of the two.
    pub fn arrived(&self, whom: Direction) -> u64 {
        self.counts.arrived[whom as usize].load(Ordering::SeqCst)
    }

    /// How many bytes were passed on to one of the two. Who has received them may know it a moment earlier.
    pub fn passed(&self, whom: Direction) -> u64 {
        self.counts.passed[whom as usize].load(Ordering::SeqCst)
    }

    fn switch(&self, change: impl FnOnce(&mut Switches)) {
        let applied = self.applied.lock().unwrap();
        self.switches.as_ref().unwrap().send_modify(change);
        applied.recv().unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.switches = None;
        // A panic there has been printed, and a second one here would abort the tests.
        let _ = self.thread.take().unwrap().join();
    }
}

/// What is said by the server, and what is passed on instead.
type Retold = Arc<[Vec<u8>; 2]>;

/// What the proxy's own thread has.
#[derive(Clone)]
struct Relay {
    address: SocketAddr,
    server: SocketAddr,
    retold: Option<Retold>,
    switches: watch::Receiver<Switches>,
    counts: Arc<Counts>,
}

impl Relay {
    /// Serves until the proxy is dropped.
    async fn serve(mut self, _port: TcpSocket, apply: mpsc::Sender<()>) {
        let mut listener = None;
        let mut connections = JoinSet::new();
        loop {
            if self.switches.borrow_and_update().cut {
                listener = None;
                connections.shutdown().await;
            } else if listener.is_none() {
                listener = Some(TcpListener::bind(self.address).await.unwrap());
            }
            if apply.send(()).is_err() || !self.accept(listener.as_ref(), &mut connections).await {
                return;
            }
        }
    }

    /// Accepts connections until a switch is changed; false if the proxy is dropped.
    async fn accept(&mut self, listener: Option<&TcpListener>, connections: &mut JoinSet<()>) -> bool {
        loop {
            let relay = self.clone();
            tokio::select! {
                biased;
                changed = self.switches.changed() => return changed.is_ok(),
                Some(_) = connections.join_next() => {}
                Some(client) = accept(listener), if connections.len() < CONNECTIONS_MAX => {
                    self.counts.accepted.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(relay.connect(client));
                }
            }
        }
    }

    /// Lives as long as the connection: until both directions have ended.
    async fn connect(mut self, client: TcpStream) {
        let Ok(server) = TcpStream::connect(self.server).await else {
            // Why: the close would tell the client what a silent network does not.
            let _ = self.switches.wait_for(|switches| !switches.silent[Direction::Client as usize]).await;
            return;
        };
        for stream in [&client, &server] {
            let _ = stream.set_nodelay(true);
        }
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::join!(
            self.clone().carry(Direction::Server, from_client, to_server),
            self.carry(Direction::Client, from_server, to_client),
        );
    }

    /// Carries one direction until its stream has ended, or nobody takes its bytes any more.
    async fn carry(mut self, whom: Direction, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let (arrived, passed) = (&self.counts.arrived[whom as usize], &self.counts.passed[whom as usize]);
        let mut held = Held::default();
        let mut buffer = vec![0; READ_MAX];
        loop {
            let Switches { silent, delay, .. } = *self.switches.borrow_and_update();
            let room = READ_MAX.min(HELD_MAX - held.size);
            tokio::select! {
                biased;
                changed = self.switches.changed() => if changed.is_err() { return },
                written = held.write(&mut to, delay), if !silent[whom as usize] && !held.parts.is_empty() => {
                    let Ok(Some(length)) = written else { return };
                    held.size -= length;
                    passed.fetch_add(length as u64, Ordering::SeqCst);
                }
                // A connection that breaks has ended.
                read = from.read(&mut buffer[..room]), if room > 0 && !held.ended => {
                    let length = read.unwrap_or(0);
                    arrived.fetch_add(length as u64, Ordering::SeqCst);
                    if let (Direction::Client, Some(texts)) = (whom, &self.retold) {
                        retell(&mut buffer[..length], texts);
                    }
                    held.push(&buffer[..length]);
                }
            }
        }
    }
}

/// Writes a text over another wherever that stands.
fn retell(bytes: &mut [u8], [said, retold]: &[Vec<u8>; 2]) {
    for start in 0..=bytes.len().saturating_sub(said.len()) {
        if bytes[start..].starts_with(said) {
            bytes[start..start + said.len()].copy_from_slice(retold);
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> Option<TcpStream> {
    Some(listener?.accept().await.ok()?.0)
}

/// The bytes that have arrived in one direction and were not passed on.
#[derive(Default)]
struct Held {
    /// With the time of arrival. No bytes mean the end of the stream.
    parts: VecDeque<(Instant, Vec<u8>)>,
    size: usize,
    ended: bool,
}

impl Held {
    fn push(&mut self, bytes: &[u8]) {
        self.parts.push_back((Instant::now(), bytes.to_vec()));
        self.size += bytes.len();
        self.ended = bytes.is_empty();
    }

    /// Writes from the first part once its time has come, and gives how much; `None` at the end of the stream, which is
    /// closed. May be dropped at any moment: what was written has been counted by then.
    async fn write(&mut self, to: &mut OwnedWriteHalf, delay: Duration) -> io::Result<Option<usize>> {
        let Some((at, bytes)) = self.parts.front_mut() else { return Ok(None) };
        sleep_until(*at + delay).await;
        if bytes.is_empty() {
            to.shutdown().await?;
            return Ok(None);
        }
        let length = to.write(bytes).await?;
        bytes.drain(..length);
        if bytes.is_empty() {
            self.parts.pop_front();
        }
        Ok(Some(length))
    }
}
