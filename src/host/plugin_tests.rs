//! Supervised plugins in real processes, in a broker that fails as well.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix::System;
use parking_lot::Mutex;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use super::control::Control;
use super::exit::Exit;
use super::manifest::Lifecycle;
use super::plugins::{PluginEvent, Plugins};
use super::resident::Resident;
use super::spec::PluginSpec;
use crate::broker::Broker;
use crate::engine::supervise::State;
use crate::error::Code;
use crate::limit;
use crate::supervise::ChildStatus;
use crate::supervise::fuse::Fuse;

/// A line of an earlier start says nothing about this one.
#[test]
fn an_old_complaint_does_not_make_a_silent_exit_permanent() {
    with_broker(async |scene| {
        let script = "[ -e old ] && exit 1; touch old; echo SyntaxError: x >&2; kill -9 $$";
        let plugins = scene.start(script).await;
        let status = until(&plugins, |child| child.failures == 2).await;
        let exit = status.last_exit.unwrap();
        assert!(!exit.is_permanent() && !exit.to_string().contains("SyntaxError"), "{exit}");
        assert_eq!(status.state, State::BackingOff);
        plugins.stop().await;
    });
}

#[test]
fn a_broker_that_fails_while_a_plugin_starts_is_asked_again() {
    with_broker(async |scene| {
        let twice = [scene.light("AskInstances"), scene.light("AskInstances")];
        let plugins = scene.start("read code < told; exit $code").await;
        let is_asked_again = || twice.iter().all(Fuse::is_burnt);
        until(&plugins, |child| is_asked_again() || child.last_exit.is_some()).await;
        scene.tell("7\n");
        let status = until(&plugins, |child| child.last_exit.is_some()).await;
        let exit = status.last_exit.unwrap().to_string();
        assert!(exit.contains("exited with code 7"), "{exit}");
        plugins.stop().await;
    });
}

/// A broker that has lost its records has ended all sessions.
#[test]
fn control_and_callers_come_back_to_a_broker_that_lost_its_records() {
    with_broker(async |scene| {
        let plugins = scene.start("read code < told").await;
        let control = Control::join(&scene.broker, plugins.clone(), None).await.unwrap();
        let caller = Resident::join(scene.broker.participant("caller")).await.unwrap();
        for restarts in 1..=2 {
            until(&plugins, |_| !plugins.running().is_empty()).await;
            scene.broker.lose_records().await;
            let answer = answered(&caller, "plugbus.plugins").await;
            assert_eq!(answer["plugins"][0]["id"], "weather");
            // It was asked to end, and nobody waited for a broker that waits for it.
            let asked = Exit::Signal { number: 15, core: false };
            assert_eq!(*scene.exits.lock(), vec![asked; restarts]);
        }
        caller.leave().await;
        control.leave().await;
        plugins.stop().await;
    });
}

/// What the announcer had not told yet came after the last word about a plugin.
#[test]
fn plugins_that_were_stopped_are_nobodys() {
    with_broker(async |scene| {
        let caller = scene.broker.participant("caller").join().await.unwrap();
        for _ in 0..10 {
            let plugins = scene.start("exit 7").await;
            until(&plugins, |child| child.last_exit.is_some()).await;
            plugins.stop().await;
            let refused = caller.call::<_, ()>("weather.today", &json!({})).await.unwrap_err();
            assert_eq!(refused.details["state"], "left", "{refused}");
        }
    });
}

#[test]
fn nobody_keeps_a_broker_when_its_plugins_have_stopped() {
    System::new().block_on(async {
        let broker = Broker::builder().start().await.unwrap();
        let witness = broker.participant("witness").join().await.unwrap();
        let plugins = Plugins::builder(&broker).start().await.unwrap();
        plugins.stop().await;
        drop(broker);
        witness.ended().await;
    });
}

/// What the host had said of its plugins was lost with the rest.
#[test]
fn calls_are_held_as_long_as_before_by_a_broker_that_lost_its_records() {
    with_broker(async |scene| {
        let plugins = scene.start("read code < told").await;
        until(&plugins, |_| !plugins.running().is_empty()).await;
        let lost = scene.broker.participant("caller").join().await.unwrap();
        scene.broker.lose_records().await;
        lost.ended().await;
        let caller = scene.broker.participant("caller").join().await.unwrap();
        let timeout = limit::RESTART_HOLD + Duration::from_millis(200);
        let held = caller.call_within::<_, ()>("weather.today", &json!({}), timeout).await;
        assert_eq!(held.unwrap_err().code, Code::Timeout, "held for an hour");
        plugins.stop().await;
    });
}

/// Calls until it is answered: in between nobody is there.
async fn answered(caller: &Resident, method: &str) -> Value {
    loop {
        if let Ok(answer) = caller.participant().call(method, &json!({})).await {
            return answer;
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_broker_may_have_several_lots_of_plugins_and_one_control() {
    with_broker(async |scene| {
        let first = scene.start("read code < told").await;
        let second = Plugins::builder(&scene.broker).start().await.unwrap();
        assert_ne!(first.caller_id(), second.caller_id());
        let control = Control::join(&scene.broker, first.clone(), None).await.unwrap();
        let twice = Control::join(&scene.broker, second.clone(), None).await.unwrap_err();
        assert!(twice.to_string().contains("already"), "{twice}");
        control.leave().await;
        let control = Control::join(&scene.broker, second.clone(), None).await.unwrap();
        control.leave().await;
        first.stop().await;
        second.stop().await;
    });
}

fn with_broker(test: impl AsyncFn(&Scene)) {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    System::new().block_on(async {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("told");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        // For both, so that neither side waits for the other to open it.
        let told = OpenOptions::new().read(true).write(true).open(path).unwrap();
        // The thread of the broker bears its name, and a fuse the name of the thread.
        let name = format!("plugins-{}", LAST.fetch_add(1, Ordering::Relaxed));
        let broker = Broker::builder().name(name).start().await.unwrap();
        let exits = Arc::default();
        test(&Scene { broker: broker.clone(), place, told, exits }).await;
        broker.shutdown().await;
    });
}

/// A broker, and a folder with the pipe `told`.
struct Scene {
    broker: Broker,
    place: tempfile::TempDir,
    told: File,
    exits: Arc<Mutex<Vec<Exit>>>,
}

impl Scene {
    /// Starts a shell script as the plugin `weather`. It is restarted once without delay.
    async fn start(&self, script: &str) -> Plugins {
        let spec = PluginSpec::command("weather", ["sh", "-c", script]).dir(self.place.path());
        let mut lifecycle = Lifecycle::default();
        lifecycle.backoff.first = Duration::from_secs(3600);
        lifecycle.backoff.max = Duration::from_secs(3600);
        lifecycle.hold = Duration::from_secs(3600);
        let exits = Arc::clone(&self.exits);
        let plugins = Plugins::builder(&self.broker).observe(move |event| {
            if let PluginEvent::Exited { exit, .. } = event {
                exits.lock().push(exit);
            }
        });
        plugins.plugin_with(spec, lifecycle).start().await.unwrap()
    }

    /// What the script reads next.
    fn tell(&self, text: &str) {
        (&self.told).write_all(text.as_bytes()).unwrap();
    }

    fn light(&self, mail: &'static str) -> Fuse {
        let thread = format!("plugbus-{}", self.broker.name());
        let fuse = Fuse { thread, mail, is_within: false };
        fuse.clone().light();
        fuse
    }
}

async fn until(plugins: &Plugins, wanted: impl Fn(&ChildStatus) -> bool) -> ChildStatus {
    let mut transitions = plugins.transitions();
    loop {
        if let Some(child) = plugins.children_of("weather").into_iter().find(&wanted) {
            return child;
        }
        tokio::select! {
            _ = transitions.next() => (),
            () = tokio::task::yield_now() => (),
        }
    }
}
