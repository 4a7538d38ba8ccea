//! Route tables: a number from the wire to an entry, without hashing a name.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::id::RouteId;

/// Entries by route number, each in a slot that stays the same while the route lives.
///
/// Frames come in runs of one route, so that the last entry found is remembered.
#[derive(Debug)]
pub(super) struct RouteTable<T> {
    slots: Vec<Option<(RouteId, T)>>,
    free: Vec<usize>,
    index: FastMap<RouteId, usize>,
    last: usize,
}

impl<T> RouteTable<T> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), index: FastMap::default(), last: 0 }
    }

    /// Adds an entry, or replaces the one with the same number.
    pub(super) fn insert(&mut self, route: RouteId, entry: T) -> usize {
        let slot = match self.index.get(&route) {
            Some(&slot) => slot,
            None => self.free.pop().unwrap_or_else(|| {
                self.slots.push(None);
                self.slots.len() - 1
            }),
        };
        self.slots[slot] = Some((route, entry));
        self.index.insert(route, slot);
        slot
    }

    pub(super) fn remove(&mut self, route: RouteId) -> Option<(usize, T)> {
        let slot = self.index.remove(&route)?;
        self.free.push(slot);
        self.slots[slot].take().map(|(_, entry)| (slot, entry))
    }

    #[inline]
    pub(super) fn find(&mut self, route: RouteId) -> Option<(usize, &mut T)> {
        let slot = match self.slots.get(self.last) {
            Some(Some((number, _))) if *number == route => self.last,
            _ => *self.index.get(&route)?,
        };
        self.last = slot;
        match &mut self.slots[slot] {
            Some((_, entry)) => Some((slot, entry)),
            None => None,
        }
    }

    pub(super) fn route_at(&self, slot: usize) -> Option<RouteId> {
        self.slots.get(slot)?.as_ref().map(|(route, _)| *route)
    }

    pub(super) fn get(&self, route: RouteId) -> Option<&T> {
        let slot = *self.index.get(&route)?;
        self.slots[slot].as_ref().map(|(_, entry)| entry)
    }
}

/// A map whose keys are numbers and names that this process or its broker made up: nobody gains
/// by making them collide, and the order of iteration is the same in every run.
pub(super) type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FastHasher>>;

/// Multiplies and folds; for keys that need no protection.
#[derive(Default)]
pub(super) struct FastHasher(u64);

impl Hasher for FastHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value ^ Self::SEED) * u128::from(Self::FACTOR);
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}

impl FastHasher {
    /// Two odd numbers without a pattern in their bits.
    const SEED: u64 = 0x9E37_79B9_7F4A_7C15;
    const FACTOR: u64 = 0xD6E8_FEB8_6659_FD93;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_kept_while_its_route_lives_and_given_again_later() {
        let mut table = RouteTable::new();
        let first = table.insert(RouteId(70), "a");
        let second = table.insert(RouteId(9), "b");
        assert_ne!(first, second);
        assert_eq!(table.insert(RouteId(70), "c"), first, "the same route keeps its slot");
        assert_eq!(table.find(RouteId(70)).map(|(slot, entry)| (slot, *entry)), Some((first, "c")));

        assert_eq!(table.remove(RouteId(70)), Some((first, "c")));
        assert!(table.find(RouteId(70)).is_none(), "even though it was the last one found");
        assert_eq!(table.insert(RouteId(71), "d"), first);
        assert!(table.find(RouteId(70)).is_none());
        assert_eq!(table.find(RouteId(9)).map(|(_, entry)| *entry), Some("b"));
    }
}
