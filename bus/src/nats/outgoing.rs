//! Owns calls that go out, and the answers that come back.

use super::Bus;
use crate::envelope::{EnvelopeError, Reply};
use crate::failure::CallError;
use crate::members::Pick;
use async_nats::{Message, StatusCode, Subscriber};
use bytes::Bytes;
use dashmap::DashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::oneshot;

/// Who waits for the answer to each call.
pub(super) type Pending = DashMap<u128, oneshot::Sender<Result<Bytes, CallError>>>;

impl Bus {
    /// Sends a call to a replica that holds the module, and waits for the answer until `until`.
    ///
    /// # Errors
    /// [`CallError::Refused`] and [`CallError::TurnedAway`] if it did not run, [`CallError::AnswerLost`] if it may have.
    pub async fn call(
        &self,
        module: &str,
        (track, function): (&str, &str),
        call: u128,
        request: Vec<u8>,
        until: Instant,
    ) -> Result<Bytes, CallError> {
        // Why first: of others, a node hears nothing while the bus is away.
        if !self.is_up() {
            return Err(CallError::Refused { reason: self.away() });
        }
        let pick = self.members.pick(module);
        let subject = match &pick {
            Pick::Any => self.subjects.call(track, function),
            Pick::At(replica) => self.subjects.at(replica, track, function),
            Pick::Nobody { node, silent } => {
                let silent_after = self.settings.silent_after;
                let why = match silent {
                    true => format!("has not been heard of for {silent_after:?} (`bus.silent_after`)"),
                    false => "is stopping".to_owned(),
                };
                let reason = format!("node `{node}`, which holds `{module}`, {why}");
                return Err(CallError::Refused { reason });
            }
        };
        let answer = self.exchange(function, subject, call, request, until).await;
        if let (Pick::At(replica), Err(CallError::TurnedAway { .. })) = (&pick, &answer) {
            self.members.forget(replica, Instant::now());
        }
        answer
    }

    async fn exchange(
        &self,
        function: &str,
        subject: String,
        call: u128,
        request: Vec<u8>,
        until: Instant,
    ) -> Result<Bytes, CallError> {
        let began = Instant::now();
        let refused = |reason: String| CallError::Refused { reason };
        let Ok(_place) = self.places.try_acquire() else {
            let max = self.settings.pending_max;
            return Err(refused(format!(
                "{max} calls wait for answers over the bus, as many as `bus.pending_max` allows"
            )));
        };
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting::enter(&self.pending, call, answer);
        if !self.is_up() {
            return Err(refused(self.away()));
        }
        let reply = self.subjects.reply(self.replica(), call);
        let handing = self.client.publish_with_reply(subject, reply, request.into());
        // Given up, it is not handed over: the client's queue takes a message whole or not at all.
        match tokio::time::timeout_at(until.into(), handing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(refused(format!("the call cannot be sent over the bus: {error}"))),
            Err(_elapsed) => {
                return Err(refused("the bus took nothing until the deadline passed".to_owned()));
            }
        }
        self.counts.sent.fetch_add(1, Ordering::Relaxed);
        let outcome = tokio::time::timeout_at(until.into(), answered).await;
        drop(waiting);
        match outcome {
            Ok(Ok(outcome)) => outcome,
            // Nobody drops the sender of a call that waits.
            Ok(Err(_)) | Err(_) => Err(CallError::TimedOut {
                function: function.to_owned(),
                limit: until.saturating_duration_since(began),
            }),
        }
    }

    pub(super) fn lose_pending(&self, reason: &str) {
        let calls: Vec<u128> = self.pending.iter().map(|entry| *entry.key()).collect();
        for call in calls {
            if let Some((_, answer)) = self.pending.remove(&call) {
                // A caller that has given up wants no answer.
                let _ = answer.send(Err(CallError::AnswerLost { reason: reason.to_owned() }));
            }
        }
    }

    pub(super) async fn take_replies(self: Arc<Self>, mut replies: Subscriber) {
        while let Some(message) = self.next(&mut replies).await {
            let call = self.subjects.replied(self.replica(), &message.subject);
            // Why: what cannot be an answer leaves the call waiting for the one that can.
            let answer = outcome(message).and_then(|outcome| Some((self.pending.remove(&call?)?.1, outcome)));
            match answer {
                Some((answer, outcome)) => drop(answer.send(outcome)),
                None => self.drop_one(),
            }
        }
    }
}

/// A call's place among those that wait for answers.
pub(super) struct Waiting<'a> {
    pending: &'a Pending,
    call: u128,
}

impl<'a> Waiting<'a> {
    pub(super) fn enter(
        pending: &'a Pending,
        call: u128,
        answer: oneshot::Sender<Result<Bytes, CallError>>,
    ) -> Self {
        pending.insert(call, answer);
        Self { pending, call }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pending.remove(&self.call);
    }
}

/// What a message says of the call whose answer it is; none if it can be no answer.
fn outcome(message: Message) -> Option<Result<Bytes, CallError>> {
    match message.status {
        Some(StatusCode::NO_RESPONDERS) => Some(Err(CallError::TurnedAway {
            reason: "nobody on the bus serves it now: the node that holds it is not there".to_owned(),
        })),
        Some(_) => None,
        None => match Reply::decode(&message.payload) {
            Ok(_) => Some(Ok(message.payload)),
            Err(error @ EnvelopeError::Version { .. }) => {
                Some(Err(CallError::AnswerLost { reason: format!("the answer cannot be read: {error}") }))
            }
            Err(_) => None,
        },
    }
}
