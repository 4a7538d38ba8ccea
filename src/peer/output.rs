//! The bytes that wait for the socket, and how a message becomes frames.

use bytes::BytesMut;

use super::CommandError;
use crate::error::{Code, Fault};
use crate::id::{RouteId, SessionId};
use crate::limit;
use crate::wire::{ContentType, Flags, FrameBuilder, Kind, compress_frame, split_chunks};

/// One contiguous buffer of frames.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) buffer: BytesMut,
    pub(super) session: SessionId,
    pub(super) payload_max: u32,
    pub(super) message_max: u64,
    /// `CHECKSUM` where it was agreed and is wanted.
    pub(super) flags: u16,
    /// Bodies of at least this size are compressed, where that was agreed.
    pub(super) compress_min: Option<usize>,
}

/// What the frames of one message have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) route: RouteId,
    pub(super) id: u64,
    pub(super) content: ContentType,
    pub(super) flags: u16,
    pub(super) unix: u64,
}

impl Head {
    pub(super) fn control(kind: Kind, id: u64, unix: u64) -> Self {
        let content = ContentType::MessagePack;
        Self { kind, route: RouteId::CONTROL, id, content, flags: 0, unix }
    }
}

impl Output {
    pub(super) fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            session: SessionId::BROKER,
            payload_max: limit::PAYLOAD_MAX,
            message_max: limit::MESSAGE_MAX,
            flags: 0,
            compress_min: None,
        }
    }

    #[inline]
    pub(super) fn require_size(&self, payload: &[u8]) -> Result<(), CommandError> {
        let (size, max) = (payload.len(), self.message_max);
        if size as u64 <= max {
            return Ok(());
        }
        let message = format!("message of {size} bytes is over the limit of {max}");
        Err(CommandError::Fault(Fault::new(Code::TooLarge, message)))
    }

    /// Appends one message in as many frames as it takes. Gives the size of all payloads, which
    /// is what windows count.
    #[inline]
    pub(super) fn append(&mut self, head: &Head, extension: &[u8], body: &[u8]) -> u64 {
        let size = extension.len() + body.len();
        let compressed = self.compress_min.is_some_and(|min| body.len() >= min);
        if size <= self.payload_max as usize && !compressed {
            self.builder(head, 0).append(&mut self.buffer, extension, body);
            return size as u64;
        }
        self.append_cut(head, extension, body)
    }

    #[cold]
    fn append_cut(&mut self, head: &Head, extension: &[u8], body: &[u8]) -> u64 {
        let may_compress = self.compress_min.is_some() && head.route != RouteId::CONTROL;
        let mut extension = extension;
        let mut size = 0;
        for (more, piece) in split_chunks(body, self.payload_max, extension.len()) {
            let more = if more { Flags::MORE } else { 0 };
            let packed = if may_compress { compress_frame(piece) } else { None };
            let (flags, piece) = match &packed {
                Some(packed) => (more | Flags::COMPRESSED, &packed[..]),
                None => (more, piece),
            };
            self.builder(head, flags).append(&mut self.buffer, extension, piece);
            size += (extension.len() + piece.len()) as u64;
            extension = &[]; // Only the first chunk has one.
        }
        size
    }

    #[inline]
    fn builder(&self, head: &Head, flags: u16) -> FrameBuilder {
        FrameBuilder {
            kind: head.kind,
            flags: Flags::content(head.content).with(head.flags | flags | self.flags),
            route: head.route,
            message_id: head.id,
            session: self.session,
            timestamp: head.unix,
        }
    }
}
