//! Owns every change: who is there, what they serve, who may send where.
//!
//! The router makes routes and hands them to sessions; it never sees a payload. What a session asks
//! for comes as a [`Change`], its end through
//! [`handle_session_ended`](Router::handle_session_ended), the time through
//! [`handle_timeout`](Router::handle_timeout).
//!
//! The file is longer than most: it lists every change that the router makes; how each is decided
//! stands in the modules below it.
//!
//! Invariant: `routes` holds every route that anybody may still use, and each belongs to one live
//! session, to the broker, or to a channel that is not drained.

mod audit;
mod change;
mod ends;
mod entry;
mod events;
mod instances;
mod names;
mod plugins;
mod presence;
mod registration;
mod status;
mod topics;
mod vitals;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

pub use change::{Change, ChangeKind};

pub use ends::Quarantined;
pub use instances::{InstanceInfo, RegistrationDifference};
pub(crate) use presence::{Absence, with_return};
pub use presence::{Attachment, PluginExit, Presence};
pub use vitals::Vitals;

use self::ends::Suspect;
use self::entry::{Duty, Instance, PluginEntry, Registration, State};
use self::events::Subscription;
use self::topics::Topics;
use super::effects::{Effects, Now};
use super::ledger::{Charge, Ledger, Resource};
use super::port::{Features, NextDeadline, Port, PortSeed, Route, Wake};
use super::tally::Tallies;
use super::topic::TopicRoute;
use crate::error::{Code, Fault, Refusal};
use crate::id::{PluginId, RouteId, SessionId, Topic};
use crate::limit;
use crate::wire::body::{self, Hello, Limits, RouteKind, Shutdown, Welcome};
use crate::wire::{ContentType, FrameBuilder, Kind};

/// The one owner of names, sessions and subscriptions.
#[derive(Debug)]
pub struct Router {
    settings: RouterSettings,
    started: Duration,
    random: u64,
    ledger: Arc<Ledger>,
    tallies: Arc<Tallies>,
    next_deadline: Arc<NextDeadline>,
    sessions: BTreeMap<SessionId, SessionEntry>,
    plugins: BTreeMap<PluginId, PluginEntry>,
    routes: BTreeMap<RouteId, RouteEntry>,
    by_name: BTreeMap<(SessionId, RouteKind, String), RouteId>,
    /// Routes by the plugin or service that they lead to.
    methods_to: BTreeMap<PluginId, BTreeSet<RouteId>>,
    channels_to: BTreeMap<PluginId, BTreeSet<RouteId>>,
    topics: Topics,
    subscriptions: BTreeMap<(SessionId, u32), Subscription>,
    own_topics: BTreeMap<Topic, Arc<TopicRoute>>,
    dead_letters: VecDeque<DeadLetter>,
    quarantined: VecDeque<Quarantined>,
    suspects: Vec<Suspect>,
    /// Some instance may have to be told that it can leave.
    retiring: bool,
    route_last: u32,
    subscription_last: u32,
    client_last: u64,
    shutting_down: bool,
}

/// What the embedding side decides.
#[derive(Clone, Debug)]
pub struct RouterSettings {
    /// Name of the broker, for people.
    pub name: String,
    /// Seed of the session ids. Log it.
    pub seed: u64,
    /// The bounds of this broker.
    pub limits: Arc<limit::Limits>,
}

#[derive(Debug)]
struct SessionEntry {
    port: Arc<Port>,
    left: Option<String>,
    /// What it has registered, in bytes.
    registered: Charge,
    _charge: Charge,
}

#[derive(Debug)]
struct RouteEntry {
    route: Route,
    _charge: Option<Charge>,
}

/// Messages that the broker gave up.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct DeadLetter {
    /// `plugin/channel`.
    pub channel: String,
    /// The sending plugin.
    pub from: String,
    /// First message id.
    pub first: u64,
    /// Last message id.
    pub last: u64,
    /// Why.
    pub cause: String,
}

impl Router {
    /// A router without sessions.
    #[must_use]
    pub fn new(settings: RouterSettings, now: Now) -> Self {
        Self {
            random: settings.seed,
            settings,
            started: now.mono,
            ledger: Arc::default(),
            tallies: Arc::default(),
            next_deadline: Arc::default(),
            sessions: BTreeMap::new(),
            plugins: BTreeMap::new(),
            routes: BTreeMap::new(),
            by_name: BTreeMap::new(),
            methods_to: BTreeMap::new(),
            channels_to: BTreeMap::new(),
            topics: Topics::default(),
            subscriptions: BTreeMap::new(),
            own_topics: BTreeMap::new(),
            dead_letters: VecDeque::new(),
            quarantined: VecDeque::new(),
            suspects: Vec::new(),
            retiring: false,
            route_last: 0,
            subscription_last: 0,
            client_last: 0,
            shutting_down: false,
        }
    }

    /// Lets a peer in, or says why not. The welcome is queued.
    ///
    /// `attachment` says for whom the host has made the connection, where it has.
    ///
    /// # Errors
    ///
    /// What the peer is told before its connection is closed.
    pub fn handle_hello(
        &mut self,
        hello: &Hello,
        attachment: Option<&Attachment>,
        waker: Box<dyn Wake>,
        now: Now,
        fx: &mut Effects,
    ) -> Result<Arc<Port>, Fault> {
        self.check_admission(hello, attachment.is_some())?;
        let (plugin, is_made_up) = self.choose_id(hello, attachment)?;
        self.remember(&plugin, is_made_up)?;
        self.make_room(&plugin, attachment, fx)?;
        let session = self.next_session();
        let account = self.ledger.account(&plugin);
        let charge = account.charge(Resource::Sessions, 1);
        let entry = self.plugins.get_mut(&plugin).expect("it was remembered just now");
        entry.incarnation += 1;
        entry.role = hello.role;
        entry.state = State::Connected;
        let replaces = attachment.and_then(|attachment| attachment.replaces);
        // Whose place is empty already is not waited for.
        let replaces = replaces.filter(|&old| entry.serving().any(|known| known.number == old));
        entry.instances.push(Instance {
            session,
            number: attachment.map_or(0, |attachment| attachment.instance),
            duty: replaces.map_or(Duty::Serving, Duty::Replacing),
            state: State::Connected,
            registered: false,
            was_ready: false,
            serves: Registration::default(),
            told_to_stop: false,
            is_ending: false,
            exit: None,
        });
        let offers = |feature: &str| hello.features.iter().any(|offered| offered == feature);
        let seed = PortSeed {
            session,
            plugin: plugin.clone(),
            incarnation: entry.incarnation,
            role: hello.role,
            features: Features { lz4: offers("lz4"), checksum: offers("checksum") },
            account,
            limits: Arc::clone(&self.settings.limits),
            tallies: Arc::clone(&self.tallies),
            next_deadline: Arc::clone(&self.next_deadline),
            waker,
        };
        let port = Arc::new(Port::new(seed, now));
        let registered = port.account.charge(Resource::RegistrationBytes, 0);
        self.sessions.insert(
            session,
            SessionEntry { port: Arc::clone(&port), left: None, registered, _charge: charge },
        );
        let welcome = FrameBuilder::new(Kind::WELCOME)
            .timestamp(now.unix)
            .content(ContentType::MessagePack)
            .build(b"", &body::encode(&self.welcome(&port)));
        port.push_control(welcome, fx);
        self.publish_state(&port, State::Connected, None, now, fx);
        Ok(port)
    }

    /// Decides what a session asked for.
    pub fn handle_change(&mut self, change: Change, now: Now, fx: &mut Effects) {
        match change {
            Change::Asked { port, message_id, kind } => {
                if !self.sessions.contains_key(&port.session) {
                    return;
                }
                if let Err(fault) = self.handle_asked(&port, message_id, kind, now, fx) {
                    port.push_fault(RouteId::CONTROL, message_id, &fault, now, fx);
                }
            }
            Change::ChannelDrained(channel) => {
                channel.close("the sender has gone", now, fx);
                self.forget_route(channel.number);
            }
            Change::Wanted(plugin) => self.want(&plugin, fx),
        }
        fx.finish();
    }

    /// Ends what the session held. Must be called once for every session that was let in.
    pub fn handle_session_ended(
        &mut self,
        session: SessionId,
        reason: &str,
        now: Now,
        fx: &mut Effects,
    ) {
        let Some(entry) = self.sessions.remove(&session) else { return };
        let port = entry.port;
        port.kill(reason, fx);
        let left = entry.left.is_some();
        let state = if left { State::Left } else { State::Died };
        let reason = entry.left.unwrap_or_else(|| reason.to_owned());
        let crashed = self.note_session_end(&port, state, &reason, fx);
        self.end_subscriptions(&port, fx);

        // Callees first, so that no new call reaches the session while its calls are ended.
        self.refresh_plugin(&port.plugin, now, fx);
        self.end_calls_of_callee(&port, crashed, now, fx);
        self.end_calls_of_caller(&port, now, fx);
        for number in self.channels_to.get(&port.plugin).cloned().unwrap_or_default() {
            let Some(Route::Channel(channel)) = self.route(number) else { continue };
            if channel.moves_to(port.session) {
                channel.stay(fx);
            }
            if !channel.leads_to(port.session) {
                continue;
            }
            let crashed = crashed.then_some(port.incarnation);
            if let Some(killer) = channel.detach("the session ended", crashed, now, fx) {
                self.quarantine_message(&channel, killer, now, fx);
                if channel.is_finished() {
                    fx.change(Change::ChannelDrained(Arc::clone(&channel)));
                }
            }
        }
        self.refresh_channels(&port.plugin, now, fx);
        self.end_routes(&port, now, fx);
        self.publish_state(&port, state, Some(&reason), now, fx);
        self.forget_client(&port.plugin);
        self.ledger.prune();
        fx.finish();
    }

    /// Ends calls whose deadline has passed, gives up messages whose receiver does not come, pings
    /// silent peers. Gives the moment of the next call of this function.
    pub fn handle_timeout(&mut self, now: Now, fx: &mut Effects) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        let mut next_call: Option<Duration> = None;
        let earlier = |slot: &mut Option<Duration>, at: Duration| {
            *slot = Some(slot.map_or(at, |known| known.min(at)));
        };
        let ports: Vec<Arc<Port>> = self.ports().cloned().collect();
        for port in &ports {
            let expired = port.calls.lock().remove_expired(now);
            for (id, call) in expired {
                self.expire(port, id, call, now, fx);
            }
            if let Some(at) = port.calls.lock().next_deadline() {
                earlier(&mut next_call, at);
            }
            earlier(&mut next, port.heartbeat(self.settings.limits.heartbeat, now, fx));
        }
        let mut letters = Vec::new();
        for entry in self.routes.values() {
            let Route::Channel(channel) = &entry.route else { continue };
            match channel.expires_at() {
                Some(at) if at <= now.mono => {
                    letters.extend(channel.give_up(now, fx));
                    if channel.is_finished() {
                        fx.change(Change::ChannelDrained(Arc::clone(channel)));
                    }
                }
                Some(at) => earlier(&mut next, at),
                None => (),
            }
        }
        for letter in letters {
            self.bury(letter, now, fx);
        }
        if let Some(at) = self.publish_due(now, fx) {
            earlier(&mut next_call, at);
        }
        if let Some(at) = self.retire_idle(now, fx) {
            earlier(&mut next, at);
        }
        self.next_deadline.set(next_call);
        if let Some(at) = next_call {
            earlier(&mut next, at);
        }
        fx.finish();
        next
    }

    /// Tells every peer to finish. New sessions and routes are refused from here on.
    pub fn handle_shutdown(&mut self, drain: Duration, now: Now, fx: &mut Effects) {
        self.shutting_down = true;
        let shutdown = Shutdown {
            reason: Some("the broker is shutting down".to_owned()),
            drain_ms: u64::try_from(drain.as_millis()).ok(),
        };
        let ports: Vec<Arc<Port>> = self.ports().cloned().collect();
        for port in &ports {
            self.send_shutdown(port, &shutdown, now, fx);
        }
    }

    /// Tells one plugin, or one `instance` of it, to finish: its end is no crash then. Where it is
    /// supervised, new calls of it are held from here on. Says whether it has a session.
    pub fn handle_stop(
        &mut self,
        plugin: &PluginId,
        instance: Option<u32>,
        drain: Duration,
        now: Now,
        fx: &mut Effects,
    ) -> bool {
        let shutdown = Shutdown {
            reason: Some("the plugin is being stopped".to_owned()),
            drain_ms: u64::try_from(drain.as_millis()).ok(),
        };
        let ports = self.ports_of(plugin, |known| instance.is_none_or(|of| known.number == of));
        // First, so that no call follows on the word, which would be refused.
        for port in &ports {
            self.instance_mut(port).is_ending = true;
        }
        self.refresh_plugin(plugin, now, fx);
        for port in &ports {
            self.send_shutdown(port, &shutdown, now, fx);
        }
        fx.finish();
        !ports.is_empty()
    }

    /// Live sessions.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// The shared side of every live session.
    pub fn ports(&self) -> impl Iterator<Item = &Arc<Port>> {
        self.sessions.values().map(|entry| &entry.port)
    }

    /// Whether a plugin has said that it is ready, and serves for the time being.
    #[must_use]
    pub fn is_ready(&self, plugin: &PluginId) -> bool {
        let entry = self.plugins.get(plugin);
        entry.is_some_and(|entry| entry.serving().any(|instance| instance.was_ready))
    }

    /// The earliest deadline of a call, for the driver's timer.
    #[must_use]
    pub fn next_deadline(&self) -> &Arc<NextDeadline> {
        &self.next_deadline
    }

    /// Whether new sessions are refused.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.shutting_down
    }

    fn handle_asked(
        &mut self,
        port: &Arc<Port>,
        message_id: u64,
        kind: ChangeKind,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), Fault> {
        match kind {
            ChangeKind::Register(register) => self.register(port, register, now, fx)?,
            ChangeKind::Unregister(unregister) => self.unregister(port, &unregister, now, fx)?,
            ChangeKind::Open(open) => {
                let opened = self.open(port, &open, now, fx)?;
                port.push_answer(message_id, &opened, now, fx);
                return Ok(());
            }
            ChangeKind::Close(number) => self.close(port, number, now, fx)?,
            ChangeKind::Subscribe(subscribe) => {
                let subscribed = self.subscribe(port, &subscribe, fx)?;
                port.push_answer(message_id, &subscribed, now, fx);
                return Ok(());
            }
            ChangeKind::Unsubscribe(unsubscribe) => {
                self.unsubscribe(port, unsubscribe.subscription, fx)?;
            }
            ChangeKind::Query(query) => {
                let answer = self.query(&query, now)?;
                port.push_answer(message_id, &answer, now, fx);
                return Ok(());
            }
            ChangeKind::Report(report) => self.note_report(port, report)?,
            ChangeKind::Signal(signal) => return self.signal(port, signal, now, fx),
            ChangeKind::Shutdown(shutdown) => {
                let entry = self.sessions.get_mut(&port.session).expect("checked by the caller");
                let reason = shutdown.reason.unwrap_or_else(|| "the peer left".to_owned());
                entry.left = Some(reason.clone());
                port.drain(&reason, fx);
                return Ok(());
            }
        }
        port.push_answer(message_id, &body::Empty::default(), now, fx);
        Ok(())
    }

    fn check_admission(&self, hello: &Hello, is_attached: bool) -> Result<(), Fault> {
        if !hello.versions.contains(&Self::VERSION) {
            return Err(Fault::new(
                Code::BadVersion,
                format!(
                    "this broker speaks protocol {}, the peer {:?}",
                    Self::VERSION,
                    hello.versions
                ),
            )
            .with("supported", vec![Self::VERSION])
            .with("offered", hello.versions.clone()));
        }
        if self.shutting_down {
            return Err(Fault::new(Code::ShuttingDown, "the broker is shutting down"));
        }
        // Whom the host starts always gets in, however many strangers there are.
        if !is_attached && self.sessions.len() >= self.settings.limits.sessions_max {
            return Err(Fault::refused(&Refusal {
                resource: "sessions",
                holder: "the broker",
                used: self.sessions.len() as u64,
                limit: self.settings.limits.sessions_max as u64,
                blame: "all peers together",
                retry_after_ms: 1000,
            }));
        }
        Ok(())
    }

    fn welcome(&self, port: &Port) -> Welcome {
        let mut features = Vec::new();
        if port.features.lz4 {
            features.push("lz4".to_owned());
        }
        if port.features.checksum {
            features.push("checksum".to_owned());
        }
        let limits = &self.settings.limits;
        Welcome {
            version: Self::VERSION,
            features,
            session: port.session.0,
            id: port.plugin.as_str().to_owned(),
            incarnation: port.incarnation,
            broker: self.settings.name.clone(),
            heartbeat_ms: milliseconds(limits.heartbeat),
            limits: Limits {
                payload_max: limit::PAYLOAD_MAX,
                message_max: limits.message_max,
                requests_max: limits.requests_max,
                request_bytes_max: limits.request_bytes_max,
                routes_max: limits.routes_max,
                subscriptions_max: limits.subscriptions_max,
                call_timeout_ms: Some(milliseconds(limits.call_timeout)),
            },
            warnings: Vec::new(),
        }
    }

    fn send_shutdown(&mut self, port: &Arc<Port>, shutdown: &Shutdown, now: Now, fx: &mut Effects) {
        let instance = self.instance_mut(port);
        // A process that has ended already is told too late.
        instance.told_to_stop |= instance.exit.is_none();
        let frame = FrameBuilder::new(Kind::SHUTDOWN)
            .timestamp(now.unix)
            .content(ContentType::MessagePack)
            .build(b"", &body::encode(shutdown));
        port.push_control(frame, fx);
    }

    fn route(&self, number: RouteId) -> Option<Route> {
        self.routes.get(&number).map(|entry| entry.route.clone())
    }

    fn live_port(&self, plugin: &PluginId) -> Option<Arc<Port>> {
        let session = self.plugins.get(plugin)?.session()?;
        self.sessions.get(&session).map(|entry| Arc::clone(&entry.port))
    }

    /// Live sessions of a plugin.
    fn ports_of(&self, plugin: &PluginId, wanted: impl Fn(&Instance) -> bool) -> Vec<Arc<Port>> {
        let entry = self.plugins.get(plugin);
        let instances = entry.into_iter().flat_map(|entry| &entry.instances);
        let sessions = instances.filter(|instance| wanted(instance));
        sessions.map(|instance| Arc::clone(&self.sessions[&instance.session].port)).collect()
    }

    fn instance(&self, port: &Port) -> &Instance {
        let entry = self.plugins.get(&port.plugin).expect("live plugins are known");
        entry.instance(port.session).expect("live sessions are instances")
    }

    fn instance_mut(&mut self, port: &Port) -> &mut Instance {
        let entry = self.plugins.get_mut(&port.plugin).expect("live plugins are known");
        entry.instance_mut(port.session).expect("live sessions are instances")
    }

    /// Splitmix64 (Steele, Lea, Flood 2014): a session id need not be secret, only distinct, since
    /// a frame counts for nothing on any other connection than its session's.
    fn next_session(&mut self) -> SessionId {
        loop {
            self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = self.random;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let session = SessionId(mixed ^ (mixed >> 31));
            if session != SessionId::BROKER && !self.sessions.contains_key(&session) {
                return session;
            }
        }
    }

    /// The protocol version that is spoken.
    pub const VERSION: u32 = 1;
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
