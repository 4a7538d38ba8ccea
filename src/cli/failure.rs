//! How a command fails: what it prints and which code it exits with.

use std::fmt::Display;
use std::process::ExitCode;

use serde_json::json;

use super::terminal::{BOLD_RED, Terminal};
use crate::error::{Code, Fault};

/// Exit codes. Scripts rely on them; `plugbus help` lists them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Status {
    /// Something failed: the handler, a plugin, the system.
    Failed = 1,
    /// The command line, an argument of a method, or a configuration is wrong.
    Usage = 2,
    /// No broker runs there.
    NoBroker = 3,
    /// There is no such plugin, method, channel.
    NotFound = 4,
    /// It took too long.
    Timeout = 5,
    /// A limit or a permission is in the way, or somebody else has what was asked for.
    Refused = 6,
    /// The plugin is not there, or died meanwhile.
    Died = 7,
    /// Ctrl-C.
    Interrupted = 130,
}

/// Shown below the help text.
pub(crate) const STATUS_HELP: &str = "\
Exit codes:
  0  done
  1  failed (the handler's own error, a plugin that would not start)
  2  wrong usage, argument or configuration
  3  no broker runs there
  4  no such plugin, method or channel
  5  timed out
  6  refused: a limit, a permission, or a socket or id that is taken
  7  the plugin is not there, or died meanwhile
130  interrupted";

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    status: Status,
    message: String,
    hints: Vec<String>,
    fault: Option<Fault>,
}

/// Result of a command or a part of it.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(status: Status, message: impl Display) -> Self {
        Self { status, message: message.to_string(), hints: Vec::new(), fault: None }
    }

    pub(crate) fn usage(message: impl Display) -> Self {
        Self::new(Status::Usage, message)
    }

    pub(crate) fn failed(message: impl Display) -> Self {
        Self::new(Status::Failed, message)
    }

    /// Adds a line that says what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// What the broker or a plugin answered.
    pub(crate) fn fault(fault: Fault) -> Self {
        let status = match fault.code {
            Code::NotFound => Status::NotFound,
            Code::Timeout | Code::HandshakeTimeout => Status::Timeout,
            Code::Refused | Code::Denied | Code::IdInUse | Code::IdMismatch => Status::Refused,
            Code::Offline | Code::PeerDied | Code::ShuttingDown => Status::Died,
            Code::InvalidArgument | Code::BadName => Status::Usage,
            Code::Cancelled => Status::Interrupted,
            _ => Status::Failed,
        };
        let mut failure = Self::new(status, &fault.message);
        let suggestions = fault.details.get("suggestions").and_then(|it| it.as_array());
        let suggestions: Vec<_> =
            suggestions.into_iter().flatten().filter_map(|it| it.as_str()).collect();
        if !suggestions.is_empty() && !fault.message.contains(suggestions[0]) {
            failure = failure.hint(format!("did you mean {}?", suggestions.join(" or ")));
        }
        Self { fault: Some(fault), ..failure }
    }

    /// What went wrong, without the hints.
    #[cfg(test)]
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Prints it where errors belong, and gives the exit code.
    pub(crate) fn report(&self, terminal: &Terminal) -> ExitCode {
        if terminal.json {
            let fault = self.fault.as_ref();
            let body = json!({"error": {
                "message": self.message,
                "exit": self.status as u8,
                "hints": self.hints,
                "code": fault.map(|fault| fault.code as u32),
                "name": fault.map(|fault| fault.code.name()),
                "details": fault.map(|fault| &fault.details),
            }});
            terminal.note(&body);
        } else {
            terminal.note(format_args!("{BOLD_RED}error:{BOLD_RED:#} {}", self.message));
            for hint in &self.hints {
                terminal.note(format_args!("  {hint}"));
            }
        }
        ExitCode::from(self.status as u8)
    }
}
