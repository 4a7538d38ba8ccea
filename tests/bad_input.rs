//! Peers that lie, err or stop talking. Each gets a clear answer or is closed; everybody else goes
//! on; nothing of them is left.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use common::{RawPeer, TestBroker};
use plugbus::error::Code;
use plugbus::id::{RouteId, SessionId};
use plugbus::wire::body::{self, Hello, Open, RouteKind, Subscribe};
use plugbus::wire::{CallReference, ContentType, Flags, FrameBuilder, HEADER_SIZE, Kind};

/// Its answer would have the id of a command that the peer waits for.
#[test]
fn an_error_on_the_control_route_is_not_answered() {
    let broker = TestBroker::start();
    let mut peer = broker.client();
    let fault = plugbus::error::Fault::new(Code::UnknownType, "not known here");
    peer.send(&peer.builder(Kind::ERROR).message_id(1).build(b"", &body::encode_fault(&fault)));
    peer.ping();
}

/// Every framing error ends its connection with an explanation, and no other.
#[test]
fn broken_framing_closes_only_its_own_connection() {
    let broker = TestBroker::start();
    let mut witness = broker.client();
    let ping = FrameBuilder::new(Kind::PING).build(b"", b"x");
    let with = |offset: usize, bytes: &[u8]| {
        let mut frame = ping.to_vec();
        frame[offset..offset + bytes.len()].copy_from_slice(bytes);
        frame
    };
    for (what, bytes, code) in [
        ("first byte", with(0, &[0x02]), Code::BadDialect),
        ("reserved bit 7", with(2, &[0x80, 0]), Code::ReservedBits),
        ("reserved bit 15", with(2, &[0, 0x80]), Code::ReservedBits),
        ("content type 5", with(2, &[0, 0x05]), Code::ReservedBits),
        ("oversized", with(32, &(1_u32 << 21).to_le_bytes()), Code::TooLarge),
        ("trailer", with(ping.len() - 1, &[1]), Code::BadChecksum),
        ("checksum", with(2, &[0x02, 0]), Code::BadChecksum),
        ("garbage", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Code::BadDialect),
    ] {
        let mut peer = broker.client();
        peer.send(&bytes);
        let fault = peer.expect_closed_with(code);
        assert!(!fault.message.is_empty(), "{what}");
        witness.ping();
    }
    let short = FrameBuilder::new(Kind::REQUEST).flags(Flags::EXTENDED).build(b"", b"short");
    let mut peer = broker.client();
    peer.send(&short);
    peer.expect_closed_with(Code::Malformed);
    drop(peer);
    wait_until_alone(&broker, &mut witness);
}

#[test]
fn a_peer_that_does_not_greet_properly_is_told_why() {
    let broker = TestBroker::start();
    let hello =
        |hello: Hello| FrameBuilder::new(Kind::HELLO).build(b"", &body::encode_hello(&hello));
    for (what, bytes, code) in [
        ("JSON lines", b"{\"type\":\"hello\"}\n".to_vec(), Code::BadDialect),
        ("ReedCMS", b"REED\x01\0\0\0".to_vec(), Code::BadDialect),
        ("ReedCMS, little-endian", b"DEER\x01\0\0\0".to_vec(), Code::BadDialect),
        ("no hello", FrameBuilder::new(Kind::PING).build(b"", b"").to_vec(), Code::Unexpected),
        ("no magic", FrameBuilder::new(Kind::HELLO).build(b"", b"HELLO").to_vec(), Code::Malformed),
        (
            "no map",
            FrameBuilder::new(Kind::HELLO).build(b"", b"PLUGBUS\n\x93").to_vec(),
            Code::Malformed,
        ),
        (
            "version",
            hello(Hello { versions: vec![2, 3], ..Hello::default() }).to_vec(),
            Code::BadVersion,
        ),
        (
            "name",
            hello(Hello { versions: vec![1], id: Some("No Name".into()), ..Hello::default() })
                .to_vec(),
            Code::BadName,
        ),
        (
            "long name",
            hello(Hello { versions: vec![1], id: Some("x".repeat(64)), ..Hello::default() })
                .to_vec(),
            Code::BadName,
        ),
    ] {
        let mut peer = broker.dial();
        peer.send(&bytes);
        let fault = peer.expect_closed_with(code);
        assert!(!fault.message.is_empty(), "{what}");
    }
    let mut deep = b"PLUGBUS\n\x82\xa8versions\x91\x01\xa1x".to_vec();
    deep.extend(std::iter::repeat_n(0x91, 10_000));
    let mut peer = broker.dial();
    peer.send(&FrameBuilder::new(Kind::HELLO).build(b"", &deep));
    peer.expect_closed_with(Code::Malformed);
    let mut invalid = b"PLUGBUS\n\x82\xa8versions\x91\x01\xa2id\xa2".to_vec();
    invalid.extend([0xff, 0xfe]);
    let mut peer = broker.dial();
    peer.send(&FrameBuilder::new(Kind::HELLO).build(b"", &invalid));
    peer.expect_closed_with(Code::Malformed);
}

#[test]
fn an_id_that_is_live_is_refused_and_free_again_afterwards() {
    let broker = TestBroker::start();
    let first = broker.plugin("only", &[], &[]);
    let mut second = broker.dial();
    let fault = second.greet(Some("only")).unwrap_err();
    assert_eq!(fault.code, Code::IdInUse);
    assert!(fault.message.contains("only"), "{fault}");
    drop(first);
    broker.wait_gone("only");
    let mut third = broker.dial();
    let welcome = third.greet(Some("only")).unwrap();
    assert_eq!(welcome.incarnation, 2);
}

#[test]
fn the_configured_id_is_the_only_one_on_an_attached_connection() {
    let broker = TestBroker::start();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let id = plugbus::id::PluginId::parse("images").unwrap();
    broker.runtime.block_on(broker.broker.attach(ours, id)).unwrap();
    let mut peer = RawPeer::new(theirs);
    let fault = peer.greet(Some("imposter")).unwrap_err();
    assert_eq!(fault.code, Code::IdMismatch);
    assert!(fault.message.contains("images") && fault.message.contains("imposter"), "{fault}");
}

/// What is wrong with one frame is answered, and the session goes on.
#[test]
fn wrong_frames_are_answered() {
    let broker = TestBroker::start();
    let mut callee = broker.plugin("hello", &["greet"], &["bulk"]);
    callee.ping();
    let mut peer = broker.client();
    let method = peer.open(RouteKind::Method, "hello.greet").unwrap();
    let channel = peer.open(RouteKind::Channel, "hello/bulk").unwrap();
    let topic = peer.open(RouteKind::Topic, "news").unwrap();
    let frame = |kind: Kind| peer.builder(kind).message_id(41);
    let nowhere = RouteId(9_999);
    let cases = [
        ("unknown type", frame(Kind(200)).build(b"", b""), Code::UnknownType),
        ("reserved type", frame(Kind(29)).build(b"", b""), Code::UnknownType),
        ("resource request", frame(Kind::RESOURCE_REQUEST).build(b"", b""), Code::UnknownType),
        ("broker's type", frame(Kind::WELCOME).build(b"", b""), Code::Unexpected),
        ("second hello", frame(Kind::HELLO).build(b"", b"PLUGBUS\n\x80"), Code::Unexpected),
        ("forged", frame(Kind::PING).session(SessionId(7)).build(b"", b""), Code::ForgedSession),
        ("encrypted", frame(Kind::PING).flags(Flags::ENCRYPTED).build(b"", b""), Code::Unsupported),
        ("pooled", frame(Kind::MESSAGE).flags(Flags::POOLED).build(b"", b""), Code::Unsupported),
        (
            "compressed without asking",
            frame(Kind::MESSAGE).route(channel).flags(Flags::COMPRESSED).build(b"", b""),
            Code::Unsupported,
        ),
        (
            "message nowhere",
            frame(Kind::MESSAGE).route(nowhere).build(b"", b""),
            Code::UnknownRoute,
        ),
        (
            "request nowhere",
            frame(Kind::REQUEST).route(nowhere).build(b"", b""),
            Code::UnknownRoute,
        ),
        ("ack nowhere", frame(Kind::ACK).route(nowhere).build(b"", b""), Code::UnknownRoute),
        ("message without a route", frame(Kind::MESSAGE).build(b"", b""), Code::UnknownRoute),
        (
            "request on a channel",
            frame(Kind::REQUEST).route(channel).build(b"", b""),
            Code::Unexpected,
        ),
        (
            "message on a method",
            frame(Kind::MESSAGE).route(method).build(b"", b""),
            Code::Unexpected,
        ),
        (
            "broadcast on a topic",
            frame(Kind::BROADCAST).route(topic).build(b"", b""),
            Code::Unexpected,
        ),
        (
            "gap in the ids",
            frame(Kind::MESSAGE).route(channel).build(b"", b""),
            Code::OutOfSequence,
        ),
        ("gap in the events", frame(Kind::EVENT).route(topic).build(b"", b""), Code::OutOfSequence),
        (
            "answer to nothing",
            frame(Kind::RESPONSE).route(method).build(&CallReference(peer.session).to_bytes(), b""),
            Code::NoSuchCall,
        ),
        ("ack as sender", frame(Kind::ACK).route(channel).build(b"", b""), Code::BadAck),
        ("ack on a topic", frame(Kind::ACK).route(topic).build(b"", b""), Code::BadAck),
        ("long ping", frame(Kind::PING).build(b"", &[0; 65]), Code::TooLarge),
        (
            "extended ping",
            frame(Kind::PING).flags(Flags::EXTENDED).build(b"", b""),
            Code::Malformed,
        ),
        ("no map", frame(Kind::OPEN).build(b"", b"\x01"), Code::Malformed),
        ("deep map", frame(Kind::OPEN).build(b"", &[0x91; 50_000]), Code::Malformed),
        (
            "endless map",
            frame(Kind::OPEN).build(b"", &[0xdf, 0xff, 0xff, 0xff, 0xff]),
            Code::Malformed,
        ),
        (
            "endless text",
            frame(Kind::OPEN).build(b"", &[0xdb, 0xff, 0xff, 0xff, 0xff]),
            Code::Malformed,
        ),
        (
            "close of nothing",
            frame(Kind::CLOSE).route(nowhere).build(b"", b"\x80"),
            Code::UnknownRoute,
        ),
        (
            "chunked ping",
            frame(Kind::SIGNAL).flags(Flags::MORE).build(b"", b"\x80"),
            Code::Malformed,
        ),
    ];
    for (what, bytes, code) in cases {
        peer.send(&bytes);
        let fault = peer.frame().fault();
        assert_eq!(fault.code, code, "{what}: {fault}");
        peer.ping();
    }
    for (kind, name) in [
        (RouteKind::Method, "no-dot"),
        (RouteKind::Method, "Hello.greet"),
        (RouteKind::Channel, "hello.bulk"),
        (RouteKind::Topic, "a..b"),
        (RouteKind::Topic, &"w".repeat(256)),
    ] {
        assert_eq!(peer.open(kind, name).unwrap_err().code, Code::BadName, "{name}");
    }
    assert_eq!(peer.open(RouteKind::Topic, "plugbus.dead").unwrap_err().code, Code::Denied);
    callee.ping_past_errors();
}

#[test]
fn an_answer_to_somebody_elses_call_is_refused() {
    let broker = TestBroker::start();
    let mut callee = broker.plugin("hello", &["greet"], &[]);
    callee.ping();
    let mut caller = broker.client();
    let route = caller.open(RouteKind::Method, "hello.greet").unwrap();
    let request = caller.builder(Kind::REQUEST).route(route).message_id(9).build(b"", b"");
    caller.send(&request);
    callee.frame_of(Kind::REQUEST);
    // The thief has the route too, because it serves the service of the same name.
    let mut thief = broker.client();
    let answer = thief
        .builder(Kind::RESPONSE)
        .route(route)
        .message_id(9)
        .build(&CallReference(caller.session).to_bytes(), b"stolen");
    thief.send(&answer);
    assert_eq!(thief.frame().fault().code, Code::UnknownRoute, "it was never announced to it");
    // The caller answers its own call, on its own route.
    let answer = caller
        .builder(Kind::RESPONSE)
        .route(route)
        .message_id(9)
        .build(&CallReference(caller.session).to_bytes(), b"stolen");
    caller.send(&answer);
    assert_eq!(caller.frame().fault().code, Code::NotYourCall);
    let answer = callee
        .builder(Kind::RESPONSE)
        .route(route)
        .message_id(9)
        .build(&CallReference(caller.session).to_bytes(), b"true");
    callee.send(&answer);
    assert_eq!(caller.frame().view().body(), b"true");
}

#[test]
fn acknowledging_what_was_never_sent_is_refused() {
    let broker = TestBroker::start();
    let mut receiver = broker.plugin("sink", &[], &["bulk"]);
    receiver.ping();
    let mut sender = broker.client();
    let route = sender.open(RouteKind::Channel, "sink/bulk").unwrap();
    sender.send(&sender.builder(Kind::MESSAGE).route(route).message_id(1).build(b"", b"m"));
    receiver.frame_of(Kind::MESSAGE);
    receiver.send(&receiver.builder(Kind::ACK).route(route).message_id(2).build(b"", b""));
    assert_eq!(receiver.frame().fault().code, Code::BadAck);
    receiver.send(&receiver.builder(Kind::ACK).route(route).message_id(1).build(b"", b""));
    while sender.frame_of(Kind::ACK).header.message_id < 1 {}
}

#[test]
fn a_sender_that_ignores_its_window_is_stopped_at_its_edge() {
    let broker = TestBroker::start();
    let mut receiver = broker.plugin("sink", &[], &["bulk"]);
    receiver.ping();
    let mut sender = broker.client();
    let route = sender.open(RouteKind::Channel, "sink/bulk").unwrap();
    let body = vec![0; 64 << 10];
    let mut overrun = None;
    for id in 1..=20 {
        sender.send(&sender.builder(Kind::MESSAGE).route(route).message_id(id).build(b"", &body));
    }
    while overrun.is_none() {
        let frame = sender.frame();
        if frame.header.kind == Kind::ERROR {
            overrun = Some(frame.fault());
        }
    }
    let overrun = overrun.unwrap();
    assert_eq!(overrun.code, Code::CreditOverrun);
    assert_eq!(overrun.details["expected"], 17, "16 messages of 64 KiB use up the window");
    sender.ping_past_errors();
}

#[test]
fn a_million_subscriptions_end_at_the_limit() {
    let broker = TestBroker::start();
    let mut peer = broker.client();
    let subscribe = Subscribe { pattern: "a.*".to_owned(), ..Subscribe::default() };
    let mut refused = None;
    for _ in 0..2_000 {
        let answer = peer.ask(Kind::SUBSCRIBE, &subscribe);
        if answer.header.kind == Kind::ERROR {
            refused = Some(answer.fault());
            break;
        }
    }
    let refused = refused.expect("there is a limit");
    assert_eq!(refused.code, Code::Refused);
    for key in ["resource", "holder", "used", "limit", "blame", "retry_after_ms"] {
        assert!(refused.details.contains_key(key), "{key} in {refused:?}");
    }
    peer.ping();
}

#[test]
fn a_peer_that_asks_and_never_reads_is_disconnected() {
    let broker = TestBroker::start();
    let mut witness = broker.client();
    let mut peer = broker.client();
    let open = Open { kind: RouteKind::Method, name: "nobody.nothing".to_owned() };
    let asked = peer
        .builder(Kind::OPEN)
        .message_id(1)
        .content(ContentType::MessagePack)
        .build(b"", &body::encode(&open));
    let burst = asked.repeat(100);
    // Ends with an error when the broker has had enough.
    while peer.stream.write_all(&burst).is_ok() {}
    witness.ping();
    drop(peer);
    wait_until_alone(&broker, &mut witness);
}

#[test]
fn half_a_frame_and_half_a_connection_cost_nobody_anything() {
    let broker = TestBroker::start();
    let mut witness = broker.client();
    let ping = FrameBuilder::new(Kind::PING).build(b"", b"ping");
    for cut in 0..ping.len() {
        let mut peer = broker.client();
        let frame = peer.builder(Kind::PING).build(b"", b"ping");
        peer.send(&frame[..cut]);
        peer.stream.shutdown(Shutdown::Write).unwrap();
        assert!(peer.try_frame().is_none(), "cut at {cut}");
    }
    let mut half_written = broker.dial();
    half_written.send(&[1; HEADER_SIZE - 1]);
    witness.ping();
    drop(half_written);
    wait_until_alone(&broker, &mut witness);
}

#[test]
fn a_connection_that_says_nothing_has_a_deadline() {
    let broker =
        TestBroker::start_with(|builder| builder.handshake_timeout(Duration::from_millis(20)));
    let mut silent = broker.dial();
    silent.expect_closed_with(Code::HandshakeTimeout);
    let mut stutters = broker.dial();
    stutters.send(&[1, 1, 0]);
    stutters.expect_closed_with(Code::HandshakeTimeout);
}

/// One byte a write is slow, but as good as any other way.
#[test]
fn frames_may_come_byte_by_byte() {
    let broker = TestBroker::start();
    let mut peer = broker.dial();
    let hello = Hello { versions: vec![1], ..Hello::default() };
    let frame = FrameBuilder::new(Kind::HELLO).build(b"", &body::encode_hello(&hello));
    for byte in &frame {
        peer.send(&[*byte]);
    }
    let welcome = peer.frame();
    assert_eq!(welcome.header.kind, Kind::WELCOME);
}

/// Waits until only the witness has a session and nobody else holds anything.
fn wait_until_alone(broker: &TestBroker, witness: &mut RawPeer) {
    loop {
        let status = broker.status();
        if status["sessions"] == 1 {
            let ledger = status["ledger"].as_array().unwrap();
            let holders: Vec<_> =
                ledger.iter().filter(|row| row["resource"] == "sessions").collect();
            assert_eq!(holders.len(), 1, "{ledger:?}");
            assert_eq!(ledger.len(), 1, "nothing of the others is left: {ledger:?}");
            return;
        }
        // A round trip through the broker, so that it gets on.
        witness.ping();
    }
}
