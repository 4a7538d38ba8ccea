//! The hello, and the names that it and other bodies bring.
//!
//! A hello that is written and read is the same; the broker lets in exactly those whose version, id
//! and features it may; a name is accepted exactly where a slow second reading of the grammar does.

use arbitrary::{Arbitrary, Unstructured};
use std::sync::Arc;

use plugbus::engine::{Attachment, Effects, Now, Router, RouterSettings};
use plugbus::error::Code;
use plugbus::id::{
    ChannelName, MethodName, Pattern, PluginId, Topic, parse_channel_address, parse_method_address,
};
use plugbus::wire::body::{self, Hello, Role};

use super::{RAW, Seen};

#[derive(Arbitrary, Debug)]
struct Input {
    hellos: Vec<Greeting>,
    changes: Vec<(u16, u8)>,
    names: Vec<Name>,
    patterns: Vec<(Name, Name)>,
}

#[derive(Arbitrary, Debug)]
struct Greeting {
    versions: Vec<u8>,
    lz4: bool,
    checksum: bool,
    unknown_feature: Option<String>,
    id: Option<Name>,
    is_plugin: bool,
    sdk: Option<String>,
    pid: Option<u32>,
    expected: Option<bool>,
}

/// A text that often is a name.
#[derive(Arbitrary, Debug)]
enum Name {
    Letters(Vec<u8>),
    Long { first: u8, size: u8 },
    Words(Vec<u8>),
    Any(String),
}

pub(crate) fn run(data: &[u8], seen: &mut Seen) {
    if let Some((&mode, rest)) = data.split_first()
        && mode > RAW
    {
        check_payload(rest, seen);
        return;
    }
    let Ok(input) = Input::arbitrary(&mut Unstructured::new(data)) else { return };
    let now = Now::default();
    let mut router = Router::new(
        RouterSettings { name: "fuzz".to_owned(), seed: 7, limits: Arc::default() },
        now,
    );
    for greeting in &input.hellos {
        let hello = greeting.hello();
        let mut payload = body::encode_hello(&hello).to_vec();
        assert_eq!(body::decode_hello(&payload).as_ref(), Ok(&hello));
        check_admission(&mut router, greeting, &hello, seen);
        for (at, bit) in &input.changes {
            let at = usize::from(*at) % payload.len();
            payload[at] ^= 1 << (bit % 8);
            check_payload(&payload, seen);
        }
    }
    router.audit(std::iter::empty());
    for name in &input.names {
        check_name(&name.text(), seen);
    }
    for (pattern, topic) in &input.patterns {
        check_match(&pattern.text(), &topic.text(), seen);
    }
}

/// Any payload is refused, or means the same when it is written again.
fn check_payload(payload: &[u8], seen: &mut Seen) {
    match body::decode_hello(payload) {
        Ok(hello) => {
            assert_eq!(body::decode_hello(&body::encode_hello(&hello)), Ok(hello));
            seen.note(1, 0);
        }
        Err(fault) => {
            assert_eq!(fault.code, Code::Malformed);
            seen.note(2, fault.message.len() as u64);
        }
    }
}

fn check_admission(router: &mut Router, greeting: &Greeting, hello: &Hello, seen: &mut Seen) {
    let expected = greeting.expected.map(|same| {
        let id = hello.id.as_deref().filter(|_| same).and_then(|id| PluginId::parse(id).ok());
        id.unwrap_or_else(|| PluginId::parse("configured").expect("it is a valid id"))
    });
    let now = Now::default();
    let mut fx = Effects::new();
    let before = router.session_count();
    let live: Vec<PluginId> = router.ports().map(|port| port.plugin.clone()).collect();
    let attachment = expected.clone().map(Attachment::from);
    let outcome = router.handle_hello(hello, attachment.as_ref(), Box::new(|| {}), now, &mut fx);
    match outcome {
        Ok(port) => {
            assert!(hello.versions.contains(&1));
            assert!(hello.id.as_deref().is_none_or(|id| id == port.plugin.as_str()));
            assert!(expected.is_none_or(|id| id == port.plugin));
            assert!(!live.contains(&port.plugin), "an id has one session");
            assert_eq!(
                (port.features.lz4, port.features.checksum),
                (greeting.lz4, greeting.checksum)
            );
            assert_eq!(router.session_count(), before + 1);
            let mut output = Vec::new();
            port.take(1 << 20, now, &mut output, &mut fx);
            assert!(!output.is_empty(), "the welcome is queued");
            seen.note(3, u64::from(hello.id.is_some()));
        }
        Err(fault) => {
            assert_eq!(router.session_count(), before, "a refused hello leaves nothing");
            match fault.code {
                Code::BadVersion => assert!(!hello.versions.contains(&1)),
                Code::BadName => {
                    assert!(hello.id.as_deref().is_some_and(|id| !is_plugin_id(id)));
                }
                Code::IdInUse => {
                    assert!(live.iter().any(|id| {
                        hello.id.as_deref().is_none_or(|wanted| wanted == id.as_str())
                    }));
                }
                Code::IdMismatch => assert!(expected.is_some()),
                Code::Refused => assert_eq!(before, 4),
                code => panic!("a hello is not refused with {code:?}"),
            }
            seen.note(4, fault.code as u64);
        }
    }
}

fn check_name(text: &str, seen: &mut Seen) {
    let judged = [
        (PluginId::parse(text).is_ok(), is_plugin_id(text)),
        (MethodName::parse(text).is_ok(), is_method(text)),
        (ChannelName::parse(text).is_ok(), is_channel(text)),
        (Topic::parse(text).is_ok(), is_topic(text)),
        (Pattern::parse(text).is_ok(), is_pattern(text)),
        (
            parse_method_address(text).is_ok(),
            text.split_once('.').is_some_and(|(id, name)| is_plugin_id(id) && is_method(name)),
        ),
        (
            parse_channel_address(text).is_ok(),
            text.split_once('/').is_some_and(|(id, name)| is_plugin_id(id) && is_channel(name)),
        ),
    ];
    for (index, (found, wanted)) in judged.into_iter().enumerate() {
        assert_eq!(found, wanted, "grammar {index}, {text:?}");
        seen.note(5, (index as u64) << 1 | u64::from(found));
    }
}

fn check_match(pattern: &str, topic: &str, seen: &mut Seen) {
    let (Ok(pattern), Ok(topic)) = (Pattern::parse(pattern), Topic::parse(topic)) else { return };
    let words: Vec<&str> = pattern.as_str().split('.').collect();
    let found: Vec<&str> = topic.as_str().split('.').collect();
    let wanted = does_match(&words, &found);
    assert_eq!(pattern.matches(&topic), wanted, "{pattern} {topic}");
    seen.note(6, u64::from(wanted) << 8 | words.len() as u64);
}

fn does_match(pattern: &[&str], topic: &[&str]) -> bool {
    match (pattern, topic) {
        ([], []) => true,
        ([">"], [_, ..]) => true,
        ([word, pattern @ ..], [found, topic @ ..]) => {
            (*word == "*" || word == found) && does_match(pattern, topic)
        }
        _ => false,
    }
}

fn is_plugin_id(text: &str) -> bool {
    is_name(text, "", "-")
}

fn is_method(text: &str) -> bool {
    is_name(text, "_", "_")
}

fn is_channel(text: &str) -> bool {
    is_name(text, "", "-_")
}

/// `first` and `rest` are what is allowed besides lower-case letters and, after the first, digits.
fn is_name(text: &str, first: &str, rest: &str) -> bool {
    let characters: Vec<char> = text.chars().collect();
    let (Some(head), true) = (characters.first(), characters.len() <= 63) else { return false };
    (head.is_ascii_lowercase() || first.contains(*head))
        && characters[1..].iter().all(|c| matches!(c, 'a'..='z' | '0'..='9') || rest.contains(*c))
}

fn is_topic(text: &str) -> bool {
    text.len() <= 255 && text.split('.').count() <= 16 && text.split('.').all(is_word)
}

fn is_pattern(text: &str) -> bool {
    let words: Vec<&str> = text.split('.').collect();
    let (last, others) = words.split_last().expect("a split gives one at least");
    text.len() <= 255
        && words.len() <= 16
        && others.iter().all(|word| *word == "*" || is_word(word))
        && (["*", ">"].contains(last) || is_word(last))
}

fn is_word(word: &str) -> bool {
    (1..=63).contains(&word.len())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

impl Greeting {
    fn hello(&self) -> Hello {
        let mut features = Vec::new();
        if self.lz4 {
            features.push("lz4".to_owned());
        }
        features.extend(
            self.unknown_feature
                .iter()
                .filter(|name| !["lz4", "checksum"].contains(&name.as_str()))
                .cloned(),
        );
        if self.checksum {
            features.push("checksum".to_owned());
        }
        Hello {
            versions: self.versions.iter().map(|&version| u32::from(version % 4)).collect(),
            features,
            id: self.id.as_ref().map(Name::text),
            role: if self.is_plugin { Role::Plugin } else { Role::Client },
            sdk: self.sdk.clone(),
            pid: self.pid,
        }
    }
}

impl Name {
    fn text(&self) -> String {
        let letter = |byte: &u8| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]);
        match self {
            Self::Letters(bytes) => bytes.iter().map(letter).collect(),
            Self::Long { first, size } => {
                std::iter::once(letter(first)).chain((0..*size).map(|_| 'a')).collect()
            }
            Self::Words(bytes) => {
                let words: Vec<_> =
                    bytes.iter().map(|byte| WORDS[usize::from(*byte) % WORDS.len()]).collect();
                words.join(".")
            }
            Self::Any(text) => text.clone(),
        }
    }
}

const LETTERS: &[u8] = b"aabcxyz019_-./*>A ";
const WORDS: [&str; 8] = ["order", "created", "*", ">", "a", "B7", "x_-", ""];
