//! The plugins that the router knows: their ids, states and registrations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Router, registration};
use crate::engine::effects::{Effects, Now};
use crate::engine::port::Port;
use crate::error::{Code, Fault, Refusal};
use crate::id::{ChannelName, MethodName, PluginId, SessionId};
use crate::limit;
use crate::wire::body::{self, Hello, Register, Report, Role, Signal, Unregister};
use crate::wire::{ContentType, FrameBuilder, Kind};

/// One plugin id and what is known of it, also while it has no session.
#[derive(Debug)]
pub(super) struct PluginEntry {
    pub(super) incarnation: u64,
    pub(super) session: Option<SessionId>,
    pub(super) role: Role,
    pub(super) state: State,
    /// In this session: it has registered, and has said that it is ready.
    pub(super) registered: bool,
    pub(super) was_ready: bool,
    /// The broker made the id up; it is forgotten with the session.
    ephemeral: bool,
    pub(super) methods: BTreeMap<MethodName, body::Method>,
    pub(super) channels: BTreeMap<ChannelName, Option<String>>,
    pub(super) services: BTreeSet<PluginId>,
    pub(super) metrics: serde_json::Map<String, serde_json::Value>,
}

/// What a plugin is doing, as far as it has said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    Connected,
    Ready,
    Busy,
    Sleeping,
    Failed,
    Left,
    Died,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Sleeping => "sleeping",
            Self::Failed => "failed",
            Self::Left => "left",
            Self::Died => "died",
        }
    }

    fn from_signal(name: &str) -> Option<Self> {
        [Self::Ready, Self::Busy, Self::Sleeping, Self::Failed]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

impl Router {
    /// The id of a new session, and whether the broker has made it up.
    pub(super) fn choose_id(
        &mut self,
        hello: &Hello,
        expected: Option<&PluginId>,
    ) -> Result<(PluginId, bool), Fault> {
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
            && let Some(session) = entry.session
        {
            return Err(Fault::new(
                Code::IdInUse,
                format!(
                    "`{id}` has a live session, {session}; ids belong to one session at a time"
                ),
            )
            .with("id", id.as_str()));
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
        let max =
            self.settings.limits.plugins_remembered_max.max(self.settings.limits.sessions_max);
        if self.plugins.len() >= max {
            let idle = self
                .plugins
                .iter()
                .find(|(id, entry)| entry.session.is_none() && !self.channels_to.contains_key(*id))
                .map(|(id, _)| id.clone());
            let Some(idle) = idle else {
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
        self.plugins.insert(
            plugin.clone(),
            PluginEntry {
                incarnation: 0,
                session: None,
                role: Role::default(),
                state: State::Left,
                registered: false,
                was_ready: false,
                ephemeral: is_made_up,
                methods: BTreeMap::new(),
                channels: BTreeMap::new(),
                services: BTreeSet::new(),
                metrics: serde_json::Map::new(),
            },
        );
        Ok(())
    }

    /// Forgets a peer that had no name of its own, once nothing is on its way to it.
    pub(super) fn forget_client(&mut self, plugin: &PluginId) {
        let entry = self.plugins.get_mut(plugin).expect("it had a session until now");
        entry.was_ready = false;
        if entry.ephemeral && !self.channels_to.contains_key(plugin) {
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
        let entry = self.plugins.get_mut(&port.plugin).expect("live plugins are known");
        if !entry.registered {
            // What an earlier incarnation served counts no more.
            entry.methods.clear();
            entry.channels.clear();
            entry.services.clear();
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
        let charge = &mut self.sessions.get_mut(&port.session).expect("it asks").registered;
        let kept = match entry.registered {
            true => charge.amount(),
            false => registration::total(&entry.methods, &entry.channels, &entry.services),
        };
        let added = registration::total(&methods, &channels, &services);
        let size = kept + added - registration::replaced(entry, &methods, &channels, &services);
        registration::check_size(size, &port.plugin)?;
        charge.resize(size);
        entry.registered = true;
        entry.methods.extend(methods);
        entry.channels.extend(channels);
        entry.services.extend(services.iter().cloned());
        let services: Vec<PluginId> = entry.services.iter().cloned().collect();
        self.refresh_methods(&port.plugin);
        for service in services {
            self.refresh_methods(&service);
        }
        self.refresh_channels(port, now, fx);
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
        let entry = self.plugins.get_mut(&port.plugin).expect("live plugins are known");
        let mut touched = vec![port.plugin.clone()];
        touched.extend(entry.services.iter().cloned());
        let gone_methods = entry.methods.extract_if(.., |name, _| methods.contains(name));
        let gone_channels = entry.channels.extract_if(.., |name, _| channels.contains(name));
        let gone_services = entry.services.extract_if(.., |name| services.contains(name));
        let gone = registration::total(
            &gone_methods.collect(),
            &gone_channels.collect(),
            &gone_services.collect(),
        );
        if entry.registered {
            let charge = &mut self.sessions.get_mut(&port.session).expect("it asks").registered;
            charge.resize(charge.amount() - gone);
        }
        for target in touched {
            self.refresh_methods(&target);
        }
        self.refresh_channels(port, now, fx);
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
        let Some(target) = self.live_port(&to) else {
            return Err(self.absent_plugin(&to));
        };
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
        target.check_control_room()?;
        target.push_control(frame, fx);
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

    /// What to say of a plugin that has no session.
    pub(super) fn absent_plugin(&self, plugin: &PluginId) -> Fault {
        if let Some(entry) = self.plugins.get(plugin) {
            return Fault::new(
                Code::Offline,
                format!("`{plugin}` has no session; it {}", entry.state.name()),
            )
            .with("plugin", plugin.as_str())
            .with("incarnation", entry.incarnation);
        }
        let known = self.plugins.iter().filter(|(_, entry)| entry.role == Role::Plugin);
        let services = self.plugins.values().flat_map(|entry| &entry.services);
        let names = known.map(|(id, _)| id).chain(services).map(PluginId::as_str);
        not_found(&format!("no plugin is called `{plugin}`"), plugin.as_str(), names)
    }

    pub(super) fn is_service(&self, name: &PluginId) -> bool {
        self.plugins.values().any(|entry| entry.session.is_some() && entry.services.contains(name))
    }

    fn set_state(&mut self, port: &Arc<Port>, state: State, now: Now, fx: &mut Effects) {
        let entry = self.plugins.get_mut(&port.plugin).expect("live plugins are known");
        entry.state = state;
        let newly_ready = state == State::Ready && !entry.was_ready;
        entry.was_ready |= state == State::Ready;
        if newly_ready && entry.role == Role::Plugin {
            self.join_broadcasts(port, fx);
        }
        self.publish_state(&port.plugin.clone(), state, None, now, fx);
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
