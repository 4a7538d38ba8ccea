//! A call through a real broker: caller, broker and callee are threads of this process, between
//! them are Unix sockets. `loadtest` measures the same with processes, beside a bare relay.

#![expect(clippy::unwrap_used, reason = "a bench ends when something is wrong, like a test")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::TestBroker;
use criterion::{Criterion, criterion_group, criterion_main};
use plugbus::wire::body::RouteKind;
use plugbus::wire::{CallReference, Kind};

fn call(criterion: &mut Criterion) {
    let broker = TestBroker::start();
    let mut callee = broker.plugin("echo", &["echo"], &[]);
    callee.ping();
    let mut caller = broker.client();
    let route = caller.open(RouteKind::Method, "echo.echo").unwrap();
    let echo = std::thread::spawn(move || {
        while let Some(frame) = callee.try_frame() {
            if frame.header.kind == Kind::REQUEST {
                let answer = callee
                    .builder(Kind::RESPONSE)
                    .route(frame.header.route)
                    .message_id(frame.header.message_id)
                    .build(&CallReference(frame.header.session).to_bytes(), frame.view().body());
                callee.send(&answer);
            }
        }
    });
    let mut group = criterion.benchmark_group("broker/call");
    for size in [64, 1 << 10] {
        let body = vec![7; size];
        group.bench_function(format!("{size} B"), |bencher| {
            bencher.iter(|| {
                let id = caller.id();
                let request = caller.builder(Kind::REQUEST).route(route).message_id(id);
                let request = request.build(b"", &body);
                caller.send(&request);
                let answer = caller.frame_of(Kind::RESPONSE);
                assert_eq!((answer.header.message_id, answer.view().body()), (id, &body[..]));
            });
        });
    }
    group.finish();
    // The broker's end is the callee's.
    drop(broker);
    echo.join().unwrap();
}

criterion_group!(benches, call);
criterion_main!(benches);
