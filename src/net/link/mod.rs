//! Drives a [`Peer`] over a Unix socket.
//!
//! A [`Link`] is what callers hold: cheap to clone, usable from any thread of the runtime. The
//! [`Inbound`] half reads; whoever owns it has to keep calling [`Inbound::receive`]. A writer task
//! writes what is queued.
//!
//! Nothing waits for a timer to be written. A frame that finds the output below
//! [`WRITE_AT`](shared::WRITE_AT) wakes the writer, which runs as soon as the current task waits
//! for anything; frames that come meanwhile share its write. A task that never waits writes by
//! itself when the output reaches that size. When the socket is full, sending waits.
//!
//! The file is longer than most: one short function for each word of the SDK.

mod inbound;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot};

pub(crate) use self::inbound::Inbound;
use self::shared::{OUTPUT_MAX, Shared, State, WRITE_AT};
use crate::error::{Code, Fault, FrameError};
use crate::id::RouteId;
use crate::limit;
use crate::net::clock;
use crate::net::socket::Socket;
use crate::peer::{
    CallId, CommandError, Moment, Opening, Payload, Peer, PeerSettings, Progress, RequestOptions,
    SendOptions,
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
            stream: Socket::new(stream)?,
            reading: Mutex::default(),
            state: Mutex::new(State {
                peer: Peer::new(settings, now),
                answers: HashMap::new(),
                openings: HashMap::new(),
                writer_woken: true,
                socket_full: false,
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
        let mut inbound = Inbound::new(Arc::clone(&shared));
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

    /// Sends several on an opened route, in order; waits where [`send`](Self::send) would. Gives
    /// the number of the last one. Where that fails, those before are on their way.
    pub(crate) async fn send_all<B: AsRef<[u8]>>(
        &self,
        route: RouteId,
        mut payloads: &[B],
        options: &SendOptions,
    ) -> Result<Option<u64>, Fault> {
        let mut last = None;
        while let [first, ..] = payloads {
            let sent = match self.try_send_many(route, payloads, options) {
                Err(CommandError::WindowFull) => {
                    let id = self.send_slow(route, first.as_ref(), options).await?;
                    id..id + 1
                }
                result => result.map_err(fault_of)?,
            };
            last = sent.clone().last();
            payloads = &payloads[(sent.end - sent.start) as usize..];
        }
        Ok(last)
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

    fn try_send_many<B: AsRef<[u8]>>(
        &self,
        route: RouteId,
        payloads: &[B],
        options: &SendOptions,
    ) -> Result<Range<u64>, CommandError> {
        let shared = self.shared();
        let mut state = shared.state.lock();
        if state.peer.output_size() >= OUTPUT_MAX {
            return Err(CommandError::WindowFull);
        }
        let output_max = if state.socket_full { OUTPUT_MAX } else { WRITE_AT };
        let sent = state.peer.send_many(route, payloads, options, clock::moment(), output_max)?;
        shared.appended(state);
        Ok(sent)
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
        let mut state = self.shared().state.lock();
        state.peer.respond(call, result, clock::moment());
        if state.peer.serving() == 0 {
            self.shared().appended_alone(state);
        } else {
            self.shared().appended(state);
        }
    }

    /// Says goodbye, writes what is queued and ends the connection. A broker that reads nothing
    /// cannot keep this from ending.
    pub(crate) async fn leave(&self, reason: Option<&str>) {
        self.shared().leave(reason);
        if tokio::time::timeout(limit::DRAIN_TIMEOUT, self.closed()).await.is_err() {
            self.shared().close();
        }
    }

    /// Waits until the connection has ended, whoever ended it.
    pub(crate) async fn closed(&self) {
        let shared = self.shared();
        loop {
            let mut changed = std::pin::pin!(shared.progress.notified());
            changed.as_mut().enable();
            if shared.closed.load(Ordering::Acquire) {
                return;
            }
            changed.await;
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

    fn pending(&self, mut state: MutexGuard<'_, State>, id: u64) -> PendingCall {
        let (sender, answer) = oneshot::channel();
        state.answers.insert(id, sender);
        let deadline = state.peer.next_deadline();
        if deadline.is_some() && state.timer_at.is_none_or(|at| deadline < Some(at)) {
            state.timer_at = deadline;
            self.shared().wake_reader.notify_one();
        }
        let is_alone = state.answers.len() == 1;
        if is_alone {
            self.shared().appended_alone(state);
        } else {
            self.shared().appended(state);
        }
        PendingCall { shared: Arc::clone(self.shared()), id, answer: Some(answer), is_alone }
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
    /// No other waited when it was made, so that what comes next is likely its answer.
    is_alone: bool,
}

impl PendingCall {
    async fn outcome(&mut self) -> Result<Payload, Fault> {
        let Some(answer) = &mut self.answer else { return Err(connection_lost()) };
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut *answer => break outcome,
                ready = self.shared.stream.readable(), if self.is_alone => {
                    self.is_alone = ready.is_ok() && self.shared.read_for_answer();
                }
            }
        };
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
