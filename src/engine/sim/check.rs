//! What bounds hold at every moment.

use crate::engine::{Port, Resource};
use crate::limit;

/// P6: whatever a peer does or leaves undone, the broker keeps no more for it than this.
pub(super) fn bounds(port: &Port) {
    let account = &port.account;
    // A supervised plugin may have two instances, and old sessions of them that are to end yet.
    let sessions = account.used(Resource::Sessions);
    assert!(sessions <= SESSIONS_MAX, "{} has {sessions} sessions", port.plugin);
    for (resource, max) in [
        (Resource::ControlBytes, limit::CONTROL_QUEUE_BYTES_MAX),
        (Resource::EventBytes, limit::EVENT_QUEUE_BYTES_MAX + MESSAGE),
        (Resource::ResponseBytes, limit::RESPONSE_QUEUE_BYTES_MAX + MESSAGE),
        (Resource::RequestBytes, limit::REQUEST_BYTES_MAX + MESSAGE),
        (Resource::Requests, u64::from(limit::REQUESTS_MAX)),
        (Resource::Routes, u64::from(limit::ROUTES_MAX)),
        (Resource::Subscriptions, u64::from(limit::SUBSCRIPTIONS_MAX)),
        (Resource::ChunkBytes, limit::MESSAGE_MAX + MESSAGE),
        (Resource::MessageBytes, limit::RETAINED_BYTES_MAX + MESSAGE),
        (Resource::RegistrationBytes, limit::REGISTRATION_BYTES_MAX),
    ] {
        let max = max * sessions;
        let used = account.used(resource);
        assert!(used <= max, "P6: {} of {} use {used}, over {max}", resource.name(), port.plugin);
    }
}

/// The largest message of a run.
const MESSAGE: u64 = 2 << 20;

/// Live sessions of one plugin.
const SESSIONS_MAX: u64 = 8;
