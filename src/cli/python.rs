//! The Python SDK, embedded, so that a plugin file runs with nothing installed.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use tempfile::TempDir;

use super::failure::{Failure, Result};
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
/// them. Those that set a path of their own know better. The SDK is there as long as the directory.
pub(crate) fn provide(plugins: Vec<PluginSpec>) -> Result<(Vec<PluginSpec>, Option<TempDir>)> {
    let needs_sdk = |plugin: &PluginSpec| {
        let program = plugin.command_line().first().map(Path::new);
        let name = program.and_then(|program| program.file_name()).and_then(|name| name.to_str());
        let sets_path = plugin.environment().any(|(name, _)| name == "PYTHONPATH");
        name.is_some_and(|name| name.starts_with("python")) && !sets_path
    };
    if !plugins.iter().any(needs_sdk) {
        return Ok((plugins, None));
    }
    let directory = unpack_to_temporary()?;
    let path = search_path(directory.path());
    let provided = plugins.into_iter().map(|plugin| match needs_sdk(&plugin) {
        true => plugin.env("PYTHONPATH", &path),
        false => plugin,
    });
    Ok((provided.collect(), Some(directory)))
}

/// Writes the package into a directory that is gone when the result is dropped.
pub(crate) fn unpack_to_temporary() -> Result<TempDir> {
    let unpacked = tempfile::Builder::new().prefix("plugbus-sdk-").tempdir();
    let unpacked = unpacked.and_then(|directory| {
        unpack(directory.path())?;
        Ok(directory)
    });
    unpacked
        .map_err(|error| Failure::failed(format_args!("cannot unpack the SDK for Python: {error}")))
}

/// Writes the package `plugbus` into `directory`.
pub(crate) fn unpack(directory: &Path) -> io::Result<()> {
    let package = directory.join("plugbus");
    fs::create_dir(&package)?;
    for (name, text) in SDK {
        fs::write(package.join(name), text)?;
    }
    Ok(())
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

macro_rules! sdk {
    ($($name:literal,)*) => {
        &[$(($name, include_str!(concat!("../../sdk/python/plugbus/", $name))),)*]
    };
}

/// The files of the package. A test compares them with the directory.
const SDK: &[(&str, &str)] = sdk! {
    "__init__.py",
    "__main__.py",
    "_client.py",
    "_errors.py",
    "_lanes.py",
    "_loop.py",
    "_msgpack.py",
    "_peer.py",
    "_plugin.py",
    "_schema.py",
    "_types.py",
    "_wire.py",
    "py.typed",
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_of_the_package_is_embedded() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk/python/plugbus");
        let files: BTreeSet<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "__pycache__")
            .collect();
        let embedded: BTreeSet<_> = SDK.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(embedded, files);
    }

    #[test]
    fn the_package_comes_first_on_the_path() {
        let path = search_path(Path::new("/tmp/sdk"));
        assert_eq!(std::env::split_paths(&path).next().as_deref(), Some(Path::new("/tmp/sdk")));
    }
}
