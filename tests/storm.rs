//! Many plugins die at once, and come back no faster than the governor allows.
//!
//! `PLUGBUS_STORM_PLUGINS` says how many, 50 unless it is set. This test program is the plugin.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test says what it did")]

mod stage;
mod zoo;

use std::fs;
use std::time::{Duration, Instant};

use plugbus::host::PluginEvent;
use plugbus::plugin::{Context, Error, Plugin};
use plugbus::supervise::{Governor, State};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use stage::{Part, Stage};

/// Not a test of its own: the smallest plugin.
#[test]
fn plugin() {
    let Ok(id) = std::env::var("PLUGBUS_ID") else { return };
    let plugin = Plugin::new(id)
        .method("greet", async |name: Name, _: &Context| Ok(format!("Hello {}", name.name)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(plugin.run()).unwrap();
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Name {
    name: String,
}

#[tokio::test]
async fn plugins_that_die_together_come_back_one_after_the_other() {
    let count: usize =
        std::env::var("PLUGBUS_STORM_PLUGINS").map_or(50, |count| count.parse().unwrap());
    let program = std::env::current_exe().unwrap();
    let command = [program.to_str().unwrap(), "--exact", "plugin", "--nocapture"];
    let ids: Vec<String> = (0..count).map(|number| format!("moth-{number}")).collect();
    let parts = ids.iter().map(|id| Part::new(id, &command).line("lifecycle.hold = '2m'"));
    let governor = Governor::new(PER_SECOND, BURST, STARTING_MAX);
    let began = stage::now();
    let stage = Stage::start(parts.collect(), governor).await;
    for id in &ids {
        stage.enters(id, State::Ready, 1).await;
        greet(&stage, id).await.unwrap();
    }
    check_governor(&stage, &ids, began, count);
    let open = descriptors();

    let killed = stage::now();
    let running = stage.plugins.running();
    assert_eq!(running.len(), count);
    for (_, pid) in running {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }
    // Each caller has one outcome: an answer of the next process, or an account of the death.
    let methods: Vec<String> = ids.iter().map(|id| format!("{id}.greet")).collect();
    let methods: Vec<&str> = methods.iter().map(String::as_str).collect();
    let outcomes = stage.client.call_many::<Value, _>(&methods, &json!({ "name": "Ann" })).await;
    let mut died = 0;
    for outcome in outcomes {
        match outcome {
            Ok(greeting) => assert_eq!(greeting, "Hello Ann"),
            Err(Error::PeerDied { .. }) => died += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    for id in &ids {
        stage.enters(id, State::Ready, 2).await;
        let path =
            [State::Starting, State::Ready, State::BackingOff, State::Starting, State::Ready];
        assert_eq!(stage.path(id), path, "{}", stage.told(id));
        greet(&stage, id).await.unwrap();
    }
    let fastest = check_governor(&stage, &ids, killed, count);
    stage.settle().await;
    // What belonged to the dead is given up when their last words have been read.
    while descriptors() > open {
        tokio::task::yield_now().await;
    }
    println!(
        "result: {count} plugins killed at once were back in {:.1} s, {died} calls ended with \
         them; the governor allows {:.1} s",
        last_seen(&stage, &ids).duration_since(killed).as_secs_f64(),
        fastest.as_secs_f64(),
    );
    stage.end().await;
}

async fn greet(stage: &Stage, id: &str) -> plugbus::plugin::Result<Value> {
    stage.client.call(&format!("{id}.greet"), &json!({ "name": "Ann" })).await
}

/// Looks at the last `count` starts, which nothing can have caused before `since`. Gives the time
/// that the last one has to come after it.
fn check_governor(stage: &Stage, ids: &[String], since: Instant, count: usize) -> Duration {
    let mut changes: Vec<(Instant, i32)> = Vec::new();
    for id in ids {
        changes.extend(stage.journal(id).iter().filter_map(|seen| match seen.event {
            PluginEvent::Changed { to: State::Starting, .. } => Some((seen.at, 1)),
            PluginEvent::Changed { from: State::Starting, .. } => Some((seen.at, -1)),
            _ => None,
        }));
    }
    changes.sort_by_key(|(at, _)| *at);
    let mut starting = 0;
    for (_, change) in &changes {
        starting += change;
        assert!((0..=STARTING_MAX as i32).contains(&starting), "{starting} start at once");
    }
    let starts = changes.iter().filter(|(at, change)| *change == 1 && *at >= since);
    let starts: Vec<Instant> = starts.map(|(at, _)| *at).collect();
    assert_eq!(starts.len(), count, "each of them starts once");
    let mut earliest = Duration::ZERO;
    for (index, at) in starts.iter().enumerate() {
        // The bucket was full at best.
        let waits = u32::try_from(index + 1).unwrap().saturating_sub(BURST);
        earliest = Duration::from_secs(1) / PER_SECOND * waits;
        let after = at.duration_since(since);
        assert!(after >= earliest, "start {index} came after {after:?}, not {earliest:?}");
    }
    earliest
}

fn last_seen(stage: &Stage, ids: &[String]) -> Instant {
    let last = ids.iter().flat_map(|id| stage.journal(id)).map(|seen| seen.at).max();
    last.unwrap()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

const PER_SECOND: u32 = 40;
const BURST: u32 = 10;
const STARTING_MAX: u32 = 4;
