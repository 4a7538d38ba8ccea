//! A plugin process: started, watched, stopped.
//!
//! Its death is known from the kernel and never guessed. When it ends, whatever it left in its
//! process group is killed before its status is collected: until then nobody else can have the
//! group's number.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::Signal;
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::timeout;

use super::exit::Exit;
use super::output::{self, Stream};
use super::program::{self, ProgramError};
use super::spawner;
use super::spec::PluginSpec;
use crate::error::Fault;
use crate::id::PluginId;
use crate::sys::process::{CHILD_SOCKET, Child, ChildOutput};

/// Why a plugin process could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The id is no plugin id.
    #[error(transparent)]
    Id(Fault),
    /// The command is empty.
    #[error("plugin `{0}` has an empty command")]
    NoCommand(String),
    /// The program cannot be executed.
    #[error("cannot start plugin `{id}`: {source}")]
    Program {
        /// Which plugin.
        id: String,
        /// Why.
        source: ProgramError,
    },
    /// The system lacks something.
    #[error("cannot start plugin `{id}`: {source}")]
    System {
        /// Which plugin.
        id: String,
        /// What it said.
        source: io::Error,
    },
}

/// A running plugin process. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    shared: Arc<Shared>,
    exit: watch::Receiver<Option<Exit>>,
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
        let (child, output) = spawn(spec, &id, theirs.into()).await?;
        let process = Self::watch(child, output, sink).map_err(system)?;
        Ok((process, ours))
    }

    fn watch(
        child: Child,
        output: ChildOutput,
        sink: impl Fn(Stream, &str) + Clone + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let child = child.watch()?;
        let shared = Arc::new(Shared { child, reaped: Mutex::new(false) });
        let ended = watch::Sender::new(None);
        let readers = [(Stream::Stdout, output.stdout), (Stream::Stderr, output.stderr)].map(
            |(stream, pipe)| tokio::spawn(read(stream, pipe, ended.subscribe(), sink.clone())),
        );
        let (told, exit) = watch::channel(None);
        tokio::spawn(wait(Arc::clone(&shared), ended, readers, told));
        Ok(Self { shared, exit })
    }

    /// Waits until the process has ended and all that it printed has been handed over.
    pub(crate) async fn exited(&self) -> Exit {
        self.end().await
    }

    /// As [`exited`](Self::exited), without keeping the process.
    pub(crate) fn end(&self) -> impl Future<Output = Exit> + use<> {
        let mut exit = self.exit.clone();
        async move {
            // The task that waits is gone only when the runtime shuts down.
            let exit = exit.wait_for(Option::is_some).await;
            exit.ok().and_then(|exit| *exit).unwrap_or(Exit::Unknown)
        }
    }

    /// How it ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Its process id; after its end nobody's, or somebody else's.
    pub(crate) fn pid(&self) -> u32 {
        self.shared.child.get_ref().pid()
    }

    /// The later rungs of the ladder, for a process that has been told to end: wait for `notice`,
    /// ask the whole group for `term`, then kill it. Returns when it has ended.
    pub(crate) async fn stop(&self, notice: Duration, term: Duration) -> Exit {
        if let Ok(exit) = timeout(notice, self.exited()).await {
            return exit;
        }
        log::info!("process {} did not end within {notice:?}; terminating it", self.pid());
        self.shared.signal_group(Signal::TERM);
        // One that is stopped could not hear the first signal.
        self.shared.signal_group(Signal::CONT);
        if let Ok(exit) = timeout(term, self.exited()).await {
            return exit;
        }
        log::warn!("process {} did not end within {term:?}; killing it", self.pid());
        self.kill().await
    }

    /// Kills the process and its group at once.
    pub(crate) async fn kill(&self) -> Exit {
        self.shared.signal_group(Signal::KILL);
        self.exited().await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.shared.signal_group(Signal::KILL);
    }
}

async fn spawn(
    spec: &PluginSpec,
    id: &PluginId,
    socket: OwnedFd,
) -> Result<(Child, ChildOutput), SpawnError> {
    let Some((program, arguments)) = spec.command_line().split_first() else {
        return Err(SpawnError::NoCommand(id.to_string()));
    };
    let unfit = |source| SpawnError::Program { id: id.to_string(), source };
    let path = program::find(program, spec.variable("PATH").as_deref()).map_err(unfit)?;
    let mut command = Command::new(&path);
    command.arg0(program).args(arguments);
    if let Some(dir) = spec.directory() {
        command.current_dir(dir);
    }
    command.env_remove("PLUGBUS_SOCKET");
    if spec.variable("PYTHONUNBUFFERED").is_none() {
        command.env("PYTHONUNBUFFERED", "1");
    }
    command.envs(spec.environment());
    command.env("PLUGBUS_FD", CHILD_SOCKET.to_string()).env("PLUGBUS_ID", id.as_str());
    spawner::spawn(command, socket)
        .await
        .map_err(|error| unfit(program::explain(&path, spec.directory(), error)))
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

/// Tells the end of the process twice: first to the readers of its output, then, when they have
/// read the rest, to everybody.
async fn wait(
    shared: Arc<Shared>,
    ended: watch::Sender<Option<Exit>>,
    readers: [tokio::task::JoinHandle<()>; 2],
    told: watch::Sender<Option<Exit>>,
) {
    let exit = shared.wait().await.unwrap_or_else(|error| {
        log::error!("cannot wait for process {}: {error}", shared.child.get_ref().pid());
        Exit::Unknown
    });
    ended.send_replace(Some(exit));
    for reader in readers {
        if let Err(error) = reader.await {
            log::error!("reading what a plugin printed failed: {error}");
        }
    }
    told.send_replace(Some(exit));
}

#[derive(Debug)]
struct Shared {
    child: AsyncFd<Child>,
    /// Locked while the group is signalled, so that its number is still its own.
    reaped: Mutex<bool>,
}

impl Shared {
    async fn wait(&self) -> io::Result<Exit> {
        loop {
            let mut ready = self.child.readable().await?;
            if !self.child.get_ref().has_ended()? {
                ready.clear_ready();
                continue;
            }
            let mut reaped = self.reaped.lock();
            self.child.get_ref().signal_group(Signal::KILL)?;
            let exit = self.child.get_ref().reap()?;
            *reaped = true;
            return Ok(exit.map_or(Exit::Unknown, Exit::from));
        }
    }

    fn signal_group(&self, signal: Signal) {
        let reaped = self.reaped.lock();
        if !*reaped && let Err(error) = self.child.get_ref().signal_group(signal) {
            log::error!("cannot signal process group {}: {error}", self.child.get_ref().pid());
        }
    }
}

/// Only a runtime that ends before the process gets here: the task that waits is gone.
impl Drop for Shared {
    fn drop(&mut self) {
        if !*self.reaped.get_mut()
            && let Err(error) = self.child.get_ref().kill_and_reap()
        {
            log::error!("cannot kill process {}: {error}", self.child.get_ref().pid());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::io::{BufRead, BufReader, Read};
    use std::process::Stdio;

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
