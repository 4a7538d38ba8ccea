//! What the owner of a peer wants sent.
//!
//! The file is longer than most: one function for each thing that a peer can be told to do.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::calls::What;
use super::channel_out::ChannelOut;
use super::output::Head;
use super::routes::RouteTable;
use super::{CallId, CommandError, Moment, Opening, Payload, Peer, RouteOut};
use crate::error::{Code, Fault};
use crate::id::RouteId;
use crate::limit;
use crate::wire::body::{self, RouteKind};
use crate::wire::{CallReference, ContentType, Flags, Kind, MessageExtension, RequestExtension};

/// How a request differs from the usual one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RequestOptions {
    /// When the caller stops waiting; none for the broker's default.
    pub timeout: Option<Duration>,
    /// Nobody waits for the answer; the request has no outcome here.
    pub no_reply: bool,
    /// What the body is.
    pub content: ContentType,
    /// Trace that the call belongs to, all zero for none.
    pub trace: [u8; 16],
    /// The caller's span.
    pub span: u64,
}

/// How a message or event differs from the usual one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SendOptions {
    /// What the body is.
    pub content: ContentType,
    /// Events with the same key replace each other where a subscriber asked for it; 0 for none.
    pub key: u64,
    /// Trace that the message belongs to, all zero for none.
    pub trace: [u8; 16],
    /// The sender's span.
    pub span: u64,
}

impl Peer {
    /// Asks for the route of a name, or gives the one that is known.
    ///
    /// # Errors
    ///
    /// [`CommandError::NoSession`].
    pub fn open(
        &mut self,
        kind: RouteKind,
        name: &str,
        now: Moment,
    ) -> Result<Opening, CommandError> {
        if let Some(route) = self.route(kind, name) {
            return Ok(Opening::Open(route));
        }
        let key = (kind, Arc::<str>::from(name));
        if let Some(&id) = self.opening.get(&key) {
            return Ok(Opening::Pending(id));
        }
        let what = What::Open { kind, name: name.to_owned() };
        let body = body::Open { kind, name: name.to_owned() };
        let id = self.ask(Kind::OPEN, RouteId::CONTROL, what, &body, now)?;
        self.opening.insert(key, id);
        Ok(Opening::Pending(id))
    }

    /// Calls a method. The id bears the outcome, unless the options say that nobody waits.
    ///
    /// # Errors
    ///
    /// No session or route, too large, or too many unanswered requests.
    #[inline]
    pub fn request(
        &mut self,
        route: RouteId,
        payload: &[u8],
        options: &RequestOptions,
        now: Moment,
    ) -> Result<u64, CommandError> {
        self.require_ready()?;
        if self.routes_out.find(route).is_none_or(|(_, entry)| entry.kind != RouteKind::Method) {
            return Err(CommandError::NoRoute(route));
        }
        self.output.require_size(payload)?;
        if !options.no_reply {
            self.calls_out.check_limits()?;
        }
        let id = self.calls_out.next_id();
        let flags = if options.no_reply { Flags::NO_REPLY } else { 0 };
        let head = Head {
            kind: Kind::REQUEST,
            route,
            id,
            content: options.content,
            flags,
            unix: now.unix,
        };
        let size = match options.extension() {
            Some(extension) => self.output.append(&head, &extension, payload),
            None => self.output.append(&head, &[], payload),
        };
        if !options.no_reply {
            let timeout = options.timeout.unwrap_or(self.call_timeout);
            let deadline = now.instant + timeout.min(Self::TIMEOUT_MAX) + self.settings.grace;
            let what = What::Request { route, size, started: false, timeout };
            self.calls_out.insert(id, what, deadline);
        }
        Ok(id)
    }

    /// Gives up a call. Its outcome still comes: the broker's word, or the callee's if that was
    /// faster.
    pub fn cancel(&mut self, id: u64, now: Moment) {
        if let Some(route) = self.calls_out.route_of(id).filter(|&route| route != RouteId::CONTROL)
        {
            self.append(Kind::CANCEL, route, id, now, &[], &[]);
        }
    }

    /// Answers a request. Nothing is sent where nobody waits any more. False then.
    ///
    /// An answer that is too large becomes the fault that says so, because the caller has to have
    /// some outcome.
    pub fn respond(
        &mut self,
        call: CallId,
        result: Result<(ContentType, &[u8]), &Fault>,
        now: Moment,
    ) -> bool {
        if self.calls_in.end(call) != Some(false) || !self.is_ready() {
            return false;
        }
        let too_large = result.ok().and_then(|(_, body)| self.output.require_size(body).err());
        let extension = CallReference(call.caller).to_bytes();
        let fault = match (&result, &too_large) {
            (Err(fault), _) => Some(*fault),
            (_, Some(CommandError::Fault(fault))) => Some(fault),
            _ => None,
        };
        match (fault, result) {
            (None, Ok((content, body))) => {
                let (route, id) = (call.route, call.id);
                let head =
                    Head { kind: Kind::RESPONSE, route, id, content, flags: 0, unix: now.unix };
                self.output.append(&head, &extension, body);
            }
            (fault, _) => {
                let fault = fault.expect("an answer that is not `Ok` has a fault");
                let body = self.fault_body(fault);
                self.append(Kind::ERROR, call.route, call.id, now, &extension, &body);
            }
        }
        true
    }

    /// Confirms that the handler of a request runs. Nothing is sent where nobody waits.
    pub fn started(&mut self, call: CallId, now: Moment) {
        if self.calls_in.wants_reply(call) {
            let extension = CallReference(call.caller).to_bytes();
            self.append(Kind::STARTED, call.route, call.id, now, &extension, &[]);
        }
    }

    /// Sends a message, an event or a broadcast, whichever the route is for. The id is the next
    /// number of that route.
    ///
    /// # Errors
    ///
    /// No session or route, too large, or a window that is used up.
    #[inline]
    pub fn send(
        &mut self,
        route: RouteId,
        payload: &[u8],
        options: &SendOptions,
        now: Moment,
    ) -> Result<u64, CommandError> {
        self.require_ready()?;
        self.output.require_size(payload)?;
        let (kind, channel) = stream_out(&mut self.routes_out, route)?;
        let id = channel.next().ok_or(CommandError::WindowFull)?;
        let head = Head { kind, route, id, content: options.content, flags: 0, unix: now.unix };
        let size = match options.extension() {
            Some(extension) => self.output.append(&head, &extension, payload),
            None => self.output.append(&head, &[], payload),
        };
        channel.sent(size);
        Ok(id)
    }

    /// Sends several, in order, until one cannot be sent or `output_max` bytes wait to be written.
    /// Gives the ids of those that were, at least one unless there are no payloads.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), where the first one cannot be sent.
    #[inline]
    pub fn send_many<B: AsRef<[u8]>>(
        &mut self,
        route: RouteId,
        payloads: &[B],
        options: &SendOptions,
        now: Moment,
        output_max: usize,
    ) -> Result<Range<u64>, CommandError> {
        self.require_ready()?;
        let (kind, channel) = stream_out(&mut self.routes_out, route)?;
        let extension = options.extension();
        let extension = extension.as_ref().map_or(&[][..], |extension| extension);
        let mut head =
            Head { kind, route, id: 0, content: options.content, flags: 0, unix: now.unix };
        let mut sent = 0..0;
        for payload in payloads {
            let payload = payload.as_ref();
            let fits = self.output.require_size(payload);
            head.id = match fits.and_then(|()| channel.next().ok_or(CommandError::WindowFull)) {
                Ok(id) => id,
                Err(error) if sent.is_empty() => return Err(error),
                Err(_) => break,
            };
            channel.sent(self.output.append(&head, extension, payload));
            let first = if sent.is_empty() { head.id } else { sent.start };
            sent = first..head.id + 1;
            if self.output.buffer.len() >= output_max {
                break;
            }
        }
        Ok(sent)
    }

    /// Acknowledges all messages of an announced route up to `id`. Says nothing twice, and
    /// nothing about what never came.
    pub fn ack(&mut self, slot: usize, id: u64, now: Moment) {
        let Some(route) = self.routes_in.route_at(slot).filter(|_| self.is_ready()) else {
            return;
        };
        if self.routes_in.find(route).is_some_and(|(_, entry)| entry.ack(id)) {
            let head = Head {
                kind: Kind::ACK,
                route,
                id,
                content: ContentType::Raw,
                flags: 0,
                unix: now.unix,
            };
            self.output.append(&head, &[], &[]);
        }
    }

    /// Says what this peer serves. Registering again adds and replaces.
    ///
    /// # Errors
    ///
    /// No session, or too large.
    pub fn register(&mut self, body: &body::Register, now: Moment) -> Result<u64, CommandError> {
        self.ask(Kind::REGISTER, RouteId::CONTROL, What::Control, body, now)
    }

    /// Says what it no longer serves.
    ///
    /// # Errors
    ///
    /// No session, or too large.
    pub fn unregister(
        &mut self,
        body: &body::Unregister,
        now: Moment,
    ) -> Result<u64, CommandError> {
        self.ask(Kind::UNREGISTER, RouteId::CONTROL, What::Control, body, now)
    }

    /// Asks for events. The answer's body is a [`body::Subscribed`].
    ///
    /// # Errors
    ///
    /// No session, or too large.
    pub fn subscribe(&mut self, body: &body::Subscribe, now: Moment) -> Result<u64, CommandError> {
        self.ask(Kind::SUBSCRIBE, RouteId::CONTROL, What::Control, body, now)
    }

    /// Wants them no longer.
    ///
    /// # Errors
    ///
    /// No session.
    pub fn unsubscribe(&mut self, subscription: u32, now: Moment) -> Result<u64, CommandError> {
        let body = body::Unsubscribe { subscription };
        self.ask(Kind::UNSUBSCRIBE, RouteId::CONTROL, What::Control, &body, now)
    }

    /// Asks the broker about itself and its plugins.
    ///
    /// # Errors
    ///
    /// No session, or too large.
    pub fn query(&mut self, body: &body::Query, now: Moment) -> Result<u64, CommandError> {
        self.ask(Kind::QUERY, RouteId::CONTROL, What::Control, body, now)
    }

    /// Tells the broker figures about this peer.
    ///
    /// # Errors
    ///
    /// No session, or too large.
    pub fn report(&mut self, body: &body::Report, now: Moment) -> Result<u64, CommandError> {
        self.ask(Kind::REPORT, RouteId::CONTROL, What::Control, body, now)
    }

    /// Gives up an opened route.
    ///
    /// # Errors
    ///
    /// No session or route.
    pub fn close(&mut self, route: RouteId, now: Moment) -> Result<u64, CommandError> {
        self.require_ready()?;
        if !self.forget(route) {
            return Err(CommandError::NoRoute(route));
        }
        self.ask(Kind::CLOSE, route, What::Control, &body::Empty {}, now)
    }

    /// Sends a signal: the state of this peer, or a notice to another one. Only an error comes
    /// back, as [`PeerEvent::Fault`](super::PeerEvent::Fault).
    ///
    /// # Errors
    ///
    /// No session, or too large.
    pub fn signal(&mut self, body: &body::Signal, now: Moment) -> Result<(), CommandError> {
        self.tell(Kind::SIGNAL, body, now)
    }

    /// Says that this peer leaves on purpose.
    ///
    /// # Errors
    ///
    /// No session.
    pub fn shutdown(&mut self, reason: Option<&str>, now: Moment) -> Result<(), CommandError> {
        let reason = reason.map(str::to_owned);
        self.tell(Kind::SHUTDOWN, &body::Shutdown { reason, drain_ms: None }, now)
    }

    pub(super) fn fault_body(&self, fault: &Fault) -> bytes::Bytes {
        let body = body::encode_fault(fault);
        // A control body has a limit that a handler's error text may exceed.
        if body.len() + 8 <= limit::CONTROL_BODY_MAX {
            return body;
        }
        let message: String = fault.message.chars().take(1024).collect();
        body::encode_fault(&Fault::new(fault.code, format!("{message} … (cut)")))
    }

    fn tell<T: Serialize>(
        &mut self,
        kind: Kind,
        body: &T,
        now: Moment,
    ) -> Result<(), CommandError> {
        self.require_ready()?;
        let body = control_body(body)?;
        let id = self.calls_out.next_id();
        self.append(kind, RouteId::CONTROL, id, now, &[], &body);
        Ok(())
    }

    fn ask<T: Serialize>(
        &mut self,
        kind: Kind,
        route: RouteId,
        what: What,
        body: &T,
        now: Moment,
    ) -> Result<u64, CommandError> {
        self.require_ready()?;
        let body = control_body(body)?;
        let id = self.calls_out.next_id();
        self.append(kind, route, id, now, &[], &body);
        self.calls_out.insert(id, what, now.instant + limit::CALL_TIMEOUT + self.settings.grace);
        Ok(id)
    }

    #[inline]
    fn require_ready(&self) -> Result<(), CommandError> {
        if self.is_ready() { Ok(()) } else { Err(CommandError::NoSession) }
    }

    /// Longer than any process lives, short enough to be added to a clock.
    pub(super) const TIMEOUT_MAX: Duration = Duration::from_millis(u32::MAX as u64);
}

impl RequestOptions {
    fn extension(&self) -> Option<[u8; 40]> {
        let deadline_ms = self.timeout.map_or(0, |timeout| {
            // 0 would mean the default, which is not what a passed deadline asks for.
            u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1)
        });
        let extension =
            RequestExtension { deadline_ms, trace: self.trace, span: self.span, nonce: 0 };
        (extension != RequestExtension::default()).then(|| extension.to_bytes())
    }
}

impl SendOptions {
    #[inline]
    fn extension(&self) -> Option<[u8; 40]> {
        let Self { key, trace, span, .. } = *self;
        let extension = MessageExtension { key, trace, span, nonce: 0 };
        (extension != MessageExtension::default()).then(|| extension.to_bytes())
    }
}

impl Payload {
    /// One MessagePack value.
    #[must_use]
    pub fn message_pack(body: bytes::Bytes) -> Self {
        Self { content: ContentType::MessagePack, body }
    }
}

/// What the frames of a route are, and its numbering.
#[inline]
fn stream_out(
    routes: &mut RouteTable<RouteOut>,
    route: RouteId,
) -> Result<(Kind, &mut ChannelOut), CommandError> {
    let Some((_, entry)) = routes.find(route) else {
        return Err(CommandError::NoRoute(route));
    };
    let kind = match entry.kind {
        RouteKind::Channel => Kind::MESSAGE,
        RouteKind::Topic => Kind::EVENT,
        RouteKind::Broadcast => Kind::BROADCAST,
        RouteKind::Method => return Err(CommandError::NoRoute(route)),
    };
    Ok((kind, entry.channel.as_mut().expect("only methods have none")))
}

fn control_body<T: Serialize>(body: &T) -> Result<bytes::Bytes, CommandError> {
    let body = body::encode(body);
    if body.len() <= limit::CONTROL_BODY_MAX {
        return Ok(body);
    }
    let (size, max) = (body.len(), limit::CONTROL_BODY_MAX);
    let message = format!("control body of {size} bytes is over the limit of {max}");
    Err(CommandError::Fault(Fault::new(Code::TooLarge, message)))
}
