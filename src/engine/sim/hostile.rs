//! Malice: frames that no honest peer sends. Each has to be answered, or to end the connection, and
//! nobody else may notice.

use bytes::Bytes;

use super::fault::FaultKind;
use super::oracle::body_of;
use super::plugin::Client;
use super::world::World;
use crate::error::Code;
use crate::id::{RouteId, SessionId};
use crate::limit;
use crate::wire::body::{self, RouteKind, Subscribe};
use crate::wire::{CallReference, Flags, FrameBuilder, Kind};

impl World {
    /// One hostile act of a plugin.
    pub(super) fn misbehave(&mut self, client: &mut Client, index: usize) {
        // What it wanted to say before is said before.
        self.flush(client, index);
        match self.random.below(60) {
            0..50 => self.send_bad_frame(client),
            50..53 => self.break_framing(client),
            53 | 54 => self.overrun(client),
            55 => self.subscribe_too_often(client),
            56 => self.begin_too_much(client),
            57 => self.ask_too_much(client),
            58 => self.never_read(client),
            _ => (),
        }
    }

    /// Frames that are answered with an error while the connection goes on.
    fn send_bad_frame(&mut self, client: &Client) {
        let session = client.session;
        let own = |client: &Client, kind: RouteKind| {
            client.out.iter().find(|out| out.kind == kind).map(|out| out.route)
        };
        let frame = |kind: Kind| FrameBuilder::new(kind).session(SessionId(session));
        let reference = |caller: u64| CallReference(SessionId(caller)).to_bytes();
        let (fault, codes, bytes): (FaultKind, &[Code], Bytes) = match self.random.below(14) {
            0 => {
                let codes = &[Code::ForgedSession];
                let id = self.oracle.expect(session, codes);
                let other = self.some_session(session);
                let route = self.some_route();
                let bytes = FrameBuilder::new(Kind::MESSAGE)
                    .session(SessionId(other))
                    .route(RouteId(route))
                    .message_id(id)
                    .build(b"", &body_of(1, 8));
                (FaultKind::ForgedSession, codes, bytes)
            }
            1 => {
                let codes = &[Code::UnknownRoute];
                let id = self.oracle.expect(session, codes);
                let kinds = [Kind::MESSAGE, Kind::REQUEST, Kind::EVENT, Kind::ACK, Kind::CANCEL];
                let kind = *self.random.pick(&kinds).expect("there are kinds");
                let bytes = frame(kind).route(RouteId(4_000_000)).message_id(id).build(b"", b"");
                (FaultKind::UnknownRoute, codes, bytes)
            }
            2 => {
                // A route of somebody else, or of one's own that leads elsewhere.
                let codes = &[
                    Code::UnknownRoute,
                    Code::Unexpected,
                    Code::OutOfSequence,
                    Code::CreditOverrun,
                ];
                let route = self.some_route();
                if route == 0 {
                    return;
                }
                let id = self.oracle.expect(session, codes);
                let bytes = frame(Kind::MESSAGE).route(RouteId(route)).message_id(id);
                (FaultKind::StrangerRoute, codes, bytes.build(b"", &body_of(1, 8)))
            }
            3 => {
                let codes = &[Code::BadAck];
                let known = client.ins.values().find(|known| known.kind == RouteKind::Channel);
                let Some(known) = known else { return };
                let _now_and_then_its_route_has_ended = codes;
                let id = 1 << 40;
                let bytes = frame(Kind::ACK).route(RouteId(known.route)).message_id(id);
                self.faults.note(FaultKind::FalseAck);
                self.inject(client, &bytes.build(b"", b""));
                return;
            }
            4 => {
                let codes = &[Code::NoSuchCall, Code::UnknownRoute, Code::NotYourCall];
                let known = client.ins.values().find(|known| known.kind == RouteKind::Method);
                let Some(known) = known else { return };
                let kinds = [Kind::RESPONSE, Kind::ERROR, Kind::STARTED];
                let kind = *self.random.pick(&kinds).expect("there are kinds");
                // Late answers on a route that has ended are dropped: nothing may be expected.
                let id = 1 << 40;
                let caller = self.some_session(session);
                let bytes = frame(kind).route(RouteId(known.route)).message_id(id);
                let _codes = codes;
                self.faults.note(FaultKind::AnswerToNothing);
                self.inject(client, &bytes.build(&reference(caller), &body_of(1, 8)));
                return;
            }
            5 => {
                // Calls of others, with their own route, caller and id.
                let open: Vec<(u64, u64, u32, u64)> = self
                    .oracle
                    .calls
                    .iter()
                    .rev()
                    .take(64)
                    .filter(|((caller, _), call)| {
                        *caller != session && call.outcomes == 0 && !call.is_seen_by(session)
                    })
                    .map(|(&(caller, id), call)| (caller, id, call.route, call.serial))
                    .collect();
                let Some(&(caller, id, route, serial)) = self.random.pick(&open) else { return };
                let bytes = frame(Kind::RESPONSE).route(RouteId(route)).message_id(id);
                self.faults.note(FaultKind::AnswerForAnother);
                self.inject(client, &bytes.build(&reference(caller), &body_of(serial, 8)));
                return;
            }
            6 => {
                let Some(route) = own(client, RouteKind::Channel) else { return };
                let codes = &[Code::OutOfSequence];
                let id = self.oracle.expect(session, codes);
                let bytes = frame(Kind::MESSAGE).route(RouteId(route)).message_id(id);
                (FaultKind::OutOfSequence, codes, bytes.build(b"", &body_of(1, 8)))
            }
            7 => {
                let codes = &[Code::Unexpected];
                let id = self.oracle.expect(session, codes);
                let hello = body::encode_hello(&body::Hello {
                    versions: vec![1],
                    ..body::Hello::default()
                });
                (
                    FaultKind::SecondHello,
                    codes,
                    frame(Kind::HELLO).message_id(id).build(b"", &hello),
                )
            }
            8 => {
                let codes = &[Code::UnknownType];
                let id = self.oracle.expect(session, codes);
                let kind = *self.random.pick(&[0, 21, 29, 36, 99, 255]).expect("some");
                (FaultKind::UnknownType, codes, frame(Kind(kind)).message_id(id).build(b"", b""))
            }
            9 => {
                let codes = &[Code::Unexpected, Code::UnknownType];
                let id = self.oracle.expect(session, codes);
                let kinds = [Kind::WELCOME, Kind::ANNOUNCE, Kind::CREDIT, Kind::GAP];
                let kind = *self.random.pick(&kinds).expect("there are kinds");
                (FaultKind::WrongDirection, codes, frame(kind).message_id(id).build(b"", b""))
            }
            10 => {
                let codes = &[Code::Unsupported];
                let id = self.oracle.expect(session, codes);
                let flag = *self.random.pick(&[Flags::POOLED, Flags::ENCRYPTED]).expect("some");
                let bytes = frame(Kind::MESSAGE).route(RouteId(1)).flags(flag).message_id(id);
                (FaultKind::Unagreed, codes, bytes.build(b"", &body_of(1, 8)))
            }
            11 => {
                let codes = &[Code::Malformed, Code::BadName, Code::NotFound, Code::Denied];
                let id = self.oracle.expect(session, codes);
                let kinds =
                    [Kind::OPEN, Kind::SUBSCRIBE, Kind::REGISTER, Kind::QUERY, Kind::SIGNAL];
                let kind = *self.random.pick(&kinds).expect("there are kinds");
                let bodies: [&[u8]; 5] =
                    [b"", b"\xc1", b"\x91\x91\x91\x91", b"\x81\xa1a", b"\xdd\xff\xff\xff\xff"];
                let body = *self.random.pick(&bodies).expect("there are bodies");
                (FaultKind::Malformed, codes, frame(kind).message_id(id).build(b"", body))
            }
            12 => {
                let codes = &[Code::Denied, Code::NotFound, Code::BadName];
                let id = self.oracle.expect(session, codes);
                let names = ["plugbus.dead", "nobody.there", "..", "x/y/z", ""];
                let kinds =
                    [RouteKind::Topic, RouteKind::Method, RouteKind::Channel, RouteKind::Method];
                let at = self.random.below(kinds.len());
                let body = body::Open { kind: kinds[at], name: names[at].to_owned() };
                let bytes = frame(Kind::OPEN).message_id(id).build(b"", &body::encode(&body));
                (FaultKind::Malformed, codes, bytes)
            }
            _ => {
                let codes = &[Code::TooLarge];
                let id = self.oracle.expect(session, codes);
                let bytes = frame(Kind::PING).message_id(id).build(b"", &[7; limit::PING_MAX + 1]);
                (FaultKind::Malformed, codes, bytes)
            }
        };
        let _noted = codes;
        self.faults.note(fault);
        self.inject(client, &bytes);
    }

    /// Bytes after which nothing can be trusted: the connection ends.
    fn break_framing(&mut self, client: &mut Client) {
        let session = SessionId(client.session);
        let mut bytes =
            FrameBuilder::new(Kind::PING).session(session).build(b"", &body_of(1, 16)).to_vec();
        let fault = match self.random.below(4) {
            0 => {
                bytes[3] |= 0xF0;
                FaultKind::ReservedBits
            }
            1 => {
                bytes[32..36].copy_from_slice(&(limit::PAYLOAD_MAX + 1).to_le_bytes());
                FaultKind::Oversized
            }
            2 => {
                *bytes.last_mut().expect("it has a trailer") = 1;
                FaultKind::BadTrailer
            }
            _ => {
                bytes = self.random.next().to_le_bytes().to_vec();
                bytes[0] |= 0x80;
                FaultKind::Garbage
            }
        };
        self.faults.note(fault);
        client.leaving = true;
        self.inject(client, &bytes);
    }

    /// Far more bytes of messages than the window.
    fn overrun(&mut self, client: &Client) {
        let fresh = client.out.iter().find(|out| {
            out.kind == RouteKind::Channel && self.oracle.streams[&out.route].sent.is_empty()
        });
        let Some(out) = fresh.cloned() else { return };
        self.faults.note(FaultKind::CreditOverrun);
        let step = self.step;
        for id in 1..=6 {
            let serial = self.oracle.next_serial();
            let body = body_of(serial, 400 << 10);
            let stream = self.oracle.stream(out.route);
            stream.raw = true;
            stream.push(serial, body.len(), step);
            let frame = FrameBuilder::new(Kind::MESSAGE)
                .session(SessionId(client.session))
                .route(RouteId(out.route))
                .message_id(id)
                .build(b"", &body);
            self.inject(client, &frame);
        }
    }

    fn subscribe_too_often(&mut self, client: &mut Client) {
        if client.dies_at.is_some() {
            return;
        }
        self.faults.note(FaultKind::TooManySubscriptions);
        let body = body::encode(&Subscribe { pattern: "never".to_owned(), ..Subscribe::default() });
        let codes = &[Code::Refused];
        let last = self.oracle.expect(client.session, codes);
        for count in 0..=limit::SUBSCRIPTIONS_MAX {
            let id = if count < limit::SUBSCRIPTIONS_MAX { 1 << 41 } else { last };
            let frame = FrameBuilder::new(Kind::SUBSCRIBE)
                .session(SessionId(client.session))
                .message_id(id)
                .build(b"", &body);
            self.inject(client, &frame);
        }
        client.dies_at = Some(self.step + 60);
    }

    /// More unfinished messages than allowed.
    fn begin_too_much(&mut self, client: &mut Client) {
        let Some(out) = client.out.first().cloned() else { return };
        if client.dies_at.is_some() {
            return;
        }
        self.faults.note(FaultKind::TooManyChunks);
        let last = self.oracle.expect(client.session, &[Code::Refused]);
        for count in 0..=limit::ASSEMBLIES_MAX as u64 {
            let id = if count < limit::ASSEMBLIES_MAX as u64 { (1 << 42) + count } else { last };
            let frame = FrameBuilder::new(Kind::REQUEST)
                .session(SessionId(client.session))
                .route(RouteId(out.route))
                .flags(Flags::MORE)
                .message_id(id)
                .build(b"", b"piece");
            self.inject(client, &frame);
        }
        client.dies_at = Some(self.step + 60);
        client.leaving = true;
    }

    /// Requests with more bytes than may be unanswered.
    fn ask_too_much(&mut self, client: &mut Client) {
        let out = client.out.iter().find(|out| out.kind == RouteKind::Method).cloned();
        let Some(out) = out.filter(|_| client.dies_at.is_none() && self.random.one_in(4)) else {
            return;
        };
        self.faults.note(FaultKind::TooManyRequests);
        let body = body_of(0, limit::PAYLOAD_MAX as usize);
        let refusals =
            [Code::Refused, Code::Offline, Code::NotFound, Code::Timeout, Code::PeerDied];
        for _ in 0..=limit::REQUEST_BYTES_MAX / u64::from(limit::PAYLOAD_MAX) {
            let serial = 0;
            let id = (1 << 43) + self.oracle.next_serial();
            let call = super::oracle::Call::new(out.route, serial, u64::MAX, out.is_idempotent);
            self.oracle.note_call(client.session, id, call);
            let frame = FrameBuilder::new(Kind::REQUEST)
                .session(SessionId(client.session))
                .route(RouteId(out.route))
                .message_id(id)
                .build(b"", &body);
            self.inject(client, &frame);
        }
        let _refusals = refusals;
        client.dies_at = Some(self.step + 60);
        client.leaving = true;
    }

    /// Questions without end from somebody who never reads an answer: it is thrown out.
    fn never_read(&mut self, client: &mut Client) {
        if !self.random.one_in(4) {
            return;
        }
        self.faults.note(FaultKind::Unread);
        let ping = FrameBuilder::new(Kind::PING)
            .session(SessionId(client.session))
            .build(b"", &[7; limit::PING_MAX]);
        let count = limit::CONTROL_QUEUE_BYTES_MAX as usize / ping.len() + 10;
        let all = ping.repeat(count);
        self.inject(client, &all);
        client.stopped = true;
        client.leaving = true;
    }

    fn inject(&mut self, client: &Client, bytes: &[u8]) {
        if let Some(index) = self.link_index(client.link)
            && !self.links[index].peer_gone
        {
            self.links[index].up.extend_from_slice(bytes);
        }
    }

    fn some_session(&mut self, not: u64) -> u64 {
        let sessions: Vec<u64> = self
            .plugins
            .iter()
            .filter_map(|plugin| plugin.client.as_ref())
            .map(|client| client.session)
            .filter(|&session| session != not)
            .collect();
        self.random.pick(&sessions).copied().unwrap_or(77)
    }

    fn some_route(&mut self) -> u32 {
        let routes: Vec<u32> = self.oracle.streams.keys().copied().collect();
        self.random.pick(&routes).copied().unwrap_or(0)
    }
}
