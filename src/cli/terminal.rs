//! Where commands print. Colour only on a terminal, JSON when asked for.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Color, Style};
use serde::Serialize;

use super::failure::{Failure, Result, Status};

/// What a person looks for first.
pub(crate) const BOLD: Style = Style::new().bold();
/// What can be skipped.
pub(crate) const DIM: Style = Style::new().dimmed();
/// What is well.
pub(crate) const GREEN: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Green)));
/// What is not.
pub(crate) const BOLD_RED: Style = Style::new().bold().fg_color(Some(Color::Ansi(AnsiColor::Red)));
/// What may not be.
pub(crate) const YELLOW: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Yellow)));

/// Results go to standard output, remarks to standard error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    pub(crate) json: bool,
}

impl Terminal {
    /// Prints a line of the result.
    pub(crate) fn line(&self, text: impl Display) -> Result<()> {
        let mut out = anstream::stdout().lock();
        printed(writeln!(out, "{text}").and_then(|()| out.flush()))
    }

    /// Prints a value of the result: on one line each where there may be several.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value).map_err(Failure::failed)?;
        self.line(text)
    }

    /// Prints a remark. One that cannot be printed is lost, like the reader who would have read it.
    pub(crate) fn note(&self, text: impl Display) {
        drop(writeln!(anstream::stderr().lock(), "{text}"));
    }

    /// Replaces the last line of a terminal by `text`; prints nothing where there is none.
    pub(crate) fn progress(&self, text: impl Display) {
        if self.shows_progress() {
            let mut out = anstream::stderr().lock();
            drop(write!(out, "\r\x1b[K{text}").and_then(|()| out.flush()));
        }
    }

    /// Shows lines in the place of those that were shown before: the screen is theirs.
    pub(crate) fn redraw(&self, lines: &[String]) -> Result<()> {
        let mut out = anstream::stdout().lock();
        let text: String = lines.iter().map(|line| format!("{line}\x1b[K\n")).collect();
        printed(write!(out, "\x1b[H{text}\x1b[J").and_then(|()| out.flush()))
    }

    /// Whether a person looks at the results.
    pub(crate) fn is_interactive(&self) -> bool {
        !self.json && io::stdout().is_terminal()
    }

    /// Whether a table can stand below the lines that are printed.
    pub(crate) fn shows_table(&self) -> bool {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        self.is_interactive()
            && variable("NO_COLOR").is_none()
            && variable("TERM").is_some_and(|term| term != "dumb")
    }

    /// Columns and rows. A terminal that does not say has the size that programs used to expect.
    pub(crate) fn size(&self) -> (usize, usize) {
        match rustix::termios::tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (size.ws_col.into(), size.ws_row.into())
            }
            _ => (80, 24),
        }
    }

    /// Draws lines below all others. Returns how many there are.
    pub(crate) fn draw(&self, lines: &[String]) -> usize {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        // What is wider than we think must not make two lines of one.
        self.write(&format!("\x1b[?7l{text}\x1b[?7h"));
        lines.len()
    }

    /// Takes away the last `count` lines.
    pub(crate) fn erase(&self, count: usize) {
        if count > 0 {
            self.write(&format!("\r\x1b[{count}A\x1b[J"));
        }
    }

    /// A terminal that has gone takes nothing.
    fn write(&self, text: &str) {
        let mut out = io::stdout().lock();
        drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    }

    /// Whether somebody sees progress.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.json && io::stderr().is_terminal()
    }
}

/// A reader that has seen enough, like `head`, is no failure of ours to talk about.
fn printed(result: io::Result<()>) -> Result<()> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => std::process::exit(Status::Failed as i32),
        _ => Failure::failed(format_args!("cannot print: {error}")),
    })
}
