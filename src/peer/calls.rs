//! Calls in both directions: those we make and wait for, and those we serve.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::event::CallId;
use super::routes::FastMap;
use crate::error::{Code, Fault, Refusal, Verdict};
use crate::id::RouteId;
use crate::limit;
use crate::wire::body::{Limits, RouteKind};

/// What waits for an answer from the other side: requests and control commands.
///
/// Invariant: `deadlines` has exactly one entry for each of `waiting`, and `requests` and
/// `request_bytes` are the sums over those that are requests.
#[derive(Debug)]
pub(super) struct CallsOut {
    waiting: FastMap<u64, Waiting>,
    deadlines: BTreeSet<(Instant, u64)>,
    id_last: u64,
    requests: u32,
    request_bytes: u64,
    requests_max: u32,
    request_bytes_max: u64,
}

/// One that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) what: What,
    deadline: Instant,
}

/// What an answer is waited for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum What {
    Request { route: RouteId, size: u64, started: bool, timeout: Duration },
    Open { kind: RouteKind, name: String },
    Control,
}

impl CallsOut {
    pub(super) fn new() -> Self {
        Self {
            waiting: FastMap::default(),
            deadlines: BTreeSet::new(),
            id_last: 0,
            requests: 0,
            request_bytes: 0,
            requests_max: limit::REQUESTS_MAX,
            request_bytes_max: limit::REQUEST_BYTES_MAX,
        }
    }

    pub(super) fn set_limits(&mut self, limits: &Limits) {
        self.requests_max = limits.requests_max;
        self.request_bytes_max = limits.request_bytes_max;
    }

    /// A number that was never used for a call or a command before.
    #[inline]
    pub(super) fn next_id(&mut self) -> u64 {
        self.id_last += 1;
        self.id_last
    }

    /// Whether another request may start. The broker would say the same, a round trip later.
    pub(super) fn check_limits(&self) -> Result<(), Fault> {
        let (resource, used, limit) = if self.requests >= self.requests_max {
            ("unanswered requests", u64::from(self.requests), u64::from(self.requests_max))
        } else if self.request_bytes >= self.request_bytes_max {
            ("bytes of unanswered requests", self.request_bytes, self.request_bytes_max)
        } else {
            return Ok(());
        };
        let (holder, blame) = ("this session", "this session");
        Err(Fault::refused(&Refusal { resource, holder, used, limit, blame, retry_after_ms: 0 }))
    }

    pub(super) fn insert(&mut self, id: u64, what: What, deadline: Instant) {
        if let What::Request { size, .. } = what {
            self.requests += 1;
            self.request_bytes += size;
        }
        self.deadlines.insert((deadline, id));
        self.waiting.insert(id, Waiting { what, deadline });
    }

    /// Takes out the one that an answer on `route` with this id is for.
    pub(super) fn answered(&mut self, route: RouteId, id: u64) -> Option<What> {
        if self.route_of(id)? != route {
            return None;
        }
        self.remove(id)
    }

    /// The callee confirmed that it has begun.
    pub(super) fn set_started(&mut self, on: RouteId, id: u64) -> bool {
        match self.waiting.get_mut(&id).map(|waiting| &mut waiting.what) {
            Some(What::Request { route, started, .. }) if *route == on => {
                *started = true;
                true
            }
            _ => false,
        }
    }

    /// The route of a request that waits.
    pub(super) fn route_of(&self, id: u64) -> Option<RouteId> {
        match self.waiting.get(&id)?.what {
            What::Request { route, .. } => Some(route),
            What::Open { .. } | What::Control => Some(RouteId::CONTROL),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// One whose time is over.
    pub(super) fn poll_expired(&mut self, now: Instant) -> Option<(u64, What)> {
        let (_, id) = *self.deadlines.first().filter(|(deadline, _)| *deadline <= now)?;
        self.remove(id).map(|what| (id, what))
    }

    /// One after the other, in the order in which they were made, because the connection ended.
    pub(super) fn take_all(&mut self) -> Vec<(u64, What)> {
        let mut ids: Vec<u64> = self.waiting.keys().copied().collect();
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| self.remove(id).map(|what| (id, what))).collect()
    }

    fn remove(&mut self, id: u64) -> Option<What> {
        let Waiting { what, deadline } = self.waiting.remove(&id)?;
        self.deadlines.remove(&(deadline, id));
        if let What::Request { size, .. } = what {
            self.requests -= 1;
            self.request_bytes -= size;
        }
        Some(what)
    }
}

impl What {
    /// Why there is no answer although the connection lives.
    pub(super) fn timed_out(&self) -> Fault {
        match self {
            Self::Request { timeout, .. } => {
                Fault::new(Code::Timeout, format!("no answer within {} ms", timeout.as_millis()))
            }
            Self::Open { name, .. } => {
                Fault::new(Code::Timeout, format!("the broker did not resolve `{name}` in time"))
            }
            Self::Control => Fault::new(Code::Timeout, "the broker did not answer in time"),
        }
    }

    /// Why there will never be one.
    pub(super) fn connection_lost(&self) -> Fault {
        let fault = Fault::new(Code::ShuttingDown, "the connection to the broker has ended");
        match self {
            Self::Request { started, .. } => {
                let verdict = if *started { Verdict::Started } else { Verdict::PossiblyStarted };
                fault.with("verdict", verdict.name())
            }
            Self::Open { .. } | Self::Control => fault,
        }
    }
}

/// Requests that were given to us and are neither answered nor cancelled.
#[derive(Debug, Default)]
pub(super) struct CallsIn {
    open: FastMap<CallId, bool>,
}

impl CallsIn {
    /// Notes a request. False when it is here already.
    pub(super) fn begin(&mut self, call: CallId, no_reply: bool) -> bool {
        self.open.insert(call, no_reply).is_none()
    }

    /// Takes it out. `Some(true)` when its caller wants no answer, `None` when there is nobody
    /// to answer any more.
    pub(super) fn end(&mut self, call: CallId) -> Option<bool> {
        self.open.remove(&call)
    }

    pub(super) fn wants_reply(&self, call: CallId) -> bool {
        self.open.get(&call) == Some(&false)
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn take_all(&mut self) -> Vec<CallId> {
        let mut calls: Vec<CallId> = self.open.drain().map(|(call, _)| call).collect();
        calls.sort_unstable();
        calls
    }
}
