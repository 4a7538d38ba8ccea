//! Plugins that Python runs: they find it, and its SDK, with nothing installed.

use std::ffi::OsString;
use std::path::Path;
use std::sync::OnceLock;

use super::failure::{Failure, Result};
use super::sdk::Sdk;
use crate::host::{PluginSpec, ProgramError, find_program};

/// Says in one line that there is no Python, where that is so.
pub(crate) fn require() -> Result<()> {
    match find_program("python3".as_ref(), std::env::var_os("PATH").as_deref()) {
        Ok(_) => Ok(()),
        Err(ProgramError::NotInPath { path, .. }) => Err(Failure::failed(format_args!(
            "Python plugins need python3 (3.9 or later), which is not in PATH ({path})"
        ))),
        Err(error) => Err(Failure::failed(format_args!("cannot use python3: {error}"))),
    }
}

/// Puts the SDK on the path of plugins that Python runs, so that nothing has to be installed for
/// them. Those that set a path of their own know better.
pub(crate) fn lend() -> impl Fn(PluginSpec) -> PluginSpec + Send + Sync + 'static {
    // Kept for as long as plugins are started.
    let sdk = OnceLock::new();
    move |plugin| {
        let program = plugin.command_line().first().map(Path::new);
        let name = program.and_then(|program| program.file_name()).and_then(|name| name.to_str());
        let sets_path = plugin.environment().any(|(name, _)| name == "PYTHONPATH");
        if sets_path || !name.is_some_and(|name| name.starts_with("python")) {
            return plugin;
        }
        let sdk = sdk.get_or_init(|| {
            let cannot = |failure| log::error!("plugins in Python get no SDK: {failure:?}");
            Sdk::provide().map_err(cannot).ok()
        });
        match sdk {
            Some(sdk) => plugin.env("PYTHONPATH", search_path(sdk.path())),
            None => plugin,
        }
    }
}

/// `PYTHONPATH` with `directory` before what it was.
pub(crate) fn search_path(directory: &Path) -> OsString {
    let mut path = directory.as_os_str().to_owned();
    if let Some(rest) = std::env::var_os("PYTHONPATH").filter(|rest| !rest.is_empty()) {
        path.push(":");
        path.push(rest);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_comes_first_on_the_path() {
        let path = search_path(Path::new("/tmp/sdk"));
        assert_eq!(std::env::split_paths(&path).next().as_deref(), Some(Path::new("/tmp/sdk")));
    }
}
