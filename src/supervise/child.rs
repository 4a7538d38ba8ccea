//! What a group asks of a child, and how a child answers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::engine::supervise::{Changed, ChildId, Exit, Report};

/// Something that a group starts and stops: an actor, a process, a group.
///
/// No method waits: each begins what was asked and returns. What comes of it is said through the
/// [`Reports`] of the incarnation. Orders for an incarnation that has ended are ignored.
pub trait Child: Send + 'static {
    /// Begins an incarnation. While it replaces another one ([`Reports::replaces`]) both live.
    fn start(&mut self, reports: Reports);

    /// Asks it to end. It is killed when it is not gone `within` that time.
    fn stop(&mut self, generation: u64, within: Option<Duration>);

    /// Ends it by force, with all that belongs to it.
    fn kill(&mut self, generation: u64);

    /// The incarnation `to` serves in place of `from`, which is asked to end next.
    fn switch(&mut self, from: u64, to: u64) {
        let _nothing_to_redirect = (from, to);
    }
}

/// How one incarnation tells its group what happens to it. Cheap to clone, and usable from every
/// thread; the group decides at once, and carries it out on its own arbiter.
///
/// The end counts once: the first [`exited`](Self::exited). Where the last clone is dropped without
/// it, the group is told that the incarnation failed.
#[derive(Clone)]
pub struct Reports {
    inner: Arc<Inner>,
}

struct Inner {
    line: Arc<dyn Line>,
    child: ChildId,
    generation: u64,
    replaces: Option<u64>,
    has_exited: AtomicBool,
}

/// Something happened to a child of a group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transition {
    /// Path of the group: its name, after the names of those that it is in.
    pub group: String,
    /// What happened.
    pub changed: Changed,
}

/// Where reports go.
pub(super) trait Line: Send + Sync {
    fn report(&self, child: &ChildId, generation: u64, report: Report);

    /// What happened inside a child that is a group.
    fn pass_on(&self, transition: &Transition);

    /// Path of the group.
    fn path(&self) -> String;
}

impl Reports {
    pub(super) fn new(
        line: Arc<dyn Line>,
        child: ChildId,
        generation: u64,
        replaces: Option<u64>,
    ) -> Self {
        let has_exited = AtomicBool::new(false);
        Self { inner: Arc::new(Inner { line, child, generation, replaces, has_exited }) }
    }

    /// Whose incarnation it is.
    #[must_use]
    pub fn child(&self) -> &ChildId {
        &self.inner.child
    }

    /// Its number, never used twice by a group that runs.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// The incarnation that serves until this one is ready, if this is a replacement.
    #[must_use]
    pub fn replaces(&self) -> Option<u64> {
        self.inner.replaces
    }

    /// It serves.
    pub fn ready(&self) {
        self.report(Report::Ready);
    }

    /// Whether it has its hands full.
    pub fn busy(&self, is_busy: bool) {
        self.report(Report::Busy(is_busy));
    }

    /// It did something; it does not go to sleep yet. Before it is ready: it is being prepared,
    /// and its time to start begins now.
    pub fn active(&self) {
        self.report(Report::Active);
    }

    /// It has to be killed because it does not answer, or for another reason of health.
    pub fn hung(&self, why: &str) {
        self.report(Report::Hung(why.into()));
    }

    /// It has to be killed because its connection broke the protocol.
    pub fn violated(&self, how: &str) {
        self.report(Report::Violated(how.into()));
    }

    /// It has ended, and nothing of it is left.
    pub fn exited(&self, exit: Exit) {
        self.inner.exited(exit);
    }

    /// What happened inside a child that is a group.
    pub(super) fn pass_on(&self, transition: &Transition) {
        self.inner.line.pass_on(transition);
    }

    /// Path of the child.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.inner.line.path(), self.inner.child)
    }

    fn report(&self, report: Report) {
        self.inner.line.report(&self.inner.child, self.inner.generation, report);
    }
}

impl Inner {
    fn exited(&self, exit: Exit) {
        // Relaxed: the flag stands for itself; the group's lock orders the reports.
        if !self.has_exited.swap(true, Ordering::Relaxed) {
            self.line.report(&self.child, self.generation, Report::Exited(exit));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.exited(Exit::Panic("it ended without a word".into()));
    }
}

impl fmt::Debug for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reports")
            .field("child", &self.inner.child)
            .field("generation", &self.inner.generation)
            .finish_non_exhaustive()
    }
}
