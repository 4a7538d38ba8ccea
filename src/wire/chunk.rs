//! Messages larger than a frame: cutting them, and collecting the pieces.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};

use super::frame::FrameView;
use super::header::{ContentType, Flags, Kind};
use crate::error::{Code, Fault, Refusal};
use crate::id::RouteId;

/// Cuts a body so that each piece fits a frame. The flag says whether more pieces follow. A body
/// that fits gives one piece.
pub fn split_chunks(
    body: &[u8],
    payload_max: u32,
    extension_size: usize,
) -> impl Iterator<Item = (bool, &[u8])> {
    // The first piece shares its frame with the extension; the others could be larger, but equal
    // pieces are easier to follow.
    let piece_max = (payload_max as usize).saturating_sub(extension_size).max(1);
    let count = body.len().div_ceil(piece_max).max(1);
    (0..count).map(move |index| {
        let end = body.len().min((index + 1) * piece_max);
        (index + 1 < count, &body[index * piece_max..end])
    })
}

/// What makes chunks belong together.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ChunkKey {
    /// Type of the frames.
    pub kind: Kind,
    /// Their route.
    pub route: RouteId,
    /// Their message id.
    pub message_id: u64,
}

/// Collects the chunks of unfinished messages of one sender, as whole frames, within a quota.
///
/// Invariant: `bytes` is the sum of the sizes of all collected frames.
#[derive(Debug)]
pub struct Assembler {
    unfinished: BTreeMap<ChunkKey, Assembly>,
    /// Messages of which a chunk was refused. What still comes of them is passed over: taken for a
    /// message of its own, the rest would be one that nobody sent.
    refused: BTreeSet<ChunkKey>,
    bytes: u64,
    count_max: usize,
    message_max: u64,
}

/// The frames of one message so far.
#[derive(Debug, Default)]
pub struct Assembly {
    /// The frames, back to back.
    pub frames: BytesMut,
    /// How many.
    pub count: u32,
    /// Sum of their bodies as their author wrote them.
    pub body_size: u64,
    /// What the first of them says that they are.
    pub content_type: ContentType,
}

impl Assembler {
    /// An empty one.
    #[must_use]
    pub fn new(count_max: usize, message_max: u64) -> Self {
        Self {
            unfinished: BTreeMap::new(),
            refused: BTreeSet::new(),
            bytes: 0,
            count_max,
            message_max,
        }
    }

    /// Takes one chunk. Gives all frames back to back when it was the last one.
    ///
    /// Must be called for every frame with the flag *more*, and for every frame whose key
    /// [`is_unfinished`](Self::is_unfinished).
    ///
    /// # Errors
    ///
    /// 11005 when the message gets too large, 10007 when the sender has too many unfinished ones,
    /// 11007 when the chunk does not belong to what came before. The unfinished message is dropped,
    /// and its further chunks are passed over.
    pub fn push(&mut self, key: ChunkKey, frame: &FrameView<'_>) -> Result<Option<Bytes>, Fault> {
        let has_more = frame.header.flags.has(Flags::MORE);
        if self.refused.contains(&key) {
            if !has_more {
                self.refused.remove(&key);
            }
            return Ok(None);
        }
        match self.try_push(key, frame) {
            Ok(complete) => Ok(complete),
            Err(fault) => {
                self.refuse(key, has_more);
                Err(fault)
            }
        }
    }

    /// Drops the message that a refused chunk belongs to, and what still comes of it.
    pub fn refuse(&mut self, key: ChunkKey, has_more: bool) {
        self.drop_message(key);
        if !has_more {
            self.refused.remove(&key);
            return;
        }
        if self.refused.len() >= Self::REFUSED_MAX {
            // Only a sender that begins messages in a loop and never ends them comes here.
            self.refused.pop_first();
        }
        self.refused.insert(key);
    }

    /// Forgets what was collected under `key`. Says whether there was something.
    pub fn drop_message(&mut self, key: ChunkKey) -> bool {
        match self.unfinished.remove(&key) {
            Some(assembly) => {
                self.bytes -= assembly.frames.len() as u64;
                true
            }
            None => false,
        }
    }

    /// Forgets what was collected of messages that are of no use any more.
    pub fn drop_messages(&mut self, is_useless: impl Fn(ChunkKey) -> bool) {
        for (_, dropped) in self.unfinished.extract_if(.., |key, _| is_useless(*key)) {
            self.bytes -= dropped.frames.len() as u64;
        }
    }

    /// Forgets what was collected for a route that is given up.
    pub fn drop_route(&mut self, route: RouteId) {
        let of_route = |key: &ChunkKey| key.route == route;
        for (_, dropped) in self.unfinished.extract_if(.., |key, _| of_route(key)) {
            self.bytes -= dropped.frames.len() as u64;
        }
        self.refused.retain(|key| !of_route(key));
    }

    /// Whether chunks under this key have come.
    #[must_use]
    pub fn is_unfinished(&self, key: ChunkKey) -> bool {
        !self.is_empty() && (self.unfinished.contains_key(&key) || self.refused.contains(&key))
    }

    /// Whether chunks under this key are passed over.
    #[must_use]
    pub fn is_refused(&self, key: ChunkKey) -> bool {
        self.refused.contains(&key)
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Messages begun.
    #[must_use]
    pub fn len(&self) -> usize {
        self.unfinished.len()
    }

    /// Whether nothing is held and nothing is waited for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unfinished.is_empty() && self.refused.is_empty()
    }

    fn try_push(&mut self, key: ChunkKey, frame: &FrameView<'_>) -> Result<Option<Bytes>, Fault> {
        if !key.kind.is_chunkable() {
            return Err(Fault::new(
                Code::Malformed,
                format!("a frame of type {} cannot be chunked", key.kind),
            ));
        }
        let first = !self.unfinished.contains_key(&key);
        if first && self.unfinished.len() >= self.count_max {
            return Err(Fault::refused(&Refusal {
                resource: "unfinished chunked messages",
                holder: "this session",
                used: self.unfinished.len() as u64,
                limit: self.count_max as u64,
                blame: "this session",
                retry_after_ms: 0,
            }));
        }
        if !first && frame.header.flags.has(Flags::EXTENDED) {
            return Err(Fault::new(Code::Malformed, "only the first chunk may have an extension"));
        }
        let size = frame.bytes().len() as u64;
        let content_type = frame.header.flags.content_type();
        let assembly = self
            .unfinished
            .entry(key)
            .or_insert_with(|| Assembly { content_type, ..Assembly::default() });
        if assembly.content_type != content_type {
            return Err(Fault::new(
                Code::Malformed,
                format!(
                    "chunk of content type {content_type:?} in a message of {:?}",
                    assembly.content_type
                ),
            ));
        }
        let body_size = assembly.body_size + frame.unpacked_size();
        if body_size > self.message_max {
            return Err(Fault::new(
                Code::TooLarge,
                format!("message of {body_size} bytes is over the limit of {}", self.message_max),
            ));
        }
        if self.bytes + size > self.message_max + self.message_max / 8 + Self::OVERHEAD_MAX {
            return Err(Fault::refused(&Refusal {
                resource: "bytes of unfinished chunked messages",
                holder: "this session",
                used: self.bytes,
                limit: self.message_max,
                blame: "this session",
                retry_after_ms: 0,
            }));
        }
        assembly.frames.extend_from_slice(frame.bytes());
        assembly.count += 1;
        assembly.body_size = body_size;
        self.bytes += size;
        if frame.header.flags.has(Flags::MORE) {
            return Ok(None);
        }
        let assembly = self.unfinished.remove(&key).expect("it was pushed to just now");
        self.bytes -= assembly.frames.len() as u64;
        Ok(Some(assembly.frames.freeze()))
    }

    /// What headers may add to the bodies, besides an eighth.
    const OVERHEAD_MAX: u64 = 64 << 10;

    /// Refused messages whose end has not come.
    const REFUSED_MAX: usize = 1_024;
}

impl ChunkKey {
    /// The key of a frame. Routes belong to one session, so that they tell callers apart too.
    #[must_use]
    pub fn of(frame: &FrameView<'_>) -> Self {
        let header = &frame.header;
        Self { kind: header.kind, route: header.route, message_id: header.message_id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FrameBuilder, scan_frame};

    #[test]
    fn chunks_join_to_what_was_cut() {
        for size in [0, 1, 9, 10, 11, 20, 21, 99] {
            let body: Vec<u8> = (0..size).map(|index| index as u8).collect();
            let mut assembler = Assembler::new(4, 1000);
            let mut complete = None;
            for (more, piece) in split_chunks(&body, 10, 0) {
                assert!(complete.is_none());
                complete = push(&mut assembler, more, piece).unwrap();
            }
            let mut frames = complete.expect("the last chunk completes the message");
            let mut joined = Vec::new();
            while !frames.is_empty() {
                let frame = scan_frame(&frames, 10).unwrap().unwrap();
                joined.extend_from_slice(frame.body());
                let size = frame.bytes().len();
                frames = frames.slice(size..);
            }
            assert_eq!(joined, body);
            assert_eq!((assembler.bytes(), assembler.len()), (0, 0));
        }
    }

    #[test]
    fn an_unfinished_message_has_a_largest_size() {
        let mut assembler = Assembler::new(4, 15);
        assert_eq!(push(&mut assembler, true, &[0; 10]), Ok(None));
        let fault = push(&mut assembler, true, &[0; 10]).unwrap_err();
        assert_eq!(fault.code, Code::TooLarge);
        assert_eq!((assembler.bytes(), assembler.len()), (0, 0), "and is forgotten beyond it");
    }

    #[test]
    fn the_rest_of_a_refused_message_was_taken_for_a_message() {
        let mut assembler = Assembler::new(4, 15);
        push(&mut assembler, true, &[0; 10]).unwrap();
        push(&mut assembler, true, &[0; 10]).unwrap_err();
        assert_eq!(push(&mut assembler, true, b"rest"), Ok(None));
        assert_eq!(push(&mut assembler, false, b"end"), Ok(None));
        assert!(assembler.is_empty());
        assert!(
            matches!(push(&mut assembler, false, b"whole"), Ok(Some(_))),
            "the next one counts"
        );
    }

    #[test]
    fn a_chunk_that_unpacks_to_much_counts_as_much() {
        let packed = crate::wire::compress_frame(&[0; 1000]).unwrap();
        let frame = FrameBuilder::new(Kind::MESSAGE)
            .flags(Flags::MORE | Flags::COMPRESSED)
            .message_id(1)
            .build(b"", &packed);
        let frame = scan_frame(&frame, 1000).unwrap().unwrap();
        let mut assembler = Assembler::new(4, 1999);
        assert_eq!(assembler.push(ChunkKey::of(&frame), &frame), Ok(None));
        let fault = assembler.push(ChunkKey::of(&frame), &frame).unwrap_err();
        assert_eq!(fault.code, Code::TooLarge);
    }

    #[test]
    fn a_change_of_the_content_type_between_chunks_was_accepted() {
        let mut assembler = Assembler::new(4, 100);
        assert_eq!(push(&mut assembler, true, b"raw"), Ok(None));
        let frame = FrameBuilder::new(Kind::MESSAGE)
            .content(ContentType::Json)
            .message_id(1)
            .build(b"", b"1");
        let frame = scan_frame(&frame, 100).unwrap().unwrap();
        let fault = assembler.push(ChunkKey::of(&frame), &frame).unwrap_err();
        assert_eq!(fault.code, Code::Malformed);
        assert!(assembler.is_empty());
        assert_eq!(assembler.bytes(), 0);
    }

    fn push(assembler: &mut Assembler, more: bool, piece: &[u8]) -> Result<Option<Bytes>, Fault> {
        let flags = if more { Flags::MORE } else { 0 };
        let frame = FrameBuilder::new(Kind::MESSAGE).flags(flags).message_id(1).build(b"", piece);
        let frame = scan_frame(&frame, 100).unwrap().unwrap();
        assembler.push(ChunkKey::of(&frame), &frame)
    }
}
