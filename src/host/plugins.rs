//! The plugins of a broker: started in order, watched, stopped in the reverse order.
//!
//! A plugin that ends is reported and not started again; that is the business of supervision.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use super::error::SpawnError;
use super::exit::Exit;
use super::output::Stream;
use super::process::Process;
use super::spec::PluginSpec;
use crate::broker::{Broker, BrokerError};
use crate::id::PluginId;
use crate::limit;

/// Plugin processes of one broker.
///
/// Dropping it kills them; [`stop`](Self::stop) lets them finish what they are doing.
#[derive(Debug)]
pub struct Plugins {
    broker: Broker,
    observe: Observer,
    running: Vec<Running>,
}

/// What happens to plugins, for whoever shows it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PluginEvent {
    /// Its process runs.
    Started {
        /// Which plugin.
        id: PluginId,
        /// Its process.
        pid: u32,
    },
    /// It serves.
    Ready {
        /// Which plugin.
        id: PluginId,
        /// How long it took.
        after: Duration,
    },
    /// It printed a line.
    Printed {
        /// Which plugin.
        id: PluginId,
        /// Where.
        stream: Stream,
        /// What, without the line end.
        line: String,
    },
    /// Its process has ended.
    Exited {
        /// Which plugin.
        id: PluginId,
        /// How.
        exit: Exit,
        /// Whether it had been asked to.
        expected: bool,
    },
}

/// Why plugins could not be started. Those that had been are stopped again.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// Two have the same id.
    #[error("plugin `{0}` is there twice")]
    Twice(PluginId),
    /// There is no process.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The broker does not take it.
    #[error("the broker does not take plugin `{id}`: {source}")]
    Broker {
        /// Which plugin.
        id: PluginId,
        /// Why.
        source: BrokerError,
    },
    /// It ended too early.
    #[error("plugin `{id}` {exit} before it was ready")]
    Exited {
        /// Which plugin.
        id: PluginId,
        /// How.
        exit: Exit,
    },
    /// It runs, and says nothing.
    #[error("plugin `{id}` was not ready within {after:?}: does it use descriptor 3 (PLUGBUS_FD)?")]
    Timeout {
        /// Which plugin.
        id: PluginId,
        /// How long it had.
        after: Duration,
    },
}

#[derive(Debug)]
struct Running {
    id: PluginId,
    process: Process,
    /// Whether its end has been asked for.
    stopping: Arc<AtomicBool>,
}

impl Plugins {
    /// Starts plugins one after the other, each when the one before it is ready. Returns when all
    /// are, or when one could not be started and the others have been stopped again.
    ///
    /// # Errors
    ///
    /// Ids that are wrong or there twice come before the first process.
    pub async fn start(
        broker: &Broker,
        specs: Vec<PluginSpec>,
        observe: impl Fn(PluginEvent) + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let mut ids = BTreeSet::new();
        for spec in &specs {
            let id = PluginId::parse(spec.id()).map_err(SpawnError::Id)?;
            if !ids.insert(id.clone()) {
                return Err(StartError::Twice(id));
            }
        }
        let observe = Observer(Arc::new(observe));
        let mut plugins = Self { broker: broker.clone(), observe, running: Vec::new() };
        for (spec, id) in specs.iter().map(|spec| (spec, PluginId::parse(spec.id()))) {
            let id = id.map_err(SpawnError::Id)?;
            if let Err(error) = plugins.add(spec, id).await {
                plugins.stop().await;
                return Err(error);
            }
        }
        Ok(plugins)
    }

    async fn add(&mut self, spec: &PluginSpec, id: PluginId) -> Result<(), StartError> {
        let began = Instant::now();
        let running = self.spawn(spec, &id).await?;
        let event = PluginEvent::Started { id: id.clone(), pid: running.process.pid() };
        self.observe.tell(event);
        let ready = self.ready(&running).await;
        self.running.push(running);
        ready?;
        self.observe.tell(PluginEvent::Ready { id, after: began.elapsed() });
        Ok(())
    }

    async fn spawn(&self, spec: &PluginSpec, id: &PluginId) -> Result<Running, StartError> {
        let (observe, printer) = (self.observe.clone(), id.clone());
        let (process, socket) = Process::start(spec, move |stream, line: &str| {
            let (id, line) = (printer.clone(), line.to_owned());
            observe.tell(PluginEvent::Printed { id, stream, line });
        })
        .await?;
        let running =
            Running { id: id.clone(), process, stopping: Arc::new(AtomicBool::new(false)) };
        self.report_end(&running);
        self.broker
            .attach(socket, id.clone())
            .await
            .map_err(|source| StartError::Broker { id: id.clone(), source })?;
        Ok(running)
    }

    /// Reports the end of a process whenever it comes.
    fn report_end(&self, running: &Running) {
        let (observe, id) = (self.observe.clone(), running.id.clone());
        let (end, stopping) = (running.process.end(), Arc::clone(&running.stopping));
        tokio::spawn(async move {
            let exit = end.await;
            // A flag for people; nothing else is ordered by it.
            let expected = stopping.load(Ordering::Relaxed);
            observe.tell(PluginEvent::Exited { id, exit, expected });
        });
    }

    async fn ready(&self, running: &Running) -> Result<(), StartError> {
        let id = || running.id.clone();
        tokio::select! {
            // What the process says of itself explains more than what the broker sees.
            biased;
            exit = running.process.exited() => Err(StartError::Exited { id: id(), exit }),
            ready = self.broker.wait_ready(&running.id) => {
                ready.map_err(|source| StartError::Broker { id: id(), source })
            }
            () = tokio::time::sleep(limit::START_TIMEOUT) => {
                Err(StartError::Timeout { id: id(), after: limit::START_TIMEOUT })
            }
        }
    }

    /// Stops them in the reverse of their order: each is told, then asked by signal, then killed,
    /// and has ended before the next is told. Returns how each of those that still ran ended.
    pub async fn stop(mut self) -> Vec<(PluginId, Exit)> {
        let mut exits = Vec::new();
        while let Some(running) = self.running.pop() {
            if running.process.exit().is_some() {
                continue;
            }
            running.stopping.store(true, Ordering::Relaxed); // As in `report_end`.
            let told = self.broker.stop_plugin(&running.id, limit::STOP_NOTICE_TIMEOUT).await;
            // Who cannot be told has nothing to finish for us.
            let heard = matches!(told, Ok(true));
            let notice = if heard { limit::STOP_NOTICE_TIMEOUT } else { Duration::ZERO };
            let signal = limit::STOP_SIGNAL_TIMEOUT;
            exits.push((running.id.clone(), running.process.stop(notice, signal).await));
        }
        exits
    }

    /// Ids and processes of those that run, in their start order.
    pub fn running(&self) -> impl Iterator<Item = (&PluginId, u32)> {
        let alive = self.running.iter().filter(|running| running.process.exit().is_none());
        alive.map(|running| (&running.id, running.process.pid()))
    }
}

#[derive(Clone)]
struct Observer(Arc<dyn Fn(PluginEvent) + Send + Sync>);

impl Observer {
    fn tell(&self, event: PluginEvent) {
        (self.0)(event);
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
