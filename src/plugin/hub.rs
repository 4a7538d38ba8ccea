//! Events on their way from the connection to those who subscribed.

use parking_lot::Mutex;

use super::event::{Event, Gap, Received};
use super::feed::{Feed, FeedInput, feed};
use crate::error::Fault;
use crate::id::{Pattern, Topic};
use crate::peer::{Payload, PeerEvent};
use crate::wire::body::{Announce, RouteKind, Subscribe};

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
    feed: FeedInput,
}

impl Hub {
    /// Where the events come out that a subscription asks for.
    ///
    /// # Errors
    ///
    /// When its pattern is none.
    pub(super) fn subscribe(&self, request: &Subscribe) -> Result<(u64, Feed), Fault> {
        let pattern = Pattern::parse(&request.pattern)?;
        let (input, feed) = feed(request);
        let mut state = self.state.lock();
        state.next += 1;
        let number = state.next;
        state.subscribers.push(Subscriber { number, pattern, feed: input });
        Ok((number, feed))
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
        for subscriber in subscribers.iter().filter(|one| one.pattern.matches(topic)) {
            let (topic, from, payload) = (topic.clone(), from.clone(), payload.clone());
            subscriber.feed.push(Received::Event(Event { topic, from, id, timestamp, payload }));
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
        for subscriber in subscribers.iter().filter(|one| one.pattern.matches(&topic)) {
            let count = (last + 1).saturating_sub(first);
            let (topic, cause) = (Some(topic.clone()), cause.clone());
            subscriber.feed.push(Received::Gap(Gap { topic, count, cause }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit;
    use crate::wire::body::Overflow;

    /// Whoever takes events too slowly learns exactly how many it missed, and where.
    #[tokio::test]
    async fn what_a_feed_has_no_room_for_is_counted_where_it_is_missing() {
        type Case = (Overflow, &'static [&'static str]);
        let cases: &[Case] = &[
            (Overflow::DropOldest, &["4 missed", "5", "6", "7", "8"]),
            (Overflow::Conflate, &["4 missed", "5", "6", "7", "8"]),
            (Overflow::DropNewest, &["1", "2", "3", "4 missed", "8"]),
            (Overflow::Block, &["1", "2", "3", "4", "5", "6", "7", "8"]),
        ];
        for &(overflow, expected) in cases {
            let stage = Stage::new(Subscribe { overflow, queue_messages: Some(3), ..any() });
            let mut feed = stage.feed;
            (1..=7).for_each(|id| publish(&stage.hub, id, 0));
            let mut seen = Vec::new();
            // The last event comes when there is room again.
            let kept = expected.len() - 1;
            for _ in 0..kept {
                seen.push(name(feed.next().await.unwrap()));
            }
            publish(&stage.hub, 8, 0);
            seen.push(name(feed.next().await.unwrap()));
            assert_eq!(seen, expected, "{overflow:?}");
            stage.hub.close();
            assert!(feed.next().await.is_none());
        }
    }

    /// The newest are shed where nobody else waits; the receipt does not wait for another event.
    #[tokio::test]
    async fn one_who_blocks_keeps_so_many_bytes_and_is_told_of_the_rest() {
        let stage = Stage::new(Subscribe { overflow: Overflow::Block, ..any() });
        let mut feed = stage.feed;
        let size = 8 << 20;
        let fitting = limit::EVENT_QUEUE_BYTES_MAX / size;
        (1..=fitting + 2).for_each(|id| publish(&stage.hub, id, size as usize));
        for id in 1..=fitting {
            assert_eq!(name(feed.next().await.unwrap()), id.to_string());
        }
        assert_eq!(name(feed.next().await.unwrap()), "2 missed");
    }

    #[tokio::test]
    async fn an_event_that_is_larger_than_the_queue_waits_alone() {
        let stage = Stage::new(Subscribe { queue_bytes: Some(1), ..any() });
        let mut feed = stage.feed;
        (1..=3).for_each(|id| publish(&stage.hub, id, 100));
        assert_eq!(name(feed.next().await.unwrap()), "2 missed");
        assert_eq!(name(feed.next().await.unwrap()), "3");
    }

    /// What the broker says is missing is never lost here.
    #[tokio::test]
    async fn receipts_of_the_broker_survive_a_full_queue() {
        let stage = Stage::new(Subscribe { queue_messages: Some(1), ..any() });
        let mut feed = stage.feed;
        let (cause, topic) = ("the queue is full".to_owned(), Some("a.b".to_owned()));
        let missed = PeerEvent::Missed { slot: Some(0), first: 1, last: 5, cause, topic };
        assert!(stage.hub.handle(missed).is_none());
        publish(&stage.hub, 6, 0);
        assert_eq!(name(feed.next().await.unwrap()), "5 missed");
        assert_eq!(name(feed.next().await.unwrap()), "6");
    }

    struct Stage {
        hub: Hub,
        feed: Feed,
    }

    impl Stage {
        fn new(request: Subscribe) -> Self {
            let hub = Hub::default();
            let (_, feed) = hub.subscribe(&request).unwrap();
            let announce = Announce {
                route: 1,
                kind: RouteKind::Topic,
                name: "a.b".into(),
                from: "p".into(),
                ..Default::default()
            };
            hub.handle(PeerEvent::Announced { slot: 0, announce: Box::new(announce) });
            Self { hub, feed }
        }
    }

    fn any() -> Subscribe {
        Subscribe { pattern: "a.*".to_owned(), ..Subscribe::default() }
    }

    fn publish(hub: &Hub, id: u64, size: usize) {
        let payload = Payload { body: vec![0; size].into(), ..Payload::default() };
        let event = PeerEvent::Event { slot: 0, id, timestamp: 0, payload };
        assert!(hub.handle(event).is_none());
    }

    fn name(received: Received) -> String {
        match received {
            Received::Event(event) => event.id().to_string(),
            Received::Gap(gap) => format!("{} missed", gap.count),
        }
    }
}
