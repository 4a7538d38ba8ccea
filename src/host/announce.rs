//! Tells the broker, and whoever listens there, what became of plugins.
//!
//! A task of its own, because telling waits; the group that decides never does. It also brings back
//! what the broker has to say: that somebody wants a plugin that sleeps.

use super::alert::Alert;
use super::board::cause_text;
use super::logs::time_now;
use super::plugins::{Plugins, seat_of};
use super::tasks::Ticket;
use crate::broker::{Broker, BrokerError};
use crate::engine::supervise::{Cause, Changed, State};
use crate::id::PluginId;
use crate::supervise::Transition;

/// What the broker is told about the presence of plugins.
pub(crate) mod presence {
    use std::time::Duration;

    use super::State;
    use crate::broker::Broker;
    use crate::engine::Presence;
    use crate::supervise::ChildStatus;

    /// Before its group starts it.
    pub(crate) fn before_start(lazy: bool) -> Presence {
        if lazy { Presence::Sleeping } else { Presence::Managed { back_at: None } }
    }

    /// Of a plugin with these processes: as good as that of its best one.
    pub(crate) fn of(children: &[ChildStatus], reason: &str) -> Presence {
        let best = children.iter().min_by_key(|child| rank(child));
        let Some(child) = best else { return Presence::Unmanaged };
        match rank(child) {
            0 | 1 => Presence::Managed { back_at: None },
            2 => Presence::Managed { back_at: next_at(child) },
            3 => Presence::Sleeping,
            _ => Presence::Down {
                state: child.state.name().to_owned(),
                reason: reason.to_owned(),
                back_at: next_at(child),
            },
        }
    }

    fn next_at(child: &ChildStatus) -> Option<Duration> {
        child.next_in.map(|wait| Broker::now() + wait)
    }

    fn rank(child: &ChildStatus) -> u8 {
        match child.state {
            State::Ready | State::Busy | State::Replacing | State::HalfOpen => 0,
            State::Starting | State::Stopping => 1,
            // It waits for its turn, or for those that it needs.
            State::Stopped if child.waits.is_some() => 1,
            State::BackingOff => 2,
            State::Sleeping => 3,
            State::Stopped | State::Failed | State::Quarantined | State::Disabled => 4,
        }
    }
}

/// The task.
pub(crate) struct Announcer {
    plugins: Plugins,
    broker: Broker,
}

impl Announcer {
    /// Starts it on the current runtime. It ends when it has told everything: with its ticket, or
    /// with the broker.
    pub(crate) async fn start(plugins: &Plugins, mut ticket: Ticket) -> Result<(), BrokerError> {
        let mut transitions = plugins.transitions();
        let broker = plugins.broker().clone();
        let mut wanted = broker.wanted().await?;
        let announcer = Self { plugins: plugins.clone(), broker };
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    plugin = wanted.recv() => match plugin {
                        Some(plugin) => announcer.plugins.wake(&plugin),
                        None => break,
                    },
                    transition = transitions.next() => match transition {
                        Some(transition) => announcer.take(transition).await,
                        None => break,
                    },
                    () = ticket.ended() => break,
                }
            }
            while let Some(transition) = transitions.try_next() {
                announcer.take(transition).await;
            }
        });
        Ok(())
    }

    async fn take(&self, transition: Result<Transition, u64>) {
        match transition {
            Ok(transition) => self.announce(&transition).await,
            Err(missed) => self.catch_up(missed).await,
        }
    }

    /// More happened than there was room for: what counts is how things are now.
    async fn catch_up(&self, missed: u64) {
        log::warn!("{missed} changes of plugins were not announced");
        for plugin in self.plugins.ids() {
            let children = self.plugins.children_of(plugin.as_str());
            let presence = presence::of(&children, "several changes");
            if let Err(error) = self.broker.set_presence(&plugin, presence).await {
                return log::debug!("nobody is left to hear of {plugin}: {error}");
            }
        }
    }

    async fn announce(&self, transition: &Transition) {
        let changed = &transition.changed;
        let (name, instance) = seat_of(&changed.id);
        let Ok(plugin) = PluginId::parse(&name) else { return };
        let cause = cause_text(&changed.cause);
        let presence = presence::of(&self.plugins.children_of(&name), &cause);
        let told = async {
            self.broker.set_presence(&plugin, presence).await?;
            // One on trial that got ready stays in its state; whoever started it waits for that.
            if changed.from != changed.to || changed.cause == Cause::Reported {
                let state = changed.to.name();
                let event = serde_json::json!({
                    "id": name,
                    "instance": instance,
                    "state": state,
                    "from": changed.from.name(),
                    "cause": cause,
                    "generation": changed.generation,
                    "failures": changed.failures,
                });
                self.broker.publish_own(&format!("lifecycle.{name}.{state}"), &event).await?;
            }
            Ok::<(), BrokerError>(())
        };
        if let Err(error) = told.await {
            log::debug!("nobody is left to hear of {plugin}: {error}");
        }
        if changed.is_alert() {
            self.raise(&plugin, instance, changed, cause).await;
        }
    }

    /// Tells people. Nobody waits for it.
    pub(crate) async fn raise(
        &self,
        plugin: &PluginId,
        instance: u32,
        changed: &Changed,
        message: String,
    ) {
        let kind = match (&changed.cause, changed.to) {
            (Cause::Unkillable, _) => "unkillable",
            (_, State::Disabled) => "disabled",
            (_, State::Quarantined) => "quarantined",
            _ => "failed",
        };
        let name = plugin.as_str().to_owned();
        let alert = Alert { plugin: name, instance, kind, message, time: time_now() };
        raise(&self.plugins, plugin, alert).await;
    }
}

/// Publishes an alert and delivers it to whoever the plugin's manifest names.
pub(crate) async fn raise(plugins: &Plugins, plugin: &PluginId, alert: Alert) {
    let event = serde_json::to_value(&alert).expect("an alert is strings and numbers");
    if let Err(error) = plugins.broker().publish_own(&format!("alert.{plugin}"), &event).await {
        log::debug!("nobody is left to hear of {plugin}: {error}");
    }
    let Alert { plugin: name, kind, message, .. } = &alert;
    log::error!("alert: plugin {name} {kind}: {message}");
    let recipients = plugins.recipe(plugin).map(|recipe| recipe.recipients());
    plugins.courier().take(alert, recipients.unwrap_or_default());
}
