//! A broker in this process, and a client that says anything, frame by frame.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use plugbus::Broker;
use plugbus::error::{Code, Fault};
use plugbus::id::{RouteId, SessionId};
use plugbus::wire::body::{self, Hello, Role, Welcome};
use plugbus::wire::{ContentType, FrameBuilder, FrameView, Header, Kind, scan_frame};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A broker on a socket of its own, gone with the test.
pub(crate) struct TestBroker {
    pub(crate) broker: Broker,
    pub(crate) runtime: tokio::runtime::Runtime,
    directory: tempfile::TempDir,
}

impl TestBroker {
    pub(crate) fn start() -> Self {
        Self::start_with(|builder| builder)
    }

    pub(crate) fn start_with(
        change: impl FnOnce(plugbus::BrokerBuilder) -> plugbus::BrokerBuilder,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let builder = Broker::builder()
            .name("test")
            .socket(directory.path().join("plugbus/test.sock"))
            .drain_timeout(Duration::from_millis(200));
        let broker = runtime.block_on(change(builder).start()).unwrap();
        Self { broker, runtime, directory }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.broker.socket().unwrap().to_owned()
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        self.runtime.block_on(self.broker.status()).unwrap()
    }

    /// A connection that has not said anything.
    pub(crate) fn dial(&self) -> RawPeer {
        RawPeer::new(UnixStream::connect(self.socket()).unwrap())
    }

    /// A client without a name.
    pub(crate) fn client(&self) -> RawPeer {
        let mut peer = self.dial();
        peer.greet(None).unwrap();
        peer
    }

    /// A plugin that serves these methods and channels and is ready.
    pub(crate) fn plugin(&self, id: &str, methods: &[&str], channels: &[&str]) -> RawPeer {
        let mut peer = self.dial();
        peer.greet(Some(id)).unwrap();
        peer.register(methods, channels);
        peer
    }

    /// Waits until the broker has heard of the end of these plugins' sessions.
    pub(crate) fn wait_gone(&self, plugin: &str) {
        let plugin = plugbus::id::PluginId::parse(plugin).unwrap();
        self.runtime.block_on(self.broker.wait_gone(&plugin)).unwrap();
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        self.runtime.block_on(self.broker.shutdown());
    }
}

/// A frame with its bytes.
#[derive(Clone, Debug)]
pub(crate) struct OwnedFrame {
    pub(crate) header: Header,
    bytes: Vec<u8>,
}

impl OwnedFrame {
    pub(crate) fn view(&self) -> FrameView<'_> {
        FrameView::new(self.header, &self.bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn body<T: DeserializeOwned>(&self) -> T {
        body::decode(self.view().body()).unwrap()
    }

    pub(crate) fn fault(&self) -> Fault {
        assert_eq!(self.header.kind, Kind::ERROR, "{self:?}");
        body::decode_fault(self.view().body()).unwrap()
    }
}

/// A peer that sends exactly what it is told.
pub(crate) struct RawPeer {
    pub(crate) stream: UnixStream,
    pub(crate) session: SessionId,
    input: BytesMut,
    next_id: u64,
    stash: VecDeque<OwnedFrame>,
}

impl RawPeer {
    pub(crate) fn new(stream: UnixStream) -> Self {
        // A test that waits for what never comes fails instead of hanging.
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self {
            stream,
            session: SessionId(0),
            input: BytesMut::new(),
            next_id: 0,
            stash: VecDeque::new(),
        }
    }

    pub(crate) fn greet(&mut self, id: Option<&str>) -> Result<Welcome, Fault> {
        self.greet_with(Hello {
            versions: vec![1],
            id: id.map(str::to_owned),
            role: if id.is_some() { Role::Plugin } else { Role::Client },
            ..Hello::default()
        })
    }

    pub(crate) fn greet_with(&mut self, hello: Hello) -> Result<Welcome, Fault> {
        self.send(&FrameBuilder::new(Kind::HELLO).build(b"", &body::encode_hello(&hello)));
        let frame = self.frame();
        if frame.header.kind == Kind::ERROR {
            return Err(frame.fault());
        }
        assert_eq!(frame.header.kind, Kind::WELCOME);
        let welcome: Welcome = frame.body();
        self.session = SessionId(welcome.session);
        Ok(welcome)
    }

    pub(crate) fn register(&mut self, methods: &[&str], channels: &[&str]) {
        let register = body::Register {
            methods: methods
                .iter()
                .map(|name| body::Method { name: (*name).to_owned(), ..body::Method::default() })
                .collect(),
            channels: channels
                .iter()
                .map(|name| body::Channel { name: (*name).to_owned(), help: None })
                .collect(),
            services: Vec::new(),
        };
        let answer = self.ask(Kind::REGISTER, &register);
        assert_eq!(answer.header.kind, Kind::RESPONSE, "{answer:?}");
        self.signal("ready");
    }

    pub(crate) fn signal(&mut self, name: &str) {
        let signal = body::Signal { name: name.to_owned(), ..body::Signal::default() };
        let frame = self.builder(Kind::SIGNAL).build(b"", &body::encode(&signal));
        self.send(&frame);
    }

    /// Sends a control frame and waits for its answer; frames that come before stay in order.
    pub(crate) fn ask<T: Serialize>(&mut self, kind: Kind, body: &T) -> OwnedFrame {
        let id = self.id();
        let frame = self
            .builder(kind)
            .message_id(id)
            .content(ContentType::MessagePack)
            .build(b"", &body::encode(body));
        self.send(&frame);
        let mut others = Vec::new();
        loop {
            let frame = self.frame();
            if frame.header.message_id == id
                && matches!(frame.header.kind, Kind::RESPONSE | Kind::ERROR)
            {
                self.stash.extend(others);
                return frame;
            }
            others.push(frame);
        }
    }

    pub(crate) fn open(&mut self, kind: body::RouteKind, name: &str) -> Result<RouteId, Fault> {
        let answer = self.ask(Kind::OPEN, &body::Open { kind, name: name.to_owned() });
        match answer.header.kind {
            Kind::RESPONSE => Ok(RouteId(answer.body::<body::Opened>().route)),
            _ => Err(answer.fault()),
        }
    }

    pub(crate) fn builder(&self, kind: Kind) -> FrameBuilder {
        FrameBuilder::new(kind).session(self.session)
    }

    pub(crate) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next frame.
    pub(crate) fn frame(&mut self) -> OwnedFrame {
        self.try_frame().expect("the broker closed the connection")
    }

    /// The next frame of this type; others are passed over.
    pub(crate) fn frame_of(&mut self, kind: Kind) -> OwnedFrame {
        loop {
            let frame = self.frame();
            if frame.header.kind == kind {
                return frame;
            }
        }
    }

    /// The next frame, or `None` at the end of the stream.
    pub(crate) fn try_frame(&mut self) -> Option<OwnedFrame> {
        if let Some(frame) = self.stash.pop_front() {
            return Some(frame);
        }
        loop {
            if let Some(view) = scan_frame(&self.input, u32::MAX).unwrap() {
                let frame = OwnedFrame { header: view.header, bytes: view.bytes().to_vec() };
                let _taken = self.input.split_to(frame.bytes.len());
                return Some(frame);
            }
            let mut buffer = [0; 16 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("reading from the broker: {error}"),
            }
        }
    }

    /// The fault that the broker sends before it closes the connection.
    #[track_caller]
    pub(crate) fn expect_closed_with(&mut self, code: Code) -> Fault {
        let fault = self.frame().fault();
        assert_eq!(fault.code, code, "{fault}");
        assert!(self.try_frame().is_none(), "the connection ends after {code:?}");
        fault
    }

    /// As [`ping`](Self::ping), with other frames before the answer.
    pub(crate) fn ping_past_errors(&mut self) {
        let ping = self.builder(Kind::PING).message_id(78).build(b"", b"hello?");
        self.send(&ping);
        self.frame_of(Kind::PONG);
    }

    /// Shows that the session is alive, and that everything sent before has been handled.
    #[track_caller]
    pub(crate) fn ping(&mut self) {
        let ping = self.builder(Kind::PING).message_id(77).build(b"", b"hello?");
        self.send(&ping);
        let pong = self.frame();
        assert_eq!((pong.header.kind, pong.view().body()), (Kind::PONG, &b"hello?"[..]));
    }
}
