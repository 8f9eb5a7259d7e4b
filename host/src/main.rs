//! The binary `cleave`: reads the command line and leaves the rest to its verb.

use clap::Parser as _;
use cleave_host::cli::{Cli, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    run(Cli::parse())
}
