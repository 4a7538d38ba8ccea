//! Starts the processes of a scenario, hears them, and ends them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::part::{Line, Part};

/// A running part. Dropping it kills the process and waits for its end.
pub(crate) struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
    part: Part,
}

impl Process {
    pub(crate) fn start(part: Part) -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program)
            .arg("part")
            .arg(serde_json::to_string(&part)?)
            .arg(std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        Ok(Self { child, output, part })
    }

    /// Starts it and waits until others may use it.
    pub(crate) fn start_ready(part: Part) -> Result<Self> {
        let mut process = Self::start(part)?;
        match process.hear()? {
            Line::Ready => Ok(process),
            line => bail!("{line:?} instead of ready from {:?}", process.part.role),
        }
    }

    /// The next thing that it says.
    pub(crate) fn hear(&mut self) -> Result<Line> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            bail!("{:?} of {:?} ended with {status}", self.part.role, self.part.system);
        }
        serde_json::from_str(&line).with_context(|| format!("from {:?}: {line}", self.part.role))
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().strip_suffix("kB"))
            .context("no VmRSS in the status of a process")?;
        Ok(kib.trim().parse::<u64>()? << 10)
    }

    /// Nanoseconds that its threads have run.
    pub(crate) fn cpu_nanos(&self) -> Result<u64> {
        cpu_nanos(self.id())
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The processes that its threads have started and not collected.
    pub(crate) fn children(&self) -> Result<Vec<u32>> {
        let mut children = Vec::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let pids = fs::read_to_string(task?.path().join("children"))?;
            for pid in pids.split_whitespace() {
                children.push(pid.parse()?);
            }
        }
        Ok(children)
    }
}

/// Nanoseconds that the threads of a process have run.
pub(crate) fn cpu_nanos(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let schedstat = fs::read_to_string(task?.path().join("schedstat"))?;
        let nanos = schedstat.split_whitespace().next().context("an empty schedstat")?;
        sum += nanos.parse::<u64>()?;
    }
    Ok(sum)
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where the process has ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
