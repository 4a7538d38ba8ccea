//! The Python SDK: installed as a user installs it, and tested in a virtual environment for each
//! Python.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Result;

use super::{Job, Verdict};
use crate::{process, tree};

/// Runs the tests on the oldest and on the newest Python here, which may be the same.
pub(super) fn test(job: &mut Job) -> Result<Verdict> {
    let mut found = interpreters();
    if found.len() > 2 {
        found.drain(1..found.len() - 1);
    }
    if found.is_empty() {
        return Ok(no_python());
    }
    for interpreter in found {
        let Some(python) = environment(job, &interpreter)? else { return Ok(no_venv()) };
        job.run(
            Command::new(&python)
                .args(["-W", "error::ResourceWarning"])
                .args(["-m", "unittest", "discover", "-s", "sdk/python/tests"])
                .env("PLUGBUS_BIN", job.root.join("target/release/plugbus"))
                .env("PYTHONDONTWRITEBYTECODE", "1"),
        )?;
    }
    Ok(Verdict::Passed)
}

pub(super) fn check_types(job: &mut Job) -> Result<Verdict> {
    let Some(interpreter) = interpreters().pop() else { return Ok(no_python()) };
    let Some(python) = environment(job, &interpreter)? else { return Ok(no_venv()) };
    // Whichever Python is here, the sources stay in the language of the oldest one.
    job.run(Command::new(&python).args(["-c", PARSE_AS_OLDEST, "sdk/python"]))?;
    job.run(Command::new(&python).args(["-m", "pip", "install", "--quiet", MYPY]))?;
    // By package name: that also shows that the installed package says it is typed.
    job.run(Command::new(&python).args(["-m", "mypy", "--strict", "--package", "plugbus"]))?;
    Ok(Verdict::Passed)
}

/// The directory of the programs of an environment in which the SDK is installed.
pub(super) fn installed(job: &mut Job) -> Result<Option<PathBuf>> {
    let Some(interpreter) = interpreters().pop() else { return Ok(None) };
    let python = environment(job, &interpreter)?;
    Ok(python.and_then(|python| python.parent().map(PathBuf::from)))
}

/// Makes a virtual environment with the SDK in it, and returns its interpreter; nothing if this
/// Python cannot make one.
fn environment(job: &mut Job, interpreter: &Interpreter) -> Result<Option<PathBuf>> {
    let folder = job.root.join(format!("target/python/{}", interpreter.version_text()));
    let python = folder.join("bin/python");
    if !answers(&python) {
        let made = process::record(
            Command::new(&interpreter.program).args(["-m", "venv", "--clear"]).arg(&folder),
            &job.log,
        )?;
        if !made.status.success() {
            job.note(&made.output);
            return Ok(None);
        }
    }
    // A copy, because setuptools builds in place and would use again what an older version left.
    let sources = job.root.join("target/python/sources");
    if sources.exists() {
        fs::remove_dir_all(&sources)?;
    }
    tree::copy(&job.root.join("sdk/python"), &sources)?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    job.run(
        Command::new(&python).args(install).args(["--force-reinstall", "--no-deps"]).arg(sources),
    )?;
    Ok(Some(python))
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Interpreter {
    version: (u32, u32),
    program: String,
}

impl Interpreter {
    fn version_text(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }
}

/// The Pythons that can be started here and that the SDK supports, oldest first, one a version.
fn interpreters() -> Vec<Interpreter> {
    let mut names = vec!["python3".to_owned()];
    names.extend((OLDEST.1..=NEWEST_MINOR).map(|minor| format!("python3.{minor}")));
    let mut found: Vec<Interpreter> = names
        .into_iter()
        .filter_map(|program| Some(Interpreter { version: version_of(&program)?, program }))
        .filter(|interpreter| interpreter.version >= OLDEST)
        .collect();
    found.sort_unstable();
    found.dedup_by_key(|interpreter| interpreter.version);
    found
}

/// Asks the program itself: a name on the path may be a shim that starts nothing.
fn version_of(program: &str) -> Option<(u32, u32)> {
    let script = "import sys; print(*sys.version_info[:2])";
    let printed = process::stdout(Command::new(program).args(["-c", script])).ok()?;
    let (major, minor) = printed.trim().split_once(' ')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn answers(python: &PathBuf) -> bool {
    let probe = Command::new(python)
        .args(["-m", "pip", "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    probe.is_ok_and(|status| status.success())
}

fn no_python() -> Verdict {
    Verdict::NotInstalled("no Python from 3.9 on is installed (package python3)".to_owned())
}

fn no_venv() -> Verdict {
    Verdict::NotInstalled("Python cannot make environments (package python3-venv)".to_owned())
}

const OLDEST: (u32, u32) = (3, 9);
const NEWEST_MINOR: u32 = 19;
const MYPY: &str = "mypy>=1.11,<3";

const PARSE_AS_OLDEST: &str = "
import ast, pathlib, sys
for path in sorted(pathlib.Path(sys.argv[1]).rglob('*.py')):
    ast.parse(path.read_text('utf-8'), str(path), feature_version=(3, 9))
";
