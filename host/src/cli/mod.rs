//! The command line: what `cleave` can be told to do, one file for each verb.
//!
//! Data goes to standard output, everything else to standard error. Exit codes are documented in [`Exit`].

mod build;
mod call;
mod check;
mod config;
mod dead_letters;
mod events;
mod openapi;
mod socket;
mod status;
mod table;
mod up;
mod wit;

use clap::{Args, Parser, Subcommand};
use cleave_config::{Config, Problems, Sources};
use serde::Serialize;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs business modules as WebAssembly components; config says where the program is cut.
#[derive(Debug, Parser)]
#[command(name = "cleave", version, arg_required_else_help = true, after_help = EXIT_HELP)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run each module's build command.
    Build(build::Build),
    /// Find everything that can be wrong without starting, and print contracts, grants and routes.
    Check(check::Check),
    /// Show the config that is in effect, or the JSON Schema of the file.
    Config(config::Config),
    /// Run the application until it is told to stop.
    Up(up::Up),
    /// Tell what of the application runs: nodes, replicas, modules and their versions.
    Status(status::Status),
    /// Call a function of a running application.
    Call(call::Call),
    /// Look at events of a running application that are on their way or still to be handled.
    Events(events::Events),
    /// Look at events of a running application that are not tried again; replay or drop them.
    DeadLetters(dead_letters::DeadLetters),
    /// Print the OpenAPI document of the application's routes.
    #[command(name = "openapi")]
    OpenApi(openapi::OpenApi),
    /// Write the host's own WIT packages into a folder, for modules to be built against.
    Wit(wit::Wit),
}

/// The options by which every verb finds the application.
#[derive(Debug, Args)]
struct Application {
    /// The application's config file.
    #[arg(long, short, default_value = "cleave.toml", value_name = "FILE", global = true)]
    config: PathBuf,
    /// The node that is meant, of those in `[nodes]`.
    #[arg(long, value_name = "NAME", global = true)]
    node: Option<String>,
    /// Set a key of the config for this run, as in `--set http.listen=127.0.0.1:9000`.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, global = true)]
    set: Vec<(String, String)>,
}

const EXIT_HELP: &str = "Exit codes: 0 done, 1 the application or its config has a problem, or a module is on no live node, 2 wrong usage, \
3 the called function answered with an error, 4 the call did not run or nothing was done, 5 the call may have run or \
something may have been done";

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    /// The config, a component, a build or the running application has a problem; `status`: a module is on no live node.
    Problem = 1,
    /// The command line is wrong, or names what is not there; clap ends with the same code.
    Usage = 2,
    /// `call`: the function answered with its error, which is printed.
    CallError = 3,
    /// The call did not run, nothing was done, or no application answers.
    Unavailable = 4,
    /// The call may have run, or something may have been done.
    Uncertain = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Does what the command line says.
pub fn run(cli: Cli) -> ExitCode {
    let exit = match cli.verb {
        Verb::Build(build) => build.run(),
        Verb::Check(check) => check.run(),
        Verb::Config(config) => config.run(),
        Verb::Up(up) => up.run(),
        Verb::Status(status) => status.run(),
        Verb::Call(call) => call.run(),
        Verb::Events(events) => events.run(),
        Verb::DeadLetters(letters) => letters.run(),
        Verb::OpenApi(openapi) => openapi.run(),
        Verb::Wit(wit) => wit.run(),
    };
    exit.into()
}

impl Application {
    /// Reads the config: file, environment and flags.
    fn load(&self) -> Result<Config, Problems> {
        let current = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        let mut sources = Sources::new(self.config.clone(), current);
        sources.environment = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        sources.flags = self.set.clone();
        sources.node = self.node.clone();
        cleave_config::load(&sources)
    }

    /// The folder that the file is in, where build commands run.
    fn folder(&self) -> PathBuf {
        match self.config.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        }
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, as in http.listen=127.0.0.1:9000".to_owned()),
    }
}

/// Prints data, and gives the exit code that is meant if it could be printed. A reader that has gone wanted no more.
fn print(data: &str, meant: Exit) -> Exit {
    let mut out = std::io::stdout();
    match out.write_all(data.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            complain(&format!("the output cannot be written: {error}"), "free space where it goes")
        }
        _ => meant,
    }
}

/// Prints a value as JSON.
fn print_json(value: &impl Serialize, meant: Exit) -> Exit {
    match serde_json::to_string_pretty(value) {
        Ok(json) => print(&format!("{json}\n"), meant),
        Err(error) => complain(&error.to_string(), "report this as a bug"),
    }
}

/// Says something to whoever watches. If nobody can hear it, there is nobody to tell.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Says every problem with its place and its fix.
fn report(problems: &Problems) -> Exit {
    for problem in &problems.0 {
        say(&format!("{:?}", miette::Report::new(problem.clone())));
    }
    Exit::Problem
}

/// Says what went wrong where there is no place in the config to point at.
fn complain(message: &str, fix: &str) -> Exit {
    say(&format!("error: {message}\n  help: {fix}"));
    Exit::Problem
}
