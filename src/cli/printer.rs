//! Prints what plugins print, without ever making them wait.
//!
//! A terminal can be stopped (Ctrl-S), a pipe can be full. Then lines are dropped and counted here,
//! so that neither the broker nor a plugin stands still for somebody who does not read.
//!
//! Below the lines a table may stand. Only this thread writes then: it takes the table away, prints
//! what has come, and draws it again. What is logged comes through here for the same reason.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::failure::{Failure, Result};
use super::terminal::{DIM, Terminal};

/// The queue's front end.
#[derive(Clone, Debug)]
pub(crate) struct Printer {
    queue: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

/// One line, and where it belongs.
#[derive(Debug)]
pub(crate) enum Line {
    Out(String),
    Error(String),
    /// What stands below all lines from now on.
    Table(Vec<String>),
    /// Nothing is printed after this.
    End,
}

/// The queue's other end.
#[derive(Debug)]
pub(crate) struct PrinterEnd {
    queue: SyncSender<Line>,
    thread: JoinHandle<()>,
}

impl Printer {
    /// Starts the thread that prints.
    pub(crate) fn start(terminal: Terminal) -> Result<(Self, PrinterEnd)> {
        let (queue, lines) = sync_channel(Self::LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&dropped);
        let thread = std::thread::Builder::new()
            .name("plugbus-printer".to_owned())
            .spawn(move || print(terminal, &lines, &count))
            .map_err(|error| Failure::failed(format_args!("cannot start a thread: {error}")))?;
        let end = PrinterEnd { queue: queue.clone(), thread };
        let printer = Self { queue, dropped };
        if terminal.shows_table() {
            *LIVE.lock() = Some(printer.clone());
        }
        Ok((printer, end))
    }

    /// Prints a line, or counts it when nobody takes any.
    pub(crate) fn print(&self, line: Line) {
        if self.queue.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed); // A count for people; orders nothing.
        }
    }

    const LINES_MAX: usize = 4_096;
}

impl PrinterEnd {
    /// Returns when everything that was queued before has been printed.
    pub(crate) fn wait(self) {
        *LIVE.lock() = None;
        if self.queue.send(Line::End).is_err() || self.thread.join().is_err() {
            log::error!("the printing thread panicked");
        }
    }
}

fn print(terminal: Terminal, lines: &Receiver<Line>, dropped: &AtomicU64) {
    let mut table = Vec::new();
    let mut drawn = 0;
    loop {
        let line = match lines.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                // Whoever reads sees a table only when nothing more is to come at once.
                if drawn == 0 && !table.is_empty() {
                    drawn = terminal.draw(&table);
                }
                let Ok(line) = lines.recv() else { return };
                line
            }
        };
        terminal.erase(std::mem::take(&mut drawn));
        let lost = dropped.swap(0, Ordering::Relaxed); // As in `Printer::print`.
        if lost > 0 {
            terminal.note(format_args!("{DIM}{lost} lines were not printed{DIM:#}"));
        }
        match line {
            Line::Out(text) => {
                if let Err(failure) = terminal.line(text) {
                    log::debug!("a line is lost: {failure:?}");
                }
            }
            Line::Error(text) => terminal.note(text),
            Line::Table(lines) => table = lines,
            Line::End => return,
        }
    }
}

/// The printer that has a table, if one has.
static LIVE: Mutex<Option<Printer>> = Mutex::new(None);

/// Where log lines go: to standard error, past a table that may stand there.
#[derive(Debug)]
pub(crate) struct LogOutput;

impl Write for LogOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &*LIVE.lock() {
            Some(printer) => {
                let text = String::from_utf8_lossy(bytes);
                printer.print(Line::Error(text.trim_end().to_owned()));
                Ok(bytes.len())
            }
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
