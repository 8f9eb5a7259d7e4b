//! Makes seven mistakes, or does the same with care.

mod bindings;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bindings::cleave::call::types::Failure;
use bindings::cleave::events::types::Error as EventError;
use bindings::cleave::sql::database::{self, Value};
use bindings::exports::test::mistakes::desk::Guest;
use bindings::exports::test::mistakes::due_events::Guest as Events;
use bindings::test::mistakes::{books, events};

/// The component.
pub struct Desk;

/// How long an offer stands.
const OFFER: Duration = Duration::from_secs(5);
/// What is sent, and the size of its pieces.
const BYTES: usize = 2 << 20;
const PIECE: usize = BYTES / 4;
/// How often the books are asked to add an amount.
const ATTEMPTS_MAX: u32 = 3;

/// A mistake: it is another number in another instance, and may be lost at any time.
static CALLS: AtomicU64 = AtomicU64::new(0);

impl Guest for Desk {
    fn count(careful: bool) -> Result<u64, Failure> {
        if !careful {
            return Ok(CALLS.fetch_add(1, Ordering::Relaxed) + 1);
        }
        let insert = "INSERT INTO calls (name, number) VALUES ('count', 1) \
                      ON CONFLICT (name) DO UPDATE SET number = calls.number + 1 RETURNING number";
        let found = database::query(insert, &[]).map_err(|e| Failure::Uncertain(format!("{e:?}")))?;
        match found.rows.first().and_then(|row| row.first()) {
            Some(Value::Integer(number)) => Ok(number.unsigned_abs()),
            other => Err(Failure::Uncertain(format!("the table gives {other:?}"))),
        }
    }

    fn announce(numbers: u32, careful: bool) -> Result<u32, Failure> {
        for number in 1..=numbers {
            let announced = events::announced(&format!("number {number}"), number, careful);
            announced
                .map_err(|(EventError::Retry(why) | EventError::Reject(why))| Failure::Uncertain(why))?;
        }
        Ok(numbers)
    }

    fn pay(id: String, cents: u64, careful: bool) -> Result<u64, Failure> {
        let mut attempt = 1;
        loop {
            let named = if careful { id.clone() } else { format!("{id}, attempt {attempt}") };
            match books::add(&named, cents) {
                Err(Failure::Uncertain(_)) if attempt < ATTEMPTS_MAX => attempt += 1,
                answer => return answer,
            }
        }
    }

    fn deposit(id: String, cents: u64, careful: bool) -> Result<u64, Failure> {
        books::receive(&id, cents, careful)
    }

    fn bill(id: String, cents: u64, careful: bool) -> Result<(), Failure> {
        books::bill(&id, cents, careful)
    }

    fn offer(careful: bool) -> Result<bool, Failure> {
        let until = now() + OFFER;
        if careful {
            return Ok(now() < until);
        }
        books::is_before(u64::try_from(until.as_millis()).unwrap_or(u64::MAX))
    }

    fn send(careful: bool) -> Result<u64, Failure> {
        let size = if careful { PIECE } else { BYTES };
        let pieces = vec![7; BYTES];
        pieces.chunks(size).map(books::weigh).sum()
    }
}

impl Events for Desk {
    fn due(id: String, cents: u64, careful: bool) -> Result<(), EventError> {
        // A mistake: what it does elsewhere is not taken back with its transaction.
        let entered = if careful { Self::pay(id, cents, true) } else { books::enter(cents) };
        entered.map(drop).map_err(|failure| EventError::Retry(format!("{failure:?}")))
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
