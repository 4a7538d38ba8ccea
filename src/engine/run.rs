//! A run: consecutive frames of one read for one target. The unit of everything that is costly.

use bytes::Bytes;

use crate::wire::{Flags, HEADER_SIZE, Header, MessageExtension, scan_frame};

/// Frames back to back, with consecutive message ids.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) bytes: Bytes,
    /// Message id of the first frame.
    pub(crate) first: u64,
    /// Messages, of which a chunked one has several frames.
    pub(crate) count: u64,
    /// Sum of the payload lengths.
    pub(crate) payload: u64,
    /// Union of the flags of all frames.
    pub(crate) flags: Flags,
}

impl Run {
    pub(crate) fn last(&self) -> u64 {
        self.first + self.count - 1
    }

    /// Each message as a run of its own.
    pub(crate) fn messages(&self) -> impl Iterator<Item = (u64, Self)> + '_ {
        let mut rest = self.bytes.clone();
        let mut id = self.first;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let bytes = rest.split_to(message_size(&rest));
            let payload = payload_size(&bytes);
            id += 1;
            Some((id - 1, Self { bytes, first: id - 1, count: 1, payload, flags: self.flags }))
        })
    }

    /// The conflation key of the first message, 0 for none.
    pub(crate) fn key(&self) -> u64 {
        match scan_frame(&self.bytes, u32::MAX) {
            Ok(Some(frame)) => MessageExtension::of(&frame).key,
            _ => 0,
        }
    }

    /// Splits off the first `count` messages, whose payloads sum to what is returned.
    pub(crate) fn split_front(&mut self, count: u64) -> Self {
        assert!(count <= self.count, "a run has no more messages than it has");
        let bytes = self.bytes.split_to(size_of_first(&self.bytes, count));
        let payload = payload_size(&bytes);
        let front = Self { bytes, first: self.first, count, payload, flags: self.flags };
        self.first += count;
        self.count -= count;
        self.payload -= payload;
        front
    }
}

/// Size of the first `count` messages.
pub(crate) fn size_of_first(bytes: &[u8], count: u64) -> usize {
    (0..count).fold(0, |size, _| size + message_size(&bytes[size..]))
}

/// Size of the first message: its frame, and those behind it that belong to it.
///
/// The bytes have been scanned when they came in, so that they can be trusted here.
pub(crate) fn message_size(bytes: &[u8]) -> usize {
    let mut size = 0;
    loop {
        let header = header_at(&bytes[size..]);
        size += header.frame_size();
        if !header.flags.has(Flags::MORE) {
            return size;
        }
    }
}

/// The header at the start of bytes that were scanned before.
pub(crate) fn header_at(bytes: &[u8]) -> Header {
    let bytes = bytes.first_chunk::<HEADER_SIZE>().expect("a run holds whole frames");
    Header::parse(bytes, u32::MAX).expect("a run holds frames that were checked")
}

/// Sum of the payload lengths of all frames.
pub(crate) fn payload_size(bytes: &[u8]) -> u64 {
    let mut offset = 0;
    let mut payload = 0;
    while offset < bytes.len() {
        let header = header_at(&bytes[offset..]);
        payload += u64::from(header.payload_size);
        offset += header.frame_size();
    }
    payload
}

/// Union of the flags of all frames.
pub(crate) fn all_flags(bytes: &[u8]) -> Flags {
    let mut offset = 0;
    let mut flags = Flags::default();
    while offset < bytes.len() {
        let header = header_at(&bytes[offset..]);
        flags = flags.with(header.flags.0);
        offset += header.frame_size();
    }
    flags
}
