//! The receiving side of an announced route.

use crate::wire::body::{Redelivery, RouteKind};

/// What is known of an announced route.
#[derive(Debug)]
pub(super) struct RouteIn {
    pub(super) kind: RouteKind,
    /// Ids up to `last` come for the `attempt`th time.
    redelivery: Redelivery,
    delivered: u64,
    acked: u64,
}

impl RouteIn {
    pub(super) fn new(kind: RouteKind) -> Self {
        Self { kind, redelivery: Self::FRESH, delivered: 0, acked: 0 }
    }

    /// The ids up to `redelivery.last` may have been handled before.
    pub(super) fn redeliver(&mut self, redelivery: Redelivery) {
        self.redelivery = redelivery;
    }

    /// Notes messages up to `last`. Gives which of them may have been handled before.
    #[inline]
    pub(super) fn deliver(&mut self, last: u64) -> Redelivery {
        self.delivered = self.delivered.max(last);
        self.redelivery
    }

    /// Ids up to `last` will not come.
    pub(super) fn miss(&mut self, last: u64) {
        self.delivered = self.delivered.max(last);
    }

    /// Whether acknowledging up to `id` says something new and true.
    pub(super) fn ack(&mut self, id: u64) -> bool {
        if id <= self.acked || id > self.delivered {
            return false;
        }
        self.acked = id;
        true
    }

    /// Nothing comes again.
    pub(super) const FRESH: Redelivery = Redelivery { last: 0, attempt: 1 };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::run::attempt_of;

    #[test]
    fn only_what_came_again_has_a_higher_attempt() {
        let mut route = RouteIn::new(RouteKind::Channel);
        route.redeliver(Redelivery { last: 6, attempt: 3 });
        assert_eq!([5, 6, 7].map(|id| attempt_of(id, route.deliver(id))), [3, 3, 1]);
    }

    #[test]
    fn an_acknowledgement_only_grows_and_never_runs_ahead() {
        let mut route = RouteIn::new(RouteKind::Channel);
        assert!(!route.ack(1), "nothing came yet");
        route.deliver(1);
        route.deliver(2);
        assert!(route.ack(2));
        assert!(!route.ack(1));
        assert!(!route.ack(2));
        assert!(!route.ack(3));
    }
}
