//! The step in which a broker is killed.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::report::Finding;
use super::stage::Stage;
use super::steps::Result;

/// A broker of its own is killed, and everything that its plugin has started ends: a child, one in
/// a session of its own, and a daemon.
pub(super) async fn orphans(stage: &mut Stage) -> Result<Finding> {
    let mut finding = Finding::default();
    let file = stage.path("forker.py");
    std::fs::write(&file, FORKER)?;
    let socket = stage.path("run/plugbus/killed.sock");
    let mut broker = Command::new(stage.program());
    broker
        .arg("--socket")
        .arg(socket)
        .args(["--json", "run"])
        .arg(file)
        .env("XDG_STATE_HOME", stage.path("state"))
        .env("XDG_CACHE_HOME", stage.path("cache"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut broker = broker.spawn()?;
    let output = broker.stdout.take().ok_or("its output is not piped")?;
    let mut lines = BufReader::new(output).lines();
    let mut ends = Vec::new();
    let mut is_serving = false;
    while !is_serving || ends.len() < PROCESSES {
        let line = lines.next_line().await?.ok_or("the broker ended")?;
        let event: Value = serde_json::from_str(&line)?;
        is_serving |= event["event"] == "serving";
        let pid = match event["event"].as_str() {
            Some("started") => event["pid"].as_i64(),
            Some("output") => event["line"].as_str().and_then(|line| line.parse().ok()),
            _ => None,
        };
        if let Some(pid) = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            ends.push(pidfd_open(pid, PidfdFlags::empty())?);
        }
    }
    broker.kill().await?;
    let count = ends.len();
    let left = tokio::task::spawn_blocking(move || left(&ends)).await??;
    finding.equal("processes that are left", &left, &0);
    finding.fact("processes", count);
    Ok(finding.says(format!(
        "a broker was killed; the plugin and the {} processes that it had started, one of them\n\
         a daemon, ended with it",
        count - 1
    )))
}

/// How many do not end soon.
fn left(ends: &[OwnedFd]) -> io::Result<usize> {
    let mut left = 0;
    for end in ends {
        let soon = Timespec { tv_sec: 5, tv_nsec: 0 };
        left += usize::from(poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&soon))? == 0);
    }
    Ok(left)
}

/// The plugin and what it starts.
const PROCESSES: usize = 4;

const FORKER: &str = r#"
import os, signal, plugbus

def stay():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(1, b"%d\n" % os.getpid())
    while True:
        signal.pause()

if os.fork() == 0:
    stay()
if os.fork() == 0:
    os.setsid()
    stay()
child = os.fork()
if child == 0:
    os.setsid()
    if os.fork() == 0:
        stay()
    os._exit(0)
os.waitpid(child, 0)
plugbus.Plugin().run()
"#;
