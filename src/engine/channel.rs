//! One FIFO channel: from one session to one plugin.
//!
//! What was accepted is kept until the receiver has acknowledged it, so that a receiver that dies
//! gets it again. The sender may have one window of unsettled messages; that window is all that a
//! slow or absent receiver costs.
//!
//! A message over which receivers have crashed is delivered alone, so that it is known whether it
//! is the one; over which [`CRASHES_MAX`](limit::CRASHES_MAX) have crashed, it is quarantined.
//!
//! The file is longer than most: everything that one lock guards stands in one place.
//!
//! Invariants: `settled <= accepted`, `retained` holds exactly the messages in between, and
//! `settled <= handed <= queued <= accepted` while a receiver is there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::effects::{Effects, Now};
use super::ledger::{Account, Charge, Resource};
use super::outbox::Source;
use super::port::{Port, Route, ack_frame, announce_frame, close_frame};
use super::router::{Change, DeadLetter};
use super::run::Run;
use super::tally::End;
use crate::error::{Code, Fault};
use crate::id::{ChannelName, PluginId, RouteId, SessionId};
use crate::limit;
use crate::wire::body::{self, Announce, Credit, Gap, Redelivery, RouteKind};
use crate::wire::{ContentType, FrameBuilder, Kind};

/// `plugin/channel` as one session opened it.
#[derive(Debug)]
pub struct Channel {
    pub(crate) number: RouteId,
    pub(crate) sender: Arc<Port>,
    pub(crate) target: PluginId,
    pub(crate) name: ChannelName,
    pub(crate) dirty: AtomicBool,
    state: Mutex<ChannelState>,
}

#[derive(Debug)]
struct ChannelState {
    window: Credit,
    accepted: u64,
    settled: u64,
    /// Highest id that the receiver acknowledged; below `settled` where messages became dead
    /// letters.
    completed: u64,
    /// Highest id handed to the present receiver's socket.
    handed: u64,
    /// Highest id queued for the present receiver, and whether that message has to be acknowledged
    /// before another one is queued.
    queued: u64,
    alone: bool,
    /// Why the messages between `completed` and `settled` do not come.
    gap: &'static str,
    /// Who gets the messages once the present receiver has acknowledged what it has.
    next: Option<Arc<Port>>,
    /// Counts the receivers, so that what is queued for one that lost the channel is known when it
    /// comes to be written.
    generation: u64,
    /// Who got messages last, and up to which one: it may acknowledge these even where it has taken
    /// the channel back and registered it again meanwhile.
    sent: (SessionId, u64),
    /// Who got messages before, and up to which one: that it acknowledges them is too late, and no
    /// fault.
    sent_before: (SessionId, u64),
    retained: VecDeque<Retained>,
    retained_payload: u64,
    receiver: Option<Arc<Port>>,
    /// The receiver has been told of the route, with the first message written to it.
    announced: bool,
    /// What the present receiver has to hear before its first message: dead letters that it will
    /// never see.
    missed: Option<(u64, u64)>,
    /// Ranges that were handed to a receiver before, with the number of times; each is announced
    /// right before what it is about.
    repeated: VecDeque<(u64, u64, u32)>,
    absent_since: Duration,
    reported: (u64, u64),
    /// An acknowledgement waits in the sender's queue.
    report_queued: bool,
    sender_gone: bool,
}

#[derive(Debug)]
struct Retained {
    run: Run,
    /// Times that it was handed to a receiver that had to give it back.
    attempts: u32,
    /// Incarnations of the receiver that crashed while they had it.
    crashes: Vec<u64>,
    charge: Charge,
}

/// A message that was given up because its receivers crashed over it.
#[derive(Debug)]
pub(crate) struct Killer {
    pub(crate) id: u64,
    pub(crate) attempts: u32,
    /// Incarnations of the receiver.
    pub(crate) crashes: Vec<u64>,
}

impl Channel {
    pub(crate) fn new(
        number: RouteId,
        sender: &Arc<Port>,
        target: PluginId,
        name: ChannelName,
        now: Now,
    ) -> Self {
        Self {
            number,
            sender: Arc::clone(sender),
            target,
            name,
            dirty: AtomicBool::new(false),
            state: Mutex::new(ChannelState {
                window: Credit {
                    messages: sender.limits.window_messages,
                    bytes: sender.limits.window_bytes,
                },
                accepted: 0,
                settled: 0,
                completed: 0,
                handed: 0,
                queued: 0,
                alone: false,
                gap: ABSENT,
                next: None,
                generation: 0,
                sent: (SessionId::BROKER, 0),
                sent_before: (SessionId::BROKER, 0),
                retained: VecDeque::new(),
                retained_payload: 0,
                receiver: None,
                announced: false,
                missed: None,
                repeated: VecDeque::new(),
                absent_since: now.mono,
                reported: (0, 0),
                report_queued: false,
                sender_gone: false,
            }),
        }
    }

    /// Takes messages from the sender: keeps them, and queues them for the receiver if it is there.
    ///
    /// What fits the window is accepted even if the rest is not.
    pub(crate) fn handle_messages(
        self: &Arc<Self>,
        mut run: Run,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), Fault> {
        let mut state = self.state.lock();
        if state.sender_gone {
            let message = format!("route {} to {} was closed", self.number, self.address());
            return Err(Fault::new(Code::UnknownRoute, message));
        }
        let expected = state.accepted + 1;
        if run.first != expected {
            return Err(Fault::new(
                Code::OutOfSequence,
                format!("message {} instead of {expected} on {}", run.first, self.address()),
            )
            .with("expected", expected));
        }
        let fitting = state.fitting(&run);
        let overrun = if fitting < run.count {
            let rest = run.count - fitting;
            run = run.split_front(fitting);
            Some(self.overrun(&state, rest))
        } else {
            None
        };
        if run.count > 0 {
            let account = &self.sender.account;
            let retained_max = self.sender.limits.retained_bytes_max;
            if account.used(Resource::MessageBytes) > retained_max {
                return Err(account
                    .refusal(Resource::MessageBytes, retained_max)
                    .with("expected", expected));
            }
            self.sender.tallies.messages.accept(run.count);
            state.accepted = run.last();
            state.retained_payload += run.payload;
            let is_next = state.takes_more() && state.queued + 1 == run.first;
            match &state.receiver {
                Some(receiver) if is_next => {
                    self.queue(receiver, &run, state.generation, fx);
                    state.queued = run.last();
                    state.alone = false;
                }
                // It is queued when what is before it has been acknowledged.
                Some(_) => (),
                // The wait begins with the first message that waits.
                None if state.retained.is_empty() => {
                    state.absent_since = now.mono;
                    // They expire, perhaps before anything else is due.
                    fx.move_deadline();
                    fx.change(Change::Wanted(self.target.clone()));
                }
                None => (),
            }
            let charge = account.charge(Resource::MessageBytes, run.bytes.len() as u64);
            let crashes = Vec::new();
            state.retained.push_back(Retained { run, attempts: 0, crashes, charge });
            fx.report(self);
        }
        overrun.map_or(Ok(()), Err)
    }

    /// Settles all messages up to `id` for the receiver's sake.
    pub(crate) fn handle_ack(
        self: &Arc<Self>,
        receiver: SessionId,
        id: u64,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), Fault> {
        let mut state = self.state.lock();
        if id <= state.settled {
            return Ok(());
        }
        if state.receiver.as_ref().is_none_or(|port| port.session != receiver) {
            // It may have taken the channel back while this was on its way.
            if state.sent_before.0 == receiver && id <= state.sent_before.1 {
                return Ok(());
            }
            if state.sent.0 != receiver || id > state.sent.1 {
                return Err(Fault::new(
                    Code::BadAck,
                    format!("this session is not the receiver of route {}", self.number),
                ));
            }
        }
        let known = if state.sent.0 == receiver { state.sent.1 } else { 0 };
        if id > state.handed.max(known) {
            return Err(Fault::new(
                Code::BadAck,
                format!("message {id} was not sent; the last one was {}", state.handed.max(known)),
            ));
        }
        let count = state.settle(id);
        state.completed = id;
        self.sender.tallies.messages.end(End::Completed, count);
        fx.report(self);
        if state.sender_gone && state.retained.is_empty() {
            state.next = None;
            fx.change(Change::ChannelDrained(Arc::clone(self)));
            return Ok(());
        }
        if state.settled >= state.handed
            && let Some(next) = state.next.take()
        {
            self.take_from_receiver(&mut state, TAKEN_OVER, now, fx);
            self.give_to(&mut state, &next, fx);
        } else if state.queued < state.accepted {
            self.feed(&mut state, fx);
        }
        Ok(())
    }

    /// Notes that messages `first` to `last` are being written to the receiver, and writes what
    /// comes before them. Gives the number of those that must not be written: all where they were
    /// queued for a receiver that has lost the channel since, the first ones where an earlier
    /// receiver has acknowledged them meanwhile.
    #[must_use]
    pub(crate) fn hand_over(
        self: &Arc<Self>,
        generation: u64,
        (first, last): (u64, u64),
        now: Now,
        mut write: impl FnMut(Bytes),
    ) -> u64 {
        let count = last + 1 - first;
        let mut state = self.state.lock();
        let Some(receiver) = state.receiver.clone().filter(|_| state.generation == generation)
        else {
            return count;
        };
        if last <= state.settled {
            return count;
        }
        let first = first.max(state.settled + 1);
        state.handed = state.handed.max(last);
        if state.sent.0 != receiver.session {
            state.sent_before = std::mem::replace(&mut state.sent, (receiver.session, 0));
        }
        state.sent.1 = state.sent.1.max(last);
        if !state.announced {
            state.announced = true;
            receiver.routes.lock().insert(self.number, Route::Channel(Arc::clone(self)));
            write(announce_frame(&self.announcement(), now));
            if let Some((first, last)) = state.missed.take() {
                write(self.gap_frame(first, last, state.gap, now));
            }
        }
        while let Some((start, end, attempts)) =
            state.repeated.pop_front_if(|&mut (start, ..)| start <= last)
        {
            if end < first {
                continue;
            }
            let start = start.max(first);
            write(
                FrameBuilder::new(Kind::REDELIVERY)
                    .route(self.number)
                    .message_id(start)
                    .timestamp(now.unix)
                    .build(b"", &Redelivery { last: end, attempt: attempts + 1 }.to_bytes()),
            );
        }
        count - (last + 1 - first)
    }

    /// Has the sender told how far it is, if that has changed.
    pub(crate) fn report(self: &Arc<Self>, fx: &mut Effects) {
        let mut state = self.state.lock();
        let progress = (state.accepted, state.completed);
        if state.reported == progress || state.sender_gone || state.report_queued {
            return;
        }
        state.report_queued = true;
        drop(state);
        self.sender.push_progress(Source::Channel(Arc::clone(self)), fx);
    }

    /// The acknowledgement for the sender, in the moment of writing.
    pub(crate) fn progress(&self, now: Now) -> Option<Bytes> {
        let mut state = self.state.lock();
        state.report_queued = false;
        if state.sender_gone {
            return None;
        }
        state.reported = (state.accepted, state.completed);
        Some(ack_frame(self.number, state.completed, state.accepted, now))
    }

    /// The receiver is there: what waits is sent. It hears of the channel with the first message,
    /// so that channels without any cost it nothing.
    pub(crate) fn attach(self: &Arc<Self>, receiver: &Arc<Port>, fx: &mut Effects) {
        let mut state = self.state.lock();
        if state.receiver.as_ref().is_none_or(|port| port.session != receiver.session) {
            self.give_to(&mut state, receiver, fx);
        }
    }

    /// Another instance takes the channel over: at once, or when the present receiver has
    /// acknowledged what it has. Until then it gets nothing more.
    pub(crate) fn move_to(self: &Arc<Self>, next: &Arc<Port>, now: Now, fx: &mut Effects) {
        let mut state = self.state.lock();
        if state.receiver.is_some() && state.handed > state.settled {
            if state.next.is_none() {
                // What is queued and not yet written is queued again for the other.
                state.generation += 1;
                state.queued = state.handed;
            }
            state.next = Some(Arc::clone(next));
            return;
        }
        self.take_from_receiver(&mut state, TAKEN_OVER, now, fx);
        self.give_to(&mut state, next, fx);
    }

    /// The session that was to take the channel over has ended: the present receiver goes on with
    /// it until there is another one.
    pub(crate) fn stay(self: &Arc<Self>, fx: &mut Effects) {
        let mut state = self.state.lock();
        if state.next.take().is_some() {
            self.feed(&mut state, fx);
        }
    }

    /// The receiver's session has ended, or it no longer serves the channel. `crashed` is the
    /// incarnation that ended without having been asked to. Gives a message that has done so once
    /// too often, and is given up.
    pub(crate) fn detach(
        &self,
        reason: &str,
        crashed: Option<u64>,
        now: Now,
        fx: &mut Effects,
    ) -> Option<Killer> {
        let mut state = self.state.lock();
        state.receiver.as_ref()?;
        let handed = state.handed;
        state.next = None;
        self.take_from_receiver(&mut state, reason, now, fx);
        let incarnation = crashed?;
        for retained in &mut state.retained {
            if retained.run.first <= handed && retained.crashes.len() < limit::CRASHES_MAX {
                retained.crashes.push(incarnation);
            }
        }
        let front = state.retained.front()?;
        if front.crashes.len() < limit::CRASHES_MAX || front.run.first > handed {
            return None;
        }
        debug_assert!(front.run.count == 1, "who is suspected is delivered alone");
        let killer = Killer {
            id: front.run.first,
            attempts: front.attempts,
            crashes: front.crashes.clone(),
        };
        let count = state.settle(killer.id);
        state.gap = CRASHES;
        self.sender.tallies.messages.end(End::Quarantined, count);
        if !state.sender_gone {
            let frame = self.gap_frame(killer.id, killer.id, CRASHES, now);
            self.sender.push_control(frame, fx);
        }
        Some(killer)
    }

    /// The sender's session has ended, or it gave the route up. Says whether nothing is left.
    pub(crate) fn leave(&self) -> bool {
        let mut state = self.state.lock();
        state.sender_gone = true;
        state.retained.is_empty()
    }

    /// Gives up what waits for a receiver that does not come.
    pub(crate) fn give_up(&self, now: Now, fx: &mut Effects) -> Option<DeadLetter> {
        let cause = ABSENT;
        let (first, last, sender_gone) = {
            let mut state = self.state.lock();
            let (first, last) = (state.settled + 1, state.accepted);
            if first > last {
                return None;
            }
            let count = state.settle(last);
            state.gap = ABSENT;
            self.sender.tallies.messages.end(End::Dead, count);
            (first, last, state.sender_gone)
        };
        if !sender_gone {
            self.sender.push_control(self.gap_frame(first, last, cause, now), fx);
        }
        Some(DeadLetter {
            channel: self.address(),
            from: self.sender.plugin.as_str().to_owned(),
            first,
            last,
            cause: cause.to_owned(),
        })
    }

    /// Whether this session receives the messages now.
    pub(crate) fn leads_to(&self, session: SessionId) -> bool {
        self.state.lock().receiver.as_ref().is_some_and(|port| port.session == session)
    }

    /// Whether this session is to receive the messages when the present receiver is done.
    pub(crate) fn moves_to(&self, session: SessionId) -> bool {
        self.state.lock().next.as_ref().is_some_and(|port| port.session == session)
    }

    /// Whether its sender has gone.
    pub(crate) fn has_left(&self) -> bool {
        self.state.lock().sender_gone
    }

    /// Whether its sender has gone and nothing is left to deliver.
    pub(crate) fn is_finished(&self) -> bool {
        let state = self.state.lock();
        state.sender_gone && state.retained.is_empty()
    }

    /// Ends the route towards the receiver.
    pub(crate) fn close(&self, reason: &str, now: Now, fx: &mut Effects) {
        let mut state = self.state.lock();
        if let Some(receiver) = state.receiver.take() {
            self.retire(&mut state, &receiver, reason, now, fx);
        }
    }

    /// When messages that wait for an absent receiver are given up; `None` while none wait.
    pub(crate) fn expires_at(&self) -> Option<Duration> {
        let state = self.state.lock();
        (state.receiver.is_none() && !state.retained.is_empty())
            .then(|| state.absent_since + self.sender.limits.absent_timeout)
    }

    /// Messages that wait to be handled, and what they are charged.
    pub(crate) fn pending(&self) -> (u64, u64) {
        let state = self.state.lock();
        let bytes = state.retained.iter().map(|retained| retained.charge.amount()).sum();
        (state.accepted - state.settled, bytes)
    }

    /// `plugin/channel`.
    pub(crate) fn address(&self) -> String {
        format!("{}/{}", self.target, self.name)
    }

    /// Asserts what must hold at every moment.
    pub(crate) fn check(&self) {
        let state = self.state.lock();
        let mut next = state.settled + 1;
        let mut payload = 0;
        for retained in &state.retained {
            assert_eq!(retained.run.first, next, "retained runs are contiguous");
            assert_eq!(retained.charge.amount(), retained.run.bytes.len() as u64);
            next += retained.run.count;
            payload += retained.run.payload;
        }
        assert_eq!(next, state.accepted + 1, "what is unsettled is retained");
        assert_eq!(payload, state.retained_payload);
        assert!(state.completed <= state.settled);
        if state.receiver.is_some() {
            assert!(state.settled <= state.handed && state.handed <= state.queued);
            assert!(state.queued <= state.accepted);
            let moves = state.next.is_some();
            assert!(!moves || state.handed > state.settled, "a channel moves when it can");
            if !state.alone && !moves {
                let waits = state.retained.iter().find(|known| known.run.first > state.queued);
                let is_suspect = waits.is_none_or(Retained::is_suspect);
                assert!(is_suspect, "what is not suspected is queued");
            }
        } else {
            assert!(state.next.is_none(), "a channel is taken over from somebody");
        }
    }

    /// Gives the channel to a receiver and queues what it may have.
    fn give_to(self: &Arc<Self>, state: &mut ChannelState, receiver: &Arc<Port>, fx: &mut Effects) {
        state.handed = state.settled;
        state.queued = state.settled;
        state.generation += 1;
        state.receiver = Some(Arc::clone(receiver));
        state.announced = false;
        if state.sent.0 == receiver.session {
            // It has had the channel before, and may acknowledge what it got then.
            receiver.routes.lock().insert(self.number, Route::Channel(Arc::clone(self)));
        }
        let missed = (state.completed + 1, state.settled);
        state.missed = (missed.0 <= missed.1).then_some(missed);
        state.repeated = state.find_repeated();
        self.feed(state, fx);
    }

    /// Queues for the receiver what it may have: everything, or up to a message that is suspected,
    /// which goes alone.
    fn feed(self: &Arc<Self>, state: &mut ChannelState, fx: &mut Effects) {
        let Some(receiver) = state.receiver.clone() else { return };
        while state.takes_more() {
            let queued = state.queued;
            let index = state.retained.partition_point(|known| known.run.last() <= queued);
            let Some(retained) = state.retained.get(index) else { return };
            let is_suspect = retained.is_suspect();
            if is_suspect && state.queued > state.settled {
                return;
            }
            if is_suspect {
                state.isolate(index, &self.sender.account);
            }
            let run = &state.retained[index].run;
            self.queue(&receiver, run, state.generation, fx);
            state.queued = run.last();
            state.alone = is_suspect;
        }
    }

    /// Takes the channel from its receiver. What that one has not acknowledged comes again.
    fn take_from_receiver(
        &self,
        state: &mut ChannelState,
        reason: &str,
        now: Now,
        fx: &mut Effects,
    ) {
        let Some(receiver) = state.receiver.take() else { return };
        self.retire(state, &receiver, reason, now, fx);
        let handed = state.handed;
        for retained in &mut state.retained {
            if retained.run.first <= handed {
                retained.attempts += 1;
            }
        }
        state.absent_since = now.mono;
    }

    /// Takes the route away from a receiver. One that sends to itself needs it still, and is told
    /// nothing: a close would be about both.
    fn retire(
        &self,
        state: &mut ChannelState,
        receiver: &Arc<Port>,
        reason: &str,
        now: Now,
        fx: &mut Effects,
    ) {
        state.repeated = VecDeque::new();
        let was_announced = std::mem::take(&mut state.announced);
        if !state.sender_gone && receiver.session == self.sender.session {
            return;
        }
        receiver.forget_route(self.number);
        if was_announced {
            receiver.push_notice(close_frame(self.number, reason, now), fx);
        }
    }

    fn announcement(&self) -> Announce {
        Announce {
            route: self.number.0,
            kind: RouteKind::Channel,
            name: self.name.as_str().to_owned(),
            from: self.sender.plugin.as_str().to_owned(),
            session: self.sender.session.0,
            incarnation: self.sender.incarnation,
        }
    }

    fn gap_frame(&self, first: u64, last: u64, cause: &str, now: Now) -> Bytes {
        FrameBuilder::new(Kind::GAP)
            .route(self.number)
            .message_id(first)
            .timestamp(now.unix)
            .content(ContentType::MessagePack)
            .build(b"", &body::encode(&Gap { last, cause: cause.to_owned(), topic: None }))
    }

    fn queue(self: &Arc<Self>, receiver: &Arc<Port>, run: &Run, generation: u64, fx: &mut Effects) {
        receiver.outbox.lock().push_messages(run, self, generation);
        fx.touch(receiver);
    }

    fn overrun(&self, state: &ChannelState, rest: u64) -> Fault {
        Fault::new(
            Code::CreditOverrun,
            format!(
                "{rest} messages on {} are over the window of {} messages and {} bytes: {} messages \
                 and {} bytes are unsettled",
                self.address(),
                state.window.messages,
                state.window.bytes,
                state.accepted - state.settled,
                state.retained_payload,
            ),
        )
        .with("expected", state.accepted + 1)
    }
}

impl ChannelState {
    /// How many messages of the run the window admits: one may start while it is not used up.
    fn fitting(&self, run: &Run) -> u64 {
        let room = self.window.messages.saturating_sub(self.accepted - self.settled);
        if run.count <= room && self.retained_payload + run.payload <= self.window.bytes {
            return run.count;
        }
        let mut payload = self.retained_payload;
        let mut count = 0;
        for (_, message) in run.messages() {
            if count >= room || payload >= self.window.bytes {
                break;
            }
            payload += message.payload;
            count += 1;
        }
        count
    }

    /// Drops what is settled by `id`, and its charge. Gives the number of messages.
    fn settle(&mut self, id: u64) -> u64 {
        let count = id - self.settled;
        while let Some(front) = self.retained.front_mut() {
            if front.run.last() <= id {
                self.retained_payload -= front.run.payload;
                self.retained.pop_front();
            } else {
                if front.run.first <= id {
                    let settled = front.run.split_front(id + 1 - front.run.first);
                    self.retained_payload -= settled.payload;
                    front.charge.shrink_to(front.run.bytes.len() as u64);
                }
                break;
            }
        }
        self.settled = id;
        self.handed = self.handed.max(id);
        self.queued = self.queued.max(id);
        count
    }

    /// Whether the receiver may be given more.
    fn takes_more(&self) -> bool {
        self.next.is_none() && !(self.alone && self.queued > self.settled)
    }

    /// Makes the first message of a run a run of its own.
    fn isolate(&mut self, index: usize, account: &Arc<Account>) {
        let retained = &mut self.retained[index];
        if retained.run.count == 1 {
            return;
        }
        let run = retained.run.split_front(1);
        retained.charge.shrink_to(retained.run.bytes.len() as u64);
        let charge = account.charge(Resource::MessageBytes, run.bytes.len() as u64);
        let (attempts, crashes) = (retained.attempts, retained.crashes.clone());
        self.retained.insert(index, Retained { run, attempts, crashes, charge });
    }

    /// Ranges that were handed to a receiver before, with the number of times.
    fn find_repeated(&self) -> VecDeque<(u64, u64, u32)> {
        let mut ranges: VecDeque<(u64, u64, u32)> = VecDeque::new();
        for Retained { run, attempts, .. } in &self.retained {
            match ranges.back_mut() {
                _ if *attempts == 0 => (),
                Some((_, last, of)) if *of == *attempts && *last + 1 == run.first => {
                    *last = run.last();
                }
                _ => ranges.push_back((run.first, run.last(), *attempts)),
            }
        }
        ranges
    }
}

impl Retained {
    /// Enough receivers have crashed with it to find out whether it is the one.
    fn is_suspect(&self) -> bool {
        self.crashes.len() >= limit::CRASHES_ALONE
    }
}

/// Why messages become dead letters.
const ABSENT: &str = "the receiver was absent";

/// Why a message is quarantined.
const CRASHES: &str = "its receivers crashed over it";

/// Why a receiver loses a channel to another instance.
const TAKEN_OVER: &str = "another instance takes over";
