//! What goes wrong between peers, one type for each party that has to act: [`FrameError`] closes a
//! connection, [`Fault`] is told to the peer that caused it. What goes wrong for the host is
//! [`BrokerError`](crate::BrokerError).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Values that explain a fault, by name.
pub type Details = BTreeMap<String, serde_json::Value>;

/// The peer broke the framing. Always the peer's fault, always fatal to its connection, never to
/// the broker.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum FrameError {
    /// Neither this protocol nor a known other one.
    #[error("frame starts with {0:#04x} instead of 0x01")]
    BadDialect(u8),
    /// A dialect that has a name but is not spoken here.
    #[error("{0} are not spoken on this socket")]
    OtherDialect(&'static str),
    /// Bits that must be zero are not.
    #[error("reserved flag bits {0:#06x} are set")]
    ReservedFlags(u16),
    /// The header announces more than a frame may carry.
    #[error("payload of {size} bytes is over the limit of {max}")]
    PayloadTooLarge {
        /// What the header says.
        size: u32,
        /// What is allowed on this connection.
        max: u32,
    },
    /// The flag says that an extension is there, the length that it is not.
    #[error("payload of {size} bytes is shorter than the extension of {extension}")]
    ExtensionMissing {
        /// What the header says.
        size: u32,
        /// What this type's extension takes.
        extension: u32,
    },
    /// The bytes are not those that were sent.
    #[error("checksum is {found:#018x} instead of {expected:#018x}")]
    BadChecksum {
        /// What the trailer says.
        found: u64,
        /// What the bytes give, or zero.
        expected: u64,
    },
    /// Something else came where only a hello may.
    #[error("the first frame is of type {0} instead of a hello")]
    HelloExpected(u8),
    /// The peer took too long to introduce itself.
    #[error("no hello within {0} ms")]
    HandshakeTimeout(u64),
}

impl FrameError {
    /// The code under which the peer is told.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::BadDialect(_) | Self::OtherDialect(_) => Code::BadDialect,
            Self::ReservedFlags(_) => Code::ReservedBits,
            Self::PayloadTooLarge { .. } => Code::TooLarge,
            Self::ExtensionMissing { .. } => Code::Malformed,
            Self::BadChecksum { .. } => Code::BadChecksum,
            Self::HelloExpected(_) => Code::Unexpected,
            Self::HandshakeTimeout(_) => Code::HandshakeTimeout,
        }
    }
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

macro_rules! codes {
    ($(
        $(#[$doc:meta])*
        $variant:ident = $number:literal, $name:literal, $status:literal, $category:ident;
    )*) => {
        /// Stable number of an error. Retired codes stay retired.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[non_exhaustive]
        #[repr(u32)]
        pub enum Code {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Code {
            /// Every code, in the order of the numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code with this number.
            #[must_use]
            pub fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Its name in the protocol.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The HTTP status closest in meaning.
            #[must_use]
            pub fn status(self) -> u16 {
                match self {
                    $(Self::$variant => $status,)*
                }
            }

            /// Who has to look at it.
            #[must_use]
            pub fn category(self) -> Category {
                match self {
                    $(Self::$variant => Category::$category,)*
                }
            }
        }
    };
}

codes! {
    /// No such plugin, method, channel or subscription.
    NotFound = 10001, "not-found", 404, Plugin;
    /// The plugin is known but has no session.
    Offline = 10002, "offline", 503, Plugin;
    /// The deadline passed.
    Timeout = 10003, "timeout", 504, Plugin;
    /// Not permitted.
    Denied = 10004, "denied", 403, Authorization;
    /// The caller cancelled.
    Cancelled = 10005, "cancelled", 499, Plugin;
    /// The callee's session ended.
    PeerDied = 10006, "peer-died", 502, Plugin;
    /// A limit was reached.
    Refused = 10007, "refused", 429, Resource;
    /// An argument does not fit.
    InvalidArgument = 10008, "invalid-argument", 422, Plugin;
    /// The handler's own error.
    HandlerFailed = 10009, "handler-failed", 500, Plugin;
    /// First byte.
    BadDialect = 11001, "bad-dialect", 400, Protocol;
    /// No common version.
    BadVersion = 11002, "bad-version", 505, Protocol;
    /// Frame type not known here.
    UnknownType = 11003, "unknown-type", 501, Protocol;
    /// Bits that must be zero.
    ReservedBits = 11004, "reserved-bits", 400, Protocol;
    /// Payload or message over its limit.
    TooLarge = 11005, "too-large", 413, Protocol;
    /// Checksum or trailer.
    BadChecksum = 11006, "bad-checksum", 400, Protocol;
    /// A body that is not what its type asks for.
    Malformed = 11007, "malformed", 400, Protocol;
    /// Another session's id in the header.
    ForgedSession = 11008, "forged-session", 403, Protocol;
    /// A route that the session does not have.
    UnknownRoute = 11009, "unknown-route", 404, Protocol;
    /// Not this frame now, or not from this side.
    Unexpected = 11010, "unexpected", 409, Protocol;
    /// An answer to nothing.
    NoSuchCall = 11011, "no-such-call", 404, Protocol;
    /// An answer to somebody else's call.
    NotYourCall = 11012, "not-your-call", 403, Protocol;
    /// More than the window.
    CreditOverrun = 11013, "credit-overrun", 429, Protocol;
    /// An acknowledgement of what was never sent.
    BadAck = 11014, "bad-ack", 400, Protocol;
    /// A message id that is not the next one.
    OutOfSequence = 11015, "out-of-sequence", 409, Protocol;
    /// No hello in time.
    HandshakeTimeout = 11016, "handshake-timeout", 408, Protocol;
    /// A name outside its grammar.
    BadName = 11017, "bad-name", 400, Protocol;
    /// A flag or feature that was not agreed.
    Unsupported = 11018, "unsupported", 501, Protocol;
    /// The id has a live session.
    IdInUse = 12001, "id-in-use", 409, Authentication;
    /// Not the configured id.
    IdMismatch = 12002, "id-mismatch", 403, Authentication;
    /// The broker is going.
    ShuttingDown = 14001, "shutting-down", 503, System;
    /// The broker's own failure.
    Internal = 14002, "internal", 500, System;
}

/// The six kinds of error.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Category {
    /// Frames and bodies.
    Protocol,
    /// Who somebody is.
    Authentication,
    /// What somebody may do.
    Authorization,
    /// Limits.
    Resource,
    /// Plugins and their handlers.
    Plugin,
    /// The broker and the machine.
    System,
}

impl Category {
    /// Its name in the protocol.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::Authentication => "authentication",
            Self::Authorization => "authorization",
            Self::Resource => "resource",
            Self::Plugin => "plugin",
            Self::System => "system",
        }
    }
}

/// What a peer is told: the body of an `error` frame.
///
/// An answer, not a failure of the connection.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{message}")]
pub struct Fault {
    /// What kind.
    pub code: Code,
    /// For a person: lower case, no full stop, the values in it.
    pub message: String,
    /// For a program.
    pub details: Details,
}

impl Fault {
    /// A fault without details.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Details::new() }
    }

    /// Adds a value that explains it.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }

    /// A limit was reached. Says everything that a refusal must say.
    #[must_use]
    pub fn refused(refusal: &Refusal<'_>) -> Self {
        let Refusal { resource, holder, used, limit, blame, retry_after_ms } = *refusal;
        let retry = if retry_after_ms == 0 {
            "retry when some of it is free".to_owned()
        } else {
            format!("retry after {retry_after_ms} ms")
        };
        Self::new(
            Code::Refused,
            format!("{resource} of {holder}: {used} of {limit} used, because of {blame}; {retry}"),
        )
        .with("resource", resource)
        .with("holder", holder)
        .with("used", used)
        .with("limit", limit)
        .with("blame", blame)
        .with("retry_after_ms", retry_after_ms)
    }
}

/// The explanation that every refusal carries.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// What ran out.
    pub resource: &'a str,
    /// Whose it is.
    pub holder: &'a str,
    /// How much of it is in use.
    pub used: u64,
    /// How much there is.
    pub limit: u64,
    /// Who uses it.
    pub blame: &'a str,
    /// When to try again, in milliseconds; 0 where that depends on the peer's own progress.
    pub retry_after_ms: u64,
}

/// The body of an `error` frame as it travels.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct ErrorBody {
    pub(crate) code: u32,
    pub(crate) status: u16,
    pub(crate) category: String,
    pub(crate) message: String,
    #[serde(default, skip_serializing_if = "Details::is_empty")]
    pub(crate) details: Details,
}

impl From<&Fault> for ErrorBody {
    fn from(fault: &Fault) -> Self {
        Self {
            code: fault.code as u32,
            status: fault.code.status(),
            category: fault.code.category().name().to_owned(),
            message: fault.message.clone(),
            details: fault.details.clone(),
        }
    }
}

impl From<ErrorBody> for Fault {
    /// A code that this version does not know is kept in the details.
    fn from(body: ErrorBody) -> Self {
        match Code::from_number(body.code) {
            Some(code) => Self { code, message: body.message, details: body.details },
            None => {
                Self { code: Code::HandlerFailed, message: body.message, details: body.details }
                    .with("unknown_code", body.code)
            }
        }
    }
}

/// How far a request got before its callee died.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Verdict {
    /// No byte of it was handed to the callee's socket.
    NeverDelivered,
    /// It was handed over; whether the handler ran is not known.
    PossiblyStarted,
    /// The callee confirmed that the handler ran.
    Started,
}

impl Verdict {
    /// Its name in the protocol.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NeverDelivered => "never-delivered",
            Self::PossiblyStarted => "possibly-started",
            Self::Started => "started",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_increase() {
        for &code in Code::ALL {
            assert_eq!(Code::from_number(code as u32), Some(code));
        }
        assert!(Code::ALL.windows(2).all(|pair| (pair[0] as u32) < pair[1] as u32));
    }

    #[test]
    fn a_refusal_says_everything() {
        let fault = Fault::refused(&Refusal {
            resource: "unanswered requests",
            holder: "web",
            used: 16,
            limit: 16,
            blame: "web",
            retry_after_ms: 50,
        });
        for key in ["resource", "holder", "used", "limit", "blame", "retry_after_ms"] {
            assert!(fault.details.contains_key(key), "{key}");
        }
        assert!(fault.message.contains("16 of 16"));
    }
}
