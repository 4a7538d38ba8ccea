//! Arguments as people type them, made into what a method takes.
//!
//! `key=value` pairs are converted by the method's JSON Schema; a word that begins with `{` is the
//! whole map as JSON. Whether the result fits is for the receiver to say: it has the last word, and
//! names the field.

use serde_json::{Map, Value};
use thiserror::Error;

use crate::host::suggest::did_you_mean;

/// What cannot be converted.
#[derive(Debug, Eq, Error, PartialEq)]
pub(crate) enum ArgumentError {
    #[error("{0:?} is neither key=value nor a JSON object")]
    NotAPair(String),
    #[error("the arguments are not a JSON object: {0}")]
    NotJson(String),
    #[error("there is no argument `{name}`{hint}")]
    Unknown { name: String, hint: String },
    #[error("argument `{name}` must be {expected}, not {value:?}")]
    Mismatch { name: String, expected: String, value: String },
    #[error("argument `{0}` is given twice")]
    Twice(String),
}

/// Converts `words` by `schema`, the `params` of a method. Without one, a value that reads as JSON
/// is JSON and any other is a string.
pub(crate) fn convert(
    words: &[String],
    schema: Option<&Value>,
) -> Result<Map<String, Value>, ArgumentError> {
    if let [word] = words
        && word.trim_start().starts_with('{')
    {
        return serde_json::from_str(word)
            .map_err(|error| ArgumentError::NotJson(error.to_string()));
    }
    let schema = schema.map(Schema::root);
    let mut map = Map::new();
    for word in words {
        let Some((name, text)) = word.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(ArgumentError::NotAPair(word.clone()));
        };
        let expected = match schema {
            Some(schema) => schema.property(name)?,
            None => None,
        };
        insert(&mut map, name, text, expected)?;
    }
    Ok(map)
}

/// A list may be given an element at a time; anything else once.
fn insert(
    map: &mut Map<String, Value>,
    name: &str,
    text: &str,
    expected: Option<Schema<'_>>,
) -> Result<(), ArgumentError> {
    let mismatch = |schema: &Schema<'_>| ArgumentError::Mismatch {
        name: name.to_owned(),
        expected: with_article(&schema.type_name()),
        value: text.to_owned(),
    };
    let Some(schema) = expected else {
        return match map.insert(name.to_owned(), loose(text)) {
            None => Ok(()),
            Some(_) => Err(ArgumentError::Twice(name.to_owned())),
        };
    };
    if let Some(items) = schema.items().filter(|_| !text.trim_start().starts_with('[')) {
        let item = match items {
            Some(items) => items.value(text).ok_or_else(|| mismatch(&schema))?,
            None => loose(text),
        };
        match map.entry(name).or_insert_with(|| Value::Array(Vec::new())) {
            Value::Array(list) => list.push(item),
            _ => return Err(ArgumentError::Twice(name.to_owned())),
        }
        return Ok(());
    }
    let value = schema.value(text).ok_or_else(|| mismatch(&schema))?;
    match map.insert(name.to_owned(), value) {
        None => Ok(()),
        Some(_) => Err(ArgumentError::Twice(name.to_owned())),
    }
}

fn loose(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

fn with_article(name: &str) -> String {
    match name.chars().next() {
        _ if name.starts_with("one of") => name.to_owned(),
        Some('a' | 'e' | 'i' | 'o' | 'u') => format!("an {name}"),
        _ => format!("a {name}"),
    }
}

/// A part of a JSON Schema, with the whole for its references.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schema<'a> {
    root: &'a Value,
    part: &'a Value,
}

impl<'a> Schema<'a> {
    pub(crate) fn root(root: &'a Value) -> Self {
        Self { root, part: root }.resolve()
    }

    /// The schema of one argument; `None` where the method takes any.
    fn property(self, name: &str) -> Result<Option<Self>, ArgumentError> {
        let properties = self.part.get("properties").and_then(Value::as_object);
        if let Some(part) = properties.and_then(|it| it.get(name)) {
            return Ok(Some(self.at(part)));
        }
        match self.part.get("additionalProperties") {
            Some(Value::Bool(false)) => {
                let known: Vec<_> =
                    properties.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                let hint = match did_you_mean(name, known.iter().copied()) {
                    hint if !hint.is_empty() => hint,
                    _ if known.is_empty() => "; it takes none".to_owned(),
                    _ => format!("; it takes {}", known.join(", ")),
                };
                Err(ArgumentError::Unknown { name: name.to_owned(), hint })
            }
            Some(part @ Value::Object(_)) => Ok(Some(self.at(part))),
            _ => Ok(None),
        }
    }

    /// Its properties, in the order of the schema, and whether each is required.
    pub(crate) fn properties(self) -> Vec<(&'a str, Self, bool)> {
        let required = self.part.get("required").and_then(Value::as_array);
        let is_required =
            |name: &str| required.is_some_and(|list| list.iter().any(|it| it == name));
        let properties = self.part.get("properties").and_then(Value::as_object);
        let mut properties: Vec<_> = properties
            .into_iter()
            .flatten()
            .map(|(name, part)| (name.as_str(), self.at(part), is_required(name)))
            .collect();
        // A JSON object has no order; the list of what is required often has the author's.
        let position = |name: &str| {
            required.and_then(|list| list.iter().position(|it| it == name)).unwrap_or(usize::MAX)
        };
        properties.sort_by_key(|(name, _, _)| position(name));
        properties
    }

    /// What an argument is when it is not given.
    pub(crate) fn default_value(self) -> Option<&'a Value> {
        self.part.get("default")
    }

    /// What its author says about it.
    pub(crate) fn description(self) -> Option<&'a str> {
        self.part.get("description").and_then(Value::as_str)
    }

    /// For a person: `integer`, `list of string`, `string or null`.
    pub(crate) fn type_name(self) -> String {
        if let Some(values) = self.part.get("enum").and_then(Value::as_array) {
            let values: Vec<_> = values.iter().map(Value::to_string).collect();
            return format!("one of {}", values.join(", "));
        }
        let alternatives = self.alternatives();
        if !alternatives.is_empty() {
            let names: Vec<_> = alternatives.into_iter().map(Self::type_name).collect();
            return names.join(" or ");
        }
        let names: Vec<_> = self.types().into_iter().map(|name| self.named(name)).collect();
        if names.is_empty() { "any".to_owned() } else { names.join(" or ") }
    }

    fn named(self, name: &str) -> String {
        match (name, self.items()) {
            ("array", Some(Some(items))) => format!("list of {}", items.type_name()),
            ("array", _) => "list".to_owned(),
            (name, _) => name.to_owned(),
        }
    }

    /// The value that `text` stands for, if it can stand for one of this type. A string is the last
    /// resort, so that `7` is a number where both are allowed.
    fn value(self, text: &str) -> Option<Value> {
        if let Some(values) = self.part.get("enum").and_then(Value::as_array) {
            let parsed = loose(text);
            return values
                .iter()
                .find(|value| **value == parsed || value.as_str() == Some(text))
                .cloned();
        }
        let alternatives = self.alternatives();
        if !alternatives.is_empty() {
            let (strings, others): (Vec<_>, Vec<_>) =
                alternatives.into_iter().partition(|it| it.types() == ["string"]);
            return others.into_iter().chain(strings).find_map(|it| it.value(text));
        }
        let types = self.types();
        if types.is_empty() {
            return Some(loose(text));
        }
        let parsed: Option<Value> = serde_json::from_str(text).ok();
        let fits = |value: &Value| types.iter().any(|name| has_type(value, name));
        match parsed.filter(|value| !value.is_string() && fits(value)) {
            Some(value) => Some(value),
            None => types.contains(&"string").then(|| Value::String(text.to_owned())),
        }
    }

    fn alternatives(self) -> Vec<Self> {
        let list = self.part.get("anyOf").or_else(|| self.part.get("oneOf"));
        let list = list.and_then(Value::as_array);
        list.into_iter().flatten().map(|part| self.at(part)).collect()
    }

    fn types(self) -> Vec<&'a str> {
        match self.part.get("type") {
            Some(Value::String(name)) => vec![name],
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// `None` for what is no list, `Some(None)` for a list of anything.
    fn items(self) -> Option<Option<Self>> {
        let list = std::iter::once(self).chain(self.alternatives());
        let list = list.into_iter().find(|it| it.types().contains(&"array"))?;
        Some(list.part.get("items").map(|part| self.at(part)))
    }

    fn at(self, part: &'a Value) -> Self {
        Self { root: self.root, part }.resolve()
    }

    /// Follows local references, a few levels deep: a schema comes from a peer and may go round.
    fn resolve(mut self) -> Self {
        for _ in 0..Self::REFERENCES_MAX {
            let reference = self.part.get("$ref").and_then(Value::as_str);
            let target = reference
                .and_then(|reference| reference.strip_prefix('#'))
                .and_then(|pointer| self.root.pointer(pointer));
            match target {
                Some(part) => self.part = part,
                None => break,
            }
        }
        self
    }

    const REFERENCES_MAX: usize = 8;
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Each case: words, what they become or the message.
    #[test]
    fn words_become_what_the_schema_says() {
        let schema = json!({
            "properties": {
                "name": {"type": "string"},
                "width": {"type": "integer"},
                "ratio": {"type": "number"},
                "fast": {"type": "boolean"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "sizes": {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]},
                "limit": {"type": ["integer", "null"]},
                "id": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
                "mode": {"$ref": "#/$defs/Mode"},
                "any": {},
                "map": {"type": "object"},
            },
            "additionalProperties": false,
            "$defs": {"Mode": {"enum": ["fit", "fill", 3]}},
        });
        let cases: &[(&[&str], Result<Value, &str>)] = &[
            (&[], Ok(json!({}))),
            (&["name=42", "width=42"], Ok(json!({"name": "42", "width": 42}))),
            (&["name=a=b"], Ok(json!({"name": "a=b"}))),
            (&["name="], Ok(json!({"name": ""}))),
            (&["ratio=1", "fast=true"], Ok(json!({"ratio": 1, "fast": true}))),
            (&["tags=a", "tags=7"], Ok(json!({"tags": ["a", "7"]}))),
            (&["tags=[\"a\",\"b\"]"], Ok(json!({"tags": ["a", "b"]}))),
            (&["sizes=1", "sizes=2"], Ok(json!({"sizes": [1, 2]}))),
            (&["limit=null"], Ok(json!({"limit": null}))),
            (&["id=7"], Ok(json!({"id": 7}))),
            (&["id=x7"], Ok(json!({"id": "x7"}))),
            (&["mode=fill"], Ok(json!({"mode": "fill"}))),
            (&["any=[1]"], Ok(json!({"any": [1]}))),
            (&["any=hello there"], Ok(json!({"any": "hello there"}))),
            (&["map={\"a\":1}"], Ok(json!({"map": {"a": 1}}))),
            (&["{\"name\": \"x\", \"other\": 1}"], Ok(json!({"name": "x", "other": 1}))),
            (&["{\"name\": "], Err("not a JSON object")),
            (&["width=wide"], Err("argument `width` must be an integer, not \"wide\"")),
            (&["width=1.5"], Err("must be an integer")),
            (&["fast=yes"], Err("must be a boolean")),
            (&["sizes=x"], Err("must be a list of integer or null")),
            (&["mode=stretch"], Err("must be one of \"fit\", \"fill\", 3, not \"stretch\"")),
            (&["nam=x"], Err("no argument `nam`; did you mean `name`?")),
            (&["colour=x"], Err("; it takes ")),
            (&["hello"], Err("\"hello\" is neither key=value nor a JSON object")),
            (&["=x"], Err("neither")),
            (&["name=a", "name=b"], Err("given twice")),
        ];
        for (words, expected) in cases {
            check(words, Some(&schema), expected);
        }
    }

    #[test]
    fn without_a_schema_json_is_json_and_the_rest_is_text() {
        check(&["a=1", "b=x", "c=\"1\""], None, &Ok(json!({"a": 1, "b": "x", "c": "1"})));
        let open = json!({"type": "object"});
        check(&["a=1", "b=x"], Some(&open), &Ok(json!({"a": 1, "b": "x"})));
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let schema = json!({"properties": {"a": {"$ref": "#/properties/a"}}});
        check(&["a=1"], Some(&schema), &Ok(json!({"a": 1})));
    }

    #[track_caller]
    fn check(words: &[&str], schema: Option<&Value>, expected: &Result<Value, &str>) {
        let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
        match (convert(&words, schema), expected) {
            (Ok(map), Ok(expected)) => assert_eq!(Value::Object(map), *expected, "{words:?}"),
            (Err(error), Err(wanted)) => {
                assert!(error.to_string().contains(wanted), "{words:?}: {error}");
            }
            (result, expected) => panic!("{words:?}: {result:?} instead of {expected:?}"),
        }
    }
}
