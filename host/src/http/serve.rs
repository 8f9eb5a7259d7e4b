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
    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset)
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
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some((seen, sleep)) = &mut self.opening {
            if poll.is_pending() {
                ready!(sleep.as_mut().poll(context));
                return Poll::Ready(Err(ErrorKind::TimedOut.into()));
            }
            let read = buffer.filled().get(before..).unwrap_or_default();
            *seen += read.len();
            if !PREFACE.get(*seen - read.len()..).is_some_and(|left| left.len() > read.len() && left.starts_with(read)) {
                self.opening = None;
            }
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
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
