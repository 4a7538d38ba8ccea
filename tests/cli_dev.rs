//! `plugbus dev` and what `up` does with watched folders, with real plugin processes; and the live
//! table on a terminal.

mod command;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use command::{Place, Serving};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

/// A plugin that answers with a word.
fn plugin(id: &str, word: &str) -> String {
    format!(
        "import plugbus\nplugin = plugbus.Plugin({id:?})\n\n\
         @plugin.method\ndef say() -> str:\n    return {word:?}\n\nplugin.run()\n"
    )
}

fn manifest(id: &str) -> String {
    format!("manifest = 1\nid = '{id}'\nrun.entry = 'main.py'\n")
}

/// Waits for a change of a plugin's state.
fn wait_for_change(serving: &mut Serving, from: &str, to: &str) -> Value {
    loop {
        let event = serving.wait_for("changed");
        if event["from"] == from && event["to"] == to {
            return event;
        }
    }
}

#[track_caller]
fn says(place: &Place, plugin: &str, word: &str) {
    let outcome = place.run(&["call", &format!("{plugin}.say")]);
    assert_eq!((outcome.code, outcome.out.trim()), (Some(0), word), "{outcome:?}");
}

#[test]
fn an_edited_file_replaces_its_plugin_and_a_broken_one_does_not() {
    let place = Place::with(&[("hello.py", &plugin("hello", "one"))]);
    let mut serving = place.serve(&["dev", "hello.py"]);
    says(&place, "hello", "one");
    let more = "@plugin.method\ndef more() -> int:\n    return 1\n\nplugin.run()";
    let text = plugin("hello", "two").replace("plugin.run()", more);
    fs::write(place.path().join("hello.py"), text).unwrap();
    assert_eq!(serving.wait_for("edited")["files"][0], "hello.py");
    let changed = wait_for_change(&mut serving, "replacing", "ready");
    assert_eq!(changed["cause"], "its successor serves");
    let compared = serving.wait_for("compared");
    assert_eq!(compared["difference"]["methods_added"][0], "more", "{compared}");
    says(&place, "hello", "two");

    fs::write(place.path().join("hello.py"), "def oops(:\n").unwrap();
    let changed = wait_for_change(&mut serving, "replacing", "ready");
    let cause = changed["cause"].as_str().unwrap();
    assert!(cause.contains("SyntaxError") && cause.contains("goes on serving"), "{cause}");
    says(&place, "hello", "two");

    fs::write(place.path().join("hello.py"), plugin("hello", "three")).unwrap();
    let changed = wait_for_change(&mut serving, "replacing", "ready");
    assert_eq!(changed["cause"], "its successor serves");
    says(&place, "hello", "three");
    serving.signal(Signal::INT);
    assert_eq!(serving.end("exited").0, Some(0));
}

#[test]
fn a_plugin_that_did_not_start_is_started_when_it_is_mended() {
    let place = Place::with(&[("hello.py", "def oops(:\n")]);
    let mut serving = place.serve(&["dev", "hello.py"]);
    fs::write(place.path().join("hello.py"), plugin("hello", "mended")).unwrap();
    serving.wait_for("ready");
    says(&place, "hello", "mended");
}

#[test]
fn programs_of_a_configuration_and_the_configuration_are_watched() {
    let table = |id: &str| format!("[plugins.{id}]\ncommand = ['python3', '{id}.py']\n");
    let place = Place::with(&[
        ("plugbus.toml", &table("ant")),
        ("ant.py", &plugin("ant", "one")),
        ("bee.py", &plugin("bee", "one")),
    ]);
    let mut serving = place.serve(&["dev"]);
    fs::write(place.path().join("plugbus.toml"), table("ant") + &table("bee")).unwrap();
    let reloaded = serving.wait_for("reloaded");
    assert_eq!(reloaded["report"]["added"][0], "bee", "{reloaded}");
    assert_eq!(serving.wait_for("ready")["plugin"], "bee");

    fs::write(place.path().join("bee.py"), plugin("bee", "two")).unwrap();
    let edited = serving.wait_for("edited");
    assert_eq!((&edited["plugin"], &edited["files"][0]), (&"bee".into(), &"bee.py".into()));
    let changed = wait_for_change(&mut serving, "replacing", "ready");
    assert_eq!(changed["plugin"], "bee", "only that one is replaced");
    says(&place, "bee", "two");

    fs::write(place.path().join("plugbus.toml"), "[plugin.ant]\n").unwrap();
    let broken = serving.wait_for("broken");
    assert!(broken["reason"].as_str().unwrap().contains("plugbus.toml:1:"), "{broken}");
    says(&place, "bee", "two");
}

#[test]
fn plugins_come_and_go_with_their_folders_and_broken_ones_change_nothing() {
    let place = Place::with(&[
        ("plugins/ant/plugin.toml", &manifest("ant")),
        ("plugins/ant/main.py", &plugin("ant", "one")),
    ]);
    let mut serving = place.serve(&["up", "plugins"]);
    let folder = place.path().join("plugins/bee");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("main.py"), plugin("bee", "one")).unwrap();
    fs::write(folder.join("plugin.toml"), manifest("bee")).unwrap();
    let reloaded = serving.wait_for("reloaded");
    let report = &reloaded["report"];
    assert_eq!((&report["added"][0], &report["unchanged"][0]), (&"bee".into(), &"ant".into()));
    assert_eq!(serving.wait_for("ready")["plugin"], "bee");

    fs::write(folder.join("plugin.toml"), "manifest = 1\nid = 'bee'\nrun = 3\n").unwrap();
    let broken = serving.wait_for("broken");
    assert!(broken["reason"].as_str().unwrap().contains("bee/plugin.toml:3:"), "{broken}");
    says(&place, "bee", "one");

    let text = manifest("bee") + "version = '2.0.0'\n";
    fs::write(folder.join("plugin.toml"), text).unwrap();
    let reloaded = serving.wait_for("reloaded");
    assert_eq!(reloaded["report"]["replaced"][0], "bee", "{reloaded}");
    wait_for_change(&mut serving, "replacing", "ready");

    fs::remove_dir_all(&folder).unwrap();
    let reloaded = serving.wait_for("reloaded");
    assert_eq!(reloaded["report"]["removed"][0], "bee", "{reloaded}");
    says(&place, "ant", "one");
}

#[test]
fn a_sleeping_plugin_is_woken_by_a_signal_and_status_shows_its_supervision() {
    let place = Place::with(&[
        ("plugbus.toml", "[plugins.owl]\ncommand = ['python3', 'owl.py']\nlifecycle.lazy = true\n"),
        ("owl.py", &plugin("owl", "awake")),
    ]);
    let mut serving = place.serve(&["up"]);
    place.run(&["status"]).expect(0, &["sleeping for"]);
    place.run(&["signal", "owl", "wake"]).expect(0, &[]);
    assert_eq!(serving.wait_for("ready")["plugin"], "owl");
    wait_for_change(&mut serving, "starting", "ready");
    let status: Value = serde_json::from_str(&place.run(&["status", "--json"]).out).unwrap();
    let owl = &status["supervised"][0];
    assert_eq!((&owl["id"], &owl["state"]), (&"owl".into(), &"ready".into()), "{status}");
}

#[test]
fn a_terminal_gets_a_table_below_the_lines_and_is_clean_at_the_end() {
    let place = Place::with(&[("hello.py", &plugin("hello", "one"))]);
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&near).unwrap();
    unlockpt(&near).unwrap();
    let name = ptsname(&near, Vec::new()).unwrap();
    let far = fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let mut command = place.command(&["run", "hello.py"]);
    command.env("TERM", "xterm").env_remove("NO_COLOR");
    command.stdout(OwnedFd::from(far.try_clone().unwrap())).stderr(OwnedFd::from(far));
    let mut child = command.spawn().unwrap();
    drop(command);

    let mut near = fs::File::from(near);
    let mut screen = Vec::new();
    let mut buffer = [0; 4096];
    let mut is_told = false;
    // The end of the last process on the other side is an error on this one.
    while let Ok(count @ 1..) = near.read(&mut buffer) {
        screen.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&screen);
        let is_ready = text
            .lines()
            .any(|line| line.starts_with("hello ") && line.contains("\x1b[32mready\x1b[0m"));
        if is_ready && !is_told {
            kill_process(Pid::from_child(&child), Signal::INT).unwrap();
            is_told = true;
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let text = String::from_utf8(screen).unwrap();
    assert!(is_told, "{text:?}");
    assert!(text.contains("\x1b[1mPLUGIN\x1b[0m"), "{text:?}");
    assert!(text.ends_with("\x1b[J"), "the table is taken away at the end: {text:?}");
    assert_eq!(text.matches("\x1b[?7l").count(), text.matches("\x1b[?7h").count());

    // Elsewhere there are plain lines.
    let mut command = place.command(&["run", "hello.py"]);
    let mut child = command.env("TERM", "xterm").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("Ctrl-C stops") {
        assert_ne!(lines.read_line(&mut text).unwrap(), 0, "{text:?}");
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    lines.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!text.contains('\x1b') && !text.contains("PLUGIN"), "{text:?}");
}
