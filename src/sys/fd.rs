//! The descriptor that a supervisor hands to its plugin.

#![allow(unsafe_code, reason = "a descriptor comes as a number, and leaves the environment")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt::socket_type;

/// Takes the descriptor whose number is in the environment variable `name`: it becomes
/// close-on-exec, and the variable leaves the environment, so that no child of this process takes
/// it for its own. `None` when there is no such variable, or it was taken before.
///
/// The environment can be changed only while the process has one thread; with more the variable
/// stays, which a warning says.
///
/// # Errors
///
/// The variable is no number, or the number no socket.
pub(crate) fn take_inherited(name: &str) -> io::Result<Option<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let Some(value) = std::env::var_os(name) else { return Ok(None) };
    // Relaxed: only the number of winners matters, nothing is published with it.
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(None);
    }
    let number: RawFd = value
        .to_str()
        .and_then(|text| text.parse().ok())
        .filter(|&number| number > 2)
        .ok_or_else(|| invalid(format!("{name}={value:?} is not a descriptor above 2")))?;
    remove_variable(name);
    std::fs::symlink_metadata(format!("/proc/self/fd/{number}"))
        .map_err(|_| invalid(format!("{name}={number} is not open")))?;
    // SAFETY:
    // - The descriptor is open, checked above.
    // - Nobody else owns it: the variable is the supervisor's word that it was opened for this
    //   code, and `TAKEN` lets that word be taken once in a process.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
    socket_type(&descriptor).map_err(|_| invalid(format!("{name}={number} is not a socket")))?;
    Ok(Some(descriptor))
}

fn remove_variable(name: &str) {
    if std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count) != 1 {
        log::warn!(
            "{name} stays in the environment: this process has several threads already; \
             make the plugin before them, or call `take_inherited` first in `main`"
        );
        return;
    }
    // SAFETY:
    // - No other thread reads or writes the environment: the kernel lists this one as the only
    //   one of the process, and only this one could start another.
    unsafe { std::env::remove_var(name) };
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
