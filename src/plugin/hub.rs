//! Events on their way from the connection to those who subscribed.

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::event::{Event, Gap, Received};
use crate::id::{Pattern, Topic};
use crate::limit;
use crate::peer::{Payload, PeerEvent};
use crate::wire::body::{Announce, RouteKind};

/// Subscriptions of one connection, and the topics that are announced on it.
#[derive(Debug, Default)]
pub(super) struct Hub {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By slot.
    topics: Vec<Option<Source>>,
    subscribers: Vec<Subscriber>,
    next: u64,
}

/// Who publishes what under a slot.
#[derive(Clone, Debug)]
struct Source {
    topic: Topic,
    from: std::sync::Arc<str>,
}

#[derive(Debug)]
struct Subscriber {
    number: u64,
    pattern: Pattern,
    queue: mpsc::Sender<Received>,
    /// Events for which the queue had no room since the last one that had.
    missed: u64,
}

impl Hub {
    /// Where the events of a pattern come out. The queue is bounded: one who does not read
    /// misses events, and is told how many.
    pub(super) fn subscribe(&self, pattern: Pattern) -> (u64, mpsc::Receiver<Received>) {
        let (queue, events) = mpsc::channel(limit::EVENT_QUEUE_MESSAGES as usize);
        let mut state = self.state.lock();
        state.next += 1;
        let number = state.next;
        state.subscribers.push(Subscriber { number, pattern, queue, missed: 0 });
        (number, events)
    }

    pub(super) fn unsubscribe(&self, number: u64) {
        self.state.lock().subscribers.retain(|subscriber| subscriber.number != number);
    }

    /// Takes what concerns events; the rest comes back.
    pub(super) fn handle(&self, event: PeerEvent) -> Option<PeerEvent> {
        match event {
            PeerEvent::Announced { slot, announce } => {
                match announce.kind {
                    RouteKind::Topic | RouteKind::Broadcast => self.announce(slot, &announce),
                    _ => return Some(PeerEvent::Announced { slot, announce }),
                }
                None
            }
            PeerEvent::Event { slot, id, timestamp, payload } => {
                self.publish(slot, id, timestamp, payload);
                None
            }
            PeerEvent::Missed { slot, first, last, cause, topic: Some(topic) } => {
                self.miss(slot, first, last, cause, topic);
                None
            }
            PeerEvent::Retired { slot, reason } => {
                let retired = self.state.lock().topics.get_mut(slot).and_then(Option::take);
                match retired {
                    Some(_) => None,
                    None => Some(PeerEvent::Retired { slot, reason }),
                }
            }
            event => Some(event),
        }
    }

    /// The connection has ended: every subscription ends after what it has.
    pub(super) fn close(&self) {
        self.state.lock().subscribers.clear();
    }

    fn announce(&self, slot: usize, announce: &Announce) {
        let Ok(topic) = Topic::parse(&announce.name) else {
            log::warn!("the broker announces {:?}, which is no topic", announce.name);
            return;
        };
        let mut state = self.state.lock();
        if state.topics.len() <= slot {
            state.topics.resize(slot + 1, None);
        }
        state.topics[slot] = Some(Source { topic, from: announce.from.as_str().into() });
    }

    fn publish(&self, slot: usize, id: u64, timestamp: u64, payload: Payload) {
        let mut state = self.state.lock();
        let State { topics, subscribers, .. } = &mut *state;
        let Some(Some(Source { topic, from })) = topics.get(slot) else { return };
        for subscriber in subscribers.iter_mut().filter(|one| one.pattern.matches(topic)) {
            let (topic, from, payload) = (topic.clone(), from.clone(), payload.clone());
            subscriber.push(Received::Event(Event { topic, from, id, timestamp, payload }));
        }
    }

    fn miss(&self, slot: Option<usize>, first: u64, last: u64, cause: String, topic: String) {
        let mut state = self.state.lock();
        let State { topics, subscribers, .. } = &mut *state;
        let announced = slot.and_then(|slot| topics.get(slot)?.as_ref());
        let topic = match announced {
            Some(source) => source.topic.clone(),
            None => match Topic::parse(&topic) {
                Ok(topic) => topic,
                Err(_) => return,
            },
        };
        for subscriber in subscribers.iter_mut().filter(|one| one.pattern.matches(&topic)) {
            let count = (last + 1).saturating_sub(first);
            let (topic, cause) = (Some(topic.clone()), cause.clone());
            subscriber.push(Received::Gap(Gap { topic, count, cause }));
        }
    }
}

impl Subscriber {
    fn push(&mut self, received: Received) {
        if self.missed > 0 {
            let gap = Gap {
                topic: None,
                count: self.missed,
                cause: "this subscription was not read fast enough".to_owned(),
            };
            if self.queue.try_send(Received::Gap(gap)).is_ok() {
                self.missed = 0;
            }
        }
        let size = received.count();
        // A closed queue belongs to a subscription that is about to be taken off the list.
        if self.missed > 0 || self.queue.try_send(received).is_err() {
            self.missed += size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever reads too slowly learns exactly how much it missed.
    #[test]
    fn what_a_subscription_has_no_room_for_is_counted() {
        let hub = Hub::default();
        let (_, mut events) = hub.subscribe(Pattern::parse("a.*").unwrap());
        let announce = Announce {
            route: 1,
            kind: RouteKind::Topic,
            name: "a.b".into(),
            from: "p".into(),
            ..Default::default()
        };
        hub.handle(PeerEvent::Announced { slot: 0, announce: Box::new(announce) });
        let room = limit::EVENT_QUEUE_MESSAGES;
        let publish = |id| {
            let event = PeerEvent::Event { slot: 0, id, timestamp: 0, payload: Payload::default() };
            assert!(hub.handle(event).is_none());
        };
        (1..=room + 7).for_each(publish);
        for id in 1..=room {
            let Ok(Received::Event(event)) = events.try_recv() else { panic!("{id} is missing") };
            assert_eq!((event.id(), event.topic()), (id, "a.b"));
        }
        publish(room + 8);
        let Ok(Received::Gap(gap)) = events.try_recv() else { panic!("no gap") };
        assert_eq!(gap.count, 7);
        assert!(matches!(events.try_recv(), Ok(Received::Event(event)) if event.id() == room + 8));
    }
}
