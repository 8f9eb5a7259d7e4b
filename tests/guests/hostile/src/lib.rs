//! Does what a module should not, so that tests can watch the host take it.
//!
//! This file is the contract's exports; `outside` looks for what an instance can reach, `statements` runs SQL.

mod bindings;
mod outside;
mod statements;

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bindings::cleave::call::types::Failure;
use bindings::cleave::log::logger::{self, Level};
use bindings::exports::test::hostile::acts::{Guest, Value};
use wasip2::clocks::monotonic_clock;
use wasip2::io::poll::Pollable;

/// The component.
pub struct Hostile;

thread_local! {
    /// Handles that are never dropped.
    static HANDLES: RefCell<Vec<Pollable>> = const { RefCell::new(Vec::new()) };
}

impl Guest for Hostile {
    fn spin() -> Result<u32, Failure> {
        let mut turns = 0u32;
        while black_box(true) {
            turns = black_box(turns.wrapping_add(1));
        }
        Ok(turns)
    }

    fn recurse() -> Result<u32, Failure> {
        Ok(deeper(0))
    }

    fn allocate() -> Result<u32, Failure> {
        let mut kept = Vec::new();
        while black_box(true) {
            kept.push(black_box(vec![1u8; 1 << 20]));
        }
        Ok(number(kept.len()))
    }

    fn trap() -> Result<u32, Failure> {
        trap()
    }

    #[expect(clippy::panic, reason = "what this function is for")]
    fn panic() -> Result<u32, Failure> {
        panic!("a module panicked")
    }

    fn plain_trap() -> u32 {
        trap()
    }

    fn handles(count: u32) -> Result<u32, Failure> {
        HANDLES.with_borrow_mut(|handles| {
            handles.extend((0..count).map(|_| monotonic_clock::subscribe_duration(u64::MAX)));
        });
        Ok(count)
    }

    #[allow(clippy::print_stdout, clippy::print_stderr, reason = "the flood goes where standard output goes")]
    fn log_flood(lines: u32) -> Result<u32, Failure> {
        for line in 0..lines {
            logger::log(Level::Info, &format!("flood {line}"));
            println!("flood {line} to standard output");
            eprintln!("flood {line} to standard error");
        }
        Ok(lines.saturating_mul(3))
    }

    fn sleep(ms: u64) -> Result<u32, Failure> {
        std::thread::sleep(Duration::from_millis(ms));
        Ok(u32::try_from(ms).unwrap_or(u32::MAX))
    }

    fn big_answer(bytes: u32) -> Result<Vec<u8>, Failure> {
        Ok(vec![0; bytes as usize])
    }

    fn echo(bytes: Vec<u8>) -> Result<Vec<u8>, Failure> {
        Ok(bytes)
    }

    fn count() -> Result<u32, Failure> {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        Ok(CALLS.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
    }

    fn say_unavailable() -> Result<u32, Failure> {
        Err(Failure::Unavailable("module said so".to_owned()))
    }

    fn environment() -> Result<Vec<String>, Failure> {
        Ok(outside::findings())
    }

    fn keep_transaction() -> Result<u32, Failure> {
        statements::keep_transaction()
    }

    fn use_kept_transaction() -> Result<u32, Failure> {
        Ok(statements::use_kept_transaction())
    }

    fn sql(statement: String) -> Result<String, Failure> {
        Ok(statements::query(&statement, Vec::new()))
    }

    fn sql_query(statement: String, parameters: Vec<Value>) -> Result<String, Failure> {
        Ok(statements::query(&statement, parameters))
    }

    fn sql_execute(statement: String, parameters: Vec<Value>) -> Result<String, Failure> {
        Ok(statements::execute(&statement, parameters))
    }

    fn in_transaction(list: Vec<String>) -> Result<Vec<String>, Failure> {
        Ok(statements::in_transaction(&list))
    }
}

#[expect(unconditional_recursion, reason = "what this function is for")]
fn deeper(depth: u32) -> u32 {
    let depth = black_box(depth).wrapping_add(1);
    black_box(deeper(depth)).wrapping_add(1)
}

fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort();
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
