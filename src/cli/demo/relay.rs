//! A bare relay of frames between Unix sockets: what the broker's throughput is compared with.
//!
//! It does the least that a broker must: one tokio thread, 64 KiB reads, length-prefixed frames,
//! one look-up a frame, one write a batch. It checks, accounts and promises nothing; it is a floor,
//! not a product. A frame is `[u32 size][u32 topic][size bytes]`, little-endian.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// Accepts the receiver, which must be there first, and one sender; relays until the sender has
/// closed its end. Gives the number of relayed frames.
pub(crate) async fn relay(listener: &UnixListener) -> io::Result<u64> {
    let (mut receiver, _) = listener.accept().await?;
    let (mut sender, _) = listener.accept().await?;
    let mut batches: HashMap<u32, Vec<u8>> = HashMap::from([(TOPIC, Vec::new())]);
    let mut input = Vec::with_capacity(2 * READ_SIZE);
    let mut count = 0;
    loop {
        input.reserve(READ_SIZE);
        if sender.read_buf(&mut input).await? == 0 {
            break;
        }
        let used = split(&input, |topic, frame| {
            if let Some(batch) = batches.get_mut(&topic) {
                batch.extend_from_slice(frame);
                count += 1;
            }
        });
        input.drain(..used);
        for batch in batches.values_mut().filter(|batch| !batch.is_empty()) {
            receiver.write_all(batch).await?;
            batch.clear();
        }
    }
    receiver.shutdown().await?;
    Ok(count)
}

/// Sends frames of `size` bytes, numbered from 1, as fast as the relay takes them, while `goes_on`
/// says so of the number of those that were sent. Gives that number.
pub(crate) async fn send(
    path: &Path,
    size: usize,
    mut goes_on: impl FnMut(u64) -> bool,
) -> io::Result<u64> {
    let mut socket = UnixStream::connect(path).await?;
    let mut body = vec![0_u8; size.max(8)];
    let mut batch = Vec::with_capacity(2 * READ_SIZE);
    let mut count: u64 = 0;
    while goes_on(count) {
        count += 1;
        body[..8].copy_from_slice(&count.to_le_bytes());
        push_frame(&mut batch, &body);
        if batch.len() >= READ_SIZE {
            socket.write_all(&batch).await?;
            batch.clear();
        }
    }
    socket.write_all(&batch).await?;
    socket.shutdown().await?;
    Ok(count)
}

/// Receives until the relay closes. Gives how many frames came, and whether their numbers were 1,
/// 2, 3 … . This is a process of its own, like the plugin it is compared with.
pub(crate) fn receive(path: &Path, connected: impl FnOnce()) -> io::Result<(u64, bool)> {
    let mut socket = StdUnixStream::connect(path)?;
    connected();
    let (mut count, mut in_order) = (0, true);
    let mut input = Vec::with_capacity(2 * READ_SIZE);
    let mut buffer = vec![0; READ_SIZE];
    loop {
        let size = socket.read(&mut buffer)?;
        if size == 0 {
            socket.flush()?;
            return Ok((count, in_order && input.is_empty()));
        }
        input.extend_from_slice(&buffer[..size]);
        let used = split(&input, |_, frame| {
            count += 1;
            let number = frame.get(HEAD_SIZE..).and_then(|body| body.first_chunk());
            in_order &= number.is_some_and(|number| u64::from_le_bytes(*number) == count);
        });
        input.drain(..used);
    }
}

/// Gives every complete frame, head included, to `take`; returns the size of them all.
fn split(input: &[u8], mut take: impl FnMut(u32, &[u8])) -> usize {
    let mut used = 0;
    while let Some(head) = input[used..].first_chunk::<HEAD_SIZE>() {
        let [a, b, c, d, topic @ ..] = *head;
        let size = HEAD_SIZE + u32::from_le_bytes([a, b, c, d]) as usize;
        let Some(frame) = input[used..].get(..size) else { break };
        take(u32::from_le_bytes(topic), frame);
        used += size;
    }
    used
}

fn push_frame(batch: &mut Vec<u8>, body: &[u8]) {
    let size = u32::try_from(body.len()).expect("frames of the demo are small");
    batch.extend_from_slice(&size.to_le_bytes());
    batch.extend_from_slice(&TOPIC.to_le_bytes());
    batch.extend_from_slice(body);
}

const TOPIC: u32 = 7;
const HEAD_SIZE: usize = 8;
const READ_SIZE: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_frame_arrives_in_order() {
        for (count, size) in [(0, 64), (1, 8), (10_000, 64), (300, 70_000)] {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join("relay");
            let listener = UnixListener::bind(&path).unwrap();
            let (told, connected) = tokio::sync::oneshot::channel();
            let receiver = std::thread::spawn({
                let path = path.clone();
                move || receive(&path, || told.send(()).unwrap()).unwrap()
            });
            connected.await.unwrap();
            let sending = send(&path, size, |sent| sent < count);
            let (relayed, sent) = tokio::join!(relay(&listener), sending);
            assert_eq!(sent.unwrap(), count);
            assert_eq!(relayed.unwrap(), count);
            assert_eq!(receiver.join().unwrap(), (count, true));
        }
    }

    #[test]
    fn what_is_cut_waits_for_the_rest() {
        let mut batch = Vec::new();
        push_frame(&mut batch, b"one");
        push_frame(&mut batch, b"");
        for cut in 0..=batch.len() {
            let mut frames = Vec::new();
            let used = split(&batch[..cut], |topic, frame| frames.push((topic, frame.to_vec())));
            split(&batch[used..], |topic, frame| frames.push((topic, frame.to_vec())));
            assert_eq!(frames, [(TOPIC, batch[..11].to_vec()), (TOPIC, batch[11..].to_vec())]);
        }
    }
}
