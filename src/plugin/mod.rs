//! The Rust SDK: plugins, and clients that only ask.
//!
//! A plugin is a process that serves methods, takes messages and listens to events. Returning from
//! a method's handler is replying; returning from a message's is acknowledging.
//!
//! ```no_run
//! use plugbus::plugin::{Context, Plugin, Result};
//! use schemars::JsonSchema;
//! use serde::Deserialize;
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<()> {
//!     Plugin::new("hello").method("greet", greet).help("Says hello.").run().await
//! }
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Greet {
//!     /// Who is greeted.
//!     name: String,
//! }
//!
//! async fn greet(arguments: Greet, context: &Context) -> Result<String> {
//!     context.publish("hello.greeted", &arguments.name).await?;
//!     Ok(format!("Hello {}", arguments.name))
//! }
//! ```
//!
//! A client needs no id and serves nothing.
//!
//! ```no_run
//! # async fn client() -> plugbus::plugin::Result<()> {
//! let client = plugbus::plugin::connect().await?;
//! let arguments = serde_json::json!({ "name": "Ann" });
//! let greeting: String = client.call("hello.greet", &arguments).await?;
//! # drop(greeting); Ok(())
//! # }
//! ```
//!
//! Handlers of one plugin run on one thread, where their futures take turns. So they need not be
//! `Send`, and one that computes for long without awaiting holds up the others: move such work to
//! `tokio::task::spawn_blocking`.

mod channel;
mod client;
mod codec;
mod context;
mod dial;
mod error;
mod event;
mod feed;
mod handler;
mod hub;
mod options;
mod run;
mod subscription;
mod work;

use std::fmt;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::channel::{ChannelSender, Progress};
pub use self::client::Client;
pub use self::context::Context;
use self::dial::Endpoint;
pub use self::dial::take_inherited;
pub use self::error::{Error, Refusal, Result};
pub use self::event::{Event, Gap, Message, Received, Signal};
use self::handler::{
    BackgroundHandler, ChannelHandler, EventHandler, GapHandler, MethodHandler, SignalHandler,
};
use self::options::TrafficOptions;
pub use self::options::{ConnectOptions, SubscribeOptions};
pub use self::subscription::Subscription;
pub use crate::error::Verdict;
use crate::id::{ChannelName, MethodName, Pattern, PluginId};
use crate::wire::body;
pub use crate::wire::body::Overflow;

/// Connects as a client to the broker that the environment names: over the inherited connection, to
/// the socket in `PLUGBUS_SOCKET`, or to the user's default one.
///
/// # Errors
///
/// [`Error::Connect`] when there is none.
pub async fn connect() -> Result<Client> {
    ConnectOptions::new().connect().await
}

/// Connects to the broker at a socket.
///
/// # Errors
///
/// [`Error::Connect`] when there is none.
pub async fn connect_to(socket: impl AsRef<Path>) -> Result<Client> {
    ConnectOptions::new().socket(socket).connect().await
}

/// A plugin: what it is called and what it serves. Nothing happens before [`run`](Self::run), but
/// for one thing: an inherited connection is taken out of the environment at once.
///
/// A handler is an `async fn` of what it is given and a [`Context`]; see the [module](self) for
/// where handlers run.
#[must_use = "a plugin does nothing until `run`"]
pub struct Plugin {
    id: String,
    endpoint: Result<Endpoint>,
    traffic: TrafficOptions,
    methods: Vec<(body::Method, MethodHandler)>,
    channels: Vec<(body::Channel, ChannelHandler)>,
    events: Vec<(body::Subscribe, EventHandler)>,
    gap: Option<GapHandler>,
    background: Option<BackgroundHandler>,
    signals: Vec<(String, SignalHandler)>,
    services: Vec<String>,
    last: Last,
    problem: Option<Error>,
}

/// What `help`, `idempotent`, `overflow` and `queue` are about.
#[derive(Clone, Copy, Debug)]
enum Last {
    Nothing,
    Method,
    Channel,
    Event,
}

impl Plugin {
    /// A plugin with this id, which has to be the configured one where the supervisor started it.
    ///
    /// Make it before the process has more threads, or call [`take_inherited`] then: only while
    /// there is one can `PLUGBUS_FD` leave the environment.
    pub fn new(id: impl Into<String>) -> Self {
        let id = id.into();
        let mut plugin = Self {
            endpoint: Endpoint::from_environment(),
            traffic: TrafficOptions::default(),
            methods: Vec::new(),
            channels: Vec::new(),
            events: Vec::new(),
            gap: None,
            background: None,
            signals: Vec::new(),
            services: Vec::new(),
            last: Last::Nothing,
            problem: None,
            id,
        };
        let id = PluginId::parse(&plugin.id).map(drop);
        plugin.check(id);
        plugin
    }

    /// Connects to this socket, whatever the environment says.
    pub fn socket(mut self, path: impl AsRef<Path>) -> Self {
        self.endpoint = Ok(Endpoint::Path(path.as_ref().to_owned()));
        self
    }

    /// Serves a method: arguments in, result out. The types of both become the method's schema;
    /// arguments that do not fit are refused before the handler sees them.
    ///
    /// Calls run side by side. When a caller gives up, the handler's future is dropped.
    pub fn method<A, R, F>(mut self, name: &str, handler: F) -> Self
    where
        A: DeserializeOwned + JsonSchema + 'static,
        R: Serialize + JsonSchema + 'static,
        F: AsyncFn(A, &Context) -> Result<R> + 'static,
    {
        self.check(MethodName::parse(name).map(drop));
        if self.methods.iter().any(|(method, _)| method.name == name) {
            self.refuse(format!("method `{name}` is declared twice"));
        }
        let (params, known) = handler::schema_of::<A>();
        let description = params.get("description").and_then(|text| text.as_str());
        let method = body::Method {
            name: name.to_owned(),
            help: description.map(str::to_owned),
            result: Some(handler::schema_of::<R>().0),
            params: Some(params),
            idempotent: false,
        };
        self.methods.push((method, handler::method(handler, known)));
        self.last = Last::Method;
        self
    }

    /// Handles the messages of a channel: from each sender one after the other, in order. A plugin
    /// has the channel `inbox` without declaring it, but needs a handler for it all the same.
    ///
    /// A message is acknowledged when its handler has returned. A failure is logged and counted,
    /// and acknowledged too: what cannot be handled now would not be the next time either. A
    /// message comes again only when the plugin ended before; see [`Message::attempt`].
    pub fn channel<F>(mut self, name: &str, handler: F) -> Self
    where
        F: AsyncFn(Message, &Context) -> Result<()> + 'static,
    {
        self.check(ChannelName::parse(name).map(drop));
        if self.channels.iter().any(|(channel, _)| channel.name == name) {
            self.refuse(format!("channel `{name}` is declared twice"));
        }
        let channel = body::Channel { name: name.to_owned(), help: None };
        self.channels.push((channel, handler::channel(handler)));
        self.last = Last::Channel;
        self
    }

    /// Handles the events whose topic fits a pattern, one after the other. Where the handler is
    /// slower than the publishers for long, events are missed, as [`overflow`](Self::overflow)
    /// says; [`on_gap`](Self::on_gap) is told how many.
    pub fn on<F>(mut self, pattern: &str, handler: F) -> Self
    where
        F: AsyncFn(Event, &Context) -> Result<()> + 'static,
    {
        self.check(Pattern::parse(pattern).map(drop));
        let request = body::Subscribe { pattern: pattern.to_owned(), ..Default::default() };
        self.events.push((request, handler::event(handler)));
        self.last = Last::Event;
        self
    }

    /// Says what happens to events of the pattern declared just before that come faster than they
    /// are taken. Without this the oldest are shed.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        match (self.last, self.events.last_mut()) {
            (Last::Event, Some((request, _))) => request.overflow = overflow,
            _ => self.refuse("overflow follows a pattern of events".to_owned()),
        }
        self
    }

    /// Says how many events of the pattern declared just before may wait, and how many bytes of
    /// them; see [`SubscribeOptions`].
    pub fn queue(mut self, messages: u64, bytes: u64) -> Self {
        match (self.last, self.events.last_mut()) {
            (Last::Event, Some((request, _))) => {
                (request.queue_messages, request.queue_bytes) = (Some(messages), Some(bytes));
            }
            _ => self.refuse("queue follows a pattern of events".to_owned()),
        }
        self
    }

    /// Is told of events that this plugin will not get, in their place among those that it does.
    /// Without it the log says so.
    pub fn on_gap<F>(mut self, handler: F) -> Self
    where
        F: AsyncFn(Gap, &Context) -> Result<()> + 'static,
    {
        if self.gap.replace(handler::gap(handler)).is_some() {
            self.refuse("gaps are handled twice".to_owned());
        }
        self.last = Last::Nothing;
        self
    }

    /// Guards every frame of this plugin by a checksum; see [`ConnectOptions::checksum`].
    pub fn checksum(mut self, checksum: bool) -> Self {
        self.traffic.checksum = checksum;
        self
    }

    /// Compresses large payloads; see [`ConnectOptions::compress_from`].
    pub fn compress_from(mut self, bytes: usize) -> Self {
        self.traffic.compress_min = Some(bytes);
        self
    }

    /// Runs beside the handlers from the moment at which the plugin is ready, for work that nobody
    /// asks for. It may return; an error ends the plugin. It is dropped when the plugin stops.
    pub fn background<F>(mut self, work: F) -> Self
    where
        F: AsyncFn(&Context) -> Result<()> + 'static,
    {
        if self.background.replace(handler::background(work)).is_some() {
            self.refuse("there is background work twice".to_owned());
        }
        self.last = Last::Nothing;
        self
    }

    /// Handles a signal, for example `reload`.
    pub fn signal<F>(mut self, name: &str, handler: F) -> Self
    where
        F: AsyncFn(Signal, &Context) -> Result<()> + 'static,
    {
        self.signals.push((name.to_owned(), handler::signal(handler)));
        self.last = Last::Nothing;
        self
    }

    /// Serves its methods under the name of a service too, which other plugins may share.
    pub fn service(mut self, name: &str) -> Self {
        self.check(PluginId::parse(name).map(drop));
        self.services.push(name.to_owned());
        self.last = Last::Nothing;
        self
    }

    /// Says what the method or channel declared just before is for.
    pub fn help(mut self, text: &str) -> Self {
        match self.last {
            Last::Method => {
                if let Some((method, _)) = self.methods.last_mut() {
                    method.help = Some(text.to_owned());
                }
            }
            Last::Channel => {
                if let Some((channel, _)) = self.channels.last_mut() {
                    channel.help = Some(text.to_owned());
                }
            }
            Last::Nothing | Last::Event => {
                self.refuse("help follows a method or a channel".to_owned())
            }
        }
        self
    }

    /// Says that calling the method declared just before twice does no more than calling it once.
    pub fn idempotent(mut self) -> Self {
        match (self.last, self.methods.last_mut()) {
            (Last::Method, Some((method, _))) => method.idempotent = true,
            _ => self.refuse("idempotent follows a method".to_owned()),
        }
        self
    }

    /// Connects, registers, says that it is ready, and serves until it is told to stop: by the
    /// broker, by SIGTERM or by SIGINT. Then handlers get 5 s to finish.
    ///
    /// # Errors
    ///
    /// A wrong description, no broker, an id that is in use, a broker that vanished, or a handler
    /// of messages or events that panicked.
    pub async fn run(self) -> Result<()> {
        let local = tokio::task::LocalSet::new();
        local.run_until(run::run(self)).await
    }

    fn check(&mut self, outcome: Result<(), crate::error::Fault>) {
        if let Err(fault) = outcome {
            self.refuse(fault.message);
        }
    }

    /// The first problem is the one that is told.
    fn refuse(&mut self, message: String) {
        self.problem.get_or_insert(Error::Plugin(message));
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods: Vec<&str> =
            self.methods.iter().map(|(method, _)| method.name.as_str()).collect();
        f.debug_struct("Plugin").field("id", &self.id).field("methods", &methods).finish()
    }
}
