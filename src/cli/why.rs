//! `plugbus why`: one screen that says why a plugin is as it is.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::Context;
use super::client::connect;
use super::control::ask;
use super::failure::Result;
use super::list::not_understood;
use super::show::plain;
use super::status::age;
use super::terminal::{BOLD, BOLD_RED, DIM, GREEN, Terminal, YELLOW};
use crate::host::{Explanation, PluginReport};

/// Shows what happened to a plugin, how it last ended, what it printed, what hangs on it, when it
/// is tried again, and what to type next.
#[derive(Debug, clap::Args)]
pub(super) struct WhyArgs {
    /// Which plugin
    plugin: String,
}

pub(super) async fn run(context: &Context, args: WhyArgs) -> Result<()> {
    let client = connect(context).await?;
    let answer = ask(&client, "why", &json!({"plugin": args.plugin})).await?;
    client.close().await;
    if context.terminal.json {
        return context.terminal.json(&answer);
    }
    for instance in Answer::deserialize(&answer).map_err(not_understood)?.instances {
        print(context.terminal, &instance)?;
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Answer {
    instances: Vec<Explanation>,
}

fn print(terminal: Terminal, explanation: &Explanation) -> Result<()> {
    let Explanation { plugin, timeline, stderr, next_command, .. } = explanation;
    let PluginReport { id, state, reason, .. } = plugin;
    let colour = match state.as_str() {
        "ready" | "busy" => GREEN,
        "failed" | "disabled" | "quarantined" => BOLD_RED,
        _ => YELLOW,
    };
    let since = age(Duration::from_millis(plugin.since_ms));
    let name = match plugin.instance {
        0 => id.clone(),
        instance => format!("{id} (process {instance})"),
    };
    terminal.line(format_args!(
        "{BOLD}{name}{BOLD:#} is {colour}{state}{colour:#} since {since}: {reason}"
    ))?;
    for (what, text) in facts(plugin) {
        terminal.line(format_args!("  {DIM}{what:12}{DIM:#} {text}"))?;
    }
    if !timeline.is_empty() {
        terminal.line(format_args!("\n{BOLD}what happened{BOLD:#}"))?;
    }
    for row in timeline.iter().rev().take(TIMELINE_SHOWN).rev() {
        let change = if row.from == row.to {
            row.to.clone()
        } else {
            format!("{} → {}", row.from, row.to)
        };
        terminal.line(format_args!("  {DIM}{}{DIM:#} {change:26} {}", row.time, row.cause))?;
    }
    if !stderr.is_empty() {
        terminal.line(format_args!("\n{BOLD}last lines of its standard error{BOLD:#}"))?;
    }
    for line in stderr.iter().rev().take(STDERR_SHOWN).rev() {
        terminal.line(format_args!("  {YELLOW}|{YELLOW:#} {}", plain(line)))?;
    }
    if let Some(command) = next_command {
        terminal.line(format_args!("\nnext: {BOLD}{command}{BOLD:#}"))?;
    }
    Ok(())
}

/// What is known beside the state, as far as it is.
fn facts(plugin: &PluginReport) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(version) = &plugin.version {
        facts.push(("version", version.clone()));
    }
    if let Some(pid) = plugin.pid {
        facts.push(("process", pid.to_string()));
    }
    if let Some(load) = &plugin.load {
        let memory = load.memory >> 20;
        let (cpu, descriptors) = (load.cpu_percent, load.descriptors);
        facts.push(("uses", format!("{memory} MiB, {cpu:.1} % CPU, {descriptors} descriptors")));
    }
    if let Some(exit) = &plugin.last_exit {
        facts.push(("last end", exit.clone()));
    }
    if plugin.restarts > 0 {
        let failures = plugin.failures;
        let text = format!("{}, {failures} failures since it was stable", plugin.restarts);
        facts.push(("restarts", text));
    }
    if let Some(next) = plugin.next_try_ms {
        facts.push(("tried again", format!("in {}", age(Duration::from_millis(next)))));
    }
    if !plugin.needs.is_empty() {
        facts.push(("needs", plugin.needs.join(", ")));
    }
    if !plugin.needed_by.is_empty() {
        facts.push(("needed by", plugin.needed_by.join(", ")));
    }
    facts
}

/// So much fits a screen.
const TIMELINE_SHOWN: usize = 12;

/// As `systemctl status` does, and a traceback needs.
const STDERR_SHOWN: usize = 12;
