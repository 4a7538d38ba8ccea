//! What people and programs ask of a running group.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use super::child::{Child, Transition};
use super::group::{Core, Slot};
use crate::engine::supervise::{
    Answer, ChildId, ChildSpec, ChildView, Command, Exit, Phase, Refusal, State, Waits,
};
use crate::net::uptime;

/// Handle of a group. Cheap to clone, and usable from every thread.
///
/// Commands are answered at once, whatever the children are doing; what comes of them is seen in
/// [`children`](Self::children) and in the [`transitions`](Self::subscribe).
#[derive(Clone)]
pub struct GroupHandle {
    pub(super) core: Arc<Core>,
}

type Outcome = Result<Answer, Refusal>;

impl GroupHandle {
    /// Starts a child that is not running, whatever kept it from that.
    ///
    /// # Errors
    ///
    /// When there is no such child, or the group is not running.
    pub fn start_child(&self, id: &ChildId) -> Outcome {
        self.core.command(Command::Start(id.clone()))
    }

    /// Stops a child, until a command starts it again.
    ///
    /// # Errors
    ///
    /// As [`start_child`](Self::start_child).
    pub fn stop(&self, id: &ChildId) -> Outcome {
        self.core.command(Command::Stop(id.clone()))
    }

    /// Ends a child by force, until a command starts it again.
    ///
    /// # Errors
    ///
    /// As [`start_child`](Self::start_child).
    pub fn kill(&self, id: &ChildId) -> Outcome {
        self.core.command(Command::Kill(id.clone()))
    }

    /// Stops a child and starts it again, which does not count as a failure.
    ///
    /// # Errors
    ///
    /// As [`start_child`](Self::start_child).
    pub fn restart(&self, id: &ChildId) -> Outcome {
        self.core.command(Command::Restart(id.clone()))
    }

    /// Starts a child that failed, is quarantined or disabled.
    ///
    /// # Errors
    ///
    /// As [`start_child`](Self::start_child).
    pub fn enable(&self, id: &ChildId) -> Outcome {
        self.core.command(Command::Enable(id.clone()))
    }

    /// Starts a child that sleeps.
    ///
    /// # Errors
    ///
    /// As [`start_child`](Self::start_child), and when it is stopped or has failed.
    pub fn wake(&self, id: &ChildId) -> Outcome {
        self.core.command(Command::Wake(id.clone()))
    }

    /// Stops a child until it is woken.
    ///
    /// # Errors
    ///
    /// As [`start_child`](Self::start_child), and when it is busy or has failed.
    pub fn sleep(&self, id: &ChildId) -> Outcome {
        self.core.command(Command::Sleep(id.clone()))
    }

    /// Starts a successor beside a child, which takes over when it is ready.
    ///
    /// # Errors
    ///
    /// As [`start_child`](Self::start_child).
    pub fn replace(&self, id: &ChildId) -> Outcome {
        self.core.command(Command::Replace(id.clone()))
    }

    /// Adds a child at the end, and starts it if the group is running.
    ///
    /// # Errors
    ///
    /// When it does not fit into the group, or that is ending.
    pub fn add(&self, spec: ChildSpec, child: impl Child) -> Outcome {
        self.core.add(spec, Box::new(child))
    }

    /// Changes what is known of a child, from its next start on.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub fn update(&self, spec: ChildSpec) -> Outcome {
        self.core.update(spec)
    }

    /// Stops a child and forgets it.
    ///
    /// # Errors
    ///
    /// As [`start_child`](Self::start_child), and when another one starts after it.
    pub fn remove(&self, id: &ChildId) -> Outcome {
        self.core.remove(id)
    }

    /// What the children are doing, in order.
    #[must_use]
    pub fn children(&self) -> Vec<ChildStatus> {
        let state = self.core.state.lock();
        let now = uptime::now().mono;
        state.machine.children().map(|view| ChildStatus::of(&view, &state.slots, now)).collect()
    }

    /// What one child is doing.
    #[must_use]
    pub fn child(&self, id: &ChildId) -> Option<ChildStatus> {
        let state = self.core.state.lock();
        let view = state.machine.child(id.as_str())?;
        Some(ChildStatus::of(&view, &state.slots, uptime::now().mono))
    }

    /// Waits until a child is as `wanted` says, and gives that status. Waits for ever for what does
    /// not come.
    ///
    /// # Errors
    ///
    /// When there is no such child, or no longer, or the group has ended.
    pub async fn until(
        &self,
        id: &ChildId,
        mut wanted: impl FnMut(&ChildStatus) -> bool,
    ) -> Result<ChildStatus, Refusal> {
        let mut transitions = self.core.transitions.subscribe();
        let mut ended = self.core.ended.subscribe();
        loop {
            let status = self.child(id).ok_or_else(|| Refusal::Unknown(id.clone()))?;
            if wanted(&status) {
                return Ok(status);
            }
            if self.phase() == Phase::Ended {
                return Err(Refusal::Ending);
            }
            // Whatever comes, and however much of it was missed, is a reason to look again.
            tokio::select! {
                _ = transitions.recv() => (),
                _ = ended.changed() => (),
            }
        }
    }

    /// What happens to children from now on, also inside of groups that are children.
    #[must_use]
    pub fn subscribe(&self) -> Transitions {
        Transitions { receiver: self.core.transitions.subscribe() }
    }

    /// Calls `observer` from now on, as [`GroupBuilder::observe`](super::GroupBuilder::observe).
    pub fn observe(&self, observer: impl FnMut(&Transition) + Send + 'static) {
        self.core.observe(Box::new(observer));
    }

    /// Where the group is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.core.state.lock().machine.phase()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Stops all children, in reverse, and waits until they are gone. Says how the group ended.
    ///
    /// A group that is a child of another one is stopped through its parent instead; here, the
    /// parent takes it as an end that nobody asked for.
    pub async fn shutdown(&self) -> Exit {
        if self.phase() == Phase::New {
            return Exit::Stopped;
        }
        // One that is ending already ends.
        let _ending = self.core.command(Command::ShutDown);
        self.ended().await
    }

    /// Waits until the group has ended, and says how. One that was not started has not ended.
    pub async fn ended(&self) -> Exit {
        let mut ended = self.core.ended.subscribe();
        let exit = ended.wait_for(Option::is_some).await.map(|exit| exit.clone());
        exit.ok().flatten().expect("the sender is here, and what was waited for is some")
    }
}

impl fmt::Debug for GroupHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupHandle").field("name", &self.core.name).finish_non_exhaustive()
    }
}

/// What can be seen of a child.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ChildStatus {
    /// What it is.
    pub spec: ChildSpec,
    /// Where it is in its life.
    pub state: State,
    /// For how long.
    pub age: Duration,
    /// The incarnation that runs, or that ran last; 0 before the first.
    pub generation: u64,
    /// Starts after the first one, for whatever reason, since the child was added.
    pub restarts: u64,
    /// Failures since the last stable run.
    pub failures: u32,
    /// How the last incarnation ended that ended by itself.
    pub last_exit: Option<Exit>,
    /// In how much time it is tried again, if it waits for that.
    pub next_in: Option<Duration>,
    /// Whether an incarnation is ready and not asked to stop; also on trial.
    pub is_serving: bool,
    /// Whether an incarnation was killed and is still there.
    pub is_unkillable: bool,
    /// Whether it is forgotten as soon as it is gone, and none of its name comes after it.
    pub is_leaving: bool,
    /// What keeps it from starting now, if it is to start.
    pub waits: Option<Waiting>,
}

impl ChildStatus {
    fn of(view: &ChildView<'_>, slots: &[Slot], now: Duration) -> Self {
        // The last one of that name: an earlier one may be on its way out.
        let slot = slots.iter().rfind(|slot| slot.spec.id == view.spec.id);
        Self {
            spec: view.spec.clone(),
            state: view.state,
            age: now.saturating_sub(view.since),
            generation: view.generation,
            restarts: slot.map_or(0, |slot| slot.starts.saturating_sub(1)),
            failures: view.failures,
            last_exit: view.last_exit.cloned(),
            next_in: view.next_at.map(|at| at.saturating_sub(now)),
            is_serving: view.is_serving,
            is_unkillable: view.is_unkillable,
            is_leaving: view.is_leaving,
            waits: view.waits.map(Waiting::from),
        }
    }
}

/// What keeps a child from starting that is to start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Waiting {
    /// Its delay.
    Delay,
    /// This one is not ready.
    Child(ChildId),
    /// Its own earlier incarnation is still there.
    Itself,
    /// Too many are starting.
    Limiter,
}

impl From<Waits<'_>> for Waiting {
    fn from(waits: Waits<'_>) -> Self {
        match waits {
            Waits::Delay => Self::Delay,
            Waits::Child(id) => Self::Child(id.clone()),
            Waits::Itself => Self::Itself,
            Waits::Governor => Self::Limiter,
        }
    }
}

/// What happens to children, for one subscriber.
#[derive(Debug)]
pub struct Transitions {
    receiver: broadcast::Receiver<Transition>,
}

impl Transitions {
    /// The next one. `Err` says how many were missed by a subscriber that was too slow; the ones
    /// after them follow. `None` when the group is gone for good.
    pub async fn next(&mut self) -> Option<Result<Transition, u64>> {
        match self.receiver.recv().await {
            Ok(transition) => Some(Ok(transition)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Err(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// One that has happened already, without waiting.
    pub fn try_next(&mut self) -> Option<Result<Transition, u64>> {
        match self.receiver.try_recv() {
            Ok(transition) => Some(Ok(transition)),
            Err(broadcast::error::TryRecvError::Lagged(missed)) => Some(Err(missed)),
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => {
                None
            }
        }
    }
}
