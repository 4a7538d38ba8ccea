//! A participant of the host's own that stays.
//!
//! A broker that has lost its records ends all sessions, also those of the host. A resident joins
//! again then, under the same id and with the same actors, until the broker is gone or it leaves.

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::broker::{BrokerError, Participant, ParticipantBuilder};
use crate::limit;

/// Leaves when it is dropped.
#[derive(Debug)]
pub(crate) struct Resident {
    participant: watch::Receiver<Participant>,
    staying: JoinHandle<()>,
}

impl Resident {
    /// Joins, and stays on the current runtime.
    ///
    /// # Errors
    ///
    /// When the broker is not running, or somebody has the id.
    pub(crate) async fn join(builder: ParticipantBuilder) -> Result<Self, BrokerError> {
        let (sender, participant) = watch::channel(builder.clone().join().await?);
        let staying = tokio::spawn(stay(builder, sender));
        Ok(Self { participant, staying })
    }

    /// Itself, as it joined last.
    pub(crate) fn participant(&self) -> Participant {
        self.participant.borrow().clone()
    }

    /// Leaves after what is queued has been written.
    pub(crate) async fn leave(self) {
        self.staying.abort();
        self.participant().leave().await;
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.staying.abort();
    }
}

async fn stay(builder: ParticipantBuilder, sender: watch::Sender<Participant>) {
    loop {
        let present = sender.borrow().clone();
        present.ended().await;
        let mut delay = limit::REJOIN_DELAY;
        let next = loop {
            match builder.clone().join().await {
                Ok(next) => break next,
                Err(BrokerError::NotRunning) => return,
                Err(error) => log::warn!("`{}` cannot join again: {error}", present.id()),
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(limit::REJOIN_DELAY_MAX);
        };
        log::info!("`{}` has joined again", next.id());
        sender.send_replace(next);
    }
}
