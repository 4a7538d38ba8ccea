//! A link over a socket pair whose other end is this test.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::peer::PeerEvent;
use crate::wire::body::{self, Limits, Opened};
use crate::wire::{FrameBuilder, Header, Kind, scan_frame};

#[tokio::test]
async fn a_lone_frame_is_written_without_another() {
    let (link, _inbound, mut broker) = connected().await;
    link.tell(|peer, now| peer.signal(&body::Signal::default(), now)).unwrap();
    assert_eq!(broker.frame().await.kind, Kind::SIGNAL);
}

#[tokio::test]
async fn a_call_ends_although_the_broker_says_nothing() {
    let (link, inbound, mut broker) = connected().await;
    let reading = tokio::spawn(read(inbound));
    broker.open(&link, RouteKind::Method, "a.b").await;
    let timeout = Some(Duration::from_millis(20));
    let options = RequestOptions { timeout, ..Default::default() };
    let fault = link.call("a.b", b"", &options).await.unwrap_err();
    assert_eq!(fault.code, Code::Timeout);
    drop(link);
    reading.await.unwrap();
}

#[tokio::test]
async fn a_call_ends_with_the_connection() {
    let (link, inbound, mut broker) = connected().await;
    let reading = tokio::spawn(read(inbound));
    broker.open(&link, RouteKind::Method, "a.b").await;
    let options = RequestOptions::default();
    let (outcome, ()) = tokio::join!(link.call("a.b", b"", &options), async {
        assert_eq!(broker.until(Kind::REQUEST).await.route, RouteId(7));
        drop(broker);
    });
    let fault = outcome.unwrap_err();
    assert_eq!(
        (fault.code, &fault.details["verdict"]),
        (Code::ShuttingDown, &"possibly-started".into())
    );
    reading.await.unwrap();
    let fault = link.call("a.b", b"", &options).await.unwrap_err();
    assert_eq!(fault.code, Code::ShuttingDown, "and so does the next");
}

/// The broker that reads nothing stops its sender at some point, and nothing is lost or swapped.
#[tokio::test]
async fn a_full_socket_stops_the_sender() {
    const COUNT: u64 = 4_000;
    let (link, inbound, mut broker) = connected().await;
    let reading = tokio::spawn(read(inbound));
    let route = broker.open(&link, RouteKind::Channel, "a/inbox").await;
    let mut sent = 0;
    {
        let send = async {
            let options = SendOptions::default();
            for _ in 0..COUNT / 2 {
                sent = link.send(route, &[7; 1000], &options).await.unwrap();
            }
            let rest = vec![[7; 1000]; COUNT as usize / 2];
            sent = link.send_all(route, &rest, &options).await.unwrap().unwrap();
            assert_eq!(link.send_all::<&[u8]>(route, &[], &options).await, Ok(None));
        };
        let mut send = std::pin::pin!(send);
        // Polled until it really waits for the socket, not only for its turn.
        let waits = std::future::poll_fn(|cx| std::task::Poll::Ready(send.as_mut().poll(cx)));
        assert!(waits.await.is_pending());
        tokio::join!(send, async {
            for id in 1..=COUNT {
                let message = broker.until(Kind::MESSAGE).await;
                assert_eq!(message.message_id, id);
            }
        });
    }
    assert_eq!(sent, COUNT);
    drop(link);
    assert_eq!(broker.until(Kind::SHUTDOWN).await.kind, Kind::SHUTDOWN, "it says goodbye");
    reading.await.unwrap();
}

#[tokio::test]
async fn a_dropped_call_is_cancelled() {
    let (link, inbound, mut broker) = connected().await;
    let _reading = tokio::spawn(read(inbound));
    broker.open(&link, RouteKind::Method, "a.b").await;
    let options = RequestOptions::default();
    let mut call = Box::pin(link.call("a.b", b"", &options));
    let request = tokio::select! {
        outcome = &mut call => panic!("{outcome:?}"),
        request = broker.until(Kind::REQUEST) => request,
    };
    drop(call);
    assert_eq!(broker.until(Kind::CANCEL).await.message_id, request.message_id);
}

/// Nobody else reads meanwhile. What came behind the answer is for the owner, when it reads again.
#[tokio::test]
async fn a_lone_call_reads_its_answer_itself() {
    let (link, mut inbound, mut broker) = connected().await;
    tokio::select! {
        _ = broker.open(&link, RouteKind::Method, "a.b") => (),
        () = read_on(&mut inbound) => unreachable!("the broker is there"),
    }
    let options = RequestOptions::default();
    let (outcome, ()) = tokio::join!(link.call("a.b", b"", &options), async {
        let request = broker.until(Kind::REQUEST).await;
        let answer = FrameBuilder::new(Kind::RESPONSE).message_id(request.message_id);
        let answer = answer.route(request.route).build(b"", b"yes");
        let signal = FrameBuilder::new(Kind::SIGNAL);
        let signal = signal.build(b"", &body::encode(&body::Signal::default()));
        broker.stream.write_all(&[answer, signal].concat()).await.unwrap();
    });
    assert_eq!(&outcome.unwrap().body[..], b"yes");
    let mut events = Vec::new();
    inbound.receive(|event| events.push(event)).await.unwrap();
    assert!(matches!(events[..], [PeerEvent::Signal(_)]), "{events:?}");
}

/// What stands before the answer is the owner's to see before the caller goes on.
#[tokio::test]
async fn a_lone_call_does_not_overtake_what_came_before_its_answer() {
    let (link, mut inbound, mut broker) = connected().await;
    tokio::select! {
        _ = broker.open(&link, RouteKind::Method, "a.b") => (),
        () = read_on(&mut inbound) => unreachable!("the broker is there"),
    }
    let options = RequestOptions::default();
    let mut call = std::pin::pin!(link.call("a.b", b"", &options));
    let answer = async {
        let request = broker.until(Kind::REQUEST).await;
        let answer = FrameBuilder::new(Kind::RESPONSE).message_id(request.message_id);
        let answer = answer.route(request.route).build(b"", b"yes");
        let signal = FrameBuilder::new(Kind::SIGNAL);
        let signal = signal.build(b"", &body::encode(&body::Signal::default()));
        broker.stream.write_all(&[signal, answer].concat()).await.unwrap();
    };
    tokio::select! {
        biased;
        outcome = &mut call => panic!("before the question is answered: {outcome:?}"),
        () = answer => (),
    }
    let mut seen = false;
    tokio::select! {
        biased;
        outcome = &mut call => panic!("before the signal is seen: {outcome:?}"),
        received = inbound.receive(|event| seen = matches!(event, PeerEvent::Signal(_))) => {
            received.unwrap();
        }
    }
    assert!(seen);
    assert_eq!(&call.await.unwrap().body[..], b"yes");
}

#[tokio::test]
async fn what_a_lone_call_finds_broken_ends_the_connection_for_all() {
    let (link, mut inbound, mut broker) = connected().await;
    tokio::select! {
        _ = broker.open(&link, RouteKind::Method, "a.b") => (),
        () = read_on(&mut inbound) => unreachable!("the broker is there"),
    }
    let options = RequestOptions::default();
    let mut call = std::pin::pin!(link.call("a.b", b"", &options));
    let nonsense = async {
        broker.until(Kind::REQUEST).await;
        broker.stream.write_all(b"GET /").await.unwrap();
    };
    tokio::select! {
        biased;
        outcome = &mut call => panic!("the owner has not seen it: {outcome:?}"),
        () = nonsense => (),
    }
    tokio::select! {
        biased;
        outcome = &mut call => panic!("the owner has not seen it: {outcome:?}"),
        received = inbound.receive(drop) => {
            assert!(matches!(received, Err(LinkError::Framing(_))), "{received:?}");
        }
    }
    assert_eq!(call.await.unwrap_err().code, Code::ShuttingDown);
}

#[tokio::test]
async fn a_refused_hello_is_an_error() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut broker = Broker { stream: theirs, input: BytesMut::new() };
    let fault = Fault::new(Code::IdInUse, "`web` is live already");
    let refusal = FrameBuilder::new(Kind::ERROR).build(b"", &body::encode_fault(&fault));
    let (outcome, ()) = tokio::join!(Link::connect(ours, PeerSettings::default()), async {
        broker.frame().await;
        broker.stream.write_all(&refusal).await.unwrap();
    });
    assert!(matches!(outcome.map(drop), Err(LinkError::Refused(told)) if told == fault));
}

/// The broker's end, frame by frame.
struct Broker {
    stream: UnixStream,
    input: BytesMut,
}

impl Broker {
    /// Lets the link open a name.
    async fn open(&mut self, link: &Link, kind: RouteKind, name: &str) -> RouteId {
        let (route, ()) = tokio::join!(link.open(kind, name), async {
            let open = self.until(Kind::OPEN).await;
            let (window_messages, window_bytes) = (Some(1 << 20), Some(1 << 30));
            let opened = Opened { route: 7, window_messages, window_bytes };
            let answer = FrameBuilder::new(Kind::RESPONSE).message_id(open.message_id);
            self.stream.write_all(&answer.build(b"", &body::encode(&opened))).await.unwrap();
        });
        route.unwrap()
    }

    async fn frame(&mut self) -> Header {
        loop {
            if let Some(frame) = scan_frame(&self.input, limit::PAYLOAD_MAX).unwrap() {
                let (header, size) = (frame.header, frame.bytes().len());
                drop(self.input.split_to(size));
                return header;
            }
            assert_ne!(self.stream.read_buf(&mut self.input).await.unwrap(), 0, "the link ended");
        }
    }

    async fn until(&mut self, kind: Kind) -> Header {
        loop {
            let header = self.frame().await;
            if header.kind == kind {
                return header;
            }
        }
    }
}

async fn connected() -> (Link, Inbound, Broker) {
    let (ours, stream) = UnixStream::pair().unwrap();
    let mut broker = Broker { stream, input: BytesMut::new() };
    let limits = Limits {
        payload_max: limit::PAYLOAD_MAX,
        message_max: limit::MESSAGE_MAX,
        requests_max: 8,
        request_bytes_max: 1000,
        routes_max: 8,
        subscriptions_max: 8,
        call_timeout_ms: None,
    };
    let welcome = Welcome { version: 1, session: 5, limits, ..Default::default() };
    let welcome = FrameBuilder::new(Kind::WELCOME).build(b"", &body::encode(&welcome));
    let settings = PeerSettings { grace: Duration::from_millis(1), ..Default::default() };
    let (connected, ()) = tokio::join!(Link::connect(ours, settings), async {
        assert_eq!(broker.frame().await.kind, Kind::HELLO);
        broker.stream.write_all(&welcome).await.unwrap();
    });
    let (link, inbound, welcome) = connected.unwrap();
    assert_eq!(welcome.session, 5);
    (link, inbound, broker)
}

/// Reads until the end, as the owner of a connection does.
async fn read(mut inbound: Inbound) {
    read_on(&mut inbound).await;
}

async fn read_on(inbound: &mut Inbound) {
    while inbound.receive(drop).await.is_ok() {}
}
