//! The demo proves what it shows, fails when it cannot, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod command;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use command::{Outcome, Place};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A place whose temporary files can be counted.
fn place() -> Place {
    let place = Place::new();
    fs::create_dir(place.path().join("tmp")).unwrap();
    place
}

fn command(place: &Place, arguments: &[&str]) -> std::process::Command {
    let mut command = place.command(arguments);
    command.env("TMPDIR", place.path().join("tmp")).env("NOTES", "/no/such/notes");
    command
}

fn left_behind(place: &Place) -> Vec<String> {
    let mut names: Vec<_> = [place.path().to_owned(), place.path().join("tmp")]
        .iter()
        .flat_map(|directory| fs::read_dir(directory).unwrap())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| name != "tmp");
    names
}

#[test]
fn every_line_of_the_demo_holds() {
    let place = place();
    let outcome = Outcome::of(&command(&place, &["demo", "--json"]).output().unwrap());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let lines: Vec<Value> =
        outcome.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (sum, steps) = lines.split_last().unwrap();
    let names: Vec<_> = steps.iter().map(|line| line["step"].as_str().unwrap()).collect();
    let expected = [
        "plugins",
        "files",
        "search",
        "calls",
        "events",
        "broadcast",
        "mistakes",
        "a death",
        "a reload",
        "orphans",
        "a stall",
        "speed",
        "the end",
    ];
    assert_eq!(names, expected);
    for step in steps {
        assert_eq!(step["passed"], true, "{step}");
        assert!(!step["text"].as_str().unwrap().is_empty(), "{step}");
    }
    assert_eq!((&sum["passed"], &sum["failed"]), (&expected.len().into(), &0.into()));

    let death = steps.iter().find(|step| step["step"] == "a death").unwrap();
    let outcomes = ["answered", "started", "possibly_started", "never_delivered", "offline"];
    let told: u64 = outcomes.iter().map(|name| death["facts"][name].as_u64().unwrap()).sum();
    assert_eq!(told, 2_000);
    assert!(left_behind(&place).is_empty(), "{:?}", left_behind(&place));
}

#[test]
fn without_python_the_demo_says_so_in_one_line() {
    let place = place();
    let outcome = Outcome::of(&command(&place, &["demo"]).env("PATH", "").output().unwrap());
    outcome.expect(1, &["python3 (3.9 or later)"]);
    assert_eq!(outcome.error.lines().count(), 1, "{outcome:?}");
    assert!(left_behind(&place).is_empty());
}

/// A Python that cannot run plugins is the simplest thing that breaks the demo.
#[test]
fn a_demo_that_cannot_start_fails_and_cleans_up() {
    let place = Place::with(&[("bin/python3", "#!/bin/sh\necho broken >&2\nexit 7\n")]);
    fs::create_dir(place.path().join("tmp")).unwrap();
    let outcome = Outcome::of(
        &command(&place, &["demo"]).env("PATH", place.path().join("bin")).output().unwrap(),
    );
    outcome.expect(1, &["plugin `", "exited with code 7", "broken"]);
    assert_eq!(left_behind(&place), ["bin"]);
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let place = place();
        let mut child =
            command(&place, &["demo", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.next().unwrap().unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let rest = lines.map(|line| line.unwrap()).filter(|line| line.contains("\"step\"")).count();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert!(rest < 10, "it went on");
        assert!(left_behind(&place).is_empty(), "{:?}", left_behind(&place));
    }
}

#[test]
fn the_example_is_unpacked_once() {
    let place = place();
    place.run(&["demo", "--unpack", "mine"]).expect(0, &["plugbus up mine"]);
    assert!(place.path().join("mine/extract.py").exists());
    place.run(&["demo", "--unpack", "mine"]).expect(1, &["cannot unpack to mine"]);
}
