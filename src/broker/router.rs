//! The router actor: a mailbox around [`engine::Router`].
//!
//! Only changes come here (hello, register, open, subscribe, the end of a session); messages go
//! from a session's read task straight into outboxes. A session has at most one mail under way, so
//! that the mailbox is bounded by the number of sessions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, watch};

use crate::engine::{
    self, Attachment, Change, ChangeKind, Effects, InstanceInfo, PluginExit, Port,
    RegistrationDifference, RouterSettings, Wake,
};
use crate::error::Fault;
use crate::id::{PluginId, SessionId};
use crate::net::clock;
use crate::wire::body::Hello;

/// States `running -> shutting down`, kept by the engine.
pub(super) struct Router {
    engine: engine::Router,
    /// Counts what may interest those who wait: sessions, registrations, states.
    version: watch::Sender<u64>,
    rearm: Arc<Notify>,
    /// Supervisors that want to know who has to be woken.
    wakers: Vec<mpsc::Sender<PluginId>>,
}

impl Router {
    pub(super) fn new(
        settings: RouterSettings,
        version: watch::Sender<u64>,
        rearm: Arc<Notify>,
    ) -> Self {
        let engine = engine::Router::new(settings, clock::now());
        Self { engine, version, rearm, wakers: Vec::new() }
    }

    /// Ends a batch: every handler ends with this call.
    fn finish(&mut self, mut fx: Effects) {
        let now = clock::now();
        loop {
            fx.finish();
            let changes = fx.take_changes();
            if changes.is_empty() {
                break;
            }
            for change in changes {
                self.engine.handle_change(change, now, &mut fx);
            }
        }
        if fx.take_deadline_moved() {
            self.rearm.notify_one();
        }
        for plugin in fx.take_wanted() {
            self.wakers.retain(|waker| match waker.try_send(plugin.clone()) {
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

    const MAILBOX_MAX: usize = 1_024;
}

impl Actor for Router {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(Self::MAILBOX_MAX);
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
        let Admit { hello, attachment, waker } = mail;
        let now = clock::now();
        let admitted = self.engine.handle_hello(&hello, attachment.as_ref(), waker, now, &mut fx);
        self.finish(fx);
        self.announce_version();
        admitted
    }
}

/// Session to router: decide these, in order.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Apply(pub(super) Vec<Change>);

impl Handler<Apply> for Router {
    type Result = ();

    fn handle(&mut self, Apply(changes): Apply, _ctx: &mut Self::Context) {
        let mut fx = Effects::new();
        let now = clock::now();
        let mut visible = false;
        for change in changes {
            visible |= matches!(
                &change,
                Change::Asked {
                    kind: ChangeKind::Signal(_)
                        | ChangeKind::Register(_)
                        | ChangeKind::Unregister(_),
                    ..
                }
            );
            self.engine.handle_change(change, now, &mut fx);
        }
        self.finish(fx);
        if visible {
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
        self.engine.handle_session_ended(mail.session, &mail.reason, clock::now(), &mut fx);
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
        let next = self.engine.handle_timeout(clock::now(), &mut fx);
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
        self.engine.handle_shutdown(drain, clock::now(), &mut fx);
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
        let stopped = self.engine.handle_stop(&plugin, instance, drain, clock::now(), &mut fx);
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
        self.engine.set_presence(&mail.plugin, mail.presence, clock::now(), &mut fx);
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
        self.engine.set_hold(&plugin, hold, clock::now(), &mut fx);
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
        self.engine.handle_plugin_exit(&plugin, instance, exit, clock::now(), &mut fx);
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
        let now = clock::now();
        let switched = self.engine.handle_switch(&mail.plugin, mail.instance, now, &mut fx);
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
        self.engine.compare(&mail.plugin, mail.instance)
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
        self.engine.instances(&plugin)
    }
}

/// Host to router: say here which plugin is wanted while it sleeps.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct TellWanted(pub(super) mpsc::Sender<PluginId>);

impl Handler<TellWanted> for Router {
    type Result = ();

    fn handle(&mut self, TellWanted(waker): TellWanted, _ctx: &mut Self::Context) {
        self.wakers.push(waker);
    }
}

/// Host to router: end whoever is left.
#[derive(Message)]
#[rtype(result = "usize")]
pub(super) struct KillAll(pub(super) &'static str);

impl Handler<KillAll> for Router {
    type Result = usize;

    fn handle(&mut self, KillAll(reason): KillAll, _ctx: &mut Self::Context) -> usize {
        let ports: Vec<Arc<Port>> = self.engine.ports().cloned().collect();
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
            .engine
            .ports()
            .map(|port| (port.plugin.clone(), self.engine.is_ready(&port.plugin)))
            .collect();
        Presence { sessions: self.engine.session_count(), plugins }
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
        Status(self.engine.status(clock::now()))
    }
}
