//! Owns what the command line is told of events, and what it may do to dead letters.
//!
//! A request is refused as a whole, with nothing done, unless every module and every event that it names is there. A
//! change is durable before it is answered.

use super::{Outcome, answer};
use crate::application::Application;
use crate::background::Arrivals;
use crate::capability::log::printable;
use crate::data::{Database, EventRow, Filter, Kind, SqlError, inbox, list, outbox};
use crate::databases::Databases;
use crate::relay::DATABASE_PATIENCE;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use cleave_bus::nats_stream::Road;
use cleave_config::ModuleName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;

/// The most events that one request lists.
pub const LIMIT_MAX: usize = 10_000;
/// The fewest characters that an event is named by.
const PREFIX_MIN: usize = 8;
/// The most rows of one database that are looked at to find the event with a shortened ID.
const FOUND_MAX: usize = 100;
/// The most IDs that are given to choose from.
const CHOICES_MAX: usize = 10;
/// The most bytes of a text in the place of a name that are shown.
const SHOWN_MAX: usize = 64;
/// Dead letters that are changed in one transaction, when all of them are.
const PART: usize = 500;

/// Asks which events there are.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListRequest {
    pub kind: Kind,
    /// The only module whose database is looked into.
    pub module: Option<String>,
    pub limit: usize,
}

/// Which events there are, the oldest first, without their payloads.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listed {
    pub events: Vec<EventRow>,
    /// Whether there are more than were asked for.
    pub more: bool,
}

/// Asks for one event in every place where it is; the answer is an array of [`EventRow`].
#[derive(Debug, Serialize, Deserialize)]
pub struct ShowRequest {
    pub kind: Kind,
    /// The ID, or enough of its beginning.
    pub id: String,
    pub module: Option<String>,
}

/// What becomes of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It is taken up again, as if it had just arrived.
    Replayed,
    /// It is remembered as handled.
    Dropped,
}

/// Which dead letters are to be changed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// Those with these IDs, or beginnings of them.
    These(Vec<String>),
    /// Some of those from here on, or from the first.
    All(Option<Cursor>),
}

/// How far the dead letters of all modules have been gone through.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cursor {
    module: String,
    position: i64,
}

/// Asks for a change of dead letters.
#[derive(Debug, Serialize, Deserialize)]
pub struct ChangeRequest {
    pub change: Change,
    pub which: Which,
    pub module: Option<String>,
    /// The only function whose letters are meant, as in `shop:orders/events.order-placed`.
    pub function: Option<String>,
}

/// Which dead letters were changed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Changed {
    pub letters: Vec<Letter>,
    /// Where to go on when all were asked for and there may be more.
    pub next: Option<Cursor>,
}

/// A dead letter that was changed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Letter {
    pub id: String,
    pub module: String,
    pub contract_function: String,
    pub change: Change,
}

/// Asks that what waits for a subscriber be dropped, because the subscriber is no more.
#[derive(Debug, Serialize, Deserialize)]
pub struct ForgetRequest {
    pub subscriber: String,
}

/// What was dropped.
#[derive(Debug, Serialize, Deserialize)]
pub struct Forgotten {
    /// Events that waited in the outboxes of a node, by their publishers.
    pub waited: BTreeMap<String, usize>,
    /// Batches of events that were on the road between nodes; none if the node has no part in it.
    pub on_the_road: Option<u64>,
}

/// The outboxes and inboxes of the modules.
pub(super) struct Mailboxes {
    /// Every module of the application.
    modules: BTreeSet<String>,
    /// Those with a database, in which events may be, also such as an earlier version of the module has left.
    mailboxes: BTreeMap<String, Mailbox>,
    /// The modules that handle events, wherever they are.
    subscribers: BTreeSet<String>,
    /// The road of events between nodes.
    road: Option<Arc<Road>>,
}

struct Mailbox {
    database: Database,
    /// Wakes the delivery, if the module handles events.
    arrived: Option<Arc<Notify>>,
    has_events: bool,
}

/// Why nothing was done, or it is open what was. Of [`Outcome::Invalid`] and [`Outcome::Absent`] the second line is the fix.
#[derive(Debug)]
struct Refusal(Outcome, String);

type Answer<T> = Result<Json<T>, Refusal>;

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        answer(self.0, self.1.into_bytes())
    }
}

pub(super) fn router(mailboxes: Mailboxes) -> Router {
    Router::new()
        .route("/events/list", post(list_events))
        .route("/events/show", post(show))
        .route("/events/forget", post(forget))
        .route("/dead-letters/change", post(change))
        .with_state(Arc::new(mailboxes))
}

async fn list_events(
    State(mailboxes): State<Arc<Mailboxes>>,
    Json(request): Json<ListRequest>,
) -> Answer<Listed> {
    let limit = request.limit.min(LIMIT_MAX);
    let mut events = Vec::new();
    for (module, mailbox) in mailboxes.of(request.module.as_deref())? {
        let filter = Filter { payloads: false, ..request.kind.into() };
        events.extend(mailbox.list(module, filter, limit + 1).await?);
    }
    // Why: one module must not hide the others. The order within a module stays where times are equal.
    events.sort_by_key(|event| event.published_at);
    let more = events.len() > limit;
    events.truncate(limit);
    Ok(Json(Listed { events, more }))
}

async fn show(
    State(mailboxes): State<Arc<Mailboxes>>,
    Json(request): Json<ShowRequest>,
) -> Answer<Vec<EventRow>> {
    let module = request.module.as_deref();
    let found = mailboxes.find(request.kind, &request.id, module).await?;
    let Some(id) = found.first().map(|event| event.id.clone()) else { return Ok(Json(found)) };
    let mut events = Vec::new();
    for (module, mailbox) in mailboxes.of(module)? {
        let filter = Filter { begins: &id, ..request.kind.into() };
        let shown = match mailbox.try_list(module, filter, FOUND_MAX).await {
            // Better without its payload than not at all.
            Err(SqlError::TooLarge(_)) => {
                mailbox.list(module, Filter { payloads: false, ..filter }, FOUND_MAX).await?
            }
            shown => shown.map_err(|error| unavailable(module, &error))?,
        };
        events.extend(shown);
    }
    Ok(Json(events))
}

async fn change(
    State(mailboxes): State<Arc<Mailboxes>>,
    Json(request): Json<ChangeRequest>,
) -> Answer<Changed> {
    let module = request.module.as_deref();
    let wanted = |event: &EventRow| {
        request.function.as_deref().is_none_or(|function| is_named(&event.contract_function, function))
    };
    let (mut letters, next) = match &request.which {
        Which::All(cursor) => {
            let (mut letters, next) = mailboxes.part(module, cursor.as_ref()).await?;
            letters.retain(wanted);
            (letters, next)
        }
        Which::These(ids) => {
            let mut letters: Vec<EventRow> = Vec::new();
            for id in ids {
                let mut found = mailboxes.find(Kind::Dead, id, module).await?;
                found.retain(wanted);
                if found.is_empty() {
                    let function = request.function.as_deref().unwrap_or_default();
                    return Err(invalid(
                        &format!("the dead letter `{id}` is not of the function `{function}`"),
                        &format!("`cleave dead-letters show {id}` tells its function"),
                    ));
                }
                letters.extend(found);
            }
            letters.sort_by(|a, b| (&a.module, a.position).cmp(&(&b.module, b.position)));
            letters.dedup_by(|a, b| a.module == b.module && a.position == b.position);
            (letters, None)
        }
    };
    if request.change == Change::Replayed {
        let handled = |letter: &EventRow| mailboxes.handles(&letter.module);
        if let (Which::These(_), Some(letter)) = (&request.which, letters.iter().find(|l| !handled(l))) {
            return Err(invalid(
                &format!(
                    "`{}` handles no events any more, so `{}` cannot be replayed",
                    letter.module, letter.id
                ),
                "drop it, or run a version of the module that handles it",
            ));
        }
        letters.retain(handled);
    }
    let mut changed = Vec::new();
    for letters in letters.chunk_by(|a, b| a.module == b.module) {
        let Some(module) = letters.first().map(|letter| letter.module.as_str()) else { continue };
        let Some(mailbox) = mailboxes.mailboxes.get(module) else { continue };
        match mailbox.change(module, request.change, letters).await {
            Ok(letters) => changed.extend(letters),
            Err(error @ SqlError::Unavailable(_)) => {
                return Err(Refusal(Outcome::Uncertain, text(module, &error)));
            }
            Err(error) if changed.is_empty() => return Err(unavailable(module, &error)),
            Err(error) => {
                let done = changed.len();
                let text =
                    format!("{}; before that, {done} of other modules were changed", text(module, &error));
                return Err(Refusal(Outcome::Uncertain, text));
            }
        }
    }
    Ok(Json(Changed { letters: changed, next }))
}

async fn forget(
    State(mailboxes): State<Arc<Mailboxes>>,
    Json(ForgetRequest { subscriber }): Json<ForgetRequest>,
) -> Answer<Forgotten> {
    // Why: to NATS, other texts may be the names of all.
    if subscriber.parse::<ModuleName>().is_err() {
        let message =
            format!("`{}` is not the name of a module", printable(subscriber.as_bytes(), SHOWN_MAX));
        return Err(invalid(&message, "name the module that handled events"));
    }
    if mailboxes.subscribers.contains(&subscriber) {
        return Err(invalid(
            &format!("`{subscriber}` handles events, so nothing that waits for it is dropped"),
            "take the module out of the config, or use a component of it that handles none, and start again",
        ));
    }
    let mut waited = BTreeMap::new();
    for (publisher, mailbox) in &mailboxes.mailboxes {
        let dropped = mailbox.forget(&subscriber).await.map_err(|error| unavailable(publisher, &error))?;
        if dropped > 0 {
            waited.insert(publisher.clone(), dropped);
        }
    }
    let on_the_road = match &mailboxes.road {
        Some(road) => {
            let removed = road.remove(&subscriber).await;
            Some(removed.map_err(|away| Refusal(Outcome::Uncertain, away.to_string()))?)
        }
        None => None,
    };
    tracing::info!(subscriber, ?waited, on_the_road, "a subscriber was forgotten");
    Ok(Json(Forgotten { waited, on_the_road }))
}

impl Mailboxes {
    pub(super) fn new(
        application: &Application,
        databases: &Databases,
        arrivals: &Arrivals,
        road: Option<&Arc<Road>>,
    ) -> Self {
        let mailbox = |module: &crate::application::Module| {
            let database = databases.get(&module.name)?.clone();
            let arrived = arrivals.get(&module.name).cloned();
            let has_events = module.interface.has_events();
            Some((module.name.to_string(), Mailbox { database, arrived, has_events }))
        };
        Self {
            modules: application.modules.iter().map(|module| module.name.to_string()).collect(),
            mailboxes: application.modules.iter().filter_map(mailbox).collect(),
            subscribers: application.subscribers.values().flatten().map(ToString::to_string).collect(),
            road: road.cloned(),
        }
    }

    /// Those of one module, or of all.
    fn of(&self, module: Option<&str>) -> Result<Vec<(&str, &Mailbox)>, Refusal> {
        let Some(wanted) = module else {
            return Ok(self.mailboxes.iter().map(|(name, mailbox)| (name.as_str(), mailbox)).collect());
        };
        match self.mailboxes.get_key_value(wanted) {
            Some((name, mailbox)) if mailbox.has_events => Ok(vec![(name, mailbox)]),
            _ => Err(self.unknown(wanted)),
        }
    }

    /// Whether somebody delivers from a module's inbox.
    fn handles(&self, module: &str) -> bool {
        self.mailboxes.get(module).is_some_and(|mailbox| mailbox.arrived.is_some())
    }

    fn unknown(&self, wanted: &str) -> Refusal {
        let message = if self.modules.contains(wanted) {
            format!("`{wanted}` neither publishes nor handles events")
        } else {
            format!("there is no module `{wanted}`")
        };
        let with: Vec<_> =
            self.mailboxes.iter().filter(|(_, m)| m.has_events).map(|(name, _)| name.as_str()).collect();
        let fix = match with.as_slice() {
            [] => "no module of this application has events".to_owned(),
            names => format!("the modules with events are {}", names.join(", ")),
        };
        invalid(&message, &fix)
    }

    /// The one event whose ID begins so, in every place where it is; without payloads.
    async fn find(&self, kind: Kind, id: &str, module: Option<&str>) -> Result<Vec<EventRow>, Refusal> {
        let begins = id.to_ascii_lowercase();
        if begins.chars().count() < PREFIX_MIN {
            let fix = format!("give at least {PREFIX_MIN} characters of it");
            return Err(invalid(&format!("`{id}` is too short for an ID"), &fix));
        }
        let mut found = Vec::new();
        // Nothing else is in an ID, and so nothing is found.
        if begins.chars().all(|c| c.is_ascii_hexdigit() || c == '-') {
            for (module, mailbox) in self.of(module)? {
                let filter = Filter { begins: &begins, payloads: false, ..kind.into() };
                found.extend(mailbox.list(module, filter, FOUND_MAX).await?);
            }
        }
        let ids: BTreeSet<_> = found.iter().map(|event| event.id.as_str()).collect();
        match ids.len() {
            0 => Err(not_found(kind, id, module)),
            1 => Ok(found),
            _ => {
                let shown: Vec<_> = ids.iter().take(CHOICES_MAX).copied().collect();
                let more = if ids.len() > CHOICES_MAX { " and more" } else { "" };
                Err(invalid(
                    &format!("several events have an ID that begins `{id}`: {}{more}", shown.join(", ")),
                    "give more characters of the one that is meant",
                ))
            }
        }
    }

    /// The next dead letters, at most [`PART`] of one module, and where to go on.
    async fn part(
        &self,
        module: Option<&str>,
        cursor: Option<&Cursor>,
    ) -> Result<(Vec<EventRow>, Option<Cursor>), Refusal> {
        let mut left = self.of(module)?.into_iter();
        let Some((name, mailbox)) = left.find(|(name, _)| cursor.is_none_or(|c| *name >= c.module.as_str()))
        else {
            return Ok((Vec::new(), None));
        };
        let after = cursor.filter(|cursor| cursor.module == name).map_or(0, |cursor| cursor.position);
        let filter = Filter { after, payloads: false, ..Kind::Dead.into() };
        let letters = mailbox.list(name, filter, PART).await?;
        let next = match letters.last() {
            Some(last) if letters.len() == PART => Some((name, last.position)),
            _ => left.next().map(|(name, _)| (name, 0)),
        };
        let cursor = |(module, position): (&str, i64)| Cursor { module: module.to_owned(), position };
        Ok((letters, next.map(cursor)))
    }
}

impl Mailbox {
    async fn try_list(
        &self,
        module: &str,
        filter: Filter<'_>,
        limit: usize,
    ) -> Result<Vec<EventRow>, SqlError> {
        list(&self.database, module, filter, limit, Instant::now() + DATABASE_PATIENCE).await
    }

    async fn list(&self, module: &str, filter: Filter<'_>, limit: usize) -> Result<Vec<EventRow>, Refusal> {
        self.try_list(module, filter, limit).await.map_err(|error| unavailable(module, &error))
    }

    /// Drops what waits in the outbox for a subscriber; gives how many events.
    async fn forget(&self, subscriber: &str) -> Result<usize, SqlError> {
        let mut dropped = 0_usize;
        loop {
            let mut transaction = self.database.begin_host(Instant::now() + DATABASE_PATIENCE).await?;
            let part = outbox::drop_for(&mut transaction, subscriber, PART as i64).await?;
            transaction.commit().await?;
            dropped = dropped.saturating_add(part);
            if part < PART {
                return Ok(dropped);
            }
        }
    }

    /// Changes dead letters of this module in one transaction, and gives those that were still dead.
    async fn change(
        &self,
        module: &str,
        change: Change,
        letters: &[EventRow],
    ) -> Result<Vec<Letter>, SqlError> {
        let now = self.database.now();
        let mut transaction = self.database.begin_host(Instant::now() + DATABASE_PATIENCE).await?;
        let mut changed = Vec::new();
        for letter in letters {
            let (id, function) = (&letter.id, &letter.contract_function);
            let was_dead = match change {
                Change::Replayed => inbox::replay(&mut transaction, id, function, now).await?,
                Change::Dropped => inbox::drop_dead(&mut transaction, id, function, now).await?,
            };
            if was_dead {
                changed.push(Letter {
                    id: id.clone(),
                    module: module.to_owned(),
                    contract_function: function.clone(),
                    change,
                });
            }
        }
        if changed.is_empty() {
            return Ok(changed);
        }
        transaction.commit().await?;
        tracing::info!(module, count = changed.len(), "dead letters were {}", change.done());
        if let (Change::Replayed, Some(arrived)) = (change, &self.arrived) {
            arrived.notify_one();
        }
        Ok(changed)
    }
}

impl Change {
    /// What was done to the letter.
    pub fn done(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Dropped => "dropped",
        }
    }
}

/// Whether an event has this name, in which the version may be left out.
fn is_named(event: &str, name: &str) -> bool {
    event == name
        || event.rsplit_once('.').is_some_and(|(contract, function)| {
            let unversioned = contract.split_once('@').map_or(contract, |(unversioned, _)| unversioned);
            name.strip_prefix(unversioned).and_then(|rest| rest.strip_prefix('.')) == Some(function)
        })
}

fn not_found(kind: Kind, id: &str, module: Option<&str>) -> Refusal {
    let (what, fix) = match kind {
        Kind::Dead => ("no dead letter", "`cleave dead-letters ls` lists them"),
        Kind::Open | Kind::Any => (
            "no event that is known here",
            "`cleave events ls` and `cleave dead-letters ls` list them; what was handled is forgotten after \
             `events.remember`",
        ),
    };
    let place = module.map(|module| format!(" in `{module}`")).unwrap_or_default();
    Refusal(Outcome::Absent, format!("`{id}` is {what}{place}\n{fix}"))
}

fn invalid(message: &str, fix: &str) -> Refusal {
    Refusal(Outcome::Invalid, format!("{message}\n{fix}"))
}

fn unavailable(module: &str, error: &SqlError) -> Refusal {
    Refusal(Outcome::Unavailable, text(module, error))
}

fn text(module: &str, error: &SqlError) -> String {
    format!("the events of `{module}`: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_of_an_event_may_be_left_out() {
        let event = "shop:orders/events@0.1.order-placed";
        assert!(is_named(event, event));
        assert!(is_named(event, "shop:orders/events.order-placed"));
        for other in ["order-placed", "shop:orders/events.placed", "shop:orders/events@0.2.order-placed", ""]
        {
            assert!(!is_named(event, other), "{other}");
        }
    }
}
