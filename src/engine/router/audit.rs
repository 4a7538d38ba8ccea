//! Checks what must hold at every moment: for the simulator, after each step.

use std::collections::BTreeMap;

use super::{RouteEntry, Router, registration};
use crate::engine::ledger::Resource;
use crate::engine::port::Route;
use crate::engine::session::Session;
use crate::id::PluginId;

impl Router {
    /// Panics where a promise or an invariant does not hold: P1 for each class of traffic, and the
    /// ledger against the live objects.
    ///
    /// `sessions` are the inbound machines of the live sessions.
    pub fn audit<'a>(&self, sessions: impl Iterator<Item = &'a Session>) {
        for (class, tally) in self.tallies() {
            assert!(tally.is_balanced(), "P1 does not hold for {class}: {tally:?}");
        }
        let mut live: BTreeMap<(PluginId, Resource), u64> = BTreeMap::new();
        let mut count = |plugin: &PluginId, resource: Resource, amount: u64| {
            *live.entry((plugin.clone(), resource)).or_default() += amount;
        };
        for port in self.ports() {
            let plugin = &port.plugin;
            let entry = &self.plugins[plugin];
            if entry.registered {
                let size = registration::total(&entry.methods, &entry.channels, &entry.services);
                count(plugin, Resource::RegistrationBytes, size);
            }
            count(plugin, Resource::Sessions, 1);
            for (resource, bytes) in port.outbox.lock().counted_bytes() {
                count(plugin, resource, bytes);
            }
            let calls = port.calls.lock();
            count(plugin, Resource::Requests, calls.len() as u64);
            count(plugin, Resource::RequestBytes, calls.bytes());
            for (_, call) in calls.iter() {
                assert!(
                    self.sessions.contains_key(&call.callee.session),
                    "a call is open with a session that has ended"
                );
            }
        }
        for session in sessions {
            count(&session.port().plugin, Resource::ChunkBytes, session.assembled_bytes());
        }
        for ((session, ..), number) in &self.by_name {
            let port = &self.sessions[session].port;
            count(&port.plugin, Resource::Routes, 1);
            assert!(self.routes.contains_key(number), "a name leads to a route");
        }
        let is_topic = |entry: &&RouteEntry| matches!(entry.route, Route::Topic(_));
        assert_eq!(self.topics.len(), self.routes.values().filter(is_topic).count());
        for entry in self.routes.values() {
            match &entry.route {
                Route::Channel(channel) => {
                    channel.check();
                    count(&channel.sender.plugin, Resource::MessageBytes, channel.pending().1);
                    if channel.has_left() {
                        count(&channel.sender.plugin, Resource::Routes, 1);
                    }
                }
                Route::Topic(topic) => {
                    topic.check();
                    assert!(self.topics.contains(topic), "a topic is found by its name");
                }
                Route::Method(_) => (),
            }
        }
        for subscription in self.subscriptions.values() {
            count(subscription.plugin(), Resource::Subscriptions, 1);
        }
        for account in self.ledger.accounts() {
            for resource in Resource::ALL {
                let counted =
                    live.remove(&(account.plugin().clone(), resource)).unwrap_or_default();
                assert_eq!(
                    account.used(resource),
                    counted,
                    "the ledger differs from the live objects: {} of {}",
                    resource.name(),
                    account.plugin()
                );
            }
        }
        live.retain(|_, amount| *amount > 0);
        assert!(live.is_empty(), "live objects without an account: {live:?}");
    }

    /// Panics unless everything was given back. Only meaningful when nobody is there.
    pub(crate) fn check_empty(&self) {
        for account in self.ledger.accounts() {
            for resource in Resource::ALL {
                let used = account.used(resource);
                let (name, plugin) = (resource.name(), account.plugin());
                assert_eq!(used, 0, "{plugin} is still charged for {name}");
            }
        }
        let own = self.own_topics.len();
        assert_eq!(self.routes.len(), own, "routes of nobody are left");
        assert!(self.by_name.is_empty() && self.subscriptions.is_empty());
        assert!(self.methods_to.is_empty() && self.channels_to.is_empty());
    }

    /// The messages that were given up, the last ones.
    pub(crate) fn dead_letters(&self) -> &std::collections::VecDeque<super::DeadLetter> {
        &self.dead_letters
    }
}
