//! Time as the engine counts it: from the moment when somebody first asked.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::clock::{instant, unix_nanos};
use crate::engine::Now;

/// Both clocks, as the engine wants them.
pub(crate) fn now() -> Now {
    Now { mono: instant().duration_since(*START), unix: unix_nanos() }
}

/// The moment of the runtime's timer at which [`now`] will have reached `mono`.
pub(crate) fn deadline(mono: Duration) -> tokio::time::Instant {
    (*START + mono).into()
}

static START: LazyLock<Instant> = LazyLock::new(instant);
