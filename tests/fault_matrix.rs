//! Real plugins that fail in every way at every step of the protocol, all in one broker.
//!
//! A cell is a step and a fault. Its plugin fails once; whatever the fault, its supervisor decides
//! as `docs/supervision.md` says, each call has one outcome, messages go on in their order, the
//! plugins of all other cells notice nothing, and at the end nothing is left.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod stage;
mod zoo;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use plugbus::plugin::{ChannelSender, Error, Verdict};
use plugbus::supervise::{Governor, State};
use serde_json::{Value, json};
use stage::witness::Witness;
use stage::{Part, Stage};
use tokio::task::{JoinHandle, JoinSet};

/// Where the plugin is in the protocol when it fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// It has not said hello.
    Start,
    /// Welcomed, and not registered.
    Hello,
    /// Registered, and not ready.
    Registered,
    /// It has just said that it is ready.
    Ready,
    /// In the middle of a call that it serves.
    Serving,
    /// In the middle of a call that it makes.
    Calling,
    /// In the middle of a message.
    Receiving,
    /// It has sent messages that nobody has acknowledged.
    Sent,
    /// It has been asked to end.
    Stopping,
    /// It is to take the place of another one.
    Successor,
    /// Another one is about to take its place.
    Replaced,
    /// Another one has taken its place while it had calls.
    Retiring,
}

const STEPS: [Step; 12] = [
    Step::Start,
    Step::Hello,
    Step::Registered,
    Step::Ready,
    Step::Serving,
    Step::Calling,
    Step::Receiving,
    Step::Sent,
    Step::Stopping,
    Step::Successor,
    Step::Replaced,
    Step::Retiring,
];

/// How it fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    /// Ends and says that all is well.
    Zero,
    /// Ends with another code.
    Code,
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Hang,
    /// Closes its connection, and lives on.
    Close,
    /// Sends what is no frame.
    Garbage,
}

const FAULTS: [Fault; 6] =
    [Fault::Zero, Fault::Code, Fault::Kill, Fault::Hang, Fault::Close, Fault::Garbage];

#[derive(Clone, Copy, Debug)]
struct Cell {
    step: Step,
    fault: Fault,
}

impl Cell {
    fn name(self) -> String {
        format!("{:?}-{:?}", self.step, self.fault).to_lowercase()
    }

    fn is_early(self) -> bool {
        matches!(self.step, Step::Start | Step::Hello | Step::Registered | Step::Ready)
    }

    fn part(self) -> Part {
        let words = [format!("{:?}", self.step), format!("{:?}", self.fault)];
        let [step, fault] = words.map(|word| word.to_lowercase());
        let part = Part::python(&self.name(), "failing.py", &[&step, &fault])
            .line("lifecycle.backoff = { first = '10ms', max = '10ms' }")
            .line("lifecycle.hold = '2m'")
            .line("lifecycle.stop_grace = '50ms'")
            .line(if self.is_early() { "lifecycle.lazy = true" } else { "" });
        // A process that is slow to start or to answer must not be taken for one that hangs, so
        // only those that hang are watched closely.
        match (self.fault, self.step) {
            (
                Fault::Hang | Fault::Close,
                Step::Start | Step::Hello | Step::Registered | Step::Successor,
            ) => part.line("lifecycle.start_timeout = '6s'"),
            (Fault::Hang, _) => part.line("lifecycle.health = { interval = '250ms', misses = 8 }"),
            (Fault::Close, _) => part.line("lifecycle.health = { interval = '250ms' }"),
            _ => part,
        }
    }
}

#[tokio::test]
async fn whatever_fails_wherever_is_mended_and_nobody_else_notices() {
    let cells = STEPS.iter().flat_map(|&step| FAULTS.map(|fault| Cell { step, fault }));
    let only = std::env::var("PLUGBUS_CELL").unwrap_or_default();
    let cells: Vec<Cell> = cells.filter(|cell| cell.name().contains(&only)).collect();
    let parts = cells.iter().map(|cell| cell.part());
    let bystander = Part::python("bystander", "failing.py", &["never", "never"]);
    let stage = Stage::start(parts.chain([bystander]).collect(), Governor::new(100, 100, 12)).await;
    let witness = Witness::join(stage.broker.socket().unwrap());
    let stage = Arc::new(stage);
    let witness = Arc::new(witness);

    stage.enters("bystander", State::Ready, 1).await;
    let watched = watch_bystander(&stage);
    let mut running = JoinSet::new();
    for cell in cells {
        let scene = Scene::new(&stage, &witness, cell).await;
        running.spawn(scene.play());
    }
    let mut failed = 0;
    while let Some(ended) = running.join_next().await {
        failed += usize::from(ended.is_err());
    }
    assert_eq!(failed, 0, "cells failed");
    watched.await.unwrap();
    stage.settle().await;
    let Ok(stage) = Arc::try_unwrap(stage) else { panic!("every cell has ended") };
    stage.end().await;
    let Ok(witness) = Arc::try_unwrap(witness) else { panic!("every cell has ended") };
    witness.end();
}

/// Calls a plugin that nothing happens to, one call after the other, until all others are done.
fn watch_bystander(stage: &Arc<Stage>) -> JoinHandle<()> {
    let stage = Arc::downgrade(stage);
    tokio::spawn(async move {
        let mut processes = Vec::new();
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        while let Some(stage) = stage.upgrade() {
            let process = stage.call("bystander.plain").await.unwrap();
            processes.push(process);
            // The last one of the others has gone.
            if Arc::strong_count(&stage) == 2 {
                break;
            }
            drop(stage);
            ticks.tick().await;
        }
        processes.dedup();
        assert_eq!(processes.len(), 1, "one process answers all the time");
    })
}

/// What a cell works with.
struct Scene {
    stage: Arc<Stage>,
    witness: Arc<Witness>,
    cell: Cell,
    id: String,
    channel: ChannelSender,
    /// The number of the last message.
    sent: u64,
}

type Pending = JoinHandle<plugbus::plugin::Result<Value>>;

impl Scene {
    async fn new(stage: &Arc<Stage>, witness: &Arc<Witness>, cell: Cell) -> Self {
        let (stage, witness, id) = (Arc::clone(stage), Arc::clone(witness), cell.name());
        let channel = stage.client.sender(&format!("{id}/work")).await.unwrap();
        Self { stage, witness, cell, id, channel, sent: 0 }
    }

    async fn play(mut self) {
        match self.cell.step {
            Step::Start | Step::Hello | Step::Registered | Step::Ready => self.fail_early().await,
            Step::Serving | Step::Calling | Step::Receiving | Step::Sent => self.fail_late().await,
            Step::Stopping => self.fail_while_stopping().await,
            Step::Successor => self.fail_as_successor().await,
            Step::Replaced => self.fail_while_replaced().await,
            Step::Retiring => self.fail_while_retiring().await,
        }
        self.channel.completed().await.unwrap();
        self.check_messages();
        self.check_decisions();
    }

    /// Before it serves: whatever waits for it goes on waiting.
    async fn fail_early(&mut self) {
        let (pid, plain) = (self.begin("pid"), self.begin("plain"));
        self.send(5).await;
        let cause = self.stage.enters(&self.id, State::BackingOff, 1).await;
        self.check_cause(&cause);
        self.send(5).await;
        // At the moment of getting ready, the end of the process may be seen before its word.
        let was_ready = self.stage.path(&self.id).get(2) == Some(&State::Ready);
        let new = self.process(1 + usize::from(was_ready)).await;
        let (pid, plain) = (pid.await.unwrap().unwrap(), plain.await.unwrap());
        if self.cell.step == Step::Ready {
            // The first process may have got them.
            assert!(matches!(plain, Ok(_) | Err(Error::PeerDied { .. })), "{}: {plain:?}", self.id);
        } else {
            assert_eq!((&pid, &plain.unwrap()), (&new, &new), "{}", self.id);
        }
    }

    /// With calls and messages under way.
    async fn fail_late(&mut self) {
        let old = self.process(1).await;
        let (again, once) = self.occupy().await;
        self.send(2).await;
        let act = self.act(1);
        match self.cell.step {
            Step::Serving => self.check_lost(act).await,
            Step::Calling => {
                self.witness.reached(&self.gate("made")).await;
                self.fail_now().await;
            }
            Step::Sent => {
                // Its answer comes after the messages, so that the broker has taken them.
                act.await.unwrap().unwrap();
                self.witness.reached(&self.id).await;
                self.fail_now().await;
            }
            _ => drop(act.await.unwrap().unwrap()),
        }
        // The third message is the one that some do not survive.
        self.send(3).await;
        let cause = self.stage.enters(&self.id, State::BackingOff, 1).await;
        self.check_cause(&cause);
        let plain = self.begin("plain");
        self.send(5).await;

        let new = self.process(2).await;
        assert_ne!(new, old, "{}", self.id);
        self.check_lost(once).await;
        assert_eq!(again.await.unwrap().unwrap(), new, "{}", self.id);
        assert_eq!(plain.await.unwrap().unwrap(), new, "{}", self.id);
        match self.cell.step {
            Step::Calling => {
                let gate = self.gate("made");
                self.witness.until(|known| known.gone.contains(&gate)).await;
            }
            Step::Sent => {
                self.act(6).await.unwrap().unwrap();
                self.witness.open(&self.id);
                self.witness
                    .until(|known| known.heard.get(&self.id).is_some_and(|it| it.len() == 10))
                    .await;
                let heard = &self.witness.known().heard[&self.id];
                // Each session has an order of its own.
                let (one, two): (Vec<u64>, Vec<u64>) =
                    heard.iter().partition(|&&number| number <= 5);
                assert_eq!((one, two), ((1..=5).collect(), (6..=10).collect()), "{}", self.id);
            }
            _ => (),
        }
    }

    /// It ends as it was asked to, if in another way.
    async fn fail_while_stopping(&mut self) {
        let old = self.process(1).await;
        let (again, once) = self.occupy().await;
        self.send(5).await;
        self.stage.plugins.stop_plugin(&self.id).unwrap();
        self.stage.enters(&self.id, State::Stopped, 1).await;
        // Nobody is to take its place, so that no call is made again.
        self.check_lost(once).await;
        self.check_lost(again).await;
        self.send(5).await;
        let refused = self.begin("plain").await.unwrap().unwrap_err();
        assert!(refused.to_string().contains("stopped"), "{}: {refused}", self.id);

        self.stage.plugins.start_plugin(&self.id).unwrap();
        assert_ne!(self.process(2).await, old, "{}", self.id);
    }

    /// The one that it was to replace goes on serving.
    async fn fail_as_successor(&mut self) {
        let old = self.process(1).await;
        let (again, once) = self.occupy().await;
        self.send(5).await;
        self.stage.plugins.replace_plugin(&self.id).unwrap();
        let cause = self.stage.enters(&self.id, State::Ready, 2).await;
        assert!(cause.contains("goes on serving"), "{}: {cause}", self.id);
        self.check_cause(&cause);
        self.send(5).await;
        assert_eq!(self.stage.call(&format!("{}.plain", self.id)).await.unwrap(), old);
        self.witness.open(&self.gate("again"));
        self.witness.open(&self.gate("once"));
        for call in [again, once] {
            assert_eq!(call.await.unwrap().unwrap(), old, "{}", self.id);
        }

        self.stage.plugins.replace_plugin(&self.id).unwrap();
        let cause = self.stage.enters(&self.id, State::Ready, 3).await;
        assert_eq!(cause, "its successor serves", "{}", self.id);
        self.other_than(&old).await;
    }

    /// Its successor, which is not ready yet, is all that is left.
    async fn fail_while_replaced(&mut self) {
        let old = self.process(1).await;
        let (again, once) = self.occupy().await;
        self.send(5).await;
        self.stage.plugins.replace_plugin(&self.id).unwrap();
        self.witness.reached(&self.gate("starting")).await;
        self.fail_now().await;
        let cause = self.stage.enters(&self.id, State::Starting, 2).await;
        self.check_cause(&cause);
        let plain = self.begin("plain");
        self.send(5).await;
        self.witness.open(&self.gate("starting"));
        let new = self.process(2).await;
        assert_ne!(new, old, "{}", self.id);
        self.check_lost(once).await;
        for call in [again, plain] {
            assert_eq!(call.await.unwrap().unwrap(), new, "{}", self.id);
        }
    }

    /// Those whose calls it still had are told; everybody else has the successor.
    async fn fail_while_retiring(&mut self) {
        let old = self.process(1).await;
        self.send(5).await;
        self.channel.completed().await.unwrap();
        let (again, once) = self.occupy().await;
        self.stage.plugins.replace_plugin(&self.id).unwrap();
        let cause = self.stage.enters(&self.id, State::Ready, 2).await;
        assert_eq!(cause, "its successor serves", "{}", self.id);
        self.send(5).await;
        let new = self.other_than(&old).await;
        self.witness.open(&self.gate("once"));
        if self.cell.fault == Fault::Hang {
            // It has half a minute for its calls. Their callers are less patient, and what it asked
            // for itself is answered.
            self.witness.open(&self.gate("again"));
            for call in [again, once] {
                call.abort();
            }
        } else {
            self.check_lost(once).await;
            assert_eq!(again.await.unwrap().unwrap(), new, "{}", self.id);
        }
    }

    /// Two calls that the first process does not answer: one that may be made again, and one that
    /// may not.
    async fn occupy(&self) -> (Pending, Pending) {
        let calls = (self.begin("again"), self.begin("once"));
        self.witness.reached(&self.gate("again")).await;
        self.witness.reached(&self.gate("once")).await;
        calls
    }

    fn gate(&self, name: &str) -> String {
        format!("{}/{name}", self.id)
    }

    fn begin(&self, method: &str) -> Pending {
        let (client, method) = (self.stage.client.clone(), format!("{}.{method}", self.id));
        tokio::spawn(async move { client.call(&method, &json!({})).await })
    }

    fn act(&self, first: u64) -> Pending {
        let (client, method) = (self.stage.client.clone(), format!("{}.act", self.id));
        tokio::spawn(async move { client.call(&method, &json!({ "first": first })).await })
    }

    async fn fail_now(&self) {
        self.stage.client.publish(&format!("fail.{}", self.id), &()).await.unwrap();
    }

    async fn send(&mut self, count: u64) {
        for _ in 0..count {
            self.sent += 1;
            self.channel.send_value(&self.sent).await.unwrap();
        }
    }

    /// The process that answers, once the plugin has been ready so often.
    async fn process(&self, times: usize) -> Value {
        self.stage.enters(&self.id, State::Ready, times).await;
        self.stage.call(&format!("{}.pid", self.id)).await.unwrap()
    }

    /// The process that answers once it is not this one any more. The change is told in the moment
    /// in which it is decided, just before it is made.
    async fn other_than(&self, old: &Value) -> Value {
        loop {
            let process = self.stage.call(&format!("{}.pid", self.id)).await.unwrap();
            if process != *old {
                return process;
            }
        }
    }

    async fn check_lost(&self, call: Pending) {
        match call.await.unwrap() {
            Err(Error::PeerDied { verdict, .. }) => {
                assert_ne!(verdict, Verdict::NeverDelivered, "{}", self.id);
            }
            other => panic!("{}: {other:?}", self.id),
        }
    }

    /// Why it is in its state, as people are told.
    fn check_cause(&self, cause: &str) {
        let early = match self.cell.fault {
            Fault::Zero => "exited with code 0 before it was ready",
            Fault::Code => "exited with code 3 before it was ready",
            Fault::Kill => "was killed (SIGKILL)",
            Fault::Hang | Fault::Close => "not ready in time",
            Fault::Garbage => "exited with code 1 before it was ready",
        };
        let late = match self.cell.fault {
            Fault::Zero => "ended by itself",
            Fault::Code => "ended with code 3",
            Fault::Kill => "killed by signal 9",
            Fault::Hang => "it hung: missed pings",
            Fault::Close => "its process went on without one",
            Fault::Garbage => "ended with code 1",
        };
        let expected = match self.cell.step {
            Step::Start | Step::Hello | Step::Registered | Step::Successor => &[early][..],
            Step::Ready => &[early, late],
            _ => &[late],
        };
        assert!(expected.iter().any(|text| cause.contains(text)), "{}: {cause}", self.id);
    }

    /// What the supervisor has decided, from the first start on.
    fn check_decisions(&self) {
        use State::{BackingOff, Ready, Replacing, Sleeping, Starting, Stopped, Stopping};
        let is_killed = matches!(self.cell.fault, Fault::Hang | Fault::Close);
        let path = self.stage.path(&self.id);
        let (expected, processes, failures) = match self.cell.step {
            Step::Start | Step::Hello | Step::Registered => {
                (vec![Sleeping, Starting, Stopping, BackingOff, Starting, Ready], 2, 1)
            }
            Step::Ready if path.get(2) != Some(&Ready) => {
                (vec![Sleeping, Starting, Stopping, BackingOff, Starting, Ready], 2, 1)
            }
            Step::Ready => {
                (vec![Sleeping, Starting, Ready, Stopping, BackingOff, Starting, Ready], 2, 1)
            }
            Step::Serving | Step::Calling | Step::Receiving | Step::Sent => {
                (vec![Starting, Ready, Stopping, BackingOff, Starting, Ready], 2, 1)
            }
            Step::Stopping => (vec![Starting, Ready, Stopping, Stopped, Starting, Ready], 2, 0),
            Step::Successor => (vec![Starting, Ready, Replacing, Ready, Replacing, Ready], 3, 0),
            Step::Replaced => (vec![Starting, Ready, Replacing, Starting, Ready], 2, 0),
            Step::Retiring => (vec![Starting, Ready, Replacing, Ready], 2, 0),
        };
        let is_seen = |state: &State| {
            // Only what does not end by itself is killed before it is started again.
            *state != Stopping || is_killed || self.cell.step == Step::Stopping
        };
        let expected: Vec<State> = expected.into_iter().filter(is_seen).collect();
        assert_eq!(path, expected, "{}: {}", self.id, self.stage.told(&self.id));
        let starts = fs::read_to_string(self.stage.file(&format!("{}.starts", self.id))).unwrap();
        assert_eq!(starts.lines().count(), processes, "{}", self.id);
        let report = self.stage.report(&self.id);
        assert_eq!(
            (&report["restarts"], &report["failures"]),
            (&failures.into(), &failures.into())
        );
    }

    /// Each process got messages without a hole, and began not later than where the last one ended.
    fn check_messages(&self) {
        let seen = fs::read_to_string(self.stage.file(&format!("{}.seen", self.id))).unwrap();
        let (mut process, mut last) = (0, 0);
        for line in seen.lines() {
            let (by, number) = line.split_once(' ').unwrap();
            let (by, number): (u64, u64) = (by.parse().unwrap(), number.parse().unwrap());
            if by == process {
                assert_eq!(number, last + 1, "{}: {seen}", self.id);
            } else {
                assert!(by > process && number <= last + 1, "{}: {seen}", self.id);
            }
            (process, last) = (by, number);
        }
        assert_eq!(last, self.sent, "{}: {seen}", self.id);
    }
}
