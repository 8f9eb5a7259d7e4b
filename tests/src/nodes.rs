//! The nodes of an application as values in this process.
//!
//! A node that was started here takes calls from then on: not only does it say that it is ready, the bus knows of it.

use crate::nats::Raw;
use crate::{Application, Arrangement, HttpServer, PATIENCE};
use cleave_config::Config;
use cleave_host::drill::Drill;
use cleave_host::host::Host;
use std::ops::Deref;
use std::time::Instant;
use tokio::runtime::Runtime;

/// Starts a node, and waits until it is ready and takes calls over the bus if it has one.
pub async fn start(config: Config, drill: Drill) -> Host {
    let host = match Host::start_drilled(config, drill).await {
        Ok(host) => host,
        Err(problems) => panic!("the node did not start: {:?}", miette::Report::new(problems)),
    };
    if let Err(problem) = host.ready().await {
        panic!("the node is not ready: {:?}", miette::Report::new(problem));
    }
    tokio::task::block_in_place(|| await_calls_taken(&host));
    host
}

/// Waits until the bus passes calls on to a node. Questions about itself are what a node listens for last.
fn await_calls_taken(host: &Host) {
    let Some(bus) = host.bus() else { return };
    let said = bus.heartbeat();
    let began = Instant::now();
    let mut raw = Raw::connect(bus.servers()).unwrap();
    let inbox = format!("inbox.{}", said.replica);
    raw.subscribe(&inbox);
    loop {
        raw.publish(&format!("$SRV.PING.{}.{}", said.node, said.replica), Some(&inbox), None, b"");
        let answer = raw.next(PATIENCE).expect("nats-server says nothing");
        // That nobody listens is told in headers.
        if answer.headers.is_none() {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "node `{}` does not take calls", said.node);
        std::thread::yield_now();
    }
}

/// The nodes of an application, or the one that has it all, at the server of all tests.
pub struct Nodes {
    server: HttpServer,
    arrangement: Arrangement,
    hosts: Vec<Host>,
    /// Dropped last: the nodes run on it.
    runtime: Runtime,
}

impl Nodes {
    /// Starts every node of an arrangement that the application's config was made for.
    pub fn start(application: &Application, arrangement: Arrangement) -> Self {
        let configs = arrangement.names().into_iter().map(|name| application.load_for(name));
        Self::start_each(arrangement, configs.map(|config| (config, Drill::default())))
    }

    /// Starts nodes of an arrangement, each with a drill of its own. The first serves HTTP.
    pub fn start_each(arrangement: Arrangement, nodes: impl IntoIterator<Item = (Config, Drill)>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let nodes = nodes.into_iter();
        let hosts: Vec<_> = nodes.map(|(config, drill)| runtime.block_on(start(config, drill))).collect();
        let address = hosts[0].http_address().map(|at| format!("http://{at}")).unwrap_or_default();
        Self { server: HttpServer { address }, arrangement, hosts, runtime }
    }

    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Runs a future where the nodes run.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Ends all nodes. Every contract was reached as the arrangement means it, and some were.
    pub fn end(self) {
        let calls: u64 = self.hosts.iter().map(|host| self.arrangement.assert_routes(host)).sum();
        assert!(calls > 0, "there was no call under {:?}", self.arrangement);
        self.drain();
    }

    /// Ends all nodes.
    pub fn drain(self) {
        let drains: Vec<_> = self.hosts.into_iter().map(|host| self.runtime.spawn(host.drain())).collect();
        for drain in drains {
            assert!(self.runtime.block_on(drain).unwrap(), "calls still ran under {:?}", self.arrangement);
        }
    }
}

impl Deref for Nodes {
    type Target = HttpServer;

    fn deref(&self) -> &HttpServer {
        &self.server
    }
}
