//! The guardian: a program that runs one plugin and outlives it by the time it takes to kill what
//! the plugin leaves behind.
//!
//! It is a program of its own, compiled by `build.rs` and embedded, because the process that wants
//! to start a plugin belongs to somebody else: it has threads, locks and a large memory that a fork
//! would copy, and it must not become the parent of strangers. `docs/decisions/0005-guardian.md`
//! has the reasons.
//!
//! What it promises: from the moment the lifeline ends, the plugin ends, or it is ordered to kill,
//! every descendant of the plugin is killed, whatever sessions and groups it has made. It decides
//! nothing else: it has no timers, restarts nothing, and reads no configuration.
//!
//! It is called by nobody but [`super`](crate) with
//! `plugbus-guardian BROKER-PID OPTIONS DIRECTORY LIMITS PROGRAM ARGUMENT…`, its lifeline on
//! descriptor 0, the plugin's output on 1 and 2, and the plugin's environment as its own with a `+`
//! before each name, so that what it says to the loader (`LD_PRELOAD`) is for the plugin alone.
//!
//! Single-threaded, and it allocates only to list its children. This file is longer than
//! others because it is compiled alone, with no crate that has these system calls.

#![no_main]

#[cfg(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc64"))]
compile_error!("the guardian has no signal numbers for this architecture");

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::io::Error;
use std::ptr;

use record::{Report, order, step};

mod record;

/// The C library's entry point; Rust's own would only prepare what is not needed here.
#[unsafe(no_mangle)]
extern "C" fn main(
    count: c_int,
    arguments: *const *const c_char,
    environment: *mut *const c_char,
) -> c_int {
    // SAFETY:
    // - Called once, by the C library, with what the kernel gave: `count` strings and a null
    //   pointer, and an environment that also ends with one.
    // - Nothing else in this program uses either.
    let Some(orders) = (unsafe { Orders::parse(count, arguments, environment) }) else {
        return USAGE;
    };
    match Guardian::prepare(orders) {
        Ok(guardian) => guardian.run(),
        Err(errno) => {
            let detail = 0;
            send(0, Report::Failed { step: step::GUARDIAN, errno: errno.into(), detail });
            1
        }
    }
}

/// What the broker wants, as it stands in the arguments.
struct Orders {
    broker: c_int,
    /// Whether children are found by looking at all processes.
    scan: bool,
    directory: &'static CStr,
    limits: &'static CStr,
    program: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
}

impl Orders {
    /// # Safety
    ///
    /// As for `main` of C, and the memory is never used by anybody else.
    unsafe fn parse(
        count: c_int,
        arguments: *const *const c_char,
        environment: *mut *const c_char,
    ) -> Option<Self> {
        if count < 7 {
            return None;
        }
        let argument = |index: usize| {
            // SAFETY: below `count`, which the caller vouches for.
            let place = unsafe { arguments.add(index) };
            // SAFETY: as above.
            unsafe { *place }
        };
        let text = |index: usize| {
            // SAFETY: an argument ends with zero and is there for as long as the process.
            unsafe { CStr::from_ptr::<'static>(argument(index)) }
        };
        let mut place = environment;
        loop {
            // SAFETY: at most the null pointer that ends the environment.
            let entry = unsafe { &mut *place };
            if entry.is_null() {
                break;
            }
            // SAFETY: an entry has at least the byte that ends it.
            if unsafe { **entry } == MARK {
                // SAFETY: after the mark there is at least the byte that ends the entry.
                *entry = unsafe { entry.add(1) };
            }
            // SAFETY: `place` was not the null pointer that ends the environment.
            place = unsafe { place.add(1) };
        }
        Some(Self {
            broker: text(1).to_str().ok()?.parse().ok()?,
            scan: text(2).to_bytes().contains(&b's'),
            directory: text(3),
            limits: text(4),
            program: argument(5),
            // SAFETY: the index is below `count`.
            arguments: unsafe { arguments.add(6) },
            environment,
        })
    }
}

struct Guardian {
    orders: Orders,
    lifeline: Option<c_int>,
    /// The plugin's connection, until the plugin has it.
    socket: c_int,
    leader: c_int,
    /// The pipe that says whether the plugin's program runs, until it does.
    starting: Option<c_int>,
    /// Whether the broker has a descriptor of the plugin's process.
    watched: bool,
    /// Whether the plugin's status has been collected.
    collected: bool,
    /// Whether everybody has to go.
    killing: bool,
}

impl Guardian {
    fn prepare(orders: Orders) -> Result<Self, c_int> {
        // A group of its own, so that what a terminal sends to the host's does not come here.
        check(setsid())?;
        handle_signals()?;
        close_from(3);
        // SAFETY: the name ends with zero; the kernel copies 16 bytes at most.
        check(unsafe { prctl(PR_SET_NAME, c"plugbus-guard".as_ptr()) })?;
        // SAFETY: these take integers.
        check(unsafe { prctl(PR_SET_CHILD_SUBREAPER, 1 as c_ulong, 0, 0, 0) })?;
        // Beside the lifeline, whose other end a fork of the host might keep open.
        // SAFETY: as above.
        check(unsafe { prctl(PR_SET_PDEATHSIG, SIGUSR1 as c_ulong, 0, 0, 0) })?;
        if getppid() != orders.broker {
            return Err(ESRCH);
        }
        let socket = receive_socket(0)?;
        let lifeline = move_up(0)?;
        Ok(Self {
            orders,
            lifeline: Some(lifeline),
            socket,
            leader: 0,
            starting: None,
            watched: false,
            collected: false,
            killing: false,
        })
    }

    fn run(mut self) -> c_int {
        if let Err(errno) = self.start() {
            let detail = 0;
            self.report(Report::Failed { step: step::PROCESS, errno: errno.into(), detail });
            return 1;
        }
        loop {
            let left = match self.collect() {
                Children::None => Some(0),
                Children::Some if self.killing => self.kill_children(),
                Children::Some => None,
            };
            if let Some(left) = left {
                self.report(Report::Gone { left });
                return 0;
            }
            let (lifeline, starting) = self.wait();
            if starting && let Some(failed) = self.hear_of_start() {
                self.report(failed);
                return 1;
            }
            if lifeline {
                self.obey();
            }
        }
    }

    /// Forks the plugin. What goes wrong in it comes through the pipe.
    fn start(&mut self) -> Result<(), c_int> {
        let mut ends = [-1; 2];
        // SAFETY: there is room for two descriptors.
        check(unsafe { pipe2(ends.as_mut_ptr(), O_CLOEXEC) })?;
        let (reader, writer) = (move_up(ends[0])?, move_up(ends[1])?);
        let guardian = getpid();
        // SAFETY: this process has one thread, so that the copy is as good as the original.
        match check(unsafe { fork() })? {
            0 => {
                let failed = self.become_plugin(guardian);
                let bytes = failed.to_bytes();
                // SAFETY: the bytes are there. If it fails, the exit code says the same.
                unsafe { write(writer, bytes.as_ptr().cast(), bytes.len()) };
                // SAFETY: takes an integer. Nothing of the guardian's may run here.
                unsafe { _exit(127) }
            }
            leader => self.leader = leader,
        }
        self.starting = Some(reader);
        close(writer);
        close(self.socket);
        // The plugin's alone from now on, so that their end is seen when it ends.
        let null = open_null()?;
        for stream in 0..3 {
            check(dup2(null, stream))?;
        }
        close(null);
        // SAFETY: the path ends with zero. Where it fails, a file system stays in use for longer.
        unsafe { chdir(c"/".as_ptr()) };
        Ok(())
    }

    /// In the child: everything up to the plugin's first instruction. Returns what failed.
    fn become_plugin(&self, guardian: c_int) -> Report {
        let failed =
            |step, errno: c_int, detail| Report::Failed { step, errno: errno.into(), detail };
        if let Err(errno) = self.prepare_process(guardian) {
            return failed(step::PROCESS, errno, 0);
        }
        if !self.orders.directory.is_empty() {
            // SAFETY: it ends with zero.
            if let Err(errno) = check(unsafe { chdir(self.orders.directory.as_ptr()) }) {
                return failed(step::DIRECTORY, errno, 0);
            }
        }
        for (resource, limit) in limits(self.orders.limits.to_bytes()) {
            // SAFETY: the structure lives during the call.
            if let Err(errno) = check(unsafe { setrlimit(resource, &raw const limit) }) {
                return failed(step::LIMIT, errno, resource.into());
            }
        }
        let Orders { program, arguments, environment, .. } = self.orders;
        // SAFETY: strings that end with zero, lists that end with a null pointer.
        unsafe { execve(program, arguments, environment) };
        failed(step::PROGRAM, errno(), 0)
    }

    fn prepare_process(&self, guardian: c_int) -> Result<(), c_int> {
        check(setsid())?;
        restore_signals()?;
        // SAFETY: takes integers.
        check(unsafe { prctl(PR_SET_PDEATHSIG, SIGKILL as c_ulong, 0, 0, 0) })?;
        // The guardian may have died before the request.
        if getppid() != guardian {
            return Err(ESRCH);
        }
        let null = open_null()?;
        check(dup2(null, 0))?;
        if self.socket == PLUGIN_SOCKET {
            // SAFETY: takes integers. The flag goes.
            check(unsafe { fcntl(self.socket, F_SETFD, 0 as c_int) })?;
        } else {
            check(dup2(self.socket, PLUGIN_SOCKET))?;
        }
        Ok(())
    }

    /// Collects what has ended. The plugin itself only when its group has been killed: until then
    /// nobody else can have the group's number.
    fn collect(&mut self) -> Children {
        loop {
            match ended_child() {
                Ended::Nobody => return Children::Some,
                Ended::NoChild => return Children::None,
                Ended::Child(pid) if pid == self.leader && !self.collected => {
                    self.killing = true;
                    kill(-self.leader, SIGKILL);
                    if self.starting.is_some() || !self.watched && self.lifeline.is_some() {
                        return Children::Some;
                    }
                    self.collected = true;
                    let ended = collect_status(pid);
                    self.report(ended);
                }
                Ended::Child(pid) => {
                    collect_status(pid);
                }
            }
        }
    }

    /// Kills the children, and with them, round by round, all descendants: whoever loses its
    /// parent becomes a child. Returns how many stay because they are another user's, when there
    /// are no others.
    fn kill_children(&self) -> Option<i64> {
        if !self.collected {
            kill(-self.leader, SIGKILL);
        }
        let children = match self.orders.scan {
            false => children().or_else(children_of_all),
            true => children_of_all(),
        };
        let Some(children) = children else {
            return self.collected.then_some(-1);
        };
        let denied = |pid: &c_int| kill(*pid, SIGKILL) != 0 && errno() == EPERM;
        let denied = children.iter().filter(|pid| denied(pid)).count();
        let over = self.collected && denied == children.len() && denied > 0;
        (over && matches!(ended_child(), Ended::Nobody)).then_some(denied as i64)
    }

    /// Waits for an order, news of the start, or the end of a child. Returns which of the first
    /// two there are.
    fn wait(&self) -> (bool, bool) {
        let entry = |descriptor: Option<c_int>| PollEntry {
            descriptor: descriptor.unwrap_or(-1),
            events: POLLIN,
            found: 0,
        };
        let mut entries = [entry(self.lifeline), entry(self.starting)];
        let mask = signal_set(false);
        // SAFETY:
        // - The entries and the mask live during the call; there is no timeout.
        // - A negative descriptor is skipped.
        let found = unsafe { ppoll(entries.as_mut_ptr(), 2, ptr::null(), &raw const mask) };
        if found <= 0 {
            // A signal: a child has ended, or the broker, whose socket might be held open.
            let orphaned = self.lifeline.is_some() && getppid() != self.orders.broker;
            return (orphaned, false);
        }
        (entries[0].found != 0, entries[1].found != 0)
    }

    /// The plugin's program runs, or the pipe says why not.
    fn hear_of_start(&mut self) -> Option<Report> {
        let pipe = self.starting.take()?;
        let mut bytes = [0; Report::SIZE];
        // SAFETY: there is room for that many bytes.
        let count = unsafe { read(pipe, bytes.as_mut_ptr().cast(), bytes.len()) };
        close(pipe);
        if let Some(failed) = Report::from_bytes(&bytes)
            && count == Report::SIZE as isize
        {
            collect_status(self.leader);
            return Some(failed);
        }
        self.report(Report::Started { pid: self.leader.into() });
        None
    }

    /// One order, or the end of the lifeline.
    fn obey(&mut self) {
        let Some(lifeline) = self.lifeline else { return };
        let mut byte = 0_u8;
        // SAFETY: there is room for one byte.
        match unsafe { recv(lifeline, (&raw mut byte).cast(), 1, MSG_DONTWAIT) } {
            1 if byte == order::WATCHED => self.watched = true,
            1 if byte == order::TERMINATE && !self.collected => {
                kill(-self.leader, SIGTERM);
                // One that is stopped could not hear the first.
                kill(-self.leader, SIGCONT);
            }
            1 if byte == order::KILL => self.killing = true,
            1 => (),
            -1 if matches!(errno(), EAGAIN | EINTR) && getppid() == self.orders.broker => (),
            _ => {
                self.lifeline = None;
                self.killing = true;
                close(lifeline);
            }
        }
    }

    fn report(&self, report: Report) {
        if let Some(lifeline) = self.lifeline {
            send(lifeline, report);
        }
    }
}

enum Children {
    None,
    Some,
}

enum Ended {
    NoChild,
    Nobody,
    Child(c_int),
}

/// A child that has ended, which stays as it is.
fn ended_child() -> Ended {
    let mut information = SignalInformation { words: [0; 3], fields: Fields { words: [0; 28] } };
    let options = WEXITED | WNOHANG | WNOWAIT;
    // SAFETY: the structure is as large as the C library's, and zeroed, as the call wants it.
    match unsafe { waitid(P_ALL, 0, &raw mut information, options) } {
        0 if information.words[0] == 0 => Ended::Nobody,
        // SAFETY: the kernel wrote the fields of a child's signal, or they are zero.
        0 => Ended::Child(unsafe { information.fields.pid }),
        _ if errno() == ECHILD => Ended::NoChild,
        _ => Ended::Nobody,
    }
}

/// Collects a child that has ended.
fn collect_status(pid: c_int) -> Report {
    let mut status = 0;
    let mut usage = Usage { words: [0; 64] };
    loop {
        // SAFETY: both places live during the call and are at least as large as it wants.
        let collected = unsafe { wait4(pid, &raw mut status, 0, &raw mut usage) };
        if collected >= 0 || errno() != EINTR {
            break;
        }
    }
    // Two times, in seconds and microseconds, then the size; on 32-bit systems C libraries differ.
    let (memory_max, processor) = match usage.words {
        [us, uu, ss, su, size, ..] if cfg!(target_pointer_width = "64") => {
            (size as i64, (us as i64 + ss as i64) * 1_000_000 + uu as i64 + su as i64)
        }
        _ => (0, 0),
    };
    Report::Ended { status: status.into(), memory_max, processor }
}

/// The children as the kernel lists them, if it can. One that ends meanwhile may hide another;
/// its end is a reason to look again.
fn children() -> Option<Vec<c_int>> {
    let text = std::fs::read_to_string("/proc/thread-self/children").ok()?;
    Some(text.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}

/// The children, found among all processes.
fn children_of_all() -> Option<Vec<c_int>> {
    let here = getpid();
    let processes = std::fs::read_dir("/proc").ok()?;
    let children = processes.filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may have anything in it; after it come state and parent.
        let end = stat.iter().rposition(|&byte| byte == b')')?;
        let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
        let parent: c_int = rest.split_whitespace().nth(1)?.parse().ok()?;
        (parent == here).then_some(pid)
    });
    Some(children.collect())
}

/// `RESOURCE=LIMIT,…`, all numbers. The limit is the soft and the hard one.
fn limits(text: &[u8]) -> impl Iterator<Item = (c_int, Limit)> {
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<u64>().ok();
    text.split(|&byte| byte == b',').filter_map(move |item| {
        let mut parts = item.split(|&byte| byte == b'=');
        let resource = c_int::try_from(number(parts.next()?)?).ok()?;
        let soft = Rlim::try_from(number(parts.next()?)?).unwrap_or(Rlim::MAX);
        // The kernel says why (SIGXCPU) only where there is a second between the two.
        let hard = if resource == RLIMIT_CPU { soft.saturating_add(1) } else { soft };
        Some((resource, Limit { soft, hard }))
    })
}

/// Ignores what would end or stop this process, and lets the end of a child and of the broker
/// wake it, but only while it waits.
fn handle_signals() -> Result<(), c_int> {
    for number in 1..=LAST_SIGNAL {
        let handler = match number {
            SIGCHLD | SIGUSR1 => Handler { function: wake },
            // Its own mistakes should be seen.
            SIGILL | SIGTRAP | SIGABRT | SIGBUS | SIGFPE | SIGSEGV | SIGSYS => {
                Handler { number: SIG_DFL }
            }
            _ => Handler { number: SIG_IGN },
        };
        // SAFETY: the handler does nothing; for numbers that cannot be changed the call fails.
        unsafe { signal(number, handler) };
    }
    let all = signal_set(true);
    // SAFETY: the set lives during the call; the old one is not asked for.
    check(unsafe { sigprocmask(SIG_SETMASK, &raw const all, ptr::null_mut()) })?;
    Ok(())
}

/// What a program expects: nothing ignored, nothing blocked.
fn restore_signals() -> Result<(), c_int> {
    for number in 1..=LAST_SIGNAL {
        // SAFETY: the default runs no code of this process.
        unsafe { signal(number, Handler { number: SIG_DFL }) };
    }
    let none = signal_set(false);
    // SAFETY: as in `handle_signals`.
    check(unsafe { sigprocmask(SIG_SETMASK, &raw const none, ptr::null_mut()) })?;
    Ok(())
}

/// That it was called has interrupted the wait, and that is all it is for.
extern "C" fn wake(_: c_int) {}

fn signal_set(full: bool) -> SignalSet {
    let mut set = SignalSet { words: [0; 16] };
    if full {
        // SAFETY: the set is at least as large as the C library's.
        unsafe { sigfillset(&raw mut set) };
    } else {
        // SAFETY: as above.
        unsafe { sigemptyset(&raw mut set) };
    }
    set
}

/// Closes what the host had open without the flag that closes it here.
fn close_from(first: c_int) {
    // SAFETY: takes integers. The number is the same on all architectures that come here.
    if unsafe { syscall(SYS_CLOSE_RANGE, first as c_uint as c_ulong, c_uint::MAX as c_ulong, 0) }
        == 0
    {
        return;
    }
    // Before Linux 5.9.
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<c_int> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in open.into_iter().filter(|&number| number >= first) {
        close(number);
    }
}

/// The plugin's connection, which the broker sends before anything else.
fn receive_socket(lifeline: c_int) -> Result<c_int, c_int> {
    let mut byte = 0_u8;
    let mut control = Control { words: [0; 8] };
    let mut part = Part { base: (&raw mut byte).cast(), size: 1 };
    let mut message = Message {
        name: ptr::null_mut(),
        name_size: 0,
        parts: &raw mut part,
        part_count: 1,
        control: (&raw mut control).cast(),
        control_size: size_of::<Control>(),
        flags: 0,
    };
    // SAFETY: everything that the message points to lives during the call, with the sizes in it.
    let count = unsafe { recvmsg(lifeline, &raw mut message, MSG_CMSG_CLOEXEC) };
    if count < 0 {
        return Err(errno());
    }
    // SAFETY: all fields are integers, and the kernel wrote them or they are zero.
    let header = unsafe { control.header };
    match (header.level, header.kind) {
        (SOL_SOCKET, SCM_RIGHTS) if count == 1 => Ok(header.descriptor),
        _ => Err(EPROTO),
    }
}

/// Moves a descriptor out of the way of those that a plugin gets.
fn move_up(descriptor: c_int) -> Result<c_int, c_int> {
    // SAFETY: takes integers.
    let moved = check(unsafe { fcntl(descriptor, F_DUPFD_CLOEXEC, 10 as c_int) })?;
    close(descriptor);
    Ok(moved)
}

fn open_null() -> Result<c_int, c_int> {
    // SAFETY: the path ends with zero, and no mode is wanted without creating.
    let null = check(unsafe { open(c"/dev/null".as_ptr(), O_RDWR | O_CLOEXEC) })?;
    // Where it is not a standard stream itself: a copy onto itself would keep its flag.
    move_up(null)
}

fn send(socket: c_int, report: Report) {
    let bytes = report.to_bytes();
    // SAFETY: the bytes are there. Who does not listen any more misses nothing.
    unsafe { c_send(socket, bytes.as_ptr().cast(), bytes.len(), MSG_NOSIGNAL) };
}

fn check(result: c_int) -> Result<c_int, c_int> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

fn errno() -> c_int {
    Error::last_os_error().raw_os_error().unwrap_or(0)
}

const PLUGIN_SOCKET: c_int = 3;
const USAGE: c_int = 64;
const MARK: c_char = b'+' as c_char;
const LAST_SIGNAL: c_int = 64;

// Linux's numbers, the same on all architectures but those refused above.
const SIGILL: c_int = 4;
const SIGTRAP: c_int = 5;
const SIGABRT: c_int = 6;
const SIGBUS: c_int = 7;
const SIGFPE: c_int = 8;
const SIGKILL: c_int = 9;
const SIGUSR1: c_int = 10;
const SIGSEGV: c_int = 11;
const SIGTERM: c_int = 15;
const SIGCHLD: c_int = 17;
const SIGCONT: c_int = 18;
const SIGSYS: c_int = 31;
const SIG_DFL: usize = 0;
const SIG_IGN: usize = 1;
const SIG_SETMASK: c_int = 2;
const EPERM: c_int = 1;
const ESRCH: c_int = 3;
const EINTR: c_int = 4;
const ECHILD: c_int = 10;
const EAGAIN: c_int = 11;
const EPROTO: c_int = 71;
const PR_SET_PDEATHSIG: c_int = 1;
const PR_SET_NAME: c_int = 15;
const PR_SET_CHILD_SUBREAPER: c_int = 36;
const RLIMIT_CPU: c_int = 0;
const P_ALL: c_int = 0;
const WNOHANG: c_int = 1;
const WEXITED: c_int = 4;
const WNOWAIT: c_int = 0x0100_0000;
const POLLIN: i16 = 1;
const O_RDWR: c_int = 2;
const O_CLOEXEC: c_int = 0o2_000_000;
const F_SETFD: c_int = 2;
const F_DUPFD_CLOEXEC: c_int = 1030;
const SOL_SOCKET: c_int = 1;
const SCM_RIGHTS: c_int = 1;
const MSG_DONTWAIT: c_int = 0x40;
const MSG_NOSIGNAL: c_int = 0x4000;
const MSG_CMSG_CLOEXEC: c_int = 0x4000_0000;
const SYS_CLOSE_RANGE: c_long = 436;

/// What `rlim_t` is.
#[cfg(target_env = "musl")]
type Rlim = u64;
#[cfg(not(target_env = "musl"))]
type Rlim = c_ulong;

#[repr(C)]
struct Limit {
    soft: Rlim,
    hard: Rlim,
}

/// Larger than `sigset_t` of every C library.
#[repr(C)]
struct SignalSet {
    words: [u64; 16],
}

/// `siginfo_t`: three integers, then a union that is aligned like a pointer. 128 bytes or more.
#[repr(C)]
struct SignalInformation {
    words: [c_int; 3],
    fields: Fields,
}

#[repr(C)]
union Fields {
    pid: c_int,
    words: [c_ulong; 28],
}

/// Larger than `struct rusage` of every C library.
#[repr(C)]
struct Usage {
    words: [c_ulong; 64],
}

#[repr(C)]
union Handler {
    number: usize,
    function: extern "C" fn(c_int),
}

#[repr(C)]
struct PollEntry {
    descriptor: c_int,
    events: i16,
    found: i16,
}

/// `struct msghdr` as the kernel has it. The C libraries that declare shorter sizes pad them to
/// the same layout.
#[repr(C)]
struct Message {
    name: *mut c_void,
    name_size: c_uint,
    parts: *mut Part,
    part_count: usize,
    control: *mut c_void,
    control_size: usize,
    flags: c_int,
}

#[repr(C)]
struct Part {
    base: *mut c_void,
    size: usize,
}

/// Room for one control message with one descriptor.
#[repr(C)]
union Control {
    header: ControlHeader,
    words: [usize; 8],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ControlHeader {
    size: usize,
    level: c_int,
    kind: c_int,
    descriptor: c_int,
}

unsafe extern "C" {
    safe fn close(descriptor: c_int) -> c_int;
    safe fn dup2(from: c_int, to: c_int) -> c_int;
    safe fn getpid() -> c_int;
    safe fn getppid() -> c_int;
    safe fn kill(pid: c_int, signal: c_int) -> c_int;
    safe fn setsid() -> c_int;
    fn _exit(code: c_int) -> !;
    fn chdir(path: *const c_char) -> c_int;
    fn execve(
        path: *const c_char,
        arguments: *const *const c_char,
        environment: *const *const c_char,
    ) -> c_int;
    fn fcntl(descriptor: c_int, command: c_int, ...) -> c_int;
    fn fork() -> c_int;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn pipe2(ends: *mut c_int, flags: c_int) -> c_int;
    fn ppoll(
        entries: *mut PollEntry,
        count: c_ulong,
        timeout: *const c_void,
        mask: *const SignalSet,
    ) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn read(descriptor: c_int, bytes: *mut c_void, size: usize) -> isize;
    fn recv(socket: c_int, bytes: *mut c_void, size: usize, flags: c_int) -> isize;
    fn recvmsg(socket: c_int, message: *mut Message, flags: c_int) -> isize;
    #[link_name = "send"]
    fn c_send(socket: c_int, bytes: *const c_void, size: usize, flags: c_int) -> isize;
    fn setrlimit(resource: c_int, limit: *const Limit) -> c_int;
    fn sigemptyset(set: *mut SignalSet) -> c_int;
    fn sigfillset(set: *mut SignalSet) -> c_int;
    fn signal(number: c_int, handler: Handler) -> Handler;
    fn sigprocmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn wait4(pid: c_int, status: *mut c_int, options: c_int, usage: *mut Usage) -> c_int;
    fn waitid(
        kind: c_int,
        id: c_uint,
        information: *mut SignalInformation,
        options: c_int,
    ) -> c_int;
    fn write(descriptor: c_int, bytes: *const c_void, size: usize) -> isize;
}
