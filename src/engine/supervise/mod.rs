//! Who starts, watches, restarts and stops the children of a tree: OTP's supervisor as a machine.
//!
//! A [`Group`] decides for its children, which may be processes, actors or groups. It takes
//! commands, reports about incarnations and the time, and gives orders and changes; it starts
//! nothing itself. The actors that carry its orders out live elsewhere, and the simulator drives
//! the same machine. The time and the seed of the jitter are arguments.
//!
//! `docs/supervision.md` says what holds, with the picture of a child's life.

mod backoff;
mod exit;
mod governor;
mod group;
mod health;
mod intensity;
mod life;
mod spec;

pub use backoff::{Backoff, Delays};
pub use exit::Exit;
pub use governor::Governor;
pub use group::{
    Answer, Cause, Changed, ChildView, Command, Ended, Group, Order, Output, Phase, Plan, Refusal,
    Report, Waits,
};
pub use health::{Finding, Health, Measure, Rule, Verdict};
pub use intensity::Intensity;
pub use life::{State, Step};
pub use spec::{
    AutoShutdown, ChildId, ChildSpec, GroupFlags, OnExhausted, Restart, Shutdown, SpecError,
    Strategy,
};
