//! The guardian's program, embedded in this library, as something that can be executed.
//!
//! It lies in a file without a name: in memory where the system lets memory be executed, otherwise
//! on a disk. Made once for the whole process, and gone with it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{Access, MemfdFlags, SealFlags, access, fcntl_add_seals, memfd_create};

/// Where the guardian's program is executed from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum GuardianLevel {
    /// Memory that is sealed: nobody can change it, not even this process.
    SealedMemory,
    /// A file of this user that has lost its name.
    PrivateFile,
}

/// Calls `spawn` with a path that executes the guardian's program.
pub(super) fn run(mut spawn: impl FnMut(PathBuf) -> io::Result<Child>) -> io::Result<Child> {
    let mut image = IMAGE.lock();
    if let Some(image) = &*image {
        return spawn(image.path());
    }
    let refused = match Image::in_memory() {
        Ok(memory) => match spawn(memory.path()) {
            Ok(child) => {
                *image = Some(memory);
                return Ok(child);
            }
            Err(error) if is_refusal(&error) => error,
            Err(error) => return Err(error),
        },
        Err(error) => error,
    };
    log::warn!("programs cannot be executed from memory ({refused}); using a private file");
    let file = Image::on_disk()?;
    let child = patiently(|| spawn(file.path()))?;
    *image = Some(file);
    Ok(child)
}

pub(super) fn level() -> Option<GuardianLevel> {
    IMAGE.lock().as_ref().map(|image| image.level)
}

struct Image {
    file: OwnedFd,
    level: GuardianLevel,
}

impl Image {
    fn in_memory() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = match memfd_create(NAME, flags | MemfdFlags::EXEC) {
            // Before Linux 6.3 there is no such flag, and memory can always be executed.
            Err(rustix::io::Errno::INVAL) => memfd_create(NAME, flags)?,
            memory => memory?,
        };
        let mut memory = File::from(memory);
        memory.write_all(PROGRAM)?;
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        fcntl_add_seals(&memory, seals)?;
        Ok(Self { file: memory.into(), level: GuardianLevel::SealedMemory })
    }

    fn on_disk() -> io::Result<Self> {
        let directories = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let directories = directories.into_iter().chain([
            std::env::temp_dir(),
            "/var/tmp".into(),
            "/dev/shm".into(),
        ]);
        let mut reasons = Vec::new();
        for directory in directories {
            match write_nameless(&directory) {
                Ok(file) => return Ok(Self { file, level: GuardianLevel::PrivateFile }),
                Err(error) => reasons.push(format!("{}: {error}", directory.display())),
            }
        }
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "there is no place from which the guardian's program can be executed ({}); \
                 set TMPDIR to a directory that is not mounted noexec",
                reasons.join("; ")
            ),
        ))
    }

    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

/// Writes the program to a new file that nobody else can open by its name.
fn write_nameless(directory: &Path) -> io::Result<OwnedFd> {
    let path = directory.join(format!(".{NAME}.{}", std::process::id()));
    // Of an earlier process with this number.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => (),
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o700).open(&path)?;
    let prepared = || -> io::Result<File> {
        file.write_all(PROGRAM)?;
        drop(file);
        access(&path, Access::EXEC_OK)?;
        File::open(&path)
    };
    let prepared = prepared();
    fs::remove_file(&path)?;
    Ok(prepared?.into())
}

/// A file that was just written is "busy" as long as a process that was forked meanwhile has a copy
/// of the descriptor, which is until that process executes its own program.
fn patiently(mut spawn: impl FnMut() -> io::Result<Child>) -> io::Result<Child> {
    for _ in 0..1_000 {
        match spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
    spawn()
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound)
}

static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/plugbus-guardian"));

const NAME: &str = "plugbus-guardian";

static IMAGE: Mutex<Option<Image>> = Mutex::new(None);

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What a guardian says that is called by a person.
    const USAGE: i32 = 64;

    #[test]
    fn both_places_can_be_executed() {
        for image in [Image::in_memory().unwrap(), Image::on_disk().unwrap()] {
            let mut child = patiently(|| Command::new(image.path()).spawn()).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(USAGE), "{:?}", image.level);
        }
    }

    #[test]
    fn memory_is_sealed_and_a_file_has_no_name() {
        let memory = Image::in_memory().unwrap();
        assert!(
            File::options()
                .write(true)
                .open(memory.path())
                .and_then(|mut file| { file.write_all(b"other") })
                .is_err()
        );
        let file = Image::on_disk().unwrap();
        let path = fs::read_link(file.path()).unwrap();
        assert!(path.to_string_lossy().ends_with(" (deleted)"), "{}", path.display());
    }
}
