//! `plugbus top`: the supervised plugins and what they use, again and again.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::signal::ctrl_c;

use super::Context;
use super::client::connect;
use super::control::ask;
use super::failure::Result;
use super::list::not_understood;
use super::table::table;
use super::terminal::DIM;
use crate::host::{PluginReport, duration};

/// Shows the supervised plugins: state, since when, process, restarts, memory, CPU. On a terminal
/// it goes on until Ctrl-C; elsewhere it prints once.
#[derive(Debug, clap::Args)]
pub(super) struct TopArgs {
    /// How often to look
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration::parse)]
    interval: Duration,
    /// Look once
    #[arg(long)]
    once: bool,
}

pub(super) async fn run(context: &Context, args: TopArgs) -> Result<()> {
    let terminal = context.terminal;
    let client = connect(context).await?;
    let goes_on = !args.once && !terminal.json && terminal.is_interactive();
    loop {
        let answer = ask(&client, "plugins", &json!({})).await?;
        if terminal.json {
            return terminal.json(&answer);
        }
        let plugins = Answer::deserialize(&answer).map_err(not_understood)?.plugins;
        let lines = table(&plugins);
        if goes_on {
            terminal.redraw(&lines)?;
        } else {
            for line in &lines {
                terminal.line(line)?;
            }
            if plugins.is_empty() {
                terminal.note(format_args!("{DIM}no plugins are supervised{DIM:#}"));
            }
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(args.interval) => (),
            _ = ctrl_c() => return Ok(()),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Answer {
    plugins: Vec<PluginReport>,
}
