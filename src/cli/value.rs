//! A payload that anybody may have made, shown as JSON.
//!
//! MessagePack has more than JSON: bytes become `{"base64": "…"}`, keys that are no strings are
//! written as JSON, and numbers that JSON lacks become strings.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Any value, as JSON.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shown(pub(crate) Value);

impl Shown {
    /// Text where it is text, else bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self(text.into()),
            Err(_) => Self(encoded(bytes)),
        }
    }

    /// For a person: text as it is, anything else as JSON over several lines.
    pub(crate) fn pretty(&self) -> String {
        match &self.0 {
            Value::String(text) => text.clone(),
            value => serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string()),
        }
    }

    /// For a person, on one line.
    pub(crate) fn compact(&self) -> String {
        match &self.0 {
            Value::String(text) if !text.contains(char::is_control) => text.clone(),
            value => value.to_string(),
        }
    }
}

impl<'de> Deserialize<'de> for Shown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShownVisitor).map(Self)
    }
}

struct ShownVisitor;

impl<'de> Visitor<'de> for ShownVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(encoded(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Shown(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some((Shown(key), Shown(value))) = map.next_entry()? {
            let key = match key {
                Value::String(key) => key,
                key => key.to_string(),
            };
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

fn encoded(bytes: &[u8]) -> Value {
    Value::Object(Map::from_iter([("base64".to_owned(), base64(bytes).into())]))
}

/// The standard alphabet, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0_u32, |word, &byte| word << 8 | u32::from(byte));
        let word = word << (8 * (3 - group.len()));
        for position in 0..4 {
            let index = (word >> (18 - 6 * position)) & 63;
            let filled = position <= group.len();
            text.push(if filled { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_json_lacks_is_shown() {
        let cases: &[(&[u8], Value)] = &[
            (&[0xc0], json!(null)),
            (&[0xc4, 3, 1, 2, 3], json!({"base64": "AQID"})),
            (&[0x81, 0x07, 0xa1, b'x'], json!({"7": "x"})),
            (&[0x92, 0xff, 0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0], json!([-1, "NaN"])),
        ];
        for (bytes, expected) in cases {
            let Shown(value) = rmp_serde::from_slice(bytes).unwrap();
            assert_eq!(value, *expected, "{bytes:x?}");
        }
    }

    #[test]
    fn base64_is_padded() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (bytes, expected) in cases {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
    }
}
