//! The topics that are open, in the order of their names, so that a subscription looks only at
//! those that it may want.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::topic::TopicRoute;
use crate::id::{Pattern, RouteId};
use crate::wire::body::RouteKind;

/// Invariant: exactly the routes to topics that the router has.
#[derive(Debug, Default)]
pub(super) struct Topics {
    named: BTreeMap<(String, RouteId), Arc<TopicRoute>>,
    broadcasts: BTreeMap<RouteId, Arc<TopicRoute>>,
}

impl Topics {
    pub(super) fn insert(&mut self, topic: &Arc<TopicRoute>) {
        let topic = Arc::clone(topic);
        match topic.kind {
            RouteKind::Broadcast => self.broadcasts.insert(topic.number, topic),
            _ => self.named.insert((topic.topic.as_str().to_owned(), topic.number), topic),
        };
    }

    pub(super) fn remove(&mut self, topic: &TopicRoute) {
        match topic.kind {
            RouteKind::Broadcast => self.broadcasts.remove(&topic.number),
            _ => self.named.remove(&(topic.topic.as_str().to_owned(), topic.number)),
        };
    }

    /// Topics that a pattern wants.
    pub(super) fn matching<'a>(
        &'a self,
        pattern: &'a Pattern,
    ) -> impl Iterator<Item = &'a Arc<TopicRoute>> {
        let prefix = pattern.prefix();
        self.named
            .range((prefix.to_owned(), RouteId(0))..)
            .take_while(move |((name, _), _)| name.starts_with(prefix))
            .map(|(_, topic)| topic)
            .filter(|topic| pattern.matches(&topic.topic))
    }

    pub(super) fn contains(&self, topic: &TopicRoute) -> bool {
        self.broadcasts.contains_key(&topic.number)
            || self.named.contains_key(&(topic.topic.as_str().to_owned(), topic.number))
    }

    pub(super) fn len(&self) -> usize {
        self.named.len() + self.broadcasts.len()
    }

    /// Routes to everybody.
    pub(super) fn broadcasts(&self) -> impl Iterator<Item = &Arc<TopicRoute>> {
        self.broadcasts.values()
    }
}
