//! What goes wrong for a plugin or a client, by kind.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::error::{Code, Details, Fault, Verdict};
use crate::net::link::LinkError;

/// What the words of this module return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call, a message or the connection failed. The kinds are the same in every language.
///
/// Any other error becomes [`Error::Handler`] through `?`, so that a handler can use it freely.
/// (For that this type cannot be a [`std::error::Error`] itself; it turns into a boxed one.)
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// No such plugin, method, channel or subscription.
    NotFound {
        /// What is not there.
        message: String,
        /// Names that look like it.
        suggestions: Vec<String>,
    },
    /// The plugin is known but not connected.
    Offline(String),
    /// The deadline passed.
    Timeout(String),
    /// Not permitted.
    Denied(String),
    /// The caller gave up.
    Cancelled(String),
    /// The callee's session ended before it answered.
    PeerDied {
        /// Who, and how.
        message: String,
        /// How far the call got.
        verdict: Verdict,
    },
    /// A limit was reached.
    Refused(Box<Refusal>),
    /// An argument does not fit.
    InvalidArgument {
        /// Which one, as a path; empty where it is all of them.
        field: String,
        /// What was expected.
        message: String,
    },
    /// The handler's own error.
    Handler {
        /// A word of the handler's choice.
        code: String,
        /// For a person.
        message: String,
    },
    /// Somebody broke the rules of the protocol.
    Protocol(Fault),
    /// The id is in use, or not the one that is expected on this connection.
    Identity(Fault),
    /// The connection to the broker has ended.
    BrokerGone(String),
    /// There is no broker to connect to.
    Connect(String),
    /// The plugin's own description is wrong: a name outside its grammar, or one twice.
    Plugin(String),
}

/// A limit, and everything that a refusal has to say about it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Refusal {
    /// All of it in one sentence.
    pub message: String,
    /// What ran out.
    pub resource: String,
    /// Whose it is.
    pub holder: String,
    /// How much of it is in use.
    pub used: u64,
    /// How much there is.
    pub limit: u64,
    /// Who uses it.
    pub blame: String,
    /// When to try again; none where that depends on one's own progress.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// An error of a handler that its caller can tell from others by `code`.
    #[must_use]
    pub fn handler(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Handler { code: code.into(), message: message.into() }
    }

    /// An argument that fits its type but not the handler.
    #[must_use]
    pub fn invalid_argument(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::InvalidArgument { field: field.into(), message: message.into() }
    }

    /// The code that stands for this kind in the protocol.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::NotFound,
            Self::Offline(_) => Code::Offline,
            Self::Timeout(_) => Code::Timeout,
            Self::Denied(_) => Code::Denied,
            Self::Cancelled(_) => Code::Cancelled,
            Self::PeerDied { .. } => Code::PeerDied,
            Self::Refused(_) => Code::Refused,
            Self::InvalidArgument { .. } => Code::InvalidArgument,
            Self::Handler { .. } | Self::Plugin(_) => Code::HandlerFailed,
            Self::Protocol(fault) | Self::Identity(fault) => fault.code,
            Self::BrokerGone(_) | Self::Connect(_) => Code::ShuttingDown,
        }
    }

    /// What the caller of a failed handler is told. An error that the handler got from a call of
    /// its own is the handler's failure: its caller must not take it for the outcome of *its* call.
    pub(super) fn to_fault(&self) -> Fault {
        match self {
            Self::InvalidArgument { field, .. } => {
                Fault::new(Code::InvalidArgument, self.to_string()).with("field", field.as_str())
            }
            Self::Handler { code, message } => {
                Fault::new(Code::HandlerFailed, message.as_str()).with("code", code.as_str())
            }
            other => {
                Fault::new(Code::HandlerFailed, other.to_string()).with("code", other.code().name())
            }
        }
    }
}

impl Error {
    fn from_fault(fault: Fault) -> Self {
        let Fault { code, message, details } = fault;
        match code {
            Code::NotFound => {
                let suggestions = details.get("suggestions").and_then(|list| list.as_array());
                let suggestions = suggestions.into_iter().flatten();
                let suggestions = suggestions.filter_map(|name| name.as_str().map(str::to_owned));
                Self::NotFound { message, suggestions: suggestions.collect() }
            }
            Code::Offline => Self::Offline(message),
            Code::Timeout => Self::Timeout(message),
            Code::Denied => Self::Denied(message),
            Code::Cancelled => Self::Cancelled(message),
            Code::PeerDied => {
                let verdict = match text(&details, "verdict").as_str() {
                    "never-delivered" => Verdict::NeverDelivered,
                    "started" => Verdict::Started,
                    _ => Verdict::PossiblyStarted,
                };
                Self::PeerDied { message, verdict }
            }
            Code::Refused => Self::Refused(Box::new(Refusal {
                message,
                resource: text(&details, "resource"),
                holder: text(&details, "holder"),
                used: number(&details, "used"),
                limit: number(&details, "limit"),
                blame: text(&details, "blame"),
                retry_after: match number(&details, "retry_after_ms") {
                    0 => None,
                    milliseconds => Some(Duration::from_millis(milliseconds)),
                },
            })),
            Code::InvalidArgument => {
                Self::InvalidArgument { field: text(&details, "field"), message }
            }
            Code::HandlerFailed => Self::Handler { code: text(&details, "code"), message },
            Code::IdInUse | Code::IdMismatch => Self::Identity(Fault { code, message, details }),
            Code::ShuttingDown | Code::Internal => Self::BrokerGone(message),
            code => Self::Protocol(Fault { code, message, details }),
        }
    }
}

impl<E: StdError + 'static> From<E> for Error {
    /// Errors of this library keep their kind; the others are the handler's own.
    fn from(error: E) -> Self {
        let known: &(dyn StdError + 'static) = &error;
        if let Some(fault) = known.downcast_ref::<Fault>() {
            return Self::from_fault(fault.clone());
        }
        if let Some(error) = known.downcast_ref::<LinkError>() {
            return match error {
                LinkError::Refused(fault) => Self::from_fault(fault.clone()),
                LinkError::Framing(error) => Self::Protocol((*error).into()),
                error => Self::BrokerGone(error.to_string()),
            };
        }
        if let Some(Boxed(error)) = known.downcast_ref::<Boxed>() {
            return error.clone();
        }
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        Self::handler("error", message)
    }
}

impl From<Error> for Box<dyn StdError + Send + Sync> {
    fn from(error: Error) -> Self {
        Box::new(Boxed(error))
    }
}

impl From<Error> for Box<dyn StdError> {
    fn from(error: Error) -> Self {
        Box::new(Boxed(error))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { message, suggestions } => {
                f.write_str(message)?;
                match &suggestions[..] {
                    [] => Ok(()),
                    names if message.contains("did you mean") => {
                        debug_assert!(!names.is_empty());
                        Ok(())
                    }
                    names => write!(f, " (did you mean {}?)", names.join(", ")),
                }
            }
            Self::InvalidArgument { field, message }
                if !field.is_empty() && !message.contains(field.as_str()) =>
            {
                write!(f, "`{field}`: {message}")
            }
            Self::Handler { code, message } if !code.is_empty() && code != "error" => {
                write!(f, "{code}: {message}")
            }
            Self::Offline(message)
            | Self::Timeout(message)
            | Self::Denied(message)
            | Self::Cancelled(message)
            | Self::PeerDied { message, .. }
            | Self::InvalidArgument { message, .. }
            | Self::Handler { message, .. }
            | Self::BrokerGone(message)
            | Self::Connect(message)
            | Self::Plugin(message) => f.write_str(message),
            Self::Refused(refusal) => f.write_str(&refusal.message),
            Self::Protocol(fault) | Self::Identity(fault) => fault.fmt(f),
        }
    }
}

/// As `main` prints it: the kind and the sentence.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(message) | Self::Plugin(message) => f.write_str(message),
            error => write!(f, "{}: {error}", error.code().name()),
        }
    }
}

/// An [`Error`] where a [`std::error::Error`] is wanted.
#[derive(Debug)]
struct Boxed(Error);

impl fmt::Display for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Boxed {}

fn text(details: &Details, key: &str) -> String {
    details.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
}

fn number(details: &Details, key: &str) -> u64 {
    details.get(key).and_then(serde_json::Value::as_u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Refusal as Told;

    #[test]
    fn a_refusal_keeps_its_explanation() {
        let fault = Fault::refused(&Told {
            resource: "unanswered requests",
            holder: "web",
            used: 16,
            limit: 16,
            blame: "web",
            retry_after_ms: 50,
        });
        let Error::Refused(refusal) = fault.into() else { panic!("a refusal stays one") };
        assert_eq!((refusal.resource.as_str(), refusal.used), ("unanswered requests", 16));
        assert_eq!(refusal.retry_after, Some(Duration::from_millis(50)));
    }

    #[test]
    fn every_kind_survives_the_wire() {
        for &code in Code::ALL {
            let error = Error::from(Fault::new(code, "told"));
            let expected = match code {
                Code::Internal => Code::ShuttingDown, // Either way the session is over.
                code => code,
            };
            assert_eq!(error.code(), expected);
            assert!(error.to_string().contains("told"));
        }
    }

    #[test]
    fn a_nested_failure_is_the_handlers_own() {
        let nested = Error::Timeout("no answer within 5 ms".to_owned());
        let fault = nested.to_fault();
        assert_eq!((fault.code, &fault.details["code"]), (Code::HandlerFailed, &"timeout".into()));
        let own = Error::from("no".parse::<u8>().unwrap_err()).to_fault();
        assert_eq!(own.code, Code::HandlerFailed);
        assert!(own.message.contains("digit"), "{own}");
    }
}
