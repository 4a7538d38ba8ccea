//! The router actor: a mailbox around [`engine::Router`].
//!
//! Only changes come here (hello, register, open, subscribe, the end of a session); messages go
//! from a session's read task straight into outboxes.
//!
//! What the actor knows is [`Kept`], which outlives it: after a panic in any handler it is made
//! again around the same state.
//!
//! The file is longer than most: it lists every mail; what becomes of it is decided in the engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, watch};

use super::kept::{self, Kept, Shelf, Taken};
use crate::engine::{
    self, Attachment, Change, ChangeKind, Effects, InstanceInfo, PluginExit, Port,
    RegistrationDifference, RouterSettings, Wake,
};
use crate::error::Fault;
use crate::id::{PluginId, SessionId};
use crate::net::uptime;
use crate::supervise::{Shell, fuse};
use crate::wire::body::Hello;

/// States `running -> shutting down`, kept by the engine.
pub(super) struct Router {
    pub(super) kept: Taken,
    /// Counts what may interest those who wait: sessions, registrations, states.
    version: watch::Sender<u64>,
    rearm: Arc<Notify>,
}

impl Router {
    /// The actor as a child of the broker's tree.
    pub(super) fn shell(
        settings: RouterSettings,
        version: watch::Sender<u64>,
        rearm: Arc<Notify>,
    ) -> Shell<Self> {
        let shelf = Kept::new(settings).shelve();
        let checked = Arc::clone(&shelf);
        Shell::new(move |_| Self::take(&shelf, version.clone(), Arc::clone(&rearm)))
            .heal(move |_| checked.try_lock().is_ok_and(|kept| kept.is_sound()))
    }

    /// The next incarnation. Looks at what the last one left, unless there was none.
    fn take(shelf: &Shelf, version: watch::Sender<u64>, rearm: Arc<Notify>) -> Self {
        let kept = Arc::clone(shelf).try_lock_owned();
        let mut kept = kept.expect("an incarnation gives back what it took before the next one");
        if !kept.is_sound() {
            kept.start_over();
        }
        Self { kept, version, rearm }
    }

    /// Ends a batch: every handler ends with this call.
    fn finish(&mut self, mut fx: Effects) {
        fuse::burn();
        loop {
            fx.finish();
            let changes = fx.take_changes();
            if changes.is_empty() {
                break;
            }
            self.kept.apply(changes, &mut fx);
        }
        if fx.take_deadline_moved() {
            self.rearm.notify_one();
        }
        for plugin in fx.take_wanted() {
            self.kept.wakers.retain(|waker| match waker.try_send(plugin.clone()) {
                Ok(()) => true,
                Err(TrySendError::Closed(_)) => false,
                Err(TrySendError::Full(_)) => {
                    log::error!("nobody reads that {plugin} is wanted");
                    true
                }
            });
        }
        fx.wake();
    }

    fn announce_version(&self) {
        self.version.send_modify(|version| *version += 1);
    }
}

impl Actor for Router {
    type Context = Context<Self>;

    fn started(&mut self, _ctx: &mut Self::Context) {
        let mut fx = Effects::new();
        self.kept.resume(&mut fx);
        self.finish(fx);
        self.announce_version();
        self.rearm.notify_one();
    }
}

/// Session to router: may this peer come in?
#[derive(Message)]
#[rtype(result = "Result<Arc<Port>, Fault>")]
pub(super) struct Admit {
    pub(super) hello: Hello,
    pub(super) attachment: Option<Attachment>,
    pub(super) waker: Box<dyn Wake>,
}

impl Handler<Admit> for Router {
    type Result = Result<Arc<Port>, Fault>;

    fn handle(&mut self, mail: Admit, _ctx: &mut Self::Context) -> Self::Result {
        let mut fx = Effects::new();
        self.kept.begin_admission();
        let Admit { hello, attachment, waker } = mail;
        let now = uptime::now();
        let admitted =
            self.kept.engine.handle_hello(&hello, attachment.as_ref(), waker, now, &mut fx);
        self.finish(fx);
        self.announce_version();
        self.kept.end_admission(admitted.as_ref().ok().map(|port| port.session));
        admitted
    }
}

/// Session to router: decide these, in order.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Apply(pub(super) Vec<Change>);

/// A mail that is never handled still answers those who asked.
impl Drop for Apply {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            kept::refuse(std::mem::take(&mut self.0));
        }
    }
}

impl Handler<Apply> for Router {
    type Result = ();

    fn handle(&mut self, mut mail: Apply, _ctx: &mut Self::Context) {
        let changes = std::mem::take(&mut mail.0);
        let mut fx = Effects::new();
        let is_visible = changes.iter().any(|change| {
            matches!(
                change,
                Change::Asked {
                    kind: ChangeKind::Signal(_)
                        | ChangeKind::Register(_)
                        | ChangeKind::Unregister(_),
                    ..
                }
            )
        });
        self.kept.apply(changes, &mut fx);
        self.finish(fx);
        if is_visible {
            self.announce_version();
        }
    }
}

/// Session to router: this session is over. Sent once for every session that was let in.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct SessionEnded {
    pub(super) session: SessionId,
    pub(super) reason: String,
}

impl Handler<SessionEnded> for Router {
    type Result = ();

    fn handle(&mut self, mail: SessionEnded, _ctx: &mut Self::Context) {
        let mut fx = Effects::new();
        self.kept.end_session(mail.session, &mail.reason, &mut fx);
        self.finish(fx);
        self.announce_version();
        // Messages may have begun to wait for the receiver that has just gone.
        self.rearm.notify_one();
    }
}

/// Timer to router: look at the deadlines. Answers when to come again.
#[derive(Message)]
#[rtype(result = "Option<Duration>")]
pub(super) struct Tick;

impl Handler<Tick> for Router {
    type Result = Option<Duration>;

    fn handle(&mut self, _: Tick, _ctx: &mut Self::Context) -> Self::Result {
        let mut fx = Effects::new();
        let next = self.kept.engine.handle_timeout(uptime::now(), &mut fx);
        self.finish(fx);
        next
    }
}

/// Host to router: tell every peer to finish.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct BeginShutdown(pub(super) Duration);

impl Handler<BeginShutdown> for Router {
    type Result = ();

    fn handle(&mut self, BeginShutdown(drain): BeginShutdown, _ctx: &mut Self::Context) {
        let mut fx = Effects::new();
        self.kept.engine.handle_shutdown(drain, uptime::now(), &mut fx);
        self.finish(fx);
    }
}

/// Host to router: tell one plugin to finish. Says whether it has a session.
#[derive(Message)]
#[rtype(result = "bool")]
pub(super) struct StopPlugin {
    pub(super) plugin: PluginId,
    /// All of them without a number.
    pub(super) instance: Option<u32>,
    pub(super) drain: Duration,
}

impl Handler<StopPlugin> for Router {
    type Result = bool;

    fn handle(&mut self, mail: StopPlugin, _ctx: &mut Self::Context) -> bool {
        let mut fx = Effects::new();
        let StopPlugin { plugin, instance, drain } = mail;
        let stopped =
            self.kept.engine.handle_stop(&plugin, instance, drain, uptime::now(), &mut fx);
        self.finish(fx);
        stopped
    }
}

/// Host to router: what a supervisor says of its plugin.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct SetPresence {
    pub(super) plugin: PluginId,
    pub(super) presence: engine::Presence,
}

impl Handler<SetPresence> for Router {
    type Result = ();

    fn handle(&mut self, mail: SetPresence, _ctx: &mut Self::Context) {
        let mut fx = Effects::new();
        self.kept.set_presence(&mail.plugin, mail.presence, &mut fx);
        self.finish(fx);
    }
}

/// Host to router: hold calls of this plugin for so long.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct SetHold {
    pub(super) plugin: PluginId,
    pub(super) hold: Duration,
}

impl Handler<SetHold> for Router {
    type Result = ();

    fn handle(&mut self, SetHold { plugin, hold }: SetHold, _ctx: &mut Self::Context) {
        let mut fx = Effects::new();
        self.kept.set_hold(&plugin, hold, &mut fx);
        self.finish(fx);
    }
}

/// Host to router: the process of an instance has ended.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct PluginExited {
    pub(super) plugin: PluginId,
    pub(super) instance: u32,
    pub(super) exit: PluginExit,
}

impl Handler<PluginExited> for Router {
    type Result = ();

    fn handle(&mut self, mail: PluginExited, _ctx: &mut Self::Context) {
        let mut fx = Effects::new();
        let PluginExited { plugin, instance, exit } = mail;
        self.kept.engine.handle_plugin_exit(&plugin, instance, exit, uptime::now(), &mut fx);
        self.finish(fx);
    }
}

/// Host to router: let an instance take the place of the one that it replaces.
#[derive(Message)]
#[rtype(result = "Result<(), Fault>")]
pub(super) struct Switch {
    pub(super) plugin: PluginId,
    pub(super) instance: u32,
}

impl Handler<Switch> for Router {
    type Result = Result<(), Fault>;

    fn handle(&mut self, mail: Switch, _ctx: &mut Self::Context) -> Self::Result {
        let mut fx = Effects::new();
        let now = uptime::now();
        let switched = self.kept.engine.handle_switch(&mail.plugin, mail.instance, now, &mut fx);
        self.finish(fx);
        self.announce_version();
        switched
    }
}

/// Host to router: what changes with a switch?
#[derive(Message)]
#[rtype(result = "Option<RegistrationDifference>")]
pub(super) struct Compare {
    pub(super) plugin: PluginId,
    pub(super) instance: u32,
}

impl Handler<Compare> for Router {
    type Result = Option<RegistrationDifference>;

    fn handle(&mut self, mail: Compare, _ctx: &mut Self::Context) -> Self::Result {
        self.kept.engine.compare(&mail.plugin, mail.instance)
    }
}

/// Host to router: which sessions has a plugin?
#[derive(Message)]
#[rtype(result = "Vec<InstanceInfo>")]
pub(super) struct AskInstances(pub(super) PluginId);

impl Handler<AskInstances> for Router {
    type Result = Vec<InstanceInfo>;

    fn handle(
        &mut self,
        AskInstances(plugin): AskInstances,
        _ctx: &mut Self::Context,
    ) -> Self::Result {
        self.kept.engine.instances(&plugin)
    }
}

/// Host to router: say here which plugin is wanted while it sleeps.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct TellWanted(pub(super) mpsc::Sender<PluginId>);

impl Handler<TellWanted> for Router {
    type Result = ();

    fn handle(&mut self, TellWanted(waker): TellWanted, _ctx: &mut Self::Context) {
        self.kept.wakers.push(waker);
    }
}

/// Host to router: end whoever is left.
#[derive(Message)]
#[rtype(result = "usize")]
pub(super) struct KillAll(pub(super) &'static str);

impl Handler<KillAll> for Router {
    type Result = usize;

    fn handle(&mut self, KillAll(reason): KillAll, _ctx: &mut Self::Context) -> usize {
        let ports: Vec<Arc<Port>> = self.kept.engine.ports().cloned().collect();
        for port in &ports {
            port.kill_quietly(reason);
        }
        ports.len()
    }
}

/// Host to router: who is there?
#[derive(Message)]
#[rtype(result = "Presence")]
pub(super) struct AskPresence;

/// Answer to [`AskPresence`].
#[derive(Debug, Default, MessageResponse)]
pub(super) struct Presence {
    pub(super) sessions: usize,
    /// Live plugins, and whether they are ready.
    pub(super) plugins: BTreeMap<PluginId, bool>,
}

impl Handler<AskPresence> for Router {
    type Result = Presence;

    fn handle(&mut self, _: AskPresence, _ctx: &mut Self::Context) -> Presence {
        let plugins = self
            .kept
            .engine
            .ports()
            .map(|port| (port.plugin.clone(), self.kept.engine.is_ready(&port.plugin)))
            .collect();
        Presence { sessions: self.kept.engine.session_count(), plugins }
    }
}

/// Host to router: the answer to a `status` query.
#[derive(Message)]
#[rtype(result = "Status")]
pub(super) struct AskStatus;

/// Answer to [`AskStatus`].
#[derive(Debug, MessageResponse)]
pub(super) struct Status(pub(super) serde_json::Value);

impl Handler<AskStatus> for Router {
    type Result = Status;

    fn handle(&mut self, _: AskStatus, _ctx: &mut Self::Context) -> Status {
        Status(self.kept.engine.status(uptime::now()))
    }
}

/// Host to router: publish an event of the broker's own.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct PublishOwn {
    pub(super) topic: String,
    pub(super) body: Vec<u8>,
}

impl Handler<PublishOwn> for Router {
    type Result = ();

    fn handle(&mut self, mail: PublishOwn, _ctx: &mut Self::Context) {
        let mut fx = Effects::new();
        self.kept.engine.publish_own(&mail.topic, &mail.body, uptime::now(), &mut fx);
        self.finish(fx);
    }
}

/// Host to router: how are the plugins?
#[derive(Message)]
#[rtype(result = "Signs")]
pub(super) struct AskVitals {
    /// Whether supervised plugins are pinged as well.
    pub(super) ping: bool,
}

/// Answer to [`AskVitals`].
#[derive(Debug, MessageResponse)]
pub(super) struct Signs(pub(super) Vec<engine::Vitals>);

impl Handler<AskVitals> for Router {
    type Result = Signs;

    fn handle(&mut self, AskVitals { ping }: AskVitals, _ctx: &mut Self::Context) -> Signs {
        let now = uptime::now();
        let vitals = self.kept.engine.vitals(now);
        if ping {
            let mut fx = Effects::new();
            self.kept.engine.ping_supervised(now, &mut fx);
            self.finish(fx);
        }
        Signs(vitals)
    }
}
