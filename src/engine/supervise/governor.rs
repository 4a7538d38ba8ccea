//! Bounds on how fast children are started, over all groups.
//!
//! Without it, two hundred plugins that die together would start together, and each would look as
//! if it hung.

use std::time::Duration;

/// A token bucket over starts, and a bound on how many children are starting at once. All groups
/// of an application share one.
#[derive(Debug)]
pub struct Governor {
    interval: Duration,
    burst: u32,
    starting_max: u32,
    starting: u32,
    /// When the bucket will be full again.
    full_at: Duration,
}

impl Governor {
    /// Allows `per_second` starts, `burst` of them at once after a quiet time, and `starting_max`
    /// children that are starting but not ready. A zero counts as one.
    #[must_use]
    pub fn new(per_second: u32, burst: u32, starting_max: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            burst: burst.max(1),
            starting_max: starting_max.max(1),
            starting: 0,
            full_at: Duration::ZERO,
        }
    }

    /// How many children are starting.
    #[must_use]
    pub fn starting(&self) -> u32 {
        self.starting
    }

    /// Takes a place and a token, or says when to ask again.
    pub(super) fn acquire(&mut self, now: Duration) -> Result<(), Duration> {
        if self.starting >= self.starting_max {
            return Err(now + Self::RETRY);
        }
        let full_at = self.full_at.max(now);
        let spare = self.interval * (self.burst - 1);
        if full_at > now + spare {
            return Err(full_at - spare);
        }
        self.full_at = full_at + self.interval;
        self.starting += 1;
        Ok(())
    }

    /// The child is ready or gone.
    pub(super) fn release(&mut self) {
        assert!(self.starting > 0, "a place is given back once");
        self.starting -= 1;
    }

    /// A group asks at once when a child of its own made room; this is for room that another one
    /// made.
    const RETRY: Duration = Duration::from_millis(50);
}

impl Default for Governor {
    /// 20 at once, then 10 in a second; at most 4 starting.
    fn default() -> Self {
        Self::new(10, 20, 4)
    }
}
