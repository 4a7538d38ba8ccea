//! Checks what must hold at every moment: for the simulator, after each step.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{RouteEntry, Router, registration};
use crate::engine::calls::Phase;
use crate::engine::ledger::Resource;
use crate::engine::port::Route;
use crate::engine::session::Session;
use crate::id::{PluginId, RouteId};

impl Router {
    /// Panics where a promise or an invariant does not hold: P1 for each class of traffic, and the
    /// ledger against the live objects.
    ///
    /// `sessions` are the inbound machines of the live sessions.
    pub fn audit<'a>(&self, sessions: impl Iterator<Item = &'a Session>) {
        self.check(Some(sessions));
    }

    /// Whether the audit finds nothing, as far as the router alone can know: what a session has
    /// collected of chunked messages stays with its inbound machine. For a router that has
    /// panicked.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let check = || self.check(None::<std::iter::Empty<&Session>>);
        let checked = catch_unwind(AssertUnwindSafe(check));
        // What a failed assertion says is a text, whose destructor does nothing.
        checked.is_ok()
    }

    fn check<'a>(&self, sessions: Option<impl Iterator<Item = &'a Session>>) {
        let knows_sessions = sessions.is_some();
        for (class, tally) in self.tallies() {
            assert!(tally.is_balanced(), "P1 does not hold for {class}: {tally:?}");
        }
        // The router knows few plugins and many objects, so each object is one look-up.
        let mut live: BTreeMap<&PluginId, [u64; Resource::ALL.len()]> = BTreeMap::new();
        let mut held: BTreeMap<RouteId, u32> = BTreeMap::new();
        for port in self.ports() {
            let used = live.entry(&port.plugin).or_default();
            let mut count = |resource: Resource, amount| used[resource as usize] += amount;
            let instance = self.instance(port);
            if instance.registered {
                count(Resource::RegistrationBytes, registration::total(&instance.serves));
            }
            count(Resource::Sessions, 1);
            for (resource, bytes) in port.outbox.lock().counted_bytes() {
                count(resource, bytes);
            }
            let calls = port.calls.lock();
            count(Resource::Requests, calls.len() as u64);
            count(Resource::RequestBytes, calls.bytes());
            for (_, call) in calls.iter() {
                let is_suspended = matches!(call.phase, Phase::Held | Phase::Waiting);
                assert_eq!(call.callee.is_none(), is_suspended, "a call has a callee or waits");
                assert!(call.kept.is_some() || call.phase != Phase::Held, "held with its frames");
                assert!(
                    call.callee
                        .as_ref()
                        .is_none_or(|callee| self.sessions.contains_key(&callee.session)),
                    "a call is open with a session that has ended"
                );
                *held.entry(call.route.number).or_default() += u32::from(call.phase == Phase::Held);
            }
        }
        let mut count = |plugin, resource: Resource, amount: u64| {
            live.entry(plugin).or_default()[resource as usize] += amount;
        };
        for session in sessions.into_iter().flatten() {
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
                Route::Method(method) => {
                    let counted = held.remove(&method.number).unwrap_or_default();
                    assert_eq!(method.held(), counted, "the calls that are held are counted");
                }
            }
        }
        held.retain(|_, count| *count > 0);
        assert!(held.is_empty(), "calls are held on routes that have ended: {held:?}");
        for (id, entry) in &self.plugins {
            for instance in &entry.instances {
                let session = self.sessions.get(&instance.session);
                assert!(session.is_some_and(|known| known.port.plugin == *id));
            }
        }
        for subscription in self.subscriptions.values() {
            count(subscription.plugin(), Resource::Subscriptions, 1);
        }
        for account in self.ledger.accounts() {
            let counted = live.remove(account.plugin()).unwrap_or_default();
            for resource in Resource::ALL {
                if resource == Resource::ChunkBytes && !knows_sessions {
                    continue;
                }
                assert_eq!(
                    account.used(resource),
                    counted[resource as usize],
                    "the ledger differs from the live objects: {} of {}",
                    resource.name(),
                    account.plugin()
                );
            }
        }
        live.retain(|_, used| used.iter().any(|&amount| amount > 0));
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

    /// The messages and requests in quarantine, the last ones.
    pub(crate) fn quarantined(&self) -> &std::collections::VecDeque<super::Quarantined> {
        &self.quarantined
    }
}
