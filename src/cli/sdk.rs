//! Where the embedded SDK for Python lies once it is unpacked.
//!
//! In the user's cache, in a directory named by what is in it, so that a broker that is killed
//! leaves nothing behind that the next one would not use. It appears there complete, by a rename,
//! and is compared with what is embedded before each use: Python runs what it finds there.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use xxhash_rust::xxh64::Xxh64;

use super::failure::{Failure, Result};
use crate::host::cache;

/// A directory with the package `plugbus` in it, for as long as this lives.
#[derive(Debug)]
pub(crate) enum Sdk {
    /// Shared with every broker of this version, and kept.
    Cached(PathBuf),
    /// Gone when this is dropped.
    Temporary(TempDir),
}

impl Sdk {
    /// Finds the package in the user's cache, or puts it there. Where that cannot be, a warning
    /// says why, and a temporary directory has to do.
    pub(crate) fn provide() -> Result<Self> {
        let reason = match cache::directory(|name| std::env::var_os(name)) {
            Some(cache) => match cached(&cache) {
                Ok(directory) => return Ok(Self::Cached(directory)),
                Err(error) => format!("{} cannot hold it: {error}", cache.display()),
            },
            None => "neither XDG_CACHE_HOME nor HOME names a directory".to_owned(),
        };
        log::warn!("the SDK for Python goes to a temporary directory: {reason}");
        let directory = tempfile::Builder::new().prefix("plugbus-sdk-").tempdir();
        let unpacked = directory.and_then(|directory| {
            unpack(directory.path())?;
            Ok(Self::Temporary(directory))
        });
        unpacked.map_err(|error| {
            Failure::failed(format_args!("cannot unpack the SDK for Python: {error}"))
        })
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Cached(path) => path,
            Self::Temporary(directory) => directory.path(),
        }
    }
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

/// The package in `cache`, whole and ours.
fn cached(cache: &Path) -> io::Result<PathBuf> {
    cache::prepare(cache)?;
    let directory = cache.join(format!("sdk-{:016x}", content_hash()));
    if is_whole(&directory)? {
        return Ok(directory);
    }
    // Made beside its place, so that the rename is all that others can see.
    let private = Permissions::from_mode(0o700);
    let fresh =
        tempfile::Builder::new().prefix("sdk-new-").permissions(private).tempdir_in(cache)?;
    unpack(fresh.path())?;
    if !is_whole(&directory)? && fs::symlink_metadata(&directory).is_ok() {
        // Somebody changed it. Renamed first: whoever imports from it meanwhile finds all or none.
        let spoiled = tempfile::Builder::new().prefix("sdk-old-").tempdir_in(cache)?;
        match fs::rename(&directory, spoiled.path().join("sdk")) {
            Ok(()) => log::warn!("{} was changed and is replaced", directory.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (), // Another was faster.
            Err(error) => return Err(error),
        }
    }
    match fs::rename(fresh.path(), &directory) {
        Ok(()) => drop(fresh.keep()), // It has its name now; there is nothing left to remove.
        // Another broker, started at the same time, has put the same thing there already.
        Err(_) if is_whole(&directory)? => (),
        Err(error) => return Err(error),
    }
    Ok(directory)
}

/// Whether a directory of ours has exactly the files that are embedded. Bytecode beside them is
/// Python's own.
fn is_whole(directory: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(directory) {
        Ok(metadata) if !metadata.is_dir() => return Ok(false),
        Ok(_) => cache::check_owned(directory)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    let package = directory.join("plugbus");
    let is_same = |(name, text): &(&str, &str)| {
        fs::read(package.join(name)).is_ok_and(|found| found == text.as_bytes())
    };
    Ok(SDK.iter().all(is_same))
}

/// Names the directory. What is in it is compared all the same, so the hash need not withstand
/// anybody.
fn content_hash() -> u64 {
    let mut hash = Xxh64::new(0);
    for (name, text) in SDK {
        for part in [*name, *text] {
            hash.update(&part.len().to_le_bytes());
            hash.update(part.as_bytes());
        }
    }
    hash.digest()
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
    use std::os::unix::fs::MetadataExt;

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
    fn what_is_there_is_used_again_and_nothing_else_is_left() {
        let place = tempfile::tempdir().unwrap();
        let cache = place.path().join("cache/plugbus");
        let directory = cached(&cache).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        let before = fs::metadata(directory.join("plugbus")).unwrap().ino();
        assert_eq!(cached(&cache).unwrap(), directory);
        assert_eq!(fs::metadata(directory.join("plugbus")).unwrap().ino(), before);
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
    }

    /// However it was spoiled: a file changed, a file missing, or no directory at all.
    #[test]
    fn what_was_changed_is_replaced() {
        let place = tempfile::tempdir().unwrap();
        let spoil: [fn(&Path); 3] = [
            |directory| fs::write(directory.join("plugbus/_wire.py"), "import os").unwrap(),
            |directory| fs::remove_file(directory.join("plugbus/__init__.py")).unwrap(),
            |directory| {
                fs::remove_dir_all(directory).unwrap();
                fs::write(directory, "").unwrap();
            },
        ];
        for spoil in spoil {
            let directory = cached(place.path()).unwrap();
            spoil(&directory);
            assert!(!is_whole(&directory).unwrap());
            assert!(is_whole(&cached(place.path()).unwrap()).unwrap());
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn brokers_that_start_together_share_one() {
        let place = tempfile::tempdir().unwrap();
        let found: BTreeSet<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| cached(place.path()))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
        });
        assert_eq!(found.len(), 1);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_not_trusted() {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), Permissions::from_mode(0o777)).unwrap();
        let error = cached(place.path()).unwrap_err().to_string();
        assert!(error.contains("nobody else may write there"), "{error}");
    }
}
