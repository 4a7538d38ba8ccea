//! LZ4 bodies, and the plain frame for a receiver that agreed to less than the sender.

use bytes::Bytes;

use super::frame::{FrameBuilder, FrameView};
use super::header::{Flags, HEADER_SIZE, Header};
use crate::error::{Code, Fault};

/// Compresses a body. `None` when that would not make it smaller.
#[must_use]
pub fn compress_frame(body: &[u8]) -> Option<Vec<u8>> {
    let packed = lz4_flex::block::compress_prepend_size(body);
    (packed.len() < body.len()).then_some(packed)
}

/// The same frame without compression and checksum, within `payload_max`.
///
/// # Errors
///
/// 11005 when the unpacked payload would be over the limit, 11007 when it does not unpack.
pub fn plain_frame(frame: &FrameView<'_>, payload_max: u32) -> Result<Bytes, Fault> {
    let header = frame.header;
    let builder = FrameBuilder {
        kind: header.kind,
        flags: header.flags.without(Flags::EXTENDED | Flags::COMPRESSED | Flags::CHECKSUM),
        route: header.route,
        message_id: header.message_id,
        session: header.session,
        timestamp: header.timestamp,
    };
    if !header.flags.has(Flags::COMPRESSED) {
        return Ok(builder.build(frame.extension(), frame.body()));
    }
    let body = unpack(frame, payload_max)?;
    Ok(builder.build(frame.extension(), &body))
}

/// The body of a frame, unpacked if it was compressed.
fn unpack(frame: &FrameView<'_>, payload_max: u32) -> Result<Vec<u8>, Fault> {
    let Some((size, block)) = frame.body().split_first_chunk::<4>() else {
        return Err(Fault::new(Code::Malformed, "compressed body without its size"));
    };
    let size = u32::from_le_bytes(*size);
    let limit = payload_max - frame.extension().len().min(payload_max as usize) as u32;
    if size > limit {
        return Err(Fault::new(
            Code::TooLarge,
            format!("unpacked body of {size} bytes is over the limit of {limit}"),
        ));
    }
    lz4_flex::block::decompress(block, size as usize)
        .ok()
        .filter(|body| body.len() == size as usize)
        .ok_or_else(|| Fault::new(Code::Malformed, "compressed body does not unpack to its size"))
}

impl Header {
    /// Whether the bytes after the header are those that an author wrote.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.flags.0 & (Flags::COMPRESSED | Flags::CHECKSUM) == 0
    }
}

impl FrameView<'_> {
    /// Size of the body as its author wrote it: by its own word where it is compressed.
    #[must_use]
    pub fn unpacked_size(&self) -> u64 {
        match self.body().first_chunk::<4>() {
            Some(size) if self.header.flags.has(Flags::COMPRESSED) => {
                u32::from_le_bytes(*size).into()
            }
            _ => self.body().len() as u64,
        }
    }

    /// The body as its author wrote it, unpacked where it was compressed.
    ///
    /// # Errors
    ///
    /// As [`plain_frame`].
    pub fn unpacked_body(&self, payload_max: u32) -> Result<Bytes, Fault> {
        if self.header.flags.has(Flags::COMPRESSED) {
            return Ok(unpack(self, payload_max)?.into());
        }
        Ok(Bytes::copy_from_slice(self.body()))
    }
}

const _: () = assert!(HEADER_SIZE == 36);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Kind, scan_frame};

    #[test]
    fn a_plain_frame_carries_the_same_body() {
        let body = b"abcabcabcabcabcabcabcabcabcabcabcabc".repeat(10);
        let packed = compress_frame(&body).unwrap();
        let frame = FrameBuilder::new(Kind::MESSAGE)
            .flags(Flags::COMPRESSED | Flags::CHECKSUM)
            .message_id(9)
            .build(&[1; 40], &packed);
        let view = scan_frame(&frame, 1 << 20).unwrap().unwrap();
        let plain = plain_frame(&view, 1 << 20).unwrap();
        let plain = scan_frame(&plain, 1 << 20).unwrap().unwrap();
        assert_eq!(plain.body(), body);
        assert_eq!(plain.extension(), [1; 40]);
        assert!(plain.header.is_plain());
        assert_eq!(plain.header.message_id, 9);

        let over = plain_frame(&view, 300).unwrap_err();
        assert_eq!(over.code, Code::TooLarge);
    }

    #[test]
    fn a_lying_size_is_refused() {
        let mut packed = compress_frame(&[7; 1000]).unwrap();
        for size in [0_u32, 999, 1001, u32::MAX] {
            packed[..4].copy_from_slice(&size.to_le_bytes());
            let frame =
                FrameBuilder::new(Kind::MESSAGE).flags(Flags::COMPRESSED).build(b"", &packed);
            let view = scan_frame(&frame, 1 << 20).unwrap().unwrap();
            assert!(plain_frame(&view, 1 << 20).is_err(), "size {size}");
        }
    }
}
