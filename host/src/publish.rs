//! Owns publishing: what stands behind a module's import of an event.
//!
//! An event goes into the module's outbox: in the transaction that is open, if one is, else in one of its own. It is
//! carried on from there (`relay.rs`) once that transaction is committed. An event that nobody handles is dropped here,
//! and counted.

use crate::application::{Application, event_name};
use crate::capability::State;
use crate::data::SqlError;
use crate::data::outbox::{self, Event};
use crate::failpoint;
use crate::module::Contract;
use crate::types::{Function, Type};
use crate::values;
use cleave_config::ModuleName;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;
use wasmtime::component::{Linker, Val};

/// The longest key that is kept as it is, in bytes.
const KEY_BYTES_MAX: usize = 200;

/// Wakes the relay from a publisher to a subscriber.
pub type Wakes = HashMap<(ModuleName, ModuleName), Arc<Notify>>;

/// One event that a module may publish.
struct Publication {
    function: Arc<Function>,
    /// The event's name.
    name: String,
    /// Who handles it, and what wakes the relay to them.
    subscribers: Vec<(String, Arc<Notify>)>,
    payload_max: usize,
    stored_max: usize,
    dropped: Arc<AtomicU64>,
}

/// What the publishers of a node share.
pub struct Publishing<'a> {
    pub application: &'a Application,
    pub wakes: &'a Wakes,
    /// The most bytes that an event may take, encoded or as JSON.
    pub payload_max: usize,
    /// The most bytes that it may take as JSON, so that a database can store it and give it again.
    pub stored_max: usize,
    /// Counts the events that nobody handles.
    pub dropped: Arc<AtomicU64>,
}

impl Publishing<'_> {
    /// Ties the events of a contract that a module imports to its outbox.
    pub fn link(
        &self,
        linker: &mut Linker<State>,
        module: &ModuleName,
        import: &Contract,
    ) -> wasmtime::Result<()> {
        let mut instance = linker.instance(&import.name)?;
        for function in import.functions.values() {
            let name = event_name(import, function);
            let to = self.application.subscribers.get(&name).into_iter().flatten();
            let subscribers = to.filter_map(|subscriber| {
                let wake = self.wakes.get(&(module.clone(), subscriber.clone()))?;
                Some((subscriber.to_string(), Arc::clone(wake)))
            });
            let publication = Arc::new(Publication {
                function: Arc::clone(function),
                name,
                subscribers: subscribers.collect(),
                payload_max: self.payload_max,
                stored_max: self.stored_max,
                dropped: Arc::clone(&self.dropped),
            });
            instance.func_new_async(&function.name, move |mut store, _, arguments, results| {
                let publication = Arc::clone(&publication);
                Box::new(async move {
                    let outcome = match publication.publish(store.data_mut(), arguments).await {
                        Ok(()) => Ok(None),
                        Err(Refusal::Retry(text)) => Err(Some(error("retry", text))),
                        Err(Refusal::Reject(text)) => Err(Some(error("reject", text))),
                        Err(Refusal::Open(text)) => {
                            wasmtime::bail!("it is open whether the event was published: {text}")
                        }
                    };
                    if let [slot] = results {
                        *slot = Val::Result(outcome);
                    }
                    Ok(())
                })
            })?;
        }
        Ok(())
    }
}

/// Why an event was not published.
enum Refusal {
    Retry(String),
    Reject(String),
    /// It may have been: neither answer would be true.
    Open(String),
}

impl Refusal {
    /// What an error before a commit means: nothing of the event stands.
    fn of(error: SqlError) -> Self {
        match error {
            SqlError::TooLarge(text) => Self::Reject(format!("the event is too large to be kept: {text}")),
            error => Self::Retry(error.to_string()),
        }
    }
}

fn error(case: &str, text: String) -> Box<Val> {
    Box::new(Val::Variant(case.to_owned(), Some(Box::new(Val::String(text)))))
}

impl Publication {
    async fn publish(&self, state: &mut State, arguments: &[Val]) -> Result<(), Refusal> {
        let event = self.event(state, arguments)?;
        if self.subscribers.is_empty() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(module = state.shared.module, event = self.name, "nobody handles the event");
            return Ok(());
        }
        let deadline = state.call.deadline.instant();
        let Some(database) = &state.shared.database else {
            return Err(Refusal::Retry("the module has no database".to_owned()));
        };
        let enlisted = state.writes.enlist(database, &event, &self.subscribers, deadline).await;
        if enlisted.map_err(Refusal::of)? {
            failpoint::reach("publish.enlisted");
            return Ok(());
        }
        let mut transaction = state.writes.begin_alone(database, deadline).await.map_err(Refusal::of)?;
        let names = self.subscribers.iter().map(|(name, _)| name.as_str());
        outbox::put(&mut transaction, &event, names).await.map_err(Refusal::of)?;
        failpoint::reach("publish.enlisted");
        match transaction.commit().await {
            Ok(()) => {}
            Err(SqlError::Unavailable(text)) => return Err(Refusal::Open(text)),
            Err(error) => return Err(Refusal::of(error)),
        }
        failpoint::reach("publish.committed");
        self.subscribers.iter().for_each(|(_, relay)| relay.notify_one());
        Ok(())
    }

    fn event(&self, state: &State, arguments: &[Val]) -> Result<Event, Refusal> {
        let parameters = &self.function.parameters;
        let typed = parameters.iter().map(|p| &p.ty).zip(arguments);
        let limit = self.payload_max;
        let too_large =
            |how| format!("the event takes more than the {limit} bytes of `calls.payload_max`{how}");
        if values::encoded_size(typed, limit).is_none() {
            return Err(Refusal::Reject(too_large("")));
        }
        let payload =
            values::parameters_to_json(parameters, arguments).map_err(|e| Refusal::Reject(e.to_string()))?;
        // Why also of what stays in the process: it would have to be smaller when the program is cut.
        if payload.len() > limit {
            return Err(Refusal::Reject(too_large(" as JSON")));
        }
        if payload.len() > self.stored_max {
            let limit = self.stored_max;
            return Err(Refusal::Reject(format!(
                "the event takes more than {limit} bytes as JSON, which `data.value_max` and `data.result_max` allow"
            )));
        }
        let key = key(&self.function, arguments)
            .ok_or_else(|| Refusal::Reject("the event's key cannot be read".to_owned()))?;
        Ok(Event {
            id: uuid::Uuid::now_v7().to_string(),
            function: self.name.clone(),
            key,
            payload,
            published_at: state.shared.clock.now(),
            trace: format!("{:032x}", state.call.trace),
        })
    }
}

/// The key of an event as text. A long one is its digest, and so is one that no database can keep.
fn key(function: &Function, arguments: &[Val]) -> Option<String> {
    let place = function.key?;
    let (ty, value): (&Type, &Val) = match (place.field, arguments.get(place.parameter)?) {
        (None, value) => (&function.parameters.get(place.parameter)?.ty, value),
        (Some(field), Val::Record(values)) => match &function.parameters.get(place.parameter)?.ty {
            Type::Record(fields) => (&fields.get(field)?.ty, &values.get(field)?.1),
            _ => return None,
        },
        _ => return None,
    };
    let text = match value {
        Val::String(text) => text.clone(),
        value => String::from_utf8(values::to_json(ty, value).ok()?).ok()?,
    };
    if text.len() <= KEY_BYTES_MAX && !text.contains('\0') {
        return Some(text);
    }
    let digest = Sha256::digest(text.as_bytes());
    Some(digest.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Field, KeyPlace, Name};

    fn function(types: Vec<(&str, Type)>) -> Function {
        let parameters: Vec<_> =
            types.into_iter().map(|(name, ty)| Field { name: Name::new(name), ty }).collect();
        let key = KeyPlace::find(&parameters);
        Function { key, ..Function::new("test:letters/events", "letter", parameters, None, None) }
    }

    fn record(fields: Vec<(&str, Type)>) -> Type {
        Type::Record(fields.into_iter().map(|(name, ty)| Field { name: Name::new(name), ty }).collect())
    }

    #[test]
    fn key_is_the_first_scalar_parameter_before_any_field() {
        let f = function(vec![("order", record(vec![("id", Type::U32)])), ("to", Type::String)]);
        let arguments = [Val::Record(vec![("id".into(), Val::U32(7))]), Val::String("ada".into())];
        assert_eq!(key(&f, &arguments).as_deref(), Some("ada"));
    }

    #[test]
    fn key_is_else_the_first_scalar_field_of_the_first_record() {
        let lines = Type::List(Arc::new(Type::U8));
        let order = record(vec![("lines", lines), ("id", Type::U32), ("name", Type::String)]);
        let f = function(vec![("order", order)]);
        let fields = vec![
            ("lines".into(), Val::List(vec![])),
            ("id".into(), Val::U32(7)),
            ("name".into(), Val::String("x".into())),
        ];
        assert_eq!(key(&f, &[Val::Record(fields)]).as_deref(), Some("7"));
        assert_eq!(
            KeyPlace::find(&function(vec![("lines", Type::Option(Arc::new(Type::U8)))]).parameters),
            None
        );
    }

    #[test]
    fn key_that_is_long_or_cannot_be_kept_is_a_digest() {
        let f = function(vec![("to", Type::String)]);
        let of = |text: &str| key(&f, &[Val::String(text.to_owned())]).unwrap();
        assert_eq!(of(&"k".repeat(200)), "k".repeat(200));
        for text in ["k".repeat(201), "a\0b".to_owned()] {
            assert!(of(&text).starts_with("sha256:"), "{}", of(&text));
        }
        assert_ne!(of(&"k".repeat(201)), of(&"k".repeat(202)));
    }
}
