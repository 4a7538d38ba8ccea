//! Clients of the broker that write frames by hand, on blocking sockets, in batches of 64 KiB.
//!
//! What they reach is what the broker allows; the difference to the SDK is what the SDK costs.

pub(crate) mod call;
pub(crate) mod stream;

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Result, bail};
use plugbus::id::{RouteId, SessionId};
use plugbus::limit;
use plugbus::wire::body::{self, Hello, Role, Welcome};
use plugbus::wire::{ContentType, FrameBuilder, FrameView, Kind, scan_frame};
use rustix::net::{RecvFlags, recv};
use serde::Serialize;

use crate::input::Input;

/// One session.
pub(crate) struct Connection {
    pub(crate) stream: UnixStream,
    pub(crate) session: SessionId,
    input: Input,
    next_id: u64,
}

impl Connection {
    /// Connects and is let in, as a plugin if there is an id.
    pub(crate) fn greet(socket: &Path, id: Option<&str>) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let mut connection =
            Self { stream, session: SessionId(0), input: Input::new(), next_id: 0 };
        let hello = Hello {
            versions: vec![1],
            id: id.map(str::to_owned),
            role: if id.is_some() { Role::Plugin } else { Role::Client },
            ..Hello::default()
        };
        let hello = FrameBuilder::new(Kind::HELLO).build(b"", &body::encode_hello(&hello));
        connection.stream.write_all(&hello)?;
        let mut welcome = None;
        while welcome.is_none() {
            connection.read(|frame| {
                if frame.header.kind == Kind::WELCOME {
                    welcome = Some(body::decode::<Welcome>(frame.body())?);
                }
                Ok(())
            })?;
        }
        connection.session = SessionId(welcome.expect("it was waited for").session);
        Ok(connection)
    }

    /// Says what this plugin serves, and that it is ready.
    pub(crate) fn register(&mut self, method: Option<&str>, channel: Option<&str>) -> Result<()> {
        let register = body::Register {
            methods: method
                .map(|name| body::Method { name: name.to_owned(), ..body::Method::default() })
                .into_iter()
                .collect(),
            channels: channel
                .map(|name| body::Channel { name: name.to_owned(), help: None })
                .into_iter()
                .collect(),
            services: Vec::new(),
        };
        let _empty: body::Empty = self.ask(Kind::REGISTER, &register)?;
        let signal = body::Signal { name: "ready".to_owned(), ..body::Signal::default() };
        let frame = self.builder(Kind::SIGNAL).build(b"", &body::encode(&signal));
        Ok(self.stream.write_all(&frame)?)
    }

    /// Resolves a name.
    pub(crate) fn open(&mut self, kind: body::RouteKind, name: &str) -> Result<RouteId> {
        let open = body::Open { kind, name: name.to_owned() };
        let opened: body::Opened = self.ask(Kind::OPEN, &open)?;
        Ok(RouteId(opened.route))
    }

    /// Sends a control frame and waits for its answer.
    pub(crate) fn ask<Q, A>(&mut self, kind: Kind, question: &Q) -> Result<A>
    where
        Q: Serialize,
        A: serde::de::DeserializeOwned,
    {
        self.next_id += 1;
        let id = self.next_id;
        let frame = self
            .builder(kind)
            .message_id(id)
            .content(ContentType::MessagePack)
            .build(b"", &body::encode(question));
        self.stream.write_all(&frame)?;
        let mut answer = None;
        while answer.is_none() {
            self.read(|frame| {
                if frame.header.message_id == id && frame.header.kind == Kind::RESPONSE {
                    answer = Some(body::decode(frame.body())?);
                }
                Ok(())
            })?;
        }
        Ok(answer.expect("it was waited for"))
    }

    /// Reads once and gives every complete frame. A fault is the end.
    pub(crate) fn read(&mut self, take: impl FnMut(&FrameView<'_>) -> Result<()>) -> Result<()> {
        self.input.fill(&mut self.stream)?;
        self.take_frames(take)
    }

    /// The same without waiting.
    pub(crate) fn try_read(
        &mut self,
        take: impl FnMut(&FrameView<'_>) -> Result<()>,
    ) -> Result<()> {
        match self.input.fill(&mut Unwaiting(&self.stream)) {
            Ok(()) => self.take_frames(take),
            Err(error) => match error.downcast_ref::<io::Error>() {
                Some(cause) if cause.kind() == io::ErrorKind::WouldBlock => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// A frame of this session.
    pub(crate) fn builder(&self, kind: Kind) -> FrameBuilder {
        FrameBuilder::new(kind).session(self.session)
    }

    fn take_frames(&mut self, mut take: impl FnMut(&FrameView<'_>) -> Result<()>) -> Result<()> {
        let mut offset = 0;
        let bytes = self.input.bytes();
        while let Some(frame) = scan_frame(&bytes[offset..], limit::PAYLOAD_MAX)? {
            if frame.header.kind == Kind::ERROR {
                bail!("the broker says: {}", body::decode_fault(frame.body())?);
            }
            take(&frame)?;
            offset += frame.bytes().len();
        }
        self.input.consume(offset);
        Ok(())
    }
}

/// Reads what is there.
struct Unwaiting<'a>(&'a UnixStream);

impl io::Read for Unwaiting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, _whole) = recv(self.0, buffer, RecvFlags::DONTWAIT)?;
        Ok(count)
    }
}
