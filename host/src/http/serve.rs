//! Owns connections: who may connect, how long a client may be slow, and how the listener ends.
//!
//! The bargain: at most `connections_max` connections are open, further ones wait in the system's backlog. A client
//! has `header_timeout` to send the head of a request, be it the first or, on an idle connection, the next; and as
//! long to take some of what is written to it. When asked to stop, the listener closes, idle connections close, and
//! requests that run are answered first.

use axum::Router;
use cleave_config::Config;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The most bytes of the head of a request, and of what is buffered for a connection.
const HEAD_MAX: u32 = 64 * 1024;
/// The most requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 100;
/// The most streams of an HTTP/2 connection that its client has reset and that are not yet cleared away.
const RESETS_MAX: usize = 20;
/// How often an HTTP/2 client is asked whether it is still there, and how long it may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long accepting pauses after the system refused, usually because file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

/// What every HTTP/2 connection starts with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How many connections there may be and how slow their clients.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub connections_max: usize,
    pub header_timeout: Duration,
}

impl Limits {
    pub fn of(config: &Config) -> Self {
        Self { connections_max: config.http.connections_max, header_timeout: config.http.header_timeout }
    }
}

/// Serves connections until `stopping` is cancelled, and returns when the last has ended. Dropped, it closes them all.
/// `tasks` gets the streams of HTTP/2 connections.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    tasks: TaskTracker,
    stopping: CancellationToken,
) {
    let server = builder(limits, tasks);
    let service = TowerToHyperService::new(router);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut stopping = pin!(stopping.cancelled());
    loop {
        let stream = tokio::select! {
            () = &mut stopping => break,
            Some(_) = connections.join_next() => continue,
            stream = accept(&listener), if connections.len() < limits.connections_max => stream,
        };
        let stream = Patient::new(stream, limits.header_timeout);
        let connection = server.serve_connection(TokioIo::new(stream), service.clone()).into_owned();
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection ended: {error}");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
    while connections.join_next().await.is_some() {}
}

fn builder(limits: Limits, tasks: TaskTracker) -> auto::Builder<Tracked> {
    let mut server = auto::Builder::new(Tracked(tasks));
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(HEAD_MAX as usize);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    server
}

/// The next connection. Errors are logged and waited out: the listener outlives them all.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it responses are only slower.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) if is_of_client(&error) => {}
            Err(error) => {
                tracing::warn!("no connection can be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether the client gave up before it was accepted.
fn is_of_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
    )
}

/// Runs the streams of HTTP/2 connections as tasks that drain waits for.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tracked {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// A stream whose client may be slow, but not for ever, at the two places where hyper would wait without a limit:
/// until it knows which version of HTTP the client speaks, and while the client takes nothing of what is written.
struct Patient<S> {
    stream: S,
    limit: Duration,
    /// How much of HTTP/2's preface has been read, while it is not known whether it is one, and until when.
    opening: Option<(usize, Pin<Box<Sleep>>)>,
    /// Until when the client has to take something, while it takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(stream: S, limit: Duration) -> Self {
        let opening = Some((0, Box::pin(tokio::time::sleep(limit))));
        Self { stream, limit, opening, stalled: None }
    }

    /// What a write brought, or an error if nothing has been taken for too long.
    fn written<T>(&mut self, poll: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stalled = None;
            return poll;
        }
        let sleep = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.limit)));
        ready!(sleep.as_mut().poll(context));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some((seen, sleep)) = &mut self.opening {
            if poll.is_pending() {
                ready!(sleep.as_mut().poll(context));
                return Poll::Ready(Err(ErrorKind::TimedOut.into()));
            }
            let read = buffer.filled().get(before..).unwrap_or_default();
            *seen += read.len();
            if !PREFACE
                .get(*seen - read.len()..)
                .is_some_and(|left| left.len() > read.len() && left.starts_with(read))
            {
                self.opening = None;
            }
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(poll, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.written(poll, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::extract::Request;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use hyper_util::rt::TokioExecutor;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    struct Server {
        address: SocketAddr,
        stopping: CancellationToken,
        ended: JoinHandle<()>,
        /// Told when a request for `/slow` has arrived, and by the test when it may be answered.
        arrived: Arc<Notify>,
        go: Arc<Notify>,
    }

    async fn start(connections_max: usize, header_timeout: Duration) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stopping, arrived, go) =
            (CancellationToken::new(), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (told, goes) = (Arc::clone(&arrived), Arc::clone(&go));
        let slow = async move || {
            told.notify_one();
            goes.notified().await;
            "slow"
        };
        let router = Router::new()
            .route("/", get(async || "ok"))
            .route("/slow", get(slow))
            .route("/large", get(async || vec![0_u8; 64 * 1024 * 1024]));
        let limits = Limits { connections_max, header_timeout };
        let ended = tokio::spawn(serve(listener, router, limits, TaskTracker::new(), stopping.clone()));
        Server { address, stopping, ended, arrived, go }
    }

    /// Reads a response whose body ends with these two letters.
    async fn response(stream: &mut TcpStream, end: &str) -> String {
        let mut read = Vec::new();
        while !read.ends_with(end.as_bytes()) {
            assert!(stream.read_buf(&mut read).await.unwrap() > 0, "{}", String::from_utf8_lossy(&read));
        }
        String::from_utf8(read).unwrap()
    }

    async fn is_closed(mut stream: TcpStream) -> bool {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.is_err() || rest.is_empty() || rest.starts_with(b"HTTP/1.1 408")
    }

    #[tokio::test]
    async fn client_that_says_nothing_is_sent_away() {
        let server = start(8, SHORT).await;
        for words in [&b""[..], b"P", b"PRI * HTTP/2.0", b"GET / HTTP/1.1\r\n"] {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(words).await.unwrap();
            assert!(is_closed(stream).await, "{words:?}");
        }
    }

    #[tokio::test]
    async fn idle_connection_is_closed() {
        let server = start(8, SHORT).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        response(&mut stream, "ok").await;
        assert!(is_closed(stream).await);
    }

    #[tokio::test]
    async fn opening_ends_with_the_first_byte_that_tells() {
        let tells = async |pieces: &[&[u8]]| {
            let (mut client, server) = tokio::io::duplex(64);
            let mut stream = Patient::new(server, LONG);
            let mut told = Vec::new();
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                stream.read_exact(&mut vec![0; piece.len()]).await.unwrap();
                told.push(stream.opening.is_none());
            }
            told
        };
        assert_eq!(tells(&[b"G", b"ET"]).await, [true, true]);
        assert_eq!(tells(&[b"P", b"OST"]).await, [false, true]);
        assert_eq!(tells(&[b"PRI * HTTP/2.0", b"\r\n\r\nSM\r\n\r", b"\n"]).await, [false, false, true]);
        assert_eq!(tells(&[PREFACE, b"more"]).await, [true, true]);
    }

    #[tokio::test]
    async fn client_that_takes_nothing_is_sent_away() {
        let server = start(8, SHORT).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        server.stopping.cancel();
        server.ended.await.unwrap();
    }

    #[tokio::test]
    async fn connections_over_the_limit_wait() {
        let server = start(1, LONG).await;
        let mut first = TcpStream::connect(server.address).await.unwrap();
        first.write_all(REQUEST).await.unwrap();
        response(&mut first, "ok").await;
        let mut second = TcpStream::connect(server.address).await.unwrap();
        second.write_all(REQUEST).await.unwrap();
        first.write_all(REQUEST).await.unwrap();
        response(&mut first, "ok").await;
        assert_eq!(second.try_read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(first);
        response(&mut second, "ok").await;
    }

    #[tokio::test]
    async fn stop_closes_idle_connections_and_finishes_requests() {
        let server = start(8, LONG).await;
        let silent = TcpStream::connect(server.address).await.unwrap();
        let mut idle = TcpStream::connect(server.address).await.unwrap();
        idle.write_all(REQUEST).await.unwrap();
        response(&mut idle, "ok").await;
        let mut busy = TcpStream::connect(server.address).await.unwrap();
        busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        server.arrived.notified().await;
        server.stopping.cancel();
        assert!(is_closed(idle).await && is_closed(silent).await);
        assert!(!server.ended.is_finished());
        server.go.notify_one();
        assert!(response(&mut busy, "slow").await.starts_with("HTTP/1.1 200"));
        server.ended.await.unwrap();
        assert!(TcpStream::connect(server.address).await.is_err());
    }

    #[tokio::test]
    async fn http2_is_spoken() {
        let server = start(8, LONG).await;
        let stream = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::builder().uri("http://x/").body(Body::empty()).unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
        server.stopping.cancel();
        server.ended.await.unwrap();
        connection.await.unwrap().unwrap();
    }
}
