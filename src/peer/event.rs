//! What a peer tells its driver.

use std::time::Instant;

use bytes::Bytes;

use super::run::MessageRun;
use crate::error::Fault;
use crate::id::{RouteId, SessionId};
use crate::wire::ContentType;
use crate::wire::body::{Announce, RouteKind, Signal, Welcome};

/// Something that happened on the connection, in the order in which it happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PeerEvent {
    /// The handshake is over; commands work from here on.
    Welcome(Box<Welcome>),
    /// The handshake failed. Nothing else will come.
    Refused(Fault),
    /// An [`open`](super::Peer::open) has its answer.
    Opened {
        /// What `open` returned.
        id: u64,
        /// What was to be opened.
        kind: RouteKind,
        /// The route, or why there is none.
        result: Result<RouteId, Fault>,
    },
    /// A request or a control command has its one outcome.
    Answer {
        /// What the command returned.
        id: u64,
        /// What the other side said, or why it said nothing.
        result: Result<Payload, Fault>,
    },
    /// The callee confirmed that the handler of this request runs.
    Started {
        /// What `request` returned.
        id: u64,
    },
    /// Frames from this sender under this name will bear `slot` from here on.
    Announced {
        /// Small number of the route, unique among the routes that are announced now.
        slot: usize,
        /// What it stands for.
        announce: Box<Announce>,
    },
    /// An announced route ended. Its slot may be given to another route.
    Retired {
        /// Its slot.
        slot: usize,
        /// Why, in the broker's words.
        reason: String,
    },
    /// Somebody calls a method of ours.
    Request {
        /// The announced route.
        slot: usize,
        /// To answer it.
        call: CallId,
        /// The arguments.
        payload: Payload,
        /// When the caller stops waiting.
        deadline: Instant,
        /// Whether the caller wants no answer.
        no_reply: bool,
    },
    /// The caller of this request has gone or changed its mind; it must not be answered.
    Cancelled {
        /// Which request.
        call: CallId,
    },
    /// A message of a channel of ours, to be acknowledged.
    Message {
        /// The announced route.
        slot: usize,
        /// Its number in the channel.
        id: u64,
        /// 1 at first; more when it may have been handled before.
        attempt: u32,
        /// The sender's Unix time in nanoseconds.
        timestamp: u64,
        /// The content.
        payload: Payload,
    },
    /// At least two messages of a channel of ours that came back to back, to be acknowledged.
    Messages {
        /// The announced route.
        slot: usize,
        /// The messages.
        run: MessageRun,
    },
    /// An event or a broadcast.
    Event {
        /// The announced route.
        slot: usize,
        /// Its number among the publisher's events of this topic.
        id: u64,
        /// The sender's Unix time in nanoseconds.
        timestamp: u64,
        /// The content.
        payload: Payload,
    },
    /// Ids that will not come on an announced route.
    Missed {
        /// The announced route, if it is announced.
        slot: Option<usize>,
        /// First id.
        first: u64,
        /// Last id.
        last: u64,
        /// Why, in the broker's words.
        cause: String,
        /// The topic, for events.
        topic: Option<String>,
    },
    /// How far the broker and the receivers are with what was sent on a route.
    Acked {
        /// The opened route.
        route: RouteId,
        /// The broker answers for all up to this id.
        accepted: u64,
        /// All up to this id have been handled.
        completed: u64,
    },
    /// The window of an opened route changed.
    Credit {
        /// The opened route.
        route: RouteId,
    },
    /// The broker gave up messages that were sent; they became dead letters.
    GivenUp {
        /// The opened route.
        route: RouteId,
        /// First id.
        first: u64,
        /// Last id.
        last: u64,
        /// Why, in the broker's words.
        cause: String,
    },
    /// The broker did not accept these messages; their ids will be given again.
    Rejected {
        /// The opened route.
        route: RouteId,
        /// First id.
        first: u64,
        /// Last id.
        last: u64,
        /// Why the first one was not accepted.
        fault: Fault,
    },
    /// An opened route ended; its name has to be opened again.
    Closed {
        /// The route.
        route: RouteId,
        /// Why, in the broker's words.
        reason: String,
    },
    /// A signal to this peer.
    Signal(Box<Signal>),
    /// The broker asks to finish, acknowledge and leave.
    Shutdown {
        /// Why.
        reason: Option<String>,
        /// How long it waits.
        drain_ms: Option<u64>,
    },
    /// An error that belongs to no command of ours. Worth a line in the log.
    Fault {
        /// Route of the frame, 0 for control.
        route: RouteId,
        /// Id of the frame.
        message_id: u64,
        /// What the other side says, or what was wrong with its frame.
        fault: Fault,
    },
}

/// A body and what its sender says it is. Cheap to clone; keeps the buffer in which it came alive.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Payload {
    /// What it is.
    pub content: ContentType,
    /// The bytes.
    pub body: Bytes,
}

/// Whose call it is that we serve.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CallId {
    /// The caller's session.
    pub caller: SessionId,
    /// The caller's number of it.
    pub id: u64,
    /// The route on which it came.
    pub route: RouteId,
}
