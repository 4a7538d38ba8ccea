//! What honest plugins do of their own accord.
//!
//! The file is longer than most: one short function for each thing that a plugin can do.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::fault::FaultKind;
use super::oracle::{Call, body_of};
use super::plugin::{Client, Control, OutRoute};
use super::world::{CHANNELS, IDEMPOTENT, METHODS, PATTERNS, World};
use crate::error::{Code, Fault};
use crate::id::Pattern;
use crate::peer::{CommandError, Opening, RequestOptions, SendOptions};
use crate::wire::body::{self, Overflow, Register, RouteKind, Signal, Subscribe, Unregister};
use crate::wire::{ContentType, Flags, FrameBuilder, FrameView, scan_frame};

impl World {
    /// One plugin asks for something or sends something.
    pub(super) fn command(&mut self) -> bool {
        let Some(index) = self.any_plugin(Client::is_ready) else { return false };
        let mut client = self.plugins[index].client.take().expect("it was found just now");
        if !self.is_full(client.link) {
            let hostile = self.plugins[index].hostile;
            if hostile && self.random.one_in(6) {
                self.misbehave(&mut client, index);
            } else {
                self.command_of(&mut client, index);
            }
            self.flush(&mut client, index);
        }
        self.plugins[index].client = Some(client);
        true
    }

    fn command_of(&mut self, client: &mut Client, index: usize) {
        let now = self.moment();
        match self.random.below(40) {
            0..9 => self.open(client),
            9..18 => self.request(client),
            18..28 => self.send(client, RouteKind::Channel),
            28..33 => {
                let kind =
                    if self.random.one_in(4) { RouteKind::Broadcast } else { RouteKind::Topic };
                self.send(client, kind);
            }
            33 | 34 => self.subscribe(client),
            35 => {
                if let Some(at) = self.random.pick(&[0, 1, 2]).copied()
                    && at < client.subscriptions.len()
                {
                    let gone = client.subscriptions.remove(at);
                    let id = client.peer.unsubscribe(gone.number, now).expect("it is ready");
                    client.controls.insert(id, Control::Other);
                }
            }
            36 => {
                let calls: Vec<u64> = client.calls.iter().copied().collect();
                if let Some(&id) = self.random.pick(&calls) {
                    self.faults.note(FaultKind::Cancel);
                    client.peer.cancel(id, now);
                }
            }
            37 if self.random.one_in(3) => {
                if let Some(OutRoute { route, .. }) = self.random.pick(&client.out).cloned() {
                    self.faults.note(FaultKind::CloseRoute);
                    client.out.retain(|out| out.route != route);
                    if let Some(stream) = self.oracle.streams.get_mut(&route) {
                        stream.open = false;
                    }
                    let id = client.peer.close(crate::id::RouteId(route), now);
                    client.controls.insert(id.expect("the route is open"), Control::Other);
                }
            }
            38 => self.signal(client),
            39 if self.random.one_in(4) && client.registered => {
                self.faults.note(FaultKind::Unregister);
                let body = Unregister {
                    methods: vec![(*self.random.pick(&METHODS).expect("some")).to_owned()],
                    channels: vec![(*self.random.pick(&CHANNELS).expect("some")).to_owned()],
                    services: Vec::new(),
                };
                client.unregistered.extend(body.channels.iter().cloned());
                client.is_innocent = true;
                if let Some(known) = self.supervisor_of(index) {
                    self.supervisors[known].took_back = true;
                }
                let id = client.peer.unregister(&body, now).expect("it is ready");
                client.controls.insert(id, Control::Other);
            }
            39 if !self.plugins[index].is_client && self.random.one_in(2) => {
                self.register(client, index);
            }
            _ => {
                let what = if self.random.one_in(2) { "plugins" } else { "plugin" };
                let id = (what == "plugin").then(|| self.plugins[index].id.clone());
                let body = body::Query { what: what.to_owned(), id };
                let id = client.peer.query(&body, now).expect("it is ready");
                client.controls.insert(id, Control::Other);
            }
        }
    }

    /// The first thing that a plugin does.
    pub(super) fn greet(&mut self, client: &mut Client, index: usize) {
        self.stats.sessions += 1;
        let plugin = &mut self.plugins[index];
        if plugin.is_client {
            return;
        }
        assert!(
            client.incarnation > plugin.incarnation,
            "an incarnation is {} after {}",
            client.incarnation,
            plugin.incarnation
        );
        plugin.incarnation = client.incarnation;
        self.register(client, index);
        let ready = Signal { name: "ready".to_owned(), ..Signal::default() };
        client.peer.signal(&ready, self.moment()).expect("it is ready");
    }

    fn register(&mut self, client: &mut Client, index: usize) {
        let method = |name: &&str| body::Method {
            name: (*name).to_owned(),
            idempotent: *name == IDEMPOTENT,
            ..body::Method::default()
        };
        let channel = |name: &&str| body::Channel { name: (*name).to_owned(), help: None };
        let services = if index == 1 || index == 2 { vec!["pool".to_owned()] } else { Vec::new() };
        let body = Register {
            methods: METHODS.iter().map(method).collect(),
            channels: CHANNELS.iter().map(channel).collect(),
            services,
        };
        let id = client.peer.register(&body, self.moment()).expect("it is ready");
        client.controls.insert(id, Control::Register);
        client.unregistered.clear();
    }

    fn open(&mut self, client: &mut Client) {
        let kind = match self.random.below(8) {
            0..3 => RouteKind::Method,
            3..6 => RouteKind::Channel,
            6 => RouteKind::Topic,
            _ => RouteKind::Broadcast,
        };
        let name = self.any_name(kind);
        if let Ok(Opening::Pending(id)) = client.peer.open(kind, &name, self.moment()) {
            client.openings.insert(id, name);
        }
    }

    fn request(&mut self, client: &mut Client) {
        let methods: Vec<OutRoute> =
            client.out.iter().filter(|out| out.kind == RouteKind::Method).cloned().collect();
        let Some(out) = self.random.pick(&methods).cloned() else { return };
        let timeout = match self.random.below(6) {
            0 => {
                self.faults.note(FaultKind::ShortDeadline);
                Some(Duration::from_millis(self.random.range(1, 20) as u64))
            }
            1 => Some(Duration::from_millis(self.random.range(100, 5_000) as u64)),
            _ => None,
        };
        let no_reply = self.random.one_in(8);
        let options = RequestOptions { timeout, no_reply, ..RequestOptions::default() };
        let (serial, body) = self.new_body();
        let route = crate::id::RouteId(out.route);
        match client.peer.request(route, &body, &options, self.moment()) {
            Ok(id) => {
                self.stats.requests += 1;
                let timeout = timeout.unwrap_or(crate::limit::CALL_TIMEOUT);
                let expires = self.now.unix + timeout.as_nanos() as u64;
                let sent_at = self.now.mono;
                let call = Call::new(out.route, serial, expires, out.is_idempotent)
                    .to(&out.target, sent_at);
                self.oracle.note_call(client.session, id, call);
                if !no_reply {
                    client.calls.insert(id);
                }
            }
            Err(CommandError::Fault(fault)) => super::oracle::check_refusal(&fault),
            Err(error) => panic!("a request on an open route: {error}"),
        }
    }

    fn send(&mut self, client: &mut Client, kind: RouteKind) {
        let routes: Vec<u32> =
            client.out.iter().filter(|out| out.kind == kind).map(|out| out.route).collect();
        let Some(&route) = self.random.pick(&routes) else { return };
        if self.oracle.stream(route).raw {
            return;
        }
        for _ in 0..self.random.range(1, 4) {
            let (serial, body) = self.new_body();
            let key = if self.random.one_in(2) { self.random.below(4) as u64 } else { 0 };
            let options = SendOptions { key, ..SendOptions::default() };
            match client.peer.send(crate::id::RouteId(route), &body, &options, self.moment()) {
                Ok(id) => {
                    let step = self.step;
                    let stream = self.oracle.stream(route);
                    assert_eq!(id, stream.sent.len() as u64 + 1, "ids count up");
                    stream.push(serial, body.len(), step);
                    match kind {
                        RouteKind::Channel => self.stats.messages += 1,
                        _ => self.stats.events += 1,
                    }
                }
                Err(CommandError::WindowFull) => return,
                Err(error) => panic!("a message on an open route: {error}"),
            }
        }
    }

    fn subscribe(&mut self, client: &mut Client) {
        let pattern = *self.random.pick(&PATTERNS).expect("there are patterns");
        let overflow = match self.random.below(4) {
            0 => Overflow::DropOldest,
            1 => Overflow::DropNewest,
            2 => Overflow::Conflate,
            _ => Overflow::Block,
        };
        let small = self.random.one_in(2);
        let body = Subscribe {
            pattern: pattern.to_owned(),
            overflow,
            queue_messages: small.then(|| self.random.range(1, 6) as u64),
            queue_bytes: self.random.one_in(4).then(|| self.random.range(64, 2_000) as u64),
        };
        client.only_blocks &= overflow == Overflow::Block;
        let pattern = Pattern::parse(pattern).expect("the patterns are valid");
        let id = client.peer.subscribe(&body, self.moment()).expect("it is ready");
        client.controls.insert(id, Control::Subscribe(pattern));
    }

    fn signal(&mut self, client: &mut Client) {
        let to = self.random.one_in(2);
        let target = *self.random.pick(&super::world::PLUGINS).expect("there are plugins");
        let body = Signal {
            name: if to { "wake".to_owned() } else { "busy".to_owned() },
            to: to.then(|| target.to_owned()),
            ..Signal::default()
        };
        client.peer.signal(&body, self.moment()).expect("it is ready");
    }

    /// A handler returns, or a plugin acknowledges.
    pub(super) fn handle_something(&mut self) -> bool {
        let calm = self.calm;
        let busy = |client: &Client| {
            !client.stopped
                && (client.serving.iter().any(|serving| calm || !serving.never)
                    || client.ins.values().any(|known| known.unacked() > 0))
        };
        let Some(index) = self.any_plugin(busy) else { return false };
        let mut client = self.plugins[index].client.take().expect("it was found just now");
        let unacked = client.ins.values().any(|known| known.unacked() > 0);
        let is_alive = if unacked && (self.random.one_in(2) || client.serving.is_empty()) {
            self.acknowledge(&mut client)
        } else {
            self.answer(&mut client)
        };
        if !is_alive {
            return self.crash(client);
        }
        self.flush(&mut client, index);
        self.plugins[index].client = Some(client);
        true
    }

    /// Gives `false` where a message kills the receiver.
    fn acknowledge(&mut self, client: &mut Client) -> bool {
        let slots: Vec<usize> = client
            .ins
            .iter()
            .filter(|(_, known)| known.unacked() > 0)
            .map(|(&slot, _)| slot)
            .collect();
        let Some(slot) = self.random.pick(&slots).copied() else { return true };
        let known = client.ins.get_mut(&slot).expect("it was listed just now");
        let count = known.unacked();
        let id = match (self.calm, self.random.one_in(2)) {
            (true, _) | (_, true) => known.next.unwrap_or(1) - 1,
            _ => known.next.unwrap_or(1) - 1 - self.random.below(count as usize) as u64,
        };
        let route = known.route;
        if self.oracle.has_killer(route, known.acked + 1, id) {
            self.faults.note(FaultKind::KillingMessage);
            return false;
        }
        if count > 2 {
            self.faults.note(FaultKind::LateAck);
        }
        known.acked = id;
        if !self.oracle.is_past(route, client.session) {
            let stream = self.oracle.stream(route);
            stream.acked = stream.acked.max(id);
        }
        let now = self.moment();
        client.peer.ack(slot, id, now);
        true
    }

    /// Gives `false` where a request kills the callee.
    fn answer(&mut self, client: &mut Client) -> bool {
        let now = self.moment();
        let at = self.random.below(client.serving.len());
        let calm = self.calm;
        let Some(serving) = client.serving.get_mut(at) else { return true };
        if self.oracle.killers.contains(&serving.serial) {
            self.faults.note(FaultKind::KillingRequest);
            return false;
        }
        if !calm {
            if serving.never {
                return true;
            }
            if !serving.started && self.random.one_in(6) {
                serving.started = true;
                let call = serving.call;
                client.peer.started(call, now);
                if !serving.no_reply {
                    self.oracle.calls.get_mut(&(call.caller.0, call.id)).expect("seen").started =
                        true;
                }
                return true;
            }
            if self.random.one_in(16) {
                self.faults.note(FaultKind::NoAnswer);
                serving.never = true;
                return true;
            }
            if serving.late && serving.deadline > now.instant {
                return true;
            }
            if !serving.late && self.random.one_in(16) {
                self.faults.note(FaultKind::LateAnswer);
                serving.late = true;
                return true;
            }
        }
        let serving = client.serving.remove(at);
        let call = serving.call;
        let fails = self.random.one_in(6);
        let fault = Fault::new(Code::HandlerFailed, "it did not work");
        let size = if self.random.one_in(10) { 900 } else { 16 };
        let body = body_of(serving.serial, size);
        let result = if fails {
            self.faults.note(FaultKind::HandlerError);
            Err(&fault)
        } else {
            Ok((ContentType::Raw, &body[..]))
        };
        if client.peer.respond(call, result, now) {
            self.oracle.calls.get_mut(&(call.caller.0, call.id)).expect("seen").answered = true;
        }
        true
    }

    /// Puts what a peer has to say on the wire; now and then in smaller pieces than it thought.
    pub(super) fn flush(&mut self, client: &mut Client, _index: usize) {
        let output = client.peer.output().split().freeze();
        let Some(link) = self.link_index(client.link) else { return };
        if output.is_empty() && client.held.is_none() {
            return;
        }
        self.note(&output);
        let mut wire = BytesMut::with_capacity(output.len());
        let mut held = client.held.take();
        let mut rest = output;
        while !rest.is_empty() {
            let frame = scan_frame(&rest, u32::MAX).ok().flatten().expect("a peer writes frames");
            let size = frame.bytes().len();
            let route = frame.header.route.0;
            let is_same = held.as_ref().is_some_and(|(of, _)| *of == route || route == 0);
            let pieces = self.chop(&frame);
            if held.is_some() {
                if is_same || self.random.one_in(2) {
                    let (_, pieces) = held.take().expect("something is held");
                    pieces.iter().for_each(|piece| wire.extend_from_slice(piece));
                } else {
                    self.faults.note(FaultKind::Interleaved);
                }
            }
            match pieces {
                Some(mut pieces) => {
                    self.faults.note(FaultKind::Chunked);
                    wire.extend_from_slice(&pieces.remove(0));
                    if held.is_none() {
                        held = Some((route, pieces));
                    } else {
                        pieces.iter().for_each(|piece| wire.extend_from_slice(piece));
                    }
                }
                None => wire.extend_from_slice(&rest[..size]),
            }
            rest = rest.slice(size..);
        }
        if let Some((route, pieces)) = held {
            if self.calm || client.leaving || self.random.one_in(3) {
                pieces.iter().for_each(|piece| wire.extend_from_slice(piece));
            } else {
                client.held = Some((route, pieces));
            }
        }
        if !self.links[link].peer_gone {
            self.links[link].up.extend_from_slice(&wire);
        }
    }

    /// Cuts a frame into chunks, as a library with smaller frames would have.
    fn chop(&mut self, frame: &FrameView<'_>) -> Option<Vec<Bytes>> {
        let header = &frame.header;
        let plain = header.flags.0 & (Flags::MORE | Flags::COMPRESSED | Flags::CHECKSUM) == 0;
        if !plain || !header.kind.is_chunkable() || header.route.0 == 0 || !self.random.one_in(10) {
            return None;
        }
        let body = frame.body();
        let count = self.random.range(2, 4).min(body.len().max(2));
        let step = body.len().div_ceil(count).max(1);
        let mut pieces = Vec::new();
        for part in 0..count {
            let piece = &body[(part * step).min(body.len())..((part + 1) * step).min(body.len())];
            let more = if part + 1 < count { Flags::MORE } else { 0 };
            let builder = FrameBuilder {
                kind: header.kind,
                flags: header.flags.without(Flags::EXTENDED).with(more),
                route: header.route,
                message_id: header.message_id,
                session: header.session,
                timestamp: header.timestamp,
            };
            let extension = if part == 0 { frame.extension() } else { &[] };
            pieces.push(builder.build(extension, piece));
        }
        Some(pieces)
    }
}

/// Size of a frame at the start of bytes that may be cut.
pub(super) fn whole_frames(bytes: &[u8]) -> usize {
    let mut size = 0;
    while let Ok(Some(frame)) = scan_frame(&bytes[size..], u32::MAX) {
        size += frame.bytes().len();
    }
    size
}
