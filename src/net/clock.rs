//! The one place that reads the clocks. Everything below takes the time as an argument.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::peer::Moment;

/// A monotonic moment.
#[expect(clippy::disallowed_methods, reason = "drivers read the clock here and nowhere else")]
pub(crate) fn instant() -> Instant {
    Instant::now()
}

/// Unix nanoseconds, for timestamps.
pub(crate) fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Both clocks, as a peer wants them.
pub(crate) fn moment() -> Moment {
    Moment { instant: instant(), unix: unix_nanos() }
}
