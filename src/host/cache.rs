//! The user's cache: what can be made again, and is run when it is found there.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Our part of the user's cache. The base directory specification says that a relative path is to
/// be ignored.
pub(crate) fn directory(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base =
        absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("plugbus"))
}

/// Makes a directory of the cache, if it is missing, and checks that it is ours.
pub(crate) fn prepare(directory: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(directory)?;
    check_owned(directory)
}

/// Refuses a directory that others can write to: what is in it gets run.
pub(crate) fn check_owned(directory: &Path) -> io::Result<()> {
    let metadata = fs::metadata(directory)?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o777);
    let user = rustix::process::geteuid().as_raw();
    if owner == user && mode & 0o022 == 0 {
        return Ok(());
    }
    let message = format!(
        "{} belongs to uid {owner} with mode {mode:04o}; it must belong to you (uid {user}), and \
         nobody else may write there",
        directory.display()
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_the_users() {
        type Case = (&'static [(&'static str, &'static str)], Option<&'static str>);
        let cases: &[Case] = &[
            (&[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")], Some("/c/plugbus")),
            (&[("XDG_CACHE_HOME", "c"), ("HOME", "/h")], Some("/h/.cache/plugbus")),
            (&[("HOME", "/h")], Some("/h/.cache/plugbus")),
            (&[("HOME", "")], None),
            (&[], None),
        ];
        for (variables, expected) in cases {
            let found = directory(|name| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
            });
            assert_eq!(found.as_deref(), expected.map(Path::new), "{variables:?}");
        }
    }
}
