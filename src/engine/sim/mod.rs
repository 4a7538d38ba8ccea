//! A whole broker and its plugins in one thread, under one seed.
//!
//! Each step the scheduler takes one action that is possible: a plugin sends something, bytes move
//! a little way, the router decides, a handler returns, somebody dies. After every step the engine
//! is audited, and an oracle that knows nothing of the engine checks the promises of
//! `docs/architecture.md` where the plugins would notice. No step depends on anything but the seed,
//! so that a failure happens again as often as one likes.

mod action;
mod check;
mod disturb;
mod fault;
mod finish;
mod hostile;
mod link;
mod oracle;
mod plugin;
mod random;
mod supervisor;
mod world;

use std::cell::Cell;
use std::time::Instant;

pub use fault::{FaultCounts, FaultKind};
pub use world::Stats;

use self::world::World;

/// What a run was like.
#[derive(Clone, Debug)]
pub struct Report {
    /// How often each kind of fault happened.
    pub faults: FaultCounts,
    /// Hash of every byte that moved, in order.
    pub trace: u64,
    /// How much was sent.
    pub stats: Stats,
}

/// Runs `steps` steps, lets everything come to rest, and ends every session.
///
/// `epoch` is any moment; the run only counts from it. `at` is kept at the number of the step, for
/// whoever catches a panic.
///
/// # Panics
///
/// Where a promise is broken, saying which.
#[must_use]
pub fn run(seed: u64, steps: u64, epoch: Instant, at: &Cell<u64>) -> Report {
    let mut world = World::new(seed, epoch);
    while world.step < steps {
        at.set(world.step + 1);
        world.step();
    }
    world.finish();
    Report { faults: world.faults, trace: world.trace, stats: world.stats }
}
