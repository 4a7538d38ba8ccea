//! `plugbus start`, `stop`, `restart` and `reload`: orders to a running broker about its plugins.
//!
//! The broker answers at once; the command then shows what comes of it, from the plugin's lifecycle
//! events, and ends with a code that says whether it worked.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::Context;
use super::client::{connect, failure};
use super::failure::{Failure, Result, Status};
use super::terminal::{BOLD, DIM, GREEN, Terminal, YELLOW};
use crate::engine::RegistrationDifference;
use crate::engine::supervise::Cause;
use crate::error::Code;
use crate::host::board::cause_text;
use crate::host::control::ReloadReport;
use crate::host::duration;
use crate::plugin::{Client, Received, Subscription};

/// Starts a plugin that is not running, whatever kept it from that, and waits until it is ready.
#[derive(Debug, clap::Args)]
pub(super) struct StartArgs {
    #[command(flatten)]
    order: OrderArgs,
}

/// Stops a plugin until `start`, and waits until it is gone.
#[derive(Debug, clap::Args)]
pub(super) struct StopArgs {
    #[command(flatten)]
    order: OrderArgs,
    /// Kill it at once, with everything that it has started
    #[arg(long)]
    force: bool,
}

/// Stops a plugin and starts it again.
#[derive(Debug, clap::Args)]
pub(super) struct RestartArgs {
    #[command(flatten)]
    order: OrderArgs,
}

/// Without a name, reads plugbus.toml again and applies what changed. With one, starts a new
/// process of the plugin beside the old one and lets it take over when it is ready; no call is
/// lost, and the old one goes on if the new one fails.
#[derive(Debug, clap::Args)]
pub(super) struct ReloadArgs {
    /// Only this plugin
    plugin: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, clap::Args)]
struct OrderArgs {
    /// Which plugin
    plugin: String,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, clap::Args)]
struct WaitArgs {
    /// Give the order and do not wait for what comes of it
    #[arg(long)]
    no_wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration::parse)]
    timeout: Duration,
}

pub(super) async fn start(context: &Context, args: StartArgs) -> Result<()> {
    give(context, "start", &args.order, json!({"plugin": args.order.plugin}), serves).await
}

pub(super) async fn stop(context: &Context, args: StopArgs) -> Result<()> {
    let arguments = json!({"plugin": args.order.plugin, "force": args.force});
    give(context, "stop", &args.order, arguments, is_stopped).await
}

pub(super) async fn restart(context: &Context, args: RestartArgs) -> Result<()> {
    give(context, "restart", &args.order, json!({"plugin": args.order.plugin}), serves).await
}

pub(super) async fn reload(context: &Context, args: ReloadArgs) -> Result<()> {
    let ReloadArgs { plugin, wait } = args;
    if let Some(plugin) = plugin {
        let order = OrderArgs { plugin, wait };
        return give(context, "reload", &order, json!({"plugin": order.plugin}), is_replaced).await;
    }
    let client = connect(context).await?;
    let report: Value = ask(&client, "reload", &json!({})).await?;
    client.close().await;
    if context.terminal.json {
        return context.terminal.json(&report);
    }
    let report = ReloadReport::deserialize(&report).map_err(super::list::not_understood)?;
    let rows = [
        ("added", &report.added),
        ("removed", &report.removed),
        ("replaced", &report.replaced),
        ("unchanged", &report.unchanged),
    ];
    for (what, plugins) in rows.into_iter().filter(|(_, plugins)| !plugins.is_empty()) {
        context.terminal.line(format_args!("{BOLD}{what:9}{BOLD:#} {}", plugins.join(", ")))?;
    }
    Ok(())
}

/// Calls a control method of the broker.
pub(super) async fn ask(client: &Client, method: &str, arguments: &Value) -> Result<Value> {
    client.call(&format!("plugbus.{method}"), arguments).await.map_err(|error| {
        let is_missing = matches!(error.code(), Code::NotFound | Code::Offline)
            && error.to_string().contains("plugbus");
        match is_missing && !error.to_string().contains("supervised") {
            true => Failure::new(Status::NotFound, "this broker does not supervise plugins")
                .hint("`plugbus up` and `plugbus run` do"),
            false => failure(error),
        }
    })
}

async fn give(
    context: &Context,
    method: &str,
    order: &OrderArgs,
    arguments: Value,
    outcome: fn(&Change) -> Option<Outcome>,
) -> Result<()> {
    let terminal = context.terminal;
    let client = connect(context).await?;
    // Before the order, so that nothing of what comes of it is missed.
    let pattern = format!("plugbus.lifecycle.{}.>", order.plugin);
    let mut events = client.subscribe(&pattern).await.map_err(failure)?;
    let answer: Answer = serde_json::from_value(ask(&client, method, &arguments).await?)
        .map_err(super::list::not_understood)?;
    if terminal.json {
        terminal.json(&json!({"plugin": answer.plugin, "answer": answer.answer}))?;
    } else {
        let Answer { plugin, answer, .. } = &answer;
        terminal.line(format_args!("{BOLD}{plugin}{BOLD:#} {answer}"))?;
    }
    // What is on its way already is waited for like what this command has begun.
    if order.wait.no_wait || answer.awaited.is_empty() {
        return Ok(());
    }
    let followed = follow(terminal, &mut events, answer.awaited, outcome);
    match tokio::time::timeout(order.wait.timeout, followed).await {
        Ok(followed) => followed,
        Err(_elapsed) => {
            let waited = order.wait.timeout;
            let message = format!("{} has not come so far in {waited:?}", order.plugin);
            Err(Failure::new(Status::Timeout, message)
                .hint(format!("plugbus why {}", order.plugin)))
        }
    }
}

/// Shows the changes of a plugin until each of its processes that are awaited has come to its
/// outcome. The first failure is the failure.
async fn follow(
    terminal: Terminal,
    events: &mut Subscription,
    mut awaited: BTreeSet<u32>,
    outcome: fn(&Change) -> Option<Outcome>,
) -> Result<()> {
    let mut failure = None;
    // What they offer differently, which is told beside the change.
    let mut compared = BTreeSet::new();
    let mut uncompared = BTreeSet::new();
    while !awaited.is_empty() {
        let change = next_change(terminal, events).await?;
        if change.difference.is_some() {
            compared.insert(change.instance);
        }
        let outcome = outcome(&change);
        if outcome.is_none() || !awaited.remove(&change.instance) {
            continue;
        }
        if change.cause == cause_text(&Cause::Replaced) && !compared.contains(&change.instance) {
            uncompared.insert(change.instance);
        }
        if let (Some(Outcome::Failed), None) = (outcome, &failure) {
            let Change { id, state, cause, .. } = change;
            failure = Some(
                Failure::failed(format_args!("{id} is {state}: {cause}"))
                    .hint(format!("plugbus why {id}")),
            );
        }
    }
    let comparison = async {
        while !uncompared.is_empty() {
            let change = next_change(terminal, events).await?;
            if change.difference.is_some() {
                uncompared.remove(&change.instance);
            }
        }
        Ok(())
    };
    // One that had nothing to compare says nothing.
    if let Ok(compared) = tokio::time::timeout(COMPARISON_TIMEOUT, comparison).await {
        compared?;
    }
    failure.map_or(Ok(()), Err)
}

/// The next change of the plugin, which has been shown.
async fn next_change(terminal: Terminal, events: &mut Subscription) -> Result<Change> {
    while let Some(received) = events.next().await {
        let Received::Event(event) = received else { continue };
        let Ok(value) = event.parse::<Value>() else { continue };
        // The broker itself publishes there too, what a plugin says of itself.
        let Ok(change) = Change::deserialize(&value) else { continue };
        if terminal.json {
            terminal.json(&value)?;
        } else {
            show(terminal, &change)?;
        }
        return Ok(change);
    }
    Err(Failure::new(Status::NoBroker, "the broker has gone"))
}

/// How long the comparison of a process with its successor may come after the change.
const COMPARISON_TIMEOUT: Duration = Duration::from_secs(2);

fn show(terminal: Terminal, change: &Change) -> Result<()> {
    let Change { id, state, cause, difference, .. } = change;
    for (sign, name) in difference.iter().flat_map(Difference::rows) {
        terminal.line(format_args!("  {YELLOW}{sign} {name}{YELLOW:#}"))?;
    }
    let colour = if state == "ready" { GREEN } else { DIM };
    terminal.line(format_args!("{id} {colour}{state}{colour:#}  {DIM}{cause}{DIM:#}"))
}

#[derive(Debug, Deserialize)]
struct Answer {
    plugin: String,
    answer: String,
    /// The processes with which something is on its way.
    awaited: BTreeSet<u32>,
}

/// A lifecycle event of the supervisor.
#[derive(Debug, Deserialize)]
struct Change {
    id: String,
    instance: u32,
    state: String,
    from: String,
    cause: String,
    #[serde(default)]
    difference: Option<Difference>,
}

/// What a new process of a plugin offers that the old one did not, and the other way round.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Difference {
    methods_added: Vec<String>,
    methods_removed: Vec<String>,
    methods_changed: Vec<String>,
    channels_added: Vec<String>,
    channels_removed: Vec<String>,
    services_added: Vec<String>,
    services_removed: Vec<String>,
}

impl Difference {
    pub(super) fn of(difference: &RegistrationDifference) -> Self {
        let it = difference.clone();
        Self {
            methods_added: it.methods_added,
            methods_removed: it.methods_removed,
            methods_changed: it.methods_changed,
            channels_added: it.channels_added,
            channels_removed: it.channels_removed,
            services_added: it.services_added,
            services_removed: it.services_removed,
        }
    }

    pub(super) fn rows(&self) -> Vec<(char, String)> {
        let rows = [
            ('+', "method", &self.methods_added),
            ('-', "method", &self.methods_removed),
            ('~', "method", &self.methods_changed),
            ('+', "channel", &self.channels_added),
            ('-', "channel", &self.channels_removed),
            ('+', "service", &self.services_added),
            ('-', "service", &self.services_removed),
        ];
        let named = |(sign, kind, names): (char, &str, &Vec<String>)| {
            names.iter().map(|name| (sign, format!("{kind} {name}"))).collect::<Vec<_>>()
        };
        rows.into_iter().flat_map(named).collect()
    }
}

enum Outcome {
    Reached,
    Failed,
}

fn serves(change: &Change) -> Option<Outcome> {
    match change.state.as_str() {
        "ready" | "busy" if change.from == "starting" => Some(Outcome::Reached),
        // On trial, and ready.
        "half-open" if change.from == "half-open" => Some(Outcome::Reached),
        "failed" | "disabled" | "quarantined" | "backing-off" => Some(Outcome::Failed),
        _ => None,
    }
}

fn is_stopped(change: &Change) -> Option<Outcome> {
    (change.state == "stopped").then_some(Outcome::Reached)
}

fn is_replaced(change: &Change) -> Option<Outcome> {
    match change.from.as_str() {
        // The successor starts, or is compared.
        _ if change.state == "replacing" => None,
        "replacing" if change.cause == cause_text(&Cause::Replaced) => Some(Outcome::Reached),
        // There is a newer configuration, by which another successor starts.
        "replacing" if change.cause == cause_text(&Cause::Renewed) => None,
        // The old one has ended first, and the successor is all there is.
        "replacing" if change.state == "starting" => None,
        "replacing" => Some(Outcome::Failed),
        // One that did not run is started instead.
        _ => serves(change),
    }
}
