//! The processes that live now, for whoever watches them.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::board::Seat;
use crate::supervise::Reports;

/// A process that lives.
#[derive(Clone, Debug)]
pub(crate) struct Alive {
    pub(crate) pid: u32,
    /// The number under which the broker knows it.
    pub(crate) number: u32,
    /// Whether it has been ready; its session may have ended since.
    pub(crate) was_ready: bool,
    /// The way to its group.
    pub(crate) reports: Reports,
}

/// Cheap to clone; all clones are the same roster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roster(Arc<Mutex<BTreeMap<(Seat, u64), Alive>>>);

impl Roster {
    /// Enters a process for as long as the result lives.
    pub(crate) fn enter(&self, seat: &Seat, alive: Alive) -> Entry {
        let key = (seat.clone(), alive.reports.generation());
        self.0.lock().insert(key.clone(), alive);
        Entry { roster: self.clone(), key }
    }

    /// Who lives, by seat and generation.
    pub(crate) fn alive(&self) -> Vec<((Seat, u64), Alive)> {
        self.0.lock().iter().map(|(key, alive)| (key.clone(), alive.clone())).collect()
    }
}

/// A place in the roster.
#[derive(Debug)]
pub(crate) struct Entry {
    roster: Roster,
    key: (Seat, u64),
}

impl Entry {
    pub(crate) fn ready(&self) {
        if let Some(alive) = self.roster.0.lock().get_mut(&self.key) {
            alive.was_ready = true;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.roster.0.lock().remove(&self.key);
    }
}
