//! How a command fails: what it prints and which code it exits with.

use std::fmt::Display;
use std::process::ExitCode;

use serde_json::json;

use super::terminal::{BOLD_RED, Terminal};
use crate::error::Code;

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
    pub(super) status: Status,
    message: String,
    hints: Vec<String>,
    code: Option<Code>,
}

/// Result of a command or a part of it.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(status: Status, message: impl Display) -> Self {
        Self { status, message: message.to_string(), hints: Vec::new(), code: None }
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

    /// Adds the code under which the protocol knows it.
    pub(crate) fn code(self, code: Code) -> Self {
        Self { code: Some(code), ..self }
    }

    /// What went wrong, without the hints.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Prints it where errors belong, and gives the exit code.
    pub(crate) fn report(&self, terminal: &Terminal) -> ExitCode {
        if terminal.json {
            let body = json!({"error": {
                "message": self.message,
                "exit": self.status as u8,
                "hints": self.hints,
                "code": self.code.map(|code| code as u32),
                "name": self.code.map(Code::name),
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
