//! The broker's listening socket.
//!
//! A lock file beside the socket says whether a broker lives: the kernel drops the lock when its
//! process dies, however it dies. Who holds it may replace the socket; who does not get it must
//! leave it alone.
//!
//! Invariant: while a [`Listener`] exists it holds the lock, and nobody else's socket is removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};

use super::socket_directory::{self, SocketDirectoryError};
use crate::error::{Fault, Refusal};
use crate::sys::peer::PeerCredentials;
use crate::wire::{FrameBuilder, Kind, body};

/// Why a broker cannot listen.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The directory will not do.
    #[error(transparent)]
    Directory(#[from] SocketDirectoryError),
    /// A broker lives there.
    #[error(
        "a broker is already listening on {}{}; stop it, or choose another socket with --socket",
        path.display(),
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// Its socket.
        path: PathBuf,
        /// Its process, where the lock file says it.
        pid: Option<u32>,
    },
    /// Something else has that name.
    #[error("{} exists and is not a socket; choose another path with --socket", .0.display())]
    NotASocket(PathBuf),
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

/// A bound socket, removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UnixListener,
    lock: Lock,
    path: PathBuf,
    /// Device and inode of our socket file.
    identity: (u64, u64),
    /// Open so that, when descriptors run out, one can be freed to tell the next peer so.
    reserve: Option<File>,
    backoff: Duration,
}

impl Listener {
    /// Takes the lock, replaces the socket that a dead broker left, and listens. Must be called
    /// in a tokio runtime.
    pub(crate) fn bind(path: &Path) -> Result<Self, ListenError> {
        socket_directory::prepare(path)?;
        let failed =
            |action| move |source| ListenError::System { action, path: path.to_owned(), source };
        let lock = Lock::take(path)?;
        remove_stale(path)?;
        let socket = UnixListener::bind(path).map_err(failed("listen on"))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed("protect"))?;
        let metadata = fs::symlink_metadata(path).map_err(failed("look at"))?;
        Ok(Self {
            socket,
            lock,
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
            reserve: open_reserve(),
            backoff: Self::BACKOFF_MIN,
        })
    }

    /// The next connection.
    ///
    /// When descriptors have run out, peers are told so and closed instead of being left in the
    /// queue, where they would wake us again and again.
    pub(crate) async fn accept(&mut self) -> UnixStream {
        loop {
            match self.socket.accept().await {
                Ok((stream, _)) => {
                    self.backoff = Self::BACKOFF_MIN;
                    // For people only: the directory decides who gets here.
                    log::debug!("a connection from {:?}", PeerCredentials::of(&stream));
                    return stream;
                }
                Err(error) => self.handle_accept_error(&error).await,
            }
        }
    }

    async fn handle_accept_error(&mut self, error: &io::Error) {
        let errno = Errno::from_io_error(error);
        if errno == Some(Errno::CONNABORTED) {
            return;
        }
        let exhausted = matches!(errno, Some(Errno::MFILE | Errno::NFILE));
        if exhausted && self.reserve.take().is_some() {
            self.refuse_next();
            self.reserve = open_reserve();
            if self.reserve.is_some() {
                return;
            }
        }
        log::warn!("cannot accept a connection, next try in {:?}: {error}", self.backoff);
        tokio::time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(Self::BACKOFF_MAX);
        if self.reserve.is_none() {
            self.reserve = open_reserve();
        }
    }

    /// Tells the peer at the head of the queue why it cannot come in.
    fn refuse_next(&self) {
        // A poll with a waker that does nothing: the peer is there, or it has gone.
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let std::task::Poll::Ready(Ok((stream, _))) = self.socket.poll_accept(&mut context) else {
            return;
        };
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = limit.unwrap_or(u64::MAX);
        let fault = Fault::refused(&Refusal {
            resource: "open descriptors",
            holder: "the broker",
            used: limit,
            limit,
            blame: "the connections that are open",
            retry_after_ms: 1_000,
        });
        log::warn!("refused a connection: {fault}");
        let mut frame = bytes::BytesMut::new();
        FrameBuilder::new(Kind::ERROR).append(&mut frame, &[], &body::encode_fault(&fault));
        // The socket's buffer is empty, so it takes the frame; a peer that has gone needs none.
        if let Err(error) = stream.try_write(&frame) {
            log::debug!("could not tell the refused peer: {error}");
        }
    }

    const BACKOFF_MIN: Duration = Duration::from_millis(10);
    const BACKOFF_MAX: Duration = Duration::from_secs(1);
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            log::warn!("cannot remove the socket {}: {error}", self.path.display());
        }
        self.lock.remove();
    }
}

/// An exclusive lock that ends with the process.
#[derive(Debug)]
struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    fn take(socket: &Path) -> Result<Self, ListenError> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let failed = |action| {
            let path = path.clone();
            move |source| ListenError::System { action, path, source }
        };
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
                .open(&path)
                .map_err(failed("open the lock file"))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => (),
                Err(Errno::WOULDBLOCK) => {
                    let pid = read_pid(&mut file);
                    return Err(ListenError::InUse { path: socket.to_owned(), pid });
                }
                Err(error) => return Err(failed("lock")(error.into())),
            }
            // Its holder may have removed the file between our two calls; then what we have
            // locked is not what the next one will find.
            let locked = file.metadata().map_err(failed("look at the lock file"))?;
            let named = fs::symlink_metadata(&path);
            if named.is_ok_and(|it| (it.dev(), it.ino()) == (locked.dev(), locked.ino())) {
                file.set_len(0).map_err(failed("write the lock file"))?;
                writeln!(file, "{}", std::process::id()).map_err(failed("write the lock file"))?;
                return Ok(Self { file, path });
            }
        }
    }

    /// Removes the file while the lock is held; who waits for it notices.
    fn remove(&self) {
        debug_assert!(self.file.metadata().is_ok(), "the lock is held until the drop");
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("cannot remove the lock file {}: {error}", self.path.display());
        }
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Removes the socket of a dead broker. Called with the lock held, so a listener that still
/// answers is none of ours.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let failed =
        |action| move |source| ListenError::System { action, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => (),
        Ok(_) => return Err(ListenError::NotASocket(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
    }
    if answers(path).map_err(failed("try"))? {
        return Err(ListenError::InUse { path: path.to_owned(), pid: None });
    }
    fs::remove_file(path).map_err(failed("remove the old socket"))
}

/// Whether somebody listens on the socket. A full queue counts.
pub(crate) fn answers(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn open_reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};

    use super::*;

    #[tokio::test]
    async fn a_living_brokers_socket_is_refused_and_its_process_named() {
        let place = private_directory();
        let path = place.path().join("broker.sock");
        let first = Listener::bind(&path).unwrap();
        let error = Listener::bind(&path).unwrap_err().to_string();
        let pid = std::process::id().to_string();
        for part in [path.to_str().unwrap(), &pid, "--socket"] {
            assert!(error.contains(part), "{error}");
        }
        StdStream::connect(&path).unwrap();
        drop(first);
    }

    #[tokio::test]
    async fn a_dead_brokers_socket_is_replaced() {
        let place = private_directory();
        let path = place.path().join("broker.sock");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists(), "the socket of a dead process stays");
        let mut listener = Listener::bind(&path).unwrap();
        let client = StdStream::connect(&path).unwrap();
        listener.accept().await;
        drop(client);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_stranger_that_listens_without_the_lock_is_left_alone() {
        let place = private_directory();
        let path = place.path().join("broker.sock");
        let stranger = StdListener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path), Err(ListenError::InUse { pid: None, .. })));
        StdStream::connect(&path).unwrap();
        drop(stranger);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let place = private_directory();
        let path = place.path().join("notes.txt");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(Listener::bind(&path), Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[tokio::test]
    async fn the_end_removes_what_is_ours_and_nothing_else() {
        let place = private_directory();
        let path = place.path().join("broker.sock");
        drop(Listener::bind(&path).unwrap());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);

        let listener = Listener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let other = StdListener::bind(&path).unwrap();
        drop(listener);
        StdStream::connect(&path).unwrap();
        drop(other);
    }

    fn private_directory() -> tempfile::TempDir {
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap()
    }
}
