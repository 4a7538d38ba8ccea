//! A Unix socket whose writing is watched only while a write waits.
//!
//! tokio's own stream is woken whenever the other side reads, because that makes room to write. A
//! peer that waits for an answer is then woken twice for each call. Here reading is watched always,
//! writing through a second descriptor that lives no longer than the wait.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: AsyncFd<UnixStream>,
}

impl Socket {
    /// Has to be called on a tokio runtime.
    pub(crate) fn new(stream: tokio::net::UnixStream) -> io::Result<Self> {
        let stream = watch(stream.into_std()?, Interest::READABLE)?;
        Ok(Self { stream })
    }

    /// Waits until there may be something to read.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.stream.readable().await?.retain_ready();
        Ok(())
    }

    /// Reads once, into the room that `buffer` has.
    pub(crate) fn try_read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let room = buffer.capacity() - buffer.len();
        let mut last = None;
        let outcome = self.stream.try_io(Interest::READABLE, |stream| {
            let (count, _whole) = recv(stream, spare_capacity(buffer), RecvFlags::DONTWAIT)?;
            if 0 < count && count < room {
                // That has emptied the socket: saying so spares the read that finds nothing.
                last = Some(count);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(count)
        });
        last.map_or(outcome, Ok)
    }

    /// Writes once.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    /// Waits until there is room to write. Cancel-safe.
    ///
    /// Where the process has no descriptor left to wait with, this returns after a moment: the
    /// socket is tried again then.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        let watched =
            self.stream.get_ref().try_clone().and_then(|stream| watch(stream, Interest::WRITABLE));
        match watched {
            Ok(watched) => watched.writable().await?.retain_ready(),
            Err(error) => {
                log::debug!("a full socket is tried again in a moment: {error}");
                tokio::time::sleep(Self::RETRY_AFTER).await;
            }
        }
        Ok(())
    }

    const RETRY_AFTER: Duration = Duration::from_millis(5);
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}

#[expect(deprecated, reason = "a stream keeps its descriptor; the successor is unsafe to call")]
fn watch(stream: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    AsyncFd::with_interest(stream, interest)
}
