//! Plugins and their processes: what they say of themselves, what starts them, what they print,
//! how they end.
//!
//! `docs/decisions/0003-spawning-from-an-embedding-application.md` and `0005-guardian.md` beside it
//! say why they are started the way they are.

mod alert;
mod announce;
pub(crate) mod board;
pub(crate) mod cache;
pub(crate) mod changes;
pub mod control;
mod courier;
pub mod dependencies;
pub mod discovery;
pub(crate) mod document;
pub(crate) mod duration;
pub mod environment;
mod errand;
mod error;
mod exit;
mod follow;
mod health;
mod load;
pub mod logs;
pub mod manifest;
mod memory;
mod output;
mod patience;
mod plugin_child;
#[cfg(test)]
mod plugin_tests;
mod plugins;
mod process;
#[cfg(test)]
mod process_tests;
mod program;
mod recipe;
mod report;
pub mod requirements;
mod resident;
mod roster;
mod runtime;
#[cfg(feature = "cli")]
pub(crate) mod sources;
mod spawner;
mod spec;
pub(crate) mod suggest;
mod switch;
mod tasks;

pub use crate::sys::guardian::GuardianLevel;
pub use alert::Alert;
pub use error::SpawnError;
pub use exit::{Exit, Usage};
pub use manifest::{Manifest, ManifestError};
pub use output::Stream;
pub use plugins::{CommandError, Ordered, PluginEvent, Plugins, PluginsBuilder, StartError};
pub use program::ProgramError;
#[cfg(feature = "cli")]
pub(crate) use program::find as find_program;
pub use report::{Explanation, Load, PluginReport, TimelineRow};
pub use runtime::{RuntimeError, Runtimes};
pub use spec::{Limit, PluginSpec};

/// From where guardians are executed in this process; `None` before the first plugin is started.
#[must_use]
pub fn guardian_level() -> Option<GuardianLevel> {
    crate::sys::guardian::level()
}
