//! Runs the commands that the README shows, and compares what they print with what it shows.
//!
//! # What the README may contain
//!
//! - A `console` block is a session. A line that starts with `$ ` is a command (a trailing `\`
//!   continues it), and the lines below it are what it prints: each of them must appear in the
//!   output, in this order. Numbers, with their units, and the width of spaces may differ; a line
//!   `…` stands for anything. The command has to succeed.
//! - A command that ends with ` &` runs beside those below it. It has started when it has printed
//!   what is shown, and gets Ctrl-C at the end of the block. `^C` may be shown for that.
//! - A block with a file name, as in ```` ```python hello.py ````, is saved under that name before
//!   the first command runs.
//! - A block behind a line `<!-- not run: WHY -->` is left alone, and listed.
//! - `cargo xtask test` is not run, because it is what runs this; nor are `git clone` and `cd`,
//!   which lead to where we are.
//!
//! Commands run in a copy of the tree, with runtime and state directories of their own; those of
//! cargo run in the tree itself, so that they find what is built. `plugbus` is the one that was
//! built here, and `pip` belongs to an environment of our own.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::demo::Scratch;
use super::{Job, Verdict, python};
use crate::tree;

mod markdown;
mod session;

use self::markdown::{Block, blocks};
use self::session::Background;

pub(super) fn run(job: &mut Job) -> Result<Verdict> {
    let text = fs::read_to_string(job.root.join("README.md"))?;
    let scratch = Scratch::new("readme")?;
    let place = Place::prepare(job, &scratch)?;
    let blocks = blocks(&text)?;
    for block in &blocks {
        if let Block::File { name, text } = block {
            fs::write(place.folder.join(name), text)?;
        }
    }
    let mut run_count = 0;
    for block in &blocks {
        match block {
            Block::Session(steps) => run_count += run_session(job, &place, steps)?,
            Block::NotRun(why) => job.note(&format!("skipped: README block: {why}")),
            Block::File { .. } => (),
        }
    }
    if run_count == 0 {
        bail!("README.md shows no command that could be run");
    }
    Ok(Verdict::Passed)
}

/// Runs the commands of one block and returns how many it ran.
fn run_session(job: &mut Job, place: &Place, steps: &[markdown::Step]) -> Result<usize> {
    let mut backgrounds = Vec::new();
    let mut count = 0;
    for step in steps.iter().filter(|step| !is_left_out(&step.command)) {
        let at = || format!("README.md:{}: $ {}", step.line, step.command);
        count += 1;
        if step.is_background {
            let command = place.command(&["bash", "-c"], &step.command);
            let background = Background::start(command, &step.shown).with_context(at)?;
            backgrounds.push(background);
            continue;
        }
        let before = job.output.len();
        // A command that does not end would hide which one it was.
        let mut command = place.command(&["timeout", HANG_SECONDS, "bash", "-c"], &step.command);
        job.run(&mut command).with_context(at)?;
        if let Some(missing) = markdown::first_missing(&step.shown, &job.output[before..]) {
            bail!("{}\nnever printed: {missing}", at());
        }
    }
    for background in backgrounds.into_iter().rev() {
        background.interrupt()?;
    }
    Ok(count)
}

fn is_left_out(command: &str) -> bool {
    let words: Vec<&str> = command.split_whitespace().collect();
    matches!(words.as_slice(), ["cargo", "xtask", "test", ..] | ["git", "clone", ..] | ["cd", ..])
}

/// Where commands run.
struct Place {
    root: PathBuf,
    /// The copy of the tree.
    folder: PathBuf,
    variables: Vec<(&'static str, OsString)>,
}

impl Place {
    fn prepare(job: &mut Job, scratch: &Scratch) -> Result<Self> {
        let folder = scratch.path().join("tree");
        tree::copy(&job.root, &folder)?;
        let installed = scratch.path().join("installed");
        let mut programs = vec![installed.join("bin")];
        programs.extend(python::installed(job)?);
        programs.push(job.root.join("target/release"));
        programs.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let variables = vec![
            ("PATH", std::env::join_paths(programs)?),
            ("CARGO_INSTALL_ROOT", installed.into_os_string()),
            ("XDG_RUNTIME_DIR", scratch.path().as_os_str().to_owned()),
            ("XDG_STATE_HOME", scratch.path().join("state").into_os_string()),
            ("XDG_CACHE_HOME", scratch.path().join("cache").into_os_string()),
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
        ];
        Ok(Self { root: job.root.clone(), folder, variables })
    }

    fn command(&self, program: &[&str], line: &str) -> Command {
        let is_cargo = line.starts_with("cargo ");
        let mut command = Command::new(program[0]);
        command
            .args(&program[1..])
            .arg(line)
            .current_dir(if is_cargo { &self.root } else { &self.folder })
            .env_remove("PLUGBUS_SOCKET")
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

const HANG_SECONDS: &str = "1800";
