//! The small fixed blocks before a payload, which the broker reads so that it never has to read
//! the payload.

use super::frame::FrameView;
use crate::id::SessionId;

/// Before a request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RequestExtension {
    /// Milliseconds after the frame's timestamp; 0 for the broker's default.
    pub deadline_ms: u32,
    /// Trace that the call belongs to, all zero for none.
    pub trace: [u8; 16],
    /// The caller's span.
    pub span: u64,
    /// For encrypted payloads.
    pub nonce: u64,
}

impl RequestExtension {
    /// The bytes on the wire.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 40] {
        pack(u64::from(self.deadline_ms), self.trace, self.span, self.nonce)
    }

    /// Reads it; a frame without one gives the default.
    #[must_use]
    pub fn of(frame: &FrameView<'_>) -> Self {
        unpack(frame).map_or_else(Self::default, |(first, trace, span, nonce)| Self {
            deadline_ms: first as u32, // The other half is reserved.
            trace,
            span,
            nonce,
        })
    }
}

/// Before a message, an event or a broadcast.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MessageExtension {
    /// Events with the same key replace each other where a subscriber asked for it; 0 for none.
    pub key: u64,
    /// Trace that the message belongs to, all zero for none.
    pub trace: [u8; 16],
    /// The sender's span.
    pub span: u64,
    /// For encrypted payloads.
    pub nonce: u64,
}

impl MessageExtension {
    /// The bytes on the wire.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 40] {
        pack(self.key, self.trace, self.span, self.nonce)
    }

    /// Reads it; a frame without one gives the default.
    #[must_use]
    pub fn of(frame: &FrameView<'_>) -> Self {
        unpack(frame).map_or_else(Self::default, |(first, trace, span, nonce)| Self {
            key: first,
            trace,
            span,
            nonce,
        })
    }
}

/// Before a response, an error, a started, and a cancel towards the callee: whose call it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CallReference(pub SessionId);

impl CallReference {
    /// The bytes on the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.0.to_le_bytes()
    }

    /// Reads it.
    #[must_use]
    pub fn of(frame: &FrameView<'_>) -> Option<Self> {
        let bytes = frame.extension().first_chunk::<8>()?;
        Some(Self(SessionId(u64::from_le_bytes(*bytes))))
    }
}

/// What both long blocks look like: a first word of their own, then trace, span and nonce.
fn pack(first: u64, trace: [u8; 16], span: u64, nonce: u64) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[0..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..24].copy_from_slice(&trace);
    bytes[24..32].copy_from_slice(&span.to_le_bytes());
    bytes[32..40].copy_from_slice(&nonce.to_le_bytes());
    bytes
}

#[inline]
fn unpack(frame: &FrameView<'_>) -> Option<(u64, [u8; 16], u64, u64)> {
    let bytes = frame.extension().first_chunk::<40>()?;
    let word = |offset| u64::from_le_bytes(field(bytes, offset));
    Some((word(0), field(bytes, 8), word(24), word(32)))
}

fn field<const N: usize>(bytes: &[u8; 40], offset: usize) -> [u8; N] {
    bytes[offset..offset + N].try_into().expect("the offsets are those of the layout")
}
