//! Where the bad plugins are, and who is left of them.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// The file of one of them.
pub fn file(animal: &str) -> PathBuf {
    root().join("tests/zoo").join(animal)
}

/// What has to be in `PYTHONPATH`.
pub fn sdk() -> PathBuf {
    root().join("sdk/python")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Plugins of one test and all their descendants: a variable of their environment says so.
#[derive(Debug)]
pub struct Herd(String);

impl Herd {
    /// The variable's name.
    pub const VARIABLE: &str = "ZOO";

    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(format!("{}.{count}.{now}", std::process::id()))
    }

    /// That of another process, which has the value in its own environment.
    pub fn of(value: String) -> Self {
        Self(value)
    }

    /// The variable's value.
    pub fn value(&self) -> &str {
        &self.0
    }

    /// Those that are there. Zombies are not: they show no environment.
    pub fn left(&self) -> Vec<i32> {
        self.with("")
    }

    /// Their guardians, which have the variables of their plugins behind a mark.
    pub fn guardians(&self) -> Vec<i32> {
        self.with("+")
    }

    fn with(&self, mark: &str) -> Vec<i32> {
        let variable = format!("{mark}{}={}", Self::VARIABLE, self.0);
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let entry = entry.unwrap();
            let environment = fs::read(entry.path().join("environ")).ok()?;
            let is_ours = environment.split(|&byte| byte == 0).any(|it| it == variable.as_bytes());
            is_ours.then(|| entry.file_name().to_str()?.parse().ok())?
        });
        processes.collect()
    }
}
