//! The commands that talk to a broker, with a real one and a Python plugin.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod command;

use std::io::Write;
use std::process::Stdio;

use command::{HELLO, Outcome, Place, Serving};
use serde_json::{Value, json};

const WORKER: &str = r#"
import os, threading
from typing import List
import plugbus
plugin = plugbus.Plugin("worker")
lines = []

@plugin.method
def add(numbers: List[int], scale: float = 1) -> dict:
    """Adds numbers.

    And scales them."""
    return {"sum": sum(numbers) * scale}

@plugin.method
def fail():
    raise ValueError("no luck")

@plugin.method
def die():
    os._exit(9)

@plugin.method
def hang():
    threading.Event().wait()

@plugin.method
def received() -> list:
    return lines

@plugin.channel("inbox")
def on_inbox(message):
    lines.append(message.value)

def say(line):
    """Writes a line at once: handlers run side by side."""
    print(line + "\n", end="")

@plugin.on("note.>")
def on_note(event):
    say(f"noted {event.topic} {event.value}")

@plugin.signal("reload")
def on_reload(signal):
    say(f"reloads {signal.data}")

plugin.run()
"#;

fn serve() -> (Place, Serving) {
    let place = Place::with(&[("hello.py", HELLO), ("worker.py", WORKER)]);
    let serving = place.serve(&["run", "hello.py", "worker.py"]);
    (place, serving)
}

/// Each case: the words, the exit code, what is printed.
#[test]
fn calls_convert_arguments_and_explain_failures() {
    let (place, _serving) = serve();
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["hello.greet"], 0, &["Hello world\n"]),
        (&["hello.greet", "name=42", "times=2"], 0, &["Hello 42 Hello 42\n"]),
        (&["hello.greet", "{\"name\": \"Ann\"}"], 0, &["Hello Ann\n"]),
        (&["worker.add", "numbers=1", "numbers=2", "scale=0.5"], 0, &["\"sum\": 1.5"]),
        (&["worker.add", "numbers=[1,2]", "--json"], 0, &["{\"sum\":3}\n"]),
        (&["hello.greet", "times=two"], 2, &["`times` must be an integer, not \"two\"", "greet("]),
        (&["hello.greet", "tims=2"], 2, &["no argument `tims`", "did you mean `times`?"]),
        (&["hello.greet", "Ann"], 2, &["neither key=value nor a JSON object"]),
        (&["worker.add", "{\"numbers\": \"x\"}"], 2, &["numbers", "worker.add numbers="]),
        (&["hello"], 2, &["not PLUGIN.METHOD", "plugbus list hello"]),
        (&["hello.gret"], 4, &["did you mean `greet`?"]),
        (&["helo.greet"], 4, &["did you mean `hello`?"]),
        (&["worker.fail"], 1, &["ValueError: no luck"]),
        (&["worker.hang", "--timeout", "50ms"], 5, &["worker.hang"]),
        (&["worker.hang", "--timeout", "soon"], 2, &["--timeout"]),
        (&["worker.die"], 7, &["worker", "started"]),
        // It is back by itself, and who calls it meanwhile waits.
        (&["worker.add", "numbers=1"], 0, &["1"]),
    ];
    for (words, code, wanted) in cases {
        let words: Vec<_> = std::iter::once("call").chain(words.iter().copied()).collect();
        place.run(&words).expect(*code, wanted);
    }
    let outcome = place.run(&["call", "hello.gret", "--json"]);
    let error: Value = serde_json::from_str(&outcome.error).unwrap();
    assert_eq!(
        (&error["error"]["name"], &error["error"]["exit"]),
        (&json!("not-found"), &json!(4))
    );
}

#[test]
fn lists_and_status_tell_what_is_there() {
    let (place, _serving) = serve();
    place.run(&["list"]).expect(0, &["hello   ready  1 method", "worker  ready  5 methods"]);
    place.run(&["list", "worker"]).expect(
        0,
        &[
            "worker.add(numbers: list of integer, scale: number = 1",
            "And scales them.",
            "worker/inbox",
        ],
    );
    place.run(&["list", "worke"]).expect(4, &["did you mean `worker`?"]);
    place.run(&["status"]).expect(0, &["broker default", "worker  ready", "requests", "accepted"]);
    let status: Value = serde_json::from_str(&place.run(&["status", "--json"]).out).unwrap();
    assert_eq!(status["broker"], "default");
}

#[test]
fn lines_go_down_a_channel_in_order() {
    let (place, _serving) = serve();
    let lines: Vec<_> = (0..5_000).map(|number| format!("line {number}")).collect();
    std::fs::write(place.path().join("lines"), lines.join("\r\n")).unwrap();
    place.run(&["send", "worker", "lines"]).expect(0, &["5000 of 5000 messages were handled"]);

    let mut command = place.command(&["send", "worker/inbox", "-", "--json"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"last\n").unwrap();
    let outcome = Outcome::of(&child.wait_with_output().unwrap());
    outcome.expect(0, &["{\"given_up\":0,\"sent\":1}"]);

    let received = place.run(&["call", "worker.received", "--json"]).out;
    let received: Vec<String> = serde_json::from_str(&received).unwrap();
    assert_eq!(received[..5_000], lines);
    assert_eq!(received[5_000..], ["last"]);
    place.run(&["send", "worker/nothing", "lines"]).expect(4, &["no channel `nothing`"]);
    place.run(&["send", "worker", "none"]).expect(2, &["cannot read none"]);
}

#[test]
fn events_broadcasts_and_signals_arrive() {
    let (place, mut serving) = serve();
    place.run(&["publish", "note.first", "text=hi", "n=1"]).expect(0, &[]);
    place.run(&["publish", "note.second", "plain text"]).expect(0, &[]);
    place.run(&["signal", "worker", "reload", "{\"a\": 1}"]).expect(0, &[]);
    let mut lines: Vec<_> =
        (0..3).map(|_| serving.wait_for("output")["line"].as_str().unwrap().to_owned()).collect();
    // A signal may overtake events.
    lines.sort();
    let expected = [
        "noted note.first {'n': 1, 'text': 'hi'}",
        "noted note.second plain text",
        "reloads {'a': 1}",
    ];
    assert_eq!(lines, expected);
    place.run(&["broadcast", "note.all"]).expect(0, &[]);
    assert_eq!(serving.wait_for("output")["line"], "noted note.all None");
    place.run(&["publish", "two words"]).expect(2, &["not a valid topic"]);
    place.run(&["publish", "plugbus.mine"]).expect(6, &["plugbus"]);
    place.run(&["signal", "worker", "relaod"]).expect(2, &["did you mean `reload`?"]);
    place.run(&["signal", "work", "reload"]).expect(4, &["did you mean `worker`?"]);
}

/// Publishes until `tail`, which subscribes at a time of its own, has seen enough.
#[test]
fn tail_prints_what_is_published() {
    let (place, _serving) = serve();
    let mut command = place.command(&["tail", "beat.*", "--count", "2", "--json"]);
    let mut tail = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while tail.try_wait().unwrap().is_none() {
        place.run(&["publish", "beat.one", "n=7"]).expect(0, &[]);
    }
    let outcome = Outcome::of(&tail.wait_with_output().unwrap());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let events: Vec<Value> =
        outcome.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| event["topic"] == "beat.one" && event["payload"]["n"] == 7));
    place.run(&["tail", "a..b"]).expect(2, &["not a valid pattern"]);
}

#[test]
fn without_a_broker_it_is_said_how_to_start_one() {
    let place = Place::with(&[("plugbus.toml", "[broker]\nname = \"other\"\n")]);
    let socket = place.socket().display().to_string();
    let commands: &[&[&str]] = &[
        &["call", "hello.greet"],
        &["publish", "a"],
        &["tail"],
        &["send", "a", "plugbus.toml"],
        &["broadcast", "a"],
        &["signal", "a", "wake"],
        &["list"],
        &["status"],
    ];
    for command in commands {
        place.run(command).expect(3, &[&socket, "plugbus up", "plugbus run"]);
    }
    let serving = place.serve(&["up"]);
    place.run(&["list"]).expect(3, &["another one runs there: --socket", "other.sock"]);
    let other = place.socket().with_file_name("other.sock");
    place.run(&["list", "--socket", other.to_str().unwrap()]).expect(0, &["no plugins"]);
    drop(serving);
}
