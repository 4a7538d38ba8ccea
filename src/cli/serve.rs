//! What `up` and `run` share: a broker and its plugins in the foreground.

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Context;
use super::failure::{Failure, Result, Status};
use super::printer::{Line, Printer};
use super::terminal::{BOLD, BOLD_RED, DIM, GREEN, Terminal, YELLOW};
use crate::broker::{Broker, BrokerError};
use crate::host::logs::{self, LogSettings, LogStore, LogStream};
use crate::host::{Exit, PluginEvent, PluginSpec, Plugins, Stream};
use crate::limit::Limits;
use crate::net::{ListenError, socket_path};
use crate::sys::limits::raise_descriptor_limit;

/// What to run.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) name: Option<String>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) limits: Limits,
    pub(crate) plugins: Vec<PluginSpec>,
}

/// Runs it until Ctrl-C or SIGTERM.
pub(crate) async fn run(context: &Context, served: Served) -> Result<()> {
    let mut stop = StopSignals::listen()?;
    if let Err(error) = raise_descriptor_limit() {
        log::warn!("cannot raise the limit of open descriptors: {error}");
    }
    let broker = start_broker(context, &served).await?;
    let (printer, printer_end) = Printer::start(context.terminal)?;
    let log = open_log(&broker);
    let show = Show::new(context.terminal, printer, &served.plugins);
    show.broker(&broker);
    let result = {
        let mut work = pin!(async {
            let plugins = served.plugins;
            let result = serve(&broker, plugins, show.clone(), log.clone(), &mut stop).await;
            broker.shutdown().await;
            result
        });
        let mut abort = StopSignals::listen()?;
        tokio::select! {
            result = &mut work => result,
            () = abort.second() => Err(aborted()),
        }
    };
    if result.is_err() {
        // Whoever is left has been killed or cannot be waited for.
        let ended = tokio::time::timeout(ABORT_TIMEOUT, broker.shutdown()).await;
        log::debug!("the broker has ended: {}", ended.is_ok());
    }
    printer_end.wait();
    if let Some(log) = log {
        log.flush();
    }
    result
}

/// The logs on disk. A broker without them still works.
fn open_log(broker: &Broker) -> Option<LogStore> {
    let directory = logs::directory(broker.socket()?)?;
    LogStore::open(&directory, LogSettings::default())
        .inspect_err(|error| {
            log::warn!("cannot keep logs in {}: {error}; they are only shown", directory.display());
        })
        .ok()
}

/// Keeps what a plugin prints and what becomes of it.
fn keep(log: &LogStore, event: &PluginEvent) {
    match event {
        PluginEvent::Started { id, pid } => {
            log.append(id, LogStream::Lifecycle, Some(*pid), "started");
        }
        PluginEvent::Ready { id, after } => {
            let text = format!("ready after {} ms", after.as_millis());
            log.append(id, LogStream::Lifecycle, None, &text);
        }
        PluginEvent::Printed { id, stream, line } => {
            let stream = match stream {
                Stream::Stdout => LogStream::Stdout,
                Stream::Stderr => LogStream::Stderr,
            };
            log.append(id, stream, None, line);
        }
        PluginEvent::Exited { id, exit, expected } => {
            let text = format!("{exit}{}", if *expected { ", as it was asked to" } else { "" });
            log.append(id, LogStream::Lifecycle, None, &text);
        }
    }
}

/// How long the socket may take to go after everything was ended at once.
const ABORT_TIMEOUT: Duration = Duration::from_millis(500);

async fn serve(
    broker: &Broker,
    specs: Vec<PluginSpec>,
    show: Show,
    log: Option<LogStore>,
    stop: &mut StopSignals,
) -> Result<()> {
    let count = specs.len();
    let shown = show.clone();
    let observer = move |event| {
        if let Some(log) = &log {
            keep(log, &event);
        }
        shown.plugin(&event);
    };
    let plugins = tokio::select! {
        plugins = Plugins::start(broker, specs, observer) => {
            plugins.map_err(|error| Failure::failed(with_sources(&error)))?
        }
        // Dropping the half-started ones kills them: they have not begun to work.
        () = stop.first() => return Ok(()),
    };
    show.serving(count);
    stop.first().await;
    show.stopping();
    plugins.stop().await;
    Ok(())
}

async fn start_broker(context: &Context, served: &Served) -> Result<Broker> {
    let name = served.name.as_deref().unwrap_or(socket_path::DEFAULT_NAME);
    // What is said on the command line or in the environment goes before the file.
    let socket = match context.socket.as_ref().or(served.socket.as_ref()) {
        Some(socket) => socket.clone(),
        None => socket_path::named(name).map_err(Failure::usage)?,
    };
    let builder = Broker::builder().name(name).socket(socket).limits(served.limits.clone());
    builder.start().await.map_err(|error| match error {
        BrokerError::Listen { source: source @ ListenError::InUse { .. }, .. } => {
            Failure::new(Status::Refused, source)
        }
        BrokerError::Listen { source, .. } => Failure::usage(source),
        error => Failure::failed(with_sources(&error)),
    })
}

/// An error with all its reasons; some errors tell their reason themselves.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text += &format!(": {reason}");
        }
        source = error.source();
    }
    text
}

fn aborted() -> Failure {
    Failure::new(Status::Interrupted, "ended at once; plugins were killed")
}

/// Ctrl-C and SIGTERM.
#[derive(Debug)]
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn listen() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::failed(format_args!("cannot listen for signals: {error}"))
            })
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn first(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
    }

    /// The second Ctrl-C; SIGTERM twice changes nothing.
    async fn second(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
        self.interrupt.recv().await;
    }
}

/// The live status lines.
#[derive(Clone, Debug)]
struct Show {
    json: bool,
    printer: Printer,
    /// So that what plugins print is aligned.
    id_width: usize,
}

impl Show {
    fn new(terminal: Terminal, printer: Printer, plugins: &[PluginSpec]) -> Self {
        let id_width = plugins.iter().map(|plugin| plugin.id().len()).max().unwrap_or(0);
        Self { json: terminal.json, printer, id_width }
    }

    fn broker(&self, broker: &Broker) {
        let socket = broker.socket().map(|path| path.display().to_string());
        self.out(
            json!({"event": "listening", "broker": broker.name(), "socket": socket,
                   "pid": std::process::id()}),
            format!(
                "{BOLD}broker {}{BOLD:#} listens on {}",
                broker.name(),
                socket.as_deref().unwrap_or("no socket")
            ),
        );
    }

    fn serving(&self, plugins: usize) {
        let text = match plugins {
            0 => "no plugins are configured; others may join. Ctrl-C stops".to_owned(),
            1 => "the plugin is ready. Ctrl-C stops".to_owned(),
            count => format!("all {count} plugins are ready. Ctrl-C stops"),
        };
        self.out(json!({"event": "serving", "plugins": plugins}), format!("{DIM}{text}{DIM:#}"));
    }

    fn stopping(&self) {
        self.out(
            json!({"event": "stopping"}),
            format!("{DIM}stopping; Ctrl-C again ends at once{DIM:#}"),
        );
    }

    fn plugin(&self, event: &PluginEvent) {
        let width = self.id_width;
        match event {
            PluginEvent::Started { id, pid } => {
                log::info!("plugin {id} is process {pid}");
                if self.json {
                    let value = json!({"event": "started", "plugin": id.as_str(), "pid": pid});
                    self.printer.print(Line::Out(value.to_string()));
                }
            }
            PluginEvent::Ready { id, after } => self.out(
                json!({"event": "ready", "plugin": id.as_str(), "ms": after.as_millis() as u64}),
                format!("{GREEN}{id:width$}{GREEN:#} is ready in {} ms", after.as_millis()),
            ),
            PluginEvent::Printed { id, stream, line } => {
                let colour = if *stream == Stream::Stderr { YELLOW } else { DIM };
                let text = format!("{colour}{id:width$} |{colour:#} {}", plain(line));
                let name = if *stream == Stream::Stderr { "stderr" } else { "stdout" };
                let value = json!({"event": "output", "plugin": id.as_str(), "stream": name,
                                   "line": line});
                match (self.json, stream) {
                    (true, _) => self.printer.print(Line::Out(value.to_string())),
                    (false, Stream::Stderr) => self.printer.print(Line::Error(text)),
                    (false, _) => self.printer.print(Line::Out(text)),
                }
            }
            PluginEvent::Exited { id, exit, expected } => {
                let well = *expected && matches!(exit, Exit::Code(0));
                let colour = if well { DIM } else { BOLD_RED };
                self.out(
                    json!({"event": "exited", "plugin": id.as_str(), "exit": exit.to_string(),
                           "expected": expected}),
                    format!("{colour}{id:width$} {exit}{colour:#}"),
                );
            }
        }
    }

    fn out(&self, value: serde_json::Value, text: String) {
        let line = if self.json { value.to_string() } else { text };
        self.printer.print(Line::Out(line));
    }
}

/// What a plugin prints must not move the cursor or change what others printed: colours pass, other
/// control characters are shown.
pub(super) fn plain(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(|c: char| c.is_control() && c != '\t') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let size = colour_size(rest).unwrap_or(0);
        plain.push_str(&rest[..size]);
        if size == 0
            && let Some(control) = rest.chars().next()
        {
            plain.extend(control.escape_unicode());
            rest = &rest[control.len_utf8()..];
        }
        rest = &rest[size..];
    }
    plain.push_str(rest);
    plain
}

/// Size of the colour sequence at the beginning, if there is one.
fn colour_size(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_may_use_colours_but_not_the_cursor() {
        let cases = [
            ("plain\ttext", "plain\ttext"),
            ("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m"),
            ("a\x1b[2Jb", "a\\u{1b}[2Jb"),
            ("a\rb\x07", "a\\u{d}b\\u{7}"),
            ("\x1b", "\\u{1b}"),
            ("\x1b[31", "\\u{1b}[31"),
        ];
        for (line, expected) in cases {
            assert_eq!(plain(line), expected);
        }
    }
}
