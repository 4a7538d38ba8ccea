//! What `up` and `run` share: a broker and its plugins in the foreground.

use std::pin::pin;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use super::Context;
use super::config::Config;
use super::failure::{Failure, Result, Status};
use super::printer::Printer;
use super::python;
use super::show::Show;
use super::watching::Watching;
use crate::broker::{Broker, BrokerError};
use crate::host::control::{Control, Reload};
use crate::host::logs::{self, LogSettings, LogStore};
use crate::host::{Manifest, Plugins};
use crate::id::PluginId;
use crate::net::{ListenError, socket_path};
use crate::sys::limits::raise_descriptor_limit;

/// What to run.
pub(crate) struct Served {
    pub(crate) config: Config,
    /// The plugins, with those that have to be ready before each starts.
    pub(crate) plugins: Vec<(Manifest, Vec<PluginId>)>,
    /// Whether plugins see the whole environment of this process.
    pub(crate) inherit_env: bool,
    /// Whether a plugin that does not get ready ends it all.
    pub(crate) is_strict: bool,
    /// What `plugbus reload` and SIGHUP do.
    pub(crate) reload: Option<Reload>,
    /// Applies what changes on disk.
    pub(crate) watching: Option<Watching>,
}

/// Runs it until Ctrl-C or SIGTERM.
pub(crate) async fn run(context: &Context, served: Served) -> Result<()> {
    let mut stop = StopSignals::listen()?;
    // Whoever asks to reload before everything is up does not end it.
    let mut hangup = StopSignals::on(SignalKind::hangup())?;
    if let Err(error) = raise_descriptor_limit() {
        log::warn!("cannot raise the limit of open descriptors: {error}");
    }
    let broker = start_broker(context, &served).await?;
    let (printer, printer_end) = Printer::start(context.terminal)?;
    let log = open_log(&broker);
    let show = Show::new(context.terminal, printer, &served.plugins);
    show.broker(&broker);
    let result = {
        let mut work = pin!(async {
            let result =
                serve(&broker, served, show.clone(), log.clone(), (&mut stop, &mut hangup)).await;
            broker.shutdown().await;
            result
        });
        let mut abort = StopSignals::listen()?;
        tokio::select! {
            result = &mut work => result,
            () = abort.second() => Err(aborted()),
        }
    };
    if result.is_err() {
        // Whoever is left has been killed or cannot be waited for.
        let ended = tokio::time::timeout(ABORT_TIMEOUT, broker.shutdown()).await;
        log::debug!("the broker has ended: {}", ended.is_ok());
    }
    printer_end.wait();
    if let Some(log) = log {
        log.flush();
    }
    result
}

/// The logs on disk. A broker without them still works.
fn open_log(broker: &Broker) -> Option<LogStore> {
    let directory = logs::directory(broker.socket()?)?;
    LogStore::open(&directory, LogSettings::default())
        .inspect_err(|error| {
            log::warn!("cannot keep logs in {}: {error}; they are only shown", directory.display());
        })
        .ok()
}

/// How long the socket may take to go after everything was ended at once.
const ABORT_TIMEOUT: Duration = Duration::from_millis(500);

async fn serve(
    broker: &Broker,
    served: Served,
    show: Show,
    log: Option<LogStore>,
    (stop, hangup): (&mut StopSignals, &mut Signal),
) -> Result<()> {
    let shown = show.clone();
    let (lend, inherit_env) = (python::lend(), served.inherit_env);
    let mut builder = Plugins::builder(broker)
        .runtimes(served.config.runtimes)
        .governor(served.config.starts)
        .dress(move |plugin| match inherit_env {
            true => lend(plugin).inherit_env(true),
            false => lend(plugin),
        })
        .observe(move |event| shown.plugin(&event));
    if let Some(log) = log {
        builder = builder.logs(log);
    }
    for (manifest, needs) in served.plugins {
        builder = builder.manifest(manifest, needs);
    }
    let started = builder.start().await;
    let plugins = started.map_err(|error| Failure::failed(with_sources(&error)))?;
    let reload = served.reload;
    let control = Control::join(broker, plugins.clone(), reload.clone()).await;
    let control = control.map_err(|error| Failure::failed(with_sources(&error)))?;
    let (settling, is_strict) = (plugins.clone(), served.is_strict);
    let settled = async move {
        if is_strict {
            settling.all_ready().await.map_err(|error| Failure::failed(with_sources(&error)))?;
        }
        Ok(settling.settled().await)
    };
    let watching = served.watching;
    let watched = {
        let (show, plugins) = (show.clone(), plugins.clone());
        tokio::spawn(async move {
            if let Some(watching) = watching {
                watching.run(plugins, show).await;
            }
        })
    };
    let drawn = {
        let (show, plugins) = (show.clone(), plugins.clone());
        tokio::spawn(async move { show.draw(&plugins).await })
    };
    let mut settled = pin!(settled);
    let mut is_settled = false;
    let mut reloads = JoinSet::new();
    let result = loop {
        tokio::select! {
            () = stop.first() => break Ok(()),
            settled = &mut settled, if !is_settled => match settled {
                Ok(settled) => {
                    is_settled = true;
                    show.serving(&settled);
                }
                Err(failure) => break Err(failure),
            },
            _ = hangup.recv() => {
                let show = show.clone();
                let reloading = reload.as_ref().map(|reload| reload(plugins.clone()));
                reloads.spawn(async move {
                    show.reloaded(match reloading {
                        Some(reloading) => Some(reloading.await),
                        None => None,
                    });
                });
            }
            Some(_shown) = reloads.join_next() => (),
        }
    };
    drop(reloads);
    watched.abort();
    show.stopping();
    control.leave().await;
    plugins.stop().await;
    drawn.abort();
    result
}

async fn start_broker(context: &Context, served: &Served) -> Result<Broker> {
    let name = served.config.name.as_deref().unwrap_or(socket_path::DEFAULT_NAME);
    // What is said on the command line or in the environment goes before the file.
    let socket = match context.socket.as_ref().or(served.config.socket.as_ref()) {
        Some(socket) => socket.clone(),
        None => socket_path::named(name).map_err(Failure::usage)?,
    };
    let builder = Broker::builder().name(name).socket(socket).limits(served.config.limits.clone());
    builder.start().await.map_err(|error| match error {
        BrokerError::Listen { source: source @ ListenError::InUse { .. }, .. } => {
            Failure::new(Status::Refused, source)
        }
        BrokerError::Listen { source, .. } => Failure::usage(source),
        error => Failure::failed(with_sources(&error)),
    })
}

/// An error with all its reasons; some errors tell their reason themselves.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text += &format!(": {reason}");
        }
        source = error.source();
    }
    text
}

fn aborted() -> Failure {
    Failure::new(Status::Interrupted, "ended at once; plugins were killed")
}

/// Ctrl-C and SIGTERM.
#[derive(Debug)]
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn listen() -> Result<Self> {
        Ok(Self {
            interrupt: Self::on(SignalKind::interrupt())?,
            terminate: Self::on(SignalKind::terminate())?,
        })
    }

    fn on(kind: SignalKind) -> Result<Signal> {
        signal(kind)
            .map_err(|error| Failure::failed(format_args!("cannot listen for signals: {error}")))
    }

    async fn first(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
    }

    /// The second Ctrl-C; SIGTERM twice changes nothing.
    async fn second(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
        self.interrupt.recv().await;
    }
}
