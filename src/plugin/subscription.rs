//! Events as a stream.

use super::client::Client;
use super::event::Received;
use super::feed::Feed;

/// Events of the topics that fit a pattern, from [`Client::subscribe`] on. Dropping it ends the
/// subscription.
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    /// Here.
    number: u64,
    /// At the broker.
    subscription: u32,
    feed: Feed,
}

impl Subscription {
    pub(super) fn new(client: Client, number: u64, subscription: u32, feed: Feed) -> Self {
        Self { client, number, subscription, feed }
    }

    /// The next event, or how many are missing here. `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Received> {
        self.feed.next().await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.client.hub.unsubscribe(self.number);
        let subscription = self.subscription;
        let told = self.client.link.tell(|peer, now| peer.unsubscribe(subscription, now));
        if let Err(error) = told {
            log::debug!("a subscription ends with its connection: {error}");
        }
    }
}
