//! What the router keeps when its actor fails: the engine, and what it was about to do.
//!
//! After a panic the actor is made again around the same engine, if that passes its audit: then one
//! change is lost, and whoever asked for it is told. Otherwise the engine is replaced by an empty
//! one and every session is ended, so that the plugins come back to a broker that knows them.
//!
//! Invariant: what is begun is noted before the engine is called, and struck out after.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};

use crate::engine::{self, Change, Effects, Port, Presence, RouterSettings};
use crate::error::{Code, Fault};
use crate::id::{PluginId, RouteId, SessionId};
use crate::net::uptime;

/// Where the state lies between two incarnations of the actor.
pub(super) type Shelf = Arc<Mutex<Kept>>;

/// The state, in the hands of the one incarnation that lives.
pub(super) type Taken = OwnedMutexGuard<Kept>;

/// Survives the actor.
pub(super) struct Kept {
    pub(super) engine: engine::Router,
    settings: RouterSettings,
    /// Supervisors that want to know who has to be woken.
    pub(super) wakers: Vec<mpsc::Sender<PluginId>>,
    /// What the host has said of its plugins, which does not depend on who is there.
    words: BTreeMap<PluginId, Words>,
    /// How often everything was lost.
    losses: u64,
    /// Sessions that know that they were let in.
    pub(super) admitted: BTreeSet<SessionId>,
    /// Asked for, and not decided.
    changes: VecDeque<Change>,
    begun: Option<Begun>,
}

/// The host's last words on one plugin.
#[derive(Clone, Default)]
struct Words {
    presence: Presence,
    hold: Option<Duration>,
}

/// What the engine was called for when the actor failed.
enum Begun {
    Admission,
    /// A change: whose, and under which number the answer goes back.
    Change(Arc<Port>, u64),
    /// A change that nobody waits for.
    Chore,
    End(SessionId, String),
}

impl Kept {
    pub(super) fn new(settings: RouterSettings) -> Self {
        Self {
            engine: engine::Router::new(settings.clone(), uptime::now()),
            settings,
            wakers: Vec::new(),
            words: BTreeMap::new(),
            losses: 0,
            admitted: BTreeSet::new(),
            changes: VecDeque::new(),
            begun: None,
        }
    }

    /// Puts the state where an actor can take it.
    pub(super) fn shelve(self) -> Shelf {
        Arc::new(Mutex::new(self))
    }

    /// Decides what is asked for, one after the other.
    pub(super) fn apply(&mut self, changes: impl IntoIterator<Item = Change>, fx: &mut Effects) {
        self.changes.extend(changes);
        let now = uptime::now();
        while let Some(change) = self.changes.pop_front() {
            self.begun = Some(match &change {
                Change::Asked { port, message_id, .. } => {
                    Begun::Change(Arc::clone(port), *message_id)
                }
                Change::ChannelDrained(_) | Change::Wanted(_) => Begun::Chore,
            });
            self.engine.handle_change(change, now, fx);
            self.begun = None;
        }
    }

    pub(super) fn set_presence(&mut self, plugin: &PluginId, presence: Presence, fx: &mut Effects) {
        if presence.is_managed() {
            self.words.entry(plugin.clone()).or_default().presence = presence.clone();
        } else {
            self.words.remove(plugin);
        }
        self.engine.set_presence(plugin, presence, uptime::now(), fx);
    }

    pub(super) fn set_hold(&mut self, plugin: &PluginId, hold: Duration, fx: &mut Effects) {
        self.words.entry(plugin.clone()).or_default().hold = Some(hold);
        self.engine.set_hold(plugin, hold, uptime::now(), fx);
    }

    pub(super) fn begin_admission(&mut self) {
        self.begun = Some(Begun::Admission);
    }

    /// The session will know that it was let in, or that it was not.
    pub(super) fn end_admission(&mut self, admitted: Option<SessionId>) {
        self.admitted.extend(admitted);
        self.begun = None;
    }

    pub(super) fn end_session(&mut self, session: SessionId, reason: &str, fx: &mut Effects) {
        self.begun = Some(Begun::End(session, reason.to_owned()));
        self.engine.handle_session_ended(session, reason, uptime::now(), fx);
        self.admitted.remove(&session);
        self.begun = None;
    }

    /// Goes on after a failure. Called with an engine that is sound.
    pub(super) fn resume(&mut self, fx: &mut Effects) {
        match self.begun.take() {
            Some(Begun::Change(port, message_id)) => {
                port.push_fault(RouteId::CONTROL, message_id, &failed(), uptime::now(), fx);
            }
            Some(Begun::End(session, reason)) => self.end_session(session, &reason, fx),
            Some(Begun::Admission | Begun::Chore) | None => (),
        }
        // A session that was let in and does not know it would stay for ever.
        let unaware: Vec<SessionId> = self
            .engine
            .ports()
            .map(|port| port.session)
            .filter(|session| !self.admitted.contains(session))
            .collect();
        for session in unaware {
            self.end_session(session, "the broker failed while it let the peer in", fx);
        }
        self.apply([], fx);
    }

    /// Whether the engine can be trusted after a panic.
    pub(super) fn is_sound(&self) -> bool {
        self.engine.is_sound()
    }

    /// Forgets everything that the engine knew, and ends all sessions.
    pub(super) fn start_over(&mut self) {
        self.losses += 1;
        let ports: Vec<Arc<Port>> = self.engine.ports().cloned().collect();
        // Ends of old sessions are still to come; they must not meet a new one of the same number.
        let seed = self.settings.seed.wrapping_add(self.losses);
        let settings = RouterSettings { seed, ..self.settings.clone() };
        let now = uptime::now();
        let mut fresh = engine::Router::new(settings, now);
        if self.engine.is_shutting_down() {
            fresh.handle_shutdown(Duration::ZERO, now, &mut Effects::new());
        }
        for (plugin, Words { presence, hold }) in &self.words {
            // Nobody is there who could be told.
            let mut fx = Effects::new();
            if let Some(hold) = hold {
                fresh.set_hold(plugin, *hold, now, &mut fx);
            }
            fresh.set_presence(plugin, presence.clone(), now, &mut fx);
        }
        let old = std::mem::replace(&mut self.engine, fresh);
        log::error!("the broker lost its records; {} sessions are ended", ports.len());
        for port in ports {
            actix::spawn(end_with_a_word(port));
        }
        self.admitted.clear();
        self.changes.clear();
        self.begun = None;
        // What is wrong with it may show once more when it is dropped.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(old))) {
            std::mem::forget(payload);
        }
    }
}

/// Tells a peer why its session ends, unless it does not read.
async fn end_with_a_word(port: Arc<Port>) {
    let mut fx = Effects::new();
    port.push_fault(RouteId::CONTROL, 0, &Fault::new(Code::Internal, LOST), uptime::now(), &mut fx);
    port.drain(LOST, &mut fx);
    fx.finish();
    fx.wake();
    tokio::time::sleep(WORD_TIMEOUT).await;
    port.kill_quietly(LOST);
}

/// Answers what will not be decided. Called while a panic unwinds, so it must not panic itself.
pub(super) fn refuse(changes: Vec<Change>) {
    let refused = catch_unwind(AssertUnwindSafe(|| {
        let mut fx = Effects::new();
        for change in changes {
            if let Change::Asked { port, message_id, .. } = change {
                port.push_fault(RouteId::CONTROL, message_id, &failed(), uptime::now(), &mut fx);
            }
        }
        fx.finish();
        fx.wake();
    }));
    if let Err(payload) = refused {
        std::mem::forget(payload);
    }
}

fn failed() -> Fault {
    Fault::new(Code::Internal, "the broker failed while it decided this; it was dropped")
}

const LOST: &str = "the broker failed and lost its records; connect again";

/// How long a peer may take to read why its session ends.
const WORD_TIMEOUT: Duration = Duration::from_secs(1);
