//! The machine of one group.
//!
//! [`Group`] takes commands ([`command`]), reports and the time, and after each of them does what
//! can be done ([`turn`]): it stops who has to stop, in reverse, and starts who has to start, in
//! order. Nothing waits in a call, so commands are served between the attempts of a restart.
//!
//! It does not carry anything out, and believes in nothing but reports: a child is gone when its
//! end is reported, and a report of another incarnation than the one it names changes nothing.

mod child;
mod command;
mod fail;
mod message;
mod plan;
mod run;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::VecDeque;
use std::time::Duration;

use self::child::{Child, Incarnation, Phase as Life, Then};
pub use self::message::{
    Answer, Cause, Changed, ChildView, Command, Ended, Order, Output, Phase, Plan, Refusal, Report,
    Waits,
};
use super::backoff::Random;
use super::exit::Exit;
use super::governor::Governor;
use super::intensity::Window;
use super::life::{State, Step};
use super::spec::{
    ChildId, ChildSpec, GroupFlags, OnExhausted, Restart, Shutdown, SpecError, Strategy,
};

/// A supervisor: its children, in order, and what it still has to do for them.
///
/// The driver calls one of the `handle_` functions, then [`poll_output`](Self::poll_output) until
/// there is nothing left, then waits until [`next_deadline`](Self::next_deadline) at most.
///
/// Every `Order::Start` is owed one `Report::Exited`.
#[derive(Debug)]
pub struct Group {
    flags: GroupFlags,
    children: Vec<Child>,
    phase: Phase,
    /// How the group will end, while it stops.
    exit: Exit,
    /// Restarts of the whole group.
    window: Window,
    random: Random,
    /// The newest incarnation. Names are never reused, not even for a child that was removed and
    /// added again.
    generation: u64,
    outputs: VecDeque<Output>,
    now: Duration,
    deadline: Option<Duration>,
    /// When to ask the governor again, if it said no.
    governor_at: Option<Duration>,
}

impl Group {
    /// A group that is not started. `seed` decides the jitter.
    ///
    /// # Errors
    ///
    /// What does not fit together, and what to change.
    pub fn new(flags: GroupFlags, specs: Vec<ChildSpec>, seed: u64) -> Result<Self, SpecError> {
        let is_together = matches!(flags.strategy, Strategy::OneForAll | Strategy::RestForOne);
        if is_together && flags.on_exhausted == OnExhausted::Quarantine {
            return Err(SpecError::QuarantineTogether);
        }
        let mut group = Self {
            flags,
            children: Vec::with_capacity(specs.len()),
            phase: Phase::New,
            exit: Exit::Stopped,
            window: Window::default(),
            random: Random(seed),
            generation: 0,
            outputs: VecDeque::new(),
            now: Duration::ZERO,
            deadline: None,
            governor_at: None,
        };
        group.check_plan(&Plan { added: specs.clone(), ..Plan::default() })?;
        group.children = specs.into_iter().map(|spec| Child::new(spec, Duration::ZERO)).collect();
        Ok(group)
    }

    /// Starts the children that are not lazy. Once.
    pub fn start(&mut self, now: Duration, governor: &mut Governor) {
        self.advance(now);
        if self.phase != Phase::New {
            return;
        }
        let is_ordered = self.is_ordered();
        for index in 0..self.children.len() {
            let child = &mut self.children[index];
            child.since = self.now;
            if child.spec.lazy {
                self.step(index, Step::Doze, Cause::GroupStarts);
            } else {
                child.want(self.now, Cause::GroupStarts);
                child.has_turn = is_ordered;
            }
        }
        self.phase = if is_ordered { Phase::Starting } else { Phase::Running };
        if !is_ordered {
            self.outputs.push_back(Output::Up);
        }
        self.turn(governor);
    }

    /// Takes what is said of the incarnation `generation` of a child. Dropped if that one is gone,
    /// or was never there.
    pub fn handle_report(
        &mut self,
        now: Duration,
        id: &ChildId,
        generation: u64,
        report: Report,
        governor: &mut Governor,
    ) {
        self.advance(now);
        let Some(index) = self.index(id) else { return };
        if !self.children[index].incarnations().any(|one| one.generation == generation) {
            return;
        }
        match report {
            Report::Ready => self.serve(index, generation, governor),
            Report::Busy(is_busy) => self.load(index, generation, is_busy),
            Report::Active => self.note_activity(index, generation),
            Report::Hung(why) => self.condemn(index, generation, Exit::Hang(why), governor),
            Report::Violated(how) => {
                self.condemn(index, generation, Exit::Violation(how), governor);
            }
            Report::Exited(exit) => self.bury(index, generation, exit, governor),
        }
        self.turn(governor);
    }

    /// Does what is due. Call it at [`next_deadline`](Self::next_deadline) or later.
    pub fn handle_timeout(&mut self, now: Duration, governor: &mut Governor) {
        self.advance(now);
        for index in 0..self.children.len() {
            let generations: Vec<u64> = self.children[index]
                .incarnations()
                .filter(|one| one.deadline().is_some_and(|at| at <= self.now))
                .map(|one| one.generation)
                .collect();
            for generation in generations {
                self.climb(index, generation, governor);
            }
            if self.is_ending() {
                continue;
            }
            let child = &mut self.children[index];
            if child.stable_at().is_some_and(|at| at <= self.now) {
                child.forgive();
                self.step(index, Step::Trust, Cause::Stable);
                self.settle_load(index);
            }
            if self.children[index].idle_at().is_some_and(|at| at <= self.now) {
                self.stop_child(index, Then::Sleep, Cause::Idle, governor);
            }
        }
        self.turn(governor);
    }

    /// The next thing to carry out or to tell.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When the group wants to be called, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Where the group is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How the group treats its children.
    #[must_use]
    pub fn flags(&self) -> &GroupFlags {
        &self.flags
    }

    /// What can be seen of the children, in order.
    pub fn children(&self) -> impl Iterator<Item = ChildView<'_>> {
        (0..self.children.len()).map(|index| self.view(index))
    }

    /// What can be seen of one child.
    #[must_use]
    pub fn child(&self, id: &str) -> Option<ChildView<'_>> {
        let index = self.children.iter().position(|child| child.spec.id.as_str() == id)?;
        Some(self.view(index))
    }

    fn view(&self, index: usize) -> ChildView<'_> {
        let child = &self.children[index];
        ChildView {
            spec: &child.spec,
            state: child.state,
            since: child.since,
            generation: child.generation,
            is_serving: child.is_serving(),
            is_unkillable: child.is_unkillable(),
            is_leaving: child.kept_spec().is_none(),
            failures: child.failures,
            last_exit: child.last_exit.as_ref(),
            next_at: self.next_at(index),
            waits: self.waits(index),
        }
    }

    fn index(&self, id: &ChildId) -> Option<usize> {
        self.children.iter().position(|child| child.spec.id == *id)
    }

    fn is_ordered(&self) -> bool {
        self.flags.strategy != Strategy::Dynamic
    }

    fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Stopping | Phase::Ended)
    }

    /// Time never goes back. Where it jumped, children get a second for what was due meanwhile.
    fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if self.deadline.is_some_and(|at| at < self.now) {
            let now = self.now;
            self.children.iter_mut().for_each(|child| {
                child.incarnations_mut().for_each(|one| one.forgive(now));
            });
        }
    }

    /// The only place that changes a state.
    fn step(&mut self, index: usize, step: Step, cause: Cause) {
        let next_at = match step {
            Step::Delay | Step::Open => Some(self.children[index].due),
            _ => None,
        };
        let child = &mut self.children[index];
        let from = child.state;
        let to = from.after(step);
        let to = to.unwrap_or_else(|| panic!("{step:?} of `{}`, which is {from}", child.spec.id));
        child.state = to;
        if from != to {
            child.since = self.now;
        }
        self.outputs.push_back(Output::Changed(Changed {
            id: child.spec.id.clone(),
            generation: child.generation,
            from,
            to,
            cause,
            at: self.now,
            failures: child.failures,
            next_at,
        }));
    }

    fn order(&mut self, order: Order) {
        self.outputs.push_back(Output::Order(order));
    }

    /// Says something of a child whose state stays what it is.
    fn tell(&mut self, index: usize, generation: u64, cause: Cause) {
        let child = &self.children[index];
        self.outputs.push_back(Output::Changed(Changed {
            id: child.spec.id.clone(),
            generation,
            from: child.state,
            to: child.state,
            cause,
            at: self.now,
            failures: child.failures,
            next_at: None,
        }));
    }
}
