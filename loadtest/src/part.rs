//! The processes that a scenario is made of: each is this program again, with one part to play.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::{broker, crowd, relay, sdk, supervisor, wire};

/// What a process does.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Part {
    pub(crate) role: Role,
    pub(crate) system: System,
    pub(crate) socket: PathBuf,
    /// Bytes of a payload.
    pub(crate) size: usize,
    /// How long to send or to ask.
    pub(crate) nanos: u64,
    /// Calls in the air, connections, receivers, or plugins.
    pub(crate) count: usize,
}

/// What is measured.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
#[derive(clap::ValueEnum)]
pub(crate) enum System {
    /// The bare relay and its raw clients.
    Relay,
    /// The broker through the Rust SDK, which sends in batches.
    Plugbus,
    /// The same with one `send` for each message.
    Single,
    /// The broker with clients that write frames by hand, which shows what the SDK costs.
    Wire,
}

/// Parts to play.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// In the middle.
    Server,
    /// One stream to one receiver.
    Send,
    /// Its receiver.
    Receive,
    /// One stream to many.
    Publish,
    /// One of them.
    Subscribe,
    /// Answers with what it is asked.
    Echo,
    /// Asks.
    Call,
    /// Connections that do nothing.
    Crowd,
    /// In the middle, with plugins that it supervises.
    Supervise,
    /// The same with one plugin in Python.
    SupervisePython,
}

/// What a process says of itself, one JSON value a line.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Line {
    /// Others may start.
    Ready,
    /// The stream has been sent, beginning at that moment.
    Sent { count: u64, started: u64, cpu: u64 },
    /// The stream has been received, ending at that moment.
    Received { count: u64, ended: u64, cpu: u64 },
    /// All calls have their answers.
    Called { count: u64, elapsed: u64, p50: u64, p99: u64 },
    /// The plugins are started from that moment on.
    Supervises { at: u64 },
    /// A plugin was ready at that moment.
    Serves { pid: u32, at: u64 },
    /// All plugins had been stopped at that moment.
    Stopped { at: u64 },
}

/// Plays a part. The process must not outlive its parent.
pub(crate) fn play(part: &str, parent: i32) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    ensure!(getppid().map(Pid::as_raw_pid) == Some(parent), "the parent has gone");
    let Part { role, system, socket, size, nanos, count } = serde_json::from_str(part)?;
    match (role, system) {
        (Role::Server, System::Relay) => relay::serve(&socket),
        (Role::Server, System::Plugbus | System::Single | System::Wire) => broker::serve(socket),
        (Role::Crowd, _) => crowd::gather(&socket, count),
        (Role::Supervise, _) => supervisor::supervise(&socket, count),
        (Role::SupervisePython, _) => supervisor::supervise_python(&socket),

        (Role::Send | Role::Publish, System::Relay) => relay::client::send(&socket, size, nanos),
        (Role::Receive | Role::Subscribe, System::Relay) => relay::client::receive(&socket, size),
        (Role::Echo, System::Relay) => relay::client::echo(&socket),
        (Role::Call, System::Relay) => relay::client::call(&socket, size, count, nanos),

        (Role::Send, System::Wire) => wire::stream::send(&socket, size, nanos),
        (Role::Receive, System::Wire) => wire::stream::receive(&socket, size),
        (Role::Publish, System::Wire) => wire::stream::publish(&socket, size, nanos),
        (Role::Subscribe, System::Wire) => wire::stream::subscribe(&socket, size),
        (Role::Echo, System::Wire) => wire::call::echo(&socket),
        (Role::Call, System::Wire) => wire::call::call(&socket, size, count, nanos),

        (Role::Send, System::Single) => sdk::play_single_sender(&socket, size, nanos),
        (role, System::Plugbus | System::Single) => sdk::play(role, &socket, size, count, nanos),
    }
}

/// Reports to the parent.
pub(crate) fn say(line: &Line) -> Result<()> {
    let mut output = std::io::stdout().lock();
    serde_json::to_writer(&mut output, line)?;
    output.write_all(b"\n")?;
    Ok(output.flush()?)
}
