//! The task that carries out what a group decides, and the line on which its children report.
//!
//! It runs from one start of the group to its end, on the arbiter where that was started, and ends
//! the children if it cannot go on.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::child::{Child, Line, Reports, Transition};
use super::group::{Core, State};
use super::incarnation::text_of;
use crate::engine::supervise::{self as engine, ChildId, Exit, Order, Output, Phase, Report};
use crate::net::uptime;

/// Reports of one start of a group.
struct EpochLine {
    core: Arc<Core>,
    epoch: u64,
    path: String,
    parent: Option<Reports>,
}

impl Line for EpochLine {
    fn report(&self, child: &ChildId, generation: u64, report: Report) {
        let mut state = self.core.state.lock();
        if state.epoch != self.epoch {
            return;
        }
        if matches!(report, Report::Exited(_)) {
            state.lives.remove(&(child.clone(), generation));
        }
        // A broken machine takes no reports; its task ends the group.
        let _taken = self.core.drive(&mut state, |machine, now, governor| {
            machine.handle_report(now, child, generation, report, governor);
        });
    }

    fn pass_on(&self, transition: &Transition) {
        self.core.tell(transition);
        if let Some(parent) = &self.parent {
            parent.pass_on(transition);
        }
    }

    fn path(&self) -> String {
        self.path.clone()
    }
}

/// From one start of the group to its end.
pub(super) struct Driver {
    core: Arc<Core>,
    line: Arc<EpochLine>,
    parent: Option<Reports>,
    has_ended: bool,
}

impl Driver {
    pub(super) fn start(core: Arc<Core>, parent: Option<Reports>) {
        let path = parent.as_ref().map_or_else(|| core.name.clone(), Reports::path);
        let mut gone = Vec::new();
        let epoch = {
            let mut state = core.state.lock();
            state.epoch += 1;
            state.failure = None;
            state.lives.clear();
            if state.machine.phase() != Phase::New {
                // Whoever was on its way out has gone, and those that come under its name remain.
                let (mut names, mut kept) = (BTreeSet::new(), Vec::new());
                for slot in std::mem::take(&mut state.slots).into_iter().rev() {
                    let is_last = names.insert(slot.spec.id.clone());
                    if is_last { kept.push(slot) } else { gone.push(slot) }
                }
                state.slots = kept.into_iter().rev().collect();
                let specs = state.slots.iter().map(|slot| slot.spec.clone()).collect();
                state.machine = engine::Group::new(core.flags.clone(), specs, core.seed)
                    .expect("they were in one group before");
            }
            core.drive(&mut state, |machine, now, governor| machine.start(now, governor));
            state.epoch
        };
        // Dropped here, where the lock is not held: a child may do anything at its end.
        drop(gone);
        core.ended.send_replace(None);
        let line = EpochLine { core: Arc::clone(&core), epoch, path, parent: parent.clone() };
        let driver = Self { core, line: Arc::new(line), parent, has_ended: false };
        actix::spawn(driver.run());
    }

    async fn run(mut self) {
        loop {
            while let Some(output) = self.next_output() {
                self.carry_out(output);
                if self.has_ended {
                    return;
                }
            }
            let (deadline, failure) = {
                let state = self.core.state.lock();
                (state.machine.next_deadline(), state.failure.clone())
            };
            if let Some(failure) = failure {
                log::error!("group `{}` decides no more: {failure}", self.line.path);
                return self.abandon(&failure);
            }
            let due = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(uptime::deadline(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.core.work.notified() => (),
                () = due => {
                    let mut state = self.core.state.lock();
                    self.core.drive(&mut state, |machine, now, governor| {
                        machine.handle_timeout(now, governor);
                    });
                }
            }
        }
    }

    fn next_output(&self) -> Option<Output> {
        let mut state = self.core.state.lock();
        if state.failure.is_some() { None } else { state.machine.poll_output() }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Order(order) => self.obey(order),
            Output::Changed(changed) => {
                let transition = Transition { group: self.line.path.clone(), changed };
                log_transition(&transition);
                self.line.pass_on(&transition);
            }
            Output::Up => {
                if let Some(parent) = &self.parent {
                    parent.ready();
                }
            }
            Output::Ended(ended) => {
                for child in &ended.unkillable {
                    log::error!(
                        "group `{}` ends without child `{child}`, which cannot be killed",
                        self.line.path
                    );
                }
                self.end(ended.exit);
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Start { id, generation, replaces } => {
                self.note_start(&id, generation);
                let line: Arc<dyn Line> = Arc::clone(&self.line) as Arc<dyn Line>;
                let reports = Reports::new(line, id.clone(), generation, replaces);
                // Reports that a panic drops say that the incarnation failed.
                self.with_child(&id, |child| child.start(reports));
            }
            Order::Stop { id, generation, within } => {
                self.with_child(&id, |child| child.stop(generation, within));
            }
            Order::Kill { id, generation } => {
                self.with_child(&id, |child| child.kill(generation));
            }
            Order::Switch { id, from, to } => self.with_child(&id, |child| child.switch(from, to)),
            Order::Forget { id } => {
                let slot = {
                    let mut state = self.core.state.lock();
                    let place = state.slots.iter().position(|slot| slot.spec.id == id);
                    place.map(|place| state.slots.remove(place))
                };
                // Dropped here, where the lock is not held: a child may do anything at its end.
                drop(slot);
            }
        }
    }

    fn note_start(&self, id: &ChildId, generation: u64) {
        let mut state = self.core.state.lock();
        state.lives.insert((id.clone(), generation));
        if let Some(slot) = state.slots.iter_mut().find(|slot| slot.spec.id == *id) {
            slot.starts += 1;
        }
    }

    /// Calls a child outside of the lock.
    fn with_child(&self, id: &ChildId, call: impl FnOnce(&mut dyn Child)) {
        let find = |state: &mut State| state.slots.iter().position(|slot| slot.spec.id == *id);
        let child = {
            let mut state = self.core.state.lock();
            find(&mut state).and_then(|place| state.slots[place].child.take())
        };
        let Some(mut child) = child else { return };
        let called = catch_unwind(AssertUnwindSafe(|| call(child.as_mut())));
        if let Err(payload) = called {
            let (path, text) = (&self.line.path, text_of(payload));
            log::error!("child `{id}` of `{path}` panicked at an order: {text}");
        }
        let mut state = self.core.state.lock();
        if let Some(place) = find(&mut state) {
            state.slots[place].child = Some(child);
        }
    }

    /// Ends the group where it cannot decide any more.
    fn abandon(&mut self, why: &str) {
        let lives = std::mem::take(&mut self.core.state.lock().lives);
        for (id, generation) in lives {
            self.with_child(&id, |child| child.kill(generation));
        }
        self.end(Exit::Panic(why.into()));
    }

    fn end(&mut self, exit: Exit) {
        self.has_ended = true;
        self.core.ended.send_replace(Some(exit.clone()));
        match self.parent.take() {
            Some(parent) => parent.exited(exit),
            // Nobody can start it again, so nobody needs its children and their mail any more.
            None => self.core.drop_children(),
        }
    }
}

/// A task that is dropped with its System, or that panicked, leaves no child behind.
impl Drop for Driver {
    fn drop(&mut self) {
        if !self.has_ended {
            self.abandon("its task has ended");
        }
    }
}

fn log_transition(transition: &Transition) {
    let Transition { group, changed } = transition;
    let (id, from, to, cause) = (&changed.id, changed.from, changed.to, &changed.cause);
    let level = if changed.is_alert() { log::Level::Warn } else { log::Level::Debug };
    log::log!(level, "child `{id}` of `{group}` is {to}, was {from}: {cause:?}");
}
