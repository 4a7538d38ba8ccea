//! The zoo: each plugin does the wrong thing that it is there for, and the broker sees it as such.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod zoo;

use plugbus::host::{Exit, Limit, PluginEvent, StartError};
use plugbus::plugin::{Client, Error};
use plugbus::{Broker, PluginSpec, Plugins};
use serde_json::{Value, json};
use tokio::sync::mpsc;

#[tokio::test]
async fn those_that_do_not_get_ready_are_reported_with_their_exit() {
    let stage = Stage::start().await;
    for (animal, expected, line) in [
        ("crash_on_start.py", "exited with code 1", "RuntimeError: this plugin never starts"),
        ("wrong_version.py", "exited with code 2", "99"),
        ("flood_stdout.py", "exited with code 0", "last"),
    ] {
        let (error, lines) = stage.fail(animal).await;
        match error {
            StartError::NotReady { reason, .. } => {
                assert!(reason.contains(expected), "{animal}: {reason}");
            }
            error => panic!("{animal}: {error}"),
        }
        assert!(lines.iter().any(|it| it.contains(line)), "{animal}: {:?}", lines.last());
        assert!(lines.iter().all(|it| it.len() <= 8 << 10), "{animal}");
    }
    let (error, _) = stage.fail("missing_interpreter").await;
    assert!(error.to_string().contains("/no/such/interpreter"), "{error}");
}

#[tokio::test]
async fn one_that_crashes_leaves_a_verdict() {
    let stage = Stage::start().await;
    let (plugins, mut events) = stage.run("crash_on_third_message.py").await;
    for count in 1..=2 {
        assert_eq!(stage.call("animal.work").await.unwrap(), json!(count));
    }
    let error = stage.call("animal.work").await.unwrap_err();
    assert!(matches!(error, Error::PeerDied { .. }), "{error:?}");
    assert_eq!(ended(&mut events).await.signal(), Some(6));
    plugins.stop().await;
}

#[tokio::test]
async fn one_that_leaks_serves_on() {
    let stage = Stage::start().await;
    let (plugins, _events) = stage.run("leak.py").await;
    for count in 1..=3 {
        assert_eq!(stage.call("animal.work").await.unwrap(), json!(count));
    }
    assert_eq!(stage.call("animal.ping").await.unwrap(), json!("pong"));
    plugins.stop().await;
}

/// Neither notice nor SIGTERM reach one that hangs or does not listen; SIGKILL does.
#[tokio::test]
async fn those_that_do_not_listen_are_killed() {
    let stage = Stage::start().await;
    let (hanging, mut ends) = stage.run("hang.py").await;
    assert_eq!(stage.call("animal.ping").await.unwrap(), json!("pong"));
    let client = stage.client.clone();
    let hung =
        tokio::spawn(async move { client.call::<Value, _>("animal.work", &json!({})).await });
    printed(&mut ends, "hangs").await;
    let (deaf, mut deaf_ends) = stage.run_as("deaf", "ignore_term.py").await;
    assert_eq!(stage.call("deaf.ping").await.unwrap(), json!("pong"));
    let (stopped, stopped_deaf) = tokio::join!(hanging.stop(), deaf.stop());
    assert_eq!(stopped[0].1.signal(), Some(9));
    assert_eq!(stopped_deaf[0].1.signal(), Some(9));
    assert_eq!(ended(&mut ends).await.signal(), Some(9));
    assert_eq!(ended(&mut deaf_ends).await.signal(), Some(9));
    assert!(hung.await.unwrap().is_err());
}

struct Stage {
    broker: Broker,
    client: Client,
    _place: tempfile::TempDir,
}

impl Stage {
    async fn start() -> Self {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("own/zoo.sock");
        let broker = Broker::builder().socket(&socket).start().await.unwrap();
        let client = plugbus::plugin::connect_to(&socket).await.unwrap();
        Self { broker, client, _place: place }
    }

    async fn call(&self, method: &str) -> Result<Value, Error> {
        self.client.call(method, &json!({})).await
    }

    async fn run(&self, animal: &str) -> (Plugins, mpsc::UnboundedReceiver<PluginEvent>) {
        self.run_as("animal", animal).await
    }

    async fn run_as(
        &self,
        id: &str,
        animal: &str,
    ) -> (Plugins, mpsc::UnboundedReceiver<PluginEvent>) {
        let (result, events) = self.try_run(id, animal).await;
        (result.unwrap(), events)
    }

    /// Why it does not start, and what it printed.
    async fn fail(&self, animal: &str) -> (StartError, Vec<String>) {
        let (result, mut events) = self.try_run("animal", animal).await;
        let mut lines = Vec::new();
        while let Ok(event) = events.try_recv() {
            if let PluginEvent::Printed { line, .. } = event {
                lines.push(line);
            }
        }
        (result.unwrap_err(), lines)
    }

    async fn try_run(
        &self,
        id: &str,
        animal: &str,
    ) -> (Result<Plugins, StartError>, mpsc::UnboundedReceiver<PluginEvent>) {
        #[expect(clippy::disallowed_methods, reason = "a test that reads all of it")]
        let (told, events) = mpsc::unbounded_channel();
        let file = zoo::file(animal);
        let spec = match animal.ends_with(".py") {
            true => PluginSpec::command(id, ["python3".into(), file]),
            false => PluginSpec::command(id, [file]),
        };
        let spec = spec.env("PYTHONPATH", zoo::sdk()).limit(Limit::CoreSize, 0);
        let plugins = Plugins::start(&self.broker, vec![spec], move |event| {
            // Nobody listens any more at the end of a test.
            let _told = told.send(event).is_ok();
        })
        .await;
        (plugins, events)
    }
}

/// How it ended.
async fn ended(events: &mut mpsc::UnboundedReceiver<PluginEvent>) -> Exit {
    loop {
        if let PluginEvent::Exited { exit, .. } = events.recv().await.unwrap() {
            return exit;
        }
    }
}

/// Waits for a line.
async fn printed(events: &mut mpsc::UnboundedReceiver<PluginEvent>, expected: &str) {
    loop {
        match events.recv().await.unwrap() {
            PluginEvent::Printed { line, .. } if line == expected => return,
            _ => (),
        }
    }
}
