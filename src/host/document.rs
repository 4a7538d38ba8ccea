//! Documents that people write: TOML and JSON as trees whose every part knows its place.
//!
//! Readers of a manifest or a configuration walk such a tree and say of whatever they cannot use
//! where it stands and what would be right. Nothing here knows what the keys mean.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::suggest::did_you_mean;
use crate::limit;

/// A key of a table, and what it stands for.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    key_at: usize,
    node: Node,
}

/// A value, and where it begins.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    at: usize,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// A TOML date, which nothing here has a use for.
    Date(String),
    Null,
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// What is wrong, and where in the text.
#[derive(Debug)]
pub(crate) struct Problem {
    at: usize,
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }

    /// The number of its line in `text`, from 1.
    pub(crate) fn line(&self, text: &str) -> usize {
        text.as_bytes()[..self.at.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
    }
}

/// The entries of a TOML document, in the order of the text.
pub(crate) fn parse_toml(text: &str) -> Result<Vec<Entry>, Problem> {
    let document = DeTable::parse(text).map_err(|error| {
        Problem::new(error.span().unwrap_or_default().start, error.message().to_owned())
    })?;
    Ok(toml_entries(document.get_ref()))
}

/// The entries of a JSON object, in the order of the text.
pub(crate) fn parse_json(text: &str) -> Result<Vec<Entry>, Problem> {
    let raw: &RawValue =
        serde_json::from_str(text).map_err(|error| json_problem(text, 0, &error))?;
    let node = json_node(raw, text, 0)?;
    match node.value {
        Value::Table(entries) => Ok(entries),
        _ => Err(Problem::new(node.at, "this must be an object: {\"key\": …}")),
    }
}

impl Entry {
    /// A table's entries.
    pub(crate) fn table(&self) -> Result<&[Self], Problem> {
        match &self.node.value {
            Value::Table(entries) => Ok(entries),
            _ => Err(self.mismatch("a table")),
        }
    }

    /// The entries if it is a table.
    pub(crate) fn as_table(&self) -> Option<&[Self]> {
        match &self.node.value {
            Value::Table(entries) => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn string(&self) -> Result<&str, Problem> {
        self.node.text().map_err(|fault| self.fault(fault, "a string"))
    }

    pub(crate) fn as_string(&self) -> Option<&str> {
        self.node.text().ok()
    }

    pub(crate) fn boolean(&self) -> Result<bool, Problem> {
        self.as_boolean().ok_or_else(|| self.mismatch("true or false"))
    }

    pub(crate) fn as_boolean(&self) -> Option<bool> {
        match self.node.value {
            Value::Boolean(value) => Some(value),
            _ => None,
        }
    }

    /// A whole number above 0.
    pub(crate) fn positive(&self) -> Result<u64, Problem> {
        self.number()
            .ok()
            .filter(|&number| number > 0)
            .ok_or_else(|| self.mismatch("a whole number above 0"))
    }

    /// A whole number, 0 or more.
    pub(crate) fn number(&self) -> Result<u64, Problem> {
        self.as_integer()
            .and_then(|number| u64::try_from(number).ok())
            .ok_or_else(|| self.mismatch("a whole number"))
    }

    pub(crate) fn as_integer(&self) -> Option<i64> {
        match self.node.value {
            Value::Integer(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn list(&self) -> Option<&[Node]> {
        match &self.node.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// A list of strings; `example` shows one.
    pub(crate) fn strings(&self, example: &str) -> Result<Vec<&str>, Problem> {
        let expected = || format!("a list of strings: {example}");
        let items = self.list().ok_or_else(|| self.mismatch(&expected()))?;
        items
            .iter()
            .map(|item| {
                item.text().map_err(|fault| match fault {
                    TextFault::NotText => item.wrong(format!("`{}` is {}", self.key, expected())),
                    TextFault::Zero => item.wrong(ZERO_BYTE),
                })
            })
            .collect()
    }

    /// The value as JSON, whatever it is.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        self.node.to_json()
    }

    pub(crate) fn mismatch(&self, expected: &str) -> Problem {
        self.wrong(format!("`{}` must be {expected}", self.key))
    }

    /// Something is wrong with the value.
    pub(crate) fn wrong(&self, message: impl Into<String>) -> Problem {
        self.node.wrong(message)
    }

    /// Something is wrong with the key, or with the whole.
    pub(crate) fn wrong_key(&self, message: impl Into<String>) -> Problem {
        Problem::new(self.key_at, message)
    }

    /// Nobody knows the key.
    pub(crate) fn unknown(&self, place: &str, known: &[&str]) -> Problem {
        let hint = did_you_mean(&self.key, known.iter().copied());
        let hint = if hint.is_empty() { format!("; it has {}", known.join(", ")) } else { hint };
        self.wrong_key(format!("unknown key `{}` in {place}{hint}", self.key))
    }

    fn fault(&self, fault: TextFault, expected: &str) -> Problem {
        match fault {
            TextFault::NotText => self.mismatch(expected),
            TextFault::Zero => self.wrong(ZERO_BYTE),
        }
    }
}

impl Node {
    pub(crate) fn wrong(&self, message: impl Into<String>) -> Problem {
        Problem::new(self.at, message)
    }

    pub(crate) fn as_table(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Table(entries) => Some(entries),
            _ => None,
        }
    }

    /// No text that is handed to the system may contain a zero byte, so none may here.
    fn text(&self) -> Result<&str, TextFault> {
        match &self.value {
            Value::String(text) if text.contains('\0') => Err(TextFault::Zero),
            Value::String(text) => Ok(text),
            _ => Err(TextFault::NotText),
        }
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::String(text) | Value::Date(text) => text.as_str().into(),
            Value::Integer(number) => (*number).into(),
            Value::Float(number) => (*number).into(),
            Value::Boolean(value) => (*value).into(),
            Value::Null => serde_json::Value::Null,
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Table(entries) => entries_to_json(entries).into(),
        }
    }
}

/// A table as JSON.
pub(crate) fn entries_to_json(entries: &[Entry]) -> serde_json::Map<String, serde_json::Value> {
    entries.iter().map(|entry| (entry.key.clone(), entry.to_json())).collect()
}

enum TextFault {
    NotText,
    Zero,
}

const ZERO_BYTE: &str = "a zero byte cannot be in here";

fn toml_entries(table: &DeTable<'_>) -> Vec<Entry> {
    let mut entries: Vec<_> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().clone().into_owned(),
            key_at: key.span().start,
            node: toml_node(value),
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_at);
    entries
}

fn toml_node(value: &Spanned<DeValue<'_>>) -> Node {
    let Range { start: at, .. } = value.span();
    let value = match value.get_ref() {
        DeValue::String(text) => Value::String(text.clone().into_owned()),
        // What does not fit is no number that anything here could use.
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Value::Date(number.to_string()), Value::Integer),
        DeValue::Float(number) => {
            number.as_str().parse().map_or_else(|_| Value::Date(number.to_string()), Value::Float)
        }
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(items) => Value::List(items.iter().map(toml_node).collect()),
        DeValue::Table(table) => Value::Table(toml_entries(table)),
    };
    Node { at, value }
}

fn json_node(raw: &RawValue, text: &str, depth: usize) -> Result<Node, Problem> {
    let slice = raw.get();
    // A raw value is borrowed from the text, so the distance is its place there.
    let at = slice.as_ptr().addr() - text.as_ptr().addr();
    if depth > limit::NESTING_MAX {
        let message = format!("more than {} levels of nesting", limit::NESTING_MAX);
        return Err(Problem::new(at, message));
    }
    let wrong = |error: serde_json::Error| json_problem(text, at, &error);
    let value = match slice.as_bytes().first() {
        Some(b'{') => {
            let Pairs(pairs) = serde_json::from_str(slice).map_err(wrong)?;
            let entries = pairs.into_iter().map(|(key, raw)| {
                let node = json_node(raw, text, depth + 1)?;
                Ok(Entry { key, key_at: node.at, node })
            });
            Value::Table(entries.collect::<Result<_, _>>()?)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(slice).map_err(wrong)?;
            let items = items.into_iter().map(|raw| json_node(raw, text, depth + 1));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        Some(b'"') => Value::String(serde_json::from_str(slice).map_err(wrong)?),
        Some(b't' | b'f') => Value::Boolean(slice == "true"),
        Some(b'n') => Value::Null,
        _ => match slice.parse() {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Float(serde_json::from_str(slice).map_err(wrong)?),
        },
    };
    Ok(Node { at, value })
}

/// The reader counts lines from the beginning of what it reads, which is at `start`.
fn json_problem(text: &str, start: usize, error: &serde_json::Error) -> Problem {
    let lines = text[start..].split_inclusive('\n').take(error.line().saturating_sub(1));
    let at = start + lines.map(str::len).sum::<usize>();
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    Problem::new(at, message)
}

/// An object, in its order and without a key that is there twice.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;

        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pairs<'de>, M::Error> {
                let mut pairs: Vec<(String, &RawValue)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, _>()? {
                    if pairs.iter().any(|(known, _)| *known == key) {
                        return Err(M::Error::custom(format_args!("duplicate key `{key}`")));
                    }
                    pairs.push((key, value));
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_give_the_same_tree_with_its_lines() {
        let toml = "a = 1\nb = [\n 'x',\n 2.5]\n[c]\nd = true";
        let json = "{\"a\": 1,\n\"b\": [\n\"x\",\n 2.5],\n\"c\": {\n\"d\": true}}";
        for (entries, text) in [(parse_toml(toml), toml), (parse_json(json), json)] {
            let entries = entries.unwrap();
            assert_eq!(
                serde_json::Value::from(entries_to_json(&entries)),
                serde_json::json!({"a": 1, "b": ["x", 2.5], "c": {"d": true}})
            );
            let lines: Vec<_> =
                entries.iter().map(|entry| entry.wrong_key("").line(text)).collect();
            assert_eq!(lines, [1, 2, 5], "{text}");
            let item = &entries[1].list().unwrap()[0];
            assert_eq!(item.wrong("").line(text), 3, "{text}");
            let inner = &entries[2].table().unwrap()[0];
            assert_eq!(inner.wrong("").line(text), 6, "{text}");
        }
    }

    #[test]
    fn what_is_no_json_says_its_line() {
        let deep = "[".repeat(limit::NESTING_MAX + 2) + &"]".repeat(limit::NESTING_MAX + 2);
        let cases = [
            ("", 1, "EOF"),
            ("{\n\"a\": 1,\n}", 3, "key must be a string"),
            ("[1]", 1, "must be an object"),
            ("{\n\"a\": 1,\n\"a\": 2}", 3, "duplicate key `a`"),
            ("{\n\"b\": {\n\"a\": 1,\n\"a\": 2}}", 4, "duplicate key `a`"),
            (&format!("{{\"a\":\n{deep}}}"), 2, "levels of nesting"),
        ];
        for (text, line, wanted) in cases {
            let problem = parse_json(text).unwrap_err();
            assert_eq!(problem.line(text), line, "{text}: {}", problem.message);
            assert!(problem.message.contains(wanted), "{text}: {}", problem.message);
        }
    }
}
