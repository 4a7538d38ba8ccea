//! Hands what comes for a participant to the host's actors.
//!
//! Calls run beside each other; the messages of one channel route, and the events of one
//! participant, are handed over one after the other, each when the actor has taken the one before.
//! Slow actors fill queues here that are bounded by the channel's window, and by shedding for
//! events.

use std::collections::{HashMap, VecDeque};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::Rc;

use actix::prelude::*;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::error::BrokerError;
use super::listener::Listener;
use super::mail::{Call, Event, Message as ChannelMessage};
use super::participant::Serves;
use crate::error::{Code, Fault};
use crate::id::{ChannelName, MethodName, Topic};
use crate::limit;
use crate::net::link::{Inbound, Link, LinkError};
use crate::peer::{CallId, Delivered, Payload, PeerEvent, PeerSettings};
use crate::wire::ContentType;
use crate::wire::body::{self, Announce, Register, RouteKind, Signal, Subscribe};

/// Host to listener: connect this participant, on the broker's thread.
#[derive(Message)]
#[rtype(result = "Result<Link, BrokerError>")]
pub(super) struct Join {
    pub(super) stream: StdUnixStream,
    pub(super) settings: PeerSettings,
    pub(super) serves: Serves,
}

impl Handler<Join> for Listener {
    type Result = ResponseFuture<Result<Link, BrokerError>>;

    fn handle(&mut self, mail: Join, _ctx: &mut Self::Context) -> Self::Result {
        Box::pin(join(mail))
    }
}

async fn join(mail: Join) -> Result<Link, BrokerError> {
    let Join { stream, settings, serves } = mail;
    let plugin = settings.id.clone().unwrap_or_default();
    let failed = |source| BrokerError::Attach { plugin: plugin.clone(), source };
    stream.set_nonblocking(true).map_err(failed)?;
    let stream = UnixStream::from_std(stream).map_err(failed)?;
    let (link, inbound, _welcome) = Link::connect(stream, settings).await.map_err(refused)?;
    let register = Register {
        methods: serves.methods.keys().map(described).collect(),
        channels: serves
            .channels
            .keys()
            .map(|name| body::Channel { name: name.as_str().to_owned(), help: None })
            .collect(),
        services: Vec::new(),
    };
    let patterns: Vec<String> =
        serves.events.iter().map(|(pattern, _)| pattern.as_str().to_owned()).collect();
    tokio::task::spawn_local(Dispatch::new(link.clone(), serves).run(inbound));
    link.ask(|peer, now| peer.register(&register, now)).await?;
    for pattern in patterns {
        let subscribe = Subscribe { pattern, ..Subscribe::default() };
        link.ask(|peer, now| peer.subscribe(&subscribe, now)).await?;
    }
    let ready = Signal { name: "ready".to_owned(), ..Signal::default() };
    link.tell(|peer, now| peer.signal(&ready, now))
        .map_err(|error| Fault::new(Code::Internal, error.to_string()))?;
    Ok(link)
}

fn refused(error: LinkError) -> BrokerError {
    match error {
        LinkError::Refused(fault) => BrokerError::Refused(fault),
        error => BrokerError::Refused(Fault::new(Code::Internal, error.to_string())),
    }
}

fn described(name: &MethodName) -> body::Method {
    body::Method { name: name.as_str().to_owned(), ..body::Method::default() }
}

/// The receiving side of one participant.
struct Dispatch {
    link: Link,
    serves: Rc<Serves>,
    /// What is announced, by slot.
    routes: HashMap<usize, Announced>,
    events: mpsc::Sender<(usize, Event)>,
    /// Events shed since the last one that was handed on.
    missed: u64,
}

struct Announced {
    announce: Box<Announce>,
    /// Feeds the task of a channel route.
    messages: Option<mpsc::Sender<ChannelMessage>>,
    /// Which subscriptions want the events of a topic route.
    wanted_by: Vec<usize>,
}

impl Dispatch {
    fn new(link: Link, serves: Serves) -> Self {
        let serves = Rc::new(serves);
        let (events, queue) = mpsc::channel(EVENTS_MAX);
        tokio::task::spawn_local(hand_over_events(Rc::clone(&serves), queue));
        Self { link, serves, routes: HashMap::new(), events, missed: 0 }
    }

    async fn run(mut self, mut inbound: Inbound) {
        let mut arrived = VecDeque::new();
        loop {
            let outcome = inbound.receive(|event| arrived.push_back(event)).await;
            for event in arrived.drain(..) {
                self.handle(event);
            }
            if let Err(error) = outcome {
                log::debug!("a participant of the host has left: {error}");
                return;
            }
        }
    }

    fn handle(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Announced { slot, announce } => self.announce(slot, announce),
            PeerEvent::Retired { slot, .. } => {
                self.routes.remove(&slot);
            }
            PeerEvent::Request { slot, call, payload, no_reply, .. } => {
                self.call(slot, call, payload, no_reply);
            }
            PeerEvent::Message { slot, id, attempt, payload, .. } => {
                self.message(slot, id, attempt, payload);
            }
            PeerEvent::Messages { slot, run } => {
                for Delivered { id, attempt, payload, .. } in run {
                    self.message(slot, id, attempt, payload);
                }
            }
            PeerEvent::Event { slot, payload, .. } => self.event(slot, &payload),
            PeerEvent::Missed { first, last, .. } => self.missed += last - first + 1,
            PeerEvent::Shutdown { .. } => {
                let link = self.link.clone();
                tokio::task::spawn_local(async move { link.leave(Some("the broker asked")).await });
            }
            PeerEvent::Fault { route, fault, .. } => {
                log::warn!("participant of the host, route {route}: {fault}");
            }
            _ => (),
        }
    }

    fn announce(&mut self, slot: usize, announce: Box<Announce>) {
        let mut messages = None;
        let mut wanted_by = Vec::new();
        match announce.kind {
            RouteKind::Channel => {
                let actor = ChannelName::parse(&announce.name)
                    .ok()
                    .and_then(|name| self.serves.channels.get(&name).cloned());
                let (sender, queue) = mpsc::channel(MESSAGES_MAX);
                tokio::task::spawn_local(hand_over_messages(self.link.clone(), slot, actor, queue));
                messages = Some(sender);
            }
            RouteKind::Topic => {
                if let Ok(topic) = Topic::parse(&announce.name) {
                    let events = self.serves.events.iter().enumerate();
                    wanted_by = events
                        .filter(|(_, (pattern, _))| pattern.matches(&topic))
                        .map(|(index, _)| index)
                        .collect();
                }
            }
            // A broadcast goes to every actor that takes events.
            RouteKind::Broadcast => wanted_by = (0..self.serves.events.len()).collect(),
            RouteKind::Method => (),
        }
        self.routes.insert(slot, Announced { announce, messages, wanted_by });
    }

    fn call(&self, slot: usize, call: CallId, payload: Payload, no_reply: bool) {
        let Some(route) = self.routes.get(&slot) else { return };
        let method = route.announce.name.clone();
        let actor = MethodName::parse(&method)
            .ok()
            .and_then(|name| self.serves.methods.get(&name).cloned());
        let link = self.link.clone();
        let mail = Call { method, caller: route.announce.from.clone(), payload };
        tokio::task::spawn_local(async move {
            let outcome = match actor {
                Some(actor) => actor.send(mail).await.unwrap_or_else(|error| {
                    Err(Fault::new(Code::Offline, format!("the actor does not answer: {error}")))
                }),
                None => Err(Fault::new(Code::NotFound, "the method is not served here")),
            };
            if !no_reply {
                let answer = outcome.as_ref();
                link.respond(call, answer.map(|reply| (ContentType::MessagePack, &reply.0[..])));
            }
        });
    }

    fn message(&self, slot: usize, id: u64, attempt: u32, payload: Payload) {
        let Some(route) = self.routes.get(&slot) else { return };
        let mail = ChannelMessage {
            channel: route.announce.name.clone(),
            sender: route.announce.from.clone(),
            id,
            attempt,
            payload,
        };
        let queued = route.messages.as_ref().map(|messages| messages.try_send(mail));
        if !matches!(queued, Some(Ok(()))) {
            // Not acknowledged: it stays with the broker, which has its window to bound it.
            log::error!("a message overran its window and waits for the next session");
        }
    }

    fn event(&mut self, slot: usize, payload: &Payload) {
        let Some(route) = self.routes.get(&slot) else { return };
        for &index in &route.wanted_by {
            let event = Event {
                topic: route.announce.name.clone(),
                publisher: route.announce.from.clone(),
                missed: self.missed,
                payload: payload.clone(),
            };
            match self.events.try_send((index, event)) {
                Ok(()) => self.missed = 0,
                Err(_full) => self.missed += 1,
            }
        }
    }
}

/// Gives an actor the messages of one channel route in order and acknowledges what it has handled.
async fn hand_over_messages(
    link: Link,
    slot: usize,
    actor: Option<Recipient<ChannelMessage>>,
    mut queue: mpsc::Receiver<ChannelMessage>,
) {
    let Some(actor) = actor else { return };
    while let Some(message) = queue.recv().await {
        let id = message.id;
        if actor.send(message).await.is_err() {
            // The actor has gone: what it did not handle stays unacknowledged.
            return;
        }
        if queue.is_empty() || id.is_multiple_of(ACK_EVERY) {
            link.tell(|peer, now| peer.ack(slot, id, now));
        }
    }
}

async fn hand_over_events(serves: Rc<Serves>, mut queue: mpsc::Receiver<(usize, Event)>) {
    while let Some((index, event)) = queue.recv().await {
        let (_, actor) = &serves.events[index];
        if actor.send(event).await.is_err() {
            log::debug!("an actor that took events has gone");
        }
    }
}

/// Events that wait for the actors of one participant; beyond, they are shed and counted.
const EVENTS_MAX: usize = 1_024;

/// Messages that wait for one actor: a whole window of them, however large it is.
const MESSAGES_MAX: usize = limit::WINDOW_MESSAGES_MAX as usize + 1;

/// A busy channel is acknowledged once for so many messages.
const ACK_EVERY: u64 = 64;
