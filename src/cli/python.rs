//! The Python SDK, embedded, so that a plugin file runs with nothing installed.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

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
