//! `cargo xtask fuzz`: random input for the targets in `fuzz/`.
//!
//! With a nightly toolchain and cargo-fuzz the input is guided by coverage. Without them the test
//! `fuzz_smoke` drives the same targets with seeded random input on the stable toolchain, built
//! with the profile `sim`, which keeps assertions and overflow checks.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::args::Args;
use crate::{process, tree};

pub(crate) const HELP: &str = "
cargo xtask fuzz [--seconds N] [--stable] [TARGET…]

Runs each target of fuzz/fuzz_targets, or those named, for N seconds (60 unless told).
Uses cargo-fuzz where it and a nightly toolchain are installed, and otherwise the test
`fuzz_smoke` on the stable toolchain.

  --seconds N   time for each target
  --stable      do not use cargo-fuzz
";

pub(crate) fn run(args: &mut Args) -> Result<ExitCode> {
    let seconds = args.value("--seconds")?.unwrap_or(60);
    let is_stable = args.flag("--stable") || !has_cargo_fuzz();
    let known = targets(&tree::root())?;
    let mut chosen = Vec::new();
    while let Some(target) = args.positional() {
        if !known.contains(&target) {
            bail!("there is no target `{target}`; there are: {}", known.join(", "));
        }
        chosen.push(target);
    }
    args.finish()?;
    for target in if chosen.is_empty() { &known } else { &chosen } {
        let mut command =
            if is_stable { stable(target, seconds) } else { guided(target, seconds)? };
        println!("{}", process::Shown(&command));
        process::run(&mut command)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Names of the targets, sorted.
pub(crate) fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {folder:?}"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "rs")
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
        {
            names.push(name.to_owned());
        }
    }
    if names.is_empty() {
        bail!("there is no target in {folder:?}: nothing would be tested");
    }
    names.sort_unstable();
    Ok(names)
}

pub(crate) fn stable(target: &str, seconds: u64) -> Command {
    let mut command = process::cargo();
    command
        .current_dir(tree::root())
        .args(["test", "--profile", "sim", "--test", "fuzz_smoke", "--", "--nocapture"])
        .env("PLUGBUS_FUZZ_TARGET", target)
        .env("PLUGBUS_FUZZ_SECONDS", seconds.to_string());
    command
}

pub(crate) fn guided(target: &str, seconds: u64) -> Result<Command> {
    // What is found goes into the first folder; the inputs that are checked in are only read.
    let found = tree::root().join("target/fuzz").join(target);
    fs::create_dir_all(&found).with_context(|| format!("cannot make {found:?}"))?;
    let mut command = Command::new("cargo");
    command
        .current_dir(tree::root())
        .args(["+nightly", "fuzz", "run", target])
        .arg(&found)
        .arg(Path::new("fuzz/corpus").join(target))
        .arg("--")
        .arg(format!("-max_total_time={seconds}"));
    Ok(command)
}

pub(crate) fn has_cargo_fuzz() -> bool {
    let probe = Command::new("cargo")
        .args(["+nightly", "fuzz", "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    probe.is_ok_and(|status| status.success())
}
