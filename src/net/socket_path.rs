//! Where a broker's socket is. Nothing is created here; the broker's side is in
//! `socket_directory`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use thiserror::Error;

/// The name of the broker that everybody finds without being told.
pub const DEFAULT_NAME: &str = "default";

/// Longest path that fits a socket address, without the zero byte at its end.
pub const PATH_SIZE_MAX: usize = 107;

/// Why there is no path for a socket.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SocketPathError {
    /// No variable says where the user's files are.
    #[error(
        "there is no place for the socket: XDG_RUNTIME_DIR, XDG_STATE_HOME and HOME are not set; \
         name a path with --socket or PLUGBUS_SOCKET"
    )]
    NoPlace,
    /// The kernel's address has a fixed size.
    #[error(
        "the socket path {} has {size} bytes, {PATH_SIZE_MAX} is the most that the system takes; \
         name a shorter one with --socket or PLUGBUS_SOCKET",
        path.display()
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its size.
        size: usize,
    },
}

/// The socket of the broker called `name`: in `$XDG_RUNTIME_DIR/plugbus`, else in the user's
/// state directory. Nothing is created.
///
/// # Errors
///
/// When no variable says where the user's files are, or the path is too long.
pub fn named(name: &str) -> Result<PathBuf, SocketPathError> {
    named_in(name, |variable| std::env::var_os(variable))
}

/// The socket that a peer joins without being told: the one in `PLUGBUS_SOCKET`, else that of
/// the default broker. Nothing is created.
///
/// # Errors
///
/// As for [`named`].
pub fn default() -> Result<PathBuf, SocketPathError> {
    default_in(|variable| std::env::var_os(variable))
}

fn default_in(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, SocketPathError> {
    match variable("PLUGBUS_SOCKET").filter(|path| !path.is_empty()) {
        Some(path) => check_size(PathBuf::from(path)),
        None => named_in(DEFAULT_NAME, variable),
    }
}

fn named_in(
    name: &str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<PathBuf, SocketPathError> {
    // The base directory specification says that a relative path is to be ignored.
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_RUNTIME_DIR")
        .or_else(|| absolute("XDG_STATE_HOME"))
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .ok_or(SocketPathError::NoPlace)?;
    check_size(base.join("plugbus").join(format!("{name}.sock")))
}

/// Checks that the path fits the kernel's address.
pub(crate) fn check_size(path: PathBuf) -> Result<PathBuf, SocketPathError> {
    match path.as_os_str().as_bytes().len() {
        size if size > PATH_SIZE_MAX => Err(SocketPathError::TooLong { path, size }),
        _ => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_default_follows_the_variables_in_their_order() {
        type Case = (&'static [(&'static str, &'static str)], Option<&'static str>);
        let cases: &[Case] = &[
            (&[("PLUGBUS_SOCKET", "/s"), ("XDG_RUNTIME_DIR", "/r")], Some("/s")),
            (&[("PLUGBUS_SOCKET", ""), ("XDG_RUNTIME_DIR", "/r")], Some("/r/plugbus/default.sock")),
            (&[("XDG_RUNTIME_DIR", "/r"), ("HOME", "/h")], Some("/r/plugbus/default.sock")),
            (
                &[("XDG_RUNTIME_DIR", "r"), ("HOME", "/h")],
                Some("/h/.local/state/plugbus/default.sock"),
            ),
            (&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")], Some("/s/plugbus/default.sock")),
            (&[("HOME", "/h")], Some("/h/.local/state/plugbus/default.sock")),
            (&[("HOME", "")], None),
            (&[], None),
        ];
        for (variables, expected) in cases {
            let found = default_in(|name| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
            });
            assert_eq!(found.ok().as_deref(), expected.map(Path::new), "{variables:?}");
        }
    }

    #[test]
    fn a_path_that_does_not_fit_the_address_is_named() {
        let long = format!("/{}", "x".repeat(PATH_SIZE_MAX));
        let error = check_size(PathBuf::from(&long)).unwrap_err().to_string();
        assert!(error.contains("108 bytes") && error.contains("--socket"), "{error}");
        assert!(check_size(PathBuf::from(&long[..PATH_SIZE_MAX])).is_ok());
    }
}
