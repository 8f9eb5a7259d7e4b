//! Publishes letters in every way a call can, and handles what is answered.
//!
//! This file is the exports; the statements are in `store`.

mod bindings;
mod store;

use std::cell::RefCell;

use bindings::cleave::call::types::Failure;
use bindings::cleave::context::delivery;
use bindings::cleave::events::types::Error as EventError;
use bindings::cleave::sql::database::{self, Transaction};
use bindings::exports::test::letters::office::{Answer, Ending, Guest as Office};
use bindings::exports::test::letters::replies_events::Guest as Replies;
use bindings::test::letters::events::{self, Item};

/// The component.
pub struct PostOffice;

thread_local! {
    /// A transaction that its call left open.
    static LEFT_OPEN: RefCell<Option<Transaction>> = const { RefCell::new(None) };
}

impl Office for PostOffice {
    fn send(key: String, body: String) -> Result<String, Failure> {
        Ok(said(events::letter(&key, &body)))
    }

    fn send_many(letters: Vec<(String, String)>) -> Result<String, Failure> {
        Ok(said(letters.iter().try_for_each(|(key, body)| events::letter(key, body))))
    }

    fn send_and_trap(key: String, body: String) -> Result<String, Failure> {
        said(events::letter(&key, &body));
        trap()
    }

    fn send_in_transaction(key: String, body: String, ending: Ending) -> Result<String, Failure> {
        let transaction = database::begin().map_err(store::failure)?;
        store::write_sent(&transaction, &body).map_err(store::failure)?;
        let published = said(events::letter(&key, &body));
        match ending {
            Ending::Commit => Transaction::commit(transaction).map_err(store::failure)?,
            Ending::RollBack => drop(transaction),
            Ending::LeaveOpen => LEFT_OPEN.set(Some(transaction)),
            Ending::Trap => trap(),
        }
        Ok(published)
    }

    fn send_in_doomed(key: String, body: String) -> Result<String, Failure> {
        let transaction = database::begin().map_err(store::failure)?;
        if store::write_nothing(&transaction).is_ok() {
            return Err(Failure::Uncertain("a row without a body was written".to_owned()));
        }
        Ok(said(events::letter(&key, &body)))
    }

    fn send_big(key: String, bytes: u32) -> Result<String, Failure> {
        Ok(said(events::letter(&key, &"#".repeat(bytes as usize))))
    }

    fn send_parcel(id: u32, name: String) -> Result<String, Failure> {
        Ok(said(events::parcel(&Item { id, name })))
    }

    fn send_weight(key: String, grams: f64) -> Result<String, Failure> {
        Ok(said(events::weight(&key, grams)))
    }

    fn send_no_weight(key: String) -> Result<String, Failure> {
        Ok(said(events::weight(&key, f64::NAN)))
    }

    fn sent() -> Result<Vec<String>, Failure> {
        store::sent()
    }

    fn answers() -> Result<Vec<Answer>, Failure> {
        store::answers()
    }
}

impl Replies for PostOffice {
    fn answered(key: String, text: String) -> Result<(), EventError> {
        let delivery =
            delivery::current().ok_or_else(|| EventError::Reject("this call handles no event".to_owned()))?;
        store::write_answer(&Answer { key: key.clone(), text: text.clone(), event: delivery.event_id })
            .map_err(|error| EventError::Retry(format!("{error:?}")))?;
        match text.strip_prefix("forward:") {
            Some(body) => events::letter(&key, body),
            None => Ok(()),
        }
    }
}

/// What the host said to a publish.
fn said(published: Result<(), EventError>) -> String {
    match published {
        Ok(()) => "ok".to_owned(),
        Err(EventError::Retry(why)) => format!("retry: {why}"),
        Err(EventError::Reject(why)) => format!("reject: {why}"),
    }
}

fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort();
}
