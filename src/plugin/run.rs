//! A plugin at work: everything that the connection brings goes to its handler from here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_local};

use super::Plugin;
use super::client::{Client, settings};
use super::context::Context;
use super::error::{Error, Result};
use super::event::{Message, Signal};
use super::handler::{
    Arrived, ChannelHandler, ChannelQueue, EventHandler, GapHandler, MethodHandler, SignalHandler,
};
use super::work::{Work, Working};
use crate::error::{Code, Fault};
use crate::limit;
use crate::net::link::{Inbound, Link, LinkError};
use crate::peer::{CallId, Delivered, Payload, PeerEvent};
use crate::wire::ContentType;
use crate::wire::body::{self, Announce, Register, RouteKind, Subscribe};

pub(super) async fn run(plugin: Plugin) -> Result<()> {
    let Plugin { id, endpoint, methods, channels, events, signals, services, .. } = plugin;
    let Plugin { background, gap, traffic, problem, .. } = plugin;
    if let Some(problem) = problem {
        return Err(problem);
    }
    let stream = endpoint?.connect().await?;
    let (link, inbound, welcome) = Link::connect(stream, traffic.apply(settings(Some(id)))).await?;
    let client = Client::new(link, welcome.id.into());
    let work = Rc::<Work>::default();
    let (methods, method_handlers): (Vec<_>, Vec<_>) = methods.into_iter().unzip();
    let (channels, channel_handlers): (Vec<_>, Vec<_>) = channels.into_iter().unzip();
    let mut runner = Runner {
        methods: methods.iter().map(|method| method.name.clone()).zip(method_handlers).collect(),
        channels: channels.iter().map(|one| one.name.clone()).zip(channel_handlers).collect(),
        signals: signals.into_iter().collect(),
        client: client.clone(),
        work: Rc::clone(&work),
        slots: Vec::new(),
        calls: Rc::default(),
        stop: None,
    };
    let register = Register { methods, channels, services };
    let setup = set_up(client.clone(), register, events, gap, Rc::clone(&work));
    let context = Context::new(client.clone(), "".into());
    let setup = async move {
        setup.await?;
        match background {
            Some(background) => background(context).await,
            None => Ok(()),
        }
    };
    let result = serve(&mut runner, inbound, setup).await;
    if result.is_ok() {
        client.link.leave(Some("stopped")).await;
    }
    result
}

/// Registers and subscribes, then says that the plugin is ready.
async fn set_up(
    client: Client,
    register: Register,
    events: Vec<(Subscribe, EventHandler)>,
    gap: Option<GapHandler>,
    work: Rc<Work>,
) -> Result<()> {
    client.link.ask(|peer, now| peer.register(&register, now)).await?;
    for (request, handler) in events {
        let (_, feed) = client.hub.subscribe(&request)?;
        let context = Context::new(client.clone(), "".into());
        let guard = PanicGuard(Rc::clone(&work));
        let handling = handler(feed, gap.clone(), context, Rc::clone(&work));
        spawn_local(async move {
            let _guard = guard;
            handling.await;
        });
        client.link.ask(|peer, now| peer.subscribe(&request, now)).await?;
    }
    client.tell_signal(body::Signal { name: "ready".to_owned(), ..Default::default() })
}

/// Until the plugin has stopped in order.
async fn serve(
    runner: &mut Runner,
    mut inbound: Inbound,
    // Goes on with the work in the background, which may never end.
    setup: impl Future<Output = Result<()>>,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let work = Rc::clone(&runner.work);
    let mut setup = std::pin::pin!(setup);
    let mut is_set_up = false;
    loop {
        let stopping = runner.stop.is_some();
        let until = runner.stop.unwrap_or_else(crate::net::clock::instant);
        tokio::select! {
            biased;
            received = inbound.receive(|event| runner.handle(event)) => match received {
                Ok(()) => (),
                Err(LinkError::Closed | LinkError::Socket(_)) if stopping => return Ok(()),
                Err(error) => return Err(error.into()),
            },
            result = &mut setup, if !is_set_up => {
                result?;
                is_set_up = true;
            }
            () = work.panicked() => {
                return Err(Error::handler("panic", "a handler of messages or events panicked"));
            }
            _ = terminate.recv() => runner.stop_within(limit::DRAIN_TIMEOUT),
            _ = interrupt.recv() => runner.stop_within(limit::DRAIN_TIMEOUT),
            () = work.finished(), if stopping => return Ok(()),
            () = tokio::time::sleep_until(until.into()), if stopping => {
                log::warn!("handlers did not finish in time; what they had is not acknowledged");
                return Ok(());
            }
        }
    }
}

/// Everything that lives as long as the connection.
struct Runner {
    methods: HashMap<String, MethodHandler>,
    channels: HashMap<String, ChannelHandler>,
    signals: HashMap<String, SignalHandler>,
    client: Client,
    work: Rc<Work>,
    slots: Vec<Slot>,
    calls: Rc<RefCell<HashMap<CallId, Running>>>,
    /// When the plugin leaves whatever is unfinished.
    stop: Option<Instant>,
}

/// What an announced route leads to, so that no name is looked up for a frame.
#[derive(Clone)]
enum Slot {
    Empty,
    Method(MethodHandler, Arc<str>),
    Channel(ChannelQueue),
    /// A channel without a handler.
    Unhandled(String),
}

struct Running {
    task: AbortHandle,
    cancelled: watch::Sender<bool>,
}

impl Runner {
    #[inline]
    fn handle(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Messages { slot, run } => self.handle_messages(slot, Arrived::Run(run)),
            PeerEvent::Message { slot, id, attempt, timestamp, payload } => {
                let message = Delivered { id, attempt, timestamp, payload };
                self.handle_messages(slot, Arrived::One(Some(message)));
            }
            PeerEvent::Request { slot, call, payload, deadline, .. } => {
                self.handle_request(slot, call, payload, deadline);
            }
            event => self.handle_rare(event),
        }
    }

    #[inline(never)]
    fn handle_rare(&mut self, event: PeerEvent) {
        let Some(event) = self.client.hub.handle(event) else { return };
        match event {
            PeerEvent::Announced { slot, announce } => self.handle_announced(slot, *announce),
            PeerEvent::Retired { slot, .. } => {
                if let Some(slot) = self.slots.get_mut(slot)
                    && let Slot::Channel(queue) = std::mem::replace(slot, Slot::Empty)
                {
                    queue.close();
                }
            }
            PeerEvent::Cancelled { call } => {
                let running = self.calls.borrow_mut().remove(&call);
                if let Some(running) = running {
                    // Nobody listens where the handler did not clone its context.
                    running.cancelled.send(true).ok();
                    running.task.abort();
                }
            }
            PeerEvent::Signal(body) => self.handle_signal(Signal { body: *body }),
            PeerEvent::Shutdown { drain_ms, .. } => {
                let drain = drain_ms.map_or(limit::DRAIN_TIMEOUT, Duration::from_millis);
                self.stop_within(drain.min(limit::DRAIN_TIMEOUT));
            }
            PeerEvent::Missed { first, last, cause, .. } => {
                log::warn!("messages {first} to {last} will not come: {cause}");
            }
            PeerEvent::GivenUp { first, last, cause, .. } => {
                log::warn!("messages {first} to {last} that were sent are dead letters: {cause}");
            }
            PeerEvent::Rejected { first, last, fault, .. } => {
                log::error!("messages {first} to {last} were not accepted: {fault}");
            }
            PeerEvent::Fault { fault, .. } => log::warn!("the broker reports: {fault}"),
            event => log::debug!("unused: {event:?}"),
        }
    }

    fn stop_within(&mut self, timeout: Duration) {
        self.stop.get_or_insert_with(|| crate::net::clock::instant() + timeout);
    }

    fn handle_messages(&mut self, slot: usize, arrived: Arrived) {
        if self.stop.is_some() {
            return; // Not acknowledged, so that it goes to the next run of this plugin.
        }
        match self.slots.get(slot) {
            Some(Slot::Channel(queue)) => queue.push(arrived),
            Some(Slot::Unhandled(name)) => {
                for Message { id, .. } in arrived {
                    // Kept unacknowledged, it would stop its sender for ever.
                    log::error!("message {id} on {name}, which has no handler, is dropped");
                    self.client.link.tell(|peer, now| peer.ack(slot, id, now));
                }
            }
            _ => log::error!("a message came on a route that is for something else"),
        }
    }

    fn handle_announced(&mut self, slot: usize, announce: Announce) {
        let Announce { kind, name, from, .. } = announce;
        let entry = match kind {
            RouteKind::Method => match self.methods.get(&name) {
                Some(handler) => Slot::Method(Rc::clone(handler), from.into()),
                None => Slot::Empty,
            },
            RouteKind::Channel => match self.channels.get(&name) {
                Some(handler) => {
                    let label = format!("channel `{name}` from `{from}`");
                    let link = self.client.link.clone();
                    let queue = ChannelQueue::new(label, slot, link, Rc::clone(&self.work));
                    let context = Context::new(self.client.clone(), from.into());
                    let handling = handler(queue.clone(), context);
                    let guard = PanicGuard(Rc::clone(&self.work));
                    spawn_local(async move {
                        let _guard = guard;
                        handling.await;
                    });
                    Slot::Channel(queue)
                }
                None => Slot::Unhandled(format!("channel `{name}` from `{from}`")),
            },
            _ => Slot::Empty,
        };
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, Slot::Empty);
        }
        if let Slot::Channel(queue) = std::mem::replace(&mut self.slots[slot], entry) {
            queue.close();
        }
    }

    fn handle_request(&self, slot: usize, call: CallId, payload: Payload, deadline: Instant) {
        let link = &self.client.link;
        if self.stop.is_some() {
            let fault = Fault::new(Code::Offline, format!("`{}` is stopping", self.client.id()));
            return link.respond(call, Err(&fault));
        }
        let Some(Slot::Method(handler, caller)) = self.slots.get(slot) else {
            let fault = Fault::new(Code::NotFound, "there is no handler for this method");
            return link.respond(call, Err(&fault));
        };
        let (cancelled, receiver) = watch::channel(false);
        let context = Context::for_call(&self.client, Arc::clone(caller), deadline, receiver);
        let mut handling = handler(payload, context);
        let working = self.work.begin();
        let reply =
            Reply { link: link.clone(), call, calls: Rc::clone(&self.calls), working, sent: false };
        // Most handlers do not wait for anything. Those are through here, without a task.
        let mut unwoken = std::task::Context::from_waker(Waker::noop());
        let first = AssertUnwindSafe(|| handling.as_mut().poll(&mut unwoken));
        match std::panic::catch_unwind(first) {
            Ok(Poll::Ready(result)) => return reply.send(result),
            Ok(Poll::Pending) => (),
            Err(_told_by_the_hook) => return drop(reply),
        }
        // Only a handler that takes longer than a moment is worth a frame. Its task polls it at
        // once, so that what it waits for knows whom to wake.
        link.tell(|peer, now| peer.started(call, now));
        let task = spawn_local(async move { reply.send(handling.await) });
        self.calls.borrow_mut().insert(call, Running { task: task.abort_handle(), cancelled });
    }

    fn handle_signal(&self, signal: Signal) {
        let Some(handler) = self.signals.get(signal.name()) else {
            return log::debug!("signal `{}` has no handler", signal.name());
        };
        let context = Context::new(self.client.clone(), signal.from().unwrap_or_default().into());
        let name = signal.name().to_owned();
        let handling = handler(signal, context);
        let working = self.work.begin();
        spawn_local(async move {
            let _working = working;
            if let Err(error) = handling.await {
                log::error!("handler of signal `{name}`: {error:?}");
            }
        });
    }
}

/// Owes a call its answer. Dropped without one, because the handler panicked or its caller has
/// gone, it says so; the second the connection's own state makes a no-op.
struct Reply {
    link: Link,
    call: CallId,
    calls: Rc<RefCell<HashMap<CallId, Running>>>,
    #[expect(dead_code, reason = "its drop says that the handler is done")]
    working: Working,
    sent: bool,
}

impl Reply {
    fn send(mut self, result: Result<Vec<u8>>) {
        self.sent = true;
        match result {
            Ok(body) => self.link.respond(self.call, Ok((ContentType::MessagePack, &body))),
            Err(error) => {
                if !matches!(error, Error::InvalidArgument { .. } | Error::Handler { .. }) {
                    log::warn!("a handler failed: {error:?}");
                }
                self.link.respond(self.call, Err(&error.to_fault()));
            }
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.calls.borrow_mut().remove(&self.call);
        if self.sent {
            return;
        }
        let fault = Fault::new(Code::HandlerFailed, "the handler panicked").with("code", "panic");
        self.link.respond(self.call, Err(&fault));
    }
}

struct PanicGuard(Rc<Work>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set_panicked();
        }
    }
}
