//! Who uses how much of what.
//!
//! Every live object owns a [`Charge`]; dropping the object refunds it, so that there is no code
//! path that forgets. An account belongs to a plugin id and outlives its sessions: opening more
//! connections buys nothing.
//!
//! Invariant: the sum of an account equals the charges alive. The simulator counts both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::{Fault, Refusal};
use crate::id::PluginId;

/// What is counted.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
#[repr(usize)]
pub enum Resource {
    /// Connections, each a descriptor.
    Sessions,
    /// Names resolved for a session.
    Routes,
    /// Patterns wanted.
    Subscriptions,
    /// Bytes of methods, channels and services that are registered.
    RegistrationBytes,
    /// Unanswered requests, as caller.
    Requests,
    /// Payload bytes of unanswered requests, as caller.
    RequestBytes,
    /// Bytes of messages kept until they are acknowledged, as sender.
    MessageBytes,
    /// Bytes of events in the queue, as subscriber.
    EventBytes,
    /// Bytes of responses in the queue, as caller.
    ResponseBytes,
    /// Bytes of the broker's own frames in the queue.
    ControlBytes,
    /// Bytes of frames in the queue that end what the peer has been told of.
    NoticeBytes,
    /// Bytes of unfinished chunked messages, as sender.
    ChunkBytes,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Sessions,
        Self::Routes,
        Self::Subscriptions,
        Self::RegistrationBytes,
        Self::Requests,
        Self::RequestBytes,
        Self::MessageBytes,
        Self::EventBytes,
        Self::ResponseBytes,
        Self::ControlBytes,
        Self::NoticeBytes,
        Self::ChunkBytes,
    ];

    /// Its name in refusals and in `status`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Routes => "routes",
            Self::Subscriptions => "subscriptions",
            Self::RegistrationBytes => "bytes of registrations",
            Self::Requests => "unanswered requests",
            Self::RequestBytes => "bytes of unanswered requests",
            Self::MessageBytes => "bytes of retained messages",
            Self::EventBytes => "bytes of queued events",
            Self::ResponseBytes => "bytes of queued responses",
            Self::ControlBytes => "bytes of queued control frames",
            Self::NoticeBytes => "bytes of queued notices",
            Self::ChunkBytes => "bytes of unfinished chunked messages",
        }
    }
}

/// What one plugin uses.
#[derive(Debug)]
pub struct Account {
    plugin: PluginId,
    used: [AtomicU64; Resource::ALL.len()],
}

impl Account {
    fn new(plugin: PluginId) -> Self {
        Self { plugin, used: Default::default() }
    }

    /// Takes `amount`, whatever the account holds already: the caller has checked its limit.
    pub fn charge(self: &Arc<Self>, resource: Resource, amount: u64) -> Charge {
        // Relaxed: the counter orders nothing else.
        self.used[resource as usize].fetch_add(amount, Ordering::Relaxed);
        Charge { account: Arc::clone(self), resource, amount }
    }

    /// Takes `amount` unless that would go over `limit`.
    ///
    /// # Errors
    ///
    /// 10007, with the explanation.
    pub fn try_charge(
        self: &Arc<Self>,
        resource: Resource,
        amount: u64,
        limit: u64,
    ) -> Result<Charge, Fault> {
        let used = self.used(resource);
        if used + amount > limit {
            return Err(self.refusal(resource, limit));
        }
        Ok(self.charge(resource, amount))
    }

    /// What is in use.
    #[must_use]
    pub fn used(&self, resource: Resource) -> u64 {
        self.used[resource as usize].load(Ordering::Relaxed)
    }

    /// Whose account it is.
    #[must_use]
    pub fn plugin(&self) -> &PluginId {
        &self.plugin
    }

    /// The fault for a holder that has reached `limit` by its own use.
    #[must_use]
    pub fn refusal(&self, resource: Resource, limit: u64) -> Fault {
        Fault::refused(&Refusal {
            resource: resource.name(),
            holder: self.plugin.as_str(),
            used: self.used(resource),
            limit,
            blame: self.plugin.as_str(),
            retry_after_ms: 0,
        })
    }
}

/// A part of an account in use. Dropping it gives it back.
#[derive(Debug)]
#[must_use = "dropping a charge refunds it"]
pub struct Charge {
    account: Arc<Account>,
    resource: Resource,
    amount: u64,
}

impl Charge {
    /// Makes it `amount`, whatever the account holds: the caller has checked its limit.
    pub(crate) fn resize(&mut self, amount: u64) {
        if amount > self.amount {
            // Relaxed: the counter orders nothing else.
            let used = &self.account.used[self.resource as usize];
            used.fetch_add(amount - self.amount, Ordering::Relaxed);
            self.amount = amount;
        } else {
            self.shrink_to(amount);
        }
    }

    /// Gives back all but `amount`.
    pub(crate) fn shrink_to(&mut self, amount: u64) {
        assert!(amount <= self.amount, "a charge only shrinks");
        self.refund(self.amount - amount);
        self.amount = amount;
    }

    /// How much it is.
    #[must_use]
    pub fn amount(&self) -> u64 {
        self.amount
    }

    fn refund(&self, amount: u64) {
        let before = self.account.used[self.resource as usize].fetch_sub(amount, Ordering::Relaxed);
        assert!(before >= amount, "an account never goes below zero");
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.refund(self.amount);
    }
}

/// All accounts.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: Mutex<BTreeMap<PluginId, Arc<Account>>>,
}

impl Ledger {
    /// The account of a plugin, made when it is first asked for.
    pub fn account(&self, plugin: &PluginId) -> Arc<Account> {
        let mut accounts = self.accounts.lock();
        Arc::clone(
            accounts
                .entry(plugin.clone())
                .or_insert_with(|| Arc::new(Account::new(plugin.clone()))),
        )
    }

    /// Forgets accounts that nobody uses.
    pub fn prune(&self) {
        self.accounts.lock().retain(|_, account| {
            Arc::strong_count(account) > 1
                || Resource::ALL.iter().any(|&resource| account.used(resource) > 0)
        });
    }

    /// Every account, by plugin.
    #[must_use]
    pub fn accounts(&self) -> Vec<Arc<Account>> {
        self.accounts.lock().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_a_charge_refunds_it() {
        let ledger = Ledger::default();
        let account = ledger.account(&PluginId::parse("web").unwrap());
        let mut first = account.charge(Resource::Routes, 3);
        let second = account.try_charge(Resource::Routes, 1, 4).unwrap();
        let refused = account.try_charge(Resource::Routes, 1, 4).unwrap_err();
        assert_eq!(refused.details["used"], 4);
        first.shrink_to(1);
        assert_eq!(account.used(Resource::Routes), 2);
        drop((first, second));
        assert_eq!(account.used(Resource::Routes), 0);
        drop(account);
        ledger.prune();
        assert!(ledger.accounts().is_empty());
    }
}
