//! What a blocking client has read and not yet handled.

use std::io::Read;

use anyhow::{Result, ensure};

/// A buffer that is filled at its end and emptied at its start.
pub(crate) struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; 2 * READ_SIZE], start: 0, end: 0 }
    }

    /// Reads once.
    pub(crate) fn fill(&mut self, stream: &mut impl Read) -> Result<()> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.bytes.len() - self.end < READ_SIZE {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let wanted = self.end + READ_SIZE;
        if self.bytes.len() < wanted {
            self.bytes.resize(wanted.next_power_of_two(), 0);
        }
        let count = stream.read(&mut self.bytes[self.end..wanted])?;
        ensure!(count > 0, "the other side closed the connection");
        self.end += count;
        Ok(())
    }

    /// What waits to be handled.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
    }
}

/// One read, and what clients send in one write.
pub(crate) const READ_SIZE: usize = 64 << 10;
