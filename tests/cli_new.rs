//! `plugbus new`: what it writes runs, and passes the test that it writes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod command;

use std::fs;
use std::path::Path;
use std::process::Command;

use command::{Outcome, Place};

#[test]
fn a_new_python_plugin_passes_its_test() {
    let place = Place::new();
    place.run(&["new", "word-count"]).expect(
        0,
        &["word-count/plugin.toml", "plugbus run word_count.py", "plugbus call word-count.greet"],
    );
    let mut test = Command::new("python3");
    test.args(["-m", "unittest", "-v"]).current_dir(place.path().join("word-count"));
    Outcome::of(&for_tests(&mut test, &place).output().unwrap()).expect(0, &["Ran 2 tests", "OK"]);
}

#[test]
fn a_new_rust_plugin_passes_its_test() {
    let place = Place::new();
    place.run(&["--json", "new", "word-count", "--lang", "rust"]).expect(0, &["src/main.rs"]);
    let project = place.path().join("word-count");
    let ours = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The versions that this project was built with are the ones that are here.
    fs::copy(ours.join("Cargo.lock"), project.join("Cargo.lock")).unwrap();
    let mut test = Command::new(env!("CARGO"));
    test.args(["test", "--offline"])
        .current_dir(&project)
        .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("new-plugin"));
    Outcome::of(&for_tests(&mut test, &place).output().unwrap())
        .expect(0, &["greets_by_name_and_without ... ok"]);
}

#[test]
fn nothing_is_written_over_and_wrong_names_are_explained() {
    let place = Place::with(&[("taken/mine.txt", "precious")]);
    place.run(&["new", "taken"]).expect(6, &["taken exists already"]);
    assert_eq!(fs::read_to_string(place.path().join("taken/mine.txt")).unwrap(), "precious");
    place.run(&["new", "Word_Count"]).expect(2, &["is not a valid plugin id", "lower case"]);
    place.run(&["new", "x", "--lang", "cobol"]).expect(2, &["python", "rust"]);
}

fn for_tests<'a>(command: &'a mut Command, place: &Place) -> &'a mut Command {
    command
        .env("PLUGBUS", env!("CARGO_BIN_EXE_plugbus"))
        .env("XDG_RUNTIME_DIR", place.path().join("run"))
        .env("XDG_STATE_HOME", place.path().join("state"))
        .env_remove("PLUGBUS_SOCKET")
}
