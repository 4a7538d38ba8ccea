//! Calling, sending, publishing: what clients and handlers have in common.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::channel::ChannelSender;
use super::codec;
use super::dial::Endpoint;
use super::error::{Error, Result};
use super::hub::Hub;
use super::options::{SubscribeOptions, TrafficOptions};
use super::subscription::Subscription;
use crate::id::PluginId;
use crate::net::clock;
use crate::net::link::Link;
use crate::peer::{Payload, PeerSettings, RequestOptions, SendOptions};
use crate::wire::ContentType;
use crate::wire::body::{self, RouteKind, Subscribed};

/// A connection to the broker, for those who only ask. Cheap to clone; every clone uses the same
/// connection, which ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) link: Link,
    pub(super) hub: Arc<Hub>,
    pub(super) id: Arc<str>,
    pub(super) timeout: Option<Duration>,
    /// Calls made for somebody else must not outlast that one's patience.
    pub(super) deadline: Option<Instant>,
}

impl Client {
    pub(super) async fn connect(endpoint: Endpoint, traffic: TrafficOptions) -> Result<Self> {
        let stream = endpoint.connect().await?;
        let settings = traffic.apply(settings(None));
        let (link, mut inbound, welcome) = Link::connect(stream, settings).await?;
        let client = Self::new(link, welcome.id.into());
        let hub = Arc::clone(&client.hub);
        tokio::spawn(async move {
            loop {
                let received = inbound.receive(|event| {
                    if let Some(event) = hub.handle(event) {
                        log::debug!("a client has no use for {event:?}");
                    }
                });
                if let Err(error) = received.await {
                    log::debug!("{error}");
                    hub.close();
                    return;
                }
            }
        });
        Ok(client)
    }

    pub(super) fn new(link: Link, id: Arc<str>) -> Self {
        Self { link, hub: Arc::default(), id, timeout: None, deadline: None }
    }

    /// The id under which the broker knows this connection.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The same connection with another deadline for calls than the broker's default of 30 s.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self.clone() }
    }

    /// Calls `plugin.method`, or the method of a service. The arguments are a struct or map of them
    /// by name.
    ///
    /// Dropping the future cancels the call.
    ///
    /// # Errors
    ///
    /// Whatever kept the call from having a result, by kind.
    pub async fn call<R, A>(&self, method: &str, arguments: &A) -> Result<R>
    where
        R: DeserializeOwned,
        A: Serialize + ?Sized,
    {
        let arguments = codec::encode(arguments)?;
        codec::decode(&self.call_encoded(method, &arguments).await?)
    }

    /// Calls the same method of several plugins at once, or several methods with the same
    /// arguments. A result for each, in their order.
    pub async fn call_many<R, A>(&self, methods: &[&str], arguments: &A) -> Vec<Result<R>>
    where
        R: DeserializeOwned,
        A: Serialize + ?Sized,
    {
        match codec::encode(arguments) {
            Ok(arguments) => {
                let arguments = &arguments[..];
                let calls = methods.iter().map(|method| async move {
                    codec::decode(&self.call_encoded(method, arguments).await?)
                });
                join_all(calls.collect()).await
            }
            Err(error) => methods.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Calls a method and waits for nothing. The result is dropped, as are errors.
    ///
    /// # Errors
    ///
    /// When the call could not be sent.
    pub async fn cast<A>(&self, method: &str, arguments: &A) -> Result<()>
    where
        A: Serialize + ?Sized,
    {
        let arguments = codec::encode(arguments)?;
        let options = self.options()?;
        Ok(self.link.call_no_reply(method, &arguments, &options).await?)
    }

    /// Sends a value down a channel: to `plugin/channel`, or to the inbox of `plugin`. Returns once
    /// it is on its way; [`sender`](Self::sender) knows how far it got, and is faster.
    ///
    /// # Errors
    ///
    /// When there is no such plugin or channel, or the value is too large.
    pub async fn send<T>(&self, target: &str, value: &T) -> Result<()>
    where
        T: Serialize + ?Sized,
    {
        self.sender(target).await?.send_value(value).await.map(drop)
    }

    /// Sends a value to several channels. A result for each, in their order.
    pub async fn send_many<T>(&self, targets: &[&str], value: &T) -> Vec<Result<()>>
    where
        T: Serialize + ?Sized,
    {
        join_all(targets.iter().map(|target| self.send(target, value)).collect()).await
    }

    /// Opens a channel for sending: `plugin/channel`, or the inbox of `plugin`.
    ///
    /// # Errors
    ///
    /// When there is no such plugin or channel.
    pub async fn sender(&self, target: &str) -> Result<ChannelSender> {
        let inbox;
        let name = if target.contains('/') {
            target
        } else {
            inbox = format!("{target}/{}", PluginId::INBOX);
            &inbox
        };
        let route = self.link.open(RouteKind::Channel, name).await?;
        Ok(ChannelSender::new(self.link.clone(), route))
    }

    /// Publishes an event to those who subscribed to its topic.
    ///
    /// # Errors
    ///
    /// When the topic is not allowed, or the value is too large.
    pub async fn publish<T>(&self, topic: &str, value: &T) -> Result<()>
    where
        T: Serialize + ?Sized,
    {
        self.emit(RouteKind::Topic, topic, 0, value).await
    }

    /// Publishes an event that replaces an older one with the same key where a subscriber asked
    /// for that and reads slowly.
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish).
    pub async fn publish_keyed<T>(&self, topic: &str, key: u64, value: &T) -> Result<()>
    where
        T: Serialize + ?Sized,
    {
        self.emit(RouteKind::Topic, topic, key, value).await
    }

    /// Publishes an event under several topics. A result for each, in their order.
    pub async fn publish_many<T>(&self, topics: &[&str], value: &T) -> Vec<Result<()>>
    where
        T: Serialize + ?Sized,
    {
        join_all(topics.iter().map(|topic| self.publish(topic, value)).collect()).await
    }

    /// Sends an event to every plugin that is ready.
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish).
    pub async fn broadcast<T>(&self, topic: &str, value: &T) -> Result<()>
    where
        T: Serialize + ?Sized,
    {
        self.emit(RouteKind::Broadcast, topic, 0, value).await
    }

    /// Sends a signal to a plugin. Nothing says whether it arrived.
    ///
    /// # Errors
    ///
    /// When there is no connection.
    pub fn signal(&self, plugin: &str, name: &str) -> Result<()> {
        self.signal_with(plugin, name, None)
    }

    /// Sends a signal with something to go with it.
    ///
    /// # Errors
    ///
    /// When there is no connection, or the data is too large.
    pub fn signal_with(
        &self,
        plugin: &str,
        name: &str,
        data: Option<serde_json::Value>,
    ) -> Result<()> {
        self.tell_signal(body::Signal {
            name: name.to_owned(),
            to: Some(plugin.to_owned()),
            from: None,
            data,
        })
    }

    /// Subscribes to the topics that fit a pattern: `*` stands for one word, `>` at the end for
    /// the rest.
    ///
    /// # Errors
    ///
    /// When the pattern is none, or there are too many subscriptions.
    pub async fn subscribe(&self, pattern: &str) -> Result<Subscription> {
        self.subscribe_with(pattern, SubscribeOptions::default()).await
    }

    /// Subscribes, and says what happens to events that come faster than they are taken.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub async fn subscribe_with(
        &self,
        pattern: &str,
        options: SubscribeOptions,
    ) -> Result<Subscription> {
        let request = options.request(pattern);
        // Before the broker knows, so that no event comes for nobody.
        let (number, feed) = self.hub.subscribe(&request)?;
        let subscribed = self.link.ask(|peer, now| peer.subscribe(&request, now)).await;
        let subscribed = subscribed.and_then(|answer| body::decode::<Subscribed>(&answer.body));
        match subscribed {
            Ok(Subscribed { subscription }) => {
                Ok(Subscription::new(self.clone(), number, subscription, feed))
            }
            Err(fault) => {
                self.hub.unsubscribe(number);
                Err(fault.into())
            }
        }
    }

    /// What the broker knows: of all `plugins`, of one (`plugin`, with its id), or its `status`.
    ///
    /// # Errors
    ///
    /// When there is no such plugin.
    pub async fn query(&self, what: &str, id: Option<&str>) -> Result<serde_json::Value> {
        let query = body::Query { what: what.to_owned(), id: id.map(str::to_owned) };
        let answer = self.link.ask(|peer, now| peer.query(&query, now)).await?;
        codec::decode(&answer)
    }

    /// Writes what is queued, says goodbye and ends the connection, for all clones.
    pub async fn close(self) {
        self.link.leave(None).await;
    }

    pub(super) fn tell_signal(&self, signal: body::Signal) -> Result<()> {
        let told = self.link.tell(|peer, now| peer.signal(&signal, now));
        told.map_err(|error| Error::BrokerGone(error.to_string()))
    }

    async fn call_encoded(&self, method: &str, arguments: &[u8]) -> Result<Payload> {
        let options = self.options()?;
        Ok(self.link.call(method, arguments, &options).await?)
    }

    async fn emit<T>(&self, kind: RouteKind, topic: &str, key: u64, value: &T) -> Result<()>
    where
        T: Serialize + ?Sized,
    {
        let value = codec::encode(value)?;
        let route = self.link.open(kind, topic).await?;
        let options = SendOptions { content: ContentType::MessagePack, key, ..Default::default() };
        self.link.send(route, &value, &options).await?;
        Ok(())
    }

    fn options(&self) -> Result<RequestOptions> {
        let remaining = match self.deadline {
            Some(deadline) => {
                let remaining = deadline.saturating_duration_since(clock::instant());
                if remaining.is_zero() {
                    return Err(Error::Timeout("the caller's deadline has passed".to_owned()));
                }
                Some(remaining)
            }
            None => None,
        };
        let timeout = match (self.timeout, remaining) {
            (Some(timeout), Some(remaining)) => Some(timeout.min(remaining)),
            (timeout, remaining) => timeout.or(remaining),
        };
        Ok(RequestOptions { timeout, content: ContentType::MessagePack, ..Default::default() })
    }
}

/// What this library says of itself.
pub(super) fn settings(plugin: Option<String>) -> PeerSettings {
    PeerSettings {
        role: if plugin.is_some() { body::Role::Plugin } else { body::Role::Client },
        id: plugin,
        sdk: Some(concat!("rust/", env!("CARGO_PKG_VERSION")).to_owned()),
        pid: Some(std::process::id()),
        ..PeerSettings::default()
    }
}

/// Awaits all at once; results in the order of the futures.
async fn join_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    enum Slot<F, T> {
        Running(Pin<Box<F>>),
        Done(Option<T>),
    }
    let mut slots: Vec<_> =
        futures.into_iter().map(|future| Slot::Running(Box::pin(future))).collect();
    // Each wake polls those that still run: lists of targets are short.
    std::future::poll_fn(|context| {
        let mut running = false;
        for slot in &mut slots {
            if let Slot::Running(future) = slot {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *slot = Slot::Done(Some(value)),
                    Poll::Pending => running = true,
                }
            }
        }
        if running { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    let values = slots.into_iter().filter_map(|slot| match slot {
        Slot::Done(value) => value,
        Slot::Running(_) => None,
    });
    values.collect()
}
