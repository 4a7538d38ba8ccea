//! Why plugins could not be started, or a command for one was not accepted.

use thiserror::Error;

use crate::broker::BrokerError;
use crate::engine::supervise::Refusal;
use crate::host::error::SpawnError;
use crate::id::PluginId;

/// Why plugins could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// Two have the same id.
    #[error("plugin `{0}` is there twice")]
    Twice(PluginId),
    /// A specification is wrong.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// They do not fit together.
    #[error("the plugins cannot be supervised: {0}")]
    Group(#[from] Refusal),
    /// Only one can serve the commands.
    #[error(
        "somebody serves the commands for this broker's plugins already; join with `Control` once, \
         with the plugins that people command"
    )]
    Controlled,
    /// The broker does not take them.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// One did not get ready, and everybody was asked to.
    #[error("plugin `{id}` {reason}")]
    NotReady {
        /// Which plugin.
        id: PluginId,
        /// Why.
        reason: String,
    },
}

/// Why a command for a plugin was not accepted.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum CommandError {
    /// There is no such plugin.
    #[error("there is no supervised plugin `{plugin}`{hint}")]
    Unknown {
        /// The name.
        plugin: String,
        /// What may have been meant.
        hint: String,
    },
    /// A changed configuration cannot be applied.
    #[error("{reason}")]
    Configuration {
        /// Why.
        reason: String,
    },
    /// Not now.
    #[error("plugin `{plugin}`: {reason}")]
    Refused {
        /// The name.
        plugin: String,
        /// Why.
        reason: String,
    },
}
