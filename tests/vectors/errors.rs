//! The bytes of `errors.json`, and what this implementation says to them.

use plugbus::error::{Code, Fault};
use plugbus::id::{Pattern, RouteId, SessionId, Topic};
use plugbus::wire::body::{self, RouteKind};
use plugbus::wire::{
    ContentType, Dialect, Flags, FrameBuilder, FrameView, HEADER_SIZE, Kind, scan_frame,
};
use serde_json::json;

use crate::engine;
use crate::frames::{FrameCase, TIMESTAMP};
use crate::value::{Value, hex, text};

pub(crate) struct ErrorCase {
    name: &'static str,
    why: &'static str,
    stage: &'static str,
    bytes: Vec<u8>,
    payload_max: Option<u32>,
}

pub(crate) fn cases() -> Vec<ErrorCase> {
    [dialects(), headers(), trailers(), handshakes(), bodies(), names(), packed(), sessions()]
        .into_iter()
        .flatten()
        .collect()
}

fn dialects() -> Vec<ErrorCase> {
    let mut second = ping().to_vec();
    second.extend_from_slice(&[0x02; HEADER_SIZE]);
    vec![
        framing("http", "Known at the first byte.", b"GET / HTTP/1.1\r\n"),
        framing("json-lines", "Reserved; refused by name.", b"{\"type\":\"lifecycle\"}\n"),
        framing("reed", "Reserved; refused by name.", b"REED\x01\xF0\x00\x00"),
        framing("reed-little-endian", "Reserved; refused by name.", b"DEER\x01\xF0\x00\x00"),
        framing("zero", "", &[0]),
        framing("one-byte-is-enough", "", &[0x02]),
        framing("second-frame-begins-wrong", "A good ping, then a first byte of 2.", &second),
    ]
}

fn headers() -> Vec<ErrorCase> {
    let header = |flags: u16, size: u32| {
        let mut bytes = ping()[..HEADER_SIZE].to_vec();
        bytes[2..4].copy_from_slice(&flags.to_le_bytes());
        bytes[32..36].copy_from_slice(&size.to_le_bytes());
        bytes
    };
    let mut cases = vec![
        framing("reserved-bit-7", "Known when the header is there.", &header(1 << 7, 0)),
        framing("reserved-bit-12", "", &header(1 << 12, 0)),
        framing("reserved-bit-13", "", &header(1 << 13, 0)),
        framing("reserved-bit-14", "", &header(1 << 14, 0)),
        framing("reserved-bit-15", "", &header(1 << 15, 0)),
        framing("content-type-5", "The first number without a meaning.", &header(5 << 8, 0)),
        framing("content-type-15", "", &header(15 << 8, 0)),
        ErrorCase {
            payload_max: Some(64),
            ..framing(
                "payload-over-the-limit",
                "Known before the payload has come.",
                &header(0, 65),
            )
        },
        framing("payload-over-the-default", "One more than 1 MiB.", &header(0, (1 << 20) + 1)),
        framing("payload-of-4-gib", "", &header(0, u32::MAX)),
    ];
    for (name, kind, size) in [
        ("extension-cut-request", Kind::REQUEST, 39),
        ("extension-cut-message", Kind::MESSAGE, 0),
        ("extension-cut-event", Kind::EVENT, 39),
        ("extension-cut-response", Kind::RESPONSE, 7),
    ] {
        let mut bytes = header(Flags::EXTENDED, size);
        bytes[1] = kind.0;
        cases.push(framing(name, "The flag is set and the payload is too short for it.", &bytes));
    }
    cases
}

fn trailers() -> Vec<ErrorCase> {
    let checked = || message().flags(Flags::CHECKSUM).build(b"", b"tick").to_vec();
    let mut zero = checked();
    let size = zero.len();
    zero[size - 8..].fill(0);
    let mut body = checked();
    body[HEADER_SIZE] ^= 0x01;
    let mut header = checked();
    header[8] ^= 0x80;
    let mut unasked = message().build(b"", b"tick").to_vec();
    unasked[size - 1] = 1;
    vec![
        framing("checksum-is-zero", "The flag is set and the trailer is not filled in.", &zero),
        framing("body-changed", "One bit of the body after the checksum was made.", &body),
        framing("header-changed", "One bit of the message id.", &header),
        framing("trailer-without-flag", "It must be zero.", &unasked),
    ]
}

fn handshakes() -> Vec<ErrorCase> {
    let hello = |payload: &[u8]| {
        FrameBuilder::new(Kind::HELLO).message_id(1).timestamp(TIMESTAMP).build(b"", payload)
    };
    let with =
        |map: serde_json::Value| hello(&[&body::HELLO_MAGIC[..], &body::encode(&map)].concat());
    vec![
        at(
            "handshake",
            "hello-without-magic",
            "",
            &hello(&body::encode(&json!({"versions": [1]}))),
        ),
        at(
            "handshake",
            "hello-with-another-magic",
            "",
            &hello(b"PLUGBUS\r\x81\xa8versions\x91\x01"),
        ),
        at("handshake", "hello-without-map", "", &hello(body::HELLO_MAGIC)),
        at("handshake", "hello-without-versions", "", &with(json!({"features": []}))),
        at("handshake", "hello-with-text-for-versions", "", &with(json!({"versions": "1"}))),
        at(
            "handshake",
            "hello-with-another-role",
            "",
            &with(json!({"versions": [1], "role": "king"})),
        ),
        at("handshake", "hello-with-bad-id", "", &with(json!({"versions": [1], "id": "Notes"}))),
        at(
            "handshake",
            "hello-of-another-version",
            "The peer offers 2 and 3 only.",
            &with(json!({"versions": [2, 3]})),
        ),
        at(
            "handshake",
            "hello-with-id-in-use",
            "Where a session of `taken` is live.",
            &with(json!({"versions": [1], "id": "taken"})),
        ),
        at("handshake", "hello-with-empty-id", "", &with(json!({"versions": [1], "id": ""}))),
    ]
}

fn bodies() -> Vec<ErrorCase> {
    let control = |kind: Kind, body: &[u8]| sent(kind).build(b"", body);
    let mut deep = vec![0x81, 0xA1, b'x'];
    deep.extend_from_slice(&[0x91; 40]);
    deep.push(0xC0);
    vec![
        at("body", "open-empty", "A body is a map, if an empty one.", &control(Kind::OPEN, b"")),
        at(
            "body",
            "open-without-name",
            "",
            &control(Kind::OPEN, &body::encode(&json!({"kind": "method"}))),
        ),
        at(
            "body",
            "open-with-unknown-kind",
            "",
            &control(Kind::OPEN, &body::encode(&json!({"kind": "pipe", "name": "a.b"}))),
        ),
        at(
            "body",
            "open-with-number-for-name",
            "",
            &control(Kind::OPEN, &body::encode(&json!({"kind": "method", "name": 7}))),
        ),
        at(
            "body",
            "open-cut-short",
            "The map announces two entries.",
            &control(Kind::OPEN, b"\x82\xa4kind\xa6method"),
        ),
        at(
            "body",
            "open-with-bytes-behind",
            "",
            &control(Kind::OPEN, b"\x82\xa4kind\xa6method\xa4name\xa3a.b\x00"),
        ),
        at(
            "body",
            "open-with-invalid-utf-8",
            "",
            &control(Kind::OPEN, b"\x82\xa4kind\xa6method\xa4name\xa3a\xff\xfe"),
        ),
        at(
            "body",
            "subscribe-with-unknown-overflow",
            "",
            &control(
                Kind::SUBSCRIBE,
                &body::encode(&json!({"pattern": "a", "overflow": "explode"})),
            ),
        ),
        at(
            "body",
            "subscribe-with-negative-queue",
            "",
            &control(
                Kind::SUBSCRIBE,
                &body::encode(&json!({"pattern": "a", "queue_messages": -1})),
            ),
        ),
        at(
            "body",
            "register-with-method-without-name",
            "",
            &control(Kind::REGISTER, &body::encode(&json!({"methods": [{"help": "?"}]}))),
        ),
        at("body", "unsubscribe-not-a-map", "", &control(Kind::UNSUBSCRIBE, b"\xa1x")),
        at("body", "query-without-what", "", &control(Kind::QUERY, b"\x80")),
        at("body", "signal-without-name", "", &control(Kind::SIGNAL, b"\x80")),
        at(
            "body",
            "report-with-list",
            "",
            &control(Kind::REPORT, &body::encode(&json!({"metrics": []}))),
        ),
        at(
            "body",
            "nested-too-deep",
            "40 levels under an unknown key.",
            &control(Kind::REPORT, &[b"\x81\xa7metrics".as_slice(), &deep].concat()),
        ),
        at(
            "body",
            "string-of-4-gib",
            "The length says so; nothing follows. Must not be allocated.",
            &control(Kind::SIGNAL, b"\x81\xa4name\xdb\xff\xff\xff\xff"),
        ),
        at(
            "body",
            "list-of-4-gib",
            "The same with a list.",
            &control(Kind::REGISTER, b"\x81\xa8services\xdd\xff\xff\xff\xff"),
        ),
    ]
}

fn names() -> Vec<ErrorCase> {
    let open = |kind: &str, name: &str| {
        sent(Kind::OPEN).build(b"", &body::encode(&json!({"kind": kind, "name": name})))
    };
    let subscribe = |pattern: &str| {
        sent(Kind::SUBSCRIBE).build(b"", &body::encode(&json!({"pattern": pattern})))
    };
    vec![
        at("name", "method-without-dot", "", &open("method", "search")),
        at("name", "method-with-capital", "", &open("method", "notes.Search")),
        at("name", "channel-without-slash", "", &open("channel", "notes.lines")),
        at("name", "topic-with-empty-word", "", &open("topic", "order..created")),
        at(
            "name",
            "topic-with-wildcard",
            "Only a subscription may have one.",
            &open("topic", "order.*"),
        ),
        at("name", "topic-with-line-break", "", &open("broadcast", "order\n")),
        at("name", "pattern-with-rest-inside", "", &subscribe("order.>.late")),
        at("name", "pattern-with-half-a-word", "", &subscribe("order.cr*")),
        at("name", "pattern-empty", "", &subscribe("")),
    ]
}

fn packed() -> Vec<ErrorCase> {
    let packed = |payload: &[u8]| {
        message().flags(Flags::COMPRESSED).content(ContentType::Text).build(b"", payload)
    };
    vec![
        at("unpack", "packed-without-size", "Fewer than four bytes.", &packed(&[1, 0])),
        at("unpack", "packed-garbage", "", &packed(&[20, 0, 0, 0, 0xFF, 0xFF])),
        at(
            "unpack",
            "packed-size-too-small",
            "The block gives five bytes.",
            &packed(b"\x04\0\0\0\x50hello"),
        ),
        at(
            "unpack",
            "packed-size-too-large",
            "The block gives five bytes.",
            &packed(b"\x06\0\0\0\x50hello"),
        ),
        at(
            "unpack",
            "packed-bomb",
            "4 GiB by its own word. Must not be allocated.",
            &packed(b"\xff\xff\xff\xff\x50hello"),
        ),
        at(
            "unpack",
            "packed-offset-before-start",
            "A match that begins before the first byte.",
            &packed(b"\x14\0\0\0\x1Aa\x05\0\x50aaaaa"),
        ),
    ]
}

/// Good frames that the broker answers with an error, because of what it knows about the sender.
fn sessions() -> Vec<ErrorCase> {
    let on = |kind: Kind, route: u32| sent(kind).route(RouteId(route)).build(b"", b"");
    let control =
        |kind: Kind, value: serde_json::Value| sent(kind).build(b"", &body::encode(&value));
    let reference = engine::SESSION.0.to_le_bytes();
    vec![
        at("session", "unknown-type", "", &sent(Kind(200)).build(b"", b"from the future")),
        at("session", "reserved-type", "", &sent(Kind(29)).build(b"", b"")),
        at("session", "resource-request", "Reserved.", &on(Kind::RESOURCE_REQUEST, 0)),
        at(
            "session",
            "second-hello",
            "",
            &sent(Kind::HELLO).build(b"", &body::encode_hello(&body::Hello::default())),
        ),
        at("session", "welcome-from-a-peer", "", &control(Kind::WELCOME, json!({}))),
        at("session", "credit-from-a-peer", "", &sent(Kind::CREDIT).build(b"", &[0; 16])),
        at("session", "gap-from-a-peer", "", &control(Kind::GAP, json!({"last": 1, "cause": ""}))),
        at(
            "session",
            "forged-session",
            "Not the session that the welcome gave.",
            &sent(Kind::PING).session(SessionId(0x0A0B_0C0D_0E0F_1011)).build(b"", b""),
        ),
        at(
            "session",
            "session-of-the-broker",
            "",
            &sent(Kind::PING).session(SessionId::BROKER).build(b"", b""),
        ),
        at("session", "message-on-unknown-route", "", &on(Kind::MESSAGE, 4_000_000_000)),
        at("session", "request-on-unknown-route", "", &on(Kind::REQUEST, 4_000_000_000)),
        at("session", "event-on-unknown-route", "", &on(Kind::EVENT, 4_000_000_000)),
        at("session", "ack-on-unknown-route", "", &on(Kind::ACK, 4_000_000_000)),
        at("session", "cancel-on-unknown-route", "", &on(Kind::CANCEL, 4_000_000_000)),
        at("session", "close-on-unknown-route", "", &on(Kind::CLOSE, 4_000_000_000)),
        at(
            "session",
            "response-to-nothing",
            "",
            &sent(Kind::RESPONSE).build(&reference, &body::encode(&json!(1))),
        ),
        at(
            "session",
            "encrypted",
            "Reserved.",
            &message().flags(Flags::ENCRYPTED).build(b"", &[1, 2, 3, 4]),
        ),
        at(
            "session",
            "pooled",
            "Reserved.",
            &message().flags(Flags::POOLED).build(b"", &[1, 2, 3, 4]),
        ),
        at(
            "session",
            "ping-with-extension",
            "A type without an extension must not have one.",
            &sent(Kind::PING).flags(Flags::EXTENDED).build(b"", b"hm"),
        ),
        at("session", "ping-of-65-bytes", "", &sent(Kind::PING).build(b"", &[0x42; 65])),
        at(
            "session",
            "open-unknown-plugin",
            "",
            &control(Kind::OPEN, json!({"kind": "method", "name": "nobody.greet"})),
        ),
        at(
            "session",
            "open-reserved-topic",
            "Only the broker publishes it.",
            &control(Kind::OPEN, json!({"kind": "topic", "name": "plugbus.dead"})),
        ),
        at(
            "session",
            "unsubscribe-unknown",
            "",
            &control(Kind::UNSUBSCRIBE, json!({"subscription": 77})),
        ),
        at("session", "query-unknown", "", &control(Kind::QUERY, json!({"what": "weather"}))),
        at(
            "session",
            "signal-to-nobody",
            "",
            &control(Kind::SIGNAL, json!({"name": "wake", "to": "nobody"})),
        ),
        at(
            "session",
            "report-over-the-limit",
            "More than 4 KiB.",
            &control(Kind::REPORT, json!({"metrics": {"text": "x".repeat(4200)}})),
        ),
    ]
}

impl ErrorCase {
    pub(crate) fn to_value(&self) -> Value {
        let case = FrameCase {
            name: self.name,
            why: self.why,
            from: "peer",
            bytes: Vec::new(),
            payload_max: self.payload_max,
            answer: None,
        };
        let Value::Map(mut vector) = case.to_value(Value::Nothing) else { unreachable!() };
        vector.retain(|(key, _)| key != "from" && key != "bytes" && key != "frame");
        let payload_max = self.payload_max.unwrap_or(PAYLOAD_MAX);
        let fault = judge(self.stage, &self.bytes, payload_max)
            .expect_err("an error vector must not be accepted");
        vector.push(("stage".to_owned(), text(self.stage)));
        vector.push(("bytes".to_owned(), hex(&self.bytes)));
        vector.push(("error".to_owned(), Value::Count(fault.code as u64)));
        Value::Map(vector)
    }
}

/// What a receiver says to bytes, up to and including `stage`.
pub(crate) fn judge(stage: &str, bytes: &[u8], payload_max: u32) -> Result<(), Fault> {
    if let Some(&first) = bytes.first() {
        Dialect::detect(first)?.require_spoken()?;
    }
    let mut rest = bytes;
    while let Some(frame) = scan_frame(rest, payload_max)? {
        rest = &rest[frame.bytes().len()..];
        match stage {
            "framing" => (),
            "handshake" => judge_hello(&frame)?,
            "body" | "name" => judge_body(&frame)?,
            "session" => judge_session(frame.bytes())?,
            "unpack" => {
                frame.unpacked_body(payload_max)?;
            }
            stage => panic!("there is no stage `{stage}`"),
        }
    }
    Ok(())
}

fn judge_hello(frame: &FrameView<'_>) -> Result<(), Fault> {
    engine::admit(&body::decode_hello(frame.body())?)
}

/// The engine's answer as it would stand in the error frame.
fn judge_session(bytes: &[u8]) -> Result<(), Fault> {
    match engine::answers(bytes)[..] {
        [] => Ok(()),
        [code] => {
            let code = u32::try_from(code).ok().and_then(Code::from_number);
            Err(Fault::new(code.expect("a known code"), "as the engine says"))
        }
        ref codes => panic!("one frame gets one answer, not {codes:?}"),
    }
}

fn judge_body(frame: &FrameView<'_>) -> Result<(), Fault> {
    let bytes = frame.body();
    match frame.header.kind {
        Kind::OPEN => {
            let body: body::Open = body::decode(bytes)?;
            match body.kind {
                RouteKind::Method => drop(plugbus::id::parse_method_address(&body.name)?),
                RouteKind::Channel => drop(plugbus::id::parse_channel_address(&body.name)?),
                _ => drop(Topic::parse(&body.name)?),
            }
        }
        Kind::SUBSCRIBE => {
            drop(Pattern::parse(&body::decode::<body::Subscribe>(bytes)?.pattern)?);
        }
        Kind::REGISTER => drop(body::decode::<body::Register>(bytes)?),
        Kind::UNSUBSCRIBE => {
            body::decode::<body::Unsubscribe>(bytes)?;
        }
        Kind::QUERY => drop(body::decode::<body::Query>(bytes)?),
        Kind::SIGNAL => drop(body::decode::<body::Signal>(bytes)?),
        Kind::REPORT => drop(body::decode::<body::Report>(bytes)?),
        kind => panic!("no vector has a bad {kind}"),
    }
    Ok(())
}

fn framing(name: &'static str, why: &'static str, bytes: &[u8]) -> ErrorCase {
    at("framing", name, why, bytes)
}

fn at(stage: &'static str, name: &'static str, why: &'static str, bytes: &[u8]) -> ErrorCase {
    ErrorCase { name, why, stage, bytes: bytes.to_vec(), payload_max: None }
}

fn ping() -> bytes::Bytes {
    sent(Kind::PING).build(b"", b"")
}

fn message() -> FrameBuilder {
    sent(Kind::MESSAGE).route(RouteId(18)).message_id(1)
}

fn sent(kind: Kind) -> FrameBuilder {
    FrameBuilder::new(kind).message_id(2).session(engine::SESSION).timestamp(TIMESTAMP)
}

pub(crate) const PAYLOAD_MAX: u32 = 1 << 20;
