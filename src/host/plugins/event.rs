//! What happens to plugins, and who is told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::RegistrationDifference;
use crate::engine::supervise::State;
use crate::host::exit::Exit;
use crate::host::logs::LogStore;
use crate::host::output::Stream;
use crate::id::PluginId;

/// What happens to plugins, for whoever shows it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PluginEvent {
    /// Its process runs.
    Started {
        /// Which plugin.
        id: PluginId,
        /// Its process.
        pid: u32,
    },
    /// It serves.
    Ready {
        /// Which plugin.
        id: PluginId,
        /// How long it took.
        after: Duration,
    },
    /// It printed a line.
    Printed {
        /// Which plugin.
        id: PluginId,
        /// Where.
        stream: Stream,
        /// What, without the line end.
        line: String,
    },
    /// Its process has ended.
    Exited {
        /// Which plugin.
        id: PluginId,
        /// How.
        exit: Exit,
        /// Whether it had been asked to.
        expected: bool,
    },
    /// It went from one state to another.
    Changed {
        /// Which plugin.
        id: PluginId,
        /// Which of its processes, from 0.
        instance: u32,
        /// The state before.
        from: State,
        /// The state after.
        to: State,
        /// Why, for people.
        cause: String,
        /// When it is tried again, where that is decided.
        next_try: Option<Duration>,
    },
    /// A successor is ready to take over; what callers find different then.
    Compared {
        /// Which plugin.
        id: PluginId,
        /// What it offers that the other did not, and the other way round.
        difference: RegistrationDifference,
    },
}

/// Whoever wants to see what happens.
#[derive(Clone)]
pub(crate) struct Observer(pub(super) Arc<dyn Fn(PluginEvent) + Send + Sync>);

impl Observer {
    pub(crate) fn tell(&self, event: PluginEvent) {
        (self.0)(event);
    }

    /// One that also keeps everything in log files.
    pub(super) fn keeping(self, logs: Option<LogStore>) -> Self {
        let Some(logs) = logs else { return self };
        Self(Arc::new(move |event| {
            logs.keep(&event);
            self.tell(event);
        }))
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
