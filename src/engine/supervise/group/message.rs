//! What goes in and out of a group.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::engine::supervise::exit::Exit;
use crate::engine::supervise::life::State;
use crate::engine::supervise::spec::{ChildId, ChildSpec, SpecError};

/// What a person or a program asks of a group. Answered at once, in every state.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Command {
    /// Start it, whatever kept it from running; in a dynamic group also the stopped ones that it
    /// starts after. Its failures are forgotten.
    Start(ChildId),
    /// Stop it, until a command starts it again.
    Stop(ChildId),
    /// As `Stop`, without asking it first. Hurries a stop that is under way.
    Kill(ChildId),
    /// Stop it and start it again. Does not count as a failure.
    Restart(ChildId),
    /// Start it if it failed, is disabled or quarantined.
    Enable(ChildId),
    /// Somebody needs it: start it if it sleeps.
    Wake(ChildId),
    /// Stop it until somebody needs it.
    Sleep(ChildId),
    /// Start a successor beside it, and stop it when that one is ready.
    Replace(ChildId),
    /// Add a child at the end, and start it unless it is lazy.
    Add(Box<ChildSpec>),
    /// Change what is known of a child, from its next start on. One that failed is tried again.
    Update(Box<ChildSpec>),
    /// Stop it and forget it.
    Remove(ChildId),
    /// Add, renew and remove children, all of them or none. What a person has stopped stays so.
    Reshape(Box<Plan>),
    /// Stop all children, then the group ends.
    ShutDown,
}

/// What is to be different in a group. It has to fit together only as a whole: children may
/// exchange who starts after whom, and be removed together with those that need them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// New children. One of a name that is on its way out starts when that one is gone.
    pub added: Vec<ChildSpec>,
    /// Children for which everything that there is to know of them has changed, also outside of
    /// the spec: one that serves is replaced when those that it starts after are there, one that
    /// is starting or on trial is restarted, one that failed is tried again.
    pub renewed: Vec<ChildSpec>,
    /// Stopped and forgotten, each when the incarnations that need it are gone.
    pub removed: Vec<ChildId>,
}

/// What became of a command that was not refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// It will be done.
    Accepted,
    /// Nothing is left to do: the child is in this state already, or on its way to what was asked.
    Already(State),
}

/// Why a command was not accepted.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// No child of that name.
    #[error("there is no child `{0}`")]
    Unknown(ChildId),
    /// The group is stopping, or has ended.
    #[error("the group is stopping")]
    Ending,
    /// The group has not been started.
    #[error("the group is not started")]
    NotStarted,
    /// What was asked makes no sense in this state.
    #[error("child `{id}` is {state}")]
    InState {
        /// Which child.
        id: ChildId,
        /// The state that it is in.
        state: State,
    },
    /// It is still there although it was killed; nothing can be started in its place.
    #[error("an earlier incarnation of `{0}` does not end, although it was killed")]
    Unkillable(ChildId),
    /// Others start after it.
    #[error("child `{1}` starts after `{0}`; change or remove that one first")]
    NeededBy(ChildId, ChildId),
    /// The child would not fit into the group.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

/// What whoever carries out the orders says of one incarnation.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Report {
    /// It serves.
    Ready,
    /// Whether it has its hands full.
    Busy(bool),
    /// It did something; it does not go to sleep yet. Before it is ready: it is being prepared,
    /// and its time to start begins now.
    Active,
    /// Its health is so bad that it has to be killed; says why.
    Hung(Arc<str>),
    /// Its connection broke the protocol; it has to be killed. Says how.
    Violated(Arc<str>),
    /// It is gone. For a process: it and everything that it left behind has been waited for.
    Exited(Exit),
}

/// What the group wants done. Never answered; what becomes of it is reported.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Order {
    /// Start an incarnation. Owes an `Exited`, whatever happens, and `Ready` before if it gets so
    /// far.
    Start {
        /// Which child.
        id: ChildId,
        /// The name of the incarnation; never used twice in a group.
        generation: u64,
        /// The incarnation that serves until this one is ready.
        replaces: Option<u64>,
    },
    /// Ask it to end. The group kills it when `within` has passed.
    Stop {
        /// Which child.
        id: ChildId,
        /// Which incarnation.
        generation: u64,
        /// How long it has; `None` is for ever.
        within: Option<Duration>,
    },
    /// End it at once, with all that belongs to it.
    Kill {
        /// Which child.
        id: ChildId,
        /// Which incarnation.
        generation: u64,
    },
    /// From now on `to` serves in place of `from`, which is stopped next.
    Switch {
        /// Which child.
        id: ChildId,
        /// The incarnation that served.
        from: u64,
        /// The one that serves.
        to: u64,
    },
    /// The child is known no longer; none of its incarnations is left.
    Forget {
        /// Which child.
        id: ChildId,
    },
}

/// What comes out of a group, in the order in which it was decided.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Output {
    /// To be carried out.
    Order(Order),
    /// For events, logs, history and alerts.
    Changed(Changed),
    /// All children of the first start are up, or the group is dynamic: its parent may go on.
    Up,
    /// The group has ended. Nothing follows but the late ends of unkillable children.
    Ended(Ended),
}

/// A child went from one state to another, or something happened to it that people want to know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Changed {
    /// Which child.
    pub id: ChildId,
    /// The incarnation that it is about; 0 before the first.
    pub generation: u64,
    /// The state before. The same as `to` where only `cause` is news.
    pub from: State,
    /// The state after.
    pub to: State,
    /// Why.
    pub cause: Cause,
    /// When.
    pub at: Duration,
    /// Failures since the last stable run.
    pub failures: u32,
    /// When it is tried again, if it waits for that.
    pub next_at: Option<Duration>,
}

impl Changed {
    /// Whether somebody has to be told: a person has to act, or a limit was reached.
    #[must_use]
    pub fn is_alert(&self) -> bool {
        let is_entered = self.from != self.to;
        is_entered && matches!(self.to, State::Disabled | State::Failed | State::Quarantined)
            || self.cause == Cause::Unkillable
    }
}

/// Why a child changed.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Cause {
    /// A command asked for it.
    Command,
    /// Somebody needed it.
    Demand,
    /// Its group starts.
    GroupStarts,
    /// Its group stops.
    GroupStops,
    /// It is restarted together with this sibling.
    Sibling(ChildId),
    /// Its delay or quarantine is over.
    Due,
    /// It said so itself.
    Reported,
    /// It ended.
    Exited(Exit),
    /// It is being killed, because of this.
    Killed(Exit),
    /// It ran long enough to be trusted again.
    Stable,
    /// Nobody needed it for a while.
    Idle,
    /// Its successor serves now.
    Replaced,
    /// Its successor failed like this; it goes on serving.
    ReplaceFailed(Exit),
    /// What is known of it has changed.
    Renewed,
    /// It was killed and is still there.
    Unkillable,
}

/// How a group ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ended {
    /// What its parent is told.
    pub exit: Exit,
    /// Children that were killed and are still there.
    pub unkillable: Vec<ChildId>,
}

/// Where a group is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Not started.
    New,
    /// Its children start for the first time.
    Starting,
    /// Up.
    Running,
    /// Its children stop.
    Stopping,
    /// Ended.
    Ended,
}

/// What can be seen of a child.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChildView<'a> {
    /// What it is.
    pub spec: &'a ChildSpec,
    /// Where it is in its life.
    pub state: State,
    /// Since when.
    pub since: Duration,
    /// The incarnation that runs, or that ran last; 0 before the first.
    pub generation: u64,
    /// Whether an incarnation is ready and not asked to stop; also on trial.
    pub is_serving: bool,
    /// Whether an incarnation was killed and is still there.
    pub is_unkillable: bool,
    /// Whether it is forgotten as soon as it is gone, and none of its name comes after it.
    pub is_leaving: bool,
    /// Failures since the last stable run.
    pub failures: u32,
    /// How the last incarnation ended that ended by itself.
    pub last_exit: Option<&'a Exit>,
    /// When it is tried again, if it waits for that.
    pub next_at: Option<Duration>,
    /// What keeps it from starting now, if it is to start.
    pub waits: Option<Waits<'a>>,
}

/// What keeps a child from starting that is to start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Waits<'a> {
    /// Its delay.
    Delay,
    /// This one is not ready.
    Child(&'a ChildId),
    /// Its own earlier incarnation is still there.
    Itself,
    /// Too many are starting.
    Governor,
}
