//! Starts plugins through guardians: one small process each, which runs the plugin and kills what
//! it leaves behind.
//!
//! What the caller has to know: [`start`] ties the guardian to the *thread* that calls it, because
//! that is what the kernel's parent-death signal means by "parent". `host::spawner` has the thread.
//! What the guardian promises is said in `program.rs`.

#![expect(unsafe_code, reason = "tokio wants a promise about descriptors that it watches")]

mod image;
#[allow(dead_code, reason = "each of the two programs uses its half")]
mod record;
mod sweep;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, send, sendmsg, shutdown, socketpair,
};
use rustix::process::{
    Pid, PidfdFlags, Resource, Signal, WaitId, WaitIdOptions, getpid, pidfd_open,
    pidfd_send_signal, waitid,
};
use tokio::io::unix::AsyncFd;

pub use self::image::GuardianLevel;
pub(crate) use self::record::{Report, order, step};
pub(crate) use self::sweep::Mark;

/// The descriptor on which a plugin finds its connection.
pub(crate) const PLUGIN_SOCKET: RawFd = 3;

/// The plugin that a guardian runs.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The file.
    pub(crate) program: PathBuf,
    /// What the program is called, then its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Where it runs; the host's directory if not given.
    pub(crate) directory: Option<PathBuf>,
    /// All of its environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// Soft and hard limits at once.
    pub(crate) limits: Vec<(Resource, u64)>,
    /// Whether the guardian looks for children among all processes, as it does where the kernel
    /// keeps no list of them.
    pub(crate) scan: bool,
}

/// The ends of the pipes that are the plugin's standard output and error.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Starts a guardian, which starts the plugin with `socket` as its descriptor [`PLUGIN_SOCKET`] and
/// then reports. Blocks until the guardian's program runs.
pub(crate) fn start(plan: &Plan, socket: BorrowedFd<'_>) -> io::Result<(Guardian, Output)> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    send_socket(&ours, socket)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    let mut child = image::run(|image| {
        let lifeline = theirs.try_clone()?;
        command(plan, image).stdin(lifeline).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    })?;
    let pid = Pid::from_child(&child);
    let output = match (child.stdout.take(), child.stderr.take()) {
        (Some(stdout), Some(stderr)) => Output { stdout: stdout.into(), stderr: stderr.into() },
        _ => unreachable!("both outputs are piped"),
    };
    // It is there until it is waited for. Only a host that waits for all children can have done
    // that, and the guardian does not end before it is told to.
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => {
            let reaped = AtomicBool::new(false);
            Ok((Guardian { pid, pidfd, lifeline: ours, reaped }, output))
        }
        Err(error) => {
            // It cannot be watched, so it must not run.
            child.kill()?;
            child.wait()?;
            Err(error.into())
        }
    }
}

/// No preparation between fork and exec, so that the standard library need not copy the host's
/// memory: the guardian prepares itself.
fn command(plan: &Plan, image: PathBuf) -> Command {
    let mut command = Command::new(image);
    let limits: Vec<String> = plan
        .limits
        .iter()
        .map(|(resource, limit)| format!("{}={limit}", *resource as u32))
        .collect();
    command
        .env_clear()
        .arg(getpid().as_raw_nonzero().to_string())
        .arg(if plan.scan { "s" } else { "" })
        .arg(plan.directory.clone().unwrap_or_default())
        .arg(limits.join(","))
        .arg(&plan.program)
        .args(&plan.arguments);
    for (name, value) in &plan.environment {
        // The mark keeps the loader of the guardian from taking what is meant for the plugin.
        let mut marked = OsString::from("+");
        marked.push(name);
        command.env(marked, value);
    }
    command
}

fn send_socket(lifeline: &OwnedFd, socket: BorrowedFd<'_>) -> io::Result<()> {
    let sockets = [socket];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&sockets)), "there is room for one");
    sendmsg(lifeline, &[io::IoSlice::new(b"s")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A guardian that runs. When this is dropped, it has killed its plugin and has ended.
#[derive(Debug)]
pub(crate) struct Guardian {
    pid: Pid,
    pidfd: OwnedFd,
    lifeline: OwnedFd,
    reaped: AtomicBool,
}

impl Guardian {
    /// Puts it under the eye of the runtime: it becomes readable when it has something to report
    /// or has ended.
    pub(crate) fn watch(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the guardian owns its lifeline, and neither replaces nor closes it before its
        // own end.
        unsafe { AsyncFd::register(self) }.map_err(|error| error.into_parts().1)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Sends one of the orders. That it has ended is no error.
    pub(crate) fn order(&self, order: u8) -> io::Result<()> {
        match send(&self.lifeline, &[order], SendFlags::NOSIGNAL) {
            Ok(_) | Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The next report; `None` when the guardian has ended. Does not wait.
    pub(crate) fn receive(&self) -> io::Result<Option<Report>> {
        let mut bytes = [0; Report::SIZE + 1];
        match recv(&self.lifeline, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(Errno::CONNRESET) => Ok(None),
            Ok((count, _)) => Report::from_bytes(&bytes[..count]).map(Some).ok_or_else(|| {
                io::Error::other("the guardian was built from another version of this library")
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Wakes it if somebody has stopped it.
    pub(crate) fn wake(&self) -> io::Result<()> {
        ended_is_fine(pidfd_send_signal(&self.pidfd, Signal::CONT))
    }

    /// Collects it if it has ended; returns whether it has.
    pub(crate) fn reap(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(None) => return Ok(false),
            // The host may have collected it, or ignore its children.
            Ok(Some(_)) | Err(Errno::CHILD) => (),
            Err(error) => return Err(error.into()),
        }
        // Relaxed: nothing is published with it.
        self.reaped.store(true, Ordering::Relaxed);
        Ok(true)
    }

    /// A descriptor that becomes readable when it has ended.
    pub(crate) fn end(&self) -> io::Result<ProcessEnd> {
        ProcessEnd::watch(self.pidfd.try_clone()?)
    }
}

impl AsRawFd for Guardian {
    fn as_raw_fd(&self) -> RawFd {
        self.lifeline.as_raw_fd()
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        if *self.reaped.get_mut() {
            return;
        }
        let ended = || -> io::Result<bool> {
            shutdown(&self.lifeline, rustix::net::Shutdown::Both)?;
            self.wake()?;
            if !has_ended(self.pidfd.as_fd(), PATIENCE)? {
                // Something of the plugin cannot be killed. The guardian stays with it.
                return Ok(false);
            }
            self.reap()
        };
        match ended() {
            Ok(true) => (),
            Ok(false) => log::warn!("guardian {} waits for what it cannot kill", self.pid()),
            Err(error) => log::error!("cannot end guardian {}: {error}", self.pid()),
        }
    }
}

/// A plugin's process, which is no child of this one.
#[derive(Debug)]
pub(crate) struct PluginProcess {
    pid: Pid,
    pidfd: OwnedFd,
}

impl PluginProcess {
    /// Only while its guardian has not been told [`order::WATCHED`]: until then the number is the
    /// plugin's.
    pub(crate) fn open(pid: i64) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().filter(|pid| *pid > 1).and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the guardian reports no process id"))?;
        Ok(Self { pid, pidfd: pidfd_open(pid, PidfdFlags::empty())? })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Kills this process and none of its descendants.
    pub(crate) fn kill(&self) -> io::Result<()> {
        ended_is_fine(pidfd_send_signal(&self.pidfd, Signal::KILL))
    }

    /// A descriptor that becomes readable when it has ended.
    pub(crate) fn end(&self) -> io::Result<ProcessEnd> {
        ProcessEnd::watch(self.pidfd.try_clone()?)
    }
}

/// The end of a process, as the kernel tells it.
#[derive(Debug)]
pub(crate) struct ProcessEnd(AsyncFd<OwnedFd>);

impl ProcessEnd {
    fn watch(pidfd: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned and never replaced.
        let watched = unsafe { AsyncFd::register(pidfd) };
        Ok(Self(watched.map_err(|error| error.into_parts().1)?))
    }

    /// Returns when the process has ended.
    pub(crate) async fn wait(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            if has_ended(self.0.get_ref().as_fd(), Duration::ZERO)? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

/// How guardians can be run here; `None` before the first.
pub(crate) fn level() -> Option<GuardianLevel> {
    image::level()
}

fn has_ended(pidfd: BorrowedFd<'_>, patience: Duration) -> io::Result<bool> {
    let timeout = Timespec {
        tv_sec: patience.as_secs().cast_signed(),
        tv_nsec: patience.subsec_nanos().into(),
    };
    let mut ends = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    loop {
        match poll(&mut ends, Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
    }
}

fn ended_is_fine(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::SRCH) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// How long a guardian that is dropped may take. It only has to kill.
const PATIENCE: Duration = Duration::from_secs(5);
