//! Runs scenarios in alternating rounds, so that a slow moment of the machine meets all systems.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::machine;
use crate::part::System;
use crate::report;
use crate::scenario::{Rounds, Scenario};

/// What a run gave.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Results {
    pub(crate) command: String,
    pub(crate) machine: String,
    pub(crate) versions: String,
    /// By scenario and system.
    pub(crate) scenarios: BTreeMap<String, BTreeMap<System, Rounds>>,
}

/// Runs these scenarios, or all.
pub(crate) fn run(
    names: &[String],
    rounds: usize,
    time: Duration,
    systems: &[System],
) -> Result<Results> {
    let scenarios: Vec<&Scenario> = if names.is_empty() {
        Scenario::ALL.iter().collect()
    } else {
        names.iter().map(|name| Scenario::find(name)).collect::<Result<_>>()?
    };
    let directory = tempfile::Builder::new().prefix("plugbus-load").tempdir()?;
    end_with_signals(directory.path().to_owned())?;
    let mut results = Results {
        command: command(names, rounds, time),
        machine: machine::machine(),
        versions: machine::versions(),
        scenarios: BTreeMap::new(),
    };
    for scenario in scenarios {
        let mut gathered: BTreeMap<System, Rounds> = BTreeMap::new();
        for round in 0..rounds {
            for &system in systems.iter().filter(|system| scenario.takes(**system)) {
                // The broker takes no other directory for its socket.
                let place = tempfile::Builder::new()
                    .permissions(fs::Permissions::from_mode(0o700))
                    .tempdir_in(directory.path())?;
                let figures = scenario
                    .run(system, place.path(), time)
                    .with_context(|| format!("{} with {system:?}", scenario.name))?;
                report::progress(scenario, system, round, &figures);
                gathered.entry(system).or_default().add(figures);
            }
        }
        results.scenarios.insert(scenario.name.to_owned(), gathered);
    }
    Ok(results)
}

impl Results {
    /// Keeps them for `report`.
    pub(crate) fn store(&self) -> Result<()> {
        let path = path();
        fs::create_dir_all(path.parent().expect("it is a file in a directory"))?;
        Ok(fs::write(path, serde_json::to_vec_pretty(self)?)?)
    }

    /// Those of the last run.
    pub(crate) fn load() -> Result<Self> {
        let bytes = fs::read(path()).context("nothing stored; `loadtest run` comes first")?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

/// The command that repeats a run.
fn command(names: &[String], rounds: usize, time: Duration) -> String {
    let mut command = "cargo run --release -p loadtest -- run".to_owned();
    for name in names {
        command.push(' ');
        command.push_str(name);
    }
    command.push_str(&format!(" --rounds {rounds}"));
    if time != Duration::from_secs(1) {
        command.push_str(&format!(" --millis {}", time.as_millis()));
    }
    command
}

/// On Ctrl-C and SIGTERM this process ends at once; the kernel then kills its children.
fn end_with_signals(directory: PathBuf) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        use tokio::signal::unix::{SignalKind, signal};
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        let code = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        });
        // What cannot be removed is in the system's own directory for such things.
        let _removed = fs::remove_dir_all(directory);
        std::process::exit(code);
    });
    Ok(())
}

fn path() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    target.join("loadtest/latest.json")
}
