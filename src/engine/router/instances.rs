//! Several sessions of one plugin, and one that takes the place of another without losing a call.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::Router;
use super::entry::{Duty, Instance, Registration};
use super::presence::Attachment;
use crate::engine::effects::{Effects, Now};
use crate::engine::port::{Port, Route};
use crate::error::{Code, Fault, Refusal};
use crate::id::{PluginId, SessionId};
use crate::limit;
use crate::wire::body::Shutdown;

/// One live session of a plugin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct InstanceInfo {
    /// Its number among those of the plugin.
    pub instance: u32,
    /// Its session.
    pub session: SessionId,
    /// Whether it has registered, and has said that it is ready.
    pub is_ready: bool,
    /// Whether it has a share of what comes: it neither waits for a switch nor was replaced, nor
    /// does its supervisor stop it.
    pub is_serving: bool,
}

/// What a replacement offers that the replaced does not, and the other way round.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct RegistrationDifference {
    pub methods_added: Vec<String>,
    pub methods_removed: Vec<String>,
    /// The same name with other parameters, another result, or no longer idempotent.
    pub methods_changed: Vec<String>,
    pub channels_added: Vec<String>,
    pub channels_removed: Vec<String>,
    pub services_added: Vec<String>,
    pub services_removed: Vec<String>,
}

impl RegistrationDifference {
    /// Whether both offer the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn between(old: &Registration, new: &Registration) -> Self {
        let missing = |from: &[String], of: &[String]| {
            of.iter().filter(|name| !from.contains(name)).cloned().collect::<Vec<_>>()
        };
        let methods = |of: &Registration| names(of.methods.keys());
        let channels = |of: &Registration| names(of.channels.keys());
        let services = |of: &Registration| names(of.services.iter());
        let changed = new.methods.iter().filter(|(name, method)| {
            old.methods.get(*name).is_some_and(|before| {
                before.params != method.params
                    || before.result != method.result
                    || before.idempotent != method.idempotent
            })
        });
        Self {
            methods_added: missing(&methods(old), &methods(new)),
            methods_removed: missing(&methods(new), &methods(old)),
            methods_changed: names(changed.map(|(name, _)| name)),
            channels_added: missing(&channels(old), &channels(new)),
            channels_removed: missing(&channels(new), &channels(old)),
            services_added: missing(&services(old), &services(new)),
            services_removed: missing(&services(new), &services(old)),
        }
    }
}

impl Router {
    /// The live sessions of a plugin, the oldest first.
    #[must_use]
    pub fn instances(&self, plugin: &PluginId) -> Vec<InstanceInfo> {
        let Some(entry) = self.plugins.get(plugin) else { return Vec::new() };
        let is_supervised = entry.presence.is_managed();
        let instances = entry.instances.iter();
        instances
            .map(|known| InstanceInfo {
                instance: known.number,
                session: known.session,
                is_ready: known.registered && known.was_ready,
                is_serving: known.duty == Duty::Serving && !(is_supervised && known.is_ending),
            })
            .collect()
    }

    /// What changes for callers when `instance` takes the place of the one that it replaces; `None`
    /// when it replaces nothing or has not registered yet.
    #[must_use]
    pub fn compare(&self, plugin: &PluginId, instance: u32) -> Option<RegistrationDifference> {
        let entry = self.plugins.get(plugin)?;
        let new = entry.instances.iter().find(|known| known.number == instance)?;
        let Duty::Replacing(replaced) = new.duty else { return None };
        if !new.registered {
            return None;
        }
        let old = entry.serving().find(|known| known.number == replaced && known.registered);
        let old = old.map_or(&entry.last, |known| &known.serves);
        Some(RegistrationDifference::between(old, &new.serves))
    }

    /// Lets an instance take the place of the one that it replaces. New calls and events go to it
    /// from here on; channels follow when the other has acknowledged what it has. That one finishes
    /// its calls and is then told to leave. Nothing is left to do where that one has ended before:
    /// then the instance has its place already.
    ///
    /// # Errors
    ///
    /// There is no such instance, or it is not ready. Nothing has changed then.
    pub fn handle_switch(
        &mut self,
        plugin: &PluginId,
        instance: u32,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), Fault> {
        let entry = self.plugins.get_mut(plugin);
        let instances = entry.map_or(&mut [][..], |entry| &mut entry.instances);
        let is_heir = |known: &Instance| known.number == instance && known.duty == Duty::Serving;
        if instances.iter().any(|known| is_heir(known) && known.registered && known.was_ready) {
            return Ok(());
        }
        let new = instances
            .iter_mut()
            .find(|known| known.number == instance && matches!(known.duty, Duty::Replacing(_)));
        let Some(new) = new else {
            return Err(Fault::new(
                Code::NotFound,
                format!("no instance {instance} of `{plugin}` waits to take over"),
            ));
        };
        if !(new.registered && new.was_ready) {
            return Err(Fault::new(
                Code::Offline,
                format!("instance {instance} of `{plugin}` is not ready"),
            ));
        }
        let Duty::Replacing(replaced) = new.duty else { unreachable!("it was found as such") };
        new.duty = Duty::Serving;
        let joins = new.session;
        let mut leaving = Vec::new();
        for old in instances.iter_mut() {
            if old.number == replaced && old.duty == Duty::Serving && old.session != joins {
                old.duty = Duty::Retiring;
                leaving.push(old.session);
            }
        }
        let port = |session: &SessionId| Arc::clone(&self.sessions[session].port);
        let (joins, leaving) = (port(&joins), leaving.iter().map(port).collect::<Vec<_>>());
        self.refresh_plugin(plugin, now, fx);
        self.refresh_channels(plugin, now, fx);
        self.join_topics(&joins, fx);
        for old in &leaving {
            self.leave_topics(old, fx);
        }
        self.retiring = true;
        self.lower_deadline(now.mono + limit::RETIRE_INTERVAL, fx);
        fx.finish();
        Ok(())
    }

    /// A session that has the number of a new one makes room for it where the plugin is supervised:
    /// its process has ended, whoever holds the connection. Elsewhere it stays.
    pub(super) fn make_room(
        &mut self,
        plugin: &PluginId,
        attachment: Option<&Attachment>,
        fx: &mut Effects,
    ) -> Result<(), Fault> {
        let Some(attachment) = attachment else { return Ok(()) };
        let entry = self.plugins.get_mut(plugin).expect("it was remembered just now");
        let is_managed = entry.presence.is_managed();
        let same = entry
            .instances
            .iter_mut()
            .find(|known| known.number == attachment.instance && known.duty != Duty::Retiring);
        if let Some(known) = same {
            if !is_managed {
                return Err(Self::id_in_use(plugin, known.session));
            }
            known.duty = Duty::Retiring;
            let port = Arc::clone(&self.sessions[&known.session].port);
            port.kill("a newer session of the same instance has come", fx);
        } else if entry.instances.len() >= limit::INSTANCES_MAX {
            return Err(Fault::refused(&Refusal {
                resource: "instances",
                holder: plugin.as_str(),
                used: entry.instances.len() as u64,
                limit: limit::INSTANCES_MAX as u64,
                blame: plugin.as_str(),
                retry_after_ms: 1000,
            }));
        }
        Ok(())
    }

    /// Tells instances that were replaced and have finished what they had to leave. Gives the
    /// moment to look again.
    pub(super) fn retire_idle(&mut self, now: Now, fx: &mut Effects) -> Option<Duration> {
        if !self.retiring {
            return None;
        }
        let entries = self.plugins.values();
        let retiring = entries
            .flat_map(|entry| &entry.instances)
            .filter(|known| known.duty == Duty::Retiring && !known.told_to_stop);
        let ports = retiring.map(|known| Arc::clone(&self.sessions[&known.session].port));
        let (idle, busy): (Vec<_>, Vec<_>) =
            ports.filter(|port| port.is_open()).partition(|port| self.is_idle(port));
        for port in &idle {
            let shutdown = Shutdown {
                reason: Some("another instance has taken over".to_owned()),
                drain_ms: u64::try_from(limit::DRAIN_TIMEOUT.as_millis()).ok(),
            };
            self.send_shutdown(port, &shutdown, now, fx);
        }
        self.retiring = !busy.is_empty();
        self.retiring.then(|| now.mono + limit::RETIRE_INTERVAL)
    }

    /// Whether a session owes nothing to anybody.
    fn is_idle(&self, port: &Port) -> bool {
        // Relaxed: what has just been answered is seen the next time.
        if port.outstanding.load(Ordering::Relaxed) > 0 {
            return false;
        }
        let channels = self.channels_to.get(&port.plugin).into_iter().flatten();
        !channels.filter_map(|&number| self.route(number)).any(|route| match route {
            Route::Channel(channel) => channel.leads_to(port.session),
            _ => false,
        })
    }
}

fn names<T: ToString>(names: impl Iterator<Item = T>) -> Vec<String> {
    names.map(|name| name.to_string()).collect()
}
