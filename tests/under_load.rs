//! Plugins that are replaced, and killed, while clients call them 2,000 times a second: which call
//! has which outcome is compared with what the plugin's processes wrote down.
//!
//! `PLUGBUS_LOAD_ROUNDS` says how often, 5 unless it is set. This test program is the plugin.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test says what it did")]

mod command;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use command::Place;
use plugbus::plugin::{self, Client, Context, Error, Plugin, Verdict};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Not a test of its own: the plugin. Each call is written down, with one write, before it is
/// answered with the process that did it.
#[test]
fn plugin() {
    let Ok(journal) = std::env::var(JOURNAL) else { return };
    let journal = PathBuf::from(journal);
    let birth = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let method = |name: &str| {
        let mut file = File::options().append(true).open(journal.join(name)).unwrap();
        move |number: u64| {
            file.write_all(&number.to_le_bytes()).unwrap();
            (std::process::id(), birth)
        }
    };
    let (count, safe) = (method("count"), method("safe"));
    let (count, safe) = (std::cell::RefCell::new(count), std::cell::RefCell::new(safe));
    let plugin = Plugin::new("it")
        .method("count", async move |call: Numbered, _: &Context| {
            Ok((count.borrow_mut())(call.number))
        })
        .method("safe", async move |call: Numbered, _: &Context| {
            Ok((safe.borrow_mut())(call.number))
        })
        .idempotent();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(plugin.run()).unwrap();
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Numbered {
    number: u64,
}

/// A process of the plugin: its id, and when it was started.
type Process = (u32, u64);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_lose_and_repeat_nothing() {
    let stage = Stage::start().await;
    let client = stage.client().await;
    let mut load = Load::start(&stage, "it.count", CALLS_PER_SECOND).await;
    for round in 1..=rounds() {
        let before = load.newest();
        // In turn, the configuration changes and the plugin alone is replaced.
        let arguments = if round % 2 == 1 {
            stage.configure(round);
            json!({})
        } else {
            json!({ "plugin": "it" })
        };
        let answer: Value = client.call("plugbus.reload", &arguments).await.unwrap();
        let is_accepted =
            answer["replaced"] == json!(["it"]) || answer["answer"] == json!("is replaced");
        assert!(is_accepted, "{answer}");
        load.wait_for_another(before).await;
    }
    let (outcomes, rate) = load.end().await;
    let done = stage.journal("count");
    for (number, outcome) in &outcomes {
        assert!(outcome.is_ok(), "call {number}: {outcome:?}");
        assert_eq!(done.get(number), Some(&1), "call {number}: done once");
    }
    assert_eq!(done.len(), outcomes.len(), "nothing else was done");
    println!(
        "result: {} reloads under {rate:.0} calls/s: {} calls, 0 lost, 0 repeated",
        rounds(),
        outcomes.len(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_a_killed_plugin_has_one_true_outcome() {
    let stage = Stage::start().await;
    let mut load = Load::start(&stage, "it.count", CALLS_PER_SECOND / 2).await;
    let mut safe = Load::start(&stage, "it.safe", CALLS_PER_SECOND / 2).await;
    for _ in 0..rounds() {
        let before = load.newest();
        let pid = Pid::from_raw(i32::try_from(before.0).unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        load.wait_for_another(before).await;
        safe.wait_for_another(before).await;
    }
    let (outcomes, rate) = load.end().await;
    let done = stage.journal("count");
    let mut verdicts: BTreeMap<&str, u64> = BTreeMap::new();
    for (number, outcome) in &outcomes {
        let times = done.get(number).copied().unwrap_or(0);
        let (name, is_true) = match outcome {
            Ok(_) => ("answered", times == 1),
            Err(Error::PeerDied { verdict, .. }) => match verdict {
                Verdict::NeverDelivered => (verdict.name(), times == 0),
                Verdict::Started => (verdict.name(), times == 1),
                _ => (verdict.name(), times <= 1),
            },
            Err(error) => panic!("call {number}: {error:?}"),
        };
        assert!(is_true, "call {number} was done {times} times: {outcome:?}");
        *verdicts.entry(name).or_default() += 1;
    }
    let (repeatable, more) = safe.end().await;
    let done = stage.journal("safe");
    for (number, outcome) in &repeatable {
        assert!(outcome.is_ok(), "call {number} may be repeated: {outcome:?}");
        assert!(done.contains_key(number), "call {number} was answered by nobody");
    }
    println!(
        "result: {} processes killed under {:.0} calls/s: {} calls with one outcome each \
         ({verdicts:?}), {} that may be repeated all answered",
        rounds(),
        rate + more,
        outcomes.len(),
        repeatable.len(),
    );
}

/// A broker with the plugin, and the journals.
struct Stage {
    place: Place,
    _serving: command::Serving,
}

impl Stage {
    async fn start() -> Self {
        let place = Place::with(&[("journal/count", ""), ("journal/safe", "")]);
        fs::write(place.path().join("plugbus.toml"), Self::configuration(&place, 0)).unwrap();
        let (place, serving) = tokio::task::spawn_blocking(move || {
            let serving = place.serve(&["up"]);
            (place, serving)
        })
        .await
        .unwrap();
        Self { place, _serving: serving }
    }

    fn configuration(place: &Place, round: u64) -> String {
        let program = std::env::current_exe().unwrap();
        let journal = place.path().join("journal");
        format!(
            "[broker]\nstarts = {{ per_second = 1000, burst = 1000, at_once = 16 }}\n\
             [plugins.it]\ncommand = [{program:?}, \"--exact\", \"plugin\", \"--nocapture\"]\n\
             env = {{ {JOURNAL} = {journal:?}, ROUND = \"{round}\" }}\n\
             [plugins.it.lifecycle]\nhold = \"1m\"\n\
             intensity = {{ restarts = 1000000, within = \"1s\" }}\n\
             backoff = {{ first = \"1ms\", max = \"1ms\", disable_after = 1000000 }}\n"
        )
    }

    fn configure(&self, round: u64) {
        let text = Self::configuration(&self.place, round);
        fs::write(self.place.path().join("plugbus.toml"), text).unwrap();
    }

    async fn client(&self) -> Client {
        plugin::connect_to(&self.place.socket()).await.unwrap()
    }

    /// How often each call was done.
    fn journal(&self, method: &str) -> BTreeMap<u64, u64> {
        read_journal(&self.place.path().join("journal").join(method))
    }
}

fn read_journal(path: &Path) -> BTreeMap<u64, u64> {
    let bytes = fs::read(path).unwrap();
    let (numbers, rest) = bytes.as_chunks::<8>();
    assert!(rest.is_empty(), "each call was written at once");
    let mut done = BTreeMap::new();
    for number in numbers {
        *done.entry(u64::from_le_bytes(*number)).or_default() += 1;
    }
    done
}

/// Clients that call a method steadily.
struct Load {
    clients: JoinSet<Vec<(u64, plugin::Result<Process>)>>,
    began: Instant,
    is_over: watch::Sender<bool>,
    seen: watch::Receiver<Seen>,
}

/// What the clients of a load have seen.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// The process that was started last of those that answered.
    newest: Process,
    /// Outcomes so far.
    outcomes: u64,
}

impl Load {
    /// Returns when the first call was answered.
    async fn start(stage: &Stage, method: &'static str, per_second: u32) -> Self {
        let (is_over, over) = watch::channel(false);
        let (notes, mut seen) = watch::channel(Seen::default());
        let notes = Arc::new(notes);
        let period = Duration::from_secs(1) * CLIENTS / per_second;
        let mut clients = JoinSet::new();
        for place in 0..CLIENTS {
            let client = stage.client().await;
            let first = u64::from(place) << 32;
            let caller = Caller { client, method, first, period };
            clients.spawn(caller.call(over.clone(), notes.clone()));
        }
        seen.wait_for(|seen| seen.newest.1 > 0).await.unwrap();
        Self { clients, began: now(), is_over, seen }
    }

    /// The process that was started last of those that answered.
    fn newest(&self) -> Process {
        self.seen.borrow().newest
    }

    /// Until a newer process serves, and has done so for a while.
    async fn wait_for_another(&mut self, before: Process) {
        let seen = *self.seen.wait_for(|seen| seen.newest.1 > before.1).await.unwrap();
        let enough = seen.outcomes + OUTCOMES_BETWEEN;
        self.seen.wait_for(|seen| seen.outcomes >= enough).await.unwrap();
    }

    /// Every call with its outcome, and how many there were in a second.
    async fn end(self) -> (BTreeMap<u64, plugin::Result<Process>>, f64) {
        let time = now().duration_since(self.began);
        self.is_over.send(true).unwrap();
        let outcomes: Vec<_> = self.clients.join_all().await.concat();
        let count = outcomes.len();
        let outcomes: BTreeMap<_, _> = outcomes.into_iter().collect();
        assert_eq!(outcomes.len(), count, "one outcome for each call");
        (outcomes, count as f64 / time.as_secs_f64())
    }
}

/// One client.
struct Caller {
    client: Client,
    method: &'static str,
    first: u64,
    period: Duration,
}

impl Caller {
    /// Calls in each period, whatever becomes of the calls before.
    async fn call(
        self,
        over: watch::Receiver<bool>,
        notes: Arc<watch::Sender<Seen>>,
    ) -> Vec<(u64, plugin::Result<Process>)> {
        let mut beat = tokio::time::interval(self.period);
        beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut calls = JoinSet::new();
        let mut outcomes = Vec::new();
        let mut number = self.first;
        while !*over.borrow() {
            tokio::select! {
                _ = beat.tick(), if calls.len() < IN_FLIGHT_MAX => {
                    number += 1;
                    let (client, method) = (self.client.clone(), self.method);
                    calls.spawn(async move {
                        let arguments = json!({ "number": number });
                        (number, client.call::<Process, _>(method, &arguments).await)
                    });
                }
                Some(outcome) = calls.join_next() => {
                    outcomes.push(outcome.unwrap());
                    note(&notes, &outcomes.last().unwrap().1);
                }
            }
        }
        outcomes.extend(calls.join_all().await);
        assert_eq!(outcomes.len() as u64, number - self.first, "an outcome for each call");
        outcomes
    }
}

fn note(notes: &watch::Sender<Seen>, outcome: &plugin::Result<Process>) {
    notes.send_modify(|seen| {
        seen.outcomes += 1;
        if let Ok(process) = outcome
            && process.1 > seen.newest.1
        {
            seen.newest = *process;
        }
    });
}

fn rounds() -> u64 {
    std::env::var("PLUGBUS_LOAD_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap())
}

/// The clock, which only drivers read elsewhere.
#[allow(clippy::disallowed_methods, reason = "the test measures")]
fn now() -> Instant {
    Instant::now()
}

/// Where the plugin writes down what it did.
const JOURNAL: &str = "PLUGBUS_TEST_JOURNAL";

const CLIENTS: u32 = 4;

/// Of all clients.
const CALLS_PER_SECOND: u32 = 2_000;

/// Calls that are over between a process that serves and the next disturbance.
const OUTCOMES_BETWEEN: u64 = 200;

/// Of each client.
const IN_FLIGHT_MAX: usize = 1_024;
