//! The plugins: what each one knows, and what it does about what it is told.
//!
//! The file is longer than most: whatever a plugin can be told is looked at in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bytes::Bytes;

use super::oracle::{Oracle, check_refusal, serial_of};
use super::world::IDEMPOTENT;
use crate::error::{Code, Fault};
use crate::id::{Pattern, Topic};
use crate::peer::{CallId, Delivered, Peer, PeerEvent};
use crate::wire::body::{self, RouteKind};

/// One plugin id. It may have a process, which may have a connection.
#[derive(Debug)]
pub(super) struct Plugin {
    pub(super) id: String,
    /// Sends frames that no honest peer sends.
    pub(super) hostile: bool,
    /// Has an id of its own, given by the broker, and serves nothing.
    pub(super) is_client: bool,
    pub(super) incarnation: u64,
    pub(super) client: Option<Client>,
    /// Its number among the instances of its id, where it is supervised.
    pub(super) number: u32,
    /// Its process has ended, and the router is yet to be told how.
    pub(super) exit_due: bool,
}

/// The running process of a plugin.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) link: u32,
    /// Whose process it is.
    pub(super) place: usize,
    /// Step since which it has a share of what comes.
    pub(super) serves_since: u64,
    /// It was told to go, perhaps without knowing yet, or has taken channels back: its end may be
    /// no crash over what it has read.
    pub(super) is_innocent: bool,
    pub(super) peer: Peer,
    pub(super) session: u64,
    pub(super) incarnation: u64,
    pub(super) refused: bool,
    /// Reads nothing for the time being.
    pub(super) stopped: bool,
    /// Sends nothing new any more.
    pub(super) leaving: bool,
    pub(super) registered: bool,
    pub(super) out: Vec<OutRoute>,
    pub(super) ins: BTreeMap<usize, InRoute>,
    pub(super) controls: BTreeMap<u64, Control>,
    announced: BTreeSet<u32>,
    pub(super) openings: BTreeMap<u64, String>,
    pub(super) calls: BTreeSet<u64>,
    pub(super) serving: Vec<Serving>,
    pub(super) subscriptions: Vec<Subscription>,
    /// The rest of a message of which some chunks are on their way, and its route.
    pub(super) held: Option<(u32, Vec<Bytes>)>,
    /// Channels that it has taken back.
    pub(super) unregistered: Vec<String>,
    /// Never asked for a subscription that may shed.
    pub(super) only_blocks: bool,
    /// Steps after which it goes, for the sake of the run's speed.
    pub(super) dies_at: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct OutRoute {
    pub(super) route: u32,
    pub(super) kind: RouteKind,
    /// A method that may be retried.
    pub(super) is_idempotent: bool,
    /// The plugin or service that a method belongs to.
    pub(super) target: String,
}

/// An announced route.
#[derive(Debug)]
pub(super) struct InRoute {
    pub(super) route: u32,
    pub(super) kind: RouteKind,
    pub(super) name: String,
    /// The id that must come next, once one has come.
    pub(super) next: Option<u64>,
    /// The session has not had this route before.
    pub(super) is_first: bool,
    pub(super) acked: u64,
}

/// A control command that waits for its answer.
#[derive(Debug)]
pub(super) enum Control {
    Register,
    Subscribe(Pattern),
    Other,
}

#[derive(Debug)]
pub(super) struct Serving {
    pub(super) call: CallId,
    pub(super) serial: u64,
    pub(super) deadline: Instant,
    pub(super) no_reply: bool,
    pub(super) started: bool,
    /// Until the end of the run, when everybody answers.
    pub(super) never: bool,
    pub(super) late: bool,
}

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) number: u32,
    pub(super) pattern: Pattern,
    /// Step in which its answer came.
    pub(super) since: u64,
}

impl Client {
    pub(super) fn new(link: u32, place: usize, peer: Peer) -> Self {
        Self {
            link,
            place,
            serves_since: 0,
            is_innocent: false,
            peer,
            session: 0,
            incarnation: 0,
            refused: false,
            stopped: false,
            leaving: false,
            registered: false,
            out: Vec::new(),
            ins: BTreeMap::new(),
            controls: BTreeMap::new(),
            announced: BTreeSet::new(),
            openings: BTreeMap::new(),
            calls: BTreeSet::new(),
            serving: Vec::new(),
            subscriptions: Vec::new(),
            held: None,
            unregistered: Vec::new(),
            only_blocks: true,
            dies_at: None,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.peer.is_ready() && !self.leaving
    }

    pub(super) fn handle_event(
        &mut self,
        event: PeerEvent,
        index: usize,
        hostile: bool,
        step: u64,
        oracle: &mut Oracle,
    ) {
        match event {
            PeerEvent::Welcome(welcome) => {
                self.session = welcome.session;
                self.incarnation = welcome.incarnation;
            }
            PeerEvent::Refused(fault) => {
                check_refusal(&fault);
                assert!(
                    matches!(fault.code, Code::IdInUse | Code::Refused | Code::BadName),
                    "P10: a plugin is not let in: {fault:?}"
                );
                self.refused = true;
            }
            PeerEvent::Opened { id, kind, result: Ok(route) } => {
                let name = self.openings.remove(&id).expect("an answer is to something");
                let known = self.out.iter().any(|out| out.route == route.0);
                if !known {
                    if kind != RouteKind::Method {
                        oracle.open_stream(route.0, kind, self.session, index, &name);
                    }
                    let is_idempotent = name.ends_with(IDEMPOTENT);
                    let target = name.split('.').next().unwrap_or_default().to_owned();
                    self.out.push(OutRoute { route: route.0, kind, is_idempotent, target });
                }
            }
            PeerEvent::Opened { id, result: Err(fault), .. } => {
                self.openings.remove(&id);
                check_refusal(&fault);
                assert!(
                    matches!(
                        fault.code,
                        Code::NotFound
                            | Code::Offline
                            | Code::Refused
                            | Code::Timeout
                            | Code::ShuttingDown
                    ),
                    "a name is not resolved: {fault:?}"
                );
            }
            PeerEvent::Answer { id, result } => self.handle_answer(id, result, step, oracle),
            PeerEvent::Announced { slot, announce } => {
                let body::Announce { route, kind, name, .. } = *announce;
                let is_first = self.announced.insert(route);
                let known = InRoute { route, kind, name, next: None, is_first, acked: 0 };
                self.ins.insert(slot, known);
            }
            PeerEvent::Retired { slot, .. } => {
                self.ins.remove(&slot);
            }
            PeerEvent::Request { call, payload, deadline, no_reply, .. } => {
                oracle.see_request(call.caller.0, call.id, self.session, &payload.body);
                self.serving.push(Serving {
                    call,
                    serial: serial_of(&payload.body),
                    deadline,
                    no_reply,
                    started: false,
                    never: false,
                    late: false,
                });
            }
            PeerEvent::Cancelled { call } => self.serving.retain(|known| known.call != call),
            PeerEvent::Message { slot, id, attempt, payload, .. } => {
                self.see_message(slot, id, attempt, &payload.body, oracle);
            }
            PeerEvent::Messages { slot, run } => {
                for message in run {
                    let Delivered { id, attempt, payload, .. } = message;
                    self.see_message(slot, id, attempt, &payload.body, oracle);
                }
            }
            PeerEvent::Event { slot, id, payload, .. } => {
                self.see_event(slot, id, &payload.body, oracle);
            }
            PeerEvent::Missed { slot, first, last, topic, .. } => {
                let Some(slot) = slot else {
                    // Dead letters of a route that its owner closes just now.
                    assert!(topic.is_none(), "P1: a gap on a route that is not announced");
                    return;
                };
                if topic.is_some() {
                    self.miss_events(slot, first, last, oracle);
                } else {
                    let known = self.ins.get_mut(&slot).expect("slots are announced");
                    if oracle.stream(known.route).sender == self.session {
                        // Who sends to itself is told as a sender, of what it may have seen.
                        known.next = known.next.max(Some(last + 1));
                        return;
                    }
                    let (next, is_first) = (&mut known.next, known.is_first);
                    if oracle.is_stale(known.route, self.session) {
                        *next = Some(last + 1);
                        return;
                    }
                    oracle.miss_messages(known.route, next, is_first, first, last);
                }
            }
            PeerEvent::Rejected { route, fault, .. } => {
                panic!("a window was respected, and yet route {route} says {fault:?}");
            }
            PeerEvent::Closed { route, .. } => self.out.retain(|out| out.route != route.0),
            PeerEvent::Fault { route, message_id, fault } => {
                check_refusal(&fault);
                // Nobody waits for the outcome, or the peer has given it itself because it was
                // late.
                let is_no_reply = oracle
                    .calls
                    .get(&(self.session, message_id))
                    .is_some_and(|call| call.route == route.0);
                // A signal has no answer but its refusal: the other one has gone, or does not read.
                let is_signal = route.0 == 0
                    && matches!(fault.code, Code::Offline | Code::NotFound | Code::Refused);
                assert!(
                    hostile || is_no_reply || is_signal,
                    "an honest peer is told on route {route} about {message_id}: {fault:?}"
                );
            }
            PeerEvent::Shutdown { .. } => self.leaving = true,
            _ => (),
        }
    }

    fn handle_answer(
        &mut self,
        id: u64,
        result: Result<crate::peer::Payload, Fault>,
        step: u64,
        oracle: &mut Oracle,
    ) {
        if let Err(fault) = &result {
            check_refusal(fault);
        }
        if self.calls.remove(&id) {
            let result = result.as_ref().map(|payload| &payload.body[..]);
            oracle.see_outcome(self.session, id, result);
            return;
        }
        let control = self.controls.remove(&id).expect("an answer is to something");
        match (control, result) {
            (Control::Subscribe(pattern), Ok(payload)) => {
                let subscribed: body::Subscribed =
                    body::decode(&payload.body).expect("the answer names the subscription");
                let number = subscribed.subscription;
                let since = step;
                self.subscriptions.push(Subscription { number, pattern, since });
            }
            (Control::Register, Ok(_)) => self.registered = true,
            (_, Ok(_)) => (),
            (_, Err(fault)) => assert!(
                matches!(
                    fault.code,
                    Code::Timeout
                        | Code::ShuttingDown
                        | Code::Refused
                        | Code::NotFound
                        | Code::UnknownRoute
                        | Code::Offline
                ),
                "a command fails: {fault:?}"
            ),
        }
    }

    /// Since when the session is owed every event of a stream, by the answers that it has.
    pub(super) fn wanted_since(&self, kind: RouteKind, name: &str) -> Option<u64> {
        if kind != RouteKind::Topic {
            return None;
        }
        let topic = Topic::parse(name).expect("streams have valid names");
        let wanting = self.subscriptions.iter().filter(|known| known.pattern.matches(&topic));
        wanting.map(|known| known.since.max(self.serves_since)).min()
    }

    fn see_message(
        &mut self,
        slot: usize,
        id: u64,
        attempt: u32,
        body: &[u8],
        oracle: &mut Oracle,
    ) {
        let known = self.ins.get_mut(&slot).expect("slots are announced");
        let (next, is_first) = (&mut known.next, known.is_first);
        if oracle.is_stale(known.route, self.session) {
            // Another instance may have these messages by now.
            *next = Some(id + 1);
            return;
        }
        oracle.see_message(known.route, next, is_first, (id, attempt), body);
    }

    fn see_event(&mut self, slot: usize, id: u64, body: &[u8], oracle: &mut Oracle) {
        self.check_event(slot, id, oracle);
        let known = self.ins.get_mut(&slot).expect("slots are announced");
        known.next = Some(id + 1);
        if let Some(stream) = oracle.streams.get_mut(&known.route) {
            let sent = stream.sent.get((id - 1) as usize).expect("P1: an event that nobody sent");
            assert_eq!(
                serial_of(body),
                sent.serial,
                "event {id} of route {} is another",
                known.route
            );
            assert_eq!(body.len(), sent.size, "event {id} has another size");
        }
    }

    fn miss_events(&mut self, slot: usize, first: u64, last: u64, oracle: &mut Oracle) {
        assert!(last >= first, "P1: an empty gap");
        self.check_event(slot, first, oracle);
        let known = self.ins.get_mut(&slot).expect("slots are announced");
        known.next = Some(last + 1);
        if let Some(stream) = oracle.streams.get(&known.route) {
            assert!(last <= stream.sent.len() as u64, "P1: a gap of events that nobody sent");
            let blocks = known.kind == RouteKind::Topic && self.only_blocks;
            assert!(!blocks, "P1: events are shed for a subscriber that blocks");
        }
    }

    /// P1: events and gaps make one range without holes, from the subscription on.
    fn check_event(&self, slot: usize, id: u64, oracle: &Oracle) {
        let known = &self.ins[&slot];
        if let Some(next) = known.next {
            assert_eq!(id, next, "P1: the next event of route {}", known.route);
            return;
        }
        let Some(stream) = oracle.streams.get(&known.route) else { return };
        let since = self.wanted_since(known.kind, &known.name);
        let before = id.checked_sub(2).and_then(|index| stream.sent.get(index as usize));
        if let (Some(since), Some(before)) = (since, before) {
            assert!(
                before.step <= since,
                "P1: the first event of route {} is {id}, the one before was sent in step {}, \
                 after the subscription in step {since}",
                known.route,
                before.step
            );
        }
    }
}

impl InRoute {
    /// Messages that have come and are not acknowledged.
    pub(super) fn unacked(&self) -> u64 {
        match self.next {
            Some(next) if self.kind == RouteKind::Channel => (next - 1).saturating_sub(self.acked),
            _ => 0,
        }
    }
}
