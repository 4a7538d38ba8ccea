//! What is known of supervised plugins, for people: `status`, `why`, `top` and the live table.
//!
//! It only remembers what was decided elsewhere, and a bounded part of it: the last changes of each
//! child, and the last lines that it printed to standard error.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::exit::Exit;
use super::logs::time_now;
use super::report::{Explanation, Load, PluginReport, TimelineRow};
use crate::engine::supervise::{Cause, Changed, State};
use crate::limit;
use crate::net::uptime;

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
    /// Those that live, by generation: two while one replaces the other.
    processes: BTreeMap<u64, ProcessRow>,
    generation: u64,
    restarts: u64,
    failures: u32,
    last_exit: Option<String>,
    /// How the latest process that has ended did so.
    process_exit: Option<(u64, Exit)>,
    next_at: Option<Duration>,
    needs: Vec<String>,
    version: Option<String>,
    critical: bool,
    timeline: VecDeque<TimelineRow>,
    stderr: VecDeque<String>,
}

#[derive(Debug)]
struct ProcessRow {
    pid: u32,
    load: Option<Load>,
}

impl Board {
    /// Makes a place for a child, or says anew what its manifest says.
    pub(crate) fn seat(
        &self,
        seat: Seat,
        needs: Vec<String>,
        version: Option<String>,
        critical: bool,
    ) {
        let mut seats = self.seats.lock();
        let row = seats.entry(seat).or_insert_with(|| Row {
            state: State::Stopped,
            since: time_now(),
            since_at: uptime::now().mono,
            reason: "not started yet".to_owned(),
            processes: BTreeMap::new(),
            generation: 0,
            restarts: 0,
            failures: 0,
            last_exit: None,
            process_exit: None,
            next_at: None,
            needs: Vec::new(),
            version: None,
            critical: false,
            timeline: VecDeque::new(),
            stderr: VecDeque::new(),
        });
        row.needs = needs;
        row.version = version;
        row.critical = critical;
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
        // Which may be one that was replaced long ago, and is not the one that people ask for.
        if changed.cause != Cause::Unkillable {
            row.generation = changed.generation;
        }
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
        let (from, to) = (changed.from.name().to_owned(), changed.to.name().to_owned());
        push_bounded(
            &mut row.timeline,
            TimelineRow { time, from, to, cause },
            limit::TIMELINE_ROWS_MAX,
        );
    }

    /// Shows a process for as long as the result lives.
    pub(crate) fn enter(&self, seat: &Seat, generation: u64, pid: u32) -> Shown {
        self.with(seat, |row| {
            row.processes.insert(generation, ProcessRow { pid, load: None });
        });
        Shown { board: self.clone(), seat: seat.clone(), generation }
    }

    /// How the latest of its processes that have ended did so.
    pub(crate) fn process_exit(&self, seat: &Seat) -> Option<Exit> {
        self.seats.lock().get(seat)?.process_exit.map(|(_, exit)| exit)
    }

    /// Those that have a process.
    pub(crate) fn running(&self) -> Vec<Seat> {
        let seats = self.seats.lock();
        seats
            .iter()
            .filter(|(_, row)| !row.processes.is_empty())
            .map(|(seat, _)| seat.clone())
            .collect()
    }

    /// It printed a line to standard error.
    pub(crate) fn complained(&self, seat: &Seat, line: &str) {
        self.with(seat, |row| {
            push_bounded(&mut row.stderr, line.to_owned(), limit::STDERR_LINES_MAX);
        });
    }

    /// What a process uses now.
    pub(crate) fn used(&self, seat: &Seat, generation: u64, load: Load) {
        self.with(seat, |row| {
            if let Some(process) = row.processes.get_mut(&generation) {
                process.load = Some(load);
            }
        });
    }

    /// Children that are known no longer lose their places, when they have ended.
    pub(crate) fn retain(&self, is_known: impl Fn(&Seat) -> bool) {
        self.seats.lock().retain(|seat, row| !row.processes.is_empty() || is_known(seat));
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

/// A process that is shown.
#[derive(Debug)]
pub(crate) struct Shown {
    board: Board,
    seat: Seat,
    generation: u64,
}

impl Shown {
    /// It has ended like this, or nothing more can be done to end it.
    pub(crate) fn ended(&self, exit: Exit) {
        let ended = (self.generation, exit);
        self.board.with(&self.seat, |row| {
            if row.process_exit.is_none_or(|(last, _)| last <= self.generation) {
                row.process_exit = Some(ended);
            }
        });
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.board.with(&self.seat, |row| {
            row.processes.remove(&self.generation);
        });
    }
}

impl Row {
    /// The process that people ask for: the one that serves, or is to.
    fn process(&self) -> Option<&ProcessRow> {
        self.processes.get(&self.generation).or_else(|| self.processes.values().next_back())
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
        pid: row.process().map(|process| process.pid),
        generation: row.generation,
        restarts: row.restarts,
        failures: row.failures,
        last_exit: row.last_exit.clone(),
        next_try_ms: row.next_at.map(|at| milliseconds(at.saturating_sub(now))),
        needs: row.needs.clone(),
        needed_by,
        version: row.version.clone(),
        critical: row.critical,
        load: row.process().and_then(|process| process.load),
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
        Cause::Renewed => "its configuration changed".to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::supervise::ChildId;

    #[test]
    fn while_two_processes_live_the_one_that_serves_is_shown() {
        let board = Board::default();
        let seat = seated(&board, 0);
        let old = board.enter(&seat, 1, 100);
        board.change(&seat, &changed(1, State::Starting, State::Ready, Cause::Reported));
        board.used(&seat, 1, memory(10));
        board.change(&seat, &changed(1, State::Ready, State::Replacing, Cause::Command));
        let new = board.enter(&seat, 2, 200);
        board.used(&seat, 2, memory(20));
        assert_eq!(shown(&board), [(1, Some(100), Some(10))], "the old one serves");

        board.change(&seat, &changed(2, State::Replacing, State::Ready, Cause::Replaced));
        board.used(&seat, 1, memory(11));
        assert_eq!(shown(&board), [(2, Some(200), Some(20))], "the new one serves");
        old.ended(Exit::Code(0));
        drop(old);
        assert_eq!(shown(&board), [(2, Some(200), Some(20))], "the end of the other is no news");
        drop(new);
        assert_eq!(shown(&board), [(2, None, None)]);
    }

    #[test]
    fn the_end_that_is_told_is_that_of_the_latest_process() {
        let board = Board::default();
        let seat = seated(&board, 0);
        let (old, new) = (board.enter(&seat, 1, 100), board.enter(&seat, 2, 200));
        new.ended(Exit::Code(3));
        old.ended(Exit::Killed);
        assert_eq!(board.process_exit(&seat), Some(Exit::Code(3)));
    }

    #[test]
    fn a_successor_that_failed_leaves_no_trace_of_its_process() {
        let board = Board::default();
        let seat = seated(&board, 0);
        let _old = board.enter(&seat, 1, 100);
        board.change(&seat, &changed(1, State::Ready, State::Replacing, Cause::Command));
        drop(board.enter(&seat, 2, 200));
        board.change(&seat, &changed(1, State::Replacing, State::Ready, Cause::Stable));
        assert_eq!(shown(&board), [(1, Some(100), None)]);
        // A retired one that cannot be killed is told of, and is not the one that serves.
        board.change(&seat, &changed(7, State::Ready, State::Ready, Cause::Unkillable));
        assert_eq!(shown(&board), [(1, Some(100), None)]);
    }

    /// A group that starts over counts from 1 again.
    #[test]
    fn the_generation_shown_is_the_one_that_runs() {
        let board = Board::default();
        let seat = seated(&board, 0);
        board.change(&seat, &changed(5, State::Starting, State::Ready, Cause::Reported));
        board.change(&seat, &changed(1, State::Stopped, State::Starting, Cause::GroupStarts));
        assert_eq!(shown(&board), [(1, None, None)]);
    }

    #[test]
    fn instances_that_were_removed_disappear_when_they_have_ended() {
        let board = Board::default();
        let seats = [0, 1, 2].map(|instance| seated(&board, instance));
        let last = board.enter(&seats[2], 3, 300);
        let clear = || board.retain(|(_, instance)| *instance == 0);
        clear();
        assert_eq!(shown(&board), [(0, None, None), (0, Some(300), None)]);
        drop(last);
        clear();
        assert_eq!(shown(&board), [(0, None, None)]);
    }

    fn seated(board: &Board, instance: u32) -> Seat {
        let seat = ("weather".to_owned(), instance);
        board.seat(seat.clone(), Vec::new(), None, false);
        seat
    }

    fn changed(generation: u64, from: State, to: State, cause: Cause) -> Changed {
        let id = ChildId::new("weather");
        let at = Duration::ZERO;
        Changed { id, generation, from, to, cause, at, failures: 0, next_at: None }
    }

    fn memory(memory: u64) -> Load {
        Load { memory, ..Load::default() }
    }

    /// Generation, process and memory of each row.
    fn shown(board: &Board) -> Vec<(u64, Option<u32>, Option<u64>)> {
        let row = |row: &PluginReport| (row.generation, row.pid, row.load.map(|load| load.memory));
        board.reports().iter().map(row).collect()
    }
}
