//! What the host is told.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::error::Fault;
use crate::limit::LimitError;
use crate::net::ListenError;
use crate::supervise::MailError;

/// The host could not start or keep the broker: wrong configuration or a failing system.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The socket cannot be used.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: ListenError,
    },
    /// A bound is out of its range, or contradicts another.
    #[error("the limits of the broker are wrong")]
    Limits(#[from] LimitError),
    /// The broker's thread could not be started.
    #[error("cannot start the broker's thread")]
    Thread(#[source] io::Error),
    /// The broker has been shut down, or its thread has failed.
    #[error("the broker is not running")]
    NotRunning,
    /// The broker failed while it did this, and has recovered. It may have been done or not.
    #[error("the broker failed while it did this, and has recovered; look before trying again")]
    Failed,
    /// A connection could not be handed to the broker.
    #[error("cannot take the connection of `{plugin}`")]
    Attach {
        /// Whose it is.
        plugin: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A name does not fit its grammar, or the broker refuses what was asked.
    #[error(transparent)]
    Refused(#[from] Fault),
}

impl From<MailError> for BrokerError {
    fn from(error: MailError) -> Self {
        match error {
            MailError::Closed => Self::NotRunning,
            MailError::Panicked | MailError::Stopped => Self::Failed,
        }
    }
}
