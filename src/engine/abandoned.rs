//! Calls that ended before their callee answered: its late answers are dropped in silence.
//!
//! Invariant: every call in `known` stands in `order`, which is at most twice as long as allowed.

use std::collections::{BTreeSet, VecDeque};

use crate::id::SessionId;

/// Calls by caller and request id.
#[derive(Debug, Default)]
pub(crate) struct Abandoned {
    known: BTreeSet<(SessionId, u64)>,
    /// The order in which they ended. Those that were answered since are passed over.
    order: VecDeque<(SessionId, u64)>,
}

impl Abandoned {
    /// Notes a call. The one that ended longest ago makes room: its answer is least likely to come
    /// still.
    pub(crate) fn insert(&mut self, call: (SessionId, u64)) {
        if !self.known.insert(call) {
            return;
        }
        if self.order.len() >= 2 * Self::COUNT_MAX {
            let known = &self.known;
            self.order.retain(|call| known.contains(call));
        }
        self.order.push_back(call);
        while self.known.len() > Self::COUNT_MAX {
            let oldest = self.order.pop_front().expect("what is known stands in the order");
            self.known.remove(&oldest);
        }
    }

    /// Takes a call whose answer has come. Says whether it was there.
    pub(crate) fn remove(&mut self, call: (SessionId, u64)) -> bool {
        self.known.remove(&call)
    }

    pub(crate) fn contains(&self, call: (SessionId, u64)) -> bool {
        self.known.contains(&call)
    }

    /// Late answers that are remembered for one callee.
    const COUNT_MAX: usize = 65_536;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was once the call of the lowest session number that made room.
    #[test]
    fn the_call_that_ended_longest_ago_makes_room() {
        let mut abandoned = Abandoned::default();
        abandoned.insert((SessionId(9), 1));
        for id in 0..Abandoned::COUNT_MAX as u64 {
            assert!(abandoned.contains((SessionId(9), 1)), "before {id}");
            abandoned.insert((SessionId(1), id));
        }
        assert!(!abandoned.contains((SessionId(9), 1)));
        assert!(abandoned.contains((SessionId(1), 0)));
    }

    #[test]
    fn answers_that_come_leave_nothing_behind() {
        let mut abandoned = Abandoned::default();
        for id in 0..5 * Abandoned::COUNT_MAX as u64 {
            abandoned.insert((SessionId(1), id));
            assert!(abandoned.remove((SessionId(1), id)));
            assert!(!abandoned.remove((SessionId(1), id)));
        }
        assert!(abandoned.order.len() <= 2 * Abandoned::COUNT_MAX);
    }
}
