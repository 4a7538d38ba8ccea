//! Calls.

use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use bytes::BytesMut;
use plugbus::wire::body::RouteKind;
use plugbus::wire::{CallReference, Kind};

use super::Connection;
use crate::clock;
use crate::latency::Latencies;
use crate::part::{Line, say};
use crate::payload::Pattern;

/// Answers with what it is asked, a batch for each read.
pub(crate) fn echo(socket: &Path) -> Result<()> {
    let mut connection = Connection::greet(socket, Some("echo"))?;
    connection.register(Some("echo"), None)?;
    say(&Line::Ready)?;
    let mut batch = BytesMut::new();
    loop {
        let builder = connection.builder(Kind::RESPONSE);
        connection.read(|frame| {
            if frame.header.kind == Kind::REQUEST {
                let reference = CallReference(frame.header.session).to_bytes();
                builder.route(frame.header.route).message_id(frame.header.message_id).append(
                    &mut batch,
                    &reference,
                    frame.body(),
                );
            }
            Ok(())
        })?;
        connection.stream.write_all(&batch)?;
        batch.clear();
    }
}

/// Asks with so many questions in the air.
pub(crate) fn call(socket: &Path, size: usize, outstanding: usize, nanos: u64) -> Result<()> {
    let mut connection = Connection::greet(socket, None)?;
    let route = connection.open(RouteKind::Method, "echo.echo")?;
    let builder = connection.builder(Kind::REQUEST).route(route);
    let pattern = Pattern::new(size)?;
    let mut latencies = Latencies::new();
    let mut batch = BytesMut::new();
    let mut last_id = 1_000;
    let started = clock::monotonic_nanos();
    let mut question = |batch: &mut BytesMut| {
        last_id += 1;
        let payload = pattern.payload(clock::monotonic_nanos());
        builder.message_id(last_id).append(batch, b"", &payload);
    };
    (0..outstanding).for_each(|_| question(&mut batch));
    let mut open = outstanding;
    while open > 0 {
        connection.stream.write_all(&batch)?;
        batch.clear();
        connection.read(|frame| {
            if frame.header.kind != Kind::RESPONSE {
                return Ok(());
            }
            let asked = frame.body().first_chunk().expect("an answer is as long as its question");
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
