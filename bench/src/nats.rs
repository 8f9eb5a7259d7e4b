//! The nats-server between nodes under measurement, a process of its own.
//!
//! Where events go over it, its stream lies on the disk that databases lie on, and is synced before NATS acknowledges: a node
//! asks for that by default, and the bare baselines get the same.

use crate::{disk, shop};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// A server of its own, ended with this value.
pub(crate) struct NatsServer {
    child: Child,
    pub(crate) url: String,
    /// Where it tells how it is set.
    pub(crate) monitoring: String,
    /// Of its config and its stream.
    _folder: TempDir,
}

impl NatsServer {
    /// A server that keeps nothing.
    pub(crate) fn start() -> Self {
        Self::start_with(|_| String::new())
    }

    /// A server with JetStream, which syncs before it acknowledges.
    pub(crate) fn start_durable() -> Self {
        Self::start_with(|folder| {
            let store = folder.join("jetstream");
            format!("jetstream {{\n store_dir: {store:?}\n sync_interval: always\n}}\n")
        })
    }

    fn start_with(more: impl Fn(&Path) -> String) -> Self {
        let folder = disk::folder();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        // Both are held until both are known, so that they differ.
        let ports = [free(), free()].map(|listener| listener.local_addr().unwrap().port());
        let [address, monitoring] = ports.map(|port| format!("127.0.0.1:{port}"));
        let config = folder.path().join("nats.conf");
        let text = format!("listen: \"{address}\"\nhttp: \"{monitoring}\"\n{}", more(folder.path()));
        std::fs::write(&config, text).unwrap();
        // The script becomes the server.
        let mut command = Command::new(shop::root().join("scripts/nats-server"));
        command.arg("--config").arg(config);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let (url, monitoring) = (format!("nats://{address}"), format!("http://{monitoring}"));
        let server = Self { child, url, monitoring, _folder: folder };
        let began = Instant::now();
        while TcpStream::connect(&address).is_err() {
            assert!(began.elapsed() < PATIENCE, "nats-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
