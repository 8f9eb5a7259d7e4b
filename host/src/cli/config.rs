//! `cleave config`: the config that is in effect, and what a config may be. Components are not looked at.

use super::{Application, Exit, print, report};
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(super) struct Config {
    #[command(flatten)]
    application: Application,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print every key with its value, as a file that means the same in its place; passwords in URLs become `***`.
    Show {
        /// Say behind each key where its value comes from.
        #[arg(long)]
        origin: bool,
    },
    /// Print the JSON Schema of the file, for editors.
    Schema,
}

impl Config {
    pub(super) fn run(self) -> Exit {
        let origin = match self.verb {
            Verb::Show { origin } => origin,
            Verb::Schema => return print(&cleave_config::schema(), Exit::Done),
        };
        let shown = self.application.load().and_then(|config| Ok(config.show(origin)?));
        match shown {
            Ok(text) => print(&text, Exit::Done),
            Err(problems) => report(&problems),
        }
    }
}
