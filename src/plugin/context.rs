//! What a handler knows and can do.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::client::Client;

/// Passed to every handler. Everything that a [`Client`] can do, and who asks.
///
/// Calls made through it inherit what is left of the caller's deadline.
#[derive(Clone, Debug)]
pub struct Context {
    client: Client,
    caller: Arc<str>,
    cancelled: Option<watch::Receiver<bool>>,
}

impl Context {
    pub(super) fn new(client: Client, caller: Arc<str>) -> Self {
        Self { client, caller, cancelled: None }
    }

    pub(super) fn for_call(
        client: &Client,
        caller: Arc<str>,
        deadline: Instant,
        cancelled: watch::Receiver<bool>,
    ) -> Self {
        let client = Client { deadline: Some(deadline), ..client.clone() };
        Self { client, caller, cancelled: Some(cancelled) }
    }

    pub(super) fn with_caller(&self, caller: Arc<str>) -> Self {
        Self { caller, ..self.clone() }
    }

    /// Who called, sent or published; empty for the broker's own signals.
    #[must_use]
    pub fn caller(&self) -> &str {
        &self.caller
    }

    /// When the caller stops waiting. None where nobody waits.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.client.deadline
    }

    /// Returns when the caller has given up, or its deadline has passed. Never where nobody waits.
    ///
    /// The handler's own future is dropped then; this is for tasks that it has started.
    pub async fn cancelled(&self) {
        if let Some(mut cancelled) = self.cancelled.clone()
            && cancelled.wait_for(|&cancelled| cancelled).await.is_ok()
        {
            return;
        }
        // The sending half goes with the call: without a word, the call has ended well.
        std::future::pending().await
    }
}

impl Deref for Context {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}
