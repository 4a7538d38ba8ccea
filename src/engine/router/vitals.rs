//! What a supervisor has to know of the sessions of its plugins to judge their health.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Router;
use super::entry::State;
use crate::engine::effects::{Effects, Now};
use crate::id::{PluginId, SessionId};

/// Signs of life of one session.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Vitals {
    /// Whose session it is.
    pub plugin: PluginId,
    /// Its number among the instances of the plugin.
    pub instance: u32,
    /// Whether it has registered, and has said that it is ready.
    pub is_ready: bool,
    /// Whether it says that it has its hands full.
    pub is_busy: bool,
    /// How long a ping has been without an answer.
    pub unanswered_ping: Option<Duration>,
    /// Age of the oldest call that it has not answered.
    pub oldest_unanswered: Option<Duration>,
    /// Requests, messages and events that were ever meant for it.
    pub messages: u64,
}

impl Router {
    /// Pings those sessions of supervised plugins whose last ping is answered.
    pub fn ping_supervised(&self, now: Now, fx: &mut Effects) {
        for entry in self.plugins.values().filter(|entry| entry.presence.is_managed()) {
            for known in &entry.instances {
                if let Some(session) = self.sessions.get(&known.session) {
                    session.port.ping(now, fx);
                }
            }
        }
    }

    /// Signs of life of every plugin's sessions.
    #[must_use]
    pub fn vitals(&self, now: Now) -> Vec<Vitals> {
        let mut oldest: BTreeMap<SessionId, Duration> = BTreeMap::new();
        for port in self.ports() {
            for (_, call) in port.calls.lock().iter() {
                let Some(callee) = &call.callee else { continue };
                let age = now.mono.saturating_sub(call.accepted_at);
                let known = oldest.entry(callee.session).or_default();
                *known = age.max(*known);
            }
        }
        let mut vitals = Vec::new();
        for (plugin, entry) in &self.plugins {
            for known in &entry.instances {
                let Some(session) = self.sessions.get(&known.session) else { continue };
                vitals.push(Vitals {
                    plugin: plugin.clone(),
                    instance: known.number,
                    is_ready: known.registered && known.was_ready,
                    is_busy: known.state == State::Busy,
                    unanswered_ping: session.port.unanswered_ping(now),
                    oldest_unanswered: oldest.get(&known.session).copied(),
                    messages: session.port.outbox.lock().work_queued(),
                });
            }
        }
        vitals
    }
}
