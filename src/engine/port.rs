//! What the rest of the broker may touch of a session: its queue, its open calls, its routes.
//!
//! Shared behind an `Arc`; each part has its own short lock. Lock order: a channel, topic or method
//! first, then `calls`, `routes` or `outbox` of one port, never two of these at a time.
//!
//! The file is longer than most: everything that a session shows of itself is in one place.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::abandoned::Abandoned;
use super::calls::Calls;
use super::channel::Channel;
use super::effects::{Effects, Now};
use super::ledger::Account;
use super::method::MethodRoute;
use super::outbox::{Outbox, Source, State};
use super::tally::{End, Tallies};
use super::topic::TopicRoute;
use crate::error::{Fault, Refusal};
use crate::id::{PluginId, RouteId, SessionId};
use crate::limit::{self, Limits};
use crate::wire::body::{self, Role};
use crate::wire::{ContentType, FrameBuilder, Kind};

/// The shared side of one session.
pub struct Port {
    /// Its number.
    pub session: SessionId,
    /// Whose session it is.
    pub plugin: PluginId,
    /// The how manieth session of that plugin.
    pub incarnation: u64,
    /// What the peer wants to be.
    pub role: Role,
    /// What was agreed in the hello.
    pub features: Features,
    pub(crate) account: Arc<Account>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) tallies: Arc<Tallies>,
    pub(crate) outbox: Mutex<Outbox>,
    pub(crate) calls: Mutex<Calls>,
    pub(crate) routes: Mutex<RouteTable>,
    routes_ended: AtomicU64,
    /// Calls that ended before this callee answered. Its late answers are dropped in silence.
    pub(crate) abandoned: Mutex<Abandoned>,
    abandoned_count: AtomicU64,
    /// Requests that this callee has not answered.
    pub(crate) outstanding: AtomicU32,
    pub(crate) touched: AtomicBool,
    pub(crate) next_deadline: Arc<NextDeadline>,
    /// Monotonic milliseconds of the last input, and of the oldest unanswered ping (0 for none).
    last_input_ms: AtomicU64,
    ping_sent_ms: AtomicU64,
    waker: Box<dyn Wake>,
}

/// Tells the driver of a session that it has something to do.
pub trait Wake: Send + Sync {
    /// May be called at any time, from any thread, also when there is nothing to do.
    fn wake(&self);
}

impl<F: Fn() + Send + Sync> Wake for F {
    fn wake(&self) {
        self();
    }
}

/// Optional parts of the protocol that both sides speak.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(missing_docs, reason = "named as in the protocol")]
pub struct Features {
    pub lz4: bool,
    pub checksum: bool,
}

/// What the writing side of a session has before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pending {
    /// Something waits to be written.
    Some,
    /// Nothing waits; the driver is woken when that changes.
    None,
    /// The session is to end and has nothing left to write.
    End,
}

/// What a route number stands for.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    Method(Arc<MethodRoute>),
    Channel(Arc<Channel>),
    Topic(Arc<TopicRoute>),
}

/// Routes that a session may use: its own, and those announced to it.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    routes: BTreeMap<RouteId, Route>,
    highest: RouteId,
}

/// The earliest deadline of any call, so that the driver's timer need not look at all of them.
#[derive(Debug)]
pub struct NextDeadline(AtomicU64);

/// What a new session is made of.
pub(crate) struct PortSeed {
    pub(crate) session: SessionId,
    pub(crate) plugin: PluginId,
    pub(crate) incarnation: u64,
    pub(crate) role: Role,
    pub(crate) features: Features,
    pub(crate) account: Arc<Account>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) tallies: Arc<Tallies>,
    pub(crate) next_deadline: Arc<NextDeadline>,
    pub(crate) waker: Box<dyn Wake>,
}

impl Port {
    pub(crate) fn new(seed: PortSeed, now: Now) -> Self {
        Self {
            session: seed.session,
            plugin: seed.plugin,
            incarnation: seed.incarnation,
            role: seed.role,
            features: seed.features,
            account: seed.account,
            limits: seed.limits,
            tallies: seed.tallies,
            outbox: Mutex::default(),
            calls: Mutex::default(),
            routes: Mutex::default(),
            routes_ended: AtomicU64::new(0),
            abandoned: Mutex::default(),
            abandoned_count: AtomicU64::new(0),
            outstanding: AtomicU32::new(0),
            touched: AtomicBool::new(false),
            next_deadline: seed.next_deadline,
            last_input_ms: AtomicU64::new(millis(now.mono)),
            ping_sent_ms: AtomicU64::new(0),
            waker: seed.waker,
        }
    }

    /// Queues an answer to the peer's own doing. A peer that never reads them is ended here.
    pub(crate) fn push_control(self: &Arc<Self>, frame: Bytes, fx: &mut Effects) {
        let taken = self.outbox.lock().push_control(frame, &self.account);
        if !taken {
            self.kill(&Outbox::unread_fault(&self.account).message, fx);
        }
        fx.touch(self);
    }

    /// Whether a notice of another plugin may be queued. Half of the room is for the answers to the
    /// peer's own questions, so that nobody can end somebody else's session by flooding it.
    pub(crate) fn check_control_room(&self) -> Result<(), Fault> {
        let used = self.outbox.lock().control_bytes();
        let limit = limit::CONTROL_QUEUE_BYTES_MAX / 2;
        if used < limit {
            return Ok(());
        }
        Err(Fault::refused(&Refusal {
            resource: "bytes of control frames queued for a peer",
            holder: self.plugin.as_str(),
            used,
            limit,
            blame: self.plugin.as_str(),
            retry_after_ms: Self::CONTROL_RETRY_MS,
        }))
    }

    /// Queues a frame that ends what was written to the peer before.
    pub(crate) fn push_notice(self: &Arc<Self>, frame: Bytes, fx: &mut Effects) {
        self.outbox.lock().push_notice(frame, &self.account);
        fx.touch(self);
    }

    /// Queues an acknowledgement of what the peer sends. Only one may wait for each source.
    pub(crate) fn push_progress(self: &Arc<Self>, source: Source, fx: &mut Effects) {
        self.outbox.lock().push_progress(source);
        fx.touch(self);
    }

    /// Answers a control frame.
    pub(crate) fn push_answer<T: serde::Serialize>(
        self: &Arc<Self>,
        message_id: u64,
        answer: &T,
        now: Now,
        fx: &mut Effects,
    ) {
        let frame = FrameBuilder::new(Kind::RESPONSE)
            .message_id(message_id)
            .timestamp(now.unix)
            .content(ContentType::MessagePack)
            .build(b"", &body::encode(answer));
        self.push_control(frame, fx);
    }

    /// Tells the peer what it did wrong.
    pub(crate) fn push_fault(
        self: &Arc<Self>,
        route: RouteId,
        message_id: u64,
        fault: &Fault,
        now: Now,
        fx: &mut Effects,
    ) {
        self.push_control(fault_frame(route, message_id, fault, now), fx);
    }

    /// Tells the peer as a caller how its call ended.
    pub(crate) fn push_outcome(
        self: &Arc<Self>,
        route: RouteId,
        message_id: u64,
        fault: &Fault,
        now: Now,
        fx: &mut Effects,
    ) {
        let frame = fault_frame(route, message_id, fault, now);
        self.outbox.lock().push_outcome(frame, &self.account);
        fx.touch(self);
    }

    /// Ends the session after what is queued has been written.
    pub(crate) fn drain(self: &Arc<Self>, reason: &str, fx: &mut Effects) {
        self.outbox.lock().drain(reason);
        fx.touch(self);
    }

    /// Ends the session now; what is queued is lost to this session.
    pub(crate) fn kill(self: &Arc<Self>, reason: &str, fx: &mut Effects) {
        let dropped = self.outbox.lock().close(reason);
        self.tallies.events.end(End::Cancelled, dropped);
        fx.touch(self);
    }

    /// Why the session ends, once it is to end and everything was taken.
    #[must_use]
    pub fn end(&self) -> Option<String> {
        let outbox = self.outbox.lock();
        match outbox.state() {
            State::Open => None,
            State::Draining(reason) => outbox.is_empty().then(|| reason.clone()),
            State::Closed(reason) => Some(reason.clone()),
        }
    }

    /// Whether the session was ended without regard to what is queued.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.outbox.lock().state(), State::Closed(_))
    }

    /// What the writing side has to do next.
    #[must_use]
    pub fn pending(&self) -> Pending {
        let outbox = self.outbox.lock();
        match outbox.state() {
            State::Closed(_) => Pending::End,
            _ if !outbox.is_empty() => Pending::Some,
            State::Draining(_) => Pending::End,
            State::Open => Pending::None,
        }
    }

    /// Whether something waits to be written.
    #[must_use]
    pub fn has_queued(&self) -> bool {
        !self.outbox.lock().is_empty()
    }

    /// Whether the session still takes part.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.outbox.lock().is_open()
    }

    /// Notes that the peer was heard of.
    pub(crate) fn heard(&self, now: Now) {
        // Relaxed, here and below: figures that order nothing.
        self.last_input_ms.store(millis(now.mono), Ordering::Relaxed);
    }

    /// Notes the answer to a ping.
    pub(crate) fn pong(&self) {
        self.ping_sent_ms.store(0, Ordering::Relaxed);
    }

    /// Pings a peer that was silent for `interval`, once until it answers. Gives the moment of the
    /// next look.
    pub(crate) fn heartbeat(
        self: &Arc<Self>,
        interval: Duration,
        now: Now,
        fx: &mut Effects,
    ) -> Duration {
        let due = Duration::from_millis(self.last_input_ms.load(Ordering::Relaxed)) + interval;
        if now.mono < due {
            return due;
        }
        self.ping(now, fx);
        now.mono + interval
    }

    /// Pings the peer, unless it owes the answer to an earlier ping.
    pub(crate) fn ping(self: &Arc<Self>, now: Now, fx: &mut Effects) {
        if self.ping_sent_ms.load(Ordering::Relaxed) == 0 {
            self.ping_sent_ms.store(millis(now.mono).max(1), Ordering::Relaxed);
            let ping = FrameBuilder::new(Kind::PING).timestamp(now.unix).build(b"", b"");
            self.push_control(ping, fx);
        }
    }

    /// How long a ping has been without an answer.
    #[must_use]
    pub fn unanswered_ping(&self, now: Now) -> Option<Duration> {
        let sent = self.ping_sent_ms.load(Ordering::Relaxed);
        (sent != 0).then(|| now.mono.saturating_sub(Duration::from_millis(sent)))
    }

    /// Notes that nobody waits any more for this session's answer to a call.
    pub(crate) fn abandon(&self, call: (SessionId, u64)) {
        self.abandoned.lock().insert(call);
        // Relaxed: who looks at the figure a moment too early looks again at its next input.
        self.abandoned_count.fetch_add(1, Ordering::Relaxed);
    }

    /// Grows with every call that this session need not answer any more.
    pub(crate) fn abandoned_count(&self) -> u64 {
        self.abandoned_count.load(Ordering::Relaxed)
    }

    /// Takes a route out of the session's table.
    pub(crate) fn forget_route(&self, number: RouteId) {
        self.routes.lock().remove(number);
        // Relaxed: whoever still has the route in hand is no worse than a moment earlier.
        self.routes_ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Grows whenever a route leaves the table.
    pub(crate) fn routes_ended(&self) -> u64 {
        self.routes_ended.load(Ordering::Relaxed)
    }

    pub(crate) fn route(&self, number: RouteId) -> Option<Route> {
        self.routes.lock().routes.get(&number).cloned()
    }

    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// What somebody is advised to wait whose frame found no room.
    const CONTROL_RETRY_MS: u64 = 100;
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("session", &self.session)
            .field("plugin", &self.plugin)
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

impl RouteTable {
    pub(crate) fn insert(&mut self, number: RouteId, route: Route) {
        self.highest = self.highest.max(number);
        self.routes.insert(number, route);
    }

    fn remove(&mut self, number: RouteId) {
        self.routes.remove(&number);
    }

    pub(crate) fn clear(&mut self) -> Vec<Route> {
        std::mem::take(&mut self.routes).into_values().collect()
    }

    /// Whether the session may have had this route before.
    pub(crate) fn may_have_ended(&self, number: RouteId) -> bool {
        number <= self.highest
    }
}

impl Default for NextDeadline {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl NextDeadline {
    /// Notes a deadline. Says whether it is earlier than all before.
    pub(crate) fn lower(&self, deadline: Duration) -> bool {
        let nanos = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        // Relaxed: the driver is woken through another path.
        self.0.fetch_min(nanos, Ordering::Relaxed) > nanos
    }

    pub(crate) fn set(&self, deadline: Option<Duration>) {
        let nanos = deadline.and_then(|at| u64::try_from(at.as_nanos()).ok()).unwrap_or(u64::MAX);
        self.0.store(nanos, Ordering::Relaxed);
    }

    /// The earliest deadline noted, which may have been met since.
    #[must_use]
    pub fn get(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            u64::MAX => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }
}

pub(crate) fn fault_frame(route: RouteId, message_id: u64, fault: &Fault, now: Now) -> Bytes {
    FrameBuilder::new(Kind::ERROR)
        .route(route)
        .message_id(message_id)
        .timestamp(now.unix)
        .content(ContentType::MessagePack)
        .build(b"", &body::encode_fault(fault))
}

pub(crate) fn close_frame(route: RouteId, reason: &str, now: Now) -> Bytes {
    FrameBuilder::new(Kind::CLOSE)
        .route(route)
        .timestamp(now.unix)
        .content(ContentType::MessagePack)
        .build(b"", &body::encode(&body::Closed { reason: reason.to_owned() }))
}

/// The state of what the peer sends: completed up to `completed`, answered for up to `accepted`.
pub(crate) fn ack_frame(route: RouteId, completed: u64, accepted: u64, now: Now) -> Bytes {
    FrameBuilder::new(Kind::ACK)
        .route(route)
        .message_id(completed)
        .timestamp(now.unix)
        .build(b"", &accepted.to_le_bytes())
}

pub(crate) fn announce_frame(announce: &body::Announce, now: Now) -> Bytes {
    FrameBuilder::new(Kind::ANNOUNCE)
        .timestamp(now.unix)
        .content(ContentType::MessagePack)
        .build(b"", &body::encode(announce))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
