//! The frames of `chunks.json`: messages in pieces, and pieces that do not fit.

use plugbus::error::Fault;
use plugbus::id::{RouteId, SessionId};
use plugbus::wire::{
    Assembler, ChunkKey, ContentType, Flags, FrameBuilder, Kind, MessageExtension,
    RequestExtension, compress_frame, scan_frame,
};

use crate::errors::PAYLOAD_MAX;
use crate::frames::TIMESTAMP;
use crate::value::{Value, hex, map, text, unhex};

pub(crate) struct ChunkCase {
    name: &'static str,
    why: &'static str,
    frames: Vec<Vec<u8>>,
    unfinished_max: u64,
    message_max: u64,
}

pub(crate) fn cases() -> Vec<ChunkCase> {
    let more = |bits: u16| bits | Flags::MORE;
    let line = |id, bits, body: &str| {
        message(18, id).flags(bits).content(ContentType::Text).build(b"", body.as_bytes()).to_vec()
    };
    let request = |id, bits, extension: &[u8], body: &str| {
        FrameBuilder { kind: Kind::REQUEST, ..message(17, id) }
            .flags(bits)
            .content(ContentType::Json)
            .build(extension, body.as_bytes())
            .to_vec()
    };
    let key = MessageExtension { key: 7, ..Default::default() }.to_bytes();
    let deadline = RequestExtension { deadline_ms: 900, ..Default::default() }.to_bytes();
    let extended = |bits, body: &[u8]| message(18, 1).flags(bits).build(&key, body).to_vec();
    let packed = |bits, body: &str| {
        let packed = compress_frame(body.as_bytes()).expect("it repeats itself");
        message(18, 1)
            .flags(bits | Flags::COMPRESSED)
            .content(ContentType::Text)
            .build(b"", &packed)
            .to_vec()
    };
    vec![
        case(
            "one",
            "A message that fits is one frame without the flag.",
            vec![line(1, 0, "whole")],
        ),
        case(
            "three",
            "",
            vec![line(1, more(0), "one, "), line(1, more(0), "two, "), line(1, 0, "three")],
        ),
        case("last-is-empty", "", vec![line(1, more(0), "all of it"), line(1, 0, "")]),
        case(
            "first-has-the-extension",
            "Only the first may.",
            vec![extended(more(0), b"a"), message(18, 1).build(b"", b"b").to_vec()],
        ),
        case(
            "requests-interleaved",
            "Two requests on one route; the second is complete first.",
            vec![
                request(1, more(0), &deadline, "{\"a\":"),
                request(2, more(0), b"", "[2,"),
                request(2, 0, b"", "3]"),
                request(1, 0, b"", "1}"),
            ],
        ),
        case(
            "whole-frames-between",
            "A ping and a whole message of another route between two chunks.",
            vec![
                line(1, more(0), "tick "),
                FrameBuilder { kind: Kind::PING, ..message(0, 5) }.build(b"", b"").to_vec(),
                message(19, 1).content(ContentType::Text).build(b"", b"between").to_vec(),
                line(1, 0, "tock"),
            ],
        ),
        case(
            "each-packed-by-itself",
            "Every chunk is an LZ4 block of its own; a plain one may follow.",
            vec![
                packed(more(0), &"ab".repeat(40)),
                packed(more(0), &"cd".repeat(40)),
                line(1, 0, "!"),
            ],
        ),
        case(
            "checksum-of-each",
            "",
            vec![line(1, more(Flags::CHECKSUM), "x"), line(1, Flags::CHECKSUM, "y")],
        ),
        case("second-has-an-extension", "", vec![extended(more(0), b"a"), extended(0, b"b")]),
        case(
            "content-type-changes",
            "",
            vec![
                line(1, more(0), "a"),
                message(18, 1).content(ContentType::Json).build(b"", b"1").to_vec(),
            ],
        ),
        case(
            "not-chunkable",
            "An ack has no chunks.",
            vec![
                FrameBuilder { kind: Kind::ACK, ..message(18, 1) }
                    .flags(Flags::MORE)
                    .build(b"", b"")
                    .to_vec(),
            ],
        ),
        ChunkCase {
            message_max: 8,
            ..case(
                "at-the-limit",
                "Eight bytes where eight are allowed.",
                vec![line(1, more(0), "1234"), line(1, 0, "5678")],
            )
        },
        ChunkCase {
            message_max: 8,
            ..case("over-the-limit", "", vec![line(1, more(0), "1234"), line(1, more(0), "56789")])
        },
        ChunkCase {
            unfinished_max: 2,
            ..case(
                "too-many-unfinished",
                "The third unfinished message where two are allowed.",
                vec![
                    request(1, more(0), b"", "1"),
                    request(2, more(0), b"", "2"),
                    request(3, more(0), b"", "3"),
                ],
            )
        },
    ]
}

impl ChunkCase {
    pub(crate) fn to_value(&self) -> Value {
        let mut vector = vec![("name", text(self.name))];
        if !self.why.is_empty() {
            vector.push(("why", text(self.why)));
        }
        if self.message_max != MESSAGE_MAX {
            vector.push(("message_max", Value::Count(self.message_max)));
        }
        if self.unfinished_max != UNFINISHED_MAX {
            vector.push(("unfinished_max", Value::Count(self.unfinished_max)));
        }
        vector.push(("frames", Value::List(self.frames.iter().map(|frame| hex(frame)).collect())));
        match join(&self.frames, self.unfinished_max, self.message_max) {
            Ok(messages) => vector.push(("messages", Value::List(messages))),
            Err(fault) => vector.push(("error", Value::Count(fault.code as u64))),
        }
        Value::Map(vector.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }
}

pub(crate) fn check(vector: &Value) {
    let name = vector.text("name");
    let frames: Vec<_> = vector.list("frames").iter().map(|frame| unhex(frame.as_text())).collect();
    let limit = |key, default| vector.get(key).map_or(default, |_| vector.count(key));
    let (unfinished_max, message_max) =
        (limit("unfinished_max", UNFINISHED_MAX), limit("message_max", MESSAGE_MAX));
    for size in 0..frames.len() {
        let outcome = join(&frames[..size], unfinished_max, message_max);
        assert!(outcome.is_ok(), "{name}: the last frame is the one that fails");
    }
    match join(&frames, unfinished_max, message_max) {
        Ok(messages) => assert_eq!(messages, vector.list("messages"), "{name}"),
        Err(fault) => assert_eq!(fault.code as u64, vector.count("error"), "{name}"),
    }
}

/// The chunkable messages that these frames make, in the order in which they are complete.
fn join(frames: &[Vec<u8>], unfinished_max: u64, message_max: u64) -> Result<Vec<Value>, Fault> {
    let mut assembler = Assembler::new(usize::try_from(unfinished_max).unwrap(), message_max);
    let mut messages = Vec::new();
    for bytes in frames {
        let frame = scan_frame(bytes, PAYLOAD_MAX)?.expect("a whole frame");
        let key = ChunkKey::of(&frame);
        let complete = if frame.header.flags.has(Flags::MORE) || assembler.is_unfinished(key) {
            assembler.push(key, &frame)?
        } else {
            Some(bytes.clone().into())
        };
        if let Some(complete) = complete
            && key.kind.is_chunkable()
        {
            messages.push(describe(key, &complete)?);
        }
    }
    Ok(messages)
}

fn describe(key: ChunkKey, mut frames: &[u8]) -> Result<Value, Fault> {
    let mut body = Vec::new();
    while let Some(frame) = scan_frame(frames, PAYLOAD_MAX)? {
        body.extend_from_slice(&frame.unpacked_body(PAYLOAD_MAX)?);
        frames = &frames[frame.bytes().len()..];
    }
    Ok(map([
        ("type", text(key.kind.name().expect("a known type"))),
        ("route", Value::Count(key.route.0.into())),
        ("message_id", Value::Count(key.message_id)),
        ("body", text(std::str::from_utf8(&body).expect("the messages here are text"))),
    ]))
}

fn case(name: &'static str, why: &'static str, frames: Vec<Vec<u8>>) -> ChunkCase {
    ChunkCase { name, why, frames, unfinished_max: UNFINISHED_MAX, message_max: MESSAGE_MAX }
}

fn message(route: u32, message_id: u64) -> FrameBuilder {
    FrameBuilder::new(Kind::MESSAGE)
        .route(RouteId(route))
        .message_id(message_id)
        .session(SessionId(0x1122_3344_5566_7788))
        .timestamp(TIMESTAMP)
}

const UNFINISHED_MAX: u64 = 64;
const MESSAGE_MAX: u64 = 64 << 20;
