//! Sizes such as `64MiB` and durations such as `1m30s`, read and shown.
//!
//! Showing and reading are each other's reverse. Decimal sizes (`MB`) and fractions are refused: they are
//! read differently by different people.

use std::time::Duration;

use crate::problem::Invalid;

/// 1024 bytes.
pub(crate) const KIB: u64 = 1024;
/// 1024 KiB.
pub(crate) const MIB: u64 = 1024 * KIB;
/// 1024 MiB.
pub(crate) const GIB: u64 = 1024 * MIB;

/// One second in milliseconds.
pub(crate) const SECOND: u64 = 1000;
/// One minute in milliseconds.
pub(crate) const MINUTE: u64 = 60 * SECOND;
/// One hour in milliseconds.
pub(crate) const HOUR: u64 = 60 * MINUTE;
/// One day in milliseconds.
pub(crate) const DAY: u64 = 24 * HOUR;

/// The texts that [`parse_size`] takes, but for numbers beyond 64 bits.
pub(crate) const SIZE: &str = "^[0-9]+(B|KiB|MiB|GiB)$";
/// The texts that [`parse_duration`] takes, but for numbers beyond 64 bits.
pub(crate) const DURATION: &str = "^([0-9]+(ms|s|m|h|d))+$";

const SIZES: [(&str, u64); 4] = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1)];
const DURATIONS: [(&str, u64); 5] = [("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", 1)];

/// Reads a size in bytes: a whole number followed by `B`, `KiB`, `MiB` or `GiB`.
pub fn parse_size(text: &str) -> Result<u64, Invalid> {
    let amount = || {
        let (number, unit) = split_number(text);
        number.parse::<u64>().ok()?.checked_mul(factor(&SIZES, unit)?)
    };
    amount().ok_or_else(|| {
        Invalid::new(
            format!("{text:?} is not a size"),
            "write a whole number with a unit, such as \"64MiB\", \"512KiB\" or \"1GiB\", or a plain number of bytes",
        )
    })
}

/// Shows a number of bytes in the largest unit that leaves no remainder.
pub fn show_size(bytes: u64) -> String {
    for (unit, factor) in SIZES {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

/// Reads a duration: whole numbers, each followed by `ms`, `s`, `m`, `h` or `d`, as in `250ms` or `1m30s`.
pub fn parse_duration(text: &str) -> Result<Duration, Invalid> {
    milliseconds(text).map(Duration::from_millis).ok_or_else(|| {
        Invalid::new(
            format!("{text:?} is not a duration"),
            "write a whole number with a unit, such as \"250ms\", \"5s\", \"1m30s\" or \"1h\"",
        )
    })
}

/// Shows a duration to the millisecond.
pub fn show_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, factor) in DURATIONS {
        if rest >= factor {
            text.push_str(&format!("{}{unit}", rest / factor));
            rest %= factor;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

fn milliseconds(text: &str) -> Option<u64> {
    let (mut rest, mut total) = (text, 0_u64);
    loop {
        let (number, tail) = split_number(rest);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        let part = number.parse::<u64>().ok()?.checked_mul(factor(&DURATIONS, unit)?)?;
        total = total.checked_add(part)?;
        if tail.is_empty() {
            return Some(total);
        }
        rest = tail;
    }
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn factor(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_binary() {
        assert_eq!(parse_size("64MiB"), Ok(64 * 1024 * 1024));
        assert_eq!(parse_size("512KiB"), Ok(512 * 1024));
        assert_eq!(parse_size("0B"), Ok(0));
    }

    #[test]
    fn odd_sizes_are_refused() {
        for text in
            ["", "64", "MiB", "64MB", "64 MiB", "1.5MiB", "-1B", "+1B", "99999999999GiB", "1MiB1KiB", "é"]
        {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations_add_their_parts() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
    }

    #[test]
    fn odd_durations_are_refused() {
        for text in ["", "5", "s", "5 s", "1.5s", "-5s", "+5s", "5sec", "5s7", "99999999999999999d", "5ß"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn shown_size_reads_back(bytes: u64) {
            prop_assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }

        #[test]
        fn shown_duration_reads_back(ms: u64) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }

        #[test]
        fn any_text_is_answered(text: String) {
            let _ = (parse_size(&text), parse_duration(&text));
        }
    }
}
