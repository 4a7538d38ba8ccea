//! What both halves of a connection share: the peer, those who wait, and the writing.
//!
//! Invariant: bytes leave in the order in which the peer made them, because only the holder of
//! `writing` takes them from the peer, and only when it has written what it took before.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::BytesMut;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};

use super::inbound::Reading;
use crate::error::Fault;
use crate::id::RouteId;
use crate::net::clock;
use crate::net::socket::Socket;
use crate::peer::{Moment, Payload, Peer, PeerEvent};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) stream: Socket,
    pub(super) reading: Mutex<Reading>,
    pub(super) state: Mutex<State>,
    pub(super) writing: Mutex<Writing>,
    /// There is something to write, or the connection has ended.
    pub(super) wake_writer: Notify,
    /// There is an earlier deadline than the owner of the reading half knows, or something in its
    /// queue.
    pub(super) wake_reader: Notify,
    /// Acknowledgements came, or output was written.
    pub(super) progress: Notify,
    pub(super) closed: AtomicBool,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) peer: Peer,
    pub(super) answers: HashMap<u64, oneshot::Sender<Result<Payload, Fault>>>,
    pub(super) openings: HashMap<u64, Vec<oneshot::Sender<Result<RouteId, Fault>>>>,
    pub(super) writer_woken: bool,
    /// The socket took no more; the writer waits for room and goes on.
    pub(super) socket_full: bool,
    /// For what the reader's timer is set.
    pub(super) timer_at: Option<Instant>,
    /// Time of the batch that is being collected.
    pub(super) batch: Moment,
    /// The socket is to be shut down once everything is written.
    pub(super) leaving: bool,
}

/// What was taken from the peer and is not written yet, from `start` on.
#[derive(Debug, Default)]
pub(super) struct Writing {
    pub(super) buffer: BytesMut,
    pub(super) start: usize,
}

pub(super) enum Flushed {
    All,
    SocketFull,
}

impl Shared {
    /// Has what the peer just made written.
    #[inline]
    pub(super) fn appended(&self, mut state: MutexGuard<'_, State>) {
        let size = state.peer.output_size();
        if state.socket_full {
            // Trying once more for each message would cost a system call each.
        } else if size >= WRITE_AT {
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

    /// As [`appended`](Self::appended) where nothing else is under way that could share the write:
    /// writing here and now spares the turn of the writer task.
    pub(super) fn appended_alone(&self, state: MutexGuard<'_, State>) {
        if state.writer_woken || state.socket_full {
            return;
        }
        drop(state);
        if !matches!(self.flush(), Ok(Flushed::All)) {
            self.wake_writer.notify_one();
        }
    }

    /// Writes until nothing is left or the socket is full.
    pub(super) fn flush(&self) -> io::Result<Flushed> {
        let mut writing = self.writing.lock();
        loop {
            if writing.start == writing.buffer.len() {
                writing.buffer.clear();
                writing.start = 0;
                let mut state = self.state.lock();
                state.writer_woken = false;
                state.socket_full = false;
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
                    self.state.lock().socket_full = true;
                    return Ok(Flushed::SocketFull);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The writer task.
    pub(super) fn write_all(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let shared = Arc::clone(self);
        async move {
            while !shared.closed.load(Ordering::Acquire) {
                shared.wake_writer.notified().await;
                loop {
                    match shared.flush() {
                        Ok(Flushed::All) => break,
                        Ok(Flushed::SocketFull) => {
                            let writable = shared.stream.writable();
                            tokio::pin!(writable);
                            while !shared.closed.load(Ordering::Acquire) {
                                tokio::select! {
                                    _ = &mut writable => break,
                                    () = shared.wake_writer.notified() => (),
                                }
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

    pub(super) fn leave(&self, reason: Option<&str>) {
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
    pub(super) fn close(&self) {
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
    pub(super) fn settle(&self, event: PeerEvent) -> Option<PeerEvent> {
        match event {
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
pub(super) const WRITE_AT: usize = 64 << 10;

/// With this much output sending waits for the socket. Answers and acknowledgements do not.
pub(super) const OUTPUT_MAX: usize = 256 << 10;
