//! Open calls of one caller. Each ends exactly once: whoever removes it from here owes the caller
//! its outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::effects::{Effects, Now};
use super::ledger::Charge;
use super::method::MethodRoute;
use super::port::Port;
use crate::error::{Code, Fault, Verdict};
use crate::id::SessionId;
use crate::wire::{CallReference, FrameBuilder, Kind};

/// Invariant: `deadlines` has exactly the live calls.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    live: BTreeMap<u64, Call>,
    deadlines: BTreeSet<(Duration, u64)>,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) route: Arc<MethodRoute>,
    pub(crate) callee: Arc<Port>,
    pub(crate) phase: Phase,
    pub(crate) deadline: Duration,
    pub(crate) accepted_at: Duration,
    pub(crate) no_reply: bool,
    pub(crate) _request: Charge,
    pub(crate) bytes: Charge,
}

/// How far the callee is, as far as is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// In the callee's queue.
    Queued,
    /// Handed to its socket.
    Handed,
    /// Confirmed by it.
    Started,
}

/// What to do with a queued request that is about to be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum HandOver {
    /// Write it.
    Deliver,
    /// Its caller is gone or has its outcome.
    Gone,
    /// Its deadline has just passed: nobody has told the caller yet.
    Expired,
}

impl Calls {
    /// Takes a call. Says `false` when the id is in use.
    #[must_use]
    pub(crate) fn insert(&mut self, id: u64, call: Call) -> bool {
        let deadline = call.deadline;
        let std::collections::btree_map::Entry::Vacant(entry) = self.live.entry(id) else {
            return false;
        };
        entry.insert(call);
        self.deadlines.insert((deadline, id));
        true
    }

    /// Decides about a request in the moment of writing.
    pub(crate) fn hand_over(&mut self, id: u64, callee: SessionId, now: Now) -> HandOver {
        let Some(call) = self.live.get_mut(&id).filter(|call| call.callee.session == callee) else {
            return HandOver::Gone;
        };
        if call.deadline <= now.mono {
            return HandOver::Expired;
        }
        // A caller that takes the id of a cancelled call again leaves two requests in the outbox.
        // Only the first goes out: the call is one.
        if call.phase != Phase::Queued {
            return HandOver::Gone;
        }
        call.phase = Phase::Handed;
        HandOver::Deliver
    }

    pub(crate) fn contains(&self, id: u64) -> bool {
        self.live.contains_key(&id)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Call> {
        self.live.get_mut(&id)
    }

    /// Ends a call. The caller of this function owes the outcome.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Call> {
        let call = self.live.remove(&id)?;
        self.deadlines.remove(&(call.deadline, id));
        // Relaxed: the figure only balances load.
        call.callee.outstanding.fetch_sub(1, Ordering::Relaxed);
        Some(call)
    }

    /// Ends every call whose deadline has passed.
    pub(crate) fn remove_expired(&mut self, now: Now) -> Vec<(u64, Call)> {
        let mut expired = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first() {
            if deadline > now.mono {
                break;
            }
            let call = self.remove(id).expect("`deadlines` has exactly the live calls");
            expired.push((id, call));
        }
        expired
    }

    /// Ends every call that `callee` has not answered.
    pub(crate) fn remove_of_callee(&mut self, callee: SessionId) -> Vec<(u64, Call)> {
        let ids: Vec<u64> = self
            .live
            .iter()
            .filter(|(_, call)| call.callee.session == callee)
            .map(|(&id, _)| id)
            .collect();
        ids.into_iter().filter_map(|id| self.remove(id).map(|call| (id, call))).collect()
    }

    /// Ends every call.
    pub(crate) fn remove_all(&mut self) -> Vec<(u64, Call)> {
        let ids: Vec<u64> = self.live.keys().copied().collect();
        ids.into_iter().filter_map(|id| self.remove(id).map(|call| (id, call))).collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Payload bytes of the live calls.
    pub(crate) fn bytes(&self) -> u64 {
        self.live.values().map(|call| call.bytes.amount()).sum()
    }

    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }

    /// The live calls, for status and checks.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Call)> {
        self.live.iter().map(|(&id, call)| (id, call))
    }
}

impl Call {
    /// Tells a callee that has the request already to stop, and remembers that its answer will be
    /// late.
    pub(crate) fn call_off(&self, id: u64, now: Now, fx: &mut Effects) {
        if self.phase == Phase::Queued || self.no_reply {
            return;
        }
        let caller = self.route.owner.session;
        self.callee.abandon((caller, id));
        let cancel = FrameBuilder::new(Kind::CANCEL)
            .route(self.route.number)
            .message_id(id)
            .timestamp(now.unix)
            .build(&CallReference(caller).to_bytes(), b"");
        self.callee.push_notice(cancel, fx);
    }

    /// What the caller is told when the callee's session ends.
    pub(crate) fn peer_died(&self) -> Fault {
        let verdict = match self.phase {
            Phase::Queued => Verdict::NeverDelivered,
            Phase::Handed => Verdict::PossiblyStarted,
            Phase::Started => Verdict::Started,
        };
        let plugin = &self.callee.plugin;
        Fault::new(
            Code::PeerDied,
            format!("session of `{plugin}` ended before it answered; the request was {verdict}"),
        )
        .with("verdict", verdict.name())
        .with("plugin", plugin.as_str())
        .with("incarnation", self.callee.incarnation)
    }

    /// What the caller is told at its deadline.
    pub(crate) fn timed_out(&self) -> Fault {
        let waited = self.deadline.saturating_sub(self.accepted_at).as_millis();
        let progress = match self.phase {
            Phase::Queued => "it was not delivered",
            Phase::Handed => "it was delivered",
            Phase::Started => "its handler was running",
        };
        Fault::new(
            Code::Timeout,
            format!("`{}` gave no answer within {waited} ms; {progress}", self.route.address()),
        )
        .with("plugin", self.callee.plugin.as_str())
        .with("deadline_ms", u64::try_from(waited).unwrap_or(u64::MAX))
        .with("delivered", self.phase != Phase::Queued)
    }
}
