//! Finds what a plugin left when its guardian can no longer tell.
//!
//! Every process inherits the environment with which its program began, and the kernel shows it.
//! So a variable that is different for every start of a plugin marks its descendants, whatever
//! sessions and parents they have. One that begins another program with a clean environment is
//! missed; that is why this is the last resort and not the way it is done.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

/// What marks the descendants of one start of a plugin: a variable of their environment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Mark(String);

impl Mark {
    /// The variable's name.
    pub(crate) const NAME: &str = "PLUGBUS_RUN";

    /// One that no other start has, in this process or another that runs or ran before.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        static BEGAN: OnceLock<String> = OnceLock::new();
        let began = BEGAN.get_or_init(|| began().unwrap_or_default());
        // Relaxed: only that numbers differ matters.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(format!("{}.{began}.{count}", getpid().as_raw_nonzero()))
    }

    pub(crate) fn value(&self) -> &str {
        &self.0
    }

    /// Kills all processes that have this mark, and those that they start meanwhile. Blocks until
    /// none is found any more, or one does not go.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        let variable = format!("{}={}", Self::NAME, self.0);
        for _ in 0..ROUNDS_MAX {
            if !kill_with(variable.as_bytes())? {
                return Ok(());
            }
            // They need a moment to end, and can be seen until then.
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(io::Error::other(format!("processes with {variable} in their environment stay")))
    }
}

/// Returns whether there was any.
fn kill_with(variable: &[u8]) -> io::Result<bool> {
    let mut found = false;
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| Pid::from_raw(name.parse().ok()?)) else {
            continue;
        };
        // Opened before it is looked at: then what is killed is what was looked at.
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if pid != getpid() && has_variable(&name, variable) {
            match pidfd_send_signal(&pidfd, Signal::KILL) {
                Ok(()) => found = true,
                Err(Errno::SRCH) => (),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(found)
}

fn has_variable(pid: &OsStr, variable: &[u8]) -> bool {
    let file = [b"/proc/", pid.as_bytes(), b"/environ"].concat();
    // A process of another user does not show its own, and is none of ours.
    let environment = std::fs::read(OsStr::from_bytes(&file)).unwrap_or_default();
    environment.split(|&byte| byte == 0).any(|it| it == variable)
}

/// When this process began, in ticks since the system did.
fn began() -> Option<String> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in parentheses, may have anything in it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(ToOwned::to_owned)
}

/// Two seconds and more: a process needs milliseconds to end.
const ROUNDS_MAX: usize = 2_000;

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_sweep_kills_what_has_the_mark_and_nothing_else() {
        let (mark, other) = (Mark::new(), Mark::new());
        assert_ne!(mark, other);
        let start = |mark: &Mark| {
            Command::new("sleep").arg("1000").env(Mark::NAME, mark.value()).spawn().unwrap()
        };
        let (mut marked, mut stranger) = (start(&mark), start(&other));
        // A zombie shows no environment, so the sweep ends although nobody has collected it.
        mark.sweep().unwrap();
        assert_eq!(marked.wait().unwrap().signal(), Some(9));
        assert_eq!(stranger.try_wait().unwrap(), None);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
