//! What a handler does, step by step, and what it is told: see the interface `notes`.

use std::cell::RefCell;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::bindings::cleave::context::delivery::{self, Delivery};
use crate::bindings::cleave::events::types::Error as EventError;
use crate::bindings::cleave::sql::database::{self, Error, Transaction};
use crate::bindings::test::letters::replies_events;
use crate::store;

thread_local! {
    /// A transaction of an earlier call.
    static KEPT: RefCell<Option<Transaction>> = const { RefCell::new(None) };
}

/// One attempt to handle an event.
pub(crate) struct Handling {
    pub(crate) key: String,
    pub(crate) body: String,
    pub(crate) delivery: Delivery,
    transaction: Option<Transaction>,
    /// The outcomes so far.
    seen: Vec<String>,
}

/// What the handler returns, if a step ends it.
type Flow = ControlFlow<Result<(), EventError>>;

impl Handling {
    pub(crate) fn begin(key: String, body: String) -> Result<Self, EventError> {
        let Some(delivery) = delivery::current() else {
            return Err(EventError::Reject("this call handles no event".to_owned()));
        };
        Ok(Self { key, body, delivery, transaction: None, seen: Vec::new() })
    }

    pub(crate) fn run(mut self, steps: &str) -> Result<(), EventError> {
        for step in steps.split_whitespace() {
            if let ControlFlow::Break(result) = self.step(step) {
                return result;
            }
        }
        Ok(())
    }

    /// The outcomes so far, as one text.
    pub(crate) fn seen(&self) -> String {
        self.seen.join(" ")
    }

    fn step(&mut self, step: &str) -> Flow {
        let (name, argument) = step.split_once(':').unwrap_or((step, ""));
        match name {
            "note" => self.statement("note", |this| store::write_note(this.transaction.as_ref(), this)),
            "outside" => self.statement("outside", |this| store::write_note(None, this)),
            "clash" => self.statement("clash", |this| store::clash(this.transaction.as_ref())),
            "begin" => self.statement("begin", |this| {
                let begun = database::begin()?;
                this.transaction.get_or_insert(begun);
                Ok(())
            }),
            "commit" => self.statement("commit", |this| match this.transaction.take() {
                Some(transaction) => Transaction::commit(transaction),
                None => Err(Error::Aborted),
            }),
            "drop" => {
                self.transaction = None;
                Flow::Continue(())
            }
            "read" => {
                let count = store::count_notes(self.transaction.as_ref(), &self.key);
                self.see("read", count.map(|n| n.to_string()).unwrap_or_else(|e| crate::case(&e).to_owned()))
            }
            "keep" => {
                KEPT.set(self.transaction.take());
                Flow::Continue(())
            }
            "kept" => match KEPT.take() {
                None => self.see("kept", "none".to_owned()),
                Some(kept) => self.statement("kept", |this| store::write_note(Some(&kept), this)),
            },
            "answer" => self.answer(argument),
            "sleep" => {
                std::thread::sleep(Duration::from_millis(argument.parse().unwrap_or_default()));
                Flow::Continue(())
            }
            "spin" => spin(),
            "trap" => crate::trap(),
            "room" if store::is_filled() => crate::trap(),
            "retry" => Flow::Break(Err(EventError::Retry(self.seen()))),
            "reject" => Flow::Break(Err(EventError::Reject(self.seen()))),
            "until" if self.delivery.attempt >= argument.parse().unwrap_or_default() => Flow::Break(Ok(())),
            "until" => Flow::Continue(()),
            "room" => Flow::Continue(()),
            _ if name.starts_with('#') => Flow::Continue(()),
            _ => Flow::Break(Err(EventError::Reject(format!("`{step}` is no step")))),
        }
    }

    /// Runs a statement and remembers what became of it. What may go better later ends the attempt.
    fn statement<T>(&mut self, name: &str, run: impl FnOnce(&mut Self) -> Result<T, Error>) -> Flow {
        match run(self) {
            Ok(_) => self.see(name, "ok".to_owned()),
            Err(error @ (Error::Conflict(_) | Error::Unavailable(_))) => {
                Flow::Break(Err(EventError::Retry(format!("{name}: {error:?}"))))
            }
            Err(error) => self.see(name, crate::case(&error).to_owned()),
        }
    }

    fn answer(&mut self, text: &str) -> Flow {
        let outcome = match replies_events::answered(&self.key, text) {
            Ok(()) => "ok",
            Err(EventError::Retry(_)) => "retry",
            Err(EventError::Reject(_)) => "reject",
        };
        self.see("answer", outcome.to_owned())
    }

    fn see(&mut self, name: &str, outcome: String) -> Flow {
        self.seen.push(format!("{name}={outcome}"));
        Flow::Continue(())
    }
}

fn spin() -> Flow {
    let mut turns = 0u32;
    while black_box(true) {
        turns = black_box(turns.wrapping_add(1));
    }
    Flow::Continue(())
}
