//! `cleave up`: runs the application until it is told to stop.

use super::check::describe;
use super::{Application, Exit, complain, report};
use crate::host::Host;
use crate::telemetry;
use clap::Args;
use cleave_bus::nats::{Bus, Link};
use cleave_config::{Config, Problem};
use std::io::Write as _;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Debug, Args)]
pub(super) struct Up {
    #[command(flatten)]
    application: Application,
    /// Print nothing about the application when it has started.
    #[arg(long, short)]
    quiet: bool,
    /// Let the bus leave this machine without TLS or credentials, where nobody else can reach that network.
    #[arg(long)]
    insecure: bool,
}

impl Up {
    pub(super) fn run(self) -> Exit {
        let config = match self.application.load() {
            Ok(config) => config,
            Err(problems) => return report(&problems),
        };
        if let Some(problem) = self.cannot_run(&config) {
            return report(&problem.into());
        }
        let _log = match telemetry::init(&config.log) {
            Ok(writing) => writing,
            Err(error) => return complain(&error.to_string(), telemetry::FILTER_FIX),
        };
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                return complain(&format!("the async runtime cannot start: {error}"), "free some threads");
            }
        };
        let exit = runtime.block_on(self.serve(config));
        // Whatever drain did not wait for ends with the process.
        runtime.shutdown_background();
        exit
    }

    /// What is no mistake of the config and yet nothing to start.
    fn cannot_run(&self, config: &Config) -> Option<Problem> {
        if !config.nodes.is_empty() && config.node().is_none() {
            let nodes: Vec<_> = config.nodes.keys().map(|node| format!("--node {node}")).collect();
            return Some(config.origin().problem_at_key(
                &["nodes"],
                "the application is placed on nodes, and a process is one of them",
                format!("add which one it is: {}", nodes.join(", ")),
            ));
        }
        config.exposed_bus().filter(|_| !self.insecure)
    }

    async fn serve(self, config: Config) -> Exit {
        let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return complain("signals cannot be received", "run it where SIGINT and SIGTERM may be handled");
        };
        // Why a task: starting works on its thread for long, and a signal is heard all the same.
        let host = tokio::select! {
            started = tokio::spawn(Host::start(config)) => match started {
                Ok(Ok(host)) => host,
                Ok(Err(problems)) => return report(&problems),
                Err(error) => return complain(&format!("starting failed: {error}"), "report this as a bug"),
            },
            () = either(&mut interrupt, &mut terminate) => return Exit::Done,
        };
        if !self.quiet {
            // A reader that has gone does not stop the application.
            let _ = std::io::stdout().write_all(describe(&host.application, host.config()).as_bytes());
        }
        let problem = tokio::select! {
            problem = run(&host) => Some(problem),
            () = either(&mut interrupt, &mut terminate) => None,
        };
        let exit = match problem {
            Some(problem) => report(&problem.into()),
            None => Exit::Done,
        };
        tracing::info!("stopping: what runs may finish; signal again to end now");
        let timeout = host.config().drain.timeout;
        tokio::select! {
            finished = host.drain() => {
                if finished {
                    tracing::info!("stopped");
                    exit
                } else {
                    complain(&format!("calls still ran after {timeout:?}"), "raise `drain.timeout`")
                }
            }
            () = either(&mut interrupt, &mut terminate) => {
                complain("ended before all calls had finished", "signal once to let them finish")
            }
        }
    }
}

/// Says when the node is ready. Ends only if it cannot go on.
async fn run(host: &Host) -> Problem {
    let away = |bus: &&Arc<Bus>| host.needs_bus() && *bus.link().borrow() != Link::Up;
    if let Some(bus) = host.bus().filter(away) {
        tracing::info!("not ready before NATS at {} answers", bus.servers());
    }
    if let Err(problem) = host.ready().await {
        return problem;
    }
    match host.http_address() {
        Some(address) => tracing::info!("ready at http://{address}"),
        None => tracing::info!("ready; nothing is served over HTTP here"),
    }
    host.failed().await
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
