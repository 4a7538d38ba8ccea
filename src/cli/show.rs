//! What `up` and `run` show of a broker and its plugins, as lines for people or as JSON.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;

use super::control::Difference;
use super::printer::{Line, Printer};
use super::table::fitting;
use super::terminal::{BOLD, BOLD_RED, DIM, GREEN, Terminal, YELLOW};
use crate::broker::Broker;
use crate::engine::supervise::{Cause, State};
use crate::host::board::cause_text;
use crate::host::control::ReloadReport;
use crate::host::{Exit, Manifest, PluginEvent, Plugins, Stream};
use crate::id::PluginId;
use crate::supervise::ChildStatus;

/// The live status lines.
#[derive(Clone, Debug)]
pub(super) struct Show {
    json: bool,
    /// The terminal, where a table stands below the lines.
    table: Option<Terminal>,
    /// Something changed that the table shows.
    news: Arc<Notify>,
    printer: Printer,
    /// So that what plugins print is aligned.
    id_width: usize,
}

impl Show {
    pub(super) fn new(
        terminal: Terminal,
        printer: Printer,
        plugins: &[(Manifest, Vec<PluginId>)],
    ) -> Self {
        let id_width =
            plugins.iter().map(|(plugin, _)| plugin.id.as_str().len()).max().unwrap_or(0);
        let table = terminal.shows_table().then_some(terminal);
        Self { json: terminal.json, table, news: Arc::default(), printer, id_width }
    }

    /// Shows the table, once in a while and when something changed, until it is dropped. Returns
    /// at once where there is none.
    pub(super) async fn draw(&self, plugins: &Plugins) {
        let Some(terminal) = self.table else { return };
        loop {
            let table = fitting(&plugins.reports(), terminal.size());
            self.printer.print(Line::Table(table));
            // Many changes at once are one.
            tokio::time::sleep(DRAW_INTERVAL_MIN).await;
            let changed = self.news.notified();
            // Whoever is late draws later; the time of the next second says nothing.
            drop(tokio::time::timeout(DRAW_INTERVAL_MAX, changed).await);
        }
    }

    pub(super) fn broker(&self, broker: &Broker) {
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

    pub(super) fn serving(&self, plugins: &[ChildStatus]) {
        let is_up = |plugin: &&ChildStatus| {
            matches!(plugin.state, State::Ready | State::Busy | State::Sleeping)
        };
        let up = plugins.iter().filter(is_up).count();
        let text = match (up, plugins.len()) {
            (_, 0) => "no plugins are configured; others may join. Ctrl-C stops".to_owned(),
            (1, 1) => "the plugin is ready. Ctrl-C stops".to_owned(),
            (up, all) if up == all => format!("all {all} plugins are ready. Ctrl-C stops"),
            (up, all) => format!("{up} of {all} plugins are ready. Ctrl-C stops"),
        };
        self.out(
            json!({"event": "serving", "plugins": plugins.len(), "ready": up}),
            format!("{DIM}{text}{DIM:#}"),
        );
    }

    /// SIGHUP came; `None` when there is no file to read.
    pub(super) fn reloaded(&self, outcome: Option<Result<ReloadReport, String>>) {
        let (value, text) = match outcome {
            None => return log::warn!("there is no configuration file to read again"),
            Some(Err(why)) => (
                json!({"event": "reload-failed", "reason": why}),
                format!("{BOLD_RED}not reloaded:{BOLD_RED:#} {why}"),
            ),
            Some(Ok(report)) => {
                let ReloadReport { added, removed, replaced, unchanged } = &report;
                let counts = [
                    (added.len(), "added"),
                    (removed.len(), "removed"),
                    (replaced.len(), "replaced"),
                    (unchanged.len(), "unchanged"),
                ];
                let text: Vec<_> = counts
                    .iter()
                    .filter(|(count, _)| *count > 0)
                    .map(|(count, what)| format!("{count} {what}"))
                    .collect();
                let text = format!("{DIM}reloaded: {}{DIM:#}", text.join(", "));
                (json!({"event": "reloaded", "report": report}), text)
            }
        };
        self.out(value, text);
    }

    /// A plugin of a watched folder cannot be used as it is now.
    pub(super) fn broken(&self, why: &str) {
        self.out(
            json!({"event": "broken", "reason": why}),
            format!("{BOLD_RED}not applied:{BOLD_RED:#} {}", plain(why)),
        );
    }

    /// Somebody edited a plugin.
    pub(super) fn edited(&self, id: &PluginId, files: &[PathBuf]) {
        let names: Vec<_> = files
            .iter()
            .filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned()))
            .collect();
        let width = self.id_width;
        self.out(
            json!({"event": "edited", "plugin": id.as_str(), "files": names}),
            format!("{DIM}{id:width$} changed: {}{DIM:#}", plain(&names.join(", "))),
        );
    }

    pub(super) fn stopping(&self) {
        self.out(
            json!({"event": "stopping"}),
            format!("{DIM}stopping; Ctrl-C again ends at once{DIM:#}"),
        );
    }

    pub(super) fn plugin(&self, event: &PluginEvent) {
        let width = self.id_width;
        if !matches!(event, PluginEvent::Printed { .. }) {
            self.news.notify_one();
        }
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
            PluginEvent::Changed { id, from, to, cause, next_try, .. } => {
                log::info!("plugin {id}: {from} -> {to}: {cause}");
                if self.json {
                    let value = json!({"event": "changed", "plugin": id.as_str(),
                        "from": from.name(), "to": to.name(), "cause": cause,
                        "next_try_ms": next_try.map(|wait| wait.as_millis() as u64)});
                    self.printer.print(Line::Out(value.to_string()));
                } else if *from == State::Replacing {
                    self.replaced(id, *to, cause);
                } else if from != to {
                    self.changed(id, *to, cause, *next_try);
                }
            }
            PluginEvent::Compared { id, difference } => {
                let value = json!({"event": "compared", "plugin": id.as_str(),
                                   "difference": difference});
                let text = match difference.is_empty() {
                    true => format!("{DIM}{id:width$} offers the same as before{DIM:#}"),
                    false => {
                        let rows = Difference::of(difference).rows();
                        let rows: Vec<_> =
                            rows.iter().map(|(sign, name)| format!("{sign} {name}")).collect();
                        format!("{YELLOW}{id:width$}{YELLOW:#} {}", rows.join(", "))
                    }
                };
                self.out(value, text);
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

    /// What a person has to know; starts and stops have lines of their own.
    fn changed(&self, id: &PluginId, to: State, cause: &str, next_try: Option<Duration>) {
        let colour = match to {
            State::Failed | State::Quarantined | State::Disabled => BOLD_RED,
            State::BackingOff | State::Replacing | State::HalfOpen | State::Sleeping => YELLOW,
            _ => return,
        };
        let next = match (to, next_try) {
            (_, Some(wait)) => format!("; again in {:.1} s", wait.as_secs_f64()),
            (State::Failed | State::Disabled, None) => format!("; see plugbus why {id}"),
            _ => String::new(),
        };
        let width = self.id_width;
        let text = format!("{colour}{id:width$} is {to}{colour:#}: {cause}{next}");
        self.printer.print(Line::Out(text));
    }

    /// A replacement has ended, well or not.
    fn replaced(&self, id: &PluginId, to: State, cause: &str) {
        let width = self.id_width;
        let text = match to {
            State::Ready | State::Busy if cause == cause_text(&Cause::Replaced) => {
                format!("{GREEN}{id:width$}{GREEN:#} is replaced: {cause}")
            }
            // The successor of what it was before is dropped; the next one starts at once.
            State::Ready | State::Busy if cause == cause_text(&Cause::Renewed) => return,
            State::Ready | State::Busy => {
                format!("{BOLD_RED}{id:width$} is not replaced{BOLD_RED:#}: {}", plain(cause))
            }
            _ => return self.changed(id, to, cause, None),
        };
        self.printer.print(Line::Out(text));
    }

    fn out(&self, value: serde_json::Value, text: String) {
        let line = if self.json { value.to_string() } else { text };
        self.printer.print(Line::Out(line));
    }
}

const DRAW_INTERVAL_MIN: Duration = Duration::from_millis(50);
const DRAW_INTERVAL_MAX: Duration = Duration::from_secs(1);

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
