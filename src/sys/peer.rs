//! Who sits at the other end of a Unix socket, as the kernel knows it.

use std::io;
use std::os::fd::AsFd;

use rustix::net::sockopt::socket_peercred;

/// Credentials that the peer had when it connected (or made the socket pair).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PeerCredentials {
    /// Process id, as this process sees it.
    pub(crate) pid: u32,
    /// User.
    pub(crate) uid: u32,
    /// Primary group.
    pub(crate) gid: u32,
}

impl PeerCredentials {
    /// Asks the kernel.
    pub(crate) fn of(socket: impl AsFd) -> io::Result<Self> {
        let credentials = socket_peercred(socket)?;
        Ok(Self {
            pid: credentials.pid.as_raw_nonzero().get().cast_unsigned(),
            uid: credentials.uid.as_raw(),
            gid: credentials.gid.as_raw(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_pair_has_our_own_credentials() {
        let (left, _right) = UnixStream::pair().unwrap();
        let peer = PeerCredentials::of(&left).unwrap();
        assert_eq!(peer.pid, std::process::id());
        assert_eq!(peer.uid, rustix::process::getuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getgid().as_raw());
    }
}
