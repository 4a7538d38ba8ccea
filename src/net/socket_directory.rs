//! What the directory of the broker's socket must be like.
//!
//! The socket is the only door, and it has no lock of its own: who can reach it may connect. So its
//! directory belongs to the user alone (mode 0700), and nobody else may rename what leads there.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::socket_path::{self, SocketPathError};

/// Why there cannot be a socket at a path.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SocketDirectoryError {
    /// The path itself will not do.
    #[error(transparent)]
    Path(#[from] SocketPathError),
    /// The path has no directory or no file name.
    #[error("{} is not a path of a file in a directory", .0.display())]
    NotAFile(PathBuf),
    /// Others could get at the socket.
    #[error(
        "the socket's directory {} belongs to uid {owner} with mode {mode:04o}; it must belong to \
         you (uid {user}) with mode 0700: {remedy}, or name a socket elsewhere with --socket or \
         PLUGBUS_SOCKET",
        path.display()
    )]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Its permission bits.
        mode: u32,
        /// Who we are.
        user: u32,
        /// What would help.
        remedy: String,
    },
    /// Others could put a directory of theirs in the place of the socket's.
    #[error(
        "others may rename things in {}, which is above the socket's directory (uid {owner}, mode \
         {mode:04o}): {remedy}, or name a socket elsewhere with --socket or PLUGBUS_SOCKET",
        path.display()
    )]
    OpenAncestor {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Its permission bits.
        mode: u32,
        /// What would help.
        remedy: String,
    },
    /// The system said no.
    #[error("cannot {action} {}: {source}", path.display())]
    System {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Makes the directory of a socket if it is missing, and checks that nobody else can get at it.
pub(crate) fn prepare(socket: &Path) -> Result<(), SocketDirectoryError> {
    let socket = socket_path::check_size(socket.to_owned())?;
    let directory = match (socket.parent(), socket.file_name()) {
        (Some(parent), Some(_)) if parent.as_os_str().is_empty() => Path::new("."),
        (Some(parent), Some(_)) => parent,
        _ => return Err(SocketDirectoryError::NotAFile(socket)),
    };
    let failed = |action| {
        move |source| SocketDirectoryError::System { action, path: directory.to_owned(), source }
    };
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(directory)
        .map_err(failed("create the directory"))?;
    let user = rustix::process::geteuid().as_raw();
    // Links are followed first, so that what is checked is what will be used.
    let real = fs::canonicalize(directory).map_err(failed("look at the directory"))?;
    for (depth, path) in real.ancestors().enumerate() {
        let metadata = fs::metadata(path).map_err(failed("look at the directory"))?;
        if depth == 0 {
            check_private(path, &metadata, user)?;
        } else {
            check_ancestor(path, &metadata, user)?;
        }
    }
    Ok(())
}

fn check_private(path: &Path, metadata: &Metadata, user: u32) -> Result<(), SocketDirectoryError> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner == user && mode & 0o777 == 0o700 {
        return Ok(());
    }
    let sticky = mode & 0o1000 != 0;
    let remedy = if owner == user && !sticky {
        format!("run `chmod 700 {}`", path.display())
    } else {
        "use a directory of your own below it".to_owned()
    };
    Err(SocketDirectoryError::NotPrivate { path: path.to_owned(), owner, mode, user, remedy })
}

fn check_ancestor(path: &Path, metadata: &Metadata, user: u32) -> Result<(), SocketDirectoryError> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let trusted = owner == user || owner == 0;
    let sticky = mode & 0o1000 != 0;
    if trusted && (sticky || mode & 0o022 == 0) {
        return Ok(());
    }
    let remedy = if owner == user {
        format!("run `chmod go-w {}`", path.display())
    } else {
        "its owner can mend that".to_owned()
    };
    Err(SocketDirectoryError::OpenAncestor { path: path.to_owned(), owner, mode, remedy })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_missing_directory_is_made_private() {
        let place = private_directory();
        let socket = place.path().join("a/b/broker.sock");
        prepare(&socket).unwrap();
        for directory in ["a", "a/b"] {
            let mode = fs::metadata(place.path().join(directory)).unwrap().mode();
            assert_eq!(mode & 0o7777, 0o700, "{directory}");
        }
    }

    /// Each case: mode of the directory above, mode of the directory, what the error must contain.
    #[test]
    fn only_private_directories_below_trusted_ones_will_do() {
        let cases: &[(u32, u32, &[&str])] = &[
            (0o700, 0o700, &[]),
            (0o755, 0o700, &[]),
            (0o1777, 0o700, &[]),
            (0o700, 0o755, &["0755", "chmod 700", "--socket"]),
            (0o700, 0o750, &["0750", "chmod 700"]),
            (0o700, 0o500, &["0500", "chmod 700"]),
            (0o700, 0o1777, &["1777", "directory of your own"]),
            (0o777, 0o700, &["0777", "chmod go-w", "--socket"]),
            (0o770, 0o700, &["0770", "chmod go-w"]),
        ];
        for &(above, mode, wanted) in cases {
            let place = private_directory();
            let directory = place.path().join("above/directory");
            fs::create_dir_all(&directory).unwrap();
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
            fs::set_permissions(place.path().join("above"), fs::Permissions::from_mode(above))
                .unwrap();
            let result = prepare(&directory.join("broker.sock"));
            assert_eq!(result.is_ok(), wanted.is_empty(), "{above:o} {mode:o}: {result:?}");
            if let Err(error) = result {
                let text = error.to_string();
                let path = if above == 0o700 { directory } else { place.path().join("above") };
                assert!(text.contains(path.to_str().unwrap()), "{text}");
                assert!(wanted.iter().all(|part| text.contains(part)), "{text}");
            }
        }
    }

    #[test]
    fn another_users_directory_is_refused_even_when_it_is_private() {
        let metadata = fs::metadata(private_directory().path()).unwrap();
        let user = metadata.uid() + 1;
        let error = check_private(Path::new("/theirs"), &metadata, user).unwrap_err().to_string();
        assert!(error.contains(&format!("you (uid {user})")), "{error}");
        if metadata.uid() != 0 {
            assert!(check_ancestor(Path::new("/theirs"), &metadata, user).is_err());
        }
    }

    fn private_directory() -> tempfile::TempDir {
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap()
    }
}
