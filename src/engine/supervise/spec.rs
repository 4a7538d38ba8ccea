//! What a person says about a group and its children.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::backoff::Backoff;
use super::intensity::Intensity;
use crate::limit;

/// Name of a child, unique in its group. Cloning copies a pointer.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ChildId(Arc<str>);

impl ChildId {
    /// Any text will do.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ChildId {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl Borrow<str> for ChildId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a group treats its children.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupFlags {
    /// Who is restarted with a child that failed.
    pub strategy: Strategy,
    /// How many restarts are too many: of the whole group, or with
    /// [`OnExhausted::Quarantine`] of each child.
    pub intensity: Intensity,
    /// Whether the end of significant children ends the group.
    pub auto_shutdown: AutoShutdown,
    /// What follows on too many restarts.
    pub on_exhausted: OnExhausted,
    /// Whether a temporary child that ended is forgotten, as in OTP, or stays known, stopped, so
    /// that a command can start it again.
    pub forgets_temporary: bool,
    /// How long after it was killed a child that is still not gone is reported as unkillable, and
    /// its siblings go on without it.
    pub unkillable_after: Duration,
}

impl GroupFlags {
    /// For parts of an application: 3 restarts in 30 s, then the group gives up.
    #[must_use]
    pub fn core(strategy: Strategy) -> Self {
        Self {
            strategy,
            intensity: Intensity { restarts_max: 3, window: Duration::from_secs(30) },
            auto_shutdown: AutoShutdown::Never,
            on_exhausted: OnExhausted::Escalate,
            forgets_temporary: true,
            unkillable_after: Duration::from_secs(5),
        }
    }

    /// For plugins: dynamic, 6 restarts of one child in 60 s, then it alone is quarantined.
    #[must_use]
    pub fn plugins() -> Self {
        Self {
            intensity: Intensity { restarts_max: 6, window: Duration::from_secs(60) },
            on_exhausted: OnExhausted::Quarantine,
            forgets_temporary: false,
            ..Self::core(Strategy::Dynamic)
        }
    }
}

/// Who is restarted with a child that failed, and in which order children start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Strategy {
    /// Only the child. The first start is in order.
    OneForOne,
    /// All.
    OneForAll,
    /// The child and those after it.
    RestForOne,
    /// Only the child. Each starts when those it names in `after` are ready, side by side.
    Dynamic,
}

/// Whether the end of significant children ends the group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AutoShutdown {
    /// It does not.
    Never,
    /// The first one that ends by itself does.
    Any,
    /// The last one that ends by itself does.
    All,
}

/// What follows on too many restarts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnExhausted {
    /// The group stops its children and fails, for its parent to decide.
    Escalate,
    /// The child is left alone for a while; its siblings do not notice. Only for one-for-one and
    /// dynamic groups.
    Quarantine,
}

/// What a group has to know of a child.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChildSpec {
    /// Its name.
    pub id: ChildId,
    /// When it is restarted.
    pub restart: Restart,
    /// How it is stopped.
    pub shutdown: Shutdown,
    /// How it is stopped after a successor took over, as long as nothing else wants it gone: it
    /// may finish what it has.
    pub retire: Shutdown,
    /// Whether its end may end the group.
    pub significant: bool,
    /// How long it may take to be ready; `None` is for ever.
    pub start_timeout: Option<Duration>,
    /// What follows on failures.
    pub backoff: Backoff,
    /// How many restarts are too many where each child has a window of its own; `None` is what its
    /// group says.
    pub intensity: Option<Intensity>,
    /// Children that have to be ready before it starts; only in dynamic groups.
    pub after: Vec<ChildId>,
    /// Another name of it in `after` of others, which several children may have: one of them has
    /// to be ready.
    pub stands_for: Option<ChildId>,
    /// Not started with the group, but on demand.
    pub lazy: bool,
    /// Put to sleep after this time without [`Report::Active`](super::Report::Active).
    pub idle_sleep: Option<Duration>,
    /// Whether its starts are bounded by the [`Governor`](super::Governor): processes are.
    pub governed: bool,
}

impl ChildSpec {
    /// A permanent part of an application: restarted at once, 5 s to stop, 10 s to start.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self {
            id: ChildId::new(id),
            restart: Restart::Permanent,
            shutdown: Shutdown::Within(Duration::from_secs(5)),
            retire: Shutdown::Within(Duration::from_secs(5)),
            significant: false,
            start_timeout: Some(Duration::from_secs(10)),
            backoff: Backoff::none(),
            intensity: None,
            after: Vec::new(),
            stands_for: None,
            lazy: false,
            idle_sleep: None,
            governed: false,
        }
    }

    /// A group: it has all the time that its own children need.
    #[must_use]
    pub fn group(id: &str) -> Self {
        Self { shutdown: Shutdown::Infinite, start_timeout: None, ..Self::new(id) }
    }

    /// A plugin process: delays between restarts, 7 s to stop (5 s after the notice, 2 s after the
    /// signal), 35 s to finish its calls when it was replaced, 30 s to start, and governed.
    #[must_use]
    pub fn plugin(id: &str) -> Self {
        Self {
            shutdown: Shutdown::Within(Duration::from_secs(7)),
            retire: Shutdown::Within(limit::RETIRE_TIMEOUT + limit::STOP_SIGNAL_TIMEOUT),
            start_timeout: Some(limit::START_TIMEOUT),
            backoff: Backoff::plugin(),
            governed: true,
            ..Self::new(id)
        }
    }

    /// Whether others mean it by this name in `after`.
    pub(super) fn answers_to(&self, name: &ChildId) -> bool {
        self.id == *name || self.stands_for.as_ref() == Some(name)
    }

    pub(super) fn check(&self, flags: &GroupFlags) -> Result<(), SpecError> {
        let id = || self.id.clone();
        if self.significant && self.restart == Restart::Permanent {
            return Err(SpecError::SignificantPermanent(id()));
        }
        if self.significant && flags.auto_shutdown == AutoShutdown::Never {
            return Err(SpecError::SignificantNever(id()));
        }
        if !self.after.is_empty() && flags.strategy != Strategy::Dynamic {
            return Err(SpecError::AfterInOrder(id()));
        }
        if self.backoff.jitter_percent > 100 {
            return Err(SpecError::Jitter(id(), self.backoff.jitter_percent));
        }
        Ok(())
    }
}

/// When a child that ended by itself is restarted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Restart {
    /// Always.
    Permanent,
    /// After an abnormal exit.
    Transient,
    /// Never, also not with its siblings.
    Temporary,
}

/// How a child is stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shutdown {
    /// Killed.
    Brutal,
    /// Asked, and killed when it is not gone after this time.
    Within(Duration),
    /// Asked, and waited for; for groups.
    Infinite,
}

/// A group that cannot be, or a child that does not fit into it.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum SpecError {
    /// Two children of one name.
    #[error("there are two children `{0}`; give one of them another name")]
    Duplicate(ChildId),
    /// It is always restarted, so its end could never end the group.
    #[error("child `{0}` is significant and permanent; make it transient or temporary")]
    SignificantPermanent(ChildId),
    /// The group does not look at it.
    #[error("child `{0}` is significant in a group without auto-shutdown; choose `any` or `all`")]
    SignificantNever(ChildId),
    /// Only dynamic groups know dependencies.
    #[error("child `{0}` names others in `after`, but its group starts in the order of its list")]
    AfterInOrder(ChildId),
    /// A dependency that is not there.
    #[error("child `{0}` starts after `{1}`, which is not in its group")]
    Missing(ChildId, ChildId),
    /// Children that wait for each other.
    #[error("children wait for each other: {}", path(.0))]
    Cycle(Vec<ChildId>),
    /// More than a whole delay.
    #[error("child `{0}` has a jitter of {1} %; it is at most 100")]
    Jitter(ChildId, u32),
    /// Quarantine of one child means nothing where all are restarted.
    #[error("only one-for-one and dynamic groups can quarantine a child")]
    QuarantineTogether,
    /// Too many of them.
    #[error("the group has {0} children, which is the most it can have")]
    TooMany(usize),
}

fn path(ids: &[ChildId]) -> String {
    let names: Vec<&str> = ids.iter().map(ChildId::as_str).collect();
    names.join(" -> ")
}
