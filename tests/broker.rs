//! The broker with raw peers: what each frame does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::TestBroker;
use plugbus::error::Code;
use plugbus::wire::body::{Announce, Gap, Overflow, RouteKind, Subscribe};
use plugbus::wire::{CallReference, Kind, RequestExtension};

#[test]
fn a_call_goes_there_and_back_unchanged() {
    let broker = TestBroker::start();
    let mut callee = broker.plugin("hello", &["greet"], &[]);
    let mut caller = broker.client();
    callee.ping();
    let route = caller.open(RouteKind::Method, "hello.greet").unwrap();
    let request = caller.builder(Kind::REQUEST).route(route).message_id(9).build(b"", b"payload");
    caller.send(&request);

    let announce: Announce = callee.frame_of(Kind::ANNOUNCE).body();
    assert_eq!((announce.route, &announce.name[..]), (route.0, "greet"));
    assert_eq!(announce.session, caller.session.0);
    let received = callee.frame();
    assert_eq!(received.bytes(), &request[..], "the broker hands on what came");

    let response = callee
        .builder(Kind::RESPONSE)
        .route(route)
        .message_id(9)
        .build(&CallReference(caller.session).to_bytes(), b"answer");
    callee.send(&response);
    assert_eq!(caller.frame().bytes(), &response[..]);
    assert_eq!(broker.status()["tally"]["requests"]["completed"], 1);
}

#[test]
fn a_name_that_is_wrong_is_answered_with_what_may_be_meant() {
    let broker = TestBroker::start();
    let mut callee = broker.plugin("hello", &["greet"], &[]);
    callee.ping();
    let mut caller = broker.client();
    let fault = caller.open(RouteKind::Method, "hello.gret").unwrap_err();
    assert_eq!(fault.code, Code::NotFound);
    assert_eq!(fault.details["suggestions"][0], "greet");
    let fault = caller.open(RouteKind::Method, "helo.greet").unwrap_err();
    assert_eq!(fault.details["suggestions"][0], "hello");
}

#[test]
fn what_a_receiver_did_not_acknowledge_comes_again_in_order() {
    let broker = TestBroker::start();
    let mut sender = broker.client();
    let mut receiver = broker.plugin("sink", &[], &["bulk"]);
    receiver.ping();
    let route = sender.open(RouteKind::Channel, "sink/bulk").unwrap();
    for id in 1..=5 {
        let message = sender.builder(Kind::MESSAGE).route(route).message_id(id).build(b"", b"m");
        sender.send(&message);
    }
    for id in 1..=5 {
        assert_eq!(receiver.frame_of(Kind::MESSAGE).header.message_id, id);
    }
    let ack = receiver.builder(Kind::ACK).route(route).message_id(2).build(b"", b"");
    receiver.send(&ack);
    while sender.frame_of(Kind::ACK).header.message_id < 2 {}
    drop(receiver);
    broker.wait_gone("sink");

    let mut receiver = broker.plugin("sink", &[], &["bulk"]);
    let announce: Announce = receiver.frame_of(Kind::ANNOUNCE).body();
    assert_eq!(announce.route, route.0);
    let redelivery = receiver.frame();
    assert_eq!((redelivery.header.kind, redelivery.header.message_id), (Kind::REDELIVERY, 3));
    for id in 3..=5 {
        assert_eq!(receiver.frame().header.message_id, id);
    }
}

#[test]
fn an_event_queue_that_overflows_says_exactly_what_is_missing() {
    let broker = TestBroker::start();
    let mut subscriber = broker.client();
    let subscribe = Subscribe {
        pattern: "news.*".to_owned(),
        overflow: Overflow::DropOldest,
        queue_messages: Some(3),
        queue_bytes: None,
    };
    subscriber.ask(Kind::SUBSCRIBE, &subscribe);
    let mut publisher = broker.client();
    let route = publisher.open(RouteKind::Topic, "news.local").unwrap();
    // One write, so that the events arrive as one run that is larger than the queue.
    let mut events = Vec::new();
    for id in 1..=10 {
        let event = publisher.builder(Kind::EVENT).route(route).message_id(id).build(b"", b"e");
        events.extend_from_slice(&event);
    }
    publisher.send(&events);
    assert_eq!(subscriber.frame().header.kind, Kind::ANNOUNCE);
    let gap = subscriber.frame();
    assert_eq!((gap.header.kind, gap.header.message_id), (Kind::GAP, 1));
    assert_eq!(gap.body::<Gap>().last, 7);
    for id in 8..=10 {
        assert_eq!(subscriber.frame().header.message_id, id);
    }
    let tally = &broker.status()["tally"]["events"];
    assert_eq!((&tally["accepted"], &tally["shed"]), (&10.into(), &7.into()));
}

#[test]
fn a_deadline_ends_a_call_that_nobody_answers() {
    let broker = TestBroker::start();
    let mut callee = broker.plugin("slow", &["wait"], &[]);
    callee.ping();
    let mut caller = broker.client();
    let route = caller.open(RouteKind::Method, "slow.wait").unwrap();
    let extension = RequestExtension { deadline_ms: 20, ..RequestExtension::default() };
    let request =
        caller.builder(Kind::REQUEST).route(route).message_id(9).build(&extension.to_bytes(), b"");
    caller.send(&request);
    let outcome = caller.frame();
    assert_eq!((outcome.header.message_id, outcome.fault().code), (9, Code::Timeout));
    let cancel = callee.frame_of(Kind::CANCEL);
    assert_eq!(CallReference::of(&cancel.view()), Some(CallReference(caller.session)));
}

#[test]
fn a_callee_that_dies_leaves_a_verdict() {
    let broker = TestBroker::start();
    let mut callee = broker.plugin("frail", &["work"], &[]);
    callee.ping();
    let mut caller = broker.client();
    let route = caller.open(RouteKind::Method, "frail.work").unwrap();
    for id in [20, 21] {
        let request = caller.builder(Kind::REQUEST).route(route).message_id(id).build(b"", b"");
        caller.send(&request);
        callee.frame_of(Kind::REQUEST);
    }
    let started = callee
        .builder(Kind::STARTED)
        .route(route)
        .message_id(21)
        .build(&CallReference(caller.session).to_bytes(), b"");
    callee.send(&started);
    assert_eq!(caller.frame().header.kind, Kind::STARTED);
    drop(callee);
    let verdict = |frame: common::OwnedFrame| frame.fault().details["verdict"].clone();
    assert_eq!(verdict(caller.frame()), "possibly-started");
    assert_eq!(verdict(caller.frame()), "started");
    let fault = caller.open(RouteKind::Method, "frail.work").map(|_| ());
    assert_eq!(fault, Ok(()), "the route is resolved already");
    let request = caller.builder(Kind::REQUEST).route(route).message_id(22).build(b"", b"");
    caller.send(&request);
    assert_eq!(caller.frame().fault().code, Code::Offline);
}

#[test]
fn shutdown_tells_every_peer_and_returns() {
    let broker = TestBroker::start();
    let mut peer = broker.client();
    broker.runtime.block_on(broker.broker.shutdown());
    assert_eq!(peer.frame().header.kind, Kind::SHUTDOWN);
    assert!(peer.try_frame().is_none());
    assert!(!broker.socket().exists(), "the socket is gone");
}
