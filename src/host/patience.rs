//! Waiting that a pause of this process does not use up.
//!
//! A host that is stopped and goes on later finds all its timers due at once, and would climb from
//! the notice to the kill in one moment, past plugins that have done what they were asked
//! meanwhile. So time passes in looks, and one that comes late does not count.

use std::time::{Duration, Instant};

use crate::net::clock;

/// Returns when `limit` has passed while this process ran.
pub(crate) async fn pass(limit: Duration) {
    let mut patience = Patience::new(limit, clock::instant());
    while let Some(at) = patience.next_look() {
        tokio::time::sleep_until(at.into()).await;
        patience.look(clock::instant());
    }
}

/// What is left of a wait.
#[derive(Debug)]
struct Patience {
    left: Duration,
    looked_at: Instant,
    /// The last look did not count. The next one does, however late it is: a machine that is only
    /// slow must not wait for ever.
    was_late: bool,
}

impl Patience {
    fn new(limit: Duration, now: Instant) -> Self {
        Self { left: limit, looked_at: now, was_late: false }
    }

    /// When to look again; `None` when the time is over.
    fn next_look(&self) -> Option<Instant> {
        (!self.left.is_zero()).then(|| self.looked_at + self.left.min(LOOK))
    }

    fn look(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.looked_at);
        self.looked_at = now;
        let is_late = passed > self.left.min(LOOK) + LATE;
        self.was_late = is_late && !self.was_late;
        if !self.was_late {
            self.left = self.left.saturating_sub(passed.min(LOOK));
        }
    }
}

/// The longest time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// A look that comes later than this comes after a pause.
const LATE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a wait of so many seconds takes, when the looks come so late.
    fn waited(limit: u64, late: impl Fn(usize) -> Duration) -> Duration {
        let began = clock::instant();
        let mut patience = Patience::new(Duration::from_secs(limit), began);
        let (mut now, mut looks) = (began, 0);
        while let Some(at) = patience.next_look() {
            now = at + late(looks);
            looks += 1;
            patience.look(now);
        }
        now - began
    }

    #[test]
    fn who_runs_waits_as_long_as_was_said() {
        for limit in [0, 1, 5] {
            assert_eq!(waited(limit, |_| Duration::ZERO), Duration::from_secs(limit));
        }
    }

    /// Wherever the pause falls: what was left before it, up to a second, is still left after it.
    #[test]
    fn a_pause_uses_nothing_up() {
        let pause = Duration::from_secs(3_600);
        for paused in 0..5 {
            let late = |look| if look == paused { pause } else { Duration::ZERO };
            assert_eq!(waited(5, late), Duration::from_secs(5 + 1) + pause);
        }
    }

    #[test]
    fn a_machine_that_is_always_late_comes_to_an_end() {
        assert_eq!(waited(5, |_| 2 * LATE), 10 * (LOOK + 2 * LATE));
    }
}
