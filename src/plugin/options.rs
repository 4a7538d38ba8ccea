//! What a client may choose about its connection and its subscriptions.

use std::path::Path;

use super::client::Client;
use super::dial::Endpoint;
use super::error::Result;
use crate::peer::PeerSettings;
use crate::wire::body::{Overflow, Subscribe};

/// How to connect, where [`connect`](super::connect) does not say enough.
///
/// ```no_run
/// # async fn client() -> plugbus::plugin::Result<()> {
/// use plugbus::plugin::ConnectOptions;
/// let options = ConnectOptions::new().socket("/run/app/bus.sock").compress_from(4096);
/// let client = options.connect().await?;
/// # drop(client); Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
#[must_use = "options do nothing until `connect`"]
pub struct ConnectOptions {
    endpoint: Option<Endpoint>,
    traffic: TrafficOptions,
}

impl ConnectOptions {
    /// The broker that the environment names, no compression, no checksums.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connects to this socket, whatever the environment says.
    pub fn socket(mut self, path: impl AsRef<Path>) -> Self {
        self.endpoint = Some(Endpoint::Path(path.as_ref().to_owned()));
        self
    }

    /// Guards every frame by a checksum, both ways, if the broker agrees. A local socket loses
    /// nothing; this is for those who suspect memory, or look for a fault.
    pub fn checksum(mut self, checksum: bool) -> Self {
        self.traffic.checksum = checksum;
        self
    }

    /// Compresses payloads of at least so many bytes (LZ4), if the broker agrees. A receiver that
    /// cannot unpack gets them plain.
    pub fn compress_from(mut self, bytes: usize) -> Self {
        self.traffic.compress_min = Some(bytes);
        self
    }

    /// Connects as a client.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`](super::Error::Connect) when there is no broker.
    pub async fn connect(self) -> Result<Client> {
        let endpoint = match self.endpoint {
            Some(endpoint) => endpoint,
            None => Endpoint::from_environment()?,
        };
        Client::connect(endpoint, self.traffic).await
    }
}

/// What frames look like, where both sides agree.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TrafficOptions {
    pub(super) checksum: bool,
    pub(super) compress_min: Option<usize>,
}

impl TrafficOptions {
    pub(super) fn apply(self, settings: PeerSettings) -> PeerSettings {
        let Self { checksum, compress_min } = self;
        PeerSettings { checksum, compress_min, ..settings }
    }
}

/// What happens to events that come faster than they are taken.
///
/// They wait twice: at the broker for the connection, and in this process for whoever takes them.
/// Both queues follow the same choice, and what is shed from either comes as a gap.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SubscribeOptions {
    /// What is shed when a queue is full: by default the oldest. With [`Overflow::Block`] the
    /// publishers wait for the connection; what it has taken waits here, up to a million events and
    /// 64 MiB, beyond which the newest are shed.
    pub overflow: Overflow,
    /// Events that may wait in each queue. The broker gives no more than its limit, 16,384 unless
    /// its host says otherwise, which is the default too.
    pub queue_messages: Option<u64>,
    /// Bytes that may wait in each queue. Without this 1 MiB.
    pub queue_bytes: Option<u64>,
}

impl SubscribeOptions {
    pub(super) fn request(self, pattern: &str) -> Subscribe {
        let Self { overflow, queue_messages, queue_bytes } = self;
        Subscribe { pattern: pattern.to_owned(), overflow, queue_messages, queue_bytes }
    }
}
