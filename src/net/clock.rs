//! The one place that reads the clocks. Everything below takes the time as an argument.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::engine::Now;
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

/// Both clocks, as the engine wants them.
pub(crate) fn now() -> Now {
    Now { mono: instant().duration_since(*START), unix: unix_nanos() }
}

/// Both clocks, as a peer wants them.
pub(crate) fn moment() -> Moment {
    Moment { instant: instant(), unix: unix_nanos() }
}

/// The moment of the runtime's timer at which [`now`] will have reached `mono`.
pub(crate) fn deadline(mono: Duration) -> tokio::time::Instant {
    (*START + mono).into()
}

static START: LazyLock<Instant> = LazyLock::new(instant);
