//! Why a plugin process could not be started.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::program::{self, ProgramError};
use super::spec::{PluginSpec, limit_name};
use crate::error::Fault;
use crate::id::PluginId;
use crate::sys::guardian::step;

/// Why a plugin process could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The id is no plugin id.
    #[error(transparent)]
    Id(Fault),
    /// The command is empty.
    #[error("plugin `{0}` has an empty command")]
    NoCommand(String),
    /// The program cannot be executed.
    #[error("cannot start plugin `{id}`: {source}")]
    Program {
        /// Which plugin.
        id: String,
        /// Why.
        source: ProgramError,
    },
    /// A limit cannot be set.
    #[error(
        "cannot start plugin `{id}`: its limit {name} = {value} cannot be set: {source}; \
         a limit cannot be above the hard limit of this process (`ulimit -Ha`)"
    )]
    Limit {
        /// Which plugin.
        id: String,
        /// Which limit.
        name: &'static str,
        /// What it should have been.
        value: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The system lacks something.
    #[error("cannot start plugin `{id}`: {source}")]
    System {
        /// Which plugin.
        id: String,
        /// What it said.
        source: io::Error,
    },
}

impl SpawnError {
    /// Whether the same start can only fail again, until somebody changes something.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Id(_) | Self::NoCommand(_) | Self::Limit { .. } => true,
            Self::Program { source, .. } => !matches!(source, ProgramError::System { .. }),
            Self::System { .. } => false,
        }
    }
}

/// What the guardian says of a start that failed.
pub(super) struct Failure {
    pub(super) step: i64,
    pub(super) errno: i64,
    pub(super) detail: i64,
}

impl Failure {
    pub(super) fn explain(self, spec: &PluginSpec, id: &PluginId, path: PathBuf) -> SpawnError {
        let source = io::Error::from_raw_os_error(i32::try_from(self.errno).unwrap_or(0));
        let id = id.to_string();
        match self.step {
            step::PROGRAM => {
                let source = program::explain(&path, source);
                SpawnError::Program { id, source }
            }
            step::DIRECTORY => {
                let directory = spec.directory().map(ToOwned::to_owned).unwrap_or_default();
                SpawnError::Program { id, source: program::explain_directory(directory, source) }
            }
            step::LIMIT => {
                let limit = spec.limits().find(|limit| i64::from(limit.0 as u32) == self.detail);
                let (name, value) = limit.map_or(("?", 0), |(it, value)| (limit_name(it), value));
                SpawnError::Limit { id, name, value, source }
            }
            step => {
                let what = if step == step::GUARDIAN { "its guardian" } else { "its process" };
                let source = io::Error::new(source.kind(), format!("{what}: {source}"));
                SpawnError::System { id, source }
            }
        }
    }
}
