//! Sockets.

#[cfg(feature = "broker")]
pub(crate) mod buffers;
#[cfg(any(feature = "broker", feature = "plugin"))]
pub(crate) mod clock;
#[cfg(any(feature = "broker", feature = "plugin"))]
pub(crate) mod link;
#[cfg(feature = "broker")]
pub(crate) mod listen;
#[cfg(any(feature = "broker", feature = "plugin"))]
pub(crate) mod socket;
#[cfg(feature = "broker")]
pub(crate) mod socket_directory;
pub mod socket_path;
#[cfg(feature = "broker")]
pub(crate) mod traffic;
#[cfg(feature = "broker")]
pub(crate) mod uptime;

#[cfg(feature = "broker")]
pub use listen::ListenError;
#[cfg(feature = "broker")]
pub use socket_directory::SocketDirectoryError;
