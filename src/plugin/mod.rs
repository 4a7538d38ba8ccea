//! The Rust SDK: for plugins, and for those who only ask.

mod channel;
mod client;
mod codec;
mod dial;
mod error;
mod event;
mod hub;
mod subscription;

use std::path::Path;

pub use channel::{ChannelSender, Progress};
pub use client::Client;
pub use error::{Error, Result};
pub use event::{Event, Gap, Message, Received, Signal};
pub use subscription::Subscription;

use self::dial::Endpoint;

/// Connects as a client to the broker that the environment names: the inherited connection, the
/// socket in `PLUGBUS_SOCKET`, or the default one.
///
/// # Errors
///
/// When there is no broker, or it refuses.
pub async fn connect() -> Result<Client> {
    Client::connect(Endpoint::from_environment()?).await
}

/// Connects as a client to the broker on this socket.
///
/// # Errors
///
/// As for [`connect`].
pub async fn connect_to(socket: impl AsRef<Path>) -> Result<Client> {
    Client::connect(Endpoint::Path(socket.as_ref().to_owned())).await
}
