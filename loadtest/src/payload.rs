//! What the messages hold, and the check that nothing is lost, repeated or damaged.
//!
//! The first eight bytes are the message's number, the rest is a pattern whose words have a known
//! sum. Sender and receiver do the same work whatever system is between them.

use anyhow::{Result, bail, ensure};

/// Makes payloads of one size.
pub(crate) struct Pattern {
    bytes: Vec<u8>,
    sum: u64,
}

impl Pattern {
    pub(crate) fn new(size: usize) -> Result<Self> {
        ensure!(
            size >= 16 && size.is_multiple_of(8),
            "payloads are multiples of 8 bytes from 16 on"
        );
        let mut bytes: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
        bytes[..8].fill(0);
        let sum = sum(&bytes);
        Ok(Self { bytes, sum })
    }

    /// The payload but for its number.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A whole payload.
    pub(crate) fn payload(&self, number: u64) -> Vec<u8> {
        let mut payload = self.bytes.clone();
        payload[..8].copy_from_slice(&number.to_le_bytes());
        payload
    }
}

/// Follows the payloads of one sender.
pub(crate) struct Checker {
    pattern: Pattern,
    next: u64,
}

impl Checker {
    pub(crate) fn new(size: usize) -> Result<Self> {
        Ok(Self { pattern: Pattern::new(size)?, next: 0 })
    }

    /// Checks the next payload. Says whether it was the last.
    #[inline]
    pub(crate) fn check(&mut self, payload: &[u8]) -> Result<bool> {
        let number = match payload.first_chunk() {
            Some(number) => u64::from_le_bytes(*number),
            None => bail!("a payload of {} bytes", payload.len()),
        };
        if number == END {
            return Ok(true);
        }
        if number != self.next || payload.len() != self.pattern.bytes.len() {
            bail!(
                "message {number} of {} bytes instead of {} of {}",
                payload.len(),
                self.next,
                self.pattern.bytes.len()
            );
        }
        if sum(payload) != self.pattern.sum.wrapping_add(number) {
            bail!("message {number} is damaged");
        }
        self.next += 1;
        Ok(false)
    }

    /// Messages seen, without the one that marks the end.
    pub(crate) fn count(&self) -> u64 {
        self.next
    }
}

#[inline]
fn sum(payload: &[u8]) -> u64 {
    let (words, _rest) = payload.as_chunks::<8>();
    words.iter().fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}

/// Number of the message that ends a stream.
pub(crate) const END: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_repetition_and_damage_are_noticed() {
        let pattern = Pattern::new(64).unwrap();
        let mut checker = Checker::new(64).unwrap();
        assert!(!checker.check(&pattern.payload(0)).unwrap());
        assert!(checker.check(&pattern.payload(0)).is_err(), "repeated");
        assert!(checker.check(&pattern.payload(2)).is_err(), "lost");
        let mut damaged = pattern.payload(1);
        damaged[40] ^= 1;
        assert!(checker.check(&damaged).is_err(), "damaged");
        assert!(!checker.check(&pattern.payload(1)).unwrap());
        assert!(checker.check(&pattern.payload(END)).unwrap());
        assert_eq!(checker.count(), 2);
    }
}
