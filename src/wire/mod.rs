//! Bytes ↔ frames. No socket, no clock, no task; `docs/protocol/spec.md` is the normative text.
//!
//! A frame is read in two steps. [`Header::parse`] takes the 36 fixed bytes and checks what would
//! make the rest of the stream worthless; [`FrameView`] gives the parts of a complete frame. Bodies
//! of control frames are in [`body`]; payloads are never looked into.

#![forbid(unsafe_code)]

pub mod body;
mod chunk;
mod compress;
mod extension;
mod frame;
mod header;
mod scan;

pub use chunk::{Assembler, Assembly, ChunkKey, split_chunks};
pub use compress::{compress_frame, plain_frame};
pub use extension::{CallReference, MessageExtension, RequestExtension};
pub use frame::{FrameBuilder, FrameView, OVERHEAD, TRAILER_SIZE};
pub use header::{ContentType, Flags, HEADER_SIZE, Header, Kind};
pub use scan::{Dialect, scan_frame};
