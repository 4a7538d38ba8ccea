//! Supervised plugins in real processes, in a broker that fails as well.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix::System;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::manifest::Lifecycle;
use super::plugins::Plugins;
use super::spec::PluginSpec;
use crate::broker::Broker;
use crate::engine::supervise::State;
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
        test(&Scene { broker: broker.clone(), place, told }).await;
        broker.shutdown().await;
    });
}

/// A broker, and a folder with the pipe `told`.
struct Scene {
    broker: Broker,
    place: tempfile::TempDir,
    told: File,
}

impl Scene {
    /// Starts a shell script as the plugin `weather`. It is restarted once without delay.
    async fn start(&self, script: &str) -> Plugins {
        let spec = PluginSpec::command("weather", ["sh", "-c", script]).dir(self.place.path());
        let mut lifecycle = Lifecycle::default();
        lifecycle.backoff.first = Duration::from_secs(3600);
        lifecycle.backoff.max = Duration::from_secs(3600);
        Plugins::builder(&self.broker).plugin_with(spec, lifecycle).start().await.unwrap()
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
