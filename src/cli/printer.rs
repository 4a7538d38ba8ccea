//! Prints what plugins print, without ever making them wait.
//!
//! A terminal can be stopped (Ctrl-S), a pipe can be full. Then lines are dropped and counted here,
//! so that neither the broker nor a plugin stands still for somebody who does not read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

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
        Ok((Self { queue, dropped }, end))
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
        if self.queue.send(Line::End).is_err() || self.thread.join().is_err() {
            log::error!("the printing thread panicked");
        }
    }
}

fn print(terminal: Terminal, lines: &Receiver<Line>, dropped: &AtomicU64) {
    for line in lines {
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
            Line::End => return,
        }
    }
}
