//! Owns how data looks on a terminal: rows in columns, each as wide as its widest cell; times; and the texts of others,
//! which may not do more there than be read.

/// The rows under a title and a heading, two spaces between columns.
pub(super) fn table<const N: usize>(title: &str, heading: [&str; N], rows: &[[String; N]]) -> String {
    let heading = heading.map(str::to_owned);
    let mut widths = [0; N];
    for row in std::iter::once(&heading).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("  {}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    let mut text = format!("{title}\n{}", line(&heading));
    rows.iter().for_each(|row| text.push_str(&line(row)));
    text
}

/// How far a time is from now; both are in milliseconds since 1970.
pub(super) fn moment(at: i64, now: i64) -> String {
    if at > now {
        // Why up: what is due in a moment is not due yet.
        format!("in {}", span(at.saturating_sub(now).saturating_add(999)))
    } else {
        format!("{} ago", span(now.saturating_sub(at)))
    }
}

/// How long a time is.
pub(super) fn span(milliseconds: i64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        ..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The beginning of a text, if it is longer than that.
pub(super) fn short(text: &str, characters_max: usize) -> String {
    let text = plain(text);
    if text.chars().count() <= characters_max {
        return text;
    }
    text.chars().take(characters_max.saturating_sub(1)).chain(['…']).collect()
}

/// A text of a module's or another node's as a terminal may get it, on one line.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        // Why: besides the control characters, these change the direction or the place of what is printed.
        if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_from_now() {
        let now = 1_750_000_000_000;
        for (away, told) in [
            (1, "in 1s"),
            (27_500, "in 28s"),
            (0, "0s ago"),
            (-119_999, "119s ago"),
            (-120_000, "2m ago"),
            (-7_199_999, "119m ago"),
            (-7_200_000, "2h ago"),
            (-200_000_000, "2d ago"),
        ] {
            assert_eq!(moment(now + away, now), told);
        }
        assert_eq!(moment(i64::MIN, i64::MAX), moment(0, i64::MAX));
    }

    #[test]
    fn text_of_a_module_cannot_forge_a_line() {
        assert_eq!(short("a\n\u{1b}[2Jb", 20), "a\\n\\u{1b}[2Jb");
        assert_eq!(short("ääää", 4), "ääää");
        assert_eq!(short("äääää", 4), "äää…");
    }
}
