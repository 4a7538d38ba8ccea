//! Measures the broker with separate processes, beside a bare relay in the same run.

mod broker;
mod clock;
mod crowd;
mod input;
mod latency;
mod machine;
mod part;
mod payload;
mod process;
mod relay;
mod report;
mod run;
mod scenario;
mod sdk;
mod supervision;
mod supervisor;
mod wire;

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::part::System;

/// Load test of plugbus.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs scenarios and stores what they gave in `target/loadtest/latest.json`.
    Run {
        /// Names of scenarios; all without any.
        scenarios: Vec<String>,
        /// Alternating rounds. Figures are medians.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Milliseconds of traffic in each round and system.
        #[arg(long, default_value_t = 1_000)]
        millis: u64,
        /// What to measure.
        #[arg(long, value_delimiter = ',', default_value = "relay,plugbus,single,wire")]
        systems: Vec<System>,
    },
    /// Prints what the last run gave.
    Report {
        /// As the tables of `docs/performance.md`.
        #[arg(long)]
        markdown: bool,
    },
    /// Plays one part of a scenario. The load test starts these itself.
    #[command(hide = true)]
    Part { part: String, parent: i32 },
    /// Is the plugin of a scenario. The load test's broker starts these.
    #[command(hide = true)]
    Plugin,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Run { scenarios, rounds, millis, systems } => {
            let results = run::run(&scenarios, rounds, Duration::from_millis(millis), &systems)?;
            results.store()?;
            report::print(&results, false)
        }
        Command::Report { markdown } => report::print(&run::Results::load()?, markdown),
        Command::Part { part, parent } => part::play(&part, parent),
        Command::Plugin => supervisor::play_plugin(),
    }
}
