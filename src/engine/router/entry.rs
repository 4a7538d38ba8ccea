//! What the router keeps of a plugin: its live sessions, what they offer, how the last ones ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::presence::{PluginExit, Presence};
use crate::id::{ChannelName, MethodName, PluginId, SessionId};
use crate::limit;
use crate::wire::body::{self, Role};

/// One plugin id and what is known of it, also while it has no session.
#[derive(Debug)]
pub(super) struct PluginEntry {
    pub(super) incarnation: u64,
    /// Its live sessions, the oldest first. A plugin that nobody supervises has one at most.
    pub(super) instances: Vec<Instance>,
    pub(super) role: Role,
    /// What was heard of it last.
    pub(super) state: State,
    /// The broker made the id up; it is forgotten with the session.
    pub(super) ephemeral: bool,
    pub(super) presence: Presence,
    /// How long calls of it are held.
    pub(super) hold: Duration,
    /// Its supervisor has been told that somebody wants it, since it fell asleep.
    pub(super) wanted: bool,
    /// What the last session served, while there is none.
    pub(super) last: Registration,
    pub(super) metrics: serde_json::Map<String, serde_json::Value>,
    /// How its last sessions ended, the oldest first.
    pub(super) ends: VecDeque<SessionEnd>,
}

/// One live session of a plugin.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) session: SessionId,
    /// Its number among those of the plugin.
    pub(super) number: u32,
    pub(super) duty: Duty,
    pub(super) state: State,
    /// It has registered, and has said that it is ready.
    pub(super) registered: bool,
    pub(super) was_ready: bool,
    pub(super) serves: Registration,
    /// It was told to finish, so that its end is no crash.
    pub(super) told_to_stop: bool,
    /// Its supervisor stops it, so that new calls wait for what follows.
    pub(super) is_ending: bool,
    /// How its process has ended, where that is known before the connection has ended.
    pub(super) exit: Option<PluginExit>,
}

/// What an instance is there for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Duty {
    /// It has its share of what comes.
    Serving,
    /// It is to take the place of the instance with this number, and waits for the switch.
    Replacing(u32),
    /// It finishes what it has and gets nothing new.
    Retiring,
}

/// What a session offers.
#[derive(Clone, Debug, Default)]
pub(super) struct Registration {
    pub(super) methods: BTreeMap<MethodName, body::Method>,
    pub(super) channels: BTreeMap<ChannelName, Option<String>>,
    pub(super) services: BTreeSet<PluginId>,
}

impl PluginEntry {
    pub(super) fn new(ephemeral: bool) -> Self {
        Self {
            incarnation: 0,
            instances: Vec::new(),
            role: Role::default(),
            state: State::Left,
            ephemeral,
            presence: Presence::Unmanaged,
            hold: limit::RESTART_HOLD,
            wanted: false,
            last: Registration::default(),
            metrics: serde_json::Map::new(),
            ends: VecDeque::new(),
        }
    }

    /// Lets those serve that were to replace an instance that has gone: no switch will come from
    /// it any more. Gives their sessions.
    pub(super) fn inherit(&mut self, number: u32) -> Vec<SessionId> {
        if self.serving().any(|instance| instance.number == number) {
            return Vec::new();
        }
        let heirs = self
            .instances
            .iter_mut()
            .filter(|instance| instance.duty == Duty::Replacing(number) && !instance.told_to_stop);
        heirs
            .map(|heir| {
                heir.duty = Duty::Serving;
                heir.session
            })
            .collect()
    }

    pub(super) fn is_live(&self) -> bool {
        !self.instances.is_empty()
    }

    pub(super) fn instance(&self, session: SessionId) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.session == session)
    }

    pub(super) fn instance_mut(&mut self, session: SessionId) -> Option<&mut Instance> {
        self.instances.iter_mut().find(|instance| instance.session == session)
    }

    /// Instances that have a share of what comes.
    pub(super) fn serving(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|instance| instance.duty == Duty::Serving)
    }

    /// Instances that calls may be given to. One that is supervised has to be ready and to stay: it
    /// is worth waiting for.
    pub(super) fn callable(&self) -> impl Iterator<Item = &Instance> {
        let waits = self.presence.is_managed();
        self.serving().filter(move |instance| {
            instance.registered && (!waits || instance.was_ready && !instance.is_ending)
        })
    }

    /// What it offers: the first of its instances, or the last session that it had.
    pub(super) fn offers(&self) -> &Registration {
        let mut serving = self.serving().filter(|instance| instance.registered);
        serving.next().map_or(&self.last, |instance| &instance.serves)
    }

    pub(super) fn note_end(&mut self, end: SessionEnd) {
        if self.ends.len() >= Self::ENDS_MAX {
            self.ends.pop_front();
        }
        self.ends.push_back(end);
    }

    /// The session that stands for the plugin where one has to.
    pub(super) fn session(&self) -> Option<SessionId> {
        self.serving().chain(&self.instances).next().map(|instance| instance.session)
    }

    /// Ends that are remembered: what a quarantine tells of, and what came in between.
    const ENDS_MAX: usize = 16;
}

/// What a plugin is doing, as far as it has said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    Connected,
    Ready,
    Busy,
    Sleeping,
    Failed,
    Left,
    Died,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Sleeping => "sleeping",
            Self::Failed => "failed",
            Self::Left => "left",
            Self::Died => "died",
        }
    }

    pub(super) fn from_signal(name: &str) -> Option<Self> {
        [Self::Ready, Self::Busy, Self::Sleeping, Self::Failed]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

/// How a session of a plugin ended.
#[derive(Clone, Debug)]
pub(super) struct SessionEnd {
    pub(super) session: SessionId,
    pub(super) instance: u32,
    pub(super) incarnation: u64,
    /// How its process ended, or as long as that is not known why the session did.
    pub(super) text: String,
    /// `text` is about the process.
    pub(super) is_exit: bool,
}
