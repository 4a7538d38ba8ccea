//! Processes: start one that dies with us, watch it, signal it.
//!
//! What the caller has to know: [`spawn`] ties the child to the *thread* that calls it, because
//! that is what the kernel's parent-death signal means by "parent". `host::spawn` has the thread.

#![expect(unsafe_code, reason = "code between fork and exec, descriptors by their numbers")]

use std::fs::File;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::FdFlags;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, getppid, kill_process_group,
    pidfd_open, set_parent_process_death_signal, setsid, waitid,
};
use tokio::io::unix::AsyncFd;

/// The descriptor on which a child finds its connection.
pub(crate) const CHILD_SOCKET: RawFd = 3;

/// A child that runs: its program has been executed.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

/// The ends of the pipes that were the child's standard output and error.
#[derive(Debug)]
pub(crate) struct ChildOutput {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ChildExit {
    /// It returned from its main function, or called exit.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// Which one.
        number: i32,
        /// Whether a core file was written.
        core: bool,
    },
    /// Somebody else in this process collected the status, or child signals are ignored.
    Unknown,
}

/// Starts `command` in a session and process group of its own, with `socket` as its descriptor
/// [`CHILD_SOCKET`], no input, and both outputs on pipes. The child is killed when the calling
/// *thread* ends, for whatever reason.
///
/// An error is the one of fork, of the preparation, or of exec.
pub(crate) fn spawn(
    command: &mut Command,
    socket: BorrowedFd<'_>,
) -> io::Result<(Child, ChildOutput)> {
    let _placeholder = occupy_child_socket()?;
    let parent = getpid();
    let socket = socket.as_raw_fd();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY:
    // - The closure runs between fork and exec, where only async-signal-safe operations are
    //   allowed: `prepare_child` makes system calls through rustix, which enters the kernel
    //   directly, and neither allocates nor locks.
    // - It captures two integers, so nothing is dropped in the child.
    let command = unsafe { command.pre_exec(move || prepare_child(parent, socket)) };
    let mut child = command.spawn()?;
    let pid = Pid::from_child(&child);
    let output = match (child.stdout.take(), child.stderr.take()) {
        (Some(stdout), Some(stderr)) => {
            ChildOutput { stdout: stdout.into(), stderr: stderr.into() }
        }
        _ => unreachable!("both outputs are piped"),
    };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok((Child { pid, pidfd }, output)),
        Err(error) => {
            // It cannot be watched, so it must not run. Nobody has waited for it: the id is its.
            child.kill()?;
            child.wait()?;
            Err(error.into())
        }
    }
}

impl Child {
    /// Puts it under the eye of the runtime: it becomes readable when it has ended.
    pub(crate) fn watch(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the child owns its pidfd, and neither replaces nor closes it before its own end.
        unsafe { AsyncFd::register(self) }.map_err(|error| {
            // One that cannot be watched must not run.
            let (child, error) = error.into_parts();
            child.kill_and_reap().err().unwrap_or(error)
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Signals everybody in the child's process group.
    ///
    /// Only while the child has not been [`reap`](Self::reap)ed: until then its id, which is the
    /// group's, cannot be given to somebody else.
    pub(crate) fn signal_group(&self, signal: Signal) -> io::Result<()> {
        ended_is_fine(kill_process_group(self.pid, signal))
    }

    /// Whether it has ended. Its status can still be collected.
    pub(crate) fn has_ended(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(status) => Ok(status.is_some()),
            Err(rustix::io::Errno::CHILD) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills the whole group and collects the status. Blocks until the kernel is done with it.
    pub(crate) fn kill_and_reap(&self) -> io::Result<()> {
        self.signal_group(Signal::KILL)?;
        let mut ends = [PollFd::new(&self.pidfd, PollFlags::IN)];
        while let Err(error) = poll(&mut ends, None) {
            if error != rustix::io::Errno::INTR {
                return Err(error.into());
            }
        }
        self.reap().map(drop)
    }

    /// Collects the status of a child that has ended; `None` while it runs.
    pub(crate) fn reap(&self) -> io::Result<Option<ChildExit>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(Some(status)) => status,
            Ok(None) => return Ok(None),
            Err(rustix::io::Errno::CHILD) => return Ok(Some(ChildExit::Unknown)),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ChildExit::Code(code),
            (None, Some(number)) => ChildExit::Signal { number, core: status.dumped() },
            (None, None) => ChildExit::Unknown,
        }))
    }
}

impl AsRawFd for Child {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

/// Makes sure that [`CHILD_SOCKET`] is open in this process during the fork.
///
/// Otherwise the standard library's pipe that reports a failing exec could get that number, and the
/// child would overwrite it with the socket. (It still could if another thread closed the
/// descriptor in this very moment; then a failing exec looks like a plugin that says nonsense.)
fn occupy_child_socket() -> io::Result<Option<OwnedFd>> {
    let null = OwnedFd::from(File::open("/dev/null")?);
    if null.as_raw_fd() == CHILD_SOCKET {
        return Ok(Some(null));
    }
    let copy = rustix::io::fcntl_dupfd_cloexec(&null, CHILD_SOCKET)?;
    Ok((copy.as_raw_fd() == CHILD_SOCKET).then_some(copy))
}

/// What the child does before exec. Async-signal-safe: system calls only.
fn prepare_child(parent: Pid, socket: RawFd) -> io::Result<()> {
    setsid()?;
    reset_signals()?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The signal is sent at the parent's death, which may have been before we asked for it. The
    // comparison is with the parent itself: an orphan's new parent need not be process 1.
    if getppid() != Some(parent) {
        return Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
    }
    // SAFETY:
    // - `socket` is open: the caller of `spawn` borrows it, and fork copied the table.
    // - The borrow ends with this function, and nothing closes the descriptor before exec.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    // SAFETY:
    // - The value is never dropped, so that it does not close what it does not own.
    // - In this copy of the process nobody else runs who could use or close the descriptor.
    let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(CHILD_SOCKET) });
    if socket.as_raw_fd() != CHILD_SOCKET {
        rustix::io::dup2(socket, &mut target)?;
    }
    // Where socket and target are the same, its close-on-exec flag is still set.
    rustix::io::fcntl_setfd(&*target, FdFlags::empty())?;
    close_the_rest_at_exec();
    Ok(())
}

/// Undoes what a host may have done to signals and a program inherits: a blocked mask, and signals
/// that are ignored (a child of `nohup` would not hear its SIGHUP).
fn reset_signals() -> io::Result<()> {
    for number in 1..=LAST_SIGNAL {
        // SAFETY:
        // - `signal` is async-signal-safe.
        // - The default disposition runs no code of this process.
        // - It fails for numbers that cannot be changed, and changes nothing then.
        let _previous = unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the pointer is valid for a write of a set, and `sigemptyset` makes it a valid one.
    if unsafe { libc::sigemptyset(none.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY:
    // - `none` was initialised by `sigemptyset`; the old mask is not asked for.
    // - `sigprocmask` is async-signal-safe, and after fork there is one thread.
    match unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Marks every descriptor above the socket close-on-exec: a host may have opened some without that
/// flag, and a plugin must not find them. Before Linux 5.11 they stay as they are.
fn close_the_rest_at_exec() {
    let (first, last) = (CHILD_SOCKET.cast_unsigned() + 1, u32::MAX);
    // SAFETY:
    // - The call only sets a flag of descriptors, in a process that runs nothing else.
    // - The pipe on which the standard library reports a failing exec has the flag already.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
}

/// The highest signal number, real-time ones included.
const LAST_SIGNAL: i32 = 64;

fn ended_is_fine(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
