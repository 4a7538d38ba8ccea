//! Bodies of control frames: MessagePack maps with string keys.
//!
//! Unknown keys are ignored, so that old and new understand each other. Names are plain strings
//! here; whoever acts on a body parses them into the types of [`crate::id`].

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Code, ErrorBody, Fault};
use crate::limit;

/// First bytes of a hello's payload, before its map.
pub const HELLO_MAGIC: &[u8; 8] = b"PLUGBUS\n";

/// Encodes a body.
///
/// # Panics
///
/// Never for the types of this module: writing to memory does not fail.
#[must_use]
pub fn encode<T: Serialize>(body: &T) -> Bytes {
    let mut output = BytesMut::new().writer();
    let mut serializer = rmp_serde::Serializer::new(&mut output).with_struct_map();
    body.serialize(&mut serializer).expect("writing to memory does not fail");
    output.into_inner().freeze()
}

/// Decodes a body within the limits of size and nesting.
///
/// # Errors
///
/// 11007, saying what is wrong.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    if bytes.len() > limit::CONTROL_BODY_MAX {
        return Err(Fault::new(
            Code::Malformed,
            format!(
                "control body of {} bytes is over the limit of {}",
                bytes.len(),
                limit::CONTROL_BODY_MAX
            ),
        ));
    }
    let mut deserializer = rmp_serde::Deserializer::new(bytes);
    deserializer.set_max_depth(limit::NESTING_MAX);
    let body = T::deserialize(&mut deserializer)
        .map_err(|error| Fault::new(Code::Malformed, format!("control body: {error}")))?;
    match deserializer.get_ref().len() {
        0 => Ok(body),
        rest => {
            Err(Fault::new(Code::Malformed, format!("control body: {rest} bytes follow the map")))
        }
    }
}

/// Encodes a fault as the body of an `error` frame.
#[must_use]
pub fn encode_fault(fault: &Fault) -> Bytes {
    encode(&ErrorBody::from(fault))
}

/// Decodes the body of an `error` frame.
///
/// # Errors
///
/// 11007 when it is none.
pub fn decode_fault(bytes: &[u8]) -> Result<Fault, Fault> {
    decode::<ErrorBody>(bytes).map(Fault::from)
}

/// The payload of a hello: magic and map.
#[must_use]
pub fn encode_hello(hello: &Hello) -> Bytes {
    let mut payload = BytesMut::from(&HELLO_MAGIC[..]);
    payload.extend_from_slice(&encode(hello));
    payload.freeze()
}

/// Reads the payload of a hello.
///
/// # Errors
///
/// 11007 without the magic or a map.
pub fn decode_hello(payload: &[u8]) -> Result<Hello, Fault> {
    let Some(map) = payload.strip_prefix(&HELLO_MAGIC[..]) else {
        return Err(Fault::new(Code::Malformed, "hello does not begin with its magic"));
    };
    decode(map)
}

macro_rules! bodies {
    ($($(#[$doc:meta])* $name:ident { $($(#[$meta:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
            pub struct $name {
                $(
                    #[expect(missing_docs, reason = "docs/protocol/spec.md §5 describes the keys")]
                    $(#[$meta])*
                    pub $field: $type,
                )*
            }
        )*
    };
}

bodies! {
    /// Peer to broker: who I am.
    Hello {
        versions: Vec<u32>,
        #[serde(default)]
        features: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        #[serde(default)]
        role: Role,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sdk: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
    }

    /// Broker to peer: you are in.
    Welcome {
        version: u32,
        features: Vec<String>,
        session: u64,
        id: String,
        incarnation: u64,
        broker: String,
        heartbeat_ms: u64,
        limits: Limits,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
    }

    /// What a session may do, as the welcome says it.
    Limits {
        payload_max: u32,
        message_max: u64,
        requests_max: u32,
        request_bytes_max: u64,
        routes_max: u32,
        subscriptions_max: u32,
        // Without it the broker's is 30 s.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call_timeout_ms: Option<u64>,
    }

    /// Peer to broker: what I serve.
    Register {
        #[serde(default)]
        methods: Vec<Method>,
        #[serde(default)]
        channels: Vec<Channel>,
        #[serde(default)]
        services: Vec<String>,
    }

    /// One method as its plugin describes it.
    Method {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        help: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        params: Option<serde_json::Value>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<serde_json::Value>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        idempotent: bool,
    }

    /// One channel as its plugin describes it.
    Channel {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        help: Option<String>,
    }

    /// Peer to broker: what I no longer serve.
    Unregister {
        #[serde(default)]
        methods: Vec<String>,
        #[serde(default)]
        channels: Vec<String>,
        #[serde(default)]
        services: Vec<String>,
    }

    /// Peer to broker: give me a route to this.
    Open {
        kind: RouteKind,
        name: String,
    }

    /// Broker to peer: here it is.
    Opened {
        route: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        window_messages: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        window_bytes: Option<u64>,
    }

    /// Broker to receiver: what a route means.
    Announce {
        route: u32,
        kind: RouteKind,
        name: String,
        from: String,
        session: u64,
        incarnation: u64,
    }

    /// Broker to peer: no frame on this route any more.
    Closed {
        reason: String,
    }

    /// Peer to broker: events that I want.
    Subscribe {
        pattern: String,
        #[serde(default)]
        overflow: Overflow,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        queue_messages: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        queue_bytes: Option<u64>,
    }

    /// Broker to peer: noted.
    Subscribed {
        subscription: u32,
    }

    /// Peer to broker: no more of them.
    Unsubscribe {
        subscription: u32,
    }

    /// Peer to broker: tell me.
    Query {
        what: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    }

    /// Both ways: a small notice.
    Signal {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<serde_json::Value>,
    }

    /// Peer to broker: my figures.
    Report {
        metrics: serde_json::Map<String, serde_json::Value>,
    }

    /// Both ways: the session is about to end.
    Shutdown {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drain_ms: Option<u64>,
    }

    /// Broker to peer: ids from the header's message id to `last` will not come, or have been
    /// given up.
    Gap {
        last: u64,
        cause: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        topic: Option<String>,
    }

    /// An answer without content.
    Empty {}
}

/// What a peer wants to be.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// Serves something; has a state and is told of broadcasts.
    Plugin,
    /// Only asks.
    #[default]
    Client,
}

/// What a route leads to.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RouteKind {
    /// `plugin.method` or `service.method`.
    #[default]
    Method,
    /// `plugin/channel`.
    Channel,
    /// A topic.
    Topic,
    /// A topic for everybody.
    Broadcast,
}

/// What happens to events that a subscriber does not take fast enough.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Overflow {
    /// The oldest queued event goes.
    #[default]
    DropOldest,
    /// The new event goes.
    DropNewest,
    /// An older event with the same key goes, else the oldest.
    Conflate,
    /// Nothing goes; the publisher waits.
    Block,
}

/// Payload of `credit`: the new window.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Credit {
    /// Unsettled messages allowed.
    pub messages: u64,
    /// Unsettled payload bytes below which a message may start.
    pub bytes: u64,
}

impl Credit {
    /// The bytes on the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.messages.to_le_bytes());
        bytes[8..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    /// Reads it.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let (messages, rest) = body.split_first_chunk::<8>()?;
        let bytes = rest.first_chunk::<8>()?;
        Some(Self { messages: u64::from_le_bytes(*messages), bytes: u64::from_le_bytes(*bytes) })
    }
}

/// Payload of `redelivery`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Redelivery {
    /// Last id that comes again.
    pub last: u64,
    /// The how manieth time this is; 2 for the first repetition.
    pub attempt: u32,
}

impl Redelivery {
    /// The bytes on the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.last.to_le_bytes());
        bytes[8..].copy_from_slice(&self.attempt.to_le_bytes());
        bytes
    }

    /// Reads it.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let (last, rest) = body.split_first_chunk::<8>()?;
        let attempt = rest.first_chunk::<4>()?;
        Some(Self { last: u64::from_le_bytes(*last), attempt: u32::from_le_bytes(*attempt) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_ignored_and_missing_ones_named() {
        let body: Open = decode(&encode(&serde_json::json!({
            "kind": "method", "name": "a.b", "colour": "blue"
        })))
        .unwrap();
        assert_eq!(body, Open { kind: RouteKind::Method, name: "a.b".to_owned() });

        let fault = decode::<Open>(&encode(&serde_json::json!({"kind": "method"}))).unwrap_err();
        assert_eq!(fault.code, Code::Malformed);
        assert!(fault.message.contains("name"), "{fault}");
    }

    #[test]
    fn deep_or_enormous_bodies_are_refused() {
        let deep = vec![0x91; 100_000];
        assert!(decode::<serde_json::Value>(&deep).is_err());
        let enormous_array = [0xdd, 0xff, 0xff, 0xff, 0xff];
        assert!(decode::<serde_json::Value>(&enormous_array).is_err());
        let enormous_string = [0xdb, 0xff, 0xff, 0xff, 0xff, b'a'];
        assert!(decode::<serde_json::Value>(&enormous_string).is_err());
        assert!(decode::<serde_json::Value>(&[0xa2, 0xff, 0xfe]).is_err(), "invalid UTF-8");
        assert!(decode::<serde_json::Value>(&[0x01, 0x02]).is_err(), "trailing bytes");
    }

    #[test]
    fn faults_travel_whole() {
        let fault =
            Fault::new(Code::NotFound, "no plugin `helo`").with("suggestions", vec!["hello"]);
        assert_eq!(decode_fault(&encode_fault(&fault)), Ok(fault));
    }
}
