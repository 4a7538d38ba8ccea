//! `plugbus logs`: what plugins printed, while a broker runs and after it has ended.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod command;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use command::{HELLO, Place};
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn logs_outlive_the_broker_and_can_be_followed() {
    let place = Place::with(&[("hello.py", HELLO)]);
    let serving = place.serve(&["run", "hello.py"]);
    let mut follow = place.command(&["--json", "logs", "-f", "-n", "1"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    // The line that was there already says that following has begun.
    let first = lines.next().unwrap().unwrap();
    assert!(first.contains("\"lifecycle\""), "{first}");
    place.run(&["call", "hello.greet", "name=Ann"]).expect(0, &["Hello Ann"]);
    let found = lines
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
        .find(|line| line["stream"] == "stdout")
        .unwrap();
    assert_eq!((&found["plugin"], &found["line"]), (&"hello".into(), &"greeting Ann".into()));
    follow.kill().unwrap();
    follow.wait().unwrap();
    serving.signal(Signal::TERM);
    assert_eq!(serving.end("exited").0, Some(0));

    let after = place.run(&["logs", "hello"]);
    after.expect(0, &["greeting Ann", "its process runs", "ready after", "as it was asked to"]);
    assert_eq!(place.run(&["logs", "-n", "1"]).out.lines().count(), 1);
}

#[test]
fn missing_logs_are_explained() {
    let place = Place::with(&[("hello.py", HELLO)]);
    place.run(&["logs"]).expect(4, &["there are no logs in /", "--socket names another broker"]);
    drop(place.serve(&["run", "hello.py"]));
    place.run(&["logs", "helo"]).expect(4, &["plugin `helo` has no logs", "`hello`"]);
}

#[test]
fn completions_are_made_for_the_common_shells() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        place.run(&["completions", shell]).expect(0, &["plugbus", "broadcast"]);
    }
    place.run(&["completions", "tcsh"]).expect(2, &["bash", "zsh", "fish"]);
}
