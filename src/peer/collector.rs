//! Joins the chunks of a message that was larger than a frame.

use bytes::{Bytes, BytesMut};

use super::routes::FastMap;
use crate::error::{Code, Fault};
use crate::limit;
use crate::wire::{ChunkKey, FrameView, Header, RequestExtension};

/// Unfinished messages.
///
/// The broker hands the chunks of a message on back to back, so that in practice there is one;
/// the limits guard against a broker that does not.
#[derive(Debug, Default)]
pub(super) struct Collector {
    unfinished: FastMap<(u8, u32, u64), Unfinished>,
}

#[derive(Debug)]
struct Unfinished {
    header: Header,
    deadline_ms: u32,
    body: BytesMut,
}

/// A message whose last chunk came. The header and the deadline are those of the first one.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) header: Header,
    pub(super) deadline_ms: u32,
    pub(super) body: Bytes,
}

impl Collector {
    pub(super) fn is_idle(&self) -> bool {
        self.unfinished.is_empty()
    }

    pub(super) fn has(&self, frame: &FrameView<'_>) -> bool {
        self.unfinished.contains_key(&key(frame))
    }

    /// Adds a chunk whose body is `body`, unpacked.
    pub(super) fn push(
        &mut self,
        frame: &FrameView<'_>,
        body: &[u8],
        more: bool,
        message_max: u64,
    ) -> Result<Option<Whole>, Fault> {
        let key = key(frame);
        if self.unfinished.len() >= limit::ASSEMBLIES_MAX && !self.unfinished.contains_key(&key) {
            return Err(Fault::new(Code::TooLarge, "too many unfinished chunked messages"));
        }
        let unfinished = self.unfinished.entry(key).or_insert_with(|| Unfinished {
            header: frame.header,
            deadline_ms: RequestExtension::of(frame).deadline_ms,
            body: BytesMut::new(),
        });
        if (unfinished.body.len() + body.len()) as u64 > message_max {
            self.unfinished.remove(&key);
            return Err(Fault::new(
                Code::TooLarge,
                format!("a chunked message is over the limit of {message_max} bytes"),
            ));
        }
        unfinished.body.extend_from_slice(body);
        if more {
            return Ok(None);
        }
        let whole = self.unfinished.remove(&key);
        Ok(whole.map(|Unfinished { header, deadline_ms, body }| Whole {
            header,
            deadline_ms,
            body: body.freeze(),
        }))
    }
}

fn key(frame: &FrameView<'_>) -> (u8, u32, u64) {
    let ChunkKey { kind, route, message_id } = ChunkKey::of(frame);
    (kind.0, route.0, message_id)
}
