//! When a child that failed is tried again.

use std::sync::Arc;
use std::time::Duration;

/// What follows on failures that come one after the other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Backoff {
    /// Delays before the second restart, the third and so on. The first one after a stable run
    /// has none.
    pub delays: Delays,
    /// Each delay is changed by up to this many percent in either direction, so that children that
    /// fell together do not come back together. At most 100.
    pub jitter_percent: u32,
    /// How long a child has to be ready to count as stable.
    pub stable_after: Duration,
    /// Restarts since the last stable run; the next one disables the child. `None`: no limit.
    pub disable_after: Option<u32>,
    /// How long a child stays quarantined before its first trial.
    pub open: Duration,
    /// The time in quarantine doubles with each trial that fails, up to this.
    pub open_max: Duration,
}

/// The delay before each restart.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Delays {
    /// One after the other; the last one is repeated. Empty: never a delay.
    List(Arc<[Duration]>),
    /// `base`, then `factor` times as much each time, up to `cap`.
    Growing {
        /// The first delay.
        base: Duration,
        /// By what it grows.
        factor: u32,
        /// Where it stops growing.
        cap: Duration,
    },
}

impl Backoff {
    /// For plugins: 1, 2, 4, 8, 16 s, disabled after 10 restarts.
    #[must_use]
    pub fn plugin() -> Self {
        Self {
            delays: Delays::List([1, 2, 4, 8, 16].map(Duration::from_secs).into()),
            jitter_percent: 20,
            stable_after: Duration::from_secs(10),
            disable_after: Some(10),
            open: Duration::from_secs(30),
            open_max: Duration::from_secs(300),
        }
    }

    /// For parts of an application: restarted at once, as OTP does; the group's intensity is what
    /// limits it.
    #[must_use]
    pub fn none() -> Self {
        Self { delays: Delays::List(Arc::new([])), disable_after: None, ..Self::plugin() }
    }

    /// The delay before restart number `failures` since the last stable run, counted from 1.
    pub(super) fn delay(&self, failures: u32, random: &mut Random) -> Duration {
        let Some(index) = failures.checked_sub(2) else { return Duration::ZERO };
        let delay = match &self.delays {
            Delays::List(list) => {
                let last = list.len().saturating_sub(1);
                list.get(last.min(index as usize)).copied().unwrap_or_default()
            }
            Delays::Growing { base, factor, cap } => {
                let grown = base.saturating_mul(factor.saturating_pow(index));
                grown.min(*cap)
            }
        };
        self.jittered(delay, random)
    }

    /// How long the circuit stays open after `trials` trials that failed.
    pub(super) fn open(&self, trials: u32, random: &mut Random) -> Duration {
        let grown = self.open.saturating_mul(2_u32.saturating_pow(trials));
        self.jittered(grown.min(self.open_max), random)
    }

    fn jittered(&self, delay: Duration, random: &mut Random) -> Duration {
        let jitter = u64::from(self.jitter_percent.min(100));
        if jitter == 0 || delay.is_zero() {
            return delay;
        }
        // In permille, from 1000 - 10 × jitter to 1000 + 10 × jitter.
        let permille = 1000 - 10 * jitter + random.next() % (20 * jitter + 1);
        let permille = u32::try_from(permille).expect("it is at most 2000");
        (delay / 1000).saturating_mul(permille)
    }
}

/// Jitter from a seed: splitmix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
