//! The `plugbus` command in a place of its own: its own socket, its own files.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;

/// A private directory with files, gone with the test.
pub struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let private = fs::Permissions::from_mode(0o700);
        Self { directory: tempfile::Builder::new().permissions(private).tempdir().unwrap() }
    }

    /// A place with files; names that begin with `bin/` are executable.
    pub fn with(files: &[(&str, &str)]) -> Self {
        let place = Self::new();
        for (name, text) in files {
            let path = place.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            let mode = if name.starts_with("bin/") { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        place
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where the default broker of this place listens.
    pub fn socket(&self) -> PathBuf {
        self.path().join("run/plugbus/default.sock")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plugbus"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env("XDG_RUNTIME_DIR", self.path().join("run"))
            .env("XDG_CACHE_HOME", self.path().join("cache"))
            .env("XDG_STATE_HOME", self.path().join("state"))
            .env_remove("PLUGBUS_SOCKET")
            .env_remove("PLUGBUS_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(&self.command(arguments).output().unwrap())
    }

    /// Starts a broker with these plugins and waits until they are ready.
    pub fn serve(&self, arguments: &[&str]) -> Serving {
        let mut serving = self.start(arguments);
        serving.wait_for("serving");
        serving
    }

    /// Starts a broker.
    pub fn start(&self, arguments: &[&str]) -> Serving {
        let mut command = self.command(arguments);
        Serving::start(command.arg("--json"))
    }
}

/// What a command printed, and its exit code.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub out: String,
    pub error: String,
}

impl Outcome {
    pub fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout.clone()).unwrap(),
            error: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    #[track_caller]
    pub fn expect(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for part in parts {
            let found = self.out.contains(part) || self.error.contains(part);
            assert!(found, "{part:?} is not in {self:?}");
        }
    }
}

/// `up` or `run` in the background, killed with the test.
pub struct Serving {
    child: Child,
    events: BufReader<ChildStdout>,
    seen: Vec<Value>,
}

impl Serving {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let events = BufReader::new(child.stdout.take().unwrap());
        Self { child, events, seen: Vec::new() }
    }

    /// The next event of a kind.
    #[track_caller]
    pub fn wait_for(&mut self, kind: &str) -> Value {
        self.wait_until(kind, |event| event["event"] == kind)
    }

    /// The next event of a kind about a plugin.
    #[track_caller]
    pub fn wait_for_plugin(&mut self, kind: &str, plugin: &str) -> Value {
        let wanted = format!("{kind} of {plugin}");
        self.wait_until(&wanted, |event| event["event"] == kind && event["plugin"] == plugin)
    }

    /// The next event of one of two kinds.
    #[track_caller]
    pub fn wait_for_either(&mut self, one: &str, other: &str) -> Value {
        let wanted = format!("{one} or {other}");
        self.wait_until(&wanted, |event| event["event"] == one || event["event"] == other)
    }

    /// The next time that a plugin goes from one state to another; the event that says so.
    #[track_caller]
    pub fn wait_for_change(&mut self, plugin: &str, from: &str, to: &str) -> Value {
        self.wait_until(&format!("{plugin} from {from} to {to}"), |event| {
            let is_it = event["event"] == "changed" && event["plugin"] == plugin;
            is_it && event["from"] == from && event["to"] == to
        })
    }

    /// The next line of a plugin that has this in it.
    #[track_caller]
    pub fn wait_for_line(&mut self, part: &str) -> String {
        let has_it = |line: &Value| line.as_str().is_some_and(|line| line.contains(part));
        let event = self.wait_until(part, |it| it["event"] == "output" && has_it(&it["line"]));
        event["line"].as_str().unwrap().to_owned()
    }

    /// The next time that a plugin gets into a state; the event that says so.
    #[track_caller]
    pub fn wait_for_state(&mut self, plugin: &str, state: &str) -> Value {
        self.wait_until(&format!("{plugin} {state}"), |event| {
            event["event"] == "changed" && event["plugin"] == plugin && event["to"] == state
        })
    }

    #[track_caller]
    fn wait_until(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        while let Some(event) = self.next() {
            if is_it(&event) {
                return event;
            }
        }
        let mut error = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        panic!("no event {what} after {:?}; {error}", self.seen);
    }

    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        if self.events.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        let event: Value = serde_json::from_str(&line).unwrap();
        self.seen.push(event.clone());
        Some(event)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; its exit code and the events of a kind, the plugin of each.
    pub fn end(mut self, kind: &str) -> (Option<i32>, Vec<String>) {
        while self.next().is_some() {}
        let code = self.child.wait().unwrap().code();
        let events = self.seen.iter().filter(|event| event["event"] == kind);
        (code, events.map(|event| event["plugin"].as_str().unwrap().to_owned()).collect())
    }

    /// Processes of the plugins, as far as their starts have been read.
    pub fn plugin_ends(&self) -> Vec<ProcessEnd> {
        let started = self.seen.iter().filter(|event| event["event"] == "started");
        started.map(|event| ProcessEnd::of(event["pid"].as_i64().unwrap())).collect()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Watches a process that is not our child.
pub struct ProcessEnd(rustix::fd::OwnedFd);

impl ProcessEnd {
    pub fn of(pid: i64) -> Self {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        Self(pidfd_open(pid, PidfdFlags::empty()).unwrap())
    }

    /// Whether it has ended.
    pub fn has_come(&self) -> bool {
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&now)).unwrap() == 1
    }

    /// Returns when it has ended.
    pub fn wait(&self) {
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None).unwrap();
    }
}

/// A Python plugin with a method, a channel and an event.
pub const HELLO: &str = r#"
import plugbus
plugin = plugbus.Plugin("hello")

@plugin.method
def greet(name: str = "world", times: int = 1) -> str:
    "Say hello."
    print("greeting", name)
    return " ".join([f"Hello {name}"] * times)

plugin.run()
"#;
