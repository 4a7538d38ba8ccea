//! `[limits]`: what a plugin may use at most.

use schemars::JsonSchema;

use super::units::{ByteSize, CpuShare, Read as _};
use crate::host::document::{Entry, Problem};

/// What a plugin may use at most. Nothing is limited unless it is said here.
#[derive(Clone, Debug, Default, Eq, JsonSchema, PartialEq)]
#[schemars(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Limits {
    /// Private writable memory of each of its processes; an allocation beyond it fails.
    pub memory: Option<ByteSize>,
    /// Share of the processor, on average. Kept for the sandbox.
    pub cpu: Option<CpuShare>,
    /// Open files and sockets of each of its processes.
    pub fds: Option<u64>,
    /// Its processes and threads. Kept for the sandbox: the system's own limit counts everything
    /// that the user runs.
    pub procs: Option<u64>,
    /// Its largest message. Kept for the permissions.
    pub message: Option<ByteSize>,
    /// The largest file that it writes.
    pub file_size: Option<ByteSize>,
    /// The largest core file when it crashes.
    pub core: Option<ByteSize>,
}

impl Limits {
    pub(super) fn read(&mut self, entries: &[Entry], place: &str) -> Result<(), Problem> {
        for entry in entries {
            match entry.key.as_str() {
                "memory" => self.memory = Some(ByteSize::read(entry)?),
                "cpu" => self.cpu = Some(CpuShare::read(entry)?),
                "fds" => {
                    let count = entry.positive()?;
                    if count < FDS_MIN {
                        let message = format!(
                            "`fds` must be at least {FDS_MIN}: a plugin has its input, its two \
                             outputs and its connection open, and an interpreter opens some more"
                        );
                        return Err(entry.wrong(message));
                    }
                    self.fds = Some(count);
                }
                "procs" => self.procs = Some(entry.positive()?),
                "message" => self.message = Some(ByteSize::read(entry)?),
                "file_size" => self.file_size = Some(ByteSize::read(entry)?),
                "core" => self.core = Some(ByteSize::read(entry)?),
                _ => return Err(entry.unknown(&format!("[{place}]"), &Self::KEYS)),
            }
        }
        Ok(())
    }

    pub(super) const KEYS: [&str; 7] =
        ["memory", "cpu", "fds", "procs", "message", "file_size", "core"];
}

/// With fewer, not even an interpreter starts.
const FDS_MIN: u64 = 8;
