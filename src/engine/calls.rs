//! Open calls of one caller. Each ends exactly once: whoever removes it from here owes the caller
//! its outcome.
//!
//! A call has a callee, or it is *held* until one is ready, or it *waits* for what is known of its
//! callee's end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::effects::{Effects, Now};
use super::ledger::Charge;
use super::method::MethodRoute;
use super::port::Port;
use super::router::{PluginExit, with_return};
use crate::error::{Code, Fault, Verdict};
use crate::id::{PluginId, SessionId};
use crate::limit;
use crate::wire::{CallReference, FrameBuilder, Kind};

/// Invariants: `deadlines` has exactly the live calls, at the moment in which each is due; a call
/// has a callee unless it is held or waits; `waiting` counts those that wait.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    live: BTreeMap<u64, Call>,
    deadlines: BTreeSet<(Duration, u64)>,
    waiting: u32,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) route: Arc<MethodRoute>,
    pub(crate) callee: Option<Arc<Port>>,
    pub(crate) phase: Phase,
    pub(crate) deadline: Duration,
    /// While it is held or waits: how long.
    pub(crate) until: Duration,
    pub(crate) accepted_at: Duration,
    pub(crate) no_reply: bool,
    /// The callee has said that it may be delivered again.
    pub(crate) idempotent: bool,
    /// Times that it was delivered to a callee that ended before it answered.
    pub(crate) attempts: u32,
    /// Its frames as the caller sent them, as long as they may have to be delivered.
    pub(crate) kept: Option<Bytes>,
    /// The last callee that ended before it answered.
    pub(crate) end: Option<CalleeEnd>,
    pub(crate) _request: Charge,
    pub(crate) bytes: Charge,
}

/// The end of a callee that had a call.
#[derive(Clone, Debug)]
pub(crate) struct CalleeEnd {
    pub(crate) session: SessionId,
    pub(crate) plugin: PluginId,
    pub(crate) incarnation: u64,
    pub(crate) verdict: Verdict,
    /// Incarnations that crashed while they had the call.
    pub(crate) crashes: Vec<u64>,
}

/// How far the callee is, as far as is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Until somebody who serves it is ready.
    Held,
    /// Its callee's session has ended; how its process did may be known soon.
    Waiting,
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
        let due = call.due();
        let std::collections::btree_map::Entry::Vacant(entry) = self.live.entry(id) else {
            return false;
        };
        if call.phase == Phase::Held {
            call.route.count_held(1);
        }
        entry.insert(call);
        self.deadlines.insert((due, id));
        true
    }

    /// Notes that the callee of a call has ended. `crashed` where it was not asked to.
    pub(crate) fn note_end(&mut self, id: u64, callee: &Port, crashed: bool) {
        let Some(call) = self.live.get_mut(&id) else { return };
        let mut verdict = call.verdict();
        let mut crashes = Vec::new();
        if let Some(end) = call.end.take() {
            crashes = end.crashes;
            // What an earlier callee may have done is not undone by a later one.
            verdict = verdict.max(end.verdict);
        }
        if matches!(call.phase, Phase::Handed | Phase::Started) {
            call.attempts += 1;
            if crashed {
                crashes.push(callee.incarnation);
            }
        }
        call.end = Some(CalleeEnd {
            session: callee.session,
            plugin: callee.plugin.clone(),
            incarnation: callee.incarnation,
            verdict,
            crashes,
        });
    }

    /// Takes a call from its callee: until somebody is ready, or until more is known of the
    /// callee's end.
    pub(crate) fn suspend(&mut self, id: u64, phase: Phase, until: Duration) {
        let Some(call) = self.live.get_mut(&id) else { return };
        self.deadlines.remove(&(call.due(), id));
        if let Some(callee) = call.callee.take() {
            // Relaxed: the figure only balances load.
            callee.outstanding.fetch_sub(1, Ordering::Relaxed);
        }
        call.phase = phase;
        call.until = until;
        match phase {
            Phase::Waiting => {
                call.kept = None;
                self.waiting += 1;
            }
            _ => call.route.count_held(1),
        }
        self.deadlines.insert((call.due(), id));
    }

    /// Gives a call that was held to a callee.
    pub(crate) fn assign(&mut self, id: u64, callee: &Arc<Port>, idempotent: bool) {
        let call = self.live.get_mut(&id).expect("the call was held just now");
        assert_eq!(call.phase, Phase::Held, "only a call that is held is without a callee");
        self.deadlines.remove(&(call.due(), id));
        call.route.count_held(-1);
        call.phase = Phase::Queued;
        call.idempotent = idempotent;
        call.callee = Some(Arc::clone(callee));
        // Relaxed: the figure only balances load.
        callee.outstanding.fetch_add(1, Ordering::Relaxed);
        self.deadlines.insert((call.due(), id));
    }

    /// Decides about a request in the moment of writing.
    pub(crate) fn hand_over(&mut self, id: u64, callee: SessionId, now: Now) -> HandOver {
        let Some(call) = self.live.get_mut(&id).filter(|call| call.is_of(callee)) else {
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
        call.kept = call.kept.take().filter(|_| call.idempotent).map(alone);
        HandOver::Deliver
    }

    pub(crate) fn contains(&self, id: u64) -> bool {
        self.live.contains_key(&id)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Call> {
        self.live.get_mut(&id)
    }

    pub(crate) fn route_of(&self, id: u64) -> Option<Arc<MethodRoute>> {
        self.live.get(&id).map(|call| Arc::clone(&call.route))
    }

    /// Ends a call. The caller of this function owes the outcome.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Call> {
        let call = self.live.remove(&id)?;
        self.deadlines.remove(&(call.due(), id));
        match call.phase {
            Phase::Held => call.route.count_held(-1),
            Phase::Waiting => self.waiting -= 1,
            _ => (),
        }
        if let Some(callee) = &call.callee {
            // Relaxed: the figure only balances load.
            callee.outstanding.fetch_sub(1, Ordering::Relaxed);
        }
        Some(call)
    }

    /// Ends every call that has waited long enough: for its answer, for a callee, or for what is
    /// known of its callee's end.
    pub(crate) fn remove_expired(&mut self, now: Now) -> Vec<(u64, Call)> {
        let mut expired = Vec::new();
        while let Some(&(due, id)) = self.deadlines.first() {
            if due > now.mono {
                break;
            }
            let call = self.remove(id).expect("`deadlines` has exactly the live calls");
            expired.push((id, call));
        }
        expired
    }

    /// Calls that `callee` has not answered, in the order in which they were made.
    pub(crate) fn of_callee(&self, callee: SessionId) -> Vec<u64> {
        self.live.iter().filter(|(_, call)| call.is_of(callee)).map(|(&id, _)| id).collect()
    }

    /// Calls that are held for `target`, in the order in which they were made.
    pub(crate) fn held_for(&self, target: &PluginId) -> Vec<u64> {
        let held = |call: &Call| call.phase == Phase::Held && call.route.target == *target;
        self.live.iter().filter(|(_, call)| held(call)).map(|(&id, _)| id).collect()
    }

    /// Calls that wait for what is known of the end of `callee`.
    pub(crate) fn waiting_for(&self, callee: SessionId) -> Vec<u64> {
        if self.waiting == 0 {
            return Vec::new();
        }
        let waits = |call: &Call| {
            call.phase == Phase::Waiting
                && call.end.as_ref().is_some_and(|end| end.session == callee)
        };
        self.live.iter().filter(|(_, call)| waits(call)).map(|(&id, _)| id).collect()
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
    /// When something has to happen to it.
    pub(crate) fn due(&self) -> Duration {
        match self.phase {
            Phase::Held | Phase::Waiting => self.until.min(self.deadline),
            _ => self.deadline,
        }
    }

    pub(crate) fn is_of(&self, callee: SessionId) -> bool {
        self.callee.as_ref().is_some_and(|port| port.session == callee)
    }

    /// Tells a callee that has the request already to stop, and remembers that its answer will be
    /// late.
    pub(crate) fn call_off(&self, id: u64, now: Now, fx: &mut Effects) {
        let Some(callee) = &self.callee else { return };
        if self.phase == Phase::Queued || self.no_reply {
            return;
        }
        let caller = self.route.owner.session;
        callee.abandon((caller, id));
        let cancel = FrameBuilder::new(Kind::CANCEL)
            .route(self.route.number)
            .message_id(id)
            .timestamp(now.unix)
            .build(&CallReference(caller).to_bytes(), b"");
        callee.push_notice(cancel, fx);
    }

    /// Whether so many callees have crashed over it that it is not delivered again.
    pub(crate) fn is_killer(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end.crashes.len() >= limit::CRASHES_MAX)
    }

    /// What the caller is told when the callee's session ends. `exit` is what is known of its
    /// process.
    pub(crate) fn peer_died(&self, exit: Option<&PluginExit>, now: Now) -> Fault {
        let end = self.end.as_ref().expect("a call ends so only after its callee");
        let (plugin, verdict) = (&end.plugin, end.verdict);
        let mut message =
            format!("session of `{plugin}` ended before it answered; the request was {verdict}");
        let mut fault = Fault::new(Code::PeerDied, "")
            .with("verdict", verdict.name())
            .with("plugin", plugin.as_str())
            .with("incarnation", end.incarnation);
        if let Some(exit) = exit {
            message = format!("{message}; the process: {}", exit.text);
            fault = fault.with("exit", exit.text.as_str());
            fault = with_return(fault, exit.back_at, now);
        }
        if self.attempts > 1 {
            message = format!("{message}; it was delivered {} times", self.attempts);
            fault = fault.with("attempts", self.attempts);
        }
        if self.is_killer() {
            fault = fault.with("quarantined", true);
        }
        fault.message = message;
        fault
    }

    fn verdict(&self) -> Verdict {
        match self.phase {
            Phase::Held | Phase::Queued | Phase::Waiting => Verdict::NeverDelivered,
            Phase::Handed => Verdict::PossiblyStarted,
            Phase::Started => Verdict::Started,
        }
    }

    /// What the caller is told at its deadline.
    pub(crate) fn timed_out(&self) -> Fault {
        let waited = self.deadline.saturating_sub(self.accepted_at).as_millis();
        let progress = match self.phase {
            Phase::Queued => "it was not delivered",
            Phase::Held => "nobody was ready to take it",
            Phase::Waiting => "its callee has ended",
            Phase::Handed => "it was delivered",
            Phase::Started => "its handler was running",
        };
        Fault::new(
            Code::Timeout,
            format!("`{}` gave no answer within {waited} ms; {progress}", self.route.address()),
        )
        .with("plugin", self.plugin().as_str())
        .with("deadline_ms", u64::try_from(waited).unwrap_or(u64::MAX))
        .with(
            "delivered",
            self.attempts > 0 || matches!(self.phase, Phase::Handed | Phase::Started),
        )
    }

    /// Who has it or had it last, or whom it is for.
    fn plugin(&self) -> &PluginId {
        match (&self.callee, &self.end) {
            (Some(callee), _) => &callee.plugin,
            (None, Some(end)) => &end.plugin,
            (None, None) => &self.route.target,
        }
    }
}

/// The same bytes without the read buffer that they may be a small part of.
pub(crate) fn alone(bytes: Bytes) -> Bytes {
    if bytes.len() < limit::COPY_BELOW { Bytes::copy_from_slice(&bytes) } else { bytes }
}
