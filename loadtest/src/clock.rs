//! The one place that reads the clocks.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the system's monotonic clock, which is the same for all processes.
pub(crate) fn monotonic_nanos() -> u64 {
    nanos(ClockId::Monotonic)
}

/// Unix nanoseconds, for the timestamps of frames.
pub(crate) fn unix_nanos() -> u64 {
    nanos(ClockId::Realtime)
}

/// Nanoseconds that this process has run.
pub(crate) fn cpu_nanos() -> u64 {
    nanos(ClockId::ProcessCPUTime)
}

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).expect("the clocks have passed zero");
    let nanos = u64::try_from(time.tv_nsec).expect("nanoseconds are never negative");
    seconds * 1_000_000_000 + nanos
}
