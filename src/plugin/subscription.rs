//! Events as a stream.

use tokio::sync::mpsc;

use super::client::Client;
use super::event::Received;

/// Events of the topics that fit a pattern, from [`Client::subscribe`] on. Dropping it ends the
/// subscription.
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    /// Here.
    number: u64,
    /// At the broker.
    subscription: u32,
    events: mpsc::Receiver<Received>,
}

impl Subscription {
    pub(super) fn new(
        client: Client,
        number: u64,
        subscription: u32,
        events: mpsc::Receiver<Received>,
    ) -> Self {
        Self { client, number, subscription, events }
    }

    /// The next event, or how many are missing here. `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Received> {
        self.events.recv().await
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
