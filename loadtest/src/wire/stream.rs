//! Streams: a channel, and events for subscribers that make their publisher wait.

use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use plugbus::limit;
use plugbus::wire::body::{Overflow, RouteKind, Subscribe, Subscribed};
use plugbus::wire::{HEADER_SIZE, Kind};

use super::Connection;
use crate::clock;
use crate::input::READ_SIZE as BATCH_SIZE;
use crate::part::{Line, say};
use crate::payload::{Checker, END, Pattern};

/// Sends down a channel for a while, then the end mark, and waits until all is acknowledged.
pub(crate) fn send(socket: &Path, size: usize, nanos: u64) -> Result<()> {
    let mut connection = Connection::greet(socket, None)?;
    let route = connection.open(RouteKind::Channel, "sink/bulk")?;
    Sender::new(connection, Kind::MESSAGE, route, size)?.run(nanos)
}

/// Publishes for a while, then the end mark.
pub(crate) fn publish(socket: &Path, size: usize, nanos: u64) -> Result<()> {
    let mut connection = Connection::greet(socket, None)?;
    let route = connection.open(RouteKind::Topic, "load.stream")?;
    Sender::new(connection, Kind::EVENT, route, size)?.run(nanos)
}

/// Receives from a channel until the end mark. Acknowledges once for each read.
pub(crate) fn receive(socket: &Path, size: usize) -> Result<()> {
    let mut connection = Connection::greet(socket, Some("sink"))?;
    connection.register(None, Some("bulk"))?;
    say(&Line::Ready)?;
    let mut checker = Checker::new(size)?;
    let mut ended = false;
    while !ended {
        let mut last = None;
        connection.read(|frame| {
            if frame.header.kind == Kind::MESSAGE {
                ended |= checker.check(frame.body())?;
                last = Some((frame.header.route, frame.header.message_id));
            }
            Ok(())
        })?;
        if let Some((route, id)) = last {
            let ack = connection.builder(Kind::ACK).route(route).message_id(id).build(b"", b"");
            connection.stream.write_all(&ack)?;
        }
    }
    say(&Line::Received {
        count: checker.count(),
        ended: clock::monotonic_nanos(),
        cpu: clock::cpu_nanos(),
    })
}

/// Receives events until the end mark.
pub(crate) fn subscribe(socket: &Path, size: usize) -> Result<()> {
    let mut connection = Connection::greet(socket, None)?;
    let subscribe = Subscribe {
        pattern: "load.stream".to_owned(),
        overflow: Overflow::Block,
        queue_messages: None,
        queue_bytes: None,
    };
    let _subscribed: Subscribed = connection.ask(Kind::SUBSCRIBE, &subscribe)?;
    say(&Line::Ready)?;
    let mut checker = Checker::new(size)?;
    let mut ended = false;
    while !ended {
        connection.read(|frame| {
            if frame.header.kind == Kind::EVENT {
                ended |= checker.check(frame.body())?;
            }
            Ok(())
        })?;
    }
    say(&Line::Received {
        count: checker.count(),
        ended: clock::monotonic_nanos(),
        cpu: clock::cpu_nanos(),
    })
}

/// The sending end of one route, within its window.
struct Sender {
    connection: Connection,
    /// A frame whose message id and number are filled in for each message.
    template: Vec<u8>,
    size: u64,
    last_id: u64,
    completed: u64,
}

impl Sender {
    fn new(
        connection: Connection,
        kind: Kind,
        route: plugbus::id::RouteId,
        size: usize,
    ) -> Result<Self> {
        let pattern = Pattern::new(size)?;
        let template = connection
            .builder(kind)
            .route(route)
            .timestamp(clock::unix_nanos())
            .build(b"", pattern.bytes())
            .to_vec();
        Ok(Self { connection, template, size: size as u64, last_id: 0, completed: 0 })
    }

    fn run(mut self, nanos: u64) -> Result<()> {
        let per_batch = (BATCH_SIZE / self.template.len()).max(1);
        let mut batch = self.template.repeat(per_batch);
        let started = clock::monotonic_nanos();
        let mut sent: u64 = 0;
        while clock::monotonic_nanos() - started < nanos {
            let count = self.room(per_batch as u64)?;
            let timestamp = clock::unix_nanos();
            let size = self.template.len();
            let frames = &mut batch[..count as usize * size];
            for frame in frames.chunks_exact_mut(size) {
                self.last_id += 1;
                frame[8..16].copy_from_slice(&self.last_id.to_le_bytes());
                frame[24..32].copy_from_slice(&timestamp.to_le_bytes());
                frame[HEADER_SIZE..HEADER_SIZE + 8].copy_from_slice(&sent.to_le_bytes());
                sent += 1;
            }
            self.connection.stream.write_all(frames)?;
            self.poll_acks()?;
        }
        self.room(1)?;
        self.last_id += 1;
        self.template[8..16].copy_from_slice(&self.last_id.to_le_bytes());
        self.template[HEADER_SIZE..HEADER_SIZE + 8].copy_from_slice(&END.to_le_bytes());
        self.connection.stream.write_all(&self.template)?;
        while self.completed < self.last_id {
            self.read_acks()?;
        }
        say(&Line::Sent { count: sent, started, cpu: clock::cpu_nanos() })
    }

    /// Waits until at least one message may be sent; gives how many, `most` at most.
    fn room(&mut self, most: u64) -> Result<u64> {
        loop {
            let unsettled = self.last_id - self.completed;
            let bytes_left = limit::WINDOW_BYTES.saturating_sub(unsettled * self.size);
            let room = (limit::WINDOW_MESSAGES - unsettled).min(bytes_left.div_ceil(self.size));
            if room > 0 {
                return Ok(room.min(most));
            }
            self.read_acks()?;
        }
    }

    /// Takes what acknowledgements are there.
    fn poll_acks(&mut self) -> Result<()> {
        let completed = &mut self.completed;
        self.connection.try_read(|frame| {
            if frame.header.kind == Kind::ACK {
                *completed = frame.header.message_id;
            }
            Ok(())
        })
    }

    fn read_acks(&mut self) -> Result<()> {
        let completed = &mut self.completed;
        self.connection.read(|frame| {
            if frame.header.kind == Kind::ACK {
                *completed = frame.header.message_id;
            }
            Ok(())
        })
    }
}
