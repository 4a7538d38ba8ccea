//! The one exception to immutable frames: a receiver that did not agree to LZ4 or checksums gets
//! plain ones.

use bytes::{Bytes, BytesMut};

use super::port::Features;
use super::run::all_flags;
use crate::limit;
use crate::wire::{Flags, plain_frame, scan_frame};

/// As [`for_features`], where the flags are not known.
pub(crate) fn plain_for(bytes: Bytes, features: Features) -> Bytes {
    if features.lz4 && features.checksum {
        return bytes;
    }
    let flags = all_flags(&bytes);
    for_features(bytes, flags, features)
}

/// The same frames as the receiver can read them. Without anything to change these are the same
/// bytes.
pub(crate) fn for_features(bytes: Bytes, flags: Flags, features: Features) -> Bytes {
    let has_more = (flags.has(Flags::COMPRESSED) && !features.lz4)
        || (flags.has(Flags::CHECKSUM) && !features.checksum);
    if !has_more {
        return bytes;
    }
    let mut output = BytesMut::with_capacity(bytes.len());
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let frame = scan_frame(rest, u32::MAX)
            .ok()
            .flatten()
            .expect("a run holds frames that were checked");
        let plain = plain_frame(&frame, limit::PAYLOAD_MAX)
            .expect("compressed bodies were unpacked once when they came in");
        output.extend_from_slice(&plain);
        rest = &rest[frame.bytes().len()..];
    }
    output.freeze()
}
