//! What one peer breaks, floods or leaves half done stays with it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::net::UnixStream;

use common::{RawPeer, TestBroker};
use plugbus::error::Code;
use plugbus::id::PluginId;
use plugbus::limit;
use plugbus::wire::body::{self, Hello, Overflow, Role, RouteKind, Signal, Subscribe};
use plugbus::wire::{Flags, Kind};

#[test]
fn the_rest_of_a_message_with_a_refused_chunk_was_delivered() {
    let broker = TestBroker::start();
    let mut receiver = broker.plugin("sink", &[], &[]);
    let mut sender = broker.dial();
    let hello = Hello {
        versions: vec![1],
        features: vec!["lz4".to_owned()],
        role: Role::Client,
        ..Hello::default()
    };
    sender.greet_with(hello).unwrap();
    let route = sender.open(RouteKind::Channel, "sink/inbox").unwrap();
    for (flags, body) in [
        (Flags::MORE, &b"one"[..]),
        (Flags::MORE | Flags::COMPRESSED, b"\x20\0\0\0no LZ4 block"),
        (0, b"three"),
    ] {
        let chunk = sender.builder(Kind::MESSAGE).route(route).message_id(1).flags(flags);
        sender.send(&chunk.build(b"", body));
    }
    assert_eq!(sender.frame().fault().code, Code::Malformed);
    let whole = sender.builder(Kind::MESSAGE).route(route).message_id(1).build(b"", b"whole");
    sender.send(&whole);
    assert_eq!(receiver.frame_of(Kind::MESSAGE).bytes(), whole);
}

#[test]
fn chunks_of_a_route_that_was_closed_were_kept() {
    let broker = TestBroker::start();
    let mut peer = broker.client();
    let route = peer.open(RouteKind::Topic, "half.done").unwrap();
    let chunk = peer.builder(Kind::EVENT).route(route).message_id(1).flags(Flags::MORE);
    peer.send(&chunk.build(b"", b"the beginning"));
    peer.ping();
    let held = |broker: &TestBroker| {
        let status = broker.status();
        let ledger = status["ledger"].as_array().unwrap().clone();
        ledger.iter().any(|entry| entry["resource"] == "bytes of unfinished chunked messages")
    };
    assert!(held(&broker));
    let close = peer.builder(Kind::CLOSE).route(route).message_id(9).build(b"", b"\x80");
    peer.send(&close);
    assert_eq!(peer.frame().header.kind, Kind::RESPONSE);
    assert!(!held(&broker));
}

/// It held its session, and so its name, for as long as it liked.
#[test]
fn a_peer_that_says_goodbye_and_does_not_read_is_let_go() {
    let broker = TestBroker::start();
    let mut peer = broker.plugin("leaver", &[], &[]);
    let mut flood = Vec::new();
    for id in 0..PINGS {
        let ping = peer.builder(Kind::PING).message_id(id).build(b"", &[7; limit::PING_MAX]);
        flood.extend_from_slice(&ping);
    }
    flood.extend_from_slice(&peer.builder(Kind::SHUTDOWN).build(b"", b""));
    peer.send(&flood);
    broker.wait_gone("leaver");
    broker.plugin("leaver", &[], &[]).ping();
}

#[test]
fn a_subscriber_that_blocks_does_not_keep_the_brokers_events_from_others() {
    let broker = TestBroker::start();
    let mut blocker = broker.client();
    let pattern = "plugbus.lifecycle.moody.>".to_owned();
    let overflow = Overflow::Block;
    let subscribe = Subscribe { pattern: pattern.clone(), overflow, ..Subscribe::default() };
    blocker.ask(Kind::SUBSCRIBE, &subscribe);
    let mut witness = broker.client();
    witness.ask(Kind::SUBSCRIBE, &Subscribe { pattern, ..Subscribe::default() });
    let mut moody = broker.plugin("moody", &[], &[]);
    let mut seen = 0;
    while seen < EVENTS {
        for _ in 0..500 {
            moody.signal("busy");
        }
        moody.ping();
        let last = seen + 500;
        while seen < last {
            let frame = witness.frame();
            if frame.header.kind == Kind::EVENT && frame.header.message_id > 1 {
                seen = seen.max(frame.header.message_id);
            }
        }
    }
}

#[test]
fn a_flood_of_signals_ends_nobody_elses_session() {
    let broker = TestBroker::start();
    let mut victim = broker.plugin("victim", &[], &[]);
    let mut flooder = broker.client();
    let signal = Signal {
        name: "wake".to_owned(),
        to: Some("victim".to_owned()),
        data: Some(serde_json::json!("x".repeat(8 << 10))),
        ..Signal::default()
    };
    let signal = flooder.builder(Kind::SIGNAL).build(b"", &body::encode(&signal));
    let fault = loop {
        flooder.send(&signal);
        let ping = flooder.builder(Kind::PING).build(b"", b"");
        flooder.send(&ping);
        let frame = flooder.frame();
        if frame.header.kind == Kind::ERROR {
            break frame.fault();
        }
    };
    assert_eq!(fault.code, Code::Refused, "{fault}");
    assert_eq!(fault.details["holder"], "victim");
    victim.ping_past_errors();
}

#[test]
fn strangers_that_say_nothing_do_not_keep_out_whom_the_host_expects() {
    let broker = TestBroker::start();
    let strangers: Vec<RawPeer> = (0..limit::HANDSHAKES_MAX).map(|_| broker.dial()).collect();
    let refused = broker.dial().expect_closed_with(Code::Refused);
    assert_eq!(refused.details["limit"], limit::HANDSHAKES_MAX);
    let (here, there) = UnixStream::pair().unwrap();
    let plugin = PluginId::parse("expected").unwrap();
    broker.runtime.block_on(broker.broker.attach(there, plugin)).unwrap();
    RawPeer::new(here).greet(Some("expected")).unwrap();
    drop(strangers);
}

#[test]
fn registering_the_same_again_counted_twice() {
    let broker = TestBroker::start();
    let names: Vec<String> = (0..600).map(|index| format!("method_{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut peer = broker.plugin("wide", &names, &[]);
    peer.register(&names, &[]);
}

/// Their answers are more than a socket holds and less than ends the session.
const PINGS: u64 = 20_000;

/// More events than fit the window of one topic and a socket.
const EVENTS: u64 = 2 * limit::WINDOW_MESSAGES;
