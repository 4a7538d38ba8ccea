//! `cargo xtask bite`: shows that the simulator bites, and so do the models of supervision.
//!
//! A test from seeds that never fails proves nothing until it is seen to fail. Each file in
//! `xtask/faults/` is one small fault in the engine, the kind that a tired person makes; the
//! test that the fault names has to catch it.
//!
//! # Format of a fault
//!
//! A unified diff with paths from the root of the repository (`a/src/engine/…`), as `git diff`
//! prints it, below a header of lines `Key: value`:
//!
//! ```text
//! Promise: P3
//! Breaks: a returning receiver gets what waits for it in reverse
//!
//! diff --git a/src/engine/channel.rs b/src/engine/channel.rs
//! --- a/src/engine/channel.rs
//! +++ b/src/engine/channel.rs
//! @@ -10,3 +10,3 @@
//! ```
//!
//! `Promise` names the promise of `docs/architecture.md`, or the rule of `docs/supervision.md`,
//! that the fault breaks, `Breaks` says how. A line `Test: supervision_model` may name another test
//! than `simulation` that has to catch it. A fault touches only `src/engine` and has to compile.
//! The file name, `p3-reversed-return.patch`, is its name.
//!
//! The faults are applied one at a time to a copy of the tree in `target/bite`, so that the working
//! tree is never touched. A fault counts as caught when its test fails and names the seed, as
//! `seed=17`, that replays the failure. That a fault does not apply any more is a failure too: it
//! would silently test nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::args::Args;
use crate::{process, tree};

pub(crate) const HELP: &str = "
cargo xtask bite [--seeds N] [FAULT…]

Applies the faults in xtask/faults, or those named, one at a time to a copy of the tree, runs
the test that each names on it (the simulator, if none) and expects it to fail. Prints fault,
promise and the seed that caught it. Fails if one is not caught or does not apply any more, or
if a promise has no fault.

  --seeds N   seeds to try on each fault (2000)
";

pub(crate) fn run(args: &mut Args) -> Result<ExitCode> {
    let seeds = args.value("--seeds")?.unwrap_or(SEED_COUNT);
    let root = tree::root();
    let all = faults(&root)?;
    let mut chosen = Vec::new();
    while let Some(name) = args.positional() {
        let name = name.trim_end_matches(".patch");
        let fault = all.iter().find(|fault| fault.name == name);
        chosen.push(fault.with_context(|| format!("there is no fault `{name}`"))?);
    }
    args.finish()?;
    let is_everything = chosen.is_empty();
    if is_everything {
        chosen = all.iter().collect();
    }

    let yard = Yard::prepare(&root, seeds)?;
    for test in TESTS.iter().filter(|test| chosen.iter().any(|fault| fault.test == **test)) {
        match yard.play(test)? {
            Outcome::Missed => println!("without a fault: {seeds} seeds of {test} passed"),
            // Whatever it would say about a fault would mean nothing.
            outcome => bail!("{test} fails without any fault: {}", outcome.describe(seeds)),
        }
    }
    println!();
    let mut is_good = true;
    for fault in &chosen {
        let outcome = yard.try_fault(fault)?;
        is_good &= matches!(outcome, Outcome::Caught { .. });
        println!("{:4} {:32} {}", fault.promise, fault.name, outcome.describe(seeds));
        println!("     {}", fault.breaks);
    }
    if is_everything {
        for promise in PROMISES.iter().filter(|promise| !all.iter().any(|f| f.promise == **promise))
        {
            println!("{promise:4} has no fault");
            is_good = false;
        }
    }
    println!(
        "\n{} faults, {}",
        chosen.len(),
        if is_good { "all caught" } else { "NOT all caught" }
    );
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Debug, Eq, PartialEq)]
struct Fault {
    name: String,
    promise: String,
    breaks: String,
    /// One of [`TESTS`].
    test: &'static str,
    path: PathBuf,
}

impl Fault {
    fn parse(path: &Path, text: &str) -> Result<Self> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let value = |key: &str| {
            let header = text.lines().take_while(|line| !line.starts_with("--- "));
            let mut values = header.filter_map(|line| line.strip_prefix(key));
            let value = values.next().map(|value| value.trim().to_owned());
            value.with_context(|| format!("fault `{name}` has no line `{key} …`"))
        };
        let (promise, breaks) = (value("Promise:")?, value("Breaks:")?);
        let test = value("Test:").unwrap_or_else(|_| TESTS[0].to_owned());
        let Some(test) = TESTS.into_iter().find(|known| *known == test) else {
            bail!("fault `{name}` names the test `{test}`, which is none of {TESTS:?}");
        };
        let files: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("+++ b/"))
            .map(str::trim_end)
            .collect();
        if files.is_empty() {
            bail!("fault `{name}` changes no file");
        }
        if let Some(file) = files.iter().find(|file| !file.starts_with("src/engine")) {
            bail!("fault `{name}` changes `{file}`, which is outside of src/engine");
        }
        Ok(Self { name, promise, breaks, test, path: path.to_owned() })
    }
}

fn faults(root: &Path) -> Result<Vec<Fault>> {
    let folder = root.join("xtask/faults");
    let mut paths = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {folder:?}"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "patch") {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    paths.iter().map(|path| Fault::parse(path, &fs::read_to_string(path)?)).collect()
}

enum Outcome {
    Caught {
        seed: u64,
        line: String,
    },
    /// All seeds passed.
    Missed,
    DoesNotApply(String),
    DoesNotCompile(String),
    /// The test failed without naming a seed, or never ended.
    Unclear(String),
}

impl Outcome {
    fn describe(&self, seeds: u64) -> String {
        match self {
            Self::Caught { seed, line } => format!("caught by seed {seed}: {line}"),
            Self::Missed => format!("NOT CAUGHT in {seeds} seeds"),
            Self::DoesNotApply(output) => format!("DOES NOT APPLY\n{output}"),
            Self::DoesNotCompile(output) => format!("DOES NOT COMPILE\n{output}"),
            Self::Unclear(output) => format!("FAILED WITHOUT NAMING A SEED\n{output}"),
        }
    }
}

/// The copy of the tree in which faults are tried.
struct Yard {
    root: PathBuf,
    copy: PathBuf,
    seeds: u64,
}

impl Yard {
    fn prepare(root: &Path, seeds: u64) -> Result<Self> {
        let copy = root.join("target/bite/tree");
        tree::copy(root, &copy)?;
        Ok(Self { root: root.to_owned(), copy, seeds })
    }

    fn try_fault(&self, fault: &Fault) -> Result<Outcome> {
        let applied = self.record(
            Command::new("git")
                .args(["apply", "--whitespace=nowarn"])
                .arg(&fault.path)
                // Otherwise git finds our own repository and skips what lies outside of it.
                .env("GIT_CEILING_DIRECTORIES", self.copy.parent().unwrap_or(&self.copy)),
        )?;
        if !applied.status.success() {
            return Ok(Outcome::DoesNotApply(applied.output));
        }
        let outcome = self.play(fault.test);
        tree::copy(&self.root, &self.copy)?;
        outcome
    }

    fn play(&self, test: &str) -> Result<Outcome> {
        let built = self.record(self.cargo(Command::new("cargo"), test).arg("--no-run"))?;
        if !built.status.success() {
            return Ok(Outcome::DoesNotCompile(tail(&built.output)));
        }
        // A fault may make the test run for ever; that is not caught, and must not stop us.
        let mut timeout = Command::new("timeout");
        timeout.args([HANG_SECONDS, "cargo"]);
        let ran = self.record(self.cargo(timeout, test).args(["--", "--nocapture"]))?;
        if ran.status.success() {
            return Ok(Outcome::Missed);
        }
        Ok(match seed_of(&ran.output) {
            Some((seed, line)) => Outcome::Caught { seed, line },
            None => Outcome::Unclear(tail(&ran.output)),
        })
    }

    fn cargo(&self, mut command: Command, test: &str) -> Command {
        // No more of the crate than the test needs: each fault builds it anew.
        let features = if test == "simulation" { "" } else { "broker" };
        command
            .args(["test", "--profile", "sim", "--no-default-features", "--features", features])
            .args(["--test", test])
            .env("CARGO_TARGET_DIR", self.copy.with_file_name("target"))
            .env("PLUGBUS_MODEL_CASES", self.seeds.to_string())
            .env("PLUGBUS_SIM_SEEDS", self.seeds.to_string());
        command
    }

    fn record(&self, command: &mut Command) -> Result<process::Recorded> {
        process::record(command.current_dir(&self.copy), &self.copy.with_file_name("log"))
    }
}

/// The first `seed=N` of the output, and the line it stands on.
fn seed_of(output: &str) -> Option<(u64, String)> {
    output.lines().find_map(|line| {
        let (_, rest) = line.split_once("seed=")?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some((digits.parse().ok()?, line.trim().to_owned()))
    })
}

fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(TAIL_COUNT)..].join("\n")
}

const SEED_COUNT: u64 = 2000;
const HANG_SECONDS: &str = "1200";
const TAIL_COUNT: usize = 30;

/// The tests that can catch a fault; the first one does if the fault does not say.
const TESTS: [&str; 2] = ["simulation", "supervision_model"];

/// Every promise that the simulator checks needs a fault that breaks it, and every rule that the
/// models of supervision check.
const PROMISES: [&str; 19] = [
    "P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8",
    "S9", "S10", "S11",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_its_promise_and_its_files() {
        let text = "Promise: P3\nBreaks: the order\n\n\
                    diff --git a/src/engine/a.rs b/src/engine/a.rs\n\
                    --- a/src/engine/a.rs\n+++ b/src/engine/a.rs\n@@ -1 +1 @@\n-a\n+b\n";
        let fault = Fault::parse(Path::new("xtask/faults/p3-order.patch"), text).unwrap();
        assert_eq!(fault.name, "p3-order");
        assert_eq!((fault.promise.as_str(), fault.breaks.as_str()), ("P3", "the order"));
        assert_eq!(fault.test, "simulation");

        let path = Path::new("x.patch");
        let with = |test: &str| text.replace("Breaks:", &format!("Test: {test}\nBreaks:"));
        let other = Fault::parse(path, &with("supervision_model")).unwrap();
        assert_eq!(other.test, "supervision_model");
        assert!(Fault::parse(path, &with("no_such_test")).is_err());
        assert!(Fault::parse(path, &text.replace("Promise: P3\n", "")).is_err());
        assert!(Fault::parse(path, &text.replace("src/engine", "src/wire")).is_err());
        assert!(Fault::parse(path, "Promise: P3\nBreaks: nothing\n").is_err());
    }

    #[test]
    fn the_seed_is_found_in_the_output() {
        let output = "running 1 test\n  P3 broken at step 90, seed=17, plugin 2\nother seed=18\n";
        let found = seed_of(output).unwrap();
        assert_eq!(found, (17, "P3 broken at step 90, seed=17, plugin 2".to_owned()));
        assert_eq!(seed_of("error: could not compile"), None);
    }

    /// Every fault in the repository can be read; whether it is caught takes longer to say.
    #[test]
    fn the_faults_of_the_repository_are_well_formed() {
        let root = tree::root();
        if root.join("xtask/faults").exists() {
            faults(&root).unwrap();
        }
    }
}
