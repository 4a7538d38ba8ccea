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
use tokio::time::timeout;

use super::error::{Failure, SpawnError};
use super::exit::{Exit, Usage};
use super::follow::{Ending, Follower, end_guardian, next_report};
use super::memory::OutOfMemory;
use super::output::{self, Stream};
use super::program;
use super::spawner;
use super::spec::PluginSpec;
use crate::id::PluginId;
use crate::sys::guardian::{Guardian, Output, Plan, PluginProcess, Report, order};

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
        let plan = plan(spec, &id)?;
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
        Ok((Self::watch(guardian, plugin, output, memory, sink), ours))
    }

    fn watch(
        guardian: AsyncFd<Guardian>,
        plugin: PluginProcess,
        output: Output,
        memory: OutOfMemory,
        sink: impl Fn(Stream, &str) + Clone + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            guardian,
            plugin,
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
        if let Ok(exit) = timeout(notice, self.exited()).await {
            return exit;
        }
        log::info!("process {} did not end within {notice:?}; terminating it", self.pid());
        self.shared.order(order::TERMINATE);
        if let Ok(exit) = timeout(term, self.exited()).await {
            return exit;
        }
        log::warn!("process {} did not end within {term:?}; killing it", self.pid());
        self.kill().await
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

fn plan(spec: &PluginSpec, id: &PluginId) -> Result<Plan, SpawnError> {
    let Some((program, arguments)) = spec.command_line().split_first() else {
        return Err(SpawnError::NoCommand(id.to_string()));
    };
    let environment = spec.whole_environment(id);
    let path = environment.get(OsStr::new("PATH")).map(OsString::as_os_str);
    let path = program::find(program, path)
        .map_err(|source| SpawnError::Program { id: id.to_string(), source })?;
    Ok(Plan {
        program: path,
        arguments: std::iter::once(program).chain(arguments).cloned().collect(),
        directory: spec.directory().map(ToOwned::to_owned),
        environment: environment.into_iter().collect(),
        limits: spec.limits().collect(),
        scan: false,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Command, Stdio};

    use parking_lot::Mutex;
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[tokio::test]
    async fn a_plugin_finds_its_socket_on_descriptor_3_and_its_lines_are_captured() {
        let script = "echo $PLUGBUS_FD $PLUGBUS_ID $COLOUR; echo no >&2; printf ping >&3; exit 3";
        let spec = PluginSpec::command("echo-1", ["sh", "-c", script]).env("COLOUR", "blue");
        let (exit, mut socket, lines) = run(&spec).await;
        assert_eq!(exit, Exit::Code(3));
        let lines: BTreeSet<_> = lines.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(lines, BTreeSet::from(["3 echo-1 blue", "no"]));
        socket.set_nonblocking(false).unwrap();
        let mut bytes = String::new();
        socket.read_to_string(&mut bytes).unwrap();
        assert_eq!(bytes, "ping");
    }

    #[tokio::test]
    async fn a_plugin_inherits_three_streams_and_the_socket_and_nothing_else() {
        let file = fs::File::open("/dev/null").unwrap();
        let leaky = rustix::io::dup(&file).unwrap();
        let script = "n=0; while [ $n -lt 300 ]; do
                          [ -e /proc/$$/fd/$n ] && echo $n; n=$((n + 1))
                      done";
        let (_, _, lines) = run(&PluginSpec::command("fds", ["sh", "-c", script])).await;
        let open: Vec<_> = lines.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(open, ["0", "1", "2", "3"]);
        drop(leaky);
    }

    #[tokio::test]
    async fn what_is_left_of_a_group_ends_with_its_leader() {
        let spec = PluginSpec::command("leaver", ["sh", "-c", "sleep 1000 & echo $!"]);
        let (exit, _socket, lines) = run(&spec).await;
        assert_eq!(exit, Exit::Code(0));
        wait_for_end(lines[0].1.parse().unwrap());
    }

    #[tokio::test]
    async fn the_ladder_ends_what_does_not_listen() {
        // The first hears SIGTERM; the second ignores it; the third is stopped and has to be woken.
        let cases = [
            ("sleep 1000 & echo ready; wait", 15),
            ("trap '' TERM; echo ready; while :; do sleep 1000; done", 9),
            ("echo ready; kill -STOP $$", 15),
        ];
        for (script, number) in cases {
            let (lines, mut received) = tokio::sync::mpsc::channel(8);
            let spec = PluginSpec::command("deaf", ["sh", "-c", script]);
            let (process, _socket) = Process::start(&spec, move |_, line: &str| {
                lines.try_send(line.to_owned()).unwrap();
            })
            .await
            .unwrap();
            assert_eq!(received.recv().await.as_deref(), Some("ready"));
            let term = if number == 9 { Duration::ZERO } else { Duration::from_secs(3_600) };
            let exit = process.stop(Duration::ZERO, term).await;
            assert_eq!(exit, Exit::Signal { number, core: false }, "{script}");
            assert_eq!(process.exit(), Some(exit));
        }
    }

    #[tokio::test]
    async fn a_dropped_process_ends() {
        let spec = PluginSpec::command("dropped", ["sleep", "1000"]);
        let (process, _socket) = Process::start(&spec, |_, _: &str| ()).await.unwrap();
        let pid = process.pid();
        drop(process);
        wait_for_end(pid);
    }

    #[tokio::test]
    async fn a_start_that_fails_says_why_and_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let script = place.path().join("script");
        fs::write(&script, "#!/no/such/interpreter\n").unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let cases = [
            (PluginSpec::command("Bad", ["true"]), "\"Bad\" is not a valid plugin id"),
            (PluginSpec::command("empty", [""; 0]), "plugin `empty` has an empty command"),
            (PluginSpec::command("none", ["no-such-program"]), "no program \"no-such-program\""),
            (
                PluginSpec::command("lost", ["true"]).dir("/no/such/dir"),
                "/no/such/dir does not exist",
            ),
            (PluginSpec::command("script", [&script]), "wants \"/no/such/interpreter\" to run it"),
        ];
        for (spec, wanted) in cases {
            let error = Process::start(&spec, |_, _: &str| ()).await.unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    /// The parent is this test program again, running the test below.
    #[test]
    fn a_killed_parent_leaves_no_child() {
        for _ in 0..5 {
            let mut parent = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture", "host::process::tests::a_parent_to_be_killed"])
                .env(PARENT, "1")
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let output = BufReader::new(parent.stdout.take().unwrap());
            let child = output
                .lines()
                .find_map(|line| {
                    line.unwrap().strip_prefix("child ").map(|pid| pid.parse().unwrap())
                })
                .expect("the parent says whom it started");
            let pidfd = pidfd_open(Pid::from_raw(child).unwrap(), PidfdFlags::empty()).unwrap();
            parent.kill().unwrap();
            parent.wait().unwrap();
            poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
        }
    }

    #[expect(clippy::print_stdout, reason = "this is how it speaks to the test above")]
    #[tokio::test]
    async fn a_parent_to_be_killed() {
        if std::env::var_os(PARENT).is_none() {
            return;
        }
        let spec = PluginSpec::command("orphan", ["sh", "-c", "trap '' HUP TERM; sleep 1000"]);
        let (process, _socket) = Process::start(&spec, |_, _: &str| ()).await.unwrap();
        println!("\nchild {}", process.pid());
        std::future::pending().await
    }

    async fn run(spec: &PluginSpec) -> (Exit, UnixStream, Vec<(Stream, String)>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let (process, socket) = Process::start(spec, move |stream, line: &str| {
            sink.lock().push((stream, line.to_owned()));
        })
        .await
        .unwrap();
        let exit = process.exited().await;
        let lines = std::mem::take(&mut *lines.lock());
        (exit, socket, lines)
    }

    /// Returns when the process has ended; a zombie that nobody collects has.
    fn wait_for_end(pid: u32) {
        let pid = Pid::from_raw(pid.cast_signed()).unwrap();
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => drop(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap()),
            Err(error) => assert_eq!(error, rustix::io::Errno::SRCH),
        }
    }

    const PARENT: &str = "PLUGBUS_TEST_PARENT";
}
