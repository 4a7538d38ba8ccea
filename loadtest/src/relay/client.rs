//! Clients of the relay: blocking sockets, batches of 64 KiB.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Result;

use super::{HEAD_SIZE, SUBSCRIBE, head};
use crate::clock;
use crate::input::{Input, READ_SIZE as BATCH_SIZE};
use crate::latency::Latencies;
use crate::part::{Line, say};
use crate::payload::{Checker, END, Pattern};

/// One connection.
struct Client {
    stream: UnixStream,
    input: Input,
}

impl Client {
    fn connect(socket: &Path, topics: &[u32]) -> Result<Self> {
        let mut client = Self { stream: UnixStream::connect(socket)?, input: Input::new() };
        if !topics.is_empty() {
            let mut frame = Vec::new();
            append_head(&mut frame, SUBSCRIBE, topics.len() * 4);
            topics.iter().for_each(|topic| frame.extend_from_slice(&topic.to_le_bytes()));
            client.stream.write_all(&frame)?;
            // The relay sends it back once it is in force.
            let mut echo = vec![0; frame.len()];
            client.stream.read_exact(&mut echo)?;
        }
        Ok(client)
    }

    /// Reads once and gives every complete payload.
    fn read(&mut self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.input.fill(&mut self.stream)?;
        let mut offset = 0;
        let bytes = self.input.bytes();
        while let Some((_topic, size)) = head(&bytes[offset..])
            && let Some(frame) = bytes.get(offset..offset + size)
        {
            take(&frame[HEAD_SIZE..])?;
            offset += size;
        }
        self.input.consume(offset);
        Ok(())
    }
}

/// Sends for a while, then the end mark.
pub(crate) fn send(socket: &Path, size: usize, nanos: u64) -> Result<()> {
    let mut client = Client::connect(socket, &[])?;
    let pattern = Pattern::new(size)?;
    let mut template = Vec::new();
    append_head(&mut template, STREAM, size);
    template.extend_from_slice(pattern.bytes());
    let per_batch = (BATCH_SIZE / template.len()).max(1);
    let mut batch = template.repeat(per_batch);
    let started = clock::monotonic_nanos();
    let mut sent: u64 = 0;
    while clock::monotonic_nanos() - started < nanos {
        for frame in batch.chunks_exact_mut(template.len()) {
            frame[HEAD_SIZE..HEAD_SIZE + 8].copy_from_slice(&sent.to_le_bytes());
            sent += 1;
        }
        client.stream.write_all(&batch)?;
    }
    template[HEAD_SIZE..HEAD_SIZE + 8].copy_from_slice(&END.to_le_bytes());
    client.stream.write_all(&template)?;
    say(&Line::Sent { count: sent, started, cpu: clock::cpu_nanos() })
}

/// Receives until the end mark.
pub(crate) fn receive(socket: &Path, size: usize) -> Result<()> {
    let mut client = Client::connect(socket, &[STREAM])?;
    let mut checker = Checker::new(size)?;
    say(&Line::Ready)?;
    let mut ended = false;
    while !ended {
        client.read(|payload| {
            ended |= checker.check(payload)?;
            Ok(())
        })?;
    }
    say(&Line::Received {
        count: checker.count(),
        ended: clock::monotonic_nanos(),
        cpu: clock::cpu_nanos(),
    })
}

/// Sends back what comes, a batch for each read.
pub(crate) fn echo(socket: &Path) -> Result<()> {
    let mut client = Client::connect(socket, &[QUESTION])?;
    say(&Line::Ready)?;
    let mut batch = Vec::new();
    loop {
        client.read(|payload| {
            append_head(&mut batch, ANSWER, payload.len());
            batch.extend_from_slice(payload);
            Ok(())
        })?;
        client.stream.write_all(&batch)?;
        batch.clear();
    }
}

/// Asks with so many questions in the air.
pub(crate) fn call(socket: &Path, size: usize, outstanding: usize, nanos: u64) -> Result<()> {
    let mut client = Client::connect(socket, &[ANSWER])?;
    let pattern = Pattern::new(size)?;
    let mut latencies = Latencies::new();
    let mut batch = Vec::new();
    let started = clock::monotonic_nanos();
    let question = |batch: &mut Vec<u8>| {
        append_head(batch, QUESTION, size);
        batch.extend_from_slice(&pattern.payload(clock::monotonic_nanos()));
    };
    (0..outstanding).for_each(|_| question(&mut batch));
    let mut open = outstanding;
    while open > 0 {
        client.stream.write_all(&batch)?;
        batch.clear();
        client.read(|payload| {
            let asked = payload.first_chunk().expect("an answer is as long as its question");
            let now = clock::monotonic_nanos();
            latencies.note(now - u64::from_le_bytes(*asked));
            open -= 1;
            if now - started < nanos {
                question(&mut batch);
                open += 1;
            }
            Ok(())
        })?;
    }
    say(&latencies.line(clock::monotonic_nanos() - started))
}

fn append_head(output: &mut Vec<u8>, topic: u32, length: usize) {
    let length = u32::try_from(length).expect("payloads are small");
    output.extend_from_slice(&length.to_le_bytes());
    output.extend_from_slice(&topic.to_le_bytes());
}

const STREAM: u32 = 1;
const QUESTION: u32 = 2;
const ANSWER: u32 = 3;
