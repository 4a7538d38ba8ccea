//! Finding the broker.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use tokio::net::UnixStream;

use super::error::{Error, Result};
use crate::net::socket_path;
use crate::sys::fd;

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
        match fd::take_inherited("PLUGBUS_FD") {
            Ok(Some(descriptor)) => Ok(Self::Inherited(descriptor)),
            Ok(None) => Self::from_path(),
            Err(error) => Err(Error::Connect(error.to_string())),
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
