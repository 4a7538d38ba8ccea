//! The scheduler: a broker, its plugins and the bytes between them, one small step at a time.
//!
//! The file is longer than most: one function for each step of the scheduler.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use xxhash_rust::xxh64::xxh64;

use super::fault::{FaultCounts, FaultKind};
use super::link::{BrokerEnd, Link, SOCKET_SIZE};
use super::oracle::{self, Oracle};
use super::plugin::{Client, Plugin};
use super::random::Random;
use super::supervisor::Supervisor;
use crate::engine::{
    Attachment, Change, ChangeKind, Effects, Now, PluginExit, Presence, Router, RouterSettings,
};
use crate::error::Fault;
use crate::id::PluginId;
use crate::limit;
use crate::peer::{Moment, Peer, PeerSettings};
use crate::wire::body::{Role, RouteKind};

/// Everything there is in one run.
#[derive(Debug)]
pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: Now,
    epoch: Instant,
    pub(super) router: Router,
    fx: Effects,
    pub(super) oracle: Oracle,
    pub(super) plugins: Vec<Plugin>,
    pub(super) supervisors: Vec<Supervisor>,
    pub(super) links: Vec<Link>,
    link_last: u32,
    pub(super) faults: FaultCounts,
    pub(super) step: u64,
    /// Hash of everything that happened.
    pub(super) trace: u64,
    pub(super) stats: Stats,
    /// Records of the router's that were looked at.
    quarantined: usize,
    /// No more mischief: everybody reads, answers and returns.
    pub(super) calm: bool,
    /// Nobody is started any more.
    pub(super) over: bool,
    timer: Duration,
}

/// How much happened.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "named as in the protocol")]
pub struct Stats {
    pub requests: u64,
    pub messages: u64,
    pub events: u64,
    pub sessions: u64,
}

impl Stats {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.messages += other.messages;
        self.events += other.events;
        self.sessions += other.sessions;
    }
}

impl World {
    pub(super) fn new(seed: u64, epoch: Instant) -> Self {
        let mut random = Random::new(seed);
        let now = Now { mono: Duration::from_secs(1), unix: 1_700_000_000_000_000_000 };
        let settings =
            RouterSettings { name: "sim".to_owned(), seed: random.next(), limits: Arc::default() };
        let hostile = random.below(PLUGINS.len() * 2);
        let mut plugins: Vec<Plugin> = PLUGINS
            .iter()
            .enumerate()
            .map(|(index, id)| Plugin {
                id: (*id).to_owned(),
                hostile: index == hostile,
                is_client: index == PLUGINS.len() - 1,
                incarnation: 0,
                client: None,
                number: 0,
                exit_due: false,
            })
            .collect();
        let mut supervisors = Vec::new();
        for (index, id) in PLUGINS.iter().enumerate() {
            let may = !plugins[index].hostile && !plugins[index].is_client;
            if !may || random.one_in(2) {
                continue;
            }
            let mut places = vec![index];
            let is_twin = random.one_in(3);
            if is_twin || random.one_in(2) {
                places.push(plugins.len());
                plugins.push(Plugin {
                    id: (*id).to_owned(),
                    hostile: false,
                    is_client: false,
                    incarnation: 0,
                    client: None,
                    number: 1,
                    exit_due: false,
                });
            }
            supervisors.push(Supervisor::new(id, places, is_twin));
        }
        let mut world = Self {
            random,
            now,
            epoch,
            router: Router::new(settings, now),
            fx: Effects::new(),
            oracle: Oracle::default(),
            plugins,
            supervisors,
            links: Vec::new(),
            link_last: 0,
            faults: FaultCounts::default(),
            step: 0,
            trace: seed,
            stats: Stats::default(),
            quarantined: 0,
            calm: false,
            over: false,
            timer: now.mono,
        };
        world.appoint_supervisors();
        world
    }

    /// One step, then every check that holds at every moment.
    pub(super) fn step(&mut self) {
        self.step += 1;
        for _ in 0..8 {
            let done = match self.random.below(100) {
                0..24 => self.command(),
                24..42 => self.broker_reads(),
                42..52 => self.router_decides(),
                52..66 => self.broker_writes(),
                66..82 => self.peer_reads(),
                82..91 => self.handle_something(),
                91..94 => self.router_hears_of_end(),
                94 => self.connect_somebody(),
                95 | 96 => self.supervise(),
                97 => self.pass_time(),
                _ => self.disturb(),
            };
            if done {
                break;
            }
        }
        self.note_quarantined();
        self.audit();
    }

    /// What the router has put in quarantine since the last step.
    pub(super) fn note_quarantined(&mut self) {
        while let Some(record) = self.router.quarantined().get(self.quarantined) {
            self.quarantined += 1;
            if record.to.contains('/') {
                self.faults.note(FaultKind::Quarantine);
                self.oracle.quarantine_message(&record.to, record.session, record.id);
            } else {
                self.faults.note(FaultKind::QuarantineRequest);
            }
        }
    }

    pub(super) fn audit(&mut self) {
        self.router.audit(self.links.iter().filter_map(Link::live).map(|live| &live.session));
        for port in self.router.ports() {
            super::check::bounds(port);
        }
    }

    /// A call that may be retried ends for want of a callee only where waiting was in vain, or
    /// where it was retried often enough.
    fn check_lost(&mut self) {
        for _ in 0..std::mem::take(&mut self.oracle.retries) {
            self.faults.note(FaultKind::Retry);
        }
        for lost in std::mem::take(&mut self.oracle.lost) {
            let mut names = self.supervisors.iter();
            let Some(known) = names.find(|known| lost.target == known.id.as_str()) else {
                continue;
            };
            assert!(
                known.vain_at >= lost.sent_at || known.took_back,
                "P4: a call of `{}` that may be retried is lost: {lost:?}, {known:?}",
                known.id
            );
        }
    }

    pub(super) fn moment(&self) -> Moment {
        Moment { instant: self.epoch + self.now.mono, unix: self.now.unix }
    }

    pub(super) fn note(&mut self, bytes: &[u8]) {
        self.trace = xxh64(bytes, self.trace);
    }

    pub(super) fn link_index(&self, id: u32) -> Option<usize> {
        self.links.iter().position(|link| link.id == id)
    }

    /// A link for which `enabled` holds, any of them.
    pub(super) fn any_link(&mut self, enabled: impl Fn(&Link) -> bool) -> Option<usize> {
        let start = self.random.below(self.links.len());
        let count = self.links.len();
        (0..count).map(|offset| (start + offset) % count).find(|&index| enabled(&self.links[index]))
    }

    /// A plugin with a process for which `enabled` holds, any of them.
    pub(super) fn any_plugin(&mut self, enabled: impl Fn(&Client) -> bool) -> Option<usize> {
        let start = self.random.below(self.plugins.len());
        let count = self.plugins.len();
        (0..count)
            .map(|offset| (start + offset) % count)
            .find(|&index| self.plugins[index].client.as_ref().is_some_and(&enabled))
    }

    pub(super) fn broker_reads(&mut self) -> bool {
        let Some(index) = self.any_link(Link::can_read) else { return false };
        let size = self.links[index].up.len();
        let cut = if self.calm { size } else { self.random.cut(size) };
        let link = &mut self.links[index];
        let read = xxh64(&link.up[..cut], 1);
        link.read(cut, &mut self.router, &mut self.oracle, self.now, &mut self.fx);
        self.note(&read.to_le_bytes());
        self.settle();
        true
    }

    pub(super) fn broker_writes(&mut self) -> bool {
        let Some(index) = self.any_link(Link::can_write) else { return false };
        let budget = match self.random.below(4) {
            0 => 2,
            1 => self.random.range(2, 4096),
            _ => limit::WRITE_BATCH_SIZE,
        };
        let link = &mut self.links[index];
        let before = link.down.len();
        link.write(budget, &mut self.oracle, self.now, &mut self.fx);
        self.check_lost();
        let link = &mut self.links[index];
        let written = xxh64(&link.down[before..], 2);
        self.note(&written.to_le_bytes());
        // Changes of the writer go to the router like those of the reader.
        self.settle();
        true
    }

    /// The router takes one of the mails that are under way.
    pub(super) fn router_decides(&mut self) -> bool {
        let waiting = |link: &Link| link.live().is_some_and(|live| !live.changes.is_empty());
        let Some(index) = self.any_link(waiting) else { return false };
        self.decide(index);
        true
    }

    pub(super) fn router_hears_of_end(&mut self) -> bool {
        let ended = |link: &Link| link.live().is_some_and(|live| live.ended.is_some());
        let Some(index) = self.any_link(ended) else { return false };
        // Mail that the session sent before comes before.
        while self.links[index].live().is_some_and(|live| !live.changes.is_empty()) {
            self.decide(index);
        }
        let heirs = self.heirs();
        let session = self.links[index].bury(&mut self.router, self.now, &mut self.fx);
        self.oracle.session_ended(session, self.now);
        self.note_inherited(heirs);
        self.settle();
        self.note(&session.to_le_bytes());
        self.tidy();
        true
    }

    fn decide(&mut self, index: usize) {
        let Some(live) = self.links[index].live_mut() else { return };
        let Some(change) = live.changes.pop_front() else { return };
        if let Change::Asked { kind: ChangeKind::Signal(signal), .. } = &change
            && signal.to.is_none()
            && signal.name == "ready"
        {
            live.ready = true;
        }
        self.router.handle_change(change, self.now, &mut self.fx);
        self.settle();
    }

    /// The end of a batch, as the router's shell has it.
    fn settle(&mut self) {
        loop {
            self.fx.finish();
            let changes = self.fx.take_changes();
            if changes.is_empty() {
                break;
            }
            for change in changes {
                self.router.handle_change(change, self.now, &mut self.fx);
            }
        }
        if self.fx.take_deadline_moved()
            && let Some(at) = self.router.next_deadline().get()
        {
            self.timer = self.timer.min(at);
        }
        let wanted = self.fx.take_wanted();
        self.note_wanted(&wanted);
        self.fx.wake();
    }

    pub(super) fn peer_reads(&mut self) -> bool {
        let readable = |link: &Link| !link.down.is_empty() || link.down_ended;
        let open: Vec<u32> =
            self.links.iter().filter(|link| readable(link)).map(|link| link.id).collect();
        let Some(index) = self.any_plugin(|client| !client.stopped && open.contains(&client.link))
        else {
            return false;
        };
        let mut client = self.plugins[index].client.take().expect("it was found just now");
        let link = self.link_index(client.link).expect("it was found just now");
        let size = self.links[link].down.len();
        let cut = if self.calm { size } else { self.random.cut(size) };
        let bytes = self.links[link].down.split_to(cut).freeze();
        let at_end = bytes.is_empty();
        self.note(&bytes);
        if at_end {
            client.peer.handle_closed();
        } else {
            let moment = self.moment();
            let read = client.peer.handle_input(Bytes::copy_from_slice(&bytes), moment);
            read.expect("the broker keeps the framing");
        }
        let was_ready = client.session != 0;
        self.take_events(&mut client, index);
        if client.session != 0 && !was_ready {
            self.greet(&mut client, index);
        }
        self.flush(&mut client, index);
        if at_end {
            self.links[link].up_ended = true;
            self.links[link].peer_gone = true;
            let is_crash = !client.is_innocent && !client.leaving;
            self.oracle.process_ended(client.session, is_crash);
            self.process_ended(index);
            self.tidy();
        } else {
            self.plugins[index].client = Some(client);
        }
        true
    }

    pub(super) fn take_events(&mut self, client: &mut Client, index: usize) {
        while let Some(event) = client.peer.poll_event() {
            let hostile = self.plugins[index].hostile;
            client.handle_event(event, index, hostile, self.step, &mut self.oracle);
        }
    }

    pub(super) fn connect_somebody(&mut self) -> bool {
        let start = self.random.below(self.plugins.len());
        let count = self.plugins.len();
        let absent = (0..count)
            .map(|offset| (start + offset) % count)
            .filter(|&index| self.supervisor_of(index).is_none())
            .find(|&index| self.plugins[index].client.is_none());
        let Some(index) = absent else { return false };
        self.connect(index, None);
        true
    }

    /// A process starts, and connects.
    pub(super) fn connect(&mut self, index: usize, attachment: Option<Attachment>) {
        self.link_last += 1;
        let mut link = Link::new(self.link_last);
        link.attachment = attachment;
        let plugin = &self.plugins[index];
        let settings = PeerSettings {
            id: (!plugin.is_client).then(|| plugin.id.clone()),
            role: if plugin.is_client { Role::Client } else { Role::Plugin },
            checksum: self.random.one_in(3),
            compress_min: self.random.one_in(3).then_some(64),
            ..PeerSettings::default()
        };
        if plugin.incarnation > 0 {
            self.faults.note(FaultKind::Return);
        }
        if self.plugins[index].hostile && !self.calm && self.random.one_in(4) {
            self.faults.note(FaultKind::BadHello);
            let bytes: &[u8] = match self.random.below(4) {
                0 => b"{\"jsonrpc\": 2}\n",
                1 => b"REED",
                2 => b"GET / HTTP/1.1\r\n",
                _ => &[1; 64],
            };
            link.up.extend_from_slice(bytes);
            link.up_ended = true;
            link.peer_gone = true;
            self.links.push(link);
            return;
        }
        let moment = self.moment();
        let peer = Peer::new(settings, moment);
        let mut client = Client::new(link.id, index, peer);
        self.links.push(link);
        self.flush(&mut client, index);
        self.plugins[index].client = Some(client);
    }

    pub(super) fn pass_time(&mut self) -> bool {
        let passed = match self.random.below(12) {
            0 if !self.calm => {
                self.faults.note(FaultKind::TimeJump);
                self.random.range(1_000, 70_000)
            }
            0..4 => self.random.range(100, 2_000),
            _ => self.random.range(1, 30),
        };
        self.advance(Duration::from_millis(passed as u64));
        true
    }

    pub(super) fn advance(&mut self, passed: Duration) {
        self.watch_readiness();
        self.now.mono += passed;
        self.now.unix += passed.as_nanos() as u64;
        self.note(&self.now.unix.to_le_bytes());
        self.watch_readiness();
        if self.timer <= self.now.mono {
            let next = self.router.handle_timeout(self.now, &mut self.fx);
            self.timer = next.unwrap_or(self.now.mono + Duration::from_secs(1));
            self.settle();
        }
        for link in &mut self.links {
            link.expire(self.now, &mut self.fx);
        }
        self.settle();
        let moment = self.moment();
        for index in 0..self.plugins.len() {
            let Some(mut client) = self.plugins[index].client.take() else { continue };
            if !client.stopped && client.peer.next_deadline().is_some_and(|at| at <= moment.instant)
            {
                client.peer.handle_timeout(moment);
                self.take_events(&mut client, index);
                self.flush(&mut client, index);
            }
            self.plugins[index].client = Some(client);
        }
    }

    /// Forgets connections that have ended on both sides.
    pub(super) fn tidy(&mut self) {
        let plugins = &self.plugins;
        self.links.retain(|link| {
            let used = plugins
                .iter()
                .any(|plugin| plugin.client.as_ref().is_some_and(|client| client.link == link.id));
            used || !matches!(link.broker, BrokerEnd::Closed)
        });
    }

    pub(super) fn is_full(&self, link: u32) -> bool {
        self.link_index(link).is_none_or(|index| self.links[index].up.len() >= 4 * SOCKET_SIZE)
    }

    /// A stream's sent ids are noted before they are on the wire.
    pub(super) fn new_body(&mut self) -> (u64, Vec<u8>) {
        let serial = self.oracle.next_serial();
        if !self.calm && self.random.one_in(400) {
            self.oracle.killers.insert(serial);
        }
        let size = match self.random.below(12) {
            0 => self.random.range(200, 2_000),
            1..4 => self.random.range(40, 200),
            _ => self.random.range(8, 40),
        };
        (serial, oracle::body_of(serial, size))
    }

    pub(super) fn any_name(&mut self, kind: RouteKind) -> String {
        let target = *self.random.pick(&PLUGINS).expect("there are plugins");
        match kind {
            RouteKind::Method => {
                let target = if self.random.one_in(4) { "pool" } else { target };
                let method = *self.random.pick(&METHODS).expect("there are methods");
                format!("{target}.{method}")
            }
            RouteKind::Channel => {
                let channel = *self.random.pick(&CHANNELS).expect("there are channels");
                format!("{target}/{channel}")
            }
            RouteKind::Topic | RouteKind::Broadcast => {
                (*self.random.pick(&TOPICS).expect("there are topics")).to_owned()
            }
        }
    }
}

pub(super) const PLUGINS: [&str; 6] = ["ann", "ben", "cat", "dan", "eve", "fay"];
pub(super) const METHODS: [&str; 2] = ["echo", "work"];
/// Of these methods, the one that may be retried.
pub(super) const IDEMPOTENT: &str = METHODS[0];
pub(super) const CHANNELS: [&str; 2] = ["inbox", "bulk"];
pub(super) const TOPICS: [&str; 3] = ["order.created", "order.paid", "sky"];
pub(super) const PATTERNS: [&str; 6] =
    ["order.created", "order.*", ">", "sky", "*.paid", "plugbus.>"];

impl World {
    pub(super) fn set_presence(&mut self, id: &PluginId, presence: Presence) {
        self.router.set_presence(id, presence, self.now, &mut self.fx);
        self.settle();
    }

    pub(super) fn tell_router_of_exit(&mut self, id: &PluginId, number: u32, exit: PluginExit) {
        self.router.handle_plugin_exit(id, number, exit, self.now, &mut self.fx);
        self.settle();
    }

    pub(super) fn switch(&mut self, id: &PluginId, number: u32) -> Result<(), Fault> {
        self.oracle.excuse();
        let switched = self.router.handle_switch(id, number, self.now, &mut self.fx);
        self.settle();
        switched
    }

    pub(super) fn stop_plugin(&mut self, id: &PluginId, drain: Duration) {
        self.oracle.excuse();
        for plugin in self.plugins.iter_mut().filter(|plugin| plugin.id == id.as_str()) {
            if let Some(client) = &mut plugin.client {
                client.is_innocent = true;
            }
        }
        self.router.handle_stop(id, None, drain, self.now, &mut self.fx);
        self.settle();
    }

    /// A second process says that it is this plugin.
    pub(super) fn intrude(&mut self, index: usize) -> bool {
        self.faults.note(FaultKind::ReturnTooEarly);
        self.link_last += 1;
        let mut link = Link::new(self.link_last);
        let settings = PeerSettings {
            id: Some(self.plugins[index].id.clone()),
            role: Role::Plugin,
            ..PeerSettings::default()
        };
        let mut peer = Peer::new(settings, self.moment());
        link.up.extend_from_slice(peer.output());
        link.up_ended = true;
        link.peer_gone = true;
        self.links.push(link);
        true
    }
}
