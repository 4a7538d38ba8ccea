//! The examples do what they say.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::TestBroker;
use plugbus::id::PluginId;

#[test]
fn an_actix_application_embeds_a_broker() {
    assert_eq!(last_line(&run(&mut example("embed_actix"))), "2 images");
}

#[test]
fn a_tokio_application_embeds_a_broker() {
    assert_eq!(last_line(&run(&mut example("embed_tokio"))), "stopped in order");
}

#[test]
fn actors_of_the_host_take_part() {
    let output = run(&mut example("host_actor"));
    assert!(output.contains("twice the sum of 1 to 100 is 10100"), "{output}");
    assert!(last_line(&output).ends_with("did you mean `multiplied`?"), "{output}");
}

#[test]
fn an_application_supervises_actors_and_processes() {
    let output = run(&mut example("supervise_tree"));
    let story = [
        "app/workers: adder starting, adder ready, echo starting, echo ready",
        // Queued behind the message that panicked, and handled by an actor that knows nothing yet.
        "the actor panicked before it answered\n  the sum is 3",
        "app/workers: echo backing-off, echo starting, echo ready",
        "app: ledger backing-off, workers stopping, workers stopped, ledger starting, ledger \
         ready, workers starting, workers ready",
        "app/workers: echo stopping, echo stopped, adder stopping, adder stopped, adder starting",
        "adder stopped, echo stopping, echo stopped, adder starting, adder ready, echo starting",
        "app: workers stopping, workers stopped, ledger stopping, ledger stopped",
    ];
    let mut rest = &output[..];
    for line in story {
        let place = rest.find(line).unwrap_or_else(|| panic!("no `{line}` in\n{rest}"));
        rest = &rest[place + line.len()..];
    }
    assert_eq!(last_line(&output), "app stopped as asked");
}

#[test]
fn the_smallest_rust_plugin_answers_a_client() {
    let broker = TestBroker::start();
    let _plugin = Plugin::start(&broker, &mut example("hello_plugin"));
    call_as_client(&broker);
}

#[test]
fn the_smallest_python_plugin_answers_a_client() {
    let broker = TestBroker::start();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut python = Command::new("python3");
    python.arg(root.join("examples/hello.py")).env("PYTHONPATH", root.join("sdk/python"));
    let _plugin = Plugin::start(&broker, &mut python);
    call_as_client(&broker);
}

#[test]
fn the_smallest_plugins_are_small() {
    for (file, comment) in [("hello_plugin.rs", "//"), ("hello.py", "#")] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(file);
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.trim().starts_with(comment));
        assert!(lines.count() < 15, "{file} is to have fewer than 15 lines");
    }
}

fn call_as_client(broker: &TestBroker) {
    let output = run(example("client").arg("Ann").env("PLUGBUS_SOCKET", broker.socket()));
    assert!(output.contains("Hello Ann"), "{output}");
}

/// A plugin process, ended with the test.
struct Plugin(Child);

impl Plugin {
    fn start(broker: &TestBroker, command: &mut Command) -> Self {
        let child = command.env("PLUGBUS_SOCKET", broker.socket()).spawn().unwrap();
        let plugin = Self(child);
        let hello = PluginId::parse("hello").unwrap();
        broker.runtime.block_on(broker.broker.wait_ready(&hello)).unwrap();
        plugin
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The example as cargo has built it beside this test.
fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let built: PathBuf = tests.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(built.exists(), "{} is not built; run all tests of the crate", built.display());
    Command::new(built)
}

fn run(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{:?} after {text}", output.status);
    text
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}
