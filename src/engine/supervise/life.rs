//! The life of a child: which state follows on which step.
//!
//! [`State::after`] is the only place that knows. A step that it does not allow is a bug of the
//! group, which asserts it. `docs/supervision.md` has the picture.

use std::fmt;

/// Where a child is in its life.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum State {
    /// Not running; what should start it has not happened, or it waits for its turn.
    Stopped,
    /// Started, and not ready yet.
    Starting,
    /// Serving.
    Ready,
    /// Serving, and says that it has its hands full.
    Busy,
    /// Not running, and started on demand.
    Sleeping,
    /// Waits for its next restart.
    BackingOff,
    /// Cannot be started until something changes.
    Failed,
    /// Failed too often in a short time; a trial comes later.
    Quarantined,
    /// A trial: started, but not stable yet.
    HalfOpen,
    /// Asked to end, and not known to be gone.
    Stopping,
    /// Serving, while its successor starts.
    Replacing,
    /// Failed too often since it was stable; only a command starts it.
    Disabled,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 12] = [
        Self::Stopped,
        Self::Starting,
        Self::Ready,
        Self::Busy,
        Self::Sleeping,
        Self::BackingOff,
        Self::Failed,
        Self::Quarantined,
        Self::HalfOpen,
        Self::Stopping,
        Self::Replacing,
        Self::Disabled,
    ];

    /// Lower case, as in events and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Sleeping => "sleeping",
            Self::BackingOff => "backing-off",
            Self::Failed => "failed",
            Self::Quarantined => "quarantined",
            Self::HalfOpen => "half-open",
            Self::Stopping => "stopping",
            Self::Replacing => "replacing",
            Self::Disabled => "disabled",
        }
    }

    /// Whether there is an incarnation, of which an end can be reported.
    #[must_use]
    pub fn is_running(self) -> bool {
        matches!(
            self,
            Self::Starting
                | Self::Ready
                | Self::Busy
                | Self::HalfOpen
                | Self::Stopping
                | Self::Replacing
        )
    }

    /// The state after `step`, or `None` when it must not happen in this one.
    #[must_use]
    pub fn after(self, step: Step) -> Option<Self> {
        let is_parked = matches!(
            self,
            Self::Sleeping | Self::BackingOff | Self::Failed | Self::Quarantined | Self::Disabled
        );
        let is_allowed = match step {
            Step::Launch => is_parked && self != Self::Quarantined || self == Self::Stopped,
            Step::Try => self == Self::Quarantined,
            Step::Serve => matches!(self, Self::Starting | Self::HalfOpen),
            Step::Load => self == Self::Ready,
            Step::Unload => self == Self::Busy,
            Step::Trust => self == Self::HalfOpen,
            Step::Replace => matches!(self, Self::Ready | Self::Busy),
            Step::Settle | Step::Inherit => self == Self::Replacing,
            Step::Halt => self.is_running() && self != Self::Stopping,
            Step::End => self != Self::Stopped,
            Step::Doze => matches!(self, Self::Stopped | Self::Stopping),
            Step::Delay | Step::Fail | Step::Open | Step::Disable => {
                self.is_running() && self != Self::Replacing
            }
        };
        is_allowed.then_some(match step {
            Step::Launch | Step::Inherit => Self::Starting,
            Step::Try => Self::HalfOpen,
            Step::Serve if self == Self::HalfOpen => Self::HalfOpen,
            Step::Serve | Step::Unload | Step::Trust | Step::Settle => Self::Ready,
            Step::Load => Self::Busy,
            Step::Replace => Self::Replacing,
            Step::Halt => Self::Stopping,
            Step::End => Self::Stopped,
            Step::Doze => Self::Sleeping,
            Step::Delay => Self::BackingOff,
            Step::Fail => Self::Failed,
            Step::Open => Self::Quarantined,
            Step::Disable => Self::Disabled,
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What happens to a child.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// An incarnation is started.
    Launch,
    /// One is started on trial.
    Try,
    /// It is ready.
    Serve,
    /// It says that it is busy.
    Load,
    /// It is not busy any more.
    Unload,
    /// The trial ran long enough.
    Trust,
    /// A successor is started.
    Replace,
    /// The successor serves, or has failed and the old one goes on.
    Settle,
    /// The old one ended while its successor was starting, which takes its place.
    Inherit,
    /// It is asked to end, or killed.
    Halt,
    /// It is gone, or no longer waits for anything.
    End,
    /// It is gone, or was never started, and waits for demand.
    Doze,
    /// It failed and is restarted after a delay.
    Delay,
    /// It failed, and cannot be started until something changes.
    Fail,
    /// It failed too often in a short time.
    Open,
    /// It failed too often since it was stable.
    Disable,
}
