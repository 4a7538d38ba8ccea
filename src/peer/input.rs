//! Bytes from the socket, and what each frame in them means.
//!
//! The file is longer than most: one function for each type of frame that a broker may send.

use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::channel_in::RouteIn;
use super::output::Head;
use super::run::{MessageRun, attempt_of};
use super::{CallId, Moment, Payload, Peer, PeerEvent, Progress, State};
use crate::error::{Code, Fault, FrameError};
use crate::id::RouteId;
use crate::wire::body::{self, Announce, Credit, Redelivery, RouteKind};
use crate::wire::{
    CallReference, Flags, FrameView, HEADER_SIZE, Header, Kind, RequestExtension, TRAILER_SIZE,
    scan_frame,
};

impl Peer {
    /// Takes what the socket gave. Payloads become slices of `input`; only a frame that is cut at
    /// its end is copied.
    ///
    /// # Errors
    ///
    /// The broker broke the framing; the connection is of no more use. The error is sticky.
    pub fn handle_input(&mut self, input: Bytes, now: Moment) -> Result<(), FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let outcome = self.split(input, now);
        self.failed = outcome.err();
        outcome
    }

    fn split(&mut self, mut input: Bytes, now: Moment) -> Result<(), FrameError> {
        while !self.input.is_empty() && !input.is_empty() {
            let Some(frame) = self.complete_cut_frame(&mut input)? else { continue };
            self.handle_frames(&frame, now)?;
        }
        let used = self.handle_frames(&input, now)?;
        self.input.extend_from_slice(&input[used..]);
        Ok(())
    }

    /// Adds to the frame at whose middle the last input ended just what it lacks, so that the
    /// rest of the new input needs no copy. Gives it when it is whole.
    fn complete_cut_frame(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, FrameError> {
        let size = match self.input.first_chunk::<HEADER_SIZE>() {
            Some(header) => Header::parse(header, self.output.payload_max)?.frame_size(),
            None => HEADER_SIZE,
        };
        let lacking = (size - self.input.len()).min(input.len());
        self.input.reserve(size - self.input.len());
        self.input.extend_from_slice(&input.split_to(lacking));
        let is_whole = size > HEADER_SIZE && self.input.len() == size;
        Ok(is_whole.then(|| std::mem::replace(&mut self.input, BytesMut::new()).freeze()))
    }

    /// Handles all complete frames. Gives how many bytes they took.
    fn handle_frames(&mut self, input: &Bytes, now: Moment) -> Result<usize, FrameError> {
        let mut used = 0;
        while let Some(frame) = scan_frame(&input[used..], self.output.payload_max)? {
            if is_plain_message(&frame.header) && self.collector.is_idle() {
                used = self.handle_run(input, used, &frame.header)?;
                continue;
            }
            let size = frame.bytes().len();
            let body_start = used + HEADER_SIZE + frame.header.extension_size();
            let body = body_start..body_start + frame.body().len();
            used += size;
            self.handle_frame(&frame, input, body, now);
        }
        Ok(used)
    }

    /// Handles the message at `start` and those of the same route right behind it, which is how
    /// they come when there are many. Gives the end of the last one.
    fn handle_run(
        &mut self,
        input: &Bytes,
        start: usize,
        first: &Header,
    ) -> Result<usize, FrameError> {
        let mut end = start + first.frame_size();
        let (mut count, mut last) = (1, first.message_id);
        let outcome = loop {
            match scan_frame(&input[end..], self.output.payload_max) {
                Ok(Some(frame))
                    if is_plain_message(&frame.header) && frame.header.route == first.route =>
                {
                    end += frame.bytes().len();
                    count += 1;
                    last = last.max(frame.header.message_id);
                }
                Ok(_) => break Ok(end),
                Err(error) => break Err(error),
            }
        };
        if count == 1 {
            let body = start + HEADER_SIZE + first.extension_size()..end - TRAILER_SIZE;
            self.handle_message(first, input.slice(body));
            return outcome;
        }
        let frames = input.slice(start..end);
        match self.routes_in.find(first.route) {
            Some((slot, route)) => {
                let run = MessageRun::new(frames, count, route.deliver(last));
                self.events.push_back(PeerEvent::Messages { slot, run });
            }
            None => {
                for message in MessageRun::new(frames, count, RouteIn::FRESH) {
                    self.not_announced(&Header { message_id: message.id, ..*first });
                }
            }
        }
        outcome
    }

    fn handle_frame(
        &mut self,
        frame: &FrameView<'_>,
        input: &Bytes,
        body: Range<usize>,
        now: Moment,
    ) {
        let header = &frame.header;
        if header.flags.0 & (Flags::MORE | Flags::COMPRESSED) == 0 && self.collector.is_idle() {
            return self.handle_whole(header, frame, input.slice(body), now);
        }
        self.handle_odd(frame, input, body, now);
    }

    /// A chunk, or a compressed frame.
    #[cold]
    fn handle_odd(
        &mut self,
        frame: &FrameView<'_>,
        input: &Bytes,
        body: Range<usize>,
        now: Moment,
    ) {
        let header = &frame.header;
        let body = if header.flags.has(Flags::COMPRESSED) {
            match frame.unpacked_body(self.output.payload_max) {
                Ok(body) => body,
                Err(fault) => return self.handle_unreadable(frame, fault, now),
            }
        } else {
            input.slice(body)
        };
        let more = header.flags.has(Flags::MORE);
        if !(more || self.collector.has(frame)) {
            return self.handle_whole(header, frame, body, now);
        }
        match self.collector.push(frame, &body, more, self.output.message_max) {
            Ok(None) => (),
            Ok(Some(whole)) => {
                self.handle_payload(&whole.header, whole.deadline_ms, whole.body, now);
            }
            Err(fault) => self.handle_unreadable(frame, fault, now),
        }
    }

    /// Somebody's content cannot be read. A caller has to be told; of the rest the owner is.
    fn handle_unreadable(&mut self, frame: &FrameView<'_>, fault: Fault, now: Moment) {
        if frame.header.kind == Kind::REQUEST {
            self.refuse(&frame.header, &fault, now);
        }
        if frame.header.kind == Kind::RESPONSE {
            self.handle_answer(&frame.header, Err(fault));
            return;
        }
        if frame.header.kind == Kind::MESSAGE
            && let Some((_, route)) = self.routes_in.find(frame.header.route)
        {
            route.deliver(frame.header.message_id);
        }
        self.fault(&frame.header, fault);
    }

    fn handle_whole(&mut self, header: &Header, frame: &FrameView<'_>, body: Bytes, now: Moment) {
        if self.state == State::Connecting {
            return self.handle_handshake(header, &body);
        }
        match header.kind {
            Kind::REQUEST => {
                let deadline_ms = RequestExtension::of(frame).deadline_ms;
                self.handle_payload(header, deadline_ms, body, now);
            }
            kind if kind.is_chunkable() => self.handle_payload(header, 0, body, now),
            Kind::ERROR => {
                let fault = body::decode_fault(&body).unwrap_or_else(|fault| fault);
                self.handle_answer(header, Err(fault));
            }
            Kind::STARTED => {
                if self.calls_out.set_started(header.route, header.message_id) {
                    self.events.push_back(PeerEvent::Started { id: header.message_id });
                }
            }
            Kind::CANCEL => {
                let Some(CallReference(caller)) = CallReference::of(frame) else {
                    return self.malformed(header, "cancel without a call reference");
                };
                let call = CallId { caller, id: header.message_id, route: header.route };
                if self.calls_in.end(call).is_some() {
                    self.events.push_back(PeerEvent::Cancelled { call });
                }
            }
            Kind::ACK => self.handle_ack(header, &body),
            Kind::PING => {
                let pong = Head::control(Kind::PONG, header.message_id, now.unix);
                self.output.append(&pong, &[], &body);
            }
            Kind::PONG => (),
            _ => {
                if let Err(fault) = self.handle_notice(header, &body) {
                    let body = self.fault_body(&fault);
                    let (route, id) = (header.route, header.message_id);
                    self.append(Kind::ERROR, route, id, now, &[], &body);
                    self.fault(header, fault);
                }
            }
        }
    }

    fn handle_handshake(&mut self, header: &Header, body: &[u8]) {
        let refused = match header.kind {
            Kind::WELCOME => match body::decode(body) {
                Ok(welcome) => return self.welcome(welcome),
                Err(fault) => fault,
            },
            Kind::ERROR => body::decode_fault(body).unwrap_or_else(|fault| fault),
            kind => Fault::new(Code::Unexpected, format!("the broker's first frame is a {kind}")),
        };
        self.state = State::Closed;
        self.events.push_back(PeerEvent::Refused(refused));
    }

    /// The part of a message or an event that is the same for whole frames and joined chunks.
    fn handle_payload(&mut self, header: &Header, deadline_ms: u32, body: Bytes, now: Moment) {
        match header.kind {
            Kind::MESSAGE => self.handle_message(header, body),
            Kind::EVENT | Kind::BROADCAST => self.handle_event(header, body),
            Kind::REQUEST => self.handle_request(header, deadline_ms, body, now),
            _ => {
                let payload = Payload { content: header.flags.content_type(), body };
                self.handle_answer(header, Ok(payload));
            }
        }
    }

    fn handle_message(&mut self, header: &Header, body: Bytes) {
        let Some((slot, route)) = self.routes_in.find(header.route) else {
            return self.not_announced(header);
        };
        let attempt = attempt_of(header.message_id, route.deliver(header.message_id));
        self.events.push_back(PeerEvent::Message {
            slot,
            id: header.message_id,
            attempt,
            timestamp: header.timestamp,
            payload: Payload { content: header.flags.content_type(), body },
        });
    }

    fn handle_event(&mut self, header: &Header, body: Bytes) {
        let Some((slot, _)) = self.routes_in.find(header.route) else {
            return self.not_announced(header);
        };
        self.events.push_back(PeerEvent::Event {
            slot,
            id: header.message_id,
            timestamp: header.timestamp,
            payload: Payload { content: header.flags.content_type(), body },
        });
    }

    fn handle_request(&mut self, header: &Header, deadline_ms: u32, body: Bytes, now: Moment) {
        let slot = match self.routes_in.find(header.route) {
            Some((slot, route)) if route.kind == RouteKind::Method => slot,
            _ => {
                let fault = Fault::new(
                    Code::UnknownRoute,
                    format!("route {} was not announced here", header.route),
                );
                self.refuse(header, &fault, now);
                return self.fault(header, fault);
            }
        };
        let call = call_of(header);
        let no_reply = header.flags.has(Flags::NO_REPLY);
        if !self.calls_in.begin(call, no_reply) {
            return self.malformed(header, "a request came twice");
        }
        let timeout = match deadline_ms {
            0 => self.call_timeout,
            milliseconds => Duration::from_millis(u64::from(milliseconds)),
        };
        self.events.push_back(PeerEvent::Request {
            slot,
            call,
            payload: Payload { content: header.flags.content_type(), body },
            deadline: now.deadline(header.timestamp, timeout),
            no_reply,
        });
    }

    /// A response or an error: for a call, for a control command, or about something we sent.
    fn handle_answer(&mut self, header: &Header, result: Result<Payload, Fault>) {
        let (route, id) = (header.route, header.message_id);
        if let Some(what) = self.calls_out.answered(route, id) {
            return self.finish(id, what, result);
        }
        let Err(fault) = result else {
            // Late: the call has had its outcome.
            return;
        };
        if let Some((_, entry)) = self.routes_out.find(route)
            && let Some(channel) = &mut entry.channel
        {
            if let Some((first, last, fault)) = channel.reject(id, fault) {
                self.events.push_back(PeerEvent::Rejected { route, first, last, fault });
            }
            return;
        }
        self.fault(header, fault);
    }

    fn handle_ack(&mut self, header: &Header, body: &[u8]) {
        let Some(accepted) = body.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)) else {
            return self.malformed(header, "ack without the accepted id");
        };
        let (route, completed) = (header.route, header.message_id);
        let channel = self.routes_out.find(route).and_then(|(_, entry)| entry.channel.as_mut());
        // The route may have ended while the ack was on its way.
        let Some(channel) = channel else { return };
        if channel.ack(accepted, completed) {
            let Progress { accepted, completed, .. } = channel.progress();
            self.events.push_back(PeerEvent::Acked { route, accepted, completed });
        } else {
            let fault = Fault::new(
                Code::BadAck,
                format!("acknowledges {accepted} and {completed}, which were never sent"),
            );
            self.fault(header, fault);
        }
    }

    /// Frames with a control body.
    fn handle_notice(&mut self, header: &Header, body: &[u8]) -> Result<(), Fault> {
        let route = header.route;
        match header.kind {
            Kind::ANNOUNCE => {
                let announce: Announce = body::decode(body)?;
                let route = RouteId(announce.route);
                let slot = self.routes_in.insert(route, RouteIn::new(announce.kind));
                let announce = Box::new(announce);
                self.events.push_back(PeerEvent::Announced { slot, announce });
            }
            Kind::CLOSE => {
                let body::Closed { reason } = body::decode(body)?;
                if let Some((slot, _)) = self.routes_in.remove(route) {
                    let reason = reason.clone();
                    self.events.push_back(PeerEvent::Retired { slot, reason });
                }
                if self.forget(route) {
                    self.events.push_back(PeerEvent::Closed { route, reason });
                }
            }
            Kind::CREDIT => {
                let Some(credit) = Credit::parse(body) else {
                    return Err(Fault::new(Code::Malformed, "credit shorter than its window"));
                };
                let channel =
                    self.routes_out.find(route).and_then(|(_, entry)| entry.channel.as_mut());
                if let Some(channel) = channel {
                    channel.set_window(credit);
                    self.events.push_back(PeerEvent::Credit { route });
                }
            }
            Kind::REDELIVERY => {
                let Some(redelivery) = Redelivery::parse(body) else {
                    return Err(Fault::new(Code::Malformed, "redelivery shorter than its range"));
                };
                if let Some((_, entry)) = self.routes_in.find(route) {
                    entry.redeliver(redelivery);
                }
            }
            Kind::GAP => self.handle_gap(header, body::decode(body)?),
            Kind::SIGNAL => {
                self.events.push_back(PeerEvent::Signal(Box::new(body::decode(body)?)));
            }
            Kind::SHUTDOWN => {
                let body::Shutdown { reason, drain_ms } = body::decode(body)?;
                self.events.push_back(PeerEvent::Shutdown { reason, drain_ms });
            }
            kind if kind.name().is_none() => {
                return Err(Fault::new(Code::UnknownType, format!("{kind} is not known here")));
            }
            kind => {
                return Err(Fault::new(Code::Unexpected, format!("{kind} from the broker")));
            }
        }
        Ok(())
    }

    /// A gap is about what we sent, about what we would have received, or, on a channel to
    /// ourselves, about both.
    fn handle_gap(&mut self, header: &Header, gap: body::Gap) {
        let (route, first) = (header.route, header.message_id);
        let body::Gap { last, cause, topic } = gap;
        let sent = self.routes_out.find(route).and_then(|(_, entry)| entry.channel.as_mut());
        let is_sent = sent.is_some();
        if let Some(channel) = sent {
            channel.give_up(first..=last);
            let cause = cause.clone();
            self.events.push_back(PeerEvent::GivenUp { route, first, last, cause });
        }
        let announced = self.routes_in.find(route).map(|(slot, entry)| {
            entry.miss(last);
            slot
        });
        if announced.is_some() || !is_sent {
            let slot = announced;
            self.events.push_back(PeerEvent::Missed { slot, first, last, cause, topic });
        }
    }

    /// Answers a request that no handler will see.
    fn refuse(&mut self, header: &Header, fault: &Fault, now: Moment) {
        if !header.flags.has(Flags::NO_REPLY) {
            let call = call_of(header);
            let extension = CallReference(call.caller).to_bytes();
            let body = self.fault_body(fault);
            self.append(Kind::ERROR, call.route, call.id, now, &extension, &body);
        }
    }

    #[cold]
    fn not_announced(&mut self, header: &Header) {
        let message = format!("{} on route {}, which was not announced", header.kind, header.route);
        self.fault(header, Fault::new(Code::UnknownRoute, message));
    }

    fn malformed(&mut self, header: &Header, message: &str) {
        self.fault(header, Fault::new(Code::Malformed, message));
    }

    fn fault(&mut self, header: &Header, fault: Fault) {
        let (route, message_id) = (header.route, header.message_id);
        self.events.push_back(PeerEvent::Fault { route, message_id, fault });
    }
}

/// A message that is one frame and needs no unpacking.
#[inline]
fn is_plain_message(header: &Header) -> bool {
    header.kind == Kind::MESSAGE && header.flags.0 & (Flags::MORE | Flags::COMPRESSED) == 0
}

fn call_of(header: &Header) -> CallId {
    CallId { caller: header.session, id: header.message_id, route: header.route }
}
