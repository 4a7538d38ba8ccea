//! A group: the machine that decides, and its children.
//!
//! Reports and commands go into the machine at once, under a short lock and on the thread that they
//! come from; so a command is answered in every state, and never from before a report. What follows
//! is carried out in order by one task ([`Driver`]).
//!
//! Invariant: no child and no observer is called while the lock is held.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast, watch};

use super::child::{Child, Reports, Transition};
use super::driver::Driver;
use super::handle::GroupHandle;
use super::incarnation::text_of;
use crate::engine::supervise::{
    self as engine, Answer, ChildId, ChildSpec, Command, Exit, Governor, GroupFlags, Phase,
    Refusal, SpecError,
};
use crate::limit;
use crate::net::uptime;

/// Describes a group before it is made.
#[must_use = "a group is nothing before `build`"]
pub struct GroupBuilder {
    name: String,
    flags: GroupFlags,
    children: Vec<(ChildSpec, Box<dyn Child>)>,
    limiter: StartLimiter,
    seed: Option<u64>,
    observers: Vec<Observer>,
}

impl GroupBuilder {
    /// Adds a child at the end. In a group that is not dynamic, children start in this order.
    pub fn child(mut self, spec: ChildSpec, child: impl Child) -> Self {
        self.children.push((spec, Box::new(child)));
        self
    }

    /// Shares a bound on starts with other groups. Without it the group has one of its own.
    pub fn limiter(mut self, limiter: &StartLimiter) -> Self {
        self.limiter = limiter.clone();
        self
    }

    /// Seed of the jitter, for a run that repeats. Defaults to a random one.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Calls `observer` with everything that happens to a child, also to those of groups inside,
    /// in order and without loss. It must not block. One that panics is not called again.
    pub fn observe(mut self, observer: impl FnMut(&Transition) + Send + 'static) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// Makes the group. It is started with [`Group::start`], or as a child of another one.
    ///
    /// # Errors
    ///
    /// When the children do not fit together.
    pub fn build(self) -> Result<Group, SpecError> {
        let Self { name, flags, children, limiter, seed, observers } = self;
        let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(&name));
        let specs = children.iter().map(|(spec, _)| spec.clone()).collect();
        let machine = engine::Group::new(flags.clone(), specs, seed)?;
        let slots = children
            .into_iter()
            .map(|(spec, child)| Slot { spec, child: Some(child), starts: 0 })
            .collect();
        let (transitions, _) = broadcast::channel(limit::TRANSITIONS_MAX);
        let (ended, _) = watch::channel(None);
        let core = Core {
            name,
            flags,
            seed,
            limiter,
            state: Mutex::new(State {
                machine,
                slots,
                epoch: 0,
                lives: BTreeSet::new(),
                failure: None,
            }),
            work: Notify::new(),
            observers: Mutex::new(observers),
            transitions,
            ended,
        };
        Ok(Group { core: Arc::new(core) })
    }
}

impl fmt::Debug for GroupBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let children: Vec<&ChildId> = self.children.iter().map(|(spec, _)| &spec.id).collect();
        f.debug_struct("GroupBuilder")
            .field("name", &self.name)
            .field("children", &children)
            .finish_non_exhaustive()
    }
}

/// A supervisor and its children. Runs on an arbiter of any actix application, alone or as a child
/// of another group.
///
/// A group that is restarted by its parent starts with the children that it had.
pub struct Group {
    core: Arc<Core>,
}

impl Group {
    /// Describes a group. Its name is for people.
    pub fn builder(name: impl Into<String>, flags: GroupFlags) -> GroupBuilder {
        GroupBuilder {
            name: name.into(),
            flags,
            children: Vec::new(),
            limiter: StartLimiter::default(),
            seed: None,
            observers: Vec::new(),
        }
    }

    /// The handle, which stays good when the group is a child and is restarted.
    #[must_use]
    pub fn handle(&self) -> GroupHandle {
        GroupHandle { core: Arc::clone(&self.core) }
    }

    /// Starts the group on the current arbiter, as the root of a tree. It runs until it is shut
    /// down or gives up, also when nobody has its handle.
    ///
    /// # Panics
    ///
    /// Without an actix System on this thread, as every actor.
    pub fn start(self) -> GroupHandle {
        let handle = self.handle();
        Driver::start(Arc::clone(&self.core), None);
        handle
    }
}

/// A child that its parent has forgotten: it has ended, and its own children are let go.
impl Drop for Group {
    fn drop(&mut self) {
        let phase = self.core.state.lock().machine.phase();
        if matches!(phase, Phase::New | Phase::Ended) {
            self.core.drop_children();
        }
    }
}

impl Child for Group {
    fn start(&mut self, reports: Reports) {
        if reports.replaces().is_some() {
            let why = "a group is restarted, not replaced".into();
            return reports.exited(Exit::StartFailed { permanent: true, why });
        }
        Driver::start(Arc::clone(&self.core), Some(reports));
    }

    fn stop(&mut self, _generation: u64, _within: Option<Duration>) {
        // A group that has ended already says so itself.
        let _ended = self.core.command(Command::ShutDown);
    }

    fn kill(&mut self, _generation: u64) {
        let _ended = self.core.command(Command::ShutDown);
        let ids: Vec<ChildId> = {
            let state = self.core.state.lock();
            state.slots.iter().map(|slot| slot.spec.id.clone()).collect()
        };
        for id in ids {
            // One that has ended meanwhile needs no kill.
            let _gone = self.core.command(Command::Kill(id));
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("name", &self.core.name).finish_non_exhaustive()
    }
}

/// A bound on how fast children are started, which groups of one application share: the engine's
/// [`Governor`]. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct StartLimiter(Arc<Mutex<Governor>>);

impl StartLimiter {
    /// Bounds as this governor says.
    #[must_use]
    pub fn new(governor: Governor) -> Self {
        Self(Arc::new(Mutex::new(governor)))
    }
}

type Observer = Box<dyn FnMut(&Transition) + Send>;

/// What the handles, the reports and the task of a group share.
pub(super) struct Core {
    pub(super) name: String,
    pub(super) flags: GroupFlags,
    pub(super) seed: u64,
    limiter: StartLimiter,
    pub(super) state: Mutex<State>,
    /// There may be something to carry out.
    pub(super) work: Notify,
    observers: Mutex<Vec<Observer>>,
    pub(super) transitions: broadcast::Sender<Transition>,
    /// How it ended; `None` while it has not.
    pub(super) ended: watch::Sender<Option<Exit>>,
}

pub(super) struct State {
    pub(super) machine: engine::Group,
    pub(super) slots: Vec<Slot>,
    /// Which start of the group this is. Reports of another one are dropped.
    pub(super) epoch: u64,
    /// Incarnations that were started and not reported as gone.
    pub(super) lives: BTreeSet<(ChildId, u64)>,
    /// What a machine said that panicked. It decides nothing more.
    pub(super) failure: Option<String>,
}

impl State {
    /// A child on its way out comes no longer: who was to come under its name is let go.
    fn drop_heir(&mut self, id: &ChildId) -> Option<Slot> {
        let named = |slot: &Slot| slot.spec.id == *id;
        let (first, last) =
            (self.slots.iter().position(named)?, self.slots.iter().rposition(named)?);
        (first != last).then(|| self.slots.remove(last))
    }

    fn respecify(&mut self, spec: ChildSpec) {
        // The last one of that name: an earlier one may be on its way out.
        if let Some(slot) = self.slots.iter_mut().rfind(|slot| slot.spec.id == spec.id) {
            slot.spec = spec;
        }
    }
}

/// A child, and what the machine does not need to know of it.
pub(super) struct Slot {
    pub(super) spec: ChildSpec,
    /// Taken out while it is called.
    pub(super) child: Option<Box<dyn Child>>,
    pub(super) starts: u64,
}

impl Core {
    pub(super) fn command(&self, command: Command) -> Result<Answer, Refusal> {
        self.decide(&mut self.state.lock(), command)
    }

    pub(super) fn add(&self, spec: ChildSpec, child: Box<dyn Child>) -> Result<Answer, Refusal> {
        let mut state = self.state.lock();
        let answer = self.decide(&mut state, Command::Add(Box::new(spec.clone())))?;
        state.slots.push(Slot { spec, child: Some(child), starts: 0 });
        Ok(answer)
    }

    pub(super) fn remove(&self, id: &ChildId) -> Result<Answer, Refusal> {
        let mut state = self.state.lock();
        let answer = self.decide(&mut state, Command::Remove(id.clone()))?;
        let dropped = state.drop_heir(id);
        drop(state);
        // Dropped here, where the lock is not held: a child may do anything at its end.
        drop(dropped);
        Ok(answer)
    }

    /// Does all of a change or nothing. `decided` is called when it is certain, before anything of
    /// it is carried out.
    pub(super) fn reshape(
        &self,
        added: Vec<(ChildSpec, Box<dyn Child>)>,
        renewed: Vec<ChildSpec>,
        removed: Vec<ChildId>,
        decided: impl FnOnce(),
    ) -> Result<Answer, Refusal> {
        let plan = engine::Plan {
            added: added.iter().map(|(spec, _)| spec.clone()).collect(),
            renewed: renewed.clone(),
            removed: removed.clone(),
        };
        let mut state = self.state.lock();
        let answer = self.decide(&mut state, Command::Reshape(Box::new(plan)))?;
        decided();
        let dropped: Vec<_> = removed.iter().filter_map(|id| state.drop_heir(id)).collect();
        for spec in renewed {
            state.respecify(spec);
        }
        let slots = added.into_iter();
        state.slots.extend(slots.map(|(spec, child)| Slot { spec, child: Some(child), starts: 0 }));
        drop(state);
        drop(dropped);
        Ok(answer)
    }

    pub(super) fn update(&self, spec: ChildSpec) -> Result<Answer, Refusal> {
        let mut state = self.state.lock();
        let answer = self.decide(&mut state, Command::Update(Box::new(spec.clone())))?;
        state.respecify(spec);
        Ok(answer)
    }

    fn decide(&self, state: &mut State, command: Command) -> Result<Answer, Refusal> {
        let decided = self
            .drive(state, |machine, now, governor| machine.handle_command(now, command, governor));
        decided.unwrap_or(Err(Refusal::Ending))
    }

    /// Lets the children of a group go that will not be started again.
    pub(super) fn drop_children(&self) {
        let slots = std::mem::take(&mut self.state.lock().slots);
        // Dropped here, where the lock is not held: a child may do anything at its end.
        drop(slots);
    }

    /// Gives the machine something to decide. `None` when it is broken; its task ends the group.
    pub(super) fn drive<R>(
        &self,
        state: &mut State,
        step: impl FnOnce(&mut engine::Group, Duration, &mut Governor) -> R,
    ) -> Option<R> {
        if state.failure.is_some() {
            return None;
        }
        let now = uptime::now().mono;
        let machine = &mut state.machine;
        let mut governor = self.limiter.0.lock();
        let stepped = catch_unwind(AssertUnwindSafe(|| step(machine, now, &mut governor)));
        self.work.notify_one();
        stepped.map_err(|payload| state.failure = Some(text_of(payload))).ok()
    }

    /// Tells observers and subscribers. Called by the tasks of this group and of those inside.
    pub(super) fn tell(&self, transition: &Transition) {
        let changed = &transition.changed;
        let (group, id, from, to) = (&transition.group, &changed.id, changed.from, changed.to);
        self.observers.lock().retain_mut(|observer| {
            match catch_unwind(AssertUnwindSafe(|| observer(transition))) {
                Ok(()) => true,
                Err(payload) => {
                    let text = text_of(payload);
                    log::error!(
                        "an observer of `{group}` panicked at {id}, {from} to {to}: {text}"
                    );
                    false
                }
            }
        });
        // Nobody may have subscribed.
        let _subscribers = self.transitions.send(transition.clone());
    }

    pub(super) fn observe(&self, observer: Observer) {
        self.observers.lock().push(observer);
    }
}
