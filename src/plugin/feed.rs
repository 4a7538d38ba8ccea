//! Events that wait in this process for whoever takes them.
//!
//! The broker sheds what the connection cannot take; here it is what a handler cannot. Both follow
//! the choice of the subscription, and both leave a receipt.
//!
//! Invariant: every event that came is taken, or is counted in exactly one gap that is taken.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::event::{Gap, Received};
use crate::limit;
use crate::wire::body::{Overflow, Subscribe};

/// The end where events are taken.
#[derive(Debug)]
pub(super) struct Feed(Arc<Shared>);

/// The end where they come in. Dropped, it ends the feed after what waits in it.
#[derive(Debug)]
pub(super) struct FeedInput(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug)]
struct Waiting {
    received: VecDeque<Received>,
    size: u64,
    bounds: Bounds,
    /// Shed before the first that waits.
    missed_before: u64,
    /// Shed after the last.
    missed_after: u64,
    closed: bool,
}

/// How much may wait, and what goes when more comes.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    messages: u64,
    bytes: u64,
    keeps_oldest: bool,
}

/// A feed for what a subscription asks for.
pub(super) fn feed(request: &Subscribe) -> (FeedInput, Feed) {
    let waiting = Waiting {
        received: VecDeque::new(),
        size: 0,
        bounds: Bounds::of(request),
        missed_before: 0,
        missed_after: 0,
        closed: false,
    };
    let shared = Arc::new(Shared { waiting: Mutex::new(waiting), changed: Notify::new() });
    (FeedInput(Arc::clone(&shared)), Feed(shared))
}

impl FeedInput {
    pub(super) fn push(&self, received: Received) {
        self.0.waiting.lock().push(received);
        self.0.changed.notify_one();
    }
}

impl Drop for FeedInput {
    fn drop(&mut self) {
        self.0.waiting.lock().closed = true;
        self.0.changed.notify_one();
    }
}

impl Feed {
    /// The next event, or how many are missing here. `None` when no more will come.
    pub(super) async fn next(&mut self) -> Option<Received> {
        loop {
            {
                let mut waiting = self.0.waiting.lock();
                if let Some(received) = waiting.take() {
                    return Some(received);
                }
                if waiting.closed {
                    return None;
                }
            }
            self.0.changed.notified().await;
        }
    }
}

impl Bounds {
    fn of(request: &Subscribe) -> Self {
        let Subscribe { overflow, queue_messages, queue_bytes, .. } = request;
        match overflow {
            // What the publishers' windows have let through must go somewhere: they are held back
            // by the socket, which this connection cannot stop reading while calls wait for it.
            Overflow::Block => Self {
                messages: limit::WINDOW_MESSAGES_MAX,
                bytes: limit::EVENT_QUEUE_BYTES_MAX,
                keeps_oldest: true,
            },
            overflow => Self {
                messages: queue_messages.unwrap_or(limit::EVENT_QUEUE_MESSAGES).max(1),
                bytes: queue_bytes.unwrap_or(limit::EVENT_QUEUE_BYTES).max(1),
                keeps_oldest: *overflow == Overflow::DropNewest,
            },
        }
    }
}

impl Waiting {
    fn push(&mut self, received: Received) {
        let size = bytes_of(&received);
        while !self.has_room(size) {
            if self.bounds.keeps_oldest {
                self.missed_after += count_of(&received);
                return;
            }
            let oldest = self.received.pop_front().expect("nothing waiting leaves room");
            self.size -= bytes_of(&oldest);
            self.missed_before += count_of(&oldest);
        }
        if let Some(gap) = self.missed_after() {
            self.received.push_back(gap);
        }
        self.size += size;
        self.received.push_back(received);
    }

    fn take(&mut self) -> Option<Received> {
        if self.missed_before > 0 {
            return Some(too_slow(std::mem::take(&mut self.missed_before)));
        }
        let Some(received) = self.received.pop_front() else { return self.missed_after() };
        self.size -= bytes_of(&received);
        Some(received)
    }

    /// One that is larger than the bound waits alone.
    fn has_room(&self, size: u64) -> bool {
        let bounds = self.bounds;
        self.received.is_empty()
            || (self.received.len() as u64) < bounds.messages && self.size + size <= bounds.bytes
    }

    fn missed_after(&mut self) -> Option<Received> {
        let missed = std::mem::take(&mut self.missed_after);
        (missed > 0).then(|| too_slow(missed))
    }
}

fn too_slow(count: u64) -> Received {
    let cause = "they were not taken fast enough".to_owned();
    Received::Gap(Gap { topic: None, count, cause })
}

fn count_of(received: &Received) -> u64 {
    match received {
        Received::Event(_) => 1,
        Received::Gap(gap) => gap.count,
    }
}

fn bytes_of(received: &Received) -> u64 {
    match received {
        Received::Event(event) => event.body().len() as u64,
        Received::Gap(_) => 0,
    }
}
