//! Owns what this node says of itself to the others, and what it hears of them.

use super::{Bus, SEND_PATIENCE};
use crate::members::{Heartbeat, News, State};
use async_nats::Subscriber;
use bytes::Bytes;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long another process of this node has to say that it is there.
const TWIN_PATIENCE: Duration = Duration::from_secs(1);
/// The shortest time between two heartbeats.
const BEAT_MIN: Duration = Duration::from_millis(20);
/// How often in the time of `silent_after` it is found out who is silent.
const JUDGED: u32 = 8;

impl Bus {
    /// Another process that keeps the data of this node and was there first, once it is heard of.
    #[must_use]
    pub fn twin(&self) -> watch::Receiver<Option<String>> {
        self.twin.subscribe()
    }

    /// Asks for a process that keeps the data of this node: its name. One that does not answer in time is taken to be none.
    pub async fn find_twin(&self) -> Option<String> {
        let asked = self.client.request(self.subjects.node(&self.settings.own.node), Bytes::new());
        let answer = tokio::time::timeout(TWIN_PATIENCE, asked).await.ok()?.ok()?;
        Some(String::from_utf8_lossy(&answer.payload).chars().take(64).collect())
    }

    /// Says that this node takes only those calls that nobody else can take. Its own work may need them.
    pub fn drain(&self) {
        self.say(State::Draining, &[State::Starting, State::Up]);
    }

    /// Says that this node takes no more calls, and takes none when everybody has heard it. It goes on answering those it
    /// has, and calling others.
    pub fn stop_taking(&self) {
        self.say(State::Leaving, &[State::Starting, State::Up, State::Draining]);
        self.taking.cancel();
    }

    /// Tells everybody of a new state, if the one before is one of these.
    pub(super) fn say(&self, state: State, before: &[State]) {
        let mut now = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if before.contains(&now) {
            *now = state;
            drop(now);
            self.members.note(self.heartbeat(), Instant::now());
            self.beat.notify_one();
        }
    }

    pub(super) async fn take_heartbeats(self: Arc<Self>, mut heartbeats: Subscriber) {
        while let Some(message) = self.next(&mut heartbeats).await {
            let Some(said) = Heartbeat::read(&message.payload) else {
                self.drop_one();
                continue;
            };
            let twin = self.settings.own.is_shut_out_by(&said).then(|| said.replica.clone());
            match self.members.hear(said, Instant::now()) {
                Some(News::None) => {}
                // Whoever is new does not know us yet.
                Some(News::Newcomer) => self.beat.notify_one(),
                Some(News::Change) => self.change.notify_one(),
                None => self.drop_one(),
            }
            if twin.is_some() {
                self.twin.send_replace(twin);
            }
        }
    }

    /// Finds out what follows from what others say, or no longer say, at most every [`BEAT_MIN`]: they may be many.
    pub(super) async fn judge_members(self: Arc<Self>) {
        let mut ticks = tokio::time::interval((self.settings.silent_after / JUDGED).max(BEAT_MIN));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.change.notified() => {}
                () = self.closing.cancelled() => return,
            }
            self.members.judge(Instant::now());
            tokio::time::sleep(BEAT_MIN).await;
        }
    }

    pub(super) async fn say_alive(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.settings.heartbeat);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.beat.notified() => {}
                () = self.closing.cancelled() => return,
            }
            self.members.note(self.heartbeat(), Instant::now());
            if self.is_up() {
                let _ = tokio::time::timeout(SEND_PATIENCE, self.publish_heartbeat()).await;
                tokio::time::sleep(BEAT_MIN).await;
            }
        }
    }

    pub(super) async fn publish_heartbeat(&self) {
        // Plain data, which has no reason not to be JSON; a beat that fails is followed by another.
        let Ok(json) = serde_json::to_vec(&self.heartbeat()) else { return };
        if let Err(error) = self.client.publish(self.subjects.members(), json.into()).await {
            tracing::warn!("the heartbeat was not sent: {error}");
        }
    }
}
