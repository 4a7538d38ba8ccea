//! What is measured: processes that play together, and the figures that come out.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::part::{Line, Part, Role, System};
use crate::process::Process;
use crate::supervision;

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What it is, for people.
    pub(crate) title: &'static str,
    /// What is read from it first.
    pub(crate) unit: Unit,
    kind: Kind,
    size: usize,
    count: usize,
}

/// What a scenario's main figure counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unit {
    /// More is better.
    Messages,
    /// More is better.
    Calls,
    /// Less is better.
    Micros,
    /// Less is better; nothing to compare with.
    Memory,
    /// Less is better; there are goals.
    Supervision,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Stream,
    FanOut,
    Call,
    Idle,
    Supervise,
}

/// Figures of one run, by name.
pub(crate) type Figures = BTreeMap<String, f64>;

impl Scenario {
    pub(crate) const ALL: &[Self] = &[
        Self::stream("one-way-64", "one way, 64 B", 64),
        Self::stream("one-way-1k", "one way, 1 KiB", 1 << 10),
        Self::stream("one-way-16k", "one way, 16 KiB", 16 << 10),
        Self::stream("one-way-1m", "one way, 1 MiB", 1 << 20),
        Self {
            name: "call",
            title: "request and response of 64 B, one outstanding",
            unit: Unit::Micros,
            kind: Kind::Call,
            size: 64,
            count: 1,
        },
        Self {
            name: "call-64",
            title: "request and response of 64 B, 64 outstanding",
            unit: Unit::Calls,
            kind: Kind::Call,
            size: 64,
            count: 64,
        },
        Self {
            name: "fan-out",
            title: "one publisher, 8 subscribers, 64 B, delivered",
            unit: Unit::Messages,
            kind: Kind::FanOut,
            size: 64,
            count: 8,
        },
        Self {
            name: "idle",
            title: "the idle broker, and 1,000 idle connections",
            unit: Unit::Memory,
            kind: Kind::Idle,
            size: 64,
            count: 1_000,
        },
        Self {
            name: "supervise",
            title: "plugins that are killed, and 100 idle plugins",
            unit: Unit::Supervision,
            kind: Kind::Supervise,
            size: 64,
            count: 100,
        },
    ];

    const fn stream(name: &'static str, title: &'static str, size: usize) -> Self {
        Self { name, title, unit: Unit::Messages, kind: Kind::Stream, size, count: 1 }
    }

    /// Finds one by name.
    pub(crate) fn find(name: &str) -> Result<&'static Self> {
        match Self::ALL.iter().find(|scenario| scenario.name == name) {
            Some(scenario) => Ok(scenario),
            None => {
                let names: Vec<&str> = Self::ALL.iter().map(|scenario| scenario.name).collect();
                bail!("no scenario `{name}`; there are {}", names.join(", "))
            }
        }
    }

    /// Whether a system can be measured in it. The SDK's subscriptions shed when they are slow, so
    /// that a stream of events through it has no loss-free rate to compare.
    pub(crate) fn takes(&self, system: System) -> bool {
        match self.kind {
            Kind::Stream => true,
            Kind::Call => system != System::Single,
            Kind::FanOut => !matches!(system, System::Plugbus | System::Single),
            Kind::Idle | Kind::Supervise => system == System::Plugbus,
        }
    }

    /// Runs it once, with processes of its own.
    pub(crate) fn run(&self, system: System, directory: &Path, time: Duration) -> Result<Figures> {
        let part = Part {
            role: Role::Server,
            system,
            socket: directory.join("broker.sock"),
            size: self.size,
            nanos: u64::try_from(time.as_nanos())?,
            count: self.count,
        };
        match self.kind {
            Kind::Stream => self.run_stream(&part, Role::Send, Role::Receive),
            Kind::FanOut => self.run_stream(&part, Role::Publish, Role::Subscribe),
            Kind::Call => run_calls(&part),
            Kind::Idle => run_idle(&part),
            Kind::Supervise => supervision::run(&part),
        }
    }

    fn run_stream(&self, part: &Part, sender: Role, receiver: Role) -> Result<Figures> {
        let server = Process::start_ready(part.clone())?;
        let receivers: Result<Vec<Process>> = (0..self.count)
            .map(|_| Process::start_ready(Part { role: receiver, ..part.clone() }))
            .collect();
        let mut receivers = receivers?;
        let cpu = server.cpu_nanos()?;
        let mut sender = Process::start(Part { role: sender, ..part.clone() })?;
        let Line::Sent { count: sent, started, cpu: sender_cpu } = sender.hear()? else {
            bail!("the sender did not send")
        };
        let mut last = started;
        let mut receiver_cpu = 0;
        for receiver in &mut receivers {
            let Line::Received { count, ended, cpu } = receiver.hear()? else {
                bail!("the receiver did not receive")
            };
            ensure!(count == sent, "{sent} messages were sent, {count} received");
            last = last.max(ended);
            receiver_cpu += cpu;
        }
        let cpu = server.cpu_nanos()? - cpu;
        let delivered = (sent * receivers.len() as u64) as f64;
        let seconds = (last - started) as f64 / 1e9;
        Ok(Figures::from([
            ("rate".to_owned(), delivered / seconds),
            ("server_ns".to_owned(), cpu as f64 / delivered),
            ("sender_ns".to_owned(), sender_cpu as f64 / sent as f64),
            ("receiver_ns".to_owned(), receiver_cpu as f64 / delivered),
        ]))
    }
}

fn run_calls(part: &Part) -> Result<Figures> {
    let server = Process::start_ready(part.clone())?;
    let _echo = Process::start_ready(Part { role: Role::Echo, ..part.clone() })?;
    let cpu = server.cpu_nanos()?;
    let mut caller = Process::start(Part { role: Role::Call, ..part.clone() })?;
    let Line::Called { count, elapsed, p50, p99 } = caller.hear()? else {
        bail!("the caller did not call")
    };
    let cpu = server.cpu_nanos()? - cpu;
    Ok(Figures::from([
        ("rate".to_owned(), count as f64 / (elapsed as f64 / 1e9)),
        ("p50_us".to_owned(), p50 as f64 / 1e3),
        ("p99_us".to_owned(), p99 as f64 / 1e3),
        ("server_ns".to_owned(), cpu as f64 / count as f64),
    ]))
}

fn run_idle(part: &Part) -> Result<Figures> {
    let server = Process::start_ready(part.clone())?;
    let crowd = |count| Process::start_ready(Part { role: Role::Crowd, count, ..part.clone() });
    // The first connection pays for what the broker allocates once.
    let first = crowd(1)?;
    let alone = server.resident()?;
    let cpu = server.cpu_nanos()?;
    thread::sleep(IDLE_TIME);
    let cpu = server.cpu_nanos()? - cpu;
    let many = crowd(part.count)?;
    let crowded = server.resident()?;
    let crowded_cpu = server.cpu_nanos()?;
    thread::sleep(IDLE_TIME);
    let crowded_cpu = server.cpu_nanos()? - crowded_cpu;
    drop((first, many));
    let percent = |nanos: u64| 100.0 * nanos as f64 / IDLE_TIME.as_nanos() as f64;
    Ok(Figures::from([
        ("broker_mib".to_owned(), alone as f64 / f64::from(1 << 20)),
        ("cpu_percent".to_owned(), percent(cpu)),
        ("crowded_cpu_percent".to_owned(), percent(crowded_cpu)),
        (
            "connection_kib".to_owned(),
            crowded.saturating_sub(alone) as f64 / f64::from(1 << 10) / part.count as f64,
        ),
    ]))
}

/// All figures of one scenario and system, a value for each round.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Rounds(pub(crate) BTreeMap<String, Vec<f64>>);

impl Rounds {
    pub(crate) fn add(&mut self, figures: Figures) {
        for (name, value) in figures {
            self.0.entry(name).or_default().push(value);
        }
    }

    /// Median of one figure.
    pub(crate) fn median(&self, figure: &str) -> Option<f64> {
        median(self.0.get(figure)?.clone())
    }

    /// Median of the ratios of rounds that ran beside each other.
    pub(crate) fn ratio(&self, base: &Self, figure: &str) -> Option<f64> {
        let (ours, theirs) = (self.0.get(figure)?, base.0.get(figure)?);
        median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// How long the idle broker is watched.
const IDLE_TIME: Duration = Duration::from_secs(3);
