//! Calls the hostile module and says what a caller gets to see of it.

mod bindings;

use bindings::cleave::call::types::Failure;
use bindings::exports::test::relay::relay::Guest;
use bindings::test::hostile::acts;

/// The component.
pub struct Relay;

impl Guest for Relay {
    fn call_trap() -> Result<String, Failure> {
        Ok(report(acts::trap()))
    }

    fn call_spin() -> Result<String, Failure> {
        Ok(report(acts::spin()))
    }

    fn call_sleep(ms: u64) -> Result<String, Failure> {
        Ok(report(acts::sleep(ms)))
    }

    fn call_big_answer(bytes: u32) -> Result<String, Failure> {
        Ok(report(acts::big_answer(bytes).map(|answer| answer.len())))
    }

    fn call_unavailable() -> Result<String, Failure> {
        Ok(report(acts::say_unavailable()))
    }

    fn call_echo(bytes: Vec<u8>) -> Result<Vec<u8>, Failure> {
        acts::echo(&bytes)
    }

    fn call_plain_trap() -> Result<u32, Failure> {
        Ok(acts::plain_trap())
    }

    fn pass_trap() -> Result<u32, Failure> {
        acts::trap()
    }

    fn pass_count() -> Result<u32, Failure> {
        acts::count()
    }
}

fn report(answer: Result<impl ToString, Failure>) -> String {
    match answer {
        Ok(value) => format!("ok: {}", value.to_string()),
        Err(Failure::Unavailable(message)) => format!("unavailable: {message}"),
        Err(Failure::Uncertain(message)) => format!("uncertain: {message}"),
    }
}
