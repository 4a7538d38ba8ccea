//! One connection and the broker's end of it: what `net::traffic` and `broker::session` do, one
//! small step at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::oracle::{Oracle, Scan};
use crate::engine::{Attachment, Change, Effects, Now, Port, Router, Session};
use crate::error::{Fault, FrameError};
use crate::limit;
use crate::wire::body::{self, Hello};
use crate::wire::{Dialect, FrameBuilder, Kind, scan_frame};

/// Bytes in flight both ways, and whoever reads and writes them for the broker.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: u32,
    /// From the peer, and whether nothing follows.
    pub(super) up: BytesMut,
    pub(super) up_ended: bool,
    /// To the peer, and whether nothing follows.
    pub(super) down: BytesMut,
    pub(super) down_ended: bool,
    /// Nobody reads any more: a write fails.
    pub(super) peer_gone: bool,
    pub(super) broker: BrokerEnd,
    /// For whom the host has made it.
    pub(super) attachment: Option<Attachment>,
}

#[derive(Debug)]
pub(super) enum BrokerEnd {
    Greeting(BytesMut),
    Live(Box<Live>),
    Closed,
}

/// A session that was let in.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) session: Session,
    input: BytesMut,
    /// The peer sent more than its hello at once, which is yet to be handled.
    primed: bool,
    /// Under way to the router. The session is not read meanwhile.
    pub(super) changes: VecDeque<Change>,
    /// Set by the engine when there is something to write.
    woken: Arc<AtomicBool>,
    /// The writer is at work, not waiting to be woken.
    writing: bool,
    /// The reader has ended, and when the writer is given up.
    read_until: Option<Duration>,
    scan: Scan,
    /// The router has yet to hear of the end.
    pub(super) ended: Option<String>,
    /// Moment in which the plugin was called ready.
    pub(super) ready: bool,
}

impl Link {
    pub(super) fn new(id: u32) -> Self {
        Self {
            id,
            up: BytesMut::new(),
            up_ended: false,
            down: BytesMut::new(),
            down_ended: false,
            peer_gone: false,
            broker: BrokerEnd::Greeting(BytesMut::new()),
            attachment: None,
        }
    }

    pub(super) fn live(&self) -> Option<&Live> {
        match &self.broker {
            BrokerEnd::Live(live) => Some(live),
            _ => None,
        }
    }

    pub(super) fn live_mut(&mut self) -> Option<&mut Live> {
        match &mut self.broker {
            BrokerEnd::Live(live) => Some(live),
            _ => None,
        }
    }

    pub(super) fn can_read(&self) -> bool {
        let has_input = !self.up.is_empty() || self.up_ended;
        match &self.broker {
            BrokerEnd::Greeting(_) => has_input,
            BrokerEnd::Live(live) => {
                (has_input || live.primed)
                    && live.changes.is_empty()
                    && live.read_until.is_none()
                    && live.ended.is_none()
            }
            BrokerEnd::Closed => false,
        }
    }

    pub(super) fn can_write(&self) -> bool {
        let BrokerEnd::Live(live) = &self.broker else { return false };
        if live.ended.is_some() {
            return false;
        }
        let woken = live.woken.load(Ordering::Relaxed);
        // A full socket holds the writer up, unless the session was closed meanwhile.
        let blocked = self.down.len() >= SOCKET_SIZE && !self.peer_gone;
        if blocked { woken && live.session.port().is_closed() } else { woken || live.writing }
    }

    /// The broker reads up to `cut` bytes.
    pub(super) fn read(
        &mut self,
        cut: usize,
        router: &mut Router,
        oracle: &mut Oracle,
        now: Now,
        fx: &mut Effects,
    ) {
        let bytes = self.up.split_to(cut.min(self.up.len()));
        let primed = self.live_mut().is_some_and(|live| std::mem::take(&mut live.primed));
        let at_end = bytes.is_empty() && self.up_ended && !primed;
        match &mut self.broker {
            BrokerEnd::Greeting(input) => {
                input.extend_from_slice(&bytes);
                if at_end {
                    self.close();
                    return;
                }
                match greet(input) {
                    None => (),
                    Some(hello) => self.admit(hello, router, now, fx),
                }
            }
            BrokerEnd::Live(live) if at_end => live.stop_reading("the peer closed", now, fx),
            BrokerEnd::Live(live) => {
                live.input.extend_from_slice(&bytes);
                let input = live.input.split().freeze();
                oracle.observe_read(live.session.port().session.0, &input);
                match live.session.handle_input(&input, now, fx) {
                    Ok(used) => live.input.extend_from_slice(&input[used..]),
                    Err(error) => live.stop_reading(&error.to_string(), now, fx),
                }
                live.changes.extend(fx.take_changes());
            }
            BrokerEnd::Closed => (),
        }
    }

    /// The broker's writer does one round.
    pub(super) fn write(&mut self, budget: usize, oracle: &mut Oracle, now: Now, fx: &mut Effects) {
        let BrokerEnd::Live(live) = &mut self.broker else { return };
        let port = Arc::clone(live.session.port());
        if !live.writing {
            live.woken.store(false, Ordering::Relaxed);
            live.writing = true;
        }
        if self.down.len() >= SOCKET_SIZE || self.peer_gone {
            // The write that was under way fails.
            port.kill("the peer closed the connection", fx);
            live.end();
            return;
        }
        let mut pieces: Vec<Bytes> = Vec::new();
        port.take(budget, now, &mut pieces, fx);
        fx.finish();
        live.changes.extend(fx.take_changes());
        for piece in &pieces {
            oracle.observe_written(port.session.0, &mut live.scan, piece, now);
            self.down.extend_from_slice(piece);
        }
        if !pieces.is_empty() || port.has_queued() {
            return;
        }
        if port.end().is_some() {
            live.end();
        } else {
            live.writing = false;
        }
    }

    /// What the writer of a session is given to write its last words has passed.
    pub(super) fn expire(&mut self, now: Now, fx: &mut Effects) {
        if let BrokerEnd::Live(live) = &mut self.broker
            && live.read_until.is_some_and(|until| until <= now.mono)
            && live.ended.is_none()
        {
            live.session.port().kill("the peer does not read", fx);
            live.end();
        }
    }

    /// The router hears of the end. Gives the session.
    pub(super) fn bury(&mut self, router: &mut Router, now: Now, fx: &mut Effects) -> u64 {
        let BrokerEnd::Live(live) = std::mem::replace(&mut self.broker, BrokerEnd::Closed) else {
            unreachable!("only live sessions end");
        };
        let port = Arc::clone(live.session.port());
        let reason = live.ended.clone().expect("the session has ended");
        drop(live);
        router.handle_session_ended(port.session, &reason, now, fx);
        self.close();
        port.session.0
    }

    fn admit(
        &mut self,
        hello: Result<(Hello, usize), Fault>,
        router: &mut Router,
        now: Now,
        fx: &mut Effects,
    ) {
        let woken = Arc::new(AtomicBool::new(false));
        let waker = Arc::clone(&woken);
        let admitted = hello.and_then(|(hello, size)| {
            let waker = Box::new(move || waker.store(true, Ordering::Relaxed));
            let attachment = self.attachment.as_ref();
            router.handle_hello(&hello, attachment, waker, now, fx).map(|port| (port, size))
        });
        match admitted {
            Ok((port, size)) => {
                let BrokerEnd::Greeting(input) = &mut self.broker else { return };
                let input = input.split_off(size);
                self.broker = BrokerEnd::Live(Box::new(Live {
                    session: Session::new(&port),
                    primed: !input.is_empty(),
                    input,
                    changes: VecDeque::new(),
                    woken,
                    writing: true,
                    read_until: None,
                    scan: Scan::default(),
                    ended: None,
                    ready: false,
                }));
            }
            Err(fault) => {
                super::oracle::check_refusal(&fault);
                let frame = FrameBuilder::new(Kind::ERROR)
                    .timestamp(now.unix)
                    .build(b"", &body::encode_fault(&fault));
                self.down.extend_from_slice(&frame);
                self.close();
            }
        }
    }

    fn close(&mut self) {
        self.broker = BrokerEnd::Closed;
        self.down_ended = true;
        self.up.clear();
    }
}

impl Live {
    fn stop_reading(&mut self, reason: &str, now: Now, fx: &mut Effects) {
        let port = self.session.port();
        if port.is_open() {
            port.kill(reason, fx);
        }
        self.read_until = Some(now.mono + limit::DRAIN_TIMEOUT);
    }

    fn end(&mut self) {
        let reason = self.session.port().end();
        self.ended = Some(reason.unwrap_or_else(|| "the session ended".to_owned()));
    }

    pub(super) fn port(&self) -> &Arc<Port> {
        self.session.port()
    }
}

/// The hello, once it is whole, and the bytes that it takes.
fn greet(input: &[u8]) -> Option<Result<(Hello, usize), Fault>> {
    let first = *input.first()?;
    let spoken = Dialect::detect(first).and_then(Dialect::require_spoken);
    match spoken.and_then(|()| scan_frame(input, limit::PAYLOAD_MAX)) {
        Ok(None) => None,
        Ok(Some(frame)) => Some(match frame.header.kind {
            Kind::HELLO => {
                body::decode_hello(frame.body()).map(|hello| (hello, frame.bytes().len()))
            }
            kind => Err(FrameError::HelloExpected(kind.0).into()),
        }),
        Err(error) => Some(Err(error.into())),
    }
}

/// What a socket holds in one direction before a writer waits.
pub(super) const SOCKET_SIZE: usize = 64 << 10;
