//! `cargo xtask prove`: the counts that are too long for every change, and their record.
//!
//! `docs/proof.md` has one row for each command, the newest result of it. A row names the commit,
//! so the tree must be clean: a proof of something that nobody else has proves nothing. The
//! programs say what they did in lines that start with `result: `, which go into the row.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::args::Args;
use crate::clock::Stopwatch;
use crate::{fuzz, machine, process, tree};

pub(crate) const HELP: &str = "
cargo xtask prove [--seeds N] [--fuzz-seconds N] [--only TEXT]

Runs a million seeds of the simulator, 100000 cases of each model of supervision, kills 100
brokers and looks for what they leave, replaces and kills a plugin 100 times under load, kills 200
plugins at once, runs an hour of every fuzz target, and writes docs/proof.md. Smaller counts are
recorded as such. The tree must be clean.

  --seeds N          seeds of the simulator (1000000)
  --fuzz-seconds N   time for each fuzz target (3600)
  --only TEXT        only the runs whose command contains this
";

pub(crate) fn run(args: &mut Args) -> Result<ExitCode> {
    let seeds = args.value("--seeds")?.unwrap_or(SEED_COUNT);
    let seconds = args.value("--fuzz-seconds")?.unwrap_or(FUZZ_SECONDS);
    let only = args.value::<String>("--only")?.unwrap_or_default();
    args.finish()?;
    let root = tree::root();
    let commit = clean_commit(&root)?;
    let mut is_proven = true;
    let mut chosen = runs(&root, seeds, seconds)?;
    let commands: Vec<_> = chosen.iter().map(|run| run.shown.clone()).collect();
    chosen.retain(|run| run.shown.contains(&only));
    if chosen.is_empty() {
        bail!("`--only {only}` chooses nothing of:\n  {}", commands.join("\n  "));
    }
    for run in chosen {
        let row = execute(&root, &commit, run)?;
        println!("{}", row.line());
        is_proven &= row.result.starts_with("passed");
        let path = root.join(RECORD);
        let record = fs::read_to_string(&path).unwrap_or_else(|_| HEADER.to_owned());
        fs::write(&path, with_row(&record, &row))?;
    }
    Ok(if is_proven { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Run {
    command: Command,
    /// What a person would type to see the same.
    shown: String,
    seed: String,
    is_scaled_down: bool,
}

fn runs(root: &Path, seeds: u64, seconds: u64) -> Result<Vec<Run>> {
    let mut simulation = process::cargo();
    simulation
        .args(["test", "--profile", "sim", "--no-default-features", "--test", "simulation"])
        .args(["--", "--nocapture"])
        .env("PLUGBUS_SIM_FIRST", "1")
        .env("PLUGBUS_SIM_SEEDS", seeds.to_string());
    let mut runs = vec![Run {
        command: simulation,
        shown: format!(
            "PLUGBUS_SIM_SEEDS={seeds} cargo test --profile sim --no-default-features \
             --test simulation -- --nocapture"
        ),
        seed: format!("1–{seeds}"),
        is_scaled_down: seeds < SEED_COUNT,
    }];
    let cases = format!("1–{MODEL_CASES}");
    runs.extend([
        counted("--release", "orphans", "PLUGBUS_ORPHAN_ROUNDS", BROKERS_KILLED, "none"),
        counted("--release", "under_load", "PLUGBUS_LOAD_ROUNDS", LOAD_ROUNDS, "none"),
        counted("--release", "storm", "PLUGBUS_STORM_PLUGINS", STORM_PLUGINS, "none"),
        counted("--profile sim", "supervision_model", "PLUGBUS_MODEL_CASES", MODEL_CASES, &cases),
    ]);
    let is_guided = fuzz::has_cargo_fuzz();
    for target in fuzz::targets(root)? {
        let flag = if is_guided { "" } else { " --stable" };
        runs.push(Run {
            command: if is_guided {
                fuzz::guided(&target, seconds)?
            } else {
                fuzz::stable(&target, seconds)
            },
            shown: format!("cargo xtask fuzz{flag} --seconds {seconds} {target}"),
            seed: "printed on failure".to_owned(),
            is_scaled_down: seconds < FUZZ_SECONDS,
        });
    }
    Ok(runs)
}

/// A test that a variable tells how much to do.
fn counted(profile: &str, test: &str, variable: &str, count: u64, seed: &str) -> Run {
    let mut command = process::cargo();
    command.arg("test").args(profile.split(' ')).args(["--test", test, "--", "--nocapture"]);
    command.env(variable, count.to_string());
    Run {
        command,
        shown: format!("{variable}={count} cargo test {profile} --test {test} -- --nocapture"),
        seed: seed.to_owned(),
        is_scaled_down: false,
    }
}

fn execute(root: &Path, commit: &str, mut run: Run) -> Result<Row> {
    println!("$ {}", run.shown);
    let log = root.join("target/xtask/prove.log");
    fs::create_dir_all(log.parent().expect("the log lies in a folder"))?;
    let stopwatch = Stopwatch::start();
    let recorded = process::record(run.command.current_dir(root), &log)?;
    let minutes = stopwatch.elapsed().as_secs().div_ceil(60);
    let verdict = if recorded.status.success() { "passed" } else { "FAILED" };
    let lines = recorded.output.lines();
    let said: Vec<_> = lines.filter_map(|line| line.trim().strip_prefix("result: ")).collect();
    let mut result = format!("{verdict} in {minutes} min");
    if run.is_scaled_down {
        result.push_str(", scaled down");
    }
    if !said.is_empty() {
        result.push_str(": ");
        result.push_str(&said.join("; "));
    }
    Ok(Row {
        command: run.shown,
        commit: commit.to_owned(),
        seed: run.seed,
        result,
        machine: machine::describe(),
    })
}

struct Row {
    command: String,
    commit: String,
    seed: String,
    result: String,
    machine: String,
}

impl Row {
    fn line(&self) -> String {
        let Self { command, commit, seed, result, machine } = self;
        format!("| `{command}` | {commit} | {seed} | {} | {machine} |", result.replace('|', "/"))
    }
}

/// The record with `row` in it, in place of an older row of the same command. Rows of the same
/// command with other counts are other commands, and stay.
fn with_row(record: &str, row: &Row) -> String {
    let key = format!("| `{}` |", row.command);
    let mut lines: Vec<String> =
        record.lines().filter(|line| !line.starts_with(&key)).map(str::to_owned).collect();
    lines.push(row.line());
    lines.join("\n") + "\n"
}

fn clean_commit(root: &Path) -> Result<String> {
    let git = |args: &[&str]| process::stdout(Command::new("git").current_dir(root).args(args));
    let changed = git(&["status", "--porcelain"])?;
    if let Some(line) = changed.lines().find(|line| !line.ends_with(RECORD)) {
        bail!("the tree has changes that no commit has, such as `{}`", line.trim());
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).context("this is no git checkout")?;
    Ok(commit.trim().to_owned())
}

const RECORD: &str = "docs/proof.md";
const SEED_COUNT: u64 = 1_000_000;
const MODEL_CASES: u64 = 100_000;
const FUZZ_SECONDS: u64 = 3600;
const BROKERS_KILLED: u64 = 100;
const LOAD_ROUNDS: u64 = 100;
const STORM_PLUGINS: u64 = 200;

const HEADER: &str = "\
# Proof

What the long runs showed. `cargo xtask prove` writes the rows; the newest run of a command replaces
its older row. A run that says *scaled down* had smaller counts than a full proof, which is 1000000
seeds and 3600 seconds for each fuzz target.

| command | commit | seed | result | machine |
|---|---|---|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_run_replaces_its_older_row() {
        let row = |command: &str, commit: &str| Row {
            command: command.to_owned(),
            commit: commit.to_owned(),
            seed: "0–9".to_owned(),
            result: "passed".to_owned(),
            machine: "m".to_owned(),
        };
        let record = with_row(HEADER, &row("a", "1"));
        let record = with_row(&record, &row("b", "1"));
        let record = with_row(&record, &row("a", "2"));
        let rows = record.strip_prefix(HEADER).unwrap();
        assert_eq!(rows, "| `b` | 1 | 0–9 | passed | m |\n| `a` | 2 | 0–9 | passed | m |\n");
    }
}
