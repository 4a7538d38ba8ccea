//! Finds the frames in what a socket gave.

use super::frame::FrameView;
use super::header::{HEADER_SIZE, Header};
use crate::error::FrameError;

/// Looks for one complete frame at the start of `input`.
///
/// `None` means that more bytes are needed. The caller advances by `frame.bytes().len()`. The
/// trailer has been checked.
///
/// # Errors
///
/// The stream has lost its framing and must be closed. The caller must not scan it again.
#[inline]
pub fn scan_frame(input: &[u8], payload_max: u32) -> Result<Option<FrameView<'_>>, FrameError> {
    let Some(bytes) = input.first_chunk::<HEADER_SIZE>() else {
        // A wrong first byte is known before the header is complete.
        return match input.first() {
            Some(&byte) if byte != Header::DIALECT => Err(FrameError::BadDialect(byte)),
            _ => Ok(None),
        };
    };
    let header = Header::parse(bytes, payload_max)?;
    let Some(frame) = input.get(..header.frame_size()) else {
        return Ok(None);
    };
    let frame = FrameView::new(header, frame);
    frame.verify()?;
    Ok(Some(frame))
}

/// What the first byte of a connection says about who is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Dialect {
    /// This protocol.
    Plugbus,
    /// One JSON value a line.
    JsonLines,
    /// ReedCMS frames, in either byte order.
    Reed,
}

impl Dialect {
    /// Tells the dialects apart.
    ///
    /// # Errors
    ///
    /// A byte with which no known dialect begins.
    pub fn detect(first: u8) -> Result<Self, FrameError> {
        match first {
            Header::DIALECT => Ok(Self::Plugbus),
            b'{' => Ok(Self::JsonLines),
            b'R' | b'D' => Ok(Self::Reed),
            byte => Err(FrameError::BadDialect(byte)),
        }
    }

    /// Accepts the dialects that are spoken so far.
    ///
    /// # Errors
    ///
    /// The others, by name.
    pub fn require_spoken(self) -> Result<(), FrameError> {
        match self {
            Self::Plugbus => Ok(()),
            Self::JsonLines => Err(FrameError::OtherDialect("JSON lines")),
            Self::Reed => Err(FrameError::OtherDialect("ReedCMS frames")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FrameBuilder, Kind};

    /// However the kernel chops the stream, the frames are the same. The stream is short enough
    /// to try every pair of cuts instead of sampling them.
    #[test]
    fn chunking_does_not_change_frames() {
        let sent = [
            FrameBuilder::new(Kind::PING).message_id(1).build(b"", b""),
            FrameBuilder::new(Kind::MESSAGE).message_id(2).build(&[7; 40], b"tick"),
        ];
        let stream = sent.concat();
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let chunks = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(scan_all(&chunks), Ok(sent.to_vec()), "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn every_single_bit_of_a_checksummed_frame_counts() {
        let frame = FrameBuilder::new(Kind::MESSAGE)
            .flags(crate::wire::Flags::CHECKSUM)
            .message_id(2)
            .build(b"", b"tick");
        for bit in 0..frame.len() * 8 {
            let mut bytes = frame.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let outcome = scan_frame(&bytes, 64);
            assert!(matches!(outcome, Err(_) | Ok(None)), "bit {bit} went unnoticed: {outcome:?}");
        }
    }

    #[test]
    fn a_wrong_first_byte_is_known_at_once() {
        assert_eq!(scan_frame(b"G", 64).unwrap_err(), FrameError::BadDialect(b'G'));
        assert_eq!(Dialect::detect(b'{'), Ok(Dialect::JsonLines));
        assert!(Dialect::JsonLines.require_spoken().is_err());
        assert!(Dialect::detect(b'D').unwrap().require_spoken().is_err());
    }

    #[test]
    fn a_size_over_the_limit_is_refused_before_it_is_read() {
        let frame = FrameBuilder::new(Kind::MESSAGE).build(b"", &[0; 65]);
        assert_eq!(
            scan_frame(&frame[..HEADER_SIZE], 64).unwrap_err(),
            FrameError::PayloadTooLarge { size: 65, max: 64 }
        );
    }

    #[track_caller]
    fn scan_all(chunks: &[&[u8]]) -> Result<Vec<bytes::Bytes>, FrameError> {
        let mut input = Vec::new();
        let mut frames = Vec::new();
        for chunk in chunks {
            input.extend_from_slice(chunk);
            while let Some(frame) = scan_frame(&input, 64)? {
                let bytes = bytes::Bytes::copy_from_slice(frame.bytes());
                input.drain(..bytes.len());
                frames.push(bytes);
            }
        }
        Ok(frames)
    }
}
