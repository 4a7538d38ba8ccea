//! The route of one caller to one method: chooses the callee, passes requests on, passes answers
//! back.
//!
//! The file is longer than most: the ways in which a call can end meet in it, so that each call is
//! seen to end once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::calls::{Call, HandOver, Phase};
use super::effects::{Effects, Now};
use super::ledger::Resource;
use super::plain::for_features;
use super::port::{Port, Route, announce_frame, close_frame};
use super::run::{self, Run};
use super::tally::End;
use crate::error::{Code, Fault, Refusal};
use crate::id::{MethodName, PluginId, RouteId};
use crate::wire::body::{Announce, RouteKind};
use crate::wire::{CallReference, Flags, Kind, RequestExtension, scan_frame};

/// `plugin.method` or `service.method` as one session resolved it.
#[derive(Debug)]
pub struct MethodRoute {
    pub(crate) number: RouteId,
    pub(crate) owner: Arc<Port>,
    /// A plugin id or a service name.
    pub(crate) target: PluginId,
    pub(crate) method: MethodName,
    state: Mutex<MethodState>,
}

/// What a route writes to a callee.
#[derive(Debug)]
pub(crate) enum Piece {
    /// The route's name.
    Announce(Bytes),
    /// Requests, as they came.
    Requests(Bytes),
}

/// Invariant: every candidate's session is live, as far as the router has heard.
#[derive(Debug)]
struct MethodState {
    candidates: Vec<Candidate>,
    /// What a caller is told while nobody serves the method.
    absent: Fault,
}

#[derive(Debug)]
struct Candidate {
    port: Arc<Port>,
    announced: bool,
    /// Has the method registered. One that has taken it back keeps the route, for the requests
    /// that it has.
    serves: bool,
}

impl MethodRoute {
    pub(crate) fn new(
        number: RouteId,
        owner: &Arc<Port>,
        target: PluginId,
        method: MethodName,
    ) -> Self {
        let absent = Fault::new(Code::NotFound, format!("nobody serves `{target}.{method}`"));
        Self {
            number,
            owner: Arc::clone(owner),
            target,
            method,
            state: Mutex::new(MethodState { candidates: Vec::new(), absent }),
        }
    }

    /// Replaces the callees. `absent` is what callers hear when there is none.
    pub(crate) fn set_candidates(&self, ports: &[Arc<Port>], absent: Fault) {
        let mut state = self.state.lock();
        state.candidates.retain_mut(|known| {
            known.serves = ports.iter().any(|port| port.session == known.port.session);
            known.serves || (known.announced && !known.port.is_closed())
        });
        for port in ports {
            if !state.candidates.iter().any(|known| known.port.session == port.session) {
                let port = Arc::clone(port);
                state.candidates.push(Candidate { port, announced: false, serves: true });
            }
        }
        state.absent = absent;
    }

    /// Takes the requests of a run, each for itself.
    pub(crate) fn handle_requests(self: &Arc<Self>, run: &Run, now: Now, fx: &mut Effects) {
        let state = self.state.lock();
        let mut rest = run.bytes.clone();
        while !rest.is_empty() {
            let Some(callee) = state.pick() else {
                let absent = state.absent.clone();
                drop(state);
                while !rest.is_empty() {
                    let size = run::message_size(&rest);
                    self.refuse(&rest.split_to(size), &absent, now, fx);
                }
                return;
            };
            // With one callee the run stays whole; with several each request is balanced.
            let balanced = state.candidates.iter().filter(|known| known.serves).count() > 1;
            let mut size = 0;
            let mut count = 0;
            while size < rest.len() && !(balanced && count > 0) {
                let message = rest.slice(size..size + run::message_size(&rest[size..]));
                match self.accept(&message, &callee, size as u64, now, fx) {
                    Ok(()) => {
                        size += message.len();
                        count += 1;
                    }
                    Err(fault) => {
                        self.refuse(&message, &fault, now, fx);
                        state.deliver(self, &callee, rest.split_to(size), count, fx);
                        let _refused = rest.split_to(message.len());
                        size = 0;
                        count = 0;
                    }
                }
            }
            state.deliver(self, &callee, rest.split_to(size), count, fx);
        }
    }

    /// Takes answers of a callee: response, error, started.
    pub(crate) fn handle_answers(
        self: &Arc<Self>,
        callee: &Arc<Port>,
        run: &Run,
        now: Now,
        fx: &mut Effects,
    ) {
        let mut rest = run.bytes.clone();
        let mut passed = 0;
        while passed < rest.len() {
            let size = run::message_size(&rest[passed..]);
            match self.accept_answer(callee, &rest[passed..passed + size]) {
                Ok(true) => passed += size,
                verdict => {
                    self.pass_back(rest.split_to(passed), run.flags, now, fx);
                    let message = rest.split_to(size);
                    passed = 0;
                    if let Err(fault) = verdict {
                        let header = run::header_at(&message);
                        callee.push_fault(self.number, header.message_id, &fault, now, fx);
                    }
                }
            }
        }
        self.pass_back(rest, run.flags, now, fx);
    }

    /// Ends a call for its caller's sake, or at its deadline.
    pub(crate) fn cancel(&self, id: u64, now: Now, fx: &mut Effects) -> Result<(), Fault> {
        let call = self.owner.calls.lock().remove(id).ok_or_else(|| {
            Fault::new(Code::NoSuchCall, format!("request {id} has its outcome already"))
        })?;
        call.call_off(id, now, fx);
        self.owner.tallies.requests.end(End::Cancelled, 1);
        let fault = Fault::new(Code::Cancelled, format!("call of `{}` cancelled", self.address()));
        self.owner.push_outcome(self.number, id, &fault, now, fx);
        Ok(())
    }

    /// Cuts out of a queued run what must not be delivered any more. Called in the moment of
    /// writing; the callee hears of the route with its first request.
    pub(crate) fn hand_over(
        self: &Arc<Self>,
        callee: &Arc<Port>,
        bytes: Bytes,
        now: Now,
        fx: &mut Effects,
        mut write: impl FnMut(Piece),
    ) {
        // Held throughout: what ends the route must find it announced, or nothing written.
        let mut state = self.state.lock();
        let mut rest = bytes;
        let mut live = 0;
        while live < rest.len() {
            let size = run::message_size(&rest[live..]);
            let header = run::header_at(&rest[live..]);
            let verdict = {
                let mut calls = self.owner.calls.lock();
                let verdict = calls.hand_over(header.message_id, callee.session, now);
                if verdict == HandOver::Deliver && header.flags.has(Flags::NO_REPLY) {
                    calls.remove(header.message_id).expect("it was handed over just now");
                    self.owner.tallies.requests.end(End::Completed, 1);
                }
                verdict
            };
            if verdict == HandOver::Deliver {
                if state.announce(callee) {
                    callee.routes.lock().insert(self.number, Route::Method(Arc::clone(self)));
                    write(Piece::Announce(announce_frame(&self.announcement(), now)));
                }
                live += size;
                continue;
            }
            if verdict == HandOver::Expired {
                self.expire(header.message_id, now, fx);
            }
            if live > 0 {
                write(Piece::Requests(rest.split_to(live)));
            }
            let _not_delivered = rest.split_to(size);
            live = 0;
        }
        if !rest.is_empty() {
            write(Piece::Requests(rest));
        }
    }

    /// Tells callees that the caller has gone.
    pub(crate) fn close(&self, reason: &str, now: Now, fx: &mut Effects) {
        let candidates = std::mem::take(&mut self.state.lock().candidates);
        for candidate in candidates.iter().filter(|candidate| candidate.announced) {
            self.retire(&candidate.port, reason, now, fx);
        }
    }

    /// `target.method`.
    pub(crate) fn address(&self) -> String {
        format!("{}.{}", self.target, self.method)
    }

    fn announcement(&self) -> Announce {
        Announce {
            route: self.number.0,
            kind: RouteKind::Method,
            name: self.method.as_str().to_owned(),
            from: self.owner.plugin.as_str().to_owned(),
            session: self.owner.session.0,
            incarnation: self.owner.incarnation,
        }
    }

    fn expire(&self, id: u64, now: Now, fx: &mut Effects) {
        let call = self.owner.calls.lock().remove(id);
        if let Some(call) = call {
            self.owner.tallies.requests.end(End::Expired, 1);
            self.owner.push_outcome(self.number, id, &call.timed_out(), now, fx);
        }
    }

    /// Checks one request and opens its call. `ahead` bytes of the same run are accepted already
    /// but not yet queued.
    fn accept(
        self: &Arc<Self>,
        message: &Bytes,
        callee: &Arc<Port>,
        ahead: u64,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), Fault> {
        let frame = scan_frame(message, u32::MAX)
            .ok()
            .flatten()
            .expect("a run holds frames that were checked");
        let header = frame.header;
        let id = header.message_id;
        let owner = &self.owner;
        let size = run::payload_size(message);

        let room = callee
            .outbox
            .lock()
            .has_room_for_requests(ahead + message.len() as u64, &callee.limits);
        if let Err((resource, used, limit)) = room {
            return Err(Fault::refused(&Refusal {
                resource,
                holder: callee.plugin.as_str(),
                used,
                limit,
                blame: callee.plugin.as_str(),
                retry_after_ms: Self::RETRY_AFTER_MS,
            }));
        }
        let limits = &owner.limits;
        if owner.account.used(Resource::RequestBytes) >= limits.request_bytes_max {
            return Err(owner.account.refusal(Resource::RequestBytes, limits.request_bytes_max));
        }
        if owner.account.used(Resource::ResponseBytes) >= limits.response_bytes_max {
            // Its outcome would find no room either, and has to be queued all the same.
            let limit = limits.response_bytes_max;
            return Err(owner.account.refusal(Resource::ResponseBytes, limit));
        }
        let request =
            owner.account.try_charge(Resource::Requests, 1, u64::from(limits.requests_max))?;
        let bytes = owner.account.charge(Resource::RequestBytes, size);
        let timeout = match RequestExtension::of(&frame).deadline_ms {
            0 => limits.call_timeout,
            millis => Duration::from_millis(millis.into()),
        };
        let deadline = now.mono + time_left(header.timestamp, timeout, now);
        let call = Call {
            route: Arc::clone(self),
            callee: Arc::clone(callee),
            phase: Phase::Queued,
            deadline,
            accepted_at: now.mono,
            no_reply: header.flags.has(Flags::NO_REPLY),
            _request: request,
            bytes,
        };
        {
            let mut calls = owner.calls.lock();
            if calls.contains(id) {
                return Err(Fault::new(
                    Code::OutOfSequence,
                    format!("request id {id} is in use; ids count up for ever"),
                ));
            }
            let inserted = calls.insert(id, call);
            debug_assert!(inserted, "the id was free just now");
        }
        // Relaxed: the figure only balances load.
        callee.outstanding.fetch_add(1, Ordering::Relaxed);
        owner.tallies.requests.accept(1);
        if owner.next_deadline.lower(deadline) {
            fx.move_deadline();
        }
        Ok(())
    }

    /// `Ok(false)` for an answer that comes too late to matter.
    fn accept_answer(&self, callee: &Port, message: &[u8]) -> Result<bool, Fault> {
        let frame = scan_frame(message, u32::MAX)
            .ok()
            .flatten()
            .expect("a run holds frames that were checked");
        let id = frame.header.message_id;
        let caller = self.owner.session;
        let reference = CallReference::of(&frame);
        if reference.is_none() && callee.abandoned.lock().remove((caller, id)) {
            // The end of a chunked answer, whose first chunk was dropped when the call ended.
            return Ok(false);
        }
        if reference != Some(CallReference(caller)) {
            return Err(Fault::new(
                Code::NoSuchCall,
                format!(
                    "route {} belongs to session {caller}; the answer names another",
                    self.number
                ),
            ));
        }
        let is_started = frame.header.kind == Kind::STARTED;
        let mut calls = self.owner.calls.lock();
        match calls.get_mut(id) {
            Some(call) if call.callee.session != callee.session => Err(Fault::new(
                Code::NotYourCall,
                format!("request {id} of session {caller} was given to somebody else"),
            )),
            Some(call) if call.phase == Phase::Queued => Err(Fault::new(
                Code::NoSuchCall,
                format!("request {id} of session {caller} was not given to you"),
            )),
            Some(call) if is_started => {
                let first = call.phase == Phase::Handed;
                call.phase = Phase::Started;
                Ok(first)
            }
            Some(_) => {
                calls.remove(id).expect("it was found just now");
                self.owner.tallies.requests.end(End::Completed, 1);
                Ok(true)
            }
            None => {
                drop(calls);
                let mut abandoned = callee.abandoned.lock();
                let late = if is_started {
                    abandoned.contains((caller, id))
                } else {
                    abandoned.remove((caller, id))
                };
                if late {
                    return Ok(false);
                }
                Err(Fault::new(
                    Code::NoSuchCall,
                    format!("request {id} of session {caller} is not open"),
                ))
            }
        }
    }

    fn pass_back(&self, bytes: Bytes, flags: Flags, now: Now, fx: &mut Effects) {
        if bytes.is_empty() {
            return;
        }
        let owner = &self.owner;
        let bytes = for_features(bytes, flags, owner.features);
        let taken =
            owner.outbox.lock().push_responses(bytes.clone(), &owner.account, &owner.limits);
        if !taken {
            let fault =
                owner.account.refusal(Resource::ResponseBytes, owner.limits.response_bytes_max);
            let mut rest = bytes;
            while !rest.is_empty() {
                let message = rest.split_to(run::message_size(&rest));
                let header = run::header_at(&message);
                if header.kind != Kind::STARTED {
                    owner.push_outcome(self.number, header.message_id, &fault, now, fx);
                }
            }
        }
        fx.touch(owner);
    }

    fn refuse(&self, message: &[u8], fault: &Fault, now: Now, fx: &mut Effects) {
        let id = run::header_at(message).message_id;
        self.owner.push_fault(self.number, id, fault, now, fx);
    }

    fn retire(&self, callee: &Arc<Port>, reason: &str, now: Now, fx: &mut Effects) {
        callee.forget_route(self.number);
        callee.push_notice(close_frame(self.number, reason, now), fx);
    }

    /// What a caller is advised to wait when the callee's queue is full.
    const RETRY_AFTER_MS: u64 = 50;
}

impl MethodState {
    /// The open callee with the fewest unanswered requests, the first of several.
    fn pick(&self) -> Option<Arc<Port>> {
        self.candidates
            .iter()
            .filter(|candidate| candidate.serves && candidate.port.is_open())
            .min_by_key(|candidate| candidate.port.outstanding.load(Ordering::Relaxed))
            .map(|candidate| Arc::clone(&candidate.port))
    }

    /// Notes that a callee is told of the route. Says whether it was not before.
    fn announce(&mut self, callee: &Arc<Port>) -> bool {
        let known = self.candidates.iter_mut().find(|known| known.port.session == callee.session);
        match known {
            Some(known) => !std::mem::replace(&mut known.announced, true),
            None => {
                // It has taken the method back, and has this request still.
                let port = Arc::clone(callee);
                self.candidates.push(Candidate { port, announced: true, serves: false });
                true
            }
        }
    }

    fn deliver(
        &self,
        route: &Arc<MethodRoute>,
        callee: &Arc<Port>,
        bytes: Bytes,
        count: u32,
        fx: &mut Effects,
    ) {
        if count == 0 {
            return;
        }
        callee.outbox.lock().push_requests(bytes, route, count);
        fx.touch(callee);
    }
}

/// How long a request may still take. Its deadline counts from the caller's timestamp; a clock that
/// is ahead gives no more than was asked for, a missing timestamp counts as now.
fn time_left(timestamp: u64, timeout: Duration, now: Now) -> Duration {
    let elapsed = match timestamp {
        0 => 0,
        timestamp => now.unix.saturating_sub(timestamp),
    };
    timeout.saturating_sub(Duration::from_nanos(elapsed))
}
