//! Frames ↔ what they mean, in the words of `docs/protocol/vectors/README.md`.

use bytes::BytesMut;
use plugbus::id::{RouteId, SessionId};
use plugbus::wire::body::{Credit, HELLO_MAGIC, Redelivery};
use plugbus::wire::{
    CallReference, ContentType, Flags, FrameBuilder, FrameView, Kind, MessageExtension,
    RequestExtension,
};

use crate::value::{Value, hex, map, text, unhex};

/// What a frame means.
pub(crate) fn describe(frame: &FrameView<'_>) -> Value {
    let header = &frame.header;
    let mut meaning = vec![
        ("type", header.kind.name().map_or_else(|| Value::Count(header.kind.0.into()), text)),
        ("flags", describe_flags(header.flags)),
        ("content", text(content_name(header.flags.content_type()))),
        ("route", Value::Count(header.route.0.into())),
        ("message_id", Value::Count(header.message_id)),
        ("session", Value::Count(header.session.0)),
        ("timestamp", Value::Count(header.timestamp)),
    ];
    if header.extension_size() > 0 {
        meaning.push(("extension", describe_extension(frame)));
    }
    meaning.push(("body", describe_body(frame)));
    if header.flags.has(Flags::COMPRESSED) {
        let body = frame.unpacked_body(1 << 20).expect("a good vector unpacks");
        meaning.push(("unpacked", describe_payload(header.flags.content_type(), &body)));
    }
    Value::Map(meaning.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// The bytes of the frame that means this.
pub(crate) fn build(meaning: &Value) -> Vec<u8> {
    let mut flags = 0;
    for name in meaning.list("flags") {
        flags |= FLAGS.iter().find(|(known, _)| *known == name.as_text()).expect("a flag").1;
    }
    let content = CONTENTS.iter().find(|(known, _)| *known == meaning.text("content"));
    let builder = FrameBuilder {
        kind: parse_kind(meaning.get("type").expect("every frame has a type")),
        flags: Flags(flags).with(Flags::content(content.expect("a content type").1).0),
        route: RouteId(small(meaning, "route")),
        message_id: meaning.count("message_id"),
        session: SessionId(meaning.count("session")),
        timestamp: meaning.count("timestamp"),
    };
    let extension = meaning
        .get("extension")
        .map_or_else(Vec::new, |extension| build_extension(builder.kind, extension));
    let body = build_body(meaning.get("body").expect("every frame has a body"));
    let mut output = BytesMut::new();
    builder.append(&mut output, &extension, &body);
    output.to_vec()
}

pub(crate) fn parse_kind(value: &Value) -> Kind {
    match value {
        Value::Count(number) => Kind(u8::try_from(*number).expect("a type is one byte")),
        name => *Kind::ALL
            .iter()
            .find(|kind| kind.name() == Some(name.as_text()))
            .unwrap_or_else(|| panic!("no type is called {name:?}")),
    }
}

fn describe_flags(flags: Flags) -> Value {
    Value::List(
        FLAGS.iter().filter(|(_, bit)| flags.has(*bit)).map(|(name, _)| text(name)).collect(),
    )
}

fn describe_extension(frame: &FrameView<'_>) -> Value {
    match frame.header.kind {
        Kind::REQUEST => {
            let extension = RequestExtension::of(frame);
            map([
                ("deadline_ms", Value::Count(extension.deadline_ms.into())),
                ("trace", hex(&extension.trace)),
                ("span", Value::Count(extension.span)),
                ("nonce", Value::Count(extension.nonce)),
            ])
        }
        Kind::EVENT | Kind::BROADCAST | Kind::MESSAGE => {
            let extension = MessageExtension::of(frame);
            map([
                ("key", Value::Count(extension.key)),
                ("trace", hex(&extension.trace)),
                ("span", Value::Count(extension.span)),
                ("nonce", Value::Count(extension.nonce)),
            ])
        }
        _ => {
            let CallReference(session) = CallReference::of(frame).expect("it has an extension");
            map([("session", Value::Count(session.0))])
        }
    }
}

fn build_extension(kind: Kind, extension: &Value) -> Vec<u8> {
    let trace = || extension.bytes("trace").try_into().expect("a trace id is 16 bytes");
    match kind {
        Kind::REQUEST => RequestExtension {
            deadline_ms: small(extension, "deadline_ms"),
            trace: trace(),
            span: extension.count("span"),
            nonce: extension.count("nonce"),
        }
        .to_bytes()
        .to_vec(),
        Kind::EVENT | Kind::BROADCAST | Kind::MESSAGE => MessageExtension {
            key: extension.count("key"),
            trace: trace(),
            span: extension.count("span"),
            nonce: extension.count("nonce"),
        }
        .to_bytes()
        .to_vec(),
        _ => CallReference(SessionId(extension.count("session"))).to_bytes().to_vec(),
    }
}

fn describe_body(frame: &FrameView<'_>) -> Value {
    let (header, body) = (&frame.header, frame.body());
    if header.flags.has(Flags::COMPRESSED) {
        return map([("hex", hex(body))]);
    }
    match header.kind {
        Kind::HELLO => {
            let body = body.strip_prefix(HELLO_MAGIC).expect("a good hello begins with it");
            map([("hello", Value::parse_msgpack(body))])
        }
        Kind::CREDIT => {
            let Credit { messages, bytes } = Credit::parse(body).expect("a good credit");
            map([(
                "credit",
                map([("messages", Value::Count(messages)), ("bytes", Value::Count(bytes))]),
            )])
        }
        Kind::REDELIVERY => {
            let Redelivery { last, attempt } = Redelivery::parse(body).expect("a good redelivery");
            map([(
                "redelivery",
                map([("last", Value::Count(last)), ("attempt", Value::Count(attempt.into()))]),
            )])
        }
        Kind::ACK if !body.is_empty() => {
            let accepted = body.try_into().expect("an ack of the broker is eight bytes");
            map([("accepted", Value::Count(u64::from_le_bytes(accepted)))])
        }
        Kind::RESPONSE if header.route == RouteId::CONTROL => {
            map([("msgpack", Value::parse_msgpack(body))])
        }
        kind if HAS_MAP.contains(&kind) => map([("msgpack", Value::parse_msgpack(body))]),
        _ => describe_payload(header.flags.content_type(), body),
    }
}

fn describe_payload(content_type: ContentType, body: &[u8]) -> Value {
    match content_type {
        ContentType::MessagePack => map([("msgpack", Value::parse_msgpack(body))]),
        ContentType::Json | ContentType::Text => {
            map([("text", text(std::str::from_utf8(body).expect("good text is UTF-8")))])
        }
        _ => map([("hex", hex(body))]),
    }
}

fn build_body(body: &Value) -> Vec<u8> {
    let Value::Map(forms) = body else { panic!("a body is an object, not {body:?}") };
    let [(form, value)] = &forms[..] else { panic!("a body has one form, not {forms:?}") };
    match form.as_str() {
        "hex" => unhex(value.as_text()),
        "text" => value.as_text().as_bytes().to_vec(),
        "msgpack" => value.to_msgpack(),
        "hello" => [&HELLO_MAGIC[..], &value.to_msgpack()].concat(),
        "credit" => Credit { messages: value.count("messages"), bytes: value.count("bytes") }
            .to_bytes()
            .to_vec(),
        "redelivery" => Redelivery { last: value.count("last"), attempt: small(value, "attempt") }
            .to_bytes()
            .to_vec(),
        "accepted" => body.count("accepted").to_le_bytes().to_vec(),
        form => panic!("no body has the form `{form}`"),
    }
}

fn small(value: &Value, key: &str) -> u32 {
    u32::try_from(value.count(key)).expect("it fits four bytes")
}

fn content_name(content_type: ContentType) -> &'static str {
    CONTENTS.iter().find(|(_, known)| *known == content_type).expect("all are listed").0
}

const FLAGS: [(&str, u16); 7] = [
    ("extended", Flags::EXTENDED),
    ("checksum", Flags::CHECKSUM),
    ("compressed", Flags::COMPRESSED),
    ("encrypted", Flags::ENCRYPTED),
    ("more", Flags::MORE),
    ("no-reply", Flags::NO_REPLY),
    ("pooled", Flags::POOLED),
];

const CONTENTS: [(&str, ContentType); 5] = [
    ("raw", ContentType::Raw),
    ("msgpack", ContentType::MessagePack),
    ("json", ContentType::Json),
    ("protobuf", ContentType::Protobuf),
    ("text", ContentType::Text),
];

/// Types whose body is a map whatever the content type says.
pub(crate) const HAS_MAP: [Kind; 14] = [
    Kind::WELCOME,
    Kind::ERROR,
    Kind::SIGNAL,
    Kind::SHUTDOWN,
    Kind::REGISTER,
    Kind::UNREGISTER,
    Kind::QUERY,
    Kind::ANNOUNCE,
    Kind::REPORT,
    Kind::SUBSCRIBE,
    Kind::UNSUBSCRIBE,
    Kind::OPEN,
    Kind::CLOSE,
    Kind::GAP,
];
