//! The reading half of a connection.
//!
//! The owner of the connection reads, and gives every event to its sink in order. A call that waits
//! alone reads for itself where it can: its answer then needs no turn of the owner's task. What it
//! reads that is not for it stays in the queue, and the owner is woken.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Sleep;

use super::LinkError;
use super::shared::Shared;
use crate::limit;
use crate::net::clock;
use crate::peer::PeerEvent;
use crate::wire::body::Welcome;

/// A connection, for the one who receives.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(super) shared: Arc<Shared>,
    /// Taken from the queue, on their way to the sink.
    events: VecDeque<PeerEvent>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What was read. Locked before the state of the connection, where both are.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// What was read last, whose buffer is used again when nothing else refers to it.
    last: Bytes,
    /// In the order in which they came.
    events: VecDeque<PeerEvent>,
    /// What somebody who read found out and the owner does not know.
    failure: Option<LinkError>,
}

impl Inbound {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, events: VecDeque::new(), timer: None }
    }

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
            let outcome = self.shared.reading.lock().read(&self.shared);
            match outcome {
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

    pub(super) async fn handshake(&mut self) -> Result<Welcome, LinkError> {
        loop {
            self.wait().await?;
            let mut reading = self.shared.reading.lock();
            reading.read(&self.shared)?;
            match reading.events.pop_front() {
                Some(PeerEvent::Welcome(welcome)) => return Ok(*welcome),
                Some(PeerEvent::Refused(fault)) => return Err(LinkError::Refused(fault)),
                Some(event) => reading.events.push_front(event),
                None => (),
            }
        }
    }

    /// Until the socket or the queue has something. Deadlines are kept here, because this is where
    /// a connection spends its time.
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
                () = self.shared.wake_reader.notified() => {
                    if self.shared.reading.lock().has_something() {
                        return Ok(());
                    }
                }
                () = timer => self.shared.reading.lock().expire(&self.shared),
            }
        }
    }

    /// True when the sink got something.
    fn dispatch(&mut self, sink: &mut impl FnMut(PeerEvent)) -> bool {
        let mut delivered = false;
        // The sink must not run under the lock: it is free to use the connection.
        self.events.append(&mut self.shared.reading.lock().events);
        while let Some(event) = self.events.pop_front() {
            // The many that are for the sink take the short way.
            let event = match event {
                PeerEvent::Messages { .. }
                | PeerEvent::Message { .. }
                | PeerEvent::Event { .. }
                | PeerEvent::Request { .. } => event,
                event => match self.shared.settle(event) {
                    Some(event) => event,
                    None => continue,
                },
            };
            delivered = true;
            sink(event);
        }
        delivered
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        // Nobody reads any more; whoever waits would wait for ever.
        self.shared.close();
        let events = std::mem::take(&mut self.shared.reading.lock().events);
        for event in self.events.drain(..).chain(events) {
            self.shared.settle(event);
        }
    }
}

impl Reading {
    /// One read. True when it left something in the socket.
    fn read(&mut self, shared: &Shared) -> Result<bool, LinkError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let mut buffer = match std::mem::take(&mut self.last).try_into_mut() {
            Ok(mut buffer) => {
                // An empty buffer becomes a vector without its bytes being moved.
                buffer.clear();
                Vec::from(buffer)
            }
            Err(_in_use) => Vec::new(),
        };
        buffer.reserve(limit::READ_BUFFER_SIZE);
        let room = buffer.capacity();
        match shared.stream.try_read(&mut buffer) {
            Ok(0) => Err(LinkError::Closed),
            Ok(size) => {
                // A message that somebody keeps must not keep a whole buffer that is all but empty.
                let is_small = size < limit::READ_BUFFER_SIZE / 4;
                let small = is_small.then(|| Bytes::copy_from_slice(&buffer));
                self.last = Bytes::from(buffer);
                let input = small.unwrap_or_else(|| self.last.clone());
                let mut state = shared.state.lock();
                let outcome = state.peer.handle_input(input, clock::moment());
                state.peer.drain_events(&mut self.events);
                if state.peer.output_size() > 0 {
                    shared.appended(state);
                }
                outcome?;
                // One that left room has emptied the socket, and the next will wait anyway.
                Ok(size == room)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.last = Bytes::from(buffer);
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Deadlines have passed.
    fn expire(&mut self, shared: &Shared) {
        let mut state = shared.state.lock();
        state.peer.handle_timeout(clock::moment());
        state.timer_at = state.peer.next_deadline();
        state.peer.drain_events(&mut self.events);
        shared.appended(state);
        // Answers are given out while the rest waits for the sink.
        let events = std::mem::take(&mut self.events);
        self.events = events.into_iter().filter_map(|event| shared.settle(event)).collect();
    }

    /// Whether the owner has something to do without a read.
    fn has_something(&self) -> bool {
        !self.events.is_empty() || self.failure.is_some()
    }
}

impl Shared {
    /// A read by somebody who waits for an answer. False when it should leave reading to the
    /// owner: somebody reads just now, or something came that the owner has to see first.
    pub(super) fn read_for_answer(&self) -> bool {
        let Some(mut reading) = self.reading.try_lock() else { return false };
        if reading.has_something() {
            return false;
        }
        if let Err(error) = reading.read(self) {
            reading.failure = Some(error);
        }
        while let Some(event) = reading.events.pop_front() {
            if let PeerEvent::Answer { .. } = event {
                self.settle(event);
            } else {
                reading.events.push_front(event);
                break;
            }
        }
        if reading.has_something() {
            self.wake_reader.notify_one();
            return false;
        }
        true
    }
}
