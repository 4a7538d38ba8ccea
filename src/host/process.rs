//! A plugin process: started through its guardian, watched, stopped.
//!
//! Its death is known from the kernel and never guessed. Its guardian kills whatever it leaves
//! behind, whatever sessions and groups that has made, and reports when nothing is left; only then
//! has the process *ended* for those who wait here. What cannot be killed, because it waits inside
//! the kernel, is reported instead of waited for.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};

use super::error::{Failure, SpawnError};
use super::exit::{Exit, Usage};
use super::follow::{Ending, Follower, end_guardian, next_report};
use super::memory::OutOfMemory;
use super::output::{self, Stream};
use super::patience;
use super::program;
use super::spawner;
use super::spec::PluginSpec;
use crate::id::PluginId;
use crate::sys::guardian::{Guardian, Mark, Output, Plan, PluginProcess, Report, order};

/// A running plugin process. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    shared: Arc<Shared>,
    exit: watch::Receiver<Ending>,
}

impl Process {
    /// Starts the process; the other end of its connection is in the result. Every line that it
    /// prints goes to `sink`. Must be called in a tokio runtime.
    pub(crate) async fn start(
        spec: &PluginSpec,
        sink: impl Fn(Stream, &str) + Clone + Send + Sync + 'static,
    ) -> Result<(Self, UnixStream), SpawnError> {
        let id = PluginId::parse(spec.id()).map_err(SpawnError::Id)?;
        let system = |source| SpawnError::System { id: id.to_string(), source };
        let (ours, theirs) = UnixStream::pair().map_err(system)?;
        ours.set_nonblocking(true).map_err(system)?;
        let mark = Mark::new();
        let plan = plan(spec, &id, &mark)?;
        let program = plan.program.clone();
        let memory = OutOfMemory::now();
        let (guardian, output) = spawner::spawn(plan, theirs.into()).await.map_err(system)?;
        let guardian = guardian.watch().map_err(system)?;
        let plugin = match next_report(&guardian).await.map_err(system)? {
            Some(Report::Started { pid }) => PluginProcess::open(pid).map_err(system)?,
            Some(Report::Failed { step, errno, detail }) => {
                end_guardian(&guardian).await.map_err(system)?;
                return Err(Failure { step, errno, detail }.explain(spec, &id, program));
            }
            _ => {
                let gone = "its guardian ended before the plugin ran; did somebody kill it?";
                return Err(system(io::Error::other(gone)));
            }
        };
        guardian.get_ref().order(order::WATCHED).map_err(system)?;
        let known = Known { plugin, mark, memory };
        Ok((Self::watch(guardian, known, output, sink), ours))
    }

    fn watch(
        guardian: AsyncFd<Guardian>,
        Known { plugin, mark, memory }: Known,
        output: Output,
        sink: impl Fn(Stream, &str) + Clone + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            guardian,
            plugin,
            mark,
            killed: AtomicBool::new(false),
            killing: Notify::new(),
        });
        let ended = watch::Sender::new(None);
        let readers = [(Stream::Stdout, output.stdout), (Stream::Stderr, output.stderr)].map(
            |(stream, pipe)| tokio::spawn(read(stream, pipe, ended.subscribe(), sink.clone())),
        );
        let (told, exit) = watch::channel(Ending::default());
        let follower = Follower::new(Arc::clone(&shared), memory, told);
        tokio::spawn(follower.follow(ended, readers));
        Self { shared, exit }
    }

    /// Waits until the process and all that it left have ended, and all that was printed has been
    /// handed over. What cannot be killed ends here as [`Exit::Unkillable`], after
    /// [`KILL_TIMEOUT`](crate::limit::KILL_TIMEOUT).
    pub(crate) async fn exited(&self) -> Exit {
        self.end().await
    }

    /// As [`exited`](Self::exited), without keeping the process.
    pub(crate) fn end(&self) -> impl Future<Output = Exit> + use<> {
        let mut exit = self.exit.clone();
        async move {
            // The task that waits is gone only when the runtime shuts down.
            let ending = exit.wait_for(|ending| ending.exit.is_some()).await;
            ending.ok().and_then(|ending| ending.exit).unwrap_or(Exit::Unknown)
        }
    }

    /// Waits until really nothing is left, however long that takes.
    #[allow(dead_code, reason = "whoever starts it again has to wait for this")]
    pub(crate) fn gone(&self) -> impl Future<Output = ()> + use<> {
        let mut exit = self.exit.clone();
        async move {
            // As in `end`.
            let _gone = exit.wait_for(|ending| ending.gone).await.is_ok();
        }
    }

    /// How it ended, if it has.
    #[cfg(test)]
    pub(crate) fn exit(&self) -> Option<Exit> {
        self.exit.borrow().exit
    }

    /// What it used, when it has ended and that is known.
    #[allow(dead_code, reason = "part of what is told of an end")]
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.exit.borrow().usage
    }

    /// Its process id; after its end nobody's, or somebody else's.
    pub(crate) fn pid(&self) -> u32 {
        self.shared.plugin.pid()
    }

    /// The process id of its guardian.
    #[allow(dead_code, reason = "for tests, and for whoever shows what runs")]
    pub(crate) fn guardian_pid(&self) -> u32 {
        self.shared.guardian.get_ref().pid()
    }

    /// The later rungs of the ladder, for a process that has been told to end: wait for `notice`,
    /// ask the whole group for `term`, then kill it. Returns when it has ended.
    pub(crate) async fn stop(&self, notice: Duration, term: Duration) -> Exit {
        if let Some(exit) = self.exited_within(notice).await {
            return exit;
        }
        log::info!("process {} did not end within {notice:?}; terminating it", self.pid());
        self.shared.order(order::TERMINATE);
        if let Some(exit) = self.exited_within(term).await {
            return exit;
        }
        log::warn!("process {} did not end within {term:?}; killing it", self.pid());
        self.kill().await
    }

    async fn exited_within(&self, limit: Duration) -> Option<Exit> {
        tokio::select! {
            biased;
            exit = self.exited() => Some(exit),
            () = patience::pass(limit) => None,
        }
    }

    /// Kills the process and all its descendants at once.
    pub(crate) async fn kill(&self) -> Exit {
        self.shared.kill();
        self.exited().await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.shared.kill();
    }
}

/// What is known of a plugin that has just begun.
struct Known {
    plugin: PluginProcess,
    mark: Mark,
    memory: OutOfMemory,
}

fn plan(spec: &PluginSpec, id: &PluginId, mark: &Mark) -> Result<Plan, SpawnError> {
    let Some((program, arguments)) = spec.command_line().split_first() else {
        return Err(SpawnError::NoCommand(id.to_string()));
    };
    let mut environment = spec.whole_environment(id);
    environment.insert(Mark::NAME.into(), mark.value().into());
    let path = environment.get(OsStr::new("PATH")).map(OsString::as_os_str);
    let path = program::find(program, path)
        .map_err(|source| SpawnError::Program { id: id.to_string(), source })?;
    Ok(Plan {
        program: path,
        arguments: std::iter::once(program).chain(arguments).cloned().collect(),
        directory: spec.directory().map(ToOwned::to_owned),
        environment: environment.into_iter().collect(),
        limits: spec.limits().collect(),
        scan: spec.scans(),
    })
}

/// Hands on what the process prints.
async fn read(
    stream: Stream,
    pipe: OwnedFd,
    exit: watch::Receiver<Option<Exit>>,
    sink: impl Fn(Stream, &str),
) {
    if let Err(error) = output::read_lines(pipe, exit, |line| sink(stream, line)).await {
        log::warn!("cannot read what a plugin prints: {error}");
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) guardian: AsyncFd<Guardian>,
    pub(super) plugin: PluginProcess,
    pub(super) mark: Mark,
    /// Whether we have killed it.
    pub(super) killed: AtomicBool,
    pub(super) killing: Notify,
}

impl Shared {
    fn order(&self, order: u8) {
        if let Err(error) = self.guardian.get_ref().order(order) {
            log::error!("cannot reach guardian {}: {error}", self.guardian.get_ref().pid());
        }
    }

    /// Everything that ends the plugin, even where its guardian is stopped.
    fn kill(&self) {
        // Relaxed: it only chooses words.
        self.killed.store(true, Ordering::Relaxed);
        self.order(order::KILL);
        if let Err(error) = self.guardian.get_ref().wake().and_then(|()| self.plugin.kill()) {
            log::error!("cannot kill process {}: {error}", self.plugin.pid());
        }
        self.killing.notify_one();
    }
}
