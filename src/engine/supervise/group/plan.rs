//! A group that becomes another one while it runs: children are added, renewed and removed.
//!
//! The whole is checked before anything is touched. A child leaves when those that need it are
//! gone, and one that comes under its name waits for that.

use std::collections::BTreeSet;

use super::{
    Answer, Cause, Child, ChildId, ChildSpec, Governor, Group, Order, Phase, Plan, Refusal,
    SpecError, State, Step, Then,
};
use crate::limit::CHILDREN_MAX;

impl Group {
    pub(super) fn reshape(
        &mut self,
        plan: Plan,
        governor: &mut Governor,
    ) -> Result<Answer, Refusal> {
        for id in &plan.removed {
            self.find(id)?;
        }
        for spec in &plan.renewed {
            self.find_kept(&spec.id)?;
        }
        self.check_plan(&plan)?;
        // Who needs them, as long as it is known what that was before.
        let leaving: Vec<(ChildId, Vec<u64>)> =
            plan.removed.iter().map(|id| (id.clone(), self.users(id, &plan.removed))).collect();
        for spec in plan.renewed {
            self.renew(spec, governor);
        }
        for spec in plan.added {
            self.put(spec, governor);
        }
        for (id, users) in leaving {
            let index = self.find(&id)?;
            self.let_go(index, users, governor);
        }
        Ok(Answer::Accepted)
    }

    /// Adds a child that fits.
    pub(super) fn put(&mut self, spec: ChildSpec, governor: &mut Governor) {
        let id = spec.id.clone();
        match self.index(&id) {
            None => self.settle_in(spec, false),
            Some(index) => {
                self.children[index].heir = Some(Box::new(spec));
                // It does not wait any longer for those that need the one before.
                if self.children[index].needed_by.take().is_some() {
                    self.depart(index, governor);
                }
                if let Some(index) = self.index(&id) {
                    self.children[index].is_held = false;
                }
            }
        }
    }

    /// A new child, which starts when it can, unless it was stopped before it was there.
    fn settle_in(&mut self, spec: ChildSpec, is_held: bool) {
        let is_lazy = spec.lazy;
        let has_turn = self.children.iter().any(|child| child.has_turn);
        self.children.push(Child::new(spec, self.now));
        if !matches!(self.phase, Phase::Starting | Phase::Running) {
            return;
        }
        let index = self.children.len() - 1;
        if is_held {
            self.children[index].is_held = true;
        } else if is_lazy {
            self.step(index, Step::Doze, Cause::Command);
        } else {
            let now = self.now;
            let child = &mut self.children[index];
            child.want(now, Cause::Command);
            child.has_turn = has_turn;
        }
    }

    /// The spec of a child has changed, and what it is started by: that reaches it whatever it is
    /// doing.
    fn renew(&mut self, spec: ChildSpec, governor: &mut Governor) {
        let index = self.index(&spec.id).expect("it was found");
        let now = self.now;
        let child = &mut self.children[index];
        if child.is_leaving() {
            child.heir = Some(Box::new(spec));
            return;
        }
        let was_lazy = std::mem::replace(&mut child.spec, spec).lazy;
        match child.state {
            State::Replacing => self.drop_successor(index, governor),
            State::Starting | State::HalfOpen if !child.is_unkillable() => {
                child.forgive();
                child.why = Cause::Renewed;
                self.stop_child(index, Then::Start, Cause::Renewed, governor);
            }
            State::Stopping => {
                child.forgive();
                if child.then == Then::Recover {
                    child.then = Then::Start;
                }
            }
            State::BackingOff | State::Failed | State::Quarantined | State::Disabled
                if !child.is_held =>
            {
                child.forgive();
                child.want(now, Cause::Renewed);
            }
            State::Sleeping if was_lazy && !child.spec.lazy => child.want(now, Cause::Renewed),
            // The next start is made as it is known then.
            _ => (),
        }
        let child = &mut self.children[index];
        child.is_stale = child.state.is_running() && child.state != State::Stopping;
    }

    /// The successor of a child would be what is out of date already.
    fn drop_successor(&mut self, index: usize, governor: &mut Governor) {
        let child = &mut self.children[index];
        let one = child.successor.take().expect("one that is being replaced has a successor");
        let (generation, shutdown) = (one.generation, child.spec.shutdown);
        child.retired.push(one);
        self.step(index, Step::Settle, Cause::Renewed);
        self.settle_load(index);
        self.end_incarnation(index, generation, shutdown, governor);
    }

    /// Starts successors of those that are out of date, as soon as what they need is there.
    pub(super) fn turn_stale(&mut self) {
        for index in 0..self.children.len() {
            let child = &self.children[index];
            let can_be_replaced = matches!(child.state, State::Ready | State::Busy)
                && !child.is_unkillable()
                && !child.is_halted
                && !child.is_leaving();
            if child.is_stale && can_be_replaced && self.missing_dependency(index).is_none() {
                self.start_successor(index, Cause::Renewed);
            }
        }
    }

    /// A person waits for a successor, and it is one: it takes no place in the governor.
    pub(super) fn start_successor(&mut self, index: usize, cause: Cause) {
        let mut one = self.new_incarnation(index);
        one.has_place = false;
        let child = &mut self.children[index];
        let (id, generation) = (child.spec.id.clone(), one.generation);
        let replaces = Some(child.generation);
        child.successor = Some(one);
        self.step(index, Step::Replace, cause);
        self.order(Order::Start { id, generation, replaces });
    }

    /// Incarnations that need a child, unless others of its name remain.
    fn users(&self, id: &ChildId, removed: &[ChildId]) -> Vec<u64> {
        let index = self.index(id).expect("it was found");
        let spec = &self.children[index].spec;
        let remains = |name: &ChildId| {
            self.children.iter().any(|other| {
                !removed.contains(&other.spec.id)
                    && !other.is_leaving()
                    && other.spec.answers_to(name)
            })
        };
        let needs = |child: &&Child| {
            child.spec.after.iter().any(|name| spec.answers_to(name) && !remains(name))
        };
        let users = self.children.iter().filter(needs);
        users.flat_map(|child| child.incarnations().map(|one| one.generation)).collect()
    }

    /// Removes a child when those that need it are gone.
    fn let_go(&mut self, index: usize, users: Vec<u64>, governor: &mut Governor) {
        let child = &mut self.children[index];
        child.heir = None;
        if child.is_leaving() {
            return;
        }
        if child.is_serving() && !users.is_empty() {
            child.needed_by = Some(users);
        } else {
            self.depart(index, governor);
        }
    }

    /// Removes those whom nobody needs any more.
    pub(super) fn turn_leaving(&mut self, governor: &mut Governor) {
        loop {
            let alive: BTreeSet<u64> = (self.children.iter())
                .flat_map(|child| child.incarnations().map(|one| one.generation))
                .collect();
            let is_free = |child: &Child| {
                let users = child.needed_by.as_ref();
                users.is_some_and(|users| users.iter().all(|user| !alive.contains(user)))
            };
            let Some(index) = self.children.iter().position(is_free) else { return };
            self.children[index].needed_by = None;
            self.depart(index, governor);
        }
    }

    /// Stops a child and forgets it.
    pub(super) fn depart(&mut self, index: usize, governor: &mut Governor) {
        let child = &self.children[index];
        if child.state.is_running() && child.state != State::Stopping {
            self.stop_child(index, Then::Remove, Cause::Command, governor);
        } else if !matches!(child.state, State::Stopped | State::Stopping) {
            self.step(index, Step::End, Cause::Command);
        }
        let child = &mut self.children[index];
        child.then = Then::Remove;
        child.is_wanted = false;
        self.hurry_retired(index, governor);
        let child = &mut self.children[index];
        child.has_turn = false;
        child.is_held = true;
        self.forget_if_removed(index);
    }

    /// A child that is to be removed is forgotten when nothing of it is left.
    pub(super) fn forget_if_removed(&mut self, index: usize) {
        let child = &self.children[index];
        let is_left = child.incarnations().next().is_some();
        if child.then == Then::Remove && child.state == State::Stopped && !is_left {
            let Child { spec, heir, is_held, .. } = self.children.remove(index);
            self.order(Order::Forget { id: spec.id });
            if let Some(heir) = heir {
                self.settle_in(*heir, is_held);
            }
        }
    }

    /// Whether the group would still fit together.
    pub(super) fn check_plan(&self, plan: &Plan) -> Result<(), SpecError> {
        for spec in plan.renewed.iter().chain(&plan.added) {
            spec.check(&self.flags)?;
        }
        let is_kept = |spec: &&ChildSpec| !plan.removed.contains(&spec.id);
        let kept = self.children.iter().filter_map(Child::kept_spec).filter(is_kept);
        let renewed =
            kept.map(|spec| plan.renewed.iter().find(|new| new.id == spec.id).unwrap_or(spec));
        let specs: Vec<&ChildSpec> = renewed.chain(&plan.added).collect();
        let mut names = BTreeSet::new();
        if let Some(twice) = specs.iter().find(|spec| !names.insert(&spec.id)) {
            return Err(SpecError::Duplicate(twice.id.clone()));
        }
        if specs.len() > CHILDREN_MAX {
            return Err(SpecError::TooMany(CHILDREN_MAX));
        }
        check_dependencies(&specs)
    }
}

/// Whether every dependency is there, and none of them is a circle.
fn check_dependencies(specs: &[&ChildSpec]) -> Result<(), SpecError> {
    for spec in specs {
        let is_there = |name: &&ChildId| specs.iter().any(|other| other.answers_to(name));
        if let Some(missing) = spec.after.iter().find(|name| !is_there(name)) {
            return Err(SpecError::Missing(spec.id.clone(), missing.clone()));
        }
    }
    // Takes away, again and again, who waits for nobody that is left.
    let mut left = specs.to_vec();
    loop {
        let before = left.clone();
        left.retain(|spec| spec.after.iter().any(|name| waits_in(&before, specs, name)));
        if left.is_empty() {
            return Ok(());
        }
        if left.len() == before.len() {
            return Err(SpecError::Cycle(circle(&left, specs)));
        }
    }
}

/// Whether all that have the name are among those that are left.
fn waits_in(left: &[&ChildSpec], all: &[&ChildSpec], name: &ChildId) -> bool {
    let count = |specs: &[&ChildSpec]| specs.iter().filter(|spec| spec.answers_to(name)).count();
    count(left) == count(all)
}

/// A circle among children of which each waits for one of the others.
fn circle(left: &[&ChildSpec], all: &[&ChildSpec]) -> Vec<ChildId> {
    let mut path = vec![left[0].id.clone()];
    loop {
        let last = path.last().expect("it starts with one");
        let spec = left.iter().find(|spec| spec.id == *last).expect("it is left");
        let name = spec.after.iter().find(|name| waits_in(left, all, name));
        let name = name.expect("each waits for one that is left");
        let next = left.iter().find(|spec| spec.answers_to(name)).expect("it is left");
        let next = next.id.clone();
        if let Some(first) = path.iter().position(|id| *id == next) {
            path.drain(..first);
            path.push(next);
            return path;
        }
        path.push(next);
    }
}
