//! `plugbus status`: what the broker has done and what it holds.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::Context;
use super::client::{connect, failure};
use super::failure::Result;
use super::list::{PluginRow, not_understood};
use super::terminal::{BOLD, DIM, Terminal, YELLOW};

/// Shows what the broker has done, what it holds, and for whom.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {}

pub(super) async fn run(context: &Context, StatusArgs {}: StatusArgs) -> Result<()> {
    let client = connect(context).await?;
    let answer = client.query("status", None).await.map_err(failure)?;
    if context.terminal.json {
        return context.terminal.json(&answer);
    }
    print(context.terminal, &Status::deserialize(&answer).map_err(not_understood)?)
}

fn print(terminal: Terminal, status: &Status) -> Result<()> {
    let Status { broker, version, pid, uptime_ms, sessions, .. } = status;
    let uptime = age(Duration::from_millis(*uptime_ms));
    terminal.line(format_args!(
        "{BOLD}broker {broker}{BOLD:#}  plugbus {version}, process {pid}, up {uptime}, {sessions} sessions"
    ))?;
    for plugin in &status.plugins {
        print_plugin(terminal, plugin)?;
    }
    for (kind, tally) in &status.tally {
        let ends: Vec<_> = tally
            .iter()
            .filter(|(name, count)| **count > 0 && *name != "accepted")
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        let accepted = tally.get("accepted").copied().unwrap_or(0);
        let ends = if ends.is_empty() { String::new() } else { format!(": {}", ends.join(", ")) };
        terminal.line(format_args!("{kind:10} {accepted} accepted{ends}"))?;
    }
    for Holding { plugin, resource, used } in &status.ledger {
        terminal.line(format_args!("{DIM}{plugin} holds {used} {resource}{DIM:#}"))?;
    }
    for DeadLetters { channel, from, first, last, cause } in &status.dead_letters {
        let range = if first == last { first.to_string() } else { format!("{first}–{last}") };
        terminal.line(format_args!(
            "{YELLOW}dead: {channel} from {from}, messages {range}: {cause}{YELLOW:#}"
        ))?;
    }
    Ok(())
}

fn print_plugin(terminal: Terminal, plugin: &PluginRow) -> Result<()> {
    let PluginRow { id, state, role, incarnation, .. } = plugin;
    let mut notes = String::new();
    if let Some(oldest) = plugin.oldest_unanswered_ms {
        notes += &format!(", oldest call waits {}", age(Duration::from_millis(oldest)));
    }
    if let Some(silent) = plugin.unanswered_ping_ms {
        notes += &format!(", no answer to a ping for {}", age(Duration::from_millis(silent)));
    }
    terminal.line(format_args!(
        "  {id}  {state} {DIM}({role}, incarnation {incarnation}){DIM:#}{YELLOW}{notes}{YELLOW:#}"
    ))
}

/// The two largest units: `3h 5m`.
pub(super) fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, 0) => format!("{} ms", time.as_millis()),
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h {minutes}m"),
        (days, hours, ..) => format!("{days}d {hours}h"),
    }
}

/// The answer to the query `status`, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Status {
    broker: String,
    version: String,
    pid: u32,
    uptime_ms: u64,
    sessions: u64,
    #[serde(default)]
    tally: BTreeMap<String, BTreeMap<String, u64>>,
    #[serde(default)]
    ledger: Vec<Holding>,
    #[serde(default)]
    dead_letters: Vec<DeadLetters>,
    #[serde(default)]
    plugins: Vec<PluginRow>,
}

#[derive(Debug, Deserialize)]
struct Holding {
    plugin: String,
    resource: String,
    used: u64,
}

#[derive(Debug, Deserialize)]
struct DeadLetters {
    channel: String,
    from: String,
    first: u64,
    last: u64,
    cause: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units() {
        let cases = [
            (12, "12 ms"),
            (59_999, "59s"),
            (61_000, "1m 1s"),
            (3_660_000, "1h 1m"),
            (90_000_000, "1d 1h"),
        ];
        for (milliseconds, expected) in cases {
            assert_eq!(age(Duration::from_millis(milliseconds)), expected);
        }
    }
}
