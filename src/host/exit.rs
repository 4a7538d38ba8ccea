//! How a plugin process ended.

use std::fmt;
use std::time::Duration;

/// How a plugin process ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Exit {
    /// With a code; 0 says that all is well.
    Code(i32),
    /// By a signal.
    Signal {
        /// Its number.
        number: i32,
        /// Whether a core file was written.
        core: bool,
    },
    /// By SIGKILL, which none of us sent.
    Killed,
    /// By SIGKILL, which none of us sent, while the system counted a process that it killed because
    /// memory ran out.
    OutOfMemory,
    /// Not at all: it was killed and is still there, because it waits inside the kernel.
    Unkillable,
    /// Together with its guardian, which somebody killed and which had the status.
    Unknown,
}

impl Exit {
    /// Reads what `wait` gives.
    pub(crate) fn from_status(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Code(status >> 8 & 0xff),
            number => Self::Signal { number, core: status & 0x80 != 0 },
        }
    }

    /// Whether it says of itself that all is well.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }

    /// The signal that ended it, if it was one.
    #[must_use]
    pub fn signal(self) -> Option<i32> {
        match self {
            Self::Signal { number, .. } => Some(number),
            Self::Killed | Self::OutOfMemory => Some(9),
            Self::Code(_) | Self::Unkillable | Self::Unknown => None,
        }
    }
}

/// What a process used until its end, as the system counts it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Usage {
    /// Its largest resident memory, in bytes.
    pub memory_max: u64,
    /// Processor time of it and of those children that it waited for.
    pub processor: Duration,
}

impl Usage {
    /// From KiB and microseconds; `None` where the system does not count.
    pub(crate) fn new(memory_max: i64, processor: i64) -> Option<Self> {
        let memory_max = u64::try_from(memory_max).ok().filter(|&size| size > 0)? << 10;
        Some(Self { memory_max, processor: Duration::from_micros(u64::try_from(processor).ok()?) })
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal { number, core } => {
                write!(f, "was ended by signal {number}")?;
                if let Some((_, name, meaning)) = SIGNALS.iter().find(|entry| entry.0 == number) {
                    write!(f, " ({name}: {meaning})")?;
                }
                f.write_str(if core { ", a core file was written" } else { "" })
            }
            Self::Killed => {
                f.write_str("was killed (SIGKILL) by the kernel or by somebody else, not by us")
            }
            Self::OutOfMemory => {
                f.write_str("was killed (SIGKILL), by all signs because memory ran out")
            }
            Self::Unkillable => f.write_str(
                "was killed and has not ended: it waits inside the kernel, usually for a file \
                 system or a device",
            ),
            Self::Unknown => f.write_str(
                "ended with its guardian, which somebody killed; its status is not known",
            ),
        }
    }
}

/// The signals that end processes in practice. The numbers are those of every architecture that
/// Rust supports on Linux but MIPS and SPARC, where SIGBUS and SIGSYS differ.
const SIGNALS: &[(i32, &str, &str)] = &[
    (1, "SIGHUP", "its terminal went away"),
    (2, "SIGINT", "interrupted"),
    (3, "SIGQUIT", "asked to quit"),
    (4, "SIGILL", "an instruction that this processor lacks"),
    (5, "SIGTRAP", "a trap, often a failed check in its runtime"),
    (6, "SIGABRT", "it aborted itself"),
    (7, "SIGBUS", "memory that is not there"),
    (8, "SIGFPE", "an impossible calculation"),
    (9, "SIGKILL", "killed"),
    (11, "SIGSEGV", "an invalid memory access"),
    (10, "SIGUSR1", "a signal of its own that it does not handle"),
    (12, "SIGUSR2", "a signal of its own that it does not handle"),
    (13, "SIGPIPE", "it wrote to a pipe that nobody reads"),
    (14, "SIGALRM", "its own alarm clock"),
    (15, "SIGTERM", "asked to end"),
    (24, "SIGXCPU", "it used the processor time that its limit allows"),
    (25, "SIGXFSZ", "it wrote a larger file than its limit allows"),
    (31, "SIGSYS", "a system call that is not permitted"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_read_as_sentences() {
        let cases = [
            (Exit::Code(3), "exited with code 3"),
            (Exit::Signal { number: 9, core: false }, "was ended by signal 9 (SIGKILL: killed)"),
            (
                Exit::Signal { number: 11, core: true },
                "was ended by signal 11 (SIGSEGV: an invalid memory access), a core file was written",
            ),
            (Exit::Signal { number: 40, core: false }, "was ended by signal 40"),
            (Exit::OutOfMemory, "was killed (SIGKILL), by all signs because memory ran out"),
        ];
        for (exit, expected) in cases {
            assert_eq!(exit.to_string(), expected);
        }
    }

    #[test]
    fn what_wait_gives_is_read_as_the_c_library_does() {
        for status in 0..=0xffff_i32 {
            let expected = match (libc::WIFEXITED(status), libc::WIFSIGNALED(status)) {
                (true, _) => Exit::Code(libc::WEXITSTATUS(status)),
                (_, true) => {
                    let core = libc::WCOREDUMP(status);
                    Exit::Signal { number: libc::WTERMSIG(status), core }
                }
                // Stopped or continued, which nobody asks for.
                _ => continue,
            };
            assert_eq!(Exit::from_status(status), expected, "{status:#x}");
        }
    }
}
