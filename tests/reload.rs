//! A changed configuration, applied to plugins that run: real processes, told by `plugbus reload`
//! and by SIGHUP.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod command;
mod zoo;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Stdio};

use command::{Outcome, Place, Serving};
use rustix::fs::{FileType, Mode};
use rustix::process::Signal;
use serde_json::Value;

/// Says its words and its process; a call can be told to wait until a gate is opened.
const WORKER: &str = r#"
import os, sys
import plugbus

plugin = plugbus.Plugin(os.environ["PLUGBUS_ID"])

@plugin.method
def pid() -> int:
    "The process that answers."
    return os.getpid()

@plugin.method
def word() -> str:
    "What it was started with."
    return sys.argv[1] if len(sys.argv) > 1 else "nothing"

@plugin.method
def gated(gate: str) -> int:
    "Answers when somebody has opened the gate, a fifo."
    os.write(1, b"at the gate\n")
    open(gate).read()
    return os.getpid()

plugin.run()
"#;

/// The table of a plugin that runs `worker.py` with a word.
fn worker(id: &str, word: &str, rest: &str) -> String {
    format!("[plugins.{id}]\ncommand = [\"python3\", \"worker.py\", \"{word}\"]\n{rest}\n")
}

fn place(tables: &[String]) -> Place {
    Place::with(&[("plugbus.toml", &tables.concat()), ("worker.py", WORKER)])
}

fn configure(place: &Place, tables: &[String]) {
    fs::write(place.path().join("plugbus.toml"), tables.concat()).unwrap();
}

/// What a command printed that has to work.
#[track_caller]
fn answer(place: &Place, arguments: &[&str]) -> String {
    let outcome = place.run(arguments);
    outcome.expect(0, &[]);
    outcome.out.trim().to_owned()
}

#[track_caller]
fn pid(place: &Place, plugin: &str) -> i64 {
    answer(place, &["call", &format!("{plugin}.pid")]).parse().unwrap()
}

/// What a person can do to have the configuration read again.
#[derive(Clone, Copy, Debug)]
enum Way {
    Command,
    Hangup,
}

impl Way {
    const ALL: [Self; 2] = [Self::Command, Self::Hangup];

    /// Reloads; the report, or why it was refused.
    #[track_caller]
    fn reload(self, place: &Place, serving: &mut Serving) -> Result<Value, String> {
        match self {
            Self::Command => {
                let outcome = place.run(&["reload", "--json"]);
                match outcome.code {
                    Some(0) => Ok(serde_json::from_str(&outcome.out).unwrap()),
                    _ => Err(outcome.error),
                }
            }
            Self::Hangup => {
                serving.signal(Signal::HUP);
                let event = serving.wait_for_either("reloaded", "reload-failed");
                match event["reason"].as_str() {
                    Some(reason) => Err(reason.to_owned()),
                    None => Ok(event["report"].clone()),
                }
            }
        }
    }
}

fn names(report: &Value, row: &str) -> Vec<String> {
    let names = report[row].as_array().unwrap().iter();
    names.map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_is_new_starts_what_is_gone_ends_and_the_rest_is_not_touched() {
    for way in Way::ALL {
        // `base` comes before `top` by its name, and `top` needs it.
        let before = [
            worker("base", "x", ""),
            worker("top", "x", "requires.plugins = { base = \"*\" }"),
            worker("stay", "x", ""),
            worker("edit", "one", ""),
        ];
        let place = place(&before);
        let mut serving = place.serve(&["up"]);
        let (stay, edit) = (pid(&place, "stay"), pid(&place, "edit"));
        let gone = ["base", "top"].map(|id| command::ProcessEnd::of(pid(&place, id)));

        let after =
            [worker("edit", "two", ""), worker("stay", "x", ""), worker("fresh", "three", "")];
        configure(&place, &after);
        let report = way.reload(&place, &mut serving).unwrap();
        let rows = ["added", "removed", "replaced", "unchanged"].map(|row| names(&report, row));
        assert_eq!(rows.concat(), ["fresh", "base", "top", "edit", "stay"], "{way:?}");

        gone.iter().for_each(command::ProcessEnd::wait);
        while answer(&place, &["call", "edit.word"]) != "two" {}
        assert_ne!(pid(&place, "edit"), edit, "{way:?}");
        assert_eq!(answer(&place, &["call", "fresh.word"]), "three", "it is held until it is up");
        assert_eq!(pid(&place, "stay"), stay, "{way:?}");
        // They are supervised no longer, and missed like any other that has left.
        while !place.run(&["call", "base.pid"]).error.contains("`base` has no session") {}
        place.run(&["stop", "top"]).expect(4, &["no supervised plugin `top`"]);

        // The same again changes nothing.
        let report = way.reload(&place, &mut serving).unwrap();
        assert_eq!(names(&report, "unchanged").len(), 3, "{way:?}");
        assert_eq!(pid(&place, "stay"), stay, "{way:?}");
    }
}

#[test]
fn what_does_not_fit_together_changes_nothing() {
    for way in Way::ALL {
        let place = place(&[worker("base", "x", ""), worker("stay", "x", "")]);
        let mut serving = place.serve(&["up"]);
        let (base, stay) = (pid(&place, "base"), pid(&place, "stay"));
        let cases = [
            (worker("stay", "x", "requires.plugins = { base = \"*\" }"), "base"),
            (worker("stay", "x", "") + "[plugins.other]\nmanifest = \"none\"\n", "none"),
            (worker("stay", "x", "") + "[plugin]\n", "plugin"),
            (worker("stay", "x", "") + "[discover]\ndirs = [\"absent\"]\n", "absent"),
        ];
        for (text, reason) in cases {
            configure(&place, &[text]);
            let why = way.reload(&place, &mut serving).unwrap_err();
            assert!(why.contains(reason), "{way:?}: {why}");
        }
        assert_eq!((pid(&place, "base"), pid(&place, "stay")), (base, stay), "{way:?}");
    }
}

/// A folder that cannot be read is no empty folder: its plugins go on.
#[test]
fn an_unreadable_folder_refuses_a_reload_as_it_refuses_a_start() {
    let toml = "[discover]\ndirs = [\"plugins\"]\n";
    let manifest = "manifest = 1\nid = 'owl'\nrun.entry = 'main.py'\n";
    let files = [
        ("plugbus.toml", toml),
        ("plugins/owl/plugin.toml", manifest),
        ("plugins/owl/main.py", WORKER),
    ];
    let place = Place::with(&files);
    let mut serving = place.serve(&["up"]);
    let owl = pid(&place, "owl");
    fs::rename(place.path().join("plugins"), place.path().join("elsewhere")).unwrap();
    for way in Way::ALL {
        let why = way.reload(&place, &mut serving).unwrap_err();
        assert!(why.contains("cannot look for plugins in "), "{way:?}: {why}");
    }
    assert_eq!(pid(&place, "owl"), owl);
    let other = Place::with(&[("plugbus.toml", toml)]);
    other.run(&["up"]).expect(2, &["cannot look for plugins in "]);
}

#[test]
fn sighup_before_everything_is_up_reloads_and_ends_nothing() {
    let mute = zoo::file("never_hello.py");
    let mute = format!("[plugins.mute]\ncommand = [\"python3\", {mute:?}]\n");
    let place = place(std::slice::from_ref(&mute));
    let mut serving = place.start(&["up"]);
    serving.wait_for_state("mute", "starting");
    configure(&place, &[mute, worker("late", "x", "")]);
    let report = Way::Hangup.reload(&place, &mut serving).unwrap();
    assert_eq!(names(&report, "added"), ["late"]);
    assert_eq!(answer(&place, &["call", "late.word"]), "x");
}

/// In whatever state a plugin is, what it is started by reaches it when it changes.
#[test]
fn a_changed_command_reaches_a_plugin_in_every_state() {
    let quick = "backoff = { first = \"10ms\", max = \"10ms\", stable = \"1h\"";
    let crash = |rest: &str| {
        let file = zoo::file("crash_on_start.py");
        format!("[plugins.it]\ncommand = [\"python3\", {file:?}]\nlifecycle = {{ {rest} }}\n")
    };
    let quarantine =
        format!("{quick}, quarantine = \"4m\" }}, intensity = {{ restarts = 1, within = \"1m\" }}");
    let cases = [
        (
            "starting",
            format!("[plugins.it]\ncommand = [\"python3\", {:?}]\n", zoo::file("never_hello.py")),
        ),
        ("failed", "[plugins.it]\ncommand = [\"no-such-program\"]\n".to_owned()),
        ("quarantined", crash(&quarantine)),
        ("disabled", crash(&format!("{quick}, disable_after = 1 }}"))),
        (
            "backing-off",
            crash(
                "backoff = { first = \"9m\", max = \"9m\" }, intensity = { restarts = 9, within = \"1m\" }",
            ),
        ),
    ];
    for (state, table) in cases {
        let place = place(&[table]);
        let mut serving = place.start(&["up"]);
        let mut came = serving.wait_for_state("it", state);
        // The first restart of a crashed plugin comes without a delay.
        while state == "backing-off" && came["next_try_ms"].as_u64().unwrap() < 10_000 {
            came = serving.wait_for_state("it", state);
        }
        configure(&place, &[worker("it", "mended", "lifecycle.hold = \"1m\"")]);
        let report = Way::Command.reload(&place, &mut serving).unwrap();
        assert_eq!(names(&report, "replaced"), ["it"], "{state}");
        // The hold has changed too, so that the call waits for it.
        assert_eq!(answer(&place, &["call", "it.word"]), "mended", "{state}");
    }
}

#[test]
fn what_a_person_has_stopped_stays_so_and_starts_as_it_is_configured_then() {
    let place = place(&[worker("it", "one", ""), worker("base", "one", "")]);
    let mut serving = place.serve(&["up"]);
    place.run(&["stop", "it"]).expect(0, &[]);
    place.run(&["stop", "base"]).expect(0, &[]);
    configure(&place, &[worker("it", "two", "")]);
    let report = Way::Command.reload(&place, &mut serving).unwrap();
    assert_eq!(
        (names(&report, "replaced"), names(&report, "removed")),
        (vec!["it".into()], vec!["base".into()])
    );
    place.run(&["call", "it.word"]).expect(7, &["stopped"]);
    // One that was stopped and is gone is missed like any other that has left.
    place.run(&["call", "base.word"]).expect(7, &["`base` has no session"]);
    place.run(&["start", "it"]).expect(0, &["ready"]);
    assert_eq!(answer(&place, &["call", "it.word"]), "two");
}

/// The old process has not ended yet, and its successor under the name waits for that.
#[test]
fn a_plugin_that_is_removed_and_added_again_at_once_comes_back() {
    let deaf = zoo::file("ignore_term.py");
    let slow = format!(
        "[plugins.it]\ncommand = [\"python3\", {deaf:?}]\nlifecycle = {{ stop_grace = \"500ms\", hold = \"1m\" }}\n"
    );
    let place = place(&[slow, worker("other", "x", "")]);
    let mut serving = place.serve(&["up"]);
    let other = worker("other", "x", "");
    configure(&place, std::slice::from_ref(&other));
    let report = Way::Command.reload(&place, &mut serving).unwrap();
    assert_eq!(names(&report, "removed"), ["it"]);
    configure(&place, &[other, worker("it", "again", "lifecycle.hold = \"1m\"")]);
    let report = Way::Command.reload(&place, &mut serving).unwrap();
    assert_eq!(names(&report, "added"), ["it"]);
    serving.wait_for_plugin("exited", "it");
    assert_eq!(answer(&place, &["call", "it.word"]), "again");
}

/// It is finished by the process that has it, however long that takes.
#[test]
fn a_call_in_flight_is_finished_by_the_old_process() {
    for way in Way::ALL {
        let place = place(&[worker("it", "one", "")]);
        let gate = place.path().join("gate");
        rustix::fs::mknodat(rustix::fs::CWD, &gate, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let mut serving = place.serve(&["up"]);
        let old = pid(&place, "it");
        let call = spawn(&place, &["call", "it.gated", &format!("gate={}", gate.display())]);
        serving.wait_for_line("at the gate");
        configure(&place, &[worker("it", "two", "")]);
        way.reload(&place, &mut serving).unwrap();
        while answer(&place, &["call", "it.word"]) != "two" {}
        open(&gate);
        let outcome = Outcome::of(&call.wait_with_output().unwrap());
        outcome.expect(0, &[&old.to_string()]);
        command::ProcessEnd::of(pid(&place, "it"));
        assert_ne!(pid(&place, "it"), old);
    }
}

#[test]
fn a_replacement_that_fails_leaves_the_old_process_serving() {
    for way in Way::ALL {
        let place = place(&[worker("it", "one", "")]);
        let mut serving = place.serve(&["up"]);
        let old = pid(&place, "it");
        configure(&place, &["[plugins.it]\ncommand = [\"python3\", \"absent.py\"]\n".to_owned()]);
        let report = way.reload(&place, &mut serving).unwrap();
        assert_eq!(names(&report, "replaced"), ["it"]);
        let changed = serving.wait_for_change("it", "replacing", "ready");
        let cause = changed["cause"].as_str().unwrap();
        assert!(cause.contains("absent.py") && cause.contains("goes on serving"), "{cause}");
        assert_eq!(pid(&place, "it"), old);
        place.run(&["why", "it"]).expect(0, &["absent.py"]);
        // And what is mended then is taken.
        configure(&place, &[worker("it", "two", "")]);
        way.reload(&place, &mut serving).unwrap();
        while answer(&place, &["call", "it.word"]) != "two" {}
    }
}

#[test]
fn how_long_calls_are_held_follows_the_configuration() {
    let never = |hold: &str| {
        let file = zoo::file("never_hello.py");
        format!("[plugins.it]\ncommand = [\"python3\", {file:?}]\nlifecycle.hold = \"{hold}\"\n")
    };
    let place = place(&[never("10m")]);
    let mut serving = place.start(&["up"]);
    serving.wait_for_state("it", "starting");
    configure(&place, &[never("0s"), worker("other", "x", "lifecycle.hold = \"0s\"")]);
    Way::Command.reload(&place, &mut serving).unwrap();
    // Nobody waits any longer.
    place.run(&["call", "it.word"]).expect(7, &["`it`"]);
}

fn spawn(place: &Place, arguments: &[&str]) -> Child {
    let mut command = place.command(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn open(gate: &Path) {
    File::options().write(true).open(gate).unwrap().write_all(b"open").unwrap();
}
