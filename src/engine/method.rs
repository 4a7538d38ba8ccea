//! The route of one caller to one method: chooses the callee, passes requests on or holds them
//! while nobody is ready, passes answers back.
//!
//! The file is longer than most: the ways in which a call can end meet in it, so that each call is
//! seen to end once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::calls::{self, Call, HandOver, Phase};
use super::effects::{Effects, Now};
use super::ledger::Resource;
use super::plain::for_features;
use super::port::{Port, Route, announce_frame, close_frame};
use super::router::{Absence, Change};
use super::run::{self, Run};
use super::tally::End;
use crate::error::{Code, Fault, Refusal};
use crate::id::{MethodName, PluginId, RouteId, SessionId};
use crate::limit;
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
    /// Calls on it that are held.
    held: AtomicU32,
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
    /// What happens to calls while nobody takes them.
    absence: Absence,
}

#[derive(Debug)]
struct Candidate {
    callee: Callee,
    announced: bool,
    /// Has the method registered. One that has taken it back keeps the route, for the requests
    /// that it has.
    serves: bool,
}

/// Somebody who serves a method.
#[derive(Clone, Debug)]
pub(crate) struct Callee {
    pub(crate) port: Arc<Port>,
    /// A request may be delivered again when its callee ends before it answers.
    pub(crate) idempotent: bool,
    /// It comes back when it ends: what it was not given is held for it.
    pub(crate) returns: bool,
}

/// What became of a call that was held.
#[derive(Debug)]
#[must_use]
pub(crate) enum Release {
    /// It has a callee, or an end.
    Done,
    /// It waits on.
    Held,
    /// Nobody will take it: whoever asked for the release ends it so.
    Refused(Fault),
}

impl MethodRoute {
    pub(crate) fn new(
        number: RouteId,
        owner: &Arc<Port>,
        target: PluginId,
        method: MethodName,
    ) -> Self {
        let absent = Fault::new(Code::NotFound, format!("nobody serves `{target}.{method}`"));
        let absence = Absence::new(absent);
        Self {
            number,
            owner: Arc::clone(owner),
            target,
            method,
            held: AtomicU32::new(0),
            state: Mutex::new(MethodState { candidates: Vec::new(), absence }),
        }
    }

    /// Replaces the callees. `absence` says what happens while none of them takes anything.
    pub(crate) fn set_candidates(&self, callees: &[Callee], absence: Absence) {
        let mut state = self.state.lock();
        state.candidates.retain_mut(|known| {
            let callee = callees.iter().find(|callee| callee.is(known.callee.port.session));
            known.serves = callee.is_some();
            if let Some(callee) = callee {
                known.callee = callee.clone();
            }
            known.serves || (known.announced && !known.callee.port.is_closed())
        });
        for callee in callees {
            let session = callee.port.session;
            if !state.candidates.iter().any(|known| known.callee.is(session)) {
                let callee = callee.clone();
                state.candidates.push(Candidate { callee, announced: false, serves: true });
            }
        }
        state.absence = absence;
    }

    /// Takes the requests of a run, each for itself.
    pub(crate) fn handle_requests(self: &Arc<Self>, run: &Run, now: Now, fx: &mut Effects) {
        let state = self.state.lock();
        let mut rest = run.bytes.clone();
        while !rest.is_empty() {
            let Some(callee) = state.pick() else {
                let absence = state.absence.clone();
                drop(state);
                self.hold_or_refuse(rest, &absence, now, fx);
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
                        state.deliver(self, &callee.port, rest.split_to(size), count, fx);
                        let _refused = rest.split_to(message.len());
                        size = 0;
                        count = 0;
                    }
                }
            }
            state.deliver(self, &callee.port, rest.split_to(size), count, fx);
        }
    }

    /// Gives a call that is held to whoever is ready now.
    pub(crate) fn release(self: &Arc<Self>, id: u64, now: Now, fx: &mut Effects) -> Release {
        let state = self.state.lock();
        let callee = state.pick();
        let bytes = {
            let mut calls = self.owner.calls.lock();
            let Some(call) = calls.get_mut(id) else { return Release::Done };
            if call.phase != Phase::Held {
                return Release::Done;
            }
            let Some(callee) = &callee else {
                return match state.absence.hold_until(now) {
                    Some(_) => Release::Held,
                    None => Release::Refused(state.absence.fault(now)),
                };
            };
            let bytes = call.kept.clone().expect("a call that is held keeps its frames");
            calls.assign(id, &callee.port, callee.idempotent);
            bytes
        };
        let callee = callee.expect("it was there just now").port;
        let room = callee.outbox.lock().has_room_for_requests(bytes.len() as u64, &callee.limits);
        if let Err(full) = room {
            return Release::Refused(Self::full(&callee, full));
        }
        state.deliver(self, &callee, bytes, 1, fx);
        Release::Done
    }

    /// Until when a call may wait for a callee; `None` when waiting is in vain.
    pub(crate) fn hold_until(&self, now: Now) -> Option<Duration> {
        let state = self.state.lock();
        // Somebody else is there: the call is given to them at once.
        state
            .pick()
            .map(|_| now.mono + limit::RESTART_HOLD)
            .or_else(|| state.absence.hold_until(now))
    }

    /// What a caller is told while nobody takes its calls.
    pub(crate) fn absent(&self, now: Now) -> Fault {
        self.state.lock().absence.fault(now)
    }

    /// Notes that a call on this route is held, or is no longer.
    pub(crate) fn count_held(&self, difference: i32) {
        // Relaxed: it only says whether it is worth looking at the calls.
        if difference > 0 {
            self.held.fetch_add(1, Ordering::Relaxed);
        } else {
            self.held.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether calls on this route are held.
    pub(crate) fn has_held(&self) -> bool {
        self.held() > 0
    }

    /// Calls on this route that are held.
    pub(crate) fn held(&self) -> u32 {
        // Relaxed: as above.
        self.held.load(Ordering::Relaxed)
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
            self.retire(&candidate.callee.port, reason, now, fx);
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

    /// Keeps the requests until somebody is ready, if that may be soon.
    fn hold_or_refuse(
        self: &Arc<Self>,
        mut rest: Bytes,
        absence: &Absence,
        now: Now,
        fx: &mut Effects,
    ) {
        while !rest.is_empty() {
            let message = rest.split_to(run::message_size(&rest));
            let held = match absence.hold_until(now) {
                Some(until) => self.open_call(&message, None, until, now, fx),
                None => Err(absence.fault(now)),
            };
            if let Err(fault) = held {
                self.refuse(&message, &fault, now, fx);
            }
        }
        if absence.sleeps && self.has_held() {
            fx.change(Change::Wanted(self.target.clone()));
        }
    }

    /// Checks one request and opens its call. `ahead` bytes of the same run are accepted already
    /// but not yet queued.
    fn accept(
        self: &Arc<Self>,
        message: &Bytes,
        callee: &Callee,
        ahead: u64,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), Fault> {
        let port = &callee.port;
        let ahead = ahead + message.len() as u64;
        let room = port.outbox.lock().has_room_for_requests(ahead, &port.limits);
        if let Err(full) = room {
            return Err(Self::full(&callee.port, full));
        }
        self.open_call(message, Some(callee), now.mono, now, fx)
    }

    /// Opens the call of one request, with a callee or `until` somebody is ready.
    fn open_call(
        self: &Arc<Self>,
        message: &Bytes,
        callee: Option<&Callee>,
        until: Duration,
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
        let kept = match callee {
            // A call that is held may outlive the buffer that it came in.
            None => Some(calls::alone(message.clone())),
            Some(callee) => (callee.idempotent || callee.returns).then(|| message.clone()),
        };
        let call = Call {
            route: Arc::clone(self),
            callee: callee.map(|callee| Arc::clone(&callee.port)),
            phase: if callee.is_some() { Phase::Queued } else { Phase::Held },
            deadline,
            until,
            accepted_at: now.mono,
            no_reply: header.flags.has(Flags::NO_REPLY),
            idempotent: callee.is_some_and(|callee| callee.idempotent),
            attempts: 0,
            kept,
            end: None,
            _request: request,
            bytes,
        };
        let due = call.due();
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
        if let Some(callee) = callee {
            // Relaxed: the figure only balances load.
            callee.port.outstanding.fetch_add(1, Ordering::Relaxed);
        }
        owner.tallies.requests.accept(1);
        if owner.next_deadline.lower(due) {
            fx.move_deadline();
        }
        Ok(())
    }

    fn full(callee: &Port, (resource, used, limit): (&'static str, u64, u64)) -> Fault {
        Fault::refused(&Refusal {
            resource,
            holder: callee.plugin.as_str(),
            used,
            limit,
            blame: callee.plugin.as_str(),
            retry_after_ms: Self::RETRY_AFTER_MS,
        })
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
            Some(call) if !call.is_of(callee.session) => Err(Fault::new(
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
    fn pick(&self) -> Option<Callee> {
        self.candidates
            .iter()
            .filter(|candidate| candidate.serves && candidate.callee.port.is_open())
            .min_by_key(|candidate| candidate.callee.port.outstanding.load(Ordering::Relaxed))
            .map(|candidate| candidate.callee.clone())
    }

    /// Notes that a callee is told of the route. Says whether it was not before.
    fn announce(&mut self, callee: &Arc<Port>) -> bool {
        let known = self.candidates.iter_mut().find(|known| known.callee.is(callee.session));
        match known {
            Some(known) => !std::mem::replace(&mut known.announced, true),
            None => {
                // It has taken the method back, and has this request still.
                let port = Arc::clone(callee);
                let callee = Callee { port, idempotent: false, returns: false };
                self.candidates.push(Candidate { callee, announced: true, serves: false });
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

impl Callee {
    fn is(&self, session: SessionId) -> bool {
        self.port.session == session
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
