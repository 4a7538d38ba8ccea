//! What follows on the end of an incarnation.

use std::time::Duration;

use super::run::give_place_back;
use super::{
    Cause, Exit, Governor, Group, Incarnation, OnExhausted, Phase, Restart, State, Step, Strategy,
    Then,
};
use crate::engine::supervise::spec::AutoShutdown;

impl Group {
    /// An incarnation is gone.
    pub(super) fn bury(
        &mut self,
        index: usize,
        generation: u64,
        exit: Exit,
        governor: &mut Governor,
    ) {
        let is_ending = self.is_ending();
        let child = &mut self.children[index];
        let is_it = |one: &Incarnation| one.generation == generation;
        if let Some(place) = child.retired.iter().position(is_it) {
            let mut one = child.retired.remove(place);
            give_place_back(&mut one, governor);
            self.forget_if_removed(index);
            return;
        }
        if let Some(mut one) = child.successor.take_if(|one| is_it(one)) {
            give_place_back(&mut one, governor);
            let exit = one.fate.unwrap_or(exit);
            child.active_at = self.now;
            self.step(index, Step::Settle, Cause::ReplaceFailed(exit));
            self.settle_load(index);
            return;
        }
        let mut one = child.current.take().expect("the generation is one of the three");
        give_place_back(&mut one, governor);
        let exit = one.fate.take().unwrap_or(exit);
        if child.state == State::Replacing {
            self.inherit(index, exit);
        } else if child.needed_by.take().is_some() {
            // It would have been removed a little later.
            child.then = Then::Remove;
            self.end_as_asked(index, exit);
        } else if child.state == State::Stopping && child.then != Then::Recover
            || is_ending
            || child.is_halted
        {
            self.end_as_asked(index, exit);
        } else {
            self.fail(index, one.ready_at, exit);
        }
    }

    /// The old one ended before its successor was ready, which is all that is left.
    fn inherit(&mut self, index: usize, exit: Exit) {
        let child = &mut self.children[index];
        let one = child.successor.take().expect("one that is being replaced has a successor");
        let fate = one.fate.clone();
        child.generation = one.generation;
        child.current = Some(one);
        child.last_exit = Some(exit.clone());
        self.step(index, Step::Inherit, Cause::Exited(exit));
        if let Some(fate) = fate {
            self.children[index].then = Then::Recover;
            self.step(index, Step::Halt, Cause::Killed(fate));
        }
    }

    /// An end that somebody wanted; it does not count.
    fn end_as_asked(&mut self, index: usize, exit: Exit) {
        let is_ending = self.is_ending();
        let now = self.now;
        let child = &mut self.children[index];
        let is_halted = std::mem::take(&mut child.is_halted);
        let (then, cause) = match child.state {
            State::Stopping => (child.then, Cause::Exited(exit)),
            _ if child.then == Then::Remove => (Then::Remove, Cause::Exited(exit)),
            // It ended by itself before it was asked.
            _ => (Then::Start, Cause::Exited(exit)),
        };
        let is_temporary = child.spec.restart == Restart::Temporary;
        match then {
            Then::Sleep if !is_ending => {
                child.has_turn = false;
                self.step(index, Step::Doze, cause);
            }
            Then::Start | Then::Recover if !(is_ending || is_halted && is_temporary) => {
                let why = child.why.clone();
                child.want(now, why);
                self.step(index, Step::End, cause);
            }
            Then::Remove => {
                child.has_turn = false;
                self.step(index, Step::End, cause);
                self.forget_if_removed(index);
            }
            _ => {
                child.has_turn = false;
                self.step(index, Step::End, cause);
                if is_temporary && !is_ending {
                    self.forget_temporary(index);
                }
            }
        }
    }

    /// A child ended that should not have, or has done its work.
    fn fail(&mut self, index: usize, ready_at: Option<Duration>, exit: Exit) {
        let now = self.now;
        let is_ordered = self.is_ordered();
        let child = &mut self.children[index];
        child.last_exit = Some(exit.clone());
        let backoff = &child.spec.backoff;
        if ready_at.is_some_and(|at| now.saturating_sub(at) >= backoff.stable_after) {
            child.failures = 0;
            child.trials = 0;
        }
        let restart = child.spec.restart;
        let is_first = self.phase == Phase::Starting && child.has_turn && ready_at.is_none();
        if is_first && (exit.is_abnormal() || restart == Restart::Permanent) {
            return self.fail_upward(index, exit);
        }
        if restart == Restart::Temporary || restart == Restart::Transient && !exit.is_abnormal() {
            return self.finish(index, exit);
        }
        let quarantines = self.flags.on_exhausted == OnExhausted::Quarantine;
        let child = &mut self.children[index];
        child.failures += 1;
        if exit.is_permanent() {
            if is_ordered && !quarantines {
                return self.exhaust(index, "", exit);
            }
            return self.step(index, Step::Fail, Cause::Exited(exit));
        }
        let is_worn_out =
            child.spec.backoff.disable_after.is_some_and(|most| child.failures > most);
        let (window, intensity) = if quarantines {
            (&mut child.window, child.spec.intensity.unwrap_or(self.flags.intensity))
        } else {
            (&mut self.window, self.flags.intensity)
        };
        let is_exhausted = window.add(now, intensity);
        if !quarantines && (is_exhausted || is_worn_out) {
            return self.exhaust(index, "too many restarts: ", exit);
        }
        if is_worn_out {
            return self.step(index, Step::Disable, Cause::Exited(exit));
        }
        let is_trial = self.children[index].trials > 0;
        if is_exhausted || is_trial {
            return self.quarantine(index, exit);
        }
        let child = &mut self.children[index];
        let delay = child.spec.backoff.delay(child.failures, &mut self.random);
        child.want(now.saturating_add(delay), Cause::Due);
        self.step(index, Step::Delay, Cause::Exited(exit));
        self.involve_siblings(index);
    }

    fn quarantine(&mut self, index: usize, exit: Exit) {
        let child = &mut self.children[index];
        let open = child.spec.backoff.open(child.trials, &mut self.random);
        child.trials = child.trials.saturating_add(1);
        child.has_turn = false;
        child.want(self.now.saturating_add(open), Cause::Due);
        self.step(index, Step::Open, Cause::Exited(exit));
    }

    /// Who is restarted with a child that failed: they stop first, in reverse, then all start in
    /// order when the delay of the failed one is over.
    fn involve_siblings(&mut self, failed: usize) {
        let first = match self.flags.strategy {
            // A failed start that is part of an ordered one goes on in its turn.
            Strategy::OneForOne | Strategy::Dynamic => return,
            Strategy::OneForAll => 0,
            Strategy::RestForOne => failed,
        };
        let id = self.children[failed].spec.id.clone();
        let now = self.now;
        self.children[failed].has_turn = true;
        for (index, child) in self.children.iter_mut().enumerate().skip(first) {
            if index == failed {
                continue;
            }
            let is_temporary = child.spec.restart == Restart::Temporary;
            if child.current.is_some() {
                let is_leaving = child.state == State::Stopping
                    && matches!(child.then, Then::Rest | Then::Sleep | Then::Remove);
                child.is_halted = true;
                child.has_turn = !is_temporary && !is_leaving;
                child.why = Cause::Sibling(id.clone());
            } else if is_temporary || child.is_held || child.state == State::Sleeping {
                // Never restarted, stopped by a command, or waits for demand.
            } else {
                let due = if child.is_wanted { child.due } else { now };
                child.want(due, Cause::Sibling(id.clone()));
                child.has_turn = true;
            }
        }
    }

    /// The first start failed: those that were started stop, and the parent is told.
    fn fail_upward(&mut self, index: usize, exit: Exit) {
        let id = &self.children[index].spec.id;
        let why = format!("child `{id}`: {exit}").into();
        let permanent = exit.is_permanent();
        self.step(index, Step::End, Cause::Exited(exit));
        self.shut_down(Exit::StartFailed { permanent, why });
    }

    /// A child that was not ready in time does not even end. If it was its turn in the first
    /// start, that start has failed.
    pub(super) fn miss_start(&mut self, index: usize) {
        let child = &self.children[index];
        let is_late = child.has_turn && child.then == Then::Recover;
        if is_late && self.phase == Phase::Starting {
            let id = &child.spec.id;
            let why = format!("child `{id}` was not ready in time, and does not end").into();
            self.shut_down(Exit::StartFailed { permanent: false, why });
        }
    }

    /// Restarting cannot go on: the group stops, and its parent is told.
    fn exhaust(&mut self, index: usize, why: &str, exit: Exit) {
        let id = &self.children[index].spec.id;
        let why = format!("{why}child `{id}`: {exit}").into();
        self.step(index, Step::End, Cause::Exited(exit));
        self.shut_down(Exit::Exhausted(why));
    }

    /// A child ended that is not restarted.
    fn finish(&mut self, index: usize, exit: Exit) {
        let child = &mut self.children[index];
        child.has_turn = false;
        child.forgive();
        let (is_significant, is_temporary) =
            (child.spec.significant, child.spec.restart == Restart::Temporary);
        self.step(index, Step::End, Cause::Exited(exit));
        if is_temporary {
            self.forget_temporary(index);
        }
        let is_last = || {
            let mut others = self.children.iter().filter(|child| child.spec.significant);
            !others.any(|child| child.current.is_some() || child.is_wanted)
        };
        let is_over = match self.flags.auto_shutdown {
            AutoShutdown::Never => false,
            AutoShutdown::Any => is_significant,
            AutoShutdown::All => is_significant && is_last(),
        };
        if is_over {
            self.shut_down(Exit::Normal);
        }
    }

    /// From now on the group only stops.
    pub(super) fn shut_down(&mut self, exit: Exit) {
        self.phase = Phase::Stopping;
        self.exit = exit;
        for child in &mut self.children {
            child.is_wanted = false;
            child.has_turn = false;
            child.is_halted = false;
            if child.then != Then::Remove {
                child.then = Then::Rest;
            }
        }
    }

    /// What others start after stays known, or they would wait for nobody.
    fn forget_temporary(&mut self, index: usize) {
        let spec = &self.children[index].spec;
        let mut needs = self.children.iter().flat_map(|child| &child.spec.after);
        let is_needed = needs.any(|name| spec.answers_to(name));
        if self.flags.forgets_temporary && !is_needed {
            self.children[index].then = Then::Remove;
            self.forget_if_removed(index);
        }
    }
}
