//! Finds the program of a plugin, and says why it cannot be executed.
//!
//! What the system says is an error number: "no such file" stands for a missing program, a missing
//! interpreter and a missing loader alike. Files are looked at for the words, and so that most
//! starts that cannot succeed are not tried; the last word has the system.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};
use rustix::process::geteuid;
use thiserror::Error;

/// Why a program cannot be executed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// Looked up by name.
    #[error("there is no program {program:?} in PATH ({path})")]
    NotInPath {
        /// The name.
        program: OsString,
        /// Where it was looked for.
        path: String,
    },
    /// Named by its path.
    #[error("there is no file {}", .0.display())]
    NoSuchFile(PathBuf),
    /// The plugin's directory.
    #[error("its directory {} does not exist", .0.display())]
    NoSuchDirectory(PathBuf),
    /// The plugin's directory, for another reason.
    #[error("it cannot use its directory {}: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory on the way to the program is closed to this user.
    #[error(
        "the user of this process, {user}, may not pass through {} (mode {mode:04o}, \
         owner {owner}), where the program is",
        path.display()
    )]
    ClosedDirectory {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Whose it is.
        owner: u32,
        /// As whom this process runs.
        user: u32,
    },
    /// The file system does not execute anything.
    #[error(
        "{} is on a file system that is mounted without permission to execute (noexec): move it, \
         or have its interpreter read it (\"python3 FILE\")",
        .0.display()
    )]
    NoExecMount(PathBuf),
    /// It cannot be executed at all.
    #[error("{} is a directory", .0.display())]
    IsADirectory(PathBuf),
    /// The permission is missing.
    #[error(
        "{} is not executable{} (mode {mode:04o}, owner {owner}): run `chmod +x {}`{}",
        path.display(),
        if owner == user { String::new() } else { format!(" for user {user}") },
        path.display(),
        interpreter_hint(path)
    )]
    NotExecutable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Whose it is.
        owner: u32,
        /// As whom this process runs.
        user: u32,
    },
    /// The first line of a script names something that is not there.
    #[error(
        "{} wants {interpreter:?} to run it, which does not exist{}",
        path.display(),
        carriage_return_hint(interpreter)
    )]
    NoInterpreter {
        /// The script.
        path: PathBuf,
        /// What its first line names.
        interpreter: String,
    },
    /// The loader that a dynamic program names is not there.
    #[error(
        "{} was built for another system: its loader {loader:?} does not exist here",
        path.display()
    )]
    NoLoader {
        /// The program.
        path: PathBuf,
        /// What it names.
        loader: String,
    },
    /// A program for other processors.
    #[error(
        "{} is a program for {found}, this machine is {}",
        path.display(),
        std::env::consts::ARCH
    )]
    WrongArchitecture {
        /// The program.
        path: PathBuf,
        /// What it is for.
        found: String,
    },
    /// Neither program nor script.
    #[error(
        "{} is neither a program nor a script that begins with `#!`{}",
        .0.display(),
        interpreter_hint(.0)
    )]
    NotAProgram(PathBuf),
    /// Anything else that the system says.
    #[error("cannot execute {}: {source}", path.display())]
    System {
        /// The program.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Finds `program` as a shell would, and checks what can be said before it is executed.
pub(crate) fn find(program: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, ProgramError> {
    if program.as_bytes().contains(&b'/') {
        let path = std::path::absolute(program)
            .map_err(|source| ProgramError::System { path: program.into(), source })?;
        return check(&path).map(|()| path);
    }
    let path = path.unwrap_or_else(|| OsStr::new("/usr/local/bin:/usr/bin:/bin"));
    // Like a shell: the first that may be executed wins; one that may not is only the reason.
    let mut reason = None;
    for directory in std::env::split_paths(path).filter(|it| it.is_absolute()) {
        let candidate = directory.join(program);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(ProgramError::NoSuchFile(_) | ProgramError::IsADirectory(_)) => (),
            Err(error) => reason = reason.or(Some(error)),
        }
    }
    Err(reason.unwrap_or_else(|| ProgramError::NotInPath {
        program: program.to_owned(),
        path: path.to_string_lossy().into_owned(),
    }))
}

/// Why `path` cannot be the plugin's directory.
pub(crate) fn explain_directory(path: PathBuf, source: io::Error) -> ProgramError {
    match source.kind() {
        io::ErrorKind::NotFound => ProgramError::NoSuchDirectory(path),
        _ => ProgramError::Directory { path, source },
    }
}

/// Why executing `path`, which [`find`] gave, failed with `error`.
pub(crate) fn explain(path: &Path, error: io::Error) -> ProgramError {
    if let Err(reason) = check(path) {
        return reason;
    }
    let path = path.to_owned();
    if is_denied(&error)
        && let Ok(head) = read_head(&path)
        && let Some(interpreter) = script_interpreter(&head)
        && let Err(reason) = check(Path::new(&interpreter))
    {
        return reason;
    }
    if error.kind() == io::ErrorKind::NotFound
        && let Ok(head) = read_head(&path)
    {
        if let Some(interpreter) = script_interpreter(&head) {
            return ProgramError::NoInterpreter { path, interpreter };
        }
        if let Some(loader) = elf_loader(&head) {
            return ProgramError::NoLoader { path, loader };
        }
    }
    ProgramError::System { path, source: error }
}

fn check(path: &Path) -> Result<(), ProgramError> {
    let owned = || path.to_owned();
    let metadata = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Err(ProgramError::IsADirectory(owned())),
        Ok(metadata) => metadata,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Err(ProgramError::NoSuchFile(owned()));
        }
        Err(source) => {
            let closed = closed_directory(path).filter(|_| is_denied(&source));
            return Err(match closed {
                Some(closed) => closed,
                None => ProgramError::System { path: owned(), source },
            });
        }
    };
    if access(path, Access::EXEC_OK).is_err() {
        let (mode, owner) = permissions(&metadata);
        let mounted_noexec =
            statvfs(path).is_ok_and(|it| it.f_flag.contains(StatVfsMountFlags::NOEXEC));
        return Err(match mounted_noexec && mode & 0o111 != 0 {
            true => ProgramError::NoExecMount(owned()),
            false => ProgramError::NotExecutable { path: owned(), mode, owner, user: user() },
        });
    }
    // What may be executed need not be readable; then the system has the last word.
    let Ok(head) = read_head(path) else { return Ok(()) };
    match elf_machine(&head) {
        Some(machine) if !runs_here(machine) && !emulated() => {
            let found = machine_name(machine)
                .map_or_else(|| format!("the machine with number {machine}"), ToOwned::to_owned);
            Err(ProgramError::WrongArchitecture { path: owned(), found })
        }
        Some(_) => Ok(()),
        None if head.starts_with(b"#!") || has_other_formats() => Ok(()),
        None => Err(ProgramError::NotAProgram(owned())),
    }
}

/// The first directory on the way to `path` through which this user may not go.
fn closed_directory(path: &Path) -> Option<ProgramError> {
    let mut ancestors: Vec<&Path> = path.ancestors().skip(1).collect();
    ancestors.reverse();
    let closed =
        ancestors.into_iter().find(|directory| access(*directory, Access::EXEC_OK).is_err());
    let (mode, owner) = permissions(&fs::metadata(closed?).ok()?);
    Some(ProgramError::ClosedDirectory { path: closed?.to_owned(), mode, owner, user: user() })
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// Mode and owner.
fn permissions(metadata: &fs::Metadata) -> (u32, u32) {
    (metadata.permissions().mode() & 0o7777, metadata.uid())
}

fn user() -> u32 {
    geteuid().as_raw()
}

fn read_head(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(4_096).read_to_end(&mut head)?;
    Ok(head)
}

/// The program that the first line of a script names.
fn script_interpreter(head: &[u8]) -> Option<String> {
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    line.trim_start_matches([' ', '\t']).split([' ', '\t']).next().map(ToOwned::to_owned)
}

/// The machine field of an ELF header, of either byte order.
fn elf_machine(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"\x7fELF")?;
    let machine: [u8; 2] = head.get(18..20)?.try_into().ok()?;
    match rest.get(1) {
        Some(2) => Some(u16::from_be_bytes(machine)),
        _ => Some(u16::from_le_bytes(machine)),
    }
}

/// The loader of a 64-bit little-endian ELF program, where its name is near the beginning.
fn elf_loader(head: &[u8]) -> Option<String> {
    if head.get(4..6) != Some(&[2, 1]) {
        return None;
    }
    let number = |offset: usize, size: usize| {
        let bytes = head.get(offset..offset.checked_add(size)?)?;
        let value = bytes.iter().rev().fold(0_u64, |value, &byte| value << 8 | u64::from(byte));
        usize::try_from(value).ok()
    };
    let (table, entry_size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let entries = (0..count).filter_map(|index| table.checked_add(index.checked_mul(entry_size)?));
    let interpreter = entries.into_iter().find(|&entry| number(entry, 4) == Some(3))?;
    let (offset, size) = (number(interpreter + 8, 8)?, number(interpreter + 32, 8)?);
    let name = head.get(offset..offset.checked_add(size)?)?;
    Some(String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)).into_owned())
}

fn machine_name(machine: u16) -> Option<&'static str> {
    MACHINES.iter().find(|entry| entry.0 == machine).map(|entry| entry.1)
}

fn runs_here(machine: u16) -> bool {
    match (machine_name(machine), std::env::consts::ARCH) {
        (Some("x86"), "x86_64") | (Some("arm"), "aarch64") => true,
        (Some(name), here) => name == here || !MACHINES.iter().any(|entry| entry.1 == here),
        (None, here) => !MACHINES.iter().any(|entry| entry.1 == here),
    }
}

/// Whether the system runs other machines' programs through QEMU.
fn emulated() -> bool {
    other_formats().any(|name| name.as_bytes().starts_with(b"qemu-"))
}

fn has_other_formats() -> bool {
    other_formats().next().is_some()
}

/// Formats beyond the usual that the administrator has taught the kernel.
fn other_formats() -> impl Iterator<Item = OsString> {
    let entries = fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| name != "register" && name != "status")
}

fn interpreter_hint(path: &Path) -> &'static str {
    match path.extension().and_then(OsStr::to_str) {
        Some("py") => ", or put \"python3\" before it in the command",
        Some("js" | "mjs") => ", or put \"node\" before it in the command",
        Some("sh") => ", or put \"sh\" before it in the command",
        _ => "",
    }
}

fn carriage_return_hint(interpreter: &str) -> &'static str {
    if interpreter.ends_with('\r') { ": the file has Windows line ends" } else { "" }
}

const MACHINES: &[(u16, &str)] = &[
    (3, "x86"),
    (20, "powerpc"),
    (21, "powerpc64"),
    (22, "s390x"),
    (40, "arm"),
    (62, "x86_64"),
    (183, "aarch64"),
    (243, "riscv64"),
    (258, "loongarch64"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_and_its_absence_says_where() {
        assert!(find(OsStr::new("sh"), Some(OsStr::new("/usr/bin:/bin"))).unwrap().is_absolute());
        let error = find(OsStr::new("no-such-program"), Some(OsStr::new("/bin"))).unwrap_err();
        assert_eq!(error.to_string(), "there is no program \"no-such-program\" in PATH (/bin)");
    }

    /// Each case: name, content, mode, what the error must contain.
    #[test]
    fn what_cannot_be_executed_says_why() {
        let mut foreign = b"\x7fELF\x02\x01\x01".to_vec();
        foreign.resize(64, 0);
        foreign[18] = if std::env::consts::ARCH == "s390x" { 62 } else { 22 };
        let cases: &[(&str, &[u8], u32, &[&str])] = &[
            ("a.py", b"print()", 0o644, &["not executable", "0644", "chmod +x", "\"python3\""]),
            ("b.py", b"print()", 0o755, &["neither a program nor a script", "\"python3\""]),
            ("c", &foreign, 0o755, &["is a program for", std::env::consts::ARCH]),
        ];
        let place = tempfile::tempdir().unwrap();
        for (name, content, mode, wanted) in cases {
            let path = place.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
            let error = find(path.as_os_str(), None).unwrap_err().to_string();
            assert!(wanted.iter().all(|part| error.contains(part)), "{error}");
        }
        let error = find(place.path().as_os_str(), None).unwrap_err().to_string();
        assert!(error.ends_with("is a directory"), "{error}");
        let error = find(place.path().join("none").as_os_str(), None).unwrap_err().to_string();
        assert!(error.starts_with("there is no file"), "{error}");
    }

    #[test]
    fn our_own_program_is_fit_and_names_its_loader() {
        let path = std::env::current_exe().unwrap();
        let head = read_head(&path).unwrap();
        assert!(runs_here(elf_machine(&head).unwrap()));
        check(&path).unwrap();
        if cfg!(target_env = "gnu") && cfg!(target_pointer_width = "64") {
            assert!(elf_loader(&head).unwrap().contains("ld-linux"));
        }
    }

    #[test]
    fn the_first_line_of_a_script_is_read_as_the_kernel_does() {
        let cases: &[(&[u8], Option<&str>)] = &[
            (b"#!/bin/sh\necho", Some("/bin/sh")),
            (b"#! /usr/bin/env python3\n", Some("/usr/bin/env")),
            (b"#!/bin/sh\r\necho", Some("/bin/sh\r")),
            (b"echo", None),
        ];
        for (head, expected) in cases {
            assert_eq!(script_interpreter(head).as_deref(), *expected);
        }
    }
}
