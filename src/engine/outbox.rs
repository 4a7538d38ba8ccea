//! What waits to be written to one peer.
//!
//! Two lanes. The *main* lane holds what must arrive: the broker's own frames, requests, responses
//! and channel messages, all of them bounded by credit or by their own cap. The *event* lane holds
//! what may be shed, with a receipt. Both are FIFO; [`take`](Outbox::take) gives each its share, so
//! that neither starves the other.
//!
//! The unit is the run: consecutive frames of one route, one slice, one entry. Only shedding looks
//! inside a run.
//!
//! What others make the broker say to a peer never counts against the peer: a route is announced
//! when its first frame is written, an acknowledgement waits once for each route and is made when
//! it is written, and what ends a route or a call follows only what was written before. Only the
//! answers to its own frames have a cap that ends its session.
//!
//! The file is longer than most: both lanes share the counters, and shedding has to see all of
//! them.
//!
//! Invariant: the counters are the sums over the entries.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::channel::Channel;
use super::ledger::{Account, Charge, Resource};
use super::method::MethodRoute;
use super::run;
use super::topic::TopicRoute;
use crate::error::Fault;
use crate::id::RouteId;
use crate::limit::{self, Limits};
use crate::wire::body::Overflow;
use crate::wire::{Flags, HEADER_SIZE};

/// Queue of one session.
#[derive(Debug, Default)]
pub struct Outbox {
    main: VecDeque<Entry>,
    events: VecDeque<EventEntry>,
    /// Absolute number of the first entry of `events`, so that `keyed` can point into it.
    events_popped: u64,
    keyed: HashMap<(RouteId, u64), u64>,
    /// Absolute numbers of the event runs that may be shed, oldest first; what has left the lane
    /// otherwise is passed over.
    sheddable: VecDeque<u64>,
    /// Entries of the event lane that are only left for their place.
    shed_entries: usize,
    gaps: BTreeMap<RouteId, Gaps>,
    /// Topics that the peer has been told of, and not the end of.
    told: BTreeSet<RouteId>,
    /// Ends of topics in the event lane.
    end_count: usize,
    /// Events shed of topics that there was no room to remember.
    forgotten: u64,
    request_count: u32,
    request_bytes: u64,
    response_bytes: u64,
    control_bytes: u64,
    notice_bytes: u64,
    event_messages: u64,
    event_bytes: u64,
    /// Requests, messages and events that were ever queued.
    work_queued: u64,
    state: State,
}

/// Whether anything may still be queued.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum State {
    #[default]
    Open,
    /// Nothing new is taken; what is queued is still written, then the connection closes.
    Draining(String),
    /// Everything was dropped.
    Closed(String),
}

#[derive(Debug)]
struct Entry {
    bytes: Bytes,
    kind: EntryKind,
}

/// What has to happen when the bytes are handed to the socket.
#[derive(Debug)]
pub(crate) enum EntryKind {
    /// An answer to the peer's own doing.
    Control { _charge: Charge },
    /// The end of a route or a call that was written to the peer before.
    Notice { _charge: Charge },
    /// How far something is that the peer sends. What is written is the state at that moment.
    Progress(Source),
    /// Requests of one caller on one route.
    Requests { route: Arc<MethodRoute>, count: u32 },
    /// Responses, errors and started notices for this session as caller.
    Responses { _charge: Option<Charge> },
    /// Messages of one channel up to `last`, as they came: what they unpack to is for no queue to
    /// hold.
    Messages { channel: Arc<Channel>, generation: u64, first: u64, last: u64, flags: Flags },
}

/// What can be acknowledged.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Channel(Arc<Channel>),
    Topic(Arc<TopicRoute>),
}

#[derive(Debug)]
enum EventEntry {
    Events(EventRun),
    /// The topic ends for this session after the event `last`. Without a reason it is not told:
    /// then it goes on as publisher.
    End {
        topic: Arc<TopicRoute>,
        last: u64,
        reason: Option<&'static str>,
    },
    /// A conflated event; its gap is noted elsewhere.
    Shed,
}

#[derive(Debug)]
pub(crate) struct EventRun {
    pub(crate) bytes: Bytes,
    pub(crate) topic: Arc<TopicRoute>,
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) flags: Flags,
    /// The publisher waits until this is handed over.
    pub(crate) blocks: bool,
    key: u64,
    charge: Charge,
}

/// Ids of one topic that were shed. Between two queued events everything is shed, so that there is
/// at most one range more than there are queued events.
#[derive(Debug)]
struct Gaps {
    topic: Arc<TopicRoute>,
    cause: &'static str,
    ranges: BTreeMap<u64, u64>,
}

/// How a subscriber's queue behaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct EventPolicy {
    pub(crate) overflow: Overflow,
    pub(crate) messages_max: u64,
    pub(crate) bytes_max: u64,
}

impl EventPolicy {
    /// What holds for one that asks for nothing else.
    pub(crate) fn usual(limits: &Limits) -> Self {
        Self {
            overflow: Overflow::default(),
            messages_max: limits.event_queue_messages,
            bytes_max: limits.event_queue_bytes,
        }
    }
}

/// What became of events that were queued.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Pushed {
    /// Events shed for them, or of them.
    pub(crate) shed: u64,
    /// Whether the queue knows the topic now, so that its end has to be queued too.
    pub(crate) is_remembered: bool,
}

/// One piece of what [`Outbox::take`] gives.
#[derive(Debug)]
pub(crate) enum Taken {
    Plain(Bytes),
    Requests {
        bytes: Bytes,
        route: Arc<MethodRoute>,
    },
    Messages {
        bytes: Bytes,
        channel: Arc<Channel>,
        generation: u64,
        first: u64,
        last: u64,
        flags: Flags,
    },
    Progress(Source),
    /// Names the topic before anything else of it.
    Announce(Arc<TopicRoute>),
    Events(EventRun),
    /// No further frame bears the topic's route.
    Close {
        topic: Arc<TopicRoute>,
        reason: &'static str,
    },
    /// So many events were shed of topics that are not named.
    Forgotten(u64),
    Gap {
        topic: Arc<TopicRoute>,
        first: u64,
        last: u64,
        cause: &'static str,
    },
}

impl Outbox {
    /// Queues a frame of the broker. Says `false` when the peer has let too many of them pile up.
    #[must_use]
    pub(crate) fn push_control(&mut self, bytes: Bytes, account: &Arc<Account>) -> bool {
        if !self.is_open() {
            return true;
        }
        let size = bytes.len() as u64;
        if self.control_bytes + size > limit::CONTROL_QUEUE_BYTES_MAX {
            return false;
        }
        self.control_bytes += size;
        let charge = account.charge(Resource::ControlBytes, size);
        self.main.push_back(Entry { bytes, kind: EntryKind::Control { _charge: charge } });
        true
    }

    /// Queues a frame that ends what was written to the peer before. There are no more of these
    /// than of what they end, so that they need no cap.
    pub(crate) fn push_notice(&mut self, bytes: Bytes, account: &Arc<Account>) {
        if self.is_open() {
            let size = bytes.len() as u64;
            self.notice_bytes += size;
            let charge = account.charge(Resource::NoticeBytes, size);
            self.main.push_back(Entry { bytes, kind: EntryKind::Notice { _charge: charge } });
        }
    }

    /// Queues an acknowledgement, which is made when it is written. Its source sees to it that only
    /// one waits.
    pub(crate) fn push_progress(&mut self, source: Source) {
        if self.is_open() {
            self.main.push_back(Entry { bytes: Bytes::new(), kind: EntryKind::Progress(source) });
        }
    }

    /// Queues the end of a topic for this session, behind the events that are meant for it.
    pub(crate) fn push_end(
        &mut self,
        topic: &Arc<TopicRoute>,
        last: u64,
        reason: Option<&'static str>,
    ) {
        if self.is_open() {
            self.end_count += 1;
            self.events.push_back(EventEntry::End { topic: Arc::clone(topic), last, reason });
        }
    }

    /// Requests, messages and events that were ever queued for the session.
    pub(crate) fn work_queued(&self) -> u64 {
        self.work_queued
    }

    /// How many of `count` requests of `bytes` in all fit.
    pub(crate) fn has_room_for_requests(
        &self,
        bytes: u64,
        limits: &Limits,
    ) -> Result<(), (&'static str, u64, u64)> {
        if self.request_count >= limits.callee_requests_max {
            return Err((
                "requests queued for a callee",
                u64::from(self.request_count),
                u64::from(limits.callee_requests_max),
            ));
        }
        if self.request_bytes + bytes > limits.callee_bytes_max && self.request_bytes > 0 {
            return Err((
                "bytes of requests queued for a callee",
                self.request_bytes,
                limits.callee_bytes_max,
            ));
        }
        Ok(())
    }

    /// Queues requests. The callers are charged for them already.
    pub(crate) fn push_requests(&mut self, bytes: Bytes, route: &Arc<MethodRoute>, count: u32) {
        if !self.is_open() {
            // The router ends these calls when it hears of the session's end.
            return;
        }
        self.request_count += count;
        self.work_queued += u64::from(count);
        self.request_bytes += bytes.len() as u64;
        self.main.push_back(Entry {
            bytes,
            kind: EntryKind::Requests { route: Arc::clone(route), count },
        });
    }

    /// Queues answers for this session as caller. Says `false` when too many bytes of them wait.
    #[must_use]
    pub(crate) fn push_responses(
        &mut self,
        bytes: Bytes,
        account: &Arc<Account>,
        limits: &Limits,
    ) -> bool {
        if !self.is_open() {
            return true;
        }
        let size = bytes.len() as u64;
        if self.response_bytes + size > limits.response_bytes_max && self.response_bytes > 0 {
            return false;
        }
        self.response_bytes += size;
        let charge = Some(account.charge(Resource::ResponseBytes, size));
        self.main.push_back(Entry { bytes, kind: EntryKind::Responses { _charge: charge } });
        true
    }

    /// Queues the broker's own outcome of a call. Small and at most one for each call, so that it
    /// is always taken.
    pub(crate) fn push_outcome(&mut self, bytes: Bytes, account: &Arc<Account>) {
        if self.is_open() {
            let size = bytes.len() as u64;
            self.response_bytes += size;
            let charge = Some(account.charge(Resource::ResponseBytes, size));
            self.main.push_back(Entry { bytes, kind: EntryKind::Responses { _charge: charge } });
        }
    }

    /// Queues messages of a channel, which keeps them until they are acknowledged.
    pub(crate) fn push_messages(
        &mut self,
        run: &run::Run,
        channel: &Arc<Channel>,
        generation: u64,
    ) {
        if self.is_open() {
            self.work_queued += run.count;
            let channel = Arc::clone(channel);
            let (first, last, flags) = (run.first, run.last(), run.flags);
            self.main.push_back(Entry {
                bytes: run.bytes.clone(),
                kind: EntryKind::Messages { channel, generation, first, last, flags },
            });
        }
    }

    /// Whether a blocking subscriber's queue has room for events of so many bytes on a topic. If
    /// not: what has run out, how much is used, and how much there is.
    pub(crate) fn has_room_for_events(
        &self,
        topic: RouteId,
        bytes: u64,
        limits: &Limits,
    ) -> Result<(), (&'static str, u64, u64)> {
        if self.event_bytes + bytes > limits.event_queue_bytes_max && self.event_bytes > 0 {
            let name = "bytes of events queued for a subscriber";
            return Err((name, self.event_bytes, limits.event_queue_bytes_max));
        }
        if self.is_crowded() && !self.told.contains(&topic) {
            let used = (self.gaps.len() + self.end_count) as u64;
            let name = "topics whose end a subscriber has not read";
            return Err((name, used, limit::TOPICS_UNREAD_MAX as u64));
        }
        Ok(())
    }

    /// Queues events and sheds what the policy says. `None` when the session takes nothing any
    /// more.
    pub(crate) fn push_events(
        &mut self,
        run: &run::Run,
        topic: &Arc<TopicRoute>,
        policy: &EventPolicy,
        account: &Arc<Account>,
    ) -> Option<Pushed> {
        if !self.is_open() {
            return None;
        }
        if self.is_crowded() && policy.overflow != Overflow::Block && !self.knows(topic.number) {
            self.forgotten += run.count;
            return Some(Pushed { shed: run.count, is_remembered: false });
        }
        self.work_queued += run.count;
        let mut shed = 0;
        match policy.overflow {
            Overflow::Block => self.append_events(run, topic, true, 0, account),
            Overflow::DropOldest => {
                self.append_events(run, topic, false, 0, account);
                shed += self.shed_to(policy);
            }
            Overflow::DropNewest => {
                for (first, piece) in run.messages() {
                    if self.event_messages < policy.messages_max
                        && self.event_bytes < policy.bytes_max
                    {
                        self.append_events(&piece, topic, false, 0, account);
                    } else {
                        self.note_gap(topic, first, first, "drop-newest");
                        shed += 1;
                    }
                }
            }
            Overflow::Conflate => {
                for (_, piece) in run.messages() {
                    let key = piece.key();
                    if self.event_messages >= policy.messages_max
                        || self.event_bytes >= policy.bytes_max
                    {
                        shed += self.conflate(topic.number, key);
                    }
                    self.append_events(&piece, topic, false, key, account);
                    shed += self.shed_to(policy);
                }
            }
        }
        Some(Pushed { shed, is_remembered: true })
    }

    /// Takes about `budget` bytes, at least one entry if there is one. What is taken is as good as
    /// written: nobody can cancel it any more.
    pub(crate) fn take(&mut self, budget: usize, taken: &mut Vec<Taken>) {
        let main_budget = if self.events.is_empty() { budget } else { budget / 2 };
        let mut size = 0;
        while size < main_budget.max(1) {
            let Some(entry) = self.main.pop_front() else { break };
            // An entry without bytes becomes a small frame.
            size += entry.bytes.len().max(HEADER_SIZE);
            self.take_entry(entry, taken);
        }
        // A large entry of the main lane does not cost the events their half.
        let budget = budget.max(size + budget / 2);
        while size < budget {
            let Some(entry) = self.events.pop_front() else { break };
            self.events_popped += 1;
            match entry {
                EventEntry::Events(run) => {
                    size += run.bytes.len();
                    self.tell(&run.topic, taken);
                    self.take_gaps_before(run.topic.number, run.first, taken);
                    self.forget_events(&run);
                    taken.push(Taken::Events(run));
                }
                EventEntry::End { topic, last, reason } => {
                    size += HEADER_SIZE;
                    self.end_count -= 1;
                    self.take_gaps_through(topic.number, last, taken);
                    let was_told = self.told.remove(&topic.number);
                    if let (true, Some(reason)) = (was_told, reason) {
                        taken.push(Taken::Close { topic, reason });
                    }
                }
                EventEntry::Shed => self.shed_entries -= 1,
            }
        }
        while self.sheddable.front().is_some_and(|&index| index < self.events_popped) {
            self.sheddable.pop_front();
        }
        if self.events.is_empty() && !self.gaps.is_empty() {
            for (_, gaps) in std::mem::take(&mut self.gaps) {
                self.tell(&gaps.topic, taken);
                for (first, last) in gaps.ranges {
                    let topic = Arc::clone(&gaps.topic);
                    taken.push(Taken::Gap { topic, first, last, cause: gaps.cause });
                }
            }
        }
        if self.events.is_empty() && self.forgotten > 0 {
            taken.push(Taken::Forgotten(std::mem::take(&mut self.forgotten)));
        }
    }

    /// Refuses everything new. What is queued is still written.
    pub(crate) fn drain(&mut self, reason: &str) {
        if self.state == State::Open {
            self.state = State::Draining(reason.to_owned());
        }
    }

    /// Drops everything. Gives the number of events among it.
    pub(crate) fn close(&mut self, reason: &str) -> u64 {
        if !matches!(self.state, State::Closed(_)) {
            let reason = match std::mem::take(&mut self.state) {
                State::Draining(reason) => reason,
                _ => reason.to_owned(),
            };
            self.state = State::Closed(reason);
        }
        self.main.clear();
        self.gaps.clear();
        self.keyed.clear();
        self.request_count = 0;
        self.request_bytes = 0;
        self.response_bytes = 0;
        self.control_bytes = 0;
        self.notice_bytes = 0;
        self.events.clear();
        self.sheddable.clear();
        self.shed_entries = 0;
        self.told.clear();
        self.end_count = 0;
        self.forgotten = 0;
        self.event_bytes = 0;
        std::mem::take(&mut self.event_messages)
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.main.is_empty()
            && self.events.is_empty()
            && self.gaps.is_empty()
            && self.forgotten == 0
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Events that wait.
    pub(crate) fn event_messages(&self) -> u64 {
        self.event_messages
    }

    /// Bytes that wait for the session's own account, by what they are charged as. Its channels
    /// count the messages.
    pub(crate) fn counted_bytes(&self) -> [(Resource, u64); 4] {
        [
            (Resource::ControlBytes, self.control_bytes),
            (Resource::NoticeBytes, self.notice_bytes),
            (Resource::ResponseBytes, self.response_bytes),
            (Resource::EventBytes, self.event_bytes),
        ]
    }

    /// Bytes of all that waits, as it is queued.
    #[cfg(test)]
    pub(crate) fn queued_bytes(&self) -> usize {
        let main = self.main.iter().map(|entry| entry.bytes.len()).sum::<usize>();
        main + usize::try_from(self.event_bytes).expect("it is in memory")
    }

    /// Answers that wait.
    pub(crate) fn control_bytes(&self) -> u64 {
        self.control_bytes
    }

    /// Whether the queue is full of receipts and ends of topics.
    fn is_crowded(&self) -> bool {
        self.gaps.len() + self.end_count >= limit::TOPICS_UNREAD_MAX
    }

    /// Whether one more receipt for this topic, or its end, is no news.
    fn knows(&self, topic: RouteId) -> bool {
        self.told.contains(&topic) || self.gaps.contains_key(&topic)
    }

    /// Announces a topic of which something is about to be written.
    fn tell(&mut self, topic: &Arc<TopicRoute>, taken: &mut Vec<Taken>) {
        if self.told.insert(topic.number) {
            taken.push(Taken::Announce(Arc::clone(topic)));
        }
    }

    fn take_entry(&mut self, entry: Entry, taken: &mut Vec<Taken>) {
        let Entry { bytes, kind } = entry;
        let size = bytes.len() as u64;
        taken.push(match kind {
            EntryKind::Control { .. } => {
                self.control_bytes -= size;
                Taken::Plain(bytes)
            }
            EntryKind::Notice { .. } => {
                self.notice_bytes -= size;
                Taken::Plain(bytes)
            }
            EntryKind::Progress(source) => Taken::Progress(source),
            EntryKind::Responses { .. } => {
                self.response_bytes -= size;
                Taken::Plain(bytes)
            }
            EntryKind::Requests { route, count } => {
                self.request_count -= count;
                self.request_bytes -= size;
                Taken::Requests { bytes, route }
            }
            EntryKind::Messages { channel, generation, first, last, flags } => {
                Taken::Messages { bytes, channel, generation, first, last, flags }
            }
        });
    }

    fn append_events(
        &mut self,
        run: &run::Run,
        topic: &Arc<TopicRoute>,
        blocks: bool,
        key: u64,
        account: &Arc<Account>,
    ) {
        let size = run.bytes.len() as u64;
        let index = self.events_popped + self.events.len() as u64;
        if key != 0 {
            self.keyed.insert((topic.number, key), index);
        }
        if !blocks {
            self.sheddable.push_back(index);
        }
        self.event_messages += run.count;
        self.event_bytes += size;
        self.events.push_back(EventEntry::Events(EventRun {
            bytes: run.bytes.clone(),
            topic: Arc::clone(topic),
            first: run.first,
            count: run.count,
            flags: run.flags,
            blocks,
            key,
            charge: account.charge(Resource::EventBytes, size),
        }));
    }

    /// A single event may be larger than the whole queue.
    fn is_over(&self, policy: &EventPolicy) -> bool {
        self.event_messages > 1
            && (self.event_messages > policy.messages_max || self.event_bytes > policy.bytes_max)
    }

    fn shed_to(&mut self, policy: &EventPolicy) -> u64 {
        let mut shed = 0;
        while self.is_over(policy) {
            match self.shed_oldest() {
                0 => break,
                count => shed += count,
            }
        }
        shed
    }

    /// Sheds the oldest event that nobody waits for. Blocking runs are passed over.
    fn shed_oldest(&mut self) -> u64 {
        let index = loop {
            let Some(&index) = self.sheddable.front() else { return 0 };
            let in_lane = index.checked_sub(self.events_popped).map(|index| index as usize);
            match in_lane.map(|index| (index, &self.events[index])) {
                Some((index, EventEntry::Events(_))) => break index,
                // Written, or shed for its key.
                _ => self.sheddable.pop_front(),
            };
        };
        let EventEntry::Events(run) = &mut self.events[index] else {
            unreachable!("the entry was found just now");
        };
        let topic = Arc::clone(&run.topic);
        let id = run.first;
        if run.count == 1 {
            self.sheddable.pop_front();
            self.shed_entry(index);
            self.trim_shed();
        } else {
            let size = run::message_size(&run.bytes);
            run.bytes = run.bytes.slice(size..);
            run.first += 1;
            run.count -= 1;
            run.charge.shrink_to(run.bytes.len() as u64);
            self.event_messages -= 1;
            self.event_bytes -= size as u64;
        }
        self.note_gap(&topic, id, id, "drop-oldest");
        1
    }

    /// Leaves an empty place where an event was, and gives it.
    fn shed_entry(&mut self, index: usize) -> EventRun {
        let entry = std::mem::replace(&mut self.events[index], EventEntry::Shed);
        let EventEntry::Events(run) = entry else {
            unreachable!("only events are shed");
        };
        self.shed_entries += 1;
        self.forget_events(&run);
        run
    }

    /// Sheds the queued event with the same key, if there is one.
    fn conflate(&mut self, route: RouteId, key: u64) -> u64 {
        let Some(index) = self.keyed.get(&(route, key)).copied().filter(|_| key != 0) else {
            return 0;
        };
        let index = usize::try_from(index - self.events_popped).expect("keys of popped ones go");
        let run = self.shed_entry(index);
        self.note_gap(&run.topic, run.first, run.first, "conflate");
        self.trim_shed();
        1
    }

    /// Keeps the lane in proportion to what is alive in it.
    fn trim_shed(&mut self) {
        while matches!(self.events.front(), Some(EventEntry::Shed)) {
            self.events.pop_front();
            self.events_popped += 1;
            self.shed_entries -= 1;
        }
        if self.shed_entries > 64 && self.shed_entries > self.events.len() / 2 {
            self.events.retain(|entry| !matches!(entry, EventEntry::Shed));
            self.shed_entries = 0;
            self.keyed.clear();
            self.sheddable.clear();
            for (index, entry) in self.events.iter().enumerate() {
                let EventEntry::Events(run) = entry else { continue };
                let index = self.events_popped + index as u64;
                if run.key != 0 {
                    self.keyed.insert((run.topic.number, run.key), index);
                }
                if !run.blocks {
                    self.sheddable.push_back(index);
                }
            }
        }
    }

    fn forget_events(&mut self, run: &EventRun) {
        self.event_messages -= run.count;
        self.event_bytes -= run.bytes.len() as u64;
        if run.key != 0 {
            // A newer event may have taken the key over.
            let key = (run.topic.number, run.key);
            if self.keyed.get(&key).is_some_and(|&index| index < self.events_popped)
                || self.keyed.get(&key).is_some_and(|&index| self.is_shed(index))
            {
                self.keyed.remove(&key);
            }
        }
    }

    fn is_shed(&self, index: u64) -> bool {
        usize::try_from(index - self.events_popped)
            .ok()
            .and_then(|index| self.events.get(index))
            .is_none_or(|entry| matches!(entry, EventEntry::Shed))
    }

    fn note_gap(&mut self, topic: &Arc<TopicRoute>, first: u64, last: u64, cause: &'static str) {
        let gaps = self.gaps.entry(topic.number).or_insert_with(|| Gaps {
            topic: Arc::clone(topic),
            cause,
            ranges: BTreeMap::new(),
        });
        gaps.cause = cause;
        let (mut first, mut last) = (first, last);
        if let Some((&start, &end)) = gaps.ranges.range(..=first).next_back()
            && end + 1 >= first
        {
            gaps.ranges.remove(&start);
            first = start;
            last = last.max(end);
        }
        if let Some((&start, &end)) = gaps.ranges.range(first..).next()
            && start <= last + 1
        {
            gaps.ranges.remove(&start);
            last = last.max(end);
        }
        gaps.ranges.insert(first, last);
    }

    fn take_gaps_before(&mut self, route: RouteId, first: u64, taken: &mut Vec<Taken>) {
        if !self.gaps.is_empty() {
            self.take_gaps_through(route, first - 1, taken);
        }
    }

    /// Takes what was shed up to `last`. A range that goes on beyond is split: the rest belongs to
    /// a later subscription.
    fn take_gaps_through(&mut self, route: RouteId, last: u64, taken: &mut Vec<Taken>) {
        let Some(gaps) = self.gaps.get_mut(&route) else { return };
        let is_due = gaps.ranges.first_key_value().is_some_and(|(&first, _)| first <= last);
        if is_due && self.told.insert(route) {
            taken.push(Taken::Announce(Arc::clone(&gaps.topic)));
        }
        while let Some(range) = gaps.ranges.first_entry() {
            if *range.key() > last {
                break;
            }
            let (start, end) = range.remove_entry();
            if end > last {
                gaps.ranges.insert(last + 1, end);
            }
            let (topic, last) = (Arc::clone(&gaps.topic), end.min(last));
            taken.push(Taken::Gap { topic, first: start, last, cause: gaps.cause });
        }
        if gaps.ranges.is_empty() {
            self.gaps.remove(&route);
        }
    }
}

impl Outbox {
    /// The fault for a peer that lets the broker's answers pile up.
    pub(crate) fn unread_fault(account: &Account) -> Fault {
        account.refusal(Resource::ControlBytes, limit::CONTROL_QUEUE_BYTES_MAX)
    }
}
