//! The control bodies of `bodies.json`: as this implementation writes them, and other spellings
//! that mean the same.

use plugbus::error::{Code, Fault};
use plugbus::wire::body::{self, Overflow, Role, RouteKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::frames::welcome;
use crate::value::{Value, hex, text};

pub(crate) struct BodyCase {
    name: &'static str,
    why: &'static str,
    of: &'static str,
    bytes: Vec<u8>,
    /// Whether these are the bytes that an encoder gives for the meaning.
    canonical: bool,
}

pub(crate) fn cases() -> Vec<BodyCase> {
    let mut cases = written();
    cases.extend(spelled());
    cases
}

/// Every body in full and at its shortest.
fn written() -> Vec<BodyCase> {
    let name = || "notes".to_owned();
    vec![
        canonical(
            "hello-full",
            "hello",
            &body::Hello {
                versions: vec![1, 2],
                features: vec!["lz4".to_owned()],
                id: Some(name()),
                role: Role::Plugin,
                sdk: Some("python/0.1.0".to_owned()),
                pid: Some(70_000),
            },
        ),
        canonical("hello-short", "hello", &body::Hello { versions: vec![1], ..Default::default() }),
        canonical("welcome", "welcome", &welcome()),
        canonical(
            "register-full",
            "register",
            &body::Register {
                methods: vec![body::Method {
                    name: "search".to_owned(),
                    help: Some("Find notes.".to_owned()),
                    params: Some(json!({"type": "object"})),
                    result: Some(json!({"type": "array"})),
                    idempotent: true,
                }],
                channels: vec![body::Channel {
                    name: "lines".to_owned(),
                    help: Some("One line a message.".to_owned()),
                }],
                services: vec!["search".to_owned()],
            },
        ),
        canonical(
            "register-short",
            "register",
            &body::Register {
                methods: vec![body::Method { name: "a".to_owned(), ..Default::default() }],
                channels: vec![body::Channel { name: "b".to_owned(), help: None }],
                services: Vec::new(),
            },
        ),
        canonical(
            "unregister",
            "unregister",
            &body::Unregister {
                methods: vec!["a".to_owned()],
                channels: vec!["b".to_owned()],
                services: vec!["c".to_owned()],
            },
        ),
        canonical(
            "open-method",
            "open",
            &body::Open { kind: RouteKind::Method, name: "notes.search".to_owned() },
        ),
        canonical(
            "open-channel",
            "open",
            &body::Open { kind: RouteKind::Channel, name: "notes/lines".to_owned() },
        ),
        canonical(
            "open-topic",
            "open",
            &body::Open { kind: RouteKind::Topic, name: "order.created".to_owned() },
        ),
        canonical(
            "open-broadcast",
            "open",
            &body::Open { kind: RouteKind::Broadcast, name: "cache.flush".to_owned() },
        ),
        canonical(
            "opened-full",
            "opened",
            &body::Opened {
                route: 300,
                window_messages: Some(16_384),
                window_bytes: Some(1 << 20),
            },
        ),
        canonical("opened-short", "opened", &body::Opened { route: 1, ..Default::default() }),
        canonical(
            "announce",
            "announce",
            &body::Announce {
                route: 17,
                kind: RouteKind::Channel,
                name: "lines".to_owned(),
                from: "web".to_owned(),
                session: u64::MAX,
                incarnation: 3,
            },
        ),
        canonical("closed", "closed", &body::Closed { reason: "web has left".to_owned() }),
        canonical("subscribe-drop-oldest", "subscribe", &subscribe(Overflow::DropOldest)),
        canonical("subscribe-drop-newest", "subscribe", &subscribe(Overflow::DropNewest)),
        canonical("subscribe-conflate", "subscribe", &subscribe(Overflow::Conflate)),
        canonical(
            "subscribe-block",
            "subscribe",
            &body::Subscribe {
                queue_messages: Some(10),
                queue_bytes: Some(4096),
                ..subscribe(Overflow::Block)
            },
        ),
        canonical("subscribed", "subscribed", &body::Subscribed { subscription: 3 }),
        canonical("unsubscribe", "unsubscribe", &body::Unsubscribe { subscription: 3 }),
        canonical("query-plugins", "query", &body::Query { what: "plugins".to_owned(), id: None }),
        canonical(
            "query-plugin",
            "query",
            &body::Query { what: "plugin".to_owned(), id: Some(name()) },
        ),
        canonical(
            "signal-short",
            "signal",
            &body::Signal { name: "ready".to_owned(), ..Default::default() },
        ),
        canonical(
            "signal-to",
            "signal",
            &body::Signal {
                name: "wake".to_owned(),
                to: Some(name()),
                from: None,
                data: Some(json!({"why": ["mail", 3]})),
            },
        ),
        canonical(
            "signal-from",
            "signal",
            &body::Signal {
                name: "wake".to_owned(),
                to: None,
                from: Some("web".to_owned()),
                data: None,
            },
        ),
        canonical("report", "report", &json!({"metrics": {"load": 0.5, "name": "x", "on": true}})),
        canonical(
            "shutdown-full",
            "shutdown",
            &body::Shutdown { reason: Some("bye".to_owned()), drain_ms: Some(5000) },
        ),
        canonical("shutdown-short", "shutdown", &body::Shutdown::default()),
        canonical(
            "gap-of-a-channel",
            "gap",
            &body::Gap { last: 9, cause: "absent".to_owned(), topic: None },
        ),
        canonical(
            "gap-of-a-topic",
            "gap",
            &body::Gap { last: 9, cause: "drop-oldest".to_owned(), topic: Some("a.b".to_owned()) },
        ),
        canonical("empty", "empty", &body::Empty {}),
        BodyCase {
            bytes: body::encode_fault(&Fault::new(Code::Timeout, "no answer within 30000 ms"))
                .to_vec(),
            ..canonical("error-short", "error", &body::Empty {})
        },
        BodyCase {
            bytes: body::encode_fault(
                &Fault::new(Code::NotFound, "no plugin `note`").with("suggestions", vec!["notes"]),
            )
            .to_vec(),
            ..canonical("error-with-details", "error", &body::Empty {})
        },
    ]
}

/// What other encoders may send.
fn spelled() -> Vec<BodyCase> {
    vec![
        other(
            "unknown-key",
            "Unknown keys are ignored.",
            "open",
            b"\x83\xa4kind\xa6method\xa6colour\xa4blue\xa4name\xa3a.b",
        ),
        other(
            "other-order",
            "The order of keys says nothing.",
            "open",
            b"\x82\xa4name\xa3a.b\xa4kind\xa6method",
        ),
        other(
            "long-strings",
            "str 8, str 16 and str 32 where shorter forms would do.",
            "open",
            b"\x82\xd9\x04kind\xda\x00\x06method\xdb\x00\x00\x00\x04name\xa3a.b",
        ),
        other("long-map", "map 16.", "unsubscribe", b"\xde\x00\x01\xacsubscription\x03"),
        other("map-32", "map 32.", "unsubscribe", b"\xdf\x00\x00\x00\x01\xacsubscription\x03"),
        other("uint-8", "", "unsubscribe", b"\x81\xacsubscription\xcc\x03"),
        other(
            "uint-64",
            "",
            "unsubscribe",
            b"\x81\xacsubscription\xcf\x00\x00\x00\x00\x00\x00\x00\x03",
        ),
        other(
            "int-32",
            "A signed form of a number that is not negative.",
            "unsubscribe",
            b"\x81\xacsubscription\xd2\x00\x00\x00\x03",
        ),
        other("array-16", "", "hello", b"\x81\xa8versions\xdc\x00\x01\x01"),
        other(
            "nil-for-optional",
            "As if the key were not there.",
            "hello",
            b"\x82\xa8versions\x91\x01\xa2id\xc0",
        ),
        other(
            "unknown-feature",
            "Kept by the decoder, ignored by the broker.",
            "hello",
            b"\x82\xa8versions\x91\x01\xa8features\x91\xa7quantum",
        ),
        other("defaults", "Only what must be there.", "subscribe", b"\x81\xa7pattern\xa1>"),
        other("register-nothing", "", "register", b"\x80"),
    ]
}

impl BodyCase {
    pub(crate) fn to_value(&self) -> Value {
        let mut vector = vec![("name", text(self.name))];
        if !self.why.is_empty() {
            vector.push(("why", text(self.why)));
        }
        vector.push(("of", text(self.of)));
        vector.push(("bytes", hex(&self.bytes)));
        vector.push(("value", Value::parse_msgpack(&self.bytes)));
        if !self.canonical {
            let again = recode(self.of, &self.bytes).expect("a good vector decodes");
            vector.push(("means", Value::parse_msgpack(&again)));
        }
        map_of(vector)
    }
}

/// Decodes a body and encodes it again: what is left is what was understood.
pub(crate) fn recode(of: &str, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    fn typed<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
        Ok(body::encode(&body::decode::<T>(bytes)?).to_vec())
    }
    match of {
        "hello" => typed::<body::Hello>(bytes),
        "welcome" => typed::<body::Welcome>(bytes),
        "register" => typed::<body::Register>(bytes),
        "unregister" => typed::<body::Unregister>(bytes),
        "open" => typed::<body::Open>(bytes),
        "opened" => typed::<body::Opened>(bytes),
        "announce" => typed::<body::Announce>(bytes),
        "closed" => typed::<body::Closed>(bytes),
        "subscribe" => typed::<body::Subscribe>(bytes),
        "subscribed" => typed::<body::Subscribed>(bytes),
        "unsubscribe" => typed::<body::Unsubscribe>(bytes),
        "query" => typed::<body::Query>(bytes),
        "signal" => typed::<body::Signal>(bytes),
        "report" => typed::<body::Report>(bytes),
        "shutdown" => typed::<body::Shutdown>(bytes),
        "gap" => typed::<body::Gap>(bytes),
        "empty" => typed::<body::Empty>(bytes),
        "error" => Ok(body::encode_fault(&body::decode_fault(bytes)?).to_vec()),
        of => panic!("no body is called `{of}`"),
    }
}

fn subscribe(overflow: Overflow) -> body::Subscribe {
    body::Subscribe {
        pattern: "order.>".to_owned(),
        overflow,
        queue_messages: None,
        queue_bytes: None,
    }
}

fn canonical<T: Serialize>(name: &'static str, of: &'static str, value: &T) -> BodyCase {
    BodyCase { name, why: "", of, bytes: body::encode(value).to_vec(), canonical: true }
}

fn other(name: &'static str, why: &'static str, of: &'static str, bytes: &[u8]) -> BodyCase {
    BodyCase { name, why, of, bytes: bytes.to_vec(), canonical: false }
}

fn map_of(entries: Vec<(&str, Value)>) -> Value {
    Value::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}
