//! A program that runs beside the commands of a session.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::markdown::first_missing;

/// Runs in a process group of its own, as a terminal would run it, so that Ctrl-C reaches all of
/// it. Dropping one that was not interrupted kills the group.
#[derive(Debug)]
pub(super) struct Background {
    child: Child,
    lines: Receiver<String>,
}

impl Background {
    /// Returns once the program has printed every line of `shown`.
    pub(super) fn start(mut command: Command, shown: &[String]) -> Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()
            .context("cannot start bash")?;
        drop(command);
        let (sender, lines) = mpsc::channel();
        // Reads on after the start, so that the program never waits for a full pipe.
        thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let background = Self { child, lines };
        let mut printed = String::new();
        while let Some(missing) = first_missing(shown, &printed) {
            match background.lines.recv_timeout(SILENCE_MAX) {
                Ok(line) => {
                    printed.push_str(&line);
                    printed.push('\n');
                }
                Err(_) => bail!("never printed: {missing}\nprinted:\n{printed}"),
            }
        }
        Ok(background)
    }

    /// Ctrl-C, and the end it leads to.
    pub(super) fn interrupt(mut self) -> Result<()> {
        self.signal("INT")?;
        let status = self.child.wait()?;
        // 130 is how a shell reports that it ended by this signal.
        if status.success() || status.code() == Some(130) || status.signal() == Some(2) {
            return Ok(());
        }
        let printed: Vec<String> = self.lines.try_iter().collect();
        bail!("after Ctrl-C it ended with {status}\n{}", printed.join("\n"));
    }

    fn signal(&self, name: &str) -> Result<()> {
        // The shell's own `kill`, because not every system has the program.
        let line = format!("kill -{name} -- -{}", self.child.id());
        let status = Command::new("bash").args(["-c", &line]).status()?;
        if !status.success() {
            bail!("`{line}` failed: it has ended by itself");
        }
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Already failing for a better reason; that it may have ended meanwhile is fine.
            drop(self.signal("KILL"));
            drop(self.child.wait());
        }
    }
}

/// A guard against waiting for ever, far beyond any start.
const SILENCE_MAX: Duration = Duration::from_secs(300);
