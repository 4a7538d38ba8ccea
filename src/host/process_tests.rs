//! Real processes under their guardians. It is longer than most files: each way to go wrong is a
//! test.

use std::collections::BTreeSet;
use std::fs;
use std::future::poll_fn;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tokio::sync::mpsc;

use super::exit::Exit;
use super::output::Stream;
use super::process::Process;
use super::spec::{Limit, PluginSpec};
use zoo::Herd;

#[path = "../../tests/zoo/mod.rs"]
mod zoo;

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
        let (lines, mut received) = mpsc::channel(8);
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
        (PluginSpec::command("lost", ["true"]).dir("/no/such/dir"), "/no/such/dir does not exist"),
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
        let mut parent = again("host::process_tests::a_parent_to_be_killed").spawn().unwrap();
        let output = BufReader::new(parent.stdout.take().unwrap());
        let child = output
            .lines()
            .find_map(|line| line.unwrap().strip_prefix("child ").map(|pid| pid.parse().unwrap()))
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
    if std::env::var_os(AGAIN).is_none() {
        return;
    }
    let spec = PluginSpec::command("orphan", ["sh", "-c", "trap '' HUP TERM; sleep 1000"]);
    let (process, _socket) = Process::start(&spec, |_, _: &str| ()).await.unwrap();
    println!("\nchild {}", process.pid());
    std::future::pending().await
}

/// However a plugin ends, nobody stays whom it started: neither in its group, nor in another
/// session, nor as a daemon. The guardian finds them with and without the kernel's list.
#[tokio::test]
async fn descendants_end_with_the_plugin() {
    for (name, code) in
        [("fork_and_die.py", Some(7)), ("setsid_child.py", None), ("double_fork.py", None)]
    {
        for scan in [false, true] {
            let herd = Herd::new();
            let spec = animal(&herd, name);
            let spec = if scan { spec.scan() } else { spec };
            let (process, _socket, mut lines) = start(&spec).await;
            let descendant = started(&mut lines).await;
            let exit = match code {
                Some(_) => process.exited().await,
                None => process.kill().await,
            };
            let expected = code.map_or(Exit::Signal { number: 9, core: false }, Exit::Code);
            assert_eq!(exit, expected, "{name}");
            assert!(!Path::new(&format!("/proc/{descendant}")).exists(), "{name}, scan: {scan}");
            assert_eq!(herd.left(), Vec::<i32>::new(), "{name}");
        }
    }
}

/// Then the kernel kills the plugin, and what it started is found by its mark.
#[tokio::test]
async fn a_guardian_that_is_killed_takes_its_plugin_along() {
    for name in ["setsid_child.py", "double_fork.py"] {
        let herd = Herd::new();
        let (process, _socket, mut lines) = start(&animal(&herd, name)).await;
        started(&mut lines).await;
        signal(process.guardian_pid(), Signal::KILL);
        assert_eq!(process.exited().await, Exit::Unknown);
        process.gone().await;
        for pid in herd.left() {
            // Nobody of ours collects it any more.
            wait_for_end(pid.cast_unsigned());
        }
    }
}

/// Guardians do not listen to what usually ends a process, so that whoever signals everything that
/// he finds does not leave descendants behind.
#[tokio::test]
async fn a_guardian_ignores_polite_signals() {
    let herd = Herd::new();
    let (process, _socket, mut lines) = start(&animal(&herd, "setsid_child.py")).await;
    started(&mut lines).await;
    for polite in [Signal::HUP, Signal::INT, Signal::TERM, Signal::USR1, Signal::USR2] {
        signal(process.guardian_pid(), polite);
    }
    // It still obeys, and knows the status.
    assert_eq!(process.kill().await, Exit::Signal { number: 9, core: false });
    assert_eq!(herd.left(), Vec::<i32>::new());
}

#[tokio::test]
async fn a_guardian_that_is_stopped_is_woken_by_the_end_of_its_plugin() {
    let (process, _socket, mut lines) =
        start(&PluginSpec::command("s", ["sh", "-c", "echo ready; exec sleep 1000"])).await;
    lines.recv().await.unwrap();
    signal(process.guardian_pid(), Signal::STOP);
    signal(process.pid(), Signal::KILL);
    let exit = process.exited().await;
    // Another process of this system may be out of memory just now.
    assert!(matches!(exit, Exit::Killed | Exit::OutOfMemory), "{exit:?}");
    assert_eq!(exit.signal(), Some(9));
}

#[tokio::test]
async fn exits_are_told_apart() {
    let cases = [
        ("exit 0", Exit::Code(0)),
        ("exit 255", Exit::Code(255)),
        ("ulimit -c 0; kill -SEGV $$", Exit::Signal { number: 11, core: false }),
        ("kill -TERM $$", Exit::Signal { number: 15, core: false }),
    ];
    for (script, expected) in cases {
        let (exit, ..) = run(&PluginSpec::command("exits", ["sh", "-c", script])).await;
        assert_eq!(exit, expected, "{script}");
    }
}

#[tokio::test]
async fn what_a_plugin_used_is_known_afterwards() {
    let script = "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done";
    let (process, ..) = start(&PluginSpec::command("busy", ["sh", "-c", script])).await;
    process.exited().await;
    let usage = process.usage().unwrap();
    assert!(usage.memory_max >= 100 << 10, "{usage:?}");
    assert!(usage.processor > Duration::ZERO, "{usage:?}");
}

/// Here it is this test that holds the pipe, as a process that got it by other ways would.
#[tokio::test]
async fn an_open_pipe_does_not_delay_the_end() {
    let script = "echo ready; read line <&3; echo $line";
    let (process, mut socket, mut lines) =
        start(&PluginSpec::command("piped", ["sh", "-c", script])).await;
    assert_eq!(lines.recv().await.as_deref(), Some("ready"));
    let pipe = format!("/proc/{}/fd/1", process.pid());
    let pipe = fs::OpenOptions::new().write(true).open(pipe).unwrap();
    socket.write_all(b"bye\n").unwrap();
    assert_eq!(process.exited().await, Exit::Code(0));
    assert_eq!(lines.recv().await.as_deref(), Some("bye"), "what came before the end is not lost");
    drop(pipe);
}

/// Nor does one into which somebody else writes without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_that_is_written_for_ever_does_not_delay_the_end() {
    let script = "echo ready; read line <&3";
    let (process, mut socket, mut lines) =
        start(&PluginSpec::command("flooded", ["sh", "-c", script])).await;
    assert_eq!(lines.recv().await.as_deref(), Some("ready"));
    let pipe = format!("/proc/{}/fd/1", process.pid());
    let mut pipe = fs::OpenOptions::new().write(true).open(pipe).unwrap();
    let reading = tokio::spawn(async move { while lines.recv().await.is_some() {} });
    // Ends when nobody reads any more.
    let writing = std::thread::spawn(move || while pipe.write_all(b"noise\n").is_ok() {});
    socket.write_all(b"bye\n").unwrap();
    assert_eq!(process.exited().await, Exit::Code(0));
    writing.join().unwrap();
    drop(process);
    reading.await.unwrap();
}

#[tokio::test]
async fn a_plugin_that_uses_up_its_processor_time_is_told_why() {
    let spec = PluginSpec::command("busy", ["sh", "-c", "ulimit -c 0; while :; do :; done"])
        .limit(Limit::ProcessorTime, 1);
    let (exit, ..) = run(&spec).await;
    assert_eq!(exit.signal(), Some(24), "{exit}");
}

/// A tracer holds a process at its end as a device holds one inside the kernel: killed, and not to
/// be collected.
#[tokio::test]
async fn what_does_not_end_is_reported_and_may_end_later() {
    let (process, ..) = start(&PluginSpec::command("held", ["sleep", "1000"])).await;
    let script = "import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(0x4206, int(sys.argv[1]), None, None) != 0:
    sys.exit(f'cannot trace: {ctypes.get_errno()}')
print('holds', flush=True)
sys.stdin.read()";
    let mut tracer = Command::new("python3")
        .args(["-c", script, &process.pid().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(tracer.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "holds\n", "this test needs the permission to trace its own children");
    assert_eq!(process.kill().await, Exit::Unkillable);
    let mut gone = std::pin::pin!(process.gone());
    let is_gone = poll_fn(|context| Poll::Ready(gone.as_mut().poll(context).is_ready())).await;
    assert!(!is_gone);
    drop(tracer.stdin.take());
    tracer.wait().unwrap();
    gone.await;
    assert_eq!(process.exit(), Some(Exit::Signal { number: 9, core: false }));
}

#[tokio::test]
async fn limits_directory_and_loader_variables_are_the_plugins_alone() {
    let place = tempfile::tempdir().unwrap();
    let script = "ulimit -n; ulimit -c; pwd; echo $LD_LIBRARY_PATH; echo $PLUGBUS_INSTANCE";
    let spec = PluginSpec::command("limited", ["sh", "-c", script])
        .limit(Limit::OpenFiles, 77)
        .limit(Limit::CoreSize, 0)
        .dir(place.path())
        .env("LD_LIBRARY_PATH", "/plugin/only")
        .instance(4);
    let (_, _, lines) = run(&spec).await;
    let lines: Vec<_> = lines.iter().map(|(_, line)| line.as_str()).collect();
    let place = fs::canonicalize(place.path()).unwrap();
    assert_eq!(lines, ["77", "0", place.to_str().unwrap(), "/plugin/only", "4"]);

    let spec = PluginSpec::command("loader", ["sleep", "1000"]).env("LD_LIBRARY_PATH", "/only");
    let (process, ..) = start(&spec).await;
    let guardian = format!("/proc/{}/environ", process.guardian_pid());
    let environment = fs::read(guardian).unwrap();
    assert!(!environment.split(|&byte| byte == 0).any(|it| it.starts_with(b"LD_")));
}

#[tokio::test]
async fn a_limit_that_cannot_be_set_is_named() {
    // Above the system's own, which not even root may pass.
    let spec = PluginSpec::command("greedy", ["true"]).limit(Limit::OpenFiles, 1 << 40);
    let error = Process::start(&spec, |_, _: &str| ()).await.unwrap_err();
    assert!(error.is_permanent());
    let error = error.to_string();
    assert!(error.contains("nofile = 1099511627776 cannot be set"), "{error}");
}

/// In a process of its own, because others open descriptors meanwhile.
#[test]
fn starting_and_ending_leaves_no_descriptor_and_no_zombie() {
    let output = again("host::process_tests::fifty_starts").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("fifty starts, nothing left"), "{text}");
}

#[expect(clippy::print_stdout, reason = "this is how it speaks to the test above")]
#[tokio::test]
async fn fifty_starts() {
    if std::env::var_os(AGAIN).is_none() {
        return;
    }
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let mut before = 0;
    for round in 0..52 {
        // The first rounds make what is made once: the thread, the guardian's program, the driver.
        if round == 2 {
            before = open();
        }
        match round % 4 {
            0 => drop(run(&PluginSpec::command("quick", ["true"])).await),
            1 => {
                let (process, ..) = start(&PluginSpec::command("killed", ["sleep", "1000"])).await;
                process.kill().await;
            }
            2 => {
                let (process, ..) = start(&PluginSpec::command("dropped", ["sleep", "1000"])).await;
                let gone = process.gone();
                drop(process);
                gone.await;
            }
            _ => {
                let spec = PluginSpec::command("bad", [zoo::file("missing_interpreter")]);
                Process::start(&spec, |_, _: &str| ()).await.unwrap_err();
            }
        }
    }
    // What a task holds is closed when it ends, which is right after it told its news.
    for _ in 0..10_000 {
        if open() == before {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(open(), before);
    for thread in fs::read_dir("/proc/self/task").unwrap() {
        let children = thread.unwrap().path().join("children");
        assert_eq!(fs::read_to_string(children).unwrap_or_default(), "");
    }
    println!("\nfifty starts, nothing left");
}

/// Another spawn of the same test program, running one test.
fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", test]).env(AGAIN, "1").stdout(Stdio::piped());
    command
}

fn animal(herd: &Herd, name: &str) -> PluginSpec {
    PluginSpec::command("animal", ["python3".into(), zoo::file(name)])
        .env("PYTHONPATH", zoo::sdk())
        .env(Herd::VARIABLE, herd.value())
}

/// The process that an animal has started.
async fn started(lines: &mut mpsc::Receiver<String>) -> u32 {
    loop {
        let line = lines.recv().await.expect("an animal says whom it started");
        if let Some(pid) = line.strip_prefix("started ") {
            return pid.parse().unwrap();
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

async fn start(spec: &PluginSpec) -> (Process, UnixStream, mpsc::Receiver<String>) {
    let (lines, received) = mpsc::channel(64);
    let (process, socket) = Process::start(spec, move |_, line: &str| {
        // A test that floods reads only some of it.
        let _room = lines.try_send(line.to_owned()).is_ok();
    })
    .await
    .unwrap();
    (process, socket, received)
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

const AGAIN: &str = "PLUGBUS_TEST_AGAIN";
