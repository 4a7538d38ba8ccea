//! Faults that were in the engine once. Each test has one in its name.

mod bounds;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

mod supervised;

use super::{Effects, Now, Port, Router, RouterSettings, Session};
use crate::error::Code;
use crate::id::RouteId;
use crate::limit::Limits;
use crate::wire::body::{self, Hello, Overflow, Redelivery, Register, Role, RouteKind, Subscribe};
use crate::wire::{CallReference, FrameBuilder, Header, Kind, scan_frame};

/// A broker and its sessions, without a scheduler.
struct Net {
    router: Router,
    sessions: BTreeMap<&'static str, Session>,
    now: Now,
    fx: Effects,
}

impl Net {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let now = Now { mono: Duration::from_secs(1), unix: 1_000_000_000 };
        let settings = RouterSettings {
            name: "test".to_owned(),
            seed: 1,
            limits: Arc::new(Limits {
                heartbeat: Duration::from_secs(3_600),
                sessions_max: 8,
                ..limits
            }),
        };
        let router = Router::new(settings, now);
        Self { router, sessions: BTreeMap::new(), now, fx: Effects::new() }
    }

    /// Lets a plugin in that serves `echo` and the channel `bulk`, and reads what it is told first.
    fn join(&mut self, id: &'static str) {
        self.join_quietly(id);
        self.read(id);
    }

    fn join_quietly(&mut self, id: &'static str) {
        self.enter(id, Some(id), &[]);
        self.register(id);
    }

    /// Lets a session in that says this hello; `name` is what the tests call it.
    fn enter(&mut self, name: &'static str, id: Option<&str>, features: &[&str]) {
        let hello = Hello {
            versions: vec![1],
            features: features.iter().map(|&feature| feature.to_owned()).collect(),
            id: id.map(str::to_owned),
            role: Role::Plugin,
            ..Hello::default()
        };
        let waker = Box::new(|| ());
        let port = self.router.handle_hello(&hello, None, waker, self.now, &mut self.fx).unwrap();
        self.sessions.insert(name, Session::new(&port));
    }

    fn register(&mut self, id: &'static str) {
        let body = Register {
            methods: vec![
                body::Method { name: "echo".to_owned(), ..body::Method::default() },
                body::Method {
                    name: "again".to_owned(),
                    idempotent: true,
                    ..body::Method::default()
                },
            ],
            channels: vec![body::Channel { name: "bulk".to_owned(), help: None }],
            services: Vec::new(),
        };
        self.send(id, &[(Kind::REGISTER, 0, 1, &body::encode(&body))]);
    }

    fn unregister(&mut self, id: &'static str) {
        let body = body::Unregister {
            methods: vec!["echo".to_owned()],
            channels: vec!["bulk".to_owned()],
            services: Vec::new(),
        };
        self.send(id, &[(Kind::UNREGISTER, 0, 2, &body::encode(&body))]);
    }

    fn open(&mut self, id: &'static str, kind: RouteKind, name: &str) -> u32 {
        let body = body::encode(&body::Open { kind, name: name.to_owned() });
        self.send(id, &[(Kind::OPEN, 0, 3, &body)]);
        let answer = self.read(id).pop().unwrap();
        body::decode::<body::Opened>(&answer.1).unwrap().route
    }

    fn subscribe(&mut self, id: &'static str, overflow: Overflow) -> u32 {
        let body = Subscribe {
            pattern: "sky".to_owned(),
            overflow,
            queue_messages: Some(1),
            queue_bytes: None,
        };
        self.send(id, &[(Kind::SUBSCRIBE, 0, 4, &body::encode(&body))]);
        let answer = self.read(id).pop().unwrap();
        body::decode::<body::Subscribed>(&answer.1).unwrap().subscription
    }

    fn unsubscribe(&mut self, id: &'static str, subscription: u32) {
        let body = body::encode(&body::Unsubscribe { subscription });
        self.send(id, &[(Kind::UNSUBSCRIBE, 0, 5, &body)]);
    }

    /// Sends frames at once and has everything decided that they ask for.
    fn send(&mut self, id: &'static str, frames: &[(Kind, u32, u64, &[u8])]) {
        let session = self.sessions[id].port().session;
        let mut input = Vec::new();
        for &(kind, route, message_id, body) in frames {
            let frame = FrameBuilder::new(kind)
                .session(session)
                .route(RouteId(route))
                .message_id(message_id)
                .build(b"", body);
            input.extend_from_slice(&frame);
        }
        self.feed(id, input);
    }

    fn respond(&mut self, id: &'static str, route: u32, message_id: u64, caller: &'static str) {
        let reference = CallReference(self.sessions[caller].port().session).to_bytes();
        let frame = FrameBuilder::new(Kind::RESPONSE)
            .session(self.sessions[id].port().session)
            .route(RouteId(route))
            .message_id(message_id)
            .build(&reference, b"answer");
        self.feed(id, frame.to_vec());
    }

    fn feed(&mut self, id: &'static str, input: Vec<u8>) {
        let session = self.sessions.get_mut(id).unwrap();
        session.handle_input(&input.into(), self.now, &mut self.fx).unwrap();
        self.decide();
    }

    fn decide(&mut self) {
        for change in self.fx.take_changes() {
            self.router.handle_change(change, self.now, &mut self.fx);
        }
        self.fx.finish();
        self.router.audit(self.sessions.values());
    }

    /// Everything that waits for a session.
    fn read(&mut self, id: &'static str) -> Vec<(Header, Bytes)> {
        let port = Arc::clone(self.sessions[id].port());
        let mut pieces = Vec::new();
        while port.has_queued() {
            port.take(1 << 20, self.now, &mut pieces, &mut self.fx);
        }
        self.decide();
        let all = Bytes::from(pieces.concat());
        let mut frames = Vec::new();
        let mut rest = &all[..];
        while let Some(frame) = scan_frame(rest, u32::MAX).unwrap() {
            frames.push((frame.header, Bytes::copy_from_slice(frame.body())));
            rest = &rest[frame.bytes().len()..];
        }
        frames
    }

    fn end(&mut self, id: &'static str) {
        let session = self.sessions.remove(id).unwrap().port().session;
        self.router.handle_session_ended(session, "died", self.now, &mut self.fx);
        self.decide();
    }

    /// The session ends on purpose.
    fn leave(&mut self, id: &'static str) {
        self.send(id, &[(Kind::SHUTDOWN, 0, 7, b"")]);
        self.end(id);
    }

    fn pass(&mut self, time: Duration) {
        self.now.mono += time;
        self.router.handle_timeout(self.now, &mut self.fx);
        self.decide();
    }
}

fn kinds(frames: &[(Header, Bytes)]) -> Vec<(Kind, u64)> {
    frames.iter().map(|(header, _)| (header.kind, header.message_id)).collect()
}

fn code(frame: &(Header, Bytes)) -> Code {
    assert_eq!(frame.0.kind, Kind::ERROR);
    body::decode_fault(&frame.1).unwrap().code
}

#[test]
fn a_gap_came_after_the_close_of_its_topic() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let route = net.open("ann", RouteKind::Topic, "sky");
    let number = net.subscribe("ben", Overflow::DropNewest);
    net.send("ann", &[(Kind::EVENT, route, 1, b"x"), (Kind::EVENT, route, 2, b"y")]);
    net.unsubscribe("ben", number);
    let seen: Vec<Kind> = net.read("ben").iter().map(|(header, _)| header.kind).collect();
    let expected = [Kind::RESPONSE, Kind::ANNOUNCE, Kind::EVENT, Kind::GAP, Kind::CLOSE];
    assert_eq!(seen, expected);
}

#[test]
fn a_subscriber_that_no_longer_blocks_kept_its_publisher_waiting() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let route = net.open("ann", RouteKind::Topic, "sky");
    let blocking = net.subscribe("ben", Overflow::Block);
    net.subscribe("ben", Overflow::DropOldest);
    net.send("ann", &[(Kind::EVENT, route, 1, b"x")]);
    assert_eq!(kinds(&net.read("ann")), [(Kind::ACK, 0)]);
    net.unsubscribe("ben", blocking);
    assert_eq!(kinds(&net.read("ann")), [(Kind::ACK, 1)]);
}

#[test]
fn a_publisher_that_unsubscribes_from_itself_lost_its_route() {
    let mut net = Net::new();
    net.join("ann");
    let route = net.open("ann", RouteKind::Topic, "sky");
    let number = net.subscribe("ann", Overflow::DropOldest);
    net.send("ann", &[(Kind::EVENT, route, 1, b"x")]);
    net.read("ann");
    net.unsubscribe("ann", number);
    assert!(net.read("ann").iter().all(|(header, _)| header.kind != Kind::CLOSE));
    net.send("ann", &[(Kind::EVENT, route, 2, b"y")]);
    assert_eq!(kinds(&net.read("ann")), [(Kind::ACK, 2)]);
}

#[test]
fn redeliveries_with_different_attempts_were_announced_together() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let route = net.open("ann", RouteKind::Channel, "ben/bulk");
    for id in 1..=2 {
        net.send("ann", &[(Kind::MESSAGE, route, id, b"x")]);
        net.read("ben");
        net.leave("ben");
        net.join_quietly("ben");
    }
    let frames = net.read("ben");
    let of_route: Vec<_> =
        frames.iter().filter(|(header, _)| header.route.0 == route).cloned().collect();
    let expected =
        [(Kind::REDELIVERY, 1), (Kind::MESSAGE, 1), (Kind::REDELIVERY, 2), (Kind::MESSAGE, 2)];
    assert_eq!(kinds(&of_route), expected);
    let attempt = |at: usize| Redelivery::parse(&of_route[at].1).unwrap().attempt;
    assert_eq!([attempt(0), attempt(2)], [3, 2]);
}

#[test]
fn a_channel_taken_back_still_wrote_what_was_queued() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let route = net.open("ann", RouteKind::Channel, "ben/bulk");
    net.send("ann", &[(Kind::MESSAGE, route, 1, b"x")]);
    net.unregister("ben");
    net.register("ben");
    let frames = net.read("ben");
    let count = frames.iter().filter(|(header, _)| header.kind == Kind::MESSAGE).count();
    assert_eq!(count, 1, "not once for each registration");
    let last = frames.iter().rposition(|(header, _)| header.kind == Kind::ANNOUNCE);
    let message = frames.iter().position(|(header, _)| header.kind == Kind::MESSAGE);
    assert!(last < message, "and after the new announce");
}

#[test]
fn an_acknowledgement_that_crossed_a_new_registration_was_called_false() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let route = net.open("ann", RouteKind::Channel, "ben/bulk");
    net.send("ann", &[(Kind::MESSAGE, route, 1, b"x")]);
    net.read("ben");
    net.unregister("ben");
    net.register("ben");
    net.send("ben", &[(Kind::ACK, route, 1, b"")]);
    assert!(net.read("ben").iter().all(|(header, _)| header.kind != Kind::ERROR));
    assert_eq!(kinds(&net.read("ann")).last(), Some(&(Kind::ACK, 1)));
}

#[test]
fn whoever_took_back_a_channel_to_itself_could_not_send_on_it() {
    let mut net = Net::new();
    net.join("ann");
    let route = net.open("ann", RouteKind::Channel, "ann/bulk");
    net.unregister("ann");
    net.send("ann", &[(Kind::MESSAGE, route, 1, b"x")]);
    assert_eq!(kinds(&net.read("ann")).last(), Some(&(Kind::ACK, 0)));
}

#[test]
fn a_route_to_oneself_that_was_closed_took_no_acknowledgements() {
    let mut net = Net::new();
    net.join("ann");
    let route = net.open("ann", RouteKind::Channel, "ann/bulk");
    net.send("ann", &[(Kind::MESSAGE, route, 1, b"x")]);
    net.read("ann");
    net.send("ann", &[(Kind::CLOSE, route, 6, &body::encode(&body::Empty {}))]);
    net.send("ann", &[(Kind::ACK, route, 1, b"")]);
    let (_, messages) = net.router.tallies()[1];
    assert_eq!((messages.completed, messages.pending), (1, 0));
}

#[test]
fn an_answer_after_unregistering_was_dropped() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let route = net.open("ann", RouteKind::Method, "ben.echo");
    net.send("ann", &[(Kind::REQUEST, route, 9, b"x")]);
    net.read("ben");
    net.unregister("ben");
    net.respond("ben", route, 9, "ann");
    assert_eq!(kinds(&net.read("ann")), [(Kind::RESPONSE, 9)]);
}

#[test]
fn a_cancel_that_crossed_a_close_was_a_second_outcome() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let route = net.open("ann", RouteKind::Method, "ben.echo");
    net.send("ann", &[(Kind::REQUEST, route, 9, b"x")]);
    net.send("ann", &[(Kind::CLOSE, route, 6, &body::encode(&body::Empty {}))]);
    net.send("ann", &[(Kind::CANCEL, route, 9, b"")]);
    let outcomes: Vec<_> =
        net.read("ann").into_iter().filter(|(header, _)| header.message_id == 9).collect();
    assert_eq!(outcomes.len(), 1);
    assert_eq!(code(&outcomes[0]), Code::Cancelled);
}

#[test]
fn only_the_first_refused_message_of_a_run_was_answered() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let route = net.open("ann", RouteKind::Channel, "ben/bulk");
    let frames: [(Kind, u32, u64, &[u8]); 3] =
        [3, 4, 5].map(|id| (Kind::MESSAGE, route, id, &b"x"[..]));
    net.send("ann", &frames);
    let answers = net.read("ann");
    assert_eq!(kinds(&answers), [3, 4, 5].map(|id| (Kind::ERROR, id)));
    assert!(answers.iter().all(|answer| code(answer) == Code::OutOfSequence));
}

#[test]
fn a_returning_receiver_was_not_told_of_dead_letters() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let route = net.open("ann", RouteKind::Channel, "ben/bulk");
    net.end("ben");
    net.send("ann", &[(Kind::MESSAGE, route, 1, b"x")]);
    net.pass(Duration::from_secs(61));
    net.join_quietly("ben");
    net.send("ann", &[(Kind::MESSAGE, route, 2, b"y")]);
    let frames = net.read("ben");
    let of_route: Vec<_> =
        frames.iter().filter(|(header, _)| header.route.0 == route).cloned().collect();
    assert_eq!(kinds(&of_route), [(Kind::GAP, 1), (Kind::MESSAGE, 2)]);
}

#[test]
fn a_bad_name_in_an_unregister_left_half_of_it_done() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let body = body::Unregister {
        methods: vec!["echo".to_owned(), "NOT A NAME".to_owned()],
        channels: Vec::new(),
        services: Vec::new(),
    };
    net.send("ben", &[(Kind::UNREGISTER, 0, 2, &body::encode(&body))]);
    assert_eq!(code(&net.read("ben")[0]), Code::BadName);
    let route = net.open("ann", RouteKind::Method, "ben.echo");
    assert_ne!(route, 0);
}

#[test]
fn large_entries_starved_the_events() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let topic = net.open("ann", RouteKind::Topic, "sky");
    let channel = net.open("ann", RouteKind::Channel, "ben/bulk");
    net.subscribe("ben", Overflow::DropOldest);
    let large = vec![0; 300 << 10];
    for id in 1..=3 {
        net.send("ann", &[(Kind::MESSAGE, channel, id, &large)]);
    }
    net.send("ann", &[(Kind::EVENT, topic, 1, b"x")]);
    let port: Arc<Port> = Arc::clone(net.sessions["ben"].port());
    let mut pieces = Vec::new();
    port.take(256 << 10, net.now, &mut pieces, &mut net.fx);
    let first = Bytes::from(pieces.concat());
    let mut rest = &first[..];
    let mut seen = Vec::new();
    while let Some(frame) = scan_frame(rest, u32::MAX).unwrap() {
        seen.push(frame.header.kind);
        rest = &rest[frame.bytes().len()..];
    }
    assert!(seen.contains(&Kind::EVENT), "{seen:?}");
}
