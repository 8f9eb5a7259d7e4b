//! Prints rows in columns, each as wide as its widest cell.

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
