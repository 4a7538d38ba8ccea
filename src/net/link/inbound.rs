//! The reading half of a connection.

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
    /// What was read last, whose buffer is used again when nothing else refers to it.
    pub(super) last: Bytes,
    pub(super) events: VecDeque<PeerEvent>,
    pub(super) timer: Option<Pin<Box<Sleep>>>,
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

    pub(super) async fn handshake(&mut self) -> Result<Welcome, LinkError> {
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
        let mut buffer = match std::mem::take(&mut self.last).try_into_mut() {
            Ok(mut buffer) => {
                // An empty buffer becomes a vector without its bytes being moved.
                buffer.clear();
                Vec::from(buffer)
            }
            Err(_in_use) => Vec::new(),
        };
        buffer.reserve(limit::READ_BUFFER_SIZE);
        match self.shared.stream.try_read(&mut buffer) {
            Ok(0) => Err(LinkError::Closed),
            Ok(size) => {
                // A message that somebody keeps must not keep a whole buffer that is all but empty.
                let is_small = size < limit::READ_BUFFER_SIZE / 4;
                let small = is_small.then(|| Bytes::copy_from_slice(&buffer));
                self.last = Bytes::from(buffer);
                let input = small.unwrap_or_else(|| self.last.clone());
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
