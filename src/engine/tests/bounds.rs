//! What one peer can make the broker keep or say in another's name.

use super::*;
use crate::engine::Resource;
use crate::limit;
use crate::wire::{Flags, compress_frame};

impl Net {
    /// Many frames at once, each with a body of its own.
    fn send_all(&mut self, id: &'static str, frames: &[(Kind, u32, u64, Vec<u8>)]) {
        let frames: Vec<_> = frames
            .iter()
            .map(|(kind, route, message_id, body)| (*kind, *route, *message_id, &body[..]))
            .collect();
        self.send(id, &frames);
    }

    /// Opens many routes at once.
    fn open_all(&mut self, id: &'static str, kind: RouteKind, names: &[String]) -> Vec<u32> {
        let frames: Vec<_> = names
            .iter()
            .map(|name| {
                let body = body::encode(&body::Open { kind, name: name.clone() });
                (Kind::OPEN, 0, 3, body.to_vec())
            })
            .collect();
        self.send_all(id, &frames);
        let answers = self.read(id);
        let answers = answers.iter().filter(|(header, _)| header.kind == Kind::RESPONSE);
        let routes = answers.map(|(_, body)| body::decode::<body::Opened>(body).unwrap().route);
        routes.collect()
    }

    fn used(&self, id: &'static str, resource: Resource) -> u64 {
        self.sessions[id].port().account.used(resource)
    }

    fn respond_with(
        &mut self,
        id: &'static str,
        route: u32,
        message_id: u64,
        caller: &'static str,
        answer: &[u8],
    ) {
        let reference = CallReference(self.sessions[caller].port().session).to_bytes();
        let frame = FrameBuilder::new(Kind::RESPONSE)
            .session(self.sessions[id].port().session)
            .route(RouteId(route))
            .message_id(message_id)
            .build(&reference, answer);
        self.feed(id, frame.to_vec());
    }

    /// A piece of a chunked answer.
    fn chunk(
        &mut self,
        id: &'static str,
        route: u32,
        message_id: u64,
        caller: &'static str,
        is_first: bool,
    ) {
        let reference = CallReference(self.sessions[caller].port().session).to_bytes();
        let mut frame = FrameBuilder::new(Kind::RESPONSE)
            .session(self.sessions[id].port().session)
            .route(RouteId(route))
            .message_id(message_id);
        if is_first {
            frame = frame.flags(Flags::MORE);
        }
        let frame = frame.build(if is_first { &reference } else { b"" }, b"part");
        self.feed(id, frame.to_vec());
    }

    /// What the broker says of a plugin.
    fn ask_plugin(&mut self, id: &'static str, plugin: &str) -> serde_json::Value {
        let query = body::Query { what: "plugin".to_owned(), id: Some(plugin.to_owned()) };
        self.send(id, &[(Kind::QUERY, 0, 8, &body::encode(&query))]);
        body::decode(&self.read(id).pop().unwrap().1).unwrap()
    }

    fn is_open(&self, id: &'static str) -> bool {
        self.sessions[id].port().is_open()
    }
}

fn count(frames: &[(Header, Bytes)], kind: Kind) -> usize {
    frames.iter().filter(|(header, _)| header.kind == kind).count()
}

/// A plugin that returns hears of a channel when there is something on it, so that nobody can fill
/// its control queue with channels.
#[test]
fn strangers_with_many_channels_threw_a_returning_plugin_out() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let names: Vec<String> = (0..1_000).map(|number| format!("ben/c{number}")).collect();
    let register = |net: &mut Net| {
        let channels = (0..1_000)
            .map(|number| body::Channel { name: format!("c{number}"), help: None })
            .collect();
        let body = Register { channels, ..Register::default() };
        net.send("ben", &[(Kind::REGISTER, 0, 1, &body::encode(&body))]);
    };
    register(&mut net);
    let routes = net.open_all("ann", RouteKind::Channel, &names);
    assert_eq!(routes.len(), 1_000);
    let before = net.used("ben", Resource::ControlBytes);
    net.end("ben");
    let frames: Vec<_> =
        routes[..500].iter().map(|&route| (Kind::MESSAGE, route, 1, vec![7])).collect();
    net.send_all("ann", &frames);
    net.join_quietly("ben");
    register(&mut net);
    let waiting = net.used("ben", Resource::ControlBytes);
    assert!(waiting < before + 4_096, "{waiting} bytes wait for a plugin that has just returned");
    let frames = net.read("ben");
    assert_eq!((count(&frames, Kind::ANNOUNCE), count(&frames, Kind::MESSAGE)), (500, 500));
    // The end of all of them is no more than was announced.
    net.end("ann");
    assert!(net.is_open("ben"));
    net.send_all(
        "ben",
        &routes[..500].iter().map(|&route| (Kind::ACK, route, 1, vec![])).collect::<Vec<_>>(),
    );
    assert_eq!(count(&net.read("ben"), Kind::CLOSE), 500);
    assert_eq!(net.used("ben", Resource::NoticeBytes), 0);
}

/// As above, for the routes of a caller that opens, calls and closes in a loop.
#[test]
fn a_stranger_that_opens_calls_and_closes_threw_its_callee_out() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    net.read("ben");
    for _ in 0..200 {
        let route = net.open("ann", RouteKind::Method, "ben.echo");
        net.send("ann", &[(Kind::REQUEST, route, 9, b"x")]);
        net.send("ann", &[(Kind::CLOSE, route, 6, b"\x80")]);
        net.read("ann");
    }
    assert_eq!(net.used("ben", Resource::ControlBytes), 0);
    assert_eq!(net.used("ben", Resource::NoticeBytes), 0);
    assert_eq!(net.read("ben"), [], "nothing was ever written of it");
}

/// What calls off a request follows only what was written.
#[test]
fn callers_that_go_at_once_threw_their_callee_out() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let route = net.open("ann", RouteKind::Method, "ben.echo");
    let requests: Vec<_> = (1..=16_000).map(|id| (Kind::REQUEST, route, id, vec![])).collect();
    net.send_all("ann", &requests);
    assert_eq!(count(&net.read("ben"), Kind::REQUEST), 16_000);
    let before = net.used("ben", Resource::ControlBytes);
    net.end("ann");
    assert!(net.is_open("ben"));
    assert_eq!(net.used("ben", Resource::ControlBytes), before);
    let frames = net.read("ben");
    assert_eq!((count(&frames, Kind::CANCEL), count(&frames, Kind::CLOSE)), (16_000, 1));
}

/// One acknowledgement waits for each route, whatever its receiver does.
#[test]
fn a_receiver_that_acknowledges_one_by_one_threw_its_sender_out() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let route = net.open("ann", RouteKind::Channel, "ben/bulk");
    let messages: Vec<_> = (1..=500).map(|id| (Kind::MESSAGE, route, id, vec![])).collect();
    net.send_all("ann", &messages);
    net.read("ben");
    for id in 1..=500 {
        net.send("ben", &[(Kind::ACK, route, id, b"")]);
    }
    assert_eq!(kinds(&net.read("ann")), [(Kind::ACK, 500)]);
}

/// A subscriber that does not read, and topics that come and go.
#[test]
fn a_stranger_that_opens_publishes_and_closes_threw_its_subscriber_out() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let body = Subscribe {
        pattern: ">".to_owned(),
        overflow: Overflow::DropOldest,
        queue_messages: Some(1),
        queue_bytes: None,
    };
    net.send("ben", &[(Kind::SUBSCRIBE, 0, 4, &body::encode(&body))]);
    net.read("ben");
    let rounds = 5;
    let mut published = 0;
    for round in 0..rounds {
        let names: Vec<String> = (0..1_500).map(|number| format!("t{round}.x{number}")).collect();
        let routes = net.open_all("ann", RouteKind::Topic, &names);
        for chunk in routes.chunks(500) {
            let events: Vec<_> =
                chunk.iter().map(|&route| (Kind::EVENT, route, 1, vec![])).collect();
            published += events.len();
            net.send_all("ann", &events);
            let closes: Vec<_> =
                chunk.iter().map(|&route| (Kind::CLOSE, route, 6, vec![0x80])).collect();
            net.send_all("ann", &closes);
            net.read("ann");
        }
    }
    assert!(published > limit::TOPICS_UNREAD_MAX);
    assert!(net.is_open("ben"));
    assert_eq!(net.used("ben", Resource::ControlBytes), 0);
    let frames = net.read("ben");
    let gaps = frames.iter().filter(|(header, _)| header.kind == Kind::GAP);
    let shed: u64 = gaps
        .map(|(header, body)| body::decode::<body::Gap>(body).unwrap().last - header.message_id + 1)
        .sum();
    assert_eq!(count(&frames, Kind::EVENT) as u64 + shed, published as u64, "each has a receipt");
    assert_eq!(count(&frames, Kind::ANNOUNCE), count(&frames, Kind::CLOSE));
    let last = frames.last().unwrap();
    assert_eq!((last.0.kind, last.0.route.0), (Kind::GAP, 0), "those for which there was no room");
    // It takes part again.
    let route = net.open("ann", RouteKind::Topic, "later");
    net.send("ann", &[(Kind::EVENT, route, 1, b"x")]);
    let seen: Vec<Kind> = net.read("ben").iter().map(|(header, _)| header.kind).collect();
    assert_eq!(seen, [Kind::ANNOUNCE, Kind::EVENT]);
}

/// Windows are for each topic; the queue of one subscriber is one.
#[test]
fn blocking_subscriptions_to_many_topics_had_no_common_bound() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let body = Subscribe {
        pattern: ">".to_owned(),
        overflow: Overflow::Block,
        queue_messages: None,
        queue_bytes: None,
    };
    net.send("ben", &[(Kind::SUBSCRIBE, 0, 4, &body::encode(&body))]);
    net.read("ben");
    let names: Vec<String> = (0..80).map(|number| format!("t.x{number}")).collect();
    let event = vec![0; 1_000_000];
    let mut refused = Vec::new();
    for route in net.open_all("ann", RouteKind::Topic, &names) {
        net.send("ann", &[(Kind::EVENT, route, 1, &event)]);
        refused
            .extend(net.read("ann").into_iter().filter(|(header, _)| header.kind == Kind::ERROR));
    }
    let used = net.used("ben", Resource::EventBytes);
    assert!(used <= limit::EVENT_QUEUE_BYTES_MAX, "{used} bytes of events wait");
    assert_eq!(refused.len(), 80 - (limit::EVENT_QUEUE_BYTES_MAX / 1_000_044) as usize);
    let fault = body::decode_fault(&refused[0].1).unwrap();
    assert_eq!((fault.code, &fault.details["blame"]), (Code::Refused, &"ben".into()));
    // What was refused may be sent again.
    net.read("ben");
    let route = refused[0].0.route.0;
    net.send("ann", &[(Kind::EVENT, route, 1, &event)]);
    assert_eq!(count(&net.read("ben"), Kind::EVENT), 1);
}

/// A signal is what a plugin can say to another out of turn; it is refused before it costs the
/// other its session.
#[test]
fn a_signal_to_a_peer_that_does_not_read_is_refused() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let signal = body::Signal {
        name: "wake".to_owned(),
        to: Some("ben".to_owned()),
        from: None,
        data: Some(serde_json::Value::String("x".repeat(100_000))),
    };
    let body = body::encode(&signal);
    let refused = (0..50).find_map(|_| {
        net.send("ann", &[(Kind::SIGNAL, 0, 7, &body)]);
        net.read("ann").pop()
    });
    let refused = refused.expect("half of the queue is the other's own");
    assert_eq!(code(&refused), Code::Refused);
    let used = net.used("ben", Resource::ControlBytes);
    assert!(used < limit::CONTROL_QUEUE_BYTES_MAX / 2 + 200_000, "{used}");
    // Requests and routes need nothing of that room.
    let route = net.open("ann", RouteKind::Channel, "ben/bulk");
    net.send("ann", &[(Kind::MESSAGE, route, 1, b"x")]);
    let method = net.open("ann", RouteKind::Method, "ben.echo");
    net.send("ann", &[(Kind::REQUEST, method, 9, b"x")]);
    assert!(net.read("ann").iter().all(|(header, _)| header.kind != Kind::ERROR));
    let frames = net.read("ben");
    assert_eq!((count(&frames, Kind::REQUEST), count(&frames, Kind::MESSAGE)), (1, 1));
}

/// Schemas are kept for as long as the plugin lives, and a little longer.
#[test]
fn registrations_cost_nothing_however_large() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let before = net.used("ben", Resource::RegistrationBytes);
    let schema = serde_json::Value::Array(vec![serde_json::Value::Null; 50_000]);
    let method = |number: u32| body::Method {
        name: format!("m{number}"),
        params: Some(schema.clone()),
        ..body::Method::default()
    };
    let register = |net: &mut Net, number: u32| {
        let body = Register { methods: vec![method(number)], ..Register::default() };
        net.send("ben", &[(Kind::REGISTER, 0, 1, &body::encode(&body))]);
        net.read("ben").pop().unwrap()
    };
    let answers: Vec<_> = (0..4).map(|number| register(&mut net, number)).collect();
    assert_eq!(
        answers[..2].iter().map(|(header, _)| header.kind).collect::<Vec<_>>(),
        [Kind::RESPONSE; 2]
    );
    assert_eq!(code(&answers[3]), Code::Refused);
    let fault = body::decode_fault(&answers[3].1).unwrap();
    assert_eq!(fault.details["resource"], "bytes of registrations");
    // The same again is no more than before, and what is taken back is given back.
    let full = net.used("ben", Resource::RegistrationBytes);
    assert_eq!(register(&mut net, 1).0.kind, Kind::RESPONSE);
    assert_eq!(net.used("ben", Resource::RegistrationBytes), full);
    let names = (0..4).map(|number| format!("m{number}")).collect();
    let body = body::Unregister { methods: names, channels: vec![], services: vec![] };
    net.send("ben", &[(Kind::UNREGISTER, 0, 2, &body::encode(&body))]);
    assert_eq!(net.used("ben", Resource::RegistrationBytes), before);
    register(&mut net, 7);
    // Of a plugin that has gone the names are kept, not the schemas.
    net.end("ben");
    let details = net.ask_plugin("ann", "ben");
    let of = details["methods"].as_array().unwrap();
    assert!(of.iter().any(|method| method["name"] == "m7" && method.get("params").is_none()));
}

/// An outcome is queued whatever waits already, so that a caller that does not read has to be
/// refused its next call.
#[test]
fn a_caller_that_never_reads_filled_memory_with_outcomes() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let route = net.open("ann", RouteKind::Method, "ben.echo");
    let answer = vec![0; 1_000_000];
    for id in 1..=70 {
        net.send("ann", &[(Kind::REQUEST, route, id, b"x")]);
        net.read("ben");
        net.respond_with("ben", route, id, "ann", &answer);
    }
    let used = net.used("ann", Resource::ResponseBytes);
    assert!(used >= limit::RESPONSE_QUEUE_BYTES_MAX - 1_000_100, "{used}");
    let tally = |net: &Net| net.router.tallies()[0].1.accepted;
    let accepted = tally(&net);
    let mut requests = 0;
    while tally(&net) == accepted + requests {
        requests += 1;
        net.send("ann", &[(Kind::REQUEST, route, 100 + requests, b"x")]);
        net.send("ann", &[(Kind::CANCEL, route, 100 + requests, b"")]);
        assert!(requests < 10_000, "nothing ever refuses a call");
    }
    assert!(net.read("ann").iter().any(|frame| frame.0.kind == Kind::ERROR
        && frame.0.message_id == 100 + requests
        && code(frame) == Code::Refused));
}

/// Whoever takes the name that the broker would make up has a name all the same.
#[test]
fn a_plugin_that_calls_itself_client_1_was_taken_for_one_without_a_name() {
    let mut net = Net::new();
    net.enter("stranger", None, &[]);
    let made_up = net.sessions["stranger"].port().plugin.clone();
    assert_eq!(made_up.as_str(), "client-1");
    net.end("stranger");
    net.enter("named", Some("client-1"), &[]);
    net.end("named");
    net.join("ann");
    let known = net.ask_plugin("ann", "client-1");
    assert_eq!(known["state"], "died", "its name is remembered");
}

/// A callee that is told to stop stops between two chunks.
#[test]
fn a_cancelled_callee_kept_its_unfinished_answer_for_ever() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let route = net.open("ann", RouteKind::Method, "ben.echo");
    for id in 1..=100 {
        net.send("ann", &[(Kind::REQUEST, route, id, b"x")]);
        net.read("ben");
        net.chunk("ben", route, id, "ann", true);
        assert_eq!(count(&net.read("ben"), Kind::ERROR), 0, "answer {id} may begin");
        net.send("ann", &[(Kind::CANCEL, route, id, b"")]);
        net.chunk("ben", route, id, "ann", true);
        net.read("ben");
    }
    net.send("ben", &[(Kind::PING, 0, 1, b"")]);
    assert_eq!(net.sessions["ben"].assembled_bytes(), 0);
    assert_eq!(net.used("ben", Resource::ChunkBytes), 0);
    // One that goes on to the end is not told that nobody asked.
    net.chunk("ben", route, 100, "ann", false);
    assert_eq!(count(&net.read("ben"), Kind::ERROR), 0);
    // A chunk that crossed the cancel begins nothing either.
    net.send("ann", &[(Kind::REQUEST, route, 101, b"x")]);
    net.read("ben");
    net.send("ann", &[(Kind::CANCEL, route, 101, b"")]);
    net.chunk("ben", route, 101, "ann", true);
    assert_eq!(net.sessions["ben"].assembled_bytes(), 0);
}

/// What a receiver without LZ4 gets is unpacked when it is written: queued it is as small as it
/// came.
#[test]
fn what_is_queued_for_a_receiver_without_lz4_was_kept_unpacked() {
    let mut net = Net::new();
    net.enter("ann", Some("ann"), &["lz4", "checksum"]);
    net.read("ann");
    net.join("ben");
    net.subscribe("ben", Overflow::Block);
    let body = vec![7; 500_000];
    let packed = compress_frame(&body).unwrap();
    let routes = [
        (Kind::EVENT, net.open("ann", RouteKind::Topic, "sky")),
        (Kind::MESSAGE, net.open("ann", RouteKind::Channel, "ben/bulk")),
        (Kind::REQUEST, net.open("ann", RouteKind::Method, "ben.echo")),
    ];
    for (kind, route) in routes {
        let frame = FrameBuilder::new(kind)
            .session(net.sessions["ann"].port().session)
            .route(RouteId(route))
            .message_id(1)
            .flags(Flags::COMPRESSED)
            .build(b"", &packed);
        net.feed("ann", frame.to_vec());
    }
    assert_eq!(count(&net.read("ann"), Kind::ERROR), 0);
    let queued = net.sessions["ben"].port().outbox.lock().queued_bytes();
    assert!(queued < 20_000, "{queued} bytes wait");
    let frames = net.read("ben");
    for (kind, _) in routes {
        let (header, read) = frames.iter().find(|(header, _)| header.kind == kind).unwrap();
        assert!(!header.flags.has(Flags::COMPRESSED), "{kind}");
        assert_eq!(read[..], body[..], "{kind}");
    }
}

/// A slice of a read pins the whole buffer.
#[test]
fn a_small_message_kept_the_large_read_that_it_came_in() {
    let mut net = Net::new();
    net.join("ann");
    net.join("ben");
    let topic = net.open("ann", RouteKind::Topic, "nobody.listens");
    let channel = net.open("ann", RouteKind::Channel, "ben/bulk");
    let frame = |net: &Net, kind, route, size| {
        FrameBuilder::new(kind)
            .session(net.sessions["ann"].port().session)
            .route(RouteId(route))
            .message_id(1)
            .build(b"", &vec![0; size])
    };
    let large = frame(&net, Kind::EVENT, topic, 600_000);
    let small = frame(&net, Kind::MESSAGE, channel, 40_000);
    let input = Bytes::from([large, small].concat());
    let session = net.sessions.get_mut("ann").unwrap();
    session.handle_input(&input, net.now, &mut net.fx).unwrap();
    net.decide();
    assert!(net.used("ann", Resource::MessageBytes) > 40_000, "the message is kept");
    assert!(input.is_unique(), "and the buffer is free");
}
