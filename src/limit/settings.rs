//! The bounds that a host may move, each within a range, and checked against each other.
//!
//! The others are part of the protocol, or follow from how the broker is built.

use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

/// Bounds of one broker. Start from the default and change what has to be different.
///
/// ```
/// # use plugbus::limit::Limits;
/// let mut limits = Limits::default();
/// limits.window_messages = 64;
/// limits.check().expect("the others leave room for that");
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// Live sessions; each costs a descriptor.
    pub sessions_max: usize,
    /// Connections that have not said hello yet.
    pub handshakes_max: usize,
    /// Time from connect to a complete hello.
    pub handshake_timeout: Duration,
    /// Silence after which a peer is pinged.
    pub heartbeat: Duration,
    /// What sessions get to finish when the broker shuts down.
    pub drain_timeout: Duration,
    /// Deadline of a call that names none.
    pub call_timeout: Duration,
    /// How long messages wait for an absent receiver.
    pub absent_timeout: Duration,
    /// Bytes of one message.
    pub message_max: u64,
    /// Unhandled messages of one channel, or events of one topic that somebody blocks.
    pub window_messages: u64,
    /// Their payload bytes; one may start while below.
    pub window_bytes: u64,
    /// Bytes of channel messages retained for one sender, over all its channels.
    pub retained_bytes_max: u64,
    /// Unanswered requests of one session.
    pub requests_max: u32,
    /// Payload bytes of unanswered requests of one session; one may start while below.
    pub request_bytes_max: u64,
    /// Requests that wait in the queue of one callee, from all callers.
    pub callee_requests_max: u32,
    /// Their bytes; one waits, however large it is.
    pub callee_bytes_max: u64,
    /// Bytes of answers that wait for one caller that does not read; one waits, however large.
    pub response_bytes_max: u64,
    /// Routes of one session.
    pub routes_max: u32,
    /// Subscriptions of one session.
    pub subscriptions_max: u32,
    /// Methods, channels and services of one plugin, each.
    pub registrations_max: usize,
    /// Events queued for one subscriber, by default and at most.
    pub event_queue_messages: u64,
    /// Bytes of events queued for one subscriber, by default.
    pub event_queue_bytes: u64,
    /// Bytes of events queued for one subscriber, whatever it asks for.
    pub event_queue_bytes_max: u64,
    /// Plugins that are remembered after they have gone.
    pub plugins_remembered_max: usize,
    /// Dead letters kept as records.
    pub dead_letters_max: usize,
}

impl Limits {
    /// Sets one to a value that was read from somewhere. Times are milliseconds.
    ///
    /// # Errors
    ///
    /// When the value is outside the range of this one.
    pub fn set(&mut self, setting: &Setting, value: u64) -> Result<(), LimitError> {
        setting.check(value)?;
        (setting.set)(self, value);
        Ok(())
    }

    /// Whether every bound is in its range, and leaves room for those that depend on it.
    ///
    /// # Errors
    ///
    /// The first that is wrong, by its name in `plugbus.toml`.
    pub fn check(&self) -> Result<(), LimitError> {
        for setting in SETTINGS {
            setting.check((setting.get)(self))?;
        }
        let ordered = [
            ("window_bytes", self.window_bytes, "retained_bytes", self.retained_bytes_max),
            (
                "event_queue_bytes",
                self.event_queue_bytes,
                "event_queue_bytes_max",
                self.event_queue_bytes_max,
            ),
        ];
        for (smaller, value, larger, limit) in ordered {
            if value > limit {
                return Err(LimitError::Contradiction { smaller, value, larger, limit });
            }
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_max: super::SESSIONS_MAX,
            handshakes_max: super::HANDSHAKES_MAX,
            handshake_timeout: super::HANDSHAKE_TIMEOUT,
            heartbeat: super::HEARTBEAT,
            drain_timeout: super::DRAIN_TIMEOUT,
            call_timeout: super::CALL_TIMEOUT,
            absent_timeout: super::ABSENT_TIMEOUT,
            message_max: super::MESSAGE_MAX,
            window_messages: super::WINDOW_MESSAGES,
            window_bytes: super::WINDOW_BYTES,
            retained_bytes_max: super::RETAINED_BYTES_MAX,
            requests_max: super::REQUESTS_MAX,
            request_bytes_max: super::REQUEST_BYTES_MAX,
            callee_requests_max: super::CALLEE_QUEUE_REQUESTS_MAX,
            callee_bytes_max: super::CALLEE_QUEUE_BYTES_MAX,
            response_bytes_max: super::RESPONSE_QUEUE_BYTES_MAX,
            routes_max: super::ROUTES_MAX,
            subscriptions_max: super::SUBSCRIPTIONS_MAX,
            registrations_max: super::REGISTRATIONS_MAX,
            event_queue_messages: super::EVENT_QUEUE_MESSAGES,
            event_queue_bytes: super::EVENT_QUEUE_BYTES,
            event_queue_bytes_max: super::EVENT_QUEUE_BYTES_MAX,
            plugins_remembered_max: super::PLUGINS_REMEMBERED_MAX,
            dead_letters_max: super::DEAD_LETTERS_MAX,
        }
    }
}

/// Bounds that cannot be.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum LimitError {
    /// One is too small or too large by itself.
    #[error("`{name}` is {value}, but must be from {min} to {max}")]
    OutOfRange {
        /// Its name in `plugbus.toml`.
        name: &'static str,
        /// What it was to be; milliseconds for a time.
        value: u64,
        /// The least that it can be.
        min: u64,
        /// The most.
        max: u64,
    },
    /// One is over another that bounds it.
    #[error(
        "`{smaller}` ({value}) must not be over `{larger}` ({limit}): lower the one or raise the \
         other"
    )]
    Contradiction {
        /// The one that is too large.
        smaller: &'static str,
        /// Its value.
        value: u64,
        /// The one that bounds it.
        larger: &'static str,
        /// Its value.
        limit: u64,
    },
}

/// A bound as `plugbus.toml` knows it.
#[derive(Debug)]
pub struct Setting {
    name: &'static str,
    help: &'static str,
    range: RangeInclusive<u64>,
    get: fn(&Limits) -> u64,
    set: fn(&mut Limits, u64),
}

impl Setting {
    /// Its key.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it bounds, in a few words.
    #[must_use]
    pub fn help(&self) -> &'static str {
        self.help
    }

    /// What holds where nothing is said.
    #[must_use]
    pub fn default(&self) -> u64 {
        (self.get)(&Limits::default())
    }

    fn check(&self, value: u64) -> Result<(), LimitError> {
        if self.range.contains(&value) {
            return Ok(());
        }
        let (min, max) = (*self.range.start(), *self.range.end());
        Err(LimitError::OutOfRange { name: self.name, value, min, max })
    }
}

macro_rules! settings {
    ($($name:literal $field:ident $unit:ident $range:expr, $help:literal;)*) => {
        &[$(Setting {
            name: $name,
            help: $help,
            range: $range,
            get: |limits| settings!(get $unit limits.$field),
            set: |limits, value| limits.$field = settings!(set $unit value),
        },)*]
    };
    (get time $value:expr) => { u64::try_from($value.as_millis()).unwrap_or(u64::MAX) };
    (set time $value:expr) => { Duration::from_millis($value) };
    (get count $value:expr) => { $value as u64 };
    (set count $value:expr) => { $value.try_into().expect("the range fits every target") };
}

/// All of them, in the order in which they are told.
pub const SETTINGS: &[Setting] = settings! {
    "sessions" sessions_max count 1..=COUNT_MAX, "live sessions; each costs a descriptor";
    "handshakes" handshakes_max count 1..=COUNT_MAX, "connections that have not said hello";
    "handshake_timeout_ms" handshake_timeout time 1..=TIME_MAX, "from connect to hello";
    "heartbeat_ms" heartbeat time 1..=TIME_MAX, "silence after which a peer is pinged";
    "drain_timeout_ms" drain_timeout time 0..=TIME_MAX, "what sessions get to finish at the end";
    "call_timeout_ms" call_timeout time 1..=TIME_MAX, "deadline of a call that names none";
    "absent_timeout_ms" absent_timeout time 1..=TIME_MAX,
        "how long messages wait for an absent receiver";
    "message_bytes" message_max count super::PAYLOAD_MAX as u64..=1 << 30, "one message";
    "window_messages" window_messages count 1..=super::WINDOW_MESSAGES_MAX,
        "unhandled messages of a channel, from one sender";
    "window_bytes" window_bytes count 1..=BYTES_MAX, "their payload";
    "retained_bytes" retained_bytes_max count 1..=BYTES_MAX,
        "messages kept for one sender, over all its channels";
    "requests" requests_max count 1..=COUNT_MAX, "unanswered calls of a session";
    "request_bytes" request_bytes_max count 1..=BYTES_MAX, "their payload";
    "callee_requests" callee_requests_max count 1..=COUNT_MAX,
        "calls that wait for a callee, from all callers";
    "callee_bytes" callee_bytes_max count 1..=BYTES_MAX, "their bytes";
    "response_bytes" response_bytes_max count 1..=BYTES_MAX,
        "answers that wait for a caller that does not read";
    "routes" routes_max count 1..=COUNT_MAX, "names that a session has opened";
    "subscriptions" subscriptions_max count 1..=COUNT_MAX, "subscriptions of a session";
    "registrations" registrations_max count 1..=COUNT_MAX,
        "methods, channels and services of a plugin, each";
    "event_queue_messages" event_queue_messages count 1..=COUNT_MAX,
        "events queued for a subscriber";
    "event_queue_bytes" event_queue_bytes count 1..=BYTES_MAX, "their bytes, unless it asks";
    "event_queue_bytes_max" event_queue_bytes_max count 1..=BYTES_MAX,
        "their bytes, whatever it asks for";
    "plugins_remembered" plugins_remembered_max count 1..=COUNT_MAX, "plugins that have gone";
    "dead_letters" dead_letters_max count 1..=COUNT_MAX, "records of messages that were given up";
};

/// More of anything than one machine serves, and still a number of every type that counts here.
const COUNT_MAX: u64 = 1 << 24;

/// More than one machine has, and sums of a few of them still fit.
const BYTES_MAX: u64 = 1 << 40;

/// A year: longer than anybody waits, and far from where points in time overflow.
const TIME_MAX: u64 = 366 * 24 * 3_600 * 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_together() {
        Limits::default().check().unwrap();
    }

    /// Each name reads back what it sets, and moves nothing else.
    #[test]
    fn every_setting_moves_its_own_bound() {
        for setting in SETTINGS {
            for value in [*setting.range.start(), *setting.range.end()] {
                let mut limits = Limits::default();
                limits.set(setting, value).unwrap();
                assert_eq!((setting.get)(&limits), value, "{}", setting.name);
                let moved = SETTINGS
                    .iter()
                    .filter(|other| (other.get)(&limits) != (other.get)(&Limits::default()));
                let moved: Vec<_> = moved.map(|moved| moved.name).collect();
                assert!(moved.iter().all(|name| *name == setting.name), "{moved:?}");
            }
            let beyond = setting.range.end() + 1;
            let error = Limits::default().set(setting, beyond).unwrap_err().to_string();
            assert!(error.contains(setting.name) && error.contains(&beyond.to_string()), "{error}");
        }
    }

    #[test]
    fn the_page_for_users_lists_all_with_their_defaults() {
        let page = include_str!("../../docs/limits.md");
        let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(rows.len(), SETTINGS.len());
        for (row, setting) in rows.iter().zip(SETTINGS) {
            let start = format!("| `{}` | {} | ", setting.name, setting.default());
            assert!(row.starts_with(&start), "{row} is not {start}");
        }
    }

    #[test]
    fn bounds_that_contradict_each_other_are_named() {
        let limits = Limits { window_bytes: 10, retained_bytes_max: 9, ..Limits::default() };
        assert_eq!(
            limits.check().unwrap_err().to_string(),
            "`window_bytes` (10) must not be over `retained_bytes` (9): lower the one or raise \
             the other"
        );
        let mut limits = Limits { event_queue_bytes_max: 1, ..Limits::default() };
        let error = limits.check().unwrap_err().to_string();
        assert!(error.contains("`event_queue_bytes` (1048576)"), "{error}");
        limits.event_queue_bytes_max = 0;
        assert!(matches!(limits.check(), Err(LimitError::OutOfRange { value: 0, .. })));
    }
}
