//! Plugins and their processes: what they say of themselves, what starts them, what they print,
//! how they end.
//!
//! `docs/decisions/0003-spawning-from-an-embedding-application.md` says why they are started the
//! way they are.

pub mod dependencies;
pub(crate) mod document;
pub(crate) mod duration;
mod exit;
pub mod logs;
pub mod manifest;
mod output;
mod plugins;
mod process;
mod program;
mod runtime;
mod spawner;
mod spec;
pub(crate) mod suggest;

pub use exit::Exit;
pub use manifest::{Manifest, ManifestError};
pub use output::Stream;
pub use plugins::{PluginEvent, Plugins, StartError};
pub use process::SpawnError;
pub use program::ProgramError;
#[cfg(feature = "cli")]
pub(crate) use program::find as find_program;
pub use runtime::{RuntimeError, Runtimes};
pub use spec::PluginSpec;
