//! Subscriptions, broadcasts, and the events of the broker itself.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::entry::{Duty, State};
use super::{DeadLetter, RouteEntry, Router};
use crate::engine::effects::{Effects, Now};
use crate::engine::ledger::{Charge, Resource};
use crate::engine::outbox::EventPolicy;
use crate::engine::port::{Port, Route};
use crate::engine::run::Run;
use crate::engine::topic::TopicRoute;
use crate::error::{Code, Fault};
use crate::id::{Pattern, PluginId, RouteId, SessionId, Topic};
use crate::wire::body::{self, Role, RouteKind, Subscribe, Subscribed};
use crate::wire::{ContentType, Flags, FrameBuilder, Kind};

/// What one session wants to hear.
#[derive(Debug)]
pub(super) struct Subscription {
    port: Arc<Port>,
    pattern: Pattern,
    policy: EventPolicy,
    _charge: Charge,
}

impl Subscription {
    /// Whose it is.
    pub(super) fn plugin(&self) -> &PluginId {
        &self.port.plugin
    }
}

#[derive(Serialize)]
struct Lifecycle<'a> {
    id: &'a str,
    session: u64,
    incarnation: u64,
    instance: u32,
    state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Router {
    pub(super) fn subscribe(
        &mut self,
        port: &Arc<Port>,
        subscribe: &Subscribe,
        fx: &mut Effects,
    ) -> Result<Subscribed, Fault> {
        let pattern = Pattern::parse(&subscribe.pattern)?;
        let charge = port.account.try_charge(
            Resource::Subscriptions,
            1,
            u64::from(port.limits.subscriptions_max),
        )?;
        let usual = EventPolicy::usual(&port.limits);
        let (messages, bytes) = (subscribe.queue_messages, subscribe.queue_bytes);
        let policy = EventPolicy {
            overflow: subscribe.overflow,
            messages_max: messages.unwrap_or(usual.messages_max).clamp(1, usual.messages_max),
            bytes_max: bytes.unwrap_or(usual.bytes_max).clamp(1, port.limits.event_queue_bytes_max),
        };
        self.subscription_last += 1;
        let number = self.subscription_last;
        let subscription =
            Subscription { port: Arc::clone(port), pattern, policy, _charge: charge };
        if self.instance(port).duty == Duty::Serving {
            for topic in self.topics.matching(&subscription.pattern) {
                if !topic.has_subscriber(port.session) {
                    topic.add_subscriber(port, policy, fx);
                }
            }
        }
        self.subscriptions.insert((port.session, number), subscription);
        Ok(Subscribed { subscription: number })
    }

    pub(super) fn unsubscribe(
        &mut self,
        port: &Arc<Port>,
        number: u32,
        fx: &mut Effects,
    ) -> Result<(), Fault> {
        let Some(gone) = self.subscriptions.remove(&(port.session, number)) else {
            return Err(Fault::new(
                Code::NotFound,
                format!("this session has no subscription {number}"),
            ));
        };
        for topic in self.topics.matching(&gone.pattern) {
            match self.policy_for(port.session, &topic.topic) {
                _ if self.instance(port).duty != Duty::Serving => (),
                Some(policy) => topic.add_subscriber(port, policy, fx),
                None => topic.remove_subscriber(port.session, fx),
            }
        }
        Ok(())
    }

    pub(super) fn end_subscriptions(&mut self, port: &Arc<Port>, fx: &mut Effects) {
        let of_session = (port.session, 0)..=(port.session, u32::MAX);
        for (_, gone) in self.subscriptions.extract_if(of_session, |_, _| true) {
            for topic in self.topics.matching(&gone.pattern) {
                topic.remove_subscriber(port.session, fx);
            }
        }
        for topic in self.topics.broadcasts() {
            topic.remove_subscriber(port.session, fx);
        }
    }

    /// Gives a new topic its subscribers.
    pub(super) fn fill_subscribers(&self, route: &Arc<TopicRoute>, fx: &mut Effects) {
        if route.kind == RouteKind::Broadcast {
            let sender = route.publisher.as_ref().map(|port| port.session);
            for port in self.ports() {
                let instance = self.instance(port);
                let serves = instance.was_ready && instance.duty == Duty::Serving;
                if serves && port.role == Role::Plugin && Some(port.session) != sender {
                    route.add_subscriber(port, EventPolicy::usual(&port.limits), fx);
                }
            }
            return;
        }
        // Of each session the first one counts, and they stand together.
        let mut last = None;
        for ((session, _), subscription) in &self.subscriptions {
            if last != Some(session) && subscription.pattern.matches(&route.topic) {
                last = Some(session);
                if self.instance(&subscription.port).duty == Duty::Serving {
                    route.add_subscriber(&subscription.port, subscription.policy, fx);
                }
            }
        }
    }

    /// An instance that begins to serve gets what it has subscribed to.
    pub(super) fn join_topics(&self, port: &Arc<Port>, fx: &mut Effects) {
        if self.instance(port).was_ready {
            self.join_broadcasts(port, fx);
        }
        for (_, known) in self.subscriptions.range((port.session, 0)..=(port.session, u32::MAX)) {
            for topic in self.topics.matching(&known.pattern) {
                if !topic.has_subscriber(port.session) {
                    topic.add_subscriber(port, known.policy, fx);
                }
            }
        }
    }

    /// An instance that no longer serves keeps its subscriptions and gets nothing of them.
    pub(super) fn leave_topics(&self, port: &Arc<Port>, fx: &mut Effects) {
        for (_, known) in self.subscriptions.range((port.session, 0)..=(port.session, u32::MAX)) {
            for topic in self.topics.matching(&known.pattern) {
                topic.remove_subscriber(port.session, fx);
            }
        }
        for topic in self.topics.broadcasts() {
            topic.remove_subscriber(port.session, fx);
        }
    }

    /// A plugin that has become ready is told of broadcasts from here on.
    pub(super) fn join_broadcasts(&self, port: &Arc<Port>, fx: &mut Effects) {
        for topic in self.topics.broadcasts() {
            let is_own =
                topic.publisher.as_ref().is_some_and(|publisher| publisher.session == port.session);
            if !is_own {
                topic.add_subscriber(port, EventPolicy::usual(&port.limits), fx);
            }
        }
    }

    pub(super) fn publish_state(
        &mut self,
        port: &Port,
        state: State,
        reason: Option<&str>,
        now: Now,
        fx: &mut Effects,
    ) {
        let plugin = &port.plugin;
        let Some(entry) = self.plugins.get(plugin) else { return };
        let ended = || entry.ends.iter().rfind(|end| end.session == port.session);
        let instance = match entry.instance(port.session) {
            Some(instance) => instance.number,
            None => ended().map_or(0, |end| end.instance),
        };
        let event = Lifecycle {
            id: plugin.as_str(),
            session: port.session.0,
            incarnation: port.incarnation,
            instance,
            state: state.name(),
            reason,
        };
        let topic = format!("plugbus.lifecycle.{plugin}.{}", state.name());
        let body = body::encode(&event);
        self.publish_own(&topic, &body, now, fx);
    }

    /// Records messages that were given up, and says so.
    pub(super) fn bury(&mut self, letter: DeadLetter, now: Now, fx: &mut Effects) {
        let body = body::encode(&letter);
        if self.dead_letters.len() >= self.settings.limits.dead_letters_max {
            self.dead_letters.pop_front();
        }
        self.dead_letters.push_back(letter);
        self.publish_own("plugbus.dead", &body, now, fx);
    }

    /// Publishes an event of the broker, if anybody listens. The topic is one of `plugbus.>`.
    pub fn publish_own(&mut self, topic: &str, body: &[u8], now: Now, fx: &mut Effects) {
        let topic = Topic::parse(topic).expect("the broker's topics fit the grammar");
        let wanted =
            self.subscriptions.values().any(|subscription| subscription.pattern.matches(&topic));
        if !wanted {
            return;
        }
        let route = self.own_topic(topic, fx);
        let id = route.next_id();
        let bytes: Bytes = FrameBuilder::new(Kind::EVENT)
            .route(route.number)
            .message_id(id)
            .timestamp(now.unix)
            .content(ContentType::MessagePack)
            .build(b"", body);
        let run =
            Run { payload: body.len() as u64, bytes, first: id, count: 1, flags: Flags::default() };
        // Nobody blocks a topic of the broker, so that its window is never used up.
        if let Err(fault) = route.handle_events(run, fx) {
            log::error!("event of the broker on {}: {fault}", route.topic);
        }
    }

    fn own_topic(&mut self, topic: Topic, fx: &mut Effects) -> Arc<TopicRoute> {
        if let Some(route) = self.own_topics.get(&topic) {
            return Arc::clone(route);
        }
        if self.own_topics.len() >= Self::OWN_TOPICS_MAX {
            for (_, route) in std::mem::take(&mut self.own_topics) {
                route.close("it was not used for long", fx);
                self.forget_route(route.number);
            }
        }
        self.route_last += 1;
        let number = RouteId(self.route_last);
        let route = TopicRoute::new(number, None, topic.clone(), RouteKind::Topic, &self.tallies);
        let route = Arc::new(route);
        self.fill_subscribers(&route, fx);
        let entry = RouteEntry { route: Route::Topic(Arc::clone(&route)), _charge: None };
        self.routes.insert(number, entry);
        self.topics.insert(&route);
        self.own_topics.insert(topic, Arc::clone(&route));
        route
    }

    /// The policy of the lowest subscription of a session that wants the topic.
    fn policy_for(&self, session: SessionId, topic: &Topic) -> Option<EventPolicy> {
        self.subscriptions
            .range((session, 0)..=(session, u32::MAX))
            .find(|(_, known)| known.pattern.matches(topic))
            .map(|(_, known)| known.policy)
    }

    /// Topics of the broker that are kept at once.
    const OWN_TOPICS_MAX: usize = 1_024;
}
