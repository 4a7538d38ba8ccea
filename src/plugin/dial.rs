//! Finding the broker.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use parking_lot::Mutex;
use tokio::net::UnixStream;

use super::error::{Error, Result};
use crate::net::socket_path;
use crate::sys::fd;

/// The inherited connection, taken from the environment and not used yet.
static INHERITED: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Takes the connection that this process inherited, if it did, out of the environment, so that no
/// child of it finds the variable. The first plugin or client that is made gets it.
///
/// Making a [`Plugin`](super::Plugin) does the same, but the environment can be changed only while
/// the process has a single thread: the system's C library reads it without a lock. A program whose
/// runtime has several threads, such as `#[tokio::main]` without a flavor, calls this first in a
/// plain `main` and starts its runtime afterwards. Without it the variable stays and a warning
/// says so; the connection itself is closed in children either way.
///
/// # Errors
///
/// [`Error::Connect`] when `PLUGBUS_FD` does not name a socket.
pub fn take_inherited() -> Result<()> {
    match fd::take_inherited("PLUGBUS_FD") {
        Ok(Some(descriptor)) => {
            *INHERITED.lock() = Some(descriptor);
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(error) => Err(Error::Connect(error.to_string())),
    }
}

/// Where the broker is.
#[derive(Debug)]
pub(super) enum Endpoint {
    /// The supervisor made the connection.
    Inherited(OwnedFd),
    /// A socket to connect to.
    Path(PathBuf),
}

impl Endpoint {
    /// What the environment says. An inherited descriptor is taken at once, because it must not
    /// reach this process's children.
    pub(super) fn from_environment() -> Result<Self> {
        take_inherited()?;
        match INHERITED.lock().take() {
            Some(descriptor) => Ok(Self::Inherited(descriptor)),
            None => Self::from_path(),
        }
    }

    /// The socket of the broker, whatever was inherited.
    pub(super) fn from_path() -> Result<Self> {
        let path = socket_path::default().map_err(|error| Error::Connect(error.to_string()))?;
        Ok(Self::Path(path))
    }

    pub(super) async fn connect(self) -> Result<UnixStream> {
        match self {
            Self::Inherited(descriptor) => {
                let stream = std::os::unix::net::UnixStream::from(descriptor);
                let inherited = stream
                    .set_nonblocking(true)
                    .and_then(|()| UnixStream::from_std(stream))
                    .map_err(|error| Error::Connect(format!("inherited connection: {error}")))?;
                Ok(inherited)
            }
            Self::Path(path) => UnixStream::connect(&path).await.map_err(|error| {
                Error::Connect(format!(
                    "no broker at {}: {error}; start one with `plugbus up`, or name another \
                     with PLUGBUS_SOCKET",
                    path.display()
                ))
            }),
        }
    }
}
