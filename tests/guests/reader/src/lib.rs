//! Handles letters by doing what their bodies say, step by step.
//!
//! This file is the exports; the steps are in `steps`, the statements in `store`.

mod bindings;
mod steps;
mod store;

use std::time::Duration;

use bindings::cleave::call::types::Failure;
use bindings::cleave::context::delivery;
use bindings::cleave::events::types::Error as EventError;
use bindings::cleave::sql::database;
use bindings::exports::cleave::schedule::task::Guest as Task;
use bindings::exports::test::letters::events::{Guest as Events, Item};
use bindings::exports::test::letters::notes::{Guest as Notes, Note};
use steps::Handling;

/// The component.
pub struct Reader;

/// How long a run of a task whose name begins with `slow` takes.
const SLOW: Duration = Duration::from_millis(200);

impl Events for Reader {
    fn letter(key: String, body: String) -> Result<(), EventError> {
        Handling::begin(key, body.clone())?.run(&body)
    }

    fn parcel(item: Item) -> Result<(), EventError> {
        Handling::begin(item.id.to_string(), item.name)?.run("note")
    }

    fn weight(key: String, grams: f64) -> Result<(), EventError> {
        Handling::begin(key, grams.to_string())?.run("note")
    }
}

impl Notes for Reader {
    fn all() -> Result<Vec<Note>, Failure> {
        store::notes()
    }

    fn handles_event() -> Result<bool, Failure> {
        Ok(delivery::current().is_some())
    }

    fn fill(blobs: u32) -> Result<u32, Failure> {
        let full = |n: &u32| store::fill(*n).is_err();
        Ok((0..blobs).find(full).unwrap_or(blobs))
    }

    fn make_room() -> Result<u32, Failure> {
        store::make_room()
    }

    fn runs() -> Result<Vec<String>, Failure> {
        store::runs()
    }
}

impl Task for Reader {
    fn run(task: String) -> Result<(), String> {
        let write = |said: &str| store::write_run(said).map_err(|error| case(&error).to_owned());
        write(&task)?;
        match task.as_str() {
            "failing" => Err("it fails every time".to_owned()),
            "trapping" => trap(),
            task if task.starts_with("slow") => {
                std::thread::sleep(SLOW);
                write(&format!("{task} ended"))
            }
            _ => Ok(()),
        }
    }
}

/// The case of a database error, as WIT names it.
fn case(error: &database::Error) -> &'static str {
    use database::Error;
    match error {
        Error::Invalid(_) => "invalid",
        Error::Refused(_) => "refused",
        Error::Violates(_) => "violates",
        Error::Conflict(_) => "conflict",
        Error::TransactionOpen => "transaction-open",
        Error::Aborted => "aborted",
        Error::TooLarge(_) => "too-large",
        Error::Deadline => "deadline",
        Error::Unavailable(_) => "unavailable",
    }
}

fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort();
}
