//! What a frame costs before anybody has looked at it: header, scan, append, packing, checksum.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use plugbus::id::{RouteId, SessionId};
use plugbus::wire::{
    Flags, FrameBuilder, HEADER_SIZE, Header, Kind, MessageExtension, compress_frame, plain_frame,
    scan_frame,
};

fn header(c: &mut Criterion) {
    let frame = message(1).build(b"", b"");
    let bytes: [u8; HEADER_SIZE] = frame[..HEADER_SIZE].try_into().expect("a header is whole");
    c.bench_function("header/parse", |b| {
        b.iter(|| Header::parse(black_box(&bytes), PAYLOAD_MAX));
    });
}

/// A full read buffer, as a session finds it.
fn scan(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan/64 KiB");
    for (name, body_size, flags) in [
        ("64 B frames", 64, 0),
        ("1 KiB frames", 1024, 0),
        ("1 KiB frames with checksum", 1024, Flags::CHECKSUM),
    ] {
        let buffer = buffer_of(body_size, flags);
        // Frames, not bytes: without a checksum the payload is not touched.
        group.throughput(Throughput::Elements((buffer.len() / (body_size + 44)) as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let (mut rest, mut count) = (black_box(&buffer[..]), 0_u64);
                while let Some(frame) = scan_frame(rest, PAYLOAD_MAX).expect("the frames are good")
                {
                    count += frame.header.message_id & 1;
                    rest = &rest[frame.bytes().len()..];
                }
                count
            });
        });
    }
    group.finish();
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    let extension = MessageExtension { key: 7, ..Default::default() }.to_bytes();
    for (name, body_size, flags, extension) in [
        ("64 B", 64, 0, &b""[..]),
        ("64 B with extension", 64, 0, &extension[..]),
        ("1 KiB", 1024, 0, &b""[..]),
        ("1 KiB with checksum", 1024, Flags::CHECKSUM, &b""[..]),
    ] {
        let body = vec![b'x'; body_size];
        let mut output = BytesMut::with_capacity(4096);
        group.throughput(Throughput::Bytes(body_size as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                output.clear();
                message(1).flags(flags).append(&mut output, black_box(extension), black_box(&body));
                output.len()
            });
        });
    }
    group.finish();
}

fn compress(c: &mut Criterion) {
    let mut group = c.benchmark_group("lz4/16 KiB of text");
    let body = text(16 << 10);
    let packed = compress_frame(&body).expect("text packs");
    let frame = message(1).flags(Flags::COMPRESSED).build(b"", &packed);
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("compress", |b| b.iter(|| compress_frame(black_box(&body))));
    group.bench_function("plain", |b| {
        let frame = scan_frame(&frame, PAYLOAD_MAX).expect("it is good").expect("it is whole");
        b.iter(|| plain_frame(black_box(&frame), PAYLOAD_MAX));
    });
    group.finish();
}

fn checksum(c: &mut Criterion) {
    let mut group = c.benchmark_group("verify");
    for (name, size) in [("64 B", 64), ("1 KiB", 1024), ("64 KiB", 64 << 10)] {
        let frame = message(1).flags(Flags::CHECKSUM).build(b"", &vec![b'x'; size]);
        let frame = scan_frame(&frame, PAYLOAD_MAX).expect("it is good").expect("it is whole");
        group.throughput(Throughput::Bytes(frame.bytes().len() as u64));
        group.bench_function(name, |b| b.iter(|| black_box(&frame).verify()));
    }
    group.finish();
}

/// As many frames as fit 64 KiB.
fn buffer_of(body_size: usize, flags: u16) -> BytesMut {
    let body = vec![b'x'; body_size];
    let mut buffer = BytesMut::new();
    let mut id = 1;
    while buffer.len() + body_size + 44 <= 64 << 10 {
        message(id).flags(flags).append(&mut buffer, b"", &body);
        id += 1;
    }
    buffer
}

/// Words in changing order, so that LZ4 finds some matches and not only one.
fn text(size: usize) -> Vec<u8> {
    const WORDS: [&str; 7] = ["credit", "window", "route", "a", "message", "of", "the"];
    let mut text = Vec::with_capacity(size + 8);
    let mut number = 1_u32;
    while text.len() < size {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.extend_from_slice(WORDS[(number >> 16) as usize % WORDS.len()].as_bytes());
        text.push(b' ');
    }
    text.truncate(size);
    text
}

fn message(id: u64) -> FrameBuilder {
    FrameBuilder::new(Kind::MESSAGE)
        .route(RouteId(18))
        .message_id(id)
        .session(SessionId(0x1122_3344_5566_7788))
        .timestamp(1_700_000_000_000_000_000)
}

const PAYLOAD_MAX: u32 = 1 << 20;

criterion_group!(benches, header, scan, append, compress, checksum);
criterion_main!(benches);
