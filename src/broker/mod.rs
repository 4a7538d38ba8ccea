//! The broker, embedded in an application.
//!
//! actix actors around the [engine](crate::engine): one for the listener, one for each session, one
//! for the router that owns every change. They run on a thread of the broker's own, so that any
//! application can embed it, whether it runs actix, tokio or neither; the [`Broker`] handle may be
//! used from everywhere.

mod builder;
mod dispatch;
mod error;
mod kept;
mod listener;
mod mail;
#[cfg(test)]
mod panic_tests;
mod participant;
mod router;
mod session;
mod system;

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

pub use builder::BrokerBuilder;
pub use error::BrokerError;
pub use mail::{Call, Event, Message, Reply};
pub use participant::{Participant, ParticipantBuilder};

use self::listener::Attach;
use self::router::{
    AskInstances, AskPresence, AskStatus, AskVitals, Compare, PluginExited, PublishOwn, Router,
    SetHold, SetPresence, StopPlugin, Switch, TellWanted,
};
use self::system::{Actors, Started, Stop};
use crate::engine::{
    Attachment, InstanceInfo, PluginExit, Presence, RegistrationDifference, Vitals,
};
use crate::error::Fault;
use crate::id::{PluginId, Topic};
use crate::limit;
use crate::net::uptime;
use crate::supervise::GroupHandle;

/// A running broker.
///
/// Handles are cheap to clone. When the last one is dropped without [`shutdown`](Self::shutdown),
/// every session is closed at once.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    socket: Option<std::path::PathBuf>,
    drain: Duration,
    actors: Actors,
    end: Mutex<Option<(oneshot::Sender<Stop>, oneshot::Receiver<()>)>>,
}

impl Broker {
    /// Configures a broker.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::new()
    }

    fn running(
        name: String,
        socket: Option<std::path::PathBuf>,
        drain: Duration,
        started: Started,
    ) -> Self {
        let Started { actors, stop, ended } = started;
        let end = Mutex::new(Some((stop, ended)));
        Self { inner: Arc::new(Inner { name, socket, drain, actors, end }) }
    }

    /// Takes a connection that the host has made for one plugin, as one end of
    /// [`UnixStream::pair`] whose other end the plugin has. Only that id is let in on it.
    ///
    /// # Errors
    ///
    /// When the broker is not running, or the stream cannot be used.
    pub async fn attach(&self, stream: UnixStream, plugin: PluginId) -> Result<(), BrokerError> {
        self.attach_instance(stream, plugin.into()).await
    }

    /// The same for one of several instances of a plugin, or for one that is to take the place of
    /// another with [`switch`](Self::switch).
    ///
    /// # Errors
    ///
    /// When the broker is not running, or the stream cannot be used.
    pub async fn attach_instance(
        &self,
        stream: UnixStream,
        attachment: Attachment,
    ) -> Result<(), BrokerError> {
        let name = attachment.plugin.as_str().to_owned();
        let attached = self.inner.actors.listener.send(Attach { stream, attachment }).await;
        attached
            .map_err(BrokerError::from)?
            .map_err(|source| BrokerError::Attach { plugin: name, source })
    }

    /// Waits until a plugin has said that it is ready. Waits for ever for one that never comes, so
    /// combine it with what else may happen: the end of its process, a timer.
    ///
    /// # Errors
    ///
    /// When the broker is not running.
    pub async fn wait_ready(&self, plugin: &PluginId) -> Result<(), BrokerError> {
        let mut version = self.inner.actors.version.clone();
        loop {
            version.borrow_and_update();
            let presence = self.ask(AskPresence).await?;
            if presence.plugins.get(plugin).copied().unwrap_or(false) {
                return Ok(());
            }
            version.changed().await.map_err(|_gone| BrokerError::NotRunning)?;
        }
    }

    /// Waits until a plugin has no session.
    ///
    /// # Errors
    ///
    /// When the broker is not running.
    pub async fn wait_gone(&self, plugin: &PluginId) -> Result<(), BrokerError> {
        let mut version = self.inner.actors.version.clone();
        loop {
            version.borrow_and_update();
            if !self.ask(AskPresence).await?.plugins.contains_key(plugin) {
                return Ok(());
            }
            version.changed().await.map_err(|_gone| BrokerError::NotRunning)?;
        }
    }

    /// Asks a plugin to finish what it does and to close its connection. Says whether it has one.
    ///
    /// # Errors
    ///
    /// When the broker is not running.
    pub async fn stop_plugin(
        &self,
        plugin: &PluginId,
        drain: Duration,
    ) -> Result<bool, BrokerError> {
        self.ask(StopPlugin { plugin: plugin.clone(), instance: None, drain }).await
    }

    /// The same for one instance of a plugin.
    ///
    /// # Errors
    ///
    /// When the broker is not running.
    pub async fn stop_instance(
        &self,
        plugin: &PluginId,
        instance: u32,
        drain: Duration,
    ) -> Result<bool, BrokerError> {
        let instance = Some(instance);
        self.ask(StopPlugin { plugin: plugin.clone(), instance, drain }).await
    }

    /// Tells the broker what a supervisor makes of its plugin: whether calls of it are held while
    /// it is away, or refused. Moments count like [`now`](Self::now).
    ///
    /// # Errors
    ///
    /// When the broker is not running.
    pub async fn set_presence(
        &self,
        plugin: &PluginId,
        presence: Presence,
    ) -> Result<(), BrokerError> {
        self.ask(SetPresence { plugin: plugin.clone(), presence }).await
    }

    /// How long calls of a plugin are held while it is away and awaited: 2 s unless this was
    /// called, never longer than the caller's deadline.
    ///
    /// # Errors
    ///
    /// When the broker is not running.
    pub async fn set_hold(&self, plugin: &PluginId, hold: Duration) -> Result<(), BrokerError> {
        self.ask(SetHold { plugin: plugin.clone(), hold }).await
    }

    /// Tells the broker how the process of an instance has ended, for those whose calls it had.
    ///
    /// # Errors
    ///
    /// When the broker is not running.
    pub async fn plugin_exited(
        &self,
        plugin: &PluginId,
        instance: u32,
        exit: PluginExit,
    ) -> Result<(), BrokerError> {
        self.ask(PluginExited { plugin: plugin.clone(), instance, exit }).await
    }

    /// Lets an instance take the place of the one that it was attached to replace.
    ///
    /// # Errors
    ///
    /// When the broker is not running; the inner one when the instance is not ready. The other one
    /// goes on then.
    pub async fn switch(
        &self,
        plugin: &PluginId,
        instance: u32,
    ) -> Result<Result<(), Fault>, BrokerError> {
        self.ask(Switch { plugin: plugin.clone(), instance }).await
    }

    /// What a switch to this instance would change for callers.
    ///
    /// # Errors
    ///
    /// When the broker is not running.
    pub async fn compare(
        &self,
        plugin: &PluginId,
        instance: u32,
    ) -> Result<Option<RegistrationDifference>, BrokerError> {
        self.ask(Compare { plugin: plugin.clone(), instance }).await
    }

    /// The live sessions of a plugin.
    ///
    /// # Errors
    ///
    /// When the broker is not running.
    pub async fn instances(&self, plugin: &PluginId) -> Result<Vec<InstanceInfo>, BrokerError> {
        self.ask(AskInstances(plugin.clone())).await
    }

    /// Waits until an instance of a plugin has registered and is ready. Waits for ever for one that
    /// never comes.
    ///
    /// # Errors
    ///
    /// When the broker is not running.
    pub async fn wait_instance_ready(
        &self,
        plugin: &PluginId,
        instance: u32,
    ) -> Result<(), BrokerError> {
        let mut version = self.inner.actors.version.clone();
        loop {
            version.borrow_and_update();
            let instances = self.instances(plugin).await?;
            if instances.iter().any(|known| known.instance == instance && known.is_ready) {
                return Ok(());
            }
            version.changed().await.map_err(|_gone| BrokerError::NotRunning)?;
        }
    }

    /// Plugins that sleep and that somebody wants, each once until its presence is set again. At
    /// most one for each plugin waits in the stream.
    ///
    /// # Errors
    ///
    /// When the broker is not running.
    pub async fn wanted(&self) -> Result<mpsc::Receiver<PluginId>, BrokerError> {
        let (waker, wanted) = mpsc::channel(limit::PLUGINS_REMEMBERED_MAX);
        self.ask(TellWanted(waker)).await?;
        Ok(wanted)
    }

    /// The moment that [`set_presence`](Self::set_presence) counts from the same beginning as.
    #[must_use]
    pub fn now() -> Duration {
        uptime::now().mono
    }

    /// The figures that `plugbus status` shows, as described in the protocol.
    ///
    /// # Errors
    ///
    /// When the broker is not running.
    pub async fn status(&self) -> Result<serde_json::Value, BrokerError> {
        Ok(self.ask(AskStatus).await?.0)
    }

    /// The tree of the broker's actors: a router and a listener, each restarted with what comes
    /// after it. A host adds groups of its own, such as its plugins, at the end: they run on the
    /// broker's thread, are stopped before the broker's actors, and start over when those have lost
    /// what they knew.
    #[must_use]
    pub fn tree(&self) -> GroupHandle {
        self.inner.actors.tree.clone()
    }

    /// Publishes an event of the broker's own on `plugbus.` and `topic`.
    ///
    /// # Errors
    ///
    /// When the broker is not running, or the topic does not fit the grammar.
    pub(crate) async fn publish_own(
        &self,
        topic: &str,
        event: &serde_json::Value,
    ) -> Result<(), BrokerError> {
        let topic = format!("plugbus.{topic}");
        Topic::parse(&topic)?;
        let body = mail::encode(event)?;
        self.ask(PublishOwn { topic, body }).await
    }

    /// Signs of life of every plugin's sessions, as they are before supervised ones are pinged.
    pub(crate) async fn vitals(&self, ping: bool) -> Result<Vec<Vitals>, BrokerError> {
        Ok(self.ask(AskVitals { ping }).await?.0)
    }

    /// Waits until the broker has to start over. What is asked of it then is answered only after
    /// the host's groups in its [`tree`](Self::tree) have stopped, so that nobody who belongs to
    /// one of them may wait for it.
    pub(crate) async fn starts_over(&self) {
        let tree = &self.inner.actors.tree;
        let mut transitions = tree.subscribe();
        let is_away = |id: &str| tree.child(&id.into()).is_some_and(|child| !child.is_serving);
        while !is_away(system::ROUTER) && !is_away(system::LISTENER) {
            if transitions.next().await.is_none() {
                return;
            }
        }
    }

    /// Changes when sessions come and go, register, or say something of themselves.
    pub(crate) fn versions(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.actors.version.clone()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Where it listens; `None` when it takes only connections that the host makes.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.inner.socket.as_deref()
    }

    /// Stops accepting, tells every peer to finish, and returns when the last session has ended or
    /// the drain timeout has passed; sessions that are left then are closed. The socket is gone
    /// afterwards. Further calls return at once.
    pub async fn shutdown(&self) {
        let end = self.inner.end.lock().take();
        if let Some((stop, ended)) = end {
            // An error says that the thread has ended already.
            let _sent = stop.send(Stop { drain: self.inner.drain });
            let _ended = ended.await;
        }
    }

    async fn join(
        &self,
        join: dispatch::Join,
    ) -> Result<Result<crate::net::link::Link, BrokerError>, BrokerError> {
        self.inner.actors.listener.send(join).await.map_err(BrokerError::from)
    }

    async fn ask<M>(&self, mail: M) -> Result<M::Result, BrokerError>
    where
        M: actix::Message + Send + 'static,
        M::Result: Send,
        Router: actix::Handler<M>,
        actix::Context<Router>: actix::dev::ToEnvelope<Router, M>,
    {
        self.inner.actors.router.send(mail).await.map_err(BrokerError::from)
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("name", &self.inner.name)
            .field("socket", &self.inner.socket)
            .finish_non_exhaustive()
    }
}
