//! What people order about one plugin.

use super::{CommandError, Plugins, seat_of};
use crate::engine::supervise::{Answer, ChildId, Refusal, State};
use crate::supervise::GroupHandle;

/// What becomes of a plugin for which a command was accepted.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Ordered {
    /// In words, after the plugin's name.
    pub answer: String,
    /// Those of its processes with which something is on its way now; what comes of it is in their
    /// changes.
    pub awaited: Vec<u32>,
}

impl Plugins {
    /// Starts a plugin that is not running, whatever kept it from that.
    ///
    /// # Errors
    ///
    /// When there is none of that name, or everything is being stopped.
    pub fn start_plugin(&self, plugin: &str) -> Result<Ordered, CommandError> {
        self.command(plugin, "is started", GroupHandle::start_child)
    }

    /// Stops a plugin until a command starts it again.
    ///
    /// # Errors
    ///
    /// As [`start_plugin`](Self::start_plugin).
    pub fn stop_plugin(&self, plugin: &str) -> Result<Ordered, CommandError> {
        self.command(plugin, "is stopped", GroupHandle::stop)
    }

    /// Ends a plugin by force, until a command starts it again.
    ///
    /// # Errors
    ///
    /// As [`start_plugin`](Self::start_plugin).
    pub fn kill_plugin(&self, plugin: &str) -> Result<Ordered, CommandError> {
        self.command(plugin, "is killed", GroupHandle::kill)
    }

    /// Stops a plugin and starts it again, which does not count as a failure.
    ///
    /// # Errors
    ///
    /// As [`start_plugin`](Self::start_plugin).
    pub fn restart_plugin(&self, plugin: &str) -> Result<Ordered, CommandError> {
        self.command(plugin, "is started again", GroupHandle::restart)
    }

    /// Starts a successor beside a plugin; when it is ready, it takes over without a lost call.
    ///
    /// # Errors
    ///
    /// As [`start_plugin`](Self::start_plugin).
    pub fn replace_plugin(&self, plugin: &str) -> Result<Ordered, CommandError> {
        self.command(plugin, "is replaced", GroupHandle::replace)
    }

    fn command(
        &self,
        plugin: &str,
        done: &str,
        command: fn(&GroupHandle, &ChildId) -> Result<Answer, Refusal>,
    ) -> Result<Ordered, CommandError> {
        let children = self.children_of(plugin);
        if children.is_empty() {
            return Err(self.unknown(plugin));
        }
        let mut answer = None;
        let mut awaited = Vec::new();
        let mut refused = None;
        // What one of them refuses is no reason to leave out the others.
        for child in children {
            let one = match command(&self.inner.group, &child.spec.id) {
                Ok(one) => one,
                Err(refusal) => {
                    let (plugin, reason) = (plugin.to_owned(), refusal.to_string());
                    refused.get_or_insert(CommandError::Refused { plugin, reason });
                    continue;
                }
            };
            let is_on_its_way = matches!(
                one,
                Answer::Accepted
                    | Answer::Already(State::Starting | State::Stopping | State::Replacing)
            );
            if is_on_its_way {
                awaited.push(seat_of(&child.spec.id).1);
            }
            // One of several that has something to do is what people want to hear of.
            if answer.is_none() || one == Answer::Accepted {
                answer = Some(one);
            }
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
        let answer = match answer {
            Some(Answer::Already(state)) => format!("is {state} already"),
            _ => done.to_owned(),
        };
        Ok(Ordered { answer, awaited })
    }
}
