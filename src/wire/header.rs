//! The 36 bytes before every payload.

use std::fmt;

use crate::error::FrameError;
use crate::id::{RouteId, SessionId};

/// Size of the fixed part of a frame.
pub const HEADER_SIZE: usize = 36;

/// A header that has passed every framing check.
///
/// Its `kind` may still be a number that nobody knows: that is answered, it does not end a
/// connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// How to read it.
    pub flags: Flags,
    /// Where it goes, or 0.
    pub route: RouteId,
    /// Number given by the sender.
    pub message_id: u64,
    /// Who sent it.
    pub session: SessionId,
    /// When, in Unix nanoseconds of the sender.
    pub timestamp: u64,
    /// Extension and body together.
    pub payload_size: u32,
}

impl Header {
    /// Reads a header and refuses what makes the stream unusable.
    ///
    /// # Errors
    ///
    /// A wrong first byte, reserved bits, an unknown content type, a payload over `payload_max`, or
    /// an extension that does not fit the payload.
    #[inline]
    pub fn parse(bytes: &[u8; HEADER_SIZE], payload_max: u32) -> Result<Self, FrameError> {
        if bytes[0] != Self::DIALECT {
            return Err(FrameError::BadDialect(bytes[0]));
        }
        let kind = Kind(bytes[1]);
        let flags = Flags(u16::from_le_bytes([bytes[2], bytes[3]]));
        if flags.0 & Flags::RESERVED != 0 || flags.content_number() > ContentType::MAX {
            return Err(FrameError::ReservedFlags(flags.0));
        }
        let payload_size = u32_at(bytes, 32);
        if payload_size > payload_max {
            return Err(FrameError::PayloadTooLarge { size: payload_size, max: payload_max });
        }
        if flags.has(Flags::EXTENDED) {
            let extension = kind.extension_size();
            if payload_size < extension {
                return Err(FrameError::ExtensionMissing { size: payload_size, extension });
            }
        }
        Ok(Self {
            kind,
            flags,
            route: RouteId(u32_at(bytes, 4)),
            message_id: u64_at(bytes, 8),
            session: SessionId(u64_at(bytes, 16)),
            timestamp: u64_at(bytes, 24),
            payload_size,
        })
    }

    /// The bytes that [`parse`](Self::parse) reads.
    #[inline]
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        bytes[0] = Self::DIALECT;
        bytes[1] = self.kind.0;
        bytes[2..4].copy_from_slice(&self.flags.0.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.route.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.message_id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.session.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.timestamp.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.payload_size.to_le_bytes());
        bytes
    }

    /// Size of the whole frame: header, payload, checksum.
    #[inline]
    #[must_use]
    pub fn frame_size(&self) -> usize {
        HEADER_SIZE + self.payload_size as usize + super::TRAILER_SIZE
    }

    /// Size of the extension, 0 without one.
    #[inline]
    #[must_use]
    pub fn extension_size(&self) -> usize {
        if self.flags.has(Flags::EXTENDED) { self.kind.extension_size() as usize } else { 0 }
    }

    /// First byte of every frame of this protocol.
    pub const DIALECT: u8 = 0x01;
}

#[inline]
fn u32_at(bytes: &[u8; HEADER_SIZE], offset: usize) -> u32 {
    u32::from_le_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
}

#[inline]
fn u64_at(bytes: &[u8; HEADER_SIZE], offset: usize) -> u64 {
    u64::from(u32_at(bytes, offset)) | u64::from(u32_at(bytes, offset + 4)) << 32
}

/// Type of a frame. A newtype and not an enum, because unknown types travel too.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Kind(pub u8);

macro_rules! kinds {
    ($($name:ident = $number:literal $text:literal,)*) => {
        #[expect(missing_docs, reason = "the table in docs/protocol/spec.md describes them")]
        impl Kind {
            $(pub const $name: Self = Self($number);)*

            /// Types with a meaning in this version, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name in the protocol, if it has one.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    HELLO = 1 "hello",
    WELCOME = 2 "welcome",
    PING = 3 "ping",
    PONG = 4 "pong",
    REQUEST = 5 "request",
    RESPONSE = 6 "response",
    ERROR = 7 "error",
    STARTED = 8 "started",
    CANCEL = 9 "cancel",
    EVENT = 10 "event",
    BROADCAST = 11 "broadcast",
    GAP = 12 "gap",
    REDELIVERY = 13 "redelivery",
    SIGNAL = 14 "signal",
    SHUTDOWN = 15 "shutdown",
    REGISTER = 16 "register",
    UNREGISTER = 17 "unregister",
    QUERY = 18 "query",
    ANNOUNCE = 19 "announce",
    REPORT = 20 "report",
    RESOURCE_REQUEST = 21 "resource-request",
    SUBSCRIBE = 22 "subscribe",
    UNSUBSCRIBE = 23 "unsubscribe",
    OPEN = 24 "open",
    CLOSE = 25 "close",
    MESSAGE = 26 "message",
    CREDIT = 27 "credit",
    ACK = 28 "ack",
}

impl Kind {
    /// Size of this type's extension; types that have none say 0.
    #[inline]
    #[must_use]
    pub fn extension_size(self) -> u32 {
        match self {
            Self::REQUEST | Self::EVENT | Self::BROADCAST | Self::MESSAGE => 40,
            Self::RESPONSE | Self::ERROR | Self::STARTED | Self::CANCEL => 8,
            _ => 0,
        }
    }

    /// Whether a message of this type may be cut into chunks.
    #[inline]
    #[must_use]
    pub fn is_chunkable(self) -> bool {
        matches!(
            self,
            Self::REQUEST | Self::RESPONSE | Self::EVENT | Self::BROADCAST | Self::MESSAGE
        )
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "type {}", self.0),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The flag bits with the content type among them.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Flags(pub u16);

impl Flags {
    /// An extension stands before the body.
    pub const EXTENDED: u16 = 1 << 0;
    /// The trailer is a checksum.
    pub const CHECKSUM: u16 = 1 << 1;
    /// The body is an LZ4 block.
    pub const COMPRESSED: u16 = 1 << 2;
    /// Reserved for AES-256-GCM.
    pub const ENCRYPTED: u16 = 1 << 3;
    /// Another chunk follows.
    pub const MORE: u16 = 1 << 4;
    /// The sender wants no response.
    pub const NO_REPLY: u16 = 1 << 5;
    /// Reserved for pooled payloads.
    pub const POOLED: u16 = 1 << 6;
    /// Bits that must be zero.
    pub const RESERVED: u16 = 0xF080;

    /// Whether all of `bits` are set.
    #[inline]
    #[must_use]
    pub fn has(self, bits: u16) -> bool {
        self.0 & bits == bits
    }

    /// These flags and `bits`.
    #[inline]
    #[must_use]
    pub fn with(self, bits: u16) -> Self {
        Self(self.0 | bits)
    }

    /// These flags without `bits`.
    #[inline]
    #[must_use]
    pub fn without(self, bits: u16) -> Self {
        Self(self.0 & !bits)
    }

    /// What the body is, by the sender's word.
    #[must_use]
    pub fn content_type(self) -> ContentType {
        match self.content_number() {
            1 => ContentType::MessagePack,
            2 => ContentType::Json,
            3 => ContentType::Protobuf,
            4 => ContentType::Text,
            _ => ContentType::Raw,
        }
    }

    /// Flags that say only what the body is.
    #[must_use]
    pub fn content(content_type: ContentType) -> Self {
        Self((content_type as u16) << 8)
    }

    #[inline]
    fn content_number(self) -> u16 {
        (self.0 >> 8) & 0xF
    }
}

/// What a body is.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
#[repr(u16)]
pub enum ContentType {
    /// Bytes.
    #[default]
    Raw = 0,
    /// One MessagePack value.
    MessagePack = 1,
    /// One JSON value.
    Json = 2,
    /// One protobuf message.
    Protobuf = 3,
    /// UTF-8.
    Text = 4,
}

impl ContentType {
    const MAX: u16 = 4;
}
