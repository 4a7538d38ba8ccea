//! Values ↔ payloads: MessagePack, with JSON accepted too.
//!
//! Types are encoded as people read them (an address as text, a struct as a map), so that every
//! language and the JSON Schema of a method agree on them.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use crate::limit;
use crate::peer::Payload;
use crate::wire::ContentType;

/// Encodes a value.
pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let mut output = Vec::new();
    let mut serializer =
        rmp_serde::Serializer::new(&mut output).with_struct_map().with_human_readable();
    value
        .serialize(&mut serializer)
        .map_err(|error| Error::handler("encoding", format!("cannot be encoded: {error}")))?;
    Ok(output)
}

/// Decodes a value that is not a method's arguments.
pub(super) fn decode<T: DeserializeOwned>(payload: &Payload) -> Result<T> {
    try_decode(payload).map_err(|(path, message)| {
        let place = if path.is_empty() { String::new() } else { format!(" at `{path}`") };
        Error::handler("decoding", format!("the value does not fit{place}: {message}"))
    })
}

/// Decodes a method's arguments; what does not fit is named. `known` are the names of all
/// arguments, empty where anything goes.
pub(super) fn decode_arguments<T: DeserializeOwned>(
    payload: &Payload,
    known: &[String],
) -> Result<T> {
    if !known.is_empty() {
        refuse_unknown(payload, known)?;
    }
    try_decode(payload).map_err(|(path, message)| {
        let field = match (path.as_str(), quoted(&message)) {
            // Serde names these in its message and the struct around them as the place.
            ("" | ".", Some(name)) if message.starts_with("missing field") => name.to_owned(),
            (outer, Some(name)) if message.starts_with("missing field") => {
                format!("{outer}.{name}")
            }
            ("" | ".", _) => String::new(),
            (path, _) => path.to_owned(),
        };
        Error::InvalidArgument { field, message }
    })
}

fn refuse_unknown(payload: &Payload, known: &[String]) -> Result<()> {
    type Keys = std::collections::BTreeMap<String, IgnoredAny>;
    let Ok(keys) = try_decode::<Keys>(payload) else {
        return Ok(()); // Not a map: decoding says so better.
    };
    let Some(key) = keys.keys().find(|key| !known.contains(key)) else { return Ok(()) };
    let closest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(name, key), name))
        .min()
        .filter(|(distance, name)| *distance <= name.len().div_ceil(3).max(1));
    let hint = match closest {
        Some((_, name)) => format!("did you mean `{name}`?"),
        None => format!("there are {}", known.join(", ")),
    };
    let message = format!("no argument `{key}`; {hint}");
    Err(Error::InvalidArgument { field: key.clone(), message })
}

/// On failure gives the place and what is wrong there.
fn try_decode<T: DeserializeOwned>(payload: &Payload) -> Result<T, (String, String)> {
    let body = &payload.body[..];
    match payload.content {
        ContentType::Json => {
            let mut deserializer = serde_json::Deserializer::from_slice(body);
            serde_path_to_error::deserialize(&mut deserializer)
                .map_err(|error| (error.path().to_string(), error.inner().to_string()))
        }
        ContentType::MessagePack | ContentType::Raw => {
            // No arguments are an empty map, which is what `()` is here.
            let body =
                if is_unit::<T>() && matches!(body, [] | [EMPTY_MAP]) { &[NIL] } else { body };
            let mut deserializer = rmp_serde::Deserializer::new(body).with_human_readable();
            deserializer.set_max_depth(DEPTH_MAX);
            serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
                let told = (error.path().to_string(), error.inner().to_string());
                explain::<T>(body).unwrap_or(told)
            })
        }
        content => Err((String::new(), format!("expected MessagePack or JSON, not {content:?}"))),
    }
}

/// The same failure in words: the MessagePack decoder names markers, the JSON one types and values.
#[cold]
fn explain<T: DeserializeOwned>(body: &[u8]) -> Option<(String, String)> {
    let mut deserializer = rmp_serde::Deserializer::new(body);
    deserializer.set_max_depth(DEPTH_MAX);
    let value = serde_json::Value::deserialize(&mut deserializer).ok()?;
    let error = serde_path_to_error::deserialize::<_, T>(value).err()?;
    Some((error.path().to_string(), error.inner().to_string()))
}

fn is_unit<T>() -> bool {
    size_of::<T>() == 0
}

fn quoted(message: &str) -> Option<&str> {
    message.split('`').nth(1)
}

const EMPTY_MAP: u8 = 0x80;
const NIL: u8 = 0xC0;

/// Levels of nesting in a payload: more than control bodies have, little enough for any stack.
const DEPTH_MAX: usize = limit::NESTING_MAX * 4;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Resize {
        width: u32,
        #[serde(default)]
        frame: Option<Frame>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Frame {
        colour: String,
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (arguments, field, hint) in [
            (json!({"width": "wide"}), "width", "u32"),
            (json!({}), "width", "missing"),
            (json!({"widht": 3}), "widht", "did you mean `width`?"),
            (json!({"width": 3, "zzz": 3}), "zzz", "there are width, frame"),
            (json!({"width": 3, "frame": {"colour": 7}}), "frame.colour", "string"),
            (json!({"width": 3, "frame": {}}), "frame.colour", "missing"),
        ] {
            for payload in both(&arguments) {
                let known = ["width".to_owned(), "frame".to_owned()];
                let error = decode_arguments::<Resize>(&payload, &known[..]).map(|_| ());
                let Err(Error::InvalidArgument { field: named, message }) = error else {
                    panic!("{arguments} was taken: {error:?}")
                };
                assert_eq!(named, field, "{arguments}: {message}");
                assert!(message.contains(hint), "{message}");
            }
        }
    }

    #[test]
    fn no_arguments_fit_nothing() {
        for payload in [
            Payload::default(),
            Payload::message_pack(vec![EMPTY_MAP].into()),
            Payload::message_pack(vec![NIL].into()),
        ] {
            assert_eq!(decode_arguments::<()>(&payload, &[]), Ok(()));
        }
    }

    #[test]
    fn values_read_the_same_in_every_language() {
        let address: std::net::IpAddr = "127.0.0.1".parse().unwrap();
        let payload = Payload::message_pack(encode(&address).unwrap().into());
        assert_eq!(decode::<String>(&payload).unwrap(), "127.0.0.1");
        assert_eq!(decode::<std::net::IpAddr>(&payload).unwrap(), address);
    }

    #[test]
    fn deep_payloads_are_refused() {
        let payload = Payload::message_pack(vec![0x91; 100_000].into());
        assert!(decode::<serde_json::Value>(&payload).is_err());
    }

    fn both(value: &serde_json::Value) -> [Payload; 2] {
        let json = serde_json::to_vec(value).unwrap();
        [
            Payload::message_pack(encode(value).unwrap().into()),
            Payload { content: ContentType::Json, body: json.into() },
        ]
    }
}
