//! Moves bytes between one socket and the engine: reads feed a [`Session`], the outbox of its
//! [`Port`] is drained into writes.
//!
//! Nothing is decided here. Reading yields after each full buffer, so that a flood does not starve
//! the neighbours; after one that was not filled it waits for the socket anyway. Writing gathers
//! what is queued into few, large writes.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::sync::Notify;

use super::socket::Socket;
use super::{buffers, clock, uptime};
use crate::engine::{Change, Effects, Pending, Port, Session};
use crate::error::{Fault, FrameError};
use crate::limit;
use crate::wire::body::{self, Hello};
use crate::wire::{Dialect, FrameBuilder, HEADER_SIZE, Header, Kind, scan_frame};

/// Where the changes go that a session asks for.
pub(crate) trait Changes {
    /// Has them decided, in order. The session is not read from meanwhile.
    async fn apply(&self, changes: Vec<Change>);

    /// A deadline came that is earlier than all before.
    fn deadline_moved(&self);
}

/// Waits for the hello. `None` when the peer leaves without one.
pub(crate) async fn read_hello(
    stream: &Socket,
    input: &mut Vec<u8>,
) -> io::Result<Option<Result<Hello, Fault>>> {
    loop {
        if let Some(&first) = input.first() {
            let spoken = Dialect::detect(first).and_then(Dialect::require_spoken);
            match spoken.and_then(|()| scan_frame(input, limit::PAYLOAD_MAX)) {
                Ok(None) => (),
                Ok(Some(frame)) => {
                    let size = frame.bytes().len();
                    let hello = match frame.header.kind {
                        Kind::HELLO => body::decode_hello(frame.body()),
                        kind => Err(FrameError::HelloExpected(kind.0).into()),
                    };
                    input.drain(..size);
                    return Ok(Some(hello));
                }
                Err(error) => return Ok(Some(Err(error.into()))),
            }
        }
        stream.readable().await?;
        input.reserve(needed(input).max(HELLO_READ_SIZE));
        match stream.try_read(input) {
            Ok(0) => return Ok(None),
            Ok(_) => (),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            Err(error) => return Err(error),
        }
    }
}

/// Tells a peer that was not let in why. Best effort: it may have gone.
pub(crate) async fn refuse(stream: &Socket, fault: &Fault) {
    let frame = FrameBuilder::new(Kind::ERROR)
        .timestamp(clock::unix_nanos())
        .build(b"", &body::encode_fault(fault));
    let mut rest = &frame[..];
    while !rest.is_empty() {
        match stream.try_write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if stream.writable().await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// Reads until the peer or the session ends, and says why.
pub(crate) async fn read(
    stream: &Socket,
    session: &mut Session,
    mut input: Vec<u8>,
    changes: &impl Changes,
) -> String {
    let mut fx = Effects::new();
    let mut is_drained = true;
    loop {
        if !input.is_empty() {
            match feed(session, input, changes, &mut fx).await {
                Ok(rest) => input = rest,
                Err(error) => return error.to_string(),
            }
            if !is_drained {
                tokio::task::yield_now().await;
            }
        } else if input.capacity() > 0 {
            buffers::give_back(std::mem::take(&mut input));
        }
        loop {
            if let Err(error) = stream.readable().await {
                return error.to_string();
            }
            if input.capacity() == 0 {
                input = buffers::take();
            }
            input.reserve(needed(&input));
            let room = input.capacity() - input.len();
            match stream.try_read(&mut input) {
                Ok(0) => return "the peer closed the connection".to_owned(),
                Ok(count) => {
                    is_drained = count < room;
                    if is_complete(&input) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if input.is_empty() {
                        buffers::give_back(std::mem::take(&mut input));
                    }
                }
                Err(error) => return error.to_string(),
            }
        }
    }
}

/// Writes what is queued until the session is to end.
pub(crate) async fn write(
    stream: &Socket,
    port: &Arc<Port>,
    wake: &Notify,
    changes: &impl Changes,
) {
    let mut fx = Effects::new();
    let mut pieces = Vec::new();
    let mut gathered = BytesMut::new();
    loop {
        match port.pending() {
            Pending::Some => (),
            Pending::End => return,
            Pending::None => {
                wake.notified().await;
                continue;
            }
        }
        let now = uptime::now();
        port.take(limit::WRITE_BATCH_SIZE, now, &mut pieces, &mut fx);
        fx.finish();
        let asked = fx.take_changes();
        if !asked.is_empty() {
            changes.apply(asked).await;
        }
        fx.wake();
        if write_all(stream, port, wake, &mut pieces, &mut gathered).await.is_err() {
            // The peer is gone; the reading side hears of it too, and says so.
            port.kill_quietly("the peer closed the connection");
            return;
        }
    }
}

/// Handles every complete frame and gives what is left in a buffer of its own.
async fn feed(
    session: &mut Session,
    input: Vec<u8>,
    changes: &impl Changes,
    fx: &mut Effects,
) -> Result<Vec<u8>, FrameError> {
    let input = Bytes::from(input);
    let outcome = session.handle_input(&input, uptime::now(), fx);
    let asked = fx.take_changes();
    if fx.take_deadline_moved() {
        changes.deadline_moved();
    }
    fx.wake();
    if !asked.is_empty() {
        changes.apply(asked).await;
    }
    let consumed = outcome?;
    let rest = if consumed == input.len() {
        Vec::new()
    } else {
        let mut rest = buffers::take();
        rest.extend_from_slice(&input[consumed..]);
        rest
    };
    buffers::recycle(input);
    Ok(rest)
}

/// Writes all pieces. Small neighbours are gathered, so that a write has few parts.
async fn write_all(
    stream: &Socket,
    port: &Port,
    wake: &Notify,
    pieces: &mut Vec<Bytes>,
    gathered: &mut BytesMut,
) -> io::Result<()> {
    gather(pieces, gathered);
    let mut first = 0;
    while first < pieces.len() {
        match try_write(stream, &pieces[first..]) {
            Ok(mut written) => {
                while first < pieces.len() && written >= pieces[first].len() {
                    written -= pieces[first].len();
                    first += 1;
                }
                if written > 0 {
                    let _written = pieces[first].split_to(written);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for_room(stream, port, wake).await?;
            }
            Err(error) => return Err(error),
        }
    }
    pieces.clear();
    Ok(())
}

/// Until the peer has read something. What is queued meanwhile changes nothing.
async fn wait_for_room(stream: &Socket, port: &Port, wake: &Notify) -> io::Result<()> {
    let writable = stream.writable();
    tokio::pin!(writable);
    loop {
        let is_leaving = !port.is_open();
        tokio::select! {
            ready = &mut writable => return ready,
            () = wake.notified() => {
                if port.is_closed() {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
            // One that said goodbye and does not read is waited for no longer than this.
            () = tokio::time::sleep(limit::DRAIN_TIMEOUT), if is_leaving => {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

fn try_write(stream: &Socket, pieces: &[Bytes]) -> io::Result<usize> {
    if let [piece] = pieces {
        return stream.try_write(piece);
    }
    let slices: Vec<IoSlice<'_>> =
        pieces.iter().take(IOV_MAX).map(|piece| IoSlice::new(piece)).collect();
    let mut nothing = SendAncillaryBuffer::default();
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(sendmsg(stream, &slices, &mut nothing, flags)?)
}

fn gather(pieces: &mut Vec<Bytes>, gathered: &mut BytesMut) {
    if pieces.len() < 2 || pieces.iter().all(|piece| piece.len() > GATHER_MAX) {
        return;
    }
    let mut output = Vec::with_capacity(pieces.len());
    gathered.reserve(limit::READ_BUFFER_SIZE);
    for piece in pieces.drain(..) {
        if piece.len() <= GATHER_MAX {
            gathered.extend_from_slice(&piece);
        } else {
            if !gathered.is_empty() {
                output.push(gathered.split().freeze());
            }
            output.push(piece);
        }
    }
    if !gathered.is_empty() {
        output.push(gathered.split().freeze());
    }
    *pieces = output;
}

/// Room that the next read should have: at least the rest of the frame that has begun.
fn needed(input: &[u8]) -> usize {
    match frame_size(input) {
        Some(size) if size > input.len() => (size - input.len()).max(MIN_READ_SIZE),
        _ => MIN_READ_SIZE,
    }
}

/// Whether there is something to handle: a whole frame, or what is no frame at all.
fn is_complete(input: &[u8]) -> bool {
    match input.first_chunk::<HEADER_SIZE>() {
        Some(_) => frame_size(input).is_none_or(|size| size <= input.len()),
        None => input.first().is_some_and(|&byte| byte != Header::DIALECT),
    }
}

/// Size of the frame at the start, if its header is there and good.
fn frame_size(input: &[u8]) -> Option<usize> {
    let bytes = input.first_chunk::<HEADER_SIZE>()?;
    Header::parse(bytes, limit::PAYLOAD_MAX).ok().map(|header| header.frame_size())
}

impl Port {
    /// Ends the session from a place that has no batch of effects open.
    pub(crate) fn kill_quietly(self: &Arc<Self>, reason: &str) {
        let mut fx = Effects::new();
        self.kill(reason, &mut fx);
        fx.wake();
    }
}

/// Pieces up to this are copied together.
const GATHER_MAX: usize = 4 << 10;

/// Parts of one write; the kernel takes 1,024.
const IOV_MAX: usize = 256;

/// A read below this is not worth a system call.
const MIN_READ_SIZE: usize = 16 << 10;

/// A hello fits in most cases.
const HELLO_READ_SIZE: usize = 2 << 10;
