//! Runs a program to its end and keeps what it says: versions of tools, installations.
//!
//! It blocks the thread, which is not to be one that serves others. The program cannot outlive it,
//! nor the time that it has.

use std::collections::VecDeque;
use std::io::{self, PipeReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::limit;
use crate::net::clock;
use crate::sys::errand::tie_to_thread;

/// How a program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Whether it said that all is well; also when somebody else took its exit status.
    pub(crate) success: bool,
    /// Whether it was ended because its time was over.
    pub(crate) timed_out: bool,
    /// The end of both its outputs, in the order in which it wrote them.
    pub(crate) said: String,
}

/// Runs `command` without input, for at most `time`.
///
/// # Errors
///
/// It could not be started or watched.
pub(crate) fn run(command: &mut Command, time: Duration) -> io::Result<Outcome> {
    let (mut reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = Running(tie_to_thread(command).spawn()?);
    // The command holds the pipe's other end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (said, timed_out) = child.listen(&mut reader, time)?;
    let success = child.end(timed_out)? && !timed_out;
    Ok(Outcome { success, timed_out, said })
}

/// Killed when it is dropped before its end.
struct Running(Child);

impl Running {
    /// Reads until the program has ended or its time is over. Its own children may hold the pipe
    /// for longer, so the end of the pipe is not waited for.
    fn listen(&self, reader: &mut PipeReader, time: Duration) -> io::Result<(String, bool)> {
        let flags = rustix::fs::fcntl_getfl(&*reader)?;
        rustix::fs::fcntl_setfl(&*reader, flags | OFlags::NONBLOCK)?;
        let pidfd = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty())?;
        let began = clock::instant();
        let mut said = VecDeque::new();
        let mut is_open = true;
        let timed_out = loop {
            let left = time.saturating_sub(clock::instant().duration_since(began));
            if left.is_zero() {
                break true;
            }
            let timeout = Timespec::try_from(left).ok();
            let interest = if is_open { PollFlags::IN } else { PollFlags::empty() };
            let mut ends = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(&*reader, interest)];
            match poll(if is_open { &mut ends } else { &mut ends[..1] }, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => (),
                Err(error) => return Err(error.into()),
            }
            let has_ended = ends[0].revents().contains(PollFlags::IN);
            if is_open {
                is_open = drain(reader, &mut said)?;
            }
            if has_ended {
                break false;
            }
        };
        Ok((String::from_utf8_lossy(said.make_contiguous()).into_owned(), timed_out))
    }

    fn end(&mut self, timed_out: bool) -> io::Result<bool> {
        if timed_out {
            self.kill();
        }
        match self.0.wait() {
            Ok(status) => Ok(status.success()),
            // The application ignores its children, so nobody knows.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::CHILD.raw_os_error()) => {
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// It has not been waited for, so its id is still its.
    fn kill(&self) {
        if let Err(error) = kill_process_group(Pid::from_child(&self.0), Signal::KILL) {
            log::debug!("process {}: {error}", self.0.id());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.kill();
            if let Err(error) = self.0.wait() {
                log::debug!("process {}: {error}", self.0.id());
            }
        }
    }
}

/// Reads what is there, or a good part of it: somebody who never stops must not keep us from
/// looking at the time. False at the end.
fn drain(reader: &mut PipeReader, said: &mut VecDeque<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4 << 10];
    for _ in 0..READS_MAX {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                said.extend(&buffer[..count]);
                let too_many = said.len().saturating_sub(limit::ERRAND_OUTPUT_MAX);
                said.drain(..too_many);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// More than a pipe holds.
const READS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_is_kept_in_its_order() {
        let outcome = sh("echo one; echo two >&2; echo three", LONG);
        assert!(outcome.success && !outcome.timed_out);
        assert_eq!(outcome.said, "one\ntwo\nthree\n");
        assert!(!sh("exit 3", LONG).success);
    }

    /// A child that it leaves behind holds the pipe open.
    #[test]
    fn its_end_is_seen_through_an_open_pipe() {
        let outcome = sh("echo here; sleep 1000 & echo $!", LONG);
        let mut lines = outcome.said.lines();
        assert_eq!(lines.next(), Some("here"));
        let pid = lines.next().and_then(|line| line.parse().ok()).and_then(Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }

    #[test]
    fn its_time_and_its_words_are_bounded() {
        let outcome = sh("echo before; exec sleep 1000", Duration::from_millis(300));
        assert!(!outcome.success && outcome.timed_out);
        assert!(sh("yes", Duration::from_millis(300)).timed_out);
        let outcome = sh("head -c 300000 /dev/zero | tr '\\0' x; echo; echo last", LONG);
        assert!(outcome.success);
        assert!(outcome.said.len() <= limit::ERRAND_OUTPUT_MAX);
        assert!(outcome.said.ends_with("xx\nlast\n"));
    }

    fn sh(script: &str, time: Duration) -> Outcome {
        run(Command::new("sh").args(["-c", script]), time).unwrap()
    }

    const LONG: Duration = Duration::from_secs(600);
}
