//! The route of one publisher to one topic, or to everybody.
//!
//! A frame is queued for every subscriber as one shared slice. Slow subscribers shed by their own
//! policy; only those that asked to block hold the publisher's window.
//!
//! Invariant: `completed <= accepted`, equal while nobody blocks.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::effects::{Effects, Now};
use super::outbox::EventPolicy;
use super::plain::for_features;
use super::port::{Port, announce_frame, close_frame};
use super::run::Run;
use super::tally::{End, Tallies};
use crate::error::{Code, Fault};
use crate::id::{RouteId, SessionId, Topic};
use crate::wire::body::{Announce, Credit, Overflow, RouteKind};
use crate::wire::{FrameBuilder, Kind};

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
    /// Runs that a blocking subscriber has not taken: last id and payload.
    unsettled: VecDeque<(u64, u64)>,
    unsettled_payload: u64,
}

#[derive(Debug)]
struct Subscriber {
    port: Arc<Port>,
    policy: EventPolicy,
    announced: bool,
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
        &self,
        port: &Arc<Port>,
        mut policy: EventPolicy,
        now: Now,
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
                announced: false,
                handed,
            }),
        }
        // One that blocked may do so no longer.
        if state.advance() {
            let progress = (state.accepted, state.completed);
            drop(state);
            self.acknowledge(progress, now, fx);
        }
    }

    /// Takes a subscriber away. What is queued for it still goes out.
    pub(crate) fn remove_subscriber(&self, session: SessionId, now: Now, fx: &mut Effects) {
        let mut state = self.state.lock();
        let Some(index) = state.subscribers.iter().position(|known| known.port.session == session)
        else {
            return;
        };
        let gone = state.subscribers.remove(index);
        let moved = state.advance();
        let progress = (state.accepted, state.completed);
        drop(state);
        if gone.announced {
            // Who hears itself goes on publishing: a close would be about both directions.
            let is_own = self.publisher.as_ref().is_some_and(|port| port.session == session);
            let close = match is_own {
                true => Bytes::new(),
                false => close_frame(self.number, "the subscription ended", now),
            };
            gone.port.push_event_control(close, Some((self.number, progress.0)), fx);
        }
        if moved {
            self.acknowledge(progress, now, fx);
        }
    }

    /// Takes events from the publisher.
    pub(crate) fn handle_events(
        self: &Arc<Self>,
        mut run: Run,
        now: Now,
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
            state.accepted = run.last();
            state.unsettled.push_back((run.last(), run.payload));
            state.unsettled_payload += run.payload;
            self.fan_out(&mut state, &run, now, fx);
            state.advance();
            let progress = (state.accepted, state.completed);
            drop(state);
            self.acknowledge(progress, now, fx);
        }
        overrun.map_or(Ok(()), Err)
    }

    /// Notes that a blocking subscriber's events up to `last` are being written.
    pub(crate) fn hand_over(&self, session: SessionId, last: u64, now: Now, fx: &mut Effects) {
        let mut state = self.state.lock();
        let known = state.subscribers.iter_mut().find(|known| known.port.session == session);
        if let Some(known) = known {
            known.handed = known.handed.max(last);
            if state.advance() {
                let progress = (state.accepted, state.completed);
                drop(state);
                self.acknowledge(progress, now, fx);
            }
        }
    }

    /// Ends the route: no event will come on it any more.
    pub(crate) fn close(&self, reason: &str, now: Now, fx: &mut Effects) {
        let (subscribers, accepted) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.subscribers), state.accepted)
        };
        for gone in subscribers.iter().filter(|gone| gone.announced) {
            let close = close_frame(self.number, reason, now);
            gone.port.push_event_control(close, Some((self.number, accepted)), fx);
        }
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

    fn fan_out(self: &Arc<Self>, state: &mut TopicState, run: &Run, now: Now, fx: &mut Effects) {
        for subscriber in &mut state.subscribers {
            let port = &subscriber.port;
            if !subscriber.announced {
                subscriber.announced = true;
                port.push_event_control(announce_frame(&self.announcement(), now), None, fx);
            }
            let bytes = for_features(run.bytes.clone(), run.flags, port.features);
            let run = Run { bytes, ..run.clone() };
            let shed =
                port.outbox.lock().push_events(&run, self, &subscriber.policy, &port.account);
            let Some(shed) = shed else { continue };
            self.tallies.events.accept(run.count);
            self.tallies.events.end(End::Shed, shed);
            fx.touch(port);
        }
    }

    fn announcement(&self) -> Announce {
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

    fn acknowledge(&self, (accepted, completed): (u64, u64), now: Now, fx: &mut Effects) {
        if let Some(publisher) = &self.publisher {
            let ack = FrameBuilder::new(Kind::ACK)
                .route(self.number)
                .message_id(completed)
                .timestamp(now.unix)
                .build(b"", &accepted.to_le_bytes());
            publisher.push_control(ack, fx);
        }
    }
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
