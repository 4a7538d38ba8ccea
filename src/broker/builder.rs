//! What a host decides about its broker.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Broker, BrokerError, system};
use crate::engine::RouterSettings;
use crate::limit::Limits;

/// Configures a [`Broker`]. Everything has a default; nothing happens on the system before
/// [`start`](Self::start).
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `start`"]
pub struct BrokerBuilder {
    name: String,
    socket: Option<PathBuf>,
    limits: Limits,
    seed: Option<u64>,
}

impl BrokerBuilder {
    pub(super) fn new() -> Self {
        Self { name: "plugbus".to_owned(), socket: None, limits: Limits::default(), seed: None }
    }

    /// Its name, for people: in the welcome, in `status`, in logs. Defaults to `plugbus`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Where external plugins and clients connect. Without this the broker takes only the
    /// connections that the host makes. The directory must belong to the user with mode 0700; it is
    /// made if it is not there. The socket of a broker that has died is replaced, that of a live
    /// one is left alone.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// All of its bounds at once. They are checked against each other when it starts.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How long [`Broker::shutdown`] waits for sessions to finish. Defaults to 5 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.limits.drain_timeout = timeout;
        self
    }

    /// Time that a new connection has for its hello. Defaults to 5 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.limits.handshake_timeout = timeout;
        self
    }

    /// Silence after which a peer is pinged. Defaults to 15 s.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.limits.heartbeat = interval;
        self
    }

    /// Live sessions at most. Defaults to 12,288; each costs a descriptor.
    pub fn sessions_max(mut self, count: usize) -> Self {
        self.limits.sessions_max = count;
        self
    }

    /// Seed of the session ids, for a run that repeats. Defaults to a random one, which is logged.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Starts the broker's thread and binds the socket.
    ///
    /// # Errors
    ///
    /// When its limits contradict each other, the socket cannot be used or the thread not be
    /// started. A failed start leaves nothing
    /// behind.
    pub async fn start(self) -> Result<Broker, BrokerError> {
        let Self { name, socket, limits, seed } = self;
        limits.check()?;
        let drain = limits.drain_timeout;
        let seed = seed.unwrap_or_else(random_seed);
        let settings = RouterSettings { name: name.clone(), seed, limits: Arc::new(limits) };
        let started = system::start(settings, socket.clone()).await?;
        Ok(Broker::running(name, socket, drain, started))
    }
}

/// A number that differs from run to run. The standard library seeds its hash maps from the system.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
