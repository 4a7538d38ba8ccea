//! Shows figures: while they come, as a table for a terminal, and as the tables of
//! `docs/performance.md`.

#![expect(clippy::print_stdout, reason = "this is what the command prints")]

use anyhow::Result;

use crate::part::System;
use crate::run::Results;
use crate::scenario::{Figures, Rounds, Scenario, Unit};
use crate::supervision::Goal;

/// One line for each cell of a run.
pub(crate) fn progress(scenario: &Scenario, system: System, round: usize, figures: &Figures) {
    let figures: Vec<String> =
        figures.iter().map(|(name, value)| format!("{name} {}", short(*value))).collect();
    println!(
        "{:<12} {:<8} round {} {}",
        scenario.name,
        name(system),
        round + 1,
        figures.join(", ")
    );
}

/// The whole report.
pub(crate) fn print(results: &Results, markdown: bool) -> Result<()> {
    if markdown {
        println!("`{}`", results.command);
        println!();
        println!("{}. {}.", results.machine, results.versions);
    } else {
        println!("{}; {}", results.machine, results.versions);
    }
    println!();
    print!("{}", throughput(results));
    println!();
    print!("{}", calls(results));
    println!();
    print!("{}", idle(results));
    println!();
    print!("{}", supervision(results));
    Ok(())
}

fn throughput(results: &Results) -> String {
    let mut table = Table::new(&[
        "scenario",
        "relay",
        "plugbus (SDK)",
        "ratio",
        "one `send` each",
        "ratio",
        "frames by hand",
        "ratio",
        "broker's CPU, ns a message",
    ]);
    for (scenario, cells) in rows(results, &[Unit::Messages, Unit::Calls]) {
        table.row([
            scenario.title.to_owned(),
            cells.rate(System::Relay),
            cells.rate(System::Plugbus),
            cells.ratio(System::Plugbus, "rate"),
            cells.rate(System::Single),
            cells.ratio(System::Single, "rate"),
            cells.rate(System::Wire),
            cells.ratio(System::Wire, "rate"),
            cells.figure(System::Plugbus, "server_ns"),
        ]);
    }
    table.text
}

fn calls(results: &Results) -> String {
    let mut table = Table::new(&["scenario", "", "p50", "ratio", "p99", "ratio"]);
    for (scenario, cells) in rows(results, &[Unit::Micros]) {
        for system in [System::Relay, System::Plugbus, System::Wire] {
            table.row([
                scenario.title.to_owned(),
                label(system).to_owned(),
                cells.micros(system, "p50_us"),
                cells.ratio(system, "p50_us"),
                cells.micros(system, "p99_us"),
                cells.ratio(system, "p99_us"),
            ]);
        }
    }
    table.text
}

fn idle(results: &Results) -> String {
    let mut table = Table::new(&["", "measured"]);
    for (_, cells) in rows(results, &[Unit::Memory]) {
        let figure = |name| cells.0.get(&System::Plugbus).and_then(|rounds| rounds.median(name));
        let mut row = |title: &str, name, unit: &str| {
            if let Some(value) = figure(name) {
                table.row([title.to_owned(), format!("{value:.2} {unit}")]);
            }
        };
        row("resident memory of the idle broker", "broker_mib", "MiB");
        row("one of 1,000 idle connections", "connection_kib", "KiB");
        row("CPU of the idle broker", "cpu_percent", "%");
        row("CPU with 1,000 idle connections", "crowded_cpu_percent", "%");
    }
    table.text
}

fn supervision(results: &Results) -> String {
    let mut table = Table::new(&["supervision", "goal", "measured", ""]);
    for (_, cells) in rows(results, &[Unit::Supervision]) {
        for Goal { title, figure, below, unit } in Goal::ALL {
            let Some(value) = cells.median(System::Plugbus, figure) else { continue };
            let outcome = if value < *below { "met" } else { "missed" };
            table.row([
                (*title).to_owned(),
                format!("< {below} {unit}"),
                format!("{value:.2} {unit}"),
                outcome.to_owned(),
            ]);
        }
    }
    table.text
}

/// The scenarios of these kinds that were run.
fn rows<'a>(results: &'a Results, units: &[Unit]) -> Vec<(&'static Scenario, Cells<'a>)> {
    Scenario::ALL
        .iter()
        .filter(|scenario| units.contains(&scenario.unit))
        .filter_map(|scenario| Some((scenario, Cells(results.scenarios.get(scenario.name)?))))
        .collect()
}

struct Cells<'a>(&'a std::collections::BTreeMap<System, Rounds>);

impl Cells<'_> {
    fn rate(&self, system: System) -> String {
        self.figure(system, "rate")
    }

    fn figure(&self, system: System, figure: &str) -> String {
        self.median(system, figure).map_or_else(dash, short)
    }

    fn micros(&self, system: System, figure: &str) -> String {
        self.median(system, figure).map_or_else(dash, |value| format!("{value:.1} µs"))
    }

    /// Against the relay, in the rounds of the same run.
    fn ratio(&self, system: System, figure: &str) -> String {
        self.0
            .get(&system)
            .zip(self.0.get(&System::Relay))
            .and_then(|(ours, relay)| ours.ratio(relay, figure))
            .map_or_else(dash, |ratio| format!("×{ratio:.2}"))
    }

    fn median(&self, system: System, figure: &str) -> Option<f64> {
        self.0.get(&system)?.median(figure)
    }
}

/// A Markdown table, which reads well on a terminal too.
struct Table {
    text: String,
}

impl Table {
    fn new(columns: &[&str]) -> Self {
        let rule = "---|".repeat(columns.len());
        Self { text: format!("| {} |\n|{rule}\n", columns.join(" | ")) }
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
}

fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.2} M", value / 1e6),
        value if value >= 1e4 => format!("{:.0} k", value / 1e3),
        value if value >= 1e3 => format!("{:.2} k", value / 1e3),
        value if value >= 10.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}

fn label(system: System) -> &'static str {
    match system {
        System::Relay => "relay",
        System::Plugbus => "plugbus (SDK)",
        System::Single => "plugbus, one `send` each",
        System::Wire => "frames by hand",
    }
}

fn name(system: System) -> &'static str {
    match system {
        System::Relay => "relay",
        System::Plugbus => "plugbus",
        System::Single => "single",
        System::Wire => "wire",
    }
}

fn dash() -> String {
    "–".to_owned()
}
