//! Plugins that fail, and what the broker makes of it: real processes, watched by their events.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod command;
mod zoo;

use std::fs;
use std::process::{Child, Stdio};

use command::{HELLO, Outcome, Place};
use plugbus::plugin::{self, Client};
use rustix::fs::{FileType, Mode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Plugins in Python: the id of each, its file, and the other lines of its table.
fn configuration(plugins: &[(&str, &str, &str)]) -> String {
    let table = |(id, file, rest): &(&str, &str, &str)| {
        format!("[plugins.{id}]\ncommand = [\"python3\", \"{file}\"]\n{rest}\n\n")
    };
    plugins.iter().map(table).collect()
}

/// Quick to restart.
const QUICK: &str = "lifecycle.backoff = { first = \"10ms\", max = \"10ms\" }";

/// Its process can be seen in what it answers; a call can be told to wait.
const WORKER: &str = r#"
import os, threading
import plugbus

plugin = plugbus.Plugin(os.environ["PLUGBUS_ID"])
count = 0

@plugin.method
def pid() -> int:
    "The process that answers."
    return os.getpid()

@plugin.method
def instance() -> str:
    "Which of the plugin's processes answers."
    return os.environ.get("PLUGBUS_INSTANCE", "-")

@plugin.method(idempotent=True)
def safe(first: int) -> int:
    "Waits if it is asked by the process with that number; may be called again."
    if first == os.getpid():
        print("safe waits", flush=True)
        threading.Event().wait()
    return os.getpid()

@plugin.method
def stuck() -> None:
    "Never returns."
    print("stuck", flush=True)
    threading.Event().wait()

plugin.run()
"#;

#[test]
fn a_call_in_flight_gets_its_verdict_and_later_ones_the_successor() {
    let text = configuration(&[("worker", "worker.py", QUICK)]);
    let place = Place::with(&[("plugbus.toml", &text), ("worker.py", WORKER)]);
    let mut serving = place.serve(&["up"]);
    let old: i64 = answer(&place, &["call", "worker.pid"]).parse().unwrap();

    let stuck = spawn(&place, &["call", "worker.stuck"]);
    serving.wait_for_line("stuck");
    let safe = spawn(&place, &["call", "worker.safe", &format!("first={old}")]);
    serving.wait_for_line("safe waits");
    kill(old);
    serving.wait_for("exited");
    // While it is away: these wait for its return.
    let held: Vec<Child> = (0..4).map(|_| spawn(&place, &["call", "worker.pid"])).collect();

    end(stuck).expect(7, &["SIGKILL"]);
    serving.wait_for("ready");
    let new: i64 = answer(&place, &["call", "worker.pid"]).parse().unwrap();
    assert_ne!(new, old);
    for call in held.into_iter().chain([safe]) {
        let outcome = end(call);
        outcome.expect(0, &[&new.to_string()]);
    }
    let why = why(&place, "worker");
    assert_eq!(why["plugin"]["generation"], 2);
    assert_eq!(why["plugin"]["restarts"], 1);
    assert_eq!(why["plugin"]["pid"], new);
    let went: Vec<_> = rows(&why).iter().map(|row| row[1].clone()).collect();
    assert_eq!(went, ["starting", "ready", "backing-off", "starting", "ready"]);
    assert!(rows(&why)[2][2].contains("signal 9"), "{why}");
    place.run(&["why", "worker"]).expect(0, &["worker is ready", "backing-off", "signal 9"]);
}

/// Hears of alerts, and says so.
const WATCHER: &str = r#"
import plugbus
plugin = plugbus.Plugin("watcher")

@plugin.on("plugbus.alert.>")
def on_alert(event):
    print("alert", event.topic, event.value["kind"], flush=True)

@plugin.method
def ping() -> str:
    "Answers."
    return "pong"

plugin.run()
"#;

#[test]
fn one_that_crashes_at_once_is_quarantined_tried_and_disabled_until_somebody_starts_it() {
    let lifecycle = r#"
        [plugins.crash.lifecycle]
        intensity = { restarts = 2, within = "1m" }
        alerts = { command = ["sh", "-c", "cat > told"] }
        [plugins.crash.lifecycle.backoff]
        first = "10ms"
        max = "10ms"
        stable = "1h"
        quarantine = "10ms"
        quarantine_max = "20ms"
        disable_after = 4
    "#;
    // The intensity of a plugin is its own, not that of the first in the file.
    let plugins = [("watcher", "watcher.py", QUICK), ("crash", "crash.py", lifecycle)];
    let text = configuration(&plugins);
    let crash = fs::read_to_string(zoo::file("crash_on_start.py")).unwrap();
    let files = [("plugbus.toml", &*text), ("watcher.py", WATCHER), ("crash.py", &crash)];
    let place = Place::with(&files);
    let told = place.path().join("told");
    rustix::fs::mknodat(rustix::fs::CWD, &told, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let mut serving = place.start(&["up"]);
    let mut went = Vec::new();
    while went.last().is_none_or(|state| state != "disabled") {
        let change = serving.wait_for("changed");
        if change["plugin"] == "crash" {
            went.push(change["to"].as_str().unwrap().to_owned());
        }
    }
    let expected = [
        "starting",
        "backing-off",
        "starting",
        "backing-off",
        "starting",
        "quarantined",
        "half-open",
        "quarantined",
        "half-open",
        "disabled",
    ];
    assert_eq!(went, expected);
    place.run(&["call", "crash.ping"]).expect(7, &["disabled", "this plugin never starts"]);
    place.run(&["call", "watcher.ping"]).expect(0, &["pong"]);
    place.run(&["why", "crash"]).expect(
        0,
        &["crash is disabled", "RuntimeError: this plugin never starts", "plugbus start crash"],
    );

    place.run(&["start", "crash"]).expect(1, &["crash is backing-off", "never starts"]);
    serving.wait_for_line("alert plugbus.alert.crash quarantined");
    serving.wait_for_line("alert plugbus.alert.crash disabled");
    // Alerts wait in the pipe until they are read.
    let mut alerts = String::new();
    while !alerts.contains(r#""kind":"disabled""#) {
        alerts += &fs::read_to_string(&told).unwrap();
    }

    fs::write(place.path().join("crash.py"), WORKER).unwrap();
    place.run(&["start", "crash"]).expect(0, &["is started", "ready"]);
    place.run(&["call", "crash.pid"]).expect(0, &[]);
    place.run(&["start", "crash"]).expect(0, &["is ready already"]);
    let why = why(&place, "crash");
    assert_eq!((&why["plugin"]["state"], &why["plugin"]["failures"]), (&"ready".into(), &0.into()));
}

#[test]
fn one_in_quarantine_serves_on_trial_when_somebody_starts_it() {
    let lifecycle = r#"
        [plugins.crash.lifecycle]
        intensity = { restarts = 1, within = "1m" }
        backoff = { first = "10ms", max = "10ms", stable = "1h", quarantine = "4m" }
    "#;
    let text = configuration(&[("crash", "crash.py", lifecycle)]);
    let crash = fs::read_to_string(zoo::file("crash_on_start.py")).unwrap();
    let place = Place::with(&[("plugbus.toml", &text), ("crash.py", &crash)]);
    let mut serving = place.start(&["up"]);
    let change = serving.wait_for_state("crash", "quarantined");
    assert!(change["next_try_ms"].as_u64().unwrap() > 100_000, "{change}");
    place.run(&["call", "crash.pid"]).expect(7, &["quarantined", "never starts"]);
    place.run(&["start", "crash"]).expect(1, &["crash is quarantined", "never starts"]);
    fs::write(place.path().join("crash.py"), WORKER).unwrap();
    place.run(&["start", "crash"]).expect(0, &["half-open"]);
    place.run(&["call", "crash.pid"]).expect(0, &[]);
    place.run(&["why", "crash"]).expect(0, &["crash is half-open"]);
}

#[test]
fn what_cannot_be_started_is_not_tried_again_and_the_others_serve() {
    let plugins = [
        ("import", "import.py", QUICK),
        ("wrong", "wrong.py", QUICK),
        ("tool", "worker.py", "requires.tools = [\"no-such-tool\"]"),
        ("worker", "worker.py", QUICK),
    ];
    let interpreter = zoo::file("missing_interpreter");
    let text = configuration(&plugins)
        + &format!("[plugins.zombie]\ncommand = [{interpreter:?}]\n")
        + "[plugins.nowhere]\ncommand = [\"no-such-program\"]\n";
    let place = Place::with(&[
        ("plugbus.toml", &text),
        ("import.py", "import no_such_module\n"),
        ("wrong.py", "def broken(:\n"),
        ("worker.py", WORKER),
    ]);
    let mut serving = place.start(&["up"]);
    let settled = serving.wait_for("serving");
    assert_eq!((&settled["plugins"], &settled["ready"]), (&6.into(), &1.into()));
    let cases = [
        ("import", "No module named 'no_such_module'"),
        ("wrong", "SyntaxError"),
        ("tool", "no-such-tool"),
        ("zombie", "/no/such/interpreter"),
        ("nowhere", "no-such-program"),
    ];
    for (plugin, reason) in cases {
        let why = why(&place, plugin);
        let report = &why["plugin"];
        assert_eq!((&report["state"], &report["restarts"]), (&"failed".into(), &0.into()), "{why}");
        let command = format!("plugbus start {plugin}");
        place.run(&["why", plugin]).expect(0, &["is failed", reason, &command]);
        place.run(&["call", &format!("{plugin}.pid")]).expect(7, &["failed", reason]);
    }
    place.run(&["call", "worker.pid"]).expect(0, &[]);

    fs::write(place.path().join("import.py"), WORKER).unwrap();
    place.run(&["start", "import"]).expect(0, &["ready"]);
}

#[test]
fn one_that_no_longer_answers_pings_is_killed_and_comes_back() {
    let health = "lifecycle = { health = { interval = \"50ms\", misses = 2 } }";
    let hang = zoo::file("hang.py");
    let text = configuration(&[("hang", hang.to_str().unwrap(), health)]);
    let place = Place::with(&[("plugbus.toml", &text)]);
    let mut serving = place.serve(&["up"]);
    let call = spawn(&place, &["call", "hang.work"]);
    serving.wait_for_line("hangs");
    let change = serving.wait_for_state("hang", "backing-off");
    let cause = change["cause"].as_str().unwrap();
    assert!(cause.contains("it hung: missed pings: 2"), "{cause}");
    end(call).expect(7, &["SIGKILL"]);
    serving.wait_for_state("hang", "ready");
    place.run(&["call", "hang.ping"]).expect(0, &["pong"]);
    place.run(&["why", "hang"]).expect(0, &["missed pings"]);
}

#[test]
fn one_that_ignores_every_request_to_end_is_killed_when_its_time_is_over() {
    let deaf = zoo::file("ignore_term.py");
    let grace = "lifecycle = { stop_grace = \"20ms\" }";
    let text = configuration(&[("deaf", deaf.to_str().unwrap(), grace)]);
    let place = Place::with(&[("plugbus.toml", &text)]);
    let mut serving = place.serve(&["up"]);
    let process = serving.plugin_ends().pop().unwrap();
    place.run(&["stop", "deaf"]).expect(0, &["is stopped", "stopped"]);
    process.wait();
    let exited = serving.wait_for("exited");
    assert_eq!(exited["expected"], true);
    place.run(&["call", "deaf.ping"]).expect(7, &["stopped"]);
    place.run(&["stop", "deaf"]).expect(0, &["is stopped already"]);
    place.run(&["start", "deaf"]).expect(0, &["ready"]);
    place.run(&["stop", "--force", "deaf"]).expect(0, &["is killed", "stopped"]);
}

#[test]
fn one_that_never_says_hello_is_killed_when_its_time_is_over() {
    let mute = zoo::file("never_hello.py");
    let timeout = "lifecycle = { start_timeout = \"100ms\" }";
    let text = configuration(&[("mute", mute.to_str().unwrap(), timeout)]);
    let place = Place::with(&[("plugbus.toml", &text)]);
    let mut serving = place.start(&["up"]);
    let change = serving.wait_for_state("mute", "backing-off");
    let cause = change["cause"].as_str().unwrap();
    assert!(cause.contains("not ready in time"), "{cause}");
    place.run(&["why", "mute"]).expect(0, &["not ready in time"]);
}

/// A tool that says its version when somebody has opened the gate.
const GATED_TOOL: &str = "#!/bin/sh\nread word < \"$GATE\"\necho gated-tool 1.2.3\n";

/// `up` in a place with the tool.
fn start_with_tool(place: &Place) -> command::Serving {
    let gate = place.path().join("gate");
    rustix::fs::mknodat(rustix::fs::CWD, &gate, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let path = format!("{}:{}", place.path().join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = place.command(&["up", "--json"]);
    command::Serving::start(command.env("PATH", path).env("GATE", gate))
}

#[test]
fn what_has_to_be_prepared_does_not_count_against_the_time_to_start() {
    let mute = zoo::file("never_hello.py");
    let quick =
        "lifecycle = { start_timeout = \"300ms\", backoff = { first = \"10ms\", max = \"10ms\" } }";
    let gated = "lifecycle.start_timeout = \"2s\"\nrequires.tools = [\"gated-tool >= 1\"]";
    let plugins = [("mute", mute.to_str().unwrap(), quick), ("worker", "worker.py", gated)];
    let text = configuration(&plugins);
    let files = [("plugbus.toml", &*text), ("worker.py", WORKER), ("bin/gated-tool", GATED_TOOL)];
    let place = Place::with(&files);
    let mut serving = start_with_tool(&place);
    // So many times 300 ms are more than 2 s.
    for _ in 0..8 {
        serving.wait_for_change("mute", "stopping", "backing-off");
        place.run(&["start", "mute", "--no-wait"]).expect(0, &[]);
    }
    fs::write(place.path().join("gate"), "open\n").unwrap();
    serving.wait_for_state("worker", "ready");
    let why = why(&place, "worker");
    let went: Vec<_> = rows(&why).iter().map(|row| row[1].clone()).collect();
    assert_eq!(went, ["starting", "ready"], "{why}");
}

#[test]
fn preparing_has_a_bound_of_its_own() {
    let gated = "lifecycle.prepare_timeout = \"100ms\"\nrequires.tools = [\"gated-tool >= 1\"]";
    let text = configuration(&[("worker", "worker.py", gated)]);
    let files = [("plugbus.toml", &*text), ("worker.py", WORKER), ("bin/gated-tool", GATED_TOOL)];
    let place = Place::with(&files);
    let mut serving = start_with_tool(&place);
    let change = serving.wait_for_state("worker", "backing-off");
    let cause = change["cause"].as_str().unwrap();
    assert!(cause.contains("not prepared within 100ms (prepare_timeout)"), "{cause}");
}

#[test]
fn one_that_uses_too_much_memory_or_descriptors_is_told_of_and_killed() {
    let limits = r#"lifecycle = { health = { interval = "50ms", fds = { alert = 40 },
        memory = { restart = "120M" } } }"#
        .replace('\n', "");
    let leak = zoo::file("leak.py");
    let plugins = [("watcher", "watcher.py", QUICK), ("leak", leak.to_str().unwrap(), &limits)];
    let text = configuration(&plugins);
    let place = Place::with(&[("plugbus.toml", &text), ("watcher.py", WATCHER)]);
    let mut serving = place.serve(&["up"]);
    let mut client = Caller::to(&place);
    for _ in 0..50 {
        client.call("leak.work", &json!({})).unwrap();
    }
    serving.wait_for_line("alert plugbus.alert.leak health");
    while client.call("leak.work", &json!({})).is_ok_and(|count| count != 1) {}
    let change = serving.wait_for_state("leak", "backing-off");
    let cause = change["cause"].as_str().unwrap();
    assert!(cause.contains("it hung: memory in bytes"), "{cause}");
}

/// The last one of several processes gets ready and ends when the others have done so long ago.
const UNEVEN: &str = r#"
import os, signal, time
import plugbus

plugin = plugbus.Plugin(os.environ["PLUGBUS_ID"])
is_last = os.environ["PLUGBUS_INSTANCE"] == "2"

@plugin.method
def instance() -> str:
    "Which of the plugin's processes answers."
    return os.environ["PLUGBUS_INSTANCE"]

if is_last:
    @plugin.signal("shutdown")
    def on_shutdown(_signal):
        "Nothing."
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(0.5)
plugin.start()
while True:
    signal.pause()
"#;

#[test]
fn a_command_waits_for_all_processes_of_a_plugin() {
    let rest = "instances = 3\nlifecycle.stop_grace = \"500ms\"";
    let text = configuration(&[("three", "three.py", rest)]);
    let place = Place::with(&[("plugbus.toml", &text), ("three.py", UNEVEN)]);
    let serving = place.serve(&["up"]);
    let states = |place: &Place| {
        let answer = answer(place, &["why", "three", "--json"]);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let instances = answer["instances"].as_array().unwrap().iter();
        let state = |it: &Value| it["plugin"]["state"].as_str().unwrap().to_owned();
        instances.map(state).collect::<Vec<_>>()
    };
    let first = serving.plugin_ends();
    assert_eq!(first.len(), 3);
    let stopped = place.run(&["stop", "three"]);
    stopped.expect(0, &["is stopped"]);
    assert_eq!(stopped.out.matches("three stopped").count(), 3, "{stopped:?}");
    assert!(first.iter().all(command::ProcessEnd::has_come), "all are gone");
    for command in ["start", "restart", "reload"] {
        let outcome = place.run(&[command, "three"]);
        outcome.expect(0, &[]);
        assert_eq!(outcome.out.matches("three ready").count(), 3, "{command}: {outcome:?}");
        assert_eq!(states(&place), ["ready"; 3], "{command}");
    }
    place.run(&["start", "three"]).expect(0, &["is ready already"]);
}

#[test]
fn one_ready_process_of_a_plugin_is_enough_for_those_that_need_it() {
    let text = configuration(&[
        ("pair", "pair.py", "instances = 2"),
        ("worker", "worker.py", "requires.plugins = { pair = \"*\" }"),
    ]);
    let first = "import os\nif os.environ['PLUGBUS_INSTANCE'] == '0':\n    import no_such_module\n";
    let pair = format!("{first}{WORKER}");
    let files = [("plugbus.toml", &*text), ("pair.py", &pair), ("worker.py", WORKER)];
    let place = Place::with(&files);
    let mut serving = place.start(&["up"]);
    serving.wait_for_state("worker", "ready");
    assert_eq!(why(&place, "pair")["plugin"]["state"], "failed", "the first one");
}

#[test]
fn names_that_are_wrong_are_answered_with_those_that_may_have_been_meant() {
    let text = configuration(&[("worker", "worker.py", QUICK)]);
    let place = Place::with(&[("plugbus.toml", &text), ("worker.py", WORKER)]);
    let _serving = place.serve(&["up"]);
    for command in ["start", "stop", "restart", "reload", "why"] {
        place.run(&[command, "wroker"]).expect(4, &["`wroker`", "did you mean `worker`?"]);
    }
    place.run(&["start", "worker"]).expect(0, &["worker is ready already"]);
}

/// A client in this process, for those calls that are many.
struct Caller {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Caller {
    fn to(place: &Place) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(plugin::connect_to(&place.socket())).unwrap();
        Self { runtime, client }
    }

    fn call(&mut self, method: &str, arguments: &Value) -> plugin::Result<Value> {
        self.runtime.block_on(self.client.call(method, arguments))
    }
}

fn spawn(place: &Place, arguments: &[&str]) -> Child {
    let mut command = place.command(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(child: Child) -> Outcome {
    Outcome::of(&child.wait_with_output().unwrap())
}

/// What a command printed that has to work.
#[track_caller]
fn answer(place: &Place, arguments: &[&str]) -> String {
    let outcome = place.run(arguments);
    outcome.expect(0, &[]);
    outcome.out.trim().to_owned()
}

fn kill(pid: i64) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

/// What `plugbus why` knows of the first process of a plugin.
#[track_caller]
fn why(place: &Place, plugin: &str) -> Value {
    let answer: Value = serde_json::from_str(&answer(place, &["why", plugin, "--json"])).unwrap();
    answer["instances"][0].clone()
}

/// The rows of its timeline: from, to, why.
fn rows(why: &Value) -> Vec<[String; 3]> {
    let rows = why["timeline"].as_array().unwrap().iter();
    rows.map(|row| ["from", "to", "cause"].map(|key| row[key].as_str().unwrap().to_owned()))
        .collect()
}

#[test]
fn a_reload_ends_when_the_successor_serves() {
    let place = Place::with(&[("hello.py", HELLO)]);
    let _serving = place.serve(&["run", "hello.py"]);
    place.run(&["reload", "hello"]).expect(0, &["its successor is ready", "its successor serves"]);
    place.run(&["call", "hello.greet", "name=Ann"]).expect(0, &["Hello Ann"]);
}
