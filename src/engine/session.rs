//! Takes what one peer sends.
//!
//! Finds every complete frame of a read, gathers consecutive frames for one target into a run, and
//! hands each run to its route. What changes names or sessions goes to the router as a
//! [`Change`].
//!
//! The file is longer than most: the ways of a frame part here, and each shows where it leads.
//!
//! Invariant: a frame is either handled, answered with a fault, or ends the connection; none is
//! skipped in silence but late answers.

use std::sync::Arc;

use bytes::Bytes;

use super::effects::{Effects, Now};
use super::ledger::{Charge, Resource};
use super::port::{Port, Route};
use super::router::{Change, ChangeKind};
use super::run::{self, Run};
use crate::error::{Code, Fault, FrameError};
use crate::id::RouteId;
use crate::limit;
use crate::wire::{
    Assembler, ChunkKey, ContentType, Flags, FrameBuilder, FrameView, Header, Kind, scan_frame,
};

/// The inbound side of one session.
#[derive(Debug)]
pub struct Session {
    port: Arc<Port>,
    assembler: Assembler,
    assembled: Option<Charge>,
    /// Of the calls that nobody waits for any more, how many were known when it was last looked
    /// for their answers among the unfinished messages.
    abandoned_count: u64,
    /// Flags that this peer must not set.
    refused_flags: u16,
    /// The route of the last run, which is most often that of the next one, and the state of the
    /// table in which it was found.
    last: Option<(RouteId, u64, Route)>,
}

/// A run that is still growing.
struct Growing {
    start: usize,
    kind: Kind,
    route: RouteId,
    first: u64,
    count: u64,
    payload: u64,
    flags: Flags,
}

impl Session {
    /// The session behind a port.
    #[must_use]
    pub fn new(port: &Arc<Port>) -> Self {
        let mut refused_flags = Flags::ENCRYPTED | Flags::POOLED;
        if !port.features.lz4 {
            refused_flags |= Flags::COMPRESSED;
        }
        if !port.features.checksum {
            refused_flags |= Flags::CHECKSUM;
        }
        Self {
            port: Arc::clone(port),
            assembler: Assembler::new(limit::ASSEMBLIES_MAX, port.limits.message_max),
            assembled: None,
            abandoned_count: 0,
            refused_flags,
            last: None,
        }
    }

    /// Handles every complete frame at the start of `input` and gives the number of bytes that
    /// these take. The rest belongs before what is read next.
    ///
    /// # Errors
    ///
    /// The stream has lost its framing. The peer has been told; the session must be ended.
    pub fn handle_input(
        &mut self,
        input: &Bytes,
        now: Now,
        fx: &mut Effects,
    ) -> Result<usize, FrameError> {
        self.port.heard(now);
        self.drop_abandoned();
        let mut offset = 0;
        let mut growing: Option<Growing> = None;
        let outcome = loop {
            let frame = match scan_frame(&input[offset..], limit::PAYLOAD_MAX) {
                Ok(Some(frame)) => frame,
                Ok(None) => break Ok(offset),
                Err(error) => break Err(error),
            };
            let size = frame.bytes().len();
            if let Some(run) = &mut growing
                && self.extends(run, &frame.header)
            {
                run.count += 1;
                run.payload += u64::from(frame.header.payload_size);
                run.flags = run.flags.with(frame.header.flags.0);
            } else {
                self.end_run(growing.take(), input, offset, now, fx);
                growing = self.handle_frame(&frame, offset, now, fx);
            }
            offset += size;
        };
        let end = outcome.unwrap_or(offset);
        self.end_run(growing, input, end, now, fx);
        if let Err(error) = outcome {
            self.port.push_fault(RouteId::CONTROL, 0, &error.into(), now, fx);
            self.port.drain(&error.to_string(), fx);
        }
        fx.finish();
        outcome
    }

    /// The shared side.
    #[must_use]
    pub fn port(&self) -> &Arc<Port> {
        &self.port
    }

    /// Bytes of unfinished chunked messages, for checks.
    #[must_use]
    pub fn assembled_bytes(&self) -> u64 {
        self.assembler.bytes()
    }

    /// Whether a frame continues the run: same target, next id, nothing that needs a closer look.
    #[inline]
    fn extends(&self, run: &Growing, header: &Header) -> bool {
        let closer_look = self.refused_flags | Flags::MORE | Flags::COMPRESSED;
        header.route == run.route
            && header.kind == run.kind
            && header.session == self.port.session
            && header.flags.0 & closer_look == 0
            && (header.message_id == run.first.wrapping_add(run.count)
                || !Self::is_sequence(run.kind))
            && self.assembler.is_empty()
    }

    /// Types whose ids are consecutive within a run. Requests and answers are looked at one by one.
    #[inline]
    fn is_sequence(kind: Kind) -> bool {
        matches!(kind, Kind::MESSAGE | Kind::EVENT | Kind::BROADCAST)
    }

    /// Looks at one frame that does not continue a run. Gives the run that it begins.
    fn handle_frame(
        &mut self,
        frame: &FrameView<'_>,
        offset: usize,
        now: Now,
        fx: &mut Effects,
    ) -> Option<Growing> {
        let header = &frame.header;
        if let Err(fault) = self.check(frame) {
            self.port.push_fault(header.route, header.message_id, &fault, now, fx);
            let key = ChunkKey::of(frame);
            let has_more = header.flags.has(Flags::MORE) && header.kind.is_chunkable();
            if has_more || self.assembler.is_unfinished(key) {
                // Without this chunk the message cannot become whole.
                self.assembler.refuse(key, has_more);
                self.charge_assembled();
            }
            return None;
        }
        if header.route == RouteId::CONTROL || !Self::is_traffic(header.kind) {
            if let Err(fault) = self.handle_control(frame, now, fx) {
                self.port.push_fault(header.route, header.message_id, &fault, now, fx);
            }
            return None;
        }
        let key = ChunkKey::of(frame);
        if header.flags.has(Flags::MORE) || self.assembler.is_unfinished(key) {
            self.handle_chunk(key, frame, now, fx);
            return None;
        }
        Some(Growing {
            start: offset,
            kind: header.kind,
            route: header.route,
            first: header.message_id,
            count: 1,
            payload: u64::from(header.payload_size),
            flags: header.flags,
        })
    }

    fn handle_chunk(&mut self, key: ChunkKey, frame: &FrameView<'_>, now: Now, fx: &mut Effects) {
        if !self.assembler.is_unfinished(key) && is_abandoned(&self.port, key) {
            // The last chunk, which has no `more`, is answered for like any late answer.
            return;
        }
        let outcome = self.assembler.push(key, frame);
        self.charge_assembled();
        match outcome {
            Ok(None) => (),
            Ok(Some(bytes)) => {
                let run = Run {
                    first: key.message_id,
                    count: 1,
                    payload: run::payload_size(&bytes),
                    flags: run::all_flags(&bytes),
                    bytes,
                };
                self.handle_run(key.kind, key.route, run, now, fx);
            }
            Err(fault) => self.port.push_fault(key.route, key.message_id, &fault, now, fx),
        }
    }

    /// Drops unfinished answers to calls that have ended: whoever was told to stop may well stop
    /// between two chunks.
    fn drop_abandoned(&mut self) {
        let count = self.port.abandoned_count();
        if count == self.abandoned_count {
            return;
        }
        self.abandoned_count = count;
        if !self.assembler.is_empty() {
            let port = &self.port;
            self.assembler.drop_messages(|key| is_abandoned(port, key));
            self.charge_assembled();
        }
    }

    fn charge_assembled(&mut self) {
        self.assembled = match self.assembler.bytes() {
            0 => None,
            bytes => Some(self.port.account.charge(Resource::ChunkBytes, bytes)),
        };
    }

    /// Checks what the framing does not.
    fn check(&self, frame: &FrameView<'_>) -> Result<(), Fault> {
        let header = &frame.header;
        if header.session != self.port.session {
            return Err(Fault::new(
                Code::ForgedSession,
                format!("frame bears session {}; yours is {}", header.session, self.port.session),
            ));
        }
        let refused = header.flags.0 & self.refused_flags;
        if refused != 0 {
            return Err(Fault::new(
                Code::Unsupported,
                format!("flag bits {refused:#06x} were not agreed in the hello"),
            ));
        }
        if header.flags.has(Flags::EXTENDED) && header.kind.extension_size() == 0 {
            return Err(Fault::new(
                Code::Malformed,
                format!("a frame of type {} has no extension", header.kind),
            ));
        }
        if header.flags.has(Flags::COMPRESSED) {
            if header.route == RouteId::CONTROL {
                return Err(Fault::new(Code::Unsupported, "control frames are not compressed"));
            }
            frame.unpacked_body(limit::PAYLOAD_MAX)?;
        }
        Ok(())
    }

    fn is_traffic(kind: Kind) -> bool {
        matches!(
            kind,
            Kind::REQUEST
                | Kind::RESPONSE
                | Kind::ERROR
                | Kind::STARTED
                | Kind::EVENT
                | Kind::BROADCAST
                | Kind::MESSAGE
        )
    }

    fn end_run(
        &mut self,
        growing: Option<Growing>,
        input: &Bytes,
        end: usize,
        now: Now,
        fx: &mut Effects,
    ) {
        let Some(growing) = growing else { return };
        let size = end - growing.start;
        // A slice pins the whole read buffer, which large frames make larger than usual; a small
        // run is cheaper copied.
        let bytes = if size < limit::COPY_BELOW.max(input.len() / 2) {
            Bytes::copy_from_slice(&input[growing.start..end])
        } else {
            input.slice(growing.start..end)
        };
        let Growing { first, count, payload, flags, .. } = growing;
        let run = Run { bytes, first, count, payload, flags };
        self.handle_run(growing.kind, growing.route, run, now, fx);
    }

    fn handle_run(&mut self, kind: Kind, number: RouteId, run: Run, now: Now, fx: &mut Effects) {
        let (first, count) = (run.first, run.count);
        let outcome = match (kind, self.find_route(number)) {
            (Kind::MESSAGE, Some(Route::Channel(channel)))
                if channel.sender.session == self.port.session =>
            {
                channel.handle_messages(run, now, fx)
            }
            (Kind::EVENT | Kind::BROADCAST, Some(Route::Topic(topic)))
                if topic.accepts(kind, self.port.session) =>
            {
                topic.handle_events(run, fx)
            }
            (Kind::REQUEST, Some(Route::Method(method)))
                if method.owner.session == self.port.session =>
            {
                method.handle_requests(&run, now, fx);
                Ok(())
            }
            (Kind::RESPONSE | Kind::ERROR | Kind::STARTED, Some(Route::Method(method))) => {
                method.handle_answers(&self.port, &run, now, fx);
                Ok(())
            }
            (Kind::RESPONSE | Kind::ERROR | Kind::STARTED, None)
                if self.port.routes.lock().may_have_ended(number) =>
            {
                Ok(())
            }
            (_, None) => Err(unknown_route(number)),
            (kind, Some(_)) => Err(Fault::new(
                Code::Unexpected,
                format!("a frame of type {kind} does not go on route {number} from this side"),
            )),
        };
        let Err(fault) = outcome else { return };
        // Each message that was refused has its answer; those before `expected` were accepted.
        let expected = fault.details.get("expected").and_then(serde_json::Value::as_u64);
        let refused = match expected {
            Some(expected) if expected > first => expected - first,
            _ => 0,
        };
        for offset in refused.min(count - 1)..count {
            let id = first.wrapping_add(offset);
            self.port.push_fault(number, id, &fault, now, fx);
        }
    }

    fn handle_control(
        &mut self,
        frame: &FrameView<'_>,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), Fault> {
        let header = &frame.header;
        match header.kind {
            Kind::PING => {
                if frame.body().len() > limit::PING_MAX {
                    return Err(Fault::new(
                        Code::TooLarge,
                        format!("a ping carries at most {} bytes", limit::PING_MAX),
                    ));
                }
                let pong = FrameBuilder::new(Kind::PONG)
                    .message_id(header.message_id)
                    .timestamp(now.unix)
                    .content(ContentType::Raw)
                    .build(b"", frame.body());
                self.port.push_control(pong, fx);
                Ok(())
            }
            Kind::PONG => {
                self.port.pong();
                Ok(())
            }
            // Never answered: the answer would be taken for that of a command with the same id.
            Kind::ERROR => Ok(()),
            Kind::ACK => self.handle_ack(header, now, fx),
            Kind::CANCEL => self.handle_cancel(header, now, fx),
            kind => {
                let kind = ChangeKind::parse(kind, header.route, frame.body())?;
                let port = Arc::clone(&self.port);
                if let ChangeKind::Close(route) = kind {
                    self.assembler.drop_route(route);
                    self.charge_assembled();
                }
                fx.change(Change::Asked { port, message_id: header.message_id, kind });
                Ok(())
            }
        }
    }

    fn handle_ack(&mut self, header: &Header, now: Now, fx: &mut Effects) -> Result<(), Fault> {
        match self.find_route(header.route) {
            Some(Route::Channel(channel)) => {
                channel.handle_ack(self.port.session, header.message_id, now, fx)
            }
            Some(_) => {
                Err(Fault::new(Code::BadAck, format!("route {} is not a channel", header.route)))
            }
            None if self.port.routes.lock().may_have_ended(header.route) => Ok(()),
            None => Err(unknown_route(header.route)),
        }
    }

    fn handle_cancel(&mut self, header: &Header, now: Now, fx: &mut Effects) -> Result<(), Fault> {
        match self.find_route(header.route) {
            Some(Route::Method(method)) if method.owner.session == self.port.session => {
                // The outcome may have crossed the cancel on its way; that is no fault.
                let _raced: Result<(), Fault> = method.cancel(header.message_id, now, fx);
                Ok(())
            }
            Some(_) => Err(Fault::new(
                Code::Unexpected,
                format!("route {} is not a method that you call", header.route),
            )),
            // The route was given up meanwhile, which ended the call too.
            None if self.port.routes.lock().may_have_ended(header.route) => Ok(()),
            None => Err(unknown_route(header.route)),
        }
    }

    fn find_route(&mut self, number: RouteId) -> Option<Route> {
        let ended = self.port.routes_ended();
        if let Some((last, then, route)) = &self.last
            && (*last, *then) == (number, ended)
        {
            return Some(route.clone());
        }
        let route = self.port.route(number)?;
        self.last = Some((number, ended, route.clone()));
        Some(route)
    }
}

/// Whether these are chunks of an answer that nobody waits for any more.
fn is_abandoned(port: &Port, key: ChunkKey) -> bool {
    key.kind == Kind::RESPONSE
        && match port.route(key.route) {
            Some(Route::Method(method)) => {
                port.abandoned.lock().contains((method.owner.session, key.message_id))
            }
            Some(_) => false,
            None => port.routes.lock().may_have_ended(key.route),
        }
}

fn unknown_route(number: RouteId) -> Fault {
    Fault::new(Code::UnknownRoute, format!("this session has no route {number}"))
}
