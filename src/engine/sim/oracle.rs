//! What must be true at the edges of the broker, kept apart from the engine.
//!
//! The oracle sees every frame twice: when the broker has read it, and when the broker writes it.
//! It knows what the plugins have sent and seen. It never looks into the engine.
//!
//! The file is longer than most: one check for each promise, side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::engine::Now;
use crate::error::{Code, Fault};
use crate::limit;
use crate::wire::body::{self, RouteKind};
use crate::wire::{CallReference, Flags, FrameView, Kind, scan_frame};

/// Ids at and above this one belong to frames that were made to be refused.
pub(super) const HOSTILE_ID: u64 = 1 << 48;

#[derive(Debug, Default)]
pub(super) struct Oracle {
    /// Channels, topics and broadcasts by route: numbers are never given twice.
    pub(super) streams: BTreeMap<u32, Stream>,
    /// Requests by caller and id.
    pub(super) calls: BTreeMap<(u64, u64), Call>,
    /// Serials of messages and requests that kill whoever handles them.
    pub(super) killers: BTreeSet<u64>,
    /// Outcomes of calls that may be retried and yet had no callee.
    pub(super) lost: Vec<Lost>,
    /// Requests that were delivered again, since somebody asked.
    pub(super) retries: u64,
    /// Sessions that have ended for the router. A process may still read what was written to it.
    gone: BTreeSet<u64>,
    /// Sessions that have taken something back.
    took_back: BTreeSet<u64>,
    /// Sessions whose process has ended, and whether it crashed.
    ended: BTreeMap<u64, bool>,
    /// Hostile frames that must be answered, with the codes that will do.
    pub(super) expected: BTreeMap<u64, Expected>,
    /// Sessions to which a route was announced; that may be before its owner hears of it.
    announces: BTreeMap<u32, u32>,
    hostile_last: u64,
    serial_last: u64,
}

/// What one session sends on one route.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) kind: RouteKind,
    pub(super) sender: u64,
    pub(super) plugin: usize,
    pub(super) name: String,
    pub(super) sent: Vec<Sent>,
    /// Highest id that the broker has read.
    read: u64,
    /// What the broker has told the sender.
    pub(super) accepted: u64,
    pub(super) completed: u64,
    pub(super) given_up: Vec<(u64, u64)>,
    /// The last message that a receiver was told it will not see.
    missed: u64,
    /// Highest acknowledgement that a receiver wrote, and that the broker read.
    pub(super) acked: u64,
    acked_read: u64,
    pub(super) open: bool,
    /// The session that was written to last.
    current: u64,
    /// Highest id written to each session.
    written: BTreeMap<u64, u64>,
    quarantined: BTreeSet<u64>,
    /// Numbered by hand, beyond the window on purpose.
    pub(super) raw: bool,
}

#[derive(Debug)]
pub(super) struct Sent {
    pub(super) serial: u64,
    pub(super) size: usize,
    pub(super) step: u64,
    /// Highest attempt that a receiver saw.
    attempt: u32,
    /// Ends of receivers that found it unacknowledged: those that were crashes for sure, and all.
    crashes: u32,
    ends: u32,
}

/// A call that ended without an answer although it may be retried.
#[derive(Debug)]
#[expect(dead_code, reason = "the key and the fault are there for whoever reads the failure")]
pub(super) struct Lost {
    pub(super) target: String,
    pub(super) sent_at: Duration,
    pub(super) key: (u64, u64),
    pub(super) fault: Fault,
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) route: u32,
    target: String,
    sent_at: Duration,
    pub(super) serial: u64,
    expires: u64,
    /// Its method was registered as one that may be delivered again.
    is_idempotent: bool,
    /// Who got it last, and all who did.
    handed: Option<u64>,
    deliveries: Vec<u64>,
    /// Whoever got it last has ended since.
    is_bereft: bool,
    /// Who has looked at it.
    seen: Vec<u64>,
    pub(super) started: bool,
    started_read: bool,
    pub(super) answered: bool,
    answer_read: bool,
    cancel_read: bool,
    pub(super) caller_gone: bool,
    pub(super) outcomes: u32,
}

#[derive(Debug)]
pub(super) struct Expected {
    session: u64,
    codes: Vec<Code>,
    read: bool,
    answered: bool,
}

/// Where the frames of one direction of one connection are.
#[derive(Debug, Default)]
pub(super) struct Scan {
    unfinished: Option<(Kind, u32, u64)>,
    routes: BTreeSet<u32>,
}

impl Oracle {
    /// The number in the body of the next message, event or request.
    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial_last += 1;
        self.serial_last
    }

    /// Id of a frame that has to be answered with one of `codes`.
    pub(super) fn expect(&mut self, session: u64, codes: &[Code]) -> u64 {
        self.hostile_last += 1;
        let id = HOSTILE_ID + self.hostile_last;
        let codes = codes.to_vec();
        self.expected.insert(id, Expected { session, codes, read: false, answered: false });
        id
    }

    pub(super) fn open_stream(
        &mut self,
        route: u32,
        kind: RouteKind,
        sender: u64,
        plugin: usize,
        name: &str,
    ) {
        self.streams.entry(route).or_insert_with(|| Stream {
            kind,
            sender,
            plugin,
            name: name.to_owned(),
            sent: Vec::new(),
            read: 0,
            accepted: 0,
            completed: 0,
            given_up: Vec::new(),
            missed: 0,
            acked: 0,
            acked_read: 0,
            open: true,
            current: 0,
            written: BTreeMap::new(),
            quarantined: BTreeSet::new(),
            raw: false,
        });
    }

    pub(super) fn stream(&mut self, route: u32) -> &mut Stream {
        self.streams.get_mut(&route).expect("streams are noted when they are opened")
    }

    pub(super) fn note_call(&mut self, caller: u64, id: u64, call: Call) {
        let known = self.calls.insert((caller, id), call);
        assert!(known.is_none(), "a request id is used once");
    }

    /// The process behind a session has ended.
    pub(super) fn process_ended(&mut self, session: u64, is_crash: bool) {
        self.ended.insert(session, is_crash);
    }

    /// Somebody is told to stop: who has just ended may be taken for one that obeyed.
    pub(super) fn excuse(&mut self) {
        for (session, is_crash) in &mut self.ended {
            *is_crash &= self.gone.contains(session);
        }
    }

    /// Whether a channel has gone from a session to another one: what it acknowledges from there on
    /// is of the past.
    pub(super) fn is_past(&self, route: u32, session: u64) -> bool {
        let current = self.streams.get(&route).map_or(0, |stream| stream.current);
        self.gone.contains(&session) || current != session
    }

    /// Whether what a session reads may be of the past: also where it took the channel back and has
    /// it again, after somebody else had it.
    pub(super) fn is_stale(&self, route: u32, session: u64) -> bool {
        let written = self.streams.get(&route).map_or(0, |stream| stream.written.len());
        self.is_past(route, session) || (self.took_back.contains(&session) && written > 1)
    }

    /// Whether one of these messages kills its receiver.
    pub(super) fn has_killer(&self, route: u32, first: u64, last: u64) -> bool {
        let stream = &self.streams[&route];
        let serial = |id: u64| stream.sent.get((id - 1) as usize).map(|sent| sent.serial);
        (first..=last).filter_map(serial).any(|serial| self.killers.contains(&serial))
    }

    /// The router gives a message up because its receivers crashed over it.
    pub(super) fn quarantine_message(&mut self, name: &str, sender: u64, id: u64) {
        let guilty = self.streams.values_mut().find(|stream| {
            let sent = id.checked_sub(1).and_then(|index| stream.sent.get(index as usize));
            stream.sender == sender
                && stream.kind == RouteKind::Channel
                && stream.name == name
                && !stream.quarantined.contains(&id)
                && sent.is_some_and(|sent| sent.ends as usize >= limit::CRASHES_MAX)
        });
        let stream = guilty.unwrap_or_else(|| {
            panic!("P8: message {id} to {name} is quarantined, and did not end three receivers")
        });
        stream.quarantined.insert(id);
    }

    /// The router has heard that a session ended.
    pub(super) fn session_ended(&mut self, session: u64, _now: Now) {
        self.gone.insert(session);
        let is_crash = self.ended.get(&session).copied().unwrap_or(false);
        for stream in self.streams.values_mut().filter(|stream| stream.kind == RouteKind::Channel) {
            let Some(&written) = stream.written.get(&session) else { continue };
            // An acknowledgement may have come too late to count.
            for id in stream.completed + 1..=written {
                let Some(sent) = stream.sent.get_mut((id - 1) as usize) else { continue };
                let is_sure = is_crash && stream.current == session && id > stream.acked_read;
                sent.ends += 1;
                sent.crashes += u32::from(is_sure);
            }
        }
        for call in self.calls.values_mut().filter(|call| call.handed == Some(session)) {
            call.is_bereft = true;
        }
        for (_, call) in self.calls.range_mut((session, 0)..=(session, u64::MAX)) {
            call.caller_gone = true;
        }
        for stream in self.streams.values_mut().filter(|stream| stream.sender == session) {
            stream.open = false;
        }
        self.expected.retain(|_, expected| expected.session != session || expected.answered);
    }

    /// The broker handles the whole frames at the start of `bytes`.
    pub(super) fn observe_read(&mut self, session: u64, bytes: &[u8]) {
        let mut rest = bytes;
        while let Ok(Some(frame)) = scan_frame(rest, limit::PAYLOAD_MAX) {
            self.observe_input(session, &frame);
            rest = &rest[frame.bytes().len()..];
        }
    }

    fn observe_input(&mut self, session: u64, frame: &FrameView<'_>) {
        let header = &frame.header;
        let id = header.message_id;
        if id >= HOSTILE_ID {
            if let Some(expected) = self.expected.get_mut(&id) {
                expected.read = true;
            }
            return;
        }
        if header.session.0 != session {
            return;
        }
        match header.kind {
            Kind::CANCEL => {
                if let Some(call) = self.calls.get_mut(&(session, id)) {
                    call.cancel_read |= call.route == header.route.0;
                }
            }
            Kind::RESPONSE | Kind::ERROR | Kind::STARTED => {
                let Some(CallReference(caller)) = CallReference::of(frame) else { return };
                let Some(call) = self.calls.get_mut(&(caller.0, id)) else { return };
                if call.handed == Some(session) && call.route == header.route.0 {
                    call.started_read |= header.kind == Kind::STARTED;
                    call.answer_read |= header.kind != Kind::STARTED;
                    // Also where a hostile callee answers before it has looked.
                    call.started |= header.kind == Kind::STARTED;
                    call.answered |= header.kind != Kind::STARTED;
                }
            }
            Kind::UNREGISTER => {
                self.took_back.insert(session);
            }
            Kind::ACK => {
                if let Some(stream) = self.streams.get_mut(&header.route.0)
                    && stream.written.get(&session).is_some_and(|&written| id <= written)
                {
                    stream.acked_read = stream.acked_read.max(id);
                }
            }
            Kind::MESSAGE | Kind::EVENT | Kind::BROADCAST => {
                if let Some(stream) = self.streams.get_mut(&header.route.0) {
                    stream.read = stream.read.max(id);
                }
            }
            _ => (),
        }
    }

    /// The broker writes these frames to a session.
    pub(super) fn observe_written(
        &mut self,
        session: u64,
        scan: &mut Scan,
        bytes: &[u8],
        now: Now,
    ) {
        each_frame(bytes, |frame| {
            let header = &frame.header;
            let key = (header.kind, header.route.0, header.message_id);
            let continues = scan.unfinished.is_some();
            if let Some(unfinished) = scan.unfinished {
                assert_eq!(unfinished, key, "the chunks of a message are written back to back");
            }
            scan.unfinished = header.flags.has(Flags::MORE).then_some(key);
            if !continues {
                self.observe_message(session, scan, frame, now);
            }
        });
    }

    fn observe_message(&mut self, session: u64, scan: &mut Scan, frame: &FrameView<'_>, now: Now) {
        let header = &frame.header;
        let route = header.route.0;
        match header.kind {
            Kind::REQUEST => {
                assert!(scan.routes.contains(&route), "a request on a route without announce");
                self.hand_over(session, frame, now);
            }
            Kind::RESPONSE | Kind::ERROR | Kind::STARTED => self.observe_answer(session, frame),
            Kind::ACK => self.observe_ack(frame),
            Kind::GAP => {
                if let Some(stream) = self.streams.get_mut(&route)
                    && stream.kind == RouteKind::Channel
                {
                    let gap: body::Gap = body::decode(frame.body()).expect("a gap has a body");
                    if stream.sender == session {
                        stream.given_up.push((header.message_id, gap.last));
                    } else {
                        stream.missed = stream.missed.max(gap.last);
                    }
                }
            }
            Kind::ANNOUNCE => {
                let announce: body::Announce =
                    body::decode(frame.body()).expect("an announce has a body");
                scan.routes.insert(announce.route);
                *self.announces.entry(announce.route).or_default() += 1;
            }
            Kind::CLOSE => {
                scan.routes.remove(&route);
            }
            Kind::MESSAGE | Kind::EVENT | Kind::BROADCAST => {
                assert!(
                    scan.routes.contains(&route),
                    "a {} on route {route}, which is not announced",
                    header.kind
                );
                if header.kind == Kind::MESSAGE {
                    self.deliver(session, route, header.message_id);
                }
            }
            _ => (),
        }
    }

    /// P2: a channel that moves repeats nothing.
    /// P8: what crashed three receivers does not come again, what crashed two comes alone.
    fn deliver(&mut self, session: u64, route: u32, id: u64) {
        let Some(stream) = self.streams.get_mut(&route) else { return };
        let twice = stream.written.iter().find(|&(other, &last)| {
            *other != session
                && (stream.acked_read + 1..=last).contains(&id)
                && !self.gone.contains(other)
                && !self.took_back.contains(other)
        });
        assert!(
            twice.is_none(),
            "P2: message {id} of route {route} comes again, and whoever has it is there"
        );
        stream.current = session;
        let written = stream.written.entry(session).or_default();
        *written = id.max(*written);
        assert!(
            !stream.quarantined.contains(&id),
            "P8: message {id} of route {route} comes after it was quarantined"
        );
        let Some(sent) = stream.sent.get((id - 1) as usize) else { return };
        assert!(
            (sent.crashes as usize) < limit::CRASHES_MAX,
            "P8: message {id} of route {route} comes after {} crashes",
            sent.crashes
        );
        // What has ended three may be in quarantine before anybody is told.
        // Its receiver may hear sooner than its sender that it was given up.
        let first = stream.acked_read.max(stream.missed) + 1;
        let mut suspects = (first..id).filter(|&before| {
            let sent = stream.sent.get((before - 1) as usize);
            let is_suspect = sent.is_some_and(|sent| {
                sent.crashes as usize >= limit::CRASHES_ALONE
                    && (sent.ends as usize) < limit::CRASHES_MAX
            });
            is_suspect && !stream.is_given_up(before)
        });
        if let Some(suspect) = suspects.next()
            && stream.open
        {
            panic!("P8: message {id} of route {route} comes beside {suspect}, which crashed two");
        }
    }

    /// P5, and the half of P4 that says *once*.
    fn hand_over(&mut self, session: u64, frame: &FrameView<'_>, now: Now) {
        let header = &frame.header;
        let key = (header.session.0, header.message_id);
        let call = self.calls.get_mut(&key).expect("P4: the broker made a request up");
        if call.handed.is_some() {
            self.retries += 1;
            assert!(call.is_bereft, "P4: request {key:x?} is handed over twice");
            assert!(call.is_idempotent, "P4: request {key:x?} is retried, nobody said it may be");
            assert!(
                call.deliveries.len() < limit::ATTEMPTS_MAX as usize,
                "P8: request {key:x?} is delivered more than {} times",
                limit::ATTEMPTS_MAX
            );
        }
        assert!(!call.cancel_read, "P5: request {key:x?} is handed over after its cancel");
        assert!(!call.caller_gone, "P5: request {key:x?} is handed over after its caller");
        assert_eq!(call.outcomes, 0, "P5: request {key:x?} is handed over after its outcome");
        assert!(now.unix < call.expires, "P5: request {key:x?} is handed over after its deadline");
        call.handed = Some(session);
        call.deliveries.push(session);
        call.is_bereft = false;
    }

    fn observe_answer(&mut self, session: u64, frame: &FrameView<'_>) {
        let header = &frame.header;
        let fault = (header.kind == Kind::ERROR && header.session.0 == 0).then(|| {
            let fault = body::decode_fault(frame.body()).expect("an error has a body");
            check_refusal(&fault);
            fault
        });
        if let Some(expected) = self.expected.get_mut(&header.message_id) {
            let code = fault.as_ref().map(|fault| fault.code);
            assert!(
                code.is_some_and(|code| expected.codes.contains(&code)),
                "a hostile frame is answered with {fault:?} instead of {:?}",
                expected.codes
            );
            assert_eq!(expected.session, session, "the answer goes to whoever asked for it");
            expected.answered = true;
            return;
        }
        let Some(call) = self.calls.get_mut(&(session, header.message_id)) else { return };
        if call.route != header.route.0 {
            return;
        }
        let key = (session, header.message_id);
        assert_eq!(
            call.outcomes, 0,
            "P4: request {key:x?} has a second outcome, {header:?} {fault:?}"
        );
        if header.kind == Kind::STARTED {
            assert!(call.started_read, "P4: nobody said that request {key:x?} has started");
            return;
        }
        call.outcomes += 1;
        let is_lost = fault.as_ref().is_some_and(|fault| fault.code == Code::PeerDied);
        let attempts = call.deliveries.len();
        if is_lost && call.is_idempotent && attempts < limit::ATTEMPTS_MAX as usize {
            let fault = fault.clone().expect("it is there");
            let (target, sent_at) = (call.target.clone(), call.sent_at);
            self.lost.push(Lost { target, sent_at, key, fault });
        }
        let Some(fault) = fault else {
            assert_eq!(call.handed, Some(header.session.0), "P4: an answer of somebody else");
            assert!(call.answer_read, "P4: the broker made an answer up");
            return;
        };
        if fault.code == Code::PeerDied {
            let verdict = fault.details.get("verdict").and_then(|verdict| verdict.as_str());
            let known = match (call.handed, call.started_read) {
                (None, _) => "never-delivered",
                (Some(_), false) => "possibly-started",
                (Some(_), true) => "started",
            };
            assert_eq!(verdict, Some(known), "P4: the verdict about request {key:x?}");
        }
    }

    /// What a sender is told is true, and only grows.
    fn observe_ack(&mut self, frame: &FrameView<'_>) {
        let completed = frame.header.message_id;
        let accepted = frame.body().first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
        let accepted = accepted.expect("an ack has a body");
        let route = frame.header.route.0;
        let Some(stream) = self.streams.get_mut(&route) else { return };
        assert!(accepted >= stream.accepted, "P1: accepted falls on route {route}");
        assert!(completed >= stream.completed, "P1: completed falls on route {route}");
        assert!(completed <= accepted, "P1: more is completed than accepted on route {route}");
        assert!(accepted <= stream.read, "P1: accepted was never sent on route {route}");
        if stream.kind == RouteKind::Channel {
            assert!(
                completed <= stream.acked_read,
                "P2: {completed} is completed on route {route}, acknowledged was {}",
                stream.acked_read
            );
        }
        (stream.accepted, stream.completed) = (accepted, completed);
    }

    /// A callee has a request before it.
    pub(super) fn see_request(&mut self, caller: u64, id: u64, callee: u64, body: &[u8]) {
        let call = self.calls.get_mut(&(caller, id)).expect("P4: nobody made this request");
        assert!(!call.seen.contains(&callee), "P4: a callee sees a request twice");
        assert!(call.deliveries.contains(&callee), "P4: somebody else's request");
        assert_eq!(serial_of(body), call.serial, "a request's body is another's");
        call.seen.push(callee);
    }

    /// A caller has its outcome before it.
    pub(super) fn see_outcome(&self, caller: u64, id: u64, result: Result<&[u8], &Fault>) {
        let call = &self.calls[&(caller, id)];
        match result {
            Ok(body) => {
                assert!(call.answered, "P4: an answer that nobody gave");
                assert_eq!(serial_of(body), call.serial, "P4: the answer to another request");
            }
            Err(fault) => match fault.details.get("verdict").and_then(|value| value.as_str()) {
                Some("never-delivered") => {
                    assert!(call.seen.is_empty(), "P4: never delivered, but seen");
                }
                Some("started") => assert!(call.started, "P4: started, says nobody"),
                _ => (),
            },
        }
    }

    /// A receiver has a message before it. `next` is what it must be, once that is known.
    pub(super) fn see_message(
        &mut self,
        route: u32,
        next: &mut Option<u64>,
        is_first: bool,
        (id, attempt): (u64, u32),
        body: &[u8],
    ) {
        let announces = self.announces.get(&route).copied().unwrap_or_default();
        let stream = self.stream(route);
        stream.check_next(route, *next, is_first, id);
        *next = Some(id + 1);
        let sent = stream.sent.get_mut((id - 1) as usize).expect("P3: a message that nobody sent");
        assert_eq!(serial_of(body), sent.serial, "P3: message {id} of route {route} is another");
        assert_eq!(body.len(), sent.size, "message {id} of route {route} has another size");
        assert!(
            attempt > sent.attempt,
            "P2: message {id} of route {route} comes again as attempt {attempt}, it came before as {}",
            sent.attempt
        );
        assert!(
            attempt <= announces,
            "P2: message {id} of route {route} is said to come for the {attempt}th time in \
             {announces} sessions"
        );
        sent.attempt = attempt;
    }

    /// A receiver is told of messages that it will never see.
    pub(super) fn miss_messages(
        &mut self,
        route: u32,
        next: &mut Option<u64>,
        is_first: bool,
        first: u64,
        last: u64,
    ) {
        let stream = self.stream(route);
        stream.check_next(route, *next, is_first, first);
        assert!(last >= first, "P1: an empty gap on route {route}");
        *next = Some(last + 1);
    }

    /// Every hostile frame that the broker has read has its answer.
    pub(super) fn check_answered(&self, is_live: impl Fn(u64) -> bool) {
        for (id, expected) in &self.expected {
            assert!(
                !expected.read || expected.answered || !is_live(expected.session),
                "hostile frame {id:x} was not answered; one of {:?} was due",
                expected.codes
            );
        }
    }
}

impl Stream {
    /// P3 and P2: no message is passed over, none comes out of turn.
    /// `is_first` where the session has the route for the first time: later what it acknowledged
    /// before may cross what comes again.
    fn check_next(&self, route: u32, next: Option<u64>, is_first: bool, id: u64) {
        match next {
            // What comes again may be cut short by what was acknowledged before.
            Some(next) if !is_first && id > next => assert!(
                id <= self.acked + 1,
                "P3: route {route} goes on with {id} after {next}, acknowledged was {}",
                self.acked
            ),
            Some(next) => assert_eq!(id, next, "P3: the next message of route {route}"),
            None => {
                assert!(
                    id <= self.acked + 1,
                    "P2: route {route} begins with {id}, acknowledged was {}",
                    self.acked
                );
                assert!(
                    id > self.completed || !is_first,
                    "P2: route {route} begins with {id}, completed is {}",
                    self.completed
                );
            }
        }
    }

    pub(super) fn push(&mut self, serial: u64, size: usize, step: u64) {
        self.sent.push(Sent { serial, size, step, attempt: 0, crashes: 0, ends: 0 });
    }

    pub(super) fn is_given_up(&self, id: u64) -> bool {
        self.given_up.iter().any(|&(first, last)| (first..=last).contains(&id))
    }
}

impl Call {
    pub(super) fn new(route: u32, serial: u64, expires: u64, is_idempotent: bool) -> Self {
        Self {
            route,
            target: String::new(),
            sent_at: Duration::ZERO,
            serial,
            expires,
            is_idempotent,
            handed: None,
            deliveries: Vec::new(),
            is_bereft: false,
            seen: Vec::new(),
            started: false,
            started_read: false,
            answered: false,
            answer_read: false,
            cancel_read: false,
            caller_gone: false,
            outcomes: 0,
        }
    }

    /// Names the plugin that it is for, and when it was made.
    pub(super) fn to(mut self, target: &str, sent_at: Duration) -> Self {
        target.clone_into(&mut self.target);
        self.sent_at = sent_at;
        self
    }

    pub(super) fn is_seen_by(&self, callee: u64) -> bool {
        self.handed == Some(callee) && self.seen.contains(&callee)
    }
}

/// P7: a refusal explains itself.
pub(super) fn check_refusal(fault: &Fault) {
    if fault.code != Code::Refused {
        return;
    }
    for key in ["resource", "holder", "blame"] {
        let value = fault.details.get(key).and_then(|value| value.as_str());
        assert!(value.is_some_and(|text| !text.is_empty()), "P7: no {key} in {fault:?}");
    }
    for key in ["used", "limit", "retry_after_ms"] {
        let value = fault.details.get(key).and_then(serde_json::Value::as_u64);
        assert!(value.is_some(), "P7: no {key} in {fault:?}");
    }
    let number = |key: &str| fault.details.get(key).and_then(serde_json::Value::as_u64);
    assert!(
        number("used") > Some(0) && number("limit") > Some(0),
        "P7: nothing is used up in {fault:?}"
    );
    assert!(!fault.message.is_empty(), "P7: no message");
}

/// A body that bears its number and has `size` bytes.
pub(super) fn body_of(serial: u64, size: usize) -> Vec<u8> {
    let mut body = vec![serial as u8; size.max(8)];
    body[..8].copy_from_slice(&serial.to_le_bytes());
    body
}

pub(super) fn serial_of(body: &[u8]) -> u64 {
    let bytes = body.first_chunk::<8>().expect("a body bears its number");
    assert!(body[8..].iter().all(|&byte| byte == bytes[0]), "a body was damaged");
    u64::from_le_bytes(*bytes)
}

fn each_frame(bytes: &[u8], mut visit: impl FnMut(&FrameView<'_>)) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let frame = scan_frame(rest, u32::MAX)
            .expect("whole frames have no framing errors")
            .expect("the broker reads and writes whole frames");
        visit(&frame);
        rest = &rest[frame.bytes().len()..];
    }
}
