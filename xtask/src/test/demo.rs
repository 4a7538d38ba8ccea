//! Runs `plugbus demo` where it can be seen what it leaves behind.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Job, Verdict};

pub(super) fn run(job: &mut Job) -> Result<Verdict> {
    let scratch = Scratch::new("demo")?;
    job.run(
        Command::new(job.root.join("target/release/plugbus"))
            .arg("demo")
            .current_dir(scratch.path())
            .env("TMPDIR", scratch.path())
            .env("XDG_RUNTIME_DIR", scratch.path()),
    )?;
    let mut left = Vec::new();
    for entry in fs::read_dir(scratch.path())? {
        left.push(entry?.file_name().display().to_string());
    }
    Ok(match left.as_slice() {
        [] => Verdict::Passed,
        _ => Verdict::Failed(format!("the demo left behind: {}", left.join(", "))),
    })
}

/// A directory of our own that is gone when this is.
///
/// It lies in the system's directory for temporary files because the path of a socket may have no
/// more than 107 bytes, and nobody knows how deep the repository lies.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(super) fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("plugbus-{name}-{}", std::process::id()));
        // The sockets of a broker want a directory that nobody else can enter.
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            println!("cannot remove {}: {error}", self.path.display());
        }
    }
}
