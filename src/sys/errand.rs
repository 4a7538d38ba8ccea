//! A child that runs an errand: it ends with the thread that waits for it.

#![expect(unsafe_code, reason = "code between fork and exec")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// Starts `command` in a process group of its own, so that it is killed when the calling *thread*
/// ends for whatever reason. The thread therefore has to wait for it.
pub(crate) fn tie_to_thread(command: &mut Command) -> &mut Command {
    let parent = getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The signal is sent at the parent's death, which may have been before we asked for it.
        match getppid() == Some(parent) {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(Errno::SRCH.raw_os_error())),
        }
    };
    // SAFETY:
    // - The closure runs between fork and exec, where only async-signal-safe operations are
    //   allowed: it makes two system calls through rustix, which enters the kernel directly, and
    //   neither allocates nor locks; an error made of a number allocates nothing.
    // - It captures an integer, so nothing is dropped in the child.
    unsafe { command.process_group(0).pre_exec(prepare) }
}
