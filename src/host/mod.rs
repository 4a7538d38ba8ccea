//! Plugins and their processes: what they say of themselves, what starts them, what they print,
//! how they end.
//!
//! `docs/decisions/0003-spawning-from-an-embedding-application.md` and `0005-guardian.md` beside it
//! say why they are started the way they are.

pub(crate) mod cache;
pub(crate) mod changes;
pub mod dependencies;
pub mod discovery;
pub(crate) mod document;
pub(crate) mod duration;
pub mod environment;
mod errand;
mod error;
mod exit;
mod follow;
pub mod logs;
pub mod manifest;
mod memory;
mod output;
mod plugins;
mod process;
#[cfg(test)]
mod process_tests;
mod program;
pub mod requirements;
mod runtime;
mod spawner;
mod spec;
pub(crate) mod suggest;

pub use crate::sys::guardian::GuardianLevel;
pub use error::SpawnError;
pub use exit::{Exit, Usage};
pub use manifest::{Manifest, ManifestError};
pub use output::Stream;
pub use plugins::{PluginEvent, Plugins, StartError};
pub use program::ProgramError;
#[cfg(feature = "cli")]
pub(crate) use program::find as find_program;
pub use runtime::{RuntimeError, Runtimes};
pub use spec::{Limit, PluginSpec};

/// From where guardians are executed in this process; `None` before the first plugin is started.
#[must_use]
pub fn guardian_level() -> Option<GuardianLevel> {
    crate::sys::guardian::level()
}
