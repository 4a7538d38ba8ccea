//! What a supervisor tells the router of its plugins, and what callers are told while one is away.

use std::time::Duration;

use super::Router;
use super::entry::{PluginEntry, SessionEnd};
use crate::engine::effects::{Effects, Now};
use crate::engine::port::Route;
use crate::error::{Code, Fault};
use crate::id::PluginId;

/// What a supervisor says of a plugin.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Presence {
    /// Nobody supervises it: while it has no session, calls of it are refused.
    #[default]
    Unmanaged,
    /// Its supervisor keeps it running. While it is not ready, calls of it are held.
    Managed {
        /// When it will be started, where that is not now; counted like [`Now::mono`].
        back_at: Option<Duration>,
    },
    /// It is started when somebody wants it. Calls of it are held, and wake it.
    Sleeping,
    /// It is not started for the time being: calls of it are refused at once.
    Down {
        /// The supervisor's word for it: `stopped`, `failed`, `quarantined` …
        state: String,
        /// Why, for people.
        reason: String,
        /// When it will be tried again, if ever; counted like [`Now::mono`].
        back_at: Option<Duration>,
    },
}

impl Presence {
    /// Whether somebody supervises the plugin. Its id is kept for it then.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        *self != Self::Unmanaged
    }

    /// Whether it is worth waiting for the plugin.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        matches!(self, Self::Managed { .. } | Self::Sleeping)
    }

    pub(super) fn back_at(&self) -> Option<Duration> {
        match self {
            Self::Managed { back_at } | Self::Down { back_at, .. } => *back_at,
            Self::Unmanaged | Self::Sleeping => None,
        }
    }
}

/// How the process of a plugin has ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PluginExit {
    /// For people: `killed by signal 11 (SIGSEGV), core dumped`.
    pub text: String,
    /// When it will be started again, where that is known; counted like [`Now::mono`].
    pub back_at: Option<Duration>,
}

/// For whom the host has made a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attachment {
    /// The only id that is let in.
    pub plugin: PluginId,
    /// Its number among the instances of the plugin. A session that still has it makes room.
    pub instance: u32,
    /// The instance that it is to take the place of. Until [`Router::handle_switch`] it serves
    /// nothing.
    pub replaces: Option<u32>,
}

/// The only instance of a plugin.
impl From<PluginId> for Attachment {
    fn from(plugin: PluginId) -> Self {
        Self { plugin, instance: 0, replaces: None }
    }
}

/// What to do with a call that nobody can take now.
#[derive(Clone, Debug)]
pub(crate) struct Absence {
    /// What the caller is told, at once or when the wait was in vain.
    fault: Fault,
    back_at: Option<Duration>,
    /// How long it may wait.
    hold: Option<Duration>,
    /// Nothing of it is running: somebody has to be told that it is wanted.
    pub(crate) sleeps: bool,
}

impl Absence {
    pub(crate) fn new(fault: Fault) -> Self {
        Self { fault, back_at: None, hold: None, sleeps: false }
    }

    /// What a caller is told now.
    pub(crate) fn fault(&self, now: Now) -> Fault {
        with_return(self.fault.clone(), self.back_at, now)
    }

    /// Until when a call waits; `None` when waiting is in vain.
    pub(crate) fn hold_until(&self, now: Now) -> Option<Duration> {
        let until = now.mono + self.hold?;
        self.back_at.is_none_or(|at| at <= until).then_some(until)
    }
}

impl Router {
    /// Takes the word of a plugin's supervisor, who gives it before the first start and with each
    /// change.
    pub fn set_presence(
        &mut self,
        plugin: &PluginId,
        presence: Presence,
        now: Now,
        fx: &mut Effects,
    ) {
        self.remember_always(plugin);
        let entry = self.plugins.get_mut(plugin).expect("it was remembered just now");
        if entry.presence == presence {
            return;
        }
        entry.presence = presence;
        entry.wanted = false;
        self.refresh_plugin(plugin, now, fx);
        if self.is_waited_for(plugin) {
            self.want(plugin, fx);
        }
        self.forget_client(plugin);
        fx.finish();
    }

    /// How long calls of a plugin are held while it is awaited; 2 s unless this was called.
    pub fn set_hold(&mut self, plugin: &PluginId, hold: Duration, now: Now, fx: &mut Effects) {
        self.remember_always(plugin);
        self.plugins.get_mut(plugin).expect("it was remembered just now").hold = hold;
        self.refresh_plugin(plugin, now, fx);
        fx.finish();
    }

    /// Takes note of how the process of an instance has ended; before or after the end of its
    /// session. Callers whose calls it had are told so.
    pub fn handle_plugin_exit(
        &mut self,
        plugin: &PluginId,
        instance: u32,
        exit: PluginExit,
        now: Now,
        fx: &mut Effects,
    ) {
        self.remember_always(plugin);
        let entry = self.plugins.get_mut(plugin).expect("it was remembered just now");
        let live = entry.instances.iter_mut().find(|known| known.number == instance);
        if let Some(live) = live {
            live.exit = Some(exit);
            return;
        }
        let last = entry.ends.iter_mut().rfind(|end| end.instance == instance && !end.is_exit);
        match last {
            Some(end) => {
                end.text.clone_from(&exit.text);
                end.is_exit = true;
                let session = end.session;
                self.end_waiting_calls(session, Some(&exit), now, fx);
                self.publish_quarantined(plugin, now, fx);
            }
            // It never had a session.
            None => entry.note_end(SessionEnd {
                session: crate::id::SessionId::BROKER,
                instance,
                incarnation: entry.incarnation,
                text: exit.text,
                is_exit: true,
            }),
        }
        self.refresh_plugin(plugin, now, fx);
        fx.finish();
    }

    /// Tells the supervisor of a plugin that sleeps that somebody wants it, once.
    pub(super) fn want(&mut self, plugin: &PluginId, fx: &mut Effects) {
        let serving = self.plugins.iter_mut().filter(|(id, entry)| {
            *id == plugin || (!entry.is_live() && entry.last.services.contains(plugin))
        });
        for (id, entry) in serving {
            if entry.presence == Presence::Sleeping && !entry.wanted {
                entry.wanted = true;
                fx.want(id);
            }
        }
    }

    /// What to say of a plugin that cannot be reached.
    pub(super) fn absent_plugin(&self, plugin: &PluginId, now: Now) -> Fault {
        match self.plugins.get(plugin) {
            Some(entry) => with_return(absent(plugin, entry), entry.presence.back_at(), now),
            None => self.unknown_plugin(plugin),
        }
    }

    /// What to do with calls of `target` while nobody can take them, where at least one plugin is
    /// known to serve it.
    pub(super) fn absence<'a>(
        &self,
        target: &PluginId,
        serving: impl Iterator<Item = (&'a PluginId, &'a PluginEntry)>,
    ) -> Absence {
        let mut absence =
            Absence::new(Fault::new(Code::Offline, format!("nobody serves `{target}` now")));
        for (id, entry) in serving {
            if id == target {
                absence.fault = absent(id, entry);
            }
            let presence = &entry.presence;
            if presence.is_awaited() {
                let earlier = absence.hold.is_none() || presence.back_at().is_none();
                absence.back_at = if earlier { presence.back_at() } else { absence.back_at };
                absence.hold = Some(absence.hold.map_or(entry.hold, |hold| hold.max(entry.hold)));
                absence.sleeps |= *presence == Presence::Sleeping;
            } else if absence.hold.is_none() {
                absence.back_at = presence.back_at();
            }
        }
        absence
    }

    /// Whether messages or calls wait for a plugin.
    fn is_waited_for(&self, plugin: &PluginId) -> bool {
        let channels = self.channels_to.get(plugin).into_iter().flatten();
        let methods = self.methods_to.get(plugin).into_iter().flatten();
        channels.chain(methods).any(|&number| match self.route(number) {
            Some(Route::Channel(channel)) => channel.pending().0 > 0,
            Some(Route::Method(method)) => method.has_held(),
            _ => false,
        })
    }
}

fn absent(plugin: &PluginId, entry: &PluginEntry) -> Fault {
    let last = entry.ends.back().filter(|_| !entry.is_live()).map(|end| end.text.as_str());
    let ended = last.map_or_else(String::new, |text| format!("; it ended: {text}"));
    let (state, message) = match &entry.presence {
        Presence::Unmanaged if entry.is_live() => {
            (entry.state.name(), format!("the session of `{plugin}` is ending"))
        }
        Presence::Unmanaged => {
            let state = entry.state.name();
            (state, format!("`{plugin}` has no session; it {state}"))
        }
        Presence::Managed { back_at: None } => {
            ("starting", format!("`{plugin}` is not ready{ended}"))
        }
        Presence::Managed { back_at: Some(_) } => {
            ("backing-off", format!("`{plugin}` is to be started again{ended}"))
        }
        Presence::Sleeping => ("sleeping", format!("`{plugin}` sleeps and was not awake in time")),
        Presence::Down { state, reason, .. } => {
            (state.as_str(), format!("`{plugin}` is {state}: {reason}"))
        }
    };
    let fault = Fault::new(Code::Offline, message)
        .with("plugin", plugin.as_str())
        .with("incarnation", entry.incarnation)
        .with("state", state);
    match last {
        Some(text) => fault.with("exit", text),
        None => fault,
    }
}

/// Says when a plugin will be back, where that is known.
pub(crate) fn with_return(fault: Fault, back_at: Option<Duration>, now: Now) -> Fault {
    match back_at {
        Some(at) => {
            let wait = at.saturating_sub(now.mono).as_millis();
            fault.with("retry_after_ms", u64::try_from(wait).unwrap_or(u64::MAX))
        }
        None => fault,
    }
}
