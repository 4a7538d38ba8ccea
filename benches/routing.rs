//! What the engine does with frames between a read and a write, in one thread and without sockets:
//! a session takes a full read buffer, a route hands it on, the other side's outbox gives it out.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use plugbus::engine::{Effects, Now, Port, Router, RouterSettings, Session};
use plugbus::id::RouteId;
use plugbus::limit;
use plugbus::wire::body::{self, Hello, Role, RouteKind};
use plugbus::wire::{CallReference, ContentType, FrameBuilder, Kind, OVERHEAD, scan_frame};

fn channel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine/channel");
    for size in [64, 1 << 10, 16 << 10] {
        let count = (limit::READ_BUFFER_SIZE / (OVERHEAD + size)).max(1) as u64;
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{size} B"), |bencher| {
            let pair = RefCell::new(Pair::new());
            let route = pair.borrow_mut().open(RouteKind::Channel, "sink/bulk");
            let next = RefCell::new(1);
            bencher.iter_batched(
                || {
                    let first = next.replace_with(|next| *next + count);
                    let ids = first..first + count;
                    (pair.borrow().from.frames(Kind::MESSAGE, route, ids, size), first + count - 1)
                },
                |(input, last)| {
                    let pair = &mut *pair.borrow_mut();
                    pair.from.handle(&input, &mut pair.router);
                    pair.to.take_all();
                    let ack = pair.to.builder(Kind::ACK).route(route).message_id(last);
                    pair.to.handle(&ack.build(b"", b""), &mut pair.router);
                    pair.from.take_all();
                },
                BatchSize::NumIterations(64),
            );
            pair.borrow().check(next.into_inner() - 1);
        });
    }
    group.finish();
}

fn calls(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine/calls");
    for count in [1_u64, 64] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{count} outstanding"), |bencher| {
            let pair = RefCell::new(Pair::new());
            let route = pair.borrow_mut().open(RouteKind::Method, "sink.work");
            let next = RefCell::new(100);
            let reference = CallReference(pair.borrow().from.port.session).to_bytes();
            bencher.iter_batched(
                || {
                    let first = next.replace_with(|next| *next + count);
                    let pair = pair.borrow();
                    let ids = first..first + count;
                    let mut answers = BytesMut::new();
                    for id in ids.clone() {
                        let answer = pair.to.builder(Kind::RESPONSE).route(route).message_id(id);
                        answer.append(&mut answers, &reference, &[0; 64]);
                    }
                    (pair.from.frames(Kind::REQUEST, route, ids, 64), answers.freeze())
                },
                |(requests, answers)| {
                    let pair = &mut *pair.borrow_mut();
                    pair.from.handle(&requests, &mut pair.router);
                    pair.to.take_all();
                    pair.to.handle(&answers, &mut pair.router);
                    pair.from.take_all();
                },
                BatchSize::NumIterations(64),
            );
        });
    }
    group.finish();
}

/// Two peers: a client, and a plugin that serves `work` and `bulk`.
struct Pair {
    router: Router,
    from: Peer,
    to: Peer,
}

struct Peer {
    port: Arc<Port>,
    session: Session,
    fx: Effects,
    pieces: Vec<Bytes>,
}

impl Pair {
    fn new() -> Self {
        let settings = RouterSettings { name: "bench".to_owned(), seed: 7, limits: Arc::default() };
        let mut router = Router::new(settings, NOW);
        let from = Peer::new(&mut router, None);
        let mut to = Peer::new(&mut router, Some("sink"));
        let register = body::Register {
            methods: vec![body::Method { name: "work".to_owned(), ..body::Method::default() }],
            channels: vec![body::Channel { name: "bulk".to_owned(), help: None }],
            services: Vec::new(),
        };
        let register = to.control(Kind::REGISTER, &body::encode(&register));
        to.handle(&register, &mut router);
        to.take_all();
        Self { router, from, to }
    }

    fn open(&mut self, kind: RouteKind, name: &str) -> RouteId {
        let open = body::Open { kind, name: name.to_owned() };
        let open = self.from.control(Kind::OPEN, &body::encode(&open));
        self.from.handle(&open, &mut self.router);
        self.from.take();
        let answer = self.from.pieces.concat();
        let answer = scan_frame(&answer, u32::MAX).expect("good framing").expect("whole");
        let opened: body::Opened = body::decode(answer.body()).expect("the route is there");
        self.to.take_all();
        RouteId(opened.route)
    }

    /// What was measured must have happened.
    fn check(&self, messages: u64) {
        let [_, (_, tally), _] = self.router.tallies();
        assert_eq!((tally.accepted, tally.completed), (messages, messages));
    }
}

impl Peer {
    fn new(router: &mut Router, id: Option<&str>) -> Self {
        let hello = Hello {
            versions: vec![1],
            id: id.map(str::to_owned),
            role: if id.is_some() { Role::Plugin } else { Role::Client },
            ..Hello::default()
        };
        let mut fx = Effects::new();
        let port = router.handle_hello(&hello, None, Box::new(|| ()), NOW, &mut fx);
        let port = port.expect("a good hello is let in");
        fx.wake();
        let session = Session::new(&port);
        let mut peer = Self { port, session, fx, pieces: Vec::new() };
        peer.take_all();
        peer
    }

    fn builder(&self, kind: Kind) -> FrameBuilder {
        FrameBuilder::new(kind).session(self.port.session).timestamp(NOW.unix)
    }

    fn control(&self, kind: Kind, body: &[u8]) -> Bytes {
        self.builder(kind).message_id(1).content(ContentType::MessagePack).build(b"", body)
    }

    fn frames(&self, kind: Kind, route: RouteId, ids: std::ops::Range<u64>, size: usize) -> Bytes {
        let body = vec![0; size];
        let mut frames = BytesMut::with_capacity(limit::READ_BUFFER_SIZE);
        for id in ids {
            self.builder(kind).route(route).message_id(id).append(&mut frames, b"", &body);
        }
        frames.freeze()
    }

    /// As a driver does after a read.
    fn handle(&mut self, input: &Bytes, router: &mut Router) {
        let consumed = self.session.handle_input(input, NOW, &mut self.fx).expect("good framing");
        assert_eq!(consumed, input.len());
        for change in self.fx.take_changes() {
            router.handle_change(change, NOW, &mut self.fx);
        }
        self.fx.wake();
    }

    /// As a driver does before a write.
    fn take(&mut self) {
        self.pieces.clear();
        self.port.take(limit::WRITE_BATCH_SIZE, NOW, &mut self.pieces, &mut self.fx);
        self.fx.finish();
        self.fx.wake();
    }

    /// Takes everything, without keeping it.
    fn take_all(&mut self) {
        while self.port.has_queued() {
            self.take();
        }
    }
}

const NOW: Now = Now { mono: Duration::from_secs(1), unix: 1_800_000_000_000_000_000 };

criterion_group!(benches, channel, calls);
criterion_main!(benches);
