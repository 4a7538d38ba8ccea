//! Bounds that a host has moved hold, and the peers are told of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{RawPeer, TestBroker};
use plugbus::error::{Code, Fault};
use plugbus::limit::{LimitError, Limits};
use plugbus::wire::body::{self, Gap, RouteKind, Subscribe, Welcome};
use plugbus::wire::{CallReference, Kind};

/// Each case: the bound, and what is refused with it after this was done.
#[test]
fn a_bound_that_was_moved_holds() {
    type Case = (&'static str, fn(&mut Limits), u64, fn(&TestBroker) -> Fault);
    let cases: &[Case] = &[
        (
            "sessions",
            |limits| limits.sessions_max = 2,
            2,
            |broker| {
                let _two = [broker.client(), broker.client()];
                broker.dial().greet(None).unwrap_err()
            },
        ),
        (
            "connections without a hello",
            |limits| limits.handshakes_max = 1,
            1,
            |broker| {
                let _silent = broker.dial();
                broker.dial().frame().fault()
            },
        ),
        (
            "routes",
            |limits| limits.routes_max = 1,
            1,
            |broker| {
                let mut peer = broker.client();
                peer.open(RouteKind::Topic, "a").unwrap();
                peer.open(RouteKind::Topic, "b").unwrap_err()
            },
        ),
        (
            "subscriptions",
            |limits| limits.subscriptions_max = 1,
            1,
            |broker| {
                let mut peer = broker.client();
                let subscribe = Subscribe { pattern: "a".to_owned(), ..Subscribe::default() };
                assert_eq!(peer.ask(Kind::SUBSCRIBE, &subscribe).header.kind, Kind::RESPONSE);
                peer.ask(Kind::SUBSCRIBE, &subscribe).fault()
            },
        ),
        (
            "registered methods",
            |limits| limits.registrations_max = 1,
            1,
            |broker| {
                let mut peer = broker.plugin("one", &["a"], &[]);
                let method = body::Method { name: "b".to_owned(), ..body::Method::default() };
                let register = body::Register { methods: vec![method], ..Default::default() };
                peer.ask(Kind::REGISTER, &register).fault()
            },
        ),
        (
            "requests queued for a callee",
            |limits| limits.callee_requests_max = 2,
            2,
            |broker| {
                // It does not read, and a socket holds less than these calls.
                let _callee = broker.plugin("deaf", &["hear"], &[]);
                let mut caller = broker.client();
                let route = caller.open(RouteKind::Method, "deaf.hear").unwrap();
                let payload = vec![7; 512 << 10];
                for id in 8..24 {
                    let request = caller.builder(Kind::REQUEST).route(route).message_id(id);
                    caller.send(&request.build(b"", &payload));
                }
                caller.frame_of(Kind::ERROR).fault()
            },
        ),
        (
            "unanswered requests",
            |limits| limits.requests_max = 1,
            1,
            |broker| {
                let _callee = broker.plugin("hello", &["greet"], &[]);
                let mut caller = broker.client();
                let route = caller.open(RouteKind::Method, "hello.greet").unwrap();
                for id in [8, 9] {
                    let request = caller.builder(Kind::REQUEST).route(route).message_id(id);
                    caller.send(&request.build(b"", b""));
                }
                let refused = caller.frame();
                assert_eq!(refused.header.message_id, 9);
                refused.fault()
            },
        ),
    ];
    for (resource, change, max, refused) in cases {
        let broker = start(*change);
        let fault = refused(&broker);
        assert_eq!(fault.code, Code::Refused, "{resource}: {fault}");
        assert_eq!(fault.details["resource"], *resource);
        assert_eq!(fault.details["limit"], *max);
    }
}

#[test]
fn peers_are_told_of_the_bounds_that_concern_them() {
    let broker = start(|limits| {
        limits.heartbeat = Duration::from_millis(7_000);
        limits.call_timeout = Duration::from_millis(9_000);
        limits.message_max = 2 << 20;
        limits.requests_max = 3;
        limits.request_bytes_max = 4;
        limits.routes_max = 5;
        limits.subscriptions_max = 6;
        limits.window_messages = 7;
        limits.window_bytes = 8;
    });
    let mut peer = broker.dial();
    let Welcome { heartbeat_ms, limits, .. } = peer.greet(None).unwrap();
    assert_eq!((heartbeat_ms, limits.call_timeout_ms), (7_000, Some(9_000)));
    assert_eq!((limits.message_max, limits.requests_max), (2 << 20, 3));
    assert_eq!((limits.request_bytes_max, limits.routes_max), (4, 5));
    assert_eq!(limits.subscriptions_max, 6);
    let open = body::Open { kind: RouteKind::Topic, name: "a".to_owned() };
    let opened: body::Opened = peer.ask(Kind::OPEN, &open).body();
    assert_eq!((opened.window_messages, opened.window_bytes), (Some(7), Some(8)));
}

#[test]
fn a_call_without_a_deadline_gets_the_brokers() {
    let broker = start(|limits| limits.call_timeout = Duration::from_millis(1));
    let _callee = broker.plugin("hello", &["greet"], &[]);
    let mut caller = broker.client();
    let route = caller.open(RouteKind::Method, "hello.greet").unwrap();
    caller.send(&caller.builder(Kind::REQUEST).route(route).message_id(8).build(b"", b""));
    assert_eq!(caller.frame().fault().code, Code::Timeout);
}

#[test]
fn a_smaller_window_is_kept() {
    let broker = start(|limits| limits.window_messages = 2);
    let mut receiver = broker.plugin("sink", &[], &["bulk"]);
    let mut sender = broker.client();
    let route = sender.open(RouteKind::Channel, "sink/bulk").unwrap();
    let send = |sender: &mut RawPeer, ids: [u64; 3]| {
        let messages = ids.map(|id| {
            sender.builder(Kind::MESSAGE).route(route).message_id(id).build(b"", b"m").to_vec()
        });
        sender.send(&messages.concat());
    };
    send(&mut sender, [1, 2, 3]);
    let fault = sender.frame_of(Kind::ERROR).fault();
    assert_eq!(fault.code, Code::CreditOverrun, "{fault}");
    for id in 1..=2 {
        assert_eq!(receiver.frame_of(Kind::MESSAGE).header.message_id, id);
    }
    receiver.send(&receiver.builder(Kind::ACK).route(route).message_id(2).build(b"", b""));
    while sender.frame_of(Kind::ACK).header.message_id < 2 {}
    send(&mut sender, [3, 4, 5]);
    assert_eq!(receiver.frame_of(Kind::MESSAGE).header.message_id, 3);
}

#[test]
fn what_an_absent_receiver_leaves_is_given_up_when_the_host_says() {
    let broker = start(|limits| limits.absent_timeout = Duration::from_millis(1));
    let receiver = broker.plugin("sink", &[], &["bulk"]);
    let mut sender = broker.client();
    let route = sender.open(RouteKind::Channel, "sink/bulk").unwrap();
    drop(receiver);
    broker.wait_gone("sink");
    sender.send(&sender.builder(Kind::MESSAGE).route(route).message_id(1).build(b"", b"m"));
    let gap = sender.frame_of(Kind::GAP);
    assert_eq!((gap.header.message_id, gap.body::<Gap>().last), (1, 1));
}

#[test]
fn a_subscriber_cannot_ask_for_more_events_than_the_host_allows() {
    let broker = start(|limits| limits.event_queue_messages = 3);
    let mut subscriber = broker.client();
    let subscribe = Subscribe {
        pattern: "news".to_owned(),
        queue_messages: Some(1_000),
        ..Subscribe::default()
    };
    subscriber.ask(Kind::SUBSCRIBE, &subscribe);
    let mut publisher = broker.client();
    let route = publisher.open(RouteKind::Topic, "news").unwrap();
    let events: Vec<u8> = (1..=10)
        .flat_map(|id| {
            publisher.builder(Kind::EVENT).route(route).message_id(id).build(b"", b"e").to_vec()
        })
        .collect();
    // One write, so that the events arrive as one run that is larger than the queue.
    publisher.send(&events);
    let gap = subscriber.frame_of(Kind::GAP);
    assert_eq!((gap.header.message_id, gap.body::<Gap>().last), (1, 7));
}

/// The answer of a callee that knows nothing of the caller's bounds is still bounded.
#[test]
fn a_message_over_the_bound_is_refused_in_pieces_too() {
    let broker = start(|limits| limits.message_max = 1 << 20);
    let mut callee = broker.plugin("hello", &["greet"], &[]);
    let mut caller = broker.client();
    let route = caller.open(RouteKind::Method, "hello.greet").unwrap();
    let piece = vec![7; 600 << 10];
    for flags in [plugbus::wire::Flags::MORE, 0] {
        let request = caller.builder(Kind::REQUEST).route(route).message_id(8);
        caller.send(&request.flags(flags).build(b"", &piece));
    }
    let fault = caller.frame().fault();
    assert_eq!(fault.code, Code::TooLarge, "{fault}");
    assert!(fault.message.contains("1048576"), "{fault}");
    callee.ping();
    let reference = CallReference(caller.session).to_bytes();
    callee.send(&callee.builder(Kind::RESPONSE).route(route).message_id(8).build(&reference, b""));
    assert_eq!(callee.frame().header.kind, Kind::ERROR, "there is no such call");
}

#[test]
fn a_broker_with_bounds_that_contradict_each_other_does_not_start() {
    let mut limits = Limits::default();
    limits.window_bytes = limits.retained_bytes_max + 1;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let started = runtime.block_on(plugbus::Broker::builder().limits(limits).start());
    let Err(plugbus::BrokerError::Limits(error)) = started else { panic!("it started") };
    assert!(matches!(error, LimitError::Contradiction { smaller: "window_bytes", .. }));
}

fn start(change: impl FnOnce(&mut Limits)) -> TestBroker {
    let mut limits = Limits::default();
    limits.drain_timeout = Duration::from_millis(200);
    change(&mut limits);
    TestBroker::start_with(|builder| builder.limits(limits))
}
