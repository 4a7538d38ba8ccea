//! The broker's thread and its actix System.
//!
//! The broker always runs on a thread of its own: it then works in any application, whatever
//! runtime that has, and a handler of the host that blocks does not stop the plugins from talking
//! (`docs/decisions/0004-broker-thread.md`).

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::{Notify, oneshot, watch};

use super::error::BrokerError;
use super::listener::{Listener, StopListening};
use super::router::{AskPresence, BeginShutdown, KillAll, Router, Tick};
use super::session::Shared;
use crate::engine::RouterSettings;
use crate::net::{clock, listen};

/// Addresses of the running actors, and the way to end them.
pub(super) struct Started {
    pub(super) router: Addr<Router>,
    pub(super) listener: Addr<Listener>,
    pub(super) version: watch::Receiver<u64>,
    pub(super) stop: oneshot::Sender<Stop>,
    pub(super) ended: oneshot::Receiver<()>,
}

/// How the broker is to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    /// What peers are given to finish.
    pub(super) drain: Duration,
}

/// Starts the thread, binds the socket and starts the actors.
pub(super) async fn start(
    settings: RouterSettings,
    socket: Option<PathBuf>,
) -> Result<Started, BrokerError> {
    let (report, reported) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    thread::Builder::new()
        .name(format!("plugbus-{}", settings.name))
        .spawn(move || {
            let system = System::new();
            system.block_on(run(settings, socket, report));
            // Whoever waits may have stopped waiting.
            let _nobody_waits = end.send(());
        })
        .map_err(BrokerError::Thread)?;
    let (router, listener, version, stop) =
        reported.await.map_err(|_failed| BrokerError::NotRunning)??;
    Ok(Started { router, listener, version, stop, ended })
}

type Report = oneshot::Sender<
    Result<
        (Addr<Router>, Addr<Listener>, watch::Receiver<u64>, oneshot::Sender<Stop>),
        BrokerError,
    >,
>;

async fn run(settings: RouterSettings, socket: Option<PathBuf>, report: Report) {
    let socket = match socket.map(|path| bind(&path)).transpose() {
        Ok(socket) => socket,
        Err(error) => {
            // The host has given up waiting at worst; then nobody misses the error.
            let _nobody_waits = report.send(Err(error));
            return;
        }
    };
    let (version, versions) = watch::channel(0);
    let rearm = Arc::new(Notify::new());
    log::info!("session ids come from seed {:#018x}", settings.seed);
    let limits = Arc::clone(&settings.limits);
    let router = Router::new(settings, version, Arc::clone(&rearm)).start();
    let shared = Shared {
        router: router.clone(),
        rearm: Arc::clone(&rearm),
        greeting: Rc::new(Cell::new(0)),
        limits,
    };
    let listener = Listener::new(socket, shared).start();
    let timer = tokio::task::spawn_local(keep_time(router.clone(), rearm));
    let (stop, stopped) = oneshot::channel();
    let started = (router.clone(), listener.clone(), versions.clone(), stop);
    if report.send(Ok(started)).is_err() {
        log::warn!("the host stopped waiting for the broker to start");
    }
    // A host that drops its last handle without `shutdown` gives its peers no time.
    let stop = stopped.await.unwrap_or(Stop { drain: Duration::ZERO });
    shut_down(&router, &listener, versions, stop).await;
    timer.abort();
}

fn bind(path: &std::path::Path) -> Result<listen::Listener, BrokerError> {
    listen::Listener::bind(path)
        .map_err(|source| BrokerError::Listen { path: path.to_owned(), source })
}

/// Looks at the deadlines when the next one is due, and when an earlier one has come.
async fn keep_time(router: Addr<Router>, rearm: Arc<Notify>) {
    while let Ok(next) = router.send(Tick).await {
        tokio::time::sleep(TICK_MIN).await;
        match next {
            Some(at) => {
                tokio::select! {
                    () = tokio::time::sleep_until(clock::deadline(at)) => (),
                    () = rearm.notified() => (),
                }
            }
            None => rearm.notified().await,
        }
    }
}

/// Stops accepting, lets every session drain, then ends those that are left.
async fn shut_down(
    router: &Addr<Router>,
    listener: &Addr<Listener>,
    mut versions: watch::Receiver<u64>,
    stop: Stop,
) {
    // A mailbox that is closed has nothing left to stop.
    let _stopped = listener.send(StopListening).await;
    let _told = router.send(BeginShutdown(stop.drain)).await;
    let drained = async {
        loop {
            versions.borrow_and_update();
            match router.send(AskPresence).await {
                Ok(presence) if presence.sessions > 0 => (),
                _ => return,
            }
            if versions.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(stop.drain, drained).await.is_err() {
        let killed = router.send(KillAll("the broker has shut down")).await.unwrap_or(0);
        // Who drops a broker wants it to end at once.
        let level = if stop.drain.is_zero() { log::Level::Debug } else { log::Level::Warn };
        log::log!(level, "{killed} sessions did not end within {:?} and were closed", stop.drain);
        // Their tasks notice at once; one more turn lets them report.
        for _ in 0..KILL_TURNS {
            match router.send(AskPresence).await {
                Ok(presence) if presence.sessions > 0 => tokio::task::yield_now().await,
                _ => return,
            }
        }
    }
}

/// The timer looks at the deadlines no more often than this.
const TICK_MIN: Duration = Duration::from_millis(5);

/// Turns that killed sessions get to report their end.
const KILL_TURNS: usize = 10_000;
