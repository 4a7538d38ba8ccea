//! Drives a [`Peer`] over a Unix socket.
//!
//! A [`Link`] is what callers hold: cheap to clone, usable from any thread of the runtime. The
//! [`Inbound`] half reads; whoever owns it has to keep calling [`Inbound::receive`]. A writer task
//! writes what is queued.
//!
//! Nothing waits for a timer to be written. A frame that finds the output below
//! [`WRITE_AT`] wakes the writer, which runs as soon as the current task waits for anything; frames
//! that come meanwhile share its write. A task that never waits writes by itself when the output
//! reaches that size. When the socket is full, sending waits.
//!
//! Invariant: bytes leave in the order in which the peer made them, because only the holder of
//! `writing` takes them from the peer, and only when it has written what it took before.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::Sleep;

use crate::error::{Code, Fault, FrameError};
use crate::id::RouteId;
use crate::limit;
use crate::net::clock;
use crate::peer::{
    CallId, CommandError, Moment, Opening, Payload, Peer, PeerEvent, PeerSettings, Progress,
    RequestOptions, SendOptions,
};
use crate::wire::ContentType;
use crate::wire::body::{RouteKind, Welcome};

/// A connection, for those who send.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    owner: Arc<Owner>,
}

/// Says goodbye when the last [`Link`] is gone.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
}

/// A connection, for the one who receives.
#[derive(Debug)]
pub(crate) struct Inbound {
    shared: Arc<Shared>,
    buffer: BytesMut,
    events: VecDeque<PeerEvent>,
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Shared {
    stream: UnixStream,
    state: Mutex<State>,
    writing: Mutex<Writing>,
    /// There is something to write, or the connection has ended.
    wake_writer: Notify,
    /// There is an earlier deadline than the reader knows.
    wake_reader: Notify,
    /// Acknowledgements came, or output was written.
    progress: Notify,
    closed: AtomicBool,
}

#[derive(Debug)]
struct State {
    peer: Peer,
    answers: HashMap<u64, oneshot::Sender<Result<Payload, Fault>>>,
    openings: HashMap<u64, Vec<oneshot::Sender<Result<RouteId, Fault>>>>,
    writer_woken: bool,
    /// For what the reader's timer is set.
    timer_at: Option<Instant>,
    /// Time of the batch that is being collected.
    batch: Moment,
    /// The socket is to be shut down once everything is written.
    leaving: bool,
}

/// What was taken from the peer and is not written yet, from `start` on.
#[derive(Debug, Default)]
struct Writing {
    buffer: BytesMut,
    start: usize,
}

enum Flushed {
    All,
    SocketFull,
}

/// Why there is no connection, or none any more.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum LinkError {
    /// The broker answered the hello with this.
    #[error("the broker refused the connection: {0}")]
    Refused(Fault),
    /// What came was not the protocol.
    #[error("the broker broke the framing: {0}")]
    Framing(#[from] FrameError),
    /// The socket failed.
    #[error("the connection to the broker failed: {0}")]
    Socket(#[from] io::Error),
    /// The other end closed it.
    #[error("the broker closed the connection")]
    Closed,
    /// Nothing came.
    #[error("the broker did not answer the hello within {} s", limit::HANDSHAKE_TIMEOUT.as_secs())]
    HandshakeTimeout,
}

impl Link {
    /// Shakes hands over a connected socket. Has to be called on a tokio runtime, where the writer
    /// task lives until the connection ends.
    pub(crate) async fn connect(
        stream: UnixStream,
        settings: PeerSettings,
    ) -> Result<(Self, Inbound, Welcome), LinkError> {
        let now = clock::moment();
        let shared = Arc::new(Shared {
            stream,
            state: Mutex::new(State {
                peer: Peer::new(settings, now),
                answers: HashMap::new(),
                openings: HashMap::new(),
                writer_woken: true,
                timer_at: None,
                batch: now,
                leaving: false,
            }),
            writing: Mutex::default(),
            wake_writer: Notify::new(),
            wake_reader: Notify::new(),
            progress: Notify::new(),
            closed: AtomicBool::new(false),
        });
        let link = Self { owner: Arc::new(Owner { shared: Arc::clone(&shared) }) };
        let mut inbound = Inbound {
            shared: Arc::clone(&shared),
            buffer: BytesMut::new(),
            events: VecDeque::new(),
            timer: None,
        };
        shared.wake_writer.notify_one();
        tokio::spawn(shared.write_all());
        let welcome = tokio::time::timeout(limit::HANDSHAKE_TIMEOUT, inbound.handshake())
            .await
            .map_err(|_| LinkError::HandshakeTimeout)??;
        Ok((link, inbound, welcome))
    }

    /// The route of a name.
    pub(crate) async fn open(&self, kind: RouteKind, name: &str) -> Result<RouteId, Fault> {
        let answer = {
            let mut state = self.shared().state.lock();
            if let Some(route) = state.peer.route(kind, name) {
                return Ok(route);
            }
            match state.peer.open(kind, name, clock::moment()).map_err(fault_of)? {
                Opening::Open(route) => return Ok(route),
                Opening::Pending(id) => {
                    let (sender, answer) = oneshot::channel();
                    state.openings.entry(id).or_default().push(sender);
                    self.shared().appended(state);
                    answer
                }
            }
        };
        answer.await.unwrap_or_else(|_| Err(connection_lost()))
    }

    /// Calls a method and waits for the one outcome. Dropping the future cancels the call.
    pub(crate) async fn call(
        &self,
        name: &str,
        payload: &[u8],
        options: &RequestOptions,
    ) -> Result<Payload, Fault> {
        loop {
            let route = self.open_within(name, options).await?;
            match self.request(route, payload, options) {
                // It ended since it was found.
                Err(CommandError::NoRoute(_)) => (),
                Err(error) => return Err(fault_of(error)),
                Ok(mut call) => return call.outcome().await,
            }
        }
    }

    /// Calls a method and waits for nothing: the handler's outcome is dropped.
    pub(crate) async fn call_no_reply(
        &self,
        name: &str,
        payload: &[u8],
        options: &RequestOptions,
    ) -> Result<(), Fault> {
        let options = RequestOptions { no_reply: true, ..*options };
        loop {
            let route = self.open_within(name, &options).await?;
            let mut state = self.shared().state.lock();
            match state.peer.request(route, payload, &options, clock::moment()) {
                Err(CommandError::NoRoute(_)) => (),
                Err(error) => return Err(fault_of(error)),
                Ok(_) => {
                    self.shared().appended(state);
                    return Ok(());
                }
            }
        }
    }

    /// Sends on an opened route; waits while its window is used up or the socket is full. The id
    /// is the message's number on that route.
    pub(crate) async fn send(
        &self,
        route: RouteId,
        payload: &[u8],
        options: &SendOptions,
    ) -> Result<u64, Fault> {
        match self.send_now(route, payload, options) {
            Some(id) => Ok(id),
            None => self.send_slow(route, payload, options).await,
        }
    }

    /// The usual case, which needs no future and no room for an error. `None` says nothing yet.
    #[inline]
    pub(crate) fn send_now(
        &self,
        route: RouteId,
        payload: &[u8],
        options: &SendOptions,
    ) -> Option<u64> {
        self.try_send(route, payload, options).ok()
    }

    #[inline(always)]
    fn try_send(
        &self,
        route: RouteId,
        payload: &[u8],
        options: &SendOptions,
    ) -> Result<u64, CommandError> {
        let shared = self.shared();
        let mut state = shared.state.lock();
        if state.peer.output_size() >= OUTPUT_MAX {
            return Err(CommandError::WindowFull);
        }
        if state.peer.output_size() == 0 {
            state.batch = clock::moment();
        }
        let batch = state.batch;
        let id = state.peer.send(route, payload, options, batch)?;
        shared.appended(state);
        Ok(id)
    }

    #[cold]
    async fn send_slow(
        &self,
        route: RouteId,
        payload: &[u8],
        options: &SendOptions,
    ) -> Result<u64, Fault> {
        loop {
            // Announced before the attempt, so that what happens in between is not missed.
            let mut progress = std::pin::pin!(self.shared().progress.notified());
            progress.as_mut().enable();
            match self.try_send(route, payload, options) {
                Err(CommandError::WindowFull) => progress.await,
                result => return result.map_err(fault_of),
            }
        }
    }

    /// Waits until `done` says so of the route's progress, or the route has ended.
    pub(crate) async fn wait_for(
        &self,
        route: RouteId,
        done: impl Fn(&Progress) -> bool,
    ) -> Result<Progress, Fault> {
        loop {
            let mut changed = std::pin::pin!(self.shared().progress.notified());
            changed.as_mut().enable();
            {
                let state = self.shared().state.lock();
                match state.peer.progress(route) {
                    None => return Err(route_ended()),
                    Some(progress) if done(&progress) => return Ok(progress),
                    Some(_) if !state.peer.is_ready() => return Err(connection_lost()),
                    Some(_) => (),
                }
            }
            changed.await;
        }
    }

    /// How far an opened route is.
    pub(crate) fn progress(&self, route: RouteId) -> Option<Progress> {
        self.shared().state.lock().peer.progress(route)
    }

    /// Carries out a control command and waits for its answer.
    pub(crate) async fn ask(
        &self,
        command: impl FnOnce(&mut Peer, Moment) -> Result<u64, CommandError>,
    ) -> Result<Payload, Fault> {
        let mut call = {
            let mut state = self.shared().state.lock();
            let id = command(&mut state.peer, clock::moment()).map_err(fault_of)?;
            self.pending(state, id)
        };
        call.outcome().await
    }

    /// Carries out a command that nothing answers.
    pub(crate) fn tell<T>(&self, command: impl FnOnce(&mut Peer, Moment) -> T) -> T {
        let mut state = self.shared().state.lock();
        let result = command(&mut state.peer, clock::moment());
        self.shared().appended(state);
        result
    }

    /// Answers a request.
    pub(crate) fn respond(&self, call: CallId, result: Result<(ContentType, &[u8]), &Fault>) {
        self.tell(|peer, now| peer.respond(call, result, now));
    }

    /// Says goodbye, writes what is queued and ends the connection.
    pub(crate) async fn leave(&self, reason: Option<&str>) {
        self.shared().leave(reason);
        loop {
            let mut written = std::pin::pin!(self.shared().progress.notified());
            written.as_mut().enable();
            if self.shared().closed.load(Ordering::Acquire) {
                return;
            }
            written.await;
        }
    }

    fn request(
        &self,
        route: RouteId,
        payload: &[u8],
        options: &RequestOptions,
    ) -> Result<PendingCall, CommandError> {
        let mut state = self.shared().state.lock();
        let id = state.peer.request(route, payload, options, clock::moment())?;
        Ok(self.pending(state, id))
    }

    async fn open_within(&self, name: &str, options: &RequestOptions) -> Result<RouteId, Fault> {
        let known = self.shared().state.lock().peer.route(RouteKind::Method, name);
        if let Some(route) = known {
            return Ok(route);
        }
        // The call's own deadline holds for finding the method too.
        let timeout = options.timeout.unwrap_or(limit::CALL_TIMEOUT);
        match tokio::time::timeout(timeout, self.open(RouteKind::Method, name)).await {
            Ok(result) => result,
            Err(_) => Err(Fault::new(
                Code::Timeout,
                format!("the broker did not resolve `{name}` within {} ms", timeout.as_millis()),
            )),
        }
    }

    fn pending(&self, mut state: parking_lot::MutexGuard<'_, State>, id: u64) -> PendingCall {
        let (sender, answer) = oneshot::channel();
        state.answers.insert(id, sender);
        let deadline = state.peer.next_deadline();
        if deadline.is_some() && state.timer_at.is_none_or(|at| deadline < Some(at)) {
            state.timer_at = deadline;
            self.shared().wake_reader.notify_one();
        }
        self.shared().appended(state);
        PendingCall { shared: Arc::clone(self.shared()), id, answer: Some(answer) }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }
}

/// A call or command that waits. Dropped early, it is cancelled.
struct PendingCall {
    shared: Arc<Shared>,
    id: u64,
    answer: Option<oneshot::Receiver<Result<Payload, Fault>>>,
}

impl PendingCall {
    async fn outcome(&mut self) -> Result<Payload, Fault> {
        let Some(answer) = &mut self.answer else { return Err(connection_lost()) };
        let outcome = answer.await;
        self.answer = None;
        outcome.unwrap_or_else(|_| Err(connection_lost()))
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        if self.answer.is_none() {
            return;
        }
        let mut state = self.shared.state.lock();
        if state.answers.remove(&self.id).is_some() {
            state.peer.cancel(self.id, clock::moment());
            self.shared.appended(state);
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.leave(None);
    }
}

impl Inbound {
    /// Waits for something and gives `sink` everything that came, in order; answers go to those
    /// who wait for them. Cancel-safe.
    ///
    /// # Errors
    ///
    /// The connection has ended; whatever waited has got its outcome.
    pub(crate) async fn receive(
        &mut self,
        mut sink: impl FnMut(PeerEvent),
    ) -> Result<(), LinkError> {
        loop {
            if self.dispatch(&mut sink) {
                return Ok(());
            }
            self.wait().await?;
            match self.read() {
                Ok(busy) => {
                    let delivered = self.dispatch(&mut sink);
                    if busy {
                        // A socket that is never empty must not keep its neighbours from running.
                        tokio::task::yield_now().await;
                    }
                    if delivered {
                        return Ok(());
                    }
                }
                Err(error) => {
                    self.shared.close();
                    self.dispatch(&mut sink);
                    return Err(error);
                }
            }
        }
    }

    async fn handshake(&mut self) -> Result<Welcome, LinkError> {
        loop {
            self.wait().await?;
            self.read()?;
            match self.events.pop_front() {
                Some(PeerEvent::Welcome(welcome)) => return Ok(*welcome),
                Some(PeerEvent::Refused(fault)) => return Err(LinkError::Refused(fault)),
                Some(event) => self.events.push_front(event),
                None => (),
            }
        }
    }

    /// Until the socket has something. Deadlines are kept here, because this is where a connection
    /// spends its time.
    async fn wait(&mut self) -> Result<(), LinkError> {
        loop {
            let deadline = self.shared.state.lock().timer_at;
            if let Some(deadline) = deadline {
                let deadline = tokio::time::Instant::from_std(deadline);
                match &mut self.timer {
                    Some(timer) if timer.deadline() == deadline => (),
                    Some(timer) => timer.as_mut().reset(deadline),
                    None => self.timer = Some(Box::pin(tokio::time::sleep_until(deadline))),
                }
            }
            let timer = async {
                match (&mut self.timer, deadline) {
                    (Some(timer), Some(_)) => timer.as_mut().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                ready = self.shared.stream.readable() => return Ok(ready?),
                () = self.shared.wake_reader.notified() => (),
                () = timer => {
                    let mut state = self.shared.state.lock();
                    state.peer.handle_timeout(clock::moment());
                    state.timer_at = state.peer.next_deadline();
                    state.peer.drain_events(&mut self.events);
                    self.shared.appended(state);
                    self.settle_answers();
                }
            }
        }
    }

    /// One read. True when the socket gave so much that there is likely more.
    fn read(&mut self) -> Result<bool, LinkError> {
        // The buffer is used again as soon as nothing refers to what came before; else a new one
        // is taken, but not for each small read.
        if !self.buffer.try_reclaim(limit::READ_BUFFER_SIZE)
            && self.buffer.capacity() < limit::READ_BUFFER_SIZE / 4
        {
            self.buffer.reserve(limit::READ_BUFFER_SIZE);
        }
        match self.shared.stream.try_read_buf(&mut self.buffer) {
            Ok(0) => Err(LinkError::Closed),
            Ok(size) => {
                let input: Bytes = self.buffer.split().freeze();
                let mut state = self.shared.state.lock();
                let outcome = state.peer.handle_input(input, clock::moment());
                state.peer.drain_events(&mut self.events);
                if state.peer.output_size() > 0 {
                    self.shared.appended(state);
                }
                outcome?;
                Ok(size >= limit::READ_BUFFER_SIZE / 4)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// True when the sink got something.
    fn dispatch(&mut self, sink: &mut impl FnMut(PeerEvent)) -> bool {
        let mut delivered = false;
        while let Some(event) = self.events.pop_front() {
            if let Some(event) = self.shared.settle(event) {
                delivered = true;
                sink(event);
            }
        }
        delivered
    }

    /// Gives out answers while the rest waits for the sink.
    fn settle_answers(&mut self) {
        let events = std::mem::take(&mut self.events);
        self.events = events.into_iter().filter_map(|event| self.shared.settle(event)).collect();
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        // Nobody reads any more; whoever waits would wait for ever.
        self.shared.close();
        while let Some(event) = self.events.pop_front() {
            self.shared.settle(event);
        }
    }
}

impl Shared {
    /// Has what the peer just made written.
    #[inline]
    fn appended(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        let size = state.peer.output_size();
        if size >= WRITE_AT {
            drop(state);
            if !matches!(self.flush(), Ok(Flushed::All)) {
                self.wake_writer.notify_one();
            }
        } else if size > 0 && !state.writer_woken {
            state.writer_woken = true;
            drop(state);
            self.wake_writer.notify_one();
        }
    }

    /// Writes until nothing is left or the socket is full.
    fn flush(&self) -> io::Result<Flushed> {
        let mut writing = self.writing.lock();
        loop {
            if writing.start == writing.buffer.len() {
                writing.buffer.clear();
                writing.start = 0;
                let mut state = self.state.lock();
                state.writer_woken = false;
                if state.peer.output_size() == 0 {
                    return Ok(Flushed::All);
                }
                let was_full = state.peer.output_size() >= OUTPUT_MAX;
                std::mem::swap(state.peer.output(), &mut writing.buffer);
                drop(state);
                if was_full {
                    self.progress.notify_waiters();
                }
            }
            match self.stream.try_write(&writing.buffer[writing.start..]) {
                Ok(size) => writing.start += size,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Flushed::SocketFull);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The writer task.
    fn write_all(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let shared = Arc::clone(self);
        async move {
            while !shared.closed.load(Ordering::Acquire) {
                shared.wake_writer.notified().await;
                loop {
                    match shared.flush() {
                        Ok(Flushed::All) => break,
                        Ok(Flushed::SocketFull) => {
                            tokio::select! {
                                _ = shared.stream.writable() => (),
                                () = shared.wake_writer.notified() => (),
                            }
                            if shared.closed.load(Ordering::Acquire) {
                                return;
                            }
                        }
                        // The reader sees the same end, after what came before it.
                        Err(_) => break,
                    }
                }
                let leaving = shared.state.lock().leaving;
                if leaving {
                    shared.close();
                }
            }
        }
    }

    fn leave(&self, reason: Option<&str>) {
        let mut state = self.state.lock();
        if state.leaving {
            return;
        }
        state.leaving = true;
        if state.peer.is_ready()
            && let Err(error) = state.peer.shutdown(reason, clock::moment())
        {
            log::debug!("leaves without a goodbye: {error}");
        }
        drop(state);
        self.wake_writer.notify_one();
    }

    /// Ends the connection and everything that waits for it.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let mut events = VecDeque::new();
        {
            let mut state = self.state.lock();
            state.peer.handle_closed();
            state.peer.drain_events(&mut events);
        }
        // The peer may be gone already, then this fails and nothing is lost.
        rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both).ok();
        for event in events {
            self.settle(event);
        }
        self.wake_writer.notify_one();
        self.progress.notify_waiters();
    }

    /// Gives an answer to who waits for it; what nobody here waits for comes back.
    #[inline]
    fn settle(&self, event: PeerEvent) -> Option<PeerEvent> {
        match event {
            PeerEvent::Message { .. } | PeerEvent::Event { .. } | PeerEvent::Request { .. } => {
                return Some(event);
            }
            PeerEvent::Answer { id, result } => {
                let waiter = self.state.lock().answers.remove(&id);
                if let Some(waiter) = waiter {
                    // Who does not listen any more does not need it.
                    waiter.send(result).ok();
                }
            }
            PeerEvent::Opened { id, result, .. } => {
                let waiters = self.state.lock().openings.remove(&id);
                for waiter in waiters.into_iter().flatten() {
                    waiter.send(result.clone()).ok();
                }
            }
            PeerEvent::Acked { .. } | PeerEvent::Credit { .. } => self.progress.notify_waiters(),
            PeerEvent::Started { .. } => (),
            PeerEvent::GivenUp { .. } | PeerEvent::Rejected { .. } | PeerEvent::Closed { .. } => {
                self.progress.notify_waiters();
                return Some(event);
            }
            event => return Some(event),
        }
        None
    }
}

/// Output of this size is written by whoever made it so large.
const WRITE_AT: usize = 64 << 10;

/// With this much output sending waits for the socket. Answers and acknowledgements do not.
const OUTPUT_MAX: usize = 256 << 10;

pub(crate) fn connection_lost() -> Fault {
    Fault::new(Code::ShuttingDown, "the connection to the broker has ended")
}

fn route_ended() -> Fault {
    Fault::new(Code::UnknownRoute, "the route has ended")
}

fn fault_of(error: CommandError) -> Fault {
    match error {
        CommandError::Fault(fault) => fault,
        CommandError::NoSession => connection_lost(),
        CommandError::NoRoute(_) => route_ended(),
        CommandError::WindowFull => {
            Fault::new(Code::CreditOverrun, "the window of the route is used up")
        }
    }
}
