//! What a step of the engine leaves to be done by whoever drives it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::channel::Channel;
use super::port::Port;
use super::router::Change;
use crate::id::PluginId;

/// The time, as an argument.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Now {
    /// Since some fixed moment; never goes back.
    pub mono: Duration,
    /// Unix nanoseconds, for timestamps only.
    pub unix: u64,
}

/// Collected while frames are handled, acted upon once per batch.
#[derive(Debug, Default)]
pub struct Effects {
    touched: Vec<Arc<Port>>,
    dirty: Vec<Arc<Channel>>,
    changes: Vec<Change>,
    deadline_moved: bool,
    wanted: Vec<PluginId>,
}

impl Effects {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The session has something to write or to end.
    pub(crate) fn touch(&mut self, port: &Arc<Port>) {
        // Relaxed: the flag only spares a second wake-up in the same batch; the outbox lock orders
        // the content.
        if !port.touched.swap(true, Ordering::Relaxed) {
            self.touched.push(Arc::clone(port));
        }
    }

    /// The channel's sender has to be told how far it is.
    pub(crate) fn report(&mut self, channel: &Arc<Channel>) {
        if !channel.dirty.swap(true, Ordering::Relaxed) {
            self.dirty.push(Arc::clone(channel));
        }
    }

    pub(crate) fn change(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// The supervisor of a plugin that sleeps has to start it.
    pub(crate) fn want(&mut self, plugin: &PluginId) {
        self.wanted.push(plugin.clone());
    }

    pub(crate) fn move_deadline(&mut self) {
        self.deadline_moved = true;
    }

    /// Ends a batch: one acknowledgement for each channel that moved.
    pub fn finish(&mut self) {
        while let Some(channel) = self.dirty.pop() {
            channel.dirty.store(false, Ordering::Relaxed);
            channel.report(self);
        }
    }

    /// Wakes every session that has something to write, once.
    pub fn wake(&mut self) {
        for port in self.touched.drain(..) {
            port.touched.store(false, Ordering::Relaxed);
            port.wake();
        }
    }

    /// What the router has to decide, in order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Plugins that sleep and that somebody wants.
    pub fn take_wanted(&mut self) -> Vec<PluginId> {
        std::mem::take(&mut self.wanted)
    }

    /// Whether a deadline came that is earlier than all before.
    pub fn take_deadline_moved(&mut self) -> bool {
        std::mem::take(&mut self.deadline_moved)
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.touched.is_empty() && self.dirty.is_empty() && self.changes.is_empty()
    }
}

/// A batch that was cut short by a panic still wakes whom it touched: their flags would otherwise
/// keep later batches from doing so.
impl Drop for Effects {
    fn drop(&mut self) {
        for channel in self.dirty.drain(..) {
            channel.dirty.store(false, Ordering::Relaxed);
        }
        self.wake();
    }
}
