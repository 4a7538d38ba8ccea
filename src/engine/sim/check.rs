//! What bounds hold at every moment.

use crate::engine::{Port, Resource};
use crate::limit;

/// P6: whatever a peer does or leaves undone, the broker keeps no more for it than this.
pub(super) fn bounds(port: &Port) {
    let account = &port.account;
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
        (Resource::Sessions, 1),
    ] {
        let used = account.used(resource);
        assert!(used <= max, "P6: {} of {} use {used}, over {max}", resource.name(), port.plugin);
    }
}

/// The largest message of a run.
const MESSAGE: u64 = 2 << 20;
