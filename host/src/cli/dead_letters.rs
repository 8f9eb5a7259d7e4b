//! `cleave dead-letters`: events that are kept and not tried again, until they are replayed or dropped.

use super::events::{Ls, Show, find};
use super::socket::{Help, Place, answering, places};
use super::{Application, Exit, print, print_json, report, say};
use crate::admin::events::{Change, ChangeRequest, Changed, Letter, ShowRequest, Which};
use crate::data::Kind;
use clap::{Args, Subcommand};
use cleave_config::Config;

const HELP: Help = Help {
    unavailable: "nothing was changed; ask again",
    uncertain: "`cleave dead-letters ls` tells what is left; replaying or dropping it again is safe",
    invalid: "`cleave dead-letters --help` tells how to ask",
    patience: None,
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
        let mut letters: Vec<Letter> = Vec::new();
        let exit = self.change_each(config, change, &mut letters).err().unwrap_or(Exit::Done);
        // Also what was changed before a request failed.
        if self.json && (exit == Exit::Done || !letters.is_empty()) {
            return print_json(&letters, exit);
        }
        if exit == Exit::Done || !letters.is_empty() {
            say(&match letters.len() {
                1 => format!("1 dead letter was {}", change.done()),
                count => format!("{count} dead letters were {}", change.done()),
            });
        }
        exit
    }

    /// Changes the letters on every node where they are.
    fn change_each(&self, config: &Config, change: Change, letters: &mut Vec<Letter>) -> Result<(), Exit> {
        let places = answering(places(config, self.module.as_deref())?)?;
        for (place, which) in self.by_place(&places)? {
            let (module, function) = (self.module.clone(), self.function.clone());
            let mut request = ChangeRequest { change, which, module, function };
            loop {
                let changed: Changed = place.ask_for("/dead-letters/change", &request, &HELP)?;
                if !self.json {
                    match print(&lines(&changed.letters), Exit::Done) {
                        Exit::Done => {}
                        failed => return Err(failed),
                    }
                }
                letters.extend(changed.letters);
                match changed.next {
                    Some(next) => request.which = Which::All(Some(next)),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// Which letters are meant where. Of several nodes each is asked for those that it has, and none before all of them
    /// were found.
    fn by_place<'a, 'p>(&self, places: &'a [Place<'p>]) -> Result<Vec<(&'a Place<'p>, Which)>, Exit> {
        if self.all {
            return Ok(places.iter().map(|place| (place, Which::All(None))).collect());
        }
        if let [place] = places {
            return Ok(vec![(place, Which::These(self.ids.clone()))]);
        }
        let mut ids: Vec<Vec<String>> = places.iter().map(|_| Vec::new()).collect();
        for id in &self.ids {
            let request = ShowRequest { kind: Kind::Dead, id: id.clone(), module: self.module.clone() };
            for (place, rows) in find(places, &request, &HELP)? {
                let found = places.iter().zip(&mut ids).find(|(other, _)| std::ptr::eq(*other, place));
                if let (Some((_, ids)), Some(row)) = (found, rows.first()) {
                    ids.push(row.id.clone());
                }
            }
        }
        let asked = places.iter().zip(ids).filter(|(_, ids)| !ids.is_empty());
        Ok(asked.map(|(place, ids)| (place, Which::These(ids))).collect())
    }
}

/// What was done, a line for each letter.
fn lines(letters: &[Letter]) -> String {
    letters
        .iter()
        .map(|l| format!("{} {}  {}  {}\n", l.change.done(), l.id, l.module, l.contract_function))
        .collect()
}
