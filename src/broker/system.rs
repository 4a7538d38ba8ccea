//! The broker's thread, its actix System and the tree of its actors.
//!
//! The broker always runs on a thread of its own: it then works in any application, whatever
//! runtime that has, and a handler of the host that blocks does not stop the plugins from talking
//! (`docs/decisions/0004-broker-thread.md`).

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::{Mutex, Notify, oneshot, watch};

use super::error::BrokerError;
use super::listener::{Listener, SocketShelf};
use super::router::{AskPresence, BeginShutdown, KillAll, Router, Tick};
use super::session::Shared;
use crate::engine::RouterSettings;
use crate::net::{listen, uptime};
use crate::supervise::{
    ChildId, ChildSpec, Group, GroupFlags, GroupHandle, MailError, Strategy, Supervised,
};

/// Addresses of the running actors, and the way to end them.
pub(super) struct Started {
    pub(super) actors: Actors,
    pub(super) stop: oneshot::Sender<Stop>,
    pub(super) ended: oneshot::Receiver<()>,
}

/// The broker's tree, and how to reach who is in it.
#[derive(Clone)]
pub(super) struct Actors {
    pub(super) router: Supervised<Router>,
    pub(super) listener: Supervised<Listener>,
    pub(super) tree: GroupHandle,
    pub(super) version: watch::Receiver<u64>,
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
    let (actors, stop) = reported.await.map_err(|_failed| BrokerError::NotRunning)??;
    Ok(Started { actors, stop, ended })
}

type Report = oneshot::Sender<Result<(Actors, oneshot::Sender<Stop>), BrokerError>>;

async fn run(settings: RouterSettings, socket: Option<PathBuf>, report: Report) {
    let socket = match socket.map(|path| bind(&path)).transpose() {
        Ok(socket) => Arc::new(Mutex::new(socket)),
        Err(error) => {
            // The host has given up waiting at worst; then nobody misses the error.
            let _nobody_waits = report.send(Err(error));
            return;
        }
    };
    let rearm = Arc::new(Notify::new());
    log::info!("session ids come from seed {:#018x}", settings.seed);
    let actors = grow(settings, Arc::clone(&socket), &rearm);
    let timer = tokio::task::spawn_local(keep_time(actors.router.clone(), rearm));
    let (stop, stopped) = oneshot::channel();
    if report.send(Ok((actors.clone(), stop))).is_err() {
        log::warn!("the host stopped waiting for the broker to start");
    }
    tokio::select! {
        // A host that drops its last handle without `shutdown` gives its peers no time.
        stop = stopped => {
            let stop = stop.unwrap_or(Stop { drain: Duration::ZERO });
            shut_down(&actors, &socket, stop).await;
        }
        exit = actors.tree.ended() => log::error!("the broker ends: {exit}"),
    }
    timer.abort();
}

/// Makes the tree. What comes later in it needs what comes before: when the router has lost what it
/// knew, the rest starts over.
fn grow(settings: RouterSettings, socket: SocketShelf, rearm: &Arc<Notify>) -> Actors {
    let (version, versions) = watch::channel(0);
    let name = settings.name.clone();
    let limits = Arc::clone(&settings.limits);
    let router = Router::shell(settings, version, Arc::clone(rearm));
    let shared = Shared {
        router: router.address(),
        rearm: Arc::clone(rearm),
        greeting: Arc::default(),
        limits,
    };
    let listener = Listener::shell(socket, shared);
    let (router_address, listener_address) = (router.address(), listener.address());
    let tree = Group::builder(name, GroupFlags::core(Strategy::RestForOne))
        .child(ChildSpec::new(ROUTER), router)
        .child(ChildSpec::new(LISTENER), listener)
        .build()
        .expect("two children with different names fit together")
        .start();
    Actors { router: router_address, listener: listener_address, tree, version: versions }
}

fn bind(path: &std::path::Path) -> Result<listen::Listener, BrokerError> {
    listen::Listener::bind(path)
        .map_err(|source| BrokerError::Listen { path: path.to_owned(), source })
}

/// Looks at the deadlines when the next one is due, and when an earlier one has come.
async fn keep_time(router: Supervised<Router>, rearm: Arc<Notify>) {
    loop {
        let next = match router.send(Tick).await {
            Ok(next) => next,
            Err(MailError::Closed) => return,
            // It failed at it; the next incarnation looks again.
            Err(_failed) => Some(Duration::ZERO),
        };
        tokio::time::sleep(TICK_MIN).await;
        match next {
            Some(at) => {
                tokio::select! {
                    () = tokio::time::sleep_until(uptime::deadline(at)) => (),
                    () = rearm.notified() => (),
                }
            }
            None => rearm.notified().await,
        }
    }
}

/// Stops accepting, lets every session drain and every group of the host stop, then ends those that
/// are left.
async fn shut_down(actors: &Actors, socket: &SocketShelf, stop: Stop) {
    let Actors { router, tree, version, .. } = actors;
    let mut versions = version.clone();
    // Waits until it is gone; one that is gone already is what is wanted.
    let _gone = tree.remove(&LISTENER.into());
    let _gone = tree.until(&LISTENER.into(), |_| false).await;
    drop(socket.lock().await.take());
    // A mailbox that is closed has nothing left to stop.
    let _told = router.send(BeginShutdown(stop.drain)).await;
    let ids = tree.children().into_iter().map(|child| child.spec.id);
    let guests: Vec<ChildId> = ids.filter(|id| id.as_str() != ROUTER).collect();
    for id in &guests {
        let _stops = tree.stop(id);
    }
    let drained = async {
        loop {
            versions.borrow_and_update();
            match router.send(AskPresence).await {
                Ok(presence) if presence.sessions > 0 => (),
                Err(MailError::Panicked) => continue,
                _ => break,
            }
            if versions.changed().await.is_err() {
                break;
            }
        }
        for id in &guests {
            // One that was removed meanwhile has stopped as well.
            let _stopped = tree.until(id, |child| !child.state.is_running()).await;
        }
    };
    if tokio::time::timeout(stop.drain, drained).await.is_err() {
        for id in &guests {
            let _killed = tree.kill(id);
        }
        kill_sessions(router, stop).await;
    }
    tree.shutdown().await;
}

async fn kill_sessions(router: &Supervised<Router>, stop: Stop) {
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

/// The children of the tree that the broker brings; the host adds its own after them.
pub(super) const ROUTER: &str = "router";
pub(super) const LISTENER: &str = "listener";

/// The timer looks at the deadlines no more often than this.
const TICK_MIN: Duration = Duration::from_millis(5);

/// Turns that killed sessions get to report their end.
const KILL_TURNS: usize = 10_000;
