//! A router with a few peers in one thread, and what every peer may rely on.
//!
//! Peers read what the broker writes and check it: whole frames, only such as a broker sends, and
//! on every route ids in the order that the protocol promises.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plugbus::engine::{Effects, Now, Port, Router, RouterSettings, Session};
use plugbus::id::SessionId;
use plugbus::limit;
use plugbus::wire::body::{self, Gap, Hello, Redelivery, Role};
use plugbus::wire::{Flags, FrameView, Kind, scan_frame};

use super::Seen;

/// A broker and its peers.
pub(crate) struct Stage {
    pub(crate) router: Router,
    pub(crate) peers: [Option<Peer>; PEERS],
    pub(crate) now: Now,
}

/// One peer, and the broker's machine for it.
pub(crate) struct Peer {
    port: Arc<Port>,
    session: Session,
    input: Vec<u8>,
    pub(crate) is_holding: bool,
    /// Routes by number, those that it has heard of.
    pub(crate) routes: BTreeMap<u32, Heard>,
    /// Requests that it was given: route, id, caller.
    pub(crate) requests: Vec<(u32, u64, SessionId)>,
    is_plugin: bool,
    heard_last: Kind,
}

/// What a peer knows of a route.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Next id to send.
    pub(crate) next: u64,
    /// What goes on it from this side; nothing on routes that were announced.
    pub(crate) kind: Option<Kind>,
    /// Last id received.
    last: Option<u64>,
    /// Whether the last frame said that a chunk of the same id follows.
    more: bool,
    is_announced: bool,
}

pub(crate) const PEERS: usize = 4;

impl Stage {
    pub(crate) fn new() -> Self {
        let now = Now { mono: Duration::from_secs(1), unix: 1_700_000_000_000_000_000 };
        let settings = RouterSettings { name: "fuzz".to_owned(), seed: 11, limits: Arc::default() };
        let mut stage =
            Self { router: Router::new(settings, now), peers: [const { None }; PEERS], now };
        for who in 0..PEERS {
            stage.join(who, who as u8);
        }
        stage
    }

    /// Connects a peer that is not there. The last one is a client without an id.
    pub(crate) fn join(&mut self, who: usize, features: u8) {
        if self.peers[who].is_some() {
            return;
        }
        let is_plugin = who + 1 < PEERS;
        let hello = Hello {
            versions: vec![1],
            features: [("lz4", 1), ("checksum", 2)]
                .iter()
                .filter(|(_, bit)| features & bit != 0)
                .map(|(name, _)| (*name).to_owned())
                .collect(),
            id: is_plugin.then(|| PLUGINS[who].to_owned()),
            role: if is_plugin { Role::Plugin } else { Role::Client },
            ..Default::default()
        };
        let mut fx = Effects::new();
        let port = self
            .router
            .handle_hello(&hello, None, Box::new(|| {}), self.now, &mut fx)
            .expect("a good hello is let in");
        let session = Session::new(&port);
        self.peers[who] = Some(Peer {
            port,
            session,
            input: Vec::new(),
            is_holding: false,
            routes: BTreeMap::new(),
            requests: Vec::new(),
            is_plugin,
            heard_last: Kind::HELLO,
        });
        self.settle(&mut fx);
    }

    /// Gives bytes of one peer to the broker, unless it gathers them.
    pub(crate) fn send(&mut self, who: usize, bytes: &[u8], seen: &mut Seen) {
        let Some(peer) = &mut self.peers[who] else { return };
        peer.input.extend_from_slice(bytes);
        if peer.is_holding && peer.input.len() < HELD_MAX {
            return;
        }
        peer.is_holding = false;
        self.feed(who, usize::MAX, seen);
    }

    /// Gives the broker what a peer has gathered, at most `size` bytes of it.
    pub(crate) fn feed(&mut self, who: usize, size: usize, seen: &mut Seen) {
        let Some(peer) = &mut self.peers[who] else { return };
        if !peer.port.is_open() {
            peer.input.clear();
            return;
        }
        let held = peer.input.split_off(size.min(peer.input.len()));
        let input = Bytes::from(std::mem::replace(&mut peer.input, held));
        let mut fx = Effects::new();
        let outcome = peer.session.handle_input(&input, self.now, &mut fx);
        match outcome {
            Ok(consumed) => {
                assert!(consumed <= input.len(), "the broker takes what it was given");
                let rest = &input[consumed..];
                assert!(
                    matches!(scan_frame(rest, limit::PAYLOAD_MAX), Ok(None)),
                    "no whole frame is left"
                );
                peer.input.splice(..0, rest.iter().copied());
            }
            Err(error) => {
                seen.note(1, error.code() as u64);
                assert!(!peer.port.is_open(), "a session without framing ends");
            }
        }
        self.settle(&mut fx);
    }

    /// A peer reads about `budget` bytes.
    pub(crate) fn read(&mut self, who: usize, budget: usize, seen: &mut Seen) {
        let Some(peer) = &mut self.peers[who] else { return };
        let (mut pieces, mut fx) = (Vec::new(), Effects::new());
        let size = peer.port.take(budget, self.now, &mut pieces, &mut fx);
        let output = pieces.concat();
        assert_eq!(size, output.len(), "the size that is told is that of the bytes");
        let mut rest = &output[..];
        while !rest.is_empty() {
            let frame = scan_frame(rest, limit::PAYLOAD_MAX)
                .expect("the broker writes good frames")
                .expect("and whole ones");
            peer.hear(&frame, seen);
            rest = &rest[frame.bytes().len()..];
        }
        let is_over = peer.port.end().is_some();
        self.settle(&mut fx);
        if is_over {
            self.leave(who, "it was ended");
        }
    }

    /// Ends a session without a word.
    pub(crate) fn leave(&mut self, who: usize, reason: &str) {
        let Some(peer) = self.peers[who].take() else { return };
        let mut fx = Effects::new();
        self.router.handle_session_ended(peer.port.session, reason, self.now, &mut fx);
        self.settle(&mut fx);
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.unix += u64::try_from(time.as_nanos()).expect("it is short");
        let mut fx = Effects::new();
        if let Some(next) = self.router.handle_timeout(self.now, &mut fx) {
            assert!(next > self.now.mono, "the next timeout is not in the past");
        }
        self.settle(&mut fx);
    }

    pub(crate) fn audit(&self) {
        self.router.audit(self.peers.iter().flatten().map(|peer| &peer.session));
    }

    /// Everybody leaves, time passes: nothing may be left of them.
    pub(crate) fn finish(mut self) {
        for who in 0..PEERS {
            self.leave(who, "the end");
        }
        self.wait(limit::ABSENT_TIMEOUT + limit::CALL_TIMEOUT);
        self.wait(limit::ABSENT_TIMEOUT);
        self.audit();
        for (class, tally) in self.router.tallies() {
            assert_eq!(tally.pending, 0, "{class} pending when all are gone: {tally:?}");
        }
    }

    fn settle(&mut self, fx: &mut Effects) {
        loop {
            let changes = fx.take_changes();
            if changes.is_empty() {
                break;
            }
            for change in changes {
                self.router.handle_change(change, self.now, fx);
            }
        }
        fx.wake();
        assert!(fx.is_empty(), "nothing is left to do");
    }
}

impl Heard {
    /// The last id that came, or 0.
    pub(crate) fn last(&self) -> u64 {
        self.last.unwrap_or_default()
    }
}

impl Peer {
    pub(crate) fn id(&self) -> SessionId {
        self.port.session
    }

    fn hear(&mut self, frame: &FrameView<'_>, seen: &mut Seen) {
        let header = &frame.header;
        let route = header.route.0;
        seen.note(2, u64::from(header.kind.0) << 8 | u64::from(header.flags.0 & 0xFF));
        seen.note(4, u64::from(self.heard_last.0) << 8 | u64::from(header.kind.0));
        self.heard_last = header.kind;
        match header.kind {
            Kind::RESPONSE if route == 0 => self.hear_answer(frame),
            Kind::ANNOUNCE => {
                let announce: body::Announce = body::decode(frame.body()).expect("a good body");
                let heard = Heard { next: 1, is_announced: true, ..Heard::default() };
                self.routes.insert(announce.route, heard);
            }
            Kind::CLOSE => {
                self.routes.remove(&route);
            }
            Kind::ERROR => {
                let fault = body::decode_fault(frame.body());
                if header.session == SessionId::BROKER {
                    let fault = fault.expect("the broker's errors are good");
                    seen.note(3, fault.code as u64);
                }
            }
            Kind::REQUEST => {
                assert!(self.is_announced(route), "a route is announced before its first frame");
                if !header.flags.has(Flags::MORE) && self.requests.len() < 64 {
                    self.requests.push((route, header.message_id, header.session));
                }
            }
            Kind::MESSAGE => self.hear_message(frame),
            Kind::EVENT | Kind::BROADCAST => self.hear_event(frame),
            Kind::REDELIVERY => {
                let redelivery = Redelivery::parse(frame.body()).expect("a good body");
                assert!(redelivery.attempt >= 2 && redelivery.last >= header.message_id);
                if let Some(heard) = self.routes.get_mut(&route) {
                    // Several may come in a row, one for each attempt; the first begins lowest.
                    let before = header.message_id - 1;
                    heard.last = Some(heard.last.map_or(before, |last| last.min(before)));
                }
            }
            Kind::GAP => {
                let gap: Gap = body::decode(frame.body()).expect("a good body");
                assert!(gap.last >= header.message_id && header.message_id > 0);
                if let Some(heard) = self.routes.get_mut(&route)
                    && heard.is_announced
                {
                    heard.last = heard.last.max(Some(gap.last));
                }
            }
            Kind::SIGNAL => {
                let signal: body::Signal = body::decode(frame.body()).expect("a good body");
                assert!(signal.from.is_some() && signal.to.is_none());
            }
            Kind::WELCOME | Kind::PING | Kind::PONG | Kind::RESPONSE | Kind::STARTED => (),
            Kind::CANCEL | Kind::ACK | Kind::CREDIT | Kind::SHUTDOWN => (),
            kind => panic!("a broker does not send {kind}"),
        }
    }

    fn hear_answer(&mut self, frame: &FrameView<'_>) {
        if let Ok(opened) = body::decode::<body::Opened>(frame.body()) {
            let heard = self.routes.entry(opened.route).or_default();
            heard.next = heard.next.max(1);
            heard.kind = frame
                .header
                .message_id
                .checked_sub(OPEN_ID)
                .and_then(|number| KINDS.get(usize::try_from(number).ok()?).copied());
        }
    }

    /// P3: one after the other, but for what was announced as repeated or given up.
    fn hear_message(&mut self, frame: &FrameView<'_>) {
        let header = &frame.header;
        let heard = self.routes.get_mut(&header.route.0).filter(|heard| heard.is_announced);
        let heard = heard.expect("a route is announced before its first frame");
        let id = header.message_id;
        if let Some(last) = heard.last {
            let wanted = if heard.more { last } else { last + 1 };
            assert_eq!(id, wanted, "messages of a channel come in order");
        }
        heard.last = Some(id);
        heard.more = header.flags.has(Flags::MORE);
    }

    fn hear_event(&mut self, frame: &FrameView<'_>) {
        let header = &frame.header;
        assert!(header.kind == Kind::EVENT || self.is_plugin, "broadcasts go to plugins");
        let heard = self.routes.get_mut(&header.route.0).filter(|heard| heard.is_announced);
        let heard = heard.expect("a route is announced before its first frame");
        let id = header.message_id;
        if let Some(last) = heard.last {
            assert!(id > last || heard.more && id == last, "events of a topic come in order");
        }
        heard.last = Some(id);
        heard.more = header.flags.has(Flags::MORE);
    }

    fn is_announced(&self, route: u32) -> bool {
        self.routes.get(&route).is_some_and(|heard| heard.is_announced)
    }
}

pub(crate) const PLUGINS: [&str; 3] = ["alpha", "beta", "gamma"];

/// An `open` bears this and the index of its kind in [`KINDS`], so that its answer tells the kind.
pub(crate) const OPEN_ID: u64 = 100;

/// Frames that go on a route of each kind: method, channel, topic, broadcast.
const KINDS: [Kind; 4] = [Kind::REQUEST, Kind::MESSAGE, Kind::EVENT, Kind::BROADCAST];

/// What a peer gathers before it is sent, at most.
const HELD_MAX: usize = 256 << 10;
