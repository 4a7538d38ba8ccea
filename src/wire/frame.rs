//! Whole frames: building one, and looking at one.

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh64::xxh64;

use super::header::{ContentType, Flags, HEADER_SIZE, Header, Kind};
use crate::error::FrameError;
use crate::id::{RouteId, SessionId};

/// The checksum behind every payload, or zero.
pub const TRAILER_SIZE: usize = 8;

/// What a frame takes besides its payload.
pub const OVERHEAD: usize = HEADER_SIZE + TRAILER_SIZE;

/// Writes frames. Plain data: fill in what differs from the default, then
/// [`append`](Self::append).
#[derive(Clone, Copy, Debug)]
pub struct FrameBuilder {
    /// What the frame is.
    pub kind: Kind,
    /// Flags besides `EXTENDED`, which follows from the extension.
    pub flags: Flags,
    /// Where it goes.
    pub route: RouteId,
    /// Number given by the sender.
    pub message_id: u64,
    /// Who sends it.
    pub session: SessionId,
    /// Unix nanoseconds.
    pub timestamp: u64,
}

impl FrameBuilder {
    /// A control frame of the broker without flags; change what differs.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            flags: Flags::default(),
            route: RouteId::CONTROL,
            message_id: 0,
            session: SessionId::BROKER,
            timestamp: 0,
        }
    }

    /// Sets the route.
    #[must_use]
    pub fn route(mut self, route: RouteId) -> Self {
        self.route = route;
        self
    }

    /// Sets the message id.
    #[must_use]
    pub fn message_id(mut self, message_id: u64) -> Self {
        self.message_id = message_id;
        self
    }

    /// Sets the sender.
    #[must_use]
    pub fn session(mut self, session: SessionId) -> Self {
        self.session = session;
        self
    }

    /// Sets the time in Unix nanoseconds.
    #[must_use]
    pub fn timestamp(mut self, timestamp: u64) -> Self {
        self.timestamp = timestamp;
        self
    }

    /// Adds flag bits.
    #[must_use]
    pub fn flags(mut self, bits: u16) -> Self {
        self.flags = self.flags.with(bits);
        self
    }

    /// Says what the body is.
    #[must_use]
    pub fn content(mut self, content_type: ContentType) -> Self {
        self.flags = self.flags.with(Flags::content(content_type).0);
        self
    }

    /// Appends the frame. An empty `extension` means none.
    #[inline]
    pub fn append(&self, output: &mut BytesMut, extension: &[u8], body: &[u8]) {
        let flags =
            if extension.is_empty() { self.flags } else { self.flags.with(Flags::EXTENDED) };
        let payload_size = u32::try_from(extension.len() + body.len())
            .expect("a payload is at most `payload_max`, which is a u32");
        let header = Header {
            kind: self.kind,
            flags,
            route: self.route,
            message_id: self.message_id,
            session: self.session,
            timestamp: self.timestamp,
            payload_size,
        };
        let start = output.len();
        if header.frame_size() <= Self::SMALL_SIZE {
            // One growth and plain copies: for small frames the calls cost more than the bytes.
            output.resize(start + header.frame_size(), 0);
            let (head, rest) = output[start..].split_at_mut(HEADER_SIZE);
            head.copy_from_slice(&header.to_bytes());
            rest[..extension.len()].copy_from_slice(extension);
            rest[extension.len()..extension.len() + body.len()].copy_from_slice(body);
            if flags.has(Flags::CHECKSUM) {
                let trailer = output.len() - TRAILER_SIZE;
                let checksum = xxh64(&output[start..trailer], 0);
                output[trailer..].copy_from_slice(&checksum.to_le_bytes());
            }
            return;
        }
        output.reserve(header.frame_size());
        output.put_slice(&header.to_bytes());
        output.put_slice(extension);
        output.put_slice(body);
        let checksum = if flags.has(Flags::CHECKSUM) { xxh64(&output[start..], 0) } else { 0 };
        output.put_u64_le(checksum);
    }

    /// The frame as bytes of its own.
    #[must_use]
    pub fn build(&self, extension: &[u8], body: &[u8]) -> Bytes {
        let mut output = BytesMut::with_capacity(OVERHEAD + extension.len() + body.len());
        self.append(&mut output, extension, body);
        output.freeze()
    }

    /// Frames up to this are written in one go.
    const SMALL_SIZE: usize = 512;
}

/// A complete frame in somebody else's buffer.
#[derive(Clone, Copy, Debug)]
pub struct FrameView<'a> {
    /// Its header.
    pub header: Header,
    bytes: &'a [u8],
}

impl<'a> FrameView<'a> {
    /// Takes the bytes of exactly one frame whose header has been parsed.
    ///
    /// # Panics
    ///
    /// If `bytes` is not [`Header::frame_size`] long: a bug of the caller, never of a peer.
    #[inline]
    #[must_use]
    pub fn new(header: Header, bytes: &'a [u8]) -> Self {
        assert_eq!(bytes.len(), header.frame_size(), "a view is exactly one frame");
        Self { header, bytes }
    }

    /// All bytes of the frame.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The extension, empty without one.
    #[inline]
    #[must_use]
    pub fn extension(&self) -> &'a [u8] {
        &self.bytes[HEADER_SIZE..HEADER_SIZE + self.header.extension_size()]
    }

    /// The payload without its extension.
    #[inline]
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[HEADER_SIZE + self.header.extension_size()..self.bytes.len() - TRAILER_SIZE]
    }

    /// Checks the trailer: the checksum where the flag is set, zero otherwise.
    ///
    /// # Errors
    ///
    /// [`FrameError::BadChecksum`].
    #[inline]
    pub fn verify(&self) -> Result<(), FrameError> {
        let (content, trailer) = self.bytes.split_at(self.bytes.len() - TRAILER_SIZE);
        let found = u64::from_le_bytes(trailer.try_into().expect("a trailer is eight bytes"));
        let expected = if self.header.flags.has(Flags::CHECKSUM) { xxh64(content, 0) } else { 0 };
        if found == expected { Ok(()) } else { Err(FrameError::BadChecksum { found, expected }) }
    }
}
