//! `plugbus status`: what the broker has done and what it holds.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::Context;
use super::client::{connect, failure as refused};
use super::control::ask;
use super::failure::{self, Failure, Result};
use super::list::{PluginRow, not_understood};
use super::show::plain;
use super::terminal::{BOLD, DIM, Terminal, YELLOW};
use crate::host::PluginReport;

/// Shows what the broker has done, what it holds, and for whom. Exits with 7 while a critical
/// plugin does not serve.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {}

pub(super) async fn run(context: &Context, StatusArgs {}: StatusArgs) -> Result<()> {
    let client = connect(context).await?;
    let mut answer = client.query("status", None).await.map_err(refused)?;
    // A broker that an application embeds may have no such participant.
    match ask(&client, "plugins", &json!({})).await {
        Ok(mut supervised) => {
            answer["supervised"] = supervised["plugins"].take();
            answer["unready"] = supervised["unready"].take();
        }
        Err(failure) if failure.status == failure::Status::NotFound => (),
        Err(failure) => return Err(failure),
    }
    let status = Status::deserialize(&answer).map_err(not_understood)?;
    match context.terminal.json {
        true => context.terminal.json(&answer)?,
        false => print(context.terminal, &status)?,
    }
    match status.unready.as_deref() {
        None | Some([]) => Ok(()),
        Some(ids) => {
            let message = format!("not ready: critical plugins do not serve: {}", ids.join(", "));
            Err(Failure::new(failure::Status::Died, message))
        }
    }
}

fn print(terminal: Terminal, status: &Status) -> Result<()> {
    let Status { broker, version, pid, uptime_ms, sessions, .. } = status;
    let uptime = age(Duration::from_millis(*uptime_ms));
    terminal.line(format_args!(
        "{BOLD}broker {broker}{BOLD:#}  plugbus {version}, process {pid}, up {uptime}, {sessions} sessions"
    ))?;
    for plugin in &status.plugins {
        print_plugin(terminal, plugin)?;
        let own = status.supervised.iter().filter(|report| report.id == plugin.id);
        own.into_iter().try_for_each(|report| print_supervision(terminal, report))?;
    }
    // One that has never run has not joined.
    for report in &status.supervised {
        if status.plugins.iter().all(|plugin| plugin.id != report.id) {
            terminal.line(format_args!("  {}  {}", report.id, report.state))?;
            print_supervision(terminal, report)?;
        }
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

/// What becomes of a process of the plugin.
fn print_supervision(terminal: Terminal, report: &PluginReport) -> Result<()> {
    let since = age(Duration::from_millis(report.since_ms));
    let mut text = match report.pid {
        Some(pid) => format!("process {pid} {} for {since}", report.state),
        None => format!("{} for {since}", report.state),
    };
    match report.restarts {
        0 => (),
        1 => text += ", restarted once",
        count => text += &format!(", restarted {count} times"),
    }
    let is_well = matches!(report.state.as_str(), "ready" | "busy" | "sleeping");
    if !is_well {
        text += &format!(": {}", plain(&report.reason));
    }
    if let Some(next) = report.next_try_ms {
        text += &format!("; again in {}", age(Duration::from_millis(next)));
    }
    let style = if is_well { DIM } else { YELLOW };
    terminal.line(format_args!("    {style}{text}{style:#}"))
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
    #[serde(default)]
    supervised: Vec<PluginReport>,
    /// Critical plugins that do not serve, where somebody supervises plugins.
    unready: Option<Vec<String>>,
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
