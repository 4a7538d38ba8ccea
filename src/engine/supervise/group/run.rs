//! The runs of a child: started, ready, replaced, asked to end, killed, given up.

use super::{
    Cause, Child, Exit, Governor, Group, Incarnation, Life, Order, Shutdown, State, Step, Then,
};

impl Group {
    /// Starts an incarnation, or the trial of one.
    pub(super) fn launch(&mut self, index: usize) {
        let one = self.new_incarnation(index);
        let child = &mut self.children[index];
        let (id, generation) = (child.spec.id.clone(), one.generation);
        child.generation = generation;
        child.current = Some(one);
        child.is_wanted = false;
        child.then = Then::Rest;
        let step = if child.state == State::Quarantined { Step::Try } else { Step::Launch };
        let cause = child.why.clone();
        self.step(index, step, cause);
        self.order(Order::Start { id, generation, replaces: None });
    }

    pub(super) fn new_incarnation(&mut self, index: usize) -> Incarnation {
        self.generation += 1;
        let child = &mut self.children[index];
        child.is_stale = false;
        let spec = &child.spec;
        Incarnation {
            generation: self.generation,
            phase: Life::Starting {
                deadline: spec.start_timeout.map(|timeout| self.now.saturating_add(timeout)),
            },
            ready_at: None,
            fate: None,
            has_place: spec.governed,
            is_forgiven: false,
            is_busy: false,
        }
    }

    /// An incarnation is ready.
    pub(super) fn serve(&mut self, index: usize, generation: u64, governor: &mut Governor) {
        let now = self.now;
        let child = &mut self.children[index];
        let one = incarnation(child, generation);
        if !matches!(one.phase, Life::Starting { .. }) {
            return;
        }
        one.phase = Life::Up;
        one.ready_at = Some(now);
        give_place_back(one, governor);
        child.active_at = now;
        if child.current.as_ref().is_some_and(|one| one.generation == generation) {
            self.step(index, Step::Serve, Cause::Reported);
        } else {
            self.switch(index, governor);
        }
    }

    /// The successor takes over; the old one is asked to end.
    fn switch(&mut self, index: usize, governor: &mut Governor) {
        let child = &mut self.children[index];
        let new = child.successor.take().expect("only a successor gets ready beside another");
        let old = child.current.take().expect("a successor stands beside one that serves");
        let (id, from, to) = (child.spec.id.clone(), old.generation, new.generation);
        child.generation = to;
        child.current = Some(new);
        child.retired.push(old);
        self.order(Order::Switch { id, from, to });
        self.step(index, Step::Settle, Cause::Replaced);
        self.settle_load(index);
        let retire = self.children[index].spec.retire;
        self.end_incarnation(index, from, retire, governor);
    }

    pub(super) fn load(&mut self, index: usize, generation: u64, is_busy: bool) {
        let child = &mut self.children[index];
        child.active_at = self.now;
        incarnation(child, generation).is_busy = is_busy;
        self.settle_load(index);
    }

    /// An incarnation that starts is being prepared, and its time to get ready begins again. One
    /// that serves does not go to sleep yet.
    pub(super) fn note_activity(&mut self, index: usize, generation: u64) {
        let now = self.now;
        let child = &mut self.children[index];
        let timeout = child.spec.start_timeout;
        let one = incarnation(child, generation);
        if let Life::Starting { deadline } = &mut one.phase {
            *deadline = timeout.map(|timeout| now.saturating_add(timeout));
        } else {
            child.active_at = now;
        }
    }

    /// Makes the state say what the serving incarnation says.
    pub(super) fn settle_load(&mut self, index: usize) {
        let child = &self.children[index];
        let is_busy = child.current.as_ref().is_some_and(|one| one.is_busy);
        match child.state {
            State::Ready if is_busy => self.step(index, Step::Load, Cause::Reported),
            State::Busy if !is_busy => self.step(index, Step::Unload, Cause::Reported),
            _ => (),
        }
    }

    /// Kills an incarnation that failed, as if it had ended by itself.
    pub(super) fn condemn(
        &mut self,
        index: usize,
        generation: u64,
        fate: Exit,
        governor: &mut Governor,
    ) {
        let child = &mut self.children[index];
        let is_current = child.current.as_ref().is_some_and(|one| one.generation == generation);
        let one = incarnation(child, generation);
        if one.is_stopping() {
            return;
        }
        one.fate = Some(fate.clone());
        if is_current {
            child.then = Then::Recover;
            // A successor is on its way already and takes over when this one is gone.
            if child.state != State::Replacing {
                self.step(index, Step::Halt, Cause::Killed(fate));
            }
        }
        self.kill_incarnation(index, generation, governor);
    }

    /// Asks the child to end. It is running and not stopping.
    pub(super) fn stop_child(
        &mut self,
        index: usize,
        then: Then,
        cause: Cause,
        governor: &mut Governor,
    ) {
        let child = &mut self.children[index];
        child.then = then;
        let current = child.current.as_ref().expect("a running child").generation;
        let successor = child.successor.take().map(|one| {
            let generation = one.generation;
            child.retired.push(one);
            generation
        });
        let shutdown = child.spec.shutdown;
        self.step(index, Step::Halt, cause);
        self.end_incarnation(index, current, shutdown, governor);
        if let Some(successor) = successor {
            self.end_incarnation(index, successor, shutdown, governor);
        }
        if then != Then::Start {
            self.hurry_retired(index, governor);
        }
    }

    /// The child is to be gone: those that were replaced get no more time than any other.
    pub(super) fn hurry_retired(&mut self, index: usize, governor: &mut Governor) {
        let child = &mut self.children[index];
        let latest = match child.spec.shutdown {
            Shutdown::Brutal => Some(self.now),
            Shutdown::Within(within) => Some(self.now.saturating_add(within)),
            Shutdown::Infinite => None,
        };
        let Some(latest) = latest else { return };
        for one in &mut child.retired {
            if let Life::Stopping { kill_at } = &mut one.phase {
                *kill_at = Some(kill_at.map_or(latest, |at| at.min(latest)));
            }
        }
        let due = |one: &&Incarnation| one.deadline().is_some_and(|at| at <= self.now);
        let stopping =
            child.retired.iter().filter(|one| matches!(one.phase, Life::Stopping { .. }));
        let late: Vec<u64> = stopping.filter(due).map(|one| one.generation).collect();
        for generation in late {
            self.kill_incarnation(index, generation, governor);
        }
    }

    pub(super) fn end_incarnation(
        &mut self,
        index: usize,
        generation: u64,
        shutdown: Shutdown,
        governor: &mut Governor,
    ) {
        let now = self.now;
        let child = &mut self.children[index];
        let within = match shutdown {
            Shutdown::Brutal => return self.kill_incarnation(index, generation, governor),
            Shutdown::Within(within) => Some(within),
            Shutdown::Infinite => None,
        };
        let id = child.spec.id.clone();
        let one = incarnation(child, generation);
        if one.is_stopping() {
            return;
        }
        give_place_back(one, governor);
        one.phase = Life::Stopping { kill_at: within.map(|within| now.saturating_add(within)) };
        one.is_forgiven = false;
        self.order(Order::Stop { id, generation, within });
    }

    pub(super) fn kill_incarnation(
        &mut self,
        index: usize,
        generation: u64,
        governor: &mut Governor,
    ) {
        let give_up_at = self.now.saturating_add(self.flags.unkillable_after);
        let child = &mut self.children[index];
        let id = child.spec.id.clone();
        let one = incarnation(child, generation);
        if matches!(one.phase, Life::Killed { .. } | Life::Unkillable) {
            return;
        }
        give_place_back(one, governor);
        one.phase = Life::Killed { give_up_at };
        one.is_forgiven = false;
        self.order(Order::Kill { id, generation });
    }

    /// The time of an incarnation is up: the next rung of the ladder.
    pub(super) fn climb(&mut self, index: usize, generation: u64, governor: &mut Governor) {
        match incarnation(&mut self.children[index], generation).phase {
            Life::Starting { .. } => {
                self.condemn(index, generation, Exit::StartTimeout, governor);
            }
            Life::Stopping { .. } => self.kill_incarnation(index, generation, governor),
            Life::Killed { .. } => {
                let child = &mut self.children[index];
                incarnation(child, generation).phase = Life::Unkillable;
                self.tell(index, generation, Cause::Unkillable);
                self.miss_start(index);
            }
            Life::Up | Life::Unkillable => (),
        }
    }
}

fn incarnation(child: &mut Child, generation: u64) -> &mut Incarnation {
    child
        .incarnations_mut()
        .find(|one| one.generation == generation)
        .expect("the caller has found it")
}

/// What starts takes a place in the governor until it is ready, asked to end or gone.
pub(super) fn give_place_back(one: &mut Incarnation, governor: &mut Governor) {
    if std::mem::take(&mut one.has_place) {
        governor.release();
    }
}
