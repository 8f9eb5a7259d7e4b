//! `cleave call`: calls a function of the application that runs on this data folder. Of several nodes the first that
//! answers is asked, because each can call every contract.

use super::socket::{Help, ask_first, places};
use super::{Application, Exit, print, report};
use crate::admin::{CallRequest, Outcome};
use clap::Args;

const HELP: Help = Help {
    unavailable: "the call did not run; it may be repeated",
    uncertain: "the call may have run; look before you repeat it",
    invalid: "`cleave check --json` lists the functions",
    patience: None,
};

#[derive(Debug, Args)]
pub(super) struct Call {
    #[command(flatten)]
    application: Application,
    /// The function, as in `shop:catalog/products.get`; a version may follow the contract.
    #[arg(value_name = "CONTRACT.FUNCTION")]
    function: String,
    /// The arguments in order, each as JSON.
    #[arg(value_name = "JSON", allow_negative_numbers = true)]
    arguments: Vec<String>,
}

impl Call {
    pub(super) fn run(self) -> Exit {
        let config = match self.application.load() {
            Ok(config) => config,
            Err(problems) => return report(&problems),
        };
        let request = CallRequest { function: self.function, arguments: self.arguments };
        match places(&config, None).and_then(|places| ask_first(places, "/call", &request, &HELP)) {
            Ok((outcome, text)) => {
                let exit = if outcome == Outcome::Error { Exit::CallError } else { Exit::Done };
                print(&format!("{text}\n"), exit)
            }
            Err(exit) => exit,
        }
    }
}
