//! The route of one publisher to one topic, or to everybody.
//!
//! A frame is queued for every subscriber as one shared slice. Slow subscribers shed by their own
//! policy; only those that asked to block hold the publisher's window.
//!
//! Invariant: `completed <= accepted`, equal while nobody blocks.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use super::effects::{Effects, Now};
use super::outbox::{EventPolicy, Source};
use super::port::{Port, ack_frame};
use super::run::Run;
use super::tally::{End, Tallies};
use crate::error::{Code, Fault, Refusal};
use crate::id::{RouteId, SessionId, Topic};
use crate::wire::Kind;
use crate::wire::body::{Announce, Credit, Overflow, RouteKind};

/// A topic as one session opened it. The broker's own topics have no publisher.
#[derive(Debug)]
pub struct TopicRoute {
    pub(crate) number: RouteId,
    pub(crate) publisher: Option<Arc<Port>>,
    pub(crate) topic: Topic,
    pub(crate) kind: RouteKind,
    /// What the publisher may have under way.
    window: Credit,
    tallies: Arc<Tallies>,
    state: Mutex<TopicState>,
}

#[derive(Debug, Default)]
struct TopicState {
    accepted: u64,
    completed: u64,
    subscribers: Vec<Subscriber>,
    /// An acknowledgement waits in the publisher's queue.
    report_queued: bool,
    /// Runs that a blocking subscriber has not taken: last id and payload.
    unsettled: VecDeque<(u64, u64)>,
    unsettled_payload: u64,
}

#[derive(Debug)]
struct Subscriber {
    port: Arc<Port>,
    policy: EventPolicy,
    /// Its queue knows the topic, so that the end has to be queued too.
    queued: bool,
    /// Last id handed to its socket; counts only where it blocks.
    handed: u64,
}

impl TopicRoute {
    pub(crate) fn new(
        number: RouteId,
        publisher: Option<Arc<Port>>,
        topic: Topic,
        kind: RouteKind,
        tallies: &Arc<Tallies>,
    ) -> Self {
        // The broker's own topics block nobody, so that theirs is never used up.
        let window = match &publisher {
            Some(port) => {
                Credit { messages: port.limits.window_messages, bytes: port.limits.window_bytes }
            }
            None => Credit { messages: u64::MAX, bytes: u64::MAX },
        };
        Self {
            number,
            publisher,
            topic,
            kind,
            window,
            tallies: Arc::clone(tallies),
            state: Mutex::default(),
        }
    }

    /// Adds a subscriber, or changes its policy.
    pub(crate) fn add_subscriber(
        self: &Arc<Self>,
        port: &Arc<Port>,
        mut policy: EventPolicy,
        fx: &mut Effects,
    ) {
        if self.publisher.is_none() && policy.overflow == Overflow::Block {
            // The broker waits for nobody: one subscriber would keep its events from all others.
            policy.overflow = Overflow::DropOldest;
        }
        let mut state = self.state.lock();
        let handed = state.accepted;
        match state.subscribers.iter_mut().find(|known| known.port.session == port.session) {
            Some(known) => {
                if known.policy.overflow != policy.overflow {
                    known.handed = handed;
                }
                known.policy = policy;
            }
            None => state.subscribers.push(Subscriber {
                port: Arc::clone(port),
                policy,
                queued: false,
                handed,
            }),
        }
        // One that blocked may do so no longer.
        if state.advance() {
            self.report(state, fx);
        }
    }

    /// Takes a subscriber away. What is queued for it still goes out.
    pub(crate) fn remove_subscriber(self: &Arc<Self>, session: SessionId, fx: &mut Effects) {
        let mut state = self.state.lock();
        let Some(index) = state.subscribers.iter().position(|known| known.port.session == session)
        else {
            return;
        };
        let gone = state.subscribers.remove(index);
        if gone.queued {
            // Who hears itself goes on publishing: a close would be about both directions.
            let is_own = self.publisher.as_ref().is_some_and(|port| port.session == session);
            let reason = (!is_own).then_some("the subscription ended");
            gone.port.outbox.lock().push_end(self, state.accepted, reason);
            fx.touch(&gone.port);
        }
        if state.advance() {
            self.report(state, fx);
        }
    }

    /// Takes events from the publisher.
    pub(crate) fn handle_events(
        self: &Arc<Self>,
        mut run: Run,
        fx: &mut Effects,
    ) -> Result<(), Fault> {
        let mut state = self.state.lock();
        let expected = state.accepted + 1;
        if run.first != expected {
            return Err(Fault::new(
                Code::OutOfSequence,
                format!("event {} instead of {expected} on {}", run.first, self.topic),
            )
            .with("expected", expected));
        }
        let fitting = state.fitting(&run, self.window);
        let overrun = (fitting < run.count).then(|| {
            let rest = run.count - fitting;
            run = run.split_front(fitting);
            Fault::new(
                Code::CreditOverrun,
                format!(
                    "{rest} events on {} are over the window of {} events and {} bytes",
                    self.topic, self.window.messages, self.window.bytes,
                ),
            )
            .with("expected", expected + fitting)
        });
        if run.count > 0 {
            if let Some(fault) = state.refusal(self.number, run.bytes.len() as u64) {
                return Err(fault.with("expected", expected));
            }
            state.accepted = run.last();
            state.unsettled.push_back((run.last(), run.payload));
            state.unsettled_payload += run.payload;
            self.fan_out(&mut state, &run, fx);
            state.advance();
            self.report(state, fx);
        }
        overrun.map_or(Ok(()), Err)
    }

    /// Notes that a blocking subscriber's events up to `last` are being written.
    pub(crate) fn hand_over(self: &Arc<Self>, session: SessionId, last: u64, fx: &mut Effects) {
        let mut state = self.state.lock();
        let known = state.subscribers.iter_mut().find(|known| known.port.session == session);
        if let Some(known) = known {
            known.handed = known.handed.max(last);
            if state.advance() {
                self.report(state, fx);
            }
        }
    }

    /// Ends the route: no event will come on it any more.
    pub(crate) fn close(self: &Arc<Self>, reason: &'static str, fx: &mut Effects) {
        let (subscribers, accepted) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.subscribers), state.accepted)
        };
        for gone in subscribers.iter().filter(|gone| gone.queued) {
            gone.port.outbox.lock().push_end(self, accepted, Some(reason));
            fx.touch(&gone.port);
        }
    }

    /// The acknowledgement for the publisher, in the moment of writing.
    pub(crate) fn progress(&self, now: Now) -> Bytes {
        let mut state = self.state.lock();
        state.report_queued = false;
        ack_frame(self.number, state.completed, state.accepted, now)
    }

    /// Whether frames of this type from this session may go on the route.
    pub(crate) fn accepts(&self, kind: Kind, session: SessionId) -> bool {
        let wanted = match self.kind {
            RouteKind::Broadcast => Kind::BROADCAST,
            _ => Kind::EVENT,
        };
        kind == wanted && self.publisher.as_ref().is_some_and(|port| port.session == session)
    }

    /// Whether a session gets these events already.
    pub(crate) fn has_subscriber(&self, session: SessionId) -> bool {
        self.state.lock().subscribers.iter().any(|known| known.port.session == session)
    }

    /// Id of the next event, for the broker's own topics.
    pub(crate) fn next_id(&self) -> u64 {
        self.state.lock().accepted + 1
    }

    /// Asserts what must hold at every moment.
    pub(crate) fn check(&self) {
        let state = self.state.lock();
        assert!(state.completed <= state.accepted);
        if !state.subscribers.iter().any(Subscriber::blocks) {
            assert_eq!(state.completed, state.accepted, "nobody blocks");
            assert!(state.unsettled.is_empty());
        }
        let payload: u64 = state.unsettled.iter().map(|&(_, payload)| payload).sum();
        assert_eq!(payload, state.unsettled_payload);
    }

    fn fan_out(self: &Arc<Self>, state: &mut TopicState, run: &Run, fx: &mut Effects) {
        for subscriber in &mut state.subscribers {
            let port = &subscriber.port;
            let pushed =
                port.outbox.lock().push_events(run, self, &subscriber.policy, &port.account);
            let Some(pushed) = pushed else { continue };
            subscriber.queued |= pushed.is_remembered;
            self.tallies.events.accept(run.count);
            self.tallies.events.end(End::Shed, pushed.shed);
            fx.touch(port);
        }
    }

    pub(crate) fn announcement(&self) -> Announce {
        let publisher = self.publisher.as_ref();
        Announce {
            route: self.number.0,
            kind: self.kind,
            name: self.topic.as_str().to_owned(),
            from: publisher.map_or("plugbus", |port| port.plugin.as_str()).to_owned(),
            session: publisher.map_or(SessionId::BROKER, |port| port.session).0,
            incarnation: publisher.map_or(0, |port| port.incarnation),
        }
    }

    /// Has the publisher told how far it is, once for all that happens until that is written.
    fn report(self: &Arc<Self>, mut state: MutexGuard<'_, TopicState>, fx: &mut Effects) {
        let Some(publisher) = &self.publisher else { return };
        if !std::mem::replace(&mut state.report_queued, true) {
            drop(state);
            publisher.push_progress(Source::Topic(Arc::clone(self)), fx);
        }
    }
}

impl TopicRoute {
    /// What a publisher is advised to wait when a blocking subscriber's queue is full.
    const RETRY_AFTER_MS: u64 = 100;
}

impl Subscriber {
    fn blocks(&self) -> bool {
        self.policy.overflow == Overflow::Block
    }
}

impl TopicState {
    fn fitting(&self, run: &Run, window: Credit) -> u64 {
        let room = window.messages.saturating_sub(self.accepted - self.completed);
        if run.count <= room && self.unsettled_payload + run.payload <= window.bytes {
            return run.count;
        }
        let mut payload = self.unsettled_payload;
        let mut count = 0;
        for (_, event) in run.messages() {
            if count >= room || payload >= window.bytes {
                break;
            }
            payload += event.payload;
            count += 1;
        }
        count
    }

    /// Why a blocking subscriber's queue cannot take so many bytes. Nothing of it may be shed, and
    /// the windows of all the topics that it hears could sum to anything.
    fn refusal(&self, topic: RouteId, bytes: u64) -> Option<Fault> {
        self.subscribers.iter().filter(|known| known.blocks()).find_map(|known| {
            let room =
                known.port.outbox.lock().has_room_for_events(topic, bytes, &known.port.limits);
            let (resource, used, limit) = room.err()?;
            let plugin = known.port.plugin.as_str();
            Some(Fault::refused(&Refusal {
                resource,
                holder: plugin,
                used,
                limit,
                blame: plugin,
                retry_after_ms: TopicRoute::RETRY_AFTER_MS,
            }))
        })
    }

    /// Moves `completed` to what every blocking subscriber has taken. Says whether it moved.
    fn advance(&mut self) -> bool {
        let completed = self
            .subscribers
            .iter()
            .filter(|subscriber| subscriber.blocks())
            .map(|subscriber| subscriber.handed)
            .min()
            .unwrap_or(self.accepted);
        let moved = completed > self.completed;
        self.completed = self.completed.max(completed);
        while let Some(&(last, payload)) = self.unsettled.front() {
            if last > self.completed {
                break;
            }
            self.unsettled_payload -= payload;
            self.unsettled.pop_front();
        }
        moved
    }
}
