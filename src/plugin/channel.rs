//! Sending down a FIFO channel.

use serde::Serialize;

use super::codec;
use super::error::Result;
use crate::id::RouteId;
use crate::net::link::Link;
pub use crate::peer::Progress;
use crate::peer::SendOptions;
use crate::wire::ContentType;

/// The sending end of a channel. Messages from all senders of one connection to the same channel
/// are one stream, in the order of the calls.
///
/// Sending returns when the message is on its way; it waits only while the channel's window is
/// used up or the socket is full. What is queued is written as soon as the task waits for anything.
#[derive(Clone, Debug)]
pub struct ChannelSender {
    link: Link,
    route: RouteId,
}

impl ChannelSender {
    pub(super) fn new(link: Link, route: RouteId) -> Self {
        Self { link, route }
    }

    /// Sends bytes. Gives the message's number.
    ///
    /// # Errors
    ///
    /// When the channel or the connection has ended, or the message is too large.
    #[inline]
    pub async fn send(&self, body: &[u8]) -> Result<u64> {
        self.send_as(ContentType::Raw, body).await
    }

    /// Sends bytes and says what they are. Gives the message's number.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    #[inline]
    pub async fn send_as(&self, content: ContentType, body: &[u8]) -> Result<u64> {
        let options = SendOptions { content, ..SendOptions::default() };
        match self.link.send_now(self.route, body, &options) {
            Some(id) => Ok(id),
            None => Ok(self.link.send(self.route, body, &options).await?),
        }
    }

    /// Sends many, in order, at a fraction of the cost of one [`send`](Self::send) each. Gives the
    /// number of the last one.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send). Those before the one that failed are on their way;
    /// [`progress`](Self::progress) tells how many that are.
    pub async fn send_all<B: AsRef<[u8]>>(&self, bodies: &[B]) -> Result<Option<u64>> {
        self.send_all_as(ContentType::Raw, bodies).await
    }

    /// Sends many and says what they are. Gives the number of the last one.
    ///
    /// # Errors
    ///
    /// As for [`send_all`](Self::send_all).
    pub async fn send_all_as<B: AsRef<[u8]>>(
        &self,
        content: ContentType,
        bodies: &[B],
    ) -> Result<Option<u64>> {
        let options = SendOptions { content, ..SendOptions::default() };
        Ok(self.link.send_all(self.route, bodies, &options).await?)
    }

    /// Sends a value. Gives the message's number.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), or when the value cannot be encoded.
    pub async fn send_value<T: Serialize + ?Sized>(&self, value: &T) -> Result<u64> {
        self.send_as(ContentType::MessagePack, &codec::encode(value)?).await
    }

    /// Waits until the broker answers for everything that was sent before.
    ///
    /// # Errors
    ///
    /// When the channel or the connection has ended.
    pub async fn flush(&self) -> Result<()> {
        let sent = self.progress().sent;
        let accepted = |progress: &Progress| progress.accepted >= sent || progress.unsettled == 0;
        self.link.wait_for(self.route, accepted).await?;
        Ok(())
    }

    /// Waits until everything that was sent before has been handled by the receiver, or given up
    /// by the broker.
    ///
    /// # Errors
    ///
    /// When the channel or the connection has ended.
    pub async fn completed(&self) -> Result<()> {
        let sent = self.progress().sent;
        let completed = |progress: &Progress| progress.completed >= sent || progress.unsettled == 0;
        self.link.wait_for(self.route, completed).await?;
        Ok(())
    }

    /// How far this connection's messages on the channel are. All zero once it has ended.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.link.progress(self.route).unwrap_or_default()
    }
}
