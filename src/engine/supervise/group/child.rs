//! One child of a group: its spec, its state and its incarnations.

use std::time::Duration;

use super::message::Cause;
use crate::engine::supervise::exit::Exit;
use crate::engine::supervise::intensity::Window;
use crate::engine::supervise::life::State;
use crate::engine::supervise::spec::ChildSpec;

#[derive(Debug)]
pub(super) struct Child {
    pub(super) spec: ChildSpec,
    pub(super) state: State,
    pub(super) since: Duration,
    /// To be started when nothing is in the way any more.
    pub(super) is_wanted: bool,
    /// Why it is wanted.
    pub(super) why: Cause,
    /// Not to be started before.
    pub(super) due: Duration,
    /// Stopped by a command: siblings do not start it.
    pub(super) is_held: bool,
    /// Its start is part of an ordered start that is under way.
    pub(super) has_turn: bool,
    /// To be stopped first, for that ordered start.
    pub(super) is_halted: bool,
    /// Started or serving, or being stopped.
    pub(super) current: Option<Incarnation>,
    /// Starting, to take the place of `current`.
    pub(super) successor: Option<Incarnation>,
    /// Replaced, and being stopped.
    pub(super) retired: Vec<Incarnation>,
    /// What follows when `current` is gone that is being stopped.
    pub(super) then: Then,
    pub(super) generation: u64,
    /// Since the last stable run.
    pub(super) failures: u32,
    /// Trials that failed since the last stable run.
    pub(super) trials: u32,
    pub(super) window: Window,
    pub(super) last_exit: Option<Exit>,
    pub(super) active_at: Duration,
    /// It serves, and what is known of it has changed since it was started.
    pub(super) is_stale: bool,
    /// To be removed when these incarnations, which need it, are gone.
    pub(super) needed_by: Option<Vec<u64>>,
    /// Comes in its place when it has been forgotten.
    pub(super) heir: Option<Box<ChildSpec>>,
}

impl Child {
    pub(super) fn new(spec: ChildSpec, now: Duration) -> Self {
        Self {
            spec,
            state: State::Stopped,
            since: now,
            is_wanted: false,
            why: Cause::GroupStarts,
            due: Duration::ZERO,
            is_held: false,
            has_turn: false,
            is_halted: false,
            current: None,
            successor: None,
            retired: Vec::new(),
            then: Then::Rest,
            generation: 0,
            failures: 0,
            trials: 0,
            window: Window::default(),
            last_exit: None,
            active_at: now,
            is_stale: false,
            needed_by: None,
            heir: None,
        }
    }

    pub(super) fn want(&mut self, due: Duration, why: Cause) {
        self.is_wanted = true;
        self.is_held = false;
        self.due = due;
        self.why = why;
    }

    /// Forgets what went wrong: it ran well for a while, or a person says that it is worth a try.
    pub(super) fn forgive(&mut self) {
        self.failures = 0;
        self.trials = 0;
        self.window.clear();
    }

    pub(super) fn incarnations(&self) -> impl Iterator<Item = &Incarnation> {
        self.current.iter().chain(&self.successor).chain(&self.retired)
    }

    pub(super) fn incarnations_mut(&mut self) -> impl Iterator<Item = &mut Incarnation> {
        self.current.iter_mut().chain(&mut self.successor).chain(&mut self.retired)
    }

    /// Whether no incarnation is left of which an end could be waited for.
    pub(super) fn is_gone(&self) -> bool {
        self.incarnations().all(|one| one.phase == Phase::Unkillable)
    }

    pub(super) fn is_unkillable(&self) -> bool {
        self.incarnations().any(|one| one.phase == Phase::Unkillable)
    }

    pub(super) fn is_serving(&self) -> bool {
        self.current.as_ref().is_some_and(|one| one.phase == Phase::Up)
    }

    /// Whether it is being removed, now or when nobody needs it any more.
    pub(super) fn is_leaving(&self) -> bool {
        self.then == Then::Remove || self.needed_by.is_some()
    }

    /// What it is, or will be when it comes again; `None` if it is only leaving.
    pub(super) fn kept_spec(&self) -> Option<&ChildSpec> {
        if self.is_leaving() { self.heir.as_deref() } else { Some(&self.spec) }
    }

    /// Whether others that start after it may start.
    pub(super) fn is_available(&self) -> bool {
        self.is_serving() || self.state == State::Sleeping
    }

    /// Whether nothing of its own keeps it from starting.
    pub(super) fn is_startable(&self) -> bool {
        self.is_wanted && self.current.is_none() && !self.is_unkillable()
    }

    /// When one of its incarnations is due for the next rung of the ladder.
    pub(super) fn ladder_at(&self) -> Option<Duration> {
        self.incarnations().filter_map(Incarnation::deadline).min()
    }

    /// When a trial has succeeded.
    pub(super) fn stable_at(&self) -> Option<Duration> {
        let current = self.current.as_ref().filter(|_| self.state == State::HalfOpen)?;
        let since = current.ready_at.filter(|_| current.phase == Phase::Up)?;
        Some(since.saturating_add(self.spec.backoff.stable_after))
    }

    /// When it has been idle for long enough to sleep.
    pub(super) fn idle_at(&self) -> Option<Duration> {
        let is_quiet = self.state == State::Ready && !self.is_halted;
        let idle = self.spec.idle_sleep.filter(|_| is_quiet)?;
        Some(self.active_at.saturating_add(idle))
    }
}

/// One run of a child.
#[derive(Debug)]
pub(super) struct Incarnation {
    pub(super) generation: u64,
    pub(super) phase: Phase,
    /// Since when it was ready, if it ever was.
    pub(super) ready_at: Option<Duration>,
    /// Why it is being killed, if the group decided so.
    pub(super) fate: Option<Exit>,
    /// Whether it takes a place in the governor.
    pub(super) has_place: bool,
    /// Whether the group was once too late for it, and gave it more time.
    pub(super) is_forgiven: bool,
    pub(super) is_busy: bool,
}

impl Incarnation {
    pub(super) fn deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Starting { deadline } => deadline,
            Phase::Stopping { kill_at } => kill_at,
            Phase::Killed { give_up_at } => Some(give_up_at),
            Phase::Up | Phase::Unkillable => None,
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. } | Phase::Killed { .. } | Phase::Unkillable)
    }

    /// The group's own tick came so late that the child may have had no time at all.
    pub(super) fn forgive(&mut self, now: Duration) {
        let moved = now.saturating_add(FORGIVEN);
        match &mut self.phase {
            Phase::Starting { deadline: Some(at) }
            | Phase::Stopping { kill_at: Some(at) }
            | Phase::Killed { give_up_at: at }
                if !self.is_forgiven && at.saturating_add(LATE) < now =>
            {
                *at = moved;
                self.is_forgiven = true;
            }
            _ => (),
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    Starting { deadline: Option<Duration> },
    Up,
    Stopping { kill_at: Option<Duration> },
    Killed { give_up_at: Duration },
    Unkillable,
}

/// What follows when a child is gone that was asked to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Then {
    Rest,
    Sleep,
    Start,
    /// It was killed because it failed: as if it had ended by itself.
    Recover,
    Remove,
}

/// Lateness that a busy machine does not explain: it was suspended, or stopped.
const LATE: Duration = Duration::from_secs(1);
/// What a child gets in exchange.
const FORGIVEN: Duration = Duration::from_secs(1);
