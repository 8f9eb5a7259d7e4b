//! What a person meets: how the layers add up, and what is said about each mistake.

// Why: clippy exempts test functions, not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod files;
mod layers;
mod placement;
mod problems;
mod schema;
mod show;

use cleave_config::{Config, Problems, Sources, parse};
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};

/// A file in `/app`, with no environment and no flags.
fn sources() -> Sources {
    Sources::new("/app/cleave.toml", "/cwd")
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn good(text: &str) -> Config {
    parse(text, &sources()).unwrap_or_else(|problems| panic!("{}", render(&problems)))
}

fn bad(text: &str) -> Problems {
    parse(text, &sources()).expect_err("the file is wrong")
}

/// As a terminal without colours shows it.
fn render(problem: &dyn Diagnostic) -> String {
    let mut text = String::new();
    GraphicalReportHandler::new_themed(GraphicalTheme::none())
        .with_width(200)
        .render_report(&mut text, problem)
        .unwrap();
    text
}
