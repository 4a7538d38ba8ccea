//! Bytes → frames → bytes.
//!
//! However a stream is cut, the same frames come out; what they take and what is left add up to
//! what came in; a frame that is read and written again is the same; nothing that follows a frame
//! into its body panics.

use arbitrary::{Arbitrary, Unstructured};
use bytes::BytesMut;
use plugbus::error::FrameError;
use plugbus::id::{RouteId, SessionId};
use plugbus::wire::body;
use plugbus::wire::{
    Assembler, CallReference, ChunkKey, Flags, FrameBuilder, FrameView, HEADER_SIZE, Kind,
    MessageExtension, RequestExtension, compress_frame, plain_frame, scan_frame, split_chunks,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{RAW, Seen};

#[derive(Arbitrary, Debug)]
struct Input {
    cuts: Vec<u16>,
    payload_max: u16,
    pieces: Vec<Piece>,
}

#[derive(Arbitrary, Debug)]
enum Piece {
    Frame(Frame),
    Long { frame: Frame, fill: u8, size: u16 },
    Packed { frame: Frame, fill: u8, size: u16 },
    Garbage(Vec<u8>),
    Changed { frame: Frame, at: u16, bit: u8 },
}

#[derive(Arbitrary, Debug)]
struct Frame {
    kind: u8,
    flags: u16,
    route: u32,
    message_id: u64,
    session: u64,
    timestamp: u64,
    extension: Option<[u8; 40]>,
    body: Vec<u8>,
}

#[derive(Debug, PartialEq)]
struct Scanned {
    frames: Vec<Vec<u8>>,
    /// Bytes that were looked at and are no frame yet, or the error that follows them.
    rest: usize,
    error: Option<FrameError>,
}

pub(crate) fn run(data: &[u8], seen: &mut Seen) {
    let (stream, cuts, payload_max) = match data.split_first() {
        Some((&mode, rest)) if mode > RAW => {
            let cuts = rest.iter().take(8).map(|&cut| u16::from(cut) * 7).collect();
            (rest.to_vec(), cuts, 1 << 20)
        }
        _ => {
            let Ok(input) = Input::arbitrary(&mut Unstructured::new(data)) else { return };
            let payload_max = u32::from(input.payload_max);
            (stream(&input.pieces, payload_max), input.cuts, payload_max)
        }
    };
    let whole = scan_whole(&stream, payload_max);
    let taken: usize = whole.frames.iter().map(Vec::len).sum();
    assert_eq!(taken + whole.rest, stream.len(), "every byte is in a frame or left");
    assert_eq!(whole.frames.concat(), stream[..taken], "frames are what came, in order");
    check_cuts(&stream, &cuts, payload_max, &whole);

    let mut assembler = Assembler::new(4, 1 << 16);
    for bytes in &whole.frames {
        let frame =
            scan_frame(bytes, payload_max).expect("it was good before").expect("it is whole");
        check_frame(&frame, payload_max, seen);
        check_assembler(&mut assembler, &frame);
    }
    if let Some(error) = whole.error {
        seen.note(1, error.code() as u64);
    }
    check_chunks(&stream, payload_max);
}

fn stream(pieces: &[Piece], payload_max: u32) -> Vec<u8> {
    let mut stream = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Frame(frame) => stream.extend_from_slice(&frame.encode(payload_max)),
            Piece::Long { frame, fill, size } => {
                let body = vec![*fill; usize::from(*size)];
                stream.extend_from_slice(&frame.encode_with(0, &body, payload_max));
            }
            Piece::Packed { frame, fill, size } => {
                let body = vec![*fill; usize::from(*size)];
                if let Some(packed) = compress_frame(&body) {
                    let bytes = frame.encode_with(Flags::COMPRESSED, &packed, payload_max);
                    stream.extend_from_slice(&bytes);
                }
            }
            Piece::Garbage(bytes) => stream.extend_from_slice(bytes),
            Piece::Changed { frame, at, bit } => {
                let mut bytes = frame.encode(payload_max);
                let at = usize::from(*at) % bytes.len();
                bytes[at] ^= 1 << (bit % 8);
                stream.extend_from_slice(&bytes);
            }
        }
    }
    stream
}

impl Frame {
    fn encode(&self, payload_max: u32) -> Vec<u8> {
        self.encode_with(0, &self.body, payload_max)
    }

    /// Writes the frame and, where it keeps the rules, reads it again.
    fn encode_with(&self, bits: u16, body: &[u8], payload_max: u32) -> Vec<u8> {
        let kind = Kind(self.kind % 40);
        let content = (self.flags >> 8 & 0xF) % 5;
        let flags = self.flags & 0x7A & !Flags::EXTENDED | bits | content << 8;
        let size = kind.extension_size() as usize;
        let extension = self.extension.as_ref().map_or(&[][..], |bytes| &bytes[..size]);
        let bytes = FrameBuilder {
            kind,
            flags: Flags(flags),
            route: RouteId(self.route),
            message_id: self.message_id,
            session: SessionId(self.session),
            timestamp: self.timestamp,
        }
        .build(extension, body)
        .to_vec();
        if extension.len() + body.len() <= payload_max as usize {
            let frame = scan_frame(&bytes, payload_max)
                .expect("a frame that keeps the rules is good")
                .expect("it is whole");
            assert_eq!((frame.extension(), frame.body()), (extension, body));
            assert_eq!((frame.header.kind, frame.header.route.0), (kind, self.route));
            assert_eq!(frame.header.message_id, self.message_id);
            assert_eq!(frame.header.session.0, self.session);
            assert_eq!(frame.header.timestamp, self.timestamp);
        }
        bytes
    }
}

fn scan_whole(stream: &[u8], payload_max: u32) -> Scanned {
    let mut frames = Vec::new();
    let mut rest = stream;
    loop {
        match scan_frame(rest, payload_max) {
            Ok(Some(frame)) => {
                frames.push(frame.bytes().to_vec());
                rest = &rest[frame.bytes().len()..];
            }
            Ok(None) => return Scanned { frames, rest: rest.len(), error: None },
            Err(error) => return Scanned { frames, rest: rest.len(), error: Some(error) },
        }
    }
}

fn check_cuts(stream: &[u8], cuts: &[u16], payload_max: u32, whole: &Scanned) {
    let mut ends: Vec<usize> =
        cuts.iter().map(|&cut| usize::from(cut) % (stream.len() + 1)).collect();
    ends.push(stream.len());
    ends.sort_unstable();
    let (mut input, mut start) = (Vec::new(), 0);
    let mut frames = Vec::new();
    for end in ends {
        input.extend_from_slice(&stream[start..end]);
        start = end;
        let part = scan_whole(&input, payload_max);
        input.drain(..input.len() - part.rest);
        frames.extend(part.frames);
        if part.error.is_some() {
            assert_eq!(part.error, whole.error, "cuts do not change the error");
            break;
        }
        assert!(end < stream.len() || whole.error.is_none(), "the error comes at the latest here");
    }
    assert_eq!(frames, whole.frames, "cuts do not change the frames");
}

fn check_frame(frame: &FrameView<'_>, payload_max: u32, seen: &mut Seen) {
    let header = frame.header;
    seen.note(2, u64::from(header.kind.0) << 16 | u64::from(header.flags.0));
    let again = FrameBuilder {
        kind: header.kind,
        flags: header.flags,
        route: header.route,
        message_id: header.message_id,
        session: header.session,
        timestamp: header.timestamp,
    }
    .build(frame.extension(), frame.body());
    assert_eq!(again, frame.bytes(), "a frame written again is the same");
    assert_eq!(header.to_bytes(), frame.bytes()[..HEADER_SIZE]);
    match (header.kind, frame.extension().len()) {
        (_, 0) => (),
        (Kind::REQUEST, _) => {
            let mut wanted = frame.extension().to_vec();
            wanted[4..8].fill(0);
            assert_eq!(RequestExtension::of(frame).to_bytes(), wanted[..]);
        }
        (_, 40) => assert_eq!(MessageExtension::of(frame).to_bytes(), frame.extension()),
        _ => {
            let reference = CallReference::of(frame).expect("it has an extension");
            assert_eq!(reference.to_bytes(), frame.extension());
        }
    }
    check_plain(frame, payload_max, seen);
    check_body(frame, seen);
}

fn check_plain(frame: &FrameView<'_>, payload_max: u32, seen: &mut Seen) {
    match (frame.unpacked_body(payload_max), plain_frame(frame, payload_max)) {
        (Ok(body), Ok(plain)) => {
            let plain = scan_frame(&plain, payload_max)
                .expect("a plain frame is good")
                .expect("it is whole");
            assert!(plain.header.is_plain());
            assert_eq!(plain.body(), body);
            assert_eq!(plain.extension(), frame.extension());
            assert_eq!(plain.header.message_id, frame.header.message_id);
            assert_eq!(plain.header.flags.content_type(), frame.header.flags.content_type());
        }
        (Err(one), Err(other)) => {
            assert_eq!(one, other);
            seen.note(3, one.code as u64);
        }
        (one, other) => panic!("unpacking differs: {one:?}, {other:?}"),
    }
}

/// What a body means does not change when it is written again.
fn check_body(frame: &FrameView<'_>, seen: &mut Seen) {
    fn typed<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> bool {
        let Ok(value) = body::decode::<T>(bytes) else { return false };
        assert_eq!(body::decode::<T>(&body::encode(&value)).as_ref(), Ok(&value));
        true
    }
    let bytes = frame.body();
    let good = match frame.header.kind {
        Kind::HELLO => body::decode_hello(bytes).is_ok(),
        Kind::WELCOME => typed::<body::Welcome>(bytes),
        Kind::REGISTER => typed::<body::Register>(bytes),
        Kind::UNREGISTER => typed::<body::Unregister>(bytes),
        Kind::OPEN => typed::<body::Open>(bytes),
        Kind::ANNOUNCE => typed::<body::Announce>(bytes),
        Kind::SUBSCRIBE => typed::<body::Subscribe>(bytes),
        Kind::QUERY => typed::<body::Query>(bytes),
        Kind::SIGNAL => typed::<body::Signal>(bytes),
        Kind::GAP => typed::<body::Gap>(bytes),
        Kind::SHUTDOWN => typed::<body::Shutdown>(bytes),
        Kind::ERROR => match body::decode_fault(bytes) {
            Ok(fault) => {
                assert_eq!(body::decode_fault(&body::encode_fault(&fault)), Ok(fault));
                true
            }
            Err(_) => false,
        },
        Kind::CREDIT => {
            body::Credit::parse(bytes).is_some_and(|credit| credit.to_bytes() == bytes[..16])
        }
        Kind::REDELIVERY => body::Redelivery::parse(bytes)
            .is_some_and(|redelivery| redelivery.to_bytes() == bytes[..12]),
        _ => return,
    };
    seen.note(4, u64::from(frame.header.kind.0) << 1 | u64::from(good));
}

fn check_assembler(assembler: &mut Assembler, frame: &FrameView<'_>) {
    let key = ChunkKey::of(frame);
    if !frame.header.flags.has(Flags::MORE) && !assembler.is_unfinished(key) {
        return;
    }
    let before = assembler.bytes();
    let has_more = frame.header.flags.has(Flags::MORE);
    let is_refused = assembler.is_refused(key);
    match assembler.push(key, frame) {
        Ok(None) if is_refused => {
            assert_eq!(assembler.bytes(), before);
            assert_eq!(assembler.is_refused(key), has_more, "it is passed over up to its end");
        }
        Ok(None) => assert_eq!(assembler.bytes(), before + frame.bytes().len() as u64),
        Ok(Some(message)) => {
            assert_eq!(
                assembler.bytes() + message.len() as u64,
                before + frame.bytes().len() as u64
            );
            assert!(message.ends_with(frame.bytes()));
        }
        Err(_) => {
            assert!(!is_refused);
            assert_eq!(assembler.is_refused(key), has_more, "what failed is passed over");
        }
    }
    let held = assembler.len();
    assert_eq!(held == 0, assembler.bytes() == 0);
    assert!(held <= 4);
}

/// Cut into chunks and joined, any body is itself.
fn check_chunks(body: &[u8], payload_max: u32) {
    let payload_max = payload_max.clamp(16, 4096);
    // A body was unpacked to 1 MiB at most; in the smallest pieces its headers weigh twice that.
    let mut assembler = Assembler::new(1, 4 << 20);
    let (mut joined, mut complete) = (Vec::new(), false);
    for (more, piece) in split_chunks(body, payload_max, 0) {
        assert!(!complete && piece.len() <= payload_max as usize);
        joined.extend_from_slice(piece);
        let mut output = BytesMut::new();
        FrameBuilder::new(Kind::MESSAGE).flags(if more { Flags::MORE } else { 0 }).append(
            &mut output,
            b"",
            piece,
        );
        let frame = scan_frame(&output, payload_max).expect("good").expect("whole");
        complete =
            assembler.push(ChunkKey::of(&frame), &frame).expect("within the limits").is_some();
    }
    assert!(complete && assembler.is_empty());
    assert_eq!(joined, body);
}
