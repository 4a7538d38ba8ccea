//! Measures supervision: how soon a plugin that was killed is back, how fast many start and stop,
//! and what watching them costs while nothing happens.
//!
//! A run fails if a plugin that is said to be ready does not answer, if the one that was killed is
//! said to be ready again, or if a process is left when all have been stopped.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock::monotonic_nanos;
use crate::part::{Line, Part, Role};
use crate::process::Process;
use crate::scenario::Figures;
use crate::supervisor::greet;

/// One of the figures, and what it has to be below.
pub(crate) struct Goal {
    pub(crate) title: &'static str,
    pub(crate) figure: &'static str,
    pub(crate) below: f64,
    pub(crate) unit: &'static str,
}

impl Goal {
    const fn new(
        title: &'static str,
        figure: &'static str,
        below: f64,
        unit: &'static str,
    ) -> Self {
        Self { title, figure, below, unit }
    }

    pub(crate) const ALL: &[Self] = &[
        Self::new("Rust plugin ready after `kill -9`, median", "rust_median_ms", 250.0, "ms"),
        Self::new("the same, p95", "rust_p95_ms", 250.0, "ms"),
        Self::new("Python plugin ready after `kill -9`, median", "python_median_ms", 600.0, "ms"),
        Self::new("the same, p95", "python_p95_ms", 600.0, "ms"),
        Self::new("100 Rust plugins start", "start_s", 10.0, "s"),
        Self::new("they stop", "stop_s", 5.0, "s"),
        Self::new("supervising 100 idle plugins, CPU", "idle_cpu_percent", 1.0, "%"),
        Self::new("one of them, memory in the broker", "plugin_kib", 64.0, "KiB"),
    ];
}

/// Runs all of it once; `part.count` is the number of plugins.
pub(crate) fn run(part: &Part) -> Result<Figures> {
    let one = Part { role: Role::Supervise, count: 1, ..part.clone() };
    let (rust, alone) = kill_often(&one)?;
    let (python, _) = kill_often(&Part { role: Role::SupervisePython, ..one })?;
    let mut figures = run_many(&Part { role: Role::Supervise, ..part.clone() }, alone)?;
    for (language, times) in [("rust", rust), ("python", python)] {
        figures.insert(format!("{language}_median_ms"), rank(&times, 50) / 1e6);
        figures.insert(format!("{language}_p95_ms"), rank(&times, 95) / 1e6);
    }
    Ok(figures)
}

/// Kills the only plugin again and again. Gives the nanoseconds until it was ready again, sorted,
/// and the broker's memory before the first time.
fn kill_often(part: &Part) -> Result<(Vec<u64>, u64)> {
    let mut supervisor = Process::start(part.clone())?;
    let (_, mut served) = started(&mut supervisor, 1)?;
    let (mut pid, _) = served.pop().expect("it is one");
    greet(&part.socket, 0..1)?;
    thread::sleep(SETTLE_TIME);
    let resident = supervisor.resident()?;
    let mut times = Vec::new();
    for _ in 0..KILLS {
        let killed_at = monotonic_nanos();
        signal(pid, Signal::KILL)?;
        let (next, at) = hear_served(&mut supervisor)?;
        ensure!(next != pid, "process {pid} is said to be ready after it was killed");
        ensure!(at > killed_at, "process {next} was ready before {pid} was killed");
        greet(&part.socket, 0..1)?;
        times.push(at - killed_at);
        pid = next;
    }
    stop(&mut supervisor, &[pid])?;
    times.sort_unstable();
    Ok((times, resident))
}

/// Starts many, watches them idle, and stops them. `alone` is the memory of a broker with one.
fn run_many(part: &Part, alone: u64) -> Result<Figures> {
    let mut supervisor = Process::start(part.clone())?;
    let (began, served) = started(&mut supervisor, part.count)?;
    let ready_at = served.iter().map(|(_, at)| *at).max().context("no plugin")?;
    greet(&part.socket, 0..part.count)?;
    thread::sleep(SETTLE_TIME);
    let cpu = cpu_with_guardians(&supervisor)?;
    thread::sleep(IDLE_TIME);
    let cpu = cpu_with_guardians(&supervisor)? - cpu;
    let resident = supervisor.resident()?;
    let others = part.count.saturating_sub(1).max(1);
    let pids: Vec<u32> = served.iter().map(|(pid, _)| *pid).collect();
    let stopping = stop(&mut supervisor, &pids)?;
    Ok(Figures::from([
        ("start_s".to_owned(), (ready_at - began) as f64 / 1e9),
        ("stop_s".to_owned(), stopping as f64 / 1e9),
        ("idle_cpu_percent".to_owned(), 100.0 * cpu as f64 / IDLE_TIME.as_nanos() as f64),
        (
            "plugin_kib".to_owned(),
            resident.saturating_sub(alone) as f64 / f64::from(1 << 10) / others as f64,
        ),
    ]))
}

/// Waits until so many different processes are ready. Gives when their start began.
fn started(supervisor: &mut Process, count: usize) -> Result<(u64, Vec<(u32, u64)>)> {
    let Line::Supervises { at: began } = supervisor.hear()? else {
        bail!("the supervisor did not begin")
    };
    let served: Result<Vec<_>> = (0..count).map(|_| hear_served(supervisor)).collect();
    let mut served = served?;
    served.sort_unstable();
    ensure!(served.windows(2).all(|two| two[0].0 != two[1].0), "a process was ready twice");
    Ok((began, served))
}

fn hear_served(supervisor: &mut Process) -> Result<(u32, u64)> {
    match supervisor.hear()? {
        Line::Serves { pid, at } => Ok((pid, at)),
        line => bail!("{line:?} instead of a plugin that is ready"),
    }
}

/// Stops all plugins, and says how many nanoseconds that took. Neither they nor their guardians
/// may be left then.
fn stop(supervisor: &mut Process, pids: &[u32]) -> Result<u64> {
    ensure!(pids.iter().all(|&pid| is_there(pid)), "a plugin has ended by itself");
    let began = monotonic_nanos();
    signal(supervisor.id(), Signal::TERM)?;
    let Line::Stopped { at } = supervisor.hear()? else {
        bail!("a plugin started while all were being stopped")
    };
    let left: Vec<_> = pids.iter().filter(|&&pid| is_there(pid)).collect();
    ensure!(left.is_empty(), "plugins are left: {left:?}");
    let children = supervisor.children()?;
    ensure!(children.is_empty(), "the broker still has processes: {children:?}");
    Ok(at - began)
}

/// The guardians are the broker's children; what they do is a part of the supervision.
fn cpu_with_guardians(supervisor: &Process) -> Result<u64> {
    let guardians = supervisor.children()?;
    guardians.into_iter().try_fold(supervisor.cpu_nanos()?, |sum, guardian| {
        Ok(sum + crate::process::cpu_nanos(guardian)?)
    })
}

fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process id")?;
    Ok(kill_process(pid, signal)?)
}

/// The smallest of sorted times that is not below so many percent of them.
fn rank(times: &[u64], percent: usize) -> f64 {
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times[rank - 1] as f64
}

/// How often a plugin is killed.
const KILLS: usize = 20;

/// What a start leaves to be done is over by then.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// How long the idle plugins are watched: four rounds of the health checks.
const IDLE_TIME: Duration = Duration::from_secs(20);
