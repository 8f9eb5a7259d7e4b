//! `cleave events`: what is on its way from a module to another, or still to be handled; and how events are printed.
//!
//! Events are in the databases of a node, so every node is asked, unless one is named.

use super::socket::{Help, Place as Node, answering, ask_each, places};
use super::table::{moment, plain, short, table};
use super::{Application, Exit, complain, print, print_json, report, say};
use crate::admin::events::{ForgetRequest, Forgotten, LIMIT_MAX, ListRequest, Listed, ShowRequest};
use crate::clock::Clock;
use crate::data::{EventRow, Kind, Place, State};
use clap::{Args, Subcommand};
use cleave_config::{Config, ModuleName};
use std::collections::BTreeSet;

/// The most characters of a key and of a reason in a table.
const KEY_MAX: usize = 32;
const WHY_MAX: usize = 72;

const HELP: Help = Help {
    unavailable: "nothing was changed; ask again",
    uncertain: "nothing was changed; ask again",
    invalid: "`cleave events --help` tells how to ask",
    patience: None,
};

#[derive(Debug, Args)]
pub(super) struct Events {
    #[command(flatten)]
    application: Application,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the events that are on their way or still to be handled, the oldest first.
    Ls(Ls),
    /// Show one event in every place where it is, also where it was handled or is a dead letter.
    Show(Show),
    /// Drop what waits for a module that handles events no more, at its publishers and on the road between nodes.
    Forget(Forget),
}

#[derive(Debug, Args)]
struct Forget {
    /// The module that handled them.
    #[arg(value_name = "MODULE")]
    subscriber: ModuleName,
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Look into the database of this module only.
    #[arg(long, value_name = "NAME")]
    module: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// List at most so many.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: u16,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The event's ID, or 8 or more characters that begin no other's.
    #[arg(value_name = "ID")]
    id: String,
    /// Look into the database of this module only.
    #[arg(long, value_name = "NAME")]
    module: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Events {
    pub(super) fn run(self) -> Exit {
        let config = match self.application.load() {
            Ok(config) => config,
            Err(problems) => return report(&problems),
        };
        match self.verb {
            Verb::Ls(ls) => ls.run(&config, Kind::Open),
            Verb::Show(show) => show.run(&config, Kind::Any),
            Verb::Forget(forget) => forget.run(&config).unwrap_or_else(|exit| exit),
        }
    }
}

impl Forget {
    fn run(self, config: &Config) -> Result<Exit, Exit> {
        const HELP: Help = Help {
            unavailable: "what was dropped before that is gone; ask again",
            uncertain: "ask again: what is dropped already does no harm",
            invalid: "`cleave events forget --help` tells how to ask",
            patience: None,
        };
        let places = answering(places(config, None)?)?;
        let request = ForgetRequest { subscriber: self.subscriber.to_string() };
        let mut text = String::new();
        for (place, Forgotten { waited, on_the_road }) in
            ask_each(&places, "/events/forget", &request, &HELP)?
        {
            for (publisher, count) in waited {
                text += &format!("{}: {count} events of {publisher} dropped\n", place.name());
            }
            if let Some(batches) = on_the_road.filter(|batches| *batches > 0) {
                text += &format!("on the road: {batches} batches of events dropped\n");
            }
        }
        if text.is_empty() {
            say(&format!("nothing waits for `{}`", plain(&request.subscriber)));
        }
        Ok(print(&text, Exit::Done))
    }
}

impl Ls {
    pub(super) fn run(self, config: &Config, kind: Kind) -> Exit {
        let listed = match self.list(config, kind) {
            Ok(listed) => listed,
            Err(exit) => return exit,
        };
        if listed.more {
            let more = if usize::from(self.limit) < LIMIT_MAX {
                format!("`--limit` lists up to {LIMIT_MAX}")
            } else {
                "`--module` lists those of one module".to_owned()
            };
            say(&format!("there are more than {}; {more}", self.limit));
        }
        if self.json {
            return print_json(&listed.events, Exit::Done);
        }
        if listed.events.is_empty() {
            say(match kind {
                Kind::Dead => "there are no dead letters",
                Kind::Open | Kind::Any => "no event is on its way or still to be handled",
            });
            return Exit::Done;
        }
        let now = Clock::system().now();
        let text = match kind {
            Kind::Dead => dead_table(&listed.events, now),
            Kind::Open | Kind::Any => open_table(&listed.events, now),
        };
        print(&text, Exit::Done)
    }

    /// The events of every node that answers, as if it were one.
    fn list(&self, config: &Config, kind: Kind) -> Result<Listed, Exit> {
        let limit = usize::from(self.limit);
        let request = ListRequest { kind, module: self.module.clone(), limit };
        let places = answering(places(config, self.module.as_deref())?)?;
        let mut all = Listed { events: Vec::new(), more: false };
        for (_, listed) in ask_each::<Listed>(&places, "/events/list", &request, &HELP)? {
            all.events.extend(listed.events);
            all.more |= listed.more;
        }
        all.events.sort_by_key(|event| event.published_at);
        all.more |= all.events.len() > limit;
        all.events.truncate(limit);
        Ok(all)
    }
}

impl Show {
    pub(super) fn run(self, config: &Config, kind: Kind) -> Exit {
        let request = ShowRequest { kind, id: self.id, module: self.module };
        let found = places(config, request.module.as_deref()).and_then(answering).and_then(|places| {
            Ok(find(&places, &request, &HELP)?.into_iter().flat_map(|(_, rows)| rows).collect())
        });
        let events: Vec<EventRow> = match found {
            Ok(events) => events,
            Err(exit) => return exit,
        };
        if self.json {
            return print_json(&events, Exit::Done);
        }
        let now = Clock::system().now();
        let places: Vec<_> = events.iter().map(|event| place(event, now)).collect();
        print(&places.join("\n"), Exit::Done)
    }
}

/// The one event that is asked for, in every place where it is, by where that was told.
pub(super) fn find<'a, 'p>(
    nodes: &'a [Node<'p>],
    request: &ShowRequest,
    help: &Help,
) -> Result<Vec<(&'a Node<'p>, Vec<EventRow>)>, Exit> {
    let found = ask_each::<Vec<EventRow>>(nodes, "/events/show", request, help)?;
    let ids: BTreeSet<_> = found.iter().flat_map(|(_, rows)| rows).map(|row| row.id.as_str()).collect();
    if ids.len() > 1 {
        // Each node knows one: there are no more than nodes.
        let ids = ids.into_iter().collect::<Vec<_>>().join(", ");
        complain(
            &format!("several events have an ID that begins `{}`: {ids}", request.id),
            "give more characters of the one that is meant",
        );
        return Err(Exit::Usage);
    }
    Ok(found)
}

fn open_table(events: &[EventRow], now: i64) -> String {
    let rows: Vec<_> = events
        .iter()
        .map(|event| {
            [
                event.id.clone(),
                event.module.clone(),
                place_name(event.place).to_owned(),
                event.contract_function.clone(),
                short(&event.key, KEY_MAX),
                state_name(event.state).to_owned(),
                event.attempts.to_string(),
                due(event, now),
                short(&why(event), WHY_MAX),
            ]
        })
        .collect();
    let heading = ["ID", "MODULE", "PLACE", "EVENT", "KEY", "STATE", "ATTEMPTS", "DUE", "WHY"];
    table("Events", heading, &rows)
}

fn dead_table(events: &[EventRow], now: i64) -> String {
    let rows: Vec<_> = events
        .iter()
        .map(|event| {
            [
                event.id.clone(),
                event.module.clone(),
                event.contract_function.clone(),
                short(&event.key, KEY_MAX),
                event.attempts.to_string(),
                event.ended_at.map_or_else(|| "-".to_owned(), |at| moment(at, now)),
                short(event.error.as_deref().unwrap_or("-"), WHY_MAX),
            ]
        })
        .collect();
    table("Dead letters", ["ID", "MODULE", "EVENT", "KEY", "ATTEMPTS", "DIED", "ERROR"], &rows)
}

/// When it is tried next.
fn due(event: &EventRow, now: i64) -> String {
    match event.state {
        State::Ready if event.due_at > now => moment(event.due_at, now),
        State::Ready => "now".to_owned(),
        State::Waiting | State::Done | State::Dead => "-".to_owned(),
    }
}

/// What an event that is not handled yet waits for, or why it was not.
fn why(event: &EventRow) -> String {
    match (event.place, event.state, &event.error) {
        (Place::Outbox, ..) => format!("on its way to {}", event.waiting_for.join(", ")),
        (Place::Inbox, State::Waiting, _) => "an earlier event of its key is to be handled first".to_owned(),
        (Place::Inbox, _, error) => error.clone().unwrap_or_else(|| "-".to_owned()),
    }
}

/// An event in one place, with everything that is known of it.
fn place(event: &EventRow, now: i64) -> String {
    let mut lines = vec![
        ("id", event.id.clone()),
        ("event", event.contract_function.clone()),
        ("publisher", event.publisher.clone()),
        ("key", plain(&event.key)),
        ("published", moment(event.published_at, now)),
    ];
    if event.place == Place::Outbox {
        lines.push(("waits for", event.waiting_for.join(", ")));
    } else {
        let attempts =
            format!("{} failed, {} of them by a trap or the deadline", event.attempts, event.failures);
        lines.push(("attempts", attempts));
        lines.extend(event.first_attempt_at.map(|at| ("first attempt", moment(at, now))));
        match (event.state, event.ended_at) {
            // Handling an event clears its error, dropping it does not.
            (State::Done, Some(at)) if event.error.is_some() => lines.push(("dropped", moment(at, now))),
            (State::Done | State::Dead, Some(at)) => lines.push((state_name(event.state), moment(at, now))),
            (State::Waiting, _) => lines.push(("waits for", "an earlier event of its key".to_owned())),
            _ => lines.push(("due", due(event, now))),
        }
        lines.extend(event.error.as_deref().map(|error| ("error", plain(error))));
    }
    lines.push(("trace", event.trace.clone()));
    lines.push((
        "payload",
        match (event.payload.as_str(), event.state) {
            ("", State::Done) => "not kept any more".to_owned(),
            ("", _) => "larger than `data.result_max`".to_owned(),
            (payload, _) => plain(payload),
        },
    ));
    let (module, place, state) = (&event.module, place_name(event.place), state_name(event.state));
    let mut text = format!("{module}, {place}: {state}\n");
    for (name, value) in lines {
        text += &format!("  {name:<13}  {value}\n");
    }
    text
}

fn place_name(place: Place) -> &'static str {
    match place {
        Place::Outbox => "outbox",
        Place::Inbox => "inbox",
    }
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Waiting => "waiting",
        State::Ready => "ready",
        State::Done => "done",
        State::Dead => "dead",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_in_the_outbox_is_on_its_way() {
        let event: EventRow = serde_json::from_value(serde_json::json!({
            "id": "01a1fd08-3f79-7400-be64-f1a38a675208", "module": "orders", "place": "outbox",
            "contract_function": "shop:orders/events@0.1.order-placed", "key": "7", "state": "waiting",
            "publisher": "orders", "waiting_for": ["mail", "shipping"], "attempts": 0, "failures": 0,
            "published_at": 1, "due_at": 0, "trace": "0fd3", "payload": {"id": 7}
        }))
        .unwrap();
        let listed = open_table(std::slice::from_ref(&event), 5_001);
        assert!(listed.contains("7    waiting  0         -    on its way to mail, shipping\n"), "{listed}");
        let shown = place(&event, 5_001);
        for line in [
            "orders, outbox: waiting\n",
            "waits for      mail, shipping\n",
            "published      5s ago\n",
            "{\"id\":7}\n",
        ] {
            assert!(shown.contains(line), "{line}\n{shown}");
        }
    }
}
