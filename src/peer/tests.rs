//! A peer against frames made by hand.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::*;
use crate::error::{Details, Verdict};
use crate::wire::body::{Announce, Credit, Gap, Limits, Opened, Redelivery};
use crate::wire::{
    CallReference, ContentType, FrameBuilder, Header, RequestExtension, compress_frame, scan_frame,
};

const SESSION: u64 = 0xA5;
const CALLER: u64 = 0xB6;

#[test]
fn the_hello_comes_first_and_the_welcome_opens_the_session() {
    let mut side = Side::new(PeerSettings { id: Some("web".into()), ..Default::default() });
    let frames = side.sent();
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].header.kind, Kind::HELLO);
    assert_eq!(frames[0].header.session, SessionId::BROKER);
    let hello = body::decode_hello(&frames[0].body).unwrap();
    assert_eq!((hello.id.as_deref(), hello.versions), (Some("web"), vec![1]));

    let early = side.peer.open(RouteKind::Method, "a.b", side.now);
    assert_eq!(early, Err(CommandError::NoSession));
    side.receive(&welcome_frame(&[]));
    assert!(matches!(side.events()[..], [PeerEvent::Welcome(_)]));
    assert_eq!(side.peer.session(), SessionId(SESSION));
}

#[test]
fn a_refused_hello_says_why() {
    let mut side = Side::new(PeerSettings::default());
    let fault = Fault::new(Code::IdInUse, "`web` is live already");
    side.receive(&FrameBuilder::new(Kind::ERROR).build(b"", &body::encode_fault(&fault)));
    assert!(matches!(&side.events()[..], [PeerEvent::Refused(told)] if *told == fault));
    assert!(!side.peer.is_ready());
}

/// However the kernel chops the stream, the events are the same but for messages that stay
/// together: every seventh first cut, with every second one.
#[test]
fn cuts_do_not_change_events() {
    let stream = [
        welcome_frame(&[]),
        announce(7, RouteKind::Channel, "inbox"),
        message(7, 1, b"tick"),
        message(7, 2, b""),
    ]
    .concat();
    let together = events_of(&[&stream]);
    assert!(matches!(together[2], PeerEvent::Messages { .. }), "{together:?}");
    let expected = format!("{:?}", apart(together));
    for first in (0..=stream.len()).step_by(7) {
        for second in first..=stream.len() {
            let cut = [&stream[..first], &stream[first..second], &stream[second..]];
            let events = format!("{:?}", apart(events_of(&cut)));
            assert_eq!(events, expected, "cut at {first} and {second}");
        }
    }
}

/// What stands between two messages of a route parts them, and each keeps what it came with.
#[test]
fn messages_that_came_back_to_back_stay_together() {
    let mut side = Side::ready();
    side.receive(&announce(7, RouteKind::Channel, "inbox"));
    side.receive(&announce(8, RouteKind::Channel, "other"));
    side.events();
    let again = Redelivery { last: 4, attempt: 2 }.to_bytes();
    let again = FrameBuilder::new(Kind::REDELIVERY).route(RouteId(7)).build(b"", &again);
    let text = FrameBuilder::new(Kind::MESSAGE).route(RouteId(7)).timestamp(55);
    let text = text.content(ContentType::Text).message_id(5).build(&[0; 40], b"five");
    let packed = FrameBuilder::new(Kind::MESSAGE).route(RouteId(7)).message_id(7);
    let packed = packed.flags(Flags::COMPRESSED).build(b"", &compress_frame(&[9; 500]).unwrap());
    let stream = [
        message(7, 1, b"1"),
        message(7, 2, b"2"),
        message(8, 1, b"x"),
        again,
        message(7, 3, b"3"),
        message(7, 4, b""),
        text,
        message(7, 6, b"6"),
        packed,
    ];
    side.receive(&stream.concat());
    let events = side.events();
    let sizes: Vec<usize> = events
        .iter()
        .map(|event| match event {
            PeerEvent::Messages { run, .. } => run.len(),
            PeerEvent::Message { .. } => 1,
            event => panic!("{event:?}"),
        })
        .collect();
    assert_eq!(sizes, [2, 1, 4, 1]);
    let told: Vec<(usize, u64, u32, u64, Payload)> = apart(events)
        .into_iter()
        .map(|event| match event {
            PeerEvent::Message { slot, id, attempt, timestamp, payload } => {
                (slot, id, attempt, timestamp, payload)
            }
            event => panic!("{event:?}"),
        })
        .collect();
    let raw = |body: &'static [u8]| Payload { body: body.into(), ..Payload::default() };
    let five = Payload { content: ContentType::Text, body: b"five"[..].into() };
    let seven = Payload { body: vec![9; 500].into(), ..Payload::default() };
    let expected = [
        (0, 1, 1, 0, raw(b"1")),
        (0, 2, 1, 0, raw(b"2")),
        (1, 1, 1, 0, raw(b"x")),
        (0, 3, 2, 0, raw(b"3")),
        (0, 4, 2, 0, raw(b"")),
        (0, 5, 1, 55, five),
        (0, 6, 1, 0, raw(b"6")),
        (0, 7, 1, 0, seven),
    ];
    assert_eq!(told, expected);
    side.peer.ack(0, 8, side.now);
    side.peer.ack(0, 6, side.now);
    assert_eq!(side.sent().len(), 1, "6 came, 8 did not");
}

#[test]
fn each_message_on_a_route_that_was_not_announced_is_told() {
    let mut side = Side::ready();
    side.receive(&[message(99, 4, b""), message(99, 5, b"")].concat());
    let ids: Vec<u64> = side
        .events()
        .into_iter()
        .map(|event| match event {
            PeerEvent::Fault { route: RouteId(99), message_id, .. } => message_id,
            event => panic!("{event:?}"),
        })
        .collect();
    assert_eq!(ids, [4, 5]);
}

#[test]
fn many_are_sent_until_one_cannot_be() {
    let mut side = Side::ready();
    let route = side.open_with_window(RouteKind::Channel, "a/inbox", 7, 4, 1 << 20);
    let options = SendOptions { key: 3, ..Default::default() };
    let mut send = |payloads: &[&[u8]], output_max| {
        let sent = side.peer.send_many(route, payloads, &options, side.now, output_max);
        (sent, side.sent())
    };
    let (sent, frames) = send(&[b"a", b"b", b"c"], 100);
    assert_eq!(sent, Ok(1..3), "two frames are more than 100 bytes");
    let told: Vec<(u64, &[u8], usize)> = frames
        .iter()
        .map(|frame| (frame.header.message_id, &frame.body[..], frame.extension.len()))
        .collect();
    assert_eq!(told, [(1, &b"a"[..], 40), (2, b"b", 40)]);

    assert_eq!(send(&[], 1 << 20).0, Ok(0..0));
    let large = [0; LIMITS.message_max as usize + 1];
    assert_eq!(send(&[b"c", &large], 1 << 20).0, Ok(3..4));
    let refused = send(&[&large, b"d"], 1 << 20).0;
    assert!(matches!(refused, Err(CommandError::Fault(fault)) if fault.code == Code::TooLarge));
    assert_eq!(send(&[b"d", b"e"], 1 << 20).0, Ok(4..5), "four are the window");
    assert_eq!(send(&[b"e"], 1 << 20).0, Err(CommandError::WindowFull));
}

#[test]
fn whole_frames_are_not_copied() {
    let mut side = Side::ready();
    let stream =
        Bytes::from([announce(7, RouteKind::Channel, "inbox"), message(7, 1, &[5; 100])].concat());
    side.peer.handle_input(stream.clone(), side.now).unwrap();
    let events = side.events();
    let PeerEvent::Message { payload, .. } = &events[1] else { panic!("{events:?}") };
    let outer = stream.as_ptr_range();
    assert!(outer.contains(&payload.body.as_ptr()), "the payload lies in the read buffer");
}

#[test]
fn a_framing_error_is_sticky() {
    let mut side = Side::ready();
    let error = side.peer.handle_input(Bytes::from_static(b"GET /"), side.now).unwrap_err();
    assert_eq!(error, FrameError::BadDialect(b'G'));
    assert_eq!(side.peer.handle_input(welcome_frame(&[]), side.now), Err(error));
}

#[test]
fn a_frame_that_is_unknown_or_from_the_wrong_side_is_answered_with_an_error() {
    for (kind, code) in [(Kind(201), Code::UnknownType), (Kind::REGISTER, Code::Unexpected)] {
        let mut side = Side::ready();
        side.receive(&FrameBuilder::new(kind).route(RouteId(7)).message_id(3).build(b"", b""));
        let [answer] = &side.sent()[..] else { panic!("one answer to {kind}") };
        let header = &answer.header;
        assert_eq!((header.kind, header.route, header.message_id), (Kind::ERROR, RouteId(7), 3));
        assert_eq!(body::decode_fault(&answer.body).unwrap().code, code);
        assert!(
            matches!(&side.events()[..], [PeerEvent::Fault { fault, .. }] if fault.code == code)
        );
        assert!(side.peer.is_ready());
    }
}

#[test]
fn a_name_is_opened_once() {
    let mut side = Side::ready();
    let first = side.peer.open(RouteKind::Method, "a.b", side.now).unwrap();
    let second = side.peer.open(RouteKind::Method, "a.b", side.now).unwrap();
    assert_eq!(first, second);
    let Opening::Pending(id) = first else { panic!("nothing is known yet") };
    assert_eq!(side.sent().len(), 1);

    side.receive(&answer(id, &Opened { route: 9, ..Default::default() }));
    let [PeerEvent::Opened { id: told, result: Ok(RouteId(9)), .. }] = side.events()[..] else {
        panic!("one opened event")
    };
    assert_eq!(told, id);
    let again = side.peer.open(RouteKind::Method, "a.b", side.now).unwrap();
    assert_eq!(again, Opening::Open(RouteId(9)));
    assert_eq!(side.peer.route(RouteKind::Topic, "a.b"), None, "another kind, another name");

    side.receive(
        &FrameBuilder::new(Kind::CLOSE)
            .route(RouteId(9))
            .build(b"", &body::encode(&body::Closed { reason: "left".into() })),
    );
    assert!(matches!(&side.events()[..], [PeerEvent::Closed { route: RouteId(9), .. }]));
    assert_eq!(side.peer.route(RouteKind::Method, "a.b"), None);
    let gone = side.peer.request(RouteId(9), b"", &RequestOptions::default(), side.now);
    assert_eq!(gone, Err(CommandError::NoRoute(RouteId(9))));
}

#[test]
fn a_call_gets_its_answer_once() {
    let mut side = Side::ready();
    let route = side.open(RouteKind::Method, "a.b", 9);
    let options =
        RequestOptions { timeout: Some(Duration::from_millis(250)), ..Default::default() };
    let id = side.peer.request(route, b"args", &options, side.now).unwrap();
    let sent = side.sent();
    assert_eq!(sent[0].header.session, SessionId(SESSION));
    assert_eq!(sent[0].request.deadline_ms, 250);
    assert_eq!(&sent[0].body[..], b"args");

    let reference = CallReference(SessionId(SESSION)).to_bytes();
    let response = FrameBuilder::new(Kind::RESPONSE)
        .route(route)
        .message_id(id)
        .session(SessionId(CALLER))
        .content(ContentType::MessagePack)
        .build(&reference, b"result");
    side.receive(&response);
    side.receive(&response);
    let events = side.events();
    let [PeerEvent::Answer { id: told, result: Ok(payload) }] = &events[..] else {
        panic!("one answer: {events:?}")
    };
    assert_eq!((*told, &payload.body[..]), (id, &b"result"[..]));
    assert_eq!(payload.content, ContentType::MessagePack);
    assert_eq!(side.peer.next_deadline(), None);
}

#[test]
fn an_answer_on_another_route_is_not_taken_for_it() {
    let mut side = Side::ready();
    let route = side.open(RouteKind::Method, "a.b", 9);
    let topic = side.open(RouteKind::Topic, "t", 10);
    let id = side.peer.request(route, b"", &RequestOptions::default(), side.now).unwrap();
    let fault = body::encode_fault(&Fault::new(Code::CreditOverrun, "too much"));
    side.receive(&FrameBuilder::new(Kind::ERROR).route(topic).message_id(id).build(b"", &fault));
    assert!(side.events().is_empty(), "it was about an event that was never sent");
    assert!(side.peer.next_deadline().is_some(), "the call still waits");
}

#[test]
fn without_an_answer_the_deadline_gives_the_outcome() {
    let mut side = Side::ready();
    let route = side.open(RouteKind::Method, "a.b", 9);
    let options = RequestOptions { timeout: Some(Duration::from_secs(1)), ..Default::default() };
    let id = side.peer.request(route, b"", &options, side.now).unwrap();
    side.sent();

    side.pass(Duration::from_secs(1));
    side.peer.handle_timeout(side.now);
    assert!(side.events().is_empty(), "within the grace the broker's word is waited for");
    let deadline = side.peer.next_deadline().unwrap();
    side.pass(deadline - side.now.instant);
    side.peer.handle_timeout(side.now);
    assert_eq!(side.answer_of(id).unwrap_err().code, Code::Timeout);
    assert_eq!(side.sent()[0].header.kind, Kind::CANCEL);
    assert_eq!(side.peer.next_deadline(), None);
}

#[test]
fn the_end_of_the_connection_gives_every_call_its_outcome() {
    let mut side = Side::ready();
    let route = side.open(RouteKind::Method, "a.b", 9);
    let plain = side.peer.request(route, b"", &RequestOptions::default(), side.now).unwrap();
    let begun = side.peer.request(route, b"", &RequestOptions::default(), side.now).unwrap();
    let unanswered = RequestOptions { no_reply: true, ..Default::default() };
    side.peer.request(route, b"", &unanswered, side.now).unwrap();
    let reference = CallReference(SessionId(SESSION)).to_bytes();
    side.receive(
        &FrameBuilder::new(Kind::STARTED).route(route).message_id(begun).build(&reference, b""),
    );
    let Opening::Pending(opening) = side.peer.open(RouteKind::Topic, "t", side.now).unwrap() else {
        panic!("not known yet")
    };
    side.events();

    side.peer.handle_closed();
    side.peer.handle_closed();
    let outcomes: Vec<(u64, Details)> = side
        .events()
        .into_iter()
        .map(|event| match event {
            PeerEvent::Answer { id, result } => (id, result.unwrap_err().details),
            PeerEvent::Opened { id, result, .. } => (id, result.unwrap_err().details),
            event => panic!("{event:?}"),
        })
        .collect();
    let verdict = |verdict: Verdict| {
        Details::from([("verdict".to_owned(), serde_json::Value::from(verdict.name()))])
    };
    assert_eq!(
        outcomes,
        [
            (plain, verdict(Verdict::PossiblyStarted)),
            (begun, verdict(Verdict::Started)),
            (opening, Details::new())
        ]
    );
}

#[test]
fn more_requests_than_allowed_are_refused_with_the_reason() {
    let mut side = Side::ready();
    let route = side.open(RouteKind::Method, "a.b", 9);
    for _ in 0..LIMITS.requests_max {
        side.peer.request(route, b"", &RequestOptions::default(), side.now).unwrap();
    }
    let refused = side.peer.request(route, b"", &RequestOptions::default(), side.now);
    let Err(CommandError::Fault(fault)) = refused else { panic!("{refused:?}") };
    assert_eq!(fault.code, Code::Refused);
    assert_eq!(fault.details["limit"], LIMITS.requests_max);
}

#[test]
fn a_request_is_answered_once_and_only_while_somebody_waits() {
    let mut side = Side::ready();
    side.receive(&announce(5, RouteKind::Method, "greet"));
    for id in 1..=3 {
        side.receive(&request(5, id, 0));
    }
    side.receive(&request(5, 4, Flags::NO_REPLY));
    let calls: Vec<CallId> = side
        .events()
        .into_iter()
        .filter_map(|event| match event {
            PeerEvent::Request { call, .. } => Some(call),
            _ => None,
        })
        .collect();
    assert_eq!(calls.len(), 4);
    let reference = CallReference(SessionId(CALLER)).to_bytes();
    side.receive(
        &FrameBuilder::new(Kind::CANCEL).route(RouteId(5)).message_id(3).build(&reference, b""),
    );
    assert!(matches!(side.events()[..], [PeerEvent::Cancelled { call }] if call == calls[2]));

    let body: (ContentType, &[u8]) = (ContentType::Text, b"hi");
    side.peer.started(calls[0], side.now);
    assert!(side.peer.respond(calls[0], Ok(body), side.now));
    assert!(!side.peer.respond(calls[0], Ok(body), side.now), "once");
    let fault = Fault::new(Code::HandlerFailed, "no");
    assert!(side.peer.respond(calls[1], Err(&fault), side.now));
    assert!(!side.peer.respond(calls[2], Ok(body), side.now), "cancelled");
    side.peer.started(calls[3], side.now);
    assert!(!side.peer.respond(calls[3], Ok(body), side.now), "nobody waits");
    assert_eq!(side.peer.serving(), 0);

    let sent = side.sent();
    let kinds: Vec<(Kind, u64)> =
        sent.iter().map(|frame| (frame.header.kind, frame.header.message_id)).collect();
    assert_eq!(kinds, [(Kind::STARTED, 1), (Kind::RESPONSE, 1), (Kind::ERROR, 2)]);
    assert!(sent.iter().all(|frame| frame.extension == reference));
    assert_eq!(body::decode_fault(&sent[2].body), Ok(fault));
}

#[test]
fn a_deadline_counts_from_the_senders_timestamp_but_never_longer() {
    for (sent_before_ms, expected_ms) in [(0_i64, 100), (30, 70), (500, 0), (-1000, 100)] {
        let mut side = Side::ready();
        side.receive(&announce(5, RouteKind::Method, "greet"));
        let extension = RequestExtension { deadline_ms: 100, ..Default::default() }.to_bytes();
        let timestamp = side.now.unix.wrapping_add_signed(-sent_before_ms * 1_000_000);
        let frame = FrameBuilder::new(Kind::REQUEST)
            .route(RouteId(5))
            .message_id(1)
            .session(SessionId(CALLER))
            .timestamp(timestamp)
            .build(&extension, b"");
        side.receive(&frame);
        let events = side.events();
        let PeerEvent::Request { deadline, .. } = events[1] else { panic!("{events:?}") };
        assert_eq!(deadline - side.now.instant, Duration::from_millis(expected_ms));
    }
}

#[test]
fn messages_are_numbered_and_stop_at_the_window() {
    let mut side = Side::ready();
    let route = side.open_with_window(RouteKind::Channel, "a/inbox", 3, 2, 1000);
    let send = |side: &mut Side| side.peer.send(route, b"x", &SendOptions::default(), side.now);
    assert_eq!(send(&mut side), Ok(1));
    assert_eq!(send(&mut side), Ok(2));
    assert_eq!(send(&mut side), Err(CommandError::WindowFull));
    side.receive(&ack(3, 2, 1));
    assert_eq!(send(&mut side), Ok(3));
    assert_eq!(send(&mut side), Err(CommandError::WindowFull));
    let gap = Gap { last: 2, cause: "expired".into(), topic: None };
    let builder = FrameBuilder::new(Kind::GAP).route(route).message_id(2);
    side.receive(&builder.build(b"", &body::encode(&gap)));
    assert_eq!(send(&mut side), Ok(4));
    let credit = Credit { messages: 0, bytes: 0 }.to_bytes();
    side.receive(&FrameBuilder::new(Kind::CREDIT).route(route).build(b"", &credit));
    side.receive(&ack(3, 4, 4));
    assert_eq!(send(&mut side), Err(CommandError::WindowFull), "no credit at all");
    assert_eq!(side.peer.progress(route).unwrap().unsettled, 0);
    assert!(matches!(
        side.events()[..],
        [
            PeerEvent::Acked { accepted: 2, completed: 1, .. },
            PeerEvent::GivenUp { first: 2, last: 2, .. },
            PeerEvent::Credit { .. },
            PeerEvent::Acked { accepted: 4, completed: 4, .. }
        ]
    ));
    side.receive(&ack(3, 9, 9));
    assert!(
        matches!(&side.events()[..], [PeerEvent::Fault { fault, .. }] if fault.code == Code::BadAck)
    );
}

#[test]
fn redelivered_messages_bear_their_attempt() {
    let mut side = Side::ready();
    side.receive(&announce(7, RouteKind::Channel, "inbox"));
    let redelivery = Redelivery { last: 5, attempt: 2 }.to_bytes();
    side.receive(
        &FrameBuilder::new(Kind::REDELIVERY)
            .route(RouteId(7))
            .message_id(4)
            .build(b"", &redelivery),
    );
    for id in 4..=6 {
        side.receive(&message(7, id, b""));
    }
    let attempts: Vec<u32> = apart(side.events())
        .into_iter()
        .filter_map(|event| match event {
            PeerEvent::Message { attempt, .. } => Some(attempt),
            _ => None,
        })
        .collect();
    assert_eq!(attempts, [2, 2, 1]);
    side.peer.ack(0, 9, side.now);
    side.peer.ack(0, 6, side.now);
    side.peer.ack(0, 6, side.now);
    let acks: Vec<u64> = side.sent().iter().map(|frame| frame.header.message_id).collect();
    assert_eq!(acks, [6], "never what did not come, never twice");
}

#[test]
fn large_messages_are_cut_and_joined() {
    for size in [LIMITS.payload_max as usize, 3 * LIMITS.payload_max as usize + 1] {
        for compress_min in [None, Some(64)] {
            let settings = PeerSettings { compress_min, checksum: true, ..Default::default() };
            let mut sender = Side::ready_with(settings.clone());
            let mut receiver = Side::ready_with(settings);
            let route = sender.open(RouteKind::Channel, "a/inbox", 7);
            receiver.receive(&announce(7, RouteKind::Channel, "inbox"));
            receiver.events();
            let payload: Vec<u8> = (0..size).map(|index| (index / 50) as u8).collect();
            let options = SendOptions { key: 3, ..Default::default() };
            sender.peer.send(route, &payload, &options, sender.now).unwrap();
            let stream = sender.peer.output().split().freeze();
            assert_eq!(stream.len() < size, compress_min.is_some());
            receiver.peer.handle_input(stream, receiver.now).unwrap();
            let events = receiver.events();
            let [PeerEvent::Message { payload: joined, id: 1, .. }] = &events[..] else {
                panic!("one message of {size} bytes: {events:?}")
            };
            assert_eq!(joined.body, payload);
        }
    }
    let mut side = Side::ready();
    let route = side.open(RouteKind::Channel, "a/inbox", 7);
    let payload = vec![0; LIMITS.message_max as usize + 1];
    let refused = side.peer.send(route, &payload, &SendOptions::default(), side.now);
    assert!(matches!(refused, Err(CommandError::Fault(fault)) if fault.code == Code::TooLarge));
}

#[test]
fn content_that_does_not_unpack_is_answered_and_told() {
    let mut side = Side::ready_with(PeerSettings { compress_min: Some(9), ..Default::default() });
    side.receive(&announce(5, RouteKind::Method, "greet"));
    let mut packed = compress_frame(&[7; 500]).unwrap();
    packed[0] ^= 1;
    side.receive(
        &FrameBuilder::new(Kind::REQUEST)
            .route(RouteId(5))
            .message_id(1)
            .session(SessionId(CALLER))
            .flags(Flags::COMPRESSED)
            .build(b"", &packed),
    );
    assert_eq!(side.sent()[0].header.kind, Kind::ERROR);
    assert!(matches!(side.events()[..], [PeerEvent::Announced { .. }, PeerEvent::Fault { .. }]));
}

#[test]
fn a_ping_is_answered_with_its_bytes() {
    let mut side = Side::ready();
    side.receive(&FrameBuilder::new(Kind::PING).message_id(77).build(b"", b"abc"));
    let sent = side.sent();
    assert_eq!((sent[0].header.kind, sent[0].header.message_id), (Kind::PONG, 77));
    assert_eq!(&sent[0].body[..], b"abc");
}

#[test]
fn frames_that_mean_nothing_here_are_told_and_harm_nothing() {
    let mut side = Side::ready();
    for frame in [
        FrameBuilder::new(Kind(200)).build(b"", b""),
        FrameBuilder::new(Kind::HELLO).build(b"", b""),
        FrameBuilder::new(Kind::ANNOUNCE).build(b"", b"\xc1"),
        FrameBuilder::new(Kind::CREDIT).build(b"", b"abc"),
        FrameBuilder::new(Kind::CANCEL).build(b"", b""),
        FrameBuilder::new(Kind::ACK).build(b"", b""),
        message(99, 1, b""),
        FrameBuilder::new(Kind::ERROR).message_id(999).build(b"", b"\xc1"),
    ] {
        side.receive(&frame);
        let events = side.events();
        assert!(matches!(events[..], [PeerEvent::Fault { .. }]), "{frame:?}: {events:?}");
    }
    side.receive(&request(99, 1, 0));
    assert_eq!(side.sent()[0].header.kind, Kind::ERROR, "its caller does not wait in vain");
    assert!(side.peer.is_ready());
}

const LIMITS: Limits = Limits {
    payload_max: 1000,
    message_max: 10_000,
    requests_max: 8,
    request_bytes_max: 1000,
    routes_max: 8,
    subscriptions_max: 8,
    call_timeout_ms: None,
};

/// A peer whose socket is this test.
struct Side {
    peer: Peer,
    now: Moment,
}

#[derive(Debug)]
struct Sent {
    header: Header,
    request: RequestExtension,
    extension: Vec<u8>,
    body: Bytes,
}

impl Side {
    #[expect(clippy::disallowed_methods, reason = "an `Instant` has no other origin")]
    fn new(settings: PeerSettings) -> Self {
        let now = Moment { instant: Instant::now(), unix: 1_700_000_000_000_000_000 };
        Self { peer: Peer::new(settings, now), now }
    }

    fn ready() -> Self {
        Self::ready_with(PeerSettings::default())
    }

    fn ready_with(settings: PeerSettings) -> Self {
        let mut side = Self::new(settings);
        side.receive(&welcome_frame(&["lz4", "checksum"]));
        side.sent();
        side.events();
        side
    }

    fn open(&mut self, kind: RouteKind, name: &str, route: u32) -> RouteId {
        self.open_with_window(kind, name, route, 1000, 1 << 20)
    }

    fn open_with_window(
        &mut self,
        kind: RouteKind,
        name: &str,
        route: u32,
        messages: u64,
        bytes: u64,
    ) -> RouteId {
        let Ok(Opening::Pending(id)) = self.peer.open(kind, name, self.now) else {
            panic!("`{name}` is not open yet")
        };
        let (window_messages, window_bytes) = (Some(messages), Some(bytes));
        self.receive(&answer(id, &Opened { route, window_messages, window_bytes }));
        self.events();
        self.sent();
        RouteId(route)
    }

    #[track_caller]
    fn receive(&mut self, bytes: &[u8]) {
        self.peer.handle_input(Bytes::copy_from_slice(bytes), self.now).unwrap();
    }

    fn events(&mut self) -> Vec<PeerEvent> {
        let mut events = VecDeque::new();
        self.peer.drain_events(&mut events);
        events.into()
    }

    #[track_caller]
    fn answer_of(&mut self, wanted: u64) -> Result<Payload, Fault> {
        match &self.events()[..] {
            [PeerEvent::Answer { id, result }] if *id == wanted => result.clone(),
            events => panic!("{events:?}"),
        }
    }

    fn sent(&mut self) -> Vec<Sent> {
        let mut bytes: BytesMut = self.peer.output().split();
        let mut frames = Vec::new();
        while let Some(frame) = scan_frame(&bytes, 1 << 20).unwrap() {
            let size = frame.bytes().len();
            frames.push(Sent {
                header: frame.header,
                request: RequestExtension::of(&frame),
                extension: frame.extension().to_vec(),
                body: Bytes::copy_from_slice(frame.body()),
            });
            drop(bytes.split_to(size));
        }
        assert!(bytes.is_empty(), "the output holds whole frames");
        frames
    }

    fn pass(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.unix += time.as_nanos() as u64;
    }
}

fn events_of(chunks: &[&[u8]]) -> Vec<PeerEvent> {
    let mut side = Side::new(PeerSettings::default());
    chunks.iter().for_each(|chunk| side.receive(chunk));
    side.events()
}

/// The same events, each message by itself.
fn apart(events: Vec<PeerEvent>) -> Vec<PeerEvent> {
    let mut parted = Vec::new();
    for event in events {
        match event {
            PeerEvent::Messages { slot, run } => {
                parted.extend(run.map(|Delivered { id, attempt, timestamp, payload }| {
                    PeerEvent::Message { slot, id, attempt, timestamp, payload }
                }));
            }
            event => parted.push(event),
        }
    }
    parted
}

fn welcome_frame(features: &[&str]) -> Bytes {
    let welcome = Welcome {
        version: 1,
        features: features.iter().map(|&feature| feature.to_owned()).collect(),
        session: SESSION,
        id: "web".into(),
        incarnation: 1,
        limits: LIMITS,
        ..Default::default()
    };
    FrameBuilder::new(Kind::WELCOME).message_id(1).build(b"", &body::encode(&welcome))
}

fn answer(id: u64, body: &impl serde::Serialize) -> Bytes {
    FrameBuilder::new(Kind::RESPONSE).message_id(id).build(b"", &body::encode(body))
}

fn announce(route: u32, kind: RouteKind, name: &str) -> Bytes {
    let announce = Announce {
        route,
        kind,
        name: name.into(),
        from: "b".into(),
        session: CALLER,
        incarnation: 1,
    };
    FrameBuilder::new(Kind::ANNOUNCE).build(b"", &body::encode(&announce))
}

fn message(route: u32, id: u64, body: &[u8]) -> Bytes {
    FrameBuilder::new(Kind::MESSAGE)
        .route(RouteId(route))
        .message_id(id)
        .session(SessionId(CALLER))
        .build(b"", body)
}

fn request(route: u32, id: u64, flags: u16) -> Bytes {
    FrameBuilder::new(Kind::REQUEST)
        .route(RouteId(route))
        .message_id(id)
        .session(SessionId(CALLER))
        .flags(flags)
        .build(b"", b"args")
}

fn ack(route: u32, accepted: u64, completed: u64) -> Bytes {
    FrameBuilder::new(Kind::ACK)
        .route(RouteId(route))
        .message_id(completed)
        .build(b"", &accepted.to_le_bytes())
}
