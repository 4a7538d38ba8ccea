//! The sum that promise P1 is about: accepted = every kind of end + pending.
//!
//! Ends are counted here, where they happen. *Pending* is not a counter: it is counted from the
//! live objects, by `status` and by the simulator, so that a forgotten end shows.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Ends of the messages of one class.
#[derive(Debug, Default)]
pub struct Tally {
    accepted: AtomicU64,
    ends: [AtomicU64; End::COUNT],
}

/// How a message ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(usize)]
pub(crate) enum End {
    /// It reached its goal, or the caller has its outcome.
    Completed,
    /// Its caller or its receiver has gone.
    Cancelled,
    /// Its deadline passed.
    Expired,
    /// Given up for a receiver that is too slow, with a receipt.
    Shed,
    /// Given up for a receiver that does not come.
    Dead,
    /// Given up because its receivers crashed over it.
    Quarantined,
}

impl End {
    const COUNT: usize = 6;
}

impl Tally {
    pub(crate) fn accept(&self, count: u64) {
        // Relaxed, here and below: counters order nothing else.
        self.accepted.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn end(&self, end: End, count: u64) {
        self.ends[end as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// The figures, with `pending` as counted by the caller.
    #[must_use]
    pub fn snapshot(&self, pending: u64) -> TallySnapshot {
        let end = |end: End| self.ends[end as usize].load(Ordering::Relaxed);
        TallySnapshot {
            accepted: self.accepted.load(Ordering::Relaxed),
            completed: end(End::Completed),
            cancelled: end(End::Cancelled),
            expired: end(End::Expired),
            shed: end(End::Shed),
            dead: end(End::Dead),
            quarantined: end(End::Quarantined),
            pending,
        }
    }
}

/// Figures of one class at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the ends are described in docs/architecture.md")]
pub struct TallySnapshot {
    pub accepted: u64,
    pub completed: u64,
    pub cancelled: u64,
    pub expired: u64,
    pub shed: u64,
    pub dead: u64,
    pub quarantined: u64,
    pub pending: u64,
}

impl TallySnapshot {
    /// Whether nothing was lost and nothing counted twice.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        self.accepted
            == self.completed
                + self.cancelled
                + self.expired
                + self.shed
                + self.dead
                + self.quarantined
                + self.pending
    }
}

/// The three classes of traffic.
#[derive(Debug, Default)]
pub struct Tallies {
    /// One for each request.
    pub requests: Tally,
    /// One for each channel message.
    pub messages: Tally,
    /// One for each event and receiver.
    pub events: Tally,
}
