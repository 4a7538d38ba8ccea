//! Real processes that die or stop in the middle of the protocol.
//!
//! The test binary starts itself again as the peer: the child does what its step says, reports, and
//! waits to be killed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the child reports to its parent")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use common::{RawPeer, TestBroker};
use plugbus::id::RouteId;
use plugbus::wire::body::{Announce, RouteKind, Subscribe};
use plugbus::wire::{CallReference, Flags, Kind};

/// How far the child goes before it waits for its end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Connected,
    HalfHello,
    Greeted,
    HalfRegister,
    Registered,
    Subscribed,
    RouteOpened,
    HalfMessage,
    MessagesSent,
    UnfinishedChunks,
    RequestSent,
    RequestReceived,
    StartedSent,
    HalfResponse,
    MessagesReceived,
    SomeAcknowledged,
    LeavingAnnounced,
}

const STEPS: [Step; 17] = [
    Step::Connected,
    Step::HalfHello,
    Step::Greeted,
    Step::HalfRegister,
    Step::Registered,
    Step::Subscribed,
    Step::RouteOpened,
    Step::HalfMessage,
    Step::MessagesSent,
    Step::UnfinishedChunks,
    Step::RequestSent,
    Step::RequestReceived,
    Step::StartedSent,
    Step::HalfResponse,
    Step::MessagesReceived,
    Step::SomeAcknowledged,
    Step::LeavingAnnounced,
];

const CHILD_STEP: &str = "PLUGBUS_TEST_STEP";
const CHILD_SOCKET: &str = "PLUGBUS_TEST_SOCKET";

/// Not a test of its own: the body of the child process.
#[test]
fn child() {
    let Ok(step) = std::env::var(CHILD_STEP) else { return };
    let step = *STEPS.iter().find(|known| format!("{known:?}") == step).expect("a known step");
    let socket = std::env::var(CHILD_SOCKET).unwrap();
    let mut peer = RawPeer::new(UnixStream::connect(socket).unwrap());
    go_to(step, &mut peer);
    println!("\nreached {step:?}");
    // Until the parent kills us, or has died itself.
    let _end_of_parent = std::io::stdin().read(&mut [0]);
}

fn go_to(step: Step, peer: &mut RawPeer) {
    if step == Step::Connected {
        return;
    }
    if step == Step::HalfHello {
        peer.send(&[0x01, 0x01, 0, 0, 0]);
        return;
    }
    peer.greet(Some("victim")).unwrap();
    if step == Step::Greeted {
        return;
    }
    if step == Step::HalfRegister {
        let frame = peer.builder(Kind::REGISTER).message_id(1).build(b"", b"\x80");
        peer.send(&frame[..20]);
        return;
    }
    peer.register(&["work"], &["bulk"]);
    match step {
        Step::Registered => (),
        Step::Subscribed => {
            peer.ask(Kind::SUBSCRIBE, &Subscribe { pattern: ">".into(), ..Subscribe::default() });
        }
        Step::RouteOpened
        | Step::HalfMessage
        | Step::MessagesSent
        | Step::UnfinishedChunks
        | Step::RequestSent => act_as_sender(step, peer),
        Step::LeavingAnnounced => {
            let shutdown = peer.builder(Kind::SHUTDOWN).build(b"", b"\x80");
            peer.send(&shutdown);
        }
        _ => act_as_receiver(step, peer),
    }
}

fn act_as_sender(step: Step, peer: &mut RawPeer) {
    let channel = peer.open(RouteKind::Channel, "witness/bulk").unwrap();
    let message = |peer: &RawPeer, id| {
        peer.builder(Kind::MESSAGE).route(channel).message_id(id).build(b"", b"message")
    };
    match step {
        Step::HalfMessage => {
            let frame = message(peer, 1);
            peer.send(&frame[..frame.len() / 2]);
        }
        Step::MessagesSent => {
            for id in 1..=3 {
                let frame = message(peer, id);
                peer.send(&frame);
            }
            while peer.frame_of(Kind::ACK).view().body() != 3_u64.to_le_bytes() {}
        }
        Step::UnfinishedChunks => {
            let chunk = peer
                .builder(Kind::MESSAGE)
                .flags(Flags::MORE)
                .route(channel)
                .message_id(1)
                .build(b"", &[7; 1000]);
            peer.send(&chunk);
        }
        Step::RequestSent => {
            let method = peer.open(RouteKind::Method, "witness.work").unwrap();
            let request = peer.builder(Kind::REQUEST).route(method).message_id(99).build(b"", b"");
            peer.send(&request);
        }
        _ => (),
    }
}

fn act_as_receiver(step: Step, peer: &mut RawPeer) {
    if matches!(step, Step::MessagesReceived | Step::SomeAcknowledged) {
        let announce: Announce = peer.frame_of(Kind::ANNOUNCE).body();
        for id in 1..=3 {
            assert_eq!(peer.frame_of(Kind::MESSAGE).header.message_id, id);
        }
        if step == Step::SomeAcknowledged {
            let route = RouteId(announce.route);
            let ack = peer.builder(Kind::ACK).route(route).message_id(2).build(b"", b"");
            peer.send(&ack);
            peer.ping();
        }
        return;
    }
    let request = peer.frame_of(Kind::REQUEST);
    let answer = |peer: &RawPeer, kind| {
        peer.builder(kind)
            .route(request.header.route)
            .message_id(request.header.message_id)
            .build(&CallReference(request.header.session).to_bytes(), b"")
    };
    match step {
        Step::StartedSent => {
            let frame = answer(peer, Kind::STARTED);
            peer.send(&frame);
            peer.ping();
        }
        Step::HalfResponse => {
            let frame = answer(peer, Kind::RESPONSE);
            peer.send(&frame[..30]);
        }
        _ => (),
    }
}

/// A child that has reached its step. Killed and reaped when it is dropped.
struct Victim(Child);

impl Victim {
    /// Starts the child; `meanwhile` gives it what its step waits for.
    fn start(broker: &TestBroker, step: Step, meanwhile: impl FnOnce()) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD_STEP, format!("{step:?}"))
            .env(CHILD_SOCKET, broker.socket())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let victim = Self(child);
        meanwhile();
        let reached = format!("reached {step:?}");
        for line in output.lines() {
            if line.unwrap() == reached {
                return victim;
            }
        }
        panic!("the child ended before {step:?}");
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn signal(&self, signal: i32) {
        let pid = rustix_pid(&self.0);
        rustix::process::kill_process(
            pid,
            rustix::process::Signal::from_named_raw(signal).unwrap(),
        )
        .unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Killed already in most tests.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn rustix_pid(child: &Child) -> rustix::process::Pid {
    rustix::process::Pid::from_child(child)
}

/// After a kill at any step the broker has nothing left of the victim but what is promised, and
/// everybody else goes on.
#[test]
fn a_kill_at_each_step_of_the_protocol_leaves_nothing() {
    for step in STEPS {
        let broker = TestBroker::start();
        let mut witness = broker.plugin("witness", &["work"], &["bulk"]);
        witness.ping();
        let victim = start_beside(&broker, step, &mut witness);
        if !matches!(step, Step::Connected | Step::HalfHello) {
            victim.kill();
            broker.wait_gone("victim");
        } else {
            victim.kill();
        }
        check_afterwards(step, &broker, &mut witness);
    }
}

fn start_beside(broker: &TestBroker, step: Step, witness: &mut RawPeer) -> Victim {
    let needs_request =
        matches!(step, Step::RequestReceived | Step::StartedSent | Step::HalfResponse);
    let needs_messages = matches!(step, Step::MessagesReceived | Step::SomeAcknowledged);
    Victim::start(broker, step, || {
        if needs_request || needs_messages {
            let victim = plugbus::id::PluginId::parse("victim").unwrap();
            broker.runtime.block_on(broker.broker.wait_ready(&victim)).unwrap();
        }
        if needs_request {
            let route = witness.open(RouteKind::Method, "victim.work").unwrap();
            let request =
                witness.builder(Kind::REQUEST).route(route).message_id(500).build(b"", b"");
            witness.send(&request);
        }
        if needs_messages {
            let route = witness.open(RouteKind::Channel, "victim/bulk").unwrap();
            for id in 1..=3 {
                let message =
                    witness.builder(Kind::MESSAGE).route(route).message_id(id).build(b"", b"m");
                witness.send(&message);
            }
        }
    })
}

fn check_afterwards(step: Step, broker: &TestBroker, witness: &mut RawPeer) {
    match step {
        Step::RequestReceived | Step::HalfResponse => {
            let fault = witness.frame_of(Kind::ERROR).fault();
            assert_eq!(fault.details["verdict"], "possibly-started", "{step:?}");
        }
        Step::StartedSent => {
            let fault = witness.frame_of(Kind::ERROR).fault();
            assert_eq!(fault.details["verdict"], "started", "{step:?}");
        }
        Step::MessagesSent => {
            for id in 1..=3 {
                let message = witness.frame_of(Kind::MESSAGE);
                assert_eq!(message.header.message_id, id, "accepted, so delivered");
                let ack = witness
                    .builder(Kind::ACK)
                    .route(message.header.route)
                    .message_id(id)
                    .build(b"", b"");
                witness.send(&ack);
            }
            assert_eq!(witness.frame().header.kind, Kind::CLOSE, "drained, so closed");
        }
        Step::RequestSent => {
            let request = witness.frame_of(Kind::REQUEST);
            let cancel = witness.frame_of(Kind::CANCEL);
            assert_eq!(cancel.header.message_id, request.header.message_id);
        }
        Step::MessagesReceived | Step::SomeAcknowledged => {
            let first = if step == Step::SomeAcknowledged { 3 } else { 1 };
            let mut heir = broker.plugin("victim", &[], &["bulk"]);
            assert_eq!(heir.frame_of(Kind::ANNOUNCE).header.kind, Kind::ANNOUNCE);
            let redelivery = heir.frame();
            assert_eq!(
                (redelivery.header.kind, redelivery.header.message_id),
                (Kind::REDELIVERY, first)
            );
            for id in first..=3 {
                assert_eq!(heir.frame().header.message_id, id, "{step:?}");
            }
            let ack = heir
                .builder(Kind::ACK)
                .route(redelivery.header.route)
                .message_id(3)
                .build(b"", b"");
            heir.send(&ack);
            while witness.frame_of(Kind::ACK).header.message_id < 3 {}
        }
        _ => (),
    }
    witness.ping_past_errors();
    loop {
        let status = broker.status();
        let ledger = status["ledger"].as_array().unwrap();
        let left: Vec<_> = ledger.iter().filter(|row| row["plugin"] == "victim").collect();
        if left.is_empty() {
            for (class, tally) in status["tally"].as_object().unwrap() {
                assert_eq!(tally["pending"], 0, "{class} after {step:?}: {tally}");
            }
            return;
        }
        witness.ping_past_errors();
    }
}

/// A stopped process holds only what is its own; when it goes on, so does its traffic.
#[test]
fn a_stopped_plugin_holds_up_nobody_else() {
    const SIGSTOP: i32 = 19;
    const SIGCONT: i32 = 18;
    let broker = TestBroker::start();
    let mut witness = broker.plugin("witness", &["work"], &["bulk"]);
    witness.ping();
    let victim = Victim::start(&broker, Step::Registered, || ());
    victim.signal(SIGSTOP);
    let route = witness.open(RouteKind::Channel, "victim/bulk").unwrap();
    let body = vec![1; 64 << 10];
    for id in 1..=16 {
        let frame = witness.builder(Kind::MESSAGE).route(route).message_id(id).build(b"", &body);
        witness.send(&frame);
    }
    // Its window is used up; what others ask is answered all the same.
    let mut other = broker.client();
    let method = other.open(RouteKind::Method, "witness.work").unwrap();
    for id in 1000..1100 {
        let request = other.builder(Kind::REQUEST).route(method).message_id(id).build(b"", b"");
        other.send(&request);
        let request = witness.frame_of(Kind::REQUEST);
        let response = witness
            .builder(Kind::RESPONSE)
            .route(method)
            .message_id(request.header.message_id)
            .build(&CallReference(other.session).to_bytes(), b"");
        witness.send(&response);
        assert_eq!(other.frame().header.message_id, id);
    }
    let status = broker.status();
    assert_eq!(status["tally"]["messages"]["pending"], 16);
    let is_live = status["plugins"]
        .as_array()
        .unwrap()
        .iter()
        .any(|row| row["id"] == "victim" && row["state"] == "ready");
    assert!(is_live, "stopping is not dying");
    victim.signal(SIGCONT);
    victim.kill();
    broker.wait_gone("victim");
    witness.ping_past_errors();
}

/// A receiver that goes away in the middle of a stream and comes back has seen every message, in
/// order, when the stream has ended.
#[test]
fn a_channel_survives_the_return_of_its_receiver() {
    let broker = TestBroker::start();
    let mut receiver = broker.plugin("sink", &[], &["bulk"]);
    receiver.ping();
    let mut sender = broker.client();
    let route = sender.open(RouteKind::Channel, "sink/bulk").unwrap();
    let total = 2_000;
    for id in 1..=total {
        let body = u64::to_le_bytes(id);
        let frame = sender.builder(Kind::MESSAGE).route(route).message_id(id).build(b"", &body);
        sender.send(&frame);
    }
    let mut handled = 0;
    // A third death would quarantine what was under way at all of them.
    for stay in [1, 700, u64::MAX] {
        let mut seen = 0;
        while seen < stay && handled < total {
            let message = receiver.frame_of(Kind::MESSAGE);
            assert_eq!(message.header.message_id, handled + 1);
            handled += 1;
            seen += 1;
            // At once: what was under way at two deaths comes alone, until it is acknowledged.
            let ack = receiver.builder(Kind::ACK).route(route).message_id(handled).build(b"", b"");
            receiver.send(&ack);
        }
        while sender.frame_of(Kind::ACK).header.message_id < handled {}
        if handled == total {
            break;
        }
        drop(receiver);
        broker.wait_gone("sink");
        receiver = broker.plugin("sink", &[], &["bulk"]);
    }
    assert_eq!(handled, total);
    assert_eq!(broker.status()["tally"]["messages"]["completed"], total);
}
