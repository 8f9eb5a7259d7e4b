//! `cleave dead-letters`: events that are kept and not tried again, until they are replayed or dropped.

use super::events::{Ls, Show, print_json};
use super::socket::{Help, ask_for};
use super::{Application, Exit, print, report, say};
use crate::admin::events::{Change, ChangeRequest, Changed, Letter, Which};
use crate::data::Kind;
use clap::{Args, Subcommand};
use cleave_config::Config;

const HELP: Help = Help {
    unavailable: "nothing was changed; ask again",
    uncertain: "`cleave dead-letters ls` tells what is left; replaying or dropping it again is safe",
    invalid: "`cleave dead-letters --help` tells how to ask",
};

#[derive(Debug, Args)]
pub(super) struct DeadLetters {
    #[command(flatten)]
    application: Application,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the dead letters, the oldest event first.
    Ls(Ls),
    /// Show one event in every module where it is a dead letter.
    Show(Show),
    /// Take dead letters up again, as if they had just arrived.
    Replay(Letters),
    /// Forget dead letters: they count as handled.
    Drop(Letters),
}

#[derive(Debug, Args)]
struct Letters {
    /// The events' IDs, or 8 or more characters of each that begin no other's.
    #[arg(value_name = "ID", required_unless_present = "all")]
    ids: Vec<String>,
    /// All dead letters, of the module and function if they are named.
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Those of this module only.
    #[arg(long, value_name = "NAME")]
    module: Option<String>,
    /// Those of this function only, as in `shop:orders/events.order-placed`; a version may follow the contract.
    #[arg(long, value_name = "CONTRACT.FUNCTION")]
    function: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl DeadLetters {
    pub(super) fn run(self) -> Exit {
        let config = match self.application.load() {
            Ok(config) => config,
            Err(problems) => return report(&problems),
        };
        match self.verb {
            Verb::Ls(ls) => ls.run(&config, Kind::Dead),
            Verb::Show(show) => show.run(&config, Kind::Dead),
            Verb::Replay(letters) => letters.change(&config, Change::Replayed),
            Verb::Drop(letters) => letters.change(&config, Change::Dropped),
        }
    }
}

impl Letters {
    fn change(self, config: &Config, change: Change) -> Exit {
        let which = if self.all { Which::All(None) } else { Which::These(self.ids) };
        let mut request = ChangeRequest { change, which, module: self.module, function: self.function };
        let mut letters: Vec<Letter> = Vec::new();
        let exit = loop {
            let changed: Changed = match ask_for(config, "/dead-letters/change", &request, &HELP) {
                Ok(changed) => changed,
                Err(exit) => break exit,
            };
            if !self.json {
                let exit = print(&lines(&changed.letters), Exit::Done);
                if exit != Exit::Done {
                    return exit;
                }
            }
            letters.extend(changed.letters);
            match changed.next {
                Some(next) => request.which = Which::All(Some(next)),
                None => break Exit::Done,
            }
        };
        // Also what was changed before a request failed.
        if self.json && (exit == Exit::Done || !letters.is_empty()) {
            let printed = print_json(&letters);
            return if exit == Exit::Done { printed } else { exit };
        }
        if exit == Exit::Done || !letters.is_empty() {
            say(&match letters.len() {
                1 => format!("1 dead letter was {}", change.done()),
                count => format!("{count} dead letters were {}", change.done()),
            });
        }
        exit
    }
}

/// What was done, a line for each letter.
fn lines(letters: &[Letter]) -> String {
    letters
        .iter()
        .map(|l| format!("{} {}  {}  {}\n", l.change.done(), l.id, l.module, l.contract_function))
        .collect()
}
