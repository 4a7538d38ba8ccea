//! The frames of `frames.json`: every type, every flag, every control body, the edges of every
//! number. Long because it is a table.

use plugbus::error::{Code, Fault, Refusal, Verdict};
use plugbus::id::{RouteId, SessionId};
use plugbus::wire::body::{self, Credit, Overflow, Redelivery, Role, RouteKind};
use plugbus::wire::{
    CallReference, ContentType, Flags, FrameBuilder, Kind, MessageExtension, RequestExtension,
    compress_frame,
};
use serde::Serialize;
use serde_json::json;

use crate::meaning::HAS_MAP;
use crate::value::{Value, map, text};

/// One frame, and who would send it.
pub(crate) struct FrameCase {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
    pub(crate) from: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// Receivers of this vector allow no more.
    pub(crate) payload_max: Option<u32>,
    /// The frame is well formed, but a broker answers it with this.
    pub(crate) answer: Option<Code>,
}

pub(crate) fn cases() -> Vec<FrameCase> {
    [connection(), registration(), routes(), requests(), messages(), notices(), flags(), edges()]
        .into_iter()
        .flatten()
        .collect()
}

fn connection() -> Vec<FrameCase> {
    vec![
        peer(
            "hello",
            "The magic, then the map. The session is not known yet, so it is 0.",
            FrameBuilder { session: SessionId(0), ..sent(Kind::HELLO, 0, 1) }.build(
                b"",
                &body::encode_hello(&body::Hello {
                    versions: vec![1],
                    features: vec!["lz4".to_owned(), "checksum".to_owned()],
                    id: Some("notes".to_owned()),
                    role: Role::Plugin,
                    sdk: Some("rust/0.1.0".to_owned()),
                    pid: Some(4242),
                }),
            ),
        ),
        peer(
            "hello-of-a-client",
            "Only what must be there.",
            FrameBuilder { session: SessionId(0), ..sent(Kind::HELLO, 0, 1) }.build(
                b"",
                &body::encode_hello(&body::Hello { versions: vec![1], ..Default::default() }),
            ),
        ),
        broker(
            "welcome",
            "Bears the message id of the hello. The session goes into the header of every frame that the peer sends from now on.",
            made(Kind::WELCOME, 0, 1).build(b"", &body::encode(&welcome())),
        ),
        broker(
            "welcome-with-warnings",
            "",
            made(Kind::WELCOME, 0, 1).build(
                b"",
                &body::encode(&body::Welcome {
                    features: Vec::new(),
                    warnings: vec!["protocol 1 is old; this broker speaks 2".to_owned()],
                    ..welcome()
                }),
            ),
        ),
        peer("ping", "Any bytes, at most 64.", sent(Kind::PING, 0, 2).build(b"", b"are you there")),
        broker(
            "pong",
            "The bytes and the message id of the ping.",
            made(Kind::PONG, 0, 2).build(b"", b"are you there"),
        ),
        peer("ping-empty", "", sent(Kind::PING, 0, 3).build(b"", b"")),
        peer(
            "shutdown",
            "A peer that leaves on purpose.",
            sent(Kind::SHUTDOWN, 0, 4).build(
                b"",
                &body::encode(&body::Shutdown { reason: Some("done".to_owned()), drain_ms: None }),
            ),
        ),
        broker(
            "shutdown-of-the-broker",
            "",
            made(Kind::SHUTDOWN, 0, 0).build(
                b"",
                &body::encode(&body::Shutdown {
                    reason: Some("the broker stops".to_owned()),
                    drain_ms: Some(5000),
                }),
            ),
        ),
    ]
}

fn registration() -> Vec<FrameCase> {
    vec![
        peer(
            "register",
            "",
            sent(Kind::REGISTER, 0, 5).build(
                b"",
                &body::encode(&body::Register {
                    methods: vec![
                        body::Method {
                            name: "search".to_owned(),
                            help: Some("Find notes.".to_owned()),
                            params: Some(json!({
                                "type": "object",
                                "properties": {"text": {"type": "string"}},
                                "required": ["text"]
                            })),
                            result: Some(json!({"type": "array"})),
                            idempotent: true,
                        },
                        body::Method { name: "clear".to_owned(), ..Default::default() },
                    ],
                    channels: vec![body::Channel {
                        name: "lines".to_owned(),
                        help: Some("One line a message.".to_owned()),
                    }],
                    services: vec!["search".to_owned()],
                }),
            ),
        ),
        broker("registered", "The empty answer.", answer(5, &body::Empty {})),
        peer(
            "unregister",
            "",
            sent(Kind::UNREGISTER, 0, 6).build(
                b"",
                &body::encode(&body::Unregister {
                    methods: vec!["clear".to_owned()],
                    channels: vec!["lines".to_owned()],
                    services: Vec::new(),
                }),
            ),
        ),
        peer(
            "subscribe",
            "",
            sent(Kind::SUBSCRIBE, 0, 7).build(
                b"",
                &body::encode(&body::Subscribe {
                    pattern: "order.*".to_owned(),
                    overflow: Overflow::Conflate,
                    queue_messages: Some(100),
                    queue_bytes: Some(65_536),
                }),
            ),
        ),
        broker("subscribed", "", answer(7, &body::Subscribed { subscription: 3 })),
        peer(
            "unsubscribe",
            "",
            sent(Kind::UNSUBSCRIBE, 0, 8)
                .build(b"", &body::encode(&body::Unsubscribe { subscription: 3 })),
        ),
        peer(
            "query-plugin",
            "",
            sent(Kind::QUERY, 0, 9).build(
                b"",
                &body::encode(&body::Query {
                    what: "plugin".to_owned(),
                    id: Some("notes".to_owned()),
                }),
            ),
        ),
        broker(
            "query-plugin-answer",
            "",
            answer(
                9,
                &json!({
                    "id": "notes", "state": "ready", "role": "plugin", "incarnation": 2,
                    "methods": [{"name": "search", "help": "Find notes."}],
                    "channels": ["inbox", "lines"], "services": ["search"]
                }),
            ),
        ),
        peer(
            "query-status",
            "",
            sent(Kind::QUERY, 0, 10)
                .build(b"", &body::encode(&body::Query { what: "status".to_owned(), id: None })),
        ),
        peer(
            "report",
            "Figures of any name; a float, an integer, a negative one.",
            sent(Kind::REPORT, 0, 11).build(
                b"",
                &body::encode(&json!({"metrics": {"load": 0.5, "queue": 12, "trend": -3}})),
            ),
        ),
    ]
}

fn routes() -> Vec<FrameCase> {
    let open = |id, kind, name: &str| {
        sent(Kind::OPEN, 0, id)
            .build(b"", &body::encode(&body::Open { kind, name: name.to_owned() }))
    };
    let announce = |kind, name: &str| {
        made(Kind::ANNOUNCE, 0, 0).build(
            b"",
            &body::encode(&body::Announce {
                route: 17,
                kind,
                name: name.to_owned(),
                from: "web".to_owned(),
                session: CALLER.0,
                incarnation: 1,
            }),
        )
    };
    let window =
        body::Opened { route: 18, window_messages: Some(16_384), window_bytes: Some(1_048_576) };
    vec![
        peer("open-method", "", open(12, RouteKind::Method, "notes.search")),
        broker(
            "opened-method",
            "A method has no window.",
            answer(12, &body::Opened { route: 17, ..Default::default() }),
        ),
        peer("open-channel", "", open(13, RouteKind::Channel, "notes/lines")),
        broker("opened-channel", "", answer(13, &window)),
        peer("open-topic", "", open(14, RouteKind::Topic, "order.created")),
        peer("open-broadcast", "", open(15, RouteKind::Broadcast, "cache.flush")),
        broker(
            "announce-method",
            "To the callee: the bare method.",
            announce(RouteKind::Method, "search"),
        ),
        broker(
            "announce-channel",
            "To the receiver: the bare channel.",
            announce(RouteKind::Channel, "lines"),
        ),
        broker(
            "announce-topic",
            "To the subscriber: the topic.",
            announce(RouteKind::Topic, "order.created"),
        ),
        broker("announce-broadcast", "", announce(RouteKind::Broadcast, "cache.flush")),
        peer(
            "close",
            "The route to give up is in the header.",
            sent(Kind::CLOSE, 17, 16).build(b"", &body::encode(&body::Empty {})),
        ),
        broker(
            "close-of-the-broker",
            "No further frame bears this route.",
            made(Kind::CLOSE, 17, 0)
                .build(b"", &body::encode(&body::Closed { reason: "web has left".to_owned() })),
        ),
    ]
}

fn requests() -> Vec<FrameCase> {
    let arguments = json!({"text": "credit"});
    let reference = CallReference(SESSION).to_bytes();
    let callee = |kind| sent(kind, 17, 100).session(CALLEE);
    let fault = |fault: &Fault| made(Kind::ERROR, 17, 100).build(b"", &body::encode_fault(fault));
    vec![
        peer(
            "request",
            "Without an extension: the broker's default deadline, no trace.",
            sent(Kind::REQUEST, 17, 100)
                .content(ContentType::MessagePack)
                .build(b"", &body::encode(&arguments)),
        ),
        peer(
            "request-with-deadline-and-trace",
            "",
            sent(Kind::REQUEST, 17, 101).content(ContentType::MessagePack).build(
                &RequestExtension {
                    deadline_ms: 2500,
                    trace: TRACE,
                    span: 0x0102_0304_0506_0708,
                    nonce: 0,
                }
                .to_bytes(),
                &body::encode(&arguments),
            ),
        ),
        peer(
            "request-no-reply",
            "The caller gets nothing but errors.",
            sent(Kind::REQUEST, 17, 102)
                .flags(Flags::NO_REPLY)
                .content(ContentType::MessagePack)
                .build(b"", &body::encode(&arguments)),
        ),
        peer(
            "started",
            "The callee's session in the header, the caller's in the extension, no body.",
            callee(Kind::STARTED).build(&reference, b""),
        ),
        peer(
            "response",
            "The route and message id of the request.",
            callee(Kind::RESPONSE).content(ContentType::MessagePack).build(
                &reference,
                &body::encode(&json!([{"file": "credit.md", "line": 12, "score": 0.75}])),
            ),
        ),
        peer(
            "response-null",
            "A handler that returns nothing still answers with a value.",
            callee(Kind::RESPONSE).content(ContentType::MessagePack).build(&reference, &[0xC0]),
        ),
        peer(
            "error-of-a-handler",
            "The handler's own code is a text in the details.",
            callee(Kind::ERROR).build(
                &reference,
                &body::encode_fault(
                    &Fault::new(Code::HandlerFailed, "no index yet").with("code", "IndexMissing"),
                ),
            ),
        ),
        peer(
            "error-invalid-argument",
            "",
            callee(Kind::ERROR).build(
                &reference,
                &body::encode_fault(
                    &Fault::new(Code::InvalidArgument, "`limit` is not an integer")
                        .with("field", "limit")
                        .with("expected", "integer"),
                ),
            ),
        ),
        broker(
            "error-of-the-broker",
            "Session 0 and no extension: the callee never saw the request, or will not answer.",
            fault(
                &Fault::new(Code::PeerDied, "notes has died")
                    .with("verdict", Verdict::PossiblyStarted.name())
                    .with("plugin", "notes")
                    .with("incarnation", 2),
            ),
        ),
        broker(
            "error-not-found",
            "",
            made(Kind::ERROR, 0, 12).build(
                b"",
                &body::encode_fault(
                    &Fault::new(Code::NotFound, "no plugin `note`")
                        .with("suggestions", vec!["notes"]),
                ),
            ),
        ),
        broker(
            "error-refused",
            "What ran out, whose it is, how much of it, who uses it, when to try again.",
            fault(&Fault::refused(&Refusal {
                resource: "unanswered requests",
                holder: "web",
                used: 16_384,
                limit: 16_384,
                blame: "web",
                retry_after_ms: 50,
            })),
        ),
        peer(
            "cancel",
            "From the caller: no reference, no body.",
            sent(Kind::CANCEL, 17, 100).build(b"", b""),
        ),
        broker(
            "cancel-to-the-callee",
            "From the broker: whose call it was.",
            made(Kind::CANCEL, 17, 100).build(&reference, b""),
        ),
    ]
}

fn messages() -> Vec<FrameCase> {
    let extension = MessageExtension { key: 0xBEEF, trace: TRACE, span: 9, nonce: 0 }.to_bytes();
    vec![
        peer(
            "message",
            "",
            sent(Kind::MESSAGE, 18, 1).content(ContentType::Text).build(b"", b"first line"),
        ),
        peer(
            "message-with-trace",
            "",
            sent(Kind::MESSAGE, 18, 2)
                .content(ContentType::MessagePack)
                .build(&extension, &body::encode(&json!({"line": 2}))),
        ),
        peer(
            "message-empty",
            "An empty message is a message.",
            sent(Kind::MESSAGE, 18, 3).build(b"", b""),
        ),
        broker(
            "ack-of-the-broker",
            "The message id is *completed*, the body *accepted*.",
            made(Kind::ACK, 18, 2).build(b"", &3_u64.to_le_bytes()),
        ),
        peer(
            "ack",
            "From the receiver: all up to the message id are handled.",
            sent(Kind::ACK, 18, 2).build(b"", b""),
        ),
        broker(
            "credit",
            "",
            made(Kind::CREDIT, 18, 0)
                .build(b"", &Credit { messages: 64, bytes: 1 << 20 }.to_bytes()),
        ),
        broker(
            "credit-zero",
            "Stops the sender.",
            made(Kind::CREDIT, 18, 0).build(b"", &Credit { messages: 0, bytes: 0 }.to_bytes()),
        ),
        broker(
            "redelivery",
            "Messages 2 and 3 come for the second time.",
            made(Kind::REDELIVERY, 18, 2)
                .build(b"", &Redelivery { last: 3, attempt: 2 }.to_bytes()),
        ),
        broker(
            "gap-of-a-channel",
            "Messages 4 to 9 were given up.",
            made(Kind::GAP, 18, 4).build(
                b"",
                &body::encode(&body::Gap {
                    last: 9,
                    cause: "receiver absent for 60 s".to_owned(),
                    topic: None,
                }),
            ),
        ),
        peer(
            "event",
            "",
            sent(Kind::EVENT, 19, 1)
                .content(ContentType::MessagePack)
                .build(b"", &body::encode(&json!({"order": 7}))),
        ),
        peer(
            "event-with-key",
            "Where a subscriber conflates, a later event with the same key replaces it.",
            sent(Kind::EVENT, 19, 2)
                .content(ContentType::Json)
                .build(&extension, br#"{"order":7}"#),
        ),
        broker(
            "gap-of-a-topic",
            "",
            made(Kind::GAP, 19, 3).build(
                b"",
                &body::encode(&body::Gap {
                    last: 5,
                    cause: "drop-oldest".to_owned(),
                    topic: Some("order.created".to_owned()),
                }),
            ),
        ),
        peer(
            "broadcast",
            "",
            sent(Kind::BROADCAST, 20, 1).content(ContentType::Text).build(b"", b"flush"),
        ),
    ]
}

fn notices() -> Vec<FrameCase> {
    let signal =
        |id, signal: &body::Signal| sent(Kind::SIGNAL, 0, id).build(b"", &body::encode(signal));
    let named = |name: &str| body::Signal { name: name.to_owned(), ..Default::default() };
    vec![
        peer("signal-ready", "The state of the sender.", signal(20, &named("ready"))),
        peer("signal-busy", "", signal(21, &named("busy"))),
        peer("signal-sleeping", "", signal(22, &named("sleeping"))),
        peer(
            "signal-failed",
            "",
            signal(
                23,
                &body::Signal { data: Some(json!({"reason": "disk full"})), ..named("failed") },
            ),
        ),
        peer(
            "signal-to-a-plugin",
            "",
            signal(
                24,
                &body::Signal {
                    to: Some("notes".to_owned()),
                    data: Some(json!({"path": "notes.toml"})),
                    ..named("reload")
                },
            ),
        ),
        broker(
            "signal-from-a-plugin",
            "The same as it arrives.",
            made(Kind::SIGNAL, 0, 0).build(
                b"",
                &body::encode(&body::Signal {
                    from: Some("web".to_owned()),
                    data: Some(json!({"path": "notes.toml"})),
                    ..named("reload")
                }),
            ),
        ),
    ]
}

fn flags() -> Vec<FrameCase> {
    let message = |bits| sent(Kind::MESSAGE, 18, 1).flags(bits);
    let long = "All work and no play makes a dull plugin. ".repeat(6);
    let packed = compress_frame(long.as_bytes()).expect("it repeats itself");
    let text_message = |bits| message(bits).content(ContentType::Text);
    vec![
        peer(
            "checksum",
            "XXH64 with seed 0 of all bytes before it.",
            text_message(Flags::CHECKSUM).build(b"", b"tick"),
        ),
        peer("checksum-of-an-empty-body", "", message(Flags::CHECKSUM).build(b"", b"")),
        peer(
            "compressed",
            "The body is the unpacked size and one LZ4 block. Other blocks that unpack to the same are as good.",
            text_message(Flags::COMPRESSED).build(b"", &packed),
        ),
        peer(
            "compressed-with-extension-and-checksum",
            "The extension stays readable; the checksum is that of the packed bytes.",
            text_message(Flags::COMPRESSED | Flags::CHECKSUM)
                .build(&MessageExtension { key: 1, ..Default::default() }.to_bytes(), &packed),
        ),
        peer(
            "more",
            "Another chunk follows.",
            text_message(Flags::MORE).build(b"", b"first half, "),
        ),
        peer("content-raw", "", message(0).build(b"", &[0x00, 0xFF, 0x7F])),
        peer(
            "content-msgpack",
            "",
            message(0)
                .content(ContentType::MessagePack)
                .build(b"", &body::encode(&json!([1, "two", null, true, -5, 2.5]))),
        ),
        peer("content-json", "", message(0).content(ContentType::Json).build(b"", br#"{"a":1}"#)),
        peer(
            "content-protobuf",
            "Field 1 is the varint 150.",
            message(0).content(ContentType::Protobuf).build(b"", &[0x08, 0x96, 0x01]),
        ),
        peer(
            "content-text",
            "UTF-8.",
            message(0).content(ContentType::Text).build(b"", "naïve 😀".as_bytes()),
        ),
        FrameCase {
            answer: Some(Code::Unsupported),
            ..peer("encrypted", "Reserved.", message(Flags::ENCRYPTED).build(b"", &[1, 2, 3, 4]))
        },
        FrameCase {
            answer: Some(Code::Unsupported),
            ..peer("pooled", "Reserved.", message(Flags::POOLED).build(b"", &[1, 2, 3, 4]))
        },
        FrameCase {
            answer: Some(Code::Malformed),
            ..peer(
                "extended-ping",
                "A type without an extension must not have one.",
                sent(Kind::PING, 0, 30).flags(Flags::EXTENDED).build(b"", b"hm"),
            )
        },
    ]
}

fn edges() -> Vec<FrameCase> {
    let largest = FrameBuilder {
        kind: Kind::MESSAGE,
        flags: Flags::default(),
        route: RouteId(u32::MAX),
        message_id: u64::MAX,
        session: SessionId(u64::MAX),
        timestamp: u64::MAX,
    };
    vec![
        peer(
            "largest-numbers",
            "Every number at its largest; none of them is signed.",
            largest.build(b"", b"x"),
        ),
        FrameCase {
            payload_max: Some(16),
            ..peer("payload-at-the-limit", "", sent(Kind::MESSAGE, 18, 1).build(b"", &[0x55; 16]))
        },
        FrameCase {
            payload_max: Some(40),
            ..peer(
                "extension-at-the-limit",
                "The extension counts as payload; here it is all of it.",
                sent(Kind::MESSAGE, 18, 1)
                    .build(&MessageExtension { key: 5, ..Default::default() }.to_bytes(), b""),
            )
        },
        peer("ping-at-the-limit", "64 bytes.", sent(Kind::PING, 0, 31).build(b"", &[0x42; 64])),
        FrameCase {
            answer: Some(Code::UnknownType),
            ..peer(
                "unknown-type",
                "Answered; the connection goes on.",
                sent(Kind(200), 0, 32).build(b"", b"from the future"),
            )
        },
        FrameCase {
            answer: Some(Code::UnknownType),
            ..peer("reserved-type-pool", "", sent(Kind(29), 0, 33).build(b"", b""))
        },
        FrameCase {
            answer: Some(Code::UnknownType),
            ..peer(
                "resource-request",
                "Reserved.",
                sent(Kind::RESOURCE_REQUEST, 0, 34).build(b"", b""),
            )
        },
        FrameCase {
            answer: Some(Code::Unexpected),
            ..peer(
                "welcome-from-a-peer",
                "The wrong direction.",
                sent(Kind::WELCOME, 0, 35).build(b"", &body::encode(&body::Empty {})),
            )
        },
    ]
}

impl FrameCase {
    pub(crate) fn to_value(&self, meaning: Value) -> Value {
        let mut vector = vec![("name", text(self.name))];
        if !self.why.is_empty() {
            vector.push(("why", text(self.why)));
        }
        vector.push(("from", text(self.from)));
        if let Some(payload_max) = self.payload_max {
            vector.push(("payload_max", Value::Count(payload_max.into())));
        }
        if let Some(code) = self.answer {
            vector.push(("answer", Value::Count(code as u64)));
        }
        vector.push(("bytes", crate::value::hex(&self.bytes)));
        vector.push(("frame", meaning));
        Value::Map(vector.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }
}

/// The file around a list of vectors.
pub(crate) fn file(vectors: Vec<Value>) -> Value {
    map([("protocol", Value::Count(1)), ("vectors", Value::List(vectors))])
}

fn peer(name: &'static str, why: &'static str, bytes: impl Into<Vec<u8>>) -> FrameCase {
    FrameCase { name, why, from: "peer", bytes: bytes.into(), payload_max: None, answer: None }
}

fn broker(name: &'static str, why: &'static str, bytes: impl Into<Vec<u8>>) -> FrameCase {
    FrameCase { from: "broker", ..peer(name, why, bytes) }
}

/// A frame that the peer of session [`SESSION`] sends.
fn sent(kind: Kind, route: u32, message_id: u64) -> FrameBuilder {
    made(kind, route, message_id).session(SESSION)
}

/// A frame that the broker makes. Those whose body is always a map say so.
fn made(kind: Kind, route: u32, message_id: u64) -> FrameBuilder {
    let is_map = HAS_MAP.contains(&kind) || kind == Kind::RESPONSE && route == 0;
    FrameBuilder::new(kind)
        .content(if is_map { ContentType::MessagePack } else { ContentType::Raw })
        .route(RouteId(route))
        .message_id(message_id)
        .timestamp(TIMESTAMP)
}

fn answer<T: Serialize>(message_id: u64, value: &T) -> Vec<u8> {
    made(Kind::RESPONSE, 0, message_id).build(b"", &body::encode(value)).to_vec()
}

pub(crate) fn welcome() -> body::Welcome {
    body::Welcome {
        version: 1,
        features: vec!["lz4".to_owned(), "checksum".to_owned()],
        session: SESSION.0,
        id: "notes".to_owned(),
        incarnation: 1,
        broker: "default".to_owned(),
        heartbeat_ms: 15_000,
        limits: body::Limits {
            payload_max: 1_048_576,
            message_max: 67_108_864,
            requests_max: 16_384,
            request_bytes_max: 16_777_216,
            routes_max: 4096,
            subscriptions_max: 1024,
            call_timeout_ms: Some(30_000),
        },
        warnings: Vec::new(),
    }
}

const SESSION: SessionId = SessionId(0x1122_3344_5566_7788);
const CALLER: SessionId = SessionId(0x0A0B_0C0D_0E0F_1011);
const CALLEE: SessionId = SessionId(0x99AA_BBCC_DDEE_FF00);

/// 2023-11-14 22:13:20 UTC.
pub(crate) const TIMESTAMP: u64 = 1_700_000_000_000_000_000;

const TRACE: [u8; 16] = [
    0x4B, 0xF9, 0x2F, 0x35, 0x77, 0xB3, 0x4D, 0xA6, 0xA3, 0xCE, 0x92, 0x9D, 0x0E, 0x0E, 0x47, 0x36,
];
