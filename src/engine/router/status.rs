//! Answers to queries.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::Router;
use super::entry::{Duty, PluginEntry};
use super::plugins::not_found;
use crate::engine::effects::Now;
use crate::engine::ledger::Resource;
use crate::engine::port::Route;
use crate::engine::tally::TallySnapshot;
use crate::error::{Code, Fault};
use crate::id::{ChannelName, PluginId};
use crate::wire::body::Query;

impl Router {
    /// The three sums of promise P1, with what is pending counted from the live objects.
    #[must_use]
    pub fn tallies(&self) -> [(&'static str, TallySnapshot); 3] {
        let requests = self.ports().map(|port| port.calls.lock().len() as u64).sum();
        let events = self.ports().map(|port| port.outbox.lock().event_messages()).sum();
        let messages = self
            .routes
            .values()
            .filter_map(|entry| match &entry.route {
                Route::Channel(channel) => Some(channel.pending().0),
                _ => None,
            })
            .sum();
        [
            ("requests", self.tallies.requests.snapshot(requests)),
            ("messages", self.tallies.messages.snapshot(messages)),
            ("events", self.tallies.events.snapshot(events)),
        ]
    }

    /// What `status` answers.
    #[must_use]
    pub fn status(&self, now: Now) -> Value {
        let mut status = json!({
            "broker": self.settings.name,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_ms": millis(now.mono.saturating_sub(self.started)),
            "sessions": self.sessions.len(),
            "routes": self.routes.len(),
            "subscriptions": self.subscriptions.len(),
            "dead_letters": self.dead_letters,
            "quarantined": self.quarantined,
            "plugins": self.plugin_rows(Some(now)),
            "ledger": self.ledger_rows(),
        });
        let tally: BTreeMap<_, _> = self.tallies().into_iter().collect();
        status["tally"] = json!(tally);
        status
    }

    pub(super) fn query(&self, query: &Query, now: Now) -> Result<Value, Fault> {
        match query.what.as_str() {
            "plugins" => Ok(json!({ "plugins": self.plugin_rows(None) })),
            "status" => Ok(self.status(now)),
            "plugin" => {
                let id = query.id.as_deref().ok_or_else(|| {
                    Fault::new(Code::Malformed, "control body: missing field `id`")
                })?;
                let id = PluginId::parse(id)?;
                match self.plugins.get(&id) {
                    Some(entry) => Ok(self.plugin_details(&id, entry)),
                    None if self.is_service(&id) => Ok(self.service_details(&id)),
                    None => Err(self.unknown_plugin(&id)),
                }
            }
            what => {
                let message = format!("no query is called `{what}`");
                Err(not_found(&message, what, ["plugins", "plugin", "status"].into_iter()))
            }
        }
    }

    fn plugin_rows(&self, now: Option<Now>) -> Vec<Value> {
        let oldest = now.map(|now| self.oldest_unanswered(now)).unwrap_or_default();
        self.plugins
            .iter()
            .map(|(id, entry)| {
                let mut row = self.plugin_row(id, entry);
                row["methods"] = json!(entry.offers().methods.len());
                if let Some(now) = now {
                    row["oldest_unanswered_ms"] = json!(oldest.get(id).map(|&age| millis(age)));
                    row["unanswered_ping_ms"] = json!(
                        self.live_port(id).and_then(|port| port.unanswered_ping(now)).map(millis)
                    );
                    row["metrics"] = json!(entry.metrics);
                }
                row
            })
            .collect()
    }

    fn plugin_row(&self, id: &PluginId, entry: &PluginEntry) -> Value {
        let offers = entry.offers();
        let mut row = json!({
            "id": id.as_str(),
            "state": entry.state.name(),
            "role": entry.role,
            "incarnation": entry.incarnation,
            "session": entry.session().map(|session| session.to_string()),
            "channels": offers.channels.keys().map(ChannelName::as_str).collect::<Vec<_>>(),
            "services": offers.services.iter().map(PluginId::as_str).collect::<Vec<_>>(),
        });
        if entry.presence.is_managed() {
            row["instances"] = json!(self.instance_rows(entry));
        }
        row
    }

    fn instance_rows(&self, entry: &PluginEntry) -> Vec<Value> {
        let row = |known: &super::entry::Instance| {
            let port = &self.sessions[&known.session].port;
            let duty = match known.duty {
                Duty::Serving => "serving",
                Duty::Replacing(_) => "replacing",
                Duty::Retiring => "retiring",
            };
            json!({
                "instance": known.number,
                "session": known.session.to_string(),
                "incarnation": port.incarnation,
                "state": known.state.name(),
                "duty": duty,
                // Relaxed: a figure to look at.
                "unanswered": port.outstanding.load(Ordering::Relaxed),
            })
        };
        entry.instances.iter().map(row).collect()
    }

    fn plugin_details(&self, id: &PluginId, entry: &PluginEntry) -> Value {
        let mut details = self.plugin_row(id, entry);
        details["methods"] = json!(entry.offers().methods.values().collect::<Vec<_>>());
        details["channels"] = json!(
            entry
                .offers()
                .channels
                .iter()
                .map(|(name, help)| json!({ "name": name.as_str(), "help": help }))
                .collect::<Vec<_>>()
        );
        details
    }

    /// A service looks like a plugin that has the methods of all who serve it.
    fn service_details(&self, id: &PluginId) -> Value {
        let offers = self.plugins.values().map(PluginEntry::offers);
        let serving = offers.filter(|offers| offers.services.contains(id));
        let methods: BTreeMap<_, _> = serving.flat_map(|offers| offers.methods.iter()).collect();
        json!({
            "id": id.as_str(),
            "state": "service",
            "methods": methods.values().collect::<Vec<_>>(),
            "channels": [],
            "services": [],
        })
    }

    /// Age of the oldest call that each plugin has not answered.
    fn oldest_unanswered(&self, now: Now) -> BTreeMap<PluginId, Duration> {
        let mut oldest: BTreeMap<PluginId, Duration> = BTreeMap::new();
        for port in self.ports() {
            for (_, call) in port.calls.lock().iter() {
                let age = now.mono.saturating_sub(call.accepted_at);
                let Some(callee) = &call.callee else { continue };
                let known = oldest.entry(callee.plugin.clone()).or_default();
                *known = age.max(*known);
            }
        }
        oldest
    }

    fn ledger_rows(&self) -> Vec<Value> {
        let mut rows = Vec::new();
        for account in self.ledger.accounts() {
            for resource in Resource::ALL {
                let used = account.used(resource);
                if used > 0 {
                    rows.push(json!({
                        "plugin": account.plugin().as_str(),
                        "resource": resource.name(),
                        "used": used,
                    }));
                }
            }
        }
        rows
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
