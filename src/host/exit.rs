//! How a plugin process ended.

use std::fmt;

use crate::sys::process::ChildExit;

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
    /// The application collected the status before us, or ignores its children.
    Unknown,
}

impl Exit {
    /// Whether it says of itself that all is well.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl From<ChildExit> for Exit {
    fn from(exit: ChildExit) -> Self {
        match exit {
            ChildExit::Code(code) => Self::Code(code),
            ChildExit::Signal { number, core } => Self::Signal { number, core },
            ChildExit::Unknown => Self::Unknown,
        }
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
            Self::Unknown => f.write_str("ended; the application took its exit status"),
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
    (6, "SIGABRT", "it aborted itself"),
    (7, "SIGBUS", "memory that is not there"),
    (8, "SIGFPE", "an impossible calculation"),
    (9, "SIGKILL", "killed"),
    (11, "SIGSEGV", "an invalid memory access"),
    (13, "SIGPIPE", "it wrote to a pipe that nobody reads"),
    (15, "SIGTERM", "asked to end"),
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
        ];
        for (exit, expected) in cases {
            assert_eq!(exit.to_string(), expected);
        }
    }
}
