//! Plugins that sleep, that are several processes, that need others; and a broker that is stopped
//! for a while. This test program is the plugin.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod command;
mod stage;
mod zoo;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use command::Place;
use plugbus::host::PluginEvent;
use plugbus::plugin::{self, Client, Context, Error, Message, Plugin, Received, Subscription};
use plugbus::supervise::{Governor, State};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use stage::{Part, Seen, Stage};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Not a test of its own: the plugin. Writes into files what it was asked for.
#[test]
fn plugin() {
    let Ok(id) = std::env::var("PLUGBUS_ID") else { return };
    if Path::new(&format!("{id}.broken")).exists() {
        // As a shell says that there is no such program: nobody tries that again by himself.
        std::process::exit(127);
    }
    let (counted, worked) = (format!("{id}.counted"), format!("{id}.worked"));
    let plugin = Plugin::new(id)
        .method("pid", async |(), _: &Context| Ok(std::process::id()))
        .idempotent()
        .method("count", async move |Number { number }: Number, _: &Context| {
            note(&counted, number);
            // Long enough that there is always one under way.
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok(std::process::id())
        })
        .method("ask", async |Other { plugin }: Other, context: &Context| {
            context.call::<Value, _>(&format!("{plugin}.pid"), &()).await
        })
        .channel("work", async move |message: Message, _: &Context| {
            note(&worked, message.parse()?);
            Ok(())
        });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(plugin.run()).unwrap();
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Number {
    number: u64,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Other {
    plugin: String,
}

/// One write for each line, so that processes can share the file.
fn note(file: &str, number: u64) {
    let mut file = OpenOptions::new().append(true).create(true).open(file).unwrap();
    file.write_all(format!("{number}\n").as_bytes()).unwrap();
}

fn part(id: &str) -> Part {
    let program = std::env::current_exe().unwrap();
    Part::new(id, &[program.to_str().unwrap(), "--exact", "plugin", "--nocapture"])
        .line("lifecycle.hold = '2m'")
        .line("lifecycle.backoff = { first = '10ms', max = '10ms' }")
}

async fn start(parts: Vec<Part>) -> Stage {
    Stage::start(parts, Governor::new(100, 100, 8)).await
}

impl Stage {
    fn noted(&self, file: &str) -> Vec<u64> {
        let text = fs::read_to_string(self.file(file)).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    async fn pid(&self, plugin: &str) -> Value {
        self.call(&format!("{plugin}.pid")).await.unwrap()
    }

    async fn ask(&self, plugin: &str, other: &str) -> plugin::Result<Value> {
        ask(&self.client, plugin, other).await
    }
}

async fn ask(client: &Client, plugin: &str, other: &str) -> plugin::Result<Value> {
    client.call(&format!("{plugin}.ask"), &json!({ "plugin": other })).await
}

fn kill(pid: &Value) {
    let pid = i32::try_from(pid.as_i64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Calls, messages and the signal `wake` find it, whether it sleeps or is about to.
#[tokio::test]
async fn one_that_sleeps_is_woken_and_nothing_is_lost() {
    let owl = part("owl").line("lifecycle.lazy = true").line("lifecycle.idle_sleep = '100ms'");
    let stage = start(vec![owl]).await;
    stage.enters("owl", State::Sleeping, 1).await;
    assert_eq!(stage.plugins.running(), [], "it starts when somebody wants it");
    let channel = stage.client.sender("owl/work").await.unwrap();
    let mut told = stage.client.subscribe("plugbus.lifecycle.owl.sleeping").await.unwrap();
    let mut processes = BTreeSet::new();
    let (mut calls, mut messages) = (0_u64, 0_u64);
    for round in 0..ROUNDS {
        // Asleep at first; then in the moment in which that is decided, or when it is.
        match round % 2 {
            0 => stage.enters("owl", State::Sleeping, round + 1).await,
            _ => stage.enters("owl", State::Stopping, round).await,
        };
        match round % 6 {
            0 | 1 | 5 => {
                calls += 1;
                let number = json!({ "number": calls });
                let pid: u32 = stage.client.call("owl.count", &number).await.unwrap();
                assert!(processes.insert(pid), "each time another process");
            }
            2 | 3 => {
                for _ in 0..3 {
                    messages += 1;
                    channel.send_value(&messages).await.unwrap();
                }
                channel.completed().await.unwrap();
            }
            _ => {
                // Nothing holds a signal: it is for one of whom the broker knows that it sleeps.
                while asleep(&mut told).await != round as u64 {}
                stage.client.signal("owl", "wake").unwrap();
            }
        }
        stage.enters("owl", State::Starting, round + 1).await;
    }
    stage.enters("owl", State::Sleeping, ROUNDS + 1).await;
    // An event is for those who are awake.
    stage.client.publish("owl.news", &()).await.unwrap();
    stage.settle().await;
    assert_eq!(stage.noted("owl.counted"), (1..=calls).collect::<Vec<_>>());
    assert_eq!(stage.noted("owl.worked"), (1..=messages).collect::<Vec<_>>());
    let cycle = [State::Sleeping, State::Starting, State::Ready, State::Stopping];
    let mut expected = cycle.repeat(ROUNDS);
    expected.push(State::Sleeping);
    assert_eq!(stage.path("owl"), expected, "{}", stage.told("owl"));
    let report = stage.report("owl");
    assert_eq!((&report["restarts"], &report["failures"]), (&0.into(), &0.into()), "{report}");
    stage.end().await;
}

/// The process that has gone to sleep, by its number.
async fn asleep(told: &mut Subscription) -> u64 {
    let Some(Received::Event(event)) = told.next().await else { panic!("the events have ended") };
    event.parse::<Value>().unwrap()["generation"].as_u64().unwrap()
}

/// Twice each way of waking in each of its moments.
const ROUNDS: usize = 12;

/// What became of a call with this number.
type Outcome = (u64, plugin::Result<u32>);

/// Callers that call one after the other, each call with a number of its own.
struct Load {
    callers: JoinSet<Vec<Outcome>>,
    is_over: watch::Sender<bool>,
    /// Who has answered lately.
    answered: watch::Sender<BTreeSet<u32>>,
}

impl Load {
    fn start(client: &Client, method: &'static str) -> Self {
        let is_over = watch::Sender::new(false);
        let answered = watch::Sender::new(BTreeSet::new());
        let last = Arc::new(AtomicU64::new(0));
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (client, last) = (client.clone(), Arc::clone(&last));
            let (is_over, answered) = (is_over.subscribe(), answered.clone());
            callers.spawn(async move {
                let mut outcomes = Vec::new();
                while !*is_over.borrow() {
                    // Relaxed: it orders nothing.
                    let number = last.fetch_add(1, Ordering::Relaxed) + 1;
                    let outcome = client.call(method, &json!({ "number": number })).await;
                    if let Ok(pid) = outcome {
                        answered.send_modify(|answered| answered.extend([pid]));
                    }
                    outcomes.push((number, outcome));
                }
                outcomes
            });
        }
        Self { callers, is_over, answered }
    }

    /// Waits until so many different processes have answered since now.
    async fn answered_by(&self, count: usize) -> BTreeSet<u32> {
        self.answered.send_modify(BTreeSet::clear);
        let mut answered = self.answered.subscribe();
        let found = answered.wait_for(|answered| answered.len() == count);
        let found = tokio::time::timeout(stage::PATIENCE, found).await;
        found.expect("they answer").unwrap().clone()
    }

    async fn end(mut self) -> Vec<Outcome> {
        self.is_over.send_replace(true);
        let mut outcomes = Vec::new();
        while let Some(more) = self.callers.join_next().await {
            outcomes.extend(more.unwrap());
        }
        outcomes
    }
}

const CALLERS: usize = 6;

#[tokio::test]
async fn instances_share_calls_and_one_that_is_killed_or_replaced_harms_no_other() {
    const INSTANCES: u32 = 3;
    let ant = part("ant").line(&format!("run.instances = {INSTANCES}"));
    let stage = start(vec![ant]).await;
    let load = Load::start(&stage.client, "ant.count");
    let old = load.answered_by(3).await;

    let killed = *old.first().unwrap();
    kill(&killed.into());
    stage.enters("ant", State::BackingOff, 1).await;
    let new = loop {
        // The two others go on; the third one comes.
        let new = load.answered_by(3).await;
        if !new.contains(&killed) {
            break new;
        }
    };
    assert_eq!(old.intersection(&new).count(), 2);
    let mut paths: Vec<_> = (0..INSTANCES).map(|it| stage.path_of("ant", it)).collect();
    paths.sort_by_key(Vec::len);
    let usual = vec![State::Starting, State::Ready];
    let failed =
        vec![State::Starting, State::Ready, State::BackingOff, State::Starting, State::Ready];
    assert_eq!(paths, [usual.clone(), usual, failed]);
    let mut lost = 0;
    let outcomes = load.end().await;
    for (_, outcome) in &outcomes {
        match outcome {
            Ok(_) => (),
            Err(Error::PeerDied { .. }) => lost += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(lost <= CALLERS, "{lost} calls ended with one process");

    fs::rename(stage.file("ant.counted"), stage.file("ant.counted-before")).unwrap();
    let load = Load::start(&stage.client, "ant.count");
    stage.plugins.replace_plugin("ant").unwrap();
    loop {
        let answering = load.answered_by(3).await;
        if answering.is_disjoint(&new) {
            break;
        }
    }
    let replaced = load.end().await;
    for (number, outcome) in &replaced {
        assert!(outcome.is_ok(), "call {number} was lost: {outcome:?}");
    }
    // Who was answered was counted once, and who was not at most once.
    check_counted(&outcomes, stage.noted("ant.counted-before"));
    check_counted(&replaced, stage.noted("ant.counted"));
    for (instance, report) in stage.reports("ant").iter().enumerate() {
        let path = stage.path_of("ant", u32::try_from(instance).unwrap());
        assert_eq!(path[path.len() - 2..], [State::Replacing, State::Ready]);
        let restarts = u64::from(path.contains(&State::BackingOff));
        assert_eq!(report["restarts"], restarts, "{report}");
    }
    stage.settle().await;
    stage.end().await;
}

#[tokio::test]
async fn whoever_hears_of_a_successor_reaches_it() {
    const REPLACEMENTS: usize = 10;
    let stage = start(vec![part("ant")]).await;
    stage.enters("ant", State::Ready, 1).await;
    let mut events = stage.client.subscribe("plugbus.lifecycle.ant.ready").await.unwrap();
    let mut answering = stage.call("ant.pid").await.unwrap();
    for _ in 0..REPLACEMENTS {
        stage.plugins.replace_plugin("ant").unwrap();
        loop {
            let Some(Received::Event(event)) = events.next().await else {
                panic!("the events have ended");
            };
            let change: Value = event.parse().unwrap();
            if change["cause"] == "its successor serves" {
                break;
            }
        }
        let next = stage.call("ant.pid").await.unwrap();
        assert_ne!(next, answering, "the call went to the process that was replaced");
        answering = next;
    }
    stage.settle().await;
    stage.end().await;
}

/// Each number stands there once, but those whose callers were told that it is not known.
fn check_counted(outcomes: &[Outcome], mut counted: Vec<u64>) {
    let handled = counted.len();
    counted.sort_unstable();
    counted.dedup();
    assert_eq!(counted.len(), handled, "a call was made twice");
    for (number, outcome) in outcomes {
        let is_counted = counted.binary_search(number).is_ok();
        assert!(is_counted || outcome.is_err(), "call {number} was answered and not made");
    }
    assert!(counted.len() <= outcomes.len());
}

/// Whoever runs is left alone when one that it needs fails; whoever starts waits.
#[tokio::test]
async fn one_that_needs_another_waits_for_it_to_start_and_survives_its_end() {
    let base = part("base").file("base.broken");
    let leaf = part("leaf").needs("base");
    let stage = start(vec![base, leaf]).await;
    let cause = stage.enters("base", State::Failed, 1).await;
    assert!(cause.contains("exited with code 127"), "{cause}");
    assert_eq!(stage.path("leaf"), [], "it waits");

    let mend = || fs::remove_file(stage.file("base.broken")).unwrap();
    let break_it = || fs::write(stage.file("base.broken"), "").unwrap();
    mend();
    stage.plugins.start_plugin("base").unwrap();
    stage.enters("leaf", State::Ready, 1).await;
    let pids = (stage.pid("base").await, stage.pid("leaf").await);
    assert_eq!(stage.ask("leaf", "base").await.unwrap(), pids.0);

    // It fails once: the other one runs on, and its call finds the next process.
    kill(&pids.0);
    stage.enters("base", State::BackingOff, 1).await;
    let new = stage.ask("leaf", "base").await.unwrap();
    assert_ne!(new, pids.0);
    assert_eq!(stage.pid("leaf").await, pids.1);

    // It does not come back: who runs is told at once, who ends is not started without it.
    break_it();
    kill(&new);
    stage.enters("base", State::Failed, 2).await;
    let refused = stage.ask("leaf", "base").await.unwrap_err();
    assert!(refused.to_string().contains("failed"), "{refused}");
    assert_eq!(stage.pid("leaf").await, pids.1);
    kill(&pids.1);
    stage.enters("leaf", State::BackingOff, 1).await;
    let client = stage.client.clone();
    let held = tokio::spawn(async move { client.call::<Value, _>("leaf.pid", &()).await });
    mend();
    stage.plugins.start_plugin("base").unwrap();
    stage.enters("leaf", State::Ready, 2).await;
    let base_ready = stage.journal("base").iter().rev().find_map(ready_at).unwrap();
    let leaf_starts = stage.journal("leaf").iter().rev().find_map(starts_at).unwrap();
    assert!(base_ready <= leaf_starts, "it starts when the other one is ready");
    assert_eq!(held.await.unwrap().unwrap(), stage.pid("leaf").await);
    stage.settle().await;
    stage.end().await;
}

fn ready_at(seen: &Seen) -> Option<Instant> {
    matches!(seen.event, PluginEvent::Changed { to: State::Ready, .. }).then_some(seen.at)
}

fn starts_at(seen: &Seen) -> Option<Instant> {
    matches!(seen.event, PluginEvent::Changed { to: State::Starting, .. }).then_some(seen.at)
}

/// A machine that sleeps, a debugger, a broker that gets no processor: no plugin is to blame.
#[test]
fn a_broker_that_was_stopped_restarts_nobody() {
    let program = std::env::current_exe().unwrap();
    let text = format!(
        "[plugins.ant]\ncommand = [{program:?}, '--exact', 'plugin', '--nocapture']\n\
         [plugins.ant.lifecycle.health]\ninterval = '{INTERVAL_MS}ms'\n\
         timeout = '{INTERVAL_MS}ms'\n\
         misses = 2\ncommand = ['sh', '-c', 'echo looked >> looks']\n"
    );
    let place = Place::with(&[("plugbus.toml", &text)]);
    let serving = place.serve(&["up"]);
    let pid = answer(&place, "ant.pid");
    let looks = || fs::read_to_string(place.path().join("looks")).unwrap_or_default().len();
    let look = || {
        let before = looks();
        while looks() < before + 3 * "looked\n".len() {
            std::thread::yield_now();
        }
    };
    for _ in 0..3 {
        look();
        serving.signal(Signal::STOP);
        // That time passes is what is tested.
        std::thread::sleep(Duration::from_millis(INTERVAL_MS * 8));
        serving.signal(Signal::CONT);
    }
    // Whatever it made of that, it has made by then.
    look();
    assert_eq!(answer(&place, "ant.pid"), pid);
    serving.signal(Signal::TERM);
    let (code, changes) = serving.end("changed");
    assert_eq!((code, changes.len()), (Some(0), 4), "to starting, ready, stopping and stopped");
}

#[track_caller]
fn answer(place: &Place, method: &str) -> String {
    let outcome = place.run(&["call", method]);
    outcome.expect(0, &[]);
    outcome.out
}

const INTERVAL_MS: u64 = 100;
