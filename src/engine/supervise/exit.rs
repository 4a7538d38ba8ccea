//! How an incarnation of a child ended.

use std::fmt;
use std::sync::Arc;

/// Why an incarnation is gone, decoded as far as it can be known.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Exit {
    /// It finished by itself and says that all is well: code 0, an actor that stopped.
    Normal,
    /// It ended because it was asked to.
    Stopped,
    /// A process ended with this code, which is not 0.
    Code(i32),
    /// A signal killed a process.
    Signal {
        /// As in `signal(7)`.
        number: i32,
        /// Whether the kernel says that it wrote a core dump.
        core: bool,
    },
    /// The kernel killed it because memory ran out.
    Oom,
    /// A handler of an actor panicked.
    Panic(Arc<str>),
    /// It was killed because it no longer answered, or broke another threshold of its health.
    Hang(Arc<str>),
    /// It was killed because its connection broke the protocol.
    Violation(Arc<str>),
    /// It was killed because it was not ready in time.
    StartTimeout,
    /// It could not be started.
    StartFailed {
        /// Trying again cannot help until something is changed: no such file, wrong architecture.
        permanent: bool,
        /// What a person has to know.
        why: Arc<str>,
    },
    /// A group that gave up: its children needed more restarts than its intensity allows.
    Exhausted(Arc<str>),
}

impl Exit {
    /// Whether a transient child is restarted after it. A group that gave up counts as abnormal,
    /// so that its parent notices.
    #[must_use]
    pub fn is_abnormal(&self) -> bool {
        !matches!(self, Self::Normal | Self::Stopped)
    }

    /// Whether a new attempt cannot help until somebody changes something.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::StartFailed { permanent: true, .. })
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("ended by itself"),
            Self::Stopped => f.write_str("stopped as asked"),
            Self::Code(code) => write!(f, "ended with code {code}"),
            Self::Signal { number, core: false } => write!(f, "killed by signal {number}"),
            Self::Signal { number, core: true } => {
                write!(f, "killed by signal {number}, core dumped")
            }
            Self::Oom => f.write_str("killed because memory ran out"),
            Self::Panic(why) => write!(f, "panicked: {why}"),
            Self::Hang(why) => write!(f, "killed because it hung: {why}"),
            Self::Violation(why) => write!(f, "killed because it broke the protocol: {why}"),
            Self::StartTimeout => f.write_str("killed because it was not ready in time"),
            Self::StartFailed { permanent: true, why } => {
                write!(f, "cannot be started until something changes: {why}")
            }
            Self::StartFailed { permanent: false, why } => write!(f, "could not be started: {why}"),
            Self::Exhausted(why) => write!(f, "gave up: {why}"),
        }
    }
}
