//! The client's side of a connection, as one pure machine.
//!
//! A [`Peer`] turns bytes from a socket into [`PeerEvent`]s and commands into bytes for it. It owns
//! every decision on this side: numbering, routes, windows, joining of chunks, deadlines. It has no
//! socket, no task and no clock: the driver passes a [`Moment`]. The SDK, the broker's in-process
//! participants and the simulator drive the same machine (`docs/decisions/0002-peer-machine.md`).
//!
//! It does not promise to suppress duplicates: a message that comes again bears its attempt.
//!
//! Invariant: every command that returned an id is followed by exactly one event that ends it.

#![forbid(unsafe_code)]

mod calls;
mod channel_in;
mod channel_out;
mod collector;
mod command;
mod event;
mod input;
mod output;
mod routes;
mod run;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use thiserror::Error;

use self::calls::{CallsIn, CallsOut, What};
use self::channel_in::RouteIn;
use self::channel_out::ChannelOut;
pub use self::channel_out::Progress;
use self::collector::Collector;
pub use self::command::{RequestOptions, SendOptions};
pub use self::event::{CallId, Payload, PeerEvent};
use self::output::{Head, Output};
use self::routes::{FastMap, RouteTable};
pub use self::run::{Delivered, MessageRun};
use crate::error::{Code, Fault, FrameError};
use crate::id::{RouteId, SessionId};
use crate::limit;
use crate::wire::body::{self, Hello, Role, RouteKind, Welcome};
use crate::wire::{Flags, Kind};

/// One connection to a broker, seen from the peer.
///
/// The driver writes [`output`](Self::output) to its socket after every call, passes everything it
/// reads to [`handle_input`](Self::handle_input), calls [`handle_timeout`](Self::handle_timeout) at
/// [`next_deadline`](Self::next_deadline), and drains [`poll_event`](Self::poll_event) after each.
#[derive(Debug)]
pub struct Peer {
    state: State,
    settings: PeerSettings,
    output: Output,
    input: BytesMut,
    failed: Option<FrameError>,
    events: VecDeque<PeerEvent>,
    calls_out: CallsOut,
    calls_in: CallsIn,
    routes_out: RouteTable<RouteOut>,
    routes_in: RouteTable<RouteIn>,
    names: FastMap<RouteKind, FastMap<Arc<str>, RouteId>>,
    opening: FastMap<(RouteKind, Arc<str>), u64>,
    collector: Collector,
    /// Deadline of a call that names none.
    call_timeout: Duration,
}

/// What a peer says of itself, and how it wants its frames.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// The id it wants, else the broker makes one.
    pub id: Option<String>,
    /// Whether it serves something.
    pub role: Role,
    /// Library and version, for people.
    pub sdk: Option<String>,
    /// Process id, for people.
    pub pid: Option<u32>,
    /// Whether frames bear a checksum, if the broker agrees. Off on local sockets by default.
    pub checksum: bool,
    /// Bodies of at least this size are compressed, if the broker agrees. Off by default.
    pub compress_min: Option<usize>,
    /// Time after a call's deadline in which the broker's own answer may still come, before the
    /// peer gives the outcome itself.
    pub grace: Duration,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            id: None,
            role: Role::Client,
            sdk: None,
            pid: None,
            checksum: false,
            compress_min: None,
            grace: limit::CALL_GRACE,
        }
    }
}

/// A reading of the two clocks. Drivers take one for each batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Moment {
    /// The steady clock, for deadlines.
    pub instant: Instant,
    /// Unix time in nanoseconds, for timestamps.
    pub unix: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// The hello is out.
    Connecting,
    Ready,
    Closed,
}

#[derive(Debug)]
struct RouteOut {
    kind: RouteKind,
    name: Arc<str>,
    /// Not for methods.
    channel: Option<ChannelOut>,
}

/// Why a command was not carried out. Nothing was sent.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum CommandError {
    /// Before the welcome, or after the end.
    #[error("there is no session")]
    NoSession,
    /// The route was never opened, or has ended: its name has to be opened again.
    #[error("route {0} is not open")]
    NoRoute(RouteId),
    /// Try again after the next [`PeerEvent::Acked`], [`PeerEvent::GivenUp`] or
    /// [`PeerEvent::Credit`].
    #[error("the window is used up")]
    WindowFull,
    /// A limit, or a size. Trying again with the same values helps only after answers came.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What [`Peer::open`] found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Opening {
    /// The route is known already.
    Open(RouteId),
    /// [`PeerEvent::Opened`] will bear this id. Who asks for the same name meanwhile gets the same
    /// id.
    Pending(u64),
}

impl Peer {
    /// A peer that says hello as its first output.
    #[must_use]
    pub fn new(settings: PeerSettings, now: Moment) -> Self {
        let mut output = Output::new();
        let mut features = Vec::new();
        if settings.checksum {
            features.push("checksum".to_owned());
        }
        if settings.compress_min.is_some() {
            features.push("lz4".to_owned());
        }
        let hello = body::encode_hello(&Hello {
            versions: vec![Self::VERSION],
            features,
            id: settings.id.clone(),
            role: settings.role,
            sdk: settings.sdk.clone(),
            pid: settings.pid,
        });
        output.append(&Head::control(Kind::HELLO, 1, now.unix), &[], &hello);
        let mut calls_out = CallsOut::new();
        calls_out.next_id(); // The hello's.
        Self {
            state: State::Connecting,
            settings,
            output,
            input: BytesMut::new(),
            failed: None,
            events: VecDeque::new(),
            calls_out,
            calls_in: CallsIn::default(),
            routes_out: RouteTable::new(),
            routes_in: RouteTable::new(),
            names: FastMap::default(),
            opening: FastMap::default(),
            collector: Collector::default(),
            call_timeout: limit::CALL_TIMEOUT,
        }
    }

    /// Gives outcomes to calls whose answer is overdue.
    pub fn handle_timeout(&mut self, now: Moment) {
        while let Some((id, what)) = self.calls_out.poll_expired(now.instant) {
            let fault = what.timed_out();
            if let What::Request { route, .. } = what {
                // The broker is late; if it still has the request it should forget it.
                self.append(Kind::CANCEL, route, id, now, &[], &[]);
            }
            self.finish(id, what, Err(fault));
        }
    }

    /// The connection has ended: whatever waits gets its outcome. Idempotent.
    pub fn handle_closed(&mut self) {
        self.state = State::Closed;
        for (id, what) in self.calls_out.take_all() {
            let fault = what.connection_lost();
            self.finish(id, what, Err(fault));
        }
        for call in self.calls_in.take_all() {
            self.events.push_back(PeerEvent::Cancelled { call });
        }
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<PeerEvent> {
        self.events.pop_front()
    }

    /// Moves all events to the end of `target`; swaps the buffers where that is possible.
    pub fn drain_events(&mut self, target: &mut VecDeque<PeerEvent>) {
        if target.is_empty() {
            std::mem::swap(&mut self.events, target);
        } else {
            target.append(&mut self.events);
        }
    }

    /// The bytes to write. The driver takes them from the front, or swaps the buffer for an empty
    /// one.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output.buffer
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do, unless an answer comes
    /// before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.calls_out.next_deadline()
    }

    /// Bytes that wait to be written.
    #[must_use]
    pub fn output_size(&self) -> usize {
        self.output.buffer.len()
    }

    /// Whether commands work: after the welcome, before the end.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// This session's number, once there is one.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.output.session
    }

    /// The route of a name that has been opened.
    #[must_use]
    pub fn route(&self, kind: RouteKind, name: &str) -> Option<RouteId> {
        self.names.get(&kind)?.get(name).copied()
    }

    /// How far the messages of an opened route are.
    #[must_use]
    pub fn progress(&self, route: RouteId) -> Option<Progress> {
        self.routes_out.get(route)?.channel.as_ref().map(ChannelOut::progress)
    }

    /// The route behind a slot.
    #[must_use]
    pub fn announced_route(&self, slot: usize) -> Option<RouteId> {
        self.routes_in.route_at(slot)
    }

    /// Requests that we serve and have not answered.
    #[must_use]
    pub fn serving(&self) -> usize {
        self.calls_in.len()
    }

    fn welcome(&mut self, welcome: Welcome) {
        self.state = State::Ready;
        self.output.session = SessionId(welcome.session);
        self.output.payload_max = welcome.limits.payload_max;
        self.output.message_max = welcome.limits.message_max;
        let agreed = |name: &str| welcome.features.iter().any(|feature| feature == name);
        if self.settings.checksum && agreed("checksum") {
            self.output.flags |= Flags::CHECKSUM;
        }
        if agreed("lz4") {
            self.output.compress_min = self.settings.compress_min;
        }
        self.calls_out.set_limits(&welcome.limits);
        if let Some(milliseconds) = welcome.limits.call_timeout_ms {
            self.call_timeout = Duration::from_millis(milliseconds).min(Self::TIMEOUT_MAX);
        }
        self.events.push_back(PeerEvent::Welcome(Box::new(welcome)));
    }

    /// The one place that ends what a command began.
    fn finish(&mut self, id: u64, what: What, result: Result<Payload, Fault>) {
        let What::Open { kind, name } = what else {
            self.events.push_back(PeerEvent::Answer { id, result });
            return;
        };
        let name: Arc<str> = name.into();
        self.opening.remove(&(kind, Arc::clone(&name)));
        let result = result.and_then(|payload| {
            let opened: body::Opened = body::decode(&payload.body)?;
            let route = RouteId(opened.route);
            if route == RouteId::CONTROL {
                return Err(Fault::new(Code::Malformed, "the broker opened route 0"));
            }
            if self.routes_out.get(route).is_none() {
                let channel = (kind != RouteKind::Method)
                    .then(|| ChannelOut::new(opened.window_messages, opened.window_bytes));
                self.routes_out.insert(route, RouteOut { kind, name: Arc::clone(&name), channel });
            }
            self.names.entry(kind).or_default().insert(name, route);
            Ok(route)
        });
        self.events.push_back(PeerEvent::Opened { id, kind, result });
    }

    /// Forgets an opened route. True if there was one.
    fn forget(&mut self, route: RouteId) -> bool {
        match self.routes_out.remove(route) {
            Some((_, RouteOut { kind, name, .. })) => {
                if let Some(names) = self.names.get_mut(&kind) {
                    names.remove(&name);
                }
                true
            }
            None => false,
        }
    }

    fn append(
        &mut self,
        kind: Kind,
        route: RouteId,
        id: u64,
        now: Moment,
        extension: &[u8],
        body: &[u8],
    ) {
        let head = Head { route, ..Head::control(kind, id, now.unix) };
        self.output.append(&head, extension, body);
    }

    const VERSION: u32 = 1;
}

impl Moment {
    /// When a call ends that was sent at `timestamp` with `timeout`. A caller whose clock runs
    /// ahead gains nothing by it.
    fn deadline(self, timestamp: u64, timeout: Duration) -> Instant {
        let elapsed = Duration::from_nanos(self.unix.saturating_sub(timestamp));
        self.instant + timeout.saturating_sub(elapsed)
    }
}
