//! Plugin processes: what starts them, what they print, how they end.
//!
//! `docs/decisions/0003-spawning-from-an-embedding-application.md` says why they are started the
//! way they are.

mod exit;
pub mod logs;
mod output;
mod plugins;
mod process;
mod program;
mod spawner;
mod spec;

pub use exit::Exit;
pub use output::Stream;
pub use plugins::{PluginEvent, Plugins, StartError};
pub use process::SpawnError;
pub use program::ProgramError;
#[cfg(feature = "cli")]
pub(crate) use program::find as find_program;
pub use spec::PluginSpec;
