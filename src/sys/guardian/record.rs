//! What the guardian and the broker tell each other, one record a packet.
//!
//! Both sides are built from this file at the same time and never meet another version of it; the
//! version is there so that a mistake in building shows itself as what it is.

/// Orders of the broker to a guardian: one byte each.
pub(crate) mod order {
    /// The broker watches the plugin by a descriptor of its own: its status may be collected.
    pub(crate) const WATCHED: u8 = b'w';
    /// Ask the plugin's process group to end, and wake it if it is stopped.
    pub(crate) const TERMINATE: u8 = b't';
    /// Kill the plugin and all its descendants.
    pub(crate) const KILL: u8 = b'k';
}

/// What a guardian reports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Report {
    /// The plugin's program runs.
    Started {
        /// Its process.
        pid: i64,
    },
    /// The plugin's program does not run, and the guardian ends.
    Failed {
        /// What could not be done: one of [`step`].
        step: i64,
        /// The system's error number.
        errno: i64,
        /// Which limit, for that step.
        detail: i64,
    },
    /// The plugin's process has ended. Its descendants are being killed.
    Ended {
        /// As `wait` gives it.
        status: i64,
        /// Its largest resident size, in KiB; 0 if not known.
        memory_max: i64,
        /// Processor time of it and those of its children that it waited for, in microseconds.
        processor: i64,
    },
    /// Nothing is left, and the guardian ends.
    Gone {
        /// Descendants that belong to another user and stay; -1 if they cannot be counted.
        left: i64,
    },
}

/// Steps of starting a plugin.
pub(crate) mod step {
    /// What the guardian needs for itself.
    pub(crate) const GUARDIAN: i64 = 0;
    /// A process, its session, its streams.
    pub(crate) const PROCESS: i64 = 1;
    /// The working directory.
    pub(crate) const DIRECTORY: i64 = 2;
    /// A resource limit.
    pub(crate) const LIMIT: i64 = 3;
    /// The program.
    pub(crate) const PROGRAM: i64 = 4;
}

impl Report {
    pub(crate) fn to_bytes(self) -> [u8; Self::SIZE] {
        let words = match self {
            Self::Started { pid } => [Self::VERSION, 1, pid, 0, 0],
            Self::Failed { step, errno, detail } => [Self::VERSION, 2, step, errno, detail],
            Self::Ended { status, memory_max, processor } => {
                [Self::VERSION, 3, status, memory_max, processor]
            }
            Self::Gone { left } => [Self::VERSION, 4, left, 0, 0],
        };
        let mut bytes = [0; Self::SIZE];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// `None` for what no guardian of this version sends.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::SIZE] = bytes.try_into().ok()?;
        let mut words = [0; 5];
        for (word, place) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = i64::from_ne_bytes(place.try_into().ok()?);
        }
        match words {
            [Self::VERSION, 1, pid, 0, 0] => Some(Self::Started { pid }),
            [Self::VERSION, 2, step, errno, detail] => Some(Self::Failed { step, errno, detail }),
            [Self::VERSION, 3, status, memory_max, processor] => {
                Some(Self::Ended { status, memory_max, processor })
            }
            [Self::VERSION, 4, left, 0, 0] => Some(Self::Gone { left }),
            _ => None,
        }
    }

    /// The size of a report.
    pub(crate) const SIZE: usize = 40;
    /// Starts with a number that no text begins with.
    pub(crate) const VERSION: i64 = 0x7062_6702_0000_0001;
}
