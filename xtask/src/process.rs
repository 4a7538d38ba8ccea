//! Running programs: with their output passed on, or recorded.

use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};

/// What a recorded program printed (both streams, in the order in which they came) and how it
/// ended.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
}

/// The cargo that runs us, or the one that is installed.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a program that shares our terminal, and fails if it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", Shown(command)))?;
    if !status.success() {
        bail!("{} failed with {status}", Shown(command));
    }
    Ok(())
}

/// Runs a program and returns what it printed on its standard output.
pub(crate) fn stdout(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("cannot start {}", Shown(command)))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("{} failed with {}\n{complaint}", Shown(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program, appends what it prints to `log` while it runs, and returns it.
pub(crate) fn record(command: &mut Command, log: &Path) -> Result<Recorded> {
    let mut file = File::options().create(true).append(true).open(log)?;
    writeln!(file, "$ {}", Shown(command))?;

    let (reader, writer) = std::io::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot start {}", Shown(command)))?;
    // The command keeps its own copies of the write end; end of file comes once they are gone.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let mut output = String::new();
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader);
    while reader.read_until(b'\n', &mut line)? > 0 {
        file.write_all(&line)?;
        output.push_str(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(Recorded { status: child.wait()?, output })
}

/// A command as a person would type it.
pub(crate) struct Shown<'a>(pub(crate) &'a Command);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value) in self.0.get_envs() {
            if let Some(value) = value {
                write!(f, "{}={} ", key.display(), value.display())?;
            }
        }
        let program = Path::new(self.0.get_program());
        write!(f, "{}", program.file_name().unwrap_or(program.as_os_str()).display())?;
        for arg in self.0.get_args() {
            write!(f, " {}", arg.display())?;
        }
        Ok(())
    }
}
