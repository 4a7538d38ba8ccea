//! Whose turn it is: stops in reverse, starts in order, as far as both can go now.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{
    Cause, ChildId, Ended, Governor, Group, Output, Phase, Restart, State, Step, Then, Waits,
};

impl Group {
    /// Does all that can be done now. Ends every input.
    pub(super) fn turn(&mut self, governor: &mut Governor) {
        self.governor_at = None;
        if self.phase == Phase::Stopping {
            self.turn_stop(governor);
        }
        if matches!(self.phase, Phase::Starting | Phase::Running) {
            self.turn_leaving(governor);
            self.turn_ordered(governor);
            self.turn_others(governor);
            self.turn_stale();
        }
        self.deadline = self.find_deadline();
    }

    /// Stops everybody: in order the last one first, otherwise whoever nobody needs any more.
    fn turn_stop(&mut self, governor: &mut Governor) {
        let is_ordered = self.is_ordered();
        let needed: BTreeSet<ChildId> = (self.children.iter())
            .filter(|child| !child.is_gone())
            .flat_map(|child| child.spec.after.iter().cloned())
            .collect();
        for index in (0..self.children.len()).rev() {
            if is_ordered && self.children.get(index + 1).is_some_and(|later| !later.is_gone()) {
                break;
            }
            if needed.iter().any(|name| self.children[index].spec.answers_to(name)) {
                continue;
            }
            self.hurry_retired(index, governor);
            let child = &self.children[index];
            if child.state.is_running() {
                if child.state != State::Stopping {
                    self.stop_child(index, Then::Rest, Cause::GroupStops, governor);
                }
            } else if child.state != State::Stopped {
                self.step(index, Step::End, Cause::GroupStops);
            }
        }
        if self.children.iter().all(|child| child.is_gone()) {
            self.phase = Phase::Ended;
            let unkillable = self.children.iter().filter(|child| child.is_unkillable());
            let unkillable = unkillable.map(|child| child.spec.id.clone()).collect();
            let ended = Ended { exit: self.exit.clone(), unkillable };
            self.outputs.push_back(Output::Ended(ended));
        }
    }

    /// Goes on with an ordered start: first those stop that have to stop for it, in reverse, then
    /// one starts after the other.
    fn turn_ordered(&mut self, governor: &mut Governor) {
        while let Some(index) = self.children.iter().rposition(|child| child.is_halted) {
            let child = &mut self.children[index];
            if child.current.is_none() || child.is_gone() {
                child.is_halted = false;
            } else if child.state == State::Stopping {
                return;
            } else {
                let is_temporary = child.spec.restart == Restart::Temporary;
                let then = if is_temporary { Then::Rest } else { Then::Start };
                let cause = child.why.clone();
                self.stop_child(index, then, cause, governor);
            }
        }
        let Some(due) = self.turn_due() else { return self.finish_start() };
        if due > self.now {
            return;
        }
        while let Some(index) = self.children.iter().position(|child| child.has_turn) {
            let child = &mut self.children[index];
            let is_done = match child.state {
                State::Starting => return,
                State::Stopping if child.is_gone() => true,
                State::Stopping => return,
                state => state.is_running() || !child.is_wanted || child.is_unkillable(),
            };
            if is_done {
                child.has_turn = false;
            } else if !self.try_launch(index, governor) {
                return;
            }
        }
        self.finish_start();
    }

    /// When the ordered start may begin, or go on: its children wait for the slowest delay, so
    /// that they come back together.
    fn turn_due(&self) -> Option<Duration> {
        let mut waiting = self.children.iter().filter(|child| child.has_turn).peekable();
        waiting.peek()?;
        let idle = waiting.filter(|child| child.is_startable());
        Some(idle.map(|child| child.due).max().unwrap_or_default())
    }

    fn finish_start(&mut self) {
        if self.phase == Phase::Starting {
            self.phase = Phase::Running;
            self.outputs.push_back(Output::Up);
        }
    }

    /// Starts those that wait for no turn, the longest due first.
    fn turn_others(&mut self, governor: &mut Governor) {
        let mut ready: Vec<(Duration, usize)> = (self.children.iter().enumerate())
            .filter(|(_, child)| child.is_startable() && !child.has_turn && !child.is_halted)
            .filter(|(_, child)| child.due <= self.now)
            .map(|(index, child)| (child.due, index))
            .collect();
        ready.sort_unstable();
        for (_, index) in ready {
            if self.missing_dependency(index).is_none() {
                self.try_launch(index, governor);
            }
        }
    }

    /// Starts the child unless the governor says no.
    fn try_launch(&mut self, index: usize, governor: &mut Governor) -> bool {
        if self.children[index].spec.governed
            && let Err(at) = governor.acquire(self.now)
        {
            self.governor_at = Some(self.governor_at.map_or(at, |other| other.min(at)));
            return false;
        }
        self.launch(index);
        true
    }

    /// The first of those it starts after that is not there.
    pub(super) fn missing_dependency(&self, index: usize) -> Option<&ChildId> {
        self.children[index].spec.after.iter().find(|name| !self.is_there(name))
    }

    /// Whether one of the children of the name is there for others.
    pub(super) fn is_there(&self, name: &ChildId) -> bool {
        self.children.iter().any(|child| child.spec.answers_to(name) && child.is_available())
    }

    fn find_deadline(&self) -> Option<Duration> {
        let mut deadline = self.governor_at;
        let mut consider = |at: Option<Duration>| {
            deadline = deadline.into_iter().chain(at).min();
        };
        for child in &self.children {
            consider(child.ladder_at());
        }
        if matches!(self.phase, Phase::Starting | Phase::Running) {
            for child in &self.children {
                consider(child.stable_at());
                consider(child.idle_at());
                // What is due already waits for something else than the time.
                let due = child.is_startable() && child.due > self.now;
                consider(due.then_some(child.due));
            }
        }
        deadline
    }

    pub(super) fn next_at(&self, index: usize) -> Option<Duration> {
        let child = &self.children[index];
        let is_waiting = matches!(child.state, State::BackingOff | State::Quarantined);
        (is_waiting && child.is_wanted).then_some(child.due)
    }

    pub(super) fn waits(&self, index: usize) -> Option<Waits<'_>> {
        let child = &self.children[index];
        if !child.is_wanted || child.current.is_some() {
            return None;
        }
        if child.is_unkillable() {
            return Some(Waits::Itself);
        }
        if child.due > self.now {
            return Some(Waits::Delay);
        }
        if child.has_turn {
            let halted = self.children.iter().rfind(|child| child.is_halted);
            let other = halted.or_else(|| self.children.iter().find(|child| child.has_turn));
            let other = other.filter(|other| other.spec.id != child.spec.id);
            if let Some(other) = other {
                return Some(Waits::Child(&other.spec.id));
            }
        }
        Some(self.missing_dependency(index).map_or(Waits::Governor, Waits::Child))
    }
}
