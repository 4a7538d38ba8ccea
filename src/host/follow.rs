//! Waits for the end of a plugin's process, and says what is known of it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::exit::{Exit, Usage};
use super::memory::OutOfMemory;
use super::patience;
use super::process::Shared;
use crate::limit;
use crate::sys::guardian::{Guardian, Report};

/// What is known of the end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ending {
    pub(super) exit: Option<Exit>,
    pub(super) usage: Option<Usage>,
    /// Whether really nothing is left.
    pub(super) gone: bool,
}

/// The task that waits for the end.
pub(super) struct Follower {
    shared: Arc<Shared>,
    memory: OutOfMemory,
    told: watch::Sender<Ending>,
    exit: Option<Exit>,
}

impl Follower {
    pub(super) fn new(
        shared: Arc<Shared>,
        memory: OutOfMemory,
        told: watch::Sender<Ending>,
    ) -> Self {
        Self { shared, memory, told, exit: None }
    }

    /// Tells the end of the process twice: first to the readers of its output, then, when they
    /// have read the rest, to everybody.
    pub(super) async fn follow(
        mut self,
        ended: watch::Sender<Option<Exit>>,
        readers: [tokio::task::JoinHandle<()>; 2],
    ) {
        let mut readers = Some(readers);
        if let Err(overdue) = self.until_gone(None).await {
            log::error!("{overdue}");
            let exit = self.exit.unwrap_or(Exit::Unkillable);
            self.tell(exit, &ended, readers.take()).await;
            // It may end after all. There is no second limit.
            let _ended = self.until_gone(Some(overdue)).await;
        }
        if let Err(error) = end_guardian(&self.shared.guardian).await {
            log::error!("cannot collect a guardian: {error}");
        }
        let exit = self.exit.unwrap_or(Exit::Unknown);
        self.tell(exit, &ended, readers).await;
        self.told.send_modify(|ending| ending.gone = true);
    }

    async fn tell(
        &self,
        exit: Exit,
        ended: &watch::Sender<Option<Exit>>,
        readers: Option<[tokio::task::JoinHandle<()>; 2]>,
    ) {
        ended.send_replace(Some(exit));
        for reader in readers.into_iter().flatten() {
            if let Err(error) = reader.await {
                log::error!("reading what a plugin printed failed: {error}");
            }
        }
        self.told.send_modify(|ending| ending.exit = Some(exit));
    }

    /// Returns when nothing is left of the plugin, or when that takes too long and that has not
    /// been `said` before.
    async fn until_gone(&mut self, said: Option<Overdue>) -> Result<(), Overdue> {
        let shared = Arc::clone(&self.shared);
        let pid = shared.plugin.pid();
        let end = shared.plugin.end();
        let patience = || Box::pin(patience::pass(limit::KILL_TIMEOUT));
        let mut overdue = None;
        let mut has_ended = self.exit.is_some();
        loop {
            let is_overdue = async {
                match &mut overdue {
                    Some(overdue) if said.is_none() => Pin::as_mut(overdue).await,
                    _ => std::future::pending().await,
                }
            };
            let ended = async {
                match &end {
                    Ok(end) if !has_ended => end.wait().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                // What has happened goes before what is due.
                biased;
                report = next_report(&shared.guardian) => match report {
                    Ok(Some(Report::Ended { status, memory_max, processor })) => {
                        self.ended(status, memory_max, processor);
                        has_ended = true;
                        overdue.get_or_insert_with(patience);
                    }
                    Ok(Some(Report::Gone { left })) => {
                        if left != 0 {
                            log::warn!("{}", Left { pid, count: left });
                        }
                        return Ok(());
                    }
                    Ok(Some(report)) => log::error!("a guardian reports {report:?} again"),
                    Ok(None) => return self.guardian_lost().await,
                    Err(error) => {
                        log::error!("cannot hear the guardian of process {pid}: {error}");
                        return self.guardian_lost().await;
                    }
                },
                result = ended => {
                    has_ended = true;
                    // Its guardian knows and will say so, unless somebody has stopped it.
                    if let Err(error) = result.and_then(|()| shared.guardian.get_ref().wake()) {
                        log::error!("cannot wake the guardian of process {pid}: {error}");
                    }
                    overdue.get_or_insert_with(patience);
                }
                () = shared.killing.notified() => {
                    overdue.get_or_insert_with(patience);
                }
                () = is_overdue => return Err(Overdue { pid, ended: self.exit.is_some() }),
            }
        }
    }

    fn ended(&mut self, status: i64, memory_max: i64, processor: i64) {
        let exit = Exit::from_status(i32::try_from(status).unwrap_or_default());
        // Relaxed, as in `kill`.
        let killed = self.shared.killed.load(Ordering::Relaxed);
        self.exit = Some(match exit {
            Exit::Signal { number: 9, .. } if !killed => match self.memory.has_struck() {
                true => Exit::OutOfMemory,
                false => Exit::Killed,
            },
            exit => exit,
        });
        let usage = Usage::new(memory_max, processor);
        self.told.send_modify(|ending| ending.usage = usage);
    }

    /// The guardian is dead, so the kernel kills the plugin, and nobody has its status. What the
    /// plugin started is looked for by its mark.
    async fn guardian_lost(&self) -> Result<(), Overdue> {
        let pid = self.shared.plugin.pid();
        log::error!("the guardian of process {pid} has died; the process goes with it");
        if let Err(error) = self.shared.plugin.kill() {
            log::error!("cannot kill process {pid}: {error}");
        }
        let mark = self.shared.mark.clone();
        let swept = tokio::task::spawn_blocking(move || mark.sweep()).await;
        if let Err(error) = swept.map_err(io::Error::from).and_then(|result| result) {
            log::error!("cannot find all that process {pid} has started: {error}");
        }
        let Ok(end) = self.shared.plugin.end() else { return Ok(()) };
        tokio::select! {
            biased;
            result = end.wait() => {
                if let Err(error) = result {
                    log::error!("cannot wait for process {pid}: {error}");
                }
                Ok(())
            }
            () = patience::pass(limit::KILL_TIMEOUT) => Err(Overdue { pid, ended: false }),
        }
    }
}

/// Something of a plugin cannot be killed.
#[derive(Clone, Copy, Debug, Error)]
#[error(
    "{} process {pid} has not ended {:?} after being killed: it waits inside the kernel, \
     usually for a file system or a device",
    if *ended { "what was started by" } else { "plugin" },
    limit::KILL_TIMEOUT
)]
struct Overdue {
    pid: u32,
    ended: bool,
}

/// Descendants that could not be killed.
#[derive(Debug, Error)]
#[error("process {pid} has left {} running", match count {
    0.. => format!("{count} processes of another user"),
    _ => "processes that cannot be listed, because /proc is not there,".to_owned(),
})]
struct Left {
    pid: u32,
    count: i64,
}

pub(super) async fn next_report(guardian: &AsyncFd<Guardian>) -> io::Result<Option<Report>> {
    loop {
        let mut ready = guardian.readable().await?;
        match guardian.get_ref().receive() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            result => return result,
        }
    }
}

/// Collects a guardian that is about to end.
pub(super) async fn end_guardian(guardian: &AsyncFd<Guardian>) -> io::Result<()> {
    let end = guardian.get_ref().end()?;
    end.wait().await?;
    guardian.get_ref().reap().map(drop)
}
