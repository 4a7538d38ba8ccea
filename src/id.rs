//! Names and numbers, each with its own type, so that a session is never taken for a route.
//!
//! Names are checked when they are made; a `PluginId` that exists fits the grammar. Cloning one
//! copies a pointer.

use std::fmt;
use std::sync::Arc;

use crate::error::{Code, Fault};

/// One live connection. Random, never reused; 0 stands for the broker itself.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionId(pub u64);

impl SessionId {
    /// Who makes the frames that the broker sends on its own account.
    pub const BROKER: Self = Self(0);
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Number of a resolved name. 0 is control.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RouteId(pub u32);

impl RouteId {
    /// The route of control frames.
    pub const CONTROL: Self = Self(0);
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $grammar:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the grammar.
            ///
            /// # Errors
            ///
            /// 11017 (bad name), naming the grammar.
            pub fn parse(text: &str) -> Result<Self, Fault> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    return Ok(Self(text.into()));
                }
                let shown: String = text.chars().take(80).collect();
                Err(Fault::new(
                    Code::BadName,
                    format!(concat!("{:?} is not a valid ", $what, ": ", $grammar), shown),
                ))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// An addressable participant, or a service that several of them serve.
    PluginId, "plugin id", "a lower-case letter, then up to 62 of a-z, 0-9 and -",
    |text| word(text, 63, |byte| byte.is_ascii_lowercase(), |byte| {
        lower_or_digit(byte) || byte == b'-'
    })
}

name! {
    /// What a plugin serves.
    MethodName, "method name", "a lower-case letter or _, then up to 62 of a-z, 0-9 and _",
    |text| word(text, 63, |byte| byte.is_ascii_lowercase() || byte == b'_', |byte| {
        lower_or_digit(byte) || byte == b'_'
    })
}

name! {
    /// An ordered stream into one plugin.
    ChannelName, "channel name", "a lower-case letter, then up to 62 of a-z, 0-9, _ and -",
    |text| word(text, 63, |byte| byte.is_ascii_lowercase(), |byte| {
        lower_or_digit(byte) || byte == b'_' || byte == b'-'
    })
}

name! {
    /// Dotted name of an event.
    Topic, "topic", "1 to 16 words of up to 63 letters, digits, _ and -, joined by dots",
    |text| dotted(text, topic_word)
}

name! {
    /// Topics that a subscription wants: `*` stands for one word, `>` at the end for the rest.
    Pattern, "pattern", "a topic in which a word may be * and the last word may be >",
    |text| dotted(text, |word| word == "*" || word == ">" || topic_word(word))
        && text.find('>').is_none_or(|place| place + 1 == text.len())
}

impl PluginId {
    /// The channel that every plugin has.
    pub const INBOX: &'static str = "inbox";
}

impl Topic {
    /// Whether only the broker may publish it.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with("plugbus.") || &*self.0 == "plugbus"
    }
}

impl Pattern {
    /// What every topic begins with that the pattern wants.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.0.split(['*', '>']).next().unwrap_or_default()
    }

    /// Whether `topic` is one that the pattern wants.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        let mut words = topic.0.split('.');
        for wanted in self.0.split('.') {
            match (wanted, words.next()) {
                (">", Some(_)) => return true,
                (_, None) => return false,
                ("*", Some(_)) => (),
                (wanted, Some(word)) => {
                    if wanted != word {
                        return false;
                    }
                }
            }
        }
        words.next().is_none()
    }
}

/// Splits `plugin.method`.
///
/// # Errors
///
/// 11017 when it is not two valid names joined by a dot.
pub fn parse_method_address(text: &str) -> Result<(PluginId, MethodName), Fault> {
    let Some((plugin, method)) = text.split_once('.') else {
        return Err(Fault::new(
            Code::BadName,
            format!("{text:?} is not of the form plugin.method"),
        ));
    };
    Ok((PluginId::parse(plugin)?, MethodName::parse(method)?))
}

/// Splits `plugin/channel`.
///
/// # Errors
///
/// 11017 when it is not two valid names joined by a slash.
pub fn parse_channel_address(text: &str) -> Result<(PluginId, ChannelName), Fault> {
    let Some((plugin, channel)) = text.split_once('/') else {
        return Err(Fault::new(
            Code::BadName,
            format!("{text:?} is not of the form plugin/channel"),
        ));
    };
    Ok((PluginId::parse(plugin)?, ChannelName::parse(channel)?))
}

fn lower_or_digit(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn word(text: &str, size_max: usize, first: fn(u8) -> bool, rest: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= size_max
        && bytes.first().is_some_and(|&byte| first(byte))
        && bytes[1..].iter().all(|&byte| rest(byte))
}

fn topic_word(text: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    word(text, 63, valid, valid)
}

fn dotted(text: &str, valid: fn(&str) -> bool) -> bool {
    text.len() <= 255 && text.split('.').count() <= 16 && text.split('.').all(valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_grammar() {
        for (text, valid) in [
            ("a", true),
            ("notes-2", true),
            ("", false),
            ("2notes", false),
            ("Notes", false),
            ("notes_2", false),
            (&"a".repeat(63), true),
            (&"a".repeat(64), false),
        ] {
            assert_eq!(PluginId::parse(text).is_ok(), valid, "{text}");
        }
        assert!(MethodName::parse("_private_2").is_ok());
        assert!(MethodName::parse("with-dash").is_err());
        assert!(ChannelName::parse("bulk-in_2").is_ok());
        assert!(parse_method_address("hello.greet").is_ok());
        assert!(parse_method_address("hello").is_err());
        assert!(parse_channel_address("hello/inbox").is_ok());
    }

    #[test]
    fn patterns_match_words() {
        for (pattern, topic, matches) in [
            ("order.created", "order.created", true),
            ("order.*", "order.created", true),
            ("order.*", "order.created.late", false),
            ("order.*", "order", false),
            ("order.>", "order.created.late", true),
            ("order.>", "order", false),
            (">", "order", true),
            ("*.created", "order.created", true),
            ("*", "order.created", false),
        ] {
            let pattern = Pattern::parse(pattern).unwrap();
            let topic = Topic::parse(topic).unwrap();
            assert_eq!(pattern.matches(&topic), matches, "{pattern} {topic}");
            assert!(!matches || topic.as_str().starts_with(pattern.prefix()), "{pattern} {topic}");
        }
    }

    #[test]
    fn bad_patterns_are_refused() {
        for text in [
            "",
            ".",
            "a..b",
            "a.>.b",
            "a.b*",
            ">.a",
            &["w"; 17].join("."),
            &format!("{}.>", ["w"; 16].join(".")),
        ] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }
}
