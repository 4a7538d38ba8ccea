//! How many restarts are allowed in how much time, over a sliding window.

use std::collections::VecDeque;
use std::time::Duration;

/// At most `restarts_max` restarts in any span of `window`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Intensity {
    /// Restarts that are allowed; 0 means that the first one is too many.
    pub restarts_max: u32,
    /// Length of the window.
    pub window: Duration,
}

/// The restarts of the last while. Holds at most `restarts_max + 1` moments, none before the first
/// restart.
#[derive(Debug, Default)]
pub(super) struct Window {
    moments: VecDeque<Duration>,
}

impl Window {
    /// Counts one restart decision. Says whether there were too many.
    pub(super) fn add(&mut self, now: Duration, intensity: Intensity) -> bool {
        while self.moments.front().is_some_and(|&at| now.saturating_sub(at) > intensity.window) {
            self.moments.pop_front();
        }
        self.moments.push_back(now);
        if self.moments.len() as u64 > u64::from(intensity.restarts_max) {
            // The sum of what came before is already known to be too much; a longer memory could
            // not say more.
            self.moments.pop_front();
            return true;
        }
        false
    }

    pub(super) fn clear(&mut self) {
        self.moments = VecDeque::new();
    }
}
