//! Actors of the host as participants.
//!
//! A participant is a session like any other, over a socket pair inside the process, so that the
//! same engine decides about it. Its actors are reached through `Recipient`: the broker knows no
//! type of the host's, the host no actor of the broker's.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::dispatch::Join;
use super::mail::{Call, Event, Message, decode, encode};
use super::{Broker, BrokerError};
use crate::error::Fault;
use crate::id::{ChannelName, MethodName, Pattern, PluginId};
use crate::net::link::Link;
use crate::peer::{Payload, PeerSettings, RequestOptions, SendOptions};
use crate::wire::ContentType;
use crate::wire::body::{self, Query, Role, RouteKind, Signal};

/// Describes a participant before it joins.
#[derive(Clone)]
#[must_use = "a participant is nobody until `join`"]
pub struct ParticipantBuilder {
    broker: Broker,
    id: String,
    serves: Serves,
}

/// What the actors of one participant serve.
#[derive(Clone, Default)]
pub(super) struct Serves {
    pub(super) methods: BTreeMap<MethodName, Recipient<Call>>,
    pub(super) channels: BTreeMap<ChannelName, Recipient<Message>>,
    pub(super) events: Vec<(Pattern, Recipient<Event>)>,
}

/// A participant that has joined. Cheap to clone; it leaves when the last clone is dropped, or with
/// [`leave`](Self::leave).
///
/// Its futures wait on tokio's clock: poll them on a tokio runtime, which an actix System has.
#[derive(Clone, Debug)]
pub struct Participant {
    link: Link,
    id: Arc<str>,
}

impl Broker {
    /// A participant of the host's own, for its actors.
    pub fn participant(&self, id: impl Into<String>) -> ParticipantBuilder {
        ParticipantBuilder { broker: self.clone(), id: id.into(), serves: Serves::default() }
    }
}

impl ParticipantBuilder {
    /// Serves a method with an actor.
    ///
    /// # Errors
    ///
    /// When the name does not fit the grammar.
    pub fn method(mut self, name: &str, actor: Recipient<Call>) -> Result<Self, BrokerError> {
        self.serves.methods.insert(MethodName::parse(name)?, actor);
        Ok(self)
    }

    /// Hands the messages of a channel to an actor, one after the other.
    ///
    /// # Errors
    ///
    /// When the name does not fit the grammar.
    pub fn channel(mut self, name: &str, actor: Recipient<Message>) -> Result<Self, BrokerError> {
        self.serves.channels.insert(ChannelName::parse(name)?, actor);
        Ok(self)
    }

    /// Hands events to an actor, one after the other.
    ///
    /// # Errors
    ///
    /// When the pattern does not fit the grammar.
    pub fn on(mut self, pattern: &str, actor: Recipient<Event>) -> Result<Self, BrokerError> {
        self.serves.events.push((Pattern::parse(pattern)?, actor));
        Ok(self)
    }

    /// Joins under the id. Returns when the participant is ready.
    ///
    /// # Errors
    ///
    /// When the broker is not running, or the id is taken.
    pub async fn join(self) -> Result<Participant, BrokerError> {
        let Self { broker, id, serves } = self;
        let plugin = PluginId::parse(&id)?;
        let failed = |source| BrokerError::Attach { plugin: id.clone(), source };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        broker.attach(theirs, plugin).await?;
        let settings = PeerSettings {
            id: Some(id.clone()),
            role: Role::Plugin,
            sdk: Some(concat!("host/", env!("CARGO_PKG_VERSION")).to_owned()),
            pid: Some(std::process::id()),
            ..PeerSettings::default()
        };
        let join = Join { stream: ours, settings, serves };
        let link = broker.join(join).await??;
        Ok(Participant { link, id: id.into() })
    }
}

impl Participant {
    /// Calls `plugin.method` with a map of arguments and waits for the one outcome.
    ///
    /// # Errors
    ///
    /// The callee's or the broker's fault; see the codes of the protocol.
    pub async fn call<A, R>(&self, address: &str, arguments: &A) -> Result<R, Fault>
    where
        A: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        self.call_with(address, arguments, None).await
    }

    /// As [`call`](Self::call), with a deadline of its own instead of 30 s.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub async fn call_within<A, R>(
        &self,
        address: &str,
        arguments: &A,
        timeout: Duration,
    ) -> Result<R, Fault>
    where
        A: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        self.call_with(address, arguments, Some(timeout)).await
    }

    /// Sends one message down `plugin/channel`. Returns when it is queued, which waits while the
    /// receiver's window is used up; gives the message's number.
    ///
    /// # Errors
    ///
    /// When the channel cannot be opened.
    pub async fn send<T: Serialize + ?Sized>(
        &self,
        address: &str,
        value: &T,
    ) -> Result<u64, Fault> {
        self.send_on(RouteKind::Channel, address, value).await
    }

    /// Waits until every message sent down `plugin/channel` has been handled, or given up.
    ///
    /// # Errors
    ///
    /// When the channel cannot be opened, or the session has ended.
    pub async fn flush(&self, address: &str) -> Result<(), Fault> {
        let route = self.link.open(RouteKind::Channel, address).await?;
        self.link.wait_for(route, |progress| progress.unsettled == 0).await.map(drop)
    }

    /// Publishes an event.
    ///
    /// # Errors
    ///
    /// When the topic cannot be opened.
    pub async fn publish<T: Serialize + ?Sized>(
        &self,
        topic: &str,
        value: &T,
    ) -> Result<u64, Fault> {
        self.send_on(RouteKind::Topic, topic, value).await
    }

    /// Sends an event to every ready plugin.
    ///
    /// # Errors
    ///
    /// When the topic cannot be opened.
    pub async fn broadcast<T: Serialize + ?Sized>(
        &self,
        topic: &str,
        value: &T,
    ) -> Result<u64, Fault> {
        self.send_on(RouteKind::Broadcast, topic, value).await
    }

    /// Sends a lifecycle notice to a plugin: `shutdown`, `reload`, `health-check`, `wake`.
    ///
    /// # Errors
    ///
    /// Only when the session has ended; an unknown plugin or signal is logged.
    pub fn signal(&self, plugin: &str, name: &str) -> Result<(), Fault> {
        let signal =
            Signal { name: name.to_owned(), to: Some(plugin.to_owned()), ..Signal::default() };
        self.link
            .tell(|peer, now| peer.signal(&signal, now))
            .map_err(|error| Fault::new(crate::error::Code::ShuttingDown, error.to_string()))
    }

    /// Asks the broker: `plugins`, `plugin` (with an id) or `status`.
    ///
    /// # Errors
    ///
    /// When there is no such query or plugin.
    pub async fn query(&self, what: &str, id: Option<&str>) -> Result<serde_json::Value, Fault> {
        let query = Query { what: what.to_owned(), id: id.map(str::to_owned) };
        let answer = self.link.ask(|peer, now| peer.query(&query, now)).await?;
        body::decode(&answer.body)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Leaves the broker after what is queued has been written.
    pub async fn leave(&self) {
        self.link.leave(None).await;
    }

    /// Waits until its session has ended: because it left, or the broker ended it. Who wants to
    /// stay joins again then; a broker that lost its records has forgotten everybody.
    pub async fn ended(&self) {
        self.link.closed().await;
    }

    async fn call_with<A, R>(
        &self,
        address: &str,
        arguments: &A,
        timeout: Option<Duration>,
    ) -> Result<R, Fault>
    where
        A: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let options = RequestOptions {
            timeout,
            content: ContentType::MessagePack,
            ..RequestOptions::default()
        };
        let answer: Payload = self.link.call(address, &encode(arguments)?, &options).await?;
        decode(&answer)
    }

    async fn send_on<T: Serialize + ?Sized>(
        &self,
        kind: RouteKind,
        name: &str,
        value: &T,
    ) -> Result<u64, Fault> {
        let options = SendOptions { content: ContentType::MessagePack, ..SendOptions::default() };
        let payload = encode(value)?;
        let route = self.link.open(kind, name).await?;
        self.link.send(route, &payload, &options).await
    }
}

impl std::fmt::Debug for ParticipantBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParticipantBuilder").field("id", &self.id).finish_non_exhaustive()
    }
}
