//! The plugins that the router knows: their ids, states and registrations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::entry::{Duty, PluginEntry, Registration, SessionEnd, State};
use super::presence::Attachment;
use super::{Router, registration};
use crate::engine::effects::{Effects, Now};
use crate::engine::port::Port;
use crate::error::{Code, Fault, Refusal};
use crate::id::{ChannelName, MethodName, PluginId, SessionId};
use crate::limit;
use crate::wire::body::{self, Hello, Register, Report, Role, Signal, Unregister};
use crate::wire::{ContentType, FrameBuilder, Kind};

impl Router {
    /// The id of a new session, and whether the broker has made it up.
    pub(super) fn choose_id(
        &mut self,
        hello: &Hello,
        attachment: Option<&Attachment>,
    ) -> Result<(PluginId, bool), Fault> {
        let expected = attachment.map(|attachment| &attachment.plugin);
        let asked = hello.id.as_deref().map(PluginId::parse).transpose()?;
        let id = match (asked, expected) {
            (Some(asked), Some(expected)) if asked != *expected => {
                return Err(Fault::new(
                    Code::IdMismatch,
                    format!("this connection is for `{expected}`, not for `{asked}`"),
                )
                .with("expected", expected.as_str())
                .with("asked", asked.as_str()));
            }
            (_, Some(expected)) => expected.clone(),
            (Some(asked), None) => asked,
            (None, None) => return Ok((self.next_client(), true)),
        };
        if let Some(entry) = self.plugins.get(&id)
            && attachment.is_none()
        {
            if entry.presence.is_managed() {
                return Err(Fault::new(
                    Code::IdInUse,
                    format!("`{id}` is supervised here; its id is kept for the process that is"),
                )
                .with("id", id.as_str()));
            }
            if let Some(session) = entry.session() {
                return Err(Self::id_in_use(&id, session));
            }
        }
        if self.is_service(&id) {
            return Err(Fault::new(Code::IdInUse, format!("`{id}` is the name of a service")));
        }
        Ok((id, false))
    }

    /// Makes sure that there is an entry. Old ones that nobody needs make room.
    pub(super) fn remember(&mut self, plugin: &PluginId, is_made_up: bool) -> Result<(), Fault> {
        if self.plugins.contains_key(plugin) {
            return Ok(());
        }
        let limits = &self.settings.limits;
        let max = limits.plugins_remembered_max.max(limits.sessions_max);
        if self.plugins.len() >= max {
            let is_idle = |id: &PluginId, entry: &PluginEntry| {
                !entry.is_live()
                    && !entry.presence.is_managed()
                    && !self.channels_to.contains_key(id)
            };
            let idle = self.plugins.iter().find(|&(id, entry)| is_idle(id, entry));
            let Some(idle) = idle.map(|(id, _)| id.clone()) else {
                return Err(Fault::refused(&Refusal {
                    resource: "plugins",
                    holder: "the broker",
                    used: self.plugins.len() as u64,
                    limit: max as u64,
                    blame: "all peers together",
                    retry_after_ms: 1000,
                }));
            };
            self.plugins.remove(&idle);
        }
        self.plugins.insert(plugin.clone(), PluginEntry::new(is_made_up));
        Ok(())
    }

    /// The same for a plugin of the host's, which always has its place.
    pub(super) fn remember_always(&mut self, plugin: &PluginId) {
        if !self.plugins.contains_key(plugin) {
            self.plugins.insert(plugin.clone(), PluginEntry::new(false));
        }
    }

    /// Takes a session out of its plugin. Says whether it crashed: it ended without having been
    /// asked to, and without a word. Whoever waited to take its place has it now.
    pub(super) fn note_session_end(
        &mut self,
        port: &Port,
        state: State,
        reason: &str,
        fx: &mut Effects,
    ) -> bool {
        let entry = self.plugins.get_mut(&port.plugin).expect("live plugins are known");
        let index = entry.instances.iter().position(|known| known.session == port.session);
        let gone = entry.instances.remove(index.expect("live sessions are instances"));
        let crashed = state == State::Died && !gone.told_to_stop;
        entry.state = state;
        let is_exit = gone.exit.is_some();
        entry.note_end(SessionEnd {
            session: port.session,
            instance: gone.number,
            incarnation: port.incarnation,
            text: gone.exit.map_or_else(|| reason.to_owned(), |exit| exit.text),
            is_exit,
        });
        if gone.registered && gone.duty == Duty::Serving {
            entry.last = gone.serves;
            registration::shrink(&mut entry.last);
        }
        if gone.duty == Duty::Serving {
            for heir in entry.inherit(gone.number) {
                self.join_topics(&self.sessions[&heir].port, fx);
            }
        }
        crashed
    }

    /// Forgets a peer that had no name of its own, once nothing is on its way to it.
    pub(super) fn forget_client(&mut self, plugin: &PluginId) {
        let entry = self.plugins.get(plugin).expect("it was known until now");
        let is_idle = !entry.is_live() && !entry.presence.is_managed();
        if is_idle && entry.ephemeral && !self.channels_to.contains_key(plugin) {
            self.plugins.remove(plugin);
        }
    }

    pub(super) fn register(
        &mut self,
        port: &Arc<Port>,
        register: Register,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), Fault> {
        let mut methods = BTreeMap::new();
        for method in register.methods {
            methods.insert(MethodName::parse(&method.name)?, method);
        }
        let mut channels = BTreeMap::new();
        for channel in register.channels {
            channels.insert(ChannelName::parse(&channel.name)?, channel.help);
        }
        let mut services = BTreeSet::new();
        for service in &register.services {
            let service = PluginId::parse(service)?;
            if self.plugins.contains_key(&service) {
                return Err(Fault::new(
                    Code::IdInUse,
                    format!("`{service}` is the id of a plugin and cannot be a service"),
                ));
            }
            services.insert(service);
        }
        let known = self.plugins.get_mut(&port.plugin).expect("live plugins are known");
        let instance = known.instance_mut(port.session).expect("live sessions are instances");
        let entry = &mut instance.serves;
        if !instance.registered {
            let inbox = ChannelName::parse(PluginId::INBOX).expect("it fits the grammar");
            entry.channels.insert(inbox, None);
        }
        // What is registered again replaces what there is.
        let new_methods = methods.keys().filter(|name| !entry.methods.contains_key(*name));
        let new_channels = channels.keys().filter(|name| !entry.channels.contains_key(*name));
        let new_services = services.iter().filter(|name| !entry.services.contains(*name));
        for (resource, count) in [
            ("registered methods", entry.methods.len() + new_methods.count()),
            ("registered channels", entry.channels.len() + new_channels.count()),
            ("registered services", entry.services.len() + new_services.count()),
        ] {
            if count > port.limits.registrations_max {
                return Err(Fault::refused(&Refusal {
                    resource,
                    holder: port.plugin.as_str(),
                    used: count as u64,
                    limit: port.limits.registrations_max as u64,
                    blame: port.plugin.as_str(),
                    retry_after_ms: 0,
                }));
            }
        }
        let new = Registration { methods, channels, services };
        let charge = &mut self.sessions.get_mut(&port.session).expect("it asks").registered;
        let kept = match instance.registered {
            true => charge.amount(),
            false => registration::total(entry),
        };
        let size = kept + registration::total(&new) - registration::replaced(entry, &new);
        registration::check_size(size, &port.plugin)?;
        charge.resize(size);
        entry.methods.extend(new.methods);
        entry.channels.extend(new.channels);
        entry.services.extend(new.services);
        instance.registered = true;
        self.refresh_plugin(&port.plugin, now, fx);
        self.refresh_channels(&port.plugin, now, fx);
        Ok(())
    }

    pub(super) fn unregister(
        &mut self,
        port: &Arc<Port>,
        unregister: &Unregister,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), Fault> {
        // All names are checked before the first one is taken away.
        let Unregister { methods, channels, services } = unregister;
        let methods = methods.iter().map(|name| MethodName::parse(name));
        let methods: BTreeSet<MethodName> = methods.collect::<Result<_, _>>()?;
        let channels = channels.iter().map(|name| ChannelName::parse(name));
        let channels: BTreeSet<ChannelName> = channels.collect::<Result<_, _>>()?;
        let services = services.iter().map(|name| PluginId::parse(name));
        let services: BTreeSet<PluginId> = services.collect::<Result<_, _>>()?;
        let known = self.plugins.get_mut(&port.plugin).expect("live plugins are known");
        let instance = known.instance_mut(port.session).expect("live sessions are instances");
        let entry = &mut instance.serves;
        let mut touched = vec![port.plugin.clone()];
        touched.extend(entry.services.iter().cloned());
        let gone_methods = entry.methods.extract_if(.., |name, _| methods.contains(name));
        let gone_channels = entry.channels.extract_if(.., |name, _| channels.contains(name));
        let gone_services = entry.services.extract_if(.., |name| services.contains(name));
        let gone = registration::total(&Registration {
            methods: gone_methods.collect(),
            channels: gone_channels.collect(),
            services: gone_services.collect(),
        });
        if instance.registered {
            let charge = &mut self.sessions.get_mut(&port.session).expect("it asks").registered;
            charge.resize(charge.amount() - gone);
        }
        for target in touched {
            self.refresh_methods(&target, now, fx);
        }
        self.refresh_channels(&port.plugin, now, fx);
        Ok(())
    }

    /// A state of the sender, or a notice to another plugin.
    pub(super) fn signal(
        &mut self,
        port: &Arc<Port>,
        signal: Signal,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), Fault> {
        let Some(to) = &signal.to else {
            let Some(state) = State::from_signal(&signal.name) else {
                return Err(Fault::new(
                    Code::NotFound,
                    format!(
                        "no state is called `{}`; a plugin is ready, busy, sleeping or failed",
                        signal.name
                    ),
                ));
            };
            self.set_state(port, state, now, fx);
            return Ok(());
        };
        if !Self::SIGNALS.contains(&signal.name.as_str()) {
            return Err(Fault::new(
                Code::NotFound,
                format!(
                    "no signal is called `{}`; there are {}",
                    signal.name,
                    Self::SIGNALS.join(", ")
                ),
            ));
        }
        let to = PluginId::parse(to)?;
        let targets = self.ports_of(&to, |instance| instance.duty == Duty::Serving);
        if targets.is_empty() {
            self.want(&to, fx);
            let sleeps = self.plugins.get(&to).is_some_and(|entry| entry.wanted);
            return if sleeps && signal.name == "wake" {
                Ok(())
            } else {
                Err(self.absent_plugin(&to, now))
            };
        }
        let notice = Signal {
            name: signal.name,
            to: None,
            from: Some(port.plugin.as_str().to_owned()),
            data: signal.data,
        };
        let frame = FrameBuilder::new(Kind::SIGNAL)
            .timestamp(now.unix)
            .content(ContentType::MessagePack)
            .build(b"", &body::encode(&notice));
        for target in targets {
            target.check_control_room()?;
            target.push_control(frame.clone(), fx);
        }
        Ok(())
    }

    pub(super) fn note_report(&mut self, port: &Port, report: Report) -> Result<(), Fault> {
        let size = body::encode(&report).len();
        if size > limit::REPORT_MAX {
            return Err(Fault::new(
                Code::TooLarge,
                format!("report of {size} bytes is over the limit of {}", limit::REPORT_MAX),
            ));
        }
        let entry = self.plugins.get_mut(&port.plugin).expect("live plugins are known");
        entry.metrics = report.metrics;
        Ok(())
    }

    /// What to say of a plugin that nobody has heard of.
    pub(super) fn unknown_plugin(&self, plugin: &PluginId) -> Fault {
        let known = self.plugins.iter().filter(|(_, entry)| entry.role == Role::Plugin);
        let services = self.plugins.values().flat_map(|entry| &entry.offers().services);
        let names = known.map(|(id, _)| id).chain(services).map(PluginId::as_str);
        not_found(&format!("no plugin is called `{plugin}`"), plugin.as_str(), names)
    }

    pub(super) fn is_service(&self, name: &PluginId) -> bool {
        let mut live = self.plugins.values().flat_map(|entry| &entry.instances);
        live.any(|instance| instance.serves.services.contains(name))
    }

    fn set_state(&mut self, port: &Arc<Port>, state: State, now: Now, fx: &mut Effects) {
        let entry = self.plugins.get_mut(&port.plugin).expect("live plugins are known");
        entry.state = state;
        let is_managed = entry.presence.is_managed();
        let instance = entry.instance_mut(port.session).expect("live sessions are instances");
        instance.state = state;
        let newly_ready = state == State::Ready && !instance.was_ready;
        instance.was_ready |= state == State::Ready;
        if newly_ready && instance.duty == Duty::Serving && port.role == Role::Plugin {
            self.join_broadcasts(port, fx);
        }
        if newly_ready && is_managed {
            self.refresh_plugin(&port.plugin, now, fx);
        }
        self.publish_state(port, state, None, now, fx);
    }

    pub(super) fn id_in_use(id: &PluginId, session: SessionId) -> Fault {
        Fault::new(
            Code::IdInUse,
            format!("`{id}` has a live session, {session}; ids belong to one session at a time"),
        )
        .with("id", id.as_str())
    }

    fn next_client(&mut self) -> PluginId {
        loop {
            self.client_last += 1;
            let id = PluginId::parse(&format!("client-{}", self.client_last))
                .expect("it fits the grammar");
            if !self.plugins.contains_key(&id) {
                return id;
            }
        }
    }

    /// Notices that one plugin may send to another.
    const SIGNALS: [&'static str; 4] = ["shutdown", "reload", "health-check", "wake"];
}

/// 10001 with the names that may have been meant.
pub(super) fn not_found<'a>(
    message: &str,
    wanted: &str,
    names: impl Iterator<Item = &'a str>,
) -> Fault {
    let mut close: Vec<(usize, &str)> = names
        .map(|name| (strsim::damerau_levenshtein(wanted, name), name))
        .filter(|&(distance, name)| distance <= 1 + wanted.len().max(name.len()) / 4)
        .collect();
    close.sort_unstable();
    close.dedup();
    close.truncate(3);
    let suggestions: Vec<&str> = close.into_iter().map(|(_, name)| name).collect();
    let message = match suggestions.first() {
        Some(name) => format!("{message}; did you mean `{name}`?"),
        None => message.to_owned(),
    };
    Fault::new(Code::NotFound, message).with("suggestions", suggestions)
}
