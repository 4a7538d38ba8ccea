//! Plugin processes: what starts them, what they print, how they end.
//!
//! `docs/decisions/0003-spawning-from-an-embedding-application.md` says why they are started the
//! way they are.

mod exit;
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
pub use spec::PluginSpec;

/// Finds a program as a plugin's command would.
///
/// # Errors
///
/// Why it cannot be executed.
#[cfg(feature = "cli")]
pub(crate) fn find_program(name: &str) -> Result<std::path::PathBuf, ProgramError> {
    program::find(name.as_ref(), std::env::var_os("PATH").as_deref())
}
