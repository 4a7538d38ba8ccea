//! The bare relay: what moving bytes between processes costs at least.
//!
//! One tokio thread; frames are `[u32 length][u32 topic][payload]`. Reads of 64 KiB, one look-up in
//! the standard library's map for each frame, the frame is appended to the buffer of each
//! destination, and a buffer is written as one batch. A destination with 1 MiB in its buffer stops
//! whoever feeds it. No identity, no permission, no acknowledgement, no check: a floor, not a
//! product.

pub(crate) mod client;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::rc::Rc;

use anyhow::Result;
use bytes::BufMut as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use crate::part::{Line, say};

/// Bytes before a payload.
pub(crate) const HEAD_SIZE: usize = 8;

/// Topic of a frame whose payload lists the topics that the connection wants.
pub(crate) const SUBSCRIBE: u32 = 0;

/// Serves until the process is killed.
pub(crate) fn serve(socket: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let listener = UnixListener::bind(socket)?;
        say(&Line::Ready)?;
        let topics = Rc::new(RefCell::new(Topics::new()));
        loop {
            let (stream, _address) = listener.accept().await?;
            let (input, output) = stream.into_split();
            let own = Rc::new(Destination::default());
            tokio::task::spawn_local(write(output, Rc::clone(&own)));
            tokio::task::spawn_local(read(input, own, Rc::clone(&topics)));
        }
    })
}

type Topics = HashMap<u32, Vec<Rc<Destination>>>;

#[derive(Default)]
struct Destination {
    pending: RefCell<Vec<u8>>,
    touched: Cell<bool>,
    closed: Cell<bool>,
    queued: Notify,
    drained: Notify,
}

async fn read(
    mut stream: OwnedReadHalf,
    own: Rc<Destination>,
    topics: Rc<RefCell<Topics>>,
) -> io::Result<()> {
    let mut input: Vec<u8> = Vec::with_capacity(2 * READ_SIZE);
    let mut touched = Vec::new();
    loop {
        input.reserve(READ_SIZE);
        if stream.read_buf(&mut (&mut input).limit(READ_SIZE)).await? == 0 {
            own.closed.set(true);
            own.queued.notify_one();
            own.drained.notify_waiters();
            return Ok(());
        }
        let consumed = relay(&input, &own, &topics, &mut touched);
        input.drain(..consumed);
        for destination in touched.drain(..) {
            destination.touched.set(false);
            destination.queued.notify_one();
            while destination.pending.borrow().len() >= PENDING_MAX && !destination.closed.get() {
                destination.drained.notified().await;
            }
        }
    }
}

/// Hands on every complete frame. Gives the bytes that these take.
fn relay(
    input: &[u8],
    own: &Rc<Destination>,
    topics: &RefCell<Topics>,
    touched: &mut Vec<Rc<Destination>>,
) -> usize {
    let mut offset = 0;
    while let Some((topic, size)) = head(&input[offset..]) {
        let Some(frame) = input.get(offset..offset + size) else { break };
        offset += size;
        if topic == SUBSCRIBE {
            let (wanted, _rest) = frame[HEAD_SIZE..].as_chunks::<4>();
            for topic in wanted {
                let mut topics = topics.borrow_mut();
                topics.entry(u32::from_le_bytes(*topic)).or_default().push(Rc::clone(own));
            }
            own.pending.borrow_mut().extend_from_slice(frame);
            own.queued.notify_one();
            continue;
        }
        let topics = topics.borrow();
        let Some(destinations) = topics.get(&topic) else { continue };
        for destination in destinations {
            destination.pending.borrow_mut().extend_from_slice(frame);
            if !destination.touched.replace(true) {
                touched.push(Rc::clone(destination));
            }
        }
    }
    offset
}

async fn write(mut stream: OwnedWriteHalf, own: Rc<Destination>) -> io::Result<()> {
    let mut batch = Vec::new();
    loop {
        if own.pending.borrow().is_empty() {
            if own.closed.get() {
                return Ok(());
            }
            own.queued.notified().await;
            continue;
        }
        batch.clear();
        std::mem::swap(&mut batch, &mut own.pending.borrow_mut());
        stream.write_all(&batch).await?;
        own.drained.notify_waiters();
    }
}

/// Topic and size of the frame at the start.
#[inline]
pub(crate) fn head(input: &[u8]) -> Option<(u32, usize)> {
    let head = input.first_chunk::<HEAD_SIZE>()?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let topic = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    Some((topic, HEAD_SIZE + length as usize))
}

const READ_SIZE: usize = 64 << 10;

const PENDING_MAX: usize = 1 << 20;
