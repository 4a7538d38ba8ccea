//! Messages of one route that came in one read, back to back.
//!
//! They stay one piece from the socket to the handler: one event, one place in a queue, one count.
//! Only who takes them out pays for each.

use bytes::Bytes;

use super::Payload;
use crate::wire::body::Redelivery;
use crate::wire::{HEADER_SIZE, Header, TRAILER_SIZE};

/// Messages of a channel, in order. Keeps the buffer in which they came alive until the last one
/// is taken and dropped.
///
/// Invariant: `frames` from `start` on are `count` whole, plain message frames that were scanned.
#[derive(Clone, Debug)]
pub struct MessageRun {
    frames: Bytes,
    start: usize,
    count: usize,
    redelivery: Redelivery,
}

/// One message of a [`MessageRun`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Delivered {
    /// Its number in the channel.
    pub id: u64,
    /// 1 at first; more when it may have been handled before.
    pub attempt: u32,
    /// The sender's Unix time in nanoseconds.
    pub timestamp: u64,
    /// The content.
    pub payload: Payload,
}

impl MessageRun {
    pub(super) fn new(frames: Bytes, count: usize, redelivery: Redelivery) -> Self {
        Self { frames, start: 0, count, redelivery }
    }
}

impl Iterator for MessageRun {
    type Item = Delivered;

    #[inline]
    fn next(&mut self) -> Option<Delivered> {
        self.count = self.count.checked_sub(1)?;
        let header = self.frames[self.start..].first_chunk::<HEADER_SIZE>();
        let header = header.and_then(|header| Header::parse(header, u32::MAX).ok());
        let header = header.expect("the frames of a run were scanned");
        let body_start = self.start + HEADER_SIZE + header.extension_size();
        self.start += header.frame_size();
        Some(Delivered {
            id: header.message_id,
            attempt: attempt_of(header.message_id, self.redelivery),
            timestamp: header.timestamp,
            payload: Payload {
                content: header.flags.content_type(),
                body: self.frames.slice(body_start..self.start - TRAILER_SIZE),
            },
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl ExactSizeIterator for MessageRun {}

/// The ids up to `redelivery.last` may have been handled before.
#[inline]
pub(super) fn attempt_of(id: u64, redelivery: Redelivery) -> u32 {
    if id <= redelivery.last { redelivery.attempt } else { 1 }
}
