//! What is known of supervised plugins, for people: `status`, `why`, `top` and the live table.
//!
//! It only remembers what was decided elsewhere, and a bounded part of it: the last changes of each
//! child, and the last lines that it printed to standard error.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::exit::Exit;
use super::logs::time_now;
use crate::engine::supervise::{Cause, Changed, State};
use crate::limit;
use crate::net::uptime;

/// One process of a plugin, as people see it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PluginReport {
    /// The plugin's id.
    pub id: String,
    /// Which of its processes, from 0.
    pub instance: u32,
    /// Where it is in its life; `docs/supervision.md` has the states.
    pub state: String,
    /// Since when, as RFC 3339 in UTC.
    pub since: String,
    /// How long ago that was, in milliseconds.
    pub since_ms: u64,
    /// Why it is in this state.
    pub reason: String,
    /// Its process, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The number of the process that runs or ran last, from 1.
    pub generation: u64,
    /// How often it was started again because it had ended.
    pub restarts: u64,
    /// Failures since it last ran stably.
    pub failures: u32,
    /// How it last ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
    /// Milliseconds until it is tried again, where that is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_ms: Option<u64>,
    /// Plugins that it starts after.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Plugins that start after it.
    #[serde(default)]
    pub needed_by: Vec<String>,
    /// The version in its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What it uses, as of the last look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
}

/// What a process uses.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Load {
    /// Resident memory in bytes.
    pub memory: u64,
    /// Share of one processor since the look before, in percent.
    pub cpu_percent: f64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Messages that the broker has handed to it, of all kinds.
    #[serde(default)]
    pub messages: u64,
}

/// One change of a child's state.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TimelineRow {
    /// When, as RFC 3339 in UTC.
    pub time: String,
    /// The state before.
    pub from: String,
    /// The state after.
    pub to: String,
    /// Why.
    pub cause: String,
}

/// All that one screen needs to say why a plugin is as it is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Explanation {
    /// What it is like now.
    pub plugin: PluginReport,
    /// Its last changes, the oldest first.
    pub timeline: Vec<TimelineRow>,
    /// The last lines that it printed to standard error.
    pub stderr: Vec<String>,
    /// What to do next: a complete command, if there is one that helps.
    pub next_command: Option<String>,
}

/// One child of the plugins' group: a plugin's id and the number of one of its processes.
pub(crate) type Seat = (String, u32);

/// Cheap to clone; all clones are the same board.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board {
    seats: Arc<Mutex<BTreeMap<Seat, Row>>>,
}

#[derive(Debug)]
struct Row {
    state: State,
    since: String,
    since_at: Duration,
    reason: String,
    pid: Option<u32>,
    generation: u64,
    restarts: u64,
    failures: u32,
    last_exit: Option<String>,
    /// How its last process ended.
    process_exit: Option<Exit>,
    next_at: Option<Duration>,
    needs: Vec<String>,
    version: Option<String>,
    load: Option<Load>,
    timeline: VecDeque<TimelineRow>,
    stderr: VecDeque<String>,
}

impl Board {
    /// Makes a place for a child, or says anew what its manifest says.
    pub(crate) fn seat(&self, seat: Seat, needs: Vec<String>, version: Option<String>) {
        let mut seats = self.seats.lock();
        let row = seats.entry(seat).or_insert_with(|| Row {
            state: State::Stopped,
            since: time_now(),
            since_at: uptime::now().mono,
            reason: "not started yet".to_owned(),
            pid: None,
            generation: 0,
            restarts: 0,
            failures: 0,
            last_exit: None,
            process_exit: None,
            next_at: None,
            needs: Vec::new(),
            version: None,
            load: None,
            timeline: VecDeque::new(),
            stderr: VecDeque::new(),
        });
        row.needs = needs;
        row.version = version;
    }

    /// Takes note of what its group decided.
    pub(crate) fn change(&self, seat: &Seat, changed: &Changed) {
        let mut seats = self.seats.lock();
        let Some(row) = seats.get_mut(seat) else { return };
        let cause = cause_text(&changed.cause);
        let time = time_now();
        if changed.from != changed.to {
            row.state = changed.to;
            row.since.clone_from(&time);
            row.since_at = changed.at;
        }
        row.reason.clone_from(&cause);
        row.generation = row.generation.max(changed.generation);
        row.failures = changed.failures;
        row.next_at = changed.next_at;
        match &changed.cause {
            Cause::Exited(exit) | Cause::Killed(exit) if exit.is_abnormal() => {
                row.last_exit = Some(exit.to_string());
            }
            _ => (),
        }
        if changed.cause == Cause::Due {
            row.restarts += 1;
        }
        if !changed.to.is_running() {
            row.pid = None;
            row.load = None;
        }
        let (from, to) = (changed.from.name().to_owned(), changed.to.name().to_owned());
        push_bounded(
            &mut row.timeline,
            TimelineRow { time, from, to, cause },
            limit::TIMELINE_ROWS_MAX,
        );
    }

    /// Its process runs.
    pub(crate) fn started(&self, seat: &Seat, pid: u32) {
        self.with(seat, |row| {
            row.pid = Some(pid);
            row.process_exit = None;
        });
    }

    /// Its process has ended.
    pub(crate) fn ended(&self, seat: &Seat, exit: Exit) {
        self.with(seat, |row| row.process_exit = Some(exit));
    }

    /// How its last process ended, if it has.
    pub(crate) fn process_exit(&self, seat: &Seat) -> Option<Exit> {
        self.seats.lock().get(seat)?.process_exit
    }

    /// Those that have a process.
    pub(crate) fn running(&self) -> Vec<Seat> {
        let seats = self.seats.lock();
        seats.iter().filter(|(_, row)| row.pid.is_some()).map(|(seat, _)| seat.clone()).collect()
    }

    /// It printed a line to standard error.
    pub(crate) fn complained(&self, seat: &Seat, line: &str) {
        self.with(seat, |row| {
            push_bounded(&mut row.stderr, line.to_owned(), limit::STDERR_LINES_MAX);
        });
    }

    /// What it uses now.
    pub(crate) fn used(&self, seat: &Seat, load: Load) {
        self.with(seat, |row| row.load = Some(load));
    }

    /// The last lines of its standard error, the oldest first.
    pub(crate) fn stderr(&self, seat: &Seat) -> Vec<String> {
        let seats = self.seats.lock();
        seats.get(seat).map(|row| row.stderr.iter().cloned().collect()).unwrap_or_default()
    }

    /// Plugins that are known no longer lose their places.
    pub(crate) fn retain(&self, is_known: impl Fn(&str) -> bool) {
        self.seats.lock().retain(|(plugin, _), row| row.pid.is_some() || is_known(plugin));
    }

    /// What its processes are like, in the order of their names.
    pub(crate) fn reports(&self) -> Vec<PluginReport> {
        let seats = self.seats.lock();
        seats.iter().map(|(seat, row)| report(&seats, seat, row)).collect()
    }

    /// Why a plugin is as it is, for each of its processes.
    pub(crate) fn explain(&self, plugin: &str) -> Vec<Explanation> {
        let seats = self.seats.lock();
        let own = seats.range((plugin.to_owned(), 0)..=(plugin.to_owned(), u32::MAX));
        own.map(|(seat, row)| Explanation {
            plugin: report(&seats, seat, row),
            timeline: row.timeline.iter().cloned().collect(),
            stderr: row.stderr.iter().cloned().collect(),
            next_command: next_command(plugin, row.state),
        })
        .collect()
    }

    fn with(&self, seat: &Seat, change: impl FnOnce(&mut Row)) {
        if let Some(row) = self.seats.lock().get_mut(seat) {
            change(row);
        }
    }
}

fn report(seats: &BTreeMap<Seat, Row>, (id, instance): &Seat, row: &Row) -> PluginReport {
    let now = uptime::now().mono;
    let needed_by = seats.iter().filter(|(_, other)| other.needs.contains(id));
    let mut needed_by: Vec<String> = needed_by.map(|((other, _), _)| other.clone()).collect();
    needed_by.dedup();
    PluginReport {
        id: id.clone(),
        instance: *instance,
        state: row.state.name().to_owned(),
        since: row.since.clone(),
        since_ms: milliseconds(now.saturating_sub(row.since_at)),
        reason: row.reason.clone(),
        pid: row.pid,
        generation: row.generation,
        restarts: row.restarts,
        failures: row.failures,
        last_exit: row.last_exit.clone(),
        next_try_ms: row.next_at.map(|at| milliseconds(at.saturating_sub(now))),
        needs: row.needs.clone(),
        needed_by,
        version: row.version.clone(),
        load: row.load,
    }
}

/// What a person types next.
fn next_command(plugin: &str, state: State) -> Option<String> {
    match state {
        State::Failed | State::Disabled | State::Quarantined | State::Stopped => {
            Some(format!("plugbus start {plugin}"))
        }
        State::BackingOff => Some(format!("plugbus start {plugin}    # without waiting")),
        State::HalfOpen | State::Starting => Some(format!("plugbus logs -f {plugin}")),
        State::Sleeping => Some(format!("plugbus signal {plugin} wake")),
        State::Ready | State::Busy | State::Stopping | State::Replacing => None,
    }
}

/// A cause in words.
pub(crate) fn cause_text(cause: &Cause) -> String {
    match cause {
        Cause::Command => "a command".to_owned(),
        Cause::Demand => "somebody needed it".to_owned(),
        Cause::GroupStarts => "the broker starts".to_owned(),
        Cause::GroupStops => "the broker stops".to_owned(),
        Cause::Sibling(sibling) => format!("started again together with {sibling}"),
        Cause::Due => "its delay is over".to_owned(),
        Cause::Reported => "it said so".to_owned(),
        Cause::Exited(exit) => exit.to_string(),
        Cause::Killed(exit) => format!("to be {exit}"),
        Cause::Stable => "it ran long enough to be trusted again".to_owned(),
        Cause::Idle => "nobody needed it".to_owned(),
        Cause::Replaced => "its successor serves".to_owned(),
        Cause::ReplaceFailed(exit) => {
            format!("its successor {exit}, so that it goes on serving")
        }
        Cause::Unkillable => "it was killed and is still there".to_owned(),
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, max: usize) {
    if queue.len() >= max {
        queue.pop_front();
    }
    queue.push_back(item);
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
