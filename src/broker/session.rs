//! The session actor: the lifecycle of one connection.
//!
//! The traffic runs in a task beside the actor ([`net::traffic`](crate::net::traffic)); a panic
//! there ends this session and no other. The actor is the one place that reports the end.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix::prelude::*;
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::router::{Admit, Apply, Router, SessionEnded};
use crate::engine::{self, Attachment, Change, Port};
use crate::error::{Code, Fault, FrameError, Refusal};
use crate::id::SessionId;
use crate::limit::{self, Limits};
use crate::net::socket::Socket;
use crate::net::traffic::{self, Changes};
use crate::supervise::{MailError, Supervised, fuse};

/// One connection, from accept to its end.
pub(super) struct Session {
    stream: Option<UnixStream>,
    attachment: Option<Attachment>,
    shared: Shared,
    port: Rc<OnceCell<Arc<Port>>>,
    reason: String,
}

/// What all sessions of one broker share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) router: Supervised<Router>,
    pub(super) rearm: Arc<Notify>,
    /// Connections that have not said hello.
    pub(super) greeting: Arc<AtomicUsize>,
    pub(super) limits: Arc<Limits>,
}

impl Session {
    pub(super) fn new(stream: UnixStream, attachment: Option<Attachment>, shared: Shared) -> Self {
        Self {
            stream: Some(stream),
            attachment,
            shared,
            port: Rc::default(),
            reason: "the session failed".to_owned(),
        }
    }
}

impl Actor for Session {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let stream = self.stream.take().expect("an actor starts once");
        let shared = self.shared.clone();
        let task = tokio::task::spawn_local(run(
            stream,
            self.attachment.take(),
            shared,
            Rc::clone(&self.port),
        ));
        let watch = task.into_actor(self).map(|outcome, session, ctx| {
            match outcome {
                Ok(reason) => session.reason = reason,
                Err(error) => {
                    log::error!("a session failed: {error}");
                    session.reason = "internal error of the broker".to_owned();
                }
            }
            ctx.stop();
        });
        ctx.spawn(watch);
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        let Some(port) = self.port.get() else {
            log::debug!("a connection ended before its hello: {}", self.reason);
            return;
        };
        let reason = port.end().unwrap_or_else(|| self.reason.clone());
        log::info!("session {} of {} ends: {reason}", port.session, port.plugin);
        actix::spawn(report_end(self.shared.router.clone(), port.session, reason));
    }
}

/// The router has to hear of it, also when it fails just then. Hearing it twice does no harm.
async fn report_end(router: Supervised<Router>, session: SessionId, reason: String) {
    for _ in 0..END_REPORTS_MAX {
        let ended = SessionEnded { session, reason: reason.clone() };
        match router.send(ended).await {
            Ok(()) | Err(MailError::Closed) => return,
            Err(error) => log::warn!("the end of session {session} is reported again: {error}"),
        }
    }
}

impl Changes for Shared {
    async fn apply(&self, changes: Vec<Change>) {
        // What was not decided is answered by the mail itself, or by the next incarnation.
        if let Err(error) = self.router.send(Apply(changes)).await {
            log::error!("a change was not decided: {error}");
        }
    }

    fn deadline_moved(&self) {
        self.rearm.notify_one();
    }
}

/// Greets, then moves traffic both ways until the session ends. Gives the reason.
async fn run(
    stream: UnixStream,
    attachment: Option<Attachment>,
    shared: Shared,
    slot: Rc<OnceCell<Arc<Port>>>,
) -> String {
    let stream = match Socket::new(stream) {
        Ok(stream) => stream,
        Err(error) => return error.to_string(),
    };
    let wake = Arc::new(Notify::new());
    let mut input = Vec::new();
    let port = match greet(&stream, attachment, &shared, &wake, &mut input).await {
        Ok(port) => port,
        Err(Refused { fault: Some(fault), reason }) => {
            // A peer that does not read its refusal is left to itself.
            let _late =
                tokio::time::timeout(REFUSAL_TIMEOUT, traffic::refuse(&stream, &fault)).await;
            return reason;
        }
        Err(Refused { fault: None, reason }) => return reason,
    };
    slot.set(Arc::clone(&port)).expect("a session is let in once");
    fuse::enter("Session");
    let mut session = engine::Session::new(&port);
    let write = traffic::write(&stream, &port, &wake, &shared);
    let read = traffic::read(&stream, &mut session, input, &shared);
    tokio::pin!(write, read);
    tokio::select! {
        reason = &mut read => {
            if port.is_open() {
                port.kill_quietly(&reason);
            }
            // What a leaving peer is still owed goes out, unless it does not read.
            if tokio::time::timeout(limit::DRAIN_TIMEOUT, &mut write).await.is_err() {
                port.kill_quietly("the peer does not read");
            }
            reason
        }
        () = &mut write => port.end().unwrap_or_else(|| "the session ended".to_owned()),
    }
}

struct Refused {
    fault: Option<Fault>,
    reason: String,
}

/// Waits for the hello and asks the router.
async fn greet(
    stream: &Socket,
    attachment: Option<Attachment>,
    shared: &Shared,
    wake: &Arc<Notify>,
    input: &mut Vec<u8>,
) -> Result<Arc<Port>, Refused> {
    // Strangers that connect and say nothing do not keep out those whom the host expects.
    let place = match attachment {
        Some(_) => None,
        None => Some(Greeting::enter(shared)?),
    };
    let hello = traffic::read_hello(stream, input);
    let hello = match tokio::time::timeout(shared.limits.handshake_timeout, hello).await {
        Ok(Ok(Some(Ok(hello)))) => hello,
        Ok(Ok(Some(Err(fault)))) => return Err(fault.into()),
        Ok(Ok(None)) => {
            return Err(Refused { fault: None, reason: "the peer closed the connection".into() });
        }
        Ok(Err(error)) => return Err(Refused { fault: None, reason: error.to_string() }),
        Err(_elapsed) => {
            let waited = shared.limits.handshake_timeout.as_millis();
            let waited = u64::try_from(waited).unwrap_or(u64::MAX);
            return Err(Fault::from(FrameError::HandshakeTimeout(waited)).into());
        }
    };
    drop(place);
    let waker = {
        let wake = Arc::clone(wake);
        Box::new(move || wake.notify_one())
    };
    match shared.router.send(Admit { hello, attachment, waker }).await {
        Ok(admitted) => admitted.map_err(Refused::from),
        Err(MailError::Closed) => {
            Err(Fault::new(Code::ShuttingDown, "the broker is shutting down").into())
        }
        Err(_failed) => {
            let text = "the broker failed while it let the peer in; connect again";
            Err(Fault::new(Code::Internal, text).into())
        }
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self { reason: fault.message.clone(), fault: Some(fault) }
    }
}

/// A place among those that have not said hello.
struct Greeting(Arc<AtomicUsize>);

impl Greeting {
    fn enter(shared: &Shared) -> Result<Self, Refused> {
        let (places, max) = (&shared.greeting, shared.limits.handshakes_max);
        // Relaxed, here and below: a figure that orders nothing.
        let used = places.load(Ordering::Relaxed);
        if used >= max {
            return Err(Fault::refused(&Refusal {
                resource: "connections without a hello",
                holder: "the broker",
                used: used as u64,
                limit: max as u64,
                blame: "peers that connect and say nothing",
                retry_after_ms: 1_000,
            })
            .into());
        }
        places.fetch_add(1, Ordering::Relaxed);
        Ok(Self(Arc::clone(places)))
    }
}

impl Drop for Greeting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a refused peer may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// A router that fails that often at one session is one that its group gives up.
const END_REPORTS_MAX: usize = 8;
