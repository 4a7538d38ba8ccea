//! `cargo xtask test`: everything that must hold, in steps.
//!
//! The steps are data, in `steps`. This file runs them, one after the other because each of them
//! uses all cores, and reports: each with its time as it goes, then what this machine does not
//! offer, the slowest ten, and one closing line.
//!
//! A step is skipped only when a program is missing that somebody could install, and that is a
//! failure where `CI=true`, because there it would go unseen. What a step tests and is not in the
//! tree is a failure everywhere: a test that has vanished must not look like one that passed. What
//! the kernel or a container refuses is neither: the test that wanted it prints `skipped: WHAT:
//! ERRNO` and passes, and the report lists these lines.

mod demo;
mod python;
mod readme;
mod report;
mod steps;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::args::Args;
use crate::clock::Stopwatch;
use crate::{process, tree};

use self::report::Report;

pub(crate) const HELP: &str = "
cargo xtask test [--list] [STEP…]

Runs all steps, or those named, and goes on after a failure. What a step prints is kept in
target/xtask/STEP.log; the end of it is shown when the step fails.

  --list   name the steps and stop

With CI=true in the environment, a step that is skipped because a program is not installed
counts as failed.
";

pub(crate) fn run(args: &mut Args) -> Result<ExitCode> {
    if args.flag("--list") {
        args.finish()?;
        for step in &steps::STEPS {
            println!("{:20} {}", step.name, step.summary);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut chosen = Vec::new();
    while let Some(name) = args.positional() {
        let Some(step) = steps::STEPS.iter().find(|step| step.name == name) else {
            bail!("there is no step `{name}`; --list names them");
        };
        chosen.push(step);
    }
    args.finish()?;
    if chosen.is_empty() {
        chosen = steps::STEPS.iter().collect();
    }

    let root = tree::root();
    let mut report = Report::new(std::env::var("CI").is_ok_and(|value| value == "true"));
    for step in chosen {
        report.start(step.name);
        let stopwatch = Stopwatch::start();
        let mut job = Job::new(&root, step.name)?;
        let verdict = step.run(&mut job);
        report.finish(step.name, &verdict, &job, stopwatch.elapsed());
    }
    report.close();
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One of the things that must hold.
struct Step {
    /// One word, also the name of its log.
    name: &'static str,
    summary: &'static str,
    /// Paths that make up what it tests. Without one of them it fails.
    needs: &'static [&'static str],
    action: Action,
}

enum Action {
    Cargo(&'static [&'static str]),
    Function(fn(&mut Job) -> Result<Verdict>),
}

impl Step {
    fn run(&self, job: &mut Job) -> Verdict {
        // A module or a test may be a file or a folder.
        let exists = |path: &str| {
            job.root.join(path).exists() || job.root.join(format!("{path}.rs")).exists()
        };
        if let Some(path) = self.needs.iter().find(|path| !exists(path)) {
            return Verdict::Failed(format!("`{path}` is gone, and with it what this step tests"));
        }
        let outcome = match self.action {
            Action::Cargo(args) => job.run(process::cargo().args(args)).map(|()| Verdict::Passed),
            Action::Function(function) => function(job),
        };
        outcome.unwrap_or_else(|error| Verdict::Failed(format!("{error:#}")))
    }
}

#[derive(Debug)]
enum Verdict {
    Passed,
    Failed(String),
    /// Somebody can install what is missing.
    NotInstalled(String),
}

/// A step that is running: where it runs and what it has printed.
#[derive(Debug)]
struct Job {
    root: PathBuf,
    log: PathBuf,
    output: String,
}

impl Job {
    fn new(root: &Path, name: &str) -> Result<Self> {
        let folder = root.join("target/xtask");
        fs::create_dir_all(&folder)?;
        let log = folder.join(format!("{name}.log"));
        fs::write(&log, "")?;
        Ok(Self { root: root.to_owned(), log, output: String::new() })
    }

    /// Runs a program at the root of the repository, unless it says otherwise, and fails if it
    /// does.
    fn run(&mut self, command: &mut Command) -> Result<()> {
        if command.get_current_dir().is_none() {
            command.current_dir(&self.root);
        }
        let recorded = process::record(command, &self.log)?;
        self.output.push_str(&recorded.output);
        if !recorded.status.success() {
            bail!("{} failed with {}", process::Shown(command), recorded.status);
        }
        Ok(())
    }

    /// Adds something to the output that no program printed.
    fn note(&mut self, line: &str) {
        self.output.push_str(line);
        self.output.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_without_what_it_tests_fails() {
        let root = tree::root();
        let job =
            || Job { log: root.join("unused.log"), root: root.clone(), output: String::new() };
        let step = |needs: &'static [&'static str]| Step {
            name: "step",
            summary: "",
            needs,
            action: Action::Function(|_| Ok(Verdict::Passed)),
        };
        let here = step(&["src/lib", "Cargo.toml"]).run(&mut job());
        assert!(matches!(here, Verdict::Passed), "{here:?}");
        let gone = step(&["src/lib", "tests/vanished"]).run(&mut job());
        let Verdict::Failed(reason) = gone else { panic!("{gone:?}") };
        assert!(reason.contains("`tests/vanished` is gone"), "{reason}");
    }
}
