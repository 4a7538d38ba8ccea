//! Times of single calls.

use crate::part::Line;

/// Nanoseconds of each call.
#[derive(Default)]
pub(crate) struct Latencies(Vec<u64>);

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Vec::with_capacity(1 << 20))
    }

    pub(crate) fn note(&mut self, nanos: u64) {
        self.0.push(nanos);
    }

    /// What the process reports.
    pub(crate) fn line(mut self, elapsed: u64) -> Line {
        self.0.sort_unstable();
        Line::Called {
            count: self.0.len() as u64,
            elapsed,
            p50: self.percentile(50),
            p99: self.percentile(99),
        }
    }

    fn percentile(&self, percent: usize) -> u64 {
        let index = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(index).copied().unwrap_or(0)
    }
}
