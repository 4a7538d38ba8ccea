//! What is left when a broker is killed: nothing.
//!
//! `PLUGBUS_ORPHAN_ROUNDS` says how many brokers are killed, 5 unless it is set.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a child reports to its parent, a test what it did")]

mod command;
mod zoo;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use command::{Place, ProcessEnd};
use plugbus::{Broker, PluginSpec, Plugins};
use rustix::process::Signal;
use zoo::Herd;

/// `plugbus up` with twenty plugins, each of which forks, makes a session, and does both twice.
#[test]
fn a_killed_broker_leaves_no_process() {
    const PLUGINS: usize = 20;
    let script = "sleep 1000 & setsid sleep 1000 & setsid sh -c 'sleep 1000 &'
                  exec \"$0\" builtin demo-peer $PLUGBUS_ID";
    for _ in 0..rounds() {
        let herd = Herd::new();
        let mut config = String::new();
        for number in 0..PLUGINS {
            writeln!(
                config,
                "[plugins.animal-{number}]\ncommand = [\"sh\", \"-c\", {script:?}, {:?}]\n\
                 env = {{ {} = {:?} }}",
                env!("CARGO_BIN_EXE_plugbus"),
                Herd::VARIABLE,
                herd.value(),
            )
            .unwrap();
        }
        let place = Place::with(&[("plugbus.toml", &config)]);
        let serving = place.serve(&["up"]);
        check(&herd, PLUGINS * 4, || serving.signal(Signal::KILL));
    }
    println!("result: {} brokers with {PLUGINS} plugins killed, 0 processes left", rounds());
}

/// The same in an application that embeds the broker: this test program again.
#[test]
fn a_killed_application_leaves_no_process() {
    for _ in 0..rounds() {
        let herd = Herd::new();
        let mut application = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "application"])
            .env(APPLICATION, herd.value())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(application.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "serving"), "the application serves");
        check(&herd, ANIMALS.len() * 2, || application.kill().unwrap());
        application.wait().unwrap();
    }
}

/// Not a test of its own: the application.
#[tokio::test]
async fn application() {
    let Ok(herd) = std::env::var(APPLICATION) else { return };
    let place = tempfile::tempdir().unwrap();
    let broker = Broker::builder().socket(place.path().join("own/a.sock")).start().await.unwrap();
    let specs = ANIMALS.iter().enumerate().map(|(number, animal)| {
        PluginSpec::command(format!("animal-{number}"), ["python3".into(), zoo::file(animal)])
            .env("PYTHONPATH", zoo::sdk())
            .env(Herd::VARIABLE, &herd)
    });
    let _plugins = Plugins::start(&broker, specs.collect(), |_| ()).await.unwrap();
    // The application must not leave its own directory behind either.
    drop(place);
    println!("\nserving");
    std::future::pending().await
}

/// Kills, and waits until the whole herd has ended.
fn check(herd: &Herd, count: usize, kill: impl FnOnce()) {
    let ends: Vec<ProcessEnd> = loop {
        let herd = herd.left();
        // They are all there before their plugin serves. One that is just executing its program
        // shows no environment for a moment.
        if herd.len() == count {
            break herd.into_iter().map(|pid| ProcessEnd::of(pid.into())).collect();
        }
        std::thread::yield_now();
    };
    kill();
    for end in &ends {
        end.wait();
    }
    assert_eq!(herd.left(), Vec::<i32>::new());
}

fn rounds() -> u32 {
    std::env::var("PLUGBUS_ORPHAN_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap())
}

/// Each is two processes.
const ANIMALS: [&str; 3] = ["double_fork.py", "setsid_child.py", "fork.py"];

const APPLICATION: &str = "PLUGBUS_TEST_APPLICATION";
