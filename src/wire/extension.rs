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
        let mut bytes = [0; 40];
        bytes[0..4].copy_from_slice(&self.deadline_ms.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.trace);
        bytes[24..32].copy_from_slice(&self.span.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.nonce.to_le_bytes());
        bytes
    }

    /// Reads it; a frame without one gives the default.
    #[must_use]
    pub fn of(frame: &FrameView<'_>) -> Self {
        match frame.extension().first_chunk::<40>() {
            Some(bytes) => Self {
                deadline_ms: u32::from_le_bytes(field(bytes, 0)),
                trace: field(bytes, 8),
                span: u64::from_le_bytes(field(bytes, 24)),
                nonce: u64::from_le_bytes(field(bytes, 32)),
            },
            None => Self::default(),
        }
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
        let mut bytes = [0; 40];
        bytes[0..8].copy_from_slice(&self.key.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.trace);
        bytes[24..32].copy_from_slice(&self.span.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.nonce.to_le_bytes());
        bytes
    }

    /// Reads it; a frame without one gives the default.
    #[must_use]
    pub fn of(frame: &FrameView<'_>) -> Self {
        match frame.extension().first_chunk::<40>() {
            Some(bytes) => Self {
                key: u64::from_le_bytes(field(bytes, 0)),
                trace: field(bytes, 8),
                span: u64::from_le_bytes(field(bytes, 24)),
                nonce: u64::from_le_bytes(field(bytes, 32)),
            },
            None => Self::default(),
        }
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

fn field<const N: usize>(bytes: &[u8; 40], offset: usize) -> [u8; N] {
    bytes[offset..offset + N].try_into().expect("the offsets are those of the layout")
}
